//! Says when each instruction of a program would start and end.
//!
//! Reads:    the program, with its tasks' costs, and the target's rates.
//! Decides:  nothing; where the program leaves a choice, it takes that of the executor (class, then written order).
//! Promises: integer nanoseconds, the same every time; one pass over the events.
//! Why:      discrete events on one server per engine and per link; links of a group share one server. A link's latency
//!           passes beside its next copy: it delays who waits for the bytes, not the bytes behind.

use berth_ir::Target;
use berth_ir::program::{Class, Extent, Instruction, Place, Program};
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
    /// Part of it in which the first engine waits.
    pub stall: Nanos,
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
    world.report(program, target)
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
    is_run: bool,
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
    servers: Vec<Server>,
    ends: BinaryHeap<Reverse<(u64, What, usize)>>,
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
            servers,
            ends: BinaryHeap::new(),
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
            self.first.push(self.first[step] + count);
        }
        let total = self.first[steps + 1];
        self.waits = vec![0; total];
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
                if self.work[half][i].is_run {
                    preds.extend(last_run.insert(self.work[half][i].server, node));
                }
                // The gate of the step before the last: opened when that step has ended.
                self.waits[node] = preds.len() as u32 + u32::from(step >= 2 && self.open[step - 2] > 0);
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
        while let Some(Reverse((now, what, node))) = self.ends.pop() {
            let (step, i) = self.place(node);
            let server = self.work[Self::half(step)][i].server;
            if what == What::Leaves {
                self.servers[server].busy = false;
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
        }
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
        let work = &self.work[Self::half(step)][i];
        let left = start.saturating_add(work.time);
        let end = left.saturating_add(work.latency);
        let s = &mut self.servers[server];
        (s.busy, s.free_at) = (true, left);
        self.span[node] = (start, end);
        self.ends.push(Reverse((end, What::Ends, node)));
        self.ends.push(Reverse((left, What::Leaves, node)));
    }

    fn report(self, program: &Program, target: &Target) -> Timeline {
        let steps = self.first.len() - 2;
        let mut step_end = vec![0u64; steps + 1];
        let mut events = Vec::with_capacity(self.span.len());
        for (node, (start, end)) in self.span.iter().enumerate() {
            let (step, i) = self.place(node);
            let half = Self::half(step);
            step_end[step] = step_end[step].max(*end);
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
        // The mean of the last two steps: a program whose steps take turns still has one figure.
        let step = match steps {
            0 => 0,
            1 | 2 => step_end[steps] - step_end[steps - 1],
            _ => (step_end[steps] - step_end[steps - 2]).div_ceil(2),
        };
        let step = if steps <= 1 { first_step } else { Nanos(step) };
        let engine = target.engines.first().map_or("", |e| &e.name);
        let busy: u64 = program.tasks.iter().filter(|t| t.engine == engine).map(|t| t.cost.0).sum();
        Timeline { events, first_step, step, stall: Nanos(step.0.saturating_sub(busy)) }
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
    tasks: HashMap<&'p str, (usize, u64)>,
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
            tasks: program.tasks.iter().map(|t| (t.name.as_str(), (engine(&t.engine), t.cost.0))).collect(),
            berth_bytes: program.berths.iter().map(|b| (b.name.as_str(), b.bytes)).collect(),
            links,
            caller,
        }
    }

    fn work(&self, instruction: &Instruction, order: usize) -> Work {
        let (server, (time, latency), class, is_run) = match instruction {
            Instruction::Copy { to, from, extent, queue, class, .. } => (
                self.links.get(queue).copied().unwrap_or(self.caller),
                self.copy_time(from, to, extent, queue),
                *class,
                false,
            ),
            Instruction::Run { task, .. } => {
                let (server, cost) = self.tasks.get(task.as_str()).copied().unwrap_or((0, 0));
                (server, (cost, 0), Class::Demand, true)
            }
            _ => (self.caller, (0, 0), Class::Demand, false),
        };
        Work { server, time, latency, rank: (class, order), is_run }
    }

    /// For how long a copy occupies its link, and how long after that its bytes are there.
    fn copy_time(&self, from: &Place, to: &str, extent: &Extent, queue: &str) -> (u64, u64) {
        let bytes = match extent {
            Extent::Bytes(a, b) => b - a,
            Extent::Whole | Extent::Rows { .. } => {
                let source = match from {
                    Place::Berth(name) => self.berth_bytes.get(name.as_str()).copied(),
                    Place::Home => None,
                };
                let target = self.berth_bytes.get(to).copied().unwrap_or(0);
                source.unwrap_or(target).min(target)
            }
        };
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
