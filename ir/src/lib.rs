//! What graphs, machines and memory programs *are*, and the verifier that proves a program safe.
//!
//! This crate decides nothing and depends on no other crate of the project: a pass that wanted to
//! influence the verifier could not reach it.

pub mod beneath;
pub mod binary;
pub mod dtype;
pub mod expr;
pub mod fed;
pub mod graph;
pub mod lifetime;
pub mod lists;
pub mod program;
pub mod reuse;
pub mod target;
pub mod text;
pub mod units;
pub mod verify;

pub use dtype::DType;
pub use expr::Expr;
pub use graph::Graph;
pub use lifetime::Lifetimes;
pub use program::Program;
pub use target::Target;
pub use verify::{Verified, verify};
