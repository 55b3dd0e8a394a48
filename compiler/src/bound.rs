//! The step time that nothing can beat, from the bounds in a program's facts.
//!
//! Reads:    target, program.
//! Decides:  which windows count: those that share no task, in the order in which the facts have them.
//! Promises: no program with these tasks, on these engines and in this order, has a shorter step.
//! Why:      a step takes what an engine computes, and what must cross a link; where much must cross between two tasks, the
//!           engine waits there, and such waits add up. What tasks touch and what comes in share the bandwidth of the device.

use crate::machine::Machine;
use crate::share::{coming, gives};
use crate::step::worked;
use berth_ir::program::{Bound, Instruction, Program};
use berth_ir::target::Target;
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use std::collections::{BTreeMap, HashMap};

/// A step time that nothing can beat, and what sets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeBound {
    /// The time.
    pub time: Nanos,
    /// Whether engines' work sets it, or bytes.
    pub by_compute: bool,
}

/// The step time that nothing can beat with the tasks on the engines that the program has them on: an engine's work, on the
/// device with the waits of windows that share no time, or the bytes that must come in, whichever takes longer.
pub fn bound(target: &Target, program: &Program) -> TimeBound {
    let Ok(machine) = Machine::of(target) else { return TimeBound::default() };
    let mut work = BTreeMap::new();
    for task in &program.tasks {
        let work = work.entry(task.engine.as_str()).or_insert(0u64);
        *work = work.saturating_add(task.cost.0);
    }
    let compute = work.values().copied().max().unwrap_or(0);
    let traffic = program.facts.bounds.iter().filter_map(|b| match b {
        Bound::Traffic { bytes, tier, .. } if *tier == machine.device.name => Some(Bytes(*bytes)),
        _ => None,
    });
    let bytes = traffic.max().unwrap_or(Bytes(0));
    let rate = machine.rate_into_device();
    let moving = bytes.at(rate);
    // What no memory below can hold either comes from files, in every step; and what those next to the device cannot, into them.
    let reading = Bytes(bytes.0.saturating_sub(machine.room_below())).at(machine.rate_from_files());
    let beside = Bytes(bytes.0.saturating_sub(machine.room_beside())).at(machine.rate_beside());
    let reading = reading.max(beside);
    let device = work.get(machine.engine).copied().unwrap_or(0);
    let waiting = device.saturating_add(waits(program, &machine.device.name, machine.engine, rate));
    let moving = waiting.max(moving.0).max(reading.0).max(crowded(target, program, &machine, bytes.0));
    TimeBound { time: Nanos(compute.max(moving)), by_compute: moving <= compute }
}

/// The time in which the device's memory gives its engine what tasks touch, and takes what must come in.
fn crowded(target: &Target, program: &Program, machine: &Machine, bytes: u64) -> u64 {
    let device = machine.device;
    let touched = worked(target, program, machine.engine, device.bandwidth.0);
    let all = (touched + coming(target, device, bytes)) * 1_000_000_000;
    u64::try_from(all.checked_div(gives(target, device)).unwrap_or(0)).unwrap_or(u64::MAX)
}

/// Time in which the engine of a tier waits in windows that share no task.
fn waits(program: &Program, tier: &str, engine: &str, rate: BytesPerSec) -> u64 {
    let here = program.tasks.iter().filter(|t| t.engine == engine);
    let costs: HashMap<&str, u64> = here.map(|t| (t.name.as_str(), t.cost.0)).collect();
    let mut all = 0u64;
    for body in program.bodies.iter().take(1) {
        let runs = body.code.iter().filter_map(|i| match i {
            Instruction::Run { task, .. } => Some(task.as_str()).filter(|t| costs.contains_key(t)),
            _ => None,
        });
        let runs: Vec<&str> = runs.collect();
        let mut taken = vec![false; runs.len()];
        for window in &program.facts.bounds {
            let Bound::Window { body: of, tier: enters, bytes, at, to } = window else { continue };
            let find = |name: &str| runs.iter().position(|r| r == &name);
            let (true, true, Some(at), Some(to)) = (*of == body.name, enters == tier, find(at), find(to)) else {
                continue;
            };
            let length = (to + runs.len() - at) % runs.len();
            let inside: Vec<usize> = (at..at + length).map(|p| p % runs.len()).collect();
            if inside.iter().any(|p| taken[*p]) {
                continue;
            }
            inside.iter().for_each(|p| taken[*p] = true);
            let work = inside.iter().map(|p| costs[runs[*p]]).fold(0, u64::saturating_add);
            // A nanosecond less: each window's time is rounded up.
            all = all.saturating_add(Bytes(*bytes).at(rate).0.saturating_sub(work.saturating_add(1)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_add_up_to_more_than_there_is_are_the_most_there_is() {
        let text = include_str!("../../golden/programs/loop_prefetch.ron");
        let mut program = berth_ir::text::parse(text).expect("it reads");
        let body = &program.bodies[0];
        let runs = body.code.iter().filter_map(|i| match i {
            Instruction::Run { task, .. } => Some(task.clone()),
            _ => None,
        });
        let (body, runs) = (body.name.clone(), runs.collect::<Vec<_>>());
        assert!(runs.len() >= 3, "the window has two tasks at least");
        // Two of them are 2^64, and nothing if that is counted round.
        program.tasks.iter_mut().for_each(|task| task.cost = Nanos(1 << 63));
        let engine = program.tasks[0].engine.clone();
        let (at, to) = (runs[0].clone(), runs[2].clone());
        program.facts.bounds = vec![Bound::Window { body, tier: "hbm".into(), bytes: 1_000, at, to }];
        assert_eq!(waits(&program, "hbm", &engine, BytesPerSec(1_000_000)), 0, "the tasks hide what comes in");
        let text = include_str!("../../golden/targets/one_device.ron");
        let target = Target::from_ron(text).expect("a target");
        assert_eq!(bound(&target, &program).time, Nanos(u64::MAX));
    }
}
