//! How fast weights stream through the executor, beside a plain reader of the same file: 4 MiB at a time, eight under
//! way, past the page cache.
//!
//! `cargo run --release -p berth-runtime-exec --example reader` makes half a GiB in the temporary
//! folder (`TMPDIR`), reads it in turns, and prints for each way the median of its rate and of its ratio to the plain reader's
//! turn before it. Disks of shared machines waver: only the ratios mean something.

#![allow(unsafe_code, reason = "reads to memory of its own")]

#[path = "../tests/common/mod.rs"]
mod common;

use berth_runtime_exec::arena::Arena;
use berth_runtime_exec::executor::{Executor, Options, Pace};
use berth_runtime_exec::store::queue::Plain;
use common::null::Null;
use common::{Chain, Folder, Keeper};
use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TURNS: usize = 9;
const CHUNK: u64 = 4 << 20;
const DEPTH: usize = 8;

/// Bytes a second of a plain reader.
fn plain(path: &Path) -> f64 {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).expect("it opens");
    let bytes = file.metadata().expect("its size").len();
    let next = AtomicU64::new(0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..DEPTH {
            scope.spawn(|| {
                // Memory like the executor's: large pages where the system has some.
                let arena = Arena::new(CHUNK).expect("memory");
                // SAFETY: nobody else has it.
                let memory = unsafe { arena.slice_mut(0, CHUNK) }.expect("all of it");
                loop {
                    let at = next.fetch_add(CHUNK, Ordering::Relaxed);
                    if at >= bytes {
                        return;
                    }
                    let got = file.read_at(memory, at).expect("it reads");
                    assert_eq!(got as u64, CHUNK.min(bytes - at));
                }
            });
        }
    });
    bytes as f64 / began.elapsed().as_secs_f64()
}

/// A way to read, and its executor.
struct Way {
    name: &'static str,
    executor: Executor<Null>,
    bytes: f64,
    rates: Vec<f64>,
    ratios: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, chain: &Chain, folder: &Folder, with: impl Fn(&mut Options)) -> Way {
        let mut options = Options::new(&folder.0);
        with(&mut options);
        let executor = Executor::load(&chain.program(), &chain.ports(), vec![Null::new(false)], &options);
        let bytes = chain.tasks as f64 * chain.bytes as f64;
        Way { name, executor: executor.expect("it loads"), bytes, rates: Vec::new(), ratios: Vec::new() }
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() {
    let base = Chain { tasks: 32, room: 4, bytes: 16 << 20, ..Chain::default() };
    // A little more, so that every way finds its bytes.
    let folder = Folder::with("reader", &Chain { tasks: 33, room: 1, ..base.clone() });
    let path = folder.0.join("w.bin");
    let pace = |chunk, depth| {
        move |options: &mut Options| {
            options.links = BTreeMap::from([("read".to_owned(), Pace { chunk, depth, held: None })])
        }
    };
    let odd = Chain { offset: 129, ..base.clone() };
    let turned = Chain { transposed: true, ..base.clone() };
    let mut ways = [
        Way::new("in place, 1 MiB, 8 under way", &base, &folder, pace(1 << 20, 8)),
        Way::new("in place, 4 MiB, 8 under way", &base, &folder, pace(4 << 20, 8)),
        Way::new("in place, 1 MiB, 2 under way", &base, &folder, pace(1 << 20, 2)),
        Way::new("in place, threads", &base, &folder, |o| o.places.disk = Some(Arc::new(Plain))),
        Way::new("at odd addresses", &odd, &folder, pace(1 << 20, 8)),
        Way::new("every other one transposed", &turned, &folder, pace(1 << 20, 8)),
    ];
    let mut plains = Vec::new();
    for _ in 0..TURNS {
        for way in &mut ways {
            let other = plain(&path);
            plains.push(other);
            // The second step alone: the first begins with the file's pages unknown to the arena.
            let ran = way.executor.run(2, Duration::from_secs(600), &mut Keeper::default()).expect("it runs");
            let rate = way.bytes / ((ran.steps[2].end - ran.steps[1].end) as f64 / 1e9);
            way.rates.push(rate);
            way.ratios.push(rate / other);
        }
    }
    println!("{:32} {:.2} GB/s", "plain reader", median(&mut plains) / 1e9);
    for way in &mut ways {
        let (rate, ratio) = (median(&mut way.rates) / 1e9, median(&mut way.ratios));
        println!("{:32} {rate:.2} GB/s, {ratio:.2} of the plain reader's", way.name);
    }
}
