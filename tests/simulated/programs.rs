//! Programs by a seed: made by hand-written shapes, or planned by the compiler; of one to three tiers, one or two engines.

use crate::device::Rng;
use crate::made::planned;
use crate::make::{keep_weights, machine, make};
use crate::shapes::shape;
use berth_ir::program::{After, Class, Extent, Instruction, Program};
use berth_ir::units::Bytes;
use berth_ir::verify::{Verified, facts, verify};
use berth_ir::{Expr, Target};

/// The file that all weights lie in.
pub const FILE: &str = "w.bin";
/// Its bytes: none of them is on the disk.
pub const FILE_BYTES: u64 = 1 << 30;

/// A program, proved, and whether the compiler made it. Where `keeps`, engines keep weights for some of its tasks, if it has
/// any that could.
pub fn program(dice: &mut Rng, keeps: bool) -> (Verified<Program>, bool) {
    loop {
        let compiled = dice.below(2) == 0;
        let made = if compiled {
            planned(dice, keeps)
        } else {
            let mut shape = shape(dice);
            shape.second_body = false;
            let mut program = make(&shape);
            if keeps {
                keep_weights(&mut program);
            }
            Some((machine(), program))
        };
        let Some((mut target, mut program)) = made else { continue };
        scale(&mut target, &mut program, [1, 1, 16, 80][dice.below(4)]);
        place(&mut program, dice);
        urge(&mut program, dice);
        program.header.layout = target.layout_hash();
        program.facts = facts(&target, &program).expect("it can be counted");
        let proved = verify(&target, program, None);
        return (proved.unwrap_or_else(|found| panic!("a made program is refused: {found:?}")), compiled);
    }
}

/// Makes everything larger by a factor, so that copies take more than one chunk.
fn scale(target: &mut Target, program: &mut Program, by: u64) {
    target.tiers.iter_mut().for_each(|tier| tier.capacity = Bytes(tier.capacity.0 * by));
    program.header.memory.values_mut().for_each(|bytes| *bytes = Bytes(bytes.0 * by));
    program.arenas.iter_mut().for_each(|arena| arena.bytes *= by);
    for tensor in &mut program.tensors {
        let bytes = tensor.bytes.as_constant().expect("a number") as u64;
        tensor.bytes = Expr::constant(bytes * by);
    }
    for task in &mut program.tasks {
        task.workspace *= by;
        if let Some(held) = &mut task.held {
            (held.offset, held.bytes) = (held.offset * by, held.bytes * by);
        }
    }
    for berth in &mut program.berths {
        (berth.offset, berth.bytes) = (berth.offset * by, berth.bytes * by);
        berth.part = berth.part.map(|(from, to)| (from * by, to * by));
    }
    for instruction in program.prologue.iter_mut().chain(&mut program.bodies[0].code) {
        if let Instruction::Copy { extent: Extent::Bytes(from, to), .. } = instruction {
            (*from, *to) = (*from * by, *to * by);
        }
    }
}

/// Gives each weight a place of its own in one file, on pages or not.
fn place(program: &mut Program, dice: &mut Rng) {
    let (mut end, odd) = (0, [0, 0, 77][dice.below(3)]);
    for tensor in &mut program.tensors {
        let bytes = tensor.bytes.as_constant().expect("a number") as u64;
        if let Some(home) = &mut tensor.home {
            (home.file, home.offset) = (FILE.to_owned(), end + odd);
            end = (end + odd + bytes).next_multiple_of(4096);
        }
    }
    assert!(end < FILE_BYTES, "the file is large enough");
}

/// Gives copies of the body a class, and says what wants them.
fn urge(program: &mut Program, dice: &mut Rng) {
    let code = &mut program.bodies[0].code;
    let waiting: Vec<(String, Vec<After>)> = code
        .iter()
        .filter(|i| matches!(i, Instruction::Run { .. }))
        .map(|i| (i.name().to_owned(), i.after().to_vec()))
        .collect();
    let classes = [Class::Demand, Class::Planned, Class::Speculative, Class::Speculative];
    for instruction in code {
        if let Instruction::Copy { name, class, wanted, .. } = instruction {
            *class = classes[dice.below(4)];
            *wanted =
                waiting.iter().find(|(_, after)| after.contains(&After::this(&*name))).map(|(run, _)| run.clone());
        }
    }
}
