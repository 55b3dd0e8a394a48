//! What the importer makes of local functions and of operators that hold graphs.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::{self, ImportError, Model, onnx};
use berth_compiler::lower::{LowerError, Lowered, Source, exactly, lower};
use berth_compiler::task_model::task_model;
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::{Content, Graph, OpId, ValueId};
use berth_ir::program::Kind;
use berth_ir::target::Target;
use build::{Builder, attribute};
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn open() -> Binding {
    Binding::new()
}

fn set(name: &str, values: &[i64]) -> BTreeMap<String, Vec<i64>> {
    BTreeMap::from([(name.to_owned(), values.to_vec())])
}

/// The graph that a builder made, to be held by a node.
fn body(b: &Builder) -> onnx::GraphProto {
    onnx::ModelProto::decode(&b.bytes()[..]).unwrap().graph.unwrap()
}

fn graph_attribute(name: &str, graph: onnx::GraphProto) -> onnx::AttributeProto {
    onnx::AttributeProto { name: name.to_owned(), r#type: 5, g: Some(Box::new(graph)), ..Default::default() }
}

fn refers(name: &str, to: &str) -> onnx::AttributeProto {
    onnx::AttributeProto { name: name.to_owned(), r#type: 2, ref_attr_name: to.to_owned(), ..Default::default() }
}

fn branches(then: &Builder, otherwise: &Builder) -> Vec<onnx::AttributeProto> {
    vec![graph_attribute("then_branch", body(then)), graph_attribute("else_branch", body(otherwise))]
}

fn shape_of(graph: &Graph, name: &str) -> String {
    let value = graph.values.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("no value `{name}`"));
    import::ops::show(&value.shape)
}

fn names(graph: &Graph, ids: impl IntoIterator<Item = ValueId>) -> Vec<String> {
    ids.into_iter().map(|id| graph.value(id).name.clone()).collect()
}

fn kinds(graph: &Graph) -> Vec<&str> {
    graph.ops.iter().map(|op| op.kind.as_str()).collect()
}

fn lowered(graph: &Graph) -> Result<Lowered, LowerError> {
    let (name, source) = (String::new(), String::new());
    let target = Target { name, source, tiers: vec![], engines: vec![], links: vec![] };
    lower(graph, &exactly(&open()), &target, &|_, _, _| None)
}

fn check_refused(model: &Model, parts: &[&str]) {
    let error = model.graph(&open()).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// A model with functions of the domain `f`: name, operands, results, attributes with defaults, nodes.
fn with_functions(b: &Builder, functions: Vec<onnx::FunctionProto>) -> Result<Model, ImportError> {
    let mut proto = onnx::ModelProto::decode(&b.bytes()[..]).unwrap();
    proto.opset_import.push(onnx::OperatorSetIdProto { domain: "f".to_owned(), version: 1 });
    proto.functions = functions;
    for node in &mut proto.graph.as_mut().unwrap().node {
        if proto.functions.iter().any(|f| f.name == node.op_type) {
            node.domain = "f".to_owned();
        }
    }
    Model::decode(proto.encode_to_vec().into(), PathBuf::from("/nowhere/model.onnx"))
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], inside: &Builder) -> onnx::FunctionProto {
    let opset_import = vec![
        onnx::OperatorSetIdProto { domain: String::new(), version: 17 },
        onnx::OperatorSetIdProto { domain: "f".to_owned(), version: 1 },
    ];
    onnx::FunctionProto {
        name: name.to_owned(),
        domain: "f".to_owned(),
        input: inputs.iter().map(|n| (*n).to_owned()).collect(),
        output: outputs.iter().map(|n| (*n).to_owned()).collect(),
        node: body(inside).node,
        opset_import,
        ..Default::default()
    }
}

/// The axis is given once and left at its default once; the names inside stay apart.
#[test]
fn functions_are_inlined() {
    let mut inside = Builder::new(17);
    inside.node("Relu", &["a"], &["t"], vec![]);
    inside.node("Concat", &["t", "a"], &["c"], vec![refers("axis", "along")]);
    let mut double = function("Double", &["a"], &["c"], &inside);
    double.attribute_proto = vec![attribute("along", 0)];
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["2", "3"]).output("z");
    b.node("Double", &["x"], &["y"], vec![attribute("along", 1)]);
    b.node("Double", &["y"], &["z"], vec![]);
    let graph = with_functions(&b, vec![double]).unwrap().graph(&open()).unwrap();
    assert_eq!(kinds(&graph), ["Relu", "Concat", "Relu", "Concat"]);
    assert_eq!((shape_of(&graph, "y"), shape_of(&graph, "z")), ("[2, 6]".to_owned(), "[4, 6]".to_owned()));
    assert_eq!(names(&graph, graph.outputs.iter().copied()), ["z"]);
    assert_eq!((shape_of(&graph, "y/t"), shape_of(&graph, "z/t")), ("[2, 3]".to_owned(), "[2, 6]".to_owned()));
}

/// A result that is an operand is a copy; an absent operand stays absent; a graph inside reads names of the function.
#[test]
fn functions_pass_on_operands_and_hold_graphs() {
    let mut then = Builder::new(17);
    then.output("r").node("Neg", &["t"], &["r"], vec![]);
    let mut otherwise = Builder::new(17);
    otherwise.output("r").node("Abs", &["t"], &["r"], vec![]);
    let mut inside = Builder::new(17);
    inside.node("Clip", &["a", "least"], &["t"], vec![]);
    inside.node("If", &["c"], &["chosen"], branches(&then, &otherwise));
    let f = function("F", &["a", "c", "least"], &["a", "chosen"], &inside);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["2"]).input("cond", DType::Bool, &[]).output("copy").output("y");
    b.node("F", &["x", "cond"], &["copy", "y"], vec![]);
    let graph = with_functions(&b, vec![f]).unwrap().graph(&open()).unwrap();
    assert_eq!(kinds(&graph), ["Clip", "If", "Identity"]);
    assert_eq!(names(&graph, graph.outputs.iter().copied()), ["copy", "y"]);
    let op = graph.ops.iter().find(|op| op.kind == "If").unwrap();
    assert_eq!(names(&graph, op.captures.iter().map(|(_, id)| *id)), ["copy/t"]);
}

#[test]
fn functions_that_end_nowhere_are_refused() {
    let caller = |name: &str| {
        let mut inside = Builder::new(17);
        inside.node(name, &["a"], &["b"], vec![]);
        inside.node(name, &["b"], &["c"], vec![]);
        inside
    };
    let calls = |name: &str, to: &str| {
        let mut f = function(name, &["a"], &["c"], &caller(to));
        f.node.iter_mut().for_each(|n| n.domain = if to == "Relu" { "" } else { "f" }.to_owned());
        f
    };
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["2"]).output("y").node("A", &["x"], &["y"], vec![]);
    let error = with_functions(&b, vec![calls("A", "B"), calls("B", "A")]).unwrap_err().to_string();
    assert!(error.contains("`A`, then `B`, then `A`"), "{error}");
    // Twenty-five functions, each calling the next one twice.
    let letter = |n: u8| char::from(b'A' + n).to_string();
    let mut chain: Vec<_> = (0..24).map(|n| calls(&letter(n), &letter(n + 1))).collect();
    chain.push(calls(&letter(24), "Relu"));
    let error = with_functions(&b, chain).unwrap_err().to_string();
    assert!(error.contains("operators") && error.contains("inlined"), "{error}");
    let mut old = calls("A", "Relu");
    old.opset_import[0].version = 12;
    let error = with_functions(&b, vec![old]).unwrap_err().to_string();
    for part in ["`A`", "12", "17"] {
        assert!(error.contains(part), "{error}");
    }
}

/// One branch adds a large weight of its own to what it reads from outside, the other a small one.
fn chooser(large: i64) -> Builder {
    let mut then = Builder::new(17);
    then.tensor("w", DType::F32, &[large], vec![1; 4 * large as usize]).output("r");
    then.node("Add", &["h", "w"], &["r"], vec![]);
    let mut otherwise = Builder::new(17);
    otherwise.tensor("w", DType::F32, &[1], vec![2; 4]).output("r2");
    otherwise.node("Mul", &["h", "w"], &["r2"], vec![]);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["32"]).input("cond", DType::Bool, &["1"]).output("z");
    b.node("Relu", &["x"], &["h"], vec![]);
    b.node("If", &["cond"], &["y"], branches(&then, &otherwise));
    b.node("Neg", &["y"], &["z"], vec![]);
    b
}

#[test]
fn an_if_lists_what_it_reads_and_its_weights_stream() {
    let graph = chooser(32).model().graph(&open()).unwrap();
    assert_eq!(kinds(&graph), ["Relu", "If", "Neg"]);
    let op = &graph.ops[1];
    let mut captures = names(&graph, op.captures.iter().map(|(_, id)| *id));
    captures.sort();
    assert_eq!(captures, ["h", "w"]);
    let weight = graph.values.iter().find(|v| v.name == "w").unwrap();
    assert!(matches!(&weight.content, Content::Stored(s) if s.bytes == 128), "{weight:?}");
    assert_eq!(op.work.flops.as_constant(), Some(32));
    let lowered = lowered(&graph).unwrap();
    let task = &lowered.lifetimes.tasks[1];
    let reads: Vec<_> = task.reads.iter().map(|t| lowered.lifetimes.tensor(*t)).collect();
    assert!(reads.iter().any(|t| t.name == "w" && t.kind == Kind::Weight && t.home.is_some()), "{reads:?}");
    assert!(reads.iter().any(|t| t.name == "h") && reads.len() == 3, "{reads:?}");
    assert!(task.workspace >= 128);
    // The engine sees inputs only, and no large constant inside.
    let model = onnx::ModelProto::decode(lowered.codes[1].model.clone()).unwrap().graph.unwrap();
    let inputs: Vec<&str> = model.input.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(inputs, ["i0", "i1", "i2"]);
    let inside: Vec<_> = model.node[0].attribute.iter().map(|a| a.g.clone().unwrap()).collect();
    assert!(inside[0].initializer.is_empty());
    assert_eq!(inside[1].initializer.len(), 1);
    assert!(inside[0].node[0].input.iter().all(|i| inputs.contains(&i.as_str())), "{:?}", inside[0].node[0].input);
}

/// The same If on other names is the same code.
#[test]
fn equal_graphs_inside_are_equal_bytes() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["32"]).input("cond", DType::Bool, &["1"]).output("y1");
    let mut from = "x".to_owned();
    for layer in 0..2 {
        let name = |what: &str| format!("{what}{layer}");
        let mut then = Builder::new(17);
        then.tensor(&name("w"), DType::F32, &[32], vec![layer; 128]).output(&name("r"));
        then.node("Add", &[&from, &name("w")], &[&name("r")], vec![]);
        // The engine refuses a result that comes from outside, so it is copied.
        let mut otherwise = Builder::new(17);
        otherwise.output(&from);
        b.node("If", &["cond"], &[&name("y")], branches(&then, &otherwise));
        from = name("y");
    }
    let graph = b.model().graph(&open()).unwrap();
    let tasks: Vec<_> = (0..2).map(|n| task_model(&graph, &[OpId(n)], &|_| None).unwrap()).collect();
    assert_eq!(tasks[0].model, tasks[1].model);
    assert_eq!(names(&graph, tasks[1].inputs.iter().copied()), ["cond", "y0", "w1"]);
    let model = onnx::ModelProto::decode(tasks[0].model.clone()).unwrap().graph.unwrap();
    let otherwise = model.node[0].attribute[1].g.clone().unwrap();
    assert_eq!(otherwise.node[0].op_type, "Identity");
}

#[test]
fn a_condition_that_is_set_or_follows_leaves_one_branch() {
    let model = chooser(32).model();
    let graph = model.graph_with(&open(), &set("cond", &[1])).unwrap();
    assert_eq!(kinds(&graph), ["Relu", "Add", "Neg"]);
    assert_eq!(names(&graph, graph.ops[1].reads()), ["h", "w"]);
    assert_eq!(shape_of(&graph, "y"), "[32]");
    let lowered = lowered(&graph).unwrap();
    assert_eq!(lowered.inputs.iter().find(|i| i.name == "cond").unwrap().tensor, None);
    assert_eq!(kinds(&model.graph_with(&open(), &set("cond", &[0])).unwrap()), ["Relu", "Mul", "Neg"]);
    for (wrong, part) in
        [(set("x", &[1; 32]), "truth values"), (set("cond", &[2]), "outside"), (set("no", &[1]), "cond")]
    {
        let error = model.graph_with(&open(), &wrong).unwrap_err();
        assert!(matches!(error, ImportError::Set { .. }) && error.to_string().contains(part), "{error}");
    }
    assert!(model.graph_with(&open(), &set("cond", &[1, 1])).unwrap_err().to_string().contains("2 are given"));

    // Whether the first axis is four long, as shape arithmetic says; a branch that gives on what it was given.
    let mut then = Builder::new(17);
    then.output("x");
    let mut otherwise = Builder::new(17);
    otherwise.output("o").node("Flatten", &["x"], &["o"], vec![]);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "2", "2"]).output("y").ints("zero", &[0]).ints("four", &[4]);
    b.node("Shape", &["x"], &["s"], vec![]).node("Gather", &["s", "zero"], &["n"], vec![]);
    b.node("Equal", &["n", "four"], &["same"], vec![]);
    b.node("If", &["same"], &["y"], branches(&then, &otherwise));
    let at = |n: u64| b.model().graph(&Binding::from([("n".to_owned(), n)])).unwrap();
    assert_eq!((shape_of(&at(4), "y"), shape_of(&at(5), "y")), ("[4, 2, 2]".to_owned(), "[5, 4]".to_owned()));
    assert_eq!(kinds(&at(4)).last(), Some(&"Identity"));
    // Not known before `n` is, and the ranks differ.
    check_refused(&b.model(), &["If", "`y`", "[n, 2, 2]", "[n, 4]"]);
}

/// Bytes that are planned for the one output.
fn output_bytes(graph: &Graph) -> u64 {
    lowered(graph).unwrap().lifetimes.total(Kind::Output)
}

/// Slices of these lengths, by branch.
fn slices(then: &[i64], otherwise: &[i64]) -> Model {
    let branch = |ends: &[i64]| {
        let mut b = Builder::new(17);
        b.ints("from", &[0, 0]).ints("to", ends).output("r");
        b.node("Slice", &["x", "from", "to"], &["r"], vec![]);
        b
    };
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["8", "8"]).input("cond", DType::Bool, &[]).output("y");
    b.node("If", &["cond"], &["y"], branches(&branch(then), &branch(otherwise)));
    b.model()
}

#[test]
fn branches_of_other_sizes() {
    let graph = slices(&[2, 3], &[2, 5]).graph(&open()).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[2, y:1]");
    assert_eq!(output_bytes(&graph), 2 * 5 * 4);
    // The run says which it is; there is room for either.
    let graph = slices(&[2, 5], &[3, 4]).graph(&open()).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[y:0, y:1]");
    assert_eq!(output_bytes(&graph), 3 * 5 * 4);
}

#[test]
fn a_branch_that_cannot_run_is_not_taken() {
    let mut then = Builder::new(17);
    then.output("r").node("Add", &["x", "mask"], &["r"], vec![]);
    let mut otherwise = Builder::new(17);
    otherwise.output("r").node("Neg", &["x"], &["r"], vec![]);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n"]).input("mask", DType::F32, &["m"]).input("cond", DType::Bool, &[]).output("y");
    b.node("If", &["cond"], &["y"], branches(&then, &otherwise));
    let at = |n: u64, m: u64| Binding::from([("n".to_owned(), n), ("m".to_owned(), m)]);
    let graph = b.model().graph(&at(3, 4)).unwrap();
    assert!(graph.assumptions[0].contains("then_branch cannot run"), "{:?}", graph.assumptions);
    assert_eq!(shape_of(&graph, "y"), "[3]");
    assert_eq!(b.model().graph(&at(3, 3)).unwrap().assumptions, Vec::<String>::new());
    // A relation that one branch needs says nothing of the inputs.
    assert_eq!(shape_of(&b.model().graph(&open()).unwrap(), "mask"), "[m]");
}

/// A sum that is carried, and each turn's sum as a result.
fn looping(grows: bool, most: Option<&[i64]>, carry_condition: &str) -> Builder {
    let mut inside = Builder::new(17);
    inside.input("turn", DType::I64, &[]).input("on", DType::Bool, &[]).input("sum", DType::F32, &["4"]);
    inside.output("on_out").output("sum_out").output("seen");
    inside.node(carry_condition, &["on"], &["on_out"], vec![]);
    match grows {
        true => inside.node("Concat", &["sum", "x"], &["sum_out"], vec![attribute("axis", 0)]),
        false => inside.node("Add", &["sum", "x"], &["sum_out"], vec![]),
    };
    inside.node("Identity", &["sum_out"], &["seen"], vec![]);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["4"]).output("last").output("all");
    match most {
        Some(most) => b.ints("most", most),
        None => b.input("most", DType::I64, &["1"]),
    };
    b.node("Loop", &["most", "", "x"], &["last", "all"], vec![graph_attribute("body", body(&inside))]);
    b
}

#[test]
fn loops() {
    let graph = looping(false, Some(&[6]), "Identity").model().graph(&open()).unwrap();
    assert_eq!((shape_of(&graph, "last"), shape_of(&graph, "all")), ("[4]".to_owned(), "[6, 4]".to_owned()));
    assert_eq!(graph.ops[0].work.flops.as_constant(), Some(24));
    assert_eq!(names(&graph, graph.ops[0].captures.iter().map(|(_, id)| *id)), ["x"]);
    lowered(&graph).unwrap();
    // It may end early.
    let graph = looping(false, Some(&[6]), "Not").model().graph(&open()).unwrap();
    assert_eq!(shape_of(&graph, "all"), "[all:0, 4]");
    assert_eq!(graph.data_dims[0].1.as_constant(), Some(6));
    assert_eq!(output_bytes(&graph), 4 * 4 + 6 * 4 * 4);
    check_refused(&looping(true, Some(&[6]), "Identity").model(), &["Loop", "`x`", "[4]", "[8]", "not supported"]);
    let mut unknown = looping(false, None, "Identity");
    check_refused(&unknown.model(), &["Loop", "`all`", "run time"]);
    let graph = unknown.model().graph_with(&open(), &set("most", &[3])).unwrap();
    assert_eq!(shape_of(&graph, "all"), "[3, 4]");
    unknown.declare("all", DType::F32, &["5", "4"]);
    let graph = unknown.model().graph(&open()).unwrap();
    assert_eq!(shape_of(&graph, "all"), "[5, 4]");
    assert!(graph.assumptions.iter().any(|a| a.contains("declared size 5")), "{:?}", graph.assumptions);
}

#[test]
fn scans_take_an_axis_off_and_put_one_on() {
    let mut inside = Builder::new(17);
    inside.input("sum", DType::F32, &["2"]).input("next", DType::F32, &["2"]).output("sum_out").output("each");
    inside.node("Add", &["sum", "next"], &["sum_out"], vec![]).node("Neg", &["sum_out"], &["each"], vec![]);
    let ints = |name: &str, ints: Vec<i64>| onnx::AttributeProto {
        name: name.to_owned(),
        r#type: 7,
        ints,
        ..Default::default()
    };
    let mut b = Builder::new(17);
    b.input("s", DType::F32, &["2"]).input("x", DType::F32, &["2", "n"]).output("last").output("all");
    let attributes = vec![
        graph_attribute("body", body(&inside)),
        attribute("num_scan_inputs", 1),
        ints("scan_input_axes", vec![1]),
        ints("scan_output_axes", vec![-1]),
    ];
    b.node("Scan", &["s", "x"], &["last", "all"], attributes);
    let graph = b.model().graph(&open()).unwrap();
    assert_eq!((shape_of(&graph, "last"), shape_of(&graph, "all")), ("[2]".to_owned(), "[2, n]".to_owned()));
    assert_eq!(graph.ops[0].work.flops.to_string(), "4*n");
}

#[test]
fn sizes_that_data_decide_have_room_for_the_most() {
    let branch = |kind: &str| {
        let mut b = Builder::new(17);
        b.output("found").node(kind, &["x"], &["h"], vec![]).node("NonZero", &["h"], &["found"], vec![]);
        b
    };
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).input("cond", DType::Bool, &[]).output("y");
    b.node("If", &["cond"], &["y"], branches(&branch("Neg"), &branch("Abs")));
    let graph = b.model().graph(&open()).unwrap();
    assert_eq!(shape_of(&graph, "y"), "[1, y:1]");
    assert_eq!(graph.data_dims.len(), 1);
    assert_eq!((graph.data_dims[0].0.as_str(), graph.data_dims[0].1.as_constant()), ("y:1", Some(6)));
    assert_eq!(output_bytes(&graph), 6 * 8);
    // A size that follows from one: the operator that makes it runs although nobody reads its result.
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).input("z", DType::F32, &["1"]).output("y").ints("one", &[1]);
    b.node("NonZero", &["x"], &["at"], vec![]).node("Shape", &["at"], &["s"], vec![]);
    b.node("Gather", &["s", "one"], &["n"], vec![]).node("Expand", &["z", "n"], &["y"], vec![]);
    let graph = b.model().graph(&open()).unwrap();
    assert_eq!((shape_of(&graph, "y"), output_bytes(&graph)), ("[at:1]".to_owned(), 6 * 4));
    let tasks = lowered(&graph).unwrap();
    assert_eq!(tasks.lifetimes.tasks.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["at", "y"]);
    let found: Vec<bool> = tasks.codes.iter().map(|code| code.outputs[0].found).collect();
    assert_eq!(found, [true, false]);
    assert!(
        matches!(&tasks.codes[1].inputs[1].source, Source::Known { elements, .. } if elements[0].to_string() == "at:1")
    );
}

#[test]
fn sequences_are_refused_by_name() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).output("y").node("SplitToSequence", &["x"], &["s"], vec![]);
    check_refused(&b.model(), &["SplitToSequence", "`s`", "sequences", "not supported"]);
    let mut then = Builder::new(17);
    then.output("r").node("SequenceConstruct", &["x"], &["s"], vec![]).node("SequenceAt", &["s"], &["r"], vec![]);
    let mut otherwise = Builder::new(17);
    otherwise.output("r").node("Neg", &["x"], &["r"], vec![]);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).input("cond", DType::Bool, &[]).output("y");
    b.node("If", &["cond"], &["y"], branches(&then, &otherwise));
    check_refused(&b.model(), &["SequenceConstruct", "sequences", "not supported"]);
}

/// No engine opens a file that a body names: what is external inside is a value outside, however small.
#[test]
fn external_data_inside_is_outside() {
    let mut then = Builder::new(17);
    then.external("w", &[2], "weights.bin").output("r").node("Add", &["x", "w"], &["r"], vec![]);
    let mut otherwise = Builder::new(17);
    otherwise.output("r").node("Neg", &["x"], &["r"], vec![]);
    let make = |then: &Builder| {
        let mut b = Builder::new(17);
        b.input("x", DType::F32, &["2"]).input("cond", DType::Bool, &[]).output("y");
        b.node("If", &["cond"], &["y"], branches(then, &otherwise));
        Model::decode(b.bytes().into(), std::env::temp_dir().join("model.onnx")).unwrap()
    };
    let graph = make(&then).graph(&open()).unwrap();
    assert!(graph.values.iter().any(|v| v.name == "w" && matches!(&v.content, Content::Stored(_))));
    let task = task_model(&graph, &[OpId(0)], &|_| None).unwrap();
    assert!(!String::from_utf8_lossy(&task.model).contains("weights.bin"));
    let mut then = Builder::new(17);
    then.external("w", &[2], "../weights.bin").output("r").node("Add", &["x", "w"], &["r"], vec![]);
    assert!(matches!(make(&then).graph(&open()), Err(ImportError::External { .. })));
}

/// One name for two sizes: the file's mask is as long as past and new, and declared as long as the new.
#[test]
fn an_axis_can_be_bound_by_its_place() {
    let Some(folder) = shared() else { return };
    let model = import::open(&folder.join("llama_merged_if.onnx")).unwrap();
    model.graph(&open()).unwrap();
    let sizes = [("batch", 2), ("past", 5), ("seq", 3), ("attention_mask:1", 8)];
    let binding: Binding = sizes.map(|(name, size)| (name.to_owned(), size)).into();
    let graph = model.graph(&binding).unwrap();
    assert_eq!((graph.ops.len(), graph.ops[0].captures.len()), (1, 43));
    assert_eq!(shape_of(&graph, "present.0.key"), "[2, 2, present.0.key:2, 16]");
    assert!(graph.data_dims.iter().all(|(_, most)| most.as_constant() == Some(8)), "{:?}", graph.data_dims);
    assert!(graph.ops[0].work.inside_bytes.as_constant().is_some_and(|b| (16_000..200_000).contains(&b)));
    let flops = graph.ops[0].work.flops.clone();
    let graph = model.graph_with(&binding, &set("use_cache_branch", &[1])).unwrap();
    assert_eq!(graph.ops.len(), 352);
    assert_eq!(shape_of(&graph, "present.0.key"), "[2, 2, 8, 16]");
    let sum = graph.ops.iter().map(|op| op.work.flops.as_constant().unwrap()).sum::<i128>();
    assert_eq!(flops.as_constant(), Some(sum));
    let graph = model.graph_with(&binding, &set("use_cache_branch", &[0]));
    // The branch without a past takes a mask of the new ones only.
    assert!(graph.is_err() || shape_of(&graph.unwrap(), "present.0.key") == "[2, 2, 3, 16]");
}

#[test]
fn suite_cases() {
    let Some(folder) = shared() else { return };
    let graph = |name: &str| {
        let model = import::open(&folder.join("onnx_suite").join(name).with_extension("onnx"));
        model.and_then(|model| model.graph(&open()))
    };
    assert_eq!(shape_of(&graph("test_if").unwrap(), "res"), "[5]");
    assert_eq!(shape_of(&graph("test_loop11").unwrap(), "res_scan"), "[5, 1]");
    assert_eq!(shape_of(&graph("test_scan9_sum").unwrap(), "z"), "[3, 2]");
    for name in ["test_nonzero_example", "test_nonmaxsuppression_two_classes"] {
        assert!(lowered(&graph(name).unwrap()).unwrap().codes[0].outputs[0].found, "{name}");
    }
    for name in ["test_identity_sequence", "test_optional_has_element_tensor_input", "test_split_to_sequence_1"] {
        let error = graph(name).unwrap_err().to_string();
        assert!(error.contains("not supported"), "{error}");
    }
}

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("shared/models is not beside the repository: skipped");
    None
}

/// Every prefix of models with graphs inside and with functions, and many single changed bytes: an error or a graph.
#[test]
fn damaged_files_do_no_harm() {
    let mut inside = Builder::new(17);
    inside.node("If", &["a"], &["c"], branches(&chooser(1), &chooser(2)));
    let f = function("F", &["a"], &["c"], &inside);
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["2"]).output("y").node("F", &["x"], &["y"], vec![]);
    let with_function = with_functions(&b, vec![f]).unwrap().proto().encode_to_vec();
    for bytes in [chooser(20).bytes(), looping(false, Some(&[6]), "Identity").bytes(), with_function] {
        let read = |bytes: Vec<u8>| {
            let model = Model::decode(bytes.into(), PathBuf::from("/nowhere/model.onnx"));
            if let Ok(graph) = model.and_then(|model| model.graph(&open())) {
                let _ = lowered(&graph);
            }
        };
        for end in 0..bytes.len() {
            read(bytes[..end].to_vec());
            for change in [1, 0x80, 0xff, 0x3b] {
                let mut damaged = bytes.clone();
                damaged[end] ^= change;
                read(damaged);
            }
        }
    }
}
