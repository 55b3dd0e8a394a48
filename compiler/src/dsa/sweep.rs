//! Places buffers in the order of time, from the time of the peak outwards.
//!
//! Reads:    the buffers, as if without gaps; those that have their places already.
//! Decides:  one offset for each other, as low an arena as few passes find.
//! Promises: buffers alive together share no byte; offsets are aligned; the work is near linear.
//! Why:      what is alive at the peak is stacked without a hole. Away from it there is room for holes. Where that is
//!           not enough in one pass, it mostly is in another that chose differently just before: so a pass goes back a
//!           little and on again, and gives up a little height only where many ways have failed.

use super::Buffer;
use super::space::{Ahead, Fit, NONE, Space};
use std::cmp::Reverse;
use std::collections::VecDeque;

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
    /// What has most of its life ahead lies lowest: both ways, what ends first lies together.
    Ahead,
}

/// One way through time, of all that is not alive at first.
#[derive(Debug)]
struct Way {
    /// By birth that way, the largest first: birth, death, buffer.
    births: Vec<(u64, u64, u32)>,
    /// By death, with those that are alive at first.
    deaths: Vec<(u64, u32)>,
    /// The addresses of those that have their places, by birth.
    ahead: Vec<Ahead>,
}

/// What every sweep of the same buffers reads.
#[derive(Debug)]
pub struct Plan<'a> {
    buffers: &'a [Buffer],
    moment: u64,
    /// Alive at the moment of the peak.
    first: Vec<u32>,
    ways: [Way; 2],
    /// By buffer, where there are any.
    fixed: Vec<Option<u64>>,
}

/// How far a sweep has come.
#[derive(Clone, Debug)]
struct Run {
    space: Space,
    /// Births and deaths behind it.
    birth: usize,
    death: usize,
}

/// What a sweep writes.
struct Layout {
    at: Vec<u64>,
    block: Vec<u32>,
    /// What is yet to come in a life, while it is placed.
    ahead: Vec<Ahead>,
}

/// What a pass is held to.
struct Held {
    peak: u64,
    lid: u64,
    /// Placements that it may still make; then it goes on as high as it comes.
    left: usize,
    /// Births between two runs that it may go back to.
    stretch: usize,
}

/// Runs that a pass may go back to.
const MARKS: usize = 16;

/// Tries at one height.
const TRIES: u32 = 10;

/// A height is given up by this part of the peak, or this part of what is above it already.
const STEP: (u64, u64) = (400, 4);

impl<'a> Plan<'a> {
    /// Plans sweeps from this moment; the sum of sizes and alignments can be counted. `fixed` are buffers that have
    /// their places.
    pub fn new(buffers: &'a [Buffer], moment: u64, fixed: &[(u32, u64)]) -> Plan<'a> {
        let all = 0..buffers.len() as u32;
        let (first, rest): (Vec<u32>, Vec<u32>) =
            all.partition(|i| buffers[*i as usize].lower <= moment && moment < buffers[*i as usize].upper);
        let way = |back: bool| {
            let life = |i: &u32| life(&buffers[*i as usize], back);
            let goes = |i: &&u32| (buffers[**i as usize].lower > moment) != back;
            let own: Vec<u32> = rest.iter().filter(goes).copied().collect();
            let mut births: Vec<(u64, u64, u32)> = own.iter().map(|i| (life(i).0, life(i).1, *i)).collect();
            births.sort_unstable_by_key(|(from, _, i)| (*from, Reverse(buffers[*i as usize].size), *i));
            let mut deaths: Vec<(u64, u32)> = own.iter().chain(&first).map(|i| (life(i).1, *i)).collect();
            deaths.sort_unstable();
            let later = fixed.iter().filter(|(i, _)| (buffers[*i as usize].lower > moment) != back);
            let later = later.filter(|(i, _)| first.binary_search(i).is_err());
            let taken =
                |(i, at): &(u32, u64)| Ahead { from: *at, to: at + buffers[*i as usize].size, birth: life(i).0 };
            let mut ahead: Vec<Ahead> = later.map(taken).collect();
            ahead.sort_unstable_by_key(|a| (a.birth, a.from));
            Way { births, deaths, ahead }
        };
        let ways = [way(false), way(true)];
        let mut places = vec![None; if fixed.is_empty() { 0 } else { buffers.len() }];
        for (i, at) in fixed {
            places[*i as usize] = Some(*at);
        }
        Plan { buffers, moment, ways, first, fixed: places }
    }

    fn place(&self, i: usize) -> Option<u64> {
        self.fixed.get(i).copied().flatten()
    }

    /// Stacks what is alive at first; those in order of address.
    fn stack(&self, stack: Stack, layout: &mut Layout) -> Vec<u32> {
        let mut first = self.first.clone();
        first.sort_unstable_by_key(|i| {
            let b = &self.buffers[*i as usize];
            let key = match stack {
                Stack::Width => b.upper - b.lower,
                Stack::Death => b.upper,
                Stack::Birth => u64::MAX - b.lower,
                Stack::Size => b.size,
                // A part of its life, in 2^64ths.
                Stack::Ahead => ((u128::from(b.upper - self.moment) << 63) / u128::from(b.upper - b.lower)) as u64,
            };
            (self.place(*i as usize).is_none(), Reverse(key), Reverse(b.size), *i)
        });
        let fixed = first.partition_point(|i| self.place(*i as usize).is_some());
        first[..fixed].sort_unstable_by_key(|i| self.place(*i as usize));
        let mut space = Space::new();
        for i in &first {
            let b = &self.buffers[*i as usize];
            let id = match self.place(*i as usize) {
                Some(at) => space.put_at(at, b.size, b.upper),
                None => {
                    layout.ahead.clear();
                    for back in [false, true] {
                        let death = life(b, back).1;
                        layout.ahead.extend(self.ways[back as usize].ahead.iter().take_while(|a| a.birth < death));
                    }
                    merge(&mut layout.ahead);
                    space.take(b.size, b.alignment, b.upper, Fit::within(0), &layout.ahead)
                }
            };
            layout.at[*i as usize] = space.start(id);
        }
        first.sort_unstable_by_key(|i| layout.at[*i as usize]);
        first
    }

    /// A run at its beginning.
    fn begin(&self, first: &[u32], back: bool, layout: &mut Layout) -> Run {
        let mut space = Space::new();
        for i in first {
            let b = &self.buffers[*i as usize];
            layout.block[*i as usize] = space.put_at(layout.at[*i as usize], b.size, life(b, back).1);
        }
        Run { space, birth: 0, death: 0 }
    }

    /// Goes on for some births; false where one would end above the lid.
    fn go(&self, way: &Way, run: &mut Run, births: usize, fit: Fit, lid: u64, layout: &mut Layout) -> bool {
        let end = (run.birth + births).min(way.births.len());
        while run.birth < end {
            let (from, to, i) = way.births[run.birth];
            while let Some((_, dead)) = way.deaths.get(run.death).filter(|(death, _)| *death <= from) {
                run.space.release(layout.block[*dead as usize]);
                run.death += 1;
            }
            let i = i as usize;
            let b = &self.buffers[i];
            let id = match self.place(i) {
                Some(at) => run.space.put_at(at, b.size, to),
                None => {
                    layout.ahead.clear();
                    let next = way.ahead.partition_point(|a| a.birth < from);
                    layout.ahead.extend(way.ahead[next..].iter().take_while(|a| a.birth < to));
                    merge(&mut layout.ahead);
                    run.space.take(b.size, b.alignment, to, fit, &layout.ahead)
                }
            };
            (layout.block[i], layout.at[i]) = (id, run.space.start(id));
            run.birth += 1;
            if layout.at[i] + b.size > lid {
                return false;
            }
        }
        true
    }

    fn layout(&self) -> Layout {
        let n = self.buffers.len();
        Layout { at: vec![0; n], block: vec![NONE; n], ahead: Vec::new() }
    }

    /// Places all.
    pub fn sweep(&self, stack: Stack, fit: Fit) -> Vec<u64> {
        let mut layout = self.layout();
        let first = self.stack(stack, &mut layout);
        for (way, back) in self.ways.iter().zip([false, true]) {
            let mut run = self.begin(&first, back, &mut layout);
            self.go(way, &mut run, way.births.len(), fit, u64::MAX, &mut layout);
        }
        layout.at
    }

    /// Places all, going back where something would end above `lid`, as long as so many placements last.
    pub fn climb(&self, stack: Stack, fit: Fit, (peak, mut lid): (u64, u64), most: usize) -> Vec<u64> {
        let mut layout = self.layout();
        let first = self.stack(stack, &mut layout);
        // Each way may use half of what is there beyond its own births.
        let spare = most.saturating_sub(self.buffers.len()) / 2;
        for (way, back) in self.ways.iter().zip([false, true]) {
            let run = self.begin(&first, back, &mut layout);
            let left = way.births.len() + spare;
            let mut held = Held { peak, lid, left, stretch: (first.len() / 4).max(32) };
            self.climb_way(way, run, fit, &mut held, &mut layout);
            lid = held.lid;
        }
        layout.at
    }

    /// One way, held to a height that it raises where many tries have failed.
    fn climb_way(&self, way: &Way, run: Run, fit: Fit, held: &mut Held, layout: &mut Layout) {
        let mut marks = VecDeque::from([run]);
        let (mut reached, mut tries, mut salt) = (0, 0, 0);
        while let Some(mark) = marks.back().filter(|m| m.birth < way.births.len()) {
            let mut run = mark.clone();
            let begun = run.birth;
            let lid = if held.left > way.births.len() - begun { held.lid } else { u64::MAX };
            let fit = if begun < reached { Fit { salt, ..fit } } else { fit };
            let fits = self.go(way, &mut run, held.stretch, fit, lid, layout);
            held.left = held.left.saturating_sub(run.birth - begun);
            if fits {
                if run.birth > reached {
                    (reached, tries) = (run.birth, 0);
                }
                marks.push_back(run);
                if marks.len() > MARKS {
                    marks.pop_front();
                }
                continue;
            }
            reached = reached.max(run.birth);
            tries += 1;
            salt += 1;
            if tries % TRIES == 0 {
                held.lid += (held.peak / STEP.0).max(held.lid.saturating_sub(held.peak) / STEP.1).max(1);
            }
            // Farther back each third time.
            let back = (1usize << (tries % TRIES / 3)) - 1;
            marks.truncate(marks.len().saturating_sub(back).max(1));
        }
    }
}

/// Birth and death, going forth or back in time.
fn life(buffer: &Buffer, back: bool) -> (u64, u64) {
    if back { (u64::MAX - buffer.upper, u64::MAX - buffer.lower) } else { (buffer.lower, buffer.upper) }
}

/// Puts addresses in order, and together where they overlap.
fn merge(ahead: &mut Vec<Ahead>) {
    if ahead.len() < 2 {
        return;
    }
    ahead.sort_unstable();
    let mut kept = 0;
    for next in 1..ahead.len() {
        let other = ahead[next];
        let last = &mut ahead[kept];
        if other.from < last.to {
            (last.to, last.birth) = (last.to.max(other.to), last.birth.min(other.birth));
        } else {
            kept += 1;
            ahead[kept] = other;
        }
    }
    ahead.truncate(kept + 1);
}
