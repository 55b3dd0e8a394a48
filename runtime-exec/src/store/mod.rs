//! Reads the homes of weights from files, past the page cache, so that no memory is used that no plan knows of.
//!
//! A store knows its files and where in them each copy's bytes lie: in the model's own file, in external data beside it,
//! or in a pack made from both (`pack.rs`). `pieces.rs` says how a copy is cut into reads, `queue.rs` and `ring.rs` carry
//! them out.

pub mod gauge;
pub(crate) mod pieces;
pub mod queue;
pub(crate) mod ring;
pub(crate) mod scatter;
#[cfg(test)]
mod tests;

use crate::arena::PAGE;
use crate::pack::{Pack, Sums};
use berth_ir::beneath::{self, NotBeneath};
use berth_ir::program::{Strip, Transposed};
use pieces::{BOUNCE, Cursor, Cut, Into, Next, Tally};
use queue::{Disk, Plain, Queue, Threads};
use ring::Ring;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where bytes lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Of the first byte.
    pub offset: u64,
    /// Where they are rows that lie apart.
    pub strip: Option<Strip>,
    /// Where they are a matrix, of which the transpose is wanted.
    pub transposed: Option<Transposed>,
}

impl Layout {
    /// Bytes one behind the other.
    pub fn packed(offset: u64) -> Layout {
        Layout { offset, strip: None, transposed: None }
    }
    /// The end, in the file, of so many bytes.
    pub fn end(&self, bytes: u64) -> u64 {
        let span = self.strip.map_or(bytes, |strip| strip.span().unwrap_or(u64::MAX));
        self.offset.saturating_add(span)
    }
}

/// What a program reads from a file.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The instruction, for messages.
    pub what: String,
    /// The file, by the name that programs use.
    pub file: String,
    /// Where in it.
    pub layout: Layout,
    /// How many bytes arrive.
    pub bytes: u64,
}

/// Where a copy's bytes are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// Which file of the store.
    pub file: usize,
    pub layout: Layout,
    /// The checksums of what arrives, where there are any.
    pub sums: Option<Sums>,
}

/// Where files come from, and with what they are read.
#[derive(Clone, Debug)]
pub struct Places {
    /// The model's folder: files are opened beneath it.
    pub folder: PathBuf,
    /// The name in it of the model's own file, which the user named and which may be a link.
    pub model: Option<String>,
    /// A pack that holds some or all of what is wanted.
    pub pack: Option<Arc<Pack>>,
    /// What reads instead of the kernel's queue; for machines that are not to be trusted, and tests.
    pub disk: Option<Arc<dyn Disk>>,
}

impl Places {
    /// A folder, and nothing special.
    pub fn folder(folder: &Path) -> Places {
        Places { folder: folder.to_owned(), model: None, pack: None, disk: None }
    }
}

/// Files that are open.
#[derive(Debug)]
pub(crate) struct Store {
    files: Vec<Stored>,
    pack: Option<Arc<Pack>>,
    disk: Option<Arc<dyn Disk>>,
}

#[derive(Debug)]
struct Stored {
    path: PathBuf,
    file: Arc<File>,
    direct: bool,
    /// What offsets and addresses of direct reads must be multiples of.
    sector: usize,
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
    /// A pack that has nothing to do with the program.
    #[error("the pack `{}` holds none of the weights that the program reads: it is another model's", path.display())]
    Useless {
        /// The pack.
        path: PathBuf,
    },
    /// The disk gave other bytes than were packed.
    #[error("`{}` does not hold at byte {at} what was packed (checksums differ): the disk or the file is damaged; run `berth pack` again", path.display())]
    Checksum {
        /// The pack.
        path: PathBuf,
        /// Where the block starts.
        at: u64,
    },
}

impl Store {
    /// Opens the files that something is wanted from, and says for each wish where its bytes are read.
    pub fn open(places: &Places, wanted: &[Wanted]) -> Result<(Store, Vec<Source>), StoreError> {
        let mut store = Store { files: Vec::new(), pack: places.pack.clone(), disk: places.disk.clone() };
        // By name; the pack has none.
        let mut names: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        let mut sources = Vec::with_capacity(wanted.len());
        // Blocks of the pack that no copy brings whole.
        let mut partly = BTreeSet::new();
        for wish in wanted {
            let packed = store.pack.as_ref().and_then(|pack| Some((pack.clone(), pack.find(wish)?)));
            let (file, layout, sums) = match packed {
                Some((pack, found)) => {
                    partly.extend(found.partly);
                    (store.file(&mut names, None, || pack.reopened())?, found.layout, found.sums)
                }
                None => {
                    let open = || open_place(places, &wish.file);
                    (store.file(&mut names, Some(&wish.file), open)?, wish.layout, None)
                }
            };
            let (needed, stored) = (layout.end(wish.bytes), &store.files[file]);
            let has = stored.bytes()?;
            if has < needed {
                return Err(StoreError::Short { path: stored.path.clone(), what: wish.what.clone(), needed, has });
            }
            sources.push(Source { file, layout, sums });
        }
        if let Some(pack) = &store.pack {
            if !wanted.is_empty() && !names.contains_key(&None) {
                return Err(StoreError::Useless { path: pack.path().to_owned() });
            }
            pack.check_blocks(partly)?;
        }
        Ok((store, sources))
    }

    fn file<'n>(
        &mut self,
        names: &mut BTreeMap<Option<&'n str>, usize>,
        name: Option<&'n str>,
        open: impl FnOnce() -> Result<(PathBuf, File), StoreError>,
    ) -> Result<usize, StoreError> {
        if let Some(file) = names.get(&name) {
            return Ok(*file);
        }
        let (path, file) = open()?;
        let direct = set_direct(&file);
        let sector = sector(&file);
        self.files.push(Stored { path, file: Arc::new(file), direct, sector });
        names.insert(name, self.files.len() - 1);
        Ok(self.files.len() - 1)
    }

    /// How a copy is cut.
    pub fn cut(&self, source: Source, address: usize, bytes: u64, chunk: usize) -> Cut {
        let Stored { direct, sector, .. } = self.files[source.file];
        Cut { from: source.layout, direct, sector, address, bytes, chunk }
    }

    /// A queue for so many reads, `memory` (address, bytes) being where most of them go.
    ///
    /// # Safety
    /// The memory is valid as long as the queue lives.
    #[allow(unsafe_code, reason = "passes on where reads will go")]
    pub unsafe fn queue(&self, memory: &[(usize, usize)], depth: usize) -> Box<dyn Queue> {
        let files = || self.files.iter().map(|stored| stored.file.clone()).collect();
        if let Some(disk) = &self.disk {
            return Box::new(Threads::new(files(), disk.clone(), depth));
        }
        // SAFETY: passed on from the caller.
        match unsafe { Ring::new(files(), memory, depth) } {
            Ok(ring) => Box::new(ring),
            // The kernel has none, or does not let us.
            Err(_) => Box::new(Threads::new(files(), Arc::new(Plain), depth)),
        }
    }

    /// Reads what a source has, at once and on this thread.
    pub fn read_now(&self, source: Source, to: &mut [u8], what: &str) -> Result<(), StoreError> {
        let mut memory = vec![0; BOUNCE + 2 * PAGE];
        let skip = memory.as_ptr().align_offset(PAGE);
        let buffer = &mut memory[skip..skip + BOUNCE + PAGE];
        let mut near = vec![0; BOUNCE];
        let (stored, plain): (&Stored, Arc<dyn Disk>) = (&self.files[source.file], Arc::new(Plain));
        let disk = self.disk.as_ref().unwrap_or(&plain);
        let bytes = to.len() as u64;
        let cut = self.cut(source, to.as_ptr() as usize, bytes, 4 * BOUNCE);
        let mut cursor = Cursor::default();
        while let Some(piece) = cut.next(&mut cursor) {
            let place = match piece.into {
                Into::Place(at) => &mut to[at as usize..][..piece.bytes],
                Into::Bounce(_) => &mut buffer[..piece.bytes],
            };
            let mut tally = Tally::default();
            loop {
                let (at, rest) = (piece.at + tally.got as u64, &mut place[tally.got..]);
                match tally.count(&piece, stored.direct, disk.read_at(&stored.file, at, rest)) {
                    Next::Done => break,
                    Next::Again => {}
                    Next::CutOff => return Err(self.cut_off(source, piece.at + piece.needed as u64, what)),
                    Next::Failed(error) => return Err(self.failed(source, error)),
                }
            }
            if let Into::Bounce(rest) = piece.into {
                let (at, length) = rest.range(bytes);
                rest.apply(buffer, &mut to[at as usize..][..length as usize], &mut near);
            }
        }
        self.check(source, to, 0).map(|_| ())
    }

    /// What became of a read that did not bring what it should have: `needed` bytes of the file's.
    pub fn cut_off(&self, source: Source, needed: u64, what: &str) -> StoreError {
        let stored = &self.files[source.file];
        match stored.bytes() {
            Ok(has) if has < needed => {
                StoreError::Short { path: stored.path.clone(), what: what.to_owned(), needed, has }
            }
            Ok(_) => self.failed(source, io::Error::other("the disk gives no more bytes, though the file has them")),
            Err(error) => error,
        }
    }

    /// A read that the system refused.
    pub fn failed(&self, source: Source, error: io::Error) -> StoreError {
        StoreError::Io { path: self.files[source.file].path.clone(), source: error }
    }

    /// Holds what arrived against its checksums, as [`Pack::check`] does.
    pub fn check(&self, source: Source, arrived: &[u8], done: usize) -> Result<usize, StoreError> {
        let (Some(pack), Some(sums)) = (&self.pack, source.sums) else { return Ok(0) };
        let wrong = |at| StoreError::Checksum { path: self.files[source.file].path.clone(), at };
        pack.check(sums, arrived, done).map_err(wrong)
    }
}

impl Stored {
    fn bytes(&self) -> Result<u64, StoreError> {
        let metadata = self.file.metadata();
        Ok(metadata.map_err(|source| StoreError::Io { path: self.path.clone(), source })?.len())
    }
}

/// Opens a file of a model by its name, beneath the folder; the model's own, which the user named, wherever that leads.
pub(crate) fn open_place(places: &Places, name: &str) -> Result<(PathBuf, File), StoreError> {
    let path = places.folder.join(name);
    let opened = match places.model.as_deref() == Some(name) {
        true => beneath::open_named(&path),
        false => beneath::open(&places.folder, Path::new(name)),
    };
    match opened {
        Ok(file) => Ok((path, file)),
        Err(NotBeneath::Name) => Err(StoreError::Outside { name: name.to_owned() }),
        Err(why) => match io::Error::from(why) {
            e if e.kind() == io::ErrorKind::NotFound => Err(StoreError::Absent { path }),
            source => Err(StoreError::Io { path, source }),
        },
    }
}

/// What the system says that direct reads of a file must be aligned to; a page where it does not say, or more.
fn sector(file: &File) -> usize {
    let (flags, mask) = (rustix::fs::AtFlags::EMPTY_PATH, rustix::fs::StatxFlags::DIOALIGN);
    let said = rustix::fs::statx(file, "", flags, mask)
        .ok()
        .filter(|stat| stat.stx_mask & mask.bits() != 0 && stat.stx_dio_mem_align > 0 && stat.stx_dio_offset_align > 0);
    let sector = said.map_or(PAGE, |stat| stat.stx_dio_mem_align.max(stat.stx_dio_offset_align) as usize);
    if sector.is_power_of_two() && sector < PAGE { sector } else { PAGE }
}

/// Has a file read past the page cache; false where its file system cannot.
fn set_direct(file: &File) -> bool {
    rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::DIRECT).is_ok()
}
