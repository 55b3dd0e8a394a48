//! Finds caches: inputs that come out again with a step's part appended, as decoders keep keys and values.
//!
//! Reads:    the graph with bound dims.
//! Decides:  which output continues which input.
//! Promises: each input and output is in one pair at most; names play no part in it.
//! Why:      exporters name them as they like; what they all do is append along one axis.

use crate::import::ops::row_of;
use berth_ir::graph::{Graph, Op, ValueId};
use std::collections::{HashMap, HashSet};

/// An input and the output that continues it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// What comes in.
    pub past: ValueId,
    /// What goes out.
    pub present: ValueId,
}

/// The caches of a graph, in the order of its outputs.
pub fn caches(graph: &Graph) -> Vec<Cache> {
    let inputs: HashSet<ValueId> = graph.inputs.iter().copied().collect();
    let mut makers: HashMap<ValueId, &Op> = HashMap::new();
    for op in &graph.ops {
        op.outputs.iter().flatten().for_each(|v| _ = makers.insert(*v, op));
    }
    let mut taken = HashSet::new();
    let mut all = Vec::new();
    for present in &graph.outputs {
        let Some(op) = makers.get(&behind(*present, &makers)) else { continue };
        let pasts = appended(op, *present).into_iter().map(|past| behind(past, &makers));
        let past =
            pasts.filter(|past| inputs.contains(past) && grows(graph, *past, *present)).find(|p| taken.insert(*p));
        all.extend(past.map(|past| Cache { past, present: *present }));
    }
    all
}

/// What a value is a view of.
fn behind(mut value: ValueId, makers: &HashMap<ValueId, &Op>) -> ValueId {
    // Ends: each operator stands behind those that it reads.
    while let Some(op) = makers.get(&value) {
        match op.inputs.first() {
            Some(Some(source)) if row_of(&op.domain, &op.kind).is_some_and(|row| row.view) => value = *source,
            _ => break,
        }
    }
    value
}

/// The operands that an operator's result may continue.
fn appended(op: &Op, result: ValueId) -> Vec<ValueId> {
    let operand = |n: usize| op.inputs.get(n).copied().flatten();
    let place = op.outputs.iter().position(|o| *o == Some(result));
    match (op.domain.as_str(), op.kind.as_str()) {
        ("" | "ai.onnx", "Concat") => operand(0).into_iter().collect(),
        // Past keys and values stand in this order, as the present ones do.
        ("" | "ai.onnx", "Attention") => place.and_then(|n| operand(n + 3)).into_iter().collect(),
        ("com.microsoft", _) if op.kind.ends_with("Attention") && place.is_some_and(|n| n > 0) => {
            op.inputs.iter().flatten().copied().collect()
        }
        _ => Vec::new(),
    }
}

/// Whether one is as large as the other, but for one axis along which it is not smaller.
fn grows(graph: &Graph, past: ValueId, present: ValueId) -> bool {
    let (past, present) = (graph.value(past), graph.value(present));
    let apart = past.shape.iter().zip(&present.shape).filter(|(a, b)| a != b);
    let grown = apart.clone().all(|(a, b)| (b - a).is_nonnegative());
    past.dtype == present.dtype && past.shape.len() == present.shape.len() && apart.count() <= 1 && grown
}
