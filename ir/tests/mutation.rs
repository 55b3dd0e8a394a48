//! Programs with one thing wrong: the verifier refuses each, or performing every order of a smaller one shows that nothing
//! went wrong. One that is neither is a survivor.
//!
//! `BERTH_PROGRAMS=10000 cargo test --release -p berth-ir --test mutation -- --nocapture` makes so many programs.

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/make.rs"]
mod make;
#[path = "common/mutants.rs"]
mod mutants;
#[path = "common/shapes.rs"]
mod shapes;
#[path = "common/tally.rs"]
mod tally;

use berth_ir::verify::violations;
use berth_ir::{Program, Target, text};
use common::{files, parse, target};
use device::{Rng, knows};
use make::{keep_weights, machine, make};
use mutants::{KINDS, MutantKind};
use tally::{Tally, count};

/// Programs in a normal run: the least is 500.
const PROGRAMS: usize = 500;
const SEED: u64 = 2026;
/// In one program of so many engines keep weights.
const KEPT: usize = 3;

/// Made programs, and those written by hand whose sizes are numbers.
fn programs() -> Vec<(String, Target, Program)> {
    let mut all: Vec<(String, Target, Program)> = Vec::new();
    for (name, source) in files("programs") {
        let program = parse(&name, &source);
        if knows(&program) {
            all.push((name, target(&program.header.target), program));
        }
    }
    let mut rng = Rng(SEED);
    for n in 0..count(PROGRAMS) {
        let shape = shapes::shape(&mut rng);
        let mut program = make(&shape);
        if n % KEPT == 0 {
            keep_weights(&mut program);
        }
        all.push((format!("program {n}"), machine(), program));
    }
    all
}

#[test]
fn no_mutant_survives() {
    println!("seed {SEED}");
    let mut rng = Rng(SEED);
    let mut tally = Tally::of_a_verifier(|target, program| violations(target, program, None).is_empty());
    let programs = programs();
    for (name, target, program) in &programs {
        let found = violations(target, program, None);
        assert!(found.is_empty(), "{name}: {}\n{}", found[0], text::print(program));
        for kind in KINDS {
            tally.mutate(name, *kind, program, target, &mut rng);
        }
    }
    tally.print(programs.len());
    assert!(programs.len() >= 500, "only {} programs", programs.len());
    for kind in KINDS {
        let tried = tally.of(*kind).mutants;
        // Transitions and weights that engines keep are in a part of the programs.
        let part = matches!(kind, MutantKind::WrongTransition | MutantKind::KeptWrong);
        let least = if part { 100 } else { 300 };
        assert!(tried >= least, "only {tried} mutants of {kind:?}");
        assert!(tally.of(*kind).caught > 0, "no mutant of {kind:?} is caught");
    }
    assert!(tally.survivors.is_empty(), "{} survivors, first {}", tally.survivors.len(), tally.survivors[0]);
}

/// The same with a verifier that refuses nothing: what it lets through is found, of every kind.
#[test]
fn mutants_survive_a_verifier_that_accepts_everything() {
    let mut rng = Rng(SEED);
    let mut tally = Tally::of_a_verifier(|_, _| true);
    for (name, target, program) in programs().iter().step_by(30) {
        for kind in KINDS {
            tally.mutate(name, *kind, program, target, &mut rng);
        }
    }
    tally.print(0);
    for kind in KINDS {
        assert!(tally.of(*kind).survivors > 0, "no mutant of {kind:?} is found wrong by performing it");
    }
}
