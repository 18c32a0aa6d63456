"""Write nodes of the head separately for each pass of a session run.

In: nodes of the exported graph between and around the sites whose dropped channels are left out (see
`screen.engine.graph.channels.paths`). Out: nodes of the head for `PASSES` passes. Every pass has its own copy of each
node, because the passes differ in the number of channels; a boundary tensor is read by all copies. From the first value
with fewer than three axes on, the passes are concatenated along the batch axis, as in the rest of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from screen.engine.graph.builder import GraphBuilder
from screen.engine.graph.channels.paths import PASSES, ChannelPath
from screen.engine.graph.sizes import TensorSizes
from screen.engine.graph.stable import RowStability

_LEAST_AXES = 3
"""Minimum number of axes of a value that is computed separately for each pass; values with fewer axes take little
time."""


@dataclass(frozen=True)
class ChannelInputs:
    """A site's channel path, and the names of the head's inputs for its masks: see `choose_channels`."""

    path: ChannelPath
    channels: str
    mask: str
    count: str


@dataclass(frozen=True)
class _Selection:
    """Names of the indices `[K]` and of the mask elements `[K]` of the channels that one pass keeps."""

    channels: str
    mask: str


class PassByPassWriter:
    """Writes nodes once for each pass.

    Args:
        builder: receives the nodes.
        boundary: names of the trunk's outputs.
        sites: the sites whose dropped channels are left out.
        sizes: shapes of the exported graph's values.
        stability: rewrites nodes whose kernels round a row differently at different positions.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        boundary: frozenset[str],
        sites: Sequence[ChannelInputs],
        sizes: TensorSizes,
        stability: RowStability,
    ) -> None:
        self._builder, self._boundary, self._sizes, self._stability = builder, boundary, sizes, stability
        self._values: dict[str, list[str]] = {}
        self._folded: set[str] = set()
        self._sites = {site.path.site: site for site in sites}
        self._products = {site.path.product.output[0]: site for site in sites}
        self._sources = {site.path.source.output[0]: site for site in sites if site.path.source is not None}
        self._before = {node.output[0]: site for site in sites for node in site.path.before}
        self._own = {*self._products, *self._sources, *self._before}
        self._own |= {node.output[0] for site in sites for node in site.path.after}
        self._selections = {name: self._select(site) for name, site in self._sites.items()}

    def writes(self, node: onnx.NodeProto) -> bool:
        """Whether a node that is not a site is written once for each pass.

        All other nodes are written once, and process the passes concatenated along the batch axis.
        """
        if node.output[0] in self._own:
            return True
        name = node.output[0]
        large = self._sizes.has_row_axis(name) and len(self._sizes.shapes[name]) >= _LEAST_AXES
        if not large or len(node.output) != 1 or self._sizes.types.get(name) != TensorProto.FLOAT:
            return False
        return any(one in self._values for one in node.input) and all(map(self._is_readable, node.input))

    def copy_node(self, node: onnx.NodeProto) -> None:
        """Write a node that is not a site, once for each pass."""
        product, source = self._products.get(node.output[0]), self._sources.get(node.output[0])
        before = self._before.get(node.output[0])
        data = {name: self._by_pass(name) for name in node.input if name and name not in self._sizes.initializers}
        for index in range(PASSES):
            inputs = [data[name][index] if name in data else name for name in node.input]
            if product or source:
                inputs[1:] = self._select_weights(node, index, product, source)
            elif before:
                selection = self._selections[before.path.site][index]
                inputs = [self._select_constant(node, name, before.path, selection) for name in node.input]
                inputs = [
                    data[own][index] if own in data else name for own, name in zip(node.input, inputs, strict=True)
                ]
            output = f"{node.output[0]}/pass_{index}"
            self._stability.copy(self._builder, node, iter(inputs), output)
            self._values.setdefault(node.output[0], []).append(output)

    def masks_site(self, node: onnx.NodeProto) -> bool:
        """Whether the masks of a site multiply values that are written for each pass."""
        data = node.input[0]
        return data in self._values and data not in self._folded and len(self._sizes.shapes[data]) >= _LEAST_AXES

    def set_passes(self, name: str, values: list[str]) -> None:
        """Set the names of a site's output in each pass."""
        self._values[name] = values

    def passes_of(self, name: str) -> list[str]:
        """The names of a value `[B, ...]` in each pass."""
        return self._by_pass(name)

    def select_channels(self, node: onnx.NodeProto) -> None:
        """Write a site whose dropped channels are left out: select the kept channels if all were computed."""
        site, data = self._sites[node.name], self._by_pass(node.input[0])
        if site.path.source is None:
            axis, selections = site.path.input_axis, self._selections[node.name]
            data = [
                self._builder.add("Gather", [value, selection.channels], axis=axis)
                for value, selection in zip(data, selections, strict=True)
            ]
        self._values[node.output[0]] = data

    def fold_inputs(self, names: Sequence[str]) -> None:
        """Concatenate the passes of values along the batch axis, under the values' own names."""
        for name in names:
            if name in self._values and name not in self._folded:
                self._builder.add("Concat", self._values[name], name, axis=0)
                self._folded.add(name)

    def _is_readable(self, name: str) -> bool:
        if not name or name in self._sizes.initializers or name in self._values:
            return True
        return name in self._boundary and self._sizes.has_row_axis(name)

    def _by_pass(self, name: str) -> list[str]:
        """The names of a value in each pass; a value with the passes in its batch axis is split."""
        if name in self._values:
            return self._values[name]
        if name in self._boundary:
            return [name] * PASSES
        parts = [self._builder.unique_name("pass") for _ in range(PASSES)]
        self._builder.add("Split", [name], parts[0], axis=0, num_outputs=PASSES)
        self._builder.nodes[-1].output.extend(parts[1:])
        self._values[name] = parts
        self._folded.add(name)
        return parts

    def _select(self, site: ChannelInputs) -> list[_Selection]:
        add, constant = self._builder.add, self._builder.constant
        selections = []
        for index in range(PASSES):
            end = add("Gather", [site.count, constant([index])], axis=0)

            def cut(name: str, index: int = index, end: str = end) -> str:
                own = add("Gather", [name, constant(index)], axis=0)
                return add("Slice", [own, constant([0]), end])

            selections.append(_Selection(cut(site.channels), cut(site.mask)))
        return selections

    def _select_weights(
        self, node: onnx.NodeProto, index: int, product: ChannelInputs | None, source: ChannelInputs | None
    ) -> list[str]:
        """The weight of a convolution, and its bias if it has one, for the channels that a pass reads and computes."""
        add, constants = self._builder.add, list(node.input[1:])
        if source:
            channels = self._selections[source.path.site][index].channels
            constants = [add("Gather", [name, channels], axis=0) if name else name for name in constants]
        if product:
            selection = self._selections[product.path.site][index]
            rank = len(self._sizes.shapes[node.input[1]])
            axes = self._builder.constant([axis for axis in range(rank) if axis != 1])
            mask = add("Unsqueeze", [selection.mask, axes])
            constants[0] = add("Mul", [add("Gather", [constants[0], selection.channels], axis=1), mask])
        return constants

    def _select_constant(self, node: onnx.NodeProto, name: str, path: ChannelPath, selection: _Selection) -> str:
        """The elements of a node's constant for the kept channels; a constant without a channel axis is unchanged."""
        if node.op_type == "Pad" or name not in self._sizes.initializers:
            return name
        shape = self._sizes.shapes[name]
        rank = len(self._sizes.shapes[node.output[0]])
        axis = 0 if node.op_type == "BatchNormalization" else len(shape) - rank + path.input_axis
        if axis < 0 or axis >= len(shape) or shape[axis] == 1:
            return name
        return self._builder.add("Gather", [name, selection.channels], axis=axis)
