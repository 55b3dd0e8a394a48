//! Two engines: the plan's assignment of tasks against all assignments of small models, and where each engine's own work
//! says little.

#[path = "common/maker.rs"]
mod maker;

use berth_compiler::baseline::{ngl, planned_by};
use berth_compiler::plan::{Plan, plan};
use berth_ir::lifetime::{Lifetimes, Other};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Target;
use berth_ir::units::Nanos;
use berth_ir::verify;
use maker::Maker;

/// Models that all assignments are tried of, and their tasks.
const MODELS: u64 = 16;
const TASKS: usize = 6;

/// Models of which the plan may be more than a part longer than the best, and that part.
const MISSED: usize = 1;
const PART: u64 = 33;

/// Longer than any other step.
const FOREVER: Nanos = Nanos(1_000_000_000_000);

/// Random numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % n
    }
}

/// A device of so many bytes and cores in the memory below, joined by links of so many MB/s and microseconds each way.
fn machine(device: u64, below: u64, rate: [u64; 2], latency: [u64; 2]) -> Target {
    let text = format!(
        r#"(name: "m", source: "made up", tiers: [
            (name: "device", capacity: "{device}B", bandwidth: "400GB/s", alignment: 64),
            (name: "dram", capacity: "{below}B", bandwidth: "100GB/s", alignment: 64),
            (name: "nvme", capacity: "1TiB", bandwidth: "10GB/s", alignment: 4096, files: true)],
        engines: [
            (name: "gpu", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us"),
            (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "1us")],
        links: [
            (name: "in", from: "dram", to: "device", rate: "{}MB/s", latency: "{}us", chunk: "1MiB"),
            (name: "out", from: "device", to: "dram", rate: "{}MB/s", latency: "{}us", chunk: "1MiB"),
            (name: "read", from: "nvme", to: "dram", rate: "1GB/s", latency: "50us", chunk: "1MiB")])"#,
        rate[0], latency[0], rate[1], latency[1]
    );
    Target::from_ron(&text).expect("a machine")
}

fn proved(lifetimes: &Lifetimes, target: &Target) -> Plan {
    let plan = plan(lifetimes, target, Mode::Loop).expect("a plan");
    let verified = verify::verify(target, plan.program.clone(), None);
    assert!(verified.is_ok(), "{:?}", verified.err());
    assert!(plan.bound.time <= plan.timeline.step, "{} beats {}", plan.timeline.step, plan.bound.time);
    let ruled = planned_by(ngl, lifetimes, target, Mode::Loop).map_or(FOREVER, |ruled| ruled.timeline.step);
    assert!(plan.timeline.step <= ruled, "a static split takes {ruled}, the plan {}", plan.timeline.step);
    plan
}

/// Lets the cores run every task in these times.
fn with_cores(mut lifetimes: Lifetimes, times: impl Fn(usize) -> u64) -> Lifetimes {
    for (n, task) in lifetimes.tasks.iter_mut().enumerate() {
        task.others = vec![Other { engine: "cores".into(), workspace: 0, cost: Nanos(times(n)) }];
    }
    lifetimes
}

/// Tasks that read results before them and a weight each.
fn random(dice: &mut Dice) -> Lifetimes {
    let mut made = Maker::new();
    let mut results = vec![made.tensor(Kind::Input, 4096)];
    for n in 0..TASKS {
        let weight = made.tensor(Kind::Weight, 64 << dice.below(14));
        let mut reads = vec![results[n], weight];
        let other = results[dice.below(n as u64 + 1) as usize];
        if other != reads[0] {
            reads.push(other);
        }
        let kind = if n + 1 == TASKS { Kind::Output } else { Kind::Activation };
        results.push(made.task(&reads, kind, 64 << dice.below(10), 1_000 + dice.below(60_000)));
    }
    let times: Vec<u64> = (0..TASKS).map(|_| 1_000 + dice.below(60_000)).collect();
    with_cores(made.0, |n| times[n])
}

/// A row of tasks with a weight of 16 KiB each, which take so long on the device and on the cores.
fn chain(device: u64, cores: u64) -> Lifetimes {
    let mut made = Maker::new();
    let mut last = made.tensor(Kind::Input, 256);
    for n in 0..80 {
        let weight = made.tensor(Kind::Weight, 16 << 10);
        let kind = if n == 79 { Kind::Output } else { Kind::Activation };
        last = made.task(&[last, weight], kind, 256, device);
    }
    with_cores(made.0, |_| cores)
}

/// The step of the best assignment: where a task may not go it takes for ever, or is not allowed.
fn best_of_all(lifetimes: &Lifetimes, target: &Target) -> Nanos {
    let steps = (0..1u32 << TASKS).map(|set| {
        let mut fixed = lifetimes.clone();
        for (n, task) in fixed.tasks.iter_mut().enumerate() {
            match set >> n & 1 {
                0 => task.others.clear(),
                _ => task.cost = FOREVER,
            }
        }
        plan(&fixed, target, Mode::Loop).map_or(FOREVER, |plan| plan.timeline.step)
    });
    steps.min().expect("assignments")
}

#[test]
fn plans_of_small_models_are_near_the_best_of_all_assignments() {
    let mut missed = Vec::new();
    for seed in 0..MODELS {
        let mut dice = Dice(seed);
        let lifetimes = random(&mut dice);
        let weights = lifetimes.total(Kind::Weight);
        let operands =
            lifetimes.tasks.iter().map(|t| t.operands().map(|o| lifetimes.tensor(o).bytes.next_multiple_of(64)).sum());
        let largest: u64 = operands.max().expect("tasks");
        // Room for all, or a part; latencies that make crossings dear, or not.
        let device = 2 * largest + weights * dice.below(5) / 4;
        let latency = [dice.below(30), dice.below(30)];
        let rate = [500 << dice.below(5), 500 << dice.below(5)];
        let target = machine(device, 1 << 30, rate, latency);
        let (found, best) = (proved(&lifetimes, &target).timeline.step, best_of_all(&lifetimes, &target));
        if found.0 > best.0 + best.0 / PART {
            missed.push((seed, found, best));
        }
    }
    println!("{} of {MODELS} are missed: {missed:?}", missed.len());
    assert!(missed.len() <= MISSED, "{missed:?}");
}

/// A chain whose tasks the cores run in a quarter of the device's time, where a crossing takes longer than any task: nothing
/// is won by moving a few of them.
#[test]
fn all_tasks_move_where_few_would_not_pay() {
    let lifetimes = chain(20_000, 5_000);
    for device in [2 << 20, 256 << 10, 40 << 10] {
        let plan = proved(&lifetimes, &machine(device, 1 << 30, [10_000; 2], [100; 2]));
        let least = 80 * 5_000;
        assert!(plan.timeline.step.0 < least + least / 10, "{device}: {}", plan.timeline.step);
    }
}

/// The device computes a hundred times as fast and holds a fourth of the weights: that stretch of tasks runs there.
#[test]
fn the_device_gets_a_stretch_whose_weights_it_holds() {
    let lifetimes = chain(100, 10_000);
    // Weights would take 16 us each over the link.
    let plan = proved(&lifetimes, &machine(330 << 10, 1 << 30, [1_000; 2], [20; 2]));
    let all = 80 * 10_000;
    assert!(plan.timeline.step.0 < all - all / 5, "{}", plan.timeline.step);
    // So does the device where the memory below has no room for more than some of them.
    let plan = proved(&lifetimes, &machine(700 << 10, 700 << 10, [1_000; 2], [20; 2]));
    assert!(plan.timeline.step.0 < all * 2 / 3, "{}", plan.timeline.step);
}
