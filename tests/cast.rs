//! `--cast`: a model of narrow floats, computed in wider ones, with weights as the file has them.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;

use berth::npz::{self, Array};
use berth_ir::DType;
use build::{Builder, attribute};
use common::{Folder, json, refused};
use half::{bf16, f16};
use std::path::Path;

/// Numbers that every type holds exactly, and of which sums of some hundred do too.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|n| ((n * 7 + seed * 5) % 13) as f32 / 4.0 - 1.5).collect()
}

fn raw(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Rows of a table through a matrix, a turned one and the table itself again, turned; a small constant; a cast back.
fn model(folder: &Folder, dtype: DType) -> String {
    let mut b = Builder::new(17);
    b.input("ids", DType::I64, &["n"]).input("bias", dtype, &["24"]).output("y").output("part");
    b.tensor("table", dtype, &[40, 24], raw(dtype, &numbers(960, 1)));
    b.tensor("w", dtype, &[24, 24], raw(dtype, &numbers(576, 2)));
    b.tensor("v", dtype, &[24, 24], raw(dtype, &numbers(576, 3)));
    b.tensor("half", dtype, &[], raw(dtype, &[0.5]));
    b.node("Gather", &["table", "ids"], &["rows"], vec![]).node("MatMul", &["rows", "w"], &["h"], vec![]);
    b.node("Transpose", &["v"], &["vt"], vec![]).node("MatMul", &["h", "vt"], &["i"], vec![]);
    b.node("Add", &["i", "bias"], &["j"], vec![]).node("Mul", &["j", "half"], &["k"], vec![]);
    b.node("Transpose", &["table"], &["head"], vec![]).node("MatMul", &["k", "head"], &["y"], vec![]);
    let kind = berth_compiler::import::dtype_to_onnx(dtype);
    b.node("Cast", &["k"], &["part"], vec![attribute("to", i64::from(kind))]);
    let path = folder.file(&format!("{dtype:?}.onnx"));
    std::fs::write(&path, b.bytes()).expect("it writes");
    path
}

fn inputs(folder: &Folder, dtype: DType) -> String {
    let ids = Array {
        name: "ids".to_owned(),
        dtype: DType::I64,
        shape: vec![3],
        bytes: [7i64, 0, 39].iter().flat_map(|n| n.to_le_bytes()).collect(),
    };
    let bias = Array { name: "bias".to_owned(), dtype, shape: vec![24], bytes: raw(dtype, &numbers(24, 4)) };
    let path = folder.file(&format!("{dtype:?}.npz"));
    npz::write(Path::new(&path), &[ids, bias]).expect("it writes");
    path
}

#[test]
fn narrow_models_are_computed_wide_bit_for_bit() {
    let folder = Folder::new("cast");
    let (wide, given, all) = (model(&folder, DType::F32), inputs(&folder, DType::F32), folder.file("all.npz"));
    json(&["run", &wide, "--inputs", &given, "--outputs", &all]);
    for dtype in [DType::BF16, DType::F16] {
        let (path, plan) = (model(&folder, dtype), folder.file("plan.ron"));
        // Inputs may be of the file's type or of the one that is computed in.
        for given in [inputs(&folder, dtype), inputs(&folder, DType::F32)] {
            for memory in ["device=100%", "device=least"] {
                let words = ["run", &path, "--inputs", &given, "--cast", "f32", "--memory", memory, "--against", &all];
                let report = json(&[&words[..], &["--save", &plan]].concat());
                assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0), "{dtype:?} {memory}");
                // Each weight streams as the file has it: half as many bytes, the table once for each of its two forms.
                let bytes = (960 * 2 + 576 * 2) * 2;
                let streamed = report["plan"]["streamed_bytes"].as_u64().unwrap_or(0)
                    + report["plan"]["resident_bytes"].as_u64().unwrap_or(0);
                assert_eq!(streamed, bytes, "{report}");
            }
        }
        json(&["verify", &plan, "--model", &path, "--cast", "f32"]);
        let (code, sentence) = refused(&["verify", &plan, "--model", &path]);
        assert!(code == 1 || code == 2, "{sentence}");
    }
}

#[test]
fn a_type_without_kernels_says_what_to_do() {
    let folder = Folder::new("no-kernels");
    let (path, given) = (model(&folder, DType::BF16), inputs(&folder, DType::BF16));
    let (code, sentence) = refused(&["run", &path, "--inputs", &given]);
    assert_eq!(code, 2, "{sentence}");
    assert!(sentence.contains("bfloat16") && sentence.contains("--cast f32"), "{sentence}");
}
