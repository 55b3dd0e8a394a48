"""ONNX Runtime with weights that it maps from their file: `onnx_runtime.py FOLDER INPUTS RESULT STEPS [prepacked]`."""

import sys
import time

import numpy
import onnxruntime

import measure


def session(folder, prepacked=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not prepacked:
        # Every copy of a weight would be memory that cannot be dropped; so would be what is folded.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    return onnxruntime.InferenceSession(folder + "/model.onnx", options, providers=["CPUExecutionProvider"])


def run(opened, given):
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(names, given)))


if __name__ == "__main__":
    folder, inputs, result, count = sys.argv[1:5]
    given = dict(numpy.load(inputs))
    began = time.monotonic()
    opened = session(folder, "prepacked" in sys.argv[5:])
    load = time.monotonic() - began
    told, outputs = measure.steps(int(count), lambda: run(opened, given))
    measure.write(result, told | {"load": load}, outputs)
