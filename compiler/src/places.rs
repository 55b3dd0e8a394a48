//! Tries addresses in many ways, where few stays come and go.
//!
//! Reads:    stays of one choice, the room beside what never leaves, times of tasks, rates of links.
//! Decides:  the address of each stay that comes and goes.
//! Promises: stays that meet share no byte; the best step, by the placer's model of link and engine, of the addresses that
//!           were tried.
//! Why:      which bytes come free when decides how early each copy can begin. One by one each is placed well; a few
//!           tensors of like sizes, as of a small model, are placed well only together.

use crate::machine::Machine;
use crate::stay::{Level, Stay};
use crate::stream::{Streamed, early};
use berth_ir::lifetime::Lifetimes;

/// Stays that come and go, at most.
const MOVING_MAX: usize = 12;

/// Tasks of a step, at most.
const TASKS_MAX: usize = 24;

/// Addresses that are tried for a stay, at most.
const ADDRESSES_MAX: usize = 32;

/// Ways in which all of them are tried to lie: first one after the other, which is all there are of very few stays; then
/// drawn, from a seed that is always the same, and bettered by moving one stay at a time.
pub const WAYS_MAX: usize = 1_200;
const IN_ORDER_MAX: usize = 400;
const DRAWN_MAX: usize = 8;

/// Of stays laid down in order, how many come to each way that all of them lie: most lead nowhere.
const LAID_MAX: usize = 8;

struct Ways<'a> {
    lifetimes: &'a Lifetimes,
    machine: &'a Machine<'a>,
    stays: &'a [Stay],
    /// Those that come and go, the largest first, with their sizes.
    moving: Vec<(usize, u64)>,
    /// Sums of sizes, from the floor on: in any layout all can be let down until each lies at one.
    sums: Vec<u64>,
    room: u64,
    at: Vec<u64>,
    left: usize,
    /// Stays that may still be laid down in order.
    laid: usize,
    best: Option<(Streamed, Vec<u64>)>,
}

/// The addresses with which a step is shortest, of at most `ways` that are tried; `at` has those of what never leaves, all
/// below `floor`. Nothing where more comes and goes than this is for, or nothing fits. Takes what it tried from `ways`.
pub fn best(
    lifetimes: &Lifetimes,
    machine: &Machine,
    stays: &[Stay],
    at: Vec<u64>,
    (floor, room): (u64, u64),
    ways: &mut usize,
) -> Option<Streamed> {
    let grain = machine.device.alignment;
    let moves = |s: &Stay| s.level == Level::Device && !s.forever && s.bytes > 0;
    let all = stays.iter().enumerate().filter(|(_, s)| moves(s));
    let mut moving: Vec<(usize, u64)> = all.map(|(i, s)| (i, s.bytes.next_multiple_of(grain))).collect();
    moving.sort_by_key(|(i, size)| (std::cmp::Reverse(*size), *i));
    let parts = stays.iter().any(|s| s.part.is_some());
    if moving.len() > MOVING_MAX || lifetimes.tasks.len() > TASKS_MAX || parts || floor > room {
        return None;
    }
    let mut sums = vec![floor];
    for (_, size) in &moving {
        let more: Vec<u64> = sums.iter().map(|sum| sum.saturating_add(*size)).collect();
        sums.extend(more);
        sums.sort_unstable();
        sums.dedup();
        sums.retain(|sum| *sum <= room);
        sums.truncate(ADDRESSES_MAX);
    }
    let most = (*ways).min(WAYS_MAX);
    let left = most.min(IN_ORDER_MAX);
    let laid = left * LAID_MAX;
    let mut search = Ways { lifetimes, machine, stays, moving, sums, room, at, left, laid, best: None };
    search.lay(0);
    let all = search.left > 0 && search.laid > 0;
    let mut used = left - search.left;
    if !all {
        search.left = most - left;
        search.climb(search.best.as_ref().map(|(_, at)| at.clone()));
        for seed in 0..DRAWN_MAX as u64 {
            let drawn = search.drawn(seed);
            search.climb(drawn);
        }
        used += most - left - search.left;
    }
    *ways -= used;
    search.best.map(|(streamed, _)| streamed)
}

impl Ways<'_> {
    /// Lays down the stays from the `n`th on.
    fn lay(&mut self, n: usize) {
        let Some((i, size)) = self.moving.get(n).copied() else {
            let at = self.at.clone();
            self.weigh(&at);
            return;
        };
        for place in 0..self.sums.len() {
            let from = self.sums[place];
            if self.left == 0 || self.laid == 0 || from + size > self.room {
                return;
            }
            if self.is_free(n, &self.at, &self.moving[..n], from) {
                self.at[i] = from;
                self.laid -= 1;
                self.lay(n + 1);
            }
        }
    }

    /// Whether the `n`th stay shares no byte at an address with others that it meets.
    fn is_free(&self, n: usize, at: &[u64], others: &[(usize, u64)], from: u64) -> bool {
        let (i, size) = self.moving[n];
        let period = self.lifetimes.tasks.len() as i64;
        from + size <= self.room
            && others.iter().filter(|(m, _)| *m != i).all(|(m, other)| {
                let apart = at[*m] + other <= from || from + size <= at[*m];
                apart || !self.stays[i].meets(&self.stays[*m], period)
            })
    }

    /// Addresses that are drawn; nothing where one stay finds no place any more.
    fn drawn(&self, seed: u64) -> Option<Vec<u64>> {
        let mut at = self.at.clone();
        let mut state = seed;
        for (n, (i, _)) in self.moving.iter().enumerate() {
            let free: Vec<u64> =
                self.sums.iter().copied().filter(|from| self.is_free(n, &at, &self.moving[..n], *from)).collect();
            // Knuth's generator (MMIX).
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            at[*i] = *free.get((state >> 33) as usize % free.len().max(1))?;
        }
        Some(at)
    }

    /// Moves one stay at a time as long as that is better than anything so far, or than where it began.
    fn climb(&mut self, from: Option<Vec<u64>>) {
        let Some(mut at) = from else { return };
        let Some(mut step) = self.weigh(&at) else { return };
        let mut n = 0;
        let mut since = 0;
        while since < self.moving.len() {
            let i = self.moving[n].0;
            let before = at[i];
            since += 1;
            for place in 0..self.sums.len() {
                let from = self.sums[place];
                if from == before || !self.is_free(n, &at, &self.moving, from) {
                    continue;
                }
                let old = std::mem::replace(&mut at[i], from);
                match self.weigh(&at) {
                    Some(found) if found < step => (step, since) = (found, 0),
                    _ => at[i] = old,
                }
            }
            n = (n + 1) % self.moving.len();
        }
    }

    /// The step with these addresses; nothing when enough has been tried.
    fn weigh(&mut self, at: &[u64]) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        let found = early(self.lifetimes, self.machine, self.stays, at.to_vec())?;
        let step = found.step;
        if self.best.as_ref().is_none_or(|(best, _)| step < best.step) {
            self.best = Some((found, at.to_vec()));
        }
        Some(step)
    }
}
