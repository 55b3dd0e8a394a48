//! The caller's side of a run: arrays of a file or of a seed go in, the last step's outputs come out.

use crate::failure::{Failure, Outcome};
use crate::npz::Array;
use crate::seed::{index_bounds, seeded_inputs};
use berth_compiler::lower::{Boundary, Lowered};
use berth_ir::Expr;
use berth_ir::expr::Binding;
use berth_ir::graph::Graph;
use berth_runtime_exec::executor::Caller;
use std::collections::BTreeMap;

/// Arrays of an input file: what goes in, and what is stored of what should come out.
pub fn sides(arrays: Vec<Array>) -> (BTreeMap<String, Array>, BTreeMap<String, Array>) {
    let (mut inputs, mut outputs) = (BTreeMap::new(), BTreeMap::new());
    for array in arrays {
        match array.name.strip_prefix("out:") {
            Some(name) => outputs.insert(name.to_owned(), array),
            None => inputs.insert(array.name.strip_prefix("in:").unwrap_or(&array.name).to_owned(), array),
        };
    }
    (inputs, outputs)
}

pub fn given_inputs(
    lowered: &Lowered,
    mut given: BTreeMap<String, Array>,
    sizes: &Binding,
) -> Result<Vec<Array>, Failure> {
    let mut all = Vec::new();
    for port in &lowered.inputs {
        let shape = shape_at(&port.shape, sizes).unwrap_or_else(|| port.most.clone());
        let Some(array) = given.remove(&port.name) else {
            let has: Vec<String> = given.keys().map(|k| format!("`{k}`")).collect();
            return Err(Failure::bad(format!(
                "input `{}` is missing: the file needs an array `{}` or `in:{}` of {:?} and shape {:?}; left over in it: {}",
                port.name,
                port.name,
                port.name,
                port.dtype,
                shape,
                if has.is_empty() { "nothing".to_owned() } else { has.join(", ") }
            )));
        };
        if array.dtype != port.dtype || array.shape != shape {
            return Err(Failure::bad(format!(
                "input `{}` is {:?} of shape {:?} in the file; the model wants {:?} of shape {:?}",
                port.name, array.dtype, array.shape, port.dtype, shape
            )));
        }
        all.push(array);
    }
    if let Some(name) = given.keys().next() {
        let known: Vec<String> = lowered.inputs.iter().map(|p| format!("`{}`", p.name)).collect();
        return Err(Failure::bad(format!("the model has no input `{name}`; it has {}", known.join(", "))));
    }
    Ok(all)
}

/// An input that was fixed when the plan was made has that value when it runs.
pub fn check_set(set: &BTreeMap<String, Vec<i64>>, inputs: &[Array], given: bool) -> Outcome {
    for array in inputs.iter().filter(|_| given) {
        let Some(wanted) = set.get(&array.name).or_else(|| set.get(array.name.trim_start_matches("in:"))) else {
            continue;
        };
        let has = array.integers().unwrap_or_default();
        if has != *wanted {
            let name = array.name.trim_start_matches("in:");
            return Err(Failure::bad(format!(
                "input `{name}` is {has:?} in the file, and `--set` says {wanted:?}: give one or the other"
            )));
        }
    }
    Ok(())
}

pub fn made_inputs(lowered: &Lowered, graph: &Graph, seed: u64) -> Result<Vec<Array>, Failure> {
    let ports: Vec<_> = lowered.inputs.iter().map(|p| (p.name.clone(), p.dtype, p.most.clone())).collect();
    seeded_inputs(&ports, seed, &index_bounds(graph)).map_err(Failure::bad)
}

/// Inputs by tensor, outputs as they come.
pub struct Sides<'a> {
    inputs: BTreeMap<&'a str, &'a [u8]>,
    outputs: BTreeMap<&'a str, (&'a Boundary, Vec<u64>, Vec<u8>)>,
    order: Vec<&'a str>,
    last: usize,
}

impl<'a> Sides<'a> {
    pub fn new(lowered: &'a Lowered, inputs: &'a [Array], last: usize) -> Sides<'a> {
        let tensor = |b: &'a Boundary| b.tensor.as_deref();
        let inputs = lowered.inputs.iter().zip(inputs).filter_map(|(b, a)| Some((tensor(b)?, a.bytes.as_slice())));
        let outputs = lowered.outputs.iter().filter_map(|b| Some((tensor(b)?, (b, Vec::new(), Vec::new()))));
        Sides {
            inputs: inputs.collect(),
            outputs: outputs.collect(),
            order: lowered.outputs.iter().filter_map(tensor).collect(),
            last,
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
    fn feed(&mut self, tensor: &str, _step: usize, to: &mut [u8]) -> Result<(), String> {
        let bytes = self.inputs.get(tensor).ok_or_else(|| format!("there is no input for `{tensor}`"))?;
        // Sizes were checked against the ports; one within a range fills less than its berth.
        let place = to.get_mut(..bytes.len());
        place
            .ok_or_else(|| format!("`{tensor}` has {} bytes, more than its berth", bytes.len()))?
            .copy_from_slice(bytes);
        Ok(())
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

/// A shape at these sizes.
fn shape_at(shape: &[Expr], sizes: &Binding) -> Option<Vec<u64>> {
    shape.iter().map(|axis| u64::try_from(axis.eval(sizes).ok()?).ok()).collect()
}
