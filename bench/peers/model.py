"""The decoder of this bench: its sizes, its weights by name, and what it is fed.

Tensors lie in one safetensors file, one behind the other in the order of their use, each at a page (what exporters do for
large ones), so that the same bytes serve ONNX Runtime, Accelerate and whoever reads the file. `make.py` writes them.
"""

import numpy

HIDDEN, HEADS, KEYS, WIDE, VOCABULARY = 2048, 32, 8, 5632, 32000
HEAD = HIDDEN // HEADS
GROUP = HEADS // KEYS
EPSILON = 1e-5


def layer_weights(layer):
    """Names and shapes, in the order of use; matrices as `x @ w` takes them."""
    name = f"layers.{layer}."
    return {
        name + "norm": [HIDDEN],
        name + "q": [HIDDEN, HIDDEN],
        name + "k": [HIDDEN, KEYS * HEAD],
        name + "v": [HIDDEN, KEYS * HEAD],
        name + "o": [HIDDEN, HIDDEN],
        name + "norm2": [HIDDEN],
        name + "gate": [HIDDEN, WIDE],
        name + "up": [HIDDEN, WIDE],
        name + "down": [WIDE, HIDDEN],
    }


def weights(layers):
    """All of them."""
    all_of_them = {}
    for layer in range(layers):
        all_of_them |= layer_weights(layer)
    return all_of_them | {"final.norm": [HIDDEN], "final.head": [HIDDEN, VOCABULARY]}


def size(shapes):
    return sum(4 * int(numpy.prod(shape)) for shape in shapes.values())


def layers_for(wanted):
    """As many layers as bring the weights nearest to so many bytes."""
    return max(1, round((wanted - size(weights(0))) / size(layer_weights(0))))


def inputs(layers, seq, past, cache, seed):
    """What the caller gives for `seq` tokens behind `past` others; `cache` is None where there are none."""
    random = numpy.random.Generator(numpy.random.SFC64([seed, past]))
    at = numpy.arange(past, past + seq)[:, None] * 10000.0 ** (-numpy.arange(HEAD // 2)[None, :] * 2 / HEAD)
    masked = numpy.arange(past + seq)[None, :] > numpy.arange(past, past + seq)[:, None]
    given = {
        "x": random.standard_normal([1, seq, HIDDEN], dtype=numpy.float32),
        "cos": numpy.cos(at).astype(numpy.float32),
        "sin": numpy.sin(at).astype(numpy.float32),
        "mask": numpy.where(masked, numpy.float32(-1e9), numpy.float32(0)),
    }
    for layer in range(layers):
        for which in "kv":
            name = f"past.{layer}.{which}"
            given[name] = cache[name] if cache else numpy.zeros([1, KEYS, 0, HEAD], numpy.float32)
    return given
