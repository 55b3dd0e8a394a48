//! Reads and writes `.npz` files: zip files of numpy arrays, stored or deflated.
//!
//! Reads:    `.npy` versions 1 to 3, little endian, either order (handed on in C order), plain numeric types.
//! Promises: a broken or hostile file is an [`NpzError`], without a panic; memory follows the bytes that are really there,
//!           never a size that is only claimed, and stays under [`INFLATED_FREE`] + [`INFLATED_PER_BYTE`] x the file's size.
//! Why:      the reader of `.npy` is ours because a header is Python source, and general readers of it recurse.

use crate::beside::Beside;
use berth_ir::DType;
use berth_ir::beneath::{self, NotBeneath};
use rawzip::path::{EntryPath, ZipFilePath};
use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveWriter};
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// All arrays of a file together may take this many bytes, whatever the file's size ...
pub const INFLATED_FREE: u64 = 1 << 30;

/// ... and this many more for each byte of the file. Real arrays deflate far less, except long runs of one value.
pub const INFLATED_PER_BYTE: u64 = 16;

/// The longest `.npy` header; numpy has the same bound.
const HEADER_MAX: usize = 10_000;

/// The most axes of an array; numpy has the same bound.
const RANK_MAX: usize = 64;

const MAGIC: &[u8] = b"\x93NUMPY";

/// One named array, little endian, in C order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// Its name in the file, without `.npy`.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// One size per axis; empty for a single value.
    pub shape: Vec<u64>,
    /// The elements.
    pub bytes: Vec<u8>,
}

impl Array {
    /// The elements of integers and truth values; nothing for others.
    pub fn integers(&self) -> Option<Vec<i64>> {
        Some(match self.dtype {
            DType::Bool => self.bytes.iter().map(|b| i64::from(*b != 0)).collect(),
            DType::I32 => self.bytes.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b).into()).collect(),
            DType::I64 => self.bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
            _ => return None,
        })
    }

    /// The same in another type of floats, rounded to nearest; as it is where it or the type is no such.
    pub fn as_float(self, dtype: DType) -> Array {
        use half::{bf16, f16};
        let pairs = self.bytes.as_chunks().0.iter();
        let wide: Vec<f32> = match self.dtype {
            DType::F16 => pairs.map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            DType::BF16 => pairs.map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            DType::F32 => self.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            _ => return self,
        };
        let bytes = match dtype {
            DType::F16 => wide.into_iter().flat_map(|v| f16::from_f32(v).to_le_bytes()).collect(),
            DType::BF16 => wide.into_iter().flat_map(|v| bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F32 => wide.into_iter().flat_map(f32::to_le_bytes).collect(),
            _ => return self,
        };
        Array { dtype, bytes, ..self }
    }
}

/// Why a file of arrays cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NpzError {
    /// The system refuses.
    #[error("cannot {verb} {path}: {source}", path = path.display())]
    Io {
        /// `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file as a whole is not what it should be.
    #[error("{path} is no readable .npz file: {what}", path = path.display())]
    NotNpz {
        /// The file.
        path: PathBuf,
        /// How it differs.
        what: String,
    },
    /// One array is broken, or of a kind that is not read or written.
    #[error("array `{name}` in {path}: {what}", name = name.escape_debug(), path = path.display())]
    Array {
        /// The file.
        path: PathBuf,
        /// The array.
        name: String,
        /// What is wrong, and what to do.
        what: String,
    },
}

/// Reads all arrays, in the order of the file.
pub fn read(path: &Path) -> Result<Vec<Array>, NpzError> {
    read_within(path, INFLATED_FREE)
}

/// Reads all arrays if together they take at most `free` bytes, besides those that the file's size allows.
fn read_within(path: &Path, free: u64) -> Result<Vec<Array>, NpzError> {
    let io = |source| NpzError::Io { verb: "read", path: path.to_owned(), source };
    let not_npz = |what: String| NpzError::NotNpz { path: path.to_owned(), what };
    let file = beneath::open_named(path).map_err(|e| match e {
        NotBeneath::Io(source) => io(source),
        other => not_npz(other.to_string()),
    })?;
    let metadata = file.metadata().map_err(io)?;
    let mut left = free.saturating_add(metadata.len().saturating_mul(INFLATED_PER_BYTE));
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let zip = ZipArchive::from_file(file, &mut buffer).map_err(|e| not_npz(e.to_string()))?;
    let (claimed, mut seen) = (zip.entries_hint(), 0u64);
    let mut arrays: Vec<Array> = Vec::new();
    let mut names = HashSet::new();
    let mut entries = zip.entries(&mut buffer);
    while let Some(entry) = entries.next_entry().map_err(|e| not_npz(e.to_string()))? {
        seen += 1;
        let raw = entry.file_path();
        let Ok(full) = str::from_utf8(raw.as_bytes()) else {
            return Err(not_npz(format!("the name `{}` is no UTF-8", raw.as_bytes().escape_ascii())));
        };
        let Some(name) = full.strip_suffix(".npy") else {
            return Err(not_npz(format!("it holds `{}`, which is no .npy array", full.escape_debug())));
        };
        let name = name.to_owned();
        let fail = |what: String| NpzError::Array { path: path.to_owned(), name: name.clone(), what };
        if !names.insert(name.clone()) {
            return Err(fail("the name stands twice".to_owned()));
        }
        if entry.flags().is_encrypted() {
            return Err(fail("it is encrypted".to_owned()));
        }
        let method = entry.compression_method();
        let entry = zip.get_entry(entry.wayfinder()).map_err(|e| fail(e.to_string()))?;
        let (from, to) = entry.compressed_data_range();
        let there = to.saturating_sub(from).min(metadata.len());
        let packed = entry.reader();
        // A verifying reader checks size and CRC when it meets the end, so each branch reads up to there.
        let array = match method {
            CompressionMethod::STORE => array(entry.verifying_reader(packed), there, left),
            CompressionMethod::DEFLATE => {
                array(entry.verifying_reader(flate2::read::DeflateDecoder::new(packed)), 0, left)
            }
            other => Err(format!("its compression, {other}, is not read; write it with numpy's savez")),
        };
        let (dtype, shape, bytes) = array.map_err(fail)?;
        left = left.saturating_sub(bytes.len() as u64);
        arrays.push(Array { name, dtype, shape, bytes });
    }
    if seen != claimed {
        return Err(not_npz(format!("its directory claims {claimed} arrays and lists {seen}")));
    }
    Ok(arrays)
}

/// Writes all arrays, uncompressed, in this order. The file takes its place when it is whole.
///
/// Names are kept to the letter; one that is not ASCII and has `//`, `\` or `..` in it looks garbled to numpy.
pub fn write(path: &Path, arrays: &[Array]) -> Result<(), NpzError> {
    let mut names = HashSet::new();
    for array in arrays {
        let fail = |what: String| NpzError::Array { path: path.to_owned(), name: array.name.clone(), what };
        let elements = array.shape.iter().try_fold(1u64, |all, axis| all.checked_mul(*axis));
        if elements.and_then(|n| array.dtype.bytes(n)) != Some(array.bytes.len() as u64) {
            let held = array.bytes.len();
            return Err(fail(format!("it holds {held} bytes, which is not {:?} of {:?}", array.shape, array.dtype)));
        }
        if array.shape.len() > RANK_MAX {
            return Err(fail(format!("it has more than {RANK_MAX} axes")));
        }
        if array.name.contains('\0') {
            return Err(fail("zip files hold no NUL in a name".to_owned()));
        }
        if descr(array.dtype).is_none() {
            return Err(fail(format!("numpy has no type for {:?}", array.dtype)));
        }
        if !names.insert(array.name.as_str()) {
            return Err(fail("the name stands twice".to_owned()));
        }
    }
    let io = |source| NpzError::Io { verb: "write", path: path.to_owned(), source };
    let beside = Beside::create(path).map_err(io)?;
    zip(beside.file(), arrays).map_err(io)?;
    beside.commit().map_err(io)
}

/// Writes the zip file.
fn zip(file: &File, arrays: &[Array]) -> io::Result<()> {
    let zipped = |e: rawzip::Error| match e.into_kind() {
        rawzip::ErrorKind::IO(e) => e,
        other => io::Error::other(other.to_string()),
    };
    let mut archive = ZipArchiveWriter::new(BufWriter::with_capacity(1 << 18, file));
    for array in arrays {
        let name = format!("{}.npy", array.name);
        // Normalising sets the flag that says UTF-8; a name that it would change is written byte for byte instead.
        let kept = !name.is_ascii() && ZipFilePath::from_str(&name).as_str() == name;
        let place = if kept { EntryPath::conformant(name) } else { EntryPath::verbatim(name.into_bytes()) };
        let entry = archive.new_file(place).compression_method(CompressionMethod::STORE);
        let (mut entry, config) = entry.start().map_err(zipped)?;
        let mut data = config.wrap(&mut entry);
        data.write_all(&header(array))?;
        data.write_all(&array.bytes)?;
        let (_, sums) = data.finish().map_err(zipped)?;
        entry.finish(sums).map_err(zipped)?;
    }
    archive.finish().map_err(zipped)?.flush()
}

/// numpy's name of a type; `None` where it has none.
fn descr(dtype: DType) -> Option<&'static str> {
    use DType::*;
    Some(match dtype {
        F64 => "<f8",
        F32 => "<f4",
        F16 => "<f2",
        // numpy itself knows these two bytes only as such; `ml_dtypes` views them as numbers.
        BF16 => "|V2",
        I64 => "<i8",
        I32 => "<i4",
        I16 => "<i2",
        I8 => "|i1",
        U64 => "<u8",
        U32 => "<u4",
        U16 => "<u2",
        U8 => "|u1",
        Bool => "|b1",
        _ => return None,
    })
}

/// The type that numpy names so.
fn dtype(descr: &str) -> Result<DType, String> {
    use DType::*;
    let (order, kind) = match descr.as_bytes().first() {
        Some(b'<' | b'>' | b'|' | b'=') => descr.split_at(1),
        _ => ("", descr),
    };
    let found = match kind {
        "f8" => F64,
        "f4" => F32,
        "f2" => F16,
        "V2" | "bfloat16" => BF16,
        "i8" => I64,
        "i4" => I32,
        "i2" => I16,
        "i1" => I8,
        "u8" => U64,
        "u4" => U32,
        "u2" => U16,
        "u1" => U8,
        "b1" => Bool,
        "O" => return Err("it holds Python objects (a pickle), which are not read".to_owned()),
        _ => {
            let descr = descr.escape_debug();
            return Err(format!(
                "its type `{descr}` is not read; store it as one of f2 f4 f8 bfloat16 i1-i8 u1-u8 bool"
            ));
        }
    };
    if order == ">" && found.bits() > Some(8) {
        return Err(format!("its type `{descr}` is big endian; store it with `.astype(\"{}\")`", kind));
    }
    Ok(found)
}

/// The header of a `.npy` file, version 1, padded as numpy pads it.
fn header(array: &Array) -> Vec<u8> {
    let mut shape = String::new();
    for axis in &array.shape {
        shape.push_str(&format!("{axis}, "));
    }
    let shape = if array.shape.len() == 1 { shape.trim_end() } else { shape.trim_end_matches(", ") };
    let descr = descr(array.dtype).unwrap_or("|V1");
    let text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let fixed = MAGIC.len() + 4;
    let length = (fixed + text.len() + 1).next_multiple_of(64) - fixed;
    let mut header = MAGIC.to_vec();
    header.extend([1, 0]);
    // At most 64 axes of 22 characters: it fits.
    header.extend((length as u16).to_le_bytes());
    header.extend(text.as_bytes());
    header.resize(fixed + length - 1, b' ');
    header.push(b'\n');
    header
}

/// Reads one `.npy` stream to its end. `there` bytes are known to exist, at most `allowed` may be taken.
fn array(mut from: impl Read, there: u64, allowed: u64) -> Result<(DType, Vec<u64>, Vec<u8>), String> {
    let words = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => "it ends within its header".to_owned(),
        _ => e.to_string(),
    };
    let mut fixed = [0; 8];
    from.read_exact(&mut fixed).map_err(words)?;
    if !fixed.starts_with(MAGIC) {
        return Err("it does not begin like a .npy array".to_owned());
    }
    let length = match fixed[6] {
        1 => {
            let mut length = [0; 2];
            from.read_exact(&mut length).map_err(words)?;
            usize::from(u16::from_le_bytes(length))
        }
        2 | 3 => {
            let mut length = [0; 4];
            from.read_exact(&mut length).map_err(words)?;
            usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX)
        }
        version => return Err(format!("its .npy version is {version}; known are 1 to 3")),
    };
    if length > HEADER_MAX {
        return Err(format!("its header takes {length} bytes; at most {HEADER_MAX} are read"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text).map_err(words)?;
    let text = str::from_utf8(&text).map_err(|_| "its header is no text".to_owned())?;
    let header = Header::parse(text)?;
    let dtype = dtype(&header.descr)?;
    let elements = header.shape.iter().try_fold(1u64, |all, axis| all.checked_mul(*axis));
    let Some(needed) = elements.and_then(|n| dtype.bytes(n)) else {
        return Err(format!("its shape {:?} does not fit in 64 bits", header.shape));
    };
    if needed > allowed {
        return Err(format!(
            "it takes {needed} bytes, more than a file of this size may unpack to; store it uncompressed"
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(needed.min(there)).unwrap_or(0));
    from.by_ref().take(needed).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if (bytes.len() as u64) < needed {
        return Err(format!("its shape needs {needed} bytes, {} are there", bytes.len()));
    }
    match from.read(&mut [0]) {
        Ok(0) => {}
        Ok(_) => return Err(format!("its shape needs {needed} bytes, more are there")),
        Err(e) => return Err(e.to_string()),
    }
    if header.fortran {
        bytes = c_order(&bytes, &header.shape, bytes.len() / elements.unwrap_or(1).max(1) as usize);
    }
    if dtype == DType::Bool {
        bytes.iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok((dtype, header.shape, bytes))
}

/// The same array with its last axis running fastest instead of its first.
fn c_order(fortran: &[u8], shape: &[u64], width: usize) -> Vec<u8> {
    // Sizes fit in memory, as the bytes do. An array without elements has nothing to move.
    let shape: Vec<usize> = shape.iter().map(|axis| *axis as usize).collect();
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = width;
    for axis in &shape {
        strides.push(stride);
        stride = stride.saturating_mul(*axis);
    }
    let mut at = vec![0; shape.len()];
    let mut out = Vec::with_capacity(fortran.len());
    while out.len() < fortran.len() {
        let from: usize = at.iter().zip(&strides).map(|(index, stride)| index * stride).sum();
        out.extend_from_slice(&fortran[from..from + width]);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    out
}

/// What a `.npy` header says.
#[derive(Debug, PartialEq)]
struct Header {
    descr: String,
    fortran: bool,
    shape: Vec<u64>,
}

impl Header {
    /// Reads the one Python dict that numpy writes, with its three keys in any order.
    fn parse(text: &str) -> Result<Header, String> {
        let (mut descr, mut fortran, mut shape) = (None, None, None);
        let mut scan = Scan { rest: text.trim_ascii() };
        scan.expect('{')?;
        while !scan.take('}') {
            let key = scan.string()?;
            scan.expect(':')?;
            let again = match key {
                "descr" if scan.peek('[') || scan.peek('(') => {
                    return Err("it has a structured type; store each field as its own array".to_owned());
                }
                "descr" => descr.replace(scan.string()?.to_owned()).is_some(),
                "fortran_order" => fortran.replace(scan.bool()?).is_some(),
                "shape" => shape.replace(scan.shape()?).is_some(),
                other => return Err(format!("its header has the unknown key `{}`", other.escape_debug())),
            };
            if again {
                return Err(format!("its header says `{key}` twice"));
            }
            if !scan.take(',') {
                scan.expect('}')?;
                break;
            }
        }
        match (descr, fortran, shape) {
            (Some(descr), Some(fortran), Some(shape)) if scan.rest.is_empty() => Ok(Header { descr, fortran, shape }),
            (Some(_), Some(_), Some(_)) => Err("its header goes on after its end".to_owned()),
            _ => Err("its header lacks one of descr, fortran_order, shape".to_owned()),
        }
    }
}

/// A position in a header. Nothing in it nests, so neither does this.
struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn peek(&self, sign: char) -> bool {
        self.rest.starts_with(sign)
    }

    /// Steps over this sign and the space after it, if it is next.
    fn take(&mut self, sign: char) -> bool {
        let next = self.rest.strip_prefix(sign);
        self.rest = next.map_or(self.rest, str::trim_ascii_start);
        next.is_some()
    }

    fn expect(&mut self, sign: char) -> Result<(), String> {
        if self.take(sign) { Ok(()) } else { Err(self.wrong(&format!("`{sign}`"))) }
    }

    fn wrong(&self, wanted: &str) -> String {
        let here: String = self.rest.chars().take(20).collect();
        format!("its header has `{}` where {wanted} is due", here.escape_debug())
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.peek('"') { '"' } else { '\'' };
        let end = self.rest.strip_prefix(quote).and_then(|rest| rest.find(quote));
        let Some(end) = end else { return Err(self.wrong("a string")) };
        let found = &self.rest[1..=end];
        self.rest = self.rest[end + 2..].trim_ascii_start();
        Ok(found)
    }

    fn bool(&mut self) -> Result<bool, String> {
        for (word, value) in [("True", true), ("False", false)] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest.trim_ascii_start();
                return Ok(value);
            }
        }
        Err(self.wrong("True or False"))
    }

    fn shape(&mut self) -> Result<Vec<u64>, String> {
        let mut shape = Vec::new();
        self.expect('(')?;
        while !self.take(')') {
            let digits = self.rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest.len());
            let Ok(axis) = self.rest[..digits].parse() else { return Err(self.wrong("the size of an axis")) };
            self.rest = self.rest[digits..].trim_ascii_start();
            // Python 2 wrote long integers so.
            self.take('L');
            shape.push(axis);
            if shape.len() > RANK_MAX {
                return Err(format!("it has more than {RANK_MAX} axes"));
            }
            if !self.take(',') {
                self.expect(')')?;
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::beside::scratch::Scratch;
    use std::fs;

    fn sample() -> Vec<Array> {
        let array = |name: &str, dtype: DType, shape: &[u64]| {
            let bytes = dtype.bytes(shape.iter().product()).unwrap() as usize;
            // Ones and zeros are valid in every type.
            Array {
                name: name.into(),
                dtype,
                shape: shape.to_vec(),
                bytes: (0..bytes).map(|i| (i % 2) as u8).collect(),
            }
        };
        use DType::*;
        let mut arrays: Vec<Array> = [F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, Bool]
            .iter()
            .map(|dtype| array(&format!("in:{dtype:?}"), *dtype, &[2, 3]))
            .collect();
        arrays.push(array("in:past_key_values.0.key", F32, &[]));
        arrays.push(array("out:/model/../layers.0//Add_output_0", F32, &[7]));
        arrays.push(array("in:größe", F32, &[0, 5]));
        arrays.push(array("in:größe\\//x", F32, &[1, 1, 1]));
        arrays.push(array("", U8, &[1]));
        arrays
    }

    /// Writes these bytes as the one file of a test and reads them.
    fn read_bytes(name: &str, bytes: &[u8]) -> Result<Vec<Array>, NpzError> {
        let scratch = Scratch::new(&format!("npz-{name}"));
        let path = scratch.0.join("x.npz");
        fs::write(&path, bytes).unwrap();
        read(&path)
    }

    /// A zip file with these entries; deflated where so said.
    fn zipped(entries: &[(&str, &[u8], bool)]) -> Vec<u8> {
        let mut zip = ZipArchiveWriter::new(Vec::new());
        for (name, bytes, deflate) in entries {
            let method = if *deflate { CompressionMethod::DEFLATE } else { CompressionMethod::STORE };
            let entry = zip.new_file(EntryPath::verbatim(name.as_bytes())).compression_method(method);
            let (mut entry, config) = entry.start().unwrap();
            let sums = if *deflate {
                let deflater = flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::fast());
                let mut data = config.wrap(deflater);
                data.write_all(bytes).unwrap();
                let (deflater, sums) = data.finish().unwrap();
                deflater.finish().unwrap();
                sums
            } else {
                let mut data = config.wrap(&mut entry);
                data.write_all(bytes).unwrap();
                data.finish().unwrap().1
            };
            entry.finish(sums).unwrap();
        }
        zip.finish().unwrap()
    }

    /// A `.npy` with this header text and these bytes.
    fn npy(header: &str, bytes: &[u8]) -> Vec<u8> {
        let mut npy = b"\x93NUMPY\x01\x00".to_vec();
        npy.extend((header.len() as u16).to_le_bytes());
        npy.extend(header.as_bytes());
        npy.extend(bytes);
        npy
    }

    fn refused(name: &str, npy: &[u8], deflate: bool) -> String {
        let npz = zipped(&[("a.npy", npy, deflate)]);
        read_bytes(name, &npz).expect_err("it is refused").to_string()
    }

    #[test]
    fn arrays_come_back_as_written() {
        let scratch = Scratch::new("npz-back");
        let path = scratch.0.join("out.npz");
        write(&path, &sample()).unwrap();
        assert_eq!(read(&path).unwrap(), sample());
        let first = fs::read(&path).unwrap();
        write(&path, &sample()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), first, "same arrays, same file");
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 1, "nothing is left beside");
        write(&path, &[]).unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }

    /// `tests/data/numpy.npz` was written by numpy 2.4 (`savez_compressed`), 1, 2, .. 6 as [2, 3] in each type.
    #[test]
    fn files_of_numpy_are_read() {
        let arrays = read(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/numpy.npz"))).unwrap();
        let names: Vec<&str> = arrays.iter().map(|a| a.name.as_str()).collect();
        let types = ["f8", "f4", "f2", "bf16", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "bool"];
        assert_eq!(names[..types.len()], types);
        assert_eq!(names[types.len()..], ["fortran", "/odd//naïve.0", "scalar", "empty"]);
        for array in &arrays[..arrays.len() - 2] {
            assert_eq!(array.shape, [2, 3], "{}", array.name);
            // Each equals the same numbers in f32, the fortran one too.
            let floats: Vec<f64> = match array.dtype {
                DType::F32 => array.bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b).into()).collect(),
                DType::F64 => array.bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect(),
                DType::F16 => array.bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).into()).collect(),
                DType::BF16 => array.bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).into()).collect(),
                DType::Bool => vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
                whole => array.bytes.chunks(whole.bits().unwrap() as usize / 8).map(|b| b[0].into()).collect(),
            };
            assert_eq!(floats, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], "{}", array.name);
        }
        assert_eq!(arrays[12].bytes, [1; 6], "what is true is one");
        assert_eq!((arrays[15].shape.as_slice(), arrays[16].shape.as_slice()), ([].as_slice(), [0, 4].as_slice()));
    }

    #[test]
    fn headers_are_read_as_python_would() {
        let header = |text| Header::parse(text).map(|h| (h.descr, h.fortran, h.shape));
        let four = |shape: &[u64]| Ok(("<f4".to_owned(), false, shape.to_vec()));
        assert_eq!(header("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 11), }  \n"), four(&[2, 11]));
        assert_eq!(header("{\"shape\":(3L,),\"fortran_order\":False,\"descr\":\"<f4\"}"), four(&[3]));
        assert_eq!(header("{'descr': '<f4', 'fortran_order': False, 'shape': ()}"), four(&[]));
        for broken in [
            "",
            "{}",
            "{'descr': '<f4'",
            "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (), 'more': 1}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1 2)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': ((((((1,),),),),),)}",
            "{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)} + {}",
            "{'é",
        ] {
            assert!(header(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn unreadable_types_are_named() {
        let with =
            |descr: &str| npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1,)}}"), &[0; 8]);
        for descr in ["int4", "uint4", "float8_e4m3fn", "|V1", "<U3", "<M8[ns]", "<c8", "<f16"] {
            assert!(refused("types", &with(descr), false).contains(descr), "{descr}");
        }
        assert!(refused("types", &with("|O"), false).contains("pickle"));
        assert!(refused("types", &with(">f8"), false).contains("big endian"));
        let bf16 = npy("{'descr': 'bfloat16', 'fortran_order': False, 'shape': (1,)}", &[0, 0]);
        assert_eq!(read_bytes("types", &zipped(&[("a.npy", &bf16, false)])).unwrap()[0].dtype, DType::BF16);
    }

    #[test]
    fn claims_are_not_believed() {
        let claim = |shape: &str, bytes: usize| {
            npy(&format!("{{'descr': '<f4', 'fortran_order': True, 'shape': ({shape})}}"), &vec![0; bytes])
        };
        for deflate in [false, true] {
            assert!(refused("claims", &claim("250000000,", 16), deflate).contains("16 are there"));
            assert!(refused("claims", &claim("4,", 17), deflate).contains("more are there"));
            assert!(refused("claims", &claim("4294967296, 4294967296", 16), deflate).contains("64 bits"));
            assert!(refused("claims", &claim("1099511627776,", 16), deflate).contains("store it uncompressed"));
            assert!(refused("claims", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", deflate).contains("at most"));
            assert!(refused("claims", b"\x93NUMPY\x01\x00\x10", deflate).contains("within its header"));
            assert!(refused("claims", b"\x93NUMPY\x09\x00\x10\x00", deflate).contains("version is 9"));
            assert!(refused("claims", b"hello, I am text", deflate).contains("does not begin"));
            assert!(refused("claims", b"", deflate).contains("within its header"));
        }
        let axes = "1,".repeat(65);
        assert!(refused("claims", &claim(&axes, 4), false).contains("64 axes"));
    }

    #[test]
    fn a_bomb_stops_at_the_bound() {
        // A megabyte of zeros deflates to a kilobyte; with one megabyte free, the second is one too many.
        let one = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1048576,)}", &vec![0; 1 << 20]);
        let zip = zipped(&[("a.npy", &one, true), ("b.npy", &one, true)]);
        assert!(zip.len() < 16 << 10);
        let scratch = Scratch::new("npz-bomb");
        let path = scratch.0.join("x.npz");
        fs::write(&path, zip).unwrap();
        assert_eq!(read(&path).unwrap().len(), 2);
        let stopped = read_within(&path, 1 << 20).unwrap_err().to_string();
        assert!(stopped.contains("`b`") && stopped.contains("store it uncompressed"), "{stopped}");
    }

    #[test]
    fn broken_archives_are_errors() {
        let one = npy("{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}", b"abc");
        let twice = zipped(&[("a.npy", &one, false), ("a.npy", &one, true)]);
        assert!(read_bytes("broken", &twice).unwrap_err().to_string().contains("stands twice"));
        let other = zipped(&[("readme.txt", b"hello", false)]);
        assert!(read_bytes("broken", &other).unwrap_err().to_string().contains("readme.txt"));
        let latin = zipped(&[("a.npy", &one, false)]);
        let latin: Vec<u8> = latin.iter().map(|b| if *b == b'a' { 0xe4 } else { *b }).collect();
        assert!(read_bytes("broken", &latin).is_err());
        let scratch = Scratch::new("npz-folder");
        assert!(matches!(read(&scratch.0), Err(NpzError::NotNpz { .. })));
        assert!(matches!(read(&scratch.0.join("none")), Err(NpzError::Io { .. })));
    }

    /// Every cut and every changed byte of a small file gives arrays or an error, never a panic.
    #[test]
    fn any_damage_is_an_error_or_harmless() {
        let one = npy("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3)}", &[7; 24]);
        let whole = zipped(&[("a.npy", &one, false), ("b.npy", &one, true)]);
        assert_eq!(read_bytes("damage", &whole).unwrap().len(), 2);
        for cut in 0..whole.len() {
            assert!(read_bytes("damage", &whole[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..whole.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut changed = whole.clone();
                changed[at] ^= flip;
                if let Ok(arrays) = read_bytes("damage", &changed) {
                    assert!(arrays.iter().all(|a| a.bytes == [7; 24]), "byte {at} changed data unnoticed");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_written_leaves_the_old_file() {
        let scratch = Scratch::new("npz-write");
        let path = scratch.0.join("out.npz");
        fs::write(&path, "old").unwrap();
        let good = sample().remove(0);
        let wrong = [
            Array { bytes: vec![0], ..good.clone() },
            Array { shape: vec![u64::MAX, 2], ..good.clone() },
            Array { name: "a\0b".into(), ..good.clone() },
            Array { dtype: DType::I4, shape: vec![96], ..good.clone() },
            Array { dtype: DType::Str, ..good.clone() },
        ];
        for array in wrong {
            assert!(matches!(write(&path, std::slice::from_ref(&array)), Err(NpzError::Array { .. })), "{array:?}");
        }
        assert!(write(&path, &[good.clone(), good]).unwrap_err().to_string().contains("stands twice"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
    }
}
