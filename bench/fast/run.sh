#!/usr/bin/env bash
# A model that fits, `--numerics fast`, beside plain ONNX Runtime with as many threads: medians of pairs.
#
#   bench/fast/run.sh [PAIRS [STEPS [MODEL.onnx...]]]
#
# Each model has its inputs beside it in an .npz. Without models a decoder, an encoder and a CNN are generated.
set -euo pipefail
cd "$(dirname "$0")/../.."
pairs=${1:-9} steps=${2:-50}
shift $(($# < 2 ? $# : 2))
work=target/bench/fast
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --requirement bench/fast/requirements.txt
cargo build --release --quiet
if [ $# -eq 0 ]; then
    "$work/venv/bin/python" bench/fast/models.py "$work"
    set -- "$work"/{decoder,encoder,cnn}.onnx
fi
"$work/venv/bin/python" bench/fast/pairs.py target/release/berth "$pairs" "$steps" "$@"
