//! What a memory program is: where every tensor lives at every moment, and when each byte moves.
//!
//! One step is one run of a body. Instances of instructions are ordered only by what is written here:
//!
//! - each engine runs its tasks in written order, across steps too;
//! - an instruction starts after all in its `after` have ended; `x~1` is the previous step's `x`, and is
//!   satisfied where the previous step has no `x`;
//! - an instruction ends before its next instance starts;
//! - all of step n ends before any of step n + 2 starts.
//!
//! There is no barrier at the loop edge, and queues give copies no order. The prologue counts as the step before
//! the first, a transition as a step of its own.

use crate::units::{Bytes, Nanos};
use crate::{DType, Expr};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the form that this crate reads and writes.
pub const FORMAT: u32 = 1;

/// A whole memory program. The text form speaks in names; dense ids exist only inside the verifier and executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// What it was made from and for.
    pub header: Header,
    /// The blocks of memory that it uses, one a tier at most.
    pub arenas: Vec<Arena>,
    /// What it moves and computes on.
    pub tensors: Vec<Tensor>,
    /// What it computes, in the order that defines the result: each task sees the writes of those before it.
    pub tasks: Vec<Task>,
    /// Every address, once.
    pub berths: Vec<Berth>,
    /// Run once, before the first step.
    pub prologue: Vec<Instruction>,
    /// One per bucket of dims. In a loop the first follows the prologue and transitions lead to the others; in `Once`
    /// mode any may follow the prologue.
    pub bodies: Vec<Body>,
    /// From the end of a step of one body to the start of a step of another.
    #[serde(default)]
    pub transitions: Vec<Transition>,
    /// What can be counted, and bounds with their witness.
    pub facts: Facts,
}

/// What a program was made from and for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// Hash of the graph and its dims, not of weight bytes.
    pub model: String,
    /// Name of the target, for people.
    pub target: String,
    /// [`crate::Target::layout_hash`] of the target that it is safe on.
    pub layout: String,
    /// How tasks may compute.
    pub numerics: Numerics,
    /// Whether the body repeats.
    pub mode: Mode,
    /// Named dims: one value, or the range over which the program is safe.
    pub dims: BTreeMap<String, DimRange>,
    /// Budgets that it keeps to, by tier, where they are less than the target has.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub memory: BTreeMap<String, Bytes>,
    /// By how much a dim grows each step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub growth: BTreeMap<String, u64>,
    /// How the operators of the model were split, where they were: whoever has the model splits them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Split>,
    /// Operators of the model, as it was split, that run once more each: whoever has the model adds them again, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recompute: Vec<Recompute>,
    /// Pairs of an input and an output of the model that are one state each: whoever has the model joins them again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<Carried>,
}

/// A state as a model has it: what a step writes as the output, the next step reads as the input. It is one tensor, which
/// outlives a step; only the first step's input is fed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The model's name of the input.
    pub input: String,
    /// The model's name of the output.
    pub output: String,
}

/// An operator that is run once more, so that its result need not be held until it is read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recompute {
    /// The operator; one that is itself such a copy has the name of its copy.
    pub op: String,
    /// The operators that read the second result. It is made right before the first of them.
    pub readers: Vec<String>,
}

/// What decides, with a model and its target, which operators are split and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// An operator that would hold more than so many bytes at once is split, if it can be.
    pub room: u64,
    /// Threads of the engine up to which the pieces have the bits of the whole.
    pub threads: u64,
    /// Whether only matrices are cut whose pieces lie in one range of their file each: others come with what lies between.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contiguous: bool,
}

/// How tasks may compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Numerics {
    /// Bits do not depend on the cut or the capacity.
    Exact,
    /// Bits are those of the same tasks with one buffer per tensor.
    Fast,
}

/// Whether the body repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Steps follow each other; the edge state at the end of one is that at its start.
    Loop,
    /// One step.
    Once,
}

/// Inclusive range of a dim. Text: `128` or `0..4096` (both ends included).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DimRange {
    /// Least value.
    pub low: u64,
    /// Greatest value.
    pub high: u64,
}

impl DimRange {
    /// Steps that there are in the range for a dim that has the size `from` in the first and grows by `by` in each.
    pub fn steps(&self, from: u64, by: u64) -> u64 {
        match (self.high.checked_sub(from), by) {
            (None, _) => 0,
            (Some(_), 0) => u64::MAX,
            (Some(rest), by) => (rest / by).saturating_add(1),
        }
    }
}

/// The block of a tier that the program uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arena {
    /// Name of the tier.
    pub tier: String,
    /// Bytes; addresses are offsets in it.
    pub bytes: u64,
}

/// The unit of memory. Several values of a graph may share one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Unique; has no `~` and no ` + `.
    pub name: String,
    /// What it is for.
    pub kind: Kind,
    /// Element type.
    pub dtype: DType,
    /// Exact size in bytes, as an expression of dims.
    pub bytes: Expr,
    /// Where its bytes lie before the program starts, or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Never written; its home keeps it.
    Weight,
    /// Written by `Feed` each step.
    Input,
    /// Read by `Fetch` each step.
    Output,
    /// Lives inside a step.
    Activation,
    /// Outlives a step.
    State,
    /// Scratch of one task; never read.
    Workspace,
}

/// Bytes in a file of the model's folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Home {
    /// The tier that holds files.
    pub tier: String,
    /// Path relative to the model's folder.
    pub file: String,
    /// Offset of the first byte.
    pub offset: u64,
    /// Where the file holds a matrix and the tensor is its transpose: what is read is transposed on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transposed: Option<Transposed>,
    /// Where the file holds a wider matrix and the tensor is some of its columns: rows that lie apart. They are read
    /// packed, and then transposed where that is said too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strip: Option<Strip>,
    /// Where no file holds the tensor: one element, over and over. What is read is written out of nothing, so it crosses no
    /// link, and the path is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled: Option<Filled>,
}

impl Home {
    /// Bytes that reading so many of the tensor takes from the tier.
    pub fn crossing(&self, bytes: u64) -> u64 {
        if self.filled.is_some() { 0 } else { bytes }
    }
    /// Whether its bytes are put together on the way, so that they can only be read all at once.
    pub fn is_made(&self) -> bool {
        self.transposed.is_some() || self.strip.is_some() || self.filled.is_some()
    }
}

/// One element of a tensor that is the same all over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filled {
    /// Bytes of the element: 1, 2, 4 or 8.
    pub element: u64,
    /// Its bits, as a little-endian number.
    pub bits: u64,
}

impl Filled {
    /// Whether a tensor of so many bytes can be made of it.
    pub fn makes(&self, bytes: u64) -> bool {
        matches!(self.element, 1 | 2 | 4 | 8)
            && bytes.is_multiple_of(self.element)
            && (self.element == 8 || self.bits >> (8 * self.element) == 0)
    }
}

/// The matrix that a file holds, row by row; the tensor holds it column by column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transposed {
    /// Rows in the file.
    pub rows: u64,
    /// Elements of a row in the file.
    pub columns: u64,
    /// Bytes of an element: 1, 2, 4 or 8.
    pub element: u64,
}

impl Transposed {
    /// Bytes of the matrix; nothing where they are too many or the element has no such size.
    pub fn bytes(&self) -> Option<u64> {
        let element = Some(self.element).filter(|e| matches!(e, 1 | 2 | 4 | 8));
        self.rows.checked_mul(self.columns)?.checked_mul(element?)
    }
}

/// Rows of equal length that lie apart in a file, the first at the home's offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Strip {
    /// How many.
    pub rows: u64,
    /// Bytes of each.
    pub bytes: u64,
    /// Bytes from the start of one to the start of the next.
    pub pitch: u64,
}

impl Strip {
    /// Bytes of all rows; nothing where they are too many, or rows overlap.
    pub fn packed(&self) -> Option<u64> {
        self.rows.checked_mul(self.bytes).filter(|_| self.bytes <= self.pitch)
    }
    /// Bytes from the start of the first row to the end of the last.
    pub fn span(&self) -> Option<u64> {
        let before = self.rows.checked_sub(1)?.checked_mul(self.pitch)?;
        before.checked_add(self.bytes)
    }
}

/// A convex set of operators that one engine runs as one call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Unique among tasks.
    pub name: String,
    /// The engine that runs it.
    pub engine: String,
    /// The graph's operators that it computes, in order.
    pub ops: Vec<String>,
    /// What it reads and writes; a `Run` binds one place to each, in this order.
    pub accesses: Vec<Access>,
    /// Bytes of scratch it needs; where not zero, a `Run` binds one more berth, of a workspace tensor.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub workspace: u64,
    /// Time that the plan counts on for one run, estimated or measured; no safety depends on it.
    #[serde(default, skip_serializing_if = "is_no_time")]
    pub cost: Nanos,
    /// Pairs (read, written) of accesses by index that may lie at the same address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub in_place: Vec<(usize, usize)>,
    /// Weights that the engine itself keeps for it, in a form of its own (`Numerics::Fast`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// Weights that an engine keeps for a task, packed as its kernels like them: read once, when the program is loaded, into
/// a byte range of the arena of the engine's tier that is theirs from then on. The task's accesses do not name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// The weights, each once.
    pub weights: Vec<String>,
    /// The tier whose arena they lie in: the engine's.
    pub arena: String,
    /// First byte in the arena.
    pub offset: u64,
    /// Bytes that the packed weights take, estimated or measured; the loader refuses what does not fit.
    pub bytes: u64,
}

/// One tensor that a task reads or writes. Text: `Read("w")`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Reads the whole tensor, which must be contiguous.
    Read(String),
    /// Reads some rows of it (a Gather from a table), chosen when the task runs.
    ReadRows(String),
    /// Writes the whole tensor; what it held is gone.
    Write(String),
    /// Reads the whole tensor and writes it grown by one step, in place. From there to the end of the step its size is
    /// that of the grown dims; the next step starts with those.
    Append(String),
}

impl Access {
    /// The tensor's name.
    pub fn tensor(&self) -> &str {
        match self {
            Access::Read(t) | Access::ReadRows(t) | Access::Write(t) | Access::Append(t) => t,
        }
    }
    /// Whether the task sees the tensor's old bytes.
    pub fn reads(&self) -> bool {
        !matches!(self, Access::Write(_))
    }
    /// Whether the task makes a new version of the tensor.
    pub fn writes(&self) -> bool {
        matches!(self, Access::Write(_) | Access::Append(_))
    }
}

/// A byte range of an arena, held by one tensor for one span of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Berth {
    /// Unique among berths; has no `~` and no ` + `.
    pub name: String,
    /// The tensor that holds it.
    pub tensor: String,
    /// The part of the tensor, as a half-open byte range; the whole where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<(u64, u64)>,
    /// The tier whose arena it lies in.
    pub arena: String,
    /// First byte in the arena.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// The instructions after whose end the bytes may be reused; empty where they never are. Each names the first
    /// instance after the berth's first write: in the same step where that is ordered after the write, else in the next
    /// step that has it. Once all have ended, the next write starts a new span. Where several writes may be the first, what
    /// ends the span is the same for all of them.
    pub until: Vec<String>,
}

/// One bucket of dims and what a step does in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Body {
    /// Unique among bodies and transitions.
    pub name: String,
    /// The part of the header's ranges that it serves; dims that are not named keep the header's.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub dims: BTreeMap<String, DimRange>,
    /// Run each step.
    pub code: Vec<Instruction>,
}

/// What is done once between a step of one body and a step of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transition {
    /// Unique among bodies and transitions.
    pub name: String,
    /// The body that ended.
    pub from: String,
    /// The body that starts.
    pub to: String,
    /// Run once, at the dims with which the next step starts. Copies only.
    pub code: Vec<Instruction>,
}

/// One instruction. Its name is unique within its prologue, body or transition, and has no `~`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Instruction {
    /// Moves bytes of one tensor between two places.
    Copy {
        /// Such as `load layers.7.up`.
        name: String,
        /// Where the bytes are.
        from: Place,
        /// The berth that takes them.
        to: String,
        /// Which bytes.
        #[serde(default, skip_serializing_if = "is_whole")]
        extent: Extent,
        /// The link that carries them.
        queue: String,
        /// How urgent it is.
        class: Class,
        /// The run that waits for it, if one does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wanted: Option<String>,
        /// What must have ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<After>,
    },
    /// Runs a task.
    Run {
        /// Such as `run layers.7`.
        name: String,
        /// The task.
        task: String,
        /// One entry per access, then one for workspace if any: a berth, or adjacent parts as `a + b`.
        berths: Vec<String>,
        /// What must have ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<After>,
    },
    /// From here the caller's bytes may be written over an input's berth.
    Feed {
        /// Such as `feed input_ids`.
        name: String,
        /// The berth that takes them.
        berth: String,
        /// What must have ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<After>,
    },
    /// From here an output may be read.
    Fetch {
        /// Such as `fetch logits`.
        name: String,
        /// The berth that holds it.
        berth: String,
        /// What must have ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<After>,
    },
    /// Reserved: a read through a speculative copy that may have been cancelled. Refused in format 1.
    Require {
        /// Such as `require expert.3`.
        name: String,
        /// The berth that is read.
        berth: String,
        /// What must have ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<After>,
    },
    /// Reserved: a berth whose content is chosen at run time within a verified range. Refused in format 1.
    Pool {
        /// Such as `pool experts`.
        name: String,
        /// The berth that is shared out.
        berth: String,
        /// What must have ended.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<After>,
    },
}

impl Instruction {
    /// Its name.
    pub fn name(&self) -> &str {
        use Instruction::*;
        match self {
            Copy { name, .. }
            | Run { name, .. }
            | Feed { name, .. }
            | Fetch { name, .. }
            | Require { name, .. }
            | Pool { name, .. } => name,
        }
    }
    /// The berth that it feeds.
    pub fn feeds(&self) -> Option<&str> {
        match self {
            Instruction::Feed { berth, .. } => Some(berth),
            _ => None,
        }
    }
    /// What must have ended before it starts.
    pub fn after(&self) -> &[After] {
        use Instruction::*;
        match self {
            Copy { after, .. }
            | Run { after, .. }
            | Feed { after, .. }
            | Fetch { after, .. }
            | Require { after, .. }
            | Pool { after, .. } => after,
        }
    }
}

/// Where a copy reads. Text: `Home` or `Berth("x")`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// The tensor's home.
    Home,
    /// A berth.
    Berth(String),
}

/// Which bytes a copy moves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// All of the target berth's part of the tensor, as many as the dims say, packed on both sides. Of a state as many
    /// as the version at hand has: after this step's append, as many as the grown dims say.
    #[default]
    Whole,
    /// A byte range of the tensor, half open.
    Bytes(u64, u64),
    /// The whole tensor as rows that lie a pitch apart on each side.
    Rows {
        /// Number of rows.
        rows: Expr,
        /// Bytes of a row.
        bytes: Expr,
        /// Bytes from row to row where it reads.
        from_pitch: Expr,
        /// Bytes from row to row where it writes.
        to_pitch: Expr,
    },
}

/// How urgent a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    /// An engine is waiting.
    Demand,
    /// The plan counts on it.
    Planned,
    /// It may turn out to be needless.
    Speculative,
}

/// An instruction that must have ended. Text: `run a`, or `run a~1` for the previous step's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct After {
    /// The instruction's name.
    pub name: String,
    /// How many steps back. More than one is refused by the verifier.
    pub steps: u32,
}

impl After {
    /// In the same step.
    pub fn this(name: impl Into<String>) -> After {
        After { name: name.into(), steps: 0 }
    }
    /// In the step before.
    pub fn previous(name: impl Into<String>) -> After {
        After { name: name.into(), steps: 1 }
    }
}

/// What can be counted, checked by the verifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// Runs in one step, by body.
    pub calls: BTreeMap<String, u64>,
    /// Bytes over each link, at the upper end of the dims.
    pub traffic: Vec<Traffic>,
    /// End of the highest berth, by tier.
    pub peaks: BTreeMap<String, u64>,
    /// What no program with these tasks can beat.
    pub bounds: Vec<Bound>,
}

/// Bytes that cross a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// The prologue (empty), a body or a transition.
    pub part: String,
    /// The link.
    pub link: String,
    /// Bytes, once through that part.
    pub bytes: u64,
}

/// Something that no program with these tasks, engines and capacities can beat, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub enum Bound {
    /// In every step of `body` at least `bytes` must enter the memory of the engine. Witness: the tier's room, and the
    /// task `at` during which it also holds that task's other operands; what else the step reads cannot be there.
    Traffic {
        /// The body.
        body: String,
        /// The tier that the bytes enter.
        tier: String,
        /// At least so many, each step.
        bytes: u64,
        /// The task of the witness.
        at: String,
    },
    /// In every step of `body` at least `bytes` must enter the memory of the engine between the start of the task `at` and
    /// that of the task `to`, which is the next step's where it does not stand behind. Witness: the weights that tasks from
    /// the one to the other read whole, less the tier's room beside the other operands of `at`.
    Window {
        /// The body.
        body: String,
        /// The tier that the bytes enter.
        tier: String,
        /// At least so many, in that time.
        bytes: u64,
        /// The task at whose start the window opens.
        at: String,
        /// The task at whose start it closes.
        to: String,
    },
    /// The tier needs at least `bytes`. Witness: the operands and workspace of the task `at`, which are there together.
    Room {
        /// The body.
        body: String,
        /// The tier.
        tier: String,
        /// At least so many.
        bytes: u64,
        /// The task of the witness.
        at: String,
    },
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}
fn is_no_time(value: &Nanos) -> bool {
    value.0 == 0
}
fn is_whole(extent: &Extent) -> bool {
    *extent == Extent::Whole
}
