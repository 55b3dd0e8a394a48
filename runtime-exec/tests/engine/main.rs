//! The compute engine, on models of a few nodes. Needs the library: `cargo xtask setup` fetches it, and without it
//! every test here fails saying so.
#![allow(unsafe_code)] // Binding is a promise about addresses; the helper below keeps it.

mod model;

use berth_ir::DType::{F32, I64};
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{Engine, EngineError, EngineOptions, TaskCode};
use berth_runtime_exec::errors::LoadError;
use berth_runtime_exec::executor::{Cue, Stage, rehearse};
use model::{Attr, Model};
use std::time::{Duration, Instant};

const THREADS: usize = 2;

fn open() -> OrtEngine {
    OrtEngine::open(&EngineOptions { library: None, threads: THREADS, spin: false })
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Memory that starts on 64 bytes.
struct Block {
    bytes: Vec<u8>,
    skip: usize,
}

impl Block {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + 64];
        let skip = bytes.as_ptr().align_offset(64);
        Block { bytes, skip }
    }
    fn all(&mut self) -> &mut [u8] {
        let end = self.bytes.len() - (64 - self.skip);
        &mut self.bytes[self.skip..end]
    }
}

/// All of a task's tensors in one block, bound where they lie.
struct Bench {
    engine: OrtEngine,
    code: TaskCode,
    memory: Block,
    offsets: Vec<usize>,
    binding: berth_runtime_exec::engine::BindingId,
}

impl Bench {
    fn new(code: TaskCode) -> Result<Self, EngineError> {
        let mut engine = open();
        let session = engine.prepare(&code)?;
        let (offsets, length) = code.scratch_layout().unwrap();
        let offsets: Vec<usize> = offsets.into_iter().map(|o| o as usize).collect();
        let mut memory = Block::new(length as usize);
        let start = memory.all().as_mut_ptr();
        let addresses: Vec<*mut u8> = offsets.iter().map(|o| start.wrapping_add(*o)).collect();
        let (inputs, outputs) = addresses.split_at(code.inputs.len());
        // SAFETY: the block lives as long as the engine and is touched only between runs.
        let binding = unsafe { engine.bind(session, &code, inputs, outputs)? };
        Ok(Bench { engine, code, memory, offsets, binding })
    }

    fn tensor(&mut self, name: &str) -> &mut [u8] {
        let index = self.code.ports().position(|port| port.name == name).unwrap();
        let length = self.code.ports().nth(index).unwrap().bytes().unwrap() as usize;
        let from = self.offsets[index];
        &mut self.memory.all()[from..from + length]
    }

    fn write(&mut self, name: &str, values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensor(name).copy_from_slice(&bytes);
    }

    fn read(&mut self, name: &str) -> Vec<f32> {
        self.tensor(name).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    fn run(&mut self, workspace_bytes: usize) -> Result<(), EngineError> {
        let mut workspace = Block::new(workspace_bytes);
        let range = workspace.all();
        // SAFETY: as at the binding, and the workspace is this call's own.
        unsafe { self.engine.run(self.binding, (range.as_mut_ptr(), range.len())) }
    }

    fn measured(&mut self) -> u64 {
        let session = self.engine.prepare(&self.code).unwrap();
        let mut scratch = Block::new(self.memory.bytes.len());
        self.engine.measure(session, &self.code, scratch.all(), 2, &mut || {}).unwrap().workspace_bytes
    }
}

fn matmul(name: &'static str, m: u64, k: u64, n: u64) -> Model {
    let model = Model::new(name).input("x", F32, &[m, k]).input("w", F32, &[k, n]);
    model.node("MatMul", &["x", "w"], &["y"], &[]).output("y", F32, &[m, n])
}

/// Numbers that no rounding flatters.
fn noise(seed: u32, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        f32::from_bits(0x3f80_0000 | state >> 9) - 1.5
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn results_appear_where_they_were_bound() {
    let mut bench = Bench::new(matmul("small", 2, 3, 2).code()).unwrap();
    bench.write("x", &[1., 2., 3., 4., 5., 6.]);
    bench.write("w", &[1., 0., 0., 1., 2., 2.]);
    bench.run(0).unwrap();
    assert_eq!(bench.read("y"), [7., 8., 16., 17.]);
    // New bytes at the same address are seen without binding again.
    bench.write("w", &[0., 1., 0., 1., 0., 1.]);
    bench.run(0).unwrap();
    assert_eq!(bench.read("y"), [0., 6., 0., 15.]);
}

#[test]
fn a_cut_keeps_the_bits() {
    let (m, k) = (5, 96);
    let shape = [m, k];
    let whole = Model::new("whole").input("x", F32, &shape).input("a", F32, &[k, k]).input("b", F32, &[k, k]);
    let whole = whole.node("MatMul", &["x", "a"], &["p"], &[]).node("Softmax", &["p"], &["q"], &[]);
    let whole = whole.node("MatMul", &["q", "b"], &["y"], &[]).output("y", F32, &shape);
    let mut whole = Bench::new(whole.code()).unwrap();
    let (x, a, b) = (noise(1, 480), noise(2, 9216), noise(3, 9216));
    [("x", &x), ("a", &a), ("b", &b)].into_iter().for_each(|(name, values)| whole.write(name, values));
    let workspace = whole.measured();
    whole.run(workspace as usize).unwrap();

    let step = |code: Model, feeds: &[(&str, &[f32])]| {
        let mut bench = Bench::new(code.code()).unwrap();
        feeds.iter().for_each(|(name, values)| bench.write(name, values));
        bench.run(0).unwrap();
        bench.read("y")
    };
    let p = step(matmul("first", m, k, k), &[("x", &x), ("w", &a)]);
    let softmax = Model::new("softmax").input("x", F32, &shape).node("Softmax", &["x"], &["y"], &[]);
    let q = step(softmax.output("y", F32, &shape), &[("x", &p)]);
    let y = step(matmul("last", m, k, k), &[("x", &q), ("w", &b)]);
    let bits = |all: Vec<f32>| all.into_iter().map(f32::to_bits).collect::<Vec<_>>();
    assert_eq!(bits(y), bits(whole.read("y")));
}

#[test]
fn identical_models_share_a_session() {
    let mut engine = open();
    let one = engine.prepare(&matmul("layer.0", 2, 3, 2).code()).unwrap();
    assert_eq!(engine.prepare(&matmul("layer.1", 2, 3, 2).code()).unwrap(), one);
    assert_ne!(engine.prepare(&matmul("layer.2", 2, 3, 4).code()).unwrap(), one);
}

#[test]
fn one_session_takes_two_shapes() {
    let double = |n: u64| {
        let model = Model::new("double").open_input("x", F32, &[n, 2]).node("Add", &["x", "x"], &["y"], &[]);
        model.open_output("y", F32, &[n, 2]).code()
    };
    let mut bench = Bench::new(double(3)).unwrap();
    bench.write("x", &[1., 2., 3., 4., 5., 6.]);
    bench.run(0).unwrap();
    assert_eq!(bench.read("y"), [2., 4., 6., 8., 10., 12.]);
    // Fewer rows, output elsewhere: the third row's room.
    let start = bench.memory.all().as_mut_ptr();
    let moved = start.wrapping_add(bench.offsets[1] + 8);
    assert_eq!(bench.code.model, double(1).model);
    // SAFETY: inside the block, which outlives the engine's use of it.
    unsafe { bench.engine.rebind(bench.binding, &double(1), &[start], &[moved]).unwrap() };
    bench.write("x", &[10., 20., 30., 40., 50., 60.]);
    bench.run(0).unwrap();
    assert_eq!(bench.read("y"), [2., 4., 20., 40., 10., 12.]);
}

#[test]
fn a_tensor_of_no_bytes_is_a_tensor() {
    let concat = |past: u64| {
        let model = Model::new("append").open_input("past", F32, &[past, 2]).input("x", F32, &[1, 2]);
        let model = model.node("Concat", &["past", "x"], &["y"], &[("axis", Attr::Int(0))]);
        model.node("Relu", &["past"], &["z"], &[]).open_output("y", F32, &[past + 1, 2]).open_output(
            "z",
            F32,
            &[past, 2],
        )
    };
    for past in [0, 3] {
        let mut bench = Bench::new(concat(past).code()).unwrap();
        bench.write("x", &[7., 8.]);
        bench.run(0).unwrap();
        assert_eq!(bench.read("y")[past as usize * 2..], [7., 8.]);
    }
}

#[test]
fn a_wrong_shape_is_an_error() {
    let mut code = matmul("wrong", 2, 3, 2).code();
    code.inputs[1].shape = vec![3, 4];
    let error = Bench::new(code).unwrap().run(0).unwrap_err();
    let EngineError::Engine { task, status, .. } = &error else { panic!("{error:?}") };
    assert!(task == "wrong" && status.contains("invalid dimensions"), "{error}");

    let mut code = matmul("narrow", 2, 3, 2).code();
    code.outputs[0].shape = vec![2, 1];
    let error = Bench::new(code).unwrap().run(0).unwrap_err();
    assert!(matches!(error, EngineError::Engine { .. }), "{error}");
}

#[test]
fn ports_that_the_model_does_not_have_are_an_error() {
    let mut code = matmul("renamed", 2, 3, 2).code();
    code.inputs[0].name = "left".into();
    let error = open().prepare(&code).unwrap_err();
    assert!(matches!(&error, EngineError::Ports { task, .. } if task == "renamed"), "{error}");
}

#[test]
fn a_model_that_is_none_is_an_error() {
    let mut code = matmul("garbage", 2, 3, 2).code();
    code.model = vec![0xff; 40].into();
    assert!(matches!(open().prepare(&code), Err(EngineError::Engine { .. })));
    code.model = Vec::new().into();
    assert!(matches!(open().prepare(&code), Err(EngineError::Engine { .. })));
}

fn conv() -> TaskCode {
    let model = Model::new("conv").input("x", F32, &[1, 8, 16, 16]).input("w", F32, &[8, 8, 3, 3]);
    let pads = [("pads", Attr::Ints(vec![1, 1, 1, 1]))];
    model.node("Conv", &["x", "w"], &["y"], &pads).output("y", F32, &[1, 8, 16, 16]).code()
}

#[test]
fn workspace_as_measured_suffices_and_less_is_an_error() {
    let mut bench = Bench::new(conv()).unwrap();
    bench.write("x", &noise(4, 2048));
    bench.write("w", &noise(5, 576));
    let needed = bench.measured();
    assert!(needed > 0, "a convolution unrolls its windows somewhere");
    bench.run(needed as usize).unwrap();
    let right = bench.read("y");

    for planned in [0, needed - 64] {
        let error = bench.run(planned as usize).unwrap_err();
        let wanted = EngineError::Spilled {
            task: "conv".into(),
            asked_bytes: needed,
            planned_bytes: planned,
            needed_bytes: needed,
        };
        assert_eq!(error, wanted);
    }
    bench.tensor("y").fill(0);
    bench.run(needed as usize).unwrap();
    assert_eq!(bench.read("y"), right, "a run after a spill is whole again");
}

#[test]
fn engines_on_two_threads_do_not_mix_their_workspaces() {
    let results: Vec<Vec<f32>> = std::thread::scope(|scope| {
        let go = || {
            let mut bench = Bench::new(conv()).unwrap();
            bench.write("x", &noise(4, 2048));
            bench.write("w", &noise(5, 576));
            let needed = bench.measured() as usize;
            (0..50).for_each(|_| bench.run(needed).unwrap());
            bench.read("y")
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(go)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_stop_ends_the_run_in_flight_and_only_that() {
    // Long enough to be met: many operators, as the stop is seen between them.
    const NODES: usize = 3000;
    let names: Vec<String> = (0..=NODES).map(|i| format!("v{i}")).collect();
    let mut long = Model::new("long").input("v0", F32, &[256, 256]);
    for pair in names.windows(2) {
        long = long.node("MatMul", &[&pair[0], "v0"], &[&pair[1]], &[]);
    }
    let mut bench = Bench::new(long.output(&names[NODES], F32, &[256, 256]).code()).unwrap();
    const WORKSPACE: usize = 2 * 256 * 256 * 4;
    let stopper = bench.engine.stopper();
    let began = Instant::now();
    let error = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            stopper.stop();
        });
        bench.run(WORKSPACE).unwrap_err()
    });
    assert_eq!(error, EngineError::Stopped { task: "long".into() });
    let stopped_after = began.elapsed();
    let began = Instant::now();
    bench.run(WORKSPACE).unwrap();
    assert!(stopped_after < began.elapsed(), "the whole takes longer than the stopped part");

    // A stop between runs ends the next one, unless it is taken back.
    bench.engine.stopper().stop();
    assert_eq!(bench.run(WORKSPACE), Err(EngineError::Stopped { task: "long".into() }));
    bench.engine.stopper().stop();
    bench.engine.stopper().withdraw();
    bench.run(WORKSPACE).unwrap();
}

#[test]
fn an_engine_opens_again() {
    let first = open();
    let second = open();
    assert_eq!(first.library(), second.library());
    assert!(first.version().starts_with("1."));
    drop((first, second));
    drop(open());
    let error = OrtEngine::open(&EngineOptions { library: None, threads: THREADS + 1, spin: false }).unwrap_err();
    assert!(matches!(error, EngineError::AlreadyOpen { .. }), "{error}");
    let elsewhere = Some(std::env::current_exe().unwrap());
    let error = OrtEngine::open(&EngineOptions { library: elsewhere, threads: THREADS, spin: false }).unwrap_err();
    assert!(matches!(error, EngineError::AlreadyOpen { .. }), "{error}");
}

#[test]
fn measuring_needs_room_and_alignment() {
    let mut engine = open();
    let code = matmul("measured", 2, 3, 2).code();
    let session = engine.prepare(&code).unwrap();
    let mut scratch = Block::new(256);
    let measured = engine.measure(session, &code, scratch.all(), 3, &mut || {}).unwrap();
    assert!(measured.workspace_bytes == 0 && measured.run_nanos > 0);
    for view in [0..64, 4..256] {
        // Too short, and off the line.
        let error = engine.measure(session, &code, &mut scratch.all()[view], 1, &mut || {}).unwrap_err();
        assert!(matches!(error, EngineError::Memory { .. }), "{error}");
    }
}

#[test]
fn a_rehearsal_runs_tasks_on_what_those_before_them_made_and_leaves_out_what_fails() {
    let exp = Model::new("exp").input("x", F32, &[2]).node("Exp", &["x"], &["y"], &[]).output("y", F32, &[2]).code();
    let whole = Model::new("whole").input("y", F32, &[2]);
    let whole = whole.node("Cast", &["y"], &["at"], &[("to", Attr::Int(7))]).output("at", I64, &[2]).code();
    let rows = |rows: u64| {
        let model = Model::new("rows").open_input("table", F32, &[rows, 2]).input("at", I64, &[2]);
        model.node("Gather", &["table", "at"], &["z"], &[]).output("z", F32, &[2, 2]).code()
    };
    // x, y, indices, table, z; the exponential of what is fed is one, and a table of one row has no row of that number.
    let cue = |code: &TaskCode, places: &[u64]| Cue { code: code.clone(), workspace: 0, places: places.to_vec() };
    let cues = |n| vec![cue(&exp, &[0, 64]), cue(&whole, &[64, 128]), cue(&rows(n), &[192, 128, 256])];
    let mut engine = open();
    for (n, runs) in [(2, true), (1, false)] {
        let stage = Stage { cues: cues(n), bytes: 320, fed: std::iter::once(0..8).collect() };
        let seen = rehearse(&mut engine, &stage, 2..=5, Duration::from_secs(60)).unwrap();
        assert_eq!(seen.tasks.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, runs], "{seen:?}");
        assert!(seen.tasks.iter().flatten().all(|nanos| *nanos > 0) && seen.round > 0, "{seen:?}");
    }
    // One that would lie outside is refused before anything runs.
    let outside = Stage { cues: vec![cue(&exp, &[0, 320])], bytes: 320, fed: vec![] };
    assert!(matches!(rehearse(&mut engine, &outside, 1..=1, Duration::ZERO), Err(LoadError::Memory { .. })));
    engine.stopper().stop();
    let stage = Stage { cues: cues(2), bytes: 320, fed: vec![] };
    let stopped = rehearse(&mut engine, &stage, 1..=1, Duration::ZERO);
    assert!(matches!(stopped, Err(LoadError::Engine(EngineError::Stopped { .. }))), "{stopped:?}");
}

#[test]
fn lookups_and_gathers_read_their_indices() {
    let model = Model::new("rows").input("table", F32, &[3, 2]).input("at", I64, &[2]);
    let mut bench =
        Bench::new(model.node("Gather", &["table", "at"], &["y"], &[]).output("y", F32, &[2, 2]).code()).unwrap();
    bench.write("table", &[1., 2., 3., 4., 5., 6.]);
    let indices: Vec<u8> = [2_i64, 0].iter().flat_map(|i| i.to_le_bytes()).collect();
    bench.tensor("at").copy_from_slice(&indices);
    bench.run(0).unwrap();
    assert_eq!(bench.read("y"), [5., 6., 1., 2.]);
    // An index out of range is the engine's error, not a read out of range.
    bench.tensor("at")[0] = 9;
    assert!(matches!(bench.run(0), Err(EngineError::Engine { .. })));
}
