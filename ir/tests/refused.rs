//! The programs of `golden/refused`: each breaks a rule where its comment says so, and all that the verifier finds in it
//! is a snapshot beside it.

mod common;

use berth_ir::verify::{ModelFacts, OpFact, RULES, TensorFact, Violation, violations};
use berth_ir::{Expr, Program};
use common::{files, golden, parse, program, target};
use std::collections::{BTreeMap, BTreeSet};

/// Kinds of violation that no program alone shows, and why.
const NOT_FROM_A_PROGRAM: &[(&str, &str)] = &[
    ("WrongModel", "needs the model at hand: see `what_differs_from_the_model_is_refused`"),
    ("ModelTensor", "needs the model at hand"),
    ("ModelOp", "needs the model at hand"),
];

/// Every kind of violation. A new one does not compile until it is here.
fn kind(violation: &Violation) -> &'static str {
    macro_rules! kinds {
        ($($name:ident)*) => {
            match violation { $(Violation::$name { .. } => stringify!($name),)* }
        };
    }
    kinds!(
        Name Size SizeUnknown Range Part Binding Extent Overlap ArenaTooBig OutsideArena Misaligned Absent Stale
        Pitched NoVersion NoHome Race UsedAfterEnd EndUnordered StateLost Cycle TooFarBack LoopEdge Link Engine Feeds
        Fetches NotAnInput NotAnOutput TaskTwice TaskNever NoBody MayNotWrite CodeInTransition TransitionEdge Unreached Fact
        Bound Reserved Format WrongTarget WrongModel ModelTensor ModelOp Held
    )
}

const KINDS: &[&str] = &[
    "Name",
    "Size",
    "SizeUnknown",
    "Range",
    "Part",
    "Binding",
    "Extent",
    "Overlap",
    "ArenaTooBig",
    "OutsideArena",
    "Misaligned",
    "Absent",
    "Stale",
    "Pitched",
    "NoVersion",
    "NoHome",
    "Race",
    "UsedAfterEnd",
    "EndUnordered",
    "StateLost",
    "Cycle",
    "TooFarBack",
    "LoopEdge",
    "Link",
    "Engine",
    "Feeds",
    "Fetches",
    "NotAnInput",
    "NotAnOutput",
    "TaskTwice",
    "TaskNever",
    "NoBody",
    "MayNotWrite",
    "CodeInTransition",
    "TransitionEdge",
    "Unreached",
    "Fact",
    "Bound",
    "Reserved",
    "Format",
    "WrongTarget",
    "WrongModel",
    "ModelTensor",
    "ModelOp",
    "Held",
];

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(golden("refused"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings
}

fn listed(found: &[Violation]) -> String {
    found.iter().map(|v| format!("{v}\n")).collect()
}

/// The line with the mark, and what the mark says.
fn mark<'a>(name: &str, source: &'a str) -> (&'a str, &'a str) {
    let marked: Vec<_> = source.lines().filter_map(|l| l.split_once(" // error ")).collect();
    assert_eq!(marked.len(), 1, "{name}: one line says `// error`");
    marked[0]
}

fn found(name: &str, source: &str) -> Vec<Violation> {
    let program = parse(name, source);
    violations(&target(&program.header.target), &program, None)
}

#[test]
fn refused_programs_break_the_rule_on_the_marked_line() {
    let mut wrong = Vec::new();
    for (name, source) in files("refused") {
        let found = found(&name, &source);
        let (line, says) = mark(&name, &source);
        let right = |v: &&Violation| v.to_string().replacen(' ', ": ", 1) == says;
        match found.iter().find(right) {
            Some(v) if line.contains(v.culprit()) && name.starts_with(&format!("V{:02}_", v.rule())) => {}
            Some(v) => {
                wrong.push(format!("{name}: `{}` is not on the marked line, or the file has a wrong name", v.culprit()))
            }
            None => {
                let fits =
                    |v: &&Violation| line.contains(v.culprit()) && name.starts_with(&format!("V{:02}_", v.rule()));
                let should = found.iter().find(fits).map(|v| v.to_string().replacen(' ', ": ", 1));
                wrong.push(format!("{name}: nothing says `{says}`; {should:?} would do, of\n{}", listed(&found)));
            }
        }
        settings().bind(|| insta::assert_snapshot!(name.clone(), listed(&found)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_and_every_kind_of_violation_is_shown() {
    let mut rules = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    for (name, source) in files("refused") {
        let found = found(&name, &source);
        rules.extend(found.iter().filter(|v| name.starts_with(&format!("V{:02}_", v.rule()))).map(Violation::rule));
        kinds.extend(found.iter().map(kind));
    }
    for (rule, sentence) in RULES {
        assert!(rules.contains(rule), "no file of golden/refused breaks rule {rule}: {sentence}");
    }
    for name in KINDS {
        let elsewhere = NOT_FROM_A_PROGRAM.iter().any(|(n, _)| n == name);
        assert_ne!(kinds.contains(name), elsewhere, "is `{name}` shown by golden/refused?");
    }
}

/// What a program says of itself, as if its model had said it.
fn model(program: &Program) -> ModelFacts {
    let fact = |t: &berth_ir::program::Tensor| TensorFact {
        kind: t.kind,
        dtype: t.dtype,
        bytes: t.bytes.clone(),
        home: t.home.clone(),
    };
    let named = |reads: bool, t: &berth_ir::program::Task| {
        let there = t.accesses.iter().filter(|a| if reads { a.reads() } else { a.writes() });
        let kept = t.held.iter().flat_map(|held| held.weights.clone()).filter(|_| reads);
        there.map(|a| a.tensor().to_owned()).chain(kept).collect::<Vec<_>>()
    };
    let op =
        |t: &berth_ir::program::Task| OpFact { name: t.ops[0].clone(), reads: named(true, t), writes: named(false, t) };
    ModelFacts {
        hash: program.header.model.clone(),
        tensors: program.tensors.iter().map(|t| (t.name.clone(), fact(t))).collect::<BTreeMap<_, _>>(),
        ops: program.tasks.iter().map(op).collect(),
    }
}

#[test]
fn what_differs_from_the_model_is_refused() {
    for (name, _) in files("programs") {
        let (target, program) = program(&name);
        assert_eq!(violations(&target, &program, Some(&model(&program))), [], "{name}");
    }
    let (target, program) = program("one_shot");
    let right = model(&program);
    let mut all = String::new();
    let mut kinds = BTreeSet::new();
    let mut check = |what: &str, change: &dyn Fn(&mut ModelFacts, &mut Program)| {
        let (mut facts, mut program) = (right.clone(), program.clone());
        change(&mut facts, &mut program);
        let found = violations(&target, &program, Some(&facts));
        assert!(found.iter().any(|v| v.rule() == 18), "{what}: {}", listed(&found));
        kinds.extend(found.iter().map(kind));
        all.push_str(&format!("{what}\n{}\n", listed(&found)));
    };
    check("another model", &|m, _| m.hash = "another".into());
    check("the model has no h", &|m, _| drop(m.tensors.remove("h")));
    check("x is larger", &|m, _| m.tensors.get_mut("x").unwrap().bytes = Expr::constant(128));
    check("a.weight lies elsewhere", &|m, _| m.tensors.get_mut("a.weight").unwrap().home.as_mut().unwrap().offset = 1);
    check("the model has no op b", &|m, _| m.ops.truncate(1));
    check("the model has one op more", &|m, _| {
        m.ops.push(OpFact { name: "c".into(), reads: vec!["y".into()], writes: vec!["z".into()] });
    });
    check("b is computed twice", &|_, p| p.tasks[1].ops.push("b".into()));
    check("a reads y", &|m, _| m.ops[0].reads.push("y".into()));
    check("a writes y too", &|m, _| m.ops[0].writes.push("y".into()));
    check("b does not read h", &|m, _| m.ops[1].reads.retain(|r| r != "h"));
    check("b comes first", &|m, _| m.ops.swap(0, 1));
    check("b does not write y", &|m, _| m.ops[1].writes.clear());
    settings().bind(|| insta::assert_snapshot!("V18_model", all));
    for (name, _) in NOT_FROM_A_PROGRAM {
        assert!(kinds.contains(name), "{name} is not shown");
    }
}
