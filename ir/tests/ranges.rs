//! Programs that are proved for a range of a dim: what the verifier says of the range is what it says of each value in it, for
//! the programs and for mutants of them, and each value of what it accepts is performed by the simulated device.

mod common;
#[path = "common/device.rs"]
mod device;
#[path = "common/make.rs"]
mod make;
#[path = "common/mutants.rs"]
mod mutants;
#[path = "common/shapes.rs"]
mod shapes;

use berth_ir::program::{DimRange, Kind, Program};
use berth_ir::verify::{Violation, facts, violations};
use berth_ir::{Expr, Target, text};
use device::{Rng, knows, perform};
use make::{keep_weights, machine, make};
use mutants::{KINDS, change};
use std::collections::BTreeMap;

/// Programs in a normal run; `BERTH_PROGRAMS` says another number.
const PROGRAMS: usize = 100;
const SEED: u64 = 1815;
/// In one program of so many engines keep weights.
const KEPT: usize = 4;
/// Orders of chance that a program is performed in, beside each instruction as late and as early as can be.
const TRIES: usize = 2;
/// The dim, and its greatest value.
const DIM: &str = "n";
const MOST: u64 = 4;

/// What is wrong with a range, beside what may be wrong with any program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wrong {
    /// The range ends later than berths have room for.
    RangeRaised,
    /// A tensor grows faster than its berth has room for.
    SizeRaised,
    /// A tensor's size is that of a dim that there is not.
    SizeOfNothing,
    /// A tensor has its size at the upper end, and is larger below.
    SizeTurned,
}

const WRONGS: [Wrong; 4] = [Wrong::RangeRaised, Wrong::SizeRaised, Wrong::SizeOfNothing, Wrong::SizeTurned];

/// A made program whose values, inputs and outputs have sizes that follow from a dim, as their berths have room for.
fn ranged(rng: &mut Rng) -> Program {
    let mut program = make(&shapes::shape(rng));
    let n = || Expr::dim(DIM);
    for tensor in &mut program.tensors {
        let grows = match tensor.kind {
            Kind::Input | Kind::Output | Kind::Activation => true,
            Kind::State => rng.below(2) == 0,
            // What a task needs is a number, whatever the tensor says.
            Kind::Weight | Kind::Workspace => false,
        };
        let bytes = tensor.bytes.as_constant().expect("a number") as u64;
        if grows {
            tensor.bytes = n() * Expr::constant(bytes / MOST);
        }
    }
    program.header.dims = BTreeMap::from([(DIM.to_owned(), DimRange { low: 1, high: MOST })]);
    program.facts = facts(&machine(), &program).expect("it can be counted");
    program
}

/// The program at one value of the dim; nothing where a size is no number there.
fn at(target: &Target, program: &Program, value: u64) -> Option<Program> {
    let dims = BTreeMap::from([(DIM.to_owned(), value)]);
    let mut one = program.clone();
    for tensor in &mut one.tensors {
        tensor.bytes = Expr::constant(u64::try_from(tensor.bytes.eval(&dims).ok()?).ok()?);
    }
    one.header.dims.clear();
    // Facts are those of the upper end.
    one.facts = facts(target, &one)?;
    Some(one)
}

/// What is wrong at each value, as far as the verifier says: of what is not about facts.
fn wrong_at(target: &Target, program: &Program) -> Option<(u64, String)> {
    let range = program.header.dims[DIM];
    (range.low..=range.high).find_map(|value| match at(target, program, value) {
        None => Some((value, "no size".to_owned())),
        Some(one) => violations(target, &one, None).first().map(|found| (value, found.to_string())),
    })
}

/// What becomes of what the verifier accepts: each value of it must be accepted, and perform well.
fn hold(target: &Target, program: &Program, rng: &mut Rng, what: &str) -> usize {
    let wrong = wrong_at(target, program);
    assert!(wrong.is_none(), "{what}: the range is accepted, and at {wrong:?}\n{}", text::print(program));
    let mut orders = 0;
    let range = program.header.dims[DIM];
    for value in range.low..=range.high {
        let one = at(target, program, value).expect("sizes");
        assert!(knows(&one), "{what}: the device knows it at {value}");
        match perform(target, &one, TRIES, rng.next()) {
            Ok(performed) => orders += performed,
            Err(e) => panic!("{what} at {value}: {e}\n{}", text::print(&one)),
        }
    }
    orders
}

/// Whether a range is refused for what no single value shows.
fn is_of_the_range(found: &[Violation]) -> bool {
    found.iter().all(|violation| matches!(violation.rule(), 15 | 16))
}

#[test]
fn what_holds_for_a_range_holds_for_each_value_of_it() {
    println!("seed {SEED}");
    let (mut rng, target) = (Rng(SEED), machine());
    let (mut orders, mut harmless) = (0, 0);
    let mut refused: BTreeMap<String, usize> = BTreeMap::new();
    let programs = std::env::var("BERTH_PROGRAMS").map_or(PROGRAMS, |n| n.parse().expect("a number"));
    for n in 0..programs {
        let mut program = ranged(&mut rng);
        if n % KEPT == 0 {
            keep_weights(&mut program);
        }
        let found = violations(&target, &program, None);
        assert!(found.is_empty(), "program {n}: {}\n{}", found[0], text::print(&program));
        orders += hold(&target, &program, &mut rng, &format!("program {n}"));
        let mut try_one = |what: String, mutant: &Program, rng: &mut Rng| {
            let found = violations(&target, mutant, None);
            if found.is_empty() {
                harmless += 1;
                orders += hold(&target, mutant, rng, &format!("{what} of program {n}"));
                return;
            }
            *refused.entry(what.clone()).or_default() += 1;
            let shown = is_of_the_range(&found) || wrong_at(&target, mutant).is_some();
            assert!(shown, "{what} of program {n}: {} is refused, and no value is\n{}", found[0], text::print(mutant));
        };
        for kind in KINDS {
            let mut mutant = program.clone();
            if change(*kind, &program, &target, &mut rng).is_some_and(|change| change.apply(&mut mutant, &target)) {
                try_one(format!("{kind:?}"), &mutant, &mut rng);
            }
        }
        for wrong in WRONGS {
            let mut mutant = program.clone();
            let grows: Vec<usize> =
                (0..mutant.tensors.len()).filter(|t| mutant.tensors[*t].bytes.as_constant().is_none()).collect();
            let tensor = grows[rng.below(grows.len())];
            let size = mutant.tensors[tensor].bytes.clone();
            let most = size.eval(&BTreeMap::from([(DIM.to_owned(), MOST)])).expect("a size");
            if wrong == Wrong::RangeRaised {
                mutant.header.dims.insert(DIM.into(), DimRange { low: 1, high: MOST + 1 });
            }
            mutant.tensors[tensor].bytes = match wrong {
                Wrong::RangeRaised => size,
                Wrong::SizeRaised => size + Expr::dim(DIM) * Expr::constant(16u64),
                Wrong::SizeOfNothing => Expr::dim("m") * Expr::constant(16u64),
                Wrong::SizeTurned => Expr::constant(2 * most) - size,
            };
            if let Some(counted) = facts(&target, &mutant) {
                mutant.facts = counted;
            }
            let found = violations(&target, &mutant, None);
            assert!(!found.is_empty(), "{wrong:?} of program {n} is accepted\n{}", text::print(&mutant));
            assert!(wrong_at(&target, &mutant).is_some(), "{wrong:?} of program {n}: no value is wrong");
            *refused.entry(format!("{wrong:?}")).or_default() += 1;
        }
    }
    let mutants: usize = refused.values().sum::<usize>() + harmless;
    println!(
        "{PROGRAMS} programs, {mutants} mutants, {harmless} of them accepted; {orders} orders; refused: {refused:?}"
    );
    for kind in KINDS {
        assert!(refused.contains_key(&format!("{kind:?}")), "no mutant of {kind:?} is refused");
    }
}
