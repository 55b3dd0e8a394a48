//! Gives what engines keep for tasks its place: behind the berths of the device, from the first step to the last.
//!
//! Reads:    lifetimes, the target as it is budgeted.
//! Decides:  addresses of what is held: one behind the other, at the end of the device's arena.
//! Promises: berths are planned with what is left of the device, so none of them meets what is held, and each task's weights
//!           can be loaded beside all of it.
//! Why:      it never moves and never ends, so no other place would be better, and no search need know of it.

use crate::emit::with_facts;
use crate::hold::LINE;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{Held, Numerics, Program, Tensor};
use berth_ir::target::Target;
use berth_ir::units::Bytes;
use std::collections::BTreeSet;

/// Where something held may start: where a tensor may, and where the engine's blocks do.
pub(crate) fn grain(target: &Target) -> u64 {
    target.tier(target.device()).map_or(1, |tier| tier.alignment).max(LINE)
}

/// Bytes of the device that are held, each from an address where it may start.
pub fn bytes(lifetimes: &Lifetimes, target: &Target) -> u64 {
    let grain = grain(target);
    let held = lifetimes.tasks.iter().filter_map(|task| task.held.as_ref());
    held.map(|held| held.bytes.div_ceil(grain).saturating_mul(grain)).fold(0, u64::saturating_add)
}

/// What berths cannot have: what is held, and what loading one task takes beside that.
pub fn reserved(lifetimes: &Lifetimes, target: &Target) -> u64 {
    let loading = lifetimes.tasks.iter().filter_map(|task| Some(task.held.as_ref()?.loading)).max().unwrap_or(0);
    bytes(lifetimes, target).saturating_add(loading)
}

/// What the device must have for so many bytes of berths, all that is held, and room to load it.
pub fn with_berths(bytes: u64, lifetimes: &Lifetimes, target: &Target) -> u64 {
    if nothing(lifetimes) {
        return bytes;
    }
    // What is held starts on a grain behind the berths.
    let berths = bytes.checked_next_multiple_of(grain(target)).unwrap_or(u64::MAX);
    berths.saturating_add(reserved(lifetimes, target))
}

/// Whether no engine keeps anything: even weights of no bytes have their place.
fn nothing(lifetimes: &Lifetimes) -> bool {
    lifetimes.tasks.iter().all(|task| task.held.is_none())
}

/// The target with what is left of it for berths; nothing where nothing is held.
pub fn beside(lifetimes: &Lifetimes, target: &Target) -> Option<Target> {
    if nothing(lifetimes) {
        return None;
    }
    let reserved = reserved(lifetimes, target);
    let (device, grain) = (target.device().to_owned(), grain(target));
    let mut beside = target.clone();
    for tier in beside.tiers.iter_mut().filter(|tier| tier.name == device) {
        // Berths may end anywhere; what is held starts on a grain behind them.
        tier.budget = Some(Bytes(tier.room().0.saturating_sub(reserved) / grain * grain));
    }
    Some(beside)
}

/// A program that was planned beside what is held, with it.
pub fn placed(mut program: Program, lifetimes: &Lifetimes, target: &Target) -> Program {
    let grain = grain(target);
    let known: BTreeSet<String> = program.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    let Some(arena) = program.arenas.iter_mut().find(|arena| arena.tier == target.device()) else { return program };
    let mut end = arena.bytes.next_multiple_of(grain);
    let mut weights = BTreeSet::new();
    for (task, of) in program.tasks.iter_mut().zip(&lifetimes.tasks) {
        let Some(held) = &of.held else { continue };
        let names = held.weights.iter().map(|weight| lifetimes.tensor(*weight).name.clone()).collect();
        task.held = Some(Held { weights: names, arena: arena.tier.clone(), offset: end, bytes: held.bytes });
        end += held.bytes.div_ceil(grain).saturating_mul(grain);
        weights.extend(&held.weights);
    }
    arena.bytes = end;
    let tensors = weights.iter().map(|weight| lifetimes.tensor(*weight)).filter(|t| !known.contains(&t.name));
    program.tensors.extend(tensors.map(|t| Tensor {
        name: t.name.clone(),
        kind: t.kind,
        dtype: t.dtype,
        bytes: t.extent.clone(),
        home: t.home.clone(),
    }));
    program.header.numerics = Numerics::Fast;
    program.header.memory = crate::emit::budgets(target);
    with_facts(target, program)
}
