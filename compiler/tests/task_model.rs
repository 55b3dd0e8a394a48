//! What the engine is given to run for a task.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::onnx;
use berth_compiler::task_model::{TaskModelError, task_model, whole_model};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, OpId, ValueId};
use build::Builder;
use bytes::Bytes;
use prost::Message;

/// Two equal layers, each a product with its own weight, a sum with a shared one, and a Reshape.
fn layers(binding: &Binding) -> Graph {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "4"]).output("y1");
    b.tensor("shared", DType::F32, &[4], vec![0; 16]).ints("to", &[-1, 4]);
    let mut from = "x".to_owned();
    for layer in 0..2 {
        let name = |what: &str| format!("{what}{layer}");
        b.tensor(&name("w"), DType::F32, &[4, 4], vec![layer; 64]);
        b.node("MatMul", &[&from, &name("w")], &[&name("product")], vec![]);
        b.node("Add", &[&name("product"), "shared"], &[&name("sum")], vec![]);
        b.node("Reshape", &[&name("sum"), "to"], &[&name("y")], vec![]);
        from = name("y");
    }
    b.model().graph(binding).unwrap()
}

fn names(graph: &Graph, ids: &[ValueId]) -> Vec<String> {
    ids.iter().map(|id| graph.value(*id).name.clone()).collect()
}

fn bound() -> Binding {
    Binding::from([("n".to_owned(), 3)])
}

#[test]
fn equal_layers_have_equal_bytes() {
    let graph = layers(&bound());
    let ids = |from: u32| [OpId(from), OpId(from + 1), OpId(from + 2)];
    let first = task_model(&graph, &ids(0), &|_| None).unwrap();
    let second = task_model(&graph, &ids(3), &|_| None).unwrap();
    assert_eq!(first.model, second.model);
    assert_eq!(names(&graph, &first.inputs), ["x", "w0", "shared"]);
    assert_eq!(names(&graph, &second.inputs), ["y0", "w1", "shared"]);
    assert_eq!(names(&graph, &second.outputs), ["y1"]);
    let proto = onnx::ModelProto::decode(first.model).unwrap().graph.unwrap();
    let wires: Vec<_> = proto.node.iter().map(|n| (n.name.as_str(), n.input.join(" "), n.output.join(" "))).collect();
    assert_eq!(wires[0], ("", "i0 i1".to_owned(), "t0".to_owned()));
    assert_eq!(wires[1], ("", "t0 i2".to_owned(), "t1".to_owned()));
    // The target of the Reshape is known, so it is held.
    assert_eq!(wires[2], ("", "t1 c0".to_owned(), "o0".to_owned()));
}

#[test]
fn embedded_weights_are_initializers() {
    let graph = layers(&bound());
    let embed = |id: ValueId| (graph.value(id).name == "w0").then(|| Bytes::from(vec![1; 64]));
    let task = task_model(&graph, &[OpId(0)], &embed).unwrap();
    assert_eq!(names(&graph, &task.inputs), ["x"]);
    assert_eq!(names(&graph, &task.outputs), ["product0"]);
    let short = |_| Some(Bytes::from(vec![1; 4]));
    let error = task_model(&graph, &[OpId(0)], &short).unwrap_err();
    assert!(matches!(error, TaskModelError::Bytes { found: 4, needed: 48, .. }), "{error}");
}

#[test]
fn the_whole_model_has_its_inputs_and_outputs() {
    let graph = layers(&bound());
    let whole = whole_model(&graph).unwrap();
    assert_eq!(names(&graph, &whole.inputs), ["x", "w0", "shared", "w1"]);
    assert_eq!(names(&graph, &whole.outputs), ["y1"]);
}

#[test]
fn a_size_that_is_no_number_is_left_open() {
    let whole = whole_model(&layers(&Binding::new())).unwrap();
    let model = onnx::ModelProto::decode(whole.model.clone()).unwrap();
    let Some(onnx::type_proto::Value::TensorType(x)) = model.graph.unwrap().input[0].r#type.clone().unwrap().value
    else {
        panic!("no tensor")
    };
    let sizes: Vec<_> = x.shape.unwrap().dim.into_iter().map(|d| d.value).collect();
    assert_eq!(sizes, [None, Some(onnx::tensor_shape_proto::dimension::Value::DimValue(4))]);
}

#[test]
fn a_constant_of_no_size_is_an_error() {
    let graph = layers(&Binding::new());
    let embed = |id: ValueId| (graph.value(id).name == "x").then(|| Bytes::from(vec![1; 64]));
    let error = task_model(&graph, &[OpId(0)], &embed).unwrap_err();
    assert!(matches!(&error, TaskModelError::Unbound { axis: 0, size, .. } if size == "n"), "{error}");
}
