//! Bytes as decisions: whatever the bytes are, a generator that asks these makes something, and equal bytes the same.

/// A row of decisions. When the bytes are used up, every further one is the first of what there is to choose from, so that
/// what is made ends, and less is made of fewer bytes.
pub struct Choices<'a> {
    left: &'a [u8],
}

/// Sizes at which programs go wrong: nothing, one, around alignments, very much.
const ODD: &[u64] = &[
    0,
    1,
    2,
    3,
    63,
    64,
    65,
    127,
    128,
    4_095,
    4_096,
    4_097,
    1 << 20,
    (1 << 20) + 1,
    1 << 31,
    1 << 32,
    1 << 40,
    (1 << 40) + 1,
    (1 << 62) - 1,
    1 << 62,
];

impl<'a> Choices<'a> {
    /// All decisions that these bytes are.
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices { left: bytes }
    }

    /// Whether bytes are left.
    pub fn more(&self) -> bool {
        !self.left.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.left.split_first() {
            Some((first, rest)) => {
                self.left = rest;
                *first
            }
            None => 0,
        }
    }

    /// One of so many; zero where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let many =
            if end > 256 { u64::from(self.byte()) << 8 | u64::from(self.byte()) } else { u64::from(self.byte()) };
        usize::try_from(many).map_or(0, |n| n.checked_rem(end).unwrap_or(0))
    }

    /// True once in so many.
    pub fn one_in(&mut self, many: usize) -> bool {
        self.below(many) + 1 == many
    }

    /// One of these.
    pub fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// A number of eight bytes.
    pub fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A size: small, odd or of any length.
    pub fn size(&mut self) -> u64 {
        match self.below(8) {
            0..=3 => u64::from(self.byte()) * 16,
            4 => self.of(&ODD[..16]),
            5 => self.of(ODD),
            6 => u64::from(self.byte()) * u64::from(self.byte()) * 64,
            _ => self.word() >> (8 + self.below(56)),
        }
    }
}
