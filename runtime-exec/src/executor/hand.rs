//! Hands instructions to lanes: the board behind one lock, and one place to sleep for each lane.
//!
//! A lane is woken when it got something, when everything has ended, and when something went wrong; nobody else is.
//! The lock is held for a few counts, never while bytes move. What a lock and a sleep are is [`Monitor`]'s affair, so
//! that the same code is tried in every interleaving that a few threads can have (`model.rs`).

use crate::errors::RunError;
use crate::executor::board::{Board, Graph, Instance, Key, Pick, Woken};
use crate::executor::host::{Moment, Monitor, Turn};
use crate::executor::table::Table;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest sleep, after which a stop and the limit are looked at.
const NAP: Duration = Duration::from_millis(100);

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct Hands {
    pub board: Board,
    pub fault: Option<RunError>,
    /// The run has ended and said how.
    told: bool,
    limit: Duration,
    /// The start of the run, and nanoseconds after it at which something last ended, or a chunk of it.
    start: u64,
    progress: u64,
    /// Whether the thread of each lane sleeps.
    asleep: Vec<bool>,
    pub log: Log,
    /// By lane: bytes moved and nanoseconds in which it did something.
    so_far: Vec<(u64, u64)>,
    /// By lane, when the last of it ended.
    last: Vec<u64>,
    /// A copy that is to be called off.
    call: Option<Call>,
}

impl Hands {
    pub fn new(graph: &Graph, steps: usize, start: u64, limit: Duration, log: Log) -> Hands {
        Hands {
            board: Board::new(graph, steps),
            fault: None,
            told: false,
            limit,
            start,
            progress: 0,
            // The last place is that of who calls a copy off.
            asleep: vec![false; graph.lanes() + 1],
            log,
            so_far: vec![(0, 0); graph.lanes()],
            last: vec![0; graph.lanes()],
            call: None,
        }
    }

    fn over(&self) -> bool {
        self.told || self.fault.is_some() || self.board.over()
    }
}

/// A wish to call a copy off, and what became of it.
#[derive(Clone, Copy, Debug)]
struct Call {
    instance: Instance,
    answer: Option<CallOff>,
}

/// What became of a wish to call a copy off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOff {
    /// Nothing touches its berth any more. It is issued again, as demand, once the next task of an engine waits for it.
    Released,
    /// It had not been ready, or had ended.
    NotUnderWay,
    /// It is no speculative copy of the body, or was called off before and is needed now.
    Refused,
    /// The run ended first.
    Over,
}

/// When steps ended, and how long engines computed in them: of the first steps, as many as there is room for.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// By step, the prologue as zero; nanoseconds after the start.
    pub ends: Vec<u64>,
    /// By step, then engine.
    pub busy: Vec<u64>,
    pub engines: usize,
}

/// Steps of which the log says something.
const STEPS_LOGGED: usize = 1 << 16;

impl Log {
    pub fn new(steps: usize, engines: usize) -> Log {
        let kept = steps.min(STEPS_LOGGED) + 1;
        Log { ends: vec![0; kept], busy: vec![0; kept * engines], engines }
    }

    fn add(&mut self, step: usize, engine: Option<usize>, began: u64, ended: u64) {
        let Some(end) = self.ends.get_mut(step) else { return };
        *end = ended.max(*end);
        if let Some(engine) = engine {
            self.busy[step * self.engines + engine] += ended.saturating_sub(began);
        }
    }
}

/// What a thread is told at the edge of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Go on.
    Go,
    /// A copy is called off: whoever carries it begins nothing more of it.
    CallOff(Instance),
    /// The run is over.
    Over,
}

/// How an instance went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Which engine, where it is a task.
    pub engine: Option<usize>,
    /// Nanoseconds after the start of the run.
    pub began: u64,
    pub ended: u64,
}

/// The hand-off between lanes.
#[derive(Debug)]
pub(crate) struct HandOff<M> {
    pub monitor: M,
    pub graph: Arc<Graph>,
    pub table: Arc<Table>,
    pub stop: Arc<AtomicBool>,
}

impl<M: Monitor<Hands>> HandOff<M> {
    /// Wakes those lanes that sleep and got something.
    fn wake(&self, hands: &mut Hands, woken: Woken) {
        if woken.any() {
            for lane in (0..hands.asleep.len()).filter(|lane| woken.has(*lane)) {
                if std::mem::take(&mut hands.asleep[lane]) {
                    self.monitor.wake(lane);
                }
            }
        }
    }

    fn wake_all(&self, hands: &mut Hands) {
        for lane in 0..hands.asleep.len() {
            if std::mem::take(&mut hands.asleep[lane]) {
                self.monitor.wake(lane);
            }
        }
    }

    fn fail(&self, hands: &mut Hands, fault: RunError) {
        hands.fault.get_or_insert(fault);
        self.wake_all(hands);
    }

    /// How long the run has lasted.
    fn since(&self, hands: &Hands) -> Duration {
        Duration::from_nanos(self.monitor.now().saturating_sub(hands.start))
    }

    fn note(&self, instance: Instance, turn: Turn) {
        self.monitor.note(Moment { step: instance.step, index: instance.index, turn });
    }

    /// Sees a stop that was asked for, and a run in which nothing ends.
    fn look(&self, hands: &mut Hands) {
        if hands.over() {
            return;
        }
        if self.stop.load(Ordering::SeqCst) {
            let step = hands.board.closed();
            self.fail(hands, RunError::Stopped { step });
        } else if self.since(hands) > hands.limit.saturating_add(Duration::from_nanos(hands.progress)) {
            let (seconds, waiting) = (hands.limit.as_secs(), hands.board.waiting(&self.table));
            self.fail(hands, RunError::Stalled { seconds, waiting });
        }
    }

    fn sleep<'a>(&'a self, lane: usize, mut hands: M::Guard<'a>) -> M::Guard<'a> {
        hands.asleep[lane] = true;
        let nap = hands.limit.min(NAP).max(Duration::from_millis(1));
        let mut hands = self.monitor.sleep(lane, hands, nap);
        hands.asleep[lane] = false;
        self.look(&mut hands);
        hands
    }

    /// Waits until a lane has something to do; nothing where it has no more, or the run is over.
    pub fn take(&self, lane: usize) -> Option<(Key, Instance)> {
        let mut hands = self.monitor.lock();
        if self.stop.load(Ordering::Relaxed) {
            self.look(&mut hands);
        }
        loop {
            if hands.over() {
                return None;
            }
            match hands.board.take(&self.graph, lane, None) {
                Pick::Take(key, instance) => {
                    self.note(instance, Turn::Begins);
                    return Some((key, instance));
                }
                Pick::Nothing => return None,
                Pick::Wait => {}
            }
            let woken = hands.board.recall(&self.graph, &self.table);
            self.wake(&mut hands, woken);
            // It may have been this lane's own.
            if !woken.has(lane) {
                hands = self.sleep(lane, hands);
            }
        }
    }

    /// What a lane has to do that is better than what it is at, without waiting.
    pub fn take_better(&self, lane: usize, than: Option<Key>) -> Option<(Key, Instance)> {
        let mut hands = self.monitor.lock();
        if hands.over() {
            return None;
        }
        match hands.board.take(&self.graph, lane, than) {
            Pick::Take(key, instance) => {
                self.note(instance, Turn::Begins);
                Some((key, instance))
            }
            Pick::Wait | Pick::Nothing => None,
        }
    }

    /// One has ended.
    pub fn done(&self, instance: Instance, times: Times, result: Result<(), RunError>) {
        let mut hands = self.monitor.lock();
        match result {
            Ok(()) => {
                hands.progress = hands.progress.max(times.ended);
                hands.log.add(instance.step, times.engine, times.began, times.ended);
                let bytes = self.table.half(instance.half)[instance.index].bytes;
                let lane = self.graph.lane(instance);
                // Copies of a link overlap: time that an earlier one had counts once.
                let began = times.began.max(std::mem::replace(&mut hands.last[lane], times.ended));
                let so_far = &mut hands.so_far[lane];
                so_far.0 += bytes;
                so_far.1 += times.ended.saturating_sub(began);
                self.note(instance, Turn::Ends);
                let woken = hands.board.end(&self.graph, instance);
                self.wake(&mut hands, woken);
                // Where this was the last that could end, nobody else asks for what was called off.
                let woken = hands.board.recall(&self.graph, &self.table);
                self.wake(&mut hands, woken);
                self.answer(&mut hands, instance, CallOff::NotUnderWay);
            }
            Err(fault) => self.fail(&mut hands, fault),
        }
    }

    /// A lane is about to wait for reads, and wants to be woken when it gets something; false where it has something.
    pub fn doze(&self, lane: usize) -> bool {
        let mut hands = self.monitor.lock();
        let dozes = !hands.over() && !hands.board.has_ready(lane);
        hands.asleep[lane] = dozes;
        dozes
    }

    /// A chunk of a copy has ended, or time has passed (`moved` is false): what now?
    pub fn edge(&self, lane: usize, moved: bool) -> Edge {
        let mut hands = self.monitor.lock();
        hands.asleep[lane] = false;
        if moved {
            hands.progress = self.since(&hands).as_nanos() as u64;
        }
        self.look(&mut hands);
        match hands.call {
            _ if hands.over() => Edge::Over,
            Some(Call { instance, answer: None }) => Edge::CallOff(instance),
            _ => Edge::Go,
        }
    }

    /// Says to who called a copy off what became of it.
    fn answer(&self, hands: &mut Hands, instance: Instance, answer: CallOff) {
        let Some(call) = hands.call.as_mut().filter(|call| call.instance == instance) else { return };
        call.answer.get_or_insert(answer);
        let place = self.graph.lanes();
        if std::mem::take(&mut hands.asleep[place]) {
            self.monitor.wake(place);
        }
    }

    /// A copy is called off, and nothing of it is under way any more.
    pub fn release(&self, instance: Instance) {
        let mut hands = self.monitor.lock();
        self.note(instance, Turn::IsCalledOff);
        hands.board.park(&self.graph, instance);
        self.answer(&mut hands, instance, CallOff::Released);
        let woken = hands.board.recall(&self.graph, &self.table);
        self.wake(&mut hands, woken);
    }

    /// Calls a copy off and waits until nothing touches its berth any more. One at a time.
    pub fn call_off(&self, index: usize) -> CallOff {
        let mut hands = self.monitor.lock();
        let Some(instance) = hands.board.issued(&self.graph, index) else { return CallOff::NotUnderWay };
        // Else who asks again and again would keep it from ever ending.
        if hands.board.is_recalled(instance) {
            return CallOff::Refused;
        }
        if hands.board.withdraw(&self.graph, instance) {
            let woken = hands.board.recall(&self.graph, &self.table);
            self.wake(&mut hands, woken);
            return CallOff::Released;
        }
        hands.call = Some(Call { instance, answer: None });
        loop {
            // Where the next run has begun there is no such call any more.
            let Some(call) = hands.call else { return CallOff::Over };
            if let Some(answer) = call.answer {
                hands.call = None;
                return answer;
            }
            if hands.over() {
                hands.call = None;
                return CallOff::Over;
            }
            hands = self.sleep(self.graph.lanes(), hands);
        }
    }

    /// Something went wrong that is no instruction's end.
    pub fn give_up(&self, fault: RunError) {
        self.fail(&mut self.monitor.lock(), fault);
    }

    /// Waits until the run is over, where a lane sleeps; in the last place where there is none.
    pub fn await_end(&self, lane: Option<usize>) {
        let mut hands = self.monitor.lock();
        while !hands.over() {
            let woken = hands.board.recall(&self.graph, &self.table);
            self.wake(&mut hands, woken);
            hands = self.sleep(lane.unwrap_or(self.graph.lanes()), hands);
        }
    }

    /// Steps that have ended, and what each lane has done.
    pub fn so_far(&self) -> (usize, Vec<(u64, u64)>) {
        let hands = self.monitor.lock();
        (hands.board.closed().saturating_sub(1), hands.so_far.clone())
    }

    /// Whether the run is over, seen from within.
    pub fn is_over(&self) -> bool {
        let mut hands = self.monitor.lock();
        self.look(&mut hands);
        hands.over()
    }

    /// Whether something went wrong.
    pub fn failed(&self) -> bool {
        self.monitor.lock().fault.is_some()
    }

    /// The first fault, the step that it met, and when steps ended.
    pub fn result(&self) -> (Option<RunError>, usize, Log) {
        let mut hands = self.monitor.lock();
        hands.told = true;
        (hands.fault.take(), hands.board.closed(), std::mem::take(&mut hands.log))
    }
}
