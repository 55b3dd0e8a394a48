//! Many steps of several models with caps of chance, in one process: the same bits in every step, and memory that stays flat.
//!
//! `BERTH_STEPS=10000 cargo test --release --test soak -- --nocapture` makes so many steps.

mod common;
#[path = "common/process.rs"]
mod process;

use berth_compiler::cost::with_measured;
use berth_compiler::plan::{extremes, plan};
use berth_ir::expr::Binding;
use berth_ir::program::Mode;
use berth_ir::units::Bytes;
use berth_ir::verify::verify;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::executor::{Caller, Executor, Options};
use process::{Case, PATIENCE, case, engine, places};
use std::collections::BTreeMap;

const MODELS: [&str; 5] = ["llama_decode", "bert_encoder", "gpt2_decode_torchscript", "resnet_small", "vit_small"];
const SEED: u64 = 2026;
/// Steps of a normal run.
const STEPS: usize = 400;
/// Most steps of one program.
const ROUND: u64 = 100;
/// Rounds of each model before memory is looked at, in thousandths of the room between the least and all: sessions are made,
/// and the allocator has what it will keep.
const WARM: [u64; 4] = [1000, 0, 500, 250];
/// What memory may grow by after that, in bytes: less than any of the models.
const GROWTH: u64 = 2 << 20;

/// Holds each output of each step against the first of its kind.
struct Same<'a> {
    case: &'a Case,
    first: &'a mut BTreeMap<String, Vec<u8>>,
    compared: usize,
}

impl Caller for Same<'_> {
    fn feed(&mut self, tensor: &str, _step: usize, to: &mut [u8], _: &Binding, kept: bool) -> Result<(), String> {
        let port = self.case.lowered.inputs.iter().find(|b| b.tensor.as_deref() == Some(tensor)).ok_or("no input")?;
        if !kept {
            to.copy_from_slice(&self.case.inputs[&port.name].bytes);
        }
        Ok(())
    }
    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], _dims: &Binding) -> Result<(), String> {
        let first = self.first.entry(tensor.to_owned()).or_insert_with(|| from.to_vec());
        if first != from {
            return Err(format!("`{tensor}` has other bits in step {step}"));
        }
        self.compared += 1;
        Ok(())
    }
}

/// Pages of this process that are in memory, in bytes.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("the kernel says");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("pages") * 4096
}

/// Steps of one program with so many thousandths of the room between the least and all.
fn round(case: &Case, engine: OrtEngine, part: u64, steps: usize, first: &mut BTreeMap<String, Vec<u8>>) -> OrtEngine {
    let target = berth::machine::target("host").expect("the host");
    let (least, full) = extremes(&case.lowered.lifetimes, &target).expect("extremes");
    let bytes = least.bytes + full.saturating_sub(least.bytes) * part / 1000;
    let target = target.budgeted(&BTreeMap::from([("device".to_owned(), Bytes(bytes))]));
    let plan = plan(&case.lowered.lifetimes, &target, Mode::Loop).expect("a plan");
    let program = verify(&target, plan.program, Some(&case.lowered.facts)).expect("it is safe");
    let ports = berth::measure::ports(&program, &case.lowered).expect("ports");
    let options = Options { places: places(), ..Options::new(common::root()) };
    let mut executor = Executor::load(&program, &ports, vec![engine], &options).expect("it loads");
    let mut same = Same { case, first, compared: 0 };
    executor.run(steps, PATIENCE, &mut same).expect("it runs, with the same bits");
    assert_eq!(same.compared, steps * case.lowered.outputs.len());
    executor.into_engines().and_then(|mut engines| engines.pop()).expect("the engine comes back")
}

#[test]
fn steps_keep_their_bits_and_memory_stays_flat() {
    let steps = std::env::var("BERTH_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(STEPS);
    println!("seed {SEED}, {steps} steps");
    let mut engine = engine();
    let mut cases: Vec<Case> = MODELS.iter().map(|name| case(&common::model(&format!("{name}.onnx")))).collect();
    for case in &mut cases {
        let costs = berth::measure::costs(&case.lowered, &mut engine, &places()).expect("costs");
        case.lowered.lifetimes = with_measured(case.lowered.lifetimes.clone(), &costs);
    }
    let mut firsts = vec![BTreeMap::new(); cases.len()];
    let mut state = SEED;
    let mut below = |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    for (case, first) in cases.iter().zip(&mut firsts) {
        for part in WARM {
            engine = round(case, engine, part, 3, first);
        }
    }
    let (warm, mut done, mut rounds, mut most) = (resident(), 0, 0, 0);
    while done < steps {
        let which = below(cases.len() as u64) as usize;
        let part = if below(4) == 0 { 0 } else { below(1001) };
        let now = (1 + below(ROUND) as usize).min(steps - done);
        engine = round(&cases[which], engine, part, now, &mut firsts[which]);
        (done, rounds) = (done + now, rounds + 1);
        most = most.max(resident());
    }
    println!("{rounds} programs; {} KiB in memory when warm, {} KiB at most after that", warm >> 10, most >> 10);
    assert!(most <= warm + GROWTH, "memory grew from {warm} to {most} bytes over {rounds} programs");
}
