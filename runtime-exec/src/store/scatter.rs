//! Puts rows where the columns of their transpose belong.

use berth_ir::program::Transposed;

/// Rows of a matrix in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Bytes from one row to the next.
    pub pitch: usize,
    /// The first row, and how many.
    pub row: usize,
    pub rows: usize,
    /// The first column, and how many.
    pub column: usize,
    pub columns: usize,
}

/// Puts a block of rows where its columns belong in `to`, which is the whole transpose.
pub(crate) fn scatter(from: &[u8], to: &mut [u8], matrix: Transposed, block: Block) {
    let rows = matrix.rows as usize;
    match matrix.element {
        1 => scatter_by::<1>(from, to, rows, block),
        2 => scatter_by::<2>(from, to, rows, block),
        4 => scatter_by::<4>(from, to, rows, block),
        // The verifier lets no other size through.
        _ => scatter_by::<8>(from, to, rows, block),
    }
}

/// Goes by tiles of a cache line each way, so that every line is read once and written once: element by element, columns
/// a power of two apart would push each other out of the cache.
fn scatter_by<const E: usize>(from: &[u8], to: &mut [u8], rows: usize, block: Block) {
    const SIDE_MAX: usize = 64;
    let side = SIDE_MAX / E;
    let (to, _) = to.as_chunks_mut::<E>();
    let mut tile = [[[0u8; E]; SIDE_MAX]; SIDE_MAX];
    for first_row in (0..block.rows).step_by(side) {
        let tall = side.min(block.rows - first_row);
        for first in (0..block.columns).step_by(side) {
            let wide = side.min(block.columns - first);
            for r in 0..tall {
                let line = &from[(first_row + r) * block.pitch + first * E..][..wide * E];
                line.as_chunks::<E>().0.iter().enumerate().for_each(|(c, element)| tile[c][r] = *element);
            }
            for (c, line) in tile[..wide].iter().enumerate() {
                let start = (block.column + first + c) * rows + block.row + first_row;
                to[start..start + tall].copy_from_slice(&line[..tall]);
            }
        }
    }
}
