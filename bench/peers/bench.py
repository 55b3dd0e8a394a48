"""Runs berth and its peers with all memory and under limits, and prints what they took: `run.sh` calls it."""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import statistics
import sys
import time

import numpy

import cgroup
import make
import model
import reader

HERE = os.path.dirname(os.path.abspath(__file__))
# What each process has beside the part of the weights: its code, libraries, activations, buffers of what it moves.
BESIDE = 512 << 20
PAST, PREFILL = 127, 16
# Compute of the prefill that is to be hidden behind, over what the disk takes.
COMPUTE_OVER_READ = 1.25
PEERS = {
    "ort": "ONNX Runtime, mapped",
    "ort-prepacked": "ONNX Runtime, as it is by default",
    "loop": "two-buffer look-ahead loop",
    "accelerate": "Accelerate, disk offload",
    "llama": "llama.cpp, mapped",
}


class Bench:
    def __init__(self, folder, berth, steps):
        self.folder, self.berth_path, self.steps = folder, berth, steps
        self.data = folder + "/model"
        self.alone = {}

    def python(self, peer):
        return f"{self.folder}/env{'-' + peer if peer in ('accelerate', 'llama') else ''}/bin/python"

    def files(self):
        names = ["weights.safetensors", "model.gguf"]
        return [p for p in (f"{self.data}/{name}" for name in names) if os.path.exists(p)]

    def peer(self, name, part, steps):
        """One peer: told numbers, or why there are none."""
        script = {
            "ort": ["onnx_runtime.py"],
            "ort-prepacked": ["onnx_runtime.py"],
            "loop": ["look_ahead.py"],
            "accelerate": ["accelerate_disk.py"],
            "llama": ["llama_cpp_mmap.py"],
        }[name]
        result = f"{self.folder}/{name}"
        words = [self.python(name), f"{HERE}/{script[0]}", self.data, f"{self.data}/decode.npz", result, str(steps)]
        if name == "ort-prepacked":
            words.append("prepacked")
        if name in ("loop", "accelerate"):
            words.append(str(1 << 40 if part is None else part))
        cgroup.forget(*self.files())
        run = cgroup.Run(words, None if part is None else part + BESIDE)
        if run.killed or run.late:
            return {"why": "killed by the limit" if run.killed else "took longer than ten minutes", "peak": run.peak}
        if run.code != 0:
            return {"why": (run.err.strip().splitlines() or ["no word"])[-1][:60], "peak": run.peak}
        with open(result + ".json") as file:
            told = json.load(file)
        return told | {"outputs": dict(numpy.load(result + ".npz")), "peak": run.peak}

    def berth(self, dims, inputs, device, steps, outputs=None, against=None):
        """One run of berth; its report, and the bytes that the disk brought."""
        words = [self.berth_path, "run", self.data + "/model.onnx", "--inputs", f"{self.data}/{inputs}.npz"]
        words += [word for dim in dims for word in ("--dim", dim)]
        words += ["--steps", str(steps), "--format", "json", "--observe", self.folder + "/seen.ron"]
        words += ["--outputs", outputs] if outputs else []
        words += ["--against", against] if against else []
        words += [] if device is None else ["--memory", f"device={device}B"]
        cgroup.forget(*self.files())
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
        run = cgroup.Run(words, None if device is None else device + BESIDE)
        if run.killed or run.code != 0:
            return {"why": "killed by the limit" if run.killed else run.err.strip()[-200:], "peak": run.peak}
        told = json.loads(run.out)
        read = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - before) * 512
        # From the start of the command to the end of the first step: planning, measuring and loading too.
        cold = run.took - (steps - 1) * told["measured_step_nanos"] / 1e9
        return told | {"read": read, "peak": run.peak, "cold": cold}


def gb(count):
    return f"{count / 1e9:.2f}"


def row(name, cold, warm, alone, bound, read, peak, said):
    slower = f"{warm / alone:.1f} x" if alone else "-"
    over = f"{warm / bound:.2f} x" if bound else "-"
    high = f"{peak / 1e9:.2f}" if peak else "-"
    print(f"{name:<34}{cold:>9.2f}{warm * 1e3:>10.0f}{slower:>10}{over:>9}{gb(read):>9}{high:>8}  {said}", flush=True)


def heading():
    print(f"{'':<34}{'cold s':>9}{'warm ms':>10}{'/ alone':>10}{'/ bound':>9}{'GB read':>9}{'peak GB':>8}  outputs")


def differ(outputs, reference):
    """The largest difference, relative to the largest value of that output."""
    far = lambda name: float(abs(outputs[name] - reference[name]).max() / abs(reference[name]).max())
    return f"off by {max(far(name) for name in outputs):.1e}"


def decode_dims(past):
    return ["seq=1", f"past={past}", f"total={past + 1}"]


def in_memory(bench, only):
    """Every system with all the memory that it wants, each system's own measure of itself."""
    print("With all memory, nothing streams:")
    heading()
    references = {}
    if "berth" in only:
        whole = bench.folder + "/whole.npz"
        told = bench.berth(decode_dims(PAST), "decode", None, bench.steps, outputs=whole)
        if "why" in told:
            raise SystemExit(f"error: berth: {told['why']}")
        bench.alone["berth"] = told["measured_step_nanos"] / 1e9
        references["berth"] = {n.removeprefix("out:"): v for n, v in numpy.load(whole).items() if not n.startswith("in:")}
        row("berth", told["cold"], bench.alone["berth"], None, None, 0, None, "")
    for name in only:
        if name not in PEERS:
            continue
        told = bench.peer(name, None, bench.steps)
        if "why" in told:
            print(f"{PEERS[name]:<34} {told['why']}", flush=True)
            continue
        bench.alone[name] = statistics.median(told["seconds"][1:])
        references.setdefault("all", references.get("berth") or told["outputs"])
        said = differ(told["outputs"], references["all"])
        cold = told["load"] + told["seconds"][0]
        row(PEERS[name], cold, bench.alone[name], None, None, told["read"][-1], None, said)
    references.setdefault("all", references.get("berth"))
    return references["all"]


ROUNDS = 3


def berth_part(bench, part):
    """Rounds of berth with an independent reader before and after each; the round in the middle by its ratio."""
    path, rounds = bench.data + "/weights.safetensors", []
    for _ in range(ROUNDS):
        before = reader.rate(path)
        told = bench.berth(decode_dims(PAST), "decode", part, bench.steps, against=bench.folder + "/whole.npz")
        if "why" in told:
            return told
        after = reader.rate(path)
        plan = told["plan"]
        planned = plan["traffic"]["read"]
        own = max(int(link["rate"].removesuffix("B/s")) for link in told["observed"]["links"])
        rate = max(own, (before + after) / 2)
        warm = told["measured_step_nanos"] / 1e9
        bound = max(bench.alone["berth"], plan["traffic_bound_bytes"] / rate)
        read = (told["read"] - plan["resident_bytes"]) / bench.steps
        rounds.append(
            {
                "warm": warm,
                "cold": told["cold"],
                "over": warm / bound,
                "bound": bound,
                "rate": rate,
                "own": own,
                "reader": (before + after) / 2,
                "read": read,
                "planned": planned,
                "least": plan["traffic_bound_bytes"],
                "peak": told["peak"],
                "different": told["against"]["different"],
            }
        )
    rounds.sort(key=lambda told: told["over"])
    return rounds[len(rounds) // 2] | {"all": [told["over"] for told in rounds]}


def part_of(bench, only, percent, weights, reference):
    part = weights * percent // 100
    limit = part + BESIDE
    print(f"\nDecode with {percent} % of the weights' {gb(weights)} GB, limit {gb(limit)} GB ({BESIDE >> 20} MiB beside the part):")
    heading()
    bound, warm = None, None
    if "berth" in only:
        told = berth_part(bench, part)
        if "why" in told:
            print(f"{'berth':<34} {told['why']}", flush=True)
        else:
            bound, warm = told["bound"], told["warm"]
            bits = f"{len(told['different'])} outputs differ" if told["different"] else "bits of its own run with all memory"
            row("berth", told["cold"], warm, bench.alone["berth"], bound, told["read"], told["peak"], bits)
            print(
                f"  bound {bound * 1e3:.0f} ms: {gb(told['least'])} GB must come at {told['rate'] / 1e9:.2f} GB/s "
                f"(berth's link {told['own'] / 1e9:.2f}, independent reader {told['reader'] / 1e9:.2f}); "
                f"read {told['read'] / told['planned']:.3f} of what was planned; "
                f"/ bound in {len(told['all'])} rounds: {', '.join(f'{over:.2f}' for over in told['all'])}"
            )
    for name in only:
        if name not in PEERS:
            continue
        told = bench.peer(name, part, 4)
        if "why" in told:
            print(f"{PEERS[name]:<34} {told['why']}", flush=True)
            continue
        slow, read = statistics.median(told["seconds"][1:]), statistics.median(told["read"][1:])
        said = differ(told["outputs"], reference) + (f"; berth is {slow / warm:.1f} x faster" if warm else "")
        cold = told["load"] + told["seconds"][0]
        row(PEERS[name], cold, slow, bench.alone.get(name), bound, read, told["peak"], said)


def prefill(bench, weights):
    """Memory such that compute takes so many times what the disk does for what must come."""
    dims = [f"seq={PREFILL}", "past=0", f"total={PREFILL}"]
    whole = bench.folder + "/prefill-whole.npz"
    told = bench.berth(dims, "prefill", None, 4, outputs=whole)
    if "why" in told:
        return print(f"\nPrefill: {told['why']}")
    compute = told["measured_step_nanos"] / 1e9
    rate = statistics.median(reader.rate(bench.data + "/weights.safetensors") for _ in range(3))
    stream = min(compute / COMPUTE_OVER_READ * rate, weights * 0.9)
    device = int(sum(told["plan"]["peak"].values()) - stream)
    told = bench.berth(dims, "prefill", device, 6, against=whole)
    if "why" in told:
        return print(f"\nPrefill: {told['why']}")
    step, stall = told["measured_step_nanos"], told["measured_stall_nanos"]
    read = told["plan"]["traffic"]["read"]
    differs = told["against"]["different"]
    print(
        f"\nPrefill of {PREFILL} tokens, device {gb(device)} GB: compute alone {compute * 1e3:.0f} ms, "
        f"{gb(read)} GB at {rate / 1e9:.2f} GB/s: {read / rate * 1e3:.0f} ms ({compute / (read / rate):.2f} x)\n"
        f"  step {step / 1e6:.0f} ms, stalls {stall / 1e6:.0f} ms: {stall / step:.1%} of it; step / compute alone "
        f"{step / 1e9 / compute:.2f}; " + (f"{len(differs)} outputs differ" if differs else "bits of the run with all memory")
    )


def main():
    # An end from outside is an end like others: groups and files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    words = argparse.ArgumentParser(prog="bench/peers/run.sh")
    words.add_argument("folder")
    words.add_argument("berth")
    words.add_argument("--only", default="berth,ort,loop,accelerate,llama")
    words.add_argument("--size", type=float, default=4e9)
    words.add_argument("--parts", default="25,50,75")
    words.add_argument("--steps", type=int, default=10)
    told = words.parse_args()
    only = [name for name in told.only.split(",") if name]
    unknown = [name for name in only if name not in {"berth", *PEERS}]
    if unknown or not 3e8 <= told.size <= 64e9 or told.steps < 3:
        words.error(f"unknown: {', '.join(unknown)}" if unknown else "--size is 3e8 to 64e9, --steps at least 3")
    try:
        parts = [int(part) for part in told.parts.split(",")]
    except ValueError:
        parts = [0]
    if not all(0 < part < 100 for part in parts):
        words.error(f"--parts is percentages of 1 to 99 with commas between them, not `{told.parts}`")
    if "ort" in only:
        only.insert(only.index("ort") + 1, "ort-prepacked")
    try:
        cgroup.Limit(1 << 30).close()
    except cgroup.NoLimit as error:
        raise SystemExit(f"error: {error}") from None
    bench = Bench(told.folder, told.berth, told.steps)
    # A second form of the weights is made for llama.cpp.
    need, free = int(told.size * (2.2 if "llama" in only else 1.1)), shutil.disk_usage(told.folder).free
    if not os.path.exists(bench.data + "/made.json") and free < need:
        raise SystemExit(f"error: {told.folder} has {gb(free)} GB free, {gb(need)} are needed: name another with --folder, or a smaller --size")
    made = make.make(bench.data, told.size)
    weights = made["bytes"]
    if not os.path.exists(bench.data + "/decode.npz"):
        run = cgroup.Run([bench.python("ort"), HERE + "/inputs.py", bench.data, str(PAST), str(PREFILL)])
        if run.code != 0:
            raise SystemExit(f"error: the prompt could not be computed: {run.err.strip()[-300:]}")
    if "llama" in only:
        run = cgroup.Run([bench.python("llama"), HERE + "/llama_cpp_mmap.py", bench.data, "write"])
        if run.code != 0:
            print(f"llama.cpp is left out: {run.err.strip()[-200:]}")
            only.remove("llama")
    try:
        with open("/proc/cpuinfo") as file:
            processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), "unknown")
        print(f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores of {processor}, Linux {platform.release()}")
        print(f"{made['layers']} layers, {gb(weights)} GB of f32 weights, one token behind {PAST}\n")
        reference = in_memory(bench, only)
        beside = statistics.median(reader.rate_beside_compute(bench.data + "/weights.safetensors", 2 << 30) for _ in range(3))
        free = statistics.median(reader.rate(bench.data + "/weights.safetensors", most=2 << 30) for _ in range(3))
        print(f"\nThe independent reader: {free / 1e9:.2f} GB/s alone, {beside / 1e9:.2f} GB/s while all cores compute.")
        for percent in parts:
            part_of(bench, only, percent, weights, reference)
        if "berth" in only:
            prefill(bench, weights)
        print("\nProcesses that wanted a core, over the last 1, 5 and 15 minutes: " + ", ".join(f"{n:.1f}" for n in os.getloadavg()))
    finally:
        if os.path.exists(bench.data + "/model.gguf"):
            os.remove(bench.data + "/model.gguf")


if __name__ == "__main__":
    sys.exit(main())
