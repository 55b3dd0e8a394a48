//! From the compiler's tasks to the runtime's, and what an engine measures of them.

use crate::failure::Failure;
use berth_compiler::cost::Cost;
use berth_compiler::lower::{Code, Lowered, Source};
use berth_ir::DType;
use berth_ir::program::Program;
use berth_ir::units::Nanos;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{EngineError, Port, TaskCode};
use berth_runtime_exec::errors::LoadError;
use berth_runtime_exec::executor::{Operand, TaskPorts, measure};
use std::collections::BTreeMap;

/// Time and workspace of each task, by name; tasks with the same code are measured once.
pub fn costs(lowered: &Lowered, engine: &mut OrtEngine) -> Result<BTreeMap<String, Cost>, Failure> {
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
                let cost = match measure(engine, &task_code(&task.name, code), &mut flush) {
                    Err(LoadError::Engine(error @ EngineError::Engine { step: "make a session", .. })) if !wide => {
                        return Err(Failure::bad(format!(
                            "{error}\n  help: it computes in bfloat16, for which this engine has few kernels; say `--cast f32`, which keeps every value, or `--cast f16`"
                        )));
                    }
                    Ok(m) => Some(Cost { time: Nanos(m.run_nanos), workspace: m.workspace_bytes }),
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

fn task_code(name: &str, code: &Code) -> TaskCode {
    let port = |letter: char| {
        move |(n, p): (usize, &berth_compiler::lower::Port)| Port {
            found: p.found,
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
        inputs: code.inputs.iter().enumerate().map(port('i')).collect(),
        outputs: code.outputs.iter().enumerate().map(port('o')).collect(),
    }
}

/// For each task of the program its code, and which access each port is.
pub fn ports(program: &Program, lowered: &Lowered) -> Result<Vec<TaskPorts>, Failure> {
    let by_op: BTreeMap<&str, &Code> =
        lowered.lifetimes.tasks.iter().map(|t| t.name.as_str()).zip(&lowered.codes).collect();
    let mut all = Vec::new();
    for task in &program.tasks {
        let [op] = task.ops.as_slice() else {
            return Err(Failure::bad(format!(
                "task `{}` has {} operators; this runtime runs tasks of one: compile the program again",
                task.name,
                task.ops.len()
            )));
        };
        // The verifier has seen that the model has this operator, with these accesses.
        let code = by_op.get(op.as_str()).ok_or_else(|| Failure::bad(format!("the model has no operator `{op}`")))?;
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
            code: task_code(&task.name, code),
            inputs: code.inputs.iter().map(operand(false)).collect(),
            outputs: code.outputs.iter().map(operand(true)).collect(),
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
