//! The fuzz targets: what each does with any bytes, and what must hold whatever they are.

use crate::choices::Choices;
use crate::make;
use berth::model::ready;
use berth_compiler::hold::{hold, spread, stretches, units};
use berth_compiler::import::{Cast, Model};
use berth_compiler::lower::{LowerError, exactly, lower};
use berth_compiler::plan::{Plan, PlanError, STEPS, extremes, plan};
use berth_compiler::simulate::{events, simulate};
use berth_ir::expr::Binding;
use berth_ir::lifetime::{self, Lifetimes};
use berth_ir::program::Mode;
use berth_ir::reuse::histogram;
use berth_ir::units::Bytes;
use berth_ir::verify::{ModelFacts, facts, violations};
use berth_ir::{Program, Target, binary, text, verify};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

thread_local! {
    static REACHED: Cell<u64> = const { Cell::new(0) };
}

/// How many executions of this thread went all the way: were lowered, read or planned and not refused.
pub fn reached() -> u64 {
    REACHED.get()
}

fn reach() {
    REACHED.set(REACHED.get() + 1);
}

/// How bytes of a target are changed besides byte by byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Decisions of a generator: bytes are structure enough.
    Decisions,
    /// Lines, words and numbers.
    Text,
    /// Fields of protobuf messages.
    Messages,
    /// A zip file.
    Archive,
}

/// One fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct FuzzTarget {
    /// Its folder in the corpus, and its name on the command line.
    pub name: &'static str,
    /// What its bytes are.
    pub form: Form,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Executions in the normal tests: about a second of one core.
    pub executions: u64,
    /// At least one execution in so many goes all the way.
    pub reaches: u64,
}

/// All of them.
pub const TARGETS: &[FuzzTarget] = &[
    FuzzTarget { name: "onnx", form: Form::Messages, run: onnx, executions: 20_000, reaches: 50 },
    FuzzTarget { name: "npz", form: Form::Archive, run: npz, executions: 20_000, reaches: 50 },
    FuzzTarget { name: "program_text", form: Form::Text, run: program_text, executions: 4_000, reaches: 30 },
    FuzzTarget { name: "program_binary", form: Form::Messages, run: program_binary, executions: 8_000, reaches: 10 },
    FuzzTarget { name: "machine", form: Form::Text, run: machine, executions: 20_000, reaches: 30 },
    FuzzTarget { name: "lifetimes", form: Form::Text, run: lifetimes, executions: 8_000, reaches: 30 },
    FuzzTarget { name: "compile", form: Form::Decisions, run: compile, executions: 1_000, reaches: 2 },
    FuzzTarget { name: "compile_model", form: Form::Decisions, run: compile_model, executions: 1_000, reaches: 4 },
];

/// A model file of any bytes is imported and lowered, or refused; narrow floats cast too.
pub fn onnx(bytes: &[u8]) {
    let size = bytes.len();
    let Ok(model) = Model::decode(bytes.to_vec().into(), PathBuf::from("/nowhere/model.onnx")) else { return };
    let binding: Binding = model.input_dims().into_iter().map(|d| (d.name, 2)).collect();
    lowered(&model, &binding);
    if size % 8 == 1
        && let Ok(cast) = model.cast(Cast::F32)
    {
        lowered(&cast, &binding);
    }
}

/// Lowers a model where its graph can be had; what is lowered has a text that reads back the same.
fn lowered(model: &Model, binding: &Binding) {
    let Ok(graph) = model.graph(binding) else { return };
    let (name, source) = (String::new(), String::new());
    let target = Target { name, source, tiers: vec![], engines: vec![], links: vec![] };
    let lowered: Result<_, LowerError> = lower(&graph, &exactly(binding), &target, &|_, _, _| None);
    if let Ok(lowered) = lowered {
        reach();
        let printed = lifetime::print(&lowered.lifetimes);
        assert_eq!(lifetime::parse(&printed).as_ref(), Ok(&lowered.lifetimes));
    }
}

/// A file of arrays is read or refused; what is read has as many bytes as its shape says, and is written and read again.
pub fn npz(bytes: &[u8]) {
    use std::cell::RefCell;
    thread_local! {
        static SCRATCH: RefCell<Option<Scratch>> = const { RefCell::new(None) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        let path = &scratch.get_or_insert_with(Scratch::new).0;
        std::fs::write(path, bytes).expect("a temporary folder can be written");
        let Ok(arrays) = berth::npz::read(path) else { return };
        reach();
        for array in &arrays {
            let elements = array.shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d)).expect("a size");
            assert_eq!(array.dtype.bytes(elements), Some(array.bytes.len() as u64));
        }
        if arrays.iter().map(|a| a.bytes.len()).sum::<usize>() < 1 << 16 && berth::npz::write(path, &arrays).is_ok() {
            assert_eq!(berth::npz::read(path).expect("what was written reads"), arrays);
        }
    });
}

/// A file of this thread that goes when the thread ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let shared = Path::new("/dev/shm");
        let folder = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        Scratch(folder.join(format!("berth-fuzz-{}-{:?}.npz", std::process::id(), std::thread::current().id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A program's text reads or is refused; what reads keeps all forms and is verified without a panic.
pub fn program_text(bytes: &[u8]) {
    let Ok(source) = str::from_utf8(bytes) else { return };
    if let Ok(program) = text::parse(source) {
        program_holds(program);
    }
}

/// The same for the binary form.
pub fn program_binary(bytes: &[u8]) {
    if let Ok(program) = binary::read(bytes) {
        program_holds(program);
    }
}

fn program_holds(program: Program) {
    reach();
    assert_eq!(text::parse(&text::print(&program)).as_ref(), Ok(&program));
    assert_eq!(binary::read(&binary::write(&program)).as_ref(), Ok(&program));
    let target = golden_target(&program.header.target);
    for violation in violations(&target, &program, None) {
        assert!(violation.rule() > 0 && !violation.to_string().is_empty());
    }
    if let Some(facts) = facts(&target, &program) {
        let program = Program { facts, ..program.clone() };
        let _ = violations(&target, &program, Some(&ModelFacts::default()));
    }
    if let Ok(proved) = verify(&target, program, None) {
        for steps in [1, 3] {
            simulate(&target, &proved, steps, &BTreeSet::new());
        }
        events(&target, &proved, 2, &BTreeSet::new());
    }
}

/// The target of `golden/targets` of this name, else the first.
fn golden_target(name: &str) -> Target {
    use std::sync::OnceLock;
    static ALL: OnceLock<Vec<Target>> = OnceLock::new();
    const TEXTS: &[&str] = &[
        include_str!("../../../golden/targets/one_device.ron"),
        include_str!("../../../golden/targets/two_engines.ron"),
        include_str!("../../../golden/targets/direct_disk.ron"),
        include_str!("../../../golden/targets/zero_copy.ron"),
    ];
    let all = ALL.get_or_init(|| TEXTS.iter().map(|t| Target::from_ron(t).expect("a golden target")).collect());
    all.iter().find(|t| t.name == name).unwrap_or(&all[0]).clone()
}

/// A machine's text reads or is refused; what reads keeps its form and can be asked everything, and planned for.
pub fn machine(bytes: &[u8]) {
    let Ok(source) = str::from_utf8(bytes) else { return };
    let Ok(target) = Target::from_ron(source) else { return };
    reach();
    assert_eq!(Target::from_ron(&target.to_ron()).as_ref(), Ok(&target));
    assert_eq!(target.layout_hash(), target.clone().layout_hash());
    let budgets = target.tiers.iter().map(|t| (t.name.clone(), Bytes(1 << 20))).collect();
    for tier in &target.budgeted(&budgets).tiers {
        assert!(tier.room() <= tier.capacity);
    }
    let decisions = [6, 3, 200, 1, 100, 0, 80, 1, 4, 2, 1, 0, 1, 2, 0, 2, 1, 1, 0, 40, 0, 1];
    let mut lifetimes = make::lifetimes(&mut Choices::new(&decisions));
    of_the_store(&mut lifetimes, &target);
    planned(&lifetimes, &target, None, Mode::Loop);
}

/// Lifetimes' text reads or is refused; what reads keeps its form, and what follows from it is worked out.
pub fn lifetimes(bytes: &[u8]) {
    let Ok(source) = str::from_utf8(bytes) else { return };
    let Ok(lifetimes) = lifetime::parse(source) else { return };
    assert_eq!(lifetime::parse(&lifetime::print(&lifetimes)).as_ref(), Ok(&lifetimes));
    reach();
    let histogram = histogram(&lifetimes);
    let gaps = lifetimes.gaps().len() as u64;
    let most = |rows: &[berth_ir::reuse::Bucket]| rows.last().map_or(0, |row| row.gaps);
    assert_eq!(most(&histogram.weights) + most(&histogram.others), gaps);
    assert_eq!(lifetimes.load().len(), lifetimes.tasks.len());
}

/// Lifetimes and a machine of any decisions: what is planned verifies and simulates as it was planned; what is refused
/// says the least that works, and with that it is planned.
pub fn compile(bytes: &[u8]) {
    let c = &mut Choices::new(bytes);
    let mode = c.of(&[Mode::Loop, Mode::Loop, Mode::Once]);
    let least = c.one_in(4);
    let mut lifetimes = make::lifetimes(c);
    let held = lifetimes.tensors.iter().map(|t| t.bytes).fold(0, u64::saturating_add);
    let mut target = make::machine(c, held);
    assert_eq!(target.check(), Ok(()), "the generator makes targets that make sense");
    of_the_store(&mut lifetimes, &target);
    if c.one_in(3) {
        make::keep(c, &mut lifetimes);
    }
    if least
        && let Ok((least, full)) = extremes(&lifetimes, &target)
        && least.bytes <= target.tier(target.device()).map_or(0, |t| t.capacity.0.saturating_sub(t.reserve.0))
    {
        assert!(least.bound <= least.bytes, "the bound {} is above the least {}", least.bound, least.bytes);
        let device = target.device().to_owned();
        let more = full.saturating_sub(least.bytes) / 8 * c.below(4) as u64;
        if let Some(tier) = target.tier_mut(&device) {
            tier.budget =
                Some(Bytes(least.bytes.saturating_add(more).min(tier.capacity.0.saturating_sub(tier.reserve.0))));
        }
        let made = planned(&lifetimes, &target, None, mode);
        assert!(made.is_some(), "the least capacity, {} bytes, is not enough", least.bytes);
        return;
    }
    planned(&lifetimes, &target, None, mode);
}

/// Weights lie in the store of files that the machine has.
fn of_the_store(lifetimes: &mut Lifetimes, target: &Target) {
    if let Some(store) = target.tiers.iter().find(|t| t.files) {
        lifetimes.tensors.iter_mut().filter_map(|t| t.home.as_mut()).for_each(|home| home.tier.clone_from(&store.name));
    }
}

/// A model of any decisions, a machine too: imported, rewritten, lowered, planned, proved against the model, simulated.
pub fn compile_model(bytes: &[u8]) {
    let c = &mut Choices::new(bytes);
    let mode = c.of(&[Mode::Loop, Mode::Once]);
    let file = make::model(c);
    let model = Model::decode(file.into(), PathBuf::from("/nowhere/model.onnx")).expect("the generator writes models");
    let size = c.of(&[1, 2, 0, 1 << 12, 1 << 31]);
    let binding: Binding = model.input_dims().into_iter().map(|d| (d.name, size)).collect();
    let Ok(graph) = model.graph(&binding) else { return };
    let held = graph.values.iter().filter_map(|v| v.elements().as_constant()).fold(0, i128::saturating_add);
    let target = make::machine(c, u64::try_from(held).unwrap_or(0).saturating_mul(4));
    let Ok(ready) = ready(&graph, &exactly(&binding), &target, &[]) else { return };
    // As it is, or with all weights kept that can be, or those of some stretches.
    let (all, units) = (stretches(&ready.lowered), units(&ready.lowered));
    let kept = match c.below(4) {
        2 => all,
        3 => spread(&units, 1 + c.below(units.len().max(1))),
        _ => Vec::new(),
    };
    let lowered = hold(&ready.graph, &ready.lowered, &kept).expect("tasks that can be written alone can be as one");
    let lifetimes = &lowered.lifetimes;
    assert_eq!(lifetime::parse(&lifetime::print(lifetimes)).as_ref(), Ok(lifetimes));
    planned(lifetimes, &target, Some(&lowered.facts), mode);
}

/// Plans; nothing where it is refused. What is planned keeps to its memories, its forms and its timeline.
fn planned(lifetimes: &Lifetimes, target: &Target, model: Option<&ModelFacts>, mode: Mode) -> Option<Plan> {
    let made = match plan(lifetimes, target, mode) {
        Ok(made) => made,
        Err(e) => {
            let words = e.to_string();
            assert!(!words.is_empty());
            if let PlanError::NoRoom(room) = &e {
                assert!(room.to_string() == words);
            }
            return None;
        }
    };
    let found = violations(target, &made.program, model);
    if let Some(first) = found.first() {
        panic!("{} violations, first {first}\n{}", found.len(), text::print(&made.program));
    }
    reach();
    let proved = verify(target, made.program.clone(), model).expect("nothing was found");
    assert_eq!(text::parse(&text::print(&proved)).as_ref(), Ok(&*proved));
    assert_eq!(binary::read(&binary::write(&proved)).as_ref(), Ok(&*proved));
    let steps = if mode == Mode::Loop { STEPS } else { 1 };
    let timeline = simulate(target, &proved, steps, &BTreeSet::new());
    assert_eq!(timeline, made.timeline, "the plan and its program take different times");
    assert_eq!(events(target, &proved, 2, &BTreeSet::new()), events(target, &proved, 2, &BTreeSet::new()));
    for (tier, peak) in &made.program.facts.peaks {
        assert!(*peak <= target.tier(tier).expect("a tier").room().0, "{tier}");
    }
    Some(made)
}
