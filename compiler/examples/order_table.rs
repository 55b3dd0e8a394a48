//! Prints a table of orders, for `bench/order.sh`: what a graph's own order holds, what ours does, the least that any does
//! where a plain search finds it, our bound, the gap to the least (or to the bound, where only that is known), and seconds.
//!
//!     order_table SETS TASKS SEED [FAMILY ..]    graphs of families; SETS is what the plain search may look at
//!     order_table SETS FILE ..                   files of lifetimes, as `berth inspect --ir` prints them

#[path = "../tests/exact/mod.rs"]
mod exact;
#[path = "../tests/graphs/mod.rs"]
mod graphs;

use berth_compiler::order::{EFFORT, order};
use berth_ir::lifetime::{Lifetimes, parse};
use exact::{Exact, least};
use graphs::FAMILIES;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [sets, first, rest @ ..] = &words[..] else {
        return Err("order_table SETS (TASKS SEED [FAMILY ..] | FILE ..)".into());
    };
    let sets_max = sets.parse()?;
    println!(
        "{:<18} {:>7} {:>12} {:>12} {:>12} {:>12} {:>8} {:>8}",
        "family", "ops", "file", "ours", "least", "bound", "gap", "seconds"
    );
    match (first.parse::<usize>(), rest) {
        (Ok(tasks), [seed, wanted @ ..]) => {
            let seed = seed.parse()?;
            for (name, family) in FAMILIES.iter().filter(|f| wanted.is_empty() || wanted.iter().any(|w| w == f.0)) {
                row(name, &family(tasks, seed), sets_max);
            }
        }
        _ => {
            for file in &words[1..] {
                let name = file.rsplit('/').next().unwrap_or(file);
                row(name, &parse(&std::fs::read_to_string(file)?)?, sets_max);
            }
        }
    }
    Ok(())
}

fn row(name: &str, given: &Lifetimes, sets_max: usize) {
    let (clock, before) = (Instant::now(), processor_nanos());
    let o = order(given, EFFORT);
    let nanos = match (before, processor_nanos()) {
        (Some(before), Some(now)) => now - before,
        _ => clock.elapsed().as_nanos() as u64,
    };
    let exact = match o.bound.bytes == o.after {
        true => Some(o.after),
        false => match least(given, o.after, sets_max) {
            Some(Exact::Least(least)) => Some(least),
            Some(Exact::AtLeast(_)) | None => None,
        },
    };
    let gap = 100.0 * (o.after as f64 / exact.unwrap_or(o.bound.bytes).max(1) as f64 - 1.0);
    println!(
        "{name:<18} {:>7} {:>12} {:>12} {:>12} {:>12} {:>8} {:>8.3}",
        given.tasks.len(),
        o.before,
        o.after,
        exact.map_or("-".to_owned(), |exact| exact.to_string()),
        o.bound.bytes,
        format!("{}{gap:.2}%", if exact.is_none() && gap > 0.0 { "<" } else { "" }),
        nanos as f64 / 1e9
    );
}

/// What this process has had of a processor, where the system says so.
fn processor_nanos() -> Option<u64> {
    let said = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    said.split(' ').next()?.parse().ok()
}
