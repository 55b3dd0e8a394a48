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
            Some(m) if (m.kind, m.dtype, &m.bytes, &m.home) != (t.kind, t.dtype, &t.bytes, &t.home) => {
                ModelProblem::Differs
            }
            Some(_) => continue,
        };
        found.insert(Violation::ModelTensor { tensor: t.name.clone(), problem });
    }
    let model = &Model::new(model);
    for unit in index.units.iter().filter(|u| matches!(u.role, Role::Body(_))) {
        let mut tasks: Vec<usize> = unit
            .code
            .iter()
            .filter_map(|ix| match ix.act {
                Act::Run { task, .. } => Some(task),
                _ => None,
            })
            .collect();
        tasks.sort_unstable();
        check_body(index, model, unit.name, &tasks, found);
    }
}

/// A model with what is asked of it often.
struct Model<'m> {
    facts: &'m ModelFacts,
    ops: BTreeMap<&'m str, &'m OpFact>,
    /// By op: for each tensor that it reads, the op whose write it must see. A state that none has written yet is that
    /// of the step before.
    sources: BTreeMap<&'m str, Vec<(&'m str, Option<&'m str>)>>,
    /// By tensor: the ops that read it.
    readers: BTreeMap<&'m str, Vec<&'m str>>,
}

impl<'m> Model<'m> {
    fn new(facts: &'m ModelFacts) -> Model<'m> {
        let ops = facts.ops.iter().map(|o| (o.name.as_str(), o)).collect();
        let (mut sources, mut readers): (BTreeMap<_, _>, BTreeMap<&str, Vec<&str>>) = Default::default();
        let mut writer: BTreeMap<&str, &str> = BTreeMap::new();
        for op in &facts.ops {
            let seen = op.reads.iter().map(|r| (r.as_str(), writer.get(r.as_str()).copied()));
            sources.insert(op.name.as_str(), seen.collect());
            for read in &op.reads {
                readers.entry(read.as_str()).or_default().push(&op.name);
            }
            writer.extend(op.writes.iter().map(|w| (w.as_str(), op.name.as_str())));
        }
        Model { facts, ops, sources, readers }
    }
}

/// The body's tasks, in the program's order, compute each op once, after what it reads, and say all that they use.
fn check_body(index: &Index, model: &Model, body: &str, tasks: &[usize], found: &mut BTreeSet<Violation>) {
    let mut fault = |op: &str, problem| {
        found.insert(Violation::ModelOp { op: op.to_owned(), problem });
    };
    let mut computed = BTreeSet::new();
    let mut writer: BTreeMap<&str, &str> = BTreeMap::new();
    for task in tasks {
        let task = &index.program.tasks[*task];
        for name in &task.ops {
            let Some(op) = model.ops.get(name.as_str()) else {
                fault(name, ModelProblem::Unknown);
                continue;
            };
            if !computed.insert(name.as_str()) {
                fault(name, ModelProblem::ComputedTwice { body: body.to_owned() });
            }
            for (read, source) in &model.sources[name.as_str()] {
                let tensor = read.to_string();
                match (source, writer.get(read)) {
                    (Some(source), _) if !computed.contains(source) => fault(name, ModelProblem::TooEarly { tensor }),
                    (source, last) if *source != last.copied() => fault(name, ModelProblem::TooLate { tensor }),
                    _ => {}
                }
            }
            writer.extend(op.writes.iter().map(|w| (w.as_str(), op.name.as_str())));
        }
        for (op, problem) in accesses(model, task) {
            fault(&op, problem);
        }
    }
    for op in model.facts.ops.iter().filter(|o| !computed.contains(o.name.as_str())) {
        fault(&op.name, ModelProblem::NotComputed { body: body.to_owned() });
    }
}

/// A task says that it reads what its ops read from outside, and that it writes what others read of its ops' writes.
fn accesses(model: &Model, task: &Task) -> Vec<(String, ModelProblem)> {
    let mine: Vec<&OpFact> = task.ops.iter().filter_map(|o| model.ops.get(o.as_str()).copied()).collect();
    let names: BTreeSet<&str> = mine.iter().map(|o| o.name.as_str()).collect();
    let (mut reads, mut writes) = (BTreeMap::new(), BTreeMap::new());
    for op in &mine {
        for read in op.reads.iter().filter(|r| !writes.contains_key(r.as_str())) {
            reads.entry(read.as_str()).or_insert(op.name.as_str());
        }
        writes.extend(op.writes.iter().map(|w| (w.as_str(), op.name.as_str())));
    }
    // One op keeps all that it writes; nobody else need be asked.
    let read_outside = |name: &str| {
        mine.len() == 1 || model.readers.get(name).is_some_and(|all| all.iter().any(|op| !names.contains(op)))
    };
    let outlives =
        |name: &str| model.facts.tensors.get(name).is_some_and(|t| matches!(t.kind, Kind::Output | Kind::State));
    let kept = |name: &str| read_outside(name) || outlives(name);
    let (said_reads, said_writes): (Vec<_>, Vec<_>) = task.accesses.iter().partition(|a| !a.writes());
    let said_reads: BTreeSet<&str> = said_reads.iter().map(|a| a.tensor()).collect();
    let held: BTreeSet<&str> = task.held.iter().flat_map(|held| &held.weights).map(String::as_str).collect();
    let appends: BTreeSet<&str> = said_writes.iter().filter(|a| a.reads()).map(|a| a.tensor()).collect();
    let said_writes: BTreeSet<&str> = said_writes.iter().map(|a| a.tensor()).collect();
    let mut problems = Vec::new();
    for (read, op) in &reads {
        if !said_reads.contains(read) && !appends.contains(read) && !held.contains(read) {
            problems.push((op.to_string(), ModelProblem::Undeclared { tensor: read.to_string() }));
        }
    }
    for (written, op) in &writes {
        if kept(written) && !said_writes.contains(written) {
            problems.push((op.to_string(), ModelProblem::Undeclared { tensor: written.to_string() }));
        }
    }
    let first = task.ops.first().cloned().unwrap_or_else(|| task.name.clone());
    for tensor in said_reads.iter().chain(&held).filter(|t| !reads.contains_key(*t)) {
        problems.push((first.clone(), ModelProblem::Invented { tensor: tensor.to_string() }));
    }
    for tensor in said_writes.iter().filter(|t| !writes.contains_key(*t)) {
        problems.push((first.clone(), ModelProblem::Invented { tensor: tensor.to_string() }));
    }
    problems
}
