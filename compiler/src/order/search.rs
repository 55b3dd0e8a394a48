//! The order of a piece that holds least, by best first search over the sets of tasks that are done.
//!
//! What is live after a set is a cut function of the set, so it is submodular, and from that follows what keeps the
//! search small: of the sets that can be reached from here with the least peak, the smallest that leaves no more live
//! than there is now lies on some best order, and nothing else need be remembered. So does each set that every order
//! passes. Between two such sets all is tried, the least peak first and of equal ones the fewest tasks; where one more
//! task neither lifts the peak nor leaves more, that task alone.

use super::beam::beam;
use super::net::Piece;
use super::sets::{Moment, Spreads, WORDS_MAX, mark};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Pieces with more tasks are left to lists and windows.
pub const TASKS_MAX: usize = 64 * WORDS_MAX;

/// Of the work that is left, the part that one stretch between two certain sets may take.
const STRETCH_PART: u64 = 2;

/// Once a stretch was given up, no order is proved best any more, and each further one gets this part of the work at most.
const GUESS_PART: u64 = 32;

/// Of all work, the part that the first try from each side takes; each further try takes more by `ROUND_GROWTH`.
const ROUND_PART: u64 = 32;
const ROUND_GROWTH: u64 = 4;

/// Work that a set takes which is remembered, beside its words: as much as that many tasks that are looked at.
const STATE_WORK: u64 = 4;

/// Orders side by side in the first round.
const WIDTH: usize = 16;

/// What a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The order with its peak, where one is below what was asked for.
    pub order: Option<(Vec<u32>, u128)>,
    /// Whether no order has a lower peak, or, where there is none, whether there can be none.
    pub exact: bool,
    /// No order has a lower peak than this, or nobody asked for a lower one.
    pub least: u128,
}

/// Searches from the front and from the back in turn, with more work each time, and many orders side by side in between.
/// What is held may be as much as `floor` anyway; orders are wanted with a peak less than `limit`.
pub fn search(piece: &Piece, floor: u128, limit: u128, work: &mut u64) -> Found {
    match piece.len().div_ceil(64) {
        0 | 1 => rounds::<1>(piece, floor, limit, work),
        2 => rounds::<2>(piece, floor, limit, work),
        3 | 4 => rounds::<4>(piece, floor, limit, work),
        5..=8 => rounds::<8>(piece, floor, limit, work),
        9..=WORDS_MAX => rounds::<WORDS_MAX>(piece, floor, limit, work),
        _ => Found { order: None, exact: false, least: floor },
    }
}

fn rounds<const W: usize>(piece: &Piece, floor: u128, limit: u128, work: &mut u64) -> Found {
    let turned = piece.turned();
    let (mut best, mut least): (Option<(Vec<u32>, u128)>, u128) = (None, floor);
    let (mut part, mut width) = (*work / ROUND_PART + 1, WIDTH);
    // Ends: each round takes work, or finds that there is nothing more to find.
    while *work > 0 {
        for back in [false, true] {
            let side = if back { &turned } else { piece };
            let mut keep = |order: Option<(Vec<u32>, u128)>| {
                let turn = |order: Vec<u32>| if back { turned_order(&order) } else { order };
                best = order.map(|(order, peak)| (turn(order), peak)).or(best.take());
                best.as_ref().map_or(limit, |(_, peak)| *peak)
            };
            let mut left = part.min(*work);
            *work -= left;
            let found = Search::<W>::new(side, floor, keep(None)).run(&mut left);
            let mut under = keep(found.order);
            *work += left;
            least = least.max(found.least);
            if found.exact || under <= least {
                return Found { order: best, exact: true, least: under };
            }
            let mut left = part.min(*work);
            *work -= left;
            while let Some(better) = beam::<W>(side, floor, under, width, &mut left) {
                under = keep(Some(better));
            }
            *work += left;
        }
        (part, width) = (part * ROUND_GROWTH, width * ROUND_GROWTH as usize);
    }
    Found { order: best, exact: false, least }
}

/// An order of a piece as one of the piece turned round.
pub fn turned_order(order: &[u32]) -> Vec<u32> {
    let last = order.len().saturating_sub(1) as u32;
    order.iter().rev().map(|task| last - task).collect()
}

/// A set of tasks that is reached: that of another, and a task.
#[derive(Clone, Copy, Debug)]
struct State<const W: usize> {
    moment: Moment<W>,
    from: u32,
    task: u32,
    /// Tasks since the last certain set.
    count: u32,
    peak: u128,
    expanded: bool,
}

struct Search<'a, const W: usize> {
    piece: &'a Piece,
    /// By number of tasks done: whether every order passes the same set.
    cuts: Vec<bool>,
    limit: u128,
    /// No order of the piece is known to do with less, or nobody asks for less.
    level: u128,
    /// Whether all sets since the first are certain; as long as they are, no order has a lower peak than `least`.
    exact: bool,
    least: u128,
    at: Moment<W>,
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

impl<'a, const W: usize> Search<'a, W> {
    fn new(piece: &'a Piece, floor: u128, limit: u128) -> Search<'a, W> {
        let (cuts, at) = (piece.cuts(), Moment::start(piece));
        Search { piece, cuts, limit, level: floor, exact: true, least: floor, at, order: Vec::new() }
    }

    fn run(mut self, work: &mut u64) -> Found {
        let whole = *work;
        while self.order.len() < self.piece.len() {
            let part = if self.exact { *work / STRETCH_PART } else { (*work).min(whole / GUESS_PART) };
            match self.stretch(part, work) {
                Stretch::Certain => {}
                Stretch::Guess => self.exact = false,
                Stretch::None { tried } => return Found { order: None, exact: self.exact && tried, least: self.least },
            }
        }
        // Below the level nothing was compared: the order itself says what it holds.
        let peak = self.piece.profile(&self.order).peak(0..self.order.len());
        let order = Some((self.order, peak)).filter(|(_, peak)| *peak < self.limit);
        Found { order, exact: self.exact, least: self.least }
    }

    /// Goes on to the next set that is certain; to the one that looks best where that takes more than a part of the work.
    fn stretch(&mut self, part: u64, work: &mut u64) -> Stretch {
        let first = State { moment: self.at, from: 0, task: 0, count: 0, peak: self.level, expanded: false };
        let mut states = vec![first];
        let mut known: HashMap<u128, u32, Spreads> = HashMap::default();
        known.insert(self.at.key, 0);
        let mut heap = BinaryHeap::from([Reverse((self.level, 0u32, 0u32))]);
        let (mut spent, mut best, mut steps) = (0u64, None, Vec::new());
        while let Some(Reverse((peak, count, index))) = heap.pop() {
            if states[index as usize].expanded || states[index as usize].peak != peak {
                continue;
            }
            states[index as usize].expanded = true;
            let moment = states[index as usize].moment;
            if self.exact {
                self.least = peak;
            }
            if count > 0 && (moment.live <= self.at.live || self.cuts[self.order.len() + count as usize]) {
                self.commit(&states, index);
                *work = work.saturating_sub(spent);
                return Stretch::Certain;
            }
            let guess = (count, Reverse(moment.live));
            if count > 0 && best.is_none_or(|(g, _)| guess > g) {
                best = Some((guess, index));
            }
            steps.clear();
            steps.extend(moment.ready.iter().map(|task| (task, moment.step(self.piece, task))));
            spent += 1 + steps.len() as u64;
            if let Some(free) = steps.iter().position(|(_, step)| step.held <= peak && step.live <= moment.live) {
                steps = vec![steps[free]];
            }
            for (task, step) in &steps {
                let peak = peak.max(step.held);
                if peak >= self.limit {
                    continue;
                }
                let old = known.entry(moment.key ^ mark(self.piece, *task)).or_insert(states.len() as u32);
                let next = |moment| State { moment, from: index, task: *task, count: count + 1, peak, expanded: false };
                match states.get(*old as usize) {
                    Some(state) if state.peak <= peak => continue,
                    Some(state) => states[*old as usize] = next(state.moment),
                    None => {
                        spent += STATE_WORK + W as u64;
                        states.push(next(moment.then(self.piece, *task, step.live)));
                    }
                }
                heap.push(Reverse((peak, count + 1, *old)));
            }
            if spent > part {
                break;
            }
        }
        *work = work.saturating_sub(spent);
        match best {
            Some((_, index)) if spent > part && *work > 0 => {
                self.commit(&states, index);
                Stretch::Guess
            }
            _ => Stretch::None { tried: spent <= part },
        }
    }

    /// Keeps the way to a state, and the peak on it.
    fn commit(&mut self, states: &[State<W>], index: u32) {
        let first = self.order.len();
        let mut at = &states[index as usize];
        self.at = at.moment;
        self.level = self.level.max(at.peak);
        while at.count > 0 {
            self.order.push(at.task);
            at = &states[at.from as usize];
        }
        self.order[first..].reverse();
    }
}
