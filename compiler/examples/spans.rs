//! Prints a family of packing problems as CSV, for `bench/offsets.sh`: `spans FAMILY N [SEED]`; without arguments, the names.

#[path = "../tests/families/mod.rs"]
mod families;

use families::FAMILIES;
use std::fmt::Write;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let family = args.first().and_then(|name| FAMILIES.iter().find(|f| f.0 == name));
    let (Some((_, family)), Some(n)) = (family, args.get(1).and_then(|n| n.parse().ok())) else {
        for (name, _) in FAMILIES {
            println!("{name}");
        }
        return;
    };
    let seed = args.get(2).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let buffers = family(n, seed);
    let mut text = String::from("id,lower,upper,size,alignment\n");
    for (i, b) in buffers.iter().enumerate() {
        let _ = writeln!(text, "{i},{},{},{},{}", b.lower, b.upper, b.size, b.alignment);
    }
    print!("{text}");
}
