//! Reads the names, types and shapes in an `.npz` file, as numpy writes it.

use std::path::Path;

/// One array of the file.
pub struct Entry {
    pub name: String,
    /// As numpy writes it, such as `<f4`.
    pub dtype: String,
    pub shape: Vec<u64>,
}

fn number(bytes: &[u8], at: usize, width: usize) -> usize {
    bytes[at..at + width].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
}

/// The arrays of the file, in file order.
pub fn read(path: &Path) -> Vec<Entry> {
    let bytes = std::fs::read(path).unwrap();
    // The end record is 22 bytes, the comment after it empty.
    let end = bytes.len() - 22;
    assert_eq!(&bytes[end..end + 4], b"PK\x05\x06", "{}: no end record", path.display());
    let (count, mut at) = (number(&bytes, end + 10, 2), number(&bytes, end + 16, 4));
    let mut entries = Vec::new();
    for _ in 0..count {
        assert_eq!(&bytes[at..at + 4], b"PK\x01\x02");
        let (name, extra, comment) =
            (number(&bytes, at + 28, 2), number(&bytes, at + 30, 2), number(&bytes, at + 32, 2));
        let local = number(&bytes, at + 42, 4);
        let file = String::from_utf8(bytes[at + 46..at + 46 + name].to_vec()).unwrap();
        let data = local + 30 + number(&bytes, local + 26, 2) + number(&bytes, local + 28, 2);
        let packed = &bytes[data..data + number(&bytes, at + 20, 4)];
        let npy = match number(&bytes, at + 10, 2) {
            0 => packed.to_vec(),
            _ => miniz_oxide::inflate::decompress_to_vec(packed).unwrap(),
        };
        entries.push(entry(file.trim_end_matches(".npy"), &npy));
        at += 46 + name + extra + comment;
    }
    entries
}

fn entry(name: &str, npy: &[u8]) -> Entry {
    assert_eq!(&npy[..6], b"\x93NUMPY");
    let header = std::str::from_utf8(&npy[10..10 + number(npy, 8, 2)]).unwrap();
    let after = |key: &str| &header[header.find(key).unwrap() + key.len()..];
    let dtype = after("'descr': '").split('\'').next().unwrap().to_owned();
    let shape = after("'shape': (").split(')').next().unwrap();
    let shape = shape.split(',').map(str::trim).filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
    Entry { name: name.to_owned(), dtype, shape }
}
