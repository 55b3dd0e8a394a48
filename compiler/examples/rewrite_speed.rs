//! How long rewriting takes: graphs of so many operators with nothing to rewrite, and with something in each layer.
//!
//!     cargo run --release -p berth-compiler --example rewrite_speed -- 100000

// Tests use the rest of it.
#[allow(dead_code)]
#[path = "../tests/common/build.rs"]
mod build;

use berth_compiler::import::onnx::AttributeProto;
use berth_compiler::rewrite::rewrite;
use berth_ir::DType;
use berth_ir::expr::Binding;
use build::{Builder, attribute};
use std::collections::BTreeMap;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for word in std::env::args().skip(1) {
        let count: usize = word.parse()?;
        for (what, layer) in [("nothing", plain as Layer), ("transposes", transposes), ("rotations", rotations)] {
            let mut b = Builder::new(17);
            b.input("v0", DType::F32, &["4", "6", "8"]).ints("first", &[0]).ints("last", &[4]).ints("end", &[8]);
            b.ints("axis", &[2]);
            let (mut n, mut last) = (0, "v0".to_owned());
            while n < count {
                last = layer(&mut b, &last, &mut n);
            }
            b.output("y").node("Exp", &[&last], &["y"], vec![]);
            let graph = b.model().graph(&Binding::new())?;
            let start = Instant::now();
            let other = rewrite(&graph, &BTreeMap::new());
            let time = start.elapsed().as_millis();
            let after = other.map_or(graph.ops.len(), |g| g.ops.len());
            println!("{what}: {} operators, {after} after, in {time} ms", graph.ops.len());
        }
    }
    Ok(())
}

/// Adds a layer to a model; gives its result. Counts its operators.
type Layer = fn(&mut Builder, &str, &mut usize) -> String;

fn op(b: &mut Builder, kind: &str, from: &[&str], n: &mut usize, attributes: Vec<AttributeProto>) -> String {
    *n += 1;
    let to = format!("v{n}");
    b.node(kind, from, &[&to], attributes);
    to
}

fn plain(b: &mut Builder, from: &str, n: &mut usize) -> String {
    let a = op(b, "Exp", &[from], n, vec![]);
    let c = op(b, "Add", &[&a, from], n, vec![]);
    op(b, "Relu", &[&c], n, vec![])
}

fn transposes(b: &mut Builder, from: &str, n: &mut usize) -> String {
    let order =
        |o: &[i64]| vec![AttributeProto { name: "perm".into(), r#type: 7, ints: o.to_vec(), ..Default::default() }];
    let a = op(b, "Transpose", &[from], n, order(&[0, 2, 1]));
    let c = op(b, "Relu", &[&a], n, vec![]);
    let d = op(b, "Transpose", &[&c], n, order(&[0, 2, 1]));
    op(b, "Exp", &[&d], n, vec![])
}

/// As decoders turn half of each head: pieces put together in another order.
fn rotations(b: &mut Builder, from: &str, n: &mut usize) -> String {
    let a = op(b, "Slice", &[from, "first", "last", "axis"], n, vec![]);
    let c = op(b, "Slice", &[from, "last", "end", "axis"], n, vec![]);
    let d = op(b, "Neg", &[&c], n, vec![]);
    let e = op(b, "Concat", &[&d, &a], n, vec![attribute("axis", 2)]);
    let f = op(b, "Mul", &[&e, from], n, vec![]);
    op(b, "Exp", &[&f], n, vec![])
}
