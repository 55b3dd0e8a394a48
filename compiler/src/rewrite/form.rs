//! What an operator does to the bytes of its operands, as rules see it.

use crate::import::ops::row_of;
use berth_ir::expr::Expr;
use berth_ir::graph::{Attribute, Content, Graph, Op, Value, ValueId};

/// What an operator is to the rules. Axes count from the front, places in elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// The result is this operand.
    Same(usize),
    /// The same bytes in another shape.
    View,
    /// Axis `n` of the result is axis `order[n]` of the operand.
    Transpose(Vec<usize>),
    /// From these places on, in these steps, as many as the result has.
    Slice { starts: Vec<Expr>, steps: Vec<i64> },
    /// Result `n` begins at `starts[n]` along the axis.
    Split { axis: usize, starts: Vec<Expr> },
    /// Operands one behind the other along the axis.
    Concat(usize),
    /// The elements at one place of an axis; the axis is gone.
    Pick { axis: usize, at: Expr },
    /// Each element of the result is computed from those at the same place, in the same way wherever it lies.
    Map,
    /// Anything else: the same operator on the same operands gives the same bits.
    Other,
}

/// Operators whose elements have the same bits wherever they stand: one correctly rounded operation, or none. Not here is
/// what kernels compute by series (Exp, Erf, Tanh): the last elements of a row may take another path than the others.
const EXACT: &[&str] = &[
    "Abs",
    "Add",
    "And",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "Cast",
    "Ceil",
    "Clip",
    "Div",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mul",
    "Neg",
    "Not",
    "Or",
    "Relu",
    "Sign",
    "Sqrt",
    "Sub",
    "Where",
    "Xor",
];

/// Operators that give other results each time, or may.
const RANDOM: &[&str] = &["Bernoulli", "Dropout", "BiasDropout", "Multinomial"];

/// What an operator is; `None` for what rules leave alone: several results, graphs inside, unknown, random.
pub(super) fn form(graph: &Graph, op: &Op) -> Option<Form> {
    let row = row_of(&op.domain, &op.kind)?;
    let standard = matches!(op.domain.as_str(), "" | "ai.onnx");
    let result = graph.value((*op.outputs.first()?)?);
    if !op.captures.is_empty() || op.kind.starts_with("Random") || RANDOM.contains(&op.kind.as_str()) {
        return None;
    }
    let value = |n: usize| op.inputs.get(n).copied().flatten().map(|id| graph.value(id));
    if standard && op.kind == "Split" {
        return split(op, value(0)?, |id| graph.value(id));
    }
    if op.outputs.len() != 1 {
        return None;
    }
    let alike = |n: usize| value(n).is_some_and(|v| v.dtype == result.dtype && v.shape == result.shape);
    if row.view && value(0)?.dtype == result.dtype {
        return Some(if alike(0) { Form::Same(0) } else { Form::View });
    }
    let opset = graph.opsets.iter().find(|(domain, _)| domain.is_empty()).map_or(0, |(_, version)| *version);
    let found = if standard { special(op, opset, result, &value, &alike) } else { None };
    Some(found.unwrap_or(Form::Other))
}

/// The form of an operator of the standard domain that moves bytes or works on each element alone.
fn special<'a>(
    op: &Op,
    opset: i64,
    result: &Value,
    value: &dyn Fn(usize) -> Option<&'a Value>,
    alike: &dyn Fn(usize) -> bool,
) -> Option<Form> {
    let zero = |e: &Expr| e.as_constant() == Some(0);
    match op.kind.as_str() {
        "Transpose" => Some(Form::Transpose(order(op, value(0)?.shape.len())?)),
        "Slice" => slice(op, opset, value(0)?, value),
        "Concat" if op.inputs.len() == 1 => Some(Form::Same(0)),
        "Concat" if op.inputs.iter().all(Option::is_some) => Some(Form::Concat(axis(op, result.shape.len(), 1)?)),
        "Gather" => pick(op, value(0)?, value(1)?),
        // Where the shape stays, nothing is repeated (or there is nothing to repeat).
        "Expand" | "Tile" | "Cast" if alike(0) => Some(Form::Same(0)),
        "Pad" if alike(0) => {
            let pads = match ints(op, "pads") {
                Some(pads) => pads.iter().map(|n| Expr::constant(*n)).collect(),
                None => known(value(1)?)?.to_vec(),
            };
            pads.iter().all(zero).then_some(Form::Same(0))
        }
        "Where" if alike(1) && op.inputs[1] == op.inputs[2] => Some(Form::Same(1)),
        "Where" => match known(value(0)?) {
            Some(all) if alike(1) && all.iter().all(Expr::is_positive) => Some(Form::Same(1)),
            Some(all) if alike(2) && all.iter().all(zero) => Some(Form::Same(2)),
            _ => map(op, result, value),
        },
        _ => map(op, result, value),
    }
}

/// An operator on each element: operands have the result's shape, or one element for all.
fn map<'a>(op: &Op, result: &Value, value: &dyn Fn(usize) -> Option<&'a Value>) -> Option<Form> {
    let one = Expr::constant(1);
    let fits = |n: usize| {
        let Some(v) = value(n) else { return op.inputs[n].is_none() };
        v.shape == result.shape || (v.shape.len() <= result.shape.len() && v.shape.iter().all(|axis| *axis == one))
    };
    let full = (0..op.inputs.len()).any(|n| value(n).is_some_and(|v| v.shape == result.shape));
    // Division of integers rounds the same everywhere, and so does all else in this list.
    let exact = EXACT.contains(&op.kind.as_str()) && full && !result.shape.is_empty();
    (exact && (0..op.inputs.len()).all(fits)).then_some(Form::Map)
}

fn split<'a>(op: &Op, from: &Value, value: impl Fn(ValueId) -> &'a Value) -> Option<Form> {
    let axis = axis(op, from.shape.len(), 0)?;
    let mut starts = Vec::with_capacity(op.outputs.len());
    let mut at = Expr::constant(0);
    for output in &op.outputs {
        starts.push(at.clone());
        at = at + &value((*output)?).shape[axis];
    }
    // Parts of which the importer only knows that they should add up are left alone.
    (at == from.shape[axis]).then_some(Form::Split { axis, starts })
}

fn slice<'a>(op: &Op, opset: i64, from: &Value, value: &dyn Fn(usize) -> Option<&'a Value>) -> Option<Form> {
    let numbers = |list: &[i64]| list.iter().map(|n| Expr::constant(*n)).collect::<Vec<Expr>>();
    let constants =
        |list: &[Expr]| list.iter().map(|e| i64::try_from(e.as_constant()?).ok()).collect::<Option<Vec<_>>>();
    let (firsts, axes) = match opset < 10 {
        true => (numbers(ints(op, "starts")?), ints(op, "axes").map(<[i64]>::to_vec)),
        false => (known(value(1)?)?.to_vec(), value(3).map(|v| constants(known(v)?)).unwrap_or(Some(Vec::new()))),
    };
    let axes = axes.filter(|axes| !axes.is_empty()).unwrap_or((0..firsts.len() as i64).collect());
    let gaps = match value(4) {
        Some(v) => constants(known(v)?)?,
        None => vec![1; firsts.len()],
    };
    let rank = from.shape.len();
    let (mut starts, mut steps) = (vec![Expr::constant(0); rank], vec![1; rank]);
    if axes.len() != firsts.len() || gaps.len() != firsts.len() {
        return None;
    }
    for ((axis, first), step) in axes.iter().zip(&firsts).zip(gaps) {
        let axis = place(*axis, rank)?;
        let size = &from.shape[axis];
        if step < 1 {
            return None;
        }
        starts[axis] = match first.as_constant() {
            Some(at) if at < 0 => (size + Expr::constant(at)).max(&Expr::constant(0)),
            // The end of the list of integers says "to the end", not a place.
            Some(at) if at >= i128::from(i32::MAX) => return None,
            _ if first.is_nonnegative() => first.min(size),
            _ => return None,
        };
        steps[axis] = step;
    }
    Some(Form::Slice { starts, steps })
}

/// A Gather of one constant place.
fn pick(op: &Op, from: &Value, at: &Value) -> Option<Form> {
    let axis = axis(op, from.shape.len(), 0)?;
    let ([index], true) = (known(at)?, at.shape.is_empty()) else { return None };
    let size = &from.shape[axis];
    let index = if index.as_constant()? < 0 { index + size } else { index.clone() };
    let inside = index.is_nonnegative() && (size - &index).is_positive();
    inside.then_some(Form::Pick { axis, at: index })
}

/// The order of a Transpose.
fn order(op: &Op, rank: usize) -> Option<Vec<usize>> {
    match ints(op, "perm") {
        Some(order) => order.iter().map(|at| place(*at, rank)).collect(),
        None => Some((0..rank).rev().collect()),
    }
}

fn known(value: &Value) -> Option<&[Expr]> {
    match &value.content {
        Content::Known(elements) => Some(elements),
        _ => None,
    }
}

fn ints<'a>(op: &'a Op, name: &str) -> Option<&'a [i64]> {
    op.attributes.iter().find_map(|(n, a)| match a {
        Attribute::Ints(list) if n == name => Some(list.as_slice()),
        _ => None,
    })
}

fn axis(op: &Op, rank: usize, default: i64) -> Option<usize> {
    let given = op.attributes.iter().find_map(|(n, a)| match a {
        Attribute::Int(axis) if n == "axis" => Some(*axis),
        _ => None,
    });
    place(given.unwrap_or(default), rank)
}

/// An axis that may count from the end.
fn place(axis: i64, rank: usize) -> Option<usize> {
    let at = if axis < 0 { axis.checked_add(i64::try_from(rank).ok()?)? } else { axis };
    usize::try_from(at).ok().filter(|at| *at < rank)
}
