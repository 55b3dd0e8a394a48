//! Rewritten graphs run in the real engine: their outputs are those of the graph as it was, bit for bit.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;

use berth::model::{self, Dims};
use berth::npz::{self, Array};
use berth_compiler::import;
use berth_compiler::import::onnx::AttributeProto;
use berth_compiler::lower::Lowered;
use berth_compiler::plan::{extremes, plan};
use berth_compiler::rewrite::{rewrite, saved};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::Graph;
use berth_ir::program::{DimRange, Mode};
use berth_ir::units::Bytes;
use berth_ir::verify::verify;
use berth_runtime_exec::engine::EngineOptions;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::executor::{Caller, Executor, Options};
use berth_runtime_exec::store::Places;
use build::{Builder, attribute};
use common::{Folder, json, runnable_models};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Feeds arrays, keeps outputs.
struct Side<'a> {
    lowered: &'a Lowered,
    inputs: &'a BTreeMap<String, Array>,
    outputs: BTreeMap<String, Vec<u8>>,
}

impl Caller for Side<'_> {
    fn feed(&mut self, tensor: &str, _step: usize, to: &mut [u8], _: &Binding, kept: bool) -> Result<(), String> {
        let port = self.lowered.inputs.iter().find(|b| b.tensor.as_deref() == Some(tensor)).ok_or("no input")?;
        if !kept {
            to.copy_from_slice(&self.inputs[&port.name].bytes);
        }
        Ok(())
    }
    fn fetch(&mut self, tensor: &str, _step: usize, from: &[u8], _dims: &Binding) -> Result<(), String> {
        self.outputs.insert(tensor.to_owned(), from.to_vec());
        Ok(())
    }
}

/// Plans a graph as it is, proves the plan, runs it; outputs by name.
fn run(graph: &Graph, dims: &Dims, inputs: &BTreeMap<String, Array>, folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let target = berth::machine::target("host").expect("the host");
    let (mut lowered, _) = model::as_it_is(graph, dims, &target, &[]).unwrap_or_else(|e| panic!("{}", e.paragraph));
    let mut engine = OrtEngine::open(&EngineOptions { library: None, threads: 2, spin: false }).expect("the engine");
    let costs = berth::measure::costs(&lowered, &mut engine, &Places::folder(folder))
        .unwrap_or_else(|e| panic!("{}", e.paragraph));
    lowered.lifetimes = berth_compiler::cost::with_measured(lowered.lifetimes.clone(), &costs);
    let (least, _) = extremes(&lowered.lifetimes, &target).expect("extremes");
    let budget = BTreeMap::from([("device".to_owned(), Bytes(least.bytes * 2))]);
    let target = target.budgeted(&budget);
    let plan = plan(&lowered.lifetimes, &target, Mode::Loop).expect("a plan");
    let program = verify(&target, plan.program, Some(&lowered.facts)).expect("it is safe");
    let ports = berth::measure::ports(&program, &lowered).unwrap_or_else(|e| panic!("{}", e.paragraph));
    let mut side = Side { lowered: &lowered, inputs, outputs: BTreeMap::new() };
    let options = Options { measure: true, ..Options::new(folder) };
    let mut executor = Executor::load(&program, &ports, vec![engine], &options).expect("it loads");
    executor.run(1, Duration::from_secs(60), &mut side).expect("it runs");
    let tensor = |name: &Option<String>| name.clone().expect("an output has a tensor");
    lowered.outputs.iter().map(|b| (b.name.clone(), side.outputs[&tensor(&b.tensor)].clone())).collect()
}

#[test]
fn runnable_models_keep_their_bits() {
    let mut rewritten = 0;
    for path in runnable_models() {
        let opened = import::open(&path).expect("it opens");
        let arrays = npz::read(&path.with_extension("npz")).expect("its inputs");
        let named = arrays.into_iter().filter_map(|a| Some((a.name.strip_prefix("in:")?.to_owned(), a)));
        let inputs: BTreeMap<String, Array> = named.collect();
        let mut dims = BTreeMap::new();
        model::dims_of_inputs(&opened, &inputs, &[], &mut dims).unwrap_or_else(|e| panic!("{}", e.paragraph));
        let mut set = BTreeMap::new();
        model::set_deciding(&opened, &dims, &inputs, &mut set);
        let graph = model::graph(&opened, &dims, &set).unwrap_or_else(|e| panic!("{}", e.paragraph));
        let Some(other) = rewrite(&graph, &dims) else { continue };
        rewritten += 1;
        let folder = path.parent().expect("a folder");
        let (before, after) = (run(&graph, &dims, &inputs, folder), run(&other, &dims, &inputs, folder));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        let different: Vec<&String> = before.keys().filter(|name| before[*name] != after[*name]).collect();
        assert!(different.is_empty(), "{}: these outputs differ: {different:?}", path.display());
    }
    assert!(rewritten >= 3, "only {rewritten} models were rewritten");
}

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: 7, ints: values.to_vec(), ..Default::default() }
}

/// A value of a random graph; a size of -1 is the dim `n`.
#[derive(Clone)]
struct Made {
    name: String,
    shape: Vec<i64>,
}

/// A random graph of operators that move bytes, with a few that work on elements. With `open`, its first axes are `n`.
struct Random {
    b: Builder,
    dice: Dice,
    values: Vec<Made>,
    count: usize,
}

impl Random {
    fn new(seed: u64, open: bool) -> Random {
        let mut random = Random { b: Builder::new(18), dice: Dice(seed), values: Vec::new(), count: 0 };
        random.dice.below(2);
        for n in 0..1 + random.dice.below(3) {
            let rank = 1 + random.dice.below(4);
            let mut shape: Vec<i64> = (0..rank).map(|_| [1, 1, 2, 3, 4][random.dice.below(5)]).collect();
            if open {
                shape[0] = -1;
            }
            let sizes: Vec<String> =
                shape.iter().map(|s| if *s < 0 { "n".to_owned() } else { s.to_string() }).collect();
            let sizes: Vec<&str> = sizes.iter().map(String::as_str).collect();
            random.b.input(&format!("x{n}"), DType::F32, &sizes);
            random.values.push(Made { name: format!("x{n}"), shape });
        }
        for _ in 0..4 + random.dice.below(14) {
            random.operator();
        }
        let outputs = 1 + random.dice.below(3);
        let mut last: Vec<Made> = random.values.iter().skip(1).rev().take(outputs).cloned().collect();
        last.retain(|v| !v.name.starts_with('x'));
        for value in last {
            random.b.output(&format!("y {}", value.name));
            let kind = ["Identity", "Exp", "Relu"][random.dice.below(3)];
            random.b.node(kind, &[&value.name], &[&format!("y {}", value.name)], vec![]);
        }
        random
    }

    fn value(&mut self) -> Made {
        // Mostly one of the last, so that operators stand behind each other.
        let n = self.values.len();
        let back = if self.dice.below(3) == 0 { self.dice.below(n) } else { self.dice.below(n.min(3)) };
        self.values[n - 1 - back].clone()
    }

    fn name(&mut self) -> String {
        self.count += 1;
        format!("v{}", self.count)
    }

    fn list(&mut self, values: &[i64]) -> String {
        let name = format!("{} list", self.name());
        self.b.ints(&name, values);
        name
    }

    fn add(&mut self, kind: &str, inputs: &[&str], shape: Vec<i64>, attributes: Vec<AttributeProto>) {
        let name = self.name();
        self.b.node(kind, inputs, &[&name], attributes);
        self.values.push(Made { name, shape });
    }

    fn operator(&mut self) {
        let from = self.value();
        let rank = from.shape.len();
        let axis = self.dice.below(rank.max(1));
        match self.dice.below(12) {
            0..=2 => {
                let mut order: Vec<usize> = (0..rank).collect();
                (1..rank).rev().for_each(|n| order.swap(n, self.dice.below(n + 1)));
                let shape = order.iter().map(|at| from.shape[*at]).collect();
                let perm: Vec<i64> = order.iter().map(|at| *at as i64).collect();
                self.add("Transpose", &[&from.name], shape, vec![ints("perm", &perm)]);
            }
            3 if rank < 5 => {
                let mut shape = from.shape.clone();
                shape.insert(axis, 1);
                let at = self.list(&[axis as i64]);
                self.add("Unsqueeze", &[&from.name, &at], shape, vec![]);
            }
            4 => {
                // An axis into the next, where both are numbers.
                let Some(at) = (1..rank).find(|n| from.shape[*n] > 0 && from.shape[n - 1] > 0) else { return };
                let mut shape = from.shape.clone();
                shape[at - 1] *= shape.remove(at);
                let to: Vec<i64> = shape.clone();
                let to = self.list(&to);
                self.add("Reshape", &[&from.name, &to], shape, vec![]);
            }
            5 if rank > 0 && from.shape[axis] > 0 => {
                let size = from.shape[axis];
                let start = self.dice.below(size as usize) as i64;
                let end = start + 1 + self.dice.below((size - start) as usize) as i64;
                let step = 1 + self.dice.below(2) as i64;
                let mut shape = from.shape.clone();
                shape[axis] = (end - start + step - 1) / step;
                let lists = [start, end, axis as i64, step].map(|n| self.list(&[n]));
                self.add("Slice", &[&from.name, &lists[0], &lists[1], &lists[2], &lists[3]], shape, vec![]);
            }
            6 if rank > 0 && from.shape[axis] > 1 => {
                let size = from.shape[axis];
                let first = 1 + self.dice.below(size as usize - 1) as i64;
                let sizes = self.list(&[first, size - first]);
                let names = [self.name(), self.name()];
                self.b.node(
                    "Split",
                    &[&from.name, &sizes],
                    &[&names[0], &names[1]],
                    vec![attribute("axis", axis as i64)],
                );
                for (name, part) in names.into_iter().zip([first, size - first]) {
                    let mut shape = from.shape.clone();
                    shape[axis] = part;
                    self.values.push(Made { name, shape });
                }
            }
            7 | 8 if rank > 0 => {
                let fits =
                    |v: &&Made| v.shape.len() == rank && (0..rank).all(|n| n == axis || v.shape[n] == from.shape[n]);
                let others: Vec<Made> = self.values.iter().filter(fits).cloned().collect();
                let other = others[others.len() - 1 - self.dice.below(others.len().min(3))].clone();
                if from.shape[axis] < 0 || other.shape[axis] < 0 || from.shape[axis] + other.shape[axis] > 16 {
                    return;
                }
                let mut shape = from.shape.clone();
                shape[axis] += other.shape[axis];
                let pair = if self.dice.below(2) == 0 { [&from.name, &other.name] } else { [&other.name, &from.name] };
                let attributes = vec![attribute("axis", axis as i64)];
                self.add("Concat", &[pair[0].as_str(), pair[1].as_str()], shape, attributes);
            }
            9 => {
                let kind = ["Relu", "Neg", "Identity"][self.dice.below(3)];
                self.add(kind, &[&from.name], from.shape.clone(), vec![]);
            }
            10 => {
                let fits = |v: &&Made| v.shape == from.shape;
                let others: Vec<Made> = self.values.iter().filter(fits).cloned().collect();
                let other = others[self.dice.below(others.len())].name.clone();
                let kind = ["Add", "Mul", "Max"][self.dice.below(3)];
                self.add(kind, &[&from.name, &other], from.shape.clone(), vec![]);
            }
            11 if rank > 0 && from.shape[axis] > 0 => {
                let at = format!("{} at", self.name());
                let index = self.dice.below(from.shape[axis] as usize) as i64;
                self.b.tensor(&at, DType::I64, &[], index.to_le_bytes().to_vec());
                let mut shape = from.shape.clone();
                shape.remove(axis);
                self.add("Gather", &[&from.name, &at], shape, vec![attribute("axis", axis as i64)]);
            }
            _ => {}
        }
    }

    /// The inputs, with `n` of this size.
    fn inputs(&mut self, n: i64) -> BTreeMap<String, Array> {
        let mut inputs = BTreeMap::new();
        for value in self.values.iter().filter(|v| v.name.starts_with('x')) {
            let shape: Vec<u64> = value.shape.iter().map(|s| if *s < 0 { n } else { *s } as u64).collect();
            let count: u64 = shape.iter().product();
            let floats = (0..count).map(|_| self.dice.below(4001) as f32 / 7.0 - 250.0);
            let bytes = floats.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
            inputs.insert(value.name.clone(), Array { name: value.name.clone(), dtype: DType::F32, shape, bytes });
        }
        inputs
    }
}

#[test]
fn random_graphs_keep_their_bits() {
    let (mut rewritten, mut cheaper) = (0, 0);
    for seed in 0..160 {
        let mut random = Random::new(seed, false);
        let inputs = random.inputs(0);
        let dims = Dims::new();
        let graph = random.b.model().graph(&Binding::new()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        if graph.outputs.is_empty() {
            continue;
        }
        let Some(other) = rewrite(&graph, &dims) else { continue };
        rewritten += 1;
        let target = berth::machine::target("host").expect("the host");
        let [a, b] = [&graph, &other]
            .map(|g| model::as_it_is(g, &dims, &target, &[]).unwrap_or_else(|e| panic!("{}", e.paragraph)).0);
        cheaper += usize::from(saved(&a.lifetimes, &b.lifetimes).is_some());
        let [before, after] = [&graph, &other].map(|g| run(g, &dims, &inputs, Path::new("/")));
        assert!(before == after, "seed {seed}: outputs differ");
    }
    assert!(rewritten >= 40, "only {rewritten} graphs were rewritten");
    assert!(cheaper * 10 >= rewritten * 9, "only {cheaper} of {rewritten} are cheaper as lowering counts it");
}

/// A range is planned once and run at sizes in it; a graph of one size is run as it is.
#[test]
fn random_graphs_with_a_range_keep_their_bits() {
    let folder = Folder::new("rewrite-range");
    let mut rewritten = 0;
    for seed in 1000..1030 {
        let mut random = Random::new(seed, true);
        let graph = random.b.model().graph(&Binding::new()).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let range = Dims::from([("n".to_owned(), DimRange { low: 1, high: 5 })]);
        if graph.outputs.is_empty() || rewrite(&graph, &range).is_none() {
            continue;
        }
        rewritten += 1;
        let (path, from, to) = (folder.file("m.onnx"), folder.file("in.npz"), folder.file("out.npz"));
        std::fs::write(&path, random.b.bytes()).expect("it writes");
        for n in [1, 3] {
            let inputs = random.inputs(n);
            let arrays: Vec<Array> = inputs.values().cloned().collect();
            npz::write(Path::new(&from), &arrays).expect("it writes");
            json(&["run", &path, "--dim", "n=1..5", "--inputs", &from, "--outputs", &to]);
            let bound = Binding::from([("n".to_owned(), n as u64)]);
            let graph = random.b.model().graph(&bound).expect("a graph");
            let before = run(&graph, &berth_compiler::lower::exactly(&bound), &inputs, Path::new("/"));
            for array in npz::read(Path::new(&to)).expect("it reads") {
                let name = array.name.strip_prefix("out:").unwrap_or(&array.name);
                assert!(before[name] == array.bytes, "seed {seed} at n = {n}: `{name}` differs");
            }
        }
    }
    assert!(rewritten >= 8, "only {rewritten} graphs were rewritten");
}

#[test]
fn what_is_saved_is_told() {
    let model = common::model("llama_decode.onnx");
    let words = ["inspect", model.to_str().expect("UTF-8"), "--dim", "batch=1", "--dim", "seq=1", "--dim", "past=31"];
    let saved = &json(&words)["saved"];
    assert_eq!(saved["tasks"], serde_json::json!([247, 230]));
    assert!(saved["moved_bytes"][1].as_u64() < saved["moved_bytes"][0].as_u64(), "{saved}");
    let text = String::from_utf8(common::berth(words).stdout).expect("UTF-8");
    assert!(text.contains("\n  rewritten   230 tasks for 247: "), "{text}");
}
