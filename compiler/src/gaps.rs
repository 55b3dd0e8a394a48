//! Chooses gap by gap which weights stay between their uses: over all gaps where they are few, else by climbing.
//!
//! Reads:    the best found with whole weights that stay or stream, lifetimes, target.
//! Decides:  for each gap between two uses of a weight, the one over the edge of the step too, whether it stays.
//! Promises: never slower than what was found before; each that counts has addresses and was simulated.
//! Why:      a weight that is used twice may be worth its room between some of its uses only; and which weights stay
//!           decides where the link can work ahead, which no count of bytes says.

use crate::bound::bound;
use crate::emit::with_facts;
use crate::places;
use crate::residency::{Choice, stays};
use crate::site::{Site, Tried};
use crate::stay::Level;
use berth_ir::lifetime::TensorId;
use berth_ir::program::{Kind, Mode};
use berth_ir::units::{Bytes, BytesPerSec};
use std::collections::BTreeSet;

/// Gaps of which all sets are tried.
const ALL_MAX: usize = 8;

/// Ways in which stays are tried to lie, over all sets.
const WAYS: usize = 12 * places::WAYS_MAX;

/// A step that is longer than its bound by no more than this part of it is not looked at further.
const NEAR_PART: u64 = 200;

/// Rates for which other addresses are looked for, as parts of the link's: the powers of two between, and half way between
/// those, whatever the rate is, so that a somewhat faster link is tried with the same.
const PACE_SLOWEST: u64 = 3;
const PACE_FASTEST: u64 = 2;

/// Choices that are tried in climbing: a part of those of a search, and at most.
const CLIMB_PART: usize = 32;
const CLIMB_MAX: usize = 300;

/// Of the gaps behind one, how many it is exchanged with.
const NEIGHBOURS: usize = 4;

/// A gap behind one use of a weight: its tensor and the index of the use, of those on the device.
pub(crate) type Gap = (TensorId, usize);

impl Site<'_> {
    /// The faster of a program and those with other gaps in which weights stay.
    pub(crate) fn improved(&self, best: Tried) -> Tried {
        let gaps = self.gaps();
        let tries = (self.choices() / CLIMB_PART).min(CLIMB_MAX);
        if self.mode != Mode::Loop || gaps.is_empty() || tries == 0 || best.is_enough(self) || self.is_near(&best) {
            return best;
        }
        let kept = self.kept_by(&best.choice, &gaps);
        let base = best.choice.without_weights();
        let best = match gaps.len() <= ALL_MAX.min(self.choices().ilog2() as usize) {
            true => self.all_sets(best, &base, &gaps),
            false => self.climbed(best, &base, &gaps, kept, tries),
        };
        self.paced(best)
    }

    /// The faster of a program and those with other addresses: as they would be chosen for slower and faster links.
    fn paced(&self, mut best: Tried) -> Tried {
        let link = self.machine.lower_to_device.or(self.machine.home_to_device);
        let rate = link.map_or(0, |link| self.machine.rate_along(link).0);
        let choice = Choice { window: 0, ..best.choice.clone() };
        let rates = (0..63).flat_map(|power| [1 << power, 3 << power >> 1]);
        for other in rates.filter(|other| (rate / PACE_SLOWEST..rate.saturating_mul(PACE_FASTEST)).contains(other)) {
            let placed = self.fits_at(&choice, Some(BytesPerSec(other)));
            let tried = placed.and_then(|placed| self.faster(None, choice.clone(), placed));
            best = tried.filter(|tried| tried.timeline.step < best.timeline.step).unwrap_or(best);
        }
        best
    }

    /// Whether a step is as good as its bound.
    fn is_near(&self, best: &Tried) -> bool {
        let program = self.emitter(&best.choice.host, &best.placed).program(self.mode);
        let target = self.machine.target;
        let bound = bound(target, &with_facts(target, program)).time.0;
        best.timeline.step.0 <= bound.saturating_add(bound / NEAR_PART)
    }

    /// All gaps of weights that the device uses, in the order of the uses before them.
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let mut gaps = Vec::new();
        for (index, uses) in self.lifetimes.uses().iter().enumerate() {
            let tensor = &self.lifetimes.tensors[index];
            if tensor.kind == Kind::Weight && tensor.bytes > 0 {
                let here = uses.iter().filter(|p| !self.host[**p]).enumerate();
                gaps.extend(here.map(|(i, p)| (*p, (TensorId(index as u32), i))));
            }
        }
        gaps.sort_unstable();
        gaps.into_iter().map(|(_, gap)| gap).collect()
    }

    /// By gap, whether a choice has the weight stay over it.
    pub(crate) fn kept_by(&self, choice: &Choice, gaps: &[Gap]) -> Vec<bool> {
        gaps.iter().map(|gap| choice.pinned[gap.0.index()] || choice.kept.contains(gap)).collect()
    }

    /// The fastest of all sets of gaps, those first of which fewest bytes must come.
    fn all_sets(&self, mut best: Tried, base: &Choice, gaps: &[Gap]) -> Tried {
        let bytes = |set: u32| -> u64 {
            let gone = gaps.iter().enumerate().filter(|(n, _)| set >> n & 1 == 0);
            gone.map(|(_, gap)| self.lifetimes.tensor(gap.0).bytes).fold(0, u64::saturating_add)
        };
        let mut sets: Vec<(u64, u32)> = (0..1u32 << gaps.len()).map(|set| (bytes(set), set)).collect();
        sets.sort_unstable();
        let rate = self.machine.rate_into_device();
        let mut ways = WAYS;
        for (bytes, set) in sets {
            if best.is_enough(self) || Bytes(bytes).at(rate) >= best.timeline.step {
                break;
            }
            let kept = gaps.iter().enumerate().filter(|(n, _)| set >> n & 1 == 1).map(|(_, gap)| *gap).collect();
            let choice = Choice { kept, ..base.clone() };
            best = self.no_slower(best, choice.clone());
            best = self.anywhere(best, choice, &mut ways);
        }
        best
    }

    /// The faster of a program and a choice with addresses tried in all ways.
    fn anywhere(&self, best: Tried, choice: Choice, ways: &mut usize) -> Tried {
        let mut stays = stays(self.lifetimes, &self.machine, &choice);
        let Some(below) = self.below(&mut stays).filter(|_| *ways > 0) else { return best };
        let grain = self.machine.device.alignment;
        let mut floor = 0;
        let at = stays.iter().map(|s| {
            let below = floor;
            floor += if s.forever && s.level == Level::Device { s.bytes.next_multiple_of(grain) } else { 0 };
            below
        });
        let at: Vec<u64> = at.collect();
        let found = places::best(self.lifetimes, &self.machine, &stays, at, (floor, self.room()), ways);
        let tried = found.and_then(|streamed| self.faster(None, choice, self.placed(streamed, below)));
        tried.filter(|tried| tried.timeline.step < best.timeline.step).unwrap_or(best)
    }

    /// Turns gaps over one by one, and exchanges them with their neighbours, as long as that helps; the faster of a
    /// program and what that ends with.
    fn climbed(&self, best: Tried, base: &Choice, gaps: &[Gap], mut kept: Vec<bool>, mut left: usize) -> Tried {
        let set = |kept: &[bool]| -> BTreeSet<Gap> {
            gaps.iter().zip(kept).filter(|(_, kept)| **kept).map(|(gap, _)| *gap).collect()
        };
        let faster = |a: &Tried, b: &Tried| a.timeline.step < b.timeline.step;
        let start = || Choice { kept: set(&kept), ..base.clone() };
        let dense = self.is_dense(base);
        let step = |choice: Choice| {
            let placed = self.fits_either(&choice, None, dense)?;
            self.faster(None, choice, placed)
        };
        let mut here = step(start());
        let (mut n, mut since) = (0, 0);
        while since < gaps.len() {
            let near = (n + 1..gaps.len()).filter(|m| kept[*m] != kept[n]).take(NEIGHBOURS);
            let moves: Vec<Vec<usize>> = std::iter::once(vec![n]).chain(near.map(|m| vec![n, m])).collect();
            for turned in moves {
                if left == 0 || here.as_ref().is_some_and(|here| here.is_enough(self)) {
                    return here.filter(|here| faster(here, &best)).unwrap_or(best);
                }
                left -= 1;
                turned.iter().for_each(|m| kept[*m] = !kept[*m]);
                let choice = Choice { kept: set(&kept), ..base.clone() };
                match step(choice) {
                    Some(tried) if here.as_ref().is_none_or(|here| faster(&tried, here)) => {
                        (here, since) = (Some(tried), 0);
                        break;
                    }
                    _ => turned.iter().for_each(|m| kept[*m] = !kept[*m]),
                }
            }
            (n, since) = ((n + 1) % gaps.len(), since + 1);
        }
        here.filter(|here| faster(here, &best)).unwrap_or(best)
    }

    /// The faster of a program and a choice, if that fits.
    fn no_slower(&self, best: Tried, choice: Choice) -> Tried {
        let Some(placed) = self.fits(&choice) else { return best };
        let tried = self.faster(None, choice, placed);
        tried.filter(|tried| tried.timeline.step < best.timeline.step).unwrap_or(best)
    }
}
