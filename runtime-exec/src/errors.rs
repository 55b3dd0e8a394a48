//! Why a program cannot be loaded, and why a run ends early: what, where, by how much, what next.

use crate::engine::EngineError;
use crate::store::StoreError;

/// Why a program cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// This runtime executes one body.
    #[error("the program has {bodies} bodies; this runtime executes programs of one: compile for one set of dims")]
    Bodies {
        /// How many.
        bodies: usize,
    },
    /// Each of the program's engines is one of the caller's.
    #[error("the program uses {wanted} engines, and {given} are given")]
    Engines {
        /// How many the program's tasks run on.
        wanted: usize,
        /// How many there are.
        given: usize,
    },
    /// This runtime moves contiguous bytes.
    #[error("`{copy}` moves rows with a pitch, which the host device does not")]
    Rows {
        /// The copy.
        copy: String,
    },
    /// The machine has not enough memory for an arena.
    #[error("{bytes} bytes for the arena of {tier} cannot be had on this machine")]
    Memory {
        /// The tier.
        tier: String,
        /// Bytes wanted.
        bytes: u64,
    },
    /// Weights cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The engine refuses a task.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A task needs more scratch than the program gives it.
    #[error(
        "task `{task}` needs {needed} bytes of workspace on this engine; the program gives it {planned}: compile it again with `--measure`, or run the model itself"
    )]
    Workspace {
        /// The task.
        task: String,
        /// Bytes that the engine needs.
        needed: u64,
        /// Bytes that the program gives it.
        planned: u64,
    },
    /// The code's ports and the task's accesses differ.
    #[error("task `{task}` and its code do not agree on operand {port}: {problem}")]
    Ports {
        /// The task.
        task: String,
        /// The port, inputs first.
        port: usize,
        /// In what.
        problem: String,
    },
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Reading a weight failed.
    #[error("`{instruction}` in step {step}: {source}")]
    Store {
        /// The instruction.
        instruction: String,
        /// The step, counted from one; zero is the prologue.
        step: usize,
        /// What went wrong.
        source: StoreError,
    },
    /// The engine failed.
    #[error("`{instruction}` in step {step}: {source}")]
    Engine {
        /// The instruction.
        instruction: String,
        /// The step, counted from one; zero is the prologue.
        step: usize,
        /// What went wrong.
        source: EngineError,
    },
    /// The caller could not take or give a tensor.
    #[error("`{instruction}` in step {step}: {problem}")]
    Caller {
        /// The instruction.
        instruction: String,
        /// The step, counted from one.
        step: usize,
        /// What the caller says.
        problem: String,
    },
    /// Nothing ended for too long.
    #[error(
        "nothing has ended for {seconds} s; waiting for {waiting}: raise `--time-limit` if the machine is that slow"
    )]
    Stalled {
        /// The limit.
        seconds: u64,
        /// The first instructions that have not ended.
        waiting: String,
    },
    /// Somebody asked it to stop.
    #[error("stopped in step {step}, as asked")]
    Stopped {
        /// The step, counted from one; zero is the prologue.
        step: usize,
    },
    /// The program was proved for one step.
    #[error("the program is made for one step, and {steps} are asked for: compile it as a loop")]
    Once {
        /// Steps that were asked for.
        steps: usize,
    },
    /// A dim that grows in each step would leave its range.
    #[error(
        "`{dim}` grows in each step, and the program has room for {room} steps; {steps} are asked for: compile it with a wider range of `{dim}`"
    )]
    Room {
        /// Steps that were asked for.
        steps: usize,
        /// The dim.
        dim: String,
        /// Steps that there is room for.
        room: usize,
    },
    /// A thread of this runtime panicked, which is a bug of it.
    #[error("a worker ended without a result; this is a bug of the runtime")]
    Lost,
    /// An earlier run of this executor did not end cleanly.
    #[error("an earlier run left this executor unusable; load the program again")]
    Unusable,
}
