//! A step time that no schedule can beat, whatever it moves: the linear relaxation's dual, at prices found by climbing.
//!
//! Reads:    the problem, a step time that was reached.
//! Decides:  prices by slot: for room on the device (and with each tier more), for lanes and for their groups.
//! Promises: nothing, strict or lenient about when a late task may begin, repeats in less time than the bound.
//! Why:      any prices give a bound (weak duality), so it is sound however the climb went; subgradients with Polyak's
//!           step (1969), which needs a value near the optimum, and the schedule found is one.
//!
//! A slot is from the end of one task to the end of the next. In each, a lane moves at most its rate times the slot. A byte
//! may leave in any slot after the use before and return in any slot up to the next; in between it is paid what room is
//! worth at each task, and pays for the lanes that it takes. Where it leaves later than it returns nobody checks: that only
//! lowers the bound.

use super::problem::Problem;

/// Climbs that are made, each from no prices: slots that tasks are merged to at most (a bound all the same, sooner), steps
/// with Polyak's rule, steps with Adam's. The first finds what a slow tier forces, the second what a fast one does:
/// measured on five training steps with ten sizes of host memory.
const CLIMBS: [(usize, usize, usize); 2] = [(30, 1_000, 1_500), (120, 0, 4_000)];

/// A climb ends when it is so near to what was reached.
const ENOUGH: f64 = 0.9999;

/// Steps without gain after which they get shorter.
const STALE_MAX: usize = 40;

/// Prices: what the bound follows from, and can be checked with.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    /// By tier but the last, by slot: seconds for a byte of room on the device and the tiers down to this one.
    room: Vec<Vec<f64>>,
    /// By lane and then by group, by slot: part of a second that a second of it is worth; at most one in all.
    rate: Vec<Vec<f64>>,
}

/// Tensors that idle over the same slots, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gap {
    /// The first slot in which it may leave, and the last in which it may return.
    slots: (usize, usize),
    /// Slots at whose peaks it idles: half open.
    peaks: (usize, usize),
    home: Option<usize>,
}

impl Gap {
    /// Where its way out begins, in tables with two rows for a slot: before its peak, and behind it.
    fn leaves(&self, width: usize) -> usize {
        (2 * self.slots.0 + usize::from(self.peaks.0 > self.slots.0)) * width
    }

    /// Where its way back ends.
    fn returns(&self, width: usize) -> usize {
        (2 * self.slots.1 + usize::from(self.peaks.1 > self.slots.1)) * width
    }
}

struct Dual<'p> {
    problem: &'p Problem,
    gaps: Vec<(Gap, f64)>,
    live: Vec<f64>,
    rooms: Vec<f64>,
    cost: Vec<f64>,
    /// Lanes by what they do: deeper or back.
    deeper: Vec<usize>,
    back: Vec<usize>,
    /// Seconds that a byte takes on a lane, and on a group.
    lane: Vec<f64>,
    group: Vec<f64>,
    /// By tier but the last: seconds that a byte takes to the tiers below it.
    unit: Vec<f64>,
}

/// The bound in nanoseconds; never more than `reached`, the step of a schedule that was found.
pub fn bound(problem: &Problem, reached: u64) -> u64 {
    let busy = problem.busy();
    if reached <= busy || problem.lower() == 0 {
        return busy;
    }
    let stall = (reached - busy) as f64 / 1e9;
    let climbs = CLIMBS.iter().map(|(slots, polyak, adam)| {
        let dual = Dual::new(problem, *slots);
        let mut best = (0.0, dual.nothing());
        dual.polyak(stall, *polyak, &mut best);
        dual.adam(stall, *adam, &mut best);
        best.0
    });
    let found = climbs.fold(0.0, f64::max);
    // What floats may have rounded up is far below a millionth.
    busy + (found.max(0.0) * (1.0 - 1e-6) * 1e9) as u64
}

impl<'p> Dual<'p> {
    fn new(problem: &'p Problem, slots_max: usize) -> Dual<'p> {
        let count = problem.tasks.len();
        let live = problem.live();
        let slots = count.min(slots_max);
        let slot_of = |at: usize| at / count * slots + (at % count) * slots / count;
        let first_of = |slot: usize| (slot * count).div_ceil(slots);
        // The task of each slot at which most is alive stands for its room.
        let peak = |slot: usize| (first_of(slot)..first_of(slot + 1)).max_by_key(|t| live[*t]).unwrap_or(0);
        let peaks: Vec<usize> = (0..slots).map(peak).collect();
        let first_peak = |at: usize| {
            let slot = slot_of(at);
            slot + usize::from(peaks[slot % slots] < at % count)
        };
        let mut gaps = std::collections::BTreeMap::new();
        for item in &problem.items {
            for (i, before) in item.uses.iter().enumerate() {
                let next = match item.uses.get(i + 1) {
                    Some(next) => *next,
                    None if item.lasts => count + item.uses[0],
                    None => continue,
                };
                let peaks = (first_peak(before + 1), first_peak(next));
                if peaks.1 > peaks.0 {
                    let gap = Gap { slots: (slot_of(before + 1), slot_of(next)), peaks, home: item.home };
                    *gaps.entry(gap).or_insert(0u64) += item.bytes;
                }
            }
        }
        let mut sum = 0.0;
        let rooms = problem.room[..problem.lower()].iter().map(|r| {
            sum += *r as f64;
            sum
        });
        let cost = |from: usize, to: usize| problem.tasks[from..to].iter().map(|t| t.cost as f64 / 1e9).sum();
        let way = |deeper: bool| {
            let lanes = problem.lanes.iter().enumerate().filter(|(_, l)| (l.to > l.from) == deeper);
            lanes.map(|(l, _)| l).collect::<Vec<usize>>()
        };
        let unit = (0..problem.lower()).map(|tier| {
            let beyond =
                problem.lanes.iter().filter(|l| l.to > tier && l.from <= tier || l.from > tier && l.to <= tier);
            1.0 / beyond.map(|l| l.rate).max().unwrap_or(1) as f64
        });
        Dual {
            gaps: gaps.into_iter().map(|(gap, bytes)| (gap, bytes as f64)).collect(),
            live: peaks.iter().map(|t| live[*t] as f64).collect(),
            rooms: rooms.collect(),
            cost: (0..slots).map(|s| cost(first_of(s), first_of(s + 1))).collect(),
            deeper: way(true),
            back: way(false),
            lane: problem.lanes.iter().map(|l| 1.0 / l.rate as f64).collect(),
            group: problem.groups.iter().map(|g| 1.0 / *g as f64).collect(),
            unit: unit.collect(),
            problem,
        }
    }

    /// No prices.
    fn nothing(&self) -> Prices {
        let (count, rates) = (self.cost.len(), self.lane.len() + self.group.len());
        Prices { room: vec![vec![0.0; count]; self.problem.lower()], rate: vec![vec![0.0; count]; rates] }
    }

    /// Climbs by Adam's steps (Kingma and Ba 2015), which shrink. Each price has its own: those of room come in spikes.
    fn adam(&self, reached: f64, rounds: usize, best: &mut (f64, Prices)) {
        let mut prices = best.1.clone();
        let (mut mean, mut square) = (self.nothing(), self.nothing());
        let (keep, keep_square): (f64, f64) = (0.9, 0.99);
        let (first, last): (f64, f64) = (if best.0 > 0.0 { 0.02 } else { 0.1 }, 0.0005);
        for round in 0..rounds {
            let (value, slope) = self.value(&prices);
            if value > best.0 {
                *best = (value, prices.clone());
            }
            if value >= reached * ENOUGH {
                break;
            }
            let rate = first * (last / first).powf(round as f64 / rounds as f64);
            let fresh = (1.0 - keep.powi(round as i32 + 1), 1.0 - keep_square.powi(round as i32 + 1));
            let all = prices.room.iter_mut().chain(&mut prices.rate);
            let means = mean.room.iter_mut().chain(&mut mean.rate);
            let squares = square.room.iter_mut().chain(&mut square.rate);
            let slopes = slope.room.iter().chain(&slope.rate);
            for (((prices, means), squares), slopes) in all.zip(means).zip(squares).zip(slopes) {
                for (((p, m), q), g) in prices.iter_mut().zip(means).zip(squares).zip(slopes) {
                    *m = keep * *m + (1.0 - keep) * g;
                    *q = keep_square * *q + (1.0 - keep_square) * g * g;
                    *p += rate * (*m / fresh.0) / ((*q / fresh.1).sqrt() + 1e-9);
                }
            }
            project(&mut prices);
        }
    }

    /// Climbs by Polyak's steps, turned away from zigzags (Camerini, Fratta and Maffioli 1975); shorter where they stop
    /// gaining, from the best so far.
    fn polyak(&self, reached: f64, rounds: usize, best: &mut (f64, Prices)) {
        let mut prices = best.1.clone();
        let mut direction: Option<Prices> = None;
        let (mut stale, mut pace) = (0, 1.0);
        for _ in 0..rounds {
            let (value, mut next) = self.value(&prices);
            stale = if value > best.0 * 1.0001 { 0 } else { stale + 1 };
            if value > best.0 {
                *best = (value, prices.clone());
            }
            if stale > STALE_MAX {
                (pace, stale) = (pace * 0.7, 0);
                if best.0 > 0.0 {
                    (prices, direction) = (best.1.clone(), None);
                    continue;
                }
            }
            if let Some(before) = &direction {
                let across = dot(before, &next);
                if across < 0.0 {
                    let weight = -1.5 * across / dot(before, before);
                    add(&mut next, before, weight);
                }
            }
            let norm = dot(&next, &next);
            if norm == 0.0 || value >= reached * ENOUGH {
                break;
            }
            add(&mut prices, &next, pace * (reached - value) / norm);
            project(&mut prices);
            direction = Some(next);
        }
    }

    /// The bound on the stall at these prices, in seconds, and its slope.
    fn value(&self, prices: &Prices) -> (f64, Prices) {
        let count = self.cost.len();
        let lower = self.problem.lower();
        let lanes = self.lane.len();
        let at = |s: usize| if s >= count { s - count } else { s };
        let mut slope = Prices { room: vec![Vec::new(); lower], rate: Vec::new() };
        let mut value = 0.0;
        for (tier, room) in prices.room.iter().enumerate() {
            slope.room[tier] = self.live.iter().map(|l| (l - self.rooms[tier]) * self.unit[tier]).collect();
            value += room.iter().zip(&slope.room[tier]).map(|(price, s)| price * s).sum::<f64>();
        }
        for rate in &prices.rate {
            value -= rate.iter().zip(&self.cost).map(|(r, c)| r * c).sum::<f64>();
            slope.rate.push(self.cost.iter().map(|c| -c).collect());
        }
        // What a byte pays on a lane in a slot.
        let fare = |lane: usize, slot: usize| {
            let group = self.problem.lanes[lane].group;
            prices.rate[lane][slot] * self.lane[lane] + prices.rate[lanes + group][slot] * self.group[group]
        };
        let fares: Vec<Vec<f64>> = (0..lanes).map(|l| (0..count).map(|s| fare(l, s)).collect()).collect();
        // What a byte that is in a tier is paid, by tier and slot, and sums of it from the start of two steps.
        let mut paid = vec![vec![0.0; count]; lower + 1];
        let mut sums = vec![vec![0.0; 2 * count + 1]; lower + 1];
        for tier in 1..=lower {
            let (room, unit) = (&prices.room[tier - 1], self.unit[tier - 1]);
            paid[tier] = paid[tier - 1].iter().zip(room).map(|(paid, room)| paid + room * unit).collect();
            for slot in 0..2 * count {
                sums[tier][slot + 1] = sums[tier][slot] + paid[tier][at(slot)];
            }
        }
        let ways: Vec<Way> = (1..=lower).map(|tier| self.way(tier, &fares, &paid)).collect();
        let mut masses: Vec<[Vec<f64>; 2]> =
            ways.iter().map(|w| [vec![0.0; w.out.len()], vec![0.0; w.back.len()]]).collect();
        let mut beyond = vec![vec![0.0; 2 * count + 1]; lower + 1];
        let width = lower + 1;
        for (gap, bytes) in &self.gaps {
            let mut best = (0.0, 0);
            for tier in 1..=lower {
                let out = if gap.home == Some(tier) { 0.0 } else { ways[tier - 1].out[gap.leaves(width)] };
                let back = ways[tier - 1].back[gap.returns(width)];
                let profit = sums[tier][gap.peaks.1] - sums[tier][gap.peaks.0] - out - back;
                if profit > best.0 {
                    best = (profit, tier);
                }
            }
            let (profit, tier) = best;
            if tier == 0 {
                continue;
            }
            value -= profit * bytes;
            beyond[tier][gap.peaks.0] += bytes;
            beyond[tier][gap.peaks.1] -= bytes;
            if gap.home != Some(tier) {
                masses[tier - 1][0][gap.leaves(width)] += bytes;
            }
            masses[tier - 1][1][gap.returns(width)] += bytes;
        }
        for (tier, (way, [out, back])) in (1..).zip(ways.iter().zip(&mut masses)) {
            self.push(tier, way, out, back, &mut slope, &mut beyond);
        }
        for (tier, beyond) in beyond.iter().enumerate().skip(1) {
            let mut away = 0.0;
            for (slot, change) in beyond[..2 * count].iter().enumerate() {
                away += change;
                for (room, unit) in slope.room[..tier].iter_mut().zip(&self.unit) {
                    room[at(slot)] -= away * unit;
                }
            }
        }
        (value, slope)
    }

    /// The cheapest ways into a tier and back, from every slot on.
    fn way(&self, tier: usize, fares: &[Vec<f64>], paid: &[Vec<f64>]) -> Way {
        let count = self.cost.len();
        let width = self.problem.lower() + 1;
        let rows = 4 * count;
        let at = |row: usize| row / 2 % count;
        let none = || (vec![f64::INFINITY; rows * width], vec![WAIT; rows * width]);
        let ((out, out_by), (back, back_by)) = (none(), none());
        let mut way = Way { out, out_by, back, back_by };
        for row in (0..rows).rev() {
            way.out[row * width + tier] = 0.0;
            // From the deepest up: a lane leads deeper.
            for from in (0..tier).rev() {
                // Before the peak, to wait is to miss its pay.
                let lost = if row % 2 == 0 { paid[tier][at(row)] - paid[from][at(row)] } else { 0.0 };
                let later = if row + 1 < rows { way.out[(row + 1) * width + from] } else { f64::INFINITY };
                let mut best = (later + lost, WAIT);
                for lane in self.deeper.iter().filter(|l| self.problem.lanes[**l].from == from) {
                    let to = self.problem.lanes[*lane].to;
                    let price = fares[*lane][at(row)] + way.out[row * width + to];
                    if to <= tier && price < best.0 {
                        best = (price, *lane);
                    }
                }
                (way.out[row * width + from], way.out_by[row * width + from]) = best;
            }
        }
        for row in 0..rows {
            way.back[row * width + tier] = 0.0;
            for to in (0..tier).rev() {
                // Back before the peak misses its pay.
                let lost = if row % 2 == 1 { paid[tier][at(row)] - paid[to][at(row)] } else { 0.0 };
                let earlier = if row > 0 { way.back[(row - 1) * width + to] } else { f64::INFINITY };
                let mut best = (earlier + lost, WAIT);
                for lane in self.back.iter().filter(|l| self.problem.lanes[**l].to == to) {
                    let from = self.problem.lanes[*lane].from;
                    let price = fares[*lane][at(row)] + way.back[row * width + from];
                    if from <= tier && price < best.0 {
                        best = (price, *lane);
                    }
                }
                (way.back[row * width + to], way.back_by[row * width + to]) = best;
            }
        }
        way
    }

    /// Sends bytes along the cheapest ways, into the slope.
    fn push(
        &self,
        tier: usize,
        way: &Way,
        out: &mut [f64],
        back: &mut [f64],
        slope: &mut Prices,
        beyond: &mut [Vec<f64>],
    ) {
        let count = self.cost.len();
        let width = self.problem.lower() + 1;
        let rows = 4 * count;
        let mut flow = |lane: usize, row: usize, bytes: f64| {
            let (group, slot) = (self.problem.lanes[lane].group, row / 2 % count);
            slope.rate[lane][slot] += bytes * self.lane[lane];
            slope.rate[self.lane.len() + group][slot] += bytes * self.group[group];
        };
        // Bytes that are not yet, or no longer, in the tier at a slot's peak.
        let mut short = |held: usize, row: usize, bytes: f64| {
            let slot = row / 2;
            beyond[tier][slot] -= bytes;
            beyond[tier][slot + 1] += bytes;
            beyond[held][slot] += bytes;
            beyond[held][slot + 1] -= bytes;
        };
        for row in 0..rows {
            for from in 0..tier {
                let bytes = out[row * width + from];
                if bytes == 0.0 {
                    continue;
                }
                let lane = way.out_by[row * width + from];
                if lane != WAIT {
                    flow(lane, row, bytes);
                    out[row * width + self.problem.lanes[lane].to] += bytes;
                    continue;
                }
                if row % 2 == 0 {
                    short(from, row, bytes);
                }
                if row + 1 < rows {
                    out[(row + 1) * width + from] += bytes;
                }
            }
        }
        for row in (0..rows).rev() {
            for to in 0..tier {
                let bytes = back[row * width + to];
                if bytes == 0.0 {
                    continue;
                }
                let lane = way.back_by[row * width + to];
                if lane != WAIT {
                    flow(lane, row, bytes);
                    back[row * width + self.problem.lanes[lane].from] += bytes;
                    continue;
                }
                if row % 2 == 1 {
                    short(to, row, bytes);
                }
                if row > 0 {
                    back[(row - 1) * width + to] += bytes;
                }
            }
        }
    }
}

/// No lane: it stays where it is for one more slot.
const WAIT: usize = usize::MAX;

/// The cheapest ways of a byte into one tier and back: by slot of two steps and by tier, price and first lane.
struct Way {
    out: Vec<f64>,
    out_by: Vec<usize>,
    back: Vec<f64>,
    back_by: Vec<usize>,
}

fn dot(a: &Prices, b: &Prices) -> f64 {
    let pairs = a.room.iter().chain(&a.rate).zip(b.room.iter().chain(&b.rate));
    pairs.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>()).sum()
}

fn add(to: &mut Prices, what: &Prices, times: f64) {
    let pairs = to.room.iter_mut().chain(&mut to.rate).zip(what.room.iter().chain(&what.rate));
    for (to, what) in pairs {
        to.iter_mut().zip(what).for_each(|(to, what)| *to += what * times);
    }
}

/// To the nearest prices that are allowed: none negative, a slot's rates worth at most one together.
fn project(prices: &mut Prices) {
    for room in &mut prices.room {
        room.iter_mut().for_each(|p| *p = p.max(0.0));
    }
    let slots = prices.rate.first().map_or(0, Vec::len);
    let mut sorted = Vec::new();
    for slot in 0..slots {
        prices.rate.iter_mut().for_each(|r| r[slot] = r[slot].max(0.0));
        let sum: f64 = prices.rate.iter().map(|r| r[slot]).sum();
        if sum <= 1.0 {
            continue;
        }
        sorted.clear();
        sorted.extend(prices.rate.iter().map(|r| r[slot]));
        sorted.sort_by(|a, b| b.total_cmp(a));
        let (mut sum, mut less) = (0.0, 0.0);
        for (n, p) in sorted.iter().enumerate() {
            sum += p;
            let cut = (sum - 1.0) / (n + 1) as f64;
            if *p > cut {
                less = cut;
            }
        }
        prices.rate.iter_mut().for_each(|r| r[slot] = (r[slot] - less).max(0.0));
    }
}
