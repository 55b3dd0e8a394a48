//! Disks that are full: a command that finds no room for what it writes says so, leaves what was there before, and nothing beside
//! it; with room it succeeds.

mod common;

use common::{Folder, berth, model, root};
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A command that writes a file.
struct Case {
    name: &'static str,
    /// The file's name.
    file: &'static str,
    words: Vec<String>,
}

fn cases() -> Vec<Case> {
    let path = model("llama_decode.onnx");
    let (llama, inputs) = (path.to_str().expect("UTF-8"), path.with_extension("npz"));
    let inputs = inputs.to_str().expect("UTF-8");
    let case = |name, file, words: &[&str]| Case { name, file, words: words.iter().map(|w| (*w).to_owned()).collect() };
    let compile = ["compile", llama, "--dim", "batch=1", "--dim", "past=8", "--dim", "seq=1", "-o"];
    let run = ["run", llama, "--inputs", inputs, "--memory", "device=60%"];
    let with = |option: &'static str| [&run[..], &[option]].concat();
    vec![
        case("compile to text", "plan.ron", &compile),
        case("compile to binary", "plan.binpb", &compile),
        case("outputs of a run", "outputs.npz", &with("--outputs")),
        case("the trace of a run", "trace.json", &with("--trace")),
        case("the plan of a run", "plan.ron", &with("--save")),
        case("what a run saw", "seen.ron", &with("--observe")),
    ]
}

/// Runs berth in a shell that first does something; `$0` is berth, its words are the others.
fn within(first: &str, shell: &[&str], words: &[String]) -> Output {
    let mut command = Command::new(shell[0]);
    command.args(&shell[1..]).args(["-c", &format!("{first}; exec \"$0\" \"$@\"")]);
    command.arg(env!("CARGO_BIN_EXE_berth")).args(words).current_dir(root()).stdin(Stdio::null());
    command.output().expect("the shell starts")
}

/// It failed, said where, and nothing is left but what was there.
fn check_refused(case: &Case, output: &Output, place: &Path, before: Option<&[u8]>, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let (name, file) = (case.name, case.file);
    assert!(output.status.code().is_some_and(|code| code > 0), "{name}: ended with {}: {said}", output.status);
    assert!(said.contains("error: ") && !said.contains("panicked"), "{name}: {said}");
    assert!(said.contains(file) && said.contains(why), "{name}: {said}");
    assert_eq!(std::fs::read(place).ok().as_deref(), before, "{name}: the file is another one");
}

#[test]
fn a_file_that_may_not_be_so_large_is_an_error_and_no_half_file() {
    for case in cases() {
        let folder = Folder::new("full-limit");
        let place = folder.file(case.file);
        let words: Vec<String> = case.words.iter().cloned().chain([place.clone()]).collect();
        let output = berth(&words);
        assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::metadata(&place).expect("a file").len();
        assert!(bytes > 1024, "{} writes something", case.name);
        // Blocks of half a KiB: none, half of what it takes, and most of it (times, and so lengths, differ a little).
        for (n, blocks) in [0, bytes / 1024, bytes * 3 / 4 / 512].into_iter().enumerate() {
            let before: Option<&[u8]> = (n % 2 == 0).then_some(b"of an earlier run");
            match before {
                Some(bytes) => std::fs::write(&place, bytes).expect("it writes"),
                None => std::fs::remove_file(&place).expect("it goes"),
            };
            let output = within(&format!("trap '' XFSZ; ulimit -f {blocks}"), &["sh"], &words);
            check_refused(&case, &output, Path::new(&place), before, "File too large");
            let left = folder.files().into_iter().filter(|other| other != case.file).collect::<Vec<_>>();
            assert!(left.is_empty(), "{} left {left:?}", case.name);
        }
        let output = berth(&words);
        assert!(output.status.success(), "{}: {}", case.name, String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_disk_that_is_full_is_an_error_and_no_half_file() {
    // A small disk of its own, seen by the command alone; not every machine lets a test have one.
    let shell = ["unshare", "-Urm", "sh"];
    let folder = Folder::new("full-disk");
    let disk = folder.file("disk");
    std::fs::create_dir(&disk).expect("a folder");
    let mount = |kib: u64| format!("mount -t tmpfs -o size={kib}k none '{disk}' && cd '{}'", root().display());
    let tried = Command::new(shell[0]).args(&shell[1..]).args(["-c", &mount(64)]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        println!("no disk of a test's own here: skipped");
        return;
    }
    for case in cases() {
        let place = format!("{disk}/{}", case.file);
        let words: Vec<String> = case.words.iter().cloned().chain([place.clone()]).collect();
        // The shell stays, to say what is left on the disk when the command has ended.
        let all = format!(
            "{} && printf earlier > '{place}' && \"$0\" \"$@\"; code=$?; ls -A '{disk}' >&2; cat '{place}' >&2; exit $code",
            mount(8)
        );
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).args(["-c", &all, env!("CARGO_BIN_EXE_berth")]).args(&words);
        let output = command.current_dir(root()).stdin(Stdio::null()).output().expect("the shell starts");
        check_refused(&case, &output, Path::new(&place), None, "No space left on device");
        let said = String::from_utf8_lossy(&output.stderr);
        let end = format!("{}\nearlier", case.file);
        assert!(said.ends_with(&end), "{}: {said}", case.name);
        let left = said.lines().rev().nth(2).unwrap_or_default();
        assert!(!left.ends_with(".part"), "{}: {said}", case.name);
    }
}
