"""Find the batch axis in the input of each site, and make it the first axis.

In: a graph with marked sites and a variable batch axis. Out: a `Placement` for each site, and the graph in which the
input of each site has the shape `[N, *shape of a row]`. The axis whose size differs between runs with 2 and with 3 rows
is the batch axis.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from export.errors import ModelRefused
from export.onnx_source.graphs import replace_nodes
from export.onnx_source.images import FoundInput
from export.onnx_source.marks import site_of, without_marks
from export.onnx_source.rows import GraphRun, Values


@dataclass(frozen=True)
class Placement:
    """Position of the rows in the input of a site.

    Attributes:
        axis: axis of the input that contains the rows.
        parts: number of positions along this axis for each row, such as the heads of an attention layer.
        others: sizes of the other axes, in order.
    """

    axis: int
    parts: int
    others: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a row of the site: `(parts, *others)`; `others` if `parts` is 1."""
        return (self.parts, *self.others) if self.parts > 1 else self.others

    def arrange(self, rows: Values) -> Values:
        """Values `[B, *shape]`, arranged in the shape of the site's input in the source file."""
        joined = rows.reshape(len(rows) * self.parts, *self.others)
        return np.ascontiguousarray(np.moveaxis(joined, 0, self.axis))


def find_placements(
    model: onnx.ModelProto, found: FoundInput, output: str, origin: str
) -> tuple[dict[str, Placement], int]:
    """The placement of each site by its name, and the number of outputs C.

    Args:
        model: graph with marked sites and a variable batch axis.
        found: the image input.
        output: name of the output.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the graph does not run with 2 and with 3 rows, no axis or more than one axis of a site's input
            contains the rows, or the output is not `[N, C]`.
    """
    sites = {site: node.input[0] for node in model.graph.node if (site := site_of(node))}
    shapes = _shapes(model, found, [*sites.values(), output], origin)
    two, three = shapes[0][output], shapes[1][output]
    if len(two) != 2 or two[0] != 2 or three != (3, two[1]):
        raise ModelRefused(
            f"The output {output} of {origin} has the shape {list(two)} for 2 images.",
            wanted="an output of shape [N, C]: C classes, labels or values for each image",
            next_step="export a module that returns one vector for each image, such as torch.nn.Sequential(model, "
            f"torch.nn.{'Unflatten(0, (-1, 1))' if len(two) == 1 else 'Flatten()'}), with the batch axis first and "
            "variable",
        )
    return {site: _place(site, shapes[0][value], shapes[1][value], origin) for site, value in sites.items()}, two[1]


def _shapes(
    model: onnx.ModelProto, found: FoundInput, names: list[str], origin: str
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of some values by name, for 2 rows and for 3 rows."""
    shapes = []
    try:
        run = GraphRun(without_marks(model), found, list(dict.fromkeys(names)))
        for rows in (2, 3):
            pixels: NDArray[np.float32] = np.zeros((rows, *found.image.input_shape), np.float32)
            shapes.append({name: value.shape for name, value in run.batch(pixels).items()})
    except Exception as error:
        fixed = f" Its input has a fixed batch of {found.batch}." if found.batch else ""
        raise ModelRefused(
            f"{origin} does not run in onnxruntime with 2 and with 3 images: {_reason(error)}.{fixed}",
            wanted="a graph that takes any number of images",
            next_step="export the model again with a variable batch axis: torch.onnx.export(..., dynamic_shapes=({0: "
            "torch.export.Dim('n')},)), or with dynamo=False dynamic_axes={'image': {0: 'n'}} and "
            "input_names=['image']",
        ) from error
    return shapes[0], shapes[1]


def _reason(error: Exception) -> str:
    """Description of the node that failed; the first line of the error if it names no node."""
    failed = re.search(r"running (\w+) node\. Name:'([^']*)'", str(error))
    if failed:
        return f"the {failed[1]} {failed[2]} fails"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][-300:].rstrip(".")


def _place(site: str, two: tuple[int, ...], three: tuple[int, ...], origin: str) -> Placement:
    axes = [axis for axis, (one, other) in enumerate(zip(two, three, strict=True)) if one != other]
    axis = axes[0] if len(axes) == 1 else -1
    parts = three[axis] - two[axis] if axes else 0
    if axis < 0 or two[axis] != 2 * parts:
        raise ModelRefused(
            f"The input of the dropout {site} of {origin} has the shape {list(two)} for 2 images, and {list(three)} "
            "for 3.",
            wanted="an input with one axis that contains the images",
            next_step="export the model without this dropout (module.eval() before the export), or leave it out with "
            "--keep-layer and the names of the other dropouts",
        )
    return Placement(axis, parts, (*two[:axis], *two[axis + 1 :]))


def move_rows_to_front(model: onnx.ModelProto, placements: dict[str, Placement]) -> None:
    """Transpose and reshape the input of each site to `[N, *shape of a row]`, and its output back."""
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        site = site_of(node)
        place = placements.get(site)
        if place is None or (place.axis == 0 and place.parts == 1):
            nodes.append(node)
            continue
        value, result = node.input[0], node.output[0]
        before: list[onnx.NodeProto] = []
        after: list[onnx.NodeProto] = []
        count = len(place.others) + 1
        if place.axis:
            order = [place.axis, *(axis for axis in range(count) if axis != place.axis)]
            before.append(_node("Transpose", [value], f"{site}/rows_first", perm=order))
            after.append(_node("Transpose", [f"{site}/rows_first/masked"], result, perm=np.argsort(order).tolist()))
            value, result = before[-1].output[0], after[-1].input[0]
        if place.parts > 1:
            before.append(_reshape(graph, value, f"{site}/rows", place.shape))
            after.insert(0, _reshape(graph, f"{site}/rows/masked", result, place.others))
            value, result = before[-1].output[0], after[0].input[0]
        node.input[0], node.output[0] = value, result
        nodes += [*before, node, *after]
    replace_nodes(graph, nodes)


def _node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)


def _reshape(graph: onnx.GraphProto, value: str, output: str, row: tuple[int, ...]) -> onnx.NodeProto:
    target = f"{output}/shape"
    graph.initializer.append(numpy_helper.from_array(np.array([-1, *row], np.int64), target))
    return _node("Reshape", [value, target], output)
