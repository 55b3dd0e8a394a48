//! Bounds on stretches of a step: what must enter a memory between two of its tasks.

use super::facts::{operands, room, tasks};
use super::index::{Index, Unit, lower};
use crate::program::{Access, Bound, Mode};
use crate::target::{LinkState, Target};
use crate::units::{Bytes, BytesPerSec};
use std::collections::BTreeMap;

/// Starts of windows that are looked at: the task that holds most in each of so many stretches of equal length.
const STARTS: usize = 64;

/// One body's runs on the only engine of a tier, in order.
struct Runs<'a, 'p> {
    index: &'a Index<'p>,
    unit: &'a Unit<'a>,
    tasks: Vec<usize>,
    /// Weights and states that tasks read whole and that must cross a link for that, with their bytes; and where each task's
    /// begin.
    weights: Vec<(usize, u64)>,
    begins: Vec<usize>,
    room: u64,
    looped: bool,
}

impl<'a, 'p> Runs<'a, 'p> {
    /// Nothing where the order of the tier's tasks is not written down, or its engine reads other tiers in place.
    fn of(index: &'a Index<'p>, body: &str, tier: &str) -> Option<Runs<'a, 'p>> {
        let mut engines = index.target.engines.iter().filter(|e| e.tier == tier);
        if !engines.next().is_some_and(|e| e.reads.is_empty()) || engines.next().is_some() {
            return None;
        }
        let (unit, tasks) = tasks(index, body, tier)?;
        let room = room(index, tier)?;
        let (mut weights, mut begins) = (Vec::new(), vec![0]);
        for task in &tasks {
            let accesses = index.program.tasks[*task].accesses.iter().zip(&index.task_tensors[*task]);
            let whole = accesses.filter(|(a, _)| matches!(a, Access::Read(_))).map(|(_, t)| *t);
            let crosses = whole.filter(|t| index.comes[*t]);
            weights.extend(crosses.map(|t| (t, lower(&index.program.tensors[t].bytes, &unit.ranges))));
            begins.push(weights.len());
        }
        Some(Runs { index, unit, tasks, weights, begins, room, looped: index.program.header.mode == Mode::Loop })
    }

    /// The weights of the task at a position.
    fn weights(&self, position: usize) -> &[(usize, u64)] {
        &self.weights[self.begins[position]..self.begins[position + 1]]
    }

    /// What can be there of weights when a task starts.
    fn beside(&self, task: usize) -> u64 {
        self.room.saturating_sub(operands(self.index, self.unit, task, false))
    }

    /// Positions from one on, around the edge of the step where it repeats: all but the first again.
    fn onwards(&self, from: usize) -> impl Iterator<Item = usize> + '_ {
        let around = if self.looped { from } else { 0 };
        (from..self.tasks.len()).chain(0..around)
    }

    /// Bytes that must enter between the start of the task at one position and that of the task at another.
    fn entering(&self, from: usize, to: usize) -> u64 {
        let mut seen = vec![false; self.index.program.tensors.len()];
        let mut bytes = 0u64;
        for position in self.onwards(from) {
            for (tensor, size) in self.weights(position) {
                if !std::mem::replace(&mut seen[*tensor], true) {
                    bytes = bytes.saturating_add(*size);
                }
            }
            if position == to {
                return bytes.saturating_sub(self.beside(self.tasks[from]));
            }
        }
        0
    }

    /// The window from a position on in which the engine must wait longest, with that time in nanoseconds.
    fn longest(&self, from: usize, rate: BytesPerSec, seen: &mut [usize], turn: usize) -> Option<(u64, Window)> {
        let beside = self.beside(self.tasks[from]);
        let (mut bytes, mut work) = (0u64, 0u64);
        let mut best: Option<(u64, Window)> = None;
        for (length, position) in self.onwards(from).enumerate() {
            for (tensor, size) in self.weights(position) {
                if std::mem::replace(&mut seen[*tensor], turn) != turn {
                    bytes = bytes.saturating_add(*size);
                }
            }
            let entering = bytes.saturating_sub(beside);
            let wait = Bytes(entering).at(rate).0.saturating_sub(work);
            if length > 0 && wait > best.as_ref().map_or(0, |(most, _)| *most) {
                best = Some((wait, Window { from, to: position, bytes: entering }));
            }
            work = work.saturating_add(self.index.program.tasks[self.tasks[position]].cost.0);
        }
        best
    }
}

struct Window {
    from: usize,
    to: usize,
    bytes: u64,
}

impl Window {
    /// Whether two windows of a step of so many positions share time.
    fn meets(&self, other: &Window, positions: usize) -> bool {
        let inside =
            |w: &Window, p: usize| (p + positions - w.from) % positions < (w.to + positions - w.from) % positions;
        inside(self, other.from) || inside(other, self.from)
    }
}

/// What a window's bound is by its tasks.
pub(super) fn witness(index: &Index, body: &str, tier: &str, at: &str, to: &str) -> Option<u64> {
    let runs = Runs::of(index, body, tier)?;
    let find = |name: &str| runs.tasks.iter().position(|t| index.program.tasks[*t].name == name);
    let (from, to) = (find(at)?, find(to)?);
    (from != to).then(|| runs.entering(from, to))
}

/// Windows that share no time, those in which the engine waits longest first; none where the step takes as long for the
/// bytes that it needs in all.
pub(super) fn bounds(index: &Index, body: &str, tier: &str, in_all: u64) -> Vec<Bound> {
    let (Some(runs), rate) = (Runs::of(index, body, tier), rate_into(index.target, tier)) else { return Vec::new() };
    if rate.0 == 0 || runs.tasks.is_empty() {
        return Vec::new();
    }
    let mut seen = vec![0; index.program.tensors.len()];
    let stretch = runs.tasks.len().div_ceil(STARTS);
    let held = |p: &usize| operands(index, runs.unit, runs.tasks[*p], false);
    let starts = (0..runs.tasks.len()).step_by(stretch);
    let starts = starts.filter_map(|p| (p..(p + stretch).min(runs.tasks.len())).max_by_key(held));
    let mut found: Vec<(u64, Window)> =
        starts.enumerate().filter_map(|(n, start)| runs.longest(start, rate, &mut seen, n + 1)).collect();
    found.sort_by_key(|(wait, window)| (std::cmp::Reverse(*wait), window.from));
    let mut kept: Vec<Window> = Vec::new();
    let mut time: u64 = runs.tasks.iter().map(|t| index.program.tasks[*t].cost.0).fold(0, u64::saturating_add);
    for (wait, window) in found {
        if !kept.iter().any(|w| w.meets(&window, runs.tasks.len())) {
            kept.push(window);
            time = time.saturating_add(wait);
        }
    }
    if time <= Bytes(in_all).at(rate).0 {
        return Vec::new();
    }
    let name = |position: usize| index.program.tasks[runs.tasks[position]].name.clone();
    let (body, tier) = (body.to_owned(), tier.to_owned());
    let bound = |w: &Window| Bound::Window {
        body: body.clone(),
        tier: tier.clone(),
        bytes: w.bytes,
        at: name(w.from),
        to: name(w.to),
    };
    kept.iter().map(bound).collect()
}

/// The rate at which bytes can enter a tier over all links that work; links of one group have that of the fastest.
fn rate_into(target: &Target, tier: &str) -> BytesPerSec {
    let mut groups: BTreeMap<&str, u64> = BTreeMap::new();
    for link in target.links.iter().filter(|l| l.to == tier && l.state != LinkState::Cut) {
        let rate = groups.entry(link.group.as_deref().unwrap_or(&link.name)).or_default();
        *rate = link.present_rate().0.max(*rate);
    }
    BytesPerSec(groups.values().fold(0, |sum, rate| sum.saturating_add(*rate)))
}
