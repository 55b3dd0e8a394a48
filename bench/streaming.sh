#!/usr/bin/env bash
# Predicted steps of a decoder that streams its weights, against the bound and beside LRU and one-layer look-ahead:
# device memory for 25, 50 and 75 % of what holds everything, on three machines. Nothing is run on a GPU.
#
#   bench/streaming.sh MODEL.onnx --dim batch=1 --dim seq=1 --dim past=127
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo build --release --quiet
printf '%-10s %4s %10s %10s %8s %10s %8s %8s\n' target part step bound '/ bound' look-ahead LRU 'plan s'
for target in h100-pcie rtx4090 l4; do
    for part in 25 50 75; do
        start=$(date +%s.%N)
        target/release/berth compile "$@" --target "$target" --memory "device=$part%" >/dev/null
        end=$(date +%s.%N)
        target/release/berth compare "$@" --target "$target" --memory "device=$part%" --format json |
            python3 -c '
import json, sys
target, part, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
table = json.load(sys.stdin)
bound = table["bound_nanos"]
rows = {row["strategy"]: row["figures"] for row in table["rows"]}
step = rows["berth"]["predicted_nanos"]
slower = lambda name: "%.2f x" % (rows[name]["predicted_nanos"] / step) if rows[name] else "no room"
print("%-10s %3s%% %7.1f ms %7.1f ms %8.4f %10s %8s %8.2f" % (
    target, part, step / 1e6, bound / 1e6, step / bound, slower("look-ahead"), slower("LRU"), seconds))
' "$target" "$part" "$(python3 -c "print($end - $start)")"
    done
done
