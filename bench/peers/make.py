"""Makes the decoder with weights from a seed: an ONNX file and one file of weights, which is also a safetensors file.

    make.py FOLDER BYTES [SEED]

Layers are as many as bring the weights nearest to BYTES.
"""

import json
import os
import sys

import numpy
import onnx
from onnx import TensorProto, helper

from model import EPSILON, GROUP, HEAD, HIDDEN, KEYS, VOCABULARY, layers_for, size, weights

PAGE = 4096


def write_weights(path, shapes, seed):
    """The header is padded to whole pages; returns where each tensor lies in the file."""
    at, header = 0, {}
    for name, shape in shapes.items():
        length = 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + length]}
        at += length
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % PAGE)
    random = numpy.random.Generator(numpy.random.SFC64(seed))
    places = {}
    with open(path + ".part", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            places[name] = file.tell()
            if len(shape) == 1:
                values = 1 + random.standard_normal(shape, dtype=numpy.float32) / 16
            else:
                values = random.standard_normal(shape, dtype=numpy.float32)
                values *= numpy.float32(shape[0] ** -0.5)
            file.write(memoryview(values).cast("B"))
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".part", path)
    return places


class Graph:
    """Nodes, one behind the other."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, kind, inputs, output, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, name, values):
        self.constants.append(onnx.numpy_helper.from_array(numpy.array(values), name))
        return name


def graph(layers):
    """`x` is the embedded token or tokens; the caller looks rows up, makes the rotation and the mask, and keeps the cache."""
    g = Graph()
    eps = g.constant("epsilon", numpy.float32(EPSILON))
    scale = g.constant("scale", numpy.float32(HEAD**-0.5))
    last = g.constant("last", numpy.array([-1], numpy.int64))
    to_queries = g.constant("to_queries", numpy.array([1, -1, KEYS, GROUP, HEAD], numpy.int64))
    to_keys = g.constant("to_keys", numpy.array([1, -1, KEYS, HEAD], numpy.int64))
    to_rows = g.constant("to_rows", numpy.array([1, -1, HIDDEN], numpy.int64))
    one = g.constant("one", numpy.array([2], numpy.int64))

    def norm(x, weight, name):
        square = g.add("Mul", [x, x], name + ".square")
        mean = g.add("ReduceMean", [square, last], name + ".mean", keepdims=1)
        root = g.add("Sqrt", [g.add("Add", [mean, eps], name + ".shifted")], name + ".root")
        return g.add("Mul", [g.add("Div", [x, root], name + ".unit"), weight], name)

    def rotate(x, name):
        halves = [name + ".first", name + ".second"]
        g.nodes.append(helper.make_node("Split", [x], halves, name=name + ".halves", axis=-1, num_outputs=2))
        first, second = halves
        a = g.add("Sub", [g.add("Mul", [first, "cos"], name + ".a"), g.add("Mul", [second, "sin"], name + ".b")], name + ".left")
        b = g.add("Add", [g.add("Mul", [second, "cos"], name + ".c"), g.add("Mul", [first, "sin"], name + ".d")], name + ".right")
        return g.add("Concat", [a, b], name, axis=-1)

    x, inputs, outputs = "x", [], []
    value = helper.make_tensor_value_info
    cache = lambda name, length: value(name, TensorProto.FLOAT, [1, KEYS, length, HEAD])
    for layer in range(layers):
        n = f"layers.{layer}."
        w = lambda name: n + name
        y = norm(x, w("norm"), n + "in")
        q = g.add("Reshape", [g.add("MatMul", [y, w("q")], n + "q.flat"), to_queries], n + "q.heads")
        k = g.add("Reshape", [g.add("MatMul", [y, w("k")], n + "k.flat"), to_keys], n + "k.heads")
        v = g.add("Reshape", [g.add("MatMul", [y, w("v")], n + "v.flat"), to_keys], n + "v.heads")
        q = rotate(g.add("Transpose", [q], n + "q.turned", perm=[0, 2, 3, 1, 4]), n + "q.rotated")
        k = rotate(g.add("Transpose", [k], n + "k.turned", perm=[0, 2, 1, 3]), n + "k.rotated")
        v = g.add("Transpose", [v], n + "v.turned", perm=[0, 2, 1, 3])
        k = g.add("Concat", [f"past.{layer}.k", k], f"present.{layer}.k", axis=2)
        v = g.add("Concat", [f"past.{layer}.v", v], f"present.{layer}.v", axis=2)
        inputs += [cache(f"past.{layer}.k", "past"), cache(f"past.{layer}.v", "past")]
        outputs += [cache(k, "total"), cache(v, "total")]
        k = g.add("Unsqueeze", [g.add("Transpose", [k], n + "k.columns", perm=[0, 1, 3, 2]), one], n + "k.wide")
        v = g.add("Unsqueeze", [v, one], n + "v.wide")
        scores = g.add("Mul", [g.add("MatMul", [q, k], n + "products"), scale], n + "scaled")
        chances = g.add("Softmax", [g.add("Add", [scores, "mask"], n + "masked")], n + "chances", axis=-1)
        mixed = g.add("Transpose", [g.add("MatMul", [chances, v], n + "mixed")], n + "mixed.turned", perm=[0, 3, 1, 2, 4])
        mixed = g.add("Reshape", [mixed, to_rows], n + "mixed.flat")
        x = g.add("Add", [x, g.add("MatMul", [mixed, w("o")], n + "o.out")], n + "attended")
        y = norm(x, w("norm2"), n + "between")
        gate = g.add("MatMul", [y, w("gate")], n + "gate.out")
        gate = g.add("Mul", [gate, g.add("Sigmoid", [gate], n + "gate.sigmoid")], n + "gate.silu")
        y = g.add("Mul", [gate, g.add("MatMul", [y, w("up")], n + "up.out")], n + "gated")
        x = g.add("Add", [x, g.add("MatMul", [y, w("down")], n + "down.out")], n + "out")
    g.add("MatMul", [norm(x, "final.norm", "normed"), "final.head"], "logits")
    inputs = [
        value("x", TensorProto.FLOAT, [1, "seq", HIDDEN]),
        value("cos", TensorProto.FLOAT, ["seq", HEAD // 2]),
        value("sin", TensorProto.FLOAT, ["seq", HEAD // 2]),
        value("mask", TensorProto.FLOAT, ["seq", "total"]),
    ] + inputs
    outputs = [value("logits", TensorProto.FLOAT, [1, "seq", VOCABULARY])] + outputs
    return g, inputs, outputs


def write_model(folder, layers, places, shapes):
    g, inputs, outputs = graph(layers)
    stored = []
    for name, shape in shapes.items():
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape, data_location=TensorProto.EXTERNAL)
        told = {"location": "weights.safetensors", "offset": places[name], "length": 4 * int(numpy.prod(shape))}
        for key, what in told.items():
            tensor.external_data.add(key=key, value=str(what))
        stored.append(tensor)
    made = helper.make_graph(g.nodes, "decoder", inputs, outputs, g.constants + stored)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="bench/peers")
    onnx.save(model, os.path.join(folder, "model.onnx"))


def make(folder, wanted, seed=0):
    """Makes the model where it is not there; how many layers it has."""
    layers = layers_for(wanted)
    shapes = weights(layers)
    mark = os.path.join(folder, "made.json")
    told = {"layers": layers, "seed": seed, "bytes": size(shapes)}
    if os.path.exists(mark) and json.load(open(mark)) == told:
        return told
    os.makedirs(folder, exist_ok=True)
    places = write_weights(os.path.join(folder, "weights.safetensors"), shapes, seed)
    write_model(folder, layers, places, shapes)
    with open(mark, "w") as file:
        json.dump(told, file)
    return told


if __name__ == "__main__":
    print(json.dumps(make(sys.argv[1], int(float(sys.argv[2])), int(sys.argv[3]) if len(sys.argv) > 3 else 0)))
