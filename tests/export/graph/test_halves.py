from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph.halves import divide, part_after
from export.runtime import onnxruntime


def noisy_graph() -> onnx.ModelProto:
    """`(relu(x) * noise) @ w + relu(x)`, reshaped to the shape of x, so that three values pass the noise."""
    weights = np.arange(9, dtype=np.float32).reshape(3, 3)
    nodes = [
        helper.make_node("Relu", ["x"], ["relu"]),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Mul", ["relu", "noise"], ["dropped"]),
        helper.make_node("MatMul", ["dropped", "w"], ["product"]),
        helper.make_node("Add", ["product", "relu"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["output"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "noise")]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def run(model: onnx.ModelProto, names: list[str], feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(names, feeds))


def test_the_two_parts_of_a_graph_compute_what_the_graph_computes() -> None:
    model = noisy_graph()
    rng = np.random.default_rng(0)
    x, noise = (rng.normal(size=(5, 3)).astype(np.float32) for _ in range(2))
    before, boundary = divide(model, ["noise"])
    assert boundary == ("relu", "shape")
    assert [value.name for value in before.graph.input] == ["x"]
    assert not before.graph.initializer
    values = dict(zip(boundary, run(before, list(boundary), {"x": x}), strict=True))
    after = part_after(model, ["noise"], values)
    assert [node.op_type for node in after.graph.node] == ["Mul", "MatMul", "Add", "Reshape"]
    (found,) = run(after, ["output"], values | {"noise": noise})
    (whole,) = run(model, ["output"], {"x": x, "noise": noise})
    np.testing.assert_array_equal(found, whole)
