//! `berth seed-weights`: makes the absent weights of a weightless export.

use crate::cli;
use crate::failure::{Failure, Outcome};
use crate::files;
use crate::seed::{SeedError, seed_weights as make};

/// Runs it. Weights that are there already are left as they are, unless forced.
pub fn seed_weights(args: &cli::SeedWeights) -> Outcome {
    match make(&args.model, args.seed, args.force) {
        Ok(report) => {
            for (path, bytes) in &report.files {
                files::say(&format!("{} {}", path.display(), bytes.human()))?;
            }
            Ok(())
        }
        Err(error) => Err(seed_failure(error)),
    }
}

fn seed_failure(error: SeedError) -> Failure {
    Failure::bad(error)
}
