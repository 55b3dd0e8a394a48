//! Makes one tensor of an input and an output that are one state: what a step writes the next step reads.
//!
//! Reads:    the graph, what it was lowered to in the order in which its tasks run, the pairs.
//! Decides:  for each pair whether the task that writes the output can write the state itself, over what it reads of it where
//!           its operator can; where it cannot, a task copies into it what would be the output: right behind the one that
//!           makes that, where nothing reads the version before any more, else at the end of the step. What others read of
//!           the output behind the copy, and what the caller takes, is the state.
//! Promises: no task that must see a step's first version of a state stands behind the one that writes the next; facts say
//!           the same as the lifetimes; or an error that names the pair.
//! Why:      a state that the caller carries crosses to it and back in every step and is held twice; as one tensor it is
//!           fed once, stays or is put aside like anything else, and has its next version where the last one lay.

use crate::caches::{Cache, caches};
use crate::cost;
use crate::lower::{Boundary, Code, Lowered, Port, Source, facts};
use crate::task_model::{Outside, TaskModelError, task_model_for};
use berth_ir::DType;
use berth_ir::Expr;
use berth_ir::graph::{Content, Graph, Op, OpId, Value, ValueId, Work};
use berth_ir::lifetime::{Other, Task, TensorId};
use berth_ir::program::{Carried, DimRange, Kind};
use berth_ir::target::Target;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Names that are listed for one that is unknown.
const LISTED: usize = 5;
/// Operators that compute each element from the same element, so that they may write it where they read it.
const BY_ELEMENT: [&str; 4] = ["Add", "Div", "Mul", "Sub"];
/// Operators that write some elements of their first operand and keep the others where they are.
const INTO: [&str; 2] = ["ScatterElements", "ScatterND"];
/// The standard operator set for a copy in a model that has none: the first with all types.
const OPSET: i64 = 13;

/// Why an input and an output are no state.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("state `{input}={output}`: {problem}")]
pub struct BadState {
    /// The input that is named.
    pub input: String,
    /// The output that is named.
    pub output: String,
    /// What is wrong.
    pub problem: Box<Problem>,
}

impl BadState {
    fn new(carried: &Carried, problem: Problem) -> BadState {
        let Carried { input, output } = carried.clone();
        BadState { input, output, problem: Box::new(problem) }
    }
}

/// What is wrong with a pair.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Problem {
    /// A name is not one of the model's.
    #[error("the model has no {side} `{name}`; {near}")]
    Unknown {
        /// `input` or `output`.
        side: &'static str,
        /// The name.
        name: String,
        /// What it has that is called nearly so.
        near: String,
    },
    /// A name stands in another pair too.
    #[error("the {side} `{name}` is in another state already: an input and an output are one state, each once")]
    Twice {
        /// `input` or `output`.
        side: &'static str,
        /// The name.
        name: String,
    },
    /// The input has a value that was fixed.
    #[error("the input has a value that is fixed, so that nothing carries over; leave out its `--set`")]
    Fixed,
    /// No task makes the output.
    #[error("no task computes the output, so that nothing carries over; leave the pair out")]
    NotComputed,
    /// Their types differ.
    #[error(
        "the input is {input:?} and the output {output:?}; a state keeps its type: cast the one or the other when exporting"
    )]
    Type {
        /// Of the input.
        input: DType,
        /// Of the output.
        output: DType,
    },
    /// The data decide a shape.
    #[error(
        "the {side} has the shape {shape}, which only the data decide; a state has one size in each step: give what makes it a fixed size when exporting"
    )]
    Open {
        /// `input` or `output`.
        side: &'static str,
        /// Its shape.
        shape: String,
    },
    /// It grows in a way that no plan has.
    #[error("the input has the shape {input} and the output {output}: it grows by {by} in each step; {next}")]
    Grows {
        /// Of the input.
        input: String,
        /// Of the output.
        output: String,
        /// Elements along the axis.
        by: String,
        /// What to do.
        next: String,
    },
    /// Another state has the dim grow in another way.
    #[error(
        "`{dim}` grows by {by} in each step with it, and by {other_by} with `{other}`; a dim has one size in a step: export the model with a dim of its own for each"
    )]
    Unlike {
        /// The dim.
        dim: String,
        /// By how much.
        by: u64,
        /// The other pair.
        other: String,
        /// By how much with that.
        other_by: u64,
    },
    /// An axis changes from step to step beside what the step adds.
    #[error(
        "axis {axis} of the input is {size}, and `{dim}` grows in each step with `{other}`; a state keeps its shape, or grows along one axis, which is a dim alone: let the caller carry it (without `--state`)"
    )]
    Moves {
        /// The axis, counted from zero.
        axis: usize,
        /// Its size.
        size: String,
        /// The dim that grows.
        dim: String,
        /// The pair with which it does.
        other: String,
    },
    /// A cache along a dim that grows is no state.
    #[error(
        "`{dim}` grows with it in each step, and so would {left}, which no `--state` names{more}: add `--state {left}`, or leave all of them to the caller"
    )]
    Left {
        /// The dim.
        dim: String,
        /// The first of them, as a pair.
        left: String,
        /// How many more there are, in words.
        more: String,
    },
    /// Shapes differ in another way.
    #[error(
        "the input has the shape {input} and the output {output}; a state keeps its shape, or grows along one axis: reshape the one or the other when exporting"
    )]
    Shape {
        /// Of the input.
        input: String,
        /// Of the output.
        output: String,
    },
    /// The copy of the output cannot be written as a task.
    #[error("its copy: {0}")]
    Copy(TaskModelError),
}

/// A model in which each of these pairs is one tensor. It is named as that of the input, and is a [`Kind::State`]. One that
/// grows from step to step has bytes for the upper end of the range of its dim; the lifetimes' dims say the range.
///
/// # Errors
/// The first pair that is no state of the model.
pub fn carry(graph: &Graph, mut lowered: Lowered, target: &Target, pairs: &[Carried]) -> Result<Lowered, BadState> {
    let pairs = checked(&lowered, pairs)?;
    if pairs.is_empty() {
        return Ok(lowered);
    }
    lowered.growth = growth(graph, &lowered, &pairs)?;
    for pair in &pairs {
        // What a step adds has room behind what it read.
        let output = lowered.lifetimes.tensor(pair.output);
        let (bytes, extent) = (output.bytes, output.extent.clone());
        let state = &mut lowered.lifetimes.tensors[pair.input.index()];
        (state.bytes, state.extent) = (bytes, extent);
    }
    let uses = Uses::new(graph, &lowered);
    let (joined, copied): (Vec<Pair>, Vec<Pair>) = pairs.iter().cloned().partition(|pair| uses.is_joined(pair));
    let behind: Vec<Option<usize>> = copied.iter().map(|pair| uses.behind(pair)).collect();
    let mut carrying = Carrying { lowered, graph, target, names: HashSet::new(), read: HashMap::new() };
    let places = carrying.join(&joined);
    let place = |pair: Pair| Pair { input: places[pair.input.index()], output: places[pair.output.index()], ..pair };
    carrying.copies(copied.into_iter().map(place).zip(behind))?;
    carrying.states(&pairs, &places);
    Ok(carrying.lowered)
}

/// A pair that can be a state.
#[derive(Clone, Debug)]
struct Pair {
    carried: Carried,
    input: TensorId,
    output: TensorId,
    /// Which of the model's inputs and outputs they are.
    at: (usize, usize),
    /// Where it is longer behind a step.
    grows: Option<Grows>,
}

/// An axis that is longer behind a step.
#[derive(Clone, Debug)]
struct Grows {
    axis: usize,
    dim: String,
    /// Elements in each step.
    by: u64,
}

/// Who uses what.
struct Uses<'a> {
    lowered: &'a Lowered,
    ops: HashMap<&'a str, &'a Op>,
    /// The tasks that write each tensor, and that read it last.
    writer: HashMap<TensorId, usize>,
    last: HashMap<TensorId, usize>,
    /// How many outputs of the model each tensor is, by name.
    outputs: HashMap<&'a str, usize>,
}

impl<'a> Uses<'a> {
    fn new(graph: &'a Graph, lowered: &'a Lowered) -> Uses<'a> {
        let (mut writer, mut last, mut outputs) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (position, task) in lowered.lifetimes.tasks.iter().enumerate() {
            last.extend(task.reads.iter().map(|tensor| (*tensor, position)));
            writer.extend(task.writes.iter().map(|tensor| (*tensor, position)));
        }
        for tensor in lowered.outputs.iter().filter_map(|boundary| boundary.tensor.as_deref()) {
            *outputs.entry(tensor).or_default() += 1;
        }
        Uses { lowered, ops: graph.ops.iter().map(|op| (op.name.as_str(), op)).collect(), writer, last, outputs }
    }

    /// Whether the task that writes the output may write the state: nothing reads the version before from there on, but for
    /// that task where it may write what it reads, and nobody else has the output's tensor.
    fn is_joined(&self, pair: &Pair) -> bool {
        let output = self.lowered.lifetimes.tensor(pair.output);
        let alone = self.outputs.get(output.name.as_str()) == Some(&1) && output.kind == Kind::Output;
        let over = |writer: &usize| match self.last.get(&pair.input) {
            Some(last) => last < writer || (last == writer && self.in_place(*writer, pair.input)),
            None => true,
        };
        alone && self.writer.get(&pair.output).is_some_and(over)
    }

    /// The task behind which an output may be copied into its state: that which writes the output, where nothing reads the
    /// version before from there on.
    fn behind(&self, pair: &Pair) -> Option<usize> {
        let writer = self.writer.get(&pair.output).copied();
        writer.filter(|writer| self.last.get(&pair.input).is_none_or(|last| last <= writer))
    }

    /// Whether a task may write its result over a tensor that it reads.
    fn in_place(&self, task: usize, tensor: TensorId) -> bool {
        let (task, code) = (&self.lowered.lifetimes.tasks[task], &self.lowered.codes[task]);
        let ([name], [result]) = (&task.ops[..], &code.outputs[..]) else { return false };
        let Some(op) = self.ops.get(name.as_str()).filter(|op| op.domain.is_empty()) else { return false };
        let mut reads = code.inputs.iter().filter(|port| port.source == Source::Tensor(tensor));
        let (Some(read), None) = (reads.next(), reads.next()) else { return false };
        let alike = (read.dtype, &read.shape) == (result.dtype, &result.shape);
        let into = INTO.contains(&op.kind.as_str()) && op.inputs.first() == Some(&Some(read.value));
        let once = op.reads().filter(|value| *value == read.value).count() == 1;
        alike && once && (into || BY_ELEMENT.contains(&op.kind.as_str()))
    }
}

/// The pairs, if each is one that a state can be made of.
fn checked(lowered: &Lowered, pairs: &[Carried]) -> Result<Vec<Pair>, BadState> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let (mut inputs, mut outputs) = (BTreeSet::new(), BTreeSet::new());
    let tensors = lowered.lifetimes.tensors.iter().zip((0..).map(TensorId));
    let ids: HashMap<&str, TensorId> = tensors.map(|(tensor, id)| (tensor.name.as_str(), id)).collect();
    let written: HashSet<TensorId> = lowered.lifetimes.tasks.iter().flat_map(|t| &t.writes).copied().collect();
    let (all_inputs, all_outputs) = (by_name(&lowered.inputs), by_name(&lowered.outputs));
    let one = |carried: &Carried| {
        let bad = |problem| BadState::new(carried, problem);
        let found = |side, named: &HashMap<&str, usize>, all: &[Boundary], name: &str| {
            let unknown = || Problem::Unknown { side, name: name.to_owned(), near: near(side, all, name) };
            named.get(name).copied().ok_or_else(|| bad(unknown()))
        };
        let input = found("input", &all_inputs, &lowered.inputs, &carried.input)?;
        let output = found("output", &all_outputs, &lowered.outputs, &carried.output)?;
        for (side, name, seen) in [("input", &carried.input, &mut inputs), ("output", &carried.output, &mut outputs)] {
            if !seen.insert(name.clone()) {
                return Err(bad(Problem::Twice { side, name: name.clone() }));
            }
        }
        let at = (input, output);
        let (input, output) = (&lowered.inputs[input], &lowered.outputs[output]);
        let grows = alike(input, output, &lowered.lifetimes.dims).map_err(bad)?;
        let id = |boundary: &Boundary| ids.get(boundary.tensor.as_deref()?).copied();
        let input = id(input).ok_or_else(|| bad(Problem::Fixed))?;
        let output = id(output).filter(|id| written.contains(id)).ok_or_else(|| bad(Problem::NotComputed))?;
        Ok(Pair { carried: carried.clone(), input, output, at, grows })
    };
    pairs.iter().map(one).collect()
}

/// Where each name stands first.
fn by_name(all: &[Boundary]) -> HashMap<&str, usize> {
    let mut places = HashMap::new();
    for (place, boundary) in all.iter().enumerate() {
        places.entry(boundary.name.as_str()).or_insert(place);
    }
    places
}

/// The names that begin and end most like one, as a sentence.
fn near(side: &str, all: &[Boundary], name: &str) -> String {
    let same = |a: &mut dyn Iterator<Item = (u8, u8)>| a.take_while(|(a, b)| a == b).count();
    let like = |other: &str| {
        let (a, b) = (name.bytes(), other.bytes());
        same(&mut a.clone().zip(b.clone())) + same(&mut a.rev().zip(b.rev()))
    };
    let mut names: Vec<&str> = all.iter().map(|b| b.name.as_str()).collect();
    // Stable: of names as near, the model's first.
    names.sort_by_cached_key(|other| Reverse(like(other)));
    let more = names.len().saturating_sub(LISTED);
    let said: Vec<String> = names.iter().take(LISTED).map(|n| format!("`{n}`")).collect();
    match more {
        _ if names.is_empty() => format!("it has no {side}s"),
        0 => format!("it has {}", said.join(", ")),
        _ => format!("it has {} and {more} more", said.join(", ")),
    }
}

/// Where an output is longer than its input, of the same type and else the same shape, which is one in each step.
fn alike(input: &Boundary, output: &Boundary, dims: &BTreeMap<String, DimRange>) -> Result<Option<Grows>, Problem> {
    if input.dtype != output.dtype {
        return Err(Problem::Type { input: input.dtype, output: output.dtype });
    }
    for (side, boundary) in [("input", input), ("output", output)] {
        if boundary.shape.iter().flat_map(Expr::dims).any(|dim| !dims.contains_key(&dim)) {
            return Err(Problem::Open { side, shape: said(&boundary.shape) });
        }
    }
    let shapes = (said(&input.shape), said(&output.shape));
    let mut apart = (0..).zip(input.shape.iter().zip(&output.shape)).filter(|(_, (a, b))| a != b);
    let (axis, (from, to)) = match (apart.next(), apart.next()) {
        _ if input.shape.len() != output.shape.len() => {
            return Err(Problem::Shape { input: shapes.0, output: shapes.1 });
        }
        (None, _) => return Ok(None),
        (Some(apart), None) => apart,
        (Some(_), Some(_)) => return Err(Problem::Shape { input: shapes.0, output: shapes.1 }),
    };
    let by = to - from;
    let ranges = dims.iter().map(|(dim, range)| (dim.clone(), (range.low, range.high))).collect();
    if by.range(&ranges).is_none_or(|(_, most)| most <= 0) {
        return Err(Problem::Shape { input: shapes.0, output: shapes.1 });
    }
    let grows = |next| Problem::Grows { input: shapes.0.clone(), output: shapes.1.clone(), by: by.to_string(), next };
    let Some(by) = by.as_constant().and_then(|by| u64::try_from(by).ok()) else {
        let open: Vec<String> = by.dims().iter().map(|dim| format!("`--dim {dim}=N`")).collect();
        return Err(grows(format!("what a step adds has one size: bind it with {}", open.join(" and "))));
    };
    match from.as_dim() {
        Some(dim) => Ok(Some(Grows { axis, dim: dim.to_owned(), by })),
        // One that has a size, or follows from others.
        None => {
            let one = |range: &DimRange| range.low == range.high && Some(i128::from(range.low)) == from.as_constant();
            let mut like = dims.iter().filter(|(_, range)| one(range));
            let dim = match (like.next(), like.next()) {
                (Some((dim, _)), None) => dim,
                _ => "NAME",
            };
            let size = from.as_constant().map_or("0".to_owned(), |size| size.to_string());
            Err(grows(format!(
                "give the dim of axis {axis} a range up to its size in the last step, such as `--dim {dim}={size}..127`, or let the caller carry it (without `--state`)"
            )))
        }
    }
}

/// By how much dims grow in each step: all that these pairs say, if all of them can be so, and nothing that grows is left.
fn growth(graph: &Graph, lowered: &Lowered, pairs: &[Pair]) -> Result<BTreeMap<String, u64>, BadState> {
    let bad = |pair: &Pair, problem| BadState::new(&pair.carried, problem);
    let mut all: BTreeMap<&str, (u64, &Pair)> = BTreeMap::new();
    for pair in pairs {
        let Some(Grows { dim, by, .. }) = &pair.grows else { continue };
        let (other_by, other) = *all.entry(dim).or_insert((*by, pair));
        if other_by != *by {
            let other = other.carried.to_string();
            return Err(bad(pair, Problem::Unlike { dim: dim.clone(), by: *by, other, other_by }));
        }
    }
    for pair in pairs {
        for (axis, size) in lowered.inputs[pair.at.0].shape.iter().enumerate() {
            let own = pair.grows.as_ref().is_some_and(|grows| grows.axis == axis);
            let moving = size.dims().into_iter().find_map(|dim| Some((all.get(dim.as_str())?.1, dim)));
            if let (false, Some((other, dim))) = (own, moving) {
                let (size, other) = (size.to_string(), other.carried.to_string());
                return Err(bad(pair, Problem::Moves { axis, size, dim, other }));
            }
        }
    }
    let stated: HashSet<&str> = pairs.iter().map(|pair| pair.carried.input.as_str()).collect();
    let name = |id: ValueId| graph.value(id).name.as_str();
    let mut left = caches(graph).into_iter().filter_map(|Cache { past, present }| {
        let (before, after) = (&graph.value(past).shape, &graph.value(present).shape);
        let mut apart = before.iter().zip(after).filter(|(a, b)| a != b);
        let grown = apart.find_map(|(axis, _)| all.get_key_value(axis.as_dim()?));
        let (dim, (_, pair)) = grown.filter(|_| !stated.contains(name(past)))?;
        Some((*dim, *pair, Carried { input: name(past).to_owned(), output: name(present).to_owned() }))
    });
    if let Some((dim, pair, first)) = left.next() {
        let more = left.count();
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        return Err(bad(pair, Problem::Left { dim: dim.to_owned(), left: first.to_string(), more }));
    }
    Ok(all.into_iter().map(|(dim, (by, _))| (dim.to_owned(), by)).collect())
}

fn said(shape: &[Expr]) -> String {
    let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", axes.join(", "))
}

/// A model on its way.
struct Carrying<'a> {
    lowered: Lowered,
    graph: &'a Graph,
    target: &'a Target,
    /// Names of tasks, once some are added.
    names: HashSet<String>,
    /// What is read from here on in the place of an output that was copied.
    read: HashMap<TensorId, TensorId>,
}

impl Carrying<'_> {
    /// Makes each output's tensor that of its input; what each tensor is then.
    fn join(&mut self, pairs: &[Pair]) -> Vec<TensorId> {
        let gone: BTreeMap<TensorId, TensorId> = pairs.iter().map(|pair| (pair.output, pair.input)).collect();
        let tensors = std::mem::take(&mut self.lowered.lifetimes.tensors);
        let mut left = 0;
        let counted = (0..).map(TensorId).take(tensors.len()).map(|id| {
            let place = TensorId(left);
            left += u32::from(!gone.contains_key(&id));
            place
        });
        let counted: Vec<TensorId> = counted.collect();
        let places: Vec<TensorId> =
            (0..).map(TensorId).take(tensors.len()).map(|id| counted[gone.get(&id).unwrap_or(&id).index()]).collect();
        // Joined tensors may stand before those that they are now.
        let mut aliases = Vec::new();
        for (tensor, id) in tensors.into_iter().zip((0..).map(TensorId)) {
            if gone.contains_key(&id) {
                let names = std::iter::once(tensor.name).chain(tensor.aliases);
                aliases.extend(names.map(|name| (places[id.index()], name)));
            } else {
                self.lowered.lifetimes.tensors.push(tensor);
            }
        }
        for (id, name) in aliases {
            self.lowered.lifetimes.tensors[id.index()].aliases.push(name);
        }
        let place = |id: &mut TensorId| *id = places.get(id.index()).copied().unwrap_or(*id);
        for task in &mut self.lowered.lifetimes.tasks {
            let all = task.reads.iter_mut().chain(&mut task.writes).chain(&mut task.rows);
            let rights = task.in_place.iter_mut().flat_map(|(read, written)| [read, written]);
            let held = task.held.iter_mut().flat_map(|held| &mut held.weights);
            all.chain(rights).chain(held).for_each(place);
        }
        for code in &mut self.lowered.codes {
            for port in code.inputs.iter_mut().chain(&mut code.outputs) {
                if let Source::Tensor(tensor) = &mut port.source {
                    place(tensor);
                }
            }
            code.kept.iter_mut().for_each(|kept| place(&mut kept.tensor));
        }
        pairs.iter().for_each(|pair| self.take_state(pair));
        places
    }

    /// Has the caller take the state as the output.
    fn take_state(&mut self, pair: &Pair) {
        let (input, output) = pair.at;
        self.lowered.outputs[output].tensor = self.lowered.inputs[input].tensor.clone();
    }

    /// Adds the tasks that copy outputs into their states: each behind a task, or at the end of the step.
    fn copies(&mut self, pairs: impl Iterator<Item = (Pair, Option<usize>)>) -> Result<(), BadState> {
        let (mut early, mut late): (BTreeMap<usize, Vec<Pair>>, Vec<Pair>) = Default::default();
        for (pair, behind) in pairs {
            behind.map_or(&mut late, |position| early.entry(position).or_default()).push(pair);
        }
        let Lowered { lifetimes, codes, .. } = &mut self.lowered;
        if !early.is_empty() || !late.is_empty() {
            self.names = lifetimes.tasks.iter().map(|task| task.name.clone()).collect();
        }
        let (tasks, codes) = (std::mem::take(&mut lifetimes.tasks), std::mem::take(codes));
        for (position, (task, code)) in tasks.into_iter().zip(codes).enumerate() {
            self.push(task, code);
            for pair in early.remove(&position).into_iter().flatten() {
                self.copy(&pair)?;
                self.read.insert(pair.output, pair.input);
            }
        }
        late.iter().try_for_each(|pair| self.copy(pair))
    }

    /// Adds a task, which reads states in the place of outputs that lie in them by now.
    fn push(&mut self, mut task: Task, mut code: Code) {
        let state = |id: &mut TensorId| *id = self.read.get(id).copied().unwrap_or(*id);
        let rights = task.in_place.iter_mut().map(|(read, _)| read);
        task.reads.iter_mut().chain(&mut task.rows).chain(rights).for_each(state);
        for port in &mut code.inputs {
            if let Source::Tensor(tensor) = &mut port.source {
                state(tensor);
            }
        }
        self.lowered.lifetimes.tasks.push(task);
        self.lowered.codes.push(code);
    }

    /// Adds the task that copies an output into its state.
    fn copy(&mut self, pair: &Pair) -> Result<(), BadState> {
        let (state, from) = (pair.input, pair.output);
        // It may be longer than what was read.
        let boundary = &self.lowered.outputs[pair.at.1];
        let (dtype, shape) = (boundary.dtype, boundary.most.clone());
        let bad = |problem| BadState::new(&pair.carried, Problem::Copy(problem));
        let model = identity(self.graph, dtype, &boundary.shape).map_err(bad)?;
        let port = |value: Option<&ValueId>, tensor: TensorId| Port {
            // The model's inputs and outputs are the graph's, in order.
            value: value.copied().unwrap_or(ValueId(u32::MAX)),
            source: Source::Tensor(tensor),
            dtype,
            shape: boundary.shape.clone(),
            most: shape.clone(),
            found: false,
        };
        let inputs = vec![port(self.graph.outputs.get(pair.at.1), from)];
        let outputs = vec![port(self.graph.inputs.get(pair.at.0), state)];
        let Lowered { lifetimes, .. } = &mut self.lowered;
        let bytes = lifetimes.tensor(state).bytes.saturating_mul(2);
        let operand = [(dtype, shape)];
        let mut costs = self.target.engines.iter().map(|engine| Other {
            engine: engine.name.clone(),
            workspace: cost::workspace(engine, "Identity", &operand, &operand),
            cost: cost::estimate(self.target, engine, 0, bytes, dtype),
        });
        let first = costs.next();
        let name = fresh(&mut self.names, format!("keep {}", lifetimes.tensor(state).name));
        let task = Task {
            ops: vec![name.clone()],
            name,
            reads: vec![from],
            writes: vec![state],
            rows: Vec::new(),
            in_place: Vec::new(),
            workspace: first.as_ref().map_or(0, |first| first.workspace),
            cost: first.map(|first| first.cost).unwrap_or_default(),
            others: costs.collect(),
            held: None,
        };
        self.push(task, Code { model, inputs, outputs, varies: false, kept: Vec::new() });
        // The caller takes the state, so that nothing is taken twice.
        self.take_state(pair);
        let tensor = &mut self.lowered.lifetimes.tensors[from.index()];
        let taken = self.lowered.outputs.iter().any(|b| b.tensor.as_ref() == Some(&tensor.name));
        if tensor.kind == Kind::Output && !taken {
            tensor.kind = Kind::Activation;
        }
        Ok(())
    }

    /// Says of the inputs' tensors that they are states, and the same in the facts.
    fn states(&mut self, pairs: &[Pair], places: &[TensorId]) {
        let Lowered { lifetimes, states, .. } = &mut self.lowered;
        for pair in pairs {
            lifetimes.tensors[places[pair.input.index()].index()].kind = Kind::State;
        }
        // The one version may be needed after the other is written; what lies in a state's place is gone for the next step.
        let tensors = &lifetimes.tensors;
        let lasts = |id: &TensorId| tensors[id.index()].kind == Kind::State;
        for task in &mut lifetimes.tasks {
            task.in_place.retain(|(read, written)| !lasts(read) && !lasts(written));
        }
        *states = pairs.iter().map(|pair| pair.carried.clone()).collect();
        // In the order in which tasks run: it says which version each reads.
        self.lowered.facts = facts(&self.lowered.lifetimes);
    }
}

/// A name that is not taken; it is then.
fn fresh(taken: &mut HashSet<String>, name: String) -> String {
    let mut fresh = name.clone();
    // Ends: each round takes another number, and taken names are fewer.
    for n in 2.. {
        if taken.insert(fresh.clone()) {
            break;
        }
        fresh = format!("{name}.{n}");
    }
    fresh
}

/// A task's model that copies.
fn identity(graph: &Graph, dtype: DType, shape: &[Expr]) -> Result<bytes::Bytes, TaskModelError> {
    let value = |name: &str| Value { name: name.to_owned(), dtype, shape: shape.to_vec(), content: Content::Computed };
    let op = Op {
        name: "keep".to_owned(),
        domain: String::new(),
        kind: "Identity".to_owned(),
        inputs: vec![Some(ValueId(0))],
        outputs: vec![Some(ValueId(1))],
        captures: Vec::new(),
        attributes: Vec::new(),
        work: Work { flops: Expr::constant(0), inside_bytes: Expr::constant(0) },
    };
    let standard = graph.opsets.iter().find(|(domain, _)| domain.is_empty()).cloned();
    let copy = Graph {
        opsets: vec![standard.unwrap_or((String::new(), OPSET))],
        ir_version: graph.ir_version,
        values: vec![value("from"), value("to")],
        ops: vec![op],
        inputs: vec![ValueId(0)],
        outputs: vec![ValueId(1)],
        ..Graph::default()
    };
    let outside = Outside { embed: &|_| None, kept: &|_| None, goes_out: &|_| true };
    Ok(task_model_for(&copy, &[OpId(0)], &outside)?.model)
}
