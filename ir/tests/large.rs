//! Large programs are proved and keep their forms; what each part took is printed (`-- --nocapture`).

#[path = "common/make.rs"]
mod make;

use berth_ir::program::{Instruction, Mode};
use berth_ir::{binary, text, verify};
use make::{Layer, Shape, State, Weight, machine, make};
use std::time::Instant;

/// About so many instructions: streamed weights in six slots, every fourth layer with a state.
fn shape(instructions: usize, staged: bool) -> Shape {
    let layer = |i: usize| Layer {
        weight: match i % 8 {
            0 => Weight::Stays,
            1 => Weight::StaysInPart,
            2 => Weight::StreamsInPieces,
            _ => Weight::Streams,
        },
        cells: 3,
        second_engine: i % 16 == 5,
        in_place: i.is_multiple_of(3),
        state: [State::Stays, State::None, State::Travels, State::Flips][i % 4],
        workspace: i.is_multiple_of(2),
    };
    let each = if staged { 2 } else { 3 };
    let layers = (0..instructions * each / 8).map(layer).collect();
    Shape { mode: Mode::Loop, layers, slots: 6, skip: Some((3, 90, true)), staged, second_body: false }
}

fn check(instructions: usize, staged: bool) {
    let program = make(&shape(instructions, staged));
    let count = program.prologue.len() + program.bodies[0].code.len();
    let copies = program.bodies[0].code.iter().filter(|i| matches!(i, Instruction::Copy { .. })).count();
    let start = Instant::now();
    let verified = verify(&machine(), program, None).unwrap_or_else(|v| panic!("{}", v[0]));
    let took = start.elapsed();
    let start = Instant::now();
    let printed = text::print(&verified);
    let parsed = text::parse(&printed).unwrap();
    let forms = start.elapsed();
    assert_eq!(parsed, *verified);
    let start = Instant::now();
    let bytes = binary::write(&verified);
    assert_eq!(binary::read(&bytes).unwrap(), *verified);
    println!(
        "{count} instructions ({copies} copies a step, staged: {staged}): verified in {took:?}; text {} KiB in {forms:?}; \
         binary {} KiB in {:?}",
        printed.len() / 1024,
        bytes.len() / 1024,
        start.elapsed(),
    );
}

#[test]
fn ten_thousand_instructions_are_safe_and_keep_their_forms() {
    for staged in [false, true] {
        check(10_000, staged);
    }
}

#[test]
fn a_hundred_thousand_instructions_are_safe_and_keep_their_forms() {
    check(100_000, true);
}
