//! Operators that run once more: outputs have the bits of the model as it is, in less room; plans say so and run again.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;

use berth_ir::DType;
use build::Builder;
use common::{Folder, json, refused};
use serde_json::Value;

const ROWS: i64 = 64;
const WIDE: i64 = 256;

/// Weights that are no other's.
fn weights(count: i64, salt: usize) -> Vec<u8> {
    let number = |n: usize| ((n * 2_654_435_761 + salt * 40_503) % 2_001) as f32 / 1_000.0 - 1.0;
    (0..count as usize).flat_map(|n| (number(n) / 16.0).to_le_bytes()).collect()
}

/// A result of little (made from one row, through a view) that is read first and last; between, where most is held, four
/// results wait for their sum.
fn skips(b: &mut Builder) {
    b.input("row", DType::F32, &["1", &WIDE.to_string()]).ints("shape", &[ROWS, WIDE]);
    b.node("Exp", &["row"], &["e"], vec![]).node("Expand", &["e", "shape"], &["mask"], vec![]);
    b.ints("flat", &[ROWS * WIDE]).node("Reshape", &["mask", "flat"], &["mask_flat"], vec![]);
    b.node("Mul", &["mask", "mask"], &["h"], vec![]);
    b.tensor("w", DType::F32, &[WIDE, WIDE], weights(WIDE * WIDE, 1));
    b.node("MatMul", &["h", "w"], &["a"], vec![]).node("Sigmoid", &["a"], &["s"], vec![]);
    b.node("Tanh", &["a"], &["t"], vec![]).node("Cos", &["a"], &["c"], vec![]);
    b.node("Mul", &["a", "s"], &["p"], vec![]).node("Mul", &["t", "c"], &["q"], vec![]);
    b.node("MatMul", &["p", "w"], &["u"], vec![]).node("Add", &["u", "q"], &["v"], vec![]);
    b.node("Reshape", &["v", "flat"], &["v_flat"], vec![]);
    b.node("Sub", &["v_flat", "mask_flat"], &["y"], vec![]).node("Add", &["v", "mask"], &["z"], vec![]);
    b.output("y").output("z");
}

fn same_bits(case: &str, report: &Value) {
    let different = report["against"]["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "{case}: these outputs differ from those of the model as it is: {different:?}");
}

fn bytes(report: &Value, what: &str) -> u64 {
    report[what].as_u64().expect("bytes")
}

#[test]
fn what_is_made_again_need_not_be_held() {
    let folder = Folder::new("recompute");
    let (model, all) = (folder.file("model.onnx"), folder.file("all.npz"));
    let mut b = Builder::new(17);
    skips(&mut b);
    std::fs::write(&model, b.bytes()).expect("the model");
    let seen = json(&["inspect", &model]);
    let (least, whole) = (bytes(&seen, "least_bytes"), bytes(&seen, "least_whole_bytes"));
    let (mask, row) = ((ROWS * WIDE * 4) as u64, (WIDE * 4) as u64);
    assert!(least + mask - row <= whole && bytes(&seen, "least_again") > 0, "{least} of {whole}: {seen}");
    json(&["run", &model, "--outputs", &all]);
    for extension in ["ron", "binpb"] {
        for memory in [format!("device={}B", whole - 1), format!("device={least}B"), "device=least".to_owned()] {
            let plan = folder.file(&format!("plan.{extension}"));
            let compiled = json(&["compile", &model, "--memory", &memory, "-o", &plan]);
            assert!(bytes(&compiled["peak"], "device") < whole, "{compiled}");
            json(&["verify", &plan, "--model", &model]);
            same_bits(&plan, &json(&["run", &plan, "--model", &model, "--against", &all]));
            same_bits(&memory, &json(&["run", &model, "--memory", &memory, "--against", &all]));
        }
    }
    // With room for the whole nothing runs twice.
    let plan = folder.file("whole.ron");
    json(&["compile", &model, "--memory", &format!("device={whole}B"), "-o", &plan]);
    assert!(!std::fs::read_to_string(&plan).expect("the plan").contains("recompute"));
    json(&["compile", &model, "--memory", &format!("device={}B", whole - 1), "-o", &plan]);
    let text = std::fs::read_to_string(&plan).expect("the plan");
    assert!(text.contains("recompute"), "{text}");
    // A plan that names what this model does not have, or what does not read the result, is refused in words.
    let op = text.split("op: \"").nth(1).and_then(|rest| rest.split('"').next()).expect("an operator");
    for (from, to, words) in [
        (format!("op: \"{op}\""), "op: \"nobody\"".to_owned(), "which the model does not have"),
        ("readers: [".to_owned(), "readers: [\"nobody\", ".to_owned(), "do not all come after it"),
    ] {
        let other = folder.file("other.ron");
        std::fs::write(&other, text.replacen(&from, &to, 1)).expect("a plan");
        let (code, said) = refused(&["run", &other, "--model", &model]);
        assert!(code == 2 && said.contains(words), "{said}");
    }
    let (code, said) = refused(&["compile", &model, "--memory", &format!("device={}B", least - 1)]);
    assert!(code == 1 && said.contains(&format!("needed {least} B")), "{said}");
}

#[test]
fn what_takes_a_link_longer_than_an_engine_is_made_again() {
    let folder = Folder::new("recompute-slow");
    let (model, target) = (folder.file("model.onnx"), folder.file("slow.ron"));
    let mut b = Builder::new(17);
    skips(&mut b);
    std::fs::write(&model, b.bytes()).expect("the model");
    let seen = json(&["inspect", &model]);
    let between = bytes(&seen, "least_bytes").midpoint(bytes(&seen, "least_whole_bytes"));
    let between = format!("device={between}B");
    // A laptop's memory, over links of two rates.
    let host = std::fs::read_to_string(common::root().join("targets/host.ron")).expect("the preset");
    let compiled = |rate: &str| {
        std::fs::write(&target, host.replace("rate: \"6GB/s\"", &format!("rate: \"{rate}\""))).expect("a target");
        let plan = folder.file("plan.ron");
        let words = ["--target", &target, "--memory", &between, "--memory", "dram=16MiB", "-o", &plan];
        let report = json(&[&["compile", &model], &words[..]].concat());
        json(&["verify", &plan, "--model", &model, "--target", &target]);
        let again = std::fs::read_to_string(&plan).expect("the plan").contains("recompute");
        (again, bytes(&report, "put_aside_bytes"))
    };
    assert_eq!(compiled("20MB/s"), (true, 0), "over a slow link");
    // Over a link that is faster than any engine nothing is computed twice to save it.
    assert!(!compiled("2TB/s").0, "over a fast link");
}
