//! Reuse distances against a walk over all that lies between, which is what they mean.

use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::Kind;
use berth_ir::reuse::{Bucket, Gap, histogram};
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The gaps by their definition: each task of each gap is looked at, which takes a time quadratic in their lengths.
fn oracle(lifetimes: &Lifetimes) -> Vec<Gap> {
    let mut all = Vec::new();
    for (index, uses) in lifetimes.uses().iter().enumerate() {
        let tensor = TensorId(index as u32);
        for pair in uses.windows(2) {
            all.push(gap(lifetimes, tensor, pair[0], pair[1]));
        }
        let outlives = matches!(lifetimes.tensors[index].kind, Kind::Weight | Kind::State);
        if let (true, Some(first), Some(last)) = (outlives, uses.first(), uses.last()) {
            all.push(gap(lifetimes, tensor, *last, *first));
        }
    }
    all
}

fn gap(lifetimes: &Lifetimes, tensor: TensorId, after: usize, before: usize) -> Gap {
    let count = lifetimes.tasks.len();
    let tasks = (before + count - after - 1) % count;
    let (mut bytes, mut time) = (0u64, 0u64);
    let mut seen = BTreeSet::new();
    for step in 1..=tasks {
        let task = &lifetimes.tasks[(after + step) % count];
        time = time.saturating_add(task.cost.0);
        for t in task.operands().filter(|t| *t != tensor) {
            if seen.insert(t) {
                bytes = bytes.saturating_add(lifetimes.tensor(t).bytes);
            }
        }
    }
    Gap { tensor, after, before, tasks, bytes, time: Nanos(time) }
}

fn made(tensors: &[(Kind, u64)], tasks: &[(Vec<u32>, Vec<u32>, u64)]) -> Lifetimes {
    let tensor = |(n, (kind, bytes)): (usize, &(Kind, u64))| Tensor {
        name: format!("t{n}"),
        kind: *kind,
        dtype: DType::U8,
        extent: Expr::constant(*bytes),
        bytes: *bytes,
        home: None,
        aliases: Vec::new(),
    };
    let task = |(n, (reads, writes, cost)): (usize, &(Vec<u32>, Vec<u32>, u64))| Task {
        name: format!("task{n}"),
        ops: Vec::new(),
        reads: reads.iter().copied().map(TensorId).collect(),
        writes: writes.iter().copied().map(TensorId).collect(),
        workspace: 0,
        cost: Nanos(*cost),
        rows: Vec::new(),
        in_place: Vec::new(),
        others: Vec::new(),
        held: None,
    };
    Lifetimes {
        model: "made".to_owned(),
        dims: BTreeMap::new(),
        tensors: tensors.iter().enumerate().map(tensor).collect(),
        tasks: tasks.iter().enumerate().map(task).collect(),
    }
}

fn lifetimes() -> impl Strategy<Value = Lifetimes> {
    let kind = prop_oneof![Just(Kind::Weight), Just(Kind::State), Just(Kind::Input), Just(Kind::Activation)];
    // Sums of a few of the largest are more than 64 bits hold.
    let number = prop_oneof![1 => Just(0u64), 6 => 1u64..5_000, 1 => any::<u64>()];
    let tensors = prop::collection::vec((kind, number.clone()), 1..12);
    tensors.prop_flat_map(move |tensors| {
        let ids = 0..tensors.len() as u32;
        let some = prop::collection::btree_set(ids, 0..4).prop_map(|ids| ids.into_iter().collect::<Vec<u32>>());
        let tasks = prop::collection::vec((some.clone(), some, number.clone()), 0..24);
        tasks.prop_map(move |tasks| made(&tensors, &tasks))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, rng_seed: RngSeed::Fixed(1975), ..ProptestConfig::default() })]

    #[test]
    fn one_walk_finds_what_the_definition_says(lifetimes in lifetimes()) {
        prop_assert_eq!(lifetimes.gaps(), oracle(&lifetimes));
    }

    #[test]
    fn a_histogram_counts_each_gap(lifetimes in lifetimes()) {
        let histogram = histogram(&lifetimes);
        let gaps = oracle(&lifetimes);
        for (rows, weights) in [(&histogram.weights, true), (&histogram.others, false)] {
            let of = |gap: &&Gap| (lifetimes.tensor(gap.tensor).kind == Kind::Weight) == weights;
            let largest = gaps.iter().map(|gap| gap.bytes).max();
            prop_assert_eq!(rows.is_empty(), largest.is_none());
            prop_assert!(rows.last().is_none_or(|row| Some(row.up_to) >= largest));
            for row in rows {
                let caught: Vec<&Gap> = gaps.iter().filter(of).filter(|gap| gap.bytes <= row.up_to).collect();
                let bytes = caught.iter().map(|gap| lifetimes.tensor(gap.tensor).bytes);
                prop_assert_eq!(row.gaps, caught.len() as u64);
                prop_assert_eq!(row.tensor_bytes, bytes.fold(0, u64::saturating_add));
            }
        }
    }
}

/// Two weights of 3 KiB around an activation of 1 KiB: the step ends as it begins.
#[test]
fn a_histogram_says_what_a_cache_would_catch() {
    let tensors = [(Kind::Weight, 3 << 10), (Kind::Weight, 3 << 10), (Kind::Activation, 1 << 10)];
    let tasks = [(vec![0], vec![2], 1), (vec![1], vec![], 1), (vec![0, 2], vec![], 1)];
    let found = histogram(&made(&tensors, &tasks));
    let row = |up_to, gaps, tensor_bytes| Bucket { up_to, gaps, tensor_bytes };
    // The first weight comes again at once over the loop edge and after the second one within the step; the second one
    // comes again after both others.
    assert_eq!(found.weights, [row(1 << 10, 1, 3 << 10), row(2 << 10, 1, 3 << 10), row(4 << 10, 3, 9 << 10)]);
    assert_eq!(found.others, [row(1 << 10, 0, 0), row(2 << 10, 0, 0), row(4 << 10, 1, 1 << 10)]);
}

/// A hundred thousand tasks, of which every other one reads a weight of its own: all gaps are as long as the step. What
/// looks at each task of each gap takes minutes here.
#[test]
fn long_steps_take_no_quadratic_time() {
    const WEIGHTS: u32 = 50_000;
    let tensors: Vec<(Kind, u64)> = (0..WEIGHTS).map(|n| (Kind::Weight, u64::from(n))).collect();
    let tasks: Vec<_> = (0..2 * WEIGHTS).map(|n| (if n % 2 == 0 { vec![n / 2] } else { vec![] }, vec![], 1)).collect();
    let lifetimes = made(&tensors, &tasks);
    let start = Instant::now();
    let gaps = lifetimes.gaps();
    eprintln!("{} gaps of {} tasks: {:?}", gaps.len(), tasks.len(), start.elapsed());
    let all = u64::from(WEIGHTS) * u64::from(WEIGHTS - 1) / 2;
    assert_eq!(gaps.len(), WEIGHTS as usize);
    assert!(gaps.iter().zip(0..).all(|(gap, n)| gap.bytes == all - n && gap.tasks + 1 == tasks.len()));
}
