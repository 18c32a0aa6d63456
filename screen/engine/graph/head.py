"""Build the head: the stochastic part of a graph, for P passes in one session run.

In: the head's nodes, the boundary and the plans of the sites. Out: a graph from boundary tensors and masks to
statistics. Every stochastic value has the pass axis folded into its batch axis, so that the exported graph's nodes are
used unchanged. A site multiplies `[P, B, ...]` by masks `[P, 1, ...]` (`[P, B, ...]` with masks per row); a boundary
tensor enters as `[1, B, ...]`, broadcast without a copy.

Where a site feeds a product with a constant weight, the mask multiplies the weight (see
`screen.engine.graph.products`).

Where convolutions leave out the channels that a site drops, the nodes around them are written separately for each pass
(see `screen.engine.graph.channels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.contract.metadata import ALPHA_KINDS, ALPHA_PRIME, DOMAIN, ModelContract
from export.errors import ContractRefused
from screen.engine.graph.builder import GraphBuilder
from screen.engine.graph.channels.writer import ChannelInputs, PassByPassWriter
from screen.engine.graph.products import ProductWriter
from screen.engine.graph.reduction import add_statistics
from screen.engine.graph.sites import SitePlan
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.stable import RowStability
from screen.engine.graph.trunk import BoundaryTensor


@dataclass(frozen=True)
class Head:
    """The head graph.

    Attributes:
        graph: graph from boundary tensors and masks to statistics.
        statistics: names of the graph's outputs.
    """

    graph: onnx.GraphProto
    statistics: tuple[str, ...]


def build_head(
    exported: onnx.GraphProto,
    contract: ModelContract,
    nodes: Sequence[onnx.NodeProto],
    boundary: Sequence[BoundaryTensor],
    sites: Sequence[SitePlan],
    sizes: TensorSizes,
    *,
    raw: bool,
) -> Head:
    """Build the head graph.

    Args:
        exported: the exported graph, with its weights and its output.
        contract: the model's contract, with the output kind.
        nodes: the head's nodes, in order.
        boundary: the trunk's outputs.
        sites: plans of the sites.
        sizes: shapes of the values of `exported`.
        raw: output every pass, `[P, B, C]`, instead of statistics.

    Raises:
        ContractRefused: the passes cannot be folded into the batch axis of some tensor.
    """
    plans = {plan.site.name: plan for plan in sites}
    inputs = [value for plan in sites for value in plan.inputs]
    absorbed = frozenset().union(*(group.outputs for plan in sites for group in (plan.chain, plan.layer) if group))
    stability = RowStability(exported, sizes)
    builder, names = GraphBuilder(inputs[0].name), frozenset(tensor.name for tensor in boundary)
    channels = [
        ChannelInputs(plan.path, plan.channels, plan.mask, plan.count) for plan in sites if plan.path is not None
    ]
    by_pass = PassByPassWriter(builder, names, channels, sizes, stability)
    writer = _HeadWriter(builder, boundary, sizes, stability, by_pass)
    for node in nodes:
        if node.domain != DOMAIN:
            if absorbed.isdisjoint(node.output):
                writer.copy_node(node)
            continue
        plan = plans[node.name]
        if plan.path is not None:
            by_pass.select_channels(node)
        elif plan.layer is not None:
            writer.write_compacted_layer(node, plan, plans[plan.layer.second_site])
        elif plan.method == "batch":
            writer.mask_data(node, plan)
        elif plan.method != "compacted":  # the preceding compacted layer includes this site
            writer.mask_product(node, plan)
    by_pass.fold_inputs([value.name for value in exported.output])
    statistics = add_statistics(builder, exported, contract, raw=raw)
    read = {name for node in builder.nodes for name in node.input}
    graph = helper.make_graph(
        builder.nodes,
        "head",
        [*(tensor.value_info() for tensor in boundary), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in statistics.items()],
        [*(value for value in exported.initializer if value.name in read), *builder.constants],
    )
    return Head(graph, tuple(statistics))


class _HeadWriter:
    """Writes the nodes of the head for P passes."""

    def __init__(
        self,
        builder: GraphBuilder,
        boundary: Sequence[BoundaryTensor],
        sizes: TensorSizes,
        stability: RowStability,
        by_pass: PassByPassWriter,
    ) -> None:
        self.builder = builder
        self._by_pass = by_pass
        self._stability = stability
        self._boundary = frozenset(tensor.name for tensor in boundary)
        self._products = ProductWriter(builder, self._boundary, sizes, stability)
        self._rows_source = next(tensor.name for tensor in boundary if tensor.row_axis == 0)
        self._sizes = sizes
        self._repeated: dict[str, str] = {}

    def copy_node(self, node: onnx.NodeProto) -> None:
        """Write a copy of a node that is not a site, with folded values as inputs, or a copy for each pass."""
        if self._by_pass.writes(node):
            self._by_pass.copy_node(node)
            return
        self._by_pass.fold_inputs(node.input)
        if node.op_type == "Shape" and self._is_trunk_value(node.input[0]):
            self._shape_with_passes(node)
        else:
            self._stability.copy(self.builder, node, (self._folded(name) for name in node.input))

    def mask_data(self, node: onnx.NodeProto, plan: SitePlan) -> None:
        """Write a site whose masks multiply its input."""
        self._require_row_axis(node.input[0])
        if self._by_pass.masks_site(node):
            values = self._by_pass.passes_of(node.input[0])
            masks = [
                self.builder.add("Gather", [plan.mask, self.builder.constant(index)], axis=0)
                for index in range(len(values))
            ]
            by_pass = [self._apply_noise(value, plan, mask) for value, mask in zip(values, masks, strict=True)]
            self._by_pass.set_passes(node.output[0], by_pass)
            return
        self._by_pass.fold_inputs(node.input)
        noisy = self._apply_noise(self._with_pass_axis(node.input[0]), plan, plan.mask)
        self.builder.fold(noisy, node.output[0])

    def _apply_noise(self, values: str, plan: SitePlan, mask: str) -> str:
        """Values with a site's noise: `x * m`, or for alpha dropout with mask k, `a (x k + alpha' (1 - k)) + b`.

        Alpha dropout preserves mean and variance of a unit normal (Klambauer et al. 2017): `a` is
        `((1 - rate) (1 + rate alpha'^2))^(-1/2)` and `b` is `-a alpha' rate`.
        """
        if plan.site.kind not in ALPHA_KINDS:
            return self.builder.add("Mul", [values, mask])
        add, rate = self.builder.add, plan.site.rate
        gain = ((1 - rate) * (1 + rate * ALPHA_PRIME**2)) ** -0.5
        kept = add("Mul", [values, add("Mul", [mask, self._scalar(gain)])])
        # a alpha' (1 - k) + b, as -a alpha' k + a alpha' (1 - rate)
        shift = add("Mul", [mask, self._scalar(-gain * ALPHA_PRIME)])
        return add("Add", [kept, add("Add", [shift, self._scalar(gain * ALPHA_PRIME * (1 - rate))])])

    def _scalar(self, value: float) -> str:
        return self.builder.constant(value, np.float32)

    def mask_product(self, node: onnx.NodeProto, plan: SitePlan) -> None:
        """Write a site together with its product."""
        self._prepare_product(node)
        self._products.mask_product(node, plan)

    def write_compacted_layer(self, node: onnx.NodeProto, plan: SitePlan, second: SitePlan) -> None:
        """Write a site, its product, the elementwise nodes behind the product, the second site and its product."""
        self._prepare_product(node)
        self._products.write_compacted_layer(node, plan, second)

    def _prepare_product(self, node: onnx.NodeProto) -> None:
        self._require_row_axis(node.input[0])
        self._by_pass.fold_inputs(node.input)

    def _folded(self, name: str) -> str:
        """The value as `[P * B, ...]`: a boundary tensor is repeated for every pass."""
        if name not in self._boundary:
            return name
        if name not in self._repeated:
            self._require_row_axis(name)
            self._repeated[name] = self.builder.repeat(name)
        return self._repeated[name]

    def _with_pass_axis(self, name: str) -> str:
        """The value as `[1, B, ...]` if it is a boundary tensor, as `[P, B, ...]` if it is stochastic."""
        if name in self._boundary:
            return self.builder.add("Unsqueeze", [name, self.builder.constant([0])])
        return self.builder.unfold(name)

    def _is_trunk_value(self, name: str) -> bool:
        computed = {output for node in self.builder.nodes for output in node.output}
        return name not in computed and name not in self._sizes.initializers

    def _shape_with_passes(self, node: onnx.NodeProto) -> None:
        """Write the shape of a trunk tensor with P * B rows instead of B."""
        name = node.input[0]
        self._require_row_axis(name)
        rows = self.builder.add("Shape", [self._rows_source], start=0, end=1)
        rows = self.builder.add("Mul", [rows, self.builder.passes])
        rest = self._sizes.shapes[name][1:]
        if 0 in rest:
            raise _cannot_fold(name, "has an axis whose size is not determined by the image size")
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        full = self.builder.add("Concat", [rows, self.builder.constant(rest)], axis=0)
        start, end = bounds.get("start", 0), bounds.get("end", len(rest) + 1)
        cut = [self.builder.constant([start]), self.builder.constant([end])]
        self.builder.add("Slice", [full, *cut], node.output[0])

    def _require_row_axis(self, name: str) -> None:
        if not self._sizes.has_row_axis(name):
            shape = self._sizes.shapes.get(name, ("unknown",))
            raise _cannot_fold(name, f"does not have the batch axis as its first axis (shape {list(shape)})")


def _cannot_fold(name: str, why: str) -> ContractRefused:
    return ContractRefused(
        f"The tensor {name!r} {why}, so the passes cannot be folded into the batch axis.",
        wanted="a model in which the first axis of every tensor that depends on dropout is the batch axis",
        next_step="change the model so that dropout is applied to tensors of shape [batch, ...], then export it again",
    )
