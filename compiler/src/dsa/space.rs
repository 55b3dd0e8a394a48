//! The addresses below the highest buffer at one time: who holds them, and which hole a newcomer takes.
//!
//! Reads:    sizes, alignments and deaths of buffers, one at a time; what is placed already and is born later.
//! Decides:  an address for each.
//! Promises: buffers that are held together share no byte, nor one with what is born in their life; offsets are aligned.
//! Why:      deaths are known beforehand: of the holes that fit closely, a buffer takes the one whose neighbour dies when
//!           it does, so that both leave one large hole.

use std::collections::BTreeSet;

/// Which hole a buffer goes into: the one beside the nearest death, of those that fit closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// How much larger than the smallest they may be, in hundredths of the buffer.
    pub hundredths: u64,
    /// Where it is not 0, nearness is blurred by it: another choice among like holes.
    pub salt: u64,
}

impl Fit {
    /// Without a blur.
    pub const fn within(hundredths: u64) -> Fit {
        Fit { hundredths, salt: 0 }
    }
}

/// What keeps a hole from being used for the whole of a life: addresses that are taken from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ahead {
    pub from: u64,
    pub to: u64,
    /// From when on.
    pub birth: u64,
}

/// A range of addresses that is free all of a life, and when what lies beside it dies or is born.
#[derive(Clone, Copy, Debug)]
struct Room {
    block: u32,
    from: u64,
    to: u64,
    below: Option<u64>,
    above: Option<u64>,
}

/// No block.
pub const NONE: u32 = u32::MAX;

/// Addresses that one buffer holds, or none.
#[derive(Clone, Copy, Debug)]
struct Block {
    from: u64,
    to: u64,
    below: u32,
    above: u32,
    /// When its buffer dies; `None` for a hole.
    death: Option<u64>,
}

/// The addresses below the highest buffer, cut into blocks; no two holes are neighbours but for alignments.
#[derive(Clone, Debug)]
pub struct Space {
    blocks: Vec<Block>,
    spare: Vec<u32>,
    /// Holes by length, start and block.
    holes: BTreeSet<(u64, u64, u32)>,
    last: u32,
    /// Where a buffer may go, while it is placed.
    rooms: Vec<Room>,
}

/// Holes looked at for one buffer before one that is large enough whatever its start.
const TRIES: usize = 16;

/// Holes looked at where some of them are taken later.
const TRIES_AHEAD: usize = 128;

impl Space {
    /// Nothing is held.
    pub fn new() -> Space {
        Space { blocks: Vec::new(), spare: Vec::new(), holes: BTreeSet::new(), last: NONE, rooms: Vec::new() }
    }

    fn block(&mut self, block: Block) -> u32 {
        if let Some(id) = self.spare.pop() {
            self.blocks[id as usize] = block;
            return id;
        }
        self.blocks.push(block);
        self.blocks.len() as u32 - 1
    }

    fn hole(&mut self, id: u32) {
        let Block { from, to, .. } = self.blocks[id as usize];
        self.holes.insert((to - from, from, id));
    }

    fn top(&self) -> u64 {
        self.blocks.get(self.last as usize).map_or(0, |b| b.to)
    }

    /// Puts a new block between two neighbours.
    fn link(&mut self, from: u64, to: u64, below: u32, above: u32, death: Option<u64>) -> u32 {
        let id = self.block(Block { from, to, below, above, death });
        if below != NONE {
            self.blocks[below as usize].above = id;
        }
        if above == NONE {
            self.last = id;
        } else {
            self.blocks[above as usize].below = id;
        }
        id
    }

    fn unlink(&mut self, id: u32) {
        let Block { below, above, .. } = self.blocks[id as usize];
        if below != NONE {
            self.blocks[below as usize].above = above;
        }
        if above == NONE {
            self.last = below;
        } else {
            self.blocks[above as usize].below = below;
        }
        self.spare.push(id);
    }

    /// Places a buffer above all others, at an address no lower than their top.
    fn push(&mut self, at: u64, size: u64, death: u64) -> u32 {
        let top = self.top();
        if at > top {
            let id = self.link(top, at, self.last, NONE, None);
            self.hole(id);
        }
        self.link(at, at + size, self.last, NONE, Some(death))
    }

    /// Places a buffer at an address that is free.
    pub fn put_at(&mut self, at: u64, size: u64, death: u64) -> u32 {
        if at >= self.top() {
            return self.push(at, size, death);
        }
        let holds = |(length, from, _): &&(u64, u64, u32)| *from <= at && at + size <= from + length;
        let hole = self.holes.range((size, 0, 0)..).find(holds).copied();
        let (_, _, id) = hole.expect("what is to come keeps its addresses");
        self.put(id, at, size, death)
    }

    /// Places a buffer within a hole.
    fn put(&mut self, id: u32, at: u64, size: u64, death: u64) -> u32 {
        let Block { from, to, below, above, .. } = self.blocks[id as usize];
        self.holes.remove(&(to - from, from, id));
        self.blocks[id as usize] = Block { from: at, to: at + size, below, above, death: Some(death) };
        if at > from {
            let hole = self.link(from, at, below, id, None);
            self.hole(hole);
        }
        if to > at + size {
            let hole = self.link(at + size, to, id, above, None);
            self.hole(hole);
        }
        id
    }

    /// Frees what a buffer holds.
    pub fn release(&mut self, id: u32) {
        let Block { below, above, .. } = self.blocks[id as usize];
        self.blocks[id as usize].death = None;
        for beside in [below, above] {
            let Some(block) = self.blocks.get(beside as usize).copied().filter(|b| b.death.is_none()) else { continue };
            self.holes.remove(&(block.to - block.from, block.from, beside));
            self.unlink(beside);
            let merged = &mut self.blocks[id as usize];
            (merged.from, merged.to) = (merged.from.min(block.from), merged.to.max(block.to));
        }
        if self.last == id {
            self.unlink(id);
        } else {
            self.hole(id);
        }
    }

    /// Where a buffer's bytes begin.
    pub fn start(&self, id: u32) -> u64 {
        self.blocks[id as usize].from
    }

    /// Finds where so many bytes may go. What is taken later is in order of address.
    fn find(&mut self, size: u64, alignment: u64, ahead: &[Ahead]) {
        let (blocks, rooms) = (&self.blocks, &mut self.rooms);
        rooms.clear();
        let dies = |id: u32| blocks.get(id as usize).and_then(|b| b.death);
        let sure = || self.holes.range((size.saturating_add(alignment - 1), 0, 0)..).next();
        let near = self.holes.range((size, 0, 0)..);
        if ahead.is_empty() {
            let fits = |from: u64, to: u64| from.next_multiple_of(alignment) + size <= to;
            for (_, from, id) in near.take(TRIES).chain(sure().filter(|_| alignment > 1)) {
                let Block { to, below, above, .. } = blocks[*id as usize];
                if fits(*from, to) {
                    rooms.push(Room { block: *id, from: *from, to, below: dies(below), above: dies(above) });
                }
            }
            return;
        }
        for (length, from, id) in near.take(TRIES_AHEAD) {
            let Block { below, above, .. } = blocks[*id as usize];
            let mut room = Room { block: *id, from: *from, to: *from, below: dies(below), above: None };
            let first = ahead.partition_point(|a| a.to <= *from);
            let end = Ahead { from: from + length, to: from + length, birth: 0 };
            for next in ahead[first..].iter().take_while(|a| a.from < end.from).chain([&end]) {
                (room.to, room.above) = (next.from, if next == &end { dies(above) } else { Some(next.birth) });
                if room.from.next_multiple_of(alignment) + size <= room.to {
                    rooms.push(room);
                }
                (room.from, room.below) = (room.from.max(next.to), Some(next.birth));
            }
            if rooms.len() >= TRIES {
                return;
            }
        }
    }

    /// Where so many bytes go; they are taken. What is taken later, but before the death, is in order of address and
    /// does not overlap in it. The sum of sizes and alignments can be counted.
    pub fn take(&mut self, size: u64, alignment: u64, death: u64, fit: Fit, ahead: &[Ahead]) -> u32 {
        self.find(size, alignment, ahead);
        let Some(least) = self.rooms.iter().map(|r| r.to - r.from).min() else {
            return self.push(above(self.top(), size, alignment, ahead), size, death);
        };
        let blur = |d: u64, block: u32| {
            let some = if fit.salt == 0 { 0 } else { super::search::mix(fit.salt ^ u64::from(block)) >> 48 };
            d.saturating_add(((u128::from(d) * u128::from(some)) >> 16) as u64)
        };
        let most = least + (size / 100).saturating_mul(fit.hundredths);
        let (mut best, mut chosen) = (u64::MAX, None);
        for room in self.rooms.iter().filter(|r| r.to - r.from <= most) {
            let apart = |other: Option<u64>| other.map_or(u64::MAX, |d| d.abs_diff(death));
            let (below, above) = (apart(room.below), apart(room.above));
            let cost = if room.to - room.from == size { 0 } else { blur(below.min(above), room.block) };
            if cost < best || chosen.is_none() {
                let (low, high) = (room.from.next_multiple_of(alignment), (room.to - size) / alignment * alignment);
                (best, chosen) = (cost, Some((room.block, if below <= above { low } else { high })));
            }
        }
        let (id, at) = chosen.expect("the least is one of them");
        self.put(id, at, size, death)
    }
}

/// The first address from `top` on where so many bytes are free.
pub fn above(top: u64, size: u64, alignment: u64, ahead: &[Ahead]) -> u64 {
    let mut at = top.next_multiple_of(alignment);
    for next in &ahead[ahead.partition_point(|a| a.to <= at)..] {
        if next.from >= at + size {
            break;
        }
        at = at.max(next.to.next_multiple_of(alignment));
    }
    at
}
