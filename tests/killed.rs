//! Commands that are killed at some moment: a file is whole under its name or not there, and the command run again succeeds.

mod common;

use common::{Folder, berth, json, model, root};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Moments at which each command is killed.
const MOMENTS: u32 = 12;

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

/// Kills a command at moments over all of its time; how often it had not ended, and how often it had.
fn kill(name: &str, make: impl Fn(&Folder) -> Case) -> (u32, u32) {
    let folder = Folder::new(&format!("killed-{name}"));
    let case = make(&folder);
    let file = Path::new(&case.place).file_name().expect("a name").to_string_lossy().into_owned();
    let took = case.run();
    let whole = std::fs::read(&case.place).expect("a file");
    let (mut killed, mut ended) = (0, 0);
    for moment in 0..MOMENTS {
        // Every other time there is a file of an earlier run, which stays until the new one is whole.
        let before = moment % 2 == 1;
        match before {
            true => std::fs::write(&case.place, b"of an earlier run").expect("it writes"),
            false => std::fs::remove_file(&case.place).expect("it goes"),
        }
        let mut child = case.command().spawn().expect("it starts");
        std::thread::sleep(took * moment / MOMENTS);
        child.kill().expect("it is killed");
        let status = child.wait().expect("it has ended");
        killed += u32::from(!status.success());
        ended += u32::from(status.success());
        match std::fs::read(&case.place) {
            Ok(bytes) if bytes == whole => {}
            Ok(bytes) => assert!(before && bytes == b"of an earlier run", "{name}: half a file at moment {moment}"),
            Err(e) => assert!(!before && e.kind() == std::io::ErrorKind::NotFound, "{name} at moment {moment}: {e}"),
        }
        let others = folder.files().into_iter().filter(|other| *other != file);
        let resumes = |other: &str| case.resumes.iter().any(|end| *other == format!("{file}{end}"));
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
    println!("{name}: killed {killed} times, ended before {ended} times, in {took:?}");
    (killed, ended)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_pack_is_whole_or_not_there() {
    let bert = model("bert_encoder.onnx");
    let (killed, _) = kill("pack", |folder| {
        let place = folder.file("w.berth");
        let words = words(&["pack", bert.to_str().expect("UTF-8"), "-o", &place]);
        Case { place, words, reads: &["pack", "--check"], resumes: &[".part", ".part.log"] }
    });
    assert!(killed > 0, "it was never killed");
}

#[test]
fn a_program_is_whole_or_not_there() {
    let llama = model("llama_decode.onnx");
    for (form, end) in [("text", "ron"), ("binary", "binpb")] {
        let (killed, _) = kill(form, |folder| {
            let place = folder.file(&format!("plan.{end}"));
            let llama = llama.to_str().expect("UTF-8");
            let words =
                words(&["compile", llama, "--dim", "batch=1", "--dim", "past=8", "--dim", "seq=1", "-o", &place]);
            Case { place, words, reads: &["verify"], resumes: &[] }
        });
        assert!(killed > 0, "it was never killed");
    }
}

#[test]
fn outputs_are_whole_or_not_there() {
    let path = model("llama_decode.onnx");
    let (llama, inputs) = (path.to_str().expect("UTF-8"), path.with_extension("npz"));
    let (killed, _) = kill("run", |folder| {
        let place = folder.file("outputs.npz");
        let inputs = inputs.to_str().expect("UTF-8");
        let words = words(&["run", llama, "--inputs", inputs, "--memory", "device=60%", "--outputs", &place]);
        Case { place, words, reads: &[], resumes: &[] }
    });
    assert!(killed > 0, "it was never killed");
}
