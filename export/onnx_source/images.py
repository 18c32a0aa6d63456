"""Find the image input of an ONNX graph, its axis order, and whether the graph scales raw pixels itself.

In: a prepared graph, and the shape of the images if the user stated it. Out: a `FoundInput`, or `ModelRefused`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from export.contract.metadata import COLOURS
from export.errors import ModelRefused
from export.model_source import ImageInput
from export.onnx_source.graphs import Constants, attributes_of, readers_of
from export.source.inputs import fit_stated_image, sides_of_grey_image

_INTEGERS: dict[int, type[np.generic]] = {
    TensorProto.UINT8: np.uint8,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}
"""Supported integer types of an input of raw pixels, with their numpy types."""

_LEAST_DIVISOR = 20.0
"""Smallest divisor that shows that a graph takes pixels of 0..255.

The smallest usual divisor is about 50, which is 255 times a standard deviation of 0.2."""


_BEFORE_SCALE = ("Cast", "Identity", "Transpose", "Sub", "Add", "Reshape", "Gather", "GatherND", "Slice")
"""Operators that may precede the scaling: they copy or move pixels, reverse channels, or add or subtract a constant."""


@dataclass(frozen=True)
class FoundInput:
    """The image input of a graph.

    Attributes:
        name: name of the input.
        image: the images, and the steps from an image to the input.
        batch: fixed number of rows of the input; 0 if it is variable.
        dtype: type of the input, float32 or an integer type.
        scales_itself: whether the first operations of the graph scale pixels of 0..255.
    """

    name: str
    image: ImageInput
    batch: int
    dtype: np.dtype[np.generic]
    scales_itself: bool


def find_input(
    model: onnx.ModelProto, settings: set[str], stated: tuple[int, int, int] | None, origin: str
) -> FoundInput:
    """The image input of a prepared graph.

    Args:
        model: the prepared model.
        settings: names of the inputs that only set a ratio or a training mode of dropout.
        stated: `(height, width, channels)` of the images, if the user stated it.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the graph does not have exactly one image input, or images cannot have the input's type or shape.
        OptionRefused: the stated shape does not fit the input.
    """
    inputs = [value for value in model.graph.input if value.name not in settings]
    if len(inputs) != 1:
        names = ", ".join(f"{value.name} {_text(_sizes(value))}" for value in inputs) or "none"
        raise ModelRefused(
            f"{origin} has {len(inputs)} inputs without a value: {names}.",
            wanted="one image input, because a row of the screened data is one image",
            next_step="wrap the model in a module that computes all other inputs from the image, and export this "
            "module",
        )
    value = inputs[0]
    kind = value.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, *_INTEGERS):
        raise ModelRefused(
            f"The input {value.name} of {origin} has the type {TensorProto.DataType.Name(kind).lower()}.",
            wanted="images in float32, or raw pixels in uint8, int32 or int64",
            next_step="export the model again with an image of one of these types",
        )
    sizes = _sizes(value)
    image = _find_image(model, value.name, sizes, stated, origin)
    dtype = np.dtype(_INTEGERS.get(kind, np.float32))
    return FoundInput(value.name, image, sizes[0] if sizes else 0, dtype, _scales_itself(model, value.name))


def _sizes(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of an input; 0 for a variable size."""
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _text(sizes: tuple[int, ...]) -> str:
    return f"[{', '.join(['N', *(str(size or 'variable') for size in sizes[1:])])}]" if sizes else "of unknown shape"


def _find_image(
    model: onnx.ModelProto, name: str, sizes: tuple[int, ...], stated: tuple[int, int, int] | None, origin: str
) -> ImageInput:
    shape = sizes[1:]
    axes_last = len(shape) == 3 and _takes_channels_last(model, name)
    if stated is not None:
        return fit_stated_image(shape, stated, "channels_last" if axes_last else "channels_first", origin)
    if len(shape) == 3 and 0 not in shape:
        if shape[0] in COLOURS and not (axes_last and shape[2] in COLOURS):
            return ImageInput((shape[1], shape[2], shape[0]), channels_first=True)
        if shape[2] in COLOURS:
            return ImageInput((shape[0], shape[1], shape[2]))
    sides = sides_of_grey_image(shape)
    if sides is None:
        raise ModelRefused(
            f"{origin} takes an input {_text(sizes)}.",
            wanted="one image input of fixed size, [N, channels, height, width] or [N, height, width, channels], "
            "with 1 or 3 channels, or the pixels of an image in another shape",
            next_step=_how_to_state_shape(shape),
        )
    height, width = sides
    notice = f"the input {_text(sizes)} is interpreted as a grey image of {height} x {width} pixels"
    return ImageInput((height, width, 1), reshape=shape, notice=notice)


def _how_to_state_shape(shape: tuple[int, ...]) -> str:
    if len(shape) == 3 and 0 in shape:
        channels = next((size for size in (shape[0], shape[2]) if size in COLOURS), 3)
        return f"add the size of the training images, such as --image-shape 224x224x{channels}"
    if len(shape) == 3:
        return "export a model that takes images with 1 or 3 channels, and computes further channels itself"
    return "if the input contains the pixels of a grey or RGB image in order, add --image-shape HEIGHTxWIDTHxCHANNELS"


def _takes_channels_last(model: onnx.ModelProto, name: str) -> bool:
    """Whether the first operation that depends on the axes transposes `[N, H, W, C]` to `[N, C, H, W]`."""
    readers = readers_of(model.graph)
    while len(nodes := _on_values(readers, name)) == 1 and nodes[0].op_type in (
        "Cast",
        "Identity",
        "Mul",
        "Div",
        "Sub",
    ):
        name = nodes[0].output[0]
    return any(
        node.op_type == "Transpose" and list(attributes_of(node).get("perm", [])) == [0, 3, 1, 2] for node in nodes
    )


def _on_values(readers: dict[str, list[onnx.NodeProto]], name: str) -> list[onnx.NodeProto]:
    """The nodes that read the elements of a value, not only its shape."""
    return [node for node in readers.get(name, []) if node.op_type not in ("Shape", "Size")]


def _scales_itself(model: onnx.ModelProto, name: str) -> bool:
    """Whether the graph first divides its input by a large constant, or multiplies it by a small one."""
    readers, constants = readers_of(model.graph), Constants(model)
    while len(nodes := _on_values(readers, name)) == 1:
        node = nodes[0]
        if node.op_type in ("Mul", "Div"):
            other = constants.value(node.input[1] if node.input[0] == name else node.input[0])
            if other is None or not other.size or (node.op_type == "Div" and node.input[0] != name):
                return False
            with np.errstate(divide="ignore"):
                divisor = (
                    np.abs(other.astype(np.float64)) if node.op_type == "Div" else 1 / np.abs(other, dtype=np.float64)
                )
            return bool(np.all(divisor >= _LEAST_DIVISOR))
        is_index = node.op_type.startswith("Gather") and node.input[0] != name
        if node.op_type not in _BEFORE_SCALE or is_index:
            return False
        name = node.output[0]
    return False
