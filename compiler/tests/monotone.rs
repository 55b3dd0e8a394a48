//! More memory or a faster link hardly ever makes a plan slower: seeded models on seeded machines. `BERTH_FIRST` and
//! `BERTH_SEEDS` say which, the first two hundred otherwise.

use berth_compiler::plan::{PlanError, extremes, plan};
use berth_ir::lifetime::{Lifetimes, Other, Task, Tensor, TensorId};
use berth_ir::program::{Home, Kind, Mode};
use berth_ir::units::{Bytes, BytesPerSec, Nanos};
use berth_ir::{DType, Expr, Target};
use std::collections::BTreeMap;

const PAIRS: u64 = 200;
/// Rooms that are planned for, in hundredths of the way from the least to what holds everything.
const ROOMS: [u64; 4] = [15, 40, 65, 90];
/// Rates of the links, in hundredths, at one of the rooms.
const RATES: [u64; 2] = [125, 250];
/// What counts as slower than with less room or a slower link, and one comparison in how many may be: what is searched is
/// not all that there is, and where a step is far above its bound what is found differs.
const SLOWER: f64 = 0.005;
const LARGE_PART: usize = 1_000;

/// A stream of numbers (Marsaglia's xorshift, 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from)
    }
}

/// A model in the making, and what its tasks cost by the bytes that they touch.
struct Maker {
    random: Random,
    all: Lifetimes,
    /// Times as much arithmetic as bytes.
    dense: u64,
    cores: bool,
}

impl Maker {
    fn new(seed: u64) -> Maker {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        (0..20).for_each(|_| {
            random.below(2);
        });
        let dense = [1, 1, 4, 20][random.below(4) as usize];
        let cores = random.below(4) == 0;
        let all = Lifetimes { model: "made up".into(), dims: BTreeMap::new(), tensors: vec![], tasks: vec![] };
        Maker { random, all, dense, cores }
    }

    fn tensor(&mut self, kind: Kind, bytes: u64) -> TensorId {
        let id = self.all.tensors.len();
        let file = Home {
            tier: "disk".into(),
            file: "w".into(),
            offset: id as u64 * 4096,
            transposed: None,
            strip: None,
            filled: None,
        };
        let home = (kind == Kind::Weight).then_some(file);
        let (name, extent, dtype) = (format!("x{id}"), Expr::constant(bytes), DType::U8);
        self.all.tensors.push(Tensor { name, kind, dtype, extent, bytes, home, aliases: vec![] });
        TensorId(id as u32)
    }

    /// A task that makes a result of what it reads.
    fn task(&mut self, reads: &[TensorId], kind: Kind, bytes: u64) -> TensorId {
        let result = self.tensor(kind, bytes);
        let touched = reads.iter().map(|t| self.all.tensor(*t).bytes).sum::<u64>() + bytes;
        // 20 GB/s, two microseconds to start.
        let cost = 2_000 + touched * self.dense / 20;
        let name = format!("t{}", self.all.tasks.len());
        let others = match self.cores {
            true => vec![Other { engine: "cores".into(), cost: Nanos(cost * 5), workspace: 0 }],
            false => vec![],
        };
        let mut reads = reads.to_vec();
        reads.dedup();
        self.all.tasks.push(Task {
            ops: vec![name.clone()],
            name,
            reads,
            writes: vec![result],
            rows: vec![],
            others,
            in_place: vec![],
            workspace: 0,
            cost: Nanos(cost),
            held: None,
        });
        result
    }

    /// Layers of a transformer, with a head that may be tied to the embedding.
    fn decoder(mut self) -> Lifetimes {
        let (layers, width, value) =
            (self.random.range(2, 9), self.random.range(20_000, 200_000), self.random.range(50, 5_000));
        let head = width * self.random.range(2, 8);
        let head = self.tensor(Kind::Weight, head);
        let tied = self.random.below(2) == 0;
        let input = self.tensor(Kind::Input, value);
        let first: &[TensorId] = if tied { &[input, head] } else { &[input] };
        let mut x = self.task(first, Kind::Activation, value);
        for _ in 0..layers {
            let norm = self.tensor(Kind::Weight, value.min(400));
            let y = self.task(&[x, norm], Kind::Activation, value);
            let parts: Vec<TensorId> = (0..3)
                .map(|n| {
                    let w = self.tensor(Kind::Weight, if n == 0 { width } else { width / 4 + 1 });
                    self.task(&[y, w], Kind::Activation, value)
                })
                .collect();
            let attention = self.task(&parts, Kind::Activation, value);
            let out = self.tensor(Kind::Weight, width);
            let y = self.task(&[attention, out], Kind::Activation, value);
            x = self.task(&[x, y], Kind::Activation, value);
            let (up, down) = (self.tensor(Kind::Weight, width * 3), self.tensor(Kind::Weight, width * 3));
            let y = self.task(&[x, up], Kind::Activation, value * 3);
            let y = self.task(&[y, down], Kind::Activation, value);
            x = self.task(&[x, y], Kind::Activation, value);
        }
        self.task(&[x, head], Kind::Output, value);
        self.all
    }

    /// A chain of layers whose weights grow and whose values shrink, with short cuts.
    fn convolutions(mut self) -> Lifetimes {
        let layers = self.random.range(6, 30);
        let (mut width, mut value) = (self.random.range(2_000, 20_000), self.random.range(50_000, 400_000));
        let mut x = self.tensor(Kind::Input, value);
        let mut skip = None;
        for n in 0..layers {
            let w = width * self.random.range(5, 15) / 10;
            let w = self.tensor(Kind::Weight, w);
            let mut y = self.task(&[x, w], Kind::Activation, value);
            if n % 3 == 2 {
                y = self.task(&[y, skip.unwrap_or(x)], Kind::Activation, value);
                skip = Some(y);
                (width, value) = (width * 3 / 2, value * 3 / 4 + 1);
            }
            x = y;
        }
        let w = self.tensor(Kind::Weight, width);
        self.task(&[x, w], Kind::Output, 1_000);
        self.all
    }

    /// Weights of all sizes, some of them used again.
    fn mixed(mut self) -> Lifetimes {
        let tasks = self.random.range(5, 40);
        let mut weights: Vec<TensorId> = Vec::new();
        let mut x = self.tensor(Kind::Input, 1_000);
        for n in 0..tasks {
            let again = !weights.is_empty() && self.random.below(4) == 0;
            let w = match again {
                true => weights[self.random.below(weights.len() as u64) as usize],
                false => {
                    let size = 1_000 << self.random.below(8);
                    let size = size + self.random.below(size);
                    self.tensor(Kind::Weight, size)
                }
            };
            weights.push(w);
            let kind = if n + 1 == tasks { Kind::Output } else { Kind::Activation };
            let bytes = self.random.range(100, 20_000);
            x = self.task(&[x, w], kind, bytes);
        }
        self.all
    }
}

fn model(seed: u64) -> Lifetimes {
    let maker = Maker::new(seed);
    match seed % 3 {
        0 => maker.decoder(),
        1 => maker.convolutions(),
        _ => maker.mixed(),
    }
}

/// A machine with a disk behind a link, or with a second memory between them and perhaps cores in it.
fn machine(seed: u64) -> Target {
    let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95) | 1);
    (0..20).for_each(|_| {
        random.below(2);
    });
    let rate = random.range(1_000_000_000, 8_000_000_000);
    let latency = random.below(20_000);
    let disk = format!(
        "(name: \"read\", from: \"disk\", to: \"device\", rate: \"{}B/s\", latency: \"{latency}ns\", chunk: \"1MiB\"),",
        if random.below(2) == 0 { rate } else { rate / 4 }
    );
    let below = random.below(2) == 0;
    let memory = "(name: \"dram\", capacity: \"1GiB\", bandwidth: \"40GB/s\", alignment: 64),";
    let cores = "(name: \"cores\", tier: \"dram\", rates: [(f32, \"1Gops/s\")], launch: \"0ns\"),";
    let links = format!(
        "(name: \"up\", from: \"dram\", to: \"device\", rate: \"{rate}B/s\", latency: \"{latency}ns\", chunk: \"1MiB\"),
         (name: \"down\", from: \"device\", to: \"dram\", rate: \"{rate}B/s\", latency: \"{latency}ns\", chunk: \"1MiB\"),
         (name: \"fill\", from: \"disk\", to: \"dram\", rate: \"{rate}B/s\", latency: \"{latency}ns\", chunk: \"1MiB\"),"
    );
    let (memory, cores, links) = if below { (memory, cores, links.as_str()) } else { ("", "", "") };
    let text = format!(
        r#"(name: "made up", source: "made up",
            tiers: [
                (name: "device", capacity: "1GiB", bandwidth: "100GB/s", alignment: 64), {memory}
                (name: "disk", capacity: "1TiB", bandwidth: "8GB/s", alignment: 4096, files: true),
            ],
            engines: [(name: "e", tier: "device", rates: [(f32, "1Gops/s")], launch: "0ns"), {cores}],
            links: [{disk} {links}])"#
    );
    Target::from_ron(&text).expect("a target")
}

fn with(target: &Target, room: u64, percent: u64) -> Target {
    let mut target = target.budgeted(&BTreeMap::from([("device".to_owned(), Bytes(room))]));
    for link in &mut target.links {
        link.rate = BytesPerSec(link.rate.0 * percent / 100);
    }
    target
}

/// Steps where each machine is better than the one before: with more room, then with faster links.
fn steps(seed: u64) -> Result<Vec<Vec<Nanos>>, PlanError> {
    let (lifetimes, target) = (model(seed), machine(seed));
    let (least, full) = extremes(&lifetimes, &target)?;
    let room = |percent: &u64| least.bytes + (full - least.bytes.min(full)) * percent / 100;
    let step = |target: Target| Ok::<Nanos, PlanError>(plan(&lifetimes, &target, Mode::Loop)?.timeline.step);
    let rooms =
        ROOMS.iter().map(|percent| step(with(&target, room(percent), 100))).collect::<Result<Vec<Nanos>, _>>()?;
    let fixed = seed as usize % ROOMS.len();
    let faster = RATES.iter().map(|percent| step(with(&target, room(&ROOMS[fixed]), *percent)));
    let rates = std::iter::once(Ok(rooms[fixed])).chain(faster).collect::<Result<Vec<Nanos>, _>>()?;
    Ok(vec![rooms, rates])
}

/// Of each pair of a machine and a better one, by how much the step is longer, and where that was.
fn compared(seed: u64) -> Vec<(f64, String)> {
    let all = steps(seed).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    let pairs = ["rooms", "rates"].iter().zip(&all).flat_map(|(what, steps)| {
        steps.windows(2).enumerate().map(move |(n, pair)| {
            let longer = pair[1].0 as f64 / pair[0].0 as f64 - 1.0;
            (longer, format!("seed {seed}, {what} {n}: {} ns after {}", pair[1].0, pair[0].0))
        })
    });
    pairs.collect()
}

#[test]
fn more_room_or_a_faster_link_is_hardly_ever_slower() {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (from, pairs) = (number("BERTH_FIRST").unwrap_or(0), number("BERTH_SEEDS").unwrap_or(PAIRS));
    let half = |first: u64| (from + first..from + pairs).step_by(2).flat_map(compared).collect::<Vec<_>>();
    let all = std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        let mut all = half(0);
        all.extend(other.join().expect("a half"));
        all
    });
    let mut longer: Vec<&(f64, String)> = all.iter().filter(|(by, _)| *by > 0.0).collect();
    longer.sort_by(|a, b| b.0.total_cmp(&a.0));
    longer.iter().for_each(|(by, at)| println!("{:.3} % slower: {at}", by * 100.0));
    let large = longer.iter().filter(|(by, _)| *by > SLOWER).count();
    println!("{} comparisons, {} inversions, {large} by more than {SLOWER}", all.len(), longer.len());
    assert!(large * LARGE_PART <= all.len(), "{large} of {}", all.len());
}
