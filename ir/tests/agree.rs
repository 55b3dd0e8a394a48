//! The verifier and a simulated device, which share no code, on made programs and on mutants of them: what the one proves
//! the other performs without a wrong read in every order tried, and what the one refuses the other breaks.
//!
//! `BERTH_PROGRAMS=10000 cargo test --release -p berth-ir --test agree -- --nocapture` makes so many programs.

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

use berth_ir::text;
use berth_ir::verify::violations;
use device::{Rng, Shown, instances, perform, perform_all};
use make::{keep_weights, machine, make};
use mutants::{KINDS, change};
use std::collections::BTreeMap;
use tally::count;

/// Programs in a normal run.
const VALID: usize = 2_000;
const MUTATED: usize = 200;
const SEED: u64 = 1975;
/// In one program of so many engines keep weights.
const KEPT: usize = 4;
/// Orders of chance, besides those in which one instruction is late or early.
const TRIES: usize = 4;
/// A program of so few instances is performed in every order, up to so many moments.
const SMALL: usize = 24;
const MOMENTS: usize = 5_000;

/// Rules that a device need not see broken, and why.
const STRICTER: &[(u8, &str)] = &[
    (
        3,
        "who holds bytes when is a rule of its own: where what is overwritten is not read again, nothing is read wrong",
    ),
    (6, "two writes of the same bytes may give the same content"),
    (7, "a berth may be used after its end while nobody else has its bytes yet; a state may be lost that is fed again"),
    (9, "a step may leave less than it found where a later step brings it again"),
    (14, "a part that no run reaches is never performed"),
    (16, "bounds say what no program can beat; no run shows that"),
];

#[test]
fn no_valid_program_is_refused_and_none_reads_a_wrong_byte() {
    let (programs, target) = (count(VALID), machine());
    println!("seed {SEED}, {programs} programs");
    let mut rng = Rng(SEED);
    let (mut whole, mut orders, mut largest) = (0, 0, 0);
    for n in 0..programs {
        let mut program = make(&shapes::shape(&mut rng));
        if n % KEPT == 0 {
            keep_weights(&mut program);
        }
        let found = violations(&target, &program, None);
        assert!(found.is_empty(), "program {n}: {}\n{}", found[0], text::print(&program));
        match perform(&target, &program, TRIES, rng.next()) {
            Ok(performed) => orders += performed,
            Err(e) => panic!("program {n}: {e}\n{}", text::print(&program)),
        }
        let instances = instances(&program);
        largest = largest.max(instances);
        if instances <= SMALL {
            match perform_all(&target, &program, MOMENTS) {
                Shown::Broken(e) => panic!("program {n}: {e}\n{}", text::print(&program)),
                Shown::Safe => whole += 1,
                Shown::TooMany => {}
            }
        }
    }
    println!("0 false alarms; {orders} orders of up to {largest} instances; {whole} programs in every order");
    assert!(whole * 50 > programs, "only {whole} programs were performed in every order");
}

#[test]
fn verifier_and_device_agree_on_mutants() {
    let (programs, target) = (count(MUTATED), machine());
    println!("seed {SEED}, {programs} programs, each with a mutant of {} kinds", KINDS.len());
    let mut rng = Rng(SEED);
    let (mut proved, mut refused, mut broken) = (0, 0, 0);
    // By rule: refused for it first, and not broken.
    let mut only_refused: BTreeMap<u8, usize> = BTreeMap::new();
    for n in 0..programs {
        let mut program = make(&shapes::shape(&mut rng));
        if n % KEPT == 0 {
            keep_weights(&mut program);
        }
        for kind in KINDS {
            let Some(change) = change(*kind, &program, &target, &mut rng) else { continue };
            let mut mutant = program.clone();
            if !change.apply(&mut mutant, &target) {
                continue;
            }
            let found = violations(&target, &mutant, None);
            let ran = perform(&target, &mutant, TRIES, rng.next());
            match (found.first(), ran) {
                (None, Ok(_)) => proved += 1,
                (None, Err(e)) => panic!("program {n}, {change:?}: proved, but {e}\n{}", text::print(&mutant)),
                (Some(_), Err(_)) => (refused, broken) = (refused + 1, broken + 1),
                (Some(first), Ok(_)) => {
                    refused += 1;
                    *only_refused.entry(first.rule()).or_default() += 1;
                    let known = STRICTER.iter().any(|(rule, _)| *rule == first.rule());
                    assert!(known, "program {n}, {change:?}: {first}, but nothing breaks\n{}", text::print(&mutant));
                }
            }
        }
    }
    println!("{proved} proved and performed, {broken} of {refused} refused were broken");
    println!("refused and not broken, by rule: {only_refused:?}");
    assert!(proved > programs / 2 && refused > programs, "{proved} proved, {refused} refused");
    assert!(broken * 100 >= refused * 85, "the device breaks only {broken} of {refused}");
}
