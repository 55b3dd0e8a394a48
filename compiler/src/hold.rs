//! Makes one task of a stretch of tasks, with weights that its engine keeps in a form of its own.
//!
//! Reads:    the graph, what it was lowered to, which tasks go together.
//! Decides:  what such a task reads, writes and holds; nothing about which tasks should be one.
//! Promises: the same tensors and the same facts: the program is checked against the operators as they are.
//! Why:      an engine that has a weight to itself packs it once, joins operators about it, and is up to 1.7 times as fast
//!           (ONNX Runtime's prepacking and its graph optimisations); one operator a task and weights as operands, as
//!           tasks are otherwise, cost that. The bits are those of the stretch, not of its operators one by one.

use crate::lower::{Code, Kept, LowerError, Lowered, Port, Source};
use crate::task_model::{Outside, task_model_for};
use berth_ir::graph::{Content, Graph, OpId, ValueId};
use berth_ir::lifetime::{Held, Lifetimes, Task, TensorId};
use berth_ir::program::Kind;
use berth_ir::units::Nanos;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Range;

/// Packed weights start on a cache line, as all that an engine allocates.
pub(crate) const LINE: u64 = 64;
/// What packing is expected to add to weights: kernels fill up the last columns. One part in so many.
const SPARE_PART: u64 = 32;
/// Parts of the weights into which [`units`] cuts.
const UNITS: u64 = 24;

/// The tasks that may be in a stretch, in stretches as long as possible: those whose sizes each run knows before it starts.
/// One that writes a state is in none: a task that reads the version before it and writes the next would do both in one place.
pub fn stretches(lowered: &Lowered) -> Vec<Range<usize>> {
    let mut all: Vec<Range<usize>> = Vec::new();
    for (n, code) in lowered.codes.iter().enumerate() {
        let carries =
            lowered.lifetimes.tasks[n].writes.iter().any(|t| lowered.lifetimes.tensor(*t).kind == Kind::State);
        if carries || code.varies || code.outputs.iter().any(|port| port.found) {
            continue;
        }
        match all.last_mut() {
            Some(last) if last.end == n => last.end = n + 1,
            _ => all.push(n..n + 1),
        }
    }
    all
}

/// Stretches cut into units with about the same part of all weights each, where least is alive between tasks.
pub fn units(lowered: &Lowered) -> Vec<Range<usize>> {
    let lifetimes = &lowered.lifetimes;
    let part = (lifetimes.total(Kind::Weight) / UNITS).max(1);
    let load = lifetimes.load();
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for stretch in stretches(lowered) {
        let (mut from, mut bytes) = (stretch.start, 0u64);
        // Where the unit may end: behind the task with the least load since it had most of its part.
        let mut end: Option<usize> = None;
        for n in stretch.clone() {
            let new = lifetimes.tasks[n].reads.iter().filter(|t| is_weight(lifetimes, **t) && seen.insert(**t));
            bytes = bytes.saturating_add(new.map(|t| lifetimes.tensor(*t).bytes).sum());
            if bytes >= part / 4 * 3 && end.is_none_or(|end| load[n] <= load[end]) {
                end = Some(n);
            }
            if let Some(at) = end.filter(|_| bytes >= part / 4 * 5) {
                all.push(from..at + 1);
                (from, bytes, end) = (at + 1, 0, None);
            }
        }
        all.extend((from < stretch.end).then_some(from..stretch.end));
    }
    all
}

/// So many of these, spread evenly.
pub fn spread(units: &[Range<usize>], count: usize) -> Vec<Range<usize>> {
    let all = units.len().max(1);
    let taken = |n: &usize| (n + 1) * count / all > n * count / all;
    (0..units.len()).filter(taken).map(|n| units[n].clone()).collect()
}

/// The stretches that a program has, by the names of their operators; nothing where the model has no such tasks one behind
/// the other.
pub fn as_said<'a>(lowered: &Lowered, tasks: impl Iterator<Item = &'a [String]>) -> Option<Vec<Range<usize>>> {
    let places: HashMap<&str, usize> =
        lowered.lifetimes.tasks.iter().enumerate().map(|(n, task)| (task.name.as_str(), n)).collect();
    let stretches = stretches(lowered);
    let mut all = Vec::new();
    for ops in tasks {
        let from = *places.get(ops.first()?.as_str())?;
        let range = from..from + ops.len();
        let said = lowered.lifetimes.tasks.get(range.clone())?.iter().map(|task| &task.name);
        if !said.eq(ops) || !stretches.iter().any(|s| s.start <= range.start && range.end <= s.end) {
            return None;
        }
        all.push(range);
    }
    all.sort_by_key(|range: &Range<usize>| range.start);
    let apart = all.windows(2).all(|pair| pair[0].end <= pair[1].start);
    apart.then_some(all)
}

/// A model with each of these stretches (in order, apart) as one task. One without a weight that an engine could keep stays
/// as it is, as does one that no model of its own can be written of.
pub fn hold(graph: &Graph, lowered: &Lowered, stretches: &[Range<usize>]) -> Result<Lowered, LowerError> {
    let ops: HashMap<&str, OpId> = graph.ops.iter().map(|op| op.name.as_str()).zip((0..).map(OpId)).collect();
    let mut producer = HashMap::new();
    for (op, id) in graph.ops.iter().zip((0..).map(OpId)) {
        producer.extend(op.outputs.iter().flatten().map(|value| (*value, id)));
    }
    let uses = lowered.lifetimes.uses();
    let joining = Joining { graph, lowered, ops, producer, users: uses.iter().map(<[usize]>::to_vec).collect() };
    let (mut tasks, mut codes) = (Vec::new(), Vec::new());
    let mut next = stretches.iter().peekable();
    let mut n = 0;
    while n < lowered.codes.len() {
        let stretch = next.next_if(|stretch| stretch.start == n && stretch.start < stretch.end);
        let joined = stretch.map(|stretch| joining.joined(stretch.clone())).transpose()?.flatten();
        match (joined, stretch) {
            (Some((task, code)), Some(stretch)) => {
                tasks.push(task);
                codes.push(code);
                n = stretch.end;
            }
            _ => {
                let end = stretch.map_or(n + 1, |stretch| stretch.end);
                tasks.extend_from_slice(&lowered.lifetimes.tasks[n..end]);
                codes.extend_from_slice(&lowered.codes[n..end]);
                n = end;
            }
        }
    }
    let Lifetimes { model, dims, tensors, .. } = &lowered.lifetimes;
    Ok(Lowered {
        lifetimes: Lifetimes { model: model.clone(), dims: dims.clone(), tensors: tensors.clone(), tasks },
        codes,
        facts: lowered.facts.clone(),
        inputs: lowered.inputs.clone(),
        outputs: lowered.outputs.clone(),
        split: lowered.split,
        recompute: lowered.recompute.clone(),
        states: lowered.states.clone(),
        growth: lowered.growth.clone(),
        embedded: lowered.embedded.clone(),
    })
}

fn is_weight(lifetimes: &Lifetimes, tensor: TensorId) -> bool {
    lifetimes.tensor(tensor).kind == Kind::Weight
}

struct Joining<'a> {
    graph: &'a Graph,
    lowered: &'a Lowered,
    ops: HashMap<&'a str, OpId>,
    producer: HashMap<ValueId, OpId>,
    /// Tasks that use each tensor.
    users: Vec<Vec<usize>>,
}

impl Joining<'_> {
    /// The tasks of a range as one.
    fn joined(&self, range: Range<usize>) -> Result<Option<(Task, Code)>, LowerError> {
        let lifetimes = &self.lowered.lifetimes;
        let (tasks, codes) = (&lifetimes.tasks[range.clone()], &self.lowered.codes[range.clone()]);
        let Some(members) = tasks.iter().map(|task| self.ops.get(task.name.as_str()).copied()).collect() else {
            return Ok(None);
        };
        let members: BTreeSet<OpId> = members;
        let ports: HashMap<ValueId, &Port> =
            codes.iter().flat_map(|code| code.inputs.iter().chain(&code.outputs)).map(|p| (p.value, p)).collect();
        let made: HashSet<TensorId> = tasks.iter().flat_map(|task| &task.writes).copied().collect();
        let kept = self.kept(tasks);
        if kept.is_empty() {
            return Ok(None);
        }
        let Some(all) = self.with_views(&members, &ports, &made) else { return Ok(None) };
        let tensor = |value: ValueId| match ports.get(&value).map(|port| &port.source) {
            Some(Source::Tensor(tensor)) => Some(*tensor),
            _ => None,
        };
        let leaves = |value: ValueId| {
            let outside = |tensor: TensorId| {
                let used = self.users[tensor.index()].iter().any(|user| !range.contains(user));
                used || lifetimes.tensor(tensor).kind == Kind::Output
            };
            tensor(value).filter(|t| made.contains(t)).is_some_and(outside)
                && self.producer.get(&value).is_some_and(|op| members.contains(op))
        };
        let outside = Outside {
            embed: &|value| self.lowered.embedded.get(&value).cloned(),
            kept: &|value| kept.get(&tensor(value)?).map(|kept| (kept.from, kept.bytes)),
            goes_out: &leaves,
        };
        let ops: Vec<OpId> = all.into_iter().collect();
        let name = self.name(tasks);
        let model = task_model_for(self.graph, &ops, &outside)
            .map_err(|problem| LowerError::Code { op: name.clone(), problem })?;
        let port = |value: &ValueId| ports.get(value).map(|port| (*port).clone());
        let inputs: Option<Vec<Port>> = model.inputs.iter().map(port).collect();
        let outputs: Option<Vec<Port>> = model.outputs.iter().map(port).collect();
        let (Some(inputs), Some(outputs)) = (inputs, outputs) else { return Ok(None) };
        let tensors = |ports: &[Port]| {
            let mut seen = HashSet::new();
            let of = |port: &Port| if let Source::Tensor(tensor) = port.source { Some(tensor) } else { None };
            ports.iter().filter_map(of).filter(|tensor| seen.insert(*tensor)).collect::<Vec<_>>()
        };
        let (reads, writes) = (tensors(&inputs), tensors(&outputs));
        let by_rows =
            |tensor: &TensorId| tasks.iter().all(|task| !task.reads.contains(tensor) || task.rows.contains(tensor));
        let rows = reads.iter().copied().filter(by_rows).collect();
        let packed = kept.values().map(|kept| kept.bytes.div_ceil(LINE).saturating_mul(LINE)).sum::<u64>();
        let task = Task {
            name,
            ops: tasks.iter().flat_map(|task| task.ops.clone()).collect(),
            workspace: self.workspace(&range, &made, &writes),
            cost: Nanos(tasks.iter().map(|task| task.cost.0).fold(0, u64::saturating_add)),
            reads,
            writes,
            rows,
            in_place: Vec::new(),
            others: Vec::new(),
            held: Some(Held {
                weights: kept.keys().copied().collect(),
                bytes: packed + packed / SPARE_PART,
                // The block, and the engine's copy of it.
                loading: packed.saturating_mul(2),
            }),
        };
        let kept = kept.into_values().collect();
        Ok(Some((task, Code { model: model.model, inputs, outputs, varies: false, kept })))
    }

    /// The weights that the tasks read, other than those that are read by rows alone, in a block one behind the other.
    fn kept(&self, tasks: &[Task]) -> BTreeMap<TensorId, Kept> {
        let lifetimes = &self.lowered.lifetimes;
        let whole = tasks.iter().flat_map(|task| task.reads.iter().filter(|t| !task.rows.contains(t))).copied();
        let mut kept = BTreeMap::new();
        let mut from = 0;
        for tensor in whole.filter(|t| is_weight(lifetimes, *t)) {
            let bytes = lifetimes.tensor(tensor).bytes;
            kept.entry(tensor).or_insert_with(|| {
                let kept = Kept { tensor, from, bytes };
                from = (from + bytes).next_multiple_of(LINE);
                kept
            });
        }
        kept
    }

    /// The operators of the tasks, and those that give what a task makes another shape on its way to another. Nothing where
    /// something in between is neither.
    fn with_views(
        &self,
        members: &BTreeSet<OpId>,
        ports: &HashMap<ValueId, &Port>,
        made: &HashSet<TensorId>,
    ) -> Option<BTreeSet<OpId>> {
        let mut all = members.clone();
        let mut left: Vec<ValueId> = members.iter().flat_map(|op| self.graph.op(*op).reads()).collect();
        while let Some(value) = left.pop() {
            if !matches!(self.graph.value(value).content, Content::Computed) {
                continue;
            }
            // What no task has a port for is on the way between two shapes of what a task makes.
            match ports.get(&value).map(|port| &port.source) {
                Some(Source::Tensor(tensor)) if !made.contains(tensor) => continue,
                Some(Source::Known { .. }) => continue,
                _ => {}
            }
            if self.lowered.embedded.contains_key(&value) {
                continue;
            }
            let op = *self.producer.get(&value)?;
            if all.insert(op) {
                let row = crate::import::ops::row_of(&self.graph.op(op).domain, &self.graph.op(op).kind);
                row.filter(|row| row.view)?;
                left.extend(self.graph.op(op).reads());
            }
        }
        Some(all)
    }

    fn name(&self, tasks: &[Task]) -> String {
        match tasks {
            [] => String::new(),
            [one] => one.name.clone(),
            [first, .., last] => format!("{} to {}", first.name, last.name),
        }
    }

    /// An estimate of the scratch: what the tasks make for each other, as long as it is wanted, and the most that one needs.
    fn workspace(&self, range: &Range<usize>, made: &HashSet<TensorId>, writes: &[TensorId]) -> u64 {
        let lifetimes = &self.lowered.lifetimes;
        let mut change = vec![0i128; range.len() + 1];
        for tensor in made.iter().filter(|tensor| !writes.contains(tensor)) {
            let inside = self.users[tensor.index()].iter().filter(|user| range.contains(user));
            let (first, last) = inside.fold((usize::MAX, 0), |(a, b), n| (a.min(*n), b.max(*n)));
            if first <= last {
                let bytes = i128::from(lifetimes.tensor(*tensor).bytes.div_ceil(LINE).saturating_mul(LINE));
                change[first - range.start] += bytes;
                change[last + 1 - range.start] -= bytes;
            }
        }
        let mut alive = 0i128;
        let held = lifetimes.tasks[range.clone()].iter().zip(&change).map(|(task, change)| {
            alive += change;
            u64::try_from(alive).unwrap_or(u64::MAX).saturating_add(task.workspace)
        });
        held.max().unwrap_or(0)
    }
}
