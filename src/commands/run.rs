//! `berth run`: a model or a program, inside a memory cap, with real bytes.

use crate::cli;
use crate::commands::{planned, proved, stem};
use crate::compare::{self, Difference};
use crate::failure::{Failure, Outcome};
use crate::live::Live;
use crate::measure::{costs as costs_of, load_failure, ports};
use crate::npz::{self, Array};
use crate::observed::{LinkSeen, Observation};
use crate::sides::{Arrays, Sides, Steps, Values, check_set, given_inputs, made_inputs};
use crate::slow::{Planned, Slow};
use crate::split::{self, Model, Wanted};
use crate::summary::Summary;
use crate::{fast, files, machine, model, quickest, standing, trace};
use berth_compiler::cost::{Cost, with_measured};
use berth_compiler::import;
use berth_compiler::lower::Lowered;
use berth_compiler::plan::{Plan, STEPS};
use berth_compiler::simulate::{events, simulate};
use berth_ir::expr::Binding;
use berth_ir::graph::Graph;
use berth_ir::program::Program;
use berth_ir::target::Link;
use berth_ir::units::Nanos;
use berth_ir::verify::Verified;
use berth_ir::{DType, Target, graph::Content};
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{EngineError, EngineOptions};
use berth_runtime_exec::errors::{LoadError, RunError};
use berth_runtime_exec::executor::{Executor, Options, Pace, Ran, StepSeen, Stop, engines as engines_of};
use berth_runtime_exec::pack::Pack;
use berth_runtime_exec::store::Places;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Serialize)]
struct Report {
    plan: Option<Summary>,
    steps: u32,
    /// Steps after the first where there are any, else the first.
    measured_step_nanos: u64,
    first_step_nanos: u64,
    measured_stall_nanos: u64,
    stands_for: Option<StandsFor>,
    /// Largest of max|a-b| / max|b| over the outputs that the input file holds.
    stored: Option<Stored>,
    against: Option<Against>,
    trace: Option<String>,
    observed: Option<Observed>,
}

/// What was written of what was seen.
#[derive(Serialize)]
struct Observed {
    file: String,
    tasks: usize,
    moving_nanos: u64,
    moving_under_compute_nanos: u64,
    links: Vec<LinkSeen>,
}

impl Observed {
    fn new(path: &Path, seen: Observation) -> Observed {
        Observed {
            file: path.display().to_string(),
            tasks: seen.tasks.len(),
            moving_nanos: seen.moving.0,
            moving_under_compute_nanos: seen.moving_under_compute.0,
            links: seen.links,
        }
    }
}

/// The machine that this one stood for.
#[derive(Serialize)]
struct StandsFor {
    target: String,
    /// How many times as long everything took.
    times: u64,
    /// What the measured step would be there.
    step_nanos: u64,
}

#[derive(Serialize)]
struct Stored {
    outputs: usize,
    largest: f64,
    at: String,
}

#[derive(Serialize)]
struct Against {
    file: String,
    outputs: usize,
    /// Names of outputs that differ in at least one bit.
    different: Vec<String>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(plan) = &self.plan {
            writeln!(f, "{plan}")?;
        }
        let measured = Nanos(self.measured_step_nanos).human();
        let first = Nanos(self.first_step_nanos).human();
        let stall = Nanos(self.measured_stall_nanos).human();
        write!(
            f,
            "  ran         {} steps: first {first}, then {measured} a step (median), {stall} of it stalls",
            self.steps
        )?;
        if let Some(s) = &self.stands_for {
            let step = Nanos(s.step_nanos).human();
            write!(f, "\n  as          {}, slowed down {} times: {step} a step there", s.target, s.times)?;
        }
        if let Some(s) = &self.stored {
            write!(
                f,
                "\n  stored      largest difference to {} stored outputs {:.1e}, at `{}`",
                s.outputs, s.largest, s.at
            )?;
        }
        if let Some(a) = &self.against {
            match a.different.as_slice() {
                [] => write!(f, "\n  bits        all {} outputs are those of {}, bit for bit", a.outputs, a.file)?,
                [first, ..] => write!(
                    f,
                    "\n  bits        {} of {} outputs differ from {}, `{first}` first",
                    a.different.len(),
                    a.outputs,
                    a.file
                )?,
            }
        }
        if let Some(trace) = &self.trace {
            write!(f, "\n  trace       {trace} (open it in a Chrome or Perfetto trace viewer)")?;
        }
        if let Some(o) = &self.observed {
            for link in &o.links {
                write!(
                    f,
                    "\n  link {:<7}{:.2} GB/s while it moved",
                    format!("{} ", link.name),
                    link.rate.0 as f64 / 1e9
                )?;
            }
            if o.moving_nanos > 0 {
                let share = 100.0 * o.moving_under_compute_nanos as f64 / o.moving_nanos as f64;
                write!(f, "\n  overlap     {share:.0} % of the time of copies was under compute")?;
            }
            write!(f, "\n  observed    {} tasks, in {}: plan with it by `--observed`", o.tasks, o.file)?;
        }
        Ok(())
    }
}

/// A program to run, and what it was planned from.
struct Ready {
    target: Target,
    program: Verified<Program>,
    /// Tensors of inputs that are the same in every step.
    same: BTreeSet<String>,
    summary: Option<Summary>,
}

impl Ready {
    fn same(&self) -> BTreeSet<&str> {
        self.same.iter().map(String::as_str).collect()
    }
}

/// Runs it.
pub fn run(args: &cli::Run) -> Outcome {
    for path in [&args.outputs, &args.trace, &args.save, &args.observe].into_iter().flatten() {
        files::check_writable(Some(path))?;
    }
    let given = given_program(args)?;
    let model_path = args.model.as_deref().unwrap_or(&args.file);
    let opened = model::open(model_path, args.bound.cast)?;
    let arrays = args.inputs.as_deref().map(npz::read).transpose().map_err(Failure::bad)?;
    let names = opened.inputs().iter().map(|port| port.name.clone()).collect();
    let mut arrays = Arrays::new(arrays.unwrap_or_default(), &names)?;
    let mut dims = model::dims(&args.bound.dims)?;
    if let Some(program) = &given {
        dims.extend(program.header.dims.clone());
    }
    check_threads(given.as_ref(), args.threads)?;
    let states = match &given {
        Some(program) => program.header.states.clone(),
        None => model::states(&args.states.states)?,
    };
    let inside = model::dims_of_inputs(&opened, &arrays.inputs, &states, &mut dims)?;
    let wished = args.stands_for.as_deref().unwrap_or(args.machine.name());
    // A program names its machine; where another description of it is given, the verifier compares the layouts.
    let its = given.as_ref().filter(|_| args.machine.target.is_none());
    let name = its.map_or(wished, |program| &program.header.target);
    if let Some(other) = args.stands_for.as_ref().filter(|other| *other != name) {
        return Err(Failure::bad(format!(
            "the program is for `{name}`: leave out `--as {other}`, or compile it for that"
        )));
    }
    let target = machine::target(name)?;
    let mut set = model::sets(&args.bound.sets)?;
    model::set_deciding(&opened, &dims, &arrays.inputs, &mut set);
    let graph = model::graph(&opened, &dims, &set)?;
    check_present(&graph, &opened)?;
    // Costs are measured of the first engine; others are used where somebody says so.
    let first: Vec<String> = target.engines.iter().take(1).map(|e| e.name.clone()).collect();
    let engines = args.machine.engines.as_deref().unwrap_or(&first);
    let threads = u64::from(args.threads);
    let memory = &args.machine.memory;
    let wanted = Wanted { target: &target, memory, engines: Some(engines), threads, states: &states };
    let mut model = match &given {
        Some(program) => split::as_said(&graph, &dims, &target, &program.header)?,
        None => quickest::for_memory(&graph, &dims, &wanted)?,
    };
    machine::restrict(&target, Some(engines), &mut model.lowered.lifetimes)?;
    let lowered = &model.lowered;
    let steps = Steps::new(&dims, &inside, lowered, args.steps as usize)?;
    // What is computed in another type may be given in the file's.
    if args.bound.cast.is_some() {
        let types: BTreeMap<&str, DType> =
            lowered.inputs.iter().chain(&lowered.outputs).map(|b| (b.name.as_str(), b.dtype)).collect();
        arrays = arrays.map(|array| {
            let name = array.name.strip_prefix("out:").unwrap_or(&array.name);
            let dtype = types.get(name).copied().unwrap_or(array.dtype);
            array.as_float(dtype)
        });
    }
    let stored = std::mem::take(&mut arrays.outputs);
    let inputs = match args.inputs.is_some() {
        true => given_inputs(lowered, arrays, &steps)?,
        false => made_inputs(lowered, &graph, args.seed, &steps)?,
    };
    if args.inputs.is_some() {
        check_set(&set, &inputs)?;
    }
    let same = steps.same(lowered, &inputs);
    let sizes = steps.first;
    let against = args.against.as_deref().map(npz::read).transpose().map_err(Failure::bad)?;

    let options = EngineOptions {
        library: args.engine.clone(),
        threads: args.threads as usize,
        spin: args.numerics == cli::Numerics::Fast,
    };
    let mut engines = vec![OrtEngine::open(&options).map_err(Failure::bad)?];
    let places = places(args, &opened)?;
    // Costs of the first engine here; where this machine stands for another, they only say how slow that must be.
    let costs = match given.is_none() || args.stands_for.is_some() {
        true => costs_of(lowered, &mut engines[0], &places)?,
        false => BTreeMap::new(),
    };
    let slowness = args.stands_for.as_ref().map(|_| standing::slowness(&target, &lowered.lifetimes, &costs));
    let whole = model.whole.clone();
    let job = Job { args, whole, slowness, options, places, inputs, same, sizes, stop: stop_on_ctrl_c() };
    if let Some(program) = given {
        let lowered = fast::as_in(model, &program)?;
        let ready = ready_given(&job, program, target, &lowered)?;
        let (_, ended) = job.carry_out(&ready, &lowered, engines, true)?;
        let (ran, outputs) = ended.map_err(run_failure)?;
        return job.finish(&ready, &ran, outputs, &stored, against);
    }
    model.lowered.lifetimes = with_measured(model.lowered.lifetimes.clone(), &job.counted_on(&model.lowered, costs));
    let (mut lowered, memory) = job.numerics(model, &target, &mut engines[0])?;
    for _ in 0..PLANS_MAX {
        let ready = ready_planned(&job, &memory, &target, &lowered)?;
        let (back, ended) = job.carry_out(&ready, &lowered, engines, false)?;
        match (ended, back) {
            (Err(RunError::Engine { source: EngineError::Spilled { task, needed_bytes, .. }, .. }), Some(back)) => {
                // A task that could not be tried on zeros needs more scratch than its estimate: plan with what it needs,
                // on whichever engine.
                for task in lowered.lifetimes.tasks.iter_mut().filter(|t| t.name == task) {
                    task.others.iter_mut().for_each(|on| on.workspace = on.workspace.max(needed_bytes));
                    task.workspace = needed_bytes;
                }
                engines = back;
            }
            (Err(RunError::Engine { source: EngineError::Room { task, needed_bytes, .. }, .. }), _) => {
                // Weights of a task with the code of another may pack into more.
                let held = lowered.lifetimes.tasks.iter_mut().filter(|t| t.name == task);
                held.filter_map(|t| t.held.as_mut()).for_each(|held| held.bytes = needed_bytes);
                engines = vec![OrtEngine::open(&job.options).map_err(Failure::bad)?];
            }
            (ended, _) => {
                let (ran, outputs) = ended.map_err(run_failure)?;
                return job.finish(&ready, &ran, outputs, &stored, against);
            }
        }
    }
    Err(Failure::bad(format!("tasks still needed more workspace after {PLANS_MAX} plans; please report the model")))
}

/// Plans that are made until every task has the workspace that it turns out to need.
const PLANS_MAX: usize = 16;

/// Where Ctrl-C finds what it must stop.
type Stopping = Arc<Mutex<Option<Stop>>>;

/// The first Ctrl-C asks the run to stop; a second one, or one while nothing runs, ends the process at once.
fn stop_on_ctrl_c() -> Stopping {
    let stopping = Stopping::default();
    let handler = stopping.clone();
    // Where there can be no handler, Ctrl-C ends the process as it always does.
    let _ = ctrlc::set_handler(move || match handler.lock().ok().and_then(|mut stop| stop.take()) {
        Some(stop) => stop.stop(),
        None => {
            eprintln!("error: stopped at once, as asked");
            std::process::exit(130)
        }
    });
    stopping
}

/// What one command runs, whatever the plan.
struct Job<'a> {
    args: &'a cli::Run,
    /// The hash of the model before anything of it was split or made again.
    whole: String,
    /// How many times as slow as another machine this one is, where it stands for one.
    slowness: Option<u64>,
    /// How engines are opened.
    options: EngineOptions,
    places: Places,
    inputs: Vec<Values>,
    /// Of those, which are the same in every step.
    same: BTreeSet<String>,
    /// Of every dim of the inputs, in the first step.
    sizes: Binding,
    stop: Stopping,
}

/// When everything happened, and the outputs.
type Done = Result<(Ran, Vec<Array>), RunError>;

impl Job<'_> {
    /// What a plan counts on: what was measured; for another machine its estimates, with the scratch that the engine needs.
    fn counted_on(&self, lowered: &Lowered, measured: BTreeMap<String, Cost>) -> BTreeMap<String, Cost> {
        if self.slowness.is_none() {
            return measured;
        }
        let tasks = lowered.lifetimes.tasks.iter();
        let costs =
            tasks.filter_map(|task| Some((task.name.clone(), Cost { time: task.cost, ..*measured.get(&task.name)? })));
        costs.collect()
    }

    /// The model with what the engine had better keep, where that is asked for, and what `--memory` comes to then.
    fn numerics(
        &self,
        model: Model,
        target: &Target,
        engine: &mut OrtEngine,
    ) -> Result<(Lowered, Vec<String>), Failure> {
        let memory = &self.args.machine.memory;
        if self.args.numerics == cli::Numerics::Exact {
            return Ok((model.lowered, memory.clone()));
        }
        let (budgeted, words) = fast::in_bytes(memory, target, &model.lowered)?;
        let mut measure = |lowered: &Lowered| Ok(self.counted_on(lowered, costs_of(lowered, engine, &self.places)?));
        Ok((fast::chosen(&model, &budgeted, &mut measure)?, words))
    }

    /// Loads a program and runs it; the engines come back if they can be used again.
    fn carry_out(
        &self,
        ready: &Ready,
        lowered: &Lowered,
        mut engines: Vec<OrtEngine>,
        measure: bool,
    ) -> Result<(Option<Vec<OrtEngine>>, Done), Failure> {
        let ports = ports(&ready.program, lowered)?;
        let wanted = engines_of(&ready.program).map_err(load_failure)?.len();
        while engines.len() < wanted {
            engines.push(OrtEngine::open(&self.options).map_err(Failure::bad)?);
        }
        engines.truncate(wanted);
        let options = Options {
            places: self.places.clone(),
            measure,
            dims: self.sizes.clone(),
            links: ready.target.links.iter().map(|link| (link.name.clone(), self.pace(&ready.target, link))).collect(),
            tasks: self.slowness.map_or(Vec::new(), |times| standing::tasks(&ready.program, times)),
            records: if self.args.trace.is_some() || self.args.observe.is_some() { RECORDS_MAX } else { 0 },
        };
        let mut executor = match Executor::load(&ready.program, &ports, engines, &options) {
            Ok(executor) => executor,
            Err(LoadError::Engine(source @ EngineError::Room { .. })) => {
                let instruction = "loading".to_owned();
                return Ok((None, Err(RunError::Engine { instruction, step: 0, source })));
            }
            Err(error) => return Err(load_failure(error)),
        };
        if let Ok(mut stop) = self.stop.lock() {
            *stop = Some(executor.stop());
        }
        let steps = self.args.steps as usize;
        let mut sides = Sides::new(lowered, &self.inputs, steps);
        let shown = self.args.format == cli::Format::Text && std::io::stderr().is_terminal();
        let live = shown.then(|| Live::start(executor.watch(), steps));
        // One that stands for another is slow on purpose.
        let slow = self
            .slowness
            .is_none()
            .then(|| Slow::start(executor.watch(), Planned::of(&ready.program, &ready.target), self.replan(), shown));
        let ran = executor.run(steps, Duration::from_secs(self.args.time_limit), &mut sides);
        if let Ok(mut stop) = self.stop.lock() {
            *stop = None;
        }
        drop((slow, live));
        let outputs = sides.outputs();
        Ok((executor.into_engines(), ran.map(|ran| (ran, outputs))))
    }

    /// The commands that plan again with what this machine does.
    fn replan(&self) -> String {
        let model = self.args.model.as_ref().unwrap_or(&self.args.file).display();
        match &self.args.observe {
            Some(seen) => format!("`berth compile {model} --observed {}`", seen.display()),
            None => format!("add `--observe seen.ron`, then `berth compile {model} --observed seen.ron`"),
        }
    }

    fn pace(&self, target: &Target, link: &Link) -> Pace {
        match self.slowness {
            None => Pace::of(link),
            Some(times) => standing::held(target, &link.name, Pace::of(link), times),
        }
    }

    /// The tensors of inputs that are the same in every step.
    fn same_tensors(&self, lowered: &Lowered) -> BTreeSet<String> {
        let inputs = lowered.inputs.iter().filter(|port| self.same.contains(&port.name));
        inputs.filter_map(|port| port.tensor.clone()).collect()
    }

    /// Writes and prints what came of a run.
    fn finish(
        &self,
        ready: &Ready,
        ran: &Ran,
        outputs: Vec<Array>,
        stored: &BTreeMap<String, Array>,
        against: Option<Vec<Array>>,
    ) -> Outcome {
        let args = self.args;
        if let Some(path) = &args.trace {
            files::write(path, &trace::json(&events(&ready.target, &ready.program, STEPS, &ready.same()), &ran.seen))?;
        }
        let seen = args.observe.as_ref().map(|_| Observation::new(&self.whole, &ready.program, ran));
        if let (Some(path), Some(seen)) = (&args.observe, &seen) {
            files::write(path, seen.to_ron().as_bytes())?;
        }
        if let Some(path) = &args.save {
            files::write_program(path, &ready.program)?;
        }
        if let Some(path) = &args.outputs {
            npz::write(path, &outputs).map_err(Failure::bad)?;
        }
        let engine = ready.target.engines.first().map_or("", |e| &e.name);
        let times_of = Times::new(ran, engine);
        let report = Report {
            plan: ready.summary.clone(),
            steps: args.steps,
            measured_step_nanos: times_of.step,
            first_step_nanos: times_of.first,
            measured_stall_nanos: times_of.step.saturating_sub(times_of.busy),
            stands_for: args.stands_for.clone().zip(self.slowness).map(|(target, times)| StandsFor {
                target,
                times,
                step_nanos: times_of.step / times.max(1),
            }),
            stored: against_stored(&outputs, stored)?,
            against: args.against.as_ref().zip(against).map(|(p, a)| bits(&outputs, &a, p)).transpose()?,
            trace: args.trace.as_ref().map(|p| p.display().to_string()),
            observed: args.observe.as_ref().zip(seen).map(|(path, seen)| Observed::new(path, seen)),
        };
        files::print(&report, args.format)
    }
}

/// Where weights are read: in the model's files, or in a pack of them.
fn places(args: &cli::Run, opened: &import::Model) -> Result<Places, Failure> {
    let mut places = model::places(opened);
    if let Some(path) = &args.weights {
        let pack = Pack::open(path).map_err(Failure::bad)?;
        pack.made_from(&places).map_err(Failure::bad)?;
        places.pack = Some(Arc::new(pack));
    }
    Ok(places)
}

/// Instances that a trace holds: more than a viewer shows.
const RECORDS_MAX: usize = 1_000_000;

fn given_program(args: &cli::Run) -> Result<Option<Program>, Failure> {
    if !files::is_program(&args.file) {
        return Ok(None);
    }
    if args.model.is_none() {
        return Err(Failure::bad(format!(
            "`{}` is a program; name the model that it was made from with `--model MODEL`",
            args.file.display()
        )));
    }
    if args.machine.engines.is_some() {
        return Err(Failure::bad(
            "a program has its tasks on the engines that it was compiled for: leave out `--engines`",
        ));
    }
    if !args.machine.memory.is_empty() {
        return Err(Failure::bad(
            "a program keeps the memory that it was compiled for: leave out `--memory`, or compile again",
        ));
    }
    if !args.states.states.is_empty() {
        return Err(Failure::bad("a program has the states that it was compiled with: leave out `--state`"));
    }
    files::read_program(&args.file).map(Some)
}

/// Pieces of operators have the bits of the whole for so many threads only.
fn check_threads(given: Option<&Program>, threads: u32) -> Outcome {
    let most = given.and_then(|program| program.header.split).map(|split| split.threads);
    match most.filter(|most| u64::from(threads) > *most) {
        None => Ok(()),
        Some(most) => Err(Failure::bad(format!(
            "the program's operators are split so that bits stay the same with up to {most} threads; {threads} were asked for: give `--threads {most}` or less, or compile it again with `--threads {threads}`"
        ))),
    }
}

/// Weights that are absent can be planned, not run.
fn check_present(graph: &Graph, model: &import::Model) -> Outcome {
    let absent = graph.values.iter().find_map(|v| match &v.content {
        Content::Stored(s) if !s.present => Some(s),
        _ => None,
    });
    let Some(stored) = absent else { return Ok(()) };
    Err(Failure::bad(format!(
        "the weights file `{}` is not there; make it from a seed with `berth seed-weights {}`, or put the exporter's beside the model",
        stored.path.display(),
        model.path().display()
    )))
}

/// A program that was given: proved against its target and model.
fn ready_given(job: &Job, program: Program, target: Target, lowered: &Lowered) -> Result<Ready, Failure> {
    let program = proved(&target, program, Some(&lowered.facts))?;
    let target = target.budgeted(&program.header.memory);
    Ok(Ready { target, program, same: job.same_tensors(lowered), summary: None })
}

/// A model, planned with what was measured of its tasks.
fn ready_planned(job: &Job, memory: &[String], target: &Target, lowered: &Lowered) -> Result<Ready, Failure> {
    let args = job.args;
    let budgeted = machine::budget(target, memory, &lowered.lifetimes)?;
    let (plan, program): (Plan, _) = planned(lowered, &budgeted.target)?;
    let costs = if args.stands_for.is_some() { "estimated" } else { "measured" };
    let summary = Summary::new(&stem(&args.file), &budgeted.target, &plan, costs);
    let mut ready = Ready { target: budgeted.target, program, same: job.same_tensors(lowered), summary: None };
    // The plan counts on other inputs in each step.
    let fed = simulate(&ready.target, &ready.program, STEPS, &ready.same());
    ready.summary = Some(Summary { predicted_nanos: fed.step.0, stall_nanos: fed.stall.0, ..summary });
    Ok(ready)
}

/// Times of steps, from end to end of the last instruction of each.
struct Times {
    first: u64,
    step: u64,
    busy: u64,
}

impl Times {
    fn new(ran: &Ran, engine: &str) -> Times {
        let place = ran.engines.iter().position(|name| name == engine);
        let busy = |step: &StepSeen| place.and_then(|place| step.busy.get(place).copied()).unwrap_or(0);
        let (first, first_busy) = ran.steps.get(1).map_or((0, 0), |step| (step.end, busy(step)));
        let pairs = ran.steps.iter().zip(ran.steps.iter().skip(1)).skip(1);
        let mut later: Vec<(u64, u64)> =
            pairs.map(|(last, step)| (step.end.saturating_sub(last.end), busy(step))).collect();
        later.sort_unstable();
        let (step, busy) = later.get(later.len() / 2).copied().unwrap_or((first, first_busy));
        Times { first, step, busy }
    }
}

fn against_stored(outputs: &[Array], stored: &BTreeMap<String, Array>) -> Result<Option<Stored>, Failure> {
    let mut worst: Option<Stored> = None;
    let mut count = 0;
    for output in outputs {
        let Some(want) = stored.get(&output.name) else { continue };
        let Difference { largest, .. } =
            compare::arrays(output, want).map_err(|e| Failure::bad(format!("stored output `{}`: {e}", output.name)))?;
        count += 1;
        if worst.as_ref().is_none_or(|w| largest.total_cmp(&w.largest).is_gt()) {
            worst = Some(Stored { outputs: 0, largest, at: output.name.clone() });
        }
    }
    Ok(worst.map(|w| Stored { outputs: count, ..w }))
}

fn bits(outputs: &[Array], other: &[Array], path: &Path) -> Result<Against, Failure> {
    let mut different = Vec::new();
    for output in outputs {
        let want = other.iter().find(|a| a.name == output.name).ok_or_else(|| {
            Failure::bad(format!("`{}` has no output `{}` to compare with", path.display(), output.name))
        })?;
        if want.bytes != output.bytes || want.shape != output.shape || want.dtype != output.dtype {
            different.push(output.name.clone());
        }
    }
    Ok(Against { file: path.display().to_string(), outputs: outputs.len(), different })
}

fn run_failure(error: RunError) -> Failure {
    match error {
        RunError::Stopped { .. } => Failure::stopped(error),
        other => Failure::bad(other),
    }
}
