//! A static split: layers that fit stay on the device, the others are computed where their weights lie.
//!
//! Reads:    lifetimes with what each task takes on the engine of the lower memory, target.
//! Decides:  how many layers that engine computes: the first ones, the fewest that leave nothing to stream.
//! Promises: a program that the verifier accepts; or nothing where it does not fit, or no such engine may run a task.
//! Why:      it is `-ngl` of llama.cpp, which keeps the last layers on the device.

use super::{Unfit, first_fit};
use crate::engines::{assigned, second};
use crate::layers::layers;
use crate::machine::Machine;
use crate::made::Plan;
use crate::residency::Choice;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{Kind, Mode};
use berth_ir::target::Target;
use std::borrow::Cow;

/// The last layers stay, the first are computed by the engine of the lower memory. A task that this cannot run, and its
/// weights, stay on the device.
pub fn ngl(lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let machine = Machine::of(target).map_err(|_| Unfit::Room)?;
    let engine = second(lifetimes, &machine).ok_or(Unfit::Engine)?;
    let layers = layers(lifetimes);
    let weights: Vec<bool> = lifetimes.tensors.iter().map(|t| t.kind == Kind::Weight).collect();
    first_fit(target, mode, layers.len(), |below| {
        let end = below.checked_sub(1).map_or(0, |last| layers[last].to);
        let tasks = lifetimes.tasks.iter().enumerate();
        let host: Vec<bool> = tasks.map(|(p, t)| p < end && t.on(engine).is_some()).collect();
        let assigned = assigned(lifetimes, engine, &host);
        let choice = Choice { host, pinned: weights.clone(), ..Choice::least(lifetimes) };
        (Cow::Owned(assigned), choice)
    })
}
