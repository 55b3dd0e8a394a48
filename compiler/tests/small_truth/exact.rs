//! The least time of a step of any program: which weights stay between which uses, and where everything lies, in all ways.
//! An address is the same in every step; bytes come when they are free, those first that are used first.

use super::{COUNTED, Instance, LEAD_IN};
use std::cmp::Reverse;

/// What holds bytes from the start of one task to the end of another; behind the last task lie those of the next step.
#[derive(Clone, Copy)]
struct Hold {
    from: usize,
    to: usize,
    units: usize,
    /// It is brought before its first use; else a task writes it.
    comes: bool,
    forever: bool,
}

impl Hold {
    fn meets(&self, other: &Hold, period: usize) -> bool {
        let meet = |a: &Hold, b: &Hold, shift: usize| a.from <= b.to + shift && b.from + shift <= a.to;
        self.forever || other.forever || meet(self, other, 0) || meet(self, other, period) || meet(other, self, period)
    }
}

/// Slots of the counted steps of the best program. The search ends at `least`, below which there is none.
pub fn optimum(instance: &Instance, least: u64) -> u64 {
    let compute: u64 = instance.tasks.iter().map(|t| u64::from(t.1)).sum();
    let mut sets: Vec<(u64, Vec<Hold>)> = (0..1u32 << instance.tasks.len())
        .map(|set| {
            let holds = holds(instance, |task| set >> task & 1 == 1);
            let come = holds.iter().filter(|h| h.comes && !h.forever);
            (come.map(|h| h.units as u64).sum(), holds)
        })
        .collect();
    sets.sort_by_key(|(traffic, _)| *traffic);
    let mut best = u64::MAX;
    for (traffic, holds) in sets {
        if best > least && traffic.max(compute) * u64::from(COUNTED) < best {
            lay(instance, &holds, &mut Vec::new(), least, &mut best);
        }
    }
    best
}

/// What is held where a weight stays behind those of its uses for which `kept` says so; what never leaves first, then the
/// largest first.
fn holds(instance: &Instance, kept: impl Fn(usize) -> bool) -> Vec<Hold> {
    let period = instance.tasks.len();
    let mut all = Vec::new();
    for (weight, units) in instance.weights.iter().enumerate() {
        let uses: Vec<usize> = (0..period).filter(|t| instance.tasks[*t].0 == weight).collect();
        let units = usize::from(*units);
        if uses.iter().all(|t| kept(*t)) {
            all.push(Hold { from: 0, to: period - 1, units, comes: true, forever: true });
            continue;
        }
        let count = uses.len();
        for first in (0..count).filter(|n| !kept(uses[(n + count - 1) % count])) {
            let last = (first..).find(|n| !kept(uses[n % count])).unwrap_or(first);
            let to = uses[last % count] + last / count * period;
            all.push(Hold { from: uses[first], to, units, comes: true, forever: false });
        }
    }
    for (n, (_, _, units)) in instance.tasks.iter().enumerate().filter(|(_, t)| t.2 > 0) {
        let to = (n + 1).min(period - 1);
        all.push(Hold { from: n, to, units: usize::from(*units), comes: false, forever: false });
    }
    all.sort_by_key(|h| (!h.forever, Reverse(h.units), h.from));
    all
}

/// Lays down what is held from the `at.len()`th on, in all ways.
fn lay(instance: &Instance, holds: &[Hold], at: &mut Vec<usize>, least: u64, best: &mut u64) {
    let n = at.len();
    if n == holds.len() {
        *best = (*best).min(slots(instance, holds, at));
    }
    if n == holds.len() || *best <= least {
        return;
    }
    let period = instance.tasks.len();
    let (room, units) = (usize::from(instance.room), holds[n].units);
    for place in 0..(room + 1).saturating_sub(units) {
        let free = |m: &usize| {
            let apart = at[*m] + holds[*m].units <= place || place + units <= at[*m];
            apart || !holds[*m].meets(&holds[n], period)
        };
        if (0..n).all(|m| free(&m)) {
            at.push(place);
            lay(instance, holds, at, least, best);
            at.pop();
            if holds[n].forever {
                // What never leaves lies below, one behind the other.
                return;
            }
        }
    }
}

/// Slots of the counted steps with given addresses.
fn slots(instance: &Instance, holds: &[Hold], at: &[usize]) -> u64 {
    let period = instance.tasks.len();
    let steps = usize::from(LEAD_IN + COUNTED);
    let moving = || holds.iter().zip(at).filter(|(h, _)| !h.forever);
    // Of each unit in each step, by positions from the first step on: which task wants it, and before which its place is free.
    let mut units: Vec<(usize, usize)> = Vec::new();
    for (hold, place) in moving().filter(|(h, _)| h.comes) {
        for byte in *place..place + hold.units {
            let here = moving().filter(|(h, at)| (**at..**at + h.units).contains(&byte));
            // How many positions before its use the last one that had its place was used last.
            let before = here.map(|(h, _)| match hold.from > h.to {
                true => hold.from - h.to,
                false => (hold.from + 2 * period - h.to - 1) % period + 1,
            });
            let before = before.min().unwrap_or(usize::MAX);
            units.extend((0..=steps).map(|s| s * period + hold.from).map(|p| (p, (p + 1).saturating_sub(before))));
        }
    }
    units.sort_unstable();
    let (mut position, mut left, mut slot, mut lead) = (0, 0, 0, 0);
    loop {
        if left == 0 && units.first().is_none_or(|(wanted, _)| *wanted > position) {
            left = instance.tasks[position % period].1;
        }
        let ahead = units.iter().take_while(|(wanted, _)| *wanted < position + 2 * period);
        if let Some(n) = ahead.into_iter().position(|(_, free)| *free <= position) {
            units.remove(n);
        }
        slot += 1;
        if left != 1 {
            left = left.saturating_sub(1);
            continue;
        }
        (left, position) = (0, position + 1);
        if position == usize::from(LEAD_IN) * period {
            lead = slot;
        }
        if position == steps * period {
            return slot - lead;
        }
    }
}
