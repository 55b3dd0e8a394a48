//! Chooses offsets for buffers whose lives are fixed: dynamic storage allocation.
//!
//! Reads:    when each buffer is alive, its size and alignment; a capacity.
//! Decides:  one offset for each buffer.
//! Promises: buffers alive together share no byte and end within the capacity; or a proof that they cannot; or, where
//!           the effort is used up, the lowest layout met. Effort is counted in work, so the answer is always the same.
//! Why:      sweeps take a fraction of a second and mostly suffice. What they leave open is cut where nothing lives
//!           on, and searched in several orders in turn: none is good everywhere, and a good one ends soon.

pub mod repair;
pub mod search;
pub mod sections;
pub mod sweep;

use search::{Failures, Key, Problem, Search, Standing};
use sweep::{Fit, Plan, Stack};

/// A buffer: when it is alive and how many bytes it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// First time at which it is alive.
    pub lower: u64,
    /// First time at which it is not any more; above `lower`.
    pub upper: u64,
    /// Bytes.
    pub size: u64,
    /// Its offset is a multiple of this, which is at least 1.
    pub alignment: u64,
    /// Half-open ranges of time within its life, and not all of it, in which it needs no bytes: in order, apart.
    pub gaps: Vec<(u64, u64)>,
}

impl Buffer {
    /// The ranges of time in which it holds its bytes.
    pub fn active(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let starts = std::iter::once(self.lower).chain(self.gaps.iter().map(|g| g.1));
        let ends = self.gaps.iter().map(|g| g.0).chain(std::iter::once(self.upper));
        starts.zip(ends).filter(|(from, to)| from < to)
    }

    fn is_sound(&self) -> bool {
        let mut end = self.lower;
        let gaps_in_order = self.gaps.iter().all(|(from, to)| {
            let follows = end <= *from && from < to && *to <= self.upper;
            end = *to;
            follows
        });
        self.alignment > 0 && gaps_in_order && self.active().next().is_some()
    }
}

/// What is known of the capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The layout is within it.
    Fits,
    /// No layout is: so many bytes are alive at one time.
    Overloaded(u128),
    /// No layout is: the search has ended.
    Refuted,
    /// The effort is used up.
    Open,
}

/// The lowest layout met, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// What is known of the capacity.
    pub verdict: Verdict,
    /// By buffer.
    pub at: Vec<u64>,
    /// End of the highest.
    pub height: u64,
    /// The largest sum of sizes alive at one time; no layout is lower.
    pub peak: u64,
    /// Choices looked at by searches.
    pub nodes: u64,
}

/// Input that no layout is sought for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A buffer that breaks what its fields promise.
    #[error("buffer {0} is never alive, has alignment 0, or has gaps out of order or outside its life")]
    Unsound(usize),
    /// Sums that cannot be counted.
    #[error("sizes and alignments add up to more than can be counted")]
    TooLarge,
}

/// Orders that are searched in turn.
const ORDERS: [[Key; 3]; 6] = [
    [Key::Load, Key::Width, Key::Area],
    [Key::Load, Key::Area, Key::Width],
    [Key::Width, Key::Area, Key::Load],
    [Key::Sections, Key::Load, Key::Size],
    [Key::Area, Key::Width, Key::Load],
    [Key::Load, Key::Size, Key::Width],
];

/// Sweeps, the ones that mostly end lowest first.
const SWEEPS: [(Stack, Fit); 4] = [
    (Stack::Birth, Fit { hundredths: 2 }),
    (Stack::Birth, Fit { hundredths: 10 }),
    (Stack::Size, Fit { hundredths: 2 }),
    (Stack::Death, Fit { hundredths: 2 }),
];

/// What a layout may be above the load, as a part of it, before more is tried, whatever the capacity.
const NEAR: u64 = 200;

/// Work of a search's first turn; each turn is longer by half than the one before.
const TURN: u64 = 1 << 20;

/// Pairs of buffers alive together that a search may hold.
const PAIRS: u64 = 1 << 24;

/// Places in sections that a search may hold.
const PLACES: usize = 1 << 22;

/// Finds offsets within `capacity`. The effort bounds the searches; sweeps are always made.
pub fn solve(buffers: &[Buffer], capacity: u64, effort: u64) -> Result<Answer, Refused> {
    if let Some(unsound) = buffers.iter().position(|b| !b.is_sound()) {
        return Err(Refused::Unsound(unsound));
    }
    let total: u128 = buffers.iter().map(|b| u128::from(b.size) + u128::from(b.alignment)).sum();
    if total > u128::from(u64::MAX / 4) {
        return Err(Refused::TooLarge);
    }
    // In order of birth, without what takes no bytes.
    let mut order: Vec<usize> = (0..buffers.len()).filter(|i| buffers[*i].size > 0).collect();
    order.sort_by_key(|i| (buffers[*i].lower, buffers[*i].upper, buffers[*i].size, *i));
    let sorted: Vec<Buffer> = order.iter().map(|i| buffers[*i].clone()).collect();
    let (peak, _) = sections::peak(&sorted);
    let mut layout = swept(&sorted, capacity);
    let mut nodes = 0;
    let verdict = if peak > u128::from(capacity) {
        Verdict::Overloaded(peak)
    } else if height(&sorted, &layout) <= capacity {
        Verdict::Fits
    } else {
        let mut left = effort;
        improve(&sorted, capacity.min(total as u64), &mut layout, &mut left, &mut nodes)
    };
    let mut at = vec![0; buffers.len()];
    for (i, offset) in order.iter().zip(&layout) {
        at[*i] = *offset;
    }
    Ok(Answer { verdict, height: height(buffers, &at), at, peak: peak as u64, nodes })
}

/// End of the highest buffer.
fn height(buffers: &[Buffer], at: &[u64]) -> u64 {
    buffers.iter().zip(at).filter(|(b, _)| b.size > 0).map(|(b, at)| at + b.size).max().unwrap_or(0)
}

/// The lowest of several sweeps, repaired; or the first within the capacity and hardly above the load.
fn swept(buffers: &[Buffer], capacity: u64) -> Vec<u64> {
    let (peak, moment) = sections::peak(buffers);
    let peak = peak as u64;
    let goal = capacity.min(peak + peak / NEAR).max(peak);
    let plan = Plan::new(buffers, moment);
    let mut best: Option<(u64, Vec<u64>)> = None;
    for (stack, fit) in SWEEPS {
        let at = plan.sweep(stack, fit);
        let found = height(buffers, &at);
        if best.as_ref().is_none_or(|(height, _)| found < *height) {
            best = Some((found, at));
        }
        if found <= goal {
            break;
        }
    }
    let mut at = best.map_or_else(Vec::new, |(_, at)| at);
    repair::repair(buffers, goal, peak, &mut at);
    at
}

/// Searches each part of time that a layout leaves too high.
fn improve(buffers: &[Buffer], capacity: u64, layout: &mut [u64], left: &mut u64, nodes: &mut u64) -> Verdict {
    let mut verdict = Verdict::Fits;
    for part in parts(buffers) {
        let (some, at) = (&buffers[part.clone()], &mut layout[part]);
        let own = swept(some, capacity);
        if height(some, &own) < height(some, at) {
            at.copy_from_slice(&own);
        }
        if height(some, at) <= capacity {
            continue;
        }
        match searched(some, capacity, at, left, nodes) {
            Standing::Found => {}
            Standing::Failed => return Verdict::Refuted,
            Standing::Open => verdict = Verdict::Open,
        }
    }
    verdict
}

/// Runs of buffers, in order of birth, that no other is alive with.
fn parts(buffers: &[Buffer]) -> Vec<std::ops::Range<usize>> {
    let (mut parts, mut first, mut end) = (Vec::new(), 0, 0);
    for (i, buffer) in buffers.iter().enumerate() {
        if buffer.lower >= end && i > first {
            parts.push(first..i);
            first = i;
        }
        end = end.max(buffer.upper);
    }
    parts.extend((first < buffers.len()).then_some(first..buffers.len()));
    parts
}

/// Searches in several orders in turn; what is found replaces the layout, and so does what is merely lower.
fn searched(buffers: &[Buffer], capacity: u64, at: &mut [u64], left: &mut u64, nodes: &mut u64) -> Standing {
    if pairs(buffers) > PAIRS {
        return Standing::Open;
    }
    let Some(sections) = sections::sections(buffers, PLACES) else { return Standing::Open };
    let problem = Problem::new(buffers, &sections, capacity);
    let mut searches = ORDERS.map(|keys| Search::new(&problem, keys));
    let mut failures = Failures::default();
    let mut turn = TURN;
    while *left > 0 {
        for search in &mut searches {
            let before = (search.work, search.nodes);
            let standing = search.run(turn.min(*left), &mut failures);
            *left = left.saturating_sub(search.work - before.0);
            *nodes += search.nodes - before.1;
            match standing {
                Standing::Found => at.copy_from_slice(search.offsets()),
                Standing::Failed => dive(buffers, &sections, at),
                Standing::Open => continue,
            }
            return standing;
        }
        turn += turn / 2;
    }
    dive(buffers, &sections, at);
    Standing::Open
}

/// Takes the first layout of each order where it is lower.
fn dive(buffers: &[Buffer], sections: &sections::Sections, at: &mut [u64]) {
    let room = buffers.iter().map(|b| b.size + b.alignment).sum();
    let problem = Problem::new(buffers, sections, room);
    for keys in ORDERS {
        let mut search = Search::new(&problem, keys);
        let found = search.run(TURN * 64, &mut Failures::default()) == Standing::Found;
        if found && height(buffers, search.offsets()) < height(buffers, at) {
            at.copy_from_slice(search.offsets());
        }
    }
}

/// How many pairs are alive together, taken without gaps.
fn pairs(buffers: &[Buffer]) -> u64 {
    let mut ends: Vec<u64> = buffers.iter().map(|b| b.upper).collect();
    ends.sort_unstable();
    let mut dead = 0;
    let mut pairs = 0;
    for (i, buffer) in buffers.iter().enumerate() {
        dead += ends[dead..].iter().take_while(|end| **end <= buffer.lower).count();
        pairs += (i - dead) as u64;
    }
    pairs
}
