//! Operators that reduce or normalise along axes.

use super::*;

const fn reduce(kind: &'static str) -> Row {
    row(kind, (1, 2), (1, 1), Flops::PerInput(1), reduction)
}

pub(super) const ROWS: &[Row] = &[
    reduce("ReduceL1"),
    reduce("ReduceL2"),
    reduce("ReduceLogSum"),
    reduce("ReduceLogSumExp"),
    reduce("ReduceMax"),
    reduce("ReduceMean"),
    reduce("ReduceMin"),
    reduce("ReduceProd"),
    reduce("ReduceSum"),
    reduce("ReduceSumSquare"),
    row("ArgMax", (1, 1), (1, 1), Flops::PerInput(1), arg),
    row("ArgMin", (1, 1), (1, 1), Flops::PerInput(1), arg),
    row("Softmax", (1, 1), (1, 1), Flops::PerOutput(8), as_first).in_place(),
    row("LogSoftmax", (1, 1), (1, 1), Flops::PerOutput(8), as_first).in_place(),
    row("Hardmax", (1, 1), (1, 1), Flops::PerOutput(1), as_first),
    row("CumSum", (2, 2), (1, 1), Flops::PerOutput(1), as_first),
    row("CumProd", (2, 2), (1, 1), Flops::PerOutput(1), as_first),
    row("TopK", (1, 2), (2, 2), Flops::PerInput(4), top_k),
    row("Det", (1, 1), (1, 1), Flops::PerInput(4), det),
    row("NegativeLogLikelihoodLoss", (2, 3), (1, 1), Flops::PerInput(1), loss),
    row("SoftmaxCrossEntropyLoss", (2, 3), (1, 2), Flops::PerInput(8), loss),
];

pub(super) fn reduction(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let axes = match (node.ints("axes"), node.given(1)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(_)) => node.integers(1, "the list of axes")?,
        (None, None) => Vec::new(),
    };
    if axes.is_empty() && node.int("noop_with_empty_axes", 0) != 0 {
        return as_first(node);
    }
    let mut gone = vec![axes.is_empty(); rank];
    for at in &axes {
        gone[axis(*at, rank)?] = true;
    }
    let shape = reduced(node, &from.shape, &gone);
    // Shape arithmetic reduces whole lists.
    let out = Out::new(from.dtype, shape);
    if gone.contains(&false) {
        return Ok(vec![out]);
    }
    let known = node.known(0).and_then(|all| total(node.kind, all));
    let floats = node.floats_of(0).and_then(|all| total_float(node.kind, &all, from.dtype));
    Ok(vec![out.known(known.map(|one| vec![one])).floats(floats.map(|one| vec![one]))])
}

/// A shape without the axes that are gone, or with one element there.
pub(super) fn reduced(node: &Node, shape: &[Expr], gone: &[bool]) -> Vec<Expr> {
    let keep = node.int("keepdims", 1) != 0;
    let sizes = shape.iter().zip(gone).filter(|(_, gone)| keep || !**gone);
    sizes.map(|(size, gone)| if *gone { Expr::constant(1) } else { size.clone() }).collect()
}

/// The same of floats, where no order of the steps rounds: whole numbers, whose total is small.
fn total_float(kind: &str, all: &[Float], dtype: DType) -> Option<Float> {
    let step = match kind {
        "ReduceSum" => "Add",
        "ReduceProd" => "Mul",
        "ReduceMin" => "Min",
        "ReduceMax" => "Max",
        _ => return None,
    };
    let whole = |float: &Float| match float {
        Float::Number(number) => number.fract() == 0.0 && number.abs() < f64::from(floats::EXACT_BELOW),
        Float::Size { by, .. } => *by == 1,
    };
    let (first, rest) = all.split_first()?;
    let total = rest.iter().try_fold(first.clone(), |sum, next| floats::binary(step, &sum, next, dtype))?;
    (all.iter().all(whole) && whole(&total)).then_some(total)
}

fn total(kind: &str, all: &[Expr]) -> Option<Expr> {
    let (step, start) = match kind {
        "ReduceSum" => ("Add", Some(Expr::constant(0))),
        "ReduceProd" => ("Mul", Some(Expr::constant(1))),
        "ReduceMin" => ("Min", None),
        "ReduceMax" => ("Max", None),
        _ => return None,
    };
    let mut all = all.iter();
    let first = match start {
        Some(start) => start,
        None => all.next()?.clone(),
    };
    all.try_fold(first, |sum, next| fold::binary(step, &sum, next))
}

fn arg(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.shape(0)?;
    let at = axis(node.int("axis", 0), from.len())?;
    let mut shape = from.to_vec();
    if node.int("keepdims", 1) != 0 {
        shape[at] = Expr::constant(1);
    } else {
        shape.remove(at);
    }
    Ok(vec![Out::new(DType::I64, shape)])
}

fn top_k(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let at = axis(node.int("axis", -1), from.shape.len())?;
    let results = |k: Expr| {
        let mut shape = from.shape.clone();
        shape[at] = k;
        vec![Out::new(from.dtype, shape.clone()), Out::new(DType::I64, shape)]
    };
    let k = match (node.given(1), node.known(1)) {
        (Some(_), Some([k])) => k.clone(),
        (Some(_), Some(_)) => return wrong("the number of elements is not one number"),
        (Some(k), None) => {
            let problem = format!("the number of elements `{}` is computed at run time", k.name);
            return Err(Problem::Bounded(problem, results(node.fresh(0, at, from.shape[at].clone()))));
        }
        (None, _) => Expr::constant(node.int("k", 0)),
    };
    if let (Some(k), Some(size)) = (k.as_constant(), from.shape[at].as_constant())
        && (k < 0 || k > size)
    {
        return wrong(format!("{k} elements of `{}` are asked for, axis {at} has {size}", from.name));
    }
    Ok(results(k))
}

fn det(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.shape(0)?;
    match from.len().checked_sub(2) {
        Some(outer) => Ok(vec![Out::new(node.dtype(0)?, &from[..outer])]),
        None => wrong(format!("{} is no matrix", show(from))),
    }
}

fn loss(node: &Node) -> Result<Vec<Out>, Problem> {
    let scores = node.input(0)?;
    let shape = if node.text("reduction") == "none" { node.shape(1)?.to_vec() } else { Vec::new() };
    Ok(vec![Out::new(scores.dtype, shape), Out::new(scores.dtype, scores.shape.clone())])
}
