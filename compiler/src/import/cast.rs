//! Computes a model in another float type: `--cast f32`, `--cast f16`.
//!
//! Reads:    the decoded graph.
//! Decides:  where a stored weight is cast: before each operator that reads it, behind what only moves it.
//! Promises: weights stay as the file has them, so what streams is as small as before; inputs, results, small constants
//!           and attributes have the new type, in graphs inside of operators too.
//! Why:      engines have few kernels for bfloat16 on a CPU. A wide copy that lives for one operator costs one weight of
//!           room; wide copies of all would double the model.

use super::onnx::{AttributeProto, GraphProto, NodeProto, TensorProto, ValueInfoProto};
use super::{names, tensor};
use crate::import::{dtype_from_onnx, dtype_to_onnx};
use berth_ir::DType;
use half::{bf16, f16};
use std::collections::{HashMap, HashSet};

/// Constants up to this size are cast here, once and for all.
const CAST_BYTES_MAX: u64 = 1024;

/// The type that floats are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cast {
    /// 16-bit floats become binary32; every value is kept exactly.
    F32,
    /// bfloat16 becomes binary16; values beyond 65504 become infinite, small ones lose bits.
    F16,
}

impl Cast {
    /// The type that takes the place of a type.
    pub fn of(self, dtype: DType) -> DType {
        match (self, dtype) {
            (Cast::F32, DType::F16 | DType::BF16) => DType::F32,
            (Cast::F16, DType::BF16) => DType::F16,
            _ => dtype,
        }
    }

    /// The same for ONNX's numbers of types.
    fn number(self, data_type: i32) -> i32 {
        dtype_from_onnx(data_type).map_or(data_type, |dtype| dtype_to_onnx(self.of(dtype)))
    }

    fn applies(self, data_type: i32) -> bool {
        self.number(data_type) != data_type
    }
}

/// Casts a graph; gives the number of stored weights that are cast where they are used.
pub(super) fn apply(graph: &mut GraphProto, cast: Cast) -> usize {
    let mut taken = HashSet::new();
    collect(graph, &mut taken);
    let mut caster = Caster { cast, taken, weights: 0 };
    caster.graph(graph);
    caster.weights
}

/// All names of values, in graphs inside of operators too. How deep these nest the decoder bounds.
fn collect(graph: &GraphProto, all: &mut HashSet<String>) {
    all.extend(graph.initializer.iter().map(|t| t.name.clone()));
    all.extend(graph.input.iter().map(|i| i.name.clone()));
    for node in &graph.node {
        all.extend(node.output.iter().cloned());
        names::bodies(node).for_each(|(_, body)| collect(body, all));
    }
}

struct Caster {
    cast: Cast,
    /// Names that values have.
    taken: HashSet<String>,
    weights: usize,
}

impl Caster {
    fn graph(&mut self, graph: &mut GraphProto) {
        // Values of the old type: a name of the model, and the one that its bytes go by now.
        let mut narrow: HashMap<String, String> = HashMap::new();
        let cast = self.cast;
        for initializer in graph.initializer.iter_mut().filter(|t| cast.applies(t.data_type)) {
            if !self.tensor(initializer) {
                let stored = self.fresh(&initializer.name, "stored");
                narrow.insert(std::mem::replace(&mut initializer.name, stored.clone()), stored);
                self.weights += 1;
            }
        }
        for info in &mut graph.input {
            match narrow.get(&info.name) {
                Some(stored) => info.name = stored.clone(),
                None => self.info(info),
            }
        }
        graph.output.iter_mut().chain(&mut graph.value_info).for_each(|info| self.info(info));
        let nodes = std::mem::take(&mut graph.node);
        graph.node = Vec::with_capacity(nodes.len());
        // Names that stand for a wide copy under the model's own name, for graphs inside of operators and for outputs.
        let mut wide: HashSet<String> = HashSet::new();
        for mut node in nodes {
            let inside: Vec<String> = names::bodies(&node).flat_map(|(_, body)| names::read(body)).collect();
            for name in inside {
                self.widen(&name, &narrow, &mut wide, &mut graph.node);
            }
            node.attribute.iter_mut().for_each(|a| self.attribute(a));
            match moves(&node).filter(|_| node.input.first().is_some_and(|i| narrow.contains_key(i))) {
                Some(how) => self.moved(node, how, &mut narrow, &mut graph.node),
                None => self.node(node, &narrow, &mut graph.node),
            }
        }
        let outputs: Vec<String> = graph.output.iter().map(|o| o.name.clone()).collect();
        for name in outputs {
            self.widen(&name, &narrow, &mut wide, &mut graph.node);
        }
    }

    /// A node that computes: what it reads of narrow values it reads from wide copies of its own.
    fn node(&mut self, mut node: NodeProto, narrow: &HashMap<String, String>, nodes: &mut Vec<NodeProto>) {
        let mut made: HashMap<String, String> = HashMap::new();
        for input in &mut node.input {
            let Some(stored) = narrow.get(input) else { continue };
            let copy = match made.get(input) {
                Some(copy) => copy.clone(),
                None => {
                    let copy = self.fresh(input, "cast");
                    nodes.push(self.cast_node(stored, &copy));
                    made.insert(input.clone(), copy.clone());
                    copy
                }
            };
            *input = copy;
        }
        nodes.push(node);
    }

    /// A node that only moves a narrow value moves it as it is; the cast comes behind it.
    fn moved(
        &mut self,
        mut node: NodeProto,
        how: Moves,
        narrow: &mut HashMap<String, String>,
        nodes: &mut Vec<NodeProto>,
    ) {
        let (Some(stored), Some(result)) = (narrow.get(&node.input[0]).cloned(), node.output.first().cloned()) else {
            return nodes.push(node);
        };
        let moved = self.fresh(&result, "stored");
        (node.input[0], node.output[0]) = (stored, moved.clone());
        nodes.push(node);
        match how {
            Moves::All => {
                narrow.insert(result, moved);
            }
            Moves::Part => nodes.push(self.cast_node(&moved, &result)),
        }
    }

    /// Lets a name of the model stand for its wide copy, once.
    fn widen(
        &self,
        name: &str,
        narrow: &HashMap<String, String>,
        wide: &mut HashSet<String>,
        nodes: &mut Vec<NodeProto>,
    ) {
        if let Some(stored) = narrow.get(name)
            && wide.insert(name.to_owned())
        {
            nodes.push(self.cast_node(stored, name));
        }
    }

    fn cast_node(&self, from: &str, to: &str) -> NodeProto {
        let wanted = match self.cast {
            Cast::F32 => DType::F32,
            Cast::F16 => DType::F16,
        };
        let kind = AttributeProto {
            name: "to".to_owned(),
            r#type: 2,
            i: Some(i64::from(dtype_to_onnx(wanted))),
            ..Default::default()
        };
        NodeProto {
            name: to.to_owned(),
            op_type: "Cast".to_owned(),
            input: vec![from.to_owned()],
            output: vec![to.to_owned()],
            attribute: vec![kind],
            ..Default::default()
        }
    }

    fn fresh(&mut self, name: &str, what: &str) -> String {
        let mut fresh = format!("{name}.{what}");
        let mut number = 1u64;
        // Ends: each round takes a number that was not tried, and taken names are fewer.
        while !self.taken.insert(fresh.clone()) {
            number += 1;
            fresh = format!("{name}.{what}.{number}");
        }
        fresh
    }

    fn info(&self, info: &mut ValueInfoProto) {
        use super::onnx::type_proto::Value;
        if let Some(Value::TensorType(tensor)) = info.r#type.as_mut().and_then(|t| t.value.as_mut()) {
            tensor.elem_type = self.cast.number(tensor.elem_type);
        }
    }

    fn attribute(&mut self, attribute: &mut AttributeProto) {
        const TYPES: [&str; 6] = ["to", "dtype", "output_dtype", "output_datatype", "stash_type", "softmax_precision"];
        if TYPES.contains(&attribute.name.as_str())
            && let Some(number) = attribute.i.and_then(|i| i32::try_from(i).ok())
        {
            attribute.i = Some(i64::from(self.cast.number(number)));
        }
        for tensor in attribute.t.iter_mut().map(|t| &mut **t).chain(&mut attribute.tensors) {
            // An attribute has no place from which it could be cast later, whatever its size.
            if self.cast.applies(tensor.data_type) {
                self.convert(tensor);
            }
        }
        for body in attribute.g.iter_mut().map(|g| &mut **g).chain(&mut attribute.graphs) {
            self.graph(body);
        }
    }

    /// Casts a small constant; says whether it was one.
    fn tensor(&self, tensor: &mut TensorProto) -> bool {
        let elements = tensor.dims.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::try_from(*dim).ok()?));
        let small = elements.is_some_and(|n| n.saturating_mul(4) <= CAST_BYTES_MAX);
        small && tensor.data_location == 0 && self.convert(tensor)
    }

    /// Casts what a message holds; says whether it could. What it could not is left for the importer to refuse.
    fn convert(&self, tensor: &mut TensorProto) -> bool {
        let Some((from, bytes)) = tensor::packed(tensor) else { return false };
        let to = self.cast.of(from);
        let halves = bytes.chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
        let wide = halves.map(|bits| match from {
            DType::BF16 => bf16::from_bits(bits).to_f32(),
            _ => f16::from_bits(bits).to_f32(),
        });
        let raw: Vec<u8> = match to {
            DType::F16 => wide.flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            _ => wide.flat_map(f32::to_le_bytes).collect(),
        };
        tensor.data_type = dtype_to_onnx(to);
        tensor.int32_data.clear();
        tensor.raw_data = raw.into();
        true
    }
}

/// What an operator moves of its first operand.
#[derive(Clone, Copy)]
enum Moves {
    /// Every element.
    All,
    /// Some.
    Part,
}

/// What an operator that computes nothing moves.
fn moves(node: &NodeProto) -> Option<Moves> {
    if !matches!(node.domain.as_str(), "" | "ai.onnx") || node.output.len() != 1 {
        return None;
    }
    match node.op_type.as_str() {
        "Transpose" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Identity" => Some(Moves::All),
        "Gather" | "GatherElements" | "GatherND" | "Slice" => Some(Moves::Part),
        _ => None,
    }
}
