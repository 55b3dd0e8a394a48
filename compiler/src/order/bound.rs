//! What every order holds at some task: a tensor that one of its ancestors uses and one of its descendants uses too.
//!
//! Tensors are followed 64 at a time, as bits that go down and up the dependencies, so it takes a pass over the places
//! between the first and the last user of each group and no table of ancestors.

use super::net::Piece;

/// Tensors in a group: the bits of a word.
const GROUP: usize = 64;

/// The task at which most must be held in any order, and how much that is.
pub fn forced(whole: &Piece) -> Option<(u32, u128)> {
    let n = whole.len();
    let mut held: Vec<u128> = whole.workspace.iter().map(|bytes| whole.base + u128::from(*bytes)).collect();
    let (mut down, mut up) = (vec![0u64; n], vec![0u64; n]);
    for group in whole.tensors.chunks(GROUP) {
        let places = group.iter().filter_map(|t| Some((*t.users.first()?, *t.users.last()?)));
        let Some((first, last)) = places.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))) else { continue };
        let (first, last) = (first as usize, last as usize);
        for (bit, t) in group.iter().enumerate() {
            t.users.iter().for_each(|u| down[*u as usize] |= 1 << bit);
            t.users.iter().for_each(|u| up[*u as usize] |= 1 << bit);
        }
        for task in first..=last {
            let above = whole.preds[task].iter().filter(|p| **p as usize >= first);
            down[task] |= above.fold(0, |bits, p| bits | down[*p as usize]);
        }
        for task in (first..=last).rev() {
            let below = whole.succs[task].iter().filter(|s| **s as usize <= last);
            up[task] |= below.fold(0, |bits, s| bits | up[*s as usize]);
            let mut both = up[task] & down[task];
            while both != 0 {
                held[task] += u128::from(group[both.trailing_zeros() as usize].bytes);
                both &= both - 1;
            }
        }
        down[first..=last].fill(0);
        up[first..=last].fill(0);
    }
    let most = (0u32..).zip(held).max_by_key(|(task, held)| (*held, std::cmp::Reverse(*task)))?;
    Some(most)
}

/// The tensors that must be held while a task runs, whatever the order.
pub fn held_at(whole: &Piece, task: u32) -> Vec<u32> {
    let above = reached(&whole.preds, task);
    let below = reached(&whole.succs, task);
    let must = |t: &u32| {
        let users = &whole.tensors[*t as usize].users;
        users.iter().any(|u| above[*u as usize]) && users.iter().any(|u| below[*u as usize])
    };
    (0..whole.tensors.len() as u32).filter(must).collect()
}

/// The task itself and all that it leads to.
fn reached(edges: &[Vec<u32>], task: u32) -> Vec<bool> {
    let mut reached = vec![false; edges.len()];
    let mut open = vec![task];
    reached[task as usize] = true;
    while let Some(task) = open.pop() {
        for next in &edges[task as usize] {
            if !std::mem::replace(&mut reached[*next as usize], true) {
                open.push(*next);
            }
        }
    }
    reached
}
