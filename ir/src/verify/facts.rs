//! Rules 15 and 16: facts are counted again, and the witness of each bound is worked out again.

use super::index::{Act, Index, Role, Unit, lower};
use super::violation::Violation;
use super::{held, windows};
use crate::program::{Access, Bound, Facts, Kind, Mode, Traffic};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn check(index: &Index, found: &mut BTreeSet<Violation>) {
    let says = &index.program.facts;
    let counted = count(index);
    compare("calls of ", &says.calls, &counted.calls, found);
    compare("peak of ", &says.peaks, &counted.peaks, found);
    compare("traffic of ", &by_part_and_link(says), &by_part_and_link(&counted), found);
    for bound in &says.bounds {
        let (Bound::Traffic { body, tier, bytes, at }
        | Bound::Window { body, tier, bytes, at, .. }
        | Bound::Room { body, tier, bytes, at }) = bound;
        let witness = match bound {
            Bound::Traffic { .. } => traffic_witness(index, body, tier, at),
            Bound::Window { to, .. } => windows::witness(index, body, tier, at, to),
            Bound::Room { .. } => room_witness(index, body, tier, at),
        };
        if witness != Some(*bytes) {
            let (body, at, witness) = (body.clone(), at.clone(), witness.unwrap_or(0));
            found.insert(Violation::Bound { body, at, says: *bytes, witness });
        }
    }
}

fn compare(what: &str, says: &BTreeMap<String, u64>, counted: &BTreeMap<String, u64>, found: &mut BTreeSet<Violation>) {
    for name in says.keys().chain(counted.keys()) {
        let (says, counted) = (says.get(name).copied().unwrap_or(0), counted.get(name).copied().unwrap_or(0));
        if says != counted {
            found.insert(Violation::Fact { fact: format!("{what}{name}"), says, counted });
        }
    }
}

fn by_part_and_link(facts: &Facts) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for t in &facts.traffic {
        let part = if t.part.is_empty() { "the prologue" } else { &t.part };
        let bytes = all.entry(format!("{} in {part}", t.link)).or_insert(0u64);
        *bytes = bytes.saturating_add(t.bytes);
    }
    all
}

/// Everything that can be counted; no bounds.
pub(super) fn count(index: &Index) -> Facts {
    let mut facts = Facts::default();
    let mut traffic: BTreeMap<(usize, usize), u64> = BTreeMap::new();
    for (u, unit) in index.units.iter().enumerate() {
        let mut calls = 0;
        for ix in &unit.code {
            match &ix.act {
                Act::Copy { link, bytes, .. } => {
                    let slot = traffic.entry((u, *link)).or_default();
                    *slot = slot.saturating_add(*bytes);
                }
                Act::Run { .. } => calls += 1,
                Act::Feed(_) | Act::Fetch(_) => {}
            }
        }
        if matches!(unit.role, Role::Body(_)) {
            facts.calls.insert(unit.name.to_owned(), calls);
        }
    }
    for ((unit, link), bytes) in traffic {
        let (part, link) = (index.units[unit].name.to_owned(), index.target.links[link].name.clone());
        facts.traffic.push(Traffic { part, link, bytes });
    }
    for a in &index.program.arenas {
        facts.peaks.insert(a.tier.clone(), 0);
    }
    for berth in &index.berths {
        let tier = &index.program.arenas[berth.arena].tier;
        if let Some(peak) = facts.peaks.get_mut(tier) {
            *peak = berth.end.max(*peak);
        }
    }
    for held in index.program.tasks.iter().filter_map(|task| task.held.as_ref()) {
        if let Some(peak) = facts.peaks.get_mut(&held.arena) {
            *peak = held.offset.saturating_add(held.bytes).max(*peak);
        }
    }
    facts
}

/// The tasks that a body runs on engines that compute in a tier.
pub(super) fn tasks<'a>(index: &'a Index, body: &str, tier: &str) -> Option<(&'a Unit<'a>, Vec<usize>)> {
    let unit = index.units.iter().find(|u| matches!(u.role, Role::Body(_)) && u.name == body)?;
    let runs = unit.code.iter().filter_map(|ix| match ix.act {
        Act::Run { task, .. } if index.target.engines[index.task_engine[task]].tier == tier => Some(task),
        _ => None,
    });
    Some((unit, runs.collect()))
}

/// Least bytes of its engine's tier that a task needs at once, at the lower end of the dims: all, or all but weights and what
/// comes as they do.
///
/// Counted are workspace and what it writes and, unless the engine reads other tiers in place, what it reads whole. What
/// may be written in place counts only by what it is larger.
pub(super) fn operands(index: &Index, unit: &Unit, task: usize, all: bool) -> u64 {
    let t = &index.program.tasks[task];
    let elsewhere = !index.target.engines[index.task_engine[task]].reads.is_empty();
    let bytes = |access: usize| lower(&index.program.tensors[index.task_tensors[task][access]].bytes, &unit.ranges);
    let mut seen = BTreeSet::new();
    let mut sum = t.workspace;
    for (i, access) in t.accesses.iter().enumerate() {
        let tensor = index.task_tensors[task][i];
        let there = match access {
            Access::Read(_) => {
                !elsewhere && (all || (index.program.tensors[tensor].kind != Kind::Weight && !index.comes[tensor]))
            }
            Access::ReadRows(_) => false,
            Access::Append(_) => all || !index.comes[tensor],
            Access::Write(_) => true,
        };
        if there && seen.insert((tensor, access.writes())) {
            let over = t.in_place.iter().filter(|(r, w)| !elsewhere && *w == i && *r < t.accesses.len());
            sum = sum.saturating_add(bytes(i).saturating_sub(over.map(|(r, _)| bytes(*r)).max().unwrap_or(0)));
        }
    }
    sum
}

/// Weights, and states, that tasks of this tier read whole must be there during the step. When task `at` runs, at most the room
/// less its other operands is theirs; the rest enters the tier between that instant of one step and of the next.
fn traffic_witness(index: &Index, body: &str, tier: &str, at: &str) -> Option<u64> {
    let (unit, tasks) = tasks(index, body, tier)?;
    let at = *tasks.iter().find(|t| index.program.tasks[**t].name == at)?;
    if !index.target.engines.iter().filter(|e| e.tier == tier).all(|e| e.reads.is_empty()) {
        // An engine that reads another tier in place need not have the bytes brought.
        return None;
    }
    let mut weights = BTreeSet::new();
    for task in tasks {
        let accesses = index.program.tasks[task].accesses.iter().zip(&index.task_tensors[task]);
        let whole = accesses.filter(|(a, _)| matches!(a, Access::Read(_))).map(|(_, t)| *t);
        weights.extend(whole.filter(|t| index.comes[*t]));
    }
    let sizes = weights.iter().map(|t| lower(&index.program.tensors[*t].bytes, &unit.ranges));
    let all = sizes.fold(0u64, u64::saturating_add);
    if index.program.header.mode == Mode::Once {
        return Some(all);
    }
    Some(all.saturating_add(operands(index, unit, at, false)).saturating_sub(room(index, tier)?))
}

/// A task's operands and workspace are in its engine's tier together.
fn room_witness(index: &Index, body: &str, tier: &str, at: &str) -> Option<u64> {
    let (unit, tasks) = tasks(index, body, tier)?;
    let at = *tasks.iter().find(|t| index.program.tasks[**t].name == at)?;
    Some(operands(index, unit, at, true).saturating_add(held::bytes(index, tier)))
}

/// What a tier has for berths.
pub(super) fn room(index: &Index, tier: &str) -> Option<u64> {
    Some(index.target.tier(tier)?.room().0.saturating_sub(held::bytes(index, tier)))
}

/// The best bounds that these witnesses can give, for each body and tier with an engine.
pub(super) fn bounds(index: &Index) -> Vec<Bound> {
    let mut all = Vec::new();
    for body in &index.program.bodies {
        let tiers: BTreeSet<&String> = index.target.engines.iter().map(|e| &e.tier).collect();
        for tier in tiers {
            let Some((unit, tasks)) = tasks(index, &body.name, tier) else { continue };
            // The first of the greatest: `max_by_key` takes the last, so go from the back.
            let greatest = |all| tasks.iter().rev().max_by_key(|t| operands(index, unit, **t, all));
            let (Some(traffic), Some(room)) = (greatest(false), greatest(true)) else { continue };
            let name = |task: &usize| index.program.tasks[*task].name.clone();
            let (body, tier) = (body.name.clone(), tier.clone());
            if let Some(bytes) = traffic_witness(index, &body, &tier, &name(traffic)) {
                all.push(Bound::Traffic { body: body.clone(), tier: tier.clone(), bytes, at: name(traffic) });
                all.extend(windows::bounds(index, &body, &tier, bytes));
            }
            if let Some(bytes) = room_witness(index, &body, &tier, &name(room)) {
                all.push(Bound::Room { body, tier, bytes, at: name(room) });
            }
        }
    }
    all
}
