//! Inputs that stay where they are fed.

mod common;

use berth_ir::fed::alone;
use berth_ir::program::{Berth, Instruction, Program};

/// A program whose input has a place of its own, from 256 to 320, but for what `change` does.
fn changed(change: impl FnOnce(&mut Program)) -> bool {
    let (_, mut program) = common::program("kept_weights");
    berth(&mut program, "y").offset = 384;
    change(&mut program);
    let fed = alone(&program);
    assert!(fed.iter().all(|berth| *berth == "x"), "{fed:?}");
    fed.contains("x")
}

fn berth<'p>(program: &'p mut Program, name: &str) -> &'p mut Berth {
    program.berths.iter_mut().find(|berth| berth.name == name).expect("a berth")
}

#[test]
fn an_input_stays_where_nothing_else_lies_or_is_written() {
    assert!(changed(|_| ()));
    // Beside it is not in it, nor is the same place of another arena.
    assert!(changed(|program| berth(program, "y").offset = 192));
    assert!(changed(|program| berth(program, "h").arena = "other".to_owned()));
    for offset in [193, 256, 300, 319] {
        assert!(!changed(|program| berth(program, "y").offset = offset), "{offset}");
    }
    // One that reaches over it from far before, with others between.
    assert!(!changed(|program| {
        let far = berth(program, "a.weight");
        (far.offset, far.bytes) = (0, 257);
        berth(program, "y").offset = 64;
    }));
    assert!(!changed(|program| {
        let code = &mut program.bodies[0].code;
        let Some(Instruction::Run { berths, .. }) = code.iter_mut().find(|i| i.name() == "run b") else {
            panic!("a task")
        };
        berths[1] = "h + x".to_owned();
    }));
    assert!(!changed(|program| {
        let code = &mut program.bodies[0].code;
        let mut load = code.iter().find(|i| i.name() == "load a").expect("a copy").clone();
        if let Instruction::Copy { to, .. } = &mut load {
            *to = "x".to_owned();
        }
        program.prologue.push(load);
    }));
}

#[test]
fn a_place_that_two_take_in_turn_is_no_place_to_stay() {
    assert!(alone(&common::program("kept_weights").1).is_empty());
}
