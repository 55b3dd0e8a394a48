//! Every runnable model, at all the memory that it wants, at most of it and at the least: outputs keep their bits and
//! agree with the stored ones; a byte less than the least is refused.

mod common;

use berth_compiler::import;
use berth_ir::DType;
use berth_ir::graph::Graph;
use common::{Folder, json, refused, runnable_models};
use std::collections::BTreeMap;

/// Relative difference to stored outputs that is allowed: 1e-4, and 2e-2 where the model computes in narrow types. Those of
/// products of bytes were computed with instructions that add four products at once; without them the engine adds two in 16
/// bits, which saturate (its documentation of quantisation says so), run plainly too.
fn tolerance(graph: &Graph) -> f64 {
    let widths = || graph.values.iter().filter(|v| v.dtype != DType::Bool).filter_map(|v| v.dtype.bits());
    let narrower = |most: u64| widths().any(|bits| bits <= most);
    match (narrower(8), narrower(16)) {
        (true, _) if !adds_four_products() => 0.25,
        (_, true) => 2e-2,
        _ => 1e-4,
    }
}

/// Whether the processor has a product of four bytes with four.
fn adds_four_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512vnni") || std::is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

#[test]
fn capped_runs_keep_every_bit_and_agree_with_stored_outputs() {
    let folder = Folder::new("models");
    let mut walked = 0;
    for path in runnable_models() {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let graph = import::open(&path).and_then(|m| m.graph(&BTreeMap::new())).expect("its graph");
        walked += 1;
        let (model, inputs) = (path.to_str().expect("UTF-8"), path.with_extension("npz"));
        let (inputs, all) = (inputs.to_str().expect("UTF-8"), folder.file(&format!("{name}.npz")));
        let run = |words: &[&str]| json(&[&["run", model, "--inputs", inputs], words].concat());

        let report = run(&["--outputs", &all]);
        let largest = report["stored"]["largest"].as_f64().expect("stored outputs");
        assert!(largest <= tolerance(&graph), "{name}: differs from the stored outputs by {largest:e}");
        let full = report["plan"]["peak"]["device"].as_u64().expect("a peak");

        for lower in [None, Some("dram=64MiB")] {
            let lower: Vec<&str> = lower.iter().flat_map(|l| ["--memory", l]).collect();
            let least = run(&[&["--memory", "device=least", "--against", &all], lower.as_slice()].concat());
            same_bits(&name, &least);
            let bytes = least["plan"]["budget"]["device"].as_u64().expect("a budget");
            assert!(least["plan"]["peak"]["device"].as_u64() <= Some(bytes), "{name}: more than the least");

            let most = format!("device={}B", bytes.max(full * 6 / 10));
            same_bits(&name, &run(&[&["--memory", &most, "--against", &all], lower.as_slice()].concat()));

            let less = format!("device={}B", bytes - 1);
            let words = [&["run", model, "--inputs", inputs, "--memory", &less], lower.as_slice()].concat();
            let (code, sentence) = refused(&words);
            assert_eq!(code, 1, "{name}: {sentence}");
            let says = sentence.contains("too small at task") && sentence.contains(&format!("needed {bytes} B"));
            assert!(says, "{name} with a byte less than {bytes}: {sentence}");
        }
    }
    // The repository's own, and all of the shared set where it lies beside.
    let shared = common::root().join("../shared/models").is_dir();
    assert!(walked >= if shared { 18 } else { 5 }, "only {walked} models");
}

fn same_bits(name: &str, report: &serde_json::Value) {
    let different = report["against"]["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "{name}: these outputs differ from the uncapped run's: {different:?}");
}

/// The single-operator and light models of the shared set, where it lies beside.
fn shared(folder: &str) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(common::root().join("../shared/models").join(folder)) else {
        return Vec::new();
    };
    let mut all: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "onnx"));
    all.sort();
    all
}

#[test]
fn suite_cases_run_or_hold_what_is_no_tensor() {
    for path in shared("onnx_suite") {
        let (model, inputs) = (path.to_str().expect("UTF-8"), path.with_extension("npz"));
        let words = ["run", model, "--inputs", inputs.to_str().expect("UTF-8"), "--memory", "device=least"];
        if let Err(error) = import::open(&path) {
            let error = error.to_string();
            assert!(error.contains("sequences are not") || error.contains("optional values are not"), "{error}");
            continue;
        }
        let largest = json(&words)["stored"]["largest"].as_f64().expect("stored outputs");
        assert!(largest <= 1e-4, "{model}: differs from the stored outputs by {largest:e}");
    }
}

#[test]
fn light_models_keep_their_bits() {
    let folder = Folder::new("light");
    for path in shared("light") {
        let (model, all) = (path.to_str().expect("UTF-8"), folder.file("all.npz"));
        json(&["run", model, "--outputs", &all]);
        same_bits(model, &json(&["run", model, "--memory", "device=least", "--against", &all]));
    }
}

/// Every model at some sizes, with weights and without, at the least that works and at half, on two machines.
#[test]
fn every_model_plans() {
    let mut all = shared(".");
    all.extend(shared("light"));
    all.extend(["llama_decode.onnx", "llama_mid_decode.onnx", "vit_small.onnx"].map(common::model));
    for path in all {
        let opened = import::open(&path).expect("it opens");
        let relations = opened.graph(&BTreeMap::new()).expect("its graph").relations;
        let dims = opened.input_dims().into_iter().map(|d| d.name).filter(|d| !relations.contains_key(d));
        let dims: Vec<String> = dims.zip([1, 4, 60, 7]).map(|(dim, size)| format!("{dim}={size}")).collect();
        let dims: Vec<&str> = dims.iter().flat_map(|d| ["--dim", d.as_str()]).collect();
        let model = path.to_str().expect("UTF-8");
        for target in ["host", "h100-pcie"] {
            for memory in ["device=least", "device=60%"] {
                let words = [&["compile", model, "--target", target, "--memory", memory], &dims[..]].concat();
                let output = common::berth(words.iter().copied().chain(["--format", "json"]));
                let said = String::from_utf8_lossy(&output.stderr);
                // Without a lower memory the least may be more than that.
                let small = memory == "device=60%" && said.contains("too small at task");
                assert!(output.status.success() || small, "{model} on {target} at {memory}: {said}");
            }
        }
    }
}
