//! From the compiler's tasks to the runtime's, and what an engine measures of them.

use crate::failure::Failure;
use crate::rehearsal;
use berth_compiler::cost::Cost;
use berth_compiler::lower::{Code, Lowered, Source};
use berth_ir::DType;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{Kind, Program};
use berth_ir::units::Nanos;
use berth_runtime_exec::arena::Arena;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{EngineError, Port, TaskCode};
use berth_runtime_exec::errors::LoadError;
use berth_runtime_exec::executor::{Caches, Operand, TaskPorts, Weight, block, measure, rehearse};
use berth_runtime_exec::store::{Places, StoreError};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A step that takes no longer than this is rehearsed as a whole. One that takes longer wavers less, and takes too long.
const REHEARSED: Nanos = Nanos(5_000_000_000);
/// Rounds of a rehearsal, and the time after which the fewest will do.
const ROUNDS: RangeInclusive<usize> = 3..=120;
const ENOUGH: Duration = Duration::from_millis(1000);

/// Time and workspace of each task, by name: each kind of code is tried by itself, then all run in their order, several
/// times, where a step takes seconds at most. Weights that an engine keeps are read from `places`; where they are not there,
/// zeros stand for them, and no less than the estimate is kept: equal weights may become one.
pub fn costs(lowered: &Lowered, engine: &mut OrtEngine, places: &Places) -> Result<BTreeMap<String, Cost>, Failure> {
    let (kinds, first) = kinds(lowered);
    let tasks = &lowered.lifetimes.tasks;
    let code = |position: usize| task_code(&tasks[position].name, &lowered.codes[position], &lowered.lifetimes);
    let mut by_kind = Vec::new();
    for position in &first {
        by_kind.push(alone(lowered, *position, engine, places, Caches::Left)?);
    }
    let times = kinds.iter().filter_map(|kind| by_kind[*kind]).map(|cost| cost.time.0);
    let step = times.fold(0, u64::saturating_add);
    // What an engine keeps for a task is there only while that is tried.
    let joins: Vec<bool> = first.iter().map(|position| lowered.codes[*position].kept.is_empty()).collect();
    let joins: Vec<bool> = joins.into_iter().zip(&by_kind).map(|(joins, cost)| joins && cost.is_some()).collect();
    let ready = |position: usize| {
        let cost = by_kind[kinds[position]].filter(|_| joins[kinds[position]])?;
        Some((code(position), cost.workspace))
    };
    match (Nanos(step) <= REHEARSED).then(|| rehearsal::stage(lowered, ready)).flatten() {
        Some(stage) => {
            let rehearsed = rehearse(engine, &stage, ROUNDS, ENOUGH).map_err(load_failure)?;
            let joining: Vec<usize> = kinds.iter().copied().filter(|kind| joins[*kind]).collect();
            for (kind, nanos) in rehearsal::costs(&rehearsed, &joining) {
                by_kind[kind].iter_mut().for_each(|cost| cost.time = Nanos(nanos));
            }
        }
        None => {
            let mut flush = Vec::new();
            for kind in (0..first.len()).filter(|kind| joins[*kind]) {
                by_kind[kind] = alone(lowered, first[kind], engine, places, Caches::AsInAStep(&mut flush))?;
            }
        }
    }
    let mut all = BTreeMap::new();
    for ((task, code), kind) in tasks.iter().zip(&lowered.codes).zip(&kinds) {
        let least = if code.varies { task.workspace } else { 0 };
        all.extend(
            by_kind[*kind].map(|cost| (task.name.clone(), Cost { workspace: cost.workspace.max(least), ..cost })),
        );
    }
    Ok(all)
}

/// Which kind of code each task has, and the first task of each kind: code with open sizes is the same for tasks of several.
fn kinds(lowered: &Lowered) -> (Vec<usize>, Vec<usize>) {
    let mut known: BTreeMap<(&bytes::Bytes, Vec<&[u64]>), usize> = BTreeMap::new();
    let mut first = Vec::new();
    let kinds = lowered.codes.iter().enumerate().map(|(position, code)| {
        let key = (&code.model, code.inputs.iter().chain(&code.outputs).map(|p| p.most.as_slice()).collect());
        *known.entry(key).or_insert_with(|| {
            first.push(position);
            first.len() - 1
        })
    });
    (kinds.collect(), first)
}

/// What a task costs by itself; nothing where it does not run on zeros (a trip count is an input, say): its estimate stands.
fn alone(
    lowered: &Lowered,
    position: usize,
    engine: &mut OrtEngine,
    places: &Places,
    caches: Caches,
) -> Result<Option<Cost>, Failure> {
    let (task, code) = (&lowered.lifetimes.tasks[position], &lowered.codes[position]);
    let wide = code.inputs.iter().chain(&code.outputs).all(|port| port.dtype != DType::BF16);
    let task_code = task_code(&task.name, code, &lowered.lifetimes);
    let (block, real) = kept(lowered, code, task_code.kept, places)?;
    let estimate = task.held.as_ref().filter(|_| !real).map_or(0, |held| held.bytes);
    match measure(engine, &task_code, block.as_ref(), caches) {
        Err(LoadError::Engine(error @ EngineError::Engine { step: "make a session", .. })) if !wide => {
            Err(Failure::bad(format!(
                "{error}\n  help: it computes in bfloat16, for which this engine has few kernels; say `--cast f32`, which keeps every value, or `--cast f16`"
            )))
        }
        Ok(m) => Ok(Some(Cost {
            time: Nanos(m.run_nanos),
            workspace: m.workspace_bytes,
            kept: m.kept_bytes.max(estimate),
            loading: m.loading_bytes,
        })),
        Err(LoadError::Engine(EngineError::Engine { .. })) => Ok(None),
        Err(error) => Err(load_failure(error)),
    }
}

/// The block of weights that comes with a task's code, and whether it holds them.
fn kept(lowered: &Lowered, code: &Code, bytes: u64, places: &Places) -> Result<(Option<Arena>, bool), Failure> {
    if code.kept.is_empty() {
        return Ok((None, true));
    }
    let weights = code.kept.iter().filter_map(|kept| {
        let tensor = lowered.lifetimes.tensor(kept.tensor);
        let (name, home) = (tensor.name.clone(), tensor.home.clone()?);
        Some(Weight { name, home, from: kept.from, bytes: kept.bytes })
    });
    match block(places, &weights.collect::<Vec<_>>(), bytes) {
        Err(LoadError::Store(StoreError::Absent { .. })) => block(places, &[], bytes).map(|block| (Some(block), false)),
        block => block.map(|block| (Some(block), true)),
    }
    .map_err(load_failure)
}

fn task_code(name: &str, code: &Code, lifetimes: &Lifetimes) -> TaskCode {
    let port = |letter: char| {
        move |(n, p): (usize, &berth_compiler::lower::Port)| Port {
            found: p.found,
            weight: matches!(p.source, Source::Tensor(t) if lifetimes.tensor(t).kind == Kind::Weight),
            trial: match &p.source {
                Source::Known { most, .. } => Some(most.clone()),
                Source::Tensor(_) => None,
            },
            ..Port::new(format!("{letter}{n}"), p.dtype, p.most.clone())
        }
    };
    TaskCode {
        name: name.to_owned(),
        model: code.model.clone(),
        kept: code.kept.iter().map(|kept| kept.from + kept.bytes).max().unwrap_or(0),
        inputs: code.inputs.iter().enumerate().map(port('i')).collect(),
        outputs: code.outputs.iter().enumerate().map(port('o')).collect(),
    }
}

/// For each task of the program its code, and which access each port is.
pub fn ports(program: &Program, lowered: &Lowered) -> Result<Vec<TaskPorts>, Failure> {
    let by_ops: BTreeMap<&[String], &Code> =
        lowered.lifetimes.tasks.iter().map(|t| t.ops.as_slice()).zip(&lowered.codes).collect();
    let mut all = Vec::new();
    for task in &program.tasks {
        // The verifier has seen that the model has these operators, with these accesses.
        let code = by_ops.get(task.ops.as_slice()).ok_or_else(|| {
            Failure::bad(format!(
                "this runtime has no code for task `{}` of {} operators: compile the program again",
                task.name,
                task.ops.len()
            ))
        })?;
        let operand = |writes: bool| {
            move |p: &berth_compiler::lower::Port| {
                let tensor = match &p.source {
                    Source::Known { elements, .. } => return Operand::Known(elements.clone()),
                    Source::Tensor(tensor) => *tensor,
                };
                let name = &lowered.lifetimes.tensor(tensor).name;
                let access = task.accesses.iter().position(|a| a.tensor() == name && a.writes() == writes);
                Operand::Access(access.unwrap_or(usize::MAX))
            }
        };
        let shapes = || code.inputs.iter().chain(&code.outputs).map(|p| p.shape.clone()).collect();
        all.push(TaskPorts {
            code: task_code(&task.name, code, &lowered.lifetimes),
            inputs: code.inputs.iter().map(operand(false)).collect(),
            outputs: code.outputs.iter().map(operand(true)).collect(),
            kept: code.kept.iter().map(|k| (lowered.lifetimes.tensor(k.tensor).name.clone(), k.from)).collect(),
            open: code.is_open().then(shapes),
        });
    }
    Ok(all)
}

/// A loader's refusal, with its exit code.
pub fn load_failure(error: LoadError) -> Failure {
    match error {
        LoadError::Workspace { .. } | LoadError::Memory { .. } => Failure::unfit(error),
        other => Failure::bad(other),
    }
}
