//! Runs a target on its corpus and on changes of it. What happens depends on the seed and the count alone, not on a clock.

use crate::mutate::{Random, mutate};
use crate::targets::FuzzTarget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The corpus of this crate.
pub fn corpus_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The files of a target's corpus, by name.
pub fn corpus(target: &FuzzTarget) -> Vec<(String, Vec<u8>)> {
    let folder = corpus_folder().join(target.name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut all: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.expect("a folder that can be read").path();
            let name = path.file_name().expect("a file of a folder").to_string_lossy().into_owned();
            (name, std::fs::read(&path).expect("a file that can be read"))
        })
        .collect();
    all.sort();
    assert!(!all.is_empty(), "{} has no file", folder.display());
    all
}

/// Bytes at which a target panicked, and what it said.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The input.
    pub bytes: Vec<u8>,
    /// The panic's words.
    pub words: String,
}

/// Runs a target on these bytes; what it panicked with.
pub fn once(target: &FuzzTarget, bytes: &[u8]) -> Result<(), Finding> {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).map_err(|panic| {
        let words = panic.downcast_ref::<String>().cloned();
        let words = words.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default();
        Finding { bytes: bytes.to_vec(), words }
    })
}

/// Runs a target on changes of these files. Now and then a change stays among what is changed further, so that changes add
/// up; `each` hears of every execution.
pub fn changes(
    target: &FuzzTarget,
    files: &[(String, Vec<u8>)],
    executions: u64,
    seed: u64,
    mut each: impl FnMut(u64, &[u8], Result<(), Finding>),
) {
    /// How many changed inputs are kept at a time.
    const KEPT: usize = 256;
    let mut random = Random(seed);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for n in 0..executions {
        let pick = |random: &mut Random, kept: &[Vec<u8>]| match random.below(4) {
            0 if !kept.is_empty() => random.of(kept).clone(),
            _ => random.of(files).1.clone(),
        };
        let (base, other) = (pick(&mut random, &kept), pick(&mut random, &kept));
        let bytes = mutate(target.form, &base, &other, &mut random);
        let ran = once(target, &bytes);
        if ran.is_ok() && random.below(8) == 0 {
            match kept.len() {
                KEPT => {
                    let place = random.below(KEPT);
                    kept[place] = bytes.clone();
                }
                _ => kept.push(bytes.clone()),
            }
        }
        each(n, &bytes, ran);
    }
}
