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
/// its budgets. Only what has room is measured: measuring loads it.
pub fn chosen(model: &Model, target: &Target, measure: &mut Measure) -> Result<Lowered, Failure> {
    let lowered = &model.lowered;
    let held = |stretches: &[Range<usize>]| hold(&model.graph, lowered, stretches).map_err(Failure::bad);
    let mut search = Search { target, best: (step(lowered, target), lowered.clone()) };
    let whole = held(&stretches(lowered))?;
    if can_be_loaded(&whole, target) {
        let costs = measure(&whole)?;
        if search.attempt(whole, &costs, true) {
            return Ok(search.best.1);
        }
    }
    let units = units(lowered);
    let all = held(&units)?;
    if can_be_loaded(&all, target) {
        let costs = measure(&all)?;
        for eighths in EIGHTHS {
            search.attempt(held(&spread(&units, (units.len() * eighths).div_ceil(8)))?, &costs, false);
        }
    }
    Ok(search.best.1)
}

/// Whether the device has room for any one task that holds weights, while it is loaded.
fn can_be_loaded(lowered: &Lowered, target: &Target) -> bool {
    let room = target.tier(target.device()).map_or(0, |tier| tier.room().0);
    let held = lowered.lifetimes.tasks.iter().filter_map(|task| task.held.as_ref());
    held.map(|held| held.bytes.saturating_add(held.loading)).all(|bytes| bytes <= room)
}

/// A model with the stretches that a program has.
pub fn as_in(model: Model, program: &Program) -> Result<Lowered, Failure> {
    let held = program.tasks.iter().filter(|task| task.held.is_some()).map(|task| task.ops.as_slice());
    let other = || Failure::bad("the program holds weights for tasks that the model does not have: compile it again");
    let stretches = as_said(&model.lowered, held).ok_or_else(other)?;
    hold(&model.graph, &model.lowered, &stretches).map_err(Failure::bad)
}

struct Search<'a> {
    target: &'a Target,
    /// The shortest step so far; nothing where no plan fits.
    best: (Option<Nanos>, Lowered),
}

impl Search<'_> {
    /// Whether a model with what it holds fits, and is the best so far if it is.
    fn attempt(&mut self, mut lowered: Lowered, costs: &BTreeMap<String, Cost>, whole: bool) -> bool {
        lowered.lifetimes = with_measured(lowered.lifetimes, costs);
        let Some(step) = step(&lowered, self.target) else { return false };
        // One task in place of hundreds also saves what no task's cost has: handing them over, one by one.
        let spare = if whole { step.0 / CLOSE_PART } else { 0 };
        // Where nothing was measured both count on the same time, and holding is expected to be faster.
        let better = |best: Nanos| step.0 - spare < best.0 || (step == best && costs.is_empty());
        if self.best.0.is_none_or(better) {
            self.best = (Some(step), lowered);
        }
        true
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quickest::for_memory;
    use crate::split::Wanted;
    use std::path::Path;

    /// Measuring a task loads its weights, so one that has no room is never measured.
    #[test]
    fn only_what_has_room_is_measured() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/bert_encoder.onnx");
        fn fine<T>(result: Result<T, Failure>) -> T {
            result.unwrap_or_else(|failure| panic!("{}", failure.paragraph))
        }
        let opened = fine(crate::model::open(&path, None));
        let words = ["batch=1".to_owned(), "seq=8".to_owned()];
        let dims = fine(crate::model::dims(&words));
        let graph = fine(crate::model::graph(&opened, &dims, &BTreeMap::new()));
        let host = fine(machine::target("host"));
        for (percent, whole) in [(100, false), (400, true)] {
            let memory = [format!("device={percent}%")];
            let wanted = Wanted { target: &host, memory: &memory, engines: None, threads: 2, states: &[] };
            let model = fine(for_memory(&graph, &dims, &wanted));
            let (target, _) = fine(in_bytes(&memory, &host, &model.lowered));
            let mut measured = Vec::new();
            let mut measure = |lowered: &Lowered| {
                assert!(can_be_loaded(lowered, &target), "at {percent} % it is loaded without room");
                measured.push(lowered.lifetimes.tasks.len());
                Ok(BTreeMap::new())
            };
            let chosen = fine(chosen(&model, &target, &mut measure));
            assert_eq!((measured == [1], measured.len()), (whole, 1), "at {percent} %: {measured:?}");
            // With less than all what is held may be worth less than the room that loading it takes.
            let held = chosen.lifetimes.tasks.iter().any(|task| task.held.is_some());
            assert!(held || !whole, "at {percent} % nothing is held");
        }
    }
}
