from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.graph.settle import make_reshapes_constant, prevent_pad_fusion
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


def test_values_that_only_the_body_of_a_loop_reads_are_kept() -> None:
    state = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in ("before", "after")]
    counts = [
        helper.make_tensor_value_info("step", TensorProto.INT64, []),
        helper.make_tensor_value_info("go", TensorProto.BOOL, []),
    ]
    stay = helper.make_tensor_value_info("stay", TensorProto.BOOL, [])
    nodes = [helper.make_node("Identity", ["go"], ["stay"]), helper.make_node("Add", ["before", "twice"], ["after"])]
    body = helper.make_graph(nodes, "body", [*counts, state[0]], [stay, state[1]])
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["image", "two"], ["twice"]),
            helper.make_node("Loop", ["count", "", "image"], ["output"], body=body),
        ],
        "model",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [None, 2])],
        [
            numpy_helper.from_array(np.array(2, np.float32), "two"),
            numpy_helper.from_array(np.array(3, np.int64), "count"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    make_reshapes_constant(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Mul", "Loop"]


def test_values_that_only_a_branch_reads_are_kept() -> None:
    """The body of a Loop, as of a GRU layer, reads values of the graph around it, as does a branch of an If."""
    x, y, inner = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", "y", "inner"))
    branches = [
        helper.make_graph([helper.make_node(kind, ["doubled"], ["inner"])], kind, [], [inner])
        for kind in ("Neg", "Abs")
    ]
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "x"], ["doubled"]),
            helper.make_node("Sub", ["x", "x"], ["unread"]),
            helper.make_node("If", ["chosen"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        ],
        "g",
        [x],
        [y],
        [helper.make_tensor("chosen", TensorProto.BOOL, [], [True])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    make_reshapes_constant(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Add", "If"]
    np.testing.assert_array_equal(run(model, np.ones((2, 3), np.float32)), np.full((2, 3), -2, np.float32))
