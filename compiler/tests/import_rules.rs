//! What operators give for what they are given: one line a case.
//!
//! `Kind(operands) attributes -> results`. An operand is a type with a shape (`f32[n, 4]`), or a constant list or number
//! (`i64{1 2}`, `f32(0.5)`), or `_` where absent. `?4` in a result is a size of at most 4 that the data decide.

#[allow(dead_code)]
#[path = "common/build.rs"]
mod build;

use berth_compiler::import::{self, onnx};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::graph::{Content, Graph};
use build::{Builder, attribute};
use prost::Message;
use std::path::PathBuf;

fn dtype(text: &str) -> DType {
    let all = (1..=26).filter_map(import::dtype_from_onnx);
    all.into_iter().find(|d| format!("{d:?}").to_lowercase() == text).unwrap_or_else(|| panic!("no type `{text}`"))
}

fn bytes(dtype: DType, number: &str) -> Vec<u8> {
    match dtype {
        DType::I64 => number.parse::<i64>().unwrap().to_le_bytes().into(),
        DType::I32 => number.parse::<i32>().unwrap().to_le_bytes().into(),
        DType::F32 => number.parse::<f32>().unwrap().to_le_bytes().into(),
        DType::U8 | DType::Bool => vec![number.parse().unwrap()],
        other => panic!("no constants of {other:?} here"),
    }
}

/// Splits at commas outside of brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' | '(' => depth += 1,
            ']' | '}' | ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn attribute_of(text: &str) -> onnx::AttributeProto {
    let (name, value) = text.split_once('=').unwrap();
    let list = value.strip_prefix('[').map(|v| v.trim_end_matches(']'));
    let proto = onnx::AttributeProto { name: name.to_owned(), ..Default::default() };
    match (list, value.parse::<i64>()) {
        (Some(list), _) => onnx::AttributeProto {
            r#type: 7,
            ints: list.split(',').filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect(),
            ..proto
        },
        (None, Ok(number)) => attribute(name, number),
        (None, Err(_)) => onnx::AttributeProto { r#type: 3, s: Some(value.as_bytes().to_vec().into()), ..proto },
    }
}

/// The graph of a line without its results, and how many results it has.
fn graph_of(opset: i64, domain: &str, call: &str, results: usize) -> Result<Graph, import::ImportError> {
    let (kind, rest) = call.split_once('(').unwrap();
    let close = rest.rfind(')').unwrap();
    let mut b = Builder::new(opset);
    let mut names = Vec::new();
    for (at, operand) in split(&rest[..close]).into_iter().enumerate() {
        let name = format!("i{at}");
        if operand == "_" {
            names.push(String::new());
            continue;
        }
        let open = operand.find(['[', '{', '(']).unwrap();
        let (dtype, inner) = (dtype(&operand[..open]), &operand[open + 1..operand.len() - 1]);
        let raw = || inner.split_whitespace().flat_map(|n| bytes(dtype, n)).collect::<Vec<u8>>();
        match &operand[open..=open] {
            "[" => b.input(&name, dtype, &split(inner)),
            "{" => b.tensor(&name, dtype, &[inner.split_whitespace().count() as i64], raw()),
            _ => b.tensor(&name, dtype, &[], raw()),
        };
        names.push(name);
    }
    let outputs: Vec<String> = (0..results).map(|at| format!("o{at}")).collect();
    outputs.iter().for_each(|name| _ = b.output(name));
    let attributes = rest[close + 1..].split_whitespace().map(attribute_of).collect();
    let borrow = |all: &[String]| all.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
    let (inputs, outputs) = (names, borrow(&outputs));
    let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
    b.node(kind.trim(), &inputs, &outputs.split(' ').collect::<Vec<_>>(), attributes);
    let mut proto = onnx::ModelProto::decode(&b.bytes()[..]).unwrap();
    domain.clone_into(&mut proto.graph.as_mut().unwrap().node[0].domain);
    if !domain.is_empty() {
        proto.opset_import.push(onnx::OperatorSetIdProto { domain: domain.to_owned(), version: 1 });
    }
    let model = import::Model::decode(proto.encode_to_vec().into(), PathBuf::from("/nowhere/model.onnx"))?;
    model.graph(&Binding::new())
}

fn shown(graph: &Graph) -> String {
    let size = |e: &berth_ir::expr::Expr| {
        let text = e.to_string();
        graph.data_dims.iter().find(|(name, _)| *name == text).map_or(text, |(_, bound)| format!("?{bound}"))
    };
    let value = |id: &berth_ir::graph::ValueId| {
        let value = graph.value(*id);
        let dims: Vec<String> = value.shape.iter().map(size).collect();
        let known = match &value.content {
            Content::Known(known) => {
                let known: Vec<String> = known.iter().map(ToString::to_string).collect();
                format!(" = {}", known.join(" "))
            }
            _ => String::new(),
        };
        format!("{}[{}]{known}", format!("{:?}", value.dtype).to_lowercase(), dims.join(", "))
    };
    graph.outputs.iter().map(value).collect::<Vec<_>>().join(", ")
}

#[track_caller]
fn check(opset: i64, domain: &str, table: &str) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (call, wanted) = line.split_once("->").unwrap();
        let wanted = wanted.trim();
        let results = split(wanted).len();
        match graph_of(opset, domain, call, results) {
            Ok(graph) => assert_eq!(shown(&graph), wanted, "{line}"),
            Err(error) => panic!("{line}: {error}"),
        }
    }
}

/// What the engine multiplies in a binary32 is not what it would be in a wider type: 10 times 0.7 is 7.
#[test]
fn scales_are_multiplied_as_the_engine_does() {
    check(
        19,
        "",
        "Resize(f32[10], _, f32{0.7}) -> f32[7]
         Resize(f32[100], _, f32{0.29}) -> f32[29]
         Resize(f32[49], _, f32{0.020408163}) -> f32[1]
         Resize(f32[h, w], _, f32{2 0.5}) -> f32[2*h, w//2]
         Resize(f32[h, 6], _, f32{1.5 1}) -> f32[h + h//2, 6]
         Resize(f32[8, 4], _, _, i64{7 6}) axes=[0,1] keep_aspect_ratio_policy=not_larger -> f32[7, 4]
         Range(f32(0), f32(0.3), f32(0.1)) -> f32[4]
         Range(f32(0.1), f32(1.1), f32(0.1)) -> f32[11]
         OneHot(i64[n], f32(5), f32[2]) -> f32[n, 5]",
    );
}

/// Where the engine departs from the specification, or the specification is silent: what small operands gave.
#[test]
fn windows_and_slices_end_where_the_engine_ends_them() {
    check(
        22,
        "",
        "LpPool(f32[1, 2, 7]) kernel_shape=[2] strides=[2] auto_pad=VALID ceil_mode=1 -> f32[1, 2, 4]
         AveragePool(f32[1, 2, 3]) kernel_shape=[4] strides=[2] auto_pad=VALID ceil_mode=1 -> f32[1, 2, 1]
         AveragePool(f32[1, 2, 5]) kernel_shape=[2] strides=[2] dilations=[2] auto_pad=SAME_UPPER -> f32[1, 2, 2]
         MaxPool(f32[1, 2, 4]) kernel_shape=[2] strides=[3] dilations=[2] auto_pad=SAME_UPPER -> f32[1, 2, 1]
         MaxPool(f32[1, 2, 3]) kernel_shape=[3] strides=[3] dilations=[2] auto_pad=VALID -> f32[1, 2, 1]
         MaxPool(f32[1, 2, n]) kernel_shape=[3] strides=[2] auto_pad=SAME_LOWER -> f32[1, 2, (n + 1)//2]
         ConvTranspose(f32[1, 4, 5], f32[4, 3, 1]) strides=[3] auto_pad=SAME_UPPER -> f32[1, 3, 13]
         ConvTranspose(f32[1, 4, n], f32[4, 3, 5]) strides=[3] auto_pad=SAME_UPPER -> f32[1, 3, 3*n]
         Slice(i64{0 1 2 3 4}, i64{11}, i64{9223372036854775807}, i64{0}, i64{-2}) -> i64[3] = 4 2 0
         Slice(f32[n, 3], i64{-1}, i64{-9223372036854775807}, i64{0}, i64{-1}) -> f32[n, 3]",
    );
}

/// A graph of operators in lines `result = Kind(operands) attributes`, over an input `x` of these sizes.
fn chain(sizes: &[&str], constants: &[(&str, &str)], lines: &str) -> Graph {
    let mut b = Builder::new(19);
    b.input("x", DType::F32, sizes).output("y");
    for (name, text) in constants {
        let open = text.find(['{', '(']).unwrap();
        let (dtype, inner) = (dtype(&text[..open]), &text[open + 1..text.len() - 1]);
        let dims: &[i64] = &[inner.split_whitespace().count() as i64];
        let raw = inner.split_whitespace().flat_map(|n| bytes(dtype, n)).collect();
        b.tensor(name, dtype, if text[open..].starts_with('{') { dims } else { &[] }, raw);
    }
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (result, call) = line.split_once('=').unwrap();
        let (kind, rest) = call.trim().split_once('(').unwrap();
        let (operands, attributes) = rest.split_once(')').unwrap();
        let operands: Vec<&str> = operands.split(',').map(str::trim).collect();
        b.node(kind, &operands, &[result.trim()], attributes.split_whitespace().map(attribute_of).collect());
    }
    b.model().graph(&Binding::new()).unwrap()
}

/// How exporters write `interpolate(x, scale_factor=...)`: sizes through floats and back.
const SCALED: &str = "
    shape = Shape(x)
    tail = Slice(shape, two, four)
    wide = Cast(tail) to=1
    scaled = Mul(wide, scale)
    whole = Floor(scaled)
    sizes = Cast(whole) to=7
    head = Slice(shape, none, two)
    all = Concat(head, sizes) axis=0
    y = Resize(x, , , all)";

#[test]
fn sizes_go_through_floats() {
    let constants = |scale| [("none", "i64{0}"), ("two", "i64{2}"), ("four", "i64{4}"), ("scale", scale)];
    for (sizes, scale, wanted) in [
        (["1", "3", "10", "49"], "f32{0.7 0.020408163}", "f32[1, 3, 7, 1]"),
        (["1", "3", "h", "w"], "f32{2 1.5}", "f32[1, 3, 2*h, w + w//2]"),
        (["n", "3", "h", "w"], "f32{0.25 1}", "f32[n, 3, h//4, w]"),
    ] {
        assert_eq!(shown(&chain(&sizes, &constants(scale), SCALED)), wanted);
    }
    // That floats hold the sizes is said, where they are not numbers.
    let graph = chain(&["n", "3", "h", "w"], &constants("f32{2 2}"), SCALED);
    assert!(graph.assumptions.iter().any(|note| note.contains("16777216")), "{:?}", graph.assumptions);
}

/// Scales worked out from sizes, a limit that is a float, a condition on floats.
#[test]
fn floats_fold_as_they_are_computed() {
    let constants =
        [("zero", "i64(0)"), ("f0", "f32(0)"), ("f1", "f32(1)"), ("seven", "f32{7 7}"), ("third", "f32(3)")];
    let resized = "
        shape = Shape(x)
        wide = Cast(shape) to=1
        scales = Div(seven, wide)
        y = Resize(x, , scales)";
    assert_eq!(shown(&chain(&["3", "49"], &constants, resized)), "f32[7, 7]");
    let ranged = "
        shape = Shape(x)
        rows = Gather(shape, zero)
        wide = Cast(rows) to=1
        part = Div(wide, third)
        limit = Ceil(part)
        y = Range(f0, limit, f1)";
    assert_eq!(shown(&chain(&["n", "2"], &constants, ranged)), "f32[(n + 2)//3]");
    assert_eq!(shown(&chain(&["10", "2"], &constants, ranged)), "f32[4]");
    let counted = "
        shape = Shape(x)
        wide = Cast(shape) to=1
        total = ReduceProd(wide) keepdims=0
        root = Sqrt(total)
        far = Greater(root, third)
        size = Where(far, root, third)
        y = Cast(size) to=7";
    assert_eq!(shown(&chain(&["8", "2"], &constants, counted)), "i64[] = 4");
    assert_eq!(shown(&chain(&["2", "2"], &constants, counted)), "i64[] = 3");
}

#[test]
fn known_integers_go_through_more_operators() {
    check(
        19,
        "",
        "Clip(i64{1 5 9}, i64(2), i64(7)) -> i64[3] = 2 5 7
         NonZero(i64{0 3 0 4}) -> i64[1, 2] = 1 3
         NonZero(f32[2, n]) -> i64[2, ?2*n]",
    );
}

/// Shapes that ONNX Runtime gave for small operands.
#[test]
fn contrib_operators() {
    check(
        17,
        "com.microsoft",
        "MultiHeadAttention(f32[2, 4, 16], f32[2, 6, 16], f32[2, 6, 32]) num_heads=2 -> f32[2, 4, 32]
         MultiHeadAttention(f32[b, s, 2, 3, 8]) num_heads=2 -> f32[b, s, 16]
         MultiHeadAttention(f32[b, s, 16], f32[b, t, 2, 2, 8]) num_heads=2 -> f32[b, s, 16]
         DecoderMaskedMultiHeadAttention(f32[b, 1, 16], f32[b, 1, 16], f32[b, 1, 16], _, _, f32[b, 2, p, 8], f32[b, 2, p, 8]) num_heads=2 -> f32[b, 1, 16], f32[b, 2, p + 1, 8], f32[b, 2, p + 1, 8]
         DecoderMaskedMultiHeadAttention(f32[2, 1, 16], f32[2, 2, 6, 8], f32[2, 2, 6, 8]) num_heads=2 -> f32[2, 1, 16]
         GroupQueryAttention(f32[b, s, 32], f32[b, s, 16], f32[b, s, 16], _, _, i32[b], i32(4)) num_heads=4 kv_num_heads=2 -> f32[b, s, 32]
         GroupQueryAttention(f32[b, 1, 32], f32[b, 1, 16], f32[b, 1, 16], f32[b, 2, 16, 8], f32[b, 2, 16, 8], i32[b], i32(40)) num_heads=4 kv_num_heads=2 sliding_window_cache=1 -> f32[b, 1, 32], f32[b, 2, 16, 8], f32[b, 2, 16, 8]
         SparseAttention(f32[1, 1, 16], f32[1, 1, 16], f32[1, 1, 16], f32[1, 2, 16, 8], f32[1, 2, 16, 8], i32[1, 2], i32[1, 1], i32[1], i32[1]) num_heads=2 kv_num_heads=2 -> f32[1, 1, 16], f32[1, 2, 16, 8], f32[1, 2, 16, 8]
         PackedAttention(f32[t, 16], f32[16, 48], f32[48], i32[b, s], i32[3]) num_heads=2 -> f32[t, 16]
         PackedMultiHeadAttention(f32[t, 2, 3, 8], _, _, _, i32[b, s], i32[3]) num_heads=2 -> f32[t, 16]
         LinearAttention(f32[1, 3, 16], f32[1, 3, 32], f32[1, 3, 64]) q_num_heads=2 kv_num_heads=4 -> f32[1, 3, 64], f32[1, 4, 8, 16]
         LinearAttention(f32[1, 3, 16], f32[1, 3, 16], f32[1, 3, 16]) q_num_heads=2 kv_num_heads=2 state_window=2 -> f32[1, 3, 16], f32[2, 1, 2, 8, 8]
         CausalConvWithState(f32[2, 6, n], f32[6, 1, 3]) dilation=2 -> f32[2, 6, n], f32[2, 6, 4]
         CausalConvWithState(f32[2, n, 6], f32[6, 1, 3]) channels_last=1 -> f32[2, n, 6], f32[2, 2, 6]
         FusedMatMul(f32[3, 2, 4], f32[2, 4, 5]) transBatchA=1 -> f32[2, 3, 5]
         FusedMatMul(f32[4, 2, 6, 3], f32[2, 6, 4, 5]) transBatchA=1 transA=1 -> f32[2, 6, 3, 5]
         MatMulFpQ4(f32[n, 32], u8[10], i64{32 6}) -> f32[n, 6]
         MatMulNBitsQkv(f32[n, 32], _, f32[32], u8[8, 1, 16], f32[8], _, u8[4, 1, 16], f32[4], _, u8[4, 1, 16], f32[4]) K=32 Nq=8 Nkv=4 -> f32[n, 8], f32[n, 4], f32[n, 4]
         NhwcMaxPool(u8[1, 8, 9, 3]) kernel_shape=[3,2] strides=[2,1] -> u8[1, 3, 8, 3]
         NhwcConv(f32[1, 8, 9, 3], f32[6, 3, 3, 2]) strides=[2,1] -> f32[1, 3, 8, 6]
         QLinearConv(u8[1, 8, 9, 4], f32[], u8[], u8[6, 2, 3, 2], f32[], u8[], f32[], u8[]) channels_last=1 group=2 -> u8[1, 6, 8, 6]
         QLinearAveragePool(u8[1, 8, 9, 3], f32[], u8[], f32[], u8[]) kernel_shape=[3,2] strides=[2,1] channels_last=1 -> u8[1, 3, 8, 3]
         QLinearGlobalAveragePool(u8[1, 8, 9, 3], f32[], u8[], f32[], u8[]) channels_last=1 -> u8[1, 1, 1, 3]
         QLinearReduceMean(u8[2, 3, 4], f32[], u8[], f32[], u8[]) axes=[1] keepdims=0 -> u8[2, 4]
         QLinearConcat(f32[], u8[], u8[2, 3], f32[], u8[]) axis=1 -> u8[2, 3]
         QEmbedLayerNormalization(i32[b, s], i32[b, s], u8[9, 16], u8[9, 16], u8[2, 16], u8[16], u8[16], i32[b, s], f32[], f32[], f32[], f32[], f32[], u8[], u8[], u8[], u8[], u8[]) -> f32[b, s, 16], i32[b]
         DynamicQuantizeLSTM(f32[5, 2, 3], u8[1, 3, 16], u8[1, 4, 16], f32[1, 32], _, _, _, _, f32[1], u8[1], f32[1], u8[1]) hidden_size=4 -> f32[5, 1, 2, 4], f32[1, 2, 4], f32[1, 2, 4]
         QOrderedMatMul(i8[1, 3, 4], f32[], i8[4, 5], f32[], f32[]) order_A=1 order_B=1 order_Y=1 -> i8[1, 3, 5]
         CropAndResize(f32[2, 3, 8, 9], f32[n, 4], i32[n], i32{4 6}) -> f32[n, 3, 4, 6]
         Rfft(f32[2, 8]) signal_ndim=1 -> f32[2, 5, 2]
         Irfft(f32[2, 5, 2]) signal_ndim=1 -> f32[2, 8]
         Range(i64(3), i64(9)) -> i64[6] = 3 4 5 6 7 8
         Range(f32(0), f32(5.5), f32(0.5)) -> f32[11]
         Pad(f32[2, 3], i64{0 1 2 0}) -> f32[4, 4]
         ReduceSumInteger(u8[2, 3]) axes=[1] keepdims=1 -> u32[2, 1]
         MulInteger(u8[2, 1], _, u8[3]) -> i32[2, 3]
         MurmurHash3(i32[3]) positive=0 -> i32[3]
         Unique(f32[n]) -> f32[?n], i64[n], i64[?n]
         RemovePadding(f32[b, s, 8], i32[b]) -> f32[?b*s, 8], i32[b, s], i32[b + 1], i32[1]
         RestorePadding(f32[t, 8], i32[b, s]) -> f32[b, s, 8]
         BifurcationDetector(i64[n], i64[m], i64[], i64[k]) -> i64[?k + m], i64[]
         DynamicTimeWarping(f32[m, n]) -> i32[2, ?m + n - 1]
         BitmaskDropout(f32[n, 4]) -> f32[n, 4], u32[(n + 7)//8]
         HyperConnectionPreMix(f32[n, 16], f32[n, 2]) num_branches=2 -> f32[n, 8]
         TorchEmbedding(f32[9, 4], i64[n, 3]) -> f32[n, 3, 4]
         RelativePositionBias(f32[8, 2], i64(5), i64(7)) max_distance=8 -> f32[1, 2, 5, 7]",
    );
}

/// A token goes through `k` experts of two matrices each, or three; bytes hold two elements.
#[test]
fn experts_cost_what_they_multiply() {
    for (call, flops) in [
        ("MoE(f32[5, 8], f32[5, 4], f32[4, 6, 8], f32[4, 6], f32[4, 8, 6]) k=2", 5 * 2 * 2 * (48 + 48)),
        ("MoE(f32[2, 3, 8], f32[6, 4], f32[4, 6, 8], _, f32[4, 8, 6], _, f32[4, 6, 8])", 6 * 2 * 3 * 48),
        ("QMoE(f32[5, 32], f32[5, 4], u8[4, 64, 16], f32[4, 64], _, u8[4, 32, 16]) k=2", 5 * 2 * 2 * (2048 + 1024)),
    ] {
        let graph = graph_of(17, "com.microsoft", call, 1).unwrap();
        assert_eq!(graph.ops[0].work.flops.as_constant(), Some(flops), "{call}");
    }
}

#[test]
fn operands_of_the_run_bound_what_they_do_not_fix() {
    check(
        19,
        "",
        "TopK(f32[n, 8], i64[1]) axis=0 -> f32[?n, 8], i64[?n, 8]
         Slice(f32[n, 8, 4], i64[2], i64[2]) -> f32[?n, ?8, 4]
         Slice(f32[n, 8, 4], i64[1], i64{3}, i64{-1}) -> f32[n, 8, ?4]
         Split(f32[n, 8], i64[2]) axis=1 -> f32[n, ?8], f32[n, ?8]
         TfIdfVectorizer(i64[n, 6]) ngram_indexes=[0,1,2,6,3] -> f32[n, 7]",
    );
}

/// A shape that no operator bounds comes from somewhere, and the error says from where.
#[test]
fn errors_name_the_inputs_that_decide() {
    let error = graph_of(19, "", "Expand(f32[3, 1], i64[2])", 1).unwrap_err().to_string();
    assert!(error.contains("follows from `i1`, which `--set` can fix"), "{error}");
    let mut b = Builder::new(19);
    b.input("x", DType::F32, &["4"]).input("size", DType::I64, &["2"]).input("more", DType::I64, &["2"]).output("y");
    b.node("Add", &["size", "more"], &["sum"], vec![]).node("Expand", &["x", "sum"], &["y"], vec![]);
    let error = b.model().graph(&Binding::new()).unwrap_err().to_string();
    assert!(error.contains("`more` and `size`, which `--set` can fix"), "{error}");
    // What floats decide cannot be set.
    let mut b = Builder::new(19);
    b.input("x", DType::F32, &["4"]).output("y").node("Cast", &["x"], &["to"], vec![attribute("to", 7)]);
    b.node("Expand", &["x", "to"], &["y"], vec![]);
    let error = b.model().graph(&Binding::new()).unwrap_err().to_string();
    assert!(error.contains("computed at run time") && !error.contains("--set"), "{error}");
}
