//! `berth calibrate`: this machine as a target, measured.

use crate::calibrate::beside::{Beside, beside};
use crate::calibrate::compute::{self, Compute, compute};
use crate::calibrate::disk::{Disk, disk, room};
use crate::calibrate::memory::{Memory, memory};
use crate::calibrate::waking::waking;
use crate::calibrate::{Figure, rounded, size};
use crate::failure::{Failure, Outcome};
use crate::{cli, files, machine};
use berth_ir::Target;
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use serde::Serialize;
use std::fmt;
use std::path::Path;

#[derive(Serialize)]
struct Report {
    /// The processor, as it calls itself.
    processor: String,
    cores: usize,
    folder: String,
    scratch_bytes: u64,
    /// Whether the page cache was passed by.
    direct: bool,
    figures: Vec<Figure>,
    /// Links, in words: what was made of the figures.
    links: Vec<String>,
    /// What is as the target `host` has it.
    kept: Vec<String>,
    target: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {} cores; median of all rounds, then least to most", self.processor, self.cores)?;
        for figure in &self.figures {
            writeln!(f, "  {figure}")?;
        }
        for link in &self.links {
            writeln!(f, "  link {link}")?;
        }
        for kept in &self.kept {
            writeln!(f, "  as `host` has it: {kept}")?;
        }
        match &self.target {
            Some(path) => write!(f, "  target      {path}: use it with `--target {path}`"),
            None => write!(f, "  target      not written: name a file with `-o FILE.ron`"),
        }
    }
}

/// Runs it.
pub fn calibrate(args: &cli::Calibrate) -> Outcome {
    if let Some(path) = &args.output {
        // Such a name is what `--target` takes for a file's.
        if path.extension().is_none_or(|e| e != "ron") {
            return Err(Failure::bad(format!("`{}`: a target's file ends in `.ron`", path.display())));
        }
        files::check_writable(Some(path))?;
    }
    let bytes = room(&args.folder, args.bytes)?;
    let rounds = args.rounds as usize;
    let mut engine = compute::open(args.engine.clone(), args.threads)?;
    let mut disk = disk(&args.folder, bytes, rounds)?;
    let memory = memory(bytes, rounds);
    let waking = waking(rounds);
    let (compute, beside) = match &mut engine {
        Some(engine) => (
            Some(compute(engine, args.threads, bytes, rounds)?),
            Some(beside(&mut disk, memory.chunk, bytes, engine, rounds)?),
        ),
        None => (None, None),
    };
    let (processor, cores) = processor();
    let parts = [
        Some(&disk.figures),
        Some(&memory.figures),
        compute.as_ref().map(|c| &c.figures),
        beside.as_ref().map(|b| &b.figures),
    ];
    let mut report = Report {
        processor,
        cores,
        folder: args.folder.display().to_string(),
        scratch_bytes: bytes,
        direct: disk.direct,
        figures: parts.into_iter().flatten().flatten().chain([&waking]).cloned().collect(),
        links: Vec::new(),
        kept: kept(compute.as_ref()),
        target: args.output.as_ref().map(|path| path.display().to_string()),
    };
    let mut target = machine::target("host")?;
    measured(&mut target, &disk, (&memory, &waking), compute.as_ref(), beside.as_ref());
    for link in &target.links {
        let group = link.group.as_ref().map_or(String::new(), |group| format!(", shares `{group}`"));
        let [rate, left, taken] = [link.rate, link.rate_beside(), link.rate_taken()].map(|rate| rate.0 as f64 / 1e9);
        let chunk = size(link.chunk.0);
        report.links.push(format!(
            "{:<10}{rate:.2} GB/s by {chunk}, {left:.2} beside compute, which lacks {taken:.2} of its memory{group}",
            link.name
        ));
    }
    target.source = source(&report);
    if let Some(path) = &args.output {
        // Programs name their target; this one is found by its file.
        target.name = path.display().to_string();
        target.check().map_err(|e| Failure::bad(format!("what was measured makes no target: {e}")))?;
        files::write(path, target.to_ron().as_bytes())?;
    }
    files::print(&report, args.format)
}

/// Two copies at once that together move less than this share of one alone, in percent, share its rate.
const SHARED: u64 = 130;

/// Puts what was measured in the place of the preset's figures.
fn measured(
    target: &mut Target,
    disk: &Disk,
    (memory, waking): (&Memory, &Figure),
    compute: Option<&Compute>,
    beside: Option<&Beside>,
) {
    let shared = u128::from(memory.both.median) * 100 < u128::from(memory.rate.median) * u128::from(SHARED);
    let stores: Vec<String> = target.tiers.iter().filter(|t| t.files).map(|t| t.name.clone()).collect();
    let deep = disk.deep();
    let rate = |figure: &Figure| BytesPerSec(rounded(figure.median));
    // As fast as alone, or what can be told from that.
    let left = |figure: Option<&Figure>, alone: BytesPerSec| figure.map(rate).filter(|left| *left < alone);
    // What makes room for a copy wakes its link, and that wakes who waits for it.
    let woken = waking.median.saturating_mul(2);
    // What the engine is slower by while the disk is read, of what it reads of a memory.
    let taken = beside.zip(compute).map(|(beside, compute)| {
        let [alone, reading] = beside.streamed.each_ref().map(|figure| u128::from(figure.median));
        let lost = u128::from(compute.reading.median) * alone.saturating_sub(reading) / alone.max(1);
        BytesPerSec(rounded(lost as u64))
    });
    for link in &mut target.links {
        if stores.contains(&link.from) {
            link.rate = rate(&deep.rate);
            link.beside = left(beside.map(|beside| &beside.rate), link.rate);
            link.taken = taken.filter(|taken| *taken > link.rate_beside());
            link.chunk = Bytes(deep.chunk);
            link.latency = Nanos(rounded(disk.latency.median.saturating_add(woken)));
            link.submit = Nanos(rounded(deep.submit.median));
        } else {
            link.rate = rate(&memory.rate);
            link.latency = Nanos(rounded(woken));
            link.beside = left(beside.map(|beside| &beside.copying), link.rate);
            link.chunk = Bytes(memory.chunk);
            link.group = shared.then(|| "memory".to_owned());
        }
    }
    for tier in &mut target.tiers {
        match (tier.files, compute) {
            (true, _) => tier.bandwidth = rate(&deep.rate),
            (false, Some(compute)) => tier.bandwidth = rate(&compute.reading),
            (false, None) => {}
        }
    }
    if let Some(compute) = compute {
        for engine in &mut target.engines {
            engine.rates = compute.rates.clone();
            engine.launch = Nanos(rounded(compute.launch.median));
        }
    }
}

/// What stays as the preset has it.
fn kept(compute: Option<&Compute>) -> Vec<String> {
    let mut kept = vec!["capacities and alignments".to_owned()];
    match compute {
        None => kept
            .push("rates of the engine and of its memory: the engine is not at hand (`cargo xtask setup`)".to_owned()),
        Some(compute) => {
            kept.extend(compute.without.iter().map(|name| format!("{name}, for which the engine has no kernel")))
        }
    }
    kept
}

/// Where the target's figures come from, in one text.
fn source(report: &Report) -> String {
    let figure = |f: &Figure| {
        let [median, least, most] = [f.median, f.least, f.most].map(|value| f.unit.human(value));
        format!("{}: {median} ({least} to {most})", f.what)
    };
    let figures: Vec<String> = report.figures.iter().map(figure).collect();
    let cache =
        if report.direct { "past the page cache" } else { "through the page cache, which cannot be passed by here" };
    format!(
        "Measured by `berth calibrate` on {}, {} cores, with a scratch file of {} read {cache}; each figure the median of its rounds, least and most beside. {}. As `host` has it: {}.",
        report.processor,
        report.cores,
        size(report.scratch_bytes),
        figures.join("; "),
        report.kept.join("; ")
    )
}

/// The processor's own name, and how many cores this process may use.
fn processor() -> (String, usize) {
    let text = std::fs::read_to_string(Path::new("/proc/cpuinfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let name = line.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
    (name, std::thread::available_parallelism().map_or(1, usize::from))
}
