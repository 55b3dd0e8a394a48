//! Places buffers in the order of time, from the time of the peak outwards.
//!
//! Reads:    the buffers, as if without gaps.
//! Decides:  one offset for each, as low an arena as one pass finds.
//! Promises: buffers alive together share no byte; offsets are aligned; the work is near linear.
//! Why:      what is alive at the peak is stacked without a hole; away from it there is less load, so that there is
//!           room for the holes that best fit leaves.

use super::Buffer;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How what is alive at the first moment is stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// What lives longest lies lowest.
    Width,
    /// What dies last lies lowest.
    Death,
    /// What is born first lies lowest.
    Birth,
    /// The largest lies lowest.
    Size,
}

/// Which hole a buffer goes into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The smallest that holds it.
    Best,
    /// Long lives at the bottom of the smallest, short ones at its top.
    Ends,
}

/// Holes between buffers, below the highest.
#[derive(Debug, Default)]
struct Holes {
    by_start: BTreeMap<u64, u64>,
    by_length: BTreeSet<(u64, u64)>,
    top: u64,
}

/// Holes tried for an alignment before one that is large enough whatever its start.
const TRIES: usize = 8;

impl Holes {
    fn add(&mut self, mut from: u64, mut to: u64) {
        if from == to {
            return;
        }
        if let Some((start, end)) = self.by_start.range(..from).next_back().map(|(s, e)| (*s, *e))
            && end == from
        {
            self.remove(start, end);
            from = start;
        }
        if let Some(end) = self.by_start.get(&to).copied() {
            self.remove(to, end);
            to = end;
        }
        if to == self.top {
            self.top = from;
            return;
        }
        self.by_start.insert(from, to);
        self.by_length.insert((to - from, from));
    }

    fn remove(&mut self, from: u64, to: u64) {
        self.by_start.remove(&from);
        self.by_length.remove(&(to - from, from));
    }

    /// Where so many bytes go; they are taken. the sum of sizes and alignments can be counted.
    fn take(&mut self, size: u64, alignment: u64, high: bool) -> u64 {
        let fits = |(length, from): &(u64, u64)| from.next_multiple_of(alignment) + size <= from + length;
        let near = self.by_length.range((size, 0)..).take(TRIES).find(|hole| fits(hole));
        let sure = || self.by_length.range((size.saturating_add(alignment - 1), 0)..).next();
        if let Some((length, from)) = near.or_else(sure).copied() {
            let to = from + length;
            let last = (to - size) / alignment * alignment;
            let at = if high { last } else { from.next_multiple_of(alignment) };
            self.remove(from, to);
            self.add(from, at);
            self.add(at + size, to);
            return at;
        }
        let under = self.top;
        let at = under.next_multiple_of(alignment);
        self.top = at + size;
        self.add(under, at);
        at
    }
}

/// Places all; the sum of sizes and alignments can be counted.
pub fn sweep(buffers: &[Buffer], moment: u64, stack: Stack, fit: Fit) -> Vec<u64> {
    let mut at = vec![0; buffers.len()];
    let alive = |b: &Buffer| b.lower <= moment && moment < b.upper;
    let mut first: Vec<usize> = (0..buffers.len()).filter(|i| alive(&buffers[*i])).collect();
    first.sort_by_key(|i| {
        let b = &buffers[*i];
        let key = match stack {
            Stack::Width => b.upper - b.lower,
            Stack::Death => b.upper,
            Stack::Birth => u64::MAX - b.lower,
            Stack::Size => b.size,
        };
        (Reverse(key), Reverse(b.size), *i)
    });
    let mut top = 0u64;
    for i in &first {
        at[*i] = top.next_multiple_of(buffers[*i].alignment);
        top = at[*i] + buffers[*i].size;
    }
    let later = |b: &Buffer| (b.lower > moment).then_some((b.lower, b.upper));
    outwards(buffers, &first, &mut at, later, |b| b.upper, fit);
    let earlier = |b: &Buffer| (b.upper <= moment).then_some((u64::MAX - b.upper, u64::MAX - b.lower));
    outwards(buffers, &first, &mut at, earlier, |b| u64::MAX - b.lower, fit);
    at
}

/// Sweeps one way from what is alive at first; `life` says when a buffer begins and ends that way.
fn outwards(
    buffers: &[Buffer],
    first: &[usize],
    at: &mut [u64],
    life: impl Fn(&Buffer) -> Option<(u64, u64)>,
    end: impl Fn(&Buffer) -> u64,
    fit: Fit,
) {
    let mut holes = Holes::default();
    for i in first {
        let under = holes.top;
        holes.top = at[*i] + buffers[*i].size;
        holes.add(under, at[*i]);
    }
    let mut ends: BTreeSet<(u64, usize)> = first.iter().map(|i| (end(&buffers[*i]), *i)).collect();
    let mut order: Vec<(u64, Reverse<u64>, usize, u64)> = (buffers.iter().enumerate())
        .filter_map(|(i, b)| life(b).map(|(from, to)| (from, Reverse(b.size), i, to)))
        .collect();
    order.sort_unstable();
    let mut mean = 0u64;
    for (from, Reverse(size), i, to) in order {
        while let Some((_, j)) = ends.first().copied().filter(|(t, _)| *t <= from) {
            ends.pop_first();
            holes.add(at[j], at[j] + buffers[j].size);
        }
        let width = to - from;
        mean = mean - mean / 64 + width / 64;
        at[i] = holes.take(size, buffers[i].alignment, fit == Fit::Ends && width < mean);
        ends.insert((to, i));
    }
}
