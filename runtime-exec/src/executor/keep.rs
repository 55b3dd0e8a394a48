//! Weights that engines keep: read once, when a program is loaded, and packed into the engine's part of the arena.

#![allow(unsafe_code, reason = "gives engines the ranges that the verifier has proved to be nobody else's")]

use crate::arena::Arena;
use crate::engine::{Engine, SessionId};
use crate::errors::LoadError;
use crate::executor::TaskPorts;
use crate::executor::load::mismatch;
use crate::store::{Layout, Places, Store, Wanted};
use berth_ir::program::{Home, Program};

/// A weight in the block that comes with a task's model.
#[derive(Clone, Debug)]
pub struct Weight {
    /// For people: errors name it.
    pub name: String,
    /// Where its bytes are.
    pub home: Home,
    /// Its first byte in the block.
    pub from: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// The block of so many bytes that comes with a task's model, read from files.
pub fn block(places: &Places, weights: &[Weight], bytes: u64) -> Result<Arena, LoadError> {
    let memory = || LoadError::Memory { tier: "weights that an engine keeps".to_owned(), bytes };
    let block = Arena::new(bytes).ok_or_else(memory)?;
    let wanted = |weight: &Weight| Wanted {
        what: weight.name.clone(),
        file: weight.home.file.clone(),
        layout: Layout { offset: weight.home.offset, strip: weight.home.strip, transposed: weight.home.transposed },
        bytes: weight.bytes,
    };
    let in_files = weights.iter().filter(|weight| weight.home.filled.is_none());
    let (store, sources) = Store::open(places, &in_files.map(wanted).collect::<Vec<_>>())?;
    let mut sources = sources.into_iter();
    for weight in weights {
        // SAFETY: the block is this function's own, and no slice of it lives on.
        let to = unsafe { block.slice_mut(weight.from, weight.bytes) };
        let to = to.ok_or_else(|| mismatch(&weight.name, 0, "it lies outside its block".to_owned()))?;
        if let Some(filled) = weight.home.filled {
            let element = &filled.bits.to_le_bytes()[..filled.element.clamp(1, 8) as usize];
            to.chunks_mut(element.len()).for_each(|c| c.copy_from_slice(&element[..c.len()]));
        } else if let Some(source) = sources.next() {
            store.read_now(source, to, &weight.name)?;
        }
    }
    Ok(block)
}

/// What the engines of a program may keep, and where.
pub(crate) struct Room<'a> {
    pub program: &'a Program,
    pub arenas: &'a [Arena],
    pub places: &'a Places,
}

impl Room<'_> {
    /// Has an engine take the weights of a task, where it holds some.
    pub fn keep<E: Engine>(
        &self,
        engine: &mut E,
        task: usize,
        ports: &TaskPorts,
    ) -> Result<Option<SessionId>, LoadError> {
        let of = &self.program.tasks[task];
        let differs = |problem: String| mismatch(&of.name, 0, problem);
        let (Some(held), code) = (&of.held, &ports.code) else {
            let other = || differs("its code has weights of its own, the program none".to_owned());
            return if ports.kept.is_empty() { Ok(None) } else { Err(other()) };
        };
        let mut weights = Vec::new();
        for (name, from) in &ports.kept {
            let tensor = held.weights.iter().find(|weight| *weight == name);
            let tensor = tensor.and_then(|name| self.program.tensors.iter().find(|tensor| tensor.name == *name));
            let bytes = tensor.and_then(|t| u64::try_from(t.bytes.as_constant()?).ok());
            let home = tensor.and_then(|t| t.home.clone());
            let (Some(home), Some(bytes)) = (home, bytes) else {
                return Err(differs(format!("the program does not hold `{name}` for it")));
            };
            weights.push(Weight { name: name.clone(), home, from: *from, bytes });
        }
        if weights.len() != held.weights.len() {
            let (has, wants) = (held.weights.len(), weights.len());
            return Err(differs(format!("the program holds {has} weights for it, its code wants {wants}")));
        }
        let mut arenas = self.program.arenas.iter().zip(self.arenas);
        let arena = arenas.find(|(arena, _)| arena.tier == held.arena).map(|(_, arena)| arena);
        let room = arena.and_then(|arena| arena.address(held.offset, held.bytes));
        let room = room.ok_or_else(|| differs("what it holds lies outside its arena".to_owned()))?;
        let block = block(self.places, &weights, code.kept)?;
        // SAFETY: the range is in an arena that goes after the engine's session, and nobody else's: rule 19.
        let keeping = unsafe {
            let weights = block.slice(0, code.kept).unwrap_or_default();
            engine.keep(code, weights, Some((room, held.bytes as usize)))?
        };
        Ok(Some(keeping.session))
    }
}
