//! What the world holds against the program while the executor runs it: order, and memory.
//!
//! It is told when an instruction begins and ends, and knows the order rules at the top of `ir`'s `program.rs`, found again
//! here from names. Bytes are poison before they are written, while a copy brings them, and from the end of their berth
//! on, but for inputs in whose place nothing else is ever written; poison that is not there any more when somebody begins to write there was overwritten by somebody who must not.

#![allow(unsafe_code, reason = "poisons arenas, from the one thread that there is")]

use berth_ir::program::{Class, Extent, Instruction, Place, Program};
use berth_runtime_exec::arena::Arena;
use berth_runtime_exec::executor::host::{Moment, Turn};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What poison is made of.
pub const POISON: u8 = 0xc9;
/// Bytes that are poison together.
const CELL: u64 = 64;

/// Bytes of an arena.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    arena: usize,
    from: u64,
    to: u64,
}

/// An instruction, as the watch knows it.
#[derive(Debug)]
struct Rule {
    name: String,
    class: Class,
    copies: bool,
    /// The task that it runs.
    task: Option<usize>,
    /// In the same step.
    same: Vec<usize>,
    /// In the prologue, where that is the step before, and in the body.
    before: [Vec<usize>; 2],
    /// What it writes: bytes, the berth, what ends a span that it begins (in the next step, its place), and whether
    /// nothing does.
    writes: Vec<Write>,
}

#[derive(Debug)]
struct Write {
    bytes: Stretch,
    berth: usize,
    ends: Vec<(bool, usize)>,
    endless: bool,
}

/// What a program asks for.
#[derive(Debug, Default)]
pub struct Rules {
    /// Prologue, body.
    units: [Vec<Rule>; 2],
    berths: Vec<Stretch>,
    /// Berths that only a step's feed writes to, and no byte of which any other berth is written to.
    stays: Vec<bool>,
}

impl Rules {
    pub fn new(program: &Program) -> Rules {
        let arena = |name: &str| program.arenas.iter().position(|a| a.tier == name).expect("an arena");
        let berths = program.berths.iter().map(|b| {
            let part = b.part.map_or_else(
                || {
                    let tensor = program.tensors.iter().find(|t| t.name == b.tensor).expect("a tensor");
                    tensor.bytes.as_constant().expect("a number") as u64
                },
                |(from, to)| to - from,
            );
            Stretch { arena: arena(&b.arena), from: b.offset, to: b.offset + part }
        });
        let mut rules = Rules { units: [Vec::new(), Vec::new()], berths: berths.collect(), stays: Vec::new() };
        let codes = [&program.prologue, &program.bodies[0].code];
        let find = |unit: usize, name: &str| codes[unit].iter().position(|i| i.name() == name);
        let engine = |i: &Instruction| match i {
            Instruction::Run { task, .. } => program.tasks.iter().find(|t| t.name == *task).map(|t| t.engine.clone()),
            _ => None,
        };
        for (unit, code) in codes.into_iter().enumerate() {
            for (n, i) in code.iter().enumerate() {
                let waits = |steps: u32, in_unit: usize| {
                    let all = i.after().iter().filter(move |after| after.steps == steps);
                    all.filter_map(move |after| find(in_unit, &after.name)).collect::<Vec<_>>()
                };
                let mut same = waits(0, unit);
                let mut before = [Vec::new(), Vec::new()];
                let own = engine(i);
                let of_engine = |code: &[Instruction]| code.iter().rposition(|other| engine(other) == own);
                let last = if own.is_some() { of_engine(&code[..n]) } else { None };
                same.extend(last);
                for (in_unit, before) in before.iter_mut().enumerate().filter(|_| unit == 1) {
                    *before = waits(1, in_unit);
                    // The last instance of the same, and the engine's last.
                    before.extend(find(in_unit, i.name()));
                    before.extend(if own.is_some() && last.is_none() { of_engine(codes[in_unit]) } else { None });
                }
                let task = match i {
                    Instruction::Run { task, .. } => program.tasks.iter().position(|t| t.name == *task),
                    _ => None,
                };
                let (class, copies) = match i {
                    Instruction::Copy { class, .. } => (*class, true),
                    _ => (Class::Demand, false),
                };
                let name = i.name().to_owned();
                rules.units[unit].push(Rule { name, class, copies, task, same, before, writes: Vec::new() });
            }
            for (n, i) in code.iter().enumerate() {
                let later = rules.later(unit, n);
                let writes = written(program, &rules.berths, i).into_iter().map(|(berth, bytes)| {
                    let until = &program.berths[berth].until;
                    let (mut ends, mut endless) = (Vec::new(), until.is_empty());
                    for name in until {
                        match (find(unit, name).filter(|end| later[*end]), find(1, name)) {
                            (Some(end), _) => ends.push((false, end)),
                            (None, Some(end)) => ends.push((true, end)),
                            (None, None) => endless = true,
                        }
                    }
                    Write { bytes, berth, ends, endless }
                });
                rules.units[unit][n].writes = writes.collect();
            }
        }
        rules.stays = (0..rules.berths.len()).map(|berth| rules.stays(berth, codes[1])).collect();
        rules
    }

    fn stays(&self, berth: usize, step: &[Instruction]) -> bool {
        let mut writers = (0..2).flat_map(|unit| (0..self.units[unit].len()).map(move |n| (unit, n)));
        let feed = step.iter().enumerate().find_map(|(n, i)| {
            let feeds = matches!(i, Instruction::Feed { .. }) && self.units[1][n].writes[0].berth == berth;
            feeds.then_some((1, n))
        });
        let touches = |write: &Write| without(self.berths[berth], write.bytes).first() != Some(&self.berths[berth]);
        feed.is_some() && writers.all(|at| Some(at) == feed || !self.units[at.0][at.1].writes.iter().any(touches))
    }

    /// By place in a unit: whether it is this one, or ordered behind it in the same step.
    fn later(&self, unit: usize, of: usize) -> Vec<bool> {
        let rules = &self.units[unit];
        let mut later = vec![false; rules.len()];
        let mut stack = vec![of];
        while let Some(at) = stack.pop() {
            if !std::mem::replace(&mut later[at], true) {
                stack.extend((0..rules.len()).filter(|other| rules[*other].same.contains(&at)));
            }
        }
        later
    }

    /// Copies of the body that may be called off, by name.
    pub fn speculative(&self) -> Vec<String> {
        let all = self.units[1].iter().filter(|rule| rule.copies && rule.class == Class::Speculative);
        all.map(|rule| rule.name.clone()).collect()
    }

    /// Instances of a run.
    pub fn instances(&self, steps: usize) -> usize {
        self.units[0].len() + steps * self.units[1].len()
    }
}

/// What an instruction writes: berths, and of each the bytes.
fn written(program: &Program, berths: &[Stretch], i: &Instruction) -> Vec<(usize, Stretch)> {
    let find = |name: &str| program.berths.iter().position(|b| b.name == name).expect("a berth");
    match i {
        Instruction::Copy { to, extent, .. } => {
            let berth = find(to);
            let (mut bytes, start) = (berths[berth], program.berths[berth].part.map_or(0, |(from, _)| from));
            if let Extent::Bytes(from, to) = extent {
                (bytes.from, bytes.to) = (bytes.from + from - start, bytes.from + to - start);
            }
            vec![(berth, bytes)]
        }
        Instruction::Feed { berth, .. } => vec![(find(berth), berths[find(berth)])],
        Instruction::Run { task, berths: bound, .. } => {
            let task = program.tasks.iter().find(|t| t.name == *task).expect("a task");
            let writes = |n: usize| task.accesses.get(n).is_none_or(|access| access.writes());
            let bound = bound.iter().enumerate().filter(|(n, _)| writes(*n));
            bound.flat_map(|(_, names)| names.split(" + ").map(|b| (find(b), berths[find(b)]))).collect()
        }
        _ => Vec::new(),
    }
}

/// Where a copy reads, for whoever wants to know that it is no home.
pub fn is_from_file(i: &Instruction) -> bool {
    matches!(i, Instruction::Copy { from: Place::Home, .. })
}

/// One span of a berth: what it still waits for.
#[derive(Debug)]
struct Span {
    waits: Vec<(usize, usize)>,
    endless: bool,
}

/// The watch of one executor.
#[derive(Default)]
pub struct Watch {
    rules: Arc<Rules>,
    /// Counts executors: what an earlier one says, which something holds up, is not of this one.
    pub executor: u64,
    /// Address and bytes.
    arenas: Vec<(usize, u64)>,
    /// What engines keep.
    kept: Vec<Stretch>,
    /// By arena and cell: whether it is poison that nobody may have written over.
    clean: Vec<Vec<bool>>,
    /// By unit and place: the step that it is in; the last that it has ended in, counted from one.
    active: [Vec<Option<usize>>; 2],
    last: [Vec<usize>; 2],
    ended: usize,
    /// By berth.
    spans: BTreeMap<usize, Span>,
}

impl Watch {
    /// For a program that is loaded next.
    pub fn begin(&mut self, rules: Arc<Rules>) {
        *self = Watch { rules, executor: self.executor + 1, ..Watch::default() };
    }

    /// Takes note of an arena, and poisons it.
    pub fn adopt(&mut self, arena: &Arena) {
        self.arenas.push((arena.address(0, 0).expect("inside") as usize, arena.bytes()));
        self.clean.push(vec![true; (arena.bytes() / CELL) as usize]);
        let all = Stretch { arena: self.arenas.len() - 1, from: 0, to: arena.bytes() };
        self.bytes(all).fill(POISON);
    }

    /// Takes note of bytes, by their address, that an engine has from now on.
    pub fn keep(&mut self, address: usize, bytes: u64) -> Result<(), String> {
        let holds = |(start, all): &(usize, u64)| *start <= address && (address - start) as u64 + bytes <= *all;
        let arena = self.arenas.iter().position(holds).ok_or("what an engine keeps lies in no arena")?;
        let from = (address - self.arenas[arena].0) as u64;
        let mut wrong = Vec::new();
        self.meet(Stretch { arena, from, to: from + bytes }, false, "who keeps weights", &mut wrong);
        self.kept.push(Stretch { arena, from, to: from + bytes });
        wrong.pop().map_or(Ok(()), Err)
    }

    /// The bytes of an arena that no engine keeps.
    fn shared(&self, arena: usize) -> Vec<Stretch> {
        let mut left = vec![Stretch { arena, from: 0, to: self.arenas[arena].1 }];
        for kept in &self.kept {
            left = left.into_iter().flat_map(|stretch| without(stretch, *kept)).collect();
        }
        left
    }

    #[allow(clippy::mut_from_ref, reason = "arenas are the executor's")]
    fn bytes(&self, stretch: Stretch) -> &mut [u8] {
        let (address, all) = self.arenas[stretch.arena];
        assert!(stretch.from <= stretch.to && stretch.to <= all, "{stretch:?} of {all}");
        let start = std::ptr::with_exposed_provenance_mut::<u8>(address + stretch.from as usize);
        // SAFETY: inside the arena, which lives as long as the executor; nobody else acts meanwhile.
        unsafe { std::slice::from_raw_parts_mut(start, (stretch.to - stretch.from) as usize) }
    }

    fn cells(stretch: Stretch) -> std::ops::Range<usize> {
        stretch.from.div_ceil(CELL) as usize..(stretch.to / CELL) as usize
    }

    /// What was poison must still be; `leave` it so, or give it to who writes there.
    fn meet(&mut self, stretch: Stretch, leave: bool, what: &str, wrong: &mut Vec<String>) {
        for cell in Watch::cells(stretch) {
            if self.clean[stretch.arena][cell] {
                let from = cell as u64 * CELL;
                if self.bytes(Stretch { from, to: from + CELL, ..stretch }).iter().any(|byte| *byte != POISON) {
                    wrong.push(format!("{what} finds that somebody wrote to {from} of arena {}", stretch.arena));
                    return;
                }
                self.clean[stretch.arena][cell] = leave;
            }
        }
    }

    /// Poisons bytes that nobody has any more.
    fn poison(&mut self, stretch: Stretch) {
        self.bytes(stretch).fill(POISON);
        self.clean[stretch.arena][Watch::cells(stretch)].fill(true);
    }

    /// A run begins: nobody has touched anything since the last.
    pub fn run(&mut self, wrong: &mut Vec<String>) {
        for stretch in (0..self.arenas.len()).flat_map(|arena| self.shared(arena)).collect::<Vec<_>>() {
            self.meet(stretch, true, "a run", wrong);
        }
        self.active = self.rules.units.each_ref().map(|unit| vec![None; unit.len()]);
        self.last = self.rules.units.each_ref().map(|unit| vec![0; unit.len()]);
        self.ended = 0;
        self.spans.clear();
    }

    /// A run has ended, well or not: nobody touches anything any more. How many instances have ended, and what has not.
    pub fn end(&mut self) -> (usize, Vec<&str>) {
        for stretch in (0..self.arenas.len()).flat_map(|arena| self.shared(arena)).collect::<Vec<_>>() {
            self.poison(stretch);
        }
        let open = (0..2).flat_map(|unit| self.active[unit].iter().zip(&self.rules.units[unit]));
        (self.ended, open.filter(|(step, _)| step.is_some()).map(|(_, rule)| rule.name.as_str()).collect())
    }

    /// The step in which a task runs now.
    pub fn step_of(&self, task: usize) -> Option<usize> {
        let runs = (0..2).flat_map(|unit| self.rules.units[unit].iter().zip(&self.active[unit]));
        runs.filter(|(rule, _)| rule.task == Some(task)).find_map(|(_, step)| *step)
    }

    /// The name of an instruction.
    pub fn name(&self, moment: Moment) -> &str {
        &self.rules.units[usize::from(moment.step > 0)][moment.index].name
    }

    pub fn note(&mut self, moment: Moment, wrong: &mut Vec<String>) {
        let Moment { step, index, turn } = moment;
        let (unit, rules) = (usize::from(step > 0), self.rules.clone());
        let rule = &rules.units[unit][index];
        let what = || format!("`{}` in step {step}", rule.name);
        match turn {
            Turn::Begins => {
                if self.active[unit][index].is_some() {
                    wrong.push(format!("{} began twice", what()));
                }
                self.check_order(rule, step, wrong);
                self.active[unit][index] = Some(step);
                for write in &rule.writes {
                    self.meet(write.bytes, false, &what(), wrong);
                    if rule.copies {
                        self.bytes(write.bytes).fill(POISON);
                    }
                    self.spans.entry(write.berth).or_insert_with(|| {
                        let at = |(next, end): &(bool, usize)| (step + usize::from(*next), *end);
                        Span { waits: write.ends.iter().map(at).collect(), endless: write.endless }
                    });
                }
            }
            Turn::Ends => {
                if self.active[unit][index].take() != Some(step) {
                    wrong.push(format!("{} ended and had not begun", what()));
                }
                self.last[unit][index] = step.max(1);
                self.ended += 1;
                self.close(step, index);
            }
            Turn::IsCalledOff => {
                if self.active[unit][index].take() != Some(step) || rule.class != Class::Speculative {
                    wrong.push(format!("{} was called off", what()));
                }
                for write in &rule.writes {
                    self.poison(write.bytes);
                }
            }
        }
    }

    /// Ends the spans that wait for nothing more.
    fn close(&mut self, step: usize, index: usize) {
        let mut over = Vec::new();
        for (berth, span) in &mut self.spans {
            let waited = span.waits.len();
            span.waits.retain(|end| *end != (step, index));
            if waited > 0 && span.waits.is_empty() && !span.endless {
                over.push(*berth);
            }
        }
        let rules = self.rules.clone();
        for berth in over {
            self.spans.remove(&berth);
            if rules.stays[berth] {
                continue;
            }
            // What was written over it by right stays.
            let mut left = vec![rules.berths[berth]];
            for other in self.spans.keys().map(|other| rules.berths[*other]) {
                left = left.into_iter().flat_map(|stretch| without(stretch, other)).collect();
            }
            left.into_iter().for_each(|stretch| self.poison(stretch));
        }
    }

    /// Whether all has ended that must have.
    fn check_order(&self, rule: &Rule, step: usize, wrong: &mut Vec<String>) {
        let name = |unit: usize, place: &usize| format!("`{}`", self.rules.units[unit][*place].name);
        let mut misses = |before: String| wrong.push(format!("`{}` in step {step} began before {before}", rule.name));
        let unit = usize::from(step > 0);
        rule.same.iter().filter(|p| self.last[unit][**p] < step.max(1)).for_each(|p| misses(name(unit, p)));
        if step == 0 {
            return;
        }
        let (there, least) = if step == 1 { (0, 1) } else { (1, step - 1) };
        rule.before[there].iter().filter(|p| self.last[there][**p] < least).for_each(|p| misses(name(there, p)));
        // All of the step before the last.
        let (there, least) = if step == 2 { (0, 1) } else { (1, step.saturating_sub(2)) };
        let open = self.last[there].iter().position(|last| step >= 2 && *last < least);
        open.into_iter().for_each(|p| misses(format!("{} of two steps before", name(there, &p))));
    }
}

/// What is left of bytes without others.
fn without(stretch: Stretch, other: Stretch) -> Vec<Stretch> {
    if stretch.arena != other.arena || other.to <= stretch.from || stretch.to <= other.from {
        return vec![stretch];
    }
    let head = Stretch { to: other.from.max(stretch.from), ..stretch };
    let tail = Stretch { from: other.to.min(stretch.to), ..stretch };
    [head, tail].into_iter().filter(|part| part.from < part.to).collect()
}
