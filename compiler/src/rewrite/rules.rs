//! Which terms are equal: moves that cancel, join, or pass each other.
//!
//! Reads:    one term of a class, and the terms of its operands.
//! Decides:  nothing: all equal forms are kept, the cheapest is chosen afterwards.
//! Promises: both sides are the same elements in the same order for all sizes of all dims; where that cannot be shown
//!           from the expressions, a rule is silent.
//! Why:      no rule computes; what passes a move is one operation on each element, with bits that do not depend on place.

use super::forms::TERMS_MAX;
use super::term::{Forms, Head, Made, Term, Types, shape};
use berth_ir::expr::Expr;
use egg::{Applier, Id, PatternAst, Rewrite, SearchMatches, Searcher, Subst, Symbol, Var};

/// The other forms of a term.
type Equal = fn(&mut Forms, &Term) -> Vec<Made>;

/// All rules.
pub(super) fn rules() -> Vec<Rewrite<Term, Types>> {
    let rule = |name: &str, head: fn(&Head) -> bool, equal: Equal| {
        let rule = Rule { head, equal };
        Rewrite::new(name, rule, rule).expect("a rule without variables")
    };
    vec![
        rule("transposes join", is_transpose, transposes_join),
        rule("an axis of one moves for free", is_transpose, ones_move),
        rule("a transpose passes axes of one", is_transpose, transpose_passes_ones),
        rule("a transpose passes what works on elements", is_transpose, transpose_passes_map),
        rule("a transpose passes a concat", is_transpose, transpose_passes_concat),
        rule("a transpose passes a slice", is_transpose, transpose_passes_slice),
        rule("shapes join", is_reshape, shapes_join),
        rule("slices join", is_slice, slices_join),
        rule("a slice of all", is_slice, slice_of_all),
        rule("a slice of a concat", is_slice, slice_of_concat),
        rule("a concat of one", is_concat, concat_of_one),
        rule("concats join", is_concat, concats_join),
        rule("neighbours join", is_concat, neighbours_join),
    ]
}

/// A rule as searcher (classes that have such a head) and applier (all that its terms equal).
#[derive(Clone, Copy)]
struct Rule {
    head: fn(&Head) -> bool,
    equal: Equal,
}

impl Searcher<Term, Types> for Rule {
    fn search_eclass_with_limit(&self, forms: &Forms, class: Id, limit: usize) -> Option<SearchMatches<'_, Term>> {
        let found = limit > 0 && forms[class].nodes.iter().any(|term| (self.head)(&term.head));
        found.then(|| SearchMatches { eclass: class, substs: vec![Subst::default()], ast: None })
    }
    fn vars(&self) -> Vec<Var> {
        Vec::new()
    }
}

impl Applier<Term, Types> for Rule {
    fn apply_one(&self, forms: &mut Forms, class: Id, _: &Subst, _: Option<&PatternAst<Term>>, _: Symbol) -> Vec<Id> {
        let terms: Vec<Term> = forms[class].nodes.iter().filter(|term| (self.head)(&term.head)).cloned().collect();
        let mut changed = Vec::new();
        for term in terms {
            // Limits are looked at between rules; one rule alone can find more terms than are ever wanted.
            if forms.total_size() > TERMS_MAX {
                break;
            }
            for made in (self.equal)(forms, &term) {
                let id = made.add(forms);
                // Shapes are compared as expressions: equal ones that are written differently are left apart.
                if forms[id].data == forms[class].data && forms.union(class, id) {
                    changed.push(forms.find(class));
                }
            }
        }
        changed
    }
}

fn is_transpose(head: &Head) -> bool {
    matches!(head, Head::Transpose(_))
}
fn is_reshape(head: &Head) -> bool {
    matches!(head, Head::Reshape(_))
}
fn is_slice(head: &Head) -> bool {
    matches!(head, Head::Slice { .. })
}
fn is_concat(head: &Head) -> bool {
    matches!(head, Head::Concat(_))
}

/// The terms of an operand.
fn terms(forms: &Forms, class: Id) -> Vec<Term> {
    forms[class].nodes.clone()
}

/// A transpose; its operand where the order changes nothing.
fn transpose(order: Vec<usize>, of: Made) -> Made {
    if order.iter().enumerate().all(|(n, at)| n == *at) { of } else { Made::Of(Head::Transpose(order), vec![of]) }
}

/// A reshape; its operand where the shape is that already.
fn reshape(forms: &mut Forms, to: &[Expr], from: &[Expr], of: Made) -> Made {
    if to == from { of } else { Made::Of(Head::Reshape(forms.analysis.lists.number(to)), vec![of]) }
}

/// Along one axis: where a slice begins, how many it takes, in which steps.
#[derive(Clone, PartialEq)]
struct Along {
    start: Expr,
    size: Expr,
    step: i64,
}

impl Along {
    fn is_all_of(&self, size: &Expr) -> bool {
        self.start.as_constant() == Some(0) && self.step == 1 && self.size == *size
    }
}

/// A slice, axis by axis.
fn along(forms: &Forms, head: &Head) -> Option<Vec<Along>> {
    let Head::Slice { starts, sizes, steps } = head else { return None };
    let lists = &forms.analysis.lists;
    let axes = lists.get(*starts).iter().zip(lists.get(*sizes)).zip(steps);
    Some(axes.map(|((start, size), step)| Along { start: start.clone(), size: size.clone(), step: *step }).collect())
}

/// A slice; its operand where it takes all.
fn slice(forms: &mut Forms, axes: &[Along], from: &[Expr], of: Made) -> Made {
    if axes.iter().zip(from).all(|(a, size)| a.is_all_of(size)) {
        return of;
    }
    let starts: Vec<Expr> = axes.iter().map(|a| a.start.clone()).collect();
    let sizes: Vec<Expr> = axes.iter().map(|a| a.size.clone()).collect();
    let lists = &mut forms.analysis.lists;
    let (starts, sizes) = (lists.number(&starts), lists.number(&sizes));
    Made::Of(Head::Slice { starts, sizes, steps: axes.iter().map(|a| a.step).collect() }, vec![of])
}

fn transposes_join(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Transpose(outer) = &term.head else { return Vec::new() };
    let joined = terms(forms, term.operands[0]).into_iter().filter_map(|t| match t.head {
        Head::Transpose(inner) => {
            Some(transpose(outer.iter().map(|at| inner[*at]).collect(), Made::Class(t.operands[0])))
        }
        _ => None,
    });
    joined.collect()
}

/// The axes that are not one, in order.
fn wide(shape: &[Expr]) -> Vec<usize> {
    (0..shape.len()).filter(|n| shape[*n].as_constant() != Some(1)).collect()
}

fn ones_move(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Transpose(order) = &term.head else { return Vec::new() };
    let from = shape(forms, term.operands[0]).to_vec();
    let moved: Vec<usize> = order.iter().copied().filter(|at| from[*at].as_constant() != Some(1)).collect();
    if !moved.is_sorted() {
        return Vec::new();
    }
    let to: Vec<Expr> = order.iter().map(|at| from[*at].clone()).collect();
    vec![reshape(forms, &to, &from, Made::Class(term.operands[0]))]
}

/// `Transpose(Reshape(x))` is `Reshape(Transpose(x))` where the Reshape only adds and drops axes of one.
fn transpose_passes_ones(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Transpose(order) = &term.head else { return Vec::new() };
    let between = shape(forms, term.operands[0]).to_vec();
    let to: Vec<Expr> = order.iter().map(|at| between[*at].clone()).collect();
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        let Head::Reshape(_) = inner.head else { continue };
        let from = shape(forms, inner.operands[0]).to_vec();
        let (here, there) = (wide(&between), wide(&from));
        if here.len() != there.len() || here.iter().zip(&there).any(|(h, t)| between[*h] != from[*t]) {
            continue;
        }
        // The wide axes in their new order, on the wide places of the operand; its axes of one stay.
        let mut moved = order.iter().filter_map(|at| Some(there[here.iter().position(|h| h == at)?]));
        let inside: Option<Vec<usize>> =
            (0..from.len()).map(|n| if there.contains(&n) { moved.next() } else { Some(n) }).collect();
        let Some(inside) = inside else { continue };
        let turned: Vec<Expr> = inside.iter().map(|at| from[*at].clone()).collect();
        let of = transpose(inside, Made::Class(inner.operands[0]));
        made.push(reshape(forms, &to, &turned, of));
    }
    made
}

fn transpose_passes_map(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Transpose(order) = &term.head else { return Vec::new() };
    let whole = shape(forms, term.operands[0]).to_vec();
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        let Head::Map(_) = inner.head else { continue };
        let operands = inner.operands.iter().map(|operand| {
            let of = Made::Class(*operand);
            // One element for all stays as it is.
            if *shape(forms, *operand) == *whole { transpose(order.clone(), of) } else { of }
        });
        made.push(Made::Of(inner.head, operands.collect()));
    }
    made
}

fn transpose_passes_concat(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Transpose(order) = &term.head else { return Vec::new() };
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        let Head::Concat(axis) = inner.head else { continue };
        let Some(to) = order.iter().position(|at| *at == axis) else { continue };
        let parts = inner.operands.iter().map(|part| transpose(order.clone(), Made::Class(*part)));
        made.push(Made::Of(Head::Concat(to), parts.collect()));
    }
    made
}

fn transpose_passes_slice(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Transpose(order) = &term.head else { return Vec::new() };
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        let Some(axes) = along(forms, &inner.head) else { continue };
        let from = shape(forms, inner.operands[0]).to_vec();
        let turned: Vec<Expr> = order.iter().map(|at| from[*at].clone()).collect();
        let axes: Vec<Along> = order.iter().map(|at| axes[*at].clone()).collect();
        let of = transpose(order.clone(), Made::Class(inner.operands[0]));
        made.push(slice(forms, &axes, &turned, of));
    }
    made
}

fn shapes_join(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Reshape(to) = term.head else { return Vec::new() };
    let to = forms.analysis.lists.get(to).to_vec();
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        if let Head::Reshape(_) = inner.head {
            let from = shape(forms, inner.operands[0]).to_vec();
            made.push(reshape(forms, &to, &from, Made::Class(inner.operands[0])));
        }
    }
    made
}

fn slices_join(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Some(outer) = along(forms, &term.head) else { return Vec::new() };
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        let Some(axes) = along(forms, &inner.head) else { continue };
        let joined = axes.iter().zip(&outer).map(|(i, o)| {
            let step = i.step.checked_mul(o.step)?;
            Some(Along { start: &i.start + Expr::constant(i.step) * &o.start, size: o.size.clone(), step })
        });
        let Some(joined) = joined.collect::<Option<Vec<Along>>>() else { continue };
        let from = shape(forms, inner.operands[0]).to_vec();
        made.push(slice(forms, &joined, &from, Made::Class(inner.operands[0])));
    }
    made
}

fn slice_of_all(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Some(axes) = along(forms, &term.head) else { return Vec::new() };
    let from = shape(forms, term.operands[0]);
    if axes.iter().zip(from).all(|(a, size)| a.is_all_of(size)) {
        return vec![Made::Class(term.operands[0])];
    }
    Vec::new()
}

/// The greater of two places, where it is certain which.
fn later(a: &Expr, b: &Expr) -> Option<Expr> {
    match ((a - b).is_nonnegative(), (b - a).is_nonnegative()) {
        (true, _) => Some(a.clone()),
        (_, true) => Some(b.clone()),
        _ => None,
    }
}

/// The parts of the operands that a slice meets, one behind the other.
fn slice_of_concat(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Some(axes) = along(forms, &term.head) else { return Vec::new() };
    let mut made = Vec::new();
    for inner in terms(forms, term.operands[0]) {
        let Head::Concat(axis) = inner.head else { continue };
        if let Some(parts) = met(forms, &axes, axis, &inner.operands) {
            made.push(if parts.len() == 1 { parts[0].clone() } else { Made::Of(Head::Concat(axis), parts) });
        }
    }
    made
}

/// The parts; `None` where it is not certain which they are.
fn met(forms: &mut Forms, axes: &[Along], axis: usize, operands: &[Id]) -> Option<Vec<Made>> {
    let cut = &axes[axis];
    if cut.step != 1 {
        return None;
    }
    let (zero, end) = (Expr::constant(0), &cut.start + &cut.size);
    let mut parts = Vec::new();
    let mut at = zero.clone();
    for operand in operands {
        let from = shape(forms, *operand).to_vec();
        let behind = &at + &from[axis];
        let before = (&at - &end).is_nonnegative() || (&cut.start - &behind).is_nonnegative();
        if !before {
            let first = later(&cut.start, &at)?;
            // The lesser of two ends.
            let last = -later(&-&end, &-&behind)?;
            let mut own = axes.to_vec();
            own[axis] = Along { start: first.clone() - &at, size: last - first, step: 1 };
            parts.push(slice(forms, &own, &from, Made::Class(*operand)));
        }
        at = behind;
    }
    (!parts.is_empty()).then_some(parts)
}

fn concat_of_one(_: &mut Forms, term: &Term) -> Vec<Made> {
    if term.operands.len() == 1 { vec![Made::Class(term.operands[0])] } else { Vec::new() }
}

fn concats_join(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Concat(axis) = term.head else { return Vec::new() };
    let mut made = Vec::new();
    // A class may hold concats of itself and of nothing: without end they would be put into each other.
    let nothing = Expr::constant(0);
    if term.operands.iter().any(|id| shape(forms, *id).get(axis) == Some(&nothing)) {
        return Vec::new();
    }
    for (n, operand) in term.operands.iter().enumerate() {
        for inner in terms(forms, *operand) {
            // A class may hold a concat of itself and of nothing.
            if inner.head == term.head && inner.operands.iter().all(|id| forms.find(*id) != forms.find(*operand)) {
                let all = term.operands[..n].iter().chain(&inner.operands).chain(&term.operands[n + 1..]);
                made.push(Made::Of(Head::Concat(axis), all.map(|id| Made::Class(*id)).collect()));
            }
        }
    }
    made
}

/// Two neighbours that are one behind the other in what they are cut from are one slice of it.
fn neighbours_join(forms: &mut Forms, term: &Term) -> Vec<Made> {
    let Head::Concat(axis) = term.head else { return Vec::new() };
    let mut made = Vec::new();
    for n in 1..term.operands.len() {
        let (left, right) = (terms(forms, term.operands[n - 1]), terms(forms, term.operands[n]));
        for (a, b) in left.iter().flat_map(|a| right.iter().map(move |b| (a, b))) {
            let (Some(x), Some(y)) = (along(forms, &a.head), along(forms, &b.head)) else { continue };
            if forms.find(a.operands[0]) != forms.find(b.operands[0]) {
                continue;
            }
            let others = (0..x.len()).all(|at| at == axis || x[at] == y[at]);
            let meet = x[axis].step == 1 && y[axis].step == 1 && &x[axis].start + &x[axis].size == y[axis].start;
            if !others || !meet {
                continue;
            }
            let mut whole = x;
            whole[axis].size = &whole[axis].size + &y[axis].size;
            let from = shape(forms, a.operands[0]).to_vec();
            let one = slice(forms, &whole, &from, Made::Class(a.operands[0]));
            let before = term.operands[..n - 1].iter().map(|id| Made::Class(*id));
            let after = term.operands[n + 1..].iter().map(|id| Made::Class(*id));
            made.push(Made::Of(Head::Concat(axis), before.chain([one]).chain(after).collect()));
        }
    }
    made
}
