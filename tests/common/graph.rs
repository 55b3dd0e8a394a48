//! Small graphs built from messages, for tests that need a size or shape that no stored model has.
#![allow(dead_code, reason = "each test file uses its part")]

use berth_compiler::import::onnx::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
};
use prost::Message;

const F32: i32 = 1;

fn info(name: &str, shape: &[i64]) -> ValueInfoProto {
    let dim = |n: &i64| Dimension { value: Some(dimension::Value::DimValue(*n)) };
    let shape = Some(TensorShapeProto { dim: shape.iter().map(dim).collect() });
    let value = Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: F32, shape }));
    ValueInfoProto { name: name.to_owned(), r#type: Some(TypeProto { value }) }
}

/// `x` through so many square MatMuls, each with a Relu behind it. Weights are float32 in an external file, absent.
pub fn chain(layers: usize, width: i64, weights: &str) -> Vec<u8> {
    let mut graph = GraphProto { name: "chain".into(), ..Default::default() };
    let mut last = "x".to_owned();
    for layer in 0..layers {
        let (weight, product, result) = (format!("w{layer}"), format!("p{layer}"), format!("r{layer}"));
        let bytes = (width * width * 4) as usize;
        let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
        graph.initializer.push(TensorProto {
            name: weight.clone(),
            dims: vec![width, width],
            data_type: F32,
            data_location: 1,
            external_data: vec![
                entry("location", weights.to_owned()),
                entry("offset", (layer * bytes).to_string()),
                entry("length", bytes.to_string()),
            ],
            ..Default::default()
        });
        let node = |op: &str, input: Vec<String>, output: &str| NodeProto {
            name: format!("{op}{layer}"),
            op_type: op.into(),
            input,
            output: vec![output.to_owned()],
            ..Default::default()
        };
        graph.node.push(node("MatMul", vec![last, weight], &product));
        graph.node.push(node("Relu", vec![product.clone()], &result));
        last = result;
    }
    graph.input.push(info("x", &[1, width]));
    graph.output.push(info(&last, &[1, width]));
    let opset = OperatorSetIdProto { domain: String::new(), version: 20 };
    ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph), ..Default::default() }.encode_to_vec()
}
