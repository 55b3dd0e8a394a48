#!/usr/bin/env bash
# A decoder larger than the memory it gets: berth beside other systems, all under the same limit, which the kernel enforces.
#
#     bench/peers/run.sh [--size BYTES] [--parts 25,50,75] [--steps N] [--only berth,ort,loop,accelerate,llama] [--folder DIR]
#
# Makes the model (4e9 bytes of weights unless told) and environments for the peers in DIR (`target/peers`), runs each system
# with all the memory that it wants and with parts of the weights' size, and prints a table. Needs Linux with control
# groups, root, python3 with pip, a disk with room for twice the weights, and 6 GB for torch. Peers that cannot be
# installed are left out and named. `--remove` deletes at the end what it made in DIR.
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
folder=${CARGO_TARGET_DIR:-target}/peers only=berth,ort,loop,accelerate,llama remove= words=()
usage() { sed -n '2,9s/^# \{0,1\}//p' "$here/run.sh" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --remove) remove=yes; shift; continue ;;
    --folder | --only | --size | --parts | --steps) [ $# -ge 2 ] || usage ;;
    *) usage ;;
    esac
    case $1 in
    --folder) folder=$2 ;;
    --only) only=$2 ;;
    *) words+=("$1" "$2") ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] || { echo "error: a memory limit that the kernel enforces needs root" >&2; exit 2; }
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
made=(model env env-accelerate env-llama whole.npz prefill-whole.npz seen.ron {ort,ort-prepacked,loop,accelerate,llama}.{json,npz})
[ -z "$remove" ] || trap 'rm -rf "${made[@]/#/$folder/}"' EXIT
# Each environment is made once; its last line says for which list.
environment() {
    local list=$here/requirements$1.txt place=$folder/env$1
    cmp -s "$list" "$place/made-from.txt" && return
    rm -rf "$place"
    python3 -m venv "$place" && "$place/bin/pip" install --quiet --no-cache-dir -r "$list" >&2 && cp "$list" "$place/made-from.txt"
}
cargo build --release --quiet
environment "" || { echo "error: numpy, onnx and onnxruntime do not install; the lines above say why" >&2; exit 1; }
for peer in accelerate llama; do
    [[ ,$only, != *,$peer,* ]] || environment "-$peer" || { echo "note: $peer does not install here and is left out" >&2; only=$(sed "s/\b$peer\b//" <<<"$only"); }
done
berth=$(pwd)/${CARGO_TARGET_DIR:-target}/release/berth
[[ ${CARGO_TARGET_DIR:-} != /* ]] || berth=$CARGO_TARGET_DIR/release/berth
"$folder/env/bin/python" "$here/bench.py" "$folder" "$berth" --only "$only" ${words[@]+"${words[@]}"}
