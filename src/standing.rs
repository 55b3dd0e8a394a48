//! This machine in the place of another: its links and tasks held to the other's times, all slowed down alike.
//!
//! Real bytes move and outputs are the model's. No link of this machine is as fast as some of others, and its cores are
//! slower than their devices, so everything takes so many times as long, and what is measured is divided by that.

use berth_compiler::cost::Cost;
use berth_ir::Target;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Program;
use berth_runtime_exec::executor::{Held, Pace};
use std::collections::BTreeMap;

/// What memory and disk of this machine are trusted to move in a second, with all that goes on beside.
const RATE: u64 = 500_000_000;

/// How many times as slow everything has to be, for tasks that were measured here.
pub fn slowness(target: &Target, lifetimes: &Lifetimes, measured: &BTreeMap<String, Cost>) -> u64 {
    let link = target.links.iter().map(|link| link.present_rate().0.div_ceil(RATE)).max().unwrap_or(1);
    let both = lifetimes.tasks.iter().filter_map(|task| Some((task.cost.0, measured.get(&task.name)?.time.0)));
    let (there, here) = both.fold((0, 0), |(there, here), (cost, time)| (there + cost, here + time));
    // Twice, as a machine that also moves bytes computes slower than one that is measured.
    link.max((2 * here).div_ceil(there.max(1))).max(1)
}

/// What a link is held to, so many times as slow.
pub fn held(target: &Target, name: &str, pace: Pace, times: u64) -> Pace {
    let Some(place) = target.links.iter().position(|link| link.name == name) else { return pace };
    let link = &target.links[place];
    let same = |other: &berth_ir::target::Link| other.group.is_some() && other.group == link.group;
    let group = target.links.iter().position(same).unwrap_or(place);
    let rate = (link.present_rate().0 / times).max(1);
    Pace { held: Some(Held { rate, latency: link.latency.0.saturating_mul(times), group }), ..pace }
}

/// The least that each task takes, so many times as slow.
pub fn tasks(program: &Program, times: u64) -> Vec<u64> {
    program.tasks.iter().map(|task| task.cost.0.saturating_mul(times)).collect()
}
