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

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Mul, Neg, Sub};
use std::str::FromStr;
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

/// A text that is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no size expression: {what} at byte {at}")]
pub struct ParseExprError {
    /// The text.
    pub text: String,
    /// Byte offset of the trouble.
    pub at: usize,
    /// What was wrong there.
    pub what: &'static str,
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

    /// True where the value is zero or more whatever sizes the dims have. False says nothing.
    pub fn is_nonnegative(&self) -> bool {
        matches!(bounds(self, &|_| Some((0, None))), Some((Some(low), _)) if low >= 0)
    }

    /// True where the value is one or more whatever sizes the dims have. False says nothing.
    pub fn is_positive(&self) -> bool {
        matches!(bounds(self, &|_| Some((0, None))), Some((Some(low), _)) if low >= 1)
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

    /// An interval that holds every value over these ranges (it may be wider than needed); `None` where a dim has no
    /// range, a bound does not fit in 128 bits, or a divisor may have either sign.
    pub fn range(&self, ranges: &Ranges) -> Option<(i128, i128)> {
        let dim = |name: &str| ranges.get(name).map(|(low, high)| (i128::from(*low), Some(i128::from(*high))));
        match bounds(self, &dim)? {
            (Some(low), Some(high)) => Some((low, high)),
            _ => None,
        }
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

    fn terms(&self) -> Option<&[(Monomial, i128)]> {
        match &self.0 {
            Repr::Poly(terms) => Some(terms),
            Repr::Overflow => None,
        }
    }

    fn atom(atom: Atom) -> Expr {
        Expr::poly(vec![(vec![(atom, 1)], 1)])
    }

    fn poly(terms: Vec<(Monomial, i128)>) -> Expr {
        if terms.len() > TERMS_MAX {
            return Expr::overflow();
        }
        Expr(Repr::Poly(terms))
    }

    /// An atom made of expressions, unless it is too deep or too large.
    fn nested<'a>(atom: Atom, parts: impl IntoIterator<Item = &'a Expr>) -> Expr {
        let (mut depth, mut size) = (0, 0);
        for part in parts {
            let (part_depth, part_size) = part.extent();
            depth = depth.max(part_depth);
            size += part_size;
        }
        if depth >= DEPTH_MAX || size >= SIZE_MAX { Expr::overflow() } else { Expr::atom(atom) }
    }

    /// Depth of nesting and number of terms.
    fn extent(&self) -> (usize, usize) {
        let Repr::Poly(terms) = &self.0 else { return (0, 1) };
        let (mut depth, mut size) = (0, terms.len());
        for (atom, _) in terms.iter().flat_map(|(monomial, _)| monomial) {
            let parts: &[Expr] = match atom {
                Atom::Dim(_) => continue,
                Atom::Floor(pair) | Atom::Ceil(pair) => &[pair.0.clone(), pair.1.clone()],
                Atom::Min(all) | Atom::Max(all) => all,
            };
            for part in parts {
                let (part_depth, part_size) = part.extent();
                depth = depth.max(part_depth + 1);
                size += part_size;
            }
        }
        (depth, size)
    }

    fn combine(&self, other: &Expr, sign: i128) -> Expr {
        let (Some(a), Some(b)) = (self.terms(), other.terms()) else { return Expr::overflow() };
        match add_terms(a, b, sign) {
            Some(terms) => Expr::poly(terms),
            None => Expr::overflow(),
        }
    }

    fn product(&self, other: &Expr) -> Expr {
        let (Some(a), Some(b)) = (self.terms(), other.terms()) else { return Expr::overflow() };
        if a.len().saturating_mul(b.len()) > TERMS_MAX * 8 {
            return Expr::overflow();
        }
        let mut terms: BTreeMap<Monomial, i128> = BTreeMap::new();
        for (left, x) in a {
            for (right, y) in b {
                let Some(monomial) = multiply_monomials(left, right) else { return Expr::overflow() };
                let Some(value) = x.checked_mul(*y) else { return Expr::overflow() };
                let slot = terms.entry(monomial).or_insert(0);
                match slot.checked_add(value) {
                    Some(sum) => *slot = sum,
                    None => return Expr::overflow(),
                }
            }
        }
        Expr::poly(terms.into_iter().filter(|(_, c)| *c != 0).collect())
    }

    fn divide(&self, by: &Expr, up: bool) -> Expr {
        let (Some(a), Some(b)) = (self.terms(), by.terms()) else { return Expr::overflow() };
        if let Some(divisor) = by.as_constant() {
            return match divisor {
                i128::MIN | 0 => Expr::overflow(),
                divisor if divisor < 0 => (-self).divide(&Expr::constant(-divisor), up),
                divisor if up => (self + Expr::constant(divisor - 1)).floor_by(divisor),
                divisor => self.floor_by(divisor),
            };
        }
        // a = q*b + r, so floor(a/b) = q + floor(r/b): what divides evenly comes out.
        let Some((quotient, rest)) = split_quotient(a, b) else { return Expr::overflow() };
        let (quotient, rest) = (Expr::poly(quotient), Expr::poly(rest));
        if rest.as_constant() == Some(0) {
            return quotient;
        }
        let pair = Arc::new((rest, by.clone()));
        let atom = if up { Atom::Ceil(pair.clone()) } else { Atom::Floor(pair.clone()) };
        quotient + Expr::nested(atom, [&pair.0, &pair.1])
    }

    /// Floor division by a positive number.
    fn floor_by(&self, divisor: i128) -> Expr {
        if divisor == 1 {
            return self.clone();
        }
        let Some(terms) = self.terms() else { return Expr::overflow() };
        let mut whole = Vec::new();
        let mut rest = Vec::new();
        let mut offset = 0;
        for (monomial, coefficient) in terms {
            let (quotient, remainder) = if monomial.is_empty() {
                offset = coefficient.rem_euclid(divisor);
                (coefficient.div_euclid(divisor), 0)
            } else {
                (coefficient / divisor, coefficient % divisor)
            };
            if quotient != 0 {
                whole.push((monomial.clone(), quotient));
            }
            if remainder != 0 {
                rest.push((monomial.clone(), remainder));
            }
        }
        let whole = Expr::poly(whole);
        if rest.is_empty() {
            return whole;
        }
        // floor((g*r + k) / (g*d)) = floor((r + floor(k/g)) / d).
        let common = rest.iter().fold(divisor, |g, (_, c)| gcd(g, *c));
        let divisor = divisor / common;
        let offset = offset / common;
        rest.iter_mut().for_each(|(_, c)| *c /= common);
        let rest = Expr::poly(rest);
        if divisor == 1 {
            return whole + rest + Expr::constant(offset);
        }
        // floor((floor(x/m) + k) / d) = floor((x + k*m) / (m*d)).
        if let Some([(monomial, 1)]) = rest.terms()
            && let [(Atom::Floor(inner), 1)] = monomial.as_slice()
            && let Some(first) = inner.1.as_constant().filter(|m| *m > 0)
            && let (Some(both), Some(shift)) = (first.checked_mul(divisor), first.checked_mul(offset))
        {
            return whole + (&inner.0 + Expr::constant(shift)).floor_by(both);
        }
        let pair = Arc::new((rest + Expr::constant(offset), Expr::constant(divisor)));
        whole + Expr::nested(Atom::Floor(pair.clone()), [&pair.0])
    }

    fn extremum(&self, other: &Expr, least: bool) -> Expr {
        if self.is_overflow() || other.is_overflow() {
            return Expr::overflow();
        }
        let mut parts: Vec<Expr> = Vec::new();
        for part in flat(self, least).into_iter().chain(flat(other, least)) {
            // Keep the part unless a kept one is always at least as good, and drop those that it beats.
            let beats = |a: &Expr, b: &Expr| if least { (b - a).is_nonnegative() } else { (a - b).is_nonnegative() };
            if parts.iter().any(|kept| beats(kept, &part)) {
                continue;
            }
            parts.retain(|kept| !beats(&part, kept));
            parts.push(part);
        }
        if parts.len() > PARTS_MAX {
            return Expr::overflow();
        }
        parts.sort_by(|a, b| a.0.cmp(&b.0));
        match parts.as_slice() {
            [one] => one.clone(),
            _ => {
                let all: Arc<[Expr]> = parts.into();
                let atom = if least { Atom::Min(all.clone()) } else { Atom::Max(all.clone()) };
                Expr::nested(atom, all.iter())
            }
        }
    }
}

/// An order for the normal form; it means nothing else.
impl Ord for Atom {
    fn cmp(&self, other: &Atom) -> Ordering {
        fn parts(atom: &Atom) -> (u8, &str, Vec<&Repr>) {
            match atom {
                Atom::Dim(name) => (0, name, Vec::new()),
                Atom::Floor(pair) => (1, "", vec![&pair.0.0, &pair.1.0]),
                Atom::Ceil(pair) => (2, "", vec![&pair.0.0, &pair.1.0]),
                Atom::Min(all) => (3, "", all.iter().map(|e| &e.0).collect()),
                Atom::Max(all) => (4, "", all.iter().map(|e| &e.0).collect()),
            }
        }
        parts(self).cmp(&parts(other))
    }
}

impl PartialOrd for Atom {
    fn partial_cmp(&self, other: &Atom) -> Option<Ordering> {
        Some(self.cmp(other))
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

/// The parts of a minimum or maximum, or the expression alone.
fn flat(expr: &Expr, least: bool) -> Vec<Expr> {
    if let Some([(monomial, 1)]) = expr.terms()
        && let [(atom, 1)] = monomial.as_slice()
    {
        match atom {
            Atom::Min(all) if least => return all.to_vec(),
            Atom::Max(all) if !least => return all.to_vec(),
            _ => {}
        }
    }
    vec![expr.clone()]
}

fn gcd(a: i128, b: i128) -> i128 {
    let (mut a, mut b) = (a, b.saturating_abs());
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
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

fn add_terms(a: &[(Monomial, i128)], b: &[(Monomial, i128)], sign: i128) -> Option<Vec<(Monomial, i128)>> {
    let mut sum = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let order = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) => x.0.cmp(&y.0),
            (Some(_), None) => Ordering::Less,
            _ => Ordering::Greater,
        };
        match order {
            Ordering::Less => {
                sum.push(a[i].clone());
                i += 1;
            }
            Ordering::Greater => {
                sum.push((b[j].0.clone(), b[j].1.checked_mul(sign)?));
                j += 1;
            }
            Ordering::Equal => {
                let value = a[i].1.checked_add(b[j].1.checked_mul(sign)?)?;
                if value != 0 {
                    sum.push((a[i].0.clone(), value));
                }
                i += 1;
                j += 1;
            }
        }
    }
    Some(sum)
}

fn multiply_monomials(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut product = Vec::with_capacity(a.len() + b.len());
    let (mut i, mut j) = (0, 0);
    let mut degree = 0u32;
    while i < a.len() || j < b.len() {
        let factor = match (a.get(i), b.get(j)) {
            (Some(x), Some(y)) if x.0 == y.0 => {
                i += 1;
                j += 1;
                (x.0.clone(), x.1.checked_add(y.1)?)
            }
            (Some(x), Some(y)) if x.0 < y.0 => {
                i += 1;
                x.clone()
            }
            (Some(x), None) => {
                i += 1;
                x.clone()
            }
            (_, Some(y)) => {
                j += 1;
                y.clone()
            }
            (None, None) => break,
        };
        degree = degree.checked_add(factor.1)?;
        product.push(factor);
    }
    (degree <= DEGREE_MAX).then_some(product)
}

fn divide_monomials(a: &Monomial, b: &Monomial) -> Option<Monomial> {
    let mut quotient = a.clone();
    for (atom, power) in b {
        let at = quotient.iter().position(|(x, _)| x == atom)?;
        quotient[at].1 = quotient[at].1.checked_sub(*power)?;
    }
    quotient.retain(|(_, power)| *power != 0);
    Some(quotient)
}

fn degree(monomial: &Monomial) -> u32 {
    monomial.iter().map(|(_, power)| *power).sum()
}

/// A monomial order that multiplication keeps: by degree, then by the power of the least atom in which they differ.
fn compare_monomials(a: &Monomial, b: &Monomial) -> Ordering {
    degree(a).cmp(&degree(b)).then_with(|| {
        for (x, y) in a.iter().zip(b) {
            if x != y {
                return y.0.cmp(&x.0).then(x.1.cmp(&y.1));
            }
        }
        a.len().cmp(&b.len())
    })
}

/// Terms of a polynomial.
type Terms = Vec<(Monomial, i128)>;

/// Quotient and rest of a division by a polynomial that is no number; `None` on overflow. A bounded number of steps.
fn split_quotient(a: &[(Monomial, i128)], b: &[(Monomial, i128)]) -> Option<(Terms, Terms)> {
    let Some((lead, factor)) = b.iter().max_by(|x, y| compare_monomials(&x.0, &y.0)) else {
        return Some((Vec::new(), a.to_vec()));
    };
    let mut quotient = Vec::new();
    let mut rest = a.to_vec();
    // Each step removes the greatest term that the leading term divides and adds only smaller ones.
    for _ in 0..TERMS_MAX {
        let next = rest
            .iter()
            .filter(|(_, coefficient)| coefficient.checked_rem(*factor) == Some(0))
            .filter_map(|(monomial, coefficient)| Some((divide_monomials(monomial, lead)?, monomial, coefficient)))
            .max_by(|x, y| compare_monomials(x.1, y.1));
        let Some((monomial, _, coefficient)) = next else { break };
        let term = vec![(monomial, coefficient.checked_div(*factor)?)];
        let away = Expr::poly(term.clone()) * Expr::poly(b.to_vec());
        rest = add_terms(&rest, away.terms()?, -1)?;
        quotient = add_terms(&quotient, &term, 1)?;
    }
    // A sum divisor that leaves a rest would only make both parts longer.
    if b.len() > 1 && !rest.is_empty() {
        return Some((Vec::new(), a.to_vec()));
    }
    Some((quotient, rest))
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

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repr::Poly(terms) = &self.0 else { return f.write_str("overflow!") };
        if terms.is_empty() {
            return f.write_str("0");
        }
        // The number goes last: `past + 1`.
        let named = terms.iter().filter(|(monomial, _)| !monomial.is_empty());
        let number = terms.iter().filter(|(monomial, _)| monomial.is_empty());
        for (index, (monomial, coefficient)) in named.chain(number).enumerate() {
            match (index, *coefficient < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str(" - ")?,
                (_, false) => f.write_str(" + ")?,
            }
            let size = coefficient.unsigned_abs();
            let alone = size == 1 && *coefficient > 0 && degree(monomial) == 1;
            if size != 1 || monomial.is_empty() {
                write!(f, "{size}")?;
                f.write_str(if monomial.is_empty() { "" } else { "*" })?;
            }
            let factors = monomial.iter().flat_map(|(atom, power)| (0..*power).map(move |_| atom));
            for (at, atom) in factors.enumerate() {
                f.write_str(if at == 0 { "" } else { "*" })?;
                write_atom(f, atom, alone)?;
            }
        }
        Ok(())
    }
}

fn write_atom(f: &mut fmt::Formatter<'_>, atom: &Atom, alone: bool) -> fmt::Result {
    match atom {
        Atom::Dim(name) => write_name(f, name),
        Atom::Floor(pair) => {
            f.write_str(if alone { "" } else { "(" })?;
            write_operand(f, &pair.0)?;
            f.write_str("//")?;
            write_operand(f, &pair.1)?;
            f.write_str(if alone { "" } else { ")" })
        }
        Atom::Ceil(pair) => write!(f, "ceil({}, {})", pair.0, pair.1),
        Atom::Min(all) => write_call(f, "min", all),
        Atom::Max(all) => write_call(f, "max", all),
    }
}

fn write_call(f: &mut fmt::Formatter<'_>, name: &str, parts: &[Expr]) -> fmt::Result {
    write!(f, "{name}(")?;
    for (index, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if index == 0 { "" } else { ", " })?;
    }
    f.write_str(")")
}

fn write_operand(f: &mut fmt::Formatter<'_>, expr: &Expr) -> fmt::Result {
    if expr.as_dim().is_some() || matches!(expr.as_constant(), Some(value) if value >= 0) {
        write!(f, "{expr}")
    } else {
        write!(f, "({expr})")
    }
}

fn plain_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn plain_rest(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '.' | ':')
}

fn write_name(f: &mut fmt::Formatter<'_>, name: &str) -> fmt::Result {
    let reserved = matches!(name, "min" | "max" | "ceil" | "overflow");
    if !reserved && name.starts_with(plain_start) && name.chars().all(plain_rest) {
        f.write_str(name)
    } else {
        write!(f, "`{}`", name.replace('`', "``"))
    }
}

impl FromStr for Expr {
    type Err = ParseExprError;

    fn from_str(text: &str) -> Result<Expr, ParseExprError> {
        let mut parser = Parser { text, at: 0, depth: 0 };
        let expr = parser.sum()?;
        parser.space();
        if parser.at < text.len() {
            return Err(parser.error("unexpected text"));
        }
        Ok(expr)
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Parser<'_> {
    fn error(&self, what: &'static str) -> ParseExprError {
        ParseExprError { text: self.text.to_owned(), at: self.at, what }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn take(&mut self, token: &str) -> bool {
        self.space();
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str, what: &'static str) -> Result<(), ParseExprError> {
        if self.take(token) { Ok(()) } else { Err(self.error(what)) }
    }

    fn sum(&mut self) -> Result<Expr, ParseExprError> {
        self.depth += 1;
        if self.depth > 2 * DEPTH_MAX {
            return Err(self.error("nested too deep"));
        }
        let mut sum = self.product()?;
        loop {
            if self.take("+") {
                sum = sum + self.product()?;
            } else if self.take("-") {
                sum = sum - self.product()?;
            } else {
                self.depth -= 1;
                return Ok(sum);
            }
        }
    }

    fn product(&mut self) -> Result<Expr, ParseExprError> {
        let mut product = self.factor()?;
        loop {
            if self.take("//") {
                product = product.floor_div(&self.factor()?);
            } else if self.take("*") {
                product = product * self.factor()?;
            } else {
                return Ok(product);
            }
        }
    }

    fn factor(&mut self) -> Result<Expr, ParseExprError> {
        let mut negative = false;
        while self.take("-") {
            negative = !negative;
        }
        let value = self.primary()?;
        Ok(if negative { -value } else { value })
    }

    fn primary(&mut self) -> Result<Expr, ParseExprError> {
        self.space();
        match self.rest().chars().next() {
            Some('(') => {
                self.at += 1;
                let value = self.sum()?;
                self.expect(")", "expected `)`")?;
                Ok(value)
            }
            Some('`') => self.quoted(),
            Some(c) if c.is_ascii_digit() => {
                let digits = self.rest().bytes().take_while(u8::is_ascii_digit).count();
                let value = self.rest()[..digits].parse::<i128>();
                self.at += digits;
                if self.rest().starts_with(plain_rest) {
                    return Err(self.error("a name cannot start with a digit; quote it with backticks"));
                }
                Ok(value.map_or_else(|_| Expr::overflow(), Expr::constant))
            }
            Some(c) if plain_start(c) => {
                let bytes: usize = self.rest().chars().take_while(|c| plain_rest(*c)).map(char::len_utf8).sum();
                let name = self.rest()[..bytes].to_owned();
                self.at += bytes;
                if name == "overflow" && self.take("!") {
                    return Ok(Expr::overflow());
                }
                if self.take("(") {
                    return self.call(&name);
                }
                Ok(Expr::dim(&name))
            }
            _ => Err(self.error("expected a dim, a number or `(`")),
        }
    }

    fn quoted(&mut self) -> Result<Expr, ParseExprError> {
        let mut name = String::new();
        self.at += 1;
        loop {
            let Some(length) = self.rest().find('`') else { return Err(self.error("a backtick is not closed")) };
            name.push_str(&self.rest()[..length]);
            self.at += length + 1;
            if !self.rest().starts_with('`') {
                return Ok(Expr::dim(&name));
            }
            name.push('`');
            self.at += 1;
        }
    }

    fn call(&mut self, name: &str) -> Result<Expr, ParseExprError> {
        let join: fn(&Expr, &Expr) -> Expr = match name {
            "min" => Expr::min,
            "max" => Expr::max,
            "ceil" => Expr::ceil_div,
            _ => return Err(self.error("no such function (there are min, max and ceil)")),
        };
        let mut value = self.sum()?;
        self.expect(",", "expected `,`")?;
        value = join(&value, &self.sum()?);
        while name != "ceil" && self.take(",") {
            value = join(&value, &self.sum()?);
        }
        self.expect(")", "expected `)`")?;
        Ok(value)
    }
}

impl Serialize for Expr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Expr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Expr, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn e(text: &str) -> Expr {
        text.parse().unwrap()
    }

    #[test]
    fn equal_polynomials_are_equal() {
        for (a, b) in [
            ("past + seq", "seq + past"),
            ("(batch*past_plus_seq)//batch", "past_plus_seq"),
            ("(batch*(past + seq)*8)//(seq + past)", "8*batch"),
            ("(a + b)*(a - b)", "a*a - b*b"),
            ("(4*n + 2)//2", "2*n + 1"),
            ("(n//2)//3", "n//6"),
            ("ceil(n, 4)", "(n + 3)//4"),
            ("max(n, 0)", "n"),
            ("min(n, n + 3)", "n"),
            ("min(a, min(b, a))", "min(b, a)"),
            ("max(a, 3, 7)", "max(7, a)"),
            ("a - a", "0"),
            ("`past seq` + 1", "1 + `past seq`"),
        ] {
            assert_eq!(e(a), e(b), "{a} and {b}");
        }
        assert_ne!(e("a//2"), e("a"));
    }

    #[test]
    fn text_is_readable() {
        for text in [
            "past + seq",
            "2*batch*seq - 1",
            "-(n//2)",
            "2*(n//2)",
            "(n + 3)//4",
            "n//(a*b)",
            "ceil(n, m)",
            "min(a, b) + 1",
            "a*a*b",
            "`a b`",
            "`x``y`",
            "``",
            "`2x`",
            "`min`",
            "`a/b`",
            "overflow!",
            "layer.0:past",
        ] {
            assert_eq!(e(text).to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "a +", "(a", "a b", "min(a)", "2x", "`a", "a/b", "f(a, b)", "a)", ","] {
            assert!(text.parse::<Expr>().is_err(), "{text}");
        }
        assert!("(".repeat(100_000).parse::<Expr>().is_err());
        assert!(format!("{}1", "-".repeat(100_001)).parse::<Expr>().is_ok());
    }

    #[test]
    fn overflow_ends_as_an_error() {
        let big = e("170141183460469231731687303715884105727");
        assert!((&big + Expr::constant(1)).is_overflow());
        assert_eq!((&big * &big).eval(&Binding::new()), Err(EvalError::Overflow));
        assert!(e("a//0").is_overflow());
        let binding = Binding::from([("a".to_owned(), u64::MAX)]);
        assert_eq!(e("a*a*a").eval(&binding), Err(EvalError::Overflow));
        assert_eq!(e("b").eval(&binding), Err(EvalError::Unbound("b".to_owned())));
        // Each round doubles the text of the expression; the limits stop it.
        let mut growing = e("a");
        for _ in 0..100 {
            growing = (&growing * Expr::constant(3)).min(&(&growing * &growing)).floor_div(&e("b"));
        }
        assert!(growing.is_overflow());
    }

    #[test]
    fn ranges_hold() {
        let ranges = Ranges::from([("a".to_owned(), (1, 10)), ("b".to_owned(), (0, 4))]);
        for (text, low, high) in [
            ("a*b - 1", -1, 39),
            ("a//3", 0, 3),
            ("min(a, 2*b)", 0, 8),
            ("max(a, b)", 1, 10),
            ("b//a", 0, 4),
            ("ceil(b, a)", 0, 4),
        ] {
            assert_eq!(e(text).range(&ranges), Some((low, high)), "{text}");
        }
        assert_eq!(e("c").range(&ranges), None);
    }

    /// The tree that a normal form came from.
    #[derive(Clone, Debug)]
    enum Tree {
        Number(i8),
        Dim(u8),
        Two(u8, Box<Tree>, Box<Tree>),
    }

    impl Tree {
        fn expr(&self) -> Expr {
            match self {
                Tree::Number(n) => Expr::constant(*n),
                Tree::Dim(d) => Expr::dim(["a", "b", "c"][usize::from(*d)]),
                Tree::Two(op, x, y) => {
                    let (x, y) = (x.expr(), y.expr());
                    match op {
                        0 => x + y,
                        1 => x - y,
                        2 => x * y,
                        3 => x.floor_div(&y),
                        4 => x.ceil_div(&y),
                        5 => x.min(&y),
                        _ => x.max(&y),
                    }
                }
            }
        }

        /// `None` on overflow or division by zero.
        fn value(&self, sizes: [u64; 3]) -> Option<i128> {
            Some(match self {
                Tree::Number(n) => i128::from(*n),
                Tree::Dim(d) => i128::from(sizes[usize::from(*d)]),
                Tree::Two(op, x, y) => {
                    let (x, y) = (x.value(sizes)?, y.value(sizes)?);
                    match op {
                        0 => x.checked_add(y)?,
                        1 => x.checked_sub(y)?,
                        2 => x.checked_mul(y)?,
                        3 => divide_number(x, y, false)?,
                        4 => divide_number(x, y, true)?,
                        5 => x.min(y),
                        _ => x.max(y),
                    }
                }
            })
        }
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![any::<i8>().prop_map(Tree::Number), (0u8..3).prop_map(Tree::Dim)];
        leaf.prop_recursive(5, 24, 2, |inner| {
            (0u8..7, inner.clone(), inner).prop_map(|(op, x, y)| Tree::Two(op, Box::new(x), Box::new(y)))
        })
    }

    fn binding(sizes: [u64; 3]) -> Binding {
        ["a", "b", "c"].iter().zip(sizes).map(|(name, size)| ((*name).to_owned(), size)).collect()
    }

    proptest! {
        #[test]
        fn normal_form_has_the_tree_value(tree in tree(), sizes in [0u64..9, 0u64..9, 0u64..9]) {
            let expr = tree.expr();
            if let Some(value) = tree.value(sizes) && !expr.is_overflow() {
                prop_assert_eq!(expr.eval(&binding(sizes)), Ok(value), "{}", expr);
                prop_assert_eq!(expr.bind(&binding(sizes)).as_constant(), Some(value), "{}", expr);
                let first = Binding::from([("a".to_owned(), sizes[0])]);
                prop_assert_eq!(expr.bind(&first).eval(&binding(sizes)), Ok(value), "{}", expr);
                let ranges = binding(sizes).into_iter().map(|(n, s)| (n, (s.saturating_sub(2), s + 3))).collect();
                if let Some((low, high)) = expr.range(&ranges) {
                    prop_assert!(low <= value && value <= high, "{}: {} in {}..={}", expr, value, low, high);
                }
            }
        }

        #[test]
        fn text_round_trips(tree in tree()) {
            let expr = tree.expr();
            prop_assert_eq!(expr.to_string().parse::<Expr>(), Ok(expr));
        }

        #[test]
        fn any_name_round_trips(name in ".*") {
            let expr = Expr::dim(&name) + Expr::constant(1);
            prop_assert_eq!(expr.to_string().parse::<Expr>(), Ok(expr));
        }

        #[test]
        fn no_text_panics(text in "[-a-c0-9+*/(),` min]{0,40}") {
            let _ = text.parse::<Expr>();
        }
    }
}
