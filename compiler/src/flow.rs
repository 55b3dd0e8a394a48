//! Flow networks, and the most that flows through one: its least cut.

use std::collections::VecDeque;

/// More than flows through any network of ours.
pub const ENDLESS: u128 = u128::MAX / 4;

/// Where flows begin, and where they end.
pub const SOURCE: u32 = 0;
pub const SINK: u32 = 1;

/// A flow network, its edges in pairs: each with the one back.
#[derive(Clone, Debug)]
pub struct Network {
    /// By node: edges from it.
    edges: Vec<Vec<u32>>,
    to: Vec<u32>,
    /// What may still flow.
    room: Vec<u128>,
    /// By node: edges from the source, where there is a way with room.
    level: Vec<Option<u32>>,
}

impl Default for Network {
    fn default() -> Network {
        Network { edges: vec![Vec::new(); 2], to: Vec::new(), room: Vec::new(), level: Vec::new() }
    }
}

impl Network {
    pub fn node(&mut self) -> u32 {
        self.edges.push(Vec::new());
        self.edges.len() as u32 - 1
    }

    pub fn edge(&mut self, from: u32, to: u32, room: u128) {
        for (from, to, room) in [(from, to, room), (to, from, 0)] {
            self.edges[from as usize].push(self.to.len() as u32);
            self.to.push(to);
            self.room.push(room);
        }
    }

    /// The most that flows (Dinic's algorithm), unless that takes more than the work that is left. Levels are then those of
    /// the nodes on the source's side of the cut.
    pub fn flow(&mut self, work: &mut u64) -> Option<u128> {
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

    /// Whether a node is on the source's side of the least cut.
    pub fn is_before(&self, node: u32) -> bool {
        self.level[node as usize].is_some()
    }

    /// Number of edges, each way.
    pub fn len(&self) -> usize {
        self.to.len()
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
