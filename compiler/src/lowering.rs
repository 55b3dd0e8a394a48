//! Chooses which weights are kept in memories below, to be streamed from there.
//!
//! Reads:    lifetimes, machine, what else lies below.
//! Decides:  candidates, by weight: its home or a memory below.
//! Promises: nothing is kept where there is no room for it, but for fragments; keeping none is the first candidate.
//! Why:      a memory whose link is faster than that of the files is filled first; but links work side by side, so where
//!           several reach the device each is given the weights that it brings in the same time.

use crate::residency::{Choice, stays};
use crate::site::Site;
use crate::stay::Level;
use berth_ir::program::Kind;
use berth_ir::target::Link;
use berth_ir::units::{Bytes, BytesPerSec};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Choices that a search must be able to try, before shared links are worth them.
const SHARED_CHOICES: usize = 16;

impl Site<'_> {
    /// By tensor where it is kept: none anywhere but in its home; as many as there is room for where that gives the device its
    /// bytes faster; as many as keep all links to the device busy.
    pub fn lowerings(&self, base: &Choice) -> Vec<Vec<Option<Level>>> {
        let (none, machine) = (base.lowered.clone(), &self.machine);
        let rate = |link: Option<&Link>| link.map(|link| machine.rate_along(link));
        let home = rate(machine.home_to_device);
        // Without a way from files to the device all are in the lower memory, if nothing keeps them elsewhere.
        let other = home.is_some() || !machine.further.is_empty();
        let keeps = |level: &Level| machine.from_home(*level).is_some() && other;
        if !machine.below().any(|level| keeps(&level)) {
            return vec![none];
        }
        let Some(beside) = self.beside(base) else { return vec![none] };
        let rooms = machine.below().zip(beside).filter(|(level, _)| keeps(level)).filter_map(|(level, held)| {
            let room = machine.tier(level)?.room().0.saturating_sub(held);
            Some((rate(machine.to_device(level))?, level, room))
        });
        let mut rooms: Vec<(BytesPerSec, Level, u64)> = rooms.collect();
        rooms.sort_by_key(|(rate, level, _)| (Reverse(*rate), *level));
        let faster = rooms.iter().filter(|(rate, ..)| home.is_none_or(|home| *rate > home)).copied().collect();
        let filled = self.filled(faster);
        let mut groups = BTreeSet::new();
        let links = machine.home_to_device.into_iter().chain(machine.below().filter_map(|l| machine.to_device(l)));
        links.for_each(|link| _ = groups.insert(link.group.as_deref().unwrap_or(&link.name)));
        let shared = match groups.len() > 1 && self.choices() >= SHARED_CHOICES {
            true => self.shared(home, rooms),
            false => none.clone(),
        };
        let mut all = vec![none];
        for some in [filled, shared] {
            if !all.contains(&some) {
                all.push(some);
            }
        }
        all
    }

    /// Bytes of each memory below that weights cannot have: what is put aside there, and what its engine reads.
    fn beside(&self, base: &Choice) -> Option<Vec<u64>> {
        let mut stays = stays(self.lifetimes, &self.machine, &Choice { window: 0, ..base.clone() });
        stays.retain(|s| s.level.is_below() && (!self.is_weight(s) || !s.uses.is_empty()));
        Some(self.below(&mut stays)?.iter().map(|offsets| offsets.height).collect())
    }

    /// Each memory with as many as it has room for.
    fn filled(&self, mut rooms: Vec<(BytesPerSec, Level, u64)>) -> Vec<Option<Level>> {
        let mut kept = vec![None; self.lifetimes.tensors.len()];
        // The last to be pinned are the first to be streamed: keep those below.
        for tensor in self.spread_order().into_iter().rev() {
            kept[tensor] = rooms.iter_mut().find_map(|(_, level, room)| self.take(tensor, *level, room));
        }
        kept
    }

    /// Each weight where it would be there first, in the order of their uses.
    fn shared(&self, home: Option<BytesPerSec>, mut rooms: Vec<(BytesPerSec, Level, u64)>) -> Vec<Option<Level>> {
        let mut kept = vec![None; self.lifetimes.tensors.len()];
        let (mut from_home, mut busy) = (0u64, vec![0u64; rooms.len()]);
        let mut weights = self.spread_order();
        let uses = self.lifetimes.uses();
        weights.sort_by_key(|t| (uses[*t][0], *t));
        for tensor in weights.into_iter().filter(|t| self.lifetimes.tensors[*t].kind == Kind::Weight) {
            let bytes = Bytes(self.lifetimes.tensors[tensor].bytes);
            let end = |busy: u64, rate: BytesPerSec| busy.saturating_add(bytes.at(rate).0);
            let stays = home.map_or(u64::MAX, |rate| end(from_home, rate));
            let mut order: Vec<(u64, usize)> =
                rooms.iter().zip(&busy).map(|((rate, ..), busy)| end(*busy, *rate)).zip(0..).collect();
            order.retain(|(end, _)| *end <= stays);
            order.sort_unstable();
            for (end, n) in order {
                let (_, level, room) = &mut rooms[n];
                kept[tensor] = self.take(tensor, *level, room);
                if kept[tensor].is_some() {
                    busy[n] = end;
                    break;
                }
            }
            if kept[tensor].is_none() {
                from_home = stays;
            }
        }
        kept
    }

    /// Takes room for a tensor in a memory, if there is enough.
    fn take(&self, tensor: usize, level: Level, room: &mut u64) -> Option<Level> {
        let alignment = self.machine.tier(level).map_or(1, |tier| tier.alignment);
        *room = room.checked_sub(self.lifetimes.tensors[tensor].bytes.next_multiple_of(alignment))?;
        Some(level)
    }
}
