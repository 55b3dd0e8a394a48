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

/// Elements of a tile: what the first cache holds beside what comes and goes.
const TILE: usize = 8192;
/// Rows of a tile, which become one stretch of a column.
const TALL: usize = 128;

/// Goes by tiles, one cache line of columns wide and many rows tall, down the rows first: lines are read once, and a
/// column is written in stretches, one behind the other. Element by element, columns a power of two apart would push each
/// other out of the cache; line by line, each would lie on another page.
fn scatter_by<const E: usize>(from: &[u8], to: &mut [u8], rows: usize, block: Block) {
    const LINE: usize = 64;
    let (to, _) = to.as_chunks_mut::<E>();
    let mut tile = [[0u8; E]; TILE];
    for first in (0..block.columns).step_by(LINE / E) {
        let wide = (LINE / E).min(block.columns - first);
        for first_row in (0..block.rows).step_by(TALL) {
            let tall = TALL.min(block.rows - first_row);
            for r in 0..tall {
                let line = &from[(first_row + r) * block.pitch + first * E..][..wide * E];
                line.as_chunks::<E>().0.iter().enumerate().for_each(|(c, element)| tile[c * TALL + r] = *element);
            }
            for (c, stretch) in tile.chunks_exact(TALL).take(wide).enumerate() {
                let start = (block.column + first + c) * rows + block.row + first_row;
                to[start..start + tall].copy_from_slice(&stretch[..tall]);
            }
        }
    }
}
