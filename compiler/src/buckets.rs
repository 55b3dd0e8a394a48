//! Finds the ranges that meet a range, among many, without looking at all of them.
//!
//! The whole is cut into equal cells; each range is listed in every cell that it touches.

/// Cells that the whole is cut into, at most.
const CELLS: u64 = 1024;

/// Ranges of a whole, by index, listed by cell.
#[derive(Clone, Debug)]
pub struct Buckets {
    cell: u64,
    listed: Vec<Vec<u32>>,
    /// When each range was last found, so that one in several cells is found once.
    seen: Vec<u32>,
    turn: u32,
}

impl Buckets {
    /// For ranges of `0..whole`, with indexes below `count`.
    pub fn new(whole: u64, count: usize) -> Buckets {
        let cell = whole.div_ceil(CELLS).max(1);
        let cells = whole.div_ceil(cell).max(1) as usize;
        Buckets { cell, listed: vec![Vec::new(); cells], seen: vec![0; count], turn: 0 }
    }

    fn cells(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let last = self.listed.len() - 1;
        let first = ((from / self.cell) as usize).min(last);
        let end = (to.saturating_sub(1).max(from) / self.cell) as usize;
        first..end.min(last) + 1
    }

    /// Lists a range that is half open and not empty.
    pub fn insert(&mut self, index: usize, from: u64, to: u64) {
        for cell in self.cells(from, to) {
            self.listed[cell].push(index as u32);
        }
    }

    /// Adds to `found` the ranges in the cells of a range; not all of them need meet it.
    pub fn near(&mut self, ranges: &[(u64, u64)], found: &mut Vec<usize>) {
        self.turn += 1;
        for (from, to) in ranges {
            for cell in self.cells(*from, *to) {
                for index in &self.listed[cell] {
                    let seen = &mut self.seen[*index as usize];
                    if *seen != self.turn {
                        *seen = self.turn;
                        found.push(*index as usize);
                    }
                }
            }
        }
    }
}
