//! The lifetime IR: what a planner works on. It knows nothing of ONNX; graphs are lowered to it, and so can other
//! sources be (benchmark workloads of other planners, packing problems).
//!
//! A step is the list of tasks in order. Positions count tasks from zero. In loop mode the step repeats, so the time
//! between a tensor's last use in one step and its first use in the next is a gap like any other.

mod text;

pub use text::{BadLifetimes, parse, print};

use crate::lists::Lists;
use crate::program::{DimRange, Home, Kind};
use crate::units::Nanos;
use crate::{DType, Expr};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Index of a tensor in [`Lifetimes::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TensorId(pub u32);

impl TensorId {
    /// As an index.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Tasks in order, and the tensors between them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifetimes {
    /// Hash of the model that this was lowered from.
    pub model: String,
    /// The dims that sizes were taken at.
    pub dims: BTreeMap<String, DimRange>,
    /// What there is to hold.
    pub tensors: Vec<Tensor>,
    /// What there is to run, in order.
    pub tasks: Vec<Task>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Unique; the name that programs use.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Element type.
    pub dtype: DType,
    /// Exact size as an expression of dims.
    pub extent: Expr,
    /// The same at the upper end of the dims.
    pub bytes: u64,
    /// Where its bytes are before the program starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// Other names that its bytes have: views of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Unique.
    pub name: String,
    /// The operators that it computes.
    pub ops: Vec<String>,
    /// Tensors that it reads, each once.
    pub reads: Vec<TensorId>,
    /// Tensors that it writes, each once.
    pub writes: Vec<TensorId>,
    /// Of what it reads, what it reads by rows along the first axis and not whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<TensorId>,
    /// Rights: what it writes may take the place of what it reads (read, written).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_place: Vec<(TensorId, TensorId)>,
    /// Bytes of scratch on the target's first engine.
    pub workspace: u64,
    /// Time of one run on the target's first engine.
    pub cost: Nanos,
    /// What it takes on other engines; absent is an engine that may not run it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Other>,
    /// Weights that the first engine keeps for it in a form of its own; they are not among what it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// Weights that an engine keeps for a task as long as the program is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// The weights, each once.
    pub weights: Vec<TensorId>,
    /// Bytes that they take packed, estimated or measured.
    pub bytes: u64,
    /// Most bytes beside those while the task is loaded: its weights as they are stored, and what the engine makes of them on
    /// the way.
    pub loading: u64,
}

/// What a task takes on an engine that is not the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// The engine.
    pub engine: String,
    /// Bytes of scratch there.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub workspace: u64,
    /// Time of one run there.
    pub cost: Nanos,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

impl Task {
    /// What it takes on an engine that is not the first; nothing where that may not run it.
    pub fn on(&self, engine: &str) -> Option<&Other> {
        self.others.iter().find(|other| other.engine == engine)
    }

    /// Tensors that it holds while it runs: what it reads, then what it writes.
    pub fn operands(&self) -> impl Iterator<Item = TensorId> + '_ {
        self.reads.iter().chain(self.writes.iter().filter(|w| !self.reads.contains(w))).copied()
    }
}

impl Lifetimes {
    /// The tensor with this id. Ids come from these lifetimes, so the index is in range.
    pub fn tensor(&self, id: TensorId) -> &Tensor {
        &self.tensors[id.index()]
    }

    /// The positions at which each tensor is used, in order; tensors by index.
    pub fn uses(&self) -> Lists {
        let tasks = || self.tasks.iter().enumerate();
        Lists::of(self.tensors.len(), || tasks().flat_map(|(p, task)| task.operands().map(move |t| (t.index(), p))))
    }

    /// The positions at which each tensor is written again: by a task that is not the first to use it. Tensors by index.
    pub fn rewrites(&self) -> Lists {
        let mut used = vec![false; self.tensors.len()];
        let mut again = Vec::new();
        for (position, task) in self.tasks.iter().enumerate() {
            again.extend(task.writes.iter().filter(|t| used[t.index()]).map(|t| (t.index(), position)));
            task.operands().for_each(|t| used[t.index()] = true);
        }
        Lists::of(self.tensors.len(), || again.iter().copied())
    }

    /// Bytes of tensors other than weights that are alive at each position, with the task's workspace: what must be
    /// held somewhere whatever is done about weights. A state is alive in the whole step.
    pub fn load(&self) -> Vec<u64> {
        let mut change = vec![0i128; self.tasks.len() + 1];
        for (index, uses) in self.uses().iter().enumerate() {
            let t = &self.tensors[index];
            if t.kind == Kind::Weight {
                continue;
            }
            if let (Some(first), Some(last)) = (uses.first(), uses.last()) {
                let span = if t.kind == Kind::State { 0..self.tasks.len() } else { *first..*last + 1 };
                change[span.start] += i128::from(t.bytes);
                change[span.end] -= i128::from(t.bytes);
            }
        }
        let mut load = Vec::with_capacity(self.tasks.len());
        let mut alive = 0i128;
        for (task, change) in self.tasks.iter().zip(&change) {
            alive += change;
            load.push(u64::try_from(alive).unwrap_or(u64::MAX).saturating_add(task.workspace));
        }
        load
    }

    /// Bytes of files that weights which some task uses are read from, each range once: a matrix and its transpose, if both
    /// are used, come from the same bytes; what no file holds comes from none.
    pub fn stored(&self) -> u64 {
        let uses = self.uses();
        let used = self.tensors.iter().zip(uses.iter()).filter(|(t, u)| t.kind == Kind::Weight && !u.is_empty());
        let homes = used.filter_map(|(t, _)| Some((t.home.as_ref().filter(|h| h.filled.is_none())?, t.bytes)));
        let ranges: BTreeSet<(&str, u64, u64)> = homes.map(|(h, bytes)| (h.file.as_str(), h.offset, bytes)).collect();
        ranges.iter().map(|(_, _, bytes)| bytes).fold(0, |all, bytes| all.saturating_add(*bytes))
    }

    /// Bytes of all tensors of a kind that some task uses.
    pub fn total(&self, kind: Kind) -> u64 {
        let uses = self.uses();
        let used = self.tensors.iter().zip(uses.iter()).filter(|(t, u)| t.kind == kind && !u.is_empty());
        used.map(|(t, _)| t.bytes).fold(0, u64::saturating_add)
    }

    /// The size of weight in which the middle byte of all weights lies.
    pub fn bulk(&self) -> u64 {
        let weights = self.tensors.iter().filter(|t| t.kind == Kind::Weight);
        let mut sizes: Vec<u64> = weights.map(|t| t.bytes).collect();
        sizes.sort_unstable();
        let half = sizes.iter().map(|b| u128::from(*b)).sum::<u128>() / 2;
        let mut sum = 0;
        let at = sizes.iter().position(|b| {
            sum += u128::from(*b);
            sum > half
        });
        at.map_or(0, |at| sizes[at])
    }
}
