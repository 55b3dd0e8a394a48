//! A simulated device: it performs a program in the orders that the program allows, on memory of tagged cells, and says when
//! something cannot be performed, or a read finds what it must not.
//!
//! Shares nothing with the verifier: it knows the order rules at the top of `program.rs` and the machine's description. It
//! keeps for every cell what lies there, poisons cells while something writes them and when their berth ends, and compares
//! each read with what a run of all tasks one after the other would have given. It performs single orders, some of which an
//! instruction takes part in as late or as early as can be, and all orders of a small program.
//!
//! It knows programs of one size each: no ranges of dims.

use berth_ir::Target;
use berth_ir::program::*;
use berth_ir::target::LinkState;
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

/// What a target says about one program, looked up by name.
struct Machine<'p> {
    program: &'p Program,
    target: &'p Target,
    tensors: BTreeMap<&'p str, usize>,
    tasks: BTreeMap<&'p str, usize>,
    berths: BTreeMap<&'p str, usize>,
    /// First cell of each arena, in the order of the program.
    bases: Vec<usize>,
    unit: u64,
}

impl<'p> Machine<'p> {
    fn new(target: &'p Target, program: &'p Program) -> Result<Machine<'p>, String> {
        let mut machine = Machine {
            program,
            target,
            tensors: by_name(program.tensors.iter().map(|t| t.name.as_str()))?,
            tasks: by_name(program.tasks.iter().map(|t| t.name.as_str()))?,
            berths: by_name(program.berths.iter().map(|b| b.name.as_str()))?,
            bases: Vec::new(),
            unit: grain(program),
        };
        machine.arenas()?;
        Ok(machine)
    }

    /// Arenas fit their tiers, berths their arenas.
    fn arenas(&mut self) -> Result<(), String> {
        let mut cells = 0;
        for arena in &self.program.arenas {
            let tier = self.target.tiers.iter().find(|t| t.name == arena.tier).ok_or("an arena of no tier")?;
            let budget = self.program.header.memory.get(&tier.name).map(|b| b.0);
            let all = tier.capacity.0 - tier.reserve.0.min(tier.capacity.0);
            let room = budget.unwrap_or(if tier.on_request { 0 } else { u64::MAX }).min(all);
            if tier.files || arena.bytes > room {
                return Err(format!("{} has no {} bytes for an arena", tier.name, arena.bytes));
            }
            self.bases.push(cells);
            cells += arena.bytes.div_ceil(self.unit) as usize;
        }
        for b in &self.program.berths {
            let arena = self.program.arenas.iter().find(|a| a.tier == b.arena).ok_or("a berth of no arena")?;
            let tier = self.target.tiers.iter().find(|t| t.name == b.arena).ok_or("a berth of no tier")?;
            if b.offset + b.bytes > arena.bytes {
                return Err(format!("{} ends outside its arena", b.name));
            }
            if b.offset % tier.alignment != 0 {
                return Err(format!("{} starts where the memory has no address for it", b.name));
            }
        }
        Ok(())
    }

    fn size(&self, tensor: usize) -> u64 {
        self.program.tensors[tensor].bytes.as_constant().and_then(|c| u64::try_from(c).ok()).unwrap_or(0)
    }

    fn berth(&self, name: &str) -> Result<usize, String> {
        self.berths.get(name).copied().ok_or_else(|| format!("no berth {name}"))
    }

    fn tensor(&self, berth: usize) -> Result<usize, String> {
        let name = self.program.berths[berth].tensor.as_str();
        self.tensors.get(name).copied().ok_or_else(|| format!("no tensor {name}"))
    }

    fn part(&self, berth: usize) -> Result<(u64, u64), String> {
        Ok(self.program.berths[berth].part.unwrap_or((0, self.size(self.tensor(berth)?))))
    }

    /// The whole of a tensor that a berth must hold for the caller.
    fn whole(&self, berth: usize) -> Result<(u64, u64), String> {
        let all = (0, self.size(self.tensor(berth)?));
        if self.part(berth)? == all { Ok(all) } else { Err("the caller has the whole or nothing".into()) }
    }

    /// The cells of a range of a tensor in a berth, rows apart if so wanted.
    fn cells(
        &self,
        berth: usize,
        (from, to): (u64, u64),
        pitch: Option<(u64, u64)>,
    ) -> Result<Vec<(usize, u64)>, String> {
        let b = &self.program.berths[berth];
        let arena = self.program.arenas.iter().position(|a| a.tier == b.arena).ok_or("no arena")?;
        let base = b.part.map_or(0, |p| p.0);
        if from < base {
            return Err(format!("{} does not hold byte {from}", b.name));
        }
        let mut all = Vec::new();
        for at in (from..to).step_by(self.unit as usize) {
            let offset = match pitch {
                Some((row, pitch)) => at / row * pitch + at % row,
                None => at - base,
            };
            if offset + self.unit.min(to - at) > b.bytes {
                return Err(format!("{} does not hold byte {at}", b.name));
            }
            all.push((self.bases[arena] + ((b.offset + offset) / self.unit) as usize, at / self.unit));
        }
        Ok(all)
    }

    fn touch(&self, berth: usize, range: (u64, u64), version: Option<Version>) -> Result<Touch, String> {
        Ok(Touch { berth, tensor: self.tensor(berth)?, cells: self.cells(berth, range, None)?, version })
    }

    /// The tier of a berth's arena.
    fn tier(&self, berth: usize) -> &'p str {
        &self.program.berths[berth].arena
    }

    /// What a copy reads and writes.
    fn copy(&self, from: &Place, to: &str, extent: &Extent, queue: &str) -> Result<(Vec<Touch>, Touch), String> {
        let to = self.berth(to)?;
        let tensor = self.tensor(to)?;
        let source = match from {
            Place::Home => None,
            Place::Berth(name) => Some(self.berth(name)?),
        };
        let number = |e: &berth_ir::Expr| e.as_constant().and_then(|c| u64::try_from(c).ok()).ok_or("no number");
        let (range, rows) = match extent {
            Extent::Whole => (self.part(to)?, None),
            Extent::Bytes(a, b) => ((*a, *b), None),
            Extent::Rows { rows, bytes, from_pitch, to_pitch } => {
                let (rows, row) = (number(rows)?, number(bytes)?);
                let (from, to) = (number(from_pitch)?, number(to_pitch)?);
                if row == 0 || from < row || to < row || (source.is_none() && from != row) {
                    return Err("rows lie over each other".into());
                }
                ((0, rows * row), Some((row, from, to)))
            }
        };
        if range.0 >= range.1 && self.size(tensor) > 0 || range.1 > self.size(tensor) {
            return Err("a copy of bytes that its tensor does not have".into());
        }
        let home = self.program.tensors[tensor].home.as_ref();
        let from_tier = match source {
            Some(berth) => self.tier(berth),
            None => &home.ok_or("a copy from a home that is none")?.tier,
        };
        let link = self.target.links.iter().find(|l| l.name == queue).ok_or("a copy on no link")?;
        if link.from != from_tier || link.to != self.tier(to) || link.state == LinkState::Cut {
            return Err(format!("{queue} does not go from {from_tier} to {}", self.tier(to)));
        }
        let moved = rows.map_or(range.1 - range.0, |(row, _, _)| row);
        if moved % link.grain.0 != 0 {
            return Err(format!("{queue} moves no {moved} bytes"));
        }
        let mut reads = Vec::new();
        if let Some(berth) = source {
            if self.tensor(berth)? != tensor {
                return Err("a copy of one tensor to another".into());
            }
            let cells = self.cells(berth, range, rows.map(|(row, from, _)| (row, from)))?;
            reads.push(Touch { berth, tensor, cells, version: None });
        } else if home.is_some_and(|h| h.is_made()) && range != (0, self.size(tensor)) {
            return Err("a part of a home that is read whole".into());
        }
        let cells = self.cells(to, range, rows.map(|(row, _, to)| (row, to)))?;
        // A home is always the same; a copy from a berth moves what is there.
        Ok((reads, Touch { berth: to, tensor, cells, version: source.is_none().then_some(None) }))
    }

    /// What a run reads and writes: each access whole, contiguous, where its engine can reach it.
    fn run(
        &self,
        walk: &Walk,
        position: usize,
        task: usize,
        berths: &[String],
    ) -> Result<(Vec<Touch>, Vec<Touch>), String> {
        let t = &self.program.tasks[task];
        let engine = self.target.engines.iter().find(|e| e.name == t.engine).ok_or("no engine")?;
        if berths.len() != t.accesses.len() + usize::from(t.workspace > 0) {
            return Err("it binds more or fewer than its task wants".into());
        }
        let (mut reads, mut writes, mut spans) = (Vec::new(), Vec::new(), Vec::new());
        for (i, bound) in berths.iter().enumerate() {
            let bound: Vec<usize> = bound.split(" + ").map(|b| self.berth(b)).collect::<Result<_, _>>()?;
            let access = t.accesses.get(i);
            let (is_read, is_written) = access.map_or((false, true), |a| (a.reads(), a.writes()));
            let reaches = |tier: &str| tier == engine.tier || (!is_written && engine.reads.iter().any(|r| r == tier));
            if bound.iter().any(|b| !reaches(self.tier(*b))) {
                return Err(format!("engine {} cannot reach what it binds", engine.name));
            }
            let (mut next, mut address) = (0, None);
            for &b in &bound {
                let (from, to) = self.part(b)?;
                let begin = self.program.berths[b].offset;
                if from != next || address.is_some_and(|a| a != (begin, self.tier(b))) {
                    return Err("what it binds is not contiguous".into());
                }
                (next, address) = (to, Some((begin + to - from, self.tier(b))));
            }
            let first = self.program.berths[bound[0]].offset;
            spans.push((self.tier(bound[0]), first, first + next, is_written));
            let Some(access) = access else {
                let kind = self.program.tensors[self.tensor(bound[0])?].kind;
                if kind != Kind::Workspace || self.program.berths[bound[0]].bytes < t.workspace || bound.len() > 1 {
                    return Err("it has no such workspace".into());
                }
                writes.push(self.touch(bound[0], self.part(bound[0])?, Some(Some((position, task))))?);
                continue;
            };
            let tensor = *self.tensors.get(access.tensor()).ok_or("no tensor")?;
            if next != self.size(tensor) || bound.iter().any(|b| self.tensor(*b) != Ok(tensor)) {
                return Err(format!("{} is not bound whole", access.tensor()));
            }
            for &b in &bound {
                if is_read {
                    let wanted = walk.wanted(self, tensor, position, task)?;
                    reads.push(self.touch(b, self.part(b)?, Some(wanted))?);
                }
                if is_written {
                    writes.push(self.touch(b, self.part(b)?, Some(Some((position, task))))?);
                }
            }
        }
        for (w, written) in spans.iter().enumerate().filter(|(_, s)| s.3) {
            for (o, other) in spans.iter().enumerate().filter(|(o, _)| *o != w) {
                let meets = written.0 == other.0 && written.1 < other.2 && other.1 < written.2;
                if meets && !(t.in_place.contains(&(o, w)) && written.1 == other.1 && !other.3) {
                    return Err("it writes over what it reads, without a right to".into());
                }
            }
        }
        Ok((reads, writes))
    }

    /// What the program says of itself, counted by what was performed.
    fn facts(&self) -> Result<(), String> {
        let facts = &self.program.facts;
        let mut calls = BTreeMap::new();
        let mut traffic: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        let named = self.program.bodies.iter().map(|b| (b.name.as_str(), &b.code));
        let between = self.program.transitions.iter().map(|t| (t.name.as_str(), &t.code));
        for (part, code) in std::iter::once(("", &self.program.prologue)).chain(named).chain(between) {
            for i in code {
                if let Instruction::Copy { from, to, extent, queue, .. } = i {
                    let (_, written) = self.copy(from, to, extent, queue)?;
                    let tensor = &self.program.tensors[self.tensor(written.berth)?];
                    let (begin, end) = match extent {
                        Extent::Bytes(a, b) => (*a, *b),
                        Extent::Whole => self.part(written.berth)?,
                        Extent::Rows { .. } => (0, self.size(self.tensor(written.berth)?)),
                    };
                    let filled = *from == Place::Home && tensor.home.as_ref().is_some_and(|h| h.filled.is_some());
                    *traffic.entry((part, queue)).or_default() += if filled { 0 } else { end - begin };
                }
            }
            if self.program.bodies.iter().any(|b| b.name == part) {
                let runs = code.iter().filter(|i| matches!(i, Instruction::Run { .. })).count();
                calls.insert(part.to_owned(), runs as u64);
            }
        }
        let mut said: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for t in &facts.traffic {
            *said.entry((&t.part, &t.link)).or_default() += t.bytes;
        }
        said.retain(|_, bytes| *bytes > 0);
        traffic.retain(|_, bytes| *bytes > 0);
        let mut peaks: BTreeMap<String, u64> = BTreeMap::new();
        for b in &self.program.berths {
            let peak = peaks.entry(b.arena.clone()).or_default();
            *peak = (b.offset + b.bytes).max(*peak);
        }
        let said_peaks: BTreeMap<_, _> = facts.peaks.iter().filter(|(_, b)| **b > 0).collect();
        peaks.retain(|_, bytes| *bytes > 0);
        if facts.calls.iter().filter(|(_, n)| **n > 0).ne(calls.iter().filter(|(_, n)| **n > 0))
            || said != traffic
            || said_peaks != peaks.iter().collect()
        {
            return Err("its facts are not what happens".into());
        }
        Ok(())
    }
}

fn by_name<'p>(names: impl Iterator<Item = &'p str>) -> Result<BTreeMap<&'p str, usize>, String> {
    let mut all = BTreeMap::new();
    for (n, name) in names.enumerate() {
        if all.insert(name, n).is_some() {
            return Err(format!("two are called {name}"));
        }
    }
    Ok(all)
}

/// The largest number of bytes of which every offset, size and part is a multiple.
fn grain(program: &Program) -> u64 {
    let mut unit = 0;
    let mut add = |n: u64| {
        let (mut a, mut b) = (unit, n);
        while b > 0 {
            (a, b) = (b, a % b);
        }
        unit = a;
    };
    for b in &program.berths {
        add(b.offset);
        let (from, to) = b.part.unwrap_or_default();
        add(from);
        add(to);
    }
    for t in &program.tensors {
        add(t.bytes.as_constant().and_then(|c| u64::try_from(c).ok()).unwrap_or(0));
    }
    for i in program.prologue.iter().chain(program.bodies.iter().flat_map(|b| &b.code)) {
        if let Instruction::Copy { extent, .. } = i {
            let number = |e: &berth_ir::Expr| e.as_constant().and_then(|c| u64::try_from(c).ok()).unwrap_or(1);
            match extent {
                Extent::Whole => {}
                Extent::Bytes(a, b) => [*a, *b].into_iter().for_each(&mut add),
                Extent::Rows { bytes, from_pitch, to_pitch, .. } => {
                    [bytes, from_pitch, to_pitch].into_iter().map(number).for_each(&mut add);
                }
            }
        }
    }
    unit.max(1)
}

/// The positions of a walk, with what stands where.
struct Walk<'p> {
    units: Vec<Unit>,
    /// First instance of each position.
    names: Vec<BTreeMap<&'p str, usize>>,
    /// By position and tensor: the tasks that write it, in the order of the program's table.
    writers: Vec<BTreeMap<usize, Vec<usize>>>,
    /// By position: tensors that are fed.
    fed: Vec<BTreeSet<usize>>,
}

impl Walk<'_> {
    /// What a reader must find, by the order of tasks in the program; an error where nothing has been written.
    fn wanted(&self, machine: &Machine, tensor: usize, position: usize, before_task: usize) -> Result<Version, String> {
        let latest = self.writers[position].get(&tensor).and_then(|w| w.iter().rev().find(|t| **t < before_task));
        if let Some(task) = latest {
            return Ok(Some((position, *task)));
        }
        let t = &machine.program.tensors[tensor];
        match t.kind {
            Kind::Weight => Ok(None),
            Kind::Input | Kind::State if self.fed[position].contains(&tensor) => Ok(Some((position, FED))),
            Kind::State if position > 0 => self.wanted(machine, tensor, position - 1, usize::MAX),
            Kind::State if t.home.is_some() => Ok(None),
            _ => Err(format!("it reads {}, which nothing wrote", t.name)),
        }
    }
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

/// What stands where in a walk; each body feeds what it reads once, and fetches each output once.
fn positions<'p>(machine: &Machine<'p>, units: &[Unit]) -> Result<Walk<'p>, String> {
    let program = machine.program;
    let mut walk = Walk { units: units.to_vec(), names: vec![], writers: vec![], fed: vec![] };
    let mut first = 0;
    for unit in units {
        let code = unit.code(program);
        let mut writers: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let (mut fed, mut fetched, mut ran) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for i in code {
            match i {
                Instruction::Run { task, .. } => {
                    let task = *machine.tasks.get(task.as_str()).ok_or("a run of no task")?;
                    if !ran.insert(task) {
                        return Err("a task runs twice a step".into());
                    }
                    for access in program.tasks[task].accesses.iter().filter(|a| a.writes()) {
                        let tensor = *machine.tensors.get(access.tensor()).ok_or("no tensor")?;
                        let kind = program.tensors[tensor].kind;
                        let may = match access {
                            Access::Append(_) => kind == Kind::State,
                            _ => matches!(kind, Kind::Activation | Kind::Output | Kind::State),
                        };
                        if !may {
                            return Err("a task writes what is not its to write".into());
                        }
                        writers.entry(tensor).or_default().push(task);
                    }
                }
                Instruction::Feed { berth, .. } => {
                    let tensor = machine.tensor(machine.berth(berth)?)?;
                    let kind = program.tensors[tensor].kind;
                    if !(kind == Kind::Input || kind == Kind::State && *unit == Unit::Prologue) || !fed.insert(tensor) {
                        return Err("a feed of what the caller does not have".into());
                    }
                }
                Instruction::Fetch { berth, .. } => {
                    let tensor = machine.tensor(machine.berth(berth)?)?;
                    let kind = program.tensors[tensor].kind;
                    if !matches!(kind, Kind::Output | Kind::State) || !fetched.insert(tensor) && kind == Kind::Output {
                        return Err("a fetch of what the caller does not want".into());
                    }
                }
                Instruction::Copy { .. } => {}
                Instruction::Require { .. } | Instruction::Pool { .. } => return Err("it cannot do that yet".into()),
            }
            if matches!(unit, Unit::Transition(_)) && !matches!(i, Instruction::Copy { .. }) {
                return Err("a transition only copies".into());
            }
        }
        writers.values_mut().for_each(|tasks| tasks.sort_unstable());
        if let Unit::Body(_) = unit {
            let outputs = program.tensors.iter().enumerate().filter(|(_, t)| t.kind == Kind::Output);
            if outputs.map(|(n, _)| n).any(|n| !fetched.contains(&n)) {
                return Err("an output that nobody fetches".into());
            }
        }
        walk.names
            .push(by_name(code.iter().map(Instruction::name))?.into_iter().map(|(n, i)| (n, first + i)).collect());
        walk.writers.push(writers);
        walk.fed.push(fed);
        first += code.len();
    }
    let runs = |task: &Task| {
        program
            .bodies
            .iter()
            .flat_map(|b| &b.code)
            .any(|i| matches!(i, Instruction::Run { task: t, .. } if *t == task.name))
    };
    match program.tasks.iter().find(|t| !runs(t)) {
        Some(task) => Err(format!("{} never runs", task.name)),
        None => Ok(walk),
    }
}

/// What an instruction reads and writes.
fn touched(
    machine: &Machine,
    walk: &Walk,
    position: usize,
    i: &Instruction,
) -> Result<(Vec<Touch>, Vec<Touch>), String> {
    Ok(match i {
        Instruction::Copy { from, to, extent, queue, .. } => {
            let (reads, written) = machine.copy(from, to, extent, queue)?;
            (reads, vec![written])
        }
        Instruction::Run { task, berths, .. } => machine.run(walk, position, machine.tasks[task.as_str()], berths)?,
        Instruction::Feed { berth, .. } => {
            let b = machine.berth(berth)?;
            (vec![], vec![machine.touch(b, machine.whole(b)?, Some(Some((position, FED))))?])
        }
        Instruction::Fetch { berth, .. } => {
            let b = machine.berth(berth)?;
            let wanted = walk.wanted(machine, machine.tensor(b)?, position, usize::MAX)?;
            (vec![machine.touch(b, machine.whole(b)?, Some(wanted))?], vec![])
        }
        Instruction::Require { .. } | Instruction::Pool { .. } => return Err("it cannot do that yet".into()),
    })
}
