//! Plans what leaves the device, where to and when, for any number of memories below it.
//!
//! Reads:    lifetimes, target.
//! Decides:  which bytes are where at each moment of a step, and each copy: link, start, end.
//! Promises: a schedule that repeats: a step ends as it began, each task finds all that it needs, nothing overfull.
//! Why:      the simulator is the planner: what is decided is decided at a moment of a simulated step, knowing what is
//!           where, what moves and what the rest of the step will hold. A few tries differ in how eagerly bytes return.

mod bound;
mod problem;
mod replay;
mod rules;
mod tree;
mod world;

use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::target::Target;
use berth_ir::units::Nanos;
use problem::Problem;
use rules::{Pace, Run, STEPS, Taste};

/// How eagerly bytes return to the device: hundredths of a rate that must be needed. Measured on five training steps; the
/// first alone is within 0.3 % of the best on each.
const TASTES: [Taste; 3] = [Taste { late: 60 }, Taste { late: 30 }, Taste { late: 0 }];

/// Times that a step is planned with the times of the one before.
const PASSES: usize = 3;

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
    let mut best = None;
    improve(&mut best, &problem, &TASTES, PASSES);
    for rate in problem.rungs().into_iter().take(RUNGS_MAX) {
        improve(&mut best, &problem.paced(rate), &TASTES[..1], 2);
    }
    best.ok_or(CannotSchedule::Stuck)
}

/// Tries tastes, each a few times over with the pace of the time before, until nothing waits.
fn improve(best: &mut Option<Schedule>, problem: &Problem, tastes: &[Taste], passes: usize) {
    for taste in tastes {
        let mut pace = Pace::ideal(problem);
        for _ in 0..passes {
            let least = best.as_ref().map_or(u64::MAX, |b| b.step.0);
            if least <= problem.busy() {
                return;
            }
            let Some((found, next)) = attempt(problem, &pace, *taste, least) else { break };
            pace = next;
            if let Some(found) = found.filter(|f| f.step.0 < least) {
                *best = Some(found);
            }
        }
    }
}

/// A step time that no schedule beats. `reached` is that of one that was found: the nearer, the sooner a bound is found.
pub fn bound(lifetimes: &Lifetimes, target: &Target, reached: Nanos) -> Result<Nanos, CannotSchedule> {
    Ok(Nanos(bound::bound(&Problem::of(lifetimes, target, None)?, reached.0)))
}

/// One run: its steady step if it has one of less than `least`, and its pace for the next run. Nothing where it got stuck.
fn attempt(problem: &Problem, pace: &Pace, taste: Taste, least: u64) -> Option<(Option<Schedule>, Pace)> {
    let mut run = Run::new(problem, pace.clone(), taste);
    if !run.steps(STEPS) {
        return None;
    }
    let (world, recorded) = (run.world, STEPS - 3);
    let (moved, starts) = replay::record(problem, &world, recorded);
    let count = problem.tasks.len();
    let at = |step: u64| world.starts[step as usize * count];
    let step = at(recorded + 1) - at(recorded);
    let next = Pace { starts: starts.clone(), step };
    if step >= least {
        return Some((None, next));
    }
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
