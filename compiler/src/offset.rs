//! Chooses an address for each stay.
//!
//! Reads:    stays of one memory, its alignment, the number of positions in a step.
//! Decides:  one offset for each stay.
//! Promises: stays that meet share no byte; offsets are aligned; the height is that of the highest byte.
//! Why:      what never leaves lies below; the rest best fit, by decreasing size, area or length, or as they come,
//!           whichever ends lowest (Pisarchyk and Lee 2020 call the first greedy-by-size).

use crate::buckets::Buckets;
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
    let orders: [fn(&Stay) -> u128; 4] = [
        |s| u128::from(s.bytes),
        |s| u128::from(s.bytes) * (s.to - s.from + 1) as u128,
        |s| ((s.to - s.from) as u128) << 64 | u128::from(s.bytes),
        // As they come.
        |s| u128::MAX - (s.from + i64::from(u32::MAX)) as u128,
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
    let mut placed = Buckets::new(positions as u64, stays.len());
    let (mut near, mut taken) = (Vec::new(), Vec::new());
    for i in order {
        let bytes = stays[i].bytes.next_multiple_of(alignment);
        let spans = spans(stays[i], positions as i64);
        near.clear();
        placed.near(&spans, &mut near);
        taken.clear();
        let meets = near.iter().filter(|j| stays[**j].meets(stays[i], positions as i64));
        taken.extend(meets.map(|j| (at[*j], at[*j] + stays[*j].bytes.next_multiple_of(alignment))));
        taken.sort_unstable();
        at[i] = best_fit(&taken, floor, bytes);
        height = height.max(at[i] + bytes);
        for (from, to) in spans {
            placed.insert(i, from, to);
        }
    }
    Offsets { at, height }
}

/// The positions of a step at which a stay holds its bytes, as half-open ranges.
fn spans(stay: &Stay, period: i64) -> Vec<(u64, u64)> {
    let end = stay.to as u64 + 1;
    match u64::try_from(stay.from) {
        Ok(from) => vec![(from, end)],
        Err(_) => vec![(0, end), ((stay.from + period).max(0) as u64, period as u64)],
    }
}

/// The tightest gap that holds `bytes` between taken ranges sorted by start; above all of them where none does.
fn best_fit(taken: &[(u64, u64)], floor: u64, bytes: u64) -> u64 {
    let mut top = floor;
    let mut best: Option<(u64, u64)> = None;
    for &(from, to) in taken {
        if from > top && from - top >= bytes && best.is_none_or(|(slack, _)| from - top - bytes < slack) {
            best = Some((from - top - bytes, top));
        }
        top = top.max(to);
    }
    best.map_or(top, |(_, offset)| offset)
}
