//! Runs the same copies in the same order step after step, until each step is like the one before.
//!
//! Reads:    the copies of one step of a run.
//! Decides:  when each begins: in its lane's order, not before the task behind which it began, once there is room.
//! Promises: every gap gets back the bytes that left in it, so that a step ends as it began; or nothing.
//! Why:      a run that decides anew in each step may take turns between two steps that differ by a copy.

use super::problem::Problem;
use super::world::{Moved, World};
use std::collections::BTreeMap;

/// Steps after which it must have settled.
const ROUNDS: u64 = 12;

/// Steps that run as they can; then none begins anything earlier than the step before did.
const FREE_ROUNDS: u64 = 4;

/// One copy, of every step.
struct Op {
    item: usize,
    gap: usize,
    bytes: u64,
    /// Steps that its gap was opened before.
    back: u64,
    /// Tasks of the step that have started before it.
    gate: u64,
    /// When it began in the last step.
    begun: u64,
}

/// The copies that belong to the gaps that were opened in a step, and when its tasks started; from the start of the step.
pub fn record(problem: &Problem, world: &World, step: u64) -> (Vec<Moved>, Vec<u64>) {
    let count = problem.tasks.len();
    let base = world.starts[step as usize * count];
    let moved = world.moved.iter().filter(|m| m.step == step);
    let mut moved: Vec<Moved> =
        moved.map(|m| Moved { step: 0, start: m.start - base, end: m.end - base, ..*m }).collect();
    moved.sort_by_key(|m| (m.start, m.end, m.lane, m.item, m.gap, m.bytes));
    (moved, starts(problem, world, step))
}

/// When the tasks of a step started, from the start of the step.
pub fn starts(problem: &Problem, world: &World, step: u64) -> Vec<u64> {
    let count = problem.tasks.len();
    let starts = &world.starts[step as usize * count..(step as usize + 1) * count];
    starts.iter().map(|s| s - starts[0]).collect()
}

/// Whether two steps, one after the other, are alike.
pub fn alike(problem: &Problem, world: &World, step: u64) -> bool {
    record(problem, world, step) == record(problem, world, step + 1)
}

/// Runs the copies of a step again and again; the world and the step from which all steps are alike, if it settles.
pub fn settle<'p>(problem: &'p Problem, moved: &[Moved], starts: &[u64], step: u64) -> Option<(World<'p>, u64)> {
    let mut replay = Replay::new(problem, moved, starts, step);
    let count = problem.tasks.len() as u64;
    for round in 1..=ROUNDS {
        if !replay.run(round * count) {
            return None;
        }
        // The gaps of a step end in the next one.
        if round >= 5 && alike(problem, &replay.world, round - 3) {
            return Some((replay.world, round - 3));
        }
    }
    None
}

struct Replay<'p> {
    world: World<'p>,
    /// By lane, and last what is dropped: in the order of a step.
    queues: Vec<Vec<Op>>,
    /// By queue: the next one, and its step.
    heads: Vec<(usize, u64)>,
    /// The longest step so far.
    step: u64,
}

impl<'p> Replay<'p> {
    fn new(problem: &'p Problem, moved: &[Moved], starts: &[u64], step: u64) -> Replay<'p> {
        let mut world = World::new(problem);
        let lanes = problem.lanes.len();
        let mut queues: Vec<Vec<(u64, u64, Op)>> = (0..=lanes).map(|_| Vec::new()).collect();
        let mut below: BTreeMap<(usize, usize), i64> = BTreeMap::new();
        for m in moved {
            let (item, gap, bytes) = (m.item, m.gap, m.bytes);
            let back = u64::from(m.start >= step);
            let start = m.start - back * step;
            let gate = starts.partition_point(|s| *s <= start) as u64;
            queues[m.lane.unwrap_or(lanes)].push((start, m.end, Op { item, gap, bytes, back, gate, begun: 0 }));
            let item_uses = problem.items[item].uses.len();
            if back == 0 && gap + 1 == item_uses {
                // It happens before the edge of the step: it has happened before the first.
                let (from, to) = match m.lane {
                    Some(lane) => (problem.lanes[lane].from, problem.lanes[lane].to),
                    None => (0, problem.items[item].home.unwrap_or(0)),
                };
                *below.entry((item, from)).or_insert(0) -= bytes as i64;
                *below.entry((item, to)).or_insert(0) += bytes as i64;
            }
        }
        for ((item, tier), bytes) in below {
            if tier > 0 && bytes > 0 {
                world.place_below(item, tier, bytes as u64);
            }
        }
        let ordered = queues.into_iter().map(|mut queue| {
            queue.sort_by_key(|(start, end, _)| (*start, *end));
            queue.into_iter().map(|(_, _, op)| op).collect()
        });
        Replay { world, queues: ordered.collect(), heads: vec![(0, 0); lanes + 1], step: 0 }
    }

    /// Runs until so many tasks have ended; says whether it got there.
    fn run(&mut self, end: u64) -> bool {
        let count = self.world.problem.tasks.len() as u64;
        loop {
            let mut wake = None;
            loop {
                let began = self.serve(&mut wake);
                if self.world.position == end && self.world.running.is_none() {
                    return true;
                }
                if self.world.position == end || !self.start_task(&mut wake) {
                    if began {
                        continue;
                    }
                    break;
                }
                if self.world.position % count == 1 && self.world.position > 3 * count {
                    let last = self.world.starts.len() - 1;
                    self.step = self.step.max(self.world.starts[last] - self.world.starts[last - count as usize]);
                }
            }
            self.world.share();
            match self.world.next_event().into_iter().chain(wake).min() {
                Some(to) => self.world.advance(to),
                None if self.reorder() => {}
                None => return false,
            }
        }
    }

    /// From when something may begin that began at a time in the step before.
    fn earliest(&self, round: u64, before: u64) -> u64 {
        if round < FREE_ROUNDS { 0 } else { before + self.step }
    }

    fn start_task(&mut self, wake: &mut Option<u64>) -> bool {
        let count = self.world.problem.tasks.len() as u64;
        let position = self.world.position;
        let round = position / count;
        if round >= FREE_ROUNDS && self.world.running.is_none() {
            let earliest = self.earliest(round, self.world.starts[(position - count) as usize]);
            if earliest > self.world.now {
                *wake = Some(wake.map_or(earliest, |w| w.min(earliest)));
                return false;
            }
        }
        self.world.start_task()
    }

    /// Begins what can begin; says whether anything did.
    fn serve(&mut self, wake: &mut Option<u64>) -> bool {
        let mut began = false;
        for queue in 0..self.queues.len() {
            while self.begin(queue, wake) {
                began = true;
            }
        }
        began
    }

    /// Nothing can go on: brings forward, for good, what the next task waits for, or else what would make room.
    fn reorder(&mut self) -> bool {
        let world = &self.world;
        let problem = world.problem;
        let count = problem.tasks.len() as u64;
        let wanted = &problem.tasks[(world.position % count) as usize].needs;
        for inward in [true, false] {
            for queue in 0..self.queues.len() {
                let (head, round) = self.heads[queue];
                let fits = |op: &Op| {
                    let to = problem.lanes.get(queue).map(|l| l.to);
                    let serves = match inward {
                        true => to == Some(0) && wanted.iter().any(|(item, _)| *item == op.item),
                        false => to != Some(0),
                    };
                    serves && self.possible(queue, op, round)
                };
                let Some(found) = (head..self.queues[queue].len()).find(|at| fits(&self.queues[queue][*at])) else {
                    continue;
                };
                self.queues[queue][head..=found].rotate_right(1);
                let op = &mut self.queues[queue][head];
                op.gate = op.gate.min(world.position.saturating_sub(round * count));
                op.begun = 0;
                return true;
            }
        }
        false
    }

    /// Whether the bytes are there, the lane is idle and the room is free.
    fn possible(&self, queue: usize, op: &Op, round: u64) -> bool {
        let world = &self.world;
        let lane = world.problem.lanes.get(queue);
        let from = lane.map_or(0, |lane| lane.from);
        let place = &world.items[op.item];
        let held = if from == 0 { place.here } else { place.below[from - 1] };
        let here = place.last == (op.gap, round.wrapping_sub(op.back)) && !place.busy && held >= op.bytes;
        here && lane.is_none_or(|lane| world.is_idle(queue) && world.free(lane.to) >= op.bytes)
    }

    fn begin(&mut self, queue: usize, wake: &mut Option<u64>) -> bool {
        let (at, round) = self.heads[queue];
        let Some(op) = self.queues[queue].get(at) else { return false };
        let count = self.world.problem.tasks.len() as u64;
        if self.world.position < round * count + op.gate || !self.possible(queue, op, round) {
            return false;
        }
        let earliest = if round < FREE_ROUNDS { 0 } else { op.begun + self.step };
        if earliest > self.world.now {
            *wake = Some(wake.map_or(earliest, |w| w.min(earliest)));
            return false;
        }
        let world = &mut self.world;
        match world.problem.lanes.get(queue) {
            Some(_) => world.start_copy(queue, op.item, op.bytes),
            None => world.drop_bytes(op.item, world.problem.items[op.item].home.unwrap_or(0), op.bytes),
        }
        let now = world.now;
        self.queues[queue][at].begun = now;
        self.heads[queue] = if at + 1 < self.queues[queue].len() { (at + 1, round) } else { (0, round + 1) };
        true
    }
}
