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

/// Climbs that are made.
const ROUNDS: usize = 3_000;

/// Prices: what the bound follows from, and can be checked with.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    /// By tier but the last, by slot: seconds for a byte of room on the device and the tiers down to this one.
    room: Vec<Vec<f64>>,
    /// By lane and then by group, by slot: part of a second that a second of it is worth; at most one in all.
    rate: Vec<Vec<f64>>,
}

/// Tensors that idle over the same slots, together.
struct Gap {
    from: usize,
    to: usize,
    bytes: f64,
    home: Option<usize>,
}

struct Dual<'p> {
    problem: &'p Problem,
    gaps: Vec<Gap>,
    live: Vec<f64>,
    rooms: Vec<f64>,
    cost: Vec<f64>,
    /// Lanes by what they do: deeper or back.
    deeper: Vec<usize>,
    back: Vec<usize>,
    /// Seconds that a byte takes on a lane, and on a group.
    lane: Vec<f64>,
    group: Vec<f64>,
    unit: f64,
}

/// The bound in nanoseconds; never more than `reached`, the step of a schedule that was found.
pub fn bound(problem: &Problem, reached: u64) -> u64 {
    let busy = problem.busy();
    if reached <= busy || problem.lower() == 0 {
        return busy;
    }
    let dual = Dual::new(problem);
    let stall = (reached - busy) as f64 / 1e9;
    let (found, _) = dual.climb(stall);
    // What floats may have rounded up is far below a millionth.
    busy + (found.max(0.0) * (1.0 - 1e-6) * 1e9) as u64
}

impl<'p> Dual<'p> {
    fn new(problem: &'p Problem) -> Dual<'p> {
        let count = problem.tasks.len();
        let mut gaps = std::collections::BTreeMap::new();
        for item in &problem.items {
            for (i, from) in item.uses.iter().enumerate() {
                let to = match item.uses.get(i + 1) {
                    Some(next) => *next,
                    None if item.lasts => count + item.uses[0],
                    None => continue,
                };
                if to > from + 1 {
                    *gaps.entry((from + 1, to, item.home)).or_insert(0u64) += item.bytes;
                }
            }
        }
        let gaps = gaps.into_iter().map(|((from, to, home), bytes)| Gap { from, to, bytes: bytes as f64, home });
        let mut sum = 0.0;
        let rooms = problem.room[..problem.lower()].iter().map(|r| {
            sum += *r as f64;
            sum
        });
        let way = |deeper: bool| {
            let lanes = problem.lanes.iter().enumerate().filter(|(_, l)| (l.to > l.from) == deeper);
            lanes.map(|(l, _)| l).collect::<Vec<usize>>()
        };
        let fastest = problem.groups.iter().copied().max().unwrap_or(1);
        Dual {
            gaps: gaps.collect(),
            live: problem.live().iter().map(|l| *l as f64).collect(),
            rooms: rooms.collect(),
            cost: problem.tasks.iter().map(|t| t.cost as f64 / 1e9).collect(),
            deeper: way(true),
            back: way(false),
            lane: problem.lanes.iter().map(|l| 1.0 / l.rate as f64).collect(),
            group: problem.groups.iter().map(|g| 1.0 / *g as f64).collect(),
            unit: 1.0 / fastest as f64,
            problem,
        }
    }

    /// Climbs from no prices at all; the best value, in seconds of stall, and its prices.
    fn climb(&self, reached: f64) -> (f64, Prices) {
        let count = self.cost.len();
        let lower = self.problem.lower();
        let rates = self.lane.len() + self.group.len();
        let mut prices = Prices { room: vec![vec![0.0; count]; lower], rate: vec![vec![0.0; count]; rates] };
        let mut best = (0.0, prices.clone());
        let mut direction: Option<Prices> = None;
        let mut stale = 0;
        let mut pace = 1.0;
        for _ in 0..ROUNDS {
            let (value, slope) = self.value(&prices);
            if value > best.0 * 1.0001 {
                stale = 0;
            } else {
                stale += 1;
            }
            if value > best.0 {
                best = (value, prices.clone());
            }
            if value >= reached * 0.9999 {
                break;
            }
            if stale > 60 {
                (pace, stale) = (pace * 0.7, 0);
                prices = best.1.clone();
                direction = None;
                continue;
            }
            let mut next = slope;
            if let Some(before) = &direction {
                // Camerini, Fratta and Maffioli (1975): turn away from zigzags.
                let across = dot(before, &next);
                if across < 0.0 {
                    let weight = -1.5 * across / dot(before, before);
                    add(&mut next, before, weight);
                }
            }
            let norm = dot(&next, &next);
            if norm == 0.0 {
                break;
            }
            let step = pace * (reached - value).max(reached * 1e-4) / norm;
            add(&mut prices, &next, step);
            project(&mut prices);
            direction = Some(next);
        }
        best
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
            slope.room[tier] = self.live.iter().map(|l| (l - self.rooms[tier]) * self.unit).collect();
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
            for slot in 0..count {
                paid[tier][slot] = paid[tier - 1][slot] + prices.room[tier - 1][slot] * self.unit;
            }
            for slot in 0..2 * count {
                sums[tier][slot + 1] = sums[tier][slot] + paid[tier][at(slot)];
            }
        }
        let ways: Vec<Way> = (1..=lower).map(|tier| self.way(tier, &fares, &paid)).collect();
        let mut masses: Vec<[Vec<f64>; 2]> =
            ways.iter().map(|w| [vec![0.0; w.out.len()], vec![0.0; w.back.len()]]).collect();
        let mut beyond = vec![vec![0.0; 2 * count + 1]; lower + 1];
        for gap in &self.gaps {
            let mut best = (0.0, 0);
            for tier in 1..=lower {
                let way = &ways[tier - 1];
                let out = if gap.home == Some(tier) { 0.0 } else { way.out[gap.from * (lower + 1)] };
                let back = way.back[gap.to * (lower + 1)];
                let profit = sums[tier][gap.to] - sums[tier][gap.from] - out - back;
                if profit > best.0 {
                    best = (profit, tier);
                }
            }
            let (profit, tier) = best;
            if tier == 0 {
                continue;
            }
            value -= profit * gap.bytes;
            beyond[tier][gap.from] += gap.bytes;
            beyond[tier][gap.to] -= gap.bytes;
            if gap.home != Some(tier) {
                masses[tier - 1][0][gap.from * (lower + 1)] += gap.bytes;
            }
            masses[tier - 1][1][gap.to * (lower + 1)] += gap.bytes;
        }
        for (tier, (way, [out, back])) in (1..).zip(ways.iter().zip(&mut masses)) {
            self.push(tier, way, out, back, &mut slope, &mut beyond);
        }
        for tier in 1..=lower {
            let mut away = 0.0;
            for slot in 0..2 * count {
                away += beyond[tier][slot];
                for room in &mut slope.room[..tier] {
                    room[at(slot)] -= away * self.unit;
                }
            }
        }
        (value, slope)
    }

    /// The cheapest ways into a tier and back, from every slot on.
    fn way(&self, tier: usize, fares: &[Vec<f64>], paid: &[Vec<f64>]) -> Way {
        let count = self.cost.len();
        let width = self.problem.lower() + 1;
        let slots = 2 * count + 1;
        let at = |s: usize| if s >= 2 * count { s - 2 * count } else if s >= count { s - count } else { s };
        let mut way = Way {
            out: vec![f64::INFINITY; slots * width],
            out_by: vec![WAIT; slots * width],
            back: vec![f64::INFINITY; slots * width],
            back_by: vec![WAIT; slots * width],
        };
        for slot in (0..2 * count).rev() {
            // From the deepest up: a lane leads deeper.
            way.out[slot * width + tier] = 0.0;
            for from in (0..tier).rev() {
                let mut best = (paid[tier][at(slot)] - paid[from][at(slot)] + way.out[(slot + 1) * width + from], WAIT);
                for lane in self.deeper.iter().filter(|l| self.problem.lanes[**l].from == from) {
                    let to = self.problem.lanes[*lane].to;
                    let price = fares[*lane][at(slot)] + way.out[slot * width + to];
                    if to <= tier && price < best.0 {
                        best = (price, *lane);
                    }
                }
                (way.out[slot * width + from], way.out_by[slot * width + from]) = best;
            }
        }
        for slot in 0..slots {
            way.back[slot * width + tier] = 0.0;
            for to in (0..tier).rev() {
                // In the slot before it has missed the pay of that slot's task only if it came even earlier.
                let mut best = (f64::INFINITY, WAIT);
                if slot > 0 {
                    let before = slot - 1;
                    let lost = paid[tier][at(before)] - paid[to][at(before)];
                    best.0 = way.back[before * width + to] + lost;
                }
                for lane in self.back.iter().filter(|l| self.problem.lanes[**l].to == to) {
                    let from = self.problem.lanes[*lane].from;
                    let price = fares[*lane][at(slot)] + way.back[slot * width + from];
                    if from <= tier && price < best.0 {
                        best = (price, *lane);
                    }
                }
                (way.back[slot * width + to], way.back_by[slot * width + to]) = best;
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
        let at = |s: usize| if s >= 2 * count { s - 2 * count } else if s >= count { s - count } else { s };
        let mut flow = |lane: usize, slot: usize, bytes: f64| {
            let group = self.problem.lanes[lane].group;
            slope.rate[lane][at(slot)] += bytes * self.lane[lane];
            slope.rate[self.lane.len() + group][at(slot)] += bytes * self.group[group];
        };
        // Bytes that are not yet, or no longer, in the tier at a slot's task.
        let mut short = |held: usize, slot: usize, bytes: f64| {
            beyond[tier][slot] -= bytes;
            beyond[tier][slot + 1] += bytes;
            if held > 0 {
                beyond[held][slot] += bytes;
                beyond[held][slot + 1] -= bytes;
            }
        };
        for slot in 0..2 * count {
            for from in 0..tier {
                let bytes = out[slot * width + from];
                if bytes == 0.0 {
                    continue;
                }
                match way.out_by[slot * width + from] {
                    WAIT => {
                        short(from, slot, bytes);
                        out[(slot + 1) * width + from] += bytes;
                    }
                    lane => {
                        flow(lane, slot, bytes);
                        out[slot * width + self.problem.lanes[lane].to] += bytes;
                    }
                }
            }
        }
        for slot in (0..=2 * count).rev() {
            for to in 0..tier {
                let bytes = back[slot * width + to];
                if bytes == 0.0 {
                    continue;
                }
                match way.back_by[slot * width + to] {
                    WAIT if slot > 0 => {
                        short(to, slot - 1, bytes);
                        back[(slot - 1) * width + to] += bytes;
                    }
                    WAIT => {}
                    lane => {
                        flow(lane, slot, bytes);
                        back[slot * width + self.problem.lanes[lane].from] += bytes;
                    }
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
