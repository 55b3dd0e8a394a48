//! A model for the memory that it is asked to run in: with large operators split where it needs that.
//!
//! As it is, a model has fewer calls, so it is split only where the device has less than it needs as it is, or where the
//! least is asked for. The plan says how it was split; who verifies or runs it splits the model so again.

use crate::failure::Failure;
use crate::machine;
use crate::model::{self, Dims, Ready};
use berth_compiler::lower::Lowered;
use berth_compiler::plan::extremes;
use berth_compiler::room::Least;
use berth_compiler::split::{THREADS, reach, split};
use berth_ir::Target;
use berth_ir::graph::Graph;
use berth_ir::program::Split;

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
}

/// A model to be planned, and the graph that it was lowered from.
pub struct Model {
    /// The graph: rewritten, its operators split.
    pub graph: Graph,
    /// The model.
    pub lowered: Lowered,
    /// The machine with what `--memory` means for the model as it is lowered, where that was worked out.
    pub budgeted: Option<Target>,
}

/// A model in pieces, and the least that it needs so.
pub struct Pieces {
    /// The model.
    pub model: Model,
    /// Its least capacity.
    pub least: Least,
}

/// A model, split if the memory that is wanted is less than it needs as it is.
pub fn for_memory(graph: &Graph, dims: &Dims, wanted: &Wanted) -> Result<Model, Failure> {
    let ready = model::ready(graph, dims, wanted.target)?;
    let Some((least, budgeted)) = needs(&ready.lowered, wanted)? else { return Ok(as_it_is(ready)) };
    let asked = machine::wants_least(wanted.target, wanted.memory);
    let room = budgeted.tier(budgeted.device()).map_or(0, |t| t.room().0);
    if room >= least.bytes && !asked {
        return Ok(Model { budgeted: Some(budgeted), ..as_it_is(ready) });
    }
    let Some(finest) = finest(&ready, dims, &least, wanted)? else { return Ok(as_it_is(ready)) };
    if asked || finest.least.bytes >= room {
        return Ok(finest.model);
    }
    // As few pieces as do: each of the size of the room, or of parts of it, as they lie beside each other.
    for part in [room, room / 4 * 3, room / 2] {
        let pieces = in_pieces(&ready, dims, part, wanted)?;
        if let Some(pieces) = pieces.filter(|pieces| pieces.least.bytes <= room) {
            return Ok(pieces.model);
        }
    }
    Ok(finest.model)
}

fn as_it_is(ready: Ready) -> Model {
    Model { graph: ready.graph, lowered: ready.lowered, budgeted: None }
}

/// The pieces with which a model needs least; nothing where it needs no less than as it is, which is `whole`.
pub fn finest(ready: &Ready, dims: &Dims, whole: &Least, wanted: &Wanted) -> Result<Option<Pieces>, Failure> {
    let room = reach(&ready.graph, dims, &ready.lowered.lifetimes, wanted.threads.max(THREADS));
    let pieces = in_pieces(ready, dims, room, wanted)?;
    Ok(pieces.filter(|pieces| pieces.least.bytes < whole.bytes))
}

/// A model as a program's header says that it was split.
pub fn as_said(graph: &Graph, dims: &Dims, target: &Target, said: Option<Split>) -> Result<Model, Failure> {
    let ready = model::ready(graph, dims, target)?;
    let Some(how) = said else { return Ok(as_it_is(ready)) };
    Ok(put(&ready, dims, target, how)?.unwrap_or_else(|| as_it_is(ready)))
}

/// A model with what holds more than so much in pieces; nothing where that can be done to nothing.
fn in_pieces(ready: &Ready, dims: &Dims, room: u64, wanted: &Wanted) -> Result<Option<Pieces>, Failure> {
    let how = Split { room, threads: wanted.threads.max(THREADS) };
    let Some(model) = put(ready, dims, wanted.target, how)? else { return Ok(None) };
    let needs = needs(&model.lowered, wanted)?;
    Ok(needs.map(|(least, budgeted)| Pieces { model: Model { budgeted: Some(budgeted), ..model }, least }))
}

fn put(ready: &Ready, dims: &Dims, target: &Target, how: Split) -> Result<Option<Model>, Failure> {
    let Some(graph) = split(&ready.graph, dims, &ready.lowered.lifetimes, how) else { return Ok(None) };
    let (lowered, _) = model::as_it_is(&graph, dims, target)?;
    Ok(Some(Model { lowered: Lowered { split: Some(how), ..lowered }, graph, budgeted: None }))
}

/// The least capacity of the device for a model, and the machine with what is wanted of it; nothing where no plan can be made at
/// all, which the planner says better.
fn needs(lowered: &Lowered, wanted: &Wanted) -> Result<Option<(Least, Target)>, Failure> {
    let mut lifetimes = std::borrow::Cow::Borrowed(&lowered.lifetimes);
    if wanted.engines.is_some() {
        machine::restrict(wanted.target, wanted.engines, lifetimes.to_mut())?;
    }
    let Ok(budgeted) = machine::budget(wanted.target, wanted.memory, &lifetimes) else { return Ok(None) };
    let target = budgeted.target;
    let least = match budgeted.least {
        Some(least) => Some(least),
        None => extremes(&lifetimes, &target).ok().map(|(least, _)| least),
    };
    Ok(least.map(|least| (least, target)))
}
