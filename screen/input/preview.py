"""Small pictures of single rows, for people: the image as it is stored, not as the model sees it.

In: a `RowBatch`. Out: for each of its rows a `Preview`, or why there is none. The same limits hold as where a run
decodes: known formats alone, no more pixels than allowed, paths only below one folder.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from screen.input.image_bytes import FORMATS, as_picture, image_sources, read_path, tensor_pixels
from screen.input.mapping import tensor_shape
from screen.input.rows import RowBatch

_LOSSLESS_SIDE = 64
"""Up to this side a PNG is small, and every pixel counts."""

_JPEG_QUALITY = 82
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Preview:
    """A small picture.

    Attributes:
        data: the bytes of a file.
        kind: its media type.
        width: of the picture, in pixels.
        height: the same.
        stored: width and height of the image that it shows.
    """

    data: bytes
    kind: str
    width: int
    height: int
    stored: tuple[int, int]


@dataclass(frozen=True)
class PreviewLimits:
    """What may be opened, and how large a picture may be.

    Attributes:
        side: of a picture, in pixels at most.
        max_pixels: images with more are not opened.
        image_root: where paths are looked up; None: they are not followed.
        flat_shape: `(height, width, channels)` of tensors that do not say it themselves; None where unknown.
    """

    side: int
    max_pixels: int
    image_root: Path | None
    flat_shape: tuple[int, int, int] | None


def preview_rows(rows: RowBatch, limits: PreviewLimits) -> list[Preview | str]:
    """A picture of each row, or why there is none."""
    if rows.images is None:
        return [rows.error] * rows.count
    shape = tensor_shape(rows.images.type)
    if shape is not None:
        return [_preview_tensor(value, shape, limits) for value in rows.images]
    return [_preview_source(data, path, limits) for data, path in image_sources(rows.images)]


def _preview_source(data: bytes | None, path: bytes | None, limits: PreviewLimits) -> Preview | str:
    try:
        if data is None and path:
            found = read_path(limits.image_root, path, limits.max_pixels)
            if isinstance(found, tuple):
                return found[1]
            data = found
        if data is None:
            return "neither bytes nor a path"
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > limits.max_pixels:
                return f"{image.width} x {image.height} pixels are too many"
            stored = image.size
            image.draft("RGB", (limits.side, limits.side))  # of a JPEG only what is needed is decoded
            return _shrink(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), stored, limits.side)
    except Image.DecompressionBombError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  Pillow's plugins raise nearly anything on broken files
        return f"cannot be decoded ({type(error).__name__})"


def _preview_tensor(value: pa.Scalar, shape: tuple[int, ...], limits: PreviewLimits) -> Preview | str:
    if len(shape) == 1:
        if limits.flat_shape is None or int(np.prod(limits.flat_shape)) != shape[0]:
            return "a flat tensor, whose height and width are not known here"
        shape = limits.flat_shape
    channels = (*shape, 1)[2]
    pixels = tensor_pixels(value, shape)
    if pixels is None or channels not in _CHANNELS:
        return "the tensor is null, or a value in it"
    image = as_picture(pixels).convert("L" if channels == 1 else "RGB")
    return _shrink(image, image.size, limits.side)


def _shrink(image: Image.Image, stored: tuple[int, int], side: int) -> Preview:
    """A picture that fits; small images stay as they are, pixel by pixel."""
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS_SIDE:
        image.save(buffer, "PNG", optimize=True)
        kind = "image/png"
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        kind = "image/jpeg"
    return Preview(buffer.getvalue(), kind, *image.size, stored)
