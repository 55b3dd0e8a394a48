//! Machines: one to four memories of any size, without a memory below, with links that are missing, cut, degraded or only
//! carry grains.

use crate::choices::Choices;
use berth_ir::DType;
use berth_ir::target::{Computing, Engine, Link, LinkState, Target, Tier};
use berth_ir::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Part};

const NAMES: &[&str] = &["hbm", "dram", "cxl", "nvme"];

/// A machine that [`Target::check`] accepts; `wanted` is about what a model holds, so that capacities around it are tried.
pub fn machine(c: &mut Choices, wanted: u64) -> Target {
    let tiers = c.of(&[3, 3, 2, 3, 4, 2, 3, 1]);
    let mut target = Target {
        name: "made".to_owned(),
        source: "made up".to_owned(),
        tiers: Vec::new(),
        engines: Vec::new(),
        links: Vec::new(),
    };
    for name in &NAMES[..tiers] {
        // The last one holds the files, where there are any.
        let files = target.tiers.len() + 1 == tiers && tiers > 1 && !c.one_in(16);
        let capacity = match c.below(6) {
            1 => wanted,
            2 | 3 => wanted.saturating_mul(1 + c.below(16) as u64) / 8,
            4 => c.size(),
            _ => u64::MAX >> (1 + c.below(20)),
        };
        target.tiers.push(Tier {
            name: (*name).to_owned(),
            capacity: Bytes(capacity),
            bandwidth: BytesPerSec(rate(c)),
            alignment: if c.one_in(4) { 1 << c.below(14) } else { 64 },
            reserve: Bytes(if c.one_in(16) { c.size() } else { 0 }),
            files,
            on_request: c.one_in(16),
            budget: c.one_in(8).then(|| Bytes((wanted / 16).saturating_mul(c.below(32) as u64).min(capacity))),
        });
    }
    let memories: Vec<String> = target.tiers.iter().filter(|t| !t.files).map(|t| t.name.clone()).collect();
    for n in 0..1 + c.below(2) {
        // One tier is never of files.
        let tier = memories[n.min(memories.len() - 1)].clone();
        let reads = if c.one_in(6) { vec![c.of(&memories)] } else { vec![] };
        target.engines.push(Engine {
            name: ["gpu", "cores"][n].to_owned(),
            reads: reads.into_iter().filter(|r| *r != tier).collect(),
            tier,
            rates: vec![(DType::F32, OpsPerSec(1 + c.below(256) as u64 * 1_000_000_000))],
            launch: Nanos(c.below(256) as u64 * 10),
            widens: if c.one_in(6) { vec![DType::F16, DType::BF16] } else { vec![] },
        });
    }
    for (from, below) in NAMES.iter().enumerate().take(tiers) {
        for to in (0..tiers).filter(|to| !target.tiers[*to].files) {
            let missing = c.below(12);
            if from == to || missing == 1 || (from.abs_diff(to) > 1 && missing < 6) {
                continue;
            }
            for twin in 0..1 + usize::from(c.one_in(8)) {
                let state = match c.below(20) {
                    1 => LinkState::Cut,
                    2 => LinkState::Degraded(BytesPerSec(rate(c))),
                    3 => LinkState::Degraded(BytesPerSec(0)),
                    _ => LinkState::Good,
                };
                let full = rate(c);
                let beside = c.one_in(4).then(|| BytesPerSec(rate(c).min(full)));
                let taken = c.one_in(8).then(|| BytesPerSec(rate(c)));
                let slows = Part(c.below(1_000_000) as u64);
                let computing = c.one_in(8).then(|| Computing { rate: BytesPerSec(rate(c).min(full)), slows });
                let grain = if c.one_in(24) { 1 << c.below(13) } else { 1 };
                target.links.push(Link {
                    name: format!("{below}-{}.{twin}", NAMES[to]),
                    from: (*below).to_owned(),
                    to: NAMES[to].to_owned(),
                    rate: BytesPerSec(full),
                    beside,
                    taken,
                    computing,
                    latency: Nanos(if c.one_in(3) { c.size() >> 16 } else { 0 }),
                    submit: Nanos(c.below(4) as u64 * 300),
                    chunk: Bytes(1 + if c.one_in(3) { c.size() } else { (1 << 20) - 1 }),
                    grain: Bytes(grain),
                    group: c.one_in(5).then(|| "bus".to_owned()),
                    state,
                });
            }
        }
    }
    target
}

/// Bytes per second; never zero.
fn rate(c: &mut Choices) -> u64 {
    match c.below(4) {
        0 => 1 + c.size(),
        _ => (1 + c.below(256) as u64) * 100_000_000,
    }
}
