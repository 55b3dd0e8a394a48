//! What a graph holds and moves, as lowering will see it: which values are one tensor, where each is used, the load.

use super::form::{Form, form};
use crate::import::ops::row_of;
use crate::lower::{EMBEDDED_BYTES_MAX, Sizes, live_ops};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Content, Graph, Op, OpId, Value, ValueId};
use berth_ir::program::DimRange;
use std::collections::{BTreeMap, HashMap, HashSet};

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
    pub root: Vec<ValueId>,
    /// The first value that is known to have the same elements.
    pub same: Vec<u32>,
    /// Operators of which an earlier one does the same, with that one.
    pub twins: Vec<(u32, u32)>,
    /// Bytes alive while each operator runs.
    pub load: Vec<u64>,
    /// The most of them.
    pub peak: u64,
    /// The most that one task holds.
    pub largest: u128,
}

/// How a value is held.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Held {
    /// In the task's code.
    Nowhere,
    Weight,
    Input,
    Made,
}

impl<'a> Facts<'a> {
    pub fn new(graph: &'a Graph, dims: &BTreeMap<String, DimRange>) -> Facts<'a> {
        let sizes = Sizes::new(graph, dims);
        let mut live = vec![false; graph.ops.len()];
        live_ops(graph, &sizes).iter().for_each(|id| live[id.0 as usize] = true);
        let data: HashSet<&str> = graph.data_dims.iter().map(|(dim, _)| dim.as_str()).collect();
        // What the data decide stays where it is: a task that finds a size runs before those that need it.
        let closed = |value: &Value| {
            let open =
                value.shape.iter().any(|e| e.is_overflow() || e.dims().iter().any(|d| data.contains(d.as_str())));
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
            largest: 0,
        };
        facts.weigh_all();
        facts
    }

    /// The most bytes that a value of this type can have.
    pub fn bytes(&self, dtype: DType, shape: &[Expr]) -> u64 {
        let axes = shape.iter().map(|axis| self.sizes.most(axis).unwrap_or(u64::MAX));
        dtype.bytes(axes.fold(1, u64::saturating_mul)).unwrap_or(u64::MAX)
    }

    pub fn held(&self, id: ValueId) -> Held {
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
    pub fn is_weight(&self, op: &Op) -> bool {
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
}

/// Whether an operator is a view where its result has its operand's type.
pub(super) fn is_view(op: &Op) -> bool {
    row_of(&op.domain, &op.kind).is_some_and(|row| row.view)
}

/// What a view views, and its result; nothing for other operators.
pub(super) fn view(graph: &Graph, op: &Op) -> Option<(ValueId, ValueId)> {
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
    // Domain, type and operands.
    type Key<'a> = (&'a str, &'a str, Vec<Option<u32>>);
    let mut seen: HashMap<Key, Vec<u32>> = HashMap::new();
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
