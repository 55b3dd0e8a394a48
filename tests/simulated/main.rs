//! The executor on a simulated host: one thread, virtual time, and everything that can go wrong, by seed.
//!
//! The executor's own code runs, as it is: `world.rs` is what it stands on, `disk.rs` reads, `engine.rs` computes and has the
//! inputs, `watch.rs` holds order and memory against the program, `meaning.rs` says what must be seen. A run ends in the
//! right bytes or in an error that its plan calls for, nobody sleeps while nobody is there to wake it, and all memory
//! comes back. The same seed gives the same run.

#[path = "../../ir/tests/common/device.rs"]
mod device;
mod disk;
mod engine;
#[path = "../../runtime-exec/tests/common/fence.rs"]
mod fence;
#[path = "../../compiler/tests/common/made.rs"]
mod made;
#[path = "../../ir/tests/common/make.rs"]
mod make;
mod meaning;
mod plan;
mod programs;
#[path = "../../ir/tests/common/shapes.rs"]
mod shapes;
mod watch;
mod world;

use berth_ir::program::{Instruction, Mode, Program};
use berth_ir::verify::Verified;
use berth_runtime_exec::engine::EngineError;
use berth_runtime_exec::errors::{LoadError, RunError};
use berth_runtime_exec::executor::host::Host;
use berth_runtime_exec::executor::{Executor, Held, Options, Pace, TaskPorts, engines};
use berth_runtime_exec::store::StoreError;
use device::Rng;
use disk::Drive;
use engine::{Made, Side};
use meaning::{Meaning, meaning};
use plan::{Blow, Counts, Ill, Plan};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use watch::Rules;
use world::World;

#[global_allocator]
static FENCED: fence::Fenced = fence::Fenced;

/// Programs of the normal run.
const SEEDS: u64 = 500;
/// In one program of so many engines keep weights, where it has any that could be kept.
const KEEPS: u64 = 3;
/// Runs of each, each with a plan of its own and a clean one behind it.
const RUNS: usize = 4;
/// A limit that no run comes to that nothing holds up, one for those, and one that what is late may take longer than.
const LONG: Duration = Duration::from_secs(1000);
const SHORT: Duration = Duration::from_millis(40);
const TIGHT: Duration = Duration::from_millis(70);
/// Bytes that an executor may have beside its arenas and the buffers of its links.
const BESIDE: usize = 256 << 10;
/// The buffer of a read, and one for each link that stays in a cache.
const BUFFER: usize = (1 << 20) + 2 * 4096;

/// A folder with a file that is as long as all weights need, and holds nothing.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        let folder = std::env::temp_dir().join(format!("berth-simulated-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let file = std::fs::File::create(folder.join(programs::FILE)).expect("a file");
        file.set_len(programs::FILE_BYTES).expect("it is long");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A program with all that its runs need.
struct Case {
    program: Verified<Program>,
    compiled: bool,
    ports: Vec<TaskPorts>,
    options: Options,
    steps: usize,
    meaning: Arc<Meaning>,
    rules: Arc<Rules>,
    reads: u64,
    /// Tasks that have weights kept, and the most bytes beside its memory that loading one takes.
    keeps: u64,
    loading: usize,
}

type Ready = Executor<Made, World>;

impl Case {
    fn new(dice: &mut Rng, folder: &Path, keeps: bool) -> Case {
        let (program, compiled) = programs::program(dice, keeps);
        let steps = if program.header.mode == Mode::Once { 1 } else { 1 + dice.below(5) };
        let mut options = Options { records: [0, 7, 100][dice.below(3)], ..Options::new(folder) };
        let from_file = |code: &[Instruction]| code.iter().filter(|i| watch::is_from_file(i)).count();
        let copies = program.prologue.iter().chain(&program.bodies[0].code);
        for copy in copies {
            let Instruction::Copy { queue, .. } = copy else { continue };
            let rate = [1_000_000, 100_000_000, 1_000_000_000][dice.below(3)];
            let (latency, group) = (dice.below(1_000_000) as u64, dice.below(2));
            let held = (dice.below(4) == 0).then_some(Held { rate, latency, group });
            let pace = Pace { chunk: [64, 4096, 1 << 20][dice.below(3)], depth: 1 + dice.below(3), held };
            options.links.entry(queue.clone()).or_insert(pace);
        }
        if dice.below(4) == 0 {
            options.tasks = program.tasks.iter().map(|_| dice.below(400_000) as u64).collect();
        }
        let ports = engine::ports(&program);
        let blocks = ports.iter().map(|ports| ports.code.kept).filter(|bytes| *bytes > 0);
        // A read has two buffers of its own.
        let loading = blocks.clone().max().map_or(0, |block| block as usize + 2 * BUFFER);
        Case {
            compiled,
            keeps: blocks.count() as u64,
            loading,
            ports,
            options,
            meaning: Arc::new(meaning(&program, steps)),
            rules: Arc::new(Rules::new(&program)),
            reads: (from_file(&program.prologue) + steps * from_file(&program.bodies[0].code)) as u64,
            steps,
            program,
        }
    }

    fn load(&self, world: &World) -> Result<Ready, LoadError> {
        world.state().watch.begin(self.rules.clone());
        let mut options = self.options.clone();
        options.places.disk = Some(Arc::new(Drive { world: world.clone(), shorts: Mutex::default() }));
        let engines =
            engines(&self.program).expect("engines").iter().map(|_| Made::new(world, &self.meaning)).collect();
        Executor::load_on(world.clone(), &self.program, &self.ports, engines, &options)
    }

    /// Loads, with something going wrong where engines keep weights; if that ends it, loads again.
    fn begun(&self, world: &World, dice: &mut Rng) -> Ready {
        if self.keeps > 0 {
            let plan = Plan::loading(dice, 4 * self.keeps, self.keeps);
            {
                let mut state = world.state();
                (state.plan, state.calm) = (plan.clone(), false);
            }
            let before = fence::live();
            let loaded = self.load(world);
            let mut state = world.state();
            state.calm = true;
            let Counts { blows, ills, .. } = state.counts;
            let called_for = match &loaded {
                Ok(_) => blows + ills == 0,
                Err(LoadError::Store(StoreError::Io { .. })) => blows > 0,
                Err(LoadError::Engine(EngineError::Engine { .. })) => {
                    ills > 0 && matches!(plan.engine, Some((_, Ill::Fails)))
                }
                Err(LoadError::Engine(EngineError::Room { .. })) => {
                    ills > 0 && matches!(plan.engine, Some((_, Ill::Spills)))
                }
                Err(_) => false,
            };
            if !called_for {
                state.wrong.push(format!("loading ({plan:?}): nothing calls for {:?}", loaded.as_ref().err()));
            }
            if let Ok(ready) = loaded {
                return ready;
            }
            drop(loaded);
            state.counts.refused += 1;
            state.watch.begin(self.rules.clone());
            if fence::live() > before {
                state.wrong.push(format!("loading ({plan:?}): not all memory came back"));
            }
        }
        self.load(world).expect("it loads")
    }

    /// Bytes that an executor may have.
    fn cap(&self) -> usize {
        let arenas: u64 = self.program.arenas.iter().map(|arena| arena.bytes).sum();
        let buffers: usize = self.options.links.values().map(|pace| (pace.depth + 1) * BUFFER).sum();
        arenas as usize + buffers + BESIDE
    }

    /// Runs in a world; outputs and instances are all there if it ends well.
    fn run(&self, world: &World, executor: &mut Ready, limit: Duration) -> Result<(), RunError> {
        world.state().begin_run();
        let mut side = Side { world: world.clone(), meaning: self.meaning.clone(), came: 0 };
        let ended = executor.run(self.steps, limit, &mut side).map(drop);
        let mut state = world.state();
        let holds = !state.calm && state.plan.loses();
        if !holds {
            let (all, (instances, open)) = (self.rules.instances(self.steps), state.watch.end());
            let problem = match &ended {
                Ok(()) if (instances, open.len()) != (all, 0) => {
                    format!("{instances} of {all} ended, {open:?} did not")
                }
                Ok(()) if side.came != self.meaning.outputs.len() => format!("{} outputs came", side.came),
                _ => String::new(),
            };
            if !problem.is_empty() {
                state.wrong.push(problem);
            }
        }
        ended
    }
}

/// Whether a plan calls for an error.
fn calls_for(plan: &Plan, counts: &Counts, error: &RunError) -> bool {
    let said = error.to_string();
    match error {
        RunError::Store { source: StoreError::Io { .. }, instruction, .. } => {
            let why = match plan.disk {
                Some((_, Blow::Dry)) => "gives no more bytes",
                Some((_, Blow::Stuck)) | None => return false,
                Some(_) => "Input/output error",
            };
            counts.blows > 0 && said.contains(why) && said.contains(instruction.as_str())
        }
        RunError::Engine { instruction, .. } => {
            let ill = plan.engine.is_some_and(|(_, ill)| matches!(ill, Ill::Fails | Ill::Spills));
            ill && counts.ills > 0 && said.contains(instruction.as_str())
        }
        RunError::Caller { step, problem, .. } => {
            plan.refuses.is_some_and(|(at, _)| at == *step) && said.contains(problem.as_str())
        }
        RunError::Stopped { .. } => plan.stop.is_some(),
        RunError::Stalled { waiting, .. } => (plan.holds() || plan.tight) && !waiting.is_empty(),
        _ => false,
    }
}

/// How a run may end.
const ENDS: [&str; 6] =
    ["right bytes", "the disk's error", "the engine's error", "the caller's error", "stopped", "the limit"];

fn kind(ended: &Result<(), RunError>) -> &'static str {
    match ended {
        Ok(()) => "right bytes",
        Err(RunError::Store { .. }) => "the disk's error",
        Err(RunError::Engine { .. }) => "the engine's error",
        Err(RunError::Caller { .. }) => "the caller's error",
        Err(RunError::Stopped { .. }) => "stopped",
        Err(RunError::Stalled { .. }) => "the limit",
        Err(_) => "lost",
    }
}

/// What all seeds came to.
#[derive(Default)]
struct Tally {
    kinds: BTreeMap<&'static str, u64>,
    counts: Counts,
    runs: u64,
    compiled: u64,
    steps: u64,
    instances: u64,
    /// Programs for which engines keep weights.
    keeps: u64,
    engines: [u64; 3],
    tiers: [u64; 4],
}

/// One run as planned, then a clean one. The executor, if it can be used again, and how the first ended.
fn trial(case: &Arc<Case>, world: &World, executor: Ready, plan: Plan) -> (Option<Ready>, Result<(), RunError>) {
    {
        let mut state = world.state();
        (state.plan, state.counts, state.calm) = (plan.clone(), Counts::default(), false);
        (state.reads, state.runs) = (0, 0);
    }
    let left = Arc::new(Mutex::new(None));
    let (case, acts, leaves) = (case.clone(), world.clone(), left.clone());
    world.act(move || {
        let (world, mut executor, over) = (&acts, executor, Arc::new(AtomicBool::new(false)));
        let stops = plan.stop.map(|nanos| {
            let (stop, world) = (executor.stop(), world.clone());
            acts.spawn(move || {
                world.wait(nanos);
                world.state().holds = true;
                stop.stop();
            })
        });
        let copies = if plan.calls_off { case.rules.speculative() } else { Vec::new() };
        let calls = (!copies.is_empty()).then(|| {
            let (caution, world, over) = (executor.caution(), world.clone(), over.clone());
            acts.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    let (copy, pause) = {
                        let mut state = world.state();
                        (state.dice.below(copies.len()), state.dice.below(50_000) as u64)
                    };
                    caution.call_off(&copies[copy]);
                    world.wait(pause + 1);
                }
            })
        });
        let limit = match () {
            () if plan.holds() => SHORT,
            () if plan.tight => TIGHT,
            () => LONG,
        };
        let ended = case.run(world, &mut executor, limit);
        over.store(true, Ordering::SeqCst);
        let within = world.now() + 2_000_000_000;
        let joined = [stops, calls].into_iter().flatten().all(|actor| world.join(actor, within).is_some());
        if !joined {
            world.wrong("who stops or calls off does not come back");
        }
        let counts = world.state().counts;
        if let Err(error) = &ended
            && !calls_for(&plan, &counts, error)
        {
            world.wrong(format!("nothing calls for {error:?}"));
        }
        {
            let mut state = world.state();
            state.calm = true;
            state.holds = plan.loses() || plan.stop.is_some();
        }
        let mut again = case.run(world, &mut executor, LONG);
        if plan.stop.is_some() && !matches!(ended, Err(RunError::Stopped { .. })) && again.is_err() {
            // The stop came after the end of its run.
            world.state().counts.stopped_late += u64::from(matches!(again, Err(RunError::Stopped { .. })));
            again = case.run(world, &mut executor, LONG);
        }
        let lost = matches!(again, Err(RunError::Unusable)) && ended.is_err() && plan.loses();
        if lost {
            // A fresh one runs beside what is stuck.
            world.state().counts.lost += 1;
            drop(executor);
            executor = case.load(world).expect("it loads");
            again = case.run(world, &mut executor, LONG);
        }
        if let Err(error) = again {
            world.wrong(format!("after {ended:?} the next run says {error:?}"));
        }
        *leaves.lock().expect("a lock") = Some((executor, ended));
    });
    let (executor, ended) = left.lock().expect("a lock").take().expect("it came to its end");
    (Some(executor), ended)
}

/// All runs of a seed; a sum of all that happened, and what was wrong.
fn seed(seed: u64, folder: &Path, tally: &mut Tally) -> (u64, Vec<String>) {
    let mut dice = Rng(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
    (0..10).for_each(|_| {
        dice.next();
    });
    let case = Arc::new(Case::new(&mut dice, folder, seed.is_multiple_of(KEEPS)));
    let world = World::new(seed);
    let before = fence::live();
    fence::most();
    let mut executor = Some(case.begun(&world, &mut dice));
    let mut wrong = Vec::new();
    for (took, allowed) in [(fence::live() - before, 0), (fence::most() - before, case.loading)] {
        if took > case.cap() + allowed {
            wrong.push(format!("{took} bytes, {} allowed", case.cap() + allowed));
        }
    }
    tally.counts.add(&std::mem::take(&mut world.state().counts));
    tally.keeps += u64::from(case.keeps > 0);
    let loaded = fence::live();
    for run in 0..RUNS {
        let reads = case.reads * (1 + case.program.arenas.iter().map(|a| a.bytes).max().unwrap_or(0) / 16384);
        let plan = match run {
            // Nothing happens.
            0 if seed.is_multiple_of(8) => Plan::default(),
            _ => Plan::new(&mut dice, reads, (case.program.tasks.len() * case.steps) as u64, case.steps),
        };
        let Some(ready) = executor.take() else { break };
        let (left, ended) = trial(&case, &world, ready, plan.clone());
        executor = left;
        let mut state = world.state();
        let found = std::mem::take(&mut state.wrong);
        wrong.extend(found.into_iter().map(|what| format!("run {run} ({plan:?}, {ended:?}): {what}")));
        *tally.kinds.entry(kind(&ended)).or_default() += 1;
        tally.counts.add(&state.counts);
        tally.runs += 1;
        tally.instances += (case.rules.instances(case.steps)) as u64;
        tally.steps += case.steps as u64;
        tally.compiled += u64::from(case.compiled);
        tally.engines[engines(&case.program).map_or(0, |all| all.len().min(2))] += 1;
        tally.tiers[(case.program.arenas.len() + 1).min(3)] += 1;
        if !wrong.is_empty() {
            break;
        }
    }
    // Where an executor is lost there are two for a while.
    let grown = fence::most() - loaded;
    if grown > case.cap() + case.loading {
        wrong.push(format!("the runs took {grown} bytes, {} allowed", case.cap() + case.loading));
    }
    // Engines live on, or go with it.
    let engines = executor.filter(|_| seed.is_multiple_of(2)).and_then(Executor::into_engines).unwrap_or_default();
    if engines.iter().any(Made::keeps) {
        wrong.push("an engine is given back with weights that it keeps".into());
        // They are gone: it may not look.
        std::mem::forget(engines);
    }
    wrong.append(&mut world.state().wrong);
    let trace = world.state().trace;
    (trace, wrong)
}

/// Ends the process where a seed does not come back: real time goes by while nobody gives the turn back.
fn keep_watch(now: &Arc<AtomicU64>) {
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
    let folder = Folder::new();
    let mut tally = Tally::default();
    tally.kinds.extend(ENDS.map(|end| (end, 0)));
    let (one, first, many) = (number("BERTH_SEED"), number("BERTH_FIRST").unwrap_or(1), number("BERTH_SEEDS"));
    let seeds = one.map_or(first..first + many.unwrap_or(SEEDS), |seed| seed..seed + 1);
    let now = Arc::new(AtomicU64::new(0));
    keep_watch(&now);
    // What a first run makes for good is not of the seeds.
    seed(0, &folder.0, &mut Tally::default());
    for behind in [false, true] {
        let before = fence::broken();
        fence::trespass(behind);
        assert_eq!(fence::broken(), before + 1, "a broken fence is seen");
    }
    let broken = fence::broken();
    for n in seeds {
        now.store(n, Ordering::SeqCst);
        let before = fence::live();
        let (trace, wrong) = seed(n, &folder.0, &mut tally);
        assert!(wrong.is_empty(), "seed {n} (alone: BERTH_SEED={n}):\n{}", wrong.join("\n"));
        assert_eq!(fence::broken(), broken, "seed {n}: somebody wrote outside an arena");
        drop(wrong);
        let after = fence::live();
        assert!(after <= before, "seed {n}: {} bytes are held at its end", after - before);
        if n.is_multiple_of(50) {
            assert_eq!(seed(n, &folder.0, &mut Tally::default()).0, trace, "seed {n} again gives another run");
        }
    }
    let Tally { kinds, counts, runs, compiled, steps, instances, keeps, engines, tiers } = &tally;
    println!("{runs} runs ({compiled} of the compiler's programs), {steps} steps, {instances} instances: {kinds:?}");
    println!("of {keeps} programs engines keep weights");
    println!("by engines {engines:?}, by tiers {tiers:?}; {counts:?}");
    if *runs >= 2_000 {
        let all =
            ["right bytes", "the disk's error", "the engine's error", "the caller's error", "stopped", "the limit"];
        assert!(all.iter().all(|kind| kinds.contains_key(kind)), "not all that can happen has: {kinds:?}");
        let Counts { late, short, overtaken, blows, ills, called_off, stopped_late, lost, kept, refused, .. } = *counts;
        let happened = [late, short, overtaken, blows, ills, called_off, stopped_late, lost, kept, refused];
        assert!(happened.iter().all(|n| *n > 0), "not all that can happen has: {counts:?}");
        assert!(*compiled > runs / 4 && *compiled < runs / 4 * 3, "both kinds of programs");
        assert!(tiers[2] > 0 && tiers[3] > 0 && engines[1] > 0 && engines[2] > 0, "machines of all kinds");
    }
}
