//! The compute engine: runs one task's arithmetic on tensors that lie where the program put them.
//!
//! A task is a small ONNX model. [`Engine::prepare`] makes a session of it, [`Engine::bind`] ties a session's ports to
//! addresses, [`Engine::run`] computes. All outputs are written in place; what the engine needs besides comes from the
//! workspace range that the program planned for the task. `docs/engine.md` says what was measured and why it is so.
//!
//! This file holds the types and the trait; [`ort`] is the one engine there is.

mod allocator;
mod library;
pub mod ort;
mod placement;

use berth_ir::DType;
use bytes::Bytes;
use std::path::PathBuf;

/// Where tensors and workspaces must start, in bytes: a cache line, and the widest vector of the engine's kernels.
pub const ALIGNMENT: u64 = 64;

/// What an engine needs to run one task: a small ONNX model and its ports, in the model's order.
#[derive(Clone, Debug)]
pub struct TaskCode {
    /// For people: errors name it.
    pub name: String,
    /// The model file's bytes. Tasks with identical bytes share a session, whatever their names and shapes.
    pub model: Bytes,
    /// The graph's inputs.
    pub inputs: Vec<Port>,
    /// The graph's outputs.
    pub outputs: Vec<Port>,
    /// Bytes of the block of weights that comes with the model; zero where its weights are inputs. The model's
    /// initializers say where in [`KEPT_FILE`] they lie.
    pub kept: u64,
}

/// The name by which models call the block of weights that comes with them.
pub const KEPT_FILE: &str = "kept";

impl TaskCode {
    /// All ports, inputs first.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.inputs.iter().chain(&self.outputs)
    }

    /// Where each port lies when all lie back to back, each on [`ALIGNMENT`], and the bytes of the whole: the layout
    /// that [`Engine::measure`] uses. `None` where a size does not fit in memory or is not defined.
    pub fn scratch_layout(&self) -> Option<(Vec<u64>, u64)> {
        let mut end = 0_u64;
        let mut offsets = Vec::new();
        for port in self.ports() {
            offsets.push(end);
            end = end.checked_add(port.bytes()?)?.checked_next_multiple_of(ALIGNMENT)?;
        }
        Some((offsets, end))
    }
}

/// A graph input or output of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name in the model.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Exact size of each axis; zero is a size. For an output whose size is found, the most that each can be.
    pub shape: Vec<u64>,
    /// Whether only the run says how large it is (outputs only): the engine makes it in a block of its own, and its bytes
    /// are then copied to the port's address.
    pub found: bool,
    /// What an input holds in a trial, where zeros would make no sense (sizes, limits).
    pub trial: Option<Bytes>,
    /// Whether its bytes come from elsewhere than a task before it: a weight, which is in no cache when its task begins.
    pub weight: bool,
}

impl Port {
    /// A port of a fixed size.
    pub fn new(name: String, dtype: DType, shape: Vec<u64>) -> Port {
        Port { name, dtype, shape, found: false, trial: None, weight: false }
    }

    /// Bytes of the tensor; `None` for strings and on overflow.
    pub fn bytes(&self) -> Option<u64> {
        let elements = self.shape.iter().try_fold(1_u64, |n, axis| n.checked_mul(*axis))?;
        self.dtype.bytes(elements)
    }
}

/// How to open an engine.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// The library file, or a folder that holds it; `None` searches as [`ort::find_library`] says.
    pub library: Option<PathBuf>,
    /// Threads that share one operator's arithmetic, the calling one included. Results depend on it: some kernels split
    /// their sums by it.
    pub threads: usize,
    /// Whether threads that have nothing to do look for work without sleeping. Operators of some microseconds then run up to
    /// twice as fast, as long as nothing else wants the cores.
    pub spin: bool,
}

/// Names a prepared session of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(u32);

impl SessionId {
    /// The id of an engine's so many-th session.
    pub fn new(place: u32) -> SessionId {
        SessionId(place)
    }

    /// Which one it is.
    pub fn place(self) -> u32 {
        self.0
    }
}

/// Names a binding of one engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BindingId(u32);

impl BindingId {
    /// The id of an engine's so many-th binding.
    pub fn new(place: u32) -> BindingId {
        BindingId(place)
    }

    /// Which one it is.
    pub fn place(self) -> u32 {
        self.0
    }
}

/// What one task costs, as measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of workspace with which a run of this task, at these shapes and this thread count, never spills.
    pub workspace_bytes: u64,
    /// The median of the runs, in wall nanoseconds: a step is made of usual runs, not of the best.
    pub run_nanos: u64,
    /// Bytes that the engine keeps for it.
    pub kept_bytes: u64,
    /// Most bytes beside those while it is loaded, the block of its weights among them.
    pub loading_bytes: u64,
    /// The shapes that the last run found, for each output whose size is found.
    pub found: Vec<Vec<u64>>,
}

/// A session with weights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// The session.
    pub session: SessionId,
    /// Bytes, from the start of its room, that hold what it keeps.
    pub bytes: u64,
    /// Most bytes beyond them that were in use while it was made, the block of weights not counted.
    pub loading: u64,
}

/// One engine queue, used from one thread at a time.
#[allow(unsafe_code, reason = "declares what only a caller can promise: that addresses are valid; no code here")]
pub trait Engine: Send {
    /// Makes a session for the task's model, or finds the one that identical bytes already have, and checks that the
    /// model's ports are those of `code`.
    fn prepare(&mut self, code: &TaskCode) -> Result<SessionId, EngineError>;

    /// Makes a session for a task that keeps its weights: the engine joins operators and packs what its kernels like
    /// packed. `weights` are the task's block ([`TaskCode::kept`] bytes), of which nothing is needed afterwards. What the
    /// engine keeps lies in `room` (start on [`ALIGNMENT`], bytes); with none it lies wherever, for a trial.
    ///
    /// # Errors
    /// [`EngineError::Room`] where the room is too small.
    ///
    /// # Safety
    /// The room is valid and no one else's until the session is forgotten or the engine dropped.
    unsafe fn keep(
        &mut self,
        code: &TaskCode,
        weights: &[u8],
        room: Option<(*mut u8, usize)>,
    ) -> Result<Keeping, EngineError> {
        let _ = (weights, room);
        Err(EngineError::Unknown(format!("way to keep weights of task `{}`", code.name)))
    }

    /// Forgets a session that [`Engine::keep`] made, and its bindings.
    fn forget(&mut self, session: SessionId) {
        let _ = session;
    }

    /// Runs the task `runs` times (at least once) on scratch memory that holds its ports as
    /// [`TaskCode::scratch_layout`] says and starts on [`ALIGNMENT`].
    ///
    /// The inputs are what the scratch holds on entry: zeros suit most operators, and what the cost or the legality of
    /// a task depends on (indices, counts) is the caller's to write. One run goes ahead to warm up; `before` is called
    /// before each that is timed, to put the caches into the state that the caller wants.
    fn measure(
        &mut self,
        session: SessionId,
        code: &TaskCode,
        scratch: &mut [u8],
        runs: u32,
        before: &mut dyn FnMut(),
    ) -> Result<Measured, EngineError>;

    /// Ties the ports of a session to addresses. The shapes are those of `code`, so one session with open dims can have
    /// bindings of several shapes.
    ///
    /// # Safety
    /// While a run of this binding is in flight, each address must be valid for the bytes of its port, inputs for
    /// reads and outputs for writes, and no one else may write an input or touch an output.
    unsafe fn bind(
        &mut self,
        session: SessionId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<BindingId, EngineError>;

    /// Gives a binding other addresses, and other shapes where the session's dims are open. After an error the binding
    /// is gone.
    ///
    /// # Safety
    /// As [`Engine::bind`].
    unsafe fn rebind(
        &mut self,
        binding: BindingId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<(), EngineError>;

    /// Forgets a binding; its id may be given again.
    fn unbind(&mut self, binding: BindingId);

    /// Runs a binding to its end. What the engine needs besides the ports lies in `workspace` (start, bytes), whose
    /// start is on [`ALIGNMENT`]. An `Err` means that the outputs hold nothing of use. What sizes were found,
    /// [`Engine::found`] says.
    ///
    /// # Safety
    /// What [`Engine::bind`] asks holds, and the workspace is valid and no one else's until this returns.
    unsafe fn run(&mut self, binding: BindingId, workspace: (*mut u8, usize)) -> Result<(), EngineError>;

    /// The shapes that the last run of a binding found, for each output whose size is found, in the order of outputs.
    fn found(&self, binding: BindingId) -> &[Vec<u64>];

    /// A handle with which another thread asks this engine's runs to end.
    fn stopper(&self) -> Stopper;
}

/// Asks an engine's run in flight to end. It ends at the next operator's edge with [`EngineError::Stopped`]; a stop
/// asked between runs ends the next one. The run that reports it uses it up, so later runs start clean.
#[derive(Clone)]
pub struct Stopper(std::sync::Arc<dyn StopFlag>);

impl Stopper {
    /// A handle on what an engine looks at while it runs.
    pub fn new(flag: std::sync::Arc<dyn StopFlag>) -> Stopper {
        Stopper(flag)
    }

    /// Asks for the stop. Never waits.
    pub fn stop(&self) {
        self.0.set(true);
    }

    /// Takes back a stop that no run has reported yet.
    pub fn withdraw(&self) {
        self.0.set(false);
    }
}

impl std::fmt::Debug for Stopper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stopper")
    }
}

/// What an engine keeps behind a [`Stopper`].
pub trait StopFlag: Send + Sync {
    /// Asks for a stop, or takes it back. Never waits.
    fn set(&self, stop: bool);
}

/// Why the engine could not do something. Words in quotes after "engine:" are the engine's own.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The library is nowhere.
    #[error("no compute engine found (looked in: {looked}); run `cargo xtask setup`, or name it with BERTH_ENGINE")]
    Missing {
        /// The places that were searched.
        looked: String,
    },
    /// The file is not the library.
    #[error("{} is not a usable ONNX Runtime library: {reason}; `cargo xtask setup` fetches the right one", path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library is too old.
    #[error("{} is ONNX Runtime {found}, wanted {wanted}; `cargo xtask setup` fetches the right one", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says it is.
        found: String,
        /// What would do.
        wanted: &'static str,
    },
    /// The process already has an engine that this one would have to share and cannot.
    #[error("this process already runs the engine with {running}; {asked} cannot be had beside it")]
    AlreadyOpen {
        /// What is open.
        running: String,
        /// What was asked for.
        asked: String,
    },
    /// The engine refused.
    #[error("task `{task}`: could not {step}; engine: {status}")]
    Engine {
        /// The task.
        task: String,
        /// What was being done.
        step: &'static str,
        /// The engine's status text.
        status: String,
    },
    /// The model and the description of its ports disagree.
    #[error("task `{task}`: {what}")]
    Ports {
        /// The task.
        task: String,
        /// Where they disagree.
        what: String,
    },
    /// A result is larger than its place.
    #[error(
        "task `{task}`: `{port}` came out with the shape {shape:?}, which is more than the {most_bytes} bytes that were planned for it"
    )]
    TooLarge {
        /// The task.
        task: String,
        /// The output.
        port: String,
        /// What came out.
        shape: Vec<u64>,
        /// What there is room for.
        most_bytes: u64,
    },
    /// A run needed more workspace than was planned for it; its outputs are not to be used.
    #[error(
        "task `{task}` needs {needed_bytes} bytes of workspace, {planned_bytes} were planned (a request of {asked_bytes} did not fit)"
    )]
    Spilled {
        /// The task.
        task: String,
        /// The first request that did not fit.
        asked_bytes: u64,
        /// What `run` was given.
        planned_bytes: u64,
        /// What would have sufficed.
        needed_bytes: u64,
    },
    /// What the engine keeps of a task's weights is more than was planned.
    #[error(
        "task `{task}`: the engine keeps {needed_bytes} bytes for it, {planned_bytes} were planned; compile it again with `--measure`"
    )]
    Room {
        /// The task.
        task: String,
        /// What would have sufficed.
        needed_bytes: u64,
        /// What it was given.
        planned_bytes: u64,
    },
    /// The engine kept part of the workspace after the run's end, so the range cannot be given to the next task.
    #[error("task `{task}`: the engine still holds {bytes} bytes of the workspace after the run")]
    Kept {
        /// The task.
        task: String,
        /// What it holds.
        bytes: u64,
    },
    /// Memory that the caller passed is too small, or not aligned.
    #[error("task `{task}`: {what}")]
    Memory {
        /// The task.
        task: String,
        /// What is wrong with it.
        what: String,
    },
    /// A [`Stopper`] ended the run.
    #[error("task `{task}` was stopped")]
    Stopped {
        /// The task.
        task: String,
    },
    /// An id that this engine did not give, or whose binding is gone.
    #[error("the engine knows no {0}")]
    Unknown(String),
}
