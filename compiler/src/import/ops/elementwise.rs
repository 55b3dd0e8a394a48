//! Operators that work on each element alone, with or without broadcasting.

use super::*;

const ONE: Flops = Flops::PerOutput(1);
const FEW: Flops = Flops::PerOutput(8);

const fn unary(kind: &'static str, flops: Flops) -> Row {
    row(kind, (1, 1), (1, 1), flops, same_as_first).in_place()
}

const fn binary(kind: &'static str) -> Row {
    row(kind, (2, 2), (1, 1), ONE, broadcast).in_place()
}

const fn test(kind: &'static str, inputs: u8) -> Row {
    row(kind, (inputs, inputs), (1, 1), ONE, truth)
}

const fn variadic(kind: &'static str) -> Row {
    row(kind, (1, MANY), (1, 1), ONE, broadcast).in_place()
}

pub(super) const ROWS: &[Row] = &[
    unary("Abs", ONE),
    unary("Acos", FEW),
    unary("Acosh", FEW),
    unary("Asin", FEW),
    unary("Asinh", FEW),
    unary("Atan", FEW),
    unary("Atanh", FEW),
    unary("BitwiseNot", ONE),
    unary("Ceil", ONE),
    unary("Celu", FEW),
    unary("Cos", FEW),
    unary("Cosh", FEW),
    unary("Elu", FEW),
    unary("Erf", FEW),
    unary("Exp", FEW),
    unary("Floor", ONE),
    unary("Gelu", FEW),
    unary("HardSigmoid", ONE),
    unary("HardSwish", ONE),
    unary("LeakyRelu", ONE),
    unary("Log", FEW),
    unary("Mish", FEW),
    unary("Neg", ONE),
    unary("Not", ONE),
    unary("Reciprocal", ONE),
    unary("Relu", ONE),
    unary("Round", ONE),
    unary("Selu", FEW),
    unary("Shrink", ONE),
    unary("Sigmoid", FEW),
    unary("Sign", ONE),
    unary("Sin", FEW),
    unary("Sinh", FEW),
    unary("Softplus", FEW),
    unary("Softsign", FEW),
    unary("Sqrt", FEW),
    unary("Swish", FEW),
    unary("Tan", FEW),
    unary("Tanh", FEW),
    unary("ThresholdedRelu", ONE),
    row("Identity", (1, 1), (1, 1), Flops::None, same_as_first).view(),
    row("Clip", (1, 3), (1, 1), ONE, clip).in_place(),
    row("Dropout", (1, 3), (1, 2), Flops::None, dropout).in_place(),
    unary("Gelu", FEW).microsoft(),
    unary("QuickGelu", FEW).microsoft(),
    row("FastGelu", (1, 2), (1, 1), FEW, as_first).in_place().microsoft(),
    row("BiasGelu", (2, 2), (1, 1), FEW, broadcast).in_place().microsoft(),
    binary("Add"),
    binary("Sub"),
    binary("Mul"),
    binary("Div"),
    binary("Mod"),
    row("Pow", (2, 2), (1, 1), FEW, power).in_place(),
    row("BitShift", (2, 2), (1, 1), ONE, broadcast).in_place(),
    binary("BitwiseAnd"),
    binary("BitwiseOr"),
    binary("BitwiseXor"),
    row("PRelu", (2, 2), (1, 1), ONE, as_first).in_place(),
    test("And", 2),
    test("Or", 2),
    test("Xor", 2),
    test("Equal", 2),
    test("Greater", 2),
    test("GreaterOrEqual", 2),
    test("Less", 2),
    test("LessOrEqual", 2),
    test("IsNaN", 1),
    test("IsInf", 1),
    variadic("Max"),
    variadic("Min"),
    variadic("Mean"),
    variadic("Sum"),
    row("Where", (3, 3), (1, 1), ONE, choose).moves(),
    row("Cast", (1, 1), (1, 1), ONE, cast),
    row("CastLike", (2, 2), (1, 1), ONE, cast_like),
    row("BitCast", (1, 1), (1, 1), Flops::None, bit_cast),
    row("SwiGLU", (2, 2), (1, 1), FEW, broadcast).in_place(),
    row("BiasAdd", (3, 3), (1, 1), ONE, as_first).in_place().microsoft(),
    row("BiasDropout", (2, 5), (1, 2), ONE, dropout).microsoft(),
    row("BiasSoftmax", (2, 2), (1, 1), FEW, as_first).microsoft(),
    row("BiasSplitGelu", (2, 2), (1, 1), FEW, bias_split_gelu).microsoft(),
    row("ComplexMul", (2, 2), (1, 1), FEW, broadcast).microsoft(),
    row("ComplexMulConj", (2, 2), (1, 1), FEW, broadcast).microsoft(),
    row("Inverse", (1, 1), (1, 1), FEW, as_first).microsoft(),
    row("Trilu", (1, 2), (1, 1), Flops::None, as_first).microsoft(),
    row("Bernoulli", (1, 1), (1, 1), FEW, typed_like),
    row("RandomNormalLike", (1, 1), (1, 1), FEW, typed_like),
    row("RandomUniformLike", (1, 1), (1, 1), FEW, typed_like),
];

fn same_as_first(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = node.input(0)?;
    let known = node.known(0).and_then(|all| all.iter().map(|e| fold::unary(node.kind, e)).collect());
    let floats =
        node.floats_of(0).and_then(|all| all.iter().map(|e| floats::unary(node.kind, e, first.dtype)).collect());
    Ok(vec![Out::new(first.dtype, first.shape.clone()).known(known).floats(floats)])
}

/// No less than the second operand and no more than the third.
fn clip(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = node.input(0)?;
    let bound = |i: usize, all: Vec<Expr>, kind: &str| match (node.given(i), node.known(i)) {
        (None, _) => Some(all),
        (Some(_), Some([bound])) => all.iter().map(|e| fold::binary(kind, e, bound)).collect(),
        _ => None,
    };
    let known = node.known(0).and_then(|all| bound(2, bound(1, all.to_vec(), "Max")?, "Min"));
    Ok(vec![Out::new(first.dtype, first.shape.clone()).known(known)])
}

fn dropout(node: &Node) -> Result<Vec<Out>, Problem> {
    let first = node.input(0)?;
    let mask = if node.opset < 10 { first.dtype } else { DType::Bool };
    Ok(vec![Out::new(first.dtype, first.shape.clone()), Out::new(mask, first.shape.clone())])
}

/// All operands have one type.
fn one_type(node: &Node, from: usize) -> Result<DType, Problem> {
    let first = node.input(from)?;
    for index in from + 1..node.inputs.len() {
        let other = node.input(index)?;
        if other.dtype != first.dtype {
            return wrong(format!(
                "`{}` is {:?} and `{}` is {:?}; the types must be equal",
                first.name, first.dtype, other.name, other.dtype
            ));
        }
    }
    Ok(first.dtype)
}

fn all(node: &Node) -> Vec<usize> {
    (0..node.inputs.len()).collect()
}

fn folded(node: &Node, shape: &[Expr]) -> Option<Vec<Expr>> {
    let kind = if node.kind == "Mod" && node.int("fmod", 0) != 0 { "Fmod" } else { node.kind };
    let mut sum = spread(shape, node.shape(0).ok()?, node.known(0))?;
    for index in 1..node.inputs.len() {
        let next = spread(shape, node.shape(index).ok()?, node.known(index))?;
        sum = sum.iter().zip(&next).map(|(a, b)| fold::binary(kind, a, b)).collect::<Option<_>>()?;
    }
    Some(sum)
}

fn folded_floats(node: &Node, shape: &[Expr], dtype: DType) -> Option<Vec<Float>> {
    if !(0..node.inputs.len()).all(|i| node.has_floats(i)) {
        return None;
    }
    let operand = |i: usize| spread(shape, node.shape(i).ok()?, node.floats_of(i).as_deref());
    let mut sum = operand(0)?;
    for index in 1..node.inputs.len() {
        let next = operand(index)?;
        sum = sum.iter().zip(&next).map(|(a, b)| floats::binary(node.kind, a, b, dtype)).collect::<Option<_>>()?;
    }
    Some(sum)
}

fn compared_floats(node: &Node, shape: &[Expr]) -> Option<Vec<Expr>> {
    if !(node.has_floats(0) && node.has_floats(1)) {
        return None;
    }
    let operand = |i: usize| spread(shape, node.shape(i).ok()?, node.floats_of(i).as_deref());
    operand(0)?.iter().zip(&operand(1)?).map(|(a, b)| floats::compare(node.kind, a, b)).collect()
}

fn broadcast(node: &Node) -> Result<Vec<Out>, Problem> {
    let dtype = one_type(node, 0)?;
    // Before operator set 7 an explicit attribute aligned the second operand to the first.
    if node.opset < 7 && node.int("broadcast", 0) != 0 {
        return as_first(node);
    }
    let shape = node.broadcast(&all(node))?;
    let (known, floats) = (folded(node, &shape), folded_floats(node, &shape, dtype));
    Ok(vec![Out::new(dtype, shape).known(known).floats(floats)])
}

fn power(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = node.broadcast(&[0, 1])?;
    let known = folded(node, &shape);
    Ok(vec![Out::new(node.dtype(0)?, shape).known(known)])
}

fn truth(node: &Node) -> Result<Vec<Out>, Problem> {
    one_type(node, 0)?;
    let shape = node.broadcast(&all(node))?;
    let known = folded(node, &shape).filter(|_| node.inputs.len() == 2).or_else(|| compared_floats(node, &shape));
    Ok(vec![Out::new(DType::Bool, shape).known(known)])
}

fn choose(node: &Node) -> Result<Vec<Out>, Problem> {
    let dtype = one_type(node, 1)?;
    let shape = node.broadcast(&[0, 1, 2])?;
    let all: Option<Vec<Vec<Expr>>> = (0..3).map(|i| spread(&shape, node.shape(i).ok()?, node.known(i))).collect();
    let known = all.and_then(|all| {
        let choose = |i: usize| match all[0][i].as_constant() {
            Some(condition) => Some(all[if condition != 0 { 1 } else { 2 }][i].clone()),
            None => (all[1][i] == all[2][i]).then(|| all[1][i].clone()),
        };
        (0..all[0].len()).map(choose).collect()
    });
    Ok(vec![Out::new(dtype, shape).known(known)])
}

fn cast_to(node: &Node, to: DType) -> Result<Vec<Out>, Problem> {
    let out = Out::new(to, node.shape(0)?);
    if let Some(all) = node.known(0) {
        let floats = all.iter().map(|e| floats::from_integer(e, to)).collect();
        return Ok(vec![out.known(all.iter().map(|e| fold::cast(e, to)).collect()).floats(floats)]);
    }
    let Some(all) = node.floats_of(0) else { return Ok(vec![out]) };
    let known: Option<Vec<Expr>> = all.iter().map(|e| floats::to_integer(e, to)).collect();
    if known.is_some() && all.iter().any(|e| matches!(e, Float::Size { .. })) {
        node.note(format!("sizes that are scaled as floats are taken to be below {}", floats::EXACT_BELOW));
    }
    Ok(vec![out.known(known).floats(all.iter().map(|e| floats::cast(e, to)).collect())])
}

fn cast(node: &Node) -> Result<Vec<Out>, Problem> {
    if node.attribute("to").is_none() {
        return wrong("the attribute `to` is missing");
    }
    cast_to(node, node.type_attribute("to", DType::F32)?)
}

fn cast_like(node: &Node) -> Result<Vec<Out>, Problem> {
    cast_to(node, node.dtype(1)?)
}

fn bit_cast(node: &Node) -> Result<Vec<Out>, Problem> {
    let to = node.type_attribute("to", node.dtype(0)?)?;
    if to.bits() != node.dtype(0)?.bits() {
        return wrong("the element types differ in width");
    }
    Ok(vec![Out::new(to, node.shape(0)?)])
}

fn typed_like(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.type_attribute("dtype", node.dtype(0)?)?, node.shape(0)?)])
}

/// Half of the last axis gates the other half.
fn bias_split_gelu(node: &Node) -> Result<Vec<Out>, Problem> {
    let mut shape = node.shape(0)?.to_vec();
    match shape.last_mut() {
        Some(last) => *last = last.floor_div(&Expr::constant(2)),
        None => return wrong("its operand is a scalar"),
    }
    Ok(vec![Out::new(node.dtype(0)?, shape)])
}
