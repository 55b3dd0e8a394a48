//! Counts what became of mutants, by kind.

#![allow(dead_code, reason = "each test file uses its part")]

use super::device::{Rng, Shown, instances, knows, perform, perform_all};
use super::mutants::{KINDS, MutantKind, change, shrink};
use berth_ir::{Program, Target, text};
use std::collections::BTreeMap;

/// Programs of at most so many instances are performed in every order, up to so many moments.
const SMALL: usize = 20;
const MOMENTS: usize = 8_000;
/// The same for what cannot be made smaller.
const LAST_MOMENTS: usize = 400_000;
/// Orders of chance that a program is performed in before.
const TRIES: usize = 4;
const SEED: u64 = 7;

/// What became of the mutants of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub mutants: usize,
    pub caught: usize,
    pub equivalent: usize,
    pub survivors: usize,
}

/// What became of all mutants.
pub struct Tally {
    /// Whether the verifier that is tried accepts a program.
    accepts: fn(&Target, &Program) -> bool,
    counts: BTreeMap<MutantKind, Count>,
    /// What each smaller program showed, so that equal ones are performed once.
    shown: BTreeMap<String, Shown>,
    pub survivors: Vec<String>,
}

/// A number of programs, or what `BERTH_PROGRAMS` says.
pub fn count(programs: usize) -> usize {
    std::env::var("BERTH_PROGRAMS").ok().and_then(|n| n.parse().ok()).unwrap_or(programs)
}

impl Tally {
    pub fn of_a_verifier(accepts: fn(&Target, &Program) -> bool) -> Tally {
        Tally { accepts, counts: BTreeMap::new(), shown: BTreeMap::new(), survivors: Vec::new() }
    }

    pub fn of(&self, kind: MutantKind) -> Count {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Makes one mutant of a kind, where the program has a place for it, and finds out what becomes of it.
    pub fn mutate(&mut self, name: &str, kind: MutantKind, program: &Program, target: &Target, rng: &mut Rng) {
        let Some(change) = change(kind, program, target, rng) else { return };
        let mut mutant = program.clone();
        if !change.apply(&mut mutant, target) {
            return;
        }
        let counts = self.counts.entry(kind).or_default();
        counts.mutants += 1;
        if !(self.accepts)(target, &mutant) {
            counts.caught += 1;
            return;
        }
        let (mut last, mut showed) = (mutant.clone(), Shown::TooMany);
        // As it is in some orders first: what is left out to make it smaller may be what shows it.
        if !knows(&mutant) {
            showed = Shown::Broken("the device does not know sizes like these".to_owned());
        } else if let Err(e) = perform(target, &mutant, TRIES, SEED) {
            showed = Shown::Broken(e);
        } else {
            shrink(program, &change, target, self.accepts, |smaller| {
                last = smaller.clone();
                if instances(smaller) <= SMALL {
                    let all = || perform_all(target, smaller, MOMENTS);
                    showed = self.shown.entry(text::print(smaller)).or_insert_with(all).clone();
                }
                showed != Shown::TooMany
            });
        }
        if showed == Shown::TooMany {
            showed = perform_all(target, &last, LAST_MOMENTS);
        }
        if showed == Shown::Safe {
            counts.equivalent += 1;
        } else {
            counts.survivors += 1;
            self.survivors.push(format!("{kind:?} {change:?} of {name}: {showed:?}\n{}", text::print(&last)));
        }
    }

    /// A line for each kind.
    pub fn print(&self, programs: usize) {
        println!("{programs} programs, {} smaller ones performed in every order", self.shown.len());
        println!("{:<24}{:>9}{:>9}{:>12}{:>11}", "kind", "mutants", "caught", "equivalent", "survivors");
        let mut all = Count::default();
        for kind in KINDS {
            let Count { mutants, caught, equivalent, survivors } = self.of(*kind);
            println!("{:<24}{mutants:>9}{caught:>9}{equivalent:>12}{survivors:>11}", format!("{kind:?}"));
            all.mutants += mutants;
            all.caught += caught;
            all.equivalent += equivalent;
            all.survivors += survivors;
        }
        let Count { mutants, caught, equivalent, survivors } = all;
        println!("{:<24}{mutants:>9}{caught:>9}{equivalent:>12}{survivors:>11}", "all");
    }
}
