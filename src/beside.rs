//! Writes a file beside its place and moves it there when it is whole, so that nobody meets half a file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file that is not yet in its place. Dropped before [`Beside::commit`], it is removed and nothing has changed. Of a process
/// that is killed, `.berth-*.part` is left in the folder: nothing reads it, and it may be removed.
#[derive(Debug)]
pub struct Beside {
    place: PathBuf,
    part: PathBuf,
    file: File,
}

impl Beside {
    /// Creates an empty file in the folder of `place`. A place that holds something other than a regular file (a device,
    /// a folder) is refused: the move would replace it.
    pub fn create(place: &Path) -> io::Result<Beside> {
        match place.metadata() {
            Ok(metadata) if !metadata.is_file() => {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it exists and is no regular file"));
            }
            _ => {}
        }
        let Some(name) = place.file_name() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it names no file"));
        };
        // Through a link to the file behind it, as a plain write would go.
        let place = place.canonicalize().unwrap_or_else(|_| folder(place).join(name));
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let part = folder(&place).join(format!(".berth-{}-{count}.part", std::process::id()));
        let file = OpenOptions::new().write(true).read(true).create(true).truncate(true).open(&part)?;
        Ok(Beside { place, part, file })
    }

    /// The file, to be written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Waits until the bytes are on the disk, then moves the file to its place, over one that is there.
    pub fn commit(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.part, &self.place)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // After a commit there is nothing by this name; otherwise what is left is only scratch.
        let _ = fs::remove_file(&self.part);
    }
}

/// The folder that holds a file.
pub fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A folder of a test, removed at its end.
#[cfg(test)]
pub(crate) mod scratch {
    use super::*;

    pub(crate) struct Scratch(pub(crate) PathBuf);

    impl Scratch {
        pub(crate) fn new(name: &str) -> Scratch {
            let folder = std::env::temp_dir().join(format!("berth-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).unwrap();
            Scratch(folder)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::scratch::Scratch;
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let scratch = Scratch::new("beside");
        let place = scratch.0.join("out");
        fs::write(&place, "old").unwrap();
        let half = Beside::create(&place).unwrap();
        half.file().write_all(b"ne").unwrap();
        drop(half);
        assert_eq!(fs::read(&place).unwrap(), b"old");
        let whole = Beside::create(&place).unwrap();
        whole.file().write_all(b"new").unwrap();
        whole.commit().unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"new");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing is left beside");
    }

    #[test]
    fn devices_and_folders_are_not_replaced() {
        let scratch = Scratch::new("beside-kinds");
        assert!(Beside::create(Path::new("/dev/null")).is_err());
        assert!(Beside::create(&scratch.0).is_err());
        assert!(Beside::create(&scratch.0.join("no such folder/out")).is_err());
    }
}
