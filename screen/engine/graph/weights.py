"""Where a mask may go into the weights behind its site, instead of into the data.

`(x * m) W` equals `x (m' * W)` when every axis that the mask covers is summed over by the product.
That is so when the site's output goes, through operations that only change the shape of a row,
into one MatMul or Gemm with a constant weight. Everything else folds the passes into the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.contract.metadata import Site
from screen.engine.graph.sizes import TensorSizes

MOST_OUTPUTS = 1024
"""A weight `[F, H]` with a larger H is not masked: for each pass that costs F * H writes, against
B * F for masking the data, and a few hundred rows are in a run."""


@dataclass(frozen=True)
class WeightChain:
    """What lies between a site and the product that sums over all that its mask covers.

    Attributes:
        shape_nodes: the shape operations, in order; they treat each row alike.
        product: the MatMul or Gemm.
        inner: F, the features that the product sums over.
        outer: H, its outputs.
        in_place: the values between the site and the product, which no pass has a copy of.
    """

    shape_nodes: tuple[onnx.NodeProto, ...]
    product: onnx.NodeProto
    inner: int
    outer: int
    in_place: frozenset[str]

    @property
    def weight(self) -> str:
        """Name of the constant weight."""
        return str(self.product.input[1])

    @property
    def transposed(self) -> bool:
        """Whether the weight is stored as `[H, F]`."""
        return bool(_attribute(self.product, "transB", 0) == 1)

    @property
    def bias(self) -> str:
        """Name of the constant bias, or ""."""
        return str(self.product.input[2]) if len(self.product.input) > 2 else ""

    @property
    def outputs(self) -> frozenset[str]:
        """All values that the chain makes."""
        return frozenset(name for node in (*self.shape_nodes, self.product) for name in node.output)

    def reads_in_place(self, node: onnx.NodeProto) -> bool:
        """Whether this node of the exported graph makes or reads a tensor that is not copied for each pass."""
        return any(name in self.in_place for name in (*node.input, *node.output))


def find_weight_chain(graph: onnx.GraphProto, site: onnx.NodeProto, sizes: TensorSizes) -> WeightChain | None:
    """The chain behind a site; None where masking the weights would not be exact, or not pay."""
    initializers = {value.name: value for value in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}

    current, shape_nodes = site.output[0], []
    while True:
        if current in outputs or len(readers.get(current, [])) != 1 or not sizes.counts_rows(current):
            return None
        node = readers[current][0]
        if not _keeps_rows(node, current, initializers):
            break
        shape_nodes.append(node)
        current = node.output[0]
    if not _sums_all(node, current, initializers, sizes):
        return None
    inner, outer = sizes.shapes[current][1], sizes.shapes[node.output[0]][1]
    in_place = frozenset([site.output[0], *(name for link in shape_nodes for name in link.output)])
    if any(0 in sizes.shapes.get(name, (0,)) for name in in_place):
        return None
    return WeightChain(tuple(shape_nodes), node, inner, outer, in_place) if outer <= MOST_OUTPUTS else None


def flatten_order(chain: WeightChain, site: Site, sizes: TensorSizes) -> NDArray[np.int64]:
    """Where in a site's flat mask each feature of the product finds its element: `[F]`."""
    elements = np.arange(math.prod(site.noise_shape), dtype=np.int64).reshape(site.noise_shape)
    order = np.broadcast_to(elements, site.shape)
    for node in chain.shape_nodes:
        if node.op_type == "Transpose":
            order = order.transpose([axis - 1 for axis in _attribute(node, "perm", [])[1:]])
        else:
            order = order.reshape(sizes.shapes[node.output[0]][1:])
    return order.reshape(-1)


def _keeps_rows(node: onnx.NodeProto, data: str, initializers: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node only changes the shape of each row, and does so for any number of rows."""
    if node.op_type == "Identity":
        return True
    if node.op_type == "Flatten":
        return bool(_attribute(node, "axis", 1) == 1)
    if node.op_type == "Transpose":
        permutation = _attribute(node, "perm", [1])
        return bool(permutation[0] == 0)
    if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze") or node.input[0] != data:
        return False
    if len(node.input) < 2 or node.input[1] not in initializers:
        return False
    values = numpy_helper.to_array(initializers[node.input[1]]).tolist()
    if node.op_type == "Reshape":
        return bool(_attribute(node, "allowzero", 0) == 0 and values[0] in (-1, 0))
    return all(axis > 0 for axis in values)


def _sums_all(node: onnx.NodeProto, data: str, initializers: dict[str, onnx.TensorProto], sizes: TensorSizes) -> bool:
    """Whether a node is a product `[B, F] x [F, H]` of the data with a constant."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or node.input[0] != data:
        return False
    constants = [name in initializers for name in node.input[1:]]
    if not all(constants) or len(sizes.shapes[data]) != 2 or len(sizes.shapes.get(node.input[1], ())) != 2:
        return False
    plain = all(_attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return plain and _attribute(node, "transA", 0) == 0 and sizes.counts_rows(node.output[0])


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
