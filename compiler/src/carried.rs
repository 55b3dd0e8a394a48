//! Builds the stays of a tensor that outlives a step: a recurrent state, a cache.
//!
//! Reads:    lifetimes, a choice.
//! Decides:  nothing that the choice does not say; it works out spans around the edge of the step.
//! Promises: each use finds what was written last before it, in the step before where none of its own step wrote; over the
//!           edge of the step there is one memory at least that has it; no stay is longer than a step.
//! Why:      the step repeats, so what is put aside behind the last use comes back for the first one of the next step. What
//!           is not changed since it was put aside needs no copy, and what is written over next none either.

use crate::residency::{Choice, stay};
use crate::stay::{Arrival, Level, Positions, Stay};
use berth_ir::lifetime::{Lifetimes, TensorId};

/// Uses in one memory between which the bytes stay there.
struct Segment {
    level: Level,
    /// Counted on over the edge of the step: each segment lies behind the one before.
    uses: Vec<usize>,
    /// It must find what was there before.
    needs: bool,
    writes: bool,
}

impl Segment {
    fn first(&self) -> usize {
        self.uses[0]
    }
    fn last(&self) -> usize {
        self.uses[self.uses.len() - 1]
    }
}

/// Adds the stays of a state with uses at these positions.
pub(crate) fn carried(all: &mut Vec<Stay>, lifetimes: &Lifetimes, choice: &Choice, tensor: TensorId, uses: &[usize]) {
    let period = lifetimes.tasks.len();
    let segments = segments(lifetimes, choice, tensor, uses);
    let bytes = lifetimes.tensor(tensor).bytes;
    let hosted = uses.iter().any(|p| choice.host[*p]);
    // Where it is put aside behind a use.
    let aside = |position: usize| {
        let gap = uses.binary_search(&(position % period)).unwrap_or(0);
        choice.sunk.get(&(tensor, gap)).copied().filter(|_| !hosted).unwrap_or(Level::Lower)
    };
    let forever = |level: Level, uses: Positions| Stay {
        level,
        forever: true,
        fed: true,
        arrives: Arrival::Feed,
        ..stay(tensor, bytes, 0, period - 1, uses)
    };
    let changed = segments.iter().any(|s| s.level == Level::Device && s.writes);
    let mut new = match &segments[..] {
        // It never leaves.
        [one] if one.first() == uses[0] => vec![forever(one.level, uses.into())],
        // Nobody changes it on the device: it is below for ever.
        _ if !changed => {
            let below = uses.iter().copied().filter(|p| choice.host[*p]).collect();
            let device = segments.iter().filter(|s| s.level == Level::Device).map(|s| {
                let arrives = Arrival::Stay { from: 0, demand: choice.demand };
                Stay { arrives, ..stay(tensor, bytes, s.first(), s.last(), s.uses.iter().copied().collect()) }
            });
            std::iter::once(forever(aside(segments[0].last()), below)).chain(device).collect()
        }
        _ => alternating(&segments, &stay(tensor, bytes, 0, 0, Positions::new()), period, (choice.demand, &aside)),
    };
    new.iter_mut().for_each(|s| in_its_step(s, period as i64));
    let below: Vec<bool> = new.iter().map(|s| s.level != Level::Device && s.fed).collect();
    for stay in new.iter_mut().filter(|s| s.level == Level::Device && s.crosses(period as i64)) {
        // Before the first step it is copied from below where it is there too.
        stay.fed = !matches!(stay.arrives, Arrival::Stay { from, .. } if below[from]);
    }
    // The caller has it as the step leaves it.
    let writes = |p: &&usize| lifetimes.tasks[**p].writes.contains(&tensor);
    let left = uses.iter().rev().find(writes).copied().unwrap_or(uses[0]);
    let has = |s: &&mut Stay| s.uses.iter().any(|p| p % period == left);
    new.iter_mut().filter(has).for_each(|s| s.fetched = true);
    let base = all.len();
    for stay in &mut new {
        if let Arrival::Stay { from, .. } = &mut stay.arrives {
            *from += base;
        }
    }
    all.append(&mut new);
}

/// The segments of a state, the first one that changes it on the device first; where there is none, in the order of the step.
fn segments(lifetimes: &Lifetimes, choice: &Choice, tensor: TensorId, uses: &[usize]) -> Vec<Segment> {
    let (period, count) = (lifetimes.tasks.len(), uses.len());
    let reads = |p: usize| lifetimes.tasks[p].reads.contains(&tensor);
    // What is written over next need not stay till then; over the edge of the step it must, for the caller may have it.
    let ends = |i: usize| {
        let next = (i + 1) % count;
        let (here, level) = (choice.level(uses[i]), choice.level(uses[next]));
        let unread = next > 0 && !reads(uses[next]);
        here != level || (here == Level::Device && (choice.aside.contains(&(tensor, i)) || unread))
    };
    let start = (0..count).find(|i| ends(*i)).map_or(0, |i| i + 1);
    let mut all: Vec<Segment> = Vec::new();
    let mut open = false;
    for n in start..start + count {
        let (i, position) = (n % count, uses[n % count] + n / count * period);
        let writes = lifetimes.tasks[uses[i]].writes.contains(&tensor);
        match all.last_mut().filter(|_| open) {
            Some(segment) => {
                segment.uses.push(position);
                segment.writes |= writes;
            }
            None => {
                let needs = i == 0 || reads(uses[i]);
                all.push(Segment { level: choice.level(uses[i]), uses: vec![position], needs, writes });
            }
        }
        open = !ends(i);
    }
    let changes = all.iter().position(|s| s.level == Level::Device && s.writes).unwrap_or(0);
    all.rotate_left(changes);
    let count = all.len();
    for segment in &mut all[count - changes..] {
        segment.uses.iter_mut().for_each(|p| *p += period);
    }
    all
}

/// The stays of segments, around the edge of the step, of which the first changes what is on the device. Indexes of stays are
/// among themselves. `aside` says to which memory a state goes behind a position: where that is another one than it lies in
/// already it is put aside anew.
fn alternating(
    segments: &[Segment],
    like: &Stay,
    period: usize,
    (demand, aside): (bool, &dyn Fn(usize) -> Level),
) -> Vec<Stay> {
    let mut all: Vec<Stay> = Vec::new();
    let mut on_device = vec![usize::MAX; segments.len()];
    for (n, segment) in segments.iter().enumerate().filter(|(_, s)| s.level == Level::Device) {
        on_device[n] = all.len();
        let arrives = Arrival::Run(segment.first() % period);
        let uses = segment.uses.iter().copied().collect();
        let (from, to) = (segment.first() as i64, segment.last() as i64);
        all.push(Stay { arrives, from, to, uses, ..like.clone() });
    }
    let below = |level, arrives, at: usize| Stay { level, arrives, from: at as i64, to: at as i64, ..like.clone() };
    // What below is as it was written last.
    let mut kept: Option<usize> = None;
    for (n, segment) in segments.iter().enumerate() {
        let behind = (n + 1) % segments.len();
        let (next, turn) = (&segments[behind], if behind == 0 { period } else { 0 });
        let begin = next.first() + turn;
        let level = aside(segment.last());
        let there = kept.is_some_and(|lower: usize| segment.level != Level::Device || all[lower].level == level);
        if next.needs && !there {
            all.push(below(level, Arrival::Stay { from: on_device[n], demand: false }, segment.last()));
            kept = Some(all.len() - 1);
        } else if !next.needs && next.level != Level::Device {
            all.push(below(Level::Lower, Arrival::Run(begin % period), begin));
            kept = Some(all.len() - 1);
        }
        let Some(lower) = kept.filter(|_| next.needs || next.level != Level::Device) else {
            kept = None;
            continue;
        };
        if next.level == Level::Device {
            all[on_device[behind]].arrives = Arrival::Stay { from: lower, demand };
            all[lower].to = all[lower].to.max(begin as i64);
            kept = kept.filter(|_| !next.writes);
        } else {
            all[lower].uses.extend(next.uses.iter().map(|p| p + turn));
            all[lower].to = all[lower].to.max((next.last() + turn) as i64);
        }
    }
    all
}

/// Counts a stay from the start of the step in which it begins. What the next step needs of one below must be there before the
/// first; the copy out of it ends before the task that wants it, so it is no longer than a step.
fn in_its_step(stay: &mut Stay, period: i64) {
    let turn = stay.from / period * period;
    stay.from -= turn;
    stay.to -= turn;
    stay.uses.iter_mut().for_each(|p| *p -= turn as usize);
    if stay.level != Level::Device && !stay.forever {
        stay.fed = stay.to >= period;
        stay.to = stay.to.min(stay.from + period - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::made::plan_choice;
    use berth_ir::lifetime::{Task, Tensor};
    use berth_ir::program::{Home, Kind, Mode};
    use berth_ir::units::Nanos;
    use berth_ir::{DType, Expr, Target, verify};
    use std::collections::BTreeMap;

    const MACHINE: &str = r#"(name: "m", source: "made up", tiers: [
        (name: "device", capacity: "1MiB", bandwidth: "10GB/s", alignment: 64),
        (name: "dram", capacity: "1MiB", bandwidth: "10GB/s", alignment: 64),
        (name: "nvme", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64, files: true),
    ], engines: [
        (name: "e", tier: "device", rates: [(f32, "1Gops/s")], launch: "1us"),
        (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "1us"),
    ], links: [
        (name: "read", from: "nvme", to: "device", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
        (name: "up", from: "nvme", to: "dram", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
        (name: "in", from: "dram", to: "device", rate: "2GB/s", latency: "1us", chunk: "1KiB"),
        (name: "out", from: "device", to: "dram", rate: "2GB/s", latency: "1us", chunk: "1KiB"),
    ])"#;

    /// Numbers by chance.
    struct Draw(u64);

    impl Draw {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }
    }

    /// A chain of tasks that read and write states in all ways, beside weights.
    fn lifetimes(draw: &mut Draw) -> Lifetimes {
        let mut all = Lifetimes { model: "made".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
        let add = |all: &mut Lifetimes, kind: Kind, cells: usize| {
            let (n, bytes) = (all.tensors.len(), cells as u64 * 64);
            let home = Home {
                tier: "nvme".into(),
                file: "w.bin".into(),
                offset: (n as u64) << 20,
                transposed: None,
                strip: None,
                filled: None,
            };
            let home = (kind == Kind::Weight).then_some(home);
            let extent = Expr::constant(bytes);
            all.tensors.push(Tensor {
                name: format!("t{n}"),
                kind,
                dtype: DType::U8,
                extent,
                bytes,
                home,
                aliases: vec![],
            });
            TensorId(n as u32)
        };
        let states: Vec<TensorId> = (0..1 + draw.below(3)).map(|_| add(&mut all, Kind::State, draw.below(6))).collect();
        let weight = add(&mut all, Kind::Weight, 1 + draw.below(4));
        let mut last = add(&mut all, Kind::Input, 1);
        let tasks = 1 + draw.below(6);
        for n in 0..tasks {
            let kind = if n + 1 == tasks { Kind::Output } else { Kind::Activation };
            let result = add(&mut all, kind, 1 + draw.below(2));
            let (mut reads, mut writes) = (vec![last], vec![result]);
            if draw.below(2) == 0 {
                reads.push(weight);
            }
            for state in &states {
                match draw.below(6) {
                    0 => reads.push(*state),
                    1 => writes.push(*state),
                    2 => {
                        reads.push(*state);
                        writes.push(*state);
                    }
                    _ => {}
                }
            }
            last = result;
            all.tasks.push(Task {
                name: format!("task{n}"),
                ops: vec![format!("task{n}")],
                reads,
                writes,
                rows: vec![],
                in_place: vec![],
                workspace: 0,
                cost: Nanos(100 + draw.below(1_000) as u64),
                others: vec![],
                held: None,
            });
        }
        all
    }

    #[test]
    fn whatever_is_put_aside_wherever_tasks_run_the_program_is_safe() {
        let target = Target::from_ron(MACHINE).expect("a machine");
        let (mut planned, mut saved) = (0, 0);
        for seed in 0..4_000u64 {
            let draw = &mut Draw(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let lifetimes = lifetimes(draw);
            let mut choice = Choice::least(&lifetimes);
            if draw.below(3) == 0 {
                choice.host.iter_mut().for_each(|host| *host = draw.below(2) == 0);
            }
            for (index, uses) in lifetimes.uses().iter().enumerate() {
                let gaps = match lifetimes.tensors[index].kind {
                    Kind::State => uses.len(),
                    Kind::Activation | Kind::Output => uses.len().saturating_sub(1),
                    _ => 0,
                };
                let gaps = (0..gaps).filter(|_| draw.below(2) == 0);
                choice.aside.extend(gaps.map(|gap| (TensorId(index as u32), gap)));
            }
            choice.window = [0, 200, 1_000][draw.below(3)];
            let mode = if draw.below(8) == 0 { Mode::Once } else { Mode::Loop };
            let plan = plan_choice(&lifetimes, &target, mode, &choice).expect("there is room");
            saved += usize::from(plan.program.bodies[0].code.iter().any(|i| i.name().starts_with("save")));
            planned += 1;
            if let Err(wrong) = verify(&target, plan.program.clone(), None) {
                let text = berth_ir::text::print(&plan.program);
                panic!("seed {seed}: {wrong:?}\n{choice:?}\n{text}");
            }
        }
        assert!(saved > planned / 4, "{saved} of {planned} put something aside");
    }
}
