from __future__ import annotations

import gc
import weakref

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from export.errors import EngineFailed
from screen.engine.device.provider import Device
from screen.engine.device.session import GraphSession, external_weight

CPU = Device("cpu", 1)


def two_kinds_of_arithmetic() -> onnx.ModelProto:
    """A product of floats, and arithmetic on a shape."""
    graph = helper.make_graph(
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Mul", ["shape", "shape"], ["squared"], name="square"),
            helper.make_node("Mul", ["x", "x"], ["y"], name="product"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("squared", TensorProto.INT64, [2]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_session_keeps_its_values_on_the_device_and_returns_them_by_name() -> None:
    session = GraphSession(two_kinds_of_arithmetic(), CPU)
    outputs = session.run({"x": session.put(np.array([[1, 2, 3]], np.float32))})
    assert set(outputs) == {"y", "squared"}
    np.testing.assert_array_equal(outputs["y"].numpy(), [[1, 4, 9]])


def test_errors_of_onnxruntime_are_raised_as_engine_failed() -> None:
    session = GraphSession(two_kinds_of_arithmetic(), CPU)
    with pytest.raises(EngineFailed, match="onnxruntime failed on the device cpu"):
        session.run({"x": session.put(np.zeros((1, 4), np.float32))})
    broken = two_kinds_of_arithmetic()
    broken.graph.node[2].op_type = "Nonsense"
    with pytest.raises(EngineFailed, match="cannot load the model"):
        GraphSession(broken, CPU)


def product_with(weight: NDArray[np.float32]) -> onnx.ModelProto:
    """`x` times an external weight."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "outside",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", len(weight)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weight.shape[1]])],
        [external_weight("weight", weight)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_external_weights_live_as_long_as_the_session() -> None:
    weight = np.arange(1_000_000, dtype=np.float32).reshape(2, -1)
    expected, model = weight.sum(axis=0), product_with(weight)
    assert model.ByteSize() < 1000
    session = GraphSession(model, CPU, weights={"weight": weight})
    reference = weakref.ref(weight)
    del weight
    gc.collect()
    assert reference() is not None
    outputs = session.run({"x": session.put(np.ones((2, 2), np.float32))})
    np.testing.assert_array_equal(outputs["y"].numpy()[1], expected)


def test_a_missing_external_weight_raises_engine_failed() -> None:
    with pytest.raises(EngineFailed, match="cannot load the model"):
        GraphSession(product_with(np.ones((2, 3), np.float32)), CPU)
