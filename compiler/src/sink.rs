//! Sends what the memory below the device has no room for to another one.
//!
//! Reads:    stays, machine.
//! Decides:  in which of several memories below a tensor lies that is put aside.
//! Promises: no memory is asked to hold more than its room as long as another takes it, but for fragments; where all fits in
//!           the first nothing changes.
//! Why:      memories below are filled in the order in which they give the device its bytes; what is wanted last can wait for a
//!           slower one (Belady 1966).

use crate::machine::Machine;
use crate::stay::{Arrival, Level, Stay, load_curve};
use std::cmp::Reverse;

/// Room that is left for fragments where something is sent on, as a part of all.
const FRAGMENTS_PART: u64 = 32;

/// Sends stays on, memory by memory.
pub fn sink(machine: &Machine, stays: &mut [Stay], positions: usize) {
    let levels: Vec<Level> = machine.below().collect();
    for pair in levels.windows(2) {
        send(machine, stays, positions, (pair[0], pair[1]));
    }
}

/// Sends on as few as do of those that are put aside longest.
fn send(machine: &Machine, stays: &mut [Stay], positions: usize, (from, to): (Level, Level)) {
    let (Some(tier), Some(_)) = (machine.tier(from), machine.from_device(to)) else { return };
    let over = |stays: &[Stay], room: u64| -> Vec<bool> {
        load_curve(stays, from, positions, tier.alignment).into_iter().map(|load| load > room).collect()
    };
    let room = tier.room().0;
    let high = over(stays, room);
    if !high.contains(&true) {
        return;
    }
    let room = room - room / FRAGMENTS_PART;
    let high = over(stays, room);
    let meets = |s: &Stay| s.spans(positions as i64).any(|(from, to)| high[from as usize..to as usize].contains(&true));
    // A task's result that it puts there itself stays; so does what an engine uses there.
    let moves =
        |s: &Stay| s.level == from && !s.forever && s.uses.is_empty() && matches!(s.arrives, Arrival::Stay { .. });
    let mut order: Vec<usize> = (0..stays.len()).filter(|i| moves(&stays[*i]) && meets(&stays[*i])).collect();
    order.sort_by_key(|i| (Reverse(stays[*i].to - stays[*i].from), *i));
    let (mut low, mut most) = (0, order.len());
    let put = |stays: &mut [Stay], count: usize| {
        order.iter().enumerate().for_each(|(n, i)| stays[*i].level = if n < count { to } else { from });
    };
    // Each that goes leaves more room.
    while low < most {
        let middle = low + (most - low) / 2;
        put(stays, middle);
        if over(stays, room).contains(&true) { low = middle + 1 } else { most = middle }
    }
    put(stays, low);
}
