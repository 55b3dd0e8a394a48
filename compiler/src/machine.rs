//! The part of a target that one plan uses: the device, what lies below it, and the links between.
//!
//! Reads:    the target.
//! Decides:  which tier is the device, which below it can be written and who computes in the first, which links join which.
//! Promises: every link named here works and joins what it says; or `CannotPlan`, naming what is missing, as far as there are
//!           weights to bring.
//! Why:      the fastest working link of two memories stands for all that join them: copies take turns on those, as each is a
//!           queue of its own, and their rates add up where they share none. Ties go to the first one listed. A link that only
//!           moves multiples of a grain is passed over: tensors have any size.

use crate::stay::Level;
use berth_ir::target::{Link, LinkState, Target, Tier};
use berth_ir::units::BytesPerSec;
use std::cmp::Reverse;

/// What a plan uses of a machine: its first engine, and one that computes in the memory below.
#[derive(Clone, Debug)]
pub struct Machine<'t> {
    /// The whole target.
    pub target: &'t Target,
    /// The memory of the first engine.
    pub device: &'t Tier,
    /// The name of that engine.
    pub engine: &'t str,
    /// The name of an engine that computes in the memory below, if there is one: the host's cores.
    pub host: Option<&'t str>,
    /// A writable memory below the device, if one has room: where an engine computes, else the one that gives the device its
    /// bytes soonest.
    pub lower: Option<&'t Tier>,
    /// From files to the device: the fastest of those links, as below.
    pub home_to_device: Option<&'t Link>,
    /// From files to the lower memory.
    pub home_to_lower: Option<&'t Link>,
    /// From the lower memory to the device.
    pub lower_to_device: Option<&'t Link>,
    /// From the device to the lower memory.
    pub device_to_lower: Option<&'t Link>,
    /// The other writable memories below the device that have room, those first that give it their bytes soonest.
    pub further: Vec<Further<'t>>,
}

/// A writable memory below the device, beside the lower one.
#[derive(Clone, Copy, Debug)]
pub struct Further<'t> {
    /// The memory.
    pub tier: &'t Tier,
    /// From files to it.
    pub from_home: Option<&'t Link>,
    /// From it to the device.
    pub to_device: &'t Link,
    /// From the device to it.
    pub from_device: Option<&'t Link>,
}

/// Why no plan can be made for a target, whatever the model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotPlan {
    /// There is no engine with a memory.
    #[error("target `{target}` has no engine with a memory; add one to its `engines`")]
    NoDevice {
        /// The target.
        target: String,
    },
    /// There is no way for weights to reach the device.
    #[error(
        "target `{target}` has no working way from a store of files to `{device}`: add a link, directly or through a memory with room (one \
         with a `grain` moves only multiples of it, and is not planned for)"
    )]
    NoWay {
        /// The target.
        target: String,
        /// The tier of the device.
        device: String,
    },
    /// A memory that stages copies is too small for them.
    #[error(
        "`{tier}` of target `{target}` stages copies to and from the device in {bytes} B: too little for something that cannot be cut, or it \
         would have to be cut into too many pieces; give it more with `--memory {tier}=`"
    )]
    Narrow {
        /// The target.
        target: String,
        /// The memory.
        tier: String,
        /// Bytes of it that stage.
        bytes: u64,
    },
}

impl CannotPlan {
    /// There is no way for weights to reach the device of a target.
    pub(crate) fn of(target: &Target) -> CannotPlan {
        CannotPlan::NoWay { target: target.name.clone(), device: target.device().to_owned() }
    }
}

impl<'t> Machine<'t> {
    /// The part of the target that a plan uses.
    pub fn of(target: &'t Target) -> Result<Machine<'t>, CannotPlan> {
        let engine = target.engines.first();
        let device = engine.and_then(|e| target.tier(&e.tier));
        let (Some(engine), Some(device)) = (engine, device) else {
            return Err(CannotPlan::NoDevice { target: target.name.clone() });
        };
        let link = |from: &str, to: &str| {
            let joins = joining(target, from, to);
            joins.reduce(|best, l| if l.present_rate() > best.present_rate() { l } else { best })
        };
        let files = |to: &str| {
            let stores = target.tiers.iter().filter(|t| t.files);
            stores.filter_map(|s| link(&s.name, to)).max_by_key(|l| l.present_rate())
        };
        let below = target.tiers.iter().filter(|t| t.name != device.name && !t.files && t.room().0 > 0);
        let mut below: Vec<Further> = below
            .filter_map(|tier| {
                let to_device = link(&tier.name, &device.name)?;
                let (from_home, from_device) = (files(&tier.name), link(&device.name, &tier.name));
                Some(Further { tier, from_home, to_device, from_device })
            })
            .collect();
        let computes = |b: &Further| b.from_home.is_some() && target.engines.iter().any(|e| e.tier == b.tier.name);
        below.sort_by_key(|b| Reverse((computes(b), b.to_device.present_rate(), b.tier.room())));
        let further = below.split_off(below.len().min(1));
        let lower = below.first().map(|b| b.tier);
        // Weights that its engine would read must come there.
        let fed = lower.filter(|l| files(&l.name).is_some());
        let machine = Machine {
            target,
            device,
            engine: &engine.name,
            host: fed.and_then(|l| target.engines.iter().find(|e| e.tier == l.name)).map(|e| e.name.as_str()),
            lower,
            home_to_device: files(&device.name),
            home_to_lower: lower.and_then(|l| files(&l.name)),
            lower_to_device: lower.and_then(|l| link(&l.name, &device.name)),
            device_to_lower: lower.and_then(|l| link(&device.name, &l.name)),
            further: further.into_iter().take(usize::from(u8::MAX)).collect(),
        };
        Ok(machine)
    }

    /// The same, where weights can reach the device.
    pub fn for_weights(self) -> Result<Machine<'t>, CannotPlan> {
        let through = self.home_to_lower.is_some() && self.lower_to_device.is_some();
        if self.home_to_device.is_none() && !through {
            return Err(CannotPlan::of(self.target));
        }
        Ok(self)
    }

    /// What addresses of the device are multiples of to which files are read in whole sectors, without a buffer between.
    pub fn sector(&self) -> u64 {
        let files = self.home_to_device.and_then(|link| self.target.tier(&link.from));
        files.map_or(0, |tier| tier.alignment).max(self.device.alignment)
    }

    /// All memories below the device.
    pub fn below(&self) -> impl Iterator<Item = Level> + use<> {
        let further = (0..self.further.len()).map(|n| Level::Further(n as u8));
        self.lower.map(|_| Level::Lower).into_iter().chain(further)
    }

    fn beyond(&self, level: Level) -> Option<&Further<'t>> {
        if let Level::Further(n) = level { self.further.get(usize::from(n)) } else { None }
    }

    /// The memory of a level.
    pub fn tier(&self, level: Level) -> Option<&'t Tier> {
        match level {
            Level::Device => Some(self.device),
            Level::Lower => self.lower,
            Level::Further(_) => self.beyond(level).map(|f| f.tier),
        }
    }

    /// From files to a level.
    pub fn from_home(&self, level: Level) -> Option<&'t Link> {
        match level {
            Level::Device => self.home_to_device,
            Level::Lower => self.home_to_lower,
            Level::Further(_) => self.beyond(level)?.from_home,
        }
    }

    /// From a level below the device to it.
    pub fn to_device(&self, level: Level) -> Option<&'t Link> {
        if level == Level::Lower { self.lower_to_device } else { self.beyond(level).map(|f| f.to_device) }
    }

    /// From the device to a level below it.
    pub fn from_device(&self, level: Level) -> Option<&'t Link> {
        if level == Level::Lower { self.device_to_lower } else { self.beyond(level)?.from_device }
    }

    /// Of each way between two memories the fastest link.
    pub fn ways(&self) -> impl Iterator<Item = &'t Link> {
        let below = self.below().flat_map(|l| [self.from_home(l), self.to_device(l), self.from_device(l)]);
        std::iter::once(self.home_to_device).chain(below).flatten()
    }

    /// Bytes that all other memories have room for: those too that only bounds count on, as no link of theirs ends at the device.
    pub fn room_below(&self) -> u64 {
        let others = self.target.tiers.iter().filter(|t| t.name != self.device.name && !t.files);
        others.map(|tier| tier.room().0).fold(0, u64::saturating_add)
    }

    /// Bytes that the memories have room for that are joined to the device.
    pub fn room_beside(&self) -> u64 {
        let beside = self.below().filter_map(|level| self.tier(level));
        beside.map(|tier| tier.room().0).fold(0, u64::saturating_add)
    }

    /// The rate at which bytes can enter the device and those memories from files and all others together.
    pub fn rate_beside(&self) -> BytesPerSec {
        let is_beside =
            |name: &str| self.device.name == name || self.below().filter_map(|l| self.tier(l)).any(|t| t.name == name);
        let enters = |l: &&Link| is_beside(&l.to) && !is_beside(&l.from) && joins(l, &l.from, &l.to);
        together(self.target.links.iter().filter(enters))
    }

    /// Whether something can be put aside and brought back.
    pub fn can_spill(&self) -> bool {
        self.device_to_lower.is_some() && self.lower_to_device.is_some()
    }

    /// All links that join what a link joins, itself among them, in the order in which the target lists them.
    pub fn beside(&self, link: &Link) -> impl Iterator<Item = &'t Link> + use<'t> {
        let (from, to) = (link.from.clone(), link.to.clone());
        self.target.links.iter().filter(move |l| joins(l, &from, &to))
    }

    /// The rate of a link and those beside it together; links of one group count once.
    pub fn rate_along(&self, link: &Link) -> BytesPerSec {
        together(self.beside(link))
    }

    /// The rate at which bytes can enter the device over all links together; links of one group count once.
    pub fn rate_into_device(&self) -> BytesPerSec {
        let below = self.below().filter_map(|level| self.to_device(level));
        together(self.home_to_device.into_iter().chain(below).flat_map(|l| self.beside(l)))
    }

    /// The rate at which bytes can leave files over all links together.
    pub fn rate_from_files(&self) -> BytesPerSec {
        let holds = |name: &str| self.target.tier(name).is_some_and(|t| !t.files && t.room().0 > 0);
        let file = |name: &str| self.target.tier(name).is_some_and(|t| t.files);
        together(self.target.links.iter().filter(|l| file(&l.from) && holds(&l.to) && joins(l, &l.from, &l.to)))
    }
}

fn joins(link: &Link, from: &str, to: &str) -> bool {
    link.from == from && link.to == to && link.state != LinkState::Cut && link.grain.0 == 1
}

/// The links that a plan can use from one memory to another.
pub(crate) fn joining<'t>(target: &'t Target, from: &str, to: &str) -> impl Iterator<Item = &'t Link> {
    target.links.iter().filter(move |l| joins(l, from, to))
}

/// The rate of links together; those of one group have the rate of the fastest of them.
pub(crate) fn together<'t>(links: impl Iterator<Item = &'t Link>) -> BytesPerSec {
    let mut groups = std::collections::BTreeMap::new();
    for link in links {
        let group = link.group.as_deref().unwrap_or(&link.name);
        let rate = groups.entry(group).or_insert(0);
        *rate = link.present_rate().0.max(*rate);
    }
    BytesPerSec(groups.values().fold(0, |a: u64, b| a.saturating_add(*b)))
}
