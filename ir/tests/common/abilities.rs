//! What the simulated device is able to do: where berths lie, what a copy moves, what a run reads and writes, what stands in each
//! step. What it cannot do at all is an error here, before anything is performed.

#![allow(dead_code, reason = "each test file uses its part")]

use super::{FED, Touch, Unit, Version};
use berth_ir::Target;
use berth_ir::program::*;
use berth_ir::target::LinkState;
use std::collections::{BTreeMap, BTreeSet};

/// What a target says about one program, looked up by name.
pub(super) struct Machine<'p> {
    pub program: &'p Program,
    pub target: &'p Target,
    pub tensors: BTreeMap<&'p str, usize>,
    pub tasks: BTreeMap<&'p str, usize>,
    pub berths: BTreeMap<&'p str, usize>,
    /// First cell of each arena, in the order of the program.
    pub bases: Vec<usize>,
    pub unit: u64,
}

impl<'p> Machine<'p> {
    pub fn new(target: &'p Target, program: &'p Program) -> Result<Machine<'p>, String> {
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
        self.kept()
    }

    /// Engines keep weights in arenas of their own, each in a range of its own.
    fn kept(&self) -> Result<(), String> {
        let mut ranges: Vec<(&str, u64, u64)> = Vec::new();
        for (task, held) in self.program.tasks.iter().filter_map(|t| Some((t, t.held.as_ref()?))) {
            let fail = |why: &str| Err(format!("{} {why}", task.name));
            let engine = self.target.engines.iter().find(|e| e.name == task.engine).ok_or("a task of no engine")?;
            let tier = self.target.tiers.iter().find(|t| t.name == held.arena).ok_or("what is kept has no tier")?;
            let arena = self.program.arenas.iter().find(|a| a.tier == held.arena).ok_or("what is kept has no arena")?;
            let range = (held.arena.as_str(), held.offset, held.offset.saturating_add(held.bytes));
            if self.program.header.numerics == Numerics::Exact || engine.tier != held.arena {
                return fail("keeps weights that it cannot");
            }
            if range.2 > arena.bytes || range.1 % tier.alignment != 0 {
                return fail("keeps weights where there is no address for them");
            }
            if ranges.iter().any(|other| other.0 == range.0 && other.1 < range.2 && range.1 < other.2) {
                return fail("keeps weights over those of another");
            }
            ranges.push(range);
            for (n, name) in held.weights.iter().enumerate() {
                let tensor = *self.tensors.get(name.as_str()).ok_or("a kept weight that is none")?;
                let tensor = &self.program.tensors[tensor];
                if tensor.kind != Kind::Weight || tensor.home.is_none() {
                    return fail("keeps what is no weight");
                }
                if held.weights[..n].contains(name) || task.accesses.iter().any(|a| a.tensor() == name) {
                    return fail("has a weight twice");
                }
            }
        }
        Ok(())
    }

    /// Whether a berth has bytes in which an engine keeps weights.
    pub fn meets_kept(&self, berth: usize) -> bool {
        let berth = &self.program.berths[berth];
        let held = self.program.tasks.iter().filter_map(|t| t.held.as_ref()).filter(|h| h.arena == berth.arena);
        held.into_iter().any(|h| h.offset < berth.offset + berth.bytes && berth.offset < h.offset + h.bytes)
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
    pub fn facts(&self) -> Result<(), String> {
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
        for held in self.program.tasks.iter().filter_map(|t| t.held.as_ref()) {
            let peak = peaks.entry(held.arena.clone()).or_default();
            *peak = (held.offset + held.bytes).max(*peak);
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
pub(super) struct Walk<'p> {
    pub units: Vec<Unit>,
    /// First instance of each position.
    pub names: Vec<BTreeMap<&'p str, usize>>,
    /// By position and tensor: the tasks that write it, in the order of the program's table.
    pub writers: Vec<BTreeMap<usize, Vec<usize>>>,
    /// By position: tensors that are fed.
    pub fed: Vec<BTreeSet<usize>>,
}

impl Walk<'_> {
    /// What a reader must find, by the order of tasks in the program; an error where nothing has been written.
    pub fn wanted(
        &self,
        machine: &Machine,
        tensor: usize,
        position: usize,
        before_task: usize,
    ) -> Result<Version, String> {
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

/// What stands where in a walk; each body feeds what it reads once, and fetches each output once.
pub(super) fn positions<'p>(machine: &Machine<'p>, units: &[Unit]) -> Result<Walk<'p>, String> {
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
pub(super) fn touched(
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
