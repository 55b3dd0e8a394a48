//! What the tests across crates share: the command, models, a folder of their own.
#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A model of the repository.
pub fn model(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// All models with stored inputs and outputs: the repository's, and those of the shared set where it lies beside.
pub fn runnable_models() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    for folder in [root().join("models"), root().join("../shared/models")] {
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        let paths = entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "onnx"));
        let mut models: Vec<PathBuf> = paths.filter(|p| p.with_extension("npz").is_file()).collect();
        models.retain(|p| !all.iter().any(|known| known.file_name() == p.file_name()));
        models.sort();
        all.append(&mut models);
    }
    all
}

/// Runs `berth` in the repository's folder.
pub fn berth<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_berth"));
    command.args(words).current_dir(root()).stdin(Stdio::null());
    command.output().expect("the command starts")
}

/// What a run that must succeed prints as JSON.
pub fn json(words: &[&str]) -> Value {
    let output = berth(words.iter().copied().chain(["--format", "json"]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "berth {} ended with {}: {stderr}", words.join(" "), output.status);
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

/// What a run says on stderr, less what it notes while it runs: how fast the machine's disk happens to be.
pub fn without_notes(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    said.lines().filter(|line| !line.starts_with("note: ")).map(|line| format!("{line}\n")).collect()
}

/// A run that must fail: its exit code and its words.
pub fn refused(words: &[&str]) -> (i32, String) {
    let output = berth(words);
    let stderr = without_notes(&output);
    let code = output.status.code().unwrap_or(-1);
    assert!(code > 0, "berth {} ended with {code}: {stderr}", words.join(" "));
    assert!(stderr.starts_with("error: "), "berth {}: {stderr}", words.join(" "));
    assert!(!stderr.contains("panicked"), "berth {}: {stderr}", words.join(" "));
    (code, stderr)
}

/// A folder that goes when the test ends.
pub struct Folder(PathBuf);

impl Folder {
    /// Made anew.
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("berth-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
    /// A path in it, as text.
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a UTF-8 path").to_owned()
    }
    /// Its files.
    pub fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("the folder").flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
