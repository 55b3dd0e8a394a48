//! The executor in one process: again and again, stopped, stalled, and against the whole model as one call.

mod common;
#[path = "common/process.rs"]
mod process;

use berth_compiler::plan::plan;
use berth_compiler::task_model::whole_model;
use berth_ir::graph::Content;
use berth_ir::program::{Mode, Program};
use berth_ir::units::Bytes;
use berth_ir::verify::{Verified, verify};
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{Engine, Port, TaskCode};
use berth_runtime_exec::errors::RunError;
use process::{Case, PATIENCE, Side, case, engine, load, places, read};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A proved program at this much of the device, with costs and workspace as measured.
fn program(case: &mut Case, engine: &mut OrtEngine, percent: u64) -> Verified<Program> {
    let costs = berth::measure::costs(&case.lowered, engine, &places()).expect("costs");
    case.lowered.lifetimes = berth_compiler::cost::with_measured(case.lowered.lifetimes.clone(), &costs);
    let target = berth::machine::target("host").expect("the host");
    let (least, full) = berth_compiler::plan::extremes(&case.lowered.lifetimes, &target).expect("extremes");
    let bytes = (full * percent / 100).max(least.bytes);
    let target = target.budgeted(&BTreeMap::from([("device".to_owned(), Bytes(bytes))]));
    let plan = plan(&case.lowered.lifetimes, &target, Mode::Loop).expect("a plan");
    verify(&target, plan.program, Some(&case.lowered.facts)).expect("it is safe")
}

#[test]
fn every_step_and_every_run_gives_the_same_bits() {
    let mut case = case(&common::model("llama_decode.onnx"));
    let mut engine = engine();
    let program = program(&mut case, &mut engine, 30);
    let mut executor = load(&case, &program, engine);
    let mut first: Option<BTreeMap<String, Vec<u8>>> = None;
    for _ in 0..3 {
        let mut side = Side::new(&case);
        executor.run(7, PATIENCE, &mut side).expect("it runs");
        for step in 1..=7 {
            let outputs = side.outputs.iter().filter(|((s, _), _)| *s == step);
            let outputs: BTreeMap<String, Vec<u8>> = outputs.map(|((_, t), b)| (t.clone(), b.clone())).collect();
            assert_eq!(outputs.len(), case.lowered.outputs.len());
            assert!(*first.get_or_insert_with(|| outputs.clone()) == outputs, "step {step} differs");
        }
    }
}

#[test]
fn a_stop_ends_a_run_and_the_next_one_works() {
    let mut case = case(&common::model("llama_decode.onnx"));
    let mut engine = engine();
    let program = program(&mut case, &mut engine, 50);
    let mut executor = load(&case, &program, engine);
    let stop = executor.stop();
    let stopper = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(150));
        stop.stop();
    });
    let began = Instant::now();
    let ended = executor.run(1_000_000, PATIENCE, &mut Side::new(&case));
    assert!(matches!(ended, Err(RunError::Stopped { .. })), "{ended:?}");
    assert!(began.elapsed() < PATIENCE);
    stopper.join().expect("the stopper");
    executor.run(2, PATIENCE, &mut Side::new(&case)).expect("it runs again");
}

#[test]
fn a_run_in_which_nothing_ends_ends_itself() {
    let mut case = case(&common::model("llama_decode.onnx"));
    let mut engine = engine();
    let program = program(&mut case, &mut engine, 100);
    let mut executor = load(&case, &program, engine);
    let mut side = Side { dawdle: Duration::from_millis(1500), ..Side::new(&case) };
    let ended = executor.run(1, Duration::from_millis(300), &mut side);
    assert!(matches!(ended, Err(RunError::Stalled { .. })), "{ended:?}");
    executor.run(1, PATIENCE, &mut Side::new(&case)).expect("it runs again");
}

#[test]
fn tasks_of_one_operator_give_the_bits_of_the_whole_model() {
    for name in ["llama_decode", "bert_encoder", "gpt2_decode_torchscript", "resnet_small", "vit_small"] {
        let mut case = case(&common::model(&format!("{name}.onnx")));
        let mut engine = engine();
        let whole = reference(&case, &mut engine);
        let program = program(&mut case, &mut engine, 40);
        let mut executor = load(&case, &program, engine);
        let mut side = Side::new(&case);
        executor.run(1, PATIENCE, &mut side).expect("it runs");
        for boundary in &case.lowered.outputs {
            let tensor = boundary.tensor.clone().expect("an output has a tensor");
            assert!(side.outputs[&(1, tensor)] == whole[&boundary.name], "{name}: `{}` differs", boundary.name);
        }
    }
}

/// The whole model as one call of the engine, weights as inputs.
fn reference(case: &Case, engine: &mut OrtEngine) -> BTreeMap<String, Vec<u8>> {
    let whole = whole_model(&case.graph).expect("a model");
    let value = |id: &berth_ir::graph::ValueId| case.graph.value(*id);
    let port = |letter: char| {
        move |(n, id): (usize, &berth_ir::graph::ValueId)| {
            let shape = value(id).shape.iter().map(|e| e.as_constant().expect("bound") as u64).collect();
            Port::new(format!("{letter}{n}"), value(id).dtype, shape)
        }
    };
    let code = TaskCode {
        name: "whole".to_owned(),
        model: whole.model.clone(),
        inputs: whole.inputs.iter().enumerate().map(port('i')).collect(),
        outputs: whole.outputs.iter().enumerate().map(port('o')).collect(),
        kept: 0,
    };
    let (offsets, bytes) = code.scratch_layout().expect("sizes");
    // Aligned by hand: a test has no arena.
    let mut memory = vec![0u8; bytes as usize + 64];
    let skip = memory.as_ptr().align_offset(64);
    let memory = &mut memory[skip..skip + bytes as usize];
    for (id, offset) in whole.inputs.iter().zip(&offsets) {
        let bytes = match &value(id).content {
            Content::Stored(stored) => read(stored, 0, stored.bytes).expect("a weight").to_vec(),
            _ => case.inputs[&value(id).name].bytes.clone(),
        };
        memory[*offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    let session = engine.prepare(&code).expect("a session");
    engine.measure(session, &code, memory, 1, &mut || {}).expect("it runs");
    let outputs = whole.outputs.iter().zip(&code.outputs).zip(&offsets[whole.inputs.len()..]);
    outputs
        .map(|((id, port), offset)| {
            let bytes = port.bytes().expect("a size") as usize;
            (value(id).name.clone(), memory[*offset as usize..][..bytes].to_vec())
        })
        .collect()
}
