//! Runs tasks one after the other, round after round, as a step does: what each takes in the company of the others.
//!
//! A task by itself, run a few times in a row, finds its code, its operands and the engine's threads as no step leaves them,
//! and a machine that others use too may be fast or slow for just those moments. In rounds every task meets both.

#![allow(unsafe_code, reason = "gives engines addresses of an arena of its own")]

use crate::arena::Arena;
use crate::engine::{ALIGNMENT, BindingId, Engine, EngineError, TaskCode};
use crate::errors::LoadError;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

/// A task of a rehearsal.
#[derive(Clone, Debug)]
pub struct Cue {
    /// What the engine runs.
    pub code: TaskCode,
    /// Bytes of workspace that it needs.
    pub workspace: u64,
    /// The first byte of each port in the memory of the rehearsal, inputs first.
    pub places: Vec<u64>,
}

/// Tasks in order, and the memory that they share.
#[derive(Clone, Debug, Default)]
pub struct Stage {
    /// The tasks.
    pub cues: Vec<Cue>,
    /// Bytes of their ports together, workspace not counted.
    pub bytes: u64,
    /// What the caller writes before each round; with zeros here, as everything is at first.
    pub fed: Vec<Range<u64>>,
}

/// What a rehearsal came to, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rehearsed {
    /// By task, the median of the rounds; nothing where it failed in one.
    pub tasks: Vec<Option<u64>>,
    /// What those that never failed took together, the median of the rounds.
    pub round: u64,
}

/// Runs a stage in as many rounds as `rounds` ends with, and one before to warm up; once they have taken `enough`, only as
/// many as it starts with, and one at least.
///
/// # Errors
/// [`LoadError::Memory`] where there is no memory for it or a port lies outside; what stopped the engine. A task that
/// fails by itself is left out from then on.
pub fn rehearse<E: Engine>(
    engine: &mut E,
    stage: &Stage,
    rounds: RangeInclusive<usize>,
    enough: Duration,
) -> Result<Rehearsed, LoadError> {
    let workspace = stage.cues.iter().map(|cue| cue.workspace).max().unwrap_or(0);
    let memory = || LoadError::Memory { tier: "a rehearsal".to_owned(), bytes: stage.bytes.saturating_add(workspace) };
    let from = stage.bytes.checked_next_multiple_of(ALIGNMENT).ok_or_else(memory)?;
    let arena = Arena::new(from.checked_add(workspace).ok_or_else(memory)?).ok_or_else(memory)?;
    let mut bound = Vec::new();
    let made = bind_all(engine, stage, &arena, &mut bound);
    let seen = made.and_then(|()| {
        let began = Instant::now();
        let mut seen: Vec<Option<Vec<u64>>> = bound.iter().map(|b| b.map(|_| Vec::new())).collect();
        for round in 0..=*rounds.end().max(&1) {
            if round > *rounds.start().max(&1) && began.elapsed() > enough {
                break;
            }
            for range in &stage.fed {
                // SAFETY: nothing runs between two rounds.
                let fed = unsafe { arena.slice_mut(range.start, range.end.saturating_sub(range.start)) };
                fed.ok_or_else(memory)?.fill(0);
            }
            for ((cue, binding), seen) in stage.cues.iter().zip(&bound).zip(&mut seen) {
                let (Some(binding), Some(times)) = (binding, seen.as_mut()) else { continue };
                let space = arena.address(from, cue.workspace).ok_or_else(memory)?;
                let start = Instant::now();
                // SAFETY: the arena is this call's own, holds every port (`bind_all`) and the workspace, and one task runs
                // at a time.
                let result = unsafe { engine.run(*binding, (space, cue.workspace as usize)) };
                let nanos = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
                match result {
                    Ok(()) if round > 0 => times.push(nanos),
                    Ok(()) => {}
                    Err(stopped @ EngineError::Stopped { .. }) => return Err(stopped.into()),
                    // On what tasks before it make of zeros it does not run.
                    Err(_) => *seen = None,
                }
            }
        }
        Ok(summed_up(seen))
    });
    bound.into_iter().flatten().for_each(|binding| engine.unbind(binding));
    seen
}

fn bind_all<E: Engine>(
    engine: &mut E,
    stage: &Stage,
    arena: &Arena,
    bound: &mut Vec<Option<BindingId>>,
) -> Result<(), LoadError> {
    for Cue { code, places, .. } in &stage.cues {
        let outside = || LoadError::Memory { tier: format!("a rehearsal of `{}`", code.name), bytes: stage.bytes };
        if code.ports().count() != places.len() {
            return Err(outside());
        }
        let mut addresses = Vec::new();
        for (port, place) in code.ports().zip(places) {
            let bytes = port.bytes().filter(|bytes| place.checked_add(*bytes).is_some_and(|end| end <= stage.bytes));
            let bytes = bytes.ok_or_else(outside)?;
            addresses.push(arena.address(*place, bytes).ok_or_else(outside)?);
            if let Some(trial) = &port.trial {
                // SAFETY: nothing runs yet.
                let target = unsafe { arena.slice_mut(*place, bytes) }.ok_or_else(outside)?;
                target.get_mut(..trial.len()).ok_or_else(outside)?.copy_from_slice(trial);
            }
        }
        let session = engine.prepare(code)?;
        let (inputs, outputs) = addresses.split_at(code.inputs.len());
        // SAFETY: inside the arena, as just checked, which outlives the bindings; one task runs at a time.
        bound.push(unsafe { engine.bind(session, code, inputs, outputs) }.map(Some).or_else(|error| match error {
            EngineError::Engine { .. } => Ok(None),
            error => Err(error),
        })?);
    }
    Ok(())
}

fn summed_up(seen: Vec<Option<Vec<u64>>>) -> Rehearsed {
    let rounds = seen.iter().flatten().map(Vec::len).max().unwrap_or(0);
    let rounds = (0..rounds).map(|n| seen.iter().flatten().filter_map(|times| times.get(n)).sum::<u64>());
    let round = median(rounds.collect()).unwrap_or(0);
    Rehearsed { tasks: seen.into_iter().map(|times| median(times?)).collect(), round }
}

fn median(mut all: Vec<u64>) -> Option<u64> {
    all.sort_unstable();
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_the_median_of_sums_and_what_failed_is_in_none() {
        let seen = vec![Some(vec![1, 2, 30]), None, Some(vec![10, 40, 20])];
        assert_eq!(summed_up(seen), Rehearsed { tasks: vec![Some(2), None, Some(20)], round: 42 });
        assert_eq!(summed_up(vec![]), Rehearsed::default());
    }
}
