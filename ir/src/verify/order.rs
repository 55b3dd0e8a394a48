//! Which instruction instance ends before which starts: rule 8, and the relation that all others ask.
//!
//! A walk is a sequence of units: the prologue, then bodies and transitions as a run could take them. Its instances
//! form a graph; engines and step barriers are chains in it. `before(a, b)` holds where a path leads from a to b. A
//! path either meets a chain, which two numbers per instance and chain decide exactly, or runs over copies, feeds and
//! fetches alone, which are few and are searched.

use super::index::{Act, Index, Role};
use std::collections::{BTreeSet, BinaryHeap, VecDeque};

/// One instance of an instruction: which unit of the walk, which instruction of the unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instance {
    pub position: usize,
    pub code: usize,
}

pub(super) struct Order {
    /// Index of a unit, by position in the walk.
    pub walk: Vec<usize>,
    /// First node of each position; one more at the end.
    pub first: Vec<usize>,
    /// All instances, then the barriers.
    pub instances: Vec<Instance>,
    /// Nodes in an order that respects `before`.
    pub sorted: Vec<usize>,
    rank: Vec<u32>,
    preds: Vec<Vec<u32>>,
    chains: usize,
    /// Chain and place in it, for nodes that are on one.
    on_chain: Vec<Option<(u32, u32)>>,
    /// Per node and chain: the last place on the chain that ends before the node starts, plus one.
    in_: Vec<u32>,
    /// Per node and chain: the first place on the chain that starts after the node ends.
    out: Vec<u32>,
}

/// The walks that together show every triple of consecutive units that a run can meet.
///
/// Edges and run-ahead reach one step, and the end of a body's step holds the same however it was reached (rule 9), so
/// what happens at a unit depends on the two units around it alone.
pub(super) fn walks(index: &Index, once: bool) -> Vec<Vec<usize>> {
    let next: Vec<Vec<usize>> = (0..index.units.len()).map(|unit| follow(index, once, unit)).collect();
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    loop {
        let mut walk = vec![0];
        while let Some(on) = towards_unseen(&next, &seen, &walk) {
            for unit in on {
                walk.push(unit);
                seen.extend(walk.windows(3).next_back().map(|t| (Some(t[0]), t[1], t[2])));
                if let [0, first] = walk[..] {
                    seen.insert((None, 0, first));
                }
            }
        }
        // Nothing new from the start: all is seen. A program without bodies still has its prologue.
        if walk.len() == 1 && !all.is_empty() {
            return all;
        }
        // One more: in the first step spans may begin otherwise than in all later ones.
        walk.extend(walk.last().and_then(|unit| next[*unit].first()));
        all.push(walk);
    }
}

/// What can follow a unit.
fn follow(index: &Index, once: bool, unit: usize) -> Vec<usize> {
    let bodies = 0..index.program.bodies.len();
    match index.units[unit].role {
        Role::Prologue if once => bodies.map(|b| index.body_unit(b)).collect(),
        Role::Prologue => bodies.take(1).map(|b| index.body_unit(b)).collect(),
        Role::Body(_) if once => Vec::new(),
        Role::Body(body) => {
            let leaves = |u: &usize| matches!(index.units[*u].role, Role::Transition { from, .. } if from == body);
            std::iter::once(unit).chain((0..index.units.len()).filter(leaves)).collect()
        }
        Role::Transition { to, .. } => vec![index.body_unit(to)],
    }
}

type Triple = (Option<usize>, usize, usize);

/// The shortest way on that ends in a triple of units not seen yet; breadth first over the last two units.
fn towards_unseen(next: &[Vec<usize>], seen: &BTreeSet<Triple>, walk: &[usize]) -> Option<Vec<usize>> {
    let start = (walk.len().checked_sub(2).map(|i| walk[i]), walk[walk.len() - 1]);
    let mut reached = BTreeSet::from([start]);
    let mut queue = VecDeque::from([(start, Vec::new())]);
    while let Some(((before, unit), way)) = queue.pop_front() {
        for &after in &next[unit] {
            let mut way = way.clone();
            way.push(after);
            if !seen.contains(&(before, unit, after)) {
                return Some(way);
            }
            if reached.insert((Some(unit), after)) {
                queue.push_back(((Some(unit), after), way));
            }
        }
    }
    None
}

impl Order {
    /// The order of one walk, or the names of the instructions of a cycle.
    pub fn new(index: &Index, walk: &[usize]) -> Result<Order, Vec<String>> {
        let mut order = Order::unroll(index, walk);
        order.connect(index);
        if let Err(cycle) = order.sort() {
            return Err(cycle.into_iter().filter_map(|n| order.label(index, n)).collect());
        }
        order.reach();
        Ok(order)
    }

    fn unroll(index: &Index, walk: &[usize]) -> Order {
        let mut first = vec![0];
        let mut instances = Vec::new();
        for (position, unit) in walk.iter().enumerate() {
            instances.extend((0..index.units[*unit].code.len()).map(|code| Instance { position, code }));
            first.push(instances.len());
        }
        // One barrier between a step and the next but one.
        let nodes = instances.len() + walk.len().saturating_sub(2);
        Order {
            walk: walk.to_vec(),
            first,
            instances,
            sorted: Vec::new(),
            rank: vec![0; nodes],
            preds: vec![Vec::new(); nodes],
            chains: index.target.engines.len() + 1,
            on_chain: vec![None; nodes],
            in_: Vec::new(),
            out: Vec::new(),
        }
    }

    fn connect(&mut self, index: &Index) {
        let mut ends: Vec<Option<(usize, u32)>> = vec![None; self.chains];
        for node in 0..self.instances.len() {
            let Instance { position, code } = self.instances[node];
            let ix = &index.units[self.walk[position]].code[code];
            for &(name, steps) in &ix.after {
                let back = position.checked_sub(steps.min(1) as usize);
                if let Some(pred) = back.and_then(|p| self.find(index, p, name)) {
                    self.preds[node].push(pred as u32);
                }
            }
            if let Some(pred) = position.checked_sub(1).and_then(|p| self.find(index, p, ix.name)) {
                self.preds[node].push(pred as u32);
            }
            if let Act::Run { task, .. } = ix.act {
                let chain = index.task_engine[task];
                let place = ends[chain].map_or(0, |(last, place)| {
                    self.preds[node].push(last as u32);
                    place + 1
                });
                ends[chain] = Some((node, place));
                self.on_chain[node] = Some((chain as u32, place));
            }
        }
        let barriers = self.chains - 1;
        for step in 0..self.walk.len().saturating_sub(2) {
            let barrier = self.instances.len() + step;
            self.on_chain[barrier] = Some((barriers as u32, step as u32));
            self.preds[barrier].extend((self.first[step]..self.first[step + 1]).map(|n| n as u32));
            if step > 0 {
                self.preds[barrier].push(barrier as u32 - 1);
            }
            for node in self.first[step + 2]..self.first[step + 3] {
                self.preds[node].push(barrier as u32);
            }
        }
    }

    /// The node of an instruction, by interned name, at a position of the walk.
    pub fn find(&self, index: &Index, position: usize, name: usize) -> Option<usize> {
        let unit = *self.walk.get(position)?;
        index.units[unit].by_name.get(&name).map(|code| self.first[position] + code)
    }

    /// The instruction's name; nothing for a barrier.
    pub fn label(&self, index: &Index, node: usize) -> Option<String> {
        let Instance { position, code } = *self.instances.get(node)?;
        Some(index.names[index.units[self.walk[position]].code[code].name].to_owned())
    }

    /// Kahn's algorithm, smallest node first; where it stops, the instructions of a cycle.
    fn sort(&mut self) -> Result<(), Vec<usize>> {
        let nodes = self.preds.len();
        let mut waits = vec![0u32; nodes];
        let mut succs: Vec<Vec<u32>> = vec![Vec::new(); nodes];
        for (node, preds) in self.preds.iter().enumerate() {
            waits[node] = preds.len() as u32;
            for p in preds {
                succs[*p as usize].push(node as u32);
            }
        }
        let ready = (0..nodes).filter(|n| waits[*n] == 0);
        let mut ready: BinaryHeap<_> = ready.map(std::cmp::Reverse).collect();
        while let Some(std::cmp::Reverse(node)) = ready.pop() {
            self.rank[node] = self.sorted.len() as u32;
            self.sorted.push(node);
            for s in &succs[node] {
                waits[*s as usize] -= 1;
                if waits[*s as usize] == 0 {
                    ready.push(std::cmp::Reverse(*s as usize));
                }
            }
        }
        if self.sorted.len() == nodes { Ok(()) } else { Err(self.cycle(&waits)) }
    }

    /// Follows what is waited for among the nodes that were never ready, until one comes twice.
    fn cycle(&self, waits: &[u32]) -> Vec<usize> {
        let stuck = |n: &u32| waits[*n as usize] > 0;
        let mut path = Vec::new();
        let mut seen = vec![false; waits.len()];
        let mut node = waits.iter().position(|w| *w > 0).unwrap_or(0);
        while !seen[node] {
            seen[node] = true;
            path.push(node);
            match self.preds[node].iter().find(|p| stuck(p)) {
                Some(p) => node = *p as usize,
                None => break,
            }
        }
        let start = path.iter().position(|n| *n == node).unwrap_or(0);
        let mut cycle = path.split_off(start);
        cycle.reverse();
        cycle
    }

    fn reach(&mut self) {
        let (nodes, chains) = (self.preds.len(), self.chains);
        self.in_ = vec![0; nodes * chains];
        self.out = vec![u32::MAX; nodes * chains];
        for &node in &self.sorted {
            for p in 0..self.preds[node].len() {
                let pred = self.preds[node][p] as usize;
                for c in 0..chains {
                    let through = self.in_[pred * chains + c];
                    self.in_[node * chains + c] = self.in_[node * chains + c].max(through);
                }
                if let Some((c, place)) = self.on_chain[pred] {
                    let slot = &mut self.in_[node * chains + c as usize];
                    *slot = (*slot).max(place + 1);
                }
            }
        }
        for &node in self.sorted.iter().rev() {
            for p in 0..self.preds[node].len() {
                let pred = self.preds[node][p] as usize;
                for c in 0..chains {
                    let through = self.out[node * chains + c];
                    self.out[pred * chains + c] = self.out[pred * chains + c].min(through);
                }
                if let Some((c, place)) = self.on_chain[node] {
                    let slot = &mut self.out[pred * chains + c as usize];
                    *slot = (*slot).min(place);
                }
            }
        }
    }

    /// Whether `a` has ended, always, when `b` starts.
    pub fn before(&self, a: usize, b: usize) -> bool {
        if a == b || self.rank[a] > self.rank[b] {
            return false;
        }
        for c in 0..self.chains {
            // The first place on the chain that is `a` or follows it, against the last that is `b` or precedes it.
            let at = |n: usize| self.on_chain[n].filter(|(chain, _)| *chain as usize == c).map(|(_, place)| place);
            let from = at(a).unwrap_or(self.out[a * self.chains + c]);
            let to = at(b).map_or(self.in_[b * self.chains + c], |place| place + 1);
            if from < to {
                return true;
            }
        }
        self.on_chain[a].is_none() && self.on_chain[b].is_none() && self.before_off_chain(a, b)
    }

    /// Searches back from `b` over nodes that are on no chain.
    fn before_off_chain(&self, a: usize, b: usize) -> bool {
        let mut seen = BTreeSet::new();
        let mut stack = vec![b];
        while let Some(node) = stack.pop() {
            for &p in &self.preds[node] {
                let p = p as usize;
                if p == a {
                    return true;
                }
                if self.on_chain[p].is_none() && self.rank[p] > self.rank[a] && seen.insert(p) {
                    stack.push(p);
                }
            }
        }
        false
    }

    /// Whether `a` is `b` or ends before it starts.
    pub fn at_or_before(&self, a: usize, b: usize) -> bool {
        a == b || self.before(a, b)
    }

    /// Position in the walk of an instance.
    pub fn position(&self, node: usize) -> usize {
        self.instances[node].position
    }
}
