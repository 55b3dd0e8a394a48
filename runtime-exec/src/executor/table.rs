//! A verified program with dense ids: what the executor looks at while it runs.

use crate::errors::LoadError;
use crate::store::Layout;
use berth_ir::fed;
use berth_ir::program::{Class, Extent, Filled, Instruction, Mode, Place, Program};
use berth_ir::verify::Verified;
use std::collections::{HashMap, HashSet};

/// The prologue or the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Half {
    Prologue,
    Body,
}

/// A byte range of an arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub arena: usize,
    pub offset: u64,
    pub bytes: u64,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// From a file of the model's folder.
    Load { file: String, from: Layout, to: Range },
    /// One element, over and over.
    Fill { filled: Filled, to: Range },
    /// From arena to arena.
    Move { from: Range, to: Range },
    /// A task, with one range for each access, then its workspace.
    Run { task: usize, ranges: Vec<Range>, workspace: Option<Range> },
    /// From the caller; alone where what was fed is there until it is fed anew.
    Feed { tensor: String, to: Range, alone: bool },
    /// To the caller.
    Fetch { tensor: String, from: Range },
}

/// One instruction, ready to run.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub name: String,
    pub work: Work,
    pub class: Class,
    /// The place in this half of the run that wants it, where one does.
    pub wanted: Option<usize>,
    /// In the same half.
    pub after: Vec<usize>,
    /// In the body of the step before.
    pub after_body: Vec<usize>,
    /// In the prologue, which is the step before the first.
    pub after_prologue: Vec<usize>,
    pub bytes: u64,
}

/// Who carries instructions out.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub name: String,
    pub kind: LaneKind,
    /// Prologue, then body: indexes of its instructions, in written order (an order that waits allow, for engines).
    pub items: [Vec<usize>; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneKind {
    Engine,
    Link,
    Caller,
}

#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// Prologue, body.
    pub halves: [Vec<Item>; 2],
    pub lanes: Vec<Lane>,
    /// Steps that the program was proved for.
    pub steps_max: usize,
}

impl Table {
    pub fn new(program: &Verified<Program>) -> Result<Table, LoadError> {
        let [body] = program.bodies.as_slice() else {
            return Err(LoadError::Bodies { bodies: program.bodies.len() });
        };
        let sizes = Sizes::new(program);
        let names = |code: &'_ [Instruction]| -> HashMap<String, usize> {
            code.iter().enumerate().map(|(i, x)| (x.name().to_owned(), i)).collect()
        };
        let by_name = [names(&program.prologue), names(&body.code)];
        let mut halves = [Vec::new(), Vec::new()];
        let mut lanes: Vec<Lane> = Vec::new();
        for (half, code) in [&program.prologue, &body.code].into_iter().enumerate() {
            for (i, instruction) in code.iter().enumerate() {
                let (work, kind, lane, class) = sizes.work(instruction)?;
                let find = |at: usize, steps: u32| {
                    let wanted = instruction.after().iter().filter(move |a| a.steps == steps);
                    wanted.filter_map(|a| by_name[at].get(&a.name).copied()).collect::<Vec<_>>()
                };
                let wanted = match instruction {
                    Instruction::Copy { wanted: Some(run), .. } => by_name[half].get(run).copied(),
                    _ => None,
                };
                // The prologue is the step before the first: an instruction of the same name there is the last instance.
                let mut after_prologue = if half == 1 { find(0, 1) } else { Vec::new() };
                if half == 1
                    && let Some(last) = by_name[0].get(instruction.name()).filter(|last| !after_prologue.contains(last))
                {
                    after_prologue.push(*last);
                }
                let item = Item {
                    name: instruction.name().to_owned(),
                    class,
                    wanted,
                    after: find(half, 0),
                    after_body: if half == 1 { find(1, 1) } else { Vec::new() },
                    after_prologue,
                    bytes: bytes(&work),
                    work,
                };
                halves[half].push(item);
                let at = lanes.iter().position(|l| l.name == lane && l.kind == kind).unwrap_or_else(|| {
                    lanes.push(Lane { name: lane.clone(), kind, items: [Vec::new(), Vec::new()] });
                    lanes.len() - 1
                });
                lanes[at].items[half].push(i);
            }
        }
        let steps_max = match program.header.mode {
            Mode::Loop => usize::MAX,
            Mode::Once => 1,
        };
        Ok(Table { halves, lanes, steps_max })
    }

    pub fn half(&self, half: Half) -> &[Item] {
        &self.halves[half as usize]
    }
}

fn bytes(work: &Work) -> u64 {
    match work {
        Work::Load { to, .. } | Work::Fill { to, .. } | Work::Feed { to, .. } => to.bytes,
        Work::Move { from, .. } | Work::Fetch { from, .. } => from.bytes,
        Work::Run { .. } => 0,
    }
}

/// Sizes at the dims that the program is run at.
struct Sizes<'p> {
    program: &'p Program,
    berths: HashMap<&'p str, usize>,
    tensors: HashMap<&'p str, (usize, u64)>,
    tasks: HashMap<&'p str, usize>,
    arenas: HashMap<&'p str, usize>,
    /// Berths that hold what was fed until it is fed anew.
    alone: HashSet<&'p str>,
}

impl<'p> Sizes<'p> {
    fn new(program: &'p Program) -> Sizes<'p> {
        let dims = program.header.dims.iter().map(|(n, r)| (n.clone(), r.high)).collect();
        let size = |t: &berth_ir::program::Tensor| t.bytes.eval(&dims).ok().and_then(|b| u64::try_from(b).ok());
        // The verifier has seen that every size is one.
        let tensors = program.tensors.iter().enumerate().map(|(i, t)| (t.name.as_str(), (i, size(t).unwrap_or(0))));
        Sizes {
            program,
            berths: program.berths.iter().enumerate().map(|(i, b)| (b.name.as_str(), i)).collect(),
            tensors: tensors.collect(),
            tasks: program.tasks.iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect(),
            arenas: program.arenas.iter().enumerate().map(|(i, a)| (a.tier.as_str(), i)).collect(),
            alone: fed::alone(program),
        }
    }

    /// The bytes of a berth that hold its part of the tensor, from where to where in the tensor.
    fn held(&self, berth: &str) -> (Range, u64) {
        let b = &self.program.berths[self.berths[berth]];
        let size = self.tensors[b.tensor.as_str()].1;
        let (from, to) = b.part.unwrap_or((0, size));
        (Range { arena: self.arenas[b.arena.as_str()], offset: b.offset, bytes: to - from }, from)
    }

    fn work(&self, instruction: &Instruction) -> Result<(Work, LaneKind, String, Class), LoadError> {
        Ok(match instruction {
            Instruction::Copy { name, from, to, extent, queue, class, .. } => {
                let (mut target, start) = self.held(to);
                let range = match extent {
                    Extent::Whole => (start, start + target.bytes),
                    Extent::Bytes(a, b) => (*a, *b),
                    Extent::Rows { .. } => return Err(LoadError::Rows { copy: name.clone() }),
                };
                target.offset += range.0 - start;
                target.bytes = range.1 - range.0;
                let work = match from {
                    Place::Home => {
                        let tensor = &self.program.berths[self.berths[to.as_str()]].tensor;
                        let (index, _) = self.tensors[tensor.as_str()];
                        let home = self.program.tensors[index].home.as_ref();
                        let home = home.ok_or_else(|| LoadError::Rows { copy: name.clone() })?;
                        let (file, offset) = (home.file.clone(), home.offset.saturating_add(range.0));
                        let from = Layout { offset, strip: home.strip, transposed: home.transposed };
                        match home.filled {
                            Some(filled) => Work::Fill { filled, to: target },
                            None => Work::Load { file, from, to: target },
                        }
                    }
                    Place::Berth(from) => {
                        let (mut source, start) = self.held(from);
                        source.offset += range.0 - start;
                        source.bytes = target.bytes;
                        Work::Move { from: source, to: target }
                    }
                };
                (work, LaneKind::Link, queue.clone(), *class)
            }
            Instruction::Run { task, berths, .. } => {
                let index = self.tasks[task.as_str()];
                let t = &self.program.tasks[index];
                let mut ranges: Vec<Range> = berths.iter().map(|b| self.joined(b)).collect();
                let workspace = if t.workspace > 0 { ranges.pop() } else { None };
                let workspace = workspace.map(|w| Range { bytes: t.workspace, ..w });
                (Work::Run { task: index, ranges, workspace }, LaneKind::Engine, t.engine.clone(), Class::Demand)
            }
            Instruction::Feed { berth, .. } => {
                let tensor = self.program.berths[self.berths[berth.as_str()]].tensor.clone();
                let alone = self.alone.contains(berth.as_str());
                (Work::Feed { tensor, to: self.held(berth).0, alone }, LaneKind::Caller, String::new(), Class::Demand)
            }
            Instruction::Fetch { berth, .. } => {
                let tensor = self.program.berths[self.berths[berth.as_str()]].tensor.clone();
                (Work::Fetch { tensor, from: self.held(berth).0 }, LaneKind::Caller, String::new(), Class::Demand)
            }
            Instruction::Require { name, .. } | Instruction::Pool { name, .. } => {
                return Err(LoadError::Rows { copy: name.clone() });
            }
        })
    }

    /// Adjacent parts as one range: the verifier has seen that they lie one behind the other.
    fn joined(&self, berths: &str) -> Range {
        let mut parts = berths.split(" + ").map(|b| self.held(b).0);
        // A split gives one piece at least.
        let first = parts.next().unwrap_or(Range { arena: 0, offset: 0, bytes: 0 });
        parts.fold(first, |all, part| Range { bytes: all.bytes + part.bytes, ..all })
    }
}
