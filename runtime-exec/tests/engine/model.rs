//! Writes small ONNX models: just enough of the wire format for the engine's tests.

use berth_ir::DType;
use berth_runtime_exec::engine::{Port, TaskCode};

/// A model under construction. Each call adds to the graph in order.
pub struct Model {
    name: &'static str,
    nodes: Vec<u8>,
    inputs: Vec<(Port, Vec<u8>)>,
    outputs: Vec<(Port, Vec<u8>)>,
}

/// An attribute of a node.
pub enum Attr {
    Int(i64),
    Ints(Vec<i64>),
}

impl Model {
    pub fn new(name: &'static str) -> Self {
        Model { name, nodes: Vec::new(), inputs: Vec::new(), outputs: Vec::new() }
    }

    /// An input whose shape the model fixes.
    pub fn input(mut self, name: &str, dtype: DType, shape: &[u64]) -> Self {
        self.inputs.push((port(name, dtype, shape), info(name, dtype, shape, false)));
        self
    }

    /// An input whose first axis the model leaves open; `shape` is what the task gives it.
    pub fn open_input(mut self, name: &str, dtype: DType, shape: &[u64]) -> Self {
        self.inputs.push((port(name, dtype, shape), info(name, dtype, shape, true)));
        self
    }

    pub fn output(mut self, name: &str, dtype: DType, shape: &[u64]) -> Self {
        self.outputs.push((port(name, dtype, shape), info(name, dtype, shape, false)));
        self
    }

    /// An output whose first axis the model leaves open.
    pub fn open_output(mut self, name: &str, dtype: DType, shape: &[u64]) -> Self {
        self.outputs.push((port(name, dtype, shape), info(name, dtype, shape, true)));
        self
    }

    pub fn node(mut self, kind: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Attr)]) -> Self {
        let mut node = Vec::new();
        inputs.iter().for_each(|name| bytes(&mut node, 1, name.as_bytes()));
        outputs.iter().for_each(|name| bytes(&mut node, 2, name.as_bytes()));
        bytes(&mut node, 4, kind.as_bytes());
        for (name, value) in attributes {
            let mut attribute = Vec::new();
            bytes(&mut attribute, 1, name.as_bytes());
            let number = match value {
                Attr::Int(i) => {
                    varint(&mut attribute, 3, *i as u64);
                    2
                }
                Attr::Ints(all) => {
                    all.iter().for_each(|i| varint(&mut attribute, 8, *i as u64));
                    7
                }
            };
            varint(&mut attribute, 20, number);
            bytes(&mut node, 5, &attribute);
        }
        bytes(&mut self.nodes, 1, &node);
        self
    }

    pub fn code(self) -> TaskCode {
        let mut graph = self.nodes;
        bytes(&mut graph, 2, b"g");
        self.inputs.iter().for_each(|(_, info)| bytes(&mut graph, 11, info));
        self.outputs.iter().for_each(|(_, info)| bytes(&mut graph, 12, info));
        let mut opset = Vec::new();
        bytes(&mut opset, 1, b"");
        varint(&mut opset, 2, 17);
        let mut model = Vec::new();
        varint(&mut model, 1, 8);
        bytes(&mut model, 7, &graph);
        bytes(&mut model, 8, &opset);
        let ports = |all: Vec<(Port, Vec<u8>)>| all.into_iter().map(|(port, _)| port).collect();
        TaskCode {
            name: self.name.into(),
            model: model.into(),
            inputs: ports(self.inputs),
            outputs: ports(self.outputs),
            kept: 0,
        }
    }
}

pub fn port(name: &str, dtype: DType, shape: &[u64]) -> Port {
    Port::new(name.into(), dtype, shape.to_vec())
}

fn info(name: &str, dtype: DType, shape: &[u64], first_open: bool) -> Vec<u8> {
    let mut axes = Vec::new();
    for (index, axis) in shape.iter().enumerate() {
        let mut dim = Vec::new();
        if index == 0 && first_open {
            bytes(&mut dim, 2, b"n")
        } else {
            varint(&mut dim, 1, *axis)
        }
        bytes(&mut axes, 1, &dim);
    }
    let element = match dtype {
        DType::F32 => 1,
        DType::I64 => 7,
        other => panic!("the tests write no {other:?}"),
    };
    let mut tensor = Vec::new();
    varint(&mut tensor, 1, element);
    bytes(&mut tensor, 2, &axes);
    let mut kind = Vec::new();
    bytes(&mut kind, 1, &tensor);
    let mut info = Vec::new();
    bytes(&mut info, 1, name.as_bytes());
    bytes(&mut info, 2, &kind);
    info
}

fn raw(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(out: &mut Vec<u8>, field: u64, value: u64) {
    raw(out, field << 3);
    raw(out, value);
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    raw(out, field << 3 | 2);
    raw(out, value.len() as u64);
    out.extend(value);
}
