//! Matrix products, convolutions, pooling.

use super::*;

const PRODUCT: Flops = Flops::Rule(product_flops);
const CONV: Flops = Flops::Rule(conv_flops);
const POOL: Flops = Flops::Rule(pool_flops);

pub(super) const ROWS: &[Row] = &[
    row("MatMul", (2, 2), (1, 1), PRODUCT, matmul),
    row("MatMulInteger", (2, 4), (1, 1), PRODUCT, matmul_integer),
    row("Gemm", (2, 3), (1, 1), Flops::Rule(gemm_flops), gemm),
    row("Einsum", (1, MANY), (1, 1), Flops::Rule(einsum_flops), einsum),
    row("Conv", (2, 3), (1, 1), CONV, conv),
    row("ConvInteger", (2, 4), (1, 1), CONV, conv_integer),
    row("ConvTranspose", (2, 3), (1, 1), Flops::Rule(conv_transpose_flops), conv_transpose),
    row("DeformConv", (3, 5), (1, 1), CONV, conv),
    row("MaxPool", (1, 1), (1, 2), POOL, pool),
    row("AveragePool", (1, 1), (1, 1), POOL, pool),
    row("LpPool", (1, 1), (1, 1), POOL, pool),
    row("GlobalAveragePool", (1, 1), (1, 1), Flops::PerInput(1), global_pool),
    row("GlobalMaxPool", (1, 1), (1, 1), Flops::PerInput(1), global_pool),
    row("GlobalLpPool", (1, 1), (1, 1), Flops::PerInput(1), global_pool),
    row("MaxRoiPool", (2, 2), (1, 1), Flops::PerOutput(8), max_roi_pool),
    row("RoiAlign", (3, 3), (1, 1), Flops::PerOutput(8), roi_align),
    row("MaxUnpool", (2, 3), (1, 1), Flops::None, max_unpool),
    row("FusedMatMul", (2, 2), (1, 1), PRODUCT, matmul).microsoft(),
    row("FusedGemm", (2, 3), (1, 1), Flops::Rule(gemm_flops), gemm).microsoft(),
    row("FusedConv", (2, 4), (1, 1), CONV, conv).microsoft(),
    row("TransposeMatMul", (2, 2), (1, 1), PRODUCT, matmul).microsoft(),
    row("GemmFastGelu", (2, 3), (1, 1), PRODUCT, matmul).microsoft(),
    row("NhwcMaxPool", (1, 1), (1, 1), POOL, pool_channels_last).microsoft(),
    row("MatMulNBitsMlp", (8, 9), (1, 2), Flops::Rule(nbits_several_flops), nbits_mlp).microsoft(),
    row("MatMulNBitsQkv", (11, 12), (3, 4), Flops::Rule(nbits_several_flops), nbits_qkv).microsoft(),
    row("MatMulBlockQuantizedFp4Weight", (4, 6), (1, 1), PRODUCT, block_quantised).microsoft(),
    row("MatMulBlockQuantizedFp8Weight", (3, 5), (1, 1), PRODUCT, block_quantised).microsoft(),
    row("MatMulFpQ4", (3, 3), (1, 1), PRODUCT, matmul_of_blob).microsoft(),
    row("MatMulBnb4", (3, 3), (1, 1), Flops::Rule(nbits_flops), nbits).microsoft(),
    row("MatMulNBits", (3, 6), (1, 1), Flops::Rule(nbits_flops), nbits).microsoft(),
];

/// Types must be equal, shapes multiply.
pub(super) fn matmul(node: &Node) -> Result<Vec<Out>, Problem> {
    let (a, b) = (node.input(0)?, node.input(1)?);
    if a.dtype != b.dtype {
        return wrong(format!(
            "`{}` is {:?} and `{}` is {:?}; the types must be equal",
            a.name, a.dtype, b.name, b.dtype
        ));
    }
    Ok(vec![Out::new(a.dtype, matmul_shape(node, &turned(node, a, "A"), &turned(node, b, "B"))?)])
}

/// The shape of a factor as it is multiplied, where attributes of the contrib forms turn it.
fn turned(node: &Node, value: &Value, which: &str) -> Vec<Expr> {
    let mut shape = value.shape.clone();
    let rank = shape.len();
    if rank > 2 && node.int(&format!("transBatch{which}"), 0) != 0 {
        // The first axis stands where rows do.
        shape[..rank - 1].rotate_left(1);
    }
    if rank >= 2 && node.int(&format!("trans{which}"), 0) != 0 {
        shape.swap(rank - 2, rank - 1);
    }
    shape
}

pub(super) fn matmul_shape(node: &Node, a: &[Expr], b: &[Expr]) -> Result<Vec<Expr>, Problem> {
    let who = || format!("{} and {}", show(a), show(b));
    let (Some((inner, rows)), Some(_)) = (a.split_last(), b.last()) else {
        return wrong(format!("a scalar has no matrix product: {}", who()));
    };
    let (outer, columns): (&[Expr], &[Expr]) = match b.len() {
        1 => (&[], &[]),
        n => (&b[..n - 2], &b[n - 1..]),
    };
    let depth = if b.len() == 1 { &b[0] } else { &b[b.len() - 2] };
    node.same(inner, depth, || format!("the operands {} do not multiply", who()))?;
    let (batch, rows): (&[Expr], &[Expr]) = match rows.split_last() {
        Some((_, batch)) => (batch, &rows[rows.len() - 1..]),
        None => (&[], &[]),
    };
    let mut shape = node.broadcast_shapes(batch, outer, who)?;
    shape.extend_from_slice(rows);
    shape.extend_from_slice(columns);
    Ok(shape)
}

pub(super) fn matmul_integer(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(DType::I32, matmul_shape(node, node.shape(0)?, node.shape(1)?)?)])
}

fn result(outs: &[Out]) -> Expr {
    outs.first().map_or(Expr::default(), |out| count(&out.shape))
}

pub(super) fn product_flops(node: &Node, outs: &[Out]) -> Expr {
    let inner = node.given(0).and_then(|a| turned(node, a, "A").pop());
    result(outs) * inner.unwrap_or_default() * Expr::constant(2)
}

/// Rows and columns of a matrix, turned where the attribute says so.
pub(super) fn matrix<'a>(node: &Node<'a>, index: usize, turn: &str) -> Result<(&'a Expr, &'a Expr), Problem> {
    let shape = node.shape_of_rank(index, 2)?;
    Ok(if node.int(turn, 0) != 0 { (&shape[1], &shape[0]) } else { (&shape[0], &shape[1]) })
}

fn gemm(node: &Node) -> Result<Vec<Out>, Problem> {
    let ((m, k), (depth, n)) = (matrix(node, 0, "transA")?, matrix(node, 1, "transB")?);
    let shapes =
        || format!("{} and {}", show(node.shape(0).unwrap_or_default()), show(node.shape(1).unwrap_or_default()));
    node.same(k, depth, || format!("the operands {} do not multiply", shapes()))?;
    let shape = vec![m.clone(), n.clone()];
    if let Some(c) = node.given(2) {
        let to = node
            .broadcast_shapes(&shape, &c.shape, || format!("`{}` {} and {}", c.name, show(&c.shape), show(&shape)))?;
        if to != shape {
            return wrong(format!("`{}` {} is larger than the product {}", c.name, show(&c.shape), show(&shape)));
        }
    }
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

pub(super) fn gemm_flops(node: &Node, outs: &[Out]) -> Expr {
    let k = matrix(node, 0, "transA").map(|(_, k)| k.clone()).unwrap_or_default();
    result(outs) * k * Expr::constant(2)
}

/// An equation read against its operands.
struct Equation {
    sizes: Vec<(char, Expr)>,
    /// What the ellipsis stands for.
    rest: Vec<Expr>,
    shape: Vec<Expr>,
}

fn equation(node: &Node) -> Result<Equation, Problem> {
    let text: String = node.text("equation").chars().filter(|c| !c.is_whitespace()).collect();
    // One character for the ellipsis keeps the rest simple.
    let text = text.replace("...", "\u{2026}");
    let (left, right) = match text.split_once("->") {
        Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
        None => (text.clone(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != node.inputs.len() {
        return wrong(format!("`{text}` has {} terms for {} operands", terms.len(), node.inputs.len()));
    }
    let mut sizes: Vec<(char, Expr)> = Vec::new();
    let mut rest: Option<Vec<Expr>> = None;
    for (index, term) in terms.iter().enumerate() {
        let value = node.input(index)?;
        let letters = term.chars().filter(|c| *c != ELLIPSIS).count();
        let Some(free) = value.shape.len().checked_sub(letters) else {
            return wrong(format!("`{term}` does not fit `{}` {}", value.name, show(&value.shape)));
        };
        if free > 0 && !term.contains(ELLIPSIS) {
            return wrong(format!("`{term}` does not fit `{}` {}", value.name, show(&value.shape)));
        }
        let mut at = 0;
        for letter in term.chars() {
            if letter == ELLIPSIS {
                let Some(part) = value.shape.get(at..at + free) else {
                    return wrong(format!("`{term}` has two ellipses"));
                };
                rest = Some(match rest {
                    // The engine wants as many axes in each, and broadcasts them.
                    Some(rest) if rest.len() != part.len() => {
                        return wrong(format!(
                            "the ellipses of `{text}` stand for {} and {} axes",
                            rest.len(),
                            part.len()
                        ));
                    }
                    Some(rest) => node.broadcast_shapes(&rest, part, || format!("the ellipses of `{text}`"))?,
                    None => part.to_vec(),
                });
                at += free;
                continue;
            }
            let Some(size) = value.shape.get(at) else { return wrong(format!("`{term}` has two ellipses")) };
            at += 1;
            match sizes.iter_mut().find(|(l, _)| *l == letter) {
                Some((_, known)) if *known == Expr::constant(1) => *known = size.clone(),
                Some(_) if *size == Expr::constant(1) => {}
                Some((_, known)) => {
                    *known = node.same(known, size, || format!("`{letter}` of `{text}` has two sizes"))?
                }
                None => sizes.push((letter, size.clone())),
            }
        }
    }
    let rest = rest.unwrap_or_default();
    let out: Vec<char> = match right {
        Some(right) => right.chars().collect(),
        None => {
            let mut once: Vec<char> = sizes.iter().map(|(l, _)| *l).filter(|l| left.matches(*l).count() == 1).collect();
            once.sort_unstable();
            if left.contains(ELLIPSIS) {
                once.insert(0, ELLIPSIS);
            }
            once
        }
    };
    let mut shape = Vec::new();
    for letter in out {
        match sizes.iter().find(|(l, _)| *l == letter) {
            Some((_, size)) => shape.push(size.clone()),
            None if letter == ELLIPSIS => shape.extend_from_slice(&rest),
            None => return wrong(format!("`{letter}` stands only in the result")),
        }
    }
    Ok(Equation { sizes, rest, shape })
}

const ELLIPSIS: char = '\u{2026}';

fn einsum(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(0)?, equation(node)?.shape)])
}

fn einsum_flops(node: &Node, _: &[Out]) -> Expr {
    let Ok(equation) = equation(node) else { return Expr::default() };
    equation.sizes.iter().fold(count(&equation.rest) * Expr::constant(2), |all, (_, size)| all * size)
}

/// The window of a convolution or pool along each spatial axis.
struct Window {
    kernel: Vec<Expr>,
    strides: Vec<i64>,
    dilations: Vec<i64>,
    pads: Vec<i64>,
}

impl Window {
    fn new(node: &Node, axes: usize, kernel: Vec<Expr>) -> Result<Window, Problem> {
        let list = |name: &str, length: usize, default: i64| match node.ints(name) {
            Some(values) if values.len() != length => {
                wrong(format!("the attribute `{name}` has {} numbers, {length} are needed", values.len()))
            }
            Some(values) => Ok(values.to_vec()),
            None => Ok(vec![default; length]),
        };
        if kernel.len() != axes {
            return wrong(format!("the kernel has {} axes, {axes} are needed", kernel.len()));
        }
        let strides = list("strides", axes, 1)?;
        let dilations = list("dilations", axes, 1)?;
        if strides.iter().chain(&dilations).any(|n| *n < 1) {
            return wrong("a stride or dilation is less than one");
        }
        Ok(Window { kernel, strides, dilations, pads: list("pads", 2 * axes, 0)? })
    }

    /// Positions of the window along an axis.
    fn slide(&self, node: &Node, axis: usize, size: &Expr, ceil: bool) -> Result<Expr, Problem> {
        let one = Expr::constant(1);
        let stride = Expr::constant(self.strides[axis]);
        let reach = Expr::constant(self.dilations[axis]) * (&self.kernel[axis] - &one) + &one;
        let (before, after) = match node.text("auto_pad") {
            "SAME_UPPER" | "SAME_LOWER" if self.dilations[axis] == 1 || !node.kind.ends_with("Pool") => {
                return Ok(size.ceil_div(&stride));
            }
            "SAME_UPPER" | "SAME_LOWER" => {
                // In pools the engine pads for a window without gaps; convolutions with them it refuses.
                let padded = (size.ceil_div(&stride) - &one) * &stride + &self.kernel[axis];
                (Expr::constant(0), padded - size)
            }
            // No pads, and `ceil` counts all the same: so the engine does, whatever the text of the specification says.
            "VALID" => (Expr::constant(0), Expr::constant(0)),
            _ => (Expr::constant(self.pads[axis]), Expr::constant(self.pads[axis + self.kernel.len()])),
        };
        let span = size + &before + after - reach;
        if !ceil {
            // Of a window that is larger than what it slides over the engine rounds toward zero.
            let steps = match span.as_constant().filter(|span| *span < 0) {
                Some(span) => Expr::constant(span / i128::from(self.strides[axis])),
                None => span.floor_div(&stride),
            };
            return Ok(steps + one);
        }
        // A last window that would start in the padding after the end does not count.
        let positions = span.ceil_div(&stride) + &one;
        let inside = (size + before - &one).floor_div(&stride) + one;
        Ok(positions.min(&inside))
    }
}

fn conv(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(0)?, conv_shape(node, 0, 1)?)])
}

fn conv_integer(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(DType::I32, conv_shape(node, 0, 1)?)])
}

/// A shape whose channels come last, with channels second.
fn channels_second(shape: &[Expr]) -> Vec<Expr> {
    let mut shape = shape.to_vec();
    if let Some(rest) = shape.get_mut(1..).filter(|rest| !rest.is_empty()) {
        rest.rotate_right(1);
    }
    shape
}

/// The shape by a rule for channels that come second, of data whose channels come last.
pub(super) fn last_channels(
    x: &[Expr],
    rule: impl FnOnce(&[Expr]) -> Result<Vec<Expr>, Problem>,
) -> Result<Vec<Expr>, Problem> {
    let mut shape = rule(&channels_second(x))?;
    if let Some(rest) = shape.get_mut(1..).filter(|rest| !rest.is_empty()) {
        rest.rotate_left(1);
    }
    Ok(shape)
}

pub(super) fn conv_channels_last(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = last_channels(node.shape(0)?, |x| conv_sizes(node, x, node.shape(1)?))?;
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

pub(super) fn conv_shape(node: &Node, data: usize, weight: usize) -> Result<Vec<Expr>, Problem> {
    conv_sizes(node, node.shape(data)?, node.shape(weight)?)
}

pub(super) fn conv_sizes(node: &Node, x: &[Expr], w: &[Expr]) -> Result<Vec<Expr>, Problem> {
    if x.len() < 3 || w.len() != x.len() {
        return wrong(format!("the operands {} and {} do not fit", show(x), show(w)));
    }
    let groups = node.int("group", 1);
    if groups < 1 {
        return wrong(format!("the number of groups is {groups}"));
    }
    let channels = &w[1] * Expr::constant(groups);
    node.same(&x[1], &channels, || format!("the operands {} and {} differ in channels", show(x), show(w)))?;
    let window = Window::new(node, x.len() - 2, w[2..].to_vec())?;
    let mut shape = vec![x[0].clone(), w[0].clone()];
    for axis in 0..x.len() - 2 {
        shape.push(window.slide(node, axis, &x[axis + 2], false)?);
    }
    Ok(shape)
}

/// Each result is a sum over the weights of one output channel; the quantised form has its weights further back.
pub(super) fn conv_flops(node: &Node, outs: &[Out]) -> Expr {
    let weight = if node.kind == "QLinearConv" { 3 } else { 1 };
    let each = node.given(weight).map_or(Expr::default(), |w| count(w.shape.get(1..).unwrap_or_default()));
    result(outs) * each * Expr::constant(2)
}

fn conv_transpose(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.shape(0)?, node.shape(1)?);
    if x.len() < 3 || w.len() != x.len() {
        return wrong(format!("the operands {} and {} do not fit", show(x), show(w)));
    }
    node.same(&x[1], &w[0], || format!("the operands {} and {} differ in channels", show(x), show(w)))?;
    let axes = x.len() - 2;
    let window = Window::new(node, axes, w[2..].to_vec())?;
    let zeros = vec![0; axes];
    let extra = node.ints("output_padding").unwrap_or(&zeros);
    let fixed = node.ints("output_shape");
    if extra.len() != axes || fixed.is_some_and(|f| f.len() < axes) {
        return wrong("`output_padding` or `output_shape` has the wrong length");
    }
    let mut shape = vec![x[0].clone(), &w[1] * Expr::constant(node.int("group", 1))];
    let one = Expr::constant(1);
    for axis in 0..axes {
        let (size, stride) = (&x[axis + 2], Expr::constant(window.strides[axis]));
        if let Some(fixed) = fixed {
            shape.push(Expr::constant(fixed[fixed.len() - axes + axis]));
            continue;
        }
        let reach = Expr::constant(window.dilations[axis]) * (&window.kernel[axis] - &one) + &one;
        let whole = (size - &one) * &stride + Expr::constant(extra[axis]) + reach;
        shape.push(match node.text("auto_pad") {
            // Padding takes away and never adds.
            "SAME_UPPER" | "SAME_LOWER" => whole.min(&(size * &stride)),
            "VALID" => whole,
            _ => whole - Expr::constant(window.pads[axis]) - Expr::constant(window.pads[axis + axes]),
        });
    }
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn conv_transpose_flops(node: &Node, _: &[Out]) -> Expr {
    let each = node.given(1).map_or(Expr::default(), |w| count(w.shape.get(1..).unwrap_or_default()));
    node.given(0).map_or(Expr::default(), Value::elements) * each * Expr::constant(2)
}

pub(super) fn pool_shape(node: &Node) -> Result<Vec<Expr>, Problem> {
    pool_sizes(node, node.shape(0)?)
}

pub(super) fn pool_sizes(node: &Node, x: &[Expr]) -> Result<Vec<Expr>, Problem> {
    if x.len() < 3 {
        return wrong(format!("{} has no axis to pool", show(x)));
    }
    let Some(kernel) = node.ints("kernel_shape") else { return wrong("the attribute `kernel_shape` is missing") };
    let kernel = kernel.iter().map(|n| Expr::constant(*n)).collect();
    let window = Window::new(node, x.len() - 2, kernel)?;
    let ceil = node.int("ceil_mode", 0) != 0;
    let mut shape = x[..2].to_vec();
    for axis in 0..x.len() - 2 {
        shape.push(window.slide(node, axis, &x[axis + 2], ceil)?);
    }
    Ok(shape)
}

fn pool(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = pool_shape(node)?;
    Ok(vec![Out::new(node.dtype(0)?, shape.clone()), Out::new(DType::I64, shape)])
}

pub(super) fn pool_flops(node: &Node, outs: &[Out]) -> Expr {
    let kernel = node.ints("kernel_shape").unwrap_or_default();
    kernel.iter().fold(result(outs), |all, n| all * Expr::constant(*n))
}

pub(super) fn global_shape(x: &[Expr]) -> Result<Vec<Expr>, Problem> {
    if x.len() < 2 {
        return wrong(format!("{} has no axis to pool", show(x)));
    }
    let mut shape = x[..2].to_vec();
    shape.resize(x.len(), Expr::constant(1));
    Ok(shape)
}

fn global_pool(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(0)?, global_shape(node.shape(0)?)?)])
}

fn max_roi_pool(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, rois) = (node.shape_of_rank(0, 4)?, node.shape_of_rank(1, 2)?);
    let Some([height, width]) = node.ints("pooled_shape") else {
        return wrong("the attribute `pooled_shape` is missing");
    };
    let shape = [rois[0].clone(), x[1].clone(), Expr::constant(*height), Expr::constant(*width)];
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn roi_align(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, rois) = (node.shape_of_rank(0, 4)?, node.shape_of_rank(1, 2)?);
    let size = |name: &str| Expr::constant(node.int(name, 1));
    let shape = [rois[0].clone(), x[1].clone(), size("output_height"), size("output_width")];
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn max_unpool(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.shape(0)?;
    if node.given(2).is_some() {
        return Ok(vec![Out::new(node.dtype(0)?, node.elements(2, "the output's shape")?)]);
    }
    if x.len() < 3 {
        return wrong(format!("{} has no axis to unpool", show(x)));
    }
    let Some(kernel) = node.ints("kernel_shape") else { return wrong("the attribute `kernel_shape` is missing") };
    let axes = x.len() - 2;
    let window = Window::new(node, axes, kernel.iter().map(|n| Expr::constant(*n)).collect())?;
    let mut shape = x[..2].to_vec();
    for axis in 0..axes {
        let pads = Expr::constant(window.pads[axis]) + Expr::constant(window.pads[axis + axes]);
        let grown = (&x[axis + 2] - Expr::constant(1)) * Expr::constant(window.strides[axis]);
        shape.push(grown + &window.kernel[axis] - pads);
    }
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn nbits(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let (k, n) = (Expr::constant(node.int("K", 0)), Expr::constant(node.int("N", 0)));
    let Some((inner, outer)) = x.shape.split_last() else { return wrong("its first operand is a scalar") };
    node.same(inner, &k, || format!("`{}` {} does not fit K", x.name, show(&x.shape)))?;
    let mut shape = outer.to_vec();
    shape.push(n);
    Ok(vec![Out::new(x.dtype, shape)])
}

fn nbits_flops(node: &Node, outs: &[Out]) -> Expr {
    result(outs) * Expr::constant(node.int("K", 0)) * Expr::constant(2)
}

fn pool_channels_last(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = last_channels(node.shape(0)?, |x| pool_sizes(node, x))?;
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

/// One activation times several weights of `N` columns, side by side in results of their own.
fn nbits_mlp(node: &Node) -> Result<Vec<Out>, Problem> {
    let mut outs = nbits(node)?;
    outs.push(Out::new(node.dtype(0)?, node.shape(0)?));
    Ok(outs)
}

fn nbits_qkv(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let Some((_, outer)) = x.shape.split_last() else { return wrong("its first operand is a scalar") };
    let columns = |name: &str| Out::new(x.dtype, [outer, &[Expr::constant(node.int(name, 0))]].concat());
    Ok(vec![columns("Nq"), columns("Nkv"), columns("Nkv"), Out::new(x.dtype, x.shape.clone())])
}

fn nbits_several_flops(node: &Node, outs: &[Out]) -> Expr {
    let columns = match node.kind {
        "MatMulNBitsMlp" => 2 * i128::from(node.int("N", 0)),
        _ => i128::from(node.int("Nq", 0)) + 2 * i128::from(node.int("Nkv", 0)),
    };
    let rows = outs.first().map_or(Expr::default(), |out| count(&out.shape[..out.shape.len().saturating_sub(1)]));
    rows * Expr::constant(columns) * Expr::constant(node.int("K", 0)) * Expr::constant(2)
}

/// Weights lie as `[N, K]`.
fn block_quantised(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.input(0)?, node.shape_of_rank(1, 2)?);
    let Some((_, outer)) = x.shape.split_last() else { return wrong("its first operand is a scalar") };
    Ok(vec![Out::new(x.dtype, [outer, &w[..1]].concat())])
}

/// Weights are a blob, and their shape is an operand.
fn matmul_of_blob(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    Ok(vec![Out::new(x.dtype, matmul_shape(node, &x.shape, node.elements(2, "the shape of the weights")?)?)])
}
