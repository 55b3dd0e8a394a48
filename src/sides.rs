//! The caller's side of a run: arrays of a file or of a seed go in, step by step; the last step's outputs come out.
//!
//! Reads:    arrays by name: `NAME` or `in:NAME` goes in, `NAME@K` from step K on, `out:NAME` should come out.
//! Decides:  which sizes each step has, and which part of an array it is fed.
//! Promises: what a step is fed has the sizes of that step; before anything runs, an error where an array does not reach, or
//!           where a dim would grow out of its range.
//! Why:      a mask over all that a cache holds is longer in each step. One array of the last step's shape says all of them:
//!           each step has its leading part along the axes that grow.

use crate::failure::{Failure, Outcome};
use crate::model::Dims;
use crate::npz::Array;
use crate::seed::{index_bounds, seeded_inputs};
use berth_compiler::lower::{Boundary, Lowered};
use berth_ir::Expr;
use berth_ir::expr::Binding;
use berth_ir::graph::Graph;
use berth_runtime_exec::executor::Caller;
use std::collections::{BTreeMap, BTreeSet};

/// What goes in at one input: arrays, each from a step on (counted from one), in order.
pub type Values = Vec<(usize, Array)>;

/// Arrays of an input file.
#[derive(Default)]
pub struct Arrays {
    /// What goes in, in the first step.
    pub inputs: BTreeMap<String, Array>,
    /// What goes in from later steps on.
    later: BTreeMap<String, BTreeMap<usize, Array>>,
    /// What is stored of what should come out.
    pub outputs: BTreeMap<String, Array>,
}

impl Arrays {
    /// Those of a file, for a model with inputs of these names.
    pub fn new(file: Vec<Array>, inputs: &BTreeSet<String>) -> Result<Arrays, Failure> {
        let mut all = Arrays::default();
        for mut array in file {
            if let Some(name) = array.name.strip_prefix("out:") {
                all.outputs.insert(name.to_owned(), array);
                continue;
            }
            let name = array.name.strip_prefix("in:").unwrap_or(&array.name).to_owned();
            let from = name.rsplit_once('@').filter(|(of, _)| !inputs.contains(&name) && inputs.contains(*of));
            let (name, step) = match from {
                None => (name, 1),
                Some((of, step)) => match step.parse() {
                    Ok(step) if step > 0 => (of.to_owned(), step),
                    _ => {
                        return Err(Failure::bad(format!(
                            "array `{name}`: `{step}` is no step; write `{of}@3` for what goes in at `{of}` from step 3 on, counted from 1"
                        )));
                    }
                },
            };
            array.name.clone_from(&name);
            let twice = match step {
                1 => all.inputs.insert(name.clone(), array).is_some(),
                _ => all.later.entry(name.clone()).or_default().insert(step, array).is_some(),
            };
            if twice {
                return Err(Failure::bad(format!(
                    "input `{name}` has two arrays in the file for step {step}: leave out one"
                )));
            }
        }
        Ok(all)
    }

    /// The same with each array changed.
    pub fn map(self, change: impl Fn(Array) -> Array) -> Arrays {
        let each = |all: BTreeMap<String, Array>| all.into_iter().map(|(name, array)| (name, change(array))).collect();
        let steps = |all: BTreeMap<usize, Array>| all.into_iter().map(|(step, array)| (step, change(array))).collect();
        Arrays {
            inputs: each(self.inputs),
            later: self.later.into_iter().map(|(name, all)| (name, steps(all))).collect(),
            outputs: each(self.outputs),
        }
    }
}

/// The sizes of a run's steps.
pub struct Steps<'a> {
    /// Of every dim of the inputs, in the first step.
    pub first: Binding,
    /// By how much dims grow in each.
    growth: &'a BTreeMap<String, u64>,
    count: usize,
}

impl<'a> Steps<'a> {
    /// So many steps of a model: `dims` are sizes and ranges, `inside` what the inputs say of the ranges. Where no input says
    /// a size it is the largest of its range; of a dim that grows the least.
    pub fn new(dims: &Dims, inside: &Binding, lowered: &'a Lowered, count: usize) -> Result<Steps<'a>, Failure> {
        let growth = &lowered.growth;
        let mut first = Binding::new();
        for (dim, range) in dims {
            let else_is = if growth.contains_key(dim) { range.low } else { range.high };
            let from = *inside.get(dim).unwrap_or(&else_is);
            first.insert(dim.clone(), from);
            let Some(by) = growth.get(dim) else { continue };
            let room = range.steps(from, *by);
            if count as u64 > room {
                let last = from.saturating_add(by.saturating_mul(count as u64 - 1));
                return Err(Failure::bad(format!(
                    "`{dim}` grows by {by} in each step: {count} steps from {from} on need it up to {last}, and the plan's range is {range}, which has room for {room}; ask for {room} `--steps` at most, or plan with `--dim {dim}={}..{last}`",
                    range.low
                )));
            }
        }
        Ok(Steps { first, growth, count })
    }

    /// Whether a size is another in each step.
    fn grows(&self, size: &Expr) -> bool {
        size.dims().iter().any(|dim| self.growth.contains_key(dim))
    }

    /// The largest that a size is from a step on until before another.
    fn most(&self, size: &Expr, from: usize, until: usize) -> Option<u64> {
        let at = |sizes: &Binding| u64::try_from(size.eval(sizes).ok()?).ok();
        if !self.grows(size) {
            return at(&self.first);
        }
        let mut sizes = self.first.clone();
        let step = |step: usize| {
            for (dim, by) in self.growth {
                if let Some((size, first)) = sizes.get_mut(dim).zip(self.first.get(dim)) {
                    *size = first + by * (step as u64 - 1);
                }
            }
            at(&sizes)
        };
        (from..until).map(step).collect::<Option<Vec<u64>>>()?.into_iter().max()
    }

    /// Inputs that are the same in every step.
    pub fn same(&self, lowered: &Lowered, inputs: &[Values]) -> BTreeSet<String> {
        let all = lowered.inputs.iter().zip(inputs).filter(|(port, values)| {
            let one = values.iter().filter(|(from, _)| *from <= self.count).count() == 1;
            one && !port.shape.iter().any(|size| self.grows(size))
        });
        all.map(|(port, _)| port.name.clone()).collect()
    }

    /// What an input's array from a step on until before another must have along each axis, and whether more does too.
    fn wanted(&self, lowered: &Lowered, port: &Boundary, from: usize, until: usize) -> Vec<(u64, bool)> {
        // A state is fed once, as the first step reads it.
        let state = lowered.states.iter().any(|state| state.input == port.name);
        let until = if state { from + 1 } else { until };
        let axis =
            |(size, most): (&Expr, &u64)| (self.most(size, from, until).unwrap_or(*most), !state && self.grows(size));
        port.shape.iter().zip(&port.most).map(axis).collect()
    }
}

/// What each input of a model is fed, from the arrays of a file.
pub fn given_inputs(lowered: &Lowered, mut given: Arrays, steps: &Steps) -> Result<Vec<Values>, Failure> {
    let mut all = Vec::new();
    for port in &lowered.inputs {
        let sizes = |wanted: &[(u64, bool)]| wanted.iter().map(|(size, _)| *size).collect::<Vec<u64>>();
        let Some(array) = given.inputs.remove(&port.name) else {
            let has: Vec<String> = given.inputs.keys().map(|k| format!("`{k}`")).collect();
            return Err(Failure::bad(format!(
                "input `{}` is missing: the file needs an array `{}` or `in:{}` of {:?} and shape {:?}; left over in it: {}",
                port.name,
                port.name,
                port.name,
                port.dtype,
                sizes(&steps.wanted(lowered, port, 1, steps.count + 1)),
                if has.is_empty() { "nothing".to_owned() } else { has.join(", ") }
            )));
        };
        let later = given.later.remove(&port.name).unwrap_or_default();
        if let (Some(step), true) = (later.keys().next(), lowered.states.iter().any(|s| s.input == port.name)) {
            return Err(Failure::bad(format!(
                "input `{}` is a state: in step {step} it is what the step before wrote; leave out `{}@{step}`",
                port.name, port.name
            )));
        }
        let values: Values = std::iter::once((1, array)).chain(later).collect();
        for (n, (from, array)) in values.iter().enumerate().filter(|(_, (from, _))| *from <= steps.count) {
            let until = values.get(n + 1).map_or(steps.count + 1, |(next, _)| (*next).min(steps.count + 1));
            let wanted = steps.wanted(lowered, port, *from, until);
            let axes = array.shape.iter().zip(&wanted);
            let fits = |(size, (want, more)): (&u64, &(u64, bool))| size == want || (*more && size > want);
            if array.dtype != port.dtype || array.shape.len() != wanted.len() || !axes.clone().all(fits) {
                let at = if *from == 1 { String::new() } else { format!(" from step {from} on") };
                let more: Vec<String> = (0..)
                    .zip(&wanted)
                    .filter(|(_, (_, more))| *more)
                    .map(|(axis, _): (usize, _)| axis.to_string())
                    .collect();
                let more = match more.is_empty() {
                    true => String::new(),
                    false => format!(", as the last of its steps reads it, or more along axis {}", more.join(" and ")),
                };
                return Err(Failure::bad(format!(
                    "input `{}`{at} is {:?} of shape {:?} in the file; the model wants {:?} of shape {:?}{more}",
                    port.name,
                    array.dtype,
                    array.shape,
                    port.dtype,
                    sizes(&wanted)
                )));
            }
        }
        all.push(values);
    }
    if let Some(name) = given.inputs.keys().chain(given.later.keys()).next() {
        let known: Vec<String> = lowered.inputs.iter().map(|p| format!("`{}`", p.name)).collect();
        return Err(Failure::bad(format!("the model has no input `{name}`; it has {}", known.join(", "))));
    }
    Ok(all)
}

/// An input that was fixed when the plan was made has that value when it runs.
pub fn check_set(set: &BTreeMap<String, Vec<i64>>, inputs: &[Values]) -> Outcome {
    for (_, array) in inputs.iter().flatten() {
        let Some(wanted) = set.get(&array.name) else { continue };
        let has = array.integers().unwrap_or_default();
        if has != *wanted {
            return Err(Failure::bad(format!(
                "input `{}` is {has:?} in the file, and `--set` says {wanted:?}: give one or the other",
                array.name
            )));
        }
    }
    Ok(())
}

/// What each input of a model is fed, made from a seed.
pub fn made_inputs(lowered: &Lowered, graph: &Graph, seed: u64, steps: &Steps) -> Result<Vec<Values>, Failure> {
    let shape = |port| steps.wanted(lowered, port, 1, steps.count + 1).into_iter().map(|(size, _)| size).collect();
    let ports: Vec<_> = lowered.inputs.iter().map(|p| (p.name.clone(), p.dtype, shape(p))).collect();
    let arrays = seeded_inputs(&ports, seed, &index_bounds(graph)).map_err(Failure::bad)?;
    Ok(arrays.into_iter().map(|array| vec![(1, array)]).collect())
}

/// Inputs by tensor, outputs as they come.
pub struct Sides<'a> {
    inputs: BTreeMap<&'a str, (&'a Boundary, &'a Values)>,
    outputs: BTreeMap<&'a str, (&'a Boundary, Vec<u64>, Vec<u8>)>,
    order: Vec<&'a str>,
    last: usize,
    /// The shape of what is fed.
    shape: Vec<u64>,
    /// What was fed last at each input: which of its arrays, and with which shape.
    fed: BTreeMap<&'a str, (usize, Vec<u64>)>,
}

impl<'a> Sides<'a> {
    /// Those of a run of so many steps.
    pub fn new(lowered: &'a Lowered, inputs: &'a [Values], last: usize) -> Sides<'a> {
        let tensor = |b: &'a Boundary| b.tensor.as_deref();
        let inputs = lowered.inputs.iter().zip(inputs).filter_map(|(b, values)| Some((tensor(b)?, (b, values))));
        let outputs = lowered.outputs.iter().filter_map(|b| Some((tensor(b)?, (b, Vec::new(), Vec::new()))));
        Sides {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            order: lowered.outputs.iter().filter_map(tensor).collect(),
            last,
            shape: Vec::new(),
            fed: lowered.inputs.iter().filter_map(tensor).map(|tensor| (tensor, (usize::MAX, Vec::new()))).collect(),
        }
    }

    /// In the model's order, under the model's names.
    pub fn outputs(mut self) -> Vec<Array> {
        let taken = self.order.iter().filter_map(|t| self.outputs.remove(t));
        let array = |(b, shape, bytes): (&Boundary, Vec<u64>, Vec<u8>)| Array {
            name: b.name.clone(),
            dtype: b.dtype,
            shape,
            bytes,
        };
        taken.map(array).collect()
    }
}

impl Caller for Sides<'_> {
    fn feed(&mut self, tensor: &str, step: usize, to: &mut [u8], dims: &Binding, kept: bool) -> Result<(), String> {
        // The prologue feeds what the first step reads.
        let now = |values: &Values| values.partition_point(|(from, _)| *from <= step.max(1)).checked_sub(1);
        let found = self.inputs.get(tensor).and_then(|(port, values)| {
            let now = now(values)?;
            Some((port, now, &values.get(now)?.1))
        });
        let (port, now, array) = found.ok_or_else(|| format!("there is no input for `{tensor}`"))?;
        self.shape.clear();
        for axis in &port.shape {
            let size = axis.eval(dims).ok().and_then(|size| u64::try_from(size).ok());
            self.shape.push(size.ok_or_else(|| format!("the size of `{tensor}` is not known"))?);
        }
        if let Some(fed) = self.fed.get_mut(tensor) {
            if kept && fed.0 == now && fed.1 == self.shape {
                return Ok(());
            }
            fed.0 = now;
            fed.1.clone_from(&self.shape);
        }
        // Sizes were checked against the ports; one within a range fills less than its berth.
        lead(array, &self.shape, to).ok_or_else(|| format!("`{tensor}` is {:?}, no part of its array", self.shape))
    }

    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], dims: &Binding) -> Result<(), String> {
        if step == self.last {
            let (port, shape, bytes) =
                self.outputs.get_mut(tensor).ok_or_else(|| format!("there is no output `{tensor}`"))?;
            *shape = shape_at(&port.shape, dims).ok_or_else(|| format!("the size of `{tensor}` is not known"))?;
            let size = shape.iter().try_fold(1u64, |n, axis| n.checked_mul(*axis)).and_then(|n| port.dtype.bytes(n));
            let held = size.and_then(|size| from.get(..usize::try_from(size).ok()?));
            bytes.extend_from_slice(held.ok_or_else(|| format!("`{tensor}` is larger than its berth"))?);
        }
        Ok(())
    }
}

/// Writes the leading part of an array along each axis, as many elements as `shape` says; nothing where it has not as many,
/// or there is no room for them.
fn lead(array: &Array, shape: &[u64], to: &mut [u8]) -> Option<()> {
    let Some(cut) = shape.iter().zip(&array.shape).rposition(|(size, all)| size != all) else {
        to.get_mut(..array.bytes.len())?.copy_from_slice(&array.bytes);
        return Some(());
    };
    // From the last axis that is cut on, elements lie side by side.
    let element = array.dtype.bits().filter(|bits| bits.is_multiple_of(8))? / 8;
    let (outer, inner) = shape.split_at(cut);
    let (outer_of, inner_of) = array.shape.split_at_checked(cut)?;
    let run = usize::try_from(inner.iter().product::<u64>() * element).ok()?;
    let pitch = usize::try_from(inner_of.iter().product::<u64>() * element).ok()?;
    let rows = if run == 0 { 0 } else { outer.iter().product::<u64>() };
    for row in 0..rows {
        let (mut rest, mut place, mut stride) = (row, 0, 1);
        for (size, all) in outer.iter().zip(outer_of).rev() {
            place += rest % size * stride;
            rest /= size;
            stride *= all;
        }
        let from = usize::try_from(place).ok()?.checked_mul(pitch)?;
        let at = usize::try_from(row).ok()?.checked_mul(run)?;
        to.get_mut(at..at + run)?.copy_from_slice(array.bytes.get(from..from + run)?);
    }
    Some(())
}

/// A shape at these sizes.
fn shape_at(shape: &[Expr], sizes: &Binding) -> Option<Vec<u64>> {
    shape.iter().map(|axis| u64::try_from(axis.eval(sizes).ok()?).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ir::DType;

    #[test]
    fn the_leading_part_is_that_along_every_axis() {
        let shape = [2, 3, 4];
        let array = Array { name: "a".to_owned(), dtype: DType::U8, shape: shape.to_vec(), bytes: (0..24).collect() };
        let part = |shape: &[u64]| {
            let mut to = [99; 25];
            lead(&array, shape, &mut to).map(|()| to[..shape.iter().product::<u64>() as usize + 1].to_vec())
        };
        assert_eq!(part(&[2, 3, 4]), Some((0..24).chain([99]).collect()));
        assert_eq!(part(&[1, 3, 4]), Some((0..12).chain([99]).collect()));
        assert_eq!(part(&[2, 2, 4]), Some((0..8).chain(12..20).chain([99]).collect()));
        assert_eq!(part(&[2, 1, 2]), Some(vec![0, 1, 12, 13, 99]));
        assert_eq!(part(&[1, 2, 3]), Some(vec![0, 1, 2, 4, 5, 6, 99]));
        assert_eq!(part(&[2, 0, 4]), Some(vec![99]));
        assert_eq!(part(&[2, 3, 5]), None, "there are not as many");
        assert_eq!(part(&[3, 3, 4]), None, "there are not as many");
        assert_eq!(lead(&array, &[2, 2, 4], &mut [0; 15]), None, "there is no room");
    }
}
