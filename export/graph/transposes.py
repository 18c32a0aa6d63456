"""No transposes around a site that the same model without dropout would not have.

In: tf2onnx at work, then its graph. Out: a graph whose sites work in the order of axes of what is
around them. A site works on single elements, so only the order of its axes changes.
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
def sites_let_transposes_through() -> Iterator[None]:
    """Let tf2onnx move its transposes through a site, as through a Relu.

    TensorFlow's images are NHWC, ONNX' convolutions NCHW. tf2onnx puts transposes around each
    convolution and then moves them until they meet and vanish; at a node that it does not know they
    would stop. A site works on single elements, so only the order of its axes changes: the attribute
    `layout` says which axis of the Keras tensor each axis of the node's is.
    """
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    original = TransposeOptimizer._initialize_handlers

    def initialize(optimizer: Any) -> None:
        original(optimizer)

        def move(transpose: Any, node: Any) -> bool:
            if not optimizer._switch_transpose_and_node(node, transpose):
                return False
            layout = list(node.get_attr_value("layout"))
            permutation = list(transpose.get_attr_value("perm"))
            node.set_attr("layout", [layout[permutation.index(axis)] for axis in range(len(layout))])
            return True

        for kind in NOISE_KINDS:
            optimizer._handler_map[kind] = move

    TransposeOptimizer._initialize_handlers = initialize
    try:
        yield
    finally:
        TransposeOptimizer._initialize_handlers = original


def pull_transposes_before_sites(proto: onnx.ModelProto) -> None:
    """Where only a transpose reads a site, put it in front: there it runs once, and not in every pass."""
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
