//! Where some rule could win something, and what stands around it.

use super::facts::Facts;
use super::form::Form;
use berth_ir::graph::{Op, ValueId};
use std::collections::{BTreeSet, VecDeque};

/// Most operators of a region: about a layer.
const OPS_MAX: usize = 96;
/// Most operators that are looked at to find out what stands above one.
const ABOVE_MAX: usize = 24;

/// Operators at which a rule could win something, in order.
pub(super) fn seeds(facts: &Facts) -> Vec<Vec<u32>> {
    let twins = facts.twins.iter().map(|(later, first)| vec![*first, *later]);
    let ops = (0..facts.graph.ops.len() as u32).filter(|n| wins(facts, *n)).map(|n| vec![n]);
    let mut seeds: Vec<Vec<u32>> = ops.chain(twins).collect();
    seeds.sort();
    seeds
}

/// Whether an operator does nothing, or stands below one with which it might cancel.
fn wins(facts: &Facts, n: u32) -> bool {
    let op = &facts.graph.ops[n as usize];
    match &facts.forms[n as usize] {
        // An Identity is free already.
        Some(Form::Same(_)) => op.kind != "Identity" && !is_free(facts, n),
        Some(Form::Transpose(order)) => {
            let from = op.inputs[0].map_or(&[][..], |v| &facts.graph.value(v).shape);
            let wide: Vec<usize> = order.iter().copied().filter(|at| from[*at].as_constant() != Some(1)).collect();
            wide.is_sorted() || above(facts, op, &|form| matches!(form, Form::Transpose(_)))
        }
        Some(Form::Slice { starts, .. }) => {
            let result = op.outputs[0].map(|v| &facts.graph.value(v).shape);
            let all = result == op.inputs[0].map(|v| &facts.graph.value(v).shape)
                && starts.iter().all(|s| s.as_constant() == Some(0));
            all || above(facts, op, &cuts_or_joins)
        }
        Some(Form::Split { .. } | Form::Pick { .. }) => {
            op.outputs.len() == 1 && matches!(facts.forms[n as usize], Some(Form::Split { .. }))
                || above(facts, op, &cuts_or_joins)
        }
        Some(Form::Concat(_)) => {
            let near = |v: &Option<ValueId>| v.map(|v| source(facts, v));
            let makers: Vec<Option<(u32, ValueId)>> = op.inputs.iter().map(|v| near(v).flatten()).collect();
            let form = |m: &Option<(u32, ValueId)>| m.and_then(|(n, _)| facts.forms[n as usize].as_ref());
            let cut = |m: &Option<(u32, ValueId)>| {
                let cuts = matches!(form(m), Some(Form::Slice { .. } | Form::Split { .. }));
                m.filter(|_| cuts).and_then(|(n, _)| facts.graph.ops[n as usize].inputs[0])
            };
            let neighbours = makers.windows(2).any(|pair| cut(&pair[0]).is_some() && cut(&pair[0]) == cut(&pair[1]));
            neighbours || makers.iter().any(|m| matches!(form(m), Some(Form::Concat(_))))
        }
        _ => false,
    }
}

/// A view that lowering makes free.
fn is_free(facts: &Facts, n: u32) -> bool {
    let op = &facts.graph.ops[n as usize];
    crate::import::ops::row_of(&op.domain, &op.kind).is_some_and(|row| row.view)
}

fn cuts_or_joins(form: &Form) -> bool {
    matches!(form, Form::Slice { .. } | Form::Split { .. } | Form::Concat(_))
}

/// The operator that makes a value, through views, and what of its results.
fn source(facts: &Facts, value: ValueId) -> Option<(u32, ValueId)> {
    let mut value = value;
    for _ in 0..ABOVE_MAX {
        let maker = facts.producer[value.0 as usize]?;
        match &facts.forms[maker as usize] {
            Some(Form::View) => value = facts.graph.ops[maker as usize].inputs[0]?,
            Some(Form::Same(n)) => value = facts.graph.ops[maker as usize].inputs[*n]?,
            Some(_) => return Some((maker, value)),
            None => return None,
        }
    }
    None
}

/// Whether an operator of such a form stands above this one, with only views, moves and work on elements between.
fn above(facts: &Facts, op: &Op, wanted: &dyn Fn(&Form) -> bool) -> bool {
    let mut open: VecDeque<ValueId> = op.inputs.first().copied().flatten().into_iter().collect();
    let mut looked = 0;
    while let Some(value) = open.pop_front() {
        let Some((maker, _)) = source(facts, value) else { continue };
        looked += 1;
        if looked > ABOVE_MAX {
            return false;
        }
        let Some(form) = &facts.forms[maker as usize] else { continue };
        if wanted(form) {
            return true;
        }
        if passes(form) {
            open.extend(facts.graph.ops[maker as usize].inputs.iter().flatten());
        }
    }
    false
}

/// Whether rules look through an operator of this form.
fn passes(form: &Form) -> bool {
    !matches!(form, Form::Other)
}

/// The operators around some: those that make what they read and read what they make, while rules look through them.
/// `None` where others that are `taken` stand among them or beside them.
pub(super) fn region(facts: &Facts, seed: &[u32], taken: &[bool]) -> Option<BTreeSet<u32>> {
    let mut region: BTreeSet<u32> = seed.iter().copied().collect();
    let mut open: VecDeque<u32> = seed.iter().copied().collect();
    while let Some(n) = open.pop_front() {
        for near in beside(facts, n) {
            let looks_through = facts.forms[near as usize].as_ref().is_some_and(passes);
            if looks_through && region.len() < OPS_MAX && region.insert(near) {
                open.push_back(near);
            }
        }
    }
    let free = |n: &u32| !taken[*n as usize] && beside(facts, *n).iter().all(|near| !taken[*near as usize]);
    region.iter().all(free).then_some(region)
}

/// The operators that make what one reads, and those that read what it makes: of a value that many read, the first.
fn beside(facts: &Facts, n: u32) -> Vec<u32> {
    let op = &facts.graph.ops[n as usize];
    let mut near: Vec<u32> = op.reads().filter_map(|v| facts.producer[v.0 as usize]).collect();
    for result in op.outputs.iter().flatten() {
        near.extend(facts.readers[result.0 as usize].iter().take(OPS_MAX));
    }
    near.retain(|n| facts.live[*n as usize]);
    near
}
