//! What a run saw of itself: kept as numbers in room that was made before, given names afterwards.

use crate::executor::board::Instance;
use crate::executor::hand::Log;
use crate::executor::table::Table;

/// One instance of an instruction, as it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The instruction.
    pub name: String,
    /// Zero is the prologue, one the first step.
    pub step: usize,
    /// The engine or link; empty for the caller.
    pub lane: String,
    /// Bytes moved.
    pub bytes: u64,
    /// Nanoseconds after the start of the run.
    pub start: u64,
    /// Nanoseconds after the start of the run.
    pub end: u64,
}

/// A step, as it went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepSeen {
    /// Nanoseconds after the start of the run at which the last of it ended.
    pub end: u64,
    /// Nanoseconds that each engine computed in it, in the order of [`Ran::engines`].
    pub busy: Vec<u64>,
}

/// A run that ended well.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// The engines that computed.
    pub engines: Vec<String>,
    /// The prologue, then the first steps, up to some tens of thousands.
    pub steps: Vec<StepSeen>,
    /// The first instances that began, in that order: as many as were asked for.
    pub seen: Vec<Seen>,
}

/// What is kept of an instance.
#[derive(Clone, Copy, Debug)]
struct Record {
    instance: Instance,
    lane: usize,
    start: u64,
    end: u64,
}

/// The records of one thread.
#[derive(Debug)]
pub(crate) struct Records {
    kept: Vec<Record>,
}

impl Records {
    /// Room for so many.
    pub fn new(most: usize) -> Records {
        Records { kept: Vec::with_capacity(most) }
    }

    /// Keeps one if there is room.
    pub fn add(&mut self, lane: usize, instance: Instance, start: u64, end: u64) {
        if self.kept.len() < self.kept.capacity() {
            self.kept.push(Record { instance, lane, start, end });
        }
    }
}

/// Gives what was kept its names: at most so many, from the first on.
pub(crate) fn ran(table: &Table, engines: Vec<String>, log: &Log, records: Vec<Records>, most: usize) -> Ran {
    let mut kept: Vec<Record> = records.into_iter().flat_map(|records| records.kept).collect();
    kept.sort_by_key(|record| (record.start, record.end));
    kept.truncate(most);
    let seen = kept.iter().map(|record| {
        let item = &table.half(record.instance.half)[record.instance.index];
        Seen {
            name: item.name.clone(),
            step: record.instance.step,
            lane: table.lanes[record.lane].name.clone(),
            bytes: item.bytes,
            start: record.start,
            end: record.end,
        }
    });
    let seen = seen.collect();
    let step = |(n, end): (usize, &u64)| StepSeen {
        end: *end,
        busy: log.busy[n * log.engines..(n + 1) * log.engines].to_vec(),
    };
    Ran { engines, steps: log.ends.iter().enumerate().map(step).collect(), seen }
}
