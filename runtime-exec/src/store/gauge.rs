//! How fast a file is read by what the executor reads with: so many bytes at a time, so many reads under way, and a checksum
//! of what arrived, as of a pack's blocks.

#![allow(unsafe_code, reason = "reads go to memory that the gauge keeps until they have ended")]

use super::queue::Read;
use super::{Layout, Source, Store, StoreError, Stored, set_direct};
use crate::arena::{Arena, PAGE};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// A file to be read, and memory to read it to.
#[derive(Debug)]
pub struct Gauge {
    store: Store,
    memory: Arena,
    bytes: u64,
}

/// How reads are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Bytes of a read: whole pages.
    pub chunk: u64,
    /// Reads under way at once.
    pub depth: usize,
    /// From the start of a read to that of the next, in the file; a multiple of the chunk.
    pub stride: u64,
}

/// What reads took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Took {
    /// Bytes that arrived.
    pub bytes: u64,
    /// Nanoseconds from the first to the last.
    pub nanos: u64,
    /// Nanoseconds that handing one over took, on average.
    pub submit_nanos: u64,
}

/// Nothing ends for so long: the disk hangs.
const PATIENCE: u32 = 60;

impl Gauge {
    /// A file, by an open handle; `path` is for messages.
    pub fn new(path: &Path, file: File) -> Result<Gauge, StoreError> {
        let stored = Stored { path: path.to_owned(), direct: set_direct(&file), sector: PAGE, file: Arc::new(file) };
        let bytes = stored.bytes()?;
        let full = || StoreError::Io { path: path.to_owned(), source: io::ErrorKind::OutOfMemory.into() };
        Ok(Gauge {
            store: Store { files: vec![stored], pack: None, disk: None },
            memory: Arena::new(0).ok_or_else(full)?,
            bytes,
        })
    }

    /// Whether reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.store.files[0].direct
    }

    /// Reads so many times, beginning with the read of this number; where the file ends it goes on at its start.
    pub fn read(&mut self, way: Way, first: u64, reads: u64) -> Result<Took, StoreError> {
        let source = Source { file: 0, layout: Layout::packed(0), sums: None };
        let failed = |store: &Store, error| store.failed(source, error);
        let places = self.bytes / way.chunk.max(1);
        if places == 0 || !way.chunk.is_multiple_of(PAGE as u64) || way.depth == 0 {
            return Err(failed(&self.store, io::ErrorKind::InvalidInput.into()));
        }
        let (chunk, step) = (way.chunk as usize, way.stride / way.chunk);
        let room = (chunk * way.depth) as u64;
        if self.memory.bytes() < room {
            self.memory = Arena::new(room).ok_or_else(|| failed(&self.store, io::ErrorKind::OutOfMemory.into()))?;
        }
        let start = self.memory.address(0, room).unwrap_or(std::ptr::null_mut());
        // SAFETY: the memory is the gauge's, which is borrowed for longer than the queue lives.
        let mut queue = unsafe { self.store.queue(&[(start as usize, room as usize)], way.depth) };
        let mut free: Vec<usize> = (0..way.depth).collect();
        let (mut next, mut ended, mut bytes, mut silent) = (0, 0, 0, 0);
        let mut submitting = Duration::ZERO;
        let began = Instant::now();
        while ended < reads {
            while next < reads
                && let Some(token) = free.pop()
            {
                let at = (first + next) * step % places * way.chunk;
                let to = start.wrapping_add(token * chunk);
                let handed = Instant::now();
                // SAFETY: each token has its own part of the memory, and is used again only when its read has ended.
                unsafe { queue.submit(Read { file: 0, at, to, bytes: chunk, token }) }
                    .map_err(|e| failed(&self.store, e))?;
                submitting += handed.elapsed();
                next += 1;
            }
            match queue.wait(Duration::from_secs(1)).map_err(|e| failed(&self.store, e))? {
                Some((token, result)) => {
                    let got = result.map_err(|e| failed(&self.store, e))? as u64;
                    if got == 0 {
                        return Err(self.store.cut_off(source, self.bytes, "calibration"));
                    }
                    // SAFETY: its read has ended, and its part of the memory is not used again before the token is.
                    let arrived = unsafe { self.memory.slice((token * chunk) as u64, got.min(chunk as u64)) };
                    std::hint::black_box(xxh3_64(arrived.unwrap_or_default()));
                    (ended, bytes, silent) = (ended + 1, bytes + got, 0);
                    free.push(token);
                }
                None => silent += 1,
            }
            if silent > PATIENCE {
                return Err(failed(&self.store, io::ErrorKind::TimedOut.into()));
            }
        }
        let nanos = began.elapsed().as_nanos() as u64;
        Ok(Took { bytes, nanos, submit_nanos: submitting.as_nanos() as u64 / reads.max(1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn every_read_brings_its_bytes_and_the_end_of_the_file_leads_to_its_start() {
        let path = std::env::temp_dir().join(format!("berth-gauge-{}", std::process::id()));
        let mut file = File::options().read(true).write(true).create_new(true).open(&path).expect("a file");
        std::fs::remove_file(&path).expect("its name goes");
        let bytes: Vec<u8> = (0..10 * PAGE).map(|at| (at / PAGE) as u8 + 10).collect();
        file.write_all(&bytes).expect("it writes");
        file.sync_all().expect("it is on the disk");
        let mut gauge = Gauge::new(&path, file).expect("a gauge");
        let chunk = PAGE as u64;
        let took = gauge.read(Way { chunk, depth: 3, stride: chunk }, 0, 25).expect("it reads");
        assert_eq!(took.bytes, 25 * chunk);
        // The last reads of a depth of one: pages 7 * n of 10, so that the last of four is page 1.
        gauge.memory = Arena::new(PAGE as u64).expect("memory");
        gauge.read(Way { chunk, depth: 1, stride: 7 * chunk }, 0, 4).expect("it reads");
        // SAFETY: all reads have ended.
        assert!(unsafe { gauge.memory.slice(0, chunk) }.expect("a page").iter().all(|byte| *byte == 11));
        for (chunk, depth) in [(100, 1), (11 * chunk, 1), (chunk, 0)] {
            assert!(gauge.read(Way { chunk, depth, stride: chunk }, 0, 1).is_err());
        }
    }
}
