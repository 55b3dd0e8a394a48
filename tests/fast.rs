//! Fast numerics: tasks whose weights the engine keeps, proved, loaded and run.

mod common;
#[path = "common/process.rs"]
mod process;

use berth_compiler::cost::with_measured;
use berth_compiler::hold::{as_said, hold, spread, stretches, units};
use berth_compiler::lower::Lowered;
use berth_compiler::plan::{extremes, plan};
use berth_ir::program::{Mode, Numerics, Program};
use berth_ir::units::Bytes;
use berth_ir::verify::{Verified, facts, verify};
use berth_runtime_exec::engine::EngineError;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::errors::LoadError;
use berth_runtime_exec::executor::{Executor, Options};
use process::{Case, PATIENCE, Side, case, engine, load, places};
use std::collections::BTreeMap;
use std::ops::Range;

const MODELS: [&str; 5] = ["llama_decode", "bert_encoder", "gpt2_decode_torchscript", "resnet_small", "vit_small"];

/// A model with these stretches held, as measured.
fn held(name: &str, which: fn(&Lowered) -> Vec<Range<usize>>) -> (Case, OrtEngine) {
    let mut case = case(&common::model(&format!("{name}.onnx")));
    let mut engine = engine();
    let mut lowered = hold(&case.graph, &case.lowered, &which(&case.lowered)).expect("it can be held");
    let costs = berth::measure::costs(&lowered, &mut engine, &places()).expect("costs");
    lowered.lifetimes = with_measured(lowered.lifetimes, &costs);
    case.lowered = lowered;
    (case, engine)
}

/// A proved program with all that it can use of the device, or with the least.
fn program(case: &Case, least: bool) -> Verified<Program> {
    let target = berth::machine::target("host").expect("the host");
    let (room, full) = extremes(&case.lowered.lifetimes, &target).expect("extremes");
    let bytes = if least { room.bytes } else { full };
    let target = target.budgeted(&BTreeMap::from([("device".to_owned(), Bytes(bytes))]));
    let plan = plan(&case.lowered.lifetimes, &target, Mode::Loop).expect("a plan");
    verify(&target, plan.program, Some(&case.lowered.facts)).expect("it is safe")
}

/// The outputs of a step, by tensor.
fn outputs(case: &Case, program: &Verified<Program>, engine: OrtEngine) -> BTreeMap<String, Vec<u8>> {
    let mut executor = load(case, program, engine);
    let mut side = Side::new(case);
    executor.run(2, PATIENCE, &mut side).expect("it runs");
    side.outputs.into_iter().filter(|((step, _), _)| *step == 2).map(|((_, tensor), bytes)| (tensor, bytes)).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}

#[test]
fn a_whole_model_held_is_one_task_and_computes_the_same() {
    for name in MODELS {
        let (exact, exact_engine) = held(name, |_| Vec::new());
        let wanted = outputs(&exact, &program(&exact, false), exact_engine);
        let (case, engine) = held(name, stretches);
        let program = program(&case, false);
        assert_eq!((program.tasks.len(), program.header.numerics), (1, Numerics::Fast), "{name}");
        let held = program.tasks[0].held.as_ref().expect("it holds weights");
        assert!(!held.weights.is_empty() && held.bytes > 0, "{name}");
        let got = outputs(&case, &program, engine);
        assert_eq!(got.len(), wanted.len(), "{name}");
        for (tensor, bytes) in &wanted {
            let (a, b) = (floats(bytes), floats(&got[tensor]));
            let most = a.iter().fold(0f32, |m, x| m.max(x.abs()));
            let off = a.iter().zip(&b).fold(0f32, |m, (x, y)| m.max((x - y).abs()));
            assert!(a.len() == b.len() && off <= 1e-4 * most, "{name}: `{tensor}` is off by {off} of {most}");
        }
    }
}

/// Bits belong to the tasks, not to the room: what streams beside them may be evicted as it likes.
#[test]
fn units_that_are_held_give_the_same_bits_in_little_room() {
    for name in ["llama_decode", "bert_encoder"] {
        let some = |lowered: &Lowered| {
            let units = units(lowered);
            spread(&units, units.len() / 2)
        };
        let (case, engine) = held(name, some);
        let (wide, narrow) = (program(&case, false), program(&case, true));
        let holding = wide.tasks.iter().filter(|task| task.held.is_some()).count();
        assert!(holding > 3 && wide.tasks.len() > holding, "{name}: {holding} of {} tasks hold", wide.tasks.len());
        let loads = narrow.facts.traffic.iter().filter(|t| t.part == "step").map(|t| t.bytes).sum::<u64>();
        assert!(loads > 0, "{name}: nothing streams");
        let wanted = outputs(&case, &wide, engine);
        assert!(outputs(&case, &narrow, process::engine()) == wanted, "{name}: other bits in little room");
    }
}

#[test]
fn a_program_says_what_was_held() {
    let (case, _) = held("bert_encoder", units);
    let whole = process::case(&common::model("bert_encoder.onnx"));
    let program = program(&case, true);
    let said = program.tasks.iter().filter(|task| task.held.is_some()).map(|task| task.ops.as_slice());
    let found = as_said(&whole.lowered, said.clone()).expect("the model has them");
    let again = hold(&whole.graph, &whole.lowered, &found).expect("it can be held");
    let names = |l: &Lowered| l.lifetimes.tasks.iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&again), names(&case.lowered));
    let mut turned: Vec<Vec<String>> = said.map(<[String]>::to_vec).collect();
    turned[1].reverse();
    assert_eq!(as_said(&whole.lowered, turned.iter().map(Vec::as_slice)), None);
    assert_eq!(as_said(&whole.lowered, [["nothing".to_owned()].as_slice()].into_iter()), None);
}

#[test]
fn an_engine_that_would_keep_more_than_was_planned_is_refused() {
    let (case, engine) = held("resnet_small", stretches);
    let target = berth::machine::target("host").expect("the host");
    let mut program = program(&case, false).into_inner();
    let held = program.tasks[0].held.as_mut().expect("it holds weights");
    let needed = held.bytes;
    held.bytes = 64;
    program.facts = facts(&target, &program).expect("it can be counted");
    let program = verify(&target, program, Some(&case.lowered.facts)).expect("it is safe all the same");
    let ports = berth::measure::ports(&program, &case.lowered).expect("ports");
    let options = Options { places: places(), ..Options::new(common::root()) };
    match Executor::load(&program, &ports, vec![engine], &options) {
        Err(LoadError::Engine(EngineError::Room { needed_bytes, planned_bytes, .. })) => {
            assert_eq!((needed_bytes, planned_bytes), (needed, 64));
        }
        other => panic!("{other:?}"),
    }
}
