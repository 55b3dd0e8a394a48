//! Bad input of every kind: one paragraph with what to do, the right exit code, no file left behind.

mod common;

use berth::npz::{self, Array};
use common::{Folder, berth, json, model, refused, root, without_notes};

const DIMS: &[&str] = &["--dim", "batch=1", "--dim", "seq=1", "--dim", "past=16"];

fn llama() -> String {
    model("llama_decode.onnx").to_str().expect("UTF-8").to_owned()
}

fn stored() -> Vec<Array> {
    npz::read(&model("llama_decode.npz")).expect("it reads")
}

/// Refused with this code, in words that hold all of these, and nothing left in the folder.
fn check(folder: &Folder, words: &[&str], code: i32, says: &[&str]) {
    let before = folder.files();
    let (found, sentence) = refused(words);
    assert_eq!(found, code, "berth {}: {sentence}", words.join(" "));
    for part in says {
        assert!(sentence.contains(part), "berth {} says nothing of `{part}`: {sentence}", words.join(" "));
    }
    assert_eq!(folder.files(), before, "berth {} left files", words.join(" "));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let folder = Folder::new("inputs");
    let (llama, file) = (llama(), folder.file("x.npz"));
    let run = |change: &dyn Fn(&mut Vec<Array>), says: &[&str]| {
        let mut arrays = stored();
        arrays.retain(|a| a.name.starts_with("in:"));
        change(&mut arrays);
        npz::write(std::path::Path::new(&file), &arrays).expect("it writes");
        let outputs = folder.file("y.npz");
        check(&folder, &["run", &llama, "--inputs", &file, "--outputs", &outputs], 2, says);
    };
    run(&|a| a.retain(|x| x.name != "in:attention_mask"), &["`attention_mask` is missing"]);
    run(&|a| a.push(Array { name: "in:nobody".into(), ..a[0].clone() }), &["no input `nobody`"]);
    run(
        &|a| {
            let ids = a.iter_mut().find(|x| x.name == "in:input_ids").expect("it is there");
            ids.dtype = berth_ir::DType::F64;
        },
        &["`input_ids`", "F64", "I64"],
    );
    run(
        &|a| {
            let ids = a.iter_mut().find(|x| x.name == "in:input_ids").expect("it is there");
            ids.shape.push(1);
        },
        &["`input_ids`", "axes"],
    );
    let stored_inputs = model("llama_decode.npz");
    let wrong = ["run", &llama, "--inputs", stored_inputs.to_str().expect("UTF-8"), "--dim", "past=9"];
    check(&folder, &wrong, 2, &["dim `past` is 9", "--dim past"]);
    // A cache one longer than the mask says.
    run(
        &|a| {
            for cache in a.iter_mut().filter(|x| x.name == "in:past_key_values.0.key") {
                let rows = cache.bytes.len() as u64 / 4 / cache.shape[2];
                cache.shape[2] += 1;
                cache.bytes.resize((rows * cache.shape[2] * 4) as usize, 0);
            }
        },
        &["dim `past`"],
    );
}

#[test]
fn dims_that_are_missing_or_disagree_are_refused() {
    let folder = Folder::new("dims");
    let llama = llama();
    check(&folder, &["compile", &llama], 2, &["`batch`", "--dim batch=N"]);
    check(&folder, &["compile", &llama, "--dim", "batch"], 2, &["no `=`"]);
    check(&folder, &["compile", &llama, "--dim", "batch=x"], 2, &["whole number"]);
    check(&folder, &["compile", &llama, "--dim", "nobody=1"], 2, &["`nobody`", "batch"]);
    check(&folder, &["compile", &llama, "--dim", "batch=1", "--dim", "batch=2"], 2, &["twice"]);
    let wrong = [&["compile", &llama], DIMS, &["--dim", "past_plus_seq=40"]].concat();
    check(&folder, &wrong, 2, &["past_plus_seq", "40", "17"]);
}

#[test]
fn machines_and_caps_that_cannot_be_are_refused() {
    let folder = Folder::new("caps");
    let llama = llama();
    let with = |words: &[&'static str]| [&["compile", llama.as_str()], DIMS, words].concat();
    let plan = folder.file("plan.ron");
    let small = [with(&["--memory", "device=1KiB"]), vec!["-o", &plan]].concat();
    check(&folder, &small, 1, &["too small at task", "capacity 1024 B", "--memory device="]);
    check(&folder, &with(&["--memory", "vram=1GiB"]), 2, &["no memory `vram`", "device"]);
    check(&folder, &with(&["--memory", "device"]), 2, &["no `=`"]);
    check(&folder, &with(&["--memory", "device=many"]), 2, &["many"]);
    check(&folder, &with(&["--memory", "device=0%"]), 2, &["percentage"]);
    check(&folder, &with(&["--target", "l4", "--engines", "tpu"]), 2, &["no engine `tpu`", "gpu, cores"]);
    check(&folder, &with(&["--target", "l4", "--engines", "cores"]), 2, &["first engine", "gpu"]);
    check(&folder, &with(&["--target", "abacus"]), 2, &["no target `abacus`", "host"]);
    check(&folder, &with(&["--target", "/nonexistent/machine.ron"]), 2, &["machine.ron"]);
    let bad = folder.file("bad.ron");
    std::fs::write(&bad, "(name: \"x\"").expect("it writes");
    check(&folder, &[with(&["--target"]), vec![&bad]].concat(), 2, &["does not read"]);
}

#[test]
fn engines_are_chosen_and_a_program_of_two_runs() {
    let folder = Folder::new("engines");
    let llama = llama();
    // A machine whose link is so slow that the cores take part even in a small model.
    let l4 = std::fs::read_to_string(root().join("targets/l4.ron")).expect("a target");
    let slow = folder.file("slow.ron");
    // Programs name their target: this one by its file.
    std::fs::write(&slow, l4.replace("25GB/s", "100MB/s").replace("\"l4\"", &format!("{slow:?}"))).expect("it writes");
    let plan = folder.file("plan.ron");
    let compiled = |more: &[&str]| {
        let words =
            [&["compile", &llama, "--target", &slow, "--memory", "device=50%", "-o", &plan], DIMS, more].concat();
        json(&words)
    };
    let alone = compiled(&["--engines", "gpu"]);
    assert_eq!(alone["engines"].as_object().map(|e| e.keys().collect::<Vec<_>>()), Some(vec![&"gpu".to_owned()]));
    let both = compiled(&[]);
    assert!(both["engines"]["cores"].as_u64() > Some(0) && both["in_place_bytes"].as_u64() > Some(0), "{both}");
    assert!(both["predicted_nanos"].as_u64() < alone["predicted_nanos"].as_u64());
    assert_eq!(both, compiled(&["--engines", "gpu,cores"]));
    assert!(berth(["verify", &plan, "--target", &slow, "--model", &llama]).status.success());
    let (run, all) = (["run", &plan, "--model", &llama], folder.file("all.npz"));
    json(&[&["run", &llama, "--outputs", &all], DIMS].concat());
    let report = json(&[&run[..], &["--against", &all, "--steps", "3"]].concat());
    assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0), "two engines have the bits of one");
    check(&folder, &[&run[..], &["--engines", "gpu"]].concat(), 2, &["leave out `--engines`"]);
}

#[test]
fn programs_for_another_model_or_machine_or_cut_off_are_refused() {
    let folder = Folder::new("programs");
    let llama = llama();
    let (plan, binary) = (folder.file("plan.ron"), folder.file("plan.binpb"));
    for path in [&plan, &binary] {
        json(&[&["compile", &llama, "--memory", "device=60%", "-o", path], DIMS].concat());
    }
    assert!(berth(["verify", &plan, "--model", &llama]).status.success());
    assert!(berth(["verify", &binary, "--model", &llama]).status.success());

    let bert = model("bert_encoder.onnx");
    let text = std::fs::read_to_string(&plan).expect("text");
    let other = folder.file("other.ron");
    json(&["compile", bert.to_str().expect("UTF-8"), "--dim", "batch=1", "--dim", "seq=8", "-o", &other]);
    check(&folder, &["run", &other, "--model", &llama], 2, &["dim"]);
    // Same dims, another graph.
    let opset23 = folder.file("another.ron");
    std::fs::write(&opset23, text.replacen("model: \"", "model: \"0", 1)).expect("it writes");
    check(&folder, &["run", &opset23, "--model", &llama], 1, &["V18", "compile it again"]);
    check(&folder, &["verify", &plan, "--target", "h100-pcie"], 1, &["not safe"]);
    check(&folder, &["run", &plan], 2, &["--model"]);

    let cut = folder.file("cut.ron");
    std::fs::write(&cut, &text[..text.len() / 2]).expect("it writes");
    check(&folder, &["run", &cut, "--model", &llama], 2, &["no memory program", "line"]);
    let bytes = std::fs::read(&binary).expect("bytes");
    let cut = folder.file("cut.binpb");
    // Within its last record; a cut between two leaves a program that lacks what it names.
    std::fs::write(&cut, &bytes[..bytes.len() - 1]).expect("it writes");
    check(&folder, &["run", &cut, "--model", &llama], 2, &["no memory program"]);

    // A program with one edge taken out is refused, whatever the engine would have made of it.
    let broken = folder.file("broken.ron");
    let line = text.lines().find(|l| l.contains("Run(") && l.contains("after: [\"load")).expect("a run that waits");
    let start = line.find(", after: ").expect("an edge");
    std::fs::write(&broken, text.replacen(line, &format!("{}),", &line[..start]), 1)).expect("it writes");
    check(&folder, &["run", &broken, "--model", &llama], 1, &["V06"]);
}

#[test]
fn a_saved_program_runs_as_its_model_does() {
    let folder = Folder::new("saved");
    let llama = llama();
    let inputs = model("llama_decode.npz");
    let inputs = inputs.to_str().expect("UTF-8");
    let (all, plan) = (folder.file("all.npz"), folder.file("plan.binpb"));
    json(&["run", &llama, "--inputs", inputs, "--outputs", &all]);
    json(&["run", &llama, "--inputs", inputs, "--memory", "device=50%", "--save", &plan]);
    let report = json(&["run", &plan, "--model", &llama, "--inputs", inputs, "--against", &all, "--steps", "3"]);
    assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0));
}

#[test]
fn fast_numerics_hold_weights_and_a_saved_program_has_their_bits() {
    let folder = Folder::new("fast");
    let llama = llama();
    let inputs = model("llama_decode.npz");
    let inputs = inputs.to_str().expect("UTF-8");
    let (all, plan) = (folder.file("all.npz"), folder.file("plan.ron"));
    // Estimated: as the plan counts on the same time either way, what can be held is.
    let estimated = folder.file("estimated.ron");
    json(&[&["compile", &llama, "--numerics", "fast", "-o", &estimated], DIMS].concat());
    let text = std::fs::read_to_string(&estimated).expect("a plan");
    assert!(text.contains("numerics: Fast") && text.contains("held: Some("), "{text}");
    json(&["verify", &estimated, "--model", &llama]);
    // Measured: whatever was chosen, a saved program does the same again.
    json(&["run", &llama, "--inputs", inputs, "--numerics", "fast", "--outputs", &all, "--save", &plan]);
    let report = json(&["run", &plan, "--model", &llama, "--inputs", inputs, "--against", &all, "--steps", "3"]);
    assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0));
    let other = folder.file("other.ron");
    std::fs::write(&other, text.replacen("held: Some((weights: [", "held: Some((weights: [\"nothing\", ", 1))
        .expect("it writes");
    check(&folder, &["run", &other, "--model", &llama], 1, &["V01", "nothing"]);
}

#[test]
fn engines_and_outputs_that_cannot_be_had_are_refused() {
    let folder = Folder::new("engine");
    let llama = llama();
    let with = |words: &[&'static str]| [&["run", llama.as_str()], DIMS, words].concat();
    check(&folder, &with(&["--engine", "/nonexistent"]), 2, &["cargo xtask setup"]);
    let fake = folder.file("libonnxruntime.so");
    std::fs::write(&fake, b"no library").expect("it writes");
    check(&folder, &[with(&["--engine"]), vec![&fake]].concat(), 2, &["libonnxruntime.so"]);
    check(&folder, &with(&["--outputs", "/nonexistent/y.npz"]), 2, &["cannot write"]);
    check(&folder, &with(&["--trace", "/nonexistent/t.json"]), 2, &["cannot write"]);
    let weightless = model("llama_mid_decode.onnx");
    let copy = folder.file("weightless.onnx");
    std::fs::copy(weightless, &copy).expect("it copies");
    check(&folder, &[&["run", &copy], DIMS].concat(), 2, &["berth seed-weights"]);
    check(&folder, &["run", "/nonexistent/model.onnx"], 2, &["model.onnx"]);
    let empty = folder.file("empty.onnx");
    std::fs::write(&empty, b"").expect("it writes");
    check(&folder, &["run", &empty], 2, &["empty"]);
    check(&folder, &["inspect", root().join("Cargo.toml").to_str().expect("UTF-8")], 2, &["Cargo.toml"]);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = Folder::new("same");
    let llama = llama();
    let (a, b) = (folder.file("a.ron"), folder.file("b.ron"));
    for path in [&a, &b] {
        json(&[&["compile", &llama, "--memory", "device=40%", "-o", path], DIMS].concat());
    }
    assert_eq!(std::fs::read(&a).expect("a"), std::fs::read(&b).expect("b"));
    let same = berth(["diff", &a, &b]);
    assert_eq!(String::from_utf8_lossy(&same.stdout), "no difference\n");
    let c = folder.file("c.ron");
    json(&[&["compile", &llama, "--memory", "device=50%", "-o", &c], DIMS].concat());
    let differ = String::from_utf8_lossy(&berth(["diff", &a, &c]).stdout).into_owned();
    assert!(differ.starts_with("memory: "), "{differ}");
}

#[test]
fn values_that_are_set_hold() {
    let folder = Folder::new("set");
    let llama = llama();
    let with = |words: &[&'static str]| [&["compile", llama.as_str()], DIMS, words].concat();
    check(&folder, &with(&["--set", "input_ids"]), 2, &["no `=`"]);
    check(&folder, &with(&["--set", "input_ids=x"]), 2, &["whole number"]);
    check(&folder, &with(&["--set", "nobody=1"]), 2, &["nobody"]);
    // The stored positions are others.
    let inputs = model("llama_decode.npz");
    let wrong = ["run", &llama, "--inputs", inputs.to_str().expect("UTF-8"), "--set", "position_ids=9,9,9,9,9,9"];
    check(&folder, &wrong, 2, &["position_ids", "--set"]);
}

#[test]
fn ctrl_c_ends_a_run_cleanly() {
    use std::process::{Command, Stdio};
    let folder = Folder::new("interrupt");
    let outputs = folder.file("y.npz");
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["run", &llama(), "--steps", "1000000", "--outputs", &outputs, "--memory", "device=50%"]).args(DIMS);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command starts");
    // Long enough that it steps; where the machine is slower the stop is seen while it prepares, which must work too.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(child.try_wait().expect("a child").is_none(), "it ended by itself");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let output = child.wait_with_output().expect("it ends");
    let words = without_notes(&output);
    assert_eq!(output.status.code(), Some(130), "{words}");
    assert!(words.starts_with("error: stopped in step ") || words.starts_with("error: stopped at once"), "{words}");
    assert!(folder.files().is_empty(), "it left {:?}", folder.files());
}

#[test]
fn this_machine_stands_for_another_at_its_times() {
    let folder = Folder::new("standing");
    let (llama, all, plan) = (llama(), folder.file("all.npz"), folder.file("plan.ron"));
    json(&[&["run", &llama, "--outputs", &all], DIMS].concat());
    let words =
        ["run", &llama, "--as", "l4", "--memory", "device=50%", "--steps", "5", "--against", &all, "--save", &plan];
    let report = json(&[&words[..], DIMS].concat());
    assert_eq!(report["against"]["different"].as_array().map(Vec::len), Some(0), "{report}");
    let number = |field: &serde_json::Value| field.as_u64().expect("a number");
    let (times, step) = (number(&report["stands_for"]["times"]), number(&report["stands_for"]["step_nanos"]));
    assert_eq!(number(&report["measured_step_nanos"]) / times, step);
    // What a link brings in a step cannot come faster than it is held to; a little of it may fall into the step before.
    let traffic = number(&report["plan"]["traffic"]["h2d"]);
    let least = traffic * 1_000_000_000 / 25_000_000_000;
    assert!(traffic > 0 && step >= least / 2, "{step} ns for {traffic} bytes, {times} times as slow");
    // Its program is for that machine, and so run again.
    let again = json(&["run", &plan, "--model", &llama, "--as", "l4", "--against", &all]);
    assert_eq!(again["against"]["different"].as_array().map(Vec::len), Some(0), "{again}");
    check(&folder, &["run", &plan, "--model", &llama, "--as", "h200"], 2, &["is for `l4`", "leave out `--as h200`"]);
    let both = [&["run", &llama, "--as", "l4", "--target", "host"], DIMS].concat();
    check(&folder, &both, 2, &["--target", "cannot be used"]);
}
