//! Runs `cargo deny` where it is installed: licences, bans and sources, which need no network.
//!
//! `tests/house.rs` holds the same from `deny.toml` wherever it is not.

use crate::{Failure, cargo};
use std::path::Path;

/// What `deny.toml` says, but for advisories.
pub fn check(root: &Path) -> Result<(), Failure> {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    if !std::env::split_paths(&paths).any(|folder| folder.join("cargo-deny").is_file()) {
        eprintln!("cargo-deny is not installed: tests/house.rs has what it would check");
        return Ok(());
    }
    let words = ["deny", "--offline", "--workspace", "check", "licenses", "bans", "sources"];
    cargo::run(root, &words, &[], "each refusal above names its crate; deny.toml says what may be there")
}
