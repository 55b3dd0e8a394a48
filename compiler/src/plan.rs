//! Chooses what stays, how far ahead the rest is brought, and what is put aside, by trying and simulating.
//!
//! Reads:    lifetimes, target.
//! Decides:  a choice of residency and its program: the fastest of those tried that fits.
//! Promises: a program that fits and that the verifier accepts; or `NoRoom`, with the least that works and the task that
//!           sets it. The same input gives the same program.
//! Why:      in a loop over more weights than fit, what stays saves its bytes in every step and recency saves none, so
//!           a set of weights is pinned and the rest streams ahead through what room is left. How much look-ahead is
//!           worth its room is found by trying: window sizes double, each with as much pinned as then fits.

use crate::emit::{emit, with_facts};
use crate::layers::two_layers;
use crate::machine::{CannotPlan, Machine};
use crate::offset::{Offsets, pack};
use crate::residency::{Choice, stays};
use crate::simulate::{Timeline, timeline};
use crate::stay::{Arrival, Level, Stay, load_curve};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Bound, Kind, Mode, Program};
use berth_ir::target::Target;
use berth_ir::units::{Bytes, Nanos};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Steps that a simulation looks at: two to fill the pipeline, two to take the mean of, one between.
pub const STEPS: usize = 5;

/// Weights that wait together, at most, in the windows that are tried: about nine layers of a decoder. More of them hide
/// nothing more, and each costs as much work as it has neighbours.
const AHEAD_MAX: u64 = 64;

/// Addresses that are looked for, each time with one stay more brought late, before a choice is given up.
const REPAIRS_MAX: usize = 4;

/// What is no weight is placed apart where it takes no more than this part of the room: two per cent.
const VALUES_PART: u64 = 50;

/// Times that the interval about the best window is halved.
const REFINEMENTS: usize = 4;

/// Gaps between uses that are tried one by one; models share few weights.
const KEPT_GAPS_MAX: usize = 64;

/// A program with what it is expected to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Not proved yet: give it to the verifier.
    pub program: Program,
    /// When each instruction is expected to run.
    pub timeline: Timeline,
    /// Bytes of weights that never leave the device.
    pub resident: u64,
    /// Bytes of weights that are brought in each step.
    pub streamed: u64,
    /// Bytes of other tensors that are put aside and brought back in each step.
    pub spilled: u64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The target cannot run anything.
    #[error(transparent)]
    Machine(#[from] CannotPlan),
    /// Nothing to run.
    #[error("the model computes nothing: no operator is left once constants are worked out")]
    Empty,
    /// The device is too small.
    #[error("{0}")]
    NoRoom(Box<NoRoom>),
}

/// The least capacity that works, and what sets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// The tier that is too small.
    pub tier: String,
    /// What it has.
    pub room: u64,
    /// The least.
    pub least: Least,
}

/// The least capacity of the device that a plan was found for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Least {
    /// Bytes of the arena.
    pub bytes: u64,
    /// No plan with these tasks can do with less.
    pub bound: u64,
    /// The task at which most is held.
    pub task: String,
    /// What is held there: the task's operands first, then what else must stay, with bytes.
    pub held: Vec<(String, u64)>,
    /// Whether activations were put aside in a lower memory.
    pub spills: bool,
    /// Bytes that the lower memory needs for that.
    pub lower: u64,
}

impl std::fmt::Display for NoRoom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let least = &self.least;
        let short = least.bytes.saturating_sub(self.room);
        writeln!(f, "{} is {} too small at task `{}`", self.tier, exact(short), least.task)?;
        let held: Vec<String> =
            least.held.iter().take(6).map(|(n, b)| format!("`{n}` {}", Bytes(*b).human())).collect();
        let more = least.held.len().saturating_sub(held.len());
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        writeln!(f, "  capacity {}, needed {}: {}{more}", exact(self.room), exact(least.bytes), held.join(", "))?;
        let (tier, needed) = (&self.tier, least.bytes);
        match (least.spills, least.lower) {
            (true, 0) => write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, the least with every operand brought for its task alone"
            ),
            (true, lower) => write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, with {} of a lower memory for what is put aside",
                exact(lower)
            ),
            (false, _) => write!(
                f,
                "  help: give it `--memory {tier}={needed}B`, the least with activations staying where they are; with a lower memory (such as `--memory dram=1GiB`) they could be put aside"
            ),
        }
    }
}

/// Bytes exactly, and for people where that is another number.
fn exact(bytes: u64) -> String {
    if bytes < 1024 { format!("{bytes} B") } else { format!("{bytes} B ({})", Bytes(bytes).human()) }
}

/// A choice with its stays and addresses.
#[derive(Clone)]
struct Placed {
    stays: Vec<Stay>,
    device: Offsets,
    lower: Offsets,
}

/// A choice that fits, with what it comes to.
struct Tried {
    choice: Choice,
    placed: Placed,
    program: Program,
    timeline: Timeline,
}

/// What a planner works in: fixed for one model and target.
struct Site<'a> {
    lifetimes: &'a Lifetimes,
    machine: Machine<'a>,
    mode: Mode,
    /// The last addresses of what is no weight: most choices differ in weights alone.
    values: RefCell<Option<(Vec<Stay>, Offsets)>>,
}

/// Makes the best program found for a target.
pub fn plan(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, PlanError> {
    let site = Site::new(lifetimes, target, mode)?;
    let base = site.base().map_err(|room| PlanError::NoRoom(Box::new(room)))?;
    let mut best = site.search(&base);
    let kept = best.as_ref().map(|b| site.keep_between_uses(b.choice.clone()));
    if let Some(kept) = kept.filter(|kept| best.as_ref().is_some_and(|b| b.choice != *kept)) {
        best = site.better(best, kept);
    }
    // The base fits, and it is the first that is tried: there is a best.
    let Tried { placed, program, timeline, .. } = best.ok_or(PlanError::Empty)?;
    Ok(summary(&site, &placed.stays, program, timeline))
}

/// Makes the program of one choice; nothing where it does not fit.
pub(crate) fn plan_choice(lifetimes: &Lifetimes, target: &Target, mode: Mode, choice: &Choice) -> Option<Plan> {
    let site = Site::new(lifetimes, target, mode).ok()?;
    let placed = site.fits_in(choice, site.room())?;
    let program = site.emit(&placed);
    let timeline = timeline(target, &program, steps(mode));
    Some(summary(&site, &placed.stays, program, timeline))
}

/// Makes the program of given stays; nothing where they do not fit.
pub(crate) fn plan_stays(lifetimes: &Lifetimes, target: &Target, mode: Mode, stays: Vec<Stay>) -> Option<Plan> {
    let site = Site::new(lifetimes, target, mode).ok()?;
    let placed = site.place(stays, site.room(), false).filter(|p| p.device.height <= site.room())?;
    let program = site.emit(&placed);
    let timeline = timeline(target, &program, steps(mode));
    Some(summary(&site, &placed.stays, program, timeline))
}

/// The least capacity of the device, and the capacity at which everything stays.
pub fn extremes(lifetimes: &Lifetimes, target: &Target) -> Result<(Least, u64), PlanError> {
    let site = Site::new(lifetimes, target, Mode::Loop)?;
    let mut all = Choice::least(lifetimes);
    all.pinned = site.weights();
    let full = site.place(stays(lifetimes, &site.machine, &all), 0, false).map_or(u64::MAX, |p| p.device.height);
    Ok((site.least(), full))
}

/// The step time that nothing can beat: the engine's work, or the bytes that must come in, whichever takes longer.
pub fn bound(target: &Target, program: &Program) -> Nanos {
    let Ok(machine) = Machine::of(target) else { return Nanos(0) };
    let mut work = std::collections::BTreeMap::new();
    for task in &program.tasks {
        *work.entry(task.engine.as_str()).or_insert(0u64) += task.cost.0;
    }
    let compute = work.values().copied().max().unwrap_or(0);
    let traffic = program.facts.bounds.iter().filter_map(|b| match b {
        Bound::Traffic { bytes, tier, .. } if *tier == machine.device.name => Some(Bytes(*bytes)),
        _ => None,
    });
    let bytes = traffic.max().unwrap_or(Bytes(0));
    let moving = bytes.at(machine.rate_into_device());
    // What the lower memory cannot hold either comes from files, in every step.
    let below = machine.lower.map_or(0, |tier| tier.room().0);
    let reading = Bytes(bytes.0.saturating_sub(below)).at(machine.rate_from_files());
    Nanos(compute.max(moving.0).max(reading.0))
}

fn steps(mode: Mode) -> usize {
    match mode {
        Mode::Loop => STEPS,
        Mode::Once => 1,
    }
}

fn summary(site: &Site, stays: &[Stay], program: Program, timeline: Timeline) -> Plan {
    let lifetimes = site.lifetimes;
    let program = with_facts(site.machine.target, program);
    let weight = |s: &&Stay| lifetimes.tensor(s.tensor).kind == Kind::Weight && s.level == Level::Device;
    let bytes = |keep: &dyn Fn(&&Stay) -> bool| stays.iter().filter(|s| keep(s)).map(|s| s.bytes).sum();
    let returns = |s: &&Stay| matches!(s.arrives, Arrival::Stay { .. });
    Plan {
        resident: bytes(&|s| weight(s) && s.forever),
        streamed: bytes(&|s| weight(s) && !s.forever),
        spilled: bytes(&|s| s.level == Level::Device && !weight(s) && returns(s)),
        program,
        timeline,
    }
}

impl<'a> Site<'a> {
    fn new(lifetimes: &'a Lifetimes, target: &'a Target, mode: Mode) -> Result<Site<'a>, PlanError> {
        if lifetimes.tasks.is_empty() {
            return Err(PlanError::Empty);
        }
        Ok(Site { lifetimes, machine: Machine::of(target)?, mode, values: RefCell::new(None) })
    }

    fn weights(&self) -> Vec<bool> {
        self.lifetimes.tensors.iter().map(|t| t.kind == Kind::Weight).collect()
    }

    fn positions(&self) -> usize {
        self.lifetimes.tasks.len()
    }

    /// Addresses in both memories; nothing where the lower one is too small. Packing goes on until it is within `room`.
    /// With `apart`, weights are placed without looking at the rest where that is little: much quicker, a little higher.
    fn place(&self, stays: Vec<Stay>, room: u64, apart: bool) -> Option<Placed> {
        let at = |level: Level| stays.iter().filter(|s| s.level == level).collect::<Vec<_>>();
        let device = at(Level::Device);
        let whole = || pack(&device, self.positions(), self.machine.device.alignment, room);
        let device = if apart { self.apart(&device, room) } else { None }.unwrap_or_else(whole);
        let lower = match self.machine.lower {
            Some(tier) => {
                let lower = pack(&at(Level::Lower), self.positions(), tier.alignment, tier.room().0);
                (lower.height <= tier.room().0).then_some(lower)?
            }
            None => Offsets { at: Vec::new(), height: 0 },
        };
        Some(Placed { stays, device, lower })
    }

    /// Whether a stay is a weight's.
    fn is_weight(&self, stay: &Stay) -> bool {
        stay.arrives != Arrival::Scratch && self.lifetimes.tensor(stay.tensor).kind == Kind::Weight
    }

    /// Addresses with everything but weights above the weights, where that is next to nothing: then weights can be placed
    /// without looking at the rest, of which there is much more.
    fn apart(&self, stays: &[&Stay], room: u64) -> Option<Offsets> {
        let (weights, values): (Vec<&Stay>, Vec<&Stay>) = stays.iter().copied().partition(|s| self.is_weight(s));
        let values = self.values_apart(&values, room)?;
        let grain = self.machine.device.alignment;
        let weights = pack(&weights, self.positions(), grain, room.saturating_sub(values.height));
        let floor = weights.height.next_multiple_of(grain);
        let height = floor + values.height;
        let (mut weights, mut values) = (weights.at.into_iter(), values.at.into_iter());
        let at = stays.iter().map(|s| match self.is_weight(s) {
            true => weights.next().unwrap_or(0),
            false => floor + values.next().unwrap_or(0),
        });
        Some(Offsets { at: at.collect(), height })
    }

    /// Addresses of what is no weight, among itself; nothing where it is more than a small part of the room.
    fn values_apart(&self, values: &[&Stay], room: u64) -> Option<Offsets> {
        let mut cache = self.values.borrow_mut();
        let known = cache.as_ref().is_some_and(|(stays, _)| stays.iter().eq(values.iter().copied()));
        if !known {
            let offsets = pack(values, self.positions(), self.machine.device.alignment, 0);
            *cache = Some((values.iter().copied().cloned().collect(), offsets));
        }
        let (_, offsets) = cache.as_ref()?;
        (offsets.height <= room / VALUES_PART).then(|| offsets.clone())
    }

    /// What the device has, in whole grains of its alignment: a few bytes more change nothing.
    fn room(&self) -> u64 {
        let (room, grain) = (self.machine.device.room().0, self.machine.device.alignment);
        room / grain * grain
    }

    /// The stays of a choice with addresses, if they are quickly found to fit.
    fn fits(&self, choice: &Choice) -> Option<Placed> {
        self.fits_so(choice, self.room(), true)
    }

    /// The same for a given room, with everything placed together.
    fn fits_in(&self, choice: &Choice, room: u64) -> Option<Placed> {
        self.fits_so(choice, room, false)
    }

    /// A quick look at the load curve first.
    fn fits_so(&self, choice: &Choice, room: u64, apart: bool) -> Option<Placed> {
        let stays = stays(self.lifetimes, &self.machine, choice);
        let load = load_curve(&stays, Level::Device, self.positions(), self.machine.device.alignment);
        if load.iter().any(|l| *l > room) {
            return None;
        }
        self.repaired(stays, room, apart)
    }

    /// Addresses within a room. While there are none, what lies highest is brought later, for its task alone, a few times
    /// over: a loop of stays that each meet the next takes one place more when their number is odd.
    fn repaired(&self, mut stays: Vec<Stay>, room: u64, apart: bool) -> Option<Placed> {
        for _ in 0..REPAIRS_MAX {
            let placed = self.place(stays, room, apart)?;
            if placed.device.height <= room {
                return Some(placed);
            }
            stays = placed.stays;
            let device = stays.iter_mut().filter(|s| s.level == Level::Device);
            let early = |s: &Stay| !s.forever && s.uses.first().is_some_and(|p| s.from < *p as i64);
            let highest = device.zip(&placed.device.at).filter(|(s, _)| early(s)).max_by_key(|(s, at)| *at + s.bytes);
            let stay = highest?.0;
            stay.from = stay.uses[0] as i64;
        }
        None
    }

    /// The faster of the best so far and a choice, if that fits.
    fn better(&self, best: Option<Tried>, choice: Choice) -> Option<Tried> {
        match self.fits(&choice) {
            Some(placed) => self.faster(best, choice, placed),
            None => best,
        }
    }

    /// The faster of the best so far and a choice that fits so.
    fn faster(&self, best: Option<Tried>, choice: Choice, placed: Placed) -> Option<Tried> {
        let program = self.emit(&placed);
        let timeline = timeline(self.machine.target, &program, steps(self.mode));
        match best {
            Some(best) if best.timeline.step <= timeline.step => Some(best),
            _ => Some(Tried { choice, placed, program, timeline }),
        }
    }

    fn emit(&self, placed: &Placed) -> Program {
        emit(self.lifetimes, &self.machine, &placed.stays, &placed.device, &placed.lower, self.mode)
    }

    /// The gentlest choice that fits at all: nothing pinned, nothing ahead, as little put aside as does.
    fn base(&self) -> Result<Choice, NoRoom> {
        let no_room = || NoRoom {
            tier: self.machine.device.name.clone(),
            room: self.machine.device.room().0,
            least: self.least(),
        };
        let gentle = self.first_rung(self.room()).map(|(choice, _)| choice);
        // The rungs of this room may all miss what a rung of a smaller one hits: a small lower memory is filled otherwise.
        let least = || self.least_rung().filter(|(bytes, ..)| *bytes <= self.room()).map(|(_, choice, _)| choice);
        gentle.or_else(least).ok_or_else(no_room)
    }

    /// The first rung of the ladder that fits in a room.
    fn first_rung(&self, room: u64) -> Option<(Choice, Placed)> {
        self.ladder(room).into_iter().find_map(|choice| {
            let placed = self.fits_in(&choice, room)?;
            Some((choice, placed))
        })
    }

    /// Choices that need less and less: nothing put aside, then what is wanted last, then all but a task's operands.
    fn ladder(&self, room: u64) -> Vec<Choice> {
        let least = Choice::least(self.lifetimes);
        let mut rungs = vec![least.clone()];
        if self.machine.can_spill() {
            for percent in [100, 95, 90, 80, 65, 50, 25, 0] {
                let budget = (u128::from(room) * percent / 100) as u64;
                rungs.push(Choice { aside: self.aside(budget, false), ..least.clone() });
            }
            rungs.push(Choice { aside: self.aside(0, true), ..least });
        }
        rungs
    }

    /// Gaps to put a tensor aside in, so that at each task what stays fits a budget: those wanted last go first (Belady).
    /// With `adjacent`, also between a task and the next one.
    fn aside(&self, budget: u64, adjacent: bool) -> BTreeSet<(TensorId, usize)> {
        let uses = self.lifetimes.uses();
        let mut aside = BTreeSet::new();
        // Alive tensors: next use by index into their uses.
        let mut alive: Vec<(TensorId, usize)> = Vec::new();
        for (position, task) in self.lifetimes.tasks.iter().enumerate() {
            let mut weights = task.workspace;
            for tensor in task.operands() {
                let size = self.size(tensor);
                if self.lifetimes.tensor(tensor).kind == Kind::Weight {
                    weights += size;
                    continue;
                }
                let index = uses[tensor.index()].iter().position(|p| *p == position).unwrap_or(0);
                alive.retain(|(t, _)| *t != tensor);
                alive.push((tensor, index));
            }
            alive.retain(|(t, i)| uses[t.index()].len() > i + 1 || uses[t.index()][*i] >= position);
            let mut held: u64 = weights + alive.iter().map(|(t, _)| self.size(*t)).sum::<u64>();
            while held > budget {
                let idle = alive.iter().filter(|(t, i)| uses[t.index()][*i] < position);
                let next = |(t, i): &(TensorId, usize)| uses[t.index()].get(i + 1).copied().unwrap_or(0);
                let Some(last) = idle.max_by_key(|a| (next(a), a.0)).copied() else { break };
                aside.insert(last);
                alive.retain(|a| *a != last);
                held -= self.size(last.0);
            }
        }
        if adjacent {
            for (index, uses) in uses.iter().enumerate() {
                if self.lifetimes.tensors[index].kind != Kind::Weight {
                    aside.extend((0..uses.len().saturating_sub(1)).map(|i| (TensorId(index as u32), i)));
                }
            }
        }
        aside
    }

    fn size(&self, tensor: TensorId) -> u64 {
        self.lifetimes.tensor(tensor).bytes.next_multiple_of(self.machine.device.alignment)
    }

    /// The least room in which a rung of the ladder fits, found by halving between what one task holds, which nothing
    /// beats, and the height with nothing put aside, which always works.
    fn least_rung(&self) -> Option<(u64, Choice, Placed)> {
        let grain = self.machine.device.alignment;
        let tasks = self.lifetimes.tasks.iter();
        let held = tasks.map(|t| t.operands().map(|o| self.size(o)).sum::<u64>() + t.workspace.next_multiple_of(grain));
        let mut low = held.max().unwrap_or(0);
        if let Some((choice, placed)) = self.first_rung(low) {
            return Some((low, choice, placed));
        }
        let gentlest = Choice::least(self.lifetimes);
        let placed = self.place(stays(self.lifetimes, &self.machine, &gentlest), 0, false)?;
        let mut best = (placed.device.height, gentlest, placed);
        if !self.machine.can_spill() {
            return Some(best);
        }
        // Nothing fits in `low`; something fits in the best.
        while best.0 - low > grain {
            let middle = low + (best.0 - low) / 2 / grain * grain;
            match self.first_rung(middle) {
                Some((choice, placed)) => best = (middle, choice, placed),
                None => low = middle,
            }
        }
        Some(best)
    }

    /// The least that works, and what is held where it is reached.
    fn least(&self) -> Least {
        let Some((bytes, choice, placed)) = self.least_rung() else {
            return Least { bytes: u64::MAX, bound: 0, task: String::new(), held: Vec::new(), spills: false, lower: 0 };
        };
        let stays_put = choice.aside.is_empty();
        let load = load_curve(&placed.stays, Level::Device, self.positions(), self.machine.device.alignment);
        let position = load.iter().enumerate().rev().max_by_key(|(_, l)| **l).map_or(0, |(p, _)| p);
        let task = &self.lifetimes.tasks[position];
        let operands: Vec<TensorId> = task.operands().collect();
        let here = |s: &&Stay| {
            let p = position as i64;
            s.level == Level::Device && s.from <= p && p <= s.to
        };
        let mut held: Vec<(bool, u64, String)> = Vec::new();
        for stay in placed.stays.iter().filter(here) {
            let scratch = stay.arrives == Arrival::Scratch;
            let name = if scratch { "workspace".to_owned() } else { self.lifetimes.tensor(stay.tensor).name.clone() };
            held.push((!scratch && !operands.contains(&stay.tensor), stay.bytes, name));
        }
        held.sort_by(|a, b| (a.0, std::cmp::Reverse(a.1), &a.2).cmp(&(b.0, std::cmp::Reverse(b.1), &b.2)));
        let bound = self
            .lifetimes
            .tasks
            .iter()
            .map(|t| t.operands().map(|o| self.lifetimes.tensor(o).bytes).sum::<u64>() + t.workspace);
        Least {
            bytes,
            bound: bound.max().unwrap_or(0),
            task: task.name.clone(),
            held: held.into_iter().map(|(_, bytes, name)| (name, bytes)).collect(),
            spills: self.machine.can_spill(),
            lower: if stays_put { 0 } else { placed.lower.height },
        }
    }

    /// Tries choices, the base first: each order of pinning with each window, then windows about the best one.
    fn search(&self, base: &Choice) -> Option<Tried> {
        let mut best = self.faster(None, base.clone(), self.fits_in(base, self.room())?);
        // Once the engine never waits there is nothing to gain.
        let busy = Nanos(self.lifetimes.tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add));
        for lowered in self.lowerings(base) {
            let base = Choice { lowered, ..base.clone() };
            // Nothing pinned, as many layers ahead as fit, two at the most.
            let ahead = two_layers(self.lifetimes).into_iter().map(|window| Choice { window, ..base.clone() });
            let ahead = ahead.into_iter().find_map(|choice| Some((choice.clone(), self.fits(&choice)?)));
            if let Some((choice, placed)) = ahead {
                best = self.faster(best, choice, placed);
            }
            let orders = self.pin_orders();
            let attempt = |best: Option<Tried>, order: usize, window: u64| {
                if best.as_ref().is_some_and(|b| b.timeline.step <= busy) {
                    return (best, None);
                }
                let pinned = self.most_pinned(&Choice { window, ..base.clone() }, &orders[order]);
                let Some((choice, placed)) = pinned else { return (best, None) };
                let tried = self.faster(None, choice, placed);
                let step = tried.as_ref().map(|t| t.timeline.step);
                let faster = step < best.as_ref().map(|b| b.timeline.step) || best.is_none();
                (if faster { tried } else { best }, step)
            };
            let windows = self.windows();
            for order in 0..orders.len() {
                let mut found: Option<(Nanos, u64)> = None;
                for window in &windows {
                    let (next, step) = attempt(best, order, *window);
                    best = next;
                    if let Some(step) = step.filter(|step| found.is_none_or(|(least, _)| *step < least)) {
                        found = Some((step, *window));
                    }
                }
                // Half way to the neighbours of the fastest, then half of that, and so on.
                let Some((mut least, mut window)) = found else { continue };
                let below = windows.iter().rev().find(|w| **w < window).copied().unwrap_or(0);
                let above = windows.iter().find(|w| **w > window).copied().unwrap_or(window);
                let (mut down, mut up) = ((window - below) / 2, (above - window) / 2);
                for _ in 0..REFINEMENTS {
                    for next in [window.saturating_sub(down), window.saturating_add(up)] {
                        let (tried, step) = attempt(best, order, next);
                        best = tried;
                        if let Some(step) = step.filter(|step| *step < least) {
                            (least, window) = (step, next);
                        }
                    }
                    (down, up) = (down / 2, up / 2);
                }
            }
        }
        best
    }

    /// Which weights are kept in the lower memory: none, or as many as it has room for beside what is put aside.
    fn lowerings(&self, base: &Choice) -> Vec<Vec<bool>> {
        let none = base.lowered.clone();
        let faster = match (self.machine.lower_to_device, self.machine.home_to_device) {
            (Some(lower), Some(home)) => lower.present_rate() > home.present_rate(),
            _ => false,
        };
        let (Some(tier), true, Some(placed)) = (self.machine.lower, faster, self.fits_in(base, self.room())) else {
            return vec![none];
        };
        let mut room = tier.room().0.saturating_sub(placed.lower.height);
        let mut some = none.clone();
        let total = |kept: &[bool]| kept.iter().filter(|k| **k).count();
        // The last to be pinned are the first to be streamed: keep those below.
        for tensor in self.spread_order().into_iter().rev() {
            let size = self.lifetimes.tensors[tensor].bytes.next_multiple_of(tier.alignment);
            if size <= room {
                room -= size;
                some[tensor] = true;
            }
        }
        if total(&some) == 0 { vec![none] } else { vec![none, some] }
    }

    /// Look-ahead windows in bytes: none, doubling from the largest weight up to what there is, two layers.
    fn windows(&self) -> Vec<u64> {
        let sizes = self.lifetimes.tensors.iter().filter(|t| t.kind == Kind::Weight).map(|t| t.bytes);
        let largest = sizes.clone().max().unwrap_or(0);
        let all: u64 = sizes.sum();
        let mean = all / self.lifetimes.tensors.iter().filter(|t| t.kind == Kind::Weight).count().max(1) as u64;
        let mut windows = vec![0];
        let mut window = largest.max(1);
        for extra in [mean * 2, mean * 4] {
            windows.push(largest + extra);
        }
        // One and two of the weights that make up most of the bytes: while one is used, the next comes.
        let bulk = self.bulk();
        windows.extend([bulk, bulk.saturating_mul(2), bulk.saturating_mul(3)]);
        while window <= all.min(self.room()).min(mean.saturating_mul(AHEAD_MAX)) {
            window = window.saturating_mul(2);
            windows.push(window);
        }
        windows.extend(two_layers(self.lifetimes).first());
        windows.sort_unstable();
        // A window within an eighth of another tells nothing new.
        windows.dedup_by(|later, earlier| *later - *earlier < *earlier / 8);
        windows
    }

    /// The size of weight in which the middle byte of all weights lies.
    fn bulk(&self) -> u64 {
        let weights = self.lifetimes.tensors.iter().filter(|t| t.kind == Kind::Weight);
        let mut sizes: Vec<u64> = weights.map(|t| t.bytes).collect();
        sizes.sort_unstable();
        let half = sizes.iter().map(|b| u128::from(*b)).sum::<u128>() / 2;
        let mut sum = 0;
        let at = sizes.iter().position(|b| {
            sum += u128::from(*b);
            sum > half
        });
        at.map_or(0, |at| sizes[at])
    }

    /// Orders in which weights are pinned: evenly spread and as they come, those first whose copy costs its latency
    /// alone; and the largest first.
    fn pin_orders(&self) -> Vec<Vec<usize>> {
        let spread = self.spread_order();
        let mut largest = spread.clone();
        largest.sort_by_key(|t| std::cmp::Reverse(self.lifetimes.tensors[*t].bytes));
        let mut last = spread.clone();
        last.sort_unstable();
        vec![self.small_first(spread), self.small_first(last), largest]
    }

    fn small_first(&self, mut order: Vec<usize>) -> Vec<usize> {
        let link = self.machine.home_to_device.or(self.machine.lower_to_device);
        let small = link.map_or(0, |l| {
            (u128::from(l.present_rate().0) * u128::from(l.latency.0 + l.submit.0) / 1_000_000_000) as u64
        });
        // Of the others, what no file holds is made again as fast as the memory takes it: it stays last.
        let filled = |t: usize| self.lifetimes.tensors[t].home.as_ref().is_some_and(|h| h.filled.is_some());
        order.sort_by_key(|t| (self.lifetimes.tensors[*t].bytes > small, filled(*t)));
        order
    }

    /// Weights in an order of which every prefix is spread evenly over the step's bytes: by the fractional parts of
    /// multiples of the golden ratio (Weyl's sequence).
    fn spread_order(&self) -> Vec<usize> {
        let uses = self.lifetimes.uses();
        let weight = |t: &usize| self.lifetimes.tensors[*t].kind == Kind::Weight && !uses[*t].is_empty();
        let mut weights: Vec<usize> = (0..uses.len()).filter(weight).collect();
        weights.sort_by_key(|t| (uses[*t][0], *t));
        let mut keyed: Vec<(u64, usize)> = weights
            .into_iter()
            .enumerate()
            .map(|(n, t)| ((n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), t))
            .collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, t)| t).collect()
    }

    /// The choice with as many weights pinned, in this order, as fit; then whatever else fits.
    fn most_pinned(&self, choice: &Choice, order: &[usize]) -> Option<(Choice, Placed)> {
        let with = |count: usize| {
            let mut pinned = choice.pinned.clone();
            order[..count].iter().for_each(|t| pinned[*t] = true);
            Choice { pinned, ..choice.clone() }
        };
        let fits_load = |choice: &Choice| self.height(&stays(self.lifetimes, &self.machine, choice));
        let under = |c: &Choice| fits_load(c).unwrap_or(0) <= self.room();
        // The load grows with each weight pinned (its stay lengthens), so the most that fits is found by halving.
        let (mut low, mut high) = (0, order.len());
        if !under(&with(0)) {
            return None;
        }
        while low < high {
            let middle = (low + high).div_ceil(2);
            if under(&with(middle)) { low = middle } else { high = middle - 1 }
        }
        // Fragments may cost a little more: step back in growing strides until addresses are found too.
        let mut stride = 1;
        let mut placed = loop {
            if let Some(placed) = self.fits(&with(low)) {
                break placed;
            }
            if low == 0 {
                return None;
            }
            low = low.saturating_sub(stride);
            stride *= 2;
        };
        let mut best = with(low);
        // Smaller ones may still fit in what is left: by load, then checked once.
        let mut more = best.clone();
        let mut slack = self.room() - fits_load(&best)?.min(self.room());
        for tensor in &order[low..] {
            let size = self.size(TensorId(*tensor as u32));
            if size <= slack {
                more.pinned[*tensor] = true;
                slack -= size;
            }
        }
        if more != best
            && let Some(fits) = self.fits(&more)
        {
            (best, placed) = (more, fits);
        }
        Some((best, placed))
    }

    /// The least height that the device could have: the highest load, with what is no weight apart where it would be.
    fn height(&self, all: &[Stay]) -> Option<u64> {
        let highest = |stays: &[Stay]| {
            let load = load_curve(stays, Level::Device, self.positions(), self.machine.device.alignment);
            load.into_iter().max()
        };
        let device = || all.iter().filter(|s| s.level == Level::Device);
        let values: Vec<&Stay> = device().filter(|s| !self.is_weight(s)).collect();
        match self.values_apart(&values, self.room()) {
            None => highest(all),
            Some(values) => {
                let weights: Vec<Stay> = device().filter(|s| self.is_weight(s)).cloned().collect();
                Some(highest(&weights)? + values.height)
            }
        }
    }

    /// Keeps weights with several uses from one use to the next where that fits, the shortest gaps first.
    fn keep_between_uses(&self, mut choice: Choice) -> Choice {
        let mut gaps = Vec::new();
        for (index, uses) in self.lifetimes.uses().iter().enumerate() {
            if self.lifetimes.tensors[index].kind == Kind::Weight && !choice.pinned[index] {
                let pairs = uses.windows(2).enumerate();
                gaps.extend(pairs.map(|(i, pair)| (pair[1] - pair[0], TensorId(index as u32), i)));
            }
        }
        gaps.sort_unstable();
        for (_, tensor, i) in gaps.into_iter().take(KEPT_GAPS_MAX) {
            choice.kept.insert((tensor, i));
            if self.fits(&choice).is_none() {
                choice.kept.remove(&(tensor, i));
            }
        }
        choice
    }
}
