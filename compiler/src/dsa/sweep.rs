//! Places buffers in the order of time, from the time of the peak outwards.
//!
//! Reads:    the buffers, as if without gaps.
//! Decides:  one offset for each, as low an arena as one pass finds.
//! Promises: buffers alive together share no byte; offsets are aligned; the work is near linear.
//! Why:      what is alive at the peak is stacked without a hole. Away from it there is room for holes, and deaths are
//!           known beforehand: of the holes that fit closely, a buffer takes the one whose neighbour dies when it
//!           does, so that both leave one large hole.

use super::Buffer;
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// How what is alive at the first moment is stacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stack {
    /// What lives longest lies lowest.
    Width,
    /// What dies last lies lowest.
    Death,
    /// What is born first lies lowest.
    Birth,
    /// The largest lies lowest.
    Size,
}

/// Which hole a buffer goes into: the one beside the nearest death, of those that fit closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// How much larger than the smallest they may be, in hundredths of the buffer.
    pub hundredths: u64,
}

/// No block.
const NONE: u32 = u32::MAX;

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
#[derive(Debug)]
struct Space {
    blocks: Vec<Block>,
    spare: Vec<u32>,
    /// Holes by length, start and block.
    holes: BTreeSet<(u64, u64, u32)>,
    last: u32,
}

/// Holes looked at for one buffer before one that is large enough whatever its start.
const TRIES: usize = 16;

impl Space {
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

    /// Places a buffer on all others.
    fn push(&mut self, size: u64, alignment: u64, death: u64) -> u32 {
        let top = self.top();
        let at = top.next_multiple_of(alignment);
        if at > top {
            let id = self.link(top, at, self.last, NONE, None);
            self.hole(id);
        }
        self.link(at, at + size, self.last, NONE, Some(death))
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

    fn release(&mut self, id: u32) {
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

    /// Where so many bytes go; they are taken. The sum of sizes and alignments can be counted.
    fn take(&mut self, size: u64, alignment: u64, death: u64, fit: Fit) -> u32 {
        let places = |id: u32| {
            let block = &self.blocks[id as usize];
            let low = block.from.next_multiple_of(alignment);
            (low + size <= block.to).then(|| (block, low, (block.to - size) / alignment * alignment))
        };
        let sure = || self.holes.range((size.saturating_add(alignment - 1), 0, 0)..).next();
        let near = self.holes.range((size, 0, 0)..).take(TRIES);
        let mut fitting =
            near.chain(sure()).filter_map(|(length, _, id)| Some((*length, *id, places(*id)?))).peekable();
        let Some((least, id, (_, low, _))) = fitting.peek().copied() else { return self.push(size, alignment, death) };
        let dies = |id: u32| self.blocks.get(id as usize).and_then(|b| b.death);
        let apart = |id: u32| dies(id).map_or(u64::MAX, |d| d.abs_diff(death));
        let most = least + (size / 100).saturating_mul(fit.hundredths);
        let (mut best, mut chosen) = (u64::MAX, (id, low));
        for (length, id, (block, low, high)) in fitting.take_while(|(length, ..)| *length <= most) {
            let (below, above) = (apart(block.below), apart(block.above));
            let cost = if length == size { 0 } else { below.min(above) };
            if cost < best {
                (best, chosen) = (cost, (id, if below <= above { low } else { high }));
            }
        }
        let (id, at) = chosen;
        self.put(id, at, size, death)
    }
}

/// One way through time, of all that is not alive at first.
#[derive(Debug)]
struct Way {
    /// By birth that way, the largest first: birth, death, buffer.
    births: Vec<(u64, u64, u32)>,
    /// By death, with those that are alive at first.
    deaths: Vec<(u64, u32)>,
}

/// What every sweep of the same buffers reads.
#[derive(Debug)]
pub struct Plan<'a> {
    buffers: &'a [Buffer],
    /// Alive at the moment of the peak.
    first: Vec<u32>,
    ways: [Way; 2],
}

impl<'a> Plan<'a> {
    /// Plans sweeps from this moment; the sum of sizes and alignments can be counted.
    pub fn new(buffers: &'a [Buffer], moment: u64) -> Plan<'a> {
        let all = 0..buffers.len() as u32;
        let (first, rest): (Vec<u32>, Vec<u32>) =
            all.partition(|i| buffers[*i as usize].lower <= moment && moment < buffers[*i as usize].upper);
        let way = |back: bool| {
            let life = |i: &u32| {
                let b = &buffers[*i as usize];
                if back { (u64::MAX - b.upper, u64::MAX - b.lower) } else { (b.lower, b.upper) }
            };
            let goes = |i: &&u32| (buffers[**i as usize].lower > moment) != back;
            let own: Vec<u32> = rest.iter().filter(goes).copied().collect();
            let mut births: Vec<(u64, u64, u32)> = own.iter().map(|i| (life(i).0, life(i).1, *i)).collect();
            births.sort_unstable_by_key(|(from, _, i)| (*from, Reverse(buffers[*i as usize].size), *i));
            let mut deaths: Vec<(u64, u32)> = own.iter().chain(&first).map(|i| (life(i).1, *i)).collect();
            deaths.sort_unstable();
            Way { births, deaths }
        };
        Plan { buffers, ways: [way(false), way(true)], first }
    }

    /// Places all.
    pub fn sweep(&self, stack: Stack, fit: Fit) -> Vec<u64> {
        let mut at = vec![0; self.buffers.len()];
        let mut first = self.first.clone();
        first.sort_unstable_by_key(|i| {
            let b = &self.buffers[*i as usize];
            let key = match stack {
                Stack::Width => b.upper - b.lower,
                Stack::Death => b.upper,
                Stack::Birth => u64::MAX - b.lower,
                Stack::Size => b.size,
            };
            (Reverse(key), Reverse(b.size), *i)
        });
        let mut block = vec![NONE; self.buffers.len()];
        for (way, back) in self.ways.iter().zip([false, true]) {
            let mut space = Space { blocks: Vec::new(), spare: Vec::new(), holes: BTreeSet::new(), last: NONE };
            for i in &first {
                let b = &self.buffers[*i as usize];
                let id = space.push(b.size, b.alignment, if back { u64::MAX - b.lower } else { b.upper });
                block[*i as usize] = id;
                at[*i as usize] = space.blocks[id as usize].from;
            }
            let mut deaths = way.deaths.iter().peekable();
            for (from, to, i) in &way.births {
                while let Some((_, dead)) = deaths.next_if(|(death, _)| death <= from) {
                    space.release(block[*dead as usize]);
                }
                let i = *i as usize;
                let b = &self.buffers[i];
                block[i] = space.take(b.size, b.alignment, *to, fit);
                at[i] = space.blocks[block[i] as usize].from;
            }
        }
        at
    }
}
