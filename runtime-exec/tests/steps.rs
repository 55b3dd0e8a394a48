//! The executor alone: programs by hand, an engine that mixes bytes, every way that copies and engines can meet.

mod common;

use berth_ir::expr::Binding;
use berth_ir::program::{Access, Class, Instruction, Kind, Mode, Program};
use berth_ir::verify::verify;
use berth_runtime_exec::errors::{LoadError, RunError};
use berth_runtime_exec::executor::{CallOff, Caller, Executor, Held, Options, Pace};
use berth_runtime_exec::store::queue::{Disk, Plain};
use common::null::Null;
use common::{Chain, Folder, Keeper, input};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

fn engines(chain: &Chain) -> Vec<Null> {
    (0..chain.engines).map(|_| Null::new(true)).collect()
}

/// Runs a chain some steps, twice, and holds every output against what it must be.
fn check(name: &str, chain: &Chain, with: impl Fn(&mut Options)) {
    check_all(name, chain, &[&with]);
}

/// The same with several options.
fn check_all(name: &str, chain: &Chain, ways: &[&dyn Fn(&mut Options)]) {
    let wanted: Vec<Vec<u8>> = (1..=7).map(|step| chain.output(&input(step))).collect();
    for with in ways {
        check_way(name, chain, with, &wanted);
    }
}

fn check_way(name: &str, chain: &Chain, with: &dyn Fn(&mut Options), wanted: &[Vec<u8>]) {
    let folder = Folder::with(name, chain);
    let mut options = Options::new(&folder.0);
    with(&mut options);
    let mut executor = Executor::load(&chain.program(), &chain.ports(), engines(chain), &options).expect("it loads");
    for _ in 0..2 {
        let mut keeper = Keeper::default();
        executor.run(7, PATIENCE, &mut keeper).expect("it runs");
        assert!(keeper.outputs == wanted, "{name}: {chain:?}");
    }
}

#[test]
fn every_way_of_copies_and_engines_gives_the_bytes() {
    for engines in [1, 2] {
        for through_dram in [false, true] {
            for (bytes, offset, transposed) in
                [(256, 0, false), (4096, 0, false), (3 << 20, 0, false), (1_234_560, 129, false), (2 << 20, 64, true)]
            {
                let chain = Chain { engines, through_dram, bytes, offset, transposed, ..Chain::default() };
                let small = |options: &mut Options| {
                    for link in ["read", "read-dram", "in", "out"] {
                        options.links.insert(link.to_owned(), Pace { chunk: 12_345, depth: 2, held: None });
                    }
                };
                let threads = |options: &mut Options| options.places.disk = Some(Arc::new(Plain));
                check_all("ways", &chain, &[&|_| {}, &small, &threads]);
            }
        }
    }
}

#[test]
fn all_weights_at_once_and_one_after_the_other() {
    for room in [1, 2, 6] {
        check("room", &Chain { tasks: 6, room, bytes: 100_000, ..Chain::default() }, |_| {});
    }
}

#[test]
fn a_program_that_was_proved_for_one_step_runs_one() {
    let chain = Chain::default();
    let folder = Folder::with("once", &chain);
    let mut program = chain.program().into_inner();
    program.header.mode = Mode::Once;
    let program = verify(&common::machine(), program, None).expect("it is safe");
    let mut executor =
        Executor::load(&program, &chain.ports(), engines(&chain), &Options::new(&folder.0)).expect("it loads");
    for steps in [1, 2, 1] {
        let mut keeper = Keeper::default();
        let ended = executor.run(steps, PATIENCE, &mut keeper);
        match steps {
            1 => assert_eq!(keeper.outputs, [chain.output(&input(1))]),
            _ => assert!(matches!(ended, Err(RunError::Once { steps: 2 })) && keeper.outputs.is_empty(), "{ended:?}"),
        }
    }
}

/// Keeps the size of `n` that each feed and fetch was told.
#[derive(Default)]
struct Sizes(Vec<(usize, u64)>);

impl Caller for Sizes {
    fn feed(&mut self, _: &str, step: usize, _: &mut [u8], dims: &Binding, _: bool) -> Result<(), String> {
        self.0.push((step, dims["n"]));
        Ok(())
    }
    fn fetch(&mut self, _: &str, step: usize, _: &[u8], dims: &Binding) -> Result<(), String> {
        self.0.push((step, dims["n"]));
        Ok(())
    }
}

#[test]
fn a_dim_that_grows_has_the_size_of_its_step_and_stays_in_its_range() {
    let chain = Chain { growth: Some((2, 12)), ..Chain::default() };
    let folder = Folder::with("growth", &chain);
    let options = Options { dims: Binding::from([("n".to_owned(), 3)]), ..Options::new(&folder.0) };
    let mut executor = Executor::load(&chain.program(), &chain.ports(), engines(&chain), &options).expect("it loads");
    // From three on there are five steps until twelve is left; each run starts anew.
    for steps in [5, 6, 1, 4] {
        let mut sizes = Sizes::default();
        let ended = executor.run(steps, PATIENCE, &mut sizes);
        if steps == 6 {
            let refused = matches!(&ended, Err(RunError::Room { steps: 6, dim, room: 5 }) if dim == "n");
            assert!(refused && sizes.0.is_empty(), "{ended:?}");
            continue;
        }
        ended.expect("it runs");
        sizes.0.sort_unstable();
        let wanted: Vec<(usize, u64)> = (1..=steps).flat_map(|step| [(step, 1 + 2 * step as u64); 2]).collect();
        assert_eq!(sizes.0, wanted);
    }
}

/// Keeps in which steps a feed found what the one before wrote; writes the same each time, where it must.
#[derive(Default)]
struct Sparing {
    kept: Vec<usize>,
    keeper: Keeper,
}

impl Caller for Sparing {
    fn feed(&mut self, _: &str, step: usize, to: &mut [u8], _: &Binding, kept: bool) -> Result<(), String> {
        match kept {
            true => self.kept.push(step),
            false => to.copy_from_slice(&input(1)),
        }
        Ok(())
    }
    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], dims: &Binding) -> Result<(), String> {
        self.keeper.fetch(tensor, step, from, dims)
    }
}

#[test]
fn an_input_that_is_the_same_is_there_where_nothing_else_is_written_in_its_place() {
    let chain = Chain { resident: true, room: 4, ..Chain::default() };
    let folder = Folder::with("kept", &chain);
    let alone = chain.program().into_inner();
    let mut shared = alone.clone();
    let place = |name: &str| alone.berths.iter().position(|berth| berth.name == name).expect("a berth");
    shared.berths[place("y")].offset = alone.berths[place("x")].offset;
    for instruction in &mut shared.bodies[0].code {
        if let Instruction::Feed { after, .. } = instruction {
            *after = vec!["fetch y~1".parse().expect("a name")];
        }
    }
    for (program, kept) in [(alone, vec![2, 3, 4, 5]), (shared, Vec::new())] {
        let program = verify(&common::machine(), program, None).expect("it is safe");
        let mut executor =
            Executor::load(&program, &chain.ports(), engines(&chain), &Options::new(&folder.0)).expect("it loads");
        // What a run left is nothing that the next counts on.
        for _ in 0..2 {
            let mut caller = Sparing::default();
            executor.run(5, PATIENCE, &mut caller).expect("it runs");
            assert_eq!(caller.kept, kept);
            assert!(caller.keeper.outputs == vec![chain.output(&input(1)); 5]);
        }
    }
}

/// A chain whose last task writes what its first reads in the next step.
fn circle(chain: &Chain) -> Program {
    let mut program = chain.program().into_inner();
    let last = chain.tasks - 1;
    program.tensors.retain(|tensor| tensor.name != "y");
    program.berths.retain(|berth| berth.name != "y");
    program.tensors.iter_mut().filter(|t| t.name == "x").for_each(|t| t.kind = Kind::State);
    program.berths.iter_mut().filter(|b| b.name == "x").for_each(|b| b.until.clear());
    program.tasks[last].accesses[2] = Access::Write("x".to_owned());
    let step = &mut program.bodies[0].code;
    let feeds = step.iter().position(|i| matches!(i, Instruction::Feed { .. })).expect("it feeds");
    let Instruction::Feed { name, berth, .. } = step.remove(feeds) else { unreachable!("it was one") };
    program.prologue.push(Instruction::Feed { name, berth, after: Vec::new() });
    for instruction in step {
        match instruction {
            Instruction::Run { berths, after, .. } => {
                berths.iter_mut().filter(|berth| *berth == "y").for_each(|berth| *berth = "x".to_owned());
                after.iter_mut().filter(|after| after.name == "feed x").for_each(|after| after.steps = 1);
            }
            Instruction::Fetch { berth, .. } => *berth = "x".to_owned(),
            _ => {}
        }
    }
    program
}

#[test]
fn a_state_is_fed_once_and_each_step_starts_where_the_last_ended() {
    for engines_of in [1, 2] {
        let chain = Chain { resident: true, room: 4, engines: engines_of, ..Chain::default() };
        let folder = Folder::with("circle", &chain);
        let program = verify(&common::machine(), circle(&chain), None).expect("it is safe");
        let mut executor =
            Executor::load(&program, &chain.ports(), engines(&chain), &Options::new(&folder.0)).expect("it loads");
        // The first feed is the prologue's, the step before the first; a second run starts anew.
        let mut wanted = vec![chain.output(&input(0))];
        (1..9).for_each(|step| wanted.push(chain.output(&wanted[step - 1])));
        for _ in 0..2 {
            let mut keeper = Keeper::default();
            executor.run(9, PATIENCE, &mut keeper).expect("it runs");
            assert!(keeper.outputs == wanted, "{engines_of} engines");
        }
    }
}

#[test]
fn an_instruction_waits_for_the_prologues_of_the_same_name() {
    let chain = Chain { through_dram: true, ..Chain::default() };
    let folder = Folder::with("names", &chain);
    let mut program = chain.program().into_inner();
    // The prologue's copy to dram is called as the body's from there, which says nothing of it.
    for instruction in &mut program.prologue {
        if let Instruction::Copy { name, .. } = instruction {
            *name = name.replace("fetch", "load");
        }
    }
    for instruction in &mut program.bodies[0].code {
        if let Instruction::Copy { after, .. } = instruction {
            after.retain(|after| !after.name.starts_with("fetch"));
        }
    }
    let program = verify(&common::machine(), program, None).expect("it is safe");
    let mut options = Options::new(&folder.0);
    let held = Held { rate: 1 << 30, latency: 20_000_000, group: 0 };
    options.links.insert("read-dram".to_owned(), Pace { held: Some(held), ..Pace::default() });
    let mut executor = Executor::load(&program, &chain.ports(), engines(&chain), &options).expect("it loads");
    let mut keeper = Keeper::default();
    executor.run(2, PATIENCE, &mut keeper).expect("it runs");
    assert!(keeper.outputs == [1, 2].map(|step| chain.output(&input(step))), "weights are there before they are moved");
}

#[test]
fn as_many_engines_as_the_program_has() {
    let chain = Chain { engines: 2, ..Chain::default() };
    let folder = Folder::with("engines", &chain);
    let program = chain.program();
    let names = berth_runtime_exec::executor::engines(&program).expect("they are found");
    assert_eq!(names, ["gpu", "cores"]);
    for given in [0, 1, 3] {
        let engines = (0..given).map(|_| Null::new(true)).collect();
        let loaded = Executor::load(&program, &chain.ports(), engines, &Options::new(&folder.0));
        assert!(matches!(loaded, Err(LoadError::Engines { wanted: 2, .. })), "{given} engines");
    }
}

#[test]
fn records_are_the_first_and_no_more_than_asked_for() {
    let chain = Chain { engines: 2, ..Chain::default() };
    let folder = Folder::with("records", &chain);
    for records in [0, 5, 1000] {
        let options = Options { records, ..Options::new(&folder.0) };
        let mut executor =
            Executor::load(&chain.program(), &chain.ports(), engines(&chain), &options).expect("it loads");
        let ran = executor.run(3, PATIENCE, &mut Keeper::default()).expect("it runs");
        // A feed, a fetch, four loads and four tasks a step.
        assert_eq!(ran.seen.len(), records.min(30));
        assert_eq!(ran.engines, ["gpu", "cores"]);
        assert_eq!(ran.steps.len(), 4);
        assert!(ran.steps.windows(2).all(|pair| pair[0].end <= pair[1].end));
        if records == 1000 {
            let end = |step: usize| ran.seen.iter().filter(|s| s.step == step).map(|s| s.end).max();
            let busy = |lane: &str, step: usize| {
                let tasks = ran.seen.iter().filter(|s| s.step == step && s.lane == lane);
                tasks.map(|s| s.end - s.start).sum::<u64>()
            };
            for step in 1..=3 {
                assert_eq!(end(step), Some(ran.steps[step].end));
                assert_eq!(ran.steps[step].busy, [busy("gpu", step), busy("cores", step)]);
            }
        }
    }
}

/// A disk that lets so many reads through, and keeps the others waiting.
#[derive(Debug, Default)]
struct Gate {
    allowed: Mutex<u64>,
    changed: Condvar,
    /// Where each read was that has come.
    places: Mutex<Vec<u64>>,
}

impl Gate {
    fn allow(&self, reads: u64) {
        *self.allowed.lock().expect("a lock") = reads;
        self.changed.notify_all();
    }

    fn places(&self) -> Vec<u64> {
        self.places.lock().expect("a lock").clone()
    }

    /// Waits until so many reads have come.
    fn await_reads(&self, many: usize) {
        while self.places().len() < many {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Disk for Gate {
    fn read_at(&self, file: &File, at: u64, to: &mut [u8]) -> io::Result<usize> {
        let mut places = self.places.lock().expect("a lock");
        places.push(at);
        let read = places.len() as u64;
        drop(places);
        let mut allowed = self.allowed.lock().expect("a lock");
        while *allowed < read {
            allowed = self.changed.wait(allowed).expect("a lock");
        }
        drop(allowed);
        Plain.read_at(file, at, to)
    }
}

fn gated(name: &str, chain: &Chain, pace: Pace) -> (Folder, Arc<Gate>, Executor<Null>) {
    let folder = Folder::with(name, chain);
    let gate = Arc::new(Gate::default());
    let mut options = Options::new(&folder.0);
    options.places.disk = Some(gate.clone());
    options.links = BTreeMap::from([("read".to_owned(), pace)]);
    let executor = Executor::load(&chain.program(), &chain.ports(), engines(chain), &options).expect("it loads");
    (folder, gate, executor)
}

#[test]
fn what_is_wanted_sooner_waits_for_one_chunk() {
    // All loads may begin at once; the last task's is written as demand, so it goes ahead at the next chunk.
    let class = |n| if n == 3 { Class::Demand } else { Class::Speculative };
    let chain = Chain { room: 4, bytes: 1 << 20, class, ..Chain::default() };
    let (_folder, gate, mut executor) = gated("sooner", &chain, Pace { chunk: 64 << 10, depth: 1, held: None });
    gate.allow(u64::MAX);
    let mut keeper = Keeper::default();
    executor.run(1, PATIENCE, &mut keeper).expect("it runs");
    assert_eq!(keeper.outputs, [chain.output(&input(1))]);
    let places = gate.places();
    let of = |n: u64| places.iter().position(|at| at / (1 << 20) == n).expect("it was read");
    assert!(of(3) < of(0) && of(0) < of(1) && of(1) < of(2), "{places:?}");
    // Copies of one class go in the order in which they are wanted, and each is read in order.
    let mut sorted = places.clone();
    sorted.sort_unstable();
    assert_eq!(sorted.len(), 64, "each chunk once");
    sorted.dedup();
    assert_eq!(sorted.len(), 64, "each chunk once");
}

fn first_is_planned(n: usize) -> Class {
    if n == 0 { Class::Planned } else { Class::Speculative }
}

#[test]
fn a_speculative_copy_that_waits_is_called_off_at_once_and_comes_back_when_it_is_needed() {
    let chain = Chain { room: 4, bytes: 1 << 20, class: first_is_planned, ..Chain::default() };
    let pace = Pace { chunk: 256 << 10, depth: 1, held: None };
    let (_folder, gate, mut executor) = gated("call off", &chain, pace);
    let caution = executor.caution();
    assert_eq!(caution.call_off("load w0"), CallOff::Refused, "a planned one");
    assert_eq!(caution.call_off("load none"), CallOff::Refused);
    assert_eq!(caution.call_off("load w3"), CallOff::NotUnderWay, "there is no run");
    let other = gate.clone();
    let asker = std::thread::spawn(move || {
        // The first chunk of the first copy is under way; the other copies are ready, and wait.
        other.await_reads(1);
        let answers = ["load w1", "load w1", "load w3"].map(|copy| caution.call_off(copy));
        other.allow(u64::MAX);
        answers
    });
    let mut keeper = Keeper::default();
    executor.run(1, PATIENCE, &mut keeper).expect("it runs");
    assert_eq!(asker.join().expect("it ends"), [CallOff::Released, CallOff::NotUnderWay, CallOff::Released]);
    assert_eq!(keeper.outputs, [chain.output(&input(1))], "what was called off came back");
    // What had been called off came when its task was next, so the third weight went before both.
    let first = |n: u64| gate.places().iter().position(|at| at / (1 << 20) == n).expect("it was read");
    assert!(first(0) < first(2) && first(2) < first(3), "{:?}", gate.places());
}

#[test]
fn a_copy_under_way_is_released_when_its_last_chunk_has_landed_and_begins_anew() {
    let chain = Chain { tasks: 2, room: 2, bytes: 1 << 20, class: first_is_planned, ..Chain::default() };
    let pace = Pace { chunk: 256 << 10, depth: 1, held: None };
    let (_folder, gate, mut executor) = gated("landed", &chain, pace);
    let (caution, other) = (executor.caution(), gate.clone());
    // The first weight has four chunks; the fifth read is the second weight's first, and stays under way.
    gate.allow(4);
    let asker = std::thread::spawn(move || {
        other.await_reads(5);
        let answered = Arc::new(AtomicBool::new(false));
        let seen = answered.clone();
        let asked = std::thread::spawn(move || {
            let answer = caution.call_off("load w1");
            seen.store(true, Ordering::SeqCst);
            answer
        });
        std::thread::sleep(Duration::from_millis(200));
        let before = answered.load(Ordering::SeqCst);
        other.allow(u64::MAX);
        (before, asked.join().expect("it ends"))
    });
    let mut keeper = Keeper::default();
    executor.run(1, PATIENCE, &mut keeper).expect("it runs");
    let (before, answer) = asker.join().expect("it ends");
    assert!(!before, "answered with a read under way");
    assert_eq!(keeper.outputs, [chain.output(&input(1))]);
    // Where the asker was so late that all had come, there was nothing to call off.
    let begun = gate.places().iter().filter(|at| **at == 1 << 20).count();
    assert_eq!(answer, if begun == 2 { CallOff::Released } else { CallOff::NotUnderWay }, "{:?}", gate.places());
}

#[test]
fn a_copy_that_came_back_because_it_is_needed_is_not_called_off_again() {
    let chain = Chain { tasks: 2, room: 2, bytes: 1 << 20, class: first_is_planned, ..Chain::default() };
    let pace = Pace { chunk: 256 << 10, depth: 1, held: None };
    let (_folder, gate, mut executor) = gated("again", &chain, pace);
    let (caution, other) = (executor.caution(), gate.clone());
    gate.allow(4);
    let asker = std::thread::spawn(move || {
        other.await_reads(5);
        let first = caution.clone();
        let asked = std::thread::spawn(move || first.call_off("load w1"));
        let mut allowed = 4;
        while !asked.is_finished() {
            std::thread::sleep(Duration::from_millis(50));
            allowed += 1;
            other.allow(allowed);
        }
        // The second task waits for it, so it is under way again, or ready.
        let answers = [asked.join().expect("it ends"), caution.call_off("load w1")];
        other.allow(u64::MAX);
        answers
    });
    let mut keeper = Keeper::default();
    executor.run(1, PATIENCE, &mut keeper).expect("it runs");
    assert_eq!(asker.join().expect("it ends"), [CallOff::Released, CallOff::Refused]);
    assert_eq!(keeper.outputs, [chain.output(&input(1))]);
}
