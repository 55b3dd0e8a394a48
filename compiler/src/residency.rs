//! Builds the stays that a choice means: what never leaves, how far ahead the rest is brought, what is put aside.
//!
//! Reads:    lifetimes, machine, a choice.
//! Decides:  nothing that the choice does not say; it works out spans.
//! Promises: each task finds its operands in its engine's memory at its position; no stay is longer than a step.
//! Why:      next use, not recency: what is put aside is what is wanted last (Belady 1966), gap by gap.

use crate::machine::Machine;
use crate::stay::{Arrival, Level, Stay};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// What a plan may choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// By position: the task runs on the engine of the lower memory.
    pub host: Vec<bool>,
    /// By tensor: it never leaves the device.
    pub pinned: Vec<bool>,
    /// A streamed weight of which so many bytes never leave.
    pub partly: Option<(TensorId, u64)>,
    /// Gaps (tensor, index of the use before) over which a streamed weight stays from one use to the next.
    pub kept: BTreeSet<(TensorId, usize)>,
    /// By tensor: its bytes are kept in the lower memory and streamed from there.
    pub lowered: Vec<bool>,
    /// A streamed tensor may be brought while at most so many bytes of streamed tensors wait for their use.
    pub window: u64,
    /// Gaps (tensor, index of the use before) in which a tensor that is no weight is put aside.
    pub aside: BTreeSet<(TensorId, usize)>,
    /// Streamed tensors are brought when the engine has come to the task that wants them, and not before.
    pub demand: bool,
}

impl Choice {
    /// Everything is streamed just in time, nothing put aside.
    pub fn least(lifetimes: &Lifetimes) -> Choice {
        let none = vec![false; lifetimes.tensors.len()];
        let (kept, aside) = (BTreeSet::new(), BTreeSet::new());
        let host = vec![false; lifetimes.tasks.len()];
        Choice { host, pinned: none.clone(), partly: None, kept, lowered: none, window: 0, aside, demand: false }
    }

    /// The memory that the task at this position computes in.
    pub fn level(&self, position: usize) -> Level {
        if self.host[position] { Level::Lower } else { Level::Device }
    }
}

/// All stays of a choice.
pub fn stays(lifetimes: &Lifetimes, machine: &Machine, choice: &Choice) -> Vec<Stay> {
    let mut all = Vec::new();
    for (index, uses) in lifetimes.uses().into_iter().enumerate() {
        let tensor = TensorId(index as u32);
        if uses.is_empty() {
            continue;
        }
        match lifetimes.tensor(tensor).kind {
            Kind::Weight => weight(&mut all, lifetimes, machine, choice, tensor, uses),
            _ => value(&mut all, lifetimes, choice, tensor, uses),
        }
    }
    for (position, task) in lifetimes.tasks.iter().enumerate().filter(|(_, t)| t.workspace > 0) {
        // A workspace belongs to its task; it borrows the id of what the task writes, to have a name.
        let tensor = task.writes.first().or(task.reads.first()).copied().unwrap_or(TensorId(0));
        let bytes = task.workspace;
        let (level, arrives) = (choice.level(position), Arrival::Scratch);
        all.push(Stay { level, arrives, ..stay(tensor, bytes, position, position, vec![position]) });
    }
    lead(&mut all, lifetimes.tasks.len(), choice.window);
    all
}

fn stay(tensor: TensorId, bytes: u64, from: usize, to: usize, uses: Vec<usize>) -> Stay {
    Stay {
        tensor,
        level: Level::Device,
        from: from as i64,
        to: to as i64,
        forever: false,
        arrives: Arrival::Home { demand: false },
        uses,
        fetched: false,
        bytes,
        part: None,
    }
}

fn weight(
    all: &mut Vec<Stay>,
    lifetimes: &Lifetimes,
    machine: &Machine,
    choice: &Choice,
    tensor: TensorId,
    uses: Vec<usize>,
) {
    let bytes = lifetimes.tensor(tensor).bytes;
    let last = lifetimes.tasks.len() - 1;
    let demand = choice.demand;
    let (below, uses): (Vec<usize>, Vec<usize>) = uses.into_iter().partition(|p| choice.host[*p]);
    // A lower memory that stands between files and the device holds every weight; what its engine reads never leaves it.
    let through = choice.lowered[tensor.index()] || machine.home_to_device.is_none() || !below.is_empty();
    let mut arrives = Arrival::Home { demand };
    if through {
        all.push(Stay { level: Level::Lower, forever: true, ..stay(tensor, bytes, 0, last, below) });
        arrives = Arrival::Stay { from: all.len() - 1, demand };
    }
    if uses.is_empty() {
        return;
    }
    if choice.pinned[tensor.index()] {
        all.push(Stay { forever: true, arrives, ..stay(tensor, bytes, 0, last, uses) });
        return;
    }
    let held = choice.partly.filter(|(partly, _)| *partly == tensor).map_or(0, |(_, held)| held.min(bytes));
    let rest = if held > 0 { Some((held, bytes)) } else { None };
    if held > 0 {
        let part = Some((0, held));
        all.push(Stay { forever: true, arrives, part, ..stay(tensor, held, 0, last, uses.clone()) });
    }
    let mut part: Vec<usize> = Vec::new();
    for (i, position) in uses.iter().enumerate() {
        part.push(*position);
        if i + 1 == uses.len() || !choice.kept.contains(&(tensor, i)) {
            let part = std::mem::take(&mut part);
            all.push(Stay { arrives, part: rest, ..stay(tensor, bytes - held, part[0], *position, part) });
        }
    }
}

/// A tensor that a task or the caller writes: in the memory of who uses it first one stay, or one for each run of uses
/// between which it is put aside; where engines of both memories use it, one in the other memory too.
fn value(all: &mut Vec<Stay>, lifetimes: &Lifetimes, choice: &Choice, tensor: TensorId, uses: Vec<usize>) {
    let t = lifetimes.tensor(tensor);
    let first = uses[0];
    let mut arrives = if t.kind == Kind::Input { Arrival::Feed } else { Arrival::Run(first) };
    let mut fetched = t.kind == Kind::Output;
    let host: Vec<usize> = uses.iter().copied().filter(|p| choice.host[*p]).collect();
    let mut below = None;
    // The stay below lasts while its engine uses it or something is still copied from it.
    let lower = |arrives, from: usize, to: usize| {
        let to = host.last().map_or(to, |last| to.max(*last));
        Stay { level: Level::Lower, arrives, ..stay(tensor, t.bytes, from, to, host.clone()) }
    };
    if choice.level(first) == Level::Lower {
        all.push(Stay { fetched, ..lower(arrives, first, first) });
        below = Some(all.len() - 1);
        (arrives, fetched) = (Arrival::Stay { from: all.len() - 1, demand: choice.demand }, false);
    }
    let mut part = Vec::new();
    for i in 0..uses.len() {
        if choice.level(uses[i]) == Level::Device {
            part.push(uses[i]);
        }
        let next = uses[i + 1..].iter().find(|p| !choice.host[**p]);
        if part.is_empty() || (next.is_some() && !choice.aside.contains(&(tensor, i))) {
            continue;
        }
        let part = std::mem::take(&mut part);
        if let (Some(kept), Arrival::Stay { .. }) = (below, arrives) {
            all[kept].to = all[kept].to.max(part[0] as i64);
        }
        let (from, to) = (part[0], part[part.len() - 1]);
        all.push(Stay { arrives, fetched, ..stay(tensor, t.bytes, from, to, part) });
        let source = all.len() - 1;
        // Put aside once; an unchanged tensor that comes back has its copy below already.
        if below.is_none() && (next.is_some() || !host.is_empty()) {
            let arrives = Arrival::Stay { from: source, demand: false };
            // What the engine below uses goes there as soon as it is made.
            let from = if host.is_empty() { to } else { from };
            all.push(lower(arrives, from, to));
            below = Some(all.len() - 1);
        }
        let Some(kept) = below else { break };
        (arrives, fetched) = (Arrival::Stay { from: kept, demand: choice.demand }, false);
    }
}

/// Moves the start of what is streamed ahead of its use, until a window of bytes waits.
fn lead(all: &mut [Stay], positions: usize, window: u64) {
    if window == 0 {
        return;
    }
    let period = positions as i64;
    let streamed = |s: &Stay| {
        let moves = matches!(s.arrives, Arrival::Home { .. } | Arrival::Stay { .. });
        s.level == Level::Device && !s.forever && moves
    };
    let mut order: Vec<usize> = (0..all.len()).filter(|i| streamed(&all[*i])).collect();
    order.sort_by_key(|i| (all[*i].uses[0], *i));
    let count = order.len();
    let sources = source_ends(all);
    // The stays before this one in the order, around the loop, whose bytes wait together with it.
    let (mut first, mut waiting) = (0usize, 0u64);
    let at = |n: usize| order[n % count];
    for n in 0..2 * count {
        waiting += all[at(n)].bytes;
        while waiting > window && first < n {
            waiting -= all[at(first)].bytes;
            first += 1;
        }
        if n < count {
            continue;
        }
        let stay = at(n);
        let use_at = all[stay].uses[0] as i64;
        let turns = |m: usize| ((n / count) as i64 - (m / count) as i64) * period;
        // It may begin once the one before the first that waits has been used.
        let start = match first.checked_sub(1) {
            Some(m) => all[at(m)].to - turns(m) + 1,
            None => use_at - period + 1,
        };
        let own_end = all[stay].to - period + 1;
        all[stay].from = start.max(own_end).max(sources[stay]).min(use_at);
    }
}

/// For each stay the first position at which its source can be copied from: once it is made, and behind the use after
/// which it was put aside.
pub(crate) fn source_ends(all: &[Stay]) -> Vec<i64> {
    // It must be there, and the previous stay of the same tensor on the device have ended: they would meet.
    let moved = |s: &Stay| matches!(s.arrives, Arrival::Stay { from, .. } if !all[from].forever);
    let returning: BTreeSet<TensorId> = all.iter().filter(|s| moved(s)).map(|s| s.tensor).collect();
    let mut ends: BTreeMap<TensorId, Vec<i64>> = BTreeMap::new();
    for stay in all.iter().filter(|s| s.level == Level::Device && returning.contains(&s.tensor)) {
        ends.entry(stay.tensor).or_default().push(stay.to);
    }
    ends.values_mut().for_each(|ends| ends.sort_unstable());
    let end = |stay: &Stay| match stay.arrives {
        Arrival::Stay { from, .. } if !all[from].forever => {
            let ends = ends.get(&stay.tensor).map_or(&[][..], Vec::as_slice);
            let used = stay.uses.first().map_or(i64::MIN, |p| *p as i64);
            let before = ends.partition_point(|to| *to < used);
            before.checked_sub(1).map_or(i64::MIN, |last| ends[last] + 1).max(all[from].from)
        }
        _ => i64::MIN,
    };
    all.iter().map(end).collect()
}
