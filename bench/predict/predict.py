"""Predicted and measured steps: predict.py BERTH FOLDER STEPS ROUNDS.

The folder has decoder.onnx, encoder.onnx and cnn.onnx; what is made goes there too. A point is planned with costs that are
measured in the same process and links as `berth calibrate` found them, then run; the median step counts, and of so many
rounds of all points, then of all strategies, the middle one.
"""

import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

MODELS = Path("models")
BERT, MID, VIT = (MODELS / f"{name}.onnx" for name in ("bert_encoder", "llama_mid_decode", "vit_small"))


def points(folder):
    """Model, dims, cap of the device."""
    for name in ("decoder", "encoder", "cnn"):
        for cap in ("100%", "75%", "50%", "25%"):
            yield folder / f"{name}.onnx", [], cap
    for batch, caps in ((1, ("60%", "30%")), (4, ("60%", "30%"))):
        for cap in caps:
            yield MID, [f"batch={batch}", "seq=1", "past=63"], cap
    for batch in (4, 16):
        yield VIT, [f"batch={batch}"], "100%"
    for batch in (2, 8):
        yield BERT, [f"batch={batch}", "seq=64"], "100%"


class Berth:
    """The command, on a target, with a pack of each model's weights."""

    def __init__(self, command, folder, steps, target="calibrated.ron"):
        self.command, self.folder, self.steps = command, folder, steps
        self.target = str(folder / target)
        self.packs = {}

    def call(self, *words):
        ran = subprocess.run([self.command, *map(str, words)], capture_output=True, text=True)
        if ran.returncode != 0:
            sys.exit(f"berth {' '.join(map(str, words))}\n{ran.stderr}")
        return ran.stdout

    def pack(self, model, dims):
        if model not in self.packs:
            self.packs[model] = self.folder / f"{model.stem}.berth"
            self.call("pack", model, *words("--dim", dims), "-o", self.packs[model])
        return self.packs[model]

    def run(self, file, dims, *more):
        common = ["--target", self.target, "--steps", self.steps, "--format", "json"]
        return json.loads(self.call("run", file, *common, *more))


def words(option, values):
    return [word for value in values for word in (option, value)]


def tau(pairs):
    """Kendall's rank correlation of two lists of numbers, given in pairs."""
    order = [
        ((a[0] > b[0]) - (a[0] < b[0])) * ((a[1] > b[1]) - (a[1] < b[1]))
        for n, a in enumerate(pairs)
        for b in pairs[:n]
    ]
    return sum(order) / max(len(order), 1)


def run_point(berth, point):
    """Predicted and measured step, in nanoseconds, and the part of it that is a stall."""
    model, dims, cap = point
    pack = berth.pack(model, dims)
    seen = berth.run(model, dims, *words("--dim", dims), "--memory", f"device={cap}", "--weights", pack)
    measured = seen["measured_step_nanos"]
    return seen["plan"]["predicted_nanos"], measured, seen["measured_stall_nanos"] / measured


def in_turns(rounds, run, of):
    """What `run` gives for each, in as many rounds of all: what the machine does meanwhile bears on all alike."""
    seen = [[run(one) for one in of] for _ in range(rounds)]
    return [list(one) for one in zip(*seen)]


def middle(values):
    return statistics.median(values)


def main(command, folder, steps, rounds):
    folder, rounds = Path(folder), int(rounds)
    berth = Berth(command, folder, steps)
    berth.call("seed-weights", MID) if not (MODELS / "llama_mid_decode.weights.bin").exists() else None
    # A pack as all these runs read; it is new, as theirs are.
    pack = berth.pack(folder / "decoder.onnx", [])
    print(berth.call("calibrate", "--file", pack, "-o", berth.target).strip())
    errors = predict_points(berth, list(points(folder)), rounds)
    errors.sort()
    # By nearest rank: of twenty the one before the last.
    p95 = errors[math.ceil(len(errors) * 0.95) - 1]
    print(f"{len(errors)} points: median error {middle(errors):.1%}, p95 {p95:.1%}, largest {errors[-1]:.1%}\n", flush=True)
    print(f"{'model':<18}{'cap':>6}  {'strategy':<14}{'predicted':>12}{'measured':>12}")
    cases = (("decoder", "50%"), ("encoder", "30%"), ("cnn", "50%"))
    taus = [rank(berth, folder / f"{name}.onnx", cap, rounds) for name, cap in cases]
    print(f"tau: {', '.join(f'{t:.2f}' for t in taus)}")


def predict_points(berth, all_points, rounds):
    """The error of each point: of its rounds the middle one by that."""
    print(f"\n{'model':<18}{'cap':>6}  {'dims':<24}{'predicted':>12}{'measured':>12}{'error':>8}{'stalls':>8}  all rounds")
    errors = []
    for (model, dims, cap), seen in zip(all_points, in_turns(rounds, lambda point: run_point(berth, point), all_points)):
        signed = sorted((predicted - measured) / measured for predicted, measured, _ in seen)
        predicted, measured, stalls = (middle(column) for column in zip(*seen))
        errors.append(abs(middle(signed)))
        print(
            f"{model.stem:<18}{cap:>6}  {' '.join(dims):<24}{predicted / 1e6:>9.2f} ms{measured / 1e6:>9.2f} ms"
            f"{middle(signed):>+8.1%}{stalls:>8.0%}  {' '.join(f'{error:+.1%}' for error in signed)}",
            flush=True,
        )
    return errors


def rank(berth, model, cap, rounds):
    """Kendall's tau of the strategies of `berth compare`, predicted and run in turns."""
    plans = berth.folder / f"{model.stem}-plans"
    plans.mkdir(exist_ok=True)
    for old in plans.iterdir():
        old.unlink()
    common = ["--target", berth.target, "--memory", f"device={cap}", "--measure", "--format", "json"]
    table = json.loads(berth.call("compare", model, *common, "--save", plans))
    rows = [row for row in table["rows"] if row.get("figures")]

    def run(row):
        plan = plans / f"{row['strategy']}.ron"
        return berth.run(plan, [], "--model", model, "--weights", berth.pack(model, []))["measured_step_nanos"]

    pairs = []
    for row, measured in zip(rows, in_turns(rounds, run, rows)):
        pairs.append((row["figures"]["predicted_nanos"], middle(measured)))
        predicted, measured = pairs[-1]
        print(
            f"{model.stem:<18}{cap:>6}  {row['strategy']:<14}{predicted / 1e6:>9.2f} ms{measured / 1e6:>9.2f} ms", flush=True
        )
    print(f"{'':<18}{'':>6}  Kendall's tau {tau(pairs):.2f}")
    return tau(pairs)


if __name__ == "__main__":
    main(*sys.argv[1:])
