//! Which instruction is next on which lane: counters of what each still waits for, and a queue of what waits for nothing.
//!
//! An instruction is ready when all in its `after` have ended, its own last instance too, and all of the step before the
//! last. Engines take theirs in written order; links and the caller take the earliest step first, then by class, then
//! what is wanted first, then as written. Everything is made at the start of a run; a step only counts. No clock, no
//! lock and no thread here: `hand.rs` has those.

use crate::executor::table::{Half, LaneKind, Table};
use berth_ir::lists::Lists;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// One instance of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    pub half: Half,
    pub index: usize,
    /// Zero for the prologue, else counted from one.
    pub step: usize,
}

/// What decides between instances that are ready: less is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub step: usize,
    /// The class, then the place in the program of the run that wants it.
    pub urgency: (u8, u32),
    pub index: u32,
}

/// The lists in one block.
fn lists(lists: &[Vec<u32>]) -> Lists {
    let each = || lists.iter().enumerate();
    Lists::of(lists.len(), || each().flat_map(|(l, list)| list.iter().map(move |i| (l, *i as usize))))
}

/// What a program says about order, in the form that counting needs.
#[derive(Debug)]
pub(crate) struct Graph {
    /// By half and index.
    lane_of: [Vec<u32>; 2],
    urgency: [Vec<(u8, u32)>; 2],
    /// What each still waits for at the start: in the prologue, in the first step, in any later one.
    waits: [Vec<u32>; 3],
    /// Who waits for it, by half: prologue for prologue, the first step for the prologue, a step for itself, for the last.
    in_prologue: Lists,
    after_prologue: Lists,
    in_step: Lists,
    next_step: Lists,
    lanes: Vec<Line>,
}

/// The instructions of a lane, prologue then body.
#[derive(Debug)]
struct Line {
    in_order: bool,
    items: [Vec<u32>; 2],
}

impl Graph {
    pub fn new(table: &Table) -> Graph {
        let [prologue, body] = &table.halves;
        let mut in_prologue = vec![Vec::new(); prologue.len()];
        let mut after_prologue = vec![Vec::new(); prologue.len()];
        let mut in_step = vec![Vec::new(); body.len()];
        // Each waits for its own last instance.
        let mut next_step: Vec<Vec<u32>> = (0..body.len() as u32).map(|i| vec![i]).collect();
        let mut waits = [Vec::new(), Vec::new(), Vec::new()];
        for (i, item) in prologue.iter().enumerate() {
            item.after.iter().for_each(|a| in_prologue[*a].push(i as u32));
            waits[0].push(item.after.len() as u32);
        }
        for (i, item) in body.iter().enumerate() {
            item.after.iter().for_each(|a| in_step[*a].push(i as u32));
            item.after_body.iter().for_each(|a| next_step[*a].push(i as u32));
            item.after_prologue.iter().for_each(|a| after_prologue[*a].push(i as u32));
            waits[1].push((item.after.len() + item.after_prologue.len()) as u32);
            waits[2].push((item.after.len() + item.after_body.len() + 1) as u32);
        }
        let mut lane_of = [vec![0; prologue.len()], vec![0; body.len()]];
        let mut lanes = Vec::new();
        for (l, lane) in table.lanes.iter().enumerate() {
            for (lane_of, items) in lane_of.iter_mut().zip(&lane.items) {
                items.iter().for_each(|i| lane_of[*i] = l as u32);
            }
            let items = lane.items.each_ref().map(|items| items.iter().map(|i| *i as u32).collect());
            lanes.push(Line { in_order: lane.kind == LaneKind::Engine, items });
        }
        let urgency = table.halves.each_ref().map(|half| {
            half.iter().enumerate().map(|(i, item)| (item.class as u8, item.wanted.unwrap_or(i) as u32)).collect()
        });
        Graph {
            lane_of,
            urgency,
            waits,
            in_prologue: lists(&in_prologue),
            after_prologue: lists(&after_prologue),
            in_step: lists(&in_step),
            next_step: lists(&next_step),
            lanes,
        }
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// The lane of an instance.
    pub fn lane(&self, instance: Instance) -> usize {
        self.lane_of[instance.half as usize][instance.index] as usize
    }

    fn key(&self, instance: Instance) -> Key {
        let urgency = self.urgency[instance.half as usize][instance.index];
        Key { step: instance.step, urgency, index: instance.index as u32 }
    }
}

/// What a lane has to do.
#[derive(Debug)]
struct Lane {
    /// What is ready, where order is free.
    ready: BinaryHeap<Reverse<(Key, Instance)>>,
    /// What is next, where it is not: half, place in the lane, step.
    next: (Half, usize, usize),
    /// Instances that it has not begun.
    left: u64,
}

/// No step.
const NEVER: usize = 0;

/// Lanes that got something, as bits; those from the 64th on share the last bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Woken(u64);

impl Woken {
    fn add(&mut self, lane: usize) {
        self.0 |= 1 << lane.min(63);
    }

    pub fn has(self, lane: usize) -> bool {
        self.0 >> lane.min(63) & 1 == 1
    }

    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// What a thread finds to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pick {
    Take(Key, Instance),
    Wait,
    Nothing,
}

/// What has ended, and what that lets begin.
#[derive(Debug)]
pub(crate) struct Board {
    steps: usize,
    /// What each instance still waits for: the prologue, then three steps at a time.
    prologue: Vec<u32>,
    body: [Vec<u32>; 3],
    /// Instances that have not ended, in the same way.
    open: [usize; 4],
    /// Steps that have ended, the prologue counted as one.
    closed: usize,
    lanes: Vec<Lane>,
    /// Instances that wait for nothing but the step before the last.
    early: Vec<Instance>,
    /// The last step of which each has ended, by half; zero for none, so the prologue counts from one.
    last: [Vec<usize>; 2],
    /// Instances that have begun and not ended.
    under_way: usize,
    /// Copies that were called off and have not been issued again.
    parked: Vec<Instance>,
    /// Copies that were issued again and have not ended: they are needed now, and stay.
    recalled: Vec<Instance>,
}

impl Board {
    pub fn new(graph: &Graph, steps: usize) -> Board {
        let (prologue, body) = (graph.waits[0].len(), graph.waits[1].len());
        let lane = |line: &Line| {
            let [first, rest] = &line.items;
            let most = if line.in_order { 0 } else { first.len() + 3 * rest.len() };
            let next = if first.is_empty() { (Half::Body, 0, 1) } else { (Half::Prologue, 0, 0) };
            let left = first.len() as u64 + rest.len() as u64 * steps as u64;
            Lane { ready: BinaryHeap::with_capacity(most), next, left }
        };
        let mut board = Board {
            steps,
            prologue: graph.waits[0].clone(),
            body: [graph.waits[2].clone(), graph.waits[1].clone(), graph.waits[2].clone()],
            open: [prologue, 0, 0, 0],
            closed: 0,
            lanes: graph.lanes.iter().map(lane).collect(),
            early: Vec::with_capacity(2 * body),
            last: [vec![NEVER; prologue], vec![NEVER; body]],
            under_way: 0,
            parked: Vec::with_capacity(prologue + 3 * body),
            recalled: Vec::with_capacity(prologue + 3 * body),
        };
        for step in 1..=3 {
            board.open[1 + step % 3] = body;
        }
        let mut woken = Woken::default();
        let halves = [(Half::Prologue, prologue, 0), (Half::Body, body, 1)];
        for (half, count, step) in halves.into_iter().filter(|(.., step)| *step <= steps) {
            for index in (0..count).filter(|i| graph.waits[half as usize][*i] == 0) {
                board.ready(graph, Instance { half, index, step }, &mut woken);
            }
        }
        board.close(graph, &mut woken);
        board
    }

    /// Everything has ended.
    pub fn over(&self) -> bool {
        self.closed > self.steps
    }

    /// Steps that have ended, the prologue counted as one.
    pub fn closed(&self) -> usize {
        self.closed
    }

    fn waits(&self, instance: Instance) -> u32 {
        match instance.half {
            Half::Prologue => self.prologue[instance.index],
            Half::Body => self.body[instance.step % 3][instance.index],
        }
    }

    fn may_begin(&self, instance: Instance) -> bool {
        instance.step <= self.closed + 1 && self.waits(instance) == 0
    }

    /// One that waits for no other any more.
    fn ready(&mut self, graph: &Graph, instance: Instance, woken: &mut Woken) {
        if instance.step > self.closed + 1 {
            self.early.push(instance);
            return;
        }
        let lane = graph.lane_of[instance.half as usize][instance.index] as usize;
        if !graph.lanes[lane].in_order {
            self.lanes[lane].ready.push(Reverse((graph.key(instance), instance)));
            woken.add(lane);
        } else if self.next(graph, lane) == Some(instance) {
            woken.add(lane);
        }
    }

    /// The next of an engine, ready or not.
    fn next(&self, graph: &Graph, lane: usize) -> Option<Instance> {
        let (half, place, step) = self.lanes[lane].next;
        let index = *graph.lanes[lane].items[half as usize].get(place)? as usize;
        (self.lanes[lane].left > 0).then_some(Instance { half, index, step })
    }

    /// Takes the best that a lane may begin now, if it is better than `than`.
    pub fn take(&mut self, graph: &Graph, lane: usize, than: Option<Key>) -> Pick {
        if self.lanes[lane].left == 0 {
            return Pick::Nothing;
        }
        let best = if graph.lanes[lane].in_order {
            let next = self.next(graph, lane).filter(|next| self.may_begin(*next));
            next.inspect(|_| self.advance(graph, lane)).map(|next| (graph.key(next), next))
        } else {
            let ready = &mut self.lanes[lane].ready;
            let better = ready.peek().is_some_and(|Reverse((key, _))| than.is_none_or(|than| *key < than));
            if better { ready.pop().map(|Reverse(best)| best) } else { None }
        };
        let Some((key, instance)) = best else { return Pick::Wait };
        self.lanes[lane].left -= 1;
        self.under_way += 1;
        Pick::Take(key, instance)
    }

    /// Whether a lane of free order could begin something now.
    pub fn has_ready(&self, lane: usize) -> bool {
        !self.lanes[lane].ready.is_empty()
    }

    /// An engine goes on to what is written next; after the last of a step, to the first of the next.
    fn advance(&mut self, graph: &Graph, lane: usize) {
        let items = &graph.lanes[lane].items;
        let next = &mut self.lanes[lane].next;
        next.1 += 1;
        if next.1 == items[next.0 as usize].len() {
            *next = (Half::Body, 0, next.2 + 1);
        }
    }

    /// One has ended: what waited for it waits for one less.
    pub fn end(&mut self, graph: &Graph, instance: Instance) -> Woken {
        let mut woken = Woken::default();
        let Instance { half, index, step } = instance;
        self.last[half as usize][index] = step.max(1);
        self.under_way -= 1;
        self.recalled.retain(|other| *other != instance);
        match half {
            Half::Prologue => {
                for next in &graph.in_prologue[index] {
                    self.count(graph, Half::Prologue, *next, 0, &mut woken);
                }
                for next in &graph.after_prologue[index] {
                    self.count(graph, Half::Body, *next, 1, &mut woken);
                }
                self.open[0] -= 1;
            }
            Half::Body => {
                for next in &graph.in_step[index] {
                    self.count(graph, Half::Body, *next, step, &mut woken);
                }
                for next in &graph.next_step[index] {
                    self.count(graph, Half::Body, *next, step + 1, &mut woken);
                }
                self.open[1 + step % 3] -= 1;
            }
        }
        self.close(graph, &mut woken);
        woken
    }

    fn count(&mut self, graph: &Graph, half: Half, index: usize, step: usize, woken: &mut Woken) {
        let waits = match half {
            Half::Prologue => &mut self.prologue[index],
            Half::Body => &mut self.body[step % 3][index],
        };
        *waits -= 1;
        if *waits == 0 && step <= self.steps {
            self.ready(graph, Instance { half, index, step }, woken);
        }
    }

    /// Closes the steps of which everything has ended, and lets in the steps after the next.
    fn close(&mut self, graph: &Graph, woken: &mut Woken) {
        while self.closed <= self.steps && self.open[if self.closed == 0 { 0 } else { 1 + self.closed % 3 }] == 0 {
            let gone = self.closed;
            self.closed += 1;
            if gone > 0 {
                // Its place is that of the third step after it.
                self.body[gone % 3].copy_from_slice(&graph.waits[2]);
                self.open[1 + gone % 3] = self.body[gone % 3].len();
            }
            // All that was early waits for this step: no instance is ready two steps ahead of what has not begun.
            for place in (0..self.early.len()).rev() {
                if self.early[place].step <= self.closed + 1 {
                    let instance = self.early.swap_remove(place);
                    self.ready(graph, instance, woken);
                }
            }
            for lane in 0..self.lanes.len() {
                // At the end all wake up: there is nothing more to wait for.
                if self.over() || self.engine_may_begin(graph, lane) {
                    woken.add(lane);
                }
            }
        }
    }

    fn engine_may_begin(&self, graph: &Graph, lane: usize) -> bool {
        graph.lanes[lane].in_order && self.next(graph, lane).is_some_and(|next| self.may_begin(next))
    }

    /// A copy that was called off: it counts as not begun, and is not ready.
    pub fn park(&mut self, graph: &Graph, instance: Instance) {
        self.under_way -= 1;
        self.lanes[graph.lane_of[instance.half as usize][instance.index] as usize].left += 1;
        self.parked.push(instance);
    }

    /// Takes a copy off its lane's queue before it begins; false where it has begun, ended, or is not ready.
    pub fn withdraw(&mut self, graph: &Graph, instance: Instance) -> bool {
        let lane = &mut self.lanes[graph.lane_of[instance.half as usize][instance.index] as usize];
        let before = lane.ready.len();
        lane.ready.retain(|Reverse((_, other))| *other != instance);
        let found = lane.ready.len() < before;
        if found {
            self.parked.push(instance);
        }
        found
    }

    /// Copies that were called off and are needed now: those that the next of an engine waits for, and all of them where
    /// nothing else could ever end. They are ready again, as demand.
    pub fn recall(&mut self, graph: &Graph, table: &Table) -> Woken {
        let mut woken = Woken::default();
        if self.parked.is_empty() {
            return woken;
        }
        let lanes = 0..self.lanes.len();
        let waits = |lane: usize| self.lanes[lane].ready.is_empty() && !self.engine_may_begin(graph, lane);
        let idle = self.under_way == 0 && lanes.clone().all(waits);
        for place in (0..self.parked.len()).rev() {
            let parked = self.parked[place];
            let wanted = |lane: usize| {
                graph.lanes[lane].in_order && self.next(graph, lane).is_some_and(|next| follows(table, next, parked))
            };
            if idle || lanes.clone().any(wanted) {
                self.parked.swap_remove(place);
                self.demand(graph, parked, &mut woken);
            }
        }
        woken
    }

    /// The instance of an instruction of the body that waits for no other and has not ended, if it is not called off.
    pub fn issued(&self, graph: &Graph, index: usize) -> Option<Instance> {
        let step = self.last[1][index] + 1;
        let instance = Instance { half: Half::Body, index, step };
        let issued = step <= self.steps && self.may_begin(instance) && !self.parked.contains(&instance);
        let free = !graph.lanes[graph.lane_of[1][index] as usize].in_order;
        (issued && free).then_some(instance)
    }

    /// Whether a copy was called off and issued again.
    pub fn is_recalled(&self, instance: Instance) -> bool {
        self.recalled.contains(&instance)
    }

    fn demand(&mut self, graph: &Graph, instance: Instance, woken: &mut Woken) {
        let lane = graph.lane_of[instance.half as usize][instance.index] as usize;
        let key = Key { urgency: (0, 0), ..graph.key(instance) };
        self.lanes[lane].ready.push(Reverse((key, instance)));
        self.recalled.push(instance);
        woken.add(lane);
    }

    /// The names of the first things that have not ended, for a person.
    pub fn waiting(&self, table: &Table) -> String {
        let step = self.closed.clamp(1, self.steps.max(1));
        let prologue = table.halves[0].iter().zip(&self.last[0]).filter(|(_, last)| **last == NEVER);
        let body = table.halves[1].iter().zip(&self.last[1]).filter(|(_, last)| **last < step);
        let names = prologue.chain(body).map(|(item, _)| &item.name);
        names.take(3).map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
    }
}

/// Whether one waits for another directly.
fn follows(table: &Table, one: Instance, other: Instance) -> bool {
    let item = &table.half(one.half)[one.index];
    let of_half = if other.half == Half::Prologue { &item.after_prologue } else { &item.after_body };
    let list = if one.step == other.step { &item.after } else { of_half };
    (one.step == other.step || one.step == other.step + 1) && list.contains(&other.index)
}
