//! Rewrites parts of a graph into equal ones that hold or move fewer bytes.
//!
//! Reads:    the graph, the ranges of its dims.
//! Decides:  which moves of bytes cancel, join or are views; which operators do what others do already.
//! Promises: the same inputs and outputs, bit for bit, at every size in range; no region moves more bytes or lifts the
//!           peak, or it stays as it was. Equal graphs give equal results.
//! Why:      exporters write layouts for other engines: transposes that cancel, pieces that are put together again. All
//!           equal forms of a region are kept at once (an e-graph), so no order of rules hides a better one.

mod emit;
mod extract;
mod facts;
mod form;
mod forms;
mod region;
mod rules;
mod term;
mod weight;

use berth_ir::DType;
use berth_ir::graph::{Graph, Op, Value, ValueId};
use berth_ir::lifetime::{Lifetimes, Task};
use berth_ir::program::DimRange;
use egg::{Id, Rewrite};
pub(crate) use emit::{Names, plain};
use emit::{Patch, patch};
use extract::{Choice, Priced};
use facts::Facts;
use forms::Region;
use std::collections::{BTreeMap, BTreeSet};
use term::{Head, Term, Types};
use weight::Weight;

/// Rounds over the graph: regions that touch each other are rewritten in different ones.
const ROUNDS_MAX: usize = 4;
/// Operators that regions may have in all, and positions that judging them may look at: beyond, the rest stays as it is.
const REGION_OPS_MAX: usize = 400_000;
const LOOKED_MAX: usize = 200_000_000;

/// Rewrites a graph whose dims have these sizes and ranges; nothing where it is best as it is.
pub fn rewrite(graph: &Graph, dims: &BTreeMap<String, DimRange>) -> Option<Graph> {
    let rules = rules::rules();
    let mut work = Work { rules: &rules, looked: 0, seen: 0 };
    let mut now: Option<Graph> = None;
    for _ in 0..ROUNDS_MAX {
        match work.round(now.as_ref().unwrap_or(graph), dims) {
            Some(next) => now = Some(next),
            None => break,
        }
    }
    now
}

/// What a rewritten model saves: before and after.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Saved {
    /// Tasks of a step.
    pub tasks: (usize, usize),
    /// Bytes that tasks read and write in a step.
    pub moved_bytes: (u64, u64),
    /// Bytes beside weights at the peak.
    pub peak_bytes: (u64, u64),
}

/// What one lowered form of a model saves over another; nothing unless it moves or holds fewer bytes, neither more, and
/// no task holds more at once than the largest one did.
pub fn saved(before: &Lifetimes, after: &Lifetimes) -> Option<Saved> {
    let sum = |l: &Lifetimes, t: &Task| t.operands().map(|id| l.tensor(id).bytes).fold(0, u64::saturating_add);
    // Of what is read by rows as much is touched as is written.
    let rows = |l: &Lifetimes, t: &Task| t.rows.iter().map(|id| l.tensor(*id).bytes).fold(0, u64::saturating_add);
    let moved = |l: &Lifetimes| l.tasks.iter().map(|t| sum(l, t) - rows(l, t)).fold(0, u64::saturating_add);
    let peak = |l: &Lifetimes| l.load().into_iter().max().unwrap_or(0);
    let held = |l: &Lifetimes| l.tasks.iter().map(|t| sum(l, t).saturating_add(t.workspace)).max().unwrap_or(0);
    let both = |of: &dyn Fn(&Lifetimes) -> u64| (of(before), of(after));
    let (moved, peak, held) = (both(&moved), both(&peak), both(&held));
    let falls = moved.1 < moved.0 || peak.1 < peak.0;
    let saved = falls && [moved, peak, held].iter().all(|(before, after)| after <= before);
    let tasks = (before.tasks.len(), after.tasks.len());
    saved.then_some(Saved { tasks, moved_bytes: moved, peak_bytes: peak })
}

/// What has been done, in steps and not in time.
struct Work<'a> {
    rules: &'a [Rewrite<Term, Types>],
    looked: usize,
    seen: usize,
}

impl Work<'_> {
    /// Rewrites regions that do not touch each other; nothing where none is better in another form.
    fn round(&mut self, graph: &Graph, dims: &BTreeMap<String, DimRange>) -> Option<Graph> {
        let mut facts = Facts::new(graph, dims);
        let mut patches: Vec<(BTreeSet<u32>, Patch)> = Vec::new();
        let mut taken = vec![false; graph.ops.len()];
        let mut tried = vec![false; graph.ops.len()];
        let mut values = graph.values.len();
        for seed in region::seeds(&facts) {
            // One that another seed's region held has been looked at with it.
            if seed.iter().all(|n| tried[*n as usize]) || self.seen > REGION_OPS_MAX || self.looked > LOOKED_MAX {
                continue;
            }
            let Some(ops) = region::region(&facts, &seed, &taken) else { continue };
            ops.iter().for_each(|n| tried[*n as usize] = true);
            self.seen += ops.len();
            let Some((patch, after, before)) = self.better(&facts, &ops, values) else { continue };
            facts.put(&after, &before);
            ops.iter().for_each(|n| taken[*n as usize] = true);
            values += patch.values.len();
            patches.push((ops, patch));
        }
        (!patches.is_empty()).then(|| put(&facts, patches))
    }

    /// The cheapest form of a region that is cheaper than the one it has.
    fn better(&mut self, facts: &Facts, ops: &BTreeSet<u32>, values: usize) -> Option<(Patch, Weight, Weight)> {
        let region = Region::new(facts, ops.clone(), self.rules);
        let graph = facts.graph;
        let own = ops.iter().map(|n| (2 * n + 1, &graph.ops[*n as usize]));
        let before = facts.weigh(own, ops, &BTreeMap::new(), &|_| (DType::U8, Vec::new()));
        let roots = roots(&region);
        let bytes = |class: Id| {
            let typed = region.forms[class].data;
            u128::from(facts.bytes(typed.dtype, region.forms.analysis.lists.get(typed.shape)))
        };
        let price = |term: &Term, class: Id| price(&region, &bytes, term, class);
        let outputs: BTreeSet<Id> =
            region.classes.iter().filter(|(v, _)| facts.outputs.contains(v)).map(|(_, id)| *id).collect();
        // A result of the model that is a value from elsewhere may have to be copied.
        let copy = |term: &Term, class: Id| match term.head {
            Head::Value(value) if outputs.contains(&class) && !facts.is_made(ValueId(value)) => 2 * bytes(class),
            _ => 0,
        };
        let priced = Priced { forms: &region.forms, roots: &roots, price: &price, copy: &copy };
        let opset = graph.opsets.iter().find(|(domain, _)| domain.is_empty()).map_or(0, |(_, version)| *version);
        let original = original(&region);
        let mut judge = |choice: &Choice| {
            let patch = patch(&region, &priced, choice, values, opset)?;
            let types = |id: ValueId| {
                let value = &patch.values[id.0 as usize - values];
                (value.dtype, value.shape.clone())
            };
            let after = facts.weigh(patch.ops.iter().map(|(slot, op)| (*slot, op)), ops, &patch.renamed, &types);
            facts.is_cheaper(&after, &before, &mut self.looked).then_some((patch, after))
        };
        let mut cost = |choice: &Choice| priced.cost(choice);
        let mut found: Vec<_> = [priced.grown(), original.clone()]
            .into_iter()
            .filter_map(|start| priced.climb(with(start, &original), &mut cost))
            .collect();
        found.sort_by_key(|(cost, _)| *cost);
        for (_, choice) in &found {
            if let Some((patch, after)) = judge(choice) {
                return Some((patch, after, before));
            }
        }
        // The least bytes lift the peak: one step at a time, each of which holds.
        let own = priced.cost(&original)?;
        let mut held = |choice: &Choice| {
            let cost = priced.cost(choice)?;
            (*choice == original || (cost < own && judge(choice).is_some())).then_some(cost)
        };
        let (_, choice) = priced.climb(original.clone(), &mut held)?;
        let (patch, after) = judge(&choice)?;
        Some((patch, after, before))
    }
}

/// The classes that the rest of the graph needs.
fn roots(region: &Region) -> Vec<Id> {
    let facts = region.facts;
    let needed = |value: &ValueId| {
        let readers = &facts.readers[value.0 as usize];
        facts.outputs.contains(value) || readers.iter().any(|r| !region.ops.contains(r))
    };
    let mut roots = Vec::new();
    for (_, class) in region.classes.iter().filter(|(value, _)| needed(value)) {
        if !roots.contains(class) {
            roots.push(*class);
        }
    }
    roots
}

/// The terms that the graph has. Where it makes a class twice, the first; where a class is a value from outside, that.
fn original(region: &Region) -> Choice {
    let mut choice = Choice::new();
    let place = |class: Id, wanted: &dyn Fn(&Term) -> bool| region.forms[class].nodes.iter().position(wanted);
    for class in region.forms.classes() {
        if let Some(n) = place(class.id, &|term| matches!(term.head, Head::Value(_))) {
            choice.insert(class.id, n);
        }
    }
    for (class, term) in region.terms.values().flatten() {
        if let Some(n) = place(*class, &|other| other == term) {
            choice.entry(*class).or_insert(n);
        }
    }
    choice
}

/// A choice, and another where it has none.
fn with(mut choice: Choice, other: &Choice) -> Choice {
    for (class, n) in other {
        choice.entry(*class).or_insert(*n);
    }
    choice
}

/// Bytes that a term's task reads and writes; nothing for what is no task.
fn price(region: &Region, bytes: &dyn Fn(Id) -> u128, term: &Term, class: Id) -> u128 {
    let forms = &region.forms;
    let first = |n: usize| forms.find(term.operands[n]);
    let stored = |class: Id| {
        forms[class].nodes.iter().any(|t| match t.head {
            Head::Value(value) => region.facts.is_matrix(ValueId(value)),
            _ => false,
        })
    };
    match &term.head {
        Head::Value(_) | Head::Reshape(_) => 0,
        // It is read transposed.
        Head::Transpose(_) if stored(first(0)) => 0,
        Head::Part(..) => 2 * bytes(first(0)),
        _ => {
            let operands: BTreeSet<Id> = (0..term.operands.len()).map(first).collect();
            operands.into_iter().map(bytes).sum::<u128>() + bytes(class)
        }
    }
}

/// The graph with patches in the places of the regions that they stand for.
fn put(facts: &Facts, patches: Vec<(BTreeSet<u32>, Patch)>) -> Graph {
    let graph = facts.graph;
    let removed: BTreeSet<u32> = patches.iter().flat_map(|(ops, _)| ops).copied().collect();
    let renamed: BTreeMap<ValueId, ValueId> = patches.iter().flat_map(|(_, p)| p.renamed.clone()).collect();
    let mut names = Names::default();
    let mut value_names = Names::default();
    let mut values = graph.values.clone();
    values.iter().for_each(|v| {
        value_names.take(&v.name);
    });
    // Operators that nobody needs go too: what they read may be gone.
    let kept = |n: &usize| facts.live[*n] && !removed.contains(&(*n as u32));
    let kept = (0..graph.ops.len()).filter(kept).map(|n| (2 * n as u32 + 1, graph.ops[n].clone()));
    let mut ops: Vec<(u32, Op)> = kept.collect();
    ops.iter().for_each(|(_, op)| {
        names.take(&op.name);
    });
    for (_, patch) in patches {
        for (slot, mut op) in patch.ops {
            op.name = names.unique(op.name);
            ops.push((slot, op));
        }
        for value in patch.values {
            let name = value_names.unique(value.name);
            values.push(Value { name, ..value });
        }
    }
    for (_, op) in &mut ops {
        emit::rename(op, &renamed);
    }
    ops.sort_by_key(|(slot, _)| *slot);
    let ops = ops.into_iter().map(|(_, op)| op).collect();
    Graph { values, ops, ..graph.clone() }
}
