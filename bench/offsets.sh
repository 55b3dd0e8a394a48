#!/bin/sh
# Runs `berth offsets` on the cases of a folder (CSV files named CASE.CAPACITY.csv) and prints a table.
#
#     bench/offsets.sh FOLDER [BERTH]
#     bench/offsets.sh families [BERTH]
#
# Where `reference_times.csv` lies beside the folder, the CPU seconds of MiniMalloc in it are printed too. The second
# form makes families of 100,000 buffers and says how high they lie over their peak load, and the CPU seconds of all.
set -eu
if [ "${1:-}" = families ]; then
    berth=${2:-${CARGO_TARGET_DIR:-target}/release/berth}
    list=$(mktemp)
    times=$(mktemp)
    said=$(mktemp)
    trap 'rm -f "$list" "$times" "$said"' EXIT
    sed -n 's/^model name[^:]*: /machine: /p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//'
    printf '%-18s %8s %8s %8s\n' family n '/ load' seconds
    for family in $(cargo run --release --quiet -p berth-compiler --example spans); do
        cargo run --release --quiet -p berth-compiler --example spans -- "$family" 100000 >"$list"
        sh -c '"$1" offsets "$2" --capacity 9223372036854775807 2>&1 >/dev/null | cat >"$3"; times >"$4"' \
            - "$berth" "$list" "$said" "$times"
        seconds=$(awk 'END { n = split($0, t, /[ms ]+/); print t[1] * 60 + t[2] + t[3] * 60 + t[4] }' "$times")
        ratio=$(sed -n 's/^height: \([0-9]*\); peak load: \([0-9]*\);.*/\1 \2/p' "$said" | awk '{ printf "%.4f", $1 / $2 }')
        printf '%-18s %8s %8s %8s\n' "$family" "$(($(wc -l <"$list") - 1))" "$ratio" "$seconds"
    done
    exit
fi
folder=${1:?the folder of cases}
berth=${2:-${CARGO_TARGET_DIR:-target}/release/berth}
reference=$(dirname "$folder")/reference_times.csv
placed=$(mktemp)
times=$(mktemp)
said=$(mktemp)
trap 'rm -f "$placed" "$times" "$said"' EXIT
printf '%-12s %8s %10s %10s %10s  %s\n' case buffers seconds nodes reference valid
total=0
for file in "$folder"/*.csv; do
    name=$(basename "$file" .csv)
    capacity=${name##*.}
    # User and system seconds of one run; `times` prints those of ended children last.
    : >"$times"
    sh -c '"$1" offsets "$2" --capacity "$3" >"$4" || exit 0; times >"$5"' - "$berth" "$file" "$capacity" "$placed" "$times" 2>"$said"
    nodes=$(sed -n 's/.*nodes: //p' "$said")
    seconds=$(awk 'END { n = split($0, t, /[ms ]+/); print t[1] * 60 + t[2] + t[3] * 60 + t[4] }' "$times")
    # Each pair, slowly and plainly.
    valid=$(awk -F, -v capacity="$capacity" '
        NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        { n++; from[n] = $at["lower"]; to[n] = $at["upper"]; low[n] = $at["offset"]; high[n] = low[n] + $at["size"] }
        END {
            for (i = 1; i <= n; i++) {
                if (low[i] < 0 || high[i] > capacity) bad++
                for (j = 1; j < i; j++)
                    if (from[i] < to[j] && from[j] < to[i] && low[i] < high[j] && low[j] < high[i]) bad++
            }
            print (n && !bad) ? "yes" : "NO"
        }' "$placed")
    known=-
    [ -f "$reference" ] && known=$(awk -F, -v name="${name%%.*}" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == "minimalloc_cpu_s_median3") at = i; next }
        $1 == name { print $at }' "$reference")
    buffers=$(($(wc -l <"$file") - 1))
    printf '%-12s %8s %10s %10s %10s  %s\n' "${name%%.*}" "$buffers" "$seconds" "$nodes" "${known:--}" "$valid"
    total=$(echo "$total $seconds" | awk '{ print $1 + $2 }')
done
printf '%-12s %8s %10s\n' sum "" "$total"
