//! `cargo xtask demo`: the main job on a real model of the repository, at half of the memory that it would need.

use crate::{Failure, cargo, setup};
use std::path::Path;
use std::process::{Command, Stdio};

/// A Llama with 580 MiB of float32 weights, exported without them.
const MODEL: &str = "models/llama_mid_decode.onnx";
/// Its weights, once made.
const WEIGHTS: &str = "models/llama_mid_decode.weights.bin";
/// One token after 127 others.
const DIMS: &[&str] = &["--dim", "batch=1", "--dim", "seq=1", "--dim", "past=127"];
/// Where results go; ignored by git.
const RESULTS: &str = "target/demo";

/// Runs the command.
pub fn run(root: &Path, words: &[String]) -> Result<(), Failure> {
    if let Some(word) = words.first() {
        return Err(Failure::Usage(format!("demo takes no words, and there is `{word}`")));
    }
    setup::run(root, &[])?;
    cargo::run(root, &["build", "--release"], &[], "its own words are above")?;
    std::fs::create_dir_all(root.join(RESULTS)).map_err(|e| Failure::Failed {
        what: format!("{RESULTS} cannot be made: {e}"),
        help: "make room on the disk, or give write access to the folder `target`".into(),
    })?;
    if !root.join(WEIGHTS).is_file() {
        berth(root, &["seed-weights", MODEL])?;
    }
    let all = format!("{RESULTS}/all.npz");
    let trace = format!("{RESULTS}/trace.json");
    let plan = format!("{RESULTS}/plan.ron");
    eprintln!("\nWith all the memory that it wants:");
    berth(root, &[&["run", MODEL, "--steps", "5", "--outputs", &all], DIMS].concat())?;
    eprintln!("\nWith half of it; the rest of the weights stream from the file in every step:");
    let half =
        ["run", MODEL, "--steps", "5", "--memory", "device=50%", "--against", &all, "--trace", &trace, "--save", &plan];
    berth(root, &[&half, DIMS].concat())?;
    eprintln!("\nWhat others would make of that half, simulated:");
    berth(root, &[&["compare", MODEL, "--memory", "device=50%"], DIMS].concat())?;
    eprintln!("\nThe plan, proved before it ran, is {plan}: one line an instruction, made for review and for diffs.");
    Ok(())
}

/// Runs the command that was just built, after saying so.
fn berth(root: &Path, words: &[&str]) -> Result<(), Failure> {
    eprintln!("$ berth {}", words.join(" "));
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |t| root.join(t));
    let status = Command::new(target.join("release/berth")).args(words).current_dir(root).stdin(Stdio::null()).status();
    let failed = |what: String| Failure::Failed { what, help: "its own words are above".into() };
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(failed(format!("`berth {}` ended with {status}", words.join(" ")))),
        Err(e) => Err(failed(format!("`berth` could not be started: {e}"))),
    }
}
