//! Commands that are killed at some moment: a file is whole under its name or not there, and the command run again succeeds.

mod common;

use common::{Folder, berth, json, model, root};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A command that writes a file, which is its last word.
struct Case {
    /// The file.
    place: String,
    words: Vec<String>,
    /// What must be able to read it, given its name.
    reads: &'static [&'static str],
    /// What a try that was killed may leave beside it, which the next one uses up.
    resumes: &'static [&'static str],
}

impl Case {
    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
        command.args(&self.words).current_dir(root());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self) -> Duration {
        let began = Instant::now();
        let output = berth(&self.words);
        assert!(output.status.success(), "{:?}: {}", self.words, String::from_utf8_lossy(&output.stderr));
        began.elapsed()
    }
}

/// Names of what is scratch of a command that was killed, as `berth` names it.
fn is_scratch(name: &str) -> bool {
    name.starts_with(".berth-") && name.ends_with(".part")
}

/// Kills a command at so many moments over all of its time and a little more, and holds what is left against what may be.
fn kill(name: &str, moments: u32, make: impl Fn(&Folder) -> Case) {
    let folder = Folder::new(&format!("killed-{name}"));
    let case = make(&folder);
    let file = Path::new(&case.place).file_name().expect("a name").to_string_lossy().into_owned();
    let took = case.run();
    let whole = std::fs::read(&case.place).expect("a file");
    let (mut killed, mut ended, mut resumed, mut scratch) = (0, 0, 0, 0);
    for moment in 0..moments {
        // Every other time there is a file of an earlier run, which stays until the new one is whole.
        let before = moment % 2 == 1;
        match before {
            true => std::fs::write(&case.place, b"of an earlier run").expect("it writes"),
            false => std::fs::remove_file(&case.place).expect("it goes"),
        }
        let mut child = case.command().spawn().expect("it starts");
        std::thread::sleep(took * moment * 5 / (4 * moments));
        child.kill().expect("it is killed");
        let status = child.wait().expect("it has ended");
        killed += u32::from(!status.success());
        ended += u32::from(status.success());
        match std::fs::read(&case.place) {
            Ok(bytes) if bytes == whole => {}
            Ok(bytes) => assert!(before && bytes == b"of an earlier run", "{name}: half a file at moment {moment}"),
            Err(e) => assert!(!before && e.kind() == std::io::ErrorKind::NotFound, "{name} at moment {moment}: {e}"),
        }
        // What is scratch stays where it is, and stands in nobody's way.
        scratch = folder.files().iter().filter(|other| is_scratch(other)).count();
        let others = folder.files().into_iter().filter(|other| *other != file);
        let resumes = |other: &str| case.resumes.iter().any(|end| *other == format!("{file}{end}"));
        resumed += u32::from(folder.files().iter().any(|other| resumes(other)));
        let strange: Vec<String> = others.filter(|other| !is_scratch(other) && !resumes(other)).collect();
        assert!(strange.is_empty(), "{name} at moment {moment} left {strange:?}");
        case.run();
        assert!(std::fs::read(&case.place).expect("a file") == whole, "{name}: another file after moment {moment}");
        let left = folder.files().into_iter().find(|other| resumes(other));
        assert_eq!(left, None, "{name}: what was gone on from is used up");
    }
    if !case.reads.is_empty() {
        let words: Vec<&str> = case.reads.iter().copied().chain([case.place.as_str()]).collect();
        json(&words);
    }
    let wrote = scratch as u32 + resumed;
    println!("{name}: killed {killed} times, {wrote} of them while it wrote beside; ended before {ended} times");
    assert!(killed > 0, "{name} was never killed");
}

/// Kills a command as soon as it writes beside its place, so many times; what is left is held as after any kill.
fn kill_while_it_writes(name: &str, times: usize, make: impl Fn(&Folder) -> Case) {
    let folder = Folder::new(&format!("killed-writing-{name}"));
    let case = make(&folder);
    case.run();
    let whole = std::fs::read(&case.place).expect("a file");
    let scratch = || folder.files().iter().filter(|other| is_scratch(other)).count();
    let mut met = 0;
    for n in 0..times {
        let before = n % 2 == 1;
        match before {
            true => std::fs::write(&case.place, b"of an earlier run").expect("it writes"),
            false => std::fs::remove_file(&case.place).expect("it goes"),
        }
        let left = scratch();
        let mut child = case.command().spawn().expect("it starts");
        // As often as there is time for: the file is there for no longer than a write and a sync take.
        while scratch() <= left && child.try_wait().expect("it can be asked").is_none() {}
        child.kill().expect("it is killed");
        let killed = !child.wait().expect("it has ended").success();
        let there = std::fs::read(&case.place).ok();
        let earlier = before.then(|| b"of an earlier run".to_vec());
        // Looking takes a moment: what was seen beside may have been moved to its place before the kill.
        let beside = killed && scratch() > left;
        met += usize::from(beside);
        let right = there == earlier && killed || there.as_ref() == Some(&whole) && !beside;
        assert!(right, "{name}: half a file, or another one (killed: {killed}, something lies beside: {beside})");
        case.run();
        assert!(std::fs::read(&case.place).expect("a file") == whole, "{name}: another file after a kill");
    }
    println!("{name}: {met} of {times} kills met it while it wrote");
    assert!(met > 0, "{name} was never killed while it wrote");
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_pack_is_whole_or_not_there() {
    let bert = model("bert_encoder.onnx");
    kill("pack", 40, |folder| {
        let place = folder.file("w.berth");
        let words = words(&["pack", bert.to_str().expect("UTF-8"), "-o", &place]);
        Case { place, words, reads: &["pack", "--check"], resumes: &[".part", ".part.log"] }
    });
}

#[test]
fn a_program_is_whole_or_not_there() {
    let llama = model("llama_decode.onnx");
    for (form, end) in [("text", "ron"), ("binary", "binpb")] {
        kill(form, 40, |folder| {
            let place = folder.file(&format!("plan.{end}"));
            let llama = llama.to_str().expect("UTF-8");
            let words =
                words(&["compile", llama, "--dim", "batch=1", "--dim", "past=8", "--dim", "seq=1", "-o", &place]);
            Case { place, words, reads: &["verify"], resumes: &[] }
        });
    }
}

#[test]
fn outputs_are_whole_or_not_there() {
    let path = model("llama_decode.onnx");
    let (llama, inputs) = (path.to_str().expect("UTF-8"), path.with_extension("npz"));
    let make = |folder: &Folder| {
        let place = folder.file("outputs.npz");
        let inputs = inputs.to_str().expect("UTF-8");
        let words = words(&["run", llama, "--inputs", inputs, "--memory", "device=60%", "--outputs", &place]);
        Case { place, words, reads: &[], resumes: &[] }
    };
    kill("run", 12, make);
    kill_while_it_writes("outputs", 12, make);
}
