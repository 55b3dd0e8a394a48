//! Orders of random graphs: small ones hold exactly what the best of all orders holds, large ones never more than the
//! given order; every order keeps what it must keep, and no bound is above what some order holds.

mod exact;
mod graphs;

use berth_compiler::order::{Bound, EFFORT, Ordered, Witness, order, order_after};
use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::Kind;
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use exact::{Exact, least};
use graphs::FAMILIES;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use std::collections::BTreeMap;

/// Most tasks of graphs that are compared with brute force.
const SMALL: usize = 14;

/// How the tasks of a graph hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Chain,
    /// Each result is read once.
    Tree,
    /// Each task feeds several.
    OutTree,
    /// Branches that fork and join, inside each other.
    SeriesParallel,
    /// Each reads what it likes.
    Any,
    /// Each reads of the few before it.
    Layers,
    /// Tasks write over each other's tensors.
    States,
}

const FORMS: [Form; 7] =
    [Form::Chain, Form::Tree, Form::OutTree, Form::SeriesParallel, Form::Any, Form::Layers, Form::States];

/// What one task is made of; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
struct Seed {
    picks: Vec<usize>,
    bytes: Vec<u64>,
    workspace: u64,
}

fn seeds(tasks: std::ops::Range<usize>) -> impl Strategy<Value = (Form, Vec<Seed>)> {
    let size = prop_oneof![1 => Just(0u64), 4 => 1u64..10, 4 => 10u64..200, 1 => 200u64..2_000];
    let workspace = prop_oneof![3 => Just(0u64), 1 => 1u64..300];
    let seed = (prop::collection::vec(0usize..1 << 16, 1..4), prop::collection::vec(size, 1..3), workspace);
    let seed = seed.prop_map(|(picks, bytes, workspace)| Seed { picks, bytes, workspace });
    (prop::sample::select(FORMS.to_vec()), prop::collection::vec(seed, tasks))
}

fn tensor(all: &mut Lifetimes, kind: Kind, bytes: u64) -> TensorId {
    let name = format!("t{}", all.tensors.len());
    let extent = Expr::constant(bytes);
    all.tensors.push(Tensor { name, kind, dtype: DType::U8, extent, bytes, home: None, aliases: vec![] });
    TensorId(all.tensors.len() as u32 - 1)
}

fn task(all: &mut Lifetimes, reads: Vec<TensorId>, writes: Vec<TensorId>, workspace: u64) {
    let name = format!("task{}", all.tasks.len());
    let (ops, cost) = (vec![name.clone()], Nanos(1));
    all.tasks.push(Task {
        name,
        ops,
        reads,
        writes,
        rows: vec![],
        in_place: vec![],
        workspace,
        cost,
        others: vec![],
        held: None,
    });
}

/// A graph of a form; the order is that in which its tasks were thought of.
fn lifetimes(form: Form, seeds: &[Seed]) -> Lifetimes {
    let mut all = Lifetimes { model: "random".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
    let weight = tensor(&mut all, Kind::Weight, 1 << 20);
    let input = tensor(&mut all, Kind::Input, seeds[0].bytes[0]);
    let state = tensor(&mut all, Kind::State, 5);
    // Results that none has read yet, the newest last; where a branch forked, what its join will read.
    let (mut open, mut forks) = (vec![input], Vec::new());
    let mut results = vec![input];
    for (n, seed) in seeds.iter().enumerate() {
        let pick = |of: &[TensorId], k: usize| of[seed.picks[k % seed.picks.len()] % of.len()];
        let mut reads = match form {
            Form::Chain => vec![*results.last().expect("an input")],
            Form::Tree if seed.picks[0] % 3 == 0 => Vec::new(),
            Form::Tree => (0..seed.picks.len()).filter_map(|_| open.pop()).collect(),
            Form::OutTree => vec![pick(&results, 0)],
            Form::SeriesParallel => match seed.picks[0] % 3 {
                // A new branch from the fork that is open, or a fork.
                0 => vec![*forks.last().unwrap_or(&input)],
                1 if open.len() > 1 => {
                    forks.pop();
                    open.split_off(open.len() - 2)
                }
                _ => {
                    let last = *open.last().unwrap_or(&input);
                    forks.push(last);
                    vec![last]
                }
            },
            Form::Any | Form::States => (0..seed.picks.len()).map(|k| pick(&results, k)).collect(),
            Form::Layers => {
                (0..seed.picks.len()).map(|k| pick(&results[results.len().saturating_sub(6)..], k)).collect()
            }
        };
        reads.sort();
        reads.dedup();
        open.retain(|t| !reads.contains(t));
        let kind = if n % 5 == 4 { Kind::Output } else { Kind::Activation };
        let mut writes: Vec<TensorId> = seed.bytes.iter().map(|bytes| tensor(&mut all, kind, *bytes)).collect();
        if form == Form::Tree {
            writes.truncate(1);
        }
        open.push(writes[0]);
        results.extend(&writes);
        if form == Form::States {
            match seed.picks[0] % 4 {
                0 => reads.push(state),
                1 => writes.push(state),
                2 if n > 1 => writes.push(pick(&results[1..results.len() - writes.len()], 0)),
                _ => {}
            }
        }
        if seed.workspace % 2 == 0 {
            reads.push(weight);
        }
        task(&mut all, reads, writes, seed.workspace);
    }
    all
}

/// The least peak of all orders.
fn brute_force(all: &Lifetimes) -> u64 {
    match least(all, peak(all), usize::MAX) {
        Some(Exact::Least(least)) => least,
        other => panic!("{other:?} for {} tasks", all.tasks.len()),
    }
}

fn peak(all: &Lifetimes) -> u64 {
    all.load().into_iter().max().unwrap_or(0)
}

/// An order is a permutation that keeps dependencies, with the peaks that it says, not above the given one.
fn check(given: &Lifetimes, ordered: &Ordered) -> Result<(), TestCaseError> {
    let mut place = vec![usize::MAX; given.tasks.len()];
    prop_assert_eq!(ordered.tasks.len(), given.tasks.len());
    for (at, task) in ordered.tasks.iter().enumerate() {
        prop_assert_eq!(std::mem::replace(&mut place[*task], at), usize::MAX, "a task stands twice");
        prop_assert_eq!(&ordered.lifetimes.tasks[at], &given.tasks[*task]);
    }
    prop_assert_eq!(&ordered.lifetimes.tensors, &given.tensors);
    let mut last: Vec<(Option<usize>, Vec<usize>)> = vec![(None, vec![]); given.tensors.len()];
    for (n, task) in given.tasks.iter().enumerate() {
        for read in &task.reads {
            let writer = last[read.index()].0;
            prop_assert!(writer.is_none_or(|w| place[w] < place[n]), "task {} reads too early", n);
            last[read.index()].1.push(n);
        }
        for written in &task.writes {
            let (writer, readers) = std::mem::replace(&mut last[written.index()], (Some(n), vec![]));
            let earlier = writer.into_iter().chain(readers).filter(|m| *m != n);
            prop_assert!(earlier.into_iter().all(|m| place[m] < place[n]), "task {} writes too early", n);
        }
    }
    prop_assert_eq!((peak(given), peak(&ordered.lifetimes)), (ordered.before, ordered.after));
    prop_assert!(ordered.bound.bytes <= ordered.after && ordered.after <= ordered.before);
    if ordered.after == ordered.before {
        prop_assert!(ordered.tasks.is_sorted(), "an order that wins nothing");
    }
    if let Bound { bytes, witness: Witness::Task { name, tensors } } = &ordered.bound {
        let task = given.tasks.iter().find(|t| t.name == *name).expect("its task");
        let sum = tensors.iter().map(|t| given.tensor(*t).bytes).sum::<u64>() + task.workspace;
        prop_assert_eq!(*bytes, sum, "the witness does not add up");
    }
    if let Bound { bytes, witness: Witness::Cut { name, done } } = &ordered.bound {
        let is_done = |n: usize| done.contains(&given.tasks[n].name);
        let next = given.tasks.iter().position(|t| t.name == *name).expect("its task");
        prop_assert!(!is_done(next), "it is done already");
        let begun = |uses: &[usize]| uses.iter().any(|n| *n == next || is_done(*n));
        let kept = |uses: &[usize]| uses.iter().any(|n| *n == next || !is_done(*n));
        let all = given.uses();
        let held = given.tensors.iter().zip(all.iter()).filter(|(t, _)| t.kind != Kind::Weight);
        let held = held.filter(|(t, uses)| t.kind == Kind::State && !uses.is_empty() || begun(uses) && kept(uses));
        let sum = held.map(|(t, _)| t.bytes).sum::<u64>() + given.tasks[next].workspace;
        prop_assert_eq!(*bytes, sum, "the cut does not add up");
    }
    Ok(())
}

fn fixed(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(0xBE27), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(fixed(2_000))]

    #[test]
    fn small_graphs_hold_what_the_best_of_all_orders_holds((form, seeds) in seeds(1..SMALL - 3)) {
        let given = lifetimes(form, &seeds);
        let ordered = order(&given, EFFORT);
        check(&given, &ordered)?;
        let least = brute_force(&given);
        prop_assert_eq!(ordered.after, least, "{:?}", form);
        prop_assert_eq!(ordered.bound.bytes, least, "{:?}: the bound has a gap", form);
    }

    #[test]
    fn little_effort_gives_orders_that_are_allowed((form, seeds) in seeds(1..SMALL - 5), effort in 0u64..2_000) {
        let given = lifetimes(form, &seeds);
        let ordered = order(&given, effort);
        check(&given, &ordered)?;
        let least = brute_force(&given);
        prop_assert!(ordered.bound.bytes <= least && least <= ordered.after, "{:?}", form);
    }
}

proptest! {
    #![proptest_config(fixed(150))]

    #[test]
    fn graphs_of_fourteen_tasks_too((form, seeds) in seeds(SMALL - 3..SMALL + 1)) {
        let given = lifetimes(form, &seeds);
        let ordered = order(&given, EFFORT);
        check(&given, &ordered)?;
        let least = brute_force(&given);
        prop_assert_eq!((ordered.after, ordered.bound.bytes), (least, least), "{:?}", form);
    }

    #[test]
    fn large_graphs_never_hold_more((form, seeds) in seeds(20..300), effort in 0u64..200_000) {
        let given = lifetimes(form, &seeds);
        let ordered = order(&given, effort);
        check(&given, &ordered)?;
        prop_assert_eq!(order(&given, effort), ordered, "not the same twice");
    }
}

/// Checks each family at some sizes; of those where a plain search ends, how far the worst is above the least, in parts of
/// a thousand, and how many there are.
fn worst_gap(sizes: &[usize], seeds: std::ops::Range<u64>, sets_max: usize) -> (u64, usize) {
    let (mut worst, mut ended) = (0, 0);
    for (name, family) in FAMILIES {
        for (size, seed) in sizes.iter().flat_map(|size| seeds.clone().map(move |seed| (*size, seed))) {
            let given = family(size, seed);
            let ordered = order(&given, EFFORT);
            check(&given, &ordered).unwrap_or_else(|e| panic!("{name} of {size} tasks, seed {seed}: {e}"));
            match least(&given, ordered.after, sets_max) {
                Some(Exact::Least(least)) => {
                    assert!(ordered.bound.bytes <= least, "{name} of {size} tasks, seed {seed}: the bound is none");
                    worst = worst.max((1_000 * (ordered.after - least)).div_ceil(least.max(1)));
                    ended += 1;
                }
                Some(Exact::AtLeast(_)) | None => {}
            }
        }
    }
    (worst, ended)
}

#[test]
fn families_of_graphs_hold_the_least_where_it_can_be_found_plainly() {
    // Up to fourteen tasks always; of larger ones within a fiftieth, and here in fact nothing.
    let all = FAMILIES.len();
    assert_eq!(worst_gap(&[6, 10], 0..6, usize::MAX), (0, 12 * all));
    let (worst, ended) = worst_gap(&[20, 28, 36], 0..2, 30_000);
    assert_eq!(worst, 0);
    assert!(ended > 5 * all, "only {ended} of {} could be compared", 6 * all);
}

#[test]
fn what_tensors_do_not_say_is_kept() {
    // The second branch alone would be best first.
    let mut all = Lifetimes { model: "m".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
    let [a, b, c, d] = [1, 100, 50, 1].map(|bytes| tensor(&mut all, Kind::Activation, bytes));
    task(&mut all, vec![], vec![a], 90);
    task(&mut all, vec![a], vec![b], 0);
    task(&mut all, vec![], vec![c], 90);
    task(&mut all, vec![c], vec![d], 0);
    task(&mut all, vec![b, d], vec![], 0);
    let free = order(&all, EFFORT);
    assert_eq!((free.before, free.after, free.bound.bytes), (240, 140, 140));
    let kept = order_after(&all, &[(1, 2)], EFFORT);
    assert_eq!((kept.after, kept.bound.bytes, kept.tasks), (240, 240, vec![0, 1, 2, 3, 4]));
}

#[test]
fn nothing_to_run_holds_nothing() {
    let all = Lifetimes { model: "m".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
    let ordered = order(&all, EFFORT);
    assert_eq!((ordered.after, ordered.bound), (0, Bound { bytes: 0, witness: Witness::Empty }));
}
