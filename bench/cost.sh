#!/bin/sh
# CPU seconds and peak memory of `berth compile` on made models of many operators, or on a model that is given.
#
#     bench/cost.sh [OPS [SHAPE ...]]
#     bench/cost.sh MODEL.onnx [--dim NAME=N ...]
#
# OPS is 100,000 where it is not said; SHAPE is one of `bench/cost_models.py`'s, all where none is. Each is compiled for
# half of the device memory that holds everything, with the host's cores and without, and for a host whose disk the rest
# streams from. A line ends with `failed` where the command does, and `other bytes` where a second run writes another plan.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --quiet
berth=${CARGO_TARGET_DIR:-target}/release/berth
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sed -n 's/^model name[^:]*: /machine: /p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//'
printf '%-12s %-28s %8s %9s %9s\n' model for tasks seconds MiB

measure() {
    name=$1 on=$2
    shift 2
    python3 - "$folder" "$name" "$on" "$berth" compile "$@" <<'PYTHON'
import json, os, resource, subprocess, sys

folder, name, on, *words = sys.argv[1:]
plans = [os.path.join(folder, f"{n}.binpb") for n in range(2)]
words += ["--format", "json", "-o"]
first = subprocess.run(words + plans[:1], stdout=subprocess.PIPE)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
again = subprocess.run(words + plans[1:], stdout=subprocess.DEVNULL)
said = ""
if first.returncode or again.returncode:
    said = "failed"
elif open(plans[0], "rb").read() != open(plans[1], "rb").read():
    said = "other bytes"
tasks = json.loads(first.stdout)["tasks"] if not first.returncode else "-"
seconds, mib = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
print(f"{name:<12} {on:<28} {tasks:>8} {seconds:>9.2f} {mib:>9.0f} {said}", flush=True)
PYTHON
}

case "${1:-100000}" in
*.onnx)
    measure "$(basename "$1" .onnx)" "h100-pcie" "$@" --target h100-pcie --memory device=50%
    exit
    ;;
esac
ops=${1:-100000}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- $(python3 bench/cost_models.py)
for shape in "$@"; do
    model="$folder/$shape.onnx"
    python3 bench/cost_models.py "$shape" "$ops" "$model"
    measure "$shape" h100-pcie "$model" --target h100-pcie --memory device=50%
    measure "$shape" "h100-pcie, gpu alone" "$model" --target h100-pcie --memory device=50% --engines gpu
    measure "$shape" "host, dram below" "$model" --target host --memory device=50% --memory dram=64GiB
    rm -f "$model"
done
