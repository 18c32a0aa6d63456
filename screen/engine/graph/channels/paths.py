"""Find the convolutions that need only the kept channels of a site.

In: a graph and its sites. Out: a `ChannelPath` for each site that drops whole channels (SpatialDropout), where leaving
them out is exact and faster.

In the sequence `convolution, activation, site, pooling, convolution`, each pass multiplies the dropped channels by
zero. With masks shared by all rows, the kept channels are known before the pass. The second convolution reads only the
kept channels: the input channels of its weight are selected, and multiplied by the mask. The first convolution computes
only the kept channels, if no other node reads its output. The results are mathematically equal; at a rate of 0.5 the
arithmetic of both convolutions is halved.

The weights then differ between passes. onnxruntime's CPU provider has a faster kernel for convolutions with constant
weights (layout NCHWc), so leaving out channels does not always save time: see `relative_time`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.contract.metadata import DOMAIN, ZEROING_KINDS, Site
from screen.engine.graph.compaction import BINARY, UNARY
from screen.engine.graph.sizes import TensorSizes, count_flops

PASSES = 2
"""Number of passes in a session run of a head that leaves out channels; each pass has its own nodes. More passes do not
make convolutions faster, and a session run has at least two passes."""

_ROUND_TO = 4
"""Multiple to which the number of kept channels is rounded up, so that rows fill whole vectors as in the exported graph
(see `screen.engine.graph.stable`)."""

_PAYS_BELOW = 0.9
"""Maximum relative time (see `relative_time`) of a convolution with selected input channels at which it is used."""

_LEAST_SAVING = 0.1
"""Minimum fraction of the head's arithmetic that leaving out channels must save, because a head without these channels
has only two passes in each session run."""

_AFTER = frozenset(("Relu", "LeakyRelu", "Identity", "MaxPool", "AveragePool"))
"""Operators f between a site and its convolution: `f(m x)` equals `m f(x)` for each channel and every m >= 0."""

_POOLING = ("MaxPool", "AveragePool")


@dataclass(frozen=True)
class ChannelPath:
    """The nodes around a site that are computed for its kept channels alone.

    Attributes:
        site: name of the site.
        rate: dropout rate of the site.
        product: the convolution behind the site, which reads only the kept channels.
        after: the nodes between the site and `product`, in order.
        source: the convolution before the site, if it computes only the kept channels; else None.
        before: the nodes between `source` and the site, in order; () without `source`.
        input_axis: index of the channel axis in the site's input, where the row axis is 0.
    """

    site: str
    rate: float
    product: onnx.NodeProto
    after: tuple[onnx.NodeProto, ...]
    source: onnx.NodeProto | None
    before: tuple[onnx.NodeProto, ...]
    input_axis: int


@dataclass(frozen=True)
class _Graph:
    """A graph with its weights, producers and readers by name."""

    graph: onnx.GraphProto
    sizes: TensorSizes
    readers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    weights: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.graph.node:
            self.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.weights.update({value.name: value for value in self.graph.initializer})

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The only node that reads a value; None if several nodes read it, or it is an output of the graph."""
        readers = self.readers.get(name, [])
        is_output = any(value.name == name for value in self.graph.output)
        return readers[0] if len(readers) == 1 and list(readers[0].input).count(name) == 1 and not is_output else None

    def is_plain_convolution(self, node: onnx.NodeProto, data: str) -> bool:
        """Whether a node is a convolution of `data` with constant weights in a single group."""
        constants = [name in self.weights for name in node.input[1:] if name]
        return (
            node.op_type == "Conv"
            and node.domain in ("", "ai.onnx")
            and node.input[0] == data
            and all(constants)
            and attribute_of(node, "group", 1) == 1
            and self.sizes.has_row_axis(data)
            and self.sizes.has_row_axis(node.output[0])
            and 0 not in self.sizes.shapes[node.output[0]]
        )


def find_channel_paths(
    graph: onnx.GraphProto, sites: Sequence[Site], sizes: TensorSizes, head: Sequence[onnx.NodeProto]
) -> dict[str, ChannelPath]:
    """The paths of the sites whose dropped channels are left out, by site name; empty if too little is saved.

    Args:
        graph: the exported graph.
        sites: the sites in the model's contract.
        sizes: shapes of the graph's values.
        head: the nodes that are run in every pass.
    """
    view = _Graph(graph, sizes)
    nodes = {node.name: node for node in graph.node if node.domain == DOMAIN}
    found: dict[str, ChannelPath] = {}
    for site in sites:
        path = _path_to_product(view, nodes[site.name], site) if site.kind in ZEROING_KINDS else None
        if path is not None and relative_time(path.product, sizes, 1 - site.rate, 1) < _PAYS_BELOW:
            found[site.name] = path
    in_head = {node.output[0] for node in head}
    products = {path.product.output[0]: path for path in found.values()}
    for name, path in list(found.items()):
        source, before = _path_to_source(view, nodes[name], path.input_axis)
        if source is None or source.output[0] not in in_head:
            continue
        read_by = products.get(source.output[0])
        keep = 1 - read_by.rate if read_by else 1
        time_of_all = relative_time(source, sizes, keep, 1) if read_by else 1
        if relative_time(source, sizes, keep, 1 - path.rate) < time_of_all:
            found[name] = replace(path, source=source, before=before)
    saved = saved_flops(tuple(found.values()), sizes)
    return found if saved >= _LEAST_SAVING * max(1, count_flops(head, sizes)) else {}


def relative_time(node: onnx.NodeProto, sizes: TensorSizes, inputs: float, outputs: float) -> float:
    """Estimated time of a convolution without constant weights, relative to the convolution with constant weights.

    The convolution with constant weights reads and computes all channels. Without constant weights, a convolution is a
    matrix product of the weights and the patches of the image. Per multiply-add, the product took 0.95 times as long as
    the convolution with constant weights. Copying the patches took as long as 28 output channels plus 15 % of all
    output channels. These times were measured on one thread (AVX-512) with 3 x 3 kernels, for 32 to 256 channels on
    8 x 8 to 32 x 32 positions.

    Args:
        node: the convolution.
        sizes: shapes of the graph's values.
        inputs: fraction of the input channels that is read.
        outputs: fraction of the output channels that is computed.
    """
    channels = sizes.shapes[node.input[1]][0]
    return inputs * (0.95 * outputs + 0.15 + 28 / channels)


def saved_flops(paths: Sequence[ChannelPath], sizes: TensorSizes) -> float:
    """Floating point operations for one row in one pass that are saved by leaving out channels."""
    kept: dict[str, float] = {}
    nodes: dict[str, onnx.NodeProto] = {}
    for path in paths:
        for node in (path.product, path.source):
            if node is not None:
                nodes[node.output[0]] = node
                kept[node.output[0]] = kept.get(node.output[0], 1) * (1 - path.rate)
    return sum((1 - kept[name]) * count_flops([node], sizes) for name, node in nodes.items())


def choose_channels(masks: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """The channels of each pass, kept channels first.

    Args:
        masks: `[P, C]`, 0 for dropped channels.

    Returns:
        Indices of the channels `[P, C]`, their mask elements `[P, C]`, and the number of channels to compute `[P]`.
    """
    dropped = masks == 0
    kept = np.maximum((~dropped).sum(axis=1), 1)
    order = np.argsort(dropped, axis=1, kind="stable").astype(np.int64)
    counts = np.minimum(masks.shape[1], -(-kept // _ROUND_TO) * _ROUND_TO).astype(np.int64)
    return order, np.take_along_axis(masks, order, axis=1), counts


def attribute_of(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Value of a node's attribute; `default` if the attribute is not set."""
    return next((onnx.helper.get_attribute_value(one) for one in node.attribute if one.name == name), default)


def _path_to_product(view: _Graph, node: onnx.NodeProto, site: Site) -> ChannelPath | None:
    """The path from a site that drops whole channels to the convolution behind it; None if there is none."""
    channel_axes = [axis for axis, size in enumerate(site.noise_shape, 1) if size > 1]
    if len(channel_axes) != 1 or site.noise_shape[channel_axes[0] - 1] != site.shape[channel_axes[0] - 1]:
        return None
    data, axis, after = str(node.output[0]), channel_axes[0], list[onnx.NodeProto]()
    while (reader := view.only_reader(data)) is not None and reader.domain in ("", "ai.onnx"):
        if axis == 1 and view.is_plain_convolution(reader, data):
            return ChannelPath(site.name, site.rate, reader, tuple(after), None, (), channel_axes[0])
        permutation = attribute_of(reader, "perm", [1])
        if reader.op_type == "Transpose" and permutation[0] == 0:
            axis = list(permutation).index(axis)
        elif not _scales_channels(view, reader, axis):
            return None
        after.append(reader)
        data = reader.output[0]
    return None


def _scales_channels(view: _Graph, node: onnx.NodeProto, axis: int) -> bool:
    """Whether each output channel of a node depends on the same input channel alone, and scales with it."""
    if node.op_type == "Pad":
        return _pads_positions(view, node, axis)
    return node.op_type in _AFTER and len(node.output) == 1 and (axis == 1 or node.op_type not in _POOLING)


def _path_to_source(
    view: _Graph, node: onnx.NodeProto, axis: int
) -> tuple[onnx.NodeProto | None, tuple[onnx.NodeProto, ...]]:
    """The convolution before a site, if it can leave out channels, and the nodes between them; else None and ()."""
    data, before = node.input[0], list[onnx.NodeProto]()
    while (maker := view.makers.get(data)) is not None and view.only_reader(data) is not None:
        if maker.domain not in ("", "ai.onnx") or len(maker.output) != 1:
            break
        if axis == 1 and view.is_plain_convolution(maker, maker.input[0]):
            return maker, tuple(reversed(before))
        previous = _input_by_channel(view, maker, axis)
        if previous is None:
            break
        before.append(maker)
        data = previous
    return None, ()


def _input_by_channel(view: _Graph, node: onnx.NodeProto, axis: int) -> str | None:
    """The input of a node, if each output channel depends on the same channel of this input alone; else None."""
    rank = len(view.sizes.shapes.get(node.output[0], ()))
    if node.op_type in UNARY or (axis == 1 and node.op_type in _POOLING):
        return str(node.input[0])
    if node.op_type == "Pad" and _pads_positions(view, node, axis):
        return str(node.input[0])
    if node.op_type == "BatchNormalization" and axis == 1 and all(name in view.weights for name in node.input[1:]):
        return str(node.input[0])
    if node.op_type not in BINARY:
        return None
    data = [name for name in node.input if name not in view.weights]
    others = [name for name in node.input if name in view.weights]
    if len(data) != 1 or len(others) != 1 or len(view.sizes.shapes.get(data[0], ())) != rank:
        return None
    shape = view.sizes.shapes[others[0]]
    is_channel = [len(shape) - rank + axis == position for position in range(len(shape))]
    channels = view.sizes.shapes[data[0]][axis]
    fits = all(size == 1 or (own and size == channels) for own, size in zip(is_channel, shape, strict=True))
    return data[0] if fits else None


def _pads_positions(view: _Graph, node: onnx.NodeProto, axis: int) -> bool:
    """Whether a node pads positions of each channel with zeros."""
    if attribute_of(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
        return False
    if any(name and name not in view.weights for name in node.input[1:]):
        return False
    if len(node.input) > 2 and node.input[2] and np.any(numpy_helper.to_array(view.weights[node.input[2]])):
        return False
    pads = numpy_helper.to_array(view.weights[node.input[1]]).tolist()
    rank = len(pads) // 2
    return all(pads[position] == 0 for position in (0, axis, rank, rank + axis))
