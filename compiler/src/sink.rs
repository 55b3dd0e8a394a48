//! Sends what the memory below the device has no room for to another one.
//!
//! Reads:    stays, machine, when tasks begin.
//! Decides:  in which of several memories below a tensor lies that is put aside.
//! Promises: no memory is asked to hold more than its room as long as another takes it, but for fragments; where all fits in
//!           the first nothing changes.
//! Why:      memories below are filled in the order in which they give the device its bytes. To a slower one go what has the
//!           time for it, between its last use and when its place is taken and before it is wanted again, and of that what is
//!           away longest (Belady 1966).

use crate::machine::Machine;
use crate::stay::{Arrival, Level, Stay, load_curve};
use berth_ir::units::Bytes;
use std::cmp::Reverse;

/// Room that is left for fragments where something is sent on, as a part of all.
const FRAGMENTS_PART: u64 = 32;

/// Parts of the time that a slower link takes in which what a stay has time for is counted, and the most that counts.
const TIME_PARTS: u128 = 4;
const TIMES_MAX: u128 = 2;

/// Sends on what is away longest, memory by memory.
pub fn sink(machine: &Machine, stays: &mut [Stay], positions: usize) {
    let levels: Vec<Level> = machine.below().collect();
    for pair in levels.windows(2) {
        send(machine, stays, positions, None, (pair[0], pair[1]));
    }
}

/// The same, first what has the time for a slower link. `begins` says when the task at each position begins, and when the step
/// ends.
pub fn sink_with_time(machine: &Machine, stays: &mut [Stay], begins: &[u64]) {
    let levels: Vec<Level> = machine.below().collect();
    for pair in levels.windows(2) {
        send(machine, stays, begins.len() - 1, Some(begins), (pair[0], pair[1]));
    }
}

/// Sends on as few as do of those that have the time, and are put aside longest.
fn send(machine: &Machine, stays: &mut [Stay], positions: usize, begins: Option<&[u64]>, (from, to): (Level, Level)) {
    let (Some(tier), Some(link)) = (machine.tier(from), machine.from_device(to)) else { return };
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
    let time = begins.map_or(vec![0; stays.len()], |begins| spare(stays, begins));
    let parts = |i: usize| {
        let moving = u128::from(Bytes(stays[i].bytes).at(link.present_rate()).0.max(1));
        (u128::from(time[i]) * TIME_PARTS / moving).min(TIMES_MAX * TIME_PARTS)
    };
    let mut order: Vec<usize> = (0..stays.len()).filter(|i| moves(&stays[*i]) && meets(&stays[*i])).collect();
    order.sort_by_key(|i| (Reverse(parts(*i)), Reverse(stays[*i].to - stays[*i].from), *i));
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

/// For each stay the time that copies to it and from it have: while its source keeps its place behind its last use, and from when
/// on what is copied from it has its own, before it is used.
fn spare(stays: &[Stay], begins: &[u64]) -> Vec<u64> {
    let period = begins.len() as i64 - 1;
    let at = |position: i64| {
        let step = i128::from(begins[period as usize]);
        step * i128::from(position.div_euclid(period)) + i128::from(begins[position.rem_euclid(period) as usize])
    };
    let between = |from: i64, to: i64| u64::try_from(at(to) - at(from)).unwrap_or(0);
    let mut spare = vec![u64::MAX; stays.len()];
    for (i, stay) in stays.iter().enumerate() {
        let Arrival::Stay { from, .. } = stay.arrives else { continue };
        if stay.level == Level::Device {
            let before = stay.uses.first().map_or(0, |first| between(stay.from, *first as i64));
            spare[from] = spare[from].min(before);
        } else {
            let source = &stays[from];
            let behind = source.uses.iter().max().map_or(0, |last| between(*last as i64 + 1, source.to + 1));
            spare[i] = spare[i].min(behind);
        }
    }
    spare
}
