//! Attention and rotary embeddings.

use super::*;

pub(super) const ROWS: &[Row] = &[
    row("Attention", (3, 7), (1, 4), Flops::Rule(attention_flops), attention).paired(),
    row("RotaryEmbedding", (3, 4), (1, 1), Flops::PerOutput(4), as_first),
    row("RotaryEmbedding", (4, 4), (1, 1), Flops::PerOutput(4), as_first).microsoft(),
    row("LinearAttention", (3, 6), (2, 2), Flops::Rule(linear_flops), linear_attention),
    row("CausalConvWithState", (2, 4), (2, 2), Flops::Rule(causal_flops), causal_conv),
    row("LinearAttention", (3, 6), (2, 2), Flops::Rule(linear_flops), linear_attention).microsoft(),
    row("CausalConvWithState", (2, 4), (2, 2), Flops::Rule(causal_flops), causal_conv).microsoft(),
    row("FlexAttention", (3, 3), (1, 1), Flops::Rule(attention_flops), attention).preview(),
    row("MoE", (5, 8), (1, 1), Flops::Rule(experts_flops), as_first).microsoft(),
    row("QMoE", (6, 21), (1, 1), Flops::Rule(experts_flops), as_first).microsoft(),
    row("MultiHeadAttention", (1, 10), (1, 4), Flops::Rule(packed_flops), multi_head).paired().microsoft(),
    row("GroupQueryAttention", (7, 16), (1, 4), Flops::Rule(packed_flops), group_query).paired().microsoft(),
    row("DecoderMaskedMultiHeadAttention", (1, 11), (1, 4), Flops::Rule(packed_flops), decoder_multi_head)
        .paired()
        .microsoft(),
    row("DecoderMaskedSelfAttention", (7, 9), (2, 2), Flops::Rule(packed_flops), contrib_attention).microsoft(),
    row("SparseAttention", (9, 11), (3, 3), Flops::Rule(packed_flops), sparse).microsoft(),
    row("LongformerAttention", (7, 7), (1, 1), Flops::Rule(packed_flops), as_first).microsoft(),
    row("PackedAttention", (5, 6), (1, 1), Flops::Rule(tokens_flops), packed_tokens).microsoft(),
    row("PackedMultiHeadAttention", (6, 7), (1, 1), Flops::Rule(tokens_flops), packed_multi_head).microsoft(),
    row("MRotaryEmbedding", (4, 4), (1, 1), Flops::PerOutput(4), as_first).microsoft(),
    row("Attention", (2, 7), (1, 2), Flops::Rule(packed_flops), contrib_attention).microsoft(),
];

/// Heads and head sizes of an attention whose operands have three axes (heads folded in) or four.
struct Heads {
    batch: Expr,
    heads: Expr,
    seq: Expr,
    size: Expr,
}

fn heads(node: &Node, index: usize, count: &str) -> Result<Heads, Problem> {
    let value = node.input(index)?;
    match value.shape.as_slice() {
        [batch, heads, seq, size] => {
            Ok(Heads { batch: batch.clone(), heads: heads.clone(), seq: seq.clone(), size: size.clone() })
        }
        [batch, seq, hidden] => {
            let heads = node.int(count, 0);
            if heads < 1 {
                return wrong(format!(
                    "`{}` {} has three axes, so `{count}` is needed",
                    value.name,
                    show(&value.shape)
                ));
            }
            let heads = Expr::constant(heads);
            Ok(Heads { batch: batch.clone(), size: hidden.floor_div(&heads), heads, seq: seq.clone() })
        }
        other => wrong(format!("`{}` {} has neither three nor four axes", value.name, show(other))),
    }
}

fn attention(node: &Node) -> Result<Vec<Out>, Problem> {
    let q = heads(node, 0, "q_num_heads")?;
    let k = heads(node, 1, "kv_num_heads")?;
    let v = heads(node, 2, "kv_num_heads")?;
    node.same(&q.size, &k.size, || "query and key differ in head size".to_owned())?;
    node.same(&k.seq, &v.seq, || "key and value differ in length".to_owned())?;
    let past = match node.given(4) {
        Some(_) => node.shape_of_rank(4, 4)?[2].clone(),
        None => Expr::constant(0),
    };
    let total = past + &k.seq;
    if let Some(mask) = node.given(3)
        && let Some(last) = mask.shape.last()
        && *last != Expr::constant(1)
        && node.opset < 24
    {
        node.same(last, &total, || format!("the mask `{}` {} does not fit the keys", mask.name, show(&mask.shape)))?;
    }
    let dtype = node.dtype(0)?;
    let main = if node.shape(0)?.len() == 3 {
        vec![q.batch.clone(), q.seq.clone(), &q.heads * &v.size]
    } else {
        vec![q.batch.clone(), q.heads.clone(), q.seq.clone(), v.size.clone()]
    };
    Ok(vec![
        Out::new(dtype, main),
        Out::new(node.dtype(1)?, [k.batch, k.heads, total.clone(), k.size]),
        Out::new(node.dtype(2)?, [v.batch, v.heads, total.clone(), v.size]),
        Out::new(dtype, [q.batch, q.heads, q.seq, total]),
    ])
}

fn attention_flops(node: &Node, outs: &[Out]) -> Expr {
    let (Ok(q), Some(keys)) = (heads(node, 0, "q_num_heads"), outs.get(1).and_then(|o| o.shape.get(2))) else {
        return Expr::default();
    };
    q.batch * q.heads * q.seq * q.size * keys * Expr::constant(4)
}

/// The contrib operators: queries are `[batch, seq, hidden]`, what they attend to is at most the present length.
fn packed_flops(_: &Node, outs: &[Out]) -> Expr {
    let Some(main) = outs.first() else { return Expr::default() };
    let keys = outs.get(1).and_then(|o| o.shape.iter().nth_back(1)).or(main.shape.get(1)).cloned().unwrap_or_default();
    count(&main.shape) * keys * Expr::constant(4)
}

fn multi_head(node: &Node) -> Result<Vec<Out>, Problem> {
    let q = node.input(0)?;
    let heads = Expr::constant(node.int("num_heads", 1).max(1));
    let (batch, seq, size) = match q.shape.as_slice() {
        [batch, seq, hidden] => (batch.clone(), seq.clone(), hidden.floor_div(&heads)),
        [batch, seq, _, _, size] => (batch.clone(), seq.clone(), size.clone()),
        other => return wrong(format!("its query is {}", show(other))),
    };
    let (k, v) = (node.given(1).map(|k| k.shape.as_slice()), node.given(2).map(|v| v.shape.as_slice()));
    let (fresh, v_hidden) = match (k, v) {
        (Some([_, fresh, _]), Some([_, _, hidden])) => (fresh.clone(), hidden.clone()),
        (Some([_, _, fresh, _]), Some([_, heads, _, size])) => (fresh.clone(), heads * size),
        // Key and value in one operand, or query, key and value.
        (Some([_, fresh, _, _, _]), None) => (fresh.clone(), &heads * &size),
        (None, None) => (seq.clone(), &heads * &size),
        _ => return wrong("its key and value do not fit each other"),
    };
    let past = match node.given(6) {
        Some(_) => node.shape_of_rank(6, 4)?[2].clone(),
        None => Expr::constant(0),
    };
    // With a length given beside it, the past is a buffer of the greatest length that is written in place.
    let total = if node.given(8).is_some() { past } else { past + fresh };
    let v_size = v_hidden.floor_div(&heads);
    Ok(vec![
        Out::new(q.dtype, [batch.clone(), seq.clone(), v_hidden]),
        Out::new(q.dtype, [batch.clone(), heads.clone(), total.clone(), size]),
        Out::new(q.dtype, [batch.clone(), heads.clone(), total.clone(), v_size]),
        Out::new(q.dtype, [batch, heads, seq, total]),
    ])
}

fn group_query(node: &Node) -> Result<Vec<Out>, Problem> {
    let q = node.shape_of_rank(0, 3)?;
    let heads = Expr::constant(node.int("num_heads", 1).max(1));
    let kv_heads = Expr::constant(node.int("kv_num_heads", 1).max(1));
    let two = Expr::constant(2);
    // Without a key, query, key and value lie in one operand.
    let size = match node.given(1) {
        Some(_) => q[2].floor_div(&heads),
        None => q[2].floor_div(&(&heads + &kv_heads * &two)),
    };
    let dtype = node.dtype(0)?;
    // The present is the total length, or the past's buffer where that is longer.
    let past = match node.given(3) {
        Some(_) => node.shape_of_rank(3, 4)?[2].clone(),
        None => Expr::constant(0),
    };
    let window = node.int("sliding_window_cache", 0) != 0 && node.given(3).is_some();
    let total = match node.known(6).and_then(|all| all.first()) {
        _ if window => past,
        Some(total) => past.max(total),
        None => {
            node.note("the present length is taken as past + new; the operator may keep a longer buffer".to_owned());
            past + &q[1]
        }
    };
    let cache_type = node.given(3).map_or(dtype, |past| past.dtype);
    // A cache of few bits holds several elements in one of its own.
    let width = node.given(3).and_then(|past| past.shape.last()).unwrap_or(&size);
    let cache = Out::new(cache_type, [q[0].clone(), kv_heads, total.clone(), width.clone()]);
    Ok(vec![
        Out::new(dtype, [q[0].clone(), q[1].clone(), &heads * &size]),
        cache.clone(),
        cache,
        Out::new(dtype, [q[0].clone(), heads, q[1].clone(), total]),
    ])
}

fn contrib_attention(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(1, 2)?);
    let heads = Expr::constant(node.int("num_heads", 1).max(1));
    let hidden = match node.ints("qkv_hidden_sizes") {
        Some([_, _, v]) => Expr::constant(*v),
        _ => w[1].floor_div(&Expr::constant(3)),
    };
    let past = match node.given(4) {
        Some(_) => node.shape_of_rank(4, 5)?[3].clone(),
        None => Expr::constant(0),
    };
    let dtype = node.dtype(0)?;
    let size = hidden.floor_div(&heads);
    let present = [Expr::constant(2), x[0].clone(), heads, past + &x[1], size];
    Ok(vec![Out::new(dtype, [x[0].clone(), x[1].clone(), hidden]), Out::new(dtype, present)])
}

/// One token's query beside keys that are new, or, with four axes, all that is attended to.
fn decoder_multi_head(node: &Node) -> Result<Vec<Out>, Problem> {
    let q = node.shape_of_rank(0, 3)?;
    let heads = Expr::constant(node.int("num_heads", 1).max(1));
    let (past, shared) = match node.given(5) {
        Some(_) => (node.shape_of_rank(5, 4)?[2].clone(), node.int("past_present_share_buffer", 0) != 0),
        None => (Expr::constant(0), false),
    };
    let (fresh, hidden) = match (node.given(1), node.given(2).map(|v| v.shape.as_slice())) {
        (Some(k), Some([_, heads, _, size])) if k.shape.len() == 4 => (k.shape[2].clone(), heads * size),
        (_, Some([_, _, hidden])) => (q[1].clone(), hidden.clone()),
        (None, None) => (q[1].clone(), q[2].floor_div(&Expr::constant(3))),
        _ => return wrong("its key and value do not fit"),
    };
    let total = if shared { past } else { past + fresh };
    let size = hidden.floor_div(&heads);
    let cache = Out::new(node.dtype(0)?, [q[0].clone(), heads.clone(), total.clone(), size]);
    let scores = Out::new(node.dtype(0)?, [q[0].clone(), heads, q[1].clone(), total]);
    Ok(vec![Out::new(node.dtype(0)?, [q[0].clone(), q[1].clone(), hidden]), cache.clone(), cache, scores])
}

/// The caches are buffers of the greatest length.
fn sparse(node: &Node) -> Result<Vec<Out>, Problem> {
    let (q, key, value) = (node.shape_of_rank(0, 3)?, node.input(3)?, node.input(4)?);
    let size = node.shape_of_rank(3, 4)?[3].clone();
    let hidden = Expr::constant(node.int("num_heads", 1)) * size;
    Ok(vec![
        Out::new(node.dtype(0)?, [q[0].clone(), q[1].clone(), hidden]),
        Out::new(key.dtype, key.shape.clone()),
        Out::new(value.dtype, value.shape.clone()),
    ])
}

fn packed_tokens(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.shape_of_rank(0, 2)?, node.shape_of_rank(1, 2)?);
    let hidden = match node.ints("qkv_hidden_sizes") {
        Some([_, _, v]) => Expr::constant(*v),
        _ => w[1].floor_div(&Expr::constant(3)),
    };
    Ok(vec![Out::new(node.dtype(0)?, [x[0].clone(), hidden])])
}

fn packed_multi_head(node: &Node) -> Result<Vec<Out>, Problem> {
    let q = node.shape(0)?;
    let hidden = match (q, node.given(2).map(|v| v.shape.as_slice())) {
        ([_, heads, _, size], _) => heads * size,
        ([_, _], Some([_, hidden])) => hidden.clone(),
        _ => return wrong(format!("its query is {}", show(q))),
    };
    Ok(vec![Out::new(node.dtype(0)?, [q[0].clone(), hidden])])
}

/// Tokens of all sequences stand one after another; each attends to at most the longest sequence.
fn tokens_flops(node: &Node, outs: &[Out]) -> Expr {
    let places = if node.kind == "PackedAttention" { 3 } else { 4 };
    let keys = node.shape(places).ok().and_then(|shape| shape.last()).cloned().unwrap_or_default();
    outs.first().map_or(Expr::default(), |out| count(&out.shape)) * keys * Expr::constant(4)
}

/// Each token goes through `k` experts, each of which multiplies it with two or three matrices.
fn experts_flops(node: &Node, outs: &[Out]) -> Expr {
    let quantised = node.kind == "QMoE";
    let matrices = if quantised { [2, 5, 8] } else { [2, 4, 6] };
    let weights = matrices.iter().zip(1..).filter_map(|(at, number)| {
        let matrix = node.given(*at)?;
        let elements = count(matrix.shape.get(1..).unwrap_or_default());
        // Bytes hold several elements.
        let bits = node.int(&format!("fc{number}_expert_weight_bits"), node.int("expert_weight_bits", 4));
        let packed = quantised && matrix.dtype == DType::U8;
        Some(if packed { elements * Expr::constant(8 / bits.clamp(1, 8)) } else { elements })
    });
    let tokens = outs.first().map_or(Expr::default(), |out| count(&out.shape[..out.shape.len().saturating_sub(1)]));
    let experts = Expr::constant(node.int("k", 1));
    weights.fold(Expr::constant(0), |sum, each| sum + each) * tokens * experts * Expr::constant(2)
}

fn head_counts(node: &Node) -> Result<(Expr, Expr), Problem> {
    let (q, kv) = (node.int("q_num_heads", 0), node.int("kv_num_heads", 0));
    if q < 1 || kv < 1 {
        return wrong(format!("its numbers of heads are {q} and {kv}"));
    }
    Ok((Expr::constant(q), Expr::constant(kv)))
}

fn linear_attention(node: &Node) -> Result<Vec<Out>, Problem> {
    let (q, k, v) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(1, 3)?, node.shape_of_rank(2, 3)?);
    let (heads, kv_heads) = head_counts(node)?;
    let (key, value) = (k[2].floor_div(&kv_heads), v[2].floor_div(&kv_heads));
    let state_type = node.given(3).map_or(node.dtype(0)?, |state| state.dtype);
    Ok(vec![
        // The contrib form may have fewer heads of queries than of keys.
        Out::new(node.dtype(0)?, [q[0].clone(), q[1].clone(), heads.max(&kv_heads) * &value]),
        Out::new(state_type, [window(node), vec![q[0].clone(), kv_heads, key, value]].concat()),
    ])
}

/// The contrib forms may keep the states after several of the last tokens, on an axis before all others.
fn window(node: &Node) -> Vec<Expr> {
    match node.int("state_window", 0) {
        0 => Vec::new(),
        slots => vec![Expr::constant(slots)],
    }
}

/// Each step updates and reads a state matrix for each head.
fn linear_flops(_: &Node, outs: &[Out]) -> Expr {
    let (Some(main), Some(state)) = (outs.first(), outs.get(1)) else { return Expr::default() };
    let key = state.shape.iter().nth_back(1).cloned().unwrap_or_default();
    count(&main.shape) * key * Expr::constant(4)
}

fn causal_conv(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w, dtype) = (node.shape(0)?, node.shape(1)?, node.dtype(0)?);
    let (false, Some(kernel)) = (x.len() < 3, w.last()) else {
        return wrong(format!("the operands {} and {} do not fit", show(x), show(w)));
    };
    let length = (kernel - Expr::constant(1)) * Expr::constant(node.int("dilation", 1));
    // The causal axis is the last spatial one, or with channels last the first after the batch.
    let mut state = x.to_vec();
    let causal = if node.int("channels_last", 0) != 0 { 1 } else { x.len() - 1 };
    state[causal] = length;
    Ok(vec![Out::new(dtype, x), Out::new(dtype, [window(node), state].concat())])
}

fn causal_flops(node: &Node, outs: &[Out]) -> Expr {
    let kernel = node.shape(1).map_or(Expr::default(), |w| count(w.get(2..).unwrap_or_default()));
    outs.first().map_or(Expr::default(), |out| count(&out.shape)) * kernel * Expr::constant(2)
}
