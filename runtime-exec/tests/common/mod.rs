//! Programs by hand, and an engine that computes nothing that matters, for tests of the executor alone.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod fence;
pub mod null;
pub mod rough;

use berth_ir::expr::Binding;
use berth_ir::program::{
    Access, After, Arena, Berth, Body, Class, DimRange, Extent, FORMAT, Facts, Header, Home, Instruction, Kind, Mode,
    Numerics, Place, Program, Task, Tensor, Traffic, Transposed,
};
use berth_ir::verify::{Verified, verify};
use berth_ir::{DType, Expr, Target};
use berth_runtime_exec::engine::{Port, TaskCode};
use berth_runtime_exec::executor::{Caller, Operand, TaskPorts};
use berth_runtime_exec::store::{Layout, Wanted};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A machine of two engines and all links that a test needs.
pub fn machine() -> Target {
    Target::from_ron(
        r#"(
            name: "test", source: "made up for tests",
            tiers: [
                (name: "device", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64),
                (name: "dram", capacity: "1GiB", bandwidth: "1GB/s", alignment: 64),
                (name: "disk", capacity: "1TiB", bandwidth: "1GB/s", alignment: 64, files: true),
            ],
            engines: [
                (name: "gpu", tier: "device", reads: ["dram"], rates: [(f32, "1Gops/s")], launch: "1us"),
                (name: "cores", tier: "device", reads: ["dram"], rates: [(f32, "1Gops/s")], launch: "1us"),
            ],
            links: [
                (name: "read", from: "disk", to: "device", rate: "1GB/s", latency: "10us", chunk: "1MiB"),
                (name: "read-dram", from: "disk", to: "dram", rate: "1GB/s", latency: "10us", chunk: "1MiB"),
                (name: "in", from: "dram", to: "device", rate: "1GB/s", latency: "1us", chunk: "1MiB"),
                (name: "out", from: "device", to: "dram", rate: "1GB/s", latency: "1us", chunk: "1MiB"),
            ],
        )"#,
    )
    .expect("a target")
}

/// A chain of tasks, each with a weight that comes in for it.
#[derive(Clone, Debug)]
pub struct Chain {
    pub tasks: usize,
    /// Weights that there is room for; must divide the tasks.
    pub room: usize,
    /// Bytes of a weight.
    pub bytes: u64,
    /// Where the first weight lies in the file; the others follow.
    pub offset: u64,
    /// Every other weight is stored transposed.
    pub transposed: bool,
    /// Weights lie in dram, where the prologue brings them, and are moved from there.
    pub through_dram: bool,
    /// Weights come once, in the prologue, and stay.
    pub resident: bool,
    /// Every other task is the second engine's.
    pub engines: usize,
    /// By task.
    pub class: fn(usize) -> Class,
    /// A dim `n` that grows by so much in each step, within a range from zero on.
    pub growth: Option<(u64, u64)>,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain {
            tasks: 4,
            room: 2,
            bytes: 256,
            offset: 0,
            transposed: false,
            through_dram: false,
            resident: false,
            engines: 1,
            class: |_| Class::Planned,
            growth: None,
        }
    }
}

/// Bytes of what goes from task to task.
pub const WIDE: u64 = 64;

impl Chain {
    fn weight(&self, n: usize) -> Tensor {
        // As many rows as columns, more or less, where it is large and they come out even.
        let rows = if self.bytes >= 1 << 20 && self.bytes.is_multiple_of(4096) { 1024 } else { 4 };
        let columns = self.bytes / rows / 4;
        let transposed = (self.transposed && n % 2 == 1).then_some(Transposed { rows, columns, element: 4 });
        let offset = self.offset + n as u64 * self.bytes;
        let home = Home { tier: "disk".into(), file: "w.bin".into(), offset, transposed, strip: None, filled: None };
        Tensor {
            name: format!("w{n}"),
            kind: Kind::Weight,
            dtype: DType::F32,
            bytes: Expr::from(self.bytes),
            home: Some(home),
        }
    }

    fn engine(&self, n: usize) -> &'static str {
        ["gpu", "cores"][n % self.engines]
    }

    /// The program, proved.
    pub fn program(&self) -> Verified<Program> {
        let Chain { tasks, room, bytes, .. } = *self;
        assert_eq!(tasks % room, 0, "slots are used in turn");
        let pitch = bytes.next_multiple_of(64);
        let flow = |n: usize| match n {
            0 => "x".to_owned(),
            n if n == tasks => "y".to_owned(),
            n => format!("h{n}"),
        };
        let value = |n: usize| Tensor {
            name: flow(n),
            kind: match n {
                0 => Kind::Input,
                n if n == tasks => Kind::Output,
                _ => Kind::Activation,
            },
            dtype: DType::F32,
            bytes: Expr::from(WIDE),
            home: None,
        };
        let mut tensors: Vec<Tensor> = (0..=tasks).map(value).collect();
        tensors.extend((0..tasks).map(|n| self.weight(n)));
        let task = |n: usize| Task {
            name: format!("t{n}"),
            engine: self.engine(n).into(),
            ops: vec![format!("t{n}")],
            accesses: vec![Access::Read(flow(n)), Access::Read(format!("w{n}")), Access::Write(flow(n + 1))],
            workspace: 0,
            cost: Default::default(),
            in_place: Vec::new(),
            held: None,
        };
        let after = |names: &[String]| names.iter().map(|n| n.parse::<After>().expect("a name")).collect::<Vec<_>>();
        let berth = |name: String, tensor: String, arena: &str, offset: u64, bytes: u64, until: Vec<String>| Berth {
            name,
            tensor,
            arena: arena.into(),
            offset,
            bytes,
            until,
            part: None,
        };
        // Weights first, then what flows, in turn in three places, so that tasks never write what they read.
        let base = room as u64 * pitch;
        let mut berths = Vec::new();
        for n in 0..=tasks {
            let until = match n {
                n if n == tasks => vec!["fetch y".to_owned()],
                n => vec![format!("run t{n}")],
            };
            let place = match n {
                0 => 0,
                n if n == tasks => 1,
                n => 2 + n as u64 % 3,
            };
            let arena = "device";
            berths.push(berth(flow(n), flow(n), arena, base + place * WIDE, WIDE, until));
        }
        for n in 0..tasks {
            let until = if self.resident { Vec::new() } else { vec![format!("run t{n}")] };
            berths.push(berth(format!("w{n}"), format!("w{n}"), "device", (n % room) as u64 * pitch, bytes, until));
            if self.through_dram {
                let name = format!("w{n}#dram");
                berths.push(berth(name, format!("w{n}"), "dram", n as u64 * pitch, bytes, Vec::new()));
            }
        }
        let mut prologue = Vec::new();
        let mut code =
            vec![Instruction::Feed { name: "feed x".into(), berth: "x".into(), after: after(&["run t0~1".into()]) }];
        for n in (0..tasks).filter(|_| self.resident) {
            prologue.push(Instruction::Copy {
                name: format!("load w{n}"),
                from: Place::Home,
                to: format!("w{n}"),
                extent: Extent::Whole,
                queue: "read".into(),
                class: Class::Planned,
                wanted: None,
                after: Vec::new(),
            });
        }
        for n in (0..tasks).filter(|_| !self.resident) {
            let before = match n.checked_sub(room) {
                Some(user) => format!("run t{user}"),
                None => format!("run t{}~1", tasks - room + n),
            };
            let mut waits = vec![before];
            if self.through_dram {
                prologue.push(Instruction::Copy {
                    name: format!("fetch w{n}"),
                    from: Place::Home,
                    to: format!("w{n}#dram"),
                    extent: Extent::Whole,
                    queue: "read-dram".into(),
                    class: Class::Planned,
                    wanted: None,
                    after: Vec::new(),
                });
                waits.push(format!("fetch w{n}~1"));
            }
            code.push(Instruction::Copy {
                name: format!("load w{n}"),
                from: if self.through_dram { Place::Berth(format!("w{n}#dram")) } else { Place::Home },
                to: format!("w{n}"),
                extent: Extent::Whole,
                queue: if self.through_dram { "in" } else { "read" }.into(),
                class: (self.class)(n),
                wanted: Some(format!("run t{n}")),
                after: after(&waits),
            });
        }
        for n in 0..tasks {
            let mut waits = vec![if self.resident { format!("load w{n}~1") } else { format!("load w{n}") }];
            if n == 0 {
                waits.push("feed x".into());
            }
            if n + 1 == tasks {
                waits.push("fetch y~1".into());
            }
            // With two engines, their orders alone do not say who goes first.
            if self.engines > 1 {
                waits.extend((n > 0).then(|| format!("run t{}", n - 1)));
                waits.extend((n == 0).then(|| format!("run t{}~1", tasks - 1)));
            }
            let berths = vec![flow(n), format!("w{n}"), flow(n + 1)];
            code.push(Instruction::Run {
                name: format!("run t{n}"),
                task: format!("t{n}"),
                berths,
                after: after(&waits),
            });
        }
        let last = format!("run t{}", tasks - 1);
        code.push(Instruction::Fetch { name: "fetch y".into(), berth: "y".into(), after: after(&[last]) });
        let all = tasks as u64 * bytes;
        let traffic = |part: &str, link: &str| Traffic { part: part.into(), link: link.into(), bytes: all };
        let dram = (tasks as u64 - 1) * pitch + bytes;
        let (mut arenas, mut peaks) = (Vec::new(), BTreeMap::new());
        let device = base + WIDE * if tasks > 3 { 5 } else { 2 + tasks as u64 };
        arenas.push(Arena { tier: "device".into(), bytes: device });
        let top = berths.iter().filter(|b| b.arena == "device").map(|b| b.offset + b.bytes).max().unwrap_or(0);
        peaks.insert("device".to_owned(), top);
        if self.through_dram {
            arenas.push(Arena { tier: "dram".into(), bytes: dram });
            peaks.insert("dram".to_owned(), dram);
        }
        let facts = Facts {
            calls: BTreeMap::from([("step".to_owned(), tasks as u64)]),
            traffic: match self.through_dram {
                _ if self.resident => vec![traffic("", "read")],
                true => vec![traffic("", "read-dram"), traffic("step", "in")],
                false => vec![traffic("step", "read")],
            },
            peaks,
            bounds: Vec::new(),
        };
        let target = machine();
        let program = Program {
            header: Header {
                format: FORMAT,
                model: "by hand".into(),
                target: target.name.clone(),
                layout: target.layout_hash(),
                numerics: Numerics::Exact,
                mode: Mode::Loop,
                dims: self.growth.map(|(_, high)| ("n".to_owned(), DimRange { low: 0, high })).into_iter().collect(),
                memory: BTreeMap::new(),
                growth: self.growth.map(|(by, _)| ("n".to_owned(), by)).into_iter().collect(),
                split: None,
                recompute: Vec::new(),
                states: Vec::new(),
            },
            arenas,
            tensors,
            tasks: (0..tasks).map(task).collect(),
            berths,
            prologue,
            bodies: vec![Body { name: "step".into(), dims: BTreeMap::new(), code }],
            transitions: Vec::new(),
            facts,
        };
        verify(&target, program, None).expect("it is safe")
    }

    /// What it reads.
    pub fn wanted(&self) -> Vec<Wanted> {
        let wish = |n: usize| {
            let weight = self.weight(n);
            let home = weight.home.expect("a home");
            let layout = Layout { offset: home.offset, strip: home.strip, transposed: home.transposed };
            Wanted { what: weight.name, file: home.file, layout, bytes: self.bytes }
        };
        (0..self.tasks).map(wish).collect()
    }

    /// What the engine is given for each task.
    pub fn ports(&self) -> Vec<TaskPorts> {
        let port = |name: &str, bytes: u64| Port::new(name.into(), DType::F32, vec![bytes / 4]);
        let code = TaskCode {
            name: "mix".into(),
            model: bytes::Bytes::from_static(b"mix"),
            inputs: vec![port("a", WIDE), port("b", self.bytes)],
            outputs: vec![port("c", WIDE)],
            kept: 0,
        };
        let ports = TaskPorts {
            code,
            inputs: vec![Operand::Access(0), Operand::Access(1)],
            outputs: vec![Operand::Access(2)],
            kept: Vec::new(),
            open: None,
        };
        vec![ports; self.tasks]
    }

    /// The bytes of the file.
    pub fn file(&self) -> Vec<u8> {
        let bytes = self.offset + self.tasks as u64 * self.bytes;
        (0..bytes).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
    }

    /// What a step must bring, worked out plainly.
    pub fn output(&self, input: &[u8]) -> Vec<u8> {
        let file = self.file();
        let mut flow = input.to_vec();
        for n in 0..self.tasks {
            let weight = self.weight(n);
            let home = weight.home.expect("a home");
            let stored = &file[home.offset as usize..][..self.bytes as usize];
            let weight = match home.transposed {
                None => stored.to_vec(),
                Some(t) => {
                    let (rows, columns) = (t.rows as usize, t.columns as usize);
                    let place = |at: usize| (at % rows) * columns + at / rows;
                    (0..rows * columns).flat_map(|at| stored[place(at) * 4..][..4].to_vec()).collect()
                }
            };
            let mut out = vec![0; WIDE as usize];
            null::mix(&[&flow, &weight], &mut out);
            flow = out;
        }
        flow
    }
}

/// A caller whose input is the step's number, and who keeps every output.
#[derive(Debug, Default)]
pub struct Keeper {
    pub outputs: Vec<Vec<u8>>,
    /// Asked at each fetch.
    pub looks: Vec<usize>,
    pub look: Option<fn() -> usize>,
}

/// The input of a step.
pub fn input(step: usize) -> Vec<u8> {
    (0..WIDE as usize).map(|i| (i * 7 + step) as u8).collect()
}

impl Caller for Keeper {
    fn feed(&mut self, _: &str, step: usize, to: &mut [u8], _: &Binding, _: bool) -> Result<(), String> {
        to.iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7 + step) as u8);
        Ok(())
    }
    fn fetch(&mut self, _: &str, _: usize, from: &[u8], _: &Binding) -> Result<(), String> {
        match self.look {
            Some(look) => self.looks.push(look()),
            None => self.outputs.push(from.to_vec()),
        }
        Ok(())
    }
}

/// A folder that goes when the test ends.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("berth-exec-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a temporary folder");
        Folder(path)
    }
    /// With the weights of a chain.
    pub fn with(name: &str, chain: &Chain) -> Folder {
        let folder = Folder::new(name);
        std::fs::write(folder.0.join("w.bin"), chain.file()).expect("it writes");
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
