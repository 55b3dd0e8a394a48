//! Decides, while the world runs, what leaves the device and what comes back, and when.
//!
//! Reads:    the world, when tasks are expected to start.
//! Decides:  each copy, when its lane is idle.
//! Promises: bytes leave only where the load from then until their next use is more than the device holds, and come back
//!           only where they do not push it above; it looks a whole step ahead in both directions.
//! Why:      farthest next use first (Belady 1966), on the load that is projected and not on the one at hand. A slow tier
//!           below a fast one takes first, by the same rule for the room of all tiers above it.

use super::problem::{Problem, time};
use super::tree::Tree;
use super::world::World;

/// Steps that are run: to settle, to be recorded, to end what the recorded one began.
pub const STEPS: u64 = 5;

/// Tensors that are looked at for one copy, at most. Where quotas say which may leave, all are.
const VICTIMS_MAX: usize = 32;

/// By item, use and tier: bytes that are to be there in the gap after that use.
pub type Quotas = [Vec<Vec<u64>>];

/// What the tries differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taste {
    /// While a slower tier holds bytes, a faster one's come back only when so many hundredths of its rate are needed.
    pub late: u64,
    /// Where there are quotas: the fastest tier takes no more than its own, not all that slower ones need not have.
    pub exact: bool,
}

/// When tasks start in a step, and how long the step is.
#[derive(Clone, Debug)]
pub struct Pace {
    /// By position.
    pub starts: Vec<u64>,
    /// Start of the next step.
    pub step: u64,
}

impl Pace {
    /// Nothing waits.
    pub fn ideal(problem: &Problem) -> Pace {
        let mut at = 0;
        let starts = problem.tasks.iter().map(|task| {
            at += task.cost;
            at - task.cost
        });
        Pace { starts: starts.collect(), step: at }
    }

    /// The start of a task counted over all steps, from the start of the first step.
    fn at(&self, position: u64) -> u64 {
        let count = self.starts.len() as u64;
        position / count * self.step + self.starts[(position % count) as usize]
    }
}

/// One run of the world under the rules.
pub struct Run<'p> {
    /// The world, at its end when the run is over.
    pub world: World<'p>,
    pace: Pace,
    /// By item, use and tier: bytes that are to be there in the gap after that use; nothing: as the load says.
    quotas: Option<&'p Quotas>,
    exact: bool,
    /// By tier and item: what of its quota has not left yet in the gap at hand.
    left: Vec<Vec<u64>>,
    /// By tier but the last: load less what is below this tier, and the room of all down to this one.
    load: Vec<Tree>,
    live: Vec<i64>,
    room: Vec<i64>,
    /// By tier below: bytes due by a position, less what its lane brings until then.
    due: Vec<Tree>,
    away: Vec<i64>,
    /// Rate that `due` counts on, by tier below.
    drain: Vec<u64>,
    outward: Vec<usize>,
    inward: Vec<usize>,
    /// Lanes between two tiers below the device.
    between: Vec<usize>,
    wake: Option<u64>,
}

impl<'p> Run<'p> {
    /// A world in which nothing has run.
    pub fn new(problem: &'p Problem, pace: Pace, taste: Taste, quotas: Option<&'p Quotas>) -> Run<'p> {
        let lower = problem.lower();
        let live = problem.live();
        let mut sum = 0i64;
        let rooms = problem.room.iter().map(|r| {
            sum = sum.saturating_add(*r as i64).min(i64::MAX / 8);
            sum
        });
        let lanes = |wanted: &dyn Fn(&super::problem::Lane) -> Option<usize>| {
            let mut found: Vec<(usize, usize)> =
                problem.lanes.iter().enumerate().filter_map(|(l, lane)| Some((wanted(lane)?, l))).collect();
            found.sort_by_key(|(tier, l)| (std::cmp::Reverse(*tier), *l));
            found.into_iter().map(|(_, l)| l).collect::<Vec<usize>>()
        };
        let outward = lanes(&|l| (l.from == 0).then_some(l.to));
        let inward = lanes(&|l| (l.to == 0).then_some(l.from));
        let drain = (1..=lower).map(|tier| {
            let lane = inward.iter().map(|l| &problem.lanes[*l]).find(|l| l.from == tier);
            lane.map_or(0, |lane| {
                let slower =
                    inward.iter().map(|l| &problem.lanes[*l]).filter(|l| l.from > tier && l.group == lane.group);
                let left = problem.groups[lane.group].saturating_sub(slower.map(|l| l.rate).sum());
                lane.rate.min(left) * taste.late / 100
            })
        });
        let drain: Vec<u64> = drain.collect();
        let due = drain.iter().map(|rate| {
            let values = pace.starts.iter().map(|s| -((u128::from(*s) * u128::from(*rate) / 1_000_000_000) as i64));
            Tree::new(&values.collect::<Vec<i64>>())
        });
        let mut run = Run {
            load: vec![Tree::new(&live); lower],
            room: rooms.take(lower).collect(),
            due: due.collect(),
            away: vec![0; lower],
            world: World::new(problem),
            quotas,
            exact: taste.exact,
            left: vec![vec![0; problem.items.len()]; lower + 1],
            drain,
            outward,
            inward,
            between: (0..problem.lanes.len())
                .filter(|l| problem.lanes[*l].from > 0 && problem.lanes[*l].to > 0)
                .collect(),
            live,
            pace,
            wake: None,
        };
        run.spread();
        run
    }

    /// Before the first step: what is needed last goes below, by the rule that holds later, in no time.
    fn spread(&mut self) {
        let problem = self.world.problem;
        let items: Vec<(u64, usize)> = self.world.idle.iter().rev().copied().collect();
        for (next, item) in items {
            if let Some(home) = problem.items[item].home {
                let excess = self.load[0].max(0, next) - self.room[0];
                let bytes = (excess.max(0) as u64).min(self.world.items[item].here);
                if bytes > 0 {
                    self.world.place_below(item, home, bytes);
                    self.absent(home, 0, next, bytes as i64);
                }
                continue;
            }
            for tier in (1..=problem.lower()).rev() {
                if !self.outward.iter().any(|l| problem.lanes[*l].to == tier) {
                    continue;
                }
                let excess = self.load[tier - 1].max(0, next) - self.room[tier - 1];
                let bytes = (excess.max(0) as u64).min(self.world.items[item].here).min(self.world.free(tier));
                if bytes > 0 {
                    self.world.place_below(item, tier, bytes);
                    self.absent(tier, 0, next, bytes as i64);
                }
            }
        }
    }

    /// Bytes will be in a tier over a range of positions, or less so if negative; due at its end.
    fn absent(&mut self, tier: usize, from: u64, to: u64, bytes: i64) {
        for load in &mut self.load[..tier] {
            load.add(from, to, -bytes);
        }
        let count = self.live.len() as u64;
        self.due[tier - 1].add(to, self.world.position + count, bytes);
        self.away[tier - 1] += bytes;
    }

    /// When a task is expected to start.
    fn expected(&self, position: u64) -> u64 {
        let world = &self.world;
        let (ahead, base) = match world.position.checked_sub(1) {
            Some(last) => (self.pace.at(last), world.starts[last as usize]),
            None => (0, 0),
        };
        let next = base + self.pace.at(world.position) - ahead;
        base + self.pace.at(position) - ahead + world.now.saturating_sub(next)
    }

    /// The first task, up to a limit, that is expected to start at or after a time.
    fn first_after(&self, time: u64, limit: u64) -> u64 {
        let (mut low, mut high) = (self.world.position, limit.max(self.world.position));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.expected(middle) >= time { high = middle } else { low = middle + 1 }
        }
        low
    }

    /// Runs until so many tasks have ended, from the start; says whether it got there.
    pub fn tasks(&mut self, end: u64) -> bool {
        loop {
            loop {
                self.decide();
                if self.world.position == end && self.world.running.is_none() {
                    return true;
                }
                if self.world.position == end || !self.world.start_task() {
                    break;
                }
                self.passed();
            }
            self.world.share();
            let event = self.world.next_event();
            let Some(to) = event.into_iter().chain(self.wake).min() else { return false };
            self.world.advance(to);
        }
    }

    /// A task has started: its position now stands for the next step's.
    fn passed(&mut self) {
        let at = self.world.position - 1;
        let count = self.live.len() as u64;
        let live = self.live[(at % count) as usize];
        self.load.iter_mut().for_each(|load| load.set(at, live));
        if let Some(quotas) = self.quotas {
            for (item, index) in &self.world.problem.tasks[(at % count) as usize].needs {
                let quotas = &quotas[*item][*index];
                self.left.iter_mut().zip(quotas).for_each(|(left, quota)| left[*item] = *quota);
            }
        }
        let arrives = self.pace.at(at + count);
        for ((due, away), rate) in self.due.iter_mut().zip(&self.away).zip(&self.drain) {
            due.set(at, away - (u128::from(arrives) * u128::from(*rate) / 1_000_000_000) as i64);
        }
    }

    fn decide(&mut self) {
        self.wake = None;
        self.discard();
        for lane in 0..self.outward.len() {
            self.evict(self.outward[lane]);
        }
        for lane in 0..self.inward.len() {
            self.fetch(self.inward[lane]);
        }
        for lane in 0..self.between.len() {
            self.shift(self.between[lane]);
        }
    }

    /// Drops what has a home and is needed last, while the load from now until then is too high: it costs no time, so it
    /// is done when room is short and not before.
    fn discard(&mut self) {
        let position = self.world.position;
        loop {
            let problem = self.world.problem;
            let found = self.world.idle.iter().rev().take(VICTIMS_MAX).find_map(|(next, item)| {
                let home = problem.items[*item].home?;
                let excess = self.load[0].max(position, *next) - self.room[0];
                let bytes = self.world.items[*item].here.min(excess.max(0) as u64);
                (bytes > 0 && *next > position).then_some((*item, home, bytes, *next))
            });
            let Some((item, home, bytes, next)) = found else { return };
            self.world.drop_bytes(item, home, bytes);
            self.absent(home, position, next, bytes as i64);
        }
    }

    /// Begins to move bytes below, if the lane is idle and it is worth it.
    fn evict(&mut self, lane: usize) {
        if !self.world.is_idle(lane) {
            return;
        }
        if let Some((item, bytes, from, next)) = self.victim(lane).or_else(|| self.last_resort(lane)) {
            let tier = self.world.problem.lanes[lane].to;
            self.left[tier][item] = self.left[tier][item].saturating_sub(bytes);
            self.world.start_copy(lane, item, bytes);
            self.absent(tier, from, next, bytes as i64);
        }
    }

    /// What leaves over a lane: tensor, bytes, from which position they are away, and until which. The load of the device
    /// and all tiers above the lane's must be too high over that time, and the bytes must be able to return.
    fn victim(&self, lane: usize) -> Option<(usize, u64, u64, u64)> {
        let problem = self.world.problem;
        let l = &problem.lanes[lane];
        let (free, rate) = (self.world.free(l.to), self.world.rate(lane));
        let back = self.inward.iter().map(|l| &problem.lanes[*l]).find(|back| back.from == l.to)?.rate;
        let (count, above) = match self.quotas {
            Some(_) => (usize::MAX, 0),
            None => (VICTIMS_MAX, l.to - 1),
        };
        for (next, item) in self.world.idle.iter().rev().take(count) {
            let allowed = self.allowed(*item, l.to) / l.grain * l.grain;
            if allowed == 0 && self.quotas.is_some() {
                continue;
            }
            let most = allowed.min(l.piece).min(free);
            let end = self.world.now + l.submit + l.latency + time(most, rate);
            let from = self.first_after(end, *next);
            let excess = self.load[above].max(from, *next) - self.room[above];
            if most == 0 || from >= *next || excess <= 0 {
                return None;
            }
            let bytes = most.min((excess as u64).next_multiple_of(l.grain));
            if end + time(bytes, back) <= self.expected(*next) {
                return Some((*item, bytes, from, *next));
            }
        }
        None
    }

    /// What of a tensor may go to a tier: with quotas, what of its quota is not there yet; to the fastest tier perhaps all
    /// that no slower one is to have.
    fn allowed(&self, item: usize, tier: usize) -> u64 {
        let here = self.world.items[item].here;
        let fastest = self.outward.last().is_none_or(|lane| self.world.problem.lanes[*lane].to == tier);
        match self.quotas {
            None => here,
            Some(_) if fastest && !self.exact => {
                here.saturating_sub(self.left[tier + 1..].iter().map(|left| left[item]).sum())
            }
            Some(_) => here.min(self.left[tier][item]),
        }
    }

    /// The same where the next task waits for room: what is used last, whether it can return in time or not, and to any
    /// tier if those above it are full.
    fn last_resort(&self, lane: usize) -> Option<(usize, u64, u64, u64)> {
        let l = &self.world.problem.lanes[lane];
        let position = self.world.position;
        let excess = self.load[0].max(position, position + 1) - self.room[0];
        let above = (1..l.to).any(|tier| {
            self.world.free(tier) >= l.grain && self.outward.iter().any(|o| self.world.problem.lanes[*o].to == tier)
        });
        if self.world.running.is_some() || excess <= 0 || above {
            return None;
        }
        let (next, item) = *self.world.idle.last().filter(|(next, _)| *next > position)?;
        let most = self.world.items[item].here.min(l.piece).min(self.world.free(l.to));
        let bytes = most.min((excess as u64).next_multiple_of(l.grain));
        (bytes > 0).then_some((item, bytes, position, next))
    }

    /// Begins to move bytes between two tiers below the device, if the lane is idle and it is worth it.
    fn shift(&mut self, lane: usize) {
        if !self.world.is_idle(lane) {
            return;
        }
        let (from, to) = (self.world.problem.lanes[lane].from, self.world.problem.lanes[lane].to);
        let found = if to > from { self.sinks(lane) } else { self.rises(lane) };
        if let Some((item, bytes, next)) = found {
            let position = self.world.position;
            self.world.start_copy(lane, item, bytes);
            self.absent(from, position, next, -(bytes as i64));
            self.absent(to, position, next, bytes as i64);
        }
    }

    /// What is needed last, where the tiers above will hold too much until then, and can return in time.
    fn sinks(&self, lane: usize) -> Option<(usize, u64, u64)> {
        let problem = self.world.problem;
        let l = &problem.lanes[lane];
        let (free, rate) = (self.world.free(l.to), self.world.rate(lane));
        let back = self.inward.iter().map(|l| &problem.lanes[*l]).find(|back| back.from == l.to)?.rate;
        let (next, item) = self.world.away[l.from - 1].last().copied()?;
        let most = self.world.items[item].below[l.from - 1].min(l.piece).min(free);
        let end = self.world.now + l.submit + l.latency + time(most, rate);
        let from = self.first_after(end, next);
        let excess = self.load[l.to - 1].max(from, next) - self.room[l.to - 1];
        if from >= next || excess <= 0 || problem.items[item].home == Some(l.from) {
            return None;
        }
        let bytes = most.min((excess as u64).next_multiple_of(l.grain));
        let returns = end + time(bytes, back) <= self.expected(next);
        (bytes > 0 && returns).then_some((item, bytes, next))
    }

    /// What is needed first and has time to come up in two hops, if the tiers above have room for it until then.
    fn rises(&self, lane: usize) -> Option<(usize, u64, u64)> {
        let problem = self.world.problem;
        let l = &problem.lanes[lane];
        let position = self.world.position;
        let up = self.inward.iter().map(|l| &problem.lanes[*l]).find(|up| up.from == l.to)?;
        for (next, item) in self.world.away[l.from - 1].iter().take(VICTIMS_MAX).copied() {
            let most = self.world.items[item].below[l.from - 1].min(l.piece);
            let end = self.world.now + l.submit + l.latency + time(most, self.world.rate(lane)) + time(most, up.rate);
            if next <= position || end > self.expected(next) {
                continue;
            }
            let above = self.room[l.from - 1] - self.load[l.from - 1].max(position, next);
            let room = self.world.free(l.to).min(above.max(0) as u64);
            let bytes = if most <= room { most } else { room / l.grain * l.grain };
            let large = bytes == most || bytes >= l.piece / 4;
            return (bytes > 0 && large).then_some((item, bytes, next));
        }
        None
    }

    /// Begins to bring bytes back, if the lane is idle and there is room until they are used.
    fn fetch(&mut self, lane: usize) {
        if !self.world.is_idle(lane) {
            return;
        }
        let l = &self.world.problem.lanes[lane];
        let tier = l.from;
        let Some((next, item)) = self.world.away[tier - 1].first().copied() else { return };
        let position = self.world.position;
        let most = self.world.items[item].below[tier - 1].min(l.piece);
        let mut room = self.world.free(0);
        if next > position {
            let ahead = self.room[0] - self.load[0].max(position, next);
            room = room.min(ahead.max(0) as u64);
            let slower = (tier..self.away.len()).any(|t| self.away[t] > 0);
            if slower && !self.pressed(tier) {
                return;
            }
        }
        let bytes = if most <= room { most } else { room / l.grain * l.grain };
        if bytes == 0 || (bytes < most && bytes < l.piece / 4 && next > position) {
            return;
        }
        self.world.start_copy(lane, item, bytes);
        self.absent(tier, position, next, -(bytes as i64));
    }

    /// Whether a tier's lane must work now so that all is back in time; if not, it is asked again when it must.
    fn pressed(&mut self, tier: usize) -> bool {
        let (rate, position) = (self.drain[tier - 1], self.world.position);
        let most = self.due[tier - 1].max(position, position + self.live.len() as u64);
        let shift = self.expected(position) as i128 - self.pace.at(position) as i128;
        let at = shift - i128::from(most) * 1_000_000_000 / i128::from(rate.max(1));
        let now = i128::from(self.world.now);
        if at < now {
            return true;
        }
        // A task that is late moves the time with it: the next event will tell.
        if self.expected(position) <= self.world.now {
            return false;
        }
        let at = (at + 1) as u64;
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
        false
    }
}
