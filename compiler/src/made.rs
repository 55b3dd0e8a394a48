//! Makes the program of a choice, of stays, or of a plan for a machine whose staging memories were left out.
//!
//! Reads:    lifetimes, target, what was chosen.
//! Decides:  nothing but the pieces of what is staged.
//! Promises: a program with its bound and what it is expected to do; nothing where it does not fit.
//! Why:      searches and rules of thumb end in the same program, and are compared in the same simulation.

use crate::bound::{TimeBound, bound};
use crate::emit::with_facts;
use crate::least_step;
use crate::machine::Machine;
use crate::residency::Choice;
use crate::simulate::{Timeline, steps, timeline};
use crate::site::{Placed, Site, Tried};
use crate::staging::{self, Joined};
use crate::stay::{Arrival, Level, Stay};
use crate::step::Step;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{Kind, Mode, Program};
use berth_ir::target::Target;
use std::collections::BTreeSet;

/// A program with what it is expected to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Not proved yet: give it to the verifier.
    pub program: Program,
    /// When each instruction is expected to run.
    pub timeline: Timeline,
    /// Bytes of weights that never leave the device.
    pub resident: u64,
    /// Bytes of weights that are brought in each step.
    pub streamed: u64,
    /// Bytes of other tensors that are put aside and brought back in each step.
    pub spilled: u64,
    /// Bytes of weights that the engine of the lower memory uses where they lie.
    pub below: u64,
    /// Bytes of the device that engines keep for tasks.
    pub held: u64,
    /// What no program with these tasks beats, whichever engines that may run them do.
    pub bound: TimeBound,
    /// What it was made of.
    pub(crate) choice: Choice,
}

/// Makes the program of one choice; nothing where it does not fit.
pub(crate) fn plan_choice(lifetimes: &Lifetimes, target: &Target, mode: Mode, choice: &Choice) -> Option<Plan> {
    let site = Site::new(lifetimes, target, mode).ok()?;
    let placed = site.fits_in(choice, site.room())?;
    Some(site.planned(choice.clone(), placed))
}

/// Makes the program of given stays; nothing where they do not fit.
pub(crate) fn plan_stays(lifetimes: &Lifetimes, target: &Target, mode: Mode, stays: Vec<Stay>) -> Option<Plan> {
    let site = Site::new(lifetimes, target, mode).ok()?;
    let placed = site.place(stays, site.room()).filter(|p| p.device.height <= site.room())?;
    Some(site.planned(Choice::least(lifetimes), placed))
}

/// A plan of the joined machine as one of the machine itself; nothing where something has no room to be staged.
pub(crate) fn staged(plan: Plan, lifetimes: &Lifetimes, target: &Target, joined: &Joined, mode: Mode) -> Option<Plan> {
    let tries = staging::PIECES.into_iter().filter_map(|pieces| {
        let program = staging::staged(&plan.program, joined, target, pieces)?;
        Some((timeline(target, &Step::of_program(target, &program, &BTreeSet::new()), steps(mode)), program))
    });
    let (timeline, program) = tries.reduce(|best, next| if next.0.step < best.0.step { next } else { best })?;
    let freer = Machine::of(&joined.freer).ok().and_then(|machine| least_step::bound(lifetimes, &machine, mode));
    let bound = freer.unwrap_or_else(|| bound(target, &program));
    Some(Plan { timeline, bound, program, ..plan })
}

/// A choice that was tried, with its program.
pub(crate) fn summary(site: &Site, tried: Tried) -> Plan {
    let (lifetimes, stays) = (site.lifetimes, &tried.placed.stays);
    let program = site.emitter(&tried.choice.host, &tried.placed).program(site.mode);
    let program = with_facts(site.machine.target, program);
    let weight = |s: &&Stay| s.arrives != Arrival::Scratch && lifetimes.tensor(s.tensor).kind == Kind::Weight;
    // What comes again and again may sum up to more than 64 bits hold.
    let bytes =
        |keep: &dyn Fn(&&Stay) -> bool| stays.iter().filter(|s| keep(s)).map(|s| s.bytes).fold(0, u64::saturating_add);
    let device = |s: &&Stay| s.level == Level::Device;
    // What comes back from where only copies use it was put there by the device.
    let returns = |s: &&Stay| match s.arrives {
        Arrival::Stay { from, .. } => stays[from].uses.is_empty(),
        _ => false,
    };
    Plan {
        resident: bytes(&|s| device(s) && weight(s) && s.forever),
        streamed: bytes(&|s| device(s) && weight(s) && !s.forever),
        spilled: bytes(&|s| device(s) && !weight(s) && returns(s)),
        below: bytes(&|s| !device(s) && weight(s) && !s.uses.is_empty()),
        held: 0,
        bound: bound(site.machine.target, &program),
        program,
        timeline: tried.timeline,
        choice: tried.choice,
    }
}

impl Site<'_> {
    /// A choice as a plan.
    pub fn planned(&self, choice: Choice, placed: Placed) -> Plan {
        let timeline = self.timeline(&choice, &placed);
        summary(self, Tried { choice, placed, timeline })
    }
}
