//! Finds the engine's library.

use super::EngineError;
use std::path::{Path, PathBuf};

/// The environment variable that names the library's file or folder.
pub const VARIABLE: &str = "BERTH_ENGINE";

/// Where the set-up command puts the library, under the repository's root.
const FOLDER: &str = ".berth/engine";

/// Looks for the library: the path given, else the variable `BERTH_ENGINE` (each a file or a folder), else
/// `.berth/engine` under the current folder or one above it, else beside the executable, else `.berth/engine` under a
/// folder above the executable.
pub fn find_library(given: Option<&Path>) -> Result<PathBuf, EngineError> {
    let named = given.map(Path::to_path_buf).or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from));
    let missing = |looked: String| EngineError::Missing { looked };
    if let Some(path) = named {
        return library_at(&path).ok_or_else(|| missing(path.display().to_string()));
    }
    let under = |start: &Path| start.ancestors().find_map(|folder| library_at(&folder.join(FOLDER)));
    let here = std::env::current_dir().unwrap_or_default();
    let executable = std::env::current_exe().unwrap_or_default();
    let beside = executable.parent().unwrap_or(Path::new(""));
    under(&here).or_else(|| library_at(beside)).or_else(|| under(beside)).ok_or_else(|| {
        missing(format!("${VARIABLE}, {FOLDER} under {} and above, {} and above", here.display(), beside.display()))
    })
}

/// The library if the path is it, or a folder that holds it: the plain name first, else the highest version.
fn library_at(path: &Path) -> Option<PathBuf> {
    let found = if path.is_dir() {
        let stem = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
        let names = std::fs::read_dir(path).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|n| *n == stem || n.starts_with(&format!("{stem}."))).collect();
        names.sort();
        let name = if names.first() == Some(&stem) { names.swap_remove(0) } else { names.pop()? };
        path.join(name)
    } else {
        path.to_path_buf()
    };
    // An absolute path, so that no search path of the loader comes into it, and equal libraries compare equal.
    found.canonicalize().ok().filter(|file| file.is_file())
}
