//! Finds choices that fit where little does, and the least room in which one fits.
//!
//! Reads:    lifetimes, machine.
//! Decides:  what is put aside between its uses, so that a room suffices.
//! Promises: with a writable memory below, the least is what the largest task holds at once.
//! Why:      nothing put aside, then what is wanted last (Belady 1966), then all but a task's operands: a ladder whose
//!           first rung that fits is the gentlest.

use crate::residency::{Choice, stays};
use crate::room::{Least, NoRoom};
use crate::site::{Placed, Site};
use crate::stay::{Arrival, Level, Stay, load_curve};
use berth_ir::lifetime::TensorId;
use berth_ir::lists::Lists;
use berth_ir::program::Kind;
use berth_ir::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Times that the least room is looked for from the bottom again.
const LEAST_ROUNDS: usize = 8;

impl Site<'_> {
    /// The choice that needs least, but for what is put aside.
    pub fn least_choice(&self) -> Choice {
        Choice { host: self.host.clone(), ..Choice::least(self.lifetimes) }
    }

    /// The gentlest choice that fits at all, with its place: nothing pinned, nothing ahead, as little put aside as does.
    pub fn base(&self) -> Result<(Choice, Placed), NoRoom> {
        let no_room = || match self.least() {
            least if !least.works() => self.short_below(),
            least => NoRoom {
                tier: self.machine.device.name.clone(),
                room: self.machine.device.room().0,
                least,
                below: false,
            },
        };
        let gentle = self.first_rung(self.room());
        // The rungs of this room may all miss what a rung of a smaller one hits: a small lower memory is filled otherwise.
        let least = || {
            self.least_rung().filter(|(bytes, ..)| *bytes <= self.room()).map(|(_, choice, placed)| (choice, placed))
        };
        gentle.or_else(least).ok_or_else(no_room)
    }

    /// The first rung of the ladder that fits in a room.
    pub fn first_rung(&self, room: u64) -> Option<(Choice, Placed)> {
        self.ladder(room).find_map(|choice| {
            let placed = self.fits_in(&choice, room)?;
            Some((choice, placed))
        })
    }

    /// Choices that need less and less: nothing put aside, then what is wanted last, then all but a task's operands.
    pub fn ladder(&self, room: u64) -> impl Iterator<Item = Choice> {
        let least = self.least_choice();
        let budget = move |percent: u128| (u128::from(room) * percent / 100) as u64;
        let rungs = [100, 95, 90, 80, 65, 50, 25, 0].map(|percent| (budget(percent), false));
        let rungs = rungs.into_iter().chain([(0, true)]).filter(|_| self.machine.can_spill());
        let aside = least.clone();
        let rungs =
            rungs.map(move |(budget, adjacent)| Choice { aside: self.aside(budget, adjacent), ..aside.clone() });
        std::iter::once(least).chain(rungs)
    }

    /// Gaps to put a tensor aside in, so that at each task what stays fits a budget: those wanted last go first (Belady).
    /// With `adjacent`, also between a task and the next one. States are there when the step begins, and want the next step's
    /// first use behind their last: with them it is gone through twice.
    pub fn aside(&self, budget: u64, adjacent: bool) -> BTreeSet<(TensorId, usize)> {
        let uses = self.lifetimes.uses();
        let all = || (0..self.lifetimes.tensors.len() as u32).map(TensorId).filter(|t| !uses[t.index()].is_empty());
        let kind = |t: TensorId| self.lifetimes.tensor(t).kind;
        let state = |t: TensorId| kind(t) == Kind::State;
        // The last gap of what is no state lasts for ever.
        let gaps = |t: TensorId| uses[t.index()].len() - usize::from(!state(t));
        let mut aside = BTreeSet::new();
        let mut alive = Alive { site: self, uses: &uses, next: BTreeSet::new(), held: BTreeMap::new(), bytes: 0 };
        all().filter(|t| state(*t)).for_each(|t| alive.begin(t));
        let passes = if alive.next.is_empty() { 1 } else { 2 };
        for (pass, position) in (0..passes).flat_map(|pass| (0..self.positions()).map(move |p| (pass, p))) {
            let task = &self.lifetimes.tasks[position];
            if self.host[position] {
                continue;
            }
            let now = pass * self.positions() + position;
            let (weights, values): (Vec<TensorId>, Vec<TensorId>) =
                task.operands().partition(|t| kind(*t) == Kind::Weight);
            let weights = task.workspace + weights.into_iter().map(|t| self.size(t)).sum::<u64>();
            values.iter().for_each(|t| alive.used(*t, now));
            while weights + alive.bytes > budget {
                let Some(gap) = alive.last_wanted(now) else { break };
                // What the first pass puts aside in the midst of a step says nothing of later ones.
                if pass + 1 == passes || gap.1 + 1 == uses[gap.0.index()].len() {
                    aside.insert(gap);
                }
                alive.go(gap.0);
            }
            for tensor in values {
                if alive.is_done(tensor) {
                    alive.go(tensor);
                }
            }
        }
        if adjacent {
            aside.extend(all().filter(|t| kind(*t) != Kind::Weight).flat_map(|t| (0..gaps(t)).map(move |i| (t, i))));
        }
        aside
    }

    /// The least room in which a rung of the ladder fits, found by halving between what one task holds, which nothing
    /// beats, and the height with nothing put aside, which always works.
    pub fn least_rung(&self) -> Option<(u64, Choice, Placed)> {
        let grain = self.machine.device.alignment;
        let tasks = self.lifetimes.tasks.iter();
        let held = tasks.map(|t| t.operands().map(|o| self.size(o)).sum::<u64>() + t.workspace.next_multiple_of(grain));
        let mut low = held.max().unwrap_or(0);
        if let Some((choice, placed)) = self.first_rung(low) {
            return Some((low, choice, placed));
        }
        let gentlest = Choice::least(self.lifetimes);
        let placed = self.place(stays(self.lifetimes, &self.machine, &gentlest), 0)?;
        let mut best = (placed.device.height, gentlest, placed);
        // Something fits in the best. What fits is not quite monotone: what lies just below is looked at again.
        let floor = low;
        for _ in 0..LEAST_ROUNDS {
            while best.0 - low > grain {
                let middle = low + (best.0 - low) / 2 / grain * grain;
                match self.first_rung(middle) {
                    Some((choice, placed)) => best = (middle, choice, placed),
                    None => low = middle,
                }
            }
            let below = (best.0 - 1) / grain * grain;
            match self.first_rung(below) {
                Some((choice, placed)) => (best, low) = ((below, choice, placed), floor),
                None => break,
            }
        }
        Some(best)
    }

    /// The least that works, and what is held where it is reached.
    pub fn least(&self) -> Least {
        let Some((bytes, choice, placed)) = self.least_rung() else { return Least::none() };
        let stays_put = choice.aside.is_empty();
        let load = load_curve(&placed.stays, Level::Device, self.positions(), self.machine.device.alignment);
        let position = load.iter().enumerate().rev().max_by_key(|(_, l)| **l).map_or(0, |(p, _)| p);
        let task = &self.lifetimes.tasks[position];
        let operands: Vec<TensorId> = task.operands().collect();
        let here = |s: &&Stay| {
            let p = position as i64;
            s.level == Level::Device && s.from <= p && p <= s.to
        };
        let mut held: Vec<(bool, u64, String)> = Vec::new();
        for stay in placed.stays.iter().filter(here) {
            let scratch = stay.arrives == Arrival::Scratch;
            let name = if scratch { "workspace".to_owned() } else { self.lifetimes.tensor(stay.tensor).name.clone() };
            held.push((!scratch && !operands.contains(&stay.tensor), stay.bytes, name));
        }
        held.sort_by(|a, b| (a.0, std::cmp::Reverse(a.1), &a.2).cmp(&(b.0, std::cmp::Reverse(b.1), &b.2)));
        let bound = self
            .lifetimes
            .tasks
            .iter()
            .map(|t| t.operands().map(|o| self.lifetimes.tensor(o).bytes).sum::<u64>() + t.workspace);
        Least {
            bytes,
            bound: bound.max().unwrap_or(0),
            task: task.name.clone(),
            held: held.into_iter().map(|(_, bytes, name)| (name, bytes)).collect(),
            spills: self.machine.can_spill(),
            lower: if stays_put { 0 } else { placed.lower_height() },
        }
    }

    /// What the memory below must have, found by doubling and halving: weights pass through it on their way to the device.
    fn short_below(&self) -> NoRoom {
        let lower = self.machine.lower.map(|tier| (tier.name.clone(), tier.room().0, tier.alignment));
        let (tier, room, grain) = lower.unwrap_or((self.machine.device.name.clone(), 0, 1));
        let choice = self.least_choice();
        // What lies there, where that much suffices.
        let held = |bytes: u64| {
            let mut target = self.machine.target.clone();
            let found = target.tiers.iter_mut().find(|t| t.name == tier)?;
            // It may be a machine that has less.
            (found.capacity, found.budget) = (Bytes(bytes.saturating_add(found.reserve.0)), Some(Bytes(bytes)));
            let site = Site::new(self.lifetimes, &target, self.mode).ok()?;
            let placed = site.place(stays(self.lifetimes, &site.machine, &choice), 0)?;
            let below = placed.stays.into_iter().filter(|s| s.level == Level::Lower);
            let mut below: Vec<(u64, TensorId)> = below.map(|s| (s.bytes, s.tensor)).collect();
            below.sort_by_key(|(bytes, tensor)| (std::cmp::Reverse(*bytes), *tensor));
            Some(below)
        };
        // In multiples of the alignment.
        let (mut low, mut high) = (room / grain, room / grain + 1);
        while held(high * grain).is_none() && high < u64::MAX / grain / 2 {
            (low, high) = (high, high * 2);
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if held(middle * grain).is_some() { high = middle } else { low = middle }
        }
        let high = high * grain;
        let held = held(high).unwrap_or_default();
        let uses = self.lifetimes.uses();
        let task = held.first().and_then(|(_, tensor)| uses[tensor.index()].first());
        let task = task.map_or(String::new(), |position| self.lifetimes.tasks[*position].name.clone());
        let held = held.into_iter().take(1).map(|(bytes, tensor)| (self.lifetimes.tensor(tensor).name.clone(), bytes));
        let least = Least { bytes: high, bound: 0, task, held: held.collect(), spills: false, lower: 0 };
        NoRoom { tier, room, least, below: true }
    }
}

/// Tensors that are no weights and that are there at a task, times being positions counted on from step to step.
struct Alive<'a> {
    site: &'a Site<'a>,
    uses: &'a Lists,
    /// By their next use.
    next: BTreeSet<(usize, TensorId)>,
    /// By tensor the index and the time of the use before, one later than it is, and the next use.
    held: BTreeMap<TensorId, (usize, usize, usize)>,
    /// Of all.
    bytes: u64,
}

impl Alive<'_> {
    /// A state that was used last in the step before the first.
    fn begin(&mut self, tensor: TensorId) {
        let uses = &self.uses[tensor.index()];
        self.put(tensor, (uses.len() - 1, 0, uses[0]));
    }

    fn put(&mut self, tensor: TensorId, held: (usize, usize, usize)) {
        self.bytes += self.site.size(tensor);
        self.next.insert((held.2, tensor));
        self.held.insert(tensor, held);
    }

    fn go(&mut self, tensor: TensorId) {
        if let Some((.., next)) = self.held.remove(&tensor) {
            self.next.remove(&(next, tensor));
            self.bytes -= self.site.size(tensor);
        }
    }

    /// A task uses a tensor.
    fn used(&mut self, tensor: TensorId, now: usize) {
        self.go(tensor);
        let (uses, period) = (&self.uses[tensor.index()], self.site.positions());
        let index = uses.binary_search(&(now % period)).unwrap_or(0);
        let step = now - now % period;
        let next = uses.get(index + 1).copied().unwrap_or(uses[0] + period);
        self.put(tensor, (index, now + 1, step + next));
    }

    /// The gap of what is wanted last of all that the task at hand does not use.
    fn last_wanted(&self, now: usize) -> Option<(TensorId, usize)> {
        let free = |(_, t): &&(usize, TensorId)| self.held.get(t).is_some_and(|(_, used, _)| *used <= now);
        let (_, tensor) = self.next.iter().rev().find(free)?;
        Some((*tensor, self.held.get(tensor)?.0))
    }

    /// Whether nothing wants what a tensor is now: no later use in the step of what is no state, or one that writes over it.
    fn is_done(&self, tensor: TensorId) -> bool {
        let lifetimes = self.site.lifetimes;
        let uses = &self.uses[tensor.index()];
        let Some((index, ..)) = self.held.get(&tensor) else { return false };
        match (lifetimes.tensor(tensor).kind, uses.get(index + 1)) {
            (Kind::State, Some(next)) => !lifetimes.tasks[*next].reads.contains(&tensor),
            (Kind::State, None) => false,
            (_, next) => next.is_none(),
        }
    }
}
