//! The text form of lifetimes: RON, one tensor, task or gap a line, in names. Gaps and the load curve follow from the rest;
//! they are there to be read, and reading the text back leaves them out.

use super::{Held, Lifetimes, Other, Task, Tensor, TensorId, is_zero};
use crate::program::DimRange;
use crate::text::compact;
use crate::units::Nanos;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};

/// Why a text holds no lifetimes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadLifetimes {
    /// The text is not of this form.
    #[error("{0}")]
    Form(String),
    /// A name that stands for nothing.
    #[error("task `{task}` names the tensor `{tensor}`, which is not in the list")]
    Unknown {
        /// The task.
        task: String,
        /// The name.
        tensor: String,
    },
    /// A name that stands for two things.
    #[error("the name `{0}` stands twice")]
    Twice(String),
}

/// A task, in names.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    /// Left out where it is one operator of the task's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ops: Vec<String>,
    reads: Vec<String>,
    writes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rows: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    in_place: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "is_zero")]
    workspace: u64,
    cost: Nanos,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<Other>,
    /// Weights that the engine keeps, the bytes that they take there, and those that loading takes beside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<(Vec<String>, u64, u64)>,
}

/// A gap, in names.
#[derive(Serialize)]
struct GapLine<'a> {
    tensor: &'a str,
    after: &'a str,
    before: &'a str,
    tasks: usize,
    bytes: u64,
    time: Nanos,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    model: String,
    dims: BTreeMap<String, DimRange>,
    tensors: Vec<Tensor>,
    tasks: Vec<Line>,
    #[serde(default, rename = "gaps")]
    _gaps: IgnoredAny,
    #[serde(default, rename = "load")]
    _load: IgnoredAny,
}

/// The text form.
pub fn print(lifetimes: &Lifetimes) -> String {
    let mut out = format!("(\n    model: {},\n    dims: {},\n", compact(&lifetimes.model), compact(&lifetimes.dims));
    let list = |out: &mut String, field: &str, items: Vec<String>| {
        out.push_str(&format!("    {field}: [\n"));
        items.iter().for_each(|i| out.push_str(&format!("        {i},\n")));
        out.push_str("    ],\n");
    };
    let task = |position: usize| lifetimes.tasks[position].name.as_str();
    let gaps = lifetimes.gaps().into_iter().map(|gap| GapLine {
        tensor: &lifetimes.tensor(gap.tensor).name,
        after: task(gap.after),
        before: task(gap.before),
        tasks: gap.tasks,
        bytes: gap.bytes,
        time: gap.time,
    });
    list(&mut out, "tensors", lifetimes.tensors.iter().map(compact).collect());
    list(&mut out, "tasks", lifetimes.tasks.iter().map(|task| compact(&line(lifetimes, task))).collect());
    list(&mut out, "gaps", gaps.map(|gap| compact(&gap)).collect());
    list(&mut out, "load", lifetimes.load().iter().map(u64::to_string).collect());
    out.push_str(")\n");
    out
}

fn line(lifetimes: &Lifetimes, task: &Task) -> Line {
    let name = |t: &TensorId| lifetimes.tensor(*t).name.clone();
    Line {
        name: task.name.clone(),
        ops: if task.ops == [task.name.clone()] { Vec::new() } else { task.ops.clone() },
        reads: task.reads.iter().map(name).collect(),
        writes: task.writes.iter().map(name).collect(),
        rows: task.rows.iter().map(name).collect(),
        in_place: task.in_place.iter().map(|(r, w)| (name(r), name(w))).collect(),
        workspace: task.workspace,
        cost: task.cost,
        others: task.others.clone(),
        held: task.held.as_ref().map(|held| (held.weights.iter().map(name).collect(), held.bytes, held.loading)),
    }
}

/// Reads the text form.
pub fn parse(text: &str) -> Result<Lifetimes, BadLifetimes> {
    let text: Text = ron::from_str(text).map_err(|e| BadLifetimes::Form(e.to_string()))?;
    let mut ids = HashMap::new();
    for (index, tensor) in text.tensors.iter().enumerate() {
        if ids.insert(tensor.name.clone(), TensorId(index as u32)).is_some() {
            return Err(BadLifetimes::Twice(tensor.name.clone()));
        }
    }
    let tasks = text.tasks.into_iter().map(|line| {
        let id = |tensor: String| {
            let unknown = BadLifetimes::Unknown { task: line.name.clone(), tensor: tensor.clone() };
            ids.get(&tensor).copied().ok_or(unknown)
        };
        let all = |names: Vec<String>| names.into_iter().map(id).collect::<Result<Vec<_>, _>>();
        let (reads, writes, rows) = (all(line.reads)?, all(line.writes)?, all(line.rows)?);
        let in_place = line.in_place.into_iter().map(|(r, w)| Ok((id(r)?, id(w)?))).collect::<Result<_, _>>()?;
        let ops = if line.ops.is_empty() { vec![line.name.clone()] } else { line.ops };
        let held = line.held.map(|(weights, bytes, loading)| Ok(Held { weights: all(weights)?, bytes, loading }));
        let held = held.transpose()?;
        let (workspace, cost, others) = (line.workspace, line.cost, line.others);
        Ok(Task { name: line.name, ops, reads, writes, rows, in_place, workspace, cost, others, held })
    });
    let tasks: Vec<Task> = tasks.collect::<Result<_, _>>()?;
    let mut names = std::collections::HashSet::new();
    if let Some(task) = tasks.iter().find(|task| !names.insert(task.name.as_str())) {
        return Err(BadLifetimes::Twice(task.name.clone()));
    }
    Ok(Lifetimes { model: text.model, dims: text.dims, tensors: text.tensors, tasks })
}
