//! Finds inputs that stay where they are fed.
//!
//! Reads:    a program.
//! Decides:  which berths hold what a step was fed until the next is.
//! Promises: no other berth has a byte of them, no copy goes there, and no task writes them, whatever order things run in.
//! Why:      an input that is the same as in the step before need not be written again.

use crate::program::{Berth, Instruction, Program, Task};
use std::collections::{HashMap, HashSet};

/// The berths that hold what they were fed until they are fed anew, by name.
pub fn alone(program: &Program) -> HashSet<&str> {
    let code = || program.bodies.iter().flat_map(|body| &body.code);
    let mut fed: HashSet<&str> = code().filter_map(Instruction::feeds).collect();
    let tasks: HashMap<&str, &Task> = program.tasks.iter().map(|task| (task.name.as_str(), task)).collect();
    let transitions = program.transitions.iter().flat_map(|transition| &transition.code);
    for instruction in program.prologue.iter().chain(code()).chain(transitions) {
        match instruction {
            Instruction::Copy { to, .. } => _ = fed.remove(to.as_str()),
            Instruction::Run { task, berths, .. } => {
                let accesses = tasks.get(task.as_str()).map_or(&[][..], |task| &task.accesses);
                let written = accesses.iter().zip(berths).filter(|(access, _)| access.writes());
                written.flat_map(|(_, bound)| bound.split(" + ")).for_each(|berth| _ = fed.remove(berth));
            }
            _ => {}
        }
    }
    for shared in shared(program) {
        fed.remove(shared);
    }
    fed
}

/// The berths that have a byte in common with another.
fn shared(program: &Program) -> HashSet<&str> {
    let mut berths: Vec<&Berth> = program.berths.iter().filter(|berth| berth.bytes > 0).collect();
    berths.sort_by_key(|berth| (berth.arena.as_str(), berth.offset));
    let end = |berth: &Berth| berth.offset.saturating_add(berth.bytes);
    let mut shared = HashSet::new();
    // The one that reaches farthest of those before.
    let mut far: Option<&Berth> = None;
    for berth in berths {
        let before = far.filter(|far| far.arena == berth.arena);
        if let Some(before) = before.filter(|before| end(before) > berth.offset) {
            shared.extend([before.name.as_str(), berth.name.as_str()]);
        }
        if before.is_none_or(|before| end(before) < end(berth)) {
            far = Some(berth);
        }
    }
    shared
}
