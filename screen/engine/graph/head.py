"""Build the head: the stochastic part of a graph, for P passes in one session run.

In: the head's nodes, the boundary and the plans of the sites. Out: a graph from boundary tensors and masks to
statistics. Every stochastic value has the pass axis folded into its batch axis, so that the exported graph's nodes are
used unchanged. A site multiplies `[P, B, ...]` by masks `[P, 1, ...]` (`[P, B, ...]` with masks per row); a boundary
tensor enters as `[1, B, ...]`, broadcast without a copy.

Where a site feeds a product with a constant weight (see `screen.engine.graph.weights`), the mask multiplies the weight,
and one batched product `[1, B, F] x [P, F, H]` reads the boundary in place. The product leaves out the units that the
next site drops (see `screen.engine.graph.compaction`). Alternatively, the part of the features that the site itself
drops is subtracted from the full product, which the trunk computes (see `screen.engine.graph.subtraction`).

Where convolutions leave out the channels that a site drops, the nodes around them are written separately for each pass
(see `screen.engine.graph.channels`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.contract.metadata import ALPHA_KINDS, ALPHA_PRIME, DOMAIN, ModelContract
from export.errors import ContractRefused
from screen.engine.graph.builder import GraphBuilder
from screen.engine.graph.channels.writer import ChannelInputs, PassByPassWriter
from screen.engine.graph.reduction import add_statistics
from screen.engine.graph.sites import SitePlan
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.stable import RowStability, pad_column
from screen.engine.graph.trunk import BoundaryTensor
from screen.engine.graph.weights import WeightChain


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
        elif plan.method != "compacted":  # the compacted layer before it includes the site
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
    """Writes each node of the head in its form for P passes."""

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
            self._copy(node, (self._folded(name) for name in node.input))

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
        chain = _chain(plan)
        values = self._product(node, plan)
        if chain.bias:
            values = self.builder.add("Add", [values, chain.bias])
        self.builder.fold(values, chain.product.output[0])

    def write_compacted_layer(self, node: onnx.NodeProto, plan: SitePlan, second: SitePlan) -> None:
        """Write a site, its product, the elementwise nodes behind it, the second site and the second product."""
        add, constant, first, next_chain = self.builder.add, self.builder.constant, _chain(plan), _chain(second)
        units = second.units
        values = self._product(node, plan, units)  # [P, B, K]
        if first.bias:
            values = add("Add", [values, self._select_units(first.bias, units)])
        data = first.product.output[0]
        for step in plan.layer.elementwise if plan.layer else ():
            inputs = [values if name == data else self._select_units(name, units) for name in step.input]
            values = self._copy(step, iter(inputs), self.builder.unique_name("units"))
            data = step.output[0]
        column = add("Unsqueeze", [second.mask, constant([2])])
        masked = add("Mul", [add("Gather", [self._weight(next_chain), units], axis=0), column])  # [P, K, outputs]
        product = self._multiply(values, masked, next_chain.outer)
        if next_chain.bias:
            product = add("Add", [product, next_chain.bias])
        self.builder.fold(product, next_chain.product.output[0])

    def _product(self, node: onnx.NodeProto, plan: SitePlan, units: str = "") -> str:
        """A site's product without its bias, `[P, B, H]`, or `[P, B, K]` for K selected units.

        Args:
            node: the node of the site.
            plan: plan of the site.
            units: indices of the selected units, `[P, K]`; "" for all H.
        """
        self._require_row_axis(node.input[0])
        self._by_pass.fold_inputs(node.input)
        if plan.method == "subtracted":
            return self._subtract(plan, units)
        add, constant, data = self.builder.add, self.builder.constant, node.input[0]
        rows = self._reshape_rows(_chain(plan), data)
        if data in self._boundary and (units or _chain(plan).outer == 1):
            return self._multiply_once(rows, self._masked_units(plan, units))
        if units:
            masked = add("Transpose", [self._masked_units(plan, units)], perm=[0, 2, 1])
        else:
            masked = add("Mul", [add("Unsqueeze", [plan.mask, constant([2])]), self._weight(_chain(plan))])
        rows = add("Unsqueeze", [rows, constant([0])]) if data in self._boundary else self.builder.unfold(rows)
        return self._multiply(rows, masked, _chain(plan).outer)

    def _subtract(self, plan: SitePlan, units: str) -> str:
        """The full product from the trunk, minus the product of the dropped features: `[P, B, H]` or `[P, B, K]`."""
        add, constant = self.builder.add, self.builder.constant
        full = add("Unsqueeze", [plan.full_product, constant([0])])  # [1, B, H]
        dropped = add("Gather", [plan.features, plan.dropped], axis=0)  # [P, D, B]
        weight = add("Gather", [self._weight(_chain(plan)), plan.dropped], axis=0)  # [P, D, H]
        if units:  # selecting columns by a product with a one-hot matrix is exact, and faster than Gather
            off_on = constant([0, 1], np.float32)
            selection = add("OneHot", [units, constant(_chain(plan).outer), off_on], axis=1)  # [P, H, K]
            full, weight = add("MatMul", [full, selection]), add("MatMul", [weight, selection])
        weight = add("Mul", [weight, add("Unsqueeze", [plan.scale, constant([2])])])
        by_row = add("Transpose", [dropped], perm=[0, 2, 1])  # [P, B, D]
        dropped_product = self._multiply(by_row, weight, _chain(plan).outer)
        return add("Sub", [full, dropped_product])

    def _multiply(self, rows: str, weights: str, outputs: int) -> str:
        """Product of rows `[P or 1, B, F]` and the weights of each pass, `[P, F, outputs or K]`."""
        product = self.builder.add("MatMul", [rows, weights])
        if outputs == 1:
            self.builder.nodes[-1:] = pad_column(self.builder.nodes[-1])
        return product

    def _copy(self, node: onnx.NodeProto, inputs: Iterator[str], output: str = "") -> str:
        """Write a copy of a node in a form in which no row depends on its position, and return its output's name."""
        name = self.builder.add_copy(node, inputs, output)
        self.builder.nodes[-1:] = self._stability.rewrite(self.builder.nodes[-1], node)
        return name

    def _masked_units(self, plan: SitePlan, units: str) -> str:
        """The masked weights of the selected units, `[P, K, F]`; of all H units if `units` is ""."""
        add, chain = self.builder.add, _chain(plan)
        by_unit = chain.weight if chain.transposed else add("Transpose", [chain.weight], perm=[1, 0])
        row = add("Unsqueeze", [plan.mask, self.builder.constant([1])])
        return add("Mul", [add("Gather", [by_unit, units], axis=0) if units else by_unit, row])

    def _multiply_once(self, rows: str, masked: str) -> str:
        """Product of boundary rows `[B, F]` with masked weights `[P, K, F]` of few units, `[P, B, K]`.

        A single product with P * K columns reads the boundary once for all passes of a run.
        """
        add, constant = self.builder.add, self.builder.constant
        columns = add("Concat", [constant([-1]), add("Shape", [masked], start=2)], axis=0)
        joined = add("Gemm", [rows, add("Reshape", [masked, columns])], transB=1)
        target = add("Concat", [constant([-1]), add("Shape", [masked], start=0, end=2)], axis=0)
        return add("Transpose", [add("Reshape", [joined, target])], perm=[1, 0, 2])

    def _weight(self, chain: WeightChain) -> str:
        """The weight as `[F, H]`."""
        return self.builder.add("Transpose", [chain.weight], perm=[1, 0]) if chain.transposed else chain.weight

    def _select_units(self, name: str, units: str) -> str:
        """The elements of a layer's constant for the selected units, `[P, 1, K]`; a scalar is returned unchanged."""
        if self._sizes.shapes[name] in ((), (1,)):
            return name
        selected = self.builder.add("Gather", [name, units], axis=0)
        return self.builder.add("Unsqueeze", [selected, self.builder.constant([1])])

    def _reshape_rows(self, chain: WeightChain, value: str) -> str:
        """Apply the chain's shape operations to a value with any number of rows."""
        for node in chain.shape_nodes:
            value = self.builder.add_copy(node, iter([value]), self.builder.unique_name("row_shape"))
        return value

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


def _chain(plan: SitePlan) -> WeightChain:
    """The chain of a site whose method is not `batch`."""
    assert plan.chain is not None  # noqa: S101  only `batch` sites have none
    return plan.chain


def _cannot_fold(name: str, why: str) -> ContractRefused:
    return ContractRefused(
        f"The tensor {name!r} {why}, so the passes cannot be folded into the batch axis.",
        wanted="a model in which the first axis of every tensor that depends on dropout is the batch axis",
        next_step="change the model so that dropout is applied to tensors of shape [batch, ...], then export it again",
    )
