//! Families of packing problems of any size: what traces, networks and chance make of spans.

use berth_compiler::dsa::Buffer;

/// What makes a problem of about so many buffers from a seed.
pub type Family = fn(usize, u64) -> Vec<Buffer>;

/// All of them, by name.
pub const FAMILIES: &[(&str, Family)] = &[
    ("uniform", |n, seed| stationary(n, seed, uniform_life(0.5), uniform_size)),
    ("exponential-100", |n, seed| stationary(n, seed, exponential_life(100.0 / n as f64), uniform_size)),
    ("exponential-1000", |n, seed| stationary(n, seed, exponential_life(1000.0 / n as f64), uniform_size)),
    ("exponential-tenth", |n, seed| stationary(n, seed, exponential_life(0.1), uniform_size)),
    ("pareto-sizes", |n, seed| stationary(n, seed, exponential_life(2000.0 / n as f64), pareto_size)),
    ("pareto-lives", |n, seed| stationary(n, seed, pareto_life(200.0 / n as f64), uniform_size)),
    ("pareto-both", |n, seed| stationary(n, seed, pareto_life(200.0 / n as f64), pareto_size)),
    ("powers-of-two", |n, seed| stationary(n, seed, exponential_life(1000.0 / n as f64), power_size)),
    ("few-sizes", |n, seed| stationary(n, seed, exponential_life(1000.0 / n as f64), few_size)),
    ("equal-lives", |n, seed| stationary(n, seed, |_| 1000.0 / 20_000.0, uniform_size)),
    ("heap", |n, seed| stationary(n, seed, heap_life(n), heap_size)),
    ("full", full),
    ("training", training),
    ("layers", layers),
    ("bursts", bursts),
    ("waves", waves),
    ("huge-and-tiny", |n, seed| stationary(n, seed, exponential_life(2000.0 / n as f64), huge_size)),
    ("nested", nested),
    ("aligned", aligned),
    ("cut", |n, seed| cut(n, seed, 1 << 40)),
    ("cut-ties", |n, seed| cut(n, seed, n as u64)),
    ("cut-missing", |n, seed| missing(cut(n, seed, 1 << 40), seed)),
    ("exchange", |n, seed| exchange(n, seed, 3)),
    ("exchange-many", |n, seed| exchange(n, seed, 8)),
    ("alike", alike),
    ("staircase", staircase),
    ("few-lives", |n, seed| stationary(n, seed, few_life(n), uniform_size)),
    ("two-kinds", |n, seed| stationary(n, seed, exponential_life(1000.0 / n as f64), two_size)),
];

/// Numbers that look random.
struct Chance(u64);

impl Chance {
    /// Of all 64-bit words (splitmix64).
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    /// Above 0, up to 1.
    fn part(&mut self) -> f64 {
        ((self.word() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    fn exponential(&mut self) -> f64 {
        -self.part().ln()
    }

    fn pareto(&mut self, alpha: f64) -> f64 {
        self.part().powf(-1.0 / alpha)
    }
}

/// Times of a problem.
const TIME: u64 = 1 << 30;

fn plain(lower: u64, upper: u64, size: u64) -> Buffer {
    Buffer { lower, upper, size, alignment: 1, gaps: Vec::new() }
}

/// Births at any time; lives as parts of the whole.
fn stationary(
    n: usize,
    seed: u64,
    life: impl Fn(&mut Chance) -> f64,
    size: impl Fn(&mut Chance) -> u64,
) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let buffer = |_| {
        let lower = chance.below(TIME);
        let life = (life(&mut chance).min(1.0) * TIME as f64) as u64;
        plain(lower, (lower + 1 + life).min(TIME + 1), size(&mut chance))
    };
    (0..n).map(buffer).collect()
}

fn uniform_life(most: f64) -> impl Fn(&mut Chance) -> f64 {
    move |chance| chance.part() * most
}

fn exponential_life(mean: f64) -> impl Fn(&mut Chance) -> f64 {
    move |chance| chance.exponential() * mean
}

fn pareto_life(least: f64) -> impl Fn(&mut Chance) -> f64 {
    move |chance| chance.pareto(1.3) * least
}

/// Most die at once, some after a while, few stay.
fn heap_life(n: usize) -> impl Fn(&mut Chance) -> f64 {
    let n = n as f64;
    move |chance| {
        let mean = [20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 20.0, 400.0, 400.0, 20_000.0][chance.below(10) as usize];
        chance.exponential() * mean / n
    }
}

fn uniform_size(chance: &mut Chance) -> u64 {
    1 + chance.below(1 << 20)
}

fn pareto_size(chance: &mut Chance) -> u64 {
    (chance.pareto(1.1) * 100.0).min(1e6) as u64
}

fn power_size(chance: &mut Chance) -> u64 {
    256 << chance.below(11)
}

fn few_size(chance: &mut Chance) -> u64 {
    [768, 1024, 3072, 4096, 12_288, 50_257, 65_536, 196_608][chance.below(8) as usize]
}

fn heap_size(chance: &mut Chance) -> u64 {
    let spread = (0..6).map(|_| chance.part()).sum::<f64>() - 3.0;
    ((spread * 2.0).exp() * 100.0) as u64 / 16 * 16 + 16
}

fn few_life(n: usize) -> impl Fn(&mut Chance) -> f64 {
    move |chance| [10.0, 100.0, 1000.0, 10_000.0][chance.below(4) as usize] / n as f64
}

/// One in ten is large.
fn two_size(chance: &mut Chance) -> u64 {
    if chance.below(10) == 0 { (50 << 20) + chance.below(1 << 24) } else { uniform_size(chance) }
}

/// One in a thousand has a thousand times the bytes.
fn huge_size(chance: &mut Chance) -> u64 {
    let unit = 1 + chance.below(4096);
    if chance.below(1000) == 0 { unit * 1000 } else { unit }
}

/// The load is nearly the same all the time: whenever one dies others are born.
fn full(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let (mut done, mut alive, mut load) = (Vec::new(), Vec::<Buffer>::new(), 0);
    for time in 0.. {
        while load < 500 << 20 {
            let size = uniform_size(&mut chance);
            alive.push(plain(time, time + 1, size));
            load += size;
        }
        if done.len() + alive.len() >= n {
            done.extend(alive.iter().map(|b| Buffer { upper: time + 1, ..b.clone() }));
            break;
        }
        let gone = alive.swap_remove(chance.below(alive.len() as u64) as usize);
        load -= gone.size;
        done.push(Buffer { upper: time + 1, ..gone });
    }
    done
}

/// Forward and backward: what is kept on the way there dies on the way back, with scratch at each layer.
fn training(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let kinds: Vec<u64> = (0..7).map(|_| (1 + chance.below(64)) * 4096).collect();
    let layers = (n / 10) as u64;
    let mut buffers = Vec::with_capacity(n);
    for layer in 0..layers {
        let (there, back) = (layer * 4, (2 * layers - layer) * 4);
        for (i, size) in kinds.iter().enumerate() {
            let i = i as u64;
            match i {
                0..4 => buffers.push(plain(there + i % 3, back + i % 2 + 1, *size)),
                // Gradients go on to the layer before; the others are scratch.
                4 => buffers.push(plain(back, back + 5, *size)),
                _ => {
                    buffers.push(plain(there + i % 3, there + i % 3 + 1 + chance.below(3), *size));
                    buffers.push(plain(back + i % 3, back + i % 3 + 1 + chance.below(3), size + 512 * chance.below(9)));
                }
            }
        }
        buffers.push(plain(there, 8 * layers + 8, 512 * (1 + chance.below(20))));
    }
    buffers
}

/// Layers whose results are read by the next ones, and some much later.
fn layers(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let buffer = |i| {
        let life = match chance.below(10) {
            0 => 10 + chance.below(3000),
            1..4 => 3 + chance.below(60),
            _ => 1 + chance.below(6),
        };
        plain(i, i + 1 + life, (1 + chance.below(16)) * (256 << chance.below(6)))
    };
    (0..n as u64).map(buffer).collect()
}

/// Much is born at a time, and each burst dies for the most part at another.
fn bursts(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let mut buffers = Vec::with_capacity(n);
    while buffers.len() < n {
        let (from, life) = (chance.below(1 << 20), 1 + chance.below(1 << 17));
        for _ in 0..(20 + chance.below(400)).min((n - buffers.len()) as u64) {
            let lower = from + chance.below(64);
            let late = if chance.below(5) == 0 { chance.below(1 << 17) } else { chance.below(64) };
            buffers.push(plain(lower, lower + 64 + life + late, uniform_size(&mut chance)));
        }
    }
    buffers
}

/// The load rises and falls ten times to nearly the same height.
fn waves(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let buffer = |_| {
        let wave = chance.below(10) * (TIME / 10);
        let births = (chance.part() + chance.part()) / 2.0;
        let lower = wave + (births * TIME as f64 / 10.0) as u64;
        plain(lower, lower + 1 + (chance.exponential() * TIME as f64 / 100.0) as u64, uniform_size(&mut chance))
    };
    (0..n).map(buffer).collect()
}

/// Calls within calls: what is born last dies first, but for one in eight, which stays on.
fn nested(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let (mut buffers, mut open, mut time) = (Vec::with_capacity(n), Vec::new(), 0);
    while buffers.len() + open.len() < n {
        time += 1;
        if open.len() < 2000 && (open.is_empty() || chance.below(2) == 0) {
            open.extend((0..1 + chance.below(4)).map(|_| (time, uniform_size(&mut chance))));
        } else {
            for _ in 0..(1 + chance.below(4)).min(open.len() as u64) {
                if let Some((lower, size)) = open.pop() {
                    let late = if chance.below(8) == 0 { chance.below(2000) } else { 0 };
                    buffers.push(plain(lower, time + late, size));
                }
            }
        }
    }
    buffers.extend(open.into_iter().map(|(lower, size)| plain(lower, time + 1, size)));
    buffers
}

/// Sizes that are no multiples of the alignment of all.
fn aligned(n: usize, seed: u64) -> Vec<Buffer> {
    let mut buffers = stationary(n, seed, exponential_life(1000.0 / n as f64), uniform_size);
    for buffer in &mut buffers {
        buffer.alignment = 512;
    }
    buffers
}

/// A rectangle cut again and again, in time or in addresses, where its parts are large: all fit without a hole.
fn cut(n: usize, seed: u64, times: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let mut parts = vec![(0, times, 0, 1 << 40)];
    while parts.len() < n {
        let (i, j) = (chance.below(parts.len() as u64) as usize, chance.below(parts.len() as u64) as usize);
        let area = |i: usize| u128::from(parts[i].1 - parts[i].0) * u128::from(parts[i].3 - parts[i].2);
        let i = if area(i) > area(j) { i } else { j };
        let (lower, upper, from, to): (u64, u64, u64, u64) = parts[i];
        if chance.below(2) == 0 && upper - lower > 1 {
            let middle = lower + 1 + chance.below(upper - lower - 1);
            parts[i] = (lower, middle, from, to);
            parts.push((middle, upper, from, to));
        } else if to - from > 1 {
            let middle = from + 1 + chance.below(to - from - 1);
            parts[i] = (lower, upper, from, middle);
            parts.push((lower, upper, middle, to));
        }
    }
    shuffled(parts.iter().map(|(lower, upper, from, to)| plain(*lower, *upper, to - from)).collect(), &mut chance)
}

/// A row of blocks without a hole; at each moment up to so many neighbours die, and their range is cut anew.
fn exchange(n: usize, seed: u64, most: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let mut row: Vec<(u64, u64)> = (0..500).map(|_| (uniform_size(&mut chance), 0)).collect();
    let (mut buffers, mut time) = (Vec::with_capacity(n), 0);
    while buffers.len() + row.len() < n {
        time += 1;
        let from = chance.below(row.len() as u64) as usize;
        let to = row.len().min(from + 1 + chance.below(most) as usize);
        let bytes: u64 = row[from..to].iter().map(|b| b.0).sum();
        buffers.extend(row[from..to].iter().map(|(size, lower)| plain(*lower, time, *size)));
        // More of them while there are few.
        let cuts = if row.len() < 500 { to - from } else { to - from - 1 };
        let mut ends: Vec<u64> = (0..cuts).map(|_| chance.below(bytes)).chain([0, bytes]).collect();
        ends.sort_unstable();
        ends.dedup();
        row.splice(from..to, ends.windows(2).map(|e| (e[1] - e[0], time)));
    }
    buffers.extend(row.into_iter().map(|(size, lower)| plain(lower, time + 1, size)));
    shuffled(buffers, &mut chance)
}

/// One in a hundred is not there.
fn missing(mut buffers: Vec<Buffer>, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(!seed);
    buffers.retain(|_| chance.below(100) > 0);
    buffers
}

fn shuffled(mut buffers: Vec<Buffer>, chance: &mut Chance) -> Vec<Buffer> {
    for i in (1..buffers.len()).rev() {
        buffers.swap(i, chance.below(i as u64 + 1) as usize);
    }
    buffers
}

/// Many of one life.
fn alike(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let mut buffers = Vec::with_capacity(n);
    while buffers.len() < n {
        let lower = chance.below(TIME);
        let upper = lower + 1 + (chance.exponential() * TIME as f64 / 16.0) as u64;
        let some = (1 + chance.below(100)).min((n - buffers.len()) as u64);
        buffers.extend((0..some).map(|_| plain(lower, upper, uniform_size(&mut chance))));
    }
    buffers
}

/// Sizes rise and lives are equal: what dies is never enough for what is born.
fn staircase(n: usize, seed: u64) -> Vec<Buffer> {
    let mut chance = Chance(seed);
    let steps = (n as u64).div_ceil(300);
    let buffer = |i| plain(i / steps, i / steps + 1 + chance.below(20), (1 + chance.below(1000)) * (1 + i / steps));
    (0..n as u64).map(buffer).collect()
}
