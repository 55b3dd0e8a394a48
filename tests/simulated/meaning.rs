//! What a program means: all tasks one after the other, in the order of its table, each tensor in memory of its own.
//!
//! A task writes bytes that follow from the task and from all that it reads, so that whatever is wrong stays wrong.

use berth_ir::program::{Access, Home, Instruction, Kind, Program};
use std::collections::BTreeMap;

/// What must be seen in a run.
#[derive(Debug, Default)]
pub struct Meaning {
    /// By step and task: what stands for the bytes of each access that reads, then of each weight that is kept for it.
    pub reads: BTreeMap<(usize, usize), Vec<u64>>,
    /// By task: what stands for the weights that are kept for it.
    pub kept: BTreeMap<usize, Vec<u64>>,
    /// By step and tensor: the bytes of an output.
    pub outputs: BTreeMap<(usize, String), Vec<u8>>,
}

fn mix(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// Bytes that look like chance, the same for a seed.
pub fn fill(seed: u64, to: &mut [u8]) {
    for (n, word) in to.chunks_mut(8).enumerate() {
        let bytes = mix(seed.wrapping_add((n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes();
        word.copy_from_slice(&bytes[..word.len()]);
    }
}

/// What the file of weights has from a place on.
pub fn file(at: u64, to: &mut [u8]) {
    let word = |n: u64| mix(n ^ 0x5afe_f11e).to_le_bytes();
    let skip = (at % 8) as usize;
    let head = (8 - skip).min(to.len());
    to[..head].copy_from_slice(&word(at / 8)[skip..skip + head]);
    for (n, chunk) in to[head..].chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&word(at / 8 + 1 + n as u64)[..chunk.len()]);
    }
}

/// A number that stands for bytes.
pub fn print(bytes: &[u8]) -> u64 {
    let mut sum = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum = (sum ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    mix(sum)
}

/// From what the so many-th result of a task follows.
pub fn seed(task: usize, result: usize, reads: &[u64]) -> u64 {
    reads.iter().fold(mix((task * 8 + result) as u64 + 1), |sum, print| mix(sum.rotate_left(7) ^ print))
}

/// What the caller gives for an input in a step.
pub fn fed(tensor: &str, step: usize, to: &mut [u8]) {
    fill(print(tensor.as_bytes()) ^ mix(step as u64 + 77), to);
}

/// The bytes of a weight, from where it is at home.
fn weight(home: &Home, bytes: usize) -> Vec<u8> {
    let mut packed = vec![0; bytes];
    if let Some(filled) = home.filled {
        let element = &filled.bits.to_le_bytes()[..filled.element as usize];
        packed.chunks_mut(element.len()).for_each(|to| to.copy_from_slice(element));
        return packed;
    }
    match home.strip {
        None => file(home.offset, &mut packed),
        Some(strip) => {
            for (row, to) in packed.chunks_mut(strip.bytes as usize).enumerate() {
                file(home.offset + row as u64 * strip.pitch, to);
            }
        }
    }
    let Some(matrix) = home.transposed else { return packed };
    let (rows, columns, element) = (matrix.rows as usize, matrix.columns as usize, matrix.element as usize);
    let mut turned = vec![0; bytes];
    for row in 0..rows {
        for column in 0..columns {
            let (from, to) = ((row * columns + column) * element, (column * rows + row) * element);
            turned[to..to + element].copy_from_slice(&packed[from..from + element]);
        }
    }
    turned
}

/// What a program means over so many steps.
pub fn meaning(program: &Program, steps: usize) -> Meaning {
    let mut meaning = Meaning::default();
    let size = |tensor: usize| program.tensors[tensor].bytes.as_constant().expect("a number") as usize;
    let names: BTreeMap<&str, usize> = program.tensors.iter().enumerate().map(|(n, t)| (t.name.as_str(), n)).collect();
    let of_berth = |berth: &str| &program.berths.iter().find(|b| b.name == berth).expect("a berth").tensor;
    let mut values: Vec<Vec<u8>> = (0..program.tensors.len()).map(|tensor| vec![0; size(tensor)]).collect();
    for (value, tensor) in values.iter_mut().zip(&program.tensors).filter(|(_, tensor)| tensor.kind == Kind::Weight) {
        *value = weight(tensor.home.as_ref().expect("a home"), value.len());
    }
    for (n, held) in program.tasks.iter().enumerate().filter_map(|(n, task)| Some((n, task.held.as_ref()?))) {
        let prints = held.weights.iter().map(|weight| print(&values[names[weight.as_str()]]));
        meaning.kept.insert(n, prints.collect());
    }
    for step in 0..=steps {
        let code = if step == 0 { &program.prologue } else { &program.bodies[0].code };
        for instruction in code {
            if let Instruction::Feed { berth, .. } = instruction {
                let tensor = of_berth(berth);
                fed(tensor, step, &mut values[names[tensor.as_str()]]);
            }
        }
        for (n, task) in program.tasks.iter().enumerate() {
            let runs = |i: &Instruction| matches!(i, Instruction::Run { task: name, .. } if *name == task.name);
            if !code.iter().any(runs) {
                continue;
            }
            let place = |access: &Access| names[access.tensor()];
            let reads = task.accesses.iter().filter(|access| access.reads());
            let mut reads: Vec<u64> = reads.map(|access| print(&values[place(access)])).collect();
            reads.extend(meaning.kept.get(&n).into_iter().flatten());
            for (result, access) in task.accesses.iter().filter(|access| access.writes()).enumerate() {
                fill(seed(n, result, &reads), &mut values[place(access)]);
            }
            meaning.reads.insert((step, n), reads);
        }
        for instruction in code {
            if let Instruction::Fetch { berth, .. } = instruction {
                let tensor = of_berth(berth);
                meaning.outputs.insert((step, tensor.clone()), values[names[tensor.as_str()]].clone());
            }
        }
    }
    meaning
}
