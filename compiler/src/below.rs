//! Chooses which weights the memory below the device keeps, where files are read into that memory alone and it is too small
//! for all of them.
//!
//! Reads:    lifetimes, machine, which weights never leave the device, what else lies below.
//! Decides:  by weight, whether it only passes through on its way to the device; how many bytes of those may wait there.
//! Promises: what is kept, what else lies below and what waits fit together, but for fragments.
//! Why:      what does not fit must be read in each step whichever it is, so the disk is the bottleneck and works evenly
//!           only if what it reads is spread evenly over the step. What never leaves the device needs no room below.

use crate::machine::Machine;
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Kind;
use std::cmp::Reverse;

/// How the memory below is shared between weights that are kept and weights that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Weights of the largest size that wait at a time, in a quarter of it at most; two have to.
    pub ahead: u64,
    /// The part of it in which weights wait at least: one in so many.
    pub waiting: u64,
    /// The largest weights that are kept have so many quarters of it at most.
    pub quarters: u64,
    /// How often the bytes that wait are halved: those that come and go may leave holes between them.
    pub halved: u32,
}

impl Default for Share {
    fn default() -> Share {
        Share { ahead: 4, waiting: 16, quarters: 3, halved: 0 }
    }
}

/// Other shares that are tried: less or more that waits, up to all of it, and the largest weights kept where that takes all of it.
/// Of models of which few choices are tried the first of them.
pub const SHARES: [Share; 12] = [
    Share { ahead: 4, waiting: 64, quarters: 3, halved: 0 },
    Share { ahead: 2, waiting: 16, quarters: 3, halved: 0 },
    Share { ahead: 4, waiting: 4, quarters: 3, halved: 0 },
    Share { ahead: 6, waiting: 256, quarters: 3, halved: 0 },
    Share { ahead: 4, waiting: 16, quarters: 4, halved: 0 },
    Share { ahead: 4, waiting: 2, quarters: 3, halved: 0 },
    Share { ahead: 4, waiting: 1, quarters: 3, halved: 0 },
    Share { ahead: 3, waiting: 16, quarters: 3, halved: 0 },
    Share { ahead: 6, waiting: 16, quarters: 3, halved: 0 },
    Share { ahead: 2, waiting: 64, quarters: 3, halved: 0 },
    Share { ahead: 2, waiting: 16, quarters: 4, halved: 0 },
    Share { ahead: 2, waiting: 64, quarters: 4, halved: 0 },
];

/// How often what waits is halved until places are found; in the end nothing waits.
pub const HALVINGS: [u32; 4] = [0, 1, 2, u64::BITS];

/// Weights on their way to the device before the first step that are below at a time, where others wait later.
pub const STAGES: usize = 2;

/// Which weights pass through the memory below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Passing {
    /// By tensor; empty where none does.
    through: Vec<bool>,
    /// Bytes of them that may wait for their use.
    pub window: u64,
}

impl Passing {
    /// Whether a weight is not kept below.
    pub fn passes(&self, tensor: TensorId) -> bool {
        self.through.get(tensor.index()).copied().unwrap_or(false)
    }
}

/// What is not chosen here, by tensor.
#[derive(Clone, Debug)]
pub struct Known {
    /// It never leaves the device.
    pub forever: Vec<bool>,
    /// Tasks read it in the memory below.
    pub below: Vec<bool>,
    /// Another memory keeps it.
    pub elsewhere: Vec<bool>,
}

/// Chooses them beside so many bytes that are no weights.
pub fn passing(lifetimes: &Lifetimes, machine: &Machine, known: &Known, values: u64, share: Share) -> Passing {
    let Known { forever, below, elsewhere } = known;
    let Some(tier) = machine.lower.filter(|_| machine.home_to_device.is_none()) else { return Passing::default() };
    let weight = |t: &usize| lifetimes.tensors[*t].kind == Kind::Weight && !elsewhere[*t];
    let size = |t: usize| lifetimes.tensors[t].bytes.next_multiple_of(tier.alignment);
    let weights: Vec<usize> = (0..lifetimes.tensors.len()).filter(weight).collect();
    // Fragments of what is no weight.
    let room = tier.room().0.saturating_sub(values).saturating_sub(values / 8);
    let total = weights.iter().map(|t| size(*t)).fold(0, u64::saturating_add);
    if total <= room {
        return Passing::default();
    }
    // Two of the largest that pass wait at a time: a few that are much larger than the others are kept.
    let window = |largest: u64| {
        let ahead = largest.saturating_mul(share.ahead).min(tier.room().0 / 4);
        ahead.max(largest.saturating_mul(2)).max(tier.room().0 / share.waiting)
    };
    let mut sizes: Vec<u64> = weights.iter().filter(|t| !forever[**t]).map(|t| size(*t)).collect();
    sizes.sort_unstable_by_key(|size| Reverse(*size));
    let (mut larger, mut largest) = (0u64, sizes.first().copied().unwrap_or(0));
    for pair in sizes.windows(2) {
        larger = larger.saturating_add(pair[0]);
        if larger > room.saturating_sub(window(pair[1])) / 4 * share.quarters {
            break;
        }
        largest = pair[1];
    }
    let window = window(largest);
    let mut left = room.saturating_sub(window);
    let mut through = vec![false; lifetimes.tensors.len()];
    // What is read below first, then what is too large, then an evenly spread part of the others.
    let mut order: Vec<(bool, bool, u64, usize)> = weights
        .iter()
        .enumerate()
        .map(|(n, t)| (!below[*t], size(*t) <= largest, (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15), *t))
        .collect();
    order.sort_unstable();
    for (.., tensor) in order {
        let kept = below[tensor] || (!forever[tensor] && size(tensor) <= left);
        through[tensor] = !kept;
        left = left.saturating_sub(if kept { size(tensor) } else { 0 });
    }
    Passing { through, window: window.saturating_sub(largest).checked_shr(share.halved).unwrap_or(0) }
}
