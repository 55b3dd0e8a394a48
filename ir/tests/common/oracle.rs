//! Runs a program on a memory of tagged cells in random legal orders, and says when a read finds what it must not.
//!
//! Shares nothing with the verifier: it knows the order rules at the top of `program.rs`, keeps for every cell of 64
//! bytes what lies there, poisons cells while something writes them and when their berth ends, and compares each read
//! with what a run of all tasks one after the other would have given.

use berth_ir::program::*;
use std::collections::{BTreeMap, BTreeSet};

const CELL: u64 = 64;

/// A small generator of random numbers (xorshift).
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

/// Who wrote a tensor: step, and index of the task, or `FED`; `None` for the home.
type Version = Option<(usize, usize)>;
const FED: usize = usize::MAX;

/// Tensor, which of its cells, version.
type Tag = (usize, u64, Version);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Cell {
    Poison,
    /// Being written by this instance.
    Flight(usize),
    /// Held by this span of a berth.
    Holds(Tag, usize),
}

struct Instance<'p> {
    step: usize,
    code: &'p Instruction,
    preds: Vec<usize>,
}

struct World<'p> {
    program: &'p Program,
    instances: Vec<Instance<'p>>,
    /// before[a][b]: a has ended when b starts.
    before: Vec<Vec<bool>>,
    names: Vec<BTreeMap<&'p str, usize>>,
    tensors: BTreeMap<&'p str, usize>,
    berths: BTreeMap<&'p str, usize>,
}

/// The span of a berth: its ends that have not ended yet, and whether anything is still to end it.
struct Span {
    waits: BTreeSet<usize>,
    endless: bool,
}

struct Memory<'w, 'p> {
    world: &'w World<'p>,
    arenas: Vec<Vec<Cell>>,
    spans: Vec<Span>,
    /// By berth.
    span: Vec<Option<usize>>,
    /// What an instance read when it started: arena, cell, content.
    seen: BTreeMap<usize, Vec<(usize, usize, Cell)>>,
}

/// Prologue and so many steps of the first body, in `tries` orders. An error says what a read found.
pub fn run(program: &Program, steps: usize, tries: usize, seed: u64) -> Result<(), String> {
    let world = World::new(program, steps)?;
    let mut rng = Rng(seed | 1);
    for _ in 0..tries {
        world.play(&mut rng)?;
    }
    Ok(())
}

impl<'p> World<'p> {
    fn new(program: &'p Program, steps: usize) -> Result<World<'p>, String> {
        let mut instances: Vec<Instance> = Vec::new();
        let mut names: Vec<BTreeMap<&str, usize>> = Vec::new();
        let mut last_run: BTreeMap<&str, usize> = BTreeMap::new();
        let engine: BTreeMap<&str, &str> = program.tasks.iter().map(|t| (t.name.as_str(), t.engine.as_str())).collect();
        let steps = if program.header.mode == Mode::Once { 1 } else { steps };
        let mut first = vec![0];
        for step in 0..=steps {
            let code = if step == 0 { &program.prologue } else { &program.bodies[0].code };
            let here: BTreeMap<&str, usize> =
                code.iter().enumerate().map(|(i, c)| (c.name(), instances.len() + i)).collect();
            names.push(here);
            for i in code {
                let node = instances.len();
                let mut preds = Vec::new();
                for a in i.after() {
                    if let Some(p) = step.checked_sub(a.steps as usize).and_then(|s| names[s].get(a.name.as_str())) {
                        preds.push(*p);
                    }
                }
                if let Some(p) = step.checked_sub(1).and_then(|s| names[s].get(i.name())) {
                    preds.push(*p);
                }
                if let Instruction::Run { task, .. } = i {
                    preds.extend(last_run.insert(engine[task.as_str()], node));
                }
                if step >= 2 {
                    preds.extend(first[step - 2]..first[step - 1]);
                }
                instances.push(Instance { step, code: i, preds });
            }
            first.push(instances.len());
        }
        let tensors = program.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect();
        let berths = program.berths.iter().enumerate().map(|(i, b)| (b.name.as_str(), i)).collect();
        let mut world = World { program, instances, before: Vec::new(), names, tensors, berths };
        world.reach();
        Ok(world)
    }

    fn reach(&mut self) {
        let n = self.instances.len();
        self.before = vec![vec![false; n]; n];
        for b in 0..n {
            let mut stack = self.instances[b].preds.clone();
            while let Some(a) = stack.pop() {
                if !self.before[a][b] {
                    self.before[a][b] = true;
                    stack.extend(&self.instances[a].preds);
                }
            }
        }
    }

    /// One order: whatever may happen next does so by a random urgency given to each start and end beforehand.
    fn play(&self, rng: &mut Rng) -> Result<(), String> {
        let n = self.instances.len();
        let urgency: Vec<u64> = (0..2 * n).map(|_| rng.next()).collect();
        let (mut started, mut ended) = (vec![false; n], vec![false; n]);
        let mut memory = Memory {
            world: self,
            arenas: self.program.arenas.iter().map(|a| vec![Cell::Poison; a.bytes.div_ceil(CELL) as usize]).collect(),
            spans: Vec::new(),
            span: vec![None; self.program.berths.len()],
            seen: BTreeMap::new(),
        };
        for _ in 0..2 * n {
            let may_start = |i: &usize| !started[*i] && self.instances[*i].preds.iter().all(|p| ended[*p]);
            let starts = (0..n).filter(may_start).map(|i| (urgency[i], i, true));
            let ends = (0..n).filter(|i| started[*i] && !ended[*i]).map(|i| (urgency[n + i], i, false));
            let Some((_, node, start)) = starts.chain(ends).max() else {
                return Err("they wait for each other".into());
            };
            let done = if start { memory.start(node) } else { memory.end(node) };
            done.map_err(|e| format!("step {}: {}: {e}", self.instances[node].step, self.instances[node].code.name()))?;
            if start { started[node] = true } else { ended[node] = true }
        }
        Ok(())
    }

    /// What a reader must find, by the order of tasks in the program; an error where nothing has been written.
    fn wanted(&self, tensor: usize, step: usize, before_task: usize) -> Result<Version, String> {
        let name = &self.program.tensors[tensor].name;
        let mut latest = None;
        for node in self.names[step].values() {
            if let Instruction::Run { task, .. } = self.instances[*node].code {
                let index = self.program.tasks.iter().position(|t| t.name == *task).unwrap();
                let writes = self.program.tasks[index].accesses.iter().any(|a| a.writes() && a.tensor() == name);
                if writes && index < before_task {
                    latest = latest.max(Some(index));
                }
            }
        }
        if let Some(task) = latest {
            return Ok(Some((step, task)));
        }
        let fed = self.names[step].values().any(|node| match self.instances[*node].code {
            Instruction::Feed { berth, .. } => self.program.berths[self.berths[berth.as_str()]].tensor == *name,
            _ => false,
        });
        match self.program.tensors[tensor].kind {
            Kind::Weight => Ok(None),
            Kind::Input | Kind::State if fed => Ok(Some((step, FED))),
            Kind::State if step > 0 => self.wanted(tensor, step - 1, usize::MAX),
            Kind::State if self.program.tensors[tensor].home.is_some() => Ok(None),
            _ => Err(format!("reads {name}, which nothing wrote")),
        }
    }
}

impl Memory<'_, '_> {
    /// Arena, cells and first cell of the tensor, for a range of the tensor in a berth.
    fn cells(&self, berth: usize, from: u64, to: u64) -> Result<Vec<(usize, usize, u64)>, String> {
        let b = &self.world.program.berths[berth];
        let arena = self.world.program.arenas.iter().position(|a| a.tier == b.arena).ok_or("no arena")?;
        let base = b.part.map_or(0, |p| p.0);
        if from < base || to - base > b.bytes {
            return Err(format!("berth {} is too short", b.name));
        }
        let first = b.offset + from - base;
        let mut all = Vec::new();
        for i in 0..(to - from).div_ceil(CELL) {
            let cell = (first / CELL + i) as usize;
            if cell >= self.arenas[arena].len() {
                return Err(format!("berth {} leaves its arena", b.name));
            }
            all.push((arena, cell, from / CELL + i));
        }
        Ok(all)
    }

    fn tensor(&self, berth: usize) -> usize {
        self.world.tensors[self.world.program.berths[berth].tensor.as_str()]
    }

    fn size(&self, tensor: usize) -> u64 {
        self.world.program.tensors[tensor].bytes.as_constant().unwrap() as u64
    }

    fn part(&self, berth: usize) -> (u64, u64) {
        self.world.program.berths[berth].part.unwrap_or((0, self.size(self.tensor(berth))))
    }

    fn berth(&self, name: &str) -> usize {
        self.world.berths[name]
    }

    /// What this instance reads: berth, range, version wanted or `None` where any will do (copies).
    #[allow(clippy::type_complexity, reason = "one list, used twice")]
    fn reads(&self, node: usize) -> Result<Vec<(usize, (u64, u64), Option<Version>)>, String> {
        let Instance { step, code, .. } = &self.world.instances[node];
        Ok(match code {
            Instruction::Copy { from: Place::Berth(from), to, extent, .. } => {
                let range = self.extent(self.berth(to), extent);
                vec![(self.berth(from), range, None)]
            }
            Instruction::Fetch { berth, .. } => {
                let b = self.berth(berth);
                vec![(b, self.part(b), Some(self.world.wanted(self.tensor(b), *step, usize::MAX)?))]
            }
            Instruction::Run { task, berths, .. } => {
                let index = self.world.program.tasks.iter().position(|t| t.name == *task).unwrap();
                let mut all = Vec::new();
                for (access, bound) in self.world.program.tasks[index].accesses.iter().zip(berths) {
                    if access.reads() {
                        let wanted = self.world.wanted(self.world.tensors[access.tensor()], *step, index)?;
                        for b in bound.split(" + ").map(|b| self.berth(b)) {
                            all.push((b, self.part(b), Some(wanted)));
                        }
                    }
                }
                all
            }
            _ => Vec::new(),
        })
    }

    fn extent(&self, to: usize, extent: &Extent) -> (u64, u64) {
        match extent {
            Extent::Bytes(a, b) => (*a, *b),
            _ => self.part(to),
        }
    }

    /// What this instance writes: berth, range, version or `None` for a copy.
    #[allow(clippy::type_complexity, reason = "one list, used twice")]
    fn writes(&self, node: usize) -> Vec<(usize, (u64, u64), Option<Version>)> {
        let Instance { step, code, .. } = &self.world.instances[node];
        match code {
            Instruction::Copy { to, extent, .. } => {
                let to = self.berth(to);
                vec![(to, self.extent(to, extent), None)]
            }
            Instruction::Feed { berth, .. } => {
                let b = self.berth(berth);
                vec![(b, self.part(b), Some(Some((*step, FED))))]
            }
            Instruction::Run { task, berths, .. } => {
                let index = self.world.program.tasks.iter().position(|t| t.name == *task).unwrap();
                let task = &self.world.program.tasks[index];
                let written =
                    berths.iter().enumerate().filter(|(i, _)| task.accesses.get(*i).is_none_or(Access::writes));
                let bound = written.flat_map(|(_, b)| b.split(" + ")).map(|b| self.berth(b));
                bound.map(|b| (b, self.part(b), Some(Some((*step, index))))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn start(&mut self, node: usize) -> Result<(), String> {
        let mut seen = Vec::new();
        for (berth, (from, to), wanted) in self.reads(node)? {
            for (arena, cell, index) in self.cells(berth, from, to)? {
                let content = self.arenas[arena][cell];
                self.check(berth, index, content, wanted)?;
                seen.push((arena, cell, content));
            }
        }
        for (berth, (from, to), _) in self.writes(node) {
            self.open(node, berth);
            for (arena, cell, _) in self.cells(berth, from, to)? {
                // What it reads itself it may write over: the program says that it may, or the verifier refused it.
                self.arenas[arena][cell] = Cell::Flight(node);
            }
        }
        self.seen.insert(node, seen);
        Ok(())
    }

    fn check(&self, berth: usize, index: u64, content: Cell, wanted: Option<Version>) -> Result<(), String> {
        let Some(wanted) = wanted else { return Ok(()) };
        match content {
            Cell::Holds((tensor, i, version), _) if (tensor, i, version) == (self.tensor(berth), index, wanted) => {
                Ok(())
            }
            other => Err(format!(
                "cell {index} of berth {} holds {other:?}, wanted {wanted:?}",
                self.world.program.berths[berth].name
            )),
        }
    }

    /// Begins a new span of a berth where the last one is over.
    fn open(&mut self, node: usize, berth: usize) {
        if let Some(span) = self.span[berth]
            && (self.spans[span].endless || !self.spans[span].waits.is_empty())
        {
            return;
        }
        let until = &self.world.program.berths[berth].until;
        let (mut waits, mut endless) = (BTreeSet::new(), until.is_empty());
        let step = self.world.instances[node].step;
        for name in until {
            let same = self.world.names[step].get(name.as_str()).copied();
            let same = same.filter(|end| *end == node || self.world.before[node][*end]);
            let later =
                || (step + 1..self.world.names.len()).find_map(|s| self.world.names[s].get(name.as_str()).copied());
            match same.or_else(later) {
                Some(end) => {
                    waits.insert(end);
                }
                None => endless = true,
            }
        }
        self.spans.push(Span { waits, endless });
        self.span[berth] = Some(self.spans.len() - 1);
    }

    fn end(&mut self, node: usize) -> Result<(), String> {
        let seen = self.seen.remove(&node).unwrap_or_default();
        // What changed while it was being read is not what was read.
        let torn = |m: &Self, (arena, cell, content): (usize, usize, Cell)| {
            let now = m.arenas[arena][cell];
            now != content && now != Cell::Flight(node)
        };
        let is_copy = matches!(self.world.instances[node].code, Instruction::Copy { .. });
        if !is_copy && let Some((_, cell, _)) = seen.iter().copied().find(|s| torn(self, *s)) {
            return Err(format!("cell {cell} changed while it was read"));
        }
        for (berth, (from, to), version) in self.writes(node) {
            let (tensor, span) = (self.tensor(berth), self.span[berth].unwrap());
            for (i, (arena, cell, index)) in self.cells(berth, from, to)?.into_iter().enumerate() {
                let moved = match (version, seen.get(i)) {
                    (Some(version), _) => Cell::Holds((tensor, index, version), span),
                    (None, None) => Cell::Holds((tensor, index, None), span),
                    (None, Some(source)) if torn(self, *source) => Cell::Poison,
                    (None, Some((_, _, Cell::Holds(tag, _)))) => Cell::Holds(*tag, span),
                    (None, Some(_)) => Cell::Poison,
                };
                let mine = self.arenas[arena][cell] == Cell::Flight(node);
                self.arenas[arena][cell] = if mine { moved } else { Cell::Poison };
            }
        }
        for (i, span) in self.spans.iter_mut().enumerate() {
            if span.waits.remove(&node) && span.waits.is_empty() && !span.endless {
                for cell in self.arenas.iter_mut().flatten() {
                    if matches!(cell, Cell::Holds(_, s) if *s == i) {
                        *cell = Cell::Poison;
                    }
                }
            }
        }
        Ok(())
    }
}
