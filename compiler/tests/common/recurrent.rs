//! Models of a few inputs, some of which are states: any graph of them, of any seed.

use super::build::{Builder, attribute};
use berth_compiler::import::onnx::AttributeProto;
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

/// Elements of a state along an axis that does not grow, and along another.
const ROWS: &str = "3";
const WIDE: &str = "4";

/// A model with caches that grow.
pub struct Growing {
    pub builder: Builder,
    pub pairs: Vec<(String, String)>,
    /// Elements that each step adds along `past`.
    pub by: u64,
    /// The shapes of the states in dims of the model, as [`Builder::input`] takes them.
    pub states: Vec<[&'static str; 3]>,
    /// Whether there is an input `scale` of shape `[past, 1]` too.
    pub scaled: bool,
}

/// A model of `x` `[3, by, 4]` and of caches along any axis: what a step adds comes behind what there is or before it; the
/// cache is read before that, by what appends to it or behind it, or a copy of it is appended to.
pub fn growing(seed: u64) -> Growing {
    let dice = &mut Dice(seed ^ 0x9e37_79b9);
    let mut b = Builder::new(17);
    let by = 1 + dice.below(2) as u64;
    let ints =
        |name: &str, ints: &[i64]| AttributeProto { r#type: 7, i: None, ints: ints.to_vec(), ..attribute(name, 0) };
    let perms: [&[i64]; 3] = [&[1, 0, 2], &[0, 1, 2], &[0, 2, 1]];
    b.input("x", DType::F32, &[ROWS, &by.to_string(), WIDE]);
    b.ints("axis0", &[0]).ints("axis1", &[1]).ints("axis2", &[2]);
    let (mut below, mut pairs, mut states, mut scaled) = ("x".to_owned(), Vec::new(), Vec::new(), false);
    for n in 0..1 + dice.below(4) {
        let name = |what: &str| format!("{what}{n}");
        let (cache, next, axis) = (name("c"), name("next"), dice.below(3));
        let shape = [["past", ROWS, WIDE], [ROWS, "past", WIDE], [ROWS, WIDE, "past"]][axis];
        b.input(&cache, DType::F32, &shape);
        b.node("Tanh", &[&below], &[&name("token")], vec![]);
        b.node("Transpose", &[&name("token")], &[&name("turned")], vec![ints("perm", perms[axis])]);
        let mut old = cache.clone();
        let late = match dice.below(5) {
            0 => {
                old = name("copy");
                b.node("Cos", &[&cache], &[&old], vec![]);
                false
            }
            1 if axis == 1 => {
                if !std::mem::replace(&mut scaled, true) {
                    b.input("scale", DType::F32, &["past", "1"]);
                }
                old = name("copy");
                b.node("Mul", &[&cache, "scale"], &[&old], vec![]);
                false
            }
            2 => true,
            _ => false,
        };
        let turned = name("turned");
        let parts = if dice.below(3) == 0 { [&*turned, &*old] } else { [&*old, &*turned] };
        b.node("Concat", &parts, &[&next], vec![attribute("axis", axis as i64)]).output(&next);
        let mut sums = vec![next.clone()];
        if late {
            // It reads the version before behind the one that writes the next.
            let (last, both) = (name("last"), name("both"));
            b.node("ReduceMax", &[&next], &[&last], vec![ints("axes", &[axis as i64])]);
            b.node("Sub", &[&cache, &last], &[&both], vec![]);
            sums.push(both);
        }
        for (k, sum) in sums.iter().enumerate() {
            let (whole, back, more) =
                (name(&format!("sum{k}_")), name(&format!("back{k}_")), name(&format!("more{k}_")));
            b.node("ReduceSum", &[sum, &format!("axis{axis}")], &[&whole], vec![]);
            b.node("Transpose", &[&whole], &[&back], vec![ints("perm", perms[axis])]);
            b.node("Add", &[&below, &back], &[&more], vec![]);
            below = more;
        }
        pairs.push((cache, next));
        states.push(shape);
    }
    b.node("Sin", &[&below], &["y"], vec![]).output("y");
    Growing { builder: b, pairs, by, states, scaled }
}
