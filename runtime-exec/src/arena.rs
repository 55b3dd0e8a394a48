//! The one block of memory of a tier. All raw memory of the runtime is touched here.
//!
//! Several threads read and write an arena at once. That no two of them meet on the same bytes, unless both read, is
//! what the verifier has proved of the program; this file checks the bounds.

#![allow(unsafe_code, reason = "one block shared by threads under the order that the verifier proved")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Arenas start at a page, so that direct I/O can go straight into them.
pub const PAGE: usize = 4096;

/// A block of memory, zeroed when made. Pages that nothing touches take no room.
#[derive(Debug)]
pub struct Arena {
    start: NonNull<u8>,
    layout: Layout,
    bytes: u64,
}

// SAFETY: an arena is plain memory; who may touch which bytes when is the program's order, proved by the verifier.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

impl Arena {
    /// A block of so many bytes; nothing where the machine has not so much memory.
    pub fn new(bytes: u64) -> Option<Arena> {
        let size = usize::try_from(bytes).ok()?.max(1);
        let layout = Layout::from_size_align(size, PAGE).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Arena { start, layout, bytes })
    }

    /// Bytes of the block.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where a range starts; nothing where it is not inside the block.
    pub fn address(&self, offset: u64, bytes: u64) -> Option<*mut u8> {
        let inside = offset.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        // SAFETY: the offset is inside the block, or just behind it for a range of no bytes.
        inside.then(|| unsafe { self.start.as_ptr().add(offset as usize) })
    }

    /// A range, to be read.
    ///
    /// # Safety
    /// Nothing writes the range while the slice lives.
    pub unsafe fn slice(&self, offset: u64, bytes: u64) -> Option<&[u8]> {
        let start = self.address(offset, bytes)?;
        // SAFETY: inside the block, initialised (zeroed when made); the caller keeps writers away.
        Some(unsafe { std::slice::from_raw_parts(start, bytes as usize) })
    }

    /// A range, to be written.
    ///
    /// # Safety
    /// Nothing else reads or writes the range while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "ranges are handed out by the program's order, not by borrows")]
    pub unsafe fn slice_mut(&self, offset: u64, bytes: u64) -> Option<&mut [u8]> {
        let start = self.address(offset, bytes)?;
        // SAFETY: inside the block, initialised; the caller has the range for itself.
        Some(unsafe { std::slice::from_raw_parts_mut(start, bytes as usize) })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: made by `alloc_zeroed` with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
