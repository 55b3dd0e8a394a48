//! The normal form: sums of products of atoms, sorted, and the arithmetic that keeps them so.

use super::{Atom, DEGREE_MAX, DEPTH_MAX, Expr, Monomial, PARTS_MAX, Repr, SIZE_MAX, TERMS_MAX};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Expr {
    pub(super) fn terms(&self) -> Option<&[(Monomial, i128)]> {
        match &self.0 {
            Repr::Poly(terms) => Some(terms),
            Repr::Overflow => None,
        }
    }

    pub(super) fn atom(atom: Atom) -> Expr {
        Expr::poly(vec![(vec![(atom, 1)], 1)])
    }

    pub(super) fn poly(terms: Vec<(Monomial, i128)>) -> Expr {
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

    pub(super) fn combine(&self, other: &Expr, sign: i128) -> Expr {
        let (Some(a), Some(b)) = (self.terms(), other.terms()) else { return Expr::overflow() };
        match add_terms(a, b, sign) {
            Some(terms) => Expr::poly(terms),
            None => Expr::overflow(),
        }
    }

    pub(super) fn product(&self, other: &Expr) -> Expr {
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

    pub(super) fn divide(&self, by: &Expr, up: bool) -> Expr {
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

    pub(super) fn extremum(&self, other: &Expr, least: bool) -> Expr {
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

pub(super) fn degree(monomial: &Monomial) -> u32 {
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
pub(super) fn split_quotient(a: &[(Monomial, i128)], b: &[(Monomial, i128)]) -> Option<(Terms, Terms)> {
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
