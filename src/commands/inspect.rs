//! `berth inspect`: what is in a model or a program.

use crate::cli;
use crate::commands::stem;
use crate::failure::Outcome;
use crate::split::{self, Wanted};
use crate::summary::{Grows, room_bounds, traffic};
use crate::{files, machine, model};
use berth_compiler::caches::caches;
use berth_compiler::plan::{extremes, plan};
use berth_compiler::rewrite::Saved;
use berth_compiler::room::Least;
use berth_compiler::split::THREADS;
use berth_ir::Program;
use berth_ir::graph::ValueId;
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Instruction, Kind, Mode};
use berth_ir::reuse::{Bucket, Histogram, histogram};
use berth_ir::units::Bytes;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Runs it.
pub fn inspect(args: &cli::Inspect) -> Outcome {
    if files::is_program(&args.file) {
        let program = files::read_program(&args.file)?;
        return files::print(&ProgramReport::new(&program), args.format);
    }
    let target = machine::target(args.machine.name())?;
    let opened = model::open(&args.file, args.bound.cast)?;
    let dims = model::dims(&args.bound.dims)?;
    let graph = model::graph(&opened, &dims, &model::sets(&args.bound.sets)?)?;
    let states = &model::states(&args.states.states)?;
    let ready = model::ready(&graph, &dims, &target, states)?;
    let model::Ready { lowered: whole, ordered, saved, graph: planned } = ready;
    let mut lowered = whole.clone();
    let engines = args.machine.engines.as_deref();
    machine::restrict(&target, engines, &mut lowered.lifetimes)?;
    if args.ir {
        return files::say(berth_ir::lifetime::print(&lowered.lifetimes).trim_end());
    }
    let budgeted = machine::budget(&target, &args.machine.memory, &lowered.lifetimes)?.target;
    let (least, full) = extremes(&lowered.lifetimes, &budgeted).map_err(machine::plan_failure)?;
    let wanted = Wanted { target: &target, memory: &args.machine.memory, engines, threads: THREADS, states };
    let hash = whole.facts.hash.clone();
    let model = split::Model { graph: planned, lowered: whole, whole: hash, budgeted: Some(budgeted), plan: None };
    let whole = split::Pieces { model, least };
    let pieces = split::finest(&whole, &dims, &wanted)?;
    let least = pieces.as_ref().map_or(&whole.least, |pieces| &pieces.least);
    if let (false, Some(target)) = (least.works(), &whole.model.budgeted) {
        plan(&lowered.lifetimes, target, Mode::Loop).map_err(machine::plan_failure)?;
    }
    let mut report = ModelReport::new(stem(&args.file), &lowered.lifetimes, target.device(), least, full);
    report.least_whole_bytes = whole.least.bytes;
    if let Some(split::Pieces { model: split::Model { lowered, .. }, .. }) = pieces {
        report.least_tasks = lowered.lifetimes.tasks.len();
        report.least_again = lowered.recompute.len();
        report.least_split = lowered.split.is_some();
    }
    let bytes = |id: ValueId| lowered.bytes_of(&graph.value(id).name);
    let caches = caches(&graph);
    let caches = Caches {
        pairs: caches.len(),
        in_bytes: caches.iter().map(|c| bytes(c.past)).sum(),
        out_bytes: caches.iter().map(|c| bytes(c.present)).sum(),
    };
    let (file_peak_bytes, peak_bound_bytes) = (ordered.before, ordered.bound.bytes);
    let reordered = ordered.after < ordered.before;
    let report = ModelReport { file_peak_bytes, reordered, peak_bound_bytes, saved, ..report };
    let grows = Grows::all(&lowered.growth, &lowered.lifetimes.dims);
    files::print(&ModelReport { caches, grows, assumed: graph.assumptions.clone(), ..report }, args.format)
}

#[derive(Serialize)]
struct ModelReport {
    model: String,
    tasks: usize,
    /// Bytes of all tensors of each kind.
    totals: BTreeMap<String, u64>,
    /// Bytes of files that the weights come from, each once.
    stored_bytes: u64,
    caches: Caches,
    /// Dims that grow from step to step, as states do that have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grows: Vec<Grows>,
    peak_bytes: u64,
    /// The peak in the file's order, and whether tasks stand in another; states are there in every order.
    file_peak_bytes: u64,
    #[serde(skip)]
    reordered: bool,
    /// No order has a lower peak.
    peak_bound_bytes: u64,
    /// What rewriting the graph saves, where it does.
    saved: Option<Saved>,
    peak_task: String,
    peak_tensors: Vec<(String, u64)>,
    device: String,
    full_bytes: u64,
    least_bytes: u64,
    /// Tasks with which that does: more than otherwise where operators are split.
    least_tasks: usize,
    /// Of those the ones that make a result again, and whether operators are split.
    least_again: usize,
    least_split: bool,
    /// The least with every operator whole and run once.
    least_whole_bytes: u64,
    least_bound_bytes: u64,
    least_task: String,
    least_held: Vec<(String, u64)>,
    least_spills: bool,
    reuse: Histogram,
    assumed: Vec<String>,
}

/// Inputs that come out again, longer: keys and values of a decoder.
#[derive(Default, Serialize)]
struct Caches {
    pairs: usize,
    in_bytes: u64,
    out_bytes: u64,
}

impl ModelReport {
    fn new(
        model: String,
        lifetimes: &Lifetimes,
        device: &str,
        least: &berth_compiler::room::Least,
        full: u64,
    ) -> ModelReport {
        let load = lifetimes.load();
        let peak = load.iter().enumerate().rev().max_by_key(|(_, l)| **l).map_or(0, |(p, _)| p);
        let uses = lifetimes.uses();
        let alive = uses.iter().enumerate().filter(|(t, u)| {
            let inside = u.first().zip(u.last()).is_some_and(|(a, b)| *a <= peak && peak <= *b);
            match lifetimes.tensors[*t].kind {
                Kind::Weight => false,
                Kind::State => !u.is_empty(),
                _ => inside,
            }
        });
        let mut alive: Vec<(String, u64)> =
            alive.map(|(t, _)| lifetimes.tensor(TensorId(t as u32))).map(|t| (t.name.clone(), t.bytes)).collect();
        alive.sort_by(|a, b| (std::cmp::Reverse(a.1), &a.0).cmp(&(std::cmp::Reverse(b.1), &b.0)));
        let states = lifetimes.tensors.iter().any(|t| t.kind == Kind::State);
        let kinds = [Kind::Weight, Kind::Input, Kind::Activation, Kind::Output];
        let kinds = kinds.into_iter().chain(states.then_some(Kind::State));
        ModelReport {
            model,
            tasks: lifetimes.tasks.len(),
            totals: kinds.map(|k| (format!("{k:?}").to_lowercase(), lifetimes.total(k))).collect(),
            stored_bytes: lifetimes.stored(),
            caches: Caches::default(),
            grows: Vec::new(),
            reuse: histogram(lifetimes),
            peak_bytes: load.get(peak).copied().unwrap_or(0),
            file_peak_bytes: 0,
            reordered: false,
            peak_bound_bytes: 0,
            saved: None,
            peak_task: lifetimes.tasks.get(peak).map_or(String::new(), |t| t.name.clone()),
            peak_tensors: alive.into_iter().take(6).collect(),
            device: device.to_owned(),
            full_bytes: full,
            least_bytes: least.bytes,
            least_tasks: lifetimes.tasks.len(),
            least_again: 0,
            least_split: false,
            least_whole_bytes: least.bytes,
            least_bound_bytes: least.bound,
            least_task: least.task.clone(),
            least_held: least.held.iter().take(6).cloned().collect(),
            least_spills: least.spills,
            assumed: Vec::new(),
        }
    }
}

/// What caches of some sizes would catch, from the first that catches something to the first that catches all.
fn reuse(f: &mut std::fmt::Formatter<'_>, histogram: &Histogram) -> std::fmt::Result {
    let rows: Vec<_> = histogram.weights.iter().zip(&histogram.others).collect();
    let Some((weights, others)) = rows.last() else { return Ok(()) };
    let all = (weights.gaps, others.gaps);
    let counts = |row: &(&Bucket, &Bucket)| (row.0.gaps, row.1.gaps);
    let first = rows.iter().position(|row| counts(row) != (0, 0)).unwrap_or(0);
    let last = rows.iter().position(|row| counts(row) == all).unwrap_or(rows.len() - 1);
    write!(
        f,
        "\n  reuse       bytes of others that pass between two uses, and the uses (weights, others) that come sooner"
    )?;
    for (weights, others) in &rows[first..=last] {
        let (size, counts) = (Bytes(weights.up_to).human(), format!("{} and {}", weights.gaps, others.gaps));
        write!(f, "\n    {size:<10}{counts} of {} and {}", all.0, all.1)?;
    }
    Ok(())
}

fn held(all: &[(String, u64)]) -> String {
    all.iter().map(|(n, b)| format!("`{n}` {}", Bytes(*b).human())).collect::<Vec<_>>().join(", ")
}

impl std::fmt::Display for ModelReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let human = |b: u64| Bytes(b).human();
        let reordered = self.reordered;
        writeln!(f, "{}: {} tasks in {} order", self.model, self.tasks, if reordered { "another" } else { "file" })?;
        for (kind, bytes) in &self.totals {
            let stored = format!(", from {} of files", human(self.stored_bytes));
            let stored = if kind == "weight" { stored } else { String::new() };
            writeln!(f, "  {kind:<12}{}{stored}", human(*bytes))?;
        }
        if let Some(Saved { tasks, moved_bytes, peak_bytes }) = &self.saved {
            let both = |(before, after): &(u64, u64)| format!("{} for {}", human(*after), human(*before));
            writeln!(
                f,
                "  rewritten   {} tasks for {}: they read and write {}, peak {}",
                tasks.1,
                tasks.0,
                both(moved_bytes),
                both(peak_bytes)
            )?;
        }
        let caches = &self.caches;
        if caches.pairs > 0 {
            let (inside, outside) = (human(caches.in_bytes), human(caches.out_bytes));
            writeln!(
                f,
                "  caches      {} of the inputs come out again, longer: {inside} in, {outside} out",
                caches.pairs
            )?;
        }
        for grows in &self.grows {
            writeln!(f, "  grows       {grows}")?;
        }
        writeln!(
            f,
            "  peak        {} beside weights, at task `{}`: {}",
            human(self.peak_bytes),
            self.peak_task,
            held(&self.peak_tensors)
        )?;
        let file = human(self.file_peak_bytes);
        let file = if reordered { format!("{file} in the file's order, ") } else { String::new() };
        writeln!(f, "              {file}bound {} in any order", human(self.peak_bound_bytes))?;
        writeln!(f, "  everything  {} of {} holds all of it", human(self.full_bytes), self.device)?;
        let how = if self.least_spills { "with activations put aside" } else { "with activations staying" };
        write!(
            f,
            "  least       {} B of {} {how} (bound {} B), at task `{}`: {}",
            self.least_bytes,
            self.device,
            self.least_bound_bytes,
            self.least_task,
            held(&self.least_held)
        )?;
        if self.least_bytes < self.least_whole_bytes {
            let (tasks, whole) = (self.least_tasks, self.least_whole_bytes);
            let changes = match (self.least_split, self.least_again) {
                (_, 0) => "large operators split".to_owned(),
                (true, again) => format!("large operators split and {again} run once more"),
                (false, again) => format!("{again} operators run once more"),
            };
            let as_it_is = if self.least_again == 0 { "with every one whole" } else { "as it is" };
            let needed = if whole == Least::none().bytes { "nothing works".into() } else { format!("{whole} B") };
            write!(f, "\n              with {changes}, {tasks} tasks in all; {needed} {as_it_is}")?;
        }
        reuse(f, &self.reuse)?;
        self.assumed.iter().try_for_each(|a| write!(f, "\n  assumed     {a}"))
    }
}

#[derive(Serialize)]
struct ProgramReport {
    target: String,
    dims: BTreeMap<String, String>,
    instructions: BTreeMap<String, usize>,
    arenas: BTreeMap<String, u64>,
    /// Weights that are brought once, by the prologue.
    resident: Vec<String>,
    resident_bytes: u64,
    /// Tensors that are brought in each step.
    streamed: Vec<String>,
    traffic: BTreeMap<String, u64>,
    /// Pairs of an input and an output that are one tensor from step to step.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    states: Vec<String>,
    /// Dims that grow from step to step, as states do that have them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    grows: Vec<Grows>,
    bounds: Vec<String>,
}

impl ProgramReport {
    fn new(program: &Program) -> ProgramReport {
        let berth_tensor: BTreeMap<&str, (&str, u64)> =
            program.berths.iter().map(|b| (b.name.as_str(), (b.tensor.as_str(), b.bytes))).collect();
        let brought = |code: &[Instruction]| -> BTreeSet<(String, u64)> {
            let to = code.iter().filter_map(|i| match i {
                Instruction::Copy { to, .. } => berth_tensor.get(to.as_str()),
                _ => None,
            });
            to.map(|(tensor, bytes)| ((*tensor).to_owned(), *bytes)).collect()
        };
        let resident = brought(&program.prologue);
        let streamed: BTreeSet<_> = program.bodies.iter().flat_map(|b| brought(&b.code)).collect();
        let parts = program.bodies.iter().map(|b| (b.name.clone(), b.code.len()));
        let instructions = std::iter::once(("prologue".to_owned(), program.prologue.len())).chain(parts).collect();
        ProgramReport {
            target: program.header.target.clone(),
            dims: program.header.dims.iter().map(|(d, r)| (d.clone(), r.to_string())).collect(),
            instructions,
            arenas: program.arenas.iter().map(|a| (a.tier.clone(), a.bytes)).collect(),
            resident_bytes: resident.iter().map(|(_, b)| b).sum(),
            resident: resident.into_iter().map(|(t, _)| t).collect(),
            streamed: streamed.into_iter().map(|(t, _)| t).collect(),
            traffic: traffic(program),
            states: program.header.states.iter().map(ToString::to_string).collect(),
            grows: Grows::all(&program.header.growth, &program.header.dims),
            bounds: room_bounds(program),
        }
    }
}

impl std::fmt::Display for ProgramReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let some = |all: &[String]| {
            let first: Vec<String> = all.iter().take(8).map(|n| format!("`{n}`")).collect();
            let more = all.len().saturating_sub(first.len());
            if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
        };
        let dims: Vec<String> = self.dims.iter().map(|(d, r)| format!("{d}={r}")).collect();
        writeln!(f, "program for {}, {}", self.target, dims.join(" "))?;
        for (part, count) in &self.instructions {
            writeln!(f, "  {part:<12}{count} instructions")?;
        }
        for (tier, bytes) in &self.arenas {
            writeln!(f, "  {tier:<12}{}", Bytes(*bytes).human())?;
        }
        writeln!(f, "  once        {}: {}", Bytes(self.resident_bytes).human(), some(&self.resident))?;
        write!(f, "  each step   {} tensors: {}", self.streamed.len(), some(&self.streamed))?;
        if !self.states.is_empty() {
            write!(f, "\n  states      {}: {}", self.states.len(), some(&self.states))?;
        }
        self.grows.iter().try_for_each(|grows| write!(f, "\n  grows       {grows}"))?;
        for (link, bytes) in &self.traffic {
            write!(f, "\n  link {link:<7}{} a step", Bytes(*bytes).human())?;
        }
        self.bounds.iter().try_for_each(|b| write!(f, "\n  bound       {b}"))
    }
}
