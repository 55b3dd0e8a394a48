//! A program by index, as the simulator goes through it: what each instruction occupies, and what waits for it.
//!
//! Reads:    a program and its target; or lines that the emitter makes of stays, without names.
//! Decides:  nothing.
//! Promises: a program and the lines that it was written from give the same step.
//! Why:      of hundreds of choices that are simulated one is written down, and only that needs names.

use crate::share::Demand;
use berth_ir::Target;
use berth_ir::fed;
use berth_ir::program::{Access, Class, Extent, Instruction, Place, Program};
use berth_ir::units::Bytes;
use std::collections::{BTreeSet, HashMap, HashSet};

/// What an instruction occupies, and for how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    pub server: usize,
    /// For which it occupies its server.
    pub time: u64,
    /// From then until it has ended.
    pub latency: u64,
    /// Lower goes first on a link.
    pub class: Class,
    pub kind: Instance,
    /// What it takes of memories meanwhile.
    pub demand: Demand,
}

/// What matters of an instruction's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instance {
    Run,
    Copy,
    Feed,
    Fetch,
}

/// An instruction that must have ended, by number, and how many steps back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wait {
    pub line: u32,
    pub steps: u32,
}

/// The instructions of a prologue or a body, in order: the number of each, and what must have ended before it. One number
/// stands for one name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    numbers: Vec<u32>,
    /// For each the end of its part of `after`.
    ends: Vec<usize>,
    after: Vec<Wait>,
}

impl Lines {
    /// Adds an instruction.
    pub fn push(&mut self, number: u32, after: impl IntoIterator<Item = Wait>) {
        self.numbers.push(number);
        self.after.extend(after);
        self.ends.push(self.after.len());
    }

    /// Each instruction's number, with what must have ended before it.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &[Wait])> {
        let after = |i: usize| &self.after[i.checked_sub(1).map_or(0, |i| self.ends[i])..self.ends[i]];
        self.numbers.iter().enumerate().map(move |(i, number)| (*number, after(i)))
    }
}

/// An instruction that waits: in so many steps, and its place there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub steps: u32,
    pub at: u32,
}

/// What a prologue or a body occupies, and who waits for its instructions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Part {
    pub work: Vec<Work>,
    /// For each instruction the start of its part of `next`, and the end of the last.
    first: Vec<u32>,
    next: Vec<Next>,
}

impl Part {
    /// Who waits for an instruction, as they stand in the program.
    pub fn next(&self, at: usize) -> &[Next] {
        &self.next[self.first[at] as usize..self.first[at + 1] as usize]
    }
}

/// A prologue and a body to be simulated.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub parts: [Part; 2],
    /// Time that the tasks take one after the other.
    pub busy: u64,
}

/// No place.
const NOWHERE: u32 = u32::MAX;

impl Step {
    /// Of lines of the prologue and the body, with what each line occupies. Numbers are below `numbers`.
    pub fn new(lines: &[Lines; 2], work: [Vec<Work>; 2], numbers: usize, busy: u64) -> Step {
        let place = [0, 1].map(|part: usize| {
            let mut place = vec![NOWHERE; numbers];
            lines[part].numbers.iter().enumerate().for_each(|(i, number)| place[*number as usize] = i as u32);
            place
        });
        // Who waits in the same step, then who waits later, each in the order of the program: by who is waited for.
        let (mut now, mut later) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for (part, lines) in lines.iter().enumerate() {
            let mut runs = Runs::of(&work);
            for (i, (number, after)) in lines.iter().enumerate() {
                let at = i as u32;
                // An instruction ends before its next instance starts.
                for wait in after.iter().chain(&[Wait { line: number, steps: 1 }]) {
                    let next = Next { steps: wait.steps, at };
                    match wait.steps {
                        0 => now[part].push((place[part][wait.line as usize], next)),
                        // The prologue is the step before the first, and nothing is before it.
                        _ if part == 1 => (0..2).for_each(|p| later[p].push((place[p][wait.line as usize], next))),
                        _ => {}
                    }
                }
                // An engine runs its tasks in written order.
                if work[part][i].kind == Instance::Run {
                    let before = runs.before(part, work[part][i].server, at);
                    now[part].extend(before.here.map(|b| (b, Next { steps: 0, at })));
                    let next = Next { steps: 1, at };
                    before.across.iter().zip(&mut later).for_each(|(b, later)| later.extend(b.map(|b| (b, next))));
                }
            }
        }
        for later in &mut later {
            later.sort_by_key(|(_, next)| next.steps);
        }
        let [first, second] = work;
        let [now_first, now_second] = now;
        let [later_first, later_second] = later;
        let parts = [listed(first, now_first, later_first), listed(second, now_second, later_second)];
        Step { parts, busy }
    }

    /// Of a program and its first body, where inputs of these tensors are the same in every step.
    pub fn of_program(target: &Target, program: &Program, same: &BTreeSet<&str>) -> Step {
        let body = program.bodies.first().map_or(&[][..], |b| &b.code);
        let code = [program.prologue.as_slice(), body];
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        for instruction in code.into_iter().flatten() {
            let next = numbers.len() as u32;
            numbers.entry(instruction.name()).or_insert(next);
        }
        let lines = code.map(|code| {
            let mut lines = Lines::default();
            for instruction in code {
                // What is nowhere is not waited for.
                let waits = instruction.after().iter().filter_map(|a| {
                    let line = *numbers.get(a.name.as_str())?;
                    Some(Wait { line, steps: a.steps })
                });
                lines.push(numbers[instruction.name()], waits);
            }
            lines
        });
        let facts = Facts::new(target, program, same);
        let work = code.map(|code| code.iter().map(|i| facts.work(i)).collect());
        let busy = program.tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add);
        Step::new(&lines, work, numbers.len(), busy)
    }
}

/// Who waits for whom, listed by who is waited for; those who are nowhere are not.
fn listed(work: Vec<Work>, now: Vec<(u32, Next)>, later: Vec<(u32, Next)>) -> Part {
    let mut first = vec![0u32; work.len() + 1];
    let all = || now.iter().chain(&later).filter(|(before, _)| *before != NOWHERE);
    all().for_each(|(before, _)| first[*before as usize + 1] += 1);
    for i in 0..work.len() {
        first[i + 1] += first[i];
    }
    let mut end = first.clone();
    let mut next = vec![Next { steps: 0, at: 0 }; first[work.len()] as usize];
    for (before, waits) in all() {
        let end = &mut end[*before as usize];
        next[*end as usize] = *waits;
        *end += 1;
    }
    Part { work, first, next }
}

/// The run before each run on its engine.
struct Runs {
    /// By part and engine: the last run.
    last: [HashMap<usize, u32>; 2],
    /// By engine: the last run so far.
    so_far: HashMap<usize, u32>,
}

/// The run before one: in the same step; or, for the first, the last of the prologue and that of the step before.
struct Before {
    here: Option<u32>,
    across: [Option<u32>; 2],
}

impl Runs {
    fn of(work: &[Vec<Work>; 2]) -> Runs {
        let last = [0, 1].map(|part: usize| {
            let runs = work[part].iter().enumerate().filter(|(_, w)| w.kind == Instance::Run);
            runs.map(|(i, w)| (w.server, i as u32)).collect()
        });
        Runs { last, so_far: HashMap::new() }
    }

    fn before(&mut self, part: usize, server: usize, at: u32) -> Before {
        let here = self.so_far.insert(server, at);
        let across = [0, 1].map(|p: usize| self.last[p].get(&server).copied().filter(|_| here.is_none() && part == 1));
        Before { here, across }
    }
}

/// What there is one thing at a time on: engines, then links or groups of links, then the caller.
pub(crate) struct Servers<'t> {
    target: &'t Target,
    /// Names of all, for people.
    pub names: Vec<&'t str>,
    /// By link.
    of_link: Vec<usize>,
}

impl<'t> Servers<'t> {
    pub fn of(target: &'t Target) -> Servers<'t> {
        let mut names: Vec<&str> = target.engines.iter().map(|e| e.name.as_str()).collect();
        let engines = names.len();
        let of_link = target.links.iter().map(|link| {
            let group = link.group.as_ref().unwrap_or(&link.name).as_str();
            let found = names[engines..].iter().position(|n| *n == group).map(|i| i + engines);
            found.unwrap_or_else(|| {
                names.push(group);
                names.len() - 1
            })
        });
        let of_link = of_link.collect();
        names.push("caller");
        Servers { target, names, of_link }
    }

    /// The engine of this name, by index.
    pub fn engine(&self, name: &str) -> usize {
        self.target.engines.iter().position(|e| e.name == name).unwrap_or(0)
    }

    /// A run of a task of so much cost that touches so many bytes.
    pub fn run(&self, engine: usize, cost: u64, touched: u64) -> Work {
        let demand = Demand::of_run(self.target, engine, touched, cost);
        Work { server: engine, time: cost, latency: 0, class: Class::Demand, kind: Instance::Run, demand }
    }

    /// A copy of so many bytes over a link. `made`: out of nothing, as fast as the memory takes it.
    pub fn copy(&self, queue: &str, class: Class, bytes: u64, made: bool) -> Work {
        let Some(n) = self.target.links.iter().position(|l| l.name == queue) else {
            return Work { class, ..self.call(Instance::Copy) };
        };
        let link = &self.target.links[n];
        let (rate, latency) = match made {
            true => (self.target.tier(&link.to).map(|t| t.bandwidth).unwrap_or_default(), 0),
            false => (link.present_rate(), link.latency.0),
        };
        let time = Bytes(bytes).at(rate).0.saturating_add(link.submit.0);
        let demand = Demand::of_copy(self.target, link, bytes, time);
        Work { server: self.of_link[n], time, latency, class, kind: Instance::Copy, demand }
    }

    /// The caller's bytes of an input, written into a memory: as fast as they come there from the memory beside it; where
    /// none is, as fast as it takes them.
    pub fn feed(&self, tier: &str, bytes: u64) -> Work {
        let memory = |name: &str| self.target.tier(name).filter(|t| !t.files);
        let into =
            self.target.links.iter().filter(|l| l.to == tier && l.present_rate().0 > 0 && memory(&l.from).is_some());
        let link = into.reduce(|best, l| if l.present_rate() > best.present_rate() { l } else { best });
        let call = self.call(Instance::Feed);
        match (link, memory(tier)) {
            (Some(link), _) => {
                let time = Bytes(bytes).at(link.present_rate()).0;
                Work { time, demand: Demand::of_copy(self.target, link, bytes, time), ..call }
            }
            (None, Some(memory)) => Work { time: Bytes(bytes).at(memory.bandwidth).0, ..call },
            (None, None) => call,
        }
    }

    /// Something that the caller does and that takes no time. What an output's reader does with it is its own affair.
    pub fn call(&self, kind: Instance) -> Work {
        let server = self.names.len() - 1;
        Work { server, time: 0, latency: 0, class: Class::Demand, kind, demand: Demand::default() }
    }
}

/// Bytes that a run reads and writes, of operands with their bytes: all, and of a table that is read by rows as much as
/// it writes.
pub(crate) fn touched(operands: impl Iterator<Item = (Use, u64)> + Clone) -> u64 {
    let of = |which: Use| operands.clone().filter(move |(u, _)| *u == which).map(|(_, bytes)| bytes);
    let written = of(Use::Writes).fold(0, u64::saturating_add);
    let rows = of(Use::Rows).map(|_| written).fold(0, u64::saturating_add);
    of(Use::Reads).fold(0, u64::saturating_add).saturating_add(written).saturating_add(rows)
}

/// Bytes that tasks of an engine move from and to its memory in a step; a task moves none faster than the memory gives them.
pub(crate) fn worked(target: &Target, program: &Program, engine: &str, bandwidth: u64) -> u128 {
    let facts = Facts::new(target, program, &BTreeSet::new());
    let server = facts.servers.engine(engine);
    let code = program.bodies.first().map_or(&[][..], |body| &body.code);
    let runs = code.iter().filter(|i| matches!(i, Instruction::Run { .. })).map(|i| facts.work(i));
    runs.filter(|work| work.server == server).map(|work| work.demand.moved(work.time, bandwidth)).sum()
}

/// What a run does with an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Reads,
    Rows,
    Writes,
}

/// Berths that hold one of these tensors from feed to feed.
fn there<'p>(program: &'p Program, same: &BTreeSet<&str>) -> HashSet<&'p str> {
    let alone = fed::alone(program);
    let all = program.berths.iter().filter(|berth| same.contains(berth.tensor.as_str()));
    all.map(|berth| berth.name.as_str()).filter(|berth| alone.contains(berth)).collect()
}

/// What the cost of an instruction of a program follows from, by name.
struct Facts<'p> {
    servers: Servers<'p>,
    tasks: HashMap<&'p str, (usize, u64, &'p [Access])>,
    berth_bytes: HashMap<&'p str, u64>,
    /// The memory of each berth.
    tiers: HashMap<&'p str, &'p str>,
    /// Berths of tensors that no file holds.
    filled: HashSet<&'p str>,
    /// Berths where what would be fed is already.
    there: HashSet<&'p str>,
}

impl<'p> Facts<'p> {
    fn new(target: &'p Target, program: &'p Program, same: &BTreeSet<&str>) -> Self {
        let servers = Servers::of(target);
        let filled = program.tensors.iter().filter(|t| t.home.as_ref().is_some_and(|h| h.filled.is_some()));
        let filled: HashSet<&str> = filled.map(|t| t.name.as_str()).collect();
        let berths = program.berths.iter();
        let tasks = program.tasks.iter();
        let task = |t: &'p berth_ir::program::Task| {
            (t.name.as_str(), (servers.engine(&t.engine), t.cost.0, t.accesses.as_slice()))
        };
        Facts {
            filled: berths.filter(|b| filled.contains(b.tensor.as_str())).map(|b| b.name.as_str()).collect(),
            tasks: tasks.map(task).collect(),
            berth_bytes: program.berths.iter().map(|b| (b.name.as_str(), b.bytes)).collect(),
            tiers: program.berths.iter().map(|b| (b.name.as_str(), b.arena.as_str())).collect(),
            there: if same.is_empty() { HashSet::new() } else { there(program, same) },
            servers,
        }
    }

    fn work(&self, instruction: &Instruction) -> Work {
        match instruction {
            Instruction::Copy { to, from, extent, queue, class, .. } => {
                let made = matches!(from, Place::Home) && self.filled.contains(to.as_str());
                self.servers.copy(queue, *class, self.copied(from, to, extent), made)
            }
            Instruction::Run { task, berths, .. } => {
                let (engine, cost, accesses) = self.tasks.get(task.as_str()).copied().unwrap_or((0, 0, &[]));
                let operands = accesses.iter().zip(berths).map(|(access, bound)| {
                    let used = match access {
                        Access::ReadRows(_) => Use::Rows,
                        Access::Read(_) => Use::Reads,
                        Access::Write(_) | Access::Append(_) => Use::Writes,
                    };
                    (used, self.bound(bound))
                });
                self.servers.run(engine, cost, touched(operands))
            }
            Instruction::Feed { berth, .. } if self.there.contains(berth.as_str()) => self.servers.call(Instance::Feed),
            Instruction::Feed { berth, .. } => {
                let tier = self.tiers.get(berth.as_str()).copied().unwrap_or("");
                self.servers.feed(tier, self.bound(berth))
            }
            Instruction::Fetch { .. } => self.servers.call(Instance::Fetch),
            _ => self.servers.call(Instance::Feed),
        }
    }

    /// Bytes of a berth, or of parts together.
    fn bound(&self, bound: &str) -> u64 {
        if let Some(bytes) = self.berth_bytes.get(bound) {
            return *bytes;
        }
        let parts = bound.split(" + ").map(|name| self.berth_bytes.get(name).copied().unwrap_or(0));
        parts.fold(0, u64::saturating_add)
    }

    /// Bytes that a copy moves.
    fn copied(&self, from: &Place, to: &str, extent: &Extent) -> u64 {
        match extent {
            Extent::Bytes(a, b) => b - a,
            Extent::Whole | Extent::Rows { .. } => {
                let source = match from {
                    Place::Berth(name) => self.berth_bytes.get(name.as_str()).copied(),
                    Place::Home => None,
                };
                let target = self.berth_bytes.get(to).copied().unwrap_or(0);
                source.unwrap_or(target).min(target)
            }
        }
    }
}
