//! How far apart the uses of a tensor are: the time and the tasks between them, and the bytes that pass.
//!
//! Reuse distance in bytes counts distinct tensors (Mattson et al. 1970, stack distance); it is found in one walk, with
//! a tree of sums over the positions (Bennett and Kruskal 1975).

use crate::lifetime::{Lifetimes, TensorId};
use crate::program::Kind;
use crate::units::Nanos;
use serde::{Deserialize, Serialize};

/// The time between two uses of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The tensor.
    pub tensor: TensorId,
    /// Position of the use before it.
    pub after: usize,
    /// Position of the use that ends it; in the next step where it is not behind `after`.
    pub before: usize,
    /// Tasks between the two, neither counted.
    pub tasks: usize,
    /// Bytes of other tensors that tasks in between hold, each tensor once.
    pub bytes: u64,
    /// Time of the tasks in between.
    pub time: Nanos,
}

impl Lifetimes {
    /// The gaps of every tensor that outlives its use: between uses within the step, and, for weights and states, over
    /// the loop edge. By tensor, then by position.
    pub fn gaps(&self) -> Vec<Gap> {
        let count = self.tasks.len();
        let mut gaps = Vec::new();
        for (index, uses) in self.uses().iter().enumerate() {
            let mut add = |after: usize, before: usize| {
                let tasks = (before + count - after - 1) % count;
                gaps.push(Gap { tensor: TensorId(index as u32), after, before, tasks, bytes: 0, time: Nanos(0) });
            };
            uses.windows(2).for_each(|pair| add(pair[0], pair[1]));
            let outlives = matches!(self.tensors[index].kind, Kind::Weight | Kind::State);
            if let (true, Some(first), Some(last)) = (outlives, uses.first(), uses.last()) {
                add(*last, *first);
            }
        }
        self.measure(&mut gaps);
        gaps
    }

    /// Fills in the bytes and times of gaps. Walks the step twice, so that a gap over the loop edge is one interval.
    fn measure(&self, gaps: &mut [Gap]) {
        let count = self.tasks.len();
        let end = |gap: &Gap| gap.after + gap.tasks + 1;
        let mut by_end: Vec<usize> = (0..gaps.len()).collect();
        by_end.sort_unstable_by_key(|index| end(&gaps[*index]));
        let mut ending = by_end.into_iter().peekable();
        // Up to each position: the time before it, and the bytes of the tensors whose latest use it is.
        let mut times = vec![0u128];
        let mut held = Sums::new(2 * count);
        let mut latest: Vec<Option<usize>> = vec![None; self.tensors.len()];
        for now in 0..2 * count {
            while let Some(index) = ending.next_if(|index| end(&gaps[*index]) == now) {
                let gap = &mut gaps[index];
                let own = latest[gap.tensor.index()].filter(|at| *at > gap.after);
                let own = own.map_or(0, |_| u128::from(self.tensor(gap.tensor).bytes));
                let bytes = held.before(now) - held.before(gap.after + 1) - own;
                gap.bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
                gap.time = Nanos(u64::try_from(times[now] - times[gap.after + 1]).unwrap_or(u64::MAX));
            }
            let task = &self.tasks[now % count];
            for t in task.operands() {
                let bytes = u128::from(self.tensor(t).bytes);
                if let Some(at) = latest[t.index()].replace(now) {
                    held.subtract(at, bytes);
                }
                held.add(now, bytes);
            }
            times.push(times[now] + u128::from(task.cost.0));
        }
    }
}

/// A binary indexed tree (Fenwick 1994): sums of the numbers before a position, while the numbers change.
struct Sums(Vec<u128>);

impl Sums {
    fn new(positions: usize) -> Sums {
        Sums(vec![0; positions + 1])
    }

    fn add(&mut self, position: usize, number: u128) {
        self.above(position, |sum| *sum += number);
    }

    fn subtract(&mut self, position: usize, number: u128) {
        self.above(position, |sum| *sum -= number);
    }

    /// Changes each partial sum that the number at this position is part of.
    fn above(&mut self, position: usize, change: impl Fn(&mut u128)) {
        let mut at = position + 1;
        while let Some(sum) = self.0.get_mut(at) {
            change(sum);
            at += at & at.wrapping_neg();
        }
    }

    /// The sum of the numbers before this position.
    fn before(&self, position: usize) -> u128 {
        let (mut at, mut all) = (position, 0);
        while at > 0 {
            all += self.0[at];
            at &= at - 1;
        }
        all
    }
}

/// What a cache of some size beside the tensors in use would catch if it threw out what was used least recently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Bytes of the cache: a power of two, or all that 64 bits hold.
    pub up_to: u64,
    /// Gaps in which no more bytes than these pass.
    pub gaps: u64,
    /// Bytes of the tensors of these gaps, counted once for each gap: what would not be moved again.
    pub tensor_bytes: u64,
}

/// Reuse distances, a row for each power of two from a KiB up to the largest distance; both lists have the same rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Of weights.
    pub weights: Vec<Bucket>,
    /// Of all other tensors.
    pub others: Vec<Bucket>,
}

/// Counts the gaps by the bytes that pass in them. Rows are running sums: each holds the ones above it.
pub fn histogram(lifetimes: &Lifetimes) -> Histogram {
    let mut gaps = lifetimes.gaps();
    gaps.sort_by_key(|gap| gap.bytes);
    let Some(largest) = gaps.last().map(|gap| gap.bytes) else { return Histogram::default() };
    let mut sizes = vec![1 << 10];
    while sizes[sizes.len() - 1] < largest {
        // The last row of all is no power of two: 64 bits hold none above the largest sizes.
        sizes.push(sizes[sizes.len() - 1].saturating_mul(2));
    }
    let rows = |weights: bool| {
        let wanted = |gap: &&Gap| (lifetimes.tensor(gap.tensor).kind == Kind::Weight) == weights;
        let mut left = gaps.iter().filter(wanted).peekable();
        let (mut count, mut tensor_bytes) = (0, 0u64);
        let row = |up_to: &u64| {
            while let Some(gap) = left.next_if(|gap| gap.bytes <= *up_to) {
                count += 1;
                tensor_bytes = tensor_bytes.saturating_add(lifetimes.tensor(gap.tensor).bytes);
            }
            Bucket { up_to: *up_to, gaps: count, tensor_bytes }
        };
        sizes.iter().map(row).collect()
    };
    Histogram { weights: rows(true), others: rows(false) }
}
