//! Chooses an address for each stay.
//!
//! Reads:    stays of one memory, its alignment, the number of positions in a step.
//! Decides:  one offset for each stay.
//! Promises: stays that meet share no byte; offsets are aligned; the height is that of the highest byte.
//! Why:      what never leaves lies below; the rest best fit, by decreasing size, area or length, whichever ends
//!           lowest (Pisarchyk and Lee 2020 call the first greedy-by-size).

use crate::stay::Stay;

/// Offsets of stays, in their order, and the height of the arena that they need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    /// By index of the stay.
    pub at: Vec<u64>,
    /// End of the highest.
    pub height: u64,
}

/// Packs stays; tries several orders until one ends within `capacity`, else returns the lowest found.
pub fn pack(stays: &[&Stay], positions: usize, alignment: u64, capacity: u64) -> Offsets {
    let orders: [fn(&Stay) -> u128; 3] = [
        |s| u128::from(s.bytes),
        |s| u128::from(s.bytes) * (s.to - s.from + 1) as u128,
        |s| ((s.to - s.from) as u128) << 64 | u128::from(s.bytes),
    ];
    let mut best: Option<Offsets> = None;
    for key in orders {
        let found = pack_by(stays, positions, alignment, key);
        if best.as_ref().is_none_or(|b| found.height < b.height) {
            best = Some(found);
        }
        if best.as_ref().is_some_and(|b| b.height <= capacity) {
            break;
        }
    }
    best.unwrap_or(Offsets { at: Vec::new(), height: 0 })
}

fn pack_by(stays: &[&Stay], positions: usize, alignment: u64, key: fn(&Stay) -> u128) -> Offsets {
    let mut at = vec![0; stays.len()];
    let mut floor = 0;
    for (i, stay) in stays.iter().enumerate().filter(|(_, s)| s.forever) {
        at[i] = floor;
        floor += stay.bytes.next_multiple_of(alignment);
    }
    let mut order: Vec<usize> = (0..stays.len()).filter(|i| !stays[*i].forever && stays[*i].bytes > 0).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(key(stays[*i])), *i));
    let mut height = floor;
    // Placed stays by offset, so that gaps are found in one pass.
    let mut placed: Vec<(u64, u64, usize)> = Vec::with_capacity(order.len());
    for i in order {
        let bytes = stays[i].bytes.next_multiple_of(alignment);
        let meets = placed.iter().filter(|(_, _, j)| stays[*j].meets(stays[i], positions as i64));
        let offset = best_fit(meets.map(|(from, to, _)| (*from, *to)), floor, bytes);
        at[i] = offset;
        height = height.max(offset + bytes);
        let slot = placed.partition_point(|(from, _, _)| *from <= offset);
        placed.insert(slot, (offset, offset + bytes, i));
    }
    Offsets { at, height }
}

/// The tightest gap that holds `bytes` between taken ranges sorted by start; above all of them where none does.
fn best_fit(taken: impl Iterator<Item = (u64, u64)>, floor: u64, bytes: u64) -> u64 {
    let mut top = floor;
    let mut best: Option<(u64, u64)> = None;
    for (from, to) in taken {
        if from > top && from - top >= bytes && best.is_none_or(|(slack, _)| from - top - bytes < slack) {
            best = Some((from - top - bytes, top));
        }
        top = top.max(to);
    }
    best.map_or(top, |(_, offset)| offset)
}
