//! Builds small ONNX models.

use berth_compiler::import::{self, dtype_to_onnx, onnx};
use berth_ir::DType;
use onnx::tensor_shape_proto::{Dimension, dimension::Value as Dim};
use prost::Message;
use std::path::PathBuf;

/// A model in the making.
pub struct Builder {
    opset: i64,
    graph: onnx::GraphProto,
}

/// An integer attribute.
pub fn attribute(name: &str, value: i64) -> onnx::AttributeProto {
    onnx::AttributeProto { name: name.to_owned(), r#type: 2, i: Some(value), ..Default::default() }
}

fn info(name: &str, dtype: DType, shape: &[&str]) -> onnx::ValueInfoProto {
    let dim = shape.iter().map(|text| Dimension {
        value: Some(match text.parse() {
            Ok(size) => Dim::DimValue(size),
            Err(_) => Dim::DimParam((*text).to_owned()),
        }),
    });
    let shape = Some(onnx::TensorShapeProto { dim: dim.collect() });
    let tensor = onnx::type_proto::Tensor { elem_type: dtype_to_onnx(dtype), shape };
    let value = Some(onnx::type_proto::Value::TensorType(tensor));
    onnx::ValueInfoProto { name: name.to_owned(), r#type: Some(onnx::TypeProto { value }) }
}

impl Builder {
    pub fn new(opset: i64) -> Builder {
        Builder { opset, graph: onnx::GraphProto::default() }
    }

    pub fn input(&mut self, name: &str, dtype: DType, shape: &[&str]) -> &mut Builder {
        self.graph.input.push(info(name, dtype, shape));
        self
    }

    /// An output without a shape.
    pub fn output(&mut self, name: &str) -> &mut Builder {
        let mut output = info(name, DType::F32, &[]);
        if let Some(onnx::type_proto::Value::TensorType(tensor)) = output.r#type.as_mut().and_then(|t| t.value.as_mut())
        {
            *tensor = onnx::type_proto::Tensor { elem_type: 0, shape: None };
        }
        self.graph.output.push(output);
        self
    }

    /// Declares the shape of an output.
    pub fn declare(&mut self, name: &str, dtype: DType, shape: &[&str]) -> &mut Builder {
        self.graph.output.retain(|o| o.name != name);
        self.graph.output.push(info(name, dtype, shape));
        self
    }

    pub fn ints(&mut self, name: &str, values: &[i64]) -> &mut Builder {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name, DType::I64, &[values.len() as i64], raw)
    }

    pub fn tensor(&mut self, name: &str, dtype: DType, dims: &[i64], raw: Vec<u8>) -> &mut Builder {
        self.graph.initializer.push(onnx::TensorProto {
            name: name.to_owned(),
            data_type: dtype_to_onnx(dtype),
            dims: dims.to_vec(),
            raw_data: raw.into(),
            ..Default::default()
        });
        self
    }

    pub fn external(&mut self, name: &str, dims: &[i64], location: &str) -> &mut Builder {
        let entry = onnx::StringStringEntryProto { key: "location".to_owned(), value: location.to_owned() };
        self.graph.initializer.push(onnx::TensorProto {
            name: name.to_owned(),
            data_type: 1,
            dims: dims.to_vec(),
            data_location: 1,
            external_data: vec![entry],
            ..Default::default()
        });
        self
    }

    pub fn node(
        &mut self,
        kind: &str,
        inputs: &[&str],
        outputs: &[&str],
        attribute: Vec<onnx::AttributeProto>,
    ) -> &mut Builder {
        self.graph.node.push(onnx::NodeProto {
            op_type: kind.to_owned(),
            input: inputs.iter().map(|n| (*n).to_owned()).collect(),
            output: outputs.iter().map(|n| (*n).to_owned()).collect(),
            attribute,
            ..Default::default()
        });
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let opset = onnx::OperatorSetIdProto { domain: String::new(), version: self.opset };
        let graph = Some(self.graph.clone());
        onnx::ModelProto { ir_version: 10, graph, opset_import: vec![opset], ..Default::default() }.encode_to_vec()
    }

    pub fn model(&self) -> import::Model {
        import::Model::decode(self.bytes().into(), PathBuf::from("/nowhere/model.onnx")).unwrap()
    }
}
