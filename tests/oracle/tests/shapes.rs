//! Another shape inference finds what berth finds for every value of every trusted model, and a changed graph is found
//! different.

use berth_compiler::import;
use berth_ir::graph::{Graph, Value};
use berth_ir::{DType, Expr};
use berth_oracle::convert::Chosen;
use berth_oracle::shapes::{Inferred, compare, infer};
use berth_oracle::{model, models, shared, stem};
use std::collections::BTreeMap;

/// Sizes of batch, seq, past, encoder and decoder sequence. All unlike; then single ones, as in decoding; then none past.
const SIZES: [[u64; 5]; 3] = [[2, 3, 5, 7, 4], [1, 1, 9, 6, 1], [3, 4, 0, 2, 5]];

/// Models that berth refuses, by what its refusal says.
const REFUSED: &[(&str, &str)] = &[
    ("test_identity_sequence", "sequences are not supported"),
    ("test_optional_has_element_tensor_input", "optional values are not supported"),
    ("test_sequence_map_add_2_sequences_expanded", "sequences are not supported"),
    ("test_split_to_sequence_1", "sequences are not supported"),
];

/// Inputs, each with its elements.
type Elements = &'static [(&'static str, &'static [i64])];

/// Inputs with fixed elements, one case a line. A model that is not here has one case, without any.
const SET: &[(&str, Elements)] = &[
    ("llama_merged_if", &[]),
    ("llama_merged_if", &[("use_cache_branch", &[1])]),
    ("llama_merged_if", &[("use_cache_branch", &[0])]),
    ("test_if", &[]),
    ("test_if", &[("cond", &[1])]),
    ("test_if", &[("cond", &[0])]),
    // Pads by what this input holds: without it no shape is known.
    ("test_center_crop_pad_crop_expanded", &[("shape", &[10, 7, 3])]),
];

/// Axes of which the other inference knows no number, at most, and why. Everything else is compared.
const OPEN: &[(&str, usize, &str)] = &[
    ("llama_merged_if", 8, "the branches of its If give the cache two lengths; berth takes the one that covers both"),
    ("test_loop11", 3, "it does not count the turns of a Loop, nor follow what depends on the turn"),
];

/// Every choice for a model: sizes of the dims that it names, with each set of fixed elements.
fn cases(model: &import::Model) -> Vec<Chosen> {
    let name = stem(model.path());
    let sets: Vec<_> = SET.iter().filter(|(model, _)| *model == name).map(|(_, set)| *set).collect();
    let sets = if sets.is_empty() { vec![&[][..]] } else { sets };
    let dims = model.input_dims();
    let mut cases: Vec<Chosen> = Vec::new();
    for [batch, seq, past, encoder, decoder] in SIZES {
        let sizes = [
            ("batch", batch),
            ("seq", seq),
            ("past", past),
            ("past_plus_seq", past + seq),
            ("enc_seq", encoder),
            ("dec_seq", decoder),
        ];
        let named = sizes.into_iter().filter(|(dim, _)| dims.iter().any(|of_model| of_model.name == *dim));
        let sizes: BTreeMap<_, _> = named.map(|(dim, size)| (dim.to_owned(), size)).collect();
        for set in &sets {
            let set = set.iter().map(|(input, elements)| ((*input).to_owned(), elements.to_vec())).collect();
            let case = Chosen { sizes: sizes.clone(), set };
            // A model without dims has the same case thrice.
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
    }
    cases
}

/// Berth's graph with the same choice. The sum is left to berth, which has to derive it.
fn graph(model: &import::Model, chosen: &Chosen) -> Graph {
    let mut binding = chosen.sizes.clone();
    binding.remove("past_plus_seq");
    model.graph_with(&binding, &chosen.set).unwrap_or_else(|e| panic!("{}: {e}", model.path().display()))
}

/// One of the repository's models, its graph for the first choice, and what the other inference finds for it.
struct Example {
    graph: Graph,
    inferred: Inferred,
    /// What it finds for the second choice.
    of_other_sizes: Inferred,
}

fn example(name: &str) -> Example {
    let path = model(name);
    let (bytes, model) = (std::fs::read(&path).unwrap(), import::open(&path).unwrap());
    let cases = cases(&model);
    let infer = |case| infer(&bytes, case).unwrap();
    Example { graph: graph(&model, &cases[0]), inferred: infer(&cases[0]), of_other_sizes: infer(&cases[1]) }
}

#[test]
fn every_value_is_as_another_inference_finds_it() {
    let (mut walked, mut refused) = (0, 0);
    for path in models() {
        let name = stem(&path);
        let model = match import::open(&path) {
            Ok(model) => model,
            Err(error) => {
                let known = REFUSED.iter().find(|(model, _)| *model == name);
                assert!(known.is_some_and(|(_, why)| error.to_string().contains(why)), "{name}: {error}");
                refused += 1;
                continue;
            }
        };
        walked += 1;
        let bytes = std::fs::read(&path).unwrap();
        let allowed = OPEN.iter().find(|(model, ..)| *model == name).map_or(0, |(_, axes, _)| *axes);
        let cases = cases(&model);
        let (mut values, mut axes, mut open) = (0, 0, 0);
        for chosen in &cases {
            let inferred = infer(&bytes, chosen).unwrap_or_else(|e| panic!("{name}: {e}"));
            let found = compare(&graph(&model, chosen), &inferred);
            assert!(found.differences.is_empty(), "{name} with {chosen:?}: {:#?}", found.differences);
            let all = found.values_open.is_empty() && found.axes_open.len() <= allowed;
            assert!(all, "{name} with {chosen:?}: not compared: {:?} {:?}", found.values_open, found.axes_open);
            assert!(found.values > 1 && found.axes > found.axes_open.len(), "{name}: too little to compare: {found:?}");
            (values, axes, open) = (values + found.values, axes + found.axes, open + found.axes_open.len());
        }
        println!("{name}: {} choices, {values} values, {} of {axes} axes", cases.len(), axes - open);
    }
    assert!(walked >= if shared() { 36 } else { 6 }, "only {walked} models");
    assert!(!shared() || refused == REFUSED.len(), "{refused} models are refused");
}

#[test]
fn a_changed_graph_is_found_different() {
    let example = example("llama_decode.onnx");
    let after = |change: &dyn Fn(&mut Value)| {
        let mut graph = example.graph.clone();
        let last = graph.outputs[0].0 as usize;
        change(&mut graph.values[last]);
        compare(&graph, &example.inferred)
    };
    let clean = after(&|_| {});
    assert!(clean.differences.is_empty(), "{clean:?}");
    let found = |change: &dyn Fn(&mut Value), says: &str| {
        let found = after(change).differences;
        assert!(found.len() == 1 && found[0].contains(says), "{says}: {found:?}");
    };
    found(&|value| value.shape[1] = Expr::constant(4), "[Some(2), Some(4), Some(1024)] here");
    found(&|value| value.shape.push(Expr::constant(1)), "[Some(2), Some(3), Some(1024), Some(1)] here");
    found(&|value| value.dtype = DType::F16, "has type 10 and");
    // An axis without a number is not compared, and not counted.
    let open = after(&|value| value.shape[0] = Expr::dim("batch"));
    assert_eq!((open.differences.len(), open.axes), (0, clean.axes - 1));
}

#[test]
fn other_sizes_are_found_different() {
    let example = example("llama_decode.onnx");
    let found = compare(&example.graph, &example.of_other_sizes);
    assert!(found.differences.len() > found.values / 4, "{} of {} differ", found.differences.len(), found.values);
}

#[test]
fn a_value_that_the_other_side_does_not_know_is_not_taken_as_compared() {
    let mut example = example("resnet_small.onnx");
    let axes = example.graph.values[0].shape.len();
    example.graph.values[0].name = "nobody's".to_owned();
    let found = compare(&example.graph, &example.inferred);
    assert_eq!(found.values_open, ["nobody's"]);
    assert_eq!(found.axes_open.len(), axes);
}
