//! `berth compile`: a model and a machine to a memory program.

use crate::cli;
use crate::commands::{planned, stem};
use crate::failure::Outcome;
use crate::summary::Summary;
use crate::{files, machine, model};

/// Runs it.
pub fn compile(args: &cli::Compile) -> Outcome {
    files::check_writable(args.output.as_deref())?;
    let target = machine::target(&args.machine.target)?;
    let opened = model::open(&args.model)?;
    let binding = model::dims(&args.bound.dims)?;
    let graph = model::graph(&opened, &binding)?;
    let lowered = model::lowered(&graph, &binding, &target)?;
    let budgeted = machine::budget(&target, &args.machine.memory, &lowered.lifetimes)?;
    let (plan, proved) = planned(&lowered, &budgeted.target)?;
    if let Some(path) = &args.output {
        files::write_program(path, &proved)?;
    }
    files::print(&Summary::new(&stem(&args.model), &budgeted.target, &plan, "estimated"), args.format)
}
