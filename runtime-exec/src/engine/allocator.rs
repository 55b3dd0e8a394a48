//! The allocator that ONNX Runtime is given: a run's temporaries lie in the workspace that was planned for it, what a
//! session keeps in its room, and all else on the heap.
#![allow(unsafe_code)] // The library calls it, and it gives out addresses.

use super::ALIGNMENT;
use super::ort::lock;
use super::placement::Placement;
use ::ort::sys;
use std::alloc::Layout;
use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Mutex, MutexGuard};

const ALIGN: usize = ALIGNMENT as usize;

/// Kernels for 64-bit ARM read so many bytes past the end of a quantised operand; the library's own allocator adds them.
const OVERRUN: usize = if cfg!(target_arch = "aarch64") { 30 } else { 0 };

/// Blocks of workspace that a run may hold at once before our table of them has to grow.
const BLOCKS: usize = 1024;

/// What the allocator knows. Blocks of a run lie where `placement` says, in the workspace as far as it reaches and on
/// the heap beyond it; blocks of no run (a session's own) lie on the heap.
pub(super) struct Ledger {
    in_run: bool,
    /// Where blocks go while a session with weights of its own is made.
    making: Option<Making>,
    base: usize,
    limit: usize,
    placement: Placement,
    /// The first request of this run that did not fit.
    first_spill: Option<usize>,
    /// Blocks on the heap by address, with the offset that a run's block would have in the workspace.
    heap: HashMap<usize, (Layout, Option<usize>)>,
}

/// The room of a session that is being made: what fits lies in it, first fit; what does not lies on the heap, with the
/// offset that it would have.
struct Making {
    base: usize,
    limit: usize,
    placement: Placement,
    /// Bytes on the heap, now and at most.
    heap: usize,
    most: usize,
}

/// What one run asked of its workspace.
pub(super) struct Tally {
    pub peak: usize,
    pub first_spill: Option<usize>,
    pub kept: usize,
}

impl Ledger {
    pub fn begin(&mut self, workspace: (*mut u8, usize)) {
        self.placement.clear();
        self.first_spill = None;
        (self.base, self.limit) = (workspace.0 as usize, workspace.1);
        self.in_run = true;
    }

    pub fn end(&mut self) -> Tally {
        self.in_run = false;
        let tally = Tally { peak: self.placement.peak(), first_spill: self.first_spill, kept: self.placement.held() };
        if tally.kept > 0 {
            // A later run must not take these for its own.
            self.heap.values_mut().for_each(|block| block.1 = None);
        }
        tally
    }

    /// From now on blocks are those of a session that is being made.
    pub fn begin_making(&mut self, room: (*mut u8, usize)) {
        let (base, limit) = (room.0 as usize, room.1);
        self.making = Some(Making { base, limit, placement: Placement::default(), heap: 0, most: 0 });
    }

    /// The session is made: where what it keeps ends, whether all of that is in its room, and the most that lay on the heap.
    pub fn end_making(&mut self) -> (usize, bool, usize) {
        let Some(making) = self.making.take() else { return (0, true, 0) };
        let outside = self.heap.values_mut().filter_map(|block| block.1.take()).count();
        (making.placement.end(), outside == 0, making.most)
    }

    fn alloc(&mut self, size: usize) -> *mut c_void {
        if size == 0 {
            return null_mut(); // As the library's own allocator does.
        }
        let padded = size.saturating_add(OVERRUN);
        let (offset, base, limit) = match &mut self.making {
            Some(making) => (making.placement.take(padded, ALIGN), making.base, making.limit),
            None if self.in_run => (self.placement.take(padded, ALIGN), self.base, self.limit),
            None => (None, 0, 0),
        };
        if let Some(offset) = offset
            && padded <= limit.saturating_sub(offset)
        {
            return (base + offset) as *mut c_void;
        }
        if let Some(making) = &mut self.making {
            making.heap = making.heap.saturating_add(padded);
            making.most = making.most.max(making.heap);
        }
        if self.in_run {
            self.first_spill.get_or_insert(size);
        }
        let Ok(layout) = Layout::from_size_align(padded, ALIGN) else {
            // Null would be a wild write in the library. There is no such memory, so this is the same as running out.
            std::alloc::handle_alloc_error(Layout::new::<[u8; ALIGN]>());
        };
        // SAFETY: the layout's size is not zero.
        let block = unsafe { std::alloc::alloc(layout) };
        if block.is_null() {
            std::alloc::handle_alloc_error(layout);
        }
        self.heap.insert(block as usize, (layout, offset));
        block.cast()
    }

    fn free(&mut self, block: *mut c_void) {
        if block.is_null() {
            return;
        }
        let offset = match self.heap.remove(&(block as usize)) {
            Some((layout, offset)) => {
                // SAFETY: the table says that `alloc` gave this block with this layout and that it was not freed since.
                unsafe { std::alloc::dealloc(block.cast(), layout) };
                if let Some(making) = self.making.as_mut().filter(|_| offset.is_some()) {
                    making.heap = making.heap.saturating_sub(layout.size());
                }
                offset
            }
            // A block of the workspace or of a session's room. One that an earlier run kept, or a session that is gone, is
            // none of ours any more, wherever it lies.
            None => {
                let (base, limit) = self.making.as_ref().map_or((self.base, self.limit), |m| (m.base, m.limit));
                (block as usize).checked_sub(base).filter(|offset| *offset < limit)
            }
        };
        let placement = match &mut self.making {
            Some(making) => Some(&mut making.placement),
            None => Some(&mut self.placement).filter(|_| self.in_run),
        };
        if let (Some(offset), Some(placement)) = (offset, placement) {
            placement.give(offset);
        }
    }
}

/// The allocator as the library sees it: its table of functions first, so that a pointer to one is a pointer to both.
#[repr(C)]
pub(super) struct Allocator {
    table: sys::OrtAllocator,
    info: *const sys::OrtMemoryInfo,
    ledger: Mutex<Ledger>,
}

// SAFETY: the table and the memory info are read only once made, by any thread; the ledger is behind its mutex.
unsafe impl Sync for Allocator {}

impl Allocator {
    pub fn new(info: *const sys::OrtMemoryInfo) -> Self {
        // SAFETY: only fills in the version and leaves every function empty.
        let mut table = unsafe { sys::OrtAllocator::default() };
        table.Alloc = Some(alloc);
        table.Free = Some(free);
        table.Info = Some(info_of);
        table.Reserve = Some(reserve);
        let ledger = Ledger {
            in_run: false,
            making: None,
            base: 0,
            limit: 0,
            placement: Placement::with_capacity(BLOCKS),
            first_spill: None,
            heap: HashMap::new(),
        };
        Allocator { table, info, ledger: Mutex::new(ledger) }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

unsafe extern "system" fn alloc(this: *mut sys::OrtAllocator, size: usize) -> *mut c_void {
    // SAFETY: the library passes back the table that was registered, which is the first field of an `Allocator` that
    // outlives the environment; only shared references to it are made.
    let this = unsafe { &*this.cast::<Allocator>().cast_const() };
    lock(&this.ledger).alloc(size)
}

unsafe extern "system" fn reserve(this: *const sys::OrtAllocator, size: usize) -> *mut c_void {
    // SAFETY: as in `alloc`.
    unsafe { alloc(this.cast_mut(), size) }
}

unsafe extern "system" fn free(this: *mut sys::OrtAllocator, block: *mut c_void) {
    // SAFETY: as in `alloc`.
    let this = unsafe { &*this.cast::<Allocator>().cast_const() };
    lock(&this.ledger).free(block);
}

unsafe extern "system" fn info_of(this: *const sys::OrtAllocator) -> *const sys::OrtMemoryInfo {
    // SAFETY: as in `alloc`.
    unsafe { (*this.cast::<Allocator>()).info }
}
