//! Which cuts of a matrix product by columns keep its bits.
//!
//! Reads:    rows and depth of the product, the threads of the engine.
//! Decides:  how many columns a piece has at least.
//! Promises: with ONNX Runtime's CPU kernels, each element of a piece is summed in the order in which the whole sums it.
//! Why:      those kernels sum the depth in blocks of 128; only a range of at most 64 columns, which is narrower than the
//!           product is deep, has longer blocks. Threads share the columns out in blocks of 16. A product of one row goes
//!           another way, which sums each column by itself. `docs/engine.md` has what was tried.

/// Columns are cut, and shared out among threads, in blocks of so many.
pub(super) const BLOCK: u64 = 16;
/// Depth that is summed in one go whatever the columns.
const DEPTH: u64 = 128;
/// Blocks of columns with which a thread's range is wider than 64.
const BLOCKS_OF_THREAD: u64 = 5;

/// A matrix product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Product {
    /// Rows of the result, at most.
    pub rows: u64,
    /// Whether the result never has more than one row, scaled by one: then it goes the way of a matrix and a vector.
    pub vector: bool,
    /// Length of the sums.
    pub depth: u64,
}

/// Blocks of columns that each piece of a product has at least.
pub(super) fn blocks_min(product: Product, threads: u64) -> u64 {
    // With fewer columns than rows it is rows that threads share out, and one row goes another way.
    let wider_than_rows = product.rows.saturating_add(BLOCK) / BLOCK + 1;
    let wide = BLOCKS_OF_THREAD.saturating_mul(threads);
    let summed_alike = if product.vector || product.depth <= DEPTH { 1 } else { wide };
    summed_alike.max(if product.vector { 1 } else { wider_than_rows })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_sums_in_one_go_is_cut_anywhere() {
        assert_eq!(blocks_min(Product { rows: 1, vector: true, depth: 4096 }, 16), 1);
        assert_eq!(blocks_min(Product { rows: 7, vector: false, depth: 128 }, 16), 2);
        assert_eq!(blocks_min(Product { rows: 7, vector: false, depth: 129 }, 16), 80);
        assert_eq!(blocks_min(Product { rows: 4096, vector: false, depth: 129 }, 16), 258);
    }
}
