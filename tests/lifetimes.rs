//! The lifetime IR of models of the repository, as `berth inspect --ir` prints it.

mod common;

use berth_ir::lifetime::{parse, print};
use common::{berth, model};

#[test]
fn lifetimes_are_those_of_the_golden_files() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden/lifetimes");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let cases: [(&str, &[&str]); 3] = [
        ("llama_decode", &["batch=1", "seq=1", "past=16"]),
        ("resnet_small", &["batch=2"]),
        ("gpt2_decode_torchscript", &["batch=1", "seq=1", "past=0..31"]),
    ];
    for (name, dims) in cases {
        let path = model(&format!("{name}.onnx"));
        let dims: Vec<&str> = dims.iter().flat_map(|d| ["--dim", *d]).collect();
        let output = berth([&["inspect", path.to_str().expect("UTF-8"), "--ir"], &dims[..]].concat());
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        settings.bind(|| insta::assert_snapshot!(name, text));
    }
}

#[test]
fn the_text_form_reads_back() {
    let path = model("llama_decode.onnx");
    let words =
        ["inspect", path.to_str().expect("UTF-8"), "--ir", "--dim", "batch=1", "--dim", "seq=1", "--dim", "past=4"];
    let text = String::from_utf8(berth(words).stdout).expect("UTF-8");
    let lifetimes = parse(&text).expect("it reads");
    assert_eq!(lifetimes.tasks.len(), 230);
    assert_eq!(print(&lifetimes).trim_end(), text.trim_end());
    let unknown = text.replacen("reads: [\"", "reads: [\"no ", 1);
    assert!(parse(&unknown).is_err_and(|e| e.to_string().contains("`no ")), "a name that stands for nothing");
    let twice = text.replacen("name: \"attention_mask\"", "name: \"input_ids\"", 1);
    assert!(parse(&twice).is_err_and(|e| e.to_string().contains("stands twice")), "a name that stands for two");
}
