//! All weights streamed, those of the next layer brought while this one computes.
//!
//! Reads:    lifetimes, target.
//! Decides:  how many bytes of weights may wait for their use: two layers.
//! Promises: a program that the verifier accepts; or nothing where it does not fit.
//! Why:      it is what ZeRO-Inference and Accelerate's prefetch do.

use super::Unfit;
use crate::layers::two_layers;
use crate::made::{Plan, plan_choice};
use crate::residency::Choice;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Mode;
use berth_ir::target::Target;

/// All weights streamed with a window of two layers; where two do not fit, as much look-ahead as does.
pub fn look_ahead(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let least = Choice::least(lifetimes);
    let plan = two_layers(lifetimes, &least.pinned).into_iter().find_map(|window| {
        let choice = Choice { window, ..least.clone() };
        plan_choice(lifetimes, target, mode, &choice)
    });
    plan.ok_or(Unfit::Room)
}
