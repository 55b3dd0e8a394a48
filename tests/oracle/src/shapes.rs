//! Compares the shape and type of each value with what another shape inference finds.
//!
//! Sizes are bound to numbers on both sides. The other side starts from another decoder's message and is told nothing
//! that the file claims of results.

use crate::convert::{self, Chosen};
use crate::rules;
use berth_compiler::import::dtype_to_onnx;
use berth_ir::graph::Graph;
use onnx_protobuf::{Message, ModelProto};
use onnx_runtime_shape_inference::MergePolicy;
use std::collections::{HashMap, HashSet};

/// What the other side knows of the values of a main graph, by name.
#[derive(Clone, Debug, Default)]
pub struct Inferred(HashMap<String, Inference>);

/// What the other side knows of one value.
#[derive(Clone, Debug)]
struct Inference {
    /// The number that ONNX gives the type.
    dtype: i32,
    /// `None` for an axis of which it knows no number.
    shape: Vec<Option<usize>>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// Values of berth's graph: each has a type and a rank.
    pub values: usize,
    /// Axes of berth's values for which it has a number. It has none where only the data decide.
    pub axes: usize,
    /// Names of the values of which the other side does not know type and rank.
    pub values_open: Vec<String>,
    /// Axes for which berth has a number and the other side none, as `name:axis`.
    pub axes_open: Vec<String>,
    /// One line for each value that differs.
    pub differences: Vec<String>,
}

/// Decodes a model and infers the shapes and types of its main graph.
pub fn infer(bytes: &[u8], chosen: &Chosen) -> Result<Inferred, String> {
    let model = ModelProto::parse_from_bytes(bytes).map_err(|e| e.to_string())?;
    let mut graph = convert::graph(&model, chosen)?;
    let opsets = graph.opset_imports.clone();
    // Permissive: what does not agree shall end here as a difference with a name, not there as an error.
    let report = rules::registry().infer_graph(&mut graph, &opsets, MergePolicy::Permissive);
    let resolved: HashSet<_> = report.map_err(|e| e.to_string())?.resolved.into_iter().collect();
    let mut found = HashMap::new();
    for (_, value) in graph.values.iter().filter(|(id, _)| resolved.contains(id)) {
        let shape = value.shape.iter().map(|dim| dim.as_static()).collect();
        let name = value.name.clone().unwrap_or_default();
        found.insert(name, Inference { dtype: value.dtype.to_onnx(), shape });
    }
    Ok(Inferred(found))
}

/// Compares each value of berth's graph with what was inferred for its name.
pub fn compare(graph: &Graph, inferred: &Inferred) -> Compared {
    let mut found = Compared { values: graph.values.len(), ..Compared::default() };
    for value in &graph.values {
        let ours: Vec<Option<i128>> = value.shape.iter().map(|axis| axis.as_constant()).collect();
        found.axes += ours.iter().flatten().count();
        let open = |axis: usize| format!("{}:{axis}", value.name);
        let Some(theirs) = inferred.0.get(&value.name) else {
            found.values_open.push(value.name.clone());
            found.axes_open.extend((0..ours.len()).filter(|axis| ours[*axis].is_some()).map(open));
            continue;
        };
        let dtype = dtype_to_onnx(value.dtype);
        let pairs = || ours.iter().zip(&theirs.shape);
        let unlike = pairs().any(|(x, y)| matches!((x, y), (Some(x), Some(y)) if *x != *y as i128));
        if dtype != theirs.dtype || ours.len() != theirs.shape.len() || unlike {
            let line = format!(
                "`{}` has type {dtype} and shape {ours:?} here, type {} and shape {:?} there",
                value.name, theirs.dtype, theirs.shape
            );
            found.differences.push(line);
        }
        let unknown = pairs().enumerate().filter(|(_, (x, y))| x.is_some() && y.is_none());
        found.axes_open.extend(unknown.map(|(axis, _)| open(axis)));
    }
    found
}
