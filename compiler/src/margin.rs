//! Says what a little more of the machine would buy: a GiB of a memory, a tenth of a link's rate.
//!
//! Reads:    lifetimes, target, a plan for it.
//! Decides:  nothing that is run: for each it plans about the plan at hand, and simulates.
//! Promises: no step that is longer than the plan's; what is said was planned, not extrapolated.
//! Why:      what a plan does with a little more is near what it does, so the choice at hand is widened and not searched
//!           again: more weights stay, the same window streams. Where two engines share the tasks, they are shared again.

use crate::bound::TimeBound;
use crate::held;
use crate::least_step;
use crate::machine::Machine;
use crate::made::{Plan, staged, summary};
use crate::simulate::{STEPS, timeline};
use crate::site::{self, Site};
use crate::staging::joined;
use crate::step::Step;
use berth_ir::lifetime::{Lifetimes, Task};
use berth_ir::program::Mode;
use berth_ir::target::{Computing, LinkState, Target, Tier};
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use std::collections::BTreeSet;

/// What is added to a memory.
const MORE: u64 = 1 << 30;

/// What is added to a rate: one part in so many.
const FASTER_PART: u64 = 10;

/// Of a step, the part below which waiting does not count: two per cent.
const WAITING_PART: u64 = 50;

/// One thing more, and the step with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Margin {
    /// Of what: a tier for a GiB more, a link for a tenth more of its rate.
    pub of: Of,
    /// Predicted time of a step.
    pub step: Nanos,
}

/// A part of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// A memory, by name; one GiB more.
    Tier(String),
    /// A link, by name; a tenth more of its rate.
    Link(String),
}

/// What sets a step's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The engine all but never waits.
    Compute,
    /// A faster link would help more than as much more memory.
    Link,
    /// More memory would help more than as much of a faster link.
    Capacity,
}

/// What each memory that a program uses and each link that it uses would buy with a little more.
pub fn margins(lifetimes: &Lifetimes, target: &Target, plan: &Plan) -> Vec<Margin> {
    // What engines keep stays where it is.
    let beside = held::beside(lifetimes, target);
    let target = beside.as_ref().unwrap_or(target);
    let at_most = |step: Nanos| step.min(plan.timeline.step);
    let mut all = Vec::new();
    for arena in &plan.program.arenas {
        let larger = larger(target, &arena.tier);
        let step = match is_enough(lifetimes, target, &larger, &arena.tier, plan) {
            true => plan.timeline.step,
            false => widened(lifetimes, &larger, plan).unwrap_or(plan.timeline.step),
        };
        all.push(Margin { of: Of::Tier(arena.tier.clone()), step: at_most(step) });
    }
    let body = plan.program.bodies.first().map_or("", |b| &b.name);
    let used = plan.program.facts.traffic.iter().filter(|t| t.part == body && t.bytes > 0);
    for traffic in used {
        let target = faster(target, &traffic.link);
        let step = timeline(&target, &Step::of_program(&target, &plan.program, &BTreeSet::new()), STEPS).step;
        all.push(Margin { of: Of::Link(traffic.link.clone()), step: at_most(step) });
    }
    all
}

/// What sets the time of a plan's step: a tenth of the device's memory is weighed against a tenth of a link's rate.
pub fn limit(target: &Target, plan: &Plan, margins: &[Margin]) -> Limit {
    let step = plan.timeline.step;
    if plan.timeline.idle.0 <= step.0 / WAITING_PART {
        return Limit::Compute;
    }
    let saved = |m: &Margin| step.0 - m.step.0.min(step.0);
    let link = margins.iter().filter(|m| matches!(m.of, Of::Link(_))).map(saved).max().unwrap_or(0);
    let device = margins.iter().find(|m| matches!(&m.of, Of::Tier(t) if t == target.device())).map_or(0, saved);
    let room = target.tier(target.device()).map_or(0, |t| t.room().0);
    let tenth = u128::from(device) * u128::from(room / FASTER_PART) / u128::from(MORE);
    if tenth > u128::from(link) { Limit::Capacity } else { Limit::Link }
}

/// The step of a plan's choice with as much more staying as a larger machine has room for.
fn widened(lifetimes: &Lifetimes, target: &Target, plan: &Plan) -> Option<Nanos> {
    if plan.choice.host.contains(&true) {
        // Other tasks may run elsewhere then; with few windows for each assignment that is soon found.
        return crate::plan::step(lifetimes, target, Mode::Loop).ok();
    }
    let joined = joined(target);
    let near = joined.as_ref().map_or(target, |joined| &joined.target);
    let site = Site::new(lifetimes, near, Mode::Loop).ok()?;
    let tried = site.widened(&plan.choice)?;
    match &joined {
        Some(joined) => staged(summary(&site, tried), lifetimes, target, joined, Mode::Loop).map(|p| p.timeline.step),
        None => Some(tried.timeline.step),
    }
}

/// Whether a larger tier has nothing to give, so that nothing need be planned: no plan with it is faster; or a memory below
/// the device has room for everything twice as it is, and what is planned with two engines would be what was planned.
fn is_enough(lifetimes: &Lifetimes, target: &Target, larger: &Target, tier: &str, plan: &Plan) -> bool {
    let (Ok(before), Ok(after)) = (Machine::of(target), Machine::of(larger)) else { return false };
    // What engines compute does not fall with room.
    let near = |bound: TimeBound| site::near(plan.timeline.step, bound.time);
    if (plan.bound.by_compute && near(plan.bound)) || least_step::bound(lifetimes, &after, Mode::Loop).is_some_and(near)
    {
        return true;
    }
    // Without a second engine the choice is widened on the first alone.
    let host = &plan.choice.host;
    if !host.contains(&true) && site::near(plan.timeline.step, least_step::least(lifetimes, &after, host)) {
        return true;
    }
    let lower = before.lower.filter(|lower| lower.name == tier && after.lower.is_some_and(|l| l.name == tier));
    let spent = |lower: &Tier| {
        let size = |bytes: u64| u128::from(bytes).next_multiple_of(u128::from(lower.alignment.max(1)));
        let tensors = lifetimes.tensors.iter().map(|t| size(t.bytes)).sum::<u128>();
        let scratch = |t: &Task| t.others.iter().map(|o| o.workspace).chain([t.workspace]).map(size).sum::<u128>();
        2 * (tensors + lifetimes.tasks.iter().map(scratch).sum::<u128>())
    };
    plan.choice.host.contains(&true) && lower.is_some_and(|lower| spent(lower) <= u128::from(lower.room().0))
}

/// The target with a GiB more of a tier.
fn larger(target: &Target, tier: &str) -> Target {
    let mut target = target.clone();
    if let Some(tier) = target.tier_mut(tier) {
        let room = tier.room().0;
        tier.budget = Some(Bytes(room.saturating_add(MORE)));
        tier.capacity = Bytes(tier.capacity.0.saturating_add(MORE));
    }
    target
}

/// The target with a link that is a tenth faster.
fn faster(target: &Target, link: &str) -> Target {
    let more = |rate: BytesPerSec| BytesPerSec(rate.0.saturating_add(rate.0 / FASTER_PART));
    let mut target = target.clone();
    for link in target.links.iter_mut().filter(|l| l.name == link) {
        link.rate = more(link.rate);
        link.beside = link.beside.map(more);
        link.computing = link.computing.map(|computing| Computing { rate: more(computing.rate), ..computing });
        if let LinkState::Degraded(rate) = &mut link.state {
            *rate = more(*rate);
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ir::units::Part;

    #[test]
    fn a_faster_link_is_faster_beside_every_task() {
        let host = include_str!("../../targets/host.ron");
        let mut target = Target::from_ron(host).unwrap();
        let half = BytesPerSec(target.links[0].rate.0 / 2);
        target.links[0].beside = Some(half);
        target.links[0].computing = Some(Computing { rate: half, slows: Part(300_000) });
        let (before, after) = (&target.links[0], &faster(&target, &target.links[0].name).links[0]);
        let tenth = |before: BytesPerSec, after: BytesPerSec| after.0 == before.0 + before.0 / FASTER_PART;
        assert!(tenth(before.rate, after.rate) && tenth(half, after.beside.unwrap()), "{after:?}");
        let computing = after.computing.unwrap();
        assert!(tenth(half, computing.rate) && computing.slows == Part(300_000), "{after:?}");
    }
}
