//! Chrome/Perfetto traces: predicted and measured timelines, one process each, one thread per engine and link.

use berth_compiler::simulate::Event;
use berth_runtime_exec::executor::Seen;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One bar.
struct Bar<'a> {
    name: &'a str,
    track: &'a str,
    step: usize,
    start: u64,
    end: u64,
    bytes: Option<u64>,
}

/// The trace's JSON. Times in it are microseconds, as the format wants.
pub fn json(predicted: &[Event], measured: &[Seen]) -> Vec<u8> {
    let mut events = Vec::new();
    let predicted = predicted.iter().map(|e| Bar {
        name: e.name,
        track: e.track,
        step: e.step,
        start: e.start.0,
        end: e.end.0,
        bytes: None,
    });
    process(&mut events, 1, "predicted", predicted.collect());
    let measured = measured.iter().map(|s| Bar {
        name: &s.name,
        track: if s.lane.is_empty() { "caller" } else { &s.lane },
        step: s.step,
        start: s.start,
        end: s.end,
        bytes: Some(s.bytes),
    });
    process(&mut events, 2, "measured", measured.collect());
    json!({ "displayTimeUnit": "ms", "traceEvents": events }).to_string().into_bytes()
}

fn process(events: &mut Vec<Value>, pid: u32, name: &str, mut bars: Vec<Bar>) {
    if bars.is_empty() {
        return;
    }
    events.push(json!({ "ph": "M", "pid": pid, "name": "process_name", "args": { "name": name } }));
    bars.sort_by_key(|b| b.start);
    // Two readers of one link overlap: each track gets as many threads as run at once.
    let mut threads: BTreeMap<&str, Vec<(u32, u64)>> = BTreeMap::new();
    let mut next = 1;
    for bar in bars {
        let lanes = threads.entry(bar.track).or_default();
        let tid = match lanes.iter_mut().find(|(_, end)| *end <= bar.start) {
            Some(lane) => {
                lane.1 = bar.end;
                lane.0
            }
            None => {
                lanes.push((next, bar.end));
                events.push(
                    json!({ "ph": "M", "pid": pid, "tid": next, "name": "thread_name", "args": { "name": bar.track } }),
                );
                next += 1;
                next - 1
            }
        };
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let mut args = json!({ "step": bar.step });
        if let Some(bytes) = bar.bytes.filter(|b| *b > 0) {
            args["bytes"] = json!(bytes);
        }
        events.push(json!({
            "ph": "X", "pid": pid, "tid": tid, "name": bar.name,
            "ts": micros(bar.start), "dur": micros(bar.end - bar.start), "args": args,
        }));
    }
}
