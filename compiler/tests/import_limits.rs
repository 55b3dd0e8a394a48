//! Time and memory of the importer, with room for slow and busy machines: what fails here is wrong by an order.

#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::{self, Model};
use berth_compiler::lower::{exactly, lower};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::target::Target;
use build::Builder;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

fn import_and_lower(model: &Model, binding: &Binding) -> usize {
    let graph = model.graph(binding).unwrap();
    let (name, source) = (String::new(), String::new());
    let target = Target { name, source, tiers: vec![], engines: vec![], links: vec![] };
    lower(&graph, &exactly(binding), &target, &|_, _, _| None).unwrap().lifetimes.tasks.len()
}

fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("shared/models is not beside the repository: skipped");
    None
}

#[test]
fn hostile_files_are_done_with_at_once() {
    let Some(folder) = shared() else { return };
    for entry in std::fs::read_dir(folder.join("hostile")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "onnx") {
            let start = Instant::now();
            let _ = import::open(&path).and_then(|model| model.graph(&Binding::new()));
            assert!(start.elapsed() < Duration::from_secs(10), "{}: {:?}", path.display(), start.elapsed());
        }
    }
}

/// Sums in a row, each of the one before and of one far back; all nodes in reverse, and all of one name.
fn chain(operators: usize) -> Model {
    let mut b = Builder::new(17);
    b.input("v0", DType::F32, &["8"]).output(&format!("v{operators}"));
    for n in (1..=operators).rev() {
        let back = n.saturating_sub(50);
        b.node("Add", &[&format!("v{}", n - 1), &format!("v{back}")], &[&format!("v{n}")], vec![]);
    }
    let mut proto = b.model().proto().clone();
    proto.graph.as_mut().unwrap().node.iter_mut().for_each(|node| node.name = "add".to_owned());
    Model::decode(prost::Message::encode_to_vec(&proto).into(), PathBuf::from("/nowhere/chain.onnx")).unwrap()
}

/// Ten times the operators take about ten times as long: the least of three runs, to leave other work out.
#[test]
fn long_chains_take_linear_time() {
    let time = |operators: usize| {
        let model = chain(operators);
        let run = || {
            let start = Instant::now();
            assert_eq!(import_and_lower(&model, &Binding::new()), operators);
            start.elapsed()
        };
        (0..3).map(|_| run()).min().unwrap()
    };
    let (short, long) = (time(2_000), time(20_000));
    assert!(long < short * 50, "{short:?} for 2 000 operators, {long:?} for 20 000");
}

/// Each If in its own branch's If would cost its depth again if a level looked at all below it more than a few times.
#[test]
fn many_branches_take_linear_time() {
    let branch = |n: usize| {
        let mut b = Builder::new(17);
        b.output("r").node("Neg", &[&format!("v{n}")], &["r"], vec![]);
        prost::Message::decode(&b.bytes()[..]).map(|m: import::onnx::ModelProto| m.graph.unwrap()).unwrap()
    };
    let time = |count: usize| {
        let mut b = Builder::new(17);
        b.input("v0", DType::F32, &["8"]).input("cond", DType::Bool, &[]).output(&format!("v{count}"));
        for n in 0..count {
            let attributes = ["then_branch", "else_branch"].map(|name| import::onnx::AttributeProto {
                name: name.to_owned(),
                r#type: 5,
                g: Some(Box::new(branch(n))),
                ..Default::default()
            });
            b.node("If", &["cond"], &[&format!("v{}", n + 1)], attributes.into());
        }
        let model = b.model();
        let run = || {
            let start = Instant::now();
            assert_eq!(import_and_lower(&model, &Binding::new()), count);
            start.elapsed()
        };
        (0..3).map(|_| run()).min().unwrap()
    };
    let (short, long) = (time(300), time(3_000));
    assert!(long < short * 50, "{short:?} for 300, {long:?} for 3 000");
}

/// Half a gigabyte of weights in the model file itself: a sparse file, of which nearly nothing is read.
#[test]
fn weights_in_the_file_are_not_read() {
    const BYTES: u64 = 500 << 20;
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n"]).output("y").node("Relu", &["x"], &["y"], vec![]);
    // A second graph message is merged with the first one: the model, then a graph of one initializer.
    let varint = |mut n: u64| {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    };
    let field = |number: u8, length: u64| [vec![number << 3 | 2], varint(length)].concat();
    let mut tensor = [vec![1 << 3], varint(BYTES / 4), vec![2 << 3, 1], field(8, 1), b"w".to_vec()].concat();
    tensor.extend(field(9, BYTES));
    let tensor = [field(5, tensor.len() as u64 + BYTES), tensor].concat();
    let graph = [field(7, tensor.len() as u64 + BYTES), tensor].concat();
    let path = std::env::temp_dir().join(format!("berth-import-large-{}.onnx", std::process::id()));
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&b.bytes()).unwrap();
    file.write_all(&graph).unwrap();
    file.set_len(b.bytes().len() as u64 + graph.len() as u64 + BYTES).unwrap();
    drop(file);
    let start = Instant::now();
    let model = import::open(&path);
    let graph = model.and_then(|model| model.graph(&Binding::new()));
    let elapsed = start.elapsed();
    std::fs::remove_file(&path).unwrap();
    let graph = graph.unwrap();
    assert!(graph.values.iter().any(|v| v.name == "w"));
    eprintln!("500 MiB of weights: {elapsed:?}");
    assert!(elapsed < Duration::from_millis(500), "{elapsed:?}");
}

#[test]
fn an_8b_decoder_is_imported_and_lowered_at_once() {
    let Some(folder) = shared() else { return };
    let binding: Binding = [("batch", 1), ("past", 127), ("seq", 1)].map(|(n, s)| (n.to_owned(), s)).into();
    let start = Instant::now();
    let model = import::open(&folder.join("llama3_8b_decode.onnx")).unwrap();
    assert!(import_and_lower(&model, &binding) > 1_000);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
