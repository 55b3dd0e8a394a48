//! Cuts a copy from a file into pieces: what one read brings, and what becomes of it.
//!
//! Direct I/O moves whole sectors between aligned addresses. Where file offset and address agree modulo a sector, whole
//! sectors go straight to where they belong; heads, tails and all else go through a bounce buffer. Rows that lie near each
//! other are read with what is between them and picked out; rows that lie far apart are read one by one.

use crate::arena::PAGE;
use crate::store::Layout;
use crate::store::scatter::{Block, scatter};
use berth_ir::program::{Strip, Transposed};
use std::io;

/// Bytes of a bounce buffer, and of the reads that use one.
pub(crate) const BOUNCE: usize = 1 << 20;

/// A gap between rows up to which it is read too: as many bytes take a disk less time than a read of their own.
pub(crate) const GAP_MAX: u64 = 64 << 10;

/// One read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where in the file.
    pub at: u64,
    /// Bytes to read: whole sectors, where the file is read directly.
    pub bytes: usize,
    /// Of them, those that must be there: the file may end within the last sector.
    pub needed: usize,
    pub into: Into,
}

impl Piece {
    /// Where what it brings begins in the target, which has so many bytes.
    pub fn starts(&self, all: u64) -> u64 {
        match self.into {
            Into::Place(at) => at,
            Into::Bounce(rest) => rest.range(all).0,
        }
    }

    /// Bytes of the target that it brings.
    pub fn brings(&self) -> u64 {
        match self.into {
            Into::Place(_) => self.needed as u64,
            Into::Bounce(Rest { what: What::Copy { bytes, .. }, .. }) => bytes as u64,
            Into::Bounce(Rest { what: What::Rows { rows, bytes, .. }, .. }) => (rows * bytes) as u64,
            Into::Bounce(Rest { what: What::Scatter { matrix, block }, .. }) => {
                (block.rows * block.columns) as u64 * matrix.element
            }
        }
    }
}

/// Where a read goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Into {
    /// To its place in the target: so many bytes behind its start.
    Place(u64),
    /// Into a bounce buffer, and from there.
    Bounce(Rest),
}

/// What is done with a bounce buffer, from `skip` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    pub skip: usize,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Bytes go to their place in the target.
    Copy { to: u64, bytes: usize },
    /// Rows that lie apart go there one behind the other.
    Rows { to: u64, rows: usize, bytes: usize, pitch: usize },
    /// A block of rows is transposed into the target.
    Scatter { matrix: Transposed, block: Block },
}

impl Rest {
    /// Bytes of the target that it touches; all of it for what is transposed.
    pub fn range(&self, all: u64) -> (u64, u64) {
        match self.what {
            What::Copy { to, bytes } => (to, bytes as u64),
            What::Rows { to, rows, bytes, .. } => (to, (rows * bytes) as u64),
            What::Scatter { .. } => (0, all),
        }
    }

    /// Moves the bytes. `to` is the range that [`Rest::range`] says; `near` has room for a buffer.
    pub fn apply(&self, buffer: &[u8], to: &mut [u8], near: &mut [u8]) {
        let from = &buffer[self.skip..];
        match self.what {
            What::Copy { bytes, .. } => to.copy_from_slice(&from[..bytes]),
            What::Rows { bytes, pitch, .. } => {
                let rows = to.chunks_exact_mut(bytes).zip(from.chunks(pitch));
                rows.for_each(|(to, from)| to.copy_from_slice(&from[..bytes]));
            }
            What::Scatter { matrix, block } => {
                // What a disk has just written is in no cache. Read in a row it comes fast, line by line of a column each
                // line is waited for.
                let bytes = (block.rows - 1) * block.pitch + block.columns * matrix.element as usize;
                near[..bytes].copy_from_slice(&from[..bytes]);
                scatter(&near[..bytes], to, matrix, block);
            }
        }
    }
}

/// How often a read is begun again that brought nothing, or was interrupted.
const TRIES_MAX: u32 = 16;

/// How far a read has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Bytes of it that are there.
    pub got: usize,
    tries: u32,
}

/// What is to be done when a read has ended.
#[derive(Debug)]
pub(crate) enum Next {
    /// All that is needed is there.
    Done,
    /// The rest of it is read.
    Again,
    /// The file gives no more.
    CutOff,
    /// The system refused.
    Failed(io::Error),
}

impl Tally {
    /// Counts what a read brought: fewer bytes than were asked for are no end, unless there are none again and again.
    pub fn count(&mut self, piece: &Piece, direct: bool, result: io::Result<usize>) -> Next {
        let before = self.got;
        match result {
            Ok(bytes) => self.got = (self.got + bytes).min(piece.bytes),
            Err(e) if matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(e) => return Next::Failed(e),
        }
        if self.got >= piece.needed {
            return Next::Done;
        }
        if direct {
            // The rest of a sector cannot be asked for.
            self.got = self.got / PAGE * PAGE;
        }
        self.tries = if self.got > before { 0 } else { self.tries + 1 };
        if self.tries < TRIES_MAX { Next::Again } else { Next::CutOff }
    }
}

/// How far a copy has been cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    row: u64,
    at: u64,
}

impl Cursor {
    /// Bytes of the target that have been cut, where they are not rows.
    pub fn at(&self) -> u64 {
        self.at
    }
}

/// A copy that is to be cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub from: Layout,
    /// Whether the file wants whole sectors at aligned addresses.
    pub direct: bool,
    /// What offsets and addresses of such reads must be multiples of: a part of a page.
    pub sector: usize,
    /// Where the target starts, and its bytes.
    pub address: usize,
    pub bytes: u64,
    /// Bytes of the largest read straight to its place: whole pages.
    pub chunk: usize,
}

impl Cut {
    /// The next piece; none at the end.
    pub fn next(&self, cursor: &mut Cursor) -> Option<Piece> {
        match (self.from.transposed, self.from.strip) {
            (Some(matrix), strip) => self.next_transposed(cursor, matrix, strip),
            (None, Some(strip)) if strip.bytes != strip.pitch && strip.rows > 1 => self.next_row(cursor, strip),
            (None, _) => {
                let (piece, moved) = self.straight(self.from.offset + cursor.at, cursor.at, self.bytes - cursor.at)?;
                cursor.at += moved;
                Some(piece)
            }
        }
    }

    /// As much as one read brings of bytes that lie behind each other, `to` bytes behind the start of the target.
    fn straight(&self, at: u64, to: u64, rest: u64) -> Option<(Piece, u64)> {
        if rest == 0 {
            return None;
        }
        if !self.direct {
            let bytes = rest.min(self.chunk as u64);
            let piece = Piece { at, bytes: bytes as usize, needed: bytes as usize, into: Into::Place(to) };
            return Some((piece, bytes));
        }
        let sector = self.sector as u64;
        let (head, skip) = ((self.address as u64 + to) % sector, at % sector);
        if head == 0 && skip == 0 && rest >= sector {
            let bytes = (rest / sector * sector).min((self.chunk as u64 / sector * sector).max(sector));
            let piece = Piece { at, bytes: bytes as usize, needed: bytes as usize, into: Into::Place(to) };
            return Some((piece, bytes));
        }
        // To the next sector, from where on the two agree; or as much as the buffer holds.
        let most = if head == skip && head != 0 { sector - head } else { BOUNCE as u64 - at % PAGE as u64 };
        let bytes = rest.min(most) as usize;
        let what = What::Copy { to, bytes };
        Some((self.bounced(at, bytes as u64, what), bytes as u64))
    }

    /// A read of so many bytes through a bounce buffer.
    fn bounced(&self, at: u64, bytes: u64, what: What) -> Piece {
        let skip = if self.direct { (at % PAGE as u64) as usize } else { 0 };
        let needed = skip + bytes as usize;
        let read = if self.direct { needed.next_multiple_of(PAGE) } else { needed };
        Piece { at: at - skip as u64, bytes: read, needed, into: Into::Bounce(Rest { skip, what }) }
    }

    fn next_row(&self, cursor: &mut Cursor, strip: Strip) -> Option<Piece> {
        let Strip { rows, bytes, pitch } = strip;
        if cursor.row >= rows || bytes == 0 {
            return None;
        }
        let count = together(strip).min(rows - cursor.row);
        let (at, to) = (self.from.offset + cursor.row * pitch, cursor.row * bytes);
        if count > 1 {
            cursor.row += count;
            let what = What::Rows { to, rows: count as usize, bytes: bytes as usize, pitch: pitch as usize };
            return Some(self.bounced(at, (count - 1) * pitch + bytes, what));
        }
        let (piece, moved) = self.straight(at + cursor.at, to + cursor.at, bytes - cursor.at)?;
        cursor.at += moved;
        if cursor.at == bytes {
            *cursor = Cursor { row: cursor.row + 1, at: 0 };
        }
        Some(piece)
    }

    /// Whole rows where one fits in the buffer, else pieces of one row.
    fn next_transposed(&self, cursor: &mut Cursor, matrix: Transposed, strip: Option<Strip>) -> Option<Piece> {
        let row_bytes = matrix.columns * matrix.element;
        let pitch = strip.map_or(row_bytes, |strip| strip.pitch);
        if cursor.row >= matrix.rows || row_bytes == 0 {
            return None;
        }
        let rows = Strip { rows: matrix.rows, bytes: row_bytes, pitch };
        let count = together(rows).min(matrix.rows - cursor.row);
        let at = self.from.offset + cursor.row * pitch + cursor.at;
        let most = BOUNCE as u64 / matrix.element * matrix.element;
        let width = (row_bytes - cursor.at).min(most);
        let block = Block {
            pitch: pitch as usize,
            row: cursor.row as usize,
            rows: count as usize,
            column: (cursor.at / matrix.element) as usize,
            columns: (width / matrix.element) as usize,
        };
        if cursor.at + width == row_bytes {
            *cursor = Cursor { row: cursor.row + count, at: 0 };
        } else {
            cursor.at += width;
        }
        Some(self.bounced(at, (count - 1) * pitch + width, What::Scatter { matrix, block }))
    }
}

/// How many rows a buffer holds with the gaps between them.
fn together(strip: Strip) -> u64 {
    let Strip { bytes, pitch, .. } = strip;
    if pitch - bytes > GAP_MAX || bytes > BOUNCE as u64 { 1 } else { 1 + (BOUNCE as u64 - bytes) / pitch }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File and address agree modulo a sector and not modulo a page: all but the last bytes go straight to their place.
    #[test]
    fn what_agrees_modulo_a_sector_is_read_in_place() {
        let (from, bytes) = (Layout::packed(3 * PAGE as u64 + 512), 2 * PAGE as u64 + 700);
        let cut = Cut { from, direct: true, sector: 512, address: 7 * PAGE + 1024, bytes, chunk: PAGE };
        let mut cursor = Cursor::default();
        let pieces: Vec<Piece> = std::iter::from_fn(|| cut.next(&mut cursor)).collect();
        assert_eq!(pieces.iter().map(Piece::brings).sum::<u64>(), bytes);
        let (last, straight) = pieces.split_last().expect("pieces");
        assert!(straight.len() == 3 && straight.iter().all(|piece| matches!(piece.into, Into::Place(_))));
        assert!(matches!(last.into, Into::Bounce(_)) && last.brings() == 700 - 512);
        // In whole pages they do not agree, and everything goes through a buffer.
        let pages = Cut { sector: PAGE, ..cut };
        let mut cursor = Cursor::default();
        let pieces: Vec<Piece> = std::iter::from_fn(|| pages.next(&mut cursor)).collect();
        assert!(pieces.iter().all(|piece| matches!(piece.into, Into::Bounce(_))));
    }
}
