//! Many short lists in one block: a model has as many lists of uses as it has tensors, and most hold one or two numbers.

use std::ops::Index;

/// Lists of numbers, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lists {
    /// By list: where it ends; it begins where the one before ends.
    ends: Vec<usize>,
    items: Vec<usize>,
}

impl Lists {
    /// So many lists of what `pairs` says, list and number, each list in that order. It is gone through twice, and says the
    /// same both times.
    pub fn of<P: Iterator<Item = (usize, usize)>>(count: usize, pairs: impl Fn() -> P) -> Lists {
        // Counted, summed, and filled in: each end is first where the list begins.
        let mut ends = vec![0; count + 1];
        pairs().for_each(|(list, _)| ends[list + 1] += 1);
        for list in 1..ends.len() {
            ends[list] += ends[list - 1];
        }
        let mut items = vec![0; ends.pop().unwrap_or(0)];
        for (list, item) in pairs() {
            items[ends[list]] = item;
            ends[list] += 1;
        }
        Lists { ends, items }
    }

    /// All lists, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[usize]> + Clone {
        (0..self.ends.len()).map(|list| &self[list])
    }

    fn from(&self, list: usize) -> usize {
        list.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// A list, to be put into another order.
    pub fn get_mut(&mut self, list: usize) -> &mut [usize] {
        let from = self.from(list);
        &mut self.items[from..self.ends[list]]
    }
}

impl Index<usize> for Lists {
    type Output = [usize];

    fn index(&self, list: usize) -> &[usize] {
        &self.items[self.from(list)..self.ends[list]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_keep_the_order_of_what_they_are_made_of() {
        let pairs = [(2, 7), (0, 1), (2, 5), (0, 9)];
        let lists = Lists::of(4, || pairs.into_iter());
        assert_eq!(lists.iter().collect::<Vec<_>>(), [&[1, 9][..], &[], &[7, 5], &[]]);
        assert_eq!(Lists::of(0, || [].into_iter()).iter().len(), 0);
    }
}
