//! A model on its way in: opened, bound to sizes, lowered.

use crate::failure::Failure;
use crate::npz::Array;
use berth_compiler::import::{self, Model};
use berth_compiler::lower::{Lowered, lower};
use berth_ir::Target;
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, Stored};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Opens a model file.
pub fn open(path: &Path) -> Result<Model, Failure> {
    import::open(path).map_err(|e| Failure::bad(format!("`{}`: {e}", path.display())))
}

/// What `--dim` says.
pub fn dims(words: &[String]) -> Result<Binding, Failure> {
    let mut binding = Binding::new();
    for word in words {
        let bad = |problem: &str| Failure::bad(format!("`--dim {word}`: {problem}; write it as `--dim past=1023`"));
        let (name, value) = word.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
        if value.contains("..") {
            return Err(bad("a range of sizes cannot be planned yet, only one size"));
        }
        let value = value.parse().ok().filter(|v| *v <= u64::from(u32::MAX));
        let value = value.ok_or_else(|| bad("the size is no whole number up to 2^32"))?;
        if binding.insert(name.to_owned(), value).is_some_and(|old| old != value) {
            return Err(bad("the dim is given twice with two sizes"));
        }
    }
    Ok(binding)
}

/// Adds what the shapes of given inputs say of dims.
pub fn dims_of_inputs(model: &Model, inputs: &BTreeMap<String, Array>, binding: &mut Binding) -> Result<(), Failure> {
    for port in model.inputs() {
        let (Some(array), Some(shape)) = (inputs.get(&port.name), &port.shape) else { continue };
        if array.shape.len() != shape.len() {
            return Err(Failure::bad(format!(
                "input `{}` has {} axes in the file, {} in the model: give it the model's shape {}",
                port.name,
                array.shape.len(),
                shape.len(),
                said(shape)
            )));
        }
        for (axis, size) in shape.iter().zip(&array.shape) {
            let Some(dim) = axis.as_dim() else { continue };
            match binding.insert(dim.to_owned(), *size) {
                Some(old) if old != *size => {
                    return Err(Failure::bad(format!(
                        "dim `{dim}` is {old} elsewhere, and {size} in the shape of input `{}`: give inputs that agree",
                        port.name
                    )));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn said(shape: &[berth_ir::Expr]) -> String {
    let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
    format!("[{}]", axes.join(", "))
}

/// The graph at these sizes; every size must be known.
pub fn graph(model: &Model, binding: &Binding) -> Result<Graph, Failure> {
    let known: Vec<String> = model.input_dims().into_iter().map(|d| d.name).collect();
    if let Some(unknown) = binding.keys().find(|d| !known.contains(d)) {
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Failure::bad(format!("the model has no dim `{unknown}`; it has {known}")));
    }
    let graph = model.graph(binding).map_err(|e| Failure::bad(format!("`{}`: {e}", model.path().display())))?;
    let mut open = BTreeMap::new();
    for input in &graph.inputs {
        let value = graph.value(*input);
        for dim in value.shape.iter().flat_map(|e| e.dims()) {
            open.entry(dim).or_insert_with(|| value.name.clone());
        }
    }
    if open.is_empty() {
        return Ok(graph);
    }
    let (dims, words): (Vec<String>, Vec<String>) =
        open.iter().map(|(d, input)| (format!("`{d}` (in `{input}`)"), format!("--dim {d}=N"))).unzip();
    Err(Failure::bad(format!("these dims have no size: {}; give them with {}", dims.join(", "), words.join(" "))))
}

/// Lowers a graph for a target.
pub fn lowered(graph: &Graph, binding: &Binding, target: &Target) -> Result<Lowered, Failure> {
    lower(graph, binding, target, &read_small).map_err(Failure::bad)
}

/// The bytes of a small constant in a file.
fn read_small(stored: &Stored) -> Option<Bytes> {
    let mut bytes = vec![0; usize::try_from(stored.bytes).ok()?];
    File::open(&stored.path).ok()?.read_exact_at(&mut bytes, stored.offset).ok()?;
    Some(bytes.into())
}
