//! Rounds a schedule of bytes to whole tensors with addresses.
//!
//! Reads:    the best found so far, lifetimes, machine.
//! Decides:  what leaves the device in which gap, until when its place is taken, from when it comes back: as a schedule has it
//!           that moves any bytes at any time (`spill`).
//! Promises: never slower than what was found before; each that counts has addresses and was simulated.
//! Why:      a window of bytes that wait and a budget for what is put aside know nothing of time; a schedule knows when a
//!           link has time and what must leave by then. It fills the device to the last byte, which whole tensors with
//!           addresses cannot: it is made for a little less, until what comes of it fits.

use crate::residency::{Choice, source_ends, stays};
use crate::sink::sink_with_time;
use crate::site::{Site, Tried, near};
use crate::spill::{Schedule, rough};
use crate::stay::{Arrival, Level, Stay, load_curve};
use crate::stream::streams;
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Target;
use berth_ir::units::Bytes;
use std::collections::BTreeMap;

/// Hundredths of the device for which schedules are made, until what comes of them is no longer faster.
const PARTS: [u64; 8] = [98, 96, 94, 91, 88, 84, 78, 70];

/// What is put aside is worth a schedule where it holds at least one part in so many of the device.
const VALUES_PART: u64 = 8;

/// Tasks of the largest model for which schedules are made.
const TASKS_MAX: usize = 20_000;

/// What a schedule does with a tensor in one gap.
#[derive(Clone, Copy, Debug, Default)]
struct Away {
    /// Bytes that leave the device, and when they have, on average: from the start of the step of the use before.
    left: (u64, u64),
    /// Bytes that come back, and when that begins, on average.
    back: (u64, u64),
}

/// Tensors that are away in a gap, by the index of the use before.
type Aways = BTreeMap<(TensorId, usize), Away>;

/// The mean of a time and another, each of so many bytes.
fn joined((a, at): (u64, u64), (b, then): (u64, u64)) -> (u64, u64) {
    let sum = u128::from(a) * u128::from(at) + u128::from(b) * u128::from(then);
    let bytes = a.saturating_add(b);
    (bytes, (sum / u128::from(bytes.max(1))) as u64)
}

impl Site<'_> {
    /// The faster of what was found and what schedules of bytes come to, where tasks write enough for it to matter.
    pub fn rounded(&self, mut best: Tried) -> Tried {
        let values = |s: &&Stay| s.level == Level::Device && !self.is_weight(s);
        let all: Vec<Stay> =
            stays(self.lifetimes, &self.machine, &self.least_choice()).iter().filter(values).cloned().collect();
        let most = load_curve(&all, Level::Device, self.positions(), self.machine.device.alignment).into_iter().max();
        let few = most.is_none_or(|most| most < self.room() / VALUES_PART);
        if few || !self.machine.can_spill() || self.mode != Mode::Loop || self.positions() > TASKS_MAX {
            return best;
        }
        let mut last = None;
        for part in PARTS {
            if near(best.timeline.step, self.least_step) {
                break;
            }
            let Some(tried) = self.rounded_at(part, &best.choice.lowered) else { continue };
            let step = tried.timeline.step;
            best = if step < best.timeline.step { tried } else { best };
            // The device of a schedule that is made for less is idle sooner or later.
            if last.replace(step).is_some_and(|last| last < step) {
                break;
            }
        }
        best
    }

    /// What a schedule for so many hundredths of the device comes to, if that fits. `lowered` weights lie in the memory
    /// below.
    pub fn rounded_at(&self, part: u64, lowered: &[Option<Level>]) -> Option<Tried> {
        let (lifetimes, target) = self.reduced(part, lowered);
        let schedule = rough(&lifetimes, &target)?;
        let aways = self.aways(&schedule, &target);
        let sunk = self.sunk(&schedule, &target);
        // In several memories below as the schedule has it; or in the first, and in the next what has no room there and the time.
        let ways = if sunk.is_empty() { vec![sunk] } else { vec![sunk, BTreeMap::new()] };
        let tried = ways.into_iter().enumerate().filter_map(|(way, sunk)| {
            let choice = Choice { rounded: Some(part), lowered: lowered.to_vec(), sunk, ..self.choice_of(&aways) };
            let mut stays = stays(self.lifetimes, &self.machine, &choice);
            self.stretch(&mut stays, &aways, &schedule);
            self.trim(&mut stays);
            if way > 0 {
                sink_with_time(&self.machine, &mut stays, &self.begins);
            }
            let placed = self.repaired(stays, self.room())?;
            let placed = self.brought_early(placed)?;
            self.faster(None, choice, placed)
        });
        tried.min_by_key(|tried| tried.timeline.step)
    }

    /// The machine with what a plan uses of it and a part of the device; weights that lie below have their home there.
    fn reduced(&self, part: u64, lowered: &[Option<Level>]) -> (Lifetimes, Target) {
        let machine = &self.machine;
        let (mut lifetimes, mut target) = (self.lifetimes.clone(), machine.target.clone());
        target.links.retain(|l| machine.ways().any(|used| machine.beside(used).any(|used| used.name == l.name)));
        let levels = || std::iter::once(Level::Device).chain(machine.below());
        target.tiers.retain(|t| t.files || levels().any(|level| machine.tier(level).is_some_and(|u| u.name == t.name)));
        let room = (u128::from(self.room()) * u128::from(part) / 100) as u64;
        let device = &machine.device.name;
        target.tiers.iter_mut().filter(|t| &t.name == device).for_each(|t| t.budget = Some(Bytes(room)));
        for (level, tier) in machine.below().filter_map(|level| Some((level, machine.tier(level)?))) {
            let below = lifetimes.tensors.iter_mut().zip(lowered).filter(|(_, lowered)| **lowered == Some(level));
            let homes = below.filter_map(|(t, _)| Some((t.bytes, t.home.as_mut()?)));
            let kept = homes.map(|(bytes, home)| {
                home.tier.clone_from(&tier.name);
                bytes.next_multiple_of(tier.alignment)
            });
            let room = tier.room().0.saturating_sub(kept.fold(0, u64::saturating_add));
            target.tiers.iter_mut().filter(|t| t.name == tier.name).for_each(|t| t.budget = Some(Bytes(room)));
        }
        (lifetimes, target)
    }

    fn aways(&self, schedule: &Schedule, target: &Target) -> Aways {
        let device = &self.machine.device.name;
        let mut all = Aways::new();
        for copy in &schedule.copies {
            let away = all.entry((copy.tensor, copy.gap)).or_default();
            match copy.link.map(|l| &target.links[l]) {
                Some(link) if &link.to == device => away.back = joined(away.back, (copy.bytes, copy.start.0)),
                // From one memory below to another.
                Some(link) if &link.from != device => {}
                _ => away.left = joined(away.left, (copy.bytes, copy.end.0)),
            }
        }
        all
    }

    /// What goes to another memory than the lower one: in each gap to that to which most of its bytes go.
    fn sunk(&self, schedule: &Schedule, target: &Target) -> BTreeMap<(TensorId, usize), Level> {
        let machine = &self.machine;
        let mut bytes: BTreeMap<(TensorId, usize), BTreeMap<&str, u64>> = BTreeMap::new();
        for copy in &schedule.copies {
            if let Some(link) = copy.link.map(|l| &target.links[l]).filter(|l| l.from == machine.device.name) {
                *bytes.entry((copy.tensor, copy.gap)).or_default().entry(&link.to).or_default() += copy.bytes;
            }
        }
        let most = bytes.into_iter().filter_map(|(gap, to)| {
            let (name, _) = to.into_iter().max_by_key(|(_, bytes)| *bytes)?;
            Some((gap, machine.below().find(|l| machine.tier(*l).is_some_and(|tier| tier.name == name))?))
        });
        most.filter(|(_, level)| *level != Level::Lower).collect()
    }

    /// What leaves the device where at least half of it does.
    fn choice_of(&self, aways: &Aways) -> Choice {
        let mut choice = self.least_choice();
        for (index, uses) in self.lifetimes.uses().iter().enumerate().filter(|(_, uses)| !uses.is_empty()) {
            let (tensor, bytes) = (TensorId(index as u32), self.lifetimes.tensors[index].bytes);
            let leaves =
                |gap: &usize| aways.get(&(tensor, *gap)).is_some_and(|a| a.left.0 > 0 && a.left.0 >= bytes / 2);
            let kind = self.lifetimes.tensors[index].kind;
            if kind != Kind::Weight {
                let gaps = if kind == Kind::State { uses.len() } else { uses.len() - 1 };
                choice.aside.extend((0..gaps).filter(leaves).map(|gap| (tensor, gap)));
            } else if (0..uses.len()).any(|gap| leaves(&gap)) {
                choice.kept.extend((0..uses.len()).filter(|gap| !leaves(gap)).map(|gap| (tensor, gap)));
            } else {
                choice.pinned[index] = true;
            }
        }
        choice
    }

    /// Has each stay begin when its bytes come, and end when they have left.
    fn stretch(&self, all: &mut [Stay], aways: &Aways, schedule: &Schedule) {
        let (uses, period) = (self.lifetimes.uses(), self.positions() as i64);
        let position = |time: u64| {
            let step = schedule.step.0.max(1);
            let begun = schedule.starts.partition_point(|s| s.0 <= time % step) as i64;
            (begun - 1).max(0) + (time / step) as i64 * period
        };
        let sources = source_ends(all, period);
        let moving = |s: &Stay| s.level == Level::Device && !s.forever && s.arrives != Arrival::Scratch;
        for (stay, source) in all.iter_mut().zip(sources).filter(|(s, _)| moving(s)) {
            let (Some(first), Some(last)) = (stay.uses.first().copied(), stay.uses.last().copied()) else { continue };
            let own = &uses[stay.tensor.index()];
            let index = |position: usize| own.binary_search(&(position % self.positions())).unwrap_or(0);
            let before = index(first).checked_sub(1);
            let back = aways.get(&(stay.tensor, before.unwrap_or(own.len() - 1))).filter(|a| a.back.0 > 0);
            if let Some(away) = back.filter(|_| streams(stay)) {
                // Where the use before lies in the step before, its time is counted from there.
                let from = position(away.back.1) - if before.is_none() { period } else { 0 };
                stay.from = from.max(source).max(stay.to - period + 1).min(first as i64);
            }
            if let Some(away) = aways.get(&(stay.tensor, index(last))).filter(|a| a.left.0 > 0) {
                let turn = last as i64 / period * period;
                let most = (stay.from + period - 1).min(if turn == 0 { period - 1 } else { i64::MAX });
                stay.to = stay.to.max((position(away.left.1) + turn).min(most));
            }
        }
    }

    /// Brings later, or lets go sooner, what is there beside its uses, where all that is there does not fit: first what is
    /// wanted last.
    fn trim(&self, all: &mut [Stay]) {
        let (period, grain, room) = (self.positions() as i64, self.machine.device.alignment, self.room());
        let mut load = load_curve(all, Level::Device, self.positions(), grain);
        let moving = |s: &Stay| s.level == Level::Device && !s.forever && !s.uses.is_empty();
        let moving: Vec<usize> = (0..all.len()).filter(|i| moving(&all[*i])).collect();
        for position in (0..period).filter(|p| load[*p as usize] > room).collect::<Vec<i64>>() {
            let mut beside: Vec<(i64, usize, i64)> = Vec::new();
            for i in &moving {
                let (stay, uses) = (&all[*i], &all[*i].uses);
                let (first, last) = (uses[0] as i64, uses[uses.len() - 1] as i64);
                for at in [position - period, position, position + period] {
                    if stay.from <= at && at <= stay.to && !(first..=last).contains(&at) {
                        beside.push((last.min(at) - first.max(at), *i, at));
                    }
                }
            }
            beside.sort_unstable();
            for (_, i, at) in beside {
                if load[position as usize] <= room {
                    break;
                }
                let stay = &mut all[i];
                let early = at < stay.uses[0] as i64;
                let gone = if early { stay.from..=at } else { at..=stay.to };
                gone.for_each(|p| load[p.rem_euclid(period) as usize] -= stay.bytes.next_multiple_of(grain));
                if early { stay.from = at + 1 } else { stay.to = at - 1 }
            }
        }
    }
}
