//! Runs a verified memory program on a device: copies beside compute, at the addresses that the program chose.

pub mod engine;
