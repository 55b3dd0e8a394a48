//! Faults by seed: copies that are late, short, failed, reordered, called off; slow links; engines that fail or do not
//! come back; callers that refuse; stops and limits.
//!
//! A run ends in the right bytes, or in an error that the fault calls for and that says where. Memory is the arenas and
//! the buffers of links, no byte around an arena changes, and all of it comes back. The next run is clean.

mod common;

use berth_ir::expr::Binding;
use berth_ir::program::{Class, Program};
use berth_ir::verify::Verified;
use berth_runtime_exec::errors::RunError;
use berth_runtime_exec::executor::{CallOff, Caller, Caution, Executor, Held, Options, Pace, Stop, TaskPorts};
use berth_runtime_exec::pack::{Pack, write};
use berth_runtime_exec::store::StoreError;
use common::null::Null;
use common::rough::{Blow, Dice, Ill, Plan, World};
use common::{Chain, Folder, Keeper, fence, input};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

#[global_allocator]
static FENCED: fence::Fenced = fence::Fenced;

/// Seeds of the normal run.
const SEEDS: u64 = 300;
/// A limit that no run comes to that nothing holds up.
const LONG: Duration = Duration::from_secs(40);
/// One for runs that something holds up.
const SHORT: Duration = Duration::from_millis(40);
/// Bytes that a run may use beside its arenas and the buffers of its links: counters, records, threads.
const BESIDE: usize = 128 << 10;
/// Bytes that threads of the test itself may come to hold.
const OTHERS: usize = 1 << 10;
/// A bounce buffer of a link, and one that stays in a cache.
const BUFFER: usize = (1 << 20) + 2 * 4096;

/// What one seed is about.
struct Case {
    chain: Chain,
    program: Verified<Program>,
    ports: Vec<TaskPorts>,
    options: Options,
    plan: Plan,
    steps: usize,
    /// The step in which the caller refuses, and whether it is asked for an input then.
    refuses: Option<(usize, bool)>,
    /// Microseconds after which somebody stops the run.
    stop: Option<u64>,
    /// Copies that somebody calls off, again and again.
    off: Vec<String>,
    wanted: Vec<Vec<u8>>,
}

fn mixed(n: usize) -> Class {
    [Class::Planned, Class::Speculative, Class::Demand, Class::Speculative][n % 4]
}

impl Case {
    fn new(seed: u64, folder: &Folder) -> Case {
        let mut dice = Dice::new(seed);
        let (tasks, room) = dice.pick(&[(1, 1), (2, 1), (3, 3), (4, 2), (6, 2), (6, 3), (8, 4)]);
        let place = dice.below(5);
        let classes: [fn(usize) -> Class; 3] = [|_| Class::Planned, |_| Class::Speculative, mixed];
        let chain = Chain {
            tasks,
            room: if place == 0 { tasks } else { room },
            bytes: dice.pick(&[256, 4096, 10_000, 40_000, 65_536, 150_000]),
            offset: dice.pick(&[0, 77, 4096]),
            transposed: dice.once_in(3),
            resident: place == 0,
            through_dram: place == 1,
            engines: if dice.once_in(2) && tasks > 1 { 2 } else { 1 },
            class: classes[dice.below(3) as usize],
            growth: None,
        };
        let steps = 1 + dice.below(4) as usize;
        let packed = dice.once_in(8);
        // The kernel's queue reads from the disk that there is.
        let kernel = dice.once_in(5);
        let reads = (tasks * steps) as u64 * (1 + chain.bytes / 20_000);
        let blows = [Blow::Fails, Blow::Fails, Blow::Dry, if packed { Blow::Flips } else { Blow::Fails }];
        let mut blow = if packed && dice.once_in(2) { Blow::Flips } else { dice.pick(&blows) };
        if dice.once_in(10) {
            blow = Blow::Stuck;
        }
        let ill = dice.pick(&[Ill::Fails, Ill::Fails, Ill::Fails, Ill::Spills, Ill::Waits, Ill::Deaf]);
        let mut rough = |many| !kernel && dice.once_in(many);
        let (short, reordered, struck) = (rough(3), rough(3), rough(3));
        let plan = Plan {
            seed,
            late: dice.once_in(3),
            short,
            reordered,
            disk: struck.then_some((dice.below(reads), blow)),
            engine: dice.once_in(6).then_some((dice.below((tasks * steps) as u64), ill)),
        };
        let mut options = Options { records: dice.pick(&[0, 7, 100]), ..Options::new(&folder.0) };
        for link in ["read", "read-dram", "in"] {
            let (rate, latency) = (100_000_000 + dice.below(900_000_000), dice.below(1_000_000));
            let held = dice.once_in(4).then_some(Held { rate, latency, group: dice.below(2) as usize });
            let (chunk, depth) = (dice.pick(&[4096, 16 << 10, 1 << 20]), dice.pick(&[1, 2, 3, 4]));
            options.links.insert(link.to_owned(), Pace { chunk, depth, held });
        }
        std::fs::write(folder.0.join("w.bin"), chain.file()).expect("it writes");
        if packed {
            let path = folder.0.join("w.berth");
            write(&options.places, &chain.wanted(), &path, &mut |_, _| {}).expect("it packs");
            options.places.pack = Some(Arc::new(Pack::open(&path).expect("it opens")));
        }
        if !kernel {
            options.places.disk = Some(World::new(Plan::default()));
        }
        let off = (0..tasks).map(|n| format!("load w{n}"));
        Case {
            program: chain.program(),
            ports: chain.ports(),
            options,
            plan,
            steps,
            refuses: dice.once_in(12).then(|| (1 + dice.below(steps as u64) as usize, dice.once_in(2))),
            stop: dice.once_in(5).then(|| dice.below(12_000)),
            off: if dice.once_in(2) { off.collect() } else { Vec::new() },
            wanted: (1..=steps).map(|step| chain.output(&input(step))).collect(),
            chain,
        }
    }

    fn load(&self, world: &Arc<World>) -> Executor<Null> {
        let mut options = self.options.clone();
        options.places.disk = options.places.disk.map(|_| world.clone() as _);
        let engines = (0..self.chain.engines).map(|_| world.engine()).collect();
        Executor::load(&self.program, &self.ports, engines, &options).expect("it loads")
    }

    /// Bytes that the program may have in memory.
    fn cap(&self) -> usize {
        let arenas: u64 = self.program.arenas.iter().map(|arena| arena.bytes).sum();
        let buffers: usize = self.options.links.values().map(|pace| (pace.depth + 1) * BUFFER).sum();
        arenas as usize + buffers + BESIDE
    }

    /// Whether an error is one that this case calls for.
    fn calls_for(&self, error: &RunError, world: &World) -> bool {
        let said = error.to_string();
        let blow = self.plan.disk.map(|(_, blow)| blow).filter(|_| world.happened.blows.load(Ordering::SeqCst) > 0);
        match error {
            RunError::Store { source: StoreError::Checksum { .. }, .. } => blow == Some(Blow::Flips),
            RunError::Store { source: StoreError::Io { .. }, instruction, .. } => {
                let why = match blow {
                    Some(Blow::Fails) => "Input/output error",
                    Some(Blow::Dry) => "gives no more bytes",
                    _ => return false,
                };
                said.contains(why) && said.contains(instruction.as_str())
            }
            RunError::Engine { instruction, .. } => {
                let ill = self.plan.engine.is_some_and(|(_, ill)| matches!(ill, Ill::Fails | Ill::Spills));
                ill && world.happened.ills.load(Ordering::SeqCst) > 0 && said.contains(instruction.as_str())
            }
            RunError::Caller { step, problem, .. } => {
                self.refuses.is_some_and(|(at, _)| at == *step) && said.contains(problem.as_str())
            }
            RunError::Stopped { .. } => self.stop.is_some(),
            RunError::Stalled { waiting, .. } => self.plan.holds() && !waiting.is_empty(),
            _ => false,
        }
    }
}

/// The caller of a case.
struct Side<'c> {
    keeper: Keeper,
    refuses: &'c Option<(usize, bool)>,
}

impl Caller for Side<'_> {
    fn feed(&mut self, tensor: &str, step: usize, to: &mut [u8], dims: &Binding, kept: bool) -> Result<(), String> {
        match self.refuses {
            Some((at, true)) if *at == step => Err(format!("no input for step {step}")),
            _ => self.keeper.feed(tensor, step, to, dims, kept),
        }
    }
    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], dims: &Binding) -> Result<(), String> {
        match self.refuses {
            Some((at, false)) if *at == step => Err(format!("no room for step {step}")),
            _ => self.keeper.fetch(tensor, step, from, dims),
        }
    }
}

/// How a case went.
#[derive(Clone, Copy, Default)]
struct Outcome {
    /// An error's kind; nothing where the outputs came.
    kind: Option<&'static str>,
    /// Late, short, overtaken, blows, ills, called off, stopped too late, executors lost.
    happened: [u64; 8],
}

fn kind(error: &RunError) -> &'static str {
    match error {
        RunError::Store { source: StoreError::Checksum { .. }, .. } => "checksum",
        RunError::Store { .. } => "disk",
        RunError::Engine { .. } => "engine",
        RunError::Caller { .. } => "caller",
        RunError::Stopped { .. } => "stopped",
        RunError::Stalled { .. } => "limit",
        RunError::Lost | RunError::Unusable | RunError::Once { .. } | RunError::Room { .. } => "lost",
    }
}

/// Runs without faults: all outputs, and the right ones.
fn run_clean(case: &Case, executor: &mut Executor<Null>) -> Result<(), RunError> {
    let mut keeper = Keeper::default();
    executor.run(case.steps, LONG, &mut keeper)?;
    assert!(keeper.outputs == case.wanted, "a clean run brings other bytes");
    Ok(())
}

fn call_off(case: &Case, caution: Caution, over: &Arc<AtomicBool>, seed: u64) -> Option<JoinHandle<u64>> {
    let (off, over, mut dice) = (case.off.clone(), over.clone(), Dice::new(!seed));
    let ask = move || {
        let mut released = 0;
        while !over.load(Ordering::SeqCst) {
            let copy = &off[dice.below(off.len() as u64) as usize];
            released += u64::from(caution.call_off(copy) == CallOff::Released);
            std::thread::sleep(Duration::from_micros(dice.below(300)));
        }
        released
    };
    (!case.off.is_empty()).then(|| std::thread::spawn(ask))
}

fn stop_after(stop: Stop, micros: u64) -> JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_micros(micros));
        stop.stop();
    })
}

fn trial(case: &Case) -> Outcome {
    let before = fence::live();
    let world = World::new(case.plan.clone());
    let mut executor = case.load(&world);
    let loaded = fence::live();
    assert!(loaded - before <= case.cap(), "{} bytes, {} allowed", loaded - before, case.cap());
    let mut side = Side { keeper: Keeper::default(), refuses: &case.refuses };
    let over = Arc::new(AtomicBool::new(false));
    let asker = call_off(case, executor.caution(), &over, case.plan.seed);
    let stopper = case.stop.map(|micros| stop_after(executor.stop(), micros));
    fence::most();
    let limit = if case.plan.holds() { SHORT } else { LONG };
    let ended = executor.run(case.steps, limit, &mut side).map(drop);
    let grown = fence::most() - loaded;
    assert!(grown <= BESIDE, "the run took {grown} bytes");
    over.store(true, Ordering::SeqCst);
    let called_off = asker.map_or(0, |asker| asker.join().expect("it ends"));
    stopper.into_iter().for_each(|stopper| stopper.join().expect("it ends"));
    // What came is right, however it ended.
    let outputs = &side.keeper.outputs;
    assert!(outputs.iter().zip(&case.wanted).all(|(got, wanted)| got == wanted), "wrong bytes: {ended:?}");
    match &ended {
        Ok(()) => assert_eq!(outputs.len(), case.steps),
        Err(error) => assert!(case.calls_for(error, &world), "nothing calls for {error:?}"),
    }
    world.calm();
    let mut again = run_clean(case, &mut executor);
    let late_stop = case.stop.is_some() && !matches!(ended, Err(RunError::Stopped { .. }));
    let stopped_late = late_stop && matches!(again, Err(RunError::Stopped { .. }));
    if stopped_late {
        again = run_clean(case, &mut executor);
    }
    let lost = matches!(again, Err(RunError::Unusable));
    let sticks = case.plan.disk.is_some_and(|(_, blow)| blow == Blow::Stuck)
        || case.plan.engine.is_some_and(|(_, ill)| ill == Ill::Deaf);
    assert!(again.is_ok() || lost && ended.is_err() && sticks, "after {ended:?} the next run says {again:?}");
    if lost || case.plan.seed.is_multiple_of(4) {
        // While what is stuck of the last one is so still.
        run_clean(case, &mut case.load(&world)).expect("a fresh one runs");
    }
    world.let_go();
    let h = &world.happened;
    let [late, short, overtaken] = [&h.late, &h.short, &h.overtaken].map(|n| n.load(Ordering::SeqCst));
    let [blows, ills] = [&h.blows, &h.ills].map(|n| n.load(Ordering::SeqCst));
    let happened = [late, short, overtaken, blows, ills, called_off, stopped_late.into(), lost.into()];
    Outcome { kind: ended.err().as_ref().map(kind), happened }
}

/// Says the seed when its case fails.
struct Says(u64, String);

impl Drop for Says {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {} (alone: BERTH_SEED={}): {}", self.0, self.0, self.1);
        }
    }
}

/// Ends the process where a case does not come back.
fn watch(now: &Arc<AtomicU64>) {
    let now = now.clone();
    std::thread::spawn(move || {
        let (mut last, mut seconds) = (0, 0);
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let seed = now.load(Ordering::SeqCst);
            (last, seconds) = (seed, if seed == last { seconds + 1 } else { 0 });
            if seconds > 90 {
                // Past what the test harness keeps for itself.
                let _ = writeln!(std::io::stderr(), "seed {seed} does not come back");
                std::process::abort();
            }
        }
    });
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

#[test]
fn whatever_goes_wrong_ends_in_the_right_bytes_or_in_its_error() {
    for behind in [false, true] {
        let before = fence::broken();
        fence::trespass(behind);
        assert_eq!(fence::broken(), before + 1, "a broken fence is seen");
    }
    let broken = fence::broken();
    let folder = Folder::new("seeded");
    let now = Arc::new(AtomicU64::new(0));
    watch(&now);
    let (first, many) = (number("BERTH_SEED"), number("BERTH_SEEDS").unwrap_or(SEEDS));
    let seeds = first.map_or(1..many + 1, |seed| seed..seed + 1);
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut happened = [0; 8];
    let start = fence::live();
    for seed in seeds {
        now.store(seed, Ordering::SeqCst);
        let case = Case::new(seed, &folder);
        let what = (&case.chain, &case.plan, &case.options.links, case.steps, case.refuses, case.stop);
        let says = Says(seed, format!("{what:?}"));
        let live = fence::live();
        let outcome = trial(&case);
        // What was stuck gives its memory back when it comes back; the watch sees where it does not.
        while fence::live().abs_diff(live) > OTHERS {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(fence::broken(), broken, "bytes around an arena have changed");
        drop(says);
        let quiet = outcome.happened.iter().all(|n| *n == 0);
        let kind = outcome.kind.unwrap_or(if quiet { "nothing happened" } else { "right all the same" });
        *kinds.entry(kind).or_default() += 1;
        happened.iter_mut().zip(outcome.happened).for_each(|(all, one)| *all += one);
    }
    assert!(fence::live() < start + 4 * OTHERS, "memory is lost little by little");
    let names = ["late", "short", "overtaken", "blows", "ills", "called off", "stopped too late", "lost"];
    println!("{kinds:?}\n{:?}", names.iter().zip(happened).collect::<Vec<_>>());
    if first.is_none() && many >= SEEDS {
        let rare = names.iter().zip(happened).filter(|(name, n)| *n == 0 && **name != "stopped too late");
        assert_eq!(rare.collect::<Vec<_>>(), [], "each of these happens");
        assert_eq!(kinds.len(), 8, "each end is met: {kinds:?}");
    }
}
