//! `berth calibrate`: this machine as a target, measured.

use crate::calibrate::beside::{Beside, Shared, beside};
use crate::calibrate::compute::{self, Compute, compute};
use crate::calibrate::disk::{BYTES, Disk, disk, existing, room, scratch};
use crate::calibrate::memory::{Memory, memory};
use crate::calibrate::waking::waking;
use crate::calibrate::{Figure, rounded, size};
use crate::failure::{Failure, Outcome};
use crate::{cli, files, machine};
use berth_ir::Target;
use berth_ir::target::{Computing, Link};
use berth_ir::units::{Bytes, BytesPerSec, Nanos, Part};
use serde::Serialize;
use std::fmt;
use std::path::Path;

#[derive(Serialize)]
struct Report {
    /// The processor, as it calls itself.
    processor: String,
    cores: usize,
    /// What was read: a scratch file in this folder, or this file.
    folder: Option<String>,
    file: Option<String>,
    file_bytes: u64,
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
    let (gauge, bytes) = match &args.file {
        Some(file) => existing(file)?,
        None => {
            let bytes = room(&args.folder, args.bytes)?;
            (scratch(&args.folder, bytes)?, bytes)
        }
    };
    let rounds = args.rounds as usize;
    let mut engine = compute::open(args.engine.clone(), args.threads)?;
    let mut disk = disk(gauge, bytes, rounds)?;
    // Blocks of memory as large as a scratch file, if not larger.
    let bytes = bytes.min(BYTES);
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
        folder: args.file.is_none().then(|| args.folder.display().to_string()),
        file: args.file.as_ref().map(|file| file.display().to_string()),
        file_bytes: disk.bytes,
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
        let computing = link.computing.map_or(String::new(), |Computing { rate, slows }| {
            format!("; {:.2} beside tasks that read little, which lose {slows}", rate.0 as f64 / 1e9)
        });
        report.links.push(format!(
            "{:<10}{rate:.2} GB/s by {chunk}, {left:.2} beside compute, which lacks {taken:.2} of its memory{computing}{group}",
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

/// The most of its speed that a task can lose: it ends.
const LOST_MOST: Part = Part(990_000);

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
    // What makes room for a copy wakes its link, and that wakes who waits for it.
    let woken = waking.median.saturating_mul(2);
    // What the engine is slower by meanwhile, of what it reads of a memory, and of its speed.
    let bears = |link: &mut Link, shared: &Shared| {
        link.beside = Some(rate(&shared.rate)).filter(|left| *left < link.rate);
        let lost = compute.map(|compute| shared.of_reading.of(compute.reading.median));
        link.taken = lost.map(|lost| BytesPerSec(rounded(lost))).filter(|taken| *taken > link.rate_beside());
        let slows = shared.of_computing.rounded().min(LOST_MOST);
        link.computing = Some(Computing { rate: rate(&shared.computing).min(link.rate), slows });
    };
    for link in &mut target.links {
        if stores.contains(&link.from) {
            link.rate = rate(&deep.rate);
            link.chunk = Bytes(deep.chunk);
            link.latency = Nanos(rounded(disk.latency.median.saturating_add(woken)));
            link.submit = Nanos(rounded(deep.submit.median));
            beside.iter().for_each(|beside| bears(link, &beside.disk));
        } else {
            link.rate = rate(&memory.rate);
            link.latency = Nanos(rounded(woken));
            link.chunk = Bytes(memory.chunk);
            beside.iter().for_each(|beside| bears(link, &beside.copying));
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
        "Measured by `berth calibrate` on {}, {} cores, with {} of {} read {cache}; each figure the median of its rounds, least and most beside. {}. As `host` has it: {}.",
        report.processor,
        report.cores,
        report.file.as_ref().map_or_else(|| "a scratch file".to_owned(), |file| format!("`{file}`")),
        size(report.file_bytes),
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
