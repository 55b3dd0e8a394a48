//! Chooses the order of tasks: the one that holds least at its fullest.
//!
//! Reads:    lifetimes (what tasks use, what each tensor and each workspace takes).
//! Decides:  a permutation of the tasks; tensors and the tasks themselves stay as they are.
//! Promises: an order that keeps every dependency; its peak, as `Lifetimes::load` counts it, is never above the given
//!           order's, and where it is the same the given order stays; a bound that no order goes below, with its witness.
//!           The same input gives the same order; effort is counted in work.
//! Why:      everything downstream (what stays, what streams, what is put aside) has what this leaves. Tasks which are
//!           before or after every other cut the step into parts that are solved apart; each part takes the best of some
//!           lists, then of an exact search and of many orders side by side; where that would take too much, windows around
//!           the fullest task are searched. Only parts that set the peak are touched, as nothing is won elsewhere. What
//!           single tasks hold at least, whatever is done before them, tells early that there is nothing left to win.

mod beam;
mod bound;
mod closure;
mod lists;
mod liu;
mod net;
mod search;
mod sets;

use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Kind;
use net::{Piece, Profile};
use search::{Found, search};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;

/// Effort that commands take: about a second at most, and nothing where the bound is reached at once.
pub const EFFORT: u64 = 20_000_000;

/// Tasks of the windows that are searched, one size after the other.
const WINDOWS: [usize; 3] = [16, 32, 64];

/// Of the effort that is left, the part that one window takes at most.
const WINDOW_PART: u64 = 16;

/// Places that are looked at for one unit of work, and what it takes for each to cut a piece out and put it back.
const SCANNED: usize = 32;
const CUT_WORK: u64 = 16;

/// Of the effort, the part that cuts take at most.
const CUTS_PART: u64 = 4;

/// Lifetimes in their new order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The given ones with their tasks permuted.
    pub lifetimes: Lifetimes,
    /// For each place in the new order, the task's place in the given one.
    pub tasks: Vec<usize>,
    /// Most bytes held in the given order.
    pub before: u64,
    /// Most bytes held in this order.
    pub after: u64,
    /// What any order holds.
    pub bound: Bound,
}

/// Bytes that every order holds at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// So many.
    pub bytes: u64,
    /// Why.
    pub witness: Witness,
}

/// What shows that a bound is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Witness {
    /// There are no tasks.
    Empty,
    /// While a task runs these must be held: each is used by it or before it, and by it or after it, in any order.
    Task {
        /// The task.
        name: String,
        /// What is held beside its workspace.
        tensors: Vec<TensorId>,
    },
    /// Every order of these tasks has been tried: they run in one go, as all others are before or after them.
    Searched {
        /// Their names, in the order that holds least.
        tasks: Vec<String>,
    },
    /// While a task runs so much is held whatever is done before it: least if these are, by a minimum cut.
    Cut {
        /// The task.
        name: String,
        /// Those that are done then.
        done: Vec<String>,
    },
    /// Of these tasks, which run in one go too, every way to begin or to end with less has been tried; it leads nowhere.
    Begun {
        /// Their names, in the order that was found.
        tasks: Vec<String>,
    },
}

/// Orders the tasks of lifetimes.
pub fn order(lifetimes: &Lifetimes, effort: u64) -> Ordered {
    order_after(lifetimes, &[], effort)
}

/// The same, where tasks need others beside what tensors say: pairs of places, of which the first stays before the second.
pub fn order_after(lifetimes: &Lifetimes, after: &[(usize, usize)], effort: u64) -> Ordered {
    let (whole, ids) = Piece::whole(lifetimes, after);
    let given: Vec<u32> = (0..whole.len() as u32).collect();
    let before = whole.profile(&given).peak(0..whole.len());
    let Some((task, forced)) = bound::forced(&whole) else {
        let bound = Bound { bytes: 0, witness: Witness::Empty };
        return Ordered { lifetimes: lifetimes.clone(), tasks: Vec::new(), before: 0, after: 0, bound };
    };
    let mut ordering = Ordering::new(&whole, given, forced, effort);
    if before > forced {
        ordering.parts();
        ordering.cuts();
        ordering.improve();
    }
    if ordering.profile.peak(0..whole.len()) == before {
        ordering.put(0..whole.len(), (0..whole.len() as u32).collect());
    }
    let tasks: Vec<usize> = ordering.order.iter().map(|task| *task as usize).collect();
    let name = |task: u32| lifetimes.tasks[task as usize].name.clone();
    let witness = match ordering.proved {
        Some(Proof::Search { part, ended }) => {
            let tasks = ordering.order[part].iter().map(|task| name(*task)).collect();
            if ended { Witness::Searched { tasks } } else { Witness::Begun { tasks } }
        }
        Some(Proof::Cut { task, done }) => {
            Witness::Cut { name: name(task), done: done.into_iter().map(name).collect() }
        }
        None => {
            let used = lifetimes.uses();
            let state = |t: &TensorId| lifetimes.tensor(*t).kind == Kind::State && !used[t.index()].is_empty();
            let states = (0..lifetimes.tensors.len() as u32).map(TensorId).filter(state);
            let tensors = bound::held_at(&whole, task).into_iter().map(|t| TensorId(ids[t as usize])).chain(states);
            Witness::Task { name: name(task), tensors: tensors.collect() }
        }
    };
    let small = |bytes: u128| u64::try_from(bytes).unwrap_or(u64::MAX);
    let mut ordered = lifetimes.clone();
    ordered.tasks = tasks.iter().map(|task| lifetimes.tasks[*task].clone()).collect();
    let after = ordering.profile.peak(0..tasks.len());
    assert!(forced <= ordering.floor && ordering.floor <= after && after <= before, "a bound is one");
    let bound = Bound { bytes: small(ordering.floor), witness };
    Ordered { lifetimes: ordered, tasks, before: small(before), after: small(after), bound }
}

/// An order in the making.
struct Ordering<'a> {
    whole: &'a Piece,
    order: Vec<u32>,
    /// Where each task stands.
    place: Vec<u32>,
    profile: Profile,
    /// Ranges of places that hold the same tasks in every order.
    parts: Vec<Range<usize>>,
    /// No order holds less.
    floor: u128,
    /// What showed that, where it is not what is forced alone.
    proved: Option<Proof>,
    effort: u64,
    /// What searches found for pieces, floors and limits: a layer that is repeated is searched once.
    known: HashMap<(Piece, u128, u128), Found>,
}

/// What showed a bound.
enum Proof {
    /// A search of a part, and whether it came to an end.
    Search { part: Range<usize>, ended: bool },
    /// The least that a task holds, if these are done before it.
    Cut { task: u32, done: Vec<u32> },
}

impl<'a> Ordering<'a> {
    fn new(whole: &'a Piece, order: Vec<u32>, floor: u128, effort: u64) -> Ordering<'a> {
        let profile = whole.profile(&order);
        let cuts: Vec<usize> = (0..).zip(whole.cuts()).filter(|(_, cut)| *cut).map(|(n, _)| n).collect();
        let parts = cuts.windows(2).map(|w| w[0]..w[1]).collect();
        let (place, known) = (order.clone(), HashMap::new());
        Ordering { whole, order, place, profile, parts, floor, proved: None, effort, known }
    }

    /// Gives each part the best of the lists, as far as it needs one: where the given order holds no more than what some
    /// other part must hold with any list, it stays.
    fn parts(&mut self) {
        let lists = lists::lists(self.whole);
        let profiles: Vec<Profile> = lists.iter().map(|order| self.whole.profile(order)).collect();
        let best = |part: &Range<usize>| {
            let all = profiles.iter().enumerate().map(|(n, profile)| (profile.peak(part.clone()), n));
            all.min().unwrap_or((u128::MAX, 0))
        };
        let best: Vec<(u128, usize)> = self.parts.iter().map(best).collect();
        let given = self.parts.iter().map(|part| self.profile.peak(part.clone()));
        let needed = given.zip(&best).map(|(given, best)| given.min(best.0)).max().unwrap_or(0);
        for (part, (peak, list)) in self.parts.clone().into_iter().zip(best) {
            if self.profile.peak(part.clone()) > needed && peak <= needed {
                self.put(part.clone(), lists[list][part].to_vec());
            }
        }
    }

    /// Puts these tasks at a range of places where they stand already in another order.
    fn put(&mut self, range: Range<usize>, tasks: Vec<u32>) {
        self.order[range.clone()].copy_from_slice(&tasks);
        for (place, task) in range.clone().zip(&tasks) {
            self.place[*task as usize] = place as u32;
        }
        let piece = self.whole.cut(&self.order, &self.place, &self.profile, range.clone());
        let profile = piece.profile(&(0..piece.len() as u32).collect::<Vec<_>>());
        self.profile.held[range.clone()].copy_from_slice(&profile.held);
        self.profile.live[range.clone()].copy_from_slice(&profile.live[..range.len()]);
    }

    /// Raises the floor by what single tasks hold at least: those at which our order holds most first, as no other can
    /// hold more at least than it does with us.
    fn cuts(&mut self) {
        let mut work = self.effort / CUTS_PART;
        self.effort -= work;
        let mut parts: Vec<(u128, Range<usize>)> =
            self.parts.iter().map(|part| (self.profile.peak(part.clone()), part.clone())).collect();
        parts.sort_by_key(|(peak, part)| (Reverse(*peak), part.start));
        for (_, part) in parts {
            let mut places: Vec<usize> = part.clone().filter(|at| self.profile.held[*at] > self.floor).collect();
            if places.is_empty() {
                break;
            }
            places.sort_by_key(|at| (Reverse(self.profile.held[*at]), *at));
            let piece = self.whole.cut(&self.order, &self.place, &self.profile, part.clone());
            for at in places {
                if self.profile.held[at] <= self.floor {
                    break;
                }
                let task = self.order[at];
                let Some((held, done)) = closure::least_at(&piece, (at - part.start) as u32, &mut work) else { break };
                if held > self.floor {
                    let here = done.into_iter().map(|n| self.order[part.start + n as usize]);
                    let done = self.order[..part.start].iter().copied().chain(here).collect();
                    (self.floor, self.proved) = (held, Some(Proof::Cut { task, done }));
                }
            }
        }
        self.effort += work;
    }

    /// Lowers the fullest part for as long as one can.
    fn improve(&mut self) {
        // Ends: each round lowers the part that is fullest, and there are finitely many peaks and much less effort.
        while self.effort > 0 {
            self.effort = self.effort.saturating_sub((self.order.len() / SCANNED) as u64);
            let peaks = self.parts.iter().map(|part| (self.profile.peak(part.clone()), Reverse(part.start)));
            let Some((peak, start)) = peaks.max() else { return };
            if peak <= self.floor {
                return;
            }
            let part = self.parts.iter().find(|part| part.start == start.0).cloned().unwrap_or(0..0);
            if !self.search_part(&part) && !self.search_windows(&part) {
                return;
            }
        }
    }

    /// Searches a part; says whether it is lower now. What a search that ended shows is a bound.
    fn search_part(&mut self, part: &Range<usize>) -> bool {
        if part.len() > search::TASKS_MAX {
            return false;
        }
        let peak = self.profile.peak(part.clone());
        let found = self.searched(part, peak, self.effort / 2);
        let lower = self.take(part, &found);
        if found.least > self.floor {
            let proof = Proof::Search { part: part.clone(), ended: found.exact };
            (self.floor, self.proved) = (found.least, Some(proof));
        }
        lower
    }

    /// Searches windows around the fullest places of a part; says whether the part is lower now.
    fn search_windows(&mut self, part: &Range<usize>) -> bool {
        let peak = self.profile.peak(part.clone());
        'places: while let Some(at) = part.clone().find(|at| self.profile.held[*at] >= peak) {
            self.effort = self.effort.saturating_sub((part.len() / SCANNED) as u64);
            for size in WINDOWS {
                let window = at.saturating_sub(size / 2).max(part.start)..(at + size / 2).min(part.end);
                let found = self.searched(&window, peak, self.effort / WINDOW_PART);
                if self.take(&window, &found) {
                    continue 'places;
                }
                if self.effort == 0 || window == *part {
                    return false;
                }
            }
            return false;
        }
        true
    }

    /// What a search finds for a range of places, remembered for ranges that are alike.
    fn searched(&mut self, range: &Range<usize>, limit: u128, work: u64) -> Found {
        let piece = self.whole.cut(&self.order, &self.place, &self.profile, range.clone());
        self.effort = self.effort.saturating_sub(CUT_WORK * range.len() as u64);
        let key = (piece, self.floor, limit);
        if let Some(found) = self.known.get(&key) {
            return found.clone();
        }
        let mut left = work;
        let found = search(&key.0, self.floor, limit, &mut left);
        self.effort = self.effort.saturating_sub(work - left);
        self.known.insert(key, found.clone());
        found
    }

    /// Takes what a search found; says whether it found something.
    fn take(&mut self, range: &Range<usize>, found: &Found) -> bool {
        let Some((order, _)) = &found.order else { return false };
        let tasks = order.iter().map(|task| self.order[range.start + *task as usize]).collect();
        self.put(range.clone(), tasks);
        true
    }
}
