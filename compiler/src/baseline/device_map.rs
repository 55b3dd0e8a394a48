//! Layers that fit stay on the device; the rest is copied in when a task wants it, without overlap.
//!
//! Reads:    lifetimes, target.
//! Decides:  how many layers stay: the first ones, as many as fit beside the copies.
//! Promises: a program that the verifier accepts; or nothing where it does not fit.
//! Why:      it is what `device_map` does in Accelerate: modules fill the device in order, and hooks copy the others.

use super::{Unfit, first_fit};
use crate::layers::layers;
use crate::made::Plan;
use crate::residency::Choice;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Mode;
use berth_ir::target::Target;
use std::borrow::Cow;

/// The first layers stay, the weights of the rest are brought on demand.
pub fn device_map(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let layers = layers(lifetimes);
    first_fit(target, mode, layers.len(), |copied| {
        let mut choice = Choice { demand: true, ..Choice::least(lifetimes) };
        let stay = layers[..layers.len() - copied].iter().flat_map(|l| &l.weights);
        stay.for_each(|t| choice.pinned[t.index()] = true);
        (Cow::Borrowed(lifetimes), choice)
    })
}
