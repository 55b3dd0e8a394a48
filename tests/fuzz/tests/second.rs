//! Each target on its corpus, and on as many changes of it as take about a second: what was found once stays mended, and what
//! is found is found again with the same words.

use berth_fuzz::drive::{changes, corpus, corpus_folder, once};
use berth_fuzz::targets::{TARGETS, reached};

const SEED: u64 = 2026;

fn check(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of this name");
    let files = corpus(target);
    for (file, bytes) in &files {
        if let Err(finding) = once(target, bytes) {
            panic!("corpus/{name}/{file}: {}", finding.words);
        }
    }
    println!("{name}: {} files, then {} changes, seed {SEED}", files.len(), target.executions);
    let mut ran = 0;
    changes(target, &files, target.executions, SEED, |n, bytes, result| {
        ran += 1;
        if let Err(finding) = result {
            let path = std::env::temp_dir().join(format!("berth-fuzz-{name}-{n}"));
            let kept = std::fs::write(&path, bytes).map_or(String::new(), |()| format!(" ({})", path.display()));
            panic!("{name}, seed {SEED}, change {n}{kept}: {}", finding.words);
        }
    });
    assert_eq!(ran, target.executions);
    let (reached, least) = (reached(), target.executions / target.reaches);
    println!("{name}: {reached} went all the way");
    assert!(
        reached >= least,
        "{name}: {reached} executions went all the way, and {least} should: changes are too wild"
    );
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn every_target_and_every_folder_of_the_corpus_is_tested() {
            let tested = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|t| t.name).collect::<Vec<_>>(), tested);
            for entry in std::fs::read_dir(corpus_folder()).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(tested.contains(&name.as_str()), "corpus/{name} belongs to no target");
            }
        }
    };
}

targets!(onnx npz program_text program_binary machine lifetimes compile compile_model);
