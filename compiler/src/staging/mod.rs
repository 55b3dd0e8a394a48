//! Machines whose memories reach the device through a staging memory: pageable memory, a budget of pinned buffers, a GPU.
//!
//! A plan is made as if the memories at both ends were joined (`ways`); then each copy between them is taken through the
//! staging memory, in pieces (`pieces`).

mod pieces;
mod ways;

pub(crate) use pieces::{PIECES, staged};
pub use ways::{Joined, joined};
