//! Lowers a layout: what lies above a lid is placed again, where need be in the place of what is easier to place.
//!
//! Reads:    buffers in order of birth, as if without gaps; a layout.
//! Decides:  offsets again, as long as the work allowed lasts.
//! Promises: buffers alive together share no byte; offsets are aligned; the height is never more than it was.
//! Why:      a sweep leaves few buffers above the load. Each goes into the tightest hole that is free all its life, or
//!           drives out those that weigh least; what finds no hole gains weight, so that none is driven out for ever
//!           (guided ejection search, Nagata and Bräysy 2009). Holes are found without lists of neighbours: time is
//!           cut into windows of several widths, each with its buffers in order of address.

use super::{Buffer, height};
use std::collections::BinaryHeap;

/// Work that a repair may do for each buffer, and in all: entries looked at, a fifth of a second's worth.
const WORK: (u64, u64) = (2000, 40_000_000);

/// A placed buffer, with all that is read of it when holes are sought: windows are long, and looked through in order.
#[derive(Clone, Copy, Debug)]
struct Placed {
    at: u64,
    end: u64,
    buffer: u32,
    until: u32,
}

/// The buffers of one window of time in order of address, by several widths.
struct Windows {
    /// Half the width, in births, and the windows, which overlap by half.
    levels: Vec<(usize, Vec<Vec<Placed>>)>,
}

/// One that is alive with the buffer in question.
#[derive(Clone, Copy, Debug)]
struct Met {
    /// Above all others that are met stands one without a buffer, at the end of addresses.
    at: u64,
    end: u64,
    buffer: u32,
    /// The highest end of those before it.
    top: u64,
}

/// How many widths of windows there are, each so many times the one before. What lives longer than the widest is sought
/// in several: wider ones would cost more for every buffer that moves than they would save the few.
const WIDTHS: [usize; 2] = [1, WIDER];
const WIDER: usize = 4;

/// What finds no hole weighs so many times more from then on, up to what sums can still tell apart from no sum.
const HARDER: f64 = 1.2;
const HARDEST: f64 = 1e250;

struct Repair<'a> {
    buffers: &'a [Buffer],
    /// How many are born before each dies: they meet just where each is born before the other dies.
    until: Vec<u32>,
    at: Vec<u64>,
    windows: Windows,
    /// How hard it is to place.
    weight: Vec<f64>,
    work: u64,
    /// Those met, in order of address.
    met: Vec<Met>,
    sums: Vec<f64>,
}

impl<'a> Repair<'a> {
    fn new(buffers: &'a [Buffer], at: &[u64]) -> Repair<'a> {
        let n = buffers.len();
        let until: Vec<u32> = buffers.iter().map(|b| buffers.partition_point(|o| o.lower < b.upper) as u32).collect();
        let births = |i: usize| until[i] as usize - i;
        let alive = (0..n).map(births).sum::<usize>() / n.max(1);
        let half = (alive / 2).max(16);
        let levels = WIDTHS.map(|wide| (half * wide, vec![Vec::new(); n.div_ceil(half * wide)])).to_vec();
        let weight = (0..n).map(|i| buffers[i].size as f64 * births(i) as f64).collect();
        let mut repair = Repair {
            buffers,
            until,
            at: at.to_vec(),
            windows: Windows { levels },
            weight,
            work: 0,
            met: Vec::new(),
            sums: Vec::new(),
        };
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_unstable_by_key(|i| (at[*i], *i));
        for i in order {
            let placed = repair.placed(i);
            for (half, windows) in &mut repair.windows.levels {
                for window in touched(i, placed.until as usize, *half) {
                    windows[window].push(placed);
                }
            }
        }
        repair
    }

    fn end(&self, i: usize) -> u64 {
        self.at[i] + self.buffers[i].size
    }

    fn placed(&self, i: usize) -> Placed {
        Placed { at: self.at[i], end: self.end(i), buffer: i as u32, until: self.until[i] }
    }

    fn remove(&mut self, i: usize) {
        let key = (self.at[i], i as u32);
        for (half, windows) in &mut self.windows.levels {
            for window in touched(i, self.until[i] as usize, *half) {
                let place = windows[window].partition_point(|p| (p.at, p.buffer) < key);
                windows[window].remove(place);
                self.work += 16 + windows[window].len() as u64 / 16;
            }
        }
    }

    fn insert(&mut self, i: usize, at: u64) {
        self.at[i] = at;
        let placed = self.placed(i);
        let key = (at, i as u32);
        for (half, windows) in &mut self.windows.levels {
            for window in touched(i, self.until[i] as usize, *half) {
                let place = windows[window].partition_point(|p| (p.at, p.buffer) < key);
                windows[window].insert(place, placed);
                self.work += 16 + windows[window].len() as u64 / 16;
            }
        }
    }

    /// Finds what is placed and alive with a buffer.
    fn meet(&mut self, i: usize) {
        let until = self.until[i];
        let lives = until as usize - i;
        let level = self.windows.levels.iter().find(|(half, _)| *half >= lives);
        let (half, windows) = level.unwrap_or(&self.windows.levels[WIDTHS.len() - 1]);
        self.met.clear();
        // Windows overlap by half, so that every second one holds all; in later ones, what began in earlier ones is known.
        for window in (i / half..(until as usize).div_ceil(*half).max(i / half + 1)).step_by(2) {
            let known = if window == i / half { 0 } else { (window * half) as u32 };
            self.work += windows[window].len() as u64;
            let met = windows[window].iter().filter(|p| p.buffer >= known && p.buffer < until && p.until > i as u32);
            self.met.extend(met.map(|p| Met { at: p.at, end: p.end, buffer: p.buffer, top: 0 }));
        }
        if lives > *half {
            self.met.sort_unstable_by_key(|m| (m.at, m.buffer));
        }
        let mut top = 0;
        for met in &mut self.met {
            met.top = top;
            top = top.max(met.end);
        }
        self.met.push(Met { at: u64::MAX, end: u64::MAX, buffer: u32::MAX, top });
    }

    /// The tightest hole below the lid among what was met.
    fn hole(&self, i: usize, lid: u64) -> Option<u64> {
        let Buffer { size, alignment, .. } = self.buffers[i];
        let mut best: Option<(u64, u64)> = None;
        for met in &self.met {
            let (roof, at) = (met.at.min(lid), met.top.next_multiple_of(alignment));
            if at + size <= roof && best.is_none_or(|(room, _)| roof - met.top < room) {
                best = Some((roof - met.top, at));
            }
        }
        best.map(|(_, at)| at)
    }

    /// Where a buffer drives out what weighs least: its offset, and those that it drives out.
    fn cheapest(&mut self, i: usize, lid: u64) -> (u64, Vec<u32>) {
        let Buffer { size, alignment, .. } = self.buffers[i];
        let last = self.met.len() - 1;
        self.sums.clear();
        let mut sum = 0.0;
        for met in &self.met[..last] {
            self.sums.push(sum);
            sum += self.weight[met.buffer as usize];
        }
        self.sums.push(sum);
        let mut best = (f64::INFINITY, 0, 0..0);
        // Upwards from where nothing crosses; `to` only grows.
        let mut to = 0;
        for (place, met) in self.met.iter().enumerate() {
            if met.top > met.at {
                continue;
            }
            let at = met.top.next_multiple_of(alignment);
            if at + size > lid {
                break;
            }
            while to < last && self.met[to].at < at + size {
                to += 1;
            }
            let cost = self.sums[to.max(place)] - self.sums[place];
            if cost < best.0 {
                best = (cost, at, place..to.max(place));
            }
        }
        // Downwards.
        let (mut from, mut first) = (0, 0);
        for (place, met) in self.met.iter().enumerate() {
            let roof = met.at.min(lid);
            let Some(at) = roof.checked_sub(size).filter(|_| met.top <= roof) else { continue };
            let at = at / alignment * alignment;
            while first < last && self.met[first].at < at {
                first += 1;
            }
            // What begins lower and may end higher.
            while from < last && self.met[from + 1].top <= at {
                from += 1;
            }
            let from = from.min(place);
            let first = first.min(place);
            let mut cost = self.sums[place] - self.sums[first];
            for below in self.met[from..first].iter().filter(|m| m.end > at) {
                cost += self.weight[below.buffer as usize];
            }
            self.work += first.saturating_sub(from) as u64;
            if cost < best.0 {
                best = (cost, at, from..place);
            }
        }
        self.work += 2 * last as u64;
        let (_, at, range) = best;
        let driven = self.met[range].iter().filter(|m| m.end > at && m.at < at + size);
        (at, driven.map(|m| m.buffer).collect())
    }

    /// Places all below the lid; false where the work has come to its limit before.
    fn lower(&mut self, lid: u64, limit: u64) -> bool {
        let mut waiting: BinaryHeap<(u64, u32)> = BinaryHeap::new();
        let wait = |weight: f64, i: u32| (weight.to_bits(), i);
        for i in 0..self.buffers.len() {
            if self.end(i) > lid {
                self.remove(i);
                waiting.push(wait(self.weight[i], i as u32));
            }
        }
        while let Some((_, i)) = waiting.pop() {
            if self.work > limit {
                return false;
            }
            let i = i as usize;
            self.meet(i);
            let at = match self.hole(i, lid) {
                Some(at) => at,
                None => {
                    self.weight[i] = (self.weight[i] * HARDER).min(HARDEST);
                    let (at, driven) = self.cheapest(i, lid);
                    for j in driven {
                        self.remove(j as usize);
                        waiting.push(wait(self.weight[j as usize], j));
                    }
                    at
                }
            };
            self.insert(i, at);
        }
        true
    }
}

/// The windows that hold a part of a life, from its own birth until so many are born.
fn touched(birth: usize, until: usize, half: usize) -> std::ops::RangeInclusive<usize> {
    (birth / half).saturating_sub(1)..=(until - 1) / half
}

/// Lowers a layout towards `goal`, in steps.
pub fn repair(buffers: &[Buffer], goal: u64, peak: u64, at: &mut [u64]) {
    let mut found = height(buffers, at);
    if found <= goal {
        return;
    }
    let allowed = (buffers.len() as u64 * WORK.0).min(WORK.1);
    let mut repair = Repair::new(buffers, at);
    let largest = buffers.iter().map(|b| b.size).max().unwrap_or(0);
    while found > goal {
        let lid = (peak + (found - peak) / 4 * 3).max(goal).max(largest);
        if lid >= found || !repair.lower(lid, allowed) {
            break;
        }
        at.copy_from_slice(&repair.at);
        found = height(buffers, at);
    }
}
