//! Finds the layer that a step repeats.
//!
//! Reads:    lifetimes.
//! Decides:  how many weights in order of use make a layer, where the first one begins, and how many bytes two of them are.
//! Promises: a window for any model; where nothing repeats a layer is one weight.
//! Why:      names say nothing across exporters; the sizes of weights repeat where layers do.

use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Kind;

/// One layer: the tasks from its first use of a weight to that of the next layer, and the weights that none before uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Position of its first task; that of the first layer is zero.
    pub from: usize,
    /// Behind its last task.
    pub to: usize,
    /// Its weights in order of use.
    pub weights: Vec<TensorId>,
}

/// The layers of a step, which cover it: first what comes before the sizes of weights repeat, if anything does.
pub fn layers(lifetimes: &Lifetimes) -> Vec<Layer> {
    let uses = uses_in_order(lifetimes);
    let sizes = sizes(lifetimes, &uses);
    let layer = period(&sizes).min(sizes.len()).max(1);
    let repeats = sizes.windows(2 * layer).position(|w| layer > 1 && w[..layer] == w[layer..]);
    let head = repeats.unwrap_or(0);
    let (head, rest) = uses.split_at(head);
    let mut seen = vec![false; lifetimes.tensors.len()];
    let mut all: Vec<Layer> = Vec::new();
    for uses in [head].into_iter().filter(|h| !h.is_empty()).chain(rest.chunks(layer)) {
        let mut weights: Vec<TensorId> = uses.iter().map(|(_, t)| *t).collect();
        weights.retain(|t| !std::mem::replace(&mut seen[t.index()], true));
        let from = if all.is_empty() { 0 } else { uses[0].0 };
        if let Some(before) = all.last_mut() {
            before.to = from;
        }
        all.push(Layer { from, to: lifetimes.tasks.len(), weights });
    }
    all
}

/// Bytes of the layer that computes and of the one that comes, then halves of that, down to a hundredth; weights that are
/// pinned need not come.
pub fn two_layers(lifetimes: &Lifetimes, pinned: &[bool]) -> Vec<u64> {
    let uses = uses_in_order(lifetimes);
    let sizes = sizes(lifetimes, &uses);
    let layer = period(&sizes).min(sizes.len()).max(1);
    let comes = |(_, t): &(usize, TensorId)| if pinned[t.index()] { 0 } else { lifetimes.tensor(*t).bytes };
    let layers = uses.windows(layer).map(|w| w.iter().map(comes).sum::<u64>());
    let two = layers.max().unwrap_or(0).saturating_mul(2);
    (0..8).map(|halvings| two >> halvings).collect()
}

/// Each use of a weight in order: position and weight.
fn uses_in_order(lifetimes: &Lifetimes) -> Vec<(usize, TensorId)> {
    let operands = lifetimes.tasks.iter().enumerate().flat_map(|(p, t)| t.operands().map(move |o| (p, o)));
    operands.filter(|(_, t)| lifetimes.tensor(*t).kind == Kind::Weight).collect()
}

/// Bytes of the weight of each use.
fn sizes(lifetimes: &Lifetimes, uses: &[(usize, TensorId)]) -> Vec<u64> {
    uses.iter().map(|(_, t)| lifetimes.tensor(*t).bytes).collect()
}

/// The shift at which most sizes repeat, the smallest of equals; one where less than half do.
fn period(sizes: &[u64]) -> usize {
    let repeats = |shift: usize| sizes.iter().zip(&sizes[shift..]).filter(|(a, b)| a == b).count();
    // A layer has more than two weights and there is more than one layer; equal neighbours are no period.
    let shifts = 3..=(sizes.len() / 2).min(256);
    let best = shifts.rev().max_by_key(|shift| repeats(*shift) * 1000 / (sizes.len() - shift));
    best.filter(|shift| repeats(*shift) * 2 > sizes.len() - shift).unwrap_or(1)
}
