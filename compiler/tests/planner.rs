//! Random lifetimes on random machines: every plan that is made is safe and within its caps, whoever makes it; a byte
//! less than the least is refused; what was put aside comes back.

use berth_compiler::baseline::{look_ahead, lru};
use berth_compiler::offset::pack;
use berth_compiler::plan::{Plan, PlanError, extremes, plan};
use berth_compiler::stay::{Arrival, Level, Stay};
use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::{Home, Kind, Mode};
use berth_ir::units::{Bytes, Nanos};
use berth_ir::{DType, Expr, Target, verify};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeMap;

/// What a task is made of; indexes are taken modulo what there is.
#[derive(Clone, Debug)]
struct Seed {
    weights: Vec<usize>,
    values: Vec<usize>,
    results: Vec<u64>,
    workspace: u64,
    cost: u64,
}

fn seeds() -> impl Strategy<Value = (Vec<u64>, Vec<u64>, Vec<Seed>)> {
    let size = prop_oneof![1 => Just(0u64), 3 => 1u64..200, 3 => 200u64..5_000, 2 => 5_000u64..100_000];
    let task = (
        prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        prop::collection::vec(size.clone(), 1..3),
        prop_oneof![3 => Just(0u64), 1 => 1u64..3_000],
        1u64..50_000,
    );
    let seed = task.prop_map(|(weights, values, results, workspace, cost)| Seed {
        weights: weights.into_iter().map(|i| i.index(1 << 16)).collect(),
        values: values.into_iter().map(|i| i.index(1 << 16)).collect(),
        results,
        workspace,
        cost,
    });
    (prop::collection::vec(size.clone(), 0..12), prop::collection::vec(size, 0..3), prop::collection::vec(seed, 1..24))
}

/// Lifetimes of a graph in which each result is written once, and what nobody reads at the end is an output or dead.
fn lifetimes((weights, inputs, tasks): &(Vec<u64>, Vec<u64>, Vec<Seed>)) -> Lifetimes {
    let mut all = Lifetimes { model: "random".into(), dims: BTreeMap::new(), tensors: Vec::new(), tasks: Vec::new() };
    let add = |tensors: &mut Vec<Tensor>, name: String, kind: Kind, bytes: u64, offset: Option<u64>| {
        let home =
            offset.map(|offset| Home { tier: "nvme".into(), file: "w".into(), offset, transposed: None, filled: None });
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
        });
    }
    all
}

const MACHINE: &str = r#"(name: "m", source: "made up",
    tiers: [
        (name: "device", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64),
        (name: "dram", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64, on_request: true),
        (name: "nvme", capacity: "1TiB", bandwidth: "1GB/s", alignment: 4096, files: true),
    ],
    engines: [(name: "e", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us")],
    links: [
        DIRECT
        (name: "up", from: "nvme", to: "dram", rate: "1GB/s", latency: "10us", chunk: "1MiB"),
        (name: "in", from: "dram", to: "device", rate: "5GB/s", latency: "1us", chunk: "1MiB"),
        (name: "out", from: "device", to: "dram", rate: "5GB/s", latency: "1us", chunk: "1MiB"),
    ])"#;
const DIRECT: &str = r#"(name: "read", from: "nvme", to: "device", rate: "1GB/s", latency: "10us", chunk: "1MiB"),"#;

fn machine(direct: bool, memory: &[(&str, u64)]) -> Target {
    let text = MACHINE.replace("DIRECT", if direct { DIRECT } else { "" });
    let budgets = memory.iter().map(|(t, b)| ((*t).to_owned(), Bytes(*b))).collect();
    Target::from_ron(&text).expect("a machine").budgeted(&budgets)
}

fn check(target: &Target, plan: &Plan, who: &str) -> Result<(), TestCaseError> {
    for (tier, peak) in &plan.program.facts.peaks {
        let room = target.tier(tier).expect("a tier").room().0;
        prop_assert!(*peak <= room, "{who}: {peak} bytes of {tier}, which has {room}");
    }
    if let Err(found) = verify(target, plan.program.clone(), None) {
        let text = berth_ir::text::print(&plan.program);
        return Err(TestCaseError::fail(format!("{who}: {}\n{text}", found[0])));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, rng_seed: RngSeed::Fixed(2026), ..ProptestConfig::default() })]

    #[test]
    fn plans_are_safe_and_within_their_caps(seed in seeds(), share in 0u64..=100, lower in prop::option::of(0u64..300_000), direct: bool) {
        let lifetimes = lifetimes(&seed);
        // Without a direct link all weights stand in the lower memory.
        let lower = if direct { lower } else { Some(1 << 29) };
        let below: Vec<(&str, u64)> = lower.map(|b| ("dram", b)).into_iter().collect();
        let (least, full) = extremes(&lifetimes, &machine(direct, &below)).expect("it can be planned");
        prop_assert!(least.bound <= least.bytes && least.bytes <= full.max(least.bytes));
        let bytes = least.bytes + full.saturating_sub(least.bytes) * share / 100;
        let capped = |bytes: u64| machine(direct, &[&[("device", bytes)], below.as_slice()].concat());
        let target = capped(bytes);
        for mode in [Mode::Loop, Mode::Once] {
            let made = plan(&lifetimes, &target, mode).map_err(|e| TestCaseError::fail(format!("{mode:?} at {bytes}: {e}")))?;
            check(&target, &made, "berth")?;
            for (who, other) in [("look-ahead", look_ahead(&lifetimes, &target, mode)), ("LRU", lru(&lifetimes, &target, mode))] {
                if let Some(other) = other {
                    check(&target, &other, who)?;
                    // Once steps repeat. Half a percent, and the nanoseconds that rounding makes of the smallest steps.
                    let (ours, theirs) = (made.timeline.step.0, other.timeline.step.0);
                    prop_assert!(mode == Mode::Once || who == "LRU" || ours <= theirs + theirs / 200 + 10, "{who} is faster: {theirs} < {ours}");
                }
            }
        }
        if least.bytes > 0 {
            let refused = plan(&lifetimes, &capped(least.bytes - 1), Mode::Loop);
            prop_assert!(matches!(refused, Err(PlanError::NoRoom(_))), "a byte less than {} was planned", least.bytes);
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
            arrives: Arrival::Feed,
            uses: Vec::new(),
            fetched: false,
            bytes: *bytes,
        }).collect();
        let refs: Vec<&Stay> = stays.iter().collect();
        let offsets = pack(&refs, 40, 64, u64::MAX);
        // Straight from what a stay means: the positions of a step, one by one.
        let holds = |s: &Stay, p: i64| s.forever || (s.from <= p && p <= s.to) || (s.from <= p - 40 && p - 40 <= s.to);
        for (i, a) in stays.iter().enumerate() {
            prop_assert!(offsets.at[i].is_multiple_of(64) && offsets.at[i] + a.bytes <= offsets.height);
            for (j, b) in stays.iter().enumerate().skip(i + 1) {
                let together = (0..40).any(|p| holds(a, p) && holds(b, p));
                let share = offsets.at[i] < offsets.at[j] + b.bytes && offsets.at[j] < offsets.at[i] + a.bytes;
                prop_assert!(!(together && share), "{i} and {j} share bytes");
            }
        }
    }
}
