//! Says while a program runs that a link is slower than its plan counts on, and how to plan again.

use berth_ir::Target;
use berth_ir::program::{Instruction, Program};
use berth_ir::units::Bytes;
use berth_runtime_exec::executor::{Glance, Watch};
use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time from look to look.
const EVERY: Duration = Duration::from_millis(500);
/// Steps that a link must have been slow for.
const STEPS: usize = 5;
/// How many times as long as planned is slow: disks that others use too waver by less.
const TIMES: u64 = 2;

/// What a plan counts on for a link.
#[derive(Clone, Debug)]
pub struct Planned {
    name: String,
    rate: berth_ir::units::BytesPerSec,
    /// What a copy takes beside its bytes, in nanoseconds.
    late: u64,
    /// Copies before the first step, and in each.
    copies: [u64; 2],
}

impl Planned {
    /// Of each link of a program.
    pub fn of(program: &Program, target: &Target) -> Vec<Planned> {
        let copies = |code: &[Instruction], link: &str| {
            let of_link = |i: &&Instruction| matches!(i, Instruction::Copy { queue, .. } if queue == link);
            code.iter().filter(of_link).count() as u64
        };
        let planned = target.links.iter().map(|link| Planned {
            name: link.name.clone(),
            rate: link.rate_beside(),
            late: link.latency.0.saturating_add(link.submit.0),
            copies: [
                copies(&program.prologue, &link.name),
                program.bodies.iter().map(|body| copies(&body.code, &link.name)).max().unwrap_or(0),
            ],
        });
        planned.collect()
    }
}

/// The links that were slow from one look to another, with the rates that they had: over enough steps, else nothing is
/// known yet.
fn slow<'p>(planned: &'p [Planned], before: Option<&Glance>, now: &Glance) -> Option<Vec<(&'p Planned, u64)>> {
    let steps = now.steps.saturating_sub(before.map_or(0, |before| before.steps));
    if steps < STEPS {
        return None;
    }
    let find = |glance: &Glance, name: &str| {
        glance.lanes.iter().find(|lane| lane.0 == name).map_or((0, 0), |(_, bytes, busy)| (*bytes, *busy))
    };
    let slow = planned.iter().filter_map(|link| {
        let (bytes, busy) = find(now, &link.name);
        let (bytes_before, busy_before) = before.map_or((0, 0), |before| find(before, &link.name));
        let (bytes, busy) = (bytes.saturating_sub(bytes_before), busy.saturating_sub(busy_before));
        // Copies of the next step may have ended too.
        let copies = link.copies[1].saturating_mul(steps as u64 + 1) + link.copies[0];
        let counted_on = Bytes(bytes).at(link.rate).0.saturating_add(copies.saturating_mul(link.late));
        let is_slow = bytes > 0 && busy / TIMES > counted_on;
        is_slow.then(|| (link, crate::calibrate::a_second(bytes, busy)))
    });
    Some(slow.collect())
}

/// Looks at a run until it is dropped.
#[derive(Debug)]
pub struct Slow {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Slow {
    /// Looks at a run; `replan` says what to do, `over` that a line on the terminal is to be written over.
    pub fn start(watch: Watch, mut planned: Vec<Planned>, replan: String, over: bool) -> Slow {
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let mut before = None;
            loop {
                // A short run is looked at when it has ended.
                let last = ended.recv_timeout(EVERY) != Err(RecvTimeoutError::Timeout);
                let now = watch.look();
                if let Some(found) = slow(&planned, before.as_ref(), &now) {
                    for (link, rate) in &found {
                        let start = if over { "\r\x1b[K" } else { "" };
                        let [has, wants] = [*rate, link.rate.0].map(|rate| rate as f64 / 1e9);
                        // A terminal that has gone is no reason to end the run.
                        let _ = writeln!(
                            std::io::stderr(),
                            "{start}note: link `{}` moves {has:.2} GB/s, and the plan counts on {wants:.2}: {replan}",
                            link.name
                        );
                    }
                    // Each is said once.
                    let said: Vec<String> = found.iter().map(|(link, _)| link.name.clone()).collect();
                    planned.retain(|link| !said.contains(&link.name));
                    before = Some(now);
                }
                if last || planned.is_empty() {
                    break;
                }
            }
        });
        Slow { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ir::units::BytesPerSec;

    #[test]
    fn a_link_is_slow_over_several_steps_and_beyond_its_latency() {
        let read = Planned { name: "read".into(), rate: BytesPerSec(1_000_000_000), late: 100, copies: [0, 10] };
        let planned = [read];
        let glance = |steps, bytes, busy| Glance { steps, lanes: vec![("read".into(), bytes, busy)] };
        let rates = |before: Option<&Glance>, now: &Glance| {
            slow(&planned, before, now).map(|found| found.iter().map(|(_, rate)| *rate).collect::<Vec<u64>>())
        };
        assert_eq!(rates(None, &glance(4, 1_000, 1_000_000)), None, "too few steps");
        // Six steps of copies are late by 6 us together, and the bytes take 4 us: 20 us are allowed.
        assert_eq!(rates(None, &glance(5, 4_000, 20_001)), Some(vec![]));
        assert_eq!(rates(None, &glance(5, 4_000, 20_002)), Some(vec![199_980_001]));
        // What was before does not count.
        let before = glance(5, 4_000, 50_000);
        assert_eq!(rates(Some(&before), &glance(10, 8_000, 70_000)), Some(vec![]));
        assert_eq!(rates(Some(&before), &glance(10, 8_000, 90_000)), Some(vec![100_000_000]));
        assert_eq!(rates(Some(&before), &glance(9, 8_000, 90_000)), None);
        // Nothing moved is nothing slow.
        assert_eq!(rates(Some(&before), &glance(10, 4_000, 90_000)), Some(vec![]));
    }
}
