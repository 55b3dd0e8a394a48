//! Reads that are under way: handed over, and met again when they have ended.
//!
//! Two queues: the kernel's own (`ring.rs`), and threads that each read one place, for machines that have no such thing
//! and for tests, which put a disk of their own behind it.

#![allow(unsafe_code, reason = "reads go to addresses that the caller keeps valid until they have ended")]

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// One read.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Which file of the store.
    pub file: usize,
    /// Where in it.
    pub at: u64,
    /// Where to: an address.
    pub to: *mut u8,
    /// How many bytes.
    pub bytes: usize,
    /// By which it is known when it has ended.
    pub token: usize,
}

// SAFETY: an address is no more than a number until somebody reads or writes there, which `submit` says who may.
unsafe impl Send for Read {}

/// What a read came to.
pub type Ended = (usize, io::Result<usize>);

/// Reads that are under way.
pub trait Queue: Send {
    /// Hands a read over. After an error it is not under way, and never will be.
    ///
    /// # Safety
    /// Until the read has ended, its memory is valid for writes and nobody else touches it.
    unsafe fn submit(&mut self, read: Read) -> io::Result<()>;

    /// Waits for a read to end, not much longer than so long.
    fn wait(&mut self, most: Duration) -> io::Result<Option<Ended>>;

    /// What ends a wait from another thread, whether it has begun or not.
    fn nudge(&self) -> Arc<dyn Nudge>;
}

/// Ends a wait.
pub trait Nudge: Send + Sync + std::fmt::Debug {
    /// Ends it, from any thread.
    fn nudge(&self);
}

/// What a file's bytes are read with.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Reads at a place: as many bytes as it says, fewer than asked for at the end of the file and whenever it likes.
    fn read_at(&self, file: &File, at: u64, to: &mut [u8]) -> io::Result<usize>;
}

/// The system's positional read.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Disk for Plain {
    fn read_at(&self, file: &File, at: u64, to: &mut [u8]) -> io::Result<usize> {
        file.read_at(to, at)
    }
}

/// Threads that read files: one with its bytes on the way, another asking.
const READERS: usize = 4;

/// Threads that each read one place at a time.
#[derive(Debug)]
pub(crate) struct Threads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    files: Vec<Arc<File>>,
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    work: Condvar,
    news: Condvar,
}

#[derive(Debug)]
struct State {
    waiting: VecDeque<Read>,
    ended: VecDeque<Ended>,
    nudged: bool,
    closed: bool,
}

impl Nudge for Shared {
    fn nudge(&self) {
        self.lock().nudged = true;
        self.news.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    /// With room for so many reads.
    pub fn new(files: Vec<Arc<File>>, disk: Arc<dyn Disk>, depth: usize) -> Threads {
        let state = State {
            waiting: VecDeque::with_capacity(depth),
            ended: VecDeque::with_capacity(depth),
            nudged: false,
            closed: false,
        };
        let state = Mutex::new(state);
        let shared = Arc::new(Shared { files, disk, state, work: Condvar::new(), news: Condvar::new() });
        let threads = (0..READERS.min(depth)).map(|_| {
            let shared = shared.clone();
            std::thread::spawn(move || read_on(&shared))
        });
        Threads { threads: threads.collect(), shared }
    }
}

impl Queue for Threads {
    unsafe fn submit(&mut self, read: Read) -> io::Result<()> {
        self.shared.lock().waiting.push_back(read);
        self.shared.work.notify_one();
        Ok(())
    }

    fn wait(&mut self, most: Duration) -> io::Result<Option<Ended>> {
        let mut state = self.shared.lock();
        if state.ended.is_empty() && !state.nudged {
            state = self.shared.news.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.nudged = false;
        Ok(state.ended.pop_front())
    }

    fn nudge(&self) -> Arc<dyn Nudge> {
        self.shared.clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.waiting.clear();
        state.closed = true;
        drop(state);
        self.shared.work.notify_all();
        // What they read goes to memory that may be gone after this.
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn read_on(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closed {
        let Some(read) = state.waiting.pop_front() else {
            state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        // SAFETY: whoever submitted it keeps this memory valid and to us until the read has ended; a queue that goes
        // waits for its threads.
        let to = unsafe { std::slice::from_raw_parts_mut(read.to, read.bytes) };
        let result = match shared.files.get(read.file) {
            Some(file) => shared.disk.read_at(file, read.at, to),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        state = shared.lock();
        state.ended.push_back((read.token, result));
        shared.news.notify_one();
    }
}
