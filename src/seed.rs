//! Makes weights and inputs from a seed, for models that come without them.
//!
//! Reads:    a graph: which external data is absent, and which operator reads it.
//! Decides:  one range of values for each tensor, such that activations stay finite through many layers.
//! Promises: the same seed and name give the same bytes, whatever the order or the number of threads; an integer input
//!           is a valid index wherever the graph says what it indexes.
//! Why:      element `i` of a tensor is SplitMix64's output number `i` from a start that SHA-256 makes of seed and name,
//!           so that any part of any tensor is made alone. Both are published and will not change.

use crate::beside::{Beside, folder};
use crate::npz::Array;
use berth_compiler::import::{self, ImportError};
use berth_ir::graph::{Attribute, Content, Graph, Op, Stored, Value, ValueId};
use berth_ir::units::Bytes;
use berth_ir::{DType, Expr};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Bytes that a thread makes and writes at once.
const CHUNK: u64 = 4 << 20;

/// More threads than this wait for the disk, not for numbers.
const THREADS_MAX: usize = 8;

/// Operators followed from a tensor to the one that says what it is for.
const FOLLOW_MAX: usize = 8;

/// Integer inputs of unknown use stay below this: every embedding table has as many rows.
const INDEX_BOUND: u64 = 8;

/// What was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The files, each with its size.
    pub files: Vec<(PathBuf, Bytes)>,
    /// Tensors in them.
    pub tensors: usize,
    /// Bytes of these tensors; the files also hold gaps between them.
    pub bytes: Bytes,
    /// Measured, from opening the model to the last file on the disk.
    pub elapsed: Duration,
}

/// Why weights or inputs cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SeedError {
    /// The model cannot be read.
    #[error(transparent)]
    Import(#[from] ImportError),
    /// The model names no external data.
    #[error("{model} holds its weights itself; there is nothing to make", model = model.display())]
    NothingAbsent {
        /// The model.
        model: PathBuf,
    },
    /// The external data is there.
    #[error("{path} exists; `--force` replaces what it holds by values made from the seed", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Two tensors share some bytes of a file, but not all.
    #[error("`{first}` and `{second}` overlap in {path}; no values fit both", path = path.display())]
    Overlap {
        /// The file.
        path: PathBuf,
        /// The tensor that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// The file would lie outside the model's folder.
    #[error("{path} is outside the model's folder; nothing is written there", path = path.display())]
    Outside {
        /// The file.
        path: PathBuf,
    },
    /// The disk is too small.
    #[error("{path} needs {needed}, {free} are free there", path = path.display(), needed = needed.human(), free = free.human())]
    NoRoom {
        /// The file.
        path: PathBuf,
        /// Its size.
        needed: Bytes,
        /// What the disk has left.
        free: Bytes,
    },
    /// No values are made for this type.
    #[error("`{name}` is of type {dtype:?}, for which no values are made; give it with a file")]
    Dtype {
        /// The tensor or input.
        name: String,
        /// Its type.
        dtype: DType,
    },
    /// An input's shape is larger than memory.
    #[error("input `{name}` of shape {shape:?} does not fit in memory")]
    TooLarge {
        /// The input.
        name: String,
        /// Its shape.
        shape: Vec<u64>,
    },
    /// The system refuses.
    #[error("cannot {verb} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// Makes the external data files that the model names and that do not exist; with `force` also those that do.
pub fn seed_weights(model: &Path, seed: u64, force: bool) -> Result<Report, SeedError> {
    let start = Instant::now();
    let model = import::open(model)?;
    let graph = model.graph(&BTreeMap::new())?;
    let files = files(&graph, model.path());
    if files.is_empty() {
        return Err(SeedError::NothingAbsent { model: model.path().to_owned() });
    }
    let wanted = |tensors: &[Weight]| force || tensors.iter().any(|t| !t.stored.present);
    if !files.values().any(|tensors| wanted(tensors)) {
        let path = files.into_keys().next().unwrap_or_default();
        return Err(SeedError::Exists { path });
    }
    let mut report = Report { files: Vec::new(), tensors: 0, bytes: Bytes(0), elapsed: Duration::ZERO };
    for (path, tensors) in files {
        if !wanted(&tensors) {
            continue;
        }
        report.tensors += tensors.len();
        report.bytes.0 += tensors.iter().map(|t| t.stored.bytes).sum::<u64>();
        let size = make(&path, tensors, model.path(), seed, force)?;
        report.files.push((path, size));
    }
    report.elapsed = start.elapsed();
    Ok(report)
}

/// One tensor of an external file, and what to fill it with.
struct Weight {
    name: String,
    dtype: DType,
    stored: Stored,
    fill: Fill,
}

/// The tensors of each external file, in the order of the graph.
fn files(graph: &Graph, model: &Path) -> BTreeMap<PathBuf, Vec<Weight>> {
    let readers = readers(graph);
    let mut files: BTreeMap<PathBuf, Vec<Weight>> = BTreeMap::new();
    for (index, value) in graph.values.iter().enumerate() {
        if let Content::Stored(stored) = &value.content
            && stored.path != model
        {
            let fill = fill_of(graph, &readers, ValueId(index as u32));
            let weight = Weight { name: value.name.clone(), dtype: value.dtype, stored: stored.clone(), fill };
            files.entry(stored.path.clone()).or_default().push(weight);
        }
    }
    files
}

/// Makes one file and gives its size.
fn make(path: &Path, tensors: Vec<Weight>, model: &Path, seed: u64, force: bool) -> Result<Bytes, SeedError> {
    let io = |verb| move |source| SeedError::Io { verb, path: path.to_owned(), source };
    let tensors = without_twins(path, tensors)?;
    let size = Bytes(tensors.iter().map(|t| t.stored.offset + t.stored.bytes).max().unwrap_or(0));
    if let Some(refused) = tensors.iter().find(|t| !can_fill(t.dtype)) {
        return Err(SeedError::Dtype { name: refused.name.clone(), dtype: refused.dtype });
    }
    // A folder that is a link may lead anywhere.
    let home = folder(model);
    let parent = folder(path);
    if !nearest_real(parent).is_some_and(|real| real.starts_with(home)) {
        return Err(SeedError::Outside { path: path.to_owned() });
    }
    fs::create_dir_all(parent).map_err(io("make the folder of"))?;
    let disk = rustix::fs::statvfs(parent).map_err(|e| io("find the free space for")(e.into()))?;
    let free = Bytes(disk.f_bavail.saturating_mul(disk.f_frsize));
    if free < size {
        return Err(SeedError::NoRoom { path: path.to_owned(), needed: size, free });
    }
    let beside = Beside::create(path).map_err(io("create"))?;
    beside.file().set_len(size.0).map_err(io("write"))?;
    write(&beside, &tensors, seed).map_err(io("write"))?;
    if !force && path.exists() {
        return Err(SeedError::Exists { path: path.to_owned() });
    }
    beside.commit().map_err(io("finish"))?;
    Ok(size)
}

/// Of tensors with the same bytes only the first; an error where they share some and not all.
fn without_twins(path: &Path, mut tensors: Vec<Weight>) -> Result<Vec<Weight>, SeedError> {
    tensors.retain(|t| t.stored.bytes > 0);
    // Stable: of equal ranges the first in the graph stays first.
    tensors.sort_by_key(|t| (t.stored.offset, t.stored.bytes));
    tensors.dedup_by_key(|t| (t.stored.offset, t.stored.bytes));
    for pair in tensors.windows(2) {
        if pair[0].stored.offset + pair[0].stored.bytes > pair[1].stored.offset {
            let (first, second) = (pair[0].name.clone(), pair[1].name.clone());
            return Err(SeedError::Overlap { path: path.to_owned(), first, second });
        }
    }
    Ok(tensors)
}

/// The real place of the nearest folder above that exists.
fn nearest_real(folder: &Path) -> Option<PathBuf> {
    folder.ancestors().find(|f| f.symlink_metadata().is_ok()).and_then(|f| f.canonicalize().ok())
}

/// Fills the file, a few megabytes at a time on each thread.
fn write(beside: &Beside, tensors: &[Weight], seed: u64) -> io::Result<()> {
    let starts: Vec<u64> = tensors.iter().map(|t| start_of(seed, "weight", &t.name)).collect();
    let chunks = |t: &Weight| t.stored.bytes.div_ceil(CHUNK);
    let jobs: Vec<(usize, u64)> =
        tensors.iter().enumerate().flat_map(|(index, t)| (0..chunks(t)).map(move |chunk| (index, chunk))).collect();
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || -> io::Result<()> {
        let mut buffer = vec![0; CHUNK as usize];
        while !stop.load(Ordering::Relaxed)
            && let Some((index, chunk)) = jobs.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let tensor = &tensors[*index];
            let from = chunk * CHUNK;
            let bytes = &mut buffer[..(tensor.stored.bytes - from).min(CHUNK) as usize];
            fill(bytes, tensor.dtype, tensor.fill, starts[*index], from);
            beside.file().write_all_at(bytes, tensor.stored.offset + from).inspect_err(|_| {
                stop.store(true, Ordering::Relaxed);
            })?;
        }
        Ok(())
    };
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(THREADS_MAX));
    std::thread::scope(|scope| {
        let hands: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        // A hand that panics is a bug of ours: it goes on here.
        hands.into_iter().try_for_each(|hand| hand.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

/// What a tensor's elements are drawn from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fill {
    /// Evenly from `centre - half` to `centre + half`; for floats.
    Even { centre: f32, half: f32 },
    /// Any bits; for quantised weights of a byte or less.
    Bits,
    /// Zero or one; for wider integers, which are indices or zero points.
    Coin,
    /// One; for bools, which are masks.
    True,
}

/// True if [`fill`] makes values of this type.
fn can_fill(dtype: DType) -> bool {
    use DType::*;
    !matches!(dtype, F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F4E2M1 | C64 | C128 | Str)
}

const NEAR_ONE: Fill = Fill::Even { centre: 1.0, half: 0.1 };
const NEAR_ZERO: Fill = Fill::Even { centre: 0.0, half: 0.02 };
/// A scale of quantised numbers: 8-bit ones of this step reach a little over one.
const SCALE: Fill = Fill::Even { centre: 0.01, half: 0.002 };

/// The operators that read each value, with the input's number, in graph order.
fn readers(graph: &Graph) -> HashMap<ValueId, Vec<(&Op, usize)>> {
    let mut readers: HashMap<ValueId, Vec<(&Op, usize)>> = HashMap::new();
    for op in &graph.ops {
        for (number, input) in op.inputs.iter().enumerate() {
            if let Some(input) = input {
                readers.entry(*input).or_default().push((op, number));
            }
        }
    }
    readers
}

/// What to fill a weight with, by the first operator that computes with it.
fn fill_of(graph: &Graph, readers: &HashMap<ValueId, Vec<(&Op, usize)>>, id: ValueId) -> Fill {
    let value = graph.value(id);
    match value.dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => {}
        DType::Bool => return Fill::True,
        dtype if dtype.bits().is_some_and(|bits| bits <= 8) => return Fill::Bits,
        _ => return Fill::Coin,
    }
    let (mut at, mut transposed, mut reader) = (id, false, None);
    for _ in 0..FOLLOW_MAX {
        let Some((op, number)) = readers.get(&at).and_then(|r| r.first()) else { break };
        let through = match op.kind.as_str() {
            "Transpose" => {
                transposed ^= swaps_last_axes(op);
                true
            }
            "Identity" | "Cast" | "Reshape" | "Squeeze" | "Unsqueeze" => *number == 0,
            _ => false,
        };
        match op.outputs.first() {
            Some(Some(out)) if through => at = *out,
            _ => {
                reader = Some((*op, *number));
                break;
            }
        }
    }
    fill_for(value, reader, transposed)
}

fn swaps_last_axes(transpose: &Op) -> bool {
    let perm = transpose.attributes.iter().find(|(name, _)| name == "perm");
    match perm {
        Some((_, Attribute::Ints(perm))) if perm.len() >= 2 => perm[perm.len() - 1] < perm[perm.len() - 2],
        _ => true,
    }
}

/// By the operator that reads a float weight as its input `number`, after an odd number of transpositions or not.
fn fill_for(value: &Value, reader: Option<(&Op, usize)>, transposed: bool) -> Fill {
    let axes: Vec<u64> = value.shape.iter().map(|axis| axis.as_constant().map_or(1, |n| n as u64)).collect();
    let (kind, number) = reader.map_or(("", 0), |(op, number)| (op.kind.as_str(), number));
    let norm = kind.contains("Normalization");
    // A skip comes before the weights of a fused norm.
    let gain = if kind.starts_with("Skip") { 2 } else { 1 };
    match (kind, number) {
        ("DequantizeLinear" | "QuantizeLinear", 1) | ("MatMulNBits", 2) => return SCALE,
        // The variance.
        ("BatchNormalization", 4) => return NEAR_ONE,
        _ if norm => return if number == gain { NEAR_ONE } else { NEAR_ZERO },
        _ => {}
    }
    if axes.iter().filter(|axis| **axis > 1).count() < 2 {
        let factor =
            matches!(kind, "Mul" | "Div" | "Pow" | "PRelu") || (kind.is_empty() && value.name.contains("norm"));
        return if factor { NEAR_ONE } else { NEAR_ZERO };
    }
    let (last, before) = (axes[axes.len() - 1], axes[axes.len() - 2]);
    let (summed, other) = if transposed { (last, before) } else { (before, last) };
    let space: u64 = axes.iter().skip(2).fold(1, |all, axis| all.saturating_mul(*axis));
    let terms = match (kind, number) {
        ("MatMul", 1) => summed,
        ("MatMul", 0) => other,
        ("Gemm", 1) if transposes_b(reader) => other,
        ("Gemm", 1) => summed,
        ("Conv", 1) => axes[1].saturating_mul(space),
        ("ConvTranspose", 1) => axes[0].saturating_mul(space),
        // A row of a table is taken, not summed: values up to one.
        ("Gather", 0) => 3,
        // The larger of the two at least keeps sums small.
        _ => last.max(before),
    };
    // The sum of so many products with numbers of variance one then has variance one.
    Fill::Even { centre: 0.0, half: (3.0 / terms.max(1) as f64).sqrt() as f32 }
}

fn transposes_b(reader: Option<(&Op, usize)>) -> bool {
    reader.is_some_and(|(op, _)| op.attributes.iter().any(|(name, a)| name == "transB" && *a == Attribute::Int(1)))
}

/// Where the numbers of one tensor begin.
fn start_of(seed: u64, use_of: &str, name: &str) -> u64 {
    let hash = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(use_of).chain_update([0]);
    let hash: [u8; 32] = hash.chain_update(name).finalize().into();
    u64::from_le_bytes(*hash.first_chunk().expect("a hash has 32 bytes"))
}

/// SplitMix64's output number `index` (from zero) after this start.
fn draw(start: u64, index: u64) -> u64 {
    let mut z = start.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// From -1 up to, but not including, 1.
fn even(bits: u64) -> f32 {
    // 24 bits are what a binary32 holds exactly.
    (bits >> 40) as f32 / (1u32 << 23) as f32 - 1.0
}

/// Fills the bytes of a tensor from byte `from` on, a multiple of the element's size.
fn fill(bytes: &mut [u8], dtype: DType, fill: Fill, start: u64, from: u64) {
    let number = |index: u64, centre: f32, half: f32| even(draw(start, index)) * half + centre;
    match (fill, dtype) {
        (Fill::Even { centre, half }, DType::F64) => {
            each::<8>(bytes, from, |i| f64::from(number(i, centre, half)).to_le_bytes());
        }
        (Fill::Even { centre, half }, DType::F16) => {
            each::<2>(bytes, from, |i| half::f16::from_f32(number(i, centre, half)).to_le_bytes());
        }
        (Fill::Even { centre, half }, DType::BF16) => {
            each::<2>(bytes, from, |i| half::bf16::from_f32(number(i, centre, half)).to_le_bytes());
        }
        (Fill::Even { centre, half }, _) => each::<4>(bytes, from, |i| number(i, centre, half).to_le_bytes()),
        (Fill::Bits, _) => each::<1>(bytes, from, |i| [(draw(start, i) >> 56) as u8]),
        (Fill::True, _) => bytes.fill(1),
        (Fill::Coin, _) => {
            let coin = |i| (draw(start, i) >> 63) as u8;
            match dtype.bits() {
                Some(64) => each::<8>(bytes, from, |i| u64::from(coin(i)).to_le_bytes()),
                Some(32) => each::<4>(bytes, from, |i| u32::from(coin(i)).to_le_bytes()),
                _ => each::<2>(bytes, from, |i| u16::from(coin(i)).to_le_bytes()),
            }
        }
    }
}

fn each<const N: usize>(bytes: &mut [u8], from: u64, element: impl Fn(u64) -> [u8; N]) {
    let first = from / N as u64;
    for (index, out) in bytes.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        *out = element(first + index as u64);
    }
}

/// For each integer input that a table is indexed with: the rows of the smallest such table.
pub fn index_bounds(graph: &Graph) -> BTreeMap<String, u64> {
    let readers = readers(graph);
    let mut bounds = BTreeMap::new();
    for input in &graph.inputs {
        // Values that hold the same numbers; each is looked at once.
        let mut same = vec![*input];
        let mut at = 0;
        while let Some(id) = same.get(at) {
            at += 1;
            for (op, number) in readers.get(id).into_iter().flatten() {
                match (op.kind.as_str(), *number) {
                    ("Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" | "Expand", 0) => {
                        let out = op.outputs.first().copied().flatten();
                        same.extend(out.filter(|out| !same.contains(out)));
                    }
                    ("Gather", 1) => {
                        let rows = op.inputs[0].and_then(|table| gathered_rows(op, &graph.value(table).shape));
                        if let Some(rows) = rows {
                            let bound = bounds.entry(graph.value(*input).name.clone()).or_insert(rows);
                            *bound = rows.min(*bound);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
    bounds
}

/// The length of the axis that a Gather indexes.
fn gathered_rows(gather: &Op, table: &[Expr]) -> Option<u64> {
    let axis = gather.attributes.iter().find_map(|(name, a)| match a {
        Attribute::Int(axis) if name == "axis" => Some(*axis),
        _ => None,
    });
    let axis = axis.unwrap_or(0);
    let axis = if axis < 0 { axis + table.len() as i64 } else { axis };
    let rows = table.get(usize::try_from(axis).ok()?)?.as_constant()?;
    u64::try_from(rows).ok()
}

/// Inputs for someone who gives none, by type and name (in any case):
/// - `mask` in the name: ones; `position`: 0, 1, 2, ... along the last axis;
/// - other integers: 0 to 7, or below the input's bound where that is less; `token_type` or `segment`: zeros;
/// - floats: -1 to 1, and within 0.1 of zero for `past` or `cache`; bools: true.
///
/// `ports` are name, type and shape; `bounds` come from [`index_bounds`].
pub fn seeded_inputs(
    ports: &[(String, DType, Vec<u64>)],
    seed: u64,
    bounds: &BTreeMap<String, u64>,
) -> Result<Vec<Array>, SeedError> {
    ports.iter().map(|(name, dtype, shape)| input(name, *dtype, shape, seed, bounds.get(name).copied())).collect()
}

fn input(name: &str, dtype: DType, shape: &[u64], seed: u64, bound: Option<u64>) -> Result<Array, SeedError> {
    let too_large = || SeedError::TooLarge { name: name.to_owned(), shape: shape.to_vec() };
    let elements = shape.iter().try_fold(1u64, |all, axis| all.checked_mul(*axis)).ok_or_else(too_large)?;
    let size = dtype.bytes(elements).and_then(|n| usize::try_from(n).ok());
    if !can_fill(dtype) {
        return Err(SeedError::Dtype { name: name.to_owned(), dtype });
    }
    let mut bytes = Vec::new();
    let size = size.ok_or_else(too_large)?;
    bytes.try_reserve_exact(size).map_err(|_| too_large())?;
    bytes.resize(size, 0);
    let lower = name.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    let start = start_of(seed, "input", name);
    let float = matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
    let below = bound.unwrap_or(INDEX_BOUND).clamp(1, INDEX_BOUND);
    let last = shape.last().copied().unwrap_or(1).max(1);
    if dtype == DType::Bool {
        bytes.fill(1);
    } else if dtype.bits().is_some_and(|bits| bits < 8) {
        // Packed: the sign bit of each element stays clear, so all are small and none is negative.
        let mask = if dtype.bits() == Some(4) { 0x77 } else { 0x55 };
        each::<1>(&mut bytes, 0, |i| [(draw(start, i) >> 56) as u8 & mask]);
    } else if says(&["mask"]) {
        numbers(&mut bytes, dtype, |_| 1.0);
    } else if says(&["position"]) {
        numbers(&mut bytes, dtype, |i| (i % last % bound.unwrap_or(u64::MAX).max(1)) as f64);
    } else if float {
        let half = if says(&["past", "cache"]) { 0.1 } else { 1.0 };
        fill(&mut bytes, dtype, Fill::Even { centre: 0.0, half }, start, 0);
    } else if says(&["token_type", "segment"]) {
        // Often there are two kinds, often one; the first always exists.
    } else {
        numbers(&mut bytes, dtype, |i| (draw(start, i) % below) as f64);
    }
    Ok(Array { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes })
}

/// Writes small numbers, exact in every type of whole bytes that inputs have.
fn numbers(bytes: &mut [u8], dtype: DType, number: impl Fn(u64) -> f64) {
    use DType::*;
    match dtype {
        F64 => each::<8>(bytes, 0, |i| number(i).to_le_bytes()),
        F32 => each::<4>(bytes, 0, |i| (number(i) as f32).to_le_bytes()),
        F16 => each::<2>(bytes, 0, |i| half::f16::from_f64(number(i)).to_le_bytes()),
        BF16 => each::<2>(bytes, 0, |i| half::bf16::from_f64(number(i)).to_le_bytes()),
        I64 | U64 => each::<8>(bytes, 0, |i| (number(i) as u64).to_le_bytes()),
        I32 | U32 => each::<4>(bytes, 0, |i| (number(i) as u32).to_le_bytes()),
        I16 | U16 => each::<2>(bytes, 0, |i| (number(i) as u16).to_le_bytes()),
        _ => each::<1>(bytes, 0, |i| [number(i) as u8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beside::scratch::Scratch;
    use import::onnx;

    /// A weightless model `y = x @ w + b`, w a table of `rows` x 8, with this external data.
    fn model(rows: i64, external: &[(&str, &[i64], &str, u64)]) -> Vec<u8> {
        use onnx::type_proto::{Tensor, Value as Kind};
        use prost::Message;
        let dim = |n: i64| onnx::tensor_shape_proto::Dimension {
            value: Some(onnx::tensor_shape_proto::dimension::Value::DimValue(n)),
        };
        let port = |name: &str, dims: &[i64]| onnx::ValueInfoProto {
            name: name.into(),
            r#type: Some(onnx::TypeProto {
                value: Some(Kind::TensorType(Tensor {
                    elem_type: 1,
                    shape: Some(onnx::TensorShapeProto { dim: dims.iter().map(|n| dim(*n)).collect() }),
                })),
            }),
        };
        let entry = |key: &str, value: String| onnx::StringStringEntryProto { key: key.into(), value };
        let initializer = external.iter().map(|(name, dims, file, offset)| onnx::TensorProto {
            name: (*name).into(),
            dims: dims.to_vec(),
            data_type: 1,
            data_location: 1,
            external_data: vec![entry("location", (*file).into()), entry("offset", offset.to_string())],
            ..Default::default()
        });
        let node = |kind: &str, inputs: [&str; 2], output: &str| onnx::NodeProto {
            op_type: kind.into(),
            name: output.into(),
            input: inputs.map(String::from).to_vec(),
            output: vec![output.into()],
            ..Default::default()
        };
        let graph = onnx::GraphProto {
            name: "g".into(),
            node: vec![node("MatMul", ["x", "w"], "xw"), node("Add", ["xw", "b"], "y")],
            initializer: initializer.collect(),
            input: vec![port("x", &[1, rows])],
            output: vec![port("y", &[1, 8])],
            ..Default::default()
        };
        let opset = onnx::OperatorSetIdProto { version: 20, ..Default::default() };
        let model =
            onnx::ModelProto { ir_version: 10, opset_import: vec![opset], graph: Some(graph), ..Default::default() };
        model.encode_to_vec()
    }

    /// Writes the model into a folder of its own.
    fn placed(name: &str, bytes: &[u8]) -> (Scratch, PathBuf) {
        let scratch = Scratch::new(&format!("seed-{name}"));
        let path = scratch.0.join("m.onnx");
        fs::write(&path, bytes).unwrap();
        (scratch, path)
    }

    #[test]
    fn weights_are_made_once_and_again_the_same() {
        let weights: &[(&str, &[i64], &str, u64)] = &[("w", &[16, 8], "w.bin", 64), ("b", &[8], "sub/b.bin", 0)];
        let (scratch, path) = placed("again", &model(16, weights));
        let report = seed_weights(&path, 7, false).unwrap();
        assert_eq!((report.tensors, report.bytes, report.files.len()), (2, Bytes(16 * 8 * 4 + 8 * 4), 2));
        let read = |file: &str| fs::read(scratch.0.join(file)).unwrap();
        let (w, b) = (read("w.bin"), read("sub/b.bin"));
        assert_eq!((w.len(), b.len()), (64 + 16 * 8 * 4, 8 * 4));
        assert_eq!(w[..64], [0; 64], "gaps are zeros");
        assert!(matches!(seed_weights(&path, 8, false), Err(SeedError::Exists { .. })));
        assert_eq!(read("w.bin"), w);
        // One of the two lost: the other stays as it is, whatever the seed.
        fs::remove_file(scratch.0.join("sub/b.bin")).unwrap();
        assert_eq!(seed_weights(&path, 8, false).unwrap().tensors, 1);
        assert_eq!(read("w.bin"), w);
        assert_ne!(read("sub/b.bin"), b);
        seed_weights(&path, 7, true).unwrap();
        assert_eq!((read("w.bin"), read("sub/b.bin")), (w.clone(), b));

        let values: Vec<f32> = w[64..].as_chunks().0.iter().map(|v| f32::from_le_bytes(*v)).collect();
        let limit = (3.0f32 / 16.0).sqrt();
        assert!(values.iter().all(|v| v.abs() <= limit) && values.iter().any(|v| v.abs() > limit * 0.9));
        let left: Vec<_> = fs::read_dir(&scratch.0).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "{left:?}");
    }

    #[test]
    fn what_cannot_be_made_is_said() {
        let (_scratch, path) = placed("overlap", &model(16, &[("w", &[16, 8], "w.bin", 0), ("b", &[8], "w.bin", 500)]));
        assert!(matches!(seed_weights(&path, 7, false), Err(SeedError::Overlap { .. })));
        let (_scratch, path) =
            placed("room", &model(16, &[("w", &[16, 8], "w.bin", 1 << 61), ("b", &[8], "b.bin", 0)]));
        assert!(matches!(seed_weights(&path, 7, false), Err(SeedError::NoRoom { .. })));
        let (scratch, path) =
            placed("link", &model(16, &[("w", &[16, 8], "in/w.bin", 0), ("b", &[8], "in/w.bin", 512)]));
        let elsewhere = Scratch::new("seed-elsewhere");
        std::os::unix::fs::symlink(&elsewhere.0, scratch.0.join("in")).unwrap();
        let refused = seed_weights(&path, 7, false).unwrap_err().to_string();
        assert!(refused.contains("symbolic link"), "{refused}");
        assert_eq!(fs::read_dir(&elsewhere.0).unwrap().count(), 0);
        let whole = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/resnet_small.onnx"));
        assert!(matches!(seed_weights(whole, 7, false), Err(SeedError::NothingAbsent { .. })));
    }

    #[test]
    fn any_part_of_a_tensor_is_the_same_made_alone() {
        use DType::*;
        let kinds = [(F32, NEAR_ONE), (F64, NEAR_ZERO), (F16, SCALE), (BF16, NEAR_ONE), (U8, Fill::Bits)];
        let kinds =
            kinds.into_iter().chain([(I64, Fill::Coin), (I32, Fill::Coin), (I16, Fill::Coin), (Bool, Fill::True)]);
        for (dtype, kind) in kinds {
            let mut whole = vec![0; 4096];
            fill(&mut whole, dtype, kind, 99, 0);
            let mut part = vec![0; 1024];
            fill(&mut part, dtype, kind, 99, 2048);
            assert_eq!(whole[2048..3072], part, "{dtype:?}");
        }
        // Published values, so that a seed means the same files for ever.
        assert_eq!(draw(0, 0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(draw(0, 1), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(start_of(1, "weight", "w"), 0x3e0e_470c_cd60_6548);
        assert_ne!(start_of(1, "weight", "w"), start_of(1, "input", "w"));
        assert_eq!((even(0), even(u64::MAX)), (-1.0, 1.0 - 2f32.powi(-23)));
    }

    #[test]
    fn a_weight_is_filled_by_what_reads_it() {
        let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/models/llama_mid_decode.onnx"));
        let model = import::open(path).unwrap();
        let graph = model.graph(&BTreeMap::new()).unwrap();
        let readers = readers(&graph);
        let fill = |end: &str| {
            let index = graph.values.iter().position(|v| v.name.ends_with(end)).unwrap_or_else(|| panic!("{end}"));
            fill_of(&graph, &readers, ValueId(index as u32))
        };
        let matrix = |terms: f64| Fill::Even { centre: 0.0, half: (3.0 / terms).sqrt() as f32 };
        assert_eq!(fill("embed_tokens.weight"), matrix(3.0));
        assert_eq!(fill("layers.3.input_layernorm.weight"), NEAR_ONE);
        assert_eq!(fill("layers.3.mlp.up_proj.weight"), matrix(1024.0));
        assert_eq!(fill("layers.3.mlp.down_proj.weight"), matrix(2816.0));
    }

    #[test]
    fn inputs_are_valid_for_what_they_are() {
        let port = |name: &str, dtype, shape: &[u64]| (name.to_owned(), dtype, shape.to_vec());
        let ports = [
            port("input_ids", DType::I64, &[2, 50]),
            port("kinds", DType::I32, &[50]),
            port("token_type_ids", DType::I64, &[1, 3]),
            port("attention_mask", DType::I64, &[1, 3]),
            port("position_ids", DType::I64, &[2, 3]),
            port("past_key_values.0.key", DType::F16, &[1, 2, 0, 8]),
            port("cache", DType::F32, &[50]),
            port("image", DType::F32, &[50]),
            port("use_cache_branch", DType::Bool, &[1]),
            port("packed", DType::I4, &[5]),
        ];
        let bounds = BTreeMap::from([("kinds".to_owned(), 3), ("input_ids".to_owned(), 1000)]);
        let made = seeded_inputs(&ports, 1, &bounds).unwrap();
        assert_eq!(made, seeded_inputs(&ports, 1, &bounds).unwrap());
        assert_ne!(made, seeded_inputs(&ports, 2, &bounds).unwrap());
        let longs = |at: usize| made[at].bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect::<Vec<_>>();
        let floats =
            |at: usize| made[at].bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>();
        assert!(longs(0).iter().all(|v| (0..8).contains(v)) && longs(0).contains(&7));
        assert!(made[1].bytes.as_chunks().0.iter().all(|b| (0..3).contains(&i32::from_le_bytes(*b))));
        assert_eq!((longs(2), longs(3), longs(4)), (vec![0; 3], vec![1; 3], vec![0, 1, 2, 0, 1, 2]));
        assert!(made[5].bytes.is_empty());
        assert!(floats(6).iter().all(|v| v.abs() <= 0.1));
        assert!(floats(7).iter().any(|v| *v < -0.5) && floats(7).iter().any(|v| *v > 0.5));
        assert_eq!((made[8].bytes.as_slice(), made[9].bytes.len()), ([1].as_slice(), 3));
        let odd = |dtype, shape: &[u64]| seeded_inputs(&[port("x", dtype, shape)], 1, &BTreeMap::new());
        assert!(matches!(odd(DType::Str, &[1]), Err(SeedError::Dtype { .. })));
        assert!(matches!(odd(DType::U8, &[u64::MAX]), Err(SeedError::TooLarge { .. })));
        assert!(matches!(odd(DType::U8, &[u64::MAX, 3]), Err(SeedError::TooLarge { .. })));
    }

    #[test]
    fn tables_bound_their_indices() {
        for (model, input, rows) in [("bert_encoder", "input_ids", None), ("llama_mid_decode", "input_ids", Some(8192))]
        {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{model}.onnx"));
            let graph = import::open(&path).unwrap().graph(&BTreeMap::new()).unwrap();
            let bounds = index_bounds(&graph);
            assert!(bounds.contains_key(input), "{model}: {bounds:?}");
            assert!(rows.is_none() || bounds.get(input).copied() == rows, "{model}: {bounds:?}");
            eprintln!("{model}: {bounds:?}");
        }
    }
}
