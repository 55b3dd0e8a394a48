//! Makes small correct programs from a shape: layers with weights that stay or stream through a ring of slots, a chain
//! of activations, a skip connection that stays or is spilled, states that stay or come and go.
//!
//! It knows one rule: things that take turns in a place are written after what ends the one before.

#![allow(dead_code, reason = "each test file uses its part")]

use berth_ir::program::*;
use berth_ir::{DType, Expr, Target};
use std::collections::BTreeMap;

/// What to make.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Once or again and again.
    pub mode: Mode,
    /// At least one.
    pub layers: Vec<Layer>,
    /// Slots of the ring; at least one.
    pub slots: usize,
    /// Layer whose input the later layer reads too, and whether it is spilled between.
    pub skip: Option<(usize, usize, bool)>,
    /// Streamed weights pass through dram.
    pub staged: bool,
    /// A second body, in which states that stay lie elsewhere, with transitions there and back.
    pub second_body: bool,
}

/// One layer: a weight, a task.
#[derive(Clone, Debug)]
pub struct Layer {
    pub weight: Weight,
    /// Weight size in cells of 64 bytes; at least two.
    pub cells: u64,
    /// Which of the two engines.
    pub second_engine: bool,
    /// The output may lie over the input.
    pub in_place: bool,
    pub state: State,
    pub workspace: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    Stays,
    /// Through the ring.
    Streams,
    /// Through the ring, as two copies.
    StreamsInPieces,
    /// The first cell stays, the others come and go.
    StaysInPart,
}

impl Weight {
    fn streams(self) -> bool {
        matches!(self, Weight::Streams | Weight::StreamsInPieces)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum State {
    None,
    /// On the device for ever.
    Stays,
    /// In dram between uses.
    Travels,
    /// Read from one berth and written to another, which is copied back.
    Flips,
}

/// A device with two engines, dram with one, and a disk.
pub fn machine() -> Target {
    Target::from_ron(
        r#"(name: "made", source: "made up", tiers: [
            (name: "hbm", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64),
            (name: "dram", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64),
            (name: "nvme", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64, files: true),
        ], engines: [
            (name: "gpu", tier: "hbm", rates: [(f32, "1Gops/s")], launch: "1us"),
            (name: "gpu2", tier: "hbm", rates: [(f32, "1Gops/s")], launch: "1us"),
            (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "1us"),
        ], links: [
            (name: "disk", from: "nvme", to: "hbm", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
            (name: "read", from: "nvme", to: "dram", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
            (name: "up", from: "dram", to: "hbm", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
            (name: "down", from: "hbm", to: "dram", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
            (name: "within", from: "hbm", to: "hbm", rate: "1GB/s", latency: "1us", chunk: "1KiB"),
        ])"#,
    )
    .unwrap()
}

#[derive(Default)]
struct Maker {
    tensors: Vec<Tensor>,
    tasks: Vec<Task>,
    berths: Vec<Berth>,
    prologue: Vec<Instruction>,
    code: Vec<Instruction>,
    tops: BTreeMap<&'static str, u64>,
    /// Those that take turns: berth, and the instructions that write it, with `|` between.
    turns: Vec<Vec<(usize, String)>>,
    /// By name, index in `code`.
    at: BTreeMap<String, usize>,
}

const CELL: u64 = 64;

impl Maker {
    fn tensor(&mut self, name: &str, kind: Kind, cells: u64) {
        let home = Home {
            tier: "nvme".into(),
            file: "model.bin".into(),
            offset: 0,
            transposed: None,
            strip: None,
            filled: None,
        };
        let home = (kind == Kind::Weight).then_some(home);
        let bytes = Expr::constant(cells * CELL);
        self.tensors.push(Tensor { name: name.into(), kind, dtype: DType::F32, bytes, home });
    }

    /// A fresh range of a tier.
    fn place(&mut self, tier: &'static str, cells: u64) -> (&'static str, u64) {
        let top = self.tops.entry(tier).or_default();
        *top += cells * CELL;
        (tier, *top - cells * CELL)
    }

    fn berth(&mut self, name: &str, tensor: &str, place: (&'static str, u64), cells: u64, until: &[&str]) -> usize {
        self.berths.push(Berth {
            name: name.into(),
            tensor: tensor.into(),
            part: None,
            arena: place.0.into(),
            offset: place.1,
            bytes: cells * CELL,
            until: until.iter().map(|u| u.to_string()).collect(),
        });
        self.berths.len() - 1
    }

    fn push(&mut self, i: Instruction) {
        self.at.insert(i.name().to_owned(), self.code.len());
        self.code.push(i);
    }

    fn copy(&mut self, name: &str, from: Option<&str>, to: &str, queue: &str, after: Vec<After>) {
        self.push(copy(name, from, to, queue, after));
    }

    fn wait(&mut self, instruction: &str, on: After) {
        let own = on.steps == 0 && on.name == instruction;
        let after = match &mut self.code[self.at[instruction]] {
            Instruction::Copy { after, .. }
            | Instruction::Run { after, .. }
            | Instruction::Feed { after, .. }
            | Instruction::Fetch { after, .. } => after,
            _ => unreachable!(),
        };
        if !own && !after.contains(&on) {
            after.push(on);
        }
    }
}

fn copy(name: &str, from: Option<&str>, to: &str, queue: &str, after: Vec<After>) -> Instruction {
    Instruction::Copy {
        name: name.into(),
        from: from.map_or(Place::Home, |b| Place::Berth(b.into())),
        to: to.into(),
        extent: Extent::Whole,
        queue: queue.into(),
        class: Class::Planned,
        wanted: None,
        after,
    }
}

/// A correct program of this shape for [`machine`].
pub fn make(shape: &Shape) -> Program {
    let mut m = Maker::default();
    let n = shape.layers.len();
    let skip = shape.skip.filter(|(s, t, _)| s + 1 < *t && *t < n);
    // The chain: act 0 is the input, act n the output; the others lie in two places in turn.
    let act = |i: usize| format!("a{i}");
    let run = |i: usize| format!("run {i}");
    let width = 2;
    for i in 0..=n {
        let kind = if i == 0 {
            Kind::Input
        } else if i == n {
            Kind::Output
        } else {
            Kind::Activation
        };
        m.tensor(&act(i), kind, width);
    }
    let places = [m.place("hbm", width), m.place("hbm", width)];
    let mut turns: [Vec<(usize, String)>; 2] = [Vec::new(), Vec::new()];
    let mut side = 0;
    let input = m.place("hbm", width);
    let output = m.place("hbm", width);
    for i in 0..=n {
        let writer = if i == 0 { "feed".to_owned() } else { run(i - 1) };
        let reader = if i == n { "fetch".to_owned() } else { run(i) };
        match skip {
            Some((s, t, spilled)) if s == i => {
                let mut until = vec![reader.clone()];
                until.push(if spilled { "save skip".into() } else { run(t) });
                let until: Vec<&str> = until.iter().map(String::as_str).collect();
                let place = if spilled && i > 0 { places[side] } else { m.place("hbm", width) };
                let b = m.berth(&act(i), &act(i), place, width, &until);
                if spilled && i > 0 {
                    turns[side].push((b, writer));
                    side = 1 - side;
                } else {
                    m.turns.push(vec![(b, writer)]);
                }
                if spilled {
                    let cold = m.place("dram", width);
                    let cold = m.berth("skip.cold", &act(i), cold, width, &["restore skip"]);
                    let back = m.place("hbm", width);
                    let back = m.berth("skip.back", &act(i), back, width, &[&run(t)]);
                    m.turns.push(vec![(cold, "save skip".into())]);
                    m.turns.push(vec![(back, "restore skip".into())]);
                }
            }
            _ if i == 0 || i == n => {
                let place = if i == 0 { input } else { output };
                let b = m.berth(&act(i), &act(i), place, width, &[&reader]);
                m.turns.push(vec![(b, writer)]);
            }
            _ => {
                let over = i > 1 && shape.layers[i - 1].in_place && skip.is_none_or(|(s, _, _)| s != i - 1);
                if over {
                    side = 1 - side;
                }
                let b = m.berth(&act(i), &act(i), places[side], width, &[&reader]);
                turns[side].push((b, writer));
                side = 1 - side;
            }
        }
    }
    m.turns.extend(turns);
    // Weights.
    let streamed: Vec<usize> = (0..n).filter(|i| shape.layers[*i].weight.streams()).collect();
    let widest = streamed.iter().map(|i| shape.layers[*i].cells).max().unwrap_or(1);
    let slots: Vec<_> = (0..shape.slots).map(|_| m.place("hbm", widest)).collect();
    let stages: Vec<_> = (0..shape.slots).map(|_| m.place("dram", widest)).collect();
    let mut ring = vec![Vec::new(); shape.slots];
    let mut stage_ring = vec![Vec::new(); shape.slots];
    m.push(Instruction::Feed { name: "feed".into(), berth: act(0), after: vec![] });
    for (i, layer) in shape.layers.iter().enumerate() {
        let (w, load) = (format!("w{i}"), format!("load {i}"));
        m.tensor(&w, Kind::Weight, layer.cells);
        if let Some(slot) = streamed.iter().position(|s| *s == i).map(|s| s % shape.slots) {
            let b = m.berth(&w, &w, slots[slot], layer.cells, &[&run(i)]);
            let second = format!("load {i} b");
            let pieces = layer.weight == Weight::StreamsInPieces;
            ring[slot].push((b, if pieces { format!("{load}|{second}") } else { load.clone() }));
            if shape.staged {
                let read = format!("read {i}");
                let name = format!("w{i}.staged");
                let ends: &[&str] = if pieces { &[&load, &second] } else { &[&load] };
                let b = m.berth(&name, &w, stages[slot], layer.cells, ends);
                stage_ring[slot].push((b, read.clone()));
                m.copy(&read, None, &name, "read", vec![]);
                m.copy(&load, Some(&name), &w, "up", vec![After::this(&read)]);
            } else {
                m.copy(&load, None, &w, "disk", vec![]);
            }
            if pieces {
                let mut other = m.code.last().unwrap().clone();
                if let Instruction::Copy { name, extent, .. } = &mut other {
                    (*name, *extent) = (second, Extent::Bytes(CELL, layer.cells * CELL));
                }
                if let Some(Instruction::Copy { extent, .. }) = m.code.last_mut() {
                    *extent = Extent::Bytes(0, CELL);
                }
                m.push(other);
            }
        } else if layer.weight == Weight::StaysInPart {
            let (tier, offset) = m.place("hbm", layer.cells);
            let (head, tail) = (format!("w{i}.head"), format!("w{i}.tail"));
            let h = m.berth(&head, &w, (tier, offset), 1, &[]);
            let t = m.berth(&tail, &w, (tier, offset + CELL), layer.cells - 1, &[&run(i)]);
            m.berths[h].part = Some((0, CELL));
            m.berths[t].part = Some((CELL, layer.cells * CELL));
            m.prologue.push(copy(&format!("hold {i}"), None, &head, "disk", vec![]));
            m.copy(&load, None, &tail, "disk", vec![]);
            m.turns.push(vec![(t, load)]);
        } else {
            let place = m.place("hbm", layer.cells);
            m.berth(&w, &w, place, layer.cells, &[]);
            m.prologue.push(copy(&load, None, &w, "disk", vec![]));
        }
        layer_run(&mut m, shape, i, skip, n);
        if let Some((s, t, true)) = skip {
            if s == i {
                // What it saves was written before this layer ran.
                let after = if s == 0 { "feed".to_owned() } else { run(s - 1) };
                m.copy("save skip", Some(&act(s)), "skip.cold", "down", vec![After::this(after)]);
            }
            if i + 1 == t {
                m.copy("restore skip", Some("skip.cold"), "skip.back", "up", vec![After::this("save skip")]);
            }
        }
    }
    m.turns.extend(ring);
    m.turns.extend(stage_ring);
    m.push(Instruction::Fetch { name: "fetch".into(), berth: act(n), after: vec![After::this(run(n - 1))] });
    for turns in std::mem::take(&mut m.turns) {
        take_turns(&mut m, &turns);
    }
    finish(m, shape)
}

/// The task and the run of a layer, its state and scratch.
fn layer_run(m: &mut Maker, shape: &Shape, i: usize, skip: Option<(usize, usize, bool)>, n: usize) {
    let layer = &shape.layers[i];
    let (w, run) = (format!("w{i}"), format!("run {i}"));
    let (read, written) = (format!("a{i}"), format!("a{}", i + 1));
    let loaded = After { name: format!("load {i}"), steps: u32::from(layer.weight == Weight::Stays) };
    let mut after = vec![if i == 0 { After::this("feed") } else { After::this(format!("run {}", i - 1)) }, loaded];
    match layer.weight {
        Weight::StreamsInPieces => after.push(After::this(format!("load {i} b"))),
        Weight::StaysInPart => after.push(After::previous(format!("hold {i}"))),
        Weight::Stays | Weight::Streams => {}
    }
    let mut accesses = vec![Access::Read(read.clone()), Access::Read(w.clone()), Access::Write(written.clone())];
    let weight = if layer.weight == Weight::StaysInPart { format!("{w}.head + {w}.tail") } else { w };
    let mut bound = vec![read.clone(), weight, written];
    if let Some((s, t, spilled)) = skip
        && t == i
    {
        accesses.push(Access::Read(format!("a{s}")));
        bound.push(if spilled { "skip.back".into() } else { format!("a{s}") });
        if spilled {
            after.push(After::this("restore skip"));
        }
    }
    let (kv, hot, cold) = (format!("kv{i}"), format!("kv{i}.hot"), format!("kv{i}.cold"));
    let (fill, keep) = (format!("fill {i}"), format!("keep {i}"));
    if layer.state != State::None {
        m.tensor(&kv, Kind::State, 1);
    }
    match layer.state {
        State::None => {}
        State::Stays => {
            let place = m.place("hbm", 1);
            m.berth(&hot, &kv, place, 1, &[]);
            m.prologue.push(Instruction::Feed { name: format!("feed {i}"), berth: hot.clone(), after: vec![] });
            accesses.push(Access::Append(kv));
            bound.push(hot.clone());
            after.push(After::previous(format!("feed {i}")));
        }
        State::Travels => {
            let (up, down) = (m.place("hbm", 1), m.place("dram", 1));
            let b = m.berth(&hot, &kv, up, 1, &[&keep]);
            m.berth(&cold, &kv, down, 1, &[]);
            m.turns.push(vec![(b, fill.clone())]);
            m.prologue.push(Instruction::Feed { name: keep.clone(), berth: cold.clone(), after: vec![] });
            m.copy(&fill, Some(&cold), &hot, "up", vec![After::previous(&keep)]);
            accesses.push(Access::Append(kv));
            bound.push(hot.clone());
            after.push(After::this(&fill));
        }
        State::Flips => {
            let (a, b) = (m.place("hbm", 1), m.place("hbm", 1));
            m.berth(&hot, &kv, a, 1, &[&run]);
            let b = m.berth(&cold, &kv, b, 1, &[&keep]);
            m.turns.push(vec![(b, run.clone())]);
            m.prologue.push(Instruction::Feed { name: keep.clone(), berth: hot.clone(), after: vec![] });
            accesses.extend([Access::Read(kv.clone()), Access::Write(kv)]);
            bound.extend([hot.clone(), cold.clone()]);
            after.push(After::previous(&keep));
        }
    }
    let workspace = if layer.workspace { 64 } else { 0 };
    if layer.workspace {
        let name = format!("scratch {i}");
        m.tensor(&name, Kind::Workspace, 1);
        let place = m.place("hbm", 1);
        let b = m.berth(&name, &name, place, 1, &[&run]);
        m.turns.push(vec![(b, run.clone())]);
        bound.push(name);
    }
    let right = i > 0 && i + 1 < n && layer.in_place;
    m.tasks.push(Task {
        name: format!("task {i}"),
        engine: if layer.second_engine { "gpu2".into() } else { "gpu".into() },
        ops: vec![format!("op {i}")],
        accesses,
        workspace,
        cost: Default::default(),
        in_place: if right { vec![(0, 2)] } else { vec![] },
        held: None,
    });
    m.push(Instruction::Run { name: run.clone(), task: format!("task {i}"), berths: bound, after });
    match layer.state {
        State::Travels => m.copy(&keep, Some(&hot), &cold, "down", vec![After::this(&run)]),
        State::Flips => m.copy(&keep, Some(&cold), &hot, "within", vec![After::this(&run)]),
        _ => {}
    }
}

/// Each is written after what ends the one before it; the first after what ends the last, one step back.
fn take_turns(m: &mut Maker, turns: &[(usize, String)]) {
    for (at, (_, writer)) in turns.iter().enumerate() {
        let (before, steps) = if at == 0 { (turns.len() - 1, 1) } else { (at - 1, 0) };
        for end in m.berths[turns[before].0].until.clone() {
            for writer in writer.split('|') {
                m.wait(writer, After { name: end.clone(), steps });
            }
        }
    }
}

fn finish(m: Maker, shape: &Shape) -> Program {
    let target = machine();
    let mut program = Program {
        header: Header {
            format: FORMAT,
            model: "made".into(),
            target: target.name.clone(),
            layout: target.layout_hash(),
            numerics: Numerics::Exact,
            mode: shape.mode,
            dims: BTreeMap::new(),
            growth: BTreeMap::new(),
            memory: BTreeMap::new(),
            split: None,
            recompute: Vec::new(),
            states: Vec::new(),
        },
        arenas: m.tops.iter().map(|(tier, bytes)| Arena { tier: tier.to_string(), bytes: *bytes }).collect(),
        tensors: m.tensors,
        tasks: m.tasks,
        berths: m.berths,
        prologue: m.prologue,
        bodies: vec![Body { name: "step".into(), dims: BTreeMap::new(), code: m.code }],
        transitions: vec![],
        facts: Facts::default(),
    };
    if shape.second_body && shape.mode == Mode::Loop {
        add_body(&mut program, shape);
    }
    program.facts = berth_ir::verify::facts(&target, &program).expect("it can be counted");
    program
}

/// Has the engines of every other task that computes in `hbm` keep two weights for it, behind all berths.
pub fn keep_weights(program: &mut Program) {
    let target = machine();
    let Some(arena) = program.arenas.iter_mut().find(|a| a.tier == "hbm") else { return };
    let in_hbm = |task: &&mut Task| target.engines.iter().any(|e| e.name == task.engine && e.tier == "hbm");
    for (n, task) in program.tasks.iter_mut().filter(in_hbm).enumerate().filter(|(n, _)| n % 2 == 0) {
        let weights: Vec<String> = (0..2).map(|w| format!("kept {n}.{w}")).collect();
        for (name, offset) in weights.iter().zip([0, 3 * CELL]) {
            let home = Home {
                tier: "nvme".into(),
                file: "kept.bin".into(),
                offset,
                transposed: None,
                strip: None,
                filled: None,
            };
            let (kind, bytes) = (Kind::Weight, Expr::constant(3 * CELL));
            program.tensors.push(Tensor { name: name.clone(), kind, dtype: DType::F32, bytes, home: Some(home) });
        }
        let held = Held { weights, arena: "hbm".into(), offset: arena.bytes, bytes: 7 * CELL };
        arena.bytes += held.bytes;
        task.held = Some(held);
        program.header.numerics = Numerics::Fast;
    }
    program.facts = berth_ir::verify::facts(&target, program).expect("it can be counted");
}

/// A second body, the same but for the states that stay: a transition moves them, and another one back.
fn add_body(program: &mut Program, shape: &Shape) {
    let mut other = Body { name: "other".into(), ..program.bodies[0].clone() };
    let (mut there, mut back) = (Vec::new(), Vec::new());
    let moved = (0..shape.layers.len()).filter(|i| shape.layers[*i].state == State::Stays);
    for i in moved {
        let (hot, cold, run) = (format!("kv{i}.hot"), format!("kv{i}.other"), format!("run {i}"));
        let Some(arena) = program.arenas.iter_mut().find(|a| a.tier == "hbm") else { continue };
        let Some(berth) = program.berths.iter_mut().find(|b| b.name == hot) else { continue };
        let (to, from) = (format!("move {i} there"), format!("move {i} back"));
        berth.until = vec![to.clone()];
        let second = Berth { name: cold.clone(), offset: arena.bytes, until: vec![from.clone()], ..berth.clone() };
        program.berths.push(second);
        arena.bytes += CELL;
        there.push(copy(&to, Some(&hot), &cold, "within", vec![After::previous(&run)]));
        back.push(copy(&from, Some(&cold), &hot, "within", vec![After::previous(&run)]));
        for (body, moves) in [(&mut program.bodies[0], &from), (&mut other, &to)] {
            for instruction in &mut body.code {
                if let Instruction::Run { name, after, berths, .. } = instruction
                    && *name == run
                {
                    after.push(After::previous(moves));
                    if moves == &to {
                        berths.iter_mut().filter(|b| **b == hot).for_each(|b| b.clone_from(&cold));
                    }
                }
            }
        }
    }
    program.bodies.push(other);
    let way = |name: &str, from: &str, to: &str, code| Transition {
        name: name.into(),
        from: from.into(),
        to: to.into(),
        code,
    };
    program.transitions = vec![way("there", "step", "other", there), way("back", "other", "step", back)];
}
