//! Chooses what is made again.
//!
//! Where most is held, results that wait there for a later reader are looked at: each can be made again before that reader of
//! what is there then, of what is held on for it, or of what is made again itself. The one that frees most bytes for its
//! time is taken if less is held with it, and so on until all is within the room or nothing helps.

use super::held::{Load, Run, Runs};
use super::put::{Writer, is_repeatable};
use crate::lower::Lowered;
use berth_ir::graph::Graph;
use berth_ir::program::{Kind, Recompute};
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use std::collections::HashMap;

/// Operators that run once more at most.
const AGAIN_MAX: usize = 64;

/// Operators of a chain that is made again for one result.
const CHAIN_MAX: usize = 8;

/// Results that are looked at where most is held.
const LOOKED_AT: usize = 16;

/// Runs that are gone through in all: each look goes through all runs.
const WORK_MAX: usize = 20_000_000;

/// What results are made again for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Bytes that there are.
    pub room: u64,
    /// The memory's alignment.
    pub alignment: u64,
    /// The rate at which weights come: an operator that reads some needs them once more.
    pub brings: BytesPerSec,
    /// The rate at which what is put aside leaves and comes back; nothing where nothing can be. What takes longer to make
    /// again than to put aside is not made again.
    pub aside: Option<BytesPerSec>,
}

/// Operators that are to run once more, in the order in which [`super::put`] adds them; none where nothing helps.
pub fn chosen(graph: &Graph, lowered: &Lowered, wanted: Wanted) -> Vec<Recompute> {
    Choosing::new(graph, lowered, wanted).all()
}

/// A result made again: what is run for it, operands first, with their tensors.
struct Chain {
    tensors: Vec<usize>,
    /// Bytes that must be held on for it where most is held.
    kept: u64,
    time: Nanos,
}

struct Choosing<'a> {
    lowered: &'a Lowered,
    wanted: Wanted,
    writer: Writer<'a>,
    /// By task: it can run once more.
    repeatable: Vec<bool>,
    /// By tensor: somebody outside of the tasks writes or reads it.
    outside: Vec<bool>,
    runs: Runs,
    found: Vec<Recompute>,
    work: usize,
}

impl<'a> Choosing<'a> {
    fn new(graph: &'a Graph, lowered: &'a Lowered, wanted: Wanted) -> Choosing<'a> {
        let ops: HashMap<&str, bool> = graph.ops.iter().map(|op| (op.name.as_str(), is_repeatable(op))).collect();
        let lifetimes = &lowered.lifetimes;
        let repeatable = lifetimes.tasks.iter().zip(&lowered.codes).map(|(task, code)| {
            let sized = !code.varies && !code.outputs.iter().any(|port| port.found);
            sized && task.writes.len() == 1 && matches!(&task.ops[..], [op] if ops.get(op.as_str()) == Some(&true))
        });
        Choosing {
            lowered,
            wanted,
            writer: Writer::new(graph),
            repeatable: repeatable.collect(),
            outside: lifetimes.tensors.iter().map(|t| t.kind != Kind::Activation).collect(),
            runs: Runs::of(lowered, wanted.alignment),
            found: Vec::new(),
            work: 0,
        }
    }

    fn all(mut self) -> Vec<Recompute> {
        let mut load = self.runs.load();
        // The most that is held so far, and how many operators it takes: those behind them gave something elsewhere only.
        let (mut least, mut worth) = (load.over(0).0, 0);
        // By run of the model: nothing helps where it is.
        let mut stuck = vec![false; self.lowered.codes.len()];
        while self.found.len() < AGAIN_MAX && self.work < WORK_MAX {
            let over = |n: &usize| load.held[*n] > self.wanted.room && !stuck[self.runs.runs[*n].task];
            let Some(at) = (0..load.held.len()).filter(over).max_by_key(|n| (load.held[*n], std::cmp::Reverse(*n)))
            else {
                break;
            };
            match self.better(&load, at) {
                Some(after) => {
                    load = after;
                    let (peak, _) = load.over(0);
                    if peak < least {
                        (least, worth) = (peak, self.found.len());
                    }
                }
                // Without a memory to put things aside in, what is held here is what is needed.
                None if self.wanted.aside.is_none() => break,
                None => stuck[self.runs.runs[at].task] = true,
            }
        }
        if self.wanted.aside.is_none() {
            self.found.truncate(worth);
        }
        self.found
    }

    /// Has made again, for its readers behind a run, what frees most there for its time; the load with it.
    fn better(&mut self, load: &Load, at: usize) -> Option<Load> {
        let run = &self.runs.runs[at];
        let waits = |t: &usize| {
            let used = run.reads.contains(t) || run.writes.contains(t);
            !used && !self.outside[*t] && load.spans[*t].is_some_and(|(first, last)| first < at && at < last)
        };
        let waiting: Vec<usize> = (0..self.runs.bytes.len()).filter(waits).collect();
        // Each is looked for in all runs.
        self.work = self.work.saturating_add(waiting.len().saturating_add(1).saturating_mul(self.runs.runs.len()));
        if self.work > WORK_MAX {
            return None;
        }
        let mut found: Vec<(u64, Nanos, usize, Chain)> = Vec::new();
        for tensor in waiting {
            let Some(chain) = self.chain(load, tensor, at, CHAIN_MAX) else { continue };
            let freed = self.runs.bytes[tensor].saturating_sub(chain.kept);
            let aside = self.wanted.aside.map(|rate| 2 * u128::from(Bytes(freed).at(rate).0));
            if freed > 0 && aside.is_none_or(|aside| u128::from(chain.time.0) < aside) {
                found.push((freed, chain.time, tensor, chain));
            }
        }
        found.sort_by(|a, b| {
            let worth = |freed: u64, time: Nanos| u128::from(freed) * u128::from(time.0.max(1));
            worth(b.0, a.1).cmp(&worth(a.0, b.1)).then(b.0.cmp(&a.0)).then(a.2.cmp(&b.2))
        });
        // Where nothing can be put aside the most that is held counts alone: what is taken then depends on the room only in
        // how far it goes.
        let aim = match self.wanted.aside {
            Some(_) => self.wanted.room,
            None => self.wanted.room.max(load.held[at].saturating_sub(1)),
        };
        let before = load.over(aim);
        for (_, _, tensor, chain) in found.into_iter().take(LOOKED_AT) {
            if self.found.len() + chain.tensors.len() > AGAIN_MAX {
                continue;
            }
            let mut runs = self.with(&chain, tensor, at);
            self.work += runs.runs.len();
            let load = runs.load();
            let after = load.over(aim);
            if after.0 <= before.0 && after.1 < before.1 {
                if self.write(&mut runs, &chain).is_none() {
                    // What is written down so far stands; names beyond it are no longer known.
                    self.work = WORK_MAX;
                    return None;
                }
                self.outside.resize(runs.bytes.len(), false);
                self.runs = runs;
                return Some(load);
            }
        }
        None
    }

    /// How a tensor that waits at a run can be made again before its next reader.
    fn chain(&self, load: &Load, tensor: usize, at: usize, most: usize) -> Option<Chain> {
        let next = self.readers(tensor, at).next()?;
        self.chain_to(load, tensor, (at, next), most)
    }

    fn chain_to(&self, load: &Load, tensor: usize, (at, next): (usize, usize), most: usize) -> Option<Chain> {
        let (first, _) = load.spans[tensor]?;
        let run = self.runs.runs.get(first).filter(|run| run.writes.contains(&tensor) && most > 0)?;
        if !self.repeatable[run.task] {
            return None;
        }
        let task = &self.lowered.lifetimes.tasks[run.task];
        let weights = task.reads.iter().map(|t| self.lowered.lifetimes.tensor(*t)).filter(|t| t.kind == Kind::Weight);
        let weights = weights.map(|t| t.bytes).fold(0, u64::saturating_add);
        let time = Nanos(task.cost.0.saturating_add(Bytes(weights).at(self.wanted.brings).0));
        let mut chain = Chain { tensors: Vec::new(), kept: 0, time };
        for operand in &run.reads {
            let (_, last) = load.spans[*operand]?;
            if last >= next || chain.tensors.contains(operand) {
                continue;
            }
            let kept = if last >= at { 0 } else { self.runs.bytes[*operand] };
            let left = most - 1 - chain.tensors.len().min(most - 1);
            let again = (kept > 0 && !self.outside[*operand])
                .then(|| self.chain_to(load, *operand, (at, next), left))
                .flatten()
                .filter(|again| again.kept < kept);
            match again {
                Some(again) => {
                    let new = again.tensors.into_iter().filter(|t| !chain.tensors.contains(t)).collect::<Vec<_>>();
                    chain.tensors.extend(new);
                    chain.kept = chain.kept.saturating_add(again.kept);
                    chain.time = Nanos(chain.time.0.saturating_add(again.time.0));
                }
                None => chain.kept = chain.kept.saturating_add(kept),
            }
        }
        chain.tensors.push(tensor);
        (chain.tensors.len() <= most).then_some(chain)
    }

    /// Runs behind one that read a tensor.
    fn readers(&self, tensor: usize, at: usize) -> impl Iterator<Item = usize> + '_ {
        (at + 1..self.runs.runs.len()).filter(move |n| self.runs.runs[*n].reads.contains(&tensor))
    }

    /// The runs with a chain made again, the result right before its first reader behind a run, each operand right before what
    /// it is made again for.
    fn with(&self, chain: &Chain, tensor: usize, at: usize) -> Runs {
        let mut runs = self.runs.clone();
        let base = self.runs.bytes.len();
        let second = |t: usize| chain.tensors.iter().position(|made| *made == t).map_or(t, |n| base + n);
        for reader in self.readers(tensor, at) {
            runs.runs[reader].reads.iter_mut().filter(|t| **t == tensor).for_each(|t| *t = second(tensor));
        }
        runs.bytes.extend(chain.tensors.iter().map(|made| self.runs.bytes[*made]));
        for (n, made) in chain.tensors.iter().enumerate().rev() {
            let run = self.runs.runs.iter().find(|run| run.writes.contains(made));
            let first = runs.runs.iter().position(|run| run.reads.contains(&(base + n)));
            let (Some(run), Some(first)) = (run, first) else { continue };
            let list = |tensors: &[usize]| tensors.iter().map(|t| second(*t)).collect();
            runs.runs.insert(first, Run { reads: list(&run.reads), writes: list(&run.writes), ..run.clone() });
        }
        runs
    }

    /// Writes down a chain that was added to the runs, the result first: what its operands are made again for has its name
    /// then. Nothing where the graph cannot have it.
    fn write(&mut self, runs: &mut Runs, chain: &Chain) -> Option<()> {
        let base = self.runs.bytes.len();
        let mut found = Vec::new();
        for n in (0..chain.tensors.len()).rev() {
            let second = base + n;
            let readers = runs.runs.iter().filter(|run| run.reads.contains(&second)).map(|run| run.name.to_string());
            let made = runs.runs.iter().position(|run| run.writes.contains(&second))?;
            let one = Recompute { op: runs.runs[made].name.to_string(), readers: readers.collect() };
            runs.runs[made].name = self.writer.again(&one).ok()?.into();
            found.push(one);
        }
        self.found.extend(found);
        Some(())
    }
}
