"""Times `berth run --numerics fast` beside plain ONNX Runtime, in pairs: pairs.py BERTH PAIRS STEPS MODEL.onnx...

Plain is the Python package with its defaults (all optimisations, packed weights, threads that spin), the same number of
threads, and inputs and outputs bound once. Each side is a process of its own; the order within a pair alternates.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

THREADS = 2


def plain(model, inputs, steps):
    """Median of a step in nanoseconds; prints outputs' names with their values to a file."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    arrays = np.load(inputs)
    for port in session.get_inputs():
        name = port.name if port.name in arrays else f"in:{port.name}"
        binding.bind_cpu_input(port.name, arrays[name])
    for port in session.get_outputs():
        binding.bind_output(port.name, "cpu")
    session.run_with_iobinding(binding)
    # The buffers of the first run take the outputs of the others.
    for port, value in zip(session.get_outputs(), binding.get_outputs()):
        binding.bind_ortvalue_output(port.name, value)
    times = []
    for _ in range(steps):
        began = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        times.append(time.perf_counter_ns() - began)
    outputs = {port.name: value.numpy() for port, value in zip(session.get_outputs(), binding.get_outputs())}
    np.savez(f"{model}.plain.npz", **outputs)
    return statistics.median(times)


def fast(berth, model, inputs, steps):
    command = [berth, "run", model, "--inputs", inputs, "--numerics", "fast", "--threads", str(THREADS)]
    command += ["--steps", str(steps), "--format", "json", "--outputs", f"{model}.fast.npz"]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(ran.stdout)
    return report["measured_step_nanos"], report["plan"]["tasks"]


def difference(model):
    """The largest difference to plain, as a part of the largest value, over all outputs."""
    a, b = np.load(f"{model}.plain.npz"), np.load(f"{model}.fast.npz")
    return max(float(np.abs(a[n] - b[n]).max() / max(np.abs(a[n]).max(), 1e-30)) for n in a.files)


def main(berth, pairs, steps, models):
    print(f"{'model':<24}{'plain':>10}{'fast':>10}{'ratio':>8}  {'quartiles':<14}{'tasks':>6}  difference")
    for model in models:
        inputs = str(Path(model).with_suffix(".npz"))
        seen = []
        for pair in range(int(pairs)):
            sides = {}
            for side in ("plain", "fast") if pair % 2 == 0 else ("fast", "plain"):
                if side == "fast":
                    sides[side], tasks = fast(berth, model, inputs, steps)
                else:
                    ran = subprocess.run(
                        [sys.executable, __file__, "--plain", model, inputs, steps],
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    sides[side] = float(ran.stdout)
            seen.append((sides["fast"] / sides["plain"], sides["plain"], sides["fast"]))
        ratios = sorted(ratio for ratio, _, _ in seen)
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        us = [statistics.median(one[n] for one in seen) / 1e3 for n in (1, 2)]
        name = Path(model).stem
        print(
            f"{name:<24}{us[0]:>7.0f} us{us[1]:>7.0f} us{statistics.median(ratios):>8.3f}"
            f"  {low:.3f} {high:.3f}   {tasks:>6}  {difference(model):.1e}",
            flush=True,
        )


if sys.argv[1] == "--plain":
    print(plain(sys.argv[2], sys.argv[3], int(sys.argv[4])))
else:
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:])
