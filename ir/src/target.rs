//! What a machine is: memories, engines, links, each figure with its source.

use crate::DType;
use crate::units::{Bytes, BytesPerSec, Nanos, OpsPerSec, Part};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// A description of a machine. Nothing here assumes one device or one link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// What people call the machine.
    pub name: String,
    /// Where the figures come from.
    pub source: String,
    /// Memories, fastest first by custom; names are unique.
    pub tiers: Vec<Tier>,
    /// What computes. The memory of the first one is what `device` means on the command line.
    pub engines: Vec<Engine>,
    /// What moves bytes between two tiers, one direction each.
    pub links: Vec<Link>,
}

/// A memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Unique in the target.
    pub name: String,
    /// Bytes that it has in all.
    pub capacity: Bytes,
    /// Rate at which an engine attached to it reads it.
    pub bandwidth: BytesPerSec,
    /// Every berth starts at a multiple of this.
    pub alignment: u64,
    /// What driver and engine take outside the arena.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reserve: Bytes,
    /// True for a store of files: it holds the homes of weights, and no arena.
    #[serde(default, skip_serializing_if = "is_default")]
    pub files: bool,
    /// True for a memory that is used only as far as a budget says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_request: bool,
    /// What a program may use of it, where somebody set less than there is ([`Target::budgeted`]). No part of the
    /// machine: it is not written, and not in the layout.
    #[serde(skip)]
    pub budget: Option<Bytes>,
}

impl Tier {
    /// Bytes that an arena may have.
    pub fn room(&self) -> Bytes {
        let all = Bytes(self.capacity.0.saturating_sub(self.reserve.0));
        match self.budget {
            Some(budget) => all.min(budget),
            None if self.on_request => Bytes(0),
            None => all,
        }
    }
}

/// What computes: one queue, one memory that it writes, and those that it reads in place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Unique in the target.
    pub name: String,
    /// The tier that it computes in.
    pub tier: String,
    /// Other tiers that it reads in place, at the rate of the slower of the two.
    #[serde(default, skip_serializing_if = "is_default")]
    pub reads: Vec<String>,
    /// Operations per second by element type; the first is used for types that are not listed.
    pub rates: Vec<(DType, OpsPerSec)>,
    /// What one call costs beyond its work.
    pub launch: Nanos,
    /// Element types that its kernels compute in wider copies, which take workspace.
    #[serde(default, skip_serializing_if = "is_default")]
    pub widens: Vec<DType>,
}

impl Engine {
    /// The rate for this element type; the first listed one where it is not named.
    pub fn rate(&self, dtype: DType) -> OpsPerSec {
        let named = self.rates.iter().find(|(d, _)| *d == dtype);
        named.or(self.rates.first()).map_or(OpsPerSec(0), |(_, rate)| *rate)
    }
}

/// What moves bytes from one tier to another. Its name is also the name of its queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Unique in the target.
    pub name: String,
    /// Tier that it reads.
    pub from: String,
    /// Tier that it writes.
    pub to: String,
    /// Sustained rate with the best chunk.
    pub rate: BytesPerSec,
    /// What is left of it while an engine computes in a memory that the link joins, where it slows the link down: the two
    /// share cores, or a memory.
    #[serde(default, skip_serializing_if = "is_default")]
    pub beside: Option<BytesPerSec>,
    /// What engines lack of the bandwidth of a memory that the link joins while it moves bytes at its rate beside them, where
    /// that is more than the rate: a virtual disk's bytes are written more than once, and moving them takes cores.
    #[serde(default, skip_serializing_if = "is_default")]
    pub taken: Option<BytesPerSec>,
    /// Beside a task that asks nothing of a memory that the link joins, where the two bear each other: moving bytes takes
    /// cores. `beside` and `taken` are then beside one that asks all of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub computing: Option<Computing>,
    /// From the start of a copy to its first byte.
    pub latency: Nanos,
    /// What the issuing thread pays for each copy.
    #[serde(default, skip_serializing_if = "is_default")]
    pub submit: Nanos,
    /// The chunk at which the rate is reached; the executor splits copies into such chunks.
    pub chunk: Bytes,
    /// The least copy, and the grain of all copies: sizes are multiples of it. One byte where there is no such rule.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub grain: Bytes,
    /// Links of one group share the rate of the fastest of them (a bus used in both directions, one disk).
    #[serde(default, skip_serializing_if = "is_default")]
    pub group: Option<String>,
    /// Whether it works.
    #[serde(default, skip_serializing_if = "is_default")]
    pub state: LinkState,
}

/// What a link and a task that computes from caches have of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Computing {
    /// What the link moves.
    pub rate: BytesPerSec,
    /// What the task loses of its speed, and any other at least.
    pub slows: Part,
}

impl Link {
    /// The rate that the link has in its present state; zero where it is cut.
    pub fn present_rate(&self) -> BytesPerSec {
        match self.state {
            LinkState::Good => self.rate,
            LinkState::Degraded(rate) => rate.min(self.rate),
            LinkState::Cut => BytesPerSec(0),
        }
    }

    /// What engines lack of a memory's bandwidth meanwhile.
    pub fn rate_taken(&self) -> BytesPerSec {
        self.taken.unwrap_or_default().max(self.rate_beside())
    }

    /// The same while an engine computes in a memory that the link joins.
    pub fn rate_beside(&self) -> BytesPerSec {
        self.beside.unwrap_or(self.rate).min(self.present_rate())
    }
}

/// Whether a link works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// At its rate.
    #[default]
    Good,
    /// Alive, at this rate.
    Degraded(BytesPerSec),
    /// Not usable: a program that uses it is refused.
    Cut,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
fn one() -> Bytes {
    Bytes(1)
}
fn is_one(value: &Bytes) -> bool {
    *value == one()
}

/// What is wrong with a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// The text does not read as a target.
    #[error("the target does not read: {0}")]
    Text(String),
    /// A name stands twice.
    #[error("the target names {what} `{name}` twice; give each its own name")]
    Twice {
        /// Tier, engine or link.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A name that must be a tier's is not.
    #[error("{what} `{name}` names tier `{tier}`, which the target does not have (it has {known})")]
    NoTier {
        /// Engine or link.
        what: &'static str,
        /// Its name.
        name: String,
        /// The tier it names.
        tier: String,
        /// The tiers there are.
        known: String,
    },
    /// A figure that cannot be.
    #[error("{what} `{name}`: {problem}")]
    Figure {
        /// Tier, engine or link.
        what: &'static str,
        /// Its name.
        name: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// There is no engine.
    #[error("the target has no engine: nothing could compute")]
    NoEngine,
}

impl Target {
    /// Reads a target's RON text and checks that it makes sense.
    pub fn from_ron(text: &str) -> Result<Target, BadTarget> {
        let target: Target = ron::from_str(text).map_err(|e| BadTarget::Text(e.to_string()))?;
        target.check()?;
        Ok(target)
    }

    /// The RON text, which reads back the same.
    pub fn to_ron(&self) -> String {
        let pretty = ron::ser::PrettyConfig::new().depth_limit(2).new_line("\n".to_owned());
        // Writing to a string fails for no value of this type: maps with string keys and plain enums only.
        let mut text = ron::ser::to_string_pretty(self, pretty).expect("a target is plain data");
        text.push('\n');
        text
    }

    /// Names are unique and known, figures are possible.
    pub fn check(&self) -> Result<(), BadTarget> {
        unique("tier", self.tiers.iter().map(|t| &t.name))?;
        unique("engine", self.engines.iter().map(|e| &e.name))?;
        unique("link", self.links.iter().map(|l| &l.name))?;
        let figure = |what, name: &String, problem| BadTarget::Figure { what, name: name.clone(), problem };
        for tier in &self.tiers {
            if !tier.alignment.is_power_of_two() || tier.alignment > 1 << 30 {
                return Err(figure("tier", &tier.name, "the alignment is not a power of two up to 1 GiB"));
            }
        }
        let known = |what, name: &String, tier: &String| match self.tier(tier) {
            Some(found) => Ok(found),
            None => Err(BadTarget::NoTier {
                what,
                name: name.clone(),
                tier: tier.clone(),
                known: self.tiers.iter().map(|t| t.name.as_str()).collect::<Vec<_>>().join(", "),
            }),
        };
        if self.engines.is_empty() {
            return Err(BadTarget::NoEngine);
        }
        for engine in &self.engines {
            if known("engine", &engine.name, &engine.tier)?.files {
                return Err(figure("engine", &engine.name, "it computes in a store of files"));
            }
            for tier in &engine.reads {
                known("engine", &engine.name, tier)?;
            }
            if engine.rates.is_empty() || engine.rates.iter().any(|(_, rate)| rate.0 == 0) {
                return Err(figure("engine", &engine.name, "a rate is missing or zero"));
            }
        }
        for link in &self.links {
            known("link", &link.name, &link.from)?;
            known("link", &link.name, &link.to)?;
            if link.beside.is_some_and(|beside| beside.0 == 0 || beside > link.rate) {
                let problem = "what is left of its rate beside compute is zero, or more than the rate";
                return Err(figure("link", &link.name, problem));
            }
            if let Some(Computing { rate, slows }) = link.computing {
                if rate.0 == 0 || rate > link.rate {
                    let problem = "what is left of its rate beside a task that computes is zero, or more than the rate";
                    return Err(figure("link", &link.name, problem));
                }
                if slows >= Part::WHOLE {
                    return Err(figure("link", &link.name, "tasks lose all of their speed to it, or more"));
                }
            }
            if link.chunk.0 == 0 || link.grain.0 == 0 || link.rate.0 == 0 {
                return Err(figure("link", &link.name, "rate, chunk or grain is zero (a dead link has `state: Cut`)"));
            }
        }
        Ok(())
    }

    /// The tier of this name.
    pub fn tier(&self, name: &str) -> Option<&Tier> {
        self.tiers.iter().find(|t| t.name == name)
    }

    /// The tier of this name, for changing a capacity.
    pub fn tier_mut(&mut self, name: &str) -> Option<&mut Tier> {
        self.tiers.iter_mut().find(|t| t.name == name)
    }

    /// The same machine with budgets for what an arena may have, by tier. Names that it does not have are passed over.
    pub fn budgeted(&self, memory: &BTreeMap<String, Bytes>) -> Target {
        let mut target = self.clone();
        for tier in &mut target.tiers {
            tier.budget = memory.get(&tier.name).copied();
        }
        target
    }

    /// The memory of the first engine: what `device` means, whatever the target calls it.
    pub fn device(&self) -> &str {
        self.engines.first().map_or("", |e| e.tier.as_str())
    }

    /// The fastest link that works from one tier to another.
    pub fn link(&self, from: &str, to: &str) -> Option<&Link> {
        let joins = self.links.iter().filter(|l| l.from == from && l.to == to && l.state != LinkState::Cut);
        joins.reduce(|best, l| if l.present_rate() > best.present_rate() { l } else { best })
    }

    /// A hash of what makes a program unsafe elsewhere: tiers with capacity and alignment, engines, links with
    /// grain and whether they are cut. Rates are left out: another rate makes a program slower, not wrong.
    pub fn layout_hash(&self) -> String {
        let mut hash = Sha256::new();
        let mut line = |text: String| hash.update(format!("{text}\n"));
        for t in &self.tiers {
            line(format!("tier {:?} {} {} {} {}", t.name, t.capacity.0, t.reserve.0, t.alignment, t.files));
        }
        for e in &self.engines {
            line(format!("engine {:?} {:?} {:?}", e.name, e.tier, e.reads));
        }
        for l in &self.links {
            line(format!("link {:?} {:?} {:?} {} {}", l.name, l.from, l.to, l.grain.0, l.state == LinkState::Cut));
        }
        hex(&hash.finalize()[..8])
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unique<'a>(what: &'static str, names: impl Iterator<Item = &'a String>) -> Result<(), BadTarget> {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(BadTarget::Twice { what, name: name.clone() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = r#"(name: "m", source: "made up",
        tiers: [
            (name: "hbm", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64),
            (name: "nvme", capacity: "1GiB", bandwidth: "4GB/s", alignment: 512, files: true),
        ],
        engines: [(name: "gpu", tier: "hbm", rates: [(f32, "1Gops/s")], launch: "0ns")],
        links: [(name: "up", from: "nvme", to: "hbm", rate: "2GB/s", latency: "0ns", chunk: "1MiB")])"#;

    fn beside(rate: &str) -> Result<Target, BadTarget> {
        Target::from_ron(&MACHINE.replace("2GB/s\"", &format!("2GB/s\", beside: Some(\"{rate}\")")))
    }

    #[test]
    fn what_a_link_and_a_task_that_computes_have_of_each_other_may_be_said() {
        let with =
            |said: &str| Target::from_ron(&MACHINE.replace("2GB/s\"", &format!("2GB/s\", computing: Some({said})")));
        let target = with(r#"(rate: "1500MB/s", slows: "30%")"#).unwrap();
        let said = Computing { rate: BytesPerSec(1_500_000_000), slows: Part(300_000) };
        assert_eq!(target.links[0].computing, Some(said));
        assert_eq!(Target::from_ron(&target.to_ron()).unwrap(), target);
        assert_eq!(target.layout_hash(), Target::from_ron(MACHINE).unwrap().layout_hash(), "it makes nothing unsafe");
        for wrong in
            [r#"(rate: "0", slows: "30%")"#, r#"(rate: "3GB/s", slows: "30%")"#, r#"(rate: "1GB/s", slows: "100%")"#]
        {
            assert!(matches!(with(wrong), Err(BadTarget::Figure { what: "link", .. })), "{wrong}");
        }
    }

    #[test]
    fn what_a_link_has_left_beside_compute_may_be_said() {
        let (without, with) = (Target::from_ron(MACHINE).unwrap(), beside("1500MB/s").unwrap());
        assert!(!without.to_ron().contains("beside"), "a target that says nothing of it prints as before");
        assert_eq!(Target::from_ron(&with.to_ron()).as_ref(), Ok(&with));
        assert_eq!(without.links[0].rate_beside(), BytesPerSec(2_000_000_000));
        assert_eq!(with.links[0].rate_beside(), BytesPerSec(1_500_000_000));
        assert_eq!(with.layout_hash(), without.layout_hash());
        let slow = LinkState::Degraded(BytesPerSec(1_000_000_000));
        assert_eq!(Link { state: slow, ..with.links[0].clone() }.rate_beside(), BytesPerSec(1_000_000_000));
        for rate in ["0B/s", "3GB/s"] {
            assert!(matches!(beside(rate), Err(BadTarget::Figure { what: "link", .. })), "{rate}");
        }
    }
}
