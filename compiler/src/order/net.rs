//! Tasks and what they hold, without names: the whole of a step, or a run of tasks cut out of an order of it.
//!
//! A state is held throughout. Another tensor is held from its first user to its last, whoever writes it, so what is held is
//! a cut function of the tasks that are done: it reads the same backwards, and a piece that is turned round is a piece.

use berth_ir::lifetime::Lifetimes;
use berth_ir::program::Kind;
use std::ops::Range;

/// A tensor, or what of it falls into a piece.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    pub bytes: u64,
    /// The tasks of the piece that use it, rising.
    pub users: Vec<u32>,
    /// Whether a task before the piece uses it.
    pub before: bool,
    /// Whether a task after the piece uses it.
    pub after: bool,
}

/// Tasks, numbered in an order that is allowed. Equal pieces have equal answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Piece {
    /// Bytes that are held throughout and that no task of the piece uses.
    pub base: u128,
    pub workspace: Vec<u64>,
    pub tensors: Vec<Held>,
    /// By task: the tensors that it uses.
    pub operands: Vec<Vec<u32>>,
    /// By task: those that must have run.
    pub preds: Vec<Vec<u32>>,
    /// By task: those that wait for it.
    pub succs: Vec<Vec<u32>>,
}

impl Piece {
    /// All tasks of a step; of each tensor of it, its id. `after` are pairs of tasks of which the second needs the first,
    /// beside what tensors say.
    pub fn whole(lifetimes: &Lifetimes, after: &[(usize, usize)]) -> (Piece, Vec<u32>) {
        let mut whole = Piece::default();
        let mut place = vec![u32::MAX; lifetimes.tensors.len()];
        let mut ids = Vec::new();
        for (n, task) in (0u32..).zip(&lifetimes.tasks) {
            let mut operands = Vec::new();
            for id in task.operands().filter(|id| lifetimes.tensor(*id).kind != Kind::Weight) {
                let place = &mut place[id.index()];
                let bytes = lifetimes.tensor(id).bytes;
                if lifetimes.tensor(id).kind == Kind::State {
                    whole.base += if *place == u32::MAX { u128::from(bytes) } else { 0 };
                    *place = 0;
                    continue;
                }
                if *place == u32::MAX {
                    *place = ids.len() as u32;
                    ids.push(id.0);
                    whole.tensors.push(Held { bytes, users: Vec::new(), before: false, after: false });
                }
                // Each once, even where a task names it twice.
                if !operands.contains(place) {
                    whole.tensors[*place as usize].users.push(n);
                    operands.push(*place);
                }
            }
            whole.operands.push(operands);
            whole.workspace.push(task.workspace);
        }
        whole.set_preds(needs(lifetimes, after));
        (whole, ids)
    }

    fn set_preds(&mut self, preds: Vec<Vec<u32>>) {
        self.succs = vec![Vec::new(); preds.len()];
        for (n, before) in (0u32..).zip(&preds) {
            before.iter().for_each(|p| self.succs[*p as usize].push(n));
        }
        self.preds = preds;
    }

    /// Number of tasks.
    pub fn len(&self) -> usize {
        self.workspace.len()
    }

    /// The tasks of an order that stand in a range of it. `profile` is that order's; `place` is where each task stands.
    pub fn cut(&self, order: &[u32], place: &[u32], profile: &Profile, range: Range<usize>) -> Piece {
        let (first, end) = (range.start as u32, range.end as u32);
        let inside = |task: &u32| (first..end).contains(&place[*task as usize]);
        let mut piece = Piece { base: profile.live[range.start], ..Piece::default() };
        let mut tensors: Vec<u32> = Vec::new();
        for task in &order[range.clone()] {
            tensors.extend(&self.operands[*task as usize]);
            piece.workspace.push(self.workspace[*task as usize]);
        }
        piece.operands = vec![Vec::new(); range.len()];
        // By the place of their users, so that repeated layers give equal pieces whatever their tensors' numbers are.
        let mut seen = std::collections::HashSet::new();
        tensors.retain(|t| seen.insert(*t));
        for t in tensors {
            let t = &self.tensors[t as usize];
            let mut users: Vec<u32> =
                t.users.iter().filter(|u| inside(u)).map(|u| place[*u as usize] - first).collect();
            users.sort_unstable();
            let before = t.before || t.users.iter().any(|u| place[*u as usize] < first);
            let after = t.after || t.users.iter().any(|u| place[*u as usize] >= end);
            if before {
                piece.base -= u128::from(t.bytes);
            }
            for user in &users {
                piece.operands[*user as usize].push(piece.tensors.len() as u32);
            }
            piece.tensors.push(Held { bytes: t.bytes, users, before, after });
        }
        let local = |task: &u32| {
            let preds = self.preds[*task as usize].iter().filter(|p| inside(p));
            let mut preds: Vec<u32> = preds.map(|p| place[*p as usize] - first).collect();
            preds.sort_unstable();
            preds
        };
        piece.set_preds(order[range].iter().map(local).collect());
        piece
    }

    /// The same, last task first: its orders are the orders of this one, turned round, and they hold the same.
    pub fn turned(&self) -> Piece {
        let last = self.len().saturating_sub(1) as u32;
        let all = |lists: &[Vec<u32>]| lists.iter().rev().map(|l| l.iter().rev().map(|t| last - t).collect()).collect();
        let one = |t: &Held| Held {
            bytes: t.bytes,
            users: t.users.iter().rev().map(|u| last - u).collect(),
            before: t.after,
            after: t.before,
        };
        Piece {
            base: self.base,
            workspace: self.workspace.iter().rev().copied().collect(),
            tensors: self.tensors.iter().map(one).collect(),
            operands: self.operands.iter().rev().cloned().collect(),
            preds: all(&self.succs),
            succs: all(&self.preds),
        }
    }

    /// By number of tasks done: whether these are the same tasks in every order, as one of them is before or after each
    /// other task.
    pub fn cuts(&self) -> Vec<bool> {
        let n = self.len();
        let mut cuts = vec![false; n + 1];
        (cuts[0], cuts[n]) = (true, true);
        // Every earlier task is an ancestor if each has a successor that is not later; the same from the other side.
        let mut above = vec![n as u32; n];
        let mut last = 0;
        for (task, above) in above.iter_mut().enumerate() {
            *above = last;
            last = last.max(self.succs[task].iter().copied().min().unwrap_or(n as u32));
        }
        let mut below = n as u32;
        for task in (0..n).rev() {
            if above[task] <= task as u32 && below >= task as u32 {
                (cuts[task], cuts[task + 1]) = (true, true);
            }
            below = match self.preds[task].iter().copied().max() {
                Some(pred) => below.min(pred),
                None => return cuts,
            };
        }
        cuts
    }

    /// What an order of all tasks holds at each.
    pub fn profile(&self, order: &[u32]) -> Profile {
        let mut walk = Walk::new(self);
        let mut profile = Profile { held: Vec::with_capacity(order.len()), live: Vec::with_capacity(order.len() + 1) };
        for task in order {
            profile.live.push(walk.live);
            profile.held.push(walk.step(*task).held);
            walk.run(*task);
        }
        profile.live.push(walk.live);
        profile
    }
}

/// By task, those that it needs: the writer of what it reads, and before it writes again, all that used what was there.
fn needs(lifetimes: &Lifetimes, after: &[(usize, usize)]) -> Vec<Vec<u32>> {
    let mut writer: Vec<Option<u32>> = vec![None; lifetimes.tensors.len()];
    let mut readers: Vec<Vec<u32>> = vec![Vec::new(); lifetimes.tensors.len()];
    let mut needs: Vec<Vec<u32>> = Vec::with_capacity(lifetimes.tasks.len());
    for (n, task) in (0u32..).zip(&lifetimes.tasks) {
        let mut all: Vec<u32> = task.reads.iter().filter_map(|t| writer[t.index()]).collect();
        for written in &task.writes {
            all.extend(writer[written.index()].replace(n));
            all.append(&mut readers[written.index()]);
        }
        for read in task.reads.iter().filter(|r| !task.writes.contains(r)) {
            readers[read.index()].push(n);
        }
        needs.push(all);
    }
    for (first, then) in after {
        assert!(first < then, "the given order keeps what is asked of it");
        needs[*then].push(*first as u32);
    }
    for (n, all) in (0u32..).zip(&mut needs) {
        all.sort_unstable();
        all.dedup();
        all.retain(|other| *other != n);
    }
    needs
}

/// What an order holds.
#[derive(Clone, Debug)]
pub struct Profile {
    /// While each task runs, by place.
    pub held: Vec<u128>,
    /// Before each task, and at the end.
    pub live: Vec<u128>,
}

impl Profile {
    /// The most that is held in a range of places.
    pub fn peak(&self, range: Range<usize>) -> u128 {
        self.held[range].iter().copied().max().unwrap_or(0)
    }
}

/// What a task would do next.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Bytes held while it runs.
    pub held: u128,
    /// Bytes live after it.
    pub live: u128,
}

/// Some tasks done, one after the other.
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    piece: &'a Piece,
    /// By tensor: its users that are done.
    done: Vec<u32>,
    /// By task: what it still waits for.
    pub waits: Vec<u32>,
    /// Bytes that are live between two tasks.
    pub live: u128,
}

impl<'a> Walk<'a> {
    pub fn new(piece: &'a Piece) -> Walk<'a> {
        let before = piece.tensors.iter().filter(|t| t.before).map(|t| u128::from(t.bytes));
        Walk {
            piece,
            done: vec![0; piece.tensors.len()],
            waits: piece.preds.iter().map(|p| p.len() as u32).collect(),
            live: piece.base + before.sum::<u128>(),
        }
    }

    /// Users of a tensor that are done.
    pub fn done(&self, tensor: u32) -> u32 {
        self.done[tensor as usize]
    }

    pub fn step(&self, task: u32) -> Step {
        let (mut held, mut live) = (self.live + u128::from(self.piece.workspace[task as usize]), self.live);
        for t in &self.piece.operands[task as usize] {
            let (done, t) = (self.done[*t as usize] as usize, &self.piece.tensors[*t as usize]);
            let (fresh, last) = (!t.before && done == 0, !t.after && done + 1 == t.users.len());
            match (fresh, last) {
                (true, true) => held += u128::from(t.bytes),
                (true, false) => {
                    held += u128::from(t.bytes);
                    live += u128::from(t.bytes);
                }
                (false, true) => live -= u128::from(t.bytes),
                (false, false) => {}
            }
        }
        // A tensor that dies here leaves `live` only after others may have come: no step goes below zero.
        Step { held, live }
    }

    pub fn run(&mut self, task: u32) {
        self.live = self.step(task).live;
        self.piece.operands[task as usize].iter().for_each(|t| self.done[*t as usize] += 1);
        self.piece.succs[task as usize].iter().for_each(|s| self.waits[*s as usize] -= 1);
    }
}
