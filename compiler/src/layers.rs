//! Finds the layer that a step repeats.
//!
//! Reads:    lifetimes.
//! Decides:  how many weights in order of use make a layer, and how many bytes two of them are.
//! Promises: a window for any model; where nothing repeats a layer is one weight.
//! Why:      names say nothing across exporters; the sizes of weights repeat where layers do.

use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Kind;

/// Bytes of the layer that computes and of the one that comes, then halves of that, down to a hundredth.
pub fn two_layers(lifetimes: &Lifetimes) -> Vec<u64> {
    let sizes = weights_in_order(lifetimes);
    let layer = period(&sizes).min(sizes.len()).max(1);
    let layers = sizes.windows(layer).map(|w| w.iter().sum::<u64>());
    let two = layers.max().unwrap_or(0).saturating_mul(2);
    (0..8).map(|halvings| two >> halvings).collect()
}

/// Bytes of each weight that a task uses, in order of use.
fn weights_in_order(lifetimes: &Lifetimes) -> Vec<u64> {
    let operands = lifetimes.tasks.iter().flat_map(|t| t.operands()).map(|t| lifetimes.tensor(t));
    operands.filter(|t| t.kind == Kind::Weight).map(|t| t.bytes).collect()
}

/// The shift at which most sizes repeat, the smallest of equals; one where less than half do.
fn period(sizes: &[u64]) -> usize {
    let repeats = |shift: usize| sizes.iter().zip(&sizes[shift..]).filter(|(a, b)| a == b).count();
    // A layer has more than two weights and there is more than one layer; equal neighbours are no period.
    let shifts = 3..=(sizes.len() / 2).min(256);
    let best = shifts.rev().max_by_key(|shift| repeats(*shift) * 1000 / (sizes.len() - shift));
    best.filter(|shift| repeats(*shift) * 2 > sizes.len() - shift).unwrap_or(1)
}
