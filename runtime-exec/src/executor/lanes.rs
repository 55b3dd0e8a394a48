//! Engines and the caller: who computes, who brings inputs and takes outputs.

#![allow(
    unsafe_code,
    reason = "hands ranges of arenas to engines and the caller; the verifier proved who may touch them when"
)]

use crate::arena::Arena;
use crate::engine::{ALIGNMENT, Engine, SessionId, Stopper};
use crate::errors::{LoadError, RunError};
use crate::executor::board::Instance;
use crate::executor::hand::Times;
use crate::executor::host::Host;
use crate::executor::keep::Room;
use crate::executor::load::{bind, check_workspace, mismatch};
use crate::executor::record::Records;
use crate::executor::table::{Item, Table, Work};
use crate::executor::{Caller, Shared, TaskPorts};
use crate::open::Bound;
use std::collections::BTreeMap;
use std::time::Duration;

/// An engine with its tasks.
pub(crate) struct Seat<E> {
    lane: usize,
    engine: E,
    /// By half and instruction.
    bound: [Vec<Option<Bound>>; 2],
    /// Sessions that keep weights, by task.
    kept: BTreeMap<usize, SessionId>,
}

impl<E: Engine> Seat<E> {
    pub fn new(lane: usize, engine: E, table: &Table) -> Seat<E> {
        let bound = table.halves.each_ref().map(|half| half.iter().map(|_| None).collect());
        Seat { lane, engine, bound, kept: BTreeMap::new() }
    }

    /// Has the engine take the weights that it keeps for its tasks.
    pub fn keep(&mut self, table: &Table, room: &Room, ports: &[TaskPorts]) -> Result<(), LoadError> {
        for half in 0..2 {
            for index in &table.lanes[self.lane].items[half] {
                let Work::Run { task, .. } = &table.halves[half][*index].work else { continue };
                if let (Some(ports), false) = (ports.get(*task), self.kept.contains_key(task)) {
                    let session = room.keep(&mut self.engine, *task, ports)?;
                    self.kept.extend(session.map(|session| (*task, session)));
                }
            }
        }
        Ok(())
    }

    /// Gives the engine its tasks at their addresses; with `measure`, each is tried before.
    pub fn bind(
        &mut self,
        table: &Table,
        arenas: &[Arena],
        ports: &[TaskPorts],
        measure: bool,
    ) -> Result<(), LoadError> {
        let mut tried = BTreeMap::new();
        for half in 0..2 {
            for index in &table.lanes[self.lane].items[half] {
                let item = &table.halves[half][*index];
                let Work::Run { task, ranges, workspace } = &item.work else { continue };
                let ports = ports.get(*task).ok_or_else(|| mismatch(&item.name, 0, "there is no code".to_owned()))?;
                let session = match self.kept.get(task) {
                    Some(session) => *session,
                    None => self.engine.prepare(&ports.code)?,
                };
                if measure {
                    let planned = workspace.map_or(0, |w| w.bytes);
                    check_workspace(&mut self.engine, session, ports, planned, &mut tried)?;
                }
                self.bound[half][*index] = Some(bind(&mut self.engine, session, arenas, item, ports, ranges)?);
            }
        }
        Ok(())
    }

    pub fn lane(&self) -> usize {
        self.lane
    }

    pub fn stopper(&self) -> Stopper {
        self.engine.stopper()
    }

    pub fn into_engine(mut self) -> E {
        for bound in self.bound.into_iter().flatten().flatten() {
            self.engine.unbind(bound.binding);
        }
        // Their weights lie in arenas that go now.
        for session in self.kept.into_values() {
            self.engine.forget(session);
        }
        self.engine
    }

    /// Computes until there is nothing more to compute. The engine is the `place`-th of the program's.
    pub fn work<H: Host>(&mut self, shared: &Shared<H>, place: usize, start: u64, records: &mut Records) {
        let (engine, bound) = (&mut self.engine, &mut self.bound);
        let mut clock = Clock { start, free: 0 };
        work(shared, self.lane, Some(place), start, records, |instance, item| {
            let Work::Run { task, workspace, .. } = &item.work else { return Ok(()) };
            let began = shared.since(start);
            let space =
                workspace.and_then(|w| Some((shared.arenas[w.arena].address(w.offset, w.bytes)?, w.bytes as usize)));
            let space = space.unwrap_or((std::ptr::without_provenance_mut(ALIGNMENT as usize), 0));
            let Some(bound) = &mut bound[instance.half as usize][instance.index] else { return Ok(()) };
            // SAFETY: all operands are in place and nobody else touches them until this ends: the board let this run
            // begin after all in its `after`, and the verifier proved that to suffice.
            let result = unsafe { bound.run(engine, space, &shared.dims, instance.step) };
            if let Some(least) = shared.tasks.get(*task) {
                clock.hold(shared, began, *least);
            }
            result.map_err(|source| RunError::Engine { instruction: item.name.clone(), step: instance.step, source })
        });
    }
}

/// When an engine that is held to the times of another is free again.
struct Clock {
    start: u64,
    free: u64,
}

impl Clock {
    /// Waits until a task that began then has taken so long; what is too short to sleep is waited for with the next.
    fn hold<H: Host>(&mut self, shared: &Shared<H>, began: u64, least: u64) {
        self.free = self.free.max(began).saturating_add(least);
        while let Some(rest) = self.free.checked_sub(shared.since(self.start) + SHORT) {
            shared.host.pause(Duration::from_nanos(rest.min(LONG)));
            if shared.hand.is_over() {
                return;
            }
        }
    }
}

/// Nanoseconds that are not worth a sleep.
const SHORT: u64 = 100_000;
/// Nanoseconds of a sleep, after which the end of the run is looked for.
const LONG: u64 = 100_000_000;

/// Feeds and fetches until there is nothing more to do.
pub(crate) fn serve<H: Host>(
    shared: &Shared<H>,
    lane: usize,
    caller: &mut dyn Caller,
    start: u64,
    records: &mut Records,
) {
    work(shared, lane, None, start, records, |instance, item| {
        let result = match &item.work {
            Work::Feed { tensor, to, alone } => {
                // The prologue's feed is a state's, which has none here.
                let kept = *alone && instance.step > 1;
                // SAFETY: from a Feed on and until it ends, the bytes are the caller's alone (rules 5, 6 and 12).
                let target = unsafe { shared.arenas[to.arena].slice_mut(to.offset, to.bytes) };
                target.map_or(Ok(()), |to| {
                    caller.feed(tensor, instance.step, to, &shared.dims.of(instance.step).known, kept)
                })
            }
            Work::Fetch { tensor, from } => {
                // SAFETY: nothing writes an output between its Fetch's start and end.
                let source = unsafe { shared.arenas[from.arena].slice(from.offset, from.bytes) };
                source.map_or(Ok(()), |from| {
                    caller.fetch(tensor, instance.step, from, &shared.dims.of(instance.step).known)
                })
            }
            Work::Load { .. } | Work::Fill { .. } | Work::Move { .. } | Work::Run { .. } => Ok(()),
        };
        result.map_err(|problem| RunError::Caller { instruction: item.name.clone(), step: instance.step, problem })
    });
}

/// Takes what a lane has to do and does it, one by one.
fn work<H: Host>(
    shared: &Shared<H>,
    lane: usize,
    engine: Option<usize>,
    start: u64,
    records: &mut Records,
    mut act: impl FnMut(Instance, &Item) -> Result<(), RunError>,
) {
    while let Some((_, instance)) = shared.hand.take(lane) {
        let item = &shared.table.half(instance.half)[instance.index];
        let began = shared.since(start);
        let result = act(instance, item);
        let ended = shared.since(start);
        shared.hand.done(instance, Times { engine, began, ended }, result);
        records.add(lane, instance, began, ended);
    }
}
