//! Arithmetic on known integers: what a shape computation gives, without running it.

use berth_ir::DType;
use berth_ir::expr::Expr;

/// One element of a binary operator on integers; `None` where it is not known.
pub(super) fn binary(kind: &str, a: &Expr, b: &Expr) -> Option<Expr> {
    let truth = |value: bool| Some(Expr::constant(i128::from(value)));
    Some(match kind {
        "Add" | "Sum" => a + b,
        "Sub" => a - b,
        "Mul" => a * b,
        "Div" => return quotient(a, b),
        // The sign of the divisor, and with the attribute `fmod` the sign of the dividend.
        "Mod" if b.as_constant() == Some(0) => return None,
        "Mod" if b.as_constant().is_some() && a.as_constant().is_some() => a - a.floor_div(b) * b,
        "Mod" | "Fmod" => a - quotient(a, b)? * b,
        "Min" => a.min(b),
        "Max" => a.max(b),
        "Pow" => {
            let power = b.as_constant().filter(|p| (0..=16).contains(p))?;
            (0..power).fold(Expr::constant(1), |product, _| product * a)
        }
        "Equal" => {
            if a == b {
                return truth(true);
            }
            let apart = a - b;
            if apart.as_constant().is_some() || apart.is_positive() || (-apart).is_positive() {
                return truth(false);
            }
            return None;
        }
        "Greater" => return above(a, b, 1),
        "GreaterOrEqual" => return above(a, b, 0),
        "Less" => return above(b, a, 1),
        "LessOrEqual" => return above(b, a, 0),
        "And" => match (a.as_constant(), b.as_constant()) {
            (Some(0), _) | (_, Some(0)) => return truth(false),
            (a, b) => return truth(a? != 0 && b? != 0),
        },
        "Or" => match (a.as_constant(), b.as_constant()) {
            (Some(x), _) | (_, Some(x)) if x != 0 => return truth(true),
            (a, b) => return truth(a? != 0 || b? != 0),
        },
        "Xor" => return truth((a.as_constant()? != 0) != (b.as_constant()? != 0)),
        _ => return None,
    })
}

/// Whether `a - b` is at least `margin`, where that is certain.
fn above(a: &Expr, b: &Expr, margin: i128) -> Option<Expr> {
    let apart = a - b - Expr::constant(margin);
    if apart.is_nonnegative() {
        Some(Expr::constant(1))
    } else if (-apart).is_positive() {
        Some(Expr::constant(0))
    } else {
        None
    }
}

/// Division that rounds toward zero, as ONNX divides integers.
fn quotient(a: &Expr, b: &Expr) -> Option<Expr> {
    if let (Some(a), Some(b)) = (a.as_constant(), b.as_constant()) {
        return a.checked_div(b).map(Expr::constant);
    }
    (a.is_nonnegative() && b.is_nonnegative()).then(|| a.floor_div(b))
}

/// One element of a unary operator on integers.
pub(super) fn unary(kind: &str, a: &Expr) -> Option<Expr> {
    Some(match kind {
        "Identity" | "Ceil" | "Floor" | "Round" => a.clone(),
        "Neg" => -a,
        "Abs" if a.is_nonnegative() => a.clone(),
        "Abs" => Expr::constant(a.as_constant()?.checked_abs()?),
        "Relu" => a.max(&Expr::constant(0)),
        "Sign" if a.is_positive() => Expr::constant(1),
        "Sign" => Expr::constant(a.as_constant()?.signum()),
        "Not" => Expr::constant(i128::from(a.as_constant()? == 0)),
        _ => return None,
    })
}

/// An element after a cast between integer types; `None` where it would wrap or is not known.
pub(super) fn cast(a: &Expr, to: DType) -> Option<Expr> {
    match to {
        DType::Bool if a.is_positive() => Some(Expr::constant(1)),
        DType::Bool => Some(Expr::constant(i128::from(a.as_constant()? != 0))),
        DType::I64 | DType::I32 => fits(a, to).then(|| a.clone()),
        _ => None,
    }
}

/// False for a number outside the type; expressions of dims are taken to fit.
pub(super) fn fits(a: &Expr, dtype: DType) -> bool {
    match (a.as_constant(), dtype) {
        (Some(value), DType::I64) => i64::try_from(value).is_ok(),
        (Some(value), DType::I32) => i32::try_from(value).is_ok(),
        (Some(value), DType::Bool) => (0..=1).contains(&value),
        _ => !a.is_overflow(),
    }
}
