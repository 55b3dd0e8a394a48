//! Demand LRU: what paging does.
//!
//! Reads:    lifetimes, target.
//! Decides:  when each weight comes and goes: it is brought when a task needs it, and the least recently used goes when
//!           there is no room.
//! Promises: a program that the verifier accepts; or nothing where it does not fit.
//! Why:      it is what happens where nobody plans.

use super::{ROOMS, Unfit};
use crate::machine::Machine;
use crate::made::{Plan, plan_choice, plan_stays};
use crate::residency::{Choice, stays};
use crate::stay::{Arrival, Level, Positions, Stay};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Target;
use std::collections::BTreeSet;

/// Weights are brought when a task needs them and the least recently used go when there is no room.
///
/// The cache holds whole tensors. What it holds follows from two passes over the step; the second, which starts as it
/// ends, is the loop. Where fragments keep the result from fitting, the cache is given less.
pub fn lru(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let machine = Machine::of(target).map_err(|_| Unfit::Room)?;
    let least = Choice { demand: true, ..Choice::least(lifetimes) };
    let rest = stays(lifetimes, &machine, &least);
    let rest: Vec<Stay> = rest
        .into_iter()
        .filter(|s| lifetimes.tensor(s.tensor).kind != Kind::Weight || s.arrives == Arrival::Scratch)
        .collect();
    let load = crate::stay::load_curve(&rest, Level::Device, lifetimes.tasks.len(), machine.device.alignment);
    let room = machine.device.room().0;
    for percent in ROOMS {
        let cached = cached(lifetimes, &machine, &load, (u128::from(room) * percent / 100) as u64);
        let mut all = rest.clone();
        all.extend(cached);
        if let Some(plan) = plan_stays(lifetimes, target, mode, through_lower(lifetimes, &machine, all)) {
            return Ok(plan);
        }
    }
    plan_choice(lifetimes, target, mode, &least).ok_or(Unfit::Room)
}

/// The stays of weights under LRU with this much room, of which `load` is taken by other tensors.
fn cached(lifetimes: &Lifetimes, machine: &Machine, load: &[u64], room: u64) -> Vec<Stay> {
    let period = lifetimes.tasks.len() as i64;
    let size = |t: TensorId| lifetimes.tensor(t).bytes.next_multiple_of(machine.device.alignment);
    // In the cache, least recently used first: tensor and the positions of its uses since it came, unrolled.
    let mut cache: Vec<(TensorId, Vec<i64>)> = Vec::new();
    let mut ended: Vec<(TensorId, Vec<i64>)> = Vec::new();
    for pass in 0..3 {
        for (position, task) in lifetimes.tasks.iter().enumerate() {
            let now = pass * period + position as i64;
            let wanted: Vec<TensorId> = task.operands().filter(|t| lifetimes.tensor(*t).kind == Kind::Weight).collect();
            for tensor in &wanted {
                let mut uses = match cache.iter().position(|(t, _)| t == tensor) {
                    Some(at) => cache.remove(at).1,
                    None => Vec::new(),
                };
                uses.push(now);
                cache.push((*tensor, uses));
            }
            let mut held: u64 = load[position] + cache.iter().map(|(t, _)| size(*t)).sum::<u64>();
            while held > room {
                let Some(oldest) = cache.iter().position(|(t, _)| !wanted.contains(t)) else { break };
                let gone = cache.remove(oldest);
                held -= size(gone.0);
                ended.push(gone);
            }
        }
    }
    ended.extend(cache);
    steady(lifetimes, &ended, period)
}

/// Residences of three passes as stays of the loop, which is the second pass. What came once and was there when the
/// next step wanted it never leaves; any other stay lies in one step: one that lasts over the edge is brought again,
/// which costs a tensor at most.
fn steady(lifetimes: &Lifetimes, residences: &[(TensorId, Vec<i64>)], period: i64) -> Vec<Stay> {
    let lasts = |uses: &[i64]| uses.first().zip(uses.last()).is_some_and(|(a, b)| *a < period && b - a >= period);
    let forever: BTreeSet<TensorId> = residences.iter().filter(|(_, u)| lasts(u)).map(|(t, _)| *t).collect();
    let all_uses = lifetimes.uses();
    let stay = |tensor: TensorId, forever: bool, from: i64, to: i64, uses: Vec<usize>| Stay {
        tensor,
        level: Level::Device,
        from,
        to,
        forever,
        stage: false,
        arrives: Arrival::Home { demand: true },
        uses: uses.into(),
        fed: false,
        fetched: false,
        bytes: lifetimes.tensor(tensor).bytes,
        part: None,
    };
    let kept = forever.iter().map(|t| stay(*t, true, 0, period - 1, all_uses[t.index()].to_vec()));
    let mut all: Vec<Stay> = kept.collect();
    for (tensor, uses) in residences.iter().filter(|(t, _)| !forever.contains(t)) {
        let inside: Vec<usize> =
            uses.iter().filter(|u| (period..2 * period).contains(*u)).map(|u| (u - period) as usize).collect();
        if let (Some(first), Some(last)) = (inside.first(), inside.last()) {
            all.push(stay(*tensor, false, *first as i64, *last as i64, inside));
        }
    }
    all
}

/// Where files do not reach the device, weights come from copies in the lower memory.
fn through_lower(lifetimes: &Lifetimes, machine: &Machine, mut all: Vec<Stay>) -> Vec<Stay> {
    if machine.home_to_device.is_some() {
        return all;
    }
    let mut below: std::collections::BTreeMap<TensorId, usize> = std::collections::BTreeMap::new();
    for i in 0..all.len() {
        if !matches!(all[i].arrives, Arrival::Home { .. }) || all[i].level.is_below() {
            continue;
        }
        let tensor = all[i].tensor;
        let from = *below.entry(tensor).or_insert_with(|| {
            let last = lifetimes.tasks.len() as i64 - 1;
            let arrives = Arrival::Home { demand: false };
            let kept = Stay {
                level: Level::Lower,
                forever: true,
                from: 0,
                to: last,
                uses: Positions::new(),
                arrives,
                ..all[i].clone()
            };
            all.push(kept);
            all.len() - 1
        });
        all[i].arrives = Arrival::Stay { from, demand: true };
    }
    all
}
