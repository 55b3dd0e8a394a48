//! Shapes of made programs, by chance: one to seven layers, everything that `make` can do.

#![allow(dead_code, reason = "each test file uses its part")]

use super::device::Rng;
use super::make::{Layer, Shape, State, Weight};
use berth_ir::program::Mode;

/// One shape.
pub fn shape(rng: &mut Rng) -> Shape {
    let layers = (0..1 + rng.below(7)).map(|_| layer(rng)).collect();
    Shape {
        mode: if rng.below(5) == 0 { Mode::Once } else { Mode::Loop },
        layers,
        slots: 1 + rng.below(3),
        skip: (rng.below(2) == 0).then(|| (rng.below(5), 2 + rng.below(4), rng.below(2) == 0)),
        staged: rng.below(2) == 0,
        second_body: rng.below(3) == 0,
    }
}

fn layer(rng: &mut Rng) -> Layer {
    Layer {
        weight: match rng.below(6) {
            0 => Weight::Stays,
            1 => Weight::StaysInPart,
            2 => Weight::StreamsInPieces,
            _ => Weight::Streams,
        },
        cells: 2 + rng.below(2) as u64,
        second_engine: rng.below(2) == 0,
        in_place: rng.below(2) == 0,
        state: match rng.below(6) {
            0 => State::Stays,
            1 => State::Travels,
            2 => State::Flips,
            _ => State::None,
        },
        workspace: rng.below(2) == 0,
    }
}
