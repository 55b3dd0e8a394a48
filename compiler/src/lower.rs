//! Lowers a graph with bound dims to lifetimes: what is worked out beforehand, what is a view, what is a task.
//!
//! Reads:    the graph, the target's engine for estimates.
//! Decides:  which operators run (those whose results are known or unread do not), which values share one tensor (views),
//!           which constants are small enough to live in the task itself, one task for each operator that is left.
//! Promises: tasks in file order; every tensor with its exact size; the model facts that a program is checked against.
//! Why:      one operator a task is the finest cut, so it needs the least memory; a call costs about 2 us.

use crate::cost;
use crate::import::ops::row_of;
use crate::import::tensor_bytes;
use crate::slice::{Cut, Matrix, cuts};
use crate::task_model::{Outside, TaskModelError, known_bytes, task_model_for};
use crate::twins::{Place, Read, Twin, place, twins};
use berth_ir::expr::{Binding, Ranges};
use berth_ir::graph::{Attribute, Content, Graph, Op, OpId, Stored, Value, ValueId};
use berth_ir::lifetime::{Lifetimes, Other, Task, Tensor, TensorId};
use berth_ir::program::{Carried, DimRange, Filled, Home, Kind, Recompute, Split, Transposed};
use berth_ir::target::{Target, hex};
use berth_ir::verify::{ModelFacts, OpFact, TensorFact};
use berth_ir::{DType, Expr};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Constants up to this size live in the task's own code, outside the arena: scalars, axes, paddings. Larger ones would
/// keep identical layers from sharing a session.
pub(crate) const EMBEDDED_BYTES_MAX: u64 = 64;

/// Constants that no file holds as they are must live in the task; more than this would be a second, hidden memory.
const INLINE_BYTES_MAX: usize = 1 << 20;

/// A model ready to be planned, and all that running it needs besides a program.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// What the planner works on.
    pub lifetimes: Lifetimes,
    /// What a program is checked against.
    pub facts: ModelFacts,
    /// What an engine runs for each task, in the order of the tasks.
    pub codes: Vec<Code>,
    /// The graph's inputs.
    pub inputs: Vec<Boundary>,
    /// The graph's outputs.
    pub outputs: Vec<Boundary>,
    /// How the graph's operators were split before it was lowered, where they were.
    pub split: Option<Split>,
    /// Operators that were made to run once more after that.
    pub recompute: Vec<Recompute>,
    /// Inputs and outputs that are one state each, where [`crate::states`] made them so.
    pub states: Vec<Carried>,
    /// By how much a dim grows from step to step, as the states do that have it.
    pub growth: BTreeMap<String, u64>,
    /// Contents of constants that live in the tasks' code and that the graph does not have.
    pub embedded: HashMap<ValueId, Bytes>,
}

impl Lowered {
    /// Bytes of an input or output of the model, by name; zero where it has no such.
    pub fn bytes_of(&self, name: &str) -> u64 {
        let port = self.inputs.iter().chain(&self.outputs).find(|b| b.name == name);
        let elements = port.map(|b| b.most.iter().fold(1u64, |n, axis| n.saturating_mul(*axis)));
        port.zip(elements).and_then(|(b, n)| b.dtype.bytes(n)).unwrap_or(0)
    }

    /// Pairs of tasks of which the second needs the first, though it may read nothing of it: the first finds a size that
    /// the second is bound with.
    pub fn finds(&self) -> Vec<(usize, usize)> {
        let mut finder: HashMap<String, usize> = HashMap::new();
        let mut pairs = Vec::new();
        for (n, code) in self.codes.iter().enumerate().filter(|(_, code)| code.is_open()) {
            let dims: BTreeSet<String> = code.inputs.iter().chain(&code.outputs).flat_map(Port::dims).collect();
            pairs.extend(dims.iter().filter_map(|dim| Some((*finder.get(dim)?, n))));
            let found: Vec<String> = code.outputs.iter().filter(|p| p.found).flat_map(Port::dims).collect();
            for dim in found {
                finder.entry(dim).or_insert(n);
            }
        }
        pairs
    }

    /// The same model with its tasks in another order: for each place, the place that the task has now. The facts stay
    /// those of the file: a program is checked against what reads what, not against an order.
    pub fn reorder(&mut self, order: &[usize]) {
        assert_eq!(order.len(), self.codes.len(), "an order has each task");
        self.lifetimes.tasks = order.iter().map(|n| self.lifetimes.tasks[*n].clone()).collect();
        self.codes = order.iter().map(|n| self.codes[*n].clone()).collect();
    }
}

/// What an engine needs to run a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Code {
    /// An ONNX model of its own.
    pub model: Bytes,
    /// Its inputs.
    pub inputs: Vec<Port>,
    /// Its outputs.
    pub outputs: Vec<Port>,
    /// Whether the data decide what a run needs, so that a trial may see less: its estimate of workspace is a floor.
    pub varies: bool,
    /// Weights whose bytes the engine is given with the model, and keeps.
    pub kept: Vec<Kept>,
}

/// A weight among those that an engine is given with a task's model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The weight.
    pub tensor: TensorId,
    /// Its first byte in the block that holds all of them.
    pub from: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// An input or output of a task's model.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The value of the graph.
    pub value: ValueId,
    /// Where its bytes are.
    pub source: Source,
    /// Element type.
    pub dtype: DType,
    /// Shape in elements, in dims that only a run knows: those of the data, and those that were given as ranges.
    pub shape: Vec<Expr>,
    /// The most that each axis can be; its tensor has room for that.
    pub most: Vec<u64>,
    /// Whether only the run itself says what the shape is: it has a dim that this task makes.
    pub found: bool,
}

/// What a port is bound to.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// A tensor; views of one tensor have several shapes.
    Tensor(TensorId),
    /// A few integers that follow from dims: worked out anew for each run, no tensor.
    Known {
        /// Row-major.
        elements: Vec<Expr>,
        /// The same where every dim is as large as it can be: what a trial runs with.
        most: Bytes,
    },
}

impl Port {
    /// Whether the shape or the contents are known in a run only.
    pub fn is_open(&self) -> bool {
        self.shape.iter().any(|axis| axis.as_constant().is_none()) || matches!(self.source, Source::Known { .. })
    }

    /// The dims that it is bound with.
    fn dims(&self) -> Vec<String> {
        let known = match &self.source {
            Source::Known { elements, .. } => elements.as_slice(),
            Source::Tensor(_) => &[],
        };
        self.shape.iter().chain(known).flat_map(Expr::dims).collect()
    }
}

impl Code {
    /// Whether some port is known in a run only.
    pub fn is_open(&self) -> bool {
        self.inputs.iter().chain(&self.outputs).any(Port::is_open)
    }
}

/// An input or output of the whole model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// The name that the model gives it.
    pub name: String,
    /// The name of its tensor in programs; nothing where no task reads the input.
    pub tensor: Option<String>,
    /// Element type.
    pub dtype: DType,
    /// Shape in elements; in dims that only a run knows, where there are any.
    pub shape: Vec<Expr>,
    /// The most that each axis can be.
    pub most: Vec<u64>,
}

/// Why a graph cannot be lowered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum LowerError {
    /// A size depends on a dim that was not given, or on data.
    #[error("`{value}` has the size {size}, which is not a number: bind {dims} with `--dim`")]
    Unbound {
        /// The value.
        value: String,
        /// What its size is.
        size: String,
        /// The dims in it.
        dims: String,
    },
    /// A dim was given a range that others leave.
    #[error(
        "dim `{dim}` is {equals}, which goes over {range}; {said} was given for it: leave it out, or give ranges that agree"
    )]
    Contradiction {
        /// The dim.
        dim: String,
        /// The range that was given.
        said: String,
        /// What it is.
        equals: String,
        /// The range of that.
        range: String,
    },
    /// A size that each run decides, without a bound.
    #[error(
        "{op} (node `{node}`): only the data decide how large `{value}` is, and nothing bounds it ({bound}); give the \
         operator a fixed size when exporting, or leave it to what comes after the model"
    )]
    DataSize {
        /// The operator type.
        op: String,
        /// The operator that makes it, or carries it on.
        node: String,
        /// The value.
        value: String,
        /// What is known of the size.
        bound: String,
    },
    /// More bytes than there are addresses.
    #[error("`{value}` would have more than 2^63 bytes: its shape is {shape}")]
    TooLarge {
        /// The value.
        value: String,
        /// Its shape.
        shape: String,
    },
    /// Strings have no place in an arena.
    #[error("`{value}` holds strings, which have no size that a plan could hold")]
    Strings {
        /// The value.
        value: String,
    },
    /// A large constant in a form that cannot be streamed.
    #[error("constant `{value}` has {bytes} bytes in a form that no file holds as they are; store it as raw data")]
    InlineTooLarge {
        /// The value.
        value: String,
        /// Its size.
        bytes: usize,
    },
    /// A task's model cannot be written.
    #[error("task of `{op}`: {problem}")]
    Code {
        /// The operator.
        op: String,
        /// What is wrong.
        problem: TaskModelError,
    },
}

/// Lowers a graph. `dims` are the sizes that it was bound to, and the ranges of dims that were left open; `read` gives
/// bytes of stored constants: of small ones all, of large ones what it takes to find those that are equal.
pub fn lower(
    graph: &Graph,
    dims: &BTreeMap<String, DimRange>,
    target: &Target,
    read: Read,
) -> Result<Lowered, LowerError> {
    let sizes = Sizes::new(graph, dims);
    sizes.check(graph, dims)?;
    let live = live_ops(graph, &sizes);
    let mut lowering = Lowering {
        graph,
        sizes,
        outputs: graph.outputs.iter().copied().collect(),
        read,
        twins: twins(graph, EMBEDDED_BYTES_MAX, read),
        tensors: Vec::with_capacity(graph.values.len()),
        tensor_of: HashMap::new(),
        names: HashSet::new(),
        numbers: HashMap::new(),
        by_home: HashMap::new(),
        embedded: HashMap::new(),
        cuts: cuts(graph, &live),
        files: target.tiers.iter().find(|t| t.files).map_or("nvme", |t| &t.name).to_owned(),
    };
    for input in &graph.inputs {
        // An input of known contents lives in the tasks' code; nobody has to bring it.
        if !matches!(graph.value(*input).content, Content::Known(_)) {
            lowering.tensor(*input, Kind::Input, None)?;
        }
    }
    let mut tasks = Vec::with_capacity(live.len());
    for id in live {
        let op = graph.op(id);
        let made = lowering.view(op)? || lowering.is_cut(op) || lowering.transposed(op)? || lowering.filled(op)?;
        if !made {
            tasks.push((id, lowering.task(op)?));
        }
    }
    lowering.finish(dims, target, tasks)
}

/// Dims that each have one size, as [`lower`] takes them.
pub fn exactly(binding: &Binding) -> BTreeMap<String, DimRange> {
    binding.iter().map(|(dim, size)| (dim.clone(), DimRange { low: *size, high: *size })).collect()
}

/// What is known of dims that only a run knows: ranges that were given, and dims that the data decide.
pub(crate) struct Sizes {
    ranges: Ranges,
    /// Every dim as large as it can be.
    top: Binding,
    /// The operator that makes each dim of the data: the first with such a result.
    maker: HashMap<String, OpId>,
}

impl Sizes {
    pub(crate) fn new(graph: &Graph, dims: &BTreeMap<String, DimRange>) -> Sizes {
        let mut sizes = Sizes {
            ranges: dims.iter().map(|(d, r)| (d.clone(), (r.low, r.high))).collect(),
            top: dims.iter().map(|(d, r)| (d.clone(), r.high)).collect(),
            maker: HashMap::new(),
        };
        // In the order in which they are made, so that each bound is in dims that have one.
        for (dim, bound) in &graph.data_dims {
            if let Some(most) = sizes.most(bound) {
                sizes.ranges.insert(dim.clone(), (0, most));
                sizes.top.insert(dim.clone(), most);
            }
        }
        if graph.data_dims.is_empty() {
            return sizes;
        }
        let of_data: HashSet<&String> = graph.data_dims.iter().map(|(dim, _)| dim).collect();
        for (op, id) in graph.ops.iter().zip((0..).map(OpId)) {
            let shapes = op.outputs.iter().flatten().flat_map(|v| &graph.value(*v).shape);
            for dim in shapes.flat_map(Expr::dims).filter(|dim| of_data.contains(dim)) {
                sizes.maker.entry(dim).or_insert(id);
            }
        }
        sizes
    }

    /// A range that was given for a dim which others decide holds all that these can make it.
    fn check(&self, graph: &Graph, dims: &BTreeMap<String, DimRange>) -> Result<(), LowerError> {
        for (dim, equals) in &graph.relations {
            let Some(said) = dims.get(dim) else { continue };
            let (low, high) = equals.range(&self.ranges).unwrap_or((i128::MIN, i128::MAX));
            if low < i128::from(said.low) || high > i128::from(said.high) {
                let (dim, said, equals) = (dim.clone(), said.to_string(), equals.to_string());
                return Err(LowerError::Contradiction { dim, said, equals, range: format!("{low}..{high}") });
            }
        }
        Ok(())
    }

    /// The most that an expression can be; `None` where nothing bounds it.
    pub(crate) fn most(&self, expr: &Expr) -> Option<u64> {
        let most = expr.as_constant().or_else(|| expr.range(&self.ranges).map(|(_, most)| most));
        most.and_then(|most| u64::try_from(most.max(0)).ok())
    }

    /// The dims of the data on which a value depends.
    fn data_dims<'a>(&'a self, value: &'a Value) -> impl Iterator<Item = String> + 'a {
        let known = match &value.content {
            Content::Known(elements) => elements.as_slice(),
            _ => &[],
        };
        let open = value.shape.iter().chain(known).filter(|e| e.as_constant().is_none());
        open.flat_map(Expr::dims).filter(|dim| self.maker.contains_key(dim))
    }
}

/// Operators whose results somebody needs and that are not known beforehand, in file order. One that makes a dim on which
/// a needed value depends is needed too.
pub(crate) fn live_ops(graph: &Graph, sizes: &Sizes) -> Vec<OpId> {
    let outputs: HashSet<ValueId> = graph.outputs.iter().copied().collect();
    let mut needed = outputs.clone();
    let mut makers: HashSet<OpId> = HashSet::new();
    let mut live = Vec::new();
    for (index, op) in graph.ops.iter().enumerate().rev() {
        let id = OpId(index as u32);
        let mut results = op.outputs.iter().flatten();
        let known = |v: &ValueId| !matches!(graph.value(*v).content, Content::Computed);
        let runs = results.clone().any(|v| outputs.contains(v) || (needed.contains(v) && !known(v)));
        if makers.contains(&id) || (runs && results.any(|v| needed.contains(v))) {
            needed.extend(op.reads());
            if !sizes.maker.is_empty() {
                let values = op.reads().chain(op.outputs.iter().flatten().copied());
                let dims = values.flat_map(|v| sizes.data_dims(graph.value(v)));
                makers.extend(dims.filter_map(|dim| sizes.maker.get(&dim).copied()));
            }
            live.push(id);
        }
    }
    live.reverse();
    live
}

/// Where the bytes of a stored constant come from.
enum Root {
    /// One element, all over.
    Filled(Filled),
    /// These bytes; their transpose, where there is the matrix that they are.
    Stored(Stored, Option<Transposed>),
}

struct Lowering<'a> {
    graph: &'a Graph,
    sizes: Sizes,
    outputs: HashSet<ValueId>,
    read: Read<'a>,
    /// Stored constants that are the same bytes as an earlier one.
    twins: HashMap<Place, Twin>,
    tensors: Vec<Tensor>,
    tensor_of: HashMap<ValueId, TensorId>,
    names: HashSet<String>,
    /// The number to try next for a name that is taken.
    numbers: HashMap<String, u64>,
    /// Weights by where their bytes come from, and how many.
    by_home: HashMap<(Home, u64), TensorId>,
    /// Constants that live in task code.
    embedded: HashMap<ValueId, Bytes>,
    /// Values that are rows or columns of stored matrices.
    cuts: HashMap<ValueId, (ValueId, Cut)>,
    files: String,
}

impl Lowering<'_> {
    /// Size in bytes: exact where every dim is bound, else the most that it can be.
    fn bytes(&self, id: ValueId) -> Result<u64, LowerError> {
        let shape = self.shape(id)?;
        let value = self.graph.value(id);
        if value.dtype == DType::Str {
            return Err(LowerError::Strings { value: value.name.clone() });
        }
        let elements = shape.iter().try_fold(1u64, |n, axis| n.checked_mul(*axis));
        let bytes = elements.and_then(|n| value.dtype.bytes(n)).filter(|b| *b <= i64::MAX as u64);
        bytes.ok_or_else(|| LowerError::TooLarge { value: value.name.clone(), shape: format!("{shape:?}") })
    }

    /// The most that each axis can be.
    fn shape(&self, id: ValueId) -> Result<Vec<u64>, LowerError> {
        let value = self.graph.value(id);
        value.shape.iter().map(|e| self.sizes.most(e).ok_or_else(|| self.unbound(value, e))).collect()
    }

    /// Why a size is no number: nobody bound its dims, or only the data decide them.
    fn unbound(&self, value: &Value, size: &Expr) -> LowerError {
        let dims = size.dims();
        let Some((dim, most)) = self.graph.data_dims.iter().find(|(dim, _)| dims.contains(dim)) else {
            let dims = dims.iter().map(|d| format!("`{d}`")).collect::<Vec<_>>().join(", ");
            return LowerError::Unbound { value: value.name.clone(), size: size.to_string(), dims };
        };
        // The first operator with such a result is the one that made the dim.
        let has = |v: &ValueId| self.graph.value(*v).shape.iter().any(|e| e.dims().contains(dim));
        let made = self.graph.ops.iter().find_map(|op| Some((op, op.outputs.iter().flatten().find(|v| has(v))?)));
        let (op, node, value) = made.map_or(("?", "?", value.name.as_str()), |(op, v)| {
            (op.kind.as_str(), op.name.as_str(), self.graph.value(*v).name.as_str())
        });
        let bound = format!("`{dim}` is at most {most}, `{size}` has no bound");
        LowerError::DataSize { op: op.to_owned(), node: node.to_owned(), value: value.to_owned(), bound }
    }

    fn tensor(&mut self, id: ValueId, kind: Kind, home: Option<Home>) -> Result<TensorId, LowerError> {
        let bytes = self.bytes(id)?;
        let value = self.graph.value(id);
        let name = self.fresh_name(&value.name);
        self.tensors.push(Tensor {
            name,
            kind,
            dtype: value.dtype,
            extent: Expr::constant(bytes),
            bytes,
            home,
            aliases: Vec::new(),
        });
        let tensor = TensorId(self.tensors.len() as u32 - 1);
        self.tensor_of.insert(id, tensor);
        Ok(tensor)
    }

    /// A name that programs accept: without `~`, ` + ` and control characters, not empty, not taken.
    fn fresh_name(&mut self, name: &str) -> String {
        let clean: String = name.chars().map(|c| if c == '~' || c.is_control() { '-' } else { c }).collect();
        let mut clean = clean.replace(" + ", "+");
        if clean.is_empty() {
            clean.push('_');
        }
        let mut fresh = clean.clone();
        // Ends: each round takes a number that was not tried, and taken names are fewer.
        while !self.names.insert(fresh.clone()) {
            let n = self.numbers.entry(clean.clone()).or_insert(1);
            *n += 1;
            fresh = format!("{clean}.{n}");
        }
        fresh
    }

    /// What an operator reads: a tensor, or nothing where the constant lives in the task's code.
    fn operand(&mut self, id: ValueId) -> Result<Option<TensorId>, LowerError> {
        if let Some(tensor) = self.tensor_of.get(&id) {
            return Ok(Some(*tensor));
        }
        let value = self.graph.value(id);
        match &value.content {
            Content::Known(_) => Ok(None),
            Content::Inline(bytes) if bytes.len() <= INLINE_BYTES_MAX => Ok(None),
            Content::Inline(bytes) => Err(LowerError::InlineTooLarge { value: value.name.clone(), bytes: bytes.len() }),
            Content::Stored(stored) => self.weight(id, stored.clone()),
            Content::Computed if self.embedded.contains_key(&id) => Ok(None),
            Content::Computed => match self.cuts.get(&id).copied() {
                Some((source, cut)) => self.part(id, source, cut, false).map(Some),
                None => self.tensor(id, Kind::Activation, None).map(Some),
            },
        }
    }

    fn weight(&mut self, id: ValueId, stored: Stored) -> Result<Option<TensorId>, LowerError> {
        if self.embedded.contains_key(&id) {
            return Ok(None);
        }
        if stored.bytes <= EMBEDDED_BYTES_MAX
            && let Some(bytes) = (self.read)(&stored, 0, stored.bytes)
        {
            self.embedded.insert(id, bytes);
            return Ok(None);
        }
        self.homed(id, stored, None).map(Some)
    }

    /// Where the bytes of a stored constant come from.
    fn root(&self, stored: &Stored) -> Root {
        let (mut stored, mut turned) = (stored.clone(), None);
        // One that equals another, which may be the transpose of a third.
        for _ in 0..2 {
            match self.twins.get(&place(&stored)) {
                None => break,
                Some(Twin::Filled(filled)) => return Root::Filled(*filled),
                Some(Twin::Equal(of)) => stored = of.clone(),
                // The transpose of a transpose is as the first is stored.
                Some(Twin::Turned(of, matrix)) => {
                    turned = if turned.is_some() { None } else { Some(*matrix) };
                    stored = of.clone();
                }
            }
        }
        Root::Stored(stored, turned)
    }

    /// The weight that is these bytes of a file, or their transpose; two values of the same bytes are one tensor.
    fn homed(&mut self, id: ValueId, stored: Stored, transposed: Option<Transposed>) -> Result<TensorId, LowerError> {
        let (of, transposed) = match self.root(&stored) {
            Root::Filled(filled) => return self.filled_with(id, filled, stored.bytes),
            Root::Stored(of, None) => (of, transposed),
            Root::Stored(of, turned) => (of, if transposed.is_some() { None } else { turned }),
        };
        let tier = self.files.clone();
        let home = Home { tier, file: of.file, offset: of.offset, transposed, strip: None, filled: None };
        self.weight_of(id, home, stored.bytes)
    }

    /// The weight that is some rows or columns of a stored matrix, or their transpose.
    fn part(&mut self, id: ValueId, source: ValueId, cut: Cut, transposed: bool) -> Result<TensorId, LowerError> {
        let bytes = self.bytes(id)?;
        let (Content::Stored(stored), Some(matrix)) =
            (&self.graph.value(source).content, Matrix::of(self.graph, source))
        else {
            return self.tensor(id, Kind::Activation, None);
        };
        let (of, turned) = match self.root(stored) {
            Root::Filled(filled) => return self.filled_with(id, filled, bytes),
            Root::Stored(of, turned) => (of, turned.is_some()),
        };
        // What the file holds, and what of it.
        let (matrix, cut) = match turned {
            false => (matrix, cut),
            true => (matrix.transpose(), Cut { axis: 1 - cut.axis, ..cut }),
        };
        let part = matrix.part(cut);
        let transposed = (transposed != turned).then_some(part.turned);
        let (tier, offset) = (self.files.clone(), of.offset + part.offset);
        let home = Home { tier, file: of.file, offset, transposed, strip: part.strip, filled: None };
        self.weight_of(id, home, bytes)
    }

    fn weight_of(&mut self, id: ValueId, home: Home, bytes: u64) -> Result<TensorId, LowerError> {
        let place = (home.clone(), bytes);
        if let Some(tensor) = self.by_home.get(&place).copied() {
            self.tensor_of.insert(id, tensor);
            return Ok(tensor);
        }
        let tensor = self.tensor(id, Kind::Weight, Some(home))?;
        self.by_home.insert(place, tensor);
        Ok(tensor)
    }

    /// Makes the result of a ConstantOfShape a weight that no file holds: some exporters write most weights so. Says
    /// whether the operator was one.
    fn filled(&mut self, op: &Op) -> Result<bool, LowerError> {
        let Some(Some(result)) = op.outputs.first() else { return Ok(false) };
        let value = self.graph.value(*result);
        let standard = matches!(op.domain.as_str(), "" | "ai.onnx") && op.kind == "ConstantOfShape";
        let element = value.dtype.bits().map(|bits| bits / 8).filter(|bytes| matches!(bytes, 1 | 2 | 4 | 8));
        let fixed = value.shape.iter().all(|axis| axis.as_constant().is_some());
        let (true, true, Some(element)) = (standard && !self.outputs.contains(result), fixed, element) else {
            return Ok(false);
        };
        let Some(bits) = constant_of_shape(op, element as usize) else { return Ok(false) };
        let bytes = self.bytes(*result)?;
        if bytes <= EMBEDDED_BYTES_MAX {
            let element = &bits.to_le_bytes()[..element as usize];
            self.embedded.insert(*result, element.repeat((bytes / element.len() as u64) as usize).into());
            return Ok(true);
        }
        self.filled_with(*result, Filled { element, bits }, bytes)?;
        Ok(true)
    }

    /// Whether an operator takes rows or columns of a stored matrix: who reads them reads a weight.
    fn is_cut(&self, op: &Op) -> bool {
        op.outputs.first().copied().flatten().is_some_and(|result| self.cuts.contains_key(&result))
    }

    /// The weight that is this element all over.
    fn filled_with(&mut self, id: ValueId, filled: Filled, bytes: u64) -> Result<TensorId, LowerError> {
        let (tier, file) = (self.files.clone(), String::new());
        self.weight_of(id, Home { tier, file, offset: 0, transposed: None, strip: None, filled: Some(filled) }, bytes)
    }

    /// Makes the transpose of a stored matrix a weight of its own, transposed while it is read: exporters that did not
    /// have the values leave it to every run, with the matrix twice in memory. Says whether the operator was one.
    fn transposed(&mut self, op: &Op) -> Result<bool, LowerError> {
        let (Some(Some(source)), Some(Some(result))) = (op.inputs.first(), op.outputs.first()) else {
            return Ok(false);
        };
        let standard = matches!(op.domain.as_str(), "" | "ai.onnx") && op.kind == "Transpose";
        if !standard || self.outputs.contains(result) {
            return Ok(false);
        }
        let swaps = |a: &(String, Attribute)| a.0 != "perm" || a.1 == Attribute::Ints(vec![1, 0]);
        if !op.attributes.iter().all(swaps) {
            return Ok(false);
        }
        if let Some((matrix, cut)) = self.cuts.get(source).copied() {
            self.part(*result, matrix, cut, true)?;
            return Ok(true);
        }
        let value = self.graph.value(*source);
        let element = value.dtype.bits().map(|bits| bits / 8).filter(|bytes| matches!(bytes, 1 | 2 | 4 | 8));
        let (Content::Stored(stored), Some(element)) = (&value.content, element) else { return Ok(false) };
        let shape = self.shape(*source)?;
        let [rows, columns] = shape[..] else { return Ok(false) };
        if stored.bytes <= EMBEDDED_BYTES_MAX {
            return Ok(false);
        }
        self.homed(*result, stored.clone(), Some(Transposed { rows, columns, element }))?;
        Ok(true)
    }

    /// Makes the result of a view the tensor that it views; says whether it could.
    ///
    /// An output needs a tensor of its own: a view of an input, a weight or another output is computed.
    fn view(&mut self, op: &Op) -> Result<bool, LowerError> {
        let views = row_of(&op.domain, &op.kind).is_some_and(|row| row.view);
        let (Some(Some(source)), Some(Some(result))) = (op.inputs.first(), op.outputs.first()) else {
            return Ok(false);
        };
        if !views || self.graph.value(*source).dtype != self.graph.value(*result).dtype {
            return Ok(false);
        }
        let Some(tensor) = self.operand(*source)? else { return Ok(false) };
        let is_output = self.outputs.contains(result);
        if is_output && self.tensors[tensor.index()].kind != Kind::Activation {
            return Ok(false);
        }
        if is_output {
            self.tensors[tensor.index()].kind = Kind::Output;
        }
        self.tensor_of.insert(*result, tensor);
        self.tensors[tensor.index()].aliases.push(self.graph.value(*result).name.clone());
        Ok(true)
    }

    fn task(&mut self, op: &Op) -> Result<Task, LowerError> {
        let mut reads = Vec::new();
        // What an operator's graphs capture is read as its operands are: it has to be there while the task runs.
        let mut seen = HashSet::new();
        for input in op.reads() {
            if let Some(tensor) = self.operand(input)?
                && seen.insert(tensor)
            {
                reads.push(tensor);
            }
        }
        let mut writes = Vec::new();
        for output in op.outputs.iter().flatten() {
            let kind = if self.outputs.contains(output) { Kind::Output } else { Kind::Activation };
            writes.push(self.tensor(*output, kind, None)?);
        }
        let (name, ops) = (op.name.clone(), vec![op.name.clone()]);
        let row = row_of(&op.domain, &op.kind);
        let tensor = |n: usize| op.inputs.get(n).copied().flatten().and_then(|v| self.tensor_of.get(&v).copied());
        // An operand that it reads twice it reads whole the other time.
        let once = |t: &TensorId| op.reads().filter(|v| self.tensor_of.get(v) == Some(t)).count() == 1;
        let rows = row.and_then(|row| tensor(usize::from(row.rows_of?))).filter(once).into_iter().collect();
        let in_place = match (row.is_some_and(|row| row.in_place), writes.first()) {
            (true, Some(written)) => self.rights(op, *written),
            _ => Vec::new(),
        };
        Ok(Task {
            name,
            ops,
            reads,
            writes,
            rows,
            in_place,
            workspace: 0,
            cost: Default::default(),
            others: Vec::new(),
            held: None,
        })
    }

    /// What an operator that may compute in place may write over: operands of the result's type and shape.
    fn rights(&self, op: &Op, written: TensorId) -> Vec<(TensorId, TensorId)> {
        let Some(Some(result)) = op.outputs.first() else { return Vec::new() };
        let result = self.graph.value(*result);
        let alike = |v: &ValueId| {
            let value = self.graph.value(*v);
            value.dtype == result.dtype && value.shape == result.shape
        };
        let mut rights: Vec<(TensorId, TensorId)> = Vec::new();
        for tensor in op.inputs.iter().flatten().filter(|v| alike(v)).filter_map(|v| self.tensor_of.get(v)) {
            // Nobody writes over a weight or what the caller gave.
            let may = self.tensors[tensor.index()].kind == Kind::Activation && !rights.contains(&(*tensor, written));
            rights.extend(may.then_some((*tensor, written)));
        }
        rights
    }

    fn finish(
        mut self,
        dims: &BTreeMap<String, DimRange>,
        target: &Target,
        tasks: Vec<(OpId, Task)>,
    ) -> Result<Lowered, LowerError> {
        let mut hash = Sha256::new();
        let mut codes = Vec::with_capacity(tasks.len());
        let mut lifetimes = Lifetimes {
            model: String::new(),
            dims: dims.clone(),
            tensors: Vec::new(),
            tasks: Vec::with_capacity(tasks.len()),
        };
        for (id, mut task) in tasks {
            let code = self.code(id)?;
            let op = self.graph.op(id);
            hash.update(&code.model);
            for port in code.inputs.iter().chain(&code.outputs) {
                if port.is_open() {
                    hash.update(format!("{:?} {:?}\n", port.shape, port.source));
                }
                if let Source::Tensor(tensor) = port.source {
                    let t = &self.tensors[tensor.index()];
                    hash.update(format!("{:?} {:?} {} {:?}\n", t.name, t.kind, t.bytes, t.home));
                }
            }
            let flops = self.sizes.most(&op.work.flops).unwrap_or(u64::MAX);
            // Of what it reads by rows it touches as much as it writes.
            let whole = task.operands().filter(|t| !task.rows.contains(t));
            let rows = task.rows.iter().flat_map(|_| task.writes.iter().copied());
            let bytes = whole.chain(rows).map(|t| self.tensors[t.index()].bytes).fold(0, u64::saturating_add);
            let dtype = code.inputs.first().or(code.outputs.first()).map_or(DType::F32, |p| p.dtype);
            let inside = self.sizes.most(&op.work.inside_bytes).unwrap_or(u64::MAX);
            // The engine makes a result whose size it finds in a block of its own.
            let found = code.outputs.iter().filter(|port| port.found);
            let found = found.filter_map(|p| p.dtype.bytes(p.most.iter().product())?.checked_next_multiple_of(64));
            let inside = found.fold(inside, u64::saturating_add);
            let (operands, results) = (self.described(&op.inputs)?, self.described(&op.outputs)?);
            let mut costs = target.engines.iter().map(|engine| Other {
                engine: engine.name.clone(),
                workspace: cost::workspace(engine, &op.kind, &operands, &results).saturating_add(inside),
                cost: cost::estimate(target, engine, flops, bytes, dtype),
            });
            task.workspace = inside;
            if let Some(first) = costs.next() {
                (task.cost, task.workspace) = (first.cost, first.workspace);
            }
            task.others = costs.collect();
            lifetimes.tasks.push(task);
            codes.push(code);
        }
        lifetimes.model = hex(&hash.finalize()[..8]);
        let inputs = self.graph.inputs.iter().map(|v| self.boundary(*v)).collect::<Result<_, _>>()?;
        let outputs = self.graph.outputs.iter().map(|v| self.boundary(*v)).collect::<Result<_, _>>()?;
        lifetimes.tensors = std::mem::take(&mut self.tensors);
        Ok(Lowered {
            facts: facts(&lifetimes),
            lifetimes,
            codes,
            inputs,
            outputs,
            split: None,
            recompute: Vec::new(),
            states: Vec::new(),
            growth: BTreeMap::new(),
            embedded: self.embedded,
        })
    }

    /// Type and shape of each operand; nothing for absent ones.
    fn described(&self, values: &[Option<ValueId>]) -> Result<Vec<(DType, Vec<u64>)>, LowerError> {
        let one = |v: &Option<ValueId>| match v {
            Some(id) => Ok((self.graph.value(*id).dtype, self.shape(*id)?)),
            None => Ok((DType::U8, vec![0])),
        };
        values.iter().map(one).collect()
    }

    fn boundary(&self, id: ValueId) -> Result<Boundary, LowerError> {
        let value = self.graph.value(id);
        let tensor = self.tensor_of.get(&id).map(|t| self.tensors[t.index()].name.clone());
        let (name, shape) = (value.name.clone(), value.shape.clone());
        Ok(Boundary { name, tensor, dtype: value.dtype, shape, most: self.shape(id)? })
    }

    fn code(&self, id: OpId) -> Result<Code, LowerError> {
        let op = self.graph.op(id);
        let embed = |value| self.embedded.get(&value).cloned();
        let model = task_model_for(self.graph, &[id], &Outside { embed: &embed, kept: &|_| None, goes_out: &|_| true })
            .map_err(|problem| LowerError::Code { op: op.name.clone(), problem })?;
        let port = |v: &ValueId| {
            let value = self.graph.value(*v);
            let made = |dim: String| self.sizes.maker.get(&dim) == Some(&id);
            let found = value.shape.iter().flat_map(Expr::dims).any(made);
            let source = match (self.tensor_of.get(v), &value.content) {
                (None, Content::Known(elements)) => {
                    Source::Known { elements: elements.clone(), most: self.known_most(value, elements)? }
                }
                (tensor, _) => Source::Tensor(tensor.copied().unwrap_or(TensorId(u32::MAX))),
            };
            Ok(Port { value: *v, source, dtype: value.dtype, shape: value.shape.clone(), most: self.shape(*v)?, found })
        };
        let inputs: Vec<Port> = model.inputs.iter().map(port).collect::<Result<_, _>>()?;
        let outputs: Vec<Port> = model.outputs.iter().map(port).collect::<Result<_, _>>()?;
        let bodies = op.domain.is_empty() && matches!(op.kind.as_str(), "If" | "Loop" | "Scan");
        let data = inputs.iter().chain(&outputs).any(|p| p.shape.iter().flat_map(Expr::dims).any(|d| self.of_data(&d)));
        let varies = bodies || data;
        Ok(Code { inputs, outputs, model: model.model, varies, kept: Vec::new() })
    }

    fn of_data(&self, dim: &str) -> bool {
        self.sizes.maker.contains_key(dim)
    }

    /// The contents of a value that follows from dims, where each is as large as it can be.
    fn known_most(&self, value: &Value, elements: &[Expr]) -> Result<Bytes, LowerError> {
        let top = |e: &Expr| e.eval(&self.sizes.top).map(Expr::constant).map_err(|_| self.unbound(value, e));
        let elements = elements.iter().map(top).collect::<Result<Vec<Expr>, _>>()?;
        let constant = Value { content: Content::Known(elements), ..value.clone() };
        known_bytes(&constant).map_err(|problem| LowerError::Code { op: value.name.clone(), problem })
    }
}

/// The bits of the element that a ConstantOfShape repeats: zero where it does not say.
fn constant_of_shape(op: &Op, element: usize) -> Option<u64> {
    let Some((_, attribute)) = op.attributes.iter().find(|(name, _)| name == "value") else { return Some(0) };
    let bytes = tensor_bytes(attribute)?;
    let mut bits = [0; 8];
    bits[..element].copy_from_slice(bytes.get(..element).filter(|_| bytes.len() == element)?);
    Some(u64::from_le_bytes(bits))
}

/// What a program is checked against.
pub(crate) fn facts(lifetimes: &Lifetimes) -> ModelFacts {
    let fact = |t: &Tensor| TensorFact { kind: t.kind, dtype: t.dtype, bytes: t.extent.clone(), home: t.home.clone() };
    let name = |t: &TensorId| lifetimes.tensor(*t).name.clone();
    let op = |t: &Task| OpFact {
        name: t.name.clone(),
        reads: t.reads.iter().map(name).collect(),
        writes: t.writes.iter().map(name).collect(),
    };
    ModelFacts {
        hash: lifetimes.model.clone(),
        tensors: lifetimes.tensors.iter().map(|t| (t.name.clone(), fact(t))).collect::<BTreeMap<_, _>>(),
        ops: lifetimes.tasks.iter().map(op).collect(),
    }
}
