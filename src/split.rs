//! A model for the memory that it is asked to run in: with large operators split where it needs that.
//!
//! As it is, a model has fewer calls, so it is split only where the device has less than it needs as it is, where the
//! least is asked for, or where its step is shorter so (`quickest`). Where nothing can be put aside, results that wait over a
//! peak are made again instead. The plan says how it was split and what is made again; who verifies or runs it does so too.

use crate::failure::Failure;
use crate::machine;
use crate::model::{self, Dims, Ready};
use berth_compiler::lower::Lowered;
use berth_compiler::machine::Machine;
use berth_compiler::plan::{Plan, extremes};
use berth_compiler::recompute;
use berth_compiler::room::Least;
use berth_compiler::split::{THREADS, reach, split};
use berth_ir::Target;
use berth_ir::graph::Graph;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{Carried, Header, Recompute, Split};
use berth_ir::units::BytesPerSec;
use std::borrow::Cow;

/// What a model is to be planned for.
pub struct Wanted<'a> {
    /// The machine.
    pub target: &'a Target,
    /// What `--memory` says.
    pub memory: &'a [String],
    /// What `--engines` says.
    pub engines: Option<&'a [String]>,
    /// Threads of the engine; bits stay for up to so many, and for [`THREADS`].
    pub threads: u64,
    /// What `--state` says.
    pub states: &'a [Carried],
}

/// A model to be planned, and the graph that it was lowered from.
pub struct Model {
    /// The graph: rewritten, its operators split.
    pub graph: Graph,
    /// The model.
    pub lowered: Lowered,
    /// The hash of the model before anything of it was split or made again.
    pub whole: String,
    /// The machine with what `--memory` means for the model as it is lowered, where that was worked out.
    pub budgeted: Option<Target>,
    /// The plan for that machine with the engines that are wanted, where it was made. Not proved.
    pub plan: Option<Plan>,
}

/// A model in pieces, and the least that it needs so.
pub struct Pieces {
    /// The model.
    pub model: Model,
    /// Its least capacity.
    pub least: Least,
}

/// What the device has for a model.
pub(crate) fn room(model: &Model) -> u64 {
    model.budgeted.as_ref().and_then(|target| target.tier(target.device())).map_or(0, |tier| tier.room().0)
}

/// A model of which the device has room for less than it needs as it is, or of which the least is asked for: changed as little as
/// does. Nothing where no change helps.
pub(crate) fn smaller(whole: &Pieces, asked: bool, dims: &Dims, wanted: &Wanted) -> Result<Option<Model>, Failure> {
    let room = room(&whole.model);
    let fits = |pieces: &Pieces| pieces.least.bytes <= room;
    // Work before calls: what is made again is less than what pieces add. As little as does, if all that helps would do.
    let again_all = again(whole, dims, 0, wanted)?;
    if !asked && again_all.as_ref().is_some_and(fits) {
        let some = again(whole, dims, room, wanted)?.filter(fits);
        return Ok(some.or(again_all).map(|again| again.model));
    }
    let Some(finest) = of_pieces(whole, again_all, dims, wanted)? else { return Ok(None) };
    if asked || finest.least.bytes >= room {
        return Ok(Some(finest.model));
    }
    // As few pieces as do: each of the size of the room, or of parts of it, as they lie beside each other.
    for part in [room, room / 4 * 3, room / 2] {
        let pieces = in_pieces(&whole.model, dims, part, wanted)?;
        if let Some(pieces) = pieces.filter(fits) {
            return Ok(Some(pieces.model));
        }
    }
    Ok(Some(finest.model))
}

/// A model as it is.
pub(crate) fn as_it_is(ready: Ready) -> Model {
    let whole = ready.lowered.facts.hash.clone();
    Model { graph: ready.graph, lowered: ready.lowered, whole, budgeted: None, plan: None }
}

/// The pieces, and what is made again beside them, with which a model needs least; nothing where it needs no less than as it
/// is, which is `whole`.
pub fn finest(whole: &Pieces, dims: &Dims, wanted: &Wanted) -> Result<Option<Pieces>, Failure> {
    let again_all = again(whole, dims, 0, wanted)?;
    of_pieces(whole, again_all, dims, wanted)
}

/// The same, with what the whole is when all is made again that helps.
fn of_pieces(
    whole: &Pieces,
    again_all: Option<Pieces>,
    dims: &Dims,
    wanted: &Wanted,
) -> Result<Option<Pieces>, Failure> {
    let Model { graph, lowered, .. } = &whole.model;
    let room = reach(graph, dims, &lowered.lifetimes, wanted.threads.max(THREADS));
    let pieces = in_pieces(&whole.model, dims, room, wanted)?.filter(|pieces| pieces.least.bytes < whole.least.bytes);
    let both = pieces.as_ref().map(|pieces| again(pieces, dims, 0, wanted)).transpose()?.flatten();
    // The first of those that need least.
    Ok([again_all, pieces, both].into_iter().flatten().min_by_key(|pieces| pieces.least.bytes))
}

/// A model as a program's header says that it was split, what of it is made again, and which states it has.
pub fn as_said(graph: &Graph, dims: &Dims, target: &Target, said: &Header) -> Result<Model, Failure> {
    let mut model = as_it_is(model::ready(graph, dims, target, &said.states)?);
    if let Some(how) = said.split {
        model = put(&model, dims, target, how)?.unwrap_or(model);
    }
    if !said.recompute.is_empty() {
        model = put_again(&model, dims, target, said.recompute.clone())?;
    }
    if said.growth != model.lowered.growth {
        return Err(Failure::bad(
            "the program says of dims that they grow from step to step as the model's states do not: compile it again",
        ));
    }
    Ok(model)
}

/// A model with what holds more than so much in pieces; nothing where that can be done to nothing.
fn in_pieces(whole: &Model, dims: &Dims, room: u64, wanted: &Wanted) -> Result<Option<Pieces>, Failure> {
    let how = Split { room, threads: wanted.threads.max(THREADS), contiguous: false };
    let Some(model) = put(whole, dims, wanted.target, how)? else { return Ok(None) };
    pieces(model, wanted)
}

fn pieces(model: Model, wanted: &Wanted) -> Result<Option<Pieces>, Failure> {
    let needs = needs(&model.lowered, wanted)?;
    Ok(needs.map(|(least, budgeted)| Pieces { model: Model { budgeted: Some(budgeted), ..model }, least }))
}

/// A model split so; nothing where that can be done to nothing.
pub(crate) fn put(whole: &Model, dims: &Dims, target: &Target, how: Split) -> Result<Option<Model>, Failure> {
    let Some(graph) = split(&whole.graph, dims, &whole.lowered.lifetimes, how) else { return Ok(None) };
    let (lowered, _) = model::as_it_is(&graph, dims, target, &whole.lowered.states)?;
    let lowered = Lowered { split: Some(how), ..lowered };
    Ok(Some(Model { lowered, graph, whole: whole.whole.clone(), budgeted: None, plan: None }))
}

/// Of what a model needs, the least part that making results again must save: each is a call in every step.
const WORTH_PART: u64 = 100;

/// A model with results made again, so that it needs less where nothing can be put aside: no more than so much, if that can
/// be. Nothing where that saves next to nothing.
fn again(whole: &Pieces, dims: &Dims, room: u64, wanted: &Wanted) -> Result<Option<Pieces>, Failure> {
    if whole.least.spills {
        return Ok(None);
    }
    let Some(model) = recomputed(&whole.model, dims, room, None, wanted)? else { return Ok(None) };
    let worth = whole.least.bytes - whole.least.bytes / WORTH_PART;
    Ok(pieces(model, wanted)?.filter(|pieces| pieces.least.bytes < worth))
}

/// A model with results made again where it holds more than so much; nothing where that helps nowhere.
pub(crate) fn recomputed(
    whole: &Model,
    dims: &Dims,
    room: u64,
    aside: Option<BytesPerSec>,
    wanted: &Wanted,
) -> Result<Option<Model>, Failure> {
    let target = whole.budgeted.as_ref().unwrap_or(wanted.target);
    let Ok(machine) = Machine::of(target) else { return Ok(None) };
    let (alignment, brings) = (machine.device.alignment, machine.rate_into_device());
    let how = recompute::Wanted { room, alignment, brings, aside };
    let all = recompute::chosen(&whole.graph, &whole.lowered, how);
    if all.is_empty() { Ok(None) } else { put_again(whole, dims, wanted.target, all).map(Some) }
}

fn put_again(whole: &Model, dims: &Dims, target: &Target, all: Vec<Recompute>) -> Result<Model, Failure> {
    let graph = recompute::put(&whole.graph, &all).map_err(Failure::bad)?;
    let (lowered, _) = model::as_it_is(&graph, dims, target, &whole.lowered.states)?;
    let lowered = Lowered { split: whole.lowered.split, recompute: all, ..lowered };
    Ok(Model { lowered, graph, whole: whole.whole.clone(), budgeted: None, plan: None })
}

/// Lifetimes without the engines that are not wanted.
pub(crate) fn restricted<'a>(lowered: &'a Lowered, wanted: &Wanted) -> Result<Cow<'a, Lifetimes>, Failure> {
    let mut lifetimes = Cow::Borrowed(&lowered.lifetimes);
    if wanted.engines.is_some() {
        machine::restrict(wanted.target, wanted.engines, lifetimes.to_mut())?;
    }
    Ok(lifetimes)
}

/// The least capacity of the device for a model, and the machine with what is wanted of it; nothing where no plan can be made at
/// all, which the planner says better.
pub(crate) fn needs(lowered: &Lowered, wanted: &Wanted) -> Result<Option<(Least, Target)>, Failure> {
    let lifetimes = restricted(lowered, wanted)?;
    let Ok(budgeted) = machine::budget(wanted.target, wanted.memory, &lifetimes) else { return Ok(None) };
    let target = budgeted.target;
    let least = match budgeted.least {
        Some(least) => Some(least),
        None => extremes(&lifetimes, &target).ok().map(|(least, _)| least),
    };
    Ok(least.map(|least| (least, target)))
}
