//! Reads the homes of weights from files, past the page cache, so that no memory is used that no plan knows of.
//!
//! Direct I/O moves whole sectors between aligned addresses. Where file offset and address agree modulo a page, whole
//! pages go straight to where they belong; heads, tails and all else go through a bounce buffer.

use crate::arena::PAGE;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one bounce buffer, and of the reads that use it.
const BOUNCE: usize = 1 << 20;

/// Files by the name that programs use.
#[derive(Debug)]
pub struct Store {
    files: BTreeMap<String, Stored>,
}

#[derive(Debug)]
struct Stored {
    path: PathBuf,
    file: File,
    bytes: u64,
    direct: bool,
}

/// A bounce buffer; each reading thread has its own.
#[derive(Debug)]
pub struct Bounce(Vec<u8>);

impl Default for Bounce {
    fn default() -> Bounce {
        Bounce(vec![0; BOUNCE + PAGE])
    }
}

impl Bounce {
    /// The part that starts at a page.
    fn aligned(&mut self) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(PAGE).min(PAGE);
        &mut self.0[skip..skip + BOUNCE]
    }
}

/// Why bytes could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file is not there.
    #[error("the weights file `{}` is not there; make it with `berth seed-weights MODEL`, or put the exporter's beside the model", path.display())]
    Absent {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A name that leads out of the model's folder.
    #[error("the program names the file `{name}`, which is not inside the model's folder")]
    Outside {
        /// The name.
        name: String,
    },
    /// A file is shorter than the program says.
    #[error("`{}` ends at {has} bytes; `{what}` needs it to have {needed}: the file is cut off or another one", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// What is read.
        what: String,
        /// Bytes that it should have at least.
        needed: u64,
        /// Bytes that it has.
        has: u64,
    },
    /// The system says no.
    #[error("reading `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The program names a file that was not opened.
    #[error("the file `{name}` was not opened")]
    Unknown {
        /// The name.
        name: String,
    },
}

impl Store {
    /// Opens files in a folder. `needs` says for each name how many bytes the file must have, and for what.
    pub fn open(folder: &Path, needs: &BTreeMap<String, (u64, String)>) -> Result<Store, StoreError> {
        let mut files = BTreeMap::new();
        for (name, (needed, what)) in needs {
            let relative = Path::new(name);
            let inside = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !inside || name.is_empty() {
                return Err(StoreError::Outside { name: name.clone() });
            }
            let stored = open(folder.join(relative))?;
            if stored.bytes < *needed {
                let (path, what) = (stored.path, what.clone());
                return Err(StoreError::Short { path, what, needed: *needed, has: stored.bytes });
            }
            files.insert(name.clone(), stored);
        }
        Ok(Store { files })
    }

    /// Reads a range of a file into `to`.
    pub fn read(&self, name: &str, offset: u64, to: &mut [u8], bounce: &mut Bounce) -> Result<(), StoreError> {
        let stored = self.files.get(name).ok_or_else(|| StoreError::Unknown { name: name.to_owned() })?;
        let io = |source| StoreError::Io { path: stored.path.clone(), source };
        if !stored.direct {
            return stored.file.read_exact_at(to, offset).map_err(io);
        }
        let (mut at, mut done) = (offset, 0);
        while done < to.len() {
            let rest = &mut to[done..];
            let congruent = (rest.as_ptr() as usize).is_multiple_of(PAGE) && at.is_multiple_of(PAGE as u64);
            let pages = rest.len() / PAGE * PAGE;
            let moved = if congruent && pages > 0 {
                let chunk = pages.min(4 * BOUNCE);
                whole(&stored.file, &mut rest[..chunk], at).map_err(io)?
            } else {
                through(&stored.file, bounce.aligned(), rest, at, to_boundary(rest, at)).map_err(io)?
            };
            if moved == 0 {
                return Err(io(io::ErrorKind::UnexpectedEof.into()));
            }
            done += moved;
            at += moved as u64;
        }
        Ok(())
    }
}

/// Where file and memory can agree, the bytes up to the next page; else as many as there are.
fn to_boundary(rest: &[u8], at: u64) -> usize {
    let (head, offset) = (rest.as_ptr() as usize % PAGE, (at % PAGE as u64) as usize);
    if head == offset && head != 0 { PAGE - head } else { rest.len() }
}

/// Reads whole pages in place; as many bytes as the system gave, in whole pages or to the end of the file.
fn whole(file: &File, to: &mut [u8], at: u64) -> io::Result<usize> {
    let read = retry(|| file.read_at(to, at))?;
    Ok(if read < to.len() { read / PAGE * PAGE } else { read })
}

/// Reads the pages around a range into the bounce buffer and copies the range out.
fn through(file: &File, bounce: &mut [u8], to: &mut [u8], at: u64, most: usize) -> io::Result<usize> {
    let skip = (at % PAGE as u64) as usize;
    let wanted = most.min(to.len()).min(bounce.len() - skip);
    let pages = (skip + wanted).next_multiple_of(PAGE);
    let read = retry(|| file.read_at(&mut bounce[..pages], at - skip as u64))?;
    let usable = read.saturating_sub(skip).min(wanted);
    to[..usable].copy_from_slice(&bounce[skip..skip + usable]);
    Ok(usable)
}

/// An interrupted read is read again, a bounded number of times.
fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    for _ in 0..16 {
        match read() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
    read()
}

/// Opens for direct I/O, or plainly where the file system has none.
fn open(path: PathBuf) -> Result<Stored, StoreError> {
    let direct = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path);
    let (file, direct) = match direct {
        Ok(file) => (file, true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(StoreError::Absent { path }),
        Err(_) => match File::open(&path) {
            Ok(file) => (file, false),
            Err(source) => return Err(StoreError::Io { path, source }),
        },
    };
    match file.metadata() {
        Ok(m) if m.is_file() => Ok(Stored { path, file, bytes: m.len(), direct }),
        Ok(_) => Err(StoreError::Io { path, source: io::Error::other("it is no regular file") }),
        Err(source) => Err(StoreError::Io { path, source }),
    }
}
