//! Opens files that a model or a program names, beneath a folder and nowhere else.
//!
//! Such names come from whoever wrote the model. The kernel resolves them in one call, so that nothing can be changed
//! between a check and its use: no `..`, no absolute name, no link on the way, no other root. What is opened is a regular
//! file: a pipe or a device neither blocks the open nor is read.
//!
//! On Linux since 5.6 that is one `openat2`. Where the kernel has none, or a sandbox forbids it, the name is gone down part by
//! part, each opened in the folder before it without following a link, which promises the same and takes a call a part.

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

/// Most parts of a name below the folder. Linux allows a path of 4096 bytes; nobody nests weights deeper than this.
pub const PARTS_MAX: usize = 64;

/// Why a file beneath a folder cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotBeneath {
    /// There is none of this name.
    #[error("there is no such file")]
    Absent,
    /// The name itself is not one of a file below.
    #[error("the name does not stay inside the folder")]
    Name,
    /// A part of the name is a symbolic link.
    #[error("it is a symbolic link, or lies behind one; put the file itself beside the model")]
    Link,
    /// There is something else than a file.
    #[error("it is no regular file")]
    NotAFile,
    /// The system says no.
    #[error("cannot be opened: {0}")]
    Io(io::Error),
}

impl From<NotBeneath> for io::Error {
    fn from(why: NotBeneath) -> io::Error {
        match why {
            NotBeneath::Io(e) => e,
            NotBeneath::Absent => io::ErrorKind::NotFound.into(),
            other => io::Error::other(other),
        }
    }
}

/// Opens a regular file of this relative name beneath a folder, for reading. The folder is the caller's own and is opened as it
/// is given; of the name nothing is trusted.
///
/// # Errors
/// What stands in the way; [`NotBeneath::Absent`] where there is just no such file.
pub fn open(folder: &Path, name: &Path) -> Result<File, NotBeneath> {
    open_by(folder, name, in_one_call)
        .or_else(|e| match e {
            Failed::NoSuchCall => open_by(folder, name, part_by_part),
            other => Err(other),
        })
        .map_err(|e| match e {
            Failed::NoSuchCall => NotBeneath::Io(Errno::NOSYS.into()),
            Failed::Because(why) => why,
        })
}

/// Opens a regular file that the user himself named, wherever it is; links are followed. A pipe or a device neither blocks the
/// open nor is read.
///
/// # Errors
/// The same, without [`NotBeneath::Name`] and [`NotBeneath::Link`].
pub fn open_named(path: &Path) -> Result<File, NotBeneath> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NXIO) => return Err(NotBeneath::NotAFile),
        Err(e) => return Err(NotBeneath::Io(e.into())),
    };
    let metadata = file.metadata().map_err(NotBeneath::Io)?;
    if metadata.is_file() { Ok(file) } else { Err(NotBeneath::NotAFile) }
}

enum Failed {
    NoSuchCall,
    Because(NotBeneath),
}

type Resolve = fn(&OwnedFd, &[&Path], OFlags) -> Result<OwnedFd, Errno>;

fn open_by(folder: &Path, name: &Path, resolve: Resolve) -> Result<File, Failed> {
    let mut parts = Vec::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => parts.push(Path::new(part)),
            Component::CurDir => {}
            _ => return Err(Failed::Because(NotBeneath::Name)),
        }
    }
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return Err(Failed::Because(NotBeneath::Name));
    }
    let because = |e: Errno| {
        Failed::Because(match e {
            Errno::NOENT | Errno::NOTDIR => NotBeneath::Absent,
            Errno::LOOP => NotBeneath::Link,
            Errno::XDEV => NotBeneath::Name,
            // A socket, or a device without a driver.
            Errno::NXIO => NotBeneath::NotAFile,
            other => NotBeneath::Io(other.into()),
        })
    };
    let root =
        openat(CWD, folder, OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY, Mode::empty()).map_err(because)?;
    // A pipe that nobody writes to would otherwise be waited for.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = resolve(&root, &parts, flags).map_err(|e| match e {
        Errno::NOSYS | Errno::PERM => Failed::NoSuchCall,
        other => because(other),
    })?;
    let file = File::from(opened);
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err(Failed::Because(NotBeneath::NotAFile)),
        Err(e) => Err(Failed::Because(NotBeneath::Io(e))),
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn in_one_call(root: &OwnedFd, parts: &[&Path], flags: OFlags) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat2};
    let path: std::path::PathBuf = parts.iter().collect();
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // The kernel says so where a rename elsewhere kept it from being sure.
    for _ in 0..16 {
        match openat2(root, &path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn in_one_call(_root: &OwnedFd, _parts: &[&Path], _flags: OFlags) -> Result<OwnedFd, Errno> {
    Err(Errno::NOSYS)
}

fn part_by_part(root: &OwnedFd, parts: &[&Path], flags: OFlags) -> Result<OwnedFd, Errno> {
    let Some((last, folders)) = parts.split_last() else { return Err(Errno::NOENT) };
    let mut at: Option<OwnedFd> = None;
    for part in folders {
        let here = at.as_ref().unwrap_or(root);
        let down = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        at = Some(openat(here, *part, down, Mode::empty()).map_err(|e| link_or(here, part, e))?);
    }
    let here = at.as_ref().unwrap_or(root);
    openat(here, *last, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// A link where a folder was wanted is said to be no folder; to the caller it is a link.
fn link_or(here: &OwnedFd, part: &Path, e: Errno) -> Errno {
    use rustix::fs::{AtFlags, FileType, statat};
    let link = |s: rustix::fs::Stat| FileType::from_raw_mode(s.st_mode) == FileType::Symlink;
    let is_link = e == Errno::NOTDIR && statat(here, part, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(link);
    if is_link { Errno::LOOP } else { e }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// A folder `model` with files and worse in it, and a secret beside it.
    fn scratch(name: &str) -> Scratch {
        let root = std::env::temp_dir().join(format!("berth-beneath-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(root.join("model/deep/er")).unwrap();
        std::fs::write(root.join("secret"), "secret").unwrap();
        std::fs::write(root.join("model/w.bin"), "weights").unwrap();
        std::fs::write(root.join("model/deep/er/w.bin"), "deeper").unwrap();
        symlink("../secret", root.join("model/out")).unwrap();
        symlink("w.bin", root.join("model/in")).unwrap();
        symlink("..", root.join("model/up")).unwrap();
        symlink("deep", root.join("model/down")).unwrap();
        symlink("nowhere", root.join("model/dangling")).unwrap();
        symlink("/proc/self/root", root.join("model/magic")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(CWD, root.join("model/pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
        Scratch(root)
    }

    fn said(folder: &Path, name: &str, resolve: Resolve) -> String {
        match open_by(folder, Path::new(name), resolve) {
            Ok(mut file) => {
                let mut text = String::new();
                file.read_to_string(&mut text).unwrap();
                text
            }
            Err(Failed::NoSuchCall) => "no such call".to_owned(),
            Err(Failed::Because(NotBeneath::Io(e))) => format!("io {e}"),
            Err(Failed::Because(why)) => format!("{why:?}"),
        }
    }

    const EXPECTED: &[(&str, &str)] = &[
        ("w.bin", "weights"),
        ("./w.bin", "weights"),
        ("deep/er/w.bin", "deeper"),
        ("absent", "Absent"),
        ("deep/absent/w.bin", "Absent"),
        ("w.bin/w.bin", "Absent"),
        ("", "Name"),
        (".", "Name"),
        ("..", "Name"),
        ("deep/../../secret", "Name"),
        ("/etc/passwd", "Name"),
        ("out", "Link"),
        ("in", "Link"),
        ("dangling", "Link"),
        ("up/secret", "Link"),
        ("down/er/w.bin", "Link"),
        ("magic/etc/passwd", "Link"),
        ("deep", "NotAFile"),
        ("pipe", "NotAFile"),
    ];

    #[test]
    fn only_regular_files_beneath_are_opened() {
        let scratch = scratch("steps");
        let folder = scratch.0.join("model");
        for (name, expected) in EXPECTED {
            assert_eq!(said(&folder, name, part_by_part), *expected, "{name:?}, part by part");
        }
        // Old kernels and strict sandboxes do not have the call; what is then done is above.
        if said(&folder, "w.bin", in_one_call) != "no such call" {
            for (name, expected) in EXPECTED {
                assert_eq!(said(&folder, name, in_one_call), *expected, "{name:?}, in one call");
            }
        }
        assert!(open(&folder, Path::new("w.bin")).is_ok());
        assert!(matches!(open(&folder, Path::new("out")), Err(NotBeneath::Link)));
        assert!(matches!(open(&folder.join("none"), Path::new("w.bin")), Err(NotBeneath::Absent)));
        for (name, fine) in [("w.bin", true), ("in", true), ("deep", false), ("pipe", false), ("absent", false)] {
            assert_eq!(open_named(&folder.join(name)).is_ok(), fine, "{name}");
        }
        let long: PathBuf = std::iter::repeat_n("a", PARTS_MAX + 1).collect();
        assert!(matches!(open(&folder, &long), Err(NotBeneath::Name)));
    }

    #[test]
    fn without_the_call_the_name_is_gone_down_by_hand() {
        let scratch = scratch("fallback");
        let no_call: Resolve = |_, _, _| Err(Errno::NOSYS);
        assert_eq!(said(&scratch.0.join("model"), "w.bin", no_call), "no such call");
        let forbidden: Resolve = |_, _, _| Err(Errno::PERM);
        assert_eq!(said(&scratch.0.join("model"), "w.bin", forbidden), "no such call");
    }
}
