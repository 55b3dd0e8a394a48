//! What the executor itself costs: programs of many tiny tasks, on an engine that does nothing.
//!
//! `cargo run --release -p berth-runtime-exec --example overhead` prints microseconds an instruction, the median of runs.

#[path = "../tests/common/mod.rs"]
mod common;

use berth_runtime_exec::executor::{Executor, Options};
use common::null::Null;
use common::{Chain, Folder, Keeper};
use std::time::Duration;

const STEPS: usize = 20;

fn main() {
    let tasks = 10_000;
    let base = Chain { tasks, room: tasks, bytes: 64, ..Chain::default() };
    let moved = |room| Chain { room, through_dram: true, ..base.clone() };
    let cases = [
        ("tasks alone", Chain { resident: true, ..base.clone() }, tasks),
        ("a copy from memory each, 2,000 ahead", moved(2_000), 2 * tasks),
        ("a copy from memory each, 10 ahead", moved(10), 2 * tasks),
        ("a copy from memory each, one at a time", moved(1), 2 * tasks),
        ("two engines in turn", Chain { resident: true, engines: 2, ..base.clone() }, tasks),
    ];
    for (name, chain, instructions) in cases {
        let folder = Folder::with("overhead", &chain);
        let engines = (0..chain.engines).map(|_| Null::new(false)).collect();
        let options = Options::new(&folder.0);
        let mut executor = Executor::load(&chain.program(), &chain.ports(), engines, &options).expect("it loads");
        let ran = executor.run(STEPS, Duration::from_secs(60), &mut Keeper::default()).expect("it runs");
        let mut steps: Vec<u64> = ran.steps.windows(2).skip(1).map(|pair| pair[1].end - pair[0].end).collect();
        steps.sort_unstable();
        let nanos = steps[steps.len() / 2] as f64 / instructions as f64;
        println!("{name:42} {:.2} us an instruction", nanos / 1000.0);
    }
}
