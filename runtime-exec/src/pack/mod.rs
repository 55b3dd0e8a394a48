//! Weights packed for reading: each starts at a page, laid out as it is wanted, in the order in which it is wanted, with
//! a checksum for every block.
//!
//! A pack is a header (a page), the weights, and an index. It knows what it was made from, so that it is never taken for
//! another model's, and maps each place in those files to one of its own: programs keep naming the model's files. What a
//! pack does not hold is read from them. `write.rs` makes packs.

mod write;

pub use write::{Written, write};

use crate::arena::PAGE;
use crate::store::pieces::BOUNCE;
use crate::store::{Layout, Places, StoreError, Wanted, open_place};
use berth_ir::beneath::{self, NotBeneath};
use berth_ir::program::{Strip, Transposed};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// The first bytes of a pack, the form's version among them.
const MAGIC: &[u8; 8] = b"berthpk1";
/// Bytes of the header that mean something: the magic, where the index is, its bytes, its checksum, that of all these.
const HEADER: usize = 40;
/// Bytes that one checksum covers.
const BLOCK: u64 = BOUNCE as u64;
/// The largest index that is read: of some terabytes of weights.
const INDEX_MAX: u64 = 256 << 20;

/// What a pack holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    /// What it was made from.
    files: Vec<Made>,
    entries: Vec<Entry>,
}

/// A file that weights came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    name: String,
    bytes: u64,
    /// Of bytes all over the file: other weights are seen by it, one changed byte is not.
    sample: u64,
}

/// A weight in a pack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Which of the files, and where in it.
    file: usize,
    offset: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    strip: Option<Strip>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transposed: Option<Transposed>,
    /// Where it starts in the pack, and its bytes.
    at: u64,
    bytes: u64,
    /// Of each block.
    sums: Vec<u64>,
}

impl Entry {
    fn layout(&self) -> Layout {
        Layout { offset: self.offset, strip: self.strip, transposed: self.transposed }
    }

    fn blocks(&self) -> u64 {
        self.bytes.div_ceil(BLOCK)
    }
}

/// A pack that is open.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    index: Index,
    /// Entries by name of the file, by offset in it.
    by_file: BTreeMap<String, Vec<usize>>,
}

/// Which checksums are those of what a copy brings: its first byte is so far into an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    entry: usize,
    skip: u64,
}

/// Where a pack holds what is wanted.
#[derive(Debug)]
pub(crate) struct Found {
    pub layout: Layout,
    /// What is checked when the copy has arrived.
    pub sums: Option<Sums>,
    /// Blocks that do not arrive whole, by entry and number.
    pub partly: Vec<(usize, u64)>,
}

/// Why a pack cannot be used, or made.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The system says no.
    #[error("cannot {verb} `{}`: {source}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// No room on the disk.
    #[error(
        "there is no room to write `{}`: {left} bytes of it are still to come; make room and run it again: it goes on where it stopped",
        path.display()
    )]
    Full {
        /// The part that is written.
        path: PathBuf,
        /// Bytes that are not there yet.
        left: u64,
    },
    /// Somebody else is at it.
    #[error("`{}` is being written by another process", path.display())]
    Busy {
        /// The part that is written.
        path: PathBuf,
    },
    /// It is no pack, or a damaged one.
    #[error("`{}` is no pack of weights: {what}; make one with `berth pack MODEL -o FILE`", path.display())]
    NotAPack {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It belongs to another model, or to other weights of it.
    #[error("the pack `{}` was made from another `{name}` ({what}): make it again with `berth pack MODEL -o FILE`", path.display())]
    Other {
        /// The pack.
        path: PathBuf,
        /// The file that differs.
        name: String,
        /// In what.
        what: String,
    },
    /// What should be packed cannot be read, or the pack is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Pack {
    /// Opens a pack. Its index is checked, its weights are when they are read.
    pub fn open(path: &Path) -> Result<Pack, PackError> {
        let io = |source| PackError::Io { verb: "read", path: path.to_owned(), source };
        let wrong = |what: &str| PackError::NotAPack { path: path.to_owned(), what: what.to_owned() };
        let file = beneath::open_named(path).map_err(|why| io(why.into()))?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(|_| wrong("it is too short"))?;
        let (words, _) = header.as_chunks::<8>();
        let [magic, at, length, sum, own] = words else { return Err(wrong("it is too short")) };
        if magic != MAGIC {
            return Err(wrong("it does not begin as one of this version"));
        }
        let [at, length, sum, own] = [at, length, sum, own].map(|word| u64::from_le_bytes(*word));
        if own != xxh3_64(&header[..HEADER - 8]) {
            return Err(wrong("its header is damaged"));
        }
        if length > INDEX_MAX || at.checked_add(length) != Some(bytes) {
            return Err(wrong("it ends where it should not: it is cut off, or was added to"));
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, at).map_err(io)?;
        if xxh3_64(&text) != sum {
            return Err(wrong("its index is damaged"));
        }
        let text = str::from_utf8(&text).map_err(|_| wrong("its index is no text"))?;
        let index: Index = ron::from_str(text).map_err(|e| wrong(&format!("its index does not read: {e}")))?;
        let sound = |entry: &Entry| {
            let inside = entry.at.checked_add(entry.bytes).is_some_and(|end| end <= at);
            let made = entry.transposed.is_none_or(|m| m.bytes() == Some(entry.bytes));
            inside && made && entry.file < index.files.len() && entry.sums.len() as u64 == entry.blocks()
        };
        if !index.entries.iter().all(sound) {
            return Err(wrong("its index speaks of what is not there"));
        }
        let mut by_file: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (n, entry) in index.entries.iter().enumerate() {
            by_file.entry(index.files[entry.file].name.clone()).or_default().push(n);
        }
        by_file.values_mut().for_each(|list| list.sort_by_key(|n| index.entries[*n].offset));
        Ok(Pack { path: path.to_owned(), index, by_file })
    }

    /// Says whether it was made from these files.
    pub fn made_from(&self, places: &Places) -> Result<(), PackError> {
        for made in &self.index.files {
            let other = |what: String| PackError::Other { path: self.path.clone(), name: made.name.clone(), what };
            let (_, file) = open_place(places, &made.name)?;
            let io = |source| PackError::Io { verb: "read", path: places.folder.join(&made.name), source };
            let bytes = file.metadata().map_err(io)?.len();
            if bytes != made.bytes {
                return Err(other(format!("of {} bytes, and this one has {bytes}", made.bytes)));
            }
            if sample(&file, bytes).map_err(io)? != made.sample {
                return Err(other("with other weights".to_owned()));
            }
        }
        Ok(())
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Weights that it holds, and their bytes.
    pub fn holds(&self) -> (usize, u64) {
        (self.index.entries.len(), self.index.entries.iter().map(|entry| entry.bytes).sum())
    }

    /// Reads all of it and holds it against its checksums.
    pub fn check_all(&self) -> Result<(), StoreError> {
        let blocks = |(n, entry): (usize, &Entry)| (0..entry.blocks()).map(move |block| (n, block));
        self.check_blocks(self.index.entries.iter().enumerate().flat_map(blocks))
    }

    /// Where it holds what is wanted, if it does.
    pub(crate) fn find(&self, wish: &Wanted) -> Option<Found> {
        let list = self.by_file.get(&wish.file)?;
        // Entries may lie within each other; those that start behind the wish do not hold it.
        let behind = list.partition_point(|n| self.index.entries[*n].offset <= wish.layout.offset);
        let held = list[..behind].iter().rev().map(|n| (*n, &self.index.entries[*n]));
        held.filter(|(_, entry)| entry.offset.saturating_add(entry.reach()) >= wish.layout.end(wish.bytes))
            .find_map(|(n, entry)| self.within(n, entry, wish))
    }

    /// Where an entry that starts no later holds what is wanted.
    fn within(&self, n: usize, entry: &Entry, wish: &Wanted) -> Option<Found> {
        let (layout, skip) = (entry.layout(), wish.layout.offset - entry.offset);
        if layout == wish.layout && wish.bytes == entry.bytes {
            return Some(self.contiguous(n, 0, wish.bytes));
        }
        let apart = |layout: Layout| {
            let (from, to) = (layout.offset - entry.at, layout.end(wish.bytes) - entry.at);
            let blocks = from / BLOCK..to.div_ceil(BLOCK);
            (to <= entry.bytes).then(|| Found { layout, sums: None, partly: blocks.map(|block| (n, block)).collect() })
        };
        match (layout.transposed, layout.strip) {
            // Its bytes are as the file has them.
            (None, None) if wish.layout.strip.is_none() && wish.layout.transposed.is_none() => {
                (skip.checked_add(wish.bytes)? <= entry.bytes).then(|| self.contiguous(n, skip, wish.bytes))
            }
            (None, None) => apart(Layout { offset: entry.at.checked_add(skip)?, ..wish.layout }),
            // Rows of the matrix, transposed: columns of what is held.
            (Some(all), None) => {
                let part = wish.layout.transposed.filter(|part| {
                    wish.layout.strip.is_none() && part.columns == all.columns && part.element == all.element
                })?;
                let row_bytes = all.columns.checked_mul(all.element)?;
                if row_bytes == 0 || !skip.is_multiple_of(row_bytes) {
                    return None;
                }
                let strip = Strip {
                    rows: all.columns,
                    bytes: part.rows.checked_mul(all.element)?,
                    pitch: all.rows.checked_mul(all.element)?,
                };
                let offset = entry.at.checked_add((skip / row_bytes).checked_mul(all.element)?)?;
                apart(Layout { offset, strip: Some(strip), transposed: None })
            }
            _ => None,
        }
    }

    /// A range of an entry, in one piece.
    fn contiguous(&self, n: usize, skip: u64, bytes: u64) -> Found {
        let entry = &self.index.entries[n];
        let (from, to) = (skip, skip + bytes);
        let blocks = (from / BLOCK..to.div_ceil(BLOCK))
            .filter(|block| block * BLOCK < from || ((block + 1) * BLOCK).min(entry.bytes) > to);
        Found {
            layout: Layout::packed(entry.at + skip),
            sums: Some(Sums { entry: n, skip }),
            partly: blocks.map(|block| (n, block)).collect(),
        }
    }

    /// Holds the blocks that arrived whole against their checksums, those before `done` excepted; the first that has not, or
    /// the place in the pack of one that differs.
    pub(crate) fn check(&self, sums: Sums, arrived: &[u8], done: usize) -> Result<usize, u64> {
        let entry = &self.index.entries[sums.entry];
        let first = done.max(sums.skip.div_ceil(BLOCK) as usize);
        for (block, sum) in entry.sums.iter().enumerate().skip(first) {
            let start = block as u64 * BLOCK;
            let end = (start + BLOCK).min(entry.bytes);
            let (from, to) = ((start - sums.skip) as usize, (end - sums.skip) as usize);
            let Some(bytes) = arrived.get(from..to) else { return Ok(block) };
            if xxh3_64(bytes) != *sum {
                return Err(entry.at + start);
            }
        }
        Ok(entry.sums.len())
    }

    /// Reads blocks and holds them against their checksums.
    pub(crate) fn check_blocks(&self, blocks: impl IntoIterator<Item = (usize, u64)>) -> Result<(), StoreError> {
        let mut file = None;
        let mut bytes = Vec::new();
        for (n, block) in blocks {
            let entry = &self.index.entries[n];
            let at = entry.at + block * BLOCK;
            bytes.resize(BLOCK.min(entry.bytes - block * BLOCK) as usize, 0);
            let (_, file) = match &mut file {
                Some(file) => file,
                none => none.insert(self.reopened()?),
            };
            let read = file.read_exact_at(&mut bytes, at);
            read.map_err(|source| StoreError::Io { path: self.path.clone(), source })?;
            if entry.sums.get(block as usize) != Some(&xxh3_64(&bytes)) {
                return Err(StoreError::Checksum { path: self.path.clone(), at });
            }
        }
        Ok(())
    }

    /// The file, opened once more.
    pub(crate) fn reopened(&self) -> Result<(PathBuf, File), StoreError> {
        let file = beneath::open_named(&self.path);
        let failed = |why: NotBeneath| StoreError::Io { path: self.path.clone(), source: why.into() };
        Ok((self.path.clone(), file.map_err(failed)?))
    }
}

impl Entry {
    /// How far behind its offset it reaches in the file.
    fn reach(&self) -> u64 {
        self.strip.and_then(|strip| strip.span()).unwrap_or(self.bytes)
    }
}

/// A number that is another one for other weights: of the ends of a file and of places all over it.
fn sample(file: &File, bytes: u64) -> io::Result<u64> {
    const PLACES: u64 = 64;
    let mut hash = Xxh3::new();
    let mut page = [0; PAGE];
    for n in 0..PLACES {
        let length = bytes.min(PAGE as u64);
        // In 128 bits: a file may be larger than what can be counted 64 times.
        let at = (u128::from(bytes - length) * u128::from(n) / u128::from(PLACES - 1)) as u64;
        file.read_exact_at(&mut page[..length as usize], at)?;
        hash.update(&page[..length as usize]);
    }
    Ok(hash.digest())
}
