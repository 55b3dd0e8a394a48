//! Operators that run once more in a graph: what may, what reads it then, and what is said of a list that does not fit.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import;
use berth_compiler::recompute::put;
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, Op, ValueId};
use berth_ir::program::Recompute;
use build::Builder;

fn graph(name: &str, b: &Builder) -> Graph {
    let path = std::env::temp_dir().join(format!("berth-recompute-{name}-{}.onnx", std::process::id()));
    std::fs::write(&path, b.bytes()).expect("a model");
    let graph = import::open(&path).expect("it opens").graph(&Binding::new()).expect("a graph");
    std::fs::remove_file(&path).expect("it was there");
    graph
}

fn by_kind<'a>(graph: &'a Graph, kind: &str) -> Vec<&'a Op> {
    graph.ops.iter().filter(|op| op.kind == kind).collect()
}

fn again(op: &Op, readers: &[&Op]) -> Recompute {
    Recompute { op: op.name.clone(), readers: readers.iter().map(|op| op.name.clone()).collect() }
}

/// The operator that makes a value.
fn maker(graph: &Graph, value: Option<ValueId>) -> &Op {
    graph.ops.iter().find(|op| op.outputs.contains(&value)).expect("somebody makes it")
}

fn two_readers(first: &str) -> Builder {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["4", "6"]).ints("flat", &[24]);
    b.node(first, &["x"], &["r"], vec![]).node("Sin", &["r"], &["s"], vec![]);
    b.node("Reshape", &["r", "flat"], &["v"], vec![]).node("Reshape", &["s", "flat"], &["w"], vec![]);
    b.node("Sub", &["w", "v"], &["d"], vec![]).node("Mul", &["v", "d"], &["y"], vec![]);
    b.output("y");
    b
}

#[test]
fn readers_read_the_second_run_through_views_of_their_own() {
    let graph = graph("views", &two_readers("Cos"));
    let (cos, sub, mul) = (by_kind(&graph, "Cos")[0], by_kind(&graph, "Sub")[0], by_kind(&graph, "Mul")[0]);
    let other = put(&graph, &[again(cos, &[sub, mul])]).expect("both come after it");
    let copies = by_kind(&other, "Cos");
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].inputs, copies[1].inputs, "on the same operand");
    // The first runs for the operator that it was not said to run again for.
    assert_eq!(by_kind(&other, "Sin")[0].inputs[0], copies[0].outputs[0]);
    let (sub, mul) = (by_kind(&other, "Sub")[0], by_kind(&other, "Mul")[0]);
    assert_eq!(sub.inputs[1], mul.inputs[0], "one view for both");
    let view = maker(&other, sub.inputs[1]);
    assert_eq!((view.kind.as_str(), view.inputs[0]), ("Reshape", copies[1].outputs[0]));
    // It stands right before the first of them, and what reads stands behind what is read.
    let at = |op: &Op| other.ops.iter().position(|o| o.name == op.name).expect("it is there");
    assert_eq!((at(copies[1]), at(view)), (at(sub) - 2, at(sub) - 1));
    let names: std::collections::BTreeSet<&str> = other.ops.iter().map(|op| op.name.as_str()).collect();
    assert_eq!(names.len(), other.ops.len(), "no two have one name");
    // A copy can itself be run once more.
    let third = put(&graph, &[again(cos, &[sub, mul]), again(copies[1], &[mul])]).expect("by the copy's name");
    assert_eq!(by_kind(&third, "Cos").len(), 3);
}

#[test]
fn what_cannot_run_again_is_refused_in_words() {
    let (plain, random) = (graph("plain", &two_readers("Cos")), graph("chance", &two_readers("RandomNormalLike")));
    let (cos, sin, sub) = (by_kind(&plain, "Cos")[0], by_kind(&plain, "Sin")[0], by_kind(&plain, "Sub")[0]);
    let (view, mul) = (by_kind(&plain, "Reshape")[0], by_kind(&plain, "Mul")[0]);
    let nobody = Op { name: "nobody".to_owned(), ..cos.clone() };
    let chance = by_kind(&random, "RandomNormalLike")[0];
    for (graph, one, words) in [
        (&plain, again(&nobody, &[sub]), "which the model does not have"),
        (&plain, again(cos, &[&nobody]), "do not all come after it"),
        (&plain, again(cos, &[]), "do not all come after it"),
        (&plain, again(sub, &[sin]), "do not all come after it"),
        (&plain, again(sin, &[mul]), "does not read what it makes"),
        (&plain, again(view, &[sub]), "may give something else the second time"),
        (&random, again(chance, &[by_kind(&random, "Sub")[0]]), "may give something else the second time"),
    ] {
        let said = put(graph, std::slice::from_ref(&one)).expect_err("it is refused").to_string();
        assert!(said.contains(words) && said.contains(&one.op), "{one:?}: {said}");
    }
}
