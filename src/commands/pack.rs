//! `berth pack`: a model's weights in one file, as a run wants to read them.

use crate::cli;
use crate::failure::{Failure, Outcome};
use crate::model::{self, Dims};
use crate::{files, machine};
use berth_compiler::import::Model;
use berth_compiler::lower::Lowered;
use berth_ir::lifetime::TensorId;
use berth_ir::program::DimRange;
use berth_ir::units::Bytes;
use berth_runtime_exec::pack::{Pack, PackError, write};
use berth_runtime_exec::store::{Layout, Wanted};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};

#[derive(Serialize)]
struct Report {
    file: String,
    weights: usize,
    bytes: u64,
    /// Weights that were there from an earlier try.
    found: usize,
    /// Bytes of the pack; nothing where it was only read.
    file_bytes: Option<u64>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} weights, {}", self.file, self.weights, Bytes(self.bytes).human())?;
        if self.found > 0 {
            write!(f, "; {} of them were there from an earlier try", self.found)?;
        }
        if self.file_bytes.is_none() {
            write!(f, ", every checksum right")?;
        }
        Ok(())
    }
}

/// Runs it.
pub fn pack(args: &cli::Pack) -> Outcome {
    let Some(output) = args.output.as_deref().filter(|_| !args.check) else {
        let pack = Pack::open(&args.file).map_err(failure)?;
        pack.check_all().map_err(|e| failure(e.into()))?;
        let (weights, bytes) = pack.holds();
        let file = args.file.display().to_string();
        return files::print(&Report { file, weights, bytes, found: 0, file_bytes: None }, args.format);
    };
    let opened = model::open(&args.file, args.bound.cast)?;
    let dims = with_ones(&opened, model::dims(&args.bound.dims)?);
    let graph = model::graph(&opened, &dims, &model::sets(&args.bound.sets)?)?;
    let lowered = model::ready(&graph, &dims, &machine::target("host")?, &[])?.lowered;
    let wanted = in_order(&lowered);
    let quiet = args.format != cli::Format::Text || !std::io::stderr().is_terminal();
    let mut notice = |done: u64, all: u64| {
        if !quiet {
            // Over the last one; a terminal that has gone is no error.
            let _ = write!(std::io::stderr(), "\r  {} of {} ", Bytes(done).human(), Bytes(all).human());
        }
    };
    let written = write(&model::places(&opened), &wanted, output, &mut notice);
    if !quiet {
        let _ = writeln!(std::io::stderr());
    }
    let written = written.map_err(failure)?;
    let report = Report {
        file: output.display().to_string(),
        weights: written.weights,
        bytes: written.bytes,
        found: written.found,
        file_bytes: Some(written.file_bytes),
    };
    files::print(&report, args.format)
}

/// Dims that nobody gave a size have one that is as good as any: weights do not depend on them.
fn with_ones(model: &Model, mut dims: Dims) -> Dims {
    let follows = model.graph(&BTreeMap::new()).map(|graph| graph.relations).unwrap_or_default();
    for dim in model.input_dims().into_iter().filter(|dim| !follows.contains_key(&dim.name)) {
        dims.entry(dim.name).or_insert(DimRange { low: 1, high: 1 });
    }
    dims
}

/// Weights in the order in which tasks first use them.
fn in_order(lowered: &Lowered) -> Vec<Wanted> {
    let lifetimes = &lowered.lifetimes;
    let used = lifetimes.tasks.iter().flat_map(|task| task.reads.iter().copied());
    let mut seen = vec![false; lifetimes.tensors.len()];
    let first: Vec<TensorId> = used.filter(|t| !std::mem::replace(&mut seen[t.0 as usize], true)).collect();
    let wanted = first.into_iter().filter_map(|id| {
        let tensor = lifetimes.tensor(id);
        let home = tensor.home.as_ref().filter(|home| home.filled.is_none())?;
        let layout = Layout { offset: home.offset, strip: home.strip, transposed: home.transposed };
        Some(Wanted { what: tensor.name.clone(), file: home.file.clone(), layout, bytes: tensor.bytes })
    });
    wanted.collect()
}

fn failure(error: PackError) -> Failure {
    match error {
        PackError::Full { .. } => Failure::unfit(error),
        other => Failure::bad(other),
    }
}
