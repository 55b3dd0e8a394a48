//! Places buffers where load is the same for long: what is born takes just the place of what dies.
//!
//! Reads:    buffers in order of birth, as if without gaps, of one alignment that their sizes are multiples of.
//! Decides:  one offset for each; the few that find no place below the peak load lie above it.
//! Promises: buffers alive together share no byte; or nothing, where too many find no place; the work is bounded.
//! Why:      where nothing may be wasted, what dies at one time has to lie together, if what is born then is as large in
//!           sum. A tree of all orders in which it does leaves each order open until it has to be known, as a test for
//!           planarity leaves open how a graph is drawn (Booth and Lueker 1976). Where load is missing, what is free
//!           takes part as if it were a buffer.

use super::Buffer;
use super::tree::{NONE, Tree};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Work in the tree for each buffer, and beyond that.
const WORK: (u64, u64) = (2000, 1 << 20);

/// What finds no place may be this part of the peak load.
const LOST: u64 = 100;

/// A buffer, or bytes that are free for some time.
#[derive(Clone, Copy, Debug)]
struct Item {
    size: u64,
    leaf: u32,
    free: bool,
}

/// Items that gave their place to others.
struct Change {
    /// In order of address, or against it.
    old: Vec<u32>,
    new: Vec<u32>,
    /// What lay beside the old, and whether below them, if they were in that order.
    beside: Option<(u32, bool)>,
}

/// All places below the peak load, in the orders that are still open.
struct Places {
    tree: Tree,
    /// Buffers first.
    items: Vec<Item>,
    /// Free ones by size.
    holes: BTreeSet<(u64, u32)>,
    changes: Vec<Change>,
}

impl Places {
    fn new(buffers: &[Buffer], room: u64) -> Places {
        let mut items: Vec<Item> = buffers.iter().map(|b| Item { size: b.size, leaf: NONE, free: false }).collect();
        let all = items.len() as u32;
        let tree = Tree::new(all);
        items.push(Item { size: room, leaf: tree.root(), free: true });
        Places { tree, items, holes: BTreeSet::from([(room, all)]), changes: Vec::new() }
    }

    fn sum(&self, list: &[u32]) -> u64 {
        list.iter().map(|i| self.items[*i as usize].size).sum()
    }

    /// Puts items in the place of all below a node; what they leave is free.
    fn replace(&mut self, node: u32, mut new: Vec<u32>) {
        let leaves = self.tree.frontier(node);
        let old: Vec<u32> = leaves.iter().map(|l| self.tree.item(*l)).collect();
        let beside = if old.len() > 1 { self.tree.neighbour(node) } else { None };
        let left = self.sum(&old) - self.sum(&new);
        for i in &old {
            let item = &self.items[*i as usize];
            if item.free {
                self.holes.remove(&(item.size, *i));
            }
        }
        if left > 0 {
            let hole = self.items.len() as u32;
            self.items.push(Item { size: left, leaf: NONE, free: true });
            self.holes.insert((left, hole));
            new.push(hole);
        }
        for (item, leaf) in new.iter().zip(self.tree.replace(node, &new)) {
            self.items[*item as usize].leaf = leaf;
        }
        self.changes.push(Change { old, new, beside });
    }

    /// What dies, with a hole where more is needed, gives its place to what is born; false where it cannot lie together.
    fn exchange(&mut self, dying: &[u32], born: &[u32]) -> bool {
        let mut leaves: Vec<u32> = dying.iter().map(|i| self.items[*i as usize].leaf).collect();
        let more = self.sum(born).saturating_sub(self.sum(dying));
        if more > 0 {
            let Some((_, hole)) = self.holes.range((more, 0)..).next() else { return false };
            leaves.push(self.items[*hole as usize].leaf);
        }
        let Some(node) = self.tree.reduce(&leaves) else { return false };
        self.replace(node, born.to_vec());
        true
    }

    /// A buffer's bytes become free, together with what is free beside them.
    fn release(&mut self, mut i: u32) {
        self.items[i as usize].free = true;
        self.holes.insert((self.items[i as usize].size, i));
        loop {
            let leaf = self.items[i as usize].leaf;
            let items = &self.items;
            let some = self.tree.beside(leaf, |item| items[item as usize].free);
            if some.len() < 2 {
                return;
            }
            let node = self.tree.group(self.tree.parent(leaf), &some);
            i = self.items.len() as u32;
            self.replace(node, Vec::new());
        }
    }

    /// A buffer takes a part of the tightest hole; false where there is none.
    fn fit(&mut self, i: u32) -> bool {
        let hole = self.holes.range((self.items[i as usize].size, 0)..).next().copied();
        if let Some((_, hole)) = hole {
            self.replace(self.items[hole as usize].leaf, vec![i]);
        }
        hole.is_some()
    }

    /// Offsets of all items that had a place: of those that have it at the end, then of those before them.
    fn offsets(&mut self) -> Vec<Option<u64>> {
        let mut at = vec![None; self.items.len()];
        let last = self.tree.frontier(self.tree.root());
        let last: Vec<u32> = last.iter().map(|l| self.tree.item(*l)).collect();
        self.stack(&last, 0, &mut at);
        for change in self.changes.iter().rev() {
            let from = change.new.iter().filter_map(|i| at[*i as usize]).min().expect("the new have places");
            let turned = change.beside.is_some_and(|(i, below)| (at[i as usize] < Some(from)) != below);
            if turned {
                self.stack(&change.old.iter().rev().copied().collect::<Vec<u32>>(), from, &mut at);
            } else {
                self.stack(&change.old, from, &mut at);
            }
        }
        at
    }

    fn stack(&self, items: &[u32], from: u64, at: &mut [Option<u64>]) {
        let mut end = from;
        for i in items {
            at[*i as usize] = Some(end);
            end += self.items[*i as usize].size;
        }
    }
}

/// Places all but few below the peak load.
pub fn tight(buffers: &[Buffer], peak: u64) -> Option<Vec<u64>> {
    let mut places = Places::new(buffers, peak);
    let mut deaths: Vec<u32> = (0..buffers.len() as u32).collect();
    deaths.sort_unstable_by_key(|i| (buffers[*i as usize].upper, *i));
    let (mut birth, mut death, mut lost) = (0, 0, 0);
    let most = buffers.len() as u64 * WORK.0 + WORK.1;
    while birth < buffers.len() {
        let time = buffers[birth].lower.min(buffers[deaths[death] as usize].upper);
        let dies = deaths[death..].iter().take_while(|i| buffers[**i as usize].upper == time).count();
        let mut dying = deaths[death..death + dies].to_vec();
        dying.retain(|i| places.items[*i as usize].leaf != NONE);
        let births = buffers[birth..].iter().take_while(|b| b.lower == time).count();
        let mut born: Vec<u32> = (birth as u32..(birth + births) as u32).collect();
        (birth, death) = (birth + births, death + dies);
        if births > 0 && places.exchange(&dying, &born) {
            continue;
        }
        dying.iter().for_each(|i| places.release(*i));
        born.sort_unstable_by_key(|i| (Reverse(buffers[*i as usize].size), *i));
        for i in born {
            lost += if places.fit(i) { 0 } else { buffers[i as usize].size };
        }
        if lost > peak / LOST || places.tree.work > most {
            return None;
        }
    }
    let mut top = peak;
    let above = |(at, b): (Option<u64>, &Buffer)| {
        at.unwrap_or_else(|| {
            top += b.size;
            top - b.size
        })
    };
    Some(places.offsets().into_iter().zip(buffers).map(above).collect())
}

/// How many buffers are born when just as many bytes die, or before any dies.
pub fn exchanged(buffers: &[Buffer]) -> usize {
    let mut deaths: Vec<(u64, u64)> = buffers.iter().map(|b| (b.upper, b.size)).collect();
    deaths.sort_unstable();
    let (mut death, mut birth, mut count) = (0, 0, 0);
    while birth < buffers.len() {
        let time = buffers[birth].lower;
        let born = birth + buffers[birth..].iter().take_while(|b| b.lower == time).count();
        death += deaths[death..].iter().take_while(|d| d.0 < time).count();
        let freed: u64 = deaths[death..].iter().take_while(|d| d.0 == time).map(|d| d.1).sum();
        let needed: u64 = buffers[birth..born].iter().map(|b| b.size).sum();
        count += if deaths[0].0 > time || freed == needed { born - birth } else { 0 };
        birth = born;
    }
    count
}
