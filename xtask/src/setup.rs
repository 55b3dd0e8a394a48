//! `cargo xtask setup`: fetches the compute engine's library into `.berth/engine`.
//!
//! pip downloads the wheel that `runtime-exec/engine-requirements.txt` pins by version and hash, whatever Python is
//! installed here; the shared library and its licence are unpacked beside the final folder, which then takes its
//! place by a rename. A folder that already holds what the requirements ask for is left as it is.

use crate::Failure;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What to fetch: version and hashes, in pip's own form.
pub const REQUIREMENTS: &str = "runtime-exec/engine-requirements.txt";

/// Where it goes, under the repository's root; ignored by git.
const ENGINE: &str = ".berth/engine";

/// In that folder: the requirements it was made from. Equal text means nothing to do.
const STAMP: &str = "made-from.txt";

/// Unpacks the library and the licence texts of the one wheel in a folder: `unpack.py WHEELS OUT`.
const UNPACK: &str = r#"
import os, shutil, sys, zipfile
wheels, out = sys.argv[1:]
[wheel] = [name for name in os.listdir(wheels) if name.endswith(".whl")]
with zipfile.ZipFile(os.path.join(wheels, wheel)) as archive:
    for name in archive.namelist():
        base = os.path.basename(name)
        library = name.startswith("onnxruntime/capi/libonnxruntime.so")
        if library or name in ("onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"):
            with archive.open(name) as source, open(os.path.join(out, base), "wb") as target:
                shutil.copyfileobj(source, target)
if not any(base.startswith("libonnxruntime.so") for base in os.listdir(out)):
    sys.exit(f"{wheel} holds no onnxruntime/capi/libonnxruntime.so")
"#;

const USAGE: &str = "\
cargo xtask setup [--wheels FOLDER] [--force]

  --wheels FOLDER   take the wheel from this folder instead of the network; its hash is checked all the same
  --force           fetch again even if the engine is there";

/// Runs the command.
pub fn run(root: &Path, words: &[String]) -> Result<(), Failure> {
    let mut wheels = None;
    let mut force = false;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word.as_str() {
            "--force" => force = true,
            "--wheels" => match rest.next() {
                Some(folder) => wheels = Some(PathBuf::from(folder)),
                None => return Err(Failure::Usage(format!("--wheels needs a folder\n\n{USAGE}"))),
            },
            "--help" | "-h" => {
                println!("{USAGE}");
                return Ok(());
            }
            other => return Err(Failure::Usage(format!("`{other}` is not known to setup\n\n{USAGE}"))),
        }
    }

    let engine = root.join(ENGINE);
    let wanted = read(&root.join(REQUIREMENTS))?;
    if !force && is_made_from(&engine, &wanted) {
        eprintln!("engine is ready: {ENGINE}");
        return Ok(());
    }

    // Everything is made in a folder of this process beside the final one, so that a stop half way leaves no engine
    // that looks whole, and two set-ups at once do not mix their files.
    let making = root.join(format!("{ENGINE}.making-{}", std::process::id()));
    let outcome =
        make(root, &making, wheels.as_deref(), &wanted).and_then(|()| put(&making.join("engine"), &engine, &wanted));
    // What is left over is only scratch; failing to remove it does not spoil the engine.
    let _ = fs::remove_dir_all(&making);
    outcome?;
    eprintln!("engine is ready: {ENGINE}");
    Ok(())
}

/// True if the folder holds a library and was made from exactly these requirements.
fn is_made_from(engine: &Path, wanted: &str) -> bool {
    let same = fs::read_to_string(engine.join(STAMP)).is_ok_and(|made_from| made_from == wanted);
    let names = fs::read_dir(engine).into_iter().flatten().flatten().map(|entry| entry.file_name());
    same && names.into_iter().any(|name| name.to_string_lossy().starts_with("libonnxruntime.so"))
}

/// Downloads and unpacks into `making/engine`.
fn make(root: &Path, making: &Path, wheels: Option<&Path>, wanted: &str) -> Result<(), Failure> {
    let (downloads, engine) = (making.join("wheels"), making.join("engine"));
    for folder in [&downloads, &engine] {
        fs::create_dir_all(folder).map_err(|e| disk("make", folder, &e))?;
    }
    eprintln!("fetching the compute engine with pip (24 MB) ...");
    download(root, wheels, &downloads)?;
    let unpacked = python(Command::new("python3").arg("-c").arg(UNPACK).arg(&downloads).arg(&engine))?;
    if !unpacked.status.success() {
        return Err(Failure::Failed {
            what: format!("the wheel could not be unpacked\n{}", indented(&unpacked)),
            help: "is there room for 60 MB under the repository's root?".into(),
        });
    }
    let stamp = engine.join(STAMP);
    fs::write(&stamp, wanted).map_err(|e| disk("write", &stamp, &e))
}

/// Asks pip for the pinned wheel of this machine's architecture.
fn download(root: &Path, wheels: Option<&Path>, downloads: &Path) -> Result<(), Failure> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2"])
        .args(["--no-deps", "--only-binary=:all:", "--require-hashes", "--python-version", "3.11"])
        .args(["--implementation", "cp", "--platform", platform()?])
        .arg("--requirement")
        .arg(root.join(REQUIREMENTS))
        .arg("--dest")
        .arg(downloads);
    if let Some(folder) = wheels {
        pip.arg("--no-index").arg("--find-links").arg(folder);
    }
    let output = python(&mut pip)?;
    if output.status.success() {
        return Ok(());
    }
    let (what, help) = match reason(&String::from_utf8_lossy(&output.stderr)) {
        Reason::NoPip => ("python3 has no pip", "install it (Debian: `apt install python3-pip`), then run this again"),
        Reason::Hash => (
            "the downloaded wheel is not the one that the hash pins",
            "do not use it; check the package index that pip is set to, or a proxy in between",
        ),
        Reason::Network => (
            "pip reached no package index",
            "check the network, or bring the wheel here and name its folder with `--wheels FOLDER`",
        ),
        Reason::Missing => (
            "the pinned wheel was not found",
            "is the package index that pip is set to a full one? `--wheels FOLDER` takes a wheel brought by hand",
        ),
        Reason::Other => ("pip failed", "its own words are above"),
    };
    Err(Failure::Failed { what: format!("{what}\n{}", indented(&output)), help: help.into() })
}

/// pip's name for this machine, or why there is none.
fn platform() -> Result<&'static str, Failure> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Ok("manylinux_2_28_x86_64"),
        ("linux", "aarch64") => Ok("manylinux_2_28_aarch64"),
        (os, arch) => Err(Failure::Failed {
            what: format!("no engine is pinned for {os} on {arch}"),
            help: format!("add its wheel's hash to {REQUIREMENTS} and its platform to xtask/src/setup.rs"),
        }),
    }
}

/// What kind of failure pip's words speak of.
#[derive(Debug, PartialEq)]
enum Reason {
    NoPip,
    Hash,
    Network,
    Missing,
    Other,
}

fn reason(stderr: &str) -> Reason {
    let says = |words: &[&str]| words.iter().any(|w| stderr.contains(w));
    // Order matters: without a network pip first warns of retries, then says that nothing matches.
    if says(&["No module named pip"]) {
        Reason::NoPip
    } else if says(&["DO NOT MATCH THE HASHES", "Hashes are required", "Expected sha256"]) {
        Reason::Hash
    } else if says(&["Retrying (", "Connection", "Temporary failure in name resolution", "timed out", "SSLError"]) {
        Reason::Network
    } else if says(&["No matching distribution", "Could not find a version"]) {
        Reason::Missing
    } else {
        Reason::Other
    }
}

/// Moves the finished folder into place. A rename replaces no folder that has files, so the old one steps aside first.
fn put(made: &Path, engine: &Path, wanted: &str) -> Result<(), Failure> {
    let aside = made.with_file_name("old");
    match fs::rename(engine, &aside) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(disk("move away", engine, &e)),
    }
    match fs::rename(made, engine) {
        Ok(()) => Ok(()),
        // Another set-up was faster: as good as ours.
        Err(_) if is_made_from(engine, wanted) => Ok(()),
        Err(e) => Err(disk("move into place", engine, &e)),
    }
}

/// Runs python3 and says so clearly when there is none.
fn python(command: &mut Command) -> Result<Output, Failure> {
    command.output().map_err(|e| Failure::Failed {
        what: format!("python3 could not be started: {e}"),
        help: "install Python 3 with pip; it only downloads and unpacks, berth itself does not use it".into(),
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|e| disk("read", path, &e))
}

fn disk(verb: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed {
        what: format!("could not {verb} {}: {error}", path.display()),
        help: "check the permissions and the free space there".into(),
    }
}

fn indented(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .trim()
        .lines()
        .map(|line| format!("  | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pip_words_are_told_apart() {
        let retries = "WARNING: Retrying (Retry(total=1)) after ...\nERROR: No matching distribution found for x";
        assert_eq!(reason(retries), Reason::Network);
        assert_eq!(reason("ERROR: No matching distribution found for x"), Reason::Missing);
        assert_eq!(reason("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM"), Reason::Hash);
        assert_eq!(reason("/usr/bin/python3: No module named pip"), Reason::NoPip);
        assert_eq!(reason("Killed"), Reason::Other);
    }

    #[test]
    fn only_a_whole_folder_counts() {
        let folder = std::env::temp_dir().join(format!("berth-setup-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        assert!(!is_made_from(&folder, "x"));
        fs::write(folder.join(STAMP), "x").unwrap();
        assert!(!is_made_from(&folder, "x"), "a stamp without a library");
        fs::write(folder.join("libonnxruntime.so.1"), "").unwrap();
        assert!(is_made_from(&folder, "x"));
        assert!(!is_made_from(&folder, "y"), "made from other requirements");
        fs::remove_dir_all(&folder).unwrap();
    }
}
