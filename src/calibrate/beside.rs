//! What the disk and a thread that copies have left while the engine computes with all its threads, and the engine
//! beside them: they share the cores.

use super::compute::product;
use super::disk::{Disk, way};
use super::memory::Sides;
use super::{Figure, Unit, a_second, size};
use crate::failure::Failure;
use crate::measure::load_failure;
use berth_ir::DType;
use berth_ir::units::Part;
use berth_runtime_exec::engine::TaskCode;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::executor::occupied;
use std::time::Duration;

/// Rows and columns of a weight that no cache holds, and of one that many rows are multiplied with.
const STREAMED: u64 = 4096;
const WIDE: u64 = 2048;
const ROWS: u64 = 128;
/// For how long the engine is looked at alone.
const ALONE: Duration = Duration::from_millis(100);

/// What was measured.
#[derive(Debug)]
pub struct Beside {
    /// Beside reads of the disk, by the chunk that is best alone.
    pub disk: Shared,
    /// Beside a thread that copies memory.
    pub copying: Shared,
    /// All figures.
    pub figures: Vec<Figure>,
}

/// What moves bytes and the engine, beside each other.
#[derive(Debug)]
pub struct Shared {
    /// At which bytes are moved while the engine reads a weight.
    pub rate: Figure,
    /// At which they are while it computes.
    pub computing: Figure,
    /// What the engine loses of its speed when it reads a weight, which takes all of the memory's bandwidth.
    pub of_reading: Part,
    /// What it loses when it computes, which takes little of it.
    pub of_computing: Part,
}

/// A product, looked at in turns: alone, while the disk is read, while memory is copied. Amounts a second.
#[derive(Default)]
struct Turns {
    alone: Vec<u64>,
    reading: Vec<u64>,
    copying: Vec<u64>,
    /// What was read and copied meanwhile, in bytes a second.
    read: Vec<u64>,
    copied: Vec<u64>,
}

/// Measures them in so many rounds, copies by the chunk that is best alone, between blocks of so many bytes.
pub fn beside(
    disk: &mut Disk,
    copied: u64,
    bytes: u64,
    engine: &mut OrtEngine,
    rounds: usize,
) -> Result<Beside, Failure> {
    let ((row, _), (wide, operations)) = (product(DType::F32, 1, STREAMED), product(DType::F32, ROWS, WIDE));
    let chunk = disk.deep().chunk;
    let mut sides = Sides::new(bytes);
    let mut turns = |code: &TaskCode, amount: u64| -> Result<Turns, Failure> {
        let mut turns = Turns::default();
        for turn in 0..rounds as u64 {
            let (nanos, ()) = occupied(engine, code, || std::thread::sleep(ALONE)).map_err(load_failure)?;
            turns.alone.push(a_second(amount, nanos));
            let (nanos, took) = occupied(engine, code, || disk.read(way(chunk), turn)).map_err(load_failure)?;
            turns.reading.push(a_second(amount, nanos));
            let took = took?;
            turns.read.push(a_second(took.bytes, took.nanos));
            let (nanos, rate) = occupied(engine, code, || sides.copy(copied as usize)).map_err(load_failure)?;
            turns.copying.push(a_second(amount, nanos));
            turns.copied.push(rate);
        }
        Ok(turns)
    };
    let streamed = turns(&row, STREAMED * STREAMED * 4)?;
    let computed = turns(&wide, operations)?;
    let shared = |what: &str, of: fn(&Turns) -> (&Vec<u64>, &Vec<u64>)| {
        let figure =
            |beside: &str, turns: &Turns| Figure::new(format!("{what} {beside}"), Unit::Bytes, of(turns).1.clone());
        Shared {
            rate: figure("while the engine reads a weight", &streamed),
            computing: figure("while the engine computes", &computed),
            of_reading: lost(&streamed.alone, of(&streamed).0),
            of_computing: lost(&computed.alone, of(&computed).0),
        }
    };
    let disk = shared(&format!("disk, {} at a time,", size(chunk)), |turns| (&turns.reading, &turns.read));
    let copying = shared("copy in memory", |turns| (&turns.copying, &turns.copied));
    let moved = [&disk.rate, &disk.computing, &copying.rate, &copying.computing];
    let mut figures: Vec<Figure> = moved.into_iter().cloned().collect();
    let names = [
        (format!("MatMul 1x{STREAMED}x{STREAMED} f32, its weight"), Unit::Bytes, &streamed),
        (format!("MatMul {ROWS}x{WIDE}x{WIDE} f32, over and over"), Unit::Operations, &computed),
    ];
    for (what, unit, turns) in names {
        figures.push(Figure::new(what.clone(), unit, turns.alone.clone()));
        figures.push(Figure::new(format!("{what} while the disk is read"), unit, turns.reading.clone()));
        figures.push(Figure::new(format!("{what} while memory is copied"), unit, turns.copying.clone()));
    }
    Ok(Beside { disk, copying, figures })
}

/// What is lost of a speed, the middle of all rounds, each beside its own.
fn lost(alone: &[u64], beside: &[u64]) -> Part {
    let whole = u128::from(Part::WHOLE.0);
    let one = |(alone, beside): (&u64, &u64)| {
        (whole * u128::from(alone.saturating_sub(*beside)) / u128::from(*alone).max(1)) as u64
    };
    let mut all: Vec<u64> = alone.iter().zip(beside).map(one).collect();
    all.sort_unstable();
    Part(all.get(all.len() / 2).copied().unwrap_or(0))
}
