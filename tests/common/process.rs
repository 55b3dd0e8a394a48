//! Models of this repository in one process: lowered with their stored inputs, and run by an executor.

#![allow(dead_code, reason = "each test file uses its part")]

use berth::npz::{self, Array};
use berth_compiler::import;
use berth_compiler::lower::{Lowered, lower};
use berth_ir::expr::Binding;
use berth_ir::graph::{Graph, Stored};
use berth_ir::program::Program;
use berth_ir::verify::Verified;
use berth_runtime_exec::engine::EngineOptions;
use berth_runtime_exec::engine::ort::OrtEngine;
use berth_runtime_exec::executor::{Caller, Executor, Options};
use berth_runtime_exec::store::Places;
use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

pub const THREADS: usize = 2;
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A model with its stored inputs, lowered.
pub struct Case {
    pub graph: Graph,
    pub lowered: Lowered,
    pub inputs: BTreeMap<String, Array>,
}

pub fn read(stored: &Stored, offset: u64, bytes: u64) -> Option<bytes::Bytes> {
    let mut read = vec![0; bytes as usize];
    std::fs::File::open(&stored.path).ok()?.read_exact_at(&mut read, stored.offset + offset).ok()?;
    Some(read.into())
}

pub fn case(path: &Path) -> Case {
    let model = import::open(path).expect("it opens");
    let arrays = npz::read(&path.with_extension("npz")).expect("its inputs");
    let named = arrays.into_iter().filter_map(|a| Some((a.name.strip_prefix("in:")?.to_owned(), a)));
    let inputs: BTreeMap<String, Array> = named.collect();
    let mut dims = BTreeMap::new();
    berth::model::dims_of_inputs(&model, &inputs, &[], &mut dims).expect("its dims");
    let graph = berth::model::graph(&model, &dims, &BTreeMap::new()).expect("its graph");
    let target = berth::machine::target("host").expect("the host");
    let lowered = lower(&graph, &dims, &target, &read).expect("it lowers");
    Case { graph, lowered, inputs }
}

pub fn engine() -> OrtEngine {
    OrtEngine::open(&EngineOptions { library: None, threads: THREADS, spin: false })
        .expect("the engine; `cargo xtask setup` fetches it")
}

/// Feeds stored inputs, keeps outputs by step; may dawdle.
pub struct Side<'a> {
    pub case: &'a Case,
    pub outputs: BTreeMap<(usize, String), Vec<u8>>,
    pub dawdle: Duration,
}

impl<'a> Side<'a> {
    pub fn new(case: &'a Case) -> Side<'a> {
        Side { case, outputs: BTreeMap::new(), dawdle: Duration::ZERO }
    }
}

impl Caller for Side<'_> {
    fn feed(&mut self, tensor: &str, _step: usize, to: &mut [u8], _: &Binding, kept: bool) -> Result<(), String> {
        std::thread::sleep(self.dawdle);
        let port = self.case.lowered.inputs.iter().find(|b| b.tensor.as_deref() == Some(tensor)).ok_or("no input")?;
        if !kept {
            to.copy_from_slice(&self.case.inputs[&port.name].bytes);
        }
        Ok(())
    }
    fn fetch(&mut self, tensor: &str, step: usize, from: &[u8], _dims: &Binding) -> Result<(), String> {
        self.outputs.insert((step, tensor.to_owned()), from.to_vec());
        Ok(())
    }
}

pub fn load(case: &Case, program: &Verified<Program>, engine: OrtEngine) -> Executor<OrtEngine> {
    let ports = berth::measure::ports(program, &case.lowered).expect("ports");
    let options = Options { measure: true, ..Options::new(&super::common::root().join("models")) };
    Executor::load(program, &ports, vec![engine], &options).expect("it loads")
}

/// Where the models' files are.
pub fn places() -> Places {
    Places::folder(&super::common::root().join("models"))
}
