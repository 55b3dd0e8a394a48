//! The binary form of a program: protobuf, for executors in any language. Read as hostile.

use crate::program::*;
use crate::units::{Bytes, Nanos};
use crate::{DType, Expr};
use prost::Message;
use std::collections::BTreeMap;

#[allow(missing_docs, clippy::all, reason = "generated")]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/berth.rs"));
}

/// Why bytes are not a program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBinary {
    /// Not the wire form at all, or cut off.
    #[error("not a binary memory program, or cut off: {0}")]
    Wire(String),
    /// The wire form is right and a field is not.
    #[error("{part}: {problem}")]
    Field {
        /// The message and its name.
        part: String,
        /// What is wrong.
        problem: String,
    },
}

/// Prints a program as bytes: field by field, as messages one behind the other are one, so that little more is held than
/// the bytes and the largest field.
pub fn write(program: &Program) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut put = |part: wire::Program| bytes.extend_from_slice(&part.encode_to_vec());
    let arenas = program.arenas.iter().map(|a| wire::Arena { tier: a.tier.clone(), bytes: a.bytes }).collect();
    put(wire::Program { header: Some(write_header(&program.header)), arenas, ..Default::default() });
    put(wire::Program { tensors: program.tensors.iter().map(write_tensor).collect(), ..Default::default() });
    put(wire::Program { tasks: program.tasks.iter().map(write_task).collect(), ..Default::default() });
    put(wire::Program { berths: program.berths.iter().map(write_berth).collect(), ..Default::default() });
    put(wire::Program { prologue: write_code(&program.prologue), ..Default::default() });
    for body in &program.bodies {
        put(wire::Program { bodies: vec![write_body(body)], ..Default::default() });
    }
    let transitions = program.transitions.iter().map(write_transition).collect();
    put(wire::Program { transitions, facts: Some(write_facts(&program.facts)), ..Default::default() });
    bytes
}

/// Reads a program from bytes. Says nothing about whether it is safe.
pub fn read(bytes: &[u8]) -> Result<Program, BadBinary> {
    let p = wire::Program::decode(bytes).map_err(|e| BadBinary::Wire(e.to_string()))?;
    Ok(Program {
        header: read_header(p.header.ok_or_else(|| bad("program", "it has no header"))?)?,
        arenas: p.arenas.into_iter().map(|a| Arena { tier: a.tier, bytes: a.bytes }).collect(),
        tensors: p.tensors.into_iter().map(read_tensor).collect::<Result<_, _>>()?,
        tasks: p.tasks.into_iter().map(read_task).collect::<Result<_, _>>()?,
        berths: p.berths.into_iter().map(read_berth).collect(),
        prologue: read_code(p.prologue)?,
        bodies: p.bodies.into_iter().map(read_body).collect::<Result<_, _>>()?,
        transitions: p.transitions.into_iter().map(read_transition).collect::<Result<_, _>>()?,
        facts: read_facts(p.facts.unwrap_or_default())?,
    })
}

fn bad(part: impl Into<String>, problem: impl Into<String>) -> BadBinary {
    BadBinary::Field { part: part.into(), problem: problem.into() }
}

/// Pairs an enum of the program with its wire form: written by the one column, read by the other.
macro_rules! pairs {
    ($write:ident, $read:ident, $ours:ty, $wire:ty, $what:literal, { $($a:ident = $b:ident),* $(,)? }) => {
        fn $write(value: $ours) -> i32 {
            match value { $(<$ours>::$a => <$wire>::$b as i32,)* }
        }
        fn $read(value: i32, part: &str) -> Result<$ours, BadBinary> {
            match <$wire>::try_from(value) {
                $(Ok(<$wire>::$b) => Ok(<$ours>::$a),)*
                _ => Err(bad(part, format!("{} is no {}", value, $what))),
            }
        }
    };
}
pairs!(write_numerics, read_numerics, Numerics, wire::Numerics, "numerics", { Exact = Exact, Fast = Fast });
pairs!(write_mode, read_mode, Mode, wire::Mode, "mode", { Loop = Loop, Once = Once });
pairs!(write_kind, read_kind, Kind, wire::Kind, "kind of tensor", {
    Weight = Weight, Input = Input, Output = Output, Activation = Activation, State = State, Workspace = Workspace,
});
pairs!(write_class, read_class, Class, wire::Class, "class of copy", {
    Demand = Demand, Planned = Planned, Speculative = Speculative,
});

fn write_header(h: &Header) -> wire::Header {
    wire::Header {
        format: h.format,
        model: h.model.clone(),
        target: h.target.clone(),
        layout: h.layout.clone(),
        numerics: write_numerics(h.numerics),
        mode: write_mode(h.mode),
        dims: write_dims(&h.dims),
        growth: write_named(&h.growth),
        memory: write_named(&h.memory.iter().map(|(tier, b)| (tier.clone(), b.0)).collect()),
        split: h.split.map(|s| wire::Split { room: s.room, threads: s.threads, contiguous: s.contiguous }),
        recompute: h.recompute.iter().map(write_recompute).collect(),
        states: h.states.iter().map(write_carried).collect(),
    }
}

fn read_header(h: wire::Header) -> Result<Header, BadBinary> {
    Ok(Header {
        format: h.format,
        numerics: read_numerics(h.numerics, "header")?,
        mode: read_mode(h.mode, "header")?,
        model: h.model,
        target: h.target,
        layout: h.layout,
        dims: read_dims(h.dims)?,
        growth: read_named(h.growth, "growth")?,
        memory: read_named(h.memory, "memory")?.into_iter().map(|(tier, b)| (tier, Bytes(b))).collect(),
        split: h.split.map(|s| Split { room: s.room, threads: s.threads, contiguous: s.contiguous }),
        recompute: h.recompute.into_iter().map(|r| Recompute { op: r.op, readers: r.readers }).collect(),
        states: h.states.into_iter().map(|s| Carried { input: s.input, output: s.output }).collect(),
    })
}

fn write_recompute(r: &Recompute) -> wire::Recompute {
    wire::Recompute { op: r.op.clone(), readers: r.readers.clone() }
}

fn write_carried(s: &Carried) -> wire::Carried {
    wire::Carried { input: s.input.clone(), output: s.output.clone() }
}

fn write_dims(dims: &BTreeMap<String, DimRange>) -> Vec<wire::Dim> {
    dims.iter().map(|(name, r)| wire::Dim { name: name.clone(), low: r.low, high: r.high }).collect()
}

fn read_dims(dims: Vec<wire::Dim>) -> Result<BTreeMap<String, DimRange>, BadBinary> {
    let mut all = BTreeMap::new();
    for dim in dims {
        if dim.low > dim.high || dim.high > i64::MAX as u64 {
            return Err(bad(format!("dim `{}`", dim.name), format!("{}..{} is no range", dim.low, dim.high)));
        }
        if all.insert(dim.name.clone(), DimRange { low: dim.low, high: dim.high }).is_some() {
            return Err(bad(format!("dim `{}`", dim.name), "it stands twice"));
        }
    }
    Ok(all)
}

fn write_named(map: &BTreeMap<String, u64>) -> Vec<wire::Named> {
    map.iter().map(|(name, value)| wire::Named { name: name.clone(), value: *value }).collect()
}

fn read_named(named: Vec<wire::Named>, what: &str) -> Result<BTreeMap<String, u64>, BadBinary> {
    let mut all = BTreeMap::new();
    for n in named {
        if all.insert(n.name.clone(), n.value).is_some() {
            return Err(bad(format!("{what} `{}`", n.name), "it stands twice"));
        }
    }
    Ok(all)
}

fn write_dtype(dtype: DType) -> String {
    crate::text::compact(&dtype)
}

fn read_expr(text: &str, part: &str) -> Result<Expr, BadBinary> {
    text.parse().map_err(|e| bad(part, format!("`{text}` is no expression: {e}")))
}

fn write_tensor(t: &Tensor) -> wire::Tensor {
    wire::Tensor {
        name: t.name.clone(),
        kind: write_kind(t.kind),
        dtype: write_dtype(t.dtype),
        bytes: t.bytes.to_string(),
        home: t.home.as_ref().map(write_home),
    }
}

fn write_home(h: &Home) -> wire::Home {
    let matrix = |t: Transposed| wire::Transposed { rows: t.rows, columns: t.columns, element: t.element };
    let element = |f: Filled| wire::Filled { element: f.element, bits: f.bits };
    let (transposed, filled) = (h.transposed.map(matrix), h.filled.map(element));
    let strip = h.strip.map(|s| wire::Strip { rows: s.rows, bytes: s.bytes, pitch: s.pitch });
    wire::Home { tier: h.tier.clone(), file: h.file.clone(), offset: h.offset, transposed, filled, strip }
}

fn read_home(h: wire::Home) -> Home {
    let matrix = |t: wire::Transposed| Transposed { rows: t.rows, columns: t.columns, element: t.element };
    let element = |f: wire::Filled| Filled { element: f.element, bits: f.bits };
    let (transposed, filled) = (h.transposed.map(matrix), h.filled.map(element));
    let strip = h.strip.map(|s| Strip { rows: s.rows, bytes: s.bytes, pitch: s.pitch });
    Home { tier: h.tier, file: h.file, offset: h.offset, transposed, strip, filled }
}

fn read_tensor(t: wire::Tensor) -> Result<Tensor, BadBinary> {
    let part = format!("tensor `{}`", t.name);
    let dtype = DType::ALL.into_iter().find(|d| write_dtype(*d) == t.dtype);
    Ok(Tensor {
        kind: read_kind(t.kind, &part)?,
        dtype: dtype.ok_or_else(|| bad(&part, format!("`{}` is no element type", t.dtype)))?,
        bytes: read_expr(&t.bytes, &part)?,
        home: t.home.map(read_home),
        name: t.name,
    })
}

fn write_task(t: &Task) -> wire::Task {
    wire::Task {
        name: t.name.clone(),
        engine: t.engine.clone(),
        ops: t.ops.clone(),
        accesses: t.accesses.iter().map(write_access).collect(),
        workspace: t.workspace,
        cost_nanos: t.cost.0,
        in_place: t.in_place.iter().map(|(a, b)| wire::Pair { first: *a as u64, second: *b as u64 }).collect(),
        held: t.held.as_ref().map(|h| wire::Held {
            weights: h.weights.clone(),
            arena: h.arena.clone(),
            offset: h.offset,
            bytes: h.bytes,
        }),
    }
}

fn read_task(t: wire::Task) -> Result<Task, BadBinary> {
    let part = format!("task `{}`", t.name);
    let index = |n: u64| usize::try_from(n).map_err(|_| bad(&part, format!("{n} is no index")));
    Ok(Task {
        accesses: t.accesses.into_iter().map(|a| read_access(a, &part)).collect::<Result<_, _>>()?,
        in_place: t.in_place.iter().map(|p| Ok((index(p.first)?, index(p.second)?))).collect::<Result<_, _>>()?,
        name: t.name,
        engine: t.engine,
        ops: t.ops,
        workspace: t.workspace,
        cost: Nanos(t.cost_nanos),
        held: t.held.map(|h| Held { weights: h.weights, arena: h.arena, offset: h.offset, bytes: h.bytes }),
    })
}

fn write_access(access: &Access) -> wire::Access {
    let mode = match access {
        Access::Read(_) => wire::AccessMode::AccessRead,
        Access::ReadRows(_) => wire::AccessMode::AccessReadRows,
        Access::Write(_) => wire::AccessMode::AccessWrite,
        Access::Append(_) => wire::AccessMode::AccessAppend,
    };
    wire::Access { mode: mode as i32, tensor: access.tensor().to_owned() }
}

fn read_access(a: wire::Access, part: &str) -> Result<Access, BadBinary> {
    match wire::AccessMode::try_from(a.mode) {
        Ok(wire::AccessMode::AccessRead) => Ok(Access::Read(a.tensor)),
        Ok(wire::AccessMode::AccessReadRows) => Ok(Access::ReadRows(a.tensor)),
        Ok(wire::AccessMode::AccessWrite) => Ok(Access::Write(a.tensor)),
        Ok(wire::AccessMode::AccessAppend) => Ok(Access::Append(a.tensor)),
        _ => Err(bad(part, format!("{} is no access", a.mode))),
    }
}

fn write_berth(b: &Berth) -> wire::Berth {
    wire::Berth {
        name: b.name.clone(),
        tensor: b.tensor.clone(),
        part: b.part.map(|(first, second)| wire::Pair { first, second }),
        arena: b.arena.clone(),
        offset: b.offset,
        bytes: b.bytes,
        until: b.until.clone(),
    }
}

fn read_berth(b: wire::Berth) -> Berth {
    Berth {
        name: b.name,
        tensor: b.tensor,
        part: b.part.map(|p| (p.first, p.second)),
        arena: b.arena,
        offset: b.offset,
        bytes: b.bytes,
        until: b.until,
    }
}

fn write_body(b: &Body) -> wire::Body {
    wire::Body { name: b.name.clone(), dims: write_dims(&b.dims), code: write_code(&b.code) }
}

fn read_body(b: wire::Body) -> Result<Body, BadBinary> {
    Ok(Body { name: b.name, dims: read_dims(b.dims)?, code: read_code(b.code)? })
}

fn write_transition(t: &Transition) -> wire::Transition {
    wire::Transition { name: t.name.clone(), from: t.from.clone(), to: t.to.clone(), code: write_code(&t.code) }
}

fn read_transition(t: wire::Transition) -> Result<Transition, BadBinary> {
    Ok(Transition { name: t.name, from: t.from, to: t.to, code: read_code(t.code)? })
}

fn write_code(code: &[Instruction]) -> Vec<wire::Instruction> {
    code.iter().map(write_instruction).collect()
}

fn write_instruction(i: &Instruction) -> wire::Instruction {
    use wire::instruction::What;
    let what = match i {
        Instruction::Copy { from, to, extent, queue, class, wanted, .. } => {
            let (byte_range, rows) = write_extent(extent);
            let from = match from {
                Place::Home => None,
                Place::Berth(name) => Some(name.clone()),
            };
            let (to, queue, wanted) = (to.clone(), queue.clone(), wanted.clone());
            What::Copy(wire::Copy { from, to, queue, class: write_class(*class), wanted, byte_range, rows })
        }
        Instruction::Run { task, berths, .. } => What::Run(wire::Run { task: task.clone(), berths: berths.clone() }),
        Instruction::Feed { berth, .. } => What::Feed(berth.clone()),
        Instruction::Fetch { berth, .. } => What::Fetch(berth.clone()),
        Instruction::Require { berth, .. } => What::Require(berth.clone()),
        Instruction::Pool { berth, .. } => What::Pool(berth.clone()),
    };
    let after = i.after().iter().map(|a| wire::After { name: a.name.clone(), steps: a.steps }).collect();
    wire::Instruction { name: i.name().to_owned(), after, what: Some(what) }
}

fn write_extent(extent: &Extent) -> (Option<wire::Pair>, Option<wire::Rows>) {
    match extent {
        Extent::Whole => (None, None),
        Extent::Bytes(first, second) => (Some(wire::Pair { first: *first, second: *second }), None),
        Extent::Rows { rows, bytes, from_pitch, to_pitch } => {
            let text = |e: &Expr| e.to_string();
            let (rows, bytes, from_pitch, to_pitch) = (text(rows), text(bytes), text(from_pitch), text(to_pitch));
            (None, Some(wire::Rows { rows, bytes, from_pitch, to_pitch }))
        }
    }
}

fn read_code(code: Vec<wire::Instruction>) -> Result<Vec<Instruction>, BadBinary> {
    code.into_iter().map(read_instruction).collect()
}

fn read_instruction(i: wire::Instruction) -> Result<Instruction, BadBinary> {
    use wire::instruction::What;
    let part = format!("instruction `{}`", i.name);
    let name = i.name;
    // No instruction has such a name, and the text form could not tell it from steps back.
    if let Some(a) = i.after.iter().find(|a| a.name.contains('~')) {
        return Err(bad(&part, format!("it waits for `{}`, which is no name", a.name)));
    }
    let after = i.after.into_iter().map(|a| After { name: a.name, steps: a.steps }).collect();
    Ok(match i.what.ok_or_else(|| bad(&part, "it does nothing that this format knows"))? {
        What::Copy(c) => Instruction::Copy {
            from: c.from.map_or(Place::Home, Place::Berth),
            extent: read_extent(c.byte_range, c.rows, &part)?,
            class: read_class(c.class, &part)?,
            to: c.to,
            queue: c.queue,
            wanted: c.wanted,
            name,
            after,
        },
        What::Run(r) => Instruction::Run { task: r.task, berths: r.berths, name, after },
        What::Feed(berth) => Instruction::Feed { berth, name, after },
        What::Fetch(berth) => Instruction::Fetch { berth, name, after },
        What::Require(berth) => Instruction::Require { berth, name, after },
        What::Pool(berth) => Instruction::Pool { berth, name, after },
    })
}

fn read_extent(range: Option<wire::Pair>, rows: Option<wire::Rows>, part: &str) -> Result<Extent, BadBinary> {
    match (range, rows) {
        (None, None) => Ok(Extent::Whole),
        (Some(p), None) => Ok(Extent::Bytes(p.first, p.second)),
        (None, Some(r)) => Ok(Extent::Rows {
            rows: read_expr(&r.rows, part)?,
            bytes: read_expr(&r.bytes, part)?,
            from_pitch: read_expr(&r.from_pitch, part)?,
            to_pitch: read_expr(&r.to_pitch, part)?,
        }),
        (Some(_), Some(_)) => Err(bad(part, "it has two extents")),
    }
}

fn write_facts(f: &Facts) -> wire::Facts {
    let traffic = |t: &Traffic| wire::Traffic { part: t.part.clone(), link: t.link.clone(), bytes: t.bytes };
    wire::Facts {
        calls: write_named(&f.calls),
        traffic: f.traffic.iter().map(traffic).collect(),
        peaks: write_named(&f.peaks),
        bounds: f.bounds.iter().map(write_bound).collect(),
    }
}

fn read_facts(f: wire::Facts) -> Result<Facts, BadBinary> {
    Ok(Facts {
        calls: read_named(f.calls, "calls")?,
        traffic: f.traffic.into_iter().map(|t| Traffic { part: t.part, link: t.link, bytes: t.bytes }).collect(),
        peaks: read_named(f.peaks, "peaks")?,
        bounds: f.bounds.into_iter().map(read_bound).collect::<Result<_, _>>()?,
    })
}

fn write_bound(bound: &Bound) -> wire::Bound {
    let (kind, to) = match bound {
        Bound::Traffic { .. } => (wire::BoundKind::BoundTraffic, ""),
        Bound::Window { to, .. } => (wire::BoundKind::BoundWindow, to.as_str()),
        Bound::Room { .. } => (wire::BoundKind::BoundRoom, ""),
    };
    let (Bound::Traffic { body, tier, bytes, at }
    | Bound::Window { body, tier, bytes, at, .. }
    | Bound::Room { body, tier, bytes, at }) = bound;
    let (body, tier, at, to) = (body.clone(), tier.clone(), at.clone(), to.to_owned());
    wire::Bound { kind: kind as i32, body, tier, bytes: *bytes, at, to }
}

fn read_bound(b: wire::Bound) -> Result<Bound, BadBinary> {
    let wire::Bound { kind, body, tier, bytes, at, to } = b;
    match wire::BoundKind::try_from(kind) {
        Ok(wire::BoundKind::BoundTraffic) => Ok(Bound::Traffic { body, tier, bytes, at }),
        Ok(wire::BoundKind::BoundWindow) => Ok(Bound::Window { body, tier, bytes, at, to }),
        Ok(wire::BoundKind::BoundRoom) => Ok(Bound::Room { body, tier, bytes, at }),
        _ => Err(bad("facts", format!("{kind} is no bound"))),
    }
}
