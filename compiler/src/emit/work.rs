//! What the instructions of stays occupy, for the simulator.

use super::{Act, Emitter};
use crate::stay::Arrival;
use crate::step::{Instance, Lines, Servers, Step, Use, Work, touched};
use berth_ir::program::Class;

impl Emitter<'_> {
    /// What the program would be to the simulator.
    pub fn step(&self) -> Step {
        let lines = self.lines();
        let servers = Servers::of(self.machine.target);
        let work = [&lines[0], &lines[1]].map(|lines| self.works(&servers, lines));
        let busy = self.lifetimes.tasks.iter().map(|t| t.cost.0).fold(0, u64::saturating_add);
        Step::new(&lines, work, self.numbers(), busy)
    }

    fn works(&self, servers: &Servers, lines: &Lines) -> Vec<Work> {
        let engines = [Some(self.machine.engine), self.machine.host].map(|name| name.map_or(0, |n| servers.engine(n)));
        let work = |number| match self.act(number) {
            Act::Begin(i) | Act::Bring(i) if self.is_fed(number) => {
                let stay = &self.stays[i];
                servers.feed(self.machine.tier(stay.level).map_or("", |tier| &tier.name), stay.bytes)
            }
            Act::Begin(i) | Act::Bring(i) => self.copy(servers, i),
            Act::Run(p) => {
                let host = self.machine.host.is_some() && self.host[p];
                servers.run(engines[usize::from(host)], self.lifetimes.tasks[p].cost.0, self.touched(p))
            }
            Act::Fetch(_) => servers.call(Instance::Fetch),
        };
        lines.iter().map(|(number, _)| work(number)).collect()
    }

    /// How urgent a copy is.
    pub(super) fn class(&self, i: usize) -> Class {
        if self.on_demand(i) { Class::Demand } else { Class::Planned }
    }

    fn copy(&self, servers: &Servers, i: usize) -> Work {
        let stay = &self.stays[i];
        let (bytes, made) = match stay.arrives {
            Arrival::Stay { from, .. } => (self.stays[from].bytes.min(stay.bytes), false),
            _ => {
                let home = self.lifetimes.tensor(stay.tensor).home.as_ref();
                (stay.bytes, home.is_some_and(|h| h.filled.is_some()))
            }
        };
        servers.copy(self.link(i).map_or("", |l| &l.name), self.class(i), bytes, made)
    }

    /// Bytes that a run reads and writes.
    fn touched(&self, position: usize) -> u64 {
        let task = &self.lifetimes.tasks[position];
        let below = self.machine.host.is_some() && self.host[position];
        let reads = task.reads.iter().map(|r| (if below && task.rows.contains(r) { Use::Rows } else { Use::Reads }, r));
        let operands = reads.chain(task.writes.iter().map(|w| (Use::Writes, w)));
        let bytes = operands.map(|(used, tensor)| {
            let here = self.by_position[position].iter().map(|i| &self.stays[*i]);
            let parts = here.filter(|s| s.tensor == *tensor && s.arrives != Arrival::Scratch);
            (used, parts.map(|s| s.bytes).fold(0, u64::saturating_add))
        });
        touched(bytes)
    }
}
