//! Programs with one thing wrong, of twenty kinds, and how a program is made smaller around what was changed.
//!
//! A change speaks in names, so that it can be made again on a smaller program.

#![allow(dead_code, reason = "each test file uses its part")]

use super::device::Rng;
use berth_ir::program::*;
use berth_ir::units::Bytes;
use berth_ir::verify::{facts, violations};
use berth_ir::{Expr, Target};
use std::collections::BTreeSet;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MutantKind {
    EdgeLost,
    EdgeAcrossTheStepLost,
    SlotsSwapped,
    EndedEarly,
    OverTheArena,
    LoadMissing,
    BytesUsedTwice,
    StaleVersionRead,
    OnlyCopyLost,
    WaitInACircle,
    WrongTier,
    WrongLink,
    WrongEngine,
    Misaligned,
    StagingExceeded,
    AliasWithoutRight,
    WrongExtent,
    OutputNotWritten,
    WrongTransition,
    FactFalsified,
    WrongBinding,
    KeptWrong,
}

/// All kinds.
pub const KINDS: &[MutantKind] = {
    use MutantKind::*;
    &[
        EdgeLost,
        EdgeAcrossTheStepLost,
        SlotsSwapped,
        EndedEarly,
        OverTheArena,
        LoadMissing,
        BytesUsedTwice,
        StaleVersionRead,
        OnlyCopyLost,
        WaitInACircle,
        WrongTier,
        WrongLink,
        WrongEngine,
        Misaligned,
        StagingExceeded,
        AliasWithoutRight,
        WrongExtent,
        OutputNotWritten,
        WrongTransition,
        FactFalsified,
        WrongBinding,
        KeptWrong,
    ]
};

/// One change, in names.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    DropEdge {
        of: String,
        on: After,
    },
    /// The edge is to the step before instead of this one, or to this one instead.
    OtherStep {
        of: String,
        on: After,
    },
    AddEdge {
        of: String,
        on: After,
    },
    Swap {
        a: String,
        b: String,
    },
    /// The first berth is put where the other begins.
    Onto {
        berth: String,
        other: String,
    },
    Shift {
        berth: String,
        bytes: i64,
    },
    /// The berth ends an alignment behind its arena.
    Beyond {
        berth: String,
    },
    Until {
        berth: String,
        until: Vec<String>,
    },
    Remove {
        instruction: String,
    },
    Rebind {
        instruction: String,
        from: String,
        to: String,
    },
    SwapBindings {
        run: String,
        a: usize,
        b: usize,
    },
    Arena {
        berth: String,
        arena: String,
    },
    Queue {
        copy: String,
        link: String,
    },
    Engine {
        task: String,
        engine: String,
    },
    /// The tier may give an alignment less than the arena has.
    Budget {
        tier: String,
    },
    NoRight {
        task: String,
    },
    /// Cells of a copy: the first is not moved, the last is not, or one more than there are is.
    Extent {
        copy: String,
        from: u64,
        to: u64,
    },
    Pitch {
        copy: String,
    },
    TaskReads {
        task: String,
        access: usize,
    },
    /// Another transition leads there, or it comes from elsewhere.
    Leads {
        transition: String,
        turned: bool,
    },
    Fact {
        which: usize,
    },
    /// What an engine keeps lies where a berth does.
    KeptOnto {
        task: String,
        berth: String,
    },
    /// It ends behind its arena.
    KeptBeyond {
        task: String,
    },
    /// It starts off the alignment.
    KeptShifted {
        task: String,
    },
    /// One weight is kept twice.
    KeptTwice {
        task: String,
    },
    /// A weight is kept that another task writes, or that is read.
    KeptOther {
        task: String,
        tensor: String,
    },
    /// Where bits do not depend on the cut, nothing is kept.
    KeptExactly,
}

/// All of a program's code.
pub fn codes(program: &Program) -> impl Iterator<Item = &Vec<Instruction>> {
    let bodies = program.bodies.iter().map(|b| &b.code);
    std::iter::once(&program.prologue).chain(bodies).chain(program.transitions.iter().map(|t| &t.code))
}

fn codes_mut(program: &mut Program) -> impl Iterator<Item = &mut Vec<Instruction>> {
    let bodies = program.bodies.iter_mut().map(|b| &mut b.code);
    std::iter::once(&mut program.prologue).chain(bodies).chain(program.transitions.iter_mut().map(|t| &mut t.code))
}

fn afters(i: &mut Instruction) -> &mut Vec<After> {
    match i {
        Instruction::Copy { after, .. }
        | Instruction::Run { after, .. }
        | Instruction::Feed { after, .. }
        | Instruction::Fetch { after, .. }
        | Instruction::Require { after, .. }
        | Instruction::Pool { after, .. } => after,
    }
}

/// One change of this kind, at a place of chance; nothing where the program has no such place.
pub fn change(kind: MutantKind, program: &Program, target: &Target, rng: &mut Rng) -> Option<Change> {
    let all = places(kind, program, target);
    (!all.is_empty()).then(|| all[rng.below(all.len())].clone())
}

/// Every change of a kind that can be made to a program.
pub fn places(kind: MutantKind, program: &Program, target: &Target) -> Vec<Change> {
    use MutantKind::*;
    let code: Vec<&Instruction> = codes(program).flatten().collect();
    let edges = |steps: u32| {
        let of = code.iter().flat_map(|i| i.after().iter().map(|on| (i.name().to_owned(), on.clone())));
        of.filter(move |(_, on)| on.steps == steps)
    };
    let berths = &program.berths;
    let pairs = |keep: &dyn Fn(&Berth, &Berth) -> bool| -> Vec<(String, String)> {
        let all = berths.iter().flat_map(|a| berths.iter().map(move |b| (a, b)));
        all.filter(|(a, b)| a.name != b.name && keep(a, b)).map(|(a, b)| (a.name.clone(), b.name.clone())).collect()
    };
    let copies = || code.iter().copied().filter(|i| matches!(i, Instruction::Copy { .. }));
    let removed = |i: &Instruction| Change::Remove { instruction: i.name().to_owned() };
    match kind {
        EdgeLost => edges(0).map(|(of, on)| Change::DropEdge { of, on }).collect(),
        EdgeAcrossTheStepLost => edges(1).map(|(of, on)| Change::DropEdge { of, on }).collect(),
        SlotsSwapped => pairs(&|a, b| a.arena == b.arena && a.offset < b.offset)
            .into_iter()
            .map(|(a, b)| Change::Swap { a, b })
            .collect(),
        EndedEarly => {
            let mut all = Vec::new();
            for b in berths.iter().filter(|b| !b.until.is_empty()) {
                let writers = code.iter().filter(|i| written(program, i).contains(&b.name.as_str()));
                all.extend(writers.map(|i| Change::Until { berth: b.name.clone(), until: vec![i.name().to_owned()] }));
                if b.until.len() > 1 {
                    all.extend((0..b.until.len()).map(|n| {
                        let mut until = b.until.clone();
                        until.remove(n);
                        Change::Until { berth: b.name.clone(), until }
                    }));
                }
            }
            all.retain(|c| {
                !matches!(c, Change::Until { berth, until }
                if berths.iter().any(|b| b.name == *berth && b.until == *until))
            });
            all
        }
        OverTheArena => berths.iter().map(|b| Change::Beyond { berth: b.name.clone() }).collect(),
        LoadMissing => {
            let home = |i: &&Instruction| matches!(i, Instruction::Copy { from: Place::Home, .. });
            copies().filter(home).map(removed).collect()
        }
        BytesUsedTwice => pairs(&|a, b| a.arena == b.arena && a.offset != b.offset && a.bytes > 0 && b.bytes > 0)
            .into_iter()
            .map(|(berth, other)| Change::Onto { berth, other })
            .collect(),
        StaleVersionRead => {
            let same = pairs(&|a, b| a.tensor == b.tensor && a.part.is_none() && b.part.is_none());
            let reads = |i: &&&Instruction| !matches!(i, Instruction::Feed { .. });
            let rebound = same.into_iter().flat_map(|(from, to)| {
                let uses = code.iter().filter(reads).filter(|i| bound(i).contains(&from.as_str()));
                let uses: Vec<Change> = uses
                    .map(|i| Change::Rebind { instruction: i.name().to_owned(), from: from.clone(), to: to.clone() })
                    .collect();
                uses
            });
            let rebound: Vec<Change> = rebound.collect();
            edges(0).chain(edges(1)).map(|(of, on)| Change::OtherStep { of, on }).chain(rebound).collect()
        }
        OnlyCopyLost => {
            let kept = berths.iter().filter(|b| b.until.is_empty());
            let used = kept.flat_map(|b| {
                let users = code.iter().filter(|i| bound(i).contains(&b.name.as_str()));
                users.map(|i| Change::Until { berth: b.name.clone(), until: vec![i.name().to_owned()] })
            });
            let saves = copies().filter(|i| matches!(i, Instruction::Copy { from: Place::Berth(_), .. })).map(removed);
            used.chain(saves).collect()
        }
        WaitInACircle => {
            // What it waits for in this step waits for it.
            let back = edges(0).map(|(of, on)| Change::AddEdge { of: on.name, on: After::this(of) });
            let own = code.iter().map(|i| Change::AddEdge { of: i.name().to_owned(), on: After::this(i.name()) });
            back.chain(own).collect()
        }
        WrongTier => {
            let other = |b: &&Berth, a: &Arena| a.tier != b.arena;
            let all =
                berths.iter().flat_map(|b| program.arenas.iter().filter(move |a| other(&b, a)).map(move |a| (b, a)));
            all.map(|(b, a)| Change::Arena { berth: b.name.clone(), arena: a.tier.clone() }).collect()
        }
        WrongLink => {
            let all = copies().flat_map(|i| target.links.iter().map(move |l| (i, l)));
            let other = all.filter(|(i, l)| !matches!(i, Instruction::Copy { queue, .. } if *queue == l.name));
            other.map(|(i, l)| Change::Queue { copy: i.name().to_owned(), link: l.name.clone() }).collect()
        }
        WrongEngine => {
            let all = program.tasks.iter().flat_map(|t| target.engines.iter().map(move |e| (t, e)));
            let other = all.filter(|(t, e)| t.engine != e.name);
            other.map(|(t, e)| Change::Engine { task: t.name.clone(), engine: e.name.clone() }).collect()
        }
        Misaligned => {
            let half = |b: &Berth| target.tier(&b.arena).map_or(1, |t| (t.alignment / 2).max(1)) as i64;
            let shifted = |b: &Berth, bytes| Change::Shift { berth: b.name.clone(), bytes };
            berths.iter().flat_map(|b| [shifted(b, half(b)), shifted(b, -half(b)), shifted(b, 1)]).collect()
        }
        StagingExceeded => program.arenas.iter().map(|a| Change::Budget { tier: a.tier.clone() }).collect(),
        AliasWithoutRight => {
            let rights = program.tasks.iter().filter(|t| !t.in_place.is_empty());
            let rights = rights.map(|t| Change::NoRight { task: t.name.clone() });
            let over = code.iter().flat_map(|i| over_an_input(program, i));
            over.map(|(berth, other)| Change::Onto { berth, other }).chain(rights).collect()
        }
        WrongExtent => {
            let mut all = Vec::new();
            for i in copies() {
                let Instruction::Copy { name, to, extent, .. } = i else { continue };
                let copy = name.clone();
                let Some(b) = berths.iter().find(|b| b.name == *to) else { continue };
                let size = program.tensors.iter().find(|t| t.name == b.tensor).and_then(|t| t.bytes.as_constant());
                let size = size.and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
                let (from, to) = match extent {
                    Extent::Whole => b.part.unwrap_or((0, size)),
                    Extent::Bytes(a, b) => (*a, *b),
                    Extent::Rows { .. } => {
                        all.push(Change::Pitch { copy: copy.clone() });
                        (0, size)
                    }
                };
                let cell = 64.min(to.saturating_sub(from));
                for (from, to) in
                    [(from + cell, to), (from, to - cell), (from, to + cell), (from.wrapping_sub(cell), to)]
                {
                    all.push(Change::Extent { copy: copy.clone(), from, to });
                }
            }
            all
        }
        OutputNotWritten => {
            let output = |name: &str| program.tensors.iter().any(|t| t.name == name && t.kind == Kind::Output);
            let writers = program.tasks.iter().flat_map(|t| {
                let all = t.accesses.iter().enumerate().filter(|(_, a)| a.writes() && output(a.tensor()));
                all.map(|(access, _)| Change::TaskReads { task: t.name.clone(), access })
            });
            let fetches = code.iter().filter(|i| matches!(i, Instruction::Fetch { .. })).map(|i| removed(i));
            let runs = code.iter().filter(|i| {
                matches!(i, Instruction::Run { task, .. } if program.tasks.iter().any(|t| t.name == *task
                    && t.accesses.iter().any(|a| a.writes() && output(a.tensor()))))
            });
            writers.chain(fetches).chain(runs.map(|i| removed(i))).collect()
        }
        WrongTransition => {
            let mut all = Vec::new();
            for t in &program.transitions {
                all.extend([true, false].map(|turned| Change::Leads { transition: t.name.clone(), turned }));
                all.extend(t.code.iter().map(removed));
                all.extend(t.code.iter().flat_map(|i| {
                    i.after().iter().map(|on| Change::DropEdge { of: i.name().to_owned(), on: on.clone() })
                }));
            }
            all
        }
        FactFalsified => (0..falsifiable(program)).map(|which| Change::Fact { which }).collect(),
        WrongBinding => {
            let runs = code.iter().filter_map(|i| match i {
                Instruction::Run { name, berths, .. } => Some((name, berths.len())),
                _ => None,
            });
            runs.flat_map(|(run, n)| (1..n).map(|b| Change::SwapBindings { run: run.clone(), a: b - 1, b })).collect()
        }
        KeptWrong => {
            let mut all = Vec::new();
            for (task, held) in program.tasks.iter().filter_map(|t| Some((t, t.held.as_ref()?))) {
                let name = || task.name.clone();
                let touched: BTreeSet<&str> = code.iter().flat_map(|i| written(program, i)).collect();
                let there = berths.iter().filter(|b| b.arena == held.arena && b.bytes > 0);
                let there = there.filter(|b| touched.contains(b.name.as_str()));
                all.extend(there.map(|b| Change::KeptOnto { task: name(), berth: b.name.clone() }));
                all.extend([Change::KeptBeyond { task: name() }, Change::KeptShifted { task: name() }]);
                all.extend([Change::KeptTwice { task: name() }, Change::KeptExactly]);
                let other = |t: &&Tensor| t.kind != Kind::Weight || task.accesses.iter().any(|a| a.tensor() == t.name);
                let others = program.tensors.iter().filter(other);
                all.extend(others.map(|t| Change::KeptOther { task: name(), tensor: t.name.clone() }));
            }
            all
        }
    }
}

/// The berths that an instruction names.
fn bound(i: &Instruction) -> Vec<&str> {
    match i {
        Instruction::Copy { from: Place::Berth(from), to, .. } => vec![from, to],
        Instruction::Copy { to, .. } => vec![to],
        Instruction::Run { berths, .. } => berths.iter().flat_map(|b| b.split(" + ")).collect(),
        Instruction::Feed { berth, .. }
        | Instruction::Fetch { berth, .. }
        | Instruction::Require { berth, .. }
        | Instruction::Pool { berth, .. } => vec![berth],
    }
}

/// The berths that an instruction writes.
fn written<'p>(program: &'p Program, i: &'p Instruction) -> Vec<&'p str> {
    match i {
        Instruction::Copy { to, .. } => vec![to],
        Instruction::Feed { berth, .. } => vec![berth],
        Instruction::Run { task, berths, .. } => {
            let task = program.tasks.iter().find(|t| t.name == *task);
            let writes = |n: usize| task.is_some_and(|t| t.accesses.get(n).is_none_or(Access::writes));
            berths.iter().enumerate().filter(|(n, _)| writes(*n)).flat_map(|(_, b)| b.split(" + ")).collect()
        }
        _ => vec![],
    }
}

/// Pairs of a berth that a run writes and one that it reads, elsewhere in the same arena.
fn over_an_input(program: &Program, i: &Instruction) -> Vec<(String, String)> {
    let Instruction::Run { berths, .. } = i else { return vec![] };
    let all = written(program, i);
    let read = berths.iter().flat_map(|b| b.split(" + ")).filter(|b| !all.contains(b));
    let place = |name: &str| program.berths.iter().find(|b| b.name == name).map(|b| (b.arena.clone(), b.offset));
    let pairs = read.flat_map(|r| all.iter().map(move |w| (w.to_string(), r.to_owned())));
    pairs.filter(|(w, r)| matches!((place(w), place(r)), (Some(w), Some(r)) if w.0 == r.0 && w.1 != r.1)).collect()
}

/// How many numbers and names of the facts can be falsified.
fn falsifiable(program: &Program) -> usize {
    let f = &program.facts;
    f.calls.len() + f.peaks.len() + f.traffic.len() + 2 * f.bounds.len()
}

impl Change {
    /// Makes the change; false where the program has no such place, or is as it was.
    pub fn apply(&self, program: &mut Program, target: &Target) -> bool {
        let before = program.clone();
        let done = self.made(program, target).is_some() && *program != before;
        // What is counted is right again, unless that is what is wrong.
        if done && !matches!(self, Change::Fact { .. }) {
            recount(program, target);
        }
        done
    }

    fn made(&self, program: &mut Program, target: &Target) -> Option<()> {
        match self {
            Change::DropEdge { of, on } => {
                let after = named(program, of)?;
                let at = after.iter().position(|a| a == on)?;
                after.remove(at);
            }
            Change::OtherStep { of, on } => {
                named(program, on.name.as_str())?;
                let after = named(program, of)?;
                let at = after.iter().position(|a| a == on)?;
                after[at].steps = 1 - after[at].steps;
            }
            Change::AddEdge { of, on } => {
                named(program, on.name.as_str())?;
                named(program, of)?.push(on.clone());
            }
            Change::Swap { a, b } => {
                let (x, y) = (berth(program, a)?.offset, berth(program, b)?.offset);
                berth(program, a)?.offset = y;
                berth(program, b)?.offset = x;
            }
            Change::Onto { berth: moved, other } => {
                let (arena, offset) = (berth(program, other)?.arena.clone(), berth(program, other)?.offset);
                let moved = berth(program, moved).filter(|b| b.arena == arena)?;
                moved.offset = offset;
            }
            Change::Shift { berth: moved, bytes } => {
                let moved = berth(program, moved)?;
                moved.offset = moved.offset.checked_add_signed(*bytes)?;
            }
            Change::Beyond { berth: moved } => {
                let moved = berth(program, moved)?.clone();
                let arena = program.arenas.iter().find(|a| a.tier == moved.arena)?.bytes;
                let step = target.tier(&moved.arena)?.alignment;
                let offset = arena.saturating_sub(moved.bytes) / step * step + step;
                berth(program, &moved.name)?.offset = offset;
            }
            Change::Until { berth: ended, until } => {
                if until.iter().any(|u| named(program, u).is_none()) {
                    return None;
                }
                berth(program, ended)?.until = until.clone();
            }
            Change::Remove { instruction } => {
                named(program, instruction)?;
                remove(program, &BTreeSet::from([instruction.as_str()]), false);
            }
            Change::Rebind { instruction, from, to } => {
                berth(program, to)?;
                for i in codes_mut(program).flatten().filter(|i| i.name() == instruction) {
                    rebind(i, from, to);
                }
            }
            Change::SwapBindings { run, a, b } => {
                for i in codes_mut(program).flatten().filter(|i| i.name() == run) {
                    if let Instruction::Run { berths, .. } = i
                        && *b < berths.len()
                    {
                        berths.swap(*a, *b);
                    }
                }
            }
            Change::Arena { berth: moved, arena } => {
                program.arenas.iter().find(|a| a.tier == *arena)?;
                berth(program, moved)?.arena = arena.clone();
            }
            Change::Queue { copy, link } => {
                for i in codes_mut(program).flatten().filter(|i| i.name() == copy) {
                    if let Instruction::Copy { queue, .. } = i {
                        *queue = link.clone();
                    }
                }
            }
            Change::Engine { task, engine } => {
                program.tasks.iter_mut().find(|t| t.name == *task)?.engine = engine.clone();
            }
            Change::Budget { tier } => {
                let arena = program.arenas.iter().find(|a| a.tier == *tier).filter(|a| a.bytes > 0)?;
                let less = arena.bytes.saturating_sub(target.tier(tier)?.alignment);
                program.header.memory.insert(tier.clone(), Bytes(less));
            }
            Change::NoRight { task } => program.tasks.iter_mut().find(|t| t.name == *task)?.in_place.clear(),
            Change::Extent { copy, from, to } => {
                for i in codes_mut(program).flatten().filter(|i| i.name() == copy) {
                    if let Instruction::Copy { extent, .. } = i {
                        *extent = Extent::Bytes(*from, *to);
                    }
                }
            }
            Change::Pitch { copy } => {
                for i in codes_mut(program).flatten().filter(|i| i.name() == copy) {
                    if let Instruction::Copy { extent: Extent::Rows { to_pitch, .. }, .. } = i {
                        *to_pitch = to_pitch.clone() + Expr::constant(64);
                    }
                }
            }
            Change::TaskReads { task, access } => {
                let access = program.tasks.iter_mut().find(|t| t.name == *task)?.accesses.get_mut(*access)?;
                *access = Access::Read(access.tensor().to_owned());
            }
            Change::Leads { transition, turned } => {
                let first = program.bodies.first()?.name.clone();
                let t = program.transitions.iter_mut().find(|t| t.name == *transition)?;
                if *turned {
                    std::mem::swap(&mut t.from, &mut t.to);
                } else {
                    (t.from, t.to) = (first.clone(), first);
                }
            }
            Change::Fact { which } => falsify(program, *which)?,
            Change::KeptOnto { task, berth: over } => {
                let offset = berth(program, over)?.offset;
                held(program, task)?.offset = offset;
            }
            Change::KeptBeyond { task } => {
                let held = held(program, task)?.clone();
                let arena = program.arenas.iter_mut().find(|a| a.tier == held.arena)?;
                arena.bytes = arena.bytes.min(held.offset + held.bytes - 1);
            }
            Change::KeptShifted { task } => held(program, task)?.offset += 1,
            Change::KeptTwice { task } => {
                let held = held(program, task)?;
                held.weights.extend(held.weights.first().cloned());
            }
            Change::KeptOther { task, tensor } => held(program, task)?.weights.push(tensor.clone()),
            Change::KeptExactly => program.header.numerics = Numerics::Exact,
        }
        Some(())
    }
}

fn held<'p>(program: &'p mut Program, task: &str) -> Option<&'p mut Held> {
    program.tasks.iter_mut().find(|t| t.name == task)?.held.as_mut()
}

fn falsify(program: &mut Program, which: usize) -> Option<()> {
    let tasks: Vec<String> = program.tasks.iter().map(|t| t.name.clone()).collect();
    let f = &mut program.facts;
    let numbers = f.calls.values_mut().chain(f.peaks.values_mut()).chain(f.traffic.iter_mut().map(|t| &mut t.bytes));
    let mut numbers: Vec<&mut u64> = numbers.collect();
    if let Some(number) = numbers.get_mut(which) {
        **number += 1;
        return Some(());
    }
    let which = which - numbers.len();
    match f.bounds.get_mut(which / 2)? {
        Bound::Traffic { bytes, at, .. } | Bound::Window { bytes, at, .. } | Bound::Room { bytes, at, .. } => {
            if which.is_multiple_of(2) {
                *bytes += 1;
            } else {
                // The witness is another task, and the bound is the old one plus what no other task can have.
                *at = tasks.iter().find(|t| *t != at)?.clone();
                *bytes += 1 << 50;
            }
        }
    }
    Some(())
}

fn berth<'p>(program: &'p mut Program, name: &str) -> Option<&'p mut Berth> {
    program.berths.iter_mut().find(|b| b.name == name)
}

/// What the first instruction of this name waits for.
fn named<'p>(program: &'p mut Program, name: &str) -> Option<&'p mut Vec<After>> {
    codes_mut(program).flatten().find(|i| i.name() == name).map(afters)
}

fn rebind(i: &mut Instruction, from: &str, to: &str) {
    let change = |b: &mut String| {
        if b == from {
            *b = to.to_owned();
        }
    };
    match i {
        Instruction::Run { berths, .. } => berths.iter_mut().for_each(change),
        Instruction::Copy { from: Place::Berth(b), .. } => change(b),
        Instruction::Fetch { berth, .. } => change(berth),
        _ => {}
    }
}

/// Counts a program's facts anew.
pub fn recount(program: &mut Program, target: &Target) {
    if let Some(counted) = facts(target, program) {
        program.facts = counted;
    }
}

/// Takes instructions out. What waited for one waits, if so wanted, for what that one waited for.
fn remove(program: &mut Program, gone: &BTreeSet<&str>, inherit: bool) {
    let waits: Vec<(String, Vec<After>)> = codes(program)
        .flatten()
        .filter(|i| gone.contains(i.name()))
        .map(|i| (i.name().to_owned(), i.after().to_vec()))
        .collect();
    for code in codes_mut(program) {
        code.retain(|i| !gone.contains(i.name()));
        for i in code {
            let own = i.name().to_owned();
            let after = afters(i);
            // Each round looks behind one more of what is gone; chains of them are no longer than there are.
            for _ in 0..=gone.len() {
                let Some(at) = after.iter().position(|a| gone.contains(a.name.as_str())) else { break };
                let lost = after.remove(at);
                let behind = waits.iter().filter(|(name, _)| inherit && *name == lost.name).flat_map(|(_, all)| all);
                for on in behind {
                    let on = After { name: on.name.clone(), steps: on.steps + lost.steps };
                    if on.steps <= 1 && !after.contains(&on) && !(on.steps == 0 && on.name == own) {
                        after.push(on);
                    }
                }
            }
            after.retain(|a| !gone.contains(a.name.as_str()));
        }
    }
    for b in &mut program.berths {
        b.until.retain(|u| !gone.contains(u.as_str()));
    }
    // What was waited for elsewhere only must still be known.
    let known: BTreeSet<String> = codes(program).flatten().map(|i| i.name().to_owned()).collect();
    for i in codes_mut(program).flatten() {
        afters(i).retain(|a| known.contains(&a.name));
        if let Instruction::Copy { wanted, .. } = i {
            *wanted = wanted.take().filter(|w| known.contains(w));
        }
    }
}

/// The program without a tensor: no task uses it, and what moved it is gone.
fn without_tensor(program: &Program, name: &str) -> Program {
    let mut p = program.clone();
    let gone: BTreeSet<String> = p.berths.iter().filter(|b| b.tensor == name).map(|b| b.name.clone()).collect();
    let is_gone = |b: &str| b.split(" + ").any(|b| gone.contains(b));
    let moves = |i: &&Instruction| !matches!(i, Instruction::Run { .. }) && bound(i).iter().any(|b| gone.contains(*b));
    let lost: BTreeSet<String> = codes(program).flatten().filter(moves).map(|i| i.name().to_owned()).collect();
    remove(&mut p, &lost.iter().map(String::as_str).collect(), true);
    let scratch = program.tensors.iter().any(|t| t.name == name && t.kind == Kind::Workspace);
    for i in codes_mut(&mut p).flatten() {
        if let Instruction::Run { berths, .. } = i {
            berths.retain(|b| !is_gone(b));
        }
    }
    let scratched = |task: &str| {
        codes(program).flatten().any(
            |i| matches!(i, Instruction::Run { task: t, berths, .. } if t == task && berths.iter().any(|b| is_gone(b))),
        )
    };
    for task in &mut p.tasks {
        let kept: Vec<usize> = (0..task.accesses.len()).filter(|n| task.accesses[*n].tensor() != name).collect();
        let place = |old: usize| kept.iter().position(|k| *k == old);
        task.in_place = task.in_place.iter().filter_map(|(r, w)| Some((place(*r)?, place(*w)?))).collect();
        task.accesses = kept.iter().map(|n| task.accesses[*n].clone()).collect();
        if scratch && scratched(&task.name) {
            task.workspace = 0;
        }
    }
    p.berths.retain(|b| !gone.contains(&b.name));
    p.tensors.retain(|t| t.name != name);
    p
}

/// The program without a task, and without what it alone makes.
fn without_task(program: &Program, name: &str) -> Program {
    let mut p = program.clone();
    let Some(task) = program.tasks.iter().find(|t| t.name == name) else { return p };
    let made = task.accesses.iter().filter(|a| a.writes()).map(|a| a.tensor().to_owned());
    for tensor in made {
        p = without_tensor(&p, &tensor);
    }
    let runs = |i: &&Instruction| matches!(i, Instruction::Run { task, .. } if task == name);
    let lost: BTreeSet<String> = codes(&p).flatten().filter(runs).map(|i| i.name().to_owned()).collect();
    remove(&mut p, &lost.iter().map(String::as_str).collect(), true);
    p.tasks.retain(|t| t.name != name);
    // What nobody ends now ends when it is written.
    let idle: Vec<String> = p
        .berths
        .iter()
        .filter(|b| b.until.is_empty() && program.berths.iter().any(|o| o.name == b.name && !o.until.is_empty()))
        .map(|b| b.name.clone())
        .collect();
    for name in idle {
        let writer = codes(&p).flatten().find(|i| written(&p, i).contains(&name.as_str())).map(|i| i.name().to_owned());
        if let Some(b) = berth(&mut p, &name) {
            b.until.extend(writer);
        }
    }
    p
}

/// Makes a program smaller around a change, by tasks, tensors and bodies that can be left out: each is right without the
/// change and still accepted with it. `enough` sees each with the change made, the first one as it is; true ends the search.
pub fn shrink(
    valid: &Program,
    change: &Change,
    target: &Target,
    accepts: impl Fn(&Target, &Program) -> bool,
    mut enough: impl FnMut(&Program) -> bool,
) {
    let mutant = |p: &Program| {
        let mut p = p.clone();
        (change.apply(&mut p, target) && accepts(target, &p)).then_some(p)
    };
    let (mut least, mut best) = (valid.clone(), mutant(valid));
    while let Some(found) = best {
        if enough(&found) {
            return;
        }
        let tasks = least.tasks.iter().map(|t| without_task(&least, &t.name));
        let parts = tasks.chain(least.tensors.iter().map(|t| without_tensor(&least, &t.name)));
        let smaller = one_body(&least).into_iter().chain(parts).find_map(|mut p| {
            recount(&mut p, target);
            let right = violations(target, &p, None).is_empty();
            let found = right.then(|| mutant(&p)).flatten()?;
            Some((p, found))
        });
        let Some((p, found)) = smaller else { return };
        (least, best) = (p, Some(found));
    }
}

/// The program with its first body alone.
fn one_body(program: &Program) -> Option<Program> {
    (program.bodies.len() > 1).then(|| {
        let mut p = program.clone();
        p.bodies.truncate(1);
        p.transitions.clear();
        let known: BTreeSet<String> = codes(&p).flatten().map(|i| i.name().to_owned()).collect();
        for i in codes_mut(&mut p).flatten() {
            afters(i).retain(|a| known.contains(&a.name));
        }
        let used: BTreeSet<String> = codes(&p).flatten().flat_map(bound).map(str::to_owned).collect();
        p.berths.retain(|b| used.contains(&b.name));
        p.berths.iter_mut().for_each(|b| b.until.retain(|u| known.contains(u)));
        p
    })
}
