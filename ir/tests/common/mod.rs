//! What the tests share: the golden folder, read.

#![allow(dead_code, reason = "each test file uses its part")]

use berth_ir::{Program, Target, text};
use std::path::PathBuf;

/// A folder of `golden/`.
pub fn golden(folder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../golden").join(folder)
}

/// Name without `.ron` and text of each file of a folder, by name.
pub fn files(folder: &str) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(golden(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "ron") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            all.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    all.sort();
    assert!(!all.is_empty(), "no file in golden/{folder}");
    all
}

/// The target of this name in `golden/targets`, where `-` is written `_`.
pub fn target(name: &str) -> Target {
    let path = golden("targets").join(name.replace('-', "_")).with_extension("ron");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("target {name}: {e}"));
    Target::from_ron(&text).unwrap_or_else(|e| panic!("target {name}: {e}"))
}

/// A program of `golden/programs` and its target.
pub fn program(name: &str) -> (Target, Program) {
    let text = std::fs::read_to_string(golden("programs").join(name).with_extension("ron")).unwrap();
    let program = parse(name, &text);
    (target(&program.header.target), program)
}

/// Reads a program that must read.
pub fn parse(name: &str, program: &str) -> Program {
    text::parse(program).unwrap_or_else(|e| panic!("{name}: {e}"))
}
