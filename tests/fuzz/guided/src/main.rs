//! Runs one fuzz target, which `BERTH_FUZZ` names, under libFuzzer.

#![no_main]

use berth_fuzz::mutate::{Random, mutate};
use berth_fuzz::targets::{FuzzTarget, TARGETS};
use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target, fuzzer_mutate};
use std::sync::OnceLock;

fn target() -> &'static FuzzTarget {
    static TARGET: OnceLock<&FuzzTarget> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("BERTH_FUZZ").unwrap_or_default();
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        let found = TARGETS.iter().find(|t| t.name == name);
        found.unwrap_or_else(|| panic!("BERTH_FUZZ names one of {}", names.join(", ")))
    })
}

fuzz_target!(|bytes: &[u8]| -> Corpus {
    (target().run)(bytes);
    Corpus::Keep
});

// Every other change is one of the form; the rest are libFuzzer's.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed % 2 == 0 {
        return fuzzer_mutate(data, size, max_size);
    }
    let changed = mutate(target().form, &data[..size], &data[..size], &mut Random(seed.into()));
    let length = changed.len().min(max_size);
    data[..length].copy_from_slice(&changed[..length]);
    length
});
