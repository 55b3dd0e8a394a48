//! Clairvoyant eviction without prefetch: a weight is brought when a task needs it, and what is used furthest ahead goes.
//!
//! Reads:    lifetimes, target.
//! Decides:  which weights stay from one use to the next, around the step.
//! Promises: a program that the verifier accepts; or nothing where it does not fit.
//! Why:      Belady (1966): no demand cache misses less. On a cycle the first step opens with all weights there, and one
//!           program serves every step, so what is let go once is brought once in each.

use super::{ROOMS, Unfit};
use crate::machine::Machine;
use crate::made::{Plan, plan_choice};
use crate::residency::{Choice, stays};
use crate::stay::{Level, load_curve};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Target;
use std::collections::BTreeSet;

/// Weights on demand; between uses they stay as Belady's rule has it. Where fragments keep the result from fitting, the
/// cache is given less.
pub fn clairvoyant(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let machine = Machine::of(target).map_err(|_| Unfit::Room)?;
    let least = Choice { demand: true, ..Choice::least(lifetimes) };
    let stays = stays(lifetimes, &machine, &least);
    let (positions, grain) = (lifetimes.tasks.len(), machine.device.alignment);
    let load = load_curve(&stays, Level::Device, positions, grain);
    let room = u128::from(machine.device.room().0);
    let plan = ROOMS.iter().find_map(|percent| {
        let (pinned, kept) = kept(lifetimes, grain, &load, (room * percent / 100) as u64);
        plan_choice(lifetimes, target, mode, &Choice { pinned, kept, ..least.clone() })
    });
    plan.ok_or(Unfit::Room)
}

/// Time between a use of a weight and the next, in which it stays or not.
struct Gap {
    tensor: TensorId,
    /// Index of the use before.
    use_before: usize,
    /// Positions of the uses; the second is behind the step where the next use is in the next one.
    from: usize,
    to: usize,
    bytes: u64,
    kept: bool,
}

/// Weights that never leave, and gaps over which others stay, with this much room, of which `load` is taken at least.
fn kept(lifetimes: &Lifetimes, grain: u64, load: &[u64], room: u64) -> (Vec<bool>, BTreeSet<(TensorId, usize)>) {
    let period = load.len();
    let mut gaps: Vec<Gap> = Vec::new();
    // By tensor, the gap over the edge of the step: the last of its gaps.
    let mut edge = vec![None; lifetimes.tensors.len()];
    for (index, uses) in lifetimes.uses().iter().enumerate() {
        let tensor = TensorId(index as u32);
        if lifetimes.tensor(tensor).kind != Kind::Weight || uses.is_empty() {
            continue;
        }
        let bytes = lifetimes.tensor(tensor).bytes.next_multiple_of(grain);
        for (use_before, from) in uses.iter().copied().enumerate() {
            let to = uses.get(use_before + 1).copied().unwrap_or(uses[0] + period);
            gaps.push(Gap { tensor, use_before, from, to, bytes, kept: true });
        }
        edge[index] = Some(gaps.len() - 1);
    }
    let mut starts: Vec<Vec<usize>> = vec![Vec::new(); period];
    // Gaps that the position lies in, by next use.
    let mut open: BTreeSet<(usize, usize)> = BTreeSet::new();
    let mut held = 0u64;
    for (n, gap) in gaps.iter().enumerate() {
        starts[gap.from].push(n);
        if gap.to > period {
            open.insert((gap.to - period, n));
            held += gap.bytes;
        }
    }
    for position in 0..period {
        while let Some(first) = open.first().copied().filter(|(to, _)| *to <= position) {
            open.remove(&first);
            held -= gaps[first.1].bytes;
        }
        while load[position].saturating_add(held) > room {
            let Some((_, gone)) = open.pop_last() else { break };
            held -= gaps[gone].bytes;
            gaps[gone].kept = false;
            // It comes once in each step, so it is not there at the edge either.
            if let Some(edge) = edge[gaps[gone].tensor.index()].filter(|edge| gaps[*edge].kept) {
                gaps[edge].kept = false;
            }
        }
        for n in starts[position].iter().filter(|n| gaps[**n].kept) {
            open.insert((gaps[*n].to, *n));
            held += gaps[*n].bytes;
        }
    }
    let edges = edge.iter().map(|edge| edge.is_some_and(|edge| gaps[edge].kept));
    let inner = gaps.iter().filter(|g| g.kept && g.to < period);
    (edges.collect(), inner.map(|g| (g.tensor, g.use_before)).collect())
}
