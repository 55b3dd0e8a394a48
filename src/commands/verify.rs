//! `berth verify`: proves a program safe, or lists all violations.

use crate::cli::{self, Format};
use crate::failure::{Failure, Outcome};
use crate::{files, machine, model, split};
use berth_ir::Program;
use berth_ir::verify::{ModelFacts, Violation, violations};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
struct Report {
    instructions: usize,
    violations: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    rule: u8,
    at: String,
    sentence: String,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.violations.is_empty() {
            return write!(f, "safe: {} instructions, every rule holds", self.instructions);
        }
        let lines: Vec<&str> = self.violations.iter().map(|v| v.sentence.as_str()).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// Runs it.
pub fn verify(args: &cli::Verify) -> Outcome {
    let program = files::read_program(&args.plan)?;
    let target = machine::target(args.target.as_deref().unwrap_or(&program.header.target))?;
    let set = model::sets(&args.sets)?;
    let facts = args.model.as_deref().map(|m| facts(m, &program, &target, &set, args.cast)).transpose()?;
    let found = violations(&target, &program, facts.as_ref());
    report(&program, &found, args.format)?;
    match found.len() {
        0 => Ok(()),
        n => Err(Failure::unfit(format!("`{}` is not safe to run: {n} found", args.plan.display()))),
    }
}

/// What the model says, at the dims of the program.
pub fn facts(
    model: &std::path::Path,
    program: &Program,
    target: &berth_ir::Target,
    set: &BTreeMap<String, Vec<i64>>,
    cast: Option<cli::Cast>,
) -> Result<ModelFacts, Failure> {
    let opened = model::open(model, cast)?;
    let graph = model::graph(&opened, &program.header.dims, set)?;
    Ok(split::as_said(&graph, &program.header.dims, target, &program.header)?.lowered.facts)
}

fn report(program: &Program, found: &[Violation], format: Format) -> Outcome {
    let bodies = program.bodies.iter().map(|b| b.code.len()).chain(program.transitions.iter().map(|t| t.code.len()));
    let instructions = program.prologue.len() + bodies.sum::<usize>();
    let line = |v: &Violation| Line { rule: v.rule(), at: v.culprit().to_owned(), sentence: v.to_string() };
    files::print(&Report { instructions, violations: found.iter().map(line).collect() }, format)
}
