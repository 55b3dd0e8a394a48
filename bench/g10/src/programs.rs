//! A workload as the planner of programs takes it: whole tensors with addresses. Weights are states that are written back where
//! they were changed, to the host or the disk; or they are read only, dropped and read from files again, and the host alone takes
//! what is put aside.
//!
//! The program is proved; what it takes is compared with a schedule of bytes on the same machine.

use crate::read::{Rig, target};
use berth_compiler::plan::plan;
use berth_compiler::spill::{bound, schedule};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{Home, Kind, Mode};
use berth_ir::target::Target;
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use berth_ir::verify::verify;

/// Steps of one workload on one machine.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// All tasks one after the other.
    pub ideal: Nanos,
    /// What no schedule of bytes beats.
    pub bound: Nanos,
    /// A schedule of bytes.
    pub bytes: Nanos,
    /// The program.
    pub program: Nanos,
}

/// The lifetimes with weights for states, which no task writes.
pub fn read_only(mut lifetimes: Lifetimes) -> Lifetimes {
    let home = |name: &str| Home {
        tier: "ssd".into(),
        file: name.to_owned(),
        offset: 0,
        transposed: None,
        strip: None,
        filled: None,
    };
    for tensor in lifetimes.tensors.iter_mut().filter(|t| matches!(t.kind, Kind::State | Kind::Weight)) {
        (tensor.kind, tensor.home) = (Kind::Weight, Some(home(&tensor.name)));
    }
    let Lifetimes { tensors, tasks, .. } = &mut lifetimes;
    for task in tasks.iter_mut() {
        // Whoever writes a weight reads it.
        let (weights, writes) = task.writes.iter().partition(|t| tensors[t.index()].kind == Kind::Weight);
        let more: Vec<_> = Vec::into_iter(weights).filter(|t| !task.reads.contains(t)).collect();
        (task.writes, _) = (writes, task.reads.extend(more));
    }
    lifetimes
}

/// The machine with files on its disk, and as much host memory as there is need for.
pub fn two_memories(rig: &Rig) -> Target {
    let mut target = target(&Rig { host: 1 << 42, host_to_disk: false, ..*rig });
    for tier in &mut target.tiers {
        tier.files = tier.name == "ssd";
        tier.bandwidth = BytesPerSec(1 << 60);
    }
    target.links.retain(|l| l.to != "ssd");
    for link in &mut target.links {
        (link.grain, link.group) = (Bytes(1), None);
    }
    target
}

/// The machine of a replay as the planner of programs takes it: tensors move whole, whatever their size.
pub fn whole_tensors(rig: &Rig) -> Target {
    let mut target = target(rig);
    target.tiers.iter_mut().for_each(|tier| tier.bandwidth = BytesPerSec(1 << 60));
    target.links.iter_mut().for_each(|link| link.grain = Bytes(1));
    target
}

/// Plans a program for a workload whose weights are read only, and proves it, and a schedule beside it.
pub fn steps(lifetimes: Lifetimes, rig: &Rig, piece: u64) -> Result<Steps, String> {
    planned(read_only(lifetimes), two_memories(rig), piece)
}

/// The same with weights as states, which are written back where they were changed, and both memories below for what is put
/// aside. A copy below is kept until then, which the replay's own rules do not allow.
pub fn strict_steps(lifetimes: Lifetimes, rig: &Rig, piece: u64) -> Result<Steps, String> {
    planned(lifetimes, whole_tensors(rig), piece)
}

fn planned(lifetimes: Lifetimes, target: Target, piece: u64) -> Result<Steps, String> {
    let found = schedule(&lifetimes, &target, Some(piece)).map_err(|e| e.to_string())?;
    let least = bound(&lifetimes, &target, found.step).map_err(|e| e.to_string())?;
    let plan = plan(&lifetimes, &target, Mode::Loop).map_err(|e| e.to_string())?;
    let program = plan.timeline.step;
    verify(&target, plan.program, None).map_err(|wrong| format!("the program is refused: {}", wrong[0]))?;
    let ideal = Nanos(lifetimes.tasks.iter().map(|t| t.cost.0).sum());
    Ok(Steps { ideal, bound: least, bytes: found.step, program })
}
