"""Images that are in no shard: encoded images, paths, opened images and arrays.

In: one image of a list. Out: bytes, a path or an opened image for the decoder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export.contract.metadata import ModelContract
from export.errors import InputRefused
from screen.input.image_bytes import as_picture

LooseImage = bytes | str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""An encoded image, the path of a local image file, an opened image, or an array `uint8 [H, W, C]` or `[H, W]`."""


def as_source(image: Any, index: int, contract: ModelContract) -> bytes | Path | Image.Image:
    """Convert an image of a list to a form that the decoder reads: bytes, a path or an opened image.

    Args:
        image: a `LooseImage`.
        index: position of the image in the list, for the error.
        contract: contract of the model; an array must have its number of channels.

    Raises:
        InputRefused: the image is of another type, or is an array of another type or number of channels.
    """
    if isinstance(image, bytes | Image.Image):
        return image
    if isinstance(image, str | os.PathLike):
        return Path(image)
    channels = contract.image_shape[2]
    if isinstance(image, np.ndarray):
        shape = image.shape if image.ndim == 3 else (*image.shape, 1)
        if image.dtype == np.uint8 and len(shape) == 3 and shape[2] == channels and all(shape):
            return as_picture(np.ascontiguousarray(image))
        found = f"{image.dtype} {list(image.shape)}"
    else:
        found = f"an object of type {type(image).__name__}"
    height, width, _ = contract.image_shape
    raise InputRefused(
        f"The images are a list in which image {index} is {found}.",
        wanted=f"bytes, a path, a Pillow image, or an array uint8 [H, W, {channels}] of raw pixels 0..255; or an "
        f"array uint8 [B, {height}, {width}, {channels}] of all images",
        next_step="give the encoded bytes or the path of the image; for an array with another number of "
        "channels, give PIL.Image.fromarray(array), which is converted",
    )
