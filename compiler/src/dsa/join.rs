//! Joins buffers that fill a rectangle of time and addresses, as if cuts through it were undone.
//!
//! Reads:    buffers, as if without gaps.
//! Decides:  which follow one another at one address, and which lie on one another all their lives.
//! Promises: a layout of what is left is one of the buffers, as high; the work is near linear.
//! Why:      where the load is the same for long, nothing may be wasted. A rectangle that was cut in two, and each part
//!           again, is put together from the last cut to the first: at the end there are two that match in one way only.

use super::Buffer;
use super::search::mix;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Members of one life among which two are sought that match a third in size.
const SOUGHT: usize = 16;

/// What is as risky as so many times the least risk, and so much more, is stacked with it: rounds are few.
const BOLD: (usize, usize) = (16, 64);

/// No piece.
const NONE: u32 = u32::MAX;

/// What a piece is made of.
#[derive(Clone, Copy, Debug)]
enum Made {
    Buffer,
    /// The second is born when the first dies, at the same address.
    Follow(u32, u32),
    /// The second lies on the first.
    Stack(u32, u32),
}

/// A rectangle without an address.
#[derive(Clone, Copy, Debug)]
struct Piece {
    lower: u64,
    upper: u64,
    size: u64,
    made: Made,
    /// Not a part of another.
    open: bool,
    /// The piece before it with the same birth and size, death and size, life.
    next: [u32; 3],
}

const BIRTH: usize = 0;
const DEATH: usize = 1;
const LIFE: usize = 2;

impl Piece {
    fn keys(&self) -> [(u64, u64); 3] {
        [(self.lower, self.size), (self.upper, self.size), (self.lower, self.upper)]
    }
}

/// Hashes words, faster than what withstands an adversary does: maps are for look-up, and a slow one is all that an
/// adversary could have.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(u64::from(*b)));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type Last = HashMap<(u64, u64), u32, BuildHasherDefault<Mixer>>;

/// Buffers, and what they are joined to.
pub struct Joined {
    /// The buffers first; each other behind what it is made of.
    pieces: Vec<Piece>,
    /// The last piece by birth and size, death and size, life.
    last: [Last; 3],
    /// How many open pieces are born or die at a time.
    ends: HashMap<u64, u32, BuildHasherDefault<Mixer>>,
    /// Lives that have to be looked at.
    lives: Vec<(u64, u64)>,
}

impl Joined {
    /// Joins what can be.
    pub fn new(buffers: &[Buffer]) -> Joined {
        let last = || Last::with_capacity_and_hasher(buffers.len() * 2, BuildHasherDefault::default());
        let mut joined = Joined {
            pieces: Vec::with_capacity(buffers.len() * 2),
            last: [last(), last(), last()],
            lives: Vec::new(),
            ends: HashMap::with_capacity_and_hasher(buffers.len() * 2, BuildHasherDefault::default()),
        };
        for b in buffers {
            joined.add(b.lower, b.upper, b.size, Made::Buffer);
        }
        let mut looked = 0;
        loop {
            while looked < joined.pieces.len() {
                joined.follow(looked as u32);
                looked += 1;
            }
            if !joined.stack() {
                return joined;
            }
        }
    }

    fn add(&mut self, lower: u64, upper: u64, size: u64, made: Made) {
        let id = self.pieces.len() as u32;
        let mut piece = Piece { lower, upper, size, made, open: true, next: [NONE; 3] };
        for (kind, key) in piece.keys().into_iter().enumerate() {
            piece.next[kind] = self.last[kind].insert(key, id).unwrap_or(NONE);
        }
        for time in [lower, upper] {
            *self.ends.entry(time).or_default() += 1;
        }
        if piece.next[LIFE] != NONE {
            self.lives.push((lower, upper));
        }
        self.pieces.push(piece);
    }

    fn join(&mut self, a: u32, b: u32, made: Made) {
        let (p, q) = (self.pieces[a as usize], self.pieces[b as usize]);
        self.pieces[a as usize].open = false;
        self.pieces[b as usize].open = false;
        for time in [p.lower, p.upper, q.lower, q.upper] {
            self.ends.entry(time).and_modify(|ends| *ends -= 1);
        }
        match made {
            Made::Stack(..) => self.add(p.lower, p.upper, p.size + q.size, made),
            _ => self.add(p.lower, q.upper, p.size, made),
        }
    }

    /// The last open piece with this key; later ones, which are not open, are forgotten.
    fn find(&mut self, kind: usize, key: (u64, u64)) -> Option<u32> {
        let last = self.last[kind].get_mut(&key)?;
        while *last != NONE && !self.pieces[*last as usize].open {
            *last = self.pieces[*last as usize].next[kind];
        }
        (*last != NONE).then_some(*last)
    }

    /// Joins a piece with one before or behind it.
    fn follow(&mut self, id: u32) {
        let piece = self.pieces[id as usize];
        if !piece.open {
            return;
        }
        if let Some(next) = self.find(BIRTH, (piece.upper, piece.size)) {
            self.join(id, next, Made::Follow(id, next));
        } else if let Some(before) = self.find(DEATH, (piece.lower, piece.size)) {
            self.join(before, id, Made::Follow(before, id));
        }
    }

    /// The open pieces of a life.
    fn members(&mut self, life: (u64, u64)) -> Vec<u32> {
        let mut members = Vec::new();
        let mut next = self.find(LIFE, life).unwrap_or(NONE);
        while next != NONE {
            let piece = &self.pieces[next as usize];
            if piece.open {
                members.push(next);
            }
            next = piece.next[LIFE];
        }
        members
    }

    /// Stacks two of one life where they match a third in size. Where none do, stacks all of one life where this is least
    /// likely to be wrong: where few have that life, and few others are born or die when they do.
    fn stack(&mut self) -> bool {
        let mut lives = std::mem::take(&mut self.lives);
        lives.sort_unstable();
        lives.dedup();
        let pieces = self.pieces.len();
        let mut several = Vec::new();
        for life in lives {
            let members = self.members(life);
            if members.len() > 1 {
                several.push((members.len(), life));
                self.matching(life, &members[..members.len().min(SOUGHT)]);
            }
        }
        let matched = self.pieces.len() > pieces;
        let risk = |(count, life): &(usize, (u64, u64))| {
            let others = [life.0, life.1].map(|time| (self.ends[&time] as usize).saturating_sub(*count));
            others[0] * others[1] * (count - 1) + count
        };
        let risks: Vec<usize> = several.iter().map(risk).collect();
        let least = risks.iter().copied().min().unwrap_or(0);
        for ((_, life), risk) in several.into_iter().zip(risks) {
            if matched || risk > least * BOLD.0 + BOLD.1 {
                self.lives.push(life);
                continue;
            }
            let members = self.members(life);
            let mut top = members[0];
            for next in &members[1..] {
                self.join(top, *next, Made::Stack(top, *next));
                top = self.pieces.len() as u32 - 1;
            }
        }
        self.pieces.len() > pieces
    }

    /// Stacks two of these where they match a third in size.
    fn matching(&mut self, life: (u64, u64), members: &[u32]) {
        for (j, b) in members.iter().enumerate() {
            for a in &members[..j] {
                let (p, q) = (self.pieces[*a as usize], self.pieces[*b as usize]);
                let size = p.size + q.size;
                let mut matches =
                    || self.find(BIRTH, (life.1, size)).is_some() || self.find(DEATH, (life.0, size)).is_some();
                if p.open && q.open && matches() {
                    self.join(*a, *b, Made::Stack(*a, *b));
                }
            }
        }
    }

    /// What is left, in order of birth, and which pieces those are.
    pub fn left(&self) -> (Vec<Buffer>, Vec<u32>) {
        let mut ids: Vec<u32> = (0..self.pieces.len() as u32).filter(|i| self.pieces[*i as usize].open).collect();
        ids.sort_by_key(|i| {
            let p = &self.pieces[*i as usize];
            (p.lower, p.upper, p.size, *i)
        });
        let buffer = |i: &u32| {
            let Piece { lower, upper, size, .. } = self.pieces[*i as usize];
            Buffer { lower, upper, size, alignment: 1, gaps: Vec::new() }
        };
        (ids.iter().map(buffer).collect(), ids)
    }

    /// Offsets of so many buffers from those of what is left.
    pub fn offsets(&self, ids: &[u32], at: &[u64], buffers: usize) -> Vec<u64> {
        let mut all = vec![0; self.pieces.len()];
        for (i, at) in ids.iter().zip(at) {
            all[*i as usize] = *at;
        }
        for (i, piece) in self.pieces.iter().enumerate().rev() {
            let at = all[i];
            match piece.made {
                Made::Buffer => {}
                Made::Follow(a, b) => (all[a as usize], all[b as usize]) = (at, at),
                Made::Stack(a, b) => (all[a as usize], all[b as usize]) = (at, at + self.pieces[a as usize].size),
            }
        }
        all.truncate(buffers);
        all
    }
}
