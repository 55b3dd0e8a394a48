//! What a run saw, as a file: times of tasks, rates of links, how much was moved while engines computed.
//!
//! It prints and reads back the same. A plan made with it counts on these times and rates; the layout of the machine
//! stays, so its program is as safe as any.

use crate::failure::Failure;
use berth_ir::lifetime::Lifetimes;
use berth_ir::program::{DimRange, Instruction, Program};
use berth_ir::target::hex;
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use berth_ir::{Target, binary};
use berth_runtime_exec::executor::{Ran, Seen};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// A run, as it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observation {
    /// The hash of the model before anything of it is split or made again: another plan may do so otherwise.
    pub model: String,
    /// Hash of the program that was run, in its binary form.
    pub program: String,
    /// The target that it was for.
    pub target: String,
    /// The layout of that target.
    pub layout: String,
    /// Dims that it was planned for.
    pub dims: BTreeMap<String, DimRange>,
    /// Steps that were looked at: not the first, where there were more.
    pub steps: u64,
    /// Time in which something was moved.
    pub moving: Nanos,
    /// The part of it in which an engine computed too.
    pub moving_under_compute: Nanos,
    /// In the program's order; those that ran.
    pub tasks: Vec<TaskSeen>,
    /// Links that moved something.
    pub links: Vec<LinkSeen>,
}

/// A task, as it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSeen {
    /// The task.
    pub name: String,
    /// The engine that ran it.
    pub engine: String,
    /// Median of its runs.
    pub time: Nanos,
    /// The shortest.
    pub least: Nanos,
    /// The longest.
    pub most: Nanos,
    /// Bytes of scratch that the program has for it, which were enough.
    pub workspace: u64,
    /// Bytes that the program has for weights that the engine keeps for it, which were enough.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub kept: u64,
}

fn is_zero(bytes: &u64) -> bool {
    *bytes == 0
}

/// A link, as it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkSeen {
    /// The link.
    pub name: String,
    /// Bytes that it moved.
    pub bytes: Bytes,
    /// Time in which it moved some.
    pub busy: Nanos,
    /// Stretches of such time: the latency of the link is in each of them.
    pub stretches: u64,
    /// Bytes by busy time.
    pub rate: BytesPerSec,
}

/// Times, one behind the other and without gaps between those that touch.
type Spans = Vec<(u64, u64)>;

fn union(mut spans: Spans) -> Spans {
    spans.sort_unstable();
    let mut all: Spans = Vec::new();
    for (start, end) in spans {
        match all.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => all.push((start, end)),
        }
    }
    all
}

fn length(spans: &[(u64, u64)]) -> u64 {
    spans.iter().map(|(start, end)| end.saturating_sub(*start)).sum()
}

/// What two have in common.
fn common(one: &[(u64, u64)], other: &[(u64, u64)]) -> u64 {
    let (mut a, mut b, mut all) = (0, 0, 0);
    while let (Some((start, end)), Some((from, to))) = (one.get(a), other.get(b)) {
        all += end.min(to).saturating_sub(*start.max(from));
        if end < to { a += 1 } else { b += 1 }
    }
    all
}

impl Observation {
    /// What a run of a program saw; `model` is the hash of the model before anything of it was split or made again, `ran` has the
    /// run's records.
    pub fn new(model: &str, program: &Program, ran: &Ran) -> Observation {
        let last = ran.seen.iter().map(|seen| seen.step).max().unwrap_or(0);
        // The first step finds caches and pages cold.
        let from = if last > 1 { 2 } else { 1 };
        let seen: Vec<&Seen> = ran.seen.iter().filter(|seen| seen.step >= from).collect();
        let code = || program.bodies.iter().flat_map(|body| &body.code);
        let runs: BTreeMap<&str, &str> = code()
            .filter_map(|instruction| match instruction {
                Instruction::Run { name, task, .. } => Some((name.as_str(), task.as_str())),
                _ => None,
            })
            .collect();
        let mut times: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        let mut moved: BTreeMap<&str, (u64, Spans)> = BTreeMap::new();
        let mut computing = Spans::new();
        for seen in seen {
            if let Some(task) = runs.get(seen.name.as_str()) {
                times.entry(task).or_default().push(seen.end.saturating_sub(seen.start));
                computing.push((seen.start, seen.end));
            } else if !seen.lane.is_empty() && seen.bytes > 0 {
                let (bytes, spans) = moved.entry(&seen.lane).or_default();
                *bytes += seen.bytes;
                spans.push((seen.start, seen.end));
            }
        }
        let tasks = program.tasks.iter().filter_map(|task| {
            let mut all = times.remove(task.name.as_str())?;
            all.sort_unstable();
            let (name, engine) = (task.name.clone(), task.engine.clone());
            let (time, least, most) = (Nanos(all[all.len() / 2]), Nanos(all[0]), Nanos(all[all.len() - 1]));
            let kept = task.held.as_ref().map_or(0, |held| held.bytes);
            Some(TaskSeen { name, engine, time, least, most, workspace: task.workspace, kept })
        });
        let tasks = tasks.collect();
        let moving = union(moved.values().flat_map(|(_, spans)| spans.iter().copied()).collect());
        let links = moved.into_iter().map(|(name, (bytes, spans))| {
            let spans = union(spans);
            let busy = length(&spans).max(1);
            let rate = BytesPerSec(crate::calibrate::a_second(bytes, busy));
            let (bytes, busy, stretches) = (Bytes(bytes), Nanos(busy), spans.len() as u64);
            LinkSeen { name: name.to_owned(), bytes, busy, stretches, rate }
        });
        let header = &program.header;
        Observation {
            model: model.to_owned(),
            program: hex(&Sha256::digest(binary::write(program))[..8]),
            target: header.target.clone(),
            layout: header.layout.clone(),
            dims: header.dims.clone(),
            steps: (last + 1).saturating_sub(from) as u64,
            moving: Nanos(length(&moving)),
            moving_under_compute: Nanos(common(&moving, &union(computing))),
            tasks,
            links: links.collect(),
        }
    }

    /// Reads an observation's text.
    pub fn from_ron(text: &str) -> Result<Observation, String> {
        ron::from_str(text).map_err(|e| e.to_string())
    }

    /// Its text: a task or link a line.
    pub fn to_ron(&self) -> String {
        let pretty = ron::ser::PrettyConfig::new().depth_limit(2).new_line("\n".to_owned());
        // Writing to a string fails for no value of this type: lists and maps of plain values.
        let mut text = ron::ser::to_string_pretty(self, pretty).expect("an observation is plain data");
        text.push('\n');
        text
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Observation, Failure> {
        let text = std::fs::read_to_string(path).map_err(|e| Failure::file("read", path, e))?;
        let help = "write one with `berth run MODEL --observe FILE.ron`";
        Observation::from_ron(&text)
            .map_err(|e| Failure::bad(format!("`{}` is no observation: {e}; {help}", path.display())))
    }

    /// Says what it is not an observation of.
    pub fn check(&self, model: &str, target: &Target) -> Result<(), Failure> {
        if self.model != model {
            return Err(Failure::bad(format!(
                "the observation is of another model, or of other dims or values of it ({}, this is {model}): run this one with `--observe`",
                self.model
            )));
        }
        if self.layout != target.layout_hash() {
            return Err(Failure::bad(format!(
                "the observation was made on `{}`, whose memories, engines or links are not those of `{}`: plan for that, or run here with `--observe`",
                self.target, target.name
            )));
        }
        Ok(())
    }

    /// Tasks with the times that were seen in place of estimates; how many there are of which none was seen.
    pub fn time(&self, lifetimes: &mut Lifetimes, target: &Target) -> usize {
        let first = target.engines.first().map_or("", |engine| engine.name.as_str());
        let seen: BTreeMap<&str, &TaskSeen> = self.tasks.iter().map(|task| (task.name.as_str(), task)).collect();
        let mut unseen = 0;
        for task in &mut lifetimes.tasks {
            match seen.get(task.name.as_str()) {
                Some(seen) if seen.engine == first => {
                    (task.cost, task.workspace) = (seen.time, seen.workspace);
                    task.held.iter_mut().for_each(|held| held.bytes = seen.kept);
                }
                Some(seen) => {
                    for other in task.others.iter_mut().filter(|other| other.engine == seen.engine) {
                        (other.cost, other.workspace) = (seen.time, seen.workspace);
                    }
                }
                None => unseen += 1,
            }
        }
        unseen
    }

    /// The machine with the rates that its links were seen to have.
    ///
    /// A stretch of copies has the link's latency once, which the simulator counts by itself: it is taken off, up to half
    /// of the time. Links that share their rate with one that was seen, and were not seen themselves, change as it did.
    pub fn rates(&self, target: &Target) -> Target {
        let mut target = target.clone();
        let mut changes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for link in &mut target.links {
            let Some(seen) = self.links.iter().find(|seen| seen.name == link.name) else { continue };
            let busy = seen.busy.0;
            let late = seen.stretches.saturating_mul(link.latency.0).min(busy / 2);
            let rate = crate::calibrate::a_second(seen.bytes.0, busy - late).max(1);
            changes.extend(link.group.clone().map(|group| (group, (rate, link.rate.0))));
            // Seen as it was, some of it beside compute, and so were the tasks.
            link.rate = BytesPerSec(rate);
            (link.beside, link.taken, link.computing) = (None, None, None);
        }
        for link in &mut target.links {
            let unseen = self.links.iter().all(|seen| seen.name != link.name);
            let change = link.group.as_ref().and_then(|group| changes.get(group)).filter(|_| unseen);
            if let Some((now, before)) = change {
                let rate = u128::from(link.rate.0) * u128::from(*now) / u128::from(*before).max(1);
                link.rate = BytesPerSec(u64::try_from(rate).unwrap_or(u64::MAX).max(1));
                (link.beside, link.taken, link.computing) = (None, None, None);
            }
        }
        target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Observation {
        let task = |name: &str, time| TaskSeen {
            name: name.to_owned(),
            engine: "cores".to_owned(),
            time: Nanos(time),
            least: Nanos(time - 1),
            most: Nanos(time + 1),
            workspace: 64,
            kept: 0,
        };
        let (bytes, busy) = (Bytes(4_000_000), Nanos(3_000_000));
        let read = LinkSeen { name: "read".into(), bytes, busy, stretches: 10, rate: BytesPerSec(1_333_333_333) };
        Observation {
            model: "m".into(),
            program: "p".into(),
            target: "host".into(),
            layout: crate::machine::target("host").unwrap().layout_hash(),
            dims: BTreeMap::from([("past".to_owned(), DimRange { low: 0, high: 9 })]),
            steps: 3,
            moving: busy,
            moving_under_compute: Nanos(7),
            tasks: vec![task("a \"b\"", 1_500), task("c", 2)],
            links: vec![read],
        }
    }

    #[test]
    fn an_observation_prints_and_reads_back_the_same() {
        let seen = seen();
        let text = seen.to_ron();
        assert_eq!(Observation::from_ron(&text), Ok(seen.clone()));
        assert_eq!(Observation::from_ron(&text).unwrap().to_ron(), text);
        assert!(text.lines().any(|line| line.contains("name: \"c\"") && line.contains("2ns")), "{text}");
        assert!(Observation::from_ron(&text.replace("steps", "stairs")).is_err());
    }

    #[test]
    fn rates_are_what_was_seen_without_the_latency_and_the_layout_stays() {
        let (host, seen) = (crate::machine::target("host").unwrap(), seen());
        let now = seen.rates(&host);
        let rate = |name: &str| now.links.iter().find(|l| l.name == name).unwrap().rate.0;
        // Ten stretches with 100 us each are a third of 3 ms.
        assert_eq!(rate("read"), 2_000_000_000);
        let slow =
            Observation { links: vec![LinkSeen { busy: Nanos(9_000_000), ..seen.links[0].clone() }], ..seen.clone() };
        let now = slow.rates(&host);
        let rate = |name: &str| now.links.iter().find(|l| l.name == name).unwrap().rate.0;
        // Its disk is the other's too; what was not seen and shares nothing stays.
        assert_eq!((rate("read"), rate("read-dram"), rate("in")), (500_000_000, 500_000_000, 6_000_000_000));
        assert_eq!(now.layout_hash(), host.layout_hash());
        assert!(seen.check("m", &now).is_ok());
        assert!(seen.check("other", &now).unwrap_err().paragraph.contains("another model"));
        assert!(seen.check("m", &crate::machine::target("l4").unwrap()).unwrap_err().paragraph.contains("`host`"));
    }

    #[test]
    fn overlap_is_time_in_which_both_went_on() {
        let (moving, computing) =
            (union(vec![(5, 9), (0, 4), (3, 6), (20, 30)]), union(vec![(1, 2), (8, 22), (29, 40)]));
        assert_eq!((moving.clone(), length(&moving)), (vec![(0, 9), (20, 30)], 19));
        assert_eq!(common(&moving, &computing), 1 + 1 + 2 + 1);
        assert_eq!(common(&moving, &[]), 0);
    }
}
