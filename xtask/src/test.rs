//! `cargo xtask test`: fetches the engine where it is missing, then runs every test, and compares the importer with what others wrote.

use crate::{Failure, cargo, oracle, setup};
use std::path::Path;

const USAGE: &str = "\
cargo xtask test [WORDS...]

  WORDS   go to `cargo test` as they are: a test's name, `-p berth-ir`, `-- --nocapture`; with any,
          `tests/oracle` is left out";

/// Runs the command.
pub fn run(root: &Path, words: &[String]) -> Result<(), Failure> {
    if matches!(words, [word] if word == "--help" || word == "-h") {
        println!("{USAGE}");
        return Ok(());
    }
    setup::run(root, &[])?;
    // Tests move real weights and enumerate whole families of graphs: only the release profile is quick enough, and it
    // is what users run.
    let mut all = vec!["test", "--release"];
    // `cargo test` takes one of the two.
    let of_words = words.iter().take_while(|word| *word != "--");
    if !of_words.clone().any(|word| word.starts_with("-p") || word.starts_with("--package")) {
        all.push("--workspace");
    }
    all.extend(words.iter().map(String::as_str));
    cargo::run(root, &all, &[], "its own words are above; `cargo insta review` shows a snapshot that differs")?;
    if words.is_empty() { oracle::test(root) } else { Ok(()) }
}
