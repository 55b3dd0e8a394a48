//! Maps a model file, so that its weights are described without being read.

use bytes::Bytes;
use std::fs::File;

/// The bytes of a file, read-only. A page is read when it is looked at.
///
/// Another process that shortens the file while it is mapped ends this process (SIGBUS); that is the price of not
/// copying, and it is in the handbook.
#[allow(unsafe_code)]
pub(super) fn map(file: &File) -> std::io::Result<Bytes> {
    // SAFETY: the mapping is private and read-only, and `Bytes` keeps it alive for as long as any slice of it exists.
    // A file changed underneath gives other bytes, which nothing here relies on being constant: what is decoded is
    // copied out of the mapping or compared by length only.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
