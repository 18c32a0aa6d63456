"""The ONNX operator sets of exported files, and the conversion of a graph to another operator set.

In: the option `--opset`, or a graph. Out: nothing or `OptionRefused`; or the graph in another operator set.
"""

from __future__ import annotations

import onnx

from export.errors import OptionRefused

OPSET = 18
"""Default ONNX operator set of exported files; an ONNX file in one of `OPSETS` keeps its own operator set."""

OPSETS = range(17, 22)
"""Supported ONNX operator sets: 17 is the first with LayerNormalization, and 21 the last for whose random operators
onnxruntime has an implementation."""


def check_opset(opset: int | None) -> None:
    """Check that an operator set is supported; None stands for the default.

    Raises:
        OptionRefused: the operator set is not in `OPSETS`.
    """
    if opset is not None and opset not in OPSETS:
        raise OptionRefused(
            f"--opset selects operator set {opset}, which is not supported.",
            wanted=f"an operator set from {OPSETS[0]} to {OPSETS[-1]}",
            next_step=f"leave out --opset for the default ({OPSET}, or that of an ONNX file), or give an operator set "
            "that your onnxruntime supports",
        )


def raise_opset(proto: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The graph in another operator set; nodes that onnx' version converter inserts get a unique name."""
    proto = onnx.version_converter.convert_version(proto, opset)
    taken = {node.name for node in proto.graph.node}
    for index, node in enumerate(proto.graph.node):
        name = node.name or node.output[0]
        node.name = name if node.name or name not in taken else f"{name}__{index}"
        taken.add(node.name)
    return proto
