//! The caps are the truth: what the process really holds stays within them, and the outputs are right.

mod common;
#[path = "common/graph.rs"]
mod graph;

use common::{Folder, json, root};
use std::process::{Command, Stdio};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// Runs `berth` and returns its JSON with the greatest resident size that the system saw, in bytes.
fn watched(words: &[&str]) -> (serde_json::Value, u64) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(words).args(["--format", "json"]).current_dir(root());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the command starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().expect("a child").is_none() {
        // The system keeps the peak itself; the last look before the end is the one that counts.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = line.and_then(|l| l.trim().strip_suffix(" kB")).and_then(|n| n.parse::<u64>().ok());
        peak = kib.map_or(peak, |k| peak.max(k * 1024));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "berth {} ended with {}", words.join(" "), output.status);
    (serde_json::from_slice(&output.stdout).expect("JSON on stdout"), peak)
}

#[test]
fn two_gib_of_weights_run_in_an_eighth_of_it() {
    let folder = Folder::new("memory");
    let (model, all) = (folder.file("chain.onnx"), folder.file("all.npz"));
    // 32 weights of 64 MiB.
    std::fs::write(&model, graph::chain(32, 4096, "chain.bin")).expect("it writes");
    assert!(common::berth(["seed-weights", &model]).status.success());

    json(&["run", &model, "--outputs", &all]);
    let caps = ["--memory", "device=256MiB", "--memory", "dram=128MiB"];
    let (report, peak) = watched(&[&["run", &model, "--against", &all, "--steps", "2"], &caps[..]].concat());
    let different = report["against"]["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "these outputs differ: {different:?}");
    let held = |tier: &str| report["plan"]["peak"][tier].as_u64().unwrap_or(0);
    assert!(held("device") <= 256 * MIB && held("dram") <= 128 * MIB, "the plan holds more than the caps");
    // Where measured tasks take longer than the reads, nothing waits and the second memory has nothing to give.
    let nanos = |field: &str| report["plan"][field].as_u64().expect("a time");
    let waits = nanos("stall_nanos") > nanos("predicted_nanos") / 50;
    assert!(held("dram") > 0 || !waits, "the second memory is not used");
    assert!(peak > 128 * MIB, "the process was not seen");
    assert!(peak <= (256 + 128 + 250) * MIB, "the process held {} MiB", peak / MIB);
}
