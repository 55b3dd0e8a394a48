//! Splits operators that read a large stored matrix into pieces that each read a part of it.
//!
//! Reads:    the graph, the ranges of its dims, what each of its tasks holds.
//! Decides:  which matrix products are made column by column and which tables are looked up part by part, and where the
//!           cuts are.
//! Promises: the same inputs and outputs, bit for bit, with up to so many threads of the engine; each weight is read as
//!           often as before. The same graph and room give the same pieces.
//! Why:      the largest operand sets the least capacity; a product's columns need nothing of each other.

mod bits;
mod candidate;
mod pieces;

use berth_ir::graph::Graph;
use berth_ir::lifetime::{Lifetimes, Task};
use berth_ir::program::{DimRange, Split};
use candidate::{Candidate, candidates};
use std::collections::{BTreeMap, HashMap};

/// Pieces of one operator at most: each is a call, and a read of its own.
pub const PIECES_MAX: u64 = 16;
/// Threads up to which bits stay where nobody says how many there will be.
pub const THREADS: u64 = 16;

/// The graph with every operator split that holds more than there is room for and can be; nothing where none is.
/// `lifetimes` are those of the graph as it is.
pub fn split(graph: &Graph, dims: &BTreeMap<String, DimRange>, lifetimes: &Lifetimes, how: Split) -> Option<Graph> {
    let found = candidates(graph, dims, &held(lifetimes), how.threads).into_iter();
    let found = found.filter(|candidate| !how.contiguous || candidate.is_contiguous());
    let chosen = found.filter_map(|c| Some((c.pieces(how.room)?, c)));
    let chosen: Vec<(u64, Candidate)> = chosen.collect();
    (!chosen.is_empty()).then(|| pieces::put(graph, &chosen))
}

/// The least room in which every task could run, by what each holds: with less, pieces would be of no use.
pub fn reach(graph: &Graph, dims: &BTreeMap<String, DimRange>, lifetimes: &Lifetimes, threads: u64) -> u64 {
    let mut held = held(lifetimes);
    for candidate in candidates(graph, dims, &held.clone(), threads) {
        held.insert(candidate.name(graph), candidate.least());
    }
    held.into_values().max().unwrap_or(0)
}

/// What a task holds that reads a weight of the usual size, that in which the middle byte of all weights lies.
pub fn usual(lifetimes: &Lifetimes) -> u64 {
    let bulk = lifetimes.bulk();
    let reads = |t: &&Task| t.reads.iter().any(|id| lifetimes.tensor(*id).bytes == bulk);
    lifetimes.tasks.iter().filter(reads).map(|t| holds(lifetimes, t)).max().unwrap_or(bulk)
}

/// Bytes that each task holds at once, by the name of its operator.
fn held(lifetimes: &Lifetimes) -> HashMap<&str, u64> {
    lifetimes.tasks.iter().map(|t| (t.name.as_str(), holds(lifetimes, t))).collect()
}

fn holds(lifetimes: &Lifetimes, task: &Task) -> u64 {
    task.operands().map(|id| lifetimes.tensor(id).bytes).fold(task.workspace, u64::saturating_add)
}
