//! What a graph holds and moves, as lowering will see it: which values are one tensor, where each is used, the load.

use super::form::{Form, form};
use crate::import::ops::row_of;
use crate::lower::{EMBEDDED_BYTES_MAX, Sizes, live_ops};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Content, Graph, Op, OpId, Value, ValueId};
use berth_ir::program::DimRange;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A graph with what rules and their judge ask of it.
pub(super) struct Facts<'a> {
    pub graph: &'a Graph,
    sizes: Sizes,
    /// What each operator is to the rules; `None` for those that nobody needs and those that rules leave alone.
    pub forms: Vec<Option<Form>>,
    /// Whether an operator runs.
    pub live: Vec<bool>,
    /// The operator that makes a value.
    pub producer: Vec<Option<u32>>,
    /// The live operators that read a value, in order, each once.
    pub readers: Vec<Vec<u32>>,
    /// Values that come out of the model.
    pub outputs: HashSet<ValueId>,
    inputs: HashSet<ValueId>,
    /// The first value that is the same tensor.
    root: Vec<ValueId>,
    /// The first value that is known to have the same elements.
    pub same: Vec<u32>,
    /// Operators of which an earlier one does the same, with that one.
    pub twins: Vec<(u32, u32)>,
    /// Bytes alive while each operator runs.
    load: Vec<u64>,
    /// The most of them.
    peak: u64,
}

/// What some operators cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Weight {
    /// Bytes that tasks read and write.
    pub moved: u128,
    /// Tasks.
    pub tasks: usize,
    /// Bytes, first and last position of each tensor that they touch, weights left out.
    spans: Vec<(u64, u32, u32)>,
}

/// How a value is held.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Held {
    /// In the task's code.
    Nowhere,
    Weight,
    Input,
    Made,
}

/// A tensor while operators are weighed.
struct Tensor {
    bytes: u64,
    held: Held,
    output: bool,
    span: Option<(u32, u32)>,
}

impl Tensor {
    fn use_at(&mut self, at: u32) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
    }
}

impl<'a> Facts<'a> {
    pub fn new(graph: &'a Graph, dims: &BTreeMap<String, DimRange>) -> Facts<'a> {
        let sizes = Sizes::new(graph, dims);
        let mut live = vec![false; graph.ops.len()];
        live_ops(graph, &sizes).iter().for_each(|id| live[id.0 as usize] = true);
        let data: HashSet<&str> = graph.data_dims.iter().map(|(dim, _)| dim.as_str()).collect();
        // What the data decide stays where it is: a task that finds a size runs before those that need it.
        let closed = |value: &Value| {
            let open = value.shape.iter().any(|e| e.is_overflow() || e.dims().iter().any(|d| data.contains(d.as_str())));
            let fixed = data.is_empty() && value.shape.iter().all(|e| e.as_constant().is_some());
            value.dtype != DType::Str && (fixed || !open)
        };
        let forms = graph.ops.iter().enumerate().map(|(n, op)| {
            let own = |id: &ValueId| matches!(graph.value(*id).content, Content::Computed);
            let all = || op.outputs.iter().flatten().chain(op.inputs.iter().flatten());
            let fit = live[n] && op.outputs.iter().flatten().all(own) && all().all(|id| closed(graph.value(*id)));
            if fit { form(graph, op) } else { None }
        });
        let forms: Vec<Option<Form>> = forms.collect();
        let mut producer = vec![None; graph.values.len()];
        let mut readers: Vec<Vec<u32>> = vec![Vec::new(); graph.values.len()];
        let mut root: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
        for (n, op) in graph.ops.iter().enumerate() {
            for output in op.outputs.iter().flatten() {
                producer[output.0 as usize] = Some(n as u32);
            }
            if live[n] {
                for read in op.reads() {
                    if readers[read.0 as usize].last() != Some(&(n as u32)) {
                        readers[read.0 as usize].push(n as u32);
                    }
                }
                if let Some((source, result)) = view(graph, op) {
                    root[result.0 as usize] = root[source.0 as usize];
                }
            }
        }
        let (outputs, inputs) = (graph.outputs.iter().copied().collect(), graph.inputs.iter().copied().collect());
        let (same, twins) = twins(graph, &forms);
        let mut facts = Facts {
            graph,
            sizes,
            forms,
            live,
            producer,
            readers,
            outputs,
            inputs,
            root,
            same,
            twins,
            load: Vec::new(),
            peak: 0,
        };
        facts.weigh_all();
        facts
    }

    /// The most bytes that a value of this type can have.
    pub fn bytes(&self, dtype: DType, shape: &[Expr]) -> u64 {
        let axes = shape.iter().map(|axis| self.sizes.most(axis).unwrap_or(u64::MAX));
        dtype.bytes(axes.fold(1, u64::saturating_mul)).unwrap_or(u64::MAX)
    }

    fn held(&self, id: ValueId) -> Held {
        // What is made anew comes with what makes it, but for shapes and places, which are known.
        let Some(value) = self.graph.values.get(id.0 as usize) else { return Held::Nowhere };
        match &value.content {
            Content::Known(_) | Content::Inline(_) => Held::Nowhere,
            Content::Stored(stored) if stored.bytes <= EMBEDDED_BYTES_MAX => Held::Nowhere,
            Content::Stored(_) => Held::Weight,
            Content::Computed if self.inputs.contains(&id) => Held::Input,
            Content::Computed => Held::Made,
        }
    }

    /// Whether a value is computed, and no result of the model yet.
    pub fn is_made(&self, id: ValueId) -> bool {
        self.held(id) == Held::Made && !self.outputs.contains(&id)
    }

    /// Whether a value is a matrix in a file, which can be read transposed.
    pub fn is_matrix(&self, id: ValueId) -> bool {
        self.held(id) == Held::Weight && self.graph.value(id).shape.len() == 2
    }

    /// Whether lowering makes the result of an operator a weight: the transpose of a stored matrix, one element all over.
    fn is_weight(&self, op: &Op) -> bool {
        let stored = |id: ValueId| {
            let value = self.graph.values.get(id.0 as usize);
            value.is_some_and(|v| matches!(v.content, Content::Stored(_)) && v.shape.len() == 2)
        };
        match (op.kind.as_str(), op.inputs.first()) {
            _ if op.outputs.iter().flatten().any(|v| self.outputs.contains(v)) => false,
            ("Transpose", Some(Some(from))) => stored(*from),
            ("ConstantOfShape", _) => true,
            _ => false,
        }
    }

    /// What these operators cost at these positions, in this order, with what the rest of the graph does with their
    /// operands and results. `inside` are the operators of the graph that they stand for; `types` says what is no value
    /// of the graph.
    pub fn weigh<'o>(
        &self,
        ops: impl Iterator<Item = (u32, &'o Op)>,
        inside: &BTreeSet<u32>,
        types: &dyn Fn(ValueId) -> (DType, Vec<Expr>),
    ) -> Weight {
        let mut weight = Weight::default();
        let mut tensors: Vec<Tensor> = Vec::new();
        let mut of: HashMap<ValueId, usize> = HashMap::new();
        let size = |id: ValueId| match self.graph.values.get(id.0 as usize) {
            Some(value) => self.bytes(value.dtype, &value.shape),
            None => {
                let (dtype, shape) = types(id);
                self.bytes(dtype, &shape)
            }
        };
        for (at, op) in ops {
            let mut operands: Vec<usize> = Vec::new();
            for read in op.reads() {
                let tensor = match of.get(&read) {
                    Some(tensor) => *tensor,
                    None => {
                        // A value from outside of these operators, with all that views it there.
                        let root = self.root.get(read.0 as usize).copied().unwrap_or(read);
                        let tensor = *of.entry(root).or_insert_with(|| {
                            let mut tensor =
                                Tensor { bytes: size(root), held: self.held(root), output: false, span: None };
                            if let (Held::Made, Some(made)) = (tensor.held, self.producer.get(root.0 as usize).copied().flatten()) {
                                tensor.use_at(made);
                                if self.is_weight(&self.graph.ops[made as usize]) {
                                    tensor.held = Held::Weight;
                                }
                            }
                            self.use_outside(&mut tensor, root, inside);
                            tensors.push(tensor);
                            tensors.len() - 1
                        });
                        of.insert(read, tensor);
                        tensor
                    }
                };
                if !operands.contains(&tensor) {
                    operands.push(tensor);
                }
            }
            let viewed = is_view(op) && {
                let result = op.outputs[0].is_some_and(|v| self.outputs.contains(&v));
                let tensor = &tensors[operands[0]];
                tensor.held != Held::Nowhere && (!result || (tensor.held == Held::Made && !tensor.output))
            };
            if viewed {
                let result = op.outputs[0].unwrap_or(ValueId(0));
                let tensor = &mut tensors[operands[0]];
                tensor.output |= self.outputs.contains(&result);
                self.use_outside(tensor, result, inside);
                of.insert(result, operands[0]);
                continue;
            }
            let held = if self.is_weight(op) { Held::Weight } else { Held::Made };
            if held == Held::Made {
                weight.tasks += 1;
                for n in operands.into_iter().filter(|n| tensors[*n].held != Held::Nowhere).collect::<Vec<_>>() {
                    weight.moved += u128::from(tensors[n].bytes);
                    tensors[n].use_at(at);
                }
            }
            for result in op.outputs.iter().flatten() {
                let output = self.outputs.contains(result);
                let mut tensor = Tensor { bytes: size(*result), held, output, span: None };
                if held == Held::Made {
                    weight.moved += u128::from(tensor.bytes);
                    tensor.use_at(at);
                }
                self.use_outside(&mut tensor, *result, inside);
                of.insert(*result, tensors.len());
                tensors.push(tensor);
            }
        }
        let counted = tensors.iter().filter(|t| matches!(t.held, Held::Input | Held::Made));
        weight.spans = counted.filter_map(|t| t.span.map(|(first, last)| (t.bytes, first, last))).collect();
        weight
    }

    /// Adds the uses of a value by the rest of the graph, through what views it there.
    fn use_outside(&self, tensor: &mut Tensor, value: ValueId, inside: &BTreeSet<u32>) {
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            for reader in self.readers.get(value.0 as usize).into_iter().flatten().filter(|r| !inside.contains(r)) {
                match view(self.graph, &self.graph.ops[*reader as usize]) {
                    Some((source, result)) if source == value => open.push(result),
                    _ => tensor.use_at(*reader),
                }
            }
        }
    }

    /// The load of the whole graph.
    fn weigh_all(&mut self) {
        let live = |(n, _): &(usize, &Op)| self.live[*n];
        let ops = self.graph.ops.iter().enumerate().filter(live).map(|(n, op)| (n as u32, op));
        let all: BTreeSet<u32> = (0..self.graph.ops.len() as u32).collect();
        let weight = self.weigh(ops, &all, &|_| (DType::U8, Vec::new()));
        let mut change = vec![0i128; self.graph.ops.len() + 1];
        for (bytes, first, last) in weight.spans {
            change[first as usize] += i128::from(bytes);
            change[last as usize + 1] -= i128::from(bytes);
        }
        let mut alive = 0;
        let load = change[..self.graph.ops.len()].iter().map(|by| {
            alive += by;
            u64::try_from(alive).unwrap_or(u64::MAX)
        });
        self.load = load.collect();
        self.peak = self.load.iter().copied().max().unwrap_or(0);
    }

    /// Positions at which the load may change when one set of operators takes the place of another.
    fn interval(before: &Weight, after: &Weight) -> Option<(u32, u32)> {
        let spans = || before.spans.iter().chain(&after.spans);
        Some((spans().map(|s| s.1).min()?, spans().map(|s| s.2).max()?))
    }

    /// The most that is alive anywhere near, before and after; how many positions were looked at.
    fn peaks(&self, before: &Weight, after: &Weight) -> (u64, u64, usize) {
        let Some((low, high)) = Self::interval(before, after) else { return (0, 0, 0) };
        let length = (high - low + 1) as usize;
        let mut change = vec![0i128; length + 1];
        for (sign, spans) in [(-1, &before.spans), (1, &after.spans)] {
            for (bytes, first, last) in spans {
                change[(first - low) as usize] += sign * i128::from(*bytes);
                change[(last - low) as usize + 1] -= sign * i128::from(*bytes);
            }
        }
        let (mut by, mut most) = (0i128, (0, 0));
        for (load, change) in self.load[low as usize..=high as usize].iter().zip(&change) {
            by += change;
            let after = u64::try_from(i128::from(*load) + by).unwrap_or(if by < 0 { 0 } else { u64::MAX });
            most = (most.0.max(*load), most.1.max(after));
        }
        (most.0, most.1, length)
    }

    /// Whether one set of operators is cheaper than another that it can stand for: fewer bytes are moved or fewer are
    /// alive where most are, and neither grows. Counts the positions that it looks at.
    pub fn is_cheaper(&self, after: &Weight, before: &Weight, looked: &mut usize) -> bool {
        if after.moved > before.moved {
            return false;
        }
        let (was, is, length) = self.peaks(before, after);
        *looked += length;
        is <= self.peak && (after.moved < before.moved || (was == self.peak && is < was))
    }

    /// Makes the load that of the graph with one set of operators in place of another.
    pub fn put(&mut self, after: &Weight, before: &Weight) {
        for (add, spans) in [(true, &after.spans), (false, &before.spans)] {
            for (bytes, first, last) in spans {
                for load in &mut self.load[*first as usize..=*last as usize] {
                    *load = if add { load.saturating_add(*bytes) } else { load.saturating_sub(*bytes) };
                }
            }
        }
    }
}

fn is_view(op: &Op) -> bool {
    row_of(&op.domain, &op.kind).is_some_and(|row| row.view)
}

/// What a view views, and its result; nothing for other operators.
fn view(graph: &Graph, op: &Op) -> Option<(ValueId, ValueId)> {
    let (source, result) = ((*op.inputs.first()?)?, (*op.outputs.first()?)?);
    let alike = graph.value(source).dtype == graph.value(result).dtype;
    (alike && is_view(op)).then_some((source, result))
}

/// For each value the first that is known to have the same elements; operators that do what an earlier one does.
fn twins(graph: &Graph, forms: &[Option<Form>]) -> (Vec<u32>, Vec<(u32, u32)>) {
    let mut same: Vec<u32> = (0..graph.values.len() as u32).collect();
    let mut known: HashMap<(DType, &[Expr], &[Expr]), u32> = HashMap::new();
    let mut stored = HashMap::new();
    for (n, value) in graph.values.iter().enumerate() {
        match &value.content {
            Content::Known(elements) => {
                same[n] = *known.entry((value.dtype, &value.shape, elements)).or_insert(n as u32);
            }
            Content::Stored(s) => {
                same[n] = *stored.entry((value.dtype, &value.shape, &s.path, s.offset)).or_insert(n as u32);
            }
            Content::Inline(_) | Content::Computed => {}
        }
    }
    let mut seen: HashMap<(&str, &str, Vec<Option<u32>>), Vec<u32>> = HashMap::new();
    let mut twins = Vec::new();
    for (n, op) in graph.ops.iter().enumerate() {
        let Some(form) = &forms[n] else { continue };
        if let (Form::Same(from), Some(Some(result))) = (form, op.outputs.first()) {
            if let Some(Some(source)) = op.inputs.get(*from) {
                same[result.0 as usize] = same[source.0 as usize];
            }
            continue;
        }
        let operands = op.inputs.iter().map(|id| id.map(|id| same[id.0 as usize])).collect();
        let earlier = seen.entry((op.domain.as_str(), op.kind.as_str(), operands)).or_default();
        let alike = |other: &Op| {
            let typed = |op: &'_ Op| op.outputs.iter().flatten().map(|v| graph.value(*v)).collect::<Vec<_>>();
            let (a, b) = (typed(op), typed(other));
            let types = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.dtype == b.dtype && a.shape == b.shape);
            types && op.attributes == other.attributes && op.outputs.len() == other.outputs.len()
        };
        match earlier.iter().find(|other| alike(&graph.ops[**other as usize])) {
            Some(first) => {
                let firsts = graph.op(OpId(*first)).outputs.iter();
                for (a, b) in op.outputs.iter().zip(firsts).filter_map(|(a, b)| a.zip(*b)) {
                    same[a.0 as usize] = same[b.0 as usize];
                }
                twins.push((n as u32, *first));
            }
            // So many unlike operators on equal operands are not compared one with another.
            None if earlier.len() < 16 => earlier.push(n as u32),
            None => {}
        }
    }
    (same, twins)
}
