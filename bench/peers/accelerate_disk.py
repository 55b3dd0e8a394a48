"""Accelerate with what does not fit on the disk: `accelerate_disk.py FOLDER INPUTS RESULT STEPS BYTES`.

Layers that BYTES hold stay in memory, the others are read from the safetensors file when they are wanted and dropped after.
"""

import json
import sys
import time

import numpy
import torch
from accelerate import dispatch_model, init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from safetensors import safe_open

import measure
import model


class Layer(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        for name, shape in model.layer_weights(layer).items():
            self.register_parameter(name.rsplit(".", 1)[1], torch.nn.Parameter(torch.empty(shape), requires_grad=False))

    def forward(self, x, cos, sin, mask, past_k, past_v):
        rotate = lambda a, b: torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        y = norm(x, self.norm)
        heads = lambda w, count: (y @ w).view(1, -1, count, model.HEAD).transpose(1, 2)
        q = rotate(*heads(self.q, model.HEADS).chunk(2, -1)).view(1, model.KEYS, model.GROUP, -1, model.HEAD)
        k = torch.cat([past_k, rotate(*heads(self.k, model.KEYS).chunk(2, -1))], 2)
        v = torch.cat([past_v, heads(self.v, model.KEYS)], 2)
        scores = q @ k.unsqueeze(2).transpose(-1, -2) * model.HEAD**-0.5 + mask
        mixed = (scores.softmax(-1) @ v.unsqueeze(2)).view(1, model.HEADS, -1, model.HEAD)
        x = x + mixed.transpose(1, 2).reshape(1, -1, model.HIDDEN) @ self.o
        y = norm(x, self.norm2)
        return x + (torch.nn.functional.silu(y @ self.gate) * (y @ self.up)) @ self.down, k, v


class Final(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, shape in model.weights(0).items():
            self.register_parameter(name.rsplit(".", 1)[1], torch.nn.Parameter(torch.empty(shape), requires_grad=False))

    def forward(self, x):
        return norm(x, self.norm) @ self.head


class Decoder(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer(layer) for layer in range(layers))
        self.final = Final()

    def forward(self, given):
        x, outputs = given["x"], {}
        for place, layer in enumerate(self.layers):
            past = given[f"past.{place}.k"], given[f"past.{place}.v"]
            x, k, v = layer(x, given["cos"], given["sin"], given["mask"], *past)
            outputs |= {f"present.{place}.k": k, f"present.{place}.v": v}
        return outputs | {"logits": self.final(x)}


def norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + model.EPSILON).sqrt() * weight


def load(folder, layers, most):
    path = folder + "/weights.safetensors"
    with init_empty_weights():
        decoder = Decoder(layers)
    shapes, room, places = model.weights(layers), most, {}
    for place in [f"layers.{layer}" for layer in range(layers)] + ["final"]:
        need = model.size({n: s for n, s in shapes.items() if n.startswith(place + ".")})
        places[place] = "cpu" if need <= room else "disk"
        room -= need if places[place] == "cpu" else 0
    with safe_open(path, "pt") as file:
        for name in shapes:
            if places[name.rsplit(".", 1)[0]] == "cpu":
                set_module_tensor_to_device(decoder, name, "cpu", file.get_tensor(name).clone())
    index = {n: {"safetensors_file": path, "weight_name": n, "dtype": "float32"} for n in shapes}
    if "disk" not in places.values():
        return decoder
    return dispatch_model(decoder, places, main_device="cpu", offload_index=index)


if __name__ == "__main__":
    folder, inputs, result, count, most = sys.argv[1:6]
    torch.set_num_threads(2)
    with open(folder + "/made.json") as file:
        layers = json.load(file)["layers"]
    given = {name: torch.from_numpy(values) for name, values in numpy.load(inputs).items()}
    began = time.monotonic()
    decoder = load(folder, layers, int(most))
    took = time.monotonic() - began
    with torch.no_grad():
        told, outputs = measure.steps(int(count), lambda: decoder(given))
    measure.write(result, told | {"load": took}, {name: value.numpy() for name, value in outputs.items()})
