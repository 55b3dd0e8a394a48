//! Random lifetimes on random machines: every plan that is made is safe and within its caps, whoever makes it; a byte
//! less than the least is refused; what was put aside comes back.

use berth_compiler::baseline::{STRATEGIES, Unfit, planned_by};
use berth_compiler::bound::bound;
use berth_compiler::crowd::pack_crowd;
use berth_compiler::offset::pack;
use berth_compiler::plan::{Plan, PlanError, STEPS, extremes, plan};
use berth_compiler::simulate::simulate;
use berth_compiler::stay::{Arrival, Level, Positions, Stay};
use berth_ir::lifetime::{Held, Lifetimes, Other, Task, Tensor, TensorId};
use berth_ir::program::{Access, After, Home, Instruction, Kind, Mode, Place};
use berth_ir::units::{Bytes, Nanos};
use berth_ir::{DType, Expr, Target, verify};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, BTreeSet};

/// What a task is made of; indexes are taken modulo what there is.
#[derive(Clone, Debug)]
struct Seed {
    weights: Vec<usize>,
    values: Vec<usize>,
    results: Vec<u64>,
    workspace: u64,
    cost: u64,
    /// Time on the cores, if they may run it.
    cores: Option<u64>,
}

fn seeds() -> impl Strategy<Value = (Vec<u64>, Vec<u64>, Vec<Seed>)> {
    let size = prop_oneof![1 => Just(0u64), 3 => 1u64..200, 3 => 200u64..5_000, 2 => 5_000u64..100_000];
    let task = (
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        prop::collection::vec(size.clone(), 1..3),
        prop_oneof![3 => Just(0u64), 1 => 1u64..3_000],
        1u64..50_000,
        prop::option::weighted(0.8, 1u64..50_000),
    );
    let seed = task.prop_map(|(weights, values, results, workspace, cost, cores)| Seed {
        weights: weights.into_iter().map(|i| i.index(1 << 16)).collect(),
        values: values.into_iter().map(|i| i.index(1 << 16)).collect(),
        results,
        workspace,
        cost,
        cores,
    });
    (prop::collection::vec(size.clone(), 0..12), prop::collection::vec(size, 0..3), prop::collection::vec(seed, 1..24))
}

/// Lifetimes of a graph in which each result is written once, and what nobody reads at the end is an output or dead.
fn lifetimes((weights, inputs, tasks): &(Vec<u64>, Vec<u64>, Vec<Seed>)) -> Lifetimes {
    let mut all = Lifetimes { model: "random".into(), dims: BTreeMap::new(), tensors: Vec::new(), tasks: Vec::new() };
    let add = |tensors: &mut Vec<Tensor>, name: String, kind: Kind, bytes: u64, offset: Option<u64>| {
        let home = offset.map(|offset| Home {
            tier: "nvme".into(),
            file: "w".into(),
            offset,
            transposed: None,
            strip: None,
            filled: None,
        });
        tensors.push(Tensor {
            name,
            kind,
            dtype: DType::U8,
            extent: Expr::constant(bytes),
            bytes,
            home,
            aliases: vec![],
        });
        TensorId(tensors.len() as u32 - 1)
    };
    let mut offset = 0;
    let mut ids = Vec::new();
    for (n, bytes) in weights.iter().enumerate() {
        ids.push(add(&mut all.tensors, format!("w{n}"), Kind::Weight, *bytes, Some(offset)));
        offset += bytes;
    }
    let mut values: Vec<TensorId> = Vec::new();
    for (n, bytes) in inputs.iter().enumerate() {
        values.push(add(&mut all.tensors, format!("in{n}"), Kind::Input, *bytes, None));
    }
    for (n, seed) in tasks.iter().enumerate() {
        let mut reads = Vec::new();
        for id in seed.weights.iter().filter(|_| !ids.is_empty()).map(|i| ids[i % ids.len()]) {
            if !reads.contains(&id) {
                reads.push(id);
            }
        }
        for id in seed.values.iter().filter(|_| !values.is_empty()).map(|i| values[i % values.len()]) {
            if !reads.contains(&id) {
                reads.push(id);
            }
        }
        let mut writes = Vec::new();
        for (k, bytes) in seed.results.iter().enumerate() {
            let kind = if (n + k) % 5 == 0 || n + 1 == tasks.len() { Kind::Output } else { Kind::Activation };
            writes.push(add(&mut all.tensors, format!("t{n}.{k}"), kind, *bytes, None));
        }
        values.extend(&writes);
        let (name, ops) = (format!("task{n}"), vec![format!("task{n}")]);
        all.tasks.push(Task {
            name,
            ops,
            reads,
            writes,
            rows: vec![],
            in_place: vec![],
            workspace: seed.workspace,
            cost: Nanos(seed.cost),
            others: vec![],
            held: None,
        });
    }
    all
}

/// The same with the cores allowed where the seeds say so, and tables of some tasks read by rows.
fn with_cores(mut all: Lifetimes, tasks: &[Seed]) -> Lifetimes {
    for (task, seed) in all.tasks.iter_mut().zip(tasks) {
        let other = |cost| Other { engine: "cores".into(), workspace: seed.workspace / 2, cost: Nanos(cost) };
        task.others = seed.cores.map(other).into_iter().collect();
        let weight = |t: &TensorId| all.tensors[t.index()].kind == Kind::Weight;
        let rows = if seed.cost.is_multiple_of(3) { task.reads.iter().copied().find(weight) } else { None };
        task.rows = rows.into_iter().collect();
    }
    all
}

/// The same where some tasks write again what they read.
fn rewritten(mut all: Lifetimes, tasks: &[Seed]) -> Lifetimes {
    for (task, seed) in all.tasks.iter_mut().zip(tasks) {
        let values =
            task.reads.iter().filter(|t| matches!(all.tensors[t.index()].kind, Kind::Activation | Kind::Output));
        let again = values.take(seed.cost as usize % 3).copied();
        task.writes.extend(again);
    }
    all
}

/// The same with states, which some tasks read, some write and some both; sizes are those of the first results.
fn with_states(mut all: Lifetimes, tasks: &[Seed]) -> Lifetimes {
    let sizes: Vec<u64> = tasks.iter().take(3).map(|seed| seed.results[0]).collect();
    for (n, bytes) in sizes.into_iter().enumerate() {
        let (name, extent) = (format!("state{n}"), Expr::constant(bytes));
        all.tensors.push(Tensor {
            name,
            kind: Kind::State,
            dtype: DType::U8,
            extent,
            bytes,
            home: None,
            aliases: vec![],
        });
        let state = TensorId(all.tensors.len() as u32 - 1);
        for (task, seed) in all.tasks.iter_mut().zip(tasks) {
            let how = (seed.cost >> (3 * n)) % 6;
            task.reads.extend((how < 2).then_some(state));
            task.writes.extend((how == 1 || how == 2).then_some(state));
        }
    }
    all
}

/// A chain of layers of one weight each behind a table that is read by rows; the device takes a weight in a tenth of a
/// nanosecond a byte, the cores as `dram` bytes a second have it.
fn decoder(layers: usize, weight: u64, dram: u64) -> Lifetimes {
    let nanos = |rate: u64| weight * 1_000_000_000 / rate;
    let layer = |n: usize| Seed {
        weights: vec![n],
        values: vec![],
        results: vec![256],
        workspace: 0,
        cost: 1_000 + if n > 0 { nanos(10_000_000_000) } else { 0 },
        cores: Some(1_000 + if n > 0 { nanos(dram) } else { 0 }),
    };
    let seeds: Vec<Seed> = (0..=layers).map(layer).collect();
    let mut all = with_cores(lifetimes(&(vec![weight; layers + 1], vec![8], seeds.clone())), &seeds);
    let input = TensorId(layers as u32 + 1);
    let mut before = input;
    for (n, task) in all.tasks.iter_mut().enumerate() {
        task.rows = if n == 0 { vec![task.reads[0]] } else { vec![] };
        task.reads.push(before);
        before = task.writes[0];
        all.tensors[before.index()].kind = if n == layers { Kind::Output } else { Kind::Activation };
    }
    all
}

/// Plans for the device alone and with the cores, checked; the second is never slower, and no bound is above a step.
fn both(all: &Lifetimes, target: &Target, mode: Mode) -> Result<Option<(Plan, Plan)>, TestCaseError> {
    let mut device = all.clone();
    device.tasks.iter_mut().for_each(|t| t.others.clear());
    let Ok(alone) = plan(&device, target, mode) else { return Ok(None) };
    let with = plan(all, target, mode).map_err(|e| TestCaseError::fail(format!("{mode:?}: {e}")))?;
    check(target, &alone, "alone")?;
    check(target, &with, "with cores")?;
    prop_assert!(
        with.timeline.step <= alone.timeline.step,
        "slower: {} > {}",
        with.timeline.step.0,
        alone.timeline.step.0
    );
    for plan in [&alone, &with] {
        // Once steps repeat: with two engines the first of them may end in another way. The mean of two is rounded.
        let many = if mode == Mode::Loop { 40 } else { 1 };
        let proved = verify(target, plan.program.clone(), None).expect("it was checked");
        let step = simulate(target, &proved, many, &BTreeSet::new()).step.0;
        prop_assert!(with.bound.time.0 <= step + 1, "bound {} > {step}", with.bound.time.0);
    }
    Ok(Some((alone, with)))
}

const MACHINE: &str = r#"(name: "m", source: "made up",
    tiers: [
        (name: "device", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64),
        (name: "dram", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64, on_request: true),
        PINNED
        (name: "nvme", capacity: "1TiB", bandwidth: "1GB/s", alignment: 4096, files: true),
    ],
    engines: [
        (name: "e", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us"),
        (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "1us"),
    ],
    links: [
        DIRECT
        (name: "up", from: "nvme", to: "dram", rate: "1GB/s", latency: "10us", chunk: "1MiB"),
        (name: "in", from: "NEXT", to: "device", rate: "5GB/s", latency: "1us", chunk: "1MiB"),
        (name: "out", from: "device", to: "NEXT", rate: "5GB/s", latency: "1us", chunk: "1MiB"),
    ])"#;
const DIRECT: &str = r#"(name: "read", from: "nvme", to: "device", rate: "1GB/s", latency: "10us", chunk: "1MiB"),"#;
const STAGED: &str = r#"
        (name: "pin", from: "dram", to: "pinned", rate: "4GB/s", latency: "1us", chunk: "1MiB"),
        (name: "unpin", from: "pinned", to: "dram", rate: "8GB/s", latency: "1us", submit: "1us", chunk: "1MiB"),"#;

/// How files reach the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    /// Through the memory below.
    Below,
    /// Through that and so many bytes that stage.
    Staged(u64),
}

fn ways() -> impl Strategy<Value = Way> {
    prop_oneof![3 => Just(Way::Direct), 2 => Just(Way::Below), 2 => (256u64..100_000).prop_map(Way::Staged)]
}

/// Every other task has the weights kept that only it reads.
fn kept(mut all: Lifetimes) -> Lifetimes {
    let uses = all.uses();
    let mine: Vec<bool> = (0..all.tensors.len())
        .map(|t| all.tensors[t].kind == Kind::Weight && uses.iter().nth(t).is_some_and(|uses| uses.len() == 1))
        .collect();
    for task in all.tasks.iter_mut().step_by(2) {
        let weights: Vec<TensorId> = task.reads.iter().copied().filter(|t| mine[t.index()]).collect();
        task.reads.retain(|t| !mine[t.index()]);
        let bytes: u64 = weights.iter().map(|t| all.tensors[t.index()].bytes).sum();
        if !weights.is_empty() {
            task.held = Some(Held { weights, bytes: bytes + 100, loading: 2 * bytes });
        }
    }
    all
}

fn machine(way: Way, memory: &[(&str, u64)]) -> Target {
    let (links, pinned) = match way {
        Way::Direct => (DIRECT, String::new()),
        Way::Below => ("", String::new()),
        Way::Staged(b) => {
            (STAGED, format!(r#"(name: "pinned", capacity: "{b}B", bandwidth: "10GB/s", alignment: 64),"#))
        }
    };
    let next = if pinned.is_empty() { "dram" } else { "pinned" };
    let text = MACHINE.replace("DIRECT", links).replace("PINNED", &pinned).replace("NEXT", next);
    let budgets = memory.iter().map(|(t, b)| ((*t).to_owned(), Bytes(*b))).collect();
    Target::from_ron(&text).expect("a machine").budgeted(&budgets)
}

fn check(target: &Target, plan: &Plan, who: &str) -> Result<(), TestCaseError> {
    for (tier, peak) in &plan.program.facts.peaks {
        let room = target.tier(tier).expect("a tier").room().0;
        prop_assert!(*peak <= room, "{who}: {peak} bytes of {tier}, which has {room}");
    }
    let proved = verify(target, plan.program.clone(), None).map_err(|found| {
        let text = berth_ir::text::print(&plan.program);
        TestCaseError::fail(format!("{who}: {}\n{text}", found[0]))
    })?;
    // Pieces of copies take turns in the order of the program: what waits stands behind what it waits for.
    let seen: BTreeMap<&str, usize> =
        plan.program.bodies[0].code.iter().enumerate().map(|(n, instruction)| (instruction.name(), n)).collect();
    for (n, instruction) in plan.program.bodies[0].code.iter().enumerate() {
        let behind = |a: &&After| a.steps == 0 && seen.get(a.name.as_str()).is_some_and(|m| *m >= n);
        if let Some(after) = instruction.after().iter().find(behind) {
            let text = berth_ir::text::print(&plan.program);
            return Err(TestCaseError::fail(format!(
                "{who}: `{}` stands before `{}`\n{text}",
                instruction.name(),
                after.name
            )));
        }
    }
    // The planner simulates stays without names; what is written of them with names takes as long.
    let steps = if plan.program.header.mode == Mode::Loop { STEPS } else { 1 };
    prop_assert_eq!(plan.timeline, simulate(target, &proved, steps, &BTreeSet::new()), "{}", who);
    let least = bound(target, &plan.program).time;
    // Times are whole nanoseconds.
    prop_assert!(
        least.0 <= plan.timeline.step.0 + 1,
        "{who}: a step takes {:?}, its bound is {least:?}",
        plan.timeline.step
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, rng_seed: RngSeed::Fixed(2026), ..ProptestConfig::default() })]

    #[test]
    fn plans_are_safe_and_within_their_caps(seed in seeds(), share in 0u64..=100, lower in prop::option::of(0u64..300_000), way in ways()) {
        let lifetimes = lifetimes(&seed);
        // Without a direct link all weights stand in the lower memory.
        let lower = if way == Way::Direct { lower } else { Some(1 << 29) };
        let below: Vec<(&str, u64)> = lower.map(|b| ("dram", b)).into_iter().collect();
        let (least, full) = extremes(&lifetimes, &machine(way, &below)).expect("it can be planned");
        prop_assert!(least.bound <= least.bytes && least.bytes <= full.max(least.bytes));
        let bytes = least.bytes + full.saturating_sub(least.bytes) * share / 100;
        let capped = |bytes: u64| machine(way, &[&[("device", bytes)], below.as_slice()].concat());
        let target = capped(bytes);
        for mode in [Mode::Loop, Mode::Once] {
            let made = plan(&lifetimes, &target, mode).map_err(|e| TestCaseError::fail(format!("{mode:?} at {bytes}: {e}")))?;
            check(&target, &made, "berth")?;
            for (who, make) in STRATEGIES {
                if let Ok(other) = planned_by(*make, &lifetimes, &target, mode) {
                    check(&target, &other, who)?;
                    // Once steps repeat. Half a percent, and the nanoseconds that rounding makes of the smallest steps.
                    let (ours, theirs) = (made.timeline.step.0, other.timeline.step.0);
                    prop_assert!(mode == Mode::Once || *who != "look-ahead" || ours <= theirs + theirs / 200 + 10, "{who} is faster: {theirs} < {ours}");
                }
            }
        }
        if least.bytes > 0 {
            let refused = plan(&lifetimes, &capped(least.bytes - 1), Mode::Loop);
            prop_assert!(matches!(refused, Err(PlanError::NoRoom(_))), "a byte less than {} was planned", least.bytes);
        }
    }

    /// What engines keep is in its place, loading it has room, and other memories keep their budgets.
    #[test]
    fn plans_beside_what_engines_keep_are_safe(seed in seeds(), share in 0u64..=100, way in ways()) {
        let lifetimes = kept(lifetimes(&seed));
        let held: u64 = lifetimes.tasks.iter().filter_map(|t| Some(t.held.as_ref()?.bytes)).sum();
        let loading = lifetimes.tasks.iter().filter_map(|t| Some(t.held.as_ref()?.loading)).max().unwrap_or(0);
        let below = ("dram", 1 << 29);
        let (least, full) = extremes(&lifetimes, &machine(way, &[below])).expect("it can be planned");
        let bytes = least.bytes + full.saturating_sub(least.bytes) * share / 100;
        let target = machine(way, &[("device", bytes), below]);
        let made = plan(&lifetimes, &target, Mode::Loop).map_err(|e| TestCaseError::fail(format!("at {bytes}: {e}")))?;
        check(&target, &made, "berth")?;
        prop_assert_eq!(made.program.header.memory.get("dram").map(|b| b.0), Some(1 << 29));
        prop_assert_eq!(made.program.header.memory.get("device").map(|b| b.0), Some(bytes));
        let says: u64 = made.program.tasks.iter().filter_map(|t| Some(t.held.as_ref()?.bytes)).sum();
        prop_assert_eq!(says, held);
        let peak = made.program.facts.peaks["device"];
        prop_assert!(peak >= held && peak + loading <= bytes, "{peak} and {loading} more of {bytes}");
        if held > 0 {
            let refused = plan(&lifetimes, &machine(way, &[("device", least.bytes - 64), below]), Mode::Loop);
            prop_assert!(matches!(refused, Err(PlanError::NoRoom(_))), "an alignment less than {} was planned", least.bytes);
        }
    }

    /// What a task writes again is the same tensor with other bytes: copies of it from before are of no more use.
    #[test]
    fn what_tasks_write_again_is_put_aside_anew(seed in seeds(), share in 0u64..=100, way in ways(), cores: bool) {
        let lifetimes = rewritten(lifetimes(&seed), &seed.2);
        let lifetimes = if cores { with_cores(lifetimes, &seed.2) } else { lifetimes };
        let below = ("dram", 1 << 29);
        let (least, full) = extremes(&lifetimes, &machine(way, &[below])).expect("it can be planned");
        let bytes = least.bytes + full.saturating_sub(least.bytes) * share / 100;
        let target = machine(way, &[("device", bytes), below]);
        for mode in [Mode::Loop, Mode::Once] {
            let made = plan(&lifetimes, &target, mode).map_err(|e| TestCaseError::fail(format!("{mode:?} at {bytes}: {e}")))?;
            check(&target, &made, "berth")?;
            for (who, make) in STRATEGIES {
                if let Ok(other) = planned_by(*make, &lifetimes, &target, mode) {
                    check(&target, &other, who)?;
                }
            }
        }
    }

    /// States are read as they were left, by the step before where none of this one wrote; none is lost.
    #[test]
    fn states_stay_or_come_back(seed in seeds(), share in 0u64..=100, way in ways(), cores: bool) {
        let lifetimes = with_states(lifetimes(&seed), &seed.2);
        let below = ("dram", 1 << 29);
        let capped = |bytes: u64| machine(way, &[("device", bytes), below]);
        let (least, full) = extremes(&lifetimes, &machine(way, &[below])).expect("it can be planned");
        let target = capped(least.bytes + full.saturating_sub(least.bytes) * share / 100);
        let all = if cores { with_cores(lifetimes.clone(), &seed.2) } else { lifetimes.clone() };
        for mode in [Mode::Loop, Mode::Once] {
            prop_assert!(both(&all, &target, mode)?.is_some());
            for (who, make) in STRATEGIES {
                if let Ok(other) = planned_by(*make, &all, &target, mode) {
                    check(&target, &other, who)?;
                }
            }
        }
        // States leave at every use, if need be.
        let held = |task: &Task| task.operands().map(|t| lifetimes.tensor(t).bytes.next_multiple_of(64)).sum::<u64>();
        let most = lifetimes.tasks.iter().map(|task| held(task) + task.workspace.next_multiple_of(64)).max().unwrap_or(0);
        prop_assert!(least.bytes <= most, "{} where the largest task has {most}", least.bytes);
        if least.bytes > 0 {
            let refused = plan(&lifetimes, &capped(least.bytes - 1), Mode::Loop);
            prop_assert!(matches!(refused, Err(PlanError::NoRoom(_))), "a byte less than {} was planned", least.bytes);
        }
    }

    #[test]
    fn the_cores_never_make_a_plan_slower(seed in seeds(), share in 0u64..=100, way in ways()) {
        let lifetimes = with_cores(lifetimes(&seed), &seed.2);
        let below = ("dram", 1 << 29);
        let (least, full) = extremes(&lifetimes, &machine(way, &[below])).expect("it can be planned");
        let bytes = least.bytes + full.saturating_sub(least.bytes) * share / 100;
        let target = machine(way, &[("device", bytes), below]);
        for mode in [Mode::Loop, Mode::Once] {
            prop_assert!(both(&lifetimes, &target, mode)?.is_some());
        }
    }

    #[test]
    fn the_cores_read_in_place_what_the_link_is_slower_to_bring(layers in 4usize..40, weight in 200_000u64..2_000_000, percent in 10u64..90, dram in 10u64..100) {
        // The memory gives 10 GB/s, the link 5; the cores may be slower than the memory, but not than the link.
        let lifetimes = decoder(layers, weight, dram * 100_000_000);
        let below = ("dram", 1 << 29);
        let (_, full) = extremes(&lifetimes, &machine(Way::Below, &[below])).expect("it can be planned");
        let target = machine(Way::Below, &[("device", (full * percent / 100).max(weight + 4_096)), below]);
        let (alone, with) = both(&lifetimes, &target, Mode::Loop)?.expect("it fits");
        if dram > 55 && alone.streamed > 0 {
            prop_assert!(with.timeline.step < alone.timeline.step, "no faster than {}", alone.timeline.step.0);
            let table = with.program.tasks[0].accesses.iter().any(|a| matches!(a, Access::ReadRows(_)));
            prop_assert!(table && with.program.tasks[0].engine == "cores", "the table is not read where it lies");
        }
    }

    #[test]
    fn no_streaming_baseline_beats_a_plan_for_a_decoder(layers in 4usize..40, weight in 200_000u64..2_000_000, percent in 10u64..110, dram in 10u64..100, way in ways(), cores: bool) {
        let mut lifetimes = decoder(layers, weight, dram * 100_000_000);
        if !cores {
            lifetimes.tasks.iter_mut().for_each(|t| t.others.clear());
        }
        let below = ("dram", 1 << 29);
        let (_, full) = extremes(&lifetimes, &machine(way, &[below])).expect("it can be planned");
        let target = machine(way, &[("device", (full * percent / 100).max(weight + 4_096)), below]);
        let ours = plan(&lifetimes, &target, Mode::Loop).map_err(|e| TestCaseError::fail(e.to_string()))?;
        for (who, make) in STRATEGIES {
            match planned_by(*make, &lifetimes, &target, Mode::Loop) {
                Ok(other) => {
                    check(&target, &other, who)?;
                    let (ours, theirs) = (ours.timeline.step.0, other.timeline.step.0);
                    // A static split of layers was seen 0.9 % faster: the planner moves other stretches.
                    prop_assert!(*who == "-ngl" || ours <= theirs + theirs / 200 + 10, "{who} is faster: {theirs} < {ours}");
                }
                Err(why) => prop_assert!(*who == "-ngl" && !cores && why == Unfit::Engine, "{who}: {why}"),
            }
        }
    }

    #[test]
    fn a_memory_that_the_largest_weight_cannot_pass_is_named(layers in 2usize..12, weight in 2_000u64..200_000, percent in 1u64..100) {
        let mut lifetimes = decoder(layers, weight, 1_000_000_000);
        lifetimes.tasks.iter_mut().for_each(|t| t.others.clear());
        let at = |below: u64| plan(&lifetimes, &machine(Way::Below, &[("device", 1 << 29), ("dram", below)]), Mode::Loop);
        let Err(PlanError::NoRoom(refused)) = at(weight * percent / 100) else {
            return Err(TestCaseError::fail("a weight passed through less than it is"));
        };
        prop_assert_eq!((refused.tier.as_str(), refused.below), ("dram", true));
        prop_assert!(refused.least.bytes >= weight && !refused.least.task.is_empty(), "{refused}");
        let made = at(refused.least.bytes).map_err(|e| TestCaseError::fail(format!("what is asked for is refused: {e}")))?;
        check(&machine(Way::Below, &[("device", 1 << 29), ("dram", refused.least.bytes)]), &made, "berth")?;
    }

    #[test]
    fn weights_pass_through_a_memory_that_cannot_hold_them(layers in 12usize..40, weight in 200_000u64..2_000_000, device in 10u64..60, below in 10u64..90, parts in prop::collection::vec(1u64..=8, 41)) {
        let mut lifetimes = decoder(layers, weight, 1_000_000_000);
        lifetimes.tasks.iter_mut().for_each(|t| t.others.clear());
        for (tensor, part) in lifetimes.tensors.iter_mut().filter(|t| t.kind == Kind::Weight).zip(parts) {
            tensor.bytes = weight / part;
            tensor.extent = Expr::constant(tensor.bytes);
        }
        let total = lifetimes.total(Kind::Weight);
        let room = |percent: u64, least: u64| (total * percent / 100).max(least * weight + 8_192);
        let target = machine(Way::Below, &[("device", room(device, 2)), ("dram", room(below, 1) + weight / 2)]);
        for mode in [Mode::Loop, Mode::Once] {
            let made = plan(&lifetimes, &target, mode).map_err(|e| TestCaseError::fail(format!("{mode:?}: {e}")))?;
            check(&target, &made, "berth")?;
            prop_assert!(made.program.facts.peaks.iter().any(|(tier, _)| tier == "dram"));
        }
    }

    #[test]
    fn packed_stays_share_no_byte(raw in prop::collection::vec((0i64..40, 0i64..40, 0u64..500, any::<bool>()), 0..60)) {
        let stays: Vec<Stay> = raw.iter().map(|(to, length, bytes, forever)| Stay {
            tensor: TensorId(0),
            level: Level::Device,
            from: if *forever { 0 } else { (to - length).max(to - 39) },
            to: if *forever { 39 } else { *to },
            forever: *forever,
            stage: false,
            arrives: Arrival::Feed,
            uses: Positions::new(),
            fed: false,
            fetched: false,
            part: None,
            bytes: *bytes,
        }).collect();
        let refs: Vec<&Stay> = stays.iter().collect();
        let offsets = pack(&refs, 40, 64, u64::MAX);
        prop_assert!(stays.iter().zip(&offsets.at).all(|(s, at)| at + s.bytes <= offsets.height));
        let moving: Vec<&Stay> = stays.iter().filter(|s| !s.forever).collect();
        let crowded = pack_crowd(&moving, 40, 64).expect("sums are small");
        for (stays, at) in [(refs, offsets.at), (moving, crowded)] {
        // Straight from what a stay means: the positions of a step, one by one.
        let holds = |s: &Stay, p: i64| s.forever || (s.from <= p && p <= s.to) || (s.from <= p - 40 && p - 40 <= s.to);
        for (i, a) in stays.iter().enumerate() {
            prop_assert!(at[i].is_multiple_of(64));
            for (j, b) in stays.iter().enumerate().skip(i + 1) {
                let together = (0..40).any(|p| holds(a, p) && holds(b, p));
                let share = at[i] < at[j] + b.bytes && at[j] < at[i] + a.bytes;
                prop_assert!(!(together && share), "{i} and {j} share bytes");
            }
        }
        }
    }
}

/// Past the page cache a file goes straight to its place where the two agree modulo a sector.
#[test]
fn what_streams_from_files_lies_at_sectors() {
    let mut all = decoder(12, 1_000_064, 1_000_000_000);
    all.tasks.iter_mut().for_each(|t| (t.others, t.rows) = (vec![], vec![]));
    for percent in [40, 60, 80] {
        let target = machine(Way::Direct, &[("device", 13 * 1_000_064 * percent / 100)]);
        let program = plan(&all, &target, Mode::Loop).expect("a plan").program;
        let copied = |name: &str| {
            let copies = |i: &Instruction| matches!(i, Instruction::Copy { to, from: Place::Home, .. } if to == name);
            program.bodies.iter().flat_map(|body| &body.code).any(copies)
        };
        let streamed: Vec<_> = program.berths.iter().filter(|b| copied(&b.name)).collect();
        assert!(!streamed.is_empty(), "at {percent} % all weights stay");
        for berth in streamed {
            let first = berth.part.map_or(0, |(from, _)| from);
            assert_eq!((berth.offset - first) % 4096, 0, "at {percent} %: {berth:?}");
        }
    }
}

/// With room for one weight and half of another that half comes while the task before computes, though a copy of it waits for
/// longer than its bytes take: so do all others, side by side.
#[test]
fn what_copies_wait_for_does_not_keep_parts_together() {
    let mut all = decoder(8, 65_536, 1_000_000_000);
    all.tasks.iter_mut().for_each(|t| (t.others, t.rows) = (vec![], vec![]));
    let step = |latency: u64| {
        let mut target = machine(Way::Direct, &[("device", 65_536 * 3 / 2 + 1_024), ("dram", 0)]);
        target.links.iter_mut().for_each(|link| link.latency = Nanos(latency));
        plan(&all, &target, Mode::Loop).expect("a plan").timeline.step.0
    };
    let (without, with) = (step(0), step(80_000));
    let each = 80_000 * all.tasks.len() as u64;
    assert!(with <= without + each, "{with} ns, {without} ns without what {} copies wait for", all.tasks.len());
}

/// One task that has weights of so many bytes kept, and writes an output of none.
fn keeps(bytes: u64) -> Lifetimes {
    let seed = Seed { weights: vec![0], values: vec![], results: vec![0], workspace: 0, cost: 1, cores: None };
    let mut all = lifetimes(&(vec![bytes], vec![], vec![seed]));
    let weights = std::mem::take(&mut all.tasks[0].reads);
    all.tasks[0].held = Some(Held { weights, bytes, loading: bytes });
    all
}

/// What is kept is in the program even if it has no bytes.
#[test]
fn weights_of_no_bytes_are_kept() {
    let target = machine(Way::Direct, &[("device", 64), ("dram", 0)]);
    let made = plan(&keeps(0), &target, Mode::Loop).expect("it has room");
    assert!(verify(&target, made.program.clone(), None).is_ok());
    assert!(made.program.tasks[0].held.is_some());
}

/// Berths of no bytes fit anywhere; what is kept beside them does not, and the words count all that is needed.
#[test]
fn what_is_kept_needs_its_room_beside_berths_of_no_bytes() {
    for bytes in [64, 100, 383] {
        let refused = plan(&keeps(256), &machine(Way::Direct, &[("device", bytes), ("dram", 0)]), Mode::Loop);
        let Err(PlanError::NoRoom(room)) = refused else { panic!("{bytes} bytes are not enough") };
        assert_eq!((room.room, room.least.bytes), (bytes, 512));
    }
    assert!(plan(&keeps(256), &machine(Way::Direct, &[("device", 512), ("dram", 0)]), Mode::Loop).is_ok());
}

/// Two weights that take turns eight times bring more bytes a step than 64 bits hold, which is no reason to fail.
#[test]
fn what_streams_may_be_more_than_64_bits_hold() {
    let task = |n: usize| {
        let (weights, results) = (vec![n % 2], vec![1]);
        Seed { weights, values: vec![], results, workspace: 0, cost: 1, cores: None }
    };
    let all = lifetimes(&(vec![1 << 61; 2], vec![], (0..16).map(task).collect()));
    let mut target = machine(Way::Direct, &[("dram", 0)]);
    for tier in &mut target.tiers {
        tier.capacity = Bytes(if tier.files { 1 << 63 } else { (1 << 61) + (1 << 20) });
    }
    let made = plan(&all, &target, Mode::Loop).expect("one of them has room");
    assert_eq!(made.streamed, u64::MAX);
    assert!(verify(&target, made.program, None).is_ok());
}
