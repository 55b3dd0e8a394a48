#!/usr/bin/env bash
# What the executor costs beside the engine, in microseconds an instruction; then how fast it reads weights, beside a plain
# reader of the same file in the same minute. Half a GiB is made in the temporary folder (TMPDIR).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
cargo run --quiet --release -p berth-runtime-exec --example overhead
cargo run --quiet --release -p berth-runtime-exec --example reader
