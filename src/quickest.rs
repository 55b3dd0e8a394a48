//! Which form of a model has the shortest step: as it is, with results made again, with large operators in pieces.
//!
//! What is too large to wait beside others as it comes keeps a link idle, and room that waits for it is room in which nothing
//! stays. So where weights come in each step and that takes longer than it must, operators are cut into pieces of a part of
//! what is usual, finer until it no longer pays. Where files are read in each step, only what lies in one range of them is cut.
//! Where results are put aside, some are made again instead.

use crate::failure::Failure;
use crate::machine;
use crate::model::{self, Dims};
use crate::split::{Model, Pieces, Wanted, as_it_is, needs, put, recomputed, restricted, room, smaller};
use berth_compiler::lower::Lowered;
use berth_compiler::machine::Machine;
use berth_compiler::plan::{Plan, plan};
use berth_compiler::split::{THREADS, usual};
use berth_ir::Target;
use berth_ir::graph::Graph;
use berth_ir::program::{Mode, Split};

/// A step that is longer than what nothing beats by less than this part of it is not looked at further.
const NEAR_PART: u64 = 20;

/// The part of a step that pieces must save: their calls are counted, but estimated.
const WORTH_PART: u64 = 100;

/// Parts of what the usual operator holds that one may hold, one after the other.
const PARTS: [u64; 4] = [4, 1, 8, 16];

/// Sizes of pieces that are tried in vain, one after the other, before the search ends.
const VAIN_MAX: usize = 2;

/// Tasks of the largest model of which forms are looked for.
const LARGEST: usize = 20_000;

/// Tasks in pieces of all sizes beyond which no finer ones are planned for, which takes about a millisecond for each.
const TASKS_MAX: usize = 2_500;

/// A model, split if the memory that is wanted is less than it needs as it is, or if it is faster so.
pub fn for_memory(graph: &Graph, dims: &Dims, wanted: &Wanted) -> Result<Model, Failure> {
    let ready = model::ready(graph, dims, wanted.target, wanted.states)?;
    let Some((least, budgeted)) = needs(&ready.lowered, wanted)? else { return Ok(as_it_is(ready)) };
    let asked = machine::wants_least(wanted.target, wanted.memory);
    let whole = Pieces { model: Model { budgeted: Some(budgeted), ..as_it_is(ready) }, least };
    let smaller = match asked || whole.least.bytes > room(&whole.model) {
        true => smaller(&whole, asked, dims, wanted)?,
        false => None,
    };
    if asked {
        return Ok(smaller.unwrap_or(whole.model));
    }
    quickest(whole, smaller, dims, wanted)
}

/// Of a model as it is, or as it was made smaller to fit, and what else it could be, that with the shortest step.
fn quickest(whole: Pieces, smaller: Option<Model>, dims: &Dims, wanted: &Wanted) -> Result<Model, Failure> {
    let (spills, is_whole, Pieces { model: whole, .. }) = (whole.least.spills, smaller.is_none(), whole);
    let target = whole.budgeted.clone().unwrap_or_else(|| wanted.target.clone());
    let planned = |lowered: &Lowered| -> Result<Option<Plan>, Failure> {
        Ok(plan(restricted(lowered, wanted)?.as_ref(), &target, Mode::Loop).ok())
    };
    let again = match spills && is_whole {
        true => again(&whole, &target, dims, wanted)?,
        false => None,
    };
    let first = smaller.as_ref().unwrap_or(&whole);
    let looks = first.lowered.lifetimes.tasks.len() <= LARGEST && first.lowered.recompute.is_empty();
    if !looks && again.is_none() {
        return Ok(smaller.unwrap_or(whole));
    }
    // What has no plan is said when it is asked for.
    let Some(mut best) = planned(&first.lowered)? else { return Ok(smaller.unwrap_or(whole)) };
    let mut other = None;
    if let Some(again) = again
        && let Some(plan) = planned(&again.lowered)?.filter(|plan| plan.timeline.step < best.timeline.step)
    {
        (best, other) = (plan, Some(again));
    }
    let (mut tasks, mut vain, usual) = (0, 0, usual(&whole.lowered.lifetimes));
    for part in PARTS.into_iter().filter(|_| looks) {
        // Where an engine computes nearly all the time, or all comes in the time that it must, pieces win nothing.
        let least = best.timeline.step.0 - best.timeline.step.0 / NEAR_PART;
        let is_near = least <= best.bound.time.0 || least <= best.timeline.step.0 - best.timeline.idle.0;
        if is_near || best.streamed == 0 || vain == VAIN_MAX {
            break;
        }
        // With some for what every piece holds.
        let room = usual / part + usual / part / 16;
        let contiguous = reads_files(&best, &target);
        let how = Split { room, threads: wanted.threads.max(THREADS), contiguous };
        let Some(pieces) = put(&whole, dims, wanted.target, how)? else { break };
        tasks += pieces.lowered.lifetimes.tasks.len();
        if tasks > if part == PARTS[0] { LARGEST } else { TASKS_MAX } {
            break;
        }
        let worth = best.timeline.step.0 - best.timeline.step.0 / WORTH_PART;
        match planned(&pieces.lowered)?.filter(|plan| plan.timeline.step.0 < worth) {
            Some(plan) => (best, other, vain) = (plan, Some(pieces), 0),
            None => vain += 1,
        }
    }
    // A budget is in bytes: it means the same for all.
    let model = other.or(smaller).unwrap_or(whole);
    Ok(Model { budgeted: Some(target), plan: Some(best), ..model })
}

/// A model that puts results aside with those made again that are made sooner than moved.
fn again(whole: &Model, target: &Target, dims: &Dims, wanted: &Wanted) -> Result<Option<Model>, Failure> {
    let Ok(machine) = Machine::of(target) else { return Ok(None) };
    let Some(aside) = machine.device_to_lower.map(|link| link.present_rate()) else { return Ok(None) };
    recomputed(whole, dims, machine.device.room().0, Some(aside), wanted)
}

/// Whether files are read in each step.
fn reads_files(plan: &Plan, target: &Target) -> bool {
    let from_files = |name: &String| {
        let link = target.links.iter().find(|link| link.name == *name);
        link.and_then(|link| target.tier(&link.from)).is_some_and(|tier| tier.files)
    };
    crate::summary::traffic(&plan.program).iter().any(|(link, bytes)| *bytes > 0 && from_files(link))
}
