//! The other side's rules, and the few that it lacks and real exports need.
//!
//! Without these its knowledge ends early in a decoder: the size of a mask goes through Reshape, Equal and Where, and
//! what follows from a size that is not known is not compared. Sizes are numbers here, so contents are plain integers.

use onnx_runtime_ir::DataType;
use onnx_runtime_shape_inference::{DimExpr, InferenceContext, InferenceRegistry, ShapeData, ShapeInferError};
use std::sync::OnceLock;

/// Operators through which it loses contents, and the versions at which it has a rule of its own.
const CONTENTS: &[(&str, u64)] = &[
    ("And", 1),
    ("Div", 1),
    ("Equal", 1),
    ("Mod", 10),
    ("Not", 1),
    ("Reshape", 1),
    ("Squeeze", 1),
    ("Squeeze", 13),
    ("Where", 1),
];

/// Its own rules, those below in place of or beside them.
pub fn registry() -> InferenceRegistry {
    let mut registry = InferenceRegistry::default_registry();
    for (op, since) in CONTENTS {
        registry.register("", op, *since, with_contents);
    }
    registry.register("", "MatMulInteger", 10, matmul_integer);
    registry
}

/// Its own rule for the shape, then the contents where those of the inputs are known.
fn with_contents(ctx: &mut InferenceContext) -> Result<(), ShapeInferError> {
    static OWN: OnceLock<InferenceRegistry> = OnceLock::new();
    let own = OWN.get_or_init(InferenceRegistry::default_registry);
    let rule = own.get("", ctx.op(), ctx.opset("")).expect("`CONTENTS` lists the versions");
    rule(ctx)?;
    let contents = match ctx.op() {
        "And" => by_element(ctx, DataType::Bool, |x| Some(x[0] & x[1])),
        "Div" => by_element(ctx, DataType::Int64, |x| x[0].checked_div(x[1])),
        "Equal" => by_element(ctx, DataType::Bool, |x| Some(i64::from(x[0] == x[1]))),
        // Where nothing is negative both meanings of Mod agree.
        "Mod" => by_element(ctx, DataType::Int64, |x| (x[0] >= 0 && x[1] > 0).then(|| x[0] % x[1])),
        "Not" => by_element(ctx, DataType::Bool, |x| Some(1 - x[0])),
        "Reshape" => reshaped(ctx),
        "Squeeze" => squeezed(ctx),
        _ => by_element(ctx, DataType::Int64, |x| Some(if x[0] != 0 { x[1] } else { x[2] })),
    };
    if let Some(contents) = contents {
        ctx.set_output_shape_data(0, contents);
    }
    Ok(())
}

/// The integers that are known of an input.
fn known(ctx: &InferenceContext, input: usize) -> Option<Vec<i64>> {
    let data = ctx.input_shape_data(input).filter(|data| data.float_elems.is_none())?;
    data.elems.iter().map(DimExpr::as_const).collect()
}

fn contents(dtype: DataType, scalar: bool, of: Vec<i64>) -> ShapeData {
    let dims = if scalar { Vec::new() } else { vec![of.len()] };
    ShapeData { dtype, dims, elems: of.into_iter().map(DimExpr::constant).collect(), float_elems: None }
}

/// The same elements, where the result is a list or one number.
fn reshaped(ctx: &InferenceContext) -> Option<ShapeData> {
    let target = ctx.input_shape_data(1)?.elems.len();
    (target <= 1).then(|| Some(contents(ctx.input_dtype(0)?, target == 0, known(ctx, 0)?)))?
}

/// One number, where the input is a list of one.
fn squeezed(ctx: &InferenceContext) -> Option<ShapeData> {
    let of = known(ctx, 0).filter(|of| of.len() == 1)?;
    Some(contents(ctx.input_dtype(0)?, true, of))
}

/// One result for each element, where all inputs are lists of one length or one number each.
fn by_element(ctx: &InferenceContext, dtype: DataType, of: fn(&[i64]) -> Option<i64>) -> Option<ShapeData> {
    let inputs = (0..ctx.num_inputs()).map(|input| known(ctx, input)).collect::<Option<Vec<_>>>()?;
    let scalar = (0..ctx.num_inputs()).all(|input| ctx.input_rank(input) == Some(0));
    let length = inputs.iter().map(Vec::len).find(|length| *length != 1).unwrap_or(1);
    if inputs.iter().any(|input| input.len() != length && input.len() != 1) {
        return None;
    }
    let at = |input: &Vec<i64>, index: usize| input[if input.len() == 1 { 0 } else { index }];
    let row = |index: usize| of(&inputs.iter().map(|input| at(input, index)).collect::<Vec<_>>());
    Some(contents(dtype, scalar, (0..length).map(row).collect::<Option<_>>()?))
}

/// Shaped as MatMul is, for two inputs of two axes or more; always int32.
fn matmul_integer(ctx: &mut InferenceContext) -> Result<(), ShapeInferError> {
    let (Some(a), Some(b)) = (ctx.input_shape(0).map(<[_]>::to_vec), ctx.input_shape(1).map(<[_]>::to_vec)) else {
        return Ok(());
    };
    let ([a_batch @ .., rows, _], [b_batch @ .., _, columns]) = (a.as_slice(), b.as_slice()) else { return Ok(()) };
    let mut shape = ctx.broadcast(a_batch, b_batch)?;
    shape.extend([rows.clone(), columns.clone()]);
    ctx.set_output(0, DataType::Int32, shape);
    Ok(())
}
