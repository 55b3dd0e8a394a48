//! Places the few large buffers before all others.
//!
//! Reads:    the buffers, as if without gaps.
//! Decides:  which are large, and one offset for each of those.
//! Promises: large buffers that are alive together share no byte; offsets are aligned; the work is bounded.
//! Why:      a sweep in order of time finds no hole for a buffer that is a large part of the peak: holes that size are
//!           not left by chance. Largest first, each as low as it may, they leave holes that small ones fill.

use super::Buffer;
use std::cmp::Reverse;

/// Large buffers at most, and pairs of a large one and another that are alive together.
const MOST: usize = 2048;
const PAIRS: u64 = 4_000_000;

/// Those of at least so many bytes, with their offsets; fewer where they are too many.
pub fn large(buffers: &[Buffer], least: u64) -> Vec<(u32, u64)> {
    let mut order: Vec<u32> = (0..buffers.len() as u32).filter(|i| buffers[*i as usize].size >= least).collect();
    order.sort_by_key(|i| (Reverse(buffers[*i as usize].size), *i));
    order.truncate(MOST);
    let mut deaths: Vec<u64> = buffers.iter().map(|b| b.upper).collect();
    deaths.sort_unstable();
    let mut pairs = 0;
    let affordable = order.iter().take_while(|i| {
        let b = &buffers[**i as usize];
        let born = buffers.partition_point(|o| o.lower < b.upper);
        pairs += (born - deaths.partition_point(|d| *d <= b.lower)) as u64;
        pairs <= PAIRS
    });
    order.truncate(affordable.count());
    lowest_first(buffers, &order)
}

/// Each as low as it may lie beside those before it.
fn lowest_first(buffers: &[Buffer], order: &[u32]) -> Vec<(u32, u64)> {
    // In order of address.
    let mut placed: Vec<(u32, u64)> = Vec::new();
    for i in order {
        let b = &buffers[*i as usize];
        let mut at = 0;
        for (j, from) in &placed {
            let other = &buffers[*j as usize];
            if other.lower >= b.upper || b.lower >= other.upper {
                continue;
            }
            if at + b.size <= *from {
                break;
            }
            at = at.max((from + other.size).next_multiple_of(b.alignment));
        }
        let place = placed.partition_point(|(_, from)| *from <= at);
        placed.insert(place, (*i, at));
    }
    placed
}
