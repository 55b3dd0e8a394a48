//! `berth compare`: berth's program beside what people do today, through the same verifier and simulator.

use crate::cli;
use crate::commands::{planned, proved, stem};
use crate::failure::{Failure, Outcome};
use crate::summary::{Summary, ratio};
use crate::{files, machine, model};
use berth_compiler::baseline::{look_ahead, lru};
use berth_compiler::plan::Plan;
use berth_ir::program::Mode;
use berth_ir::units::{Bytes, Nanos};
use serde::Serialize;

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
    /// Nothing where the strategy does not fit.
    figures: Option<Summary>,
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} on {}, simulated; bound {}", self.model, self.target, Nanos(self.bound_nanos).human())?;
        write!(f, "{:<12}{:>12}{:>12}{:>14}{:>14}{:>10}", "", "step", "stall", "bytes in", "peak", "/ bound")?;
        for row in &self.rows {
            let Some(s) = &row.figures else {
                write!(f, "\n{:<12}{:>12}", row.strategy, "does not fit")?;
                continue;
            };
            let bytes: u64 = s.traffic.values().sum();
            let peak = s.peak.get(&self.device).copied().unwrap_or(0);
            write!(
                f,
                "\n{:<12}{:>12}{:>12}{:>14}{:>14}{:>10}",
                row.strategy,
                Nanos(s.predicted_nanos).human(),
                Nanos(s.stall_nanos).human(),
                Bytes(bytes).human(),
                Bytes(peak).human(),
                ratio(s.predicted_nanos, self.bound_nanos)
            )?;
        }
        Ok(())
    }
}

/// Runs it.
pub fn compare(args: &cli::Compare) -> Outcome {
    let target = machine::target(&args.machine.target)?;
    let opened = model::open(&args.model, args.bound.cast)?;
    let dims = model::dims(&args.bound.dims)?;
    let graph = model::graph(&opened, &dims, &model::sets(&args.bound.sets)?)?;
    let mut lowered = model::lowered(&graph, &dims, &target)?;
    machine::restrict(&target, args.machine.engines.as_deref(), &mut lowered.lifetimes)?;
    let target = machine::budget(&target, &args.machine.memory, &lowered.lifetimes)?.target;
    let name = stem(&args.model);
    let figures = |plan: &Plan| Summary::new(&name, &target, plan, "estimated");
    let (plan, _) = planned(&lowered, &target)?;
    let ours = figures(&plan);
    let bound_nanos = ours.bound_nanos;
    let mut rows = vec![Row { strategy: "berth", figures: Some(ours) }];
    for (strategy, make) in [("look-ahead", look_ahead as fn(&_, &_, _) -> _), ("LRU", lru)] {
        let plan: Option<Plan> = make(&lowered.lifetimes, &target, Mode::Loop);
        if let Some(plan) = &plan {
            proved(&target, plan.program.clone(), Some(&lowered.facts)).map_err(|e| {
                Failure::unfit(format!("a bug of berth: the program of {strategy} was refused\n{}", e.paragraph))
            })?;
        }
        rows.push(Row { strategy, figures: plan.as_ref().map(figures) });
    }
    let (device, target) = (target.device().to_owned(), target.name.clone());
    files::print(&Table { model: name, target, device, bound_nanos, rows }, args.format)
}
