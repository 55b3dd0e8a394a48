//! Reads the homes of weights from files, past the page cache, so that no memory is used that no plan knows of.
//!
//! Direct I/O moves whole sectors between aligned addresses. Where file offset and address agree modulo a page, whole
//! pages go straight to where they belong; heads, tails and all else go through a bounce buffer. Rows that lie near each
//! other are read with what is between them and picked out; rows that lie far apart are read one by one.

use crate::arena::PAGE;
use berth_ir::program::{Strip, Transposed};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of one bounce buffer, and of the reads that use it.
const BOUNCE: usize = 1 << 20;

/// A gap between rows up to which it is read too: as many bytes take a disk less time than a read of their own.
const GAP_MAX: u64 = 64 << 10;

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

/// The buffers of one reading thread: one for whole sectors, one for what is transposed, one for rows and their gaps.
#[derive(Debug)]
pub struct Bounce {
    sectors: Vec<u8>,
    rows: Vec<u8>,
    span: Vec<u8>,
}

impl Default for Bounce {
    fn default() -> Bounce {
        // The others are made when the first matrix comes.
        Bounce { sectors: vec![0; BOUNCE + PAGE], rows: Vec::new(), span: Vec::new() }
    }
}

/// The part of a buffer that starts at a page.
fn aligned(buffer: &mut [u8]) -> &mut [u8] {
    let skip = buffer.as_ptr().align_offset(PAGE).min(PAGE);
    &mut buffer[skip..skip + BOUNCE]
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

    /// Reads what a file holds at a place into `to`.
    pub fn read(&self, name: &str, from: Layout, to: &mut [u8], bounce: &mut Bounce) -> Result<(), StoreError> {
        match (from.transposed, from.strip) {
            (Some(matrix), _) => self.read_transposed(name, from, matrix, to, bounce),
            (None, Some(strip)) => self.read_strip(name, from.offset, strip, to, &mut bounce.sectors, &mut bounce.span),
            (None, None) => self.read_with(name, from.offset, to, &mut bounce.sectors),
        }
    }

    /// Reads a matrix that the file holds row by row, and puts its transpose into `to`, which has as many bytes.
    fn read_transposed(
        &self,
        name: &str,
        from: Layout,
        matrix: Transposed,
        to: &mut [u8],
        bounce: &mut Bounce,
    ) -> Result<(), StoreError> {
        let Bounce { sectors, rows: buffer, span } = bounce;
        buffer.resize(BOUNCE + PAGE, 0);
        let row_bytes = matrix.columns * matrix.element;
        let pitch = from.strip.map_or(row_bytes, |strip| strip.pitch);
        // Whole rows where one fits in the buffer, else pieces of one row.
        let rows = (BOUNCE as u64 / row_bytes.max(1)).max(1);
        let piece = row_bytes.min(BOUNCE as u64 / matrix.element * matrix.element);
        let mut row = 0;
        while row < matrix.rows && row_bytes > 0 {
            let count = rows.min(matrix.rows - row);
            let mut at = 0;
            while at < row_bytes {
                let width = piece.min(row_bytes - at);
                let block = &mut aligned(buffer)[..(count * width) as usize];
                let rows = Strip { rows: count, bytes: width, pitch };
                self.read_strip(name, from.offset + row * pitch + at, rows, block, sectors, span)?;
                scatter(block, to, matrix, row, at / matrix.element, width / matrix.element);
                at += width;
            }
            row += count;
        }
        Ok(())
    }

    /// Reads rows that lie apart, and puts them into `to` one behind the other.
    fn read_strip(
        &self,
        name: &str,
        offset: u64,
        strip: Strip,
        to: &mut [u8],
        sectors: &mut [u8],
        span: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let Strip { rows, bytes, pitch } = strip;
        if bytes == pitch || rows <= 1 {
            return self.read_with(name, offset, to, sectors);
        }
        // How many rows the buffer holds with the gaps between them.
        let together = if pitch - bytes > GAP_MAX { 1 } else { 1 + (BOUNCE as u64).saturating_sub(bytes) / pitch };
        let mut row = 0;
        while row < rows {
            let count = together.min(rows - row);
            let packed = &mut to[(row * bytes) as usize..][..(count * bytes) as usize];
            let at = offset + row * pitch;
            if count == 1 {
                self.read_with(name, at, packed, sectors)?;
            } else {
                span.resize(BOUNCE + PAGE, 0);
                let read = &mut aligned(span)[..((count - 1) * pitch + bytes) as usize];
                self.read_with(name, at, read, sectors)?;
                let rows = packed.chunks_exact_mut(bytes as usize).zip(read.chunks(pitch as usize));
                rows.for_each(|(to, from)| to.copy_from_slice(&from[..bytes as usize]));
            }
            row += count;
        }
        Ok(())
    }

    fn read_with(&self, name: &str, offset: u64, to: &mut [u8], sectors: &mut [u8]) -> Result<(), StoreError> {
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
                through(&stored.file, aligned(sectors), rest, at, to_boundary(rest, at)).map_err(io)?
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

/// Puts a block of rows where its columns belong.
fn scatter(from: &[u8], to: &mut [u8], matrix: Transposed, row: u64, column: u64, columns: u64) {
    match matrix.element {
        1 => scatter_by::<1>(from, to, matrix.rows, row, column, columns),
        2 => scatter_by::<2>(from, to, matrix.rows, row, column, columns),
        4 => scatter_by::<4>(from, to, matrix.rows, row, column, columns),
        // The verifier lets no other size through.
        _ => scatter_by::<8>(from, to, matrix.rows, row, column, columns),
    }
}

/// `from` holds rows from `row` on, of `columns` elements of `E` bytes each, the first of them at `column`.
///
/// Goes by tiles of a cache line each way, so that every line is read once and written once: element by element, columns
/// a power of two apart would push each other out of the cache.
fn scatter_by<const E: usize>(from: &[u8], to: &mut [u8], rows: u64, row: u64, column: u64, columns: u64) {
    const SIDE_MAX: usize = 64;
    let side = SIDE_MAX / E;
    let (columns, rows, column, row) = (columns as usize, rows as usize, column as usize, row as usize);
    let (from, _) = from.as_chunks::<E>();
    let (to, _) = to.as_chunks_mut::<E>();
    let count = from.len() / columns.max(1);
    let mut tile = [[[0u8; E]; SIDE_MAX]; SIDE_MAX];
    for first_row in (0..count).step_by(side) {
        let tall = side.min(count - first_row);
        for first in (0..columns).step_by(side) {
            let wide = side.min(columns - first);
            for r in 0..tall {
                let line = &from[(first_row + r) * columns + first..][..wide];
                line.iter().enumerate().for_each(|(c, element)| tile[c][r] = *element);
            }
            for (c, line) in tile[..wide].iter().enumerate() {
                let start = (column + first + c) * rows + row + first_row;
                to[start..start + tall].copy_from_slice(&line[..tall]);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A store of one file of so many bytes, each a function of its place.
    fn store(name: &str, bytes: usize) -> (Store, Vec<u8>, PathBuf) {
        let folder = std::env::temp_dir().join(format!("berth-store-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let content: Vec<u8> = (0..bytes).map(|i| (i * 31 + i / 251) as u8).collect();
        std::fs::write(folder.join("w"), &content).expect("a file");
        let needs = BTreeMap::from([("w".to_owned(), (bytes as u64, "all".to_owned()))]);
        (Store::open(&folder, &needs).expect("it opens"), content, folder)
    }

    #[test]
    fn any_range_is_read_to_any_address() {
        let (store, content, folder) = store("ranges", 3 * BOUNCE + 777);
        let mut bounce = Bounce::default();
        let mut memory = vec![0u8; 3 * BOUNCE + 3 * PAGE];
        for (offset, bytes) in
            [(0, 1), (1, PAGE), (PAGE, PAGE), (511, 2 * BOUNCE), (PAGE, 2 * BOUNCE + 5), (0, 3 * BOUNCE + 777)]
        {
            for shift in [0, 1, 64, offset % PAGE] {
                let skip = memory.as_ptr().align_offset(PAGE) + shift;
                let to = &mut memory[skip..skip + bytes];
                store.read("w", Layout::packed(offset as u64), to, &mut bounce).expect("it reads");
                assert!(*to == content[offset..offset + bytes], "{bytes} bytes at {offset}, {shift} behind a page");
            }
        }
        assert!(store.read("w", Layout::packed(3 * BOUNCE as u64 + 770), &mut memory[..8], &mut bounce).is_err());
        std::fs::remove_dir_all(folder).expect("it goes");
    }

    #[test]
    fn a_matrix_is_transposed_on_the_way() {
        let (store, content, folder) = store("matrix", 5 << 20);
        let mut bounce = Bounce::default();
        // Small, ragged, many rows, rows longer than the buffer, one row, one column, none.
        for (rows, columns, element) in [
            (3, 5, 4),
            (1000, 33, 2),
            (70_000, 7, 8),
            (3, 300_000, 4),
            (1, 4096, 1),
            (4096, 1, 4),
            (0, 7, 4),
            (7, 0, 4),
        ] {
            let matrix = Transposed { rows, columns, element };
            let bytes = columns * element;
            // As it is; a part of wider rows, near each other and far apart.
            for gap in [0, 12, 3 * GAP_MAX] {
                let pitch = bytes + gap;
                if gap > 0 && (rows == 0 || bytes == 0 || 129 + rows * pitch > content.len() as u64) {
                    continue;
                }
                let strip = (gap > 0).then_some(Strip { rows, bytes, pitch });
                let from = Layout { offset: 129, strip, transposed: Some(matrix) };
                let mut to = vec![0u8; matrix.bytes().expect("a size") as usize];
                store.read("w", from, &mut to, &mut bounce).expect("it reads");
                let (rows, columns, element) = (rows as usize, columns as usize, element as usize);
                for r in (0..rows).step_by(rows / 50 + 1) {
                    for c in (0..columns).step_by(columns / 50 + 1) {
                        let source = &content[129 + r * pitch as usize + c * element..][..element];
                        assert_eq!(&to[(c * rows + r) * element..][..element], source, "{from:?} at {r}, {c}");
                    }
                }
            }
        }
        std::fs::remove_dir_all(folder).expect("it goes");
    }

    #[test]
    fn rows_that_lie_apart_are_read_packed() {
        let (store, content, folder) = store("strip", 5 << 20);
        let mut bounce = Bounce::default();
        // Near, far, touching, longer than the buffer, ending with the file, one.
        for (offset, rows, bytes, pitch) in [
            (7, 1000, 60, 700),
            (0, 20, 8192, 200_000),
            (129, 50, 4096, 4096),
            (1, 2, 2 << 20, (2 << 20) + 9),
            ((5 << 20) - 2900, 3, 900, 1000),
            (4096, 1, 100, 1 << 40),
        ] {
            let from = Layout { offset, strip: Some(Strip { rows, bytes, pitch }), transposed: None };
            let mut to = vec![0u8; (rows * bytes) as usize];
            store.read("w", from, &mut to, &mut bounce).expect("it reads");
            for (row, packed) in to.chunks_exact(bytes as usize).enumerate() {
                let start = (offset + row as u64 * pitch) as usize;
                assert!(*packed == content[start..start + bytes as usize], "{from:?} at row {row}");
            }
            assert!(from.end(rows * bytes) <= content.len() as u64);
        }
        std::fs::remove_dir_all(folder).expect("it goes");
    }
}
