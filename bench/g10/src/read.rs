//! Reads a workload of G10 and lowers it to lifetimes and a target.
//!
//! The form is two tables in a folder, `kernels.csv` and `tensors.csv`. A weight is a state: it outlives the step, nothing
//! else holds it, so it is written back when it leaves. An intermediate is an activation, an input appears when it is first
//! used, a workspace belongs to its kernel. So no rule of that simulator is bent by the lowering.

use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::{Home, Kind};
use berth_ir::target::{Engine, Link, LinkState, Target, Tier};
use berth_ir::units::{Bytes, BytesPerSec, Nanos, OpsPerSec};
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;
use std::path::Path;

/// What the machine of a replay is; G10's constants by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rig {
    /// Bytes of the device.
    pub device: u64,
    /// Bytes of host memory.
    pub host: u64,
    /// Bytes per second over the device's bus, each way.
    pub bus: u64,
    /// Bytes per second of the disk, each way, inside the bus.
    pub disk: u64,
    /// Host memory can be emptied to the disk and filled from it, at the disk's rate, which is shared. G10 cannot do that.
    pub host_to_disk: bool,
    /// Weights that no kernel writes are kept by the disk and dropped. G10 writes them back.
    pub clean_drops: bool,
}

impl Rig {
    /// The machine of G10's evaluation.
    pub const G10: Rig = Rig {
        device: 40 << 30,
        host: 128 << 30,
        bus: 15_754_000_000,
        disk: 3_200_000_000,
        host_to_disk: false,
        clean_drops: false,
    };
}

impl Default for Rig {
    fn default() -> Rig {
        Rig::G10
    }
}

/// The columns of a table by name, and its rows.
struct Table {
    columns: BTreeMap<String, usize>,
    rows: Vec<Vec<String>>,
    path: String,
}

impl Table {
    fn read(path: &Path) -> Result<Table, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let split = |line: &str| line.split(',').map(|f| f.trim().to_owned()).collect::<Vec<String>>();
        let mut lines = text.lines().filter(|l| !l.trim().is_empty());
        let header = split(lines.next().unwrap_or(""));
        let columns = header.into_iter().enumerate().map(|(i, name)| (name, i)).collect();
        Ok(Table { columns, rows: lines.map(split).collect(), path: path.display().to_string() })
    }

    fn text(&self, row: usize, column: &str) -> Result<&str, String> {
        let at = self.columns.get(column).ok_or_else(|| format!("{}: there is no column `{column}`", self.path))?;
        let field = self.rows[row].get(*at);
        field.map(String::as_str).ok_or_else(|| format!("{}: row {} has no `{column}`", self.path, row + 1))
    }

    fn number(&self, row: usize, column: &str) -> Result<u64, String> {
        let text = self.text(row, column)?;
        text.parse().map_err(|_| format!("{}: row {}: `{column}` is `{text}`, not a number", self.path, row + 1))
    }

    fn tensors(&self, row: usize, column: &str, count: usize) -> Result<Vec<TensorId>, String> {
        let words = self.text(row, column)?.split_whitespace();
        let ids = words.map(|w| {
            let id = w.parse::<u32>().ok().filter(|id| (*id as usize) < count);
            id.map(TensorId).ok_or_else(|| format!("{}: row {}: `{w}` is no tensor", self.path, row + 1))
        });
        ids.collect()
    }
}

/// The lifetimes of the workload in a folder. Times are its cycles of 1.2 GHz in nanoseconds, rounded.
pub fn read(folder: &Path, rig: &Rig) -> Result<Lifetimes, String> {
    let kernels = Table::read(&folder.join("kernels.csv"))?;
    let tensors = Table::read(&folder.join("tensors.csv"))?;
    let count = tensors.rows.len();
    let mut tasks = Vec::new();
    let mut written = vec![false; count];
    let mut scratch = vec![false; count];
    for row in 0..kernels.rows.len() {
        let reads = kernels.tensors(row, "inputs", count)?;
        let writes = kernels.tensors(row, "outputs", count)?;
        writes.iter().for_each(|t| written[t.index()] = true);
        kernels.tensors(row, "workspace_tensor", count)?.iter().for_each(|t| scratch[t.index()] = true);
        // A workspace takes whole pages, like the tensor that it is in the other table.
        let workspace = kernels.tensors(row, "workspace_tensor", count)?.first().copied();
        let workspace = workspace.map_or(Ok(0), |t| tensors.number(t.index(), "bytes"))?;
        let cost = Nanos((kernels.number(row, "cycles")? * 5).div_ceil(6));
        let kind = kernels.text(row, "type")?;
        let name = format!("{row}.{kind}");
        tasks.push(Task {
            name,
            ops: vec![kind.to_owned()],
            reads,
            writes,
            rows: vec![],
            in_place: vec![],
            workspace,
            cost,
            others: vec![],
            held: None,
        });
    }
    let mut held = Vec::new();
    for (row, written) in written.into_iter().enumerate() {
        let bytes = tensors.number(row, "bytes")?;
        let clean = rig.clean_drops && !written;
        let kind = match tensors.text(row, "kind")? {
            "weight" if clean => Kind::Weight,
            "weight" => Kind::State,
            "input" => Kind::Input,
            "workspace" => Kind::Workspace,
            "intermediate" => Kind::Activation,
            other => return Err(format!("{}: row {}: kind `{other}` is unknown", tensors.path, row + 1)),
        };
        let home =
            Home { tier: "ssd".into(), file: String::new(), offset: 0, transposed: None, strip: None, filled: None };
        held.push(Tensor {
            name: format!("t{row}"),
            kind,
            dtype: DType::U8,
            extent: Expr::constant(bytes as i128),
            bytes,
            home: (kind == Kind::Weight).then_some(home),
            aliases: Vec::new(),
        });
    }
    Ok(Lifetimes { model: String::new(), dims: BTreeMap::new(), tensors: held, tasks })
}

/// The machine of a replay.
pub fn target(rig: &Rig) -> Target {
    let tier = |name: &str, capacity| Tier {
        name: name.into(),
        capacity: Bytes(capacity),
        bandwidth: BytesPerSec(u64::MAX),
        alignment: 4096,
        reserve: Bytes(0),
        files: false,
        on_request: false,
        budget: None,
    };
    let link = |name: &str, from: &str, to: &str, rate, group: Option<&str>| Link {
        name: name.into(),
        from: from.into(),
        to: to.into(),
        rate: BytesPerSec(rate),
        beside: None,
        taken: None,
        computing: None,
        latency: Nanos(0),
        submit: Nanos(0),
        chunk: Bytes(64 << 20),
        grain: Bytes(4096),
        group: group.map(str::to_owned),
        state: LinkState::Good,
    };
    let engine = Engine {
        name: "gpu".into(),
        tier: "hbm".into(),
        reads: vec![],
        rates: vec![(DType::F32, OpsPerSec(1))],
        launch: Nanos(0),
        widens: vec![],
    };
    let disk = rig.disk.min(rig.bus);
    let mut links = vec![
        link("in", "host", "hbm", rig.bus, Some("bus-in")),
        link("out", "hbm", "host", rig.bus, Some("bus-out")),
        link("ssd-in", "ssd", "hbm", disk, Some("bus-in")),
        link("ssd-out", "hbm", "ssd", disk, Some("bus-out")),
    ];
    if rig.host_to_disk {
        // A link is in one group: here in the disk's, each way. So that the bus carries no more than it can, the host's
        // links get what the disk's may leave of it.
        let rest = rig.bus.saturating_sub(disk).max(1);
        links = vec![
            link("in", "host", "hbm", rest, None),
            link("out", "hbm", "host", rest, None),
            link("ssd-in", "ssd", "hbm", disk, Some("disk-read")),
            link("ssd-out", "hbm", "ssd", disk, Some("disk-write")),
            link("ssd-host", "ssd", "host", disk, Some("disk-read")),
            link("host-ssd", "host", "ssd", disk, Some("disk-write")),
        ];
    }
    Target {
        name: "g10".into(),
        source: "Zhang et al., G10, MICRO 2023: A100, PCIe 15.754 GB/s each way, SSD 3.2 GB/s each way.".into(),
        tiers: vec![tier("hbm", rig.device), tier("host", rig.host), tier("ssd", 1 << 50)],
        engines: vec![engine],
        links,
    }
}
