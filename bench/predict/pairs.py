"""Two builds of berth side by side, where weights stream: pairs.py BEFORE AFTER FOLDER STEPS ROUNDS [all].

With `all`, at every point of `predict.py`.

BEFORE and AFTER are two `berth` commands; FOLDER is what `run.sh` has filled. In each round both calibrate, then take turns at each
point: what the machine does otherwise meets both alike.
"""

import os
import statistics
import sys
from pathlib import Path

from predict import MID, Berth, points, words


def streamed(folder):
    """The points at which weights come from the disk in each step."""
    for model, dims, cap in points(folder):
        waits = model.stem == "decoder" or cap in ("50%", "25%") or "batch=1" in dims
        if waits and cap != "100%":
            yield model, dims, cap


def main(before, after, folder, steps, rounds, which="streamed"):
    folder = Path(folder)
    builds = [Berth(before, folder, steps, "before.ron"), Berth(after, folder, steps, "after.ron")]
    met = list(points(folder) if which == "all" else streamed(folder))
    errors, ratios = [[], []], []
    print(f"{'model':<18}{'cap':>5}{'before: predicted':>20}{'measured':>12}{'after: predicted':>20}{'measured':>12}{'steps':>8}")
    for turn in range(int(rounds)):
        for berth in builds:
            berth.call("calibrate", "--folder", folder, "-o", berth.target, "--rounds", 3)
        for model, dims, cap in met:
            seen = [None, None]
            for which in (0, 1) if turn % 2 == 0 else (1, 0):
                berth = builds[which]
                more = ["--memory", f"device={cap}", "--weights", builds[0].pack(model, dims)]
                ran = berth.run(model, dims, *words("--dim", dims), *more)
                seen[which] = ran["plan"]["predicted_nanos"] / 1e6, ran["measured_step_nanos"] / 1e6
                errors[which].append(seen[which][0] / seen[which][1] - 1)
            ratios.append(seen[1][1] / seen[0][1])
            figures = "".join(f"{predicted:>17.1f} ms{measured:>9.1f} ms" for predicted, measured in seen)
            print(f"{model.stem:<18}{cap:>5}{figures}{ratios[-1]:>7.2f}x", flush=True)
    for name, found in zip(("before", "after"), errors):
        sizes = sorted(map(abs, found))
        p95 = sizes[min(len(sizes) - 1, int(len(sizes) * 0.95))]
        signed = statistics.median(found)
        print(f"{name}: median error {statistics.median(sizes):.1%}, p95 {p95:.1%}, median of signed errors {signed:+.1%}")
    print(f"steps after by steps before: median {statistics.median(ratios):.2f}; load {os.getloadavg()[1]:.1f}")


main(*sys.argv[1:])
