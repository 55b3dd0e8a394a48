//! A machine that is measured, and runs that are: targets and observations, from the command that writes them to the
//! one that plans with them.

mod common;

use berth_ir::{Target, text};
use berth_runtime_exec::executor::Pace;
use common::{Folder, berth, json, model, refused, root};
use std::process::{Command, Stdio};

const DIMS: &[&str] = &["--dim", "batch=1", "--dim", "seq=1", "--dim", "past=16"];

fn llama() -> String {
    model("llama_decode.onnx").to_str().expect("UTF-8").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).expect("text")
}

#[test]
fn a_measured_machine_is_a_target_that_models_are_planned_for_and_run_on() {
    let folder = Folder::new("calibrate");
    let (this, here) = (folder.file("this.ron"), folder.file(""));
    let small = ["calibrate", "--folder", &here, "--bytes", "16MiB", "--rounds", "2"];
    let report = json(&[&small[..], &["-o", &this]].concat());
    assert_eq!(folder.files(), ["this.ron"], "the scratch file is gone");
    let target = Target::from_ron(&read(&this)).expect("a target");
    let host = Target::from_ron(&read(root().join("targets/host.ron").to_str().expect("UTF-8"))).expect("a target");
    assert_eq!(target.layout_hash(), host.layout_hash(), "programs for `host` are safe on it");
    assert_eq!(target.name, this);
    let figures = report["figures"].as_array().expect("figures");
    let median = |what: &str| {
        let figure = figures.iter().find(|f| f["what"] == what).unwrap_or_else(|| panic!("no figure `{what}`"));
        let [least, median, most] = ["least", "median", "most"].map(|part| figure[part].as_u64().expect("a number"));
        assert!(0 < least && least <= median && median <= most, "{figure}");
        assert!(target.source.contains(what), "the source says nothing of `{what}`");
        median
    };
    // Three digits of the median are in the target.
    let near = |value: u64, median: u64| value.abs_diff(median) <= median / 100 + 1;
    let link = |name: &str| target.links.iter().find(|l| l.name == name).expect("a link");
    let woken = 2 * median("waking a thread");
    assert!(near(link("read").latency.0, median("one read of 4 KiB") + woken), "{target:?}");
    assert!(near(link("in").latency.0, woken), "{target:?}");
    let chunk = link("read").chunk.0;
    let words = if chunk < 1 << 20 { format!("{} KiB", chunk >> 10) } else { format!("{} MiB", chunk >> 20) };
    assert!(near(link("read").submit.0, median(&format!("handing over a read of {words}"))), "{target:?}");
    assert!(
        near(link("read").rate.0, median(&format!("disk, {words} at a time, {} under way", Pace::spare(chunk)))),
        "{target:?}"
    );
    // What is left beside a task that reads, and beside one that computes, where that is less.
    for (name, what) in [("read", format!("disk, {words} at a time,")), ("in", "copy in memory".to_owned())] {
        let link = link(name);
        let left = |while_it: &str| median(&format!("{what} while the engine {while_it}")).min(link.rate.0);
        assert!(near(link.rate_beside().0, left("reads a weight")), "{name}: {target:?}");
        assert!(near(link.computing.expect("it was measured").rate.0, left("computes")), "{name}: {target:?}");
    }
    assert!(near(target.engines[0].launch.0, median("a call that computes nothing")), "{target:?}");

    let (llama, plan, all) = (llama(), folder.file("plan.ron"), folder.file("all.npz"));
    let on_it = ["--target", &this, "--memory", "device=50%"];
    let compiled = json(&[&["compile", &llama, "-o", &plan], &on_it[..], DIMS].concat());
    assert_eq!(compiled["target"], this.as_str());
    json(&[&["run", &llama, "--outputs", &all], &on_it[..], DIMS].concat());
    // The program finds the file by itself; it runs on the preset too, which has the same layout, and on no other.
    let run = ["run", &plan, "--model", &llama];
    for more in [&[][..], &["--target", "host"]] {
        let ran = json(&[&run[..], more, &["--against", &all]].concat());
        assert_eq!(ran["against"]["different"].as_array().map(Vec::len), Some(0), "{ran}");
    }
    let (code, says) = refused(&[&run[..], &["--target", "l4"]].concat());
    assert!(code == 1 && says.contains("not safe"), "{says}");
}

#[test]
fn a_file_that_is_there_is_measured_and_stays_as_it_is() {
    let folder = Folder::new("calibrate-file");
    let (weights, this) = (folder.file("weights.bin"), folder.file("this.ron"));
    let bytes: Vec<u8> = (0..17u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(&weights, &bytes).expect("it writes");
    let report = json(&["calibrate", "--file", &weights, "--rounds", "1", "-o", &this]);
    assert_eq!((report["file"].as_str(), report["file_bytes"].as_u64()), (Some(&*weights), Some(17 << 20)));
    let target = Target::from_ron(&read(&this)).expect("a target");
    assert!(target.source.contains("weights.bin") && !target.source.contains("scratch"), "{}", target.source);
    assert_eq!(folder.files(), ["this.ron", "weights.bin"]);
    assert!(std::fs::read(&weights).expect("it is there") == bytes);
}

#[test]
fn what_cannot_be_measured_or_written_is_refused() {
    let folder = Folder::new("calibrate-refused");
    let (here, absent, text) = (folder.file(""), folder.file("absent"), folder.file("this.txt"));
    let check = |words: &[&str], code: i32, says: &str| {
        let (found, sentence) = refused(&[&["calibrate"], words].concat());
        assert!(found == code && sentence.contains(says), "{words:?}: {found}, {sentence}");
        assert!(folder.files().is_empty(), "{words:?} left {:?}", folder.files());
    };
    check(&["--folder", &absent], 2, "absent");
    check(&["--folder", root().join("Cargo.toml").to_str().expect("UTF-8")], 2, "no folder");
    check(&["--folder", &here, "--bytes", "4096TiB"], 1, "are free");
    check(&["--folder", &here, "--bytes", "1MiB"], 2, "16 MiB");
    check(&["--folder", &here, "--bytes", "16MiB", "-o", &text], 2, "`.ron`");
    check(&["--file", &absent], 2, "absent");
    check(&["--file", &here], 2, "no file");
    check(&["--file", root().join("Cargo.toml").to_str().expect("UTF-8")], 2, "16 MiB");
    check(&["--file", &absent, "--folder", &here], 2, "cannot be used with");
    check(&["--folder", &here, "--bytes", "16MiB", "-o", &format!("{absent}/this.ron")], 2, "cannot write");
}

#[test]
fn nothing_is_left_of_a_calibration_that_is_interrupted() {
    let folder = Folder::new("calibrate-interrupt");
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(["calibrate", "--rounds", "100", "--folder", &folder.file(""), "-o", &folder.file("this.ron")]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the command starts");
    std::thread::sleep(std::time::Duration::from_millis(700));
    assert!(child.try_wait().expect("a child").is_none(), "it ended by itself");
    child.kill().expect("it can be ended");
    assert!(!child.wait().expect("it ends").success());
    assert!(folder.files().is_empty(), "it left {:?}", folder.files());
}

#[test]
fn a_link_that_is_slower_than_planned_is_said_while_it_runs() {
    let folder = Folder::new("slow");
    let (fast, llama) = (folder.file("fast.ron"), llama());
    let host = read(root().join("targets/host.ron").to_str().expect("UTF-8"));
    // No disk is so fast.
    let text = host.replace("rate: \"2GB/s\", latency: \"100us\"", "rate: \"900TB/s\", latency: \"0ns\"");
    assert_ne!(text, host);
    std::fs::write(&fast, text).expect("it writes");
    let words = ["run", &llama, "--target", &fast, "--memory", "device=50%", "--steps", "8"];
    let output = berth([&words[..], DIMS].concat());
    let says = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{says}");
    assert!(says.contains("note: link `read` moves") && says.contains("--observed seen.ron"), "{says}");
    assert_eq!(says.matches("note: link `read`").count(), 1, "it is said once: {says}");
}

#[test]
fn a_plan_made_with_what_a_run_saw_counts_on_it() {
    let folder = Folder::new("observe");
    let llama = llama();
    let (seen, before, after) = (folder.file("seen.ron"), folder.file("before.ron"), folder.file("after.ron"));
    let half = ["--memory", "device=50%"];
    let words = ["run", &llama, "--steps", "6", "--observe", &seen, "--save", &before];
    let report = json(&[&words[..], &half, DIMS].concat());
    let observation = berth::observed::Observation::from_ron(&read(&seen)).expect("an observation");
    assert_eq!(observation.to_ron(), read(&seen));
    assert_eq!((observation.steps, observation.target.as_str()), (5, "host"));
    let ran = text::parse(&read(&before)).expect("a program");
    let names = |tasks: &mut dyn Iterator<Item = String>| tasks.collect::<Vec<_>>();
    let tasks = names(&mut observation.tasks.iter().map(|task| task.name.clone()));
    assert_eq!(tasks, names(&mut ran.tasks.iter().map(|task| task.name.clone())), "each task was seen");
    assert!(observation.moving_under_compute <= observation.moving && observation.moving.0 > 0);
    let [read_link] = observation.links.as_slice() else { panic!("{:?}", observation.links) };
    let a_step = report["plan"]["traffic"]["read"].as_u64().expect("bytes");
    // What a link brings for a step may fall into the step before.
    assert!(read_link.name == "read" && read_link.bytes.0 >= 4 * a_step, "{read_link:?}, {a_step} a step");
    assert_eq!(report["observed"]["tasks"].as_u64(), Some(tasks.len() as u64));

    let observed = ["compile", &llama, "--observed", &seen, "-o", &after];
    let summary = json(&[&observed[..], &half, DIMS].concat());
    assert_eq!(summary["costs"], "observed");
    let planned = text::parse(&read(&after)).expect("a program");
    for task in &planned.tasks {
        let seen = observation.tasks.iter().find(|seen| seen.name == task.name).expect("it was seen");
        assert_eq!((task.cost, task.workspace), (seen.time, seen.workspace), "{}", task.name);
    }
    assert_eq!(planned.header.layout, ran.header.layout);
    // The rate of the link is planned with: with a thousandth of it a step takes far longer.
    let slow = folder.file("slow.ron");
    let mut other = observation.clone();
    other.links.iter_mut().for_each(|link| link.busy.0 *= 1000);
    std::fs::write(&slow, other.to_ron()).expect("it writes");
    let slower = json(&[&["compile", &llama, "--observed", &slow], &half[..], DIMS].concat());
    let predicted = |summary: &serde_json::Value| summary["predicted_nanos"].as_u64().expect("a time");
    assert!(predicted(&slower) > 10 * predicted(&summary), "{slower}, {summary}");

    // Another cap may need other pieces; what is not in the observation is estimated.
    let least = ["compile", &llama, "--observed", &seen, "--memory", "device=least"];
    assert_eq!(json(&[&least[..], DIMS].concat())["costs"], "partly observed");

    let differs = String::from_utf8_lossy(&berth(["diff", &before, &after]).stdout).into_owned();
    assert!(differs.contains("costs of "), "{differs}");
    json(&["run", &after, "--model", &llama]);
    let more = |words: &[&'static str]| [&["compile", &llama, "--observed", &seen], words, DIMS].concat();
    for (words, code, says) in [
        (more(&["--target", "l4"]), 2, "was made on `host`"),
        (more(&["--measure"]), 2, "cannot be used"),
        (
            vec!["compile", &llama, "--observed", &seen, "--dim", "batch=1", "--dim", "seq=1", "--dim", "past=9"],
            2,
            "other dims",
        ),
        (vec!["compile", &llama, "--observed", &after], 2, "--observe"),
        ([&["run", &llama, "--as", "l4", "--observe", &seen], DIMS].concat(), 2, "cannot be used"),
    ] {
        let (found, sentence) = refused(&words);
        assert!(found == code && sentence.contains(says), "{words:?}: {found}, {sentence}");
    }
}
