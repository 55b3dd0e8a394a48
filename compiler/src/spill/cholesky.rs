//! Factors a sparse symmetric positive matrix, again and again with other values.
//!
//! Reads:    which entries are not zero; then values.
//! Decides:  the order of elimination: least degree first (Tinney and Walker 1967).
//! Promises: the same factor for the same input; a pivot that is not positive counts as infinite, so its unknown is zero.
//! Why:      columns with the same rows below them are kept and used together, as dense blocks (Ashcraft and Grimes 1989).

/// Columns that have the same rows below them.
#[derive(Clone, Debug)]
struct Block {
    /// Its first column, in the order of elimination.
    first: usize,
    width: usize,
    /// Its own columns, then the rows below, ascending.
    rows: Vec<usize>,
    /// Where its values begin: column by column, each as long as `rows`.
    at: usize,
}

/// An order, the blocks that follow from it, and the factor's values.
#[derive(Clone, Debug)]
pub struct Factor {
    /// By row of the matrix: its place in the order.
    place: Vec<usize>,
    blocks: Vec<Block>,
    /// By place: its block.
    block_of: Vec<usize>,
    values: Vec<f64>,
}

impl Factor {
    /// The order and the blocks for a matrix of this size whose entries off the diagonal are in these cliques.
    pub fn new(size: usize, cliques: impl Iterator<Item = Vec<usize>>) -> Factor {
        let words = size.div_ceil(64);
        let mut near = vec![0u64; size * words];
        let mut set = |row: usize, column: usize| near[row * words + column / 64] |= 1 << (column % 64);
        for clique in cliques {
            for a in &clique {
                clique.iter().filter(|b| *b != a).for_each(|b| set(*a, *b));
            }
        }
        let (order, below) = eliminate(size, words, &mut near);
        let mut place = vec![0; size];
        order.iter().enumerate().for_each(|(at, row)| place[*row] = at);
        let mut factor = Factor { place, blocks: Vec::new(), block_of: vec![0; size], values: Vec::new() };
        let mut at = 0;
        for (column, below) in below.iter().enumerate() {
            // It joins the block before if all of that block's rows but itself are its own.
            if let Some(last) = factor.blocks.last_mut()
                && last.rows.len() == below.len() + last.width + 1
                && last.rows.get(last.width).is_some_and(|row| *row == column)
            {
                last.width += 1;
                at += last.rows.len();
                factor.block_of[column] = factor.blocks.len() - 1;
                continue;
            }
            let mut rows: Vec<usize> = below.iter().map(|row| factor.place[*row]).collect();
            rows.push(column);
            rows.sort_unstable();
            factor.block_of[column] = factor.blocks.len();
            let height = rows.len();
            factor.blocks.push(Block { first: column, width: 1, rows, at });
            at += height;
        }
        factor.values = vec![0.0; at];
        factor
    }

    /// Multiplications that one factoring takes, about.
    pub fn work(&self) -> u64 {
        let column = |b: &Block| (0..b.width).map(|c| (b.rows.len() - c) as u64).map(|h| h * h).sum::<u64>();
        self.blocks.iter().map(column).sum()
    }

    /// Where the value of an entry is, for `factor`.
    pub fn position(&self, a: usize, b: usize) -> usize {
        let (column, row) = (self.place[a].min(self.place[b]), self.place[a].max(self.place[b]));
        let block = &self.blocks[self.block_of[column]];
        let at = block.rows.partition_point(|r| *r < row);
        block.at + (column - block.first) * block.rows.len() + at
    }

    /// Values to be filled in at their positions, all zero.
    pub fn clear(&mut self) -> &mut [f64] {
        self.values.fill(0.0);
        &mut self.values
    }

    /// Factors the values that were filled in.
    pub fn factor(&mut self) {
        let count = self.blocks.len();
        // By block: those before it that change it next, each with how many of its rows are done.
        let mut waiting: Vec<Vec<(usize, usize)>> = vec![Vec::new(); count];
        let mut local = vec![0usize; self.place.len()];
        let mut sums: Vec<f64> = Vec::new();
        for at in 0..count {
            let (before, rest) = self.values.split_at_mut(self.blocks[at].at);
            let block = &self.blocks[at];
            let height = block.rows.len();
            let own = &mut rest[..height * block.width];
            block.rows.iter().enumerate().for_each(|(i, row)| local[*row] = i);
            for (source, done) in std::mem::take(&mut waiting[at]) {
                let other = &self.blocks[source];
                let end = done + other.rows[done..].partition_point(|r| *r < block.first + block.width);
                let from = &before[other.at..other.at + other.rows.len() * other.width];
                for column in done..end {
                    sums.clear();
                    sums.resize(other.rows.len() - column, 0.0);
                    multiply(from, other.rows.len(), column, &mut sums);
                    let to = (other.rows[column] - block.first) * height;
                    for (row, sum) in other.rows[column..].iter().zip(&sums) {
                        own[to + local[*row]] -= sum;
                    }
                }
                if let Some(next) = other.rows.get(end) {
                    waiting[self.block_of[*next]].push((source, end));
                }
            }
            dense(own, height, block.width);
            if let Some(next) = block.rows.get(block.width) {
                waiting[self.block_of[*next]].push((at, block.width));
            }
        }
    }

    /// Solves for a right side, in place.
    pub fn solve(&self, right: &mut [f64]) {
        let mut x = vec![0.0; right.len()];
        right.iter().zip(&self.place).for_each(|(r, place)| x[*place] = *r);
        for block in &self.blocks {
            let height = block.rows.len();
            for c in 0..block.width {
                let column = &self.values[block.at + c * height..][..height];
                let value = x[block.first + c] / column[c];
                x[block.first + c] = value;
                block.rows[c + 1..].iter().zip(&column[c + 1..]).for_each(|(row, l)| x[*row] -= l * value);
            }
        }
        for block in self.blocks.iter().rev() {
            let height = block.rows.len();
            for c in (0..block.width).rev() {
                let column = &self.values[block.at + c * height..][..height];
                let sum: f64 = block.rows[c + 1..].iter().zip(&column[c + 1..]).map(|(row, l)| l * x[*row]).sum();
                x[block.first + c] = (x[block.first + c] - sum) / column[c];
            }
        }
        right.iter_mut().zip(&self.place).for_each(|(r, place)| *r = x[*place]);
    }
}

/// Sums over a block's columns of each row's value times that of one row, from that row on.
fn multiply(from: &[f64], height: usize, row: usize, sums: &mut [f64]) {
    let length = sums.len();
    let mut columns = from.chunks_exact(4 * height);
    for four in &mut columns {
        let (a, b) = four.split_at(2 * height);
        let (a, b, c, d) = (&a[row..], &a[height + row..], &b[row..], &b[height + row..]);
        let (a, b, c, d) = (&a[..length], &b[..length], &c[..length], &d[..length]);
        let (p, q, r, s) = (a[0], b[0], c[0], d[0]);
        for i in 0..length {
            sums[i] += a[i] * p + b[i] * q + c[i] * r + d[i] * s;
        }
    }
    for one in columns.remainder().chunks_exact(height) {
        let one = &one[row..];
        let times = one[0];
        sums.iter_mut().zip(one).for_each(|(sum, value)| *sum += value * times);
    }
}

/// Factors the columns of one block, to which all that is before them has been done.
fn dense(values: &mut [f64], height: usize, width: usize) {
    for c in 0..width {
        let (done, rest) = values.split_at_mut(c * height);
        let column = &mut rest[..height];
        for before in done.chunks_exact(height) {
            let times = before[c];
            column[c..].iter_mut().zip(&before[c..]).for_each(|(v, b)| *v -= b * times);
        }
        let pivot = column[c];
        let root = if pivot > 1e-30 { pivot.sqrt() } else { 1e64 };
        column[c] = root;
        column[c + 1..].iter_mut().for_each(|v| *v /= root);
    }
}

/// An order of elimination, and for each in it the rows that are left next to it. `near` has a row of bits for each.
fn eliminate(size: usize, words: usize, near: &mut [u64]) -> (Vec<usize>, Vec<Vec<usize>>) {
    let count = |near: &[u64], row: usize| near[row * words..][..words].iter().map(|w| w.count_ones()).sum::<u32>();
    let mut degree: Vec<u32> = (0..size).map(|row| count(near, row)).collect();
    let mut left: Vec<bool> = vec![true; size];
    let (mut order, mut below) = (Vec::with_capacity(size), Vec::with_capacity(size));
    let mut like: Vec<usize> = Vec::new();
    for _ in 0..size {
        let least = || (0..size).filter(|row| left[*row]).min_by_key(|row| degree[*row]);
        let Some(row) = like.pop().or_else(least) else { break };
        left[row] = false;
        let clique: Vec<u64> = near[row * words..][..words].to_vec();
        let members: Vec<usize> = (0..size).filter(|m| clique[m / 64] >> (m % 64) & 1 == 1).collect();
        for member in &members {
            let bits = &mut near[member * words..][..words];
            bits.iter_mut().zip(&clique).for_each(|(bits, more)| *bits |= more);
            bits[row / 64] &= !(1 << (row % 64));
            bits[member / 64] &= !(1 << (member % 64));
            degree[*member] = count(near, *member);
        }
        // Those with no other neighbours come right after it: they share its block.
        like = members.iter().rev().filter(|m| degree[**m] as usize + 1 == members.len()).copied().collect();
        order.push(row);
        below.push(members);
    }
    (order, below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_solves_what_was_multiplied() {
        // Cliques around a ring, and one across: blocks of one column and of more.
        let size = 23;
        let cliques: Vec<Vec<usize>> =
            (0..size).map(|i| vec![i, (i + 1) % size, (i + 2) % size]).chain([vec![0, 7, 8, 15]]).collect();
        let mut factor = Factor::new(size, cliques.iter().cloned());
        let mut dense = vec![0.0; size * size];
        (0..size).for_each(|i| dense[i * size + i] = 9.0 + i as f64);
        for (n, clique) in cliques.iter().enumerate() {
            for (k, a) in clique.iter().enumerate() {
                for b in &clique[k + 1..] {
                    dense[a * size + b] = 1.0 / (n + 1) as f64;
                    dense[b * size + a] = 1.0 / (n + 1) as f64;
                }
            }
        }
        let positions: Vec<(usize, usize)> = (0..size)
            .flat_map(|a| (0..=a).map(move |b| (a, b)))
            .filter(|(a, b)| dense[a * size + b] != 0.0)
            .map(|(a, b)| (factor.position(a, b), a * size + b))
            .collect();
        let values = factor.clear();
        positions.iter().for_each(|(at, from)| values[*at] = dense[*from]);
        factor.factor();
        let x: Vec<f64> = (0..size).map(|i| (i as f64 - 11.0) / 3.0).collect();
        let row = |i: usize| (0..size).map(|j| dense[i * size + j] * x[j]).sum::<f64>();
        let mut right: Vec<f64> = (0..size).map(row).collect();
        factor.solve(&mut right);
        assert!(right.iter().zip(&x).all(|(a, b)| (a - b).abs() < 1e-9), "{right:?} is not {x:?}");
    }
}
