//! Says when each instruction of a program would start and end.
//!
//! Reads:    the program's step by index (`step`), and the target's memories.
//! Decides:  nothing; where the program leaves a choice, it takes that of the executor (class, then written order).
//! Promises: integer nanoseconds, the same every time; one pass over the events.
//! Why:      discrete events on one server per engine and per link; links of a group share one server. A link's latency
//!           passes beside its next copy: it delays who waits for the bytes, not the bytes behind. Copies take their rate
//!           from the memories that they join, and a task that needs more than is left runs slower meanwhile; so does a
//!           copy while an engine computes, where its link has less then (`share`).
//!           The caller feeds a step when it has fetched the one before, as the loop of a decoder does. It copies what it
//!           feeds, beside engines and links as a link would; outputs it reads where they are.

use crate::share::Share;
use crate::step::{Instance, Part, Servers, Step, Work};
use berth_ir::Target;
use berth_ir::program::{Class, Mode, Program};
use berth_ir::units::Nanos;
use berth_ir::verify::Verified;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

/// Steps that a plan's simulation looks at: two to fill the pipeline, one between, two to take the mean of, one behind them.
pub const STEPS: usize = 6;

/// The same of a program that runs so.
pub fn steps(mode: Mode) -> usize {
    match mode {
        Mode::Loop => STEPS,
        Mode::Once => 1,
    }
}

/// What a step costs once steps repeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
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
pub struct Event<'a> {
    /// The instruction.
    pub name: &'a str,
    /// Zero is the prologue, one the first step.
    pub step: usize,
    /// The engine or link; `caller` for feeds and fetches.
    pub track: &'a str,
    /// When it began.
    pub start: Nanos,
    /// When it ended.
    pub end: Nanos,
}

/// Simulates a proved program: the prologue and `steps` steps of its first body. The inputs in `same` (tensors) are so in
/// every step: where they are still in their places when they would be fed, that takes no time.
pub fn simulate(target: &Target, program: &Verified<Program>, steps: usize, same: &BTreeSet<&str>) -> Timeline {
    timeline(target, &Step::of_program(target, program, same), steps)
}

/// When each instance runs in that simulation, by end.
pub fn events<'a>(
    target: &'a Target,
    program: &'a Verified<Program>,
    steps: usize,
    same: &BTreeSet<&str>,
) -> Vec<Event<'a>> {
    let step = Step::of_program(target, program, same);
    let mut world = World::new(target, &step, steps);
    world.run();
    let names = Servers::of(target).names;
    let body = program.bodies.first().map_or(&[][..], |b| &b.code);
    let code = [program.prologue.as_slice(), body];
    let event = |(node, (start, end)): (usize, &(u64, u64))| {
        let (step, i) = world.place(node);
        let (name, track) = (code[World::half(step)][i].name(), names[world.work(node).server]);
        Event { name, step, track, start: Nanos(*start), end: Nanos(*end) }
    };
    let mut events: Vec<Event> = world.span.iter().enumerate().map(event).collect();
    events.sort_by_key(|e| (e.end, e.start, e.step));
    events
}

/// What a step costs, of a program that may still be planned; nothing that comes of it is run.
pub(crate) fn timeline(target: &Target, step: &Step, steps: usize) -> Timeline {
    let mut world = World::new(target, step, steps);
    world.run();
    world.report(step.busy)
}

struct World<'p> {
    /// The prologue, then the body.
    parts: [&'p Part; 2],
    /// By step: its first instance. Instances are counted on from one step to the next.
    first: Vec<usize>,
    /// Per instance: what it waits for still.
    waits: Vec<u32>,
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

/// What happens at a time; of one time, servers are free first, and links choose when all is known that they can choose from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// An instance has left its server.
    Leaves,
    /// An instance has ended.
    Ends,
    /// A link, by its server, takes up what is best of what is ready.
    Chooses,
}

#[derive(Default)]
struct Server {
    free_at: u64,
    busy: bool,
    /// It will choose before time goes on.
    chooses: bool,
    /// Links: what is ready, best first. Engines: runs in written order.
    ready: BinaryHeap<Reverse<(Class, usize)>>,
}

impl<'p> World<'p> {
    fn new(target: &Target, step: &'p Step, steps: usize) -> World<'p> {
        let servers: Vec<Server> = Servers::of(target).names.iter().map(|_| Server::default()).collect();
        let share = Share::new(target, servers.len());
        let mut world = World {
            parts: [&step.parts[0], &step.parts[1]],
            first: vec![0],
            waits: Vec::new(),
            span: Vec::new(),
            open: Vec::new(),
            unread: Vec::new(),
            servers,
            share,
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
        let fetches = self.parts.map(|p| p.work.iter().filter(|w| w.kind == Instance::Fetch).count());
        for step in 0..=steps {
            let count = self.parts[Self::half(step)].work.len();
            self.open.push(count);
            self.unread.push(fetches[Self::half(step)]);
            self.first.push(self.first[step] + count);
        }
        let total = self.first[steps + 1];
        self.waits = vec![0; total];
        self.turns = vec![0; total];
        self.span = vec![(0, 0); total];
        for step in 0..=steps {
            let part = self.parts[Self::half(step)];
            for (i, work) in part.work.iter().enumerate() {
                for next in part.next(i) {
                    if let Some(node) = self.waiting(step, next.steps, next.at) {
                        self.waits[node] += 1;
                    }
                }
                // The gate of the step before the last: opened when that step has ended.
                let ended = u32::from(step >= 2 && self.open[step - 2] > 0);
                // The caller's: opened when the outputs of the step before have been read.
                let read = u32::from(work.kind == Instance::Feed && step >= 1 && self.unread[step - 1] > 0);
                self.waits[self.first[step] + i] += ended + read;
            }
        }
    }

    /// The instance that waits for one of a step; nothing where it lies beyond the steps that are looked at.
    fn waiting(&self, step: usize, steps: u32, at: u32) -> Option<usize> {
        let step = step + steps as usize;
        (step + 1 < self.first.len()).then(|| self.first[step] + at as usize)
    }

    fn place(&self, node: usize) -> (usize, usize) {
        let step = self.first.partition_point(|f| *f <= node) - 1;
        (step, node - self.first[step])
    }

    fn work(&self, node: usize) -> &'p Work {
        let (step, i) = self.place(node);
        &self.parts[Self::half(step)].work[i]
    }

    fn run(&mut self) {
        let ready: Vec<usize> = (0..self.waits.len()).filter(|n| self.waits[*n] == 0).collect();
        for node in ready {
            self.enter(node, 0);
        }
        while let Some(Reverse((now, what, node, turn))) = self.ends.pop() {
            if what == What::Chooses {
                self.servers[node].chooses = false;
                self.serve(node, now);
                continue;
            }
            if turn != self.turns[node] {
                continue;
            }
            let (step, i) = self.place(node);
            let part = self.parts[Self::half(step)];
            let Work { server, kind, .. } = part.work[i];
            if what == What::Leaves {
                self.servers[server].busy = false;
                if kind != Instance::Fetch {
                    self.share.end(server);
                    self.shared(now);
                }
                self.call(server, kind, now);
                continue;
            }
            for next in part.next(i) {
                if let Some(node) = self.waiting(step, next.steps, next.at) {
                    self.settle(node, now);
                }
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
                        if self.work(n).kind == Instance::Feed {
                            self.settle(n, now);
                        }
                    }
                }
            }
        }
    }

    /// What has another speed after a change ends at another time.
    fn shared(&mut self, now: u64) {
        while let Some((node, left)) = self.share.moved(now) {
            self.turns[node] += 1;
            let Work { server, latency, .. } = *self.work(node);
            let end = left.saturating_add(latency);
            self.span[node].1 = end;
            self.servers[server].free_at = left;
            self.leave(node, left, end);
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
        let Work { server, class, kind, .. } = *self.work(node);
        self.servers[server].ready.push(Reverse((class, node)));
        self.call(server, kind, now);
    }

    /// Has a server take up what is ready: a link when all else of this time has happened.
    fn call(&mut self, server: usize, kind: Instance, now: u64) {
        match kind {
            Instance::Copy if self.servers[server].busy || self.servers[server].chooses => {}
            Instance::Copy => {
                self.servers[server].chooses = true;
                self.ends.push(Reverse((now, What::Chooses, server, 0)));
            }
            Instance::Run | Instance::Feed | Instance::Fetch => self.serve(server, now),
        }
    }

    fn serve(&mut self, server: usize, now: u64) {
        if self.servers[server].busy {
            return;
        }
        let Some(Reverse((_, node))) = self.servers[server].ready.pop() else { return };
        let start = now.max(self.servers[server].free_at);
        let Work { time, latency, kind, demand, .. } = *self.work(node);
        let shares = kind != Instance::Fetch;
        let left = match shares {
            true => self.share.begin(server, node, start, time, demand),
            false => start.saturating_add(time),
        };
        let end = left.saturating_add(latency);
        let s = &mut self.servers[server];
        (s.busy, s.free_at) = (true, left);
        self.span[node] = (start, end);
        self.leave(node, left, end);
        if shares {
            self.shared(start);
        }
    }

    fn report(self, busy: u64) -> Timeline {
        let steps = self.first.len() - 2;
        let mut step_end = vec![0u64; steps + 1];
        // Of the steps that the figure of one is taken of, how long tasks ran, copies slowing them.
        let (last, mut runs) = (if steps > 2 { 2 } else { 1 }, 0u64);
        for (step, step_end) in step_end.iter_mut().enumerate() {
            let spans = &self.span[self.first[step]..self.first[step + 1]];
            for ((start, end), work) in spans.iter().zip(&self.parts[Self::half(step)].work) {
                *step_end = (*step_end).max(*end);
                if work.kind == Instance::Run && step + last > steps {
                    runs = runs.saturating_add(end - start);
                }
            }
        }
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
        let mut served = vec![0u64; self.servers.len()];
        self.parts[1].work.iter().for_each(|w| served[w.server] = served[w.server].saturating_add(w.time));
        let step = step.max(served.into_iter().max().unwrap_or(0));
        let step = if steps <= 1 { first_step } else { Nanos(step) };
        let (stall, idle) = (step.0.saturating_sub(busy), step.0.saturating_sub(runs));
        Timeline { first_step, step, stall: Nanos(stall), idle: Nanos(idle) }
    }
}
