//! What a residency decision is: where each tensor stays, from when to when, and how it gets there.

use berth_ir::lifetime::TensorId;
use smallvec::SmallVec;

/// Which of a machine's memories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The engine's memory.
    Device,
    /// The writable memory below it.
    Lower,
    /// Another one beside that, by its number.
    Further(u8),
}

impl Level {
    /// Whether it is below the device.
    pub fn is_below(self) -> bool {
        self != Level::Device
    }
}

/// Positions of uses. Nearly all stays have one or two, and a plan of a hundred thousand tasks makes millions of stays.
pub type Positions = SmallVec<[usize; 2]>;

/// One stay of a tensor in a memory. It becomes one berth.
///
/// Positions count tasks of a step. Its first use lies in the step itself; `from` may be negative, which means the step
/// before: the bytes are reserved, and the copy may begin, that early. Later uses of a weight may lie in the next step,
/// behind the last position of this one. A stay is shorter than a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stay {
    /// Who stays.
    pub tensor: TensorId,
    /// Where.
    pub level: Level,
    /// First position at which it holds its bytes.
    pub from: i64,
    /// Last position, inclusive.
    pub to: i64,
    /// It never leaves: brought once before the first step, there in all steps.
    pub forever: bool,
    /// It is below only on its way to the device before the first step; what never leaves else.
    pub stage: bool,
    /// How the bytes get there.
    pub arrives: Arrival,
    /// Tasks that use it in place.
    pub uses: Positions,
    /// The caller writes its first bytes, before the first step: a state is here as the step begins.
    pub fed: bool,
    /// The caller reads it here.
    pub fetched: bool,
    /// Bytes; a workspace's is that of its task.
    pub bytes: u64,
    /// Which bytes of the tensor, where they are not all: parts of one stay lie one behind the other.
    pub part: Option<(u64, u64)>,
}

/// How a tensor gets to where it stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// From its home. On demand: only when the engine has come to the task that wants it.
    Home {
        /// The engine waits for it.
        demand: bool,
    },
    /// From another stay, by index.
    Stay {
        /// Index of the stay that it is copied from.
        from: usize,
        /// The engine waits for it.
        demand: bool,
    },
    /// The task at this position writes it.
    Run(usize),
    /// The caller writes it.
    Feed,
    /// Nobody: scratch of one task.
    Scratch,
}

impl Stay {
    /// Whether it lasts from one step into the next: its first instance is there before the first step.
    pub fn crosses(&self, period: i64) -> bool {
        self.to >= period && !self.forever
    }

    /// The position that it must be there for: its first use, or that of what is copied from it.
    pub fn wanted(&self) -> i64 {
        self.uses.first().map_or(self.to, |p| *p as i64)
    }

    /// Whether two stays ever hold bytes at the same time, steps repeating every `period` positions.
    pub fn meets(&self, other: &Stay, period: i64) -> bool {
        if self.forever || other.forever {
            return true;
        }
        [-period, 0, period].iter().any(|k| self.from <= other.to + k && other.from + k <= self.to)
    }

    /// The positions of a step at which it holds its bytes, as half-open ranges: two where it begins in the step before or
    /// ends in the next.
    pub fn spans(&self, period: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (from, end) = (self.from, self.to + 1);
        let parts = [(from + period, period), (from.max(0), end.min(period)), (0, end - period)];
        parts.into_iter().filter(|(from, to)| from < to)
    }
}

/// Total bytes held at each position of a step at one level, each stay rounded up to the alignment.
pub fn load_curve(stays: &[Stay], level: Level, positions: usize, alignment: u64) -> Vec<u64> {
    let period = positions as i64;
    let mut change = vec![0i128; positions + 1];
    let mut add = |from: i64, to: i64, bytes: u64| {
        change[from as usize] += i128::from(bytes);
        change[to as usize + 1] -= i128::from(bytes);
    };
    for stay in stays.iter().filter(|s| s.level == level) {
        let bytes = stay.bytes.next_multiple_of(alignment);
        if stay.forever {
            add(0, period - 1, bytes);
        } else {
            for (from, to) in stay.spans(period) {
                add(from, to - 1, bytes);
            }
        }
    }
    let mut load = 0i128;
    change[..positions]
        .iter()
        .map(|c| {
            load += c;
            u64::try_from(load).unwrap_or(u64::MAX)
        })
        .collect()
}
