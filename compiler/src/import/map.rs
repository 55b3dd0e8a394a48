//! Maps a model file, so that its weights are described without being read.

use bytes::Bytes;
use std::fs::File;

/// The bytes of a file, read-only. A page is read when it is looked at.
///
/// A process that shortens the file while it is mapped ends this one (SIGBUS); that is the price of not copying.
#[allow(unsafe_code)]
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is private and read-only, and `Bytes` keeps it alive as long as any slice of it. What no
    // program can exclude is that another one writes to the file meanwhile: the decoder then sees either bytes, checks
    // each length against what it was given, and keeps no reference into text, which it copies before checking it.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
