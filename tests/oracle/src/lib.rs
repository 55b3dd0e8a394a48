//! Two oracles for berth's importer: a decoder and a shape inference, both written by others.
//!
//! [`decoding`] compares messages field by field, [`shapes`] compares the shape and type of each value. Both read the
//! same trusted files, which [`models`] lists; a hostile file could abort the process (see README.md).

pub mod convert;
pub mod decoding;
pub mod rules;
pub mod shapes;

use std::path::{Path, PathBuf};

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A model of the repository.
pub fn model(name: &str) -> PathBuf {
    root().join("models").join(name)
}

/// True where the shared set lies beside the repository.
pub fn shared() -> bool {
    root().join("../shared/models").is_dir()
}

/// Every trusted model: the repository's, and those of the shared set where it lies beside. Files made to do harm are
/// not among them.
pub fn models() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = Vec::new();
    let mut folders = vec![root().join("../shared/models"), root().join("models")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let known = all.iter().any(|other| other.file_name() == path.file_name());
            if path.is_dir() && path.file_name().is_some_and(|name| name != "hostile") {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "onnx") && !known {
                all.push(path);
            }
        }
    }
    all
}

/// The file's name without its ending.
pub fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
