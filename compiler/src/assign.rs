//! Assigns tasks to the device and to the engine of the lower memory by what that costs in sum: one least cut each.
//!
//! Reads:    lifetimes with what each task takes on that engine, machine.
//! Decides:  some assignments, from the one that is best where nothing streams to those that spare the link.
//! Promises: each is the cheapest at its price for bytes into the device, where tasks take turns; a bounded amount of work.
//! Why:      where tasks follow one another a step is the sum of their times, of what crosses between the two memories and of
//!           what waits for weights. That each task adds its own and each crossing tensor its own makes it a cut in a network
//!           (Stone 1977). What weights cost is not known before: several prices are tried.

use crate::flow::{ENDLESS, Network, SINK, SOURCE};
use crate::machine::Machine;
use berth_ir::lifetime::{Lifetimes, Task};
use berth_ir::program::Kind;
use berth_ir::target::Link;
use berth_ir::units::Bytes;

/// What the prices of time and of the link add up to, and those of the link that are tried.
const WHOLE: u64 = 16;
const PRICES: [u64; 6] = [0, 4, 8, 12, 14, 15];

/// Bytes that a price of the lower memory is for.
const MIB: u128 = 1 << 20;

/// Prices of a MiB in the lower memory, in nanoseconds: powers of two up to this one.
const BELOW_MAX: u32 = 40;

/// Eighths of the device that a stretch of tasks may have: some is left to what waits between them, and to fragments.
const EIGHTHS: [u64; 4] = [8, 7, 6, 4];

/// Tasks of the largest model of which all ends of a stretch are looked at.
const ENDS_MAX: usize = 2_000;

/// Edges that are looked at, for each task and at most.
const WORK_EACH: u64 = 20_000;
const WORK: u64 = 40_000_000;

/// An assignment.
struct Assigned {
    /// By position: the engine of the lower memory runs the task.
    host: Vec<bool>,
    /// What a step takes at least: tasks and crossings in turn, or over the link what the device cannot hold of the weights that
    /// its tasks read.
    promises: u64,
}

/// Assignments with tasks on the engine of the lower memory, the one that promises the shortest step first.
pub fn cheapest(lifetimes: &Lifetimes, machine: &Machine, engine: &str) -> Vec<Vec<bool>> {
    let links = machine.lower_to_device.zip(machine.device_to_lower);
    let Some((up, down)) = links else { return Vec::new() };
    let net = Tasks::new(lifetimes, machine, engine, (up, down));
    // Where the device has little room the price is no guide: what it cannot do at all is left to the other engine as well.
    let able = lifetimes.tasks.iter().map(|t| t.on(engine).is_some()).collect();
    let mut all = vec![net.assigned(able)];
    let eighth = machine.device.room().0 / 8;
    all.extend(EIGHTHS.iter().map(|eighths| net.assigned(net.stretch(eighth * eighths))));
    let mut work = WORK.min(WORK_EACH * lifetimes.tasks.len() as u64);
    all.extend(PRICES.iter().map_while(|price| Some(net.assigned(net.within(*price, &mut work)?))));
    all.sort_by(|a, b| (a.promises, &a.host).cmp(&(b.promises, &b.host)));
    all.dedup_by(|a, b| a.host == b.host);
    all.into_iter().map(|a| a.host).filter(|host| host.contains(&true)).collect()
}

/// Tasks and what passes between them.
struct Tasks<'a> {
    lifetimes: &'a Lifetimes,
    machine: &'a Machine<'a>,
    engine: &'a str,
    /// To the device and back.
    links: (&'a Link, &'a Link),
    /// By tensor: the task that writes it last, and those that read it.
    writer: Vec<Option<usize>>,
    readers: Vec<Vec<usize>>,
}

impl<'a> Tasks<'a> {
    fn new(lifetimes: &'a Lifetimes, machine: &'a Machine<'a>, engine: &'a str, links: (&'a Link, &'a Link)) -> Self {
        let count = lifetimes.tensors.len();
        let (mut writer, mut readers) = (vec![None; count], vec![Vec::new(); count]);
        for (position, task) in lifetimes.tasks.iter().enumerate() {
            task.writes.iter().for_each(|t| writer[t.index()] = Some(position));
            task.reads.iter().for_each(|t| readers[t.index()].push(position));
        }
        Tasks { lifetimes, machine, engine, links, writer, readers }
    }

    fn is_weight(&self, tensor: usize) -> bool {
        self.lifetimes.tensors[tensor].kind == Kind::Weight
    }

    /// Whether a tensor is a weight that some file holds.
    fn is_stored(&self, tensor: usize) -> bool {
        let home = &self.lifetimes.tensors[tensor].home;
        self.is_weight(tensor) && home.as_ref().is_none_or(|home| home.filled.is_none())
    }

    /// How long a result takes to the other memory.
    fn crossing(&self, tensor: usize, to_device: bool) -> u64 {
        let link = if to_device { self.links.0 } else { self.links.1 };
        let moving = Bytes(self.lifetimes.tensors[tensor].bytes).at(self.machine.rate_along(link)).0;
        moving.saturating_add(link.latency.0).saturating_add(link.submit.0)
    }

    /// How long weights take to the device.
    fn coming(&self, bytes: u64) -> u64 {
        Bytes(bytes).at(self.machine.rate_into_device()).0
    }

    /// One stretch of tasks on the device, whose weights have so much room there, and the others on the other engine where that may
    /// run them: the stretch that saves most.
    fn stretch(&self, room: u64) -> Vec<bool> {
        let tasks = &self.lifetimes.tasks;
        let [up, down] = [self.links.0, self.links.1].map(|link| crossings(self.lifetimes, link));
        let on = |task: &Task| task.on(self.engine).map(|other| other.cost.0);
        let mut saved = vec![0i128];
        for task in tasks {
            let gain = on(task).map_or(0, |host| i128::from(host) - i128::from(task.cost.0));
            saved.push(saved[saved.len() - 1] + gain);
        }
        let mut held = vec![0u32; self.readers.len()];
        let (mut bytes, mut end) = (0u64, 0);
        let weights = |p: usize| tasks[p].reads.iter().map(|t| t.index()).filter(|n| self.is_weight(*n));
        let size = |n: usize| self.lifetimes.tensors[n].bytes;
        let values = |p: usize| tasks[p].operands().map(|t| t.index()).filter(|n| !self.is_weight(*n));
        let mut best = (0, 0..0);
        for from in 0..tasks.len() {
            // As far as there is room.
            while end < tasks.len() {
                let more: u64 = weights(end).filter(|n| held[*n] == 0).map(size).fold(0, u64::saturating_add);
                let beside = values(end).map(size).fold(tasks[end].workspace, u64::saturating_add);
                if bytes.saturating_add(more).saturating_add(beside) > room {
                    break;
                }
                weights(end).for_each(|n| held[n] += 1);
                (bytes, end) = (bytes + more, end + 1);
            }
            let first = if tasks.len() > ENDS_MAX { end } else { from + 1 };
            for to in first.max(from + 1)..=end {
                let crossing = |at: usize, times: &[u64]| if at == tasks.len() { 0 } else { i128::from(times[at]) };
                let gain = saved[to] - saved[from] - crossing(from, &up) - crossing(to, &down);
                if gain > best.0 {
                    best = (gain, from..to);
                }
            }
            if end == from {
                end += 1;
                continue;
            }
            for n in weights(from) {
                held[n] -= 1;
                bytes -= if held[n] == 0 { size(n) } else { 0 };
            }
        }
        let host = tasks.iter().enumerate().map(|(p, task)| !best.1.contains(&p) && on(task).is_some());
        host.collect()
    }

    /// The cheapest at a price for which the lower memory has room, by halving the powers of two that a MiB of it costs.
    fn within(&self, price: u64, work: &mut u64) -> Option<Vec<bool>> {
        let room = self.machine.lower.map_or(0, |tier| tier.room().0);
        let fits = |host: &[bool]| self.read(|n| self.is_weight(n), |p| host[p]) <= room;
        let mut best = self.cut(price, 0, work)?;
        if fits(&best) {
            return Some(best);
        }
        let (mut low, mut high) = (0, BELOW_MAX);
        while high - low > 1 {
            let middle = (low + high) / 2;
            let next = self.cut(price, 1 << middle, work)?;
            if fits(&next) { (high, best) = (middle, next) } else { low = middle }
        }
        Some(best)
    }

    /// Bytes of the tensors that count and that some tasks read.
    fn read(&self, counts: impl Fn(usize) -> bool, some: impl Fn(usize) -> bool) -> u64 {
        let read = (0..self.readers.len()).filter(|n| counts(*n) && self.readers[*n].iter().any(|r| some(*r)));
        read.map(|n| self.lifetimes.tensors[n].bytes).fold(0, u64::saturating_add)
    }

    /// The cheapest where the link's time counts `price` parts of [`WHOLE`] and all else the rest, by position whether the
    /// other engine runs the task; nothing where that takes more than the work that is left. `below` is what a MiB costs that
    /// it reads.
    fn cut(&self, price: u64, below: u64, work: &mut u64) -> Option<Vec<bool>> {
        let turns = |time: u64| u128::from(time) * u128::from(WHOLE - price);
        let mut net = Network::default();
        let tasks: Vec<u32> = self.lifetimes.tasks.iter().map(|_| net.node()).collect();
        for (task, node) in self.lifetimes.tasks.iter().zip(&tasks) {
            net.edge(SOURCE, *node, turns(task.cost.0));
            net.edge(*node, SINK, task.on(self.engine).map_or(ENDLESS, |other| turns(other.cost.0)));
        }
        for (n, readers) in self.readers.iter().enumerate().filter(|(_, readers)| !readers.is_empty()) {
            match self.writer[n] {
                // One reader on the other side is enough to bring it there.
                Some(writer) => {
                    let (there, back) = (net.node(), net.node());
                    net.edge(tasks[writer], there, turns(self.crossing(n, true)));
                    net.edge(back, tasks[writer], turns(self.crossing(n, false)));
                    for reader in readers {
                        net.edge(there, tasks[*reader], ENDLESS);
                        net.edge(tasks[*reader], back, ENDLESS);
                    }
                }
                None if self.is_weight(n) => {
                    let (here, there) = (net.node(), net.node());
                    let bytes = self.lifetimes.tensors[n].bytes;
                    let coming = if self.is_stored(n) { self.coming(bytes) } else { 0 };
                    net.edge(SOURCE, here, u128::from(coming) * u128::from(price));
                    net.edge(there, SINK, turns(bytes) * u128::from(below) / MIB);
                    for reader in readers {
                        net.edge(here, tasks[*reader], ENDLESS);
                        net.edge(tasks[*reader], there, ENDLESS);
                    }
                }
                None => {}
            }
        }
        *work = work.saturating_sub(net.len() as u64);
        net.flow(work)?;
        Some(tasks.iter().map(|node| net.is_before(*node)).collect())
    }

    fn assigned(&self, host: Vec<bool>) -> Assigned {
        let mut turns = 0u64;
        for (task, host) in self.lifetimes.tasks.iter().zip(&host) {
            let cost = if *host { task.on(self.engine).map_or(0, |other| other.cost.0) } else { task.cost.0 };
            turns = turns.saturating_add(cost);
        }
        for (n, readers) in self.readers.iter().enumerate() {
            if let Some(writer) = self.writer[n].filter(|w| readers.iter().any(|r| host[*r] != host[*w])) {
                turns = turns.saturating_add(self.crossing(n, host[writer]));
            }
        }
        let moving =
            self.coming(self.read(|n| self.is_stored(n), |p| !host[p]).saturating_sub(self.machine.device.room().0));
        Assigned { host, promises: turns.max(moving) }
    }
}

/// Before each position, how long what was written before and is used from there on takes over a link.
pub fn crossings(lifetimes: &Lifetimes, link: &Link) -> Vec<u64> {
    let mut change = vec![0i128; lifetimes.tasks.len() + 1];
    for (tensor, uses) in lifetimes.tensors.iter().zip(lifetimes.uses().iter()) {
        let (Some(first), Some(last)) = (uses.first(), uses.last()) else { continue };
        if tensor.kind != Kind::Weight {
            // A link that is as good as dead takes for ever.
            let moving = Bytes(tensor.bytes).at(link.present_rate()).0;
            let time = moving.saturating_add(link.latency.0).saturating_add(link.submit.0);
            change[first + 1] += i128::from(time);
            change[last + 1] -= i128::from(time);
        }
    }
    let mut alive = 0i128;
    let widths = change.iter().map(|c| {
        alive += c;
        u64::try_from(alive).unwrap_or(u64::MAX)
    });
    widths.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ir::lifetime::{Tensor, TensorId};
    use berth_ir::units::{BytesPerSec, Nanos};
    use berth_ir::{DType, Expr};

    #[test]
    fn what_takes_for_ever_takes_no_less_with_a_latency() {
        let text = include_str!("../../golden/targets/one_device.ron");
        let mut link = berth_ir::Target::from_ron(text).expect("a target").links.remove(0);
        (link.rate, link.latency) = (BytesPerSec(1), Nanos(1_000));
        let (bytes, extent) = (1 << 62, Expr::constant(1u64 << 62));
        let tensor = Tensor {
            name: "t".into(),
            kind: Kind::Activation,
            dtype: DType::U8,
            extent,
            bytes,
            home: None,
            aliases: Vec::new(),
        };
        let task = |name: &str, reads: Vec<TensorId>, writes: Vec<TensorId>| Task {
            name: name.into(),
            ops: vec![name.into()],
            reads,
            writes,
            rows: Vec::new(),
            in_place: Vec::new(),
            workspace: 0,
            cost: Nanos(1),
            others: Vec::new(),
            held: None,
        };
        let (write, read) = (task("write", vec![], vec![TensorId(0)]), task("read", vec![TensorId(0)], vec![]));
        let lifetimes = Lifetimes {
            model: "made".into(),
            dims: Default::default(),
            tensors: vec![tensor],
            tasks: vec![write, read],
        };
        assert_eq!(crossings(&lifetimes, &link), [0, u64::MAX, 0]);
    }
}
