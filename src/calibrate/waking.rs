//! How long it takes until a thread that sleeps goes on after another has woken it.

use super::{Figure, Unit};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Times that two threads wake each other in one round.
const TURNS: u64 = 200;

/// Measures it in so many rounds: two threads hand a turn to each other, as engines and links do.
pub fn waking(rounds: usize) -> Figure {
    let rounds = (0..rounds).map(|_| {
        let (turn, changed) = (Mutex::new(0u64), [Condvar::new(), Condvar::new()]);
        let play = |side: usize| {
            let mut now = turn.lock().unwrap_or_else(PoisonError::into_inner);
            while *now < TURNS {
                if *now % 2 == side as u64 {
                    *now += 1;
                    changed[1 - side].notify_one();
                } else {
                    now = changed[side].wait(now).unwrap_or_else(PoisonError::into_inner);
                }
            }
        };
        let began = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| play(1));
            play(0);
        });
        u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX) / TURNS
    });
    Figure::new("waking a thread", Unit::Nanos, rounds.collect())
}
