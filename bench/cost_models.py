#!/usr/bin/env python3
"""Writes large ONNX models for bench/cost.sh: `cost_models.py SHAPE OPS FILE`; without arguments, the names of shapes.

Weights are named as bytes of a file that need not be there: planning reads sizes only.
"""
import sys

F32 = 1


def varint(n):
    out = bytearray()
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def field(number, value):
    """One field of a protobuf message: a number, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


class Model:
    def __init__(self):
        self.nodes, self.weights, self.inputs, self.outputs = [], [], [], []
        self.offset = 0

    @property
    def ops(self):
        return len(self.nodes)

    @staticmethod
    def info(name, shape):
        dims = b"".join(field(1, field(1, d)) for d in shape)
        return field(1, name) + field(2, field(1, field(1, F32) + field(2, dims)))

    def input(self, name, *shape):
        self.inputs.append(self.info(name, shape))
        return name

    def output(self, name, *shape):
        self.outputs.append(self.info(name, shape))

    def weight(self, *shape):
        name, size = f"w{len(self.weights)}", 4
        for d in shape:
            size *= d
        entries = [("location", "weights.bin"), ("offset", str(self.offset)), ("length", str(size))]
        external = b"".join(field(13, field(1, k) + field(2, v)) for k, v in entries)
        dims = b"".join(field(1, d) for d in shape)
        self.weights.append(dims + field(2, F32) + field(8, name) + external + field(14, 1))
        self.offset += size
        return name

    def node(self, kind, *inputs, **ints):
        name = f"v{len(self.nodes)}"
        said = b"".join(field(1, i) for i in inputs) + field(2, name) + field(3, f"n{name}") + field(4, kind)
        for key, value in ints.items():
            one = isinstance(value, int)
            values = field(3, value) if one else b"".join(field(8, v) for v in value)
            said += field(5, field(1, key) + values + field(20, 2 if one else 7))
        self.nodes.append(said)
        return name

    def write(self, path):
        parts = [(1, self.nodes), (2, ["cost"]), (5, self.weights), (11, self.inputs), (12, self.outputs)]
        graph = b"".join(field(n, part) for n, all_of in parts for part in all_of)
        with open(path, "wb") as f:
            f.write(field(1, 10) + field(7, graph) + field(8, field(1, "") + field(2, 17)))


def chain(m, ops):
    """One layer after the other: a product, a sum, a Relu."""
    at = m.input("x", 1, 64)
    while m.ops < ops:
        at = m.node("Relu", m.node("Add", m.node("MatMul", at, m.weight(64, 64)), m.weight(64)))
    m.output(at, 1, 64)


def decoder(m, ops):
    """Layers with attention: three branches, a softmax, two residual sums, a gated part behind."""
    rows, wide, inner = 16, 64, 128
    at = m.input("x", rows, wide)
    linear = lambda v, a, b: m.node("Add", m.node("MatMul", v, m.weight(a, b)), m.weight(b))

    def norm(v):
        mean = m.node("ReduceMean", m.node("Mul", v, v), axes=[1])
        return m.node("Mul", m.node("Div", v, m.node("Sqrt", mean)), m.weight(wide))

    while m.ops < ops:
        v = norm(at)
        q, k, u = (linear(v, wide, wide) for _ in range(3))
        scores = m.node("Softmax", m.node("MatMul", q, m.node("Transpose", k, perm=[1, 0])))
        at = m.node("Add", at, linear(m.node("MatMul", scores, u), wide, wide))
        v = norm(at)
        gate = m.node("Sigmoid", linear(v, wide, inner))
        at = m.node("Add", at, linear(m.node("Mul", gate, linear(v, wide, inner)), inner, wide))
    m.output(at, rows, wide)


def wide(m, ops):
    """Branches side by side, a hundred operators each, of one input; their ends are summed."""
    x = m.input("x", 16, 64)
    sums = None
    while m.ops < ops:
        at = x
        for _ in range(33):
            at = m.node("Tanh", m.node("Add", m.node("MatMul", at, m.weight(64, 64)), m.weight(64)))
        sums = at if sums is None else m.node("Add", sums, at)
    m.output(sums, 16, 64)


def skips(m, ops):
    """Much activation, few weights: each value of the first half is used again in the second, the last first."""
    at = m.input("x", 64, 256)
    kept = []
    while m.ops < ops // 3:
        at = m.node("Tanh", at)
        kept.append(at)
    while kept:
        if len(kept) % 100 == 0:
            at = m.node("Add", at, m.weight(256))
        at = m.node("Add", m.node("Sigmoid", at), kept.pop())
    m.output(at, 64, 256)


def scattered(m, ops):
    """Sums of the value before and of one up to a thousand operators back, chosen by a fixed generator."""
    values, state = [m.input("x", 16, 64)], 1
    while m.ops < ops:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        far = values[-1 - (state >> 33) % min(len(values), 1000)]
        last = m.node("MatMul", values[-1], m.weight(64, 64)) if state >> 60 == 0 else values[-1]
        values.append(m.node("Add", last, far))
    m.output(values[-1], 16, 64)


SHAPES = {f.__name__: f for f in (chain, decoder, wide, skips, scattered)}

if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in SHAPES:
        print("\n".join(SHAPES))
        sys.exit(0 if len(sys.argv) == 1 else 2)
    model = Model()
    SHAPES[sys.argv[1]](model, int(sys.argv[2]))
    model.write(sys.argv[3])
