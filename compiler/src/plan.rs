//! Chooses what stays, how far ahead the rest is brought, and what is put aside, by trying and simulating.
//!
//! Reads:    lifetimes, target.
//! Decides:  a choice of residency and its program: the fastest of those tried that fits.
//! Promises: a program that fits and that the verifier accepts; or `NoRoom`, with the least that works and the task that
//!           sets it. The same input gives the same program.
//! Why:      in a loop over more weights than fit, what stays saves its bytes in every step and recency saves none, so
//!           a set of weights is pinned and the rest streams ahead through what room is left. How much look-ahead is
//!           worth its room is found by trying: window sizes double, each with as much pinned as then fits. Where tasks write
//!           much, schedules of bytes are rounded beside that.

use crate::baseline::{STRATEGIES, planned_by};
use crate::bound::TimeBound;
use crate::engines;
use crate::held;
use crate::least_step;
pub use crate::made::Plan;
use crate::made::{staged, summary};
use crate::residency::{Choice, stays};
pub use crate::room::PlanError;
use crate::room::{Least, NoRoom};
pub use crate::simulate::STEPS;
use crate::site::{Site, Tried, near};
use crate::staging::{Joined, joined};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Mode;
use berth_ir::target::Target;
use berth_ir::units::Nanos;

/// Tasks of the largest model for which rules of thumb are tried too.
const RULED_MAX: usize = 2_000;

/// Makes the best program found for a target: no slower than what people do today.
pub fn plan(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, PlanError> {
    let best = searched(lifetimes, target, mode)?;
    let enough = near(best.timeline.step, best.bound.time) || lifetimes.tasks.len() > RULED_MAX;
    if enough || mode == Mode::Once || held::beside(lifetimes, target).is_some() {
        return Ok(best);
    }
    // What a rule makes serves one engine or two, and lies in the memories of the machine as it is.
    let rules = STRATEGIES.iter().filter_map(|(_, rule)| planned_by(*rule, lifetimes, target, mode).ok());
    let bound = best.bound;
    let best = rules.fold(best, |best, next| if next.timeline.step < best.timeline.step { next } else { best });
    Ok(Plan { bound, ..best })
}

/// The best that a search finds; where memories reach the device through a staging memory, with those too.
fn searched(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, PlanError> {
    let Some(joined) = joined(target) else { return beside(lifetimes, target, mode) };
    let through = through(lifetimes, target, joined, mode);
    match (through, beside(lifetimes, target, mode)) {
        (Ok(through), Ok(direct)) if direct.timeline.step <= through.timeline.step => Ok(direct),
        (Ok(through), _) => Ok(through),
        (Err(_), Ok(direct)) => Ok(direct),
        (Err(error), Err(PlanError::Machine(_))) => Err(error),
        (Err(_), Err(error)) => Err(error),
    }
}

/// The same with copies through staging memories.
fn through(lifetimes: &Lifetimes, target: &Target, joined: Joined, mode: Mode) -> Result<Plan, PlanError> {
    let plan = beside(lifetimes, &joined.target, mode)?;
    if let Some(plan) = staged(plan, lifetimes, target, &joined, mode) {
        return Ok(plan);
    }
    let upward = joined.upward();
    let plan = beside(lifetimes, &upward.target, mode)?;
    staged(plan, lifetimes, target, &upward, mode).ok_or_else(|| upward.narrow().into())
}

/// The best beside what engines keep for tasks.
fn beside(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, PlanError> {
    let Some(beside) = held::beside(lifetimes, target) else { return planned(lifetimes, target, mode) };
    let (tier, room) = (target.device(), target.tier(target.device()).map_or(0, |tier| tier.room().0));
    let no_room = |least| PlanError::NoRoom(Box::new(NoRoom { tier: tier.to_owned(), room, least, below: false }));
    let plan = planned(lifetimes, &beside, mode).map_err(|error| match error {
        PlanError::NoRoom(beside) if !beside.below => {
            no_room(Least { bytes: held::with_berths(beside.least.bytes, lifetimes, target), ..beside.least })
        }
        other => other,
    })?;
    // Berths of no bytes have room where nothing else has.
    if held::reserved(lifetimes, target) > room {
        return Err(no_room(extremes(lifetimes, target)?.0));
    }
    let program = held::placed(plan.program, lifetimes, target);
    Ok(Plan { held: held::bytes(lifetimes, target), program, ..plan })
}

/// The best program, with its bound.
fn planned(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, PlanError> {
    let best = best(lifetimes, target, mode)?;
    let mut plan = match &best.assigned {
        Some(assigned) => summary(&Site::new(assigned, target, mode)?, best.tried),
        None => summary(&Site::new(lifetimes, target, mode)?, best.tried),
    };
    plan.bound = best.bound.unwrap_or(plan.bound);
    Ok(plan)
}

/// The step of the best that a search finds beside what engines keep for tasks; no program is made of it where nothing is staged.
pub(crate) fn step(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Nanos, PlanError> {
    match joined(target) {
        Some(_) => Ok(searched(lifetimes, target, mode)?.timeline.step),
        None => Ok(best(lifetimes, target, mode)?.tried.timeline.step),
    }
}

/// The best that was found.
struct Best {
    /// Lifetimes with the costs of the engines that tasks are assigned to, where those are not all the device's.
    assigned: Option<Lifetimes>,
    tried: Tried,
    /// What nothing beats, whichever engines run the tasks.
    bound: Option<TimeBound>,
}

/// With tasks on the engine of the lower memory too, where that is faster than all of them on the device.
fn best(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Best, PlanError> {
    let site = Site::new(lifetimes, target, mode)?;
    let bound = least_step::bound(lifetimes, &site.machine, mode);
    let enough = |step: Nanos| mode == Mode::Loop && bound.is_some_and(|bound| near(step, bound.time));
    // Where the device alone may be as good as any two engines it goes first, and a split is not looked for if it is.
    let first = enough(site.least_step).then(|| site.alone());
    let split = match &first {
        Some(Ok(alone)) if enough(alone.timeline.step) => None,
        _ => engines::split(&site),
    };
    // No plan with all tasks on the device beats the bound of those: a split that does need not be compared.
    let alone = match &split {
        Some((_, split)) if mode == Mode::Loop && split.timeline.step < site.least_step => None,
        _ => Some(first.unwrap_or_else(|| site.alone())),
    };
    let (assigned, tried) = match (alone, split) {
        (Some(Ok(alone)), Some((_, split))) if alone.timeline.step <= split.timeline.step => (None, alone),
        (_, Some((assigned, split))) => (Some(assigned), split),
        (Some(alone), None) => (None, alone?),
        (None, None) => return Err(PlanError::Empty),
    };
    Ok(Best { assigned, tried, bound })
}

/// The least capacity of the device, and the capacity at which everything stays. None is the least where the memory below is
/// too small for weights to pass through: then [`plan`] says by how much.
pub fn extremes(lifetimes: &Lifetimes, target: &Target) -> Result<(Least, u64), PlanError> {
    let Some(joined) = joined(target) else { return extremes_of(lifetimes, target) };
    match (extremes_of(lifetimes, &joined.target), extremes_of(lifetimes, target)) {
        (Ok(through), Ok(direct)) => Ok(if through.0.bytes < direct.0.bytes { through } else { direct }),
        (through, Err(PlanError::Machine(_))) => through,
        (_, direct) => direct,
    }
}

fn extremes_of(lifetimes: &Lifetimes, target: &Target) -> Result<(Least, u64), PlanError> {
    let beside = held::beside(lifetimes, target);
    let site = Site::new(lifetimes, beside.as_ref().unwrap_or(target), Mode::Loop)?;
    let mut all = Choice::least(lifetimes);
    all.pinned = site.weights();
    let full = site.place(stays(lifetimes, &site.machine, &all), 0).map_or(u64::MAX, |p| p.device.height);
    let least = site.least();
    let with_held = |bytes: u64| held::with_berths(bytes, lifetimes, target);
    Ok((Least { bytes: with_held(least.bytes), ..least }, with_held(full)))
}

impl Site<'_> {
    /// The best found with all tasks on the device.
    pub fn alone(&self) -> Result<Tried, PlanError> {
        let (base, placed) = self.base().map_err(|room| PlanError::NoRoom(Box::new(room)))?;
        // The base fits, and it is the first that is tried: there is a best.
        let found = |lowerings| self.improved_on(self.search(&base, placed.clone(), lowerings)?);
        let best = found(self.lowerings(&base)).ok_or(PlanError::Empty)?;
        // A memory more is no reason to be slower: without it other improvements are found.
        let plain = best.choice.lowered == base.lowered || self.machine.further.is_empty();
        let without = if plain { None } else { found(vec![base.lowered.clone()]) };
        Ok(self.rounded(without.filter(|without| without.timeline.step < best.timeline.step).unwrap_or(best)))
    }

    /// What a search found, and what is faster than that.
    fn improved_on(&self, best: Tried) -> Option<Tried> {
        let searched = best.choice.clone();
        let best = self.annealed(self.hold_a_part(self.improved(self.kept(best)?)));
        if best.choice == searched { Some(best) } else { self.shared_otherwise(best) }
    }
}
