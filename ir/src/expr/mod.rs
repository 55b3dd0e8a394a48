//! Sizes as expressions of named dims, in a normal form in which equal polynomials are equal values.
//!
//! An expression is a polynomial with integer coefficients over *atoms*: a named dim, a floor or ceiling division, a
//! minimum, a maximum. `past + seq == seq + past` by `==`, and so are `(batch*n)//batch` and `n`.
//!
//! Arithmetic that leaves 128 bits, or an expression that grows past [`TERMS_MAX`] and its like,
//! becomes *overflowed*: it stays overflowed through further arithmetic and ends as [`EvalError::Overflow`].
//!
//! Dims are sizes, hence never negative; simplification uses that (`max(past, 0)` is `past`) and assumes that a
//! divisor is not zero.

mod bounds;
mod normal;
#[cfg(test)]
mod tests;
mod text;

pub use text::ParseExprError;

use normal::split_quotient;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Add, Mul, Neg, Sub};
use std::sync::Arc;

/// The size of each named dim.
pub type Binding = BTreeMap<String, u64>;

/// The least and the greatest size of each named dim, both included.
pub type Ranges = BTreeMap<String, (u64, u64)>;

/// Most terms of one polynomial.
pub const TERMS_MAX: usize = 64;
/// Deepest nesting of divisions, minima and maxima, and of parentheses in text.
pub const DEPTH_MAX: usize = 48;
/// Most terms of an expression, its nested ones included.
pub const SIZE_MAX: usize = 512;
/// Most parts of one minimum or maximum.
pub const PARTS_MAX: usize = 32;
/// Highest degree of one term.
pub const DEGREE_MAX: u32 = 64;

/// An integer expression of named dims, in normal form.
///
/// Not `Ord`: expressions have no order by value, and `Ord::min` would hide [`Expr::min`] at a call by value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Expr(Repr);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    /// Sorted by monomial, no zero coefficient, no monomial twice.
    Poly(Vec<(Monomial, i128)>),
    Overflow,
}

/// Sorted by atom, no zero power; empty for a constant.
type Monomial = Vec<(Atom, u32)>;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Atom {
    Dim(Arc<str>),
    Floor(Arc<(Expr, Expr)>),
    Ceil(Arc<(Expr, Expr)>),
    /// Sorted, flat, at least two.
    Min(Arc<[Expr]>),
    Max(Arc<[Expr]>),
}

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A dim has no size.
    #[error("dim `{0}` has no size; give it one with `--dim {0}=...`")]
    Unbound(String),
    /// The value, or a value on the way to it, does not fit in 128 bits, or the expression was too large to keep.
    #[error("the size does not fit in 128 bits")]
    Overflow,
    /// A divisor is zero.
    #[error("a size divides by zero in `{0}`")]
    DivideByZero(String),
}

impl Expr {
    /// A number.
    pub fn constant(value: impl Into<i128>) -> Expr {
        match value.into() {
            0 => Expr(Repr::Poly(Vec::new())),
            value => Expr(Repr::Poly(vec![(Vec::new(), value)])),
        }
    }

    /// A named dim.
    pub fn dim(name: &str) -> Expr {
        Expr::atom(Atom::Dim(name.into()))
    }

    /// The expression that stands for a size too large to hold.
    pub fn overflow() -> Expr {
        Expr(Repr::Overflow)
    }

    /// True where arithmetic left 128 bits or the expression grew too large; it has no value then.
    pub fn is_overflow(&self) -> bool {
        self.0 == Repr::Overflow
    }

    /// The number that this is, if no dim occurs in it.
    pub fn as_constant(&self) -> Option<i128> {
        match &self.0 {
            Repr::Poly(terms) => match terms.as_slice() {
                [] => Some(0),
                [(monomial, value)] if monomial.is_empty() => Some(*value),
                _ => None,
            },
            Repr::Overflow => None,
        }
    }

    /// The dim that this is, if it is one dim and nothing else.
    pub fn as_dim(&self) -> Option<&str> {
        match self.terms()? {
            [(monomial, 1)] => match monomial.as_slice() {
                [(Atom::Dim(name), 1)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// The quotient, rounded down.
    pub fn floor_div(&self, by: &Expr) -> Expr {
        self.divide(by, false)
    }

    /// The quotient, rounded up.
    pub fn ceil_div(&self, by: &Expr) -> Expr {
        self.divide(by, true)
    }

    /// The quotient where the division has no remainder whatever the dims are.
    pub fn exact_div(&self, by: &Expr) -> Option<Expr> {
        let (quotient, rest) = split_quotient(self.terms()?, by.terms()?)?;
        rest.is_empty().then(|| Expr::poly(quotient))
    }

    /// The smaller of the two.
    pub fn min(&self, other: &Expr) -> Expr {
        self.extremum(other, true)
    }

    /// The larger of the two.
    pub fn max(&self, other: &Expr) -> Expr {
        self.extremum(other, false)
    }

    /// The same with the dims that `binding` names replaced by their sizes.
    pub fn bind(&self, binding: &Binding) -> Expr {
        self.substitute(&|name| binding.get(name).map(|size| Expr::constant(*size)))
    }

    /// The same with each dim for which `with` gives an expression replaced by that.
    pub fn substitute(&self, with: &dyn Fn(&str) -> Option<Expr>) -> Expr {
        let Repr::Poly(terms) = &self.0 else { return self.clone() };
        if self.as_constant().is_some() {
            return self.clone();
        }
        let mut sum = Expr::constant(0);
        for (monomial, coefficient) in terms {
            let mut product = Expr::constant(*coefficient);
            for (atom, power) in monomial {
                let value = match atom {
                    Atom::Dim(name) => with(name).unwrap_or_else(|| Expr::atom(atom.clone())),
                    Atom::Floor(pair) => pair.0.substitute(with).floor_div(&pair.1.substitute(with)),
                    Atom::Ceil(pair) => pair.0.substitute(with).ceil_div(&pair.1.substitute(with)),
                    Atom::Min(all) => fold(all, |e| e.substitute(with), Expr::min),
                    Atom::Max(all) => fold(all, |e| e.substitute(with), Expr::max),
                };
                for _ in 0..*power {
                    product = product * &value;
                }
            }
            sum = sum + product;
        }
        sum
    }

    /// The value at these sizes.
    pub fn eval(&self, binding: &Binding) -> Result<i128, EvalError> {
        let Repr::Poly(terms) = &self.0 else { return Err(EvalError::Overflow) };
        let mut sum = 0i128;
        for (monomial, coefficient) in terms {
            let mut product = *coefficient;
            for (atom, power) in monomial {
                let value = atom.eval(binding)?;
                for _ in 0..*power {
                    product = product.checked_mul(value).ok_or(EvalError::Overflow)?;
                }
            }
            sum = sum.checked_add(product).ok_or(EvalError::Overflow)?;
        }
        Ok(sum)
    }

    /// For each dim that occurs in it once, alone and with coefficient one or minus one: the dim, and what it must be for
    /// the whole to be zero. From `total - past - seq` these are `total = past + seq` and two more.
    pub fn isolate(&self) -> Vec<(String, Expr)> {
        let Repr::Poly(terms) = &self.0 else { return Vec::new() };
        let mut found = Vec::new();
        for (monomial, coefficient) in terms {
            if let [(Atom::Dim(name), 1)] = monomial.as_slice()
                && coefficient.unsigned_abs() == 1
            {
                let rest = self - Expr::poly(vec![(monomial.clone(), *coefficient)]);
                if !rest.dims().contains(&**name) {
                    found.push((name.to_string(), if *coefficient == 1 { -rest } else { rest }));
                }
            }
        }
        found
    }

    /// The names of all dims in it.
    pub fn dims(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.collect_dims(&mut names);
        names
    }

    fn collect_dims(&self, names: &mut BTreeSet<String>) {
        let Repr::Poly(terms) = &self.0 else { return };
        for (atom, _) in terms.iter().flat_map(|(monomial, _)| monomial) {
            match atom {
                Atom::Dim(name) => {
                    names.insert(name.to_string());
                }
                Atom::Floor(pair) | Atom::Ceil(pair) => {
                    pair.0.collect_dims(names);
                    pair.1.collect_dims(names);
                }
                Atom::Min(all) | Atom::Max(all) => all.iter().for_each(|e| e.collect_dims(names)),
            }
        }
    }
}

impl Default for Expr {
    fn default() -> Expr {
        Expr::constant(0)
    }
}

impl Atom {
    fn eval(&self, binding: &Binding) -> Result<i128, EvalError> {
        match self {
            Atom::Dim(name) => match binding.get(&**name) {
                Some(size) => Ok(i128::from(*size)),
                None => Err(EvalError::Unbound(name.to_string())),
            },
            Atom::Floor(pair) | Atom::Ceil(pair) => {
                let (a, b) = (pair.0.eval(binding)?, pair.1.eval(binding)?);
                let up = matches!(self, Atom::Ceil(_));
                if b == 0 {
                    return Err(EvalError::DivideByZero(Expr::atom(self.clone()).to_string()));
                }
                divide_number(a, b, up).ok_or(EvalError::Overflow)
            }
            Atom::Min(all) | Atom::Max(all) => {
                let least = matches!(self, Atom::Min(_));
                let mut best = all[0].eval(binding)?;
                for part in &all[1..] {
                    let value = part.eval(binding)?;
                    best = if least { best.min(value) } else { best.max(value) };
                }
                Ok(best)
            }
        }
    }
}

fn fold(all: &[Expr], map: impl Fn(&Expr) -> Expr, join: impl Fn(&Expr, &Expr) -> Expr) -> Expr {
    let mut result = map(&all[0]);
    for part in &all[1..] {
        result = join(&result, &map(part));
    }
    result
}

fn divide_number(a: i128, b: i128, up: bool) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let rest = a.checked_rem(b)?;
    let between = rest != 0;
    let negative = (rest < 0) != (b < 0);
    Some(match (between, negative, up) {
        (true, true, false) => quotient - 1,
        (true, false, true) => quotient + 1,
        _ => quotient,
    })
}

macro_rules! operator {
    ($name:ident, $method:ident, |$a:ident, $b:ident| $body:expr) => {
        impl $name<&Expr> for &Expr {
            type Output = Expr;
            fn $method(self, other: &Expr) -> Expr {
                let ($a, $b) = (self, other);
                $body
            }
        }
        impl $name<Expr> for &Expr {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr {
                $name::$method(self, &other)
            }
        }
        impl $name<&Expr> for Expr {
            type Output = Expr;
            fn $method(self, other: &Expr) -> Expr {
                $name::$method(&self, other)
            }
        }
        impl $name<Expr> for Expr {
            type Output = Expr;
            fn $method(self, other: Expr) -> Expr {
                $name::$method(&self, &other)
            }
        }
    };
}

operator!(Add, add, |a, b| a.combine(b, 1));
operator!(Sub, sub, |a, b| a.combine(b, -1));
operator!(Mul, mul, |a, b| a.product(b));

impl Neg for &Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        Expr::constant(0) - self
    }
}

impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        -&self
    }
}

impl From<u64> for Expr {
    fn from(value: u64) -> Expr {
        Expr::constant(value)
    }
}
