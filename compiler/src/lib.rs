//! From an ONNX graph and a machine to a memory program. Each module is one step; none knows the step after it.

pub mod baseline;
pub mod bound;
pub mod buckets;
pub mod caches;
pub mod cost;
pub mod dsa;
pub mod emit;
mod engines;
pub mod import;
pub mod layers;
pub mod lower;
pub mod machine;
pub mod margin;
pub mod offset;
pub mod order;
pub mod plan;
pub mod residency;
pub mod rewrite;
pub mod room;
mod share;
pub mod simulate;
pub mod spill;
pub mod stay;
mod step;
pub mod stream;
pub mod task_model;
pub mod twins;
