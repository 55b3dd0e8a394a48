//! The `berth` command.

use berth::cli::{Cli, Command};
use berth::commands as run;
use clap::Parser;
use std::process::ExitCode;

#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`, which has no name in Rust: milliseconds for which freed memory is kept for what comes next.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Ten times the allocator's own. Tables of a large plan follow each other within this time, and half as much again is spent on
/// pages that the system takes back and clears; what is kept longer adds to the most that is held.
const KEPT_MILLIS: std::ffi::c_long = 100;

fn main() -> ExitCode {
    // SAFETY: sets a number, before another thread is there; one that the environment gives stays.
    #[allow(unsafe_code, reason = "the allocator's options are set in C")]
    unsafe {
        libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT_MILLIS)
    };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocator_keeps_memory_for_as_long_as_it_says_itself() {
        // SAFETY: reads a number.
        #[allow(unsafe_code, reason = "the allocator's options are read in C")]
        let delay = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        let said = std::env::var("MIMALLOC_PURGE_DELAY").ok().and_then(|said| said.parse().ok());
        assert_eq!(delay, said.unwrap_or(10), "another option has this number: the allocator's header lists them");
    }
}
