#!/bin/sh
# Prints a table of what orders of tasks hold: the graph's own order, ours, the least of all orders where a plain search
# over sets of tasks finds it, our bound, the gap, and CPU seconds of ours.
#
#     bench/order.sh [SETS]           families of graphs of 14 to 100,000 tasks
#     bench/order.sh [SETS] FILE ..   files of lifetimes, as `berth inspect --ir` prints them
#
# SETS, 3,000,000 unless told, is how many sets the plain search looks at: of 100 bytes each, a few seconds.
# A gap with `<` before it is the one to the bound, as the least is not known.
set -eu
sets=${1:-3000000}
[ $# -eq 0 ] || shift
sed -n 's/^model name[^:]*: /machine: /p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *//'
table() {
    cargo run --release --quiet -p berth-compiler --example order_table -- "$@"
}
if [ $# -gt 0 ]; then
    table "$sets" "$@"
    exit
fi
for tasks in 14 24 36 48 60; do
    for seed in 0 1 2; do
        table "$sets" "$tasks" "$seed"
    done
done
for tasks in 120 1000 10000 100000; do
    table 0 "$tasks" 0
done
