//! What the `berth` command does, apart from its words: files of arrays, comparisons, seeded weights and inputs.

pub mod beside;
pub mod buffers;
pub mod calibrate;
pub mod cli;
pub mod commands;
pub mod compare;
pub mod failure;
mod fast;
pub mod files;
pub mod live;
pub mod machine;
pub mod measure;
pub mod model;
pub mod npz;
pub mod observed;
mod quickest;
mod rehearsal;
pub mod seed;
mod sides;
pub mod slow;
pub mod split;
pub mod standing;
pub mod summary;
pub mod trace;
