"""Layers of which a pass needs only some units, because the next site drops the others.

In `site, product, activation, site, product` every pass multiplies the dropped units of the layer
between by zero. With masks that all rows share, the units that a pass keeps are known beforehand:
only their columns of the first weight and their rows of the second are needed. The numbers are the
same, at a dropout rate of 0.5 for half the arithmetic.
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
_UNARY = frozenset((*_ACTIVATIONS, "Softplus", "Softsign", "Erf", "Neg", "Abs", "Identity"))
_BY_UNIT = frozenset(("Add", "Sub", "Mul", "Div"))

_ROUND_TO = 8
"""Units are kept in multiples of this, the width of a vector register in float32."""


@dataclass(frozen=True)
class CompactedLayer:
    """A layer between two sites.

    Attributes:
        first: the chain from the first site into the layer.
        between: what is done to each unit by itself, in order.
        second_site: name of the site behind the layer.
        second_rate: its dropout rate.
        second: the chain behind that site.
    """

    first: WeightChain
    between: tuple[onnx.NodeProto, ...]
    second_site: str
    second_rate: float
    second: WeightChain

    @property
    def outputs(self) -> frozenset[str]:
        """All values from behind the first site to the second product."""
        between = (name for node in self.between for name in node.output)
        return self.first.outputs | self.second.outputs | frozenset(between) | self.second.in_place


def find_thinned_layers(
    graph: onnx.GraphProto, sites: Sequence[Site], chains: Mapping[str, WeightChain], sizes: TensorSizes
) -> dict[str, CompactedLayer]:
    """The layers that can be thinned, by the name of their first site; no site is in two of them."""
    by_input = {node.input[0]: node.name for node in graph.node if node.domain == DOMAIN}
    shapes = {site.name: site for site in sites}
    found: dict[str, CompactedLayer] = {}
    taken: set[str] = set()
    for name, chain in chains.items():
        walked = _walk_to_site(graph, chain, by_input, sizes)
        if name in taken or walked is None:
            continue
        between, second = walked
        site, behind = shapes[second], chains.get(second)
        if behind is None or behind.shape_nodes or len(site.shape) != 1 or site.noise_shape != site.shape:
            continue
        if site.kind not in ZEROING_KINDS:
            continue
        taken |= {name, second}
        found[name] = CompactedLayer(chain, between, second, site.rate, behind)
    return found


def choose_units(masks: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The units that each pass keeps, filled up with dropped ones to the same number for all.

    Args:
        masks: `[P, H]` of the second site.

    Returns:
        Indices `[P, K]`, and their masks `[P, K]`: those of the fill are 0.
    """
    dropped = masks == 0
    most = int((~dropped).sum(axis=1).max(initial=1))
    units = min(dropped.shape[1], -(-most // _ROUND_TO) * _ROUND_TO)
    kept = np.argsort(dropped, axis=1, kind="stable")[:, :units].astype(np.int64)
    return kept, np.take_along_axis(masks, kept, axis=1)


def _walk_to_site(
    graph: onnx.GraphProto, chain: WeightChain, by_input: Mapping[str, str], sizes: TensorSizes
) -> tuple[tuple[onnx.NodeProto, ...], str] | None:
    """From a product over operations on single units to a site, or None."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    current = str(chain.product.output[0])
    between: list[onnx.NodeProto] = []
    while current not in outputs and len(readers.get(current, [])) == 1:
        if current in by_input:
            return tuple(between), by_input[current]
        node = readers[current][0]
        if not _works_on_units(node, current, sizes):
            return None
        between.append(node)
        current = node.output[0]
    return None


def _works_on_units(node: onnx.NodeProto, data: str, sizes: TensorSizes) -> bool:
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type in _UNARY:
        return True
    if node.op_type not in _BY_UNIT:
        return False
    units = sizes.shapes[data][-1:]
    others = [name for name in node.input if name != data]
    return len(others) == 1 and others[0] in sizes.initializers and sizes.shapes[others[0]] in (units, (1,), ())
