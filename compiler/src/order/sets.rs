//! Sets of tasks that are done, as bits: what searches for orders remember.

use super::net::{Piece, Step};
use std::hash::{BuildHasherDefault, Hasher};

/// Words that a set of tasks needs: searches are made for a few of these numbers.
pub const WORDS_MAX: usize = 32;

/// Some of the tasks of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set<const W: usize>([u64; W]);

impl<const W: usize> Set<W> {
    pub const EMPTY: Set<W> = Set([0; W]);

    pub fn has(&self, task: u32) -> bool {
        self.0[task as usize / 64] >> (task % 64) & 1 == 1
    }

    pub fn flip(&mut self, task: u32) {
        self.0[task as usize / 64] ^= 1 << (task % 64);
    }

    /// Its tasks, rising.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0u32..).zip(self.0).flat_map(|(word, bits)| {
            let rest = |bits: &u64| Some(bits & (bits - 1)).filter(|b| *b != 0);
            std::iter::successors(Some(bits).filter(|b| *b != 0), rest).map(move |b| 64 * word + b.trailing_zeros())
        })
    }
}

/// A moment of some order: what is done, what can run, and what is live.
#[derive(Clone, Copy, Debug)]
pub struct Moment<const W: usize> {
    pub done: Set<W>,
    pub ready: Set<W>,
    /// Tells the set from others.
    pub key: u128,
    pub live: u128,
}

impl<const W: usize> Moment<W> {
    /// Before all tasks.
    pub fn start(piece: &Piece) -> Moment<W> {
        let before = piece.tensors.iter().filter(|t| t.before).map(|t| u128::from(t.bytes));
        let mut ready = Set::EMPTY;
        (0..piece.len() as u32).filter(|t| piece.preds[*t as usize].is_empty()).for_each(|t| ready.flip(t));
        Moment { done: Set::EMPTY, ready, key: 0, live: piece.base + before.sum::<u128>() }
    }

    /// What a task would hold and leave.
    pub fn step(&self, piece: &Piece, task: u32) -> Step {
        let (mut held, mut gone) = (self.live, 0);
        for t in &piece.operands[task as usize] {
            let t = &piece.tensors[*t as usize];
            if !t.before && !t.users.iter().any(|u| self.done.has(*u)) {
                held += u128::from(t.bytes);
            }
            if !t.after && t.users.iter().all(|u| *u == task || self.done.has(*u)) {
                gone += u128::from(t.bytes);
            }
        }
        Step { held: held + u128::from(piece.workspace[task as usize]), live: held - gone }
    }

    /// After a task, which leaves so much.
    pub fn then(&self, piece: &Piece, task: u32, live: u128) -> Moment<W> {
        let mut next = Moment { key: self.key ^ mark(piece, task), live, ..*self };
        next.done.flip(task);
        next.ready.flip(task);
        for s in &piece.succs[task as usize] {
            if piece.preds[*s as usize].iter().all(|p| next.done.has(*p)) {
                next.ready.flip(*s);
            }
        }
        next
    }
}

/// A number for a task, such that the numbers of a set, added without carry, tell it from others: a bit where there are
/// enough, else 128 bits of which no two sets of a search will have the same.
pub fn mark(piece: &Piece, task: u32) -> u128 {
    if piece.len() <= 128 {
        return 1 << task;
    }
    let mix = |seed: u64| {
        let mut z = (u64::from(task) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(seed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u128::from(z ^ (z >> 31))
    };
    mix(0x243f_6a88_85a3_08d3) << 64 | mix(0x1319_8a2e_0370_7344)
}

/// Spreads keys by two multiplications: there are millions, and the maps are never walked through.
#[derive(Clone, Debug, Default)]
pub struct Spread(u64);

/// For maps from keys.
pub type Spreads = BuildHasherDefault<Spread>;

impl Hasher for Spread {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    }

    fn write_u128(&mut self, key: u128) {
        let mixed = (key as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (key >> 64) as u64;
        self.0 = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        self.0 ^= self.0 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
