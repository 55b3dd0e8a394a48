//! What this machine is, by measuring it: rates of memory and disk, of the engine, and how they bear each other.
//!
//! Each figure is the median of several rounds and is kept with the least and the most that was seen. What cannot be
//! measured here stays as the preset `host` has it, and is named.

pub mod beside;
pub mod compute;
pub mod disk;
pub mod memory;
pub mod waking;

use berth_ir::units::{Bytes, Nanos};
use berth_runtime_exec::store::gauge::Took;
use serde::Serialize;
use std::fmt;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Bytes a second.
    #[serde(rename = "B/s")]
    Bytes,
    /// Operations a second.
    #[serde(rename = "ops/s")]
    Operations,
    /// Nanoseconds.
    #[serde(rename = "ns")]
    Nanos,
}

impl Unit {
    /// For people.
    pub fn human(self, value: u64) -> String {
        match self {
            Unit::Bytes => format!("{:.2} GB/s", value as f64 / 1e9),
            Unit::Operations => format!("{:.1} Gops/s", value as f64 / 1e9),
            Unit::Nanos => Nanos(value).human(),
        }
    }
}

/// One figure, measured several times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What it counts.
    pub unit: Unit,
    /// The least of all rounds.
    pub least: u64,
    /// The middle one.
    pub median: u64,
    /// The most.
    pub most: u64,
}

impl Figure {
    /// Of what rounds gave; zero where there was none.
    pub fn new(what: impl Into<String>, unit: Unit, mut rounds: Vec<u64>) -> Figure {
        rounds.sort_unstable();
        let at = |place: usize| rounds.get(place).copied().unwrap_or(0);
        let (least, median, most) = (at(0), at(rounds.len() / 2), at(rounds.len().saturating_sub(1)));
        Figure { what: what.into(), unit, least, median, most }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let human = |value| self.unit.human(value);
        write!(f, "{:<46}{:>13}   {} to {}", self.what, human(self.median), human(self.least), human(self.most))
    }
}

/// Of sizes with their rates, smallest first, the place of the smallest within 3 % of the best rate.
pub fn smallest_of_the_best(rates: &[u64]) -> usize {
    let best = rates.iter().max().copied().unwrap_or(0);
    let enough = |rate: &u64| u128::from(*rate) * 100 >= u128::from(best) * 97;
    rates.iter().position(enough).unwrap_or(0)
}

/// Bytes or operations a second.
pub fn a_second(amount: u64, nanos: u64) -> u64 {
    (u128::from(amount) * 1_000_000_000 / u128::from(nanos.max(1))) as u64
}

/// The rate of each round of reads.
pub fn rates(seen: &[Took]) -> Vec<u64> {
    seen.iter().map(|took| a_second(took.bytes, took.nanos)).collect()
}

/// To three digits, so that a target reads well; no figure is steadier.
pub fn rounded(value: u64) -> u64 {
    let unit = 10u64.pow(value.checked_ilog10().unwrap_or(0).saturating_sub(2));
    (value.saturating_add(unit / 2) / unit * unit).max(1)
}

/// A size for people, without a decimal where it is whole.
pub fn size(bytes: u64) -> String {
    Bytes(bytes).human().replace(".0 ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_the_smallest_that_is_nearly_as_fast_as_the_best() {
        assert_eq!(smallest_of_the_best(&[500, 960, 971, 1000, 990]), 2);
        assert_eq!(smallest_of_the_best(&[970, 1000]), 0);
        assert_eq!(smallest_of_the_best(&[1, 2, 3]), 2);
        assert_eq!(smallest_of_the_best(&[]), 0);
    }

    #[test]
    fn a_figure_is_the_middle_of_its_rounds() {
        let figure = Figure::new("x", Unit::Nanos, vec![5, 1, 9]);
        assert_eq!((figure.least, figure.median, figure.most), (1, 5, 9));
        assert_eq!(a_second(3, 2), 1_500_000_000);
        assert_eq!([0, 7, 123, 1_234, 1_235, 9_996].map(rounded), [1, 7, 123, 1_230, 1_240, 10_000]);
        assert_eq!((size(1 << 20), size(3 << 19)), ("1 MiB".to_owned(), "1.5 MiB".to_owned()));
    }
}
