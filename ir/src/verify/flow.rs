//! What each berth holds when: rules 3, 5, 6, 7, 9, 12 and 14, derived again from the instructions of one walk.

use super::index::{Act, Index, Layout, Part, Role};
use super::order::Order;
use super::violation::Violation;
use crate::program::{Access, Kind, Mode};
use std::collections::{BTreeMap, BTreeSet};

/// Which bytes of a tensor: those of its home, or those that an instance wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Home,
    Written(usize),
}

/// What a range of a tensor in a berth is, and who put it there.
#[derive(Clone, Debug)]
struct Piece {
    part: Part,
    version: Version,
    layout: Layout,
    writer: usize,
}

/// From the first write of a berth to the end of its `until`.
struct Life {
    berth: usize,
    writes: Vec<usize>,
    /// The instances that end it, as far as the walk shows them.
    ends: Vec<usize>,
    /// It lasts beyond the walk: nothing ends it, or not all that ends it is in the walk.
    open: bool,
}

#[derive(Default)]
struct BerthState {
    life: Option<usize>,
    pieces: Vec<Piece>,
    readers: Vec<(usize, Part)>,
}

struct Flow<'a, 'p> {
    index: &'a Index<'p>,
    order: &'a Order,
    versions: Versions,
    berths: Vec<BerthState>,
    lives: Vec<Life>,
    /// Every write of a berth in order: berth, life, piece.
    log: Vec<(usize, usize, Piece)>,
    found: BTreeSet<Violation>,
}

/// What the berths hold of what later steps may read, at the end of a body's step: by body and berth.
pub(super) type Ends = BTreeMap<usize, BTreeMap<usize, Vec<(Part, Layout)>>>;

/// Follows the contents of all berths through one walk. `ends` is shared by all walks: the end of a body's step is the
/// same however the step was reached.
pub(super) fn check(index: &Index, order: &Order, ends: &mut Ends, found: &mut BTreeSet<Violation>) {
    let berths = index.berths.iter().map(|_| BerthState::default()).collect();
    let versions = Versions::new(index, order);
    // Nearly each instance writes once.
    let (lives, log) = (Vec::new(), Vec::with_capacity(order.instances.len()));
    let mut flow = Flow { index, order, versions, berths, lives, log, found: BTreeSet::new() };
    for &node in &order.sorted {
        if node < order.instances.len() {
            flow.step(node);
        }
    }
    flow.overlaps();
    flow.edges(ends);
    found.append(&mut flow.found);
}

/// The version of each tensor that is current, by the order of tasks in the program.
struct Versions {
    /// By position and tensor: writing tasks in the order of the program's table, with their nodes.
    writes: Vec<BTreeMap<usize, Vec<(usize, usize)>>>,
    /// By position and tensor: the node that feeds it.
    feeds: Vec<BTreeMap<usize, usize>>,
}

impl Versions {
    fn new(index: &Index, order: &Order) -> Versions {
        let positions = order.walk.len();
        let mut all = Versions { writes: vec![BTreeMap::new(); positions], feeds: vec![BTreeMap::new(); positions] };
        for (node, instance) in order.instances.iter().enumerate() {
            match &index.units[order.walk[instance.position]].code[instance.code].act {
                Act::Run { task, .. } => {
                    for (access, tensor) in index.program.tasks[*task].accesses.iter().zip(&index.task_tensors[*task]) {
                        if access.writes() {
                            all.writes[instance.position].entry(*tensor).or_default().push((*task, node));
                        }
                    }
                }
                Act::Feed(berth) => {
                    all.feeds[instance.position].insert(index.berths[*berth].tensor, node);
                }
                _ => {}
            }
        }
        for writes in all.writes.iter_mut().flat_map(BTreeMap::values_mut) {
            writes.sort_unstable();
        }
        all
    }

    /// What a reader at this position must find: the last write by a task that stands before `task` in the program.
    fn current(&self, index: &Index, position: usize, tensor: usize, task: usize) -> Option<Version> {
        let here = self.writes[position].get(&tensor).and_then(|w| w.iter().rev().find(|(t, _)| *t < task));
        if let Some((_, node)) = here {
            return Some(Version::Written(*node));
        }
        match index.program.tensors[tensor].kind {
            Kind::Weight => Some(Version::Home),
            Kind::Input => self.feeds[position].get(&tensor).map(|n| Version::Written(*n)),
            Kind::State => self.before(index, position, tensor),
            Kind::Output | Kind::Activation | Kind::Workspace => None,
        }
    }

    /// A state's version when the position begins, feeds of that position included.
    fn before(&self, index: &Index, position: usize, tensor: usize) -> Option<Version> {
        if let Some(node) = self.feeds[position].get(&tensor) {
            return Some(Version::Written(*node));
        }
        match position.checked_sub(1) {
            Some(previous) => self.last(index, previous, tensor),
            None => index.program.tensors[tensor].home.as_ref().map(|_| Version::Home),
        }
    }

    /// A state's version when the position has ended.
    fn last(&self, index: &Index, position: usize, tensor: usize) -> Option<Version> {
        self.current(index, position, tensor, usize::MAX)
    }
}

impl Flow<'_, '_> {
    fn name(&self, node: usize) -> String {
        self.order.label(self.index, node).unwrap_or_default()
    }

    fn berth_name(&self, berth: usize) -> String {
        self.index.program.berths[berth].name.clone()
    }

    fn tensor_name(&self, tensor: usize) -> String {
        self.index.program.tensors[tensor].name.clone()
    }

    fn step(&mut self, node: usize) {
        let instance = self.order.instances[node];
        let unit = &self.index.units[self.order.walk[instance.position]];
        match &unit.code[instance.code].act {
            Act::Copy { from, to, range, read, write, .. } => self.copy(node, *from, *to, *range, read, write),
            Act::Feed(berth) => {
                let part = self.index.berths[*berth].part;
                self.write(node, *berth, vec![whole(part, Version::Written(node), node)]);
            }
            Act::Fetch(berth) => {
                let tensor = self.index.berths[*berth].tensor;
                let wanted = self.versions.last(self.index, instance.position, tensor);
                self.read_current(node, &[*berth], wanted);
            }
            Act::Run { task, bind, workspace } => {
                let index = self.index;
                let accesses = &index.program.tasks[*task].accesses;
                for ((access, berths), tensor) in accesses.iter().zip(bind).zip(&index.task_tensors[*task]) {
                    if access.reads() {
                        let wanted = self.versions.current(index, instance.position, *tensor, *task);
                        self.read_current(node, berths, wanted);
                    }
                }
                let written = accesses.iter().zip(bind).filter(|(a, _)| a.writes()).flat_map(|(_, b)| b);
                for berth in written.chain(workspace) {
                    let part = index.berths[*berth].part;
                    self.write(node, *berth, vec![whole(part, Version::Written(node), node)]);
                }
            }
        }
    }

    fn copy(&mut self, node: usize, from: Option<usize>, to: usize, range: Part, read: &Layout, write: &Layout) {
        let pieces = match from {
            None => vec![Piece { part: range, version: Version::Home, layout: Layout::Packed, writer: node }],
            Some(berth) => {
                if berth == to {
                    self.race(berth, node, node);
                }
                self.read(node, berth, range, read)
            }
        };
        let moved = pieces.into_iter().map(|p| Piece { layout: write.clone(), writer: node, ..p });
        self.write(node, to, moved.collect());
    }

    /// A task or the caller reads a whole tensor: it must be there, packed, in the current version.
    fn read_current(&mut self, node: usize, berths: &[usize], wanted: Option<Version>) {
        let tensor = self.index.berths[berths[0]].tensor;
        if wanted.is_none() {
            let (reader, tensor) = (self.name(node), self.tensor_name(tensor));
            self.found.insert(Violation::NoVersion { reader, tensor });
        }
        for &berth in berths {
            let part = self.index.berths[berth].part;
            for piece in self.read(node, berth, part, &Layout::Packed) {
                let Some(wanted) = wanted.filter(|w| *w != piece.version) else { continue };
                let (found, wanted) = (self.said(piece.version, node), self.said(wanted, node));
                let (reader, berth, tensor) = (self.name(node), self.berth_name(berth), self.tensor_name(tensor));
                self.found.insert(Violation::Stale { reader, berth, tensor, found, wanted });
            }
        }
    }

    /// A version in words, seen from a node: who wrote it, and how many steps ago.
    fn said(&self, version: Version, from: usize) -> String {
        match version {
            Version::Home => "the bytes of its home".to_owned(),
            Version::Written(node) => match self.order.position(from).saturating_sub(self.order.position(node)) {
                0 => format!("what `{}` wrote", self.name(node)),
                steps => format!("what `{}~{steps}` wrote", self.name(node)),
            },
        }
    }

    /// Reads a range of a berth; what it finds there, clipped to the range.
    fn read(&mut self, node: usize, berth: usize, range: Part, layout: &Layout) -> Vec<Piece> {
        self.check_alive(node, berth);
        let held = &self.berths[berth].pieces;
        let mut pieces: Vec<Piece> = held.iter().filter(|p| p.part.meets(range)).cloned().collect();
        for piece in &mut pieces {
            piece.part = Part { from: piece.part.from.max(range.from), to: piece.part.to.min(range.to) };
        }
        pieces.sort_by_key(|p| p.part.from);
        let tensor = self.index.berths[berth].tensor;
        let (reader, berth_name, tensor) = (self.name(node), self.berth_name(berth), self.tensor_name(tensor));
        let end = pieces.iter().try_fold(range.from, |at, p| (p.part.from == at).then_some(p.part.to));
        if end != Some(range.to) {
            let (reader, berth, tensor) = (reader.clone(), berth_name.clone(), tensor.clone());
            self.found.insert(Violation::Absent { reader, berth, tensor });
        }
        for piece in &pieces {
            if !self.order.before(piece.writer, node) {
                self.race(berth, piece.writer, node);
            }
            if piece.layout != *layout {
                let (reader, berth, tensor) = (reader.clone(), berth_name.clone(), tensor.clone());
                self.found.insert(Violation::Pitched { reader, berth, tensor });
            }
        }
        self.berths[berth].readers.push((node, range));
        pieces
    }

    fn race(&mut self, berth: usize, first: usize, second: usize) {
        let (berth, first, second) = (self.berth_name(berth), self.name(first), self.name(second));
        self.found.insert(Violation::Race { berth, first, second });
    }

    /// A use must end before the berth does, or be what ends it.
    fn check_alive(&mut self, node: usize, berth: usize) {
        let Some(life) = self.berths[berth].life else { return };
        let Life { ends, open, .. } = &self.lives[life];
        if !open && !ends.iter().any(|end| self.order.at_or_before(node, *end)) {
            let (berth, by) = (self.berth_name(berth), self.name(node));
            self.found.insert(Violation::UsedAfterEnd { berth, by });
        }
    }

    fn write(&mut self, node: usize, berth: usize, pieces: Vec<Piece>) {
        let over = match self.berths[berth].life {
            None => true,
            Some(life) => {
                let Life { ends, open, .. } = &self.lives[life];
                !open && ends.iter().all(|end| self.order.before(*end, node))
            }
        };
        if over {
            self.begin_life(node, berth);
        } else {
            self.check_alive(node, berth);
            self.check_races(node, berth, &pieces);
            self.check_first(node, berth);
        }
        let Some(life) = self.berths[berth].life else { return };
        self.lives[life].writes.push(node);
        for piece in pieces {
            self.log.push((berth, life, piece.clone()));
            put(&mut self.berths[berth].pieces, piece);
        }
    }

    /// A write inside a life comes after all earlier reads and writes of the same bytes.
    fn check_races(&mut self, node: usize, berth: usize, pieces: &[Piece]) {
        let state = &self.berths[berth];
        let meets = |part: Part| pieces.iter().any(|p| p.part.meets(part));
        let writers = state.pieces.iter().filter(|p| meets(p.part)).map(|p| p.writer);
        let readers = state.readers.iter().filter(|(_, part)| meets(*part)).map(|(reader, _)| *reader);
        let earlier: Vec<usize> = writers.chain(readers).collect();
        for other in earlier {
            if other != node && !self.order.before(other, node) {
                self.race(berth, other, node);
            }
        }
    }

    /// Where two writes may be the first, the ends must be the same for both.
    fn check_first(&mut self, node: usize, berth: usize) {
        let Some(life) = self.berths[berth].life else { return };
        let first = self.lives[life].writes[0];
        if first == node || self.order.before(first, node) {
            return;
        }
        let other = |name: &&usize| {
            self.end_of(node, berth, **name).and_then(Result::ok)
                != self.end_of(first, berth, **name).and_then(Result::ok)
        };
        if let Some(name) = self.index.berths[berth].until.iter().find(other) {
            let (until, berth) = (self.index.names[*name].to_owned(), self.berth_name(berth));
            self.found.insert(Violation::EndUnordered { berth, until, written_by: self.name(node) });
        }
    }

    fn begin_life(&mut self, node: usize, berth: usize) {
        let until = &self.index.berths[berth].until;
        let (mut ends, mut open) = (Vec::new(), until.is_empty());
        for name in until {
            match self.end_of(node, berth, *name) {
                Some(Ok(end)) => ends.push(end),
                Some(Err(violation)) => {
                    self.found.insert(violation);
                    open = true;
                }
                None => open = true,
            }
        }
        self.lives.push(Life { berth, writes: Vec::new(), ends, open });
        let life = Some(self.lives.len() - 1);
        self.berths[berth] = BerthState { life, ..BerthState::default() };
    }

    /// The first instance of an instruction after a berth's first write; nothing where the walk ends before it.
    fn end_of(&self, node: usize, berth: usize, name: usize) -> Option<Result<usize, Violation>> {
        let position = self.order.position(node);
        let same = self.order.find(self.index, position, name);
        if let Some(end) = same.filter(|end| self.order.at_or_before(node, *end)) {
            return Some(Ok(end));
        }
        let later = (position + 1..self.order.walk.len()).find_map(|p| self.order.find(self.index, p, name))?;
        if self.order.before(node, later) {
            return Some(Ok(later));
        }
        let (berth, written_by) = (self.berth_name(berth), self.name(node));
        Some(Err(Violation::EndUnordered { berth, until: self.index.names[name].to_owned(), written_by }))
    }

    /// Rule 3: goes through lives in an order that respects the program's, and keeps for each byte its last holder.
    ///
    /// Neighbours suffice: if each holder of a byte ends before the next begins, all pairs are ordered.
    fn overlaps(&mut self) {
        let mut holders: Vec<BTreeMap<u64, (u64, usize)>> = vec![BTreeMap::new(); self.index.program.arenas.len()];
        for life in 0..self.lives.len() {
            let berth = &self.index.berths[self.lives[life].berth];
            if berth.begin == berth.end {
                continue;
            }
            let held = &mut holders[berth.arena];
            split(held, berth.begin);
            split(held, berth.end);
            let before: Vec<(u64, (u64, usize))> = held.range(berth.begin..berth.end).map(|(k, v)| (*k, *v)).collect();
            for (from, _) in &before {
                held.remove(from);
            }
            held.insert(berth.begin, (berth.end, life));
            let mut seen = BTreeSet::new();
            for (from, (to, earlier)) in before {
                if seen.insert(earlier) {
                    self.check_overlap(earlier, life, from, to);
                }
            }
        }
    }

    fn check_overlap(&mut self, earlier: usize, later: usize, from: u64, to: u64) {
        let (first, second) = (&self.lives[earlier], &self.lives[later]);
        let right = |end: usize, write: usize| end == write && self.in_place(first.berth, second.berth, end);
        let fault = second.writes.iter().find_map(|write| {
            let late = first.ends.iter().find(|end| !self.order.before(**end, *write) && !right(**end, *write));
            match late {
                Some(end) => Some((Some(*end), *write)),
                None if first.open => Some((None, *write)),
                None => None,
            }
        });
        let Some((ends, write)) = fault else { return };
        if let (true, Some(end)) = (first.berth == second.berth, ends) {
            // Filled again while its last content may still be in use.
            return self.race(first.berth, end, write);
        }
        self.found.insert(Violation::Overlap {
            first: self.berth_name(first.berth),
            second: self.berth_name(second.berth),
            arena: self.index.program.arenas[self.index.berths[first.berth].arena].tier.clone(),
            from,
            to,
            ends: ends.map(|end| self.name(end)),
            written_by: self.name(write),
        });
    }

    /// Whether the run at this node may write one berth over the other.
    fn in_place(&self, read: usize, written: usize, node: usize) -> bool {
        let instance = self.order.instances[node];
        let Act::Run { task, bind, .. } = &self.index.units[self.order.walk[instance.position]].code[instance.code].act
        else {
            return false;
        };
        let pairs = &self.index.program.tasks[*task].in_place;
        let same = self.index.berths[read].begin == self.index.berths[written].begin;
        same && pairs.iter().any(|(r, w)| {
            bind.get(*r).is_some_and(|b| b.contains(&read)) && bind.get(*w).is_some_and(|b| b.contains(&written))
        })
    }

    /// What the berths that live on hold when a position has ended: by berth, pieces with versions.
    ///
    /// A berth has one life that lives on at most: the next begins when all that ends it has ended.
    fn edge(&self, position: usize) -> BTreeMap<usize, Vec<Piece>> {
        let lives_on = |life: &Life| life.open || life.ends.iter().any(|end| self.order.position(*end) > position);
        let lives_on: Vec<bool> = self.lives.iter().map(lives_on).collect();
        let mut all: BTreeMap<usize, Vec<Piece>> = BTreeMap::new();
        let written = |piece: &Piece| self.order.position(piece.writer) <= position;
        for (berth, _, piece) in self.log.iter().filter(|(_, life, piece)| lives_on[*life] && written(piece)) {
            put(all.entry(*berth).or_default(), piece.clone());
        }
        all
    }

    /// Rules 7 (states are kept), 9 and 14, at the edges between positions.
    fn edges(&mut self, ends: &mut Ends) {
        let units: Vec<Role> = self.order.walk.iter().map(|u| self.index.units[*u].role).collect();
        let mut before = BTreeMap::new();
        for (position, unit) in units.iter().enumerate() {
            let after = self.edge(position);
            self.check_states(position, &after);
            if let Role::Body(body) = unit {
                self.same_end(*body, position, &after, ends);
            }
            if position > 0 {
                self.check_start(&units, position, &before, &after);
            }
            before = after;
        }
    }

    /// Rules 9 and 14: what a step finds it leaves.
    fn check_start(
        &mut self,
        units: &[Role],
        position: usize,
        before: &BTreeMap<usize, Vec<Piece>>,
        after: &BTreeMap<usize, Vec<Piece>>,
    ) {
        let looped = self.index.program.header.mode == Mode::Loop;
        let same = |berth: &usize| {
            let start = self.relative(*berth, before.get(berth), position - 1);
            (start.is_empty(), start == self.relative(*berth, after.get(berth), position))
        };
        let mut differ: BTreeSet<&usize> = BTreeSet::new();
        match (units[position - 1], units[position]) {
            // The first step may find less than it leaves: what it loads and keeps. What it finds it leaves.
            (Role::Prologue | Role::Transition { .. }, Role::Body(_)) if looped => {
                differ.extend(before.keys().filter(|berth| !matches!(same(berth), (true, _) | (_, true))));
            }
            _ => {}
        }
        for berth in differ {
            let berth = self.berth_name(*berth);
            self.found.insert(match (units[position - 1], units[position]) {
                (Role::Transition { .. }, _) => {
                    let transition = self.index.units[self.order.walk[position - 1]].name.to_owned();
                    Violation::TransitionEdge { transition, berth }
                }
                _ => Violation::LoopEdge { body: self.index.units[self.order.walk[position]].name.to_owned(), berth },
            });
        }
    }

    /// Rule 9: the end of each step of a body holds the same.
    fn same_end(&mut self, body: usize, position: usize, edge: &BTreeMap<usize, Vec<Piece>>, ends: &mut Ends) {
        let held = edge.iter().map(|(berth, pieces)| (*berth, self.relative(*berth, Some(pieces), position)));
        let held: BTreeMap<usize, _> = held.filter(|(_, pieces)| !pieces.is_empty()).collect();
        let first = ends.entry(body).or_insert_with(|| held.clone());
        for berth in first.keys().chain(held.keys()).filter(|berth| first.get(berth) != held.get(berth)) {
            let body = self.index.program.bodies[body].name.clone();
            self.found.insert(Violation::LoopEdge { body, berth: self.berth_name(*berth) });
        }
    }

    /// What later steps may read of a berth's contents, so that steps compare: weights and what is current of states.
    /// Inputs, activations and outputs end with their step, and old versions of states are nobody's.
    fn relative(&self, berth: usize, pieces: Option<&Vec<Piece>>, position: usize) -> Vec<(Part, Layout)> {
        let tensor = self.index.berths[berth].tensor;
        let wanted = match self.index.program.tensors[tensor].kind {
            Kind::State => self.versions.last(self.index, position, tensor),
            _ => Some(Version::Home),
        };
        let mut all: Vec<(Part, Layout)> = Vec::new();
        for piece in pieces.into_iter().flatten().filter(|p| Some(p.version) == wanted) {
            match all.last_mut() {
                Some((part, same)) if part.to == piece.part.from && *same == piece.layout => part.to = piece.part.to,
                _ => all.push((piece.part, piece.layout.clone())),
            }
        }
        all
    }

    fn check_states(&mut self, position: usize, edge: &BTreeMap<usize, Vec<Piece>>) {
        if self.order.walk.len() == position + 1 {
            return;
        }
        let mut held: BTreeMap<usize, Vec<&Piece>> = BTreeMap::new();
        for (berth, pieces) in edge {
            held.entry(self.index.berths[*berth].tensor).or_default().extend(pieces);
        }
        let states = self.index.program.tensors.iter().enumerate().filter(|(_, t)| t.kind == Kind::State);
        for (tensor, _) in states {
            let Some(current) = self.versions.last(self.index, position, tensor) else { continue };
            if current == Version::Home {
                continue;
            }
            let holds = held.get(&tensor).into_iter().flatten();
            let mut parts: Vec<Part> = holds.filter(|p| p.version == current).map(|p| p.part).collect();
            parts.sort_by_key(|p| p.from);
            let end = parts.iter().fold(0, |at, p| if p.from <= at { at.max(p.to) } else { at });
            if end != Part::END {
                let after = self.index.units[self.order.walk[position]].label.clone();
                self.found.insert(Violation::StateLost { tensor: self.tensor_name(tensor), after });
            }
        }
    }
}

fn whole(part: Part, version: Version, writer: usize) -> Piece {
    Piece { part, version, layout: Layout::Packed, writer }
}

/// Puts a piece over what is there.
fn put(pieces: &mut Vec<Piece>, piece: Piece) {
    let mut kept = Vec::with_capacity(pieces.len() + 2);
    for old in pieces.drain(..) {
        if !old.part.meets(piece.part) {
            kept.push(old);
            continue;
        }
        if old.part.from < piece.part.from {
            kept.push(Piece { part: Part { from: old.part.from, to: piece.part.from }, ..old.clone() });
        }
        if piece.part.to < old.part.to {
            kept.push(Piece { part: Part { from: piece.part.to, to: old.part.to }, ..old });
        }
    }
    kept.push(piece);
    kept.sort_by_key(|p| p.part.from);
    *pieces = kept;
}

/// Cuts the holder that crosses an address in two.
fn split(held: &mut BTreeMap<u64, (u64, usize)>, at: u64) {
    let crossing = held.range(..at).next_back().filter(|(_, (to, _))| *to > at).map(|(from, v)| (*from, *v));
    if let Some((from, (to, life))) = crossing {
        held.insert(from, (at, life));
        held.insert(at, (to, life));
    }
}

/// Rule 12: each body feeds every input that it reads once, and fetches every output once.
pub(super) fn check_io(index: &Index, found: &mut BTreeSet<Violation>) {
    for unit in &index.units {
        let mut feeds: BTreeMap<usize, usize> = BTreeMap::new();
        let mut fetches: BTreeMap<usize, usize> = BTreeMap::new();
        let mut read = BTreeSet::new();
        for ix in &unit.code {
            let name = || index.names[ix.name].to_owned();
            match &ix.act {
                Act::Feed(b) => {
                    let tensor = index.berths[*b].tensor;
                    *feeds.entry(tensor).or_default() += 1;
                    let t = &index.program.tensors[tensor];
                    let state = t.kind == Kind::State && unit.role == Role::Prologue;
                    if t.kind != Kind::Input && !state {
                        found.insert(Violation::NotAnInput { feed: name(), tensor: t.name.clone() });
                    }
                }
                Act::Fetch(b) => {
                    let tensor = index.berths[*b].tensor;
                    *fetches.entry(tensor).or_default() += 1;
                    let t = &index.program.tensors[tensor];
                    if !matches!(t.kind, Kind::Output | Kind::State) {
                        found.insert(Violation::NotAnOutput { fetch: name(), tensor: t.name.clone() });
                    }
                }
                Act::Run { task, .. } => {
                    let accesses = index.program.tasks[*task].accesses.iter().zip(&index.task_tensors[*task]);
                    read.extend(accesses.filter(|(a, _)| !matches!(a, Access::Write(_))).map(|(_, t)| *t));
                }
                Act::Copy { .. } => {}
            }
        }
        let body = matches!(unit.role, Role::Body(_));
        for (tensor, t) in index.program.tensors.iter().enumerate() {
            let (part, name) = (unit.label.clone(), t.name.clone());
            let (fed, fetched) = (feeds.get(&tensor).copied().unwrap_or(0), fetches.get(&tensor).copied().unwrap_or(0));
            if t.kind == Kind::Input && (fed > 1 || (body && fed == 0 && read.contains(&tensor))) {
                found.insert(Violation::Feeds { part: part.clone(), tensor: name.clone(), found: fed });
            }
            if t.kind == Kind::Output && (fetched > 1 || (body && fetched == 0)) {
                found.insert(Violation::Fetches { part, tensor: name, found: fetched });
            }
        }
    }
}
