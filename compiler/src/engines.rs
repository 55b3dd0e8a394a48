//! Chooses which tasks the engine of the lower memory runs, beside the device: the host's cores where the weights lie.
//!
//! Reads:    lifetimes with what each task takes on that engine, machine.
//! Decides:  the engine of each task: the fastest of some assignments that are planned and simulated.
//! Promises: no assignment but one that fits and was simulated.
//! Why:      a weight that does not stay on the device crosses the link, or is read where it lies by cores that the lower
//!           memory feeds faster than the link (FlexGen, PowerInfer and KTransformers compute there what it holds). A
//!           crossing of values costs tens of microseconds, so whole stretches between narrow cuts of the graph move;
//!           spread evenly, as the link goes on bringing weights for the device while the cores compute.

use crate::assign::{cheapest, crossings};
use crate::least_step::{first_users, weights};
use crate::machine::Machine;
use crate::residency::Choice;
use crate::share::LEAST_PART;
use crate::site::{Site, Tried};
use berth_ir::lifetime::{Lifetimes, Task};
use berth_ir::program::Kind;
use berth_ir::target::Link;
use berth_ir::units::Bytes;
use std::cell::Cell;
use std::collections::BTreeSet;

/// A unit has no more than this part of all weights, where single tasks do not have more: a finer split balances better.
const UNIT_PART_MAX: u64 = 24;

/// A unit has at least this part of all weights: each costs a crossing there and back.
const UNIT_PART_MIN: u64 = 64;

/// Choices that a search may try to one assignment: each is planned with a few windows.
const TRIED_PART: usize = 4;

/// A model with at most so many tasks is small.
const SMALL_MAX: usize = 200;

/// Single tasks of a small model that are tried on the other engine; of one with so few tasks all are.
const TURNS: usize = 64;
const TURNED_ALL: usize = 16;

/// Times that the interval about the best window is halved.
const REFINEMENTS: usize = 2;

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
    Last,
}

/// The engine of the lower memory, where it may run tasks. Not where a tensor is written again: stays of both memories hold
/// one version of what they share.
pub(crate) fn second<'t>(lifetimes: &Lifetimes, machine: &Machine<'t>) -> Option<&'t str> {
    let runs = |engine: &&str| lifetimes.tasks.iter().any(|t| t.on(engine).is_some());
    let engine = machine.host.filter(|_| machine.can_spill()).filter(runs)?;
    lifetimes.rewrites().iter().all(<[usize]>::is_empty).then_some(engine)
}

/// The best assignment found that uses the engine of the lower memory; nothing where there is none that may run tasks, or
/// nothing fits. The lifetimes have the costs of the engines assigned.
pub(crate) fn split(site: &Site) -> Option<(Lifetimes, Tried)> {
    let (lifetimes, machine) = (site.lifetimes, &site.machine);
    let engine = second(lifetimes, machine)?;
    let (units, rows) = (units(lifetimes, machine, engine)?, rows(lifetimes, machine, engine));
    let link = machine.lower_to_device?;
    // On a small model units are tried too that cost more than their copies would: those may hold up others.
    let most = if lifetimes.tasks.len() <= SMALL_MAX { 2 } else { 1 };
    let (mut best, mut before) = (None, usize::MAX);
    for times in 1..=most {
        let moving = |u: &&Unit| Bytes(u.bytes).at(machine.rate_along(link)).0.saturating_add(u.device);
        let worth = |u: &&Unit| u.host.is_some_and(|host| host < moving(u).saturating_mul(times));
        let worth: Vec<Unit> = units.iter().filter(worth).copied().collect();
        if worth.len() == before {
            break;
        }
        before = worth.len();
        let cheapest = if times == 1 { cheapest(lifetimes, machine, engine) } else { Vec::new() };
        let search = Split { site, engine, rows: rows.clone(), worth, cheapest, left: Cell::new(site.choices()) };
        keep(&mut best, search.best(search.predicted(link)));
    }
    best
}

/// Lifetimes with the costs of the engines that tasks are assigned to.
pub(crate) fn assigned(lifetimes: &Lifetimes, engine: &str, host: &[bool]) -> Lifetimes {
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
    /// Assignments of single tasks.
    cheapest: Vec<Vec<bool>>,
    /// Choices that may still be tried.
    left: Cell<usize>,
}

impl Split<'_, '_> {
    /// Climbs from a number of units, spread, to better ones, in strides that halve; beside it the fewest of the last that
    /// leave nothing to stream, as a static split of layers has it. Then looks closer at the best of them.
    fn best(&self, start: usize) -> Option<(Lifetimes, Tried)> {
        let all = self.worth.len();
        let mut best: Option<(Lifetimes, Tried)> = None;
        let mut known = BTreeSet::from([start]);
        let mut at = start;
        keep(&mut best, self.tried(&self.host(Way::Spread, start)));
        // Of the largest models a few assignments.
        let most = (self.site.choices() / TRIED_PART).max(1);
        let mut stride = all / 4;
        while stride > 0 {
            for next in [at.saturating_sub(stride), (at + stride).min(all)] {
                if known.len() <= most
                    && known.insert(next)
                    && keep(&mut best, self.tried(&self.host(Way::Spread, next)))
                {
                    at = next;
                }
            }
            stride /= 2;
        }
        for count in self.static_split().into_iter().take(most) {
            keep(&mut best, self.tried(&self.host(Way::Last, count)));
        }
        let all_tasks = self.site.lifetimes.tasks.len();
        for host in self.cheapest.iter().take(most) {
            keep(&mut best, self.tried(host));
        }
        if all_tasks <= SMALL_MAX {
            self.turned(&mut best);
        }
        let (lifetimes, tried) = best?;
        self.closer(&lifetimes, tried)
    }

    /// The faster of an assignment and those with one task more or less on the device, of tasks that stand between the two
    /// engines, as long as that helps.
    fn turned(&self, best: &mut Option<(Lifetimes, Tried)>) {
        let lifetimes = self.site.lifetimes;
        let Some(mut host) = best.as_ref().map(|best| best.1.choice.host.clone()) else { return };
        let (count, mut position, mut since, mut left) = (host.len(), 0, 0, TURNS);
        while since < count && left > 0 {
            let p = position % count;
            (position, since) = (position + 1, since + 1);
            let beside = p > 0 && host[p - 1] != host[p] || p + 1 < count && host[p + 1] != host[p];
            if (beside || count <= TURNED_ALL) && lifetimes.tasks[p].on(self.engine).is_some() {
                left -= 1;
                host[p] = !host[p];
                if keep(best, self.tried(&host)) {
                    since = 0;
                } else {
                    host[p] = !host[p];
                }
            }
        }
    }

    /// The same assignment with windows about the one that was best, and weights kept between their uses.
    fn closer(&self, lifetimes: &Lifetimes, tried: Tried) -> Option<(Lifetimes, Tried)> {
        let site = self.site.of(lifetimes, &tried.choice.host).ok()?;
        let base = Choice { pinned: vec![false; lifetimes.tensors.len()], ..tried.choice.clone() };
        if self.worth.is_empty() {
            // There was nothing to choose but this: it is looked at as the device alone is.
            let base = Choice { window: 0, ..base };
            let best = site.search(&base, site.fits_in(&base, site.room())?, site.lowerings(&base))?;
            return Some((lifetimes.clone(), site.improved(site.kept(best)?)));
        }
        let order = site.pin_orders().swap_remove(0);
        let mut best = tried;
        let mut stride = best.choice.window / 4;
        for _ in 0..REFINEMENTS {
            let window = best.choice.window;
            for window in [window.saturating_sub(stride), window.saturating_add(stride)] {
                if self.left.get() > 0
                    && !best.is_enough(&site)
                    && let Some((choice, placed)) = site.most_pinned(&Choice { window, ..base.clone() }, &order)
                {
                    best = site.faster(Some(best), choice, placed)?;
                }
            }
            stride /= 2;
        }
        Some((lifetimes.clone(), site.improved(site.kept(best)?)))
    }

    /// Numbers of units without which all weights fit into the device: the fewest, and one more for what else is there.
    fn static_split(&self) -> Vec<usize> {
        let mut left = weights(self.site.lifetimes, Some(self.engine));
        let room = self.site.room();
        let mut count = 0;
        for unit in self.worth.iter().rev() {
            if left <= room {
                break;
            }
            left = left.saturating_sub(unit.bytes);
            count += 1;
        }
        (count..=self.worth.len()).take(2).filter(|count| *count > 0).collect()
    }

    /// By position, whether the lower memory's engine runs the task.
    fn host(&self, way: Way, count: usize) -> Vec<bool> {
        let mut host = vec![false; self.site.lifetimes.tasks.len()];
        self.rows.iter().for_each(|p| host[*p] = true);
        let all = self.worth.len();
        for (n, unit) in self.worth.iter().enumerate() {
            let chosen = match way {
                Way::Spread => (n + 1) * count / all > n * count / all,
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
        let least = site.least_choice();
        let base = if site.fits(&least).is_some() { least } else { site.first_rung(site.room())?.0 };
        // What comes in the longest time that the cores take.
        let (mut longest, mut run) = (0u64, 0u64);
        for (task, host) in lifetimes.tasks.iter().zip(host) {
            run = if *host { run.saturating_add(task.cost.0) } else { 0 };
            longest = longest.max(run);
        }
        let rate = u128::from(site.machine.rate_into_device().0);
        let brought = u64::try_from(rate * u128::from(longest) / 1_000_000_000).unwrap_or(u64::MAX);
        let order = site.pin_orders().swap_remove(0);
        let bulk = site.lifetimes.bulk();
        let mut best = None;
        // Where there are several memories below, what the cores do not read may come out of another.
        let bases = if site.machine.further.is_empty() { vec![base.lowered.clone()] } else { site.lowerings(&base) };
        let windows = [bulk.saturating_mul(2), bulk, bulk.saturating_mul(2).saturating_add(brought)];
        for (lowered, window) in bases.iter().flat_map(|lowered| windows.map(|window| (lowered, window))) {
            let choice = Choice { window, lowered: lowered.clone(), ..base.clone() };
            let placed = site.most_pinned(&choice, &order);
            best = placed.and_then(|(choice, placed)| site.faster(best.take(), choice, placed)).or(best);
            self.left.set(self.left.get().saturating_sub(1));
            // At least one of each assignment.
            if self.left.get() == 0 || best.as_ref().is_some_and(|tried| tried.is_enough(&site)) {
                break;
            }
        }
        Some((lifetimes, best?))
    }

    /// The number of units that a flow of bytes balances: what the cores do not read crosses the link, and they and the
    /// device take turns.
    fn predicted(&self, link: &Link) -> usize {
        let (lifetimes, machine) = (self.site.lifetimes, &self.site.machine);
        let rate = machine.rate_along(link);
        let bandwidth = machine.lower.map_or(0, |t| t.bandwidth.0).max(1);
        let slowed = |host: u64| {
            let left = bandwidth.saturating_sub(rate.0).max(bandwidth / LEAST_PART).max(1);
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

/// Keeps the faster of the best so far and another; whether that is the other.
fn keep(best: &mut Option<(Lifetimes, Tried)>, other: Option<(Lifetimes, Tried)>) -> bool {
    let Some(other) = other else { return false };
    let faster = best.as_ref().is_none_or(|best| other.1.timeline.step < best.1.timeline.step);
    if faster {
        *best = Some(other);
    }
    faster
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
    let first = first_users(lifetimes, None, |_| true);
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
