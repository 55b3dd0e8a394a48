"""llama.cpp with weights that it maps from a GGUF: `llama_cpp_mmap.py FOLDER INPUTS RESULT STEPS`, or `... FOLDER write`.

The prompt is evaluated first, as its cache has llama.cpp's own form; then the last token again and again.
"""

import ctypes
import json
import os
import sys
import time

import numpy

import measure
import model

NAMES = {
    "norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "norm2": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
}  # fmt: skip


def write(folder, layers):
    """The same weights, as llama.cpp wants them: matrices turned, queries and keys in pairs, the head as a tied embedding."""
    import gguf

    writer = gguf.GGUFWriter(folder + "/model.gguf", "llama")
    writer.add_vocab_size(model.VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    writer.add_context_length(4096)
    writer.add_embedding_length(model.HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(model.WIDE)
    writer.add_head_count(model.HEADS)
    writer.add_head_count_kv(model.KEYS)
    writer.add_layer_norm_rms_eps(model.EPSILON)
    writer.add_rope_dimension_count(model.HEAD)
    writer.add_rope_freq_base(10000.0)
    with open(folder + "/weights.safetensors", "rb") as file:
        skip = int.from_bytes(file.read(8), "little")
        told = json.loads(file.read(skip))
    shapes = {}
    for name, shape in model.weights(layers).items():
        part = name.rsplit(".", 1)
        if part[0] == "final":
            shapes[name] = {"norm": "output_norm", "head": "token_embd"}[part[1]] + ".weight"
        else:
            shapes[name] = f"blk.{part[0].split('.')[1]}.{NAMES[part[1]]}.weight"
        shape = shape[::-1]
        writer.add_tensor_info(shapes[name], shape, numpy.dtype(numpy.float32), 4 * int(numpy.prod(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name in shapes:
        at, shape = 8 + skip + told[name]["data_offsets"][0], told[name]["shape"]
        values = numpy.fromfile(folder + "/weights.safetensors", numpy.float32, int(numpy.prod(shape)), offset=at)
        values = numpy.ascontiguousarray(values.reshape(shape).T)
        if name.endswith((".q", ".k")):
            values = values.reshape(-1, 2, model.HEAD // 2, model.HIDDEN).swapaxes(1, 2).reshape(shape[::-1])
        writer.write_tensor_data(numpy.ascontiguousarray(values))
    writer.close()
    with open(folder + "/model.gguf", "rb") as file:
        os.fsync(file.fileno())


class Llama:
    def __init__(self, folder, past):
        import llama_cpp

        self.api = llama_cpp
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.use_mmap = True
        self.model = llama_cpp.llama_model_load_from_file((folder + "/model.gguf").encode(), params)
        if not self.model:
            raise SystemExit("llama.cpp does not load the GGUF")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = past + 64, past + 64, past + 64
        params.n_threads = params.n_threads_batch = 2
        params.type_k = params.type_v = 0
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.context)

    def eval(self, x, at):
        """Tokens as embeddings, from a position on; logits of the last."""
        count = x.shape[1]
        batch = self.api.llama_batch_init(count, model.HIDDEN, 1)
        batch.n_tokens = count
        ctypes.memmove(batch.embd, numpy.ascontiguousarray(x).ctypes.data, x.nbytes)
        for place in range(count):
            batch.pos[place], batch.n_seq_id[place], batch.seq_id[place][0] = at + place, 1, 0
            batch.logits[place] = place == count - 1
        self.api.llama_memory_seq_rm(self.memory, 0, at, -1)
        if self.api.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp does not decode")
        out = self.api.llama_get_logits_ith(self.context, count - 1)
        logits = numpy.ctypeslib.as_array(out, shape=(model.VOCABULARY,)).copy()
        self.api.llama_batch_free(batch)
        return {"logits": logits.reshape(1, 1, -1)}


if __name__ == "__main__":
    folder = sys.argv[1]
    if sys.argv[2] == "write":
        with open(folder + "/made.json") as file:
            write(folder, json.load(file)["layers"])
        raise SystemExit
    import llama_cpp

    Llama.quiet = llama_cpp.llama_log_callback(lambda *_: None)
    inputs, result, count = sys.argv[2:5]
    prompt, given = numpy.load(folder + "/prompt.npz")["x"], numpy.load(inputs)["x"]
    began = time.monotonic()
    llama = Llama(folder, prompt.shape[1])
    llama.eval(prompt, 0)
    load = time.monotonic() - began
    told, outputs = measure.steps(int(count), lambda: llama.eval(given, prompt.shape[1]))
    measure.write(result, told | {"load": load}, outputs)
