"""Remove transposes that a conversion would add around sites.

In: the optimiser of tf2onnx, then the converted graph. Out: a graph in which each site has the axis order of its
neighbours. A site applies its mask element by element, so that a transpose can move through the site if the
axes of the mask are reordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
from onnx import helper

from export.contract.metadata import DOMAIN
from export.graph.functions import NOISE_KINDS


@contextmanager
def transposes_move_through_sites() -> Iterator[None]:
    """Within the block, tf2onnx moves transposes through a site, as through a Relu.

    TensorFlow's images are NHWC, but ONNX' convolutions take NCHW. tf2onnx adds transposes around each convolution,
    then moves the transposes until pairs of them cancel. A transpose cannot move through a node without a handler. The
    attribute `layout` of a site lists, for each of its axes, the axis of the Keras tensor. The batch axis of a site
    stays first, so a transpose of the batch axis, as after a recurrent layer, is not moved.
    """
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    original = TransposeOptimizer._initialize_handlers

    def initialize(optimizer: Any) -> None:
        original(optimizer)

        def move(transpose: Any, node: Any) -> bool:
            permutation = list(transpose.get_attr_value("perm"))
            if permutation[0] != 0:  # the first axis is time in recurrent layers, but the batch axis in a site
                return False
            if not optimizer._switch_transpose_and_node(node, transpose):
                return False
            layout = list(node.get_attr_value("layout"))
            node.set_attr("layout", [layout[permutation.index(axis)] for axis in range(len(layout))])
            return True

        for kind in NOISE_KINDS:
            optimizer._handler_map[kind] = move

    TransposeOptimizer._initialize_handlers = initialize
    try:
        yield
    finally:
        TransposeOptimizer._initialize_handlers = original


def move_transposes_before_sites(proto: onnx.ModelProto) -> None:
    """Move each transpose that is the only consumer of a site to the place before the site.

    A transpose before the first site then runs once for each row, not once in every pass.
    """
    graph = proto.graph
    outputs = {value.name for value in graph.output}
    nodes = list(graph.node)
    moved: set[str] = set()
    for index, site in enumerate(nodes):
        if site.domain != DOMAIN or site.output[0] in outputs:
            continue
        readers = [node for node in nodes if site.output[0] in node.input]
        if len(readers) != 1 or readers[0].op_type != "Transpose":
            continue
        transpose = readers[0]
        permutation = helper.get_node_attr_value(transpose, "perm")
        if permutation[0] != 0:
            continue
        layout = next(attribute for attribute in site.attribute if attribute.name == "layout")
        layout.ints[:] = [layout.ints[axis] for axis in permutation]
        between, after = site.output[0], transpose.output[0]
        transpose.input[0], transpose.output[0] = site.input[0], between
        site.input[0], site.output[0] = between, after
        moved.add(between)
        nodes.remove(transpose)
        nodes.insert(index, transpose)
    ordered = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(ordered)
    known = [value for value in graph.value_info if value.name not in moved]
    del graph.value_info[:]
    graph.value_info.extend(known)
