//! What decoding costs in memory: measured, and compared with what is found out before anything is decoded.

#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::{ImportError, Model, onnx, wire};
use berth_ir::DType;
use build::Builder;
use bytes::Bytes;
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};
use prost::Message;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The allocator counts for all threads: tests that look at it run one by one.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What this returns, and the most bytes that it held beyond those there were.
fn measured<T>(run: impl FnOnce() -> T) -> (T, u64) {
    MEMORY.reset_peak_usage();
    let before = MEMORY.current_usage();
    let result = run();
    (result, (MEMORY.peak_usage() - before) as u64)
}

/// The old elements of a list that grows are held beside the new ones; an error has words, and a test its thread.
fn with_growth(bytes: u64) -> u64 {
    bytes + bytes / 2 + (16 << 10)
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field that has a length.
fn field(number: usize, contents: &[u8]) -> Vec<u8> {
    [varint(number << 3 | 2), varint(contents.len()), contents.to_vec()].concat()
}

/// The fields in one another, the last one innermost.
fn nested(numbers: &[usize], contents: &[u8]) -> Vec<u8> {
    numbers.iter().rev().fold(contents.to_vec(), |inner, number| field(*number, &inner))
}

/// The same part again and again, up to about this size, in these messages.
fn many(inside: &[usize], part: &[u8], bytes: usize) -> Vec<u8> {
    nested(inside, &part.repeat(bytes / part.len()))
}

fn decode(file: Bytes) -> Result<Model, ImportError> {
    Model::decode(file, PathBuf::from("/nowhere/hostile.onnx"))
}

const GRAPH: usize = 7;
const NODE: [usize; 2] = [GRAPH, 1];
const ATTRIBUTE: [usize; 3] = [GRAPH, 1, 5];
const TENSOR: [usize; 2] = [GRAPH, 5];
const VALUE: [usize; 2] = [GRAPH, 13];

/// Files of parts that are empty or nearly so: they are refused at no cost, or cost what their size allows.
#[test]
fn a_file_costs_no_more_than_its_size_allows() {
    let _alone = alone();
    let in_graphs = |depth: usize| [&[GRAPH][..], &[1, 5, 6].repeat(depth)].concat();
    for bytes in [1_000_000, 4_000_000] {
        let empty = |inside: &[usize]| {
            let (last, inside) = inside.split_last().expect("a field");
            many(inside, &field(*last, &[]), bytes)
        };
        let each = |inside: &[usize], part: &[usize]| many(inside, &nested(part, &[]), bytes);
        for (name, refused, file) in [
            ("nodes", true, empty(&NODE)),
            ("nodes in graphs in graphs", true, empty(&[&in_graphs(30)[..], &[1]].concat())),
            ("nodes after a group that nobody knows", true, [vec![0x23, 0x2b, 0x2c, 0x24], empty(&NODE)].concat()),
            ("nodes of a function", true, empty(&[25, 7])),
            // The graph says that it has two bytes; the decoder looks at that when it has all the nodes of a function.
            (
                "nodes that reach past their graph",
                true,
                [varint(GRAPH << 3 | 2), vec![2], empty(&[1, 5, 6, 1])].concat(),
            ),
            ("nodes before what is no field", true, [empty(&NODE), vec![0xff; 20]].concat()),
            ("nodes of one attribute", true, each(&[GRAPH], &[1, 5])),
            ("nodes of one attribute of a sparse tensor", true, each(&[GRAPH], &[1, 5, 23])),
            ("attributes", true, empty(&ATTRIBUTE)),
            ("attributes of one graph", true, each(&NODE, &[5, 11])),
            ("attributes of one string", true, each(&NODE, &[5, 9])),
            ("attributes of one type", true, each(&NODE, &[5, 15])),
            ("initializers", true, empty(&TENSOR)),
            ("initializers of an attribute", true, empty(&[&ATTRIBUTE[..], &[10]].concat())),
            ("sparse initializers", true, empty(&[GRAPH, 15])),
            ("functions", true, empty(&[25])),
            ("value infos", false, empty(&VALUE)),
            ("value infos of a type", false, each(&[GRAPH], &[13, 2, 1])),
            ("value infos of a dim", false, each(&[GRAPH], &[13, 2, 1, 2, 1])),
            ("value infos of a sequence of sequences", false, each(&[GRAPH], &[13, 2, 4, 1, 4, 1, 4, 1, 4])),
            ("dims", false, empty(&[&VALUE[..], &[2, 1, 2, 1]].concat())),
            ("inputs of a node", false, empty(&[&NODE[..], &[1]].concat())),
            ("strings", false, empty(&[&ATTRIBUTE[..], &[9]].concat())),
            ("entries of external data", false, empty(&[&TENSOR[..], &[13]].concat())),
            ("operator sets", false, empty(&[8])),
            ("numbers, packed", false, many(&TENSOR, &field(7, &vec![1; bytes]), bytes + 5)),
            ("numbers, one by one", false, many(&TENSOR, &[1 << 3, 1], bytes)),
            ("shapes, packed one by one", false, many(&[GRAPH], &nested(&[5, 1], &[1]), bytes)),
        ] {
            let (size, file) = (file.len() as u64, Bytes::from(file));
            let found = wire::scan(&file);
            let (result, peak) = measured(|| decode(file.clone()));
            let took = format!("{name}: {size} bytes, {} expected, {peak} taken", found.bytes);
            eprintln!("{took}{}", if found.over.is_some() { ", refused" } else { "" });
            match result {
                Err(ImportError::Swells { needed, .. }) => {
                    assert!(needed > wire::allowed(size) && peak < 64 << 10, "{took}");
                }
                _ => assert!(!refused && peak <= with_growth(wire::allowed(size)), "{took}"),
            }
        }
    }
}

#[test]
fn a_refusal_says_where_and_by_how_much() {
    let _alone = alone();
    let error = decode(many(&[GRAPH], &field(1, &[]), 1 << 20).into()).unwrap_err();
    insta::assert_snapshot!(error, @"/nowhere/hostile.onnx: decoding it would take 84.0 MiB of memory, 4.0 MiB more than a file of 1.0 MiB may take (passed at byte 524292): it is made of very many parts that are empty or nearly so, as no exporter writes them; export the model again");
}

fn shared(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models").join(folder);
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("{} is not there: skipped", folder.display());
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|p| p.extension().is_some_and(|e| e == "onnx")).collect();
    paths.sort();
    paths
}

/// What is expected is what is taken, by half: of models with and without weights in the file.
#[test]
fn what_is_expected_is_what_is_taken() {
    let _alone = alone();
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models");
    let own = std::fs::read_dir(own).unwrap().map(|entry| entry.unwrap().path());
    let own = own.filter(|p| p.extension().is_some_and(|e| e == "onnx"));
    for path in own.chain(shared("light")).chain(shared("")) {
        let file = Bytes::from(std::fs::read(&path).unwrap());
        let found = wire::scan(&file);
        let (_model, peak) = measured(|| onnx::ModelProto::decode(file.clone()).unwrap());
        let (size, ratio) = (file.len(), found.bytes as f64 / file.len() as f64);
        eprintln!("{}: {size} bytes, {} expected ({ratio:.2}), {peak} taken", path.display(), found.bytes);
        assert!(peak <= with_growth(found.bytes) && found.bytes <= peak + peak / 2, "{}", path.display());
        assert!(found.bytes < wire::allowed(size as u64) / 4, "{}", path.display());
    }
}

/// A field that the schema has and the count has not would hide what it costs: each number that there may be, in each
/// message, many times over and with much in it, alone and each in a message of its own.
#[test]
fn every_field_is_counted() {
    let _alone = alone();
    let below = |above: &[usize], all: &[&[usize]]| -> Vec<Vec<usize>> {
        all.iter().map(|inside| [above, inside].concat()).collect()
    };
    let messages = [
        below(&[], &[&[], &[8], &[25], &[25, 7], &[25, 9], &[25, 11], &[GRAPH]]),
        below(&[GRAPH], &[&[1], &[5], &[5, 13], &[11], &[12], &[13], &[15], &[15, 1], &[15, 2]]),
        below(&ATTRIBUTE, &[&[], &[5], &[6], &[10], &[11], &[14], &[15], &[22], &[23]]),
        below(&[GRAPH, 13, 2], &[&[], &[1], &[1, 2], &[1, 2, 1], &[4], &[5], &[7], &[8], &[9]]),
        below(&[GRAPH, 13, 2], &[&[4, 1, 7], &[5, 2, 7], &[9, 1, 7]]),
    ];
    for inside in messages.concat() {
        for number in 1..32 {
            let large = field(number, &[b'a'; 100_000]);
            let many_fields = field(number, &[]).repeat(2_000);
            let numbers = [varint(number << 3), vec![1]].concat().repeat(20_000);
            let parts = [large, many_fields, numbers].map(|part| nested(&inside, &part));
            let each = inside.split_last().map(|(last, above)| {
                let part = nested(&[*last, number], &[]).repeat(2_000);
                nested(above, &part)
            });
            for file in parts.into_iter().chain(each) {
                check(file).unwrap_or_else(|failed| panic!("field {number} of {inside:?}: {failed}"));
            }
        }
    }
}

/// A model of a few bytes with most kinds of parts.
fn small() -> Vec<u8> {
    let mut inner = Builder::new(17);
    inner.output("r").node("Neg", &["x"], &["r"], vec![]);
    let inner = onnx::ModelProto::decode(&inner.bytes()[..]).unwrap().graph.unwrap();
    let tensor = onnx::TensorProto {
        dims: vec![2, 1],
        data_type: 7,
        int64_data: vec![1, 300],
        name: "t".to_owned(),
        external_data: vec![onnx::StringStringEntryProto { key: "location".to_owned(), value: "w".to_owned() }],
        ..Default::default()
    };
    let attribute = onnx::AttributeProto {
        name: "all".to_owned(),
        i: Some(3),
        t: Some(Box::new(tensor.clone())),
        g: Some(Box::new(inner.clone())),
        floats: vec![1.0; 5],
        ints: vec![1, 2, 3],
        strings: vec![Bytes::from_static(b"one"), Bytes::new()],
        tensors: vec![tensor.clone(); 5],
        graphs: vec![inner.clone(), inner],
        sparse_tensors: vec![onnx::SparseTensorProto { values: Some(tensor), indices: None, dims: vec![1] }],
        ..Default::default()
    };
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "4"]).output("y").node("If", &["x"], &["y"], vec![attribute.clone(), attribute]);
    b.bytes()
}

/// Whatever a file holds: no panic, no cost that was not expected, and no refusal of what is under the limit.
fn check(file: Vec<u8>) -> Result<(), TestCaseError> {
    let file = Bytes::from(file);
    let found = wire::scan(&file);
    let (decoded, peak) = measured(|| onnx::ModelProto::decode(file.clone()));
    prop_assert!(peak <= with_growth(found.bytes), "{} expected, {peak} taken", found.bytes);
    drop(decoded);
    prop_assert_eq!(found.over.is_some(), found.bytes > wire::allowed(file.len() as u64));
    let refused = matches!(decode(file), Err(ImportError::Swells { .. }));
    prop_assert_eq!(refused, found.over.is_some());
    Ok(())
}

/// Bytes that look like fields of known numbers.
fn messages() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![8 => 1usize..26, 1 => 1usize..5_000];
    let text = prop_oneof![1 => Just(Vec::new()), 2 => prop::collection::vec(any::<u8>(), 0..20)];
    let leaf = prop_oneof![
        2 => (number.clone(), any::<u16>()).prop_map(|(n, value)| [varint(n << 3), varint(value.into())].concat()),
        4 => (number.clone(), text).prop_map(|(n, text)| field(n, &text)),
        1 => number.clone().prop_map(|n| [varint(n << 3 | 5), vec![0; 4]].concat()),
        1 => number.clone().prop_map(|n| [varint(n << 3 | 3), varint(9 << 3), vec![1], varint(n << 3 | 4)].concat()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    let number = prop_oneof![4 => prop::sample::select(vec![1usize, 2, 5, 6, 7, 10, 11, 13, 15, 23]), 1 => number];
    leaf.prop_recursive(9, 200, 12, move |inner| {
        (number.clone(), prop::collection::vec(inner, 0..12)).prop_map(|(n, parts)| field(n, &parts.concat()))
    })
}

#[derive(Clone, Debug)]
enum Change {
    Byte(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, usize),
    Repeat(prop::sample::Index, usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let at = any::<prop::sample::Index>;
    let change = prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (at(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (at(), 1usize..9).prop_map(|(at, count)| Change::Remove(at, count)),
        (at(), 1usize..40, 1usize..300).prop_map(|(at, length, times)| Change::Repeat(at, length, times)),
    ];
    prop::collection::vec(change, 0..6)
}

fn changed(mut file: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes.iter().filter(|_| !file.is_empty()).cloned().collect::<Vec<_>>() {
        let at = |at: prop::sample::Index| at.index(file.len());
        match change {
            Change::Byte(index, byte) => {
                let at = at(index);
                file[at] = byte;
            }
            Change::Insert(index, bytes) => {
                let at = at(index);
                file.splice(at..at, bytes);
            }
            Change::Remove(index, count) => {
                let at = at(index);
                file.drain(at..(at + count).min(file.len()));
            }
            Change::Repeat(index, length, times) => {
                let at = at(index);
                let part = file[at..(at + length).min(file.len())].repeat(times);
                file.splice(at..at, part);
            }
        }
        if file.is_empty() {
            break;
        }
    }
    file
}

/// Checks what this makes, and nothing else meanwhile: the allocator counts what making it takes, too.
fn check_all(files: impl Strategy<Value = Vec<u8>>) {
    let _alone = alone();
    let seed = RngSeed::Fixed(29);
    let config = Config { cases: 3_000, rng_seed: seed, failure_persistence: None, ..Config::default() };
    TestRunner::new(config).run(&files, check).unwrap_or_else(|failed| panic!("{failed}"));
}

#[test]
fn random_bytes_cost_what_is_expected() {
    check_all(prop::collection::vec(any::<u8>(), 0..200));
}

#[test]
fn random_messages_cost_what_is_expected() {
    let parts = prop::collection::vec(messages(), 0..6).prop_map(|parts| parts.concat());
    check_all((any::<bool>(), parts).prop_map(|(whole, parts)| if whole { parts } else { field(GRAPH, &parts) }));
}

#[test]
fn changed_models_cost_what_is_expected() {
    let models = [shared("hostile"), shared("light")].concat();
    let models = models.iter().map(|path| std::fs::read(path).unwrap());
    let models: Vec<Vec<u8>> = models.chain(std::iter::repeat_n(small(), 30)).collect();
    check_all((prop::sample::select(models), changes()).prop_map(|(model, changes)| changed(model, &changes)));
}
