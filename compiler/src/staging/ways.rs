//! Finds the ways that pass through a staging memory, and describes the machine as if each were a link.
//!
//! Reads:    the target.
//! Decides:  which memory stages for which: of those that links lead into and out of, the one that passes most bytes on; how
//!           much of it.
//! Promises: the machine that is described has no more room and no faster way than the target.
//! Why:      pieces follow one another, so both links are busy at once and the slower one sets the rate. What all that
//!           plans and searches then sees is a machine like any other.

use crate::machine::{CannotPlan, joining, together};
use berth_ir::target::{Computing, Link, LinkState, Target, Tier};
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use std::collections::BTreeMap;

/// Of a memory that keeps things too, the part that stages, and the most of it; where that is less than so many chunks of its
/// links, up to half of it.
const PART: u64 = 16;
const MOST: u64 = 256 << 20;
const CHUNKS: u64 = 16;

/// Two memories that are joined through a third.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// The memory between.
    pub through: String,
    /// The links into it, and those out of it; each has one at least.
    pub links: [Vec<String>; 2],
    /// Whether it leads to the device.
    pub up: bool,
}

/// A target in which ways through staging memories are links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// With what is left of memories that stage and that files reach; the others are not in it.
    pub target: Target,
    /// The same for bounds: it can do whatever the machine can. A way has the rate of the link that ends at the device, and what
    /// a staging memory holds is room of the memory behind it.
    pub(crate) freer: Target,
    /// What each of those links stands for, by name.
    pub(super) ways: BTreeMap<String, Way>,
    /// What stages of a memory, by name.
    pub(super) staging: BTreeMap<String, Staging>,
}

impl Joined {
    /// That copies cannot be staged.
    pub(crate) fn narrow(&self) -> CannotPlan {
        let least = self.staging.iter().min_by_key(|(_, staging)| staging.bytes);
        let (tier, bytes) = least.map_or((String::new(), 0), |(tier, staging)| (tier.clone(), staging.bytes));
        CannotPlan::Narrow { target: self.target.name.clone(), tier, bytes }
    }

    /// The same with nothing put aside through a staging memory: what has an open size cannot be cut, and may be too large for it.
    pub fn upward(mut self) -> Joined {
        let up: Vec<String> = self.ways.iter().filter(|(_, way)| !way.up).map(|(name, _)| name.clone()).collect();
        self.ways.retain(|_, way| way.up);
        for target in [&mut self.target, &mut self.freer] {
            target.links.retain(|link| !up.contains(&link.name));
        }
        self
    }
}

/// The part of a memory that stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Staging {
    pub bytes: u64,
    /// What pieces are multiples of.
    pub grain: u64,
}

/// The target with such links; nothing where no memory is joined to the device through another one alone.
pub fn joined(target: &Target) -> Option<Joined> {
    let device = target.device();
    let memories = || target.tiers.iter().filter(|t| t.name != device && !t.files && t.room().0 > 0);
    let mut all =
        Joined { target: target.clone(), freer: target.clone(), ways: BTreeMap::new(), staging: BTreeMap::new() };
    let mut stages: BTreeMap<&str, &str> = BTreeMap::new();
    for memory in memories().filter(|m| joining(target, &m.name, device).next().is_none()) {
        let passes = |s: &&Tier| rate(&hops(target, &memory.name, &s.name, device)).0;
        let able = memories().filter(|s| s.name != memory.name && staging(target, s).is_some() && passes(s) > 0);
        let Some(stage) = able.reduce(|best, s| if passes(&s) > passes(&best) { s } else { best }) else { continue };
        stages.insert(&memory.name, &stage.name);
        for (from, to) in [(memory.name.as_str(), device), (device, memory.name.as_str())] {
            let hops = hops(target, from, &stage.name, to);
            let up = to == device;
            let near = if up { &hops[1] } else { &hops[0] };
            let Some(like) = fastest(near).filter(|_| hops.iter().all(|hop| !hop.is_empty())) else { continue };
            let link = |rate, latency| link(like, [from, to], &hops, rate, latency);
            all.target.links.push(link(rate(&hops), latency(&hops, up)));
            all.freer.links.push(link(together(near.iter().copied()), Nanos(0)));
            let links = hops.map(|hop| hop.iter().map(|l| l.name.clone()).collect());
            all.ways.insert(name(from, to), Way { through: stage.name.clone(), links, up });
        }
    }
    for (memory, stage) in stages {
        let Some(staging) = target.tier(stage).and_then(|tier| staging(target, tier)) else { continue };
        let first = all.staging.insert(stage.to_owned(), staging).is_none();
        if let Some(tier) = all.freer.tier_mut(memory) {
            tier.budget = tier.budget.map(|budget| Bytes(budget.0.saturating_add(staging.bytes)));
            tier.capacity = Bytes(tier.capacity.0.saturating_add(staging.bytes));
        }
        for target in [&mut all.target, &mut all.freer] {
            if let Some(tier) = target.tier_mut(stage).filter(|_| first) {
                // Pieces begin at a multiple of their grain.
                let left = tier.room().0.saturating_sub(staging.bytes) / staging.grain * staging.grain;
                tier.budget = Some(Bytes(left));
            }
        }
    }
    (!all.ways.is_empty()).then_some(all)
}

fn name(from: &str, to: &str) -> String {
    format!("{from} to {to}")
}

/// What stages of a memory: all of it, or a part where files reach it and it is worth keeping things there. Nothing where not
/// even two of the least pieces each way have room.
fn staging(target: &Target, tier: &Tier) -> Option<Staging> {
    let files = |l: &Link| l.to == tier.name && target.tier(&l.from).is_some_and(|from| from.files);
    let kept = target.links.iter().any(|l| l.state != LinkState::Cut && files(l));
    let chunks = target.links.iter().filter(|l| l.from == tier.name || l.to == tier.name).map(|l| l.chunk.0).max();
    let wanted = chunks.unwrap_or(0).saturating_mul(CHUNKS).min(tier.room().0 / 2);
    let room = if kept { (tier.room().0 / PART).max(wanted).min(MOST) } else { tier.room().0 };
    let grain = target.tier(target.device()).map_or(1, |device| device.alignment).max(tier.alignment);
    let bytes = room / grain * grain;
    (bytes / grain >= 4).then_some(Staging { bytes, grain })
}

fn hops<'t>(target: &'t Target, from: &str, through: &str, to: &str) -> [Vec<&'t Link>; 2] {
    [joining(target, from, through).collect(), joining(target, through, to).collect()]
}

fn fastest<'t>(links: &[&'t Link]) -> Option<&'t Link> {
    links.iter().copied().reduce(|best, l| if l.present_rate() > best.present_rate() { l } else { best })
}

/// The rate at which bytes pass: that of the slower links; where all are of one group, they take turns.
fn rate(hops: &[Vec<&Link>; 2]) -> BytesPerSec {
    let [first, second] = hops.each_ref().map(|hop| u128::from(together(hop.iter().copied()).0));
    let group = |link: &&Link| link.group.clone();
    let shared =
        hops[0].first().and_then(group).is_some_and(|g| hops.iter().flatten().all(|l| l.group.as_ref() == Some(&g)));
    let rate = if shared { first * second / (first + second).max(1) } else { first.min(second) };
    BytesPerSec(rate as u64)
}

/// From the start of a copy to its first byte: what comes stands in the memory between before it is wanted, what goes does not.
fn latency(hops: &[Vec<&Link>; 2], up: bool) -> Nanos {
    let least = |links: &[&Link]| links.iter().map(|l| l.latency.0).min().unwrap_or(0);
    Nanos(least(&hops[1]).saturating_add(if up { 0 } else { least(&hops[0]) }))
}

/// A way as a link, like the one that joins the device: what shares that link's rate shares the way's.
fn link(like: &Link, [from, to]: [&str; 2], hops: &[Vec<&Link>; 2], rate: BytesPerSec, latency: Nanos) -> Link {
    let all = || hops.iter().flatten();
    Link {
        name: name(from, to),
        from: from.to_owned(),
        to: to.to_owned(),
        rate,
        beside: like.beside.map(|beside| beside.min(rate)),
        taken: like.taken,
        computing: like.computing.map(|c| Computing { rate: c.rate.min(rate), ..c }),
        latency,
        submit: Nanos(all().map(|l| l.submit.0).max().unwrap_or(0)),
        chunk: Bytes(all().map(|l| l.chunk.0).min().unwrap_or(1)),
        grain: like.grain,
        group: Some(like.group.clone().unwrap_or_else(|| like.name.clone())),
        state: LinkState::Good,
    }
}
