//! What is seen of a run while it runs: one line on a terminal, over the last one.

use berth_ir::units::{Bytes, Nanos};
use berth_runtime_exec::executor::{Glance, Watch};
use std::fmt::Write as _;
use std::io::Write;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time from line to line.
const EVERY: Duration = Duration::from_millis(250);

/// Shows a run until it is dropped, which leaves an empty line.
#[derive(Debug)]
pub struct Live {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Live {
    /// Shows a run of so many steps on standard error.
    pub fn start(watch: Watch, steps: usize) -> Live {
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            let (start, mut since, mut before) = (Instant::now(), Instant::now(), None);
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                let now = watch.look();
                if let Some(before) = &before {
                    // A terminal that has gone is no reason to end the run.
                    let text = line(before, &now, since.elapsed(), start.elapsed(), steps);
                    let _ = write!(std::io::stderr(), "\r  {text}\x1b[K");
                }
                (since, before) = (Instant::now(), Some(now));
            }
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        });
        Live { end: Some(end), thread: Some(thread) }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Steps, what each link moved a second since the last look, what share of that time engines waited, and what is left.
fn line(before: &Glance, now: &Glance, since: Duration, all: Duration, steps: usize) -> String {
    let seconds = since.as_secs_f64().max(1e-9);
    let mut text = format!("step {} of {steps}", (now.steps + 1).min(steps));
    for ((name, bytes, nanos), (_, bytes_before, nanos_before)) in now.lanes.iter().zip(&before.lanes) {
        let (moved, computed) = (bytes.saturating_sub(*bytes_before), nanos.saturating_sub(*nanos_before));
        if *nanos > 0 && *bytes == 0 {
            let waits = 1.0 - (computed as f64 / 1e9 / seconds).min(1.0);
            let _ = write!(text, ", {name} waits {:.0} %", waits * 100.0);
        } else if moved > 0 {
            let _ = write!(text, ", {name} {}/s", Bytes((moved as f64 / seconds) as u64).human());
        }
    }
    if now.steps > 0 && now.steps < steps {
        let left = all.as_secs_f64() / now.steps as f64 * (steps - now.steps) as f64;
        let _ = write!(text, ", {} left", Nanos((left * 1e9) as u64).human());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_rates_waits_and_what_is_left() {
        let glance = |steps, bytes, nanos| Glance {
            steps,
            lanes: vec![("read".into(), bytes, bytes), ("in".into(), 7, 9), ("cores".into(), 0, nanos)],
        };
        let (half, all) = (Duration::from_millis(500), Duration::from_secs(10));
        let text = line(&glance(3, 1 << 20, 100_000_000), &glance(4, 3 << 20, 225_000_000), half, all, 20);
        assert_eq!(text, "step 5 of 20, read 4.0 MiB/s, cores waits 75 %, 40.0 s left");
        // At the start nothing is known, at the end nothing is left.
        assert_eq!(line(&glance(0, 0, 0), &glance(0, 0, 0), half, all, 1), "step 1 of 1");
        assert_eq!(line(&glance(1, 0, 5), &glance(1, 0, 5), half, all, 1), "step 1 of 1, cores waits 100 %");
    }
}
