//! Tasks and copies in virtual time: what is where, what moves, what waits. It decides nothing.
//!
//! A task starts when all that it needs is whole on the device and its results and scratch have room. Bytes in flight
//! occupy both ends for the whole copy. Lanes of a group share its rate fairly: a slow lane keeps its own rate, the others
//! have what is left. A copy whose rate changes is cut there, so that each recorded copy has one rate.

use super::problem::{Problem, bytes_in, time};
use std::collections::{BTreeSet, VecDeque};

/// A copy as it happened; times from the start of the first step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The tensor.
    pub item: usize,
    /// Which of its uses came before.
    pub gap: usize,
    /// The step of that use.
    pub step: u64,
    /// Bytes.
    pub bytes: u64,
    /// The lane; nothing for bytes that were dropped.
    pub lane: Option<usize>,
    /// When it began.
    pub start: u64,
    /// When its bytes were there.
    pub end: u64,
}

/// What a lane does at present.
#[derive(Clone, Copy, Debug)]
struct Flight {
    item: usize,
    /// Bytes since the rate last changed.
    bytes: u64,
    since: u64,
    /// Zero: it begins now.
    rate: u64,
    submit: u64,
    leaves: u64,
}

/// Bytes that have left their lane and are not there yet.
#[derive(Clone, Copy, Debug)]
struct Late {
    item: usize,
    bytes: u64,
    since: u64,
    at: u64,
}

/// Where one tensor is.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts {
    /// Bytes on the device that are not leaving.
    pub here: u64,
    /// Bytes by tier below the device, first the fastest, that are not leaving it.
    pub below: Vec<u64>,
    /// The use before, and its step.
    pub last: (usize, u64),
    /// The next use, counted over all steps.
    pub next: u64,
    /// A running task needs it.
    pub busy: bool,
}

/// The state of everything.
pub struct World<'p> {
    /// What is simulated.
    pub problem: &'p Problem,
    /// Nanoseconds from the start.
    pub now: u64,
    /// The next task to start, counted over all steps.
    pub position: u64,
    /// When the running task ends.
    pub running: Option<u64>,
    /// When each task started.
    pub starts: Vec<u64>,
    /// By tensor.
    pub items: Vec<Whereabouts>,
    /// Bytes taken by tier.
    pub used: Vec<u64>,
    /// Tensors with bytes on the device that no running task needs, by next use.
    pub idle: BTreeSet<(u64, usize)>,
    /// By tier below the device: tensors with bytes there, by next use.
    pub away: Vec<BTreeSet<(u64, usize)>>,
    /// What was copied and dropped, by end.
    pub moved: Vec<Moved>,
    flights: Vec<Option<Flight>>,
    late: Vec<VecDeque<Late>>,
    by_rate: Vec<usize>,
}

impl<'p> World<'p> {
    /// The world before the first step: what outlives a step is on the device.
    pub fn new(problem: &'p Problem) -> World<'p> {
        let lower = problem.lower();
        let mut world = World {
            problem,
            now: 0,
            position: 0,
            running: None,
            starts: Vec::new(),
            items: Vec::with_capacity(problem.items.len()),
            used: vec![0; problem.room.len()],
            idle: BTreeSet::new(),
            away: vec![BTreeSet::new(); lower],
            moved: Vec::new(),
            flights: vec![None; problem.lanes.len()],
            late: vec![VecDeque::new(); problem.lanes.len()],
            by_rate: (0..problem.lanes.len()).collect(),
        };
        world.by_rate.sort_by_key(|l| (problem.lanes[*l].rate, *l));
        for (index, item) in problem.items.iter().enumerate() {
            let mut place = Whereabouts { below: vec![0; lower], ..Whereabouts::default() };
            if item.lasts && !item.uses.is_empty() {
                place.here = item.bytes;
                place.next = item.uses[0] as u64;
                // As if the step before had been run; its gaps are never reported.
                place.last = (item.uses.len() - 1, u64::MAX);
                world.used[0] += item.bytes;
                world.idle.insert((place.next, index));
            }
            world.items.push(place);
        }
        world
    }

    /// Moves bytes from the device to a tier below in no time, before anything has started.
    pub fn place_below(&mut self, item: usize, tier: usize, bytes: u64) {
        self.take(item, 0, bytes);
        self.used[0] -= bytes;
        self.used[tier] += if self.problem.items[item].home == Some(tier) { 0 } else { bytes };
        self.put(item, tier, bytes);
    }

    /// Drops bytes of a tensor that has a home.
    pub fn drop_bytes(&mut self, item: usize, home: usize, bytes: u64) {
        self.take(item, 0, bytes);
        self.used[0] -= bytes;
        self.put(item, home, bytes);
        let (gap, step) = self.items[item].last;
        self.moved.push(Moved { item, gap, step, bytes, lane: None, start: self.now, end: self.now });
    }

    /// Begins a copy; the lane is idle, the bytes are there and the room is too.
    pub fn start_copy(&mut self, lane: usize, item: usize, bytes: u64) {
        let l = &self.problem.lanes[lane];
        debug_assert!(self.flights[lane].is_none() && bytes > 0);
        self.take(item, l.from, bytes);
        self.used[l.to] += bytes;
        self.flights[lane] = Some(Flight { item, bytes, since: self.now, rate: 0, submit: l.submit, leaves: u64::MAX });
    }

    /// Whether a lane moves nothing.
    pub fn is_idle(&self, lane: usize) -> bool {
        self.flights[lane].is_none()
    }

    /// Bytes that a tier has left.
    pub fn free(&self, tier: usize) -> u64 {
        self.problem.room[tier].saturating_sub(self.used[tier])
    }

    /// The rate that a lane would have, or has, beside what moves now.
    pub fn rate(&self, lane: usize) -> u64 {
        let active = |l: usize| l == lane || self.flights[l].is_some();
        self.shares(self.problem.lanes[lane].group, active).find(|(l, _)| *l == lane).map_or(0, |(_, rate)| rate)
    }

    /// Fair shares of a group among its active lanes, the slowest first.
    fn shares(&self, group: usize, active: impl Fn(usize) -> bool) -> impl Iterator<Item = (usize, u64)> {
        let mut lanes: Vec<usize> = self.by_rate.clone();
        lanes.retain(|l| self.problem.lanes[*l].group == group && active(*l));
        let mut left = self.problem.groups[group];
        let count = lanes.len() as u64;
        (0..count).zip(lanes).map(move |(n, lane)| {
            let rate = self.problem.lanes[lane].rate.min(left / (count - n));
            left -= rate;
            (lane, rate)
        })
    }

    /// Takes bytes from where they are; they still occupy it.
    fn take(&mut self, item: usize, tier: usize, bytes: u64) {
        let place = &mut self.items[item];
        let held = if tier == 0 { &mut place.here } else { &mut place.below[tier - 1] };
        assert!(*held >= bytes, "a copy takes bytes that are not there");
        *held -= bytes;
        if *held == 0 {
            let set = if tier == 0 { &mut self.idle } else { &mut self.away[tier - 1] };
            set.remove(&(place.next, item));
        }
    }

    /// Puts bytes where they are to be; they occupy it already.
    fn put(&mut self, item: usize, tier: usize, bytes: u64) {
        let place = &mut self.items[item];
        if tier == 0 {
            place.here += bytes;
            self.idle.insert((place.next, item));
        } else {
            place.below[tier - 1] += bytes;
            self.away[tier - 1].insert((place.next, item));
        }
    }

    /// The next time at which something ends.
    pub fn next_event(&self) -> Option<u64> {
        let flights = self.flights.iter().flatten().map(|f| f.leaves);
        let late = self.late.iter().filter_map(|l| l.front()).map(|l| l.at);
        flights.chain(late).chain(self.running).min()
    }

    /// Goes on to a time, not past the next event, and ends what ends then.
    pub fn advance(&mut self, to: u64) {
        self.now = to;
        for lane in 0..self.flights.len() {
            while let Some(late) = self.late[lane].front().copied().filter(|l| l.at <= to) {
                self.late[lane].pop_front();
                self.arrive(lane, late);
            }
            if let Some(flight) = self.flights[lane].filter(|f| f.leaves <= to) {
                self.flights[lane] = None;
                self.leave(lane, flight.item, flight.bytes, flight.since);
            }
        }
        if self.running.is_some_and(|end| end <= to) {
            self.running = None;
            self.finish();
        }
    }

    /// Bytes have left their lane.
    fn leave(&mut self, lane: usize, item: usize, bytes: u64, since: u64) {
        let late = Late { item, bytes, since, at: self.now + self.problem.lanes[lane].latency };
        if late.at == self.now { self.arrive(lane, late) } else { self.late[lane].push_back(late) }
    }

    fn arrive(&mut self, lane: usize, late: Late) {
        let l = &self.problem.lanes[lane];
        let Late { item, bytes, .. } = late;
        if self.problem.items[item].home != Some(l.from) {
            self.used[l.from] -= bytes;
        }
        self.put(item, l.to, bytes);
        let (gap, step) = self.items[item].last;
        self.moved.push(Moved { item, gap, step, bytes, lane: Some(lane), start: late.since, end: self.now });
    }

    /// Gives each lane of a changed group its share; a copy under way whose rate changes is cut.
    pub fn share(&mut self) {
        for group in 0..self.problem.groups.len() {
            let shares: Vec<(usize, u64)> = self.shares(group, |l| self.flights[l].is_some()).collect();
            for (lane, rate) in shares {
                let Some(mut flight) = self.flights[lane].filter(|f| f.rate != rate) else { continue };
                let elapsed = (self.now - flight.since).saturating_sub(flight.submit);
                let grain = self.problem.lanes[lane].grain;
                // Never all of it: a copy that is about to end ends at the new rate.
                let done = bytes_in(elapsed, flight.rate).min(flight.bytes - 1) / grain * grain;
                if done > 0 {
                    self.leave(lane, flight.item, done, flight.since);
                }
                let submit = (flight.since + flight.submit).saturating_sub(self.now);
                flight = Flight { bytes: flight.bytes - done, since: self.now, submit, ..flight };
                let start = self.now + submit;
                flight.rate = rate;
                flight.leaves = start.saturating_add(time(flight.bytes, rate));
                self.flights[lane] = Some(flight);
            }
        }
    }

    /// Starts the next task if it can; says whether it did.
    pub fn start_task(&mut self) -> bool {
        if self.running.is_some() || !self.ready() {
            return false;
        }
        let count = self.problem.tasks.len() as u64;
        let (step, at) = (self.position / count, (self.position % count) as usize);
        let task = &self.problem.tasks[at];
        for (t, index) in &task.needs {
            let item = &self.problem.items[*t];
            let place = &mut self.items[*t];
            if *index == 0 && !item.lasts {
                place.here = item.bytes;
                self.used[0] += item.bytes;
            } else {
                self.idle.remove(&(place.next, *t));
            }
            place.busy = true;
            place.last = (*index, step);
        }
        self.used[0] += task.workspace;
        self.starts.push(self.now);
        self.running = Some(self.now.saturating_add(task.cost));
        self.position += 1;
        true
    }

    fn ready(&self) -> bool {
        let task = &self.problem.tasks[(self.position % self.problem.tasks.len() as u64) as usize];
        let mut room = task.workspace;
        for (t, index) in &task.needs {
            let item = &self.problem.items[*t];
            if *index == 0 && !item.lasts {
                room += item.bytes;
            } else if self.items[*t].here < item.bytes {
                return false;
            }
        }
        room <= self.free(0)
    }

    /// Ends the task that ran: what dies is gone, the rest is idle until its next use.
    fn finish(&mut self) {
        let count = self.problem.tasks.len() as u64;
        let (step, at) = ((self.position - 1) / count, ((self.position - 1) % count) as usize);
        let task = &self.problem.tasks[at];
        self.used[0] -= task.workspace;
        for (t, index) in &task.needs {
            let place = &mut self.items[*t];
            place.busy = false;
            match self.problem.next_use(*t, *index, step) {
                Some(next) => {
                    place.next = next;
                    if place.here > 0 {
                        self.idle.insert((next, *t));
                    }
                }
                None => {
                    place.here = 0;
                    self.used[0] -= self.problem.items[*t].bytes;
                }
            }
        }
    }
}
