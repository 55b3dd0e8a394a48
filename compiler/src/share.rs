//! Says how fast tasks run while copies take part of their memory's bandwidth, and copies while tasks run.
//!
//! Reads:    what copies move and for how long, what tasks touch and how long they take alone.
//! Decides:  nothing; a copy has its rate, or what its link has left of it beside compute, and a task what that leaves.
//! Promises: integer arithmetic, the same every time; a task alone takes its cost, a copy alone its time.
//! Why:      a task touches its bytes evenly over its cost. Where that rate and the copies' fit into the bandwidth it
//!           keeps its speed, else it is slowed to what is left: a task bound by memory fully, one bound by arithmetic
//!           only by what a link says that it slows all. Copies among themselves, and engines of one memory, do not slow
//!           each other.

use berth_ir::Target;
use berth_ir::target::{Link, LinkState, Tier};
use berth_ir::units::Part;

/// Even under copies that take everything a task keeps this part of its memory: hardware arbitrates.
pub(crate) const LEAST_PART: u64 = 16;

/// A speed of one, in fixed point.
const FULL: u64 = 1 << 20;

/// What an instruction takes of memories: by index of the tier, and at which rate in bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Demand {
    tiers: [Option<usize>; 2],
    rate: u64,
    /// What a copy loses of its speed while an engine computes in one of these memories that asks nothing of it, and all.
    lost: [u64; 2],
    /// What engines lose of their speed meanwhile, however little they ask of these memories.
    slows: u64,
    /// Of a task: how much of its memory's bandwidth it asks for.
    asks: u64,
}

impl Demand {
    /// Of a copy over a link that is busy with it so long: from both memories, files being none.
    pub fn of_copy(target: &Target, link: &Link, bytes: u64, nanos: u64) -> Demand {
        let memory = |name: &String| target.tiers.iter().position(|t| t.name == *name && !t.files);
        let all = link.present_rate().0;
        let (left, slows) = link.computing.map_or((link.rate_beside().0, 0), |c| (c.rate.0, c.slows.0));
        let lost = [left, link.rate_beside().0].map(|left| FULL - speed(left, all));
        // What it takes of a task it takes while one runs; a copy that its link is slow to begin with takes less.
        let moved = u128::from(rate(bytes, nanos));
        let of = |some: u64| u64::try_from(moved * u128::from(some) / u128::from(all.max(1)));
        let rate = of(link.rate_taken().0).unwrap_or(u64::MAX);
        let slows = of(part(slows, Part::WHOLE.0)).unwrap_or(FULL).min(FULL);
        Demand { tiers: [memory(&link.from), memory(&link.to)], rate, lost, slows, asks: 0 }
    }

    /// Of a task that takes so long alone, on an engine by index: from the memory that it computes in.
    pub fn of_run(target: &Target, engine: usize, bytes: u64, nanos: u64) -> Demand {
        let tier = target.engines.get(engine).and_then(|e| target.tiers.iter().position(|t| t.name == e.tier));
        let (rate, bandwidth) = (rate(bytes, nanos), tier.map_or(0, |tier| target.tiers[tier].bandwidth.0));
        let asks = speed(rate, bandwidth);
        Demand { tiers: [tier, None], rate, asks, ..Demand::default() }
    }
}

impl Demand {
    /// Bytes that a task of so long a time moves, from and to a memory of so much bandwidth.
    pub fn moved(&self, nanos: u64, bandwidth: u64) -> u128 {
        u128::from(self.rate.min(bandwidth)) * u128::from(nanos) / 1_000_000_000
    }
}

/// What a memory gives in a second to an engine and to copies into it: copies that come faster leave the engine a part.
pub(crate) fn gives(target: &Target, tier: &Tier) -> u128 {
    let (bandwidth, into) = (u128::from(tier.bandwidth.0), target.links.iter().filter(|l| l.to == tier.name));
    let taken: u128 = into.filter(|l| l.state != LinkState::Cut).map(|l| u128::from(l.rate_taken().0)).sum();
    bandwidth.max(taken + bandwidth / u128::from(LEAST_PART))
}

/// What so many bytes that come into a memory take of it at least: a link may take less than it moves.
pub(crate) fn coming(target: &Target, tier: &Tier, bytes: u64) -> u128 {
    let into = target.links.iter().filter(|l| l.to == tier.name && l.state != LinkState::Cut);
    let take =
        |link: &Link| u128::from(bytes) * u128::from(link.rate_taken().0) / u128::from(link.present_rate().0.max(1));
    into.map(take).min().unwrap_or(0).min(u128::from(bytes))
}

/// A speed: what is left of what there is; all of it where there is nothing.
fn speed(left: u64, all: u64) -> u64 {
    if left >= all { FULL } else { part(left, all).max(1) }
}

/// Between what is lost beside a task that asks nothing, and beside one that asks for all.
fn between([nothing, all]: [u64; 2], asks: u64) -> u64 {
    let of = |lost: u64, part: u64| u128::from(lost) * u128::from(part);
    ((of(nothing, FULL - asks) + of(all, asks)) / u128::from(FULL)) as u64
}

/// A part of a whole that is not zero, in parts of [`FULL`].
fn part(some: u64, all: u64) -> u64 {
    (u128::from(FULL) * u128::from(some) / u128::from(all)) as u64
}

fn rate(bytes: u64, nanos: u64) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / u128::from(nanos.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// The memories of a machine, what copies take of them, and what runs in them.
#[derive(Debug)]
pub(crate) struct Share {
    tiers: Vec<Memory>,
    engines: usize,
    /// By server: engines, then links.
    running: Vec<Option<Running>>,
}

/// What copies do to a memory.
#[derive(Clone, Copy, Debug)]
struct Memory {
    bandwidth: u64,
    /// What copies take of it.
    taken: u64,
    /// What they take of the speed of all engines.
    slowed: u64,
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
    pub fn new(target: &Target, servers: usize) -> Share {
        let memory = |bandwidth| Memory { bandwidth, taken: 0, slowed: 0 };
        let tiers = target.tiers.iter().map(|t| memory(t.bandwidth.0)).collect();
        Share { tiers, engines: target.engines.len(), running: vec![None; servers] }
    }

    /// A server begins a task or a copy that takes so long alone; when it will end as things are, once others have been
    /// looked at ([`Share::moved`]).
    pub fn begin(&mut self, server: usize, node: usize, now: u64, nanos: u64, demand: Demand) -> u64 {
        let left = u128::from(nanos) * u128::from(FULL);
        let run = Running { node, demand, left, since: now, speed: self.speed(server, demand) };
        self.count(server, demand, true);
        self.running[server] = Some(run);
        run.end()
    }

    /// A server has ended what it began.
    pub fn end(&mut self, server: usize) {
        if let Some(run) = self.running[server].take() {
            self.count(server, run.demand, false);
        }
    }

    fn count(&mut self, server: usize, demand: Demand, begins: bool) {
        if server < self.engines {
            return;
        }
        for tier in demand.tiers.into_iter().flatten() {
            let memory = &mut self.tiers[tier];
            let counted = |all: u64, one| if begins { all.saturating_add(one) } else { all.saturating_sub(one) };
            memory.taken = counted(memory.taken, demand.rate);
            memory.slowed = counted(memory.slowed, demand.slows);
        }
    }

    /// What goes at another speed now than it did, and when its server will be free; nothing where all go as they did.
    pub fn moved(&mut self, now: u64) -> Option<(usize, u64)> {
        for server in 0..self.running.len() {
            let Some(run) = self.running[server] else { continue };
            let speed = self.speed(server, run.demand);
            if speed != run.speed {
                let done = u128::from(now - run.since) * u128::from(run.speed);
                let run = Running { left: run.left.saturating_sub(done), since: now, speed, ..run };
                self.running[server] = Some(run);
                return Some((run.node, run.end()));
            }
        }
        None
    }

    fn speed(&self, server: usize, demand: Demand) -> u64 {
        if server >= self.engines {
            let computing = self.running[..self.engines].iter().flatten();
            let near =
                computing.filter(|run| run.demand.tiers[0].is_some_and(|tier| demand.tiers.contains(&Some(tier))));
            return FULL - near.map(|run| between(demand.lost, run.demand.asks)).max().unwrap_or(0);
        }
        let Some(Memory { bandwidth, taken, slowed }) = demand.tiers[0].map(|tier| self.tiers[tier]) else {
            return FULL;
        };
        let left = bandwidth.saturating_sub(taken).max(bandwidth / LEAST_PART).max(1);
        speed(left, demand.rate.min(bandwidth)).min(FULL.saturating_sub(slowed).max(FULL / LEAST_PART))
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

    fn link(target: &Target) -> &Link {
        &target.links[0]
    }

    #[test]
    fn a_copy_slows_what_the_memory_bounds() {
        let target = Target::from_ron(MACHINE).unwrap();
        let copy = Demand::of_copy(&target, link(&target), 1_000, 1_000);
        let mut share = Share::new(&target, 3);
        // 4,000 bytes in 1,000 ns are all that dram gives, 500 are an eighth; the device has enough for both.
        assert_eq!(share.begin(1, 7, 0, 1_000, Demand::of_run(&target, 1, 4_000, 1_000)), 1_000);
        assert_eq!(share.begin(0, 8, 0, 1_000, Demand::of_run(&target, 0, 9_000, 1_000)), 1_000);
        assert_eq!(share.begin(2, 9, 500, 1_000, copy), 1_500);
        // Half done at 500; the other half has three quarters of the bandwidth, rounded up.
        assert_eq!(share.moved(500), Some((7, 500 + 667)));
        assert_eq!(share.moved(500), None);
        share.end(2);
        let (node, end) = share.moved(600).unwrap();
        assert_eq!((node, end), (7, 600 + 425));
        share.end(1);
        assert_eq!(share.begin(2, 9, 600, 1_000, copy), 1_600);
        assert_eq!(share.begin(1, 9, 600, 1_000, Demand::of_run(&target, 1, 500, 1_000)), 1_600);
        assert_eq!(share.moved(610), None);
    }

    #[test]
    fn a_copy_takes_as_much_of_a_task_as_its_link_says() {
        let text = MACHINE.replace("rate: \"1GB/s\", latency", "rate: \"1GB/s\", taken: Some(\"2GB/s\"), latency");
        let target = Target::from_ron(&text).unwrap();
        let copy = Demand::of_copy(&target, link(&target), 1_000, 1_000);
        let mut share = Share::new(&target, 3);
        // All that dram gives, and half of it while two of four GB/s are taken; the copy keeps its rate.
        assert_eq!(share.begin(2, 9, 0, 1_000, copy), 1_000);
        assert_eq!(share.begin(1, 7, 0, 400, Demand::of_run(&target, 1, 1_600, 400)), 800);
        assert_eq!(share.moved(0), None);
        share.end(1);
        share.end(2);
        // Half the time went into beginning it: it takes half.
        let slow = Demand::of_copy(&target, link(&target), 1_000, 2_000);
        assert_eq!(share.begin(2, 9, 800, 2_000, slow), 2_800);
        assert_eq!(share.begin(1, 7, 800, 300, Demand::of_run(&target, 1, 1_200, 300)), 1_200);
    }

    #[test]
    fn a_copy_and_a_task_that_asks_little_of_the_memory_slow_each_other_as_the_link_says() {
        let said =
            r#"rate: "1GB/s", beside: Some("200MB/s"), computing: Some((rate: "600MB/s", slows: "20%")), latency"#;
        let target = Target::from_ron(&MACHINE.replace("rate: \"1GB/s\", latency", said)).unwrap();
        let mut share = Share::new(&target, 3);
        let copy = Demand::of_copy(&target, link(&target), 1_000, 1_000);
        // At three fifths of its rate beside a task that asks nothing of dram, two fifths where it asks for half, a fifth for all.
        for (asked, end) in [(0, 1_667), (2, 2_500), (4, 5_000)] {
            share.begin(1, 7, 0, 1_000, Demand::of_run(&target, 1, asked * 1_000, 1_000));
            assert!(share.begin(2, 9, 0, 1_000, copy).abs_diff(end) <= 1, "{asked}");
            share.end(1);
            share.end(2);
        }
        // One hardly touches its memory; the other asks for all of it, of which a twentieth is taken: the more counts, once.
        share.begin(2, 9, 0, 1_000, copy);
        assert_eq!(share.begin(0, 8, 0, 400, Demand::of_run(&target, 0, 4, 400)), 500);
        assert_eq!(share.begin(1, 7, 0, 400, Demand::of_run(&target, 1, 1_600, 400)), 500);
        for server in 0..3 {
            share.end(server);
        }
        // A copy that takes twice as long slows half as much.
        share.begin(2, 9, 600, 2_000, Demand::of_copy(&target, link(&target), 1_000, 2_000));
        assert_eq!(share.begin(0, 8, 600, 450, Demand::of_run(&target, 0, 4, 450)), 600 + 500);
    }

    #[test]
    fn a_task_slows_the_copies_of_its_memory_where_their_link_says_so() {
        let text = MACHINE.replace("rate: \"1GB/s\", latency", "rate: \"1GB/s\", beside: Some(\"500MB/s\"), latency");
        let target = Target::from_ron(&text).unwrap();
        let copy = Demand::of_copy(&target, link(&target), 1_000, 1_000);
        let mut share = Share::new(&target, 3);
        assert_eq!(share.begin(2, 9, 0, 1_000, copy), 1_000);
        // Half done at 500; the other half goes half as fast while the task runs, which loses an eighth to it.
        assert_eq!(share.begin(1, 7, 500, 1_000, Demand::of_run(&target, 1, 4_000, 1_000)), 500 + 1_143);
        assert_eq!(share.moved(500), Some((9, 1_500)));
        assert_eq!(share.moved(500), None);
        share.end(1);
        assert_eq!(share.moved(700), Some((9, 700 + 400)));
        // What begins beside a task begins slow.
        share.end(2);
        share.begin(0, 8, 0, 1_000, Demand::of_run(&target, 0, 1, 1_000));
        assert_eq!(share.begin(2, 9, 800, 1_000, copy), 2_800);
    }
}
