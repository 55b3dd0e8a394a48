//! A link: moves bytes chunk by chunk, always of the copy that is wanted soonest.
//!
//! A copy from a file is cut into reads, several of which are under way at once; one from memory is moved by this
//! thread. After each chunk the link looks whether something is wanted sooner, was called off, or the run is over. What
//! is under way when a run ends badly is waited for: it writes to memory.

#![allow(unsafe_code, reason = "moves bytes between ranges of arenas; the verifier proved who may touch them when")]

use crate::arena::{Arena, PAGE};
use crate::errors::RunError;
use crate::executor::board::{Instance, Key};
use crate::executor::hand::{Edge, Times};
use crate::executor::host::{Host, Monitor};
use crate::executor::record::Records;
use crate::executor::table::{Range, Work};
use crate::executor::{Pace, Shared};
use crate::store::pieces::{BOUNCE, Cursor, Cut, Into, Next, Piece, Tally};
use crate::store::queue::{Queue, Read};
use crate::store::{Source, StoreError};
use std::sync::PoisonError;
use std::time::Duration;

/// The longest wait for a read, after which a stop and the limit are looked at.
const NAP: Duration = Duration::from_millis(100);

/// A bounce buffer, and a page for the sector that a range begins in.
const SLOT: usize = BOUNCE + 2 * PAGE;

/// A copy that has begun.
#[derive(Debug)]
struct Copy {
    key: Key,
    instance: Instance,
    began: u64,
    /// How it is cut, where it comes from a file.
    cut: Option<(Source, Cut)>,
    cursor: Cursor,
    /// Bytes moved, where it does not.
    moved: u64,
    /// Nothing of it is left to begin.
    through: bool,
    /// Reads of it that are under way.
    under_way: usize,
    /// Blocks that have been held against their checksums, where it has some.
    checked: usize,
    called_off: bool,
}

/// A read that is under way: of which copy, and what it brings.
#[derive(Clone, Copy, Debug)]
struct Flight {
    instance: Instance,
    piece: Piece,
    tally: Tally,
    /// When a link held to a rate has brought it.
    due: u64,
}

/// What a link reads with: made once, kept from run to run.
pub(crate) struct Gear {
    // It goes before the memory that its reads go to.
    queue: Option<Box<dyn Queue>>,
    slots: Arena,
    /// A buffer's worth of memory that stays in a cache.
    near: Vec<u8>,
}

impl Gear {
    /// Nothing where there is no memory for its buffers. It must go before the arenas of `shared`.
    pub fn new<H: Host>(shared: &Shared<H>, lane: usize) -> Option<Gear> {
        let items = &shared.table.lanes[lane].items;
        let loads = |half: usize| {
            let loads = items[half].iter().map(move |i| &shared.table.halves[half][*i].work);
            loads.filter_map(|work| if let Work::Load { to, .. } = work { Some(to.arena) } else { None })
        };
        // Only what reads go to is worth being known to the kernel.
        let mut arenas: Vec<usize> = loads(0).chain(loads(1)).collect();
        arenas.sort_unstable();
        arenas.dedup();
        if arenas.is_empty() {
            return Some(Gear { queue: None, slots: Arena::new(0)?, near: Vec::new() });
        }
        let depth = shared.paces[lane].depth.clamp(1, DEPTH_MAX);
        let slots = Arena::new((depth * SLOT) as u64)?;
        let all = arenas.iter().map(|arena| &shared.arenas[*arena]).chain([&slots]);
        let memory: Vec<(usize, usize)> =
            all.filter_map(|arena| Some((arena.address(0, 0)? as usize, arena.bytes() as usize))).collect();
        let queue = shared.host.queue(depth).unwrap_or_else(|| {
            // SAFETY: the slots go after the queue; so do the arenas, as the caller promises.
            unsafe { shared.store.queue(&memory, depth) }
        });
        Some(Gear { queue: Some(queue), slots, near: vec![0; BOUNCE] })
    }
}

/// Most reads under way.
const DEPTH_MAX: usize = 256;

/// Carries a link's copies out until there are no more; whether its gear can be used again.
pub(crate) fn work<H: Host>(
    shared: &Shared<H>,
    lane: usize,
    gear: &mut Gear,
    start: u64,
    records: &mut Records,
) -> bool {
    let items = &shared.table.lanes[lane].items;
    let pace = shared.paces[lane];
    let depth = if gear.queue.is_some() { pace.depth.clamp(1, DEPTH_MAX) } else { 1 };
    shared.hand.monitor.nudge_with(lane, gear.queue.as_ref().map(|queue| queue.nudge()));
    let mut link = Link {
        shared,
        lane,
        start,
        pace,
        records,
        queue: &mut gear.queue,
        slots: &gear.slots,
        near: &mut gear.near,
        flights: vec![None; depth],
        free: (0..depth).collect(),
        copies: Vec::with_capacity(2 * (items[0].len() + items[1].len())),
    };
    link.run();
    let landed = link.free.len() == link.flights.len();
    shared.hand.monitor.nudge_with(lane, None);
    landed
}

struct Link<'a, H: Host> {
    shared: &'a Shared<H>,
    lane: usize,
    start: u64,
    pace: Pace,
    records: &'a mut Records,
    queue: &'a mut Option<Box<dyn Queue>>,
    slots: &'a Arena,
    near: &'a mut [u8],
    /// By slot.
    flights: Vec<Option<Flight>>,
    /// Slots that are free.
    free: Vec<usize>,
    copies: Vec<Copy>,
}

impl<H: Host> Link<'_, H> {
    fn run(&mut self) {
        let hand = &self.shared.hand;
        loop {
            let mut go_on = self.fill();
            if self.copies.is_empty() {
                match hand.take(self.lane) {
                    Some((key, instance)) => self.begin(key, instance),
                    None => return,
                }
                continue;
            }
            // Where more may be under way, what gets ready is begun at once.
            let moved = go_on && (self.free.is_empty() || hand.doze(self.lane)) && self.land();
            match hand.edge(self.lane, moved) {
                Edge::Go => {}
                Edge::CallOff(instance) => self.call_off(instance),
                Edge::Over => go_on = false,
            }
            if !go_on {
                return self.drain();
            }
        }
    }

    /// What is under way ends; nothing is done with it.
    fn drain(&mut self) {
        while let (Some(queue), true) = (&mut *self.queue, self.free.len() < self.flights.len()) {
            match queue.wait(NAP) {
                Ok(Some((slot, _))) => {
                    self.flights[slot] = None;
                    self.free.push(slot);
                }
                Ok(None) => {}
                // Whatever is under way, the queue waits for it when it goes.
                Err(_) => return,
            }
        }
    }

    /// Begins as many chunks as may be under way; false where something went wrong.
    fn fill(&mut self) -> bool {
        while !self.free.is_empty() {
            let open = self.copies.iter().enumerate().filter(|(_, copy)| !copy.through && !copy.called_off);
            let best = open.map(|(place, copy)| (copy.key, place)).min();
            if let Some((key, instance)) = self.shared.hand.take_better(self.lane, best.map(|(key, _)| key)) {
                self.begin(key, instance);
                continue;
            }
            let Some((_, place)) = best else { return true };
            let went_well = match self.copies[place].cut {
                Some((source, cut)) => self.read(place, source, cut),
                None => {
                    let before = self.copies[place].moved;
                    let through = self.move_chunk(place);
                    let due = self.due(self.copies[place].moved - before);
                    if !self.hold(due) {
                        return false;
                    }
                    if through {
                        self.finish(place, Ok(()));
                    }
                    // Between chunks others are looked at, and the run's end.
                    match through {
                        true => true,
                        false => match self.shared.hand.edge(self.lane, true) {
                            Edge::Go => true,
                            Edge::CallOff(instance) => {
                                self.call_off(instance);
                                true
                            }
                            Edge::Over => return false,
                        },
                    }
                }
            };
            if !went_well {
                return false;
            }
        }
        true
    }

    /// When a link that is held to a rate has brought so many bytes more: those of its group come one after the other.
    fn due(&self, bytes: u64) -> u64 {
        let Some(held) = self.pace.held else { return 0 };
        let now = self.shared.since(self.start);
        let mut free = self.shared.turns[self.lane].lock().unwrap_or_else(PoisonError::into_inner);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(held.rate.max(1));
        *free = (*free).max(now).saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        free.saturating_add(held.latency)
    }

    /// Waits until then; false where the run is over first.
    fn hold(&self, due: u64) -> bool {
        loop {
            let now = self.shared.since(self.start);
            if now >= due {
                return true;
            }
            self.shared.host.pause(Duration::from_nanos(due - now).min(NAP));
            if self.shared.hand.edge(self.lane, true) == Edge::Over {
                return false;
            }
        }
    }

    fn begin(&mut self, key: Key, instance: Instance) {
        let item = &self.shared.table.half(instance.half)[instance.index];
        let source = self.shared.sources[instance.half as usize][instance.index];
        let cut = match &item.work {
            Work::Load { to, .. } => source.map(|source| {
                let address = self.shared.arenas[to.arena].address(to.offset, to.bytes).map_or(0, |to| to as usize);
                (source, self.shared.store.cut(source, address, to.bytes, self.pace.chunk as usize))
            }),
            _ => None,
        };
        let began = self.shared.since(self.start);
        self.copies.push(Copy {
            key,
            instance,
            began,
            cut,
            cursor: Cursor::default(),
            moved: 0,
            through: false,
            under_way: 0,
            checked: 0,
            called_off: false,
        });
    }

    /// Begins the next read of a copy.
    fn read(&mut self, place: usize, source: Source, cut: Cut) -> bool {
        let copy = &mut self.copies[place];
        let Some(piece) = cut.next(&mut copy.cursor) else {
            copy.through = true;
            if copy.under_way == 0 {
                self.arrived(place, source);
            }
            return true;
        };
        let Some(slot) = self.free.pop() else { return true };
        copy.under_way += 1;
        let instance = copy.instance;
        let due = self.due(piece.brings());
        let flight = Flight { instance, piece, tally: Tally::default(), due };
        self.flights[slot] = Some(flight);
        self.submit(slot, flight, source, cut)
    }

    /// Hands the rest of a read over.
    fn submit(&mut self, slot: usize, flight: Flight, source: Source, cut: Cut) -> bool {
        let Flight { piece, tally, .. } = flight;
        let to = match piece.into {
            Into::Place(at) => (cut.address + at as usize) as *mut u8,
            Into::Bounce(_) => self.slots.address((slot * SLOT) as u64, SLOT as u64).unwrap_or(std::ptr::null_mut()),
        };
        let read = Read {
            file: source.file,
            at: piece.at + tally.got as u64,
            to: to.wrapping_add(tally.got),
            bytes: piece.bytes - tally.got,
            token: slot,
        };
        let Some(queue) = self.queue.as_mut() else { return false };
        // SAFETY: a slot belongs to one read at a time. A place in an arena is the copy's own until it has ended, which
        // the verifier proved; it has not ended before all its reads have.
        match unsafe { queue.submit(read) } {
            Ok(()) => true,
            Err(error) => {
                self.flights[slot] = None;
                self.free.push(slot);
                let error = self.shared.store.failed(source, error);
                self.fail(flight.instance, error);
                false
            }
        }
    }

    fn fail(&self, instance: Instance, source: StoreError) {
        let instruction = self.shared.table.half(instance.half)[instance.index].name.clone();
        self.shared.hand.give_up(RunError::Store { instruction, step: instance.step, source });
    }

    /// Waits for a read to end and takes what it brought; false where none did, or it went wrong.
    fn land(&mut self) -> bool {
        let Some(queue) = self.queue.as_mut() else { return false };
        let ended = queue.wait(NAP);
        let (slot, result) = match ended {
            Ok(Some(ended)) => ended,
            Ok(None) => return false,
            Err(error) => {
                // The queue itself is out of order: any of its reads will do to say where.
                let copy = self.copies.iter().find_map(|copy| Some((copy.instance, copy.cut?.0)));
                if let Some((instance, source)) = copy {
                    self.fail(instance, self.shared.store.failed(source, error));
                }
                return false;
            }
        };
        // The read has ended: whatever becomes of what it brought, nobody waits for it again.
        let Some(mut flight) = self.flights[slot].take() else { return false };
        self.free.push(slot);
        let found = self.copies.iter().position(|copy| copy.instance == flight.instance);
        let Some((place, (source, cut))) = found.and_then(|place| Some((place, self.copies[place].cut?))) else {
            return false;
        };
        let item = &self.shared.table.half(flight.instance.half)[flight.instance.index];
        match flight.tally.count(&flight.piece, cut.direct, result) {
            Next::Done => {
                if !self.hold(flight.due) {
                    return false;
                }
                self.put(slot, flight.piece, item);
                self.copies[place].under_way -= 1;
                let copy = &self.copies[place];
                if copy.under_way == 0 && copy.called_off {
                    let copy = self.copies.swap_remove(place);
                    self.shared.hand.release(copy.instance);
                } else if copy.under_way == 0 && copy.through {
                    self.arrived(place, source);
                } else if let Err(error) = self.check(place, source) {
                    self.fail(flight.instance, error);
                    return false;
                }
                true
            }
            Next::Again => {
                self.free.pop();
                self.flights[slot] = Some(flight);
                self.submit(slot, flight, source, cut)
            }
            Next::CutOff => {
                let needed = flight.piece.at + flight.piece.needed as u64;
                self.fail(flight.instance, self.shared.store.cut_off(source, needed, &item.name));
                false
            }
            Next::Failed(error) => {
                self.fail(flight.instance, self.shared.store.failed(source, error));
                false
            }
        }
    }

    /// Moves what came into a bounce buffer to its place.
    fn put(&mut self, slot: usize, piece: Piece, item: &crate::executor::table::Item) {
        let (Into::Bounce(rest), Work::Load { to, .. }) = (piece.into, &item.work) else { return };
        let (at, bytes) = rest.range(to.bytes);
        // SAFETY: the slot's read has ended, so it is this thread's; the range is the copy's own until it ends, and no
        // read under way goes there: pieces do not overlap, and all of a transposed one come through slots.
        let pair = unsafe {
            let from = self.slots.slice((slot * SLOT) as u64, SLOT as u64);
            from.zip(self.shared.arenas[to.arena].slice_mut(to.offset + at, bytes))
        };
        if let Some((from, to)) = pair {
            rest.apply(from, to, self.near);
        }
    }

    /// All of a copy from a file is there, and has ended.
    fn arrived(&mut self, place: usize, source: Source) {
        let instance = self.copies[place].instance;
        let name = &self.shared.table.half(instance.half)[instance.index].name;
        let error = |source| RunError::Store { instruction: name.clone(), step: instance.step, source };
        let result = self.check(place, source).map_err(error);
        self.finish(place, result);
    }

    /// Holds what is there of a copy against its checksums, while it is still in a cache.
    fn check(&mut self, place: usize, source: Source) -> Result<(), StoreError> {
        let copy = &self.copies[place];
        let item = &self.shared.table.half(copy.instance.half)[copy.instance.index];
        let (Work::Load { to, .. }, Some(_)) = (&item.work, source.sums) else { return Ok(()) };
        // What has checksums is read from its start to its end: all before the first read under way is there.
        let under_way = self.flights.iter().flatten().filter(|flight| flight.instance == copy.instance);
        let there = under_way.map(|flight| flight.piece.starts(to.bytes)).fold(copy.cursor.at(), u64::min);
        // SAFETY: nobody writes there before the copy has ended but its reads under way, which bring what lies behind.
        let bytes = unsafe { self.shared.arenas[to.arena].slice(to.offset, there.min(to.bytes)) };
        self.copies[place].checked = self.shared.store.check(source, bytes.unwrap_or_default(), copy.checked)?;
        Ok(())
    }

    fn finish(&mut self, place: usize, result: Result<(), RunError>) {
        let copy = self.copies.swap_remove(place);
        let ended = self.shared.since(self.start);
        self.shared.hand.done(copy.instance, Times { engine: None, began: copy.began, ended }, result);
        self.records.add(self.lane, copy.instance, copy.began, ended);
    }

    /// A copy is called off: nothing more of it is begun.
    fn call_off(&mut self, instance: Instance) {
        let Some(place) = self.copies.iter().position(|copy| copy.instance == instance) else { return };
        let copy = &mut self.copies[place];
        // What only has to arrive ends as it would.
        if copy.through {
            return;
        }
        copy.called_off = true;
        if copy.under_way == 0 {
            self.copies.swap_remove(place);
            self.shared.hand.release(instance);
        }
    }

    /// Moves the next chunk of a copy that comes from no file; true at its end.
    fn move_chunk(&mut self, place: usize) -> bool {
        let copy = &mut self.copies[place];
        let item = &self.shared.table.half(copy.instance.half)[copy.instance.index];
        let part = |range: &Range, grain: u64| {
            let chunk = (self.pace.chunk / grain * grain).max(grain);
            (range.offset + copy.moved, chunk.min(range.bytes - copy.moved))
        };
        let all = match &item.work {
            Work::Move { from, to } => {
                let (offset, bytes) = part(to, 1);
                // SAFETY: the verifier proved that nothing writes the source, and nothing touches the target, until
                // this copy has ended; the two are ranges that do not meet.
                let pair = unsafe {
                    let source = self.shared.arenas[from.arena].slice(from.offset + copy.moved, bytes);
                    source.zip(self.shared.arenas[to.arena].slice_mut(offset, bytes))
                };
                if let Some((source, target)) = pair {
                    target.copy_from_slice(source);
                }
                copy.moved += bytes;
                to.bytes
            }
            Work::Fill { filled, to } => {
                let element = &filled.bits.to_le_bytes()[..filled.element.clamp(1, 8) as usize];
                let (offset, bytes) = part(to, element.len() as u64);
                // SAFETY: as for a Move.
                if let Some(target) = unsafe { self.shared.arenas[to.arena].slice_mut(offset, bytes) } {
                    target.chunks_mut(element.len()).for_each(|c| c.copy_from_slice(&element[..c.len()]));
                }
                copy.moved += bytes;
                to.bytes
            }
            Work::Load { .. } | Work::Run { .. } | Work::Feed { .. } | Work::Fetch { .. } => 0,
        };
        copy.through = copy.moved >= all;
        copy.through
    }
}
