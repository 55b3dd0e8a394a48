//! Times the import and lowering of a model, or of a chain of this many operators.
//!
//! `cargo run --release -p berth-compiler --example import_speed -- MODEL [DIM=N ...]`, or `-- 100000`.

use berth_compiler::import::{Model, dtype_to_onnx, onnx, open};
use berth_compiler::lower::{exactly, lower};
use berth_ir::DType;
use berth_ir::expr::Binding;
use berth_ir::target::Target;
use prost::Message;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Sums, each of the one before and of one far back, so that values live long.
fn chain(operators: usize) -> Vec<u8> {
    let dim =
        onnx::tensor_shape_proto::Dimension { value: Some(onnx::tensor_shape_proto::dimension::Value::DimValue(8)) };
    let shape = Some(onnx::TensorShapeProto { dim: vec![dim] });
    let tensor = onnx::type_proto::Tensor { elem_type: dtype_to_onnx(DType::F32), shape };
    let info = |name: String| onnx::ValueInfoProto {
        name,
        r#type: Some(onnx::TypeProto { value: Some(onnx::type_proto::Value::TensorType(tensor.clone())) }),
    };
    let node = |n: usize| onnx::NodeProto {
        op_type: "Add".to_owned(),
        input: vec![format!("v{}", n - 1), format!("v{}", n.saturating_sub(50))],
        output: vec![format!("v{n}")],
        ..Default::default()
    };
    let graph = onnx::GraphProto {
        input: vec![info("v0".to_owned())],
        output: vec![info(format!("v{operators}"))],
        node: (1..=operators).map(node).collect(),
        ..Default::default()
    };
    let opset_import = vec![onnx::OperatorSetIdProto { domain: String::new(), version: 17 }];
    onnx::ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec()
}

/// The most memory that this process has had, in MiB.
fn peak_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|kib| kib >> 10)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let what = words.next().ok_or("give a model file or a number of operators")?;
    let binding: Binding = words
        .map(|word| {
            let (dim, size) = word.split_once('=').ok_or("a dim is bound as NAME=N")?;
            Ok((dim.to_owned(), size.parse()?))
        })
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let start = Instant::now();
    let model = match what.parse() {
        Ok(operators) => Model::decode(chain(operators).into(), PathBuf::from("/nowhere/chain.onnx"))?,
        Err(_) => open(Path::new(&what))?,
    };
    println!("open    {:?}", start.elapsed());
    let start = Instant::now();
    let graph = model.graph(&binding)?;
    println!("import  {:?}, {} operators, {} values", start.elapsed(), graph.ops.len(), graph.values.len());
    let start = Instant::now();
    let target = Target { name: String::new(), source: String::new(), tiers: vec![], engines: vec![], links: vec![] };
    let lowered = lower(&graph, &exactly(&binding), &target, &|_, _, _| None)?;
    println!("lower   {:?}, {} tasks", start.elapsed(), lowered.lifetimes.tasks.len());
    println!("memory  {} MiB at most", peak_mib().unwrap_or(0));
    Ok(())
}
