//! Rule 18 with the model at hand: the program's tensors and tasks are the model's.

use super::index::{Act, Index, Role};
use super::violation::{ModelProblem, Violation};
use crate::program::{Home, Kind, Task};
use crate::{DType, Expr};
use std::collections::{BTreeMap, BTreeSet};

/// What a model says, to check a program against. Names are those that programs use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelFacts {
    /// Hash of the graph and its dims.
    pub hash: String,
    /// By name.
    pub tensors: BTreeMap<String, TensorFact>,
    /// In an order in which each reads only what stands before it.
    pub ops: Vec<OpFact>,
}

/// What a model says of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorFact {
    /// What it is for.
    pub kind: Kind,
    /// Element type.
    pub dtype: DType,
    /// Exact size.
    pub bytes: Expr,
    /// Where its bytes are.
    pub home: Option<Home>,
}

/// What a model says of an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpFact {
    /// Unique.
    pub name: String,
    /// Tensors that it reads.
    pub reads: Vec<String>,
    /// Tensors that it writes.
    pub writes: Vec<String>,
}

pub(super) fn check(index: &Index, model: &ModelFacts, found: &mut BTreeSet<Violation>) {
    if index.program.header.model != model.hash {
        let (says, has) = (index.program.header.model.clone(), model.hash.clone());
        found.insert(Violation::WrongModel { says, has });
        return;
    }
    for t in index.program.tensors.iter().filter(|t| t.kind != Kind::Workspace) {
        let problem = match model.tensors.get(&t.name) {
            None => ModelProblem::Unknown,
            Some(m) if (m.kind, m.dtype, &m.bytes, &m.home) != (t.kind, t.dtype, &t.bytes, &t.home) => ModelProblem::Differs,
            Some(_) => continue,
        };
        found.insert(Violation::ModelTensor { tensor: t.name.clone(), problem });
    }
    for unit in index.units.iter().filter(|u| matches!(u.role, Role::Body(_))) {
        let mut tasks: Vec<usize> = unit.code.iter().filter_map(|ix| match ix.act {
            Act::Run { task, .. } => Some(task),
            _ => None,
        }).collect();
        tasks.sort_unstable();
        check_body(index, model, unit.name, &tasks, found);
    }
}

/// The body's tasks, in the program's order, compute each op once, after what it reads, and say all that they use.
fn check_body(index: &Index, model: &ModelFacts, body: &str, tasks: &[usize], found: &mut BTreeSet<Violation>) {
    let ops: BTreeMap<&str, &OpFact> = model.ops.iter().map(|o| (o.name.as_str(), o)).collect();
    let mut fault = |op: &str, problem| {
        found.insert(Violation::ModelOp { op: op.to_owned(), problem });
    };
    let mut computed = BTreeSet::new();
    let mut written: BTreeSet<&str> = BTreeSet::new();
    let produced: BTreeSet<&str> = model.ops.iter().flat_map(|o| o.writes.iter().map(String::as_str)).collect();
    for task in tasks {
        let task = &index.program.tasks[*task];
        for name in &task.ops {
            let Some(op) = ops.get(name.as_str()) else {
                fault(name, ModelProblem::Unknown);
                continue;
            };
            if !computed.insert(name.as_str()) {
                fault(name, ModelProblem::ComputedTwice { body: body.to_owned() });
            }
            for read in op.reads.iter().filter(|r| produced.contains(r.as_str()) && !written.contains(r.as_str())) {
                fault(name, ModelProblem::TooEarly { tensor: read.clone() });
            }
            written.extend(op.writes.iter().map(String::as_str));
        }
        for (op, problem) in accesses(model, task, &ops) {
            fault(&op, problem);
        }
    }
    for op in model.ops.iter().filter(|o| !computed.contains(o.name.as_str())) {
        fault(&op.name, ModelProblem::NotComputed { body: body.to_owned() });
    }
}

/// A task says that it reads what its ops read from outside, and that it writes what others read of its ops' writes.
fn accesses(model: &ModelFacts, task: &Task, ops: &BTreeMap<&str, &OpFact>) -> Vec<(String, ModelProblem)> {
    let mine: Vec<&OpFact> = task.ops.iter().filter_map(|o| ops.get(o.as_str()).copied()).collect();
    let names: BTreeSet<&str> = mine.iter().map(|o| o.name.as_str()).collect();
    let (mut reads, mut writes) = (BTreeMap::new(), BTreeMap::new());
    for op in &mine {
        for read in op.reads.iter().filter(|r| !writes.contains_key(r.as_str())) {
            reads.entry(read.as_str()).or_insert(op.name.as_str());
        }
        writes.extend(op.writes.iter().map(|w| (w.as_str(), op.name.as_str())));
    }
    let others = model.ops.iter().filter(|o| !names.contains(o.name.as_str()));
    let outside: BTreeSet<&str> = match mine.len() {
        // One op keeps all that it writes; nobody else need be asked.
        1 => writes.keys().copied().collect(),
        _ => others.flat_map(|o| o.reads.iter().map(String::as_str)).collect(),
    };
    let kept = |name: &str| {
        outside.contains(name) || model.tensors.get(name).is_some_and(|t| matches!(t.kind, Kind::Output | Kind::State))
    };
    let (said_reads, said_writes): (Vec<_>, Vec<_>) = task.accesses.iter().partition(|a| !a.writes());
    let said_reads: BTreeSet<&str> = said_reads.iter().map(|a| a.tensor()).collect();
    let appends: BTreeSet<&str> = said_writes.iter().filter(|a| a.reads()).map(|a| a.tensor()).collect();
    let said_writes: BTreeSet<&str> = said_writes.iter().map(|a| a.tensor()).collect();
    let mut problems = Vec::new();
    for (read, op) in &reads {
        if !said_reads.contains(read) && !appends.contains(read) {
            problems.push((op.to_string(), ModelProblem::Undeclared { tensor: read.to_string() }));
        }
    }
    for (written, op) in &writes {
        if kept(written) && !said_writes.contains(written) {
            problems.push((op.to_string(), ModelProblem::Undeclared { tensor: written.to_string() }));
        }
    }
    let first = task.ops.first().cloned().unwrap_or_else(|| task.name.clone());
    for tensor in said_reads.iter().filter(|t| !reads.contains_key(*t)) {
        problems.push((first.clone(), ModelProblem::Invented { tensor: tensor.to_string() }));
    }
    for tensor in said_writes.iter().filter(|t| !writes.contains_key(*t)) {
        problems.push((first.clone(), ModelProblem::Invented { tensor: tensor.to_string() }));
    }
    problems
}
