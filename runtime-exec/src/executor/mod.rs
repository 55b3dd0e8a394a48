//! Runs a verified program: one thread per engine, one for each link, the caller's for inputs and outputs.
//!
//! `board.rs` says what may begin, `hand.rs` hands it to threads, `lanes.rs` computes, feeds and fetches, `copies.rs`
//! moves bytes, `record.rs` keeps what was seen; `host.rs` is what all of them stand on. All memory is taken before the
//! first step. No wait is without a time limit, and a stop is seen at the next instruction or chunk.

mod board;
mod copies;
mod hand;
pub mod host;
mod keep;
mod lanes;
mod load;
#[cfg(test)]
mod model;
mod record;
mod rehearse;
pub(crate) mod table;

pub use hand::CallOff;
pub use keep::{Weight, block};
pub use load::{Caches, measure, occupied};
pub use record::{Ran, Seen, StepSeen};
pub use rehearse::{Cue, Rehearsed, Stage, rehearse};

use crate::arena::Arena;
use crate::engine::{Engine, Stopper, TaskCode};
use crate::errors::{LoadError, RunError};
use crate::open::Dims;
use crate::store::pieces::BOUNCE;
use crate::store::{Places, Source, Store};
use berth_ir::Expr;
use berth_ir::expr::Binding;
use berth_ir::program::{Class, Program};
use berth_ir::target::Link;
use berth_ir::verify::Verified;
use board::Graph;
use copies::Gear;
use hand::{HandOff, Hands, Log};
use host::{Host, Monitor, System};
use keep::Room;
use lanes::Seat;
use record::Records;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use table::{LaneKind, Table, Work};

/// What an engine runs for a task, and what each of its ports is.
#[derive(Clone, Debug)]
pub struct TaskPorts {
    /// The engine's model.
    pub code: TaskCode,
    /// By input of the model.
    pub inputs: Vec<Operand>,
    /// By output of the model: accesses.
    pub outputs: Vec<Operand>,
    /// The weights that the engine is given with the model: tensor, first byte in their block.
    pub kept: Vec<(String, u64)>,
    /// Shapes in dims that only a run knows, by port, inputs first; nothing where all are fixed.
    pub open: Option<Vec<Vec<Expr>>>,
}

/// What a port is.
#[derive(Clone, Debug)]
pub enum Operand {
    /// An access of the task, by index.
    Access(usize),
    /// Integers that are worked out anew for each run.
    Known(Vec<Expr>),
}

/// The side of a run that has the inputs and wants the outputs.
pub trait Caller {
    /// Writes an input's bytes for a step (counted from one) into place. `dims` are the sizes that only this step knows; an
    /// input whose size is not fixed may fill less. A state is fed once in a run, in step zero, which is the prologue and has
    /// the sizes of the first step. `kept` says that the place still holds what the step before was fed, so that what is the
    /// same again need not be written.
    fn feed(&mut self, tensor: &str, step: usize, to: &mut [u8], dims: &Binding, kept: bool) -> Result<(), String>;
    /// Takes an output's bytes of a step; of a state, what the step left. `dims` are as for [`Caller::feed`]; an output whose
    /// size is not fixed has its bytes at the start.
    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], dims: &Binding) -> Result<(), String>;
}

/// How a link is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Bytes that are moved at once: what is wanted sooner waits for no more than that.
    pub chunk: u64,
    /// Reads that are under way at once.
    pub depth: usize,
    /// No faster than this, where a link of this machine stands for one of another.
    pub held: Option<Held>,
}

/// What a link is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Bytes a second.
    pub rate: u64,
    /// Nanoseconds until the first of them.
    pub latency: u64,
    /// Links of one number share the rate.
    pub group: usize,
}

/// Bytes that are under way beside those that latency takes: a disk serves several reads at once. It serves them side by side,
/// so that with more of them what is wanted first ends no sooner than what is wanted last.
const SPARE: u64 = 8 << 20;
/// Most reads under way, and most that are there to spare.
const DEPTH_MAX: u64 = 64;
const SPARE_MAX: u64 = 8;

impl Pace {
    /// A link's: by its chunk, with as much under way as its latency takes at its rate, and some to spare.
    pub fn of(link: &Link) -> Pace {
        let (chunk, latency) = (link.chunk.0.max(1), u128::from(link.latency.0));
        let late = u64::try_from(u128::from(link.present_rate().0) * latency / 1_000_000_000).unwrap_or(u64::MAX);
        let depth = late.div_ceil(chunk).max(1).saturating_add(Pace::spare(chunk) - 1);
        Pace { chunk: link.chunk.0, depth: depth.min(DEPTH_MAX) as usize, held: None }
    }

    /// Reads of a chunk that are under way where latency takes none but one.
    pub fn spare(chunk: u64) -> u64 {
        (SPARE / chunk.max(1)).clamp(2, SPARE_MAX)
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { chunk: 1 << 20, depth: 8, held: None }
    }
}

/// How a program is loaded.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its files are.
    pub places: Places,
    /// Whether each task is tried once for the workspace that it needs.
    pub measure: bool,
    /// Sizes of dims that the program leaves open; of those that grow from step to step, in the first.
    pub dims: Binding,
    /// How links are driven, by name, where that is not as by default.
    pub links: BTreeMap<String, Pace>,
    /// The least that each task takes, in nanoseconds and in the program's order; none where that is not held.
    pub tasks: Vec<u64>,
    /// Instances that a run keeps records of.
    pub records: usize,
}

impl Options {
    /// Files in a folder, and nothing special.
    pub fn new(folder: &Path) -> Options {
        Options {
            places: Places::folder(folder),
            measure: false,
            dims: Binding::new(),
            links: BTreeMap::new(),
            tasks: Vec::new(),
            records: 0,
        }
    }
}

/// A program in memory, ready to run, any number of times.
pub struct Executor<E: Engine + 'static, H: Host = System> {
    // Its reads go to the arenas of `shared`, so it goes first.
    gears: Vec<Option<Gear>>,
    // What its engines keep lies in them too.
    seats: Option<Vec<Seat<E>>>,
    shared: Arc<Shared<H>>,
    stoppers: Vec<Stopper>,
    /// Held while a stop is asked for, and while one is taken back.
    stopping: Arc<Mutex<()>>,
    records: usize,
    /// Steps until a dim that grows leaves its range, and which does first.
    room: Option<(usize, String)>,
}

impl<E: Engine + 'static, H: Host> std::fmt::Debug for Executor<E, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// What all threads of a run look at.
#[derive(Debug)]
struct Shared<H: Host> {
    host: H,
    table: Arc<Table>,
    arenas: Vec<Arena>,
    store: Store,
    /// Where each instruction that reads files does so, by half.
    sources: [Vec<Option<Source>>; 2],
    /// By lane.
    paces: Vec<Pace>,
    /// By lane, when a link that is held to a rate is free again; links of one group have one.
    turns: Vec<Arc<Mutex<u64>>>,
    /// By task, the least that it takes.
    tasks: Vec<u64>,
    hand: HandOff<H::Lock<Hands>>,
    dims: Dims,
}

impl<H: Host> Shared<H> {
    /// Nanoseconds after a moment of the host's clock.
    fn since(&self, start: u64) -> u64 {
        self.host.now().saturating_sub(start)
    }
}

/// Asks a run to stop, from any thread.
#[derive(Clone, Debug)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    engines: Vec<Stopper>,
    /// A stop is asked of all or of none when a run ends.
    whole: Arc<Mutex<()>>,
}

impl Stop {
    /// The run ends with [`RunError::Stopped`] at the next instruction.
    pub fn stop(&self) {
        let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        self.flag.store(true, Ordering::SeqCst);
        self.engines.iter().for_each(Stopper::stop);
    }
}

/// Looks at a run from another thread.
#[derive(Clone, Debug)]
pub struct Watch<H: Host = System> {
    shared: Arc<Shared<H>>,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Steps that have ended.
    pub steps: usize,
    /// By engine or link, in the order of the program: its name, the bytes that it has moved and the time in which it has
    /// computed or moved something, in nanoseconds. Engines move no bytes.
    pub lanes: Vec<(String, u64, u64)>,
}

impl<H: Host> Watch<H> {
    /// How far it is now.
    pub fn look(&self) -> Glance {
        let (steps, done) = self.shared.hand.so_far();
        let lanes = self.shared.table.lanes.iter().zip(done).filter(|(lane, _)| lane.kind != LaneKind::Caller);
        Glance { steps, lanes: lanes.map(|(lane, (bytes, nanos))| (lane.name.clone(), bytes, nanos)).collect() }
    }
}

/// Calls speculative copies of a run off, from another thread.
#[derive(Clone, Debug)]
pub struct Caution<H: Host = System> {
    shared: Arc<Shared<H>>,
    turn: Arc<Mutex<()>>,
}

impl<H: Host> Caution<H> {
    /// Has a speculative copy end at the next edge of a chunk, and waits until nothing touches its berth any more.
    pub fn call_off(&self, copy: &str) -> CallOff {
        let body = &self.shared.table.halves[1];
        let found = body.iter().position(|item| item.name == copy && item.class == Class::Speculative);
        // One at a time.
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        found.map_or(CallOff::Refused, |index| self.shared.hand.call_off(index))
    }
}

/// The engines that a program's tasks run on, in the order in which the executor wants them.
pub fn engines(program: &Verified<Program>) -> Result<Vec<String>, LoadError> {
    Ok(names(&Table::new(program)?))
}

fn names(table: &Table) -> Vec<String> {
    table.lanes.iter().filter(|lane| lane.kind == LaneKind::Engine).map(|lane| lane.name.clone()).collect()
}

impl<E: Engine + 'static> Executor<E> {
    /// Loads a program: makes arenas, opens files, gives every task to its engine at its addresses. `ports` are by task;
    /// `engines` are as many as [`engines`] names, in that order.
    pub fn load(
        program: &Verified<Program>,
        ports: &[TaskPorts],
        engines: Vec<E>,
        options: &Options,
    ) -> Result<Executor<E>, LoadError> {
        Executor::load_on(System::default(), program, ports, engines, options)
    }
}

impl<E: Engine + 'static, H: Host> Executor<E, H> {
    /// Loads a program as [`Executor::load`] does, onto a host.
    pub fn load_on(
        host: H,
        program: &Verified<Program>,
        ports: &[TaskPorts],
        engines: Vec<E>,
        options: &Options,
    ) -> Result<Executor<E, H>, LoadError> {
        let table = Arc::new(Table::new(program)?);
        let wanted = names(&table).len();
        if engines.len() != wanted {
            return Err(LoadError::Engines { wanted, given: engines.len() });
        }
        let mut arenas = Vec::new();
        for a in &program.arenas {
            let arena = host.arena(a.bytes);
            arenas.push(arena.ok_or_else(|| LoadError::Memory { tier: a.tier.clone(), bytes: a.bytes })?);
        }
        let (store, found) = Store::open(&options.places, &load::wanted(&table))?;
        let mut found = found.into_iter();
        let sources = table.halves.each_ref().map(|half| {
            let reads = half.iter().map(|item| matches!(item.work, Work::Load { .. }));
            reads.map(|reads| if reads { found.next() } else { None }).collect()
        });
        let graph = Arc::new(Graph::new(&table));
        let mut seats: Vec<Seat<E>> = Vec::new();
        let mut left = engines.into_iter();
        for (lane, _) in table.lanes.iter().enumerate().filter(|(_, lane)| lane.kind == LaneKind::Engine) {
            seats.extend(left.next().map(|engine| Seat::new(lane, engine, &table)));
        }
        let room = Room { program, arenas: &arenas, places: &options.places };
        for seat in &mut seats {
            seat.keep(&table, &room, ports)?;
            seat.bind(&table, &arenas, ports, options.measure)?;
        }
        let stoppers: Vec<Stopper> = seats.iter().map(Seat::stopper).collect();
        let pace = |lane: &table::Lane| options.links.get(&lane.name).copied().unwrap_or_default();
        let hands = Hands::new(&graph, 0, host.now(), Duration::ZERO, Log::default());
        let stop = Arc::new(AtomicBool::new(false));
        let hand = HandOff { monitor: host.lock(hands, table.lanes.len() + 1), graph, table: table.clone(), stop };
        let paces: Vec<Pace> = table.lanes.iter().map(pace).collect();
        let mut groups: BTreeMap<usize, Arc<Mutex<u64>>> = BTreeMap::new();
        let turn = |pace: &Pace| match pace.held {
            Some(held) => groups.entry(held.group).or_default().clone(),
            None => Arc::default(),
        };
        let turns = paces.iter().map(turn).collect();
        let header = &program.header;
        let growing = header.growth.iter().filter_map(|(dim, by)| {
            let steps = header.dims.get(dim)?.steps(*options.dims.get(dim)?, *by);
            Some((usize::try_from(steps).unwrap_or(usize::MAX), dim.clone()))
        });
        let room = growing.min();
        let dims = Dims::new(options.dims.clone(), &header.growth);
        let tasks = options.tasks.clone();
        let shared = Arc::new(Shared { host, table, arenas, store, sources, paces, turns, tasks, hand, dims });
        let mut gears = Vec::new();
        for (index, lane) in shared.table.lanes.iter().enumerate() {
            gears.push(match lane.kind {
                LaneKind::Link => Some(Gear::new(&shared, index).ok_or_else(|| {
                    let bytes = shared.paces[index].depth as u64 * BOUNCE as u64;
                    LoadError::Memory { tier: format!("buffers of {}", lane.name), bytes }
                })?),
                LaneKind::Engine | LaneKind::Caller => None,
            });
        }
        let (stopping, records) = (Arc::default(), options.records);
        Ok(Executor { gears, shared, seats: Some(seats), stoppers, stopping, records, room })
    }

    /// A handle that stops runs of this executor.
    pub fn stop(&self) -> Stop {
        Stop { flag: self.shared.hand.stop.clone(), engines: self.stoppers.clone(), whole: self.stopping.clone() }
    }

    /// A handle that looks at runs.
    pub fn watch(&self) -> Watch<H> {
        Watch { shared: self.shared.clone() }
    }

    /// A handle that calls speculative copies off.
    pub fn caution(&self) -> Caution<H> {
        Caution { shared: self.shared.clone(), turn: Arc::default() }
    }

    /// Runs the prologue and so many steps. Where nothing ends for `limit`, the run ends with an error.
    ///
    /// # Errors
    /// The first fault; every thread has seen it and ended, except one that the system or the engine holds.
    pub fn run(&mut self, steps: usize, limit: Duration, caller: &mut dyn Caller) -> Result<Ran, RunError> {
        let table = &self.shared.table;
        if steps > table.steps_max {
            return Err(RunError::Once { steps });
        }
        if let Some((room, dim)) = self.room.as_ref().filter(|(room, _)| steps > *room) {
            return Err(RunError::Room { steps, dim: dim.clone(), room: *room });
        }
        let seats = self.seats.take().ok_or(RunError::Unusable)?;
        let (host, start) = (self.shared.host.clone(), self.shared.host.now());
        let log = Log::new(steps, seats.len());
        self.shared.turns.iter().for_each(|turn| *turn.lock().unwrap_or_else(PoisonError::into_inner) = 0);
        *self.shared.hand.monitor.lock() = Hands::new(&self.shared.hand.graph, steps, start, limit, log);
        let room = |lane: &table::Lane| {
            let instances = lane.items[0].len().saturating_add(lane.items[1].len().saturating_mul(steps));
            Records::new(self.records.min(instances))
        };
        let mut engines = Vec::new();
        for (place, mut seat) in seats.into_iter().enumerate() {
            let (shared, mut records) = (self.shared.clone(), room(&table.lanes[seat.lane()]));
            engines.push(host.spawn(move || {
                seat.work(&shared, place, start, &mut records);
                // What its engine keeps lies in arenas of `shared`, which goes after it, should nobody wait for it any more.
                (seat, records, shared)
            }));
        }
        let mut links = Vec::new();
        for (index, lane) in table.lanes.iter().enumerate().filter(|(_, lane)| lane.kind == LaneKind::Link) {
            let (shared, mut records) = (self.shared.clone(), room(lane));
            let mut gear = self.gears[index].take().or_else(|| Gear::new(&shared, index)).ok_or(RunError::Lost)?;
            let work = move || {
                let again = copies::work(&shared, index, &mut gear, start, &mut records);
                // It goes before `shared` does, where reads of it may still be under way.
                (again.then_some(gear), records)
            };
            links.push((index, host.spawn(work)));
        }
        let own = table.lanes.iter().position(|lane| lane.kind == LaneKind::Caller);
        let mut records = vec![own.map_or(Records::new(0), |lane| room(&table.lanes[lane]))];
        if let Some(lane) = own {
            lanes::serve(&self.shared, lane, caller, start, &mut records[0]);
        }
        let hand = &self.shared.hand;
        hand.await_end(own);
        if hand.failed() {
            // An operator in flight ends early; a stop that came too late must not meet the next run.
            self.stoppers.iter().for_each(Stopper::stop);
        }
        let patience = host.now().saturating_add(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        let lost = || match hand.result() {
            (_, step, _) if hand.stop.load(Ordering::SeqCst) => RunError::Stopped { step },
            (fault, ..) => fault.unwrap_or(RunError::Lost),
        };
        for (index, thread) in links {
            let (gear, more) = host.join(thread, patience).ok_or_else(lost)?;
            self.gears[index] = gear;
            records.push(more);
        }
        let mut seats = Vec::new();
        for thread in engines {
            let (seat, more, _) = host.join(thread, patience).ok_or_else(lost)?;
            seats.push(seat);
            records.push(more);
        }
        self.seats = Some(seats);
        let (fault, step, log) = hand.result();
        let _whole = self.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        self.stoppers.iter().for_each(Stopper::withdraw);
        let stopped = hand.stop.swap(false, Ordering::SeqCst);
        match fault {
            Some(_) if stopped => Err(RunError::Stopped { step }),
            Some(fault) => Err(fault),
            None => Ok(record::ran(table, names(table), &log, records, self.records)),
        }
    }

    /// Gives the engines back, for loading another program.
    pub fn into_engines(self) -> Option<Vec<E>> {
        Some(self.seats?.into_iter().map(Seat::into_engine).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_has_little_under_way_whatever_its_chunk() {
        assert_eq!([64 << 10, 1 << 20, 2 << 20, 4 << 20, 1 << 30].map(Pace::spare), [8, 8, 4, 2, 2]);
        assert_eq!(Pace::spare(0), 8);
    }
}
