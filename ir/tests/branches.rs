//! Corners of the verifier that programs seldom come to: each a small edit of a right program, with the rule that it breaks, or
//! none. `docs/testing.md` says what is left after these.

#![allow(clippy::type_complexity, reason = "a table of edits")]

mod common;
#[path = "common/make.rs"]
mod make;

use berth_ir::program::*;
use berth_ir::target::LinkState;
use berth_ir::units::Nanos;
use berth_ir::verify::{ModelFacts, OpFact, TensorFact, facts, verify, violations};
use berth_ir::{Expr, Target};
use common::program;
use make::{Layer, Shape, State, Weight, keep_weights, machine, make};

/// Three layers: a weight that stays, one in part, one streamed in two pieces; a state that travels; scratch.
fn made() -> (Target, Program) {
    let layer =
        |weight, state| Layer { weight, cells: 3, second_engine: false, in_place: false, state, workspace: true };
    let layers = vec![
        layer(Weight::Stays, State::None),
        layer(Weight::StaysInPart, State::Travels),
        layer(Weight::StreamsInPieces, State::None),
        layer(Weight::Streams, State::None),
    ];
    let shape = Shape { mode: Mode::Loop, layers, slots: 1, skip: None, staged: false, second_body: false };
    (machine(), make(&shape))
}

/// The rules that an edited program breaks, facts counted anew.
fn broken(target: &Target, mut program: Program, edit: &dyn Fn(&mut Program)) -> Vec<u8> {
    edit(&mut program);
    if let Some(counted) = facts(target, &program) {
        program.facts = counted;
    }
    let mut rules: Vec<u8> = violations(target, &program, None).iter().map(|v| v.rule()).collect();
    rules.dedup();
    assert_eq!(rules.is_empty(), verify(target, program, None).is_ok());
    rules
}

fn tensor<'p>(p: &'p mut Program, name: &str) -> &'p mut Tensor {
    p.tensors.iter_mut().find(|t| t.name == name).unwrap()
}

fn berth<'p>(p: &'p mut Program, name: &str) -> &'p mut Berth {
    p.berths.iter_mut().find(|b| b.name == name).unwrap()
}

fn code<'p>(p: &'p mut Program, name: &str) -> &'p mut Instruction {
    let body = p.bodies[0].code.iter_mut();
    p.prologue.iter_mut().chain(body).find(|i| i.name() == name).unwrap()
}

fn set_extent(p: &mut Program, name: &str, new: Extent) {
    let all = p.prologue.iter_mut().chain(&mut p.bodies[0].code).filter(|i| i.name() == name);
    let mut extents = all.filter_map(|i| match i {
        Instruction::Copy { extent, .. } => Some(extent),
        _ => None,
    });
    *extents.next().unwrap() = new;
}

fn home<'p>(p: &'p mut Program, name: &str) -> &'p mut Home {
    tensor(p, name).home.as_mut().unwrap()
}

fn rows(rows: i128) -> Extent {
    let number = |n: i128| Expr::constant(n);
    Extent::Rows { rows: number(rows), bytes: number(64), from_pitch: number(64), to_pitch: number(128) }
}

const STRIP: Strip = Strip { rows: 3, bytes: 64, pitch: 128 };
const MATRIX: Transposed = Transposed { rows: 3, columns: 16, element: 4 };

#[test]
fn seldom_corners_are_refused_by_their_rule_or_are_right() {
    let cases: &[(&str, Option<u8>, &dyn Fn(&mut Program))] = &[
        ("nothing", None, &|_| {}),
        ("one name twice", Some(1), &|p| {
            let again = code(p, "run 0").clone();
            p.bodies[0].code.push(again);
        }),
        ("an empty name", Some(1), &|p| tensor(p, "w0").name.clear()),
        ("a name of two", Some(1), &|p| berth(p, "w0").name = "w0 + w1".into()),
        ("a copy outside the part it goes to", Some(2), &|p| set_extent(p, "load 1", Extent::Bytes(0, 128))),
        ("a copy outside the part it comes from", Some(2), &|p| berth(p, "kv1.hot").part = Some((0, 32))),
        ("a home that is turned", None, &|p| home(p, "w0").transposed = Some(MATRIX)),
        ("a home that is turned, read in part", Some(2), &|p| home(p, "w2").transposed = Some(MATRIX)),
        ("a matrix of no element", Some(2), &|p| home(p, "w0").transposed = Some(Transposed { element: 3, ..MATRIX })),
        ("another matrix", Some(2), &|p| home(p, "w0").transposed = Some(Transposed { rows: 4, ..MATRIX })),
        ("rows that lie apart", None, &|p| home(p, "w0").strip = Some(STRIP)),
        ("rows that lie apart, turned", None, &|p| {
            home(p, "w0").strip = Some(STRIP);
            home(p, "w0").transposed = Some(MATRIX);
        }),
        ("rows of another matrix", Some(2), &|p| {
            home(p, "w0").strip = Some(STRIP);
            home(p, "w0").transposed = Some(Transposed { rows: 6, columns: 8, element: 4 });
        }),
        ("rows as long as no row", Some(2), &|p| {
            home(p, "w0").strip = Some(Strip { rows: 6, bytes: 32, pitch: 32 });
            home(p, "w0").transposed = Some(Transposed { rows: 6, columns: 4, element: 8 });
            home(p, "w0").strip.as_mut().unwrap().bytes = 31;
        }),
        ("no rows", Some(2), &|p| home(p, "w0").strip = Some(Strip { rows: 0, ..STRIP })),
        ("rows over each other", Some(2), &|p| home(p, "w0").strip = Some(Strip { pitch: 32, ..STRIP })),
        ("fewer rows", Some(2), &|p| home(p, "w0").strip = Some(Strip { rows: 2, ..STRIP })),
        ("rows past all addresses", Some(2), &|p| home(p, "w0").strip = Some(Strip { pitch: u64::MAX, ..STRIP })),
        ("rows that lie apart, read in part", Some(2), &|p| home(p, "w2").strip = Some(STRIP)),
        ("one element all over, read in part", Some(2), &|p| {
            home(p, "w2").filled = Some(Filled { element: 4, bits: 0 });
        }),
        ("one element all over, turned", Some(2), &|p| {
            home(p, "w0").filled = Some(Filled { element: 4, bits: 0 });
            home(p, "w0").transposed = Some(MATRIX);
        }),
        ("one element all over, of rows", Some(2), &|p| {
            home(p, "w0").filled = Some(Filled { element: 4, bits: 0 });
            home(p, "w0").strip = Some(STRIP);
        }),
        ("an element that does not divide", Some(2), &|p| {
            home(p, "w0").filled = Some(Filled { element: 3, bits: 0 });
        }),
        ("a copy of no rows", Some(2), &|p| set_extent(p, "load 0", rows(0))),
        ("a copy of too many rows", Some(2), &|p| set_extent(p, "load 0", rows(1 << 70))),
        ("scratch of two berths", Some(2), &|p| {
            let Instruction::Run { berths, .. } = code(p, "run 0") else { panic!() };
            *berths.last_mut().unwrap() = "scratch 0 + scratch 1".into();
        }),
        ("bytes that end with the copy that takes them", Some(3), &|p| {
            berth(p, "w2").until = vec!["load 3".into()];
        }),
        ("nothing, in a berth of no bytes, written twice by one run", None, &|p| {
            let (name, kind) = ("none".to_owned(), Kind::Activation);
            p.tensors.push(Tensor { name: name.clone(), kind, bytes: Expr::constant(0), ..p.tensors[1].clone() });
            p.tensors.last_mut().unwrap().home = None;
            let until = vec!["run 0".to_owned()];
            let place =
                Berth { name: name.clone(), tensor: name.clone(), offset: 0, bytes: 0, until, ..p.berths[0].clone() };
            p.berths.push(place);
            p.tasks[0].accesses.extend([Access::Write(name.clone()), Access::Write(name.clone())]);
            let Instruction::Run { berths, .. } = code(p, "run 0") else { panic!() };
            let at = berths.len() - 1;
            berths.splice(at..at, [name.clone(), name]);
        }),
        ("a weight with a gap", Some(5), &|p| {
            set_extent(p, "load 0", Extent::Bytes(0, 64));
            let mut rest = code(p, "load 0").clone();
            if let Instruction::Copy { name, extent, .. } = &mut rest {
                (*name, *extent) = ("load 0 c".into(), Extent::Bytes(128, 192));
            }
            p.prologue.push(rest);
        }),
        ("a weight of two layouts", Some(5), &|p| {
            let arena = p.arenas.iter_mut().find(|a| a.tier == "hbm").unwrap();
            let offset = arena.bytes;
            arena.bytes += 512;
            (berth(p, "w0").offset, berth(p, "w0").bytes) = (offset, 512);
            set_extent(p, "load 0", rows(3));
            let mut over = code(p, "load 0").clone();
            if let Instruction::Copy { name, extent, after, .. } = &mut over {
                (*name, *extent, *after) = ("load 0 c".into(), Extent::Bytes(0, 64), vec![After::this("load 0")]);
            }
            p.prologue.push(over);
        }),
        ("a state that is read from its home", None, &|p| tensor(p, "w0").kind = Kind::State),
        ("a state of which the end is kept", Some(7), &|p| set_extent(p, "keep 1", Extent::Bytes(32, 64))),
        ("a state of which the start is kept", Some(7), &|p| set_extent(p, "keep 1", Extent::Bytes(0, 32))),
        ("an input that is fed twice", Some(12), &|p| {
            let mut again = code(p, "feed").clone();
            if let Instruction::Feed { name, .. } = &mut again {
                *name = "feed again".into();
            }
            p.bodies[0].code.push(again);
        }),
        ("an input that nobody wants", None, &|p| {
            p.tensors.push(Tensor { name: "idle".into(), ..p.tensors[0].clone() });
        }),
        ("one tensor read twice by a task", None, &|p| {
            p.tasks[0].accesses.push(Access::Read("w0".into()));
            let Instruction::Run { berths, .. } = code(p, "run 0") else { panic!() };
            let at = berths.len() - 1;
            berths.insert(at, "w0".into());
        }),
        ("a right over an access that is not there", None, &|p| p.tasks[0].in_place = vec![(99, 2)]),
        ("tasks that take longer than all copies", None, &|p| {
            p.tasks.iter_mut().for_each(|t| t.cost = Nanos(1 << 40));
        }),
    ];
    for (what, rule, edit) in cases {
        let (target, program) = made();
        let rules = broken(&target, program, edit);
        match rule {
            Some(rule) => assert!(rules.contains(rule), "{what}: breaks {rules:?}, not {rule}"),
            None => assert!(rules.is_empty(), "{what}: breaks {rules:?}"),
        }
    }
}

#[test]
fn seldom_corners_of_what_engines_keep() {
    fn held(p: &mut Program, task: usize) -> &mut Held {
        p.tasks[task].held.as_mut().unwrap()
    }
    let cases: &[(&str, Option<u8>, &dyn Fn(&mut Program))] = &[
        ("nothing", None, &|_| {}),
        ("a weight that is nowhere", Some(19), &|p| tensor(p, "kept 0.0").home = None),
        ("a weight that grows", Some(19), &|p| {
            p.header.dims.insert("n".into(), DimRange { low: 1, high: 2 });
            tensor(p, "kept 0.0").bytes = Expr::dim("n") * Expr::constant(64);
        }),
        ("another matrix", Some(19), &|p| home(p, "kept 0.0").transposed = Some(Transposed { rows: 4, ..MATRIX })),
        ("all addresses that there are", Some(19), &|p| {
            p.arenas.iter_mut().for_each(|arena| arena.bytes = u64::MAX);
            held(p, 0).bytes = u64::MAX - held(p, 0).offset;
        }),
        ("what is kept for another task", Some(19), &|p| held(p, 2).offset = held(p, 0).offset + 64),
        ("the same, of no bytes", None, &|p| (held(p, 2).offset, held(p, 2).bytes) = (held(p, 0).offset + 64, 0)),
        ("arenas in another order", None, &|p| p.arenas.reverse()),
        ("a part of a tensor that is none", Some(2), &|p| {
            p.berths.iter_mut().filter_map(|b| b.part.as_mut()).for_each(|part| part.1 = part.0);
        }),
    ];
    for (what, rule, edit) in cases {
        let (target, mut program) = made();
        keep_weights(&mut program);
        let rules = broken(&target, program, edit);
        match rule {
            Some(rule) => assert!(rules.contains(rule), "{what}: breaks {rules:?}, not {rule}"),
            None => assert!(rules.is_empty(), "{what}: breaks {rules:?}"),
        }
    }
}

#[test]
fn ranges_that_are_none_are_refused() {
    let (target, right) = program("two_buckets");
    let dim = right.header.dims.keys().next().unwrap().clone();
    let DimRange { low, high } = right.header.dims[&dim];
    let cases: &[(&str, &dyn Fn(&mut Program))] = &[
        ("backwards", &|p| p.header.dims.insert(dim.clone(), DimRange { low: high, high: low }).map_or((), drop)),
        ("below the header's", &|p| {
            p.header.dims.insert(dim.clone(), DimRange { low: low + 1, high });
            p.bodies[0].dims.insert(dim.clone(), DimRange { low, high });
        }),
        ("above the header's", &|p| {
            p.bodies[0].dims.insert(dim.clone(), DimRange { low, high: high + 1 });
        }),
    ];
    for (what, edit) in cases {
        assert!(broken(&target, right.clone(), edit).contains(&2), "{what}");
    }
    // Buckets with nothing between them: their transition has the dims of both.
    let apart = broken(&target, right, &|p| {
        p.bodies[0].dims.insert(dim.clone(), DimRange { low, high: low });
        p.bodies[1].dims.insert(dim.clone(), DimRange { low: high, high });
    });
    assert!(!apart.contains(&1), "{apart:?}");
}

#[test]
fn windows_are_counted_where_they_can_be() {
    let (mut target, mut program) = program("loop_prefetch");
    // Weights are read by two tasks each, and tasks take long: windows say more than the step's traffic.
    let weight = program.tensors.iter().find(|t| t.kind == Kind::Weight).unwrap().name.clone();
    let at = program.berths.iter().find(|b| b.tensor == weight).unwrap().name.clone();
    for i in &mut program.bodies[0].code {
        let Instruction::Run { task, berths, .. } = i else { continue };
        let task = program.tasks.iter_mut().find(|t| t.name == *task).unwrap();
        task.cost = Nanos(1 << 40);
        if !task.accesses.iter().any(|a| a.tensor() == weight) {
            let place = task.accesses.len();
            task.accesses.push(Access::Read(weight.clone()));
            berths.insert(place, at.clone());
        }
    }
    let counted = facts(&target, &program).unwrap();
    let windows = |f: &Facts| f.bounds.iter().filter(|b| matches!(b, Bound::Window { .. })).count();
    assert!(windows(&counted) <= program.tasks.len());
    let names: Vec<String> = program.tasks.iter().map(|t| t.name.clone()).collect();
    let claim = |target: &Target, p: &Program, at: &str, to: &str, bytes| {
        let (body, tier) = (p.bodies[0].name.clone(), "hbm".to_owned());
        let mut p = Program { facts: counted.clone(), ..p.clone() };
        p.facts.bounds = vec![Bound::Window { body, tier, bytes, at: at.into(), to: to.into() }];
        violations(target, &p, None).iter().any(|v| v.rule() == 16)
    };
    let right =
        (0..1 << 20).step_by(64).find(|bytes| !claim(&target, &program, &names[0], &names[names.len() - 1], *bytes));
    assert!(right.is_some(), "no number of bytes is the witness's");
    assert!(claim(&target, &program, &names[0], &names[0], 0), "a window of no length");
    assert!(claim(&target, &program, "nobody", &names[0], 0), "a window at no task");
    // Where nothing can enter there is no window, and where an engine reads elsewhere in place neither.
    target.links.iter_mut().filter(|l| l.to == "hbm").for_each(|l| l.state = LinkState::Cut);
    assert_eq!(windows(&facts(&target, &program).unwrap()), 0);
    target.engines[0].reads = vec!["nvme".into()];
    assert_eq!(windows(&facts(&target, &program).unwrap()), 0);
    assert!(claim(&target, &program, &names[0], &names[names.len() - 1], 0), "an engine that reads elsewhere");
}

/// A model of two operators in one task: what only the one makes for the other need not be said.
#[test]
fn what_stays_inside_a_task_need_not_be_said() {
    let (target, mut program) = made();
    let op = |name: &str, reads: &[&str], writes: &[&str]| OpFact {
        name: name.into(),
        reads: reads.iter().map(|r| (*r).to_owned()).collect(),
        writes: writes.iter().map(|w| (*w).to_owned()).collect(),
    };
    let fact = |t: &Tensor| TensorFact { kind: t.kind, dtype: t.dtype, bytes: t.bytes.clone(), home: t.home.clone() };
    let mut model = ModelFacts {
        hash: program.header.model.clone(),
        tensors: program.tensors.iter().map(|t| (t.name.clone(), fact(t))).collect(),
        ops: vec![
            op("op 0", &["a0"], &["inner"]),
            op("op 0 b", &["inner", "w0"], &["a1"]),
            op("op 1", &["a1", "w1", "kv1"], &["a2", "kv1"]),
            op("op 2", &["a2", "w2"], &["a3"]),
            op("op 3", &["a3", "w3"], &["a4"]),
        ],
    };
    program.tasks[0].ops.push("op 0 b".into());
    assert_eq!(violations(&target, &program, Some(&model)), []);
    // Read by another as well, it must be.
    model.ops[3].reads.push("inner".into());
    assert!(violations(&target, &program, Some(&model)).iter().any(|v| v.rule() == 18));
    model.ops[3].reads.pop();
    // The table's order is the order of the tasks: what comes first is computed first.
    program.tasks.swap(2, 3);
    assert!(violations(&target, &program, Some(&model)).iter().any(|v| v.rule() == 18));
}
