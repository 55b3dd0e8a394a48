//! Large products and tables in pieces: where they are cut, and what is read for each piece.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::{self, onnx::AttributeProto};
use berth_compiler::lower::{Lowered, exactly, lower};
use berth_compiler::split::{PIECES_MAX, reach, split};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, Stored};
use berth_ir::program::{Home, Kind, Split, Strip, Transposed};
use berth_ir::target::Target;
use build::{Builder, attribute};
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Bytes that are no other matrix's, nor the same all over.
fn raw(elements: usize, salt: usize) -> Vec<u8> {
    (0..elements).flat_map(|n| (((n + salt) * 2_654_435_761) as f32).to_le_bytes()).collect()
}

fn read(stored: &Stored, offset: u64, bytes: u64) -> Option<Bytes> {
    let mut all = vec![0; bytes as usize];
    std::fs::File::open(&stored.path).ok()?.read_exact_at(&mut all, stored.offset + offset).ok()?;
    Some(all.into())
}

/// A model in a file that goes when the test ends.
struct Case {
    path: PathBuf,
    graph: Graph,
}

impl Case {
    fn new(name: &str, b: &Builder) -> Case {
        let path = std::env::temp_dir().join(format!("berth-split-{name}-{}.onnx", std::process::id()));
        std::fs::write(&path, b.bytes()).unwrap();
        let graph = import::open(&path).unwrap().graph(&Binding::new()).unwrap();
        Case { path, graph }
    }

    fn lowered(&self, graph: &Graph) -> Lowered {
        let target =
            Target { name: String::new(), source: String::new(), tiers: vec![], engines: vec![], links: vec![] };
        lower(graph, &exactly(&Binding::new()), &target, &read).unwrap()
    }

    fn split(&self, room: u64) -> Option<Graph> {
        let lifetimes = self.lowered(&self.graph).lifetimes;
        split(&self.graph, &exactly(&Binding::new()), &lifetimes, Split { room, threads: 2, contiguous: false })
    }

    fn reach(&self) -> u64 {
        reach(&self.graph, &exactly(&Binding::new()), &self.lowered(&self.graph).lifetimes, 2)
    }

    /// Homes of the weights that tasks of the split graph read.
    fn homes(&self, room: u64) -> Vec<Home> {
        let lifetimes = self.lowered(&self.split(room).unwrap()).lifetimes;
        let uses = lifetimes.uses();
        let used = lifetimes.tensors.iter().zip(uses.iter());
        let used = used.filter(|(t, uses)| t.kind == Kind::Weight && !uses.is_empty());
        used.map(|(t, _)| t.home.clone().unwrap()).collect()
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The most that a task holds.
fn largest(lowered: &Lowered) -> u64 {
    let lifetimes = &lowered.lifetimes;
    lifetimes.tasks.iter().map(|t| t.operands().map(|o| lifetimes.tensor(o).bytes).sum()).max().unwrap()
}

fn perm() -> AttributeProto {
    AttributeProto { name: "perm".to_owned(), r#type: 7, ints: vec![1, 0], ..Default::default() }
}

#[test]
fn columns_of_a_matrix_are_rows_that_lie_apart() {
    let mut b = Builder::new(17);
    b.tensor("w", DType::F32, &[32, 100], raw(3200, 0));
    b.input("x", DType::F32, &["1", "32"]).node("MatMul", &["x", "w"], &["y"], vec![]).output("y");
    let case = Case::new("columns", &b);
    let homes = case.homes(128 + 64 * 33 * 4);
    let place = homes[0].offset;
    let strips: Vec<_> = homes.iter().map(|h| (h.offset - place, h.strip, h.transposed)).collect();
    let strip = |bytes| Some(Strip { rows: 32, bytes, pitch: 400 });
    assert_eq!(strips, [(0, strip(3 * 64), None), (3 * 64, strip(400 - 3 * 64), None)]);
}

#[test]
fn columns_behind_a_transpose_are_rows_of_the_file() {
    let mut b = Builder::new(17);
    b.tensor("w", DType::F32, &[100, 32], raw(3200, 0)).node("Transpose", &["w"], &["t"], vec![perm()]);
    b.input("x", DType::F32, &["1", "32"]).node("MatMul", &["x", "t"], &["y"], vec![]).output("y");
    let case = Case::new("turned", &b);
    let homes = case.homes(128 + 64 * 33 * 4);
    let place = homes[0].offset;
    let found: Vec<_> = homes.iter().map(|h| (h.offset - place, h.strip, h.transposed)).collect();
    let turned = |rows| Some(Transposed { rows, columns: 32, element: 4 });
    assert_eq!(found, [(0, None, turned(48)), (48 * 128, None, turned(52))]);
}

#[test]
fn a_table_that_is_another_weight_turned_is_cut_in_that_weights_file() {
    // The table is the transpose of the matrix before it: its rows are that one's columns.
    let matrix = raw(3200, 0);
    let at = |row: usize, column: usize| &matrix[(row * 100 + column) * 4..][..4];
    let turned: Vec<u8> = (0..3200).flat_map(|n| at(n % 32, n / 32).to_vec()).collect();
    let mut b = Builder::new(17);
    b.tensor("w", DType::F32, &[32, 100], matrix.clone()).tensor("e", DType::F32, &[100, 32], turned);
    b.input("i", DType::I64, &["1"]).node("Gather", &["e", "i"], &["x"], vec![]);
    b.node("MatMul", &["x", "w"], &["y"], vec![]).output("y");
    let case = Case::new("tied", &b);
    let homes = case.homes(case.reach());
    let first = homes.iter().map(|h| h.offset).min().unwrap();
    assert!(homes.iter().all(|h| h.offset - first < 400 && h.strip.is_some_and(|s| s.rows == 32 && s.pitch == 400)));
    let turned = homes.iter().filter(|h| h.transposed.is_some()).count();
    assert!(turned > 1 && turned < homes.len(), "{homes:?}");
}

#[test]
fn what_fits_stays_whole_and_pieces_fit_where_they_can() {
    let mut b = Builder::new(17);
    b.tensor("w", DType::F32, &[64, 1000], raw(64_000, 0)).tensor("v", DType::F32, &[1000, 64], raw(64_000, 9));
    b.tensor("u", DType::F32, &[1000, 64], raw(64_000, 77)).tensor("c", DType::F32, &[1000], raw(1000, 5));
    b.input("i", DType::I64, &["1"]);
    b.node("Gather", &["v", "i"], &["x"], vec![]).node("MatMul", &["x", "w"], &["h"], vec![]);
    b.node("Gemm", &["h", "u"], &["k"], vec![]);
    b.node("Gemm", &["k", "v", "c"], &["y"], vec![attribute("transB", 1)]).output("y");
    let case = Case::new("room", &b);
    let whole = largest(&case.lowered(&case.graph));
    assert!(case.split(whole).is_none(), "nothing is larger than the largest");
    let (reach, mut pieces) = (case.reach(), 0);
    // The Gemm with 64 columns cannot be cut in more than four.
    assert!(reach < whole / 3 && reach > whole / 5, "{reach} of {whole}");
    for room in [whole - 1, whole / 2, whole / 3, reach] {
        let lowered = case.lowered(&case.split(room).unwrap());
        assert!(largest(&lowered) <= room, "{} for {room}", largest(&lowered));
        assert!(lowered.lifetimes.tasks.len() >= pieces, "less room, fewer pieces");
        pieces = lowered.lifetimes.tasks.len();
    }
    let again = |room| format!("{:?}", case.split(room).unwrap().ops);
    assert_eq!(again(reach), again(reach));
    let most = case.lowered(&case.split(0).unwrap());
    let gathers = most.lifetimes.tasks.iter().filter(|t| t.name.contains(" rows ") && !t.rows.is_empty()).count();
    assert_eq!(gathers as u64, PIECES_MAX);
}

#[test]
fn what_others_need_whole_or_bits_forbid_is_not_split() {
    // Three rows and a depth of more than one block: with two threads a piece has 160 columns at least.
    let mut b = Builder::new(17);
    b.tensor("w", DType::F32, &[200, 300], raw(60_000, 0)).input("x", DType::F32, &["3", "200"]);
    b.node("MatMul", &["x", "w"], &["y"], vec![]).output("y");
    let case = Case::new("narrow", &b);
    assert!(case.split(0).is_none());
    assert_eq!(case.reach(), largest(&case.lowered(&case.graph)));
    // Somebody adds to the matrix: it is there whole, and is not read a second time in parts.
    let mut b = Builder::new(17);
    b.tensor("w", DType::F32, &[64, 64], raw(4096, 0)).input("x", DType::F32, &["1", "64"]);
    b.node("MatMul", &["x", "w"], &["y"], vec![]).output("y");
    b.node("Add", &["w", "x"], &["z"], vec![]).output("z");
    let case = Case::new("whole", &b);
    let lowered = case.lowered(&case.split(0).unwrap());
    assert_eq!(lowered.lifetimes.total(Kind::Weight), 64 * 64 * 4);
}
