//! Opens files beneath a folder, by the kernel's own rule: no name and no link leads out, whoever moves what meanwhile.
//!
//! A link that stays inside is followed, as it is when a model is read. Where the kernel does not know that rule, the
//! name is walked part by part, and no link at all is followed. What is no regular file is not opened: a FIFO would keep
//! its reader waiting, a device would do as it likes.

use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

/// How a file is opened: not waiting for anybody, and never as this process's terminal.
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Whether a name goes down only.
pub(crate) fn goes_down(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Opens a folder that was named by the user.
pub(crate) fn folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, FOLDER, Mode::empty())?)
}

/// Opens a regular file beneath a folder.
pub(crate) fn open(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let rule = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(folder, name, READ, Mode::empty(), rule) {
        // Not there, or not let through by what guards this process.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => walk(folder, name),
        opened => regular(opened?),
    }
}

/// The same where the kernel has no such rule.
fn walk(folder: &OwnedFd, name: &str) -> io::Result<File> {
    let parts: Vec<&std::ffi::OsStr> = Path::new(name).iter().collect();
    let Some((last, above)) = parts.split_last() else { return Err(io::ErrorKind::InvalidInput.into()) };
    let mut inside: Option<OwnedFd> = None;
    for part in above {
        let next = openat(inside.as_ref().unwrap_or(folder), *part, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        inside = Some(next);
    }
    regular(openat(inside.as_ref().unwrap_or(folder), *last, READ | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Opens a file that was named by the user, through links too.
pub(crate) fn open_named(path: &Path) -> io::Result<File> {
    regular(rustix::fs::open(path, READ, Mode::empty())?)
}

fn regular(opened: OwnedFd) -> io::Result<File> {
    let file = File::from(opened);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Has a file read past the page cache; false where its file system cannot.
pub(crate) fn set_direct(file: &File) -> bool {
    rustix::fs::fcntl_setfl(file, OFlags::DIRECT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn nothing_outside_and_nothing_but_files_is_opened() {
        let scratch = Scratch(std::env::temp_dir().join(format!("berth-beneath-{}", std::process::id())));
        let inside = scratch.0.join("model");
        std::fs::create_dir_all(inside.join("data")).expect("a folder");
        std::fs::write(scratch.0.join("secret"), "s").expect("a file");
        std::fs::write(inside.join("data/w"), "w").expect("a file");
        symlink("../secret", inside.join("out")).expect("a link");
        symlink(scratch.0.join("secret"), inside.join("absolute")).expect("a link");
        symlink("..", inside.join("up")).expect("a link");
        symlink("data/w", inside.join("in")).expect("a link");
        symlink("/dev/zero", inside.join("zero")).expect("a link");
        symlink("loop", inside.join("loop")).expect("a link");
        rustix::fs::mknodat(rustix::fs::CWD, inside.join("fifo"), rustix::fs::FileType::Fifo, Mode::from(0o600), 0)
            .expect("a FIFO");
        let at = folder(&inside).expect("it opens");
        for open in [open, walk] {
            assert!(open(&at, "data/w").is_ok());
            let refused =
                ["out", "absolute", "up/secret", "up/model/data/w", "zero", "loop", "fifo", "data", "data/none"];
            for name in refused {
                assert!(open(&at, name).is_err(), "{name}");
            }
        }
        // As when a model is read; part by part no link is followed.
        assert!(open(&at, "in").is_ok() && walk(&at, "in").is_err());
        for name in ["", "/", "..", "../secret", "data/../../secret", "/etc/hostname"] {
            assert!(!goes_down(name), "{name}");
        }
        assert!(goes_down("data/w"));
        // The folder may be moved away: what was opened is what is meant.
        std::fs::rename(&inside, scratch.0.join("moved")).expect("it moves");
        assert!(open(&at, "data/w").is_ok());
    }
}
