#!/bin/sh
# Replays the training workloads of G10 (Zhang et al., MICRO 2023) that lie in a folder, one folder with kernels.csv and
# tensors.csv each: fraction of ideal under strict rules, the bound, bytes by link, what unbent rules give (for copies kept
# below, only the most that they can give), sweeps.
#
#     bench/g10.sh FOLDER [--sweeps]
set -eu
exec cargo run --release --quiet --manifest-path "$(dirname "$0")/g10/Cargo.toml" -- "$@"
