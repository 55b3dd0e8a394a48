//! Both decoders read the same from every trusted file, and a changed message is found different.

use berth_compiler::import;
use berth_compiler::import::onnx::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_shape_proto::Dimension,
    tensor_shape_proto::dimension, type_proto,
};
use berth_oracle::decoding::{Compared, compare};
use berth_oracle::{models, shared, stem};
use onnx_protobuf::Message as _;
use prost::Message as _;

fn theirs(bytes: &[u8]) -> onnx_protobuf::ModelProto {
    onnx_protobuf::ModelProto::parse_from_bytes(bytes).expect("the other decoder reads it")
}

#[test]
fn every_trusted_file_is_read_alike() {
    let mut walked = 0;
    for path in models() {
        let (name, bytes) = (stem(&path), std::fs::read(&path).unwrap());
        // Through the importer where it takes the file; sequences and the like are only decoded.
        let ours = match import::open(&path) {
            Ok(model) => model.proto().clone(),
            Err(_) => ModelProto::decode(bytes.as_slice()).unwrap(),
        };
        let found = compare(&ours, &theirs(&bytes));
        assert!(found.differences.is_empty(), "{name}: {:#?}", found.differences);
        assert!(found.fields > 30, "{name}: only {} fields", found.fields);
        println!("{name}: {} fields", found.fields);
        walked += 1;
    }
    assert!(walked >= if shared() { 40 } else { 6 }, "only {walked} files");
}

fn type_of(value: type_proto::Value) -> TypeProto {
    TypeProto { value: Some(value) }
}

fn tensor_type(elem_type: i32) -> type_proto::Tensor {
    let values = [Some(dimension::Value::DimValue(3)), Some(dimension::Value::DimParam("n".into())), None];
    let dim = values.map(|value| Dimension { value }).to_vec();
    type_proto::Tensor { elem_type, shape: Some(TensorShapeProto { dim }) }
}

/// Every kind of type that the older schema has.
fn types() -> Vec<TypeProto> {
    let element = || Some(Box::new(type_of(type_proto::Value::TensorType(tensor_type(1)))));
    vec![
        *element().unwrap(),
        type_of(type_proto::Value::SparseTensorType(tensor_type(7))),
        type_of(type_proto::Value::SequenceType(Box::new(type_proto::Sequence { elem_type: element() }))),
        type_of(type_proto::Value::OptionalType(Box::new(type_proto::Optional { elem_type: element() }))),
        type_of(type_proto::Value::MapType(Box::new(type_proto::Map { key_type: 8, value_type: element() }))),
        TypeProto { value: None },
    ]
}

/// A tensor with something in every field.
fn tensor(name: &str) -> TensorProto {
    TensorProto {
        dims: vec![2, -1],
        data_type: 23,
        float_data: [1.5f32, f32::NAN].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
        int32_data: vec![-1, 7],
        string_data: vec![b"a".to_vec(), vec![0xff, 0]],
        int64_data: vec![i64::MIN, 5],
        name: name.to_owned(),
        raw_data: vec![0, 1, 2, 255].into(),
        double_data: [2.5f64].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>().into(),
        uint64_data: vec![u64::MAX],
        external_data: vec![StringStringEntryProto { key: "location".into(), value: "w.bin".into() }],
        data_location: 1,
    }
}

fn sparse() -> SparseTensorProto {
    SparseTensorProto { values: Some(tensor("values")), indices: Some(tensor("indices")), dims: vec![4, 4] }
}

/// An attribute with something in every field; real ones use one.
fn attribute(graph: GraphProto) -> AttributeProto {
    AttributeProto {
        name: "all".into(),
        f: Some(-0.0),
        i: Some(-3),
        s: Some(b"text".to_vec().into()),
        t: Some(Box::new(tensor("t"))),
        g: Some(Box::new(graph.clone())),
        floats: vec![f32::INFINITY, f32::NAN],
        ints: vec![1, -1],
        strings: vec![b"x".to_vec().into(), vec![0xfe].into()],
        tensors: vec![tensor("one"), tensor("two")],
        graphs: vec![graph],
        tp: Some(Box::new(types().remove(0))),
        type_protos: types(),
        r#type: 99,
        ref_attr_name: "other".into(),
        sparse_tensor: Some(Box::new(sparse())),
        sparse_tensors: vec![sparse()],
    }
}

fn node(attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        input: vec!["x".into(), String::new()],
        output: vec!["y".into()],
        name: "node".into(),
        op_type: "Op".into(),
        attribute: attributes,
        domain: "domain".into(),
        overload: "overload".into(),
    }
}

fn graph(nodes: Vec<NodeProto>) -> GraphProto {
    let info = |name: &str, r#type| ValueInfoProto { name: name.into(), r#type };
    GraphProto {
        node: nodes,
        name: "graph".into(),
        initializer: vec![tensor("weight")],
        input: vec![info("x", Some(types().remove(0))), info("untyped", None)],
        output: vec![info("y", Some(types().remove(1)))],
        value_info: types().into_iter().map(|t| info("value", Some(t))).collect(),
        sparse_initializer: vec![sparse()],
    }
}

/// A message with something in every field that berth reads, a graph inside of a graph among it. No real model is so.
fn everything() -> ModelProto {
    let inner = graph(vec![node(vec![])]);
    let opset_import = vec![OperatorSetIdProto { domain: "domain".into(), version: 3 }];
    let function = FunctionProto {
        name: "function".into(),
        input: vec!["a".into()],
        output: vec!["b".into()],
        attribute: vec!["alpha".into()],
        node: vec![node(vec![])],
        opset_import: opset_import.clone(),
        domain: "domain".into(),
        attribute_proto: vec![attribute(GraphProto::default())],
        overload: "overload".into(),
    };
    ModelProto {
        ir_version: 10,
        producer_name: "producer".into(),
        producer_version: "1.0".into(),
        graph: Some(graph(vec![node(vec![attribute(inner)])])),
        opset_import,
        functions: vec![function],
    }
}

#[test]
fn a_message_with_every_field_is_read_alike() {
    let bytes = everything().encode_to_vec();
    let found = compare(&ModelProto::decode(bytes.as_slice()).unwrap(), &theirs(&bytes));
    assert!(found.differences.is_empty(), "{:#?}", found.differences);
}

/// What is found when ours is changed and theirs is not.
fn after(change: impl FnOnce(&mut ModelProto)) -> Compared {
    let mut ours = everything();
    let theirs = theirs(&ours.encode_to_vec());
    change(&mut ours);
    compare(&ours, &theirs)
}

fn main_graph(model: &mut ModelProto) -> &mut GraphProto {
    model.graph.as_mut().unwrap()
}

fn attribute_of(model: &mut ModelProto) -> &mut AttributeProto {
    &mut main_graph(model).node[0].attribute[0]
}

fn inner(model: &mut ModelProto) -> &mut GraphProto {
    attribute_of(model).g.as_mut().unwrap()
}

fn dims(value: &mut ValueInfoProto) -> &mut Vec<Dimension> {
    match &mut value.r#type.as_mut().unwrap().value {
        Some(type_proto::Value::TensorType(tensor)) => &mut tensor.shape.as_mut().unwrap().dim,
        _ => panic!("a tensor"),
    }
}

/// A change, and where it is to be found.
type Change = (fn(&mut ModelProto), &'static str);

const CHANGES: &[Change] = &[
    (|m| m.ir_version += 1, "ir_version"),
    (|m| m.producer_name.clear(), "producer_name"),
    (|m| m.opset_import[0].version += 1, "opset_import[0].version"),
    (|m| m.graph = None, "graph"),
    (|m| m.functions[0].overload.clear(), "functions[0].overload"),
    (|m| m.functions[0].node[0].op_type.push('x'), "functions[0].node[0].op_type"),
    (|m| m.functions[0].attribute_proto[0].ints[1] = 1, "functions[0].attribute_proto[0].ints"),
    (|m| main_graph(m).name.clear(), "graph.name"),
    (|m| main_graph(m).node.clear(), "graph.node"),
    (|m| main_graph(m).node[0].input[1] = "z".into(), "graph.node[0].input"),
    (|m| main_graph(m).node[0].domain.clear(), "graph.node[0].domain"),
    (|m| main_graph(m).initializer[0].dims[0] = 3, "graph.initializer[0].dims"),
    (|m| main_graph(m).initializer[0].data_type = 1, "graph.initializer[0].data_type"),
    (|m| main_graph(m).initializer[0].raw_data = vec![0, 1, 3, 255].into(), "graph.initializer[0].raw_data"),
    (|m| main_graph(m).initializer[0].float_data = vec![0; 8].into(), "graph.initializer[0].float_data"),
    (|m| main_graph(m).initializer[0].double_data = vec![0; 8].into(), "graph.initializer[0].double_data"),
    (|m| main_graph(m).initializer[0].int64_data[0] += 1, "graph.initializer[0].int64_data"),
    (|m| main_graph(m).initializer[0].string_data[1][0] = 0, "graph.initializer[0].string_data[1].bytes"),
    (|m| main_graph(m).initializer[0].data_location = 0, "graph.initializer[0].data_location"),
    (
        |m| main_graph(m).initializer[0].external_data[0].value = "/w.bin".into(),
        "graph.initializer[0].external_data[0].value",
    ),
    (|m| dims(&mut main_graph(m).input[0])[1].value = None, "graph.input[0].type.tensor_type.shape.dim[1].value"),
    (|m| drop(dims(&mut main_graph(m).input[0]).pop()), "graph.input[0].type.tensor_type.shape.dim"),
    (|m| main_graph(m).input[0].r#type = None, "graph.input[0].type"),
    (|m| main_graph(m).value_info.swap(0, 1), "graph.value_info[0].type.value"),
    (|m| main_graph(m).sparse_initializer[0].indices = None, "graph.sparse_initializer[0].indices"),
    (|m| attribute_of(m).f = Some(0.0), "graph.node[0].attribute[0].f"),
    (|m| attribute_of(m).i = None, "graph.node[0].attribute[0].i"),
    (|m| attribute_of(m).s = Some(b"test".to_vec().into()), "graph.node[0].attribute[0].s"),
    (|m| attribute_of(m).r#type = 1, "graph.node[0].attribute[0].type"),
    (|m| attribute_of(m).strings[1] = vec![].into(), "graph.node[0].attribute[0].strings[1].bytes"),
    (|m| attribute_of(m).graphs.clear(), "graph.node[0].attribute[0].graphs"),
    (|m| attribute_of(m).sparse_tensor = None, "graph.node[0].attribute[0].sparse_tensor"),
    (|m| inner(m).node[0].output[0] = "z".into(), "graph.node[0].attribute[0].g.node[0].output"),
    (|m| inner(m).initializer[0].name.clear(), "graph.node[0].attribute[0].g.initializer[0].name"),
];

#[test]
fn each_change_is_found_where_it_is() {
    for (change, place) in CHANGES {
        let found = after(change).differences;
        let first = found.first().unwrap_or_else(|| panic!("a change of {place} is not found"));
        assert!(first.starts_with(&format!("{place}: ")), "{place} is found as {first}");
        // An exchange is found on both sides.
        let many = if place.starts_with("graph.value_info") { 2 } else { 1 };
        assert_eq!(found.len(), many, "{place}: {found:#?}");
    }
}

#[test]
fn what_the_older_schema_does_not_know_is_a_difference() {
    let opaque = type_proto::Opaque { domain: "d".into(), name: "n".into() };
    let mut model = everything();
    main_graph(&mut model).input[0].r#type = Some(type_of(type_proto::Value::OpaqueType(opaque)));
    let found = compare(&model, &theirs(&model.encode_to_vec())).differences;
    assert_eq!(found[0], "graph.input[0].type.#7: a field that is not known there");
}
