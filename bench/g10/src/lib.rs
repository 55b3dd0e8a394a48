//! G10's training workloads (Zhang et al., MICRO 2023) as lifetimes, a strict check of schedules, and workloads like them.

pub mod check;
pub mod make;
pub mod programs;
pub mod read;
