//! A graph of ten thousand operators is planned, proved and compared without anything that grows with its square.

mod common;
#[path = "common/graph.rs"]
mod graph;

use common::{Folder, json};

#[test]
fn ten_thousand_operators_are_planned() {
    let folder = Folder::new("large");
    let model = folder.file("chain.onnx");
    std::fs::write(&model, graph::chain(5000, 64, "chain.bin")).expect("it writes");
    let plan = folder.file("plan.binpb");
    let report = json(&["compile", &model, "--memory", "device=50%", "-o", &plan]);
    assert_eq!(report["tasks"].as_u64(), Some(10_000));
    let (predicted, bound) = (&report["predicted_nanos"], &report["bound_nanos"]);
    assert!(predicted.as_u64() >= bound.as_u64(), "{predicted} is faster than the bound {bound}");
}
