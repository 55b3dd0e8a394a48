//! Solves linear programs: the least cost of `x` that is nowhere negative and meets each row, with prices for the rows.
//!
//! Reads:    columns, costs, right sides.
//! Decides:  nothing that anyone has to trust: whoever uses the prices checks what they are worth.
//! Promises: the same prices for the same program, after a limited number of rounds.
//! Why:      a predictor and a corrector along the central path (Mehrotra 1992) need a few dozen rounds, whatever the
//!           program; each factors one sparse matrix.

use super::cholesky::Factor;

/// A linear program.
#[derive(Clone, Debug, Default)]
pub struct Linear {
    /// By row: what its sum must be.
    pub right: Vec<f64>,
    /// By column: its cost.
    pub cost: Vec<f64>,
    /// By column: where its entries begin in `entries`, and their end.
    starts: Vec<usize>,
    entries: Vec<(usize, f64)>,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Point {
    /// By column: how much of it.
    pub x: Vec<f64>,
    /// By row: its price.
    pub price: Vec<f64>,
    /// By column: its cost less what its entries are worth at these prices.
    pub reduced: Vec<f64>,
}

impl Linear {
    /// One more row.
    pub fn row(&mut self, right: f64) -> usize {
        self.right.push(right);
        self.right.len() - 1
    }

    /// One more column.
    pub fn column(&mut self, cost: f64, entries: &[(usize, f64)]) -> usize {
        self.starts.push(self.entries.len());
        self.entries.extend(entries);
        self.cost.push(cost);
        self.cost.len() - 1
    }

    /// One more entry of the last column.
    pub fn entry(&mut self, row: usize, value: f64) {
        self.entries.push((row, value));
    }

    fn of(&self, column: usize) -> &[(usize, f64)] {
        let end = self.starts.get(column + 1).copied().unwrap_or(self.entries.len());
        &self.entries[self.starts[column]..end]
    }

    /// The order of elimination for its rows.
    pub fn order(&self) -> Factor {
        let cliques = (0..self.cost.len()).map(|c| self.of(c).iter().map(|(row, _)| *row).collect());
        Factor::new(self.right.len(), cliques)
    }

    /// `to` and these columns' weighted sum.
    fn times(&self, x: &[f64], to: &mut [f64]) {
        for (column, x) in x.iter().enumerate() {
            self.of(column).iter().for_each(|(row, value)| to[*row] += value * x);
        }
    }

    /// What a column's entries are worth.
    fn worth(&self, column: usize, price: &[f64]) -> f64 {
        self.of(column).iter().map(|(row, value)| value * price[*row]).sum()
    }
}

/// One direction: change of `x`, of the prices, of the reduced costs.
struct Change(Vec<f64>, Vec<f64>, Vec<f64>);

struct Path<'l> {
    linear: &'l Linear,
    factor: Factor,
    /// By column and pair of its entries: where their product goes.
    positions: Vec<usize>,
    x: Vec<f64>,
    price: Vec<f64>,
    reduced: Vec<f64>,
}

/// Follows the path for so many rounds, or until cost and worth are so close.
pub fn solve(linear: &Linear, factor: Factor, rounds: usize, close: f64) -> Point {
    let mut path = Path::new(linear, factor);
    for _ in 0..rounds {
        if path.step(close) {
            break;
        }
    }
    Point { x: path.x, price: path.price, reduced: path.reduced }
}

impl<'l> Path<'l> {
    fn new(linear: &'l Linear, factor: Factor) -> Path<'l> {
        let (rows, columns) = (linear.right.len(), linear.cost.len());
        let mut positions = Vec::new();
        for column in 0..columns {
            let entries = linear.of(column);
            for (i, (a, _)) in entries.iter().enumerate() {
                positions.extend(entries[i..].iter().map(|(b, _)| factor.position(*a, *b)));
            }
        }
        let (x, price, reduced) = (vec![1.0; columns], vec![0.0; rows], vec![1.0; columns]);
        let mut path = Path { linear, factor, positions, x, price, reduced };
        path.begin();
        path
    }

    /// Mehrotra's first point: the nearest that meets the rows, and prices likewise, moved inside.
    fn begin(&mut self) {
        let linear = self.linear;
        let columns = self.x.len();
        self.factorize(&vec![1.0; columns]);
        let mut price = linear.right.clone();
        self.factor.solve(&mut price);
        self.x = (0..columns).map(|c| linear.worth(c, &price)).collect();
        let mut price = vec![0.0; linear.right.len()];
        linear.times(&linear.cost, &mut price);
        self.factor.solve(&mut price);
        self.reduced = (0..columns).map(|c| linear.cost[c] - linear.worth(c, &price)).collect();
        self.price = price;
        let least = |v: &[f64]| v.iter().fold(0.0f64, |least, v| least.max(-1.5 * v)) + 1e-3;
        let (more_x, more_z) = (least(&self.x), least(&self.reduced));
        self.x.iter_mut().for_each(|x| *x += more_x);
        self.reduced.iter_mut().for_each(|z| *z += more_z);
        let gap: f64 = self.x.iter().zip(&self.reduced).map(|(x, z)| x * z).sum();
        let (more_x, more_z) = (0.5 * gap / self.reduced.iter().sum::<f64>(), 0.5 * gap / self.x.iter().sum::<f64>());
        self.x.iter_mut().for_each(|x| *x += more_x);
        self.reduced.iter_mut().for_each(|z| *z += more_z);
    }

    fn factorize(&mut self, weights: &[f64]) {
        let values = self.factor.clear();
        let mut positions = self.positions.iter();
        for (column, weight) in weights.iter().enumerate() {
            let entries = self.linear.of(column);
            for (i, (_, a)) in entries.iter().enumerate() {
                for ((_, b), at) in entries[i..].iter().zip(&mut positions) {
                    values[*at] += a * b * weight;
                }
            }
        }
        self.factor.factor();
    }

    /// The direction to what is missing in rows and reduced costs, and to these products of `x` and reduced costs.
    fn direction(&self, weights: &[f64], rows: &[f64], reduced: &[f64], products: &[f64]) -> Change {
        let linear = self.linear;
        let mut price = rows.to_vec();
        let moved: Vec<f64> =
            (0..self.x.len()).map(|c| weights[c] * reduced[c] - products[c] / self.reduced[c]).collect();
        linear.times(&moved, &mut price);
        self.factor.solve(&mut price);
        let z: Vec<f64> = (0..self.x.len()).map(|c| reduced[c] - linear.worth(c, &price)).collect();
        let x = (0..self.x.len()).map(|c| (products[c] - self.x[c] * z[c]) / self.reduced[c]).collect();
        Change(x, price, z)
    }

    /// One round; says whether it is done.
    fn step(&mut self, close: f64) -> bool {
        let linear = self.linear;
        let count = self.x.len() as f64;
        let minus: Vec<f64> = self.x.iter().map(|x| -x).collect();
        let mut rows = linear.right.clone();
        linear.times(&minus, &mut rows);
        let reduced: Vec<f64> =
            (0..self.x.len()).map(|c| linear.cost[c] - linear.worth(c, &self.price) - self.reduced[c]).collect();
        let products: Vec<f64> = self.x.iter().zip(&self.reduced).map(|(x, z)| x * z).collect();
        let mean = products.iter().sum::<f64>() / count;
        let cost: f64 = self.x.iter().zip(&linear.cost).map(|(x, c)| x * c).sum();
        let worth: f64 = self.price.iter().zip(&linear.right).map(|(p, b)| p * b).sum();
        let most = |v: &[f64]| v.iter().fold(0.0f64, |most, v| most.max(v.abs()));
        if (cost - worth).abs() <= close && most(&rows) < 1e-4 && most(&reduced) < 1e-4 {
            return true;
        }
        let weights: Vec<f64> = self.x.iter().zip(&self.reduced).map(|(x, z)| x / z).collect();
        self.factorize(&weights);
        let aim: Vec<f64> = products.iter().map(|p| -p).collect();
        let first = self.direction(&weights, &rows, &reduced, &aim);
        let (a, b) = (longest(&self.x, &first.0), longest(&self.reduced, &first.2));
        let along = self.x.iter().zip(&first.0).zip(self.reduced.iter().zip(&first.2));
        let reached = along.map(|((x, dx), (z, dz))| (x + a * dx) * (z + b * dz)).sum::<f64>() / count;
        let centre = (reached / mean).powi(3) * mean;
        let pairs = products.iter().zip(first.0.iter().zip(&first.2));
        let aim: Vec<f64> = pairs.map(|(p, (dx, dz))| centre - p - dx * dz).collect();
        let second = self.direction(&weights, &rows, &reduced, &aim);
        let (a, b) = (longest(&self.x, &second.0), longest(&self.reduced, &second.2));
        if !(a * b).is_finite() || a.max(b) < 1e-6 {
            return true;
        }
        let (a, b) = ((a * 0.995).min(1.0), (b * 0.995).min(1.0));
        self.x.iter_mut().zip(&second.0).for_each(|(x, d)| *x += a * d);
        self.price.iter_mut().zip(&second.1).for_each(|(p, d)| *p += b * d);
        self.reduced.iter_mut().zip(&second.2).for_each(|(z, d)| *z += b * d);
        false
    }
}

/// How far one can go before something is negative.
fn longest(from: &[f64], change: &[f64]) -> f64 {
    let ends = from.iter().zip(change).filter(|(_, d)| **d < 0.0).map(|(v, d)| -v / d);
    ends.fold(1.0 / 0.995, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prices_of_a_small_program_are_known() {
        // Least 3a + 2b + c with a + b = 4 and b + c = 3: b is worth its place in both rows, up to 3; then a makes up the rest.
        let mut linear = Linear::default();
        let rows = (linear.row(4.0), linear.row(3.0));
        linear.column(3.0, &[(rows.0, 1.0)]);
        linear.column(2.0, &[(rows.0, 1.0), (rows.1, 1.0)]);
        linear.column(1.0, &[(rows.1, 1.0)]);
        let factor = linear.order();
        let point = solve(&linear, factor, 60, 1e-9);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-5;
        assert!(close(point.x[0], 1.0) && close(point.x[1], 3.0) && close(point.x[2], 0.0), "{point:?}");
        assert!(close(point.price[0], 3.0) && close(point.price[1], -1.0), "{point:?}");
    }
}
