//! Which machine, and what may be used of it: presets, files, `--memory`.

use crate::failure::Failure;
use berth_compiler::plan::{PlanError, extremes};
use berth_compiler::room::Least;
use berth_ir::Target;
use berth_ir::lifetime::Lifetimes;
use berth_ir::units::Bytes;
use std::collections::BTreeMap;
use std::path::Path;

/// The machines that are compiled in: name and RON.
pub const PRESETS: &[(&str, &str)] = &[
    ("host", include_str!("../targets/host.ron")),
    ("h100-pcie", include_str!("../targets/h100-pcie.ron")),
    ("h100-sxm", include_str!("../targets/h100-sxm.ron")),
    ("h200", include_str!("../targets/h200.ron")),
    ("gh200", include_str!("../targets/gh200.ron")),
    ("a100-40g", include_str!("../targets/a100-40g.ron")),
    ("rtx4090", include_str!("../targets/rtx4090.ron")),
    ("l4", include_str!("../targets/l4.ron")),
];

/// A machine by the name of a preset or the path of a file.
pub fn target(name: &str) -> Result<Target, Failure> {
    let preset = PRESETS.iter().find(|(n, _)| *n == name).map(|(_, ron)| (*ron).to_owned());
    let text = match preset {
        Some(text) => text,
        None if name.ends_with(".ron") || name.contains('/') => {
            std::fs::read_to_string(name).map_err(|e| Failure::file("read the target", Path::new(name), e))?
        }
        None => {
            let known: Vec<&str> = PRESETS.iter().map(|(n, _)| *n).collect();
            let known = known.join(", ");
            return Err(Failure::bad(format!(
                "there is no target `{name}`: name one of {known}, or the path of a RON file"
            )));
        }
    };
    Target::from_ron(&text).map_err(|e| Failure::bad(format!("target `{name}`: {e}")))
}

/// Reads `--engines`: tasks lose what they take on engines that are not named.
pub fn restrict(target: &Target, words: Option<&[String]>, lifetimes: &mut Lifetimes) -> Result<(), Failure> {
    let Some(words) = words else { return Ok(()) };
    let known: Vec<&str> = target.engines.iter().map(|e| e.name.as_str()).collect();
    let said = words.join(",");
    if let Some(unknown) = words.iter().find(|w| !known.contains(&w.as_str())) {
        return Err(Failure::bad(format!(
            "`--engines {said}`: target `{}` has no engine `{unknown}`; it has {}",
            target.name,
            known.join(", ")
        )));
    }
    if let Some(first) = known.first().filter(|first| !words.iter().any(|w| w == *first)) {
        return Err(Failure::bad(format!(
            "`--engines {said}`: `{first}` is the first engine of target `{}`, whose memory is the device: name it too",
            target.name
        )));
    }
    for task in &mut lifetimes.tasks {
        task.others.retain(|other| words.contains(&other.engine));
    }
    Ok(())
}

/// One `--memory`.
enum Amount {
    Bytes(Bytes),
    Percent(u64),
    Least,
}

/// A target with the budgets that the user gave, and the least that the device needs where it was worked out.
#[derive(Debug)]
pub struct Budgeted {
    /// The target with budgets.
    pub target: Target,
    /// Worked out only for `least`.
    pub least: Option<Least>,
}

/// Reads `--memory` values against a model: `least` and percentages need to know what it holds.
pub fn budget(target: &Target, words: &[String], lifetimes: &Lifetimes) -> Result<Budgeted, Failure> {
    let mut memory = BTreeMap::new();
    let mut device = None;
    for word in words {
        let (tier, amount) = amount(target, word)?;
        match amount {
            Amount::Bytes(bytes) => {
                memory.insert(tier, bytes);
            }
            Amount::Percent(_) | Amount::Least if tier == target.device() => device = Some(amount),
            Amount::Percent(_) | Amount::Least => {
                return Err(Failure::bad(format!(
                    "`--memory {word}`: only the device can have a percentage or `least`; give {tier} bytes, such as `{tier}=64MiB`"
                )));
            }
        }
    }
    let mut least = None;
    if let Some(amount) = device {
        let (found, full) = extremes(lifetimes, &target.budgeted(&memory)).map_err(plan_failure)?;
        let bytes = match amount {
            Amount::Percent(percent) => (u128::from(full) * u128::from(percent) / 100) as u64,
            Amount::Least | Amount::Bytes(_) => found.bytes,
        };
        memory.insert(target.device().to_owned(), Bytes(bytes));
        least = Some(found);
    }
    Ok(Budgeted { target: target.budgeted(&memory), least })
}

/// Whether `--memory` asks for the least that works.
pub fn wants_least(target: &Target, words: &[String]) -> bool {
    words.iter().any(|word| matches!(amount(target, word), Ok((_, Amount::Least))))
}

fn amount(target: &Target, word: &str) -> Result<(String, Amount), Failure> {
    let bad = |problem: &str| {
        Failure::bad(format!(
            "`--memory {word}`: {problem}; write it as `device=64MiB`, `device=60%` or `device=least`"
        ))
    };
    let (tier, value) = word.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    let tier = if tier == "device" { target.device() } else { tier };
    let Some(found) = target.tier(tier).filter(|t| !t.files) else {
        let tiers: Vec<&str> = target.tiers.iter().filter(|t| !t.files).map(|t| t.name.as_str()).collect();
        let tiers = tiers.join(", ");
        return Err(Failure::bad(format!(
            "`--memory {word}`: target `{}` has no memory `{tier}`; it has {tiers}",
            target.name
        )));
    };
    let amount = if value == "least" {
        Amount::Least
    } else if let Some(percent) = value.strip_suffix('%') {
        let percent = percent.parse().ok().filter(|p| (1..=1000).contains(p));
        Amount::Percent(percent.ok_or_else(|| bad("the percentage is no whole number from 1 to 1000"))?)
    } else {
        let bytes: Bytes = value.parse().map_err(|e| bad(&format!("{e}")))?;
        let all = Bytes(found.capacity.0.saturating_sub(found.reserve.0));
        if bytes > all {
            return Err(bad(&format!("{tier} of target `{}` has {} at most", target.name, all.human())));
        }
        Amount::Bytes(bytes)
    };
    Ok((tier.to_owned(), amount))
}

/// A planner's refusal, with its exit code.
pub fn plan_failure(error: PlanError) -> Failure {
    match error {
        PlanError::NoRoom(_) => Failure::unfit(error),
        PlanError::Machine(_) | PlanError::Empty => Failure::bad(error),
    }
}
