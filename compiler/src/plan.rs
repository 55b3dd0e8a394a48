//! Chooses what stays, how far ahead the rest is brought, and what is put aside, by trying and simulating.
//!
//! Reads:    lifetimes, target.
//! Decides:  a choice of residency and its program: the fastest of those tried that fits.
//! Promises: a program that fits and that the verifier accepts; or `NoRoom`, with the least that works and the task that
//!           sets it. The same input gives the same program.
//! Why:      in a loop over more weights than fit, what stays saves its bytes in every step and recency saves none, so
//!           a set of weights is pinned and the rest streams ahead through what room is left. How much look-ahead is
//!           worth its room is found by trying: window sizes double, each with as much pinned as then fits.

use crate::below::STAGES;
use crate::bound::{TimeBound, bound};
use crate::emit::{Emitter, with_facts};
use crate::engines;
use crate::layers::two_layers;
use crate::machine::{CannotPlan, Machine};
use crate::offset::{Offsets, pack};
use crate::pinning::Pinning;
use crate::residency::{Choice, stays};
use crate::room::{Least, NoRoom};
use crate::simulate::{Timeline, timeline};
use crate::stay::{Arrival, Level, Stay, load_curve};
use crate::stream::{Streamed, early, place, streams};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Home, Kind, Mode, Program};
use berth_ir::target::Target;
use berth_ir::units::{BytesPerSec, Nanos};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Steps that a simulation looks at: two to fill the pipeline, one between, two to take the mean of, one behind them.
pub const STEPS: usize = 6;

/// The least room for what comes early, as a part of a typical weight, and how many times it is doubled at most.
const LEAD_PART: u64 = 64;
const WINDOWS_MAX: usize = 14;

/// Addresses that are looked for, each time with one stay more brought late, before a choice is given up.
const REPAIRS_MAX: usize = 4;

/// A step in which nothing computes for less than this part of it is not looked at further.
const IDLE_PART: u64 = 400;

/// Times that the interval about the best window is halved.
const REFINEMENTS: usize = 4;

/// Times that the most look-ahead that fits is halved towards.
const HALVINGS: usize = 10;

/// Times that the least room is looked for from the bottom again.
const LEAST_ROUNDS: usize = 8;

/// Tasks that are placed and simulated in one search, counted again for each choice that is tried: some hundred choices of
/// a model of a thousand tasks, a few of one of a hundred thousand.
const SEARCH_WORK: usize = 800_000;

/// Choices that are tried of the largest models all the same.
const TRIED_MIN: usize = 4;

/// Weights of which a part is tried to be held.
const PARTLY_MAX: usize = 8;

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
    /// Bytes of weights that the engine of the lower memory uses where they lie.
    pub below: u64,
    /// What no program with these tasks beats, whichever engines that may run them do.
    pub bound: TimeBound,
    /// What it was made of.
    pub(crate) choice: Choice,
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

/// A choice with its stays and addresses.
#[derive(Clone)]
pub(crate) struct Placed {
    stays: Vec<Stay>,
    device: Offsets,
    lower: Offsets,
}

/// A choice that fits, with what it comes to.
pub(crate) struct Tried {
    pub choice: Choice,
    pub placed: Placed,
    pub timeline: Timeline,
}

impl Tried {
    /// Whether pinning otherwise has nothing to gain: some engine computes all but always, or no weight comes to the device in a
    /// step.
    pub fn is_enough(&self, site: &Site) -> bool {
        let moves = |s: &Stay| s.level == Level::Device && !s.forever && site.is_weight(s);
        self.timeline.idle.0 <= self.timeline.step.0 / IDLE_PART || !self.placed.stays.iter().any(moves)
    }
}

/// What a planner works in: fixed for one model, target and assignment of tasks to engines.
pub(crate) struct Site<'a> {
    pub lifetimes: &'a Lifetimes,
    pub machine: Machine<'a>,
    pub mode: Mode,
    /// By position: the engine of the lower memory runs the task.
    pub host: Vec<bool>,
    /// The last addresses of what is no weight: most choices differ in weights alone.
    values: RefCell<Option<(Vec<Stay>, Offsets)>>,
}

/// Makes the best program found for a target: with tasks on the engine of the lower memory too, where that is faster than
/// all of them on the device.
pub fn plan(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, PlanError> {
    let site = Site::new(lifetimes, target, mode)?;
    let split = engines::split(&site);
    // No plan with all tasks on the device beats the bound of those: a split that does need not be compared.
    let least = engines::alone(lifetimes, &site.machine);
    let alone = match &split {
        Some((_, split)) if mode == Mode::Loop && split.timeline.step < least => None,
        _ => Some(site.alone()),
    };
    let mut plan = match (alone, split) {
        (Some(Ok(alone)), Some((_, split))) if alone.timeline.step <= split.timeline.step => summary(&site, alone),
        (_, Some((assigned, split))) => summary(&Site::new(&assigned, target, mode)?, split),
        (Some(alone), None) => summary(&site, alone?),
        (None, None) => return Err(PlanError::Empty),
    };
    plan.bound = engines::bound(lifetimes, &site.machine, mode).unwrap_or(plan.bound);
    Ok(plan)
}

/// Makes the program of one choice; nothing where it does not fit.
pub(crate) fn plan_choice(lifetimes: &Lifetimes, target: &Target, mode: Mode, choice: &Choice) -> Option<Plan> {
    let site = Site::new(lifetimes, target, mode).ok()?;
    let placed = site.fits_in(choice, site.room())?;
    Some(site.planned(choice.clone(), placed))
}

/// Makes the program of given stays; nothing where they do not fit.
pub(crate) fn plan_stays(lifetimes: &Lifetimes, target: &Target, mode: Mode, stays: Vec<Stay>) -> Option<Plan> {
    let site = Site::new(lifetimes, target, mode).ok()?;
    let placed = site.place(stays, site.room()).filter(|p| p.device.height <= site.room())?;
    Some(site.planned(Choice::least(lifetimes), placed))
}

/// The least capacity of the device, and the capacity at which everything stays.
pub fn extremes(lifetimes: &Lifetimes, target: &Target) -> Result<(Least, u64), PlanError> {
    let site = Site::new(lifetimes, target, Mode::Loop)?;
    let mut all = Choice::least(lifetimes);
    all.pinned = site.weights();
    let full = site.place(stays(lifetimes, &site.machine, &all), 0).map_or(u64::MAX, |p| p.device.height);
    Ok((site.least(), full))
}

fn steps(mode: Mode) -> usize {
    match mode {
        Mode::Loop => STEPS,
        Mode::Once => 1,
    }
}

fn summary(site: &Site, tried: Tried) -> Plan {
    let (lifetimes, stays) = (site.lifetimes, &tried.placed.stays);
    let program = site.emitter(&tried.choice.host, &tried.placed).program(site.mode);
    let program = with_facts(site.machine.target, program);
    let weight = |s: &&Stay| s.arrives != Arrival::Scratch && lifetimes.tensor(s.tensor).kind == Kind::Weight;
    let bytes = |keep: &dyn Fn(&&Stay) -> bool| stays.iter().filter(|s| keep(s)).map(|s| s.bytes).sum();
    let device = |s: &&Stay| s.level == Level::Device;
    // What comes back from where only copies use it was put there by the device.
    let returns = |s: &&Stay| match s.arrives {
        Arrival::Stay { from, .. } => stays[from].uses.is_empty(),
        _ => false,
    };
    Plan {
        resident: bytes(&|s| device(s) && weight(s) && s.forever),
        streamed: bytes(&|s| device(s) && weight(s) && !s.forever),
        spilled: bytes(&|s| device(s) && !weight(s) && returns(s)),
        below: bytes(&|s| !device(s) && weight(s) && !s.uses.is_empty()),
        bound: bound(site.machine.target, &program),
        program,
        timeline: tried.timeline,
        choice: tried.choice,
    }
}

impl<'a> Site<'a> {
    pub fn new(lifetimes: &'a Lifetimes, target: &'a Target, mode: Mode) -> Result<Site<'a>, PlanError> {
        if lifetimes.tasks.is_empty() {
            return Err(PlanError::Empty);
        }
        let host = vec![false; lifetimes.tasks.len()];
        Ok(Site { lifetimes, machine: Machine::of(target)?, mode, host, values: RefCell::new(None) })
    }

    /// The same place with tasks on the engines that they are assigned to.
    pub fn of<'b>(&self, lifetimes: &'b Lifetimes, host: &[bool]) -> Result<Site<'b>, PlanError>
    where
        'a: 'b,
    {
        Ok(Site { host: host.to_vec(), ..Site::new(lifetimes, self.machine.target, self.mode)? })
    }

    /// The choice that needs least, but for what is put aside.
    pub fn least_choice(&self) -> Choice {
        Choice { host: self.host.clone(), ..Choice::least(self.lifetimes) }
    }

    /// The best found with all tasks on the device.
    fn alone(&self) -> Result<Tried, PlanError> {
        let base = self.base().map_err(|room| PlanError::NoRoom(Box::new(room)))?;
        // The base fits, and it is the first that is tried: there is a best.
        let best = self.search(&base).and_then(|best| self.kept(best));
        best.map(|best| self.hold_a_part(self.improved(best))).ok_or(PlanError::Empty)
    }

    /// The faster of what was found and the same with weights kept between their uses.
    pub fn kept(&self, best: Tried) -> Option<Tried> {
        let kept = self.keep_between_uses(best.choice.clone());
        if kept == best.choice { Some(best) } else { self.better(Some(best), kept) }
    }

    /// A choice as a plan.
    fn planned(&self, choice: Choice, placed: Placed) -> Plan {
        let timeline = self.timeline(&choice, &placed);
        summary(self, Tried { choice, placed, timeline })
    }

    /// How many choices a search may try.
    pub fn choices(&self) -> usize {
        (SEARCH_WORK / self.positions()).max(TRIED_MIN)
    }

    fn weights(&self) -> Vec<bool> {
        self.lifetimes.tensors.iter().map(|t| t.kind == Kind::Weight).collect()
    }

    fn positions(&self) -> usize {
        self.lifetimes.tasks.len()
    }

    /// Addresses in both memories, all stays together; nothing where the lower one is too small. Packing goes on until it
    /// is within `room`.
    fn place(&self, stays: Vec<Stay>, room: u64) -> Option<Placed> {
        let device: Vec<&Stay> = stays.iter().filter(|s| s.level == Level::Device).collect();
        let device = pack(&device, self.positions(), self.machine.device.alignment, room);
        let lower = self.lower(&stays)?;
        Some(Placed { stays, device, lower })
    }

    /// Addresses in the lower memory; nothing where it is too small.
    pub fn lower(&self, stays: &[Stay]) -> Option<Offsets> {
        let Some(tier) = self.machine.lower else { return Some(Offsets { at: Vec::new(), height: 0 }) };
        let here = || stays.iter().filter(|s| s.level == Level::Lower);
        let kept: Vec<&Stay> = here().filter(|s| !s.stage).collect();
        let Offsets { at, mut height } = pack(&kept, self.positions(), tier.alignment, tier.room().0);
        // Above what never leaves lies what is on its way to the device before the first step, in turns.
        let size = |s: &Stay| s.bytes.next_multiple_of(tier.alignment);
        let slot = here().filter(|s| s.stage).map(size).max().unwrap_or(0);
        let floor: u64 = kept.iter().filter(|s| s.forever).map(|s| size(s)).sum();
        let (mut at, mut stages) = (at.into_iter(), 0);
        let all = here().map(|s| {
            if s.stage {
                let offset = floor + slot * (stages % STAGES) as u64;
                (stages, height) = (stages + 1, height.max(offset + s.bytes));
                return offset;
            }
            at.next().unwrap_or(0)
        });
        let at = all.collect();
        (height <= tier.room().0).then_some(Offsets { at, height })
    }

    /// Addresses for a choice: what never leaves lies below, then what tasks write, and what streams goes where it can be
    /// brought soonest.
    pub fn fits(&self, choice: &Choice) -> Option<Placed> {
        self.fits_at(choice, None)
    }

    /// The same with addresses chosen as if links to the device had another rate.
    pub fn fits_at(&self, choice: &Choice, pace: Option<BytesPerSec>) -> Option<Placed> {
        let stays = stays(self.lifetimes, &self.machine, &Choice { window: 0, ..choice.clone() });
        let (room, grain) = (self.room(), self.machine.device.alignment);
        let load = load_curve(&stays, Level::Device, self.positions(), grain);
        if load.iter().any(|l| *l > room) {
            return None;
        }
        let mut at = vec![0; stays.len()];
        let mut floor = 0u64;
        let never_leave = |s: &Stay| s.forever && s.level == Level::Device;
        // What stays in part lies highest: the rest of it comes behind.
        for parts in [false, true] {
            let here = stays.iter().zip(&mut at).filter(|(s, _)| never_leave(s) && s.part.is_some() == parts);
            for (stay, at) in here {
                *at = floor;
                floor += stay.bytes.next_multiple_of(grain);
            }
        }
        let rest = stays.iter().zip(&mut at).filter(|(s, _)| streams(s) && s.part.is_some());
        rest.for_each(|(_, at)| *at = floor);
        let own = |s: &&Stay| s.level == Level::Device && !s.forever && !streams(s);
        let values = self.values(&stays.iter().filter(own).collect::<Vec<_>>());
        if floor + values.height > room {
            return None;
        }
        // Out of the way of what streams: down from the top.
        let moves = stays.iter().any(streams);
        let placed = stays.iter().zip(&mut at).filter(|(s, _)| own(s));
        for ((stay, at), offset) in placed.zip(&values.at) {
            *at = if moves { room - offset - stay.bytes.next_multiple_of(grain) } else { floor + offset };
        }
        let lower = self.lower(&stays)?;
        let streamed = match moves {
            true => place(self.lifetimes, &self.machine, &stays, at, floor..room, pace)?,
            false => Streamed { stays, at, step: 0 },
        };
        Some(self.placed(streamed, lower))
    }

    /// Addresses of what tasks and the caller write, among itself.
    fn values(&self, values: &[&Stay]) -> Offsets {
        let mut cache = self.values.borrow_mut();
        if let Some((stays, offsets)) = cache.as_ref()
            && stays.iter().eq(values.iter().copied())
        {
            return offsets.clone();
        }
        let offsets = pack(values, self.positions(), self.machine.device.alignment, 0);
        *cache = Some((values.iter().copied().cloned().collect(), offsets.clone()));
        offsets
    }

    /// Whether a stay is a weight's.
    fn is_weight(&self, stay: &Stay) -> bool {
        stay.arrives != Arrival::Scratch && self.lifetimes.tensor(stay.tensor).kind == Kind::Weight
    }

    /// What the device has, in whole grains of its alignment: a few bytes more change nothing.
    pub fn room(&self) -> u64 {
        let (room, grain) = (self.machine.device.room().0, self.machine.device.alignment);
        room / grain * grain
    }

    /// The stays of a choice with everything placed together, if they fit in a room. A quick look at the load first.
    fn fits_in(&self, choice: &Choice, room: u64) -> Option<Placed> {
        let stays = stays(self.lifetimes, &self.machine, choice);
        let load = load_curve(&stays, Level::Device, self.positions(), self.machine.device.alignment);
        if load.iter().any(|l| *l > room) {
            return None;
        }
        self.repaired(stays, room)
    }

    /// The same in the room that there is, and each as early as its address allows. Denser than what is placed as it
    /// streams, and slower.
    fn fits_together(&self, choice: &Choice) -> Option<Placed> {
        let Placed { stays, device, lower } = self.fits_in(choice, self.room())?;
        let mut offsets = device.at.iter();
        let next = |s: &Stay| if s.level == Level::Device { offsets.next().copied() } else { None };
        let at: Vec<u64> = stays.iter().map(next).map(|at| at.unwrap_or(0)).collect();
        let streamed = early(self.lifetimes, &self.machine, &stays, at)?;
        Some(self.placed(streamed, lower))
    }

    pub fn placed(&self, streamed: Streamed, lower: Offsets) -> Placed {
        let Streamed { stays, at, .. } = streamed;
        let device = stays.iter().zip(&at).filter(|(s, _)| s.level == Level::Device);
        let height = device.clone().map(|(s, at)| at + s.bytes).max().unwrap_or(0);
        let device = Offsets { at: device.map(|(_, at)| *at).collect(), height };
        Placed { stays, device, lower }
    }

    /// Addresses within a room. While there are none, what lies highest is brought later, for its task alone, a few times
    /// over: a loop of stays that each meet the next takes one place more when their number is odd.
    fn repaired(&self, mut stays: Vec<Stay>, room: u64) -> Option<Placed> {
        for _ in 0..REPAIRS_MAX {
            let placed = self.place(stays, room)?;
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
    pub fn faster(&self, best: Option<Tried>, choice: Choice, placed: Placed) -> Option<Tried> {
        let timeline = self.timeline(&choice, &placed);
        match best {
            Some(best) if best.timeline.step <= timeline.step => Some(best),
            _ => Some(Tried { choice, placed, timeline }),
        }
    }

    fn timeline(&self, choice: &Choice, placed: &Placed) -> Timeline {
        timeline(self.machine.target, &self.emitter(&choice.host, placed).step(), steps(self.mode))
    }

    pub fn emitter<'b>(&'b self, host: &'b [bool], placed: &'b Placed) -> Emitter<'b> {
        Emitter::new(self.lifetimes, &self.machine, host, &placed.stays, &placed.device, &placed.lower)
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
    pub fn first_rung(&self, room: u64) -> Option<(Choice, Placed)> {
        self.ladder(room).find_map(|choice| {
            let placed = self.fits_in(&choice, room)?;
            Some((choice, placed))
        })
    }

    /// Choices that need less and less: nothing put aside, then what is wanted last, then all but a task's operands.
    fn ladder(&self, room: u64) -> impl Iterator<Item = Choice> {
        let least = self.least_choice();
        let budget = move |percent: u128| (u128::from(room) * percent / 100) as u64;
        let rungs = [100, 95, 90, 80, 65, 50, 25, 0].map(|percent| (budget(percent), false));
        let rungs = rungs.into_iter().chain([(0, true)]).filter(|_| self.machine.can_spill());
        let aside = least.clone();
        let rungs =
            rungs.map(move |(budget, adjacent)| Choice { aside: self.aside(budget, adjacent), ..aside.clone() });
        std::iter::once(least).chain(rungs)
    }

    /// Gaps to put a tensor aside in, so that at each task what stays fits a budget: those wanted last go first (Belady).
    /// With `adjacent`, also between a task and the next one.
    fn aside(&self, budget: u64, adjacent: bool) -> BTreeSet<(TensorId, usize)> {
        let uses = self.lifetimes.uses();
        let mut aside = BTreeSet::new();
        // Alive tensors: next use by index into their uses.
        let mut alive: Vec<(TensorId, usize)> = Vec::new();
        for (position, task) in self.lifetimes.tasks.iter().enumerate().filter(|(p, _)| !self.host[*p]) {
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
        let placed = self.place(stays(self.lifetimes, &self.machine, &gentlest), 0)?;
        let mut best = (placed.device.height, gentlest, placed);
        // Something fits in the best. What fits is not quite monotone: what lies just below is looked at again.
        let floor = low;
        for _ in 0..LEAST_ROUNDS {
            while best.0 - low > grain {
                let middle = low + (best.0 - low) / 2 / grain * grain;
                match self.first_rung(middle) {
                    Some((choice, placed)) => best = (middle, choice, placed),
                    None => low = middle,
                }
            }
            let below = (best.0 - 1) / grain * grain;
            match self.first_rung(below) {
                Some((choice, placed)) => (best, low) = ((below, choice, placed), floor),
                None => break,
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
    pub fn search(&self, base: &Choice) -> Option<Tried> {
        let mut best = self.faster(None, base.clone(), self.fits_in(base, self.room())?);
        if let Some(placed) = self.fits_together(base) {
            best = self.faster(best, base.clone(), placed);
        }
        for lowered in self.lowerings(base) {
            let base = Choice { lowered, ..base.clone() };
            // Nothing pinned, as many layers ahead as fit, two at the most.
            let ahead =
                two_layers(self.lifetimes, &base.pinned).into_iter().map(|window| Choice { window, ..base.clone() });
            let mut ahead = ahead.filter_map(|choice| Some((choice.clone(), self.fits_in(&choice, self.room())?)));
            if let Some((choice, placed)) = ahead.next() {
                best = self.faster(best, choice, placed);
            }
            // In the least room there are places for all only where they are chosen for all at once.
            if self.fits(&base).is_none() {
                let (mut low, mut high) = (0, self.lifetimes.total(Kind::Weight).min(self.room()));
                for _ in 0..HALVINGS {
                    let choice = Choice { window: low + (high - low) / 2, ..base.clone() };
                    match self.fits_together(&choice) {
                        Some(placed) => (low, best) = (choice.window, self.faster(best, choice, placed)),
                        None => high = choice.window,
                    }
                }
            }
            let orders = self.pin_orders();
            // What stays does not slow the tasks that copies would go under: worth one look where nothing waits.
            if best.as_ref().is_some_and(|b| b.is_enough(self)) {
                let choice = Choice { window: self.bulk().saturating_mul(2), ..base.clone() };
                if let Some((choice, placed)) = self.most_pinned(&choice, &orders[0]) {
                    best = self.faster(best, choice, placed);
                }
            }
            let left = std::cell::Cell::new(self.choices());
            let attempt = |best: Option<Tried>, order: usize, window: u64| {
                if left.get() == 0 || best.as_ref().is_some_and(|b| b.is_enough(self)) {
                    return (best, None);
                }
                left.set(left.get() - 1);
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
        let Some(tier) = self.machine.lower.filter(|_| faster) else { return vec![none] };
        let Some(placed) = self.fits_in(base, self.room()) else { return vec![none] };
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

    /// Rooms for what comes early, in bytes: none, then doubling from a small part of a typical weight up to what there is.
    fn windows(&self) -> Vec<u64> {
        let most = self.lifetimes.total(Kind::Weight).min(self.room());
        let doubling = std::iter::successors(Some((self.bulk() / LEAD_PART).max(1)), |w| w.checked_mul(2));
        let all: Vec<u64> = std::iter::once(0).chain(doubling.take_while(|w| *w <= most).take(WINDOWS_MAX)).collect();
        // Of the largest models a few, from all over.
        let stride = (2 * all.len()).div_ceil(self.choices());
        all.into_iter().skip(stride / 2).step_by(stride).collect()
    }

    /// The size of weight in which the middle byte of all weights lies.
    pub fn bulk(&self) -> u64 {
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
    pub fn pin_orders(&self) -> Vec<Vec<usize>> {
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

    /// Weights that the device uses, in an order of which every prefix is spread evenly over the step's bytes: by the fractional parts of
    /// multiples of the golden ratio (Weyl's sequence).
    pub fn spread_order(&self) -> Vec<usize> {
        let uses = self.lifetimes.uses();
        let device = |t: usize| uses[t].iter().any(|p| !self.host[*p]);
        let weight = |t: &usize| self.lifetimes.tensors[*t].kind == Kind::Weight && device(*t);
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
    pub fn most_pinned(&self, choice: &Choice, order: &[usize]) -> Option<(Choice, Placed)> {
        let with = |count: usize| {
            let mut pinned = choice.pinned.clone();
            order[..count].iter().for_each(|t| pinned[*t] = true);
            Choice { pinned, ..choice.clone() }
        };
        let heights = self.heights(choice, order);
        let under = |count: usize| heights.height(count).saturating_add(choice.window) <= self.room();
        // The load grows with each weight pinned (its stay lengthens), so the most that fits is found by halving.
        let (mut low, mut high) = (0, order.len());
        if !under(0) {
            return None;
        }
        while low < high {
            let middle = (low + high).div_ceil(2);
            if under(middle) { low = middle } else { high = middle - 1 }
        }
        // Fragments may cost a little more: step back in growing strides until addresses are found too.
        let mut stride = 1;
        let mut placed = loop {
            let choice = with(low);
            let together = || self.fits_together(&Choice { window: 0, ..choice.clone() });
            if let Some(placed) = self.fits(&choice).or_else(together) {
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
        let mut slack = self.room() - heights.height(low).saturating_add(choice.window).min(self.room());
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

    /// The highest load of a choice as more weights of an order are pinned, without what comes early.
    fn heights(&self, choice: &Choice, order: &[usize]) -> Pinning {
        let stays = stays(self.lifetimes, &self.machine, &Choice { window: 0, ..choice.clone() });
        // One that is pinned already changes nothing.
        let bytes = |t: usize| if choice.pinned[t] { None } else { Some(self.lifetimes.tensors[t].bytes) };
        let order: Vec<(usize, Option<u64>)> = order.iter().map(|t| (*t, bytes(*t))).collect();
        Pinning::of(&stays, &order, self.positions(), self.machine.device.alignment)
    }

    /// The faster of a program and those in which as much as fits of one more weight never leaves.
    fn hold_a_part(&self, mut best: Tried) -> Tried {
        let grain = self.machine.device.alignment;
        let uses = self.lifetimes.uses();
        let mut weights: Vec<usize> = self.spread_order();
        weights.retain(|t| !best.choice.pinned[*t] && self.divides(*t));
        weights.truncate(PARTLY_MAX.min(self.choices() / 4));
        let whole = Choice { window: 0, ..best.choice.clone() };
        let load = load_curve(&stays(self.lifetimes, &self.machine, &whole), Level::Device, self.positions(), grain);
        for tensor in weights {
            let beside =
                load.iter().enumerate().filter(|(p, _)| !uses[tensor].contains(p)).map(|(_, load)| *load).max();
            let slack = self.room().saturating_sub(beside.unwrap_or(0));
            let bytes = self.lifetimes.tensors[tensor].bytes;
            for held in [slack, slack.saturating_sub(whole.window), slack / 2] {
                let held = held.min(bytes.saturating_sub(1)) / grain * grain;
                let choice = Choice { partly: Some((TensorId(tensor as u32), held)), ..whole.clone() };
                if let Some(placed) = self.fits(&choice).filter(|_| held > 0) {
                    let tried = self.faster(None, choice, placed);
                    best = tried.filter(|t| t.timeline.step < best.timeline.step).unwrap_or(best);
                }
            }
        }
        best
    }

    /// The step of a choice with as many more weights staying as there is room for.
    pub fn widened(&self, choice: &Choice) -> Option<Nanos> {
        let choice = Choice { partly: None, ..choice.clone() };
        let order = self.small_first(self.spread_order());
        let tried = self.lowerings(&choice).into_iter().filter_map(|lowered| {
            let (choice, placed) = self.most_pinned(&Choice { lowered, ..choice.clone() }, &order)?;
            Some(self.faster(None, choice, placed)?.timeline.step)
        });
        tried.min()
    }

    /// Whether a weight can be brought in parts: not what is turned or made on the way.
    fn divides(&self, tensor: usize) -> bool {
        let made = self.lifetimes.tensors[tensor].home.as_ref().is_some_and(Home::is_made);
        !made || self.machine.home_to_device.is_none()
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
        for (_, tensor, i) in gaps.into_iter().take(KEPT_GAPS_MAX.min(self.choices())) {
            choice.kept.insert((tensor, i));
            if self.fits(&choice).is_none() {
                choice.kept.remove(&(tensor, i));
            }
        }
        choice
    }
}
