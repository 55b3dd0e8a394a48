//! Runs a verified program: one thread per engine, threads for each link, the caller's for inputs and outputs.
//!
//! Each thread takes what is ready among its instructions: engines in written order, links by class, step and written
//! order. An instruction is ready when all in its `after` have ended, its own last instance too, and all of the step
//! before the last. No wait is without a time limit, and a stop is seen at the next instruction.

#![allow(
    unsafe_code,
    reason = "hands ranges of arenas to engines and copies; the verifier proved who may touch them when"
)]

use crate::arena::Arena;
use crate::engine::{Engine, EngineError, Measured, Stopper, TaskCode};
use crate::errors::{LoadError, RunError};
use crate::open::{Bound, Dims, Open};
use crate::store::{Bounce, Store};
use crate::table::{Half, Item, Lane, LaneKind, Range, Table, Work};
use berth_ir::Expr;
use berth_ir::expr::Binding;
use berth_ir::program::Program;
use berth_ir::verify::Verified;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Threads that read files: while one copies out of its bounce buffer, the other keeps the disk busy.
const READERS: usize = 2;

/// What an engine runs for a task, and what each of its ports is.
#[derive(Clone, Debug)]
pub struct TaskPorts {
    /// The engine's model.
    pub code: TaskCode,
    /// By input of the model.
    pub inputs: Vec<Operand>,
    /// By output of the model: accesses.
    pub outputs: Vec<Operand>,
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
    /// Writes an input's bytes for a step (counted from one) into place. An input whose size is not fixed may fill less.
    fn feed(&mut self, tensor: &str, step: usize, to: &mut [u8]) -> Result<(), String>;
    /// Takes an output's bytes of a step. `dims` are the sizes that only this step knows; an output whose size is not fixed
    /// has its bytes at the start.
    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], dims: &Binding) -> Result<(), String>;
}

/// One instance of an instruction, as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The instruction.
    pub name: String,
    /// Zero is the prologue, one the first step.
    pub step: usize,
    /// The engine or link; empty for the caller.
    pub lane: String,
    /// Bytes moved.
    pub bytes: u64,
    /// Nanoseconds after the start of the run.
    pub start: u64,
    /// Nanoseconds after the start of the run.
    pub end: u64,
}

/// A program in memory, ready to run, any number of times.
pub struct Executor<E: Engine + 'static> {
    shared: Arc<Shared>,
    engine: Option<(E, Vec<Bound>)>,
    stopper: Stopper,
}

impl<E: Engine + 'static> std::fmt::Debug for Executor<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("table", &self.shared.table).finish_non_exhaustive()
    }
}

struct Shared {
    table: Table,
    arenas: Vec<Arena>,
    store: Store,
    board: Mutex<Board>,
    changed: Condvar,
    stop: Arc<AtomicBool>,
    dims: Dims,
}

/// What has ended, and what went wrong.
struct Board {
    steps: usize,
    limit: Duration,
    prologue: Vec<State>,
    /// Steps that each instruction of the body has begun, and ended.
    begun: Vec<usize>,
    ended: Vec<usize>,
    /// Instances that have not ended: prologue, then one entry per step.
    open: Vec<usize>,
    /// Steps that have ended, the prologue counted as one.
    closed: usize,
    fault: Option<RunError>,
    progress: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Begun,
    Ended,
}

/// One instance.
#[derive(Clone, Copy)]
struct Instance {
    half: Half,
    index: usize,
    /// Zero for the prologue, else counted from one.
    step: usize,
}

/// Asks a run to stop, from any thread.
#[derive(Clone)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    engine: Stopper,
}

impl Stop {
    /// The run ends with [`RunError::Stopped`] at the next instruction.
    pub fn stop(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.engine.stop();
    }
}

impl<E: Engine + 'static> Executor<E> {
    /// Loads a program: makes arenas, opens files, gives every task to the engine at its addresses. `folder` is the
    /// model's; `ports` are by task. With `measure`, each task is tried once for the workspace that it needs.
    pub fn load(
        program: &Verified<Program>,
        folder: &Path,
        ports: &[TaskPorts],
        engine: E,
        measure: bool,
    ) -> Result<Executor<E>, LoadError> {
        Executor::load_at(program, folder, ports, engine, measure, Binding::new())
    }

    /// The same for runs in which dims that the program leaves open have these sizes.
    pub fn load_at(
        program: &Verified<Program>,
        folder: &Path,
        ports: &[TaskPorts],
        mut engine: E,
        measure: bool,
        dims: Binding,
    ) -> Result<Executor<E>, LoadError> {
        let table = Table::new(program)?;
        let engines = table.lanes.iter().filter(|l| l.kind == LaneKind::Engine).count();
        if engines > 1 {
            return Err(LoadError::Engines { engines });
        }
        let mut arenas = Vec::new();
        for a in &program.arenas {
            let arena =
                Arena::new(a.bytes).ok_or_else(|| LoadError::Memory { tier: a.tier.clone(), bytes: a.bytes })?;
            arenas.push(arena);
        }
        let store = Store::open(folder, &needs(&table))?;
        let mut bindings = Vec::new();
        let mut tried = BTreeMap::new();
        for item in table.halves.iter().flatten() {
            let Work::Run { task, ranges, workspace } = &item.work else { continue };
            let ports = ports.get(*task).ok_or_else(|| mismatch(&item.name, 0, "there is no code".to_owned()))?;
            if measure {
                check_workspace(&mut engine, ports, workspace.map_or(0, |w| w.bytes), &mut tried)?;
            }
            bindings.push(bind(&mut engine, &arenas, item, ports, ranges)?);
        }
        let stopper = engine.stopper();
        let board = Mutex::new(Board::new(&table, 0, Duration::ZERO));
        let stop = Arc::new(AtomicBool::new(false));
        let dims = Dims::new(dims);
        let shared = Arc::new(Shared { table, arenas, store, board, changed: Condvar::new(), stop, dims });
        Ok(Executor { shared, engine: Some((engine, bindings)), stopper })
    }

    /// A handle that stops runs of this executor.
    pub fn stop(&self) -> Stop {
        Stop { flag: self.shared.stop.clone(), engine: self.stopper.clone() }
    }

    /// Runs the prologue and so many steps. Where nothing ends for `limit`, the run ends with an error.
    ///
    /// # Errors
    /// The first fault; every thread has seen it and ended, except one that the system or the engine holds.
    pub fn run(&mut self, steps: usize, limit: Duration, caller: &mut dyn Caller) -> Result<Vec<Seen>, RunError> {
        let (engine, bindings) = self.engine.take().ok_or(RunError::Unusable)?;
        *lock(&self.shared.board) = Board::new(&self.shared.table, steps, limit);
        let start = Instant::now();
        let mut threads: Vec<JoinHandle<Vec<Seen>>> = Vec::new();
        let mut engine_thread = None;
        let mut engine = Some((engine, bindings));
        for (index, lane) in self.shared.table.lanes.iter().enumerate() {
            match lane.kind {
                LaneKind::Caller => {}
                LaneKind::Engine => {
                    // One engine for now: the program's tasks all name the one that was given.
                    let (Some((engine, bindings)), shared) = (engine.take(), self.shared.clone()) else { continue };
                    engine_thread =
                        Some(std::thread::spawn(move || run_engine(&shared, index, engine, bindings, start)));
                }
                LaneKind::Link => {
                    for _ in 0..READERS {
                        let shared = self.shared.clone();
                        threads.push(std::thread::spawn(move || run_link(&shared, index, start)));
                    }
                }
            }
        }
        let mut seen = run_caller(&self.shared, caller, start);
        self.shared.await_end();
        if lock(&self.shared.board).fault.is_some() {
            // An operator in flight ends early; a stop that came too late must not meet the next run.
            self.stopper.stop();
        }
        let patience = Instant::now() + limit;
        for thread in threads {
            match join(thread, patience) {
                Some(mut more) => seen.append(&mut more),
                None => return Err(self.shared.take_fault().unwrap_or(RunError::Lost)),
            }
        }
        match engine_thread.map(|t| join(t, patience)) {
            Some(Some((engine, bindings, mut more))) => {
                seen.append(&mut more);
                self.engine = Some((engine, bindings));
            }
            Some(None) => return Err(self.shared.take_fault().unwrap_or(RunError::Lost)),
            None => self.engine = engine,
        }
        self.stopper.withdraw();
        let stopped = self.shared.stop.swap(false, Ordering::SeqCst);
        match self.shared.take_fault() {
            Some(_) if stopped => Err(RunError::Stopped { step: lock(&self.shared.board).closed }),
            Some(fault) => Err(fault),
            None => {
                seen.sort_by_key(|s| (s.start, s.end));
                Ok(seen)
            }
        }
    }

    /// Gives the engine back, for loading another program.
    pub fn into_engine(self) -> Option<E> {
        let (mut engine, bindings) = self.engine?;
        bindings.into_iter().for_each(|b| engine.unbind(b.binding));
        Some(engine)
    }
}

/// Files and how many bytes each must have.
fn needs(table: &Table) -> BTreeMap<String, (u64, String)> {
    let mut needs = BTreeMap::new();
    for item in table.halves.iter().flatten() {
        if let Work::Load { file, from, to } = &item.work {
            let end = from.end(to.bytes);
            let entry = needs.entry(file.clone()).or_insert((0, String::new()));
            if end > entry.0 {
                *entry = (end, item.name.clone());
            }
        }
    }
    needs
}

fn mismatch(task: &str, port: usize, problem: String) -> LoadError {
    LoadError::Ports { task: task.to_owned(), port, problem }
}

fn bind<E: Engine>(
    engine: &mut E,
    arenas: &[Arena],
    item: &Item,
    ports: &TaskPorts,
    ranges: &[Range],
) -> Result<Bound, LoadError> {
    let session = engine.prepare(&ports.code)?;
    let (mut places, mut known) = (Vec::new(), Vec::new());
    let operands = ports.inputs.iter().chain(&ports.outputs);
    let count = ports.code.ports().count();
    let described = ports.open.as_ref().is_none_or(|shapes| shapes.len() == count);
    if operands.clone().count() != count || ports.inputs.len() != ports.code.inputs.len() || !described {
        return Err(mismatch(
            &item.name,
            count,
            "its operands or their shapes are not as many as its ports".to_owned(),
        ));
    }
    for (n, (port, operand)) in ports.code.ports().zip(operands).enumerate() {
        let access = match operand {
            Operand::Access(access) => access,
            Operand::Known(_) if ports.open.is_none() => {
                return Err(mismatch(&item.name, n, "it is worked out for each run, and no shapes say so".to_owned()));
            }
            Operand::Known(_) => {
                // In words of eight bytes, so that it is aligned for every type.
                known.push(vec![0u64; port.bytes().unwrap_or(0).div_ceil(8).max(1) as usize]);
                let last = known.last_mut().map_or(std::ptr::null_mut(), |words| words.as_mut_ptr());
                places.push((last.cast::<u8>() as usize, port.bytes().unwrap_or(0)));
                continue;
            }
        };
        let range =
            ranges.get(*access).ok_or_else(|| mismatch(&item.name, n, format!("there is no access {access}")))?;
        // Views of a size that a run finds may be described loosely; each run checks its own.
        if ports.open.is_none() && port.bytes() != Some(range.bytes) {
            let problem = format!("the code has {:?} bytes, the program {}", port.bytes(), range.bytes);
            return Err(mismatch(&item.name, n, problem));
        }
        let address = arenas[range.arena].address(range.offset, range.bytes);
        let address = address.ok_or_else(|| mismatch(&item.name, n, "it lies outside its arena".to_owned()))?;
        places.push((address as usize, range.bytes));
    }
    let open = ports.open.clone().map(|shapes| Open { ports: ports.clone(), shapes, places: places.clone(), known });
    let addresses: Vec<*mut u8> = places.iter().map(|(address, _)| *address as *mut u8).collect();
    let (inputs, outputs) = addresses.split_at(ports.code.inputs.len());
    // SAFETY: the addresses lie in arenas that live as long as the executor, for the bytes of each port, as just
    // checked; while the task runs nobody else writes its inputs or touches its outputs: rules 3, 5 and 6. Where sizes
    // are open each run binds again, after checking them.
    let binding = unsafe { engine.bind(session, &ports.code, inputs, outputs) }?;
    Ok(Bound { binding, open })
}

/// Tries a task on scratch memory and refuses it where it needs more workspace than planned. Identical code once.
fn check_workspace<E: Engine>(
    engine: &mut E,
    ports: &TaskPorts,
    planned: u64,
    tried: &mut BTreeMap<(bytes::Bytes, Vec<Vec<u64>>), u64>,
) -> Result<(), LoadError> {
    // Code with open sizes is the same for tasks of several.
    let key = (ports.code.model.clone(), ports.code.ports().map(|port| port.shape.clone()).collect());
    let needed = match tried.get(&key) {
        Some(needed) => *needed,
        None => {
            let needed = match measure_workspace(engine, &ports.code) {
                // It does not run on zeros: what it needs is seen when it runs, and a spill is an error then.
                Err(LoadError::Engine(EngineError::Engine { .. })) => 0,
                needed => needed?,
            };
            tried.insert(key, needed);
            needed
        }
    };
    if needed > planned {
        return Err(LoadError::Workspace { task: ports.code.name.clone(), needed, planned });
    }
    Ok(())
}

/// Runs a task once on scratch memory of its own for the workspace that it needs.
fn measure_workspace<E: Engine>(engine: &mut E, code: &TaskCode) -> Result<u64, LoadError> {
    let session = engine.prepare(code)?;
    let bytes = code.scratch_layout().map_or(u64::MAX, |(_, bytes)| bytes);
    let memory = || LoadError::Memory { tier: format!("a trial of `{}`", code.name), bytes };
    let arena = Arena::new(bytes).ok_or_else(memory)?;
    // SAFETY: the arena is this function's own.
    let scratch = unsafe { arena.slice_mut(0, bytes) }.ok_or_else(memory)?;
    Ok(engine.measure(session, code, scratch, 1, &mut || {})?.workspace_bytes)
}

/// Bytes that are touched to push a task's operands out of the caches; more than the caches of most machines.
const CACHES: usize = 64 << 20;
/// Operands that are not worth that: they stay in a cache from one task to the next in a real step too.
const CACHED: u64 = 256 << 10;

/// Runs a task on zeroed scratch memory of its own and says what it cost: once to warm the code, then with operands out
/// of the caches, as streamed weights are when a step comes to them. `flush` is kept from call to call.
pub fn measure<E: Engine>(engine: &mut E, code: &TaskCode, flush: &mut Vec<u8>) -> Result<Measured, LoadError> {
    let session = engine.prepare(code)?;
    let bytes = code.scratch_layout().map_or(u64::MAX, |(_, bytes)| bytes);
    let memory = || LoadError::Memory { tier: format!("a trial of `{}`", code.name), bytes };
    let arena = Arena::new(bytes).ok_or_else(memory)?;
    // SAFETY: the arena is this function's own.
    let scratch = unsafe { arena.slice_mut(0, bytes) }.ok_or_else(memory)?;
    // Untouched memory is one page of zeros, which is always in a cache: make it real.
    scratch.fill(0);
    if bytes <= CACHED {
        return Ok(engine.measure(session, code, scratch, 3, &mut || {})?);
    }
    flush.resize(CACHES, 0);
    let mut empty_caches = || flush.iter_mut().step_by(64).for_each(|byte| *byte = byte.wrapping_add(1));
    Ok(engine.measure(session, code, scratch, 2, &mut empty_caches)?)
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    // A worker that panicked leaves the board as it was: counters only.
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits for a thread, not beyond a moment.
fn join<T>(thread: JoinHandle<T>, until: Instant) -> Option<T> {
    while !thread.is_finished() {
        if Instant::now() > until {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    thread.join().ok()
}

impl Board {
    fn new(table: &Table, steps: usize, limit: Duration) -> Board {
        let [prologue, body] = &table.halves;
        let mut open = vec![body.len(); steps + 1];
        open[0] = prologue.len();
        let mut board = Board {
            steps,
            limit,
            prologue: vec![State::Waiting; prologue.len()],
            begun: vec![0; body.len()],
            ended: vec![0; body.len()],
            open,
            closed: 0,
            fault: None,
            progress: Instant::now(),
        };
        board.close();
        board
    }

    fn close(&mut self) {
        while self.open.get(self.closed) == Some(&0) {
            self.closed += 1;
        }
    }

    fn over(&self) -> bool {
        self.fault.is_some() || self.closed > self.steps
    }

    fn ready(&self, table: &Table, instance: Instance) -> bool {
        let item = &table.half(instance.half)[instance.index];
        match instance.half {
            Half::Prologue => {
                self.prologue[instance.index] == State::Waiting
                    && item.after.iter().all(|a| self.prologue[*a] == State::Ended)
            }
            Half::Body => {
                let step = instance.step;
                step <= self.closed + 1
                    && self.begun[instance.index] + 1 == step
                    && self.ended[instance.index] + 1 == step
                    && item.after.iter().all(|a| self.ended[*a] >= step)
                    && item.after_body.iter().all(|a| self.ended[*a] + 1 >= step)
                    && (step > 1 || item.after_prologue.iter().all(|a| self.prologue[*a] == State::Ended))
            }
        }
    }

    fn begin(&mut self, instance: Instance) {
        match instance.half {
            Half::Prologue => self.prologue[instance.index] = State::Begun,
            Half::Body => self.begun[instance.index] = instance.step,
        }
    }

    fn end(&mut self, instance: Instance) {
        match instance.half {
            Half::Prologue => self.prologue[instance.index] = State::Ended,
            Half::Body => self.ended[instance.index] = instance.step,
        }
        self.open[instance.step] -= 1;
        self.close();
        self.progress = Instant::now();
    }

    /// The next instance of an instruction of the body.
    fn next(&self, index: usize) -> Option<Instance> {
        let step = self.begun[index] + 1;
        (step <= self.steps).then_some(Instance { half: Half::Body, index, step })
    }

    /// What has not ended, for a person.
    fn waiting(&self, table: &Table) -> String {
        let prologue = table.halves[0].iter().zip(&self.prologue).filter(|(_, s)| **s != State::Ended);
        let body = table.halves[1].iter().zip(&self.ended).filter(|(_, e)| **e < self.closed.min(self.steps).max(1));
        let names = prologue.map(|(i, _)| &i.name).chain(body.map(|(i, _)| &i.name));
        names.take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
    }
}

impl Shared {
    /// Waits until `pick` finds something to do, or the run is over; marks it begun.
    fn take(&self, pick: impl Fn(&Board) -> Pick) -> Option<Instance> {
        let mut board = lock(&self.board);
        loop {
            if self.stop.load(Ordering::SeqCst) && board.fault.is_none() {
                board.fault = Some(RunError::Stopped { step: board.closed });
                self.changed.notify_all();
            }
            if board.over() {
                return None;
            }
            match pick(&board) {
                Pick::Take(instance) => {
                    board.begin(instance);
                    return Some(instance);
                }
                Pick::Nothing => return None,
                Pick::Wait => {}
            }
            board = self.wait(board);
        }
    }

    /// Waits for a change, a little at a time, so that a stop and the limit are seen.
    fn wait<'a>(&self, board: MutexGuard<'a, Board>) -> MutexGuard<'a, Board> {
        let slice = board.limit.min(Duration::from_millis(100)).max(Duration::from_millis(1));
        let (mut board, _) = self.changed.wait_timeout(board, slice).unwrap_or_else(PoisonError::into_inner);
        if board.fault.is_none() && !board.over() && board.progress.elapsed() > board.limit {
            let (seconds, waiting) = (board.limit.as_secs(), board.waiting(&self.table));
            board.fault = Some(RunError::Stalled { seconds, waiting });
            self.changed.notify_all();
        }
        board
    }

    fn done(&self, instance: Instance, result: Result<(), RunError>) {
        let mut board = lock(&self.board);
        match result {
            Ok(()) => board.end(instance),
            Err(fault) => {
                board.fault.get_or_insert(fault);
            }
        }
        drop(board);
        self.changed.notify_all();
    }

    /// The caller has nothing more to do; the others may.
    fn await_end(&self) {
        let mut board = lock(&self.board);
        while !board.over() {
            if self.stop.load(Ordering::SeqCst) {
                let step = board.closed;
                board.fault.get_or_insert(RunError::Stopped { step });
                self.changed.notify_all();
                return;
            }
            board = self.wait(board);
        }
    }

    fn take_fault(&self) -> Option<RunError> {
        lock(&self.board).fault.take()
    }

    fn item(&self, instance: Instance) -> &Item {
        &self.table.half(instance.half)[instance.index]
    }

    /// Does what `act` does for everything that `pick` finds, and says when.
    fn work(
        &self,
        lane: &Lane,
        start: Instant,
        pick: impl Fn(&Board) -> Pick,
        mut act: impl FnMut(Instance, &Item) -> Result<(), RunError>,
    ) -> Vec<Seen> {
        let mut seen = Vec::with_capacity(lane.items[0].len() + lane.items[1].len() * 4);
        while let Some(instance) = self.take(&pick) {
            let item = self.item(instance);
            let began = start.elapsed();
            let result = act(instance, item);
            let ended = start.elapsed();
            self.done(instance, result);
            seen.push(Seen {
                name: item.name.clone(),
                step: instance.step,
                lane: lane.name.clone(),
                bytes: item.bytes,
                start: began.as_nanos() as u64,
                end: ended.as_nanos() as u64,
            });
        }
        seen
    }
}

/// What a thread finds to do.
enum Pick {
    Take(Instance),
    Wait,
    Nothing,
}

/// The best of what is ready: by step, then class, then written order.
fn pick_best(table: &Table, lane: &Lane, board: &Board) -> Pick {
    let prologue = lane.items[0].iter().filter(|i| board.prologue[**i] == State::Waiting);
    let prologue = prologue.map(|i| Instance { half: Half::Prologue, index: *i, step: 0 });
    let body = lane.items[1].iter().filter_map(|i| board.next(*i));
    let (mut left, mut best) = (false, None);
    for instance in prologue.chain(body) {
        left = true;
        if board.ready(table, instance) {
            let key = (instance.step, table.half(instance.half)[instance.index].class);
            if best.as_ref().is_none_or(|(k, _)| key < *k) {
                best = Some((key, instance));
            }
        }
    }
    match best {
        Some((_, instance)) => Pick::Take(instance),
        None if left => Pick::Wait,
        None => Pick::Nothing,
    }
}

/// The next in written order, ready or not.
fn pick_next(table: &Table, lane: &Lane, board: &Board) -> Pick {
    let prologue = lane.items[0].iter().find(|i| board.prologue[**i] == State::Waiting);
    let next = match prologue {
        Some(i) => Some(Instance { half: Half::Prologue, index: *i, step: 0 }),
        None => {
            // The first that has begun fewer steps than the one before it; at the start of a step, the first.
            let first = lane.items[1].first().map(|i| board.begun[*i]);
            let behind = lane.items[1].partition_point(|i| Some(board.begun[*i]) == first && board.begun[*i] > 0);
            let at = if behind == lane.items[1].len() { 0 } else { behind };
            lane.items[1].get(at).and_then(|i| board.next(*i))
        }
    };
    match next {
        Some(instance) if board.ready(table, instance) => Pick::Take(instance),
        Some(_) => Pick::Wait,
        None => Pick::Nothing,
    }
}

fn run_engine<E: Engine>(
    shared: &Shared,
    lane: usize,
    mut engine: E,
    mut bindings: Vec<Bound>,
    start: Instant,
) -> (E, Vec<Bound>, Vec<Seen>) {
    let lane = &shared.table.lanes[lane];
    // Bindings were made in the order of all runs, prologue first.
    let runs =
        |half: usize| shared.table.halves[half].iter().enumerate().filter(|(_, i)| matches!(i.work, Work::Run { .. }));
    let order = runs(0).map(|(i, _)| (0, i)).chain(runs(1).map(|(i, _)| (1, i)));
    let mut binding: BTreeMap<(usize, usize), &mut Bound> = order.zip(&mut bindings).collect();
    let seen = shared.work(
        lane,
        start,
        |b| pick_next(&shared.table, lane, b),
        |instance, item| {
            let Work::Run { workspace, .. } = &item.work else { return Ok(()) };
            let space =
                workspace.and_then(|w| Some((shared.arenas[w.arena].address(w.offset, w.bytes)?, w.bytes as usize)));
            let space = space.unwrap_or((std::ptr::without_provenance_mut(crate::engine::ALIGNMENT as usize), 0));
            let Some(bound) = binding.get_mut(&(instance.half as usize, instance.index)) else { return Ok(()) };
            // SAFETY: all operands are in place and nobody else touches them until this ends: the board let this run
            // begin after all in its `after`, and the verifier proved that to suffice.
            let result = unsafe { bound.run(&mut engine, space, &shared.dims, instance.step) };
            result.map_err(|source| RunError::Engine { instruction: item.name.clone(), step: instance.step, source })
        },
    );
    (engine, bindings, seen)
}

fn run_link(shared: &Shared, lane: usize, start: Instant) -> Vec<Seen> {
    let lane = &shared.table.lanes[lane];
    let mut bounce = Bounce::default();
    shared.work(
        lane,
        start,
        |b| pick_best(&shared.table, lane, b),
        |instance, item| {
            match &item.work {
                Work::Load { file, from, to } => {
                    // SAFETY: the verifier proved that nothing reads or writes these bytes until this copy has ended.
                    let target = unsafe { shared.arenas[to.arena].slice_mut(to.offset, to.bytes) };
                    let read = target.map(|target| shared.store.read(file, *from, target, &mut bounce));
                    read.unwrap_or(Ok(())).map_err(|source| RunError::Store {
                        instruction: item.name.clone(),
                        step: instance.step,
                        source,
                    })
                }
                Work::Move { from, to } => {
                    // SAFETY: the verifier proved that nothing writes the source, and nothing touches the target, until
                    // this copy has ended; the two are ranges that do not meet.
                    let pair = unsafe {
                        let source = shared.arenas[from.arena].slice(from.offset, from.bytes);
                        source.zip(shared.arenas[to.arena].slice_mut(to.offset, to.bytes))
                    };
                    if let Some((source, target)) = pair {
                        target.copy_from_slice(source);
                    }
                    Ok(())
                }
                Work::Fill { filled, to } => {
                    // SAFETY: as for a Load.
                    if let Some(target) = unsafe { shared.arenas[to.arena].slice_mut(to.offset, to.bytes) } {
                        let element = &filled.bits.to_le_bytes()[..filled.element.min(8) as usize];
                        target.chunks_mut(element.len().max(1)).for_each(|c| c.copy_from_slice(&element[..c.len()]));
                    }
                    Ok(())
                }
                Work::Run { .. } | Work::Feed { .. } | Work::Fetch { .. } => Ok(()),
            }
        },
    )
}

fn run_caller(shared: &Shared, caller: &mut dyn Caller, start: Instant) -> Vec<Seen> {
    let Some(lane) = shared.table.lanes.iter().find(|l| l.kind == LaneKind::Caller) else { return Vec::new() };
    shared.work(
        lane,
        start,
        |b| pick_best(&shared.table, lane, b),
        |instance, item| {
            let result = match &item.work {
                Work::Feed { tensor, to } => {
                    // SAFETY: from a Feed on and until it ends, the bytes are the caller's alone (rules 5, 6 and 12).
                    let target = unsafe { shared.arenas[to.arena].slice_mut(to.offset, to.bytes) };
                    target.map_or(Ok(()), |to| caller.feed(tensor, instance.step, to))
                }
                Work::Fetch { tensor, from } => {
                    // SAFETY: nothing writes an output between its Fetch's start and end.
                    let source = unsafe { shared.arenas[from.arena].slice(from.offset, from.bytes) };
                    let dims = shared.dims.of(instance.step);
                    source.map_or(Ok(()), |from| caller.fetch(tensor, instance.step, from, &dims))
                }
                Work::Load { .. } | Work::Fill { .. } | Work::Move { .. } | Work::Run { .. } => Ok(()),
            };
            result.map_err(|problem| RunError::Caller { instruction: item.name.clone(), step: instance.step, problem })
        },
    )
}
