//! Rule 19: what an engine keeps for a task is made of weights, and its bytes are nobody else's.

use super::index::{Index, whole_home};
use super::violation::{HeldProblem, Violation};
use crate::program::{Kind, Numerics};
use std::collections::BTreeSet;

pub(super) fn check(index: &Index, found: &mut BTreeSet<Violation>) {
    let program = index.program;
    // Where the bytes of all that is kept lie: arena, first and last byte, task.
    let mut ranges: Vec<(usize, u64, u64, usize)> = Vec::new();
    for (t, (task, weights)) in program.tasks.iter().zip(&index.task_held).enumerate() {
        let Some(held) = &task.held else { continue };
        let mut fault = |problem| {
            found.insert(Violation::Held { task: task.name.clone(), problem });
        };
        if program.header.numerics != Numerics::Fast {
            fault(HeldProblem::Exact);
        }
        let mut seen = BTreeSet::new();
        for weight in weights {
            let tensor = &program.tensors[*weight];
            let size = tensor.bytes.as_constant().and_then(|c| u64::try_from(c).ok());
            let name = || tensor.name.clone();
            if tensor.kind != Kind::Weight || tensor.home.is_none() || size.is_none() {
                fault(HeldProblem::NoWeight { tensor: name() });
            } else if let Some(problem) = whole_home(tensor) {
                fault(HeldProblem::Home { tensor: name(), problem });
            }
            if !seen.insert(weight) || index.task_tensors[t].contains(weight) {
                fault(HeldProblem::Twice { tensor: name() });
            }
        }
        let engine = &index.target.engines[index.task_engine[t]];
        if held.arena != engine.tier {
            fault(HeldProblem::Tier { arena: held.arena.clone(), engine: engine.name.clone() });
        }
        let arena = index.arena(&held.arena);
        let room = program.arenas[arena].bytes;
        let alignment = index.target.tier(&held.arena).map_or(1, |tier| tier.alignment);
        let end = held.offset.saturating_add(held.bytes);
        if end > room || end == u64::MAX {
            fault(HeldProblem::Outside { end, arena: room });
        }
        if !held.offset.is_multiple_of(alignment) {
            fault(HeldProblem::Misaligned { offset: held.offset, alignment });
        }
        ranges.extend((held.bytes > 0).then_some((arena, held.offset, end, t)));
    }
    if ranges.is_empty() {
        return;
    }
    ranges.sort_unstable();
    let mut meets = |task: usize, other: String| {
        let problem = HeldProblem::Meets { other };
        found.insert(Violation::Held { task: program.tasks[task].name.clone(), problem });
    };
    for pair in ranges.windows(2) {
        if let [(arena, _, end, first), (other, from, _, second)] = pair
            && (arena, *from < *end) == (other, true)
        {
            meets(*second, format!("what task `{}` holds", program.tasks[*first].name));
        }
    }
    for (b, berth) in index.berths.iter().enumerate().filter(|(_, berth)| berth.begin < berth.end) {
        // The last that begins before the berth ends: those before it end no later, unless they meet each other.
        let before = ranges.partition_point(|(arena, from, ..)| (*arena, *from) < (berth.arena, berth.end));
        if let Some((_, _, _, task)) =
            ranges[..before].last().filter(|(arena, _, end, _)| *arena == berth.arena && *end > berth.begin)
        {
            meets(*task, format!("berth `{}`", program.berths[b].name));
        }
    }
}

/// Bytes of a tier that engines keep for tasks from the first step to the last.
pub(super) fn bytes(index: &Index, tier: &str) -> u64 {
    let held = index.program.tasks.iter().filter_map(|task| task.held.as_ref());
    held.filter(|held| held.arena == tier).map(|held| held.bytes).fold(0, u64::saturating_add)
}
