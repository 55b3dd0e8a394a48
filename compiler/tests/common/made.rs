//! Plans of the compiler, by chance: a few tasks in a row on a small machine, at less memory than all would want.

use crate::device::Rng;
use berth_compiler::plan::{extremes, plan};
use berth_ir::lifetime::{Held, Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::{Home, Kind, Mode, Program};
use berth_ir::units::{Bytes, Nanos};
use berth_ir::{DType, Expr, Target};
use std::collections::BTreeMap;

/// A few tasks in a row, with weights of a few cells, now and then a value that a later task reads again, and states.
fn lifetimes(rng: &mut Rng) -> Lifetimes {
    let mut all = Lifetimes { model: "made".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
    let mut file = 0;
    let mut tensor = |all: &mut Lifetimes, kind: Kind, cells: usize| {
        let bytes = cells as u64 * 64;
        let (tier, offset) = ("nvme".to_owned(), file);
        let home = (kind == Kind::Weight).then(|| {
            file += bytes;
            Home { tier, file: "w.bin".into(), offset, transposed: None, strip: None, filled: None }
        });
        let (name, extent) = (format!("t{}", all.tensors.len()), Expr::constant(bytes));
        all.tensors.push(Tensor { name, kind, dtype: DType::U8, extent, bytes, home, aliases: vec![] });
        TensorId(all.tensors.len() as u32 - 1)
    };
    let mut values = vec![tensor(&mut all, Kind::Input, 1 + rng.below(2))];
    // Now and then a state, that some tasks read, some write and some both.
    let states = if rng.below(3) == 0 { 1 + rng.below(2) } else { 0 };
    let states: Vec<TensorId> = (0..states).map(|_| tensor(&mut all, Kind::State, 1 + rng.below(4))).collect();
    let tasks = 2 + rng.below(4);
    for n in 0..tasks {
        let weight = tensor(&mut all, Kind::Weight, 2 + rng.below(6));
        let kind = if n + 1 == tasks { Kind::Output } else { Kind::Activation };
        let result = tensor(&mut all, kind, 1 + rng.below(3));
        let mut reads = vec![values[values.len() - 1], weight];
        let again = values[rng.below(values.len())];
        if rng.below(3) == 0 && !reads.contains(&again) {
            reads.push(again);
        }
        values.push(result);
        let mut writes = vec![result];
        for state in &states {
            let how = rng.below(5);
            reads.extend((how < 2).then_some(*state));
            writes.extend((how == 1 || how == 2).then_some(*state));
        }
        all.tasks.push(Task {
            name: format!("task{n}"),
            ops: vec![format!("task{n}")],
            reads,
            writes,
            rows: vec![],
            in_place: vec![],
            workspace: if rng.below(3) == 0 { 64 } else { 0 },
            cost: Nanos(100 + rng.below(1_000) as u64),
            others: vec![],
            held: None,
        });
    }
    all
}

const MACHINE: &str = r#"(name: "m", source: "made up", tiers: [
        (name: "device", capacity: "1MiB", bandwidth: "10GB/s", alignment: 64),
        (name: "dram", capacity: "1MiB", bandwidth: "10GB/s", alignment: 64, on_request: true),
        (name: "nvme", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64, files: true),
    ], engines: [
        (name: "e", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us"),
        (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "1us"),
    ], links: [
        (name: "read", from: "nvme", to: "device", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
        (name: "up", from: "nvme", to: "dram", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
        (name: "in", from: "dram", to: "device", rate: "2GB/s", latency: "1us", chunk: "1KiB"),
        (name: "out", from: "device", to: "dram", rate: "2GB/s", latency: "1us", chunk: "1KiB"),
    ])"#;

/// Has the engine keep the weight of every other task, in a cell more than it has.
fn keep_weights(lifetimes: &mut Lifetimes) {
    for task in lifetimes.tasks.iter_mut().step_by(2) {
        let weight = task.reads.remove(1);
        let bytes = lifetimes.tensors[weight.index()].bytes;
        task.held = Some(Held { weights: vec![weight], bytes: bytes + 64, loading: 2 * bytes });
    }
}

/// A plan between the least room and all that is wanted, with or without a memory below, and with weights that the engine
/// keeps or none.
pub fn planned(rng: &mut Rng, keeps: bool) -> Option<(Target, Program)> {
    let mut lifetimes = lifetimes(rng);
    if keeps {
        keep_weights(&mut lifetimes);
    }
    let machine = Target::from_ron(MACHINE).expect("a machine");
    let below = [("dram".to_owned(), Bytes([0, 512, 4_096][rng.below(3)]))];
    let (least, full) = extremes(&lifetimes, &machine.budgeted(&BTreeMap::from(below.clone()))).ok()?;
    let device = least.bytes + full.saturating_sub(least.bytes) / 4 * rng.below(4) as u64;
    let target = machine.budgeted(&below.into_iter().chain([("device".to_owned(), Bytes(device))]).collect());
    let mode = if rng.below(5) == 0 { Mode::Once } else { Mode::Loop };
    let made = plan(&lifetimes, &target, mode).expect("no less than the least");
    Some((target, made.program))
}
