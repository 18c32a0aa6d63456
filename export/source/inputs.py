"""Find how an image becomes the input of a Keras model: unchanged, transposed, or reshaped.

In: a model and, if the user stated it, the shape of its images. Out: an `ImageInput`, or `ModelRefused`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import accumulate
from operator import mul
from typing import Any

from export.contract.metadata import COLOURS
from export.errors import ModelRefused, OptionRefused
from export.model_source import ImageInput
from export.source.outputs import export_of_code, shapes_text

_SMALLEST_SIDE = 8
"""Minimum height and width of an image that is derived from the shape of an input without a channel axis. Shorter
inputs, such as the four measurements of the Iris data set, are rarely images."""


def find_image_input(model: Any, stated: tuple[int, int, int] | None, origin: str) -> ImageInput:
    """The images of a model, and the steps to its input.

    Args:
        model: a Keras model.
        stated: `(height, width, channels)` or `(channels, height, width)` of an image, as stated by the user; None if
            the shape of the model's input determines it.
        origin: name of the model, for messages.

    Raises:
        ModelRefused: the model has no known input shape or several inputs, or its input shape determines no image.
        OptionRefused: the stated shape is not that of a grey or RGB image, or does not fit the model's input.
    """
    shapes = _input_shapes(model)
    _require_one_input(model, shapes, origin)
    shape = tuple(size or 0 for size in shapes[0][1:])
    data_format = _data_format(model) if len(shape) == 3 else ""
    if stated is not None:
        return fit_stated_image(shape, stated, data_format, origin)
    if len(shape) == 3 and 0 not in shape:
        data_format = data_format or ("channels_last" if shape[2] in COLOURS else "channels_first")
        if data_format == "channels_last" and shape[2] in COLOURS:
            return ImageInput((shape[0], shape[1], shape[2]))
        if data_format == "channels_first" and shape[0] in COLOURS:
            return ImageInput((shape[1], shape[2], shape[0]), channels_first=True)
    sides = sides_of_grey_image(shape)
    if sides is None:
        raise ModelRefused(
            f"{origin} takes an input of shape {shapes_text(shapes)}.",
            wanted="one image input of fixed size, [N, height, width, channels] or [N, channels, height, width], "
            "with 1 or 3 channels, or a shape that joins adjacent axes of an image, such as [N, height * width]",
            next_step=_how_to_state_shape(shape, origin),
        )
    height, width = sides
    notice = f"the input of shape {shapes_text(shapes)} is interpreted as a grey image of {height} x {width} pixels"
    return ImageInput((height, width, 1), reshape=shape, notice=notice)


def _require_one_input(model: Any, shapes: list[tuple[int | None, ...]], origin: str) -> None:
    if not shapes:
        raise ModelRefused(
            f"{origin} is a {type(model).__name__} without a known input shape.",
            wanted="a model with a known input shape",
            next_step="call the model on a batch of images in Keras, as in model(images), and save it again with "
            "model.save('NAME.keras')",
        )
    if len(shapes) > 1:
        names = " and ".join(
            f"{getattr(tensor, 'name', 'input')} {shapes_text([shape])}"
            for tensor, shape in zip(getattr(model, "inputs", None) or shapes, shapes, strict=True)
        )
        raise ModelRefused(
            f"{origin} takes {len(shapes)} inputs: {names}.",
            wanted="a model with one image input, because a row of the screened data is one image",
            next_step=_how_to_fill_inputs(shapes, origin),
        )


def fit_stated_image(shape: tuple[int, ...], stated: tuple[int, int, int], data_format: str, origin: str) -> ImageInput:
    """The steps from an image of the stated shape to an input of the given shape, in which 0 is a variable size."""
    text = "x".join(map(str, stated))
    channels_first = stated[2] not in COLOURS and stated[0] in COLOURS
    image = (*stated[1:], stated[0]) if channels_first else stated
    if image[2] not in COLOURS or min(image) < 1:
        raise OptionRefused(
            f"--image-shape is {text}.",
            wanted="HEIGHTxWIDTHxCHANNELS or CHANNELSxHEIGHTxWIDTH in pixels, with 1 or 3 channels",
            next_step="give the shape of the training images, such as 28x28x1 or 224x224x3",
        )
    planes = (image[2], *image[:2])
    layouts = [(True, planes), (False, image)] if data_format == "channels_first" else [(False, image), (True, planes)]
    for first, layout in layouts:
        if len(shape) == 3 and all(size in (0, wanted) for size, wanted in zip(shape, layout, strict=True)):
            return ImageInput(image, channels_first=first)
    axes = planes if channels_first else image
    if 0 in shape or math.prod(shape) != math.prod(axes) or not _products(shape) <= _products(axes):
        raise OptionRefused(
            f"--image-shape is {text}, but the input of {origin} has the shape "
            f"{shapes_text([(None, *(size or None for size in shape))])}.",
            wanted="an image with the same number of values as the input; an axis of the input may join adjacent axes "
            "of the image",
            next_step="give the height, the width and the number of channels of the training images",
        )
    return ImageInput(image, channels_first, reshape=shape)


def _products(axes: Iterable[int]) -> set[int]:
    """Products of the first k axes, for every k.

    A shape whose products are a subset of those of an image joins adjacent axes of the image, and splits no axis.
    """
    return {1, *accumulate(axes, mul)}


def sides_of_grey_image(shape: tuple[int, ...]) -> tuple[int, int] | None:
    """Height and width of the grey image whose pixels an input contains in row-major order; None for another input.

    The shape must be `[H, W]`, `[1, H, W]` or `[H * H]`. No square colour image has as many values as
    a square grey image, because `3 * H * H` is not a square number.
    """
    sides = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape
    if len(sides) == 1 and math.isqrt(sides[0]) ** 2 == sides[0]:
        sides = (math.isqrt(sides[0]),) * 2
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) >= _SMALLEST_SIDE else None


def _how_to_state_shape(shape: tuple[int, ...], origin: str) -> str:
    """The next step for an input whose shape, in which 0 is a variable size, determines no image."""
    if len(shape) == 3 and 0 in shape and {shape[0], shape[2]} & set(COLOURS):
        channels = shape[2] if shape[2] in COLOURS else shape[0]
        return f"add the size of the training images, such as --image-shape 224x224x{channels}"
    if len(shape) == 3 and 0 not in shape and shape[2] in COLOURS:
        return (
            f"add --image-shape {shape[0]}x{shape[1]}x{shape[2]} if the last axis contains the channels, although a "
            "layer of the model takes the first axis as channels"
        )
    if len(shape) == 3 and 0 not in shape and shape[0] in COLOURS:
        return (
            f"add --image-shape {shape[0]}x{shape[1]}x{shape[2]} if the first axis contains the channels, although a "
            "layer of the model takes the last axis as channels"
        )
    side = math.isqrt(math.prod(shape) // 3)
    if len(shape) == 1 and 3 * side**2 == shape[0] > 0:
        return (
            f"add --image-shape {side}x{side}x3 if the three values of a pixel are adjacent, or --image-shape "
            f"3x{side}x{side} if each channel is stored as a whole"
        )
    if len(shape) == 3 and 0 not in shape:
        return _how_to_add_channels(shape, origin)
    return (
        "if the input contains the pixels of a grey or RGB image in order, add --image-shape HEIGHTxWIDTHxCHANNELS; "
        "otherwise put layers that compute the input from an image before the model: "
        "keras.Sequential([keras.Input((height, width, 3)), *layers, model])"
    )


def _how_to_add_channels(shape: tuple[int, ...], origin: str) -> str:
    """The next step for an input `[H, W, C]` with other than 1 or 3 channels."""
    channels = 1 if shape[2] == 2 else 3
    padding = [[0, 0], [0, 0], [0, 0], [0, shape[2] - channels]]
    wrapped = (
        f"keras.Model(image := keras.Input(({shape[0]}, {shape[1]}, {channels})), "
        f"model(keras.ops.pad(image, {padding}, constant_values=1.0)))"
    )
    return (
        f"train the model on images with {channels} channel{'s' if channels > 1 else ''}; if the other channels are "
        f"constant, such as an alpha channel of 1.0, {export_of_code(origin, wrapped)}"
    )


def _how_to_fill_inputs(shapes: list[tuple[int | None, ...]], origin: str) -> str:
    """The next step for a model with several inputs: a model in which all inputs except the image are 0."""
    rows = [tuple(size or 0 for size in shape[1:]) for shape in shapes]
    image = next((index for index, row in enumerate(rows) if len(row) == 3 and row[2] in COLOURS), None)
    if image is None or any(0 in row for row in rows):
        return "export a model that computes all inputs from one image: keras.Model(image, model([...]))"
    pooled = f"keras.layers.GlobalAveragePooling2D()(model.inputs[{image}])"
    filled = [
        f"keras.layers.Reshape({row})(keras.layers.Dense({math.prod(row)}, kernel_initializer='zeros')({pooled}))"
        for row in rows
    ]
    filled[image] = f"model.inputs[{image}]"
    wrapped = f"keras.Model(model.inputs[{image}], model([{', '.join(filled)}]))"
    return (
        f"if the other inputs can be constants, {export_of_code(origin, wrapped)} (the constants are 0; "
        "for another constant, add bias_initializer=keras.initializers.Constant(VALUE) to its Dense layer)"
    )


def _data_format(model: Any) -> str:
    """The data format according to the first layer that depends on the channel axis; "" if no layer does."""
    for operation in getattr(model, "operations", None) or model.layers:
        axes = getattr(operation, "dims", None) or getattr(operation, "axes", None)
        if type(operation).__name__ in ("Permute", "Transpose") and axes:
            return "channels_first" if tuple(axes) in ((2, 3, 1), (0, 2, 3, 1)) else "channels_last"
        nested = _data_format(operation) if getattr(operation, "layers", None) else ""
        data_format = nested or getattr(operation, "data_format", None)
        flattens = type(operation).__name__ == "Flatten"
        if data_format == "channels_first" or (data_format == "channels_last" and not flattens):
            return str(data_format)
    return ""


def _input_shapes(model: Any) -> list[tuple[int | None, ...]]:
    """Shapes of the inputs; for a subclassed model, the shapes with which it was built."""
    if getattr(model, "inputs", None):
        return [tuple(tensor.shape) for tensor in model.inputs]
    built = getattr(model, "_build_shapes_dict", None) or {}
    return [tuple(shape) for shape in built.values() if isinstance(shape, tuple | list)]
