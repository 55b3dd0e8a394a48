//! `berth offsets`: offsets for a list of buffers whose lives are fixed.

use crate::failure::{Failure, Outcome};
use crate::{buffers, cli, files};
use berth_compiler::dsa::{Answer, Refused, Verdict, solve_while};
use std::time::{Duration, Instant};

/// Runs it.
pub fn offsets(args: &cli::Offsets) -> Outcome {
    let begun = Instant::now();
    let limit = match args.time_limit.map(Duration::try_from_secs_f64) {
        Some(Err(_)) => return Err(Failure::bad("--time-limit: not a number of seconds")),
        limit => limit.and_then(Result::ok),
    };
    let list = buffers::read(&args.file).map_err(|error| Failure::file("read", &args.file, error))?;
    let mut go = || limit.is_none_or(|limit| begun.elapsed() < limit);
    let answer = solve_while(&list.buffers, args.capacity, args.effort, &mut go).map_err(|error| match error {
        Refused::Unsound(i) => Failure::bad(format!("buffer `{}`: {error}", list.ids[i])),
        Refused::TooLarge => Failure::bad(error),
    })?;
    match answer.verdict {
        Verdict::Fits => {
            eprintln!("height: {}; peak load: {}; nodes: {}", answer.height, answer.peak, answer.nodes);
            files::say(buffers::with_offsets(&list, &answer.at).trim_end())
        }
        verdict => Err(Failure::unfit(why(verdict, &answer, args))),
    }
}

/// Why there are no offsets, and what would be enough.
fn why(verdict: Verdict, answer: &Answer, args: &cli::Offsets) -> String {
    let (capacity, height, peak) = (args.capacity, answer.height, answer.peak);
    let first = match verdict {
        Verdict::Overloaded(peak) => {
            format!("infeasible: {peak} bytes are alive at one time, the capacity is {capacity}")
        }
        Verdict::Refuted => format!("infeasible: a search of all layouts found none within {capacity} bytes"),
        Verdict::Open if answer.cut => format!(
            "not found, cut by the clock after {} s: a layout within {capacity} bytes may or may not exist, and another run \
             may end elsewhere",
            args.time_limit.unwrap_or_default()
        ),
        Verdict::Fits | Verdict::Open => {
            let effort = args.effort;
            format!("not found within the effort of {effort}: a layout within {capacity} bytes may or may not exist")
        }
    };
    let gap = height - peak;
    let percent = gap as f64 / peak.max(1) as f64 * 100.0;
    format!(
        "{first}\nthe best layout met is {height} bytes high, {gap} bytes ({percent:.2} %) above the peak load of {peak}; \
         nodes: {}",
        answer.nodes
    )
}
