//! Steps allocate nothing: what a run needs it has before the third.

mod common;

use berth_ir::expr::Binding;
use berth_ir::{DType, Expr};
use berth_runtime_exec::engine::Port;
use berth_runtime_exec::executor::{Executor, Operand, Options};
use berth_runtime_exec::store::queue::Plain;
use common::null::Null;
use common::{Chain, Folder, Keeper};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

#[global_allocator]
static COUNTED: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocations() -> usize {
    let stats = COUNTED.stats();
    stats.allocations + stats.reallocations
}

/// All ways in one test: the counter is the whole process's.
#[test]
fn steps_allocate_nothing() {
    const STEPS: usize = 200;
    let before = allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert!(allocations() > before, "the counter counts");
    for (engines, through_dram, open, threads, records, growth) in [
        (1, false, false, false, 0, None),
        (1, false, false, true, 0, None),
        (2, true, false, false, 10_000, None),
        (1, false, true, false, 0, None),
        (1, false, true, false, 0, Some((1, STEPS as u64 - 1))),
    ] {
        let base = Chain { tasks: 8, bytes: 40_000, offset: 64, transposed: true, ..Chain::default() };
        let chain = Chain { engines, through_dram, growth, ..base };
        let folder = Folder::with("allocations", &chain);
        let mut ports = chain.ports();
        let mut options = Options { records, ..Options::new(&folder.0) };
        if threads {
            options.places.disk = Some(Arc::new(Plain));
        }
        if open {
            // Shapes, and an input, that follow from a size of the run, or of each step of it.
            options.dims = Binding::from([("n".to_owned(), if growth.is_some() { 0 } else { 16 })]);
            for task in &mut ports {
                let n = Expr::dim("n").min(&Expr::from(16u64));
                task.code.inputs.push(Port::new("size".into(), DType::I64, vec![1]));
                task.inputs.push(Operand::Known(vec![n.clone()]));
                let weight = Expr::from(10_000u64);
                task.open = Some(vec![vec![n.clone()], vec![weight], vec![Expr::from(1u64)], vec![n]]);
            }
        }
        let engines = (0..engines).map(|_| Null::new(true)).collect();
        let mut executor = Executor::load(&chain.program(), &ports, engines, &options).expect("it loads");
        let mut keeper = Keeper { looks: Vec::with_capacity(STEPS), look: Some(allocations), ..Keeper::default() };
        executor.run(STEPS, Duration::from_secs(60), &mut keeper).expect("it runs");
        let looks = keeper.looks;
        assert_eq!(looks.len(), STEPS);
        let grown = looks[STEPS - 1] - looks[2];
        assert_eq!(
            grown,
            0,
            "{grown} allocations in {} steps (open: {open}, growth: {growth:?}, threads: {threads})",
            STEPS - 3
        );
    }
}
