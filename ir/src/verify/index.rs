//! Names to indexes, sizes to numbers: rules 1, 2, 4, 10, 11, 13 and 17, which look at one thing at a time.
//!
//! Sizes are taken at the upper end of each part's dims; that they fit over the whole range is what an upper bound of
//! the expression says.

use super::violation::{BindingProblem, ExtentProblem, LinkProblem, NameProblem, Violation};
use crate::expr::{Expr, Ranges};
use crate::program::*;
use crate::target::{LinkState, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// A byte range of a tensor. The end of the tensor is [`Part::END`], whatever the dims make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub from: u64,
    pub to: u64,
}

impl Part {
    pub const END: u64 = u64::MAX;
    pub const WHOLE: Part = Part { from: 0, to: Part::END };
    pub fn contains(self, other: Part) -> bool {
        self.from <= other.from && other.to <= self.to
    }
    pub fn meets(self, other: Part) -> bool {
        self.from < other.to && other.from < self.to
    }
}

/// How the bytes of a tensor lie in a berth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    Packed,
    /// Rows, bytes of each, pitch; boxed, as few copies have them and each piece of a walk has a layout.
    Pitched(Box<[Expr; 3]>),
}

pub(super) struct BerthIx {
    pub tensor: usize,
    pub arena: usize,
    pub begin: u64,
    pub end: u64,
    pub part: Part,
    pub until: Vec<usize>,
}

/// What an instruction does to berths.
pub(super) enum Act {
    Copy { from: Option<usize>, to: usize, range: Part, bytes: u64, read: Layout, write: Layout, link: usize },
    Run { task: usize, bind: Vec<Vec<usize>>, workspace: Option<usize> },
    Feed(usize),
    Fetch(usize),
}

pub(super) struct Ix {
    /// Interned name.
    pub name: usize,
    pub act: Act,
    /// Interned name and steps back.
    pub after: Vec<(usize, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Prologue,
    Body(usize),
    Transition { from: usize, to: usize },
}

/// The prologue, a body or a transition.
pub(super) struct Unit<'p> {
    pub label: String,
    pub name: &'p str,
    pub role: Role,
    pub ranges: Ranges,
    pub code: Vec<Ix>,
    /// From interned name to index in `code`.
    pub by_name: HashMap<usize, usize>,
}

pub(super) struct Index<'p> {
    pub program: &'p Program,
    pub target: &'p Target,
    pub berths: Vec<BerthIx>,
    pub units: Vec<Unit<'p>>,
    /// Index of each task's engine in the target.
    pub task_engine: Vec<usize>,
    /// Index of each access's tensor, by task.
    pub task_tensors: Vec<Vec<usize>>,
    /// Indexes of the weights that its engine keeps for it, by task.
    pub task_held: Vec<Vec<usize>>,
    /// By tensor: whoever reads it whole must have it brought, where it is not there. Weights that a file holds, and in a loop
    /// states that no task makes anew: who writes them reads them.
    pub comes: Vec<bool>,
    /// Interned instruction names.
    pub names: Vec<&'p str>,
}

impl Index<'_> {
    /// The place of a tier's arena; names are known to be there.
    pub fn arena(&self, tier: &str) -> usize {
        self.program.arenas.iter().position(|arena| arena.tier == tier).unwrap_or(0)
    }

    /// The prologue's unit is 0, bodies follow, then transitions.
    pub fn body_unit(&self, body: usize) -> usize {
        1 + body
    }
}

struct Tables<'p> {
    tensors: HashMap<&'p str, usize>,
    tasks: HashMap<&'p str, usize>,
    berths: HashMap<&'p str, usize>,
    arenas: HashMap<&'p str, usize>,
    engines: HashMap<&'p str, usize>,
    links: HashMap<&'p str, usize>,
    bodies: HashMap<&'p str, usize>,
    names: HashMap<&'p str, usize>,
}

/// The largest value over the ranges, if the expression is a size everywhere in them.
pub(super) fn upper(expr: &Expr, ranges: &Ranges) -> Option<u64> {
    let (low, high) = expr.range(ranges)?;
    if low < 0 { None } else { u64::try_from(high).ok().filter(|v| *v <= i64::MAX as u64) }
}

/// The least value over the ranges; zero where nothing better is known.
pub(super) fn lower(expr: &Expr, ranges: &Ranges) -> u64 {
    expr.range(ranges).map_or(0, |(low, _)| u64::try_from(low.max(0)).unwrap_or(0))
}

/// Resolves a program, or says all that stands in the way of that. Other findings go to `found`.
pub(super) fn index<'p>(target: &'p Target, program: &'p Program, found: &mut Vec<Violation>) -> Option<Index<'p>> {
    let before = found.len();
    if program.header.format != FORMAT {
        found.push(Violation::Format { says: program.header.format, known: FORMAT });
        return None;
    }
    if program.header.layout != target.layout_hash() {
        found.push(Violation::WrongTarget { says: program.header.layout.clone(), has: target.layout_hash() });
    }
    let mut names = Vec::new();
    let tables = tables(target, program, &mut names, found);
    check_names(target, program, &tables, found);
    if found[before..].iter().any(|v| matches!(v, Violation::Name { .. })) {
        return None;
    }
    let sized = check_sizes(program, found);
    let berths = index_berths(target, program, &tables, found);
    if !sized {
        return None;
    }
    let task_engine = program.tasks.iter().map(|t| tables.engines[t.engine.as_str()]).collect();
    let tensors_of = |t: &Task| t.accesses.iter().map(|a| tables.tensors[a.tensor()]).collect();
    let task_tensors: Vec<Vec<usize>> = program.tasks.iter().map(tensors_of).collect();
    let held_by = |t: &Task| held_names(t).map(|w| tables.tensors[w]).collect();
    let task_held = program.tasks.iter().map(held_by).collect();
    let comes = comes(program, &task_tensors);
    let units = Vec::new();
    let mut index = Index { program, target, berths, units, task_engine, task_tensors, task_held, comes, names };
    for (label, name, role, ranges, code) in parts(program, &tables) {
        let unit = index_unit(&index, &tables, label, name, role, ranges, code, found);
        index.units.push(unit);
    }
    check_tasks(&index, found);
    let reserved = found[before..].iter().any(|v| matches!(v, Violation::Reserved { .. }));
    let unbound = found[before..].iter().any(|v| matches!(v, Violation::Binding { .. } | Violation::Extent { .. }));
    if reserved || unbound { None } else { Some(index) }
}

/// By tensor, whether its bytes must come over a link to where they are read whole.
fn comes(program: &Program, task_tensors: &[Vec<usize>]) -> Vec<bool> {
    let stored = |t: &Tensor| t.home.as_ref().is_none_or(|h| h.filled.is_none());
    let kept = |t: &Tensor| t.kind == Kind::State && program.header.mode == Mode::Loop;
    let mut comes: Vec<bool> = program.tensors.iter().map(|t| t.kind == Kind::Weight && stored(t) || kept(t)).collect();
    for (task, tensors) in program.tasks.iter().zip(task_tensors) {
        for (_, tensor) in task.accesses.iter().zip(tensors).filter(|(a, _)| matches!(a, Access::Write(_))) {
            let read = |(a, t): (&Access, &usize)| t == tensor && matches!(a, Access::Read(_));
            comes[*tensor] &= task.accesses.iter().zip(tensors).any(read);
        }
    }
    comes
}

/// Prologue, bodies, transitions, each with its ranges of dims.
fn parts<'p>(program: &'p Program, tables: &Tables) -> Vec<(String, &'p str, Role, Ranges, &'p [Instruction])> {
    let ranges = |dims: &BTreeMap<String, DimRange>| -> Ranges {
        let all = program.header.dims.iter().map(|(n, r)| (n, dims.get(n).unwrap_or(r)));
        all.map(|(name, r)| (name.clone(), (r.low, r.high))).collect()
    };
    let first = match program.bodies.first() {
        Some(body) if program.header.mode == Mode::Loop => ranges(&body.dims),
        _ => all_ranges(program),
    };
    let mut all = vec![("the prologue".to_owned(), "", Role::Prologue, first, program.prologue.as_slice())];
    for (i, b) in program.bodies.iter().enumerate() {
        all.push((format!("body `{}`", b.name), &b.name, Role::Body(i), ranges(&b.dims), &b.code));
    }
    for t in &program.transitions {
        let (from, to) = (tables.bodies[t.from.as_str()], tables.bodies[t.to.as_str()]);
        let ranges = between(&grown(&ranges(&program.bodies[from].dims), program), &ranges(&program.bodies[to].dims));
        all.push((format!("transition `{}`", t.name), &t.name, Role::Transition { from, to }, ranges, &t.code));
    }
    all
}

/// The dims between a step of one body and a step of another: grown by the first, and what the second serves.
fn between(left: &Ranges, entered: &Ranges) -> Ranges {
    let both = |(name, (low, high)): (&String, &(u64, u64))| {
        let (a, b) = entered.get(name).copied().unwrap_or((*low, *high));
        let meet = (a.max(*low), b.min(*high));
        let all = (a.min(*low), b.max(*high));
        (name.clone(), if meet.0 <= meet.1 { meet } else { all })
    };
    left.iter().map(both).collect()
}

fn tables<'p>(
    target: &'p Target,
    program: &'p Program,
    names: &mut Vec<&'p str>,
    found: &mut Vec<Violation>,
) -> Tables<'p> {
    let mut interned = HashMap::new();
    // By name, the last code that has it.
    let mut seen = Vec::new();
    for (n, code) in codes(program).enumerate() {
        for i in code {
            check_name("instruction", i.name(), found);
            let id = *interned.entry(i.name()).or_insert_with(|| {
                names.push(i.name());
                seen.push(None);
                names.len() - 1
            });
            if seen[id].replace(n) == Some(n) {
                twice("instruction", i.name(), found);
            }
        }
    }
    let parts =
        program.bodies.iter().map(|b| b.name.as_str()).chain(program.transitions.iter().map(|t| t.name.as_str()));
    table("body or transition", parts, found);
    Tables {
        tensors: table("tensor", program.tensors.iter().map(|t| t.name.as_str()), found),
        tasks: table("task", program.tasks.iter().map(|t| t.name.as_str()), found),
        berths: table("berth", program.berths.iter().map(|b| b.name.as_str()), found),
        arenas: table("arena", program.arenas.iter().map(|a| a.tier.as_str()), found),
        engines: target.engines.iter().enumerate().map(|(i, e)| (e.name.as_str(), i)).collect(),
        links: target.links.iter().enumerate().map(|(i, l)| (l.name.as_str(), i)).collect(),
        bodies: program.bodies.iter().enumerate().map(|(i, b)| (b.name.as_str(), i)).collect(),
        names: interned,
    }
}

/// All code of a program: prologue, bodies, transitions.
pub(super) fn codes(program: &Program) -> impl Iterator<Item = &[Instruction]> {
    let bodies = program.bodies.iter().map(|b| b.code.as_slice());
    let transitions = program.transitions.iter().map(|t| t.code.as_slice());
    std::iter::once(program.prologue.as_slice()).chain(bodies).chain(transitions)
}

fn table<'p>(
    what: &'static str,
    names: impl Iterator<Item = &'p str>,
    found: &mut Vec<Violation>,
) -> HashMap<&'p str, usize> {
    let mut all = HashMap::new();
    for (i, name) in names.enumerate() {
        check_name(what, name, found);
        if all.insert(name, i).is_some() {
            twice(what, name, found);
        }
    }
    all
}

fn check_name(what: &'static str, name: &str, found: &mut Vec<Violation>) {
    if name.is_empty() || name.contains('~') || name.contains(" + ") || name.chars().any(char::is_control) {
        found.push(Violation::Name { what, name: name.to_owned(), problem: NameProblem::Illegal });
    }
}

fn twice(what: &'static str, name: &str, found: &mut Vec<Violation>) {
    found.push(Violation::Name { what, name: name.to_owned(), problem: NameProblem::Twice });
}

fn check_names(target: &Target, program: &Program, tables: &Tables, found: &mut Vec<Violation>) {
    let mut known = |what: &'static str, name: &str, there: bool| {
        if !there {
            found.push(Violation::Name { what, name: name.to_owned(), problem: NameProblem::Unknown });
        }
    };
    let arena_tier = |name: &str| target.tier(name).is_some_and(|t| !t.files);
    let file_tier = |name: &str| target.tier(name).is_some_and(|t| t.files);
    for a in &program.arenas {
        known("tier for an arena", &a.tier, arena_tier(&a.tier));
    }
    for tier in program.header.memory.keys() {
        known("tier", tier, target.tier(tier).is_some());
    }
    for t in &program.tensors {
        if let Some(home) = &t.home {
            known("tier that holds files", &home.tier, file_tier(&home.tier));
        }
    }
    for t in &program.tasks {
        known("engine", &t.engine, tables.engines.contains_key(t.engine.as_str()));
        for a in &t.accesses {
            known("tensor", a.tensor(), tables.tensors.contains_key(a.tensor()));
        }
        for weight in held_names(t) {
            known("tensor", weight, tables.tensors.contains_key(weight));
        }
        if let Some(held) = &t.held {
            known("arena", &held.arena, tables.arenas.contains_key(held.arena.as_str()));
        }
    }
    for b in &program.berths {
        known("tensor", &b.tensor, tables.tensors.contains_key(b.tensor.as_str()));
        known("arena", &b.arena, tables.arenas.contains_key(b.arena.as_str()));
        for u in &b.until {
            known("instruction", u, tables.names.contains_key(u.as_str()));
        }
    }
    for t in &program.transitions {
        known("body", &t.from, tables.bodies.contains_key(t.from.as_str()));
        known("body", &t.to, tables.bodies.contains_key(t.to.as_str()));
    }
    for dim in program.header.growth.keys().chain(program.bodies.iter().flat_map(|b| b.dims.keys())) {
        known("dim", dim, program.header.dims.contains_key(dim));
    }
    // By name, the last code that has it.
    let mut here = vec![None; tables.names.len()];
    for (n, code) in codes(program).enumerate() {
        for i in code {
            here[tables.names[i.name()]] = Some(n);
        }
        for i in code {
            for a in i.after() {
                let id = tables.names.get(a.name.as_str());
                known("instruction", &a.name, id.is_some_and(|id| a.steps > 0 || here[*id] == Some(n)));
            }
            for berth in named_berths(i) {
                known("berth", berth, tables.berths.contains_key(berth));
            }
            match i {
                Instruction::Copy { queue, wanted, .. } => {
                    known("link", queue, tables.links.contains_key(queue.as_str()));
                    if let Some(run) = wanted {
                        known("instruction", run, tables.names.contains_key(run.as_str()));
                    }
                }
                Instruction::Run { task, .. } => known("task", task, tables.tasks.contains_key(task.as_str())),
                _ => {}
            }
        }
    }
}

/// The weights that an engine keeps for a task.
fn held_names(task: &Task) -> impl Iterator<Item = &str> {
    task.held.iter().flat_map(|held| &held.weights).map(String::as_str)
}

/// The berths that an instruction names.
fn named_berths(i: &Instruction) -> Vec<&str> {
    match i {
        Instruction::Copy { from: Place::Berth(from), to, .. } => vec![from, to],
        Instruction::Copy { to, .. } => vec![to],
        Instruction::Run { berths, .. } => berths.iter().flat_map(|b| b.split(" + ")).collect(),
        Instruction::Feed { berth, .. }
        | Instruction::Fetch { berth, .. }
        | Instruction::Require { berth, .. }
        | Instruction::Pool { berth, .. } => vec![berth],
    }
}

/// Bodies keep to the header's ranges, and every tensor has a size everywhere in those, grown by one step.
fn check_sizes(program: &Program, found: &mut Vec<Violation>) -> bool {
    let grown = grown(&all_ranges(program), program);
    let mut fine = true;
    let mut range = |part: &str, dim: &String, within: &DimRange, r: &DimRange| {
        if r.low > r.high || r.low < within.low || within.high < r.high {
            found.push(Violation::Range { part: part.to_owned(), dim: dim.clone() });
            fine = false;
        }
    };
    for (dim, r) in &program.header.dims {
        range("the header", dim, r, r);
        for body in &program.bodies {
            range(&format!("body `{}`", body.name), dim, r, body.dims.get(dim).unwrap_or(r));
        }
    }
    for t in &program.tensors {
        if upper(&t.bytes, &grown).is_none() {
            found.push(Violation::SizeUnknown { what: "tensor", name: t.name.clone() });
            fine = false;
        }
    }
    fine
}

fn all_ranges(program: &Program) -> Ranges {
    program.header.dims.iter().map(|(n, r)| (n.clone(), (r.low, r.high))).collect()
}

/// The ranges after one step's growth.
pub(super) fn grown(ranges: &Ranges, program: &Program) -> Ranges {
    let by = |name: &String| program.header.growth.get(name).copied().unwrap_or(0);
    ranges.iter().map(|(n, (low, high))| (n.clone(), (*low, high.saturating_add(by(n))))).collect()
}

fn index_berths(target: &Target, program: &Program, tables: &Tables, found: &mut Vec<Violation>) -> Vec<BerthIx> {
    for a in &program.arenas {
        let room = target.tier(&a.tier).map_or(0, |t| t.room().0);
        if a.bytes > room {
            found.push(Violation::ArenaTooBig { tier: a.tier.clone(), bytes: a.bytes, room });
        }
    }
    let mut all = Vec::new();
    for b in &program.berths {
        let arena = tables.arenas[b.arena.as_str()];
        let alignment = target.tier(&b.arena).map_or(1, |t| t.alignment);
        if !b.offset.is_multiple_of(alignment) {
            found.push(Violation::Misaligned { berth: b.name.clone(), offset: b.offset, alignment });
        }
        let end = b.offset.saturating_add(b.bytes);
        let arena_bytes = program.arenas[arena].bytes;
        if end > arena_bytes {
            found.push(Violation::OutsideArena { berth: b.name.clone(), end, arena_bytes });
        }
        let tensor = tables.tensors[b.tensor.as_str()];
        let part = berth_part(b, &program.tensors[tensor], found);
        let until = b.until.iter().map(|u| tables.names[u.as_str()]).collect();
        all.push(BerthIx { tensor, arena, begin: b.offset, end, part, until });
    }
    all
}

fn berth_part(b: &Berth, tensor: &Tensor, found: &mut Vec<Violation>) -> Part {
    let Some((from, to)) = b.part else { return Part::WHOLE };
    let size = tensor.bytes.as_constant().and_then(|c| u64::try_from(c).ok());
    match size {
        Some(size) if from < to && to <= size => {
            if b.bytes < to - from {
                let (name, tensor) = (b.name.clone(), b.tensor.clone());
                found.push(Violation::Size { what: "berth", name, tensor, needed: to - from, has: b.bytes });
            }
            Part { from, to: if to == size { Part::END } else { to } }
        }
        _ => {
            found.push(Violation::Part { berth: b.name.clone(), from, to, tensor: b.tensor.clone() });
            Part::WHOLE
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "one unit's fields, used once")]
fn index_unit<'p>(
    index: &Index<'p>,
    tables: &Tables<'p>,
    label: String,
    name: &'p str,
    role: Role,
    ranges: Ranges,
    code: &'p [Instruction],
    found: &mut Vec<Violation>,
) -> Unit<'p> {
    let mut unit = Unit { label, name, role, ranges, code: Vec::new(), by_name: HashMap::new() };
    for i in code {
        let Some(act) = index_act(index, tables, &unit, i, found) else {
            found.push(Violation::Reserved { instruction: i.name().to_owned() });
            continue;
        };
        let after = i.after().iter().map(|a| (tables.names[a.name.as_str()], a.steps)).collect();
        for a in i.after().iter().filter(|a| a.steps > 1) {
            let (instruction, after) = (i.name().to_owned(), a.name.clone());
            found.push(Violation::TooFarBack { instruction, after, steps: a.steps });
        }
        if matches!(role, Role::Transition { .. }) && !matches!(act, Act::Copy { .. }) {
            found.push(Violation::CodeInTransition { part: name.to_owned(), instruction: i.name().to_owned() });
        }
        let name = tables.names[i.name()];
        unit.by_name.insert(name, unit.code.len());
        unit.code.push(Ix { name, act, after });
    }
    check_berth_sizes(index, &unit, found);
    unit
}

fn index_act(index: &Index, tables: &Tables, unit: &Unit, i: &Instruction, found: &mut Vec<Violation>) -> Option<Act> {
    Some(match i {
        Instruction::Copy { name, from, to, extent, queue, .. } => {
            let to = tables.berths[to.as_str()];
            let from = match from {
                Place::Home => None,
                Place::Berth(b) => Some(tables.berths[b.as_str()]),
            };
            let link = tables.links[queue.as_str()];
            let (range, bytes, read, write) = index_extent(index, unit, name, from, to, extent, found);
            let whole = bytes_grain(index, to, range, extent, index.target.links[link].grain.0);
            check_link(index, name, from, to, link, bytes, whole, found);
            Act::Copy { from, to, range, bytes, read, write, link }
        }
        Instruction::Run { name, task, berths, .. } => {
            let task = tables.tasks[task.as_str()];
            let bind: Vec<Vec<usize>> =
                berths.iter().map(|b| b.split(" + ").map(|b| tables.berths[b]).collect()).collect();
            index_run(index, name, task, bind, found)
        }
        Instruction::Feed { name, berth, .. } | Instruction::Fetch { name, berth, .. } => {
            let berth = tables.berths[berth.as_str()];
            if index.berths[berth].part != Part::WHOLE {
                let problem = BindingProblem::NotWhole;
                found.push(Violation::Binding { run: name.clone(), access: 0, problem });
            }
            if matches!(i, Instruction::Feed { .. }) { Act::Feed(berth) } else { Act::Fetch(berth) }
        }
        Instruction::Require { .. } | Instruction::Pool { .. } => return None,
    })
}

/// The dims at which a unit's copies of a tensor have their size. A state's is that of the version at hand: a body may
/// have grown it already.
fn copied(index: &Index, unit: &Unit, tensor: usize) -> Ranges {
    let state = index.program.tensors[tensor].kind == Kind::State;
    if state && matches!(unit.role, Role::Body(_)) { grown(&unit.ranges, index.program) } else { unit.ranges.clone() }
}

/// The range of the tensor that a copy moves, its bytes at the upper end, and the layout on both sides.
fn index_extent(
    index: &Index,
    unit: &Unit,
    copy: &str,
    from: Option<usize>,
    to: usize,
    extent: &Extent,
    found: &mut Vec<Violation>,
) -> (Part, u64, Layout, Layout) {
    let mut fault = |problem| found.push(Violation::Extent { copy: copy.to_owned(), problem });
    let (target, source) = (&index.berths[to], from.map(|b| &index.berths[b]));
    let tensor = &index.program.tensors[target.tensor];
    if source.is_some_and(|s| s.tensor != target.tensor) {
        fault(ExtentProblem::OtherTensor);
    }
    let ranges = copied(index, unit, target.tensor);
    let size = upper(&tensor.bytes, &ranges).unwrap_or(0);
    let range = match extent {
        Extent::Whole => target.part,
        Extent::Rows { .. } => Part::WHOLE,
        Extent::Bytes(a, b) => match tensor.bytes.as_constant() {
            None => {
                fault(ExtentProblem::NotConstant);
                target.part
            }
            Some(c) if a < b && i128::from(*b) <= c => {
                Part { from: *a, to: if i128::from(*b) == c { Part::END } else { *b } }
            }
            Some(_) => {
                fault(ExtentProblem::OutsidePart);
                target.part
            }
        },
    };
    if !target.part.contains(range) || source.is_some_and(|s| !s.part.contains(range)) {
        fault(ExtentProblem::OutsidePart);
    }
    let home = tensor.home.as_ref().filter(|_| source.is_none());
    let part = home.filter(|h| h.is_made() && range != Part::WHOLE).map(made_in_part);
    if let Some(problem) = home.and_then(|_| whole_home(tensor)).or(part) {
        fault(problem);
    }
    let bytes = range.to.min(size).saturating_sub(range.from);
    // Bytes that are made of nothing cross no link.
    let bytes = home.map_or(bytes, |h| h.crossing(bytes));
    let Extent::Rows { rows, bytes: row, from_pitch, to_pitch } = extent else {
        return (range, bytes, Layout::Packed, Layout::Packed);
    };
    if rows.clone() * row.clone() != tensor.bytes {
        fault(ExtentProblem::NotTheTensor);
    }
    let room = |b: &BerthIx| b.end - b.begin;
    // A home is packed.
    let packed = source.is_some() || from_pitch == row;
    for (pitch, room) in [(from_pitch, source.map_or(u64::MAX, room)), (to_pitch, room(target))] {
        let span = (rows.clone() - Expr::constant(1)) * pitch.clone() + row.clone();
        let ends = rows.range(&ranges).is_some_and(|(low, high)| low >= 1 && high <= i128::from(i64::MAX))
            && (pitch.clone() - row.clone()).range(&ranges).is_some_and(|(low, _)| low >= 0)
            && upper(&span, &ranges).is_some_and(|span| span <= room);
        if !ends || !packed {
            fault(ExtentProblem::Pitch);
        }
    }
    let layout = |pitch: &Expr| match pitch == row {
        true => Layout::Packed,
        false => Layout::Pitched(Box::new([rows.clone(), row.clone(), pitch.clone()])),
    };
    (range, bytes, layout(from_pitch), layout(to_pitch))
}

/// Why a tensor cannot be made whole of what its home says.
pub(super) fn whole_home(tensor: &Tensor) -> Option<ExtentProblem> {
    let home = tensor.home.as_ref()?;
    let size = tensor.bytes.as_constant().and_then(|c| u64::try_from(c).ok());
    let not_the_matrix = |m: Transposed| m.bytes().is_none() || m.bytes() != size;
    if home.transposed.is_some_and(not_the_matrix) {
        return Some(ExtentProblem::NotTheMatrix);
    }
    if home.strip.is_some_and(|s| !is_strip(s, home.transposed, &tensor.bytes)) {
        return Some(ExtentProblem::NotTheStrip);
    }
    let read = home.transposed.is_some() || home.strip.is_some();
    let not_the_fill = |f: Filled| read || size.is_none_or(|size| !f.makes(size));
    home.filled.is_some_and(not_the_fill).then_some(ExtentProblem::NotTheFill)
}

/// What is wrong where a part is read of what is put together on the way.
fn made_in_part(home: &Home) -> ExtentProblem {
    match (home.transposed, home.strip) {
        (Some(_), _) => ExtentProblem::NotTheMatrix,
        (None, Some(_)) => ExtentProblem::NotTheStrip,
        (None, None) => ExtentProblem::NotTheFill,
    }
}

/// Whether rows that lie apart in a file are a tensor of so many bytes, and the rows of its matrix where it has one.
fn is_strip(strip: Strip, matrix: Option<Transposed>, bytes: &Expr) -> bool {
    let size = bytes.as_constant().and_then(|c| u64::try_from(c).ok());
    let rows = matrix.is_none_or(|m| m.rows == strip.rows && m.columns.checked_mul(m.element) == Some(strip.bytes));
    rows && strip.rows > 0 && strip.packed().is_some() && strip.packed() == size && strip.span().is_some()
}

/// Whether all that a copy moves is a multiple of the grain: of a size that depends on dims, whatever they are; of rows, each.
fn bytes_grain(index: &Index, to: usize, range: Part, extent: &Extent, grain: u64) -> bool {
    let grain = Expr::constant(grain.max(1));
    let tensor = &index.program.tensors[index.berths[to].tensor].bytes;
    let size = match extent {
        Extent::Rows { bytes, .. } => bytes.clone(),
        _ if range.to == Part::END => tensor - Expr::constant(range.from),
        _ => Expr::constant(range.to - range.from),
    };
    size.exact_div(&grain).is_some()
}

#[allow(clippy::too_many_arguments, reason = "one copy's fields, used once")]
fn check_link(
    index: &Index,
    copy: &str,
    from: Option<usize>,
    to: usize,
    link: usize,
    bytes: u64,
    whole: bool,
    found: &mut Vec<Violation>,
) {
    let arena = |b: usize| index.program.arenas[index.berths[b].arena].tier.as_str();
    let tensor = &index.program.tensors[index.berths[to].tensor];
    let from = match (from, &tensor.home) {
        (Some(b), _) => arena(b),
        (None, Some(home)) => home.tier.as_str(),
        (None, None) => {
            return found.push(Violation::NoHome { copy: copy.to_owned(), tensor: tensor.name.clone() });
        }
    };
    let (to, link) = (arena(to), &index.target.links[link]);
    let mut fault = |problem| {
        found.push(Violation::Link { copy: copy.to_owned(), link: link.name.clone(), problem });
    };
    if link.from != from || link.to != to {
        fault(LinkProblem::Joins { from: from.to_owned(), to: to.to_owned() });
    }
    if link.state == LinkState::Cut {
        fault(LinkProblem::Cut);
    }
    if !whole {
        fault(LinkProblem::Grain { bytes, grain: link.grain.0 });
    }
}

fn index_run(index: &Index, run: &str, task: usize, mut bind: Vec<Vec<usize>>, found: &mut Vec<Violation>) -> Act {
    let t = &index.program.tasks[task];
    let wanted = t.accesses.len() + usize::from(t.workspace > 0);
    let mut fault = |access, problem| found.push(Violation::Binding { run: run.to_owned(), access, problem });
    if bind.len() != wanted {
        fault(0, BindingProblem::Count { bound: bind.len(), wanted });
        return Act::Run { task, bind: Vec::new(), workspace: None };
    }
    let workspace = if t.workspace > 0 { bind.pop() } else { None };
    for (access, berths) in bind.iter().enumerate() {
        if let Some(problem) = binding_problem(index, index.task_tensors[task][access], berths) {
            fault(access, problem);
        }
    }
    for (access, problem) in shared_bytes(index, t, &bind) {
        fault(access, problem);
    }
    if let Some(w) = &workspace {
        let access = t.accesses.len();
        let b = &index.berths[w[0]];
        if w.len() > 1 || index.program.tensors[b.tensor].kind != Kind::Workspace {
            fault(access, BindingProblem::Tensor { berth: index.program.berths[w[0]].name.clone() });
        }
        if b.end - b.begin < t.workspace {
            fault(access, BindingProblem::Workspace { needed: t.workspace, has: b.end - b.begin });
        }
    }
    check_engine(index, run, task, &bind, workspace.as_deref(), found);
    Act::Run { task, bind, workspace: workspace.map(|w| w[0]) }
}

/// The parts are the whole tensor, in order, one behind the other.
fn binding_problem(index: &Index, tensor: usize, berths: &[usize]) -> Option<BindingProblem> {
    let mut next = 0;
    let mut end: Option<(usize, u64)> = None;
    for &b in berths {
        let berth = &index.berths[b];
        if berth.tensor != tensor {
            return Some(BindingProblem::Tensor { berth: index.program.berths[b].name.clone() });
        }
        if berth.part.from != next {
            return Some(BindingProblem::NotWhole);
        }
        if end.is_some_and(|e| e != (berth.arena, berth.begin)) {
            return Some(BindingProblem::NotAdjacent);
        }
        next = berth.part.to;
        let last = berth.part.to == Part::END;
        let bytes = if last { berth.end - berth.begin } else { berth.part.to - berth.part.from };
        end = Some((berth.arena, berth.begin.saturating_add(bytes)));
    }
    if next == Part::END { None } else { Some(BindingProblem::NotWhole) }
}

/// A written access shares a berth with another access only where the task has the right to that.
fn shared_bytes(index: &Index, task: &Task, bind: &[Vec<usize>]) -> Vec<(usize, BindingProblem)> {
    let mut problems = Vec::new();
    for (w, written) in bind.iter().enumerate().filter(|(w, _)| task.accesses[*w].writes()) {
        for (o, other) in bind.iter().enumerate().filter(|(o, _)| *o != w) {
            let meets = |a: &usize, b: &usize| {
                let (a, b) = (&index.berths[*a], &index.berths[*b]);
                a.arena == b.arena && a.begin < b.end && b.begin < a.end
            };
            let shares = written.iter().any(|a| other.iter().any(|b| meets(a, b)));
            let right = task.in_place.contains(&(o, w))
                && index.berths[written[0]].begin == index.berths[other[0]].begin
                && !task.accesses[o].writes();
            if shares && !right {
                problems.push((w, BindingProblem::NoRight));
            }
        }
    }
    problems
}

fn check_engine(
    index: &Index,
    run: &str,
    task: usize,
    bind: &[Vec<usize>],
    workspace: Option<&[usize]>,
    found: &mut Vec<Violation>,
) {
    let engine = &index.target.engines[index.task_engine[task]];
    let accesses = &index.program.tasks[task].accesses;
    let bound = bind.iter().zip(accesses).map(|(b, a)| (b.as_slice(), a.writes()));
    for (berths, writes) in bound.chain(workspace.map(|w| (w, true))) {
        for &b in berths {
            let tier = &index.program.arenas[index.berths[b].arena].tier;
            if *tier != engine.tier && (writes || !engine.reads.contains(tier)) {
                found.push(Violation::Engine {
                    run: run.to_owned(),
                    engine: engine.name.clone(),
                    berth: index.program.berths[b].name.clone(),
                    tier: tier.clone(),
                });
            }
        }
    }
}

/// Every berth that a unit touches holds its tensor at the upper end of the unit's dims, a state also when grown.
fn check_berth_sizes(index: &Index, unit: &Unit, found: &mut Vec<Violation>) {
    let mut seen = BTreeSet::new();
    let mut check = |b: usize, found: &mut Vec<Violation>| {
        let berth = &index.berths[b];
        let tensor = &index.program.tensors[berth.tensor];
        if berth.part != Part::WHOLE || tensor.kind == Kind::Workspace || !seen.insert(b) {
            return;
        }
        let needed = upper(&tensor.bytes, &copied(index, unit, berth.tensor)).unwrap_or(u64::MAX);
        let has = berth.end - berth.begin;
        if has < needed {
            let (name, tensor) = (index.program.berths[b].name.clone(), tensor.name.clone());
            found.push(Violation::Size { what: "berth", name, tensor, needed, has });
        }
    };
    for ix in &unit.code {
        match &ix.act {
            Act::Copy { from, to, write, read, .. } => {
                if *write == Layout::Packed {
                    check(*to, found);
                }
                if let (Some(b), Layout::Packed) = (from, read) {
                    check(*b, found);
                }
            }
            Act::Feed(b) | Act::Fetch(b) => check(*b, found),
            Act::Run { bind, .. } => {
                for b in bind.iter().flatten() {
                    check(*b, found);
                }
            }
        }
    }
}

/// Tasks write what is theirs to write, run once a unit at most and in some body at least.
fn check_tasks(index: &Index, found: &mut Vec<Violation>) {
    if index.program.bodies.is_empty() {
        found.push(Violation::NoBody);
    }
    let mut ever = vec![false; index.program.tasks.len()];
    for unit in &index.units {
        let mut here = BTreeSet::new();
        for ix in &unit.code {
            let Act::Run { task, .. } = ix.act else { continue };
            if !here.insert(task) {
                let task = index.program.tasks[task].name.clone();
                found.push(Violation::TaskTwice { part: unit.label.clone(), task });
            }
            ever[task] |= matches!(unit.role, Role::Body(_));
        }
    }
    for (task, ran) in index.program.tasks.iter().zip(ever) {
        if !ran {
            found.push(Violation::TaskNever { task: task.name.clone() });
        }
    }
    for (t, task) in index.program.tasks.iter().enumerate() {
        for (access, tensor) in task.accesses.iter().zip(&index.task_tensors[t]) {
            let kind = index.program.tensors[*tensor].kind;
            let allowed = match access {
                Access::Read(_) | Access::ReadRows(_) => kind != Kind::Workspace,
                Access::Write(_) => matches!(kind, Kind::Activation | Kind::Output | Kind::State),
                Access::Append(_) => kind == Kind::State,
            };
            if !allowed {
                let tensor = access.tensor().to_owned();
                found.push(Violation::MayNotWrite { task: task.name.clone(), tensor });
            }
        }
    }
}
