//! Tasks whose sizes only a run knows: what the data decide, and dims that were left open.
//!
//! Such a task is bound anew for each run, at the same addresses: its berths have room for the most that it can hold. A
//! size that the run itself finds is adopted for the tasks after it.

#![allow(unsafe_code, reason = "passes on to the engine what the executor promises; writes values of its own")]

use crate::engine::{BindingId, Engine, EngineError, TaskCode};
use crate::executor::{Operand, TaskPorts};
use berth_ir::expr::Binding;
use berth_ir::{DType, Expr};
use std::sync::{Mutex, PoisonError};

/// The sizes that each step knows. All of a step ends before the next but one begins, so two are kept.
#[derive(Debug)]
pub(crate) struct Dims {
    steps: [Mutex<Binding>; 2],
}

impl Dims {
    /// With what is known from the start.
    pub fn new(dims: Binding) -> Dims {
        Dims { steps: [Mutex::new(dims.clone()), Mutex::new(dims)] }
    }

    /// What a step knows by now.
    pub fn of(&self, step: usize) -> Binding {
        self.steps[step % 2].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn adopt(&self, step: usize, dims: Binding) {
        *self.steps[step % 2].lock().unwrap_or_else(PoisonError::into_inner) = dims;
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
    pub ports: TaskPorts,
    /// By port, inputs first.
    pub shapes: Vec<Vec<Expr>>,
    /// Address and bytes there, by port; addresses as numbers, for threads.
    pub places: Vec<(usize, u64)>,
    /// Memory of known inputs, in the order of the ports.
    pub known: Vec<Vec<u64>>,
}

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
        let mut sizes = dims.of(step);
        let code = open.code(&sizes)?;
        open.write_known(&sizes)?;
        let addresses: Vec<*mut u8> = open.places.iter().map(|(address, _)| *address as *mut u8).collect();
        let (inputs, outputs) = addresses.split_at(code.inputs.len());
        // SAFETY: passed on from the caller; no port is larger than its place, as `code` has checked.
        unsafe {
            engine.rebind(self.binding, &code, inputs, outputs)?;
            engine.run(self.binding, workspace)?;
        }
        open.adopt(engine.found(self.binding), &mut sizes)?;
        dims.adopt(step, sizes);
        Ok(())
    }
}

impl Open {
    fn wrong(&self, what: String) -> EngineError {
        EngineError::Ports { task: self.ports.code.name.clone(), what }
    }

    /// The code with the shapes of this run, each of which fits its place.
    fn code(&self, sizes: &Binding) -> Result<TaskCode, EngineError> {
        let mut code = self.ports.code.clone();
        let ports = code.inputs.iter_mut().chain(&mut code.outputs);
        for ((port, shape), (_, room)) in ports.zip(&self.shapes).zip(&self.places) {
            if !port.found {
                let axes = shape.iter().map(|axis| u64::try_from(axis.eval(sizes).ok()?).ok());
                let axes: Option<Vec<u64>> = axes.collect();
                port.shape = axes.ok_or_else(|| {
                    let axes: Vec<String> = shape.iter().map(ToString::to_string).collect();
                    self.wrong(format!(
                        "`{}` has the shape [{}], which no size is known for",
                        port.name,
                        axes.join(", ")
                    ))
                })?;
            }
            if port.bytes().is_none_or(|bytes| bytes > *room) {
                let (task, port_name) = (self.ports.code.name.clone(), port.name.clone());
                let (shape, most_bytes) = (port.shape.clone(), *room);
                return Err(EngineError::TooLarge { task, port: port_name, shape, most_bytes });
            }
        }
        Ok(code)
    }

    /// Writes the inputs that follow from sizes into their memory.
    fn write_known(&mut self, sizes: &Binding) -> Result<(), EngineError> {
        let known = self.ports.inputs.iter().zip(&self.ports.code.inputs).filter_map(|(operand, port)| match operand {
            Operand::Known(elements) => Some((elements, port)),
            Operand::Access(_) => None,
        });
        let mut all = Vec::new();
        for (elements, port) in known {
            let mut bytes = Vec::with_capacity(elements.len() * 8);
            for element in elements {
                let value = element.eval(sizes).ok().and_then(|value| encode(value, port.dtype, &mut bytes));
                value.ok_or_else(|| {
                    self.wrong(format!("`{}` has the element {element}, which is no number", port.name))
                })?;
            }
            all.push(bytes);
        }
        for (bytes, words) in all.iter().zip(&mut self.known) {
            for (chunk, word) in bytes.chunks(8).zip(words.iter_mut()) {
                let mut eight = [0; 8];
                eight[..chunk.len()].copy_from_slice(chunk);
                *word = u64::from_le_bytes(eight);
            }
        }
        Ok(())
    }

    /// Takes the sizes that a run found for those of the dims that it makes.
    fn adopt(&self, found: &[Vec<u64>], sizes: &mut Binding) -> Result<(), EngineError> {
        let outputs = self.ports.code.outputs.iter().zip(&self.shapes[self.ports.code.inputs.len()..]);
        let makes = outputs.clone().filter(|(port, _)| port.found);
        // A dim that the task makes may stand from the step before last: it is found anew.
        let mut new = Binding::new();
        for ((port, shape), found) in makes.zip(found) {
            for (axis, size) in shape.iter().zip(found) {
                if let Some(dim) = axis.as_dim() {
                    let first = *new.entry(dim.to_owned()).or_insert(*size);
                    if first != *size {
                        return Err(self.wrong(format!("`{dim}` came out as {first} and as {size} (`{}`)", port.name)));
                    }
                    sizes.insert(dim.to_owned(), *size);
                } else if axis.as_constant().is_some_and(|n| n != i128::from(*size)) {
                    return Err(self.wrong(format!("`{}` came out as {found:?}, {axis} was planned", port.name)));
                }
            }
        }
        Ok(())
    }
}

/// Adds an integer as this type has it.
fn encode(value: i128, dtype: DType, bytes: &mut Vec<u8>) -> Option<()> {
    match dtype {
        DType::I64 => bytes.extend(i64::try_from(value).ok()?.to_le_bytes()),
        DType::I32 => bytes.extend(i32::try_from(value).ok()?.to_le_bytes()),
        DType::Bool => bytes.push(u8::from(value != 0)),
        _ => return None,
    }
    Some(())
}
