//! probe
#[path = "../tests/families/mod.rs"]
mod families;
use berth_compiler::dsa::*;
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let n: usize = args.get(0).map_or(100_000, |a| a.parse().unwrap());
    let seed: u64 = args.get(1).map_or(1, |a| a.parse().unwrap());
    for (name, family) in families::FAMILIES {
        if let Some(f) = args.get(2) { if !name.contains(f.as_str()) { continue; } }
        let b = family(n, seed);
        let t = std::time::Instant::now();
        let a = solve(&b, u64::MAX / 8, 0).unwrap();
        println!("{name:18} {n} -> {:.4} {:.3} s", a.height as f64 / a.peak as f64, t.elapsed().as_secs_f64());
    }
}
