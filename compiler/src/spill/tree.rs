//! A tree over the positions of a step: add to a range, ask for the maximum of a range.
//!
//! Ranges are of positions counted over all steps; they wrap around the step, and none is longer than a step.

/// Values by position, all operations in the logarithm of the number of positions.
#[derive(Clone, Debug)]
pub struct Tree {
    count: usize,
    leaves: usize,
    /// By node: the maximum below it, with what was added at it and below.
    most: Vec<i64>,
    /// By node: what was added to all below it.
    added: Vec<i64>,
}

impl Tree {
    /// A tree of these values.
    pub fn new(values: &[i64]) -> Tree {
        let count = values.len().max(1);
        let leaves = count.next_power_of_two();
        let mut most = vec![i64::MIN / 4; 2 * leaves];
        most[leaves..leaves + values.len()].copy_from_slice(values);
        for node in (1..leaves).rev() {
            most[node] = most[2 * node].max(most[2 * node + 1]);
        }
        Tree { count, leaves, most, added: vec![0; 2 * leaves] }
    }

    /// Adds to the values at `from..to`.
    pub fn add(&mut self, from: u64, to: u64, amount: i64) {
        let count = self.count;
        for (a, b) in wrapped(count, from, to) {
            self.add_in(1, 0, self.leaves, a, b, amount);
        }
    }

    /// The greatest value at `from..to`; a very small one where the range is empty.
    pub fn max(&self, from: u64, to: u64) -> i64 {
        let parts = wrapped(self.count, from, to);
        parts.into_iter().map(|(a, b)| self.max_in(1, 0, self.leaves, a, b)).max().unwrap_or(i64::MIN / 4)
    }

    /// Gives one position a value.
    pub fn set(&mut self, at: u64, value: i64) {
        let present = self.max(at, at + 1);
        self.add(at, at + 1, value - present);
    }

    fn add_in(&mut self, node: usize, low: usize, high: usize, from: usize, to: usize, amount: i64) {
        if to <= low || high <= from {
            return;
        }
        if from <= low && high <= to {
            self.most[node] += amount;
            self.added[node] += amount;
            return;
        }
        let middle = (low + high) / 2;
        self.add_in(2 * node, low, middle, from, to, amount);
        self.add_in(2 * node + 1, middle, high, from, to, amount);
        self.most[node] = self.most[2 * node].max(self.most[2 * node + 1]) + self.added[node];
    }

    fn max_in(&self, node: usize, low: usize, high: usize, from: usize, to: usize) -> i64 {
        if to <= low || high <= from {
            return i64::MIN / 4;
        }
        if from <= low && high <= to {
            return self.most[node];
        }
        let middle = (low + high) / 2;
        let below = self.max_in(2 * node, low, middle, from, to).max(self.max_in(2 * node + 1, middle, high, from, to));
        below + self.added[node]
    }
}

/// A range of positions over all steps as at most two ranges of one step.
fn wrapped(count: usize, from: u64, to: u64) -> [(usize, usize); 2] {
    if to <= from {
        return [(0, 0), (0, 0)];
    }
    let length = ((to - from) as usize).min(count);
    let start = (from % count as u64) as usize;
    if start + length <= count {
        [(start, start + length), (0, 0)]
    } else {
        [(start, count), (0, start + length - count)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_does_what_a_list_does() {
        let mut list = vec![5i64, -3, 8, 0, 2, 7, -1];
        let mut tree = Tree::new(&list);
        let mut seed = 7u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % below
        };
        for _ in 0..2_000 {
            let from = random(21);
            let to = from + random(8);
            match random(3) {
                0 => {
                    let amount = random(9) as i64 - 4;
                    tree.add(from, to, amount);
                    (from..to).for_each(|i| list[i as usize % 7] += amount);
                }
                1 => {
                    tree.set(from, 3);
                    list[from as usize % 7] = 3;
                }
                _ => {
                    let most = (from..to).map(|i| list[i as usize % 7]).max();
                    assert_eq!(tree.max(from, to), most.unwrap_or(i64::MIN / 4));
                }
            }
        }
    }
}
