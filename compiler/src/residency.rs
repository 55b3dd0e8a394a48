//! Builds the stays that a choice means: what never leaves, how far ahead the rest is brought, what is put aside.
//!
//! Reads:    lifetimes, machine, a choice.
//! Decides:  nothing that the choice does not say; it works out spans.
//! Promises: each task finds its operands in its engine's memory at its position; no stay is longer than a step.
//! Why:      next use, not recency: what is put aside is what is wanted last (Belady 1966), gap by gap.

use crate::below::{Known, Passing, Share, passing};
use crate::carried::carried;
use crate::machine::Machine;
use crate::stay::{Arrival, Level, Positions, Stay, load_curve};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::lists::Lists;
use berth_ir::program::Kind;
use smallvec::smallvec;
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
    /// Gaps (tensor, index of the use before, of those on the device) over which a streamed weight stays from one use to the
    /// next; the gap behind its last use ends with its first use in the next step.
    pub kept: BTreeSet<(TensorId, usize)>,
    /// By tensor: the memory below in which its bytes are kept and from which they stream.
    pub lowered: Vec<Option<Level>>,
    /// A streamed tensor may be brought while at most so many bytes of streamed tensors wait for their use.
    pub window: u64,
    /// Gaps (tensor, index of the use before) in which a tensor that is no weight is put aside.
    pub aside: BTreeSet<(TensorId, usize)>,
    /// Gaps (tensor, index of the use before) in which a tensor is put aside elsewhere than in the lower memory.
    pub sunk: BTreeMap<(TensorId, usize), Level>,
    /// Streamed tensors are brought when the engine has come to the task that wants them, and not before.
    pub demand: bool,
    /// It was rounded from a schedule of bytes for so many hundredths of the device.
    pub rounded: Option<u64>,
    /// How a memory that weights pass through is shared.
    pub share: Share,
}

impl Choice {
    /// Everything is streamed just in time, nothing put aside.
    pub fn least(lifetimes: &Lifetimes) -> Choice {
        let (tensors, tasks) = (lifetimes.tensors.len(), lifetimes.tasks.len());
        Choice {
            host: vec![false; tasks],
            pinned: vec![false; tensors],
            partly: None,
            kept: BTreeSet::new(),
            lowered: vec![None; tensors],
            window: 0,
            aside: BTreeSet::new(),
            sunk: BTreeMap::new(),
            demand: false,
            rounded: None,
            share: Share::default(),
        }
    }

    /// The same with no weight that stays over any gap, and nothing brought ahead.
    pub fn without_weights(&self) -> Choice {
        let pinned = vec![false; self.pinned.len()];
        Choice { pinned, partly: None, window: 0, kept: BTreeSet::new(), ..self.clone() }
    }

    /// Whether a weight that the device uses so many times never leaves it.
    pub fn holds(&self, tensor: TensorId, uses: usize) -> bool {
        uses > 0 && (self.pinned[tensor.index()] || (0..uses).all(|i| self.kept.contains(&(tensor, i))))
    }

    /// The memory that the task at this position computes in.
    pub fn level(&self, position: usize) -> Level {
        if self.host[position] { Level::Lower } else { Level::Device }
    }
}

/// All stays of a choice.
pub fn stays(lifetimes: &Lifetimes, machine: &Machine, choice: &Choice) -> Vec<Stay> {
    let mut all = Vec::new();
    let uses = lifetimes.uses();
    let again = lifetimes.rewrites();
    let passing = through(lifetimes, machine, choice, &uses, &again);
    for (index, uses) in uses.iter().enumerate() {
        let tensor = TensorId(index as u32);
        if uses.is_empty() {
            continue;
        }
        match lifetimes.tensor(tensor).kind {
            Kind::Weight => weight(&mut all, lifetimes, machine, choice, &passing, tensor, uses),
            Kind::State => carried(&mut all, lifetimes, choice, tensor, uses),
            _ => value(&mut all, lifetimes, choice, tensor, uses, &again[index]),
        }
    }
    for (position, task) in lifetimes.tasks.iter().enumerate().filter(|(_, t)| t.workspace > 0) {
        // A workspace belongs to its task; it borrows the id of what the task writes, to have a name.
        let tensor = task.writes.first().or(task.reads.first()).copied().unwrap_or(TensorId(0));
        let bytes = task.workspace;
        let (level, arrives) = (choice.level(position), Arrival::Scratch);
        all.push(Stay { level, arrives, ..stay(tensor, bytes, position, position, smallvec![position]) });
    }
    lead(&mut all, lifetimes.tasks.len(), choice.window, streamed);
    lead(&mut all, lifetimes.tasks.len(), passing.window, passes);
    all
}

/// Which weights pass through the memory below.
fn through(lifetimes: &Lifetimes, machine: &Machine, choice: &Choice, uses: &Lists, again: &Lists) -> Passing {
    if machine.home_to_device.is_some() {
        return Passing::default();
    }
    let count = lifetimes.tensors.len();
    let none = || vec![false; count];
    let (mut known, mut values) = (Known { forever: none(), below: none(), elsewhere: none() }, Vec::new());
    for (index, uses) in uses.iter().enumerate().filter(|(_, uses)| !uses.is_empty()) {
        let tensor = TensorId(index as u32);
        if lifetimes.tensor(tensor).kind == Kind::State {
            carried(&mut values, lifetimes, choice, tensor, uses);
        } else if lifetimes.tensor(tensor).kind == Kind::Weight {
            let (host, device) = uses.iter().partition::<Vec<usize>, _>(|p| choice.host[**p]);
            known.forever[index] = choice.holds(tensor, device.len());
            known.below[index] = !host.is_empty();
            known.elsewhere[index] = elsewhere(choice, tensor, !host.is_empty()).is_some();
        } else {
            value(&mut values, lifetimes, choice, tensor, uses, &again[index]);
        }
    }
    let tier = machine.lower.map_or(1, |tier| tier.alignment);
    let values = load_curve(&values, Level::Lower, lifetimes.tasks.len(), tier).into_iter().max();
    passing(lifetimes, machine, &known, values.unwrap_or(0), choice.share)
}

/// The memory beside the lower one that keeps a weight, unless the engine of the lower one reads it too.
fn elsewhere(choice: &Choice, tensor: TensorId, below: bool) -> Option<Level> {
    choice.lowered[tensor.index()].filter(|level| *level != Level::Lower && !below)
}

/// A stay on the device, in this step, brought from its home.
pub(crate) fn stay(tensor: TensorId, bytes: u64, from: usize, to: usize, uses: Positions) -> Stay {
    Stay {
        tensor,
        level: Level::Device,
        from: from as i64,
        to: to as i64,
        forever: false,
        stage: false,
        arrives: Arrival::Home { demand: false },
        uses,
        fed: false,
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
    passing: &Passing,
    tensor: TensorId,
    uses: &[usize],
) {
    let bytes = lifetimes.tensor(tensor).bytes;
    let last = lifetimes.tasks.len() - 1;
    let demand = choice.demand;
    let (below, uses): (Positions, Positions) = uses.iter().copied().partition(|p| choice.host[*p]);
    // A lower memory that stands between files and the device keeps a weight or has it pass through; what its engine reads
    // never leaves it.
    let further = elsewhere(choice, tensor, !below.is_empty());
    let passes = further.is_none() && passing.passes(tensor);
    let kept_below = choice.lowered[tensor.index()].is_some() || machine.home_to_device.is_none() || !below.is_empty();
    let mut arrives = Arrival::Home { demand };
    if kept_below && !passes {
        let level = further.unwrap_or(Level::Lower);
        all.push(Stay { level, forever: true, ..stay(tensor, bytes, 0, last, below) });
        arrives = Arrival::Stay { from: all.len() - 1, demand };
    }
    if uses.is_empty() {
        return;
    }
    let stage = |all: &mut Vec<Stay>| {
        all.push(Stay {
            level: Level::Lower,
            forever: true,
            stage: true,
            ..stay(tensor, bytes, 0, last, Positions::new())
        });
        Arrival::Stay { from: all.len() - 1, demand }
    };
    if choice.holds(tensor, uses.len()) {
        let arrives = if passes { stage(all) } else { arrives };
        all.push(Stay { forever: true, arrives, ..stay(tensor, bytes, 0, last, uses) });
        return;
    }
    let held = choice.partly.filter(|(partly, _)| *partly == tensor).map_or(0, |(_, held)| held.min(bytes));
    let rest = if held > 0 { Some((held, bytes)) } else { None };
    if held > 0 {
        let part = Some((0, held));
        let arrives = if passes { stage(all) } else { arrives };
        all.push(Stay { forever: true, arrives, part, ..stay(tensor, held, 0, last, uses.clone()) });
    }
    // What passes through below is there once in each step: none of it lasts over the step's edge.
    let kept = |i: usize| choice.kept.contains(&(tensor, i)) && !(passes && i + 1 == uses.len());
    for uses in runs(&uses, lifetimes.tasks.len(), kept) {
        let (from, to) = (uses[0], uses[uses.len() - 1]);
        if passes {
            all.push(Stay { level: Level::Lower, ..stay(tensor, bytes, from, from, Positions::new()) });
            arrives = Arrival::Stay { from: all.len() - 1, demand };
        }
        all.push(Stay { arrives, part: rest, ..stay(tensor, bytes - held, from, to, uses) });
    }
}

/// Uses in runs between which a weight goes, in the order of their first uses; a run that crosses the edge of the step has
/// the positions of its uses in the next step behind the last of this one.
fn runs(uses: &[usize], period: usize, kept: impl Fn(usize) -> bool) -> Vec<Positions> {
    let count = uses.len();
    let Some(start) = (0..count).find(|i| !kept(*i)).map(|i| i + 1) else { return vec![uses.into()] };
    let mut runs = vec![Positions::new()];
    for n in start..start + count {
        let last = runs.len() - 1;
        let turn = if start < count { n / count * period } else { 0 };
        runs[last].push(uses[n % count] + turn);
        if !kept(n % count) && n + 1 < start + count {
            runs.push(Positions::new());
        }
    }
    // Those that begin in the next step are there in this one too.
    for run in runs.iter_mut().filter(|run| run[0] >= period) {
        run.iter_mut().for_each(|p| *p -= period);
    }
    runs.sort();
    runs
}

/// A tensor that a task or the caller writes: in the memory of who uses it first one stay, or one for each run of uses
/// between which it is put aside; where engines of both memories use it, one in the other memory too. What is written
/// `again` is put aside anew.
fn value(
    all: &mut Vec<Stay>,
    lifetimes: &Lifetimes,
    choice: &Choice,
    tensor: TensorId,
    uses: &[usize],
    again: &[usize],
) {
    let t = lifetimes.tensor(tensor);
    let first = uses[0];
    let mut arrives = if t.kind == Kind::Input { Arrival::Feed } else { Arrival::Run(first) };
    let mut fetched = t.kind == Kind::Output;
    let host: Positions = uses.iter().copied().filter(|p| choice.host[*p]).collect();
    let mut below = None;
    // The stay below lasts while its engine uses it or something is still copied from it.
    let lower = |arrives, from: usize, to: usize, gap: usize| {
        let to = host.last().map_or(to, |last| to.max(*last));
        let level = choice.sunk.get(&(tensor, gap)).copied().filter(|_| host.is_empty()).unwrap_or(Level::Lower);
        Stay { level, arrives, ..stay(tensor, t.bytes, from, to, host.clone()) }
    };
    if choice.level(first) == Level::Lower {
        all.push(Stay { fetched, ..lower(arrives, first, first, 0) });
        below = Some(all.len() - 1);
        (arrives, fetched) = (Arrival::Stay { from: all.len() - 1, demand: choice.demand }, false);
    }
    let mut part = Positions::new();
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
        // The copy below of what is written again is of no more use.
        if again.iter().any(|p| (from..=to).contains(p)) {
            below = None;
        }
        // The caller has it as it is written last.
        let last = again.last().is_none_or(|p| *p <= to);
        all.push(Stay { arrives, fetched: fetched && last, ..stay(tensor, t.bytes, from, to, part) });
        let source = all.len() - 1;
        // Put aside once; an unchanged tensor that comes back has its copy below already.
        if below.is_none() && (next.is_some() || !host.is_empty()) {
            let arrives = Arrival::Stay { from: source, demand: false };
            // What the engine below uses goes there as soon as it is made.
            let from = if host.is_empty() { to } else { from };
            all.push(lower(arrives, from, to, i));
            below = Some(all.len() - 1);
        }
        let Some(kept) = below else { break };
        (arrives, fetched) = (Arrival::Stay { from: kept, demand: choice.demand }, fetched && !last);
    }
}

/// Whether a stay on the device is brought in each step.
fn streamed(stay: &Stay) -> bool {
    let moves = matches!(stay.arrives, Arrival::Home { .. } | Arrival::Stay { .. });
    stay.level == Level::Device && !stay.forever && moves
}

/// Whether a stay is one of a weight that passes through the memory below in each step.
pub fn passes(stay: &Stay) -> bool {
    stay.level == Level::Lower && !stay.forever && matches!(stay.arrives, Arrival::Home { .. })
}

/// Moves the start of some stays ahead of their use, until a window of bytes waits.
fn lead(all: &mut [Stay], positions: usize, window: u64, which: fn(&Stay) -> bool) {
    if window == 0 {
        return;
    }
    let period = positions as i64;
    let mut order: Vec<usize> = (0..all.len()).filter(|i| which(&all[*i])).collect();
    order.sort_by_key(|i| (all[*i].wanted(), *i));
    let count = order.len();
    let sources = source_ends(all, period);
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
        let use_at = all[stay].wanted();
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
/// which it was put aside, which lies in the step before for what comes back for the first use of a step.
pub(crate) fn source_ends(all: &[Stay], period: i64) -> Vec<i64> {
    // It must be there, and the previous stay of the same tensor on the device have ended: they would meet.
    let moved = |s: &Stay| matches!(s.arrives, Arrival::Stay { from, .. } if !all[from].forever && !passes(&all[from]));
    let returning: BTreeSet<TensorId> = all.iter().filter(|s| moved(s)).map(|s| s.tensor).collect();
    let mut ends: BTreeMap<TensorId, Vec<i64>> = BTreeMap::new();
    for stay in all.iter().filter(|s| s.level == Level::Device && returning.contains(&s.tensor)) {
        let before = stay.crosses(period).then_some(stay.to - period);
        ends.entry(stay.tensor).or_default().extend(before.into_iter().chain([stay.to]));
    }
    ends.values_mut().for_each(|ends| ends.sort_unstable());
    let end = |stay: &Stay| match stay.arrives {
        Arrival::Stay { from, .. } if passes(&all[from]) => all[from].from,
        Arrival::Stay { from, .. } if !all[from].forever => {
            let ends = ends.get(&stay.tensor).map_or(&[][..], Vec::as_slice);
            let used = stay.uses.first().map_or(i64::MIN, |p| *p as i64);
            let source = &all[from];
            // What is put aside behind a use comes back for one in front of it, or for the same, a step later.
            let made = if source.fed && used <= source.from { source.from - period } else { source.from };
            let before = match ends.partition_point(|to| *to < used).checked_sub(1) {
                Some(last) => ends[last] + 1,
                None if source.fed => ends.last().map_or(i64::MIN, |last| last - period + 1),
                None => i64::MIN,
            };
            before.max(made)
        }
        _ => i64::MIN,
    };
    all.iter().map(end).collect()
}
