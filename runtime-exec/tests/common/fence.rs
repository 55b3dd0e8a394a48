//! An allocator that counts what is alive and puts a fence on both sides of blocks of whole pages, which arenas are.

#![allow(unsafe_code, reason = "an allocator of the tests around the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of a fence, and the alignment from which a block gets two.
const FENCE: usize = 4096;
/// What fences are made of.
const SIGN: u8 = 0xa5;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);
static BROKEN: AtomicUsize = AtomicUsize::new(0);

/// The allocator. A fence is looked at when its block goes.
pub struct Fenced;

/// Bytes that are alive.
pub fn live() -> usize {
    LIVE.load(Ordering::SeqCst)
}

/// The most that were alive since this was last asked.
pub fn most() -> usize {
    MOST.swap(live(), Ordering::SeqCst)
}

/// Blocks that went with a broken fence.
pub fn broken() -> usize {
    BROKEN.load(Ordering::SeqCst)
}

/// A block with its fences, that before it as wide as it is aligned; nothing where it gets none.
fn wide(layout: Layout) -> Option<Layout> {
    let bytes = layout.size().checked_add(layout.align() + FENCE)?;
    (layout.align() >= FENCE).then(|| Layout::from_size_align(bytes, layout.align()).ok())?
}

// SAFETY: blocks are the system's, or lie inside one of the system's that is larger by what lies around them.
unsafe impl GlobalAlloc for Fenced {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: a layout of the caller's, or a larger one; fences lie inside the larger block.
        let start = unsafe {
            match wide(layout) {
                None => System.alloc(layout),
                Some(wide) => match System.alloc(wide) {
                    start if start.is_null() => start,
                    start => {
                        let start = start.add(layout.align());
                        start.sub(FENCE).write_bytes(SIGN, FENCE);
                        start.add(layout.size()).write_bytes(SIGN, FENCE);
                        start
                    }
                },
            }
        };
        if !start.is_null() {
            let live = LIVE.fetch_add(layout.size(), Ordering::SeqCst) + layout.size();
            MOST.fetch_max(live, Ordering::SeqCst);
        }
        start
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: it was made by `alloc` above, so a wide one has its fences around it.
        unsafe {
            let Some(wide) = wide(layout) else { return System.dealloc(start, layout) };
            let first = std::slice::from_raw_parts(start.sub(FENCE), FENCE);
            let last = std::slice::from_raw_parts(start.add(layout.size()), FENCE);
            if first.iter().chain(last).any(|byte| *byte != SIGN) {
                BROKEN.fetch_add(1, Ordering::SeqCst);
            }
            // Nobody who still reads it finds what was there.
            start.write_bytes(SIGN, layout.size());
            System.dealloc(start.sub(layout.align()), wide);
        }
    }
}

/// Breaks a fence, to see that this is seen: a byte is written directly behind a block, or before it.
pub fn trespass(behind: bool) {
    let layout = Layout::from_size_align(100, FENCE).expect("a layout");
    // SAFETY: the byte lies in a fence, which is part of the block that the system gave.
    unsafe {
        let start = Fenced.alloc(layout);
        let place = if behind { start.add(100) } else { start.sub(1) };
        place.write(0);
        Fenced.dealloc(start, layout);
    }
}
