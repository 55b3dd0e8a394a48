//! The one block of memory of a tier. All raw memory of the runtime is touched here.
//!
//! Several threads read and write an arena at once. That no two of them meet on the same bytes, unless both read, is
//! what the verifier has proved of the program; this file checks the bounds.

#![allow(unsafe_code, reason = "one block shared by threads under the order that the verifier proved")]

use rustix::mm::Advice;
use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

/// Arenas start at a page, so that direct I/O can go straight into them.
pub const PAGE: usize = 4096;

/// A large page of the processor's. An arena that holds one starts at one and is made of them where the system has some: a
/// read of a MiB then goes to one stretch of physical memory instead of 256, which some disks take twice as long for.
const LARGE: usize = 2 << 20;

/// A block of memory, zeroed when made: all of its pages are there.
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
        let layout = Layout::from_size_align(size, if size < LARGE { PAGE } else { LARGE }).ok()?;
        // SAFETY: the layout's size is not zero.
        let start = NonNull::new(unsafe { alloc(layout) })?;
        if size >= LARGE {
            // Before anything is touched: pages that are there stay as they are. Where it is refused they are small.
            // SAFETY: whole pages of the block; what is in them does not change.
            let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), size / PAGE * PAGE, Advice::LinuxHugepage) };
        }
        // SAFETY: all of the block.
        unsafe { start.write_bytes(0, size) };
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
        // SAFETY: made by `alloc` with this layout, and freed once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_starts_at_a_page_a_larger_one_at_a_large_page_and_all_of_it_is_zero() {
        for bytes in [0, 1, PAGE, LARGE - 1, LARGE, 3 * LARGE + PAGE + 1] {
            // A second one may get memory that the first one left behind.
            for _ in 0..2 {
                let arena = Arena::new(bytes as u64).expect("an arena");
                let start = arena.address(0, bytes as u64).expect("its range");
                assert_eq!(start as usize % if bytes < LARGE { PAGE } else { LARGE }, 0, "{bytes}");
                // SAFETY: nobody else has it.
                let all = unsafe { arena.slice_mut(0, bytes as u64) }.expect("its range");
                assert!(all.iter().all(|byte| *byte == 0), "{bytes}");
                all.fill(1);
            }
        }
    }
}
