//! `berth simulate`: when each instruction of a proved program would run.

use crate::cli;
use crate::commands::proved;
use crate::failure::Outcome;
use crate::summary::{ratio, traffic};
use crate::{files, machine, trace};
use berth_compiler::bound::bound;
use berth_compiler::simulate::{events, simulate as run};
use berth_ir::units::{Bytes, Nanos};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Serialize)]
struct Report {
    target: String,
    steps: u32,
    first_step_nanos: u64,
    step_nanos: u64,
    stall_nanos: u64,
    bound_nanos: u64,
    traffic: BTreeMap<String, u64>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (step, bound) = (self.step_nanos, self.bound_nanos);
        writeln!(f, "simulated on {}, {} steps", self.target, self.steps)?;
        writeln!(f, "  first step  {}", Nanos(self.first_step_nanos).human())?;
        writeln!(f, "  step        {}, bound {}: {}", Nanos(step).human(), Nanos(bound).human(), ratio(step, bound))?;
        write!(f, "  stalls      {} of it", Nanos(self.stall_nanos).human())?;
        for (link, bytes) in &self.traffic {
            write!(f, "\n  link {link:<7}{} a step", Bytes(*bytes).human())?;
        }
        Ok(())
    }
}

/// Runs it.
pub fn simulate(args: &cli::Simulate) -> Outcome {
    files::check_writable(args.trace.as_deref())?;
    let program = files::read_program(&args.plan)?;
    let target = machine::target(args.target.as_deref().unwrap_or(&program.header.target))?;
    let program = proved(&target, program, None)?;
    let target = target.budgeted(&program.header.memory);
    let timeline = run(&target, &program, args.steps as usize, &BTreeSet::new());
    if let Some(path) = &args.trace {
        files::write(path, &trace::json(&events(&target, &program, args.steps as usize, &BTreeSet::new()), &[]))?;
    }
    let report = Report {
        target: target.name.clone(),
        steps: args.steps,
        first_step_nanos: timeline.first_step.0,
        step_nanos: timeline.step.0,
        stall_nanos: timeline.stall.0,
        bound_nanos: bound(&target, &program).time.0,
        traffic: traffic(&program),
    };
    files::print(&report, args.format)
}
