//! `cargo xtask ci`: all that must hold before a change goes in.
//!
//! Everything of the workspace is built in the release profile, once. Clippy and rustdoc share what they check of the dependencies with
//! each other, and build scripts and macros with the tests, but no compiled code: that is their price.

use crate::{Failure, cargo, demo, deny, guided, oracle, test};
use std::path::Path;

/// Runs the command.
pub fn run(root: &Path, words: &[String]) -> Result<(), Failure> {
    if let Some(word) = words.first() {
        return Err(Failure::Usage(format!("ci takes no words, and there is `{word}`")));
    }
    // The quick ones first.
    cargo::run(root, &["fmt", "--all", "--check"], &[], "`cargo fmt` does it")?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--release", "--", "-D", "warnings"];
    cargo::run(root, &clippy, &[], "each warning above says what it wants")?;
    oracle::lint(root)?;
    guided::check(root)?;
    deny::check(root)?;
    let doc = ["doc", "--workspace", "--no-deps", "--release"];
    cargo::run(root, &doc, &[("RUSTDOCFLAGS", "-D warnings")], "each warning above says what it wants")?;
    // The README's first command, then its second.
    demo::run(root, &[])?;
    test::run(root, &[])
}
