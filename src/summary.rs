//! What a plan does, for people and for programs: sizes, times, the bound beside each.

use berth_compiler::margin::{Limit, Margin, Of, limit, margins};
use berth_compiler::plan::Plan;
use berth_ir::Target;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{DimRange, Program};
use berth_ir::units::{Bytes, Nanos};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// One plan in figures. Sizes in bytes, times in nanoseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// The model's file name.
    pub model: String,
    /// The target's name.
    pub target: String,
    /// End of the highest berth, by tier.
    pub peak: BTreeMap<String, u64>,
    /// Budget of each tier that has one.
    pub budget: BTreeMap<String, u64>,
    /// Weights that never leave the device.
    pub resident_bytes: u64,
    /// What engines keep of weights for their tasks, packed.
    pub kept_bytes: u64,
    /// Weights that are brought in each step.
    pub streamed_bytes: u64,
    /// Tasks of a step on each engine.
    pub engines: BTreeMap<String, u64>,
    /// Weights that an engine below the device uses where they lie.
    pub in_place_bytes: u64,
    /// Other tensors that are put aside and brought back in each step.
    pub put_aside_bytes: u64,
    /// Bytes over each link in each step.
    pub traffic: BTreeMap<String, u64>,
    /// Bytes that must enter the device in each step, whatever is done.
    pub traffic_bound_bytes: u64,
    /// Dims that grow from step to step, as states do that have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grows: Vec<Grows>,
    /// Tasks in a step.
    pub tasks: u64,
    /// Predicted time of a step once steps repeat.
    pub predicted_nanos: u64,
    /// Part of it in which the engine waits.
    pub stall_nanos: u64,
    /// No program with these tasks is faster.
    pub bound_nanos: u64,
    /// What sets the bound.
    pub bound_by: &'static str,
    /// Whether costs of tasks were measured or estimated.
    pub costs: &'static str,
    /// What a little more of the machine would buy, where that was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub margins: Vec<Line>,
    /// What sets the step's time: compute, a link or capacity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<&'static str>,
}

/// A dim that grows from step to step.
#[derive(Clone, Debug, Serialize)]
pub struct Grows {
    /// Its name.
    pub dim: String,
    /// By how much in each step.
    pub by: u64,
    /// Its least size, and the greatest that the plan has room for.
    pub range: DimRange,
    /// Steps that there is room for from the least on.
    pub steps: u64,
}

impl Grows {
    /// The dims that grow by so much, with their ranges.
    pub fn all(growth: &BTreeMap<String, u64>, dims: &BTreeMap<String, DimRange>) -> Vec<Grows> {
        let one = |(dim, by): (&String, &u64)| {
            let range = *dims.get(dim)?;
            Some(Grows { dim: dim.clone(), by: *by, range, steps: range.steps(range.low, *by) })
        };
        growth.iter().filter_map(one).collect()
    }
}

impl fmt::Display for Grows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Grows { dim, by, range, steps } = self;
        write!(f, "`{dim}` by {by} in each step, within {range}: room for {steps} steps from {} on", range.low)
    }
}

/// A little more of one part of the machine.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// How much of what.
    pub more: String,
    /// Predicted time of a step with it.
    pub predicted_nanos: u64,
}

impl Summary {
    /// The same with what a little more of the machine would buy.
    pub fn with_margins(mut self, lifetimes: &Lifetimes, target: &Target, plan: &Plan) -> Summary {
        let margins = margins(lifetimes, target, plan);
        self.limited_by = Some(match limit(target, plan, &margins) {
            Limit::Compute => "compute",
            Limit::Link => "links",
            Limit::Capacity => "capacity",
        });
        let line = |m: &Margin| {
            let more = match &m.of {
                Of::Tier(tier) => format!("1 GiB of {tier}"),
                Of::Link(link) => format!("10 % of {link}"),
            };
            Line { more, predicted_nanos: m.step.0 }
        };
        self.margins = margins.iter().map(line).collect();
        self
    }

    /// The figures of a plan on a target.
    pub fn new(model: &str, target: &Target, plan: &Plan, costs: &'static str) -> Summary {
        let program = &plan.program;
        let traffic_bound = program.facts.bounds.iter().filter_map(|b| match b {
            berth_ir::program::Bound::Traffic { bytes, .. } => Some(*bytes),
            _ => None,
        });
        Summary {
            model: model.to_owned(),
            target: target.name.clone(),
            peak: program.facts.peaks.clone(),
            budget: program.header.memory.iter().map(|(t, b)| (t.clone(), b.0)).collect(),
            resident_bytes: plan.resident,
            kept_bytes: plan.held,
            streamed_bytes: plan.streamed,
            engines: engines(program),
            in_place_bytes: plan.below,
            put_aside_bytes: plan.spilled,
            traffic: traffic(program),
            traffic_bound_bytes: traffic_bound.max().unwrap_or(0),
            grows: Grows::all(&program.header.growth, &program.header.dims),
            tasks: program.facts.calls.values().sum(),
            predicted_nanos: plan.timeline.step.0,
            stall_nanos: plan.timeline.stall.0,
            bound_nanos: plan.bound.time.0,
            bound_by: if plan.bound.by_compute { "compute" } else { "bytes that must come in" },
            costs,
            margins: Vec::new(),
            limited_by: None,
        }
    }
}

/// Tasks of a program by engine.
fn engines(program: &Program) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for task in &program.tasks {
        *all.entry(task.engine.clone()).or_insert(0) += 1;
    }
    all
}

/// Bytes over each link in a step of the first body.
pub fn traffic(program: &Program) -> BTreeMap<String, u64> {
    let body = program.bodies.first().map_or("", |b| &b.name);
    let mut all = BTreeMap::new();
    for t in program.facts.traffic.iter().filter(|t| t.part == body) {
        *all.entry(t.link.clone()).or_insert(0) += t.bytes;
    }
    all
}

/// A ratio to a bound, or a dash where the bound is zero.
pub fn ratio(time: u64, bound: u64) -> String {
    if bound == 0 { "-".to_owned() } else { format!("{:.2} x", time as f64 / bound as f64) }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let human = |b: u64| Bytes(b).human();
        writeln!(f, "{} on {}: {} tasks a step", self.model, self.target, self.tasks)?;
        for (tier, peak) in &self.peak {
            let budget = self.budget.get(tier).map_or(String::new(), |b| format!(" of {} allowed", human(*b)));
            writeln!(f, "  {tier:<12}{}{budget}", human(*peak))?;
        }
        writeln!(f, "  resident    {} of weights stay", human(self.resident_bytes))?;
        if self.kept_bytes > 0 {
            writeln!(f, "  kept        {} of weights, as the engine packs them", human(self.kept_bytes))?;
        }
        writeln!(f, "  streamed    {} of weights come in each step", human(self.streamed_bytes))?;
        for grows in &self.grows {
            writeln!(f, "  grows       {grows}")?;
        }
        if self.engines.len() > 1 {
            let tasks: Vec<String> =
                self.engines.iter().map(|(engine, tasks)| format!("{tasks} on {engine}")).collect();
            let (tasks, in_place) = (tasks.join(", "), human(self.in_place_bytes));
            writeln!(f, "  engines     {tasks}; {in_place} of weights used where they lie")?;
        }
        if self.put_aside_bytes > 0 {
            writeln!(f, "  put aside   {} of activations leave and return each step", human(self.put_aside_bytes))?;
        }
        for (link, bytes) in &self.traffic {
            writeln!(f, "  link {:<7}{} a step", format!("{link} "), human(*bytes))?;
        }
        let (step, bound) = (self.predicted_nanos, self.bound_nanos);
        writeln!(
            f,
            "  step        predicted {} ({} costs), bound {} by {}: {}",
            Nanos(step).human(),
            self.costs,
            Nanos(bound).human(),
            self.bound_by,
            ratio(step, bound)
        )?;
        write!(f, "  stalls      {} of it", Nanos(self.stall_nanos).human())?;
        if let Some(limit) = self.limited_by {
            write!(f, "; limited by {limit}")?;
        }
        for margin in &self.margins {
            let less = 100.0 - 100.0 * margin.predicted_nanos as f64 / step.max(1) as f64;
            let (more, time) = (&margin.more, Nanos(margin.predicted_nanos).human());
            write!(f, "\n  with        {more} more: {time}, {less:.1} % less")?;
        }
        Ok(())
    }
}

/// The tier with the least capacity that a task needs, in a program's own bounds.
pub fn room_bounds(program: &Program) -> Vec<String> {
    let bounds = program.facts.bounds.iter().filter_map(|b| match b {
        berth_ir::program::Bound::Room { tier, bytes, at, .. } => {
            Some(format!("{tier} needs {} at least, for task `{at}`", Bytes(*bytes).human()))
        }
        _ => None,
    });
    bounds.collect()
}
