//! Random programs against an oracle that runs them: what the verifier accepts never reads a wrong byte.

#[path = "common/make.rs"]
mod make;
#[path = "common/oracle.rs"]
mod oracle;

use berth_ir::program::*;
use berth_ir::verify::{facts, violations};
use berth_ir::{Target, text};
use make::{Layer, Shape, State, Weight, machine, make};
use oracle::Rng;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const STEPS: usize = 4;

fn layers() -> impl Strategy<Value = Vec<Layer>> {
    let state = prop_oneof![
        3 => Just(State::None), 1 => Just(State::Stays), 1 => Just(State::Travels), 1 => Just(State::Flips)
    ];
    let weight = prop_oneof![
        1 => Just(Weight::Stays), 1 => Just(Weight::StaysInPart), 1 => Just(Weight::StreamsInPieces), 3 => Just(Weight::Streams)
    ];
    let layer = (weight, 2..4u64, any::<bool>(), any::<bool>(), state, any::<bool>());
    let layer = layer.prop_map(|(weight, cells, second_engine, in_place, state, workspace)| Layer {
        weight,
        cells,
        second_engine,
        in_place,
        state,
        workspace,
    });
    proptest::collection::vec(layer, 1..7)
}

fn shapes() -> impl Strategy<Value = Shape> {
    let skip = proptest::option::of((0..5usize, 2..6usize, any::<bool>()));
    let mode = prop_oneof![4 => Just(Mode::Loop), 1 => Just(Mode::Once)];
    (mode, layers(), 1..4usize, skip, any::<bool>()).prop_map(|(mode, layers, slots, skip, staged)| Shape {
        mode,
        layers,
        slots,
        skip,
        staged,
    })
}

/// Changes one thing at random. Says what.
fn mutate(program: &mut Program, rng: &mut Rng) -> String {
    let berths = program.berths.len();
    let code = &mut program.bodies[0].code;
    let (i, b) = (rng.below(code.len()), rng.below(berths));
    let other = code[rng.below(code.len())].name().to_owned();
    let name = code[i].name().to_owned();
    let berth = program.berths[b].name.clone();
    let pick = |rng: &mut Rng, after: &mut Vec<After>| (!after.is_empty()).then(|| rng.below(after.len()));
    match rng.below(12) {
        0 | 1 => match pick(rng, afters(&mut code[i])) {
            Some(a) => format!("{name} no longer waits for {}", afters(&mut code[i]).remove(a)),
            None => "nothing".into(),
        },
        2 => match pick(rng, afters(&mut code[i])) {
            Some(a) => {
                let after = &mut afters(&mut code[i])[a];
                after.steps = 1 - after.steps;
                format!("{name} waits for {after} instead")
            }
            None => "nothing".into(),
        },
        3 => match pick(rng, afters(&mut code[i])) {
            Some(a) => {
                afters(&mut code[i])[a].name = other.clone();
                format!("{name} waits for {other}")
            }
            None => "nothing".into(),
        },
        4 => {
            let offset = &mut program.berths[b].offset;
            *offset = if rng.below(2) == 0 { *offset + 64 } else { offset.saturating_sub(64) };
            format!("{berth} moves to {offset}")
        }
        5 => {
            let until = &mut program.berths[b].until;
            if until.is_empty() {
                return "nothing".into();
            }
            let gone = until.remove(rng.below(until.len()));
            format!("{berth} no longer ends with {gone}")
        }
        6 => {
            program.berths[b].until = vec![other.clone()];
            format!("{berth} ends with {other}")
        }
        7 => {
            let c = rng.below(berths);
            let (x, y) = (program.berths[b].offset, program.berths[c].offset);
            (program.berths[b].offset, program.berths[c].offset) = (y, x);
            format!("{berth} and {} change places", program.berths[c].name)
        }
        8 => {
            code.remove(i);
            for j in code.iter_mut() {
                afters(j).retain(|a| a.name != name);
            }
            for berth in &mut program.berths {
                berth.until.retain(|u| *u != name);
            }
            format!("{name} is gone")
        }
        9 => {
            let bytes = &mut program.berths[b].bytes;
            *bytes = bytes.saturating_sub(64);
            format!("{berth} has {bytes} bytes")
        }
        10 => {
            let next = (i + 1) % code.len();
            code.swap(i, next);
            format!("{name} changes its turn")
        }
        _ => {
            let same: Vec<_> = program.berths.iter().filter(|o| o.tensor == program.berths[b].tensor).collect();
            let instead = same[rng.below(same.len())].name.clone();
            for i in code.iter_mut() {
                rebind(i, &berth, &instead);
            }
            format!("{instead} is used for {berth}")
        }
    }
}

fn afters(i: &mut Instruction) -> &mut Vec<After> {
    match i {
        Instruction::Copy { after, .. }
        | Instruction::Run { after, .. }
        | Instruction::Feed { after, .. }
        | Instruction::Fetch { after, .. }
        | Instruction::Require { after, .. }
        | Instruction::Pool { after, .. } => after,
    }
}

fn rebind(i: &mut Instruction, from: &str, to: &str) {
    let change = |b: &mut String| {
        if b == from {
            *b = to.to_owned();
        }
    };
    match i {
        Instruction::Run { berths, .. } => berths.iter_mut().for_each(change),
        Instruction::Copy { from: Place::Berth(b), .. } => change(b),
        Instruction::Fetch { berth, .. } => change(berth),
        _ => {}
    }
}

/// All that the verifier says of it, facts counted anew.
fn refused(target: &Target, program: &mut Program) -> bool {
    if let Some(counted) = facts(target, program) {
        program.facts = counted;
    }
    !violations(target, program, None).is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn made_programs_verify_and_run(shape in shapes(), seed: u64) {
        let program = make(&shape);
        let found = violations(&machine(), &program, None);
        prop_assert!(found.is_empty(), "{}\n{}", found.iter().map(|v| v.to_string()).collect::<Vec<_>>().join("\n"),
            text::print(&program));
        prop_assert_eq!(oracle::run(&program, STEPS, 10, seed), Ok(()), "{}", text::print(&program));
    }

    #[test]
    fn what_is_accepted_runs(shape in shapes(), changes in proptest::collection::vec(any::<u64>(), 1..4), seed: u64) {
        let mut program = make(&shape);
        let said: Vec<String> = changes.iter().map(|c| mutate(&mut program, &mut Rng(*c | 1))).collect();
        if !refused(&machine(), &mut program) {
            let ran = oracle::run(&program, STEPS, 30, seed);
            prop_assert_eq!(ran, Ok(()), "{:?}\n{}", said, text::print(&program));
        }
    }
}

/// How sharp the two are: of refused mutants the oracle should break most, or the verifier refuses too much, or the
/// oracle sees too little.
#[test]
fn the_oracle_breaks_most_of_what_is_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut rng = Rng(7);
    let (mut accepted, mut broken, mut shy) = (0, 0, std::collections::BTreeMap::new());
    for _ in 0..400 {
        let shape = shapes().new_tree(&mut runner).unwrap().current();
        let mut program = make(&shape);
        let said = mutate(&mut program, &mut rng);
        if let Some(counted) = facts(&machine(), &program) {
            program.facts = counted;
        }
        let found = violations(&machine(), &program, None);
        if found.is_empty() {
            accepted += 1;
        } else if !found.iter().any(|v| v.rule() <= 2) {
            match oracle::run(&program, STEPS, 20, rng.next()) {
                Err(_) => broken += 1,
                Ok(()) => *shy.entry(format!("{} {said}", found[0])).or_insert(0) += 1,
            }
        }
    }
    if std::env::var("SHOW").is_ok() {
        for s in &shy {
            println!("{s:?}");
        }
    }
    let shy: usize = shy.values().sum();
    println!("{accepted} accepted, {broken} refused and broken, {shy} refused and not broken");
    assert!(broken > shy, "{accepted} accepted, {broken} refused and broken, {shy} refused and not broken");
}
