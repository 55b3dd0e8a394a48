//! Intervals: what is known of a value before the dims have sizes.

use super::{Atom, Expr, Ranges, divide_number};

impl Expr {
    /// True where the value is zero or more whatever sizes the dims have. False says nothing.
    pub fn is_nonnegative(&self) -> bool {
        matches!(bounds(self, &|_| Some((0, None))), Some((Some(low), _)) if low >= 0)
    }

    /// True where the value is one or more whatever sizes the dims have. False says nothing.
    pub fn is_positive(&self) -> bool {
        matches!(bounds(self, &|_| Some((0, None))), Some((Some(low), _)) if low >= 1)
    }

    /// An interval that holds every value over these ranges (it may be wider than needed); `None` where a dim has no
    /// range, a bound does not fit in 128 bits, or a divisor may have either sign.
    pub fn range(&self, ranges: &Ranges) -> Option<(i128, i128)> {
        if let Some(value) = self.as_constant() {
            return Some((value, value));
        }
        let dim = |name: &str| ranges.get(name).map(|(low, high)| (i128::from(*low), Some(i128::from(*high))));
        match bounds(self, &dim)? {
            (Some(low), Some(high)) => Some((low, high)),
            _ => None,
        }
    }
}

/// The least size of a dim, and the greatest if there is one; `None` where neither is known.
type DimBounds<'a> = dyn Fn(&str) -> Option<(i128, Option<i128>)> + 'a;

/// A bound at each end; `None` for no bound.
type Bounds = (Option<i128>, Option<i128>);

/// An interval around all values, `dim` giving the least and the greatest size of a dim. `None` where unknown.
fn bounds(expr: &Expr, dim: &DimBounds<'_>) -> Option<Bounds> {
    let mut sum: Bounds = (Some(0), Some(0));
    for (monomial, coefficient) in expr.terms()? {
        let mut product: Bounds = (Some(*coefficient), Some(*coefficient));
        for (atom, power) in monomial {
            let range = atom_bounds(atom, dim)?;
            for _ in 0..*power {
                product = multiply_bounds(product, range);
            }
        }
        let add = |a: Option<i128>, b: Option<i128>| a?.checked_add(b?);
        sum = (add(sum.0, product.0), add(sum.1, product.1));
    }
    Some(sum)
}

fn multiply_bounds(a: Bounds, b: Bounds) -> Bounds {
    if a == (Some(0), Some(0)) || b == (Some(0), Some(0)) {
        return (Some(0), Some(0));
    }
    if let ((Some(al), Some(ah)), (Some(bl), Some(bh))) = (a, b) {
        let corners = [al.checked_mul(bl), al.checked_mul(bh), ah.checked_mul(bl), ah.checked_mul(bh)];
        if corners.iter().all(Option::is_some) {
            return (corners.iter().flatten().min().copied(), corners.iter().flatten().max().copied());
        }
    }
    let nonnegative = |x: Bounds| matches!(x.0, Some(low) if low >= 0);
    let nonpositive = |x: Bounds| matches!(x.1, Some(high) if high <= 0);
    let times = |x: Option<i128>, y: Option<i128>| x?.checked_mul(y?);
    match (nonnegative(a), nonnegative(b)) {
        (true, true) => (times(a.0, b.0).or(Some(0)), times(a.1, b.1)),
        (true, false) if nonpositive(b) => (times(a.1, b.0), times(a.0, b.1).or(Some(0))),
        (false, true) if nonpositive(a) => (times(b.1, a.0), times(b.0, a.1).or(Some(0))),
        _ => (None, None),
    }
}

fn atom_bounds(atom: &Atom, dim: &DimBounds<'_>) -> Option<Bounds> {
    Some(match atom {
        Atom::Dim(name) => {
            let (low, high) = dim(name)?;
            (Some(low), high)
        }
        Atom::Floor(pair) | Atom::Ceil(pair) => {
            let up = matches!(atom, Atom::Ceil(_));
            let a = bounds(&pair.0, dim)?;
            let (low, high) = match bounds(&pair.1, dim)? {
                (Some(low), high) if low >= 0 => (low.max(1), high),
                (Some(low), Some(high)) if high <= 0 => return negative_divisor(a, low, high.min(-1), up),
                _ => return None,
            };
            // A numerator of known sign is greatest over the least divisor and nearest zero over the greatest.
            let least = match (a.0, high) {
                (Some(n), _) if n < 0 => divide_number(n, low, up),
                (Some(n), Some(high)) => divide_number(n, high, up),
                (Some(_), None) => Some(0),
                (None, _) => None,
            };
            let greatest = match (a.1, high) {
                (Some(n), _) if n >= 0 => divide_number(n, low, up),
                (Some(n), Some(high)) => divide_number(n, high, up),
                (Some(_), None) => Some(0),
                (None, _) => None,
            };
            (least, greatest)
        }
        Atom::Min(all) | Atom::Max(all) => {
            let least = matches!(atom, Atom::Min(_));
            let mut result: Option<Bounds> = None;
            for part in all.iter() {
                let part = bounds(part, dim)?;
                result = Some(match result {
                    None => part,
                    Some(so_far) if least => (both(so_far.0, part.0, i128::min), either(so_far.1, part.1, i128::min)),
                    Some(so_far) => (either(so_far.0, part.0, i128::max), both(so_far.1, part.1, i128::max)),
                });
            }
            result?
        }
    })
}

fn negative_divisor(a: Bounds, low: i128, high: i128, up: bool) -> Option<Bounds> {
    let (first, last) = (a.0?, a.1?);
    let corners = [(first, low), (first, high), (last, low), (last, high)].map(|(n, d)| divide_number(n, d, up));
    let corners: Vec<i128> = corners.into_iter().collect::<Option<_>>()?;
    Some((corners.iter().min().copied(), corners.iter().max().copied()))
}

fn both(a: Option<i128>, b: Option<i128>, join: fn(i128, i128) -> i128) -> Option<i128> {
    Some(join(a?, b?))
}

fn either(a: Option<i128>, b: Option<i128>, join: fn(i128, i128) -> i128) -> Option<i128> {
    match (a, b) {
        (Some(a), Some(b)) => Some(join(a, b)),
        (a, b) => a.or(b),
    }
}
