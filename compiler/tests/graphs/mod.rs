//! Families of graphs of any size: what networks, searches for networks, training and chance make of tasks.
//!
//! Each is a function of a number of tasks, which it meets about, and a seed. Tasks have workspace, weights, second results
//! and rights to write in place where chance says so; every other seed has them in a random order that is allowed.

use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::Kind;
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// What makes a graph of about so many tasks from a seed.
pub type Family = fn(usize, u64) -> Lifetimes;

/// All of them, by name.
pub const FAMILIES: &[(&str, Family)] = &[
    ("any-sparse", |n, seed| any(n, seed, 1, n)),
    ("any-middle", |n, seed| any(n, seed, 2, n)),
    ("any-dense", |n, seed| any(n, seed, 4, n)),
    ("any-near", |n, seed| any(n, seed, 2, 8)),
    ("rows-4", |n, seed| rows(n, seed, 4)),
    ("rows-8", |n, seed| rows(n, seed, 8)),
    ("rows-16", |n, seed| rows(n, seed, 16)),
    ("series-parallel", series_parallel),
    ("tree-in", tree_in),
    ("tree-out", tree_out),
    ("randwire", randwire),
    ("darts", darts),
    ("cells", |n, seed| cells(n, seed, 12)),
    ("cells-wide", |n, seed| cells(n, seed, 24)),
    ("inception", inception),
    ("dense-block", dense_block),
    ("u-net", u_net),
    ("hourglass", hourglass),
    ("transformer", transformer),
    ("experts", experts),
    ("fork-join", fork_join),
    ("training", training),
    ("states", states),
    ("chains", chains),
    ("two-towers", two_towers),
];

/// Numbers that look random.
pub struct Chance(u64);

impl Chance {
    /// Of all 64-bit words (splitmix64).
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.word() % end.max(1) as u64) as usize
    }

    fn bytes(&mut self) -> u64 {
        match self.below(8) {
            0 => 1 + self.below(8) as u64,
            1..=4 => 16 + self.below(100) as u64,
            5 | 6 => 1 << self.below(9),
            _ => 200 + self.below(800) as u64,
        }
    }
}

/// A graph in the making.
struct Net {
    all: Lifetimes,
    chance: Chance,
    weight: TensorId,
    shuffled: bool,
}

impl Net {
    fn new(seed: u64) -> Net {
        let all = Lifetimes { model: "random".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
        let mut net = Net { all, chance: Chance(seed), weight: TensorId(0), shuffled: seed % 2 == 1 };
        net.weight = net.tensor(Kind::Weight, 1 << 20);
        net
    }

    fn tensor(&mut self, kind: Kind, bytes: u64) -> TensorId {
        let (name, extent) = (format!("t{}", self.all.tensors.len()), Expr::constant(bytes));
        self.all.tensors.push(Tensor { name, kind, dtype: DType::U8, extent, bytes, home: None, aliases: vec![] });
        TensorId(self.all.tensors.len() as u32 - 1)
    }

    fn input(&mut self) -> TensorId {
        let bytes = self.chance.bytes();
        self.tensor(Kind::Input, bytes)
    }

    /// A task that reads some tensors and writes others.
    fn task(&mut self, reads: &[TensorId], writes: &[TensorId]) {
        let mut reads = reads.to_vec();
        reads.sort_unstable();
        reads.dedup();
        let in_place = match (reads.first(), writes.first(), self.chance.below(4)) {
            (Some(read), Some(written), 0) if read != written => vec![(*read, *written)],
            _ => vec![],
        };
        if self.chance.below(2) == 0 {
            reads.push(self.weight);
        }
        let workspace = if self.chance.below(4) == 0 { self.chance.bytes() } else { 0 };
        let (name, writes) = (format!("task{}", self.all.tasks.len()), writes.to_vec());
        let (ops, cost) = (vec![name.clone()], Nanos(1));
        self.all.tasks.push(Task {
            name,
            ops,
            reads,
            writes,
            rows: vec![],
            in_place,
            workspace,
            cost,
            others: vec![],
            held: None,
        });
    }

    /// A task that makes a tensor of this size, and now and then one that nobody reads.
    fn make(&mut self, reads: &[TensorId], bytes: u64) -> TensorId {
        let made = self.tensor(Kind::Activation, bytes);
        let mut writes = vec![made];
        if self.chance.below(12) == 0 {
            writes.push(self.tensor(Kind::Activation, bytes / 2));
        }
        self.task(reads, &writes);
        made
    }

    /// The same, of any size.
    fn op(&mut self, reads: &[TensorId]) -> TensorId {
        let bytes = self.chance.bytes();
        self.make(reads, bytes)
    }

    fn tasks(&self) -> usize {
        self.all.tasks.len()
    }

    fn pick(&mut self, of: &[TensorId]) -> TensorId {
        of[self.chance.below(of.len())]
    }

    /// Up to so many, of the last ones.
    fn picks(&mut self, of: &[TensorId], most: usize, back: usize) -> Vec<TensorId> {
        let last = &of[of.len().saturating_sub(back)..];
        (0..1 + self.chance.below(most)).map(|_| last[self.chance.below(last.len())]).collect()
    }

    /// The graph, its tasks in the order in which they were thought of or in a random one.
    fn done(mut self) -> Lifetimes {
        if self.shuffled {
            let order = self.random_order();
            self.all.tasks = order.into_iter().map(|n| self.all.tasks[n].clone()).collect();
        }
        self.all
    }

    fn random_order(&mut self) -> Vec<usize> {
        let tasks = &self.all.tasks;
        let mut last: Vec<(Option<usize>, Vec<usize>)> = vec![(None, vec![]); self.all.tensors.len()];
        let (mut behind, mut waits) = (vec![Vec::new(); tasks.len()], vec![0usize; tasks.len()]);
        for (n, task) in tasks.iter().enumerate() {
            let mut needs: Vec<usize> = task.reads.iter().filter_map(|r| last[r.index()].0).collect();
            for w in &task.writes {
                let (writer, readers) = std::mem::replace(&mut last[w.index()], (Some(n), vec![]));
                needs.extend(writer.into_iter().chain(readers).filter(|m| *m != n));
            }
            task.reads.iter().for_each(|r| last[r.index()].1.push(n));
            waits[n] = needs.len();
            needs.into_iter().for_each(|m| behind[m].push(n));
        }
        let mut ready = BinaryHeap::new();
        let mut order = Vec::with_capacity(tasks.len());
        let first: Vec<usize> = (0..waits.len()).filter(|n| waits[*n] == 0).collect();
        first.into_iter().for_each(|n| ready.push(Reverse((self.chance.word(), n))));
        while let Some(Reverse((_, n))) = ready.pop() {
            order.push(n);
            for next in &behind[n] {
                waits[*next] -= 1;
                if waits[*next] == 0 {
                    ready.push(Reverse((self.chance.word(), *next)));
                }
            }
        }
        order
    }
}

/// Each task reads up to so many of the results so far.
fn any(n: usize, seed: u64, most: usize, back: usize) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut results = vec![net.input()];
    while net.tasks() < n {
        let reads = net.picks(&results, most, back);
        results.push(net.op(&reads));
    }
    net.done()
}

/// Each task reads up to three results of the row before its own.
fn rows(n: usize, seed: u64, width: usize) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut row = vec![net.input()];
    while net.tasks() < n {
        let next = (0..width.min(n - net.tasks())).map(|_| {
            let reads = net.picks(&row, 3, row.len());
            net.op(&reads)
        });
        row = next.collect();
    }
    net.done()
}

fn series_parallel(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let first = net.input();
    // What is to be made: (from, tasks) on a stack; results are joined in the order in which they come.
    let mut at = first;
    while net.tasks() < n {
        let budget = (n - net.tasks()).min(4 + net.chance.below(24));
        at = branch(&mut net, at, budget, 4);
    }
    net.done()
}

/// About so many tasks between a tensor and the one that comes back, by chance one after the other or side by side.
fn branch(net: &mut Net, from: TensorId, tasks: usize, depth: usize) -> TensorId {
    if tasks <= 1 || depth == 0 {
        return (0..tasks.max(1)).fold(from, |at, _| net.op(&[at]));
    }
    let parts = 2 + net.chance.below(3);
    if net.chance.below(3) == 0 {
        return (0..parts).fold(from, |at, _| branch(net, at, tasks / parts, depth - 1));
    }
    let fork = net.op(&[from]);
    let ends: Vec<TensorId> = (0..parts).map(|_| branch(net, fork, (tasks - 2) / parts, depth - 1)).collect();
    net.op(&ends)
}

fn tree_in(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut open = Vec::new();
    while net.tasks() < n {
        let last = net.tasks() + 1 == n;
        let count = if last { open.len() } else { [0, 0, 1, 2, 3][net.chance.below(5)].min(open.len()) };
        let reads: Vec<TensorId> = (0..count).map(|_| open.swap_remove(net.chance.below(open.len()))).collect();
        open.push(net.op(&reads));
    }
    net.done()
}

fn tree_out(n: usize, seed: u64) -> Lifetimes {
    any(n, seed, 1, 12)
}

/// Stages of random graphs, each joined into one tensor.
fn randwire(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut at = net.input();
    while net.tasks() < n {
        let (nodes, bytes) = (16.min(n - net.tasks()), net.chance.bytes());
        let mut made = vec![at];
        let mut read = vec![false; nodes + 1];
        for node in 1..=nodes {
            // A ring with rewired edges, as Watts and Strogatz make them.
            let back = |net: &mut Net, k: usize| match net.chance.below(4) {
                0 => net.chance.below(node),
                _ => node.saturating_sub(k),
            };
            let from = [back(&mut net, 1), back(&mut net, 2)];
            from.iter().for_each(|f| read[*f] = true);
            let reads: Vec<TensorId> = from.iter().map(|f| made[*f]).collect();
            made.push(net.make(&reads, bytes));
        }
        let ends: Vec<TensorId> = (1..=nodes).filter(|k| !read[*k]).map(|k| made[k]).collect();
        at = net.make(&ends, bytes);
    }
    net.done()
}

/// Cells that read the two before them; each node adds two operators on earlier ones; the nodes are put side by side.
fn darts(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let picks: Vec<usize> = (0..8).map(|_| net.chance.below(1 << 16)).collect();
    let first = net.input();
    let (mut old, mut new, mut bytes) = (first, first, 64 + net.chance.bytes());
    while net.tasks() < n {
        let mut made = vec![net.make(&[old], bytes), net.make(&[new], bytes)];
        for node in 0..4 {
            let ends: Vec<TensorId> = (0..2)
                .map(|k| {
                    let from = made[picks[2 * node + k] % made.len()];
                    let grown = net.make(&[from], bytes * (1 + (picks[node] % 3) as u64));
                    net.make(&[grown], bytes)
                })
                .collect();
            made.push(net.make(&ends, bytes));
        }
        (old, new) = (new, net.make(&made[2..], 4 * bytes));
        if net.chance.below(4) == 0 {
            bytes = (bytes / 2).max(1);
        }
    }
    net.done()
}

/// One random cell, again and again.
fn cells(n: usize, seed: u64, size: usize) -> Lifetimes {
    let mut net = Net::new(seed);
    let draw = |net: &mut Net, k: usize| {
        let from: Vec<usize> = (0..1 + net.chance.below(3)).map(|_| net.chance.below(k)).collect();
        (from, net.chance.bytes())
    };
    let cell: Vec<(Vec<usize>, u64)> = (1..size).map(|k| draw(&mut net, k)).collect();
    let mut at = net.input();
    while net.tasks() < n {
        let mut made = vec![at];
        for (from, bytes) in &cell {
            let reads: Vec<TensorId> = from.iter().map(|f| made[*f]).collect();
            made.push(net.make(&reads, *bytes));
        }
        let read: Vec<usize> = cell.iter().flat_map(|(from, _)| from.clone()).collect();
        let ends: Vec<TensorId> = (1..size).filter(|k| !read.contains(k)).map(|k| made[k]).collect();
        at = net.make(&ends, 40);
    }
    net.done()
}

fn inception(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut at = net.input();
    while net.tasks() < n {
        let branches = 3 + net.chance.below(4);
        let ends: Vec<TensorId> =
            (0..branches).map(|_| (0..1 + net.chance.below(4)).fold(at, |from, _| net.op(&[from]))).collect();
        at = net.op(&ends);
    }
    net.done()
}

/// Each layer reads all before it in its block.
fn dense_block(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut block = vec![net.input()];
    while net.tasks() < n {
        let (narrow, wide) = (net.chance.bytes(), net.chance.bytes());
        let bottle = net.make(&block, wide);
        let side = net.op(&[block[0]]);
        let layer = net.make(&[bottle, side], narrow);
        block.push(layer);
        if block.len() > 6 {
            block = vec![net.op(&block)];
        }
    }
    net.done()
}

/// Down and up again, with skips from each level, which are worked on by the way.
fn u_net(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut at = net.input();
    while net.tasks() < n {
        let levels = ((n - net.tasks()) / 7).clamp(1, 6);
        let mut skips = Vec::new();
        let mut bytes = 1_024;
        for _ in 0..levels {
            let conv = net.make(&[at], bytes);
            let more = net.make(&[conv], bytes);
            let narrow = bytes / (1 + net.chance.below(4) as u64);
            let skip = net.make(&[more], narrow);
            skips.push((skip, bytes));
            bytes = (bytes / 2).max(1);
            at = net.make(&[more], bytes);
        }
        for (skip, bytes) in skips.into_iter().rev() {
            let up = net.make(&[at], bytes);
            let gate = net.make(&[up, skip], 8);
            let kept = net.make(&[skip, gate], bytes);
            at = net.make(&[up, kept], bytes);
        }
    }
    net.done()
}

/// Skips that have skips of their own, and outputs on the way.
fn hourglass(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut at = net.input();
    while net.tasks() < n {
        let mut open = vec![at];
        for _ in 0..4 {
            let top = open[open.len() - 1];
            let side = net.op(&[top]);
            let down = net.op(&[top]);
            open.push(side);
            open.push(down);
        }
        while open.len() > 1 {
            let count = 2.min(open.len());
            let ends = open.split_off(open.len() - count);
            let join = net.op(&ends);
            if net.chance.below(3) == 0 {
                let out = net.tensor(Kind::Output, 4);
                net.task(&[join], &[out]);
            }
            open.push(join);
        }
        at = open[0];
    }
    net.done()
}

/// Heads that are cut apart and joined, a residual, a gated pair of projections; caches that are read and appended to.
fn transformer(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let (heads, width) = (1 + net.chance.below(4), 32 + net.chance.bytes());
    let mut at = net.input();
    while net.tasks() < n {
        let norm = net.make(&[at], width);
        let (q, k, v) = (net.make(&[norm], width), net.make(&[norm], width / 2), net.make(&[norm], width / 2));
        let cache = net.tensor(Kind::State, 4 * width);
        net.task(&[k, v, cache], &[cache]);
        let head = |net: &mut Net| {
            let part = net.make(&[q], width / 4);
            let scores = net.make(&[part, cache], 3 * width);
            let soft = net.make(&[scores], 3 * width);
            net.make(&[soft, cache], width / 4)
        };
        let ends: Vec<TensorId> = (0..heads).map(|_| head(&mut net)).collect();
        let mixed = net.make(&ends, width);
        let sum = net.make(&[mixed, at], width);
        let norm = net.make(&[sum], width);
        let (gate, up) = (net.make(&[norm], 3 * width), net.make(&[norm], 3 * width));
        let act = net.make(&[gate], 3 * width);
        let both = net.make(&[act, up], 3 * width);
        let down = net.make(&[both], width);
        at = net.make(&[down, sum], width);
    }
    net.done()
}

/// A router, experts side by side, and their weighted sum.
fn experts(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let count = 2 + net.chance.below(5);
    let mut at = net.input();
    while net.tasks() < n {
        let router = net.op(&[at]);
        let ends: Vec<TensorId> = (0..count)
            .map(|_| {
                let rows = net.op(&[at, router]);
                let (gate, up) = (net.op(&[rows]), net.op(&[rows]));
                let both = net.op(&[gate, up]);
                net.make(&[both, router], 48)
            })
            .collect();
        at = net.make(&ends, 48);
    }
    net.done()
}

/// Branches that are not alike, cross-linked here and there.
fn fork_join(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let mut at = net.input();
    while net.tasks() < n {
        let mut tips: Vec<TensorId> = (0..2 + net.chance.below(5)).map(|_| net.op(&[at])).collect();
        for _ in 0..10.min(n.saturating_sub(net.tasks())) {
            let k = net.chance.below(tips.len());
            let other = net.pick(&tips);
            let reads = if net.chance.below(5) == 0 { vec![tips[k], other] } else { vec![tips[k]] };
            tips[k] = net.op(&reads);
        }
        at = net.op(&tips);
    }
    net.done()
}

/// Forward, back, and an update of each layer's weights, which may come at any time after its gradient.
fn training(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let layers = (n / 5).max(1);
    let mut at = vec![net.input()];
    for layer in 0..layers {
        let from = if layer > 2 && net.chance.below(4) == 0 { vec![at[layer], at[layer - 2]] } else { vec![at[layer]] };
        at.push(net.op(&from));
        let hidden = net.op(&[at[layer + 1]]);
        at[layer + 1] = hidden;
    }
    let mut gradient = net.op(&[at[layers]]);
    let mut updates = Vec::new();
    for layer in (0..layers).rev() {
        let weights = net.op(&[gradient, at[layer]]);
        updates.push(weights);
        gradient = net.op(&[gradient, at[layer + 1]]);
    }
    for weights in updates {
        let state = net.tensor(Kind::State, 64);
        net.task(&[weights, state], &[state]);
    }
    net.done()
}

/// Tasks that write over what others made.
fn states(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let kept: Vec<TensorId> = (0..3).map(|k| net.tensor(Kind::State, 10 << (2 * k))).collect();
    let mut results = vec![net.input()];
    while net.tasks() < n {
        let mut reads = net.picks(&results, 2, 10);
        let state = net.pick(&kept);
        match net.chance.below(4) {
            0 => net.task(&reads, &[state]),
            1 => {
                reads.push(state);
                results.push(net.op(&reads));
            }
            2 => {
                let over = net.pick(&results);
                net.task(&reads, &[over]);
            }
            _ => results.push(net.op(&reads)),
        }
    }
    net.done()
}

/// Chains that have nothing to do with each other until the end.
fn chains(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let count = (n / 12).clamp(2, 8);
    let mut tips: Vec<TensorId> = (0..count).map(|_| net.op(&[])).collect();
    while net.tasks() + 1 < n {
        let k = net.chance.below(count);
        tips[k] = net.op(&[tips[k]]);
    }
    net.op(&tips);
    net.done()
}

/// Two deep towers that look at each other's layers.
fn two_towers(n: usize, seed: u64) -> Lifetimes {
    let mut net = Net::new(seed);
    let input = net.input();
    let mut tips = [vec![net.op(&[input])], vec![net.op(&[input])]];
    while net.tasks() + 1 < n {
        let k = net.chance.below(2);
        let mut reads = vec![tips[k][tips[k].len() - 1]];
        if net.chance.below(3) == 0 {
            let back = 1 + net.chance.below(4.min(tips[1 - k].len()));
            reads.push(tips[1 - k][tips[1 - k].len() - back]);
        }
        let next = net.op(&reads);
        tips[k].push(next);
    }
    let ends = [tips[0][tips[0].len() - 1], tips[1][tips[1].len() - 1]];
    net.op(&ends);
    net.done()
}
