//! The least that can be held while a task runs, over all sets of tasks that can be done before it: one minimum cut.
//!
//! Such a set holds all that the task needs and nothing that needs it; the rest is free, as long as each task of the set has
//! in it what it needs. A tensor is held where one of its users is done and another is not, and the task itself is both. So
//! the set is one side of a cut in a network that has an edge of its bytes for each tensor. No order holds less, whatever
//! it does elsewhere; that forced alone counts only tensors that no such set can do without.

use super::net::{Held, Piece};
use std::collections::VecDeque;

/// More than flows through any network of ours.
const ENDLESS: u128 = u128::MAX / 4;

/// What it takes to make a node or an edge, in edges that are looked at.
const NODE_WORK: u64 = 4;

const SOURCE: u32 = 0;
const SINK: u32 = 1;

/// Where a task stands when another is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Done,
    /// The task that is next.
    Next,
    Later,
    /// Either; its node.
    Free(u32),
}

/// What is held at least while a task runs, and the other tasks that are done then, rising; nothing if that takes more
/// than the work that is left.
pub fn least_at(piece: &Piece, task: u32, work: &mut u64) -> Option<(u128, Vec<u32>)> {
    let mut net = Network { edges: vec![Vec::new(); 2], ..Network::default() };
    let sides = sides(piece, task, &mut net);
    *work = work.saturating_sub(NODE_WORK * piece.len() as u64);
    for (n, side) in (0u32..).zip(&sides) {
        for before in &piece.preds[n as usize] {
            if let (Side::Free(node), Side::Free(before)) = (side, sides[*before as usize]) {
                net.edge(*node, before, ENDLESS);
            }
        }
    }
    let mut held = piece.base + u128::from(piece.workspace[task as usize]);
    held += piece.tensors.iter().map(|t| net.tensor(t, &sides)).sum::<u128>();
    *work = work.saturating_sub(NODE_WORK * net.to.len() as u64);
    held += net.flow(work)?;
    let done = |side: &Side| match side {
        Side::Done => true,
        Side::Free(node) => net.level[*node as usize].is_some(),
        Side::Next | Side::Later => false,
    };
    Some((held, (0u32..).zip(&sides).filter(|(_, side)| done(side)).map(|(n, _)| n).collect()))
}

/// Where each task stands when one is next; free ones get nodes.
fn sides(piece: &Piece, task: u32, net: &mut Network) -> Vec<Side> {
    let mut sides = vec![None; piece.len()];
    sides[task as usize] = Some(Side::Next);
    for (edges, side) in [(&piece.preds, Side::Done), (&piece.succs, Side::Later)] {
        let mut open = vec![task];
        while let Some(at) = open.pop() {
            for other in &edges[at as usize] {
                if sides[*other as usize].replace(side).is_none() {
                    open.push(*other);
                }
            }
        }
    }
    sides.into_iter().map(|side| side.unwrap_or_else(|| Side::Free(net.node()))).collect()
}

/// A flow network, its edges in pairs: each with the one back.
#[derive(Clone, Debug, Default)]
struct Network {
    /// By node: edges from it.
    edges: Vec<Vec<u32>>,
    to: Vec<u32>,
    /// What may still flow.
    room: Vec<u128>,
    /// By node: edges from the source, where there is a way with room.
    level: Vec<Option<u32>>,
}

impl Network {
    fn node(&mut self) -> u32 {
        self.edges.push(Vec::new());
        self.edges.len() as u32 - 1
    }

    fn edge(&mut self, from: u32, to: u32, room: u128) {
        for (from, to, room) in [(from, to, room), (to, from, 0)] {
            self.edges[from as usize].push(self.to.len() as u32);
            self.to.push(to);
            self.room.push(room);
        }
    }

    /// Adds what a tensor costs where it is cut; what it costs in any case.
    fn tensor(&mut self, t: &Held, sides: &[Side]) -> u128 {
        let used = |side: Side| t.users.iter().any(|u| sides[*u as usize] == side);
        let begun = t.before || used(Side::Done) || used(Side::Next);
        let kept = t.after || used(Side::Later) || used(Side::Next);
        let node = |u: &u32| match sides[*u as usize] {
            Side::Free(node) => Some(node),
            Side::Done | Side::Next | Side::Later => None,
        };
        let free: Vec<u32> = t.users.iter().filter_map(node).collect();
        if begun && kept {
            return u128::from(t.bytes);
        }
        if free.is_empty() || t.bytes == 0 {
            return 0;
        }
        let first = if begun { SOURCE } else { self.node() };
        let last = if kept { SINK } else { self.node() };
        self.edge(first, last, u128::from(t.bytes));
        for user in free {
            if !begun {
                self.edge(user, first, ENDLESS);
            }
            if !kept {
                self.edge(last, user, ENDLESS);
            }
        }
        0
    }

    /// The most that flows (Dinic's algorithm), unless that takes more than the work that is left. Levels are then those of
    /// the nodes on the source's side of the cut.
    fn flow(&mut self, work: &mut u64) -> Option<u128> {
        let mut sum = 0;
        // Ends: each round makes the shortest way longer.
        loop {
            self.find_levels(work);
            if self.level[SINK as usize].is_none() {
                return Some(sum);
            }
            sum += self.block(work);
            if *work == 0 {
                return None;
            }
        }
    }

    fn find_levels(&mut self, work: &mut u64) {
        self.level = vec![None; self.edges.len()];
        self.level[SOURCE as usize] = Some(0);
        let mut open = VecDeque::from([SOURCE]);
        while let Some(at) = open.pop_front() {
            *work = work.saturating_sub(self.edges[at as usize].len() as u64);
            for edge in &self.edges[at as usize] {
                let to = self.to[*edge as usize];
                if self.room[*edge as usize] > 0 && self.level[to as usize].is_none() {
                    self.level[to as usize] = self.level[at as usize].map(|level| level + 1);
                    open.push_back(to);
                }
            }
        }
    }

    /// Sends what it can along shortest ways, until each of them is full.
    fn block(&mut self, work: &mut u64) -> u128 {
        let mut tried = vec![0usize; self.edges.len()];
        let (mut way, mut at, mut sum): (Vec<u32>, u32, u128) = (Vec::new(), SOURCE, 0);
        while *work > 0 {
            *work = work.saturating_sub(1);
            if at == SINK {
                *work = work.saturating_sub(way.len() as u64);
                let room = way.iter().map(|edge| self.room[*edge as usize]).min().unwrap_or(0);
                for edge in way.drain(..) {
                    self.room[edge as usize] -= room;
                    self.room[edge as usize ^ 1] += room;
                }
                sum += room;
                at = SOURCE;
                continue;
            }
            match self.edges[at as usize].get(tried[at as usize]) {
                Some(edge) => {
                    let to = self.to[*edge as usize];
                    let next = self.level[at as usize].map(|level| level + 1);
                    if self.room[*edge as usize] > 0 && self.level[to as usize] == next {
                        way.push(*edge);
                        at = to;
                    } else {
                        tried[at as usize] += 1;
                    }
                }
                None => {
                    let Some(edge) = way.pop() else { return sum };
                    at = self.to[edge as usize ^ 1];
                    tried[at as usize] += 1;
                }
            }
        }
        sum
    }
}
