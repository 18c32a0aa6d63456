"""Compaction: compute only the units of a layer that the next site keeps.

In the sequence `site, product, activation, site, product`, each pass multiplies the dropped units of the layer in the
middle by zero. With masks shared by all rows, the kept units are known before the pass: only the columns of the first
weight and the rows of the second weight that belong to kept units are needed. The results are mathematically equal; at
a dropout rate of 0.5 the arithmetic of both products is halved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from export.contract.metadata import DOMAIN, ZEROING_KINDS, Site
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.weights import WeightChain

_ACTIVATIONS = ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Tanh", "Sigmoid", "HardSigmoid", "HardSwish", "Gelu")
UNARY = frozenset((*_ACTIVATIONS, "Softplus", "Softsign", "Erf", "Neg", "Abs", "Identity"))
BINARY = frozenset(("Add", "Sub", "Mul", "Div"))

_ROUND_TO = 8
"""Multiple to which the number of kept units is rounded up: the float32 elements of a 256-bit register."""


@dataclass(frozen=True)
class CompactedLayer:
    """A layer that can be compacted, between two sites.

    Attributes:
        first: the chain from the first site to the layer's product.
        elementwise: the nodes between the product and the second site, in order; in each, a unit of the output depends
            on the same unit of the input alone.
        second_site: name of the second site.
        second_rate: dropout rate of the second site.
        second: the chain from the second site to the next product.
    """

    first: WeightChain
    elementwise: tuple[onnx.NodeProto, ...]
    second_site: str
    second_rate: float
    second: WeightChain

    @property
    def outputs(self) -> frozenset[str]:
        """Names of all values between the first site and the second product, and of the second product's output."""
        elementwise = (name for node in self.elementwise for name in node.output)
        return self.first.outputs | self.second.outputs | frozenset(elementwise) | self.second.in_place


def find_compactable_layers(
    graph: onnx.GraphProto, sites: Sequence[Site], chains: Mapping[str, WeightChain], sizes: TensorSizes
) -> dict[str, CompactedLayer]:
    """The layers that can be compacted, by the name of their first site; each site belongs to at most one layer.

    Args:
        graph: the exported graph.
        sites: the sites in the model's contract.
        chains: the chain behind each site that has one, by the name of the site.
        sizes: shapes of the graph's values.
    """
    site_of_input = {node.input[0]: node.name for node in graph.node if node.domain == DOMAIN}
    by_name = {site.name: site for site in sites}
    found: dict[str, CompactedLayer] = {}
    taken: set[str] = set()
    for name, chain in chains.items():
        path = _path_to_next_site(graph, chain, site_of_input, sizes)
        if name in taken or path is None:
            continue
        elementwise, second = path
        site, next_chain = by_name[second], chains.get(second)
        if next_chain is None or next_chain.shape_nodes or len(site.shape) != 1 or site.noise_shape != site.shape:
            continue
        if site.kind not in ZEROING_KINDS:
            continue
        taken |= {name, second}
        found[name] = CompactedLayer(chain, elementwise, second, site.rate, next_chain)
    return found


def choose_units(masks: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The units that each pass keeps, padded with dropped units to the same number K for all passes.

    Args:
        masks: masks of the second site, `[P, H]`.

    Returns:
        Indices of the units `[P, K]` and their mask elements `[P, K]`, which are 0 for padding units.
    """
    dropped = masks == 0
    most_kept = int((~dropped).sum(axis=1).max(initial=1))
    units = min(dropped.shape[1], -(-most_kept // _ROUND_TO) * _ROUND_TO)
    kept = np.argsort(dropped, axis=1, kind="stable")[:, :units].astype(np.int64)
    return kept, np.take_along_axis(masks, kept, axis=1)


def _path_to_next_site(
    graph: onnx.GraphProto, chain: WeightChain, site_of_input: Mapping[str, str], sizes: TensorSizes
) -> tuple[tuple[onnx.NodeProto, ...], str] | None:
    """The nodes from a chain's product to the next site, and the site's name; None unless all nodes are elementwise."""
    consumers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            consumers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    current = str(chain.product.output[0])
    elementwise: list[onnx.NodeProto] = []
    while current not in outputs and len(consumers.get(current, [])) == 1:
        if current in site_of_input:
            return tuple(elementwise), site_of_input[current]
        node = consumers[current][0]
        if not _is_elementwise(node, current, sizes):
            return None
        elementwise.append(node)
        current = node.output[0]
    return None


def _is_elementwise(node: onnx.NodeProto, data: str, sizes: TensorSizes) -> bool:
    """Whether a node is elementwise over the units of `data`; a second operand must have one value, or one per unit."""
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in UNARY:
        return True
    if node.op_type not in BINARY:
        return False
    units = sizes.shapes[data][-1:]
    others = [name for name in node.input if name != data]
    return len(others) == 1 and others[0] in sizes.initializers and sizes.shapes[others[0]] in (units, (1,), ())
