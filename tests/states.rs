//! States: runs of many steps give the bits of single steps whose outputs the caller carries back, in any memory; plans say which
//! inputs and outputs are one state, and run again.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;
#[allow(dead_code)]
#[path = "../compiler/tests/common/recurrent.rs"]
mod recurrent;

use berth::npz::{self, Array};
use berth_compiler::import::onnx::AttributeProto;
use berth_ir::DType;
use build::{Builder, attribute};
use common::{Folder, berth, json, refused};
use recurrent::random;
use serde_json::Value;
use std::path::Path;

const ROWS: i64 = 4;
const WIDE: i64 = 256;
const LAYERS: usize = 6;
const CACHE: i64 = 3;
const STEPS: usize = 5;

/// Numbers that are no other's.
fn numbers(count: i64, salt: usize) -> Vec<u8> {
    let number = |n: usize| ((n * 2_654_435_761 + salt * 40_503) % 2_001) as f32 / 1_000.0 - 1.0;
    (0..count as usize).flat_map(|n| (number(n) / 16.0).to_le_bytes()).collect()
}

/// Recurrent layers one on the other, `h' = tanh(h W + x U)`, each with its own state. Beside them sums, products and the
/// largest of what came (which the tasks that write them read), a state that is read behind its writer, one through views,
/// and two that swap. Then caches of fixed size into which each step writes a row, at a place that is a state too.
fn recurrent(b: &mut Builder) -> Vec<(String, String)> {
    let shape = &[&*ROWS.to_string(), &*WIDE.to_string()];
    let mut pairs: Vec<(String, String)> = Vec::new();
    b.input("x", DType::F32, shape);
    let mut below = "x".to_owned();
    for n in 0..LAYERS {
        let name = |what: &str| format!("{what}{n}");
        b.input(&name("h"), DType::F32, shape);
        b.tensor(&name("w"), DType::F32, &[WIDE, WIDE], numbers(WIDE * WIDE, 2 * n));
        b.tensor(&name("u"), DType::F32, &[WIDE, WIDE], numbers(WIDE * WIDE, 2 * n + 1));
        b.node("MatMul", &[&name("h"), &name("w")], &[&name("hw")], vec![]);
        b.node("MatMul", &[&below, &name("u")], &[&name("xu")], vec![]);
        b.node("Add", &[&name("hw"), &name("xu")], &[&name("a")], vec![]);
        b.node("Tanh", &[&name("a")], &[&name("next")], vec![]).output(&name("next"));
        below = name("next");
        pairs.push((name("h"), name("next")));
    }
    let flat = (ROWS * WIDE).to_string();
    for name in ["sum", "less", "part", "ratio", "most", "late", "left", "right"] {
        b.input(name, DType::F32, shape);
        pairs.push((name.to_owned(), format!("{name}_next")));
    }
    b.input("line", DType::F32, &[&flat]).ints("flat", &[ROWS * WIDE]).ints("wide", &[ROWS, WIDE]);
    pairs.push(("line".to_owned(), "line_next".to_owned()));
    b.node("Add", &["sum", &below], &["sum_next"], vec![]);
    b.node("Sub", &[&below, "less"], &["less_next"], vec![]).node("Mul", &["part", &below], &["part_next"], vec![]);
    b.node("Max", &["most", &below], &["most_next"], vec![]).node("Cos", &["less_next"], &["near_one"], vec![]);
    b.node("Div", &["ratio", "near_one"], &["ratio_next"], vec![]).output("most_next");
    b.output("less_next").output("part_next").output("ratio_next");
    b.node("Cos", &[&below], &["late_next"], vec![]).node("Mul", &["late_next", "late"], &["y"], vec![]);
    b.node("Reshape", &["line", "wide"], &["line_wide"], vec![]).node("Sub", &["y", "line_wide"], &["z"], vec![]);
    b.node("Sin", &["z"], &["s"], vec![]).node("Reshape", &["s", "flat"], &["line_next"], vec![]);
    b.node("Identity", &["left"], &["right_next"], vec![]).node("Identity", &["right"], &["left_next"], vec![]);
    b.output("y").output("z").output("sum_next").output("late_next").output("line_next");
    b.output("left_next").output("right_next");
    let cache = &[&*CACHE.to_string(), &*WIDE.to_string()];
    b.input("at", DType::I64, &["1"]).input("keys", DType::F32, cache).input("values", DType::F32, cache);
    b.ints("one", &[1]).ints("rows", &[CACHE]).ints("zero", &[0]).ints("row", &[1, 1]).ints("all", &[1, WIDE]);
    b.node("Add", &["at", "one"], &["at_next"], vec![]).node("Mod", &["at_next", "rows"], &["place"], vec![]);
    b.node("Slice", &[&below, "zero", "one", "zero"], &["key"], vec![]);
    b.node("Reshape", &["place", "row"], &["index"], vec![]).node("Expand", &["index", "all"], &["indices"], vec![]);
    b.node("ScatterND", &["keys", "index", "key"], &["keys_next"], vec![]);
    b.node("ScatterElements", &["values", "indices", "key"], &["values_next"], vec![]);
    b.node("Mul", &["keys_next", "values_next"], &["mixed"], vec![]).output("mixed");
    for name in ["at", "keys", "values"] {
        b.output(&format!("{name}_next"));
        pairs.push((name.to_owned(), format!("{name}_next")));
    }
    pairs
}

/// The words that say the states.
fn words(pairs: &[(String, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(input, output)| ["--state".to_owned(), format!("{input}={output}")]).collect()
}

fn with<'a>(words: &[&'a str], more: &'a [String]) -> Vec<&'a str> {
    words.iter().copied().chain(more.iter().map(String::as_str)).collect()
}

fn same_bits(case: &str, report: &Value, outputs: usize) {
    let against = &report["against"];
    assert_eq!(against["outputs"], outputs, "{case}: {against}");
    let different = against["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "{case}: these outputs differ from those of single steps: {different:?}");
}

/// The model in a folder, inputs of its first step, and what so many single steps bring when each reads what the last wrote.
struct Case {
    folder: Folder,
    model: String,
    inputs: String,
    all: String,
    pairs: Vec<(String, String)>,
    outputs: usize,
}

impl Case {
    fn new(name: &str, b: &Builder, pairs: Vec<(String, String)>, first: &[Array]) -> Case {
        Case::at(name, b, pairs, first, &[])
    }

    /// With words that bind the model's dims.
    fn at(name: &str, b: &Builder, pairs: Vec<(String, String)>, first: &[Array], dims: &[&str]) -> Case {
        let folder = Folder::new(name);
        let (model, plan) = (folder.file("model.onnx"), folder.file("single.ron"));
        std::fs::write(&model, b.bytes()).expect("the model");
        let (inputs, all, step) = (folder.file("inputs.npz"), folder.file("all.npz"), folder.file("step.npz"));
        npz::write(Path::new(&inputs), first).expect("inputs");
        json(&[&["compile", &model, "-o", &plan], dims].concat());
        npz::write(Path::new(&step), first).expect("inputs");
        let mut outputs = Vec::new();
        for _ in 0..STEPS {
            json(&["run", &plan, "--model", &model, "--inputs", &step, "--outputs", &all]);
            outputs = npz::read(Path::new(&all)).expect("outputs");
            let next = |input: &Array| {
                let output = pairs.iter().find(|(name, _)| *name == input.name).map(|(_, output)| output);
                let found = output.map(|output| outputs.iter().find(|o| o.name == *output).expect("the output"));
                Array { name: input.name.clone(), ..found.unwrap_or(input).clone() }
            };
            npz::write(Path::new(&step), &first.iter().map(next).collect::<Vec<_>>()).expect("inputs");
        }
        Case { folder, model, inputs, all, pairs, outputs: outputs.len() }
    }
}

fn case(name: &str) -> Case {
    let mut b = Builder::new(17);
    let pairs = recurrent(&mut b);
    let shape = |name: &str| match name {
        "line" => vec![(ROWS * WIDE) as u64],
        "keys" | "values" => vec![CACHE as u64, WIDE as u64],
        _ => vec![ROWS as u64, WIDE as u64],
    };
    let names = std::iter::once("x").chain(pairs.iter().map(|(input, _)| input.as_str()));
    let array = |(n, name): (usize, &str)| {
        let (name, shape) = (name.to_owned(), shape(name));
        match name.as_str() {
            "at" => Array { name, dtype: DType::I64, shape: vec![1], bytes: vec![0; 8] },
            _ => {
                Array { name, dtype: DType::F32, bytes: numbers(shape.iter().product::<u64>() as i64, 100 + n), shape }
            }
        }
    };
    let first: Vec<Array> = names.enumerate().map(array).collect();
    Case::new(name, &b, pairs, &first)
}

#[test]
fn many_steps_are_single_steps_whose_outputs_come_back() {
    let Case { folder, model, inputs, all, pairs, outputs } = case("states");
    let (states, steps) = (words(&pairs), STEPS.to_string());
    let mut aside = Vec::new();
    for memory in [&["device=100%"][..], &["device=60%"], &["device=least"], &["device=least", "dram=1MiB"]] {
        let memory: Vec<String> = memory.iter().flat_map(|m| ["--memory".to_owned(), (*m).to_owned()]).collect();
        let said = [memory.clone(), states.clone()].concat();
        let memory = memory.join(" ");
        let run = ["run", &model, "--inputs", &inputs, "--steps", &steps, "--against", &all];
        same_bits(&memory, &json(&with(&run, &said)), outputs);
        for extension in ["binpb", "ron"] {
            let plan = folder.file(&format!("plan.{extension}"));
            json(&with(&["compile", &model, "-o", &plan], &said));
            json(&["verify", &plan, "--model", &model]);
            json(&["simulate", &plan]);
            let run = ["run", &plan, "--model", &model, "--inputs", &inputs, "--steps", &steps, "--against", &all];
            same_bits(&format!("{plan} {memory}"), &json(&run), outputs);
        }
        let text = std::fs::read_to_string(folder.file("plan.ron")).expect("the plan");
        aside.push(pairs.iter().filter(|(input, _)| text.contains(&format!("Copy(name: \"save {input}@"))).count());
    }
    // Where there is a memory to put them aside in, states wait there for the next step.
    assert!(aside[..3] == [0, 0, 0] && aside[3] > LAYERS, "{aside:?}");
    // Fewer steps are others.
    let run = ["run", &model, "--inputs", &inputs, "--steps", "2", "--against", &all];
    let report = json(&with(&run, &states));
    assert!(!report["against"]["different"].as_array().expect("a comparison").is_empty());
}

/// Any model, so that states meet whatever else a plan does. What is read and written when is for the seed to say.
#[test]
fn any_model_carries_its_states() {
    let seeds: u64 = std::env::var("BERTH_SEEDS").map_or(6, |n| n.parse().expect("a number"));
    for seed in 0..seeds {
        let (b, pairs) = random(seed);
        let model = b.model();
        let array = |(n, port): (usize, &berth_compiler::import::Port)| Array {
            name: port.name.clone(),
            dtype: DType::F32,
            shape: vec![4, 16],
            bytes: numbers(64, n),
        };
        let first: Vec<Array> = model.inputs().iter().enumerate().map(array).collect();
        let Case { folder, model, inputs, all, pairs, outputs } =
            Case::new(&format!("states-any-{seed}"), &b, pairs, &first);
        for memory in [&["device=least"][..], &["device=least", "dram=64KiB"], &["device=100%"]] {
            let words = memory.iter().flat_map(|m| ["--memory".to_owned(), (*m).to_owned()]).chain(words(&pairs));
            let (words, plan) = (words.collect::<Vec<_>>(), folder.file("plan.binpb"));
            json(&with(&["compile", &model, "-o", &plan], &words));
            let run = ["run", &plan, "--model", &model, "--inputs", &inputs, "--against", &all];
            let steps = STEPS.to_string();
            let report = json(&[&run[..], &["--steps", &steps]].concat());
            same_bits(&format!("seed {seed}, {}", memory.join(" ")), &report, outputs);
        }
    }
}

/// Products of which the weights take most of the room, and that write states; one state reads what the other writes.
fn wide(b: &mut Builder) -> Vec<Array> {
    b.input("g", DType::F32, &["1", "64"]).input("h", DType::F32, &["1", "1001"]);
    b.tensor("a", DType::F32, &[64, 1001], numbers(64 * 1001, 1)).tensor(
        "b",
        DType::F32,
        &[1001, 64],
        numbers(64_064, 2),
    );
    b.node("MatMul", &["g", "a"], &["p"], vec![]).node("Add", &["h", "p"], &["h_next"], vec![]);
    b.node("Sin", &["h_next"], &["s"], vec![]).node("MatMul", &["s", "b"], &["g_next"], vec![]);
    b.output("h_next").output("g_next");
    vec![floats("g", &[1, 64]), floats("h", &[1, 1001])]
}

/// A result of little (made of a state of one row) that is read first and last; between, four results wait for their sum.
fn tall(b: &mut Builder) -> Vec<Array> {
    b.input("g", DType::F32, &["1", "256"]).input("h", DType::F32, &["64", "256"]).ints("shape", &[64, 256]);
    b.node("Exp", &["g"], &["e"], vec![]).node("Expand", &["e", "shape"], &["mask"], vec![]);
    b.node("Mul", &["mask", "mask"], &["m"], vec![]).tensor("w", DType::F32, &[256, 256], numbers(65_536, 3));
    b.node("MatMul", &["m", "w"], &["a"], vec![]).node("Sigmoid", &["a"], &["s"], vec![]);
    b.node("Tanh", &["a"], &["t"], vec![]).node("Cos", &["a"], &["c"], vec![]);
    b.node("Mul", &["a", "s"], &["p"], vec![]).node("Mul", &["t", "c"], &["q"], vec![]);
    b.node("MatMul", &["p", "w"], &["u"], vec![]).node("Add", &["u", "q"], &["v"], vec![]);
    b.node("Sub", &["v", "mask"], &["z"], vec![]).node("Add", &["h", "z"], &["h_next"], vec![]);
    b.tensor("ones", DType::F32, &[1, 64], numbers(64, 4)).node("MatMul", &["ones", "z"], &["sum"], vec![]);
    b.node("Tanh", &["sum"], &["g_next"], vec![]).output("h_next").output("g_next");
    vec![floats("g", &[1, 256]), floats("h", &[64, 256])]
}

fn floats(name: &str, shape: &[u64]) -> Array {
    let bytes = numbers(shape.iter().product::<u64>() as i64, name.len());
    Array { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec(), bytes }
}

#[test]
fn what_is_cut_or_made_again_carries_its_states() {
    for how in ["split", "recompute"] {
        let mut b = Builder::new(17);
        let first = if how == "split" { wide(&mut b) } else { tall(&mut b) };
        let pairs = ["g", "h"].map(|name| (name.to_owned(), format!("{name}_next"))).to_vec();
        let Case { folder, model, inputs, all, pairs, outputs } =
            Case::new(&format!("states-{how}"), &b, pairs, &first);
        let (states, plan, steps) = (words(&pairs), folder.file("plan.ron"), STEPS.to_string());
        json(&with(&["compile", &model, "--memory", "device=least", "-o", &plan], &states));
        let text = std::fs::read_to_string(&plan).expect("a plan");
        assert!(text.contains(how) && text.contains("states"), "{text}");
        json(&["verify", &plan, "--model", &model]);
        let run = ["--inputs", &inputs, "--against", &all, "--steps", &steps];
        same_bits(how, &json(&[&["run", &plan, "--model", &model], &run[..]].concat()), outputs);
    }
}

#[test]
fn states_of_one_size_stand_beside_inputs_of_any() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["n", "64"]).input("h", DType::F32, &["1", "64"]).input("g", DType::F32, &["1", "64"]);
    b.tensor("w", DType::F32, &[64, 64], numbers(4096, 5)).node("MatMul", &["x", "w"], &["p"], vec![]);
    b.node("Add", &["p", "h"], &["q"], vec![]);
    b.node(
        "ReduceMax",
        &["q"],
        &["h_next"],
        vec![AttributeProto { r#type: 7, i: None, ints: vec![0], ..attribute("axes", 0) }],
    );
    b.node("Max", &["g", "h_next"], &["g_next"], vec![]).output("q").output("h_next").output("g_next");
    let pairs = ["g", "h"].map(|name| (name.to_owned(), format!("{name}_next"))).to_vec();
    let first = [floats("x", &[3, 64]), floats("h", &[1, 64]), floats("g", &[1, 64])];
    let dims = ["--dim", "n=1..5"];
    let Case { folder, model, inputs, all, pairs, outputs } = Case::at("states-range", &b, pairs, &first, &dims);
    let (states, plan, steps) = (words(&pairs), folder.file("plan.ron"), STEPS.to_string());
    json(&with(&[&["compile", &model, "-o", &plan], &dims[..]].concat(), &states));
    let run = ["run", &plan, "--model", &model, "--inputs", &inputs, "--against", &all, "--steps", &steps];
    same_bits("a plan", &json(&run), outputs);
    let run = [&["run", &model, "--inputs", &inputs, "--against", &all, "--steps", &steps], &dims[..]].concat();
    same_bits("the model", &json(&with(&run, &states)), outputs);
}

#[test]
fn fast_numerics_carry_states_too() {
    let Case { folder, model, inputs, all, pairs, outputs } = case("states-fast");
    // What is stored is compared as numbers.
    let mut stored = npz::read(Path::new(&inputs)).expect("inputs");
    let wanted = npz::read(Path::new(&all)).expect("outputs").into_iter();
    stored.extend(wanted.map(|array| Array { name: format!("out:{}", array.name), ..array }));
    let both = folder.file("both.npz");
    npz::write(Path::new(&both), &stored).expect("both");
    let (states, steps) = (words(&pairs), STEPS.to_string());
    let report = json(&with(&["run", &model, "--inputs", &both, "--steps", &steps, "--numerics", "fast"], &states));
    let found = &report["stored"];
    assert_eq!(found["outputs"], outputs, "{found}");
    assert!(found["largest"].as_f64().expect("a number") < 1e-4, "{found}");
}

#[test]
fn plans_say_which_states_they_have() {
    let folder = Folder::new("states-plans");
    let (model, plain, plan) = (folder.file("model.onnx"), folder.file("plain.ron"), folder.file("plan.ron"));
    let mut b = Builder::new(17);
    let states = words(&recurrent(&mut b));
    std::fs::write(&model, b.bytes()).expect("the model");
    json(&["compile", &model, "-o", &plain]);
    json(&with(&["compile", &model, "-o", &plan], &states));
    let (before, text) =
        (std::fs::read_to_string(&plain).expect("a plan"), std::fs::read_to_string(&plan).expect("a plan"));
    assert!(!before.contains("states") && text.contains("states"), "{text}");
    assert!(text.contains("(input: \"h0\", output: \"next0\")") && text.contains("kind: State"), "{text}");
    // Only what no task can write where it is read is copied.
    let copied = |name: &str| text.contains(&format!("\"run keep {name}\""));
    assert!(["most", "late", "right"].iter().all(|name| copied(name)), "{text}");
    assert!(!["h0", "sum", "keys", "values", "at", "line", "left"].iter().any(|name| copied(name)), "{text}");
    let said = |output: std::process::Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let difference = said(berth(["diff", &plain, &plan]));
    assert!(difference.contains("states: [] -> [(input: \"h0\", output: \"next0\")"), "{difference}");
    let shown = said(berth(["inspect", &plan]));
    assert!(shown.contains("  states      18: `h0=next0`, "), "{shown}");
    let seen = json(&with(&["inspect", &model], &states));
    let (wide, cached) = ((LAYERS as i64 + 9) * ROWS * WIDE * 4, 2 * CACHE * WIDE * 4);
    assert_eq!(seen["totals"]["state"], wide + cached + 8, "{seen}");
    assert_eq!(json(&["inspect", &model])["totals"].get("state"), None);
    // Without what the header says of them it is another program, and one with others is refused in words.
    let other = folder.file("other.ron");
    let from = text.find("        states: [").expect("the states");
    let to = from + text[from..].find("        ],\n").expect("their end") + "        ],\n".len();
    std::fs::write(&other, format!("{}{}", &text[..from], &text[to..])).expect("a plan");
    let (code, words) = refused(&["verify", &other, "--model", &model]);
    assert!(code == 1 && words.contains("is not safe to run"), "{words}");
    std::fs::write(&other, text.replacen("output: \"next0\"", "output: \"nobody\"", 1)).expect("a plan");
    for command in ["verify", "run"] {
        let (code, words) = refused(&[command, &other, "--model", &model]);
        assert!(code == 2 && words.contains("state `h0=nobody`: the model has no output `nobody`"), "{words}");
    }
    let (code, words) = refused(&["run", &plan, "--model", &model, "--state", "h0=next0"]);
    assert!(code == 2 && words.contains("leave out `--state`"), "{words}");
}

#[test]
fn compare_plans_with_states() {
    let folder = Folder::new("states-compare");
    let model = folder.file("model.onnx");
    let mut b = Builder::new(17);
    let states = words(&recurrent(&mut b));
    std::fs::write(&model, b.bytes()).expect("the model");
    for target in ["host", "h100-pcie"] {
        let compare = ["compare", &model, "--target", target, "--memory", "device=60%"];
        let report = json(&with(&compare, &states));
        assert_eq!(report["rows"][0]["strategy"], "berth");
        assert!(report["rows"][0]["figures"].is_object(), "{report}");
    }
}

#[test]
fn what_is_no_state_is_refused_in_words() {
    let folder = Folder::new("states-refused");
    let model = folder.file("model.onnx");
    let mut b = Builder::new(17);
    recurrent(&mut b);
    b.input("past", DType::F32, &["1", "past", "8"]).input("token", DType::F32, &["1", "1", "8"]);
    b.node("Concat", &["past", "token"], &["present"], vec![attribute("axis", 1)]).output("present");
    std::fs::write(&model, b.bytes()).expect("the model");
    let first = "h0=next0";
    for (states, said) in [
        (
            vec!["h9=next0"],
            "state `h9=next0`: the model has no input `h9`; it has `h0`, `h1`, `h2`, `h3`, `h4` and 16 more",
        ),
        (vec!["h0=later"], "the model has no output `later`"),
        (vec!["h0"], "`--state h0`: it names no input and no output; write it as `--state INPUT=OUTPUT`"),
        (vec!["=next0"], "it names no input and no output"),
        (vec![first, "h0=next1"], "the input `h0` is in another state already"),
        (vec![first, "h1=next0"], "the output `next0` is in another state already"),
        (vec![first, first], "the input `h0` is in another state already"),
        (vec!["line=sum_next"], "the input has the shape [1024] and the output [4, 256]; a state keeps its shape"),
    ] {
        let states: Vec<String> = states.iter().flat_map(|s| ["--state".to_owned(), (*s).to_owned()]).collect();
        for command in ["compile", "run", "compare", "inspect"] {
            for past in ["past=3", "past=0..7"] {
                let (code, words) = refused(&with(&[command, &model, "--dim", past], &states));
                assert!(code == 2 && words.contains(said), "{command} {past}: {words}");
            }
        }
    }
}
