//! Makes a pack: written beside its place, moved there when it is whole, gone on with where an earlier try stopped.
//!
//! The part that is written is `FILE.part`. Beside it `FILE.part.log` names, a line each, the weights that are known to
//! be on the disk, with their checksums; a line counts if its own checksum is right. The log belongs to one set of
//! weights in one order, and to files that have not changed; with another one everything begins anew.

use super::{BLOCK, Entry, HEADER, Index, MAGIC, Made, PackError, sample};
use crate::arena::PAGE;
use crate::store::{Places, Source, Store, Wanted, open_place};
use rustix::fs::FlockOperation;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes that are read and written at once, where a weight lies in the file as it is wanted.
const PART: u64 = 64 << 20;

/// Bytes after which what was written is made sure of.
const SURE: u64 = 64 << 20;

/// What was packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Weights, and their bytes.
    pub weights: usize,
    /// Of all weights.
    pub bytes: u64,
    /// Weights that were there from an earlier try.
    pub found: usize,
    /// Bytes of the pack.
    pub file_bytes: u64,
}

/// Refuses to write over a file that weights are read from.
fn check_apart(places: &Places, index: &Index, to: &Path) -> Result<(), PackError> {
    let Ok(there) = to.metadata() else { return Ok(()) };
    for made in &index.files {
        let source = places.folder.join(&made.name);
        if source.metadata().is_ok_and(|file| (file.dev(), file.ino()) == (there.dev(), there.ino())) {
            let source = io::Error::other("the weights are read from it: name another file");
            return Err(PackError::Io { verb: "write", path: to.to_owned(), source });
        }
    }
    Ok(())
}

/// Packs what is wanted, in this order, each place once. `notice` is told the bytes that are done, and of how many.
pub fn write(
    places: &Places,
    wanted: &[Wanted],
    to: &Path,
    notice: &mut dyn FnMut(u64, u64),
) -> Result<Written, PackError> {
    let places = &Places { pack: None, ..places.clone() };
    let (mut index, wanted) = plan(places, wanted)?;
    check_apart(places, &index, to)?;
    let (store, sources) = Store::open(places, &wanted)?;
    let total: u64 = index.entries.iter().map(|entry| entry.bytes).sum();
    let mut part = Part::open(to, &index)?;
    let found = part.found.len();
    for (entry, sums) in index.entries.iter_mut().zip(std::mem::take(&mut part.found)) {
        entry.sums = sums;
    }
    let (mut done, mut unsure) = (index.entries[..found].iter().map(|entry| entry.bytes).sum(), 0);
    let mut memory = Vec::new();
    for (n, source) in sources.into_iter().enumerate().skip(found) {
        let left = total - done;
        part.weight(&store, source, &mut index.entries[n], &wanted[n].what, &mut memory, left)?;
        done += wanted[n].bytes;
        unsure += wanted[n].bytes;
        if unsure >= SURE {
            part.make_sure(&index, left)?;
            unsure = 0;
        }
        notice(done, total);
    }
    part.make_sure(&index, 0)?;
    let file_bytes = part.finish(&index, to)?;
    Ok(Written { weights: index.entries.len(), bytes: total, found, file_bytes })
}

/// What a pack will hold and where, and the wishes that it answers: each place once.
fn plan(places: &Places, wanted: &[Wanted]) -> Result<(Index, Vec<Wanted>), PackError> {
    let mut index = Index { files: Vec::new(), entries: Vec::new() };
    let mut kept: Vec<Wanted> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut at = PAGE as u64;
    for wish in wanted {
        let Wanted { layout, bytes, .. } = *wish;
        let made = (layout.strip, layout.transposed);
        if bytes == 0 || !seen.insert((&wish.file, layout.offset, made, bytes)) {
            continue;
        }
        let file = match index.files.iter().position(|made| made.name == wish.file) {
            Some(file) => file,
            None => {
                let io = |source| PackError::Io { verb: "read", path: places.folder.join(&wish.file), source };
                let (_, file) = open_place(places, &wish.file)?;
                let bytes = file.metadata().map_err(io)?.len();
                let sample = sample(&file, bytes).map_err(io)?;
                index.files.push(Made { name: wish.file.clone(), bytes, sample });
                index.files.len() - 1
            }
        };
        let (strip, transposed) = made;
        index.entries.push(Entry { file, offset: layout.offset, strip, transposed, at, bytes, sums: Vec::new() });
        at += bytes.next_multiple_of(PAGE as u64);
        kept.push(wish.clone());
    }
    Ok((index, kept))
}

/// A pack that is being written.
struct Part {
    path: PathBuf,
    file: File,
    log_path: PathBuf,
    log: File,
    /// Checksums of the first weights, which are there already.
    found: Vec<Vec<u64>>,
    /// Weights that the log names.
    logged: usize,
}

impl Part {
    fn open(to: &Path, index: &Index) -> Result<Part, PackError> {
        let beside = |end: &str| {
            let mut name = to.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (path, log_path) = (beside(".part"), beside(".part.log"));
        let open = |path: &Path| {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
            opened.map_err(|source| PackError::Io { verb: "write", path: path.to_owned(), source })
        };
        if to.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            let source = io::Error::other("it exists and is no regular file");
            return Err(PackError::Io { verb: "write", path: to.to_owned(), source });
        }
        let file = open(&path)?;
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Err(PackError::Busy { path });
        }
        let log = open(&log_path)?;
        let mut part = Part { path, file, log_path, log, found: Vec::new(), logged: 0 };
        part.resume(index).map_err(|source| part.failed(source, 0))?;
        Ok(part)
    }

    /// Takes what an earlier try made sure of, or begins anew.
    fn resume(&mut self, index: &Index) -> io::Result<()> {
        let title = title(index);
        let mut text = Vec::new();
        (&self.log).read_to_end(&mut text)?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut lines = text.split_inclusive('\n');
        let mut good = 0;
        if lines.next() == Some(title.as_str()) {
            good = title.len() as u64;
            let has = self.file.metadata()?.len();
            for (line, entry) in lines.zip(&index.entries) {
                let Some(sums) = read_line(line).filter(|sums| sums.len() as u64 == entry.blocks()) else { break };
                if entry.at + entry.bytes > has {
                    break;
                }
                self.found.push(sums);
                good += line.len() as u64;
            }
        }
        self.logged = self.found.len();
        self.log.set_len(good)?;
        if good == 0 {
            self.file.set_len(0)?;
            self.log.write_all_at(title.as_bytes(), 0)?;
        }
        // What follows is written at the end.
        io::Seek::seek(&mut self.log, io::SeekFrom::End(0))?;
        Ok(())
    }

    fn failed(&self, source: io::Error, left: u64) -> PackError {
        let full = matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG));
        match full {
            true => PackError::Full { path: self.path.clone(), left },
            false => PackError::Io { verb: "write", path: self.path.clone(), source },
        }
    }

    /// Writes one weight and takes its checksums.
    fn weight(
        &mut self,
        store: &Store,
        source: Source,
        entry: &mut Entry,
        what: &str,
        memory: &mut Vec<u8>,
        left: u64,
    ) -> Result<(), PackError> {
        // What is transposed or picked out is made in one piece.
        let whole = source.layout.strip.is_some() || source.layout.transposed.is_some();
        let size = if whole { entry.bytes } else { PART.min(entry.bytes) };
        // A page more, so that reads can go straight there.
        memory.resize(memory.len().max(size as usize + PAGE), 0);
        let skip = memory.as_ptr().align_offset(PAGE).min(PAGE);
        let mut done = 0;
        while done < entry.bytes {
            let bytes = size.min(entry.bytes - done);
            let to = &mut memory[skip..skip + bytes as usize];
            let mut from = source;
            from.layout.offset += done;
            store.read_now(from, to, what)?;
            entry.sums.extend(to.chunks(BLOCK as usize).map(xxh3_64));
            self.file.write_all_at(to, entry.at + done).map_err(|e| self.failed(e, left - done))?;
            done += bytes;
        }
        Ok(())
    }

    /// Waits until what was written is on the disk, then says so in the log.
    fn make_sure(&mut self, index: &Index, left: u64) -> Result<(), PackError> {
        let written = |entry: &&Entry| entry.sums.len() as u64 == entry.blocks();
        let mut lines = String::new();
        let mut count = 0;
        for entry in index.entries[self.logged..].iter().take_while(written) {
            let start = lines.len();
            entry.sums.iter().for_each(|sum| {
                let _ = write!(lines, "{sum:016x} ");
            });
            let own = xxh3_64(&lines.as_bytes()[start..]);
            let _ = writeln!(lines, "{own:016x}");
            count += 1;
        }
        let sure = self.file.sync_data().and_then(|()| self.log.write_all(lines.as_bytes()));
        sure.and_then(|()| self.log.sync_data()).map_err(|e| self.failed(e, left))?;
        self.logged += count;
        Ok(())
    }

    /// Writes index and header, and moves the file to its place.
    fn finish(self, index: &Index, to: &Path) -> Result<u64, PackError> {
        let text = ron::to_string(index).map_err(|e| self.failed(io::Error::other(e), 0))?;
        let end = index.entries.last().map_or(PAGE as u64, |entry| entry.at + entry.bytes);
        let at = end.next_multiple_of(PAGE as u64);
        let mut header = MAGIC.to_vec();
        [at, text.len() as u64, xxh3_64(text.as_bytes())].iter().for_each(|word| header.extend(word.to_le_bytes()));
        header.extend(xxh3_64(&header).to_le_bytes());
        assert_eq!(header.len(), HEADER);
        let file_bytes = at + text.len() as u64;
        let written = self
            .file
            .set_len(at)
            .and_then(|()| self.file.write_all_at(text.as_bytes(), at))
            .and_then(|()| self.file.write_all_at(&header, 0))
            .and_then(|()| self.file.sync_all());
        written.map_err(|e| self.failed(e, 0))?;
        let placed = std::fs::rename(&self.path, to).and_then(|()| {
            let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            // The name is on the disk when the folder is.
            File::open(folder)?.sync_all()
        });
        placed.map_err(|source| PackError::Io { verb: "write", path: to.to_owned(), source })?;
        let _ = std::fs::remove_file(&self.log_path);
        Ok(file_bytes)
    }
}

/// The first line of a log: of these weights, in this order, from these files.
fn title(index: &Index) -> String {
    // Before any is written no entry has checksums.
    let text = ron::to_string(index).unwrap_or_default();
    format!("berth pack 1 {:016x}\n", xxh3_64(text.as_bytes()))
}

/// The checksums in a line of a log, if it is whole.
fn read_line(line: &str) -> Option<Vec<u64>> {
    let (sums, own) = line.strip_suffix('\n')?.rsplit_once(' ').map(|(sums, own)| (format!("{sums} "), own))?;
    if u64::from_str_radix(own, 16).ok()? != xxh3_64(sums.as_bytes()) {
        return None;
    }
    sums.split_whitespace().map(|sum| u64::from_str_radix(sum, 16).ok()).collect()
}
