//! Writes a few operators of a graph as an ONNX model of their own, for the engine to run as one task.
//!
//! Reads:    the graph with all dims bound, the operators in the order in which they run.
//! Decides:  names: `i0, i1, ..` for what comes in, `o0, ..` for what goes out, `t0, ..` between, `c0, ..` for constants.
//! Promises: equal operators on equal shapes give equal bytes, wherever they stand in the model, so that identical
//!           layers share one session; or an error that names the value without a size.

use crate::import::{dtype_to_onnx, onnx, rename};
use berth_ir::DType;
use berth_ir::graph::{Attribute, Content, Graph, Op, OpId, Value, ValueId};
use bytes::Bytes;
use onnx::tensor_shape_proto::{Dimension, dimension};
use prost::Message;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Newest ONNX IR version that the engine (ONNX Runtime 1.24 and later) reads.
const IR_MAX: i64 = 11;
/// Newest standard operator set that the engine (ONNX Runtime 1.31) takes as released. Those after it have so far added
/// operators, attributes and types, all of which it refuses; what both have means the same in both.
const OPSET_MAX: i64 = 26;
/// Oldest one in which initializers need not be graph inputs.
const IR_MIN: i64 = 4;

/// A model of some operators, and which values its inputs and outputs are.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskModel {
    /// An ONNX `ModelProto`. Equal tasks have equal bytes.
    pub model: Bytes,
    /// The values to bind to `i0, i1, ..`, in order of first use.
    pub inputs: Vec<ValueId>,
    /// The values to bind to `o0, o1, ..`, in the order in which they are computed.
    pub outputs: Vec<ValueId>,
}

/// Why operators cannot be written as a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TaskModelError {
    /// A size is not a number.
    #[error("`{value}` has the size {size} at axis {axis}; bind its dims with `--dim` before making tasks")]
    Unbound {
        /// The value.
        value: String,
        /// The axis.
        axis: usize,
        /// The expression that is left.
        size: String,
    },
    /// A constant's bytes are not as many as its type and shape need.
    #[error("`{value}` has {found} bytes, its type and shape need {needed}")]
    Bytes {
        /// The value.
        value: String,
        /// Bytes given.
        found: usize,
        /// Bytes needed.
        needed: u64,
    },
    /// A value's type has no size.
    #[error("`{value}` holds {dtype:?}, which no task can")]
    Type {
        /// The value.
        value: String,
        /// Its type.
        dtype: DType,
    },
    /// A known element is no number of the value's type.
    #[error("`{value}` has the element {element}, which is no number of its type; bind its dims")]
    Element {
        /// The value.
        value: String,
        /// The element.
        element: String,
    },
    /// An attribute's bytes are no attribute.
    #[error("attribute `{attribute}` of `{op}` cannot be decoded: {problem}")]
    Attribute {
        /// The operator.
        op: String,
        /// The attribute.
        attribute: String,
        /// What the decoder says.
        problem: String,
    },
}

/// Writes these operators, in this order. Values for which `embed` gives bytes (little-endian, packed), and constants
/// whose contents the graph holds, become initializers; all else that they read comes in. Axes and contents in dims that
/// are not bound are open: each run gives them.
///
/// What goes out is each result that another operator or the graph's outputs read.
pub fn task_model(
    graph: &Graph,
    ops: &[OpId],
    embed: &dyn Fn(ValueId) -> Option<Bytes>,
) -> Result<TaskModel, TaskModelError> {
    let inside: HashSet<OpId> = ops.iter().copied().collect();
    let outside = (0..).map(OpId).zip(&graph.ops).filter(|(id, _)| !inside.contains(id));
    let mut read: HashSet<ValueId> = outside.flat_map(|(_, op)| op.reads()).collect();
    read.extend(&graph.outputs);
    task_model_for(graph, ops, &Outside { embed, kept: &|_| None, goes_out: &|value| read.contains(&value) })
}

/// What a task's operators have from outside, and what others have of them.
pub struct Outside<'a> {
    /// The contents of what lives in the task's own code.
    pub embed: &'a dyn Fn(ValueId) -> Option<Bytes>,
    /// Where the contents of what the engine keeps lie in [`KEPT_FILE`]: first byte, bytes.
    pub kept: &'a dyn Fn(ValueId) -> Option<(u64, u64)>,
    /// Whether somebody else reads a result.
    pub goes_out: &'a dyn Fn(ValueId) -> bool,
}

/// The name by which a model calls the bytes of the weights that its engine keeps: no file, a block of memory that the
/// engine is given with the model.
pub const KEPT_FILE: &str = "kept";

/// The same, where the caller says which results go out. With many tasks of one graph this does not look at all of the
/// graph for each. A result that nothing inside reads goes out in any case: a model without outputs computes nothing.
pub fn task_model_for(graph: &Graph, ops: &[OpId], outside: &Outside) -> Result<TaskModel, TaskModelError> {
    let mut writer = Writer { graph, names: HashMap::new(), inputs: Vec::new(), initializers: Vec::new() };
    let ops: Vec<&Op> = ops.iter().map(|id| graph.op(*id)).collect();
    let computed: HashSet<ValueId> = ops.iter().flat_map(|op| op.outputs.iter().flatten()).copied().collect();
    let read: HashSet<ValueId> = ops.iter().flat_map(|op| op.reads()).collect();
    let mut outputs = Vec::new();
    let mut between = 0;
    for id in ops.iter().flat_map(|op| op.outputs.iter().flatten()).copied() {
        let name = if (outside.goes_out)(id) || !read.contains(&id) {
            outputs.push(id);
            format!("o{}", outputs.len() - 1)
        } else {
            between += 1;
            format!("t{}", between - 1)
        };
        writer.names.insert(id, name);
    }
    let mut nodes = Vec::with_capacity(ops.len());
    for op in &ops {
        for id in op.reads().filter(|id| !computed.contains(id)) {
            writer.outer(id, outside)?;
        }
        nodes.push(writer.node(op)?);
    }
    let mut domains: BTreeSet<String> = ops.iter().map(|op| op.domain.clone()).collect();
    nodes.iter().flat_map(|node| &node.attribute).for_each(|a| rename::domains(a, &mut domains));
    let opsets = graph.opsets.iter().filter(|(domain, _)| domains.contains(domain));
    let mut opset_import: Vec<onnx::OperatorSetIdProto> = opsets
        .map(|(domain, version)| {
            let version = if domain.is_empty() { (*version).min(OPSET_MAX) } else { *version };
            onnx::OperatorSetIdProto { domain: domain.clone(), version }
        })
        .collect();
    opset_import.sort_by(|a, b| a.domain.cmp(&b.domain));
    let port = |(index, id): (usize, &ValueId), letter: char| info(format!("{letter}{index}"), graph.value(*id));
    let proto = onnx::GraphProto {
        node: nodes,
        name: "task".to_owned(),
        initializer: writer.initializers,
        input: writer.inputs.iter().enumerate().map(|p| port(p, 'i')).collect::<Result<_, _>>()?,
        output: outputs.iter().enumerate().map(|p| port(p, 'o')).collect::<Result<_, _>>()?,
        ..Default::default()
    };
    let model = onnx::ModelProto {
        ir_version: graph.ir_version.clamp(IR_MIN, IR_MAX),
        producer_name: "berth".to_owned(),
        graph: Some(proto),
        opset_import,
        ..Default::default()
    };
    Ok(TaskModel { model: model.encode_to_vec().into(), inputs: writer.inputs, outputs })
}

/// All operators as one model with weights as inputs: the reference run. An output of the graph that is an input or a
/// constant is not among the model's outputs.
pub fn whole_model(graph: &Graph) -> Result<TaskModel, TaskModelError> {
    let ops: Vec<OpId> = (0..).map(OpId).take(graph.ops.len()).collect();
    task_model(graph, &ops, &|_| None)
}

struct Writer<'a> {
    graph: &'a Graph,
    names: HashMap<ValueId, String>,
    inputs: Vec<ValueId>,
    initializers: Vec<onnx::TensorProto>,
}

impl Writer<'_> {
    /// Names a value that no operator of the task computes.
    fn outer(&mut self, id: ValueId, outside: &Outside) -> Result<(), TaskModelError> {
        if self.names.contains_key(&id) {
            return Ok(());
        }
        let value = self.graph.value(id);
        if let Some((from, bytes)) = (outside.kept)(id) {
            let name = format!("c{}", self.initializers.len());
            self.initializers.push(kept(name.clone(), value, from, bytes)?);
            self.names.insert(id, name);
            return Ok(());
        }
        let bytes = match ((outside.embed)(id), &value.content) {
            (Some(bytes), _) => Some(bytes),
            (None, Content::Inline(bytes)) => Some(bytes.clone()),
            (None, Content::Known(elements)) if elements.iter().all(|e| e.as_constant().is_some()) => {
                Some(known_bytes(value)?)
            }
            (None, Content::Known(_) | Content::Computed | Content::Stored(_)) => None,
        };
        let name = match bytes {
            None => {
                self.inputs.push(id);
                format!("i{}", self.inputs.len() - 1)
            }
            Some(bytes) => {
                let name = format!("c{}", self.initializers.len());
                self.initializers.push(initializer(name.clone(), value, bytes)?);
                name
            }
        };
        self.names.insert(id, name);
        Ok(())
    }

    fn node(&self, op: &Op) -> Result<onnx::NodeProto, TaskModelError> {
        let name = |id: &Option<ValueId>| id.and_then(|id| self.names.get(&id).cloned()).unwrap_or_default();
        Ok(onnx::NodeProto {
            input: op.inputs.iter().map(name).collect(),
            output: op.outputs.iter().map(name).collect(),
            op_type: op.kind.clone(),
            domain: op.domain.clone(),
            attribute: self.attributes(op)?,
            ..Default::default()
        })
    }

    /// Attributes; in their graphs, what comes from outside has the name that it has in the task.
    fn attributes(&self, op: &Op) -> Result<Vec<onnx::AttributeProto>, TaskModelError> {
        let mut all: Vec<onnx::AttributeProto> =
            op.attributes.iter().map(|(name, a)| attribute(op, name, a)).collect::<Result<_, _>>()?;
        if !op.captures.is_empty() {
            let captures = op.captures.iter();
            let names: HashMap<&str, String> = captures
                .map(|(inside, id)| (inside.as_str(), self.names.get(id).cloned().unwrap_or_default()))
                .collect();
            all.iter_mut().for_each(|a| rename::replace(a, &names));
        }
        Ok(all)
    }
}

/// The elements of a known value, little-endian.
pub fn known_bytes(value: &Value) -> Result<Bytes, TaskModelError> {
    let Content::Known(elements) = &value.content else {
        return Err(TaskModelError::Type { value: value.name.clone(), dtype: value.dtype });
    };
    let mut bytes = Vec::with_capacity(elements.len() * 8);
    for element in elements {
        let fail = || TaskModelError::Element { value: value.name.clone(), element: element.to_string() };
        let number = element.as_constant().ok_or_else(fail)?;
        match value.dtype {
            DType::I64 => bytes.extend(i64::try_from(number).map_err(|_| fail())?.to_le_bytes()),
            DType::I32 => bytes.extend(i32::try_from(number).map_err(|_| fail())?.to_le_bytes()),
            DType::Bool => bytes.push(u8::from(number != 0)),
            dtype => return Err(TaskModelError::Type { value: value.name.clone(), dtype }),
        }
    }
    Ok(bytes.into())
}

/// The shape as numbers.
fn shape(value: &Value) -> Result<Vec<i64>, TaskModelError> {
    (0..value.shape.len()).map(|axis| axis_of(value, axis)).collect()
}

fn axis_of(value: &Value, axis: usize) -> Result<i64, TaskModelError> {
    let size = &value.shape[axis];
    size.as_constant().and_then(|n| i64::try_from(n).ok()).ok_or_else(|| TaskModelError::Unbound {
        value: value.name.clone(),
        axis,
        size: size.to_string(),
    })
}

fn initializer(name: String, value: &Value, bytes: Bytes) -> Result<onnx::TensorProto, TaskModelError> {
    let dims = shape(value)?;
    let elements = dims.iter().try_fold(1u64, |all, n| all.checked_mul(n.unsigned_abs()));
    match elements.and_then(|n| value.dtype.bytes(n)) {
        None => Err(TaskModelError::Type { value: value.name.clone(), dtype: value.dtype }),
        Some(needed) if needed != bytes.len() as u64 => {
            Err(TaskModelError::Bytes { value: value.name.clone(), found: bytes.len(), needed })
        }
        Some(_) => Ok(onnx::TensorProto {
            name,
            dims,
            data_type: dtype_to_onnx(value.dtype),
            raw_data: bytes,
            ..Default::default()
        }),
    }
}

/// `TensorProto.DataLocation` of bytes that are not in the message.
const EXTERNAL: i32 = 1;

/// An initializer whose bytes come with the model, not in it.
fn kept(name: String, value: &Value, from: u64, bytes: u64) -> Result<onnx::TensorProto, TaskModelError> {
    let entry = |key: &str, value: String| onnx::StringStringEntryProto { key: key.to_owned(), value };
    let external_data = vec![
        entry("location", KEPT_FILE.to_owned()),
        entry("offset", from.to_string()),
        entry("length", bytes.to_string()),
    ];
    let data_location = EXTERNAL;
    let (dims, data_type) = (shape(value)?, dtype_to_onnx(value.dtype));
    Ok(onnx::TensorProto { name, dims, data_type, external_data, data_location, ..Default::default() })
}

fn info(name: String, value: &Value) -> Result<onnx::ValueInfoProto, TaskModelError> {
    if value.dtype == DType::Str {
        return Err(TaskModelError::Type { value: value.name.clone(), dtype: value.dtype });
    }
    let dims = value.shape.iter().zip(0..).map(|(size, axis)| match size.as_constant() {
        // Only a run knows it.
        None => Ok(Dimension { value: None }),
        Some(_) => Ok(Dimension { value: Some(dimension::Value::DimValue(axis_of(value, axis)?)) }),
    });
    let tensor = onnx::type_proto::Tensor {
        elem_type: dtype_to_onnx(value.dtype),
        shape: Some(onnx::TensorShapeProto { dim: dims.collect::<Result<_, _>>()? }),
    };
    let value = Some(onnx::type_proto::Value::TensorType(tensor));
    Ok(onnx::ValueInfoProto { name, r#type: Some(onnx::TypeProto { value }) })
}

fn attribute(op: &Op, name: &str, value: &Attribute) -> Result<onnx::AttributeProto, TaskModelError> {
    let mut proto = onnx::AttributeProto { name: name.to_owned(), ..Default::default() };
    match value {
        Attribute::Float(f) => (proto.r#type, proto.f) = (1, Some(*f)),
        Attribute::Int(i) => (proto.r#type, proto.i) = (2, Some(*i)),
        Attribute::String(s) => (proto.r#type, proto.s) = (3, Some(s.clone())),
        Attribute::Floats(all) => (proto.r#type, proto.floats) = (6, all.clone()),
        Attribute::Ints(all) => (proto.r#type, proto.ints) = (7, all.clone()),
        Attribute::Strings(all) => (proto.r#type, proto.strings) = (8, all.clone()),
        Attribute::Message(bytes) => {
            proto = onnx::AttributeProto::decode(bytes.clone()).map_err(|e| TaskModelError::Attribute {
                op: op.name.clone(),
                attribute: name.to_owned(),
                problem: e.to_string(),
            })?;
            // A tensor's own name would make equal tasks differ.
            if let Some(tensor) = &mut proto.t {
                tensor.name.clear();
            }
        }
    }
    Ok(proto)
}
