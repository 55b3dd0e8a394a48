//! The words of the command line; help, man page and completions come from here.

use berth_compiler::plan::STEPS;
use berth_ir::units::Bytes;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// An ahead-of-time memory scheduler for machine-learning models.
///
/// Reads an ONNX model and a description of a machine, decides where every tensor lives at every moment and when each
/// byte moves, proves the result safe, and runs it.
#[derive(Debug, Parser)]
#[command(name = "berth", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a memory program for a model and a machine
    Compile(Compile),
    /// Say what is in a model or a program: sizes, peaks, what stays and what streams
    Inspect(Inspect),
    /// Say what differs between two programs
    Diff(Diff),
    /// Prove a program safe, or list all that is wrong with it
    Verify(Verify),
    /// Say when each instruction of a program would run
    Simulate(Simulate),
    /// Compare berth's program with what people do today, bound beside
    ///
    /// All go through the same verifier and simulator: `look-ahead` streams every weight, a layer ahead; `uniform` keeps the
    /// same part of each layer and streams the rest so; `-ngl` keeps the layers that fit and has the host's cores compute
    /// the others; `device_map` keeps the layers that fit and copies the others in when they are wanted; `clairvoyant` and
    /// `LRU` bring each weight when it is wanted, and let go what is used furthest ahead, or was used longest ago.
    Compare(Compare),
    /// Run a model or a program, inside a memory cap
    Run(Box<Run>),
    /// Write a model's weights for fast reading: aligned, in the order of their use, with checksums
    ///
    /// What an operator wants transposed is stored so. `berth run --weights FILE` reads from it and checks every byte that
    /// arrives. A pack that was interrupted is gone on with.
    Pack(Pack),
    /// List the machines that are known, or print one
    Targets(Targets),
    /// Measure this machine, and write it as a target
    ///
    /// Rates of memory, disk and engine, each the median of several rounds, with the least and the most beside. Tiers and
    /// links are those of the target `host`, so that a program for it is safe on the other; what cannot be measured is
    /// kept, and named.
    Calibrate(Calibrate),
    /// Give each buffer of a list an offset, so that those alive together share no byte
    Offsets(Offsets),
    /// Make the absent weights of a weightless export from a seed
    SeedWeights(SeedWeights),
}

/// A model and how it is bound to sizes.
#[derive(Debug, Args)]
pub struct Bound {
    /// Bind a named dim, such as `past=1023`
    ///
    /// May be given several times. A dim that the model proves from others need not be given. A range, such as
    /// `past=0..1023`, plans for its upper end; the program then runs every size in it.
    #[arg(long = "dim", value_name = "NAME=N")]
    pub dims: Vec<String>,
    /// Fix an input's value, such as `use_cache_branch=true`, and fold what depends on it
    ///
    /// Several elements are separated by commas. An If whose condition is fixed so becomes the branch that is taken. May
    /// be given several times.
    #[arg(long = "set", value_name = "INPUT=VALUE")]
    pub sets: Vec<String>,
    /// Compute narrow floats in this type, where an engine has no kernels for them
    ///
    /// `f32` keeps every value of 16-bit floats exactly; `f16` takes the place of bfloat16, whose large values become
    /// infinite. Weights stay as the file has them and are cast where they are used.
    #[arg(long, value_enum, value_name = "TYPE")]
    pub cast: Option<Cast>,
}

/// What outlives a step.
#[derive(Debug, Args)]
pub struct States {
    /// An input and the output that is its next value, such as `h_in=h_out`: what a step writes, the next step reads
    ///
    /// They are one tensor, which stays from step to step: only the first step's input is given. For states of recurrent
    /// models and for caches. A cache may grow along an axis whose dim has a range, such as `--dim past=0..127`, by the same
    /// in each step: the plan has room for the upper end. May be given several times.
    #[arg(long = "state", value_name = "INPUT=OUTPUT")]
    pub states: Vec<String>,
}

/// A type that narrow floats are computed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cast {
    /// 16-bit floats as binary32.
    F32,
    /// bfloat16 as binary16.
    F16,
}

/// A machine and what may be used of it.
#[derive(Debug, Args)]
pub struct Machine {
    /// The machine: a name from `berth targets`, or a RON file; else the one that a program names, or `host`
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// Cap a memory, such as `device=64MiB`, `device=60%` or `device=least`
    ///
    /// `device` is the memory of the first engine, whatever the machine calls it. A percentage is of what having
    /// everything resident would need; `least` is the least that works. May be given several times.
    #[arg(long, value_name = "TIER=BYTES")]
    pub memory: Vec<String>,
    /// Engines that may run tasks, such as `gpu` or `gpu,cores`
    ///
    /// The first engine of the machine is always among them. Without it, all that the machine has may; `berth run MODEL`
    /// plans for the first, whose costs it measures.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub engines: Option<Vec<String>>,
}

impl Machine {
    /// The machine that is meant where no program names one.
    pub fn name(&self) -> &str {
        self.target.as_deref().unwrap_or("host")
    }
}

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// RON.
    Ron,
}

/// `berth compile`.
#[derive(Debug, Args)]
pub struct Compile {
    /// The ONNX model
    pub model: PathBuf,
    /// Sizes.
    #[command(flatten)]
    pub bound: Bound,
    /// States.
    #[command(flatten)]
    pub states: States,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Measure what each task costs with the engine, instead of estimating it from the target
    ///
    /// Times and scratch are then those of this machine. Without it the program is the same on every machine.
    #[arg(long)]
    pub measure: bool,
    /// How tasks compute
    ///
    /// With `fast` the engine may keep weights of whole stretches, packed as its kernels like them, where that is faster.
    #[arg(long, value_enum, default_value_t)]
    pub numerics: Numerics,
    /// Plan with what a run saw, written by `berth run --observe`
    ///
    /// Its times of tasks and rates of links take the place of the target's; what it did not see stays estimated.
    #[arg(long, value_name = "FILE", conflicts_with = "measure")]
    pub observed: Option<PathBuf>,
    /// Threads of the engine when measuring
    ///
    /// Where operators are split, bits stay the same with up to so many threads, and with 16.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Write the program here: text with `.ron`, binary with `.binpb`
    #[arg(short, long, value_name = "PLAN")]
    pub output: Option<PathBuf>,
    /// How the summary is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// An ONNX model, or a program (`.ron`, `.binpb`)
    pub file: PathBuf,
    /// Sizes.
    #[command(flatten)]
    pub bound: Bound,
    /// States.
    #[command(flatten)]
    pub states: States,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Print the lifetime IR of a model
    #[arg(long)]
    pub ir: bool,
    /// How it is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth diff`.
#[derive(Debug, Args)]
pub struct Diff {
    /// The program before
    pub before: PathBuf,
    /// The program after
    pub after: PathBuf,
}

/// `berth verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The program
    pub plan: PathBuf,
    /// The machine, if not the one that the program names
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// Check it against this model too
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Values of the model's inputs that the program was compiled with
    #[arg(long = "set", value_name = "INPUT=VALUE")]
    pub sets: Vec<String>,
    /// The type that the program was compiled to compute narrow floats in
    #[arg(long, value_enum, value_name = "TYPE")]
    pub cast: Option<Cast>,
    /// How violations are printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth simulate`.
#[derive(Debug, Args)]
pub struct Simulate {
    /// The program
    pub plan: PathBuf,
    /// The machine, if not the one that the program names
    #[arg(long, value_name = "TARGET")]
    pub target: Option<String>,
    /// Steps to look at; with as many as it is by itself the step is what `compile` predicts
    #[arg(long, default_value_t = STEPS as u32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub steps: u32,
    /// Write a Chrome/Perfetto trace
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// How the summary is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth compare`.
#[derive(Debug, Args)]
pub struct Compare {
    /// The ONNX model
    pub model: PathBuf,
    /// Sizes.
    #[command(flatten)]
    pub bound: Bound,
    /// States.
    #[command(flatten)]
    pub states: States,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Measure what each task costs with the engine, instead of estimating it from the target
    #[arg(long)]
    pub measure: bool,
    /// Threads of the engine when measuring
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// Write each strategy's program into this folder, as `STRATEGY.ron`
    #[arg(long, value_name = "FOLDER")]
    pub save: Option<PathBuf>,
    /// How the table is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth run`.
#[derive(Debug, Args)]
pub struct Run {
    /// An ONNX model, or a program made from one
    pub file: PathBuf,
    /// The model that a program was made from
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// Sizes.
    #[command(flatten)]
    pub bound: Bound,
    /// States.
    #[command(flatten)]
    pub states: States,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Stand for another machine: links and tasks take its times, all slowed down alike
    ///
    /// Plans for TARGET and runs here, with real bytes: a laptop shows when an H100 would wait. What is measured is printed as
    /// it is here and as it would be there.
    #[arg(long = "as", value_name = "TARGET", conflicts_with = "target")]
    pub stands_for: Option<String>,
    /// Inputs: an `.npz` with an array `NAME` or `in:NAME` for each input
    ///
    /// Without it, inputs are made from the seed. `NAME@K` is what goes in from step K on. Where states grow, an input along
    /// their dim has the shape that the last step reads: each step is fed the leading part along every axis. The run starts
    /// with the size that the states' arrays have. Arrays `out:NAME` are compared with what comes out.
    #[arg(long, value_name = "FILE")]
    pub inputs: Option<PathBuf>,
    /// Read weights from this pack, made with `berth pack MODEL -o FILE`
    ///
    /// Outputs are the same, bit for bit. What it does not hold is read from the model's own files.
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Write the last step's outputs here
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,
    /// Outputs of another run: say whether these are the same, bit for bit
    #[arg(long, value_name = "FILE")]
    pub against: Option<PathBuf>,
    /// Steps to run, each on the same inputs but for states and arrays `NAME@K`
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub steps: u32,
    /// How tasks compute
    #[arg(long, value_enum, default_value_t)]
    pub numerics: Numerics,
    /// Write a Chrome/Perfetto trace, predicted and measured on two tracks
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Write what was seen: times of tasks, rates of links, and how much was moved while engines computed
    ///
    /// `berth compile MODEL --observed FILE` plans with it. Best over several steps: the first is then left out.
    #[arg(long, value_name = "FILE", conflicts_with = "stands_for")]
    pub observe: Option<PathBuf>,
    /// Write the program that was run
    #[arg(long, value_name = "PLAN")]
    pub save: Option<PathBuf>,
    /// Seed of inputs that are not given
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Threads of the engine; results may depend on it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// The engine library or its folder, if not where `cargo xtask setup` puts it
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// Give up where nothing has ended for so many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// How the summary is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// How tasks compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Numerics {
    /// Bits do not depend on cut or capacity.
    #[default]
    Exact,
    /// Faster where weights stay; bits may differ.
    Fast,
}

/// `berth pack`.
#[derive(Debug, Args)]
pub struct Pack {
    /// The ONNX model; with `--check`, a pack
    pub file: PathBuf,
    /// Sizes; a pack does not depend on them, but the order of operators may.
    #[command(flatten)]
    pub bound: Bound,
    /// Write the pack here
    #[arg(short, long, value_name = "FILE", required_unless_present = "check")]
    pub output: Option<PathBuf>,
    /// Read a whole pack and hold it against its checksums
    #[arg(long, conflicts_with = "output")]
    pub check: bool,
    /// How the result is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth targets`.
#[derive(Debug, Args)]
pub struct Targets {
    /// Print this one as RON
    pub name: Option<String>,
}

/// `berth calibrate`.
#[derive(Debug, Args)]
pub struct Calibrate {
    /// Write the target here, a RON file; without it the figures are only printed
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A folder on the disk that is to be measured
    ///
    /// A scratch file is made in it, which has no name and is gone however the command ends.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub folder: PathBuf,
    /// Measure the disk by reading this file (a pack, a model's weights) and make no scratch file
    ///
    /// What was written just now may come faster than what was written long ago: a virtual disk, or a drive, may still hold it
    /// in a memory of its own. The file is not changed.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["folder", "bytes"])]
    pub file: Option<PathBuf>,
    /// Bytes of the scratch file; 1 GiB, or a quarter of what is free
    ///
    /// Memory is measured with blocks of as much together. With few bytes caches are measured too.
    #[arg(long, value_name = "BYTES")]
    pub bytes: Option<Bytes>,
    /// Rounds in which everything is measured
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// Threads of the engine
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
    /// The engine library or its folder, if not where `cargo xtask setup` puts it
    #[arg(long, value_name = "PATH")]
    pub engine: Option<PathBuf>,
    /// How the figures are printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// `berth offsets`.
#[derive(Debug, Args)]
pub struct Offsets {
    /// The buffers: a CSV with columns `id`, `lower`, `upper` and `size`
    ///
    /// A buffer is alive from `lower` until before `upper`. Columns `alignment` and `gaps` (such as `3-5 8-9`: times at
    /// which it needs no bytes) are read where there are any; `start` or `begin` is `lower`, and `end` is the last time
    /// instead of the one after. Other columns are kept.
    pub file: PathBuf,
    /// Bytes that all must lie within
    #[arg(long, value_name = "N")]
    pub capacity: u64,
    /// How much work a search may do: buffers looked at, never seconds
    ///
    /// The default is some twenty seconds' work.
    #[arg(long, value_name = "N", default_value_t = 4_000_000_000)]
    pub effort: u64,
    /// Stop searches after so many seconds too
    ///
    /// What has been stopped so says it: another run may end elsewhere. Without it the answer is always the same.
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
}

/// `berth seed-weights`.
#[derive(Debug, Args)]
pub struct SeedWeights {
    /// The weightless ONNX model
    pub model: PathBuf,
    /// The seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Overwrite files that are there
    #[arg(long)]
    pub force: bool,
}
