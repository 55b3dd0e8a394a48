//! Replays G10's workloads and prints what comes of it: `bench/g10.sh FOLDER [--sweeps]`.
//!
//! Every schedule is checked strictly before a figure of it is printed.

use berth_bench_g10::check::{Tally, check};
use berth_bench_g10::programs::{steps, strict_steps};
use berth_bench_g10::read::{Rig, read, target};
use berth_compiler::spill::{bound, bound_with_clean_drops, schedule};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Copies are no larger.
const PIECE: u64 = 64 << 20;

/// Fractions of the ideal that G10's authors published (Fig. 11).
const PUBLISHED: [(&str, f64); 5] = [
    ("BERT_Base_128", 1.0),
    ("BERT_Base_256", 0.9965),
    ("BERT_Base_1024", 0.4447),
    ("VIT_1280", 0.6708),
    ("ResNet152_1280", 0.9840),
];

/// GiB of host memory that are tried.
const HOSTS: [u64; 10] = [0, 4, 8, 16, 32, 64, 96, 128, 192, 256];

/// Bytes per second of the disk that are tried, beside a bus of 32 GB/s.
const DISKS: [u64; 7] =
    [1_600_000_000, 3_200_000_000, 6_400_000_000, 12_800_000_000, 19_200_000_000, 25_600_000_000, 32_000_000_000];

/// A sweep may lose so much from one point to the next, and no more.
const LOSS_MAX: f64 = 0.001;

/// What one plan comes to.
struct Outcome {
    fraction: f64,
    bound: f64,
    tally: Tally,
    seconds: f64,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let folder = words.next();
    let sweeps = words.next().is_some_and(|w| w == "--sweeps");
    let Some(folder) = folder else {
        eprintln!("error: which folder holds the cases?\n  help: bench/g10.sh FOLDER [--sweeps]");
        return ExitCode::from(2);
    };
    match run(Path::new(&folder), sweeps) {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            eprintln!("error: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(folder: &Path, sweeps: bool) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut cases: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    cases.retain(|c| c.join("kernels.csv").is_file());
    cases.sort();
    if cases.is_empty() {
        return Err(format!("{} holds no case: a folder with kernels.csv and tensors.csv", folder.display()));
    }
    println!("fraction of ideal, strict rules, copies of at most 64 MiB");
    println!(
        "{:<18} {:>8} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8} {:>7}",
        "case", "reached", "bound", "published", "in GB", "out GB", "disk in", "disk out", "plan s"
    );
    for case in &cases {
        let found = outcome(case, &Rig::default())?;
        let name = name(case);
        let published = PUBLISHED.iter().find(|(n, _)| *n == name);
        let published = published.map_or("-".to_owned(), |(_, f)| format!("{f:.4}"));
        let gb: Vec<String> = found.tally.bytes.iter().map(|b| format!("{:.2}", *b as f64 / 1e9)).collect();
        println!(
            "{name:<18} {:>8.4} {:>8.4} {published:>9} {:>8} {:>8} {:>8} {:>8} {:>7.2}",
            found.fraction, found.bound, gb[0], gb[1], gb[2], gb[3], found.seconds
        );
    }
    println!("\nwith a rule unbent, which G10's machine does not allow:");
    println!(
        "weights that no kernel writes dropped; clean copies kept below, at most; host memory emptied to disk and back"
    );
    println!("{:<18} {:>8} {:>8} {:>8} {:>8}", "case", "strict", "drops", "clean <=", "to disk");
    for case in &cases {
        let strict = outcome(case, &Rig::default())?.fraction;
        let drops = outcome(case, &Rig { clean_drops: true, ..Rig::default() })?.fraction;
        let lifetimes = read(case, &Rig::default())?;
        let clean = bound_with_clean_drops(&lifetimes, &target(&Rig::default())).map_err(|e| e.to_string())?;
        let ideal = lifetimes.tasks.iter().map(|t| t.cost.0).sum::<u64>() as f64;
        // Who may bend a rule need not.
        let to_disk = outcome(case, &Rig { host_to_disk: true, ..Rig::default() })?.fraction.max(strict);
        println!(
            "{:<18} {strict:>8.4} {:>8.4} {:>8.4} {to_disk:>8.4}",
            name(case),
            drops.max(strict),
            ideal / clean.0 as f64
        );
    }
    println!(
        "\nas programs that are proved, whole tensors with addresses: weights written back where they were changed, host and disk below;\nweights read only, the host below"
    );
    println!(
        "{:<18} {:>8} {:>8} {:>8} {:>7} {:>10} {:>8} {:>8} {:>7}",
        "case", "program", "bytes", "bound", "both s", "read only", "bytes", "bound", "both s"
    );
    for case in &cases {
        print!("{:<18}", name(case));
        for (n, steps) in [strict_steps, steps].into_iter().enumerate() {
            let began = Instant::now();
            let rig = Rig::default();
            let found = steps(read(case, &rig)?, &rig, PIECE).map_err(|e| format!("{}: {e}", name(case)))?;
            let [program, bytes, bound] =
                [found.program, found.bytes, found.bound].map(|step| found.ideal.0 as f64 / step.0 as f64);
            let seconds = began.elapsed().as_secs_f64();
            print!(" {program:>width$.4} {bytes:>8.4} {bound:>8.4} {seconds:>7.2}", width = 8 + 2 * n);
        }
        println!();
    }
    let mut falls = Vec::new();
    if sweeps {
        println!("\nby host memory, GiB: reached / bound");
        for case in &cases {
            let rigs = HOSTS.map(|gib| (gib.to_string(), Rig { host: gib << 30, ..Rig::default() }));
            falls.extend(sweep(case, &rigs)?);
        }
        println!("\nby disk, GB/s, on a bus of 32 GB/s: reached / bound");
        for case in &cases {
            let rig = |disk| Rig { disk, bus: 32_000_000_000, ..Rig::default() };
            falls.extend(sweep(case, &DISKS.map(|disk| (format!("{:.1}", disk as f64 / 1e9), rig(disk))))?);
        }
    }
    // What this process ever held, reading included.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).map_or("unknown", str::trim);
    println!("\nmost memory of this process: {most}");
    if !falls.is_empty() {
        return Err(format!("more is slower: {}", falls.join("; ")));
    }
    Ok(())
}

fn name(case: &Path) -> String {
    case.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn outcome(case: &Path, rig: &Rig) -> Result<Outcome, String> {
    let lifetimes = read(case, rig)?;
    let target = target(rig);
    let began = Instant::now();
    let found = schedule(&lifetimes, &target, Some(PIECE)).map_err(|e| format!("{}: {e}", name(case)))?;
    let least = bound(&lifetimes, &target, found.step).map_err(|e| format!("{}: {e}", name(case)))?;
    let seconds = began.elapsed().as_secs_f64();
    let wrong = |w: Vec<String>| format!("{}: the schedule is wrong: {}", name(case), w.join("; "));
    let tally = check(&lifetimes, &target, &found, PIECE).map_err(wrong)?;
    let ideal = lifetimes.tasks.iter().map(|t| t.cost.0).sum::<u64>() as f64;
    Ok(Outcome { fraction: ideal / found.step.0 as f64, bound: ideal / least.0 as f64, tally, seconds })
}

/// Prints a line; where a later point is worse, says so.
fn sweep(case: &Path, rigs: &[(String, Rig)]) -> Result<Vec<String>, String> {
    let mut falls = Vec::new();
    let mut most = 0.0f64;
    print!("{:<18}", name(case));
    for (point, rig) in rigs {
        let found = outcome(case, rig)?;
        print!("  {point}: {:.4}/{:.4}", found.fraction, found.bound);
        if found.fraction < most * (1.0 - LOSS_MAX) {
            falls.push(format!("{} at {point}: {:.4} after {most:.4}", name(case), found.fraction));
        }
        most = most.max(found.fraction);
    }
    println!();
    Ok(falls)
}
