//! The least peak of all orders, found slowly and plainly: all sets of tasks that can be done first, the one that was
//! reached with the least peak first. It shares no line with what it is compared with.

use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::Kind;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Most tasks: the bits of a set.
pub const TASKS_MAX: usize = 128;

/// What a search found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// The least peak of all orders.
    Least(u64),
    /// No order has a lower peak than this; there were too many sets to say more.
    AtLeast(u64),
}

/// Sets are spread by one multiplication: they are many, and nobody chooses them in bad faith.
#[derive(Default)]
pub struct Spread(u64);

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 ^= self.0 >> 29;
    }

    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// For each task, those that must stay before it: they share a tensor that one of the two writes.
pub fn needs(all: &Lifetimes) -> Vec<u128> {
    let shares = |a: &Task, b: &Task| {
        let writes = |x: &Task, y: &Task| x.writes.iter().any(|w| y.reads.contains(w) || y.writes.contains(w));
        writes(a, b) || writes(b, a)
    };
    let tasks = &all.tasks;
    let before = |n: usize| (0..n).filter(|m| shares(&tasks[*m], &tasks[n])).fold(0, |bits, m| bits | 1 << m);
    (0..tasks.len()).map(before).collect()
}

/// Bytes of each tensor that is neither a weight nor a state, and the set of its users.
fn users(all: &Lifetimes) -> Vec<(u64, u128)> {
    let held = |(_, t): &(u32, &Tensor)| !matches!(t.kind, Kind::Weight | Kind::State);
    let uses = |id: TensorId| {
        let users = all.tasks.iter().enumerate().filter(|(_, task)| task.operands().any(|o| o == id));
        users.fold(0u128, |bits, (n, _)| bits | 1 << n)
    };
    (0u32..).zip(&all.tensors).filter(held).map(|(n, t)| (t.bytes, uses(TensorId(n)))).filter(|t| t.1 != 0).collect()
}

/// The least peak of all orders, looking at no more than so many sets; nothing where there are too many tasks. Orders with
/// a peak above `limit` are of no interest: what some order is known to hold.
pub fn least(all: &Lifetimes, limit: u64, sets_max: usize) -> Option<Exact> {
    let n = all.tasks.len();
    if n > TASKS_MAX {
        return None;
    }
    let (needs, users) = (needs(all), users(all));
    let of = |task: usize| users.iter().filter(|(_, users)| users >> task & 1 == 1).copied().collect();
    let operands: Vec<Vec<(u64, u128)>> = (0..n).map(of).collect();
    let everything = if n == TASKS_MAX { u128::MAX } else { (1 << n) - 1 };
    let mut seen: HashSet<u128, BuildHasherDefault<Spread>> = HashSet::default();
    // States are there throughout.
    let states = all.total(Kind::State);
    let mut open = BinaryHeap::from([(Reverse(0u64), 0u32, 0u128, states)]);
    while let Some((Reverse(peak), count, done, live)) = open.pop() {
        if done == everything {
            return Some(Exact::Least(peak));
        }
        if !seen.insert(done) {
            continue;
        }
        if seen.len() > sets_max {
            return Some(Exact::AtLeast(peak));
        }
        let mut next = Vec::new();
        for task in (0..n).filter(|t| done >> t & 1 == 0 && needs[*t] & !done == 0) {
            let then = done | 1 << task;
            let fresh = operands[task].iter().filter(|(_, users)| users & done == 0);
            let held = live + fresh.map(|(bytes, _)| bytes).sum::<u64>();
            let over = operands[task].iter().filter(|(_, users)| users & !then == 0);
            let after = held - over.map(|(bytes, _)| bytes).sum::<u64>();
            let peak = peak.max(held + all.tasks[task].workspace);
            next.push((Reverse(peak), count + 1, then, after));
        }
        // What neither lifts the peak nor leaves more can come first: whatever else is done holds no more after it.
        if let Some(free) = next.iter().position(|(then, _, _, after)| then.0 == peak && *after <= live) {
            next = vec![next[free]];
        }
        open.extend(next.into_iter().filter(|(then, _, set, _)| then.0 <= limit && !seen.contains(set)));
    }
    unreachable!("some order has no peak above the limit")
}
