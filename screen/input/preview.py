"""Make thumbnails for reviewers, from the stored images of rows and not from the model's input.

In: a `RowBatch`. Out: for each row a `Picture`, or the reason why there is none; the `Preview` of a picture. The
decoder's limits apply: those of `image_file.py`, a maximum number of pixels, and only paths below one folder.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from screen.input.image_bytes import NULL_TENSOR, as_picture, image_sources, read_path, tensor_pixels
from screen.input.image_file import ImageRefused, open_image
from screen.input.mapping import tensor_shape
from screen.input.row_batch import RowBatch

_LOSSLESS_SIDE = 64
"""Maximum side, in pixels, of a thumbnail that is written as PNG, without loss; larger thumbnails are JPEG."""

SMALLEST_SIDE = 96
"""Minimum length, in pixels, of the longer side of a thumbnail that is made smaller to save bytes."""

_JPEG_QUALITY = 82
_CHANNELS = (1, 3, 4)
"""Numbers of channels of the tensors for which thumbnails are made."""


@dataclass(frozen=True)
class Picture:
    """A decoded image, grey or RGB.

    Attributes:
        image: the image; a JPEG may be decoded at a reduced resolution of at least `PreviewLimits.side` pixels.
        stored: width and height of the stored image, in pixels.
    """

    image: Image.Image
    stored: tuple[int, int]


@dataclass(frozen=True)
class Preview:
    """A thumbnail.

    Attributes:
        data: the encoded file.
        kind: media type of the file.
        width: width of the thumbnail, in pixels.
        height: height of the thumbnail, in pixels.
        stored: width and height of the stored image, in pixels.
    """

    data: bytes
    kind: str
    width: int
    height: int
    stored: tuple[int, int]


@dataclass(frozen=True)
class PreviewLimits:
    """Limits on the images to open.

    Attributes:
        side: minimum width and height of a JPEG that is decoded at a reduced resolution, in pixels.
        max_pixels: maximum number of pixels in a stored image; larger images are not decoded.
        image_root: base folder of the paths in the image column; None: no path is read.
        flat_shape: `(height, width, channels)` of flat tensors; None if unknown.
    """

    side: int
    max_pixels: int
    image_root: Path | None
    flat_shape: tuple[int, int, int] | None


def open_pictures(rows: RowBatch, limits: PreviewLimits) -> Iterator[Picture | str]:
    """Yield the picture of each row, or the reason why there is none; one picture is in memory at a time."""
    if rows.images is None:
        yield from [rows.error] * rows.count
        return
    shape = tensor_shape(rows.images.type)
    if shape is not None:
        yield from (_open_tensor(value, shape, limits) for value in rows.images)
    else:
        yield from (_open_source(data, path, limits) for data, path in image_sources(rows.images))


def make_preview(picture: Picture, side: int, max_bytes: int | None = None) -> Preview:
    """A thumbnail of a picture, whose image is shrunk in place; an image is never enlarged.

    Args:
        picture: the picture.
        side: maximum width and height of the thumbnail, in pixels.
        max_bytes: size of the thumbnail's file, in bytes, above which a smaller thumbnail is made, down to a longer
            side of `SMALLEST_SIDE`; None for any size.
    """
    image = picture.image
    while True:
        image.thumbnail((side, side))
        preview = _encode(image, picture.stored)
        if max_bytes is None or len(preview.data) <= max_bytes or max(image.size) <= SMALLEST_SIDE:
            return preview
        side = max(SMALLEST_SIDE, max(image.size) * 5 // 8)


def _open_source(data: bytes | None, path: bytes | None, limits: PreviewLimits) -> Picture | str:
    try:
        if data is None and path:
            found = read_path(limits.image_root, path, limits.max_pixels)
            if isinstance(found, tuple):
                return found[1]
            data = found
        if data is None:
            return "the row has neither bytes nor a path"
        with open_image(data, limits.max_pixels) as image:
            stored = image.size
            image.draft("RGB", (limits.side, limits.side))  # decodes a JPEG at reduced resolution
            return Picture(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"), stored)
    except (ImageRefused, Image.DecompressionBombError) as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  Pillow's plugins raise nearly anything on broken files
        return f"cannot be decoded ({type(error).__name__})"


def _open_tensor(value: pa.Scalar, shape: tuple[int, ...], limits: PreviewLimits) -> Picture | str:
    if len(shape) == 1:
        if limits.flat_shape is None or int(np.prod(limits.flat_shape)) != shape[0]:
            return "a flat tensor of unknown height and width"
        shape = limits.flat_shape
    channels = (*shape, 1)[2]
    if channels not in _CHANNELS:
        return f"a tensor with {channels} channels"
    pixels = tensor_pixels(value, shape)
    if pixels is None:
        return NULL_TENSOR
    image = as_picture(pixels).convert("L" if channels == 1 else "RGB")
    return Picture(image, image.size)


def _encode(image: Image.Image, stored: tuple[int, int]) -> Preview:
    """The image as a file: PNG if it is small, else JPEG."""
    buffer = io.BytesIO()
    if max(image.size) <= _LOSSLESS_SIDE:
        image.save(buffer, "PNG", optimize=True)
        kind = "image/png"
    else:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
        kind = "image/jpeg"
    return Preview(buffer.getvalue(), kind, *image.size, stored)
