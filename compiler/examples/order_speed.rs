//! How long ordering takes, and what it wins: random graphs in layers, or a file of lifetimes that `berth inspect --ir`
//! printed.
//!
//!     cargo run --release -p berth-compiler --example order_speed -- 10000
//!     cargo run --release -p berth-compiler --example order_speed -- model.lifetimes

use berth_compiler::order::{EFFORT, order};
use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId, parse};
use berth_ir::program::Kind;
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for word in std::env::args().skip(1) {
        let all = match word.parse::<usize>() {
            Ok(tasks) => vec![
                ("8 wide", layered(tasks, 8, 12)),
                ("50 wide", layered(tasks, 50, 100)),
                ("no end", layered(tasks, 50, 2_000)),
            ],
            Err(_) => vec![("file", parse(&std::fs::read_to_string(&word)?)?)],
        };
        for (what, lifetimes) in all {
            let start = Instant::now();
            let o = order(&lifetimes, EFFORT);
            let (time, n) = (start.elapsed().as_millis(), lifetimes.tasks.len());
            println!("{word} {what}: {n} tasks, {} -> {} (bound {}) in {time} ms", o.before, o.after, o.bound.bytes);
        }
    }
    Ok(())
}

/// Each task reads one to three of the results before it, of as many as are told; the order is by rows of some width.
fn layered(tasks: usize, width: usize, back: usize) -> Lifetimes {
    let mut all = Lifetimes { model: "random".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
    let mut state = 0x9e37_79b9_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for n in 0..tasks {
        let first = n - n % width;
        let mut reads: Vec<TensorId> = Vec::new();
        for _ in 0..=next(3) {
            if first > 0 {
                reads.push(TensorId((first - 1 - next(first.min(back) as u64) as usize) as u32));
            }
        }
        reads.sort();
        reads.dedup();
        let bytes = 1 + next(1_000);
        let (name, extent) = (format!("t{n}"), Expr::constant(bytes));
        let (kind, dtype) = (Kind::Activation, DType::U8);
        all.tensors.push(Tensor { name, kind, dtype, extent, bytes, home: None, aliases: vec![] });
        let (writes, workspace) = (vec![TensorId(n as u32)], next(100));
        let (name, ops) = (format!("task{n}"), vec![]);
        all.tasks.push(Task {
            name,
            ops,
            reads,
            writes,
            rows: vec![],
            in_place: vec![],
            workspace,
            cost: Nanos(1),
            others: vec![],
        });
    }
    all
}
