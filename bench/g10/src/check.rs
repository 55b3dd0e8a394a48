//! Checks a schedule strictly, from the lifetimes, the target and the schedule alone; it shares no code with the planner.
//!
//! A kernel starts when all that it needs is whole on the device. Bytes in flight occupy both ends for the whole copy. No
//! link moves two copies at once or faster than it can, no group more than its fastest link. No memory is overfull. Bytes
//! are copied from where they are, and are all back at the next use, so a step ends as it began.

use berth_compiler::spill::{Copy, Schedule};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Kind;
use berth_ir::target::Target;
use std::collections::{BTreeMap, BTreeSet};

/// What a valid schedule comes to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Bytes over each link in a step, in the order of the target.
    pub bytes: Vec<u64>,
    /// The most bytes at once by tier.
    pub peaks: BTreeMap<String, u64>,
}

/// What happens at a time, in a step that repeats: an amount more or less of something.
#[derive(Default)]
struct Curve {
    changes: Vec<(u64, i128)>,
    /// What is there at the start of a step, from steps before.
    base: i128,
}

impl Curve {
    /// Adds an amount from one time to another, from the start of a step; it may last beyond the step.
    fn add(&mut self, from: u64, to: u64, amount: i128, step: u64) {
        // Each whole step that it lasts is once more at all times; the rest wraps around the end.
        let whole = (to - from) / step;
        self.base += amount * i128::from(whole);
        let (from, to) = (from % step, to % step);
        self.changes.push((from, amount));
        self.changes.push((to, -amount));
        if to < from {
            self.base += amount;
        }
    }

    /// The greatest sum; at one time, what ends goes first.
    fn peak(mut self) -> i128 {
        self.changes.sort_unstable();
        let mut sum = self.base;
        let sums = self.changes.into_iter().map(|(_, change)| {
            sum += change;
            sum
        });
        sums.fold(self.base, i128::max)
    }
}

/// Everything that is wrong, or what it comes to.
pub fn check(lifetimes: &Lifetimes, target: &Target, schedule: &Schedule, piece: u64) -> Result<Tally, Vec<String>> {
    let mut wrong = Vec::new();
    tasks(lifetimes, schedule, &mut wrong);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    links(target, schedule, piece, &mut wrong);
    contents(lifetimes, target, schedule, &mut wrong);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let tally = Tally { bytes: traffic(target, schedule), peaks: memories(lifetimes, target, schedule) };
    for tier in &target.tiers {
        let peak = tally.peaks.get(&tier.name).copied().unwrap_or(0);
        if peak > tier.room().0 && !tier.files {
            wrong.push(format!("{} holds {peak} bytes and has room for {}", tier.name, tier.room().0));
        }
    }
    if wrong.is_empty() { Ok(tally) } else { Err(wrong) }
}

/// One at a time, in order, each for as long as it takes, within the step.
fn tasks(lifetimes: &Lifetimes, schedule: &Schedule, wrong: &mut Vec<String>) {
    if schedule.starts.len() != lifetimes.tasks.len() || schedule.step.0 == 0 {
        return wrong.push("not every task has a start, or the step has no length".into());
    }
    let first = schedule.starts.first().map_or(0, |s| s.0);
    let nexts = schedule.starts.iter().skip(1).map(|s| s.0).chain([schedule.step.0 + first]);
    for ((task, start), next) in lifetimes.tasks.iter().zip(&schedule.starts).zip(nexts) {
        if start.0 + task.cost.0 > next {
            wrong.push(format!("{} runs when the next task starts", task.name));
        }
    }
}

fn traffic(target: &Target, schedule: &Schedule) -> Vec<u64> {
    let mut bytes = vec![0; target.links.len()];
    for copy in &schedule.copies {
        if let Some(link) = copy.link {
            bytes[link] += copy.bytes;
        }
    }
    bytes
}

/// Rates and turns.
fn links(target: &Target, schedule: &Schedule, piece: u64, wrong: &mut Vec<String>) {
    let mut rates: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (index, link) in target.links.iter().enumerate() {
        rates.entry(link.group.as_deref().unwrap_or(&link.name)).or_default().insert(index);
    }
    let step = schedule.step.0;
    for copy in &schedule.copies {
        let Some(index) = copy.link else { continue };
        let Some(link) = target.links.get(index) else {
            wrong.push(format!("there is no link {index}"));
            continue;
        };
        let least = u128::from(copy.bytes) * 1_000_000_000 / u128::from(link.present_rate().0.max(1));
        let taken = copy.end.0.saturating_sub(copy.start.0).saturating_sub(link.latency.0 + link.submit.0);
        if u128::from(taken) < least || copy.bytes == 0 || copy.bytes > piece {
            wrong.push(format!("a copy of {} bytes over {} takes {taken} ns", copy.bytes, link.name));
        }
    }
    if !wrong.is_empty() {
        return;
    }
    for (group, members) in rates {
        let capacity = members.iter().map(|l| target.links[*l].present_rate().0).max().unwrap_or(0);
        let mut sum = Curve::default();
        for index in &members {
            let link = &target.links[*index];
            let mut turns = Curve::default();
            for copy in schedule.copies.iter().filter(|c| c.link == Some(*index)) {
                // For as long as it occupies the link; bytes a second, in millionths, rounded down.
                let (from, to) = (copy.start.0 + link.submit.0, copy.end.0 - link.latency.0);
                let rate = u128::from(copy.bytes) * 1_000_000_000_000_000 / u128::from((to - from).max(1));
                sum.add(from, to, rate as i128, step);
                turns.add(copy.start.0, to, 1, step);
            }
            if turns.peak() > 1 {
                wrong.push(format!("{} moves two copies at once", link.name));
            }
        }
        if sum.peak() > i128::from(capacity) * 1_000_000 {
            wrong.push(format!("{group} moves more than its {capacity} bytes a second"));
        }
    }
}

/// Gap by gap: bytes come from where they are, after the use before, and are back by the next.
fn contents(lifetimes: &Lifetimes, target: &Target, schedule: &Schedule, wrong: &mut Vec<String>) {
    let uses = lifetimes.uses();
    let mut gaps: BTreeMap<(TensorId, usize), Vec<&Copy>> = BTreeMap::new();
    for copy in &schedule.copies {
        gaps.entry((copy.tensor, copy.gap)).or_default().push(copy);
    }
    for ((tensor, gap), mut copies) in gaps {
        let Some(t) = lifetimes.tensors.get(tensor.index()) else {
            wrong.push(format!("there is no tensor {}", tensor.0));
            continue;
        };
        let uses = &uses[tensor.index()];
        let lasts = matches!(t.kind, Kind::State | Kind::Weight);
        let next = uses.get(gap + 1).map(|p| schedule.starts[*p].0);
        let edge = uses.first().filter(|_| lasts && gap + 1 == uses.len());
        let next = next.or(edge.map(|p| schedule.starts[*p].0 + schedule.step.0));
        let (Some(before), Some(next)) = (uses.get(gap), next) else {
            wrong.push(format!("{} has no gap {gap}", t.name));
            continue;
        };
        let ended = schedule.starts[*before].0 + lifetimes.tasks[*before].cost.0;
        copies.sort_by_key(|c| (c.start, c.end));
        let device = target.device();
        let mut held = BTreeMap::from([(device, i128::from(t.bytes))]);
        let mut flying: Vec<(u64, &str, u64)> = Vec::new();
        for copy in copies {
            if copy.start.0 < ended || copy.end.0 > next {
                wrong.push(format!("{} is moved while it is used, in gap {gap}", t.name));
            }
            let link = copy.link.map(|l| &target.links[l]);
            let home = t.home.as_ref().filter(|_| t.kind == Kind::Weight).map(|h| h.tier.as_str());
            let ends = link.map(|l| (l.from.as_str(), l.to.as_str())).or(home.map(|h| (device, h)));
            let Some((from, to)) = ends else {
                wrong.push(format!("{} is dropped and has no home", t.name));
                continue;
            };
            let (there, still): (Vec<_>, Vec<_>) = flying.into_iter().partition(|f| f.0 <= copy.start.0);
            flying = still;
            there.into_iter().for_each(|(_, tier, bytes)| *held.entry(tier).or_insert(0) += i128::from(bytes));
            let source = held.entry(from).or_insert(0);
            *source -= i128::from(copy.bytes);
            if *source < 0 {
                wrong.push(format!("{} is read from {from} where it is not, in gap {gap}", t.name));
            }
            flying.push((copy.end.0, to, copy.bytes));
        }
        flying.into_iter().for_each(|(_, tier, bytes)| *held.entry(tier).or_insert(0) += i128::from(bytes));
        if held.get(device) != Some(&i128::from(t.bytes)) {
            wrong.push(format!("{} is not all back at the end of gap {gap}", t.name));
        }
    }
}

/// The most that each tier holds at once.
fn memories(lifetimes: &Lifetimes, target: &Target, schedule: &Schedule) -> BTreeMap<String, u64> {
    let step = schedule.step.0;
    let mut curves: BTreeMap<&str, Curve> = target.tiers.iter().map(|t| (t.name.as_str(), Curve::default())).collect();
    let device = target.device();
    let uses = lifetimes.uses();
    let ends = |p: usize| schedule.starts[p].0 + lifetimes.tasks[p].cost.0;
    let on_device = |curves: &mut BTreeMap<&str, Curve>, from: u64, to: u64, amount: i128| {
        if let Some(curve) = curves.get_mut(device) {
            curve.add(from, to, amount, step);
        }
    };
    for (t, uses) in lifetimes.tensors.iter().zip(uses.iter()) {
        let (Some(first), Some(last)) = (uses.first(), uses.last()) else { continue };
        match t.kind {
            Kind::State | Kind::Weight => on_device(&mut curves, 0, step, i128::from(t.bytes)),
            _ => on_device(&mut curves, schedule.starts[*first].0, ends(*last), i128::from(t.bytes)),
        }
    }
    for (p, task) in lifetimes.tasks.iter().enumerate().filter(|(_, t)| t.workspace > 0) {
        on_device(&mut curves, schedule.starts[p].0, ends(p), i128::from(task.workspace));
    }
    // Each gap: what has left is away from the end of its copy until the start of that which brings it back.
    for copy in &schedule.copies {
        let t = lifetimes.tensor(copy.tensor);
        let uses = &uses[copy.tensor.index()];
        let next = uses.get(copy.gap + 1).map_or(step + schedule.starts[uses[0]].0, |p| schedule.starts[*p].0);
        let link = copy.link.map(|l| &target.links[l]);
        let home = t.home.as_ref().filter(|_| t.kind == Kind::Weight).map_or("", |h| h.tier.as_str());
        let (from, to) = link.map_or((device, home), |l| (l.from.as_str(), l.to.as_str()));
        // What a tier holds of it: from the start of a copy to it, until the end of the copy from it, both before `next`.
        let bytes = i128::from(copy.bytes);
        if from == device {
            on_device(&mut curves, copy.end.0, next, -bytes);
        } else if from != home
            && let Some(curve) = curves.get_mut(from)
        {
            curve.add(copy.end.0, next, -bytes, step);
        }
        if to == device {
            on_device(&mut curves, copy.start.0, next, bytes);
        } else if to != home
            && let Some(curve) = curves.get_mut(to)
        {
            curve.add(copy.start.0, next, bytes, step);
        }
    }
    let peaks = curves.into_iter().map(|(tier, curve)| (tier.to_owned(), curve.peak().max(0) as u64));
    peaks.collect()
}
