//! `berth diff`: in words and numbers first, instructions after.

use crate::cli;
use crate::failure::Outcome;
use crate::files::{read_program, say};
use berth_ir::program::{Instruction, Program};
use berth_ir::text::compact;
use berth_ir::units::{Bytes, Nanos};
use std::collections::BTreeMap;

/// Runs it. Finding differences is no failure.
pub fn diff(args: &cli::Diff) -> Outcome {
    let (before, after) = (read_program(&args.before)?, read_program(&args.after)?);
    let mut lines = words(&before, &after);
    lines.extend(table("tensor", items(&before.tensors, |t| &t.name), items(&after.tensors, |t| &t.name)));
    lines.extend(table("task", items(&before.tasks, |t| &t.name), items(&after.tasks, |t| &t.name)));
    lines.extend(table("berth", items(&before.berths, |b| &b.name), items(&after.berths, |b| &b.name)));
    for (part, old, new) in codes(&before, &after) {
        lines.extend(table(&part, items(old, Instruction::name), items(new, Instruction::name)));
    }
    if lines.is_empty() {
        lines.push("no difference".to_owned());
    }
    lines.iter().try_for_each(|l| say(l))
}

/// What changed in sizes, budgets and traffic.
fn words(before: &Program, after: &Program) -> Vec<String> {
    let mut lines = Vec::new();
    let mut changed = |what: &str, old: String, new: String| {
        if old != new {
            lines.push(format!("{what}: {old} -> {new}"));
        }
    };
    let (a, b) = (&before.header, &after.header);
    changed("model", a.model.clone(), b.model.clone());
    changed("target", a.target.clone(), b.target.clone());
    changed("layout", a.layout.clone(), b.layout.clone());
    changed("numerics", compact(&a.numerics), compact(&b.numerics));
    changed("mode", compact(&a.mode), compact(&b.mode));
    changed("dims", compact(&a.dims), compact(&b.dims));
    changed("split", compact(&a.split), compact(&b.split));
    changed("recompute", compact(&a.recompute), compact(&b.recompute));
    changed("states", compact(&a.states), compact(&b.states));
    changed("growth", compact(&a.growth), compact(&b.growth));
    changed("memory", compact(&a.memory), compact(&b.memory));
    let human = |b: Option<&u64>| b.map_or("none".to_owned(), |b| Bytes(*b).human());
    let (peaks, other) = (&before.facts.peaks, &after.facts.peaks);
    for tier in peaks.keys().chain(other.keys().filter(|t| !peaks.contains_key(*t))) {
        changed(&format!("peak of {tier}"), human(peaks.get(tier)), human(other.get(tier)));
    }
    let held = |p: &Program| {
        let held = p.tasks.iter().filter_map(|task| task.held.as_ref());
        let (tasks, bytes) = held.fold((0, 0u64), |(n, bytes), held| (n + 1, bytes.saturating_add(held.bytes)));
        if tasks == 0 { "none".to_owned() } else { format!("{} for {tasks} tasks", Bytes(bytes).human()) }
    };
    changed("kept by engines", held(before), held(after));
    let traffic = |p: &Program| -> BTreeMap<String, u64> {
        p.facts.traffic.iter().map(|t| (format!("{} in {}", t.link, part_name(&t.part)), t.bytes)).collect()
    };
    let (old, new) = (traffic(before), traffic(after));
    for key in old.keys().chain(new.keys().filter(|k| !old.contains_key(*k))) {
        changed(&format!("bytes over {key}"), human(old.get(key)), human(new.get(key)));
    }
    changed("calls a step", compact(&before.facts.calls), compact(&after.facts.calls));
    lines.extend(costs(before, after));
    lines
}

/// What the plans count on for tasks that both have.
fn costs(before: &Program, after: &Program) -> Option<String> {
    let new: BTreeMap<&str, Nanos> = after.tasks.iter().map(|task| (task.name.as_str(), task.cost)).collect();
    let both = before.tasks.iter().filter_map(|task| Some((task.cost, *new.get(task.name.as_str())?)));
    let both: Vec<(Nanos, Nanos)> = both.collect();
    let others = both.iter().filter(|(old, new)| old != new).count();
    let (old, new) =
        both.iter().fold((0u64, 0u64), |(a, b), (old, new)| (a.saturating_add(old.0), b.saturating_add(new.0)));
    let all = both.len();
    (others > 0).then(|| {
        format!("costs of {others} of {all} tasks, together: {} -> {}", Nanos(old).human(), Nanos(new).human())
    })
}

fn part_name(part: &str) -> &str {
    if part.is_empty() { "prologue" } else { part }
}

/// Items by name, in order, each as its line.
fn items<'a, T: serde::Serialize>(all: &'a [T], name: impl Fn(&'a T) -> &'a str) -> Vec<(&'a str, String)> {
    all.iter().map(|item| (name(item), compact(item))).collect()
}

/// Code of prologue, bodies and transitions, those of one name side by side.
fn codes<'a>(before: &'a Program, after: &'a Program) -> Vec<(String, &'a [Instruction], &'a [Instruction])> {
    let parts = |p: &'a Program| -> Vec<(&'a str, &'a [Instruction])> {
        let bodies = p.bodies.iter().map(|b| (b.name.as_str(), b.code.as_slice()));
        let transitions = p.transitions.iter().map(|t| (t.name.as_str(), t.code.as_slice()));
        std::iter::once(("", p.prologue.as_slice())).chain(bodies).chain(transitions).collect()
    };
    let (old, new) = (parts(before), parts(after));
    let find = |all: &[(&str, &'a [Instruction])], name: &str| {
        all.iter().find(|(n, _)| *n == name).map_or(&[][..], |(_, code)| code)
    };
    let names = old.iter().chain(new.iter().filter(|(n, _)| !old.iter().any(|(o, _)| o == n))).map(|(n, _)| *n);
    names.map(|n| (part_name(n).to_owned(), find(&old, n), find(&new, n))).collect()
}

/// Items that went, came or changed; and a line where only their order did.
fn table(what: &str, old: Vec<(&str, String)>, new: Vec<(&str, String)>) -> Vec<String> {
    let olds: BTreeMap<&str, &String> = old.iter().map(|(n, line)| (*n, line)).collect();
    let news: BTreeMap<&str, &String> = new.iter().map(|(n, line)| (*n, line)).collect();
    let mut lines = Vec::new();
    for (name, line) in &old {
        match news.get(name) {
            None => lines.push(format!("- {what} {line}")),
            Some(other) if *other != line => {
                lines.push(format!("- {what} {line}"));
                lines.push(format!("+ {what} {other}"));
            }
            Some(_) => {}
        }
    }
    lines.extend(new.iter().filter(|(n, _)| !olds.contains_key(n)).map(|(_, line)| format!("+ {what} {line}")));
    let order = |a: &[(&str, String)], b: &BTreeMap<&str, &String>| {
        a.iter().map(|(n, _)| *n).filter(|n| b.contains_key(n)).map(str::to_owned).collect::<Vec<_>>()
    };
    if order(&old, &news) != order(&new, &olds) {
        lines.push(format!("the order of what {what} has in both changed"));
    }
    lines
}
