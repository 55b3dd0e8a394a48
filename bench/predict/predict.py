"""Predicted and measured steps: predict.py BERTH FOLDER STEPS.

The folder has decoder.onnx, encoder.onnx and cnn.onnx; what is made goes there too. A point is planned with costs that are
measured in the same process and links as `berth calibrate` found them, then run; the median step counts.
"""

import json
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


def main(command, folder, steps):
    folder = Path(folder)
    berth = Berth(command, folder, steps)
    print(berth.call("calibrate", "--folder", folder, "-o", berth.target).strip())
    berth.call("seed-weights", MID) if not (MODELS / "llama_mid_decode.weights.bin").exists() else None
    print(f"\n{'model':<18}{'cap':>6}  {'dims':<24}{'predicted':>12}{'measured':>12}{'error':>8}{'stalls':>8}")
    errors = []
    for model, dims, cap in points(folder):
        pack = berth.pack(model, dims)
        seen = berth.run(model, dims, *words("--dim", dims), "--memory", f"device={cap}", "--weights", pack)
        predicted, measured = seen["plan"]["predicted_nanos"], seen["measured_step_nanos"]
        errors.append(abs(predicted - measured) / measured)
        stalls = seen["measured_stall_nanos"] / measured
        print(
            f"{model.stem:<18}{cap:>6}  {' '.join(dims):<24}{predicted / 1e6:>9.2f} ms{measured / 1e6:>9.2f} ms"
            f"{(predicted - measured) / measured:>+8.1%}{stalls:>8.0%}",
            flush=True,
        )
    errors.sort()
    p95 = errors[min(len(errors) - 1, int(len(errors) * 0.95))]
    print(f"{len(errors)} points: median error {statistics.median(errors):.1%}, p95 {p95:.1%}\n")
    print(f"{'model':<18}{'cap':>6}  {'strategy':<14}{'predicted':>12}{'measured':>12}")
    taus = []
    for name, cap in (("decoder", "50%"), ("encoder", "30%"), ("cnn", "50%")):
        model = folder / f"{name}.onnx"
        plans = folder / f"{name}-plans"
        plans.mkdir(exist_ok=True)
        for old in plans.iterdir():
            old.unlink()
        common = ["--target", berth.target, "--memory", f"device={cap}", "--measure", "--format", "json"]
        table = json.loads(berth.call("compare", model, *common, "--save", plans))
        pairs = []
        for row in table["rows"]:
            if not row.get("figures"):
                continue
            plan = plans / f"{row['strategy']}.ron"
            measured = berth.run(plan, [], "--model", model, "--weights", berth.pack(model, []))["measured_step_nanos"]
            predicted = row["figures"]["predicted_nanos"]
            pairs.append((predicted, measured))
            print(
                f"{name:<18}{cap:>6}  {row['strategy']:<14}{predicted / 1e6:>9.2f} ms{measured / 1e6:>9.2f} ms",
                flush=True,
            )
        taus.append(tau(pairs))
        print(f"{'':<18}{'':>6}  Kendall's tau {taus[-1]:.2f}")
    print(f"tau: {', '.join(f'{t:.2f}' for t in taus)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
