//! How fast the disk of a folder is read: by chunk and by reads under way, alone and while memory is copied.

use super::memory::Sides;
use super::{Figure, Unit, rates, size, smallest_of_the_best};
use crate::failure::Failure;
use berth_ir::units::Bytes;
use berth_runtime_exec::executor::Pace;
use berth_runtime_exec::store::gauge::{Gauge, Took, Way};
use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Chunks that are tried, and reads under way at once, beside as many as the executor has.
const CHUNKS: [u64; 5] = [64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20];
const DEPTHS: [usize; 2] = [1, 2];
/// What one round reads at most.
const ROUND: u64 = 256 << 20;
/// Single reads for the latency, and their size.
const SINGLE: u64 = 32;
const PAGE: u64 = 4096;
/// The scratch file where nothing else is said, and the least of one.
pub const BYTES: u64 = 1 << 30;
const BYTES_LEAST: u64 = 16 << 20;

/// What was measured, and the file to measure more with.
#[derive(Debug)]
pub struct Disk {
    /// Bytes of the file.
    pub bytes: u64,
    /// Whether the page cache was passed by.
    pub direct: bool,
    /// Of one small read.
    pub latency: Figure,
    /// All figures.
    pub figures: Vec<Figure>,
    gauge: Gauge,
    /// With as many reads under way as the executor has: by chunk, smallest first.
    deep: Vec<Deep>,
}

/// Reads by one chunk.
#[derive(Clone, Debug)]
pub struct Deep {
    /// The chunk.
    pub chunk: u64,
    /// The rate with it.
    pub rate: Figure,
    /// What handing over one read took.
    pub submit: Figure,
}

/// Reads by a chunk, as many under way as the executor has.
pub fn way(chunk: u64) -> Way {
    Way { chunk, depth: Pace::spare(chunk) as usize, stride: chunk }
}

impl Disk {
    /// What was found with the best chunk.
    pub fn deep(&self) -> &Deep {
        &self.deep[smallest_of_the_best(&self.deep.iter().map(|deep| deep.rate.median).collect::<Vec<_>>())]
    }

    /// Reads for a while; from another place in each turn.
    pub fn read(&mut self, way: Way, turn: u64) -> Result<Took, Failure> {
        let reads = ROUND.min(self.bytes) / way.chunk;
        self.gauge.read(way, turn * reads, reads).map_err(Failure::bad)
    }
}

/// A file that has no name any more: it is gone when this process is, however that ends.
fn made(folder: &Path, bytes: u64) -> Result<File, Failure> {
    let name = format!(".berth-{}-calibrate.part", std::process::id());
    let path = folder.join(name);
    let fault = |e: std::io::Error| Failure::file("write a scratch file", &path, e);
    let mut file = File::options().read(true).write(true).create_new(true).open(&path).map_err(fault)?;
    std::fs::remove_file(&path).map_err(fault)?;
    // Neither zeros nor twice the same: some disks keep such things smaller.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut block = vec![0u8; 1 << 20];
    for _ in 0..bytes / (1 << 20) {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).map_err(fault)?;
    }
    file.sync_all().map_err(fault)?;
    Ok(file)
}

/// Bytes of the scratch file: what is asked for, else 1 GiB, or a quarter of what is free where that is less.
pub fn room(folder: &Path, asked: Option<Bytes>) -> Result<u64, Failure> {
    let fault = |e: std::io::Error| Failure::file("measure the disk of the folder", folder, e);
    if !std::fs::metadata(folder).map_err(fault)?.is_dir() {
        return Err(Failure::bad(format!("`{}` is no folder: name one with `--folder`", folder.display())));
    }
    let disk = rustix::fs::statvfs(folder).map_err(|e| fault(e.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let bytes = asked.map_or(BYTES.min(free / 4), |asked| asked.0) >> 20 << 20;
    if asked.is_some() && bytes < BYTES_LEAST {
        return Err(Failure::bad(format!("`--bytes` is at least {}: less says nothing of a disk", size(BYTES_LEAST))));
    }
    if bytes < BYTES_LEAST || bytes > free {
        return Err(Failure::unfit(format!(
            "the scratch file needs {}, {} are free in `{}`: name a folder on another disk with `--folder`, or a smaller file with `--bytes` ({} at least)",
            size(bytes.max(BYTES_LEAST)),
            size(free),
            folder.display(),
            size(BYTES_LEAST)
        )));
    }
    Ok(bytes)
}

/// A scratch file of so many bytes in a folder, to be read.
pub fn scratch(folder: &Path, bytes: u64) -> Result<Gauge, Failure> {
    Gauge::new(&folder.join("the scratch file"), made(folder, bytes)?).map_err(Failure::bad)
}

/// A file that is there, to be read, and its bytes.
pub fn existing(path: &Path) -> Result<(Gauge, u64), Failure> {
    let fault = |e: std::io::Error| Failure::file("measure the disk by reading", path, e);
    // Looked at before it is opened: opening a pipe waits.
    let metadata = std::fs::metadata(path).map_err(fault)?;
    if !metadata.is_file() {
        return Err(Failure::bad(format!("`{}` is no file: name a pack or a model's weights", path.display())));
    }
    if metadata.len() < BYTES_LEAST {
        return Err(Failure::bad(format!(
            "`{}` has {}, too few to say anything of a disk: name a file of at least {}",
            path.display(),
            Bytes(metadata.len()).human(),
            size(BYTES_LEAST)
        )));
    }
    let gauge = Gauge::new(path, File::open(path).map_err(fault)?).map_err(Failure::bad)?;
    Ok((gauge, metadata.len()))
}

/// Measures a disk by reading a file of so many bytes, in so many rounds.
pub fn disk(mut gauge: Gauge, bytes: u64, rounds: usize) -> Result<Disk, Failure> {
    let round = ROUND.min(bytes);
    let shallow = |chunk: u64| DEPTHS.map(|depth| Way { chunk, depth, stride: chunk });
    let mut ways: Vec<Way> = CHUNKS.iter().flat_map(|chunk| [&shallow(*chunk)[..], &[way(*chunk)]].concat()).collect();
    ways.dedup();
    let single = Way { chunk: PAGE, depth: 1, stride: 257 * PAGE };
    let mut seen: Vec<Vec<Took>> = vec![Vec::new(); ways.len()];
    let mut latencies = Vec::new();
    // All ways in turn, so that a disk that others use too wavers for all of them alike.
    for turn in 0..rounds as u64 {
        for (way, seen) in ways.iter().zip(&mut seen) {
            let reads = round / way.chunk;
            seen.push(gauge.read(*way, turn * reads, reads).map_err(Failure::bad)?);
        }
        let took = gauge.read(single, turn * SINGLE, SINGLE).map_err(Failure::bad)?;
        latencies.push(took.nanos / SINGLE);
    }
    let name = |way: &Way| format!("disk, {} at a time, {} under way", size(way.chunk), way.depth);
    let mut figures: Vec<Figure> =
        ways.iter().zip(&seen).map(|(way, seen)| Figure::new(name(way), Unit::Bytes, rates(seen))).collect();
    let submits = |seen: &[Took]| seen.iter().map(|took| took.submit_nanos).collect();
    let deep = ways.iter().zip(&seen).zip(&figures).filter(|((own, _), _)| **own == way(own.chunk));
    let deep = deep.map(|((way, seen), rate)| Deep {
        chunk: way.chunk,
        rate: rate.clone(),
        submit: Figure::new(format!("handing over a read of {}", size(way.chunk)), Unit::Nanos, submits(seen)),
    });
    let deep: Vec<Deep> = deep.collect();
    let latency = Figure::new("one read of 4 KiB", Unit::Nanos, latencies);
    figures.push(latency.clone());
    figures.extend(deep.iter().map(|deep| deep.submit.clone()));
    let direct = gauge.is_direct();
    let mut disk = Disk { bytes, direct, latency, figures, gauge, deep };
    let (mut reading, mut copying) = (Vec::new(), Vec::new());
    let (mut sides, best) = (Sides::new(bytes), way(disk.deep().chunk));
    for turn in 0..rounds as u64 {
        let (took, copied) = sides.beside(1 << 20, || disk.read(best, turn));
        reading.extend(rates(&[took?]));
        copying.push(copied);
    }
    disk.figures.push(Figure::new("disk while memory is copied", Unit::Bytes, reading));
    disk.figures.push(Figure::new("copy in memory while the disk is read", Unit::Bytes, copying));
    Ok(disk)
}
