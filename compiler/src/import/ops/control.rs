//! Operators that make values from nothing, recurrences, detection, signal processing.

use super::*;

pub(super) const ROWS: &[Row] = &[
    row("ConstantOfShape", (1, 1), (1, 1), Flops::None, constant_of_shape),
    row("Range", (3, 3), (1, 1), Flops::PerOutput(1), range),
    row("EyeLike", (1, 1), (1, 1), Flops::None, typed_as_first),
    row("RandomNormal", (0, 0), (1, 1), Flops::PerOutput(8), random),
    row("RandomUniform", (0, 0), (1, 1), Flops::PerOutput(8), random),
    row("Multinomial", (1, 1), (1, 1), Flops::PerInput(8), multinomial),
    row("HannWindow", (1, 1), (1, 1), Flops::PerOutput(8), window),
    row("HammingWindow", (1, 1), (1, 1), Flops::PerOutput(8), window),
    row("BlackmanWindow", (1, 1), (1, 1), Flops::PerOutput(8), window),
    row("DynamicQuantizeLSTM", (12, 12), (0, 3), Flops::Rule(recurrent_flops), recurrent).microsoft(),
    row("TfIdfVectorizer", (1, 1), (1, 1), Flops::PerInput(8), tf_idf),
    row("LSTM", (3, 8), (0, 3), Flops::Rule(recurrent_flops), recurrent),
    row("GRU", (3, 6), (0, 2), Flops::Rule(recurrent_flops), recurrent),
    row("RNN", (3, 6), (0, 2), Flops::Rule(recurrent_flops), recurrent),
    row("NonMaxSuppression", (2, 5), (1, 1), Flops::PerInput(8), non_max_suppression),
    row("DFT", (1, 3), (1, 1), Flops::PerOutput(32), dft),
    row("STFT", (2, 4), (1, 1), Flops::PerOutput(32), stft),
    row("MelWeightMatrix", (5, 5), (1, 1), Flops::PerOutput(8), mel),
];

fn constant_of_shape(node: &Node) -> Result<Vec<Out>, Problem> {
    let shape = node.elements(0, "the shape")?;
    if let Some(size) = shape.iter().filter_map(Expr::as_constant).find(|n| *n < 0) {
        return wrong(format!("the shape has the size {size}"));
    }
    let Some(value) = node.tensor("value") else {
        let zeros = constant_shape(shape).and_then(|s| super::product(&s)).filter(|n| *n <= FLOATS_MAX);
        let zeros = zeros.map(|n| vec![Float::Number(0.0); n]);
        return Ok(vec![Out::new(DType::F32, shape).floats(zeros)]);
    };
    let Some(dtype) = super::super::dtype_from_onnx(value.data_type) else {
        return wrong(format!("its value has element type {}, which is not known", value.data_type));
    };
    let one = match dtype {
        DType::I64 => value
            .int64_data
            .first()
            .copied()
            .or_else(|| Some(i64::from_le_bytes(value.raw_data.as_ref().try_into().ok()?))),
        DType::I32 => {
            let raw = || Some(i32::from_le_bytes(value.raw_data.as_ref().try_into().ok()?));
            value.int32_data.first().copied().or_else(raw).map(i64::from)
        }
        DType::Bool => {
            value.int32_data.first().copied().or_else(|| Some(i32::from(*value.raw_data.first()?))).map(i64::from)
        }
        _ => None,
    };
    let total = constant_shape(shape).and_then(|s| super::product(&s)).filter(|n| *n as u64 <= KNOWN_MAX);
    let known = one.zip(total).map(|(one, total)| vec![Expr::constant(one); total]);
    let float = match dtype {
        DType::F32 => value
            .float_data
            .get(..4)
            .or(value.raw_data.get(..4))
            .map(|raw| f64::from(f32::from_le_bytes(raw.try_into().unwrap_or_default()))),
        _ => None,
    };
    let floats = float.zip(total.filter(|n| *n <= FLOATS_MAX)).map(|(one, n)| vec![Float::Number(one); n]);
    Ok(vec![Out::new(dtype, shape).known(known).floats(floats)])
}

pub(super) fn range(node: &Node) -> Result<Vec<Out>, Problem> {
    let dtype = node.dtype(0)?;
    if !matches!(dtype, DType::I64 | DType::I32) {
        return float_range(node, dtype);
    }
    let bound = |i: usize, what: &str| match node.elements(i, what)? {
        [bound] => Ok(bound),
        _ => wrong(format!("{what} is not one number")),
    };
    let one = Expr::constant(1);
    // Only the contrib form may leave the step away.
    let step = if node.given(2).is_some() { bound(2, "the step")? } else { &one };
    let (start, end) = (bound(0, "the start")?, bound(1, "the limit")?);
    let zero = Expr::constant(0);
    let length = match step.as_constant() {
        Some(0) => return wrong("the step is zero"),
        _ => (end - start).ceil_div(step).max(&zero),
    };
    let total = length.as_constant().filter(|n| *n <= i128::from(KNOWN_MAX));
    let known = total.map(|n| (0..n).map(|i| start + step * Expr::constant(i)).collect());
    Ok(vec![Out::new(dtype, [length]).known(known)])
}

fn float_range(node: &Node, dtype: DType) -> Result<Vec<Out>, Problem> {
    let bound = |i: usize| node.floats_of(i).and_then(|f| f.first().cloned());
    let computed = || unknown("its bounds are floats that are computed at run time");
    let step = if node.given(2).is_some() { bound(2) } else { Some(Float::Number(1.0)) };
    let (Some(start), Some(end), Some(step)) = (bound(0), bound(1), step) else { return computed() };
    // The engine works out the length in the wider type, whatever the operator's is.
    let span = floats::binary("Sub", &end, &start, DType::F64);
    let length = span.and_then(|span| floats::binary("Div", &span, &step, DType::F64));
    match length.and_then(|length| floats::to_integer(&floats::unary("Ceil", &length, DType::F64)?, DType::I64)) {
        Some(length) => Ok(vec![Out::new(dtype, [length.max(&Expr::constant(0))])]),
        None => computed(),
    }
}

fn typed_as_first(node: &Node) -> Result<Vec<Out>, Problem> {
    Ok(vec![Out::new(node.type_attribute("dtype", node.dtype(0)?)?, node.shape(0)?)])
}

fn random(node: &Node) -> Result<Vec<Out>, Problem> {
    let Some(shape) = node.ints("shape") else { return wrong("the attribute `shape` is missing") };
    let shape: Vec<Expr> = shape.iter().map(|n| Expr::constant(*n)).collect();
    Ok(vec![Out::new(node.type_attribute("dtype", DType::F32)?, shape)])
}

fn multinomial(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.shape_of_rank(0, 2)?;
    let samples = Expr::constant(node.int("sample_size", 1));
    Ok(vec![Out::new(node.type_attribute("dtype", DType::I32)?, [from[0].clone(), samples])])
}

fn window(node: &Node) -> Result<Vec<Out>, Problem> {
    match node.elements(0, "the size")? {
        [size] => Ok(vec![Out::new(node.type_attribute("output_datatype", DType::F32)?, [size.clone()])]),
        _ => wrong("the size is not one number"),
    }
}

/// One number for each n-gram of the attribute, in place of the last axis.
fn tf_idf(node: &Node) -> Result<Vec<Out>, Problem> {
    let Some(most) = node.ints("ngram_indexes").and_then(|all| all.iter().max()) else {
        return wrong("the attribute `ngram_indexes` is missing");
    };
    let Some((_, outer)) = node.shape(0)?.split_last() else { return wrong("its operand is a scalar") };
    let grams = Expr::constant(i128::from(*most) + 1);
    Ok(vec![Out::new(DType::F32, [outer, &[grams]].concat())])
}

fn directions(node: &Node) -> Expr {
    Expr::constant(if node.text("direction") == "bidirectional" { 2 } else { 1 })
}

fn recurrent(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, r) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(2, 3)?);
    let (dtype, directions) = (node.dtype(0)?, directions(node));
    // Weights of the contrib form lie turned.
    let hidden = if node.kind == "DynamicQuantizeLSTM" { r[1].clone() } else { r[2].clone() };
    let batch_first = node.int("layout", 0) != 0;
    let (seq, batch) = if batch_first { (x[1].clone(), x[0].clone()) } else { (x[0].clone(), x[1].clone()) };
    let (all, last) = if batch_first {
        (vec![batch.clone(), seq, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
    } else {
        (vec![seq, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
    };
    let last = Out::new(dtype, last);
    Ok(vec![Out::new(dtype, all), last.clone(), last])
}

/// Both weight matrices, once for each element of the sequence.
fn recurrent_flops(node: &Node, _: &[Out]) -> Expr {
    let size = |i: usize| node.given(i).map_or(Expr::default(), Value::elements);
    let Ok(x) = node.shape_of_rank(0, 3) else { return Expr::default() };
    &x[0] * &x[1] * (size(1) + size(2)) * Expr::constant(2)
}

fn non_max_suppression(node: &Node) -> Result<Vec<Out>, Problem> {
    let (boxes, scores) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(1, 3)?);
    let each = match node.known(2) {
        Some([most]) => most.min(&boxes[1]),
        _ => boxes[1].clone(),
    };
    let found = node.fresh(0, 0, &scores[0] * &scores[1] * each);
    Ok(vec![Out::new(DType::I64, [found, Expr::constant(3)])])
}

fn dft(node: &Node) -> Result<Vec<Out>, Problem> {
    let from = node.input(0)?;
    let rank = from.shape.len();
    let at = match (node.given(2), node.attribute("axis")) {
        (Some(_), _) => match node.integers(2, "the axis")?.as_slice() {
            [at] => *at,
            _ => return wrong("the axis is not one number"),
        },
        (None, Some(Attribute::Int(at))) => *at,
        _ => {
            if node.opset < 20 {
                1
            } else {
                -2
            }
        }
    };
    let at = axis(at, rank)?;
    let mut shape = from.shape.clone();
    if node.given(1).is_some() {
        match node.elements(1, "the length")? {
            [length] => shape[at] = length.clone(),
            _ => return wrong("the length is not one number"),
        }
    }
    let (inverse, one_sided) = (node.int("inverse", 0) != 0, node.int("onesided", 0) != 0);
    if one_sided && inverse {
        // Back from half of a spectrum: twice as long less the two ends that stand alone, and real.
        if node.given(1).is_none() {
            let two = Expr::constant(2);
            shape[at] = (&shape[at] - Expr::constant(1)) * two;
        }
        if let Some(last) = shape.last_mut() {
            *last = Expr::constant(1);
        }
        return Ok(vec![Out::new(from.dtype, shape)]);
    }
    if one_sided {
        shape[at] = shape[at].floor_div(&Expr::constant(2)) + Expr::constant(1);
    }
    if let Some(last) = shape.last_mut() {
        *last = Expr::constant(2);
    }
    Ok(vec![Out::new(from.dtype, shape)])
}

fn stft(node: &Node) -> Result<Vec<Out>, Problem> {
    let signal = node.input(0)?;
    let number = |i: usize, what: &str| match node.elements(i, what)? {
        [one] => Ok(one.clone()),
        _ => wrong(format!("{what} is not one number")),
    };
    let step = number(1, "the step")?;
    let frame = match (node.given(3), node.given(2)) {
        (Some(_), _) => number(3, "the frame length")?,
        (None, Some(window)) if window.shape.len() == 1 => window.shape[0].clone(),
        _ => return wrong("it has neither a window nor a frame length"),
    };
    if signal.shape.len() < 2 {
        return wrong(format!("{} is no signal", show(&signal.shape)));
    }
    let one = Expr::constant(1);
    let frames = (&signal.shape[1] - &frame).floor_div(&step) + &one;
    let bins = if node.int("onesided", 1) != 0 { frame.floor_div(&Expr::constant(2)) + one } else { frame };
    Ok(vec![Out::new(signal.dtype, [signal.shape[0].clone(), frames, bins, Expr::constant(2)])])
}

fn mel(node: &Node) -> Result<Vec<Out>, Problem> {
    let number = |i: usize, what: &str| match node.elements(i, what)? {
        [one] => Ok(one.clone()),
        _ => wrong(format!("{what} is not one number")),
    };
    let (bins, length) = (number(0, "the number of bins")?, number(1, "the length")?);
    let shape = [length.floor_div(&Expr::constant(2)) + Expr::constant(1), bins];
    Ok(vec![Out::new(node.type_attribute("output_datatype", DType::F32)?, shape)])
}
