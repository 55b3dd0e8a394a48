"""Makes what is fed: a prompt, its cache as the whole model computes it, and the token behind it: `inputs.py FOLDER PAST PREFILL`."""

import json
import sys

import numpy

import model
import onnx_runtime

if __name__ == "__main__":
    folder, past, prefill = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with open(folder + "/made.json") as file:
        layers = json.load(file)["layers"]
    prompt = model.inputs(layers, past, 0, None, 1)
    outputs = onnx_runtime.run(onnx_runtime.session(folder), prompt)
    cache = {name.replace("present", "past"): what for name, what in outputs.items() if name != "logits"}
    numpy.savez(folder + "/prompt.npz", x=prompt["x"])
    numpy.savez(folder + "/decode.npz", **model.inputs(layers, 1, past, cache, 1))
    numpy.savez(folder + "/prefill.npz", **model.inputs(layers, prefill, 0, None, 2))
