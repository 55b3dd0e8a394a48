//! Says when each instruction of a program would start and end.
//!
//! Reads:    the program, with its tasks' costs, and the target's rates.
//! Decides:  nothing; where the program leaves a choice, it takes that of the executor (class, then written order).
//! Promises: integer nanoseconds, the same every time; one pass over the events.
//! Why:      discrete events on one server per engine and per link; links of a group share one server. A link's latency
//!           passes beside its next copy: it delays who waits for the bytes, not the bytes behind. Copies take their rate
//!           from the memories that they join, and a task that needs more than is left runs slower meanwhile (`share`).
//!           The caller feeds a step when it has fetched the one before, as the loop of a decoder does.

use crate::share::{Demand, Share};
use berth_ir::Target;
use berth_ir::program::{Access, Class, Extent, Instruction, Place, Program};
use berth_ir::units::{Bytes, Nanos};
use berth_ir::verify::Verified;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};

/// When everything happened, and what a step costs once steps repeat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// One entry per instance, by end.
    pub events: Vec<Event>,
    /// Time from the start to the end of the first step.
    pub first_step: Nanos,
    /// Time of a step once steps repeat.
    pub step: Nanos,
    /// Part of it in which no engine computes, or computes slower because copies take its memory.
    pub stall: Nanos,
    /// Part of it in which no engine computes.
    pub idle: Nanos,
}

/// One instance of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The instruction.
    pub name: String,
    /// Zero is the prologue, one the first step.
    pub step: usize,
    /// The engine or link; `caller` for feeds and fetches.
    pub track: String,
    /// When it began.
    pub start: Nanos,
    /// When it ended.
    pub end: Nanos,
}

/// Simulates a proved program: the prologue and `steps` steps of its first body.
pub fn simulate(target: &Target, program: &Verified<Program>, steps: usize) -> Timeline {
    timeline(target, program, steps)
}

/// The same for a program that is still being planned; nothing that comes of it is run.
pub(crate) fn timeline(target: &Target, program: &Program, steps: usize) -> Timeline {
    let mut world = World::new(target, program, steps);
    world.run();
    world.report(program)
}

/// What an instruction occupies, and for how long.
struct Work {
    server: usize,
    /// For which it occupies its server.
    time: u64,
    /// From then until it has ended.
    latency: u64,
    /// Lower goes first on a link.
    rank: (Class, usize),
    kind: Instance,
    /// What it takes of memories meanwhile.
    demand: Demand,
}

/// What matters of an instruction's kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Instance {
    Run,
    Copy,
    Feed,
    Fetch,
}

struct World<'p> {
    /// Instructions of the prologue, then of the body, with their work.
    code: [&'p [Instruction]; 2],
    work: [Vec<Work>; 2],
    tracks: Vec<String>,
    /// Per instance.
    first: Vec<usize>,
    waits: Vec<u32>,
    next: Vec<Vec<u32>>,
    span: Vec<(u64, u64)>,
    /// Per step: instances that have not ended.
    open: Vec<usize>,
    /// Per step: fetches that have not ended.
    unread: Vec<usize>,
    servers: Vec<Server>,
    share: Share,
    /// What will happen; an instance whose end has moved since has a later turn.
    ends: BinaryHeap<Reverse<(u64, What, usize, u32)>>,
    turns: Vec<u32>,
}

/// What happens at a time; of one time, servers are free first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// An instance has left its server.
    Leaves,
    /// An instance has ended.
    Ends,
}

#[derive(Default)]
struct Server {
    free_at: u64,
    busy: bool,
    /// Links: what is ready, best first. Engines: runs in written order.
    ready: BinaryHeap<Reverse<(Class, usize, usize)>>,
}

impl<'p> World<'p> {
    fn new(target: &Target, program: &'p Program, steps: usize) -> World<'p> {
        let (mut tracks, servers_of) = tracks(target);
        tracks.push("caller".to_owned());
        let body = program.bodies.first().map_or(&[][..], |b| &b.code);
        let code = [program.prologue.as_slice(), body];
        let facts = Facts::new(target, program, &servers_of, tracks.len() - 1);
        let work = code.map(|c| c.iter().enumerate().map(|(i, x)| facts.work(x, i)).collect::<Vec<_>>());
        let servers = tracks.iter().map(|_| Server::default()).collect();
        let mut world = World {
            code,
            work,
            tracks,
            first: vec![0],
            waits: Vec::new(),
            next: Vec::new(),
            span: Vec::new(),
            open: Vec::new(),
            unread: Vec::new(),
            servers,
            share: Share::new(target),
            ends: BinaryHeap::new(),
            turns: Vec::new(),
        };
        world.unroll(steps);
        world
    }

    fn half(step: usize) -> usize {
        usize::from(step > 0)
    }

    fn unroll(&mut self, steps: usize) {
        for step in 0..=steps {
            let count = self.code[Self::half(step)].len();
            self.open.push(count);
            self.unread.push(self.work[Self::half(step)].iter().filter(|w| w.kind == Instance::Fetch).count());
            self.first.push(self.first[step] + count);
        }
        let total = self.first[steps + 1];
        self.waits = vec![0; total];
        self.turns = vec![0; total];
        self.next = vec![Vec::new(); total];
        self.span = vec![(0, 0); total];
        let by_name = self.code.map(|c| c.iter().enumerate().map(|(i, x)| (x.name(), i)).collect::<HashMap<_, _>>());
        let mut last_run: HashMap<usize, usize> = HashMap::new();
        for step in 0..=steps {
            let half = Self::half(step);
            for (i, instruction) in self.code[half].iter().enumerate() {
                let node = self.first[step] + i;
                let mut preds: Vec<usize> = Vec::new();
                let mut wait = |back: usize, name: &str| {
                    let Some(at) = step.checked_sub(back) else { return };
                    preds.extend(by_name[Self::half(at)].get(name).map(|i| self.first[at] + i));
                };
                for a in instruction.after() {
                    wait(a.steps as usize, &a.name);
                }
                wait(1, instruction.name());
                if self.work[half][i].kind == Instance::Run {
                    preds.extend(last_run.insert(self.work[half][i].server, node));
                }
                // The gate of the step before the last: opened when that step has ended.
                let ended = u32::from(step >= 2 && self.open[step - 2] > 0);
                // The caller's: opened when the outputs of the step before have been read.
                let read =
                    u32::from(self.work[half][i].kind == Instance::Feed && step >= 1 && self.unread[step - 1] > 0);
                self.waits[node] = preds.len() as u32 + ended + read;
                for p in preds {
                    self.next[p].push(node as u32);
                }
            }
        }
    }

    fn place(&self, node: usize) -> (usize, usize) {
        let step = self.first.partition_point(|f| *f <= node) - 1;
        (step, node - self.first[step])
    }

    fn run(&mut self) {
        let ready: Vec<usize> = (0..self.waits.len()).filter(|n| self.waits[*n] == 0).collect();
        for node in ready {
            self.enter(node, 0);
        }
        while let Some(Reverse((now, what, node, turn))) = self.ends.pop() {
            if turn != self.turns[node] {
                continue;
            }
            let (step, i) = self.place(node);
            let Work { server, kind, demand, .. } = self.work[Self::half(step)][i];
            if what == What::Leaves {
                self.servers[server].busy = false;
                match kind {
                    Instance::Run => self.share.end(server),
                    Instance::Copy => self.shared(now, |share| share.release(demand)),
                    Instance::Feed | Instance::Fetch => {}
                }
                self.serve(server, now);
                continue;
            }
            let next = std::mem::take(&mut self.next[node]);
            for n in &next {
                self.settle(*n as usize, now);
            }
            self.open[step] -= 1;
            if self.open[step] == 0 && step + 2 < self.open.len() {
                for n in self.first[step + 2]..self.first[step + 3] {
                    self.settle(n, now);
                }
            }
            if kind == Instance::Fetch {
                self.unread[step] -= 1;
                if self.unread[step] == 0 && step + 1 < self.open.len() {
                    for n in self.first[step + 1]..self.first[step + 2] {
                        if self.work[Self::half(step + 1)][n - self.first[step + 1]].kind == Instance::Feed {
                            self.settle(n, now);
                        }
                    }
                }
            }
        }
    }

    /// Changes what copies take of memories; the tasks whose speed that changes end at other times.
    fn shared(&mut self, now: u64, change: impl Fn(&mut Share)) {
        change(&mut self.share);
        while let Some((node, end)) = self.share.moved(now) {
            self.turns[node] += 1;
            self.span[node].1 = end;
            let (step, i) = self.place(node);
            self.servers[self.work[Self::half(step)][i].server].free_at = end;
            self.leave(node, end, end);
        }
    }

    /// Has an instance leave its server at a time, and end at another.
    fn leave(&mut self, node: usize, left: u64, end: u64) {
        self.ends.push(Reverse((end, What::Ends, node, self.turns[node])));
        self.ends.push(Reverse((left, What::Leaves, node, self.turns[node])));
    }

    fn settle(&mut self, node: usize, now: u64) {
        self.waits[node] -= 1;
        if self.waits[node] == 0 {
            self.enter(node, now);
        }
    }

    fn enter(&mut self, node: usize, now: u64) {
        let (step, i) = self.place(node);
        let work = &self.work[Self::half(step)][i];
        let (server, (class, order)) = (work.server, work.rank);
        self.servers[server].ready.push(Reverse((class, step << 32 | order, node)));
        self.serve(server, now);
    }

    fn serve(&mut self, server: usize, now: u64) {
        if self.servers[server].busy {
            return;
        }
        let Some(Reverse((_, _, node))) = self.servers[server].ready.pop() else { return };
        let (step, i) = self.place(node);
        let start = now.max(self.servers[server].free_at);
        let Work { time, latency, kind, demand, .. } = self.work[Self::half(step)][i];
        let left = match kind {
            Instance::Run => self.share.begin(server, node, start, time, demand),
            _ => start.saturating_add(time),
        };
        let end = left.saturating_add(latency);
        let s = &mut self.servers[server];
        (s.busy, s.free_at) = (true, left);
        self.span[node] = (start, end);
        self.leave(node, left, end);
        if kind == Instance::Copy {
            self.shared(start, |share| share.take(demand));
        }
    }

    fn report(self, program: &Program) -> Timeline {
        let steps = self.first.len() - 2;
        let mut step_end = vec![0u64; steps + 1];
        let mut events = Vec::with_capacity(self.span.len());
        // Of the steps that the figure of one is taken of, how long tasks ran, copies slowing them.
        let (last, mut runs) = (if steps > 2 { 2 } else { 1 }, 0u64);
        for (node, (start, end)) in self.span.iter().enumerate() {
            let (step, i) = self.place(node);
            let half = Self::half(step);
            step_end[step] = step_end[step].max(*end);
            if self.work[half][i].kind == Instance::Run && step + last > steps {
                runs = runs.saturating_add(end - start);
            }
            events.push(Event {
                name: self.code[half][i].name().to_owned(),
                step,
                track: self.tracks[self.work[half][i].server].clone(),
                start: Nanos(*start),
                end: Nanos(*end),
            });
        }
        events.sort_by_key(|e| (e.end, e.start, e.step));
        let prologue = if steps > 0 { 0 } else { step_end[0] };
        let first_step = Nanos(step_end.get(1).copied().unwrap_or(prologue));
        // The mean of two steps: a program whose steps take turns still has one figure. Not of the last, which has the links
        // to itself.
        let step = match steps {
            0 => 0,
            1 | 2 => step_end[steps] - step_end[steps - 1],
            3 => (step_end[3] - step_end[1]).div_ceil(2),
            _ => (step_end[steps - 1] - step_end[steps - 3]).div_ceil(2),
        };
        let runs = runs.div_ceil(last as u64);
        // In the long run none is shorter than what one server does in it, though a few may be while others catch up.
        let mut served = vec![0u64; self.tracks.len()];
        self.work[1].iter().for_each(|w| served[w.server] = served[w.server].saturating_add(w.time));
        let step = step.max(served.into_iter().max().unwrap_or(0));
        let step = if steps <= 1 { first_step } else { Nanos(step) };
        let busy = program.tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add);
        let (stall, idle) = (step.0.saturating_sub(busy), step.0.saturating_sub(runs));
        Timeline { events, first_step, step, stall: Nanos(stall), idle: Nanos(idle) }
    }
}

/// Servers: engines first, then one per link or group of links.
fn tracks(target: &Target) -> (Vec<String>, BTreeMap<String, usize>) {
    let mut names: Vec<String> = target.engines.iter().map(|e| e.name.clone()).collect();
    let engines = names.len();
    let mut links = BTreeMap::new();
    for link in &target.links {
        let group = link.group.clone().unwrap_or_else(|| link.name.clone());
        let found = names[engines..].iter().position(|n| *n == group).map(|i| i + engines);
        let server = found.unwrap_or_else(|| {
            names.push(group);
            names.len() - 1
        });
        links.insert(link.name.clone(), server);
    }
    (names, links)
}

/// What the cost of an instruction follows from.
struct Facts<'p> {
    target: &'p Target,
    tasks: HashMap<&'p str, (usize, u64, &'p [Access])>,
    berth_bytes: HashMap<&'p str, u64>,
    /// Berths of tensors that no file holds.
    filled: HashSet<&'p str>,
    links: &'p BTreeMap<String, usize>,
    caller: usize,
}

impl<'p> Facts<'p> {
    fn new(target: &'p Target, program: &'p Program, links: &'p BTreeMap<String, usize>, caller: usize) -> Self {
        let engine = |name: &str| target.engines.iter().position(|e| e.name == name).unwrap_or(0);
        let filled = program.tensors.iter().filter(|t| t.home.as_ref().is_some_and(|h| h.filled.is_some()));
        let filled: HashSet<&str> = filled.map(|t| t.name.as_str()).collect();
        let berths = program.berths.iter();
        Facts {
            filled: berths.filter(|b| filled.contains(b.tensor.as_str())).map(|b| b.name.as_str()).collect(),
            target,
            tasks: program
                .tasks
                .iter()
                .map(|t| (t.name.as_str(), (engine(&t.engine), t.cost.0, t.accesses.as_slice())))
                .collect(),
            berth_bytes: program.berths.iter().map(|b| (b.name.as_str(), b.bytes)).collect(),
            links,
            caller,
        }
    }

    fn work(&self, instruction: &Instruction, order: usize) -> Work {
        let work = |server, (time, latency), class, kind, demand| {
            let rank = (class, order);
            Work { server, time, latency, rank, kind, demand }
        };
        match instruction {
            Instruction::Copy { to, from, extent, queue, class, .. } => {
                let server = self.links.get(queue).copied().unwrap_or(self.caller);
                let bytes = self.copied(from, to, extent);
                let times = self.copy_time(from, to, bytes, queue);
                let demand = Demand::of_copy(self.target, queue, bytes, times.0);
                work(server, times, *class, Instance::Copy, demand)
            }
            Instruction::Run { task, berths, .. } => {
                let (server, cost, accesses) = self.tasks.get(task.as_str()).copied().unwrap_or((0, 0, &[]));
                let demand = Demand::of_run(self.target, server, self.touched(accesses, berths), cost);
                work(server, (cost, 0), Class::Demand, Instance::Run, demand)
            }
            Instruction::Fetch { .. } => work(self.caller, (0, 0), Class::Demand, Instance::Fetch, Demand::default()),
            _ => work(self.caller, (0, 0), Class::Demand, Instance::Feed, Demand::default()),
        }
    }

    /// Bytes that a run reads and writes: all of its operands, and of a table as much as it writes.
    fn touched(&self, accesses: &[Access], berths: &[String]) -> u64 {
        let bytes = |bound: &String| {
            if let Some(bytes) = self.berth_bytes.get(bound.as_str()) {
                return *bytes;
            }
            let parts = bound.split(" + ").map(|name| self.berth_bytes.get(name).copied().unwrap_or(0));
            parts.fold(0, u64::saturating_add)
        };
        let pairs = || accesses.iter().zip(berths);
        let written = pairs().filter(|(a, _)| a.writes()).map(|(_, b)| bytes(b)).fold(0, u64::saturating_add);
        let all = pairs().map(|(access, bound)| match access {
            Access::ReadRows(_) => written,
            Access::Read(_) | Access::Write(_) | Access::Append(_) => bytes(bound),
        });
        all.fold(0, u64::saturating_add)
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

    /// For how long a copy occupies its link, and how long after that its bytes are there.
    fn copy_time(&self, from: &Place, to: &str, bytes: u64, queue: &str) -> (u64, u64) {
        let Some(link) = self.target.links.iter().find(|l| l.name == queue) else { return (0, 0) };
        if matches!(from, Place::Home) && self.filled.contains(to) {
            // Written out of nothing, as fast as the memory takes it.
            let bandwidth = self.target.tier(&link.to).map(|t| t.bandwidth).unwrap_or_default();
            return (Bytes(bytes).at(bandwidth).0.saturating_add(link.submit.0), 0);
        }
        let moving = Bytes(bytes).at(link.present_rate());
        (moving.0.saturating_add(link.submit.0), link.latency.0)
    }
}
