//! What each task costs: estimated from the target, or measured by an engine.
//!
//! Reads:    lifetimes, arithmetic of each task, the target's engine.
//! Decides:  time and workspace of each task.
//! Promises: the same table for the same input; measured entries replace estimates one by one.
//! Why:      the roofline (Williams et al. 2009): a task takes the longer of its arithmetic and its bytes.

use berth_ir::DType;
use berth_ir::lifetime::Lifetimes;
use berth_ir::target::{Engine, Target};
use berth_ir::units::{Bytes, Nanos};
use std::collections::BTreeMap;

/// What an engine measured of one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Time of one run.
    pub time: Nanos,
    /// Bytes of scratch.
    pub workspace: u64,
    /// Bytes that the engine keeps for it.
    pub kept: u64,
    /// Most bytes beside those while it is loaded.
    pub loading: u64,
}

/// The estimated time of a task: arithmetic against bytes, whichever takes longer, and one launch.
pub fn estimate(target: &Target, engine: &Engine, flops: u64, bytes: u64, dtype: DType) -> Nanos {
    let bandwidth = target.tier(&engine.tier).map(|t| t.bandwidth).unwrap_or_default();
    let work = engine.rate(dtype).time(flops).max(Bytes(bytes).at(bandwidth));
    Nanos(work.0.saturating_add(engine.launch.0))
}

/// Threads that estimates of workspace assume, and the bytes of one thread's buffer in a convolution.
const THREADS: u64 = 2;
const CONV_BUFFER: u64 = 64 << 10;

/// Operators that compute nothing: they take every type as it is.
const MOVES: [&str; 20] = [
    "Cast",
    "Compress",
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "ScatterElements",
    "ScatterND",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Where",
];

/// The estimated scratch of an operator on an engine; the figures are those of ONNX Runtime's CPU kernels (`docs/engine.md` has what was measured): meant
/// to be enough, at times too much. `shapes` and `dtypes` are those of its operands, then of its results; absent
/// operands are empty. The loader measures before the first step and refuses what is not enough.
pub fn workspace(engine: &Engine, kind: &str, operands: &[(DType, Vec<u64>)], results: &[(DType, Vec<u64>)]) -> u64 {
    let bytes = |(dtype, shape): &(DType, Vec<u64>)| dtype.bytes(elements(shape)).map_or(u64::MAX, padded);
    let shape = |n: usize| operands.get(n).map_or(&[][..], |(_, s)| s);
    let result = results.first().map_or(&[][..], |(_, s)| s);
    let all = || operands.iter().chain(results).map(bytes).fold(0u64, u64::saturating_add);
    let estimate = match kind {
        "Conv" | "ConvInteger" | "QLinearConv" | "ConvTranspose" | "FusedConv" => {
            // The unrolled windows: input channels of a group by kernel, for each place of the result.
            let window = elements(shape(1).get(1..).unwrap_or(&[]));
            let places = elements(result.get(2..).unwrap_or(&[]));
            let pointwise = shape(1).get(2..).is_some_and(|kernel| kernel.iter().all(|k| *k == 1));
            let unstrided = shape(0).get(2..) == result.get(2..);
            let windows = window.saturating_mul(places).saturating_mul(4);
            if pointwise && unstrided { 0 } else { windows.saturating_add(THREADS * CONV_BUFFER) }
        }
        // Two copies of the result, one for each side.
        "Where" => results.iter().map(bytes).fold(0, u64::saturating_add).saturating_mul(2),
        "FastGelu" | "BiasGelu" | "QuickGelu" => results.iter().map(bytes).fold(0, u64::saturating_add),
        // The weight in full.
        "MatMulNBits" => elements(shape(0).get(shape(0).len().saturating_sub(1)..).unwrap_or(&[]))
            .saturating_mul(result.last().copied().unwrap_or(0))
            .saturating_mul(4),
        "Attention" | "MultiHeadAttention" | "GroupQueryAttention" | "DecoderMaskedMultiHeadAttention" => {
            scores(operands, results).saturating_add(all())
        }
        "MaxPool"
        | "AveragePool"
        | "TopK"
        | "LSTM"
        | "GRU"
        | "RNN"
        | "Einsum"
        | "DynamicQuantizeMatMul"
        | "MatMulInteger"
        | "QLinearMatMul"
        | "QAttention"
        | "MoE"
        | "QMoE" => all(),
        _ => 0,
    };
    // Kernels that compute in wider types make copies of all that they touch, and one more in some.
    let half = operands.iter().chain(results).any(|(d, _)| engine.widens.contains(d));
    let copies = if half && !MOVES.contains(&kind) { all().saturating_mul(3) } else { 0 };
    padded(estimate).saturating_add(copies)
}

/// The engine's blocks start on 64 bytes.
fn padded(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(64).unwrap_or(u64::MAX)
}

fn elements(shape: &[u64]) -> u64 {
    shape.iter().fold(1, |n, axis| n.saturating_mul(*axis))
}

/// A float for each pair of query and key of each head: bounded by query elements times the longest key axis.
fn scores(operands: &[(DType, Vec<u64>)], results: &[(DType, Vec<u64>)]) -> u64 {
    let queries = operands.first().map_or(0, |(_, s)| elements(&s[..s.len().saturating_sub(1)]));
    let keys = operands.iter().chain(results).flat_map(|(_, s)| s.get(s.len().saturating_sub(2)).copied()).max();
    let heads =
        operands.first().map_or(1, |(_, s)| if s.len() == 4 { 1 } else { s.last().copied().unwrap_or(1).div_ceil(32) });
    queries.saturating_mul(keys.unwrap_or(0)).saturating_mul(heads).saturating_mul(4)
}

/// Lifetimes with measured costs in place of estimates, by name of the task. Scratch is counted on every engine that may run it:
/// they are instances of the one that was measured.
pub fn with_measured(mut lifetimes: Lifetimes, measured: &BTreeMap<String, Cost>) -> Lifetimes {
    for task in &mut lifetimes.tasks {
        if let Some(cost) = measured.get(&task.name) {
            (task.cost, task.workspace) = (cost.time, cost.workspace);
            task.others.iter_mut().for_each(|on| on.workspace = on.workspace.max(cost.workspace));
            if let Some(held) = &mut task.held {
                (held.bytes, held.loading) = (cost.kept, cost.loading);
            }
        }
    }
    lifetimes
}
