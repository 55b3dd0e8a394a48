//! Lifetimes: a few tasks over tensors of odd sizes, each value written before it is read.

use crate::choices::Choices;
use berth_ir::lifetime::{Held, Lifetimes, Other, Task, Tensor, TensorId};
use berth_ir::program::{Filled, Home, Kind};
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;

/// Most tasks: plans of more cost time that finds nothing new.
const TASKS: usize = 14;

struct Maker<'c, 'b> {
    c: &'c mut Choices<'b>,
    all: Lifetimes,
    /// End of the last weight in its file.
    file: u64,
}

impl Maker<'_, '_> {
    fn tensor(&mut self, kind: Kind, bytes: u64) -> TensorId {
        let name = format!("t{}", self.all.tensors.len());
        let home = (kind == Kind::Weight).then(|| {
            let offset = self.file;
            self.file = self.file.saturating_add(bytes);
            let filled = self.c.one_in(8);
            Home {
                tier: "nvme".to_owned(),
                file: if filled { String::new() } else { "w.bin".to_owned() },
                offset: if filled { 0 } else { offset },
                transposed: None,
                strip: None,
                filled: filled.then_some(Filled { element: 1, bits: 0 }),
            }
        });
        self.all.tensors.push(Tensor {
            name,
            kind,
            dtype: DType::U8,
            extent: Expr::constant(bytes),
            bytes,
            home,
            aliases: Vec::new(),
        });
        TensorId(self.all.tensors.len() as u32 - 1)
    }
}

/// Lifetimes as models are lowered to, without states, whose sizes sum up to less than 64 bits hold: a graph is refused earlier where they do not.
pub fn lifetimes(c: &mut Choices) -> Lifetimes {
    let all = Lifetimes { model: "made".to_owned(), dims: BTreeMap::new(), tensors: Vec::new(), tasks: Vec::new() };
    let mut m = Maker { c, all, file: 0 };
    let mut left = i64::MAX as u64;
    let mut size = |m: &mut Maker| {
        let bytes = m.c.size().min(left / 4);
        left -= bytes;
        bytes
    };
    let mut weights = Vec::new();
    for _ in 0..m.c.below(8) {
        let bytes = size(&mut m);
        weights.push(m.tensor(Kind::Weight, bytes));
    }
    let mut values = Vec::new();
    for _ in 0..m.c.below(3) {
        let bytes = size(&mut m);
        values.push(m.tensor(Kind::Input, bytes));
    }
    let tasks = 1 + m.c.below(TASKS);
    for n in 0..tasks {
        let mut reads = Vec::new();
        let mut rows = Vec::new();
        for _ in 0..m.c.below(3) {
            if let Some(weight) = pick(m.c, &weights, &reads) {
                reads.push(weight);
                if m.c.one_in(6) {
                    rows.push(weight);
                }
            }
        }
        for _ in 0..1 + m.c.below(3) {
            reads.extend(pick(m.c, &values, &reads));
        }
        let mut writes = Vec::new();
        for k in 0..1 + m.c.below(2) {
            let last = n + 1 == tasks && k == 0;
            let kind = if last || m.c.one_in(5) { Kind::Output } else { Kind::Activation };
            let bytes = size(&mut m);
            let result = m.tensor(kind, bytes);
            writes.push(result);
            values.push(result);
        }
        let sizes = |t: &TensorId| m.all.tensors[t.index()].bytes;
        let right = |w: &&TensorId| reads.iter().any(|r| values.contains(r) && sizes(r) >= sizes(w));
        let over = writes.iter().find(right).copied();
        let under = over.and_then(|w| reads.iter().find(|r| values.contains(r) && sizes(r) >= sizes(&w)).copied());
        let in_place = match (under, over) {
            (Some(r), Some(w)) if r != w && m.c.one_in(2) => vec![(r, w)],
            _ => vec![],
        };
        let workspace = if m.c.one_in(3) { size(&mut m) } else { 0 };
        let cost = if m.c.one_in(6) { m.c.size() >> 16 } else { m.c.below(256) as u64 * 100 };
        let others = match m.c.below(3) {
            0 => vec![],
            _ => vec![Other { engine: "cores".to_owned(), workspace: workspace / 2, cost: Nanos(cost / 2 + 1) }],
        };
        let (name, ops) = (format!("task{n}"), vec![format!("task{n}")]);
        m.all.tasks.push(Task {
            name,
            ops,
            reads,
            writes,
            rows,
            in_place,
            workspace,
            cost: Nanos(cost),
            others,
            held: None,
        });
    }
    m.all
}

/// Has the first engine keep the weights of some tasks, which no other engine runs then.
pub fn keep(c: &mut Choices, all: &mut Lifetimes) {
    for task in &mut all.tasks {
        let kept = |t: &TensorId| all.tensors[t.index()].kind == Kind::Weight && !task.rows.contains(t);
        let weights: Vec<TensorId> = task.reads.iter().copied().filter(kept).collect();
        if weights.is_empty() || c.one_in(3) {
            continue;
        }
        task.reads.retain(|t| !weights.contains(t));
        task.others.clear();
        let stored = weights.iter().map(|t| all.tensors[t.index()].bytes).sum::<u64>();
        let bytes = match c.below(4) {
            0 => stored,
            1 | 2 => stored + stored / 32,
            _ => c.size(),
        };
        let loading = if c.one_in(4) { c.size() } else { stored.saturating_mul(2) };
        task.held = Some(Held { weights, bytes, loading });
    }
}

/// One of these that is not among those yet.
fn pick(c: &mut Choices, from: &[TensorId], not: &[TensorId]) -> Option<TensorId> {
    let id = (!from.is_empty()).then(|| c.of(from))?;
    (!not.contains(&id)).then_some(id)
}
