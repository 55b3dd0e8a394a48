//! Models of a few inputs, some of which are states: any graph of them, of any seed.

use super::build::Builder;
use berth_ir::DType;

/// Numbers from a seed.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }
}

/// A model of some inputs, and pairs of them with outputs.
pub fn random(seed: u64) -> (Builder, Vec<(String, String)>) {
    let dice = &mut Dice(seed);
    let mut b = Builder::new(17);
    b.ints("flat", &[64]).ints("wide", &[4, 16]).input("x", DType::F32, &["4", "16"]);
    let inputs: Vec<String> = (0..1 + dice.below(4)).map(|n| format!("h{n}")).collect();
    inputs.iter().for_each(|name| _ = b.input(name, DType::F32, &["4", "16"]));
    let mut values: Vec<String> = inputs.iter().cloned().chain(["x".to_owned()]).collect();
    let mut made = Vec::new();
    for n in 0..2 + dice.below(12) {
        let name = format!("v{n}");
        let (one, two) = (values[dice.below(values.len())].clone(), values[dice.below(values.len())].clone());
        match dice.below(7) {
            0 => {
                let (flat, other) = (format!("{name}_flat"), format!("{name}_t"));
                b.node("Reshape", &[&one, "flat"], &[&flat], vec![]).node("Tanh", &[&flat], &[&other], vec![]);
                b.node("Reshape", &[&other, "wide"], &[&name], vec![])
            }
            1 => b.node("Identity", &[&one], &[&name], vec![]),
            2 => {
                let weight = format!("{name}_w");
                let numbers = (0..256).map(|k| ((k * 2_654_435_761 + n * 40_503) % 2_001) as f32 / 8_000.0 - 0.125);
                b.tensor(&weight, DType::F32, &[16, 16], numbers.flat_map(f32::to_le_bytes).collect());
                b.node("MatMul", &[&one, &weight], &[&name], vec![])
            }
            3 => b.node("Cos", &[&one], &[&name], vec![]),
            4 => b.node("Max", &[&one, &two], &[&name], vec![]),
            _ => b.node("Sub", &[&one, &two], &[&name], vec![]),
        };
        values.push(name.clone());
        made.push(name);
    }
    let mut pairs = Vec::new();
    for input in inputs {
        let left: Vec<&String> = made.iter().filter(|m| pairs.iter().all(|(_, o)| o != *m)).collect();
        if left.is_empty() || dice.below(4) == 0 {
            continue;
        }
        pairs.push((input, left[dice.below(left.len())].clone()));
    }
    made.iter().filter(|m| pairs.iter().any(|(_, o)| o == *m) || dice.below(4) == 0).for_each(|m| _ = b.output(m));
    if pairs.is_empty() {
        b.output(&made[made.len() - 1]);
    }
    (b, pairs)
}
