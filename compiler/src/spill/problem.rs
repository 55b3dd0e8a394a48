//! Lifetimes and a machine in the few numbers that moving bytes depends on.
//!
//! Reads:    lifetimes, the target.
//! Decides:  nothing.
//! Promises: tier 0 is the device; the others follow by the rate at which they reach it, fastest first; every lane works.
//! Why:      what may be done with a tensor follows from what it is: what outlives a step and has no home must be written
//!           back when it leaves, what has a home is dropped, what dies inside the step is dropped then.

use super::CannotSchedule;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Kind;
use berth_ir::target::{Target, Tier};
use std::collections::BTreeMap;

/// Tasks, tensors and lanes, all by index.
#[derive(Clone, Debug)]
pub struct Problem {
    /// In order.
    pub tasks: Vec<Work>,
    /// As in the lifetimes.
    pub items: Vec<Item>,
    /// Bytes by tier.
    pub room: Vec<u64>,
    /// What moves bytes.
    pub lanes: Vec<Lane>,
    /// The rate that the lanes of a group share, in bytes per second.
    pub groups: Vec<u64>,
}

/// One task.
#[derive(Clone, Debug)]
pub struct Work {
    /// Nanoseconds.
    pub cost: u64,
    /// Bytes of scratch.
    pub workspace: u64,
    /// What it needs: tensors, each with which of its uses this is.
    pub needs: Vec<(usize, usize)>,
}

/// One tensor.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its size.
    pub bytes: u64,
    /// Positions of the tasks that use it, in order.
    pub uses: Vec<usize>,
    /// It outlives the step, so that from its last use to its first is a gap as well.
    pub lasts: bool,
    /// The tier that always holds it: it is dropped, not written back.
    pub home: Option<usize>,
    /// By gap, which follows the use of that index: a tier below may still hold what it held in the gap before.
    pub clean: Vec<bool>,
}

/// One link in one direction.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Index in the target's links.
    pub link: usize,
    /// Tier that it reads.
    pub from: usize,
    /// Tier that it writes.
    pub to: usize,
    /// Bytes per second.
    pub rate: u64,
    /// Whom it shares with.
    pub group: usize,
    /// Sizes are multiples of this, but for what is left of a tensor.
    pub grain: u64,
    /// The largest copy.
    pub piece: u64,
    /// Nanoseconds for which a copy occupies its lane beyond its bytes.
    pub submit: u64,
    /// Nanoseconds from then until the bytes are there.
    pub latency: u64,
}

impl Problem {
    /// The problem of these lifetimes on this target, in copies of at most `piece` bytes.
    pub fn of(lifetimes: &Lifetimes, target: &Target, piece: Option<u64>) -> Result<Problem, CannotSchedule> {
        let device = target.device();
        let rate = |name: &str| target.link(name, device).map_or(0, |l| l.present_rate().0);
        let mut tiers: Vec<usize> = (0..target.tiers.len()).collect();
        tiers.retain(|t| target.tiers[*t].files || target.tiers[*t].room().0 > 0 || target.tiers[*t].name == device);
        tiers.sort_by_key(|t| {
            let tier = &target.tiers[*t];
            (tier.name != device, std::cmp::Reverse(rate(&tier.name)), *t)
        });
        let at = |name: &str| tiers.iter().position(|t| target.tiers[*t].name == name);
        let mut groups: BTreeMap<String, (usize, u64)> = BTreeMap::new();
        let mut lanes = Vec::new();
        for (link, l) in target.links.iter().enumerate() {
            let (Some(from), Some(to)) = (at(&l.from), at(&l.to)) else { continue };
            let rate = l.present_rate().0;
            if rate == 0 || from == to || target.tiers[tiers[to]].files {
                continue;
            }
            let name = l.group.as_ref().map_or(format!("link {}", l.name), |g| format!("group {g}"));
            let fresh = groups.len();
            let group = groups.entry(name).or_insert((fresh, 0));
            group.1 = group.1.max(rate);
            let (grain, submit, latency) = (l.grain.0, l.submit.0, l.latency.0);
            let piece = piece.unwrap_or(l.chunk.0).max(grain) / grain * grain;
            lanes.push(Lane { link, from, to, rate, group: group.0, grain, piece, submit, latency });
        }
        let mut rates = vec![0; groups.len()];
        groups.values().for_each(|(group, rate)| rates[*group] = *rate);
        let mut room: Vec<u64> = tiers.iter().map(|t| room_of(&target.tiers[*t])).collect();
        // A home from which no lane leads to the device is kept whole by the first memory between that can hold it.
        let mut near = |home: usize, bytes: u64| {
            let joins = |from: usize, to: usize| lanes.iter().any(|l: &Lane| l.from == from && l.to == to);
            if joins(home, 0) {
                return home;
            }
            let between = (1..room.len()).find(|t| joins(home, *t) && joins(*t, 0) && room[*t] >= bytes);
            between.map_or(home, |t| {
                room[t] -= bytes;
                t
            })
        };
        let mut items = Vec::new();
        for (tensor, uses) in lifetimes.tensors.iter().zip(lifetimes.uses().iter()) {
            let home = tensor.home.as_ref().filter(|_| tensor.kind == Kind::Weight).and_then(|h| at(&h.tier));
            let home = home.filter(|_| !uses.is_empty()).map(|home| near(home, tensor.bytes));
            let lasts = matches!(tensor.kind, Kind::Weight | Kind::State);
            let clean = vec![false; uses.len()];
            items.push(Item { bytes: tensor.bytes, uses: uses.to_vec(), lasts, home, clean });
        }
        let mut tasks: Vec<Work> = Vec::new();
        let mut seen = vec![0; items.len()];
        for task in &lifetimes.tasks {
            let mut needs = Vec::new();
            for t in task.operands() {
                needs.push((t.index(), seen[t.index()]));
                seen[t.index()] += 1;
            }
            tasks.push(Work { cost: task.cost.0, workspace: task.workspace, needs });
        }
        let problem = Problem { tasks, items, room, lanes, groups: rates };
        problem.check(lifetimes)?;
        Ok(problem)
    }

    /// Each task must fit alone, and times must be countable.
    fn check(&self, lifetimes: &Lifetimes) -> Result<(), CannotSchedule> {
        if self.tasks.is_empty() {
            return Err(CannotSchedule::Empty);
        }
        for (task, named) in self.tasks.iter().zip(&lifetimes.tasks) {
            let held = task.needs.iter().map(|(t, _)| u128::from(self.items[*t].bytes)).sum::<u128>();
            let needed = held + u128::from(task.workspace);
            if needed > u128::from(self.room[0]) {
                return Err(CannotSchedule::TaskTooLarge { task: named.name.clone(), needed, room: self.room[0] });
            }
        }
        Ok(())
    }

    /// Tiers below the device.
    pub fn lower(&self) -> usize {
        self.room.len() - 1
    }

    /// The same where a tier below may keep what it held until it is written: a gap after a use that only reads it, with
    /// a gap before it, can leave at no cost.
    pub fn with_clean_drops(mut self, lifetimes: &Lifetimes) -> Problem {
        for (t, item) in self.items.iter_mut().enumerate() {
            let reads = |at: usize| lifetimes.tasks[at].writes.iter().all(|w| w.index() != t);
            item.clean = item.uses.iter().enumerate().map(|(i, at)| (i > 0 || item.lasts) && reads(*at)).collect();
        }
        self
    }

    /// The same without what joins two tiers below the device.
    pub fn direct(&self) -> Problem {
        let mut direct = self.clone();
        direct.lanes.retain(|l| l.from == 0 || l.to == 0);
        direct
    }

    /// The time of a step in which nothing waits.
    pub fn busy(&self) -> u64 {
        self.tasks.iter().map(|t| t.cost).fold(0, u64::saturating_add)
    }

    /// The last tier's lanes, those of the slowest memory that the device can write, if there are two such or more.
    fn slowest(&self) -> Option<usize> {
        let written = |tier: &usize| self.lanes.iter().any(|l| l.from == 0 && l.to == *tier);
        let last = (1..self.room.len()).rev().find(|t| written(t) && self.room[*t] > 0)?;
        (1..last).any(|t| written(&t) && self.room[t] > 0).then_some(last)
    }

    /// Rates below that of the slowest tier, fastest first: 100 MB/s doubled and doubled again.
    pub fn rungs(&self) -> Vec<u64> {
        let slowest = self.slowest();
        let rate = self.lanes.iter().filter(|l| Some(l.from) == slowest).map(|l| l.rate).max().unwrap_or(0);
        let mut rungs: Vec<u64> = (0..40).map(|n| 100_000_000u64 << n).take_while(|r| *r < rate).collect();
        rungs.reverse();
        rungs
    }

    /// The same with the slowest tier's lanes at no more than this rate.
    pub fn paced(&self, rate: u64) -> Problem {
        let mut paced = self.clone();
        let slowest = self.slowest();
        for lane in paced.lanes.iter_mut().filter(|l| Some(l.from) == slowest || Some(l.to) == slowest) {
            lane.rate = lane.rate.min(rate);
        }
        paced
    }

    /// Bytes alive at each position, scratch included, wherever they are.
    pub fn live(&self) -> Vec<i64> {
        let count = self.tasks.len();
        let mut change = vec![0i64; count + 1];
        for item in &self.items {
            let (Some(first), Some(last)) = (item.uses.first(), item.uses.last()) else { continue };
            let (first, last) = if item.lasts { (0, count - 1) } else { (*first, *last) };
            change[first] += item.bytes as i64;
            change[last + 1] -= item.bytes as i64;
        }
        let mut alive = 0;
        let sums = self.tasks.iter().zip(change).map(|(task, change)| {
            alive += change;
            alive + task.workspace as i64
        });
        sums.collect()
    }

    /// The use that follows use `index` of a tensor at a step, counted over all steps; none where it dies.
    pub fn next_use(&self, item: usize, index: usize, step: u64) -> Option<u64> {
        let (item, count) = (&self.items[item], self.tasks.len() as u64);
        match item.uses.get(index + 1) {
            Some(next) => Some(step * count + *next as u64),
            None if item.lasts => Some((step + 1) * count + item.uses[0] as u64),
            None => None,
        }
    }
}

/// What a tier has for tensors that are put there: nothing where it holds files.
fn room_of(tier: &Tier) -> u64 {
    if tier.files { 0 } else { tier.room().0.min(i64::MAX as u64 / 16) }
}

/// The time that bytes take at a rate, rounded up.
pub fn time(bytes: u64, rate: u64) -> u64 {
    let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(rate.max(1)));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// The bytes that pass in a time at a rate, rounded down.
pub fn bytes_in(nanos: u64, rate: u64) -> u64 {
    let bytes = u128::from(nanos) * u128::from(rate) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
