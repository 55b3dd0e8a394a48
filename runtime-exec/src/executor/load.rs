//! From a proved program to one in memory: files opened, tasks given to engines at their addresses, workspaces tried.

#![allow(unsafe_code, reason = "gives engines the addresses that the verifier has proved")]

use crate::arena::Arena;
use crate::engine::{Engine, EngineError, Measured, Port, SessionId, TaskCode};
use crate::errors::LoadError;
use crate::executor::table::{Item, Range, Table, Work};
use crate::executor::{Operand, TaskPorts};
use crate::open::{Bound, Open};
use crate::store::Wanted;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a program reads from files, prologue first, in the order of its instructions.
pub(crate) fn wanted(table: &Table) -> Vec<Wanted> {
    let reads = table.halves.iter().flatten().filter_map(|item| match &item.work {
        Work::Load { file, from, to } => {
            Some(Wanted { what: item.name.clone(), file: file.clone(), layout: *from, bytes: to.bytes })
        }
        _ => None,
    });
    reads.collect()
}

pub(crate) fn mismatch(task: &str, port: usize, problem: String) -> LoadError {
    LoadError::Ports { task: task.to_owned(), port, problem }
}

pub(crate) fn bind<E: Engine>(
    engine: &mut E,
    session: SessionId,
    arenas: &[Arena],
    item: &Item,
    ports: &TaskPorts,
    ranges: &[Range],
) -> Result<Bound, LoadError> {
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
    let open = ports.open.clone().map(|shapes| Open::new(ports, shapes, &places, known));
    let addresses: Vec<*mut u8> = places.iter().map(|(address, _)| *address as *mut u8).collect();
    let (inputs, outputs) = addresses.split_at(ports.code.inputs.len());
    // SAFETY: the addresses lie in arenas that live as long as the executor, for the bytes of each port, as just
    // checked; while the task runs nobody else writes its inputs or touches its outputs: rules 3, 5 and 6. Where sizes
    // are open each run binds again, after checking them.
    let binding = unsafe { engine.bind(session, &ports.code, inputs, outputs) }?;
    Ok(Bound { binding, open })
}

/// Tries a task on scratch memory and refuses it where it needs more workspace than planned. Identical code once.
pub(crate) fn check_workspace<E: Engine>(
    engine: &mut E,
    session: SessionId,
    ports: &TaskPorts,
    planned: u64,
    tried: &mut BTreeMap<(bytes::Bytes, Vec<Vec<u64>>), u64>,
) -> Result<(), LoadError> {
    // Code with open sizes is the same for tasks of several.
    let key = (ports.code.model.clone(), ports.code.ports().map(|port| port.shape.clone()).collect());
    let needed = match tried.get(&key) {
        Some(needed) => *needed,
        None => {
            let needed = match measure_workspace(engine, session, &ports.code) {
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
fn measure_workspace<E: Engine>(engine: &mut E, session: SessionId, code: &TaskCode) -> Result<u64, LoadError> {
    on_scratch(code, |_, scratch| Ok(engine.measure(session, code, scratch, 1, &mut || {})?.workspace_bytes))
}

/// Does something with zeroed scratch memory for a task's ports.
fn on_scratch<T>(
    code: &TaskCode,
    work: impl FnOnce(&Arena, &mut [u8]) -> Result<T, LoadError>,
) -> Result<T, LoadError> {
    let bytes = code.scratch_layout().map_or(u64::MAX, |(_, bytes)| bytes);
    let memory = || LoadError::Memory { tier: format!("a trial of `{}`", code.name), bytes };
    let arena = Arena::new(bytes).ok_or_else(memory)?;
    // SAFETY: the arena is this function's own.
    let scratch = unsafe { arena.slice_mut(0, bytes) }.ok_or_else(memory)?;
    work(&arena, scratch)
}

/// Bytes that are touched to push a task's weights out of the caches; more than the caches of most machines.
const CACHES: usize = 64 << 20;
/// Weights that are not worth that: they stay in a cache from one step to the next too.
const CACHED: u64 = 256 << 10;
/// A line of a cache, as far apart as touching is worth.
const LINE: usize = 64;
/// Runs of a task, and of a long one, which is the only one of its kind in a step: the median counts.
const RUNS: u32 = 3;
const KEPT_RUNS: u32 = 9;

/// How a task finds the caches when it is measured.
#[derive(Debug)]
pub enum Caches<'a> {
    /// As its last run left them, once: for what it needs, and for how long about it takes.
    Left,
    /// Weights are out of them, as they are when a step comes to them, and what other tasks make is in them. The memory is
    /// kept from call to call.
    AsInAStep(&'a mut Vec<u8>),
}

/// Runs a task on zeroed scratch memory of its own and says what it cost, after one run that warms the code.
///
/// `kept` is the block of weights that comes with the task's model, where it has one.
pub fn measure<E: Engine>(
    engine: &mut E,
    code: &TaskCode,
    kept: Option<&Arena>,
    caches: Caches,
) -> Result<Measured, LoadError> {
    let Some(block) = kept else {
        let session = engine.prepare(code)?;
        return measure_session(engine, session, code, caches);
    };
    // SAFETY: nobody writes to the block while it is borrowed. The session has no room of its caller's.
    let keeping = unsafe { engine.keep(code, block.slice(0, code.kept).unwrap_or_default(), None)? };
    let measured = measure_session(engine, keeping.session, code, caches);
    engine.forget(keeping.session);
    Ok(Measured { kept_bytes: keeping.bytes, loading_bytes: code.kept.saturating_add(keeping.loading), ..measured? })
}

fn measure_session<E: Engine>(
    engine: &mut E,
    session: SessionId,
    code: &TaskCode,
    caches: Caches,
) -> Result<Measured, LoadError> {
    on_scratch(code, |arena, scratch| measure_on(engine, session, code, (arena, scratch), caches))
}

fn measure_on<E: Engine>(
    engine: &mut E,
    session: SessionId,
    code: &TaskCode,
    (arena, scratch): (&Arena, &mut [u8]),
    caches: Caches,
) -> Result<Measured, LoadError> {
    let weights: u64 = code.inputs.iter().filter(|port| port.weight).filter_map(Port::bytes).sum();
    // What an engine keeps nobody streams over: it stays in what caches it has room in.
    if weights <= CACHED || code.kept > 0 {
        let runs = match caches {
            _ if code.kept > 0 => KEPT_RUNS,
            Caches::Left => 1,
            Caches::AsInAStep(_) => RUNS,
        };
        return Ok(engine.measure(session, code, scratch, runs, &mut || {})?);
    }
    let Caches::AsInAStep(flush) = caches else {
        return Ok(engine.measure(session, code, scratch, 1, &mut || {})?);
    };
    let places = code.scratch_layout().map(|(places, _)| places).unwrap_or_default();
    let warm: Vec<(u64, u64)> = (code.ports().zip(places).filter(|(port, _)| !port.weight))
        .filter_map(|(port, place)| Some((place, port.bytes()?)))
        .collect();
    flush.resize(CACHES, 0);
    let mut empty_caches = || {
        flush.iter_mut().step_by(LINE).for_each(|byte| *byte = byte.wrapping_add(1));
        for (place, bytes) in &warm {
            let Some(start) = arena.address(*place, *bytes) else { continue };
            for at in (0..*bytes as usize).step_by(LINE) {
                // SAFETY: inside the arena, of which nothing is in use between two runs.
                let _ = unsafe { start.add(at).read_volatile() };
            }
        }
    };
    Ok(engine.measure(session, code, scratch, RUNS, &mut empty_caches)?)
}

/// Runs a task over and over on scratch memory of its own, while `work` goes on beside it. What a run took, in
/// nanoseconds, the mean of all, as what slows them may come in bursts; and what the work came to, which begins when the
/// task runs.
pub fn occupied<E: Engine, T>(
    engine: &mut E,
    code: &TaskCode,
    work: impl FnOnce() -> T,
) -> Result<(u64, T), LoadError> {
    let session = engine.prepare(code)?;
    let (begun, ended) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (begun, ended) = (&begun, &ended);
        let computing = scope.spawn(move || {
            let taken = on_scratch(code, |_, scratch| {
                // The first finds caches cold. One is counted even where the work ends at once.
                engine.measure(session, code, scratch, 1, &mut || {})?;
                begun.store(true, Ordering::Release);
                let (mut runs, mut taken) = (0, 0);
                while runs == 0 || !ended.load(Ordering::Acquire) {
                    taken += engine.measure(session, code, scratch, 1, &mut || {})?.run_nanos;
                    runs += 1;
                }
                Ok(taken / runs)
            });
            // Where it failed nobody waits for it.
            begun.store(true, Ordering::Release);
            taken
        });
        while !begun.load(Ordering::Acquire) && !computing.is_finished() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let came = work();
        ended.store(true, Ordering::Release);
        let failed = || LoadError::Engine(EngineError::Unknown(format!("end of task `{}`", code.name)));
        Ok((computing.join().map_err(|_| failed())??, came))
    })
}
