"""Write the product of a site's values and a constant weight for P passes.

In: the node of a site, and a plan that runs the site together with its product. Out: nodes of the head.

Where a site feeds a product with a constant weight (see `screen.engine.graph.weights`), the mask multiplies the weight,
and one batched product `[1, B, F] x [P, F, H]` reads the boundary in place. In a compacted layer, the product leaves
out the units that the next site drops (see `screen.engine.graph.compaction`). Alternatively, the part of the features
that the site itself drops is subtracted from the full product, which the trunk computes (see
`screen.engine.graph.subtraction`).
"""

from __future__ import annotations

import numpy as np
import onnx

from screen.engine.graph.builder import GraphBuilder
from screen.engine.graph.sites import SitePlan
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.stable import RowStability, pad_column
from screen.engine.graph.weights import WeightChain


class ProductWriter:
    """Writes sites whose masks multiply the weight of a product.

    Args:
        builder: collects the nodes of the head.
        boundary: names of the boundary tensors.
        sizes: shapes of the exported graph's values.
        stability: rewrites nodes whose kernels round a row differently at different positions.
    """

    def __init__(
        self, builder: GraphBuilder, boundary: frozenset[str], sizes: TensorSizes, stability: RowStability
    ) -> None:
        self._builder, self._boundary, self._sizes, self._stability = builder, boundary, sizes, stability

    def mask_product(self, node: onnx.NodeProto, plan: SitePlan) -> None:
        """Write a site together with its product."""
        chain = _chain(plan)
        values = self._product(node, plan)
        if chain.bias:
            values = self._builder.add("Add", [values, chain.bias])
        self._builder.fold(values, chain.product.output[0])

    def write_compacted_layer(self, node: onnx.NodeProto, plan: SitePlan, second: SitePlan) -> None:
        """Write a site, its product, the elementwise nodes behind the product, the second site and its product."""
        add, constant, first, next_chain = self._builder.add, self._builder.constant, _chain(plan), _chain(second)
        units = second.units
        values = self._product(node, plan, units)  # [P, B, K]
        if first.bias:
            values = add("Add", [values, self._select_units(first.bias, units)])
        data = first.product.output[0]
        for step in plan.layer.elementwise if plan.layer else ():
            inputs = [values if name == data else self._select_units(name, units) for name in step.input]
            values = self._stability.copy(self._builder, step, iter(inputs), self._builder.unique_name("units"))
            data = step.output[0]
        column = add("Unsqueeze", [second.mask, constant([2])])
        masked = add("Mul", [add("Gather", [self._weight(next_chain), units], axis=0), column])  # [P, K, outputs]
        product = self._multiply(values, masked, next_chain.outer)
        if next_chain.bias:
            product = add("Add", [product, next_chain.bias])
        self._builder.fold(product, next_chain.product.output[0])

    def _product(self, node: onnx.NodeProto, plan: SitePlan, units: str = "") -> str:
        """A site's product without its bias, `[P, B, H]`, or `[P, B, K]` for K selected units.

        Args:
            node: the node of the site.
            plan: plan of the site.
            units: indices of the selected units, `[P, K]`; "" for all H.
        """
        if plan.method == "subtracted":
            return self._subtract(plan, units)
        add, constant, data = self._builder.add, self._builder.constant, node.input[0]
        rows = self._reshape_rows(_chain(plan), data)
        if data in self._boundary and (units or _chain(plan).outer == 1):
            return self._multiply_once(rows, self._masked_units(plan, units))
        if units:
            masked = add("Transpose", [self._masked_units(plan, units)], perm=[0, 2, 1])
        else:
            masked = add("Mul", [add("Unsqueeze", [plan.mask, constant([2])]), self._weight(_chain(plan))])
        rows = add("Unsqueeze", [rows, constant([0])]) if data in self._boundary else self._builder.unfold(rows)
        return self._multiply(rows, masked, _chain(plan).outer)

    def _subtract(self, plan: SitePlan, units: str) -> str:
        """The full product from the trunk, minus the product of the dropped features: `[P, B, H]` or `[P, B, K]`."""
        add, constant = self._builder.add, self._builder.constant
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
        product = self._builder.add("MatMul", [rows, weights])
        if outputs == 1:
            self._builder.nodes[-1:] = pad_column(self._builder.nodes[-1])
        return product

    def _masked_units(self, plan: SitePlan, units: str) -> str:
        """The masked weights of the selected units, `[P, K, F]`; of all H units if `units` is ""."""
        add, chain = self._builder.add, _chain(plan)
        by_unit = chain.weight if chain.transposed else add("Transpose", [chain.weight], perm=[1, 0])
        row = add("Unsqueeze", [plan.mask, self._builder.constant([1])])
        return add("Mul", [add("Gather", [by_unit, units], axis=0) if units else by_unit, row])

    def _multiply_once(self, rows: str, masked: str) -> str:
        """Product of boundary rows `[B, F]` with masked weights `[P, K, F]` of few units: `[P, B, K]`.

        A single product with P * K columns reads the boundary once for all passes of a session run.
        """
        add, constant = self._builder.add, self._builder.constant
        columns = add("Concat", [constant([-1]), add("Shape", [masked], start=2)], axis=0)
        joined = add("Gemm", [rows, add("Reshape", [masked, columns])], transB=1)
        target = add("Concat", [constant([-1]), add("Shape", [masked], start=0, end=2)], axis=0)
        return add("Transpose", [add("Reshape", [joined, target])], perm=[1, 0, 2])

    def _weight(self, chain: WeightChain) -> str:
        """The weight as `[F, H]`."""
        return self._builder.add("Transpose", [chain.weight], perm=[1, 0]) if chain.transposed else chain.weight

    def _select_units(self, name: str, units: str) -> str:
        """Values of a layer's constant for the selected units, `[P, 1, K]`; shapes `[]` and `[1]` stay."""
        if self._sizes.shapes[name] in ((), (1,)):
            return name
        selected = self._builder.add("Gather", [name, units], axis=0)
        return self._builder.add("Unsqueeze", [selected, self._builder.constant([1])])

    def _reshape_rows(self, chain: WeightChain, value: str) -> str:
        """Apply the chain's shape operations to a value with any number of rows."""
        for node in chain.shape_nodes:
            value = self._builder.add_copy(node, iter([value]), self._builder.unique_name("row_shape"))
        return value


def _chain(plan: SitePlan) -> WeightChain:
    """The chain of a site whose method is not `batch` or `channels`."""
    assert plan.chain is not None  # noqa: S101  all other methods have a chain
    return plan.chain
