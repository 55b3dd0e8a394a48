//! The `berth` command.

use berth::cli::{Cli, Command};
use berth::commands as run;
use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Compile(args) => run::compile::compile(&args),
        Command::Inspect(args) => run::inspect::inspect(&args),
        Command::Diff(args) => run::diff::diff(&args),
        Command::Verify(args) => run::verify::verify(&args),
        Command::Simulate(args) => run::simulate::simulate(&args),
        Command::Compare(args) => run::compare::compare(&args),
        Command::Run(args) => run::run::run(&args),
        Command::Pack(args) => run::pack::pack(&args),
        Command::Calibrate(args) => run::calibrate::calibrate(&args),
        Command::Targets(args) => run::targets::targets(&args),
        Command::Offsets(args) => run::offsets::offsets(&args),
        Command::SeedWeights(args) => run::seed_weights::seed_weights(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {}", failure.paragraph);
            ExitCode::from(failure.code)
        }
    }
}
