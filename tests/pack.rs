//! Packed weights: the same bits from them as from the model's files; packs that are interrupted, too large for the
//! disk, or another model's.

mod common;
#[path = "common/graph.rs"]
mod graph;

use common::{Folder, json, model, refused, root, runnable_models};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn same_bits(case: &str, report: &serde_json::Value) {
    let different = report["against"]["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "{case}: these outputs differ: {different:?}");
}

#[test]
fn models_run_from_packs_with_the_same_bits() {
    let folder = Folder::new("pack");
    let mut packed = 0;
    for path in runnable_models() {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let (model, inputs) = (path.to_str().expect("UTF-8"), path.with_extension("npz"));
        let inputs = inputs.to_str().expect("UTF-8");
        let (all, pack) = (folder.file(&format!("{name}.npz")), folder.file(&format!("{name}.berth")));
        let written = json(&["pack", model, "-o", &pack]);
        packed += usize::from(written["weights"].as_u64() > Some(0));
        let checked = json(&["pack", "--check", &pack]);
        assert_eq!(checked["bytes"], written["bytes"], "{name}");
        json(&["run", model, "--inputs", inputs, "--outputs", &all]);
        // Where least fits, operators are in pieces, which are parts and columns of what is packed.
        for memory in ["device=60%", "device=least"] {
            let words = ["run", model, "--inputs", inputs, "--memory", memory, "--steps", "2", "--against", &all];
            let output = common::berth(words.iter().chain(&["--weights", &pack, "--format", "json"]));
            let said = String::from_utf8_lossy(&output.stderr);
            let small = memory == "device=60%" && said.contains("too small at task");
            assert!(output.status.success() || small, "{name} at {memory}: {said}");
            if !small {
                assert!(said.is_empty(), "without a terminal nothing is said beside: {said}");
                same_bits(&name, &serde_json::from_slice(&output.stdout).expect("JSON"));
            }
        }
    }
    assert!(packed >= 5, "only {packed} models have weights");
}

#[test]
fn a_pack_of_another_model_is_refused() {
    let folder = Folder::new("pack-other");
    let (llama, bert) = (model("llama_decode.onnx"), model("bert_encoder.onnx"));
    let (llama, bert) = (llama.to_str().expect("UTF-8"), bert.to_str().expect("UTF-8"));
    let pack = folder.file("bert.berth");
    json(&["pack", bert, "-o", &pack]);
    let inputs = model("llama_decode.npz");
    let words = ["run", llama, "--inputs", inputs.to_str().expect("UTF-8"), "--weights"];
    let (code, said) = refused(&[&words[..], &[pack.as_str()]].concat());
    assert!(code == 2 && said.contains("another model's"), "{said}");
    // The same model with one weight changed: sizes agree, bytes do not.
    let copy = folder.file("bert_encoder.onnx");
    let mut bytes = std::fs::read(bert).expect("it reads");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100_000].iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(&copy, bytes).expect("it writes");
    let (code, said) = refused(&["run", &copy, "--dim", "batch=1", "--dim", "seq=8", "--weights", &pack]);
    assert!(code == 2 && said.contains("was made from another `bert_encoder.onnx`"), "{said}");
    let (code, said) = refused(&[&words[..], &[llama]].concat());
    assert!(code == 2 && said.contains("is no pack of weights"), "{said}");
    let (code, said) = refused(&[&words[..], &[folder.file("none.berth").as_str()]].concat());
    assert!(code == 2 && said.contains("cannot read"), "{said}");
    let (code, said) = refused(&["pack", "--check", llama]);
    assert!(code == 2 && said.contains("is no pack of weights"), "{said}");
    let (code, said) = refused(&["pack", bert, "-o", "/dev/full"]);
    assert!(code == 2 && said.contains("no regular file"), "{said}");
}

/// A model of 128 MiB of weights in eight matrices.
fn large(folder: &Folder) -> String {
    let model = folder.file("chain.onnx");
    std::fs::write(&model, graph::chain(8, 2048, "chain.bin")).expect("it writes");
    assert!(common::berth(["seed-weights", &model]).status.success());
    model
}

#[test]
fn a_pack_that_was_killed_is_gone_on_with() {
    let folder = Folder::new("pack-killed");
    let model = large(&folder);
    let (pack, log) = (folder.file("w.berth"), folder.file("w.berth.part.log"));
    let mut child = Command::new(env!("CARGO_BIN_EXE_berth"))
        .args(["pack", &model, "-o", &pack, "--format", "json"])
        .current_dir(root())
        .stdout(Stdio::null())
        .spawn()
        .expect("the command starts");
    // Once something is said to be on the disk, or it was faster than this.
    while child.try_wait().expect("a child").is_none() && std::fs::metadata(&log).map_or(0, |m| m.len()) < 200 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let logged = std::fs::read_to_string(&log).map_or(0, |text| text.lines().count().saturating_sub(1));
    child.kill().expect("it is killed");
    child.wait().expect("it has ended");
    let done = Path::new(&pack).exists();
    let written = json(&["pack", &model, "-o", &pack]);
    assert_eq!(written["bytes"].as_u64(), Some(128 << 20));
    assert!(done || written["found"].as_u64() >= Some(logged as u64), "{logged} were there: {written}");
    json(&["pack", "--check", &pack]);
    assert_eq!(folder.files(), ["chain.bin", "chain.onnx", "w.berth"]);
}

#[test]
fn a_full_disk_is_said_and_gone_on_from() {
    let folder = Folder::new("pack-full");
    let model = large(&folder);
    let pack = folder.file("w.berth");
    // No file may grow beyond 100 MiB or 50, as the shell counts.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"trap "" XFSZ; ulimit -f 102400; exec "$@""#, "sh", env!("CARGO_BIN_EXE_berth")]);
    shell.args(["pack", &model, "-o", &pack]).current_dir(root()).stdin(Stdio::null());
    let output = shell.output().expect("the shell starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no room to write") && said.contains("goes on where it stopped"), "{said}");
    assert!(!Path::new(&pack).exists());
    json(&["pack", &model, "-o", &pack]);
    json(&["pack", "--check", &pack]);
    assert_eq!(folder.files(), ["chain.bin", "chain.onnx", "w.berth"]);
}
