"""Build the head: the stochastic part of a graph, for P passes in one run.

In: a `GraphSplit`. Out: a graph from boundary tensors `[B, ...]` and masks `[P, 1, ...]` (or
`[P, B, ...]`, where every row has its own) to statistics. Inside, every stochastic value has the
passes folded into its batch axis, so that each node works on it unchanged. A site is then a product
of `[P, B, ...]` with `[P, 1, ...]`; where the boundary comes in it is `[1, B, ...]`, and no copy of
it is made first.

Where only a constant weight lies behind a site (see `screen.engine.weights`), the mask goes into
the weight, and one batched product `[1, B, F] x [P, F, H]` reads the boundary in place. Units that
the next site drops are left out of it (see `screen.engine.thinning`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from export.contract import DOMAIN, ModelContract, Site
from export.errors import ContractRefused
from screen.engine.builder import PREFIX, GraphBuilder
from screen.engine.reduction import add_statistics
from screen.engine.sizes import TensorSizes
from screen.engine.thinning import ThinnedLayer, find_thinned_layers
from screen.engine.weights import WeightChain, find_weight_chain


@dataclass(frozen=True)
class Head:
    """The head graph and how it came to be.

    Attributes:
        graph: boundary tensors and masks in, statistics out.
        statistics: names of the outputs.
        masks: for each site by name, the input that takes its masks.
        chains: for the sites whose masks go into weights, by name, the chain behind them.
        units: for each site behind a thinned layer, by name, the input that takes the units kept.
    """

    graph: onnx.GraphProto
    statistics: tuple[str, ...]
    masks: dict[str, str]
    chains: dict[str, WeightChain]
    units: dict[str, str]


def build_head(
    whole: onnx.GraphProto,
    contract: ModelContract,
    nodes: Sequence[onnx.NodeProto],
    boundary: Sequence[str],
    sizes: TensorSizes,
    *,
    masks_in_weights: bool,
    thin_layers: bool,
    raw: bool,
) -> Head:
    """Build the head graph.

    Args:
        whole: the exported graph, for its weights and its output.
        contract: for the sites and the kind of output.
        nodes: the head's nodes, in order.
        boundary: names of the trunk's values that these read.
        sizes: shapes of the values of `whole`.
        masks_in_weights: put masks into weights where that is exact.
        thin_layers: leave out what the next site drops, where masks are in weights.
        raw: give every pass, `[P, B, C]`, instead of statistics.

    Raises:
        ContractRefused: the graph counts rows in a way that passes cannot be folded into.
    """
    sites = {site.name: site for site in contract.sites}
    masks = {name: f"{PREFIX}mask_{index}" for index, name in enumerate(sites)}
    chains = _find_chains(whole, nodes, sizes) if masks_in_weights else {}
    thinned = find_thinned_layers(whole, contract.sites, chains, sizes) if thin_layers else {}
    units = {layer.second_site: f"{masks[layer.second_site]}_units" for layer in thinned.values()}
    absorbed = frozenset(
        name
        for outputs in (*(chain.outputs for chain in chains.values()), *(layer.outputs for layer in thinned.values()))
        for name in outputs
    )
    writer = _HeadWriter(GraphBuilder(next(iter(masks.values()))), frozenset(boundary), sizes)
    for node in nodes:
        if node.name in units:
            continue  # the layer in front of it does its work
        if node.name in thinned:
            layer = thinned[node.name]
            second = layer.second_site
            writer.thin_layer(node, masks[node.name], sites[node.name], layer, masks[second], units[second])
        elif node.domain == DOMAIN and node.name in chains:
            writer.mask_weights(node, masks[node.name], sites[node.name], chains[node.name])
        elif node.domain == DOMAIN:
            writer.mask_data(node, masks[node.name])
        elif absorbed.isdisjoint(node.output):
            writer.carry_over(node)
    statistics = add_statistics(writer.builder, whole, contract, raw=raw)

    builder = writer.builder
    read = {name for node in builder.nodes for name in node.input}
    inputs = boundary_values(boundary, sizes)
    inputs += [helper.make_tensor_value_info(name, TensorProto.INT64, ["P", None]) for name in units.values()]
    for name, mask in masks.items():
        shape: list[str | int | None] = ["P", None, *sites[name].noise_shape]
        if name in units:
            shape = ["P", 1, None]
        inputs.append(helper.make_tensor_value_info(mask, TensorProto.FLOAT, shape))
    graph = helper.make_graph(
        builder.nodes,
        "head",
        inputs,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in statistics.items()],
        [*(value for value in whole.initializer if value.name in read), *builder.constants],
    )
    return Head(graph, tuple(statistics), masks, chains, units)


def boundary_values(names: Sequence[str], sizes: TensorSizes) -> list[onnx.ValueInfoProto]:
    """The tensors between trunk and head, with their types and shapes; `B` rows each."""
    values = []
    for name in names:
        rest = (size or None for size in sizes.shapes.get(name, ())[1:])
        values.append(helper.make_tensor_value_info(name, sizes.types[name], ["B", *rest]))
    return values


def _find_chains(whole: onnx.GraphProto, nodes: Sequence[onnx.NodeProto], sizes: TensorSizes) -> dict[str, WeightChain]:
    found = {node.name: find_weight_chain(whole, node, sizes) for node in nodes if node.domain == DOMAIN}
    return {name: chain for name, chain in found.items() if chain is not None}


class _HeadWriter:
    """Writes each node of the head in its P-pass form."""

    def __init__(self, builder: GraphBuilder, boundary: frozenset[str], sizes: TensorSizes) -> None:
        self.builder = builder
        self._boundary = boundary
        self._sizes = sizes
        self._repeated: dict[str, str] = {}

    def carry_over(self, node: onnx.NodeProto) -> None:
        """A node that is no site: the same node, on folded values."""
        if node.op_type == "Shape" and self._is_trunk_value(node.input[0]):
            self._shape_with_passes(node)
        else:
            self.builder.add_copy(node, (self._folded(name) for name in node.input))

    def mask_data(self, node: onnx.NodeProto, mask: str) -> None:
        """A site by itself: its input times the masks."""
        self._demand_rows(node.input[0])
        noisy = self.builder.add("Mul", [self._by_pass(node.input[0]), mask])
        self.builder.fold(noisy, node.output[0])

    def mask_weights(self, node: onnx.NodeProto, mask: str, site: Site, chain: WeightChain) -> None:
        """A site and the product behind it: the input times P masked weights."""
        add, constant = self.builder.add, self.builder.constant
        column = add("Unsqueeze", [self._flat_mask(node, mask, site, chain), constant([2])])
        weight = add("Transpose", [chain.weight], perm=[1, 0]) if chain.transposed else chain.weight
        masked = add("Mul", [column, weight])
        data = node.input[0]
        rows = self._through(chain, data)
        rows = add("Unsqueeze", [rows, constant([0])]) if data in self._boundary else self.builder.unfold(rows)
        product = add("MatMul", [rows, masked])
        if chain.bias:
            product = add("Add", [product, chain.bias])
        self.builder.fold(product, chain.product.output[0])

    def thin_layer(
        self, node: onnx.NodeProto, mask: str, site: Site, layer: ThinnedLayer, second_mask: str, units: str
    ) -> None:
        """A site, its product, what is done to single units, the next site and its product.

        Args:
            node: the first site.
            mask: its masks, `[P, 1, *noise_shape]`.
            site: its shapes.
            layer: what lies behind it.
            second_mask: the next site's masks for the units kept, `[P, 1, K]`.
            units: the units kept, `[P, K]`.
        """
        add, constant, first, second = self.builder.add, self.builder.constant, layer.first, layer.second
        row = add("Unsqueeze", [self._flat_mask(node, mask, site, first), constant([1])])
        by_unit = first.weight if first.transposed else add("Transpose", [first.weight], perm=[1, 0])
        masked = add("Mul", [add("Gather", [by_unit, units], axis=0), row])  # [P, K, F]
        values = self._times_units(node.input[0], first, masked, units)  # [P, B, K]
        if first.bias:
            values = add("Add", [values, self._of_units(first.bias, units)])
        data = first.product.output[0]
        for step in layer.between:
            inputs = [values if name == data else self._of_units(name, units) for name in step.input]
            values = self.builder.add_copy(step, iter(inputs), self.builder.fresh("units"))
            data = step.output[0]
        weight = add("Transpose", [second.weight], perm=[1, 0]) if second.transposed else second.weight
        column = add("Transpose", [second_mask], perm=[0, 2, 1])
        masked = add("Mul", [add("Gather", [weight, units], axis=0), column])  # [P, K, C]
        product = add("MatMul", [values, masked])
        if second.bias:
            product = add("Add", [product, second.bias])
        self.builder.fold(product, second.product.output[0])

    def _times_units(self, data: str, chain: WeightChain, masked: str, units: str) -> str:
        """Rows times masked weights `[P, K, F]`: `[P, B, K]`.

        The boundary is read once for all passes of a run, by one product with P * K columns.
        """
        add, constant = self.builder.add, self.builder.constant
        rows = self._through(chain, data)
        if data not in self._boundary:
            return add("MatMul", [self.builder.unfold(rows), add("Transpose", [masked], perm=[0, 2, 1])])
        inner = self._sizes.shapes[chain.product.input[0]][1]
        joined = add("Gemm", [rows, add("Reshape", [masked, constant([-1, inner])])], transB=1)
        target = add("Concat", [constant([-1]), add("Shape", [units])], axis=0)
        return add("Transpose", [add("Reshape", [joined, target])], perm=[1, 0, 2])

    def _of_units(self, name: str, units: str) -> str:
        """A constant of a layer as it is for the units kept: `[P, 1, K]`; a single number stays."""
        if self._sizes.shapes[name] in ((), (1,)):
            return name
        picked = self.builder.add("Gather", [name, units], axis=0)
        return self.builder.add("Unsqueeze", [picked, self.builder.constant([1])])

    def _flat_mask(self, node: onnx.NodeProto, mask: str, site: Site, chain: WeightChain) -> str:
        """Masks `[P, 1, *noise_shape]` as what the product sees of them: `[P, F]`."""
        add, constant = self.builder.add, self.builder.constant
        self._demand_rows(node.input[0])
        mask = add("Squeeze", [mask, constant([1])])
        if site.noise_shape != site.shape:
            target = add("Concat", [self.builder.passes, constant(site.shape)], axis=0)
            mask = add("Expand", [mask, target])
        return self._through(chain, mask)

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
        rows = self.builder.add("Shape", [sorted(self._boundary)[0]], start=0, end=1)
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


def _cannot_fold(name: str, why: str) -> ContractRefused:
    return ContractRefused(
        f"The tensor {name!r} {why}, so the passes cannot be folded into the batch.",
        wanted="a model in which the first axis counts images wherever dropout reaches",
        next_step="rebuild the model with dropout on tensors [N, ...], then export again",
    )
