//! Arithmetic on known floats: what a shape computation that goes through floats gives, without running it.
//!
//! Exporters scale sizes so: cast to float, multiply, round down, cast back. Numbers are computed as the engine computes
//! them, rounded to the operator's type. A size in dims is held as a fraction, and only while each step is exact for sizes
//! below [`EXACT_BELOW`]; what is not certain is not known.

use super::fold;
use berth_ir::DType;
use berth_ir::expr::Expr;
use std::fmt;

/// Whole numbers below this are exact in a binary32, and so are the steps that [`Float::Size`] takes.
pub(super) const EXACT_BELOW: u32 = 1 << 24;

/// Greatest part of a fraction beside a size.
const PART_MAX: i128 = 1 << 10;

/// One known float.
#[derive(Clone, Debug, PartialEq)]
pub enum Float {
    /// A number that the type holds.
    Number(f64),
    /// An expression of dims over a number, which is at least one.
    Size {
        /// The dividend.
        over: Expr,
        /// The divisor.
        by: i128,
    },
}

impl fmt::Display for Float {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Float::Number(number) => write!(f, "{number}"),
            Float::Size { over, by } => write!(f, "({over})/{by}"),
        }
    }
}

/// Bytes of one element, of types that are read here.
pub(super) fn width(dtype: DType) -> Option<usize> {
    match dtype {
        DType::F16 | DType::BF16 => Some(2),
        DType::F32 => Some(4),
        DType::F64 => Some(8),
        _ => None,
    }
}

/// The number in the bytes of one element.
pub(super) fn number(dtype: DType, bytes: &[u8]) -> f64 {
    let short = || u16::from_le_bytes(bytes.try_into().unwrap_or_default());
    match dtype {
        DType::F16 => half::f16::from_bits(short()).to_f64(),
        DType::BF16 => half::bf16::from_bits(short()).to_f64(),
        DType::F32 => f64::from(f32::from_le_bytes(bytes.try_into().unwrap_or_default())),
        _ => f64::from_le_bytes(bytes.try_into().unwrap_or_default()),
    }
}

/// To the nearest number that the type holds; no arithmetic is folded in narrower types, which engines widen.
fn round(number: f64, dtype: DType) -> Option<Float> {
    let rounded = match dtype {
        DType::F32 => f64::from(number as f32),
        DType::F64 => number,
        _ => return None,
    };
    rounded.is_finite().then_some(Float::Number(rounded))
}

fn size(over: Expr, by: i128) -> Option<Float> {
    if let Some(whole) = over.exact_div(&Expr::constant(by)) {
        // What no longer has a dim is a number; as a quotient of sizes it is small.
        return Some(match whole.as_constant() {
            Some(number) if number.abs() < i128::from(EXACT_BELOW) => Float::Number(number as f64),
            Some(_) => return None,
            None => Float::Size { over: whole, by: 1 },
        });
    }
    (by <= PART_MAX * PART_MAX && !over.is_overflow()).then_some(Float::Size { over, by })
}

/// A number as a fraction of small parts, where it is one.
fn fraction(number: f64) -> Option<(Expr, i128)> {
    let parts = (0..=10).map(|shift| 1i128 << shift);
    let mut fits = parts.map(|by| (number * by as f64, by));
    let (over, by) = fits.find(|(over, _)| over.fract() == 0.0)?;
    (over.abs() <= PART_MAX as f64).then(|| (Expr::constant(over as i128), by))
}

fn parts(float: &Float) -> Option<(Expr, i128)> {
    match float {
        Float::Number(number) => fraction(*number),
        Float::Size { over, by } => Some((over.clone(), *by)),
    }
}

/// One element of a unary operator.
pub(super) fn unary(kind: &str, a: &Float, dtype: DType) -> Option<Float> {
    match a {
        _ if kind == "Identity" => Some(a.clone()),
        Float::Number(a) => {
            let number = match kind {
                "Floor" => a.floor(),
                "Ceil" => a.ceil(),
                // Halves go to the even neighbour.
                "Round" => a.round_ties_even(),
                "Neg" => -a,
                "Abs" => a.abs(),
                "Relu" => a.max(0.0),
                "Sqrt" => a.sqrt(),
                "Reciprocal" => 1.0 / a,
                _ => return None,
            };
            round(number, dtype)
        }
        Float::Size { over, by } => {
            let divisor = Expr::constant(*by);
            match kind {
                "Floor" => size(over.floor_div(&divisor), 1),
                "Ceil" => size(over.ceil_div(&divisor), 1),
                "Round" if *by == 1 => Some(a.clone()),
                "Abs" | "Relu" if over.is_nonnegative() => Some(a.clone()),
                "Neg" => size(-over, *by),
                _ => None,
            }
        }
    }
}

/// One element of a binary operator.
pub(super) fn binary(kind: &str, a: &Float, b: &Float, dtype: DType) -> Option<Float> {
    if !matches!(dtype, DType::F32 | DType::F64) {
        return None;
    }
    if let (Float::Number(a), Float::Number(b)) = (a, b) {
        let number = match kind {
            "Add" | "Sum" => a + b,
            "Sub" => a - b,
            "Mul" => a * b,
            "Div" => a / b,
            "Min" => a.min(*b),
            "Max" => a.max(*b),
            _ => return None,
        };
        // A binary64 holds enough more than twice the digits, so rounding twice is rounding once.
        return round(number, dtype);
    }
    let ((a, a_by), (b, b_by)) = (parts(a)?, parts(b)?);
    // Where the divisor is no power of two the float is only near the fraction: it may be rounded or cast, not more.
    let exact = (a_by as u128).is_power_of_two() && (b_by as u128).is_power_of_two();
    let (left, right) = (&a * Expr::constant(b_by), &b * Expr::constant(a_by));
    let by = a_by * b_by;
    match kind {
        "Add" | "Sum" if exact => size(left + right, by),
        "Sub" if exact => size(left - right, by),
        "Mul" if exact => size(a * b, by),
        "Div" if exact => match right.as_constant() {
            Some(divisor) if divisor > 0 => size(left, divisor),
            Some(_) => None,
            // Sizes whose dims cancel.
            None => size(left.exact_div(&right)?, 1),
        },
        "Min" if exact => size(left.min(&right), by),
        "Max" if exact => size(left.max(&right), by),
        _ => None,
    }
}

/// One element of a comparison.
pub(super) fn compare(kind: &str, a: &Float, b: &Float) -> Option<Expr> {
    let truth = match (a, b) {
        (Float::Number(a), Float::Number(b)) => match kind {
            "Equal" => a == b,
            "Greater" => a > b,
            "GreaterOrEqual" => a >= b,
            "Less" => a < b,
            "LessOrEqual" => a <= b,
            _ => return None,
        },
        _ => {
            let ((a, a_by), (b, b_by)) = (parts(a)?, parts(b)?);
            return fold::binary(kind, &(a * Expr::constant(b_by)), &(b * Expr::constant(a_by)));
        }
    };
    Some(Expr::constant(i128::from(truth)))
}

/// A known integer as a float.
pub(super) fn from_integer(a: &Expr, to: DType) -> Option<Float> {
    match (a.as_constant(), to) {
        (Some(number), DType::F32) => Some(Float::Number(f64::from(number as f32))),
        (Some(number), DType::F64) => Some(Float::Number(number as f64)),
        (None, DType::F32 | DType::F64) => size(a.clone(), 1),
        _ => None,
    }
}

/// A known float in another float type.
pub(super) fn cast(a: &Float, to: DType) -> Option<Float> {
    match a {
        Float::Number(number) => round(*number, to),
        // The fraction may have been rounded to the narrower type already, and only then be near.
        Float::Size { by, .. } => (matches!(to, DType::F32 | DType::F64) && *by == 1).then(|| a.clone()),
    }
}

/// A known float as an integer; casts round toward zero.
pub(super) fn to_integer(a: &Float, to: DType) -> Option<Expr> {
    match (a, to) {
        (Float::Number(number), DType::Bool) => Some(Expr::constant(i128::from(*number != 0.0))),
        (Float::Number(number), _) => {
            let whole = Expr::constant(number.trunc() as i128);
            (number.is_finite() && fold::fits(&whole, to)).then_some(whole)
        }
        (Float::Size { over, by }, DType::I64 | DType::I32) => {
            (*by == 1 || over.is_nonnegative()).then(|| over.floor_div(&Expr::constant(*by)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a fraction says is what floats compute, for sizes and scales that models have.
    #[test]
    fn fractions_agree_with_floats() {
        let h = Expr::dim("h");
        for n in (1..3000).chain([8191, 65535, 99_999, 1 << 20, (1 << 20) + 1]) {
            let binding = [("h".to_owned(), n)].into();
            let wide = Float::Size { over: h.clone(), by: 1 };
            for scale in [2.0, 0.5, 1.5, 0.75, 3.0, 7.0, 14.0, 0.125] {
                for kind in ["Mul", "Div"] {
                    let symbolic = binary(kind, &wide, &Float::Number(scale), DType::F32).unwrap();
                    let number = binary(kind, &Float::Number(n as f64), &Float::Number(scale), DType::F32).unwrap();
                    for rounding in ["Floor", "Ceil"] {
                        let symbolic = unary(rounding, &symbolic, DType::F32).unwrap();
                        let number = unary(rounding, &number, DType::F32).unwrap();
                        let symbolic = to_integer(&symbolic, DType::I64).unwrap().bind(&binding);
                        assert_eq!(symbolic, to_integer(&number, DType::I64).unwrap(), "{rounding} {n} {kind} {scale}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_certain_is_not_known() {
        let h = Float::Size { over: Expr::dim("h"), by: 1 };
        // A third is no binary fraction, and neither are tenths.
        let third = binary("Div", &h, &Float::Number(3.0), DType::F32).unwrap();
        assert_eq!(binary("Mul", &third, &Float::Number(3.0), DType::F32), None);
        assert_eq!(binary("Mul", &h, &Float::Number(f64::from(0.1f32)), DType::F32), None);
        assert_eq!(unary("Sqrt", &h, DType::F32), None);
        assert_eq!(binary("Div", &h, &Float::Number(0.0), DType::F32), None);
        assert_eq!(binary("Mul", &h, &Float::Number(2.0), DType::F16), None);
        assert_eq!(binary("Div", &h, &h, DType::F32), Some(Float::Number(1.0)));
        assert_eq!(to_integer(&Float::Number(f64::INFINITY), DType::I64), None);
    }
}
