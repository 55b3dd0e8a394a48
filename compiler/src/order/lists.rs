//! Orders that are made in one go: lists of ready tasks by some rank, depth first from the last tasks, and merged branches.

use super::liu::liu;
use super::net::{Piece, Walk};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Which ready task is next.
#[derive(Clone, Copy, Debug)]
enum Rank {
    /// The one that adds least to what is live.
    Growth,
    /// The one that brings least while it runs.
    Brings,
    /// The one that was ready last.
    Recent,
    /// The one with most tasks in a row behind it.
    Longest,
}

/// Orders of all tasks, each allowed.
pub fn lists(whole: &Piece) -> Vec<Vec<u32>> {
    let turned = whole.turned();
    let last = whole.len().saturating_sub(1) as u32;
    let mut all = Vec::new();
    for piece in [whole, &turned] {
        let ranks = [Rank::Growth, Rank::Brings, Rank::Recent, Rank::Longest];
        let mut some: Vec<Vec<u32>> = ranks.into_iter().map(|rank| list(piece, rank)).collect();
        some.push(depth_first(piece));
        some.push(liu(piece));
        if !std::ptr::eq(piece, whole) {
            for order in &mut some {
                order.reverse();
                order.iter_mut().for_each(|task| *task = last - *task);
            }
        }
        all.extend(some);
    }
    all
}

/// A rank as numbers: the least is next.
type Key = (i128, i128, u32);

/// Runs the ready task of the least rank, until all have run.
fn list(piece: &Piece, rank: Rank) -> Vec<u32> {
    let height = heights(piece);
    let mut walk = Walk::new(piece);
    let mut since = vec![0i128; piece.len()];
    let key = |walk: &Walk, since: &[i128], task: u32| -> Key {
        let step = walk.step(task);
        let (growth, brings) = (step.live as i128 - walk.live as i128, (step.held - walk.live) as i128);
        match rank {
            Rank::Growth => (growth, brings, task),
            Rank::Brings => (brings, growth, task),
            Rank::Recent => (-since[task as usize], growth, task),
            Rank::Longest => (-i128::from(height[task as usize]), growth, task),
        }
    };
    // What stands in the heap for a task may be old; the newest is in `keys`.
    let mut keys: Vec<Option<Key>> = vec![None; piece.len()];
    let mut heap = BinaryHeap::new();
    let ready = (0..piece.len() as u32).filter(|t| walk.waits[*t as usize] == 0);
    for task in ready.collect::<Vec<_>>() {
        let now = key(&walk, &since, task);
        keys[task as usize] = Some(now);
        heap.push(Reverse(now));
    }
    let mut order = Vec::with_capacity(piece.len());
    while let Some(Reverse(top)) = heap.pop() {
        let task = top.2;
        if keys[task as usize] != Some(top) {
            continue;
        }
        keys[task as usize] = None;
        walk.run(task);
        order.push(task);
        for next in piece.succs[task as usize].iter().filter(|s| walk.waits[**s as usize] == 0) {
            since[*next as usize] = order.len() as i128;
            let now = key(&walk, &since, *next);
            keys[*next as usize] = Some(now);
            heap.push(Reverse(now));
        }
        // A tensor changes what its users do twice: when it comes, and when one of them is left.
        for tensor in &piece.operands[task as usize] {
            let (done, t) = (walk.done(*tensor) as usize, &piece.tensors[*tensor as usize]);
            if done != 1 && done + 1 != t.users.len() {
                continue;
            }
            for user in &t.users {
                if keys[*user as usize].is_some() {
                    let now = key(&walk, &since, *user);
                    if keys[*user as usize].replace(now) != Some(now) {
                        heap.push(Reverse(now));
                    }
                }
            }
        }
    }
    order
}

/// Tasks in a row behind each task, itself too.
fn heights(piece: &Piece) -> Vec<u32> {
    let mut height = vec![1u32; piece.len()];
    for task in (0..piece.len()).rev() {
        let below = piece.succs[task].iter().map(|s| height[*s as usize] + 1);
        height[task] = below.max().unwrap_or(1);
    }
    height
}

/// From each last task back to what it needs, the branch first that needs most beyond what it leaves: Sethi and Ullman's
/// numbers, exact on trees of which each branch leaves one tensor, a guess elsewhere.
fn depth_first(piece: &Piece) -> Vec<u32> {
    let mut leaves = vec![0u128; piece.len()];
    for t in &piece.tensors {
        // Who uses it first makes it, and leaves it to the others.
        if let [first, _, ..] = t.users[..] {
            leaves[first as usize] += u128::from(t.bytes);
        }
    }
    let mut needs = vec![0u128; piece.len()];
    let mut branches: Vec<Vec<u32>> = Vec::with_capacity(piece.len());
    for task in 0..piece.len() {
        let mut preds = piece.preds[task].clone();
        preds.sort_by_key(|p| Reverse(needs[*p as usize] - leaves[*p as usize]));
        let (mut most, mut sum) = (0, 0);
        for p in &preds {
            most = most.max(sum + needs[*p as usize]);
            sum += leaves[*p as usize];
        }
        needs[task] = most.max(sum + leaves[task] + u128::from(piece.workspace[task]));
        branches.push(preds);
    }
    let mut order = Vec::with_capacity(piece.len());
    let mut seen = vec![false; piece.len()];
    let mut stack: Vec<(u32, usize)> = Vec::new();
    for last in (0..piece.len() as u32).filter(|t| piece.succs[*t as usize].is_empty()) {
        seen[last as usize] = true;
        stack.push((last, 0));
        while let Some((task, next)) = stack.last_mut() {
            match branches[*task as usize].get(*next) {
                Some(pred) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[*pred as usize], true) {
                        stack.push((*pred, 0));
                    }
                }
                None => {
                    order.push(*task);
                    stack.pop();
                }
            }
        }
    }
    order
}
