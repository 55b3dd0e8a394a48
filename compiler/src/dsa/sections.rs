//! Cuts time into sections: the sets of buffers that are alive together.
//!
//! Reads:    the buffers' active ranges of time.
//! Decides:  nothing.
//! Promises: two buffers share a section just where they are alive together; no section is within a neighbour.
//! Why:      every rule about room is a rule about one section; fewer of them means less work at each node.

use super::Buffer;

/// Buffers by section and sections by buffer.
#[derive(Clone, Debug, Default)]
pub struct Sections {
    /// The buffers alive in each section, in increasing order.
    pub members: Vec<Vec<u32>>,
    /// The sections of each buffer, in increasing order.
    pub of: Vec<Vec<u32>>,
}

/// One end of an active range: the time, whether it is a birth, the buffer. Deaths come first.
fn events(buffers: &[Buffer]) -> Vec<(u64, bool, u32)> {
    let mut events = Vec::new();
    for (i, buffer) in buffers.iter().enumerate() {
        for (from, to) in buffer.active() {
            events.push((from, true, i as u32));
            events.push((to, false, i as u32));
        }
    }
    events.sort_unstable();
    events
}

/// The sections of these buffers; `None` where they hold more than `most` places in all.
pub fn sections(buffers: &[Buffer], most: usize) -> Option<Sections> {
    let mut found = Sections { members: Vec::new(), of: vec![Vec::new(); buffers.len()] };
    let mut alive = std::collections::BTreeSet::new();
    let (mut grown, mut places) = (false, 0);
    for (_, birth, i) in events(buffers) {
        if birth {
            alive.insert(i);
            grown = true;
            continue;
        }
        if grown {
            places += alive.len();
            if places > most {
                return None;
            }
            for member in &alive {
                found.of[*member as usize].push(found.members.len() as u32);
            }
            found.members.push(alive.iter().copied().collect());
            grown = false;
        }
        alive.remove(&i);
    }
    Some(found)
}

/// The largest sum of sizes alive at one time, and the first such time.
pub fn peak(buffers: &[Buffer]) -> (u128, u64) {
    peak_of(buffers, |b| b.size)
}

/// The same of other sizes.
pub fn peak_of(buffers: &[Buffer], bytes: impl Fn(&Buffer) -> u64) -> (u128, u64) {
    let (mut load, mut most, mut moment) = (0u128, 0, 0);
    for (time, birth, i) in events(buffers) {
        let bytes = u128::from(bytes(&buffers[i as usize]));
        load = if birth { load + bytes } else { load - bytes };
        if load > most {
            (most, moment) = (load, time);
        }
    }
    (most, moment)
}
