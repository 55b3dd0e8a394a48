//! Where the operands of a model's tasks lie when they are rehearsed, and what the rehearsal says that each costs.
//!
//! Weights lie one after the other, the last ones over the first where there are many: a task comes to them as cold as in a
//! step. What tasks make lies where it is free, from the task that makes it to the last that reads it: as warm as in a step.
//! Whole numbers are read from a place of zeros, whatever tasks made of them: they may be indices or counts.

use berth_compiler::lower::{Code, Lowered, Source};
use berth_ir::DType;
use berth_ir::program::Kind;
use berth_runtime_exec::engine::{ALIGNMENT, TaskCode};
use berth_runtime_exec::executor::{Cue, Rehearsed, Stage};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of weights that lie side by side: more than caches hold.
const WEIGHTS: u64 = 256 << 20;
/// Most bytes of a rehearsal.
const BYTES_MAX: u64 = 1 << 30;

/// A stage for those of a model's tasks that `ready` has code and workspace for, by position. Nothing where it would
/// take too much memory.
pub fn stage(lowered: &Lowered, ready: impl Fn(usize) -> Option<(TaskCode, u64)>) -> Option<Stage> {
    let mut floor = Floor { end: 0, free: BTreeMap::new() };
    let ready: Vec<Option<(TaskCode, u64)>> = (0..lowered.codes.len()).map(ready).collect();
    let zeros = integers(lowered).max().unwrap_or(0);
    let zeros = floor.take(zeros)?;
    let mut weights = Weights::new(lowered, &mut floor)?;
    let lives = lives(lowered);
    let (mut places, mut fed) = (BTreeMap::new(), Vec::new());
    // What is read before anything writes it is there from the start.
    for (tensor, life) in lives.iter().enumerate().filter(|(_, life)| life.from_start) {
        let place = floor.take(life.bytes)?;
        places.insert(tensor, place.start);
        if lowered.lifetimes.tensors[tensor].kind == Kind::Input {
            fed.push(place.start..place.start + life.bytes);
        }
    }
    let mut cues = Vec::new();
    for (position, code) in lowered.codes.iter().enumerate() {
        let mut lie = Vec::new();
        for (n, port) in code.inputs.iter().chain(&code.outputs).enumerate() {
            let bytes = bytes(port)?;
            let Source::Tensor(tensor) = port.source else {
                lie.push(floor.take(bytes)?.start);
                continue;
            };
            let (reads, index) = (n < code.inputs.len(), tensor.index());
            lie.push(match (lowered.lifetimes.tensor(tensor).kind, reads) {
                (Kind::Weight, _) => weights.place(bytes),
                (_, true) if is_whole(port.dtype) => zeros.start,
                _ => match places.get(&index) {
                    Some(place) => *place,
                    None => {
                        let place = floor.take(lives[index].bytes)?.start;
                        places.insert(index, place);
                        place
                    }
                },
            });
        }
        for tensor in uses(code) {
            let life = &lives[tensor];
            let place = if life.last == position && !life.from_start { places.remove(&tensor) } else { None };
            if let Some(place) = place {
                floor.give(place, life.bytes)?;
            }
        }
        if let Some((code, workspace)) = &ready[position] {
            cues.push(Cue { code: code.clone(), workspace: *workspace, places: lie });
        }
    }
    (floor.end <= BYTES_MAX).then_some(Stage { cues, bytes: floor.end, fed })
}

/// What each task of a stage costs, in nanoseconds; nothing of one that failed. Tasks of one kind cost the mean of what they
/// took, and all together a usual round: a sum of usual times is less, as in every round something takes longer.
pub fn costs(rehearsed: &Rehearsed, kinds: &[usize]) -> BTreeMap<usize, u64> {
    let mut sums: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for (nanos, kind) in rehearsed.tasks.iter().zip(kinds).filter_map(|(nanos, kind)| Some(((*nanos)?, kind))) {
        let sum = sums.entry(*kind).or_default();
        *sum = (sum.0.saturating_add(nanos), sum.1 + 1);
    }
    let all = rehearsed.tasks.iter().flatten().fold(0u64, |all, nanos| all.saturating_add(*nanos)).max(1);
    let cost = |(sum, count): (u64, u64)| {
        let nanos = u128::from(sum) * u128::from(rehearsed.round) / u128::from(all) / u128::from(count);
        u64::try_from(nanos).unwrap_or(u64::MAX)
    };
    sums.into_iter().map(|(kind, sum)| (kind, cost(sum))).collect()
}

/// When a tensor that is no weight is in use.
#[derive(Clone, Default)]
struct Life {
    bytes: u64,
    from_start: bool,
    last: usize,
    met: bool,
}

fn lives(lowered: &Lowered) -> Vec<Life> {
    let mut lives = vec![Life::default(); lowered.lifetimes.tensors.len()];
    for (position, code) in lowered.codes.iter().enumerate() {
        for (n, port) in code.inputs.iter().chain(&code.outputs).enumerate() {
            let Source::Tensor(tensor) = port.source else { continue };
            if lowered.lifetimes.tensor(tensor).kind != Kind::Weight {
                let life = &mut lives[tensor.index()];
                life.from_start |= !life.met && n < code.inputs.len();
                life.bytes = life.bytes.max(bytes(port).unwrap_or(u64::MAX));
                (life.last, life.met) = (position, true);
            }
        }
    }
    lives
}

fn uses(code: &Code) -> impl Iterator<Item = usize> + '_ {
    code.inputs.iter().chain(&code.outputs).filter_map(|port| match port.source {
        Source::Tensor(tensor) => Some(tensor.index()),
        Source::Known { .. } => None,
    })
}

fn integers(lowered: &Lowered) -> impl Iterator<Item = u64> + '_ {
    lowered.codes.iter().flat_map(|code| &code.inputs).filter(|port| is_whole(port.dtype)).filter_map(bytes)
}

/// Types of indices, counts and conditions.
fn is_whole(dtype: DType) -> bool {
    matches!(dtype, DType::I32 | DType::I64 | DType::Bool)
}

fn bytes(port: &berth_compiler::lower::Port) -> Option<u64> {
    port.dtype.bytes(port.most.iter().try_fold(1u64, |n, axis| n.checked_mul(*axis))?)
}

/// Memory from which ranges are taken: the lowest that is free.
struct Floor {
    end: u64,
    /// First byte and bytes.
    free: BTreeMap<u64, u64>,
}

impl Floor {
    /// Nothing where it would be too much.
    fn take(&mut self, bytes: u64) -> Option<Range<u64>> {
        let bytes = bytes.checked_next_multiple_of(ALIGNMENT)?;
        let found = self.free.iter().find(|(_, room)| **room >= bytes).map(|(at, room)| (*at, *room));
        let at = match found {
            Some((at, room)) => {
                self.free.remove(&at);
                if room > bytes {
                    self.free.insert(at + bytes, room - bytes);
                }
                at
            }
            None => self.end,
        };
        self.end = self.end.max(at.checked_add(bytes)?);
        (self.end <= BYTES_MAX).then_some(at..at + bytes)
    }

    fn give(&mut self, at: u64, bytes: u64) -> Option<()> {
        let mut range = at..at.checked_add(bytes.checked_next_multiple_of(ALIGNMENT)?)?;
        if let Some(behind) = self.free.remove(&range.end) {
            range.end += behind;
        }
        let before = self.free.range(..at).next_back().map(|(at, room)| (*at, *room));
        if let Some((start, _)) = before.filter(|(start, room)| start + room == at) {
            range.start = start;
        }
        if range.start < range.end {
            self.free.insert(range.start, range.end - range.start);
        }
        Some(())
    }
}

/// Weights one after the other, in a ring.
struct Weights {
    ring: Range<u64>,
    next: u64,
}

impl Weights {
    fn new(lowered: &Lowered, floor: &mut Floor) -> Option<Weights> {
        let all = || {
            let ports = lowered.codes.iter().flat_map(|code| code.inputs.iter().chain(&code.outputs));
            let weighs = |source: &Source| matches!(source, Source::Tensor(t) if lowered.lifetimes.tensor(*t).kind == Kind::Weight);
            let sizes = ports.filter(move |port| weighs(&port.source)).filter_map(bytes);
            sizes.filter_map(|bytes| bytes.checked_next_multiple_of(ALIGNMENT))
        };
        let room = all().fold(0, u64::saturating_add).min(WEIGHTS).max(all().max().unwrap_or(0));
        let ring = floor.take(room)?;
        Some(Weights { next: ring.start, ring })
    }

    /// The next place for so many bytes.
    fn place(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        if self.ring.end - self.next < bytes {
            self.next = self.ring.start;
        }
        self.next += bytes;
        self.next - bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_gives_what_is_free_again() {
        let mut floor = Floor { end: 0, free: BTreeMap::new() };
        let all: Vec<Range<u64>> = [100, 64, 1].iter().map(|bytes| floor.take(*bytes).unwrap()).collect();
        assert_eq!(all, [0..128, 128..192, 192..256]);
        floor.give(0, 100);
        floor.give(128, 64);
        assert_eq!(floor.free, BTreeMap::from([(0, 192)]));
        assert_eq!(floor.take(150), Some(0..192));
        floor.give(192, 1);
        assert_eq!((floor.take(65), floor.end), (Some(256..384), 384));
        assert_eq!(floor.take(BYTES_MAX), None);
        assert_eq!(floor.take(u64::MAX), None);
    }

    #[test]
    fn tasks_of_a_kind_cost_the_same_and_all_together_a_usual_round() {
        let rehearsed = Rehearsed { tasks: vec![Some(10), Some(30), None, Some(60)], round: 120 };
        assert_eq!(costs(&rehearsed, &[0, 0, 1, 2]), BTreeMap::from([(0, 24), (2, 72)]));
    }
}
