//! Golden plans and reports: models x machines. A diff of one of these is a change of what users get.

mod common;

use common::{Folder, berth, model};

/// Model, dims, machine, caps.
const CASES: &[(&str, &[&str], &str, &[&str])] = &[
    ("llama_decode", &["batch=1", "seq=1", "past=31"], "host", &["device=60%"]),
    ("llama_decode", &["batch=1", "seq=1", "past=31"], "host", &["device=least", "dram=1MiB"]),
    ("llama_decode", &["batch=1", "seq=1", "past=31"], "h100-pcie", &["device=60%"]),
    ("resnet_small", &["batch=1"], "host", &["device=75%"]),
    ("vit_small", &["batch=1"], "host", &["device=50%", "dram=2MiB"]),
    ("bert_encoder", &["batch=1", "seq=16"], "h100-pcie", &["device=40%"]),
];

#[test]
fn plans_and_reports_are_those_of_the_golden_files() {
    let folder = Folder::new("plans");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../golden/plans");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (name, dims, target, caps) in CASES {
        let model = model(&format!("{name}.onnx"));
        let dims = dims.iter().flat_map(|d| ["--dim", d]);
        let caps: Vec<&str> = caps.iter().flat_map(|c| ["--memory", c]).collect();
        let words: Vec<&str> = [model.to_str().expect("UTF-8"), "--target", target]
            .into_iter()
            .chain(dims)
            .chain(caps.iter().copied())
            .collect();
        let plan = folder.file("plan.ron");
        let stdout = |words: Vec<&str>| {
            let output = berth(&words);
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let report = stdout([&["compile", "-o", &plan], words.as_slice()].concat());
        let table = stdout([&["compare"], words.as_slice()].concat());
        let text = std::fs::read_to_string(&plan).expect("a plan");
        let caps: Vec<&str> = caps.iter().copied().filter(|c| *c != "--memory").collect();
        let label = format!("{name} on {target} {}", caps.join(" ")).replace(['=', '%', ' '], "_");
        settings.bind(|| insta::assert_snapshot!(label, format!("{report}\n{table}\n{text}")));
    }
}
