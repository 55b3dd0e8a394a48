//! Operators that move or choose elements and compute nothing.

use super::*;

const NONE: Flops = Flops::None;

pub(super) const ROWS: &[Row] = &[
    row("Reshape", (1, 2), (1, 1), NONE, reshape).view().moves(),
    row("Flatten", (1, 1), (1, 1), NONE, flatten).view().moves(),
    row("Squeeze", (1, 2), (1, 1), NONE, squeeze).view().moves(),
    row("Unsqueeze", (1, 2), (1, 1), NONE, unsqueeze).view().moves(),
    row("Transpose", (1, 1), (1, 1), NONE, transpose).moves(),
    row("Concat", (1, MANY), (1, 1), NONE, concat).moves(),
    row("Split", (1, 2), (1, MANY), NONE, split).moves(),
    row("Slice", (1, 5), (1, 1), NONE, slice).moves(),
    row("Gather", (2, 2), (1, 1), NONE, gather).rows_of(0).moves(),
    row("GatherElements", (2, 2), (1, 1), NONE, gather_elements),
    row("GatherND", (2, 2), (1, 1), NONE, gather_nd),
    row("Scatter", (3, 3), (1, 1), NONE, as_first),
    row("ScatterElements", (3, 3), (1, 1), NONE, as_first),
    row("ScatterND", (3, 3), (1, 1), NONE, as_first),
    row("TensorScatter", (2, 3), (1, 1), NONE, as_first),
    row("Expand", (2, 2), (1, 1), NONE, expand).moves(),
    row("Tile", (2, 2), (1, 1), NONE, tile).moves(),
    row("Pad", (1, 4), (1, 1), NONE, pad),
    row("CenterCropPad", (2, 2), (1, 1), NONE, center_crop_pad),
    row("Shape", (1, 1), (1, 1), NONE, shape),
    row("Size", (1, 1), (1, 1), NONE, size),
    row("DepthToSpace", (1, 1), (1, 1), NONE, depth_to_space),
    row("SpaceToDepth", (1, 1), (1, 1), NONE, space_to_depth),
    row("Resize", (1, 4), (1, 1), Flops::PerOutput(8), resize),
    row("Upsample", (1, 2), (1, 1), Flops::PerOutput(8), resize),
    row("ReverseSequence", (2, 2), (1, 1), NONE, as_first),
    row("Trilu", (1, 2), (1, 1), NONE, as_first).in_place(),
    row("Compress", (2, 2), (1, 1), NONE, compress),
    row("NonZero", (1, 1), (1, 1), NONE, non_zero),
    row("Unique", (1, 1), (1, 4), NONE, unique),
    row("OneHot", (3, 3), (1, 1), NONE, one_hot),
    row("GridSample", (2, 2), (1, 1), Flops::PerOutput(8), grid_sample),
    row("AffineGrid", (2, 2), (1, 1), Flops::PerOutput(8), affine_grid),
    row("ExpandDims", (2, 2), (1, 1), NONE, expand_dims).view().microsoft(),
    row("UnfoldTensor", (1, 1), (1, 1), NONE, unfold).microsoft(),
    row("CDist", (2, 2), (1, 1), Flops::PerOutput(8), distances).microsoft(),
    row("Col2Im", (3, 3), (1, 1), Flops::PerInput(1), col2im),
];

fn reshape(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let constants: Vec<Expr>;
    let target: &[Expr] = match (node.ints("shape"), node.inputs.len()) {
        (Some(shape), 1) => {
            constants = shape.iter().map(|d| Expr::constant(*d)).collect();
            &constants
        }
        _ => node.elements(1, "the target shape")?,
    };
    let zero_is_zero = node.int("allowzero", 0) != 0;
    let mut shape = Vec::with_capacity(target.len());
    let mut open = None;
    for (at, size) in target.iter().enumerate() {
        match size.as_constant() {
            Some(0) if !zero_is_zero => match from.shape.get(at) {
                Some(kept) => shape.push(kept.clone()),
                None => {
                    return wrong(format!(
                        "the target copies axis {at}, but `{}` has {} axes",
                        from.name,
                        from.shape.len()
                    ));
                }
            },
            Some(-1) if open.is_some() => return wrong("the target has two open axes (-1)"),
            Some(-1) => {
                open = Some(at);
                shape.push(Expr::constant(1));
            }
            Some(size) if size < 0 => return wrong(format!("the target has the size {size}")),
            _ => shape.push(size.clone()),
        }
    }
    // What stands on both sides cancels first: it may be zero, and the rest divides more plainly.
    let mut given = from.shape.clone();
    let mut taken = Vec::new();
    for size in &shape {
        match given.iter().position(|g| g == size) {
            Some(at) => {
                given.swap_remove(at);
            }
            None => taken.push(size.clone()),
        }
    }
    let (given, taken) = (count(&given), count(&taken));
    let fits = || format!("`{}` {} does not fit into {}", from.name, show(&from.shape), show(target));
    match open {
        Some(at) => {
            let whole = match (given.as_constant(), taken.as_constant()) {
                (_, Some(0)) => return wrong(format!("{}: an open axis beside a zero has no size", fits())),
                (Some(a), Some(b)) if a % b != 0 => return wrong(fits()),
                _ => given.floor_div(&taken),
            };
            shape[at] = whole;
        }
        // Nothing fits into nothing, whatever else is cancelled.
        None if empty(&from.shape) && empty(&shape) => {}
        None => {
            node.same(&given, &taken, fits)?;
        }
    }
    Ok(vec![Out::new(from.dtype, shape).known(node.known(0).map(<[Expr]>::to_vec))])
}

/// True where some axis is known to be zero.
fn empty(shape: &[Expr]) -> bool {
    shape.iter().any(|size| size.as_constant() == Some(0))
}

fn flatten(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let at = node.int("axis", 1);
    let at = if at == rank as i64 { rank } else { axis(at, rank)? };
    let shape = [count(&from.shape[..at]), count(&from.shape[at..])];
    Ok(vec![Out::new(from.dtype, shape).known(node.known(0).map(<[Expr]>::to_vec))])
}

/// Axes from the second operand or, before operator set 13, from an attribute.
fn axes(node: &Node) -> Result<Option<Vec<i64>>, Problem> {
    match (node.ints("axes"), node.given(1)) {
        (Some(axes), _) => Ok(Some(axes.to_vec())),
        (None, Some(_)) => Ok(Some(node.integers(1, "the list of axes")?)),
        (None, None) => Ok(None),
    }
}

fn squeeze(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let one = Expr::constant(1);
    let mut gone = vec![false; rank];
    match axes(node)? {
        Some(axes) => {
            for at in axes {
                let at = axis(at, rank)?;
                node.same(&from.shape[at], &one, || {
                    format!("`{}` {} squeezed at axis {at}", from.name, show(&from.shape))
                })?;
                gone[at] = true;
            }
        }
        None => {
            for (gone, size) in gone.iter_mut().zip(&from.shape) {
                *gone = *size == one;
            }
        }
    }
    let shape: Vec<Expr> =
        from.shape.iter().zip(gone).filter(|(_, gone)| !gone).map(|(size, _)| size.clone()).collect();
    Ok(vec![Out::new(from.dtype, shape).known(node.known(0).map(<[Expr]>::to_vec))])
}

fn unsqueeze(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let Some(axes) = axes(node)? else { return wrong("it has no axes") };
    let rank = from.shape.len() + axes.len();
    let mut new = vec![false; rank];
    for at in axes {
        let at = axis(at, rank)?;
        if std::mem::replace(&mut new[at], true) {
            return wrong(format!("axis {at} is inserted twice"));
        }
    }
    let mut old = from.shape.iter();
    let shape = new.iter().map(|new| if *new { Some(Expr::constant(1)) } else { old.next().cloned() });
    let Some(shape) = shape.collect::<Option<Vec<Expr>>>() else { return wrong("its axes do not fit") };
    Ok(vec![Out::new(from.dtype, shape).known(node.known(0).map(<[Expr]>::to_vec))])
}

fn transpose(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let order: Vec<usize> = match node.ints("perm") {
        Some(order) => order.iter().map(|at| axis(*at, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut seen = vec![false; rank];
    order.iter().for_each(|at| seen[*at] = true);
    if order.len() != rank || seen.contains(&false) {
        return wrong(format!("{order:?} is no order of the {rank} axes of `{}`", from.name));
    }
    let shape: Vec<Expr> = order.iter().map(|at| from.shape[*at].clone()).collect();
    let known = pick(&shape, &from.shape, node.known(0), |index| {
        let mut place = vec![0; rank];
        order.iter().zip(index).for_each(|(at, i)| place[*at] = *i);
        Some(place)
    });
    Ok(vec![Out::new(from.dtype, shape).known(known)])
}

fn concat(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = node.input(0)?;
    let rank = first.shape.len();
    let at = axis(node.int("axis", 1), rank)?;
    let mut shape = first.shape.clone();
    for index in 1..node.inputs.len() {
        let next = node.input(index)?;
        if next.dtype != first.dtype || next.shape.len() != rank {
            return wrong(format!(
                "`{}` is {:?} {}, but `{}` is {:?} {}",
                first.name,
                first.dtype,
                show(&first.shape),
                next.name,
                next.dtype,
                show(&next.shape)
            ));
        }
        for (axis, (size, more)) in shape.iter_mut().zip(&next.shape).enumerate() {
            *size = if axis == at {
                &*size + more
            } else {
                let shapes =
                    || format!("`{}` {} and `{}` {}", first.name, show(&first.shape), next.name, show(&next.shape));
                node.same(size, more, || format!("{} differ at axis {axis}", shapes()))?
            };
        }
    }
    let known = concat_known(node, at, &shape);
    Ok(vec![Out::new(first.dtype, shape).known(known)])
}

fn concat_known(node: &Node, at: usize, shape: &[Expr]) -> Option<Vec<Expr>> {
    let total = constant_shape(shape).and_then(|s| super::product(&s)).filter(|n| *n as u64 <= KNOWN_MAX)?;
    let parts: Vec<(&[Expr], usize)> = (0..node.inputs.len())
        .map(|i| {
            let row = constant_shape(&node.shape(i).ok()?[at..]).and_then(|s| super::product(&s))?;
            Some((node.known(i)?, row))
        })
        .collect::<Option<_>>()?;
    let rows = constant_shape(&shape[..at]).and_then(|s| super::product(&s))?;
    let mut known = Vec::with_capacity(total);
    for row in 0..rows {
        for (elements, width) in &parts {
            known.extend_from_slice(elements.get(row * width..(row + 1) * width)?);
        }
    }
    Some(known)
}

fn split(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let at = axis(node.int("axis", 0), rank)?;
    let parts = node.outputs.len();
    let whole = &from.shape[at];
    let sizes: Vec<Expr> = match (node.ints("split"), node.given(1)) {
        (Some(sizes), _) => sizes.iter().map(|s| Expr::constant(*s)).collect(),
        (None, Some(sizes)) if node.known(1).is_none() => {
            let part = |index: usize| {
                let mut shape = from.shape.clone();
                shape[at] = node.fresh(index, at, whole.clone());
                Out::new(from.dtype, shape)
            };
            let problem = format!("the list of sizes `{}` is computed at run time", sizes.name);
            return Err(Problem::Bounded(problem, (0..parts).map(part).collect()));
        }
        (None, Some(_)) => node.elements(1, "the list of sizes")?.to_vec(),
        (None, None) => {
            let parts_expr = Expr::constant(parts as u64);
            let each = whole.ceil_div(&parts_expr);
            let last = whole - &each * Expr::constant(parts as u64 - 1);
            let mut sizes = vec![each; parts - 1];
            sizes.push(last);
            sizes
        }
    };
    if sizes.len() != parts {
        return wrong(format!("{} sizes are given for {parts} results", sizes.len()));
    }
    let sum = sizes.iter().fold(Expr::constant(0), |a, b| a + b);
    node.same(&sum, whole, || {
        format!("the parts of `{}` {} do not add up at axis {at}", from.name, show(&from.shape))
    })?;
    let mut start = Some(0);
    let outs = sizes.into_iter().map(|size| {
        let mut shape = from.shape.clone();
        shape[at] = size.clone();
        let known = start.and_then(|start| {
            pick(&shape, &from.shape, node.known(0), |index| {
                let mut place = index.to_vec();
                place[at] += start;
                Some(place)
            })
        });
        start = start.zip(size.as_constant()).and_then(|(s, n)| s.checked_add(usize::try_from(n).ok()?));
        Out::new(from.dtype, shape).known(known)
    });
    Ok(outs.collect())
}

/// Larger than any axis: exporters write the largest integer for "to the end".
const END: i128 = i32::MAX as i128;

fn slice(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let numbers = |list: &[i64]| list.iter().map(|n| Expr::constant(*n)).collect::<Vec<_>>();
    let attributes = node.opset < 10;
    if !attributes && (node.known(1).is_none() || node.known(2).is_none()) {
        return Err(slice_at_most(node, from)?);
    }
    let (starts, ends) = if attributes {
        (numbers(node.ints("starts").unwrap_or_default()), numbers(node.ints("ends").unwrap_or_default()))
    } else {
        (node.elements(1, "the list of starts")?.to_vec(), node.elements(2, "the list of ends")?.to_vec())
    };
    let axes: Vec<i64> = match (node.ints("axes").filter(|_| attributes), node.given(3)) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(_)) => node.integers(3, "the list of axes")?,
        (None, None) => (0..starts.len() as i64).collect(),
    };
    let steps: Vec<i64> = match node.given(4) {
        Some(_) => node.integers(4, "the list of steps")?,
        None => vec![1; axes.len()],
    };
    if starts.len() != axes.len() || ends.len() != axes.len() || steps.len() != axes.len() {
        return wrong("starts, ends, axes and steps differ in number");
    }
    let mut shape = from.shape.clone();
    let mut origin: Vec<Option<(i128, i128)>> = vec![Some((0, 1)); rank];
    for (((start, end), at), step) in starts.iter().zip(&ends).zip(&axes).zip(&steps) {
        let at = axis(*at, rank)?;
        let size = &from.shape[at];
        let (start, length) = stretch(node, size, start, end, i128::from(*step))?;
        shape[at] = length;
        origin[at] = start.as_constant().map(|start| (start, i128::from(*step)));
    }
    let known = pick(&shape, &from.shape, node.known(0), |index| {
        let place = index.iter().zip(&origin).map(|(i, o)| {
            let (start, step) = (*o)?;
            usize::try_from(start.checked_add(step.checked_mul(*i as i128)?)?).ok()
        });
        place.collect()
    });
    Ok(vec![Out::new(from.dtype, shape).known(known)])
}

/// A slice whose bounds are computed at run time is no longer than what it is cut from.
fn slice_at_most(node: &Node, from: &Value) -> Result<Problem, Problem> {
    let (starts, ends) = (node.input(1)?, node.input(2)?);
    let computed = if node.known(1).is_none() { starts } else { ends };
    let axes: Vec<i64> = match (node.given(3), starts.shape.first().and_then(Expr::as_constant)) {
        (Some(_), _) => node.integers(3, "the list of axes")?,
        (None, Some(number)) if number >= 0 && number <= from.shape.len() as i128 => (0..number as i64).collect(),
        _ => return unknown(format!("the bounds `{}` are computed at run time", computed.name)),
    };
    let mut shape = from.shape.clone();
    for at in axes {
        let at = axis(at, from.shape.len())?;
        shape[at] = node.fresh(0, at, from.shape[at].clone());
    }
    let problem = format!("the bounds `{}` are computed at run time", computed.name);
    Ok(Problem::Bounded(problem, vec![Out::new(from.dtype, shape)]))
}

/// Start and length of a slice along an axis of `size`.
fn stretch(node: &Node, size: &Expr, start: &Expr, end: &Expr, step: i128) -> Result<(Expr, Expr), Problem> {
    let zero = Expr::constant(0);
    if step == 0 {
        return wrong("a step is zero");
    }
    let back = step < 0;
    // The least and the greatest position that a bound may take.
    let lower = |is_end: bool| if back && is_end { Expr::constant(-1) } else { zero.clone() };
    let upper = if back { size - Expr::constant(1) } else { size.clone() };
    let clamp = |at: &Expr, is_end: bool| -> Expr {
        match at.as_constant() {
            // To the engine these two are no places but "to the end", whichever way that is.
            Some(at) if back && is_end && (at == END || at == i128::from(i64::MAX)) => lower(true),
            Some(at) if at >= END => upper.clone(),
            Some(-1) if back && !is_end => upper.clone(),
            Some(at) if at <= -END => lower(is_end),
            Some(at) if at >= 0 => Expr::constant(at).min(&upper),
            Some(at) => (size + Expr::constant(at)).max(&lower(is_end)),
            None if at.is_nonnegative() => at.min(&upper),
            None if (-at).is_positive() => (size + at).max(&lower(is_end)),
            None => {
                node.note(format!("the bound {at} of a slice is taken as not negative"));
                at.min(&upper)
            }
        }
    };
    let (first, last) = (clamp(start, false), clamp(end, true));
    let span = if back { &first - &last } else { &last - &first };
    let Some(magnitude) = step.checked_abs() else { return wrong("a step is out of range") };
    let length = span.ceil_div(&Expr::constant(magnitude)).max(&zero);
    Ok((first, length))
}

fn gather(node: &Node) -> Result<Vec<Out>, Problem> {
    let (from, at) = (node.input(0)?, node.input(1)?);
    let rank = from.shape.len();
    let along = axis(node.int("axis", 0), rank)?;
    let shape = [&from.shape[..along], &at.shape[..], &from.shape[along + 1..]].concat();
    let indices = node.known(1).and_then(|all| all.iter().map(Expr::as_constant).collect::<Option<Vec<i128>>>());
    let known = indices.and_then(|indices| {
        let width = constant_shape(&at.shape)?;
        let size = from.shape[along].as_constant()?;
        pick(&shape, &from.shape, node.known(0), |index| {
            let inner = &index[along..along + width.len()];
            let flat = inner.iter().zip(&width).fold(0, |flat, (i, n)| flat * n + i);
            let chosen = *indices.get(flat)?;
            let chosen = usize::try_from(if chosen < 0 { chosen + size } else { chosen }).ok()?;
            Some([&index[..along], &[chosen], &index[along + width.len()..]].concat())
        })
    });
    Ok(vec![Out::new(from.dtype, shape).known(known)])
}

fn gather_elements(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(0)?, node.shape(1)?)])
}

pub(super) fn gather_nd(node: &Node) -> Result<Vec<Out>, Problem> {
    let (from, at) = (node.input(0)?, node.input(1)?);
    let batch = usize::try_from(node.int("batch_dims", 0)).unwrap_or(usize::MAX);
    let Some((last, outer)) = at.shape.split_last() else { return wrong("its indices have no axis") };
    let Some(deep) = last.as_constant().and_then(|n| usize::try_from(n).ok()) else {
        return unknown("the last axis of its indices has no fixed size");
    };
    match batch.checked_add(deep) {
        Some(axes) if axes <= from.shape.len() => {
            let shape = [outer, &from.shape[axes..]].concat();
            Ok(vec![Out::new(from.dtype, shape)])
        }
        _ => wrong(format!("its indices reach {deep} axes deep into `{}` {}", from.name, show(&from.shape))),
    }
}

fn expand(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let target = node.elements(1, "the target shape")?;
    if let Some(size) = target.iter().filter_map(Expr::as_constant).find(|n| *n < 0) {
        return wrong(format!("the target has the size {size}"));
    }
    let who = || format!("`{}` {} and the target {}", from.name, show(&from.shape), show(target));
    let shape = node.broadcast_shapes(&from.shape, target, who)?;
    let known = spread(&shape, &from.shape, node.known(0));
    Ok(vec![Out::new(from.dtype, shape).known(known)])
}

fn tile(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let repeats = node.elements(1, "the list of repeats")?;
    if repeats.len() != from.shape.len() {
        return wrong(format!("{} repeats are given for {} axes", repeats.len(), from.shape.len()));
    }
    let shape: Vec<Expr> = from.shape.iter().zip(repeats).map(|(size, times)| size * times).collect();
    let sizes = constant_shape(&from.shape);
    let known = pick(&shape, &from.shape, node.known(0), |index| {
        let sizes = sizes.as_ref()?;
        index.iter().zip(sizes).map(|(i, n)| i.checked_rem(*n)).collect()
    });
    Ok(vec![Out::new(from.dtype, shape).known(known)])
}

pub(super) fn pad(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let pads: Vec<Expr> = match node.ints("pads") {
        Some(pads) => pads.iter().map(|n| Expr::constant(*n)).collect(),
        None => node.elements(1, "the list of pads")?.to_vec(),
    };
    let axes: Vec<usize> = match node.given(3) {
        Some(_) => {
            node.integers(3, "the list of axes")?.into_iter().map(|at| axis(at, rank)).collect::<Result<_, _>>()?
        }
        None => (0..rank).collect(),
    };
    if pads.len() != 2 * axes.len() {
        return wrong(format!("{} pads are given for {} axes", pads.len(), axes.len()));
    }
    let mut shape = from.shape.clone();
    for (i, at) in axes.iter().enumerate() {
        shape[*at] = &shape[*at] + &pads[i] + &pads[i + axes.len()];
    }
    Ok(vec![Out::new(from.dtype, shape)])
}

fn center_crop_pad(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let sizes = node.elements(1, "the target shape")?;
    let all: Vec<i64> = (0..from.shape.len() as i64).collect();
    let axes = node.ints("axes").unwrap_or(&all);
    if axes.len() != sizes.len() {
        return wrong(format!("{} sizes are given for {} axes", sizes.len(), axes.len()));
    }
    let mut shape = from.shape.clone();
    for (at, size) in axes.iter().zip(sizes) {
        shape[axis(*at, from.shape.len())?] = size.clone();
    }
    Ok(vec![Out::new(from.dtype, shape)])
}

fn shape(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.shape(0)?;
    let rank = from.len() as i64;
    let clamp = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let (start, end) = (clamp(node.int("start", 0)), clamp(node.int("end", rank)));
    let part = from.get(start..end).unwrap_or_default();
    let out = Out::new(DType::I64, [Expr::constant(part.len() as u64)]);
    Ok(vec![out.known(Some(part.to_vec()))])
}

fn size(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(DType::I64, []).known(Some(vec![count(node.shape(0)?)]))])
}

fn block(node: &Node) -> Result<Expr, Problem> {
    match node.int("blocksize", 0) {
        block if block > 0 => Ok(Expr::constant(block)),
        block => wrong(format!("the block size is {block}")),
    }
}

fn depth_to_space(node: &Node) -> Result<Vec<Out>, Problem> {
    let (from, block) = (node.shape_of_rank(0, 4)?, block(node)?);
    let depth = from[1].floor_div(&(&block * &block));
    Ok(vec![Out::new(node.dtype(0)?, [from[0].clone(), depth, &from[2] * &block, &from[3] * &block])])
}

fn space_to_depth(node: &Node) -> Result<Vec<Out>, Problem> {
    let (from, block) = (node.shape_of_rank(0, 4)?, block(node)?);
    let depth = &from[1] * &block * &block;
    Ok(vec![Out::new(node.dtype(0)?, [from[0].clone(), depth, from[2].floor_div(&block), from[3].floor_div(&block)])])
}

fn resize(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let old = node.opset < 11;
    let axes: Vec<usize> = match node.ints("axes") {
        Some(axes) => axes.iter().map(|at| axis(*at, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).collect(),
    };
    let mut shape = from.shape.clone();
    if !old && node.given(3).is_some_and(|sizes| count(&sizes.shape) != Expr::constant(0)) {
        let sizes = node.elements(3, "the list of sizes")?;
        if sizes.len() != axes.len() {
            return wrong(format!("{} sizes are given for {} axes", sizes.len(), axes.len()));
        }
        let policy = node.text("keep_aspect_ratio_policy");
        if !matches!(policy, "" | "stretch") {
            return keep_aspect_ratio(node, from, &axes, sizes, policy == "not_larger");
        }
        axes.iter().zip(sizes).for_each(|(at, size)| shape[*at] = size.clone());
        return Ok(vec![Out::new(from.dtype, shape)]);
    }
    let scales: Cow<[Float]> = match node.floats("scales") {
        Some(scales) => scales.iter().map(|s| Float::Number(f64::from(*s))).collect(),
        None => match node.floats_of(if old { 1 } else { 2 }) {
            Some(scales) => scales,
            None => return unknown("the scales are computed at run time"),
        },
    };
    if scales.len() != axes.len() {
        return wrong(format!("{} scales are given for {} axes", scales.len(), axes.len()));
    }
    for (at, scale) in axes.iter().zip(scales.iter()) {
        // The engine multiplies in this type, and what rounds up to a whole number there is one.
        let size = floats::from_integer(&shape[*at], DType::F32);
        let scaled = size.and_then(|size| floats::binary("Mul", &size, scale, DType::F32));
        match scaled.and_then(|scaled| floats::to_integer(&scaled, DType::I64)) {
            Some(size) => shape[*at] = size,
            None => return unknown(format!("axis {at}, {}, is scaled by {scale}; bind its dims", shape[*at])),
        }
    }
    Ok(vec![Out::new(from.dtype, shape)])
}

/// All axes grow by one factor: the least that any axis asks for, or the greatest.
fn keep_aspect_ratio(
    node: &Node,
    from: &Value,
    axes: &[usize],
    sizes: &[Expr],
    least: bool,
) -> Result<Vec<Out>, Problem> {
    let number = |e: &Expr| e.as_constant().map(|n| n as f32);
    let pairs = axes.iter().zip(sizes).map(|(at, size)| Some((number(&from.shape[*at])?, number(size)?)));
    let Some(pairs) = pairs.collect::<Option<Vec<(f32, f32)>>>() else {
        return unknown("its sizes keep the aspect ratio and depend on dims");
    };
    let factors = pairs.iter().map(|(has, wants)| wants / has);
    let factor = if least { factors.fold(f32::INFINITY, f32::min) } else { factors.fold(0.0, f32::max) };
    let mut shape = from.shape.clone();
    for (at, (has, _)) in axes.iter().zip(&pairs) {
        // Halves round up.
        shape[*at] = Expr::constant((has * factor).round() as i128);
    }
    node.note("its sizes keep the aspect ratio".to_owned());
    Ok(vec![Out::new(from.dtype, shape)])
}

fn compress(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    match node.attribute("axis") {
        Some(Attribute::Int(at)) => {
            let at = axis(*at, rank)?;
            let mut shape = from.shape.clone();
            shape[at] = node.fresh(0, at, from.shape[at].clone());
            Ok(vec![Out::new(from.dtype, shape)])
        }
        _ => Ok(vec![Out::new(from.dtype, [node.fresh(0, 0, count(&from.shape))])]),
    }
}

fn non_zero(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.shape(0)?;
    let rank = Expr::constant(from.len() as u64);
    if let Some(places) = non_zero_places(node) {
        let found = Expr::constant(places.len() as u64);
        let known = (0..from.len()).flat_map(|axis| places.iter().map(move |place| Expr::constant(place[axis] as u64)));
        return Ok(vec![Out::new(DType::I64, [rank, found]).known(Some(known.collect()))]);
    }
    let found = node.fresh(0, 1, count(from));
    Ok(vec![Out::new(DType::I64, [rank, found])])
}

/// Where a tensor of known elements is not zero.
fn non_zero_places(node: &Node) -> Option<Vec<Vec<usize>>> {
    let (known, sizes) = (node.known(0)?, constant_shape(node.shape(0).ok()?)?);
    let mut places = Vec::new();
    for (flat, element) in known.iter().enumerate() {
        let zero = match element.as_constant() {
            Some(number) => number == 0,
            None if element.is_positive() => false,
            None => return None,
        };
        if !zero {
            let mut place = vec![0; sizes.len()];
            let mut rest = flat;
            for (at, size) in place.iter_mut().zip(&sizes).rev() {
                *at = rest % size;
                rest /= size;
            }
            places.push(place);
        }
    }
    Some(places)
}

fn unique(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let total = count(&from.shape);
    let (along, whole) = match node.attribute("axis") {
        Some(Attribute::Int(at)) => {
            let at = axis(*at, from.shape.len())?;
            (Some(at), from.shape[at].clone())
        }
        _ => (None, total),
    };
    let found = node.fresh(0, along.unwrap_or(0), whole.clone());
    let shape = match along {
        Some(at) => {
            let mut shape = from.shape.clone();
            shape[at] = found.clone();
            shape
        }
        None => vec![found.clone()],
    };
    let index = |size: &Expr| Out::new(DType::I64, [size.clone()]);
    Ok(vec![Out::new(from.dtype, shape), index(&found), index(&whole), index(&found)])
}

fn one_hot(node: &Node) -> Result<Vec<Out>, Problem> {
    let (indices, values) = (node.input(0)?, node.input(2)?);
    let depth = match (node.known(1), node.numbers_of(1).as_deref()) {
        (Some([depth]), _) => depth.clone(),
        (None, Some([depth])) => Expr::constant(*depth as i128),
        (None, None) => return unknown("the depth is computed at run time"),
        _ => return wrong("the depth is not one number"),
    };
    let at = axis(node.int("axis", -1), indices.shape.len() + 1)?;
    let mut shape = indices.shape.clone();
    shape.insert(at, depth);
    Ok(vec![Out::new(values.dtype, shape)])
}

pub(super) fn grid_sample(node: &Node) -> Result<Vec<Out>, Problem> {
    let (from, grid) = (node.shape(0)?, node.shape(1)?);
    if from.len() < 3 || grid.len() != from.len() {
        return wrong(format!("{} and {} do not fit", show(from), show(grid)));
    }
    let shape = [&from[..2], &grid[1..grid.len() - 1]].concat();
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn affine_grid(node: &Node) -> Result<Vec<Out>, Problem> {
    let size = node.elements(1, "the size")?;
    if size.len() < 4 {
        return wrong("its size has fewer than four numbers");
    }
    let mut shape = vec![size[0].clone()];
    shape.extend_from_slice(&size[2..]);
    shape.push(Expr::constant(size.len() as u64 - 2));
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn col2im(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.shape_of_rank(0, 3)?;
    let image = node.elements(1, "the image's shape")?;
    let block = node.elements(2, "the block's shape")?;
    let mut shape = vec![from[0].clone(), from[1].floor_div(&count(block))];
    shape.extend_from_slice(image);
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn expand_dims(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let [at] = node.integers(1, "the axis")?[..] else { return wrong("the axis is not one number") };
    let at = axis(at, from.shape.len() + 1)?;
    let mut shape = from.shape.clone();
    shape.insert(at, Expr::constant(1));
    Ok(vec![Out::new(from.dtype, shape)])
}

fn unfold(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let at = axis(node.int("dim", -1), from.shape.len())?;
    let (size, step) = (node.int("size", 1), node.int("step", 1));
    if size < 1 || step < 1 {
        return wrong(format!("its size is {size} and its step {step}"));
    }
    let size = Expr::constant(size);
    let mut shape = from.shape.clone();
    shape[at] = (&shape[at] - &size).floor_div(&Expr::constant(step)) + Expr::constant(1);
    shape.push(size);
    Ok(vec![Out::new(from.dtype, shape)])
}

fn distances(node: &Node) -> Result<Vec<Out>, Problem> {
    let (a, b) = (node.shape_of_rank(0, 2)?, node.shape_of_rank(1, 2)?);
    Ok(vec![Out::new(node.dtype(0)?, [a[0].clone(), b[0].clone()])])
}
