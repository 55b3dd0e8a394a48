//! Chooses offsets for buffers whose lives are fixed: dynamic storage allocation.
//!
//! Reads:    when each buffer is alive, its size and alignment; a capacity.
//! Decides:  one offset for each buffer.
//! Promises: buffers alive together share no byte and end within the capacity; or a proof that they cannot; or, where
//!           the effort is used up, the lowest layout met. Effort is counted in work, so the answer is always the same.
//! Why:      sweeps take a fraction of a second and mostly suffice; where the load stays the same and nothing may be
//!           wasted, orders are left open or cuts undone instead. What this leaves open is cut where nothing lives on,
//!           and searched in several orders in turn: none is good everywhere, and a good one ends soon.

mod join;
mod peel;
pub mod repair;
pub mod search;
pub mod sections;
mod space;
pub mod sweep;
mod tight;
mod tree;

use search::{Failures, Key, Problem, Search, Standing};
use space::Fit;
use sweep::{Plan, Stack};

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
    /// A search was stopped from outside: the answer may be another the next time.
    pub cut: bool,
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
const SWEEPS: [(Stack, Fit); 12] = [
    (Stack::Ahead, Fit::within(30)),
    (Stack::Birth, Fit::within(10)),
    (Stack::Birth, Fit::within(2)),
    (Stack::Size, Fit::within(2)),
    (Stack::Death, Fit::within(10)),
    (Stack::Ahead, Fit::within(10)),
    (Stack::Size, Fit::within(10)),
    (Stack::Width, Fit::within(10)),
    (Stack::Birth, Fit::within(0)),
    (Stack::Birth, Fit::within(30)),
    (Stack::Death, Fit::within(30)),
    (Stack::Width, Fit::within(2)),
];

/// Buffers that are placed by sweeps in sum, before no further sweep begins; and by those that go back.
const SWEPT: usize = 300_000;
const CLIMBED: usize = 200_000;

/// Joined buffers are placed instead of the buffers where they are so many times fewer.
const JOINED: usize = 4;

/// What is large: at least one of so many parts of the peak.
const LARGE: [u64; 3] = [128, 32, 8];

/// What a layout may be above the load, as a part of it, before more is tried, whatever the capacity.
const NEAR: u64 = 200;

/// Work of a search's first turn; each turn is longer by half than the one before.
const TURN: u64 = 1 << 20;

/// Work between two questions whether to go on.
const SLICE: u64 = 1 << 20;

/// Buffers of one part that a search may hold: it would not end for more.
const SEARCHED: usize = 10_000;

/// Pairs of buffers alive together that a search may hold.
const PAIRS: u64 = 1 << 24;

/// Places in sections that a search may hold.
const PLACES: usize = 1 << 22;

/// What searches may still do, and what they did.
struct Effort<'a> {
    left: u64,
    nodes: u64,
    cut: bool,
    go: &'a mut dyn FnMut() -> bool,
}

impl Effort<'_> {
    /// Whether there is effort left, and nobody says stop.
    fn lasts(&mut self) -> bool {
        self.cut = self.cut || self.left > 0 && !(self.go)();
        self.left > 0 && !self.cut
    }

    /// Goes on with a search for a turn.
    fn turn(&mut self, search: &mut Search, work: u64, failures: &mut Failures) -> Standing {
        let (before, nodes) = (search.work, search.nodes);
        let mut standing = Standing::Open;
        while standing == Standing::Open && search.work - before < work && self.lasts() {
            let slice = SLICE.min(work - (search.work - before)).min(self.left);
            let begun = search.work;
            standing = search.run(slice, failures);
            self.left = self.left.saturating_sub(search.work - begun);
        }
        self.nodes += search.nodes - nodes;
        standing
    }
}

/// Finds offsets within `capacity`. The effort bounds the searches; sweeps and repairs are always made.
pub fn solve(buffers: &[Buffer], capacity: u64, effort: u64) -> Result<Answer, Refused> {
    solve_while(buffers, capacity, effort, &mut || true)
}

/// The same, as long as `go` says so; it is asked a few hundred times a second while searches last.
pub fn solve_while(
    buffers: &[Buffer],
    capacity: u64,
    effort: u64,
    go: &mut dyn FnMut() -> bool,
) -> Result<Answer, Refused> {
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
    let mut effort = Effort { left: effort, nodes: 0, cut: false, go };
    let verdict = if peak > u128::from(capacity) {
        Verdict::Overloaded(peak)
    } else if height(&sorted, &layout) <= capacity {
        Verdict::Fits
    } else {
        improve(&sorted, capacity.min(total as u64), &mut layout, &mut effort)
    };
    let mut at = vec![0; buffers.len()];
    for (i, offset) in order.iter().zip(&layout) {
        at[*i] = *offset;
    }
    Ok(Answer { verdict, height: height(buffers, &at), at, peak: peak as u64, nodes: effort.nodes, cut: effort.cut })
}

/// End of the highest buffer.
fn height(buffers: &[Buffer], at: &[u64]) -> u64 {
    buffers.iter().zip(at).filter(|(b, _)| b.size > 0).map(|(b, at)| at + b.size).max().unwrap_or(0)
}

/// The lowest of several sweeps, repaired; or the first within the capacity and hardly above the load.
fn swept(buffers: &[Buffer], capacity: u64) -> Vec<u64> {
    let (peak, moment) = sections::peak_of(buffers, whole(buffers));
    let peak = peak as u64;
    let goal = capacity.min(peak + peak / NEAR).max(peak);
    let mut best = Lowest { height: u64::MAX, at: Vec::new() };
    let mut plan = Plan::new(buffers, moment, &[]);
    let (mut stack, mut fit) = SWEEPS[0];
    for (own_stack, own_fit) in SWEEPS.into_iter().take((SWEPT / buffers.len().max(1)).max(1)) {
        let first = best.at.is_empty();
        if best.take(buffers, plan.sweep(own_stack, own_fit)) {
            (stack, fit) = (own_stack, own_fit);
        }
        if first
            && best.height > goal
            && let Some(at) = exchanged(buffers, peak)
        {
            best.take(buffers, at);
            if buffers.len() > SEARCHED {
                repair::repair(buffers, goal, peak, &mut best.at);
                return best.at;
            }
        }
        if best.height <= goal {
            return best.at;
        }
    }
    let mut placed = 0;
    for part in LARGE {
        let large = peel::large(buffers, peak / part + 1);
        if large.len() == placed {
            continue;
        }
        placed = large.len();
        let own = Plan::new(buffers, moment, &large);
        if best.take(buffers, own.sweep(stack, fit)) {
            plan = own;
        }
        if best.height <= goal {
            return best.at;
        }
    }
    let most = CLIMBED.max(buffers.len() * 2);
    best.take(buffers, plan.climb(stack, fit, (peak, goal), most));
    repair::repair(buffers, goal, peak, &mut best.at);
    best.at
}

/// A layout where most are born when just as many bytes die: by the orders that this leaves, or by joining what fits.
fn exchanged(buffers: &[Buffer], peak: u64) -> Option<Vec<u64>> {
    let first = buffers.first()?;
    let bytes = whole(buffers);
    if buffers.iter().any(|b| b.alignment != first.alignment) {
        return None;
    }
    let buffers: Vec<Buffer> = buffers.iter().map(|b| Buffer { size: bytes(b), ..b.clone() }).collect();
    if tight::exchanged(&buffers) < buffers.len() / 2 {
        return None;
    }
    if let Some(at) = tight::tight(&buffers, peak) {
        return Some(at);
    }
    let joined = join::Joined::new(&buffers);
    let (left, pieces) = joined.left();
    // Fewer by so much each time: this ends.
    let fewer = left.len() <= buffers.len() / JOINED;
    fewer.then(|| joined.offsets(&pieces, &swept(&left, peak), buffers.len()))
}

/// The bytes that a buffer takes: where all have one alignment, what is left to a multiple of it is of use to none, but
/// for the highest.
fn whole(buffers: &[Buffer]) -> impl Fn(&Buffer) -> u64 {
    let first = buffers.first().map_or(1, |b| b.alignment);
    let common = if buffers.iter().all(|b| b.alignment == first) { first } else { 1 };
    move |b| b.size.next_multiple_of(common)
}

/// The lowest layout so far.
struct Lowest {
    height: u64,
    at: Vec<u64>,
}

impl Lowest {
    /// Takes a layout if it is lower.
    fn take(&mut self, buffers: &[Buffer], at: Vec<u64>) -> bool {
        let height = height(buffers, &at);
        let lower = height < self.height;
        if lower {
            (self.height, self.at) = (height, at);
        }
        lower
    }
}

/// Searches each part of time that a layout leaves too high.
fn improve(buffers: &[Buffer], capacity: u64, layout: &mut [u64], effort: &mut Effort) -> Verdict {
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
        match searched(some, capacity, at, effort) {
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
fn searched(buffers: &[Buffer], capacity: u64, at: &mut [u64], effort: &mut Effort) -> Standing {
    if buffers.len() > SEARCHED || pairs(buffers) > PAIRS {
        return Standing::Open;
    }
    let Some(sections) = sections::sections(buffers, PLACES) else { return Standing::Open };
    let problem = Problem::new(buffers, &sections, capacity);
    let mut searches = ORDERS.map(|keys| Search::new(&problem, keys));
    let mut failures = Failures::default();
    let mut turn = TURN;
    while effort.lasts() {
        for search in &mut searches {
            match effort.turn(search, turn, &mut failures) {
                Standing::Found => at.copy_from_slice(search.offsets()),
                Standing::Failed => dive(buffers, &sections, at, effort),
                Standing::Open => continue,
            }
            return search.standing();
        }
        turn += turn / 2;
    }
    dive(buffers, &sections, at, effort);
    Standing::Open
}

/// Takes the first layout of each order where it is lower.
fn dive(buffers: &[Buffer], sections: &sections::Sections, at: &mut [u64], effort: &mut Effort) {
    let room = buffers.iter().map(|b| b.size + b.alignment).sum();
    let problem = Problem::new(buffers, sections, room);
    for keys in ORDERS {
        let mut search = Search::new(&problem, keys);
        // Beyond the effort, but not beyond what the clock allows.
        let mut own = Effort { left: TURN * 64, nodes: 0, cut: effort.cut, go: &mut *effort.go };
        let found = own.turn(&mut search, TURN * 64, &mut Failures::default()) == Standing::Found;
        effort.cut = own.cut;
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
