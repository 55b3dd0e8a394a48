//! Sizes that only a run knows: what the data decide, unlike branches, and dims that were given as ranges.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;

use berth::npz::{self, Array};
use berth_compiler::import::onnx;
use berth_ir::DType;
use build::Builder;
use common::{Folder, json, model, refused};
use prost::Message;
use std::path::Path;

fn floats(name: &str, values: &[f32]) -> Array {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    Array { name: name.to_owned(), dtype: DType::F32, shape: vec![values.len() as u64], bytes }
}

/// Runs a model on these inputs and gives its outputs.
fn outputs(folder: &Folder, path: &str, inputs: &[Array], words: &[&str]) -> Vec<Array> {
    let (from, to) = (folder.file("in.npz"), folder.file("out.npz"));
    npz::write(Path::new(&from), inputs).expect("it writes");
    json(&[&["run", path, "--inputs", &from, "--outputs", &to, "--steps", "3"], words].concat());
    npz::read(Path::new(&to)).expect("it reads")
}

fn as_floats(array: &Array) -> Vec<f32> {
    array.bytes.chunks_exact(4).map(|c| f32::from_le_bytes(c.try_into().expect("four bytes"))).collect()
}

/// The elements that are not zero, doubled; and as many ones.
fn compressing(folder: &Folder) -> String {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).input("one", DType::F32, &["1"]).output("y").output("ones");
    b.ints("last", &[1]);
    b.node("NonZero", &["x"], &["at"], vec![]).node("Transpose", &["at"], &["places"], vec![]);
    b.node("GatherND", &["x", "places"], &["held"], vec![]).node("Add", &["held", "held"], &["y"], vec![]);
    b.node("Shape", &["at"], &["s"], vec![]).node("Gather", &["s", "last"], &["n"], vec![]);
    b.node("Expand", &["one", "n"], &["ones"], vec![]);
    write(folder, "compressing.onnx", &b)
}

fn write(folder: &Folder, name: &str, b: &Builder) -> String {
    let path = folder.file(name);
    std::fs::write(&path, b.bytes()).expect("it writes");
    path
}

#[test]
fn sizes_that_the_data_decide_are_adopted() {
    let folder = Folder::new("data-sizes");
    let path = compressing(&folder);
    for x in [[0.0; 6], [1.0, 0.0, 2.0, 0.0, 0.0, 3.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]] {
        let inputs = [floats("x", &x), floats("one", &[1.0])];
        let held: Vec<f32> = x.iter().filter(|v| **v != 0.0).map(|v| 2.0 * v).collect();
        for memory in [&[][..], &["--memory", "device=least"], &["--memory", "device=least", "--memory", "dram=1MiB"]] {
            let all = outputs(&folder, &path, &inputs, memory);
            let by_name = |name: &str| all.iter().find(|a| a.name == name).expect("an output");
            assert_eq!(as_floats(by_name("y")), held);
            assert_eq!(as_floats(by_name("ones")), vec![1.0; held.len()]);
            assert_eq!(by_name("y").shape, [held.len() as u64]);
        }
    }
}

#[test]
fn one_plan_runs_both_branches_of_an_if() {
    let folder = Folder::new("branches");
    let branch = |end: i64| {
        let mut b = Builder::new(17);
        b.ints("from", &[0]).ints("to", &[end]).declare("r", DType::F32, &[&end.to_string()]);
        b.node("Slice", &["x", "from", "to"], &["r"], vec![]);
        onnx::ModelProto::decode(&b.bytes()[..]).expect("a model").graph
    };
    let graph = |name: &str, end: i64| onnx::AttributeProto {
        name: name.to_owned(),
        r#type: 5,
        g: branch(end).map(Box::new),
        ..Default::default()
    };
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).input("cond", DType::Bool, &[]).output("y");
    b.node("If", &["cond"], &["h"], vec![graph("then_branch", 2), graph("else_branch", 5)]);
    b.node("Neg", &["h"], &["y"], vec![]);
    let path = write(&folder, "branches.onnx", &b);
    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    for (cond, held) in [(1, 2), (0, 5)] {
        let cond = Array { name: "cond".to_owned(), dtype: DType::Bool, shape: vec![], bytes: vec![cond] };
        let all = outputs(&folder, &path, &[floats("x", &x), cond], &["--memory", "device=least"]);
        let want: Vec<f32> = x[..held].iter().map(|v| -v).collect();
        assert_eq!(as_floats(&all[0]), want);
    }
}

#[test]
fn a_plan_for_a_range_runs_every_size_in_it() {
    let folder = Folder::new("ranges");
    let (path, stored) = (model("llama_decode.onnx"), model("llama_decode.npz"));
    let (path, stored) = (path.to_str().expect("UTF-8"), stored.to_str().expect("UTF-8"));
    let (plan, all) = (folder.file("plan.ron"), folder.file("all.npz"));
    json(&["run", path, "--inputs", stored, "--outputs", &all]);
    let ranges = ["--dim", "past=0..40", "--dim", "seq=1..7", "--dim", "batch=1..3"];
    for memory in [&["--memory", "device=least"][..], &["--memory", "device=60%"]] {
        let words = [&["run", path, "--inputs", stored, "--against", &all, "--save", &plan], &ranges[..], memory];
        let report = json(&words.concat());
        assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0));
    }
    // The saved program is the same, and takes other sizes.
    let report = json(&["run", &plan, "--model", path, "--inputs", stored, "--against", &all]);
    assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0));
    json(&["verify", &plan, "--model", path]);
    json(&["run", &plan, "--model", path]);
}

#[test]
fn ranges_that_contradict_are_refused() {
    let model = model("llama_decode.onnx");
    let path = model.to_str().expect("UTF-8");
    let check = |dims: &[&str], says: &[&str]| {
        let words: Vec<&str> = dims.iter().flat_map(|d| ["--dim", *d]).collect();
        let (code, sentence) = refused(&[&["inspect", path], &words[..]].concat());
        assert_eq!(code, 2, "{sentence}");
        says.iter().for_each(|part| assert!(sentence.contains(part), "nothing of `{part}`: {sentence}"));
    };
    check(&["batch=1", "seq=1..2", "past=0..3", "past_plus_seq=1..4"], &["past_plus_seq", "1..5", "1..4"]);
    check(&["batch=1", "seq=4", "past=2..1"], &["ends before it begins"]);
    check(&["batch=1", "seq=4", "past=2..", "past_plus_seq=3"], &["whole number"]);
    check(&["batch=1", "seq=4", "past=0..9", "past_plus_seq=3"], &["past_plus_seq", "past + seq"]);
}

#[test]
fn outputs_that_nothing_computes_are_copies() {
    let folder = Folder::new("handed-on");
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["6"]).output("x").output("y").output("w").output("y");
    let weight: Vec<f32> = (0..40).map(|n| n as f32).collect();
    b.tensor("w", DType::F32, &[40], weight.iter().flat_map(|v| v.to_le_bytes()).collect());
    b.node("Neg", &["x"], &["y"], vec![]);
    let path = write(&folder, "handed-on.onnx", &b);
    let all = outputs(&folder, &path, &[floats("x", &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])], &["--memory", "device=least"]);
    let of = |name: &str| as_floats(all.iter().find(|a| a.name == name).expect("an output"));
    assert_eq!(of("x"), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(of("y"), [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]);
    assert_eq!(of("w"), weight);
}
