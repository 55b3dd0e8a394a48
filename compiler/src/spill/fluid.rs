//! A step as a flow of bytes: the linear program whose prices make the bound.
//!
//! Reads:    the problem.
//! Decides:  at which tasks room is looked at; which gaps between uses are alike.
//! Promises: any schedule is a flow here, so the least stall of a flow is no more than that of a schedule.
//! Why:      between two of those tasks a lane moves at most its rate times their time and the stall. What idles over the
//!           same of them is one gap. That keeps the program small, and what is merged only lowers the bound.

use super::interior::{Linear, Point};
use super::problem::Problem;
use std::collections::BTreeMap;

/// Tensors that idle at the same looks, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The first look at which it idles, and the first after it at which it does not, counted over two steps.
    pub looks: (usize, usize),
    /// The tier that always holds it.
    pub home: Option<usize>,
    /// A tier may still hold it from before, whichever: leaving costs nothing.
    pub clean: bool,
}

/// A step at a number of looks. A stretch ends with the end of its look's task, and begins with that of the one before.
pub struct Fluid<'p> {
    /// What is bounded.
    pub problem: &'p Problem,
    /// Gaps and their bytes.
    pub gaps: Vec<(Gap, f64)>,
    /// By item and use: which of the gaps follows it, if it idles at a look.
    parts: Vec<Vec<Option<usize>>>,
    /// Bytes alive at each look.
    pub live: Vec<f64>,
    /// Seconds of work in each stretch.
    pub cost: Vec<f64>,
}

/// What a second of moving costs, in seconds of stall: of flows with the same stall, the one that moves least is found.
const MOVE: f64 = 2e-5;

/// What things are worth, by what they are and by look; the stall is bounded whatever they are.
#[derive(Clone, Debug)]
pub struct Prices {
    /// Seconds for a byte of room on the device.
    pub room: Vec<f64>,
    /// By tier below: seconds for a byte of its room.
    pub below: Vec<Vec<f64>>,
    /// By kind of gap and by tier: what keeps the bytes there from being fewer than none.
    pub held: BTreeMap<(Option<usize>, bool), Vec<Vec<f64>>>,
    /// By lane, then by group: part of a second that a second of it is worth; at most one in all.
    pub rate: Vec<Vec<f64>>,
}

/// Where bytes of one kind end up: a tier, reached over lanes or at once.
struct End {
    tier: usize,
    home: Option<usize>,
    clean: bool,
}

/// Rows through which bytes of a gap come to an end and leave it, by look; and the row that counts them once.
struct Doors {
    out: Vec<Option<usize>>,
    back: Vec<Option<usize>>,
    anchor: usize,
}

/// What the program's rows and columns are.
struct Table {
    room: Vec<Option<usize>>,
    below: Vec<Vec<Option<usize>>>,
    /// By lane and then group, by look.
    rate: Vec<Vec<Option<usize>>>,
    /// By end, by look: the column of what is there.
    held: Vec<Vec<usize>>,
}

impl<'p> Fluid<'p> {
    /// A step with so many looks, or fewer.
    pub fn new(problem: &'p Problem, looks_max: usize) -> Fluid<'p> {
        let count = problem.tasks.len();
        let live = problem.live();
        let looks = count.min(looks_max).max(1);
        let first_of = |look: usize| (look * count).div_ceil(looks);
        // Of each run of tasks, the one at which most is alive.
        let peak = |look: usize| (first_of(look)..first_of(look + 1)).max_by_key(|t| live[*t]).unwrap_or(0);
        let peaks: Vec<usize> = (0..looks).map(peak).collect();
        let look_of = |at: usize| at / count * looks + peaks.partition_point(|p| *p < at % count);
        let mut gaps = BTreeMap::new();
        let mut parts = Vec::with_capacity(problem.items.len());
        for item in &problem.items {
            let mut own: Vec<Option<Gap>> = vec![None; item.uses.len()];
            for (i, before) in item.uses.iter().enumerate() {
                let next = match item.uses.get(i + 1) {
                    Some(next) => *next,
                    None if item.lasts => count + item.uses[0],
                    None => continue,
                };
                let (from, to) = (look_of(before + 1), look_of(next));
                if from < to {
                    let looks = (from % looks, from % looks + to - from);
                    let gap = Gap { looks, home: item.home, clean: item.clean[i] };
                    *gaps.entry(gap).or_insert(0u64) += item.bytes;
                    own[i] = Some(gap);
                }
            }
            parts.push(own);
        }
        let gaps: Vec<(Gap, u64)> = gaps.into_iter().collect();
        let at = |gap: Gap| gaps.binary_search_by_key(&gap, |(g, _)| *g).ok();
        let parts = parts.into_iter().map(|own| own.into_iter().map(|gap| gap.and_then(at)).collect());
        let parts = parts.collect();
        let mut cost = vec![0.0; looks];
        for (at, task) in problem.tasks.iter().enumerate() {
            cost[look_of(at) % looks] += task.cost as f64 / 1e9;
        }
        Fluid {
            problem,
            gaps: gaps.into_iter().map(|(gap, bytes)| (gap, bytes as f64)).collect(),
            live: peaks.iter().map(|t| live[*t] as f64).collect(),
            parts,
            cost,
        }
    }

    /// The program, and what is needed to read its prices.
    pub fn program(&self) -> Reading {
        let mut linear = Linear::default();
        let problem = self.problem;
        let (looks, lower) = (self.cost.len(), problem.lower());
        let bytes = problem.groups.iter().max().copied().unwrap_or(1).max(1) as f64;
        let seconds = (self.cost.iter().sum::<f64>() / looks as f64).max(1e-9);
        let bytes = bytes * seconds;
        let alive: f64 = problem.items.iter().map(|i| i.bytes as f64).sum();
        let device = problem.room[0] as f64;
        let room = self.live.iter().map(|live| (*live > device).then(|| linear.row((live - device) / bytes)));
        let room: Vec<Option<usize>> = room.collect();
        room.iter().flatten().for_each(|row| {
            linear.column(0.0, &[(*row, -1.0)]);
        });
        let mut below = vec![Vec::new(); lower + 1];
        for (tier, rows) in below.iter_mut().enumerate().skip(1) {
            let size = problem.room[tier] as f64;
            for _ in 0..looks {
                let row = (size < alive).then(|| linear.row(size / bytes));
                row.iter().for_each(|row| {
                    linear.column(0.0, &[(*row, 1.0)]);
                });
                rows.push(row);
            }
        }
        let rate = self.rates(&mut linear, seconds);
        let table = Table { room, below, rate, held: Vec::new() };
        let mut kinds: Vec<(Option<usize>, bool)> = self.gaps.iter().map(|(g, _)| (g.home, g.clean)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let away = vec![Vec::new(); self.gaps.len()];
        let mut reading = Reading { linear, table, ends: Vec::new(), away, bytes, seconds };
        for (home, clean) in kinds {
            self.kind(&mut reading, home, clean);
        }
        reading
    }

    /// Rows for lanes and groups: what moves in a stretch takes no longer than it does.
    fn rates(&self, linear: &mut Linear, seconds: f64) -> Vec<Vec<Option<usize>>> {
        let problem = self.problem;
        let mut needed: Vec<bool> = problem.lanes.iter().map(|l| l.rate < problem.groups[l.group]).collect();
        needed.extend(problem.groups.iter().map(|_| true));
        let mut rate = vec![vec![None; self.cost.len()]; needed.len()];
        for (look, cost) in self.cost.iter().enumerate() {
            linear.column(1.0, &[]);
            for (rows, _) in rate.iter_mut().zip(&needed).filter(|(_, needed)| **needed) {
                let row = linear.row(cost / seconds);
                linear.entry(row, -1.0);
                rows[look] = Some(row);
            }
            for rows in &rate {
                rows[look].iter().for_each(|row| {
                    linear.column(0.0, &[(*row, 1.0)]);
                });
            }
        }
        rate
    }

    /// Gaps of one kind, where they may go, and how.
    fn kind(&self, reading: &mut Reading, home: Option<usize>, clean: bool) {
        let problem = self.problem;
        let first = reading.ends.len();
        for tier in 1..=problem.lower() {
            let out = home == Some(tier) || clean || self.joined(tier, true);
            if out && self.joined(tier, false) {
                reading.ends.push(End { tier, home, clean });
            }
        }
        let mut rows = Vec::new();
        for end in first..reading.ends.len() {
            rows.push(self.end(reading, end));
        }
        let looks = self.cost.len();
        for (at, (gap, bytes)) in self.gaps.iter().enumerate().filter(|(_, (g, _))| (g.home, g.clean) == (home, clean))
        {
            let all = reading.linear.row(bytes / reading.bytes);
            reading.linear.column(0.0, &[(all, 1.0)]);
            let (from, to) = (gap.looks.0 % looks, gap.looks.1 % looks);
            for (end, Doors { out, back, anchor }) in (first..).zip(&rows) {
                let column = reading.linear.column(0.0, &[(all, 1.0)]);
                reading.away[at].push((reading.ends[end].tier, column));
                out[from].iter().for_each(|row| reading.linear.entry(*row, -1.0));
                back[to].iter().for_each(|row| reading.linear.entry(*row, 1.0));
                // It idles at the first look of a step.
                if gap.looks.0 == 0 || gap.looks.1 > looks {
                    reading.linear.entry(*anchor, -1.0);
                }
            }
        }
    }

    /// Whether lanes lead deeper from the device to a tier, or back.
    fn joined(&self, tier: usize, deeper: bool) -> bool {
        let mut reached = vec![false; tier + 1];
        reached[0] = true;
        for _ in 0..tier {
            for lane in &self.problem.lanes {
                let (from, to) = if deeper { (lane.from, lane.to) } else { (lane.to, lane.from) };
                if from < to && to <= tier && reached[from] {
                    reached[to] = true;
                }
            }
        }
        reached[tier]
    }

    /// One end's rows: where bytes begin to leave by look, where they are back, and the row that counts them once.
    fn end(&self, reading: &mut Reading, at: usize) -> Doors {
        let problem = self.problem;
        let looks = self.cost.len();
        let End { tier, home, clean } = reading.ends[at];
        let free = home == Some(tier) || clean;
        let linear = &mut reading.linear;
        let anchor = linear.row(0.0);
        // What is there; and at each tier on the way: what waits to go on, and what came back early.
        let mut chain = |first: bool| -> Vec<Option<usize>> {
            (0..looks).map(|look| (look > 0 || first).then(|| linear.row(0.0))).collect()
        };
        let held = chain(false);
        let waits: Vec<Vec<Option<usize>>> = (0..tier)
            .map(|f| if free || (f > 0 && !self.joined(f, true)) { vec![None; looks] } else { chain(true) })
            .collect();
        let early: Vec<Vec<Option<usize>>> =
            (0..tier).map(|f| if f > 0 && !self.joined(f, false) { vec![None; looks] } else { chain(true) }).collect();
        let mut columns = Vec::new();
        for look in 0..looks {
            let next = (look + 1) % looks;
            let mut stay = |rows: &[Option<usize>], held_at: usize, counts: bool| {
                if rows.iter().all(Option::is_none) {
                    return None;
                }
                let column = linear.column(0.0, &[]);
                rows[look].iter().for_each(|row| linear.entry(*row, 1.0));
                if looks > 1 {
                    rows[next].iter().for_each(|row| linear.entry(*row, -1.0));
                }
                if look == 0 {
                    linear.entry(anchor, 1.0);
                }
                if held_at > 0 {
                    reading.table.room[look].iter().for_each(|row| linear.entry(*row, 1.0));
                    if counts {
                        reading.table.below[held_at][look].iter().for_each(|row| linear.entry(*row, 1.0));
                    }
                }
                Some(column)
            };
            columns.push(stay(&held, tier, home != Some(tier)).unwrap_or(usize::MAX));
            for (f, (waits, early)) in waits.iter().zip(&early).enumerate() {
                stay(waits, f, true);
                stay(early, f, true);
            }
            for (l, lane) in problem.lanes.iter().enumerate() {
                let deeper = lane.from < lane.to;
                let (near, far) = if deeper { (lane.from, lane.to) } else { (lane.to, lane.from) };
                let rows = if deeper { &waits } else { &early };
                if far > tier || rows[near][look].is_none() || (far < tier && rows[far][look].is_none()) {
                    continue;
                }
                let time = reading.bytes / reading.seconds / lane.rate.max(1) as f64;
                linear.column(time * MOVE, &[]);
                let sign = if deeper { 1.0 } else { -1.0 };
                rows[near][look].iter().for_each(|row| linear.entry(*row, sign));
                let other = if far == tier { held[look] } else { rows[far][look] };
                other.iter().for_each(|row| linear.entry(*row, -sign));
                let takes = |rate: u64| reading.bytes / reading.seconds / rate.max(1) as f64;
                reading.table.rate[l][look].iter().for_each(|row| linear.entry(*row, takes(lane.rate)));
                let group = &reading.table.rate[problem.lanes.len() + lane.group];
                group[look].iter().for_each(|row| linear.entry(*row, takes(problem.groups[lane.group])));
            }
        }
        reading.table.held.push(columns);
        // A row is what is there, less what was, less what came, and what went.
        let out = if free { held.clone() } else { waits[0].clone() };
        Doors { out, back: early[0].clone(), anchor }
    }
}

/// A program and what its rows mean.
pub struct Reading {
    /// The program.
    pub linear: Linear,
    table: Table,
    ends: Vec<End>,
    /// By gap: tiers and the columns of what goes there.
    away: Vec<Vec<(usize, usize)>>,
    bytes: f64,
    seconds: f64,
}

impl Reading {
    /// The prices at a point.
    pub fn prices(&self, fluid: &Fluid, point: &Point) -> Prices {
        let looks = fluid.cost.len();
        let unit = self.seconds / self.bytes;
        let at = |row: &Option<usize>, sign: f64| row.map_or(0.0, |row| (sign * point.price[row]).max(0.0));
        let room = self.table.room.iter().map(|row| at(row, 1.0) * unit).collect();
        let lower = fluid.problem.lower();
        let below = self.table.below.iter().map(|rows| match rows.is_empty() {
            true => vec![0.0; looks],
            false => rows.iter().map(|row| at(row, -1.0) * unit).collect(),
        });
        let below = below.collect();
        let mut held: BTreeMap<(Option<usize>, bool), Vec<Vec<f64>>> = BTreeMap::new();
        for (end, columns) in self.ends.iter().zip(&self.table.held) {
            let tiers = held.entry((end.home, end.clean)).or_insert_with(|| vec![vec![0.0; looks]; lower + 1]);
            let reduced = |c: &usize| point.reduced.get(*c).map_or(0.0, |z| z.max(0.0) * unit);
            tiers[end.tier] = columns.iter().map(reduced).collect();
        }
        let mut rate: Vec<Vec<f64>> =
            self.table.rate.iter().map(|rows| rows.iter().map(|row| at(row, -1.0)).collect()).collect();
        for look in 0..looks {
            let sum: f64 = rate.iter().map(|r| r[look]).sum();
            if sum > 1.0 {
                rate.iter_mut().for_each(|r| r[look] /= sum * (1.0 + 1e-12));
            }
        }
        Prices { room, below, held, rate }
    }

    /// By item, use and tier: the bytes that are to be there in the gap after it.
    pub fn quotas(&self, fluid: &Fluid, point: &Point) -> Vec<Vec<Vec<u64>>> {
        let width = fluid.problem.lower() + 1;
        let share = |at: usize, bytes: u64| {
            let mut to = vec![0; width];
            for (tier, column) in &self.away[at] {
                let part = point.x[*column].max(0.0) * self.bytes / fluid.gaps[at].1;
                to[*tier] = (part.min(1.0) * bytes as f64) as u64;
            }
            to
        };
        let items = fluid.parts.iter().zip(&fluid.problem.items);
        let quotas = items.map(|(parts, item)| {
            parts.iter().map(|at| at.map_or(vec![0; width], |at| share(at, item.bytes))).collect()
        });
        quotas.collect()
    }
}
