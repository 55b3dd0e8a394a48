//! The order of a piece that holds least, by best first search over the sets of tasks that are done.
//!
//! What is live after a set is a cut function of the set, so it is submodular, and from that follows what keeps the
//! search small: of the sets that can be reached from here with the least peak, the smallest that leaves no more live
//! than there is now lies on some best order, and nothing else need be remembered. So does each set that every order
//! passes. Between two such sets all is tried, the least peak first and of equal ones the fewest tasks.

use super::net::{Piece, Walk};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Of the work that is left, the part that one stretch between two certain sets may take.
const STRETCH_PART: u64 = 2;

/// Once a stretch was given up, no order is proved best any more, and each further one gets this part of the work at most.
const GUESS_PART: u64 = 32;

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The order with its peak, where one is below what was asked for.
    pub order: Option<(Vec<u32>, u128)>,
    /// Whether no order has a lower peak, or, where there is none, whether there can be none.
    pub exact: bool,
}

/// Searches from the front, and if that does not come to an end from the back. What is held may be as much as `floor`
/// anyway; orders are wanted with a peak less than `limit`.
pub fn search(piece: &Piece, floor: u128, limit: u128, work: &mut u64) -> Found {
    let mut half = *work / 2;
    *work -= half;
    let front = Search::new(piece, floor, limit).run(&mut half);
    *work += half;
    if front.exact {
        return front;
    }
    let limit = front.order.as_ref().map_or(limit, |(_, peak)| *peak);
    let back = Search::new(&piece.turned(), floor, limit).run(work);
    let last = piece.len().saturating_sub(1) as u32;
    match back.order {
        Some((order, peak)) => {
            let order = order.iter().rev().map(|task| last - task).collect();
            Found { order: Some((order, peak)), exact: back.exact }
        }
        None => Found { order: front.order, exact: back.exact },
    }
}

/// A set of tasks that is reached: that of another, and a task.
#[derive(Clone, Copy, Debug)]
struct State {
    from: u32,
    task: u32,
    /// Tasks since the last certain set.
    count: u32,
    peak: u128,
    expanded: bool,
}

struct Search<'a> {
    piece: &'a Piece,
    walk: Walk<'a>,
    /// By number of tasks done: whether every order passes the same set.
    cuts: Vec<bool>,
    limit: u128,
    /// No order of the piece is known to do with less, or nobody asks for less.
    level: u128,
    ready: Vec<u32>,
    order: Vec<u32>,
}

/// How a stretch ended.
enum Stretch {
    /// In a set that some best order passes.
    Certain,
    /// In one that looks good.
    Guess,
    /// Nowhere; whether all that is below the limit has been tried.
    None { tried: bool },
}

impl<'a> Search<'a> {
    fn new(piece: &'a Piece, floor: u128, limit: u128) -> Search<'a> {
        let walk = Walk::new(piece);
        let ready = (0..piece.len() as u32).filter(|t| walk.waits[*t as usize] == 0).collect();
        Search { piece, cuts: piece.cuts(), limit, level: floor, ready, order: Vec::new(), walk }
    }

    fn run(mut self, work: &mut u64) -> Found {
        let mut exact = true;
        let whole = *work;
        while self.order.len() < self.piece.len() {
            let part = if exact { *work / STRETCH_PART } else { (*work).min(whole / GUESS_PART) };
            match self.stretch(part, work) {
                Stretch::Certain => {}
                Stretch::Guess => exact = false,
                Stretch::None { tried } => return Found { order: None, exact: exact && tried },
            }
        }
        // Below the level nothing was compared: the order itself says what it holds.
        let peak = self.piece.profile(&self.order).peak(0..self.order.len());
        Found { order: Some((self.order, peak)).filter(|(_, peak)| *peak < self.limit), exact }
    }

    /// Goes on to the next set that is certain; to the one that looks best where that takes more than a part of the work.
    fn stretch(&mut self, part: u64, work: &mut u64) -> Stretch {
        let start = State { from: 0, task: 0, count: 0, peak: self.level, expanded: false };
        let mut states = vec![start];
        let mut known: HashMap<u128, u32> = HashMap::from([(0, 0)]);
        let mut heap = BinaryHeap::from([Reverse((self.level, 0u32, 0u32))]);
        let (live, mut spent, mut best) = (self.walk.live, 0u64, None);
        while let Some(Reverse((peak, count, index))) = heap.pop() {
            let state = &mut states[index as usize];
            if state.expanded || state.peak != peak {
                continue;
            }
            state.expanded = true;
            let path = path(&states, index);
            let before = self.forward(&path);
            let done = self.order.len() + path.len();
            if count > 0 && (self.walk.live <= live || self.cuts[done]) {
                self.commit(&path, peak);
                *work = work.saturating_sub(spent);
                return Stretch::Certain;
            }
            let guess = (count, Reverse(self.walk.live));
            if count > 0 && best.is_none_or(|(g, _)| guess > g) {
                best = Some((guess, index));
            }
            let key = path.iter().fold(0, |key, task| key ^ self.mark(*task));
            let ready = self.ready_after(&path);
            spent += 1 + (2 * path.len() + ready.len()) as u64;
            for task in ready {
                let peak = peak.max(self.walk.step(task).held);
                if peak >= self.limit {
                    continue;
                }
                let next = State { from: index, task, count: count + 1, peak, expanded: false };
                match known.get(&(key ^ self.mark(task))) {
                    Some(old) if states[*old as usize].peak <= peak => continue,
                    Some(old) => {
                        states[*old as usize] = next;
                        heap.push(Reverse((peak, count + 1, *old)));
                    }
                    None => {
                        known.insert(key ^ self.mark(task), states.len() as u32);
                        heap.push(Reverse((peak, count + 1, states.len() as u32)));
                        states.push(next);
                    }
                }
            }
            self.back(&path, &before);
            if spent > part {
                break;
            }
        }
        *work = work.saturating_sub(spent);
        match best {
            Some((_, index)) if spent > part && *work > 0 => {
                let path = path(&states, index);
                self.forward(&path);
                self.commit(&path, states[index as usize].peak);
                Stretch::Guess
            }
            _ => Stretch::None { tried: spent <= part },
        }
    }

    /// A number for a task, such that the numbers of a set, added without carry, tell it from others: a bit where there
    /// are enough, else 128 bits of which no two sets of a search will have the same.
    fn mark(&self, task: u32) -> u128 {
        if self.piece.len() <= 128 {
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

    /// Runs these tasks; what was live before each.
    fn forward(&mut self, path: &[u32]) -> Vec<u128> {
        let run = |task: &u32| {
            let live = self.walk.live;
            self.walk.run(*task);
            live
        };
        path.iter().map(run).collect()
    }

    fn back(&mut self, path: &[u32], before: &[u128]) {
        for (task, live) in path.iter().zip(before).rev() {
            self.walk.undo(*task, *live);
        }
    }

    /// Tasks that can run once those of the path have.
    fn ready_after(&self, path: &[u32]) -> Vec<u32> {
        let mut ready: Vec<u32> = self.ready.iter().filter(|t| !path.contains(t)).copied().collect();
        for task in path {
            let freed = self.piece.succs[*task as usize].iter().filter(|s| self.walk.waits[**s as usize] == 0);
            ready.extend(freed.filter(|s| !path.contains(s)));
        }
        ready.sort_unstable();
        ready.dedup();
        ready
    }

    /// Keeps a path that has been run, and the peak on it.
    fn commit(&mut self, path: &[u32], peak: u128) {
        self.ready = self.ready_after(path);
        self.order.extend(path);
        self.level = self.level.max(peak);
    }
}

/// The tasks of a state since the last certain set, in order.
fn path(states: &[State], index: u32) -> Vec<u32> {
    let mut path = Vec::with_capacity(states[index as usize].count as usize);
    let mut at = states[index as usize];
    while at.count > 0 {
        path.push(at.task);
        at = states[at.from as usize];
    }
    path.reverse();
    path
}
