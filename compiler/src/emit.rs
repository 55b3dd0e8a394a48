//! Writes stays and offsets down as a memory program.
//!
//! Reads:    lifetimes, machine, stays, offsets.
//! Decides:  nothing but names; every `after` follows from who held the bytes before and who made them.
//! Promises: a program that the verifier accepts, if stays that meet share no byte.
//! Why:      an edge only where it is needed: the last holder of each byte, and the source of each copy.

use crate::machine::Machine;
use crate::offset::Offsets;
use crate::stay::{Arrival, Level, Stay};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::*;
use berth_ir::target::Target;
use berth_ir::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The name of the only body.
pub const BODY: &str = "step";

/// A stay's instructions and berth, by name.
struct Named {
    berth: String,
    /// The copy or feed that brings it; nothing where a task writes it.
    arrival: Option<String>,
    fetch: Option<String>,
}

struct Emitter<'a> {
    lifetimes: &'a Lifetimes,
    machine: &'a Machine<'a>,
    host: &'a [bool],
    stays: &'a [Stay],
    offsets: &'a [u64],
    names: Vec<Named>,
    /// Stays that are copied out of a stay: by index of the source.
    copies_out: Vec<Vec<usize>>,
    runs: Vec<String>,
    /// For each stay those that held its bytes last before it, and how many steps back.
    holders: Vec<Vec<(usize, u32)>>,
}

/// The program with what can be counted of it. Where it is broken the verifier says so; then nothing is counted.
pub fn with_facts(target: &Target, mut program: Program) -> Program {
    program.facts = berth_ir::verify::facts(target, &program).unwrap_or_default();
    program
}

/// Emits the program, without its facts. `host` says by position which tasks the engine of the lower memory runs.
pub fn emit(
    lifetimes: &Lifetimes,
    machine: &Machine,
    host: &[bool],
    stays: &[Stay],
    device: &Offsets,
    lower: &Offsets,
    mode: Mode,
) -> Program {
    let offsets = spread(stays, device, lower);
    let mut copies_out = vec![Vec::new(); stays.len()];
    for (i, stay) in stays.iter().enumerate() {
        if let Arrival::Stay { from, .. } = stay.arrives {
            copies_out[from].push(i);
        }
    }
    let runs = lifetimes.tasks.iter().map(|t| format!("run {}", t.name)).collect();
    let names = names(lifetimes, stays);
    let holders = last_holders(stays, &offsets, lifetimes.tasks.len() as i64);
    let emitter = Emitter { lifetimes, machine, host, stays, offsets: &offsets, names, copies_out, runs, holders };
    emitter.program(device.height, lower.height, mode)
}

/// Offsets of both levels in the order of all stays.
fn spread(stays: &[Stay], device: &Offsets, lower: &Offsets) -> Vec<u64> {
    let (mut device, mut lower) = (device.at.iter(), lower.at.iter());
    let next = |s: &Stay| match s.level {
        Level::Device => device.next(),
        Level::Lower => lower.next(),
    };
    stays.iter().map(next).map(|at| at.copied().unwrap_or(0)).collect()
}

/// For each stay those that held its bytes last before it, each with how many steps back: 0 or 1.
///
/// Goes through two steps in the order in which stays begin, and keeps for each byte who has it.
fn last_holders(stays: &[Stay], offsets: &[u64], period: i64) -> Vec<Vec<(usize, u32)>> {
    let mut all = vec![Vec::new(); stays.len()];
    for level in [Level::Device, Level::Lower] {
        let here = |i: &usize| stays[*i].level == level && !stays[*i].forever && stays[*i].bytes > 0;
        let mut order: Vec<usize> = (0..stays.len()).filter(here).collect();
        order.sort_by_key(|i| (stays[*i].from, *i));
        // The second step begins before the first has ended where stays begin ahead of their step.
        let shifted = |step: i64| order.iter().map(move |i| (step, *i));
        let mut both: Vec<(i64, usize)> = shifted(0).chain(shifted(1)).collect();
        both.sort_by_key(|(step, i)| (stays[*i].from + step * period, *step, *i));
        let mut held: BTreeMap<u64, (u64, i64, usize)> = BTreeMap::new();
        for (step, i) in both {
            let (from, to) = (offsets[i], offsets[i] + stays[i].bytes);
            split(&mut held, from);
            split(&mut held, to);
            let before: Vec<(u64, (u64, i64, usize))> = held.range(from..to).map(|(k, v)| (*k, *v)).collect();
            for (start, (_, earlier, j)) in before {
                held.remove(&start);
                let back = (j, (step - earlier) as u32);
                if step == 1 && !all[i].contains(&back) {
                    all[i].push(back);
                }
            }
            held.insert(from, (to, step, i));
        }
    }
    all
}

/// Cuts the range that crosses an address in two.
fn split(held: &mut BTreeMap<u64, (u64, i64, usize)>, at: u64) {
    let crossing = held.range(..at).next_back().filter(|(_, (to, ..))| *to > at).map(|(from, v)| (*from, *v));
    if let Some((from, (to, step, i))) = crossing {
        held.insert(from, (at, step, i));
        held.insert(at, (to, step, i));
    }
}

fn names(lifetimes: &Lifetimes, stays: &[Stay]) -> Vec<Named> {
    let mut counts: BTreeMap<(Level, u32), usize> = BTreeMap::new();
    for s in stays.iter().filter(|s| s.arrives != Arrival::Scratch) {
        *counts.entry((s.level, s.tensor.0)).or_default() += 1;
    }
    let mut seen: BTreeMap<(Level, u32), usize> = BTreeMap::new();
    let mut all = Vec::new();
    for s in stays {
        let tensor = &lifetimes.tensor(s.tensor).name;
        let mut berth = tensor.clone();
        match (s.level, &s.arrives) {
            (_, Arrival::Scratch) => berth = format!("workspace of {}", lifetimes.tasks[s.uses[0]].name),
            (Level::Lower, _) => berth.push_str("@lower"),
            (Level::Device, _) => {}
        }
        let count = counts.get(&(s.level, s.tensor.0)).copied().unwrap_or(0);
        if s.arrives != Arrival::Scratch && count > 1 {
            let n = seen.entry((s.level, s.tensor.0)).or_default();
            *n += 1;
            berth.push_str(&format!("#{n}"));
        }
        let arrival = match s.arrives {
            Arrival::Home { .. } => Some(format!("load {berth}")),
            Arrival::Stay { from, .. } if stays[from].level == Level::Device => Some(format!("save {berth}")),
            Arrival::Stay { .. } => Some(format!("load {berth}")),
            Arrival::Feed => Some(format!("feed {berth}")),
            Arrival::Run(_) | Arrival::Scratch => None,
        };
        let fetch = s.fetched.then(|| format!("fetch {tensor}"));
        all.push(Named { berth, arrival, fetch });
    }
    all
}

impl Emitter<'_> {
    fn program(&self, device: u64, lower: u64, mode: Mode) -> Program {
        let machine = self.machine;
        let mut arenas = vec![Arena { tier: machine.device.name.clone(), bytes: device }];
        if let (Some(tier), true) = (machine.lower, self.stays.iter().any(|s| s.level == Level::Lower)) {
            arenas.push(Arena { tier: tier.name.clone(), bytes: lower });
        }
        let (prologue, code) = self.code();
        Program {
            header: Header {
                format: FORMAT,
                model: self.lifetimes.model.clone(),
                target: machine.target.name.clone(),
                layout: machine.target.layout_hash(),
                numerics: Numerics::Exact,
                mode,
                dims: self.lifetimes.dims.clone(),
                memory: budgets(machine.target),
                growth: BTreeMap::new(),
            },
            arenas,
            tensors: self.tensors(),
            tasks: (0..self.lifetimes.tasks.len()).map(|p| self.task(p)).collect(),
            berths: (0..self.stays.len()).map(|i| self.berth(i)).collect(),
            prologue,
            bodies: vec![Body { name: BODY.to_owned(), dims: BTreeMap::new(), code }],
            transitions: Vec::new(),
            facts: Facts::default(),
        }
    }

    fn tensors(&self) -> Vec<Tensor> {
        let used: BTreeSet<u32> = self.stays.iter().map(|s| s.tensor.0).collect();
        let tensors = used.iter().map(|t| &self.lifetimes.tensors[*t as usize]);
        let mut all: Vec<Tensor> = tensors
            .map(|t| Tensor {
                name: t.name.clone(),
                kind: t.kind,
                dtype: t.dtype,
                bytes: t.extent.clone(),
                home: t.home.clone(),
            })
            .collect();
        if self.stays.iter().any(|s| s.arrives == Arrival::Scratch) {
            all.push(Tensor {
                name: "workspace".to_owned(),
                kind: Kind::Workspace,
                dtype: berth_ir::DType::U8,
                bytes: berth_ir::Expr::constant(0),
                home: None,
            });
        }
        all
    }

    fn task(&self, position: usize) -> Task {
        let t = &self.lifetimes.tasks[position];
        let name = |id: &berth_ir::lifetime::TensorId| self.lifetimes.tensor(*id).name.clone();
        let host = self.machine.host.filter(|_| self.host[position]);
        // A table that is read by rows below stays there; one on the device is brought there whole.
        let reads = t.reads.iter().map(|r| match host.is_some() && t.rows.contains(r) {
            true => Access::ReadRows(name(r)),
            false => Access::Read(name(r)),
        });
        let writes = t.writes.iter().map(|w| Access::Write(name(w)));
        Task {
            name: t.name.clone(),
            engine: host.unwrap_or(self.machine.engine).to_owned(),
            ops: t.ops.clone(),
            accesses: reads.chain(writes).collect(),
            workspace: t.workspace,
            cost: t.cost,
            in_place: Vec::new(),
        }
    }

    fn tier(&self, level: Level) -> String {
        match level {
            Level::Device => self.machine.device.name.clone(),
            Level::Lower => self.machine.lower.map_or(String::new(), |t| t.name.clone()),
        }
    }

    fn berth(&self, i: usize) -> Berth {
        let stay = &self.stays[i];
        let scratch = stay.arrives == Arrival::Scratch;
        let tensor = if scratch { "workspace".to_owned() } else { self.lifetimes.tensor(stay.tensor).name.clone() };
        Berth {
            name: self.names[i].berth.clone(),
            tensor,
            part: stay.part,
            arena: self.tier(stay.level),
            offset: self.offsets[i],
            bytes: stay.bytes,
            until: if stay.forever { Vec::new() } else { self.until(i) },
        }
    }

    /// The last uses of a stay: its last run, and all copies and fetches out of it.
    fn until(&self, i: usize) -> Vec<String> {
        let last_run = self.stays[i].uses.iter().max().map(|p| self.run_at(*p).to_owned());
        last_run.into_iter().chain(self.ends_beside_runs(i)).collect()
    }

    /// Copies and fetches out of a stay; what wrote it where nothing else uses it.
    fn ends_beside_runs(&self, i: usize) -> impl Iterator<Item = String> {
        let named = &self.names[i];
        let copies = self.copies_out[i].iter().filter_map(|c| self.names[*c].arrival.as_ref());
        let all: Vec<&String> = named.fetch.iter().chain(copies).collect();
        let unused = all.is_empty() && self.stays[i].uses.is_empty();
        let all: Vec<String> = all.into_iter().chain(named.arrival.iter().filter(|_| unused)).cloned().collect();
        all.into_iter()
    }

    /// For each position: what is brought for it, what is fed, its run, what is fetched, what is put aside after it.
    fn code(&self) -> (Vec<Instruction>, Vec<Instruction>) {
        let mut prologue = Vec::new();
        let positions = self.lifetimes.tasks.len();
        let (mut before, mut after) = (vec![Vec::new(); positions], vec![Vec::new(); positions]);
        for (i, stay) in self.stays.iter().enumerate() {
            match stay.arrives {
                Arrival::Home { .. } | Arrival::Stay { .. } if stay.forever => prologue.push(self.copy(i, true)),
                Arrival::Stay { from, .. } if self.stays[from].level == Level::Device => {
                    after[stay.from as usize].push(self.copy(i, false));
                }
                Arrival::Home { .. } | Arrival::Stay { .. } => {
                    // What the first step finds of the step before it.
                    if stay.crosses(positions as i64) {
                        prologue.push(self.copy(i, true));
                    }
                    before[stay.uses[0]].push(self.copy(i, false));
                }
                Arrival::Feed => before[stay.uses[0]].push(self.feed(i)),
                Arrival::Run(_) | Arrival::Scratch => {}
            }
            if let (Some(name), Some(written)) = (&self.names[i].fetch, stay.uses.first()) {
                let (berth, wait) = (self.names[i].berth.clone(), After::this(self.runs[*written].clone()));
                after[*written].push(Instruction::Fetch { name: name.clone(), berth, after: vec![wait] });
            }
        }
        let mut code = Vec::new();
        let by_position = self.stays_by_position();
        for p in 0..positions {
            code.append(&mut before[p]);
            code.push(self.run(p, &by_position[p]));
            code.append(&mut after[p]);
        }
        (prologue, code)
    }

    /// The stays that each task uses.
    fn stays_by_position(&self) -> Vec<Vec<usize>> {
        let mut all = vec![Vec::new(); self.lifetimes.tasks.len()];
        for (i, stay) in self.stays.iter().enumerate() {
            for p in &stay.uses {
                all[*p % self.runs.len()].push(i);
            }
        }
        all
    }

    /// A use, by position; those in the next step lie behind the last of this one.
    fn run_at(&self, position: usize) -> &str {
        &self.runs[position % self.runs.len()]
    }

    /// The copy that brings a stay, in each step or in the prologue.
    fn copy(&self, i: usize, first: bool) -> Instruction {
        let stay = &self.stays[i];
        let machine = self.machine;
        let mut after = if first { Vec::new() } else { self.freed_by(i) };
        let (from, demand) = match stay.arrives {
            Arrival::Stay { from, demand } => {
                after.extend(self.made_by(from, first));
                (Place::Berth(self.names[from].berth.clone()), demand)
            }
            Arrival::Home { demand } => (Place::Home, demand),
            Arrival::Run(_) | Arrival::Feed | Arrival::Scratch => (Place::Home, false),
        };
        let wanted = stay.uses.first().map(|p| self.runs[*p].clone());
        if let (true, Some(p)) = (demand && !first, stay.uses.first()) {
            after.push(match p.checked_sub(1) {
                Some(before) => After::this(self.runs[before].clone()),
                None => After::previous(self.runs[self.runs.len() - 1].clone()),
            });
        }
        let source = match stay.arrives {
            Arrival::Stay { from, .. } => Some(self.stays[from].level),
            _ => None,
        };
        let link = match (source, stay.level) {
            (None, Level::Device) => machine.home_to_device,
            (None, Level::Lower) => machine.home_to_lower,
            (Some(_), Level::Device) => machine.lower_to_device,
            (Some(_), Level::Lower) => machine.device_to_lower,
        };
        Instruction::Copy {
            name: self.names[i].arrival.clone().unwrap_or_default(),
            from,
            to: self.names[i].berth.clone(),
            extent: Extent::Whole,
            queue: link.map_or(String::new(), |l| l.name.clone()),
            class: if demand { Class::Demand } else { Class::Planned },
            wanted: if first { None } else { wanted },
            after: tidy(after),
        }
    }

    fn feed(&self, i: usize) -> Instruction {
        Instruction::Feed {
            name: self.names[i].arrival.clone().unwrap_or_default(),
            berth: self.names[i].berth.clone(),
            after: tidy(self.freed_by(i)),
        }
    }

    fn run(&self, position: usize, stays: &[usize]) -> Instruction {
        let task = &self.lifetimes.tasks[position];
        let scratch = |i: &&usize| self.stays[**i].arrives == Arrival::Scratch;
        // Parts of a stay stand one behind the other, in order.
        let parts = |tensor| -> Vec<usize> {
            let here = stays.iter().filter(|i| !scratch(i) && self.stays[**i].tensor == tensor);
            here.copied().collect()
        };
        let operands = task.reads.iter().chain(&task.writes).map(|t| parts(*t)).filter(|p| !p.is_empty());
        let bound: Vec<Vec<usize>> = operands.chain(stays.iter().filter(scratch).map(|i| vec![*i])).collect();
        let mut after = Vec::new();
        for &i in bound.iter().flatten() {
            let stay = &self.stays[i];
            match stay.arrives {
                Arrival::Run(p) if p != position => {}
                // What it writes must be free; runs before it have ended by the engine's order.
                Arrival::Run(_) | Arrival::Scratch => {
                    after.extend(self.freed_by(i).into_iter().filter(|a| !a.name.starts_with("run ")));
                }
                _ if stay.uses[0] == position => after.extend(self.made_by(i, false)),
                // In the first step it is the prologue that brought it.
                _ if stay.uses.iter().find(|p| **p >= self.runs.len()) == Some(&(position + self.runs.len())) => {
                    after.extend(self.names[i].arrival.as_deref().map(After::previous));
                }
                _ => {}
            }
        }
        Instruction::Run {
            name: self.runs[position].clone(),
            task: task.name.clone(),
            berths: bound.iter().map(|parts| self.joined(parts)).collect(),
            after: tidy(after),
        }
    }

    /// The berths of parts, as a run binds them.
    fn joined(&self, parts: &[usize]) -> String {
        parts.iter().map(|i| self.names[*i].berth.as_str()).collect::<Vec<_>>().join(" + ")
    }

    /// What must have ended before a stay's bytes may be read.
    fn made_by(&self, i: usize, in_prologue: bool) -> Option<After> {
        let stay = &self.stays[i];
        match (stay.arrives, &self.names[i].arrival) {
            (Arrival::Run(p), _) => Some(After::this(self.runs[p].clone())),
            (_, Some(name)) if stay.forever && !in_prologue => Some(After::previous(name.clone())),
            (_, Some(name)) => Some(After::this(name.clone())),
            (_, None) => None,
        }
    }

    /// What must have ended before a stay may be written: the ends of those that held its bytes last.
    fn freed_by(&self, i: usize) -> Vec<After> {
        let stay = &self.stays[i];
        if stay.forever {
            return Vec::new();
        }
        if stay.bytes == 0 {
            // It shares no byte with anything; only its own last instance is before it.
            return self.until(i).into_iter().map(|name| After { name, steps: 1 }).collect();
        }
        let period = self.lifetimes.tasks.len() as i64;
        // Runs end in order: of all that held the bytes, the last one says it for the others.
        let mut last_run: Option<(i64, &str, u32)> = None;
        let mut after = Vec::new();
        for &(j, steps) in &self.holders[i] {
            if let Some(p) = self.stays[j].uses.iter().max() {
                let at = *p as i64 - i64::from(steps) * period;
                // What ends in the step after its own has held the bytes since the step before.
                let steps = steps.saturating_sub((*p as i64 / period) as u32);
                last_run = last_run.max(Some((at, self.run_at(*p), steps)));
            }
            after.extend(self.ends_beside_runs(j).map(|name| After { name, steps }));
        }
        after.extend(last_run.map(|(_, name, steps)| After { name: name.to_owned(), steps }));
        after
    }
}

/// The budgets that a target was given.
fn budgets(target: &Target) -> BTreeMap<String, Bytes> {
    target.tiers.iter().filter_map(|t| t.budget.map(|b| (t.name.clone(), b))).collect()
}

/// Each instruction once; of the same instruction in this step and the one before, this step's suffices.
fn tidy(mut after: Vec<After>) -> Vec<After> {
    after.sort();
    after.dedup_by(|later, earlier| later.name == earlier.name);
    after
}
