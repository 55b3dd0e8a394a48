//! `berth compare`: berth's program beside what people do today, through the same verifier and simulator.

use crate::cli;
use crate::commands::{planned_for, proved, said, stem};
use crate::failure::{Failure, Outcome};
use crate::measure::costs;
use crate::split::Wanted;
use crate::summary::{Summary, ratio};
use crate::{files, machine, model, quickest, split};
use berth_compiler::baseline::{STRATEGIES, planned_by};
use berth_compiler::cost::with_measured;
use berth_compiler::plan::Plan;
use berth_compiler::split::THREADS;
use berth_ir::program::{Mode, Program};
use berth_ir::units::{Bytes, Nanos};
use berth_runtime_exec::engine::EngineOptions;
use berth_runtime_exec::engine::ort::OrtEngine;
use serde::Serialize;
use std::collections::BTreeSet;

#[derive(Serialize)]
struct Table {
    model: String,
    target: String,
    /// The memory of the first engine; the peak is its.
    device: String,
    bound_nanos: u64,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    strategy: &'static str,
    /// Nothing where the strategy gives no program.
    figures: Option<Summary>,
    /// Why it gives none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} on {}, simulated; bound {}", self.model, self.target, Nanos(self.bound_nanos).human())?;
        let links: BTreeSet<&String> =
            self.rows.iter().flat_map(|r| &r.figures).flat_map(|s| s.traffic.keys()).collect();
        write!(f, "{:<12}{:>12}{:>12}{:>14}{:>10}", "", "step", "stall", "peak", "/ bound")?;
        links.iter().try_for_each(|link| write!(f, "{:>14}", format!("by {link}")))?;
        for row in &self.rows {
            let Some(s) = &row.figures else {
                write!(f, "\n{:<12}  {}", row.strategy, row.reason.as_deref().unwrap_or(""))?;
                continue;
            };
            let peak = s.peak.get(&self.device).copied().unwrap_or(0);
            write!(
                f,
                "\n{:<12}{:>12}{:>12}{:>14}{:>10}",
                row.strategy,
                Nanos(s.predicted_nanos).human(),
                Nanos(s.stall_nanos).human(),
                Bytes(peak).human(),
                ratio(s.predicted_nanos, self.bound_nanos)
            )?;
            for link in &links {
                write!(f, "{:>14}", Bytes(s.traffic.get(*link).copied().unwrap_or(0)).human())?;
            }
        }
        Ok(())
    }
}

/// Runs it.
pub fn compare(args: &cli::Compare) -> Outcome {
    if let Some(folder) = args.save.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(Failure::bad(format!("`{}` is no folder that programs could be written into", folder.display())));
    }
    let target = machine::target(args.machine.name())?;
    let opened = model::open(&args.model, args.bound.cast)?;
    let dims = model::dims(&args.bound.dims)?;
    let graph = model::graph(&opened, &dims, &model::sets(&args.bound.sets)?)?;
    let engines = args.machine.engines.as_deref();
    let states = &model::states(&args.states.states)?;
    let wanted = Wanted { target: &target, memory: &args.machine.memory, engines, threads: THREADS, states };
    let split::Model { mut lowered, budgeted, plan, .. } = quickest::for_memory(&graph, &dims, &wanted)?;
    if args.measure {
        let options = EngineOptions { library: None, threads: args.threads as usize, spin: false };
        let mut engine = OrtEngine::open(&options).map_err(Failure::bad)?;
        let measured = costs(&lowered, &mut engine, &model::places(&opened))?;
        lowered.lifetimes = with_measured(lowered.lifetimes, &measured);
    }
    machine::restrict(&target, engines, &mut lowered.lifetimes)?;
    // What memory was found to mean holds while workspaces are estimates.
    let (target, plan) = match budgeted.filter(|_| !args.measure) {
        Some(budgeted) => (budgeted, plan),
        None => (machine::budget(&target, &args.machine.memory, &lowered.lifetimes)?.target, None),
    };
    let name = stem(&args.model);
    let figures = |plan: &Plan| Summary::new(&name, &target, plan, if args.measure { "measured" } else { "estimated" });
    let save = |strategy: &str, program: &Program| match &args.save {
        Some(folder) => files::write_program(&folder.join(format!("{strategy}.ron")), program),
        None => Ok(()),
    };
    let (plan, ()) = planned_for(&lowered, &target, plan, |proved| save("berth", proved))?;
    let ours = figures(&plan);
    let bound_nanos = ours.bound_nanos;
    let mut rows = vec![Row { strategy: "berth", figures: Some(ours), reason: None }];
    for (strategy, make) in STRATEGIES {
        let made = planned_by(*make, &lowered.lifetimes, &target, Mode::Loop);
        if let Ok(plan) = &made {
            let mut program = plan.program.clone();
            program.header = said(program.header, &lowered);
            let program = proved(&target, program, Some(&lowered.facts)).map_err(|e| {
                Failure::unfit(format!("a bug of berth: the program of {strategy} was refused\n{}", e.paragraph))
            })?;
            save(strategy, &program)?;
        }
        let reason = made.as_ref().err().map(ToString::to_string);
        rows.push(Row { strategy, figures: made.ok().as_ref().map(figures), reason });
    }
    let (device, target) = (target.device().to_owned(), target.name.clone());
    files::print(&Table { model: name, target, device, bound_nanos, rows }, args.format)
}
