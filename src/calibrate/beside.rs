//! What the disk and a thread that copies have left while the engine computes with all its threads, and the engine
//! beside them: they share the cores.

use super::compute::product;
use super::disk::{Disk, way};
use super::memory::Sides;
use super::{Figure, Unit, a_second, rates, size};
use crate::failure::Failure;
use crate::measure::load_failure;
use berth_ir::DType;
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
    /// At which the disk is read, by the chunk that is best alone.
    pub rate: Figure,
    /// At which a thread copies memory.
    pub copying: Figure,
    /// At which the engine reads a weight, alone and while the disk is read.
    pub streamed: [Figure; 2],
    /// All figures.
    pub figures: Vec<Figure>,
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
    let weight = STREAMED * STREAMED * 4;
    let chunk = disk.deep().chunk;
    let mut sides = Sides::new(bytes);
    let (mut seen, mut alone, mut reading, mut copying) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for turn in 0..rounds as u64 {
        let sleeping = || std::thread::sleep(ALONE);
        alone.push(a_second(weight, occupied(engine, &row, sleeping).map_err(load_failure)?.0));
        let (nanos, took) = occupied(engine, &row, || disk.read(way(chunk), turn)).map_err(load_failure)?;
        reading.push(a_second(weight, nanos));
        seen.push(took?);
        copying.push(occupied(engine, &row, || sides.copy(copied as usize)).map_err(load_failure)?.1);
    }
    let said = format!("disk while the engine computes, {} at a time", size(chunk));
    let rate = Figure::new(said, Unit::Bytes, rates(&seen));
    let (mut wide_alone, mut wide_reading) = (Vec::new(), Vec::new());
    for turn in 0..rounds as u64 {
        let sleeping = || std::thread::sleep(ALONE);
        wide_alone.push(a_second(operations, occupied(engine, &wide, sleeping).map_err(load_failure)?.0));
        let (nanos, took) = occupied(engine, &wide, || disk.read(way(chunk), turn)).map_err(load_failure)?;
        wide_reading.push(a_second(operations, nanos));
        took?;
    }
    let copying = Figure::new("copy in memory while the engine computes", Unit::Bytes, copying);
    let what = format!("MatMul 1x{STREAMED}x{STREAMED} f32, its weight");
    let streamed = [
        Figure::new(what.clone(), Unit::Bytes, alone),
        Figure::new(format!("{what} while the disk is read"), Unit::Bytes, reading),
    ];
    let many = format!("MatMul {ROWS}x{WIDE}x{WIDE} f32");
    let figures = vec![
        rate.clone(),
        copying.clone(),
        streamed[0].clone(),
        streamed[1].clone(),
        Figure::new(format!("{many}, over and over"), Unit::Operations, wide_alone),
        Figure::new(format!("{many} while the disk is read"), Unit::Operations, wide_reading),
    ];
    Ok(Beside { rate, copying, streamed, figures })
}
