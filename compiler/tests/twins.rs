//! Weights that are the same bytes are one, however often and in whatever way a file holds them.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import;
use berth_compiler::lower::{Lowered, exactly, lower};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::Stored;
use berth_ir::program::{Filled, Kind, Transposed};
use berth_ir::target::Target;
use build::Builder;
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

fn raw(values: impl IntoIterator<Item = f32>) -> Vec<u8> {
    values.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn read(stored: &Stored, offset: u64, bytes: u64) -> Option<Bytes> {
    let mut all = vec![0; bytes as usize];
    std::fs::File::open(&stored.path).ok()?.read_exact_at(&mut all, stored.offset + offset).ok()?;
    Some(all.into())
}

fn lowered(path: &Path, dims: &Binding) -> Lowered {
    let target = Target { name: String::new(), source: String::new(), tiers: vec![], engines: vec![], links: vec![] };
    let graph = import::open(path).unwrap().graph(dims).unwrap();
    lower(&graph, &exactly(dims), &target, &read).unwrap()
}

/// A file that goes when the test ends.
struct File(PathBuf);

impl File {
    fn new(name: &str, b: &Builder) -> File {
        let path = std::env::temp_dir().join(format!("berth-{name}-{}.onnx", std::process::id()));
        std::fs::write(&path, b.bytes()).unwrap();
        File(path)
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn equal_turned_and_uniform_weights_are_found() {
    // 40 x 20, its copy, its transpose, the copy of that, another of the same size, and ones.
    let at = |row: usize, column: usize| (row * 31 + column * 7) as f32;
    let matrix = raw((0..800).map(|n| at(n / 20, n % 20)));
    let turned = raw((0..800).map(|n| at(n % 40, n / 40)));
    let mut other = matrix.clone();
    other[3199] ^= 1;
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["1", "40"]).input("z", DType::F32, &["1", "20"]).output("y").output("u");
    b.tensor("first", DType::F32, &[40, 20], matrix.clone()).tensor("copy", DType::F32, &[40, 20], matrix.clone());
    b.tensor("turned", DType::F32, &[20, 40], turned.clone()).tensor("again", DType::F32, &[20, 40], turned);
    b.tensor("other", DType::F32, &[40, 20], other).tensor("ones", DType::F32, &[20], raw([1.0; 20]));
    b.tensor("bias", DType::F32, &[20], raw((0..20).map(|n| n as f32)));
    for (name, weight) in [("a", "first"), ("b", "copy"), ("c", "other")] {
        b.node("MatMul", &["x", weight], &[name], vec![]);
    }
    b.node("MatMul", &["z", "turned"], &["d"], vec![]).node("MatMul", &["z", "again"], &["e"], vec![]);
    b.node("Sum", &["a", "b", "c", "ones", "bias"], &["y"], vec![]).node("Add", &["d", "e"], &["u"], vec![]);
    let file = File::new("twins", &b);
    let tensors = lowered(&file.0, &Binding::new()).lifetimes.tensors;
    let weights: Vec<_> = tensors.iter().filter(|t| t.kind == Kind::Weight).collect();
    let names: Vec<&str> = weights.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["first", "other", "turned", "ones", "bias"]);
    let home = |name: &str| weights.iter().find(|t| t.name == name).unwrap().home.clone().unwrap();
    assert_eq!(home("turned").offset, home("first").offset);
    assert_eq!(home("turned").transposed, Some(Transposed { rows: 40, columns: 20, element: 4 }));
    assert_eq!(home("ones").filled, Some(Filled { element: 4, bits: u64::from(1f32.to_bits()) }));
    assert_eq!((home("other").transposed, home("bias").filled), (None, None));
}

#[test]
fn weights_that_the_model_makes_are_weights() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["8", "4"]).output("y").ints("shape", &[8, 4]).ints("small", &[4]);
    b.node("ConstantOfShape", &["shape"], &["w"], vec![]).node("ConstantOfShape", &["shape"], &["v"], vec![]);
    b.node("ConstantOfShape", &["small"], &["s"], vec![]);
    b.node("Sum", &["x", "w", "v", "s"], &["h"], vec![]).node("Relu", &["h"], &["y"], vec![]);
    let file = File::new("made", &b);
    let lowered = lowered(&file.0, &Binding::new());
    let weights: Vec<_> = lowered.lifetimes.tensors.iter().filter(|t| t.kind == Kind::Weight).collect();
    assert_eq!(weights.iter().map(|t| (t.name.as_str(), t.bytes)).collect::<Vec<_>>(), [("w", 128)]);
    assert_eq!(lowered.lifetimes.tasks.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["h", "y"]);
}

/// One architecture from two exporters: one holds the tied embedding twice and has biases that are zero.
#[test]
fn two_exporters_give_the_same_weights() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if !folder.is_dir() {
        eprintln!("shared/models is not beside the repository: skipped");
        return;
    }
    let dims = Binding::from([("batch", 2), ("seq", 3), ("past", 5)].map(|(d, n)| (d.to_owned(), n)));
    let of = |name: &str| lowered(&folder.join(name), &dims).lifetimes;
    let (dynamo, legacy) = (of("gpt2_decode.onnx"), of("gpt2_decode_torchscript.onnx"));
    assert_eq!(dynamo.stored(), legacy.stored());
    for kind in [Kind::Input, Kind::Output] {
        assert_eq!(dynamo.total(kind), legacy.total(kind), "{kind:?}");
    }
}
