//! A step time that no schedule can beat, whatever it moves.
//!
//! Reads:    the problem.
//! Decides:  how many looks at the memories a step has.
//! Promises: nothing, strict or lenient about when a late task may begin, repeats in less time than the bound.
//! Why:      any prices for room and for lanes bound the stall (weak duality): each byte of each gap, alone, goes the
//!           cheapest way at these prices. Where the prices come from is nobody's business; here, from a linear program.
//!
//! A stretch is from the end of one look's task to the end of the next look's. In each, a lane moves at most its rate times
//! the stretch; at each look, no memory holds more than it can.

use super::fluid::{Fluid, Gap, Prices};
use super::interior::solve;
use super::problem::Problem;

/// Looks at the memories in a step, at most.
const LOOKS_MAX: usize = 600;

/// Rounds of the linear program, at most, and the part of a step that may be left open.
const ROUNDS: usize = 60;
const CLOSE: f64 = 3e-6;

/// Multiplications for one factor, about, at most: with more, fewer looks are made.
const WORK_MAX: u64 = 150_000_000;

/// Rows of the linear program, at most, likewise.
const ROWS_MAX: usize = 12_000;

/// What floats may have rounded up, as a part of all that was added.
const SLIP: f64 = 1e-10;

/// What is known of a step before it is planned.
pub struct Forecast {
    /// Nanoseconds; no schedule repeats in less.
    pub bound: u64,
    /// By item, use and tier: bytes that are there in the gap after that use, where the stall is least.
    pub quotas: Vec<Vec<Vec<u64>>>,
}

/// The bound, and the flow of bytes that it comes from.
pub fn forecast(problem: &Problem) -> Forecast {
    let busy = problem.busy();
    let mut looks = problem.tasks.len().min(LOOKS_MAX);
    loop {
        let fluid = Fluid::new(problem, looks);
        let reading = fluid.program();
        if looks > 1 && reading.linear.right.len() > ROWS_MAX {
            looks = looks * 3 / 4;
            continue;
        }
        let factor = reading.linear.order();
        if looks > 1 && factor.work() > WORK_MAX {
            looks = looks * 3 / 4;
            continue;
        }
        let point = solve(&reading.linear, factor, ROUNDS, CLOSE * looks as f64);
        let stall = value(&fluid, &reading.prices(&fluid, &point));
        let bound = busy.saturating_add((stall.max(0.0) * 1e9) as u64);
        return Forecast { bound, quotas: reading.quotas(&fluid, &point) };
    }
}

/// The least stall in seconds, at these prices, rounded down.
fn value(fluid: &Fluid, prices: &Prices) -> f64 {
    let problem = fluid.problem;
    let mut sums = Sums::default();
    for (price, live) in prices.room.iter().zip(&fluid.live) {
        sums.add(price * (live - problem.room[0] as f64));
    }
    for (tier, below) in prices.below.iter().enumerate().skip(1) {
        below.iter().for_each(|price| sums.add(-price * problem.room[tier] as f64));
    }
    for rate in &prices.rate {
        rate.iter().zip(&fluid.cost).for_each(|(r, cost)| sums.add(-r * cost));
    }
    let mut kinds: Vec<(Option<usize>, bool)> = fluid.gaps.iter().map(|(g, _)| (g.home, g.clean)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for (home, clean) in kinds {
        let ways = Ways::new(fluid, prices, home, clean);
        for (gap, bytes) in fluid.gaps.iter().filter(|(g, _)| (g.home, g.clean) == (home, clean)) {
            sums.add(ways.cheapest(gap).min(0.0) * bytes);
        }
    }
    // Prices without measure, which a program that has no solution may end with, say nothing.
    if sums.size.is_finite() { sums.sum - sums.size * SLIP } else { 0.0 }
}

/// A sum, and that of the sizes of what was added.
#[derive(Default)]
struct Sums {
    sum: f64,
    size: f64,
}

impl Sums {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.size += value.abs();
    }
}

/// What a byte of one kind pays from tier to tier over any run of looks: a tree of tables, each of the cheapest ways.
struct Ways {
    looks: usize,
    width: usize,
    /// By node, first the root, then by tier from and tier to.
    tables: Vec<f64>,
    /// By look: the same for its stretch alone, without its look.
    hops: Vec<f64>,
}

impl Ways {
    fn new(fluid: &Fluid, prices: &Prices, home: Option<usize>, clean: bool) -> Ways {
        let problem = fluid.problem;
        let (looks, width) = (fluid.cost.len(), problem.lower() + 1);
        let size = width * width;
        let leaves = looks.next_power_of_two();
        let mut ways = Ways {
            looks,
            width,
            tables: vec![f64::INFINITY; 2 * leaves * size],
            hops: Vec::with_capacity(looks * size),
        };
        let held = prices.held.get(&(home, clean));
        for look in 0..looks {
            let mut hop = vec![f64::INFINITY; size];
            (0..width).for_each(|tier| hop[tier * width + tier] = 0.0);
            for (l, lane) in problem.lanes.iter().enumerate() {
                let group = prices.rate[problem.lanes.len() + lane.group][look] / problem.groups[lane.group] as f64;
                let fare = prices.rate[l][look] / lane.rate as f64 + group;
                let at = &mut hop[lane.from * width + lane.to];
                *at = at.min(fare);
            }
            for (tier, price) in hop[..width].iter_mut().enumerate().skip(1) {
                if clean || home == Some(tier) {
                    *price = 0.0;
                }
            }
            for by in 0..width {
                for from in 0..width {
                    for to in 0..width {
                        let price = hop[from * width + by] + hop[by * width + to];
                        hop[from * width + to] = hop[from * width + to].min(price);
                    }
                }
            }
            let leaf = &mut ways.tables[(leaves + look) * size..][..size];
            for from in 0..width {
                for to in 0..width {
                    let room = if home == Some(to) { 0.0 } else { prices.below[to][look] };
                    let floor = held.map_or(0.0, |h| h[to][look]);
                    let stay = if to == 0 { 0.0 } else { room - prices.room[look] - floor };
                    leaf[from * width + to] = hop[from * width + to] + stay;
                }
            }
            ways.hops.extend(hop);
        }
        for node in (1..leaves).rev() {
            let (parents, children) = ways.tables.split_at_mut(2 * node * size);
            let (left, right) = children[..2 * size].split_at(size);
            join(width, left, right, &mut parents[node * size..][..size]);
        }
        ways
    }

    /// The least that a byte pays between two uses, from the device and back.
    fn cheapest(&self, gap: &Gap) -> f64 {
        let mut at = vec![f64::INFINITY; self.width];
        at[0] = 0.0;
        let (from, to) = gap.looks;
        self.through(&mut at, from, to.min(self.looks));
        if to > self.looks {
            self.through(&mut at, 0, to - self.looks);
        }
        let hop = &self.hops[to % self.looks * self.width * self.width..];
        at.iter().enumerate().map(|(tier, price)| price + hop[tier * self.width]).fold(f64::INFINITY, f64::min)
    }

    /// Passes looks.
    fn through(&self, at: &mut Vec<f64>, from: usize, to: usize) {
        let size = self.width * self.width;
        let leaves = self.tables.len() / size / 2;
        let (mut low, mut high) = (from + leaves, to + leaves);
        let mut last = Vec::new();
        let mut pass = |node: usize| {
            let table = &self.tables[node * size..][..size];
            let way = |from: usize, to: usize| at[from] + table[from * self.width + to];
            let least = |to: usize| (0..self.width).map(|from| way(from, to)).fold(f64::INFINITY, f64::min);
            *at = (0..self.width).map(least).collect();
        };
        while low < high {
            if low % 2 == 1 {
                pass(low);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                last.push(high);
            }
            (low, high) = (low / 2, high / 2);
        }
        last.into_iter().rev().for_each(pass);
    }
}

/// First one table, then another.
fn join(width: usize, first: &[f64], then: &[f64], to: &mut [f64]) {
    for a in 0..width {
        for b in 0..width {
            let prices = (0..width).map(|by| first[a * width + by] + then[by * width + b]);
            to[a * width + b] = prices.fold(f64::INFINITY, f64::min);
        }
    }
}
