//! Rounds a schedule in bytes to stays of whole tensors: another choice to try.
//!
//! Reads:    lifetimes, machine, the schedule that the planner of transfers finds for the room.
//! Decides:  what is absent for most of its bytes over a gap leaves it, what is not stays; bytes are reserved from when
//!           they first begin to return.
//! Promises: stays whose load fits the room at every task; or nothing.
//! Why:      the schedule knows when links are busy and room is short, which no window of bytes does; but a tensor that
//!           a program holds is whole.

use crate::machine::Machine;
use crate::residency::{Choice, stays};
use crate::spill::{Schedule, guide};
use crate::stay::{Arrival, Level, Stay, load_curve};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Kind;
use berth_ir::units::Bytes;
use std::collections::BTreeMap;

/// Parts of the room, in hundredths, that the schedule is given until what is rounded fits all of it.
const PARTS: [u64; 4] = [100, 97, 92, 85];

/// What a schedule says of one gap: bytes that leave, and when they begin to return.
#[derive(Clone, Copy, Default)]
struct Absence {
    bytes: u64,
    returns: Option<u64>,
}

/// A choice and its stays, as a schedule for this room has them.
pub fn guided(lifetimes: &Lifetimes, machine: &Machine, room: u64) -> Option<(Choice, Vec<Stay>)> {
    PARTS.iter().find_map(|part| {
        let mut target = machine.target.clone();
        target.tier_mut(&machine.device.name)?.budget =
            Some(Bytes((u128::from(room) * u128::from(*part) / 100) as u64));
        let schedule = guide(lifetimes, &target).ok()?;
        let absences = absences(machine, &schedule);
        let choice = choice(lifetimes, &absences);
        let mut all = stays(lifetimes, machine, &choice);
        reserve(&mut all, lifetimes, machine, &schedule, &absences);
        fit(&mut all, lifetimes, machine, room).then_some((choice, all))
    })
}

fn absences(machine: &Machine, schedule: &Schedule) -> BTreeMap<(TensorId, usize), Absence> {
    let mut absences: BTreeMap<(TensorId, usize), Absence> = BTreeMap::new();
    for copy in &schedule.copies {
        let link = copy.link.map(|l| &machine.target.links[l]);
        let absence = absences.entry((copy.tensor, copy.gap)).or_default();
        if link.is_none_or(|l| l.from == machine.device.name) {
            absence.bytes += copy.bytes;
        } else if link.is_some_and(|l| l.to == machine.device.name) {
            absence.returns = Some(absence.returns.map_or(copy.start.0, |t| t.min(copy.start.0)));
        }
    }
    absences
}

/// A weight that is mostly there over all its gaps is pinned; others stay or leave gap by gap.
fn choice(lifetimes: &Lifetimes, absences: &BTreeMap<(TensorId, usize), Absence>) -> Choice {
    let mut choice = Choice::least(lifetimes);
    for (index, uses) in lifetimes.uses().iter().enumerate() {
        let tensor = TensorId(index as u32);
        let t = lifetimes.tensor(tensor);
        let gone = |gap: usize| absences.get(&(tensor, gap)).is_some_and(|a| a.bytes > t.bytes / 2);
        let inner = 0..uses.len().saturating_sub(1);
        if t.kind == Kind::Weight {
            choice.pinned[index] = !(0..uses.len()).any(gone);
            choice.kept.extend(inner.filter(|gap| !gone(*gap)).map(|gap| (tensor, gap)));
        } else {
            choice.aside.extend(inner.filter(|gap| gone(*gap)).map(|gap| (tensor, gap)));
        }
    }
    choice
}

/// Each stay of what returns begins when the schedule begins to bring it, sooner by what it brings less.
fn reserve(
    all: &mut [Stay],
    lifetimes: &Lifetimes,
    machine: &Machine,
    schedule: &Schedule,
    absences: &BTreeMap<(TensorId, usize), Absence>,
) {
    let period = lifetimes.tasks.len() as i64;
    let uses = lifetimes.uses();
    let rate = machine.rate_into_device();
    let mut ends: BTreeMap<TensorId, Vec<i64>> = BTreeMap::new();
    for stay in all.iter().filter(|s| s.level == Level::Device) {
        ends.entry(stay.tensor).or_default().push(stay.to);
    }
    for stay in all.iter_mut().filter(|s| s.level == Level::Device && !s.forever) {
        if !matches!(stay.arrives, Arrival::Home { .. } | Arrival::Stay { .. }) {
            continue;
        }
        let uses = &uses[stay.tensor.index()];
        let first = uses.iter().position(|p| *p == stay.uses[0]).unwrap_or(0);
        let (gap, edge) = if first == 0 { (uses.len() - 1, true) } else { (first - 1, false) };
        let Some(Absence { bytes, returns: Some(returns) }) = absences.get(&(stay.tensor, gap)).copied() else {
            continue;
        };
        let more = Bytes(stay.bytes.saturating_sub(bytes)).at(rate).0;
        let begins = returns.saturating_sub(more);
        let (begins, turn) = match edge {
            true if begins < schedule.step.0 => (begins, period),
            true => (begins - schedule.step.0, 0),
            false => (begins, 0),
        };
        let running = schedule.starts.partition_point(|s| s.0 <= begins) as i64 - 1 - turn;
        // Not while it is still there from before.
        let before = ends[&stay.tensor].iter().map(|to| if *to < stay.uses[0] as i64 { *to } else { *to - period });
        let earliest = before.max().unwrap_or(stay.uses[0] as i64 - period) + 1;
        stay.from = running.max(earliest).min(stay.uses[0] as i64);
    }
}

/// While more is held at a task than fits, what waits there for the latest use comes behind it; says whether all fits.
fn fit(all: &mut [Stay], lifetimes: &Lifetimes, machine: &Machine, room: u64) -> bool {
    let period = lifetimes.tasks.len();
    for _ in 0..all.len() {
        let load = load_curve(all, Level::Device, period, machine.device.alignment);
        let Some(over) = load.iter().position(|l| *l > room) else { return true };
        let mut excess = load[over] - room;
        let mut waiting: Vec<(i64, usize)> = Vec::new();
        for (index, stay) in all.iter().enumerate().filter(|(_, s)| s.level == Level::Device && !s.forever) {
            let Some(first) = stay.uses.first().map(|p| *p as i64) else { continue };
            for at in [over as i64, over as i64 - period as i64] {
                if stay.from <= at && at < first {
                    waiting.push((first - at, index));
                }
            }
        }
        waiting.sort_unstable();
        if waiting.is_empty() {
            return false;
        }
        while let (true, Some((ahead, index))) = (excess > 0, waiting.pop()) {
            let stay = &mut all[index];
            stay.from = stay.uses[0] as i64 - ahead + 1;
            excess = excess.saturating_sub(stay.bytes);
        }
    }
    false
}
