//! Says how fast tasks run while copies take part of their memory's bandwidth.
//!
//! Reads:    what copies move and for how long, what tasks touch and how long they take alone.
//! Decides:  nothing; a copy keeps its rate, and a task has what is left.
//! Promises: integer arithmetic, the same every time; a task alone takes its cost.
//! Why:      a task touches its bytes evenly over its cost. Where that rate and the copies' fit into the bandwidth it
//!           keeps its speed, else it is slowed to what is left: a task bound by memory fully, one bound by arithmetic
//!           hardly. Copies among themselves, and engines of one memory, do not slow each other.

use berth_ir::Target;

/// Even under copies that take everything a task keeps this part of its memory: hardware arbitrates.
pub(crate) const LEAST_PART: u64 = 16;

/// A speed of one, in fixed point.
const FULL: u64 = 1 << 20;

/// What an instruction takes of memories: by index of the tier, and at which rate in bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    tiers: [Option<usize>; 2],
    rate: u64,
}

impl Demand {
    /// Of a copy over a link that is busy with it so long: from both memories, files being none.
    pub fn of_copy(target: &Target, link: &str, bytes: u64, nanos: u64) -> Demand {
        let Some(link) = target.links.iter().find(|l| l.name == link) else { return Demand::default() };
        let memory = |name: &String| target.tiers.iter().position(|t| t.name == *name && !t.files);
        Demand { tiers: [memory(&link.from), memory(&link.to)], rate: rate(bytes, nanos) }
    }

    /// Of a task that takes so long alone, on an engine by index: from the memory that it computes in.
    pub fn of_run(target: &Target, engine: usize, bytes: u64, nanos: u64) -> Demand {
        let tier = target.engines.get(engine).and_then(|e| target.tiers.iter().position(|t| t.name == e.tier));
        Demand { tiers: [tier, None], rate: rate(bytes, nanos) }
    }
}

fn rate(bytes: u64, nanos: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// The memories of a machine, what copies take of them, and what runs in them.
#[derive(Debug)]
pub(crate) struct Share {
    /// By tier: bandwidth, and what copies take of it.
    tiers: Vec<(u64, u64)>,
    /// By engine.
    running: Vec<Option<Running>>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    node: usize,
    demand: Demand,
    /// What is left to do, in parts of a nanosecond at full speed.
    left: u128,
    /// Since when it has had this speed.
    since: u64,
    speed: u64,
}

impl Share {
    /// All memories idle.
    pub fn new(target: &Target) -> Share {
        let tiers = target.tiers.iter().map(|t| (t.bandwidth.0, 0)).collect();
        Share { tiers, running: vec![None; target.engines.len()] }
    }

    /// A copy begins.
    pub fn take(&mut self, demand: Demand) {
        for tier in demand.tiers.into_iter().flatten() {
            self.tiers[tier].1 = self.tiers[tier].1.saturating_add(demand.rate);
        }
    }

    /// A copy has left its link.
    pub fn release(&mut self, demand: Demand) {
        for tier in demand.tiers.into_iter().flatten() {
            self.tiers[tier].1 = self.tiers[tier].1.saturating_sub(demand.rate);
        }
    }

    /// An engine begins a task that takes so long alone; when it will end as things are.
    pub fn begin(&mut self, engine: usize, node: usize, now: u64, nanos: u64, demand: Demand) -> u64 {
        let left = u128::from(nanos) * u128::from(FULL);
        let run = Running { node, demand, left, since: now, speed: self.speed(demand) };
        if let Some(running) = self.running.get_mut(engine) {
            *running = Some(run);
        }
        run.end()
    }

    /// An engine's task has ended.
    pub fn end(&mut self, engine: usize) {
        if let Some(running) = self.running.get_mut(engine) {
            *running = None;
        }
    }

    /// A task that runs at another speed now than it did, and when it will end; nothing where all run as they did.
    pub fn moved(&mut self, now: u64) -> Option<(usize, u64)> {
        for engine in 0..self.running.len() {
            let Some(run) = self.running[engine] else { continue };
            let speed = self.speed(run.demand);
            if speed != run.speed {
                let done = u128::from(now - run.since) * u128::from(run.speed);
                let run = Running { left: run.left.saturating_sub(done), since: now, speed, ..run };
                self.running[engine] = Some(run);
                return Some((run.node, run.end()));
            }
        }
        None
    }

    fn speed(&self, demand: Demand) -> u64 {
        let Some((bandwidth, taken)) = demand.tiers[0].map(|t| self.tiers[t]) else { return FULL };
        let left = bandwidth.saturating_sub(taken).max(bandwidth / LEAST_PART).max(1);
        let wanted = demand.rate.min(bandwidth);
        if wanted <= left { FULL } else { (u128::from(FULL) * u128::from(left) / u128::from(wanted)).max(1) as u64 }
    }
}

impl Running {
    fn end(&self) -> u64 {
        self.since.saturating_add(u64::try_from(self.left.div_ceil(u128::from(self.speed))).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: &str = r#"(name: "m", source: "made up",
        tiers: [
            (name: "hbm", capacity: "1GiB", bandwidth: "10GB/s", alignment: 64),
            (name: "dram", capacity: "1GiB", bandwidth: "4GB/s", alignment: 64),
        ],
        engines: [
            (name: "gpu", tier: "hbm", rates: [(f32, "1Gops/s")], launch: "0ns"),
            (name: "cores", tier: "dram", rates: [(f32, "1Gops/s")], launch: "0ns"),
        ],
        links: [(name: "up", from: "dram", to: "hbm", rate: "1GB/s", latency: "0ns", chunk: "1MiB")])"#;

    #[test]
    fn a_copy_slows_what_the_memory_bounds() {
        let target = Target::from_ron(MACHINE).unwrap();
        let copy = Demand::of_copy(&target, "up", 1_000, 1_000);
        let mut share = Share::new(&target);
        // 4,000 bytes in 1,000 ns are all that dram gives, 500 are an eighth; the device has enough for both.
        assert_eq!(share.begin(1, 7, 0, 1_000, Demand::of_run(&target, 1, 4_000, 1_000)), 1_000);
        assert_eq!(share.begin(0, 8, 0, 1_000, Demand::of_run(&target, 0, 9_000, 1_000)), 1_000);
        share.take(copy);
        // Half done at 500; the other half has three quarters of the bandwidth, rounded up.
        assert_eq!(share.moved(500), Some((7, 500 + 667)));
        assert_eq!(share.moved(500), None);
        share.release(copy);
        let (node, end) = share.moved(600).unwrap();
        assert_eq!((node, end), (7, 600 + 425));
        share.end(1);
        share.take(copy);
        assert_eq!(share.begin(1, 9, 0, 1_000, Demand::of_run(&target, 1, 500, 1_000)), 1_000);
        assert_eq!(share.moved(10), None);
    }
}
