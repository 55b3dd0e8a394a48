//! Names inside nodes and the graphs that they hold: what is read from where.

use super::onnx::{GraphProto, NodeProto};
use std::collections::HashSet;

/// Operators on sequences and optional values.
const NO_TENSORS: [&str; 12] = [
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SplitToSequence",
];

/// Whether a standard operator takes or gives sequences or optional values.
pub(super) fn is_no_tensor_operator(kind: &str) -> bool {
    NO_TENSORS.contains(&kind)
}

/// The graphs that a node holds, with the names of their attributes. Their nesting is bounded by the decoder, and where
/// functions were inlined by [`super::functions`].
pub(super) fn bodies(node: &NodeProto) -> impl Iterator<Item = (&str, &GraphProto)> {
    node.attribute.iter().flat_map(|a| {
        let graphs = a.g.iter().map(|g| &**g).chain(&a.graphs);
        graphs.map(move |graph| (a.name.as_str(), graph))
    })
}

/// The node's name, or its first result's.
pub(super) fn node_name(node: &NodeProto) -> &str {
    if node.name.is_empty() {
        node.output.iter().find(|o| !o.is_empty()).map_or(&node.op_type, |o| o)
    } else {
        &node.name
    }
}

/// Names that a graph defines.
fn defined(graph: &GraphProto) -> HashSet<&str> {
    let inputs = graph.input.iter().map(|i| i.name.as_str());
    let initializers = graph.initializer.iter().map(|i| i.name.as_str());
    let results = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    inputs.chain(initializers).chain(results).collect()
}

/// Names that a graph reads and does not define, in the order of first use, each once.
fn free<'a>(graph: &'a GraphProto) -> Vec<&'a str> {
    let defined = defined(graph);
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    let mut see = |name: &'a str| {
        if !name.is_empty() && !defined.contains(name) && seen.insert(name) {
            all.push(name);
        }
    };
    for node in &graph.node {
        reads(node).into_iter().for_each(&mut see);
    }
    graph.output.iter().for_each(|output| see(&output.name));
    all
}

/// Names that a graph reads from outside.
pub(super) fn read(graph: &GraphProto) -> Vec<String> {
    free(graph).into_iter().map(str::to_owned).collect()
}

/// Names that a node reads: its inputs, then what its graphs read from outside.
pub(super) fn reads(node: &NodeProto) -> Vec<&str> {
    let inputs = node.input.iter().map(String::as_str).filter(|i| !i.is_empty());
    inputs.chain(bodies(node).flat_map(|(_, body)| free(body))).collect()
}

/// Whether a node holds graphs.
pub(super) fn holds_graphs(node: &NodeProto) -> bool {
    bodies(node).next().is_some()
}
