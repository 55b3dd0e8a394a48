//! What tasks hold while some of them run once more.

use crate::lower::Lowered;
use berth_ir::lifetime::TensorId;
use berth_ir::program::Kind;
use std::rc::Rc;

/// One run of a task.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// The task.
    pub task: usize,
    /// The operator's name: of a second run, that of its copy.
    pub name: Rc<str>,
    /// What it reads and writes, no weights.
    pub reads: Vec<usize>,
    pub writes: Vec<usize>,
    /// Bytes of its weights and its scratch.
    pub own: u64,
}

/// Runs in order, and the tensors between them. Sizes are whole grains of the memory.
#[derive(Clone, Debug)]
pub(super) struct Runs {
    pub runs: Vec<Run>,
    /// Bytes of each tensor; a second one of a tensor stands behind all that were there.
    pub bytes: Vec<u64>,
}

/// When tensors are there, and what is held at each run.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// First and last run that uses each tensor.
    pub spans: Vec<Option<(usize, usize)>>,
    /// Bytes at each run.
    pub held: Vec<u64>,
}

impl Runs {
    pub fn of(lowered: &Lowered, grain: u64) -> Runs {
        let lifetimes = &lowered.lifetimes;
        let size = |bytes: u64| bytes.checked_next_multiple_of(grain.max(1)).unwrap_or(bytes);
        let value = |t: &&TensorId| lifetimes.tensor(**t).kind != Kind::Weight;
        let runs = lifetimes.tasks.iter().enumerate().map(|(n, task)| {
            let weights = task.reads.iter().filter(|t| !value(t)).map(|t| size(lifetimes.tensor(*t).bytes));
            let list = |tensors: &[TensorId]| tensors.iter().filter(value).map(|t| t.index()).collect();
            let own = weights.fold(size(task.workspace), u64::saturating_add);
            let name = Rc::from(task.ops.first().unwrap_or(&task.name).as_str());
            Run { task: n, name, reads: list(&task.reads), writes: list(&task.writes), own }
        });
        Runs { runs: runs.collect(), bytes: lifetimes.tensors.iter().map(|t| size(t.bytes)).collect() }
    }

    pub fn load(&self) -> Load {
        let mut spans: Vec<Option<(usize, usize)>> = vec![None; self.bytes.len()];
        for (n, run) in self.runs.iter().enumerate() {
            for tensor in run.reads.iter().chain(&run.writes) {
                let first = spans[*tensor].map_or(n, |(first, _)| first);
                spans[*tensor] = Some((first, n));
            }
        }
        let mut change = vec![0i128; self.runs.len() + 1];
        for (span, bytes) in spans.iter().zip(&self.bytes) {
            if let Some((first, last)) = span {
                change[*first] += i128::from(*bytes);
                change[*last + 1] -= i128::from(*bytes);
            }
        }
        let mut alive = 0i128;
        let held = self.runs.iter().zip(&change).map(|(run, change)| {
            alive += change;
            u64::try_from(alive).unwrap_or(u64::MAX).saturating_add(run.own)
        });
        let held = held.collect();
        Load { spans, held }
    }
}

impl Load {
    /// The most that is held, and by how much all runs together are over a room.
    pub fn over(&self, room: u64) -> (u64, u128) {
        let over = self.held.iter().map(|held| u128::from(held.saturating_sub(room))).sum();
        (self.held.iter().copied().max().unwrap_or(0), over)
    }
}
