//! A queue of reads in a world: each ends at a time of its own, with what the plan says; while it is under way, its bytes are
//! poison. And what is read at once while a program is loaded.

#![allow(unsafe_code, reason = "writes what is read to where the executor wants it, as a disk would")]

use crate::meaning::file;
use crate::plan::Blow;
use crate::watch::POISON;
use crate::world::{State, World};
use berth_runtime_exec::store::queue::{self, Ended, Nudge, Queue, Read};
use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The queue of one link.
pub struct Disk {
    world: World,
    depth: usize,
    flights: Vec<Flight>,
    /// Reads in a row that brought less than all.
    shorts: usize,
    /// When the last of those that keep their order ends.
    last: u64,
    bell: Arc<Bell>,
}

#[derive(Clone, Copy)]
struct Flight {
    read: Read,
    /// Of all reads of the run.
    number: u64,
    /// When it ends; never where it is stuck.
    end: Option<u64>,
}

/// What ends a wait.
struct Bell {
    world: World,
    /// Whether it rang, and who waits for it.
    rung: Mutex<(bool, Option<usize>)>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bell")
    }
}

impl Nudge for Bell {
    fn nudge(&self) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        rung.0 = true;
        if let Some(actor) = rung.1 {
            self.world.wake(actor);
        }
    }
}

/// Bytes where a read goes.
///
/// # Safety
/// The read is under way: its memory is valid and the queue's.
unsafe fn place<'a>(read: &Read) -> &'a mut [u8] {
    // SAFETY: passed on from the caller.
    unsafe { std::slice::from_raw_parts_mut(read.to, read.bytes) }
}

/// What the so many-th read brings, after so many in a row that brought less than all.
fn brought(state: &mut State, number: u64, shorts: &mut usize, at: u64, to: &mut [u8]) -> io::Result<usize> {
    if !state.calm {
        match state.plan.disk {
            Some((n, Blow::Fails)) if n == number => {
                state.counts.blows += 1;
                return Err(io::Error::from_raw_os_error(5));
            }
            Some((n, Blow::Dry)) if n <= number => {
                state.counts.blows += 1;
                return Ok(0);
            }
            _ => {}
        }
        // Not so often that the executor would take the file for cut off.
        if state.plan.short && state.dice.below(2) == 0 && *shorts < 3 {
            state.counts.short += 1;
            *shorts += 1;
            match state.dice.below(6) {
                0 => return Err(io::ErrorKind::Interrupted.into()),
                1 => return Err(io::ErrorKind::WouldBlock.into()),
                2 => return Ok(0),
                _ => {
                    let got = 1 + state.dice.below(to.len());
                    file(at, &mut to[..got]);
                    return Ok(got);
                }
            }
        }
    }
    file(at, to);
    *shorts = 0;
    Ok(to.len())
}

/// What weights that engines keep are read with, at once, while a program is loaded.
#[derive(Debug)]
pub struct Drive {
    pub world: World,
    /// Reads in a row that brought less than all.
    pub shorts: Mutex<usize>,
}

impl queue::Disk for Drive {
    fn read_at(&self, _: &File, at: u64, to: &mut [u8]) -> io::Result<usize> {
        let mut state = self.world.state();
        let number = state.reads;
        state.reads += 1;
        let mut shorts = self.shorts.lock().unwrap_or_else(PoisonError::into_inner);
        brought(&mut state, number, &mut shorts, at, to)
    }
}

impl Disk {
    pub fn new(world: World, depth: usize) -> Disk {
        let bell = Arc::new(Bell { world: world.clone(), rung: Mutex::default() });
        Disk { world, depth, flights: Vec::with_capacity(depth), shorts: 0, last: 0, bell }
    }

    /// What a read that ends comes to.
    fn land(&mut self, flight: Flight) -> io::Result<usize> {
        // SAFETY: it has not ended yet.
        let to = unsafe { place(&flight.read) };
        brought(&mut self.world.state(), flight.number, &mut self.shorts, flight.read.at, to)
    }

    fn wait_until(&self, end: u64) {
        let now = self.world.state().now;
        self.world.wait(end.saturating_sub(now));
    }
}

impl Queue for Disk {
    unsafe fn submit(&mut self, read: Read) -> io::Result<()> {
        self.world.pass();
        let mut state = self.world.state();
        if self.flights.len() == self.depth {
            state.wrong.push(format!("more than {} reads at once", self.depth));
        }
        let number = state.reads;
        state.reads += 1;
        let blow = state.plan.disk.filter(|(n, _)| *n == number && !state.calm).map(|(_, blow)| blow);
        if blow == Some(Blow::Refuses) {
            state.counts.blows += 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        // SAFETY: from here on it is under way.
        unsafe { place(&read) }.fill(POISON);
        let mut takes = 500 + state.dice.below(20_000) as u64;
        if state.plan.late && !state.calm && state.dice.below(4) == 0 {
            state.counts.late += 1;
            takes += state.dice.below([100_000, 2_000_000, 300_000_000][number as usize % 3]) as u64;
        }
        let mut end = Some(state.now + takes);
        if !state.plan.reordered || state.calm {
            end = end.map(|end| end.max(self.last));
        }
        self.last = self.last.max(end.unwrap_or(0));
        if blow == Some(Blow::Stuck) {
            state.counts.blows += 1;
            state.holds = true;
            end = None;
        }
        self.flights.push(Flight { read, number, end });
        Ok(())
    }

    fn wait(&mut self, most: Duration) -> io::Result<Option<Ended>> {
        self.world.pass();
        {
            let mut state = self.world.state();
            let reads = state.reads;
            let calm = state.calm;
            let broken = match &mut state.plan.disk {
                _ if calm => false,
                Some((n, Blow::Broken)) => *n < reads,
                Some((n, Blow::Waits)) if *n < reads => {
                    *n = u64::MAX;
                    true
                }
                _ => false,
            };
            if broken {
                state.counts.blows += 1;
                return Err(io::Error::from_raw_os_error(5));
            }
        }
        let until = self.world.state().now.saturating_add(most.as_nanos() as u64);
        loop {
            let now = self.world.state().now;
            let free = self.world.state().free;
            let due: Vec<usize> =
                (0..self.flights.len()).filter(|f| self.flights[*f].end.map_or(free, |end| end <= now)).collect();
            if !due.is_empty() {
                let place = due[self.world.state().dice.below(due.len())];
                let flight = self.flights.remove(place);
                let overtaken = self.flights.iter().any(|other| other.number < flight.number);
                self.world.state().counts.overtaken += u64::from(overtaken);
                let result = self.land(flight);
                return Ok(Some((flight.read.token, result)));
            }
            if std::mem::take(&mut self.bell.rung.lock().unwrap_or_else(PoisonError::into_inner).0) || now >= until {
                return Ok(None);
            }
            let first = self.flights.iter().filter_map(|flight| flight.end).min();
            self.bell.rung.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(self.world.me());
            self.world.sleep(first.unwrap_or(until).min(until), first.is_none());
            self.bell.rung.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
        }
    }

    fn nudge(&self) -> Arc<dyn Nudge> {
        self.bell.clone()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whatever is under way ends before its memory goes, as with the kernel's.
        while let Some(flight) = self.flights.pop() {
            match flight.end {
                Some(end) => self.wait_until(end),
                None => self.world.stick(|| false),
            }
            // SAFETY: it has not ended yet.
            file(flight.read.at, unsafe { place(&flight.read) });
        }
    }
}
