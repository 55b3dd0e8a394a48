//! What goes wrong in one run, by a seed, and what has happened.

use crate::device::Rng;

/// What the disk does at one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Says that it cannot.
    Fails,
    /// Gives nothing from then on, though the file has it.
    Dry,
    /// Never comes back.
    Stuck,
    /// The queue takes no more.
    Refuses,
    /// The queue cannot be waited for, once.
    Waits,
    /// The queue cannot be waited for from then on.
    Broken,
}

/// What an engine does at one of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    /// Says that it cannot, before or after it has spoilt what it writes.
    Fails,
    Spills,
    /// Does not come back before it is asked to stop.
    Waits,
    /// Never comes back.
    Deaf,
}

/// What goes wrong in one run. Reads and runs of tasks are counted from zero.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Whoever is most urgent goes on, rather than anybody.
    pub by_urgency: bool,
    /// Some reads, tasks and threads take their time.
    pub late: bool,
    /// Some reads bring less than asked for, are interrupted, or say to come again.
    pub short: bool,
    /// Reads end in any order.
    pub reordered: bool,
    pub disk: Option<(u64, Blow)>,
    pub engine: Option<(u64, Ill)>,
    /// The step in which the caller refuses, and whether it is asked for an input then.
    pub refuses: Option<(usize, bool)>,
    /// Nanoseconds after which somebody stops the run.
    pub stop: Option<u64>,
    /// Somebody calls copies off, again and again.
    pub calls_off: bool,
    /// The limit is less than what is late may take.
    pub tight: bool,
}

impl Plan {
    /// One for a run of so many reads and runs of tasks, more or less.
    pub fn new(dice: &mut Rng, reads: u64, runs: u64, steps: usize) -> Plan {
        let once_in = |dice: &mut Rng, many: usize| dice.below(many) == 0;
        let blows = [Blow::Fails, Blow::Fails, Blow::Dry, Blow::Stuck, Blow::Refuses, Blow::Waits, Blow::Broken];
        let ills = [Ill::Fails, Ill::Fails, Ill::Spills, Ill::Waits, Ill::Deaf];
        let mut plan = Plan {
            by_urgency: once_in(dice, 2),
            late: once_in(dice, 3),
            short: once_in(dice, 3),
            reordered: once_in(dice, 2),
            calls_off: once_in(dice, 3),
            ..Plan::default()
        };
        if once_in(dice, 4) {
            plan.disk = Some((dice.next() % reads.max(1), blows[dice.below(blows.len())]));
        }
        if once_in(dice, 6) {
            plan.engine = Some((dice.next() % runs.max(1), ills[dice.below(ills.len())]));
        }
        if once_in(dice, 12) {
            plan.refuses = Some((dice.below(steps + 1), once_in(dice, 2)));
        }
        if once_in(dice, 6) {
            let most = [10_000, 300_000, 3_000_000, 30_000_000][dice.below(4)];
            plan.stop = Some(dice.below(most) as u64);
        }
        plan.tight = plan.late && once_in(dice, 4);
        plan
    }

    /// One for loading weights that engines keep: so many reads, more or less, for so many tasks.
    pub fn loading(dice: &mut Rng, reads: u64, tasks: u64) -> Plan {
        let mut plan = Plan { short: dice.below(2) == 0, ..Plan::default() };
        match dice.below(4) {
            0 => plan.disk = Some((dice.next() % reads.max(1), [Blow::Fails, Blow::Dry][dice.below(2)])),
            1 => plan.engine = Some((dice.next() % tasks.max(1), [Ill::Fails, Ill::Spills][dice.below(2)])),
            _ => {}
        }
        plan
    }

    /// Whether something never comes back by itself, so that only the limit ends the run.
    pub fn holds(&self) -> bool {
        matches!(self.disk, Some((_, Blow::Stuck))) || matches!(self.engine, Some((_, Ill::Waits | Ill::Deaf)))
    }
    /// Whether something may come back later than the run waits for it, so that its executor is lost.
    pub fn loses(&self) -> bool {
        let kept = matches!(self.disk, Some((_, Blow::Stuck))) || matches!(self.engine, Some((_, Ill::Deaf)));
        kept || self.tight || self.late && self.holds()
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub turns: u64,
    pub late: u64,
    pub short: u64,
    pub overtaken: u64,
    pub blows: u64,
    pub ills: u64,
    pub called_off: u64,
    pub stopped_late: u64,
    pub lost: u64,
    /// Tasks whose weights were given to an engine to keep, and loads that were refused for what went wrong.
    pub kept: u64,
    pub refused: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.turns += other.turns;
        self.late += other.late;
        self.short += other.short;
        self.overtaken += other.overtaken;
        self.blows += other.blows;
        self.ills += other.ills;
        self.called_off += other.called_off;
        self.stopped_late += other.stopped_late;
        self.lost += other.lost;
        self.kept += other.kept;
        self.refused += other.refused;
    }
}
