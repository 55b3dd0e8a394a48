//! The step time that no plan beats with tasks on two engines, or on given ones.
//!
//! Reads:    lifetimes with what each task takes on each engine, machine.
//! Decides:  weights of a mean of bounds, the greatest that is found.
//! Promises: no program with these tasks has a shorter step, whichever engines run them.
//! Why:      work on either engine, chains through both, and bytes bound a step at the same time; each alone says little where
//!           a task may go to either side. In a mean of them each task is given its best engine by itself.

use crate::bound::TimeBound;
use crate::machine::Machine;
use crate::share::{LEAST_PART, coming, gives};
use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Link;
use berth_ir::units::{Bytes, Nanos};

/// A part that rounding may lose of a time that is a sum over tasks.
const ROUNDING: u128 = 100_000;

/// By position, bytes of weights that the task is the first to read whole, of those that some file holds. A table that is
/// read by rows alone need not come; with `engine`, only where that may run the task. Of the tasks at positions that count.
pub(crate) fn first_users(lifetimes: &Lifetimes, engine: Option<&str>, counts: impl Fn(usize) -> bool) -> Vec<u64> {
    let mut seen = vec![false; lifetimes.tensors.len()];
    let mut first = vec![0u64; lifetimes.tasks.len()];
    for (position, task) in lifetimes.tasks.iter().enumerate().filter(|(p, _)| counts(*p)) {
        let by_rows = |t| task.rows.contains(&t) && engine.is_none_or(|e| task.on(e).is_some());
        for tensor in task.reads.iter().filter(|t| !by_rows(**t)) {
            let t = lifetimes.tensor(*tensor);
            let stored = t.home.as_ref().is_none_or(|h| h.filled.is_none());
            if t.kind == Kind::Weight && stored && !std::mem::replace(&mut seen[tensor.index()], true) {
                first[position] = first[position].saturating_add(t.bytes);
            }
        }
    }
    first
}

/// Bytes of all weights that tasks read and some file holds.
fn stored(lifetimes: &Lifetimes) -> u64 {
    let uses = lifetimes.uses();
    let read = |(t, uses): &(&Tensor, &[usize])| {
        let stored = t.home.as_ref().is_none_or(|h| h.filled.is_none());
        t.kind == Kind::Weight && stored && !uses.is_empty()
    };
    lifetimes.tensors.iter().zip(uses.iter()).filter(read).map(|(t, _)| t.bytes).fold(0, u64::saturating_add)
}

/// Bytes that a task moves from and to the device's memory, no faster than that gives them.
fn moved(lifetimes: &Lifetimes, machine: &Machine, task: &Task) -> u128 {
    let bytes = |t: &TensorId| u128::from(lifetimes.tensor(*t).bytes);
    let touched: u128 = task.reads.iter().chain(&task.writes).map(bytes).sum();
    touched.min(u128::from(machine.device.bandwidth.0) * u128::from(task.cost.0) / 1_000_000_000)
}

/// How long the device's memory takes for so many bytes, with copies beside tasks.
fn in_time(bytes: u128, machine: &Machine) -> u64 {
    let time = (bytes * 1_000_000_000).checked_div(gives(machine.target, machine.device)).unwrap_or(0);
    // Less what is lost in rounding.
    u64::try_from(time - time / ROUNDING).unwrap_or(u64::MAX)
}

/// Bytes of weights that must be read whole in each step.
pub(crate) fn weights(lifetimes: &Lifetimes, engine: Option<&str>) -> u64 {
    first_users(lifetimes, engine, |_| true).into_iter().fold(0, u64::saturating_add)
}

/// The step time that no plan with tasks on these engines beats: what each of them computes, the weights that the device reads
/// whole, less what it has room for, and those with what its tasks touch at the bandwidth of its memory.
pub(crate) fn least(lifetimes: &Lifetimes, machine: &Machine, host: &[bool]) -> Nanos {
    let (mut device, mut below) = (0u64, 0u64);
    for (task, host) in lifetimes.tasks.iter().zip(host) {
        let engine = if *host { &mut below } else { &mut device };
        *engine = engine.saturating_add(task.cost.0);
    }
    let first = first_users(lifetimes, machine.host, |p| !host[p]);
    let need = first.into_iter().fold(0, u64::saturating_add).saturating_sub(machine.device.room().0);
    let here = lifetimes.tasks.iter().zip(host).filter(|(_, host)| !**host);
    let touched: u128 = here.map(|(task, _)| moved(lifetimes, machine, task)).sum();
    let crowded = in_time(touched + coming(machine.target, machine.device, need), machine);
    Nanos(device.max(below).max(Bytes(need).at(machine.rate_into_device()).0).max(crowded))
}

/// The step time that no assignment of the tasks to the machine's engines beats; nothing where only the device may run
/// them.
///
/// A step takes no less than each of these, whatever the assignment:
/// - what the device computes, one task after the other;
/// - what the other engine computes;
/// - any chain of tasks from an input to an output, as a caller reads a step's outputs before he feeds the next: each
///   task of it on its quicker engine, and what it takes more if it runs on the other; so the longest of these chains,
///   and the mean of some, which go through parallel branches in turn;
/// - what tasks on the device touch of its memory, and what comes in beside them, at its bandwidth;
/// - the weights that are read whole, less what the device has room for and less those whose first reader runs on the
///   other engine, over the links into the device: the rest is brought in every step.
///
/// So it takes no less than any weighted mean of these, and in a mean each task can be given the engine that makes it
/// least by itself. The weights are searched; whichever are found, the mean is a bound (a Lagrangian relaxation).
/// Beside it: weights come out of the lower memory, whoever reads them, or from elsewhere, at their rates; and what no
/// memory holds comes from files, tables whole.
pub(crate) fn bound(lifetimes: &Lifetimes, machine: &Machine, mode: Mode) -> Option<TimeBound> {
    let engine = machine.host?;
    let on: Vec<Option<u64>> = lifetimes.tasks.iter().map(|t| Some(t.on(engine)?.cost.0)).collect();
    let lower = machine.lower.filter(|_| on.iter().any(Option::is_some))?;
    let first = first_users(lifetimes, Some(engine), |_| true);
    let all = first.iter().fold(0u64, |all, b| all.saturating_add(*b));
    // In a loop what stays on the device was brought before the step.
    let room = if mode == Mode::Loop { machine.device.room().0 } else { 0 };
    let need = all.saturating_sub(room);
    let into = machine.rate_into_device();
    let quicker: Vec<u64> =
        lifetimes.tasks.iter().zip(&on).map(|(t, on)| on.unwrap_or(u64::MAX).min(t.cost.0)).collect();
    let longest = chain(lifetimes, &quicker);
    let branches = chains(lifetimes, &on);
    let parts = (0..on.len()).map(|p| {
        let device = lifetimes.tasks[p].cost.0;
        let more = |time: u64| time - quicker[p];
        let longer = |time: u64| if longest[p] { more(time) } else { 0 };
        let mean = |time: u64| more(time).saturating_mul(branches[p]) / CHAINS;
        let touched = in_time(moved(lifetimes, machine, &lifetimes.tasks[p]), machine);
        let here = [device, 0, longer(device), mean(device), touched, 0].map(i128::from);
        // What need not be moved is taken off, rounded up.
        let off = i128::from(Bytes(first[p]).at(into).0) + 1;
        let beside = i128::from(in_time(coming(machine.target, machine.device, first[p]), machine)) + 1;
        let beside = beside + beside / ROUNDING as i128 + 1;
        let there = on[p].map(|host| {
            let [a, b, c] = [host, longer(host), mean(host)].map(i128::from);
            [0, a, b, c, -beside, -off]
        });
        (here, there)
    });
    // Layers repeat: of equal tasks one is weighed.
    let mut parts: Vec<_> = parts.collect();
    parts.sort_unstable();
    let parts: Vec<_> = parts.chunk_by(|a, b| a == b).map(|equal| (equal[0], equal.len() as i128)).collect();
    let sum = |share: &dyn Fn(usize) -> u64| {
        let times = quicker.iter().enumerate().map(|(p, time)| u128::from(*time) * u128::from(share(p)));
        times.sum::<u128>() / u128::from(CHAINS)
    };
    let length = sum(&|p| if longest[p] { CHAINS } else { 0 }) as i128;
    let moving = i128::from(Bytes(need).at(into).0.saturating_sub(1));
    let crowded = in_time(coming(machine.target, machine.device, need), machine);
    let fixed = [0, 0, length, sum(&|p| branches[p]) as i128, i128::from(crowded), moving];
    let mean = |weights: &Weights| {
        let of = |times: &Weights| times.iter().zip(weights).map(|(t, w)| t * w).sum::<i128>();
        let least = |((here, there), count): &((Weights, Option<Weights>), i128)| {
            count * there.as_ref().map_or(of(here), |there| of(here).min(of(there)))
        };
        (of(&fixed) + parts.iter().map(least).sum::<i128>()) / WEIGHT
    };
    let (weights, time) = best_mean(mean);
    let moving = u64::try_from(time.max(0)).unwrap_or(u64::MAX);
    // Where no task takes its bytes faster than the memory gives them.
    let (second, bandwidth) = (1_000_000_000, u128::from(lower.bandwidth.0));
    let rate = |link: Option<&Link>| link.map_or(0, |l| u128::from(machine.rate_along(l).0));
    let gives = bandwidth.max(rate(machine.lower_to_device) + bandwidth / u128::from(LEAST_PART));
    let bounded = on
        .iter()
        .zip(&first)
        .all(|(on, bytes)| on.is_none_or(|nanos| u128::from(*bytes) * second <= u128::from(nanos) * bandwidth));
    let beside = machine.further.iter().map(|f| rate(Some(f.to_device))).sum::<u128>();
    let gives = if bounded { gives + rate(machine.home_to_device) + beside } else { 0 };
    let giving = (u128::from(need) * second).checked_div(gives).unwrap_or(0);
    let giving = u64::try_from(giving).unwrap_or(u64::MAX);
    // A table of which rows are read is in some memory whole.
    let held = stored(lifetimes).saturating_sub(room).saturating_sub(machine.room_below());
    let elsewhere = Bytes(held).at(machine.rate_from_files()).0;
    let bytes = giving.max(elsewhere);
    Some(TimeBound { time: Nanos(moving.max(bytes)), by_compute: moving >= bytes && weights[TIMES - 2..] == [0, 0] })
}

/// What weights of a mean add up to.
const WEIGHT: i128 = 256;

/// Times that a step takes no less than; the last two are those of moving bytes.
const TIMES: usize = 6;

/// Times, or a weight for each.
type Weights = [i128; TIMES];

/// Chains through parallel branches in turn.
const CHAINS: u64 = 16;

/// Weights that give a great mean, and the mean: from each time alone, moving parts of a weight from one to another while
/// that helps, halves first.
fn best_mean(mean: impl Fn(&Weights) -> i128) -> (Weights, i128) {
    let mut best = ([0; TIMES], 0);
    for start in 0..TIMES {
        let mut weights = [0; TIMES];
        weights[start] = WEIGHT;
        let mut climbed = (weights, mean(&weights));
        let mut part = WEIGHT / 2;
        while part > 0 {
            let mut better = false;
            for (from, to) in (0..TIMES).flat_map(|from| (0..TIMES).map(move |to| (from, to))) {
                let mut next = climbed.0;
                next[from] -= part;
                next[to] += part;
                if from != to && next[from] >= 0 {
                    let found = mean(&next);
                    if found > climbed.1 {
                        (climbed, better) = ((next, found), true);
                    }
                }
            }
            if !better {
                part /= 2;
            }
        }
        if climbed.1 > best.1 {
            best = climbed;
        }
    }
    best
}

/// By task, how many of some chains go through it: each the longest by the time on the slower engine, where a task counts
/// the less the more often the chains before went through it.
fn chains(lifetimes: &Lifetimes, on: &[Option<u64>]) -> Vec<u64> {
    let mut through = vec![0; lifetimes.tasks.len()];
    for _ in 0..CHAINS {
        let tasks = lifetimes.tasks.iter().zip(on).zip(&through);
        let times: Vec<u64> = tasks.map(|((t, on), seen)| on.unwrap_or(0).max(t.cost.0) / (1 + seen)).collect();
        for (count, on_chain) in through.iter_mut().zip(chain(lifetimes, &times)) {
            *count += u64::from(on_chain);
        }
    }
    through
}

/// The tasks of the longest chain from an input to an output.
fn chain(lifetimes: &Lifetimes, times: &[u64]) -> Vec<bool> {
    let count = lifetimes.tasks.len();
    // By tensor: the task that wrote it, if that depends on an input.
    let mut writer: Vec<Option<usize>> = vec![None; lifetimes.tensors.len()];
    let mut until: Vec<(u64, Option<usize>)> = vec![(0, None); count];
    let mut last: Option<usize> = None;
    for (p, task) in lifetimes.tasks.iter().enumerate() {
        let before = task.reads.iter().filter_map(|t| writer[t.index()]).max_by_key(|w| until[*w].0);
        let fed = task.reads.iter().any(|t| lifetimes.tensor(*t).kind == Kind::Input);
        if before.is_none() && !fed {
            continue;
        }
        until[p] = (before.map_or(0, |w| until[w].0).saturating_add(times[p]), before);
        task.writes.iter().for_each(|t| writer[t.index()] = Some(p));
        let read = task.writes.iter().any(|t| lifetimes.tensor(*t).kind == Kind::Output);
        if read && last.is_none_or(|l| until[l].0 < until[p].0) {
            last = Some(p);
        }
    }
    let mut chain = vec![false; count];
    while let Some(p) = last {
        chain[p] = true;
        last = until[p].1;
    }
    chain
}
