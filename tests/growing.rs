//! States that grow, as caches of keys and values do: steps give the bits of single steps whose caller carries outputs back to
//! inputs, in any memory; what has no room or does not fit is refused before anything runs.

mod common;

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "../compiler/tests/common/build.rs"]
mod build;
#[allow(dead_code)]
#[path = "../compiler/tests/common/recurrent.rs"]
mod recurrent;

use berth::npz::{self, Array};
use berth_ir::DType;
use build::{Builder, attribute};
use common::{Folder, berth, json, model, refused};
use recurrent::{Growing, growing};
use serde_json::Value;
use std::path::Path;

/// Numbers that are no other's.
fn floats(name: &str, shape: &[u64], salt: usize) -> Array {
    let number = |n: usize| ((n * 2_654_435_761 + salt * 40_503) % 2_001) as f32 / 16_000.0 - 0.0625;
    let count = shape.iter().product::<u64>() as usize;
    let bytes = (0..count).flat_map(|n| number(n).to_le_bytes()).collect();
    Array { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec(), bytes }
}

fn integers(name: &str, shape: &[u64], number: impl Fn(u64) -> i64) -> Array {
    let bytes = (0..shape.iter().product::<u64>()).flat_map(|n| number(n).to_le_bytes()).collect();
    Array { name: name.to_owned(), dtype: DType::I64, shape: shape.to_vec(), bytes }
}

/// The words that say the states.
fn words(pairs: &[(String, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(input, output)| ["--state".to_owned(), format!("{input}={output}")]).collect()
}

fn with<'a>(words: &[&'a str], more: &'a [String]) -> Vec<&'a str> {
    words.iter().copied().chain(more.iter().map(String::as_str)).collect()
}

fn write(folder: &Folder, name: &str, arrays: &[Array]) -> String {
    let path = folder.file(name);
    npz::write(Path::new(&path), arrays).expect("arrays");
    path
}

fn same_bits(case: &str, report: &Value, outputs: usize) {
    let against = &report["against"];
    assert_eq!(against["outputs"], outputs, "{case}: {against}");
    let different = against["different"].as_array().expect("a comparison");
    assert!(different.is_empty(), "{case}: these outputs differ from those of single steps: {different:?}");
}

/// A model in a folder, and what a run of many steps is fed.
struct Case {
    folder: Folder,
    model: String,
    pairs: Vec<(String, String)>,
    /// `--dim` and its words, with ranges.
    dims: Vec<String>,
    /// All that goes in: states as the first step has them, others of every step.
    inputs: Vec<Array>,
    steps: usize,
}

impl Case {
    /// What each of so many single steps gives, when `step` says what goes in beside the states; in files, one a step.
    fn by_hand(&self, step: &dyn Fn(usize) -> (Vec<String>, Vec<Array>)) -> (Vec<String>, usize) {
        let is_state = |array: &&Array| self.pairs.iter().any(|(input, _)| *input == array.name);
        let mut states: Vec<Array> = self.inputs.iter().filter(is_state).cloned().collect();
        let (mut files, mut outputs) = (Vec::new(), Vec::new());
        for n in 1..=self.steps {
            let (dims, others) = step(n);
            let from = write(&self.folder, "step.npz", &[states.clone(), others].concat());
            let to = self.folder.file(&format!("all{n}.npz"));
            json(&with(&["run", &self.model, "--inputs", &from, "--outputs", &to], &dims));
            outputs = npz::read(Path::new(&to)).expect("outputs");
            let next = |(input, output): &(String, String)| {
                let found = outputs.iter().find(|array| array.name == *output).expect("the output");
                Array { name: input.clone(), ..found.clone() }
            };
            states = self.pairs.iter().map(next).collect();
            files.push(to);
        }
        (files, outputs.len())
    }

    /// Holds runs in several memories against single steps: of the model, and of its saved plans; the last plan's text.
    fn check(&self, case: &str, memories: &[&[&str]], all: &[String], outputs: usize) -> String {
        let inputs = write(&self.folder, "inputs.npz", &self.inputs);
        let said = [self.dims.clone(), words(&self.pairs)].concat();
        let (plan, binary) = (self.folder.file("plan.ron"), self.folder.file("plan.binpb"));
        for memory in memories {
            let case = format!("{case}, {}", memory.join(" "));
            let memory: Vec<String> = memory.iter().flat_map(|m| ["--memory".to_owned(), (*m).to_owned()]).collect();
            let said = [said.clone(), memory].concat();
            for steps in [1, 2, self.steps] {
                let (count, against) = (steps.to_string(), &all[steps - 1]);
                let run = ["run", &self.model, "--inputs", &inputs, "--steps", &count, "--against", against];
                same_bits(&format!("{case}, {steps} steps"), &json(&with(&run, &said)), outputs);
            }
            for plan in [&plan, &binary] {
                json(&with(&["compile", &self.model, "-o", plan], &said));
                json(&["verify", plan, "--model", &self.model]);
                json(&["simulate", plan]);
                let (count, against) = (self.steps.to_string(), &all[self.steps - 1]);
                let run = ["run", plan, "--model", &self.model, "--inputs", &inputs, "--steps", &count];
                same_bits(&format!("{case}, {plan}"), &json(&[&run[..], &["--against", against]].concat()), outputs);
            }
        }
        std::fs::read_to_string(&plan).expect("the plan")
    }
}

/// The first columns of an array of integers.
fn leading(array: &Array, columns: u64) -> Array {
    let (all, element) = (*array.shape.last().expect("an axis"), 8);
    let rows = array.bytes.chunks_exact((all * element) as usize);
    let bytes = rows.flat_map(|row| row[..(columns * element) as usize].to_vec()).collect();
    let mut shape = array.shape.clone();
    *shape.last_mut().expect("an axis") = columns;
    Array { shape, bytes, ..array.clone() }
}

/// A decoder's case: tokens and positions of every step, a mask with a hole in it, caches of `past` tokens.
fn decoder(
    name: &str,
    (heads, wide): (u64, u64),
    (batch, seq, past): (u64, u64, u64),
    steps: usize,
) -> (Case, Vec<Array>) {
    let path = model(&format!("{name}.onnx"));
    let caches = (0..4).flat_map(|n| ["key", "value"].map(|kind| format!("{n}.{kind}")));
    let pairs: Vec<_> = caches.map(|c| (format!("past_key_values.{c}"), format!("present.{c}"))).collect();
    let last = past + (steps as u64 - 1) * seq;
    let mask = integers("attention_mask", &[batch, last + seq], |n| i64::from(n != last + seq + 1));
    let of_step = |n: usize| {
        let at = past + (n as u64 - 1) * seq;
        let ids = integers("input_ids", &[batch, seq], |k| ((k * 37 + n as u64 * 101) % 1000) as i64);
        [ids, integers("position_ids", &[batch, seq], |k| (at + k % seq) as i64)]
    };
    let mut inputs: Vec<Array> =
        (pairs.iter().enumerate()).map(|(n, (input, _))| floats(input, &[batch, heads, past, wide], n)).collect();
    let others: Vec<Array> = (1..=steps).flat_map(of_step).collect();
    for (n, array) in others.iter().enumerate() {
        // The first is that of step 1 in either way of writing.
        let name = if n == 0 { array.name.clone() } else { format!("{}@{}", array.name, n / 2 + 1) };
        inputs.push(Array { name, ..array.clone() });
    }
    inputs.push(mask.clone());
    let ranges = [format!("batch={batch}"), format!("seq={seq}"), format!("past={}..{}", past, last + 3)];
    let dims = ranges.into_iter().flat_map(|range| ["--dim".to_owned(), range]).collect();
    let model = path.to_str().expect("UTF-8").to_owned();
    let folder = Folder::new(&format!("growing-{name}-{past}-{seq}"));
    (Case { folder, model, pairs, dims, inputs, steps }, [vec![mask], others].concat())
}

/// Runs a decoder in several memories, and says whether its caches were put aside in the last of them.
fn decodes(name: &str, shape: (u64, u64), (batch, seq, past): (u64, u64, u64)) {
    let steps = 6;
    let (case, others) = decoder(name, shape, (batch, seq, past), steps);
    let (all, outputs) = case.by_hand(&|n| {
        let at = past + (n as u64 - 1) * seq;
        let sizes = [format!("batch={batch}"), format!("seq={seq}"), format!("past={at}")];
        let dims = sizes.into_iter().flat_map(|size| ["--dim".to_owned(), size]).collect();
        let inputs = [leading(&others[0], at + seq), others[2 * n - 1].clone(), others[2 * n].clone()];
        (dims, inputs.to_vec())
    });
    let memories: [&[&str]; 4] = [&["device=100%"], &["device=60%"], &["device=least"], &["device=least", "dram=1MiB"]];
    let text = case.check(name, &memories, &all, outputs);
    let aside = case.pairs.iter().filter(|(input, _)| text.contains(&format!("Copy(name: \"save {input}@"))).count();
    assert!(aside > 4, "{aside} caches are put aside");
    let (last, shown) =
        (past + 5 * seq + 3, |words: &[&str]| String::from_utf8_lossy(&berth(words).stdout).into_owned());
    let grows = format!("  grows       `past` by {seq} in each step, within {past}..{last}: room for ");
    let said = [case.dims.clone(), words(&case.pairs)].concat();
    for command in [&["inspect", &case.folder.file("plan.ron")][..], &with(&["inspect", &case.model], &said)] {
        assert!(shown(command).contains(&grows), "{}", shown(command));
    }
    assert!(shown(&with(&["compile", &case.model], &said)).contains(&grows));
    assert!(json(&with(&["compare", &case.model, "--memory", "device=60%"], &said))["rows"][0]["figures"].is_object());
    // A decoder's results depend on all that it is fed: those of one step are not those of another.
    assert_ne!(
        npz::read(Path::new(&all[0])).expect("outputs")[0].bytes,
        npz::read(Path::new(&all[5])).expect("outputs")[0].bytes
    );
}

#[test]
fn a_llama_decodes_from_an_empty_cache() {
    decodes("llama_decode", (2, 16), (2, 1, 0));
}

#[test]
fn a_gpt2_decodes_two_tokens_a_step() {
    decodes("gpt2_decode_torchscript", (4, 32), (2, 2, 3));
}

/// Any model: what is appended along which axis, and who reads which version when, is for the seed to say.
#[test]
fn any_model_has_caches_that_grow() {
    let seeds: u64 = std::env::var("BERTH_SEEDS").map_or(6, |n| n.parse().expect("a number"));
    for seed in 0..seeds {
        let Growing { builder, pairs, by, states, scaled } = growing(seed);
        let (steps, past) = (4, seed % 3);
        let folder = Folder::new(&format!("growing-any-{seed}"));
        let path = folder.file("model.onnx");
        std::fs::write(&path, builder.bytes()).expect("the model");
        let last = past + (steps as u64 - 1) * by;
        let mut inputs: Vec<Array> = Vec::new();
        for (n, ((input, _), shape)) in pairs.iter().zip(&states).enumerate() {
            inputs.push(floats(input, &shape.map(|size| size.parse().unwrap_or(past)), n));
        }
        let x = |n: usize| floats("x", &[3, by, 4], 50 + n);
        inputs.extend([Array { name: "x@1".to_owned(), ..x(1) }, Array { name: "in:x@3".to_owned(), ..x(3) }]);
        let scale = floats("scale", &[last + 2, 1], 70);
        inputs.extend(scaled.then(|| scale.clone()));
        let dims = vec!["--dim".to_owned(), format!("past={past}..{last}")];
        let case = Case { folder, model: path, pairs, dims, inputs, steps };
        let (all, outputs) = case.by_hand(&|n| {
            let at = past + (n as u64 - 1) * by;
            let now = Array { shape: vec![at, 1], bytes: scale.bytes[..at as usize * 4].to_vec(), ..scale.clone() };
            let others = std::iter::once(x(if n < 3 { 1 } else { 3 })).chain(scaled.then_some(now)).collect();
            (vec!["--dim".to_owned(), format!("past={at}")], others)
        });
        let memories: [&[&str]; 3] = [&["device=least"], &["device=least", "dram=64KiB"], &["device=100%"]];
        case.check(&format!("seed {seed}"), &memories, &all, outputs);
    }
}

/// One cache, whose rows are added up, beside a mask over all rows, what a step appends, and a state of a size that differs
/// from run to run.
fn summing() -> (Builder, Vec<(String, String)>) {
    let mut b = Builder::new(17);
    b.input("token", DType::F32, &["n", "2", "4"]).input("past", DType::F32, &["n", "held", "4"]);
    b.input("mask", DType::F32, &["n", "all", "1"]).input("sum", DType::F32, &["n", "1", "4"]).ints("axis", &[1]);
    b.node("Concat", &["past", "token"], &["present"], vec![attribute("axis", 1)]);
    b.node("Mul", &["present", "mask"], &["masked"], vec![]).node("ReduceSum", &["masked", "axis"], &["now"], vec![]);
    b.node("Max", &["now", "sum"], &["sum_next"], vec![]).output("present").output("sum_next");
    let pairs = [("past", "present"), ("sum", "sum_next")].map(|(i, o)| (i.to_owned(), o.to_owned())).to_vec();
    (b, pairs)
}

/// Its case of a batch within a range, from three rows on.
fn summed(name: &str) -> Case {
    let (b, pairs) = summing();
    let folder = Folder::new(name);
    let path = folder.file("model.onnx");
    std::fs::write(&path, b.bytes()).expect("the model");
    let dims = ["--dim", "n=1..3", "--dim", "held=1..9"].map(str::to_owned).to_vec();
    let shapes = [("token", [2, 2, 4]), ("past", [2, 3, 4]), ("mask", [2, 11, 1]), ("sum", [2, 1, 4])];
    let inputs = (0..).zip(shapes).map(|(n, (name, shape))| floats(name, &shape, n)).collect();
    Case { folder, model: path, pairs, dims, inputs, steps: 4 }
}

#[test]
fn axes_within_a_range_stand_beside_one_that_grows() {
    let case = summed("growing-range");
    let (token, mask) = (case.inputs[0].clone(), case.inputs[2].clone());
    let (all, outputs) = case.by_hand(&|n| {
        let rows = 3 + 2 * n as u64;
        let part = mask.bytes.chunks_exact(44).flat_map(|row| row[..rows as usize * 4].to_vec()).collect();
        (Vec::new(), vec![token.clone(), Array { shape: vec![2, rows, 1], bytes: part, ..mask.clone() }])
    });
    case.check("a range", &[&["device=100%"], &["device=least", "dram=64KiB"]], &all, outputs);
}

#[test]
fn two_dims_grow_apart() {
    let mut b = Builder::new(17);
    b.input("x", DType::F32, &["1", "4"]).input("two", DType::F32, &["2", "4"]).ints("first", &[0]);
    b.input("slow", DType::F32, &["s", "4"]).input("fast", DType::F32, &["f", "4"]);
    b.node("Concat", &["slow", "x"], &["slow_next"], vec![attribute("axis", 0)]);
    b.node("Concat", &["two", "fast"], &["fast_next"], vec![attribute("axis", 0)]);
    for (cache, sum) in [("slow_next", "a"), ("fast_next", "b")] {
        b.node("ReduceSum", &[cache, "first"], &[sum], vec![]).output(cache);
    }
    b.node("Mul", &["a", "b"], &["y"], vec![]).output("y");
    let folder = Folder::new("growing-two");
    let model = folder.file("model.onnx");
    std::fs::write(&model, b.bytes()).expect("the model");
    let pairs = ["slow", "fast"].map(|name| (name.to_owned(), format!("{name}_next"))).to_vec();
    let dims = ["--dim", "s=2..6", "--dim", "f=0..7"].map(str::to_owned).to_vec();
    let shapes = [("x", [1, 4]), ("two", [2, 4]), ("slow", [2, 4]), ("fast", [1, 4])];
    let inputs: Vec<Array> = (0..).zip(shapes).map(|(n, (name, shape))| floats(name, &shape, n)).collect();
    let others = inputs[..2].to_vec();
    let case = Case { folder, model, pairs, dims, inputs, steps: 4 };
    let (all, outputs) = case.by_hand(&|_| (Vec::new(), others.clone()));
    let text = case.check("two dims", &[&["device=100%"], &["device=least", "dram=64KiB"]], &all, outputs);
    assert!(text.contains("\"f\": 2,") && text.contains("\"s\": 1,"), "{text}");
    // The one has room for five steps, the other for four.
    let inputs = case.folder.file("inputs.npz");
    let (code, words) =
        refused(&["run", &case.folder.file("plan.ron"), "--model", &case.model, "--inputs", &inputs, "--steps", "5"]);
    assert!(code == 2 && words.contains("`f` grows by 2 in each step: 5 steps from 1 on need it up to 9"), "{words}");
}

#[test]
fn fast_numerics_have_caches_that_grow() {
    let (case, others) = decoder("gpt2_decode_torchscript", (4, 32), (2, 1, 2), 5);
    let (all, outputs) = case.by_hand(&|n| {
        let at = 1 + n as u64;
        let dims = ["batch=2".to_owned(), "seq=1".to_owned(), format!("past={at}")];
        let dims = dims.into_iter().flat_map(|size| ["--dim".to_owned(), size]).collect();
        (dims, vec![leading(&others[0], at + 1), others[2 * n - 1].clone(), others[2 * n].clone()])
    });
    let wanted = npz::read(Path::new(&all[4])).expect("outputs").into_iter();
    let stored = wanted.map(|array| Array { name: format!("out:{}", array.name), ..array });
    let both = write(&case.folder, "both.npz", &case.inputs.iter().cloned().chain(stored).collect::<Vec<_>>());
    let said = [case.dims.clone(), words(&case.pairs)].concat();
    let plan = case.folder.file("plan.ron");
    // By estimates, which are the same each time, tasks with open sizes are joined.
    json(&with(&["compile", &case.model, "--numerics", "fast", "-o", &plan], &said));
    let text = std::fs::read_to_string(&plan).expect("the plan");
    let joined = text.lines().filter(|line| line.contains("held: Some") && line.contains("past_key_values."));
    assert!(joined.count() >= 4, "what reads a cache is not joined");
    let fast = ["run", &case.model, "--inputs", &both, "--steps", "5", "--numerics", "fast"];
    let again = ["run", &plan, "--model", &case.model, "--inputs", &both, "--steps", "5"];
    for report in [json(&with(&fast, &said)), json(&again)] {
        let found = &report["stored"];
        assert_eq!(found["outputs"], outputs, "{found}");
        assert!(found["largest"].as_f64().expect("a number") < 1e-4, "{found}");
    }
}

#[test]
fn what_has_no_room_or_does_not_fit_is_refused_before_it_runs() {
    let case = summed("growing-refused");
    let (plan, out) = (case.folder.file("plan.ron"), case.folder.file("out.npz"));
    let said = [case.dims.clone(), words(&case.pairs)].concat();
    json(&with(&["compile", &case.model, "-o", &plan], &said));
    let with_array = |name: &str, shape: &[u64]| {
        let mut inputs: Vec<Array> = case.inputs.iter().filter(|a| a.name != name).cloned().collect();
        inputs.push(floats(name, shape, 9));
        inputs
    };
    for (steps, inputs, words) in [
        (
            "5",
            case.inputs.clone(),
            "`held` grows by 2 in each step: 5 steps from 3 on need it up to 11, and the plan's range is 1..9, which has room for 4; ask for 4 `--steps` at most, or plan with `--dim held=1..11`",
        ),
        ("1000000", case.inputs.clone(), "need it up to 2000001"),
        (
            "4",
            with_array("mask", &[2, 10, 1]),
            "input `mask` is F32 of shape [2, 10, 1] in the file; the model wants F32 of shape [2, 11, 1], as the last of its steps reads it, or more along axis 1",
        ),
        (
            "4",
            with_array("mask", &[1, 11, 1]),
            "is F32 of shape [1, 11, 1] in the file; the model wants F32 of shape [2, 11, 1]",
        ),
        ("4", with_array("mask", &[2, 11]), "has 2 axes in the file"),
        (
            "4",
            with_array("past", &[2, 10, 4]),
            "dim `held` is 1..9 by what was given for it, and 10 in the shape of input `past`",
        ),
        (
            "4",
            with_array("past@2", &[2, 3, 4]),
            "input `past` is a state: in step 2 it is what the step before wrote; leave out `past@2`",
        ),
        ("4", with_array("token@0", &[2, 2, 4]), "array `token@0`: `0` is no step; write `token@3`"),
        ("4", with_array("token@x", &[2, 2, 4]), "`x` is no step"),
        ("4", with_array("token@1", &[2, 2, 4]), "input `token` has two arrays in the file for step 1"),
        ("4", with_array("token@3", &[2, 1, 4]), "input `token` from step 3 on is F32 of shape [2, 1, 4] in the file"),
        ("4", with_array("other@3", &[2, 2, 4]), "the model has no input `other@3`"),
        ("4", with_array("mask@3", &[2, 10, 1]), "input `mask` from step 3 on is F32 of shape [2, 10, 1]"),
    ] {
        let from = write(&case.folder, "inputs.npz", &inputs);
        let run = ["--inputs", &from, "--steps", steps, "--outputs", &out];
        for start in [with(&["run", &case.model], &said), vec!["run", &plan, "--model", &case.model]] {
            let (code, text) = refused(&[&start[..], &run].concat());
            assert!(code == 2 && text.contains(words), "{text}");
            assert!(!case.folder.files().iter().any(|name| name.contains("out.npz")), "{text}");
        }
    }
    // What is for steps that do not come is not looked at; more than the last step reads is no fault.
    let mut more = with_array("token@5", &[7]);
    more.retain(|array| array.name != "mask");
    more.push(floats("mask", &[2, 50, 1], 2));
    let from = write(&case.folder, "inputs.npz", &more);
    json(&["run", &plan, "--model", &case.model, "--inputs", &from, "--steps", "4", "--outputs", &out]);
    // A program that says other growth than the model's is refused.
    let text = std::fs::read_to_string(&plan).expect("a plan");
    assert!(text.contains("\"held\": 2,"), "{text}");
    std::fs::write(&plan, text.replacen("\"held\": 2,", "\"held\": 1,", 1)).expect("a plan");
    for command in ["run", "verify"] {
        let (code, text) = refused(&[command, &plan, "--model", &case.model]);
        assert!(code == 2 && text.contains("the program says of dims that they grow"), "{text}");
    }
}
