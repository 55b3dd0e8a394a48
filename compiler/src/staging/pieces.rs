//! Takes a program's copies through staging memories.
//!
//! Reads:    a program for a machine in which ways through staging memories are links, and what each of those stands for.
//! Decides:  the pieces of each copy, where they lie in the staging memory, and the link of each half.
//! Promises: a program for the machine itself; nothing where a tensor whose size is open has no room there whole. Nothing waits
//!           for what waits for it: pieces take turns in the order of the program, in which each instruction stands behind
//!           what it waits for.
//! Why:      a piece is brought as soon as its bytes are there and its place is free, and goes on when its berth is: so the
//!           memory between is full of what is wanted next. What comes and what goes have a place each, for a copy that goes waits
//!           for a task, and what that task waits for must not stand behind it.

use super::ways::{Joined, Way};
use crate::emit::{budgets, with_facts};
use crate::holders::Holders;
use berth_ir::program::*;
use berth_ir::target::{Link, Target};
use berth_ir::units::Bytes;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Pieces that stand in a staging memory at a time, where it has room for so many of the least: few cost their links less, and
/// of many more are under way.
pub(crate) const PIECES: [u64; 2] = [3, 8];

/// The most bytes of a piece.
const PIECE_MOST: u64 = 64 << 20;

/// The most pieces of a copy and of a program: a plan of more would be none that anyone reads.
const COPY_MOST: u64 = 4_096;
const ALL_MOST: u64 = 200_000;

/// Pieces of a copy that are waited for one by one.
const MANY: usize = 4;

/// A copy that is taken through.
struct Through<'p> {
    way: &'p Way,
    from: &'p str,
    to: &'p Berth,
    /// Of a state: what it waits for may be for either side.
    carried: bool,
    /// From which byte of its tensor on it may be cut; nothing where the size is open.
    begin: Option<u64>,
    pieces: Vec<Piece>,
}

impl Through<'_> {
    /// The pieces that end behind all others.
    fn ends(&self) -> &[Piece] {
        let from = if self.pieces.len() > MANY { self.pieces.len() - 1 } else { 0 };
        &self.pieces[from..]
    }
}

/// A part of a copy: into the staging memory and out of it.
struct Piece {
    halves: [Half; 2],
    /// Its berth between.
    berth: Berth,
    /// Which bytes of the berth behind it gets, where they are not all.
    extent: Extent,
}

struct Half {
    name: String,
    link: String,
}

/// A place in which pieces take turns.
struct Ring {
    from: u64,
    bytes: u64,
    grain: u64,
    pieces: u64,
    next: u64,
    /// How far it was used.
    most: u64,
}

impl Ring {
    fn take(&mut self, bytes: u64) -> Option<u64> {
        let bytes = bytes.checked_next_multiple_of(self.grain).filter(|bytes| *bytes <= self.bytes)?;
        if self.next + bytes > self.bytes {
            self.next = 0;
        }
        let at = self.from + self.next;
        self.next += bytes;
        self.most = self.most.max(self.next);
        Some(at)
    }

    fn piece_most(&self) -> u64 {
        (self.bytes / self.pieces).min(PIECE_MOST).max(self.grain) / self.grain * self.grain
    }
}

/// The program with all its copies on links that the target has, so many pieces in a place at a time.
pub(crate) fn staged(program: &Program, joined: &Joined, target: &Target, pieces: u64) -> Option<Program> {
    let parts = [program.prologue.as_slice(), program.bodies.first().map_or(&[][..], |b| &b.code)];
    let through = through(program, joined, target, pieces)?;
    let writers = writers(program, &parts);
    let waits = turns(&parts, &through);
    let [prologue, body] = [0, 1].map(|part| code(parts[part], &through, &writers, &waits[part]));
    let berths = berths(program, &through);
    let mut arenas = program.arenas.clone();
    for berth in through.values().flat_map(|t| t.pieces.iter().map(|p| &p.berth)) {
        let end = berth.offset + berth.bytes;
        match arenas.iter_mut().find(|a| a.tier == berth.arena) {
            Some(arena) => arena.bytes = arena.bytes.max(end),
            None => arenas.push(Arena { tier: berth.arena.clone(), bytes: end }),
        }
    }
    let body = |b: &Body| Body { code: body.clone(), ..b.clone() };
    let header = Header { layout: target.layout_hash(), memory: budgets(target), ..program.header.clone() };
    let bodies = program.bodies.iter().map(body).collect();
    let (tensors, tasks, transitions) = (program.tensors.clone(), program.tasks.clone(), program.transitions.clone());
    let facts = Facts::default();
    Some(with_facts(target, Program { header, arenas, tensors, tasks, berths, prologue, bodies, transitions, facts }))
}

/// The copies over ways, by name, with places for all their pieces.
fn through<'p>(
    program: &'p Program,
    joined: &'p Joined,
    target: &Target,
    count: u64,
) -> Option<BTreeMap<&'p str, Through<'p>>> {
    let (prologue, body) = (&program.prologue, program.bodies.first().map_or(&[][..], |b| &b.code));
    let berths: HashMap<&str, &Berth> = program.berths.iter().map(|b| (b.name.as_str(), b)).collect();
    let tensors: HashMap<&str, &Tensor> = program.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let of = |i: &'p Instruction| {
        let Instruction::Copy { name, from: Place::Berth(from), to, queue, .. } = i else { return None };
        let (way, to) = (joined.ways.get(queue)?, *berths.get(to.as_str())?);
        let tensor = tensors.get(to.tensor.as_str())?;
        let begin = tensor.bytes.as_constant().map(|_| to.part.map_or(0, |(from, _)| from));
        let carried = tensor.kind == Kind::State;
        Some((name.as_str(), Through { way, from, to, carried, begin, pieces: Vec::new() }))
    };
    // What stands in both has the same place in both.
    let mut seen = BTreeSet::new();
    let copies = body.iter().chain(prologue).filter_map(of);
    let mut all: Vec<(&str, Through)> = copies.filter(|(name, _)| seen.insert(*name)).collect();
    let used: BTreeSet<(&str, bool)> = all.iter().map(|(_, t)| (t.way.through.as_str(), t.way.up)).collect();
    let mut rings: BTreeMap<(&str, bool), Ring> =
        used.iter().filter_map(|place| Some((*place, ring(program, joined, &used, *place, count)?))).collect();
    let mut links = Links { target, busy: BTreeMap::new() };
    let mut left = ALL_MOST;
    for (name, copy) in &mut all {
        let ring = rings.get_mut(&(copy.way.through.as_str(), copy.way.up))?;
        let cuts = copy.to.bytes.div_ceil(ring.piece_most());
        left = left.checked_sub(cuts).filter(|_| cuts <= COPY_MOST)?;
        copy.pieces = pieces(name, copy, ring, &mut links)?;
    }
    // What goes lies right behind what comes.
    for copy in all.iter_mut().map(|(_, copy)| copy).filter(|copy| !copy.way.up) {
        let tier = copy.way.through.as_str();
        let Some((up, down)) = rings.get(&(tier, true)).zip(rings.get(&(tier, false))) else { continue };
        let unused = down.from - (up.from + up.most);
        copy.pieces.iter_mut().for_each(|piece| piece.berth.offset -= unused);
    }
    Some(all.into_iter().collect())
}

/// The place of what passes through a memory in one direction: half of what stages there, where something passes in both.
fn ring(
    program: &Program,
    joined: &Joined,
    used: &BTreeSet<(&str, bool)>,
    (tier, up): (&str, bool),
    pieces: u64,
) -> Option<Ring> {
    let staging = joined.staging.get(tier)?;
    let held = program.arenas.iter().find(|a| a.tier == tier).map_or(0, |a| a.bytes);
    let (from, grain) = (held.next_multiple_of(staging.grain), staging.grain);
    let half = staging.bytes / 2 / grain * grain;
    let (from, bytes) = match (used.contains(&(tier, !up)), up) {
        (false, _) => (from, staging.bytes),
        (true, true) => (from, half),
        (true, false) => (from + half, half),
    };
    Some(Ring { from, bytes, grain, pieces, next: 0, most: 0 })
}

/// A copy's pieces, in their order.
fn pieces(name: &str, copy: &Through, ring: &mut Ring, links: &mut Links) -> Option<Vec<Piece>> {
    let (to, through) = (copy.to, &copy.way.through);
    let count = copy.begin.map_or(1, |_| to.bytes.div_ceil(ring.piece_most()).max(1));
    let each = to.bytes.div_ceil(count).next_multiple_of(ring.grain);
    let piece = |n: u64| {
        let (from, end) = ((n * each).min(to.bytes), ((n + 1) * each).min(to.bytes));
        let mark = if count > 1 { format!("/{}", n + 1) } else { String::new() };
        let cut = copy.begin.map(|begin| (begin + from, begin + end)).filter(|_| count > 1);
        let extent = cut.map_or(Extent::Whole, |(from, end)| Extent::Bytes(from, end));
        let names = [format!("stage {}{mark}", to.name), format!("{name}{mark}")];
        let berth = Berth {
            name: format!("{}@{through}{mark}", to.name),
            tensor: to.tensor.clone(),
            part: cut.or(to.part),
            arena: through.clone(),
            offset: ring.take(end - from)?,
            bytes: end - from,
            until: vec![names[1].clone()],
        };
        let [first, second] = &copy.way.links;
        let halves = [first, second].map(|all| links.next(all, end - from));
        let [Some(first), Some(second)] = halves else { return None };
        let [into, out] = names;
        let halves = [Half { name: into, link: first }, Half { name: out, link: second }];
        Some(Piece { halves, berth, extent })
    };
    (0..count).map(piece).collect()
}

/// What links have been given so far.
struct Links<'t> {
    target: &'t Target,
    busy: BTreeMap<&'t str, u128>,
}

impl Links<'_> {
    /// Of several that join the same memories the one that is done soonest with what it was given before.
    fn next(&mut self, names: &[String], bytes: u64) -> Option<String> {
        let end = |link: &&Link| {
            let time = Bytes(bytes).at(link.present_rate()).0.saturating_add(link.submit.0);
            self.busy.get(link.name.as_str()).copied().unwrap_or(0) + u128::from(time)
        };
        let links = self.target.links.iter().filter(|link| names.contains(&link.name));
        let (end, link) = links.map(|link| (end(&link), link)).min_by_key(|(end, _)| *end)?;
        self.busy.insert(&link.name, end);
        Some(link.name.clone())
    }
}

/// By berth what writes it.
fn writers<'p>(program: &'p Program, parts: &[&'p [Instruction]; 2]) -> HashMap<&'p str, BTreeSet<&'p str>> {
    let tasks: HashMap<&str, &Task> = program.tasks.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut all: HashMap<&str, BTreeSet<&str>> = HashMap::new();
    for instruction in parts.iter().copied().flatten() {
        let mut writes = |berth| all.entry(berth).or_default().insert(instruction.name());
        match instruction {
            Instruction::Copy { to: berth, .. } | Instruction::Feed { berth, .. } => {
                writes(berth);
            }
            Instruction::Run { task, berths, .. } => {
                let accesses = tasks.get(task.as_str()).map_or(&[][..], |task| &task.accesses);
                let written = accesses.iter().zip(berths).filter(|(access, _)| access.writes());
                written.flat_map(|(_, berths)| berths.split(" + ")).for_each(|berth| {
                    writes(berth);
                });
            }
            _ => {}
        }
    }
    all
}

/// What the first halves of the prologue and of the body wait for: the second halves of those that had their places last.
fn turns<'p>(
    parts: &[&'p [Instruction]; 2],
    through: &'p BTreeMap<&'p str, Through>,
) -> [HashMap<&'p str, BTreeSet<After>>; 2] {
    let mut all = [HashMap::new(), HashMap::new()];
    // By memory: the last halves of those who have its bytes, and in which step.
    let mut holders: BTreeMap<&str, Holders<(u32, &str)>> = BTreeMap::new();
    // The prologue, and two steps: who came last in the step before is known in the second.
    for step in 0..3u32 {
        let part = step.min(1) as usize;
        let pieces = parts[part].iter().filter_map(|i| through.get(i.name())).flat_map(|t| &t.pieces);
        for Piece { halves: [first, second], berth, .. } in pieces {
            let waits: &mut BTreeSet<After> = all[part].entry(first.name.as_str()).or_default();
            let (from, to) = (berth.offset, berth.offset + berth.bytes);
            if from == to {
                // It shares no byte with anything: only its own last instance was before it.
                waits.extend((part == 1).then(|| After::previous(&second.name)));
                continue;
            }
            let before = holders.entry(&berth.arena).or_default().take(from, to, (step, &second.name));
            waits.extend(before.into_iter().map(|(when, name)| After { name: name.to_owned(), steps: step - when }));
        }
    }
    all
}

/// The instructions with each copy as its halves.
fn code(
    code: &[Instruction],
    through: &BTreeMap<&str, Through>,
    writers: &HashMap<&str, BTreeSet<&str>>,
    turns: &HashMap<&str, BTreeSet<After>>,
) -> Vec<Instruction> {
    let mut all = Vec::with_capacity(code.len());
    for instruction in code {
        let copy = through.get(instruction.name());
        let (Some(copy), Instruction::Copy { from, to, class, wanted, after, .. }) = (copy, instruction) else {
            all.push(waiting(instruction, ended(instruction.after(), through)));
            continue;
        };
        // What wrote the source is for the first half, and what makes room for the second.
        let source = |a: &&After| {
            let writes = writers.get(copy.from).is_some_and(|names| names.contains(a.name.as_str()));
            writes || copy.carried || *class == Class::Demand
        };
        let (source, room): (Vec<&After>, Vec<&After>) = after.iter().partition(source);
        let [source, room] = [source, room].map(|after| ended(after, through));
        // Of many pieces the last waits for the others: it stands for all.
        let others = |n: usize, half: usize| {
            let others = copy.pieces.split_last().filter(|(_, others)| n == others.len() && n >= MANY);
            others
                .into_iter()
                .flat_map(move |(_, others)| others.iter().map(move |p| After::this(&p.halves[half].name)))
        };
        for (n, Piece { halves: [first, second], berth, extent }) in copy.pieces.iter().enumerate() {
            let turn = turns.get(first.name.as_str()).into_iter().flatten().cloned();
            all.push(Instruction::Copy {
                name: first.name.clone(),
                from: from.clone(),
                to: berth.name.clone(),
                extent: Extent::Whole,
                queue: first.link.clone(),
                class: *class,
                wanted: wanted.clone(),
                after: source
                    .iter()
                    .cloned()
                    .chain(turn)
                    .chain(others(n, 0))
                    .collect::<BTreeSet<After>>()
                    .into_iter()
                    .collect(),
            });
            let staged = [After::this(&first.name)];
            all.push(Instruction::Copy {
                name: second.name.clone(),
                from: Place::Berth(berth.name.clone()),
                to: to.clone(),
                extent: extent.clone(),
                queue: second.link.clone(),
                class: *class,
                wanted: wanted.clone(),
                after: room
                    .iter()
                    .cloned()
                    .chain(staged)
                    .chain(others(n, 1))
                    .collect::<BTreeSet<After>>()
                    .into_iter()
                    .collect(),
            });
        }
    }
    all
}

/// An instruction with something else that it waits for.
fn waiting(instruction: &Instruction, waits: Vec<After>) -> Instruction {
    use Instruction::*;
    let mut instruction = instruction.clone();
    match &mut instruction {
        Copy { after, .. }
        | Run { after, .. }
        | Feed { after, .. }
        | Fetch { after, .. }
        | Require { after, .. }
        | Pool { after, .. } => *after = waits,
    }
    instruction
}

/// What waits for a copy waits for those of its pieces that say that all have ended.
fn ended<'a>(after: impl IntoIterator<Item = &'a After>, through: &BTreeMap<&str, Through>) -> Vec<After> {
    let mut all = Vec::new();
    for a in after {
        match through.get(a.name.as_str()) {
            Some(copy) => {
                let pieces = copy.ends().iter();
                all.extend(pieces.map(|p| After { name: p.halves[1].name.clone(), steps: a.steps }));
            }
            None => all.push(a.clone()),
        }
    }
    all.sort();
    all.dedup();
    all
}

/// The berths, and those of pieces. What a copy reads ends with its first halves.
fn berths(program: &Program, through: &BTreeMap<&str, Through>) -> Vec<Berth> {
    let mut all = program.berths.clone();
    for berth in &mut all {
        let mut until = Vec::with_capacity(berth.until.len());
        for name in std::mem::take(&mut berth.until) {
            match through.get(name.as_str()) {
                Some(copy) => {
                    let half = usize::from(copy.from != berth.name);
                    until.extend(copy.ends().iter().map(|p| p.halves[half].name.clone()));
                }
                None => until.push(name),
            }
        }
        berth.until = until;
    }
    all.extend(through.values().flat_map(|t| t.pieces.iter().map(|p| p.berth.clone())));
    all
}
