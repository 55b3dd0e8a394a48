//! What operators cost in their places: bytes moved, the load beside what the rest of the graph holds.
//!
//! Reads:    operators with the slots that they would run in, and the graph around them.
//! Decides:  whether one set is cheaper than another that it can stand for.
//! Promises: a tensor's span reaches over all its uses, in the set and outside, through views and under other names; the
//!           load is never taken for less than it is.

use super::emit::Slot;
use super::facts::{Facts, Held, is_view, view};
use berth_ir::DType;
use berth_ir::expr::Expr;
use berth_ir::graph::{Op, ValueId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What some operators cost.
#[derive(Clone, Debug, Default)]
pub(super) struct Weight {
    /// Bytes that tasks read and write.
    pub moved: u128,
    /// The most that one task holds.
    largest: u128,
    /// Bytes, first and last time of each tensor that they touch, weights left out.
    spans: Vec<(u64, Time, Time)>,
    /// When each of them runs.
    times: Vec<Time>,
}

/// When an operator runs: its slot, and how many of the same patch run in slots so far. An operator of the graph is the
/// only one in its slot, number nought; those that take its place come after.
type Time = u64;

/// The first time of a slot.
fn time(slot: Slot) -> Time {
    u64::from(slot) << 32
}

/// The operator of the graph at whose place, or just before which, something runs.
fn position(time: Time) -> usize {
    (time >> 33) as usize
}

/// A tensor while operators are weighed.
struct Tensor {
    bytes: u64,
    held: Held,
    output: bool,
    span: Option<(Time, Time)>,
}

impl Tensor {
    fn use_at(&mut self, at: Time) {
        let (first, last) = self.span.unwrap_or((at, at));
        self.span = Some((first.min(at), last.max(at)));
    }
}

/// Operators while they are weighed.
struct Weighing<'a> {
    facts: &'a Facts<'a>,
    /// The operators of the graph that they stand for.
    inside: &'a BTreeSet<u32>,
    /// Types of values that the graph does not have.
    types: &'a dyn Fn(ValueId) -> (DType, Vec<Expr>),
    tensors: Vec<Tensor>,
    of: HashMap<ValueId, usize>,
}

impl Weighing<'_> {
    fn bytes(&self, id: ValueId) -> u64 {
        match self.facts.graph.values.get(id.0 as usize) {
            Some(value) => self.facts.bytes(value.dtype, &value.shape),
            None => {
                let (dtype, shape) = (self.types)(id);
                self.facts.bytes(dtype, &shape)
            }
        }
    }

    /// The tensor of a value; one from outside of these operators comes with all that views it there.
    fn tensor(&mut self, id: ValueId) -> usize {
        if let Some(tensor) = self.of.get(&id) {
            return *tensor;
        }
        let facts = self.facts;
        let root = facts.root.get(id.0 as usize).copied().unwrap_or(id);
        if let Some(tensor) = self.of.get(&root).copied() {
            self.of.insert(id, tensor);
            return tensor;
        }
        let output = facts.outputs.contains(&root);
        let mut tensor = Tensor { bytes: self.bytes(root), held: facts.held(root), output, span: None };
        let made = facts.producer.get(root.0 as usize).copied().flatten();
        if let (Held::Made, Some(made)) = (tensor.held, made) {
            tensor.use_at(time(2 * made + 1));
            if facts.is_weight(&facts.graph.ops[made as usize]) {
                tensor.held = Held::Weight;
            }
        }
        self.tensors.push(tensor);
        let tensor = self.tensors.len() - 1;
        self.of.insert(root, tensor);
        self.of.insert(id, tensor);
        self.use_outside(tensor, root);
        tensor
    }

    /// Adds the uses of a value by the rest of the graph, through what views it there.
    fn use_outside(&mut self, tensor: usize, value: ValueId) {
        let facts = self.facts;
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let readers = facts.readers.get(value.0 as usize).into_iter().flatten();
            for reader in readers.filter(|r| !self.inside.contains(r)) {
                match view(facts.graph, &facts.graph.ops[*reader as usize]) {
                    Some((source, result)) if source == value => open.push(result),
                    _ => self.tensors[tensor].use_at(time(2 * *reader + 1)),
                }
            }
        }
    }

    /// Runs one operator at a time; gives the bytes that it moves, nothing if it is no task.
    fn run(&mut self, op: &Op, at: Time) -> Option<u128> {
        let facts = self.facts;
        let operands: Vec<usize> = op.reads().map(|read| self.tensor(read)).collect();
        let result_of = |v: &ValueId| facts.outputs.contains(v);
        if let (true, Some(from), Some(Some(result))) = (is_view(op), operands.first(), op.outputs.first()) {
            let tensor = &mut self.tensors[*from];
            if tensor.held != Held::Nowhere && (!result_of(result) || (tensor.held == Held::Made && !tensor.output)) {
                tensor.output |= result_of(result);
                self.use_outside(*from, *result);
                self.of.insert(*result, *from);
                return None;
            }
        }
        let held = if facts.is_weight(op) { Held::Weight } else { Held::Made };
        let mut moved = 0;
        let operands: BTreeSet<usize> = operands.into_iter().collect();
        for n in operands.into_iter().filter(|_| held == Held::Made) {
            if self.tensors[n].held != Held::Nowhere {
                moved += u128::from(self.tensors[n].bytes);
                self.tensors[n].use_at(at);
            }
        }
        for result in op.outputs.iter().flatten() {
            let mut tensor = Tensor { bytes: self.bytes(*result), held, output: result_of(result), span: None };
            if held == Held::Made {
                moved += u128::from(tensor.bytes);
                tensor.use_at(at);
            }
            self.tensors.push(tensor);
            let tensor = self.tensors.len() - 1;
            self.of.insert(*result, tensor);
            self.use_outside(tensor, *result);
        }
        (held == Held::Made).then_some(moved)
    }
}

impl Facts<'_> {
    /// What these operators cost in these slots, in this order. `inside` are the operators of the graph that they stand
    /// for; the rest of the graph reads what is `renamed` under its new name; `types` says what is no value of the graph.
    pub fn weigh<'o>(
        &self,
        ops: impl Iterator<Item = (Slot, &'o Op)>,
        inside: &BTreeSet<u32>,
        renamed: &BTreeMap<ValueId, ValueId>,
        types: &dyn Fn(ValueId) -> (DType, Vec<Expr>),
    ) -> Weight {
        let (tensors, of) = (Vec::new(), HashMap::new());
        let mut weighing = Weighing { facts: self, inside, types, tensors, of };
        let mut weight = Weight::default();
        for (n, (slot, op)) in ops.enumerate() {
            let at = time(slot) + n as u64;
            weight.times.push(at);
            let moved = weighing.run(op, at).unwrap_or(0);
            weight.moved += moved;
            weight.largest = weight.largest.max(moved);
        }
        for (gone, one) in renamed {
            let tensor = weighing.tensor(*one);
            weighing.use_outside(tensor, *gone);
        }
        // What the operators of the graph read is still there for others, though these may not read it.
        for n in inside {
            for read in self.graph.ops[*n as usize].reads() {
                let made = self.producer[read.0 as usize];
                if !made.is_some_and(|made| inside.contains(&made)) {
                    weighing.tensor(read);
                }
            }
        }
        let counted = weighing.tensors.iter().filter(|t| matches!(t.held, Held::Input | Held::Made));
        weight.spans = counted.filter_map(|t| t.span.map(|(first, last)| (t.bytes, first, last))).collect();
        weight
    }

    /// The load of the whole graph.
    pub fn weigh_all(&mut self) {
        let count = self.graph.ops.len();
        let ops = (0..count).filter(|n| self.live[*n]).map(|n| (2 * n as Slot + 1, &self.graph.ops[n]));
        let all: BTreeSet<u32> = (0..count as u32).collect();
        let weight = self.weigh(ops, &all, &BTreeMap::new(), &|_| (DType::U8, Vec::new()));
        let mut change = vec![0i128; count + 1];
        for (bytes, first, last) in weight.spans {
            change[position(first)] += i128::from(bytes);
            change[position(last) + 1] -= i128::from(bytes);
        }
        let mut alive = 0;
        let load = change[..count].iter().map(|by| {
            alive += by;
            u64::try_from(alive).unwrap_or(u64::MAX)
        });
        self.load = load.collect();
        self.peak = self.load.iter().copied().max().unwrap_or(0);
        self.largest = weight.largest;
    }

    /// The load near one set of operators, with another in its place: the first position, and the most that is alive at
    /// each.
    fn load_with(&self, after: &Weight, before: &Weight) -> (usize, Vec<u64>) {
        let spans = || before.spans.iter().chain(&after.spans);
        let last = self.load.len() - 1;
        let times = || before.times.iter().chain(&after.times).map(|time| position(*time));
        let low = spans().map(|s| position(s.1)).chain(times()).min().unwrap_or(0).min(last);
        let high = spans().map(|s| position(s.2)).chain(times()).max().unwrap_or(0).min(last);
        // What the rest of the graph holds.
        let mut change = vec![0i128; high + 2 - low];
        for (bytes, first, last) in &before.spans {
            change[position(*first) - low] += i128::from(*bytes);
            change[position(*last) + 1 - low] -= i128::from(*bytes);
        }
        let mut own = 0;
        let rest = self.load[low..=high].iter().zip(&change).map(|(load, change)| {
            own += change;
            i128::from(*load) - own
        });
        let rest: Vec<i128> = rest.collect();
        // Each time at which something runs, and what is alive then.
        let gone: BTreeSet<usize> = before.times.iter().map(|time| position(*time)).collect();
        let kept = (low..=high).filter(|n| !gone.contains(n)).map(|n| time(2 * n as Slot + 1));
        let mut times: Vec<Time> = kept.chain(after.times.iter().copied()).collect();
        times.sort();
        let mut events: Vec<(Time, i128)> = Vec::with_capacity(2 * after.spans.len());
        for (bytes, first, last) in &after.spans {
            events.push((*first, i128::from(*bytes)));
            events.push((last + 1, -i128::from(*bytes)));
        }
        events.sort();
        let mut load: Vec<u64> = rest.iter().map(|rest| u64::try_from(*rest).unwrap_or(0)).collect();
        let (mut alive, mut next) = (0i128, 0);
        for time in times {
            while let Some((_, by)) = events.get(next).filter(|(at, _)| *at <= time) {
                alive += by;
                next += 1;
            }
            let n = position(time).clamp(low, high) - low;
            // Between two operators there is no more of the rest than at either.
            let between = (time >> 32) % 2 == 0 && n > 0;
            let others = if between { rest[n].min(rest[n - 1]) } else { rest[n] };
            load[n] = load[n].max(u64::try_from(others + alive).unwrap_or(u64::MAX));
        }
        (low, load)
    }

    /// Whether one set of operators is cheaper than another that it can stand for: fewer bytes are moved or fewer are
    /// alive where most are, neither grows, and no task holds more than the largest. Counts the positions that it looks
    /// at.
    pub fn is_cheaper(&self, after: &Weight, before: &Weight, looked: &mut usize) -> bool {
        if after.moved > before.moved || after.largest > self.largest.max(before.largest) {
            return false;
        }
        let (low, load) = self.load_with(after, before);
        *looked += load.len();
        let was = self.load[low..low + load.len()].iter().copied().max().unwrap_or(0);
        let is = load.into_iter().max().unwrap_or(0);
        is <= self.peak && (after.moved < before.moved || (was == self.peak && is < was))
    }

    /// Makes the load that of the graph with one set of operators in place of another.
    pub fn put(&mut self, after: &Weight, before: &Weight) {
        let (low, load) = self.load_with(after, before);
        self.load[low..low + load.len()].copy_from_slice(&load);
    }
}
