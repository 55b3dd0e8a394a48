//! Chooses the stretches of a model whose weights the engine keeps, by what they cost.
//!
//! One task of all that can be one is tried first; then units of about a twenty-fourth of the weights, some of them held and
//! the others streamed. Each is planned, and the fastest step wins; where nothing is faster, the tasks stay as they are.

use crate::failure::Failure;
use crate::machine;
use crate::split::Model;
use berth_compiler::cost::{Cost, with_measured};
use berth_compiler::hold::{as_said, hold, spread, stretches, units};
use berth_compiler::lower::Lowered;
use berth_compiler::plan::plan;
use berth_ir::Target;
use berth_ir::program::{Mode, Program};
use berth_ir::units::Nanos;
use std::collections::BTreeMap;
use std::ops::Range;

/// Parts of all units that are tried: so many quarters, and an eighth.
const EIGHTHS: [usize; 5] = [8, 6, 4, 2, 1];

/// What is held as a whole wins unless it is slower by more than one part in so many: measured times differ by as much.
const CLOSE_PART: u64 = 16;

/// What measures the tasks of a model; with nothing, estimates stay.
pub type Measure<'a> = dyn FnMut(&Lowered) -> Result<BTreeMap<String, Cost>, Failure> + 'a;

/// A model whose tasks have their costs, with what its engine had better keep held, for the first engine of a target with
/// its budgets.
pub fn chosen(model: &Model, target: &Target, measure: &mut Measure) -> Result<Lowered, Failure> {
    let lowered = &model.lowered;
    let mut search = Search { model, target, best: (step(lowered, target), lowered.clone()) };
    let whole = stretches(lowered);
    let costs = measure(&hold(&model.graph, lowered, &whole).map_err(Failure::bad)?)?;
    if !search.attempt(&whole, &costs, true)? {
        let units = units(lowered);
        let costs = measure(&hold(&model.graph, lowered, &units).map_err(Failure::bad)?)?;
        for eighths in EIGHTHS {
            search.attempt(&spread(&units, (units.len() * eighths).div_ceil(8)), &costs, false)?;
        }
    }
    Ok(search.best.1)
}

/// A model with the stretches that a program has.
pub fn as_in(model: Model, program: &Program) -> Result<Lowered, Failure> {
    let held = program.tasks.iter().filter(|task| task.held.is_some()).map(|task| task.ops.as_slice());
    let other = || Failure::bad("the program holds weights for tasks that the model does not have: compile it again");
    let stretches = as_said(&model.lowered, held).ok_or_else(other)?;
    hold(&model.graph, &model.lowered, &stretches).map_err(Failure::bad)
}

struct Search<'a> {
    model: &'a Model,
    target: &'a Target,
    /// The shortest step so far; nothing where no plan fits.
    best: (Option<Nanos>, Lowered),
}

impl Search<'_> {
    /// Whether these stretches, held, fit, and are the best so far if they are.
    fn attempt(
        &mut self,
        stretches: &[Range<usize>],
        costs: &BTreeMap<String, Cost>,
        whole: bool,
    ) -> Result<bool, Failure> {
        let mut lowered = hold(&self.model.graph, &self.model.lowered, stretches).map_err(Failure::bad)?;
        lowered.lifetimes = with_measured(lowered.lifetimes, costs);
        let Some(step) = step(&lowered, self.target) else { return Ok(false) };
        // One task in place of hundreds also saves what no task's cost has: handing them over, one by one.
        let spare = if whole { step.0 / CLOSE_PART } else { 0 };
        // Where nothing was measured both count on the same time, and holding is expected to be faster.
        let better = |best: Nanos| step.0 - spare < best.0 || (step == best && costs.is_empty());
        if self.best.0.is_none_or(better) {
            self.best = (Some(step), lowered);
        }
        Ok(true)
    }
}

fn step(lowered: &Lowered, target: &Target) -> Option<Nanos> {
    plan(&lowered.lifetimes, target, Mode::Loop).ok().map(|plan| plan.timeline.step)
}

/// What `--memory` says, with the device's share in bytes: a percentage is of the model as it is, whatever is held then.
pub fn in_bytes(words: &[String], target: &Target, lowered: &Lowered) -> Result<(Target, Vec<String>), Failure> {
    let budgeted = machine::budget(target, words, &lowered.lifetimes)?.target;
    let tiers = budgeted.tiers.iter().filter_map(|tier| Some(format!("{}={}", tier.name, tier.budget?.0)));
    let words = tiers.collect();
    Ok((budgeted, words))
}
