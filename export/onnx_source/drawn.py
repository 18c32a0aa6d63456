"""Turn dropout that an exporter wrote as a product with a random mask into Dropout nodes.

In: a prepared graph and its image input. Out: the graph, changed in place, and the output names of the new nodes. The
newer exporter of PyTorch writes `nn.Dropout2d`, in-place `nn.Dropout` and stochastic depth as
`x * (Cast(RandomUniformLike(mask) < keep) / keep)`: dropout of rate `1 - keep`, whose mask may be shared along axes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.errors import ModelRefused
from export.onnx_source.dropouts import OWN_AXES
from export.onnx_source.graphs import Constants, attributes_of, keep_needed, producers_of
from export.onnx_source.images import FoundInput
from export.onnx_source.norms import norms_to_inference, silence_dropout
from export.onnx_source.rows import GraphRun

_DECIMALS = 7
"""Number of decimals to which a rate is rounded, because it is computed from a float32."""


def rewrite_drawn(model: onnx.ModelProto, found: FoundInput, origin: str) -> tuple[str, ...]:
    """Turn each product with a random mask into a Dropout node in training mode, and return the nodes' output names.

    A mask that several values share is not replaced, because the masks of different sites are independent.

    Raises:
        ModelRefused: the shape of a mask does not fit the value that it masks.
    """
    graph = model.graph
    constants = Constants(model)
    producers = producers_of(graph)
    masks = {}
    for node in graph.node:
        for value, factor in ([*node.input], [*node.input][::-1]) if node.op_type == "Mul" else ():
            drawn = _drawn(factor, producers, constants)
            if drawn is not None:
                masks[node.output[0]] = (value, *drawn)
                break
    uses = Counter(numbers for _, numbers, _ in masks.values())
    masks = {output: one for output, one in masks.items() if uses[one[1]] == 1}  # a shared mask is not independent
    if not masks:
        return ()
    shapes = _shapes(model, found, [name for value, numbers, _ in masks.values() for name in (value, numbers)])
    for node in graph.node:
        if node.output[0] not in masks:
            continue
        value, numbers, keep = masks[node.output[0]]
        own = _own_axes(shapes[value], shapes[numbers], node.name, origin)
        ratio, mode = f"{node.output[0]}/ratio", f"{node.output[0]}/training_mode"
        rate = np.array(round(1 - keep, _DECIMALS), np.float32)
        graph.initializer.extend([numpy_helper.from_array(rate, ratio), numpy_helper.from_array(np.array(True), mode)])
        node.op_type = "Dropout"
        del node.input[:], node.attribute[:]
        node.input.extend([value, ratio, mode])
        node.attribute.append(helper.make_attribute(OWN_AXES, own))
    keep_needed(graph, [one.name for one in graph.input])
    return tuple(masks)


def silence_drawn(model: onnx.ModelProto, outputs: Sequence[str]) -> None:
    """Replace the nodes with these outputs, which multiply a value by a mask, by Identity nodes that copy the value."""
    constants, producers = Constants(model), producers_of(model.graph)
    for node in model.graph.node:
        if node.output[0] in outputs:
            value = next(one for one in node.input if _drawn(one, producers, constants) is None)
            node.op_type = "Identity"
            del node.input[:]
            node.input.append(value)


def _drawn(name: str, producers: dict[str, onnx.NodeProto], constants: Constants) -> tuple[str, float] | None:
    """For a factor `Cast(numbers < keep) / keep`, the name of `numbers`, and `keep`; None for any other value."""
    divided = producers.get(name)
    if divided is None or divided.op_type != "Div":
        return None
    keep = constants.value(_root(divided.input[1], producers))
    compared = _before_casts(divided.input[0], producers)
    if keep is None or keep.size != 1 or compared is None or compared.op_type != "Less":
        return None
    limit, numbers = constants.value(_root(compared.input[1], producers)), _before_casts(compared.input[0], producers)
    if limit is None or limit.size != 1 or numbers is None or numbers.op_type != "RandomUniformLike":
        return None
    attributes = attributes_of(numbers)
    uniform = (attributes.get("low", 0.0), attributes.get("high", 1.0)) == (0.0, 1.0)
    share = float(str(limit.reshape(())))
    same = abs(float(keep.reshape(())) - share) < 1e-6
    return (numbers.output[0], share) if uniform and same and 0 < share < 1 else None


def _before_casts(name: str, producers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The node that computes a value; nodes that only cast or copy are skipped."""
    return producers.get(_root(name, producers))


def _root(name: str, producers: dict[str, onnx.NodeProto]) -> str:
    """Name of the value of which the named value is a cast or a copy; else the given name."""
    node = producers.get(name)
    while node is not None and node.op_type in ("Cast", "CastLike", "Identity"):
        name = node.input[0]
        node = producers.get(name)
    return name


def _shapes(model: onnx.ModelProto, found: FoundInput, names: list[str]) -> dict[str, tuple[int, ...]]:
    """Shapes by name of some values, for a batch of 2 rows or of the size that the file requires."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    silence_dropout(copy)
    norms_to_inference(copy)
    keep_needed(copy.graph)
    pixels = np.zeros((found.batch or 2, *found.image.input_shape), np.float32)
    values = GraphRun(copy, found, list(dict.fromkeys(names))).batch(pixels)
    return {name: value.shape for name, value in values.items()}


def _own_axes(shape: tuple[int, ...], mask: tuple[int, ...], name: str, origin: str) -> list[int]:
    """For each axis of a masked value, 1 if the mask has independent values along it, else 0; 1 for the batch axis."""
    mask = (1,) * (len(shape) - len(mask)) + mask
    if len(mask) != len(shape) or any(own not in (1, size) for own, size in zip(mask, shape, strict=True)):
        raise ModelRefused(
            f"The mask of the dropout {name} of {origin} has the shape {list(mask)}, and the masked value has "
            f"the shape {list(shape)}.",
            wanted="a mask in which each axis has size 1 or the size of this axis in the masked value",
            next_step="replace this noise by torch.nn.Dropout and export the model again",
        )
    return [1, *(int(own == size) for own, size in zip(mask[1:], shape[1:], strict=True))]
