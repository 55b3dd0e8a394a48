//! Machines with several memories below the device: all of them are used, none makes a plan slower, and what is put aside
//! fills one before the next.

#[path = "common/maker.rs"]
mod maker;

use berth_compiler::baseline::{STRATEGIES, planned_by};
use berth_compiler::machine::CannotPlan;
use berth_compiler::margin::{Of, margins};
use berth_compiler::plan::{Plan, PlanError, plan};
use berth_ir::lifetime::{Lifetimes, Tensor, TensorId};
use berth_ir::program::{DimRange, Instruction, Kind, Mode, Place};
use berth_ir::target::{Link, Target};
use berth_ir::units::Bytes;
use berth_ir::{Expr, verify};
use maker::Maker;
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

/// What counts as slower: searches that begin elsewhere may end a little elsewhere.
const SLOWER_PART: u64 = 100;

/// A chain of tasks with a weight each.
fn chain(weights: &[u64], cost: u64) -> Lifetimes {
    let mut made = Maker::new();
    let mut last = made.tensor(Kind::Input, 4096);
    for (n, bytes) in weights.iter().enumerate() {
        let weight = made.tensor(Kind::Weight, *bytes);
        let kind = if n + 1 == weights.len() { Kind::Output } else { Kind::Activation };
        last = made.task(&[last, weight], kind, 4096, cost);
    }
    made.0
}

/// Results that are wanted again in the reverse order, as in training.
fn there_and_back(count: usize, bytes: u64) -> Lifetimes {
    let mut made = Maker::new();
    let mut kept = vec![made.tensor(Kind::Input, bytes)];
    for n in 0..count {
        let result = made.task(&[kept[n]], Kind::Activation, bytes, 20_000);
        kept.push(result);
    }
    let mut last = kept[count];
    for (n, before) in kept[..count].iter().enumerate().rev() {
        let kind = if n == 0 { Kind::Output } else { Kind::Activation };
        last = made.task(&[last, *before], kind, bytes, 20_000);
    }
    made.0
}

/// A device above `dram`, which has so many bytes and a link of so many a second, and above `cxl`, if that has a rate.
fn machine(device: u64, (dram, rate): (u64, u64), cxl: Option<u64>, home: u64) -> Target {
    let tier = |name: &str, bytes: u64| {
        format!(r#"(name: "{name}", capacity: "{bytes}B", bandwidth: "100GB/s", alignment: 64),"#)
    };
    let link = |name: &str, from: &str, to: &str, rate: u64| {
        let ends = format!(r#"name: "{name}", from: "{from}", to: "{to}""#);
        format!(r#"({ends}, rate: "{rate}MB/s", latency: "5us", submit: "1us", chunk: "1MiB"),"#)
    };
    let mut tiers = tier("device", device) + &tier("dram", dram);
    let mut links = link("in", "dram", "device", rate) + &link("out", "device", "dram", rate);
    links += &link("read", "nvme", "dram", home);
    if let Some(rate) = cxl {
        tiers += &tier("cxl", 1 << 40);
        links += &link("cxl-in", "cxl", "device", rate);
        links += &link("cxl-out", "device", "cxl", rate);
        links += &link("cxl-read", "nvme", "cxl", home);
    }
    let text = format!(
        r#"(name: "m", source: "made up", tiers: [{tiers}
            (name: "nvme", capacity: "1TiB", bandwidth: "10GB/s", alignment: 4096, files: true)],
        engines: [(name: "gpu", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us")], links: [{links}])"#
    );
    Target::from_ron(&text).expect("a machine")
}

fn proved(lifetimes: &Lifetimes, target: &Target) -> Result<Plan, PlanError> {
    let plan = plan(lifetimes, target, Mode::Loop)?;
    let verified = verify::verify(target, plan.program.clone(), None);
    assert!(verified.is_ok(), "{:?}", verified.err());
    assert!(plan.bound.time <= plan.timeline.step, "a step of {} beats {}", plan.timeline.step, plan.bound.time);
    for (name, rule) in STRATEGIES {
        let ruled = planned_by(*rule, lifetimes, target, Mode::Loop).ok();
        let slower = ruled.filter(|ruled| ruled.timeline.step < plan.timeline.step);
        assert!(slower.is_none(), "{name} is faster than {}", plan.timeline.step);
    }
    Ok(plan)
}

/// Bytes that copies of a queue move in a step.
fn over(plan: &Plan, queue: &str) -> u64 {
    let berths: BTreeMap<&str, u64> = plan.program.berths.iter().map(|b| (b.name.as_str(), b.bytes)).collect();
    let bytes = plan.program.bodies[0].code.iter().filter_map(|i| match i {
        Instruction::Copy { queue: q, to, .. } if q == queue => Some(berths[to.as_str()]),
        _ => None,
    });
    bytes.sum()
}

#[test]
fn memories_below_give_the_device_their_bytes_side_by_side() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let one = proved(&model, &machine(64 * MIB, (1 << 40, 20_000), None, 1_000)).expect("a plan");
    let target = machine(64 * MIB, (1 << 40, 20_000), Some(10_000), 1_000);
    let two = proved(&model, &target).expect("a plan");
    let (one, step) = (one.timeline.step.0, two.timeline.step.0);
    assert!(step * 100 <= one * 75, "{step} ns with a second memory of half the rate, {one} without");
    assert!(step * 100 <= two.bound.time.0 * 115, "{step} ns where nothing beats {}", two.bound.time);
    let (fast, slow) = (over(&two, "in"), over(&two, "cxl-in"));
    assert!(slow > 0 && (15..=25).contains(&(fast * 10 / slow)), "{fast} and {slow} bytes");
}

/// Files that reach the device past a faster memory, which could hold everything, bring what they can meanwhile.
#[test]
fn files_and_the_memory_below_work_side_by_side() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let one = machine(64 * MIB, (1 << 40, 6_000), None, 2_000);
    let mut two = one.clone();
    let read = one.links.iter().find(|l| l.name == "read").expect("a link").clone();
    two.links.push(Link { name: "direct".into(), to: "device".into(), ..read });
    let [one, two] = [one, two].map(|target| proved(&model, &target).expect("a plan"));
    assert!(two.timeline.step.0 * 100 <= one.timeline.step.0 * 82, "{} after {}", two.timeline.step, one.timeline.step);
    let (fast, slow) = (over(&two, "in"), over(&two, "direct"));
    assert!(slow > 0 && (24..=40).contains(&(fast * 10 / slow)), "{fast} and {slow} bytes");
}

/// What is not planned for may still be written by somebody: a bound counts on it.
#[test]
fn a_memory_without_a_link_to_the_device_lowers_the_bound() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let one = machine(64 * MIB, (100 * MIB, 20_000), None, 1_000);
    let mut two = machine(64 * MIB, (100 * MIB, 20_000), Some(10_000), 1_000);
    two.links.retain(|l| l.from != "cxl" && l.from != "device");
    let read = one.links.iter().find(|l| l.name == "in").expect("a link").clone();
    two.links.push(Link { name: "up".into(), from: "cxl".into(), to: "dram".into(), ..read });
    let [one, two] = [one, two].map(|target| proved(&model, &target).expect("a plan").bound.time);
    assert!(two.0 * 4 < one.0, "{two} with it, {one} without");
}

#[test]
fn weights_that_one_memory_cannot_hold_lie_in_the_next() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let small = machine(64 * MIB, (100 * MIB, 20_000), None, 1_000);
    let one = proved(&model, &small).expect("a plan");
    let two = proved(&model, &machine(64 * MIB, (100 * MIB, 20_000), Some(10_000), 1_000)).expect("a plan");
    assert!(over(&one, "read") > 0, "without it they are read in each step");
    assert_eq!(over(&two, "read") + over(&two, "cxl-read"), 0, "with it they are below all the time");
    assert!(two.timeline.step.0 * 4 < one.timeline.step.0);
}

#[test]
fn what_is_put_aside_goes_further_where_the_first_memory_is_full() {
    let model = there_and_back(30, 4 * MIB);
    let roomy = machine(24 * MIB, (1 << 40, 4_000), None, 1_000);
    let below =
        proved(&model, &roomy).expect("a plan").program.arenas.iter().find(|a| a.tier == "dram").map(|a| a.bytes);
    let most = below.expect("something is put aside");
    let half = machine(24 * MIB, (most / 2, 4_000), None, 1_000);
    let alone = proved(&model, &half).err();
    assert!(matches!(alone, Some(PlanError::NoRoom(_))), "half of what is put aside has no room: {alone:?}");
    let plan = proved(&model, &machine(24 * MIB, (most / 2, 4_000), Some(2_000), 1_000)).expect("a plan");
    let bytes = |tier: &str| plan.program.arenas.iter().find(|a| a.tier == tier).map_or(0, |a| a.bytes);
    assert!(bytes("dram") <= most / 2 && bytes("cxl") > 0);
    assert!(over(&plan, "out") > 0 && over(&plan, "cxl-out") > 0);
}

/// Weights of many sizes, a memory more of any rate.
#[test]
fn a_memory_more_makes_no_plan_slower() {
    let mut slower = Vec::new();
    for seed in 1..=60u64 {
        let draw = |n: u64| (seed * 0x9E37 + n).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let weights: Vec<u64> = (0..8 + seed % 20).map(|n| MIB / 4 + (draw(n) % 16) * MIB / 4).collect();
        let model = chain(&weights, 20_000 + draw(99) % 400_000);
        let total: u64 = weights.iter().sum();
        let largest = weights.iter().max().copied().unwrap_or(0);
        let device = (total * (20 + draw(7) % 60) / 100).max(largest + MIB);
        let dram = [1 << 40, total / 2 + 2 * largest][seed as usize % 2];
        let without = proved(&model, &machine(device, (dram, 10_000), None, 2_000)).expect("a plan");
        for rate in [500, 5_000, 20_000] {
            let with = proved(&model, &machine(device, (dram, 10_000), Some(rate), 2_000)).expect("a plan");
            let (with, without) = (with.timeline.step.0, without.timeline.step.0);
            if with > without + without / SLOWER_PART {
                slower.push((seed, rate, with, without));
            }
        }
    }
    assert!(slower.is_empty(), "slower with a memory more (seed, MB/s, ns, ns without): {slower:?}");
}

#[test]
fn room_in_the_next_memory_is_worth_what_it_moves() {
    let target = machine(64 * MIB, (100 * MIB, 20_000), Some(10_000), 1_000);
    let mut small = target.clone();
    small.tiers.iter_mut().filter(|t| t.name == "cxl").for_each(|t| t.capacity = Bytes(100 * MIB));
    let model = chain(&[8 * MIB; 40], 1_000);
    let (all, some) = (proved(&model, &target).expect("a plan"), proved(&model, &small).expect("a plan"));
    assert!(all.timeline.step < some.timeline.step);
    let bytes = some.program.arenas.iter().find(|a| a.tier == "cxl").map(|a| a.bytes);
    assert!(bytes.is_some_and(|bytes| bytes <= 100 * MIB && bytes > 80 * MIB), "{bytes:?}");
}

/// The same machine where what goes between `dram` and the device stands in so many bytes of pinned memory on its way, which copies of
/// so many MB a second lead into and out of.
fn staged(mut target: Target, bytes: u64, rate: u64) -> Target {
    let mut pinned = target.tiers[1].clone();
    (pinned.name, pinned.capacity) = ("pinned".into(), Bytes(bytes));
    target.tiers.push(pinned);
    let like = target.links[0].clone();
    for link in &mut target.links {
        match link.name.as_str() {
            "in" => link.from = "pinned".into(),
            "out" => link.to = "pinned".into(),
            _ => {}
        }
    }
    for (name, from, to) in [("pin", "dram", "pinned"), ("unpin", "pinned", "dram")] {
        let rate = berth_ir::units::BytesPerSec(rate * 1_000_000);
        target.links.push(Link { name: name.into(), from: from.into(), to: to.into(), rate, ..like.clone() });
    }
    target
}

#[test]
fn copies_go_through_a_staging_memory_within_its_budget() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let plain = machine(64 * MIB, (1 << 40, 20_000), None, 1_000);
    let direct = proved(&model, &plain).expect("a plan");
    for (bytes, percent) in [(16 * MIB, 103), (4 * MIB, 108), (MIB, 125)] {
        let target = staged(plain.clone(), bytes, 30_000);
        let plan = proved(&model, &target).expect("a plan");
        let pinned = plan.program.arenas.iter().find(|a| a.tier == "pinned").map(|a| a.bytes);
        assert!(pinned.is_some_and(|used| used <= bytes && used > bytes / 2), "{pinned:?} of {bytes}");
        let code = || plan.program.prologue.iter().chain(&plan.program.bodies[0].code);
        let arena = |berth: &str| plan.program.berths.iter().find(|b| b.name == berth).expect("a berth").arena.as_str();
        for copy in code() {
            let Instruction::Copy { name, from: Place::Berth(from), to, queue, .. } = copy else { continue };
            let ends = (arena(from), arena(to), queue.as_str());
            assert!(matches!(ends, ("dram", "pinned", "pin") | ("pinned", "device", "in")), "{name}: {ends:?}");
        }
        let traffic = |plan: &Plan, link: &str| {
            let here = plan.program.facts.traffic.iter().filter(|t| t.part == "step" && t.link == link);
            here.map(|t| t.bytes).sum::<u64>()
        };
        assert_eq!(traffic(&plan, "pin"), traffic(&plan, "in"), "what comes in goes on");
        assert_eq!(traffic(&plan, "in"), traffic(&direct, "in"), "no byte more than without");
        let (step, without) = (plan.timeline.step.0, direct.timeline.step.0);
        assert!(step * 100 <= without * percent, "{step} ns through {bytes} bytes, {without} without");
        // What is said of more memory passes through the same staging memory.
        let margins = margins(&model, &target, &plan);
        let more = margins.iter().find(|m| m.of == Of::Tier("dram".into())).expect("dram is used");
        assert!(step - more.step.0 < step / 100, "{} with more that nothing needs, {step}", more.step);
    }
}

#[test]
fn a_slow_way_into_a_staging_memory_sets_the_step() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let target = staged(machine(64 * MIB, (1 << 40, 20_000), None, 1_000), 16 * MIB, 5_000);
    let plan = proved(&model, &target).expect("a plan");
    assert!(plan.timeline.step.0 * 100 <= plan.bound.time.0 * 115, "{} of {}", plan.timeline.step, plan.bound.time);
}

#[test]
fn what_is_put_aside_goes_through_a_staging_memory_and_back() {
    let model = there_and_back(30, 4 * MIB);
    let plain = machine(24 * MIB, (1 << 40, 4_000), None, 1_000);
    let direct = proved(&model, &plain).expect("a plan").timeline.step.0;
    for (bytes, percent) in [(8 * MIB, 115), (64 * 1_024, 400)] {
        let plan = proved(&model, &staged(plain.clone(), bytes, 8_000)).expect("a plan");
        let step = plan.timeline.step.0;
        assert!(step * 100 <= direct * percent, "{step} ns through {bytes} bytes, {direct} without");
        assert!(over(&plan, "out") > 0 && over(&plan, "unpin") > 0);
        let pinned = plan.program.arenas.iter().find(|a| a.tier == "pinned").map(|a| a.bytes);
        assert!(pinned.is_some_and(|used| used <= bytes), "{pinned:?} of {bytes}");
    }
    // With weights, which files bring below alone: no more is pinned than what passes in either direction.
    let mut model = model;
    for n in 0..model.tasks.len() {
        let like = chain(&[MIB], 1).tensors.swap_remove(1);
        model.tasks[n].reads.push(TensorId(model.tensors.len() as u32));
        model.tensors.push(Tensor { name: format!("w{n}"), ..like });
    }
    let plan = proved(&model, &staged(plain, 1 << 30, 8_000)).expect("a plan");
    let pinned = plan.program.arenas.iter().find(|a| a.tier == "pinned").map(|a| a.bytes);
    assert!(over(&plan, "out") > 0 && over(&plan, "unpin") > 0);
    assert!(pinned.is_some_and(|used| used < 400 * MIB), "{pinned:?}");
}

#[test]
fn a_staging_memory_without_room_for_pieces_is_no_way() {
    let model = chain(&[MIB; 4], 1_000);
    let plain = machine(2 * MIB, (1 << 40, 20_000), None, 1_000);
    let refused = proved(&model, &staged(plain.clone(), 255, 30_000)).err();
    assert!(matches!(refused, Some(PlanError::Machine(CannotPlan::NoWay { .. }))));
    assert!(proved(&chain(&[64 * 1_024; 4], 1_000), &staged(plain.clone(), 256, 30_000)).is_ok());
    let refused = proved(&model, &staged(plain, 256, 30_000)).err();
    let Some(PlanError::Machine(CannotPlan::Narrow { tier, bytes, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!((tier.as_str(), bytes), ("pinned", 256));
}

/// What has an open size goes whole: where it is larger than what stages, nothing is put aside that way.
#[test]
fn what_cannot_be_cut_is_staged_whole_or_not_at_all() {
    let mut model = there_and_back(10, MIB);
    model.dims.insert("n".into(), DimRange { low: 1, high: MIB });
    for tensor in model.tensors.iter_mut().filter(|t| t.kind == Kind::Activation) {
        tensor.extent = Expr::dim("n");
    }
    let plain = machine(6 * MIB, (1 << 40, 4_000), None, 1_000);
    assert!(over(&proved(&model, &plain).expect("a plan"), "out") > 0);
    let plan = proved(&model, &staged(plain.clone(), 4 * MIB, 8_000)).expect("a plan");
    assert!(over(&plan, "unpin") > 0);
    let small = proved(&model, &staged(plain, 1_024, 8_000));
    assert!(matches!(small, Err(PlanError::NoRoom(_))), "{small:?}");
}

/// A memory that files and the device reach gives a part of itself to what comes from one behind it.
#[test]
fn a_memory_behind_another_is_used_by_way_of_it() {
    let model = chain(&[8 * MIB; 40], 1_000);
    let without = machine(64 * MIB, (100 * MIB, 20_000), None, 1_000);
    let mut with = machine(64 * MIB, (100 * MIB, 20_000), Some(10_000), 1_000);
    for link in &mut with.links {
        match link.name.as_str() {
            "cxl-in" => link.to = "dram".into(),
            "cxl-out" => link.from = "dram".into(),
            _ => {}
        }
    }
    let [one, two] = [without, with].map(|target| proved(&model, &target).expect("a plan"));
    assert_eq!(over(&two, "read") + over(&two, "cxl-read"), 0, "all weights are below");
    assert!(over(&two, "cxl-in") > 0 && over(&two, "in") > over(&two, "cxl-in"));
    assert!(two.timeline.step.0 * 4 < one.timeline.step.0, "{} after {}", two.timeline.step, one.timeline.step);
    assert!(two.timeline.step.0 * 100 <= two.bound.time.0 * 140, "{} of {}", two.timeline.step, two.bound.time);
}

/// Large weights pass through what they could not lie in beside what is kept there: more of the device makes no plan slower.
#[test]
fn the_largest_weights_may_stay_on_the_device_though_they_come_through_a_small_memory() {
    let mut weights = [4 * MIB; 40];
    (weights[0], weights[39]) = (36 * MIB, 36 * MIB);
    let model = chain(&weights, 1_000);
    let mut before = u64::MAX;
    for device in [64, 80, 100, 120, 140, 160] {
        let target = machine(device * MIB, (120 * MIB, 20_000), None, 2_000);
        let plan = proved(&model, &target).expect("a plan");
        // Nor does what then waits for its turn between the two.
        proved(&model, &staged(target, 4 * MIB, 30_000)).expect("a plan");
        let step = plan.timeline.step.0;
        assert!(step <= before, "{step} ns with {device} MiB, {before} with less");
        before = step;
    }
}

/// With room on the device for all weights it takes no step longer that the memory that they come through has room for one at a time.
#[test]
fn weights_reach_the_device_one_by_one_through_a_memory_with_room_for_one() {
    let mut weights = [4 * MIB; 40];
    weights[20] = 24 * MIB;
    let model = chain(&weights, 1_000);
    // Where nothing stays on the device the next one has come when the largest goes; a machine that has less is said to.
    let Err(PlanError::NoRoom(short)) = proved(&model, &machine(200 * MIB, (26 * MIB, 20_000), None, 2_000)) else {
        panic!("it is refused");
    };
    assert_eq!((short.room, short.least.bytes, short.below), (26 * MIB, 28 * MIB, true));
    for dram in [28, 30, 40, 60] {
        let plan = proved(&model, &machine(200 * MIB, (dram * MIB, 20_000), None, 2_000)).expect("a plan");
        assert_eq!((over(&plan, "read"), over(&plan, "in")), (0, 0), "with {dram} MiB");
    }
}

/// A little more of the memory below may be better used for what waits than for what stays.
#[test]
fn what_waits_below_may_take_all_of_it() {
    let model = chain(&[4 * MIB; 60], 1_000);
    let mut before = u64::MAX;
    for dram in [10, 14, 20, 26, 34, 50, 80] {
        let plan = proved(&model, &machine(12 * MIB, (dram * MIB, 4_000), None, 4_000)).expect("a plan");
        let step = plan.timeline.step.0;
        assert!(step <= before + before / SLOWER_PART, "{step} ns with {dram} MiB, {before} with less");
        assert!(dram < 20 || step * 10 < plan.bound.time.0 * 11, "{step} ns with {dram} MiB, {}", plan.bound.time.0);
        before = before.min(step);
    }
}

/// Layers of weights of unlike sizes pass through a memory below that holds a part of them: the more of them, the faster, and no room
/// is too much.
#[test]
fn a_larger_memory_below_is_faster_and_never_refused() {
    let layer = [32u64, 8, 8, 32, 112, 112, 112].map(|part| part * MIB / 8);
    let mut weights: Vec<u64> = layer.iter().copied().cycle().take(7 * 40).collect();
    weights.insert(0, 40 * MIB);
    weights.push(40 * MIB);
    let (model, total) = (chain(&weights, 1_000), weights.iter().sum::<u64>());
    let mut before = u64::MAX;
    for percent in (20..=100).step_by(8) {
        let target = machine(total / 4, (total * percent / 100, 20_000), None, 2_000);
        let plan = proved(&model, &target).unwrap_or_else(|e| panic!("{percent} %: {e}"));
        let step = plan.timeline.step.0;
        assert!(step <= before, "{step} ns with {percent} % of the weights below, {before} with less");
        before = step;
    }
}
