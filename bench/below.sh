#!/bin/sh
# Plans a model for an H100 on PCIe, device alone, whose memories below are small, staged or one behind the other, and prints a
# table of steps and bounds, as simulated.
#
#     bench/below.sh MODEL.onnx [--dim NAME=N]...
#
# `BERTH` names another command than the one that is built here.
set -eu
model=${1:?a model}
shift
berth=${BERTH:-${CARGO_TARGET_DIR:-target}/release/berth}
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
preset=$(dirname "$0")/../targets/h100-pcie.ron

# 1 GiB of pinned memory between DRAM and the device.
pinned='(name: "pinned", capacity: "1GiB", bandwidth: "300GB/s", alignment: 64),'
hop() { printf '(name: "%s", from: "%s", to: "%s", rate: "%s", latency: "2us", chunk: "4MiB"),' "$@"; }
sed -e "s|(name: \"dram\"|$pinned\n        (name: \"dram\"|" \
    -e 's|name: "h2d", from: "dram"|name: "h2d", from: "pinned"|' \
    -e 's|name: "d2h", from: "hbm", to: "dram"|name: "d2h", from: "hbm", to: "pinned"|' \
    -e "s|(name: \"disk\"|$(hop pin dram pinned 80GB/s)\n        $(hop unpin pinned dram 80GB/s)\n        (name: \"disk\"|" \
    "$preset" >"$made/pinned.ron"
# A memory of 30 GB/s behind DRAM, which the same disk fills.
behind='(name: "cxl", capacity: "128GiB", bandwidth: "60GB/s", alignment: 64),'
disk='(name: "disk-cxl", from: "nvme", to: "cxl", rate: "6500MB/s", latency: "100us", chunk: "4MiB", group: Some("disk")),'
sed -e "s|(name: \"nvme\"|$behind\n        (name: \"nvme\"|" \
    -e "s|(name: \"disk\"|$(hop up cxl dram 30GB/s)\n        $(hop down dram cxl 30GB/s)\n        $disk\n        (name: \"disk\"|" \
    -e 's|latency: "100us", chunk: "4MiB"),|latency: "100us", chunk: "4MiB", group: Some("disk")),|' \
    "$preset" >"$made/behind.ron"

line() {
    what=$1
    shift
    "$berth" compile "$model" "$@" --engines gpu |
        sed -n 's/.*predicted \([0-9.]* m*s\) .*bound \([0-9.]* [mun]*s\) .*: \([0-9.]*\) x.*/\1|\2|\3/p' |
        awk -F'|' -v what="$what" '{ printf "%-44s %10s %10s %7s\n", what, $1, $2, $3 }'
}
printf '%-44s %10s %10s %7s\n' "memories" step bound "/ bound"
for dram in 1 2 4 6 8 10 14; do
    for hbm in 4 6 8 10 12; do
        line "hbm $hbm GiB, dram $dram GiB" "$@" --target "$preset" --memory "hbm=${hbm}GiB" --memory "dram=${dram}GiB"
    done
done
line "hbm 8 GiB, all of dram" "$@" --target "$preset" --memory hbm=8GiB
for budget in 1 16 64 256 1024; do
    line "hbm 8 GiB, through $budget MiB of pinned memory" "$@" --target "$made/pinned.ron" --memory hbm=8GiB \
        --memory "pinned=${budget}MiB"
done
for dram in 1 4 8; do
    line "hbm 8 GiB, dram $dram GiB, 30 GB/s behind it" "$@" --target "$made/behind.ron" --memory hbm=8GiB \
        --memory "dram=${dram}GiB"
done
