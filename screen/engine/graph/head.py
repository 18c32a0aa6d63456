"""Build the head: the stochastic part of a graph, for P passes in one run.

In: a `GraphSplit`, the boundary and how each site is run. Out: a graph from boundary tensors and masks
to statistics. Inside, every stochastic value has the passes folded into its batch axis, so that each
node works on it unchanged. A site is then a product of `[P, B, ...]` with `[P, 1, ...]` (or
`[P, B, ...]`, where every row has masks of its own); where the boundary comes in it is `[1, B, ...]`,
and no copy of it is made first.

Where only a constant weight lies behind a site (see `screen.engine.graph.weights`), the mask goes into
the weight, and one batched product `[1, B, F] x [P, F, H]` reads the boundary in place. What the
next site drops is left out of it (see `screen.engine.graph.compaction`), and what the site itself keeps is
taken from the trunk (see `screen.engine.graph.subtraction`).
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
from screen.engine.graph.reduction import add_statistics
from screen.engine.graph.sites import SitePlan
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.trunk import BoundaryTensor
from screen.engine.graph.weights import WeightChain


@dataclass(frozen=True)
class Head:
    """The head graph: boundary tensors and masks in, statistics out; and the names of these."""

    graph: onnx.GraphProto
    statistics: tuple[str, ...]


def build_head(
    whole: onnx.GraphProto,
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
        whole: the exported graph, for its weights and its output.
        contract: for the kind of output.
        nodes: the head's nodes, in order.
        boundary: what the trunk hands over.
        sites: how each site is run.
        sizes: shapes of the values of `whole`.
        raw: give every pass, `[P, B, C]`, instead of statistics.

    Raises:
        ContractRefused: the graph counts rows in a way that passes cannot be folded into.
    """
    plans = {plan.site.name: plan for plan in sites}
    inputs = [value for plan in sites for value in plan.inputs]
    absorbed = frozenset().union(*(part.outputs for plan in sites for part in (plan.chain, plan.layer) if part))
    writer = _HeadWriter(GraphBuilder(inputs[0].name), boundary, sizes)
    for node in nodes:
        if node.domain != DOMAIN:
            if absorbed.isdisjoint(node.output):
                writer.carry_over(node)
            continue
        plan = plans[node.name]
        if plan.layer is not None:
            writer.thin_layer(node, plan, plans[plan.layer.second_site])
        elif plan.how == "batch":
            writer.mask_data(node, plan)
        elif plan.how != "thinned":  # the layer in front of that one does its work
            writer.mask_product(node, plan)
    statistics = add_statistics(writer.builder, whole, contract, raw=raw)

    builder = writer.builder
    read = {name for node in builder.nodes for name in node.input}
    graph = helper.make_graph(
        builder.nodes,
        "head",
        [*(tensor.value_info() for tensor in boundary), *inputs],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in statistics.items()],
        [*(value for value in whole.initializer if value.name in read), *builder.constants],
    )
    return Head(graph, tuple(statistics))


class _HeadWriter:
    """Writes each node of the head in its P-pass form."""

    def __init__(self, builder: GraphBuilder, boundary: Sequence[BoundaryTensor], sizes: TensorSizes) -> None:
        self.builder = builder
        self._boundary = frozenset(tensor.name for tensor in boundary)
        self._counts_rows = next(tensor.name for tensor in boundary if tensor.row_axis == 0)
        self._sizes = sizes
        self._repeated: dict[str, str] = {}

    def carry_over(self, node: onnx.NodeProto) -> None:
        """A node that is no site: the same node, on folded values."""
        if node.op_type == "Shape" and self._is_trunk_value(node.input[0]):
            self._shape_with_passes(node)
        else:
            self.builder.add_copy(node, (self._folded(name) for name in node.input))

    def mask_data(self, node: onnx.NodeProto, plan: SitePlan) -> None:
        """A site by itself: its input times the masks."""
        self._demand_rows(node.input[0])
        noisy = self._mix(self._by_pass(node.input[0]), plan)
        self.builder.fold(noisy, node.output[0])

    def _mix(self, values: str, plan: SitePlan) -> str:
        """Values with a site's noise: `x * m`, or for alpha dropout `a (x k + alpha' (1 - k)) + b`.

        The latter keeps mean and variance of a unit normal (Klambauer et al. 2017): `a` is
        `((1 - rate) (1 + rate alpha'^2))^(-1/2)` and `b` is `-a alpha' rate`.
        """
        if plan.site.kind not in ALPHA_KINDS:
            return self.builder.add("Mul", [values, plan.mask])
        add, rate = self.builder.add, plan.site.rate
        gain = ((1 - rate) * (1 + rate * ALPHA_PRIME**2)) ** -0.5
        passed = add("Mul", [values, add("Mul", [plan.mask, self._number(gain)])])
        # What a dropped element becomes, less what a kept one is shifted by.
        shift = add("Mul", [plan.mask, self._number(-gain * ALPHA_PRIME)])
        return add("Add", [passed, add("Add", [shift, self._number(gain * ALPHA_PRIME * (1 - rate))])])

    def _number(self, value: float) -> str:
        return self.builder.constant(value, np.float32)

    def mask_product(self, node: onnx.NodeProto, plan: SitePlan) -> None:
        """A site and the product behind it."""
        chain = _chain(plan)
        values = self._product(node, plan)
        if chain.bias:
            values = self.builder.add("Add", [values, chain.bias])
        self.builder.fold(values, chain.product.output[0])

    def thin_layer(self, node: onnx.NodeProto, plan: SitePlan, second: SitePlan) -> None:
        """A site, its product, what is done to single units, the next site and its product."""
        add, constant, first, behind = self.builder.add, self.builder.constant, _chain(plan), _chain(second)
        units = second.units
        values = self._product(node, plan, units)  # [P, B, K]
        if first.bias:
            values = add("Add", [values, self._of_units(first.bias, units)])
        data = first.product.output[0]
        for step in plan.layer.between if plan.layer else ():
            inputs = [values if name == data else self._of_units(name, units) for name in step.input]
            values = self.builder.add_copy(step, iter(inputs), self.builder.fresh("units"))
            data = step.output[0]
        column = add("Unsqueeze", [second.mask, constant([2])])
        masked = add("Mul", [add("Gather", [self._weight(behind), units], axis=0), column])  # [P, K, C]
        product = add("MatMul", [values, masked])
        if behind.bias:
            product = add("Add", [product, behind.bias])
        self.builder.fold(product, behind.product.output[0])

    def _product(self, node: onnx.NodeProto, plan: SitePlan, units: str = "") -> str:
        """The product behind a site, bias left out: `[P, B, H]`, or `[P, B, K]` of the units asked for.

        Args:
            node: the site.
            plan: how it is run.
            units: the units that are wanted, `[P, K]`; "" for all.
        """
        self._demand_rows(node.input[0])
        if plan.how == "subtracted":
            return self._subtract(plan, units)
        add, constant, data = self.builder.add, self.builder.constant, node.input[0]
        rows = self._through(_chain(plan), data)
        if units and data in self._boundary:
            return self._times_units(rows, plan, units)
        if units:
            masked = add("Transpose", [self._masked_units(plan, units)], perm=[0, 2, 1])
        else:
            masked = add("Mul", [add("Unsqueeze", [plan.mask, constant([2])]), self._weight(_chain(plan))])
        rows = add("Unsqueeze", [rows, constant([0])]) if data in self._boundary else self.builder.unfold(rows)
        return add("MatMul", [rows, masked])

    def _subtract(self, plan: SitePlan, units: str) -> str:
        """The product of all features, from the trunk, less that of the dropped ones."""
        add, constant = self.builder.add, self.builder.constant
        whole = add("Unsqueeze", [plan.whole, constant([0])])  # [1, B, H]
        dropped = add("Gather", [plan.features, plan.dropped], axis=0)  # [P, D, B]
        weight = add("Gather", [self._weight(_chain(plan)), plan.dropped], axis=0)  # [P, D, H]
        if units:  # picking columns by a product with ones and zeros is exact, and faster than by index
            ones = constant([0, 1], np.float32)
            picked = add("OneHot", [units, constant(_chain(plan).outer), ones], axis=1)  # [P, H, K]
            whole, weight = add("MatMul", [whole, picked]), add("MatMul", [weight, picked])
        weight = add("Mul", [weight, add("Unsqueeze", [plan.scale, constant([2])])])
        lost = add("MatMul", [add("Transpose", [dropped], perm=[0, 2, 1]), weight])
        return add("Sub", [whole, lost])

    def _masked_units(self, plan: SitePlan, units: str) -> str:
        """The masked weights of some units: `[P, K, F]`."""
        add, chain = self.builder.add, _chain(plan)
        by_unit = chain.weight if chain.transposed else add("Transpose", [chain.weight], perm=[1, 0])
        row = add("Unsqueeze", [plan.mask, self.builder.constant([1])])
        return add("Mul", [add("Gather", [by_unit, units], axis=0), row])

    def _times_units(self, rows: str, plan: SitePlan, units: str) -> str:
        """Rows of the boundary times masked weights: `[P, B, K]`.

        The boundary is read once for all passes of a run, by one product with P * K columns.
        """
        add, constant = self.builder.add, self.builder.constant
        masked = add("Reshape", [self._masked_units(plan, units), constant([-1, _chain(plan).inner])])
        joined = add("Gemm", [rows, masked], transB=1)
        target = add("Concat", [constant([-1]), add("Shape", [units])], axis=0)
        return add("Transpose", [add("Reshape", [joined, target])], perm=[1, 0, 2])

    def _weight(self, chain: WeightChain) -> str:
        """The weight as `[F, H]`."""
        return self.builder.add("Transpose", [chain.weight], perm=[1, 0]) if chain.transposed else chain.weight

    def _of_units(self, name: str, units: str) -> str:
        """A constant of a layer as it is for the units kept: `[P, 1, K]`; a single number stays."""
        if self._sizes.shapes[name] in ((), (1,)):
            return name
        picked = self.builder.add("Gather", [name, units], axis=0)
        return self.builder.add("Unsqueeze", [picked, self.builder.constant([1])])

    def _through(self, chain: WeightChain, value: str) -> str:
        """Send a value with any number of rows (or of masks) through the chain's shape operations."""
        for node in chain.shape_nodes:
            value = self.builder.add_copy(node, iter([value]), self.builder.fresh("row_shape"))
        return value

    def _folded(self, name: str) -> str:
        """A value as a node of the head reads it: a boundary tensor repeated for every pass."""
        if name not in self._boundary:
            return name
        if name not in self._repeated:
            self._demand_rows(name)
            self._repeated[name] = self.builder.repeat(name)
        return self._repeated[name]

    def _by_pass(self, name: str) -> str:
        """`[1, B, ...]` for a boundary tensor, `[P, B, ...]` for a stochastic one."""
        if name in self._boundary:
            return self.builder.add("Unsqueeze", [name, self.builder.constant([0])])
        return self.builder.unfold(name)

    def _is_trunk_value(self, name: str) -> bool:
        made = {output for node in self.builder.nodes for output in node.output}
        return name not in made and name not in self._sizes.initializers

    def _shape_with_passes(self, node: onnx.NodeProto) -> None:
        """The shape of a trunk tensor, as it would be with P times the rows."""
        name = node.input[0]
        self._demand_rows(name)
        rows = self.builder.add("Shape", [self._counts_rows], start=0, end=1)
        rows = self.builder.add("Mul", [rows, self.builder.passes])
        rest = self._sizes.shapes[name][1:]
        if 0 in rest:
            raise _cannot_fold(name, "has a size that does not follow from the image size")
        bounds = {attribute.name: attribute.i for attribute in node.attribute}
        full = self.builder.add("Concat", [rows, self.builder.constant(rest)], axis=0)
        start, end = bounds.get("start", 0), bounds.get("end", len(rest) + 1)
        cut = [self.builder.constant([start]), self.builder.constant([end])]
        self.builder.add("Slice", [full, *cut], node.output[0])

    def _demand_rows(self, name: str) -> None:
        if not self._sizes.counts_rows(name):
            shape = self._sizes.shapes.get(name, ("unknown",))
            raise _cannot_fold(name, f"has no row axis in front (shape {list(shape)})")


def _chain(plan: SitePlan) -> WeightChain:
    """The chain of a site that has one."""
    assert plan.chain is not None  # noqa: S101  the plan says so by `how`
    return plan.chain


def _cannot_fold(name: str, why: str) -> ContractRefused:
    return ContractRefused(
        f"The tensor {name!r} {why}, so the passes cannot be folded into the batch.",
        wanted="a model in which the first axis counts images wherever dropout reaches",
        next_step="rebuild the model with dropout on tensors [N, ...], then export again",
    )
