//! Runs cargo on `tests/oracle`, which is no member of the workspace: its README says why.

use crate::{Failure, cargo};
use std::path::Path;

const MANIFEST: &str = "tests/oracle/Cargo.toml";
const HELP: &str = "its own words are above; tests/oracle/README.md says what is compared";

/// Compares the importer with what others wrote.
pub fn test(root: &Path) -> Result<(), Failure> {
    build(root, &["test"], &[])
}

/// Its format and its warnings.
pub fn lint(root: &Path) -> Result<(), Failure> {
    cargo::run(root, &["fmt", "--manifest-path", MANIFEST, "--check"], &[], "`cargo fmt` in tests/oracle does it")?;
    build(root, &["clippy", "--all-targets"], &["--", "-D", "warnings"])
}

/// What it builds lies below the repository's `target`, or wherever the user wants such.
fn build(root: &Path, first: &[&str], last: &[&str]) -> Result<(), Failure> {
    let mut words = first.to_vec();
    words.extend(["--locked", "--manifest-path", MANIFEST]);
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        words.extend(["--target-dir", "target/oracle"]);
    }
    words.extend(last);
    cargo::run(root, &words, &[], HELP)
}
