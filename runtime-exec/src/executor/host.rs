//! What an executor stands on: a clock, threads, a lock with places to sleep, memory, reads. The machine's own is
//! [`System`]; a simulated one decides what happens when, and is told what begins and ends.
//!
//! Everything in which an executor waits, asks for the time or starts a thread goes through here, so that the same code
//! runs on both.

use crate::arena::Arena;
use crate::store::queue::{Nudge, Queue};
use std::fmt::Debug;
use std::ops::DerefMut;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What an executor stands on.
pub trait Host: Clone + Debug + Send + Sync + 'static {
    /// A lock around a value, with places to sleep.
    type Lock<T: Debug + Send + 'static>: Monitor<T> + Debug + Send + Sync;
    /// A thread that has a result at its end.
    type Thread<T: Send + 'static>;

    /// A lock with so many places to sleep.
    fn lock<T: Debug + Send + 'static>(&self, guarded: T, places: usize) -> Self::Lock<T>;
    /// Nanoseconds after some moment.
    fn now(&self) -> u64;
    /// Does nothing for so long.
    fn pause(&self, time: Duration);
    /// Begins a thread.
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Self::Thread<T>;
    /// Waits for a thread, not beyond a moment; nothing where it has not ended by then, or panicked.
    fn join<T: Send + 'static>(&self, thread: Self::Thread<T>, until: u64) -> Option<T>;

    /// A block of memory; nothing where there is not so much.
    fn arena(&self, bytes: u64) -> Option<Arena> {
        Arena::new(bytes)
    }
    /// A queue for so many reads, where it has one of its own.
    fn queue(&self, _depth: usize) -> Option<Box<dyn Queue>> {
        None
    }
}

/// A lock with places to sleep.
pub trait Monitor<T> {
    /// While it lives, nobody else has the value.
    type Guard<'a>: DerefMut<Target = T>
    where
        Self: 'a;

    /// Waits for the value.
    fn lock(&self) -> Self::Guard<'_>;
    /// Gives the value up until the place is woken, or a while has passed.
    fn sleep<'a>(&'a self, place: usize, guard: Self::Guard<'a>, most: Duration) -> Self::Guard<'a>;
    /// Wakes one thread that sleeps at a place.
    fn wake(&self, place: usize);
    /// Nanoseconds, as [`Host::now`].
    fn now(&self) -> u64;
    /// Says what else wakes a place, while its thread waits for reads to end.
    fn nudge_with(&self, _place: usize, _nudge: Option<Arc<dyn Nudge>>) {}
    /// Is told what becomes of an instruction, while the value is held.
    fn note(&self, _moment: Moment) {}
}

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Zero for the prologue, else counted from one.
    pub step: usize,
    /// The place in the code of the prologue or the body.
    pub index: usize,
    /// What becomes of it.
    pub turn: Turn,
}

/// What becomes of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// From here on it may touch its bytes.
    Begins,
    /// It touches them no more, and what waits for it may begin.
    Ends,
    /// It touches them no more, and begins anew later.
    IsCalledOff,
}

/// This machine.
#[derive(Clone, Copy, Debug)]
pub struct System {
    epoch: Instant,
}

impl Default for System {
    fn default() -> System {
        System { epoch: Instant::now() }
    }
}

impl Host for System {
    type Lock<T: Debug + Send + 'static> = Locked<T>;
    type Thread<T: Send + 'static> = JoinHandle<T>;

    fn lock<T: Debug + Send + 'static>(&self, guarded: T, places: usize) -> Locked<T> {
        Locked {
            value: Mutex::new(guarded),
            places: (0..places).map(|_| Condvar::new()).collect(),
            nudges: (0..places).map(|_| Mutex::new(None)).collect(),
            system: *self,
        }
    }
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        std::thread::spawn(work)
    }
    fn join<T: Send + 'static>(&self, thread: JoinHandle<T>, until: u64) -> Option<T> {
        while !thread.is_finished() {
            if self.now() > until {
                return None;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        thread.join().ok()
    }
}

/// A lock of the standard library.
#[derive(Debug)]
pub struct Locked<T> {
    value: Mutex<T>,
    places: Vec<Condvar>,
    nudges: Vec<Mutex<Option<Arc<dyn Nudge>>>>,
    system: System,
}

impl<T> Monitor<T> for Locked<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        Self: 'a;

    fn lock(&self) -> MutexGuard<'_, T> {
        // A worker that panicked leaves counters that are whole.
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn sleep<'a>(&'a self, place: usize, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T> {
        self.places[place].wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner).0
    }
    fn wake(&self, place: usize) {
        self.places[place].notify_one();
        if let Some(nudge) = &*self.nudges[place].lock().unwrap_or_else(PoisonError::into_inner) {
            nudge.nudge();
        }
    }
    fn now(&self) -> u64 {
        self.system.now()
    }
    fn nudge_with(&self, place: usize, nudge: Option<Arc<dyn Nudge>>) {
        *self.nudges[place].lock().unwrap_or_else(PoisonError::into_inner) = nudge;
    }
}
