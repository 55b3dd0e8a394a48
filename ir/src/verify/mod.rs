//! Proves a memory program safe, or says all that is wrong with it.
//!
//! The verifier imports no pass and trusts none: it derives names, sizes, order, lifetimes and contents again from
//! the program and the target alone. [`RULES`] lists what it checks. It looks at the prologue and enough steps that
//! every three consecutive units a run can meet are seen, which suffices because edges and run-ahead reach one step.
//!
//! What it does not check: that a task computes what its ops say (the engine's affair), rates and times, and how deep
//! a queue gets (the executor throttles that). `Require` and `Pool` are refused until they can be proved.

mod facts;
mod flow;
mod held;
mod index;
mod model;
mod order;
mod violation;
mod windows;

pub use model::{ModelFacts, OpFact, TensorFact};
pub use violation::{
    BindingProblem, ExtentProblem, HeldProblem, LinkProblem, ModelProblem, NameProblem, RULES, Violation,
};

use crate::program::{Facts, Mode, Program};
use crate::target::Target;
use std::collections::BTreeSet;
use std::ops::Deref;

/// Something that [`verify`] has proved safe. There is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<P>(P);

impl<P> Verified<P> {
    /// Gives the program up, and the proof with it.
    pub fn into_inner(self) -> P {
        self.0
    }
}

impl<P> Deref for Verified<P> {
    type Target = P;
    fn deref(&self) -> &P {
        &self.0
    }
}

/// Checks every rule that can be checked; with the model at hand, that the program is this model's too.
///
/// # Errors
/// All violations found, sorted by rule. Rules that need what a broken one would have given are not reached.
pub fn verify(
    target: &Target,
    program: Program,
    model: Option<&ModelFacts>,
) -> Result<Verified<Program>, Vec<Violation>> {
    let found = violations(target, &program, model);
    if found.is_empty() { Ok(Verified(program)) } else { Err(found) }
}

/// What [`verify`] finds, without giving the program away.
pub fn violations(target: &Target, program: &Program, model: Option<&ModelFacts>) -> Vec<Violation> {
    let mut early = Vec::new();
    let target = &target.budgeted(&program.header.memory);
    let index = index::index(target, program, &mut early);
    let mut found: BTreeSet<Violation> = early.into_iter().collect();
    if let Some(index) = &index {
        flow::check_io(index, &mut found);
        held::check(index, &mut found);
        facts::check(index, &mut found);
        if let Some(model) = model {
            model::check(index, model, &mut found);
        }
        let walks = order::walks(index, program.header.mode == Mode::Once);
        let reached: BTreeSet<usize> = walks.iter().flatten().copied().collect();
        for (_, unit) in index.units.iter().enumerate().filter(|(u, _)| !reached.contains(u)) {
            found.insert(Violation::Unreached { part: unit.name.to_owned() });
        }
        let mut ends = flow::Ends::new();
        for walk in walks {
            match order::Order::new(index, &walk) {
                Ok(order) => flow::check(index, &order, &mut ends, &mut found),
                Err(instructions) => {
                    found.insert(Violation::Cycle { instructions });
                    break;
                }
            }
        }
    }
    let mut found: Vec<Violation> = found.into_iter().collect();
    found.sort_by_key(Violation::rule);
    found
}

/// The facts of a program as the verifier counts them, with the best bounds that its witnesses give; nothing where the
/// program is too broken to count. An emitter writes these; [`verify`] counts them again.
pub fn facts(target: &Target, program: &Program) -> Option<Facts> {
    let target = &target.budgeted(&program.header.memory);
    let index = index::index(target, program, &mut Vec::new())?;
    Some(Facts { bounds: facts::bounds(&index), ..facts::count(&index) })
}
