"""Writes a decoder, an encoder and a CNN of ordinary size with seeded weights: models.py FOLDER."""

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

WIDTH, HEADS, LAYERS = 768, 12, 12
PAST = 255


class Graph:
    """Nodes and weights of a model on its way."""

    def __init__(self, seed):
        self.nodes, self.weights, self.random, self.count = [], [], np.random.default_rng(seed), 0

    def weight(self, *shape, scale=None):
        name = f"w{len(self.weights)}"
        scale = scale or 1 / np.sqrt(np.prod(shape[1:]) if len(shape) == 4 else shape[0])
        value = self.random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def ints(self, *values):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def op(self, kind, *inputs, **attributes):
        self.count += 1
        result = f"t{self.count}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def linear(self, value, rows, columns):
        return self.op("Add", self.op("MatMul", value, self.weight(rows, columns)), self.weight(columns, scale=0.02))

    def norm(self, value, width):
        return self.op("LayerNormalization", value, self.weight(width, scale=1), self.weight(width, scale=0.1), axis=-1)

    def heads(self, value, tokens, turn):
        split = self.op("Reshape", value, self.ints(1, tokens, HEADS, WIDTH // HEADS))
        return self.op("Transpose", split, perm=turn)

    def model(self, inputs, outputs):
        info = lambda name, shape: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        ports = [info(*port) for port in inputs], [info(*port) for port in outputs]
        graph = helper.make_graph(self.nodes, "bench", *ports, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def transformer(tokens, past, seed):
    """An encoder; with past keys and values, one step of a decoder."""
    g = Graph(seed)
    value, inputs, outputs = "x", [("x", [1, tokens, WIDTH])], []
    for layer in range(LAYERS):
        normed = g.norm(value, WIDTH)
        q, k, v = (g.linear(normed, WIDTH, WIDTH) for _ in range(3))
        q, v = (g.heads(t, tokens, [0, 2, 1, 3]) for t in (q, v))
        k = g.heads(k, tokens, [0, 2, 1, 3])
        if past:
            for name, kept in ((f"k{layer}", k), (f"v{layer}", v)):
                inputs.append((name, [1, HEADS, past, WIDTH // HEADS]))
            k = g.op("Concat", f"k{layer}", k, axis=2)
            v = g.op("Concat", f"v{layer}", v, axis=2)
            outputs += [(t, [1, HEADS, past + tokens, WIDTH // HEADS]) for t in (k, v)]
        scores = g.op("MatMul", q, g.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = g.op("Mul", scores, g.weight(1, scale=0.125))
        mixed = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
        mixed = g.op("Reshape", g.op("Transpose", mixed, perm=[0, 2, 1, 3]), g.ints(1, tokens, WIDTH))
        value = g.op("Add", value, g.linear(mixed, WIDTH, WIDTH))
        inner = g.linear(g.norm(value, WIDTH), WIDTH, 4 * WIDTH)
        inner = g.op("Mul", inner, g.op("Sigmoid", inner))
        value = g.op("Add", value, g.linear(inner, 4 * WIDTH, WIDTH))
    return g.model(inputs, [(g.norm(value, WIDTH), [1, tokens, WIDTH]), *outputs])


def cnn(seed):
    """A residual network of bottlenecks: ResNet-50 by its shapes (He et al. 2016)."""
    g = Graph(seed)

    def conv(value, inside, outside, kernel, stride, relu=True):
        pads = [kernel // 2] * 4
        value = g.op("Conv", value, g.weight(outside, inside, kernel, kernel), pads=pads, strides=[stride] * 2)
        scale, bias, mean = (g.weight(outside, scale=s) for s in (0.1, 0.1, 0.1))
        g.weights.append(numpy_helper.from_array(np.ones(outside, dtype=np.float32), f"w{len(g.weights)}"))
        value = g.op("BatchNormalization", value, scale, bias, mean, f"w{len(g.weights) - 1}")
        return g.op("Relu", value) if relu else value

    value = g.op("MaxPool", conv("x", 3, 64, 7, 2), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    inside = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            inner = conv(conv(value, inside, width, 1, 1), width, width, 3, stride)
            inner = conv(inner, width, 4 * width, 1, 1, relu=False)
            if block == 0:
                value = conv(value, inside, 4 * width, 1, stride, relu=False)
            value, inside = g.op("Relu", g.op("Add", value, inner)), 4 * width
    value = g.op("Flatten", g.op("GlobalAveragePool", value))
    return g.model([("x", [1, 3, 224, 224])], [(g.linear(value, inside, 1000), [1, 1000])])


def main(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in (
        ("decoder", transformer(1, PAST, 1)),
        ("encoder", transformer(128, 0, 2)),
        ("cnn", cnn(3)),
    ):
        path = folder / f"{name}.onnx"
        save(model, path)
        random = np.random.default_rng(4)
        arrays = {}
        for port in model.graph.input:
            shape = [axis.dim_value for axis in port.type.tensor_type.shape.dim]
            arrays[port.name] = random.standard_normal(shape, dtype=np.float32)
        np.savez(folder / f"{name}.npz", **arrays)


main(Path(sys.argv[1]))
