//! Of each layer the same part of the weights stays; the rest is brought a layer ahead.
//!
//! Reads:    lifetimes, target.
//! Decides:  the part, in percent: the largest that fits; which weights make it: whole ones, spread over the layer.
//! Promises: a program that the verifier accepts; or nothing where it does not fit.
//! Why:      it is FlexGen's policy (Sheng et al. 2023): one percentage for all layers, each in whole weights.

use super::{Unfit, first_fit, look_ahead};
use crate::layers::{layers, two_layers};
use crate::made::Plan;
use crate::residency::Choice;
use berth_ir::lifetime::{Lifetimes, TensorId};
use berth_ir::program::Mode;
use berth_ir::target::Target;
use std::borrow::Cow;

/// The largest part of each layer that fits stays. Where two layers do not fit with nothing else, it is look-ahead alone.
pub fn uniform(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let mut groups: Vec<Vec<TensorId>> = layers(lifetimes).into_iter().map(|l| l.weights).collect();
    if groups.iter().all(|g| g.len() <= 1) {
        // Nothing repeats: the part is that of all weights, spread over them.
        groups = vec![groups.concat()];
    }
    let plan = first_fit(target, mode, 100, |percent| {
        let mut choice = Choice::least(lifetimes);
        for group in &groups {
            hold(lifetimes, &mut choice, group, 100 - percent as u128);
        }
        choice.window = two_layers(lifetimes, &choice.pinned)[0];
        (Cow::Borrowed(lifetimes), choice)
    });
    plan.or_else(|_| look_ahead(lifetimes, target, mode))
}

/// Pins weights of a group one by one, each where that comes nearer to the part of the bytes so far than leaving it out.
fn hold(lifetimes: &Lifetimes, choice: &mut Choice, group: &[TensorId], percent: u128) {
    let (mut seen, mut held) = (0u128, 0u128);
    for tensor in group {
        let size = u128::from(lifetimes.tensor(*tensor).bytes);
        seen += size;
        if (2 * held + size) * 100 <= 2 * seen * percent {
            held += size;
            choice.pinned[tensor.index()] = true;
        }
    }
}
