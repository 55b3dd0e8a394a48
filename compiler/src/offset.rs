//! Chooses an address for each stay.
//!
//! Reads:    stays of one memory, its alignment, the number of positions in a step.
//! Decides:  one offset for each stay.
//! Promises: stays that meet share no byte; offsets are aligned; the height is that of the highest byte.
//! Why:      what never leaves lies below; the rest best fit, by decreasing size, area or length, or as they come,
//!           whichever ends lowest (Pisarchyk and Lee 2020 call the first greedy-by-size).

use crate::buckets::Buckets;
use crate::crowd::pack_crowd;
use crate::dsa::{Buffer, Verdict, solve};
use crate::stay::Stay;

/// Stays among which addresses are searched for, and the work that it may cost.
const SEARCHED_MAX: usize = 400;
const SEARCH_EFFORT: u64 = 50_000;

/// Stays that are placed one by one, each looking at all that it meets; more are a crowd, and so are fewer that meet each
/// other so many times.
const CROWD: usize = 8_000;
const MEETINGS: u64 = 8_000_000;

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
    let crowd = stays.len() > CROWD || meetings(stays, positions) > MEETINGS;
    let mut best = if crowd { crowded(stays, positions, alignment) } else { None };
    // Fewer than a crowd are worth the time where there is no room else.
    let placed = best.as_ref().is_some_and(|b| stays.len() > CROWD || capacity == 0 || b.height <= capacity);
    for key in orders.into_iter().take(if placed { 0 } else { orders.len() }) {
        let found = pack_by(stays, positions, alignment, key);
        if best.as_ref().is_none_or(|b| found.height < b.height) {
            best = Some(found);
        }
        if best.as_ref().is_some_and(|b| b.height <= capacity) {
            break;
        }
    }
    if best.as_ref().is_some_and(|b| b.height > capacity)
        && (SEARCHED_MAX..=CROWD).contains(&stays.len())
        && capacity > 0
        && !crowd
    {
        let other = crowded(stays, positions, alignment);
        best = best.into_iter().chain(other).min_by_key(|b| b.height);
    }
    let best = best.unwrap_or(Offsets { at: Vec::new(), height: 0 });
    if best.height > capacity && capacity > 0 {
        searched(stays, positions, alignment, capacity).unwrap_or(best)
    } else {
        best
    }
}

/// How often a stay begins where others are held: pairs that meet are about as many.
fn meetings(stays: &[&Stay], positions: usize) -> u64 {
    let mut change = vec![(0u64, 0u64); positions + 1];
    for (from, to) in stays.iter().filter(|s| !s.forever).flat_map(|s| s.spans(positions as i64)) {
        change[from as usize].0 += 1;
        change[to as usize].1 += 1;
    }
    let mut held = 0;
    let each = change.iter().map(|(begin, end)| {
        held = held + begin - end;
        begin * held
    });
    each.sum()
}

/// A crowd: what never leaves lies below.
fn crowded(stays: &[&Stay], positions: usize, alignment: u64) -> Option<Offsets> {
    let (mut at, mut floor) = (vec![0; stays.len()], 0u64);
    for (at, stay) in at.iter_mut().zip(stays).filter(|(_, s)| s.forever) {
        *at = floor;
        floor = floor.checked_add(stay.bytes.next_multiple_of(alignment))?;
    }
    let moving: Vec<usize> = (0..stays.len()).filter(|i| !stays[*i].forever).collect();
    let crowd: Vec<&Stay> = moving.iter().map(|i| stays[*i]).collect();
    let offsets = pack_crowd(&crowd, positions, alignment)?;
    moving.iter().zip(offsets).for_each(|(i, offset)| at[*i] = floor + offset);
    let height = stays.iter().zip(&at).map(|(s, at)| at + s.bytes).max().unwrap_or(0);
    Some(Offsets { at, height })
}

/// Addresses within the capacity by an exact search, where stays are few, none lasts over the edge of the step, and so
/// much work finds some.
fn searched(stays: &[&Stay], positions: usize, alignment: u64, capacity: u64) -> Option<Offsets> {
    let inside = |s: &&Stay| s.forever || (s.from >= 0 && s.to < positions as i64);
    if stays.len() > SEARCHED_MAX || !stays.iter().all(inside) {
        return None;
    }
    let held: Vec<usize> = (0..stays.len()).filter(|i| stays[*i].bytes > 0).collect();
    let buffer = |i: &usize| {
        let stay = stays[*i];
        let (from, to) = if stay.forever { (0, positions as u64) } else { (stay.from as u64, stay.to as u64 + 1) };
        Buffer { lower: from, upper: to, size: stay.bytes, alignment, gaps: Vec::new() }
    };
    let buffers: Vec<Buffer> = held.iter().map(buffer).collect();
    let answer = solve(&buffers, capacity, SEARCH_EFFORT).ok().filter(|a| a.verdict == Verdict::Fits)?;
    let mut at = vec![0; stays.len()];
    held.iter().zip(answer.at).for_each(|(i, offset)| at[*i] = offset);
    let height = held.iter().map(|i| at[*i] + stays[*i].bytes).max().unwrap_or(0);
    Some(Offsets { at, height })
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
        let spans: Vec<(u64, u64)> =
            stays[i].spans(positions as i64).map(|(from, to)| (from as u64, to as u64)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stay::{Arrival, Level, load_curve};
    use berth_ir::lifetime::TensorId;
    use smallvec::smallvec;

    /// Too few to be a crowd, and each meets nearly all others: what is put aside by thousands of skips lies so below.
    #[test]
    fn stays_that_all_meet_end_near_their_load() {
        let count = 5_000usize;
        let stay = |n: usize| Stay {
            tensor: TensorId(n as u32),
            level: Level::Lower,
            from: n as i64,
            to: (2 * count - n) as i64,
            forever: false,
            stage: false,
            arrives: Arrival::Run(n),
            uses: smallvec![n],
            fed: false,
            fetched: false,
            bytes: 64 * (1 + n as u64 * 7 % 41),
            part: None,
        };
        let stays: Vec<Stay> = (0..count).map(stay).collect();
        let positions = 2 * count + 2;
        assert!(meetings(&stays.iter().collect::<Vec<_>>(), positions) > MEETINGS);
        let offsets = pack(&stays.iter().collect::<Vec<_>>(), positions, 64, u64::MAX);
        let load = load_curve(&stays, Level::Lower, positions, 64).into_iter().max().unwrap_or(0);
        assert!(offsets.height <= load + load / 100, "{} bytes for a load of {load}", offsets.height);
        // All are there at once.
        let mut ranges: Vec<(u64, u64)> = offsets.at.iter().zip(&stays).map(|(at, s)| (*at, at + s.bytes)).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
    }
}
