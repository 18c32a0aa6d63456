"""ONNX files of networks as people write them: what the messages of the export state and advise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.errors import VerificationFailed
from export.exporter import ExportNotice
from tests.export.onnx_source.graphs import CLASSES, export, network, node, weight


def replaced(model: onnx.ModelProto, name: str, values: object) -> onnx.ModelProto:
    """The model with other values of one weight."""
    tensor = next(one for one in model.graph.initializer if one.name == name)
    tensor.CopyFrom(weight(name, values))
    return model


def branches(ratio: float, source: str, output: str, inner: str) -> onnx.NodeProto:
    """An If with a constant condition, whose branches have a weight of the same name in each If."""

    def graph(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(inner, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "branch", [], [value], [weight("inner.ratio", ratio)])

    then = graph([node("Dropout", [source, "inner.ratio", "on"], [inner], "drop")])
    other = graph([node("Identity", [source], [inner])])
    return node("If", ["on"], [output], f"if_{output}", then_branch=then, else_branch=other)


@pytest.mark.parametrize("softmax", [False, True])
def test_constant_outputs_are_named_because_they_prove_nothing(softmax: bool, tmp_path: Path) -> None:
    end = [node("Softmax", ["logits"], ["scores"])] if softmax else []
    model = network(end=end, output="scores" if softmax else "logits")
    with pytest.warns(ExportNotice, match="returns the same outputs for every test image, with and without dropout"):
        export(replaced(model, "fc.w", np.zeros((CLASSES, 4))), tmp_path, output_kind=None if softmax else "logits")


@pytest.mark.parametrize("second", ["inner", "other"])
def test_branches_with_equal_names_keep_their_own_values(second: str, tmp_path: Path) -> None:
    model = network([branches(0.2, "flat", "once", "inner"), branches(0.4, "once", "dropped", second)])
    assert [(site.name, site.rate) for site in export(model, tmp_path).sites] == [("drop", 0.2), ("drop#2", 0.4)]


def test_mixed_rows_are_named_as_the_reason(tmp_path: Path) -> None:
    end = [
        node("ReduceMean", ["logits", "rows"], ["mean"]),
        node("Mul", ["mean", "half"], ["part"]),
        node("Sub", ["logits", "part"], ["x"]),
    ]
    model = network(end=end, output="x", more=[weight("rows", [0], np.int64), weight("half", 0.5)])
    with pytest.raises(VerificationFailed, match=r"changes by .* with the other rows of its batch"):
        export(model, tmp_path)
