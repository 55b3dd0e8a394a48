//! Runs operators once more, so that what they make need not be held until it is read again.
//!
//! Reads:    the graph, what it was lowered to, a room.
//! Decides:  which results are made again, for which of their readers.
//! Promises: the same inputs and outputs, bit for bit: only operators that give the same for the same are run again, on the
//!           same operands. The same graph and room give the same.
//! Why:      what is held over a peak sets the least capacity where nothing can be put aside, and where it can, leaving and
//!           coming back takes a link longer than a cheap operator takes an engine (Chen et al. 2016; Checkmate, Jain et
//!           al. 2020, which solve it for training).

mod choose;
mod held;
mod put;

pub use choose::{Wanted, chosen};
pub use put::{BadRecompute, put};
