//! Small models for measuring an engine: one operator each, with operands of a size that is known.

use crate::import::{dtype_to_onnx, onnx};
use berth_ir::DType;
use bytes::Bytes;
use onnx::tensor_shape_proto::{Dimension, dimension};
use prost::Message;

/// A matrix of `rows` by `inner` times one of `inner` by `columns`: inputs `i0` and `i1`, output `o0`.
pub fn matmul(dtype: DType, rows: u64, inner: u64, columns: u64) -> Bytes {
    one("MatMul", dtype, &[vec![rows, inner], vec![inner, columns]], &[rows, columns])
}

/// One element and one more: what a call costs beyond its work. Inputs `i0` and `i1`, output `o0`.
pub fn add(dtype: DType) -> Bytes {
    one("Add", dtype, &[vec![1], vec![1]], &[1])
}

fn one(kind: &str, dtype: DType, operands: &[Vec<u64>], result: &[u64]) -> Bytes {
    let names: Vec<String> = (0..operands.len()).map(|n| format!("i{n}")).collect();
    let node = onnx::NodeProto {
        op_type: kind.to_owned(),
        input: names.clone(),
        output: vec!["o0".to_owned()],
        ..Default::default()
    };
    let graph = onnx::GraphProto {
        name: "probe".to_owned(),
        node: vec![node],
        input: names.iter().zip(operands).map(|(name, shape)| info(name.clone(), dtype, shape)).collect(),
        output: vec![info("o0".to_owned(), dtype, result)],
        ..Default::default()
    };
    let opset = onnx::OperatorSetIdProto { domain: String::new(), version: 17 };
    let model = onnx::ModelProto {
        ir_version: 8,
        producer_name: "berth".to_owned(),
        graph: Some(graph),
        opset_import: vec![opset],
        ..Default::default()
    };
    model.encode_to_vec().into()
}

fn info(name: String, dtype: DType, shape: &[u64]) -> onnx::ValueInfoProto {
    let axis = |n: &u64| Dimension { value: Some(dimension::Value::DimValue(*n as i64)) };
    let shape = Some(onnx::TensorShapeProto { dim: shape.iter().map(axis).collect() });
    let tensor = onnx::type_proto::Tensor { elem_type: dtype_to_onnx(dtype), shape };
    let value = Some(onnx::type_proto::Value::TensorType(tensor));
    onnx::ValueInfoProto { name, r#type: Some(onnx::TypeProto { value }) }
}
