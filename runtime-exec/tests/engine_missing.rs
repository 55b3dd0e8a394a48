//! What a person sees where the compute engine's library is not there, or is something else. One process of its own,
//! because a library that was loaded stays.

use berth_runtime_exec::engine::ort::{OrtEngine, find_library};
use berth_runtime_exec::engine::{EngineError, EngineOptions};

#[test]
fn absent_or_odd_libraries_are_named_with_the_way_forward() {
    let folder = std::env::temp_dir().join(format!("berth-no-engine-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let error = find_library(Some(&folder)).unwrap_err();
    assert!(error.to_string().contains("run `cargo xtask setup`"), "{error}");

    let text = folder.join("libonnxruntime.so.9.txt");
    std::fs::write(&text, "not a library").unwrap();
    assert!(find_library(Some(&folder)).is_ok(), "a folder that holds a file of that name");
    let error = OrtEngine::open(&EngineOptions { library: Some(text), threads: 1, spin: false }).unwrap_err();
    assert!(matches!(error, EngineError::Library { .. }), "{error}");
    assert!(error.to_string().contains("`cargo xtask setup`"), "{error}");

    // Any other shared library: it loads, and lacks the function.
    #[cfg(target_os = "linux")]
    if let Some(libc) = libc_path() {
        let error = OrtEngine::open(&EngineOptions { library: Some(libc), threads: 1, spin: false }).unwrap_err();
        assert!(error.to_string().contains("OrtGetApiBase"), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// The C library of this process, as the system says it.
#[cfg(target_os = "linux")]
fn libc_path() -> Option<std::path::PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| line.contains("libc.so"))?;
    line.split_whitespace().last().map(Into::into)
}
