//! Normalisation.

use super::*;

const NORM: Flops = Flops::PerInput(8);

pub(super) const ROWS: &[Row] = &[
    row("BatchNormalization", (5, 5), (1, 5), Flops::PerInput(2), batch),
    row("InstanceNormalization", (3, 3), (1, 1), NORM, as_first),
    row("GroupNormalization", (3, 3), (1, 1), NORM, as_first),
    row("LayerNormalization", (2, 3), (1, 3), NORM, layer),
    row("RMSNormalization", (2, 2), (1, 1), NORM, as_first),
    row("LpNormalization", (1, 1), (1, 1), NORM, as_first),
    row("MeanVarianceNormalization", (1, 1), (1, 1), NORM, as_first),
    row("LRN", (1, 1), (1, 1), Flops::PerInput(16), as_first),
    row("GroupNorm", (3, 3), (1, 1), NORM, as_first).microsoft(),
    row("SkipGroupNorm", (4, 5), (1, 2), NORM, skip_group).microsoft(),
    // Registered by ONNX Runtime in the standard domain.
    row("SimplifiedLayerNormalization", (2, 2), (1, 2), NORM, simplified),
    row("SimplifiedLayerNormalization", (2, 2), (1, 2), NORM, simplified).microsoft(),
    row("SkipLayerNormalization", (3, 5), (1, 4), NORM, skip).microsoft(),
    row("SkipSimplifiedLayerNormalization", (3, 4), (1, 4), NORM, skip).microsoft(),
    row("EmbedLayerNormalization", (7, 9), (2, 3), Flops::PerOutput(8), embed).microsoft(),
];

fn batch(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let channels = Out::new(node.dtype(3)?, node.shape(3)?);
    let main = Out::new(x.dtype, x.shape.clone());
    Ok(vec![main, channels.clone(), channels.clone(), channels.clone(), channels])
}

/// Shape of the statistics: the normalised axes have one element.
fn statistics(node: &Node) -> Result<Vec<Expr>, Problem> {
    let x = node.shape(0)?;
    let from = axis(node.int("axis", -1), x.len())?;
    let one = Expr::constant(1);
    Ok(x.iter().enumerate().map(|(at, size)| if at < from { size.clone() } else { one.clone() }).collect())
}

fn layer(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let shape = statistics(node)?;
    let statistic = Out::new(node.type_attribute("stash_type", DType::F32)?, shape);
    Ok(vec![Out::new(x.dtype, x.shape.clone()), statistic.clone(), statistic])
}

fn simplified(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    // The result has the scale's type, which may be narrower than the input's.
    let statistic = Out::new(node.type_attribute("stash_type", DType::F32)?, statistics(node)?);
    Ok(vec![Out::new(node.dtype(1)?, x.shape.clone()), statistic])
}

fn skip(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let statistic = Out::new(DType::F32, statistics(node)?);
    let main = Out::new(x.dtype, x.shape.clone());
    Ok(vec![main.clone(), statistic.clone(), statistic, main])
}

fn embed(node: &Node) -> Result<Vec<Out>, Problem> {
    let (ids, table) = (node.shape_of_rank(0, 2)?, node.shape_of_rank(2, 2)?);
    let dtype = node.dtype(2)?;
    let main = Out::new(dtype, [ids[0].clone(), ids[1].clone(), table[1].clone()]);
    Ok(vec![main.clone(), Out::new(DType::I32, [ids[0].clone()]), main])
}

fn skip_group(node: &Node) -> Result<Vec<Out>, Problem> {
    let x = node.input(0)?;
    let main = Out::new(x.dtype, x.shape.clone());
    Ok(vec![main.clone(), main])
}
