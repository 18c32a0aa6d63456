"""Find the sites whose mask may multiply the weights of the next product instead of the data.

For a mask m, `(x * m) W` equals `x (m' * W)`, where m' is m as a column, if the product contracts every axis of the
mask. The condition holds if the site's output reaches a single MatMul or Gemm with a constant weight, through
operations that only change the shape of a row. At all other sites, the mask multiplies the data, or convolutions leave
out channels (see `screen.engine.graph.channels`).
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

MAX_OUTPUTS = 1024
"""Maximum number of outputs H of a masked weight `[F, H]`. For each pass, masking the weight takes F * H writes, and
masking the data takes B * F writes; a session run has a few hundred rows."""


@dataclass(frozen=True)
class WeightChain:
    """The nodes from a site to the product that contracts every axis of its mask.

    Attributes:
        shape_nodes: shape operations between site and product, in order; each keeps rows separate.
        product: the MatMul or Gemm.
        inner: F, the number of features that the product contracts.
        outer: H, the number of outputs of the product.
        in_place: names of the values between site and product; these values are not copied for each pass.
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
        """Names of all values that the chain computes."""
        return frozenset(name for node in (*self.shape_nodes, self.product) for name in node.output)

    def reads_in_place(self, node: onnx.NodeProto) -> bool:
        """Whether a node of the exported graph reads or computes a value that is not copied for each pass."""
        return any(name in self.in_place for name in (*node.input, *node.output))


def find_weight_chain(graph: onnx.GraphProto, site: onnx.NodeProto, sizes: TensorSizes) -> WeightChain | None:
    """The chain behind a site; None where masking the weights would be inexact or slower."""
    initializers = {value.name: value for value in graph.initializer}
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}

    current, shape_nodes = site.output[0], []
    while True:
        if current in outputs or len(consumers.get(current, [])) != 1 or not sizes.has_row_axis(current):
            return None
        node = consumers[current][0]
        if not _keeps_rows(node, current, initializers):
            break
        shape_nodes.append(node)
        current = node.output[0]
    if not _is_constant_product(node, current, initializers, sizes):
        return None
    inner, outer = sizes.shapes[current][1], sizes.shapes[node.output[0]][1]
    in_place = frozenset([site.output[0], *(name for link in shape_nodes for name in link.output)])
    if any(0 in sizes.shapes.get(name, (0,)) for name in in_place):
        return None
    return WeightChain(tuple(shape_nodes), node, inner, outer, in_place) if outer <= MAX_OUTPUTS else None


def mask_indices(chain: WeightChain, site: Site, sizes: TensorSizes) -> NDArray[np.int64]:
    """Index into a site's flattened mask for each feature of the product, `[F]`."""
    elements = np.arange(math.prod(site.noise_shape), dtype=np.int64).reshape(site.noise_shape)
    indices = np.broadcast_to(elements, site.shape)
    for node in chain.shape_nodes:
        if node.op_type == "Transpose":
            indices = indices.transpose([axis - 1 for axis in _attribute(node, "perm", [])[1:]])
        else:
            indices = indices.reshape(sizes.shapes[node.output[0]][1:])
    return indices.reshape(-1)


def _keeps_rows(node: onnx.NodeProto, data: str, initializers: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node only changes the shape of each row, for any number of rows."""
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


def _is_constant_product(
    node: onnx.NodeProto, data: str, initializers: dict[str, onnx.TensorProto], sizes: TensorSizes
) -> bool:
    """Whether a node is a product `[B, F] x [F, H]` of `data` with a constant weight."""
    if node.op_type not in ("MatMul", "Gemm") or node.domain not in ("", "ai.onnx") or node.input[0] != data:
        return False
    constants = [name in initializers for name in node.input[1:]]
    if not all(constants) or len(sizes.shapes[data]) != 2 or len(sizes.shapes.get(node.input[1], ())) != 2:
        return False
    plain = all(_attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
    return plain and _attribute(node, "transA", 0) == 0 and sizes.has_row_axis(node.output[0])


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default
