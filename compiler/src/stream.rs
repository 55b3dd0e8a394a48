//! Chooses addresses for what streams, and from when each of its bytes can be brought.
//!
//! Reads:    stays, addresses of those that do not stream, times of tasks, rates of links.
//! Decides:  the address of each streamed stay; where its bytes come free at different times, its parts.
//! Promises: no two stays share a byte at a time; a part begins right behind the last holder of its bytes.
//! Why:      a weight needs all its bytes when its task starts, and not before: while one is computed with, the next
//!           comes into what is free beside it, and then into what it leaves. So room for the largest weight and for
//!           what a link brings while it is used keeps the link busy; whole weights side by side take room for two.

use crate::machine::Machine;
use crate::stay::{Arrival, Level, Stay};
use berth_ir::lifetime::Lifetimes;
use berth_ir::lists::Lists;
use berth_ir::program::{Home, Kind};
use berth_ir::target::Link;
use berth_ir::units::{Bytes, BytesPerSec};
use smallvec::SmallVec;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Times through the step that choose addresses: the second has the end of the step in view.
const PASSES: i64 = 2;

/// Places that are looked at for one stay: at most, at least, and for all stays of a pass together.
const PLACES_MAX: usize = 64;
const PLACES_MIN: usize = 6;
const PLACES_WORK: usize = 100_000;

/// Ranges that are looked at for places.
const HELD_MAX: usize = 512;

/// Parts of one stay.
const PARTS_MAX: usize = 32;

/// Sectors of the least stay that begins at one: of less the room would be wasted.
const SECTORS_MIN: u64 = 64;

/// Idle times of a link that are remembered.
const IDLE_MAX: usize = 32;

/// Stays with addresses.
#[derive(Clone, Debug, Default)]
pub struct Streamed {
    /// Those that were given, in their order, streamed ones in parts.
    pub stays: Vec<Stay>,
    /// By index of the stay; those of the lower memory keep what was given.
    pub at: Vec<u64>,
    /// Nanoseconds of a step, by the model of link and engine that chose them.
    pub step: u64,
}

/// Whether a stay of the device is brought in each step.
pub fn streams(stay: &Stay) -> bool {
    let moves = matches!(stay.arrives, Arrival::Home { .. } | Arrival::Stay { .. });
    stay.level == Level::Device && !stay.forever && moves
}

/// Where what streams may lie, and how it is placed there.
#[derive(Clone, Debug)]
pub struct Room {
    /// The range of addresses.
    pub range: std::ops::Range<u64>,
    /// What the address of a large stay that comes from a file is a multiple of: a sector, so that it is read in place; or no
    /// more than the alignment.
    pub grain: u64,
    /// The rate that links are taken to have, where it is not their own: others may then lie better.
    pub pace: Option<BytesPerSec>,
}

/// Places what streams within a room, beside stays that have their addresses in `at` already: those that do not stream, and
/// parts of what never leaves wholly. Nothing where at some task the bytes that are free do not lie together.
pub fn place(lifetimes: &Lifetimes, machine: &Machine, stays: &[Stay], at: Vec<u64>, room: Room) -> Option<Streamed> {
    Zone::new(lifetimes, machine, stays, at, room).run(PASSES)
}

/// Whether a stay is worth beginning at a sector.
pub fn is_read_in_place(stay: &Stay, sector: u64) -> bool {
    matches!(stay.arrives, Arrival::Home { .. }) && stay.bytes / SECTORS_MIN >= sector
}

/// Brings what streams as early as the addresses allow that it has; stays must not meet there. Nothing where they do.
pub fn early(lifetimes: &Lifetimes, machine: &Machine, stays: &[Stay], at: Vec<u64>) -> Option<Streamed> {
    let room = Room { range: 0..u64::MAX, grain: machine.device.alignment, pace: None };
    Zone::new(lifetimes, machine, stays, at, room).run(0)
}

/// By position: stays with an address that begin there, and streamed ones that are first used there, the largest first.
fn by_position(stays: &[Stay], positions: usize) -> (Lists, Lists) {
    let here = || stays.iter().enumerate().filter(|(_, s)| s.level == Level::Device && s.bytes > 0 && !s.forever);
    let fixed = || here().filter(|(_, s)| !streams(s)).map(|(i, s)| (s.from.max(0) as usize, i));
    let moving = || here().filter(|(_, s)| streams(s)).map(|(i, s)| (s.uses[0], i));
    let (fixed, mut moving) = (Lists::of(positions, fixed), Lists::of(positions, moving));
    (0..positions).for_each(|p| moving.get_mut(p).sort_by_key(|i| (Reverse(stays[*i].bytes), *i)));
    (fixed, moving)
}

/// The stays with streamed ones in parts, `shift` positions earlier than the pass that they were read off from.
fn divided(stays: &[Stay], at: &[u64], parts: &[Parts], shift: i64) -> Streamed {
    let mut all = Streamed::default();
    let mut first = Vec::with_capacity(stays.len());
    for (i, stay) in stays.iter().enumerate() {
        first.push(all.stays.len());
        for part in &parts[i] {
            let (from, bytes) = (part.until - shift, part.to.min(stay.bytes) - part.from);
            let whole = bytes == stay.bytes;
            let base = stay.part.map_or(0, |(from, _)| from);
            let range = if whole { stay.part } else { Some((base + part.from, base + part.from + bytes)) };
            all.stays.push(Stay { from: from.min(stay.uses[0] as i64), bytes, part: range, ..stay.clone() });
            all.at.push(at[i] + part.from);
        }
        if parts[i].is_empty() {
            all.stays.push(stay.clone());
            all.at.push(at[i]);
        }
    }
    for stay in &mut all.stays {
        if let Arrival::Stay { from, .. } = &mut stay.arrives {
            *from = first[*from];
        }
    }
    all
}

/// Who held a range of bytes last.
#[derive(Clone, Copy, Debug)]
struct Holder {
    to: u64,
    /// The position behind its last use, counted from the first pass on.
    until: i64,
}

/// Bytes of a stay, from its own start, that can be brought from a position on.
#[derive(Clone, Copy, Debug)]
struct Part {
    from: u64,
    to: u64,
    until: i64,
}

/// Parts of one stay: nearly all are brought whole.
type Parts = SmallVec<[Part; 1]>;

/// What a link has been asked for.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// When it has nothing to do, half open, in order.
    idle: Vec<(u64, u64)>,
    /// What was idle before: room for what will be.
    before: Vec<(u64, u64)>,
    /// From when on it has been asked for nothing.
    free: u64,
}

impl Lane {
    /// When that would end which is asked for so, as [`Lane::ask`] has it.
    fn end(&self, from: u64, time: u64) -> u64 {
        let (mut left, mut end) = (time, 0);
        for (start, stop) in &self.idle {
            let begin = from.max(*start);
            let taken = stop.saturating_sub(begin).min(left);
            if taken > 0 {
                (left, end) = (left - taken, begin + taken);
            }
        }
        if left > 0 || end == 0 { self.free.max(from).saturating_add(left) } else { end }
    }

    /// Takes the first idle time from `from` on, in pieces if need be; when that ends.
    fn ask(&mut self, from: u64, time: u64) -> u64 {
        let mut left = time;
        let mut idle = std::mem::take(&mut self.before);
        idle.clear();
        let mut end = 0;
        for (start, stop) in self.idle.iter().copied() {
            let begin = start.max(from);
            let taken = stop.saturating_sub(begin).min(left);
            if taken == 0 {
                idle.push((start, stop));
                continue;
            }
            (left, end) = (left - taken, begin + taken);
            let rest = [(start, begin), (begin + taken, stop)];
            idle.extend(rest.into_iter().filter(|(a, b)| a < b));
        }
        if left > 0 || end == 0 {
            let begin = self.free.max(from);
            if begin > self.free {
                idle.push((self.free, begin));
            }
            end = begin.saturating_add(left);
            self.free = end;
        }
        idle.drain(..idle.len().saturating_sub(IDLE_MAX));
        self.before = std::mem::replace(&mut self.idle, idle);
        end
    }
}

struct Zone<'a> {
    lifetimes: &'a Lifetimes,
    machine: &'a Machine<'a>,
    stays: &'a [Stay],
    floor: u64,
    room: u64,
    /// What the addresses of those are multiples of that are read in place.
    grain: u64,
    /// By index of the stay.
    at: Vec<u64>,
    held: BTreeMap<u64, Holder>,
    lanes: BTreeMap<&'a str, Lane>,
    /// When the engine has run all tasks so far.
    now: u64,
    /// The rates from the memory below and from files, of all links of each together.
    rates: Vec<(&'a Link, BytesPerSec)>,
    /// The rate that links are taken to have, where it is not their own.
    pace: Option<BytesPerSec>,
    /// The address that was chosen last.
    last: u64,
    /// When each task ended last.
    ended: Vec<u64>,
    /// The position at hand, counted from the first pass on.
    when: i64,
    /// The first position of its pass.
    pass: i64,
    /// Places that are looked at for one stay.
    places: usize,
    /// By stay: the first position at which its source can be copied from.
    sources: Vec<i64>,
}

impl<'a> Zone<'a> {
    fn new(
        lifetimes: &'a Lifetimes,
        machine: &'a Machine<'a>,
        stays: &'a [Stay],
        at: Vec<u64>,
        Room { range: room, grain, pace }: Room,
    ) -> Zone<'a> {
        let never = Holder { to: room.end, until: i64::MIN };
        Zone {
            lifetimes,
            machine,
            stays,
            floor: room.start,
            room: room.end,
            grain,
            at,
            held: BTreeMap::from([(room.start, never)]),
            lanes: BTreeMap::new(),
            rates: machine.ways().map(|link| (link, machine.rate_along(link))).collect(),
            now: 0,
            pace,
            last: 0,
            ended: vec![0; lifetimes.tasks.len()],
            when: 0,
            pass: 0,
            sources: crate::residency::source_ends(stays, lifetimes.tasks.len() as i64),
            places: (PLACES_WORK / stays.iter().filter(|s| streams(s)).count().max(1)).clamp(PLACES_MIN, PLACES_MAX),
        }
    }

    /// Goes through the step, choosing addresses so many times over, and once more: who held which bytes last is known
    /// after one time.
    fn run(mut self, choices: i64) -> Option<Streamed> {
        let (fixed, moving) = by_position(self.stays, self.lifetimes.tasks.len());
        let passes = choices.max(1) + 1;
        let mut parts: Vec<Parts> = vec![Parts::new(); self.stays.len()];
        let mut begun = 0;
        self.before_the_first(&fixed);
        for pass in 0..passes {
            begun = self.now;
            for position in 0..self.lifetimes.tasks.len() {
                self.pass = pass * self.period();
                self.when = self.pass + position as i64;
                for i in &fixed[position] {
                    self.hold(*i);
                }
                let mut ready = self.now;
                for i in &moving[position] {
                    // What crosses the edge of the step keeps its address: those before it have been placed about it.
                    if pass < choices && !(pass > 0 && self.stays[*i].crosses(self.period())) {
                        self.at[*i] = self.choose(*i, &fixed)?;
                        self.last = self.at[*i];
                    }
                    let found = self.parts(*i, self.at[*i])?;
                    ready = ready.max(self.bring(*i, &found));
                    self.hold(*i);
                    parts[*i] = found;
                }
                self.now = ready.saturating_add(self.lifetimes.tasks[position].cost.0);
                self.ended[position] = self.now;
            }
        }
        let step = self.now - begun;
        Some(Streamed { step, ..divided(self.stays, &self.at, &parts, (passes - 1) * self.period()) })
    }

    /// Writes down what has its address and lasts from the step before into the first.
    fn before_the_first(&mut self, fixed: &Lists) {
        let period = self.period();
        let crossing = fixed.iter().flatten().copied().filter(|i| self.stays[*i].crosses(period));
        for i in crossing.collect::<Vec<usize>>() {
            self.when = self.stays[i].from.max(0) - period;
            self.hold(i);
        }
        self.when = 0;
    }

    fn period(&self) -> i64 {
        self.lifetimes.tasks.len() as i64
    }

    fn size(&self, stay: &Stay) -> u64 {
        stay.bytes.next_multiple_of(self.machine.device.alignment)
    }

    /// What a stay's address is a multiple of.
    fn grain(&self, stay: &Stay) -> u64 {
        if streams(stay) && is_read_in_place(stay, self.grain) { self.grain } else { self.machine.device.alignment }
    }

    /// When what is held until a position is free.
    fn time(&self, until: i64) -> u64 {
        match until <= self.when - self.period() {
            true => 0,
            false => self.ended[self.position(until - 1)],
        }
    }

    /// The position in its step of one that is counted from the first pass on. Most lie in this pass or the one before.
    fn position(&self, counted: i64) -> usize {
        let (at, period) = (counted - self.pass, self.period());
        match at {
            _ if (0..period).contains(&at) => at as usize,
            _ if (-period..0).contains(&at) => (at + period) as usize,
            _ => at.rem_euclid(period) as usize,
        }
    }

    fn link(&self, stay: &Stay) -> Option<&'a Link> {
        match stay.arrives {
            Arrival::Stay { from, .. } => self.machine.to_device(self.stays[from].level),
            _ => self.machine.home_to_device,
        }
    }

    /// When the link of a stay has time next.
    fn asked(&self, stay: &Stay) -> u64 {
        let lane = self.link(stay).and_then(|l| self.lanes.get(l.name.as_str()));
        lane.map_or(0, |lane| lane.idle.first().map_or(lane.free, |(from, _)| *from))
    }

    /// Writes down that a stay, used first at the position at hand, holds its bytes until behind its last use.
    fn hold(&mut self, i: usize) {
        let stay = &self.stays[i];
        let start = if streams(stay) { stay.uses[0] as i64 } else { stay.from.max(0) };
        let until = self.when - start + stay.to + 1;
        let (from, to) = (self.at[i], self.at[i] + self.size(stay));
        self.cut(from);
        self.cut(to);
        let covered: SmallVec<[u64; 8]> = self.held.range(from..to).map(|(k, _)| *k).collect();
        for key in covered {
            self.held.remove(&key);
        }
        self.held.insert(from, Holder { to, until });
    }

    /// Cuts the range that crosses an address in two.
    fn cut(&mut self, at: u64) {
        let crossing = self.held.range_mut(..at).next_back().filter(|(_, h)| h.to > at);
        if let Some((_, holder)) = crossing {
            let rest = *holder;
            holder.to = at;
            self.held.insert(at, rest);
        }
    }

    /// The address at which a stay is brought soonest; of those the one whose bytes have been free for longest.
    fn choose(&self, i: usize, fixed: &Lists) -> Option<u64> {
        let stay = &self.stays[i];
        let (bytes, grain) = (self.size(stay), self.grain(stay));
        let last = self.room.checked_sub(bytes).filter(|last| *last >= self.floor)?;
        let blocked = self.blocked(stay, fixed);
        let free = |at: &u64| !blocked.iter().any(|(from, to)| *from < at + bytes && *at < *to);
        if stay.part.is_some() {
            // The rest of what never leaves lies behind it.
            return Some(self.at[i]).filter(|at| *at <= last && free(at));
        }
        let asked = self.asked(stay);
        // Of very many ranges, those from where the last one was placed on.
        let near = |most: usize| {
            let mut places = vec![self.floor.next_multiple_of(grain), last / grain * grain];
            let held = self.held.range(self.last..).chain(self.held.range(..self.last)).take(most);
            let busy = held.filter(|(_, h)| h.until > self.when || self.time(h.until) > asked);
            let busy = busy.map(|(from, h)| (*from, h.to)).chain(blocked.iter().copied());
            for (from, to) in busy {
                let above = [from, to].into_iter().filter_map(|at| at.checked_next_multiple_of(grain));
                let below = [from, to].into_iter().filter_map(|end| Some(end.checked_sub(bytes)? / grain * grain));
                places.extend(above.chain(below));
            }
            places.retain(|at| (self.floor..=last).contains(at));
            places.sort_unstable();
            places.dedup();
            places
        };
        let weigh = |at: u64| {
            let parts = self.parts(i, at)?;
            let latest = parts.iter().map(|p| p.until).max().unwrap_or(i64::MIN);
            let there = self.there(i, &parts).saturating_add(self.link(stay).map_or(0, |l| l.latency.0));
            Some((there.max(self.now), latest, at))
        };
        let places = near(HELD_MAX);
        let stride = places.len().div_ceil(self.places).max(1);
        let best = places.iter().step_by(stride).copied().filter(free).filter_map(weigh).min();
        // Few of many places were looked at: any that works will do.
        let any = |places: &[u64]| places.iter().copied().filter(free).filter_map(weigh).next();
        let all = || if self.held.len() > HELD_MAX { any(&near(usize::MAX)) } else { None };
        best.or_else(|| any(&places)).or_else(all).map(|(_, _, at)| at)
    }

    /// Ranges that stays with an address take while a streamed one is used.
    fn blocked(&self, stay: &Stay, fixed: &Lists) -> Vec<(u64, u64)> {
        let later = (stay.uses[0] + 1..=stay.to as usize).flat_map(|p| &fixed[p % fixed.iter().len()]);
        later.map(|i| (self.at[*i], self.at[*i] + self.size(&self.stays[*i]))).collect()
    }

    /// The parts in which a stay at an address can be brought; nothing where some of its bytes are in use.
    fn parts(&self, i: usize, at: u64) -> Option<Parts> {
        let stay = &self.stays[i];
        let end = at + self.size(stay);
        let asked = self.asked(stay);
        let source = self.source_end(i);
        let mut parts = Parts::new();
        let before = self.held.range(..at).next_back();
        for (from, holder) in before.into_iter().chain(self.held.range(at..end)) {
            let (from, to) = ((*from).max(at), holder.to.min(end));
            if from >= to {
                continue;
            }
            if holder.until > self.when {
                return None;
            }
            let until = holder.until.max(source).max(self.when - self.period() + 1);
            let part = Part { from: from - at, to: to - at, until };
            // What is free when the link comes to it is as good as what was free before.
            let same = |p: &Part| p.until == part.until || self.time(p.until).max(self.time(part.until)) <= asked;
            match parts.last_mut() {
                Some(last) if same(last) => (last.to, last.until) = (part.to, last.until.max(part.until)),
                _ => parts.push(part),
            }
        }
        Some(self.joined(stay, parts))
    }

    /// The least part that is worth a copy of its own: one that its link moves for as long as it takes to issue it, and no less
    /// than is read of a file at once. What a copy waits for after it is issued does not matter: others go on meanwhile.
    fn least_part(&self, link: &Link) -> u64 {
        let issued = u128::from(link.present_rate().0) * u128::from(link.submit.0) / 1_000_000_000;
        let files = self.machine.target.tier(&link.from).filter(|tier| tier.files);
        u64::try_from(issued).unwrap_or(u64::MAX).max(files.map_or(0, |tier| tier.alignment))
    }

    /// Parts joined until there are few, and none is too small for a copy of its own.
    fn joined(&self, stay: &Stay, mut parts: Parts) -> Parts {
        if parts.len() == 1 {
            return parts;
        }
        let least = self.link(stay).map_or(0, |link| self.least_part(link));
        // What is turned or made on the way is read whole, and so is what has a size of its own in each run.
        let tensor = self.lifetimes.tensor(stay.tensor);
        let made = matches!(stay.arrives, Arrival::Home { .. }) && tensor.home.as_ref().is_some_and(Home::is_made);
        let most = if made || tensor.kind != Kind::Weight { 1 } else { PARTS_MAX };
        while parts.len() > 1 {
            let smallest = (0..parts.len()).min_by_key(|n| parts[*n].to - parts[*n].from).unwrap_or(0);
            if parts.len() <= most && parts[smallest].to - parts[smallest].from >= least {
                break;
            }
            // The neighbour whose joining holds up fewer bytes for less time.
            let cost = |other: usize| {
                let (a, b) = (&parts[smallest], &parts[other]);
                let early = if a.until < b.until { a } else { b };
                u128::from(early.to - early.from) * u128::from(self.time(a.until).abs_diff(self.time(b.until)))
            };
            let neighbours = [smallest.checked_sub(1), Some(smallest + 1).filter(|n| *n < parts.len())];
            let Some(other) = neighbours.into_iter().flatten().min_by_key(|n| (cost(*n), *n)) else { break };
            let (low, high) = (smallest.min(other), smallest.max(other));
            let gone = parts.remove(high);
            parts[low] = Part { from: parts[low].from, to: gone.to, until: parts[low].until.max(gone.until) };
        }
        parts
    }

    /// When a stay's last part would be there.
    fn there(&self, i: usize, parts: &[Part]) -> u64 {
        match (parts, self.link(&self.stays[i])) {
            ([part], Some(link)) => {
                let lane = self.lanes.get(link.name.as_str());
                let (from, time) = (self.time(part.until), self.moving(link, part));
                lane.map_or(from.saturating_add(time), |lane| lane.end(from, time))
            }
            (parts, Some(link)) => {
                let mut lane = self.lanes.get(link.name.as_str()).cloned().unwrap_or_default();
                self.ask(&mut lane, link, parts)
            }
            (_, None) => 0,
        }
    }

    /// For how long a part occupies its link.
    fn moving(&self, link: &Link, part: &Part) -> u64 {
        let along = || self.rates.iter().find(|(way, _)| std::ptr::eq(*way, link)).map_or(BytesPerSec(0), |(_, r)| *r);
        let rate = self.pace.unwrap_or_else(along);
        Bytes(part.to - part.from).at(rate).0.saturating_add(link.submit.0)
    }

    /// Asks a link for parts, in the order in which they come free; when the last would be there.
    fn ask(&self, lane: &mut Lane, link: &Link, parts: &[Part]) -> u64 {
        let mut parts: SmallVec<[&Part; 4]> = parts.iter().collect();
        parts.sort_by_key(|p| p.until);
        let ends = parts.iter().map(|part| lane.ask(self.time(part.until), self.moving(link, part)));
        ends.max().unwrap_or(0)
    }

    /// Asks the link for a stay; when it can be used.
    fn bring(&mut self, i: usize, parts: &[Part]) -> u64 {
        let Some(link) = self.link(&self.stays[i]) else { return 0 };
        let mut lane = self.lanes.remove(link.name.as_str()).unwrap_or_default();
        let end = self.ask(&mut lane, link, parts);
        self.lanes.insert(&link.name, lane);
        end.saturating_add(link.latency.0)
    }

    /// The first position at which a stay's source can be copied from.
    fn source_end(&self, i: usize) -> i64 {
        let source = self.sources[i];
        if source == i64::MIN { source } else { self.when - self.stays[i].uses[0] as i64 + source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_says_when_it_would_end_what_it_is_asked_for() {
        let mut lane = Lane::default();
        for n in 0..200u64 {
            let (from, time) = (n * 37 % 500 + n, n * 13 % 40);
            let said = lane.end(from, time);
            assert_eq!(said, lane.ask(from, time), "asked for {time} from {from} on");
        }
    }
}
