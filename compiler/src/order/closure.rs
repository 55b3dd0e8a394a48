//! The least that can be held while a task runs, over all sets of tasks that can be done before it: one minimum cut.
//!
//! Such a set holds all that the task needs and nothing that needs it; the rest is free, as long as each task of the set has
//! in it what it needs. A tensor is held where one of its users is done and another is not, and the task itself is both. So
//! the set is one side of a cut in a network that has an edge of its bytes for each tensor. No order holds less, whatever
//! it does elsewhere; that forced alone counts only tensors that no such set can do without.

use super::net::{Held, Piece};
use crate::flow::{ENDLESS, Network, SINK, SOURCE};

/// What it takes to make a node or an edge, in edges that are looked at.
const NODE_WORK: u64 = 4;

/// Where a task stands when another is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Done,
    /// The task that is next.
    Next,
    Later,
    /// Either; its node.
    Free(u32),
}

/// What is held at least while a task runs, and the other tasks that are done then, rising; nothing if that takes more
/// than the work that is left.
pub fn least_at(piece: &Piece, task: u32, work: &mut u64) -> Option<(u128, Vec<u32>)> {
    let mut net = Network::default();
    let sides = sides(piece, task, &mut net);
    *work = work.saturating_sub(NODE_WORK * piece.len() as u64);
    for (n, side) in (0u32..).zip(&sides) {
        for before in &piece.preds[n as usize] {
            if let (Side::Free(node), Side::Free(before)) = (side, sides[*before as usize]) {
                net.edge(*node, before, ENDLESS);
            }
        }
    }
    let mut held = piece.base + u128::from(piece.workspace[task as usize]);
    held += piece.tensors.iter().map(|t| tensor(&mut net, t, &sides)).sum::<u128>();
    *work = work.saturating_sub(NODE_WORK * net.len() as u64);
    held += net.flow(work)?;
    let done = |side: &Side| match side {
        Side::Done => true,
        Side::Free(node) => net.is_before(*node),
        Side::Next | Side::Later => false,
    };
    Some((held, (0u32..).zip(&sides).filter(|(_, side)| done(side)).map(|(n, _)| n).collect()))
}

/// Where each task stands when one is next; free ones get nodes.
fn sides(piece: &Piece, task: u32, net: &mut Network) -> Vec<Side> {
    let mut sides = vec![None; piece.len()];
    sides[task as usize] = Some(Side::Next);
    for (edges, side) in [(&piece.preds, Side::Done), (&piece.succs, Side::Later)] {
        let mut open = vec![task];
        while let Some(at) = open.pop() {
            for other in &edges[at as usize] {
                if sides[*other as usize].replace(side).is_none() {
                    open.push(*other);
                }
            }
        }
    }
    sides.into_iter().map(|side| side.unwrap_or_else(|| Side::Free(net.node()))).collect()
}

/// Adds what a tensor costs where it is cut; what it costs in any case.
fn tensor(net: &mut Network, t: &Held, sides: &[Side]) -> u128 {
    let used = |side: Side| t.users.iter().any(|u| sides[*u as usize] == side);
    let begun = t.before || used(Side::Done) || used(Side::Next);
    let kept = t.after || used(Side::Later) || used(Side::Next);
    let node = |u: &u32| match sides[*u as usize] {
        Side::Free(node) => Some(node),
        Side::Done | Side::Next | Side::Later => None,
    };
    let free: Vec<u32> = t.users.iter().filter_map(node).collect();
    if begun && kept {
        return u128::from(t.bytes);
    }
    if free.is_empty() || t.bytes == 0 {
        return 0;
    }
    let first = if begun { SOURCE } else { net.node() };
    let last = if kept { SINK } else { net.node() };
    net.edge(first, last, u128::from(t.bytes));
    for user in free {
        if !begun {
            net.edge(user, first, ENDLESS);
        }
        if !kept {
            net.edge(last, user, ENDLESS);
        }
    }
    0
}
