"""Write a model of random weights: ``python make.py FILE MEGABYTES``. Needs numpy and onnx."""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 2048


def main() -> None:
    path, layers = sys.argv[1], max(int(sys.argv[2]) * 10**6 // (WIDTH * WIDTH * 4), 1)
    random, nodes, weights, name = np.random.default_rng(1), [], [], "input"
    for layer in range(layers):
        weight = random.standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
        weights.append(numpy_helper.from_array(weight, f"weight{layer}"))
        nodes.append(helper.make_node("MatMul", [name, f"weight{layer}"], [f"sum{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"sum{layer}"], [f"layer{layer}"]))
        name = f"layer{layer}"
    shape = [1, WIDTH]
    ends = [helper.make_tensor_value_info(it, TensorProto.FLOAT, shape) for it in ("input", name)]
    graph = helper.make_graph(nodes, "model", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


if __name__ == "__main__":
    main()
