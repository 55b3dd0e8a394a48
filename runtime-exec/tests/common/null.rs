//! An engine whose tasks mix their operands' bytes into their outputs, or do nothing at all.

#![allow(unsafe_code, reason = "an engine reads and writes at the addresses that it is bound to")]

use berth_runtime_exec::engine::{BindingId, Engine, EngineError, Measured, SessionId, StopFlag, Stopper, TaskCode};
use std::sync::Arc;
use std::time::Duration;

/// Writes words that depend on every word of the operands and on its place.
pub fn mix(inputs: &[&[u8]], output: &mut [u8]) {
    let mut state = 1u32;
    for input in inputs {
        for word in input.as_chunks::<4>().0 {
            state = (state ^ u32::from_le_bytes(*word)).wrapping_mul(0x0100_0193).rotate_left(5);
        }
    }
    for word in output.as_chunks_mut::<4>().0 {
        state = state.wrapping_mul(0x0100_0193).wrapping_add(7);
        *word = state.to_le_bytes();
    }
}

/// What a binding is: address and bytes of each port.
struct Bound {
    inputs: Vec<(*mut u8, usize)>,
    outputs: Vec<(*mut u8, usize)>,
}

/// The engine.
pub struct Null {
    bound: Vec<Bound>,
    /// Whether it computes.
    pub mixes: bool,
    /// How long a task takes at least.
    pub takes: Duration,
    /// Asked at the start of each run.
    pub before: Option<Box<dyn FnMut() -> Result<(), EngineError> + Send>>,
    /// What a stop sets.
    pub stop: Arc<dyn StopFlag>,
}

// SAFETY: addresses are used in `run` alone, where the caller says that they may be.
unsafe impl Send for Null {}

impl Null {
    pub fn new(mixes: bool) -> Null {
        Null { bound: Vec::new(), mixes, takes: Duration::ZERO, before: None, stop: Arc::new(Never) }
    }
}

struct Never;

impl StopFlag for Never {
    fn set(&self, _: bool) {}
}

impl Engine for Null {
    fn prepare(&mut self, _: &TaskCode) -> Result<SessionId, EngineError> {
        Ok(SessionId::new(0))
    }

    fn measure(
        &mut self,
        _: SessionId,
        _: &TaskCode,
        _: &mut [u8],
        _: u32,
        _: &mut dyn FnMut(),
    ) -> Result<Measured, EngineError> {
        Ok(Measured { workspace_bytes: 0, run_nanos: 0, kept_bytes: 0, loading_bytes: 0, found: Vec::new() })
    }

    unsafe fn bind(
        &mut self,
        _: SessionId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<BindingId, EngineError> {
        let ports = |ports: &[berth_runtime_exec::engine::Port], addresses: &[*mut u8]| {
            let sizes = ports.iter().map(|port| port.bytes().expect("a size") as usize);
            addresses.iter().copied().zip(sizes).collect()
        };
        self.bound.push(Bound { inputs: ports(&code.inputs, inputs), outputs: ports(&code.outputs, outputs) });
        Ok(BindingId::new(self.bound.len() as u32 - 1))
    }

    unsafe fn rebind(
        &mut self,
        binding: BindingId,
        code: &TaskCode,
        inputs: &[*mut u8],
        outputs: &[*mut u8],
    ) -> Result<(), EngineError> {
        let bound = &mut self.bound[binding.place() as usize];
        let ports = code.inputs.iter().zip(inputs).zip(&mut bound.inputs);
        let ports = ports.chain(code.outputs.iter().zip(outputs).zip(&mut bound.outputs));
        for ((port, address), bound) in ports {
            *bound = (*address, port.bytes().expect("a size") as usize);
        }
        Ok(())
    }

    fn unbind(&mut self, _: BindingId) {}

    unsafe fn run(&mut self, binding: BindingId, _: (*mut u8, usize)) -> Result<(), EngineError> {
        if !self.takes.is_zero() {
            std::thread::sleep(self.takes);
        }
        if let Some(before) = &mut self.before {
            before()?;
        }
        if !self.mixes {
            return Ok(());
        }
        let bound = &self.bound[binding.place() as usize];
        for (address, bytes) in &bound.outputs {
            let mut output = [0; 1024];
            // SAFETY: the caller promises that the operands are valid and nobody's while this runs.
            unsafe {
                let mut operands: [&[u8]; 4] = [&[]; 4];
                for (operand, (address, bytes)) in operands.iter_mut().zip(&bound.inputs) {
                    *operand = std::slice::from_raw_parts(*address, *bytes);
                }
                mix(&operands, &mut output[..*bytes]);
                std::slice::from_raw_parts_mut(*address, *bytes).copy_from_slice(&output[..*bytes]);
            }
        }
        Ok(())
    }

    fn found(&self, _: BindingId) -> &[Vec<u64>] {
        &[]
    }

    fn stopper(&self) -> Stopper {
        Stopper::new(self.stop.clone())
    }
}
