//! Works out the instructions of stays and offsets, and what each of them waits for.
//!
//! Reads:    lifetimes, machine, stays, offsets.
//! Decides:  nothing; every `after` follows from who held the bytes before and who made them.
//! Promises: a program that the verifier accepts, if stays that meet share no byte.
//! Why:      an edge only where it is needed: the last holder of each byte, and the source of each copy. Instructions have
//!           numbers here: a choice that is only simulated needs no names (`work`), and one that is kept gets them once
//!           (`write`).

mod work;
mod write;

pub(crate) use write::budgets;

use crate::below::STAGES;
use crate::holders::Holders;
use crate::machine::Machine;
use crate::offset::Offsets;
use crate::stay::{Arrival, Level, Stay};
use crate::step::{Lines, Wait};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::*;
use berth_ir::target::{Link, Target};
use berth_ir::units::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// The name of the only body.
pub const BODY: &str = "step";

/// Stays with addresses, and what is asked of them often.
pub(crate) struct Emitter<'a> {
    lifetimes: &'a Lifetimes,
    machine: &'a Machine<'a>,
    host: &'a [bool],
    stays: &'a [Stay],
    offsets: Vec<u64>,
    /// What the device needs, and the memories below it.
    heights: Vec<u64>,
    /// Stays that are copied out of a stay: by index of the source.
    copies_out: Vec<Vec<usize>>,
    /// For each stay those that held its bytes last before it, and how many steps back.
    holders: Vec<Vec<(usize, u32)>>,
    /// Stays that are below only before the first step, in order.
    stages: Vec<usize>,
    /// The stays that each task uses.
    by_position: Vec<Vec<usize>>,
    /// By stay the link of its copy, where memories are joined by several.
    queues: Vec<Option<&'a Link>>,
}

/// An instruction, by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The copy or the feed that brings a stay.
    Bring(usize),
    /// The caller writes the first bytes of a state where it is as the step begins.
    Begin(usize),
    /// The task at a position.
    Run(usize),
    /// The caller reads a stay.
    Fetch(usize),
}

/// The program with what can be counted of it. Where it is broken the verifier says so; then nothing is counted.
pub fn with_facts(target: &Target, mut program: Program) -> Program {
    program.facts = berth_ir::verify::facts(target, &program).unwrap_or_default();
    program
}

/// Offsets of all levels in the order of all stays.
fn spread(machine: &Machine, stays: &[Stay], device: &Offsets, below: &[Offsets]) -> Vec<u64> {
    let mut all = vec![0; stays.len()];
    let levels = std::iter::once(Level::Device).chain(machine.below());
    for (level, offsets) in levels.zip(std::iter::once(device).chain(below)) {
        let here = stays.iter().zip(&mut all).filter(|(s, _)| s.level == level);
        here.zip(&offsets.at).for_each(|((_, at), offset)| *at = *offset);
    }
    all
}

/// For each stay those that held its bytes last before it, each with how many steps back: 0 or 1.
///
/// Goes through two steps in the order in which stays begin, and keeps for each byte who has it.
fn last_holders(stays: &[Stay], offsets: &[u64], period: i64) -> Vec<Vec<(usize, u32)>> {
    let mut all = vec![Vec::new(); stays.len()];
    let levels: BTreeSet<Level> = stays.iter().map(|s| s.level).collect();
    for level in levels {
        let here = |i: &usize| stays[*i].level == level && !stays[*i].forever && stays[*i].bytes > 0;
        let mut order: Vec<usize> = (0..stays.len()).filter(here).collect();
        order.sort_by_key(|i| (stays[*i].from, *i));
        // The second step begins before the first has ended where stays begin ahead of their step.
        let shifted = |step: i64| order.iter().map(move |i| (step, *i));
        let mut both: Vec<(i64, usize)> = shifted(0).chain(shifted(1)).collect();
        both.sort_by_key(|(step, i)| (stays[*i].from + step * period, *step, *i));
        let mut holders: Holders<(i64, usize)> = Holders::default();
        for (step, i) in both {
            for (earlier, j) in holders.take(offsets[i], offsets[i] + stays[i].bytes, (step, i)) {
                let back = (j, (step - earlier) as u32);
                if step == 1 && !all[i].contains(&back) {
                    all[i].push(back);
                }
            }
        }
    }
    all
}

/// The fastest link that can bring a stay.
fn fastest<'a>(machine: &Machine<'a>, stays: &[Stay], i: usize) -> Option<&'a Link> {
    match (stays[i].arrives, stays[i].level) {
        (Arrival::Stay { from, .. }, Level::Device) => machine.to_device(stays[from].level),
        (Arrival::Stay { .. }, level) => machine.from_device(level),
        (_, level) => machine.from_home(level),
    }
}

/// By stay the link of its copy: of several that join the same memories the one that is done soonest with all that it was
/// given before, in the order in which copies are wanted. Nothing where no memories are joined by several.
fn queues<'a>(machine: &Machine<'a>, stays: &[Stay]) -> Vec<Option<&'a Link>> {
    let mut busy: BTreeMap<&str, Vec<(u64, &'a Link)>> = BTreeMap::new();
    for way in machine.ways() {
        busy.insert(&way.name, machine.beside(way).map(|link| (0, link)).collect());
    }
    if busy.values().all(|links| links.len() < 2) {
        return Vec::new();
    }
    let mut order: Vec<usize> = (0..stays.len()).collect();
    order.sort_by_key(|i| (!stays[*i].forever, stays[*i].wanted(), *i));
    let mut queues = vec![None; stays.len()];
    for i in order {
        let arrives = matches!(stays[i].arrives, Arrival::Home { .. } | Arrival::Stay { .. });
        let Some(way) = fastest(machine, stays, i).filter(|_| arrives) else { continue };
        let Some(links) = busy.get_mut(way.name.as_str()) else { continue };
        let end = |(busy, link): &(u64, &Link)| {
            busy.saturating_add(Bytes(stays[i].bytes).at(link.present_rate()).0).saturating_add(link.submit.0)
        };
        let Some((n, until)) = links.iter().map(end).enumerate().min_by_key(|(_, until)| *until) else { continue };
        links[n].0 = until;
        queues[i] = Some(links[n].1);
    }
    queues
}

/// The same line in this step.
fn this(line: u32) -> Wait {
    Wait { line, steps: 0 }
}

/// The same line in the step before.
fn previous(line: u32) -> Wait {
    Wait { line, steps: 1 }
}

impl<'a> Emitter<'a> {
    /// `host` says by position which tasks the engine of the lower memory runs.
    pub fn new(
        lifetimes: &'a Lifetimes,
        machine: &'a Machine,
        host: &'a [bool],
        stays: &'a [Stay],
        device: &Offsets,
        below: &[Offsets],
    ) -> Emitter<'a> {
        let offsets = spread(machine, stays, device, below);
        let holders = last_holders(stays, &offsets, lifetimes.tasks.len() as i64);
        let mut copies_out = vec![Vec::new(); stays.len()];
        let mut by_position = vec![Vec::new(); lifetimes.tasks.len()];
        for (i, stay) in stays.iter().enumerate() {
            if let Arrival::Stay { from, .. } = stay.arrives {
                copies_out[from].push(i);
            }
            stay.uses.iter().for_each(|p| by_position[*p % lifetimes.tasks.len()].push(i));
        }
        let heights = std::iter::once(device).chain(below).map(|offsets| offsets.height).collect();
        let stages = (0..stays.len()).filter(|i| stays[*i].stage).collect();
        let queues = queues(machine, stays);
        Emitter { lifetimes, machine, host, stays, offsets, heights, copies_out, holders, stages, by_position, queues }
    }

    /// Instructions that there may be; each number is below.
    fn numbers(&self) -> usize {
        3 * self.stays.len() + self.lifetimes.tasks.len()
    }

    fn bring(&self, stay: usize) -> u32 {
        stay as u32
    }

    /// Of a position in the next step, its run in this one.
    fn run(&self, position: usize) -> u32 {
        (self.stays.len() + position % self.lifetimes.tasks.len()) as u32
    }

    fn fetch(&self, stay: usize) -> u32 {
        (self.stays.len() + self.lifetimes.tasks.len() + stay) as u32
    }

    fn begin(&self, stay: usize) -> u32 {
        (2 * self.stays.len() + self.lifetimes.tasks.len() + stay) as u32
    }

    /// What the instruction with a number does.
    fn act(&self, number: u32) -> Act {
        let (number, runs) = (number as usize, self.stays.len());
        let fetches = runs + self.lifetimes.tasks.len();
        let begins = fetches + runs;
        match number {
            n if n < runs => Act::Bring(n),
            n if n < fetches => Act::Run(n - runs),
            n if n < begins => Act::Fetch(n - fetches),
            n => Act::Begin(n - begins),
        }
    }

    fn period(&self) -> usize {
        self.lifetimes.tasks.len()
    }

    /// The instruction that brings a stay in each step; nothing where a task writes it, or it is there before the first.
    fn arrival(&self, i: usize) -> Option<u32> {
        match self.stays[i].arrives {
            Arrival::Feed if self.stays[i].forever => None,
            Arrival::Home { .. } | Arrival::Stay { .. } | Arrival::Feed => Some(self.bring(i)),
            Arrival::Run(_) | Arrival::Scratch => None,
        }
    }

    /// Whether the instruction with a number is the caller's.
    fn is_fed(&self, number: u32) -> bool {
        match self.act(number) {
            Act::Begin(_) => true,
            Act::Bring(i) => self.stays[i].arrives == Arrival::Feed,
            Act::Run(_) | Act::Fetch(_) => false,
        }
    }

    /// The last uses of a stay: its last run, and all copies and fetches out of it. Each with how many steps behind that in
    /// which the stay begins; what is there before the first step ends with those of the next step, which wait for the others.
    fn until(&self, i: usize) -> impl Iterator<Item = (u32, u32)> {
        let last = self.last_run(i).into_iter();
        let goes_on = self.goes_on(i);
        last.chain(self.ends_beside_runs(i)).filter(move |(_, turns)| !goes_on || *turns > 0)
    }

    fn last_run(&self, i: usize) -> Option<(u32, u32)> {
        self.stays[i].uses.iter().max().map(|p| (self.run(*p), (p / self.period()) as u32))
    }

    /// Copies and fetches out of a stay; what wrote it where nothing else uses it.
    fn ends_beside_runs(&self, i: usize) -> impl Iterator<Item = (u32, u32)> {
        let stay = &self.stays[i];
        let unused = !stay.fetched && self.copies_out[i].is_empty() && stay.uses.is_empty();
        let written = self.arrival(i).filter(|_| unused).map(|line| (line, 0));
        let copies = self.copies_out[i].iter().map(|c| (self.bring(*c), self.turns(*c)));
        let fetch = self.fetched_at(i).map(|p| (self.fetch(i), (p / self.period()) as u32));
        fetch.into_iter().chain(copies).chain(written)
    }

    /// Whether a state's stay is there before the first step.
    fn goes_on(&self, i: usize) -> bool {
        let stay = &self.stays[i];
        self.is_state(i) && !stay.forever && (stay.fed || stay.crosses(self.period() as i64))
    }

    /// What must have ended in the step before, for a use of a state's stay to be the end of it.
    fn ended_before(&self, i: usize) -> impl Iterator<Item = Wait> {
        let goes_on = self.goes_on(i);
        let ends = self.last_run(i).into_iter().chain(self.ends_beside_runs(i));
        ends.filter(move |(_, turns)| goes_on && *turns == 0).map(|(line, _)| previous(line))
    }

    /// How many steps before its own a copy's source began.
    fn turns(&self, copy: usize) -> u32 {
        let Arrival::Stay { from, .. } = self.stays[copy].arrives else { return 0 };
        let (source, stay, period) = (&self.stays[from], &self.stays[copy], self.period());
        if !self.is_state(from) || source.forever {
            return 0;
        }
        match source.level {
            // Behind its last use.
            Level::Device => (source.uses.iter().max().unwrap_or(&0) / period) as u32,
            // Of what is written behind a use, what comes back for that one or one before it is of the step before.
            _ => u32::from(source.fed && stay.uses.first().is_some_and(|p| *p as i64 <= source.from)),
        }
    }

    fn is_state(&self, i: usize) -> bool {
        let stay = &self.stays[i];
        stay.arrives != Arrival::Scratch && self.lifetimes.tensor(stay.tensor).kind == Kind::State
    }

    /// The instructions of the prologue and of the body. For each position: what is brought for it, what is fed, its run,
    /// what is fetched, what is put aside after it.
    fn lines(&self) -> [Lines; 2] {
        let mut prologue = Lines::default();
        // By position: before its run, at it, after it.
        let mut order: Vec<(usize, u8, Act)> = Vec::with_capacity(self.numbers());
        let (needed, read) = (self.needed(), self.read_at());
        // What goes through below before what is kept there comes stands before it.
        let early = |i: &usize| match self.stays[*i].arrives {
            Arrival::Stay { from, .. } => self.stays[from].stage,
            _ => self.stays[*i].stage,
        };
        let (first, then): (Vec<usize>, Vec<usize>) = (0..self.stays.len()).partition(early);
        for i in first.into_iter().chain(then) {
            let stay = &self.stays[i];
            if stay.fed {
                prologue.push(self.begin(i), []);
            }
            match stay.arrives {
                Arrival::Feed if stay.forever => {}
                Arrival::Home { .. } | Arrival::Stay { .. } if stay.forever => {
                    prologue.push(self.bring(i), self.first_waits(i));
                }
                Arrival::Stay { from, .. } if self.stays[from].level == Level::Device => {
                    order.push((self.left_for(i, from, &needed, &read), 2, Act::Bring(i)));
                }
                Arrival::Home { .. } | Arrival::Stay { .. } | Arrival::Feed => {
                    // What the first step finds of the step before it.
                    if stay.crosses(self.period() as i64) && !stay.fed {
                        prologue.push(self.bring(i), self.first_waits(i));
                    }
                    order.push((stay.wanted() as usize, 0, Act::Bring(i)));
                }
                Arrival::Run(_) | Arrival::Scratch => {}
            }
            if let Some(written) = self.fetched_at(i) {
                order.push((written % self.period(), 2, Act::Fetch(i)));
            }
        }
        order.extend((0..self.lifetimes.tasks.len()).map(|p| (p, 1, Act::Run(p))));
        order.sort_by_key(|(position, turn, _)| (*position, *turn));
        let mut body = Lines::default();
        for (_, _, act) in order {
            let number = match act {
                Act::Bring(i) => self.bring(i),
                Act::Run(p) => self.run(p),
                Act::Fetch(i) => self.fetch(i),
                Act::Begin(i) => self.begin(i),
            };
            body.push(number, self.waits(act));
        }
        [prologue, body]
    }

    /// For each stay the position, from the start of its own step on, at which its bytes may be taken next.
    fn needed(&self) -> Vec<i64> {
        let mut needed = vec![i64::MAX; self.stays.len()];
        for (stay, holders) in self.stays.iter().zip(&self.holders) {
            for (before, steps) in holders {
                let at = stay.from + i64::from(*steps) * self.period() as i64;
                needed[*before] = needed[*before].min(at);
            }
        }
        needed
    }

    /// For each stay the position of its first use, or of the first use of what is copied from it.
    fn read_at(&self) -> Vec<i64> {
        let mut read: Vec<i64> =
            self.stays.iter().map(|stay| stay.uses.first().map_or(i64::MAX, |p| *p as i64)).collect();
        for stay in self.stays {
            if let Arrival::Stay { from, .. } = stay.arrives {
                read[from] = read[from].min(stay.wanted());
            }
        }
        read
    }

    /// The position behind which a copy that puts a stay aside stands, so that of several those go first whose bytes are
    /// wanted first: that before which they are wanted, if that lies in the step, and before what reads the copy.
    fn left_for(&self, copy: usize, from: usize, needed: &[i64], read: &[i64]) -> usize {
        let stay = &self.stays[copy];
        let last = self.stays[from].uses.iter().max().filter(|_| self.is_state(copy));
        let behind = last.map_or(stay.from, |p| (p % self.period()) as i64);
        let turn = i64::from(self.turns(copy)) * self.period() as i64;
        let read = Some(read[copy]).filter(|read| *read > behind).unwrap_or(i64::MAX);
        let wanted = needed[from].saturating_sub(turn).min(read).saturating_sub(1);
        wanted.clamp(behind, self.period() as i64 - 1) as usize
    }

    /// What must have ended before an instruction starts, each once; of the same instruction in this step and the one
    /// before, this step's suffices.
    fn waits(&self, act: Act) -> Vec<Wait> {
        let mut after = match act {
            Act::Bring(i) if self.stays[i].arrives == Arrival::Feed => self.freed_by(i),
            Act::Bring(i) => self.copy_waits(i),
            Act::Run(p) => self.run_waits(p),
            Act::Fetch(i) => self.fetched_at(i).map(|p| this(self.run(p))).into_iter().collect(),
            Act::Begin(_) => Vec::new(),
        };
        after.sort_unstable();
        after.dedup_by_key(|wait| wait.line);
        after
    }

    /// The same for the copy that brings a stay in the prologue, where nothing has held its bytes but what was there on its
    /// way to the device.
    fn first_waits(&self, i: usize) -> Vec<Wait> {
        match self.stays[i].arrives {
            Arrival::Stay { from, .. } if self.stays[from].fed => vec![this(self.begin(from))],
            Arrival::Stay { from, .. } => self.made_by(from, true).into_iter().collect(),
            _ => {
                let Ok(n) = self.stages.binary_search(&i) else {
                    let lower = self.stays[i].level == Level::Lower;
                    return self.staged_at(i).filter(|_| lower).map(this).collect();
                };
                // The last that was in its place.
                let before = self.stages[..n].iter().rev().take(STAGES);
                let here = before.copied().find(|s| self.offsets[*s] == self.offsets[i]);
                here.into_iter().flat_map(|s| self.ends_beside_runs(s)).map(|(l, _)| this(l)).collect()
            }
        }
    }

    fn copy_waits(&self, i: usize) -> Vec<Wait> {
        let stay = &self.stays[i];
        let mut after = self.freed_by(i);
        if let Arrival::Stay { from, .. } = stay.arrives {
            match self.is_state(i) {
                true => after.extend(self.left_by(i, from)),
                false => {
                    after
                        .extend(self.written_at(from).map(|p| this(self.run(p))).or_else(|| self.made_by(from, false)));
                }
            }
        }
        if let (true, Some(p)) = (self.on_demand(i), stay.uses.first()) {
            after.push(match p.checked_sub(1) {
                Some(before) => this(self.run(before)),
                None => previous(self.run(self.lifetimes.tasks.len() - 1)),
            });
        }
        after
    }

    fn run_waits(&self, position: usize) -> Vec<Wait> {
        let mut after = Vec::new();
        for i in self.bound(position).into_iter().flatten() {
            let stay = &self.stays[i];
            match stay.arrives {
                Arrival::Run(p) if p != position && !self.is_state(i) => {}
                _ if self.is_state(i) => after.extend(self.state_waits(i, position)),
                // What it writes must be free; runs before it have ended by the engine's order.
                Arrival::Run(_) | Arrival::Scratch => {
                    let freed = self.freed_by(i).into_iter();
                    after.extend(freed.filter(|wait| !matches!(self.act(wait.line), Act::Run(_))));
                }
                _ if stay.uses[0] == position => after.extend(self.made_by(i, false)),
                // In the first step it is the prologue that brought it.
                _ if stay.uses.iter().find(|p| **p >= self.lifetimes.tasks.len())
                    == Some(&(position + self.lifetimes.tasks.len())) =>
                {
                    after.push(previous(self.bring(i)));
                }
                _ => {}
            }
        }
        after
    }

    /// What must have ended before a state's source may be copied: what wrote it last before the copy.
    fn left_by(&self, copy: usize, from: usize) -> Vec<Wait> {
        let (source, period, turns) = (&self.stays[from], self.period(), self.turns(copy));
        if source.level == Level::Device {
            // Put aside behind its last use.
            return source.uses.iter().max().map(|p| this(self.run(*p))).into_iter().collect();
        }
        let used = self.stays[copy].uses.first().copied().unwrap_or(0) + turns as usize * period;
        let written = self
            .last_write(from, used)
            .map(|(p, back)| Wait { line: self.run(p), steps: turns + back - (p / period) as u32 });
        let made = || self.arrived(from, turns);
        let made = written.map(|wait| vec![wait]).unwrap_or_else(made).into_iter().chain(self.begun(from, turns));
        let before = (turns > 0).then(|| self.ended_before(from)).into_iter().flatten();
        made.chain(before).collect()
    }

    /// The last position before another at which a task writes a stay, and how many steps before: where it never leaves, the
    /// last of the step before too.
    fn last_write(&self, i: usize, before: usize) -> Option<(usize, u32)> {
        let Stay { uses, tensor, forever, .. } = &self.stays[i];
        let writes = |p: &&usize| self.lifetimes.tasks[**p % self.period()].writes.contains(tensor);
        let here = uses.iter().filter(writes).filter(|p| **p < before).max().map(|p| (*p, 0));
        here.or_else(|| uses.iter().filter(writes).max().filter(|_| *forever).map(|p| (*p, 1)))
    }

    /// That a state's stay has been brought, seen so many steps behind that in which it begins.
    fn arrived(&self, i: usize, steps: u32) -> Vec<Wait> {
        match self.stays[i].arrives {
            Arrival::Run(p) => vec![Wait { line: self.run(p), steps }],
            _ => self.arrival(i).map(|line| Wait { line, steps }).into_iter().collect(),
        }
    }

    /// That the caller has written a state before the first step, where what it finds is asked for in the next.
    fn begun(&self, i: usize, steps: u32) -> Option<Wait> {
        let stay = &self.stays[i];
        (stay.fed && (stay.forever || steps > 0)).then(|| previous(self.begin(i)))
    }

    /// What a run of the task at a position waits for that uses a state's stay.
    fn state_waits(&self, i: usize, position: usize) -> Vec<Wait> {
        let (stay, period) = (&self.stays[i], self.period());
        let Some(used) = stay.uses.iter().copied().find(|p| p % period == position) else { return Vec::new() };
        let turns = (used / period) as u32;
        let in_turn = |p: &&usize| (**p / period) as u32 == turns;
        let mut after = Vec::new();
        // Other runs of its engine have ended; what came otherwise is waited for by the first that uses it, in each step.
        if stay.uses.iter().find(in_turn) == Some(&used) {
            let first = stay.uses[0] == used;
            match stay.arrives {
                Arrival::Run(p) if first && p == position => {
                    let freed = self.freed_by(i).into_iter();
                    after.extend(freed.filter(|wait| !matches!(self.act(wait.line), Act::Run(_))));
                }
                Arrival::Run(_) => {}
                _ => after.extend(self.arrival(i).map(|line| Wait { line, steps: turns })),
            }
            after.extend(self.begun(i, turns));
        }
        let task = &self.lifetimes.tasks[position];
        let writes = task.writes.contains(&stay.tensor);
        // What is copied from it is as it was before.
        let out = self.copies_out[i].iter().filter(|_| writes && stay.level.is_below());
        after.extend(out.filter_map(|copy| {
            let back = self.turns(*copy);
            let read = self.stays[*copy].uses.first()? + back as usize * period;
            let steps = match stay.forever {
                true => u32::from(read > used),
                false => turns.checked_sub(back).filter(|_| read <= used)?,
            };
            Some(Wait { line: self.bring(*copy), steps })
        }));
        // So is what the caller reads.
        let fetched = self.fetched_at(i).filter(|p| stay.forever || turns > (p / period) as u32);
        after.extend(fetched.filter(|_| writes).map(|_| previous(self.fetch(i))));
        if turns > 0 && stay.uses.iter().max() == Some(&used) {
            after.extend(self.ended_before(i));
        }
        after
    }

    /// Whether the engine waits for a copy.
    fn on_demand(&self, i: usize) -> bool {
        match self.stays[i].arrives {
            Arrival::Home { demand } | Arrival::Stay { demand, .. } => demand,
            Arrival::Run(_) | Arrival::Feed | Arrival::Scratch => false,
        }
    }

    /// The link of a copy.
    fn link(&self, i: usize) -> Option<&'a Link> {
        self.queues.get(i).copied().unwrap_or_else(|| fastest(self.machine, self.stays, i))
    }

    /// The stays that a run binds: of each operand its parts, which stand one behind the other, in order; then its scratch.
    fn bound(&self, position: usize) -> Vec<Vec<usize>> {
        let (task, stays) = (&self.lifetimes.tasks[position], &self.by_position[position]);
        let scratch = |i: &&usize| self.stays[**i].arrives == Arrival::Scratch;
        let parts = |tensor| -> Vec<usize> {
            let here = stays.iter().filter(|i| !scratch(i) && self.stays[**i].tensor == tensor);
            here.copied().collect()
        };
        let operands = task.reads.iter().chain(&task.writes).map(|t| parts(*t)).filter(|p| !p.is_empty());
        operands.chain(stays.iter().filter(scratch).map(|i| vec![*i])).collect()
    }

    /// The position from which on a stay's bytes are what the caller takes, where he takes them: where it is written last, or
    /// first used; of a state the last of a step, whichever step it began in.
    fn fetched_at(&self, i: usize) -> Option<usize> {
        let (stay, period) = (&self.stays[i], self.period());
        let Stay { uses, tensor, .. } = stay;
        if !stay.fetched {
            return None;
        }
        if !self.is_state(i) {
            return self.written_at(i).or(uses.first().copied());
        }
        let writes = |p: &&usize| self.lifetimes.tasks[**p % period].writes.contains(tensor);
        let left = uses.iter().filter(writes).max_by_key(|p| **p % period);
        left.or_else(|| uses.iter().min_by_key(|p| **p % period)).copied()
    }

    /// The position at which a task writes a stay last.
    fn written_at(&self, i: usize) -> Option<usize> {
        let Stay { uses, tensor, .. } = &self.stays[i];
        let tasks = &self.lifetimes.tasks;
        uses.iter().rev().copied().find(|p| tasks[*p % tasks.len()].writes.contains(tensor))
    }

    /// What must have ended before a stay's bytes may be read.
    fn made_by(&self, i: usize, in_prologue: bool) -> Option<Wait> {
        let stay = &self.stays[i];
        match (stay.arrives, self.arrival(i)) {
            (Arrival::Run(p), _) => Some(this(self.run(p))),
            (_, Some(line)) if stay.forever && !in_prologue => Some(previous(line)),
            (_, Some(line)) => Some(this(line)),
            (_, None) => None,
        }
    }

    /// What must have ended before a stay may be written: the ends of those that held its bytes last.
    fn freed_by(&self, i: usize) -> Vec<Wait> {
        let stay = &self.stays[i];
        if stay.forever {
            return Vec::new();
        }
        if stay.bytes == 0 {
            // It shares no byte with anything; only its own last instance is before it.
            return self.until(i).map(|(line, turns)| Wait { line, steps: 1 - turns.min(1) }).collect();
        }
        let period = self.lifetimes.tasks.len() as i64;
        // Runs end in order: of all that held the bytes, the last one says it for the others.
        let mut last_run: Option<(i64, Wait)> = None;
        let mut after = Vec::new();
        for &(j, steps) in &self.holders[i] {
            if let Some(p) = self.stays[j].uses.iter().max() {
                let at = *p as i64 - i64::from(steps) * period;
                // What ends in the step after its own has held the bytes since the step before.
                let steps = steps.saturating_sub((*p as i64 / period) as u32);
                last_run = last_run.max(Some((at, Wait { line: self.run(*p), steps })));
            }
            let end = |(line, turns): (u32, u32)| Wait { line, steps: steps.saturating_sub(turns) };
            after.extend(self.ends_beside_runs(j).map(end));
        }
        after.extend(last_run.map(|(_, wait)| wait));
        if stay.level == Level::Lower {
            after.extend(self.staged_at(i).map(previous));
        }
        after
    }

    /// What leaves a stay's bytes before the first step, last of what was there on its way to the device: the last in turn
    /// ends behind all that were in its place, larger ones too.
    fn staged_at(&self, i: usize) -> impl Iterator<Item = u32> {
        let place = self.stages.iter().map(|s| self.stays[*s].bytes).max().unwrap_or(0);
        let (from, to) = (self.offsets[i], self.offsets[i] + self.stays[i].bytes);
        let last = self.stages.iter().rev().take(STAGES).copied();
        let last = last.filter(move |s| self.offsets[*s] < to && from < self.offsets[*s] + place);
        last.flat_map(|s| self.ends_beside_runs(s)).map(|(line, _)| line)
    }
}
