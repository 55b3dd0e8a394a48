//! Schedules are checked strictly: for steps made from seeds, and for G10's own where they lie beside the repository.

use berth_bench_g10::check::check;
use berth_bench_g10::make;
use berth_bench_g10::programs::steps;
use berth_bench_g10::read::{Rig, read, target};
use berth_compiler::spill::{Schedule, bound, bound_with_clean_drops, schedule};
use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::Kind;
use berth_ir::target::Target;
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;
use std::path::Path;

const PIECE: u64 = 1 << 18;

/// A made step with a machine that it does not fit.
fn problem(seed: u64) -> (Lifetimes, Target) {
    let lifetimes = make::step(seed);
    let states: u64 = lifetimes.total(Kind::State);
    let peak = lifetimes.load().into_iter().max().unwrap_or(0);
    let task = |t: &Task| t.operands().map(|o| lifetimes.tensor(o).bytes).sum::<u64>() + t.workspace;
    let largest = lifetimes.tasks.iter().map(task).max().unwrap_or(0);
    let all = peak.max(states);
    let device = (all * (30 + seed * 7 % 60) / 100).max(largest * 5 / 4);
    let host = [0, all / 4, all, 4 * all][seed as usize % 4];
    let (bus, disk) = (16_000_000_000, [1_000_000_000, 4_000_000_000, 16_000_000_000][seed as usize % 3]);
    let rig = Rig { device, host, bus, disk, host_to_disk: seed.is_multiple_of(5), clean_drops: false };
    (lifetimes, target(&rig))
}

fn plan(lifetimes: &Lifetimes, target: &Target, seed: u64) -> Schedule {
    schedule(lifetimes, target, Some(PIECE)).unwrap_or_else(|e| panic!("seed {seed}: {e}"))
}

/// Of sixty made steps, how many must be within 1 % of their bounds.
const NEAR: usize = 28;

#[test]
fn schedules_of_made_steps_hold_and_no_bound_is_above_them() {
    let (mut moved, mut near) = (0, 0);
    for seed in 0..60 {
        let (lifetimes, target) = problem(seed);
        let found = plan(&lifetimes, &target, seed);
        let tally = check(&lifetimes, &target, &found, PIECE);
        let tally = tally.unwrap_or_else(|wrong| panic!("seed {seed}: {}", wrong.join("\n")));
        moved += usize::from(tally.bytes.iter().any(|b| *b > 0));
        if seed.is_multiple_of(4) {
            let twice = plan(&lifetimes, &target, seed);
            assert_eq!(found, twice, "seed {seed}: the same twice");
        }
        // The bound is told of a step ten times as long, so that nothing holds it down but what is true.
        let least = bound(&lifetimes, &target, Nanos(found.step.0 * 10)).unwrap();
        assert!(least <= found.step, "seed {seed}: {} ns reached, {} ns is the bound", found.step.0, least.0);
        near += usize::from(found.step.0 * 99 <= least.0 * 100);
    }
    assert!(moved > 30, "only {moved} of the steps move anything");
    assert!(near >= NEAR, "{near} of 60 within 1 % of their bounds");
}

/// What may leave for a slow disk is not what is wanted last of hundreds of tensors.
#[test]
fn schedules_of_many_layers_are_near_their_bounds() {
    for seed in 0..4 {
        let lifetimes = make::layered(seed, 150..=200);
        let peak = lifetimes.load().into_iter().max().unwrap_or(0).max(lifetimes.total(Kind::State));
        let disk = 1_600_000_000 * (1 + seed % 2);
        let host = peak * [0, 45][seed as usize / 2] / 100;
        let rig = Rig { device: peak / 7, host, bus: 32_000_000_000, disk, ..Rig::G10 };
        let target = target(&rig);
        let found = plan(&lifetimes, &target, seed);
        check(&lifetimes, &target, &found, PIECE).unwrap_or_else(|wrong| panic!("seed {seed}: {}", wrong.join("\n")));
        let least = bound(&lifetimes, &target, found.step).unwrap();
        assert!(found.step.0 * 995 <= least.0 * 1_000, "seed {seed}: {} ns, {} ns is the bound", found.step.0, least.0);
    }
}

#[test]
fn programs_of_made_steps_are_near_the_schedules_of_their_bytes() {
    let (mut planned, mut logs) = (0, 0.0);
    for seed in 0..20 {
        let (lifetimes, machine) = problem(seed);
        let device = machine.tier("hbm").map_or(0, |t| t.capacity.0);
        let bus = [4_000_000_000, 16_000_000_000][seed as usize % 2];
        // The largest task may leave no room for addresses: then there is no program, and it is counted.
        let rig = Rig { device, bus, disk: bus / 4, ..Rig::default() };
        let Ok(found) = steps(lifetimes, &rig, PIECE) else { continue };
        assert!(found.program >= found.ideal, "seed {seed}: {found:?}");
        (planned, logs) = (planned + 1, logs + (found.program.0 as f64 / found.bytes.0 as f64).ln());
    }
    let mean = (logs / f64::from(planned)).exp();
    assert!(planned >= 18, "{planned} of 20 steps have a program");
    assert!(mean < 1.1, "programs take {mean:.3} times as long as schedules of bytes");
}

#[test]
fn to_join_two_lower_memories_is_never_slower() {
    let mut used = 0;
    for seed in (0..40).step_by(5) {
        let (lifetimes, joined) = problem(seed);
        let mut apart = joined.clone();
        apart.links.retain(|l| l.from == "hbm" || l.to == "hbm");
        let (with, without) = (plan(&lifetimes, &joined, seed), plan(&lifetimes, &apart, seed));
        assert!(with.step <= without.step, "seed {seed}: {} ns, and {} ns without", with.step.0, without.step.0);
        let tally = check(&lifetimes, &joined, &with, PIECE);
        let tally = tally.unwrap_or_else(|wrong| panic!("seed {seed}: {}", wrong.join("\n")));
        used +=
            usize::from(joined.links.iter().zip(&tally.bytes).any(|(l, b)| l.to != "hbm" && l.from != "hbm" && *b > 0));
    }
    assert!(used > 0, "none of the schedules uses such a link");
}

#[test]
fn what_need_not_be_moved_again_never_raises_the_bound() {
    for seed in 0..20 {
        let (lifetimes, target) = problem(seed);
        let strict = bound(&lifetimes, &target, Nanos(u64::MAX)).unwrap();
        let clean = bound_with_clean_drops(&lifetimes, &target).unwrap();
        // Both are found up to a part of a step.
        assert!(clean.0 <= strict.0 + strict.0 / 1_000, "seed {seed}: {} ns, strictly {} ns", clean.0, strict.0);
    }
}

#[test]
fn the_check_finds_what_is_wrong() {
    let (lifetimes, target) = (0..).map(problem).find(|(l, t)| !plan(l, t, 0).copies.is_empty()).unwrap();
    let good = plan(&lifetimes, &target, 0);
    let refused = |change: &dyn Fn(&mut Schedule), what: &str| {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(check(&lifetimes, &target, &bad, PIECE).is_err(), "{what}");
    };
    refused(&|s| s.step = Nanos(s.step.0 / 2), "a step half as long");
    refused(&|s| s.copies.truncate(s.copies.len() - 1), "a copy is missing");
    refused(&|s| s.copies = s.copies[1..].to_vec(), "the first copy is missing");
    refused(&|s| s.copies[0].bytes += 4096, "more bytes than the time is for");
    refused(&|s| s.copies[0].end = s.copies[0].start, "no time at all");
    refused(&|s| s.copies[0].link = None, "a state is dropped");
    refused(&|s| s.copies[0].gap = 99, "a gap that there is not");
    refused(&|s| s.starts[1] = s.starts[0], "two tasks at once");
    refused(&|s| s.copies.push(s.copies[0]), "a copy twice");
    let mut small = target.clone();
    small.tiers[0].capacity.0 -= 64 * 4096;
    assert!(check(&lifetimes, &small, &good, PIECE).is_err(), "a smaller device");
}

#[test]
fn the_bound_is_what_a_lane_must_move() {
    // Two states of 100 pages in room for 150, used in turn: in each step 50 pages of each must leave, and return.
    let page = 4096;
    let state = |name: &str| Tensor {
        name: name.into(),
        kind: Kind::State,
        dtype: DType::U8,
        extent: Expr::constant(100 * page),
        bytes: 100 * page as u64,
        home: None,
        aliases: Vec::new(),
    };
    let task = |t: u32| Task {
        name: format!("use {t}"),
        ops: Vec::new(),
        reads: vec![TensorId(t)],
        writes: Vec::new(),
        rows: Vec::new(),
        in_place: Vec::new(),
        workspace: 0,
        cost: Nanos(10),
        others: Vec::new(),
        held: None,
    };
    let lifetimes = Lifetimes {
        model: String::new(),
        dims: BTreeMap::new(),
        tensors: vec![state("a"), state("b")],
        tasks: vec![task(0), task(1)],
    };
    let target = target(&Rig { device: 150 * page as u64, host: 1 << 30, ..Rig::default() });
    let found = schedule(&lifetimes, &target, Some(page as u64)).unwrap();
    check(&lifetimes, &target, &found, page as u64).unwrap();
    let least = bound(&lifetimes, &target, found.step).unwrap();
    let moving = 100 * page as u64 * 1_000 / 15_754;
    assert!(least.0 <= moving + 20, "{} ns is the bound, {moving} ns are enough", least.0);
    assert!(least.0 * 100 >= moving * 97, "{} ns is the bound, {moving} ns are needed", least.0);
    assert!(found.step.0 * 100 <= moving * 110, "{} ns reached, {moving} ns are needed", found.step.0);
}

/// The least fraction of the ideal, and the most that the bound may say.
const CASES: [(&str, f64, f64); 5] = [
    ("BERT_Base_128", 1.0, 1.0),
    ("BERT_Base_256", 0.999, 1.0),
    ("VIT_1280", 0.846, 0.8487 * 1.01),
    ("ResNet152_1280", 0.995, 0.9978 * 1.01),
    ("BERT_Base_1024", 0.692, 0.6954 * 1.01),
];

/// Others of the family: their device is starved by a slow disk, or by host memory that there is not.
const STARVED: [(&str, Rig); 3] = [
    ("ResNet152_1280", Rig { disk: 1_600_000_000, bus: 32_000_000_000, ..Rig::G10 }),
    ("ResNet152_1280", Rig { disk: 3_200_000_000, bus: 32_000_000_000, ..Rig::G10 }),
    ("BERT_Base_1024", Rig { host: 0, ..Rig::G10 }),
];

#[test]
fn starved_workloads_are_near_their_bounds_where_they_lie_beside() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/g10");
    for (case, rig) in STARVED.iter().filter(|(case, _)| folder.join(case).is_dir()) {
        let (lifetimes, target) = (read(&folder.join(case), rig).unwrap(), target(rig));
        let found = schedule(&lifetimes, &target, Some(64 << 20)).unwrap();
        check(&lifetimes, &target, &found, 64 << 20).unwrap_or_else(|wrong| panic!("{case}: {}", wrong.join("\n")));
        let least = bound(&lifetimes, &target, found.step).unwrap();
        assert!(found.step.0 * 99 <= least.0 * 100, "{case}: {} ns, {} ns is the bound", found.step.0, least.0);
    }
}

#[test]
fn the_published_workloads_reach_their_figures_where_they_lie_beside() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/g10");
    let mut walked = 0;
    for (case, least, most) in CASES {
        let rig = Rig::default();
        if !folder.join(case).is_dir() {
            continue;
        }
        walked += 1;
        let (lifetimes, target) = (read(&folder.join(case), &rig).unwrap(), target(&rig));
        let ideal = lifetimes.tasks.iter().map(|t| t.cost.0).sum::<u64>() as f64;
        let found = schedule(&lifetimes, &target, Some(64 << 20)).unwrap();
        check(&lifetimes, &target, &found, 64 << 20).unwrap_or_else(|wrong| panic!("{case}: {}", wrong.join("\n")));
        let fraction = ideal / found.step.0 as f64;
        let bound = ideal / bound(&lifetimes, &target, found.step).unwrap().0 as f64;
        assert!(fraction >= least, "{case}: {fraction} of the ideal");
        assert!(fraction <= bound && bound <= most, "{case}: the bound is {bound}");
    }
    assert!(walked == 0 || walked == CASES.len(), "only {walked} cases");
}
