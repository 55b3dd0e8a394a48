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
use berth_runtime_exec::executor::measure;
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

/// Measures the engine, in so many rounds, beside copies between blocks of so many bytes; nothing where it is not at hand.
pub fn compute(library: Option<PathBuf>, threads: u32, bytes: u64, rounds: usize) -> Result<Option<Compute>, Failure> {
    let named = library.is_some();
    let mut engine = match OrtEngine::open(&EngineOptions { library, threads: threads as usize, spin: false }) {
        Err(EngineError::Missing { .. }) if !named => return Ok(None),
        engine => engine.map_err(Failure::bad)?,
    };
    let mut flush = Vec::new();
    let mut nanos = |code: &TaskCode| measure(&mut engine, code, None, &mut flush).map(|measured| measured.run_nanos);
    let product = |dtype, rows| {
        code(probe::matmul(dtype, rows, SIDE, SIDE), dtype, &[vec![rows, SIDE], vec![SIDE, SIDE], vec![rows, SIDE]])
    };
    let (mut figures, mut rates, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for (dtype, name) in TYPES {
        let wide = product(dtype, ROWS);
        let mut rounds_seen = Vec::new();
        for _ in 0..rounds {
            match nanos(&wide) {
                Ok(nanos) => rounds_seen.push(a_second(2 * ROWS * SIDE * SIDE, nanos)),
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
    let row = product(DType::F32, 1);
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
    Ok(Some(Compute { rates, launch, reading, figures, without }))
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
