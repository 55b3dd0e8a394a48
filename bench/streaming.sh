#!/usr/bin/env bash
# Predicted steps of a model that streams its weights, against the bound and beside LRU and one-layer look-ahead: device
# memory for 25, 50 and 75 % of what holds everything, on three machines; with the device alone, and with the host's cores
# computing beside it. Seconds are those of the whole command. Nothing is run on a GPU.
#
#   bench/streaming.sh MODEL.onnx --dim batch=1 --dim seq=1 --dim past=127
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --quiet
berth=${CARGO_TARGET_DIR:-target}/release/berth
printf '%-10s %4s  %-34s  %-34s %6s  %10s %8s\n' '' '' 'device alone' 'with the cores' '' '' ''
printf '%-10s %4s  %10s %10s %7s %4s  %10s %10s %7s %4s %6s  %10s %8s\n' target part \
    step bound '/ bound' s step bound '/ bound' s gain look-ahead LRU
for target in h100-pcie rtx4090 l4; do
    for part in 25 50 75; do
        python3 - "$berth" "$target" "$part" "$@" <<'PYTHON'
import json, subprocess, sys, time
berth, target, part, *model = sys.argv[1:]

def run(command, *more):
    start = time.monotonic()
    words = [berth, command, *model, "--target", target, "--memory", f"device={part}%", "--format", "json", *more]
    said = subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(said), time.monotonic() - start

def figures(plan, seconds):
    step, bound = plan["predicted_nanos"], plan["bound_nanos"]
    return "%7.1f ms %7.1f ms %7.4f %4.1f" % (step / 1e6, bound / 1e6, step / bound, seconds)

alone, both = run("compile", "--engines", "gpu"), run("compile")
step = alone[0]["predicted_nanos"]
table, _ = run("compare", "--engines", "gpu")
rows = {row["strategy"]: row["figures"] for row in table["rows"]}
slower = lambda name: "%.2f x" % (rows[name]["predicted_nanos"] / step) if rows[name] else "no room"
print("%-10s %3s%%  %s  %s %4.2f x  %10s %8s" % (
    target, part, figures(*alone), figures(*both), step / both[0]["predicted_nanos"], slower("look-ahead"), slower("LRU")))
PYTHON
    done
done
