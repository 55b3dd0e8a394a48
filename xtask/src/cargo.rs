//! Runs cargo as the checks run it: loud, offline from any terminal, stopping at the first failure.

use crate::Failure;
use std::path::Path;
use std::process::{Command, Stdio};

/// Snapshots are compared, never rewritten, and tools that ask for a terminal find none.
const ENVIRONMENT: &[(&str, &str)] = &[("INSTA_UPDATE", "no"), ("CI", "true")];

/// Runs `cargo words...` in the repository with these further variables, after saying so.
pub fn run(root: &Path, words: &[&str], variables: &[(&str, &str)], help: &str) -> Result<(), Failure> {
    let mut line = String::new();
    for (name, value) in variables {
        line.push_str(&format!("{name}=\"{value}\" "));
    }
    line.push_str("cargo ");
    line.push_str(&words.join(" "));
    eprintln!("$ {line}");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(words).current_dir(root).stdin(Stdio::null());
    command.envs(ENVIRONMENT.iter().copied()).envs(variables.iter().copied());
    // Cargo sets these for what it runs; handed on, they would speak of this crate to another cargo.
    for (name, _) in std::env::vars_os() {
        let ours = name.to_string_lossy();
        if ours.starts_with("CARGO_PKG_") || ours.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let failed = |what: String| Failure::Failed { what, help: help.to_owned() };
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("`{line}` ended with {status}"))),
        Err(e) => Err(failed(format!("cargo could not be started: {e}"))),
    }
}
