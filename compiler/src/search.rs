//! Chooses which weights never leave and how far ahead the rest is brought, by trying and simulating.
//!
//! Reads:    lifetimes, machine, a choice that fits.
//! Decides:  which weights stay, a part of one more, which are kept in the memory below, over which gaps they stay.
//! Promises: never slower than the choice that it starts from; work bounded by the size of the model.
//! Why:      what stays saves its bytes in every step, and look-ahead costs the room of what could stay; where they
//!           balance is found by windows that double, each with as much pinned as then fits.

use crate::below::SHARES;
use crate::layers::two_layers;
use crate::pinning::Pinning;
use crate::residency::{Choice, passes, stays};
use crate::site::{Placed, Site, Tried};
use crate::stay::{Level, load_curve};
use berth_ir::lifetime::TensorId;
use berth_ir::program::{Home, Kind};
use berth_ir::units::Nanos;

/// The least room for what comes early, as a part of a typical weight, and how many times it is doubled at most.
const LEAD_PART: u64 = 64;
const WINDOWS_MAX: usize = 14;

/// Times that the interval about the best window is halved.
const REFINEMENTS: usize = 4;

/// Times that the most look-ahead that fits is halved towards.
const HALVINGS: usize = 10;

/// Weights of which a part is tried to be held.
const PARTLY_MAX: usize = 8;

/// Weights of middle size beside which as much as fits is pinned where nothing waits, one after the other until it is as fast; a
/// search tries one more for each so many choices that it may try.
const PINNED_BESIDE: [u64; 4] = [2, 8, 32, 128];
const PINNED_PART: usize = 8;

/// Shares of the memory below that are tried: one for so many choices that a search may try, and so many at least.
const SHARES_PART: usize = 32;
const SHARES_MIN: usize = 2;

/// Gaps between uses that are tried one by one; models share few weights.
const KEPT_GAPS_MAX: usize = 64;

impl Site<'_> {
    /// The faster of what was found and the same with weights kept between their uses.
    pub fn kept(&self, best: Tried) -> Option<Tried> {
        let kept = self.keep_between_uses(best.choice.clone());
        if kept == best.choice {
            return Some(best);
        }
        let dense = self.is_dense(&kept.without_weights());
        match self.fits_either(&kept, None, dense) {
            Some(placed) => self.faster(Some(best), kept, placed),
            None => Some(best),
        }
    }

    /// Tries choices, the base first, which has a place: each order of pinning with each window, then windows about the best one;
    /// with weights kept in each of these ways in the memories below.
    pub fn search(&self, base: &Choice, placed: Placed, lowerings: Vec<Vec<Option<Level>>>) -> Option<Tried> {
        let mut best = self.faster(None, base.clone(), placed);
        if best.as_ref().is_some_and(|b| b.is_least(self)) {
            return self.pinned(best, base);
        }
        if let Some(placed) = self.fits_together(base) {
            best = self.faster(best, base.clone(), placed);
        }
        for lowered in lowerings {
            let base = Choice { lowered, ..base.clone() };
            // Nothing pinned, as many layers ahead as fit, two at the most.
            let ahead =
                two_layers(self.lifetimes, &base.pinned).into_iter().map(|window| Choice { window, ..base.clone() });
            let mut ahead = ahead.filter_map(|choice| Some((choice.clone(), self.fits_in(&choice, self.room())?)));
            if let Some((choice, placed)) = ahead.next() {
                best = self.faster(best, choice, placed);
            }
            if best.as_ref().is_some_and(|b| b.is_least(self)) {
                return self.pinned(best, &base);
            }
            // In the least room there are places for all only where they are chosen for all at once.
            if self.fits(&base).is_none() {
                let (mut low, mut high) = (0, self.lifetimes.total(Kind::Weight).min(self.room()));
                for _ in 0..HALVINGS {
                    let choice = Choice { window: low + (high - low) / 2, ..base.clone() };
                    match self.fits_together(&choice) {
                        Some(placed) => (low, best) = (choice.window, self.faster(best, choice, placed)),
                        None => high = choice.window,
                    }
                }
            }
            let orders = self.pin_orders();
            if best.as_ref().is_some_and(|b| b.is_enough(self)) {
                best = self.pinned(best, &base);
            }
            let left = std::cell::Cell::new(self.choices());
            let attempt = |best: Option<Tried>, order: usize, window: u64| {
                if left.get() == 0 || best.as_ref().is_some_and(|b| b.is_enough(self)) {
                    return (best, None);
                }
                left.set(left.get() - 1);
                let pinned = self.most_pinned(&Choice { window, ..base.clone() }, &orders[order]);
                let Some((choice, placed)) = pinned else { return (best, None) };
                let tried = self.faster(None, choice, placed);
                let step = tried.as_ref().map(|t| t.timeline.step);

                let faster = step < best.as_ref().map(|b| b.timeline.step) || best.is_none();
                (if faster { tried } else { best }, step)
            };
            let windows = self.windows();
            for order in 0..orders.len() {
                let mut found: Option<(Nanos, u64)> = None;
                for window in &windows {
                    let (next, step) = attempt(best, order, *window);
                    best = next;
                    if let Some(step) = step.filter(|step| found.is_none_or(|(least, _)| *step < least)) {
                        found = Some((step, *window));
                    }
                }
                // Half way to the neighbours of the fastest, then half of that, and so on.
                let Some((mut least, mut window)) = found else { continue };
                let below = windows.iter().rev().find(|w| **w < window).copied().unwrap_or(0);
                let above = windows.iter().find(|w| **w > window).copied().unwrap_or(window);
                let (mut down, mut up) = ((window - below) / 2, (above - window) / 2);
                for _ in 0..REFINEMENTS {
                    for next in [window.saturating_sub(down), window.saturating_add(up)] {
                        let (tried, step) = attempt(best, order, next);
                        best = tried;
                        if let Some(step) = step.filter(|step| *step < least) {
                            (least, window) = (step, next);
                        }
                    }
                    (down, up) = (down / 2, up / 2);
                }
            }
            best = best.and_then(|best| self.shared_otherwise(best));
        }
        best
    }

    /// The faster of what was found and the same with as much pinned as fits beside some look-ahead: what stays does not slow
    /// the tasks that copies would go under, and crosses no link. Worth a look where nothing waits.
    fn pinned(&self, best: Option<Tried>, base: &Choice) -> Option<Tried> {
        let (order, bulk) = (self.pin_orders().swap_remove(0), self.lifetimes.bulk());
        let few = self.choices() / PINNED_PART;
        let mut best = best;
        // With more look-ahead it is more often as fast.
        for times in PINNED_BESIDE.into_iter().take(few.max(1)) {
            let choice = Choice { window: bulk.saturating_mul(times), ..base.clone() };
            let Some((choice, placed)) = self.most_pinned(&choice, &order) else { break };
            let before = best.as_ref().map(Tried::brought);
            best = self.faster(best, choice, placed);
            if best.as_ref().map(Tried::brought) < before {
                break;
            }
        }
        best
    }

    /// Rooms for what comes early, in bytes: none, then doubling from a small part of a typical weight up to what there is.
    pub fn windows(&self) -> Vec<u64> {
        let most = self.lifetimes.total(Kind::Weight).min(self.room());
        let doubling = std::iter::successors(Some((self.lifetimes.bulk() / LEAD_PART).max(1)), |w| w.checked_mul(2));
        let all: Vec<u64> = std::iter::once(0).chain(doubling.take_while(|w| *w <= most).take(WINDOWS_MAX)).collect();
        // Of the largest models a few, from all over.
        let stride = (2 * all.len()).div_ceil(self.choices());
        all.into_iter().skip(stride / 2).step_by(stride).collect()
    }

    /// Orders in which weights are pinned: evenly spread and as they come, those first whose copy costs its latency
    /// alone; and the largest first.
    pub fn pin_orders(&self) -> Vec<Vec<usize>> {
        let spread = self.spread_order();
        let mut largest = spread.clone();
        largest.sort_by_key(|t| std::cmp::Reverse(self.lifetimes.tensors[*t].bytes));
        let mut last = spread.clone();
        last.sort_unstable();
        vec![self.small_first(spread), self.small_first(last), largest]
    }

    pub fn small_first(&self, mut order: Vec<usize>) -> Vec<usize> {
        let link = self.machine.home_to_device.or(self.machine.lower_to_device);
        let small = link.map_or(0, |l| {
            (u128::from(l.present_rate().0) * u128::from(l.latency.0 + l.submit.0) / 1_000_000_000) as u64
        });
        // Of the others, what no file holds is made again as fast as the memory takes it: it stays last.
        let filled = |t: usize| self.lifetimes.tensors[t].home.as_ref().is_some_and(|h| h.filled.is_some());
        order.sort_by_key(|t| (self.lifetimes.tensors[*t].bytes > small, filled(*t)));
        order
    }

    /// Weights that the device uses, in an order of which every prefix is spread evenly over the step's bytes: by the fractional parts of
    /// multiples of the golden ratio (Weyl's sequence).
    pub fn spread_order(&self) -> Vec<usize> {
        let uses = self.lifetimes.uses();
        let device = |t: usize| uses[t].iter().any(|p| !self.host[*p]);
        let weight = |t: &usize| self.lifetimes.tensors[*t].kind == Kind::Weight && device(*t);
        let mut weights: Vec<usize> = (0..self.lifetimes.tensors.len()).filter(weight).collect();
        weights.sort_by_key(|t| (uses[*t][0], *t));
        let mut keyed: Vec<(u64, usize)> = weights
            .into_iter()
            .enumerate()
            .map(|(n, t)| ((n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), t))
            .collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, t)| t).collect()
    }

    /// The choice with as many weights pinned, in this order, as fit; then whatever else fits.
    pub fn most_pinned(&self, choice: &Choice, order: &[usize]) -> Option<(Choice, Placed)> {
        let with = |count: usize| {
            let mut pinned = choice.pinned.clone();
            order[..count].iter().for_each(|t| pinned[*t] = true);
            Choice { pinned, ..choice.clone() }
        };
        let heights = self.heights(choice, order);
        let under = |count: usize| heights.height(count).saturating_add(choice.window) <= self.room();
        // The load grows with each weight pinned (its stay lengthens), so the most that fits is found by halving.
        let (mut low, mut high) = (0, order.len());
        if !under(0) {
            return None;
        }
        while low < high {
            let middle = (low + high).div_ceil(2);
            if under(middle) { low = middle } else { high = middle - 1 }
        }
        // Fragments may cost a little more: step back in growing strides until addresses are found too.
        let mut stride = 1;
        loop {
            let choice = with(low);
            // Smaller ones may still fit in what is left, by load.
            let mut more = choice.clone();
            let mut slack = self.room() - heights.height(low).saturating_add(choice.window).min(self.room());
            for tensor in &order[low..] {
                let size = self.size(TensorId(*tensor as u32));
                if size <= slack {
                    more.pinned[*tensor] = true;
                    slack -= size;
                }
            }
            if more != choice
                && let Some(placed) = self.fits(&more)
            {
                return Some((more, placed));
            }
            let together = || self.fits_together(&Choice { window: 0, ..choice.clone() });
            if let Some(placed) = self.fits(&choice).or_else(together) {
                return Some((choice, placed));
            }
            if low == 0 {
                return None;
            }
            low = low.saturating_sub(stride);
            stride *= 2;
        }
    }

    /// The highest load of a choice as more weights of an order are pinned, without what comes early.
    pub fn heights(&self, choice: &Choice, order: &[usize]) -> Pinning {
        let stays = stays(self.lifetimes, &self.machine, &Choice { window: 0, ..choice.clone() });
        // One that is pinned already changes nothing.
        let bytes = |t: usize| if choice.pinned[t] { None } else { Some(self.lifetimes.tensors[t].bytes) };
        let order: Vec<(usize, Option<u64>)> = order.iter().map(|t| (*t, bytes(*t))).collect();
        Pinning::of(&stays, &order, self.positions(), self.machine.device.alignment)
    }

    /// What the device has room for beside a load at all positions but those of a weight's uses, where it is whole.
    pub fn slack(&self, load: &[u64], uses: &[usize]) -> u64 {
        let beside = load.iter().enumerate().filter(|(p, _)| !uses.contains(p)).map(|(_, load)| *load).max();
        self.room().saturating_sub(beside.unwrap_or(0))
    }

    /// The faster of a program and those in which as much as fits of one more weight never leaves.
    pub fn hold_a_part(&self, mut best: Tried) -> Tried {
        if best.is_enough(self) {
            return best;
        }
        let grain = self.machine.device.alignment;
        let uses = self.lifetimes.uses();
        let mut weights: Vec<usize> = self.spread_order();
        weights.retain(|t| !best.choice.pinned[*t] && self.divides(*t));
        weights.truncate(PARTLY_MAX.min(self.choices() / 4));
        let whole = Choice { window: 0, ..best.choice.clone() };
        let load = load_curve(&stays(self.lifetimes, &self.machine, &whole), Level::Device, self.positions(), grain);
        for tensor in weights {
            let slack = self.slack(&load, &uses[tensor]);
            let bytes = self.lifetimes.tensors[tensor].bytes;
            for held in [slack, slack.saturating_sub(whole.window), slack / 2] {
                let held = held.min(bytes.saturating_sub(1)) / grain * grain;
                let choice = Choice { partly: Some((TensorId(tensor as u32), held)), ..whole.clone() };
                if let Some(placed) = self.fits(&choice).filter(|_| held > 0) {
                    let tried = self.faster(None, choice, placed);
                    best = tried.filter(|t| t.timeline.step < best.timeline.step).unwrap_or(best);
                }
            }
        }
        best
    }

    /// A choice with as many more weights staying as there is room for; of one rounded from a schedule, another such schedule.
    pub fn widened(&self, choice: &Choice) -> Option<Tried> {
        if let Some(part) = choice.rounded {
            return self.rounded_at(part, &choice.lowered);
        }
        let choice = Choice { partly: None, ..choice.clone() };
        let order = self.small_first(self.spread_order());
        // Where weights lie below, as many as the larger machine has room for.
        let some = |lowered: &[Option<Level>]| lowered.iter().any(Option::is_some);
        let ways = self.lowerings(&choice).into_iter().filter(|l| some(l) == some(&choice.lowered));
        let ways = ways.chain([choice.lowered.clone()]);
        let tried = ways.filter_map(|lowered| {
            let (choice, placed) = self.most_pinned(&Choice { lowered, ..choice.clone() }, &order)?;
            self.faster(None, choice, placed)
        });
        tried.min_by_key(|tried| tried.timeline.step)
    }

    /// The faster of a program and those in which the memory that weights pass through is shared otherwise.
    pub fn shared_otherwise(&self, best: Tried) -> Option<Tried> {
        if best.is_enough(self) || !best.placed.stays.iter().any(passes) {
            return Some(best);
        }
        let base = best.choice.clone();
        let mut best = Some(best);
        let few = (self.choices() / SHARES_PART).max(SHARES_MIN);
        for share in SHARES.into_iter().take(few) {
            best = self.better(best, Choice { share, ..base.clone() });
        }
        best
    }

    /// Whether a weight can be brought in parts: not what is turned or made on the way.
    pub fn divides(&self, tensor: usize) -> bool {
        let made = self.lifetimes.tensors[tensor].home.as_ref().is_some_and(Home::is_made);
        !made || self.machine.home_to_device.is_none()
    }

    /// Keeps weights with several uses from one use to the next where that fits, the shortest gaps first.
    pub fn keep_between_uses(&self, mut choice: Choice) -> Choice {
        let mut gaps = Vec::new();
        for (index, uses) in self.lifetimes.uses().iter().enumerate() {
            if self.lifetimes.tensors[index].kind == Kind::Weight && !choice.pinned[index] {
                let pairs = uses.windows(2).enumerate();
                gaps.extend(pairs.map(|(i, pair)| (pair[1] - pair[0], TensorId(index as u32), i)));
            }
        }
        gaps.sort_unstable();
        let dense = !gaps.is_empty() && self.is_dense(&choice.without_weights());
        for (_, tensor, i) in gaps.into_iter().take(KEPT_GAPS_MAX.min(self.choices())) {
            choice.kept.insert((tensor, i));
            if self.fits_either(&choice, None, dense).is_none() {
                choice.kept.remove(&(tensor, i));
            }
        }
        choice
    }
}
