//! Finds addresses for a choice, and says how long its step takes.
//!
//! Reads:    lifetimes, machine, a choice.
//! Decides:  addresses: what never leaves lies below, then what tasks write, and what streams goes where it can be brought
//!           soonest; or all together, where that is denser.
//! Promises: stays that meet share no byte; nothing where a choice does not fit.
//! Why:      each choice that a search looks at is placed and simulated: what is fast on paper may find no room.

use crate::below::{HALVINGS, STAGES, Share};
use crate::emit::Emitter;
use crate::least_step;
use crate::machine::Machine;
use crate::offset::{Offsets, pack};
use crate::residency::{Choice, passes, stays};
use crate::room::PlanError;
use crate::simulate::{Timeline, steps, timeline};
use crate::sink::sink;
use crate::stay::{Arrival, Level, Stay, load_curve};
use crate::stream::{Room, Streamed, early, is_read_in_place, place, streams};
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Target;
use berth_ir::units::{BytesPerSec, Nanos};
use std::cell::RefCell;

/// Addresses that are looked for, each time with one stay more brought late, before a choice is given up.
const REPAIRS_MAX: usize = 4;

/// A step in which nothing computes for less than this part of it is not looked at further.
const IDLE_PART: u64 = 400;

/// A step that is longer than what nothing beats by no more than this part of it is not looked at further.
const NEAR_PART: u64 = 1_000;

/// Steps that differ by less than this part of what nothing beats are as fast.
const SAME_PART: u64 = 50_000;

/// Tasks that are placed and simulated in one search, counted again for each choice that is tried: five hundred choices of
/// a model of a thousand tasks, a few of one of a hundred thousand.
const SEARCH_WORK: usize = 500_000;

/// Choices that are tried of the largest models all the same.
const TRIED_MIN: usize = 4;

/// Addresses in memories below that are kept in case the same are asked for again: shares are tried in turns.
const PACKED_MAX: usize = 16;

/// A choice with its stays and addresses.
#[derive(Clone)]
pub(crate) struct Placed {
    pub stays: Vec<Stay>,
    pub device: Offsets,
    /// By memory below, in the machine's order.
    pub below: Vec<Offsets>,
}

impl Placed {
    /// What the lower memory needs.
    pub fn lower_height(&self) -> u64 {
        self.below.first().map_or(0, |offsets| offsets.height)
    }
}

/// A choice that fits, with what it comes to.
pub(crate) struct Tried {
    pub choice: Choice,
    pub placed: Placed,
    pub timeline: Timeline,
}

impl Tried {
    /// Bytes that copies bring into any memory in each step.
    pub fn brought(&self) -> u128 {
        let comes = |s: &&Stay| !s.forever && matches!(s.arrives, Arrival::Home { .. } | Arrival::Stay { .. });
        self.placed.stays.iter().filter(comes).map(|s| u128::from(s.bytes)).sum()
    }

    /// Whether nothing with tasks on these engines is faster.
    pub fn is_least(&self, site: &Site) -> bool {
        near(self.timeline.step, site.least_step)
    }

    /// Whether pinning otherwise has nothing to gain: the step is as good as the least, some engine computes all but always, or
    /// no weight comes to the device in a step.
    pub fn is_enough(&self, site: &Site) -> bool {
        let moves = |s: &Stay| s.level == Level::Device && !s.forever && site.is_weight(s);
        self.is_least(site)
            || self.timeline.idle.0 <= self.timeline.step.0 / IDLE_PART
            || !self.placed.stays.iter().any(moves)
    }
}

/// Whether a step is as good as one that nothing beats.
pub(crate) fn near(step: Nanos, least: Nanos) -> bool {
    step.0 <= least.0.saturating_add(least.0 / NEAR_PART)
}

/// What a planner works in: fixed for one model, target and assignment of tasks to engines.
pub(crate) struct Site<'a> {
    pub lifetimes: &'a Lifetimes,
    pub machine: Machine<'a>,
    pub mode: Mode,
    /// By position: the engine of the lower memory runs the task.
    pub host: Vec<bool>,
    /// When the task at each position begins where nothing waits, and when the step ends.
    pub begins: Vec<u64>,
    /// No step with tasks on these engines is shorter.
    pub least_step: Nanos,
    /// The last addresses of what is no weight: most choices differ in weights alone.
    values: RefCell<Option<(Vec<Stay>, Offsets)>>,
    /// The last addresses in memories below, the latest last.
    packed: RefCell<Vec<(Level, Vec<Place>, Offsets)>>,
}

/// What addresses depend on: from when to when, or forever, and how many bytes.
type Place = (i64, i64, bool, u64);

impl<'a> Site<'a> {
    pub fn new(lifetimes: &'a Lifetimes, target: &'a Target, mode: Mode) -> Result<Site<'a>, PlanError> {
        if lifetimes.tasks.is_empty() {
            return Err(PlanError::Empty);
        }
        let (machine, host) = (Machine::of(target)?, vec![false; lifetimes.tasks.len()]);
        let stored = lifetimes.tensors.iter().any(|t| t.kind == Kind::Weight || t.home.is_some());
        let machine = if stored { machine.for_weights()? } else { machine };
        let least_step = least_step::least(lifetimes, &machine, &host);
        let mut begins = vec![0u64];
        for task in &lifetimes.tasks {
            begins.push(begins[begins.len() - 1].saturating_add(task.cost.0));
        }
        Ok(Site {
            lifetimes,
            machine,
            mode,
            host,
            begins,
            least_step,
            values: RefCell::new(None),
            packed: RefCell::default(),
        })
    }

    /// The same place with tasks on the engines that they are assigned to.
    pub fn of<'b>(&self, lifetimes: &'b Lifetimes, host: &[bool]) -> Result<Site<'b>, PlanError>
    where
        'a: 'b,
    {
        let site = Site::new(lifetimes, self.machine.target, self.mode)?;
        let least_step = least_step::least(lifetimes, &site.machine, host);
        Ok(Site { host: host.to_vec(), least_step, ..site })
    }

    /// How many choices a search may try.
    pub fn choices(&self) -> usize {
        (SEARCH_WORK / self.positions()).max(TRIED_MIN)
    }

    pub fn weights(&self) -> Vec<bool> {
        self.lifetimes.tensors.iter().map(|t| t.kind == Kind::Weight).collect()
    }

    pub fn positions(&self) -> usize {
        self.lifetimes.tasks.len()
    }

    /// Addresses in all memories, all stays together; nothing where those below are too small. Packing goes on until it
    /// is within `room`.
    pub fn place(&self, mut stays: Vec<Stay>, room: u64) -> Option<Placed> {
        let device: Vec<&Stay> = stays.iter().filter(|s| s.level == Level::Device).collect();
        let device = pack(&device, self.positions(), self.machine.device.alignment, room);
        let below = self.below(&mut stays)?;
        Some(Placed { stays, device, below })
    }

    /// Addresses in the memories below; nothing where one is too small. What the lower one has no room for goes further.
    pub fn below(&self, stays: &mut [Stay]) -> Option<Vec<Offsets>> {
        sink(&self.machine, stays, self.positions());
        self.machine.below().map(|level| self.at_level(stays, level)).collect()
    }

    fn at_level(&self, stays: &[Stay], level: Level) -> Option<Offsets> {
        let tier = self.machine.tier(level)?;
        let here = || stays.iter().filter(|s| s.level == level);
        let kept: Vec<&Stay> = here().filter(|s| !s.stage).collect();
        let Offsets { at, mut height } = self.packed(&kept, level)?;
        // Above what is there then lies what is on its way to the device before the first step, in turns; where that has no
        // room, it goes through before what stays comes, but not where the caller writes.
        let size = |s: &Stay| s.bytes.next_multiple_of(tier.alignment);
        let slot = here().filter(|s| s.stage).map(size).max().unwrap_or(0);
        let there = || kept.iter().zip(&at).filter(|(s, _)| s.forever || s.fed);
        let end = |(s, at): (&&Stay, &u64)| at + size(s);
        let floor = there().map(end).max().unwrap_or(0);
        let fed = there().filter(|(s, _)| s.fed).map(end).max().unwrap_or(0);
        let lowest = |turns: usize| {
            let highest = tier.room().0.saturating_sub(slot.saturating_mul(turns as u64));
            floor.min(highest / tier.alignment * tier.alignment).max(fed)
        };
        // One after the other where there is no room for two.
        let fits = lowest(STAGES).saturating_add(slot.saturating_mul(STAGES as u64)) <= tier.room().0;
        let turns = if fits { STAGES } else { 1 };
        let (floor, mut at, mut stages) = (lowest(turns), at.into_iter(), 0);
        let all = here().map(|s| {
            if s.stage {
                let offset = floor + slot * (stages % turns) as u64;
                (stages, height) = (stages + 1, height.max(offset + s.bytes));
                return offset;
            }
            at.next().unwrap_or(0)
        });
        let at = all.collect();
        (height <= tier.room().0).then_some(Offsets { at, height })
    }

    /// Addresses of what lies in a memory below; what was looked for lately is not looked for again.
    fn packed(&self, kept: &[&Stay], level: Level) -> Option<Offsets> {
        let tier = self.machine.tier(level)?;
        let key: Vec<Place> = kept.iter().map(|s| (s.from, s.to, s.forever, s.bytes)).collect();
        let mut known = self.packed.borrow_mut();
        if let Some(at) = known.iter().position(|(of, places, _)| *of == level && *places == key) {
            let found = known.remove(at);
            let offsets = found.2.clone();
            known.push(found);
            return Some(offsets);
        }
        let offsets = pack(kept, self.positions(), tier.alignment, tier.room().0);
        if known.len() == PACKED_MAX {
            known.remove(0);
        }
        known.push((level, key, offsets.clone()));
        Some(offsets)
    }

    /// Addresses for a choice: what never leaves lies below, then what tasks write, and what streams goes where it can be
    /// brought soonest.
    pub fn fits(&self, choice: &Choice) -> Option<Placed> {
        self.fits_at(choice, None)
    }

    /// The same with addresses chosen as if links to the device had another rate.
    pub fn fits_at(&self, choice: &Choice, pace: Option<BytesPerSec>) -> Option<Placed> {
        let (stays, below) = self.below_in(&Choice { window: 0, ..choice.clone() }, self.room())?;
        let grain = self.machine.device.alignment;
        // In whole sectors where there is room for that: what is read from files then needs no buffer between.
        let sector = self.machine.sector();
        let finer = || self.fits_by(&stays, &below, grain, pace);
        match stays.iter().any(|s| streams(s) && is_read_in_place(s, sector)) {
            true if sector > grain => self.fits_by(&stays, &below, sector, pace).or_else(finer),
            _ => finer(),
        }
    }

    /// The same with what is read in place at multiples of a sector.
    fn fits_by(&self, stays: &[Stay], below: &[Offsets], sector: u64, pace: Option<BytesPerSec>) -> Option<Placed> {
        let (room, grain) = (self.room(), self.machine.device.alignment);
        let mut at = vec![0; stays.len()];
        let mut floor = 0u64;
        let never_leave = |s: &Stay| s.forever && s.level == Level::Device;
        // What stays in part lies highest: the rest of it comes behind.
        for parts in [false, true] {
            floor = if parts { floor.next_multiple_of(sector) } else { floor };
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
        let streamed = match moves {
            true => {
                let room = Room { range: floor..room, grain: sector, pace };
                place(self.lifetimes, &self.machine, stays, at, room)?
            }
            false => Streamed { stays: stays.to_vec(), at, step: 0 },
        };
        Some(self.placed(streamed, below.to_vec()))
    }

    /// Addresses of what tasks and the caller write, among itself.
    pub fn values(&self, values: &[&Stay]) -> Offsets {
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
    pub fn is_weight(&self, stay: &Stay) -> bool {
        stay.arrives != Arrival::Scratch && self.lifetimes.tensor(stay.tensor).kind == Kind::Weight
    }

    /// What the device has, in whole grains of its alignment: a few bytes more change nothing.
    pub fn room(&self) -> u64 {
        let (room, grain) = (self.machine.device.room().0, self.machine.device.alignment);
        room / grain * grain
    }

    pub fn size(&self, tensor: TensorId) -> u64 {
        self.lifetimes.tensor(tensor).bytes.next_multiple_of(self.machine.device.alignment)
    }

    /// The stays of a choice with everything placed together, if they fit in a room. A quick look at the load first.
    pub fn fits_in(&self, choice: &Choice, room: u64) -> Option<Placed> {
        let (stays, _) = self.below_in(choice, room)?;
        self.repaired(stays, room)
    }

    /// The stays of a choice whose load is within a room, with addresses in the memories below. Of weights that pass through one
    /// fewer bytes wait where they find no places.
    fn below_in(&self, choice: &Choice, room: u64) -> Option<(Vec<Stay>, Vec<Offsets>)> {
        for halved in HALVINGS {
            let share = Share { halved: choice.share.halved.max(halved), ..choice.share };
            let mut stays = stays(self.lifetimes, &self.machine, &Choice { share, ..choice.clone() });
            let load = load_curve(&stays, Level::Device, self.positions(), self.machine.device.alignment);
            if load.iter().any(|l| *l > room) {
                return None;
            }
            if let Some(below) = self.below(&mut stays) {
                return Some((stays, below));
            }
            // Where two of the largest cannot be there at a time no fewer need wait: smaller pieces do better.
            let largest = stays.iter().filter(|s| passes(s)).map(|s| s.bytes).max()?;
            if largest > self.machine.lower.map_or(0, |tier| tier.room().0) / 2 {
                return None;
            }
        }
        None
    }

    /// The same in the room that there is, and each as early as its address allows. Denser than what is placed as it
    /// streams, and slower.
    pub fn fits_together(&self, choice: &Choice) -> Option<Placed> {
        self.brought_early(self.fits_in(choice, self.room())?)
    }

    /// Whether a choice with no weight that stays finds no addresses as it streams: there is room only for what is placed
    /// together.
    pub fn is_dense(&self, base: &Choice) -> bool {
        self.fits(base).is_none()
    }

    /// Addresses for a choice as it streams, or where those are `dense`, together if there are none: not of a weight of which a
    /// part stays, which lies beside the rest.
    pub fn fits_either(&self, choice: &Choice, pace: Option<BytesPerSec>, dense: bool) -> Option<Placed> {
        let together = || self.fits_together(&Choice { window: 0, ..choice.clone() });
        self.fits_at(choice, pace).or_else(|| if dense && choice.partly.is_none() { together() } else { None })
    }

    /// The same addresses with what streams brought as early as they allow.
    pub fn brought_early(&self, placed: Placed) -> Option<Placed> {
        let Placed { stays, device, below } = placed;
        let mut offsets = device.at.iter();
        let next = |s: &Stay| if s.level == Level::Device { offsets.next().copied() } else { None };
        let at: Vec<u64> = stays.iter().map(next).map(|at| at.unwrap_or(0)).collect();
        let streamed = early(self.lifetimes, &self.machine, &stays, at)?;
        Some(self.placed(streamed, below))
    }

    pub fn placed(&self, streamed: Streamed, below: Vec<Offsets>) -> Placed {
        let Streamed { stays, at, .. } = streamed;
        let device = stays.iter().zip(&at).filter(|(s, _)| s.level == Level::Device);
        let height = device.clone().map(|(s, at)| at + s.bytes).max().unwrap_or(0);
        let device = Offsets { at: device.map(|(_, at)| *at).collect(), height };
        Placed { stays, device, below }
    }

    /// Addresses within a room. While there are none, what lies highest is brought later, for its task alone, a few times
    /// over: a loop of stays that each meet the next takes one place more when their number is odd.
    pub fn repaired(&self, mut stays: Vec<Stay>, room: u64) -> Option<Placed> {
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
    pub fn better(&self, best: Option<Tried>, choice: Choice) -> Option<Tried> {
        match self.fits(&choice) {
            Some(placed) => self.faster(best, choice, placed),
            None => best,
        }
    }

    /// The faster of the best so far and a choice that fits so; of two as fast the one that brings fewer bytes in each step.
    pub fn faster(&self, best: Option<Tried>, choice: Choice, placed: Placed) -> Option<Tried> {
        let timeline = self.timeline(&choice, &placed);
        let tried = Tried { choice, placed, timeline };
        let same = (self.least_step.0 / SAME_PART).max(1);
        let order = |tried: &Tried| (tried.timeline.step.0 / same, tried.brought(), tried.timeline.step);
        match best {
            Some(best) if order(&best) <= order(&tried) => Some(best),
            _ => Some(tried),
        }
    }

    pub fn timeline(&self, choice: &Choice, placed: &Placed) -> Timeline {
        timeline(self.machine.target, &self.emitter(&choice.host, placed).step(), steps(self.mode))
    }

    pub fn emitter<'b>(&'b self, host: &'b [bool], placed: &'b Placed) -> Emitter<'b> {
        Emitter::new(self.lifetimes, &self.machine, host, &placed.stays, &placed.device, &placed.below)
    }
}
