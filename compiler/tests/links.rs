//! Machines whose links are not all there: what a plan may use of them, and what is said where nothing is left.

use berth_compiler::machine::CannotPlan;
use berth_compiler::plan::{PlanError, plan};
use berth_compiler::simulate::events;
use berth_ir::lifetime::{Lifetimes, Other, Task, Tensor, TensorId};
use berth_ir::program::{Home, Instruction, Kind, Mode};
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use berth_ir::{DType, Expr, Target, verify};
use std::collections::{BTreeMap, BTreeSet};

/// A chain of eight tasks, each with a weight of 64 KiB and a bit, which the cores may run too.
fn chain() -> Lifetimes {
    let mut all = Lifetimes { model: "chain".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
    let bytes = 65_541;
    let mut tensor = |name: String, kind: Kind, bytes: u64, offset: Option<u64>| {
        let (tier, file) = ("nvme".to_owned(), "w.bin".to_owned());
        let home = offset.map(|offset| Home { tier, file, offset, transposed: None, strip: None, filled: None });
        let (extent, dtype) = (Expr::constant(bytes), DType::U8);
        all.tensors.push(Tensor { name, kind, dtype, extent, bytes, home, aliases: vec![] });
        TensorId(all.tensors.len() as u32 - 1)
    };
    let mut last = tensor("x".into(), Kind::Input, 64, None);
    let mut tasks = Vec::new();
    for n in 0..8u64 {
        let weight = tensor(format!("w{n}"), Kind::Weight, bytes, Some(n * bytes));
        let result = tensor(format!("y{n}"), if n == 7 { Kind::Output } else { Kind::Activation }, 64, None);
        tasks.push(Task {
            name: format!("task{n}"),
            ops: vec![format!("task{n}")],
            reads: vec![last, weight],
            writes: vec![result],
            rows: vec![],
            in_place: vec![],
            workspace: 0,
            cost: Nanos(10_000),
            others: vec![Other { engine: "cores".into(), workspace: 0, cost: Nanos(11_000) }],
            held: None,
        });
        last = result;
    }
    all.tasks = tasks;
    all
}

/// A device of 160 KiB above a memory that is faster to read from than the disk, with these links besides.
fn machine(links: &str) -> Target {
    let text = r#"(name: "m", source: "made up", tiers: [
            (name: "device", capacity: "160KiB", bandwidth: "10GB/s", alignment: 64),
            (name: "dram", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64),
            (name: "nvme", capacity: "1TiB", bandwidth: "1GB/s", alignment: 4096, files: true),
        ], engines: [
            (name: "gpu", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us"),
            (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "1us"),
        ], links: [
            (name: "in", from: "dram", to: "device", rate: "5GB/s", latency: "1us", chunk: "1MiB"),
            (name: "out", from: "device", to: "dram", rate: "5GB/s", latency: "1us", chunk: "1MiB"),
            LINKS
        ])"#;
    Target::from_ron(&text.replace("LINKS", links)).expect("a machine")
}

const DIRECT: &str =
    r#"(name: "read", from: "nvme", to: "device", rate: "1GB/s", latency: "10us", chunk: "1MiB"GRAIN),"#;

#[test]
fn weights_are_kept_in_no_memory_that_files_have_no_way_to() {
    let target = machine(&DIRECT.replace("GRAIN", ""));
    for mode in [Mode::Loop, Mode::Once] {
        let made = plan(&chain(), &target, mode).expect("the disk reaches the device");
        assert!(made.streamed > 0, "there is nothing to show");
        verify(&target, made.program, None).unwrap_or_else(|found| panic!("{mode:?}: {}", found[0]));
    }
}

#[test]
fn what_the_caller_feeds_takes_the_time_of_a_copy_from_the_memory_beside() {
    let mut model = chain();
    (model.tensors[0].bytes, model.tensors[0].extent) = (50_000, Expr::constant(50_000));
    let beside = machine(&DIRECT.replace("GRAIN", ""));
    let mut alone = beside.clone();
    alone.links.retain(|link| link.name == "read");
    // 50,000 bytes at the 5 GB/s of the link; at the device's own 10 GB/s.
    for (target, nanos) in [(&beside, 10_000), (&alone, 5_000)] {
        let made = plan(&model, target, Mode::Loop).expect("the disk reaches the device");
        let program = verify(target, made.program, None).unwrap_or_else(|found| panic!("{}", found[0]));
        let events = events(target, &program, 2, &BTreeSet::new());
        let fed: Vec<u64> = events.iter().filter(|e| e.name == "feed x").map(|e| e.end.0 - e.start.0).collect();
        assert_eq!(fed, [nanos, nanos]);
        let end = |name: &str| events.iter().find(|e| e.name == name && e.step == 1).map(|e| (e.start, e.end));
        let (fed, ran) = (end("feed x").expect("it is fed"), end("run task0").expect("it runs"));
        assert!(ran.0 >= fed.1, "{ran:?} before {fed:?}");
    }
}

#[test]
fn an_input_that_is_the_same_takes_no_time_where_it_is_still_there() {
    let mut model = chain();
    (model.tensors[0].bytes, model.tensors[0].extent) = (50_000, Expr::constant(50_000));
    let mut to_the_end = model.clone();
    to_the_end.tasks[7].reads.push(TensorId(0));
    // One that is read until the step ends keeps its place; in that of one that only the first task reads others come.
    for (model, kib, nanos) in [(&to_the_end, 1024, 0), (&model, 160, 10_000)] {
        let mut target = machine(&DIRECT.replace("GRAIN", ""));
        target.tiers[0].capacity = Bytes(kib << 10);
        let made = plan(model, &target, Mode::Loop).expect("the disk reaches the device");
        let program = verify(&target, made.program, None).unwrap_or_else(|found| panic!("{}", found[0]));
        for (same, nanos) in
            [(BTreeSet::new(), 10_000), (BTreeSet::from(["x"]), nanos), (BTreeSet::from(["w0"]), 10_000)]
        {
            let events = events(&target, &program, 2, &same);
            let fed: Vec<u64> = events.iter().filter(|e| e.name == "feed x").map(|e| e.end.0 - e.start.0).collect();
            assert_eq!(fed, [nanos, nanos], "{kib} KiB, {same:?}");
        }
    }
}

#[test]
fn a_link_with_a_grain_is_passed_over() {
    let only = machine(&DIRECT.replace("GRAIN", ", grain: \"512B\""));
    let refused = plan(&chain(), &only, Mode::Loop);
    assert!(matches!(refused, Err(PlanError::Machine(CannotPlan::NoWay { .. }))), "{refused:?}");
    let up = r#"(name: "up", from: "nvme", to: "dram", rate: "1GB/s", latency: "10us", chunk: "1MiB"),"#;
    let both = machine(&format!("{}{up}", DIRECT.replace("GRAIN", ", grain: \"512B\"")));
    let made = plan(&chain(), &both, Mode::Loop).expect("there is a way through dram");
    verify(&both, made.program, None).unwrap_or_else(|found| panic!("{}", found[0]));
}

#[test]
fn copies_take_turns_on_links_that_join_the_same_memories() {
    let up = r#"(name: "up", from: "nvme", to: "dram", rate: "1GB/s", latency: "10us", chunk: "1MiB"),"#;
    let second = r#"(name: "in2", from: "dram", to: "device", rate: "5GB/s", latency: "1us", chunk: "1MiB"GROUP),"#;
    let planned = |links: &str| {
        // Room for three weights, memories that no copy slows, tasks that take next to nothing.
        let mut target = machine(links);
        target.tiers.iter_mut().filter(|t| !t.files).for_each(|t| t.bandwidth = BytesPerSec(1_000_000_000_000));
        target.tiers[0].capacity = Bytes(224 << 10);
        let mut chain = chain();
        chain.tasks.iter_mut().for_each(|task| (task.cost, task.others) = (Nanos(2_000), Vec::new()));
        let made = plan(&chain, &target, Mode::Loop).expect("a plan");
        let program = verify(&target, made.program, None).unwrap_or_else(|found| panic!("{}", found[0])).into_inner();
        let step = program.bodies[0].code.iter().filter_map(|i| match i {
            Instruction::Copy { queue, .. } => Some(queue.clone()),
            _ => None,
        });
        let mut queues: Vec<String> = step.collect();
        queues.sort();
        queues.dedup();
        assert!(made.bound.time <= made.timeline.step, "{:?} of {:?}", made.bound, made.timeline.step);
        (made.timeline.step, made.bound.time, queues)
    };
    let (one, bound, queues) = planned(up);
    assert_eq!(queues, ["in"]);
    let (two, lower, queues) = planned(&format!("{up}{}", second.replace("GROUP", "")));
    assert_eq!(queues, ["in", "in2"]);
    assert!(two < one && lower < bound, "{two:?} of {one:?}, bounds {lower:?} and {bound:?}");
    // Two engines of one lane: as fast as one, and no faster than its rate.
    let grouped = r#"(name: "in3", from: "dram", to: "device", rate: "5GB/s", latency: "1us", chunk: "1MiB", group: Some("lane")),"#;
    let lanes = format!("{up}{}{grouped}", second.replace("GROUP", ", group: Some(\"lane\")"));
    let (three, lowest, queues) = planned(&lanes);
    assert_eq!(queues, ["in", "in2", "in3"]);
    assert!(three <= one && lowest == lower, "{three:?} of {one:?}, bounds {lowest:?} and {lower:?}");
}
