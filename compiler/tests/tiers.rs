//! Machines with several memories below the device: all of them are used, none makes a plan slower, and what is put aside
//! fills one before the next.

use berth_compiler::plan::{Plan, PlanError, plan};
use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::{Home, Instruction, Kind, Mode};
use berth_ir::target::{Link, Target};
use berth_ir::units::{Bytes, Nanos};
use berth_ir::{DType, Expr, verify};
use std::collections::BTreeMap;

const MIB: u64 = 1 << 20;

/// What counts as slower: searches that begin elsewhere may end a little elsewhere.
const SLOWER_PART: u64 = 100;

/// A model in the making.
struct Maker(Lifetimes);

impl Maker {
    fn new() -> Maker {
        Maker(Lifetimes { model: "made up".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] })
    }

    fn tensor(&mut self, kind: Kind, bytes: u64) -> TensorId {
        let n = self.0.tensors.len() as u64;
        let home = Home {
            tier: "nvme".into(),
            file: "w.bin".into(),
            offset: n << 32,
            transposed: None,
            strip: None,
            filled: None,
        };
        self.0.tensors.push(Tensor {
            name: format!("t{n}"),
            kind,
            dtype: DType::U8,
            extent: Expr::constant(bytes),
            bytes,
            home: (kind == Kind::Weight).then_some(home),
            aliases: vec![],
        });
        TensorId(n as u32)
    }

    fn task(&mut self, reads: &[TensorId], kind: Kind, bytes: u64, cost: u64) -> TensorId {
        let result = self.tensor(kind, bytes);
        let name = format!("task{}", self.0.tasks.len());
        self.0.tasks.push(Task {
            ops: vec![name.clone()],
            name,
            reads: reads.to_vec(),
            writes: vec![result],
            rows: vec![],
            in_place: vec![],
            workspace: 0,
            cost: Nanos(cost),
            others: vec![],
            held: None,
        });
        result
    }
}

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
