//! The load of a choice as more and more weights stay, without building stays for each.
//!
//! Reads:    the stays of the choice with none of them pinned, the order in which they are.
//! Decides:  nothing.
//! Promises: the height that the load curve of the choice with those weights pinned has.
//! Why:      a weight that stays holds its bytes at every position in place of its own stays; nothing else changes.

use crate::stay::{Arrival, Level, Stay};

/// What pinning one weight after the other does to the load.
pub(crate) struct Pinning {
    /// Of the load at each position, what it is more than at the one before, with nothing pinned.
    change: Vec<i128>,
    /// For each weight in the order: the bytes that it holds everywhere once it is pinned, and the end of its part of `gone`.
    pinned: Vec<(u64, usize)>,
    /// Stays that are there no longer: positions, half open, and bytes.
    gone: Vec<(usize, usize, i128)>,
}

impl Pinning {
    /// For tensors of so many bytes that are pinned in this order (those without bytes change nothing), and stays with none
    /// of those pinned; sizes are rounded up to the alignment.
    pub fn of(stays: &[Stay], order: &[(usize, Option<u64>)], positions: usize, alignment: u64) -> Pinning {
        let mut change = vec![0i128; positions + 1];
        let of_weight = |s: &Stay| s.level == Level::Device && s.arrives != Arrival::Scratch;
        let size = |bytes: u64| bytes.next_multiple_of(alignment);
        let last = stays.iter().map(|s| s.tensor.index()).chain(order.iter().map(|(t, _)| *t)).max();
        let mut first = vec![0usize; last.map_or(0, |t| t + 2)];
        let period = positions as i64;
        let ranges = |s: &Stay| {
            let forever = s.forever.then_some((0, period));
            let spans = s.spans(period).filter(move |_| forever.is_none());
            forever.into_iter().chain(spans).map(|(from, to)| (from as usize, to as usize))
        };
        for stay in stays {
            if stay.level == Level::Device {
                for (from, to) in ranges(stay) {
                    change[from] += i128::from(size(stay.bytes));
                    change[to] -= i128::from(size(stay.bytes));
                }
            }
            first[stay.tensor.index() + 1] += usize::from(of_weight(stay));
        }
        for t in 1..first.len() {
            first[t] += first[t - 1];
        }
        let (mut end, mut by_tensor) = (first.clone(), vec![0usize; first.last().copied().unwrap_or(0)]);
        for (i, stay) in stays.iter().enumerate().filter(|(_, s)| of_weight(s)) {
            let end = &mut end[stay.tensor.index()];
            by_tensor[*end] = i;
            *end += 1;
        }
        let (mut pinned, mut gone) = (Vec::with_capacity(order.len()), Vec::new());
        for (tensor, bytes) in order {
            let Some(bytes) = bytes else {
                pinned.push((0, gone.len()));
                continue;
            };
            let stays = by_tensor[first[*tensor]..first[*tensor + 1]].iter().map(|i| &stays[*i]);
            gone.extend(stays.flat_map(|s| ranges(s).map(|(from, to)| (from, to, i128::from(size(s.bytes))))));
            pinned.push((size(*bytes), gone.len()));
        }
        Pinning { change, pinned, gone }
    }

    /// The highest load with so many of the order pinned.
    pub fn height(&self, count: usize) -> u64 {
        let mut change = self.change.clone();
        let everywhere: i128 = self.pinned[..count].iter().map(|(bytes, _)| i128::from(*bytes)).sum();
        let gone = count.checked_sub(1).map_or(0, |last| self.pinned[last].1);
        for (from, to, bytes) in &self.gone[..gone] {
            change[*from] -= bytes;
            change[*to] += bytes;
        }
        let mut load = everywhere;
        let loads = change[..change.len() - 1].iter().map(|c| {
            load += c;
            load
        });
        loads.max().map_or(0, |most| u64::try_from(most).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stay::load_curve;
    use berth_ir::lifetime::TensorId;

    /// Stays of weights of 100, 200, 300 and 400 bytes beside a value, with so many of them pinned: the third is used
    /// twice, the fourth stays over the edge of the step.
    fn stays(pinned: usize) -> Vec<Stay> {
        let stay = |tensor: u32, bytes: u64, from: i64, to: i64, forever: bool| Stay {
            tensor: TensorId(tensor),
            level: Level::Device,
            from,
            to,
            forever,
            stage: false,
            arrives: Arrival::Home { demand: false },
            uses: smallvec::smallvec![from as usize],
            fed: false,
            fetched: false,
            bytes,
            part: None,
        };
        let mut all = vec![Stay { arrives: Arrival::Run(1), ..stay(4, 1_000, 1, 3, false) }];
        let spans = [(100, vec![(0, 0)]), (200, vec![(2, 2)]), (300, vec![(1, 1), (4, 4)]), (400, vec![(3, 6)])];
        for (n, (bytes, uses)) in spans.into_iter().enumerate() {
            match n < pinned {
                true => all.push(stay(n as u32, bytes, 0, 4, true)),
                false => all.extend(uses.into_iter().map(|(from, to)| stay(n as u32, bytes, from, to, false))),
            }
        }
        all
    }

    #[test]
    fn heights_are_those_of_the_load_with_so_many_pinned() {
        let order = [(0, Some(100)), (1, Some(200)), (2, Some(300)), (3, Some(400))];
        let pinning = Pinning::of(&stays(0), &order, 5, 64);
        for count in 0..=order.len() {
            let most = load_curve(&stays(count), Level::Device, 5, 64).into_iter().max().unwrap_or(0);
            assert_eq!(pinning.height(count), most, "{count} pinned");
        }
    }
}
