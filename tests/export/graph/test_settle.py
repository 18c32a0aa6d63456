from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph.settle import prevent_pad_fusion
from tests.export.graph.test_passes import run


def padded_pooling(pooling: str = "MaxPool") -> onnx.ModelProto:
    """A Pad with zeros and a pooling, on `[N, 1, 3, 3]`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1, None, None]) for name in "xy"]
    graph = helper.make_graph(
        [
            helper.make_node("Pad", ["x", "pads"], ["padded"]),
            helper.make_node(pooling, ["padded"], ["y"], kernel_shape=[3, 3]),
        ],
        "g",
        values[:1],
        values[1:],
        [helper.make_tensor("pads", TensorProto.INT64, [8], [0, 0, 1, 1, 0, 0, 1, 1])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_zeros_that_were_padded_count_in_a_pooling() -> None:
    model = padded_pooling()
    prevent_pad_fusion(model)
    onnx.checker.check_model(model, full_check=True)
    y = run(model, np.full((2, 1, 3, 3), -5, np.float32))
    np.testing.assert_array_equal(y[0, 0], [[0, 0, 0], [0, -5, 0], [0, 0, 0]])
