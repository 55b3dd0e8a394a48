//! The hand-off in every order that a few threads can have, up to some switches that nobody asked for.
//!
//! Each lane is a thread that takes, does nothing and is done. What is seen is held against the rules as `ir` states
//! them, found again here plainly. A lane that sleeps for ever is a deadlock, which the explorer reports.

use crate::executor::board::{Graph, Instance};
use crate::executor::hand::{HandOff, Hands, Log, Times};
use crate::executor::host::Monitor;
use crate::executor::table::{Half, Item, Lane, LaneKind, Range, Table, Work};
use berth_ir::program::Class;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// A lock and places to sleep that the explorer knows. Nothing wakes up by itself.
struct Explored {
    hands: loom::sync::Mutex<Hands>,
    lanes: Vec<loom::sync::Condvar>,
    /// Wakes no lane of this number, as a broken one would.
    deaf: Option<usize>,
}

impl Monitor<Hands> for Explored {
    type Guard<'a> = loom::sync::MutexGuard<'a, Hands>;

    fn lock(&self) -> Self::Guard<'_> {
        self.hands.lock().expect("nobody panics")
    }
    fn sleep<'a>(&'a self, lane: usize, guard: Self::Guard<'a>, _: Duration) -> Self::Guard<'a> {
        self.lanes[lane].wait(guard).expect("nobody panics")
    }
    fn wake(&self, lane: usize) {
        if self.deaf != Some(lane) {
            self.lanes[lane].notify_one();
        }
    }
    fn now(&self) -> u64 {
        0
    }
}

/// An instruction: its lane, then what it waits for in this step, and in the last.
type Said = (usize, &'static [usize], &'static [usize]);

/// A program of lanes of these kinds. What the prologue's instructions wait for is in the prologue.
fn table(kinds: &[LaneKind], prologue: &[Said], body: &[Said]) -> Table {
    let item = |half: usize| {
        move |(n, (_, after, before)): (usize, &Said)| Item {
            name: format!("{half}.{n}"),
            work: Work::Move { from: EMPTY, to: EMPTY },
            class: Class::Planned,
            wanted: None,
            after: after.to_vec(),
            after_body: if half == 1 { before.to_vec() } else { Vec::new() },
            after_prologue: Vec::new(),
            bytes: 0,
        }
    };
    let mut halves = [prologue, body].map(|_| Vec::new());
    halves[0] = prologue.iter().enumerate().map(item(0)).collect();
    halves[1] = body.iter().enumerate().map(item(1)).collect();
    // The first of the body waits for all of the prologue.
    if let Some(first) = halves[1].first_mut() {
        first.after_prologue = (0..prologue.len()).collect();
    }
    let lanes = kinds.iter().enumerate().map(|(lane, kind)| {
        let of = |code: &[Said]| (0..code.len()).filter(|i| code[*i].0 == lane).collect();
        Lane { name: format!("lane {lane}"), kind: *kind, items: [of(prologue), of(body)] }
    });
    Table { lanes: lanes.collect(), halves, steps_max: usize::MAX }
}

const EMPTY: Range = Range { arena: 0, offset: 0, bytes: 0 };

/// One end or start that was seen.
type Events = Arc<std::sync::Mutex<Vec<(bool, Instance)>>>;

/// Explores a program of so many steps; how many orders there were.
fn explore(table: Table, steps: usize, deaf: Option<usize>) -> usize {
    let table = Arc::new(table);
    let orders = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = orders.clone();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let graph = Arc::new(Graph::new(&table));
        let hands = Hands::new(&graph, steps, 0, Duration::from_secs(1 << 30), Log::new(steps, 0));
        let lanes = (0..=table.lanes.len()).map(|_| loom::sync::Condvar::new()).collect();
        let monitor = Explored { hands: loom::sync::Mutex::new(hands), lanes, deaf };
        let stop = Arc::new(AtomicBool::new(false));
        let hand = Arc::new(HandOff { monitor, graph, table: table.clone(), stop });
        let events = Events::default();
        let work = |lane: usize| {
            let (hand, events) = (hand.clone(), events.clone());
            move || {
                while let Some((_, instance)) = hand.take(lane) {
                    events.lock().expect("a lock").push((false, instance));
                    loom::thread::yield_now();
                    events.lock().expect("a lock").push((true, instance));
                    hand.done(instance, Times { engine: None, began: 0, ended: 0 }, Ok(()));
                }
            }
        };
        let others: Vec<_> = (1..table.lanes.len()).map(|lane| loom::thread::spawn(work(lane))).collect();
        work(0)();
        hand.await_end(Some(0));
        others.into_iter().for_each(|thread| thread.join().expect("it ends"));
        hold(&table, steps, &events.lock().expect("a lock"));
    });
    orders.load(std::sync::atomic::Ordering::Relaxed)
}

/// Holds what was seen against what must be.
fn hold(table: &Table, steps: usize, events: &[(bool, Instance)]) {
    let at = |end: bool, instance: Instance| events.iter().position(|event| *event == (end, instance));
    let of = |half: Half, step: usize| (0..table.half(half).len()).map(move |index| Instance { half, index, step });
    let all: Vec<Instance> = of(Half::Prologue, 0).chain((1..=steps).flat_map(|s| of(Half::Body, s))).collect();
    assert_eq!(events.len(), 2 * all.len(), "each begins and ends once");
    for one in &all {
        let began = at(false, *one).expect("it began");
        let item = &table.half(one.half)[one.index];
        let mut before: Vec<Instance> = item.after.iter().map(|i| Instance { index: *i, ..*one }).collect();
        if one.half == Half::Body {
            let last = one.step - 1;
            if last == 0 {
                before.extend(item.after_prologue.iter().map(|i| Instance {
                    half: Half::Prologue,
                    index: *i,
                    step: 0,
                }));
            } else {
                before.extend(item.after_body.iter().map(|i| Instance { index: *i, step: last, ..*one }));
                before.push(Instance { step: last, ..*one });
            }
            // All of the step before the last.
            if one.step >= 2 {
                before.extend(all.iter().filter(|other| other.step == one.step - 2));
            }
        }
        for other in before {
            let ended = at(true, other).expect("it ended");
            assert!(ended < began, "{one:?} began before {other:?} had ended: {events:?}");
        }
    }
    // Engines keep to what is written.
    for lane in table.lanes.iter().filter(|lane| lane.kind == LaneKind::Engine) {
        let begun = events.iter().filter(|(end, i)| !end && lane.items[i.half as usize].contains(&i.index));
        let begun: Vec<(usize, usize)> = begun.map(|(_, i)| (i.step, i.index)).collect();
        assert!(begun.is_sorted(), "{begun:?}");
    }
}

use LaneKind::{Caller, Engine, Link};

#[test]
fn copies_beside_an_engine_in_every_order() {
    // A weight comes for each of two tasks, into one place; the caller feeds the first and fetches the last.
    let lanes = [Caller, Engine, Link];
    let body: &[Said] =
        &[(0, &[], &[2]), (2, &[], &[4]), (1, &[0, 1], &[]), (2, &[2], &[]), (1, &[3], &[5]), (0, &[4], &[])];
    let orders = explore(table(&lanes, &[(2, &[], &[])], body), 2, None);
    assert!(orders > 100, "only {orders} orders");
}

#[test]
fn three_steps_of_two_engines_in_every_order() {
    // Two engines hand a value to and fro; nothing of step three begins before all of step one has ended.
    let body: &[Said] = &[(0, &[], &[]), (1, &[0], &[]), (0, &[1], &[])];
    let orders = explore(table(&[Engine, Engine], &[], body), 4, None);
    assert!(orders > 100, "only {orders} orders");
    let apart: &[Said] = &[(0, &[], &[]), (1, &[], &[])];
    explore(table(&[Engine, Engine], &[], apart), 4, None);
}

#[test]
fn links_that_wait_for_nothing_and_lanes_without_work() {
    let lanes = [Caller, Link, Link];
    explore(table(&lanes, &[(1, &[], &[]), (2, &[0], &[])], &[(1, &[], &[]), (2, &[], &[0])]), 3, None);
    explore(table(&lanes, &[(1, &[], &[])], &[]), 2, None);
}

#[test]
#[should_panic(expected = "deadlock")]
fn a_wake_that_gets_lost_is_found() {
    let body: &[Said] = &[(0, &[], &[]), (1, &[0], &[]), (0, &[1], &[])];
    explore(table(&[Engine, Engine], &[], body), 2, Some(1));
}
