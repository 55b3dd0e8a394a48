//! Tasks whose sizes only a run knows: what the data decide, and dims that were left open, some of which grow in each step.
//!
//! Such a task is bound anew for each run, at the same addresses: its berths have room for the most that it can hold. A
//! size that the run itself finds is adopted for the tasks after it.

#![allow(unsafe_code, reason = "passes on to the engine what the executor promises; writes values of its own")]

use crate::engine::{BindingId, Engine, EngineError, TaskCode};
use crate::executor::{Operand, TaskPorts};
use berth_ir::expr::Binding;
use berth_ir::{DType, Expr};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The sizes that each step knows. All of a step ends before the next but one begins, so two are kept.
#[derive(Debug)]
pub(crate) struct Dims {
    steps: [Mutex<Sizes>; 2],
    growing: Vec<Growing>,
}

/// The sizes of a step.
#[derive(Debug)]
pub(crate) struct Sizes {
    step: usize,
    pub known: Binding,
}

/// A dim that is larger in each step.
#[derive(Debug)]
struct Growing {
    dim: String,
    /// In the first step, and before it.
    first: u64,
    by: u64,
}

impl Dims {
    /// With what is known from the start, of the first step; some dims grow by so much in each.
    pub fn new(dims: Binding, growth: &BTreeMap<String, u64>) -> Dims {
        let growing = growth.iter().filter_map(|(dim, by)| {
            let first = *dims.get(dim)?;
            Some(Growing { dim: dim.clone(), first, by: *by })
        });
        let sizes = |step| Mutex::new(Sizes { step, known: dims.clone() });
        Dims { growing: growing.collect(), steps: [sizes(0), sizes(1)] }
    }

    /// What a step knows by now. Step zero is the prologue, which has the sizes of the first.
    pub fn of(&self, step: usize) -> MutexGuard<'_, Sizes> {
        let mut sizes = self.steps[step % 2].lock().unwrap_or_else(PoisonError::into_inner);
        if sizes.step != step {
            sizes.step = step;
            for Growing { dim, first, by } in &self.growing {
                let grown = by.saturating_mul(step.saturating_sub(1) as u64);
                if let Some(size) = sizes.known.get_mut(dim) {
                    *size = first.saturating_add(grown);
                }
            }
        }
        sizes
    }
}

/// A task at its addresses.
#[derive(Debug)]
pub(crate) struct Bound {
    pub binding: BindingId,
    /// Where sizes are not fixed.
    pub open: Option<Open>,
}

/// What binding again takes.
#[derive(Debug)]
pub(crate) struct Open {
    ports: TaskPorts,
    /// The code with the shapes of the last run.
    code: TaskCode,
    /// By port, inputs first.
    shapes: Vec<Vec<Expr>>,
    /// Where each port is, and the bytes there.
    places: Places,
    /// Memory of known inputs, in the order of the ports.
    known: Vec<Vec<u64>>,
}

/// Addresses, and the bytes at each.
#[derive(Debug)]
struct Places {
    addresses: Vec<*mut u8>,
    bytes: Vec<u64>,
}

// SAFETY: addresses are no more than numbers until an engine is given them, which `Bound::run` says when it may be.
unsafe impl Send for Places {}

impl Bound {
    /// Runs the task in a step.
    ///
    /// # Safety
    /// As [`Engine::bind`] and [`Engine::run`], for the most that each port can be.
    pub unsafe fn run<E: Engine>(
        &mut self,
        engine: &mut E,
        workspace: (*mut u8, usize),
        dims: &Dims,
        step: usize,
    ) -> Result<(), EngineError> {
        let Some(open) = &mut self.open else {
            // SAFETY: passed on from the caller.
            return unsafe { engine.run(self.binding, workspace) };
        };
        open.size(&dims.of(step).known)?;
        let (inputs, outputs) = open.places.addresses.split_at(open.code.inputs.len());
        // SAFETY: passed on from the caller; no port is larger than its place, as `size` has checked.
        unsafe {
            engine.rebind(self.binding, &open.code, inputs, outputs)?;
            engine.run(self.binding, workspace)?;
        }
        open.adopt(engine.found(self.binding), &mut dims.of(step).known)
    }
}

impl Open {
    /// A task that is bound again for each run. `places` are address and bytes by port; addresses as numbers.
    pub fn new(ports: &TaskPorts, shapes: Vec<Vec<Expr>>, places: &[(usize, u64)], known: Vec<Vec<u64>>) -> Open {
        let places = Places {
            addresses: places.iter().map(|(address, _)| *address as *mut u8).collect(),
            bytes: places.iter().map(|(_, bytes)| *bytes).collect(),
        };
        Open { code: ports.code.clone(), ports: ports.clone(), shapes, places, known }
    }

    /// Gives the code the shapes of this run, each of which fits its place, and writes the inputs that follow from sizes.
    fn size(&mut self, sizes: &Binding) -> Result<(), EngineError> {
        let Open { ports, code, shapes, places, known } = self;
        let task = &ports.code.name;
        let wrong = |what: String| EngineError::Ports { task: task.clone(), what };
        let live = code.inputs.iter_mut().chain(&mut code.outputs);
        for ((port, shape), room) in live.zip(shapes.iter()).zip(&places.bytes) {
            if !port.found {
                port.shape.clear();
                for axis in shape {
                    let size = axis.eval(sizes).ok().and_then(|size| u64::try_from(size).ok());
                    port.shape.push(size.ok_or_else(|| {
                        let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
                        let axes = axes.join(", ");
                        wrong(format!("`{}` has the shape [{axes}], which no size is known for", port.name))
                    })?);
                }
            }
            if port.bytes().is_none_or(|bytes| bytes > *room) {
                let (task, port_name) = (task.clone(), port.name.clone());
                let (shape, most_bytes) = (port.shape.clone(), *room);
                return Err(EngineError::TooLarge { task, port: port_name, shape, most_bytes });
            }
        }
        let inputs = ports.inputs.iter().zip(&ports.code.inputs).filter_map(|(operand, port)| match operand {
            Operand::Known(elements) => Some((elements, port)),
            Operand::Access(_) => None,
        });
        for ((elements, port), words) in inputs.zip(known) {
            for (place, element) in elements.iter().enumerate() {
                let value = element.eval(sizes).ok();
                value
                    .and_then(|value| encode(value, port.dtype, words, place))
                    .ok_or_else(|| wrong(format!("`{}` has the element {element}, which is no number", port.name)))?;
            }
        }
        Ok(())
    }

    /// Takes the sizes that a run found for those of the dims that it makes.
    fn adopt(&self, found: &[Vec<u64>], sizes: &mut Binding) -> Result<(), EngineError> {
        let wrong = |what: String| EngineError::Ports { task: self.ports.code.name.clone(), what };
        let outputs = self.ports.code.outputs.iter().zip(&self.shapes[self.ports.code.inputs.len()..]);
        let makes = || outputs.clone().filter(|(port, _)| port.found).zip(found);
        for ((port, shape), found) in makes() {
            for (axis, size) in shape.iter().zip(found) {
                // A dim that the task makes may stand from the step before last: it is found anew.
                match axis.as_dim().map(|dim| (dim, sizes.get_mut(dim))) {
                    Some((_, Some(known))) => *known = *size,
                    Some((dim, None)) => {
                        sizes.insert(dim.to_owned(), *size);
                    }
                    None if axis.as_constant().is_some_and(|n| n != i128::from(*size)) => {
                        return Err(wrong(format!("`{}` came out as {found:?}, {axis} was planned", port.name)));
                    }
                    None => {}
                }
            }
        }
        // Two outputs may say the same dim, and must agree.
        for ((port, shape), found) in makes() {
            for (axis, size) in shape.iter().zip(found) {
                let Some((dim, now)) = axis.as_dim().and_then(|dim| Some((dim, *sizes.get(dim)?))) else { continue };
                if now != *size {
                    return Err(wrong(format!("`{dim}` came out as {now} and as {size} (`{}`)", port.name)));
                }
            }
        }
        Ok(())
    }
}

/// Writes an integer as this type has it, as the so many-th of some memory.
fn encode(value: i128, dtype: DType, words: &mut [u64], place: usize) -> Option<()> {
    let (bits, value) = match dtype {
        DType::I64 => (64, i64::try_from(value).ok()? as u64),
        DType::I32 => (32, u64::from(i32::try_from(value).ok()? as u32)),
        DType::Bool => (8, u64::from(value != 0)),
        _ => return None,
    };
    let at = place * bits;
    let word = words.get_mut(at / 64)?;
    let mask = u64::MAX >> (64 - bits) << (at % 64);
    // The first byte of a word is its lowest.
    *word = (u64::from_le(*word) & !mask | value << (at % 64)).to_le();
    Some(())
}
