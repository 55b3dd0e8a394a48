//! Operators that only ONNX Runtime's contrib domain has and that belong to no other family.

use super::matmul::{conv_flops, gemm_flops, matrix, product_flops};
use super::*;

const NONE: Flops = Flops::None;
const FEW: Flops = Flops::PerOutput(8);

pub(super) const ROWS: &[Row] = &[
    row("BifurcationDetector", (3, 4), (2, 2), NONE, bifurcation).microsoft(),
    row("BitmaskDropout", (1, 3), (1, 2), NONE, bitmask_dropout).microsoft(),
    row("BitmaskBiasDropout", (2, 5), (1, 2), NONE, bitmask_dropout).microsoft(),
    row("BranchwiseRMSNorm", (1, 2), (1, 1), FEW, as_first).microsoft(),
    row("CropAndResize", (4, 4), (1, 1), FEW, crop_and_resize).microsoft(),
    row("DynamicTimeWarping", (1, 1), (1, 1), Flops::PerInput(4), time_warping).microsoft(),
    row("EngramGate", (5, 6), (1, 2), Flops::PerInput(8), twice_first).microsoft(),
    row("FusedMatMulActivation", (2, 2), (1, 1), Flops::Rule(product_flops), super::matmul::matmul).microsoft(),
    row("GatedAdd", (3, 3), (1, 1), Flops::PerOutput(2), as_first).microsoft(),
    row("GatedRMSNorm", (3, 3), (1, 1), FEW, as_first).microsoft(),
    row("GatedRelativePositionBias", (6, 7), (1, 1), FEW, gated_bias).microsoft(),
    row("GatherND", (2, 2), (1, 1), NONE, super::movement::gather_nd).microsoft(),
    row("GemmFloat8", (2, 6), (1, 1), Flops::Rule(gemm_flops), gemm_float8).microsoft(),
    row("GemmaRotaryEmbedding", (5, 5), (2, 2), FEW, gemma_rotary).microsoft(),
    row("GridSample", (2, 2), (1, 1), FEW, super::movement::grid_sample).microsoft(),
    row("HyperConnectionPreMix", (2, 2), (1, 1), Flops::PerInput(2), pre_mix).microsoft(),
    row("HyperConnectionPostMix", (3, 4), (1, 1), FEW, as_first).microsoft(),
    row("Irfft", (1, 1), (1, 1), Flops::PerOutput(32), inverse_fourier).microsoft(),
    row("IsAllFinite", (1, MANY), (1, 1), Flops::PerInput(1), all_finite).microsoft(),
    row("LinearAttentionGate", (3, 4), (1, 2), FEW, attention_gate).microsoft(),
    row("MatMulInteger16", (2, 2), (1, 1), Flops::Rule(product_flops), super::matmul::matmul_integer).microsoft(),
    row("MaxpoolWithMask", (2, 2), (1, 1), Flops::Rule(super::matmul::pool_flops), masked_pool).microsoft(),
    row("MulInteger", (3, 4), (1, 1), Flops::PerOutput(1), mul_integer).microsoft(),
    row("MurmurHash3", (1, 1), (1, 1), FEW, hash).microsoft(),
    row("NGramRepeatBlock", (2, 2), (1, 1), Flops::PerInput(4), as_second).microsoft(),
    row("NhwcConv", (2, 3), (1, 1), Flops::Rule(conv_flops), super::matmul::conv_channels_last).microsoft(),
    row("NhwcFusedConv", (2, 4), (1, 1), Flops::Rule(conv_flops), super::matmul::conv_channels_last).microsoft(),
    row("Pad", (2, 3), (1, 1), NONE, super::movement::pad).microsoft(),
    row("Range", (2, 3), (1, 1), Flops::PerOutput(1), super::control::range).microsoft(),
    row("ReduceSumInteger", (1, 1), (1, 1), Flops::PerInput(1), sum_integers).microsoft(),
    row("RelativePositionBias", (3, 3), (1, 1), Flops::PerOutput(4), relative_bias).microsoft(),
    row("RemovePadding", (2, 2), (4, 4), NONE, remove_padding).microsoft(),
    row("RestorePadding", (2, 2), (1, 1), NONE, restore_padding).microsoft(),
    row("Rfft", (1, 1), (1, 1), Flops::PerOutput(32), fourier).microsoft(),
    row("ScaledSiLU", (1, 2), (1, 1), FEW, as_first).in_place().microsoft(),
    row("TorchEmbedding", (2, 4), (1, 1), NONE, embedding).rows_of(0).microsoft(),
    row("Unique", (1, 1), (3, 3), NONE, unique_of_list).microsoft(),
];

fn as_second(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(1)?, node.shape(1)?)])
}

fn twice_first(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = Out::new(node.dtype(0)?, node.shape(0)?);
    Ok(vec![first.clone(), first])
}

/// Tokens are replaced from a place that the data decide; all that were predicted may be kept.
fn bifurcation(node: &Node) -> Result<Vec<Out>, Problem> {
    let now = &node.shape_of_rank(1, 1)?[0];
    let longest = match node.given(3) {
        Some(_) => now + &node.shape_of_rank(3, 1)?[0],
        None => return Ok(vec![Out::new(DType::I64, [now.clone()]), Out::new(DType::I64, [])]),
    };
    Ok(vec![Out::new(DType::I64, [node.fresh(0, 0, longest)]), Out::new(DType::I64, [])])
}

/// One bit of the mask for each element, in words.
fn bitmask_dropout(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let words = x.elements().ceil_div(&Expr::constant(32));
    Ok(vec![Out::new(x.dtype, x.shape.clone()), Out::new(DType::U32, [words])])
}

fn crop_and_resize(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, boxes) = (node.shape_of_rank(0, 4)?, node.shape_of_rank(1, 2)?);
    let [height, width] = node.elements(3, "the size of the crops")? else {
        return wrong("the size of the crops is not two numbers");
    };
    Ok(vec![Out::new(node.dtype(0)?, [boxes[0].clone(), x[1].clone(), height.clone(), width.clone()])])
}

/// A path from one corner of a matrix to the other.
fn time_warping(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = node.shape(0)?;
    let [.., rows, columns] = shape else { return wrong(format!("{} is no matrix", show(shape))) };
    let path = node.fresh(0, 1, rows + columns - Expr::constant(1));
    Ok(vec![Out::new(DType::I32, [Expr::constant(2), path])])
}

fn gated_bias(node: &Node) -> Result<Vec<Out>, Problem> {
    // Packed queries have their lengths in the last operand.
    let lengths = if node.given(6).is_some() { node.shape_of_rank(6, 2)? } else { node.shape_of_rank(0, 3)? };
    let heads = Expr::constant(node.int("num_heads", 1).max(1));
    Ok(vec![Out::new(node.dtype(0)?, [lengths[0].clone(), heads, lengths[1].clone(), lengths[1].clone()])])
}

fn gemm_float8(node: &Node) -> Result<Vec<Out>, Problem> {
    let ((m, k), (depth, n)) = (matrix(node, 0, "transA")?, matrix(node, 1, "transB")?);
    node.same(k, depth, || "the operands do not multiply".to_owned())?;
    Ok(vec![Out::new(node.type_attribute("dtype", DType::F32)?, [m.clone(), n.clone()])])
}

fn gemma_rotary(node: &Node) -> Result<Vec<Out>, Problem> {
    let (q, k) = (node.input(1)?, node.input(3)?);
    Ok(vec![Out::new(q.dtype, q.shape.clone()), Out::new(k.dtype, k.shape.clone())])
}

/// Streams stand on an axis of their own, or side by side in the last one.
fn pre_mix(node: &Node) -> Result<Vec<Out>, Problem> {
    let mut shape = node.shape(0)?.to_vec();
    let Some(last) = shape.pop() else { return wrong("its operand is a scalar") };
    match node.int("num_branches", 0) {
        branches if branches > 0 => shape.push(last.floor_div(&Expr::constant(branches))),
        _ if shape.pop().is_some() => shape.push(last),
        _ => return wrong("its operand has no axis of branches"),
    }
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn fourier(node: &Node) -> Result<Vec<Out>, Problem> {
    let mut shape = node.shape(0)?.to_vec();
    let Some(last) = shape.last_mut() else { return wrong("its operand is a scalar") };
    *last = last.floor_div(&Expr::constant(2)) + Expr::constant(1);
    shape.push(Expr::constant(2));
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn inverse_fourier(node: &Node) -> Result<Vec<Out>, Problem> {
    let mut shape = node.shape(0)?.to_vec();
    shape.pop();
    let Some(last) = shape.last_mut() else { return wrong("its operand has no axis of numbers") };
    *last = (&*last - Expr::constant(1)) * Expr::constant(2);
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn all_finite(_: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(DType::Bool, [])])
}

fn attention_gate(node: &Node) -> Result<Vec<Out>, Problem> {
    twice_first(node)
}

fn masked_pool(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.dtype(0)?, super::matmul::pool_shape(node)?)])
}

fn mul_integer(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(DType::I32, node.broadcast(&[0, 2])?)])
}

fn hash(node: &Node) -> Result<Vec<Out>, Problem> {
    let to = if node.int("positive", 1) != 0 { DType::U32 } else { DType::I32 };
    Ok(vec![Out::new(to, node.shape(0)?)])
}

fn sum_integers(node: &Node) -> Result<Vec<Out>, Problem> {
    let mut outs = super::reduction::reduction(node)?;
    outs[0].dtype = if node.dtype(0)? == DType::U8 { DType::U32 } else { DType::I32 };
    Ok(outs)
}

fn relative_bias(node: &Node) -> Result<Vec<Out>, Problem> {
    let table = node.shape_of_rank(0, 2)?;
    let length = |i: usize, what: &str| match node.elements(i, what)? {
        [length] => Ok(length.clone()),
        _ => wrong(format!("{what} is not one number")),
    };
    let shape = [Expr::constant(1), table[1].clone(), length(1, "the query's length")?, length(2, "the key's length")?];
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}

fn remove_padding(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.shape_of_rank(0, 3)?;
    let (batch, seq, hidden) = (&x[0], &x[1], &x[2]);
    let tokens = node.fresh(0, 0, batch * seq);
    Ok(vec![
        Out::new(node.dtype(0)?, [tokens, hidden.clone()]),
        Out::new(DType::I32, [batch.clone(), seq.clone()]),
        Out::new(DType::I32, [batch + Expr::constant(1)]),
        Out::new(DType::I32, [Expr::constant(1)]),
    ])
}

fn restore_padding(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, places) = (node.shape_of_rank(0, 2)?, node.shape_of_rank(1, 2)?);
    Ok(vec![Out::new(node.dtype(0)?, [places[0].clone(), places[1].clone(), x[1].clone()])])
}

fn embedding(node: &Node) -> Result<Vec<Out>, Problem> {
    let (table, at) = (node.shape_of_rank(0, 2)?, node.shape(1)?);
    Ok(vec![Out::new(node.dtype(0)?, [at, &table[1..]].concat())])
}

fn unique_of_list(node: &Node) -> Result<Vec<Out>, Problem> {
    let whole = node.shape_of_rank(0, 1)?;
    let found = node.fresh(0, 0, whole[0].clone());
    let count = Out::new(DType::I64, [found.clone()]);
    Ok(vec![Out::new(node.dtype(0)?, [found]), Out::new(DType::I64, whole), count])
}
