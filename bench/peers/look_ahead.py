"""A loop as one writes it by hand: layers that fit stay, the others come into two buffers, one read while the other is used.

    look_ahead.py FOLDER INPUTS RESULT STEPS BYTES

BYTES is the memory for weights, buffers included. Layers that stay are spread evenly, reads pass the page cache by, and the
first layers of the next step are on their way when this one ends. Each layer is one call of ONNX Runtime, with its weights
bound where they lie.
"""

import json
import mmap
import os
import queue
import sys
import threading
import time

import numpy
import onnxruntime
from onnx import TensorProto, helper

import make
import measure
import model

BLOCK, DEPTH = 4 << 20, 8


class Stage:
    """One call: where its weights lie in the file, and what it computes."""

    def __init__(self, nodes, constants, inputs, outputs, shapes, places):
        value = helper.make_tensor_value_info
        self.shapes = shapes
        self.start = places[next(iter(shapes))]
        self.bytes = model.size(shapes)
        self.at = {name: places[name] - self.start for name in shapes}
        self.names = [name for name, _ in outputs]
        self.given = [name for name, _ in inputs]
        fed = [value(n, TensorProto.FLOAT, s) for n, s in inputs + list(shapes.items())]
        used = [c for c in constants if any(c.name in node.input for node in nodes)]
        made = helper.make_graph(nodes, "stage", fed, [value(n, TensorProto.FLOAT, s) for n, s in outputs], used)
        whole = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 2
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(whole.SerializeToString(), options)

    def run(self, memory, given):
        binding = self.session.io_binding()
        for name in self.given:
            binding.bind_cpu_input(name, given[name])
        for name, shape in self.shapes.items():
            start = memory.ctypes.data + self.at[name]
            binding.bind_input(name, "cpu", 0, numpy.float32, shape, start)
        for name in self.names:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return dict(zip(self.names, binding.copy_outputs_to_cpu()))


def stages(layers, places):
    """One for each layer, one for the head; their nodes are those of the whole model."""
    g, inputs, outputs = make.graph(layers)
    shape = lambda v: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]
    shapes = {v.name: shape(v) for v in inputs + outputs}
    rows = [1, "seq", model.HIDDEN]
    made, x = [], "x"
    for layer in range(layers):
        name = f"layers.{layer}."
        nodes = [n for n in g.nodes if n.name.startswith(name) or n.name.startswith(f"present.{layer}.")]
        fed = [x, "cos", "sin", "mask", f"past.{layer}.k", f"past.{layer}.v"]
        given = [name + "out", f"present.{layer}.k", f"present.{layer}.v"]
        sized = lambda names: [(n, shapes.get(n, rows)) for n in names]
        made.append(Stage(nodes, g.constants, sized(fed), sized(given), model.layer_weights(layer), places))
        x = name + "out"
    head = {n: s for n, s in model.weights(0).items()}
    nodes = [n for n in g.nodes if n.name.startswith("normed") or n.name == "logits"]
    made.append(Stage(nodes, g.constants, [(x, rows)], [("logits", shapes["logits"])], head, places))
    return made


def room(length):
    """Memory of large pages."""
    memory = mmap.mmap(-1, max(length, 2 << 20), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return numpy.frombuffer(memory, numpy.uint8)[:length]


class Reader:
    """Threads that read blocks; a stage is there when all of its blocks are."""

    def __init__(self, path):
        self.file = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.blocks = queue.SimpleQueue()
        for _ in range(DEPTH):
            threading.Thread(target=self.work, daemon=True).start()

    def work(self):
        while True:
            at, target, done = self.blocks.get()
            if os.preadv(self.file, [target], at) != len(target):
                raise OSError(f"a read at {at} came short")
            done.release()

    def begin(self, stage, memory):
        """Hands all blocks over; `wait` on what comes back."""
        done, parts = threading.Semaphore(0), range(0, stage.bytes, BLOCK)
        for at in parts:
            self.blocks.put((stage.start + at, memoryview(memory)[at : min(at + BLOCK, stage.bytes)], done))
        return lambda: [done.acquire() for _ in parts]


class Loop:
    def __init__(self, folder, layers, most):
        with open(folder + "/weights.safetensors", "rb") as file:
            skip = int.from_bytes(file.read(8), "little")
            told = json.loads(file.read(skip))
        places = {name: 8 + skip + what["data_offsets"][0] for name, what in told.items()}
        self.stages = stages(layers, places)
        self.reader = Reader(folder + "/weights.safetensors")
        count = len(self.stages)
        # As many as fit beside two buffers come and go; they are spread evenly, the head stays first of all.
        for coming in range(count + 1):
            moving = [coming and (place + 1) * coming // count > place * coming // count for place in range(count)]
            buffers = [s.bytes for s, moves in zip(self.stages, moving) if moves]
            stays = sum(s.bytes for s, moves in zip(self.stages, moving) if not moves)
            if stays + min(2, coming) * max(buffers, default=0) <= most:
                break
        else:
            raise SystemExit(f"two buffers for the largest layer need more than {most} bytes")
        self.moving = [place for place in range(count) if moving[place]]
        self.buffers = [room(max(buffers)) for _ in range(min(2, coming))]
        self.memory = {place: room(self.stages[place].bytes) for place in range(count) if not moving[place]}
        for place, memory in self.memory.items():
            self.reader.begin(self.stages[place], memory)()
        self.next, self.coming = 0, {}
        for _ in self.buffers:
            self.ahead()

    def ahead(self):
        """Begins the next one that comes, into the buffer that is free."""
        place = self.moving[self.next % len(self.moving)]
        memory = self.buffers[self.next % len(self.buffers)]
        self.coming.setdefault(place, []).append((memory, self.reader.begin(self.stages[place], memory)))
        self.next += 1

    def step(self, given):
        given, outputs = dict(given), {}
        for place, stage in enumerate(self.stages):
            memory = self.memory.get(place)
            if memory is None:
                memory, wait = self.coming[place].pop(0)
                wait()
            got = stage.run(memory, given)
            given |= got
            outputs |= {name: what for name, what in got.items() if not name.endswith(".out")}
            if place in self.moving:
                self.ahead()
        return outputs


if __name__ == "__main__":
    folder, inputs, result, count, most = sys.argv[1:6]
    with open(folder + "/made.json") as file:
        layers = json.load(file)["layers"]
    given = dict(numpy.load(inputs))
    began = time.monotonic()
    loop = Loop(folder, layers, int(most))
    load = time.monotonic() - began
    told, outputs = measure.steps(int(count), lambda: loop.step(given))
    measure.write(result, told | {"load": load}, outputs)
    os._exit(0)  # Threads may still read ahead.
