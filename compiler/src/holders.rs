//! Who holds which bytes of a memory, as one after the other takes them.

use smallvec::SmallVec;
use std::collections::BTreeMap;

/// Nearly all ranges had one holder or two, and a search takes millions.
type Few<T> = SmallVec<[T; 4]>;

/// The holder of each byte that has one.
#[derive(Clone, Debug)]
pub struct Holders<T> {
    /// By first byte: the end, and who holds what lies between.
    held: BTreeMap<u64, (u64, T)>,
}

impl<T> Default for Holders<T> {
    fn default() -> Holders<T> {
        Holders { held: BTreeMap::new() }
    }
}

impl<T: Copy> Holders<T> {
    /// Gives a range, half open and not empty, to another; those who held bytes of it, by address.
    pub fn take(&mut self, from: u64, to: u64, who: T) -> Few<T> {
        self.split(from);
        self.split(to);
        let starts: Few<u64> = self.held.range(from..to).map(|(start, _)| *start).collect();
        let before = starts.into_iter().filter_map(|start| self.held.remove(&start)).map(|(_, who)| who).collect();
        self.held.insert(from, (to, who));
        before
    }

    /// Cuts the range that crosses an address in two.
    fn split(&mut self, at: u64) {
        let crossing = self.held.range(..at).next_back().filter(|(_, (to, _))| *to > at).map(|(from, v)| (*from, *v));
        if let Some((from, (to, who))) = crossing {
            self.held.insert(from, (at, who));
            self.held.insert(at, (to, who));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_held_bytes_is_told_and_keeps_the_rest() {
        let mut holders = Holders::default();
        assert!(holders.take(0, 10, 'a').is_empty());
        assert!(holders.take(10, 20, 'b').is_empty());
        assert_eq!(holders.take(5, 15, 'c')[..], ['a', 'b']);
        assert_eq!(holders.take(0, 20, 'd')[..], ['a', 'c', 'b']);
        assert_eq!(holders.take(7, 8, 'e')[..], ['d']);
        assert_eq!(holders.take(6, 9, 'f')[..], ['d', 'e', 'd']);
    }
}
