#!/usr/bin/env bash
# What plans predict beside what happens, on this machine as `berth calibrate` finds it.
#
#   bench/predict/run.sh [STEPS] [ROUNDS]
#
# Twenty points of model, cap and batch; then the strategies of `berth compare`, predicted and run. Weights are read from packs.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=target/bench/predict
mkdir -p "$work"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --requirement bench/fast/requirements.txt
cargo build --release --quiet
"$work/venv/bin/python" bench/fast/models.py "$work"
"$work/venv/bin/python" bench/predict/predict.py target/release/berth "$work" "${1:-12}" "${2:-3}"
