//! Runs a fuzz target for hours: `cargo run --release -p berth-fuzz -- TARGET EXECUTIONS [SEED]`, or on files:
//! `cargo run --release -p berth-fuzz -- TARGET FILE...`.
//!
//! What panics is written below `target/fuzz/findings`; the exit status is then 1.

use berth_fuzz::drive::{changes, corpus, once};
use berth_fuzz::targets::{FuzzTarget, TARGETS, reached};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// An input that takes longer is written down too.
const SLOW: Duration = Duration::from_secs(5);
/// Different findings after which there is no point in going on.
const FINDINGS_MAX: usize = 40;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let target = words.first().and_then(|name| TARGETS.iter().find(|t| t.name == name));
    let (Some(target), Some(second)) = (target, words.get(1)) else {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("usage: berth-fuzz TARGET EXECUTIONS [SEED] | TARGET FILE...\n  targets: {}", names.join(", "));
        return ExitCode::from(2);
    };
    match second.parse() {
        Ok(executions) => many(target, executions, words.get(2).and_then(|s| s.parse().ok()).unwrap_or(1)),
        Err(_) => files(target, &words[1..]),
    }
}

/// Each file once; a panic ends the process in its usual way, with its trace.
fn files(target: &FuzzTarget, paths: &[String]) -> ExitCode {
    for path in paths {
        match std::fs::read(path) {
            Ok(bytes) => {
                eprintln!("{path}: {} bytes", bytes.len());
                (target.run)(&bytes);
            }
            Err(e) => {
                eprintln!("error: {path}: {e}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}

fn many(target: &FuzzTarget, executions: u64, seed: u64) -> ExitCode {
    let files = corpus(target);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz/findings");
    println!("{}: {executions} executions from {} files, seed {seed}", target.name, files.len());
    // A panic's place is said once for each finding, below.
    let place = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let heard = place.clone();
    std::panic::set_hook(Box::new(move |info| {
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        if let Ok(mut place) = heard.lock() {
            *place = location;
        }
    }));
    for (name, bytes) in &files {
        if let Err(finding) = once(target, bytes) {
            println!("{name} of the corpus: {}", finding.words);
            return ExitCode::FAILURE;
        }
    }
    let (begun, mut last, mut before) = (Instant::now(), Instant::now(), Instant::now());
    let (mut found, mut slow) = (BTreeSet::new(), 0);
    let mut panics = 0u64;
    let keep = |kind: &str, bytes: &[u8]| {
        let name = format!("{}-{kind}-{}", target.name, berth_ir::target::hex(&Sha256::digest(bytes)[..6]));
        let path = folder.join(name);
        match std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, bytes)) {
            Ok(()) => path.display().to_string(),
            Err(e) => format!("not written: {e}"),
        }
    };
    changes(target, &files, executions, seed, |n, bytes, ran| {
        let took = before.elapsed();
        if let Err(finding) = ran {
            panics += 1;
            let at = place.lock().map(|p| p.clone()).unwrap_or_default();
            let first = finding.words.lines().next().unwrap_or_default();
            if found.len() < FINDINGS_MAX && found.insert(at.clone()) {
                println!("finding at {n}: {at}: {first}\n  {}", keep("panic", bytes));
            }
        }
        if took > SLOW {
            slow += 1;
            println!("{} ms at {n}: {}", took.as_millis(), keep("slow", bytes));
        }
        if last.elapsed() > Duration::from_secs(60) {
            last = Instant::now();
            println!(
                "{} executions in {} s, {panics} panics at {} places",
                n + 1,
                begun.elapsed().as_secs(),
                found.len()
            );
        }
        before = Instant::now();
    });
    println!(
        "{}: {executions} executions in {} s, {} all the way, {panics} panics at {} places, {slow} slow",
        target.name,
        begun.elapsed().as_secs(),
        reached(),
        found.len()
    );
    if panics == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
