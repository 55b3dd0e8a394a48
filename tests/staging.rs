//! A budget of staging memory: what comes to the device and leaves it goes through it in pieces, and no bit changes.

mod common;

use common::{Folder, json, model, refused, root};

fn target() -> String {
    root().join("golden/targets/staged.ron").to_str().expect("a UTF-8 path").to_owned()
}

/// Each in the least and in some more, through pieces of some sizes, the least among them.
#[test]
fn bits_do_not_depend_on_what_stages() {
    let target = target();
    let (mut ran, mut aside) = (0, 0);
    let models = ["bert_encoder", "gpt2_decode_torchscript", "llama_decode", "resnet_small", "vit_small"];
    for (n, name) in models.into_iter().enumerate() {
        let folder = Folder::new("staging");
        let all = folder.file("all.npz");
        let files = [model(&format!("{name}.onnx")), model(&format!("{name}.npz"))];
        let [path, inputs] = files.each_ref().map(|path| path.to_str().expect("a UTF-8 path"));
        let run = ["run", path, "--inputs", inputs];
        json(&[&run[..], &["--outputs", &all]].concat());
        for (device, pinned) in [("device=least", "3KiB"), ("device=70%", "64KiB")] {
            let pinned = format!("pinned={}", if n % 2 == 0 { pinned } else { "20KiB" });
            let caps = ["--memory", device, "--memory", &pinned, "--steps", "4", "--target", &target];
            let output = common::berth([&run[..], &["--against", &all, "--format", "json"], &caps].concat());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{path} {caps:?}: {said}");
            let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
            let different = report["against"]["different"].as_array().expect("a comparison");
            assert!(different.is_empty(), "{path} {caps:?}: these outputs differ: {different:?}");
            let traffic = |link: &str| report["plan"]["traffic"][link].as_u64().unwrap_or(0);
            assert_eq!((traffic("pin"), traffic("unpin")), (traffic("in"), traffic("out")), "{path} {caps:?}");
            aside += usize::from(traffic("out") > 0);
            ran += 1;
        }
    }
    assert!(aside >= 2, "in {aside} of {ran} something was put aside");
}

#[test]
fn a_plan_says_what_stages_and_is_verified_alone() {
    let folder = Folder::new("staging-plan");
    let (plan, path) = (folder.file("plan.ron"), model("llama_decode.onnx"));
    let path = path.to_str().expect("a UTF-8 path");
    let target = target();
    let dims = ["--dim", "batch=1", "--dim", "seq=1", "--dim", "past=15"];
    let machine = ["--target", target.as_str(), "--memory", "device=50%", "--memory", "pinned=32KiB"];
    let report = json(&[&["compile", path, "-o", &plan], &dims[..], &machine[..]].concat());
    assert!(report["peak"]["pinned"].as_u64().is_some_and(|bytes| bytes <= 32 << 10), "{report}");
    let verified = common::berth(["verify", &plan, "--model", path, "--target", &target]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let table = json(&[&["compare", path], &dims[..], &machine[..]].concat());
    let step = |strategy: &str| {
        let row = table["rows"].as_array().expect("rows").iter().find(|r| r["strategy"] == strategy).expect("a row");
        row["figures"]["predicted_nanos"].as_u64().expect("a step")
    };
    assert!(step("berth") <= step("look-ahead") && step("berth") <= step("LRU"));
    // A byte less than two pieces each way is no way.
    let (_, said) = refused(&[&["compile", path], &dims[..], &machine[..4], &["--memory", "pinned=255"]].concat());
    assert!(said.contains("no working way"), "{said}");
}
