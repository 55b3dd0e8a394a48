//! Sizes, rates and times that print with their unit and read back the same.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A size in bytes. Text: `80GiB`, `1.5MiB`, `4096` (a plain number is bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A rate in bytes per second. Text: `53GB/s`; decimal units, as data sheets use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BytesPerSec(pub u64);

/// A duration in nanoseconds. Text: `5us`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nanos(pub u64);

/// Operations per second. Text: `989Tops/s`; decimal units, a multiply-add counts as two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpsPerSec(pub u64);

/// A part of a whole, in millionths. Text: `12%`, `125000ppm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Part(pub u64);

impl Part {
    /// The whole.
    pub const WHOLE: Part = Part(1_000_000);

    /// So much of an amount, rounded down.
    pub fn of(self, amount: u64) -> u64 {
        u64::try_from(u128::from(amount) * u128::from(self.0) / u128::from(Part::WHOLE.0)).unwrap_or(u64::MAX)
    }

    /// To a hundredth, so that it reads well.
    pub fn rounded(self) -> Part {
        Part((self.0.saturating_add(5_000)) / 10_000 * 10_000)
    }
}

impl Bytes {
    /// The time that these bytes take at this rate, rounded up. A rate of zero gives the longest time there is.
    pub fn at(self, rate: BytesPerSec) -> Nanos {
        Nanos(scaled(self.0, rate.0))
    }
    /// Rounded up to a multiple of `alignment`, which is not zero. Saturates.
    pub fn aligned(self, alignment: u64) -> Bytes {
        Bytes(self.0.div_ceil(alignment).saturating_mul(alignment))
    }
    /// For people: at most one decimal, the unit that keeps the number under 1024.
    pub fn human(self) -> String {
        let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < units.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { format!("{} B", self.0) } else { format!("{value:.1} {}", units[unit]) }
    }
}

impl OpsPerSec {
    /// The time that so many operations take at this rate, rounded up.
    pub fn time(self, operations: u64) -> Nanos {
        Nanos(scaled(operations, self.0))
    }
}

impl Nanos {
    /// For people: three significant digits and a unit.
    pub fn human(self) -> String {
        let value = self.0 as f64;
        let (value, unit) = match self.0 {
            0..1_000 => return format!("{} ns", self.0),
            1_000..1_000_000 => (value / 1e3, "us"),
            1_000_000..1_000_000_000 => (value / 1e6, "ms"),
            _ => (value / 1e9, "s"),
        };
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.decimals$} {unit}")
    }
}

fn scaled(amount: u64, per_second: u64) -> u64 {
    if per_second == 0 {
        return if amount == 0 { 0 } else { u64::MAX };
    }
    let nanos = (u128::from(amount) * 1_000_000_000).div_ceil(u128::from(per_second));
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

/// What is wrong with a quantity's text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: write a number and a unit, such as `{example}`")]
pub struct BadUnit {
    text: String,
    what: &'static str,
    example: &'static str,
}

/// Units from large to small; the first is tried first when printing.
type Units = &'static [(&'static str, u64)];

const SIZES: Units = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SIZES_READ: Units =
    &[("TB", 1_000_000_000_000), ("GB", 1_000_000_000), ("MB", 1_000_000), ("kB", 1_000), ("KB", 1_000)];
const RATES: Units = &[("TB/s", 1_000_000_000_000), ("GB/s", 1_000_000_000), ("MB/s", 1_000_000), ("B/s", 1)];
const TIMES: Units = &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000), ("ns", 1)];
const PARTS: Units = &[("%", 10_000), ("ppm", 1)];
const SPEEDS: Units = &[("Tops/s", 1_000_000_000_000), ("Gops/s", 1_000_000_000), ("Mops/s", 1_000_000), ("ops/s", 1)];

fn print(f: &mut fmt::Formatter<'_>, value: u64, units: Units) -> fmt::Result {
    let exact = units.iter().find(|(_, size)| value != 0 && value.is_multiple_of(*size));
    let (unit, size) = exact.copied().unwrap_or(units[units.len() - 1]);
    write!(f, "{}{unit}", value / size)
}

/// Reads `number unit` with an optional decimal point, exactly: no float is involved.
fn parse(text: &str, units: &[Units]) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let (number, unit) = (text[..split].replace('_', ""), text[split..].trim());
    let size = if unit.is_empty() { 1 } else { units.iter().flat_map(|u| u.iter()).find(|(name, _)| *name == unit)?.1 };
    let (whole, fraction) = number.split_once('.').unwrap_or((&number, ""));
    if whole.is_empty() || fraction.len() > 12 {
        return None;
    }
    let scale = 10u128.pow(fraction.len() as u32);
    let digits: u128 = whole.parse::<u64>().ok()?.into();
    let fraction: u128 = if fraction.is_empty() { 0 } else { fraction.parse::<u64>().ok()?.into() };
    u64::try_from((digits * scale + fraction) * u128::from(size) / scale).ok()
}

macro_rules! quantity {
    ($name:ident, $print:expr, $read:expr, $what:literal, $example:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                print(f, self.0, $print)
            }
        }
        impl FromStr for $name {
            type Err = BadUnit;
            fn from_str(text: &str) -> Result<Self, BadUnit> {
                let bad = || BadUnit { text: text.to_owned(), what: $what, example: $example };
                parse(text, $read).map($name).ok_or_else(bad)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

quantity!(Bytes, SIZES, &[SIZES, SIZES_READ], "a size", "64MiB");
quantity!(BytesPerSec, RATES, &[RATES], "a rate", "53GB/s");
quantity!(Nanos, TIMES, &[TIMES], "a time", "5us");
quantity!(Part, PARTS, &[PARTS], "a part", "12%");
quantity!(OpsPerSec, SPEEDS, &[SPEEDS], "a rate of operations", "60Tops/s");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_print_and_read_back() {
        for value in [0, 1, 1023, 1024, 3 << 20, 80 << 30, (1 << 40) + 1, u64::MAX] {
            assert_eq!(Bytes(value).to_string().parse(), Ok(Bytes(value)));
            assert_eq!(BytesPerSec(value).to_string().parse(), Ok(BytesPerSec(value)));
            assert_eq!(Nanos(value).to_string().parse(), Ok(Nanos(value)));
        }
        assert_eq!("1.5MiB".parse(), Ok(Bytes(3 << 19)));
        assert_eq!("64".parse(), Ok(Bytes(64)));
        assert_eq!([Part(120_000), Part(123_456), Part(0)].map(|p| p.to_string()), ["12%", "123456ppm", "0ppm"]);
        assert_eq!(("12.5%".parse(), "100%".parse()), (Ok(Part(125_000)), Ok(Part::WHOLE)));
        assert!("64 parsecs".parse::<Bytes>().is_err());
        assert!("-1B".parse::<Bytes>().is_err());
        assert_eq!(Bytes(3_000).at(BytesPerSec(2_000_000_000)), Nanos(1_500));
        assert_eq!(Bytes(1).at(BytesPerSec(0)), Nanos(u64::MAX));
    }
}
