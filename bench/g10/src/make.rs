//! Makes training steps of the form of G10's, from a seed: forward, loss, backward, update.

use berth_ir::lifetime::{Lifetimes, Task, Tensor, TensorId};
use berth_ir::program::Kind;
use berth_ir::units::Nanos;
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

const PAGE: u64 = 4096;

/// A step in the making.
struct Maker {
    lifetimes: Lifetimes,
    state: u64,
}

impl Maker {
    /// A number in a range, both ends included (Steele et al. 2014, SplitMix64).
    fn random(&mut self, low: u64, high: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        low + (z ^ (z >> 31)) % (high - low + 1)
    }

    fn tensor(&mut self, kind: Kind, pages: u64) -> TensorId {
        let bytes = pages * PAGE;
        let tensors = &mut self.lifetimes.tensors;
        let name = format!("t{}", tensors.len());
        let extent = Expr::constant(i128::from(bytes));
        tensors.push(Tensor { name, kind, dtype: DType::U8, extent, bytes, home: None, aliases: Vec::new() });
        TensorId(tensors.len() as u32 - 1)
    }

    fn task(&mut self, reads: &[TensorId], writes: &[TensorId]) {
        let moved: u64 = reads.iter().chain(writes).map(|t| self.lifetimes.tensor(*t).bytes).sum();
        // From a kernel that does nothing but read and write to one that computes for a hundred times as long.
        let cost = Nanos(1_000 + moved / 1_000 * self.random(1, 100) / 10);
        let workspace = if self.random(0, 3) == 0 { self.random(1, 40) * PAGE } else { 0 };
        let name = format!("{}.task", self.lifetimes.tasks.len());
        let (reads, writes) = (reads.to_vec(), writes.to_vec());
        let (rows, in_place) = (Vec::new(), Vec::new());
        self.lifetimes.tasks.push(Task {
            name,
            ops: Vec::new(),
            reads,
            writes,
            rows,
            in_place,
            workspace,
            cost,
            others: Vec::new(),
            held: None,
        });
    }
}

/// A training step of a seed: some MiB alive at once.
pub fn step(seed: u64) -> Lifetimes {
    layered(seed, 3..=24)
}

/// The same with a number of layers in a range.
pub fn layered(seed: u64, layers: RangeInclusive<u64>) -> Lifetimes {
    let lifetimes = Lifetimes { model: String::new(), dims: BTreeMap::new(), tensors: Vec::new(), tasks: Vec::new() };
    let mut m = Maker { lifetimes, state: seed };
    let layers = m.random(*layers.start(), *layers.end());
    let kernels = m.random(1, 4);
    let (weight, value) = (m.random(4, 200), m.random(4, 200));
    let mut x = m.tensor(Kind::Input, value);
    let mut forward = Vec::new();
    for _ in 0..layers {
        let pages = weight * m.random(1, 4) / 2 + 1;
        let w = m.tensor(Kind::State, pages);
        let mut kept = vec![x];
        for kernel in 0..kernels {
            let pages = value * m.random(1, 4) / 2 + 1;
            let y = m.tensor(Kind::Activation, pages);
            if kernel == 0 {
                m.task(&[x, w], &[y])
            } else {
                m.task(&[x], &[y])
            }
            x = y;
            // Not everything is read again on the way back.
            if m.random(0, 2) > 0 {
                kept.push(y);
            }
        }
        forward.push((w, kept));
    }
    let mut down = m.tensor(Kind::Activation, value);
    m.task(&[x], &[down]);
    for (w, kept) in forward.into_iter().rev() {
        for y in kept.into_iter().rev() {
            let pages = value * m.random(1, 4) / 2 + 1;
            let next = m.tensor(Kind::Activation, pages);
            m.task(&[down, y], &[next]);
            down = next;
        }
        let gradient = m.tensor(Kind::Activation, m.lifetimes.tensor(w).bytes / PAGE);
        m.task(&[down, w], &[gradient]);
        m.task(&[gradient, w], &[w]);
    }
    m.lifetimes
}
