//! From the compiler's tasks to the runtime's, and what an engine measures of them.

use crate::failure::Failure;
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
use berth_runtime_exec::executor::{Operand, TaskPorts, Weight, block, measure};
use berth_runtime_exec::store::{Places, StoreError};
use std::collections::BTreeMap;

/// Time and workspace of each task, by name; tasks with the same code are measured once. Weights that an engine keeps are
/// read from `places`; where they are not there, zeros stand for them, and no less than the estimate is kept: equal weights
/// may become one.
pub fn costs(lowered: &Lowered, engine: &mut OrtEngine, places: &Places) -> Result<BTreeMap<String, Cost>, Failure> {
    // Code with open sizes is the same for tasks of several.
    let mut known: BTreeMap<(&bytes::Bytes, Vec<&[u64]>), Option<Cost>> = BTreeMap::new();
    let mut all = BTreeMap::new();
    let mut flush = Vec::new();
    for (task, code) in lowered.lifetimes.tasks.iter().zip(&lowered.codes) {
        let key = (&code.model, code.inputs.iter().chain(&code.outputs).map(|p| p.most.as_slice()).collect());
        let cost = match known.get(&key) {
            Some(cost) => *cost,
            None => {
                let wide = code.inputs.iter().chain(&code.outputs).all(|port| port.dtype != DType::BF16);
                let task_code = task_code(&task.name, code, &lowered.lifetimes);
                let (block, real) = kept(lowered, code, task_code.kept, places)?;
                let estimate = task.held.as_ref().filter(|_| !real).map_or(0, |held| held.bytes);
                let cost = match measure(engine, &task_code, block.as_ref(), &mut flush) {
                    Err(LoadError::Engine(error @ EngineError::Engine { step: "make a session", .. })) if !wide => {
                        return Err(Failure::bad(format!(
                            "{error}\n  help: it computes in bfloat16, for which this engine has few kernels; say `--cast f32`, which keeps every value, or `--cast f16`"
                        )));
                    }
                    Ok(m) => Some(Cost {
                        time: Nanos(m.run_nanos),
                        workspace: m.workspace_bytes,
                        kept: m.kept_bytes.max(estimate),
                        loading: m.loading_bytes,
                    }),
                    // It does not run on zeros (a trip count is an input, say): its estimate stands.
                    Err(LoadError::Engine(EngineError::Engine { .. })) => None,
                    Err(error) => return Err(load_failure(error)),
                };
                known.insert(key, cost);
                cost
            }
        };
        let least = if code.varies { task.workspace } else { 0 };
        all.extend(cost.map(|cost| (task.name.clone(), Cost { workspace: cost.workspace.max(least), ..cost })));
    }
    Ok(all)
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
