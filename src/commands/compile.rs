//! `berth compile`: a model and a machine to a memory program.

use crate::cli;
use crate::commands::{planned_for, stem};
use crate::failure::{Failure, Outcome};
use crate::measure::costs;
use crate::observed::Observation;
use crate::split::Wanted;
use crate::summary::Summary;
use crate::{fast, files, machine, model, quickest, split};
use berth_compiler::cost::with_measured;
use berth_runtime_exec::engine::EngineOptions;
use berth_runtime_exec::engine::ort::OrtEngine;
use std::collections::BTreeMap;

/// Runs it.
pub fn compile(args: &cli::Compile) -> Outcome {
    files::check_writable(args.output.as_deref())?;
    let observed = args.observed.as_deref().map(Observation::read).transpose()?;
    let mut target = machine::target(args.machine.name())?;
    let opened = model::open(&args.model, args.bound.cast)?;
    let dims = model::dims(&args.bound.dims)?;
    let graph = model::graph(&opened, &dims, &model::sets(&args.bound.sets)?)?;
    let engines = args.machine.engines.as_deref();
    let (states, threads) = (&model::states(&args.states.states)?, u64::from(args.threads));
    let wanted = Wanted { target: &target, memory: &args.machine.memory, engines, threads, states };
    let model = quickest::for_memory(&graph, &dims, &wanted)?;
    let split::Model { graph: planned_graph, mut lowered, whole, budgeted, plan } = model;
    let places = model::places(&opened);
    // Of a large model these are a good part of the memory that planning and proving take.
    drop((graph, opened));
    // The graph that is planned is asked for again where weights are to be held.
    let planned_graph = Some(planned_graph).filter(|_| args.numerics == cli::Numerics::Fast);
    let mut engine = None;
    if args.measure {
        let options =
            EngineOptions { library: None, threads: args.threads as usize, spin: args.numerics == cli::Numerics::Fast };
        engine = Some(OrtEngine::open(&options).map_err(Failure::bad)?);
    }
    let mut measure =
        |lowered: &_| engine.as_mut().map_or(Ok(BTreeMap::new()), |engine| costs(lowered, engine, &places));
    if args.measure {
        let costs = measure(&lowered)?;
        lowered.lifetimes = with_measured(lowered.lifetimes, &costs);
    }
    let mut memory = args.machine.memory.clone();
    if let Some(graph) = planned_graph {
        machine::restrict(&target, engines, &mut lowered.lifetimes)?;
        let (budgeted, words) = fast::in_bytes(&memory, &target, &lowered)?;
        memory = words;
        lowered = fast::chosen(
            &split::Model { graph, lowered, whole: whole.clone(), budgeted: None, plan: None },
            &budgeted,
            &mut measure,
        )?;
    }
    let mut costs = if args.measure { "measured" } else { "estimated" };
    if let Some(observed) = &observed {
        observed.check(&whole, &target)?;
        let unseen = observed.time(&mut lowered.lifetimes, &target);
        costs = if unseen == 0 { "observed" } else { "partly observed" };
        target = observed.rates(&target);
    }
    (lowered.codes, lowered.embedded) = Default::default();
    machine::restrict(&target, engines, &mut lowered.lifetimes)?;
    // What memory was found to mean holds while the model's times and workspaces, and the machine's rates, are estimates.
    let as_found = costs == "estimated" && args.numerics == cli::Numerics::Exact;
    let (budgeted, plan) = match budgeted.filter(|_| as_found) {
        Some(budgeted) => (budgeted, plan),
        None => (machine::budget(&target, &memory, &lowered.lifetimes)?.target, None),
    };
    let (plan, ()) = planned_for(&lowered, &budgeted, plan, |proved| match &args.output {
        Some(path) => files::write_program(path, proved),
        None => Ok(()),
    })?;
    let summary = Summary::new(&stem(&args.model), &budgeted, &plan, costs);
    files::print(&summary.with_margins(&lowered.lifetimes, &budgeted, &plan), args.format)
}
