//! Many orders side by side: after each number of tasks the sets that leave least are kept, a fixed number of them.
//!
//! It proves nothing. It finds good orders where there are too many sets to try them all.

use super::net::Piece;
use super::sets::{Moment, Spreads, mark};
use std::collections::HashMap;

/// A set that is kept, how it came about, and the peak up to it.
struct Kept<const W: usize> {
    moment: Moment<W>,
    peak: u128,
    trail: u32,
}

/// A set that may be kept: live, peak, the one it comes from, the task.
type Next = (u128, u128, u32, u32);

/// An order with a peak below the limit, and that peak, if one is found.
pub fn beam<const W: usize>(
    piece: &Piece,
    floor: u128,
    limit: u128,
    width: usize,
    work: &mut u64,
) -> Option<(Vec<u32>, u128)> {
    let mut layer = vec![Kept { moment: Moment::<W>::start(piece), peak: floor, trail: 0 }];
    // How each set that was kept came about: the one before it, and the task.
    let mut trail = vec![(0u32, 0u32)];
    for _ in 0..piece.len() {
        let mut nexts: Vec<Next> = Vec::new();
        let mut known: HashMap<u128, u32, Spreads> = HashMap::default();
        for (from, kept) in (0u32..).zip(&layer) {
            let mut add = |task: u32, live: u128, peak: u128| {
                let next = (live, peak, from, task);
                let index = *known.entry(kept.moment.key ^ mark(piece, task)).or_insert(nexts.len() as u32);
                match nexts.get_mut(index as usize) {
                    Some(old) => *old = next.min(*old),
                    None => nexts.push(next),
                }
            };
            let steps: Vec<_> = kept.moment.ready.iter().map(|t| (t, kept.moment.step(piece, t))).collect();
            *work = work.saturating_sub(1 + steps.len() as u64);
            let free = steps.iter().find(|(_, s)| s.held <= kept.peak && s.live <= kept.moment.live);
            match free {
                Some((task, step)) => add(*task, step.live, kept.peak),
                None => {
                    for (task, step) in steps.iter().filter(|(_, s)| s.held < limit) {
                        add(*task, step.live, kept.peak.max(step.held));
                    }
                }
            }
        }
        if nexts.is_empty() || *work == 0 {
            return None;
        }
        if nexts.len() > width {
            nexts.select_nth_unstable(width);
            nexts.truncate(width);
        }
        nexts.sort_unstable();
        *work = work.saturating_sub(4 * nexts.len() as u64);
        let keep = |(live, peak, from, task): &Next| {
            let from = &layer[*from as usize];
            trail.push((from.trail, *task));
            Kept { moment: from.moment.then(piece, *task, *live), peak: *peak, trail: trail.len() as u32 - 1 }
        };
        layer = nexts.iter().map(keep).collect();
    }
    let best = layer.iter().min_by_key(|kept| kept.peak)?;
    let mut order = Vec::with_capacity(piece.len());
    let mut at = best.trail;
    while at != 0 {
        order.push(trail[at as usize].1);
        at = trail[at as usize].0;
    }
    order.reverse();
    let peak = piece.profile(&order).peak(0..order.len());
    Some((order, peak)).filter(|(_, peak)| *peak < limit)
}
