//! Runs a verified memory program on a device: copies beside compute, each byte where the program put it.
//!
//! This crate knows no model and plans nothing.

pub mod arena;
pub mod engine;
pub mod errors;
pub mod executor;
mod open;
pub mod pack;
pub mod store;
