//! How fast the engine computes: a product with one row, which reads its weight, and one with many, which computes.

use super::memory::Sides;
use super::{Figure, Unit, a_second};
use crate::failure::Failure;
use crate::measure::load_failure;
use berth_compiler::probe;
use berth_ir::DType;
use berth_ir::units::OpsPerSec;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::engine::{EngineError, EngineOptions, Port, TaskCode};
use berth_runtime_exec::errors::LoadError;
use berth_runtime_exec::executor::{Caches, measure};
use std::path::PathBuf;

/// Rows and columns of the weight.
const SIDE: u64 = 2048;
/// Rows of the wide product.
const ROWS: u64 = 128;
/// Element types that are tried.
const TYPES: [(DType, &str); 2] = [(DType::F32, "f32"), (DType::F16, "f16")];

/// What was measured.
#[derive(Debug)]
pub struct Compute {
    /// By element type that the engine has.
    pub rates: Vec<(DType, OpsPerSec)>,
    /// What a call costs beyond its work.
    pub launch: Figure,
    /// At which one row times a weight reads that weight.
    pub reading: Figure,
    /// All figures.
    pub figures: Vec<Figure>,
    /// Types that the engine does not compute in.
    pub without: Vec<&'static str>,
}

/// The engine; nothing where it is not at hand and nobody named it.
pub fn open(library: Option<PathBuf>, threads: u32) -> Result<Option<OrtEngine>, Failure> {
    let named = library.is_some();
    match OrtEngine::open(&EngineOptions { library, threads: threads as usize, spin: false }) {
        Err(EngineError::Missing { .. }) if !named => Ok(None),
        engine => engine.map(Some).map_err(Failure::bad),
    }
}

/// A product of so many rows with a weight of so many rows and columns, and operations that it takes.
pub fn product(dtype: DType, rows: u64, side: u64) -> (TaskCode, u64) {
    let shapes = [vec![rows, side], vec![side, side], vec![rows, side]];
    (code(probe::matmul(dtype, rows, side, side), dtype, &shapes), 2 * rows * side * side)
}

/// Measures the engine, in so many rounds, beside copies between blocks of so many bytes.
pub fn compute(engine: &mut OrtEngine, threads: u32, bytes: u64, rounds: usize) -> Result<Compute, Failure> {
    let mut flush = Vec::new();
    let mut nanos =
        |code: &TaskCode| measure(engine, code, None, Caches::AsInAStep(&mut flush)).map(|measured| measured.run_nanos);
    let (mut figures, mut rates, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for (dtype, name) in TYPES {
        let (wide, operations) = product(dtype, ROWS, SIDE);
        let mut rounds_seen = Vec::new();
        for _ in 0..rounds {
            match nanos(&wide) {
                Ok(nanos) => rounds_seen.push(a_second(operations, nanos)),
                // It has no kernel for this type.
                Err(LoadError::Engine(EngineError::Engine { .. })) if dtype != DType::F32 => break,
                Err(error) => return Err(load_failure(error)),
            }
        }
        if rounds_seen.is_empty() {
            without.push(name);
            continue;
        }
        let what = format!("MatMul {ROWS}x{SIDE}x{SIDE} {name}, {threads} threads");
        let figure = Figure::new(what, Unit::Operations, rounds_seen);
        rates.push((dtype, OpsPerSec(super::rounded(figure.median))));
        figures.push(figure);
    }
    let (row, _) = product(DType::F32, 1, SIDE);
    let weight = SIDE * SIDE * 4;
    let mut sides = Sides::new(bytes);
    let (mut alone, mut beside, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    let call = code(probe::add(DType::F32), DType::F32, &[vec![1], vec![1], vec![1]]);
    for _ in 0..rounds {
        alone.push(a_second(weight, nanos(&row).map_err(load_failure)?));
        beside.push(a_second(weight, sides.beside(1 << 20, || nanos(&row)).0.map_err(load_failure)?));
        calls.push(nanos(&call).map_err(load_failure)?);
    }
    let what = format!("MatMul 1x{SIDE}x{SIDE} f32, its weight");
    let reading = Figure::new(what.clone(), Unit::Bytes, alone);
    let launch = Figure::new("a call that computes nothing", Unit::Nanos, calls);
    let copied = Figure::new(format!("{what} while memory is copied"), Unit::Bytes, beside);
    figures.extend([reading.clone(), copied, launch.clone()]);
    Ok(Compute { rates, launch, reading, figures, without })
}

fn code(model: bytes::Bytes, dtype: DType, shapes: &[Vec<u64>; 3]) -> TaskCode {
    let port = |name: &str, shape: &Vec<u64>| Port::new(name.to_owned(), dtype, shape.clone());
    TaskCode {
        name: "calibration".to_owned(),
        model,
        // The second is a weight.
        inputs: vec![port("i0", &shapes[0]), Port { weight: true, ..port("i1", &shapes[1]) }],
        outputs: vec![port("o0", &shapes[2])],
        kept: 0,
    }
}
