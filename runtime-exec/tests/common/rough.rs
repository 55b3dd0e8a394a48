//! A rough world by seed: a disk and engines that do what a plan says, and count what they did.

use super::null::Null;
use berth_runtime_exec::engine::{EngineError, StopFlag};
use berth_runtime_exec::store::queue::{Disk, Plain};
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Numbers that look like chance, the same for a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
    /// True once in so many times.
    pub fn once_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }
    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// What the disk does at one read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Says that it cannot.
    Fails,
    /// Gives nothing from then on, though the file has it.
    Dry,
    /// Does not come back before it is let go.
    Stuck,
    /// Turns a bit.
    Flips,
}

/// What an engine does at one of its runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ill {
    Fails,
    Spills,
    /// Does not come back before it is asked to stop.
    Waits,
    /// Does not come back before it is let go, whoever asks.
    Deaf,
}

/// What goes wrong. Reads and runs of tasks are counted from zero.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    pub seed: u64,
    /// Some reads take their time; some runs of tasks too.
    pub late: bool,
    /// Some reads bring less than asked for, are interrupted, or say to come again.
    pub short: bool,
    /// Some reads end after later ones.
    pub reordered: bool,
    pub disk: Option<(u64, Blow)>,
    pub engine: Option<(u64, Ill)>,
}

impl Plan {
    /// Whether something may not come back by itself, so that only the limit ends the run.
    pub fn holds(&self) -> bool {
        matches!(self.disk, Some((_, Blow::Stuck))) || matches!(self.engine, Some((_, Ill::Waits | Ill::Deaf)))
    }
}

/// What has happened.
#[derive(Debug, Default)]
pub struct Happened {
    pub late: AtomicU64,
    pub short: AtomicU64,
    pub overtaken: AtomicU64,
    pub blows: AtomicU64,
    pub ills: AtomicU64,
}

fn count(of: &AtomicU64) {
    of.fetch_add(1, Ordering::SeqCst);
}

/// The world of one seed.
#[derive(Debug)]
pub struct World {
    pub plan: Plan,
    pub happened: Happened,
    reads: AtomicU64,
    runs: AtomicU64,
    /// Nothing goes wrong any more.
    calm: AtomicBool,
    /// The latest read that has ended, counted from one.
    ended: Mutex<u64>,
    news: Condvar,
    /// Whether what is stuck may go.
    open: Mutex<bool>,
    opened: Condvar,
}

impl World {
    pub fn new(plan: Plan) -> Arc<World> {
        Arc::new(World {
            plan,
            happened: Happened::default(),
            reads: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            calm: AtomicBool::new(false),
            ended: Mutex::new(0),
            news: Condvar::new(),
            open: Mutex::new(false),
            opened: Condvar::new(),
        })
    }

    /// From now on nothing goes wrong; what is stuck stays so.
    pub fn calm(&self) {
        self.calm.store(true, Ordering::SeqCst);
    }

    /// Lets what is stuck go.
    pub fn let_go(&self) {
        *self.open.lock().expect("a lock") = true;
        self.opened.notify_all();
    }

    fn stick(&self) {
        let mut open = self.open.lock().expect("a lock");
        while !*open {
            open = self.opened.wait(open).expect("a lock");
        }
    }

    /// Waits for a later read to end, not for long: there may be none.
    fn let_others_pass(&self, read: u64) {
        let ended = self.ended.lock().expect("a lock");
        let wait = self.news.wait_timeout_while(ended, Duration::from_millis(2), |ended| *ended <= read + 1);
        drop(wait.expect("a lock"));
    }

    fn end(&self, read: u64) {
        let mut ended = self.ended.lock().expect("a lock");
        if *ended > read + 1 {
            count(&self.happened.overtaken);
        }
        *ended = (*ended).max(read + 1);
        self.news.notify_all();
    }

    /// An engine of this world.
    pub fn engine(self: &Arc<World>) -> Null {
        let (world, flag) = (self.clone(), Arc::new(Flag::default()));
        let mut null = Null::new(true);
        null.stop = flag.clone();
        null.before = Some(Box::new(move || world.before(&flag)));
        null
    }

    fn before(&self, flag: &Flag) -> Result<(), EngineError> {
        let task = || "mix".to_owned();
        // A stop that was asked between runs ends the next one, as an engine's does.
        if flag.take() {
            return Err(EngineError::Stopped { task: task() });
        }
        if self.calm.load(Ordering::SeqCst) {
            return Ok(());
        }
        let run = self.runs.fetch_add(1, Ordering::SeqCst);
        let mut dice = Dice::new(self.plan.seed ^ (run << 32));
        if self.plan.late && dice.once_in(4) {
            count(&self.happened.late);
            std::thread::sleep(Duration::from_micros(dice.below(500)));
        }
        let Some((_, ill)) = self.plan.engine.filter(|(n, _)| *n == run) else { return Ok(()) };
        count(&self.happened.ills);
        match ill {
            Ill::Fails => Err(EngineError::Engine { task: task(), step: "run it", status: "ill".to_owned() }),
            Ill::Spills => {
                Err(EngineError::Spilled { task: task(), asked_bytes: 2, planned_bytes: 1, needed_bytes: 3 })
            }
            Ill::Waits => {
                while !flag.take() {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err(EngineError::Stopped { task: task() })
            }
            Ill::Deaf => {
                self.stick();
                Ok(())
            }
        }
    }
}

impl Disk for World {
    fn read_at(&self, file: &File, at: u64, to: &mut [u8]) -> io::Result<usize> {
        if self.calm.load(Ordering::SeqCst) {
            return Plain.read_at(file, at, to);
        }
        let read = self.reads.fetch_add(1, Ordering::SeqCst);
        let mut dice = Dice::new(self.plan.seed ^ (read << 16));
        if self.plan.late && dice.once_in(4) {
            count(&self.happened.late);
            std::thread::sleep(Duration::from_micros(dice.below(1500)));
        }
        if self.plan.reordered && dice.once_in(3) {
            self.let_others_pass(read);
        }
        let blow = self.plan.disk.filter(|(n, blow)| *n == read || *blow == Blow::Dry && *n < read);
        if blow.is_some() {
            count(&self.happened.blows);
        }
        let result = match blow.map(|(_, blow)| blow) {
            Some(Blow::Fails) => Err(io::Error::from_raw_os_error(libc::EIO)),
            Some(Blow::Dry) => Ok(0),
            Some(Blow::Stuck) => {
                self.stick();
                Plain.read_at(file, at, to)
            }
            Some(Blow::Flips) => Plain.read_at(file, at, to).inspect(|got| {
                if *got > 0 {
                    to[dice.next() as usize % got] ^= 1 << dice.below(8);
                }
            }),
            None if self.plan.short && dice.once_in(2) => {
                count(&self.happened.short);
                match dice.below(6) {
                    0 => Err(io::ErrorKind::Interrupted.into()),
                    1 => Err(io::ErrorKind::WouldBlock.into()),
                    2 => Ok(0),
                    _ => {
                        let most = dice.below(to.len() as u64) as usize + 1;
                        Plain.read_at(file, at, to).map(|got| got.min(most))
                    }
                }
            }
            None => Plain.read_at(file, at, to),
        };
        self.end(read);
        result
    }
}

/// What asks an engine to stop.
#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Flag {
    fn take(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }
}

impl StopFlag for Flag {
    fn set(&self, stop: bool) {
        self.0.store(stop, Ordering::SeqCst);
    }
}
