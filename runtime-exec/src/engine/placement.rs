//! Where a run's temporaries lie in its workspace: first fit, by rising address.
//!
//! The placement has no end of its own: it says where a block would lie in a workspace without limit, and how far that
//! went. So the same requests give the same offsets whether the memory behind them is there or not, and what a
//! measuring run needed is exactly what a later run needs.

/// Blocks that are in use, and the highest end that was ever reached.
#[derive(Debug, Default)]
pub struct Placement {
    /// (offset, length), by rising offset, disjoint.
    blocks: Vec<(usize, usize)>,
    peak: usize,
}

impl Placement {
    /// Room for so many blocks at once before the table itself has to grow.
    pub fn with_capacity(blocks: usize) -> Self {
        Placement { blocks: Vec::with_capacity(blocks), peak: 0 }
    }

    /// Takes the lowest gap that holds `length` bytes. `None` if the end would not fit in an address.
    pub fn take(&mut self, length: usize, alignment: usize) -> Option<usize> {
        let length = length.checked_next_multiple_of(alignment)?.max(alignment);
        let mut gap_from = 0;
        let mut at = self.blocks.len();
        for (index, &(offset, taken)) in self.blocks.iter().enumerate() {
            if offset - gap_from >= length {
                at = index;
                break;
            }
            gap_from = offset + taken;
        }
        let end = gap_from.checked_add(length)?;
        self.blocks.insert(at, (gap_from, length));
        self.peak = self.peak.max(end);
        Some(gap_from)
    }

    /// Gives a block back; false if none starts there.
    pub fn give(&mut self, offset: usize) -> bool {
        match self.blocks.binary_search_by_key(&offset, |block| block.0) {
            Ok(index) => {
                self.blocks.remove(index);
                true
            }
            Err(_) => false,
        }
    }

    /// The highest end so far.
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// The end of the last block in use.
    pub fn end(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.0 + block.1)
    }

    /// Bytes of the blocks in use.
    pub fn held(&self) -> usize {
        self.blocks.iter().map(|block| block.1).sum()
    }

    /// Forgets everything but the table's memory.
    pub fn clear(&mut self) {
        self.blocks.clear();
        self.peak = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_gap_first() {
        let mut p = Placement::default();
        let [a, b, c] = [100, 1, 64].map(|length| p.take(length, 64).unwrap());
        assert_eq!((a, b, c, p.peak()), (0, 128, 192, 256));
        assert!(p.give(b));
        assert_eq!(p.take(65, 64), Some(256), "65 bytes do not fit in the gap of 64");
        assert_eq!(p.take(64, 64), Some(128));
        assert!(p.give(a));
        assert_eq!(p.take(10, 64), Some(0));
        assert_eq!(p.take(10, 64), Some(64));
        assert!(!p.give(3), "nothing starts there");
        assert_eq!((p.held(), p.peak()), (64 * 6, 384));
    }

    #[test]
    fn an_impossible_length_is_refused() {
        let mut p = Placement::default();
        p.take(64, 64).unwrap();
        assert_eq!(p.take(usize::MAX, 64), None);
        assert_eq!(p.take(usize::MAX - 63, 64), None);
        assert_eq!(p.held(), 64);
    }
}
