//! Text and binary hold any program without loss, and no text, bytes or program makes a reader or the verifier panic.

mod common;

use berth_ir::program::*;
use berth_ir::units::{Bytes, Nanos};
use berth_ir::verify::{facts, violations};
use berth_ir::{DType, Expr, Target, binary, text};
use common::{files, parse, target};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// Any text at all; a name with `~` has no text form where it is waited for, and is refused everywhere.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z]{1,6}",
        "(?s).{0,6}".prop_map(|s: String| s.replace('~', "")),
        Just("\"\\\n\t\u{0}'#r\"(".to_owned()),
    ]
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![any::<u32>().prop_map(Expr::constant), "[a-z]{1,3}".prop_map(|n| Expr::dim(&n))];
    let tree = leaf.prop_recursive(4, 24, 2, |part| {
        (part.clone(), part, 0..6u8).prop_map(|(a, b, how)| match how {
            0 => a + b,
            1 => a - b,
            2 => a * b,
            3 => a.floor_div(&(b.max(&Expr::constant(1)))),
            4 => a.ceil_div(&(b.max(&Expr::constant(1)))),
            _ => a.min(&b),
        })
    });
    tree.prop_filter("it has a value", |e| !e.is_overflow())
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..200u64, any::<u64>(), Just(u64::MAX)]
}

fn dims() -> impl Strategy<Value = std::collections::BTreeMap<String, DimRange>> {
    let range = (any::<u64>(), any::<u64>()).prop_map(|(a, b)| (a >> 1, b >> 1));
    btree_map(name(), range.prop_map(|(a, b)| DimRange { low: a.min(b), high: a.max(b) }), 0..3)
}

fn header() -> impl Strategy<Value = Header> {
    let some = (any::<u32>(), name(), name(), name(), any::<bool>(), any::<bool>());
    let maps = (dims(), btree_map(name(), number(), 0..3), btree_map(name(), number().prop_map(Bytes), 0..3));
    let split = prop::option::of((number(), number(), any::<bool>()).prop_map(|(room, threads, contiguous)| Split {
        room,
        threads,
        contiguous,
    }));
    let recompute = (name(), prop::collection::vec(name(), 0..3)).prop_map(|(op, readers)| Recompute { op, readers });
    let states = (name(), name()).prop_map(|(input, output)| Carried { input, output });
    let changed = (split, prop::collection::vec(recompute, 0..3), prop::collection::vec(states, 0..3));
    (some, maps, changed).prop_map(
        |((format, model, target, layout, exact, looped), (dims, growth, memory), changed)| {
            let (split, recompute, states) = changed;
            Header {
                format,
                model,
                target,
                layout,
                numerics: if exact { Numerics::Exact } else { Numerics::Fast },
                mode: if looped { Mode::Loop } else { Mode::Once },
                dims,
                growth,
                memory,
                split,
                recompute,
                states,
            }
        },
    )
}

fn tensor() -> impl Strategy<Value = Tensor> {
    use Kind::*;
    let kind = prop::sample::select(vec![Weight, Input, Output, Activation, State, Workspace]);
    let matrix = (number(), number(), number());
    let matrix = prop::option::of(matrix.prop_map(|(rows, columns, element)| Transposed { rows, columns, element }));
    let filled = prop::option::of((number(), number()).prop_map(|(element, bits)| Filled { element, bits }));
    let strip = (number(), number(), number());
    let strip = prop::option::of(strip.prop_map(|(rows, bytes, pitch)| Strip { rows, bytes, pitch }));
    let home = (name(), name(), number(), matrix, strip, filled);
    let home = home.prop_map(|(tier, file, offset, transposed, strip, filled)| Home {
        tier,
        file,
        offset,
        transposed,
        strip,
        filled,
    });
    (name(), kind, prop::sample::select(DType::ALL.to_vec()), expr(), prop::option::of(home))
        .prop_map(|(name, kind, dtype, bytes, home)| Tensor { name, kind, dtype, bytes, home })
}

fn task() -> impl Strategy<Value = Task> {
    let access = (name(), 0..4u8).prop_map(|(t, how)| match how {
        0 => Access::Read(t),
        1 => Access::ReadRows(t),
        2 => Access::Write(t),
        _ => Access::Append(t),
    });
    let lists = (vec(name(), 0..3), vec(access, 0..4), vec((any::<usize>(), any::<usize>()), 0..2));
    let held = (vec(name(), 0..3), name(), number(), number());
    let held = held.prop_map(|(weights, arena, offset, bytes)| Held { weights, arena, offset, bytes });
    (name(), name(), lists, number(), number(), prop::option::of(held)).prop_map(
        |(name, engine, (ops, accesses, in_place), workspace, cost, held)| Task {
            name,
            engine,
            ops,
            accesses,
            workspace,
            cost: Nanos(cost),
            in_place,
            held,
        },
    )
}

fn berth() -> impl Strategy<Value = Berth> {
    let part = prop::option::of((number(), number()));
    (name(), name(), part, name(), number(), number(), vec(name(), 0..3)).prop_map(
        |(name, tensor, part, arena, offset, bytes, until)| Berth { name, tensor, part, arena, offset, bytes, until },
    )
}

fn instruction() -> impl Strategy<Value = Instruction> {
    let after = (name(), any::<u32>()).prop_map(|(name, steps)| After { name, steps });
    let extent = prop_oneof![
        Just(Extent::Whole),
        (number(), number()).prop_map(|(a, b)| Extent::Bytes(a, b)),
        (expr(), expr(), expr(), expr()).prop_map(|(rows, bytes, from_pitch, to_pitch)| Extent::Rows {
            rows,
            bytes,
            from_pitch,
            to_pitch
        }),
    ];
    let class = prop::sample::select(vec![Class::Demand, Class::Planned, Class::Speculative]);
    let from = prop::option::of(name()).prop_map(|b| b.map_or(Place::Home, Place::Berth));
    let copy = (from, name(), extent, name(), class, prop::option::of(name()));
    (0..6u8, name(), name(), vec(name(), 0..4), vec(after, 0..3), copy).prop_map(
        |(what, name, berth, berths, after, (from, to, extent, queue, class, wanted))| match what {
            0 => Instruction::Copy { name, from, to, extent, queue, class, wanted, after },
            1 => Instruction::Run { name, task: berth, berths, after },
            2 => Instruction::Feed { name, berth, after },
            3 => Instruction::Fetch { name, berth, after },
            4 => Instruction::Require { name, berth, after },
            _ => Instruction::Pool { name, berth, after },
        },
    )
}

fn some_facts() -> impl Strategy<Value = Facts> {
    let traffic = (name(), name(), number()).prop_map(|(part, link, bytes)| Traffic { part, link, bytes });
    let bound =
        (0..3, name(), name(), number(), name(), name()).prop_map(|(kind, body, tier, bytes, at, to)| match kind {
            0 => Bound::Room { body, tier, bytes, at },
            1 => Bound::Window { body, tier, bytes, at, to },
            _ => Bound::Traffic { body, tier, bytes, at },
        });
    let maps = (btree_map(name(), number(), 0..3), btree_map(name(), number(), 0..3));
    (maps, vec(traffic, 0..3), vec(bound, 0..3)).prop_map(|((calls, peaks), traffic, bounds)| Facts {
        calls,
        traffic,
        peaks,
        bounds,
    })
}

fn programs() -> impl Strategy<Value = Program> {
    let code = || vec(instruction(), 0..4);
    let body = (name(), dims(), code()).prop_map(|(name, dims, code)| Body { name, dims, code });
    let transition = (name(), name(), name(), code());
    let transition = transition.prop_map(|(name, from, to, code)| Transition { name, from, to, code });
    let arena = (name(), number()).prop_map(|(tier, bytes)| Arena { tier, bytes });
    let tables = (vec(arena, 0..3), vec(tensor(), 0..3), vec(task(), 0..3), vec(berth(), 0..3));
    let parts = (code(), vec(body, 0..3), vec(transition, 0..2), some_facts());
    (header(), tables, parts).prop_map(
        |(header, (arenas, tensors, tasks, berths), (prologue, bodies, transitions, facts))| Program {
            header,
            arenas,
            tensors,
            tasks,
            berths,
            prologue,
            bodies,
            transitions,
            facts,
        },
    )
}

/// Reads it in both forms, and verifies what reads.
fn survive(target: &Target, program: &Program) {
    let found = violations(target, program, None);
    let _ = found.iter().map(|v| format!("{v} {}", v.culprit())).collect::<String>();
    let _ = facts(target, program);
}

/// Numbers and names of a text, where they stand.
fn words(text: &str) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    let mut start = None;
    for (at, c) in text.char_indices() {
        match (start, c) {
            (None, '"') => start = Some((at, true)),
            (None, '0'..='9') => start = Some((at, false)),
            (Some((from, true)), '"') => {
                all.push((from, at + 1));
                start = None;
            }
            (Some((from, false)), c) if !c.is_ascii_digit() => {
                all.push((from, at));
                start = None;
            }
            _ => {}
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_program_survives_both_forms(program in programs()) {
        let printed = text::print(&program);
        let read = text::parse(&printed);
        prop_assert_eq!(read.as_ref(), Ok(&program), "{}", printed);
        let read = binary::read(&binary::write(&program));
        prop_assert_eq!(read.as_ref(), Ok(&program));
        survive(&target("one-device"), &program);
    }

    #[test]
    fn random_bytes_are_no_panic(bytes in vec(any::<u8>(), 0..200), text in "(?s).{0,80}", digits in "[()\\[\\]{}:,\"a-z0-9~.]{0,80}") {
        let _ = binary::read(&bytes);
        let _ = text::parse(&text);
        let _ = text::parse(&digits);
        let _ = Target::from_ron(&text);
        let _ = Target::from_ron(&digits);
    }

    /// Numbers become extreme ones, names those of other things.
    #[test]
    fn changed_words_are_no_panic(pick in any::<prop::sample::Index>(), changes in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8u8), 1..4)) {
        let all = files("programs");
        let (name, source) = pick.get(&all);
        let mut source = text::print(&parse(name, source));
        for (at, with, how) in changes {
            let words = words(&source);
            let (from, to) = *at.get(&words);
            let (a, b) = *with.get(&words);
            let with = match how {
                0 => u64::MAX.to_string(),
                1 => i64::MAX.to_string(),
                2 => "0".to_owned(),
                3 => "1".to_owned(),
                4 => "18446744073709551552".to_owned(),
                _ => source[a..b].to_owned(),
            };
            source.replace_range(from..to, &with);
        }
        if let Ok(program) = text::parse(&source) {
            survive(&target(&parse(name, &pick.get(&all).1).header.target), &program);
            let read = binary::read(&binary::write(&program));
            prop_assert_eq!(read.as_ref(), Ok(&program));
        }
    }

    #[test]
    fn changed_bytes_are_no_panic(pick in any::<prop::sample::Index>(), changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let all = files("programs");
        let (name, source) = pick.get(&all);
        let mut bytes = binary::write(&parse(name, source));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(program) = binary::read(&bytes) {
            survive(&target("one-device"), &program);
        }
    }
}

#[test]
fn cut_off_files_are_errors() {
    for (name, source) in files("programs") {
        let program = parse(&name, &source);
        let printed = text::print(&program);
        let end = printed.trim_end().len();
        for cut in (0..end).step_by(7).filter(|c| printed.is_char_boundary(*c)) {
            assert!(text::parse(&printed[..cut]).is_err(), "{name} cut at {cut}");
        }
        let bytes = binary::write(&program);
        for cut in 0..bytes.len() {
            if let Ok(part) = binary::read(&bytes[..cut]) {
                // A cut between two fields reads as a smaller program, and that is not safe.
                assert_ne!(violations(&target(&program.header.target), &part, None), [], "{name} cut at {cut}");
            }
        }
    }
}

#[test]
fn deep_nesting_is_an_error() {
    for open in ["(", "[", "{", "Some(", "(header:", "[[(", "(a:["] {
        let deep = open.repeat(100_000);
        assert!(text::parse(&deep).is_err());
        assert!(Target::from_ron(&deep).is_err());
    }
    let (_, program) = common::program("one_shot");
    let printed = text::print(&program);
    for (open, close) in [("(", ")"), ("min(", ", 1)"), ("-", ""), ("1//(", ")")] {
        let deep = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        // What it means may be small; that it ends is the point.
        let _ = text::parse(&printed.replacen("bytes: \"64\"", &format!("bytes: \"{deep}\""), 1));
    }
    for byte in [0x0b, 0x0a, 0x12, 0xff, 0x80] {
        assert!(binary::read(&[byte; 100_000]).is_err());
    }
}
