//! A simulated device: it performs a program in the orders that the program allows, on memory of tagged cells, and says when
//! something cannot be performed, or a read finds what it must not.
//!
//! Shares nothing with the verifier: it knows the order rules at the top of `program.rs` and the machine's description. It
//! keeps for every cell what lies there, poisons cells while something writes them and when their berth ends, and compares
//! each read with what a run of all tasks one after the other would have given. It performs single orders, some of which an
//! instruction takes part in as late or as early as can be, and all orders of a small program.
//!
//! It knows programs of one size each: no ranges of dims.

#![allow(dead_code, reason = "each test file uses its part")]

#[path = "abilities.rs"]
mod abilities;

use abilities::{Machine, Walk, positions, touched};
use berth_ir::Target;
use berth_ir::program::*;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

/// A small generator of random numbers (xorshift).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 16) as usize % n.max(1)
    }
}

/// What performing all orders of a program showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Every read of every order finds what it must.
    Safe,
    /// One does not.
    Broken(String),
    /// There are more orders than were looked at.
    TooMany,
}

/// Who wrote a tensor: position in the walk, and index of the task, or `FED`; `None` for the home.
type Version = Option<(usize, usize)>;
const FED: usize = usize::MAX;

/// Tensor, which of its cells, version.
type Tag = (usize, u64, Version);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Cell {
    Poison,
    /// Being written by this instance.
    Flight(usize),
    /// A cell of a tensor, of a version, held by this span.
    Holds(Tag, usize),
}

/// Cells of memory, and the cell of the tensor that lies in the first of them; an access touches several such.
#[derive(Clone, Debug)]
struct Touch {
    berth: usize,
    tensor: usize,
    /// Pairs of a cell in memory and a cell of the tensor.
    cells: Vec<(usize, u64)>,
    /// What must be found, or is written; `None` for copies, which move what is there.
    version: Option<Version>,
}

struct Instance {
    name: String,
    position: usize,
    preds: Vec<usize>,
    succs: Vec<usize>,
    reads: Vec<Touch>,
    writes: Vec<Touch>,
    copies: bool,
    /// By berth: the instances that end a span that this one begins; whether it has no end in the walk.
    ends: BTreeMap<usize, (Vec<usize>, bool)>,
}

impl Instance {
    /// The length of its instruction's name.
    fn bare(&self) -> usize {
        self.name.rsplit_once(" at ").map_or(0, |(name, _)| name.len())
    }
}

/// A program unrolled along a walk.
pub struct World {
    instances: Vec<Instance>,
    cells: usize,
    berths: usize,
}

/// Of a span that has not ended: what it still waits for, and whether it lasts for ever.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Span {
    waits: Vec<usize>,
    endless: bool,
}

/// The memory at one moment of one order.
#[derive(Clone)]
struct Memory {
    cells: Vec<Cell>,
    /// By the number of the span: the instance that began it and the berth.
    spans: BTreeMap<usize, Span>,
    /// By berth: its last span.
    span: Vec<usize>,
    /// By running instance: what it read when it started.
    seen: BTreeMap<usize, Vec<(usize, Cell)>>,
}

/// Walks that show most: the prologue and three steps of the first body; and for each transition the shortest way to it, with
/// two steps of the body before and behind, and then again whatever leads back.
pub fn walks(program: &Program) -> Vec<Vec<Unit>> {
    if program.bodies.is_empty() {
        return vec![vec![Unit::Prologue]];
    }
    if program.header.mode == Mode::Once {
        return (0..program.bodies.len()).map(|body| vec![Unit::Prologue, Unit::Body(body)]).collect();
    }
    let body = |name: &str| program.bodies.iter().position(|b| b.name == name);
    let ways: Vec<(usize, usize, usize)> =
        (program.transitions.iter().enumerate()).filter_map(|(n, t)| Some((n, body(&t.from)?, body(&t.to)?))).collect();
    // From one body to another over the fewest transitions.
    let way = |from: usize, to: usize| {
        let mut reached = vec![(from, Vec::new())];
        let mut at = 0;
        while at < reached.len() {
            let (body, path) = reached[at].clone();
            if body == to {
                return Some(path);
            }
            for &(n, _, next) in ways.iter().filter(|(_, f, _)| *f == body) {
                if !reached.iter().any(|(b, _)| *b == next) {
                    reached.push((next, [path.as_slice(), &[(n, next)]].concat()));
                }
            }
            at += 1;
        }
        None
    };
    let mut all = vec![vec![Unit::Prologue, Unit::Body(0), Unit::Body(0), Unit::Body(0)]];
    for &(n, from, to) in &ways {
        for steps in [1, 2] {
            let Some(before) = way(0, from) else { continue };
            let back = way(to, from).unwrap_or_default();
            let mut walk = vec![Unit::Prologue, Unit::Body(0)];
            for (n, body) in before.into_iter().chain([(n, to)]).chain(back) {
                walk.extend((1..steps).map(|_| *walk.last().unwrap_or(&Unit::Prologue)).collect::<Vec<_>>());
                walk.extend([Unit::Transition(n), Unit::Body(body)]);
            }
            walk.push(walk[walk.len() - 1]);
            all.push(walk);
        }
    }
    all
}

/// Instances of the longest walk.
pub fn instances(program: &Program) -> usize {
    let units = walks(program).into_iter().map(|walk| walk.iter().map(|unit| unit.code(program).len()).sum());
    units.max().unwrap_or(0)
}

/// Performs all walks of a program in some orders.
pub fn perform(target: &Target, program: &Program, tries: usize, seed: u64) -> Result<usize, String> {
    let mut orders = 0;
    for units in walks(program) {
        let world = World::new(target, program, &units)?;
        world.some(tries, seed)?;
        orders += world.orders(tries);
    }
    Ok(orders)
}

/// Performs all walks of a program in every order, up to so many moments each.
pub fn perform_all(target: &Target, program: &Program, moments: usize) -> Shown {
    let mut shown = Shown::Safe;
    for units in walks(program) {
        match World::new(target, program, &units).map(|world| world.all(moments)) {
            Err(e) | Ok(Shown::Broken(e)) => return Shown::Broken(e),
            Ok(Shown::TooMany) => shown = Shown::TooMany,
            Ok(Shown::Safe) => {}
        }
    }
    shown
}

/// One unit of a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Prologue,
    Body(usize),
    Transition(usize),
}

impl Unit {
    fn code(self, program: &Program) -> &[Instruction] {
        match self {
            Unit::Prologue => &program.prologue,
            Unit::Body(n) => &program.bodies[n].code,
            Unit::Transition(n) => &program.transitions[n].code,
        }
    }
}

/// Whether the device knows such programs: sizes that are numbers, bodies without dims of their own.
pub fn knows(program: &Program) -> bool {
    program.header.dims.values().all(|r| r.low == r.high)
        && program.header.growth.is_empty()
        && program.tensors.iter().all(|t| t.bytes.as_constant().is_some())
}

impl World {
    /// Unrolls a program along a walk; an error says what the device cannot do at all.
    pub fn new(target: &Target, program: &Program, units: &[Unit]) -> Result<World, String> {
        let machine = Machine::new(target, program)?;
        machine.facts()?;
        let walk = positions(&machine, units)?;
        let mut instances: Vec<Instance> = Vec::new();
        let mut last_run: BTreeMap<&str, usize> = BTreeMap::new();
        let mut first = vec![0];
        for (position, unit) in walk.units.iter().enumerate() {
            for i in unit.code(program) {
                let node = instances.len();
                let mut preds = Vec::new();
                for a in i.after() {
                    if a.steps > 1 {
                        return Err(format!("{} waits for what is forgotten", i.name()));
                    }
                    let there = position.checked_sub(a.steps as usize).map(|p| &walk.names[p]);
                    preds.extend(there.and_then(|names| names.get(a.name.as_str())));
                }
                preds.extend(position.checked_sub(1).and_then(|p| walk.names[p].get(i.name())));
                if let Instruction::Run { task, .. } = i {
                    let task = *machine.tasks.get(task.as_str()).ok_or("a run of no task")?;
                    preds.extend(last_run.insert(&program.tasks[task].engine, node));
                }
                if position >= 2 {
                    preds.extend(first[position - 2]..first[position - 1]);
                }
                preds.sort_unstable();
                preds.dedup();
                let (reads, writes) =
                    touched(&machine, &walk, position, i).map_err(|e| format!("{}: {e}", i.name()))?;
                if let Some(over) = writes.iter().find(|touch| machine.meets_kept(touch.berth)) {
                    let berth = &program.berths[over.berth].name;
                    return Err(format!("{} writes `{berth}` over what an engine keeps", i.name()));
                }
                let copies = matches!(i, Instruction::Copy { .. });
                instances.push(Instance {
                    name: format!("{} at {position}", i.name()),
                    position,
                    preds,
                    succs: Vec::new(),
                    reads,
                    writes,
                    copies,
                    ends: BTreeMap::new(),
                });
            }
            first.push(instances.len());
        }
        for node in 0..instances.len() {
            for pred in instances[node].preds.clone() {
                instances[pred].succs.push(node);
            }
        }
        let cells = machine
            .bases
            .last()
            .map_or(0, |base| base + program.arenas.last().map_or(0, |a| a.bytes.div_ceil(machine.unit) as usize));
        let mut world = World { instances, cells, berths: program.berths.len() };
        world.set_ends(&machine, &walk);
        Ok(world)
    }

    /// For each write, what would end a span that it begins: the first of its name that it always ends before.
    fn set_ends(&mut self, machine: &Machine, walk: &Walk) {
        for node in 0..self.instances.len() {
            let after = self.after(node);
            let position = self.instances[node].position;
            let mut all = BTreeMap::new();
            for touch in &self.instances[node].writes {
                let until = &machine.program.berths[touch.berth].until;
                let (mut ends, mut endless) = (Vec::new(), until.is_empty());
                for name in until {
                    let same = walk.names[position].get(name.as_str()).copied();
                    let same = same.filter(|end| *end == node || after.contains(end));
                    let mut later = walk.names[position + 1..].iter().filter_map(|n| n.get(name.as_str()).copied());
                    match same.or_else(|| later.next()) {
                        Some(end) => ends.push(end),
                        None => endless = true,
                    }
                }
                all.insert(touch.berth, (ends, endless));
            }
            self.instances[node].ends = all;
        }
    }

    /// All that always starts after an instance has ended.
    fn after(&self, node: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut stack = vec![node];
        while let Some(at) = stack.pop() {
            stack.extend(self.instances[at].succs.iter().filter(|s| found.insert(**s)));
        }
        found
    }

    /// How many orders [`World::some`] performs with so many of chance.
    pub fn orders(&self, tries: usize) -> usize {
        self.names().len() * 2 + tries
    }

    fn names(&self) -> BTreeSet<&str> {
        self.instances.iter().map(|i| &i.name[..i.bare()]).collect()
    }

    fn memory(&self) -> Memory {
        let (cells, span) = (vec![Cell::Poison; self.cells], vec![usize::MAX; self.berths]);
        Memory { cells, spans: BTreeMap::new(), span, seen: BTreeMap::new() }
    }

    /// Orders in which each instruction in turn is as late, then as early, as can be, and some of chance.
    pub fn some(&self, tries: usize, seed: u64) -> Result<(), String> {
        let n = self.instances.len();
        let mut rng = Rng(seed | 1);
        for name in self.names() {
            for late in [true, false] {
                // Of two events that may happen, the one with the greater number does.
                let urgency = |node: usize, start: bool, rng: &mut Rng| {
                    let i = &self.instances[node];
                    let chance = rng.next() >> 2;
                    match (&i.name[..i.bare()] == name, late, start) {
                        (true, true, _) => chance >> 16,
                        (true, false, _) => chance | 1 << 63,
                        // Others run ahead of the late one at once, and rest before the early one ends.
                        (false, true, _) => chance | 1 << 62,
                        (false, false, _) => chance,
                    }
                };
                let order: Vec<u64> = (0..2 * n).map(|e| urgency(e % n, e < n, &mut rng)).collect();
                self.play(&order)?;
            }
        }
        for _ in 0..tries {
            let order: Vec<u64> = (0..2 * n).map(|_| rng.next()).collect();
            self.play(&order)?;
        }
        Ok(())
    }

    /// One order: of what may happen next, starts and ends, the most urgent does.
    fn play(&self, urgency: &[u64]) -> Result<(), String> {
        let n = self.instances.len();
        let mut waits: Vec<usize> = self.instances.iter().map(|i| i.preds.len()).collect();
        let mut may: BTreeSet<(u64, usize, bool)> = BTreeSet::new();
        may.extend((0..n).filter(|i| waits[*i] == 0).map(|i| (urgency[i], i, true)));
        let mut memory = self.memory();
        let mut ended = 0;
        while let Some((_, node, start)) = may.pop_last() {
            let done = if start { self.start(&mut memory, node) } else { self.end(&mut memory, node) };
            done.map_err(|e| format!("{}: {e}", self.instances[node].name))?;
            if start {
                may.insert((urgency[n + node], node, false));
                continue;
            }
            ended += 1;
            for &next in &self.instances[node].succs {
                waits[next] -= 1;
                if waits[next] == 0 {
                    may.insert((urgency[next], next, true));
                }
            }
        }
        if ended == n { Ok(()) } else { Err("they wait for each other".into()) }
    }

    /// All orders, as far as so many different moments show them.
    pub fn all(&self, moments: usize) -> Shown {
        let n = self.instances.len();
        if n > 128 {
            return Shown::TooMany;
        }
        let mut seen: HashSet<u128> = HashSet::new();
        // Started, ended, memory.
        let mut stack = vec![(0u128, 0u128, self.memory())];
        while let Some((started, ended, memory)) = stack.pop() {
            let mut quiet = true;
            for node in 0..n {
                let bit = 1u128 << node;
                let preds = || self.instances[node].preds.iter().all(|p| ended & (1 << p) != 0);
                let start = started & bit == 0;
                if ended & bit != 0 || (start && !preds()) {
                    continue;
                }
                quiet = false;
                let mut next = memory.clone();
                let done = if start { self.start(&mut next, node) } else { self.end(&mut next, node) };
                if let Err(e) = done {
                    return Shown::Broken(format!("{}: {e}", self.instances[node].name));
                }
                let (started, ended) = if start { (started | bit, ended) } else { (started, ended | bit) };
                if seen.insert(next.moment(started, ended)) {
                    if seen.len() > moments {
                        return Shown::TooMany;
                    }
                    stack.push((started, ended, next));
                }
            }
            if quiet && ended.count_ones() as usize != n {
                return Shown::Broken("they wait for each other".into());
            }
        }
        Shown::Safe
    }

    fn start(&self, memory: &mut Memory, node: usize) -> Result<(), String> {
        let instance = &self.instances[node];
        let mut seen = Vec::new();
        for touch in &instance.reads {
            for &(cell, index) in &touch.cells {
                let content = memory.cells[cell];
                if let Some(wanted) = touch.version
                    && !matches!(content, Cell::Holds(tag, _) if tag == (touch.tensor, index, wanted))
                {
                    return Err(format!("cell {cell} holds {content:?}, wanted cell {index} of {wanted:?}"));
                }
                seen.push((cell, content));
            }
        }
        for touch in &instance.writes {
            memory.open(node * self.berths + touch.berth, touch.berth, &instance.ends[&touch.berth]);
            for &(cell, _) in &touch.cells {
                // What it reads itself it may write over: it has a right to, or could not run at all.
                memory.cells[cell] = Cell::Flight(node);
            }
        }
        memory.seen.insert(node, seen);
        Ok(())
    }

    fn end(&self, memory: &mut Memory, node: usize) -> Result<(), String> {
        let instance = &self.instances[node];
        let seen = memory.seen.remove(&node).unwrap_or_default();
        // What changed while it was being read is not what was read.
        let torn = |memory: &Memory, (cell, content): (usize, Cell)| {
            let now = memory.cells[cell];
            now != content && now != Cell::Flight(node)
        };
        if !instance.copies
            && let Some((cell, _)) = seen.iter().copied().find(|s| torn(memory, *s))
        {
            return Err(format!("cell {cell} changed while it was read"));
        }
        for touch in &instance.writes {
            let span = memory.span[touch.berth];
            for (i, &(cell, index)) in touch.cells.iter().enumerate() {
                let content = match (touch.version, seen.get(i)) {
                    (Some(version), _) => Cell::Holds((touch.tensor, index, version), span),
                    (None, Some(source)) if torn(memory, *source) => Cell::Poison,
                    (None, Some((_, Cell::Holds(tag, _)))) => Cell::Holds(*tag, span),
                    (None, _) => Cell::Poison,
                };
                // What another began to write meanwhile is nobody's.
                let mine = memory.cells[cell] == Cell::Flight(node);
                memory.cells[cell] = if mine { content } else { Cell::Poison };
            }
        }
        let mut over = Vec::new();
        for (number, span) in &mut memory.spans {
            span.waits.retain(|wait| *wait != node);
            if span.waits.is_empty() && !span.endless {
                over.push(*number);
            }
        }
        for number in over {
            memory.spans.remove(&number);
            let held = |cell: &&mut Cell| matches!(cell, Cell::Holds(_, s) if *s == number);
            memory.cells.iter_mut().filter(held).for_each(|cell| *cell = Cell::Poison);
        }
        Ok(())
    }
}

impl Memory {
    /// Begins a new span of a berth where the last one is over.
    fn open(&mut self, number: usize, berth: usize, (waits, endless): &(Vec<usize>, bool)) {
        if !self.spans.contains_key(&self.span[berth]) {
            self.spans.insert(number, Span { waits: waits.clone(), endless: *endless });
            self.span[berth] = number;
        }
    }

    /// Of a moment, so that equal moments are looked at once: of 128 bits, which no two different ones share by chance.
    fn moment(&self, started: u128, ended: u128) -> u128 {
        let mut sum = Sum(0);
        (started, ended, &self.cells, &self.spans, &self.span, &self.seen).hash(&mut sum);
        sum.0 ^ sum.0 >> 61
    }
}

/// A quick sum of words; nobody here chooses them to collide.
struct Sum(u128);

impl Hasher for Sum {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0 ^ u128::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).rotate_left(47);
    }
    fn write_u8(&mut self, word: u8) {
        self.write_u64(word.into());
    }
    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }
    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }
    fn finish(&self) -> u64 {
        self.0 as u64
    }
}
