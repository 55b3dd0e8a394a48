//! Plans with one thing wrong: the verifier refuses each mutant of what the planner makes, or performing every order of a smaller
//! one on the simulated device shows that nothing went wrong. The kinds and the device are those of `ir/tests`.

#[path = "../../ir/tests/common/device.rs"]
mod device;
#[path = "common/made.rs"]
mod made;
#[path = "../../ir/tests/common/mutants.rs"]
mod mutants;
#[path = "../../ir/tests/common/tally.rs"]
mod tally;

use berth_ir::Target;
use berth_ir::program::Program;
use berth_ir::verify::violations;
use device::{Rng, knows, perform};
use made::planned;
use mutants::{KINDS, MutantKind};
use tally::{Tally, count};

/// Plans in a normal run.
const PROGRAMS: usize = 150;
const SEED: u64 = 1066;
/// In one plan of so many the engine keeps weights.
const KEPT: usize = 4;

#[test]
fn no_mutant_of_a_plan_survives() {
    println!("seed {SEED}");
    let mut rng = Rng(SEED);
    let mut tally = Tally::of_a_verifier(|target, program| violations(target, program, None).is_empty());
    let programs: Vec<(Target, Program)> =
        (0..count(PROGRAMS)).filter_map(|n| planned(&mut rng, n % KEPT == 0)).collect();
    for (n, (target, program)) in programs.iter().enumerate() {
        let found = violations(target, program, None);
        assert!(found.is_empty() && knows(program), "plan {n}: {found:?}");
        let performed = perform(target, program, 4, rng.next());
        assert!(performed.is_ok(), "plan {n}: {performed:?}");
        for kind in KINDS {
            tally.mutate(&format!("plan {n}"), *kind, program, target, &mut rng);
        }
    }
    tally.print(programs.len());
    assert!(programs.len() * 4 >= count(PROGRAMS) * 3, "only {} plans", programs.len());
    for kind in KINDS.iter().filter(|kind| **kind != MutantKind::WrongTransition) {
        assert!(tally.of(*kind).caught > 0, "no mutant of {kind:?} is caught");
    }
    assert!(tally.survivors.is_empty(), "{} survivors, first {}", tally.survivors.len(), tally.survivors[0]);
}
