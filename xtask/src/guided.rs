//! Checks `tests/fuzz/guided`, which is no member of the workspace: libFuzzer is C++, and only hours of fuzzing need it.

use crate::{Failure, cargo};
use std::path::Path;

const MANIFEST: &str = "tests/fuzz/guided/Cargo.toml";
const HELP: &str = "its own words are above; tests/fuzz/README.md says how it is run";

/// Its format, and that it compiles. Nothing is linked, so no libFuzzer is built; with the repository's own settings most of
/// what it depends on has been checked before.
pub fn check(root: &Path) -> Result<(), Failure> {
    let format = ["fmt", "--manifest-path", MANIFEST, "--check"];
    cargo::run(root, &format, &[], "`cargo fmt` in tests/fuzz/guided does it")?;
    let mut words = vec!["check", "--locked", "--release", "--manifest-path", MANIFEST];
    for setting in ["profile.release.overflow-checks=false", "profile.release.debug-assertions=false"] {
        words.extend(["--config", setting]);
    }
    if std::env::var_os("CARGO_TARGET_DIR").is_none() {
        words.extend(["--target-dir", "target"]);
    }
    cargo::run(root, &words, &[("CUSTOM_LIBFUZZER_PATH", "/dev/null")], HELP)
}
