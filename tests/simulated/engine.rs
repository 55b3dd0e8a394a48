//! Engines and a caller of a world. What they find is held against what the program means, when they begin and when they end;
//! what an engine keeps, as long as it keeps it.

#![allow(unsafe_code, reason = "an engine reads and writes where it is bound")]

use crate::meaning::{Meaning, fed, fill, print, seed};
use crate::plan::Ill;
use crate::watch::POISON;
use crate::world::World;
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::program::Program;
use berth_runtime_exec::engine::{
    BindingId, Engine, EngineError, Keeping, Measured, Port, SessionId, StopFlag, Stopper, TaskCode,
};
use berth_runtime_exec::executor::{Caller, Operand, TaskPorts};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What an engine is given for each task: its number for a name, and as its model the places of weights in their block.
pub fn ports(program: &Program) -> Vec<TaskPorts> {
    let size = |name: &str| {
        let tensor = program.tensors.iter().find(|t| t.name == name).expect("a tensor");
        tensor.bytes.as_constant().expect("a number") as u64
    };
    let each = program.tasks.iter().enumerate().map(|(n, task)| {
        let of = |reads: bool| {
            let all = task.accesses.iter().enumerate();
            all.filter(move |(_, access)| if reads { access.reads() } else { access.writes() })
        };
        let port = |(n, access): (usize, &berth_ir::program::Access)| {
            Port::new(format!("{n}"), DType::U8, vec![size(access.tensor())])
        };
        let operands = |reads: bool| of(reads).map(|(n, _)| Operand::Access(n)).collect();
        let (inputs, outputs) = (of(true).map(port).collect(), of(false).map(port).collect());
        // The last weight first, and something between them.
        let mut bytes = 0;
        let held = task.held.iter().flat_map(|held| held.weights.iter().rev());
        let kept = held.map(|name| {
            let from = bytes;
            bytes += size(name) + 64;
            (name.clone(), from)
        });
        let kept: Vec<(String, u64)> = kept.collect();
        let places = kept.iter().rev().flat_map(|(name, from)| [*from, size(name)]);
        let model = places.flat_map(u64::to_le_bytes).collect::<Vec<u8>>().into();
        let code = TaskCode { name: n.to_string(), model, inputs, outputs, kept: bytes };
        TaskPorts { code, inputs: operands(true), outputs: operands(false), kept, open: None }
    });
    each.collect()
}

/// An address and bytes there, as a number so that a thread may have it.
type Range = (usize, usize);

fn meets(one: Range, other: Range) -> bool {
    one.0 < other.0 + other.1 && other.0 < one.0 + one.1
}

/// Bytes at an address.
///
/// # Safety
/// They are the running task's, as the executor promises.
unsafe fn at<'a>(range: Range) -> &'a mut [u8] {
    // SAFETY: passed on from the caller.
    unsafe { std::slice::from_raw_parts_mut(std::ptr::with_exposed_provenance_mut(range.0), range.1) }
}

struct Bound {
    task: usize,
    inputs: Vec<Range>,
    outputs: Vec<Range>,
    /// Which of what is kept it runs with.
    kept: Option<usize>,
}

/// What is kept for a task: the weights, and where there is something that follows from them.
struct Kept {
    task: usize,
    weights: Vec<u64>,
    room: Range,
}

impl Kept {
    /// Writes what follows from the weights.
    fn pack(&self) {
        // SAFETY: the room is the engine's, as whoever had it keep them promised.
        fill(seed(self.task, 7, &self.weights), unsafe { at(self.room) });
    }

    /// Whether it is as it was left.
    fn is_whole(&self) -> bool {
        let mut packed = vec![0; self.room.1];
        fill(seed(self.task, 7, &self.weights), &mut packed);
        // SAFETY: as above.
        packed == unsafe { at(self.room) }
    }
}

/// An engine.
pub struct Made {
    world: World,
    meaning: Arc<Meaning>,
    bound: Vec<Bound>,
    /// By session, but the first: nothing once it is forgotten.
    kept: Vec<Option<Kept>>,
    stop: Arc<Flag>,
    executor: u64,
}

/// What asks an engine to stop.
#[derive(Default)]
struct Flag(AtomicBool);

impl StopFlag for Flag {
    fn set(&self, stop: bool) {
        self.0.store(stop, Ordering::SeqCst);
    }
}

impl Made {
    pub fn new(world: &World, meaning: &Arc<Meaning>) -> Made {
        let executor = world.state().watch.executor;
        let (world, meaning) = (world.clone(), meaning.clone());
        Made { world, meaning, bound: Vec::new(), kept: Vec::new(), stop: Arc::default(), executor }
    }

    /// Whether it keeps anything.
    pub fn keeps(&self) -> bool {
        self.kept.iter().any(Option::is_some)
    }

    /// What is kept must be as it was left.
    fn check(&self, kept: &Kept, when: &str) {
        if !kept.is_whole() {
            self.world.wrong(format!("somebody wrote to what is kept for task {} {when}", kept.task));
        }
    }

    fn kept(&self, bound: &Bound) -> Option<&Kept> {
        self.kept[bound.kept?].as_ref()
    }

    fn asked(&self) -> bool {
        self.stop.0.load(Ordering::SeqCst)
    }

    /// Takes some time.
    fn compute(&self) {
        let takes = {
            let mut state = self.world.state();
            let late = state.plan.late && !state.calm && state.dice.below(6) == 0;
            state.counts.late += u64::from(late);
            state.dice.below(if late { 2_000_000 } else { 20_000 }) as u64
        };
        self.world.wait(takes);
    }

    /// What befalls the engine this time.
    fn ill(&self) -> Option<Ill> {
        let mut state = self.world.state();
        let number = state.runs;
        state.runs += 1;
        let ill = state.plan.engine.filter(|(n, _)| *n == number && !state.calm);
        state.counts.ills += u64::from(ill.is_some());
        ill.map(|(_, ill)| ill)
    }

    /// What this run of a task comes to before it has written anything.
    fn fate(&self, name: &str) -> Result<(), EngineError> {
        let task = || name.to_owned();
        if self.stop.0.swap(false, Ordering::SeqCst) {
            return Err(EngineError::Stopped { task: task() });
        }
        match self.ill() {
            None => Ok(()),
            Some(Ill::Fails) => Err(EngineError::Engine { task: task(), step: "run it", status: "ill".into() }),
            Some(Ill::Spills) => {
                Err(EngineError::Spilled { task: task(), asked_bytes: 2, planned_bytes: 1, needed_bytes: 3 })
            }
            Some(Ill::Waits) => {
                self.world.stick(|| self.asked());
                self.stop.set(false);
                Err(EngineError::Stopped { task: task() })
            }
            Some(Ill::Deaf) => {
                self.world.stick(|| false);
                Ok(())
            }
        }
    }
}

impl Engine for Made {
    fn prepare(&mut self, _: &TaskCode) -> Result<SessionId, EngineError> {
        Ok(SessionId::new(0))
    }

    unsafe fn keep(
        &mut self,
        code: &TaskCode,
        weights: &[u8],
        room: Option<(*mut u8, usize)>,
    ) -> Result<Keeping, EngineError> {
        let (task, room) = (code.name.parse().expect("a number"), room.expect("a room"));
        let words: Vec<u64> =
            code.model.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("words"))).collect();
        let weights = words.chunks(2).map(|place| print(&weights[place[0] as usize..][..place[1] as usize])).collect();
        let kept = Kept { task, weights, room: (room.0.expose_provenance(), room.1) };
        if self.meaning.kept[&task] != kept.weights {
            self.world.wrong(format!("task {task} is given other weights to keep"));
        }
        let noted = self.world.state().watch.keep(kept.room.0, kept.room.1 as u64);
        noted.unwrap_or_else(|problem| self.world.wrong(problem));
        kept.pack();
        let name = || code.name.clone();
        match self.ill() {
            Some(Ill::Fails) => {
                return Err(EngineError::Engine { task: name(), step: "make a session", status: "ill".into() });
            }
            Some(_) => return Err(EngineError::Room { task: name(), needed_bytes: 2, planned_bytes: 1 }),
            None => self.world.state().counts.kept += 1,
        }
        self.kept.push(Some(kept));
        Ok(Keeping { session: SessionId::new(self.kept.len() as u32), bytes: room.1 as u64, loading: 0 })
    }

    fn forget(&mut self, session: SessionId) {
        match self.kept[session.place() as usize - 1].take() {
            Some(kept) => self.check(&kept, "before it is forgotten"),
            None => self.world.wrong("what is kept is forgotten twice"),
        }
    }

    fn measure(
        &mut self,
        _: SessionId,
        _: &TaskCode,
        _: &mut [u8],
        _: u32,
        _: &mut dyn FnMut(),
    ) -> Result<Measured, EngineError> {
        Ok(Measured { workspace_bytes: 0, run_nanos: 0, kept_bytes: 0, loading_bytes: 0, found: Vec::new() })
    }

    unsafe fn bind(
        &mut self,
        session: SessionId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<BindingId, EngineError> {
        let ranges = |ports: &[Port], addresses: &[*mut u8]| {
            let sizes = ports.iter().map(|port| port.bytes().expect("a size") as usize);
            addresses.iter().map(|address| address.expose_provenance()).zip(sizes).collect()
        };
        let (inputs, outputs) = (ranges(&code.inputs, inputs), ranges(&code.outputs, outputs));
        let kept = (session.place() as usize).checked_sub(1);
        self.bound.push(Bound { task: code.name.parse().expect("a number"), inputs, outputs, kept });
        Ok(BindingId::new(self.bound.len() as u32 - 1))
    }

    unsafe fn rebind(
        &mut self,
        binding: BindingId,
        _: &TaskCode,
        _: &[*mut u8],
        _: &[*mut u8],
    ) -> Result<(), EngineError> {
        Err(EngineError::Unknown(format!("binding {binding:?}")))
    }

    fn unbind(&mut self, _: BindingId) {}

    unsafe fn run(&mut self, binding: BindingId, workspace: (*mut u8, usize)) -> Result<(), EngineError> {
        let bound = &self.bound[binding.place() as usize];
        let name = bound.task.to_string();
        let Some(step) = self.world.state().watch.step_of(bound.task) else {
            self.world.wrong(format!("task {name} runs and has not begun"));
            return Ok(());
        };
        self.world.pass();
        // SAFETY: operands are valid and this task's while it runs, as the caller promises.
        let inputs = || bound.inputs.iter().map(|range| print(unsafe { at(*range) }));
        let kept = self.kept(bound);
        let prints = || inputs().chain(kept.iter().flat_map(|kept| kept.weights.iter().copied())).collect::<Vec<u64>>();
        kept.into_iter().for_each(|kept| self.check(kept, "before it runs"));
        let reads = prints();
        let said = &self.meaning.reads[&(step, bound.task)];
        if let Some(n) = reads.iter().zip(said).position(|(found, said)| found != said) {
            self.world.wrong(format!("task {name} in step {step} finds other bytes in its input {n}"));
        }
        // What it writes is nobody's until it has ended; over what it reads only by right, and late.
        let mut scratch: Vec<Range> = bound.outputs.clone();
        scratch.retain(|range| !bound.inputs.iter().any(|input| meets(*input, *range)));
        scratch.push((workspace.0.expose_provenance(), workspace.1));
        // SAFETY: as above.
        scratch.iter().for_each(|range| unsafe { at(*range) }.fill(POISON));
        self.fate(&name)?;
        if self.executor != self.world.state().watch.executor {
            // Let go when all was over.
            return Ok(());
        }
        self.compute();
        // SAFETY: as above.
        if scratch.iter().any(|range| unsafe { at(*range) }.iter().any(|byte| *byte != POISON)) {
            self.world.wrong(format!("somebody wrote to what task {name} writes in step {step}"));
        }
        if prints() != reads {
            self.world.wrong(format!("somebody wrote to what task {name} reads in step {step}"));
        }
        kept.into_iter().for_each(|kept| self.check(kept, "while it runs"));
        for (n, range) in bound.outputs.iter().enumerate() {
            // SAFETY: as above.
            fill(seed(bound.task, n, &reads), unsafe { at(*range) });
        }
        self.world.pass();
        Ok(())
    }

    fn found(&self, _: BindingId) -> &[Vec<u64>] {
        &[]
    }

    fn stopper(&self) -> Stopper {
        Stopper::new(self.stop.clone())
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // It may have been given up: what it keeps is there as long as it is.
        self.kept.iter().flatten().for_each(|kept| self.check(kept, "before its engine goes"));
    }
}

/// The caller of a run.
pub struct Side {
    pub world: World,
    pub meaning: Arc<Meaning>,
    /// Outputs that came.
    pub came: usize,
}

impl Side {
    fn refuses(&self, step: usize, input: bool) -> Result<(), String> {
        let state = self.world.state();
        match state.plan.refuses {
            Some(refused) if refused == (step, input) && !state.calm => Err(format!("not in step {step}")),
            _ => Ok(()),
        }
    }
}

impl Caller for Side {
    fn feed(&mut self, tensor: &str, step: usize, to: &mut [u8], _: &Binding, kept: bool) -> Result<(), String> {
        if kept {
            let mut before = vec![0; to.len()];
            fed(tensor, step - 1, &mut before);
            if *to != before {
                self.world.wrong(format!("the input {tensor} is not kept from step {} to the next", step - 1));
            }
        }
        to.fill(POISON);
        self.refuses(step, true)?;
        self.world.pass();
        if to.iter().any(|byte| *byte != POISON) {
            self.world.wrong(format!("somebody wrote to the input {tensor} in step {step}"));
        }
        fed(tensor, step, to);
        Ok(())
    }

    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], _: &Binding) -> Result<(), String> {
        self.refuses(step, false)?;
        let said = &self.meaning.outputs[&(step, tensor.to_owned())];
        for when in ["", " while it is read"] {
            if from != said {
                self.world.wrong(format!("the output {tensor} of step {step} is wrong{when}"));
            }
            self.world.pass();
        }
        self.came += 1;
        Ok(())
    }
}
