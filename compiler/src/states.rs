//! Makes one tensor of an input and an output that are one state: what a step writes the next step reads.
//!
//! Reads:    the graph, what it was lowered to in the order in which its tasks run, the pairs.
//! Decides:  for each pair whether the task that writes the output can write the state itself, over what it reads of it where
//!           its operator can; where it cannot, a task at the end of the step copies into it what would be the output. What the
//!           caller takes is the state.
//! Promises: no task that must see a step's first version of a state stands behind the one that writes the next; facts say
//!           the same as the lifetimes; or an error that names the pair.
//! Why:      a state that the caller carries crosses to it and back in every step and is held twice; as one tensor it is
//!           fed once, stays or is put aside like anything else, and has its next version where the last one lay.

use crate::cost;
use crate::lower::{Boundary, Code, Lowered, Port, Source, facts};
use crate::task_model::{Outside, TaskModelError, task_model_for};
use berth_ir::DType;
use berth_ir::Expr;
use berth_ir::graph::{Content, Graph, Op, OpId, Value, ValueId, Work};
use berth_ir::lifetime::{Other, Task, TensorId};
use berth_ir::program::{Carried, Kind};
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
    pub problem: Problem,
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
    /// A shape is not one.
    #[error(
        "the {side} has the shape {shape}, which differs from run to run; a state has one size: bind its dims with `--dim`, each to one size"
    )]
    Open {
        /// `input` or `output`.
        side: &'static str,
        /// Its shape.
        shape: String,
    },
    /// One axis is longer in the output.
    #[error(
        "the input has the shape {input} and the output {output}: it grows by {by} in each step, and states that grow are not planned; export the model with a cache of fixed size, which each step writes into in place, or let the caller carry it (without `--state`)"
    )]
    Grows {
        /// Of the input.
        input: String,
        /// Of the output.
        output: String,
        /// Elements along the axis.
        by: u64,
    },
    /// Shapes differ in another way.
    #[error(
        "the input has the shape {input} and the output {output}; a state keeps its shape: reshape the one or the other when exporting"
    )]
    Shape {
        /// Of the input.
        input: String,
        /// Of the output.
        output: String,
    },
    /// The copy of the output cannot be written as a task.
    #[error("its copy at the end of the step: {0}")]
    Copy(TaskModelError),
}

/// A model in which each of these pairs is one tensor. It is named as that of the input, and has its kind from [`Kind::State`].
///
/// # Errors
/// The first pair that is no state of the model.
pub fn carry(graph: &Graph, lowered: Lowered, target: &Target, pairs: &[Carried]) -> Result<Lowered, BadState> {
    let pairs = checked(&lowered, pairs)?;
    if pairs.is_empty() {
        return Ok(lowered);
    }
    let uses = Uses::new(graph, &lowered);
    let (joined, mut copied): (Vec<Pair>, Vec<Pair>) = pairs.iter().cloned().partition(|pair| uses.is_joined(pair));
    let mut carrying = Carrying { lowered, graph, target, names: HashSet::new() };
    let places = carrying.join(&joined);
    for pair in &mut copied {
        (pair.input, pair.output) = (places[pair.input.index()], places[pair.output.index()]);
        carrying.copy(pair)?;
    }
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
        let tensor = |id| self.lowered.lifetimes.tensor(id);
        let (input, output) = (tensor(pair.input), tensor(pair.output));
        let alone = self.outputs.get(output.name.as_str()) == Some(&1) && output.kind == Kind::Output;
        let over = |writer: &usize| match self.last.get(&pair.input) {
            Some(last) => last < writer || (last == writer && self.in_place(*writer, pair.input)),
            None => true,
        };
        alone && input.bytes == output.bytes && self.writer.get(&pair.output).is_some_and(over)
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
        let bad = |problem| BadState { input: carried.input.clone(), output: carried.output.clone(), problem };
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
        alike(input, output).map_err(bad)?;
        let id = |boundary: &Boundary| ids.get(boundary.tensor.as_deref()?).copied();
        let input = id(input).ok_or_else(|| bad(Problem::Fixed))?;
        let output = id(output).filter(|id| written.contains(id)).ok_or_else(|| bad(Problem::NotComputed))?;
        Ok(Pair { carried: carried.clone(), input, output, at })
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

/// Whether an input and an output have one type and one shape, which is the same in every run.
fn alike(input: &Boundary, output: &Boundary) -> Result<(), Problem> {
    if input.dtype != output.dtype {
        return Err(Problem::Type { input: input.dtype, output: output.dtype });
    }
    // In dims, growth is seen whatever they are.
    let by = |a: &Expr, b: &Expr| (b.clone() - a.clone()).as_constant().and_then(|by| u64::try_from(by).ok());
    let axes = || input.shape.iter().zip(&output.shape);
    let mut other = axes().filter(|(a, b)| a != b);
    let grown = other.next().and_then(|(a, b)| by(a, b)).filter(|by| *by > 0);
    if let (true, Some(by), None) = (input.shape.len() == output.shape.len(), grown, other.next()) {
        return Err(Problem::Grows { input: said(&input.shape), output: said(&output.shape), by });
    }
    for (side, boundary) in [("input", input), ("output", output)] {
        if boundary.shape.iter().any(|axis| axis.as_constant().is_none()) {
            return Err(Problem::Open { side, shape: said(&boundary.shape) });
        }
    }
    if input.shape != output.shape {
        return Err(Problem::Shape { input: said(&input.shape), output: said(&output.shape) });
    }
    Ok(())
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

    /// Adds the task that copies an output into its state at the end of the step.
    fn copy(&mut self, pair: &Pair) -> Result<(), BadState> {
        let (state, from) = (pair.input, pair.output);
        let boundary = &self.lowered.inputs[pair.at.0];
        let (dtype, shape) = (boundary.dtype, boundary.most.clone());
        let bad = |problem| BadState {
            input: pair.carried.input.clone(),
            output: pair.carried.output.clone(),
            problem: Problem::Copy(problem),
        };
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
        if self.names.is_empty() {
            self.names = lifetimes.tasks.iter().map(|task| task.name.clone()).collect();
        }
        let name = fresh(&mut self.names, format!("keep {}", lifetimes.tensor(state).name));
        lifetimes.tasks.push(Task {
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
        });
        self.lowered.codes.push(Code { model, inputs, outputs, varies: false, kept: Vec::new() });
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
