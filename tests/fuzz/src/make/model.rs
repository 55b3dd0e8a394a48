//! Model files: a few operators on values of odd shapes, most of them as the operator wants them.

use crate::choices::Choices;
use berth_compiler::import::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension,
    type_proto,
};
use prost::Message;

/// Most operators.
const NODES: usize = 12;
const F32: i32 = 1;
const I64: i32 = 7;

struct Maker<'c, 'b> {
    c: &'c mut Choices<'b>,
    graph: GraphProto,
    /// Name, element type and shape of what operators may read; a shape is what this generator believes.
    values: Vec<(String, i32, Vec<i64>)>,
    file: u64,
}

/// An ONNX file.
pub fn model(c: &mut Choices) -> Vec<u8> {
    let graph = GraphProto { name: "made".to_owned(), ..Default::default() };
    let mut m = Maker { c, graph, values: Vec::new(), file: 0 };
    for n in 0..1 + m.c.below(2) {
        let shape = m.shape();
        let name = format!("x{n}");
        let info = m.info(&name, F32, &shape);
        m.graph.input.push(info);
        m.values.push((name, F32, shape));
    }
    for n in 0..1 + m.c.below(NODES) {
        m.node(n);
    }
    let last = m.values.len() - 1;
    for n in 0..1 + m.c.below(2) {
        let value = if n == 0 { last } else { m.c.below(last + 1) };
        let name = m.values[value].0.clone();
        if !m.graph.output.iter().any(|o| o.name == name) && !m.graph.input.iter().any(|i| i.name == name) {
            m.graph.output.push(ValueInfoProto { name, r#type: None });
        }
    }
    let opset = OperatorSetIdProto { domain: String::new(), version: m.c.of(&[20, 11, 13, 17, 23]) };
    let graph = Some(m.graph);
    ModelProto { ir_version: 10, opset_import: vec![opset], graph, ..Default::default() }.encode_to_vec()
}

impl Maker<'_, '_> {
    fn shape(&mut self) -> Vec<i64> {
        let rank = match self.c.below(8) {
            0 => 0,
            1..=5 => 1 + self.c.below(3),
            6 => 4 + self.c.below(3),
            _ => 64,
        };
        let axis = |m: &mut Self| match m.c.below(10) {
            0 => 0,
            1 => 1,
            2 if rank < 3 => m.c.of(&[1 << 20, 1 << 31, 1 << 38, 1 << 40]),
            _ if rank > 6 => 1 + m.c.below(2) as i64,
            _ => 1 + m.c.below(12) as i64,
        };
        (0..rank).map(|_| axis(self)).collect()
    }

    fn info(&mut self, name: &str, element: i32, shape: &[i64]) -> ValueInfoProto {
        let symbolic = self.c.one_in(4);
        let mut dim = |size: &i64| {
            let value = match symbolic && self.c.one_in(2) {
                true => dimension::Value::DimParam(self.c.of(&["n", "m", "past"]).to_owned()),
                false => dimension::Value::DimValue(*size),
            };
            Dimension { value: Some(value) }
        };
        let shape = Some(TensorShapeProto { dim: shape.iter().map(&mut dim).collect() });
        let value = Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: element, shape }));
        ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { value }) }
    }

    /// A stored tensor: outside the model where it is large, in it where it is small.
    fn weight(&mut self, shape: &[i64]) -> String {
        let name = format!("w{}", self.graph.initializer.len());
        let bytes = shape.iter().try_fold(4u64, |n, d| n.checked_mul(u64::try_from(*d).ok()?)).unwrap_or(u64::MAX);
        let mut tensor = TensorProto { name: name.clone(), dims: shape.to_vec(), data_type: F32, ..Default::default() };
        if bytes <= 512 && !self.c.one_in(3) {
            let fill = self.c.byte();
            tensor.raw_data =
                (0..bytes).map(|n| if fill == 0 { 0 } else { n as u8 ^ fill }).collect::<Vec<u8>>().into();
        } else {
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.to_owned(), value };
            tensor.data_location = 1;
            tensor.external_data = vec![entry("location", "w.bin".to_owned()), entry("offset", self.file.to_string())];
            self.file = self.file.saturating_add(bytes);
        }
        self.graph.initializer.push(tensor);
        name
    }

    fn integers(&mut self, values: &[i64]) -> String {
        let name = format!("w{}", self.graph.initializer.len());
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.graph.initializer.push(TensorProto {
            name: name.clone(),
            dims: vec![values.len() as i64],
            data_type: I64,
            raw_data: raw.into(),
            ..Default::default()
        });
        name
    }

    fn push(&mut self, n: usize, op: &str, input: Vec<String>, attribute: Vec<AttributeProto>, shape: Vec<i64>) {
        let output = format!("v{n}");
        self.graph.node.push(NodeProto {
            name: if self.c.one_in(8) { String::new() } else { format!("n{n}") },
            op_type: op.to_owned(),
            input,
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        });
        self.values.push((output, F32, shape));
    }

    fn node(&mut self, n: usize) {
        let at = if self.c.one_in(3) { self.c.below(self.values.len()) } else { self.values.len() - 1 };
        let (x, _, shape) = self.values[at].clone();
        let rank = shape.len();
        let axis = self.c.below(rank.max(1));
        let last = shape.last().copied().unwrap_or(1);
        match self.c.below(17) {
            0 => {
                let op = self.c.of(&["Relu", "Exp", "Sigmoid", "Neg", "Identity", "Tanh", "Dropout"]);
                self.push(n, op, vec![x], vec![], shape);
            }
            1 => {
                let w = self.weight(&shape);
                let op = self.c.of(&["Add", "Mul", "Sub", "Div", "Pow"]);
                self.push(n, op, vec![x, w], vec![], shape);
            }
            2 => {
                let same: Vec<String> = self.values.iter().filter(|v| v.2 == shape).map(|v| v.0.clone()).collect();
                let other = self.c.of(&same);
                self.push(n, "Add", vec![x, other], vec![], shape);
            }
            3 | 4 => {
                let columns = self.c.of(&[1, 8, 64, 3, 0, 1 << 20]);
                let w = self.weight(&[last, columns]);
                let shape = if rank == 0 { vec![] } else { [&shape[..rank - 1], &[columns]].concat() };
                self.push(n, "MatMul", vec![x, w], vec![], shape);
            }
            5 => {
                let flat = self.integers(&[-1]);
                let all = shape.iter().fold(1i64, |all, d| all.saturating_mul(*d));
                self.push(n, "Reshape", vec![x, flat], vec![], vec![all]);
            }
            6 => {
                let back: Vec<i64> = (0..rank as i64).rev().collect();
                let shape = shape.into_iter().rev().collect();
                self.push(n, "Transpose", vec![x], vec![ints("perm", &back)], shape);
            }
            7 => {
                let same: Vec<String> = self.values.iter().filter(|v| v.2 == shape).map(|v| v.0.clone()).collect();
                let other = self.c.of(&same);
                let mut joined = shape;
                if let Some(size) = joined.get_mut(axis) {
                    *size = size.saturating_mul(2);
                }
                self.push(n, "Concat", vec![x, other], vec![int("axis", axis as i64)], joined);
            }
            8 => self.push(n, "Softmax", vec![x], vec![int("axis", axis as i64)], shape),
            9 => {
                let rows = self.integers(&[0, 1, 0]);
                let row = self.c.of(&[4, 32, 0, 1 << 20]);
                let table = self.weight(&[1 << 10, row]);
                self.push(n, "Gather", vec![table, rows], vec![], vec![3, row]);
            }
            10 => {
                let (starts, ends) = (self.integers(&[0]), self.c.of(&[1, 2, 0, i64::MAX]));
                let (ends, axes) = (self.integers(&[ends]), self.integers(&[axis as i64]));
                self.push(n, "Slice", vec![x, starts, ends, axes], vec![], shape);
            }
            11 => {
                let axes = self.integers(&[0]);
                self.push(n, "Unsqueeze", vec![x, axes], vec![], [&[1], shape.as_slice()].concat());
            }
            12 => {
                let wanted: Vec<i64> = shape.iter().map(|d| if *d == 1 { 7 } else { *d }).collect();
                let to = self.integers(&wanted);
                self.push(n, "Expand", vec![x, to], vec![], wanted);
            }
            13 => {
                let to = self.shape();
                let sizes = self.integers(&to);
                self.push(n, "ConstantOfShape", vec![sizes], vec![], to);
            }
            14 => {
                self.push(n, "Shape", vec![x], vec![], vec![rank as i64]);
                self.values.pop();
                self.graph.node.push(NodeProto {
                    op_type: "Cast".to_owned(),
                    input: vec![format!("v{n}")],
                    output: vec![format!("c{n}")],
                    attribute: vec![int("to", i64::from(F32))],
                    ..Default::default()
                });
                self.values.push((format!("c{n}"), F32, vec![rank as i64]));
            }
            15 => {
                let channels = shape.get(1).copied().unwrap_or(1);
                let w = self.weight(&[4, channels, 3, 3]);
                let mut after = shape;
                if let Some(size) = after.get_mut(1) {
                    *size = 4;
                }
                self.push(n, "Conv", vec![x, w], vec![ints("pads", &[1, 1, 1, 1])], after);
            }
            _ => {
                let scale = self.weight(&[last]);
                self.push(n, "LayerNormalization", vec![x, scale], vec![int("axis", -1)], shape);
            }
        }
    }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: 2, i: Some(value), ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: 7, ints: values.to_vec(), ..Default::default() }
}
