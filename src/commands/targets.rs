//! `berth targets`: the machines that are known.

use crate::cli;
use crate::failure::Outcome;
use crate::{files, machine};

/// Runs it.
pub fn targets(args: &cli::Targets) -> Outcome {
    if let Some(name) = &args.name {
        return files::say(machine::target(name)?.to_ron().trim_end());
    }
    for (name, _) in machine::PRESETS {
        let target = machine::target(name)?;
        let tiers: Vec<String> = target.tiers.iter().map(|t| format!("{} {}", t.name, t.capacity)).collect();
        files::say(&format!("{name:<12}{}", tiers.join(", ")))?;
    }
    Ok(())
}
