//! Operators that run once more in a graph: what may, what reads it then, and what is said of a list that does not fit.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import;
use berth_compiler::lower::{Lowered, exactly, lower};
use berth_compiler::plan::plan;
use berth_compiler::recompute::{Wanted, chosen, put};
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, Op, ValueId};
use berth_ir::program::{Mode, Recompute};
use berth_ir::units::BytesPerSec;
use berth_ir::{DType, Target, verify};
use build::Builder;

fn graph(name: &str, b: &Builder) -> Graph {
    let path = std::env::temp_dir().join(format!("berth-recompute-{name}-{}.onnx", std::process::id()));
    std::fs::write(&path, b.bytes()).expect("a model");
    let graph = import::open(&path).expect("it opens").graph(&Binding::new()).expect("a graph");
    std::fs::remove_file(&path).expect("it was there");
    graph
}

fn by_kind<'a>(graph: &'a Graph, kind: &str) -> Vec<&'a Op> {
    graph.ops.iter().filter(|op| op.kind == kind).collect()
}

fn again(op: &Op, readers: &[&Op]) -> Recompute {
    Recompute { op: op.name.clone(), readers: readers.iter().map(|op| op.name.clone()).collect() }
}

/// The operator that makes a value.
fn maker(graph: &Graph, value: Option<ValueId>) -> &Op {
    graph.ops.iter().find(|op| op.outputs.contains(&value)).expect("somebody makes it")
}

fn two_readers(first: &str) -> Builder {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["4", "6"]).ints("flat", &[24]);
    b.node(first, &["x"], &["r"], vec![]).node("Sin", &["r"], &["s"], vec![]);
    b.node("Reshape", &["r", "flat"], &["v"], vec![]).node("Reshape", &["s", "flat"], &["w"], vec![]);
    b.node("Sub", &["w", "v"], &["d"], vec![]).node("Mul", &["v", "d"], &["y"], vec![]);
    b.output("y");
    b
}

#[test]
fn readers_read_the_second_run_through_views_of_their_own() {
    let graph = graph("views", &two_readers("Cos"));
    let (cos, sub, mul) = (by_kind(&graph, "Cos")[0], by_kind(&graph, "Sub")[0], by_kind(&graph, "Mul")[0]);
    let other = put(&graph, &[again(cos, &[sub, mul])]).expect("both come after it");
    let copies = by_kind(&other, "Cos");
    assert_eq!(copies.len(), 2);
    assert_eq!(copies[0].inputs, copies[1].inputs, "on the same operand");
    // The first runs for the operator that it was not said to run again for.
    assert_eq!(by_kind(&other, "Sin")[0].inputs[0], copies[0].outputs[0]);
    let (sub, mul) = (by_kind(&other, "Sub")[0], by_kind(&other, "Mul")[0]);
    assert_eq!(sub.inputs[1], mul.inputs[0], "one view for both");
    let view = maker(&other, sub.inputs[1]);
    assert_eq!((view.kind.as_str(), view.inputs[0]), ("Reshape", copies[1].outputs[0]));
    // It stands right before the first of them, and what reads stands behind what is read.
    let at = |op: &Op| other.ops.iter().position(|o| o.name == op.name).expect("it is there");
    assert_eq!((at(copies[1]), at(view)), (at(sub) - 2, at(sub) - 1));
    let names: std::collections::BTreeSet<&str> = other.ops.iter().map(|op| op.name.as_str()).collect();
    assert_eq!(names.len(), other.ops.len(), "no two have one name");
    // A copy can itself be run once more.
    let third = put(&graph, &[again(cos, &[sub, mul]), again(copies[1], &[mul])]).expect("by the copy's name");
    assert_eq!(by_kind(&third, "Cos").len(), 3);
}

#[test]
fn what_cannot_run_again_is_refused_in_words() {
    let (plain, random) = (graph("plain", &two_readers("Cos")), graph("chance", &two_readers("RandomNormalLike")));
    let (cos, sin, sub) = (by_kind(&plain, "Cos")[0], by_kind(&plain, "Sin")[0], by_kind(&plain, "Sub")[0]);
    let (view, mul) = (by_kind(&plain, "Reshape")[0], by_kind(&plain, "Mul")[0]);
    let nobody = Op { name: "nobody".to_owned(), ..cos.clone() };
    let chance = by_kind(&random, "RandomNormalLike")[0];
    for (graph, one, words) in [
        (&plain, again(&nobody, &[sub]), "which the model does not have"),
        (&plain, again(cos, &[&nobody]), "do not all come after it"),
        (&plain, again(cos, &[]), "do not all come after it"),
        (&plain, again(sub, &[sin]), "do not all come after it"),
        (&plain, again(sin, &[mul]), "does not read what it makes"),
        (&plain, again(view, &[sub]), "may give something else the second time"),
        (&random, again(chance, &[by_kind(&random, "Sub")[0]]), "may give something else the second time"),
    ] {
        let said = put(graph, std::slice::from_ref(&one)).expect_err("it is refused").to_string();
        assert!(said.contains(words) && said.contains(&one.op), "{one:?}: {said}");
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// Rows and what is made of them: wide results of one row, of one result, of two; views in between; readers near and far.
fn random(seed: u64) -> Builder {
    let dice = &mut Dice(seed);
    let mut b = Builder::new(17);
    b.ints("wide", &[16, 64]).ints("flat", &[1024]).input("row", DType::F32, &["1", "64"]);
    b.node("Exp", &["row"], &["r0"], vec![]);
    let (mut rows, mut results) = (vec!["row".to_owned(), "r0".to_owned()], Vec::<String>::new());
    for n in 0..6 + dice.below(30) {
        let name = format!("v{n}");
        let result = |dice: &mut Dice| match results.len() {
            0 => None,
            // Mostly what was made last, now and then anything.
            count if dice.below(3) > 0 => Some(results[count - 1 - dice.below(count.min(3))].clone()),
            count => Some(results[dice.below(count)].clone()),
        };
        let (first, second) = (result(dice), result(dice));
        let row = rows[dice.below(rows.len())].clone();
        match (dice.below(8), first, second) {
            (0, ..) => {
                b.node("Tanh", &[&row], &[&name], vec![]);
                rows.push(name);
                continue;
            }
            (1..=4, Some(first), Some(second)) => {
                let kind = ["Add", "Sub", "Mul", "Max"][dice.below(4)];
                b.node(kind, &[&first, &second], &[&name], vec![])
            }
            (5, Some(first), _) => {
                let flat = format!("{name}_flat");
                b.node("Reshape", &[&first, "flat"], &[&flat], vec![]).node(
                    "Sin",
                    &[&flat],
                    &[&flat.replace("flat", "s")],
                    vec![],
                );
                b.node("Reshape", &[&flat.replace("flat", "s"), "wide"], &[&name], vec![])
            }
            (6, Some(first), _) => b.node("Cos", &[&first], &[&name], vec![]),
            _ => b.node("Expand", &[&row, "wide"], &[&name], vec![]),
        };
        results.push(name);
    }
    let last = results.last().cloned().unwrap_or_else(|| "r0".to_owned());
    b.output(&last);
    if let Some(other) = results.get(dice.below(results.len().max(1))).filter(|other| **other != last) {
        b.output(other);
    }
    b
}

/// What each output is computed of, whoever computes it.
fn meaning(graph: &Graph) -> Vec<u64> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let hash = |of: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        of(&mut hasher);
        hasher.finish()
    };
    let named = |id: &ValueId| hash(&|h| graph.value(*id).name.hash(h));
    let mut known: std::collections::HashMap<ValueId, u64> = std::collections::HashMap::new();
    for op in &graph.ops {
        let of = |id: &ValueId| known.get(id).copied().unwrap_or_else(|| named(id));
        let inputs: Vec<Option<u64>> = op.inputs.iter().map(|id| id.as_ref().map(of)).collect();
        let meaning = hash(&|h| (&op.kind, format!("{:?}", op.attributes), &inputs).hash(h));
        known.extend(op.outputs.iter().flatten().map(|id| (*id, meaning)));
    }
    graph.outputs.iter().map(|id| known.get(id).copied().unwrap_or_else(|| named(id))).collect()
}

#[test]
fn what_is_chosen_computes_the_same_in_less() {
    let target = Target::from_ron(include_str!("../../targets/host.ron")).expect("the preset");
    let lowered = |graph: &Graph| lower(graph, &exactly(&Binding::new()), &target, &|_, _, _| None).expect("it lowers");
    let (mut helped, mut aside) = (0, 0);
    for seed in 0..300 {
        let graph = graph(&format!("random-{seed}"), &random(seed));
        let before = lowered(&graph);
        let most = |lowered: &Lowered| lowered.lifetimes.load().into_iter().max().unwrap_or(0);
        let wanted = Wanted { room: 0, alignment: 64, brings: BytesPerSec(1 << 30), aside: None };
        for wanted in [wanted, Wanted { room: most(&before) / 2, aside: Some(BytesPerSec(1 << 20)), ..wanted }] {
            let all = chosen(&graph, &before, wanted);
            let other = put(&graph, &all).unwrap_or_else(|said| panic!("seed {seed}: {said} in {all:?}"));
            assert_eq!(meaning(&other), meaning(&graph), "seed {seed}: {all:?}");
            let after = lowered(&other);
            // Fewer where all readers of a result read the second: the first is not run then.
            assert!(after.lifetimes.tasks.len() <= before.lifetimes.tasks.len() + all.len(), "seed {seed}");
            assert!(most(&after) <= most(&before), "seed {seed}: {} of {}", most(&after), most(&before));
            if wanted.aside.is_some() {
                aside += usize::from(!all.is_empty());
                continue;
            }
            assert!(all.is_empty() || most(&after) < most(&before), "seed {seed}: {all:?} for nothing");
            helped += usize::from(!all.is_empty());
            let made = plan(&after.lifetimes, &target, Mode::Loop).expect("a plan");
            verify(&target, made.program, Some(&after.facts))
                .unwrap_or_else(|found| panic!("seed {seed}: {}", found[0]));
        }
    }
    assert!(helped > 20 && aside > 20, "only {helped} and {aside} graphs had anything to make again");
}
