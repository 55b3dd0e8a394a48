//! The order of a tree that holds least: hills and valleys of its branches, merged.
//!
//! Liu's algorithm. The best order of a branch falls into segments, each up to a hill and down to a valley, of which hill
//! less valley falls; branches that meet run their segments in that order, whichever branch they come from. Exact where
//! each result has one reader. Elsewhere each task belongs to the branch of one of its readers, and the order is a guess.

use super::net::Piece;
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Tasks in a row: they hold `hill` more than before them at most, and leave `valley` more.
#[derive(Clone, Copy, Debug)]
struct Segment {
    hill: i128,
    valley: i128,
    first: u32,
    last: u32,
}

/// Segments of a branch, those first that fall furthest; equal ones by their first task.
type Branch = BTreeMap<(Reverse<i128>, u32), Segment>;

/// An order of all tasks, each branch of the tree that reaches each last task merged from its own branches.
pub fn liu(piece: &Piece) -> Vec<u32> {
    let mut branches: Vec<Branch> = vec![Branch::new(); piece.len()];
    let mut after: Vec<u32> = vec![u32::MAX; piece.len()];
    let mut roots = Branch::new();
    for task in 0..piece.len() as u32 {
        let mut branch = std::mem::take(&mut branches[task as usize]);
        append(&mut branch, segment(piece, task), &mut after);
        // Its first reader has it: the others can only come later.
        let reader = piece.succs[task as usize].iter().min();
        merge(reader.map_or(&mut roots, |reader| &mut branches[*reader as usize]), branch);
    }
    let mut order = Vec::with_capacity(piece.len());
    for segment in roots.into_values() {
        let mut at = segment.first;
        order.push(at);
        while at != segment.last {
            at = after[at as usize];
            order.push(at);
        }
    }
    allowed(piece, &order)
}

/// A task alone: what it holds beyond what is live before it, and what it leaves, if all that it reads ends with its first
/// reader.
fn segment(piece: &Piece, task: u32) -> Segment {
    let (mut hill, mut valley) = (i128::from(piece.workspace[task as usize]), 0);
    for t in &piece.operands[task as usize] {
        let t = &piece.tensors[*t as usize];
        let bytes = i128::from(t.bytes);
        if !t.before && t.users.first() == Some(&task) {
            hill += bytes;
            valley += bytes;
        }
        if !t.after && t.users.last() == Some(&task) {
            valley -= bytes;
        }
    }
    Segment { hill, valley, first: task, last: task }
}

/// Puts the smaller of two branches into the larger.
fn merge(into: &mut Branch, mut other: Branch) {
    if into.len() < other.len() {
        std::mem::swap(into, &mut other);
    }
    into.extend(other);
}

/// Puts a segment behind all others, and joins it with those that would not stay before it.
fn append(branch: &mut Branch, mut segment: Segment, after: &mut [u32]) {
    while let Some(entry) = branch.last_entry() {
        let before = *entry.get();
        // They stay apart where the earlier one falls further, to a valley that is lower than the later one's.
        if before.hill - before.valley > segment.hill - segment.valley && segment.valley > 0 {
            break;
        }
        entry.remove();
        after[before.last as usize] = segment.first;
        segment = Segment {
            hill: before.hill.max(before.valley + segment.hill),
            valley: before.valley + segment.valley,
            first: before.first,
            last: segment.last,
        };
    }
    branch.insert((Reverse(segment.hill - segment.valley), segment.first), segment);
}

/// The tasks as they stand, but each after all that it needs.
fn allowed(piece: &Piece, order: &[u32]) -> Vec<u32> {
    let mut allowed = Vec::with_capacity(order.len());
    let mut seen = vec![false; order.len()];
    let mut stack: Vec<(u32, usize)> = Vec::new();
    for task in order {
        if !std::mem::replace(&mut seen[*task as usize], true) {
            stack.push((*task, 0));
        }
        while let Some((task, next)) = stack.last_mut() {
            match piece.preds[*task as usize].get(*next) {
                Some(pred) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[*pred as usize], true) {
                        stack.push((*pred, 0));
                    }
                }
                None => {
                    allowed.push(*task);
                    stack.pop();
                }
            }
        }
    }
    allowed
}
