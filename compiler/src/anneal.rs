//! Turns choices of small models over at random, and goes through what is a little slower too.
//!
//! Reads:    the best found by climbing, gaps of weights.
//! Decides:  over which gaps weights stay, a part of one more, the rate that addresses are chosen for, how the memory below
//!           is shared.
//! Promises: never slower than what it starts from; the same input, the same program; a fixed amount of work.
//! Why:      in a small model it is who lies where that makes a step long, and no one change of what was found mends that:
//!           record-to-record travel (Dueck 1993) takes what is worse by less than a threshold that falls. Rates are those of a
//!           fixed scale, and what is drawn is the same for each machine, so that one a little better looks at the same.

use crate::below::{SHARES, Share};
use crate::gaps::Gap;
use crate::residency::{Choice, passes, stays};
use crate::site::{Site, Tried};
use crate::stay::{Level, load_curve};
use berth_ir::lifetime::TensorId;
use berth_ir::program::Mode;
use berth_ir::units::BytesPerSec;

/// Tasks that are placed and simulated, and choices that are tried, at most.
const WORK: usize = 50_000;
const TRIES_MAX: usize = 500;

/// With fewer tries for each gap it is not begun.
const TRIES_A_GAP: usize = 8;

/// Times that it starts from the best again.
const ROUNDS: usize = 4;

/// What is accepted at the start of a round: a step that is longer by one part in so many of the best.
const SLOWER_PART: u64 = 40;

/// Rates that addresses are chosen for: powers of two and half way between, from this power on; those of disks and of buses.
const RATES: std::ops::Range<u64> = 28..36;

#[derive(Clone)]
struct State {
    /// By gap: the weight stays over it.
    kept: Vec<bool>,
    /// A weight of which stays what there is room for, or half of that.
    part: Option<(TensorId, u64)>,
    /// The rate that addresses are chosen for, where it is not the links'.
    pace: Option<BytesPerSec>,
    /// How the memory below is shared, where weights pass through it.
    share: Option<Share>,
}

/// Numbers that are always the same (Knuth's MMIX).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

impl Site<'_> {
    /// The faster of a program and what changes at random come to.
    pub(crate) fn annealed(&self, mut best: Tried) -> Tried {
        let gaps = self.gaps();
        let tries = (WORK / self.positions()).min(TRIES_MAX);
        if self.mode != Mode::Loop || gaps.is_empty() || tries < TRIES_A_GAP * gaps.len() {
            return best;
        }
        let base = best.choice.without_weights();
        let dense = self.is_dense(&base);
        let part = best.choice.partly.map(|(tensor, _)| (tensor, 1));
        let mut found = State {
            kept: self.kept_by(&best.choice, &gaps),
            part,
            pace: None,
            share: best.placed.stays.iter().any(passes).then_some(best.choice.share),
        };
        let mut draw = Draw(0);
        for _ in 0..ROUNDS {
            let mut here = found.clone();
            for n in 0..tries / ROUNDS {
                if best.is_enough(self) {
                    return best;
                }
                let next = drawn(&here, &gaps, &mut draw);
                let left = (tries / ROUNDS - n) as u64;
                let more = best.timeline.step.0 / SLOWER_PART * left / (tries / ROUNDS) as u64;
                let Some(tried) = self.state(&base, &gaps, &next, dense) else { continue };
                if tried.timeline.step.0 > best.timeline.step.0 + more {
                    continue;
                }
                here = next;
                if tried.timeline.step < best.timeline.step {
                    (best, found) = (tried, here.clone());
                }
            }
        }
        best
    }

    fn state(&self, base: &Choice, gaps: &[Gap], state: &State, dense: bool) -> Option<Tried> {
        let kept = gaps.iter().zip(&state.kept).filter(|(_, kept)| **kept).map(|(gap, _)| *gap).collect();
        let share = state.share.unwrap_or(base.share);
        let mut choice = Choice { kept, partly: None, share, ..base.clone() };
        choice.partly = state.part.and_then(|part| self.part(&choice, part));
        let placed = self.fits_either(&choice, state.pace, dense)?;
        self.faster(None, choice, placed)
    }

    /// As much of a weight that streams as there is room for beside the rest, or a part of that.
    fn part(&self, choice: &Choice, (tensor, of): (TensorId, u64)) -> Option<(TensorId, u64)> {
        let uses = self.lifetimes.uses();
        let uses = &uses[tensor.index()];
        if choice.holds(tensor, uses.iter().filter(|p| !self.host[**p]).count()) || !self.divides(tensor.index()) {
            return None;
        }
        let grain = self.machine.device.alignment;
        let load = load_curve(&stays(self.lifetimes, &self.machine, choice), Level::Device, self.positions(), grain);
        let slack = self.slack(&load, uses) / of;
        let held = slack.min(self.lifetimes.tensor(tensor).bytes.saturating_sub(1)) / grain * grain;
        (held > 0).then_some((tensor, held))
    }
}

/// One change, at random.
fn drawn(state: &State, gaps: &[Gap], draw: &mut Draw) -> State {
    let mut next = state.clone();
    let n = draw.below(gaps.len());
    match draw.below(if state.share.is_some() { 18 } else { 16 }) {
        0..7 => next.kept[n] = !next.kept[n],
        7..11 => {
            let others: Vec<usize> = (0..gaps.len()).filter(|m| next.kept[*m] != next.kept[n]).collect();
            next.kept[n] = !next.kept[n];
            if !others.is_empty() {
                let m = others[draw.below(others.len())];
                next.kept[m] = !next.kept[m];
            }
        }
        11 => next.part = None,
        12 | 13 => next.part = Some((gaps[n].0, 1 + draw.below(2) as u64)),
        14 => next.pace = None,
        16 => next.share = Some(Share::default()),
        17 => next.share = Some(SHARES[draw.below(SHARES.len())]),
        _ => {
            let power = RATES.start + draw.below((RATES.end - RATES.start) as usize) as u64;
            next.pace = Some(BytesPerSec([1 << power, 3 << power >> 1][draw.below(2)]));
        }
    }
    next
}
