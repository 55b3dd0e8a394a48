//! Operators in pieces run in the real engine: outputs are those of the whole, bit for bit, in much less room.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;

use berth_compiler::import::onnx::AttributeProto;
use berth_ir::DType;
use build::{Builder, attribute};
use common::{Folder, json, refused};
use serde_json::Value;

/// A device behind a memory that files are read into, at half the rate between the two.
const MACHINE: &str = r#"(name: "m", source: "made up", tiers: [
    (name: "device", capacity: "1GiB", bandwidth: "12GB/s", alignment: 64),
    (name: "dram", capacity: "1GiB", bandwidth: "12GB/s", alignment: 64),
    (name: "nvme", capacity: "1TiB", bandwidth: "2GB/s", alignment: 4096, files: true)],
    engines: [(name: "cores", tier: "device", rates: [(f32, "60Gops/s")], launch: "2us")],
    links: [
        (name: "read", from: "nvme", to: "dram", rate: "1GB/s", latency: "20us", chunk: "256KiB"),
        (name: "in", from: "dram", to: "device", rate: "2GB/s", latency: "2us", chunk: "256KiB"),
    ])"#;

/// Random numbers from a seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    fn among<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.next() as usize % all.len()]
    }
    fn floats(&mut self, count: usize) -> Vec<u8> {
        (0..count).flat_map(|_| ((self.next() % 65_536) as f32 / 32_768.0 - 1.0).to_le_bytes()).collect()
    }
}

fn perm() -> AttributeProto {
    AttributeProto { name: "perm".to_owned(), r#type: 7, ints: vec![1, 0], ..Default::default() }
}

/// A table from which rows are taken, front and back, then two products of every form there is; the rows are as many as
/// the places.
fn random(dice: &mut Dice, rows: usize) -> Builder {
    let (table, depth) = (dice.among(&[97usize, 512, 1000]), dice.among(&[48usize, 130, 300]));
    // Deep enough that it is the weight which takes the room.
    let depth = if rows == 128 { 600 } else { depth };
    // Wide enough to be cut where rows are several: 80 blocks of 16 columns, twice.
    let wide = if rows == 1 { dice.among(&[333usize, 1001]) } else { dice.among(&[2571usize, 2688]) };
    let (d, w) = (depth as i64, wide as i64);
    let mut b = Builder::new(17);
    let places: Vec<i64> = (0..rows).map(|_| dice.next() as i64 % (2 * table as i64) - table as i64).collect();
    b.ints("places", &places).input("zero", DType::I64, &["1"]).node("Add", &["places", "zero"], &["i"], vec![]);
    b.tensor("e", DType::F32, &[table as i64, d], dice.floats(table * depth));
    b.node("Gather", &["e", "i"], &["x"], vec![]);
    b.tensor("a", DType::F32, &[d, w], dice.floats(depth * wide)).node("MatMul", &["x", "a"], &["p"], vec![]);
    b.tensor("b", DType::F32, &[w, d], dice.floats(depth * wide)).node("Transpose", &["b"], &["t"], vec![perm()]);
    b.node("MatMul", &["x", "t"], &["q"], vec![]);
    b.tensor("c", DType::F32, &[w], dice.floats(wide));
    b.node("Gemm", &["x", "b", "c"], &["r"], vec![attribute("transB", 1)]);
    b.tensor("g", DType::F32, &[d, w], dice.floats(depth * wide)).node("Gemm", &["x", "g"], &["s"], vec![]);
    ["x", "p", "q", "r", "s"].iter().for_each(|name| {
        b.output(name);
    });
    b
}

fn same_bits(case: &str, report: &Value) {
    let different = report["against"]["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "{case}: these outputs differ from those of the whole: {different:?}");
}

fn budget(report: &Value) -> u64 {
    report["plan"]["budget"]["device"].as_u64().expect("a budget")
}

#[test]
fn pieces_have_the_bits_of_the_whole() {
    let folder = Folder::new("split");
    let (model, all) = (folder.file("model.onnx"), folder.file("all.npz"));
    for (seed, rows) in [1, 7, 128, 1, 33, 2].into_iter().enumerate() {
        let b = random(&mut Dice(seed as u64), rows);
        std::fs::write(&model, b.bytes()).expect("the model");
        let threads = ["1", "2", "4"][seed % 3];
        let run = |words: &[&str]| json(&[&["run", &model, "--threads", threads], words].concat());
        let case = format!("seed {seed}, {rows} rows, {threads} threads");
        let whole = json(&["inspect", &model])["least_whole_bytes"].as_u64().expect("bytes");
        run(&["--outputs", &all]);
        let least = run(&["--memory", "device=least", "--against", &all]);
        same_bits(&case, &least);
        assert!(budget(&least) < whole * 9 / 10, "{case}: {} of {whole} bytes", budget(&least));
        // Between the least and what the whole needs it takes fewer pieces, and less than the whole needs.
        let between = format!("device={}B", (budget(&least) + whole) / 2);
        same_bits(&case, &run(&["--memory", &between, "--against", &all]));
    }
}

#[test]
fn places_that_no_row_has_are_refused_as_by_the_whole() {
    let folder = Folder::new("split-places");
    let (model, inputs) = (folder.file("model.onnx"), folder.file("in.npz"));
    let mut b = Builder::new(17);
    b.tensor("e", DType::F32, &[100, 64], Dice(1).floats(6400)).input("i", DType::I64, &["1"]);
    b.node("Gather", &["e", "i"], &["y"], vec![]).output("y");
    std::fs::write(&model, b.bytes()).expect("the model");
    for (place, ends) in [(99i64, 0), (-100, 0), (100, 1), (-101, 1), (-150, 1), (i64::MAX, 1), (i64::MIN, 1)] {
        let bytes = place.to_le_bytes().to_vec();
        let array = berth::npz::Array { name: "i".to_owned(), dtype: DType::I64, shape: vec![1], bytes };
        berth::npz::write(inputs.as_ref(), &[array]).expect("an input");
        for memory in [&[][..], &["--memory", "device=least"]] {
            let output = common::berth([&["run", &model, "--inputs", &inputs], memory].concat());
            assert_eq!(output.status.success(), ends == 0, "{place} {memory:?}");
        }
    }
}

#[test]
fn a_plan_in_pieces_is_verified_and_run_again() {
    let folder = Folder::new("split-plan");
    let sizes = ["--dim", "batch=1", "--dim", "seq=1", "--dim", "past=31"];
    let model = "models/llama_decode.onnx";
    let seen = json(&[&["inspect", model], &sizes[..]].concat());
    let (least, whole) =
        (seen["least_bytes"].as_u64().expect("bytes"), seen["least_whole_bytes"].as_u64().expect("bytes"));
    // The output head and the table of words set it: 512 KiB each.
    assert!(whole > 512 << 10 && least < whole / 4, "{least} of {whole}");
    for extension in ["ron", "binpb"] {
        let plan = folder.file(&format!("plan.{extension}"));
        let compile = |memory: &str| json(&[&["compile", model, "--memory", memory, "-o", &plan], &sizes[..]].concat());
        assert_eq!(compile("device=least")["budget"]["device"].as_u64(), Some(least));
        json(&["verify", &plan, "--model", model]);
        let all = folder.file("all.npz");
        json(&[&["run", model, "--outputs", &all], &sizes[..]].concat());
        same_bits(&plan, &json(&["run", &plan, "--model", model, "--against", &all]));
        let (code, said) = refused(&["run", &plan, "--model", model, "--threads", "17"]);
        assert!(code == 2 && said.contains("up to 16 threads"), "{said}");
    }
    // With room for all nothing is split.
    let plan = folder.file("whole.ron");
    let words = ["compile", model, "--memory", "device=100%", "-o", &plan];
    json(&[&words[..], &sizes[..]].concat());
    assert!(!std::fs::read_to_string(&plan).expect("the plan").contains("split"));
    // A byte less, and something is.
    let words = ["compile", model, "--memory", &format!("device={}B", whole - 1), "-o", &plan];
    json(&[&words[..], &sizes[..]].concat());
    assert!(std::fs::read_to_string(&plan).expect("the plan").contains("split: Some(("));
    let (code, said) =
        refused(&[&["compile", model, "--memory", &format!("device={}B", least - 1)], &sizes[..]].concat());
    assert!(code == 1 && said.contains(&format!("needed {least} B")), "{said}");
}

/// Eight products by a matrix of 1 MiB, then one by one of 4 MiB; of each the file has the columns (`turned`) or the rows one
/// behind the other.
fn layers(turned: bool) -> Builder {
    let mut b = Builder::new(17);
    b.input("x0", DType::F32, &["1", "512"]);
    for n in 0..9usize {
        let (wide, product) = (if n < 8 { 512 } else { 2048 }, format!("p{n}"));
        let (w, t, x, next) = (format!("w{n}"), format!("t{n}"), format!("x{n}"), format!("x{}", n + 1));
        let data = Dice(n as u64).floats(512 * wide as usize);
        if turned {
            b.tensor(&w, DType::F32, &[wide, 512], data).node("Transpose", &[&w], &[&t], vec![perm()]);
        } else {
            b.tensor(&t, DType::F32, &[512, wide], data);
        }
        b.node("MatMul", &[&x, &t], &[&product], vec![]);
        if n < 8 {
            b.node("Tanh", &[&product], &[&next], vec![]);
        }
    }
    b.output("p8");
    b
}

#[test]
fn what_waits_for_files_is_cut_where_the_step_is_shorter_so() {
    let folder = Folder::new("split-step");
    let (model, plan, all) = (folder.file("model.onnx"), folder.file("plan.ron"), folder.file("all.npz"));
    let target = folder.file("machine.ron");
    std::fs::write(&target, MACHINE).expect("the machine");
    let compile = |memory: [&str; 2]| {
        let memory = ["--memory", memory[0], "--memory", memory[1]];
        let report = json(&[&["compile", &model, "--target", &target, "-o", &plan], &memory[..]].concat());
        let said = std::fs::read_to_string(&plan).expect("the plan");
        (report, said.contains("split: Some(("), said.contains("contiguous: true"))
    };
    let (small, ample) = (["device=4400KiB", "dram=5MiB"], ["device=4400KiB", "dram=64MiB"]);
    std::fs::write(&model, layers(true).bytes()).expect("the model");
    let (report, split, contiguous) = compile(small);
    assert!(split && contiguous, "{report}");
    let figure = |report: &Value, name: &str| report[name].as_u64().expect("a figure");
    let (step, bound) = (figure(&report, "predicted_nanos"), figure(&report, "bound_nanos"));
    assert!(step * 4 < bound * 5, "{report}");
    json(&["verify", &plan, "--model", &model, "--target", &target]);
    json(&["run", &model, "--outputs", &all]);
    let run = json(&["run", &plan, "--model", &model, "--target", &target, "--against", &all]);
    same_bits("in pieces of columns that lie in a row", &run);
    // Where the columns lie apart each piece would come with what lies between: cut only where files are not read in each step.
    std::fs::write(&model, layers(false).bytes()).expect("the model");
    let (report, split, _) = compile(small);
    assert!(!split, "{report}");
    let (report, _, contiguous) = compile(ample);
    assert!(!contiguous, "{report}");
}

#[test]
fn a_comparison_is_of_the_plan_that_compile_makes() {
    let folder = Folder::new("split-compare");
    let (model, target) = (folder.file("model.onnx"), folder.file("machine.ron"));
    std::fs::write(&target, MACHINE).expect("the machine");
    std::fs::write(&model, layers(true).bytes()).expect("the model");
    // Half of what is needed whole: of what pieces need it would be more bytes.
    let words = [model.as_str(), "--target", &target, "--memory", "device=50%", "--memory", "dram=5MiB"];
    let report = json(&[&["compile"], &words[..]].concat());
    let compared = json(&[&["compare"], &words[..]].concat());
    let ours = &compared["rows"][0]["figures"];
    assert!(report["tasks"].as_u64().is_some_and(|tasks| tasks > 18), "{report}");
    for figure in ["tasks", "budget", "predicted_nanos"] {
        assert_eq!(ours[figure], report[figure], "{figure}");
    }
    // A simulation of the plan looks at as many steps by itself.
    let plan = folder.file("plan.ron");
    json(&[&["compile"], &words[..], &["-o", &plan]].concat());
    let simulated = json(&["simulate", &plan, "--target", &target]);
    assert_eq!((&simulated["step_nanos"], simulated["steps"].as_u64()), (&report["predicted_nanos"], Some(6)));
}

/// Products of narrow floats, whose matrices the engine widens: its scratch is that on the device's engine and on the cores.
#[test]
fn scratch_is_counted_on_whichever_engine_runs_a_task() {
    let folder = Folder::new("split-scratch");
    let (model, target, all) = (folder.file("model.onnx"), folder.file("machine.ron"), folder.file("all.npz"));
    let mut b = Builder::new(17);
    b.input("x0", DType::F16, &["1", "128"]);
    for n in 0..24usize {
        let (w, x, next) = (format!("w{n}"), format!("x{n}"), format!("x{}", n + 1));
        let small = |n: usize| 0x2400 + (n * 2_654_435_761 % 512) as u16;
        b.tensor(&w, DType::F16, &[128, 128], (0..128 * 128).flat_map(|m| small(m + n).to_le_bytes()).collect());
        b.node("MatMul", &[&x, &w], &[&next], vec![]);
    }
    b.output("x24");
    std::fs::write(&model, b.bytes()).expect("the model");
    let cores = r#"launch: "2us"), (name: "host", tier: "dram", rates: [(f32, "60Gops/s")], launch: "2us")]"#;
    let slow =
        MACHINE.replace("launch: \"2us\")]", cores).replace("rate: \"2GB/s\", latency", "rate: \"20MB/s\", latency");
    let back = r#"(name: "out", from: "device", to: "dram", rate: "2GB/s", latency: "2us", chunk: "256KiB"),"#;
    std::fs::write(&target, slow.replace("links: [", &format!("links: [{back}"))).expect("the machine");
    json(&["run", &model, "--outputs", &all]);
    let run = ["run", &model, "--target", &target, "--memory", "device=least", "--engines", "cores,host"];
    let report = json(&[&run[..], &["--against", &all]].concat());
    same_bits("on the cores", &report);
    assert!(report["plan"]["engines"]["host"].as_u64().is_some_and(|tasks| tasks > 16), "{report}");
}
