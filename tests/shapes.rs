//! Inferred shapes are executed shapes: every result of every operator of every runnable model, at three sets of sizes.

mod common;

use berth::npz::{self, Array};
use berth_compiler::import::{self, Model, onnx};
use berth_compiler::task_model::{Outside, known_bytes, task_model_for};
use berth_ir::DType;
use berth_ir::expr::{Binding, Expr, Ranges};
use berth_ir::graph::{Content, Graph, OpId, Value, ValueId};
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{Engine, EngineOptions, Port, TaskCode};
use common::runnable_models;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt;

/// Sizes of the n-th dim of the inputs, by round: small, unlike, one of them nothing where the model can do without.
const SIZES: [[u64; 4]; 3] = [[2, 3, 5, 7], [1, 4, 6, 2], [3, 1, 2, 9]];

/// The model's graph at the sizes of a round; a dim that follows from others is left to it.
fn graph(model: &Model, round: usize, set: &BTreeMap<String, Vec<i64>>, stored: &Stored) -> Graph {
    let fail = |e: import::ImportError| panic!("{}: {e}", model.path().display());
    let relations = model.graph(&Binding::new()).unwrap_or_else(fail).relations;
    let dims = model.input_dims().into_iter().map(|d| d.name).filter(|d| !relations.contains_key(d));
    let mut binding: Binding = dims.zip(SIZES[round]).collect();
    // Files give unlike axes one name; the stored inputs show of which dims such an axis is the sum.
    if set.iter().all(|(name, value)| stored.truths.get(name) == Some(value)) {
        for (axis, parts) in &stored.sums {
            binding.insert(axis.clone(), parts.iter().map(|part| binding[part]).sum());
        }
    }
    model.graph_with(&binding, set).unwrap_or_else(fail)
}

/// What the stored inputs of a model say of it.
struct Stored {
    /// Axes that have another size than their name says, with the two dims whose sum they are.
    sums: Vec<(String, [String; 2])>,
    /// Inputs that are truth values.
    truths: BTreeMap<String, Vec<i64>>,
}

impl Stored {
    fn new(model: &Model) -> Stored {
        let arrays = npz::read(&model.path().with_extension("npz")).expect("stored inputs");
        let named = arrays.into_iter().filter_map(|a| Some((a.name.strip_prefix("in:")?.to_owned(), a)));
        let inputs: BTreeMap<String, Array> = named.collect();
        let mut dims = BTreeMap::new();
        berth::model::dims_of_inputs(model, &inputs, &[], &mut dims).expect("its dims");
        let sizes: Vec<(String, u64)> = dims.into_iter().map(|(dim, range)| (dim, range.high)).collect();
        let mut sums = Vec::new();
        for (axis, size) in sizes.iter().filter(|(name, _)| name.contains(':')) {
            let pairs = sizes.iter().enumerate().flat_map(|(i, a)| sizes[..i].iter().map(move |b| (a, b)));
            let found = pairs.filter(|(a, b)| a.1 + b.1 == *size).map(|(a, b)| [a.0.clone(), b.0.clone()]).next();
            sums.push((axis.clone(), found.expect("a sum of two dims")));
        }
        let truth = |a: &Array| (a.dtype == DType::Bool).then(|| a.bytes.iter().map(|b| i64::from(*b)).collect());
        let truths = inputs.iter().filter_map(|(name, a)| Some((name.clone(), truth(a)?))).collect();
        Stored { sums, truths }
    }
}

/// All operators as one model in which every result is an output, of a shape that the engine finds by itself.
fn everything(graph: &Graph, most: &dyn Fn(&Value) -> Vec<u64>) -> (TaskCode, Vec<ValueId>, Vec<ValueId>) {
    let ops: Vec<OpId> = (0..graph.ops.len() as u32).map(OpId).collect();
    let whole = task_model_for(graph, &ops, &Outside { embed: &|_| None, kept: &|_| None, goes_out: &|_| true })
        .expect("a model");
    let mut proto = onnx::ModelProto::decode(whole.model).expect("it decodes");
    for output in proto.graph.iter_mut().flat_map(|g| &mut g.output) {
        let kind = output.r#type.as_mut().and_then(|t| t.value.as_mut());
        if let Some(onnx::type_proto::Value::TensorType(tensor)) = kind {
            tensor.shape = None;
        }
    }
    let port = |letter: char, found: bool| {
        move |(n, id): (usize, &ValueId)| {
            let value = graph.value(*id);
            Port { found, ..Port::new(format!("{letter}{n}"), value.dtype, most(value)) }
        }
    };
    let code = TaskCode {
        name: graph.name.clone(),
        model: proto.encode_to_vec().into(),
        inputs: whole.inputs.iter().enumerate().map(port('i', false)).collect(),
        outputs: whole.outputs.iter().enumerate().map(port('o', true)).collect(),
        kept: 0,
    };
    (code, whole.inputs, whole.outputs)
}

/// Runs everything and compares each shape, and each value that was known before. Gives the number of values compared.
fn check(name: &str, graph: &Graph, engine: &mut OrtEngine) -> usize {
    let mut ranges = Ranges::new();
    for (dim, bound) in &graph.data_dims {
        let (_, most) = bound.range(&ranges).unwrap_or_else(|| panic!("{name}: `{dim}` has no bound"));
        ranges.insert(dim.clone(), (0, most as u64));
    }
    let size = |e: &Expr| e.range(&ranges).unwrap_or_else(|| panic!("{name}: {e} has no size")).1 as u64;
    let most = |value: &Value| value.shape.iter().map(size).collect::<Vec<u64>>();
    let (code, inputs, outputs) = everything(graph, &most);
    let (offsets, bytes) = code.scratch_layout().expect("sizes");
    // Aligned by hand: a test has no arena.
    let mut memory = vec![0u8; bytes as usize + 64];
    let skip = memory.as_ptr().align_offset(64);
    let memory = &mut memory[skip..skip + bytes as usize];
    for ((id, offset), port) in inputs.iter().zip(&offsets).zip(&code.inputs) {
        let value = graph.value(*id);
        let place = &mut memory[*offset as usize..][..port.bytes().expect("a size") as usize];
        match &value.content {
            Content::Stored(stored) => {
                let file = std::fs::File::open(&stored.path).expect("the weights");
                file.read_exact_at(place, stored.offset).expect("the weights");
            }
            _ => place.copy_from_slice(&made(graph, value, port).bytes),
        }
    }
    let session = engine.prepare(&code).unwrap_or_else(|e| panic!("{name}: {e}"));
    let measured = engine.measure(session, &code, memory, 1, &mut || {});
    let shapes = measured.unwrap_or_else(|e| panic!("{name}: {e}")).found;
    assert_eq!(shapes.len(), outputs.len(), "{name}");
    let mut sizes = Binding::new();
    for ((id, found), offset) in outputs.iter().zip(&shapes).zip(&offsets[inputs.len()..]) {
        let value = graph.value(*id);
        assert_eq!(value.shape.len(), found.len(), "{name}: axes of `{}`", value.name);
        for (axis, found) in value.shape.iter().zip(found) {
            if let Some(dim) = axis.as_dim() {
                sizes.entry(dim.to_owned()).or_insert(*found);
            }
            let inferred = axis.eval(&sizes).unwrap_or_else(|e| panic!("{name}: `{}`: {e}", value.name));
            assert_eq!(inferred, i128::from(*found), "{name}: `{}` is {found}, inferred {axis}", value.name);
        }
        if let Content::Known(elements) = &value.content
            && elements.iter().all(|e| e.as_constant().is_some())
        {
            let known = known_bytes(value).expect("numbers");
            assert!(memory[*offset as usize..].starts_with(&known), "{name}: `{}` is not {elements:?}", value.name);
        }
    }
    outputs.len()
}

/// An input from a seed.
fn made(graph: &Graph, value: &Value, port: &Port) -> Array {
    if let Content::Known(_) = value.content {
        let bytes = known_bytes(value).expect("numbers").to_vec();
        return Array { name: value.name.clone(), dtype: value.dtype, shape: port.shape.clone(), bytes };
    }
    let ports = [(value.name.clone(), value.dtype, port.shape.clone())];
    let mut made = berth::seed::seeded_inputs(&ports, 7, &berth::seed::index_bounds(graph)).expect("an input");
    made.remove(0)
}

#[test]
fn inferred_shapes_are_executed_shapes() {
    let mut engine = OrtEngine::open(&EngineOptions { library: None, threads: 2, spin: false }).expect("the engine");
    let (mut models, mut compared) = (BTreeSet::new(), 0);
    for path in runnable_models() {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let model = import::open(&path).expect("it opens");
        let stored = Stored::new(&model);
        // An input that decides which of two graphs runs is given both ways.
        let sets: Vec<BTreeMap<String, Vec<i64>>> = match stored.truths.keys().next() {
            Some(name) => [0, 1].map(|v| BTreeMap::from([(name.clone(), vec![v])])).into(),
            None => vec![BTreeMap::new()],
        };
        for set in sets {
            for round in 0..SIZES.len() {
                let graph = graph(&model, round, &set, &stored);
                compared += check(&format!("{name} {set:?} round {round}"), &graph, &mut engine);
                models.insert(name.clone());
            }
        }
    }
    let shared = common::root().join("../shared/models").is_dir();
    assert!(models.len() >= if shared { 18 } else { 6 }, "only {models:?}");
    assert!(compared >= if shared { 10_000 } else { 2_500 }, "only {compared} values");
}
