//! Chooses which tasks the engine of the lower memory runs, beside the device: the host's cores where the weights lie.
//!
//! Reads:    lifetimes with what each task takes on that engine, machine.
//! Decides:  the engine of each task: the fastest of some assignments that are planned and simulated.
//! Promises: no assignment but one that fits and was simulated; a bound that none with these tasks beats.
//! Why:      a weight that does not stay on the device crosses the link, or is read where it lies by cores that the lower
//!           memory feeds faster than the link (FlexGen, PowerInfer and KTransformers compute there what it holds). A
//!           crossing of values costs tens of microseconds, so whole stretches between narrow cuts of the graph move;
//!           spread evenly, as the link goes on bringing weights for the device while the cores compute.

use crate::machine::Machine;
use crate::plan::{Site, TimeBound, Tried};
use crate::residency::Choice;
use berth_ir::lifetime::{Lifetimes, Task};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Link;
use berth_ir::units::{Bytes, Nanos};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// A unit has no more than this part of all weights, where single tasks do not have more: a finer split balances better.
const UNIT_PART_MAX: u64 = 24;

/// A unit has at least this part of all weights: each costs a crossing there and back.
const UNIT_PART_MIN: u64 = 64;

/// The part of its memory that an engine keeps under copies, as the simulator has it.
const KEPT_PART: u64 = crate::share::LEAST_PART;

/// A stretch of tasks that one engine runs.
#[derive(Clone, Copy, Debug)]
struct Unit {
    from: usize,
    to: usize,
    /// Bytes of weights of which it is the first user.
    bytes: u64,
    /// Time of its tasks on the device, and on the engine of the lower memory; nothing where that cannot run all of them.
    device: u64,
    host: Option<u64>,
}

/// Which of the units that are worth it go to the lower memory's engine.
#[derive(Clone, Copy)]
enum Way {
    Spread,
    First,
    Last,
}

/// The best assignment found that uses the engine of the lower memory; nothing where there is none that may run tasks, or
/// nothing fits. The lifetimes have the costs of the engines assigned.
pub(crate) fn split(site: &Site) -> Option<(Lifetimes, Tried)> {
    let (lifetimes, machine) = (site.lifetimes, &site.machine);
    let engine = machine.host.filter(|e| machine.can_spill() && lifetimes.tasks.iter().any(|t| t.on(e).is_some()))?;
    let (units, rows) = (units(lifetimes, machine, engine)?, rows(lifetimes, machine, engine));
    let link = machine.lower_to_device?;
    let worth = |u: &&Unit| u.host.is_some_and(|host| host < Bytes(u.bytes).at(link.present_rate()).0 + u.device);
    let worth: Vec<Unit> = units.iter().filter(worth).copied().collect();
    let search = Split { site, engine, rows, worth };
    search.best(search.predicted(link))
}

/// Lifetimes with the costs of the engines that tasks are assigned to.
fn assigned(lifetimes: &Lifetimes, engine: &str, host: &[bool]) -> Lifetimes {
    let mut assigned = lifetimes.clone();
    for (task, _) in assigned.tasks.iter_mut().zip(host).filter(|(_, host)| **host) {
        if let Some(other) = task.on(engine).cloned() {
            (task.cost, task.workspace) = (other.cost, other.workspace);
        }
    }
    assigned
}

struct Split<'s, 'a> {
    site: &'s Site<'a>,
    engine: &'s str,
    /// Tasks that read rows of a table, which move whatever else does.
    rows: Vec<usize>,
    worth: Vec<Unit>,
}

/// What a number of units comes to.
type Known = BTreeMap<usize, Option<Nanos>>;

impl Split<'_, '_> {
    /// Climbs from a number of units to better ones, in strides that halve; then looks closer at the best.
    fn best(&self, start: usize) -> Option<(Lifetimes, Tried)> {
        let all = self.worth.len();
        let mut best: Option<(Lifetimes, Tried)> = None;
        let mut known = Known::new();
        let mut attempt = |best: &mut Option<_>, way, count: usize| {
            let known = known.entry(count);
            if let (Way::Spread, std::collections::btree_map::Entry::Occupied(entry)) = (way, &known) {
                return *entry.get();
            }
            let found = self.tried(&self.host(way, count));
            let step = found.as_ref().map(|(_, tried)| tried.timeline.step);
            if matches!(way, Way::Spread) {
                known.or_insert(step);
            }
            keep(best, found);
            step
        };
        let mut at = start;
        let mut least = attempt(&mut best, Way::Spread, at);
        let mut stride = all / 8;
        while stride > 0 {
            for next in [at.saturating_sub(stride), (at + stride).min(all)] {
                let step = attempt(&mut best, Way::Spread, next);
                if step.is_some_and(|step| least.is_none_or(|least| step < least)) {
                    (at, least) = (next, step);
                }
            }
            stride /= 2;
        }
        for way in [Way::First, Way::Last] {
            attempt(&mut best, way, at);
        }
        let (lifetimes, tried) = best?;
        let closer = self.site.of(&lifetimes, &tried.choice.host).ok()?;
        let base = Choice { pinned: vec![false; lifetimes.tensors.len()], window: 0, ..tried.choice.clone() };
        match closer.best(&base, 1) {
            Some(closer) if closer.timeline.step < tried.timeline.step => Some((lifetimes, closer)),
            _ => Some((lifetimes, tried)),
        }
    }

    /// By position, whether the lower memory's engine runs the task.
    fn host(&self, way: Way, count: usize) -> Vec<bool> {
        let mut host = vec![false; self.site.lifetimes.tasks.len()];
        self.rows.iter().for_each(|p| host[*p] = true);
        let all = self.worth.len();
        for (n, unit) in self.worth.iter().enumerate() {
            let chosen = match way {
                Way::Spread => (n + 1) * count / all > n * count / all,
                Way::First => n < count,
                Way::Last => n + count >= all,
            };
            if chosen {
                host[unit.from..unit.to].fill(true);
            }
        }
        host
    }

    /// One assignment, with as much pinned as fits beside what the link brings while the cores compute.
    fn tried(&self, host: &[bool]) -> Option<(Lifetimes, Tried)> {
        if !host.contains(&true) {
            return None;
        }
        let lifetimes = assigned(self.site.lifetimes, self.engine, host);
        let site = self.site.of(&lifetimes, host).ok()?;
        let base = site.first_rung(site.room())?.0;
        // Two of the weights that make up most of the bytes, and what comes in the longest time that the cores take.
        let (mut longest, mut run) = (0u64, 0u64);
        for (task, host) in lifetimes.tasks.iter().zip(host) {
            run = if *host { run.saturating_add(task.cost.0) } else { 0 };
            longest = longest.max(run);
        }
        let rate = u128::from(site.machine.rate_into_device().0);
        let brought = u64::try_from(rate * u128::from(longest) / 1_000_000_000).unwrap_or(u64::MAX);
        let window = site.bulk().saturating_mul(2).saturating_add(brought);
        let order = site.pin_orders().swap_remove(0);
        // Where so much ahead does not fit beside what must be there, half of it may.
        let windows = std::iter::successors(Some(window), |w| Some(w / 2).filter(|w| *w > 0)).take(WINDOWS_MAX);
        let placed = windows.chain([0]).find_map(|window| site.most_pinned(&Choice { window, ..base.clone() }, &order));
        let (choice, placed) = placed?;
        let tried = site.faster(None, choice, placed)?;
        Some((lifetimes, tried))
    }

    /// The number of units that a flow of bytes balances: what the cores do not read crosses the link, and they and the
    /// device take turns.
    fn predicted(&self, link: &Link) -> usize {
        let (lifetimes, machine) = (self.site.lifetimes, &self.site.machine);
        let rate = link.present_rate();
        let bandwidth = machine.lower.map_or(0, |t| t.bandwidth.0).max(1);
        let slowed = |host: u64| {
            let left = bandwidth.saturating_sub(rate.0).max(bandwidth / KEPT_PART).max(1);
            (u128::from(host) * u128::from(bandwidth) / u128::from(left)) as u64
        };
        let need = weights(lifetimes, machine.host).saturating_sub(machine.device.room().0);
        let work: u64 = lifetimes.tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add);
        let crossing = link.latency.0 + link.submit.0;
        let time = |count: &usize| {
            let host = self.host(Way::Spread, *count);
            let chosen = || self.worth.iter().filter(|u| host[u.from]);
            let sum = |of: &dyn Fn(&Unit) -> u64| chosen().map(of).fold(0, u64::saturating_add);
            let moving = Bytes(need.saturating_sub(sum(&|u| u.bytes))).at(rate).0;
            let cores = sum(&|u| u.host.unwrap_or(0));
            let cores = if moving > 0 { slowed(cores) } else { cores };
            let device = work.saturating_sub(sum(&|u| u.device));
            moving.max(cores.saturating_add(device).saturating_add(*count as u64 * 2 * crossing))
        };
        (0..=self.worth.len()).min_by_key(time).unwrap_or(0)
    }
}

/// Halvings of a window that does not fit.
const WINDOWS_MAX: usize = 6;

/// The faster of the best so far and another.
fn keep(best: &mut Option<(Lifetimes, Tried)>, other: Option<(Lifetimes, Tried)>) {
    let Some(other) = other else { return };
    if best.as_ref().is_none_or(|best| other.1.timeline.step < best.1.timeline.step) {
        *best = Some(other);
    }
}

/// Tasks that read rows of a weight which takes longer to cross the link than what they write.
fn rows(lifetimes: &Lifetimes, machine: &Machine, engine: &str) -> Vec<usize> {
    let Some(link) = machine.lower_to_device else { return Vec::new() };
    let bytes = |all: &mut dyn Iterator<Item = &berth_ir::lifetime::TensorId>| -> u64 {
        all.map(|t| lifetimes.tensor(*t).bytes).fold(0, u64::saturating_add)
    };
    let moves = |t: &Task| {
        let tables = bytes(&mut t.rows.iter().filter(|r| lifetimes.tensor(**r).kind == Kind::Weight));
        let results = Bytes(bytes(&mut t.writes.iter())).at(link.present_rate()).0;
        t.on(engine).is_some_and(|on| Bytes(tables).at(link.present_rate()).0 > results.saturating_add(on.cost.0))
    };
    (0..lifetimes.tasks.len()).filter(|p| moves(&lifetimes.tasks[*p])).collect()
}

/// Cuts the tasks where little crosses: at the narrowest places that leave no stretch with too much of the weights, and
/// not so often that stretches have next to none.
fn units(lifetimes: &Lifetimes, machine: &Machine, engine: &str) -> Option<Vec<Unit>> {
    let count = lifetimes.tasks.len();
    let first = first_users(lifetimes, None);
    let total: u64 = first.iter().fold(0, |all: u64, b| all.saturating_add(*b));
    if total == 0 {
        return Some(Vec::new());
    }
    let crossing = crossings(lifetimes, machine.lower_to_device?);
    let most = (total / UNIT_PART_MAX).max(first.iter().copied().max().unwrap_or(0));
    // The widest stretch is narrower the more cuts there are.
    let fits = |width: u64| {
        let mut sum = 0u64;
        (0..count).all(|p| {
            sum = if p > 0 && crossing[p] <= width { first[p] } else { sum.saturating_add(first[p]) };
            sum <= most
        })
    };
    let mut widths: Vec<u64> = crossing[1..].to_vec();
    widths.sort_unstable();
    widths.dedup();
    let width = widths.get(widths.partition_point(|w| !fits(*w))).or(widths.last()).copied().unwrap_or(0);
    let mut units = Vec::new();
    let mut from = 0;
    let mut bytes = 0u64;
    for p in 0..count {
        bytes = bytes.saturating_add(first[p]);
        let last = p + 1 == count;
        if last || (crossing[p + 1] <= width && bytes >= total / UNIT_PART_MIN) {
            let tasks = &lifetimes.tasks[from..=p];
            let device = tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add);
            let host = tasks.iter().try_fold(0u64, |sum, t| Some(sum.saturating_add(t.on(engine)?.cost.0)));
            units.push(Unit { from, to: p + 1, bytes, device, host });
            (from, bytes) = (p + 1, 0);
        }
    }
    Some(units)
}

/// Before each position, how long what was written before and is used from there on takes over a link.
fn crossings(lifetimes: &Lifetimes, link: &Link) -> Vec<u64> {
    let mut change = vec![0i128; lifetimes.tasks.len() + 1];
    for (tensor, uses) in lifetimes.tensors.iter().zip(lifetimes.uses()) {
        let (Some(first), Some(last)) = (uses.first(), uses.last()) else { continue };
        if tensor.kind != Kind::Weight {
            let time = link.latency.0 + link.submit.0 + Bytes(tensor.bytes).at(link.present_rate()).0;
            change[first + 1] += i128::from(time);
            change[last + 1] -= i128::from(time);
        }
    }
    let mut alive = 0i128;
    let widths = change.iter().map(|c| {
        alive += c;
        u64::try_from(alive).unwrap_or(u64::MAX)
    });
    widths.collect()
}

/// By position, bytes of weights that the task is the first to read whole, of those that some file holds. A table that is
/// read by rows alone need not come; with `engine`, only where that may run the task.
fn first_users(lifetimes: &Lifetimes, engine: Option<&str>) -> Vec<u64> {
    let mut seen = vec![false; lifetimes.tensors.len()];
    let mut first = vec![0u64; lifetimes.tasks.len()];
    for (bytes, task) in first.iter_mut().zip(&lifetimes.tasks) {
        let by_rows = |t| task.rows.contains(&t) && engine.is_none_or(|e| task.on(e).is_some());
        for tensor in task.reads.iter().filter(|t| !by_rows(**t)) {
            let t = lifetimes.tensor(*tensor);
            let stored = t.home.as_ref().is_none_or(|h| h.filled.is_none());
            if t.kind == Kind::Weight && stored && !std::mem::replace(&mut seen[tensor.index()], true) {
                *bytes = bytes.saturating_add(t.bytes);
            }
        }
    }
    first
}

/// Bytes of weights that must be read whole in each step.
fn weights(lifetimes: &Lifetimes, engine: Option<&str>) -> u64 {
    first_users(lifetimes, engine).into_iter().fold(0, u64::saturating_add)
}

/// The step time that no plan with all tasks on the device beats.
pub(crate) fn alone(lifetimes: &Lifetimes, machine: &Machine) -> Nanos {
    let work = lifetimes.tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add);
    let need = weights(lifetimes, machine.host).saturating_sub(machine.device.room().0);
    Nanos(work.max(Bytes(need).at(machine.rate_into_device()).0))
}

/// The step time that no assignment of the tasks to the machine's engines beats; nothing where only the device may run
/// them.
///
/// Of the weights, the device holds what it has room for. Each other byte crosses the link in every step, or each of its
/// readers runs where it lies, the first of them too. So in a time T: link rate x T + what the first readers that the
/// other engine has time for in T are the first to read >= the weights less the device's room; what it has time for is
/// at most what it gets when it takes the most bytes per nanosecond first, the last of them in part. All those bytes come
/// out of the lower memory, or straight from files, at their rates; and what neither memory holds comes from files.
/// Of compute the same holds with the device's nanoseconds for bytes and one a nanosecond for the rate.
pub(crate) fn bound(lifetimes: &Lifetimes, machine: &Machine, mode: Mode) -> Option<TimeBound> {
    let engine = machine.host?;
    let on: Vec<Option<u64>> = lifetimes.tasks.iter().map(|t| Some(t.on(engine)?.cost.0)).collect();
    let lower = machine.lower.filter(|_| on.iter().any(Option::is_some))?;
    let first = first_users(lifetimes, Some(engine));
    let all = first.iter().fold(0u64, |all, b| all.saturating_add(*b));
    // In a loop what stays on the device was brought before the step.
    let room = if mode == Mode::Loop { machine.device.room().0 } else { 0 };
    let need = all.saturating_sub(room);
    let items = |gain: &dyn Fn(usize) -> u128| -> Vec<(u64, u128)> {
        on.iter().enumerate().filter_map(|(p, price)| Some(((*price)?, gain(p)))).collect()
    };
    let second = 1_000_000_000;
    let into = u128::from(machine.rate_into_device().0);
    let moving = least_time(u128::from(need) * second, into, items(&|p| u128::from(first[p]) * second));
    // Where no task takes its bytes faster than the memory gives them.
    let rate = |link: Option<&Link>| link.map_or(0, |l| u128::from(l.present_rate().0));
    let bandwidth = u128::from(lower.bandwidth.0);
    let gives = bandwidth.max(rate(machine.lower_to_device) + bandwidth / u128::from(KEPT_PART));
    let bounded = on.iter().zip(&first).all(|(on, bytes)| {
        on.is_none_or(|nanos| u128::from(*bytes) * second <= u128::from(nanos) * bandwidth)
    });
    let gives = if bounded { gives + rate(machine.home_to_device) } else { 0 };
    let giving = (u128::from(need) * second).checked_div(gives).unwrap_or(0);
    let elsewhere = Bytes(need.saturating_sub(lower.room().0)).at(machine.rate_from_files());
    let bytes = u128::from(moving.max(elsewhere.0)).max(giving);
    let work = lifetimes.tasks.iter().map(|t| u128::from(t.cost.0)).sum();
    let compute = least_time(work, 1, items(&|p| u128::from(lifetimes.tasks[p].cost.0)));
    let time = u64::try_from(bytes).unwrap_or(u64::MAX);
    Some(TimeBound { time: Nanos(time.max(compute)), by_compute: time <= compute })
}

/// The least time in which what comes at a rate and what items bring that are paid for with that time are as much as is
/// needed; items may be had in part.
fn least_time(need: u128, rate: u128, mut items: Vec<(u64, u128)>) -> u64 {
    let dearer = |a: &(u64, u128), b: &(u64, u128)| (u128::from(a.0) * b.1).cmp(&(u128::from(b.0) * a.1));
    items.retain(|(_, gain)| *gain > 0);
    items.sort_by(|a, b| dearer(a, b).then(Ordering::Equal));
    let (mut time, mut lack) = (0u64, need);
    for (price, gain) in items {
        let price_gain = rate * u128::from(price) + gain;
        if price_gain >= lack {
            return time + (lack * u128::from(price) / price_gain) as u64;
        }
        time = time.saturating_add(price);
        lack -= price_gain;
    }
    // Without a link nothing more comes.
    time.saturating_add(u64::try_from(lack.checked_div(rate).unwrap_or(0)).unwrap_or(u64::MAX))
}
