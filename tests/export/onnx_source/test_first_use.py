"""ONNX files of networks as people write them: what the messages of the export state and advise."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.export.onnx_source.graphs import export, network, node, weight


def branches(ratio: float, source: str, output: str, inner: str) -> onnx.NodeProto:
    """An If with a constant condition, whose branches have a weight of the same name in each If."""

    def graph(nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(inner, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, "branch", [], [value], [weight("inner.ratio", ratio)])

    then = graph([node("Dropout", [source, "inner.ratio", "on"], [inner], "drop")])
    other = graph([node("Identity", [source], [inner])])
    return node("If", ["on"], [output], f"if_{output}", then_branch=then, else_branch=other)


@pytest.mark.parametrize("second", ["inner", "other"])
def test_branches_with_equal_names_keep_their_own_values(second: str, tmp_path: Path) -> None:
    model = network([branches(0.2, "flat", "once", "inner"), branches(0.4, "once", "dropped", second)])
    assert [(site.name, site.rate) for site in export(model, tmp_path).sites] == [("drop", 0.2), ("drop#2", 0.4)]
