//! What each task costs: estimated from the target, or measured by an engine.
//!
//! Reads:    lifetimes, arithmetic of each task, the target's engine.
//! Decides:  time and workspace of each task.
//! Promises: the same table for the same input; measured entries replace estimates one by one.
//! Why:      the roofline (Williams et al. 2009): a task takes the longer of its arithmetic and its bytes.

use berth_ir::DType;
use berth_ir::lifetime::Lifetimes;
use berth_ir::target::{Engine, Target};
use berth_ir::units::{Bytes, Nanos};
use std::collections::BTreeMap;

/// What an engine measured of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Time of one run.
    pub time: Nanos,
    /// Bytes of scratch.
    pub workspace: u64,
}

/// The estimated time of a task: arithmetic against bytes, whichever takes longer, and one launch.
pub fn estimate(target: &Target, engine: &Engine, flops: u64, bytes: u64, dtype: DType) -> Nanos {
    let bandwidth = target.tier(&engine.tier).map(|t| t.bandwidth).unwrap_or_default();
    let work = engine.rate(dtype).time(flops).max(Bytes(bytes).at(bandwidth));
    Nanos(work.0.saturating_add(engine.launch.0))
}

/// Lifetimes with measured costs in place of estimates, by name of the task.
pub fn with_measured(mut lifetimes: Lifetimes, measured: &BTreeMap<String, Cost>) -> Lifetimes {
    for task in &mut lifetimes.tasks {
        if let Some(cost) = measured.get(&task.name) {
            (task.cost, task.workspace) = (cost.time, cost.workspace);
        }
    }
    lifetimes
}
