//! Finds stored weights that are the same bytes, as they are or as each other's transpose, or one element all over.
//!
//! Reads:    the graph's stored constants and, through a reader, parts of their bytes.
//! Decides:  which of them are one: tied embeddings that an exporter wrote twice, equal biases of many layers.
//! Promises: two that it calls one are equal in every byte, as read now; absent files have no twins. A few reads for each
//!           weight, and all bytes only of those that agree in these.
//! Why:      what is held twice is streamed twice; names say nothing of it, contents do.

use berth_ir::graph::{Content, Graph, Stored};
use berth_ir::program::{Filled, Transposed};
use bytes::Bytes;
use std::collections::HashMap;

/// Gives so many bytes of a stored constant from an offset in it; nothing where the file is absent or too short.
pub type Read<'a> = &'a dyn Fn(&Stored, u64, u64) -> Option<Bytes>;

/// Bytes compared at each place before all are.
const SAMPLE: u64 = 64;
/// Bytes compared at once.
const CHUNK: u64 = 1 << 20;
/// Elements along a side of the tiles in which a transpose is compared.
const TILE: u64 = 256;

/// What a stored constant is the same as.
#[derive(Clone, Debug, PartialEq)]
pub enum Twin {
    /// The first that has these bytes.
    Equal(Stored),
    /// The first that holds a matrix of which this is the transpose.
    Turned(Stored, Transposed),
    /// One element, all over.
    Filled(Filled),
}

/// A stored constant as it is compared.
struct Weight<'a> {
    stored: &'a Stored,
    /// Rows, columns and bytes of an element of a matrix.
    matrix: Option<(u64, u64, u64)>,
}

/// Where a stored constant lies: file, offset, bytes.
pub type Place = (String, u64, u64);

/// The place of a stored constant.
pub fn place(stored: &Stored) -> Place {
    (stored.file.clone(), stored.offset, stored.bytes)
}

/// The twins among a graph's stored constants of more than `above` bytes, by place. The first that others equal is not
/// among them.
pub fn twins(graph: &Graph, above: u64, read: Read) -> HashMap<Place, Twin> {
    let mut groups: HashMap<(u64, u64), Vec<Weight>> = HashMap::new();
    let (mut order, mut found) = (Vec::new(), HashMap::new());
    for value in &graph.values {
        let Content::Stored(stored) = &value.content else { continue };
        let bits = value.dtype.bits().filter(|bits| bits.is_multiple_of(8));
        let (Some(bits), true) = (bits, stored.present && stored.bytes > above) else { continue };
        let sizes: Option<Vec<u64>> = value.shape.iter().map(|axis| u64::try_from(axis.as_constant()?).ok()).collect();
        let matrix = match sizes.as_deref() {
            Some([rows, columns]) if *rows > 1 && *columns > 1 => Some((*rows, *columns, bits / 8)),
            _ => None,
        };
        if let Some(filled) = filled(stored, bits / 8, read) {
            found.insert(place(stored), Twin::Filled(filled));
            continue;
        }
        let key = (stored.bytes, bits);
        let group = groups.entry(key).or_insert_with(|| {
            order.push(key);
            Vec::new()
        });
        group.push(Weight { stored, matrix });
    }
    for group in order.iter().filter_map(|key| groups.get(key)).filter(|group| group.len() > 1) {
        same(group, read, &mut found);
        flipped(group, read, &mut found);
    }
    found
}

/// Those that are equal as they are.
fn same(group: &[Weight], read: Read, found: &mut HashMap<Place, Twin>) {
    let mut firsts: HashMap<Vec<u8>, Vec<&Weight>> = HashMap::new();
    for weight in group {
        let Some(key) = sample(weight.stored, read) else { continue };
        let firsts = firsts.entry(key).or_default();
        let of = firsts.iter().find(|first| equal(first.stored, weight.stored, read));
        match of {
            Some(first) if place(first.stored) == place(weight.stored) => {}
            Some(first) => {
                found.insert(place(weight.stored), Twin::Equal(first.stored.clone()));
            }
            None => firsts.push(weight),
        }
    }
}

/// Those that are the transpose of an earlier one.
fn flipped(group: &[Weight], read: Read, found: &mut HashMap<Place, Twin>) {
    let first = |w: &&Weight| !found.contains_key(&place(w.stored));
    let matrices: Vec<&Weight> = group.iter().filter(first).filter(|w| w.matrix.is_some()).collect();
    // By shape and the first elements of the first row; of the first column, where something has that shape turned.
    let mut rows: HashMap<(u64, u64, Bytes), Vec<&Weight>> = HashMap::new();
    let shapes: std::collections::HashSet<(u64, u64)> =
        matrices.iter().filter_map(|w| w.matrix.map(|(rows, columns, _)| (rows, columns))).collect();
    for weight in matrices {
        let Some((height, width, element)) = weight.matrix else { continue };
        let count = height.min(width).min(SAMPLE / element);
        if shapes.contains(&(width, height))
            && let Some(column) = column(weight.stored, width, element, count, read)
            && let Some(earlier) = rows.get(&(width, height, column))
            && let Some(of) = earlier.iter().find(|of| turned(of.stored, weight.stored, (width, height, element), read))
            && place(of.stored) != place(weight.stored)
        {
            let matrix = Transposed { rows: width, columns: height, element };
            found.insert(place(weight.stored), Twin::Turned(of.stored.clone(), matrix));
            continue;
        }
        if let Some(row) = read(weight.stored, 0, count * element) {
            rows.entry((height, width, row)).or_default().push(weight);
        }
    }
}

/// The element, where every one is the same.
fn filled(stored: &Stored, element: u64, read: Read) -> Option<Filled> {
    if !matches!(element, 1 | 2 | 4 | 8) {
        return None;
    }
    let uniform = |bytes: &Bytes, first: &Bytes| bytes.chunks_exact(element as usize).all(|e| e == first);
    let first = read(stored, 0, element)?;
    let mut at = 0;
    // Little at first: most weights differ at once.
    let mut length = SAMPLE;
    while at < stored.bytes {
        let bytes = read(stored, at, length.min(stored.bytes - at))?;
        if !uniform(&bytes, &first) {
            return None;
        }
        at += bytes.len() as u64;
        length = CHUNK;
    }
    let mut bits = [0; 8];
    bits[..first.len()].copy_from_slice(&first);
    Some(Filled { element, bits: u64::from_le_bytes(bits) })
}

/// A few bytes from four places.
fn sample(stored: &Stored, read: Read) -> Option<Vec<u8>> {
    let length = SAMPLE.min(stored.bytes);
    let last = stored.bytes - length;
    let mut all = Vec::with_capacity(4 * length as usize);
    for at in [0, last / 3, last / 3 * 2, last] {
        all.extend_from_slice(&read(stored, at, length)?);
    }
    Some(all)
}

/// The first elements of the first column.
fn column(stored: &Stored, width: u64, element: u64, count: u64, read: Read) -> Option<Bytes> {
    let mut all = Vec::with_capacity((count * element) as usize);
    for row in 0..count {
        all.extend_from_slice(&read(stored, row * width * element, element)?);
    }
    Some(all.into())
}

fn equal(a: &Stored, b: &Stored, read: Read) -> bool {
    let mut at = 0;
    while at < a.bytes {
        let length = CHUNK.min(a.bytes - at);
        match (read(a, at, length), read(b, at, length)) {
            (Some(x), Some(y)) if x == y => at += length,
            _ => return false,
        }
    }
    true
}

/// Whether `b` is the transpose of `a`, a matrix of so many rows and columns of so many bytes.
fn turned(a: &Stored, b: &Stored, (rows, columns, element): (u64, u64, u64), read: Read) -> bool {
    let wide = |stored: &Stored, width: u64, row: u64, from: u64, count: u64| {
        read(stored, (row * width + from) * element, count * element)
    };
    for top in (0..rows).step_by(TILE as usize) {
        for left in (0..columns).step_by(TILE as usize) {
            let (height, width) = (TILE.min(rows - top), TILE.min(columns - left));
            let of_a: Option<Vec<Bytes>> = (top..top + height).map(|row| wide(a, columns, row, left, width)).collect();
            let of_b: Option<Vec<Bytes>> = (left..left + width).map(|row| wide(b, rows, row, top, height)).collect();
            let (Some(of_a), Some(of_b)) = (of_a, of_b) else { return false };
            let size = element as usize;
            let agree = of_a.iter().enumerate().all(|(i, row)| {
                row.chunks_exact(size).zip(&of_b).all(|(x, turned)| turned.get(i * size..(i + 1) * size) == Some(x))
            });
            if !agree {
                return false;
            }
        }
    }
    true
}
