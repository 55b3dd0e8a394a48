//! Replays G10's workloads through berth's planner of transfers.

mod check;
mod read;

use berth_compiler::spill::schedule;

fn main() {
    let folder = std::env::args().nth(1).unwrap();
    let mut rig = read::Rig::default();
    if let Some(h) = std::env::args().nth(2) { rig.host = h.parse::<u64>().unwrap() << 30; }
    for case in ["BERT_Base_128", "BERT_Base_256", "VIT_1280", "BERT_Base_1024", "ResNet152_1280"] {
        let lifetimes = read::read(&std::path::Path::new(&folder).join(case), &rig).unwrap();
        let target = read::target(&rig);
        let busy: u64 = lifetimes.tasks.iter().map(|t| t.cost.0).sum();
            let t = std::time::Instant::now();
            match schedule(&lifetimes, &target, None) {
                Ok(s) => {
                    println!("{case} {:.4} copies {} {:?}", busy as f64 / s.step.0 as f64, s.copies.len(), t.elapsed());
                    let p = berth_compiler::spill::Problem::of(&lifetimes, &target, None).unwrap();
                    let t = std::time::Instant::now();
                    let b = berth_compiler::spill::bound::bound(&p, s.step.0);
                    println!("    bound {:.4} {:?}", busy as f64 / b as f64, t.elapsed());
                    match check::check(&lifetimes, &target, &s, 64 << 20) {
                        Ok(tally) => println!("    {tally:?}"),
                        Err(wrong) => println!("    WRONG {} {:?}", wrong.len(), &wrong[..wrong.len().min(4)]),
                    }
                }
                Err(e) => println!("{case} {e}"),
            }
    }
}
