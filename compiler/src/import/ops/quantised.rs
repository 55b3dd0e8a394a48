//! Quantisation, and operators on quantised values.

use super::matmul::{
    conv_flops, conv_shape, conv_sizes, gemm_flops, global_shape, last_channels, matmul_shape, matrix, pool_flops,
    pool_sizes, product_flops,
};
use super::*;

const PER: Flops = Flops::PerOutput(2);

pub(super) const ROWS: &[Row] = &[
    row("QuantizeLinear", (2, 3), (1, 1), PER, quantize),
    row("DequantizeLinear", (2, 3), (1, 1), PER, dequantize),
    row("DynamicQuantizeLinear", (1, 1), (3, 3), Flops::PerInput(4), dynamic),
    row("QLinearMatMul", (8, 8), (1, 1), Flops::Rule(super::matmul::product_flops), qlinear_matmul),
    row("QLinearConv", (8, 9), (1, 1), Flops::Rule(conv_flops), qlinear_conv),
    row("QuantizeLinear", (2, 3), (1, 1), PER, quantize).microsoft(),
    row("DequantizeLinear", (2, 3), (1, 1), PER, dequantize).microsoft(),
    row("QLinearAdd", (7, 8), (1, 1), PER, qlinear_binary).microsoft(),
    row("QLinearMul", (7, 8), (1, 1), PER, qlinear_binary).microsoft(),
    row("QLinearSigmoid", (4, 5), (1, 1), PER, as_first).microsoft(),
    row("QLinearLeakyRelu", (4, 5), (1, 1), PER, as_first).microsoft(),
    row("QLinearSoftmax", (5, 5), (1, 1), PER, as_first).microsoft(),
    row("QLinearWhere", (9, 9), (1, 1), PER, qlinear_where).microsoft(),
    row("QAttention", (5, 9), (1, 2), PER, qattention).microsoft(),
    row("QGemm", (6, 9), (1, 1), Flops::Rule(gemm_flops), qgemm).microsoft(),
    row("GatherBlockQuantized", (3, 4), (1, 1), PER, gather_blocks).rows_of(0).microsoft(),
    row("QLinearConv", (8, 9), (1, 1), Flops::Rule(conv_flops), qlinear_conv).microsoft(),
    row("QLinearReduceMean", (4, 5), (1, 1), Flops::PerInput(1), qlinear_mean).microsoft(),
    row("QEmbedLayerNormalization", (18, 18), (2, 2), PER, qembed).microsoft(),
    row("QuantizeWithOrder", (2, 2), (1, 1), PER, with_order).microsoft(),
    row("DequantizeWithOrder", (2, 2), (1, 1), PER, with_order).microsoft(),
    row("QOrderedGelu", (3, 3), (1, 1), PER, as_first).microsoft(),
    row("QOrderedLayerNormalization", (5, 5), (1, 1), PER, as_first).microsoft(),
    row("QOrderedMatMul", (5, 8), (1, 1), Flops::Rule(product_flops), qordered_matmul).microsoft(),
    row("QOrderedAttention", (17, 20), (1, 1), PER, qordered_attention).microsoft(),
    row("QOrderedLongformerAttention", (14, 14), (1, 1), PER, as_first).microsoft(),
    row("QLinearConcat", (3, MANY), (1, 1), PER, qlinear_concat).microsoft(),
    row("QLinearAveragePool", (4, 5), (1, 1), Flops::Rule(pool_flops), qlinear_pool).microsoft(),
    row("QLinearGlobalAveragePool", (4, 5), (1, 1), Flops::PerInput(1), qlinear_global).microsoft(),
    row("MatMulIntegerToFloat", (4, 7), (1, 1), Flops::Rule(super::matmul::product_flops), matmul_to_float).microsoft(),
    row("DynamicQuantizeMatMul", (3, 5), (1, 1), Flops::Rule(super::matmul::product_flops), matmul_to_float)
        .microsoft(),
];

fn quantize(node: &Node) -> Result<Vec<Out>, Problem> {
    let to = match node.given(2) {
        Some(zero) => zero.dtype,
        None => node.type_attribute("output_dtype", DType::U8)?,
    };
    Ok(vec![Out::new(to, node.shape(0)?)])
}

fn dequantize(node: &Node) -> Result<Vec<Out>, Problem> {
    let to = node.type_attribute("output_dtype", node.dtype(1)?)?;
    Ok(vec![Out::new(to, node.shape(0)?)])
}

fn dynamic(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(DType::U8, node.shape(0)?), Out::new(DType::F32, []), Out::new(DType::U8, [])])
}

fn qlinear_matmul(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(7)?, matmul_shape(node, node.shape(0)?, node.shape(3)?)?)])
}

fn channels_last(node: &Node) -> bool {
    node.int("channels_last", 0) != 0
}

fn qlinear_conv(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = if channels_last(node) {
        last_channels(node.shape(0)?, |x| conv_sizes(node, x, node.shape(3)?))?
    } else {
        conv_shape(node, 0, 3)?
    };
    Ok(vec![Out::new(node.dtype(7)?, shape)])
}

fn qlinear_binary(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(0)?, node.broadcast(&[0, 3])?)])
}

fn qlinear_concat(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = node.input(2)?;
    let at = axis(node.int("axis", 0), first.shape.len())?;
    let mut shape = first.shape.clone();
    for index in (5..node.inputs.len()).step_by(3) {
        let next = node.shape_of_rank(index, shape.len())?;
        shape[at] = &shape[at] + &next[at];
    }
    Ok(vec![Out::new(first.dtype, shape)])
}

fn qlinear_pool(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.shape(0)?;
    let shape = if channels_last(node) { last_channels(x, |x| pool_sizes(node, x))? } else { pool_sizes(node, x)? };
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn qlinear_global(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.shape(0)?;
    let shape = if channels_last(node) { last_channels(x, global_shape)? } else { global_shape(x)? };
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn matmul_to_float(node: &Node) -> Result<Vec<Out>, Problem> {
    // The scale of the first operand, or of the second, has the result's type.
    Ok(vec![Out::new(node.dtype(2)?, matmul_shape(node, node.shape(0)?, node.shape(1)?)?)])
}

fn qgemm(node: &Node) -> Result<Vec<Out>, Problem> {
    let (m, k) = matrix(node, 0, "transA")?;
    let (depth, n) = matrix(node, 3, "transB")?;
    node.same(k, depth, || "the operands do not multiply".to_owned())?;
    // Without a scale for the result it stays a float.
    let to = match node.given(8) {
        Some(zero) => zero.dtype,
        None => DType::F32,
    };
    Ok(vec![Out::new(to, [m.clone(), n.clone()])])
}

fn gather_blocks(node: &Node) -> Result<Vec<Out>, Problem> {
    let (from, at) = (node.input(0)?, node.shape(1)?);
    let along = axis(node.int("gather_axis", 0), from.shape.len())?;
    let mut shape = from.shape.clone();
    // Bytes hold several elements along the last axis.
    if from.dtype == DType::U8
        && let Some(last) = shape.last_mut()
    {
        let bits = node.int("bits", 4).clamp(1, 8);
        *last = &*last * Expr::constant(8 / bits);
    }
    let shape = [&shape[..along], at, &shape[along + 1..]].concat();
    Ok(vec![Out::new(node.dtype(2)?, shape)])
}

fn qlinear_mean(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    // Beside the axes in an attribute the second operand is no list of axes.
    let mut gone = vec![node.ints("axes").is_none_or(<[i64]>::is_empty); from.shape.len()];
    for at in node.ints("axes").unwrap_or_default() {
        gone[axis(*at, from.shape.len())?] = true;
    }
    Ok(vec![Out::new(from.dtype, super::reduction::reduced(node, &from.shape, &gone))])
}

fn qembed(node: &Node) -> Result<Vec<Out>, Problem> {
    let (ids, table) = (node.shape_of_rank(0, 2)?, node.shape_of_rank(2, 2)?);
    let main = Out::new(node.dtype(8)?, [ids[0].clone(), ids[1].clone(), table[1].clone()]);
    Ok(vec![main, Out::new(DType::I32, [ids[0].clone()])])
}

fn with_order(node: &Node) -> Result<Vec<Out>, Problem> {
    let to = node.type_attribute("to", DType::I8)?;
    Ok(vec![Out::new(to, node.shape(0)?)])
}

/// Orders of columns and of tiles hold the second factor turned.
fn qordered_matmul(node: &Node) -> Result<Vec<Out>, Problem> {
    let (a, b) = (node.shape(0)?, node.shape_of_rank(2, 2)?);
    let columns = if node.int("order_B", 0) == 1 { &b[1] } else { &b[0] };
    let Some((_, outer)) = a.split_last() else { return wrong("its first operand is a scalar") };
    Ok(vec![Out::new(node.dtype(0)?, [outer, std::slice::from_ref(columns)].concat())])
}

fn qordered_attention(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(7, 2)?);
    Ok(vec![Out::new(node.dtype(0)?, [x[0].clone(), x[1].clone(), w[1].clone()])])
}

fn qlinear_where(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(1)?, node.broadcast(&[0, 1, 4])?)])
}

fn qattention(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(1, 2)?);
    let heads = Expr::constant(node.int("num_heads", 1).max(1));
    let hidden = w[1].floor_div(&Expr::constant(3));
    let past = match node.given(8) {
        Some(_) => node.shape_of_rank(8, 5)?[3].clone(),
        None => Expr::constant(0),
    };
    let dtype = node.dtype(3)?;
    let size = hidden.floor_div(&heads);
    let present = [Expr::constant(2), x[0].clone(), heads, past + &x[1], size];
    Ok(vec![Out::new(dtype, [x[0].clone(), x[1].clone(), hidden]), Out::new(dtype, present)])
}
