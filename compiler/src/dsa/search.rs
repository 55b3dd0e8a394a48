//! Searches for offsets within a capacity until it finds them or has shown that there are none.
//!
//! Reads:    buffers in order of birth, their sections, the capacity, an order of preference.
//! Decides:  one offset for each buffer.
//! Promises: what is found is valid; `Failed` is a proof; a stopped search goes on where it stopped.
//! Why:      if there is a layout, there is one of least sum of offsets, in which nothing can slide down. Buffers are
//!           placed from the bottom up: the lowest either lies where it is, or something must get in its way there.
//!           After Moffitt's MiniMalloc (ASPLOS 2023), whose sections, level order and decomposition these are; the
//!           two-way branch, the bound on what is delayed and the memory of failures are ours.

use super::Buffer;
use super::sections::Sections;
use std::collections::HashSet;

/// What never changes during a search.
#[derive(Debug)]
pub struct Problem<'a> {
    buffers: &'a [Buffer],
    sections: &'a Sections,
    /// The buffers alive together with each.
    beside: Vec<Vec<u32>>,
    capacity: u64,
}

impl<'a> Problem<'a> {
    /// `buffers` are in order of birth.
    pub fn new(buffers: &'a [Buffer], sections: &'a Sections, capacity: u64) -> Problem<'a> {
        let mut beside = vec![Vec::new(); buffers.len()];
        let mut seen = vec![u32::MAX; buffers.len()];
        for i in 0..buffers.len() {
            seen[i] = i as u32;
            for section in &sections.of[i] {
                for j in &sections.members[*section as usize] {
                    if seen[*j as usize] != i as u32 {
                        seen[*j as usize] = i as u32;
                        beside[i].push(*j);
                    }
                }
            }
        }
        Problem { buffers, sections, beside, capacity }
    }
}

/// How a search stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has more to look at.
    Open,
    /// It has a layout.
    Found,
    /// There is no layout.
    Failed,
}

/// No task.
const NONE: u32 = u32::MAX;

/// A run of buffers, in order of birth, that no other unplaced buffer is alive with.
#[derive(Clone, Copy, Debug)]
struct Task {
    from: u32,
    to: u32,
    next: u32,
    /// How many frames stay when it fails.
    keep: u32,
    /// Where the ranks of its buffers begin.
    ranks: u32,
}

/// What buffers are preferred for: the largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The most bytes yet to place in one of its sections.
    Load,
    /// How long it is alive.
    Width,
    /// Its size times that.
    Area,
    /// Its bytes.
    Size,
    /// How many sections.
    Sections,
}

/// A choice: this buffer lies as low as it may, or it does not.
#[derive(Debug)]
struct Frame {
    buffer: u32,
    delayed: bool,
    task: Task,
    hash: u128,
    trail: usize,
    put: usize,
    tasks: usize,
    ranks: usize,
}

/// Failures remembered at most, 16 bytes each.
const MEMORY: usize = 1 << 21;

/// One search, which may be stopped and gone on with.
#[derive(Debug)]
pub struct Search<'a> {
    problem: &'a Problem<'a>,
    keys: [Key; 3],
    /// Places in the order of preference, by buffer of a task.
    ranks: Vec<u32>,
    rest: Vec<u64>,
    parts: Vec<(u32, u32)>,
    placed: Vec<bool>,
    /// Where a buffer lies if placed; else it lies no lower.
    low: Vec<u64>,
    /// The highest end among the placed buffers beside an unplaced one.
    base: Vec<u64>,
    trail: Vec<(u32, u64, u64)>,
    put: Vec<u32>,
    tasks: Vec<Task>,
    frames: Vec<Frame>,
    /// The task to go on with.
    head: u32,
    /// Members of each section, nearly in order of `low`.
    sorted: Vec<Vec<u32>>,
    dirty: Vec<u32>,
    is_dirty: Vec<bool>,
    standing: Standing,
    /// Choices looked at.
    pub nodes: u64,
    /// Buffers looked at for them, which is what takes time.
    pub work: u64,
}

/// States that have no layout, by hash; of one problem, whatever the order of the search.
#[derive(Debug, Default)]
pub struct Failures(HashSet<u128, std::hash::BuildHasherDefault<Plain>>);

/// Keys of the memory are mixed already.
#[derive(Debug, Default)]
struct Plain(u64);

impl std::hash::Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

/// Mixes a word: the finish of splitmix64.
pub(super) fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl<'a> Search<'a> {
    /// A search that prefers buffers in this order.
    pub fn new(problem: &'a Problem<'a>, keys: [Key; 3]) -> Search<'a> {
        let n = problem.buffers.len();
        let sections = problem.sections.members.len();
        let mut search = Search {
            problem,
            keys,
            ranks: Vec::new(),
            rest: vec![0; sections],
            parts: Vec::new(),
            placed: vec![false; n],
            low: vec![0; n],
            base: vec![0; n],
            trail: Vec::new(),
            put: Vec::new(),
            tasks: vec![Task { from: 0, to: n as u32, next: NONE, keep: 0, ranks: 0 }],
            frames: Vec::new(),
            head: 0,
            sorted: problem.sections.members.clone(),
            dirty: Vec::new(),
            is_dirty: vec![false; sections],
            standing: Standing::Open,
            nodes: 0,
            work: 0,
        };
        search.rank(0, n as u32);
        if !(0..sections).all(|section| search.fits(section)) {
            search.standing = Standing::Failed;
        }
        search
    }

    /// Ranks the unplaced buffers of a part; says where the ranks begin.
    fn rank(&mut self, from: u32, to: u32) -> u32 {
        let part = from as usize..to as usize;
        for i in part.clone().filter(|i| !self.placed[*i]) {
            for section in &self.problem.sections.of[i] {
                self.rest[*section as usize] += self.problem.buffers[i].size;
            }
        }
        let mut order: Vec<_> = part
            .clone()
            .filter(|i| !self.placed[*i])
            .map(|i| (std::cmp::Reverse(self.keys.map(|k| self.key(k, i))), i))
            .collect();
        order.sort_unstable();
        for (_, i) in &order {
            for section in &self.problem.sections.of[*i] {
                self.rest[*section as usize] = 0;
            }
        }
        let start = self.ranks.len();
        self.ranks.resize(start + part.len(), 0);
        for (place, (_, i)) in order.iter().enumerate() {
            self.ranks[start + i - part.start] = place as u32;
        }
        start as u32
    }

    fn key(&self, key: Key, i: usize) -> u128 {
        let buffer = &self.problem.buffers[i];
        let (width, size) = (u128::from(buffer.upper - buffer.lower), u128::from(buffer.size));
        match key {
            Key::Load => {
                let sections = self.problem.sections.of[i].iter();
                u128::from(sections.map(|s| self.rest[*s as usize]).max().unwrap_or(0))
            }
            Key::Width => width,
            Key::Area => width * size,
            Key::Size => size,
            Key::Sections => self.problem.sections.of[i].len() as u128,
        }
    }

    /// Offsets in the order of the buffers, once found.
    pub fn offsets(&self) -> &[u64] {
        &self.low
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Goes on until it ends or has done so much more work.
    pub fn run(&mut self, work: u64, failures: &mut Failures) -> Standing {
        let limit = self.work.saturating_add(work);
        while self.standing == Standing::Open && self.work < limit {
            self.nodes += 1;
            self.work += 1;
            if let Some(keep) = self.step(failures) {
                self.back(keep as usize, failures);
            }
        }
        self.standing
    }

    /// Goes one choice down; says how many frames stay where it cannot.
    fn step(&mut self, failures: &Failures) -> Option<u32> {
        if self.head == NONE {
            self.standing = Standing::Found;
            return None;
        }
        let task = self.tasks[self.head as usize];
        self.work += u64::from(task.to - task.from);
        if self.split(task) {
            return None;
        }
        let Some((buffer, hash)) = self.choose(task) else { return Some(task.keep) };
        if self.low[buffer] > self.base[buffer] {
            // Nothing holds it up here: it lies higher.
            return if self.delay(buffer) { None } else { Some(task.keep) };
        }
        if failures.0.contains(&hash) {
            return Some(task.keep);
        }
        self.frames.push(Frame {
            buffer: buffer as u32,
            delayed: false,
            task,
            hash,
            trail: self.trail.len(),
            put: self.put.len(),
            tasks: self.tasks.len(),
            ranks: self.ranks.len(),
        });
        let keep = self.frames.len() as u32;
        self.head = self.tasks.len() as u32;
        self.tasks.push(Task { keep, ..task });
        if self.place(buffer) { None } else { Some(keep) }
    }

    /// Puts the independent parts of a task in its place; false where it is one part.
    fn split(&mut self, task: Task) -> bool {
        let (mut end, mut first, mut last) = (0, NONE, NONE);
        let mut parts = std::mem::take(&mut self.parts);
        parts.clear();
        for i in task.from..task.to {
            if self.placed[i as usize] {
                continue;
            }
            let buffer = &self.problem.buffers[i as usize];
            if first == NONE {
                first = i;
            } else if buffer.lower >= end {
                parts.push((first, last + 1));
                first = i;
            }
            last = i;
            end = end.max(buffer.upper);
        }
        let whole = parts.is_empty();
        if first == NONE {
            self.head = task.next;
        } else if !whole {
            parts.push((first, last + 1));
            let mut next = task.next;
            for (from, to) in parts.iter().rev() {
                let ranks = self.rank(*from, *to);
                self.tasks.push(Task { from: *from, to: *to, next, keep: task.keep, ranks });
                next = self.tasks.len() as u32 - 1;
            }
            self.head = next;
        }
        self.parts = parts;
        first == NONE || !whole
    }

    /// The lowest buffer of a task, the preferred one of several, and a hash of all that matters to the task;
    /// `None` where one of them could slide down for good.
    fn choose(&self, task: Task) -> Option<(usize, u128)> {
        let rank = |i: usize| self.ranks[task.ranks as usize + i - task.from as usize];
        let mut best: Option<usize> = None;
        let mut roof = u64::MAX;
        let (mut one, mut two) = (0u64, 0u64);
        for i in task.from as usize..task.to as usize {
            if self.placed[i] {
                continue;
            }
            let (low, base) = (self.low[i], self.base[i]);
            roof = roof.min(base.saturating_add(self.problem.buffers[i].size));
            let key = mix(low ^ mix((i as u64) << 1 | 1)).wrapping_add(base.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            one = one.wrapping_add(mix(key));
            two = two.wrapping_add(mix(key ^ 0x5851_f42d_4c95_7f2d));
            if best.is_none_or(|b| (low, rank(i)) < (self.low[b], rank(b))) {
                best = Some(i);
            }
        }
        let best = best?;
        (roof > self.low[best]).then_some((best, u128::from(one) << 64 | u128::from(two)))
    }

    /// Places a buffer where it lies lowest; false where that cannot be.
    fn place(&mut self, buffer: usize) -> bool {
        let problem = self.problem;
        let end = self.low[buffer] + problem.buffers[buffer].size;
        self.placed[buffer] = true;
        self.put.push(buffer as u32);
        self.work += problem.beside[buffer].len() as u64;
        for j in &problem.beside[buffer] {
            let other = *j as usize;
            if self.placed[other] || self.base[other] >= end {
                continue;
            }
            let base = end.next_multiple_of(problem.buffers[other].alignment);
            let low = self.low[other].max(base);
            self.trail.push((*j, self.low[other], self.base[other]));
            self.base[other] = base;
            if low > self.low[other] {
                self.low[other] = low;
                self.touch(other);
            }
        }
        self.check()
    }

    /// Rules out the lowest place of a buffer: something must come in its way there; false where nothing can.
    fn delay(&mut self, buffer: usize) -> bool {
        let problem = self.problem;
        let roof = self.base[buffer] + problem.buffers[buffer].size;
        let mut low = u64::MAX;
        for j in &problem.beside[buffer] {
            let other = *j as usize;
            if other != buffer && !self.placed[other] && self.low[other] < roof {
                low = low.min(self.low[other] + problem.buffers[other].size);
            }
        }
        if low > problem.capacity {
            return false;
        }
        self.trail.push((buffer as u32, self.low[buffer], self.base[buffer]));
        self.low[buffer] = low.next_multiple_of(problem.buffers[buffer].alignment);
        self.touch(buffer);
        self.check()
    }

    fn touch(&mut self, buffer: usize) {
        for section in &self.problem.sections.of[buffer] {
            if !self.is_dirty[*section as usize] {
                self.is_dirty[*section as usize] = true;
                self.dirty.push(*section);
            }
        }
    }

    /// Whether each section that changed still has room: its buffers, one on the other, each as low as it may.
    fn check(&mut self) -> bool {
        let mut fits = true;
        while let Some(section) = self.dirty.pop() {
            self.is_dirty[section as usize] = false;
            fits = fits && self.fits(section as usize);
        }
        fits
    }

    fn fits(&mut self, section: usize) -> bool {
        let members = &mut self.sorted[section];
        self.work += members.len() as u64;
        let mut top = 0;
        for at in 0..members.len() {
            let moved = members[at];
            let low = self.low[moved as usize];
            let mut to = at;
            while to > 0 && self.low[members[to - 1] as usize] > low {
                members[to] = members[to - 1];
                to -= 1;
            }
            members[to] = moved;
        }
        for i in members.iter().map(|i| *i as usize).filter(|i| !self.placed[*i]) {
            top = self.low[i].max(top) + self.problem.buffers[i].size;
        }
        top <= self.problem.capacity
    }

    /// Goes back to the last frame among the first `keep` whose buffer was not yet delayed, and delays it.
    fn back(&mut self, mut keep: usize, failures: &mut Failures) {
        loop {
            self.frames.truncate(keep);
            let Some(frame) = self.frames.last_mut() else {
                self.standing = Standing::Failed;
                return;
            };
            if frame.delayed {
                if failures.0.len() < MEMORY {
                    failures.0.insert(frame.hash);
                }
                keep = frame.task.keep as usize;
                continue;
            }
            frame.delayed = true;
            let (buffer, task, trail, put, tasks) = (frame.buffer, frame.task, frame.trail, frame.put, frame.tasks);
            self.ranks.truncate(frame.ranks);
            for (i, low, base) in self.trail.drain(trail..).rev() {
                self.low[i as usize] = low;
                self.base[i as usize] = base;
            }
            for i in self.put.drain(put..) {
                self.placed[i as usize] = false;
            }
            self.tasks.truncate(tasks);
            self.head = tasks as u32;
            self.tasks.push(Task { keep: keep as u32, ..task });
            if self.delay(buffer as usize) {
                return;
            }
        }
    }
}
