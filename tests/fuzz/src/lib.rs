//! What berth reads and makes, from any bytes: fuzz targets, generators, and a driver that needs no fuzzer.

pub mod choices;
pub mod drive;
pub mod make;
pub mod mutate;
pub mod targets;
