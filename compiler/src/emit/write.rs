//! Writes the instructions of stays down as a memory program, with names.

use super::{Act, BODY, Emitter};
use crate::stay::{Arrival, Level, Stay};
use crate::step::{Lines, Wait};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::*;
use berth_ir::target::Target;
use berth_ir::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A stay's instructions and berth, by name.
struct Named {
    berth: String,
    /// The copy or feed that brings it; nothing where a task writes it.
    arrival: Option<String>,
    fetch: Option<String>,
    /// The feed before the first step.
    begin: Option<String>,
}

/// What has a name in a program.
struct Names {
    stays: Vec<Named>,
    runs: Vec<String>,
}

/// The names of stays' berths and instructions.
fn named(lifetimes: &Lifetimes, stays: &[Stay]) -> Vec<Named> {
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
            (Level::Further(n), _) => berth.push_str(&format!("@lower{}", u16::from(n) + 2)),
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
        let begin = s.fed.then(|| format!("feed {berth}"));
        let fetch = s.fetched.then(|| format!("fetch {tensor}"));
        all.push(Named { berth, arrival, fetch, begin });
    }
    all
}

impl Emitter<'_> {
    /// The program, without its facts.
    pub fn program(&self, mode: Mode) -> Program {
        let machine = self.machine;
        let used: BTreeSet<Level> = self.stays.iter().map(|s| s.level).collect();
        let levels = std::iter::once(Level::Device).chain(machine.below()).zip(&self.heights);
        let here = levels.filter(|(level, _)| *level == Level::Device || used.contains(level));
        let arenas = here.map(|(level, bytes)| Arena { tier: self.tier(level), bytes: *bytes }).collect();
        let runs = self.lifetimes.tasks.iter().map(|t| format!("run {}", t.name)).collect();
        let names = &Names { stays: named(self.lifetimes, self.stays), runs };
        let [prologue, code] = self.lines();
        let (prologue, code) = (self.code(names, &prologue, true), self.code(names, &code, false));
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
                split: None,
                recompute: Vec::new(),
                states: Vec::new(),
            },
            arenas,
            tensors: self.tensors(),
            tasks: (0..self.lifetimes.tasks.len()).map(|p| self.task(p)).collect(),
            berths: (0..self.stays.len()).map(|i| self.berth(names, i)).collect(),
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
        // What a task reads and writes again has one berth.
        let again = |(w, tensor)| Some((t.reads.iter().position(|r| r == tensor)?, t.reads.len() + w));
        Task {
            name: t.name.clone(),
            engine: host.unwrap_or(self.machine.engine).to_owned(),
            ops: t.ops.clone(),
            accesses: reads.chain(writes).collect(),
            workspace: t.workspace,
            cost: t.cost,
            in_place: t.writes.iter().enumerate().filter_map(again).collect(),
            held: None,
        }
    }

    fn tier(&self, level: Level) -> String {
        self.machine.tier(level).map_or(String::new(), |tier| tier.name.clone())
    }

    fn berth(&self, names: &Names, i: usize) -> Berth {
        let stay = &self.stays[i];
        let scratch = stay.arrives == Arrival::Scratch;
        let tensor = if scratch { "workspace".to_owned() } else { self.lifetimes.tensor(stay.tensor).name.clone() };
        Berth {
            name: names.stays[i].berth.clone(),
            tensor,
            part: stay.part,
            arena: self.tier(stay.level),
            offset: self.offsets[i],
            bytes: stay.bytes,
            until: if stay.forever && !stay.stage {
                Vec::new()
            } else {
                self.until(i).map(|(u, _)| self.name(names, u).to_owned()).collect()
            },
        }
    }

    /// The name of the instruction with a number.
    fn name<'n>(&self, names: &'n Names, number: u32) -> &'n str {
        match self.act(number) {
            Act::Bring(i) => names.stays[i].arrival.as_deref().unwrap_or_default(),
            Act::Run(p) => &names.runs[p],
            Act::Fetch(i) => names.stays[i].fetch.as_deref().unwrap_or_default(),
            Act::Begin(i) => names.stays[i].begin.as_deref().unwrap_or_default(),
        }
    }

    /// The instructions of the body, or `first` those of the prologue, which no task wants.
    fn code(&self, names: &Names, lines: &Lines, first: bool) -> Vec<Instruction> {
        lines.iter().map(|(number, after)| self.instruction(names, number, after, first)).collect()
    }

    fn instruction(&self, names: &Names, number: u32, after: &[Wait], first: bool) -> Instruction {
        let name = self.name(names, number).to_owned();
        let waits = after.iter().map(|w| After { name: self.name(names, w.line).to_owned(), steps: w.steps });
        let mut after: Vec<After> = waits.collect();
        after.sort();
        let berth = |i: usize| names.stays[i].berth.clone();
        match self.act(number) {
            Act::Begin(i) | Act::Bring(i) if self.is_fed(number) => Instruction::Feed { name, berth: berth(i), after },
            Act::Begin(i) | Act::Bring(i) => {
                let stay = &self.stays[i];
                let through = matches!(stay.arrives, Arrival::Home { .. }).then_some(stay.to as usize);
                let wanted = stay.uses.first().copied().or(through).filter(|_| !first);
                Instruction::Copy {
                    name,
                    from: match stay.arrives {
                        Arrival::Stay { from, .. } => Place::Berth(berth(from)),
                        _ => Place::Home,
                    },
                    to: berth(i),
                    extent: Extent::Whole,
                    queue: self.link(i).map_or(String::new(), |l| l.name.clone()),
                    class: self.class(i),
                    wanted: wanted.map(|p| names.runs[p % self.period()].clone()),
                    after,
                }
            }
            Act::Run(p) => {
                // The berths of parts, as a run binds them.
                let joined = |parts: &Vec<usize>| {
                    parts.iter().map(|i| names.stays[*i].berth.as_str()).collect::<Vec<_>>().join(" + ")
                };
                let task = self.lifetimes.tasks[p].name.clone();
                Instruction::Run { name, task, berths: self.bound(p).iter().map(joined).collect(), after }
            }
            Act::Fetch(i) => Instruction::Fetch { name, berth: berth(i), after },
        }
    }
}

/// The budgets that a target was given.
pub(crate) fn budgets(target: &Target) -> BTreeMap<String, Bytes> {
    target.tiers.iter().filter_map(|t| t.budget.map(|b| (t.name.clone(), b))).collect()
}
