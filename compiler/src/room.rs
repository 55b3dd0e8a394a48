//! Why there is no plan; where the device is too small, the least that works and what sets it.

use crate::machine::CannotPlan;
use berth_ir::units::Bytes;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The target cannot run anything.
    #[error(transparent)]
    Machine(#[from] CannotPlan),
    /// Nothing to run.
    #[error("the model computes nothing: no operator is left once constants are worked out")]
    Empty,
    /// The device is too small.
    #[error("{0}")]
    NoRoom(Box<NoRoom>),
}

/// The least capacity that works, and what sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// The tier that is too small.
    pub tier: String,
    /// What it has.
    pub room: u64,
    /// The least.
    pub least: Least,
    /// It is the memory below the device, through which weights come.
    pub below: bool,
}

/// The least capacity of the device that a plan was found for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Least {
    /// Bytes of the arena; the most that there are where no capacity works.
    pub bytes: u64,
    /// No plan with these tasks can do with less.
    pub bound: u64,
    /// The task at which most is held.
    pub task: String,
    /// What is held there: the task's operands first, then what else must stay, with bytes.
    pub held: Vec<(String, u64)>,
    /// Whether activations were put aside in a lower memory.
    pub spills: bool,
    /// Bytes that the lower memory needs for that.
    pub lower: u64,
}

impl Least {
    /// No capacity of the device works: the memory below is too small.
    pub fn none() -> Least {
        Least { bytes: u64::MAX, bound: 0, task: String::new(), held: Vec::new(), spills: false, lower: 0 }
    }

    /// Whether some capacity works.
    pub fn works(&self) -> bool {
        self.bytes < u64::MAX
    }
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = &self.least;
        let short = least.bytes.saturating_sub(self.room);
        writeln!(f, "{} is {} too small at task `{}`", self.tier, exact(short), least.task)?;
        let held: Vec<String> =
            least.held.iter().take(6).map(|(n, b)| format!("`{n}` {}", Bytes(*b).human())).collect();
        let more = least.held.len().saturating_sub(held.len());
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        writeln!(f, "  capacity {}, needed {}: {}{more}", exact(self.room), exact(least.bytes), held.join(", "))?;
        let (tier, needed) = (&self.tier, least.bytes);
        if self.below {
            return write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, the least for weights on their way from files to the device"
            );
        }
        match (least.spills, least.lower) {
            (true, 0) => write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, the least with every operand brought for its task alone"
            ),
            (true, lower) => write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, with {} of a lower memory for what is put aside",
                exact(lower)
            ),
            (false, _) => write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, the least with activations staying where they are; with a lower memory (such as `--memory dram=1GiB`) they could be put aside"
            ),
        }
    }
}

/// Bytes exactly, and for people where that is another number.
fn exact(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{bytes} B ({})", Bytes(bytes).human()) }
}
