//! Each rule on the smallest graph that shows it: the tasks before, and after.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::onnx::AttributeProto;
use berth_compiler::lower::{exactly, lower};
use berth_compiler::rewrite::{rewrite, saved};
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, ValueId};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::DimRange;
use berth_ir::{DType, Target};
use build::{Builder, attribute};
use std::collections::{BTreeMap, HashMap};

fn lifetimes(graph: &Graph, dims: &BTreeMap<String, DimRange>) -> Lifetimes {
    let target = Target { name: String::new(), source: String::new(), tiers: vec![], engines: vec![], links: vec![] };
    lower(graph, dims, &target, &|_, _, _| None).unwrap().lifetimes
}

/// The types of the operators that run, in order.
fn tasks(graph: &Graph, dims: &BTreeMap<String, DimRange>) -> String {
    let kinds: HashMap<&str, &str> = graph.ops.iter().map(|op| (op.name.as_str(), op.kind.as_str())).collect();
    let tasks = lifetimes(graph, dims).tasks;
    tasks.iter().map(|t| kinds[t.name.as_str()]).collect::<Vec<_>>().join(" ")
}

fn boundary(graph: &Graph, ids: &[ValueId]) -> Vec<String> {
    ids.iter().map(|id| graph.value(*id)).map(|v| format!("{} {:?} {:?}", v.name, v.dtype, v.shape)).collect()
}

/// Which tasks run before and after; what comes in and goes out stays, and so does every name's being one's own.
#[track_caller]
fn check_in(b: &Builder, dims: &BTreeMap<String, DimRange>, before: &str, after: &str) {
    let bound: Binding = dims.iter().filter(|(_, r)| r.low == r.high).map(|(d, r)| (d.clone(), r.high)).collect();
    let graph = b.model().graph(&bound).unwrap();
    assert_eq!(tasks(&graph, dims), before, "before");
    let Some(other) = rewrite(&graph, dims) else {
        assert_eq!(before, after, "nothing was rewritten");
        return;
    };
    assert_eq!(tasks(&other, dims), after, "after");
    assert_eq!(boundary(&graph, &graph.inputs), boundary(&other, &other.inputs));
    assert_eq!(boundary(&graph, &graph.outputs), boundary(&other, &other.outputs));
    let mut names: Vec<&str> = other.ops.iter().map(|op| op.name.as_str()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), other.ops.len(), "two operators of one name");
    let won = saved(&lifetimes(&graph, dims), &lifetimes(&other, dims)).expect("it is cheaper");
    assert!(won.moved_bytes.1 < won.moved_bytes.0 || won.peak_bytes.1 < won.peak_bytes.0);
    assert!(rewrite(&other, dims).is_none(), "what was left could have been done at once");
}

#[track_caller]
fn check(b: &Builder, before: &str, after: &str) {
    check_in(b, &BTreeMap::new(), before, after);
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: 7, ints: values.to_vec(), ..Default::default() }
}

fn order(values: &[i64]) -> Vec<AttributeProto> {
    vec![ints("perm", values)]
}

/// `x` of a shape, and an output `y`.
fn model(shape: &[&str]) -> Builder {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, shape).output("y");
    b
}

/// A Slice along an axis.
fn slice(b: &mut Builder, from: &str, to: &str, axis: i64, start: i64, end: i64) {
    let names = ["start", "end", "axis"].map(|what| format!("{to} {what}"));
    for (name, value) in names.iter().zip([start, end, axis]) {
        b.ints(name, &[value]);
    }
    b.node("Slice", &[from, &names[0], &names[1], &names[2]], &[to], vec![]);
}

#[test]
fn transposes_cancel() {
    let mut b = model(&["2", "3", "4"]);
    b.node("Transpose", &["x"], &["a"], order(&[2, 0, 1])).node("Transpose", &["a"], &["b"], order(&[1, 2, 0]));
    b.node("Exp", &["b"], &["y"], vec![]);
    check(&b, "Transpose Transpose Exp", "Exp");
}

#[test]
fn transposes_join() {
    let mut b = model(&["2", "3", "4"]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0, 2])).node("Transpose", &["a"], &["b"], order(&[0, 2, 1]));
    b.node("Exp", &["b"], &["y"], vec![]);
    check(&b, "Transpose Transpose Exp", "Transpose Exp");
}

#[test]
fn a_transpose_that_moves_an_axis_of_one_is_a_view() {
    let mut b = model(&["batch", "1", "4", "8"]);
    b.node("Transpose", &["x"], &["a"], order(&[0, 2, 1, 3])).node("Exp", &["a"], &["y"], vec![]);
    check_in(&b, &exactly(&BTreeMap::from([("batch".to_owned(), 3)])), "Transpose Exp", "Exp");
    let range = BTreeMap::from([("batch".to_owned(), DimRange { low: 0, high: 9 })]);
    check_in(&b, &range, "Transpose Exp", "Exp");
    // An axis that may be one and may be more is moved.
    let mut b = model(&["4", "batch", "8"]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0, 2])).node("Exp", &["a"], &["y"], vec![]);
    let range = BTreeMap::from([("batch".to_owned(), DimRange { low: 1, high: 9 })]);
    check_in(&b, &range, "Transpose Exp", "Transpose Exp");
}

#[test]
fn transposes_meet_through_axes_of_one() {
    let mut b = model(&["2", "3"]);
    b.ints("at", &[1]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0])).node("Unsqueeze", &["a", "at"], &["b"], vec![]);
    b.node("Transpose", &["b"], &["c"], order(&[2, 1, 0])).node("Exp", &["c"], &["y"], vec![]);
    check(&b, "Transpose Transpose Exp", "Exp");
}

#[test]
fn transposes_meet_through_what_works_on_elements() {
    let mut b = model(&["2", "3", "4"]);
    b.input("z", DType::F32, &["2", "3", "4"]).tensor("two", DType::F32, &[], 2f32.to_le_bytes().to_vec());
    b.node("Transpose", &["x"], &["a"], order(&[0, 2, 1])).node("Transpose", &["z"], &["c"], order(&[0, 2, 1]));
    b.node("Relu", &["a"], &["r"], vec![]).node("Mul", &["r", "two"], &["m"], vec![]);
    b.node("Add", &["m", "c"], &["s"], vec![]).node("Transpose", &["s"], &["t"], order(&[0, 2, 1]));
    b.node("Exp", &["t"], &["y"], vec![]);
    check(&b, "Transpose Transpose Relu Mul Add Transpose Exp", "Relu Mul Add Exp");
    // Kernels of these may take the end of a row apart.
    let mut b = model(&["2", "3"]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0])).node("Tanh", &["a"], &["t"], vec![]);
    b.node("Transpose", &["t"], &["y"], order(&[1, 0]));
    check(&b, "Transpose Tanh Transpose", "Transpose Tanh Transpose");
}

#[test]
fn transposes_meet_through_concats_and_splits() {
    let mut b = model(&["2", "3"]);
    b.input("z", DType::F32, &["4", "3"]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0])).node("Transpose", &["z"], &["b"], order(&[1, 0]));
    b.node("Concat", &["a", "b"], &["c"], vec![attribute("axis", 1)]);
    b.node("Transpose", &["c"], &["t"], order(&[1, 0])).node("Exp", &["t"], &["y"], vec![]);
    check(&b, "Transpose Transpose Concat Transpose Exp", "Concat Exp");

    let mut b = model(&["2", "3"]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0]));
    slice(&mut b, "a", "s", 0, 1, 3);
    b.node("Transpose", &["s"], &["t"], order(&[1, 0])).node("Exp", &["t"], &["y"], vec![]);
    check(&b, "Transpose Slice Transpose Exp", "Slice Exp");
}

#[test]
fn a_piece_of_a_concat_is_the_operand() {
    let mut b = model(&["2", "3"]);
    b.input("z", DType::F32, &["2", "5"]);
    b.node("Concat", &["x", "z"], &["c"], vec![attribute("axis", 1)]);
    slice(&mut b, "c", "s", 1, 3, 8);
    b.node("Exp", &["s"], &["y"], vec![]);
    check(&b, "Concat Slice Exp", "Exp");

    let mut b = model(&["2", "3"]);
    b.input("z", DType::F32, &["2", "5"]).output("w");
    b.node("Concat", &["x", "z"], &["c"], vec![attribute("axis", -1)]);
    b.ints("sizes", &[3, 5]).node("Split", &["c", "sizes"], &["p", "q"], vec![attribute("axis", 1)]);
    b.node("Exp", &["p"], &["y"], vec![]).node("Exp", &["q"], &["w"], vec![]);
    check(&b, "Concat Split Exp Exp", "Exp Exp");
}

#[test]
fn a_piece_across_operands_is_a_shorter_concat() {
    let mut b = model(&["2", "30"]);
    b.input("z", DType::F32, &["2", "50"]).input("u", DType::F32, &["2", "40"]);
    b.node("Concat", &["u", "x", "z"], &["c"], vec![attribute("axis", 1)]);
    slice(&mut b, "c", "s", 1, 40, i64::from(i32::MAX));
    b.node("Exp", &["s"], &["y"], vec![]);
    check(&b, "Concat Slice Exp", "Concat Exp");
}

#[test]
fn a_piece_of_symbolic_places_is_the_operand() {
    let mut b = model(&["past", "3"]);
    b.input("z", DType::F32, &["5", "3"]);
    b.node("Concat", &["z", "x"], &["c"], vec![attribute("axis", 0)]);
    slice(&mut b, "c", "s", 0, 5, i64::from(i32::MAX));
    b.node("Exp", &["s"], &["y"], vec![]);
    let range = BTreeMap::from([("past".to_owned(), DimRange { low: 0, high: 7 })]);
    check_in(&b, &range, "Concat Slice Exp", "Exp");
    // Where a slice may end in either operand, nothing is said.
    let mut b = model(&["past", "3"]);
    b.input("z", DType::F32, &["5", "3"]);
    b.node("Concat", &["x", "z"], &["c"], vec![attribute("axis", 0)]);
    slice(&mut b, "c", "s", 0, 0, 4);
    b.node("Exp", &["s"], &["y"], vec![]);
    check_in(&b, &range, "Concat Slice Exp", "Concat Slice Exp");
}

#[test]
fn pieces_put_together_are_the_whole() {
    let mut b = model(&["2", "6"]);
    b.node("Split", &["x"], &["p", "q", "r"], vec![attribute("axis", 1)]);
    b.node("Concat", &["p", "q", "r"], &["c"], vec![attribute("axis", 1)]).node("Exp", &["c"], &["y"], vec![]);
    check(&b, "Split Concat Exp", "Exp");

    let mut b = model(&["2", "6"]);
    slice(&mut b, "x", "p", 1, 1, 3);
    slice(&mut b, "x", "q", 1, 3, 6);
    b.node("Concat", &["p", "q"], &["c"], vec![attribute("axis", 1)]).node("Exp", &["c"], &["y"], vec![]);
    // One slice holds all of `x` and most of it again; it is taken where another task holds as much.
    check(&b, "Slice Slice Concat Exp", "Slice Slice Concat Exp");
    b.output("w").node("Cos", &["x"], &["w"], vec![]);
    check(&b, "Slice Slice Concat Exp Cos", "Slice Exp Cos");

    // In another order they are something else.
    let mut b = model(&["2", "6"]);
    slice(&mut b, "x", "p", 1, 0, 3);
    slice(&mut b, "x", "q", 1, 3, 6);
    b.node("Concat", &["q", "p"], &["c"], vec![attribute("axis", 1)]).node("Exp", &["c"], &["y"], vec![]);
    check(&b, "Slice Slice Concat Exp", "Slice Slice Concat Exp");
}

/// A part that nobody reads is a result all the same: the engine counts them.
#[test]
fn a_split_keeps_parts_that_nobody_reads() {
    let mut b = model(&["2", "6"]);
    b.ints("sizes", &[4, 2]).node("Split", &["x", "sizes"], &["p", "q"], vec![attribute("axis", 1)]);
    b.node("Exp", &["p"], &["y"], vec![]);
    check(&b, "Split Exp", "Split Exp");
    let graph = b.model().graph(&Binding::new()).unwrap();
    assert!(graph.ops[0].outputs.len() == 2 && graph.ops[0].outputs.iter().all(Option::is_some));
}

#[test]
fn concats_join() {
    let mut b = model(&["2", "3"]);
    b.input("z", DType::F32, &["2", "5"]).input("u", DType::F32, &["2", "4"]);
    b.node("Concat", &["x", "z"], &["c"], vec![attribute("axis", 1)]);
    b.node("Concat", &["u", "c"], &["d"], vec![attribute("axis", 1)]).node("Exp", &["d"], &["y"], vec![]);
    check(&b, "Concat Concat Exp", "Concat Exp");
    let mut b = model(&["2", "3"]);
    b.node("Concat", &["x"], &["c"], vec![attribute("axis", 1)]).node("Exp", &["c"], &["y"], vec![]);
    check(&b, "Concat Exp", "Exp");
}

#[test]
fn slices_join() {
    let mut b = model(&["40", "3"]);
    slice(&mut b, "x", "s", 0, 2, 38);
    slice(&mut b, "s", "t", 0, 5, 9);
    b.node("Exp", &["t"], &["y"], vec![]);
    check(&b, "Slice Slice Exp", "Slice Exp");
    let mut b = model(&["40", "3"]);
    slice(&mut b, "x", "s", 0, 0, 40);
    b.node("Exp", &["s"], &["y"], vec![]);
    check(&b, "Slice Exp", "Exp");
}

#[test]
fn one_place_of_a_concat_is_the_operand() {
    let mut b = model(&["1", "30"]);
    b.input("z", DType::F32, &["1", "30"]).tensor("at", DType::I64, &[], 1i64.to_le_bytes().to_vec());
    b.node("Concat", &["x", "z"], &["c"], vec![attribute("axis", 0)]);
    b.node("Gather", &["c", "at"], &["g"], vec![attribute("axis", 0)]).node("Exp", &["g"], &["y"], vec![]);
    check(&b, "Concat Gather Exp", "Exp");
}

#[test]
fn what_changes_nothing_goes() {
    let mut b = model(&["2", "3"]);
    b.ints("shape", &[2, 3]).ints("once", &[1, 1]).ints("none", &[0, 0, 0, 0]);
    b.tensor("all", DType::Bool, &[2, 3], vec![1; 6]);
    b.node("Expand", &["x", "shape"], &["a"], vec![]).node("Tile", &["a", "once"], &["b"], vec![]);
    b.node("Cast", &["b"], &["c"], vec![attribute("to", 1)]).node("Pad", &["c", "none"], &["d"], vec![]);
    b.node("Exp", &["x"], &["e"], vec![]).node("Where", &["all", "d", "e"], &["f"], vec![]);
    b.node("Sin", &["f"], &["y"], vec![]);
    check(&b, "Expand Tile Cast Pad Exp Where Sin", "Sin");
}

#[test]
fn what_is_computed_twice_is_computed_once() {
    let mut b = model(&["2", "3"]);
    b.output("w");
    for (a, c) in [("a", "c"), ("b", "d")] {
        b.node("Exp", &["x"], &[a], vec![]).node("Sin", &[a], &[c], vec![]);
    }
    b.node("Cos", &["c"], &["y"], vec![]).node("Tan", &["d"], &["w"], vec![]);
    check(&b, "Exp Sin Exp Sin Cos Tan", "Exp Sin Cos Tan");
    // What is random is another each time.
    let mut b = model(&["2", "3"]);
    b.output("w");
    b.node("RandomNormalLike", &["x"], &["y"], vec![]).node("RandomNormalLike", &["x"], &["w"], vec![]);
    check(&b, "RandomNormalLike RandomNormalLike", "RandomNormalLike RandomNormalLike");
}

#[test]
fn outputs_keep_their_names() {
    // Both are the input: both are copied, as a result of a model is a tensor of its own.
    let mut b = model(&["20", "30"]);
    b.output("w");
    b.node("Transpose", &["x"], &["w"], order(&[1, 0])).node("Transpose", &["w"], &["y"], order(&[1, 0]));
    check(&b, "Transpose Transpose", "Transpose Transpose");
    let mut b = model(&["20", "30"]);
    b.node("Transpose", &["x"], &["a"], order(&[1, 0])).node("Transpose", &["a"], &["y"], order(&[1, 0]));
    check(&b, "Transpose Transpose", "Identity");
}

/// What wins bytes and lifts the peak stays: the first result would have to be kept beside `x` where most is held.
#[test]
fn the_peak_does_not_rise() {
    let mut b = model(&["10", "100"]);
    b.output("w").output("v");
    b.node("Transpose", &["x"], &["a"], order(&[1, 0])).node("ReduceMax", &["a"], &["m"], vec![]);
    b.ints("wide", &[200, 50]).node("Expand", &["m", "wide"], &["e"], vec![]);
    b.node("ReduceMin", &["e"], &["n"], vec![]).node("Exp", &["n"], &["w"], vec![]);
    b.node("Transpose", &["x"], &["b"], order(&[1, 0])).node("Exp", &["b"], &["y"], vec![]);
    b.node("Cos", &["x"], &["v"], vec![]);
    let kept = "Transpose ReduceMax Expand ReduceMin Exp Transpose Exp Cos";
    check(&b, kept, kept);
}
