//! A world of one thread: actors that take turns, virtual time, a lock with places to sleep. Chance, by a seed, decides who
//! goes on when several may.
//!
//! Actors are coroutines that run the executor's own code. Whoever waits gives the turn back; when nobody can go on, the
//! time becomes that of the next event. Where that is the end of a sleep that somebody should have ended sooner, the
//! world says so: a wake-up was lost, or everybody waits for everybody.

use crate::device::Rng;
use crate::disk::Disk;
use crate::plan::{Counts, Plan};
use crate::watch::Watch;
use berth_runtime_exec::arena::Arena;
use berth_runtime_exec::executor::host::{Host, Moment, Monitor, Turn};
use berth_runtime_exec::store::queue::{Nudge, Queue};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What an actor does.
type Work = Box<dyn FnOnce() + Send>;
type Coroutine = generator::Generator<'static, (), ()>;

/// Words of a coroutine's stack.
const STACK: usize = 0x4000;

/// Nanoseconds after which something should have ended.
const LONGEST: u64 = 10_000_000_000_000;

/// A world, by a handle.
#[derive(Clone)]
pub struct World(Arc<Mutex<State>>);

impl Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("World")
    }
}

/// What the world knows.
pub struct State {
    pub now: u64,
    pub dice: Rng,
    pub plan: Plan,
    pub counts: Counts,
    pub watch: Watch,
    /// What must not have happened.
    pub wrong: Vec<String>,
    /// Nothing goes wrong any more.
    pub calm: bool,
    /// What never comes back does so now.
    pub free: bool,
    /// Somebody asked for a stop, or something never comes back: sleeps may last as long as they can.
    pub holds: bool,
    /// Reads that were begun, and runs of tasks.
    pub reads: u64,
    pub runs: u64,
    actors: Vec<Actor>,
    fresh: Vec<(usize, Work)>,
    now_acts: usize,
    /// A sum of who acted when.
    pub trace: u64,
}

/// One who acts.
struct Actor {
    /// When it goes on.
    at: u64,
    /// Whether others may have it go on sooner.
    sleeps: bool,
    /// Whether nothing happens then, but that it looks around.
    idle: bool,
    /// Whether somebody did.
    woken: bool,
    /// It slept as long as it could, and has not slept since.
    overslept: bool,
    over: bool,
    /// Who waits for its end.
    joins: Option<usize>,
    /// Whoever has the most goes first, where that is how it is decided.
    urgency: u64,
}

impl World {
    pub fn new(seed: u64) -> World {
        World(Arc::new(Mutex::new(State {
            now: 0,
            dice: Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            plan: Plan::default(),
            counts: Counts::default(),
            watch: Watch::default(),
            wrong: Vec::new(),
            calm: true,
            free: false,
            holds: false,
            reads: 0,
            runs: 0,
            actors: Vec::new(),
            fresh: Vec::new(),
            now_acts: 0,
            trace: 0,
        })))
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has something act until all who act have ended. Things that never come back do so when the first is over.
    pub fn act(&self, first: impl FnOnce() + Send + 'static) {
        {
            let mut state = self.state();
            state.actors.clear();
            (state.free, state.holds) = (false, false);
            state.enlist(Box::new(first));
        }
        let mut coroutines: Vec<Option<Coroutine>> = Vec::new();
        loop {
            let mut state = self.state();
            for (actor, work) in std::mem::take(&mut state.fresh) {
                coroutines.resize_with(coroutines.len().max(actor + 1), || None);
                coroutines[actor] = Some(coroutine(work));
            }
            let Some(next) = state.next() else { return };
            drop(state);
            let Some(coroutine) = coroutines[next].as_mut() else { continue };
            coroutine.resume();
            if coroutine.is_done() {
                coroutines[next] = None;
                let mut state = self.state();
                state.actors[next].over = true;
                if next == 0 {
                    state.free = true;
                }
                let now = state.now;
                let waiting = state.actors[next].joins;
                waiting.into_iter().for_each(|other| state.wake(other, now));
                if state.free {
                    // What is stuck looks again.
                    (0..state.actors.len()).for_each(|actor| state.wake(actor, now));
                }
            }
        }
    }

    /// Gives the turn back until a time, or until woken where it `sleeps`; `idle` where that time is no event.
    fn block(&self, at: u64, sleeps: bool, idle: bool) {
        if !generator::is_generator() {
            return;
        }
        {
            let mut state = self.state();
            let actor = state.now_acts;
            let actor = &mut state.actors[actor];
            (actor.at, actor.sleeps, actor.idle, actor.woken) = (at, sleeps, idle, false);
        }
        #[allow(deprecated, reason = "the other way to yield needs a handle that the executor's code has not")]
        generator::yield_with(());
    }

    /// Lets others go first, perhaps.
    pub fn pass(&self) {
        let late = {
            let mut state = self.state();
            match state.dice.below(16) {
                0 if state.plan.late && !state.calm && state.dice.below(8) == 0 => {
                    state.counts.late += 1;
                    Some(state.dice.below(2_000_000) as u64)
                }
                0..4 => Some(state.dice.below(300) as u64),
                _ => None,
            }
        };
        if let Some(late) = late {
            self.wait(late);
        }
    }

    /// Waits for so many nanoseconds.
    pub fn wait(&self, nanos: u64) {
        let now = self.state().now;
        self.block(now.saturating_add(nanos), false, false);
    }

    /// Waits until somebody wakes it, or until a time; `idle` where nothing happens then.
    pub fn sleep(&self, until: u64, idle: bool) {
        self.block(until, true, idle);
        let mut state = self.state();
        let me = state.now_acts;
        state.actors[me].overslept = idle && !state.actors[me].woken;
    }

    /// Does not come back before it is let go, or before `asked` says so.
    pub fn stick(&self, asked: impl Fn() -> bool) {
        self.state().holds = true;
        while !self.state().free && !asked() {
            // From time to time it looks whether it was asked.
            let now = self.state().now;
            self.block(now + 1_000_000, true, true);
        }
    }

    pub fn me(&self) -> usize {
        self.state().now_acts
    }

    /// Wakes one who sleeps.
    pub fn wake(&self, actor: usize) {
        let mut state = self.state();
        let now = state.now;
        state.wake(actor, now);
    }

    pub fn wrong(&self, what: impl Into<String>) {
        self.state().wrong.push(what.into());
    }
}

fn coroutine(work: Work) -> Coroutine {
    #[allow(deprecated, reason = "as for yielding")]
    generator::Gn::new_opt(STACK, work)
}

impl State {
    fn enlist(&mut self, work: Work) -> usize {
        let urgency = self.dice.next();
        self.actors.push(Actor {
            at: self.now,
            sleeps: false,
            idle: false,
            woken: false,
            overslept: false,
            over: false,
            joins: None,
            urgency,
        });
        self.fresh.push((self.actors.len() - 1, work));
        self.actors.len() - 1
    }

    /// A run begins: what was slept through before is not of it.
    pub fn begin_run(&mut self) {
        self.actors.iter_mut().for_each(|actor| actor.overslept = false);
        self.watch.run(&mut self.wrong);
    }

    fn wake(&mut self, actor: usize, now: u64) {
        let actor = &mut self.actors[actor];
        if actor.sleeps && !actor.over {
            (actor.at, actor.sleeps, actor.woken) = (actor.at.min(now), false, true);
        }
    }

    /// Who acts next; nobody where all have ended.
    fn next(&mut self) -> Option<usize> {
        let waiting = || self.actors.iter().filter(|actor| !actor.over);
        let first = waiting().map(|actor| actor.at).min()?;
        if first > self.now {
            if waiting().all(|actor| actor.idle) && !self.holds {
                self.wrong.push(format!("at {} ns everybody sleeps, and nobody is there to wake anybody", self.now));
                self.holds = true;
            }
            self.now = first;
            if self.now > LONGEST && !self.free {
                self.wrong.push("there is no end".into());
                self.free = true;
            }
        }
        let may = |actor: &Actor| !actor.over && actor.at <= self.now;
        let count = self.actors.iter().filter(|actor| may(actor)).count();
        let chosen = if self.plan.by_urgency {
            let most = (0..self.actors.len()).filter(|a| may(&self.actors[*a])).max_by_key(|a| self.actors[*a].urgency);
            if self.dice.below(12) == 0
                && let Some(actor) = most
            {
                self.actors[actor].urgency = self.dice.next();
            }
            most
        } else {
            let place = self.dice.below(count);
            (0..self.actors.len()).filter(|a| may(&self.actors[*a])).nth(place)
        }?;
        self.now_acts = chosen;
        (self.actors[chosen].sleeps, self.actors[chosen].idle) = (false, false);
        self.counts.turns += 1;
        self.trace = (self.trace ^ (chosen as u64) ^ (self.now << 8)).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
        Some(chosen)
    }
}

/// The end of an actor, with what it made.
pub struct Ending<T> {
    actor: usize,
    made: Arc<Mutex<Option<T>>>,
}

impl Host for World {
    type Lock<T: Debug + Send + 'static> = Turnstile<T>;
    type Thread<T: Send + 'static> = Ending<T>;

    fn lock<T: Debug + Send + 'static>(&self, guarded: T, places: usize) -> Turnstile<T> {
        let nudges = Mutex::new((0..places).map(|_| None).collect());
        let places = Mutex::new(vec![Vec::new(); places]);
        let executor = self.state().watch.executor;
        Turnstile { world: self.clone(), value: Mutex::new(guarded), places, nudges, executor }
    }
    fn now(&self) -> u64 {
        self.state().now
    }
    fn pause(&self, time: Duration) {
        self.wait(time.as_nanos() as u64);
    }
    fn spawn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Ending<T> {
        let made = Arc::new(Mutex::new(None));
        let place = made.clone();
        let work = move || *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(work());
        Ending { actor: self.state().enlist(Box::new(work)), made }
    }
    fn join<T: Send + 'static>(&self, thread: Ending<T>, until: u64) -> Option<T> {
        let me = self.me();
        loop {
            {
                let mut state = self.state();
                let (over, now) = (state.actors[thread.actor].over, state.now);
                if over || now > until {
                    return thread.made.lock().unwrap_or_else(PoisonError::into_inner).take();
                }
                state.actors[thread.actor].joins = Some(me);
            }
            self.block(until.saturating_add(1), true, true);
        }
    }
    fn arena(&self, bytes: u64) -> Option<Arena> {
        let arena = Arena::new(bytes)?;
        self.state().watch.adopt(&arena);
        Some(arena)
    }
    fn queue(&self, depth: usize) -> Option<Box<dyn Queue>> {
        Some(Box::new(Disk::new(self.clone(), depth)))
    }
}

/// The lock of a world.
pub struct Turnstile<T> {
    world: World,
    value: Mutex<T>,
    /// By place: who sleeps there.
    places: Mutex<Vec<Vec<usize>>>,
    nudges: Mutex<Vec<Option<Arc<dyn Nudge>>>>,
    executor: u64,
}

impl<T> Debug for Turnstile<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turnstile")
    }
}

impl<T> Turnstile<T> {
    fn places(&self) -> MutexGuard<'_, Vec<Vec<usize>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Monitor<T> for Turnstile<T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        Self: 'a;

    fn lock(&self) -> MutexGuard<'_, T> {
        self.world.pass();
        // Nobody gives the turn back while it has the value.
        self.value.try_lock().expect("the value is free")
    }
    fn sleep<'a>(&'a self, place: usize, guard: MutexGuard<'a, T>, most: Duration) -> MutexGuard<'a, T> {
        drop(guard);
        let me = self.world.me();
        self.places()[place].push(me);
        let now = self.world.state().now;
        self.world.sleep(now.saturating_add(most.as_nanos() as u64), true);
        self.places()[place].retain(|actor| *actor != me);
        self.value.try_lock().expect("the value is free")
    }
    fn wake(&self, place: usize) {
        {
            let mut state = self.world.state();
            let places = self.places();
            let sleepers: Vec<usize> = places[place].iter().copied().filter(|a| state.actors[*a].sleeps).collect();
            if !sleepers.is_empty() {
                let (one, now) = (state.dice.below(sleepers.len()), state.now);
                state.wake(sleepers[one], now);
            }
        }
        let nudge = self.nudges.lock().unwrap_or_else(PoisonError::into_inner)[place].clone();
        nudge.into_iter().for_each(|nudge| nudge.nudge());
    }
    fn nudge_with(&self, place: usize, nudge: Option<Arc<dyn Nudge>>) {
        self.nudges.lock().unwrap_or_else(PoisonError::into_inner)[place] = nudge;
    }
    fn now(&self) -> u64 {
        self.world.state().now
    }
    fn note(&self, moment: Moment) {
        let mut state = self.world.state();
        if self.executor != state.watch.executor {
            return;
        }
        let me = state.now_acts;
        let State { watch, wrong, actors, counts, holds, .. } = &mut *state;
        if moment.turn == Turn::Begins && std::mem::take(&mut actors[me].overslept) && !*holds {
            let name = watch.name(moment);
            wrong.push(format!("`{name}` ({moment:?}) began after a sleep as long as can be: nobody woke its lane"));
        }
        counts.called_off += u64::from(moment.turn == Turn::IsCalledOff);
        watch.note(moment, wrong);
    }
}
