//! Inputs and outputs that are one state: who writes it, what a copy is needed for, what no state is.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;
#[allow(dead_code)]
#[path = "common/recurrent.rs"]
mod recurrent;

use berth_compiler::hold::stretches;
use berth_compiler::import;
use berth_compiler::lower::{Boundary, Lowered, Source, exactly, lower};
use berth_compiler::states::carry;
use berth_ir::graph::Graph;
use berth_ir::lifetime::TensorId;
use berth_ir::program::{Carried, DimRange, Kind};
use berth_ir::{DType, Target};
use build::{Builder, attribute};
use recurrent::{Dice, Growing, growing, random};
use std::collections::{BTreeMap, BTreeSet};

fn target() -> Target {
    Target::from_ron(include_str!("../../targets/host.ron")).expect("the preset")
}

fn lowered_at(b: &Builder, set: &[(&str, i64)], dims: &BTreeMap<String, DimRange>) -> (Graph, Lowered) {
    let set = set.iter().map(|(name, value)| ((*name).to_owned(), vec![*value])).collect();
    let one = dims.iter().filter(|(_, r)| r.low == r.high).map(|(d, r)| (d.clone(), r.high)).collect();
    let graph = b.model().graph_with(&one, &set).expect("a graph");
    let lowered = lower(&graph, dims, &target(), &|_, _, _| None).expect("it lowers");
    (graph, lowered)
}

fn lowered(b: &Builder) -> (Graph, Lowered) {
    lowered_at(b, &[], &exactly(&Default::default()))
}

fn pairs(of: &[(&str, &str)]) -> Vec<Carried> {
    of.iter().map(|(input, output)| Carried { input: (*input).to_owned(), output: (*output).to_owned() }).collect()
}

fn carried(b: &Builder, of: &[(&str, &str)]) -> Lowered {
    let (graph, lowered) = lowered(b);
    let carried = carry(&graph, lowered.clone(), &target(), &pairs(of)).unwrap_or_else(|e| panic!("{e}"));
    check(&lowered, &carried);
    carried
}

fn refused(b: &Builder, of: &[(&str, &str)]) -> String {
    let (graph, lowered) = lowered(b);
    carry(&graph, lowered, &target(), &pairs(of)).expect_err("it is refused").to_string()
}

/// The names of a task's tensors.
fn names(lowered: &Lowered, of: &[TensorId]) -> Vec<String> {
    of.iter().map(|id| lowered.lifetimes.tensor(*id).name.clone()).collect()
}

/// The task that writes a tensor.
fn writer(lowered: &Lowered, tensor: &str) -> String {
    let mut all = lowered.lifetimes.tasks.iter().filter(|t| names(lowered, &t.writes).contains(&tensor.to_owned()));
    let first = all.next().expect("somebody writes it").name.clone();
    assert!(all.next().is_none(), "two tasks write `{tensor}`");
    first
}

fn boundary(lowered: &Lowered, output: &str) -> String {
    let found = lowered.outputs.iter().find(|b| b.name == output).expect("the output");
    found.tensor.clone().expect("it has a tensor")
}

/// What must hold whatever the model: facts, code and tasks say the same, and outputs are what they would be if the caller
/// carried them.
fn check(before: &Lowered, after: &Lowered) {
    if after.states.is_empty() {
        assert_eq!((&after.lifetimes, &after.facts, &after.codes), (&before.lifetimes, &before.facts, &before.codes));
        return;
    }
    let lifetimes = &after.lifetimes;
    assert_eq!((&before.facts.hash, &after.facts.hash), (&lifetimes.model, &lifetimes.model));
    let tensors: BTreeSet<&str> = lifetimes.tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(tensors.len(), lifetimes.tensors.len(), "no two have one name");
    assert_eq!(tensors, after.facts.tensors.keys().map(String::as_str).collect());
    for tensor in &lifetimes.tensors {
        let fact = &after.facts.tensors[&tensor.name];
        assert_eq!((fact.kind, &fact.bytes, &fact.home), (tensor.kind, &tensor.extent, &tensor.home));
        let state = after.inputs.iter().find(|b| b.tensor.as_ref() == Some(&tensor.name));
        let state = state.is_some_and(|b| after.states.iter().any(|s| s.input == b.name));
        assert_eq!(tensor.kind == Kind::State, state, "`{}`", tensor.name);
    }
    assert_eq!((lifetimes.tasks.len(), after.facts.ops.len()), (after.codes.len(), after.codes.len()));
    for ((task, code), fact) in lifetimes.tasks.iter().zip(&after.codes).zip(&after.facts.ops) {
        assert_eq!((&fact.reads, &fact.writes), (&names(after, &task.reads), &names(after, &task.writes)));
        assert_eq!(task.ops, std::slice::from_ref(&fact.name));
        for (ports, tensors) in [(&code.inputs, &task.reads), (&code.outputs, &task.writes)] {
            let bound: BTreeSet<_> = ports.iter().filter_map(|p| tensor_of(&p.source)).collect();
            assert_eq!(bound, tensors.iter().copied().collect(), "`{}`", task.name);
        }
        // What an operator may do where it stands is written where it is read.
        let again: Vec<TensorId> = task.reads.iter().copied().filter(|t| task.writes.contains(t)).collect();
        let into = ["Add", "Sub", "Mul", "Div", "Scatter"].iter().any(|kind| says(&code.model, kind));
        assert!(again.is_empty() || (into && again == task.writes), "`{}` reads what it writes", task.name);
        let lasts = |t: &TensorId| lifetimes.tensor(*t).kind == Kind::State;
        assert!(task.in_place.iter().all(|(a, b)| !lasts(a) && !lasts(b)), "`{}` is given a state's place", task.name);
    }
    assert_eq!(run(after, &[]), run(before, &after.states));
}

/// Whether a task's model has a word in it.
fn says(model: &[u8], word: &str) -> bool {
    model.windows(word.len()).any(|w| w == word.as_bytes())
}

fn tensor_of(source: &Source) -> Option<TensorId> {
    match source {
        Source::Tensor(tensor) => Some(*tensor),
        Source::Known { .. } => None,
    }
}

/// What the outputs of some steps are computed of. Inputs differ from step to step; states keep what they had, and outputs
/// of these pairs become inputs.
fn run(lowered: &Lowered, by_hand: &[Carried]) -> Vec<Vec<u64>> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let hash = |of: &dyn Fn(&mut DefaultHasher)| {
        let mut hasher = DefaultHasher::new();
        of(&mut hasher);
        hasher.finish()
    };
    let mut held: BTreeMap<String, u64> = BTreeMap::new();
    let mut all: Vec<Vec<u64>> = Vec::new();
    for step in 0..4 {
        for input in &lowered.inputs {
            let Some(tensor) = &input.tensor else { continue };
            let next = by_hand.iter().find(|s| s.input == input.name).map(|s| &s.output);
            let place = next.and_then(|next| lowered.outputs.iter().position(|b| b.name == *next));
            let fed = hash(&|h| (&input.name, step).hash(h));
            let state = lowered.facts.tensors[tensor].kind == Kind::State;
            match (step, place) {
                (0, _) => held.insert(tensor.clone(), fed),
                (_, Some(place)) => held.insert(tensor.clone(), all[step - 1][place]),
                (_, None) if state => None,
                (_, None) => held.insert(tensor.clone(), fed),
            };
        }
        for (task, code) in lowered.lifetimes.tasks.iter().zip(&lowered.codes) {
            let reads: Vec<u64> = names(lowered, &task.reads)
                .iter()
                .map(|t| held.get(t).copied().unwrap_or_else(|| hash(&|h| t.hash(h))))
                .collect();
            // A copy is what it copies, wherever it stands.
            let made = if task.name.starts_with("keep ") { reads[0] } else { hash(&|h| (&code.model, &reads).hash(h)) };
            for (n, written) in names(lowered, &task.writes).into_iter().enumerate() {
                let made = if n == 0 { made } else { hash(&|h| (made, n).hash(h)) };
                held.insert(written, made);
            }
        }
        all.push(lowered.outputs.iter().map(|b| held[b.tensor.as_ref().expect("it is computed")]).collect());
    }
    all
}

/// A recurrent layer: `h' = tanh(h W + x)`, and what reads it after.
fn layer(b: &mut Builder) {
    b.input("x", DType::F32, &["1", "8"]).input("h", DType::F32, &["1", "8"]);
    b.tensor("w", DType::F32, &[8, 8], vec![7; 256]).node("MatMul", &["h", "w"], &["a"], vec![]);
    b.node("Add", &["a", "x"], &["b"], vec![]).node("Tanh", &["b"], &["next"], vec![]);
    b.node("Mul", &["next", "x"], &["y"], vec![]).output("y").output("next");
}

#[test]
fn who_writes_the_output_writes_the_state() {
    let mut b = Builder::new(17);
    layer(&mut b);
    let (_, before) = lowered(&b);
    let after = carried(&b, &[("h", "next")]);
    assert_eq!(after.lifetimes.tasks.len(), 4, "nothing is added");
    assert_eq!((writer(&after, "h").as_str(), boundary(&after, "next").as_str()), ("next", "h"));
    let last = after.lifetimes.tasks.last().expect("a task");
    assert_eq!(names(&after, &last.reads), ["h", "x"], "what comes after the writer reads the next version");
    // It is there in the whole step, beside what is made on the way.
    assert_eq!(after.lifetimes.load()[1] - before.lifetimes.load()[1], 32);
    // One call must not read the one version and write the next.
    assert_eq!((stretches(&before).len(), stretches(&after)), (1, vec![0..2, 3..4]));
    // No pairs, no change.
    assert!(carried(&b, &[]).states.is_empty());
}

#[test]
fn views_of_a_state_are_the_state() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["8"]).input("h", DType::F32, &["2", "4"]).ints("flat", &[8]).ints("wide", &[2, 4]);
    b.node("Reshape", &["h", "flat"], &["h_flat"], vec![]).node("Add", &["h_flat", "x"], &["a"], vec![]);
    b.node("Tanh", &["a"], &["t"], vec![]).node("Reshape", &["t", "wide"], &["next"], vec![]).output("next");
    let after = carried(&b, &[("h", "next")]);
    assert_eq!(after.lifetimes.tasks.len(), 2);
    assert_eq!(writer(&after, "h"), "t");
    let state = after.lifetimes.tensors.iter().find(|t| t.name == "h").expect("the state");
    assert_eq!((state.kind, state.aliases.clone()), (Kind::State, vec!["h_flat".into(), "t".into(), "next".into()]));
}

#[test]
fn what_reads_the_state_too_late_has_it_copied() {
    // The writer reads it; another reads it behind the writer; it is passed through.
    let mut direct = Builder::new(17);
    direct.input("x", DType::F32, &["8"]).input("h", DType::F32, &["8"]);
    direct.node("Max", &["h", "x"], &["next"], vec![]).output("next");
    let mut late = Builder::new(17);
    late.input("x", DType::F32, &["8"]).input("h", DType::F32, &["8"]).node("Tanh", &["x"], &["next"], vec![]);
    late.node("Sub", &["next", "h"], &["y"], vec![]).output("next").output("y");
    let mut through = Builder::new(17);
    through.input("x", DType::F32, &["8"]).input("h", DType::F32, &["8"]).node("Mul", &["h", "x"], &["y"], vec![]);
    through.node("Identity", &["h"], &["next"], vec![]).output("next").output("y");
    for (case, b) in [("direct", &direct), ("late", &late), ("through", &through)] {
        let (_, before) = lowered(b);
        let after = carried(b, &[("h", "next")]);
        let tasks = &after.lifetimes.tasks;
        assert_eq!(tasks.len(), before.lifetimes.tasks.len() + 1, "{case}");
        let last = tasks.last().expect("a task");
        assert_eq!((last.name.as_str(), writer(&after, "h").as_str()), ("keep h", "keep h"), "{case}");
        assert_eq!(names(&after, &last.reads), ["next"], "{case}");
        assert!(last.cost.0 > 0 && last.others.len() + 1 == target().engines.len(), "{case}: {last:?}");
        let kind = after.facts.tensors["next"].kind;
        assert_eq!((boundary(&after, "next").as_str(), kind), ("h", Kind::Activation), "{case}");
        let code = after.codes.last().expect("its code");
        let (from, to) = (&code.inputs[0], &code.outputs[0]);
        assert_eq!((&from.shape, from.dtype, &from.most), (&to.shape, to.dtype, &to.most), "{case}");
        assert_eq!(from.most, [8], "{case}");
    }
}

#[test]
fn what_may_be_written_where_it_is_read_is() {
    let written = |kind: &str, make: &dyn Fn(&mut Builder)| {
        let mut b = Builder::new(18);
        b.input("x", DType::F32, &["2", "4"]).input("h", DType::F32, &["2", "4"]).input("at", DType::I64, &["2", "4"]);
        b.ints("flat", &[8]).ints("shape", &[2, 4]);
        make(&mut b);
        b.output("next");
        let writer = writer(&carried(&b, &[("h", "next")]), "h");
        assert!(writer == "keep h" || writer == "next", "{kind}: {writer}");
        writer == "next"
    };
    for kind in ["Add", "Sub", "Mul", "Div"] {
        let of = |inputs: [&str; 2]| written(kind, &|b| _ = b.node(kind, &inputs, &["next"], vec![]));
        assert!(of(["h", "x"]) && of(["x", "h"]), "{kind}");
        // It might read an element again when that is written.
        assert!(!of(["h", "h"]), "{kind}");
        // Not the one that is repeated along the other's axes.
        let small = |b: &mut Builder| {
            b.input("wide", DType::F32, &["3", "2", "4"]).node(kind, &["h", "wide"], &["sum"], vec![]);
            b.ints("first", &[0]).ints("last", &[1]).node(
                "Slice",
                &["sum", "first", "last", "first"],
                &["one"],
                vec![],
            );
            b.node("Reshape", &["one", "shape"], &["next"], vec![]);
        };
        let mut b = Builder::new(18);
        b.input("h", DType::F32, &["2", "4"]).ints("shape", &[2, 4]);
        small(&mut b);
        b.output("next");
        let after = carried(&b, &[("h", "next")]);
        assert!(after.lifetimes.tasks.iter().all(|t| t.reads.iter().all(|r| !t.writes.contains(r))), "{kind}");
    }
    for kind in ["Max", "Pow"] {
        assert!(!written(kind, &|b| _ = b.node(kind, &["h", "x"], &["next"], vec![])), "{kind}");
    }
    // Through a view it is the same bytes in the same order.
    let viewed = |b: &mut Builder| {
        b.input("y", DType::F32, &["8"]).node("Reshape", &["h", "flat"], &["h_flat"], vec![]);
        b.node("Add", &["h_flat", "y"], &["next"], vec![]);
        b.node("Reshape", &["next", "shape"], &["back"], vec![]);
    };
    let mut b = Builder::new(18);
    b.input("h", DType::F32, &["2", "4"]).ints("flat", &[8]).ints("shape", &[2, 4]);
    viewed(&mut b);
    b.output("back");
    assert_eq!(writer(&carried(&b, &[("h", "back")]), "h"), "next");
    // What is scattered into, not what is scattered.
    let scatter =
        |operands: [&str; 3]| written("scatter", &|b| _ = b.node("ScatterElements", &operands, &["next"], vec![]));
    assert!(scatter(["h", "at", "x"]) && !scatter(["x", "at", "h"]) && !scatter(["h", "at", "h"]));
    // Not before the last that reads it.
    assert!(!written("late", &|b| {
        b.node("Add", &["h", "x"], &["next"], vec![]).node("Sub", &["next", "h"], &["y"], vec![]).output("y");
    }));
}

#[test]
fn states_that_take_each_others_place_are_each_read_before_they_are_written() {
    // A line in which each moves one on, and a circle.
    let mut line = Builder::new(17);
    line.input("x", DType::F32, &["8"]);
    for n in ["a", "b", "c"] {
        line.input(n, DType::F32, &["8"]);
    }
    line.node("Neg", &["x"], &["a1"], vec![]).node("Identity", &["a"], &["b1"], vec![]);
    line.node("Identity", &["b"], &["c1"], vec![]).node("Add", &["c", "x"], &["y"], vec![]);
    line.output("y").output("a1").output("b1").output("c1");
    let after = carried(&line, &[("a", "a1"), ("b", "b1"), ("c", "c1")]);
    let copies = after.lifetimes.tasks.iter().filter(|t| t.name.starts_with("keep ")).count();
    assert_eq!(copies, 3, "each is written in the file before it is read");
    let mut circle = Builder::new(17);
    circle.input("a", DType::F32, &["8"]).input("b", DType::F32, &["8"]);
    circle.node("Identity", &["a"], &["b1"], vec![]).node("Identity", &["b"], &["a1"], vec![]);
    circle.output("a1").output("b1");
    let after = carried(&circle, &[("a", "a1"), ("b", "b1")]);
    assert_eq!((writer(&after, "a"), writer(&after, "b")), ("a1".to_owned(), "keep b".to_owned()));
}

#[test]
fn what_two_outputs_share_is_copied() {
    let mut b = Builder::new(17);
    layer(&mut b);
    let (graph, mut before) = lowered(&b);
    let other = before.outputs.iter().find(|b| b.name == "next").cloned().expect("the output");
    before.outputs.push(Boundary { name: "other".to_owned(), ..other });
    let after = carry(&graph, before.clone(), &target(), &pairs(&[("h", "next")])).expect("a state");
    check(&before, &after);
    assert_eq!((writer(&after, "h").as_str(), boundary(&after, "next").as_str()), ("keep h", "h"));
    assert_eq!((boundary(&after, "other").as_str(), after.facts.tensors["next"].kind), ("next", Kind::Output));
}

#[test]
fn a_copys_name_is_nobody_elses() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["8"]).input("h", DType::F32, &["8"]).node("Max", &["h", "x"], &["next"], vec![]);
    b.output("next");
    let (graph, mut before) = lowered(&b);
    before.lifetimes.tasks[0].name = "keep h".to_owned();
    let after = carry(&graph, before, &target(), &pairs(&[("h", "next")])).expect("a state");
    assert_eq!(writer(&after, "h"), "keep h.2");
}

#[test]
fn what_is_no_state_is_refused_in_words() {
    let mut b = Builder::new(17);
    layer(&mut b);
    b.input("whole", DType::I64, &["1", "8"]).input("turned", DType::F32, &["8", "1"]);
    b.node("Cast", &["whole"], &["f"], vec![attribute("to", 1)]).node("MatMul", &["f", "turned"], &["z"], vec![]);
    b.output("z").output("f");
    for (of, words) in [
        (vec![("hh", "next")], "state `hh=next`: the model has no input `hh`; it has `h`, `x`, `whole`, `turned`"),
        (vec![("h", "nexd")], "the model has no output `nexd`; it has `next`, `y`, `z`, `f`"),
        (vec![("h", "x")], "the model has no output `x`"),
        (vec![("h", "next"), ("h", "y")], "state `h=y`: the input `h` is in another state already"),
        (vec![("h", "next"), ("x", "next")], "state `x=next`: the output `next` is in another state already"),
        (vec![("whole", "f")], "the input is I64 and the output F32"),
        (vec![("turned", "next")], "the input has the shape [8, 1] and the output [1, 8]; a state keeps its shape"),
        (vec![("h", "z")], "the input has the shape [1, 8] and the output [1, 1]; a state keeps its shape"),
    ] {
        let said = refused(&b, &of);
        assert!(said.contains(words), "{of:?}: {said}");
    }
    let many: Vec<String> = (0..12).map(|n| format!("past_{n}_key")).collect();
    let mut b = Builder::new(17);
    many.iter().for_each(|name| _ = b.input(name, DType::F32, &["4"]));
    b.node("Neg", &["past_0_key"], &["y"], vec![]).output("y");
    let said = refused(&b, &[("past_11_kez", "y")]);
    assert!(said.contains("it has `past_11_key`, `past_1_key`, ") && said.contains(" and 7 more"), "{said}");
}

/// The dims of a model, each with a range.
fn ranges(of: &[(&str, u64, u64)]) -> BTreeMap<String, DimRange> {
    of.iter().map(|(dim, low, high)| ((*dim).to_owned(), DimRange { low: *low, high: *high })).collect()
}

fn task_names(lowered: &Lowered) -> Vec<&str> {
    lowered.lifetimes.tasks.iter().map(|task| task.name.as_str()).collect()
}

#[test]
fn a_copy_stands_behind_the_task_that_makes_what_it_copies() {
    // A cache that grows and a state that does not, each read by what writes the next version; a view of that; a reader.
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["1", "2", "4"]).input("past", DType::F32, &["1", "past", "4"]);
    b.input("h", DType::F32, &["1", "2", "4"]).ints("flat", &[-1]);
    b.node("Concat", &["past", "x"], &["present"], vec![attribute("axis", 1)]);
    b.node("Max", &["h", "x"], &["next"], vec![]).node("Reshape", &["present", "flat"], &["line"], vec![]);
    b.node("Sin", &["line"], &["s"], vec![]).node("Cos", &["present"], &["c"], vec![]);
    b.node("Mul", &["next", "next"], &["m"], vec![]).output("s").output("c").output("m");
    let states = [("past", "present"), ("h", "next")];
    b.output("present").output("next");
    let (graph, before) = lowered_at(&b, &[], &ranges(&[("past", 0, 9)]));
    let after = carry(&graph, before.clone(), &target(), &pairs(&states)).expect("two states");
    check(&before, &after);
    assert_eq!(task_names(&after), ["present", "keep past", "next", "keep h", "s", "c", "m"]);
    let reads = |n: usize| names(&after, &after.lifetimes.tasks[n].reads);
    assert_eq!([reads(0), reads(1), reads(2)], [vec!["past", "x"], vec!["present"], vec!["h", "x"]]);
    assert_eq!([reads(4), reads(5), reads(6)], [["past"], ["past"], ["h"]], "others read the state");
    // What would be the output is gone at once: each has the reader that copies it, and nobody takes it.
    let uses = after.lifetimes.uses();
    for (name, uses_are) in [("present", [0, 1]), ("next", [2, 3])] {
        let n = after.lifetimes.tensors.iter().position(|t| t.name == name).expect("the output");
        assert_eq!((after.lifetimes.tensors[n].kind, &uses[n][..]), (Kind::Activation, &uses_are[..]), "{name}");
    }
    // It grows by two rows, and has room for the last of them.
    assert_eq!(after.growth, BTreeMap::from([("past".to_owned(), 2)]));
    assert_eq!((before.facts.tensors["past"].bytes.as_constant(), after.lifetimes.tensors[1].bytes), (Some(144), 176));
    assert_eq!(after.facts.tensors["past"].bytes.as_constant(), Some(176));
    let keep = &after.codes[1];
    let shape: Vec<String> = keep.outputs[0].shape.iter().map(ToString::to_string).collect();
    assert_eq!((shape.join(" "), &keep.outputs[0].most), ("1 past + 2 4".to_owned(), &vec![1, 11, 4]));
    assert_eq!((&keep.inputs[0].shape, keep.is_open()), (&keep.outputs[0].shape, true));
    // Where somebody reads the version before behind that, all of that stays, and the copy is at the end.
    b.node("ReduceMax", &["present"], &["most"], vec![]).node("Add", &["past", "most"], &["late"], vec![]);
    b.output("late");
    let (graph, before) = lowered_at(&b, &[], &ranges(&[("past", 0, 9)]));
    let after = carry(&graph, before.clone(), &target(), &pairs(&states)).expect("two states");
    check(&before, &after);
    let tasks = task_names(&after);
    assert_eq!((tasks.last(), tasks.len()), (Some(&"keep past"), 9), "{tasks:?}");
    assert_eq!(names(&after, &after.lifetimes.tasks[3].reads), ["present"], "others read what is copied later");
}

#[test]
fn what_grows_in_a_way_that_no_plan_has_is_refused() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["1", "n", "4"]).input("past", DType::F32, &["1", "past", "4"]);
    b.input("two", DType::F32, &["1", "2", "4"]).input("other", DType::F32, &["1", "past", "4"]);
    b.input("long", DType::F32, &["1", "6", "4"]).input("pair", DType::F32, &["past", "past"]);
    b.input("cell", DType::F32, &["past", "1"])
        .input("any", DType::F32, &["k", "4"])
        .ints("rows", &[1])
        .ints("no", &[0]);
    let behind = |axis| vec![attribute("axis", axis)];
    b.node("Concat", &["past", "x"], &["present"], behind(1)).node("Tanh", &["past"], &["same"], vec![]);
    b.node("Concat", &["other", "two"], &["other_next"], behind(1)).node(
        "Concat",
        &["long", "two"],
        &["longer"],
        behind(1),
    );
    b.node("Concat", &["pair", "cell"], &["wide"], behind(1));
    b.node("Slice", &["past", "rows", "rows", "rows"], &["less"], vec![]);
    b.node("NonZero", &["any"], &["at"], vec![]).node("Gather", &["any", "at"], &["held"], vec![attribute("axis", 0)]);
    for output in ["present", "same", "other_next", "longer", "wide", "less", "held"] {
        b.output(output);
    }
    let all = |past: (u64, u64), n: (u64, u64), of: &[(&str, &str)]| {
        let dims = ranges(&[("past", past.0, past.1), ("n", n.0, n.1), ("k", 4, 4)]);
        let (graph, before) = lowered_at(&b, &[], &dims);
        carry(&graph, before, &target(), &pairs(of)).map(|after| after.growth)
    };
    let (open, one, two) = ((0, 9), (1, 1), (2, 2));
    for (past, n, of, said) in [
        (
            (6, 6),
            two,
            vec![("past", "present")],
            "state `past=present`: the input has the shape [1, 6, 4] and the output [1, 8, 4]: it grows by 2 in each step; give the dim of axis 1 a range up to its size in the last step, such as `--dim past=6..127`",
        ),
        (
            (5, 5),
            one,
            vec![("long", "longer")],
            "it grows by 2 in each step; give the dim of axis 1 a range up to its size in the last step, such as `--dim NAME=6..127`",
        ),
        (
            open,
            (1, 3),
            vec![("past", "present")],
            "[1, n + past, 4]: it grows by n in each step; what a step adds has one size: bind it with `--dim n=N`",
        ),
        (open, (0, 0), vec![("past", "less")], "and the output [1, "),
        (
            open,
            one,
            vec![("past", "present"), ("other", "other_next")],
            "state `other=other_next`: `past` grows by 2 in each step with it, and by 1 with `past=present`; a dim has one size in a step",
        ),
        (
            open,
            two,
            vec![("past", "present"), ("other", "same")],
            "state `other=same`: axis 1 of the input is past, and `past` grows in each step with `past=present`; a state keeps its shape",
        ),
        (
            open,
            one,
            vec![("pair", "wide")],
            "axis 0 of the input is past, and `past` grows in each step with `pair=wide`",
        ),
        (
            open,
            two,
            vec![("past", "present")],
            "state `past=present`: `past` grows with it in each step, and so would other=other_next, which no `--state` names, and 1 more: add `--state other=other_next`",
        ),
        (open, two, vec![("any", "held")], "; a state"),
    ] {
        let bad = all(past, n, &of).expect_err("it is refused").to_string();
        assert!(bad.contains(said), "{bad}");
    }
    // With one size in a run a range is no growth.
    assert_eq!(all(open, one, &[("past", "same")]), Ok(BTreeMap::new()));
}

#[test]
fn any_cache_gives_what_it_gives_when_the_caller_carries() {
    let (mut early, mut late, mut joined) = (0, 0, 0);
    for seed in 0..400 {
        let Growing { builder, pairs: of, by, .. } = growing(seed);
        let of: Vec<(&str, &str)> = of.iter().map(|(i, o)| (i.as_str(), o.as_str())).collect();
        let (graph, mut before) = lowered_at(&builder, &[], &ranges(&[("past", seed % 3, 9)]));
        let order = any_order(&before, &mut Dice(seed));
        before.reorder(&order);
        let after = carry(&graph, before.clone(), &target(), &pairs(&of)).unwrap_or_else(|e| panic!("{seed}: {e}"));
        check(&before, &after);
        assert_eq!(after.growth, BTreeMap::from([("past".to_owned(), by)]), "{seed}");
        for (input, output) in of {
            let tasks = task_names(&after);
            let keep = tasks.iter().position(|name| *name == format!("keep {input}"));
            match keep {
                None => joined += 1,
                Some(keep) if tasks[keep - 1] == output => early += 1,
                Some(keep) => {
                    assert!(tasks[keep..].iter().all(|name| name.starts_with("keep ")), "{seed}: {tasks:?}");
                    late += 1;
                }
            }
        }
    }
    assert!(early > 200 && late > 50 && joined > 50, "{early}, {late} and {joined}");
}

#[test]
fn what_is_fixed_or_not_computed_carries_nothing() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["4"]).input("n", DType::I64, &["1"]).node("Neg", &["n"], &["m"], vec![]);
    b.node("Tanh", &["x"], &["y"], vec![]).output("y").output("m");
    let (graph, before) = lowered_at(&b, &[("n", 3)], &BTreeMap::new());
    let bad = carry(&graph, before, &target(), &pairs(&[("n", "m")])).expect_err("it is fixed").to_string();
    assert!(bad.contains("a value that is fixed"), "{bad}");
    let (graph, mut before) = lowered(&b);
    before.outputs[0].tensor = None;
    let bad = carry(&graph, before, &target(), &pairs(&[("x", "y")])).expect_err("nobody writes it").to_string();
    assert!(bad.contains("no task computes the output"), "{bad}");
}

/// Any order in which each task comes after what it reads.
fn any_order(lowered: &Lowered, dice: &mut Dice) -> Vec<usize> {
    let tasks = &lowered.lifetimes.tasks;
    let made: BTreeMap<TensorId, usize> =
        tasks.iter().enumerate().flat_map(|(n, t)| t.writes.iter().map(move |w| (*w, n))).collect();
    let mut order: Vec<usize> = Vec::new();
    while order.len() < tasks.len() {
        let ready = |n: &usize| {
            !order.contains(n) && tasks[*n].reads.iter().all(|r| made.get(r).is_none_or(|m| order.contains(m)))
        };
        let ready: Vec<usize> = (0..tasks.len()).filter(ready).collect();
        order.push(ready[dice.below(ready.len())]);
    }
    order
}

#[test]
fn any_model_gives_what_it_gives_when_the_caller_carries() {
    let (mut joined, mut copied) = (0, 0);
    for seed in 0..400 {
        let (b, of) = random(seed);
        let of: Vec<(&str, &str)> = of.iter().map(|(i, o)| (i.as_str(), o.as_str())).collect();
        let (graph, mut before) = lowered(&b);
        let order = any_order(&before, &mut Dice(seed));
        before.reorder(&order);
        let after = carry(&graph, before.clone(), &target(), &pairs(&of)).unwrap_or_else(|e| panic!("{seed}: {e}"));
        check(&before, &after);
        let copies = after.lifetimes.tasks.iter().filter(|t| t.name.starts_with("keep ")).count();
        (joined, copied) = (joined + of.len() - copies, copied + copies);
        assert_eq!(after.lifetimes.tensors.len() + of.len() - copies, before.lifetimes.tensors.len(), "{seed}");
    }
    assert!(joined > 100 && copied > 100, "{joined} and {copied}");
}

/// A model opened from a file of the repository, so that ports of real exports are seen too.
#[test]
fn caches_of_a_decoder_are_copied_behind_what_appends_to_them() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/llama_decode.onnx");
    let model = import::open(&path).expect("it opens");
    let dims = ranges(&[("batch", 1, 1), ("seq", 1, 1), ("past", 0, 31)]);
    let one = [("batch", 1), ("seq", 1)].into_iter().map(|(d, n)| (d.to_owned(), n)).collect();
    let graph = model.graph(&one).expect("a graph");
    let before = lower(&graph, &dims, &target(), &|_, _, _| None).expect("it lowers");
    let caches = berth_compiler::caches::caches(&graph);
    let name = |id| graph.value(id).name.clone();
    let all: Vec<Carried> = caches.iter().map(|c| Carried { input: name(c.past), output: name(c.present) }).collect();
    let after = carry(&graph, before.clone(), &target(), &all).expect("they are states");
    check(&before, &after);
    assert_eq!((all.len(), after.growth.get("past")), (8, Some(&1)));
    // Beside what a single step holds, in which each is there while it is used, all of them once.
    let peak = |lowered: &Lowered| *lowered.lifetimes.load().iter().max().expect("tasks");
    let states: u64 = after.lifetimes.tensors.iter().filter(|t| t.kind == Kind::State).map(|t| t.bytes).sum();
    let (one, all_steps) = (peak(&before), peak(&after));
    assert!(all_steps <= one + states, "{all_steps}, {one} and {states}");
    let bad = carry(&graph, before, &target(), &all[1..]).expect_err("one is left").to_string();
    let first = all[0].to_string();
    assert!(bad.contains(&format!("so would {first}, which no `--state` names: add `--state {first}`")), "{bad}");
}
