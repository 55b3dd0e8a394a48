//! Plans what leaves the device, where to and when, for any number of memories below it.
//!
//! Reads:    lifetimes, target.
//! Decides:  which bytes are where at each moment of a step, and each copy: link, start, end.
//! Promises: a schedule that repeats: a step ends as it began, each task finds all that it needs, nothing overfull.
//! Why:      the simulator is the planner: what is decided is decided at a moment of a simulated step, knowing what is
//!           where, what moves and what the rest of the step will hold. A few tries differ in how eagerly bytes return.

mod bound;
mod cholesky;
mod fluid;
mod interior;
mod problem;
mod replay;
mod rules;
mod tree;
mod world;

use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::target::Target;
use berth_ir::units::Nanos;
use problem::Problem;
use rules::{Pace, Quotas, Run, STEPS, Taste};

/// How eagerly bytes return to the device: hundredths of a rate that must be needed. Measured on five training steps; the
/// first alone is within 0.3 % of the best on each.
const TASTES: [Taste; 3] =
    [Taste { late: 60, exact: true }, Taste { late: 30, exact: true }, Taste { late: 0, exact: true }];

/// How closely quotas are kept to: where memory is starved the first is nearer to its bound, by a twentieth; else now one, now
/// the other, by less than a hundredth.
const CLOSELY: [Taste; 2] = [TASTES[0], Taste { exact: false, ..TASTES[0] }];

/// Times that a step is planned with the times of the one before.
const PASSES: usize = 3;

/// The same with quotas.
const PASSES_GUIDED: usize = 2;

/// The pieces of which the device is full, and the times that a step is planned, for a rough schedule.
const ROUGH_PIECES: u64 = 1_000;
const ROUGH_PASSES: usize = 2;

/// A step that is longer than its bound by less than one part in so many is not tried to be bettered.
const ENOUGH: u64 = 1_000;

/// Lower rates that are tried for the slowest tier.
const RUNGS_MAX: usize = 3;

/// What moves when, in a step that repeats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From the start of a step to the start of the next.
    pub step: Nanos,
    /// When each task starts, from the start of its step.
    pub starts: Vec<Nanos>,
    /// What is copied and dropped in each step, by start.
    pub copies: Vec<Copy>,
}

/// A part of a tensor that is moved between two of its uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Whose bytes.
    pub tensor: TensorId,
    /// The use before, by index; the gap ends with the next use, which may be the first one of the next step.
    pub gap: usize,
    /// How many.
    pub bytes: u64,
    /// Index in the target's links; nothing for bytes that are dropped because their home has them.
    pub link: Option<usize>,
    /// From the start of the step of the use before.
    pub start: Nanos,
    /// From the same; the bytes are there.
    pub end: Nanos,
}

/// Why there is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotSchedule {
    /// Nothing to run.
    #[error("there is no task to schedule")]
    Empty,
    /// One task alone does not fit.
    #[error("task `{task}` needs {needed} bytes at once, and the device has {room}")]
    TaskTooLarge {
        /// Its name.
        task: String,
        /// Bytes.
        needed: u128,
        /// Bytes.
        room: u64,
    },
    /// The memories together are too small, or no link leads to those that are not.
    #[error("no schedule was found: all memories that can be reached are full, or a link is missing")]
    Stuck,
}

/// Plans a step that repeats, in copies of at most `piece` bytes, or of the links' chunks.
///
/// The slowest tier's lanes are also tried at lower rates, from a ladder that is the same for all machines: a disk that is
/// faster than another can do what that one does, so it is never slower for being planned for more eagerly.
pub fn schedule(lifetimes: &Lifetimes, target: &Target, piece: Option<u64>) -> Result<Schedule, CannotSchedule> {
    let problem = Problem::of(lifetimes, target, piece)?;
    let direct = problem.direct();
    let mut best = None;
    plan(&mut best, &direct, &TASTES[1..]);
    if direct.lanes.len() < problem.lanes.len() {
        // What joins two lower tiers may help, and is no reason to be slower.
        plan(&mut best, &problem, &[]);
    }
    best.ok_or(CannotSchedule::Stuck)
}

/// A schedule that repeats, found with little work, for whole tensors to be rounded to; nothing where none is found so.
pub(crate) fn rough(lifetimes: &Lifetimes, target: &Target) -> Option<Schedule> {
    let piece = target.tier(target.device()).map(|t| t.room().0 / ROUGH_PIECES);
    let problem = Problem::of(lifetimes, target, piece).ok()?;
    let mut best = None;
    improve(&mut best, &problem.direct(), &TASTES[..1], ROUGH_PASSES, None, problem.busy());
    best
}

/// Betters a schedule, if it can: by the load alone, then by what the best flow of bytes gives the slower tiers; and where
/// there are more tastes, by those and at lower rates.
fn plan(best: &mut Option<Schedule>, problem: &Problem, more: &[Taste]) {
    improve(best, problem, &TASTES[..1], PASSES, None, problem.busy());
    if best.as_ref().is_some_and(|best| best.step.0 <= problem.busy()) {
        return;
    }
    let forecast = bound::forecast(problem);
    let enough = forecast.bound.saturating_add(forecast.bound / ENOUGH);
    improve(best, problem, &CLOSELY, PASSES_GUIDED, Some(&forecast.quotas), enough);
    if more.is_empty() {
        return;
    }
    improve(best, problem, more, PASSES, None, enough);
    for rate in problem.rungs().into_iter().take(RUNGS_MAX) {
        improve(best, &problem.paced(rate), &TASTES[..1], 2, None, enough);
    }
}

/// Tries tastes, each a few times over with the pace of the time before, until a step takes no longer than `enough`.
fn improve(
    best: &mut Option<Schedule>,
    problem: &Problem,
    tastes: &[Taste],
    passes: usize,
    quotas: Option<&Quotas>,
    enough: u64,
) {
    for taste in tastes {
        let mut pace = Pace::ideal(problem);
        for _ in 0..passes {
            let least = best.as_ref().map_or(u64::MAX, |b| b.step.0);
            if least <= enough {
                return;
            }
            let Some((found, next)) = attempt(problem, &pace, *taste, quotas, least) else { break };
            pace = next;
            if let Some(found) = found.filter(|f| f.step.0 < least) {
                *best = Some(found);
            }
        }
    }
}

/// A step time that no schedule beats. `reached` is that of one that was found.
pub fn bound(lifetimes: &Lifetimes, target: &Target, reached: Nanos) -> Result<Nanos, CannotSchedule> {
    let problem = Problem::of(lifetimes, target, None)?;
    let busy = problem.busy();
    Ok(Nanos(if reached.0 <= busy { busy } else { bound::forecast(&problem).bound.min(reached.0) }))
}

/// The same where a memory below may keep what it held until that is written, so that it need not be moved there again.
pub fn bound_with_clean_drops(lifetimes: &Lifetimes, target: &Target) -> Result<Nanos, CannotSchedule> {
    let problem = Problem::of(lifetimes, target, None)?.with_clean_drops(lifetimes);
    Ok(Nanos(bound::forecast(&problem).bound))
}

/// One run: its steady step if it has one of less than `least`, and its pace for the next run. Nothing where it got stuck.
fn attempt(
    problem: &Problem,
    pace: &Pace,
    taste: Taste,
    quotas: Option<&Quotas>,
    least: u64,
) -> Option<(Option<Schedule>, Pace)> {
    let mut run = Run::new(problem, pace.clone(), taste, quotas);
    let count = problem.tasks.len();
    let recorded = STEPS - 3;
    // Until the recorded step's end is known: if it is too long, the rest is not run.
    if !run.tasks((recorded + 1) * count as u64 + 1) {
        return None;
    }
    let starts = replay::starts(problem, &run.world, recorded);
    let at = |step: u64| run.world.starts[step as usize * count];
    let step = at(recorded + 1) - at(recorded);
    let next = Pace { starts, step };
    if step >= least {
        return Some((None, next));
    }
    if !run.tasks(STEPS * count as u64) {
        return None;
    }
    let world = run.world;
    let (moved, starts) = replay::record(problem, &world, recorded);
    if replay::alike(problem, &world, recorded) {
        return Some((Some(finish(problem, &moved, &starts, step)), next));
    }
    let found = replay::settle(problem, &moved, &starts, step).map(|(world, settled)| {
        let (moved, starts) = replay::record(problem, &world, settled);
        let at = |step: u64| world.starts[step as usize * count];
        finish(problem, &moved, &starts, at(settled + 1) - at(settled))
    });
    Some((found, next))
}

fn finish(problem: &Problem, moved: &[world::Moved], starts: &[u64], step: u64) -> Schedule {
    let copies = moved.iter().map(|m| Copy {
        tensor: TensorId(m.item as u32),
        gap: m.gap,
        bytes: m.bytes,
        link: m.lane.map(|l| problem.lanes[l].link),
        start: Nanos(m.start),
        end: Nanos(m.end),
    });
    Schedule { step: Nanos(step), starts: starts.iter().map(|s| Nanos(*s)).collect(), copies: copies.collect() }
}
