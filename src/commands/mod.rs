//! One file per subcommand.

pub mod calibrate;
pub mod compare;
pub mod compile;
pub mod diff;
pub mod inspect;
pub mod offsets;
pub mod pack;
pub mod run;
pub mod seed_weights;
pub mod simulate;
pub mod targets;
pub mod verify;

use crate::failure::Failure;
use berth_compiler::lower::Lowered;
use berth_compiler::plan::{Plan, plan};
use berth_ir::program::{Header, Mode};
use berth_ir::verify::{ModelFacts, Verified, Violation, verify as prove};
use berth_ir::{Program, Target};

/// Plans and proves. A planner's program that the verifier refuses is a bug of berth, and is said to be one.
pub fn planned(lowered: &Lowered, target: &Target) -> Result<(Plan, Verified<Program>), Failure> {
    planned_for(lowered, target, None, |proved| Ok(proved.clone()))
}

/// The same with what is made of the proved program, of which there is one copy: a large one is a good part of the memory that
/// planning takes. Where a plan was made already it is not made again.
pub fn planned_for<T>(
    lowered: &Lowered,
    target: &Target,
    made: Option<Plan>,
    make: impl FnOnce(&Verified<Program>) -> Result<T, Failure>,
) -> Result<(Plan, T), Failure> {
    let plan = made.map_or_else(|| plan(&lowered.lifetimes, target, Mode::Loop), Ok);
    let mut plan = plan.map_err(crate::machine::plan_failure)?;
    plan.program.header = said(plan.program.header, lowered);
    let proved = proved(target, plan.program, Some(&lowered.facts))
        .map_err(|e| Failure::unfit(format!("a bug of berth: its own program was refused\n{}", e.paragraph)))?;
    let made = make(&proved)?;
    plan.program = proved.into_inner();
    Ok((plan, made))
}

/// A header that says how the model was changed before it was planned.
pub fn said(header: Header, lowered: &Lowered) -> Header {
    let Lowered { split, recompute, states, growth, .. } = lowered;
    let (recompute, states, growth) = (recompute.clone(), states.clone(), growth.clone());
    Header { split: *split, recompute, states, growth, ..header }
}

/// Proves a program, or says the first things that are wrong with it.
pub fn proved(target: &Target, program: Program, model: Option<&ModelFacts>) -> Result<Verified<Program>, Failure> {
    prove(target, program, model).map_err(|found| Failure::unfit(violations(&found)))
}

fn violations(found: &[Violation]) -> String {
    let mut text = format!("the program is not safe to run: {} found", found.len());
    for violation in found.iter().take(8) {
        text.push_str(&format!("\n  {violation}"));
    }
    if found.len() > 8 {
        text.push_str(&format!("\n  and {} more: `berth verify PLAN` lists them all", found.len() - 8));
    }
    text
}

/// A path's last part, for people.
pub fn stem(path: &std::path::Path) -> String {
    path.file_stem().map_or_else(|| path.display().to_string(), |s| s.to_string_lossy().into_owned())
}
