//! Chooses addresses for so many stays that looking at all that meet one another takes too long.
//!
//! Reads:    stays of one memory that all come and go, its alignment, the number of positions in a step.
//! Decides:  where the step is cut open, and one offset for each stay.
//! Promises: stays that meet share no byte; offsets are aligned; the work is near linear.
//! Why:      cut open where fewest bytes are held over the cut, a circle of time is a line, and on a line the solver of
//!           packing problems ends near the load whatever their number. What is held over the cut lies below the rest.

use crate::dsa::{Buffer, solve};
use crate::stay::Stay;

/// Offsets of stays, in their order; nothing where their sizes cannot be summed.
pub fn pack_crowd(stays: &[&Stay], positions: usize, alignment: u64) -> Option<Vec<u64>> {
    let period = positions as i64;
    let size = |stay: &Stay| stay.bytes.next_multiple_of(alignment);
    let cut = narrowest(stays, period);
    // The first position at or behind the cut at which a stay is held, counted from there.
    let from = |stay: &Stay| (stay.from - cut).rem_euclid(period);
    let over = |stay: &Stay| from(stay) + stay.to - stay.from >= period;
    let (mut at, mut floor) = (vec![0; stays.len()], 0u64);
    for (at, stay) in at.iter_mut().zip(stays).filter(|(_, stay)| over(stay)) {
        *at = floor;
        floor = floor.checked_add(size(stay))?;
    }
    let rest: Vec<usize> = (0..stays.len()).filter(|i| !over(stays[*i]) && stays[*i].bytes > 0).collect();
    let buffer = |i: &usize| {
        let (stay, lower) = (stays[*i], from(stays[*i]) as u64);
        let upper = lower + (stay.to - stay.from + 1) as u64;
        Buffer { lower, upper, size: stay.bytes, alignment, gaps: Vec::new() }
    };
    let buffers: Vec<Buffer> = rest.iter().map(buffer).collect();
    let answer = solve(&buffers, 0, 0).ok()?;
    rest.iter().zip(answer.at).for_each(|(i, offset)| at[*i] = floor + offset);
    Some(at)
}

/// The position before which the fewest bytes are held that are held at it too.
fn narrowest(stays: &[&Stay], period: i64) -> i64 {
    let mut change = vec![0i128; period as usize + 1];
    for stay in stays {
        for (from, to) in stay.spans(period) {
            // At the start of a span it is new, but where the span goes on from the end of the step.
            let first = if from == 0 && (stay.from < 0 || stay.to >= period) { 0 } else { from + 1 };
            if first < to {
                change[first as usize] += i128::from(stay.bytes);
                change[to as usize] -= i128::from(stay.bytes);
            }
        }
    }
    let mut held = 0i128;
    let widths = change[..period as usize].iter().map(|c| {
        held += c;
        held
    });
    widths.enumerate().min_by_key(|(p, held)| (*held, *p)).map_or(0, |(p, _)| p as i64)
}
