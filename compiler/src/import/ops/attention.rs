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
    row("MoE", (2, MANY), (1, 1), Flops::None, as_first).microsoft(),
    row("QMoE", (2, MANY), (1, 1), Flops::None, as_first).microsoft(),
    row("MultiHeadAttention", (1, 10), (1, 4), Flops::Rule(packed_flops), multi_head).paired().microsoft(),
    row("GroupQueryAttention", (7, 16), (3, 4), Flops::Rule(packed_flops), group_query).microsoft(),
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
    if q.shape.len() != 3 {
        return unknown("its query is packed");
    }
    let (Some(k), Some(v)) = (node.given(1), node.given(2)) else { return unknown("its key is packed") };
    let (batch, seq) = (q.shape[0].clone(), q.shape[1].clone());
    let size = q.shape[2].floor_div(&heads);
    let (fresh, v_hidden) = match (k.shape.as_slice(), v.shape.as_slice()) {
        ([_, fresh, _], [_, _, hidden]) => (fresh.clone(), hidden.clone()),
        ([_, _, fresh, _], [_, heads, _, size]) => (fresh.clone(), heads * size),
        _ => return unknown("its key is packed"),
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
    let total = match node.known(6).and_then(|all| all.first()) {
        Some(total) => past.max(total),
        None => {
            node.note("the present length is taken as past + new; the operator may keep a longer buffer".to_owned());
            past + &q[1]
        }
    };
    let cache_type = node.given(3).map_or(dtype, |past| past.dtype);
    let cache = Out::new(cache_type, [q[0].clone(), kv_heads, total.clone(), size.clone()]);
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
        Out::new(node.dtype(0)?, [q[0].clone(), q[1].clone(), heads * &value]),
        Out::new(state_type, [q[0].clone(), kv_heads, key, value]),
    ])
}

/// Each step updates and reads a state matrix for each head.
fn linear_flops(_: &Node, outs: &[Out]) -> Expr {
    let (Some(main), Some(state)) = (outs.first(), outs.get(1)) else { return Expr::default() };
    let key = state.shape.get(2).cloned().unwrap_or_default();
    count(&main.shape) * key * Expr::constant(4)
}

fn causal_conv(node: &Node) -> Result<Vec<Out>, Problem> {
    let (x, w) = (node.shape_of_rank(0, 3)?, node.shape_of_rank(1, 3)?);
    let dtype = node.dtype(0)?;
    let state = [x[0].clone(), x[1].clone(), &w[2] - Expr::constant(1)];
    Ok(vec![Out::new(dtype, x), Out::new(dtype, state)])
}

fn causal_flops(node: &Node, outs: &[Out]) -> Expr {
    let kernel = node.shape(1).ok().and_then(|w| w.last()).cloned().unwrap_or_default();
    outs.first().map_or(Expr::default(), |out| count(&out.shape)) * kernel * Expr::constant(2)
}
