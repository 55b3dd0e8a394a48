//! What people do today, as programs: they go through the same verifier and simulator as berth's own.
//!
//! Reads:    lifetimes, target.
//! Decides:  residency and transfer by a rule of thumb, one file each; here, which there are.
//! Promises: a program that the verifier accepts; or why there is none.
//! Why:      a plan is as good as it is better than these.

mod clairvoyant;
mod device_map;
mod look_ahead;
mod lru;
mod ngl;
mod uniform;

pub use clairvoyant::clairvoyant;
pub use device_map::device_map;
pub use look_ahead::look_ahead;
pub use lru::lru;
pub use ngl::ngl;
pub use uniform::uniform;

use crate::machine::Machine;
use crate::made::{Plan, plan_choice, staged};
use crate::residency::{Choice, stays};
use crate::staging::joined;
use crate::stay::{Level, load_curve};
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Mode;
use berth_ir::target::Target;
use std::borrow::Cow;

/// A rule of thumb: the program that it makes of lifetimes on a target.
pub type Strategy = fn(&Lifetimes, &Target, Mode) -> Result<Plan, Unfit>;

/// All of them with the names that tables have.
pub const STRATEGIES: &[(&str, Strategy)] = &[
    ("look-ahead", look_ahead),
    ("uniform", uniform),
    ("-ngl", ngl),
    ("device_map", device_map),
    ("clairvoyant", clairvoyant),
    ("LRU", lru),
];

/// The program that a rule makes; where memories reach the device through a staging memory, by way of that.
pub fn planned_by(strategy: Strategy, lifetimes: &Lifetimes, target: &Target, mode: Mode) -> Result<Plan, Unfit> {
    let Some(joined) = joined(target) else { return strategy(lifetimes, target, mode) };
    let plan = strategy(lifetimes, &joined.target, mode)?;
    staged(plan, lifetimes, target, &joined, mode).ok_or(Unfit::Room)
}

/// Why a rule gives no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A memory is too small for it.
    #[error("does not fit")]
    Room,
    /// It computes in the memory below the device, where no engine may run a task.
    #[error("no second engine")]
    Engine,
}

/// Parts of the room that a cache is given in turn, in percent, until what it holds can be placed: fragments take some.
const ROOMS: [u128; 11] = [100, 97, 93, 88, 80, 70, 60, 50, 35, 20, 0];

/// The program of the first that fits of choices 0 to `last`. Each holds no more on the device than the one before, but
/// for fragments: the first is found by load, and from there strides double past what cannot be placed.
fn first_fit<'l>(
    target: &Target,
    mode: Mode,
    last: usize,
    choice: impl Fn(usize) -> (Cow<'l, Lifetimes>, Choice),
) -> Result<Plan, Unfit> {
    let machine = Machine::of(target).map_err(|_| Unfit::Room)?;
    let is_over = |n: usize| {
        let (lifetimes, choice) = choice(n);
        let stays = stays(&lifetimes, &machine, &choice);
        let load = load_curve(&stays, Level::Device, lifetimes.tasks.len(), machine.device.alignment);
        load.into_iter().any(|l| l > machine.device.room().0)
    };
    let (mut low, mut high) = (0, last);
    while low < high {
        let middle = low + (high - low) / 2;
        if is_over(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    let mut stride = 1;
    loop {
        let (lifetimes, choice) = choice(low);
        if let Some(plan) = plan_choice(&lifetimes, target, mode, &choice) {
            return Ok(plan);
        }
        if low == last {
            return Err(Unfit::Room);
        }
        low = (low + stride).min(last);
        stride *= 2;
    }
}
