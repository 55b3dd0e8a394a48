//! How fast one thread copies memory, alone, both ways at once, and while something else goes on.

use super::{Figure, Unit, a_second, size, smallest_of_the_best};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Chunks that are tried.
const CHUNKS: [usize; 4] = [64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Bytes of each side: more than the caches of most machines.
const SIDE: usize = 256 << 20;
/// The least that a side has, so that there is a chunk of each size in it.
const SIDE_LEAST: usize = 8 << 20;

/// Two blocks.
#[derive(Debug)]
pub struct Sides {
    from: Vec<u8>,
    to: Vec<u8>,
}

/// What was measured.
#[derive(Debug)]
pub struct Memory {
    /// The chunk to copy by.
    pub chunk: u64,
    /// The rate with it.
    pub rate: Figure,
    /// Both ways at once, together.
    pub both: Figure,
    /// All figures.
    pub figures: Vec<Figure>,
}

impl Sides {
    /// Blocks of at most so many bytes together.
    pub fn new(bytes: u64) -> Sides {
        let side = usize::try_from(bytes / 4).unwrap_or(SIDE).clamp(SIDE_LEAST, SIDE);
        // Not zeros: pages that nothing wrote are all one page.
        Sides { from: vec![1; side], to: vec![2; side] }
    }

    /// Copies all once; bytes a second.
    pub fn copy(&mut self, chunk: usize) -> u64 {
        let began = Instant::now();
        for (from, to) in self.from.chunks(chunk).zip(self.to.chunks_mut(chunk)) {
            to.copy_from_slice(from);
        }
        std::hint::black_box(&mut self.to);
        a_second(self.from.len() as u64, began.elapsed().as_nanos() as u64)
    }

    /// Does something while a thread copies. Gives what it gave, and the rate at which was copied meanwhile.
    pub fn beside<T>(&mut self, chunk: usize, work: impl FnOnce() -> T) -> (T, u64) {
        let (ended, began) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (ended, started) = (&ended, &began);
            let copying = scope.spawn(move || {
                let (mut bytes, began) = (0u64, Instant::now());
                'all: loop {
                    for (from, to) in self.from.chunks(chunk).zip(self.to.chunks_mut(chunk)) {
                        to.copy_from_slice(from);
                        bytes += from.len() as u64;
                        started.store(true, Ordering::Release);
                        if ended.load(Ordering::Acquire) {
                            break 'all;
                        }
                    }
                }
                a_second(bytes, began.elapsed().as_nanos() as u64)
            });
            while !started.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            let result = work();
            ended.store(true, Ordering::Release);
            (result, copying.join().unwrap_or(0))
        })
    }
}

/// Measures copies between blocks of so many bytes, in so many rounds.
pub fn memory(bytes: u64, rounds: usize) -> Memory {
    let (mut sides, mut others) = (Sides::new(bytes / 2), Sides::new(bytes / 2));
    // The first copy finds caches and clocks cold.
    sides.copy(CHUNKS[0]);
    let mut rates = vec![Vec::new(); CHUNKS.len()];
    for _ in 0..rounds {
        for (chunk, rates) in CHUNKS.iter().zip(&mut rates) {
            rates.push(sides.copy(*chunk));
        }
    }
    let figure = |(chunk, rates): (&usize, Vec<u64>)| {
        Figure::new(format!("copy in memory, {} at a time", size(*chunk as u64)), Unit::Bytes, rates)
    };
    let mut figures: Vec<Figure> = CHUNKS.iter().zip(rates).map(figure).collect();
    let medians: Vec<u64> = figures.iter().map(|f| f.median).collect();
    let best = smallest_of_the_best(&medians);
    let (chunk, rate) = (CHUNKS[best], figures[best].clone());
    let together = (0..rounds).map(|_| {
        let (one, other) = others.beside(chunk, || sides.copy(chunk));
        one + other
    });
    let both = Figure::new("two threads copying in memory, together", Unit::Bytes, together.collect());
    figures.push(both.clone());
    Memory { chunk: chunk as u64, rate, both, figures }
}
