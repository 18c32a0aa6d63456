"""A row's image as it is stored: its bytes, in the shard or in the file that the row names, or its bare pixels.

In: the image column of some rows. Out: for each row its bytes, or a path that is read only below `--image-root`; or
pixels.
"""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""What Pillow may take an image for."""

_BYTES_A_PIXEL, _BYTES_BESIDE = 8, 2**20  # of an image file at most: four channels of 16 bits, and what is not pixels

Failure = tuple[str, str]
"""A status and what was wrong."""


def image_sources(column: pa.Array) -> list[tuple[bytes | None, bytes | None]]:
    """Bytes and path of each row; a path as bytes too, because it may be no valid text."""
    if not pa.types.is_struct(column.type):
        return [(data, None) for data in column.to_pylist()]
    data = pc.struct_field(column, "bytes").to_pylist()
    index = column.type.get_field_index("path")
    is_text = index >= 0 and (
        pa.types.is_string(column.type.field(index).type) or pa.types.is_large_string(column.type.field(index).type)
    )
    paths = pc.struct_field(column, "path").cast(pa.large_binary()).to_pylist() if is_text else [None] * len(data)
    return list(zip(data, paths, strict=True))


def tensor_pixels(value: pa.Scalar, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The pixels of one row of tensors; None where the tensor is null, or a value in it.

    Args:
        value: of a column of fixed-size lists, nested or not, or of a tensor type.
        shape: what they make up.
    """
    storage = value.value if isinstance(value, pa.ExtensionScalar) else value
    if storage is None or not storage.is_valid:
        return None
    values = storage.values
    while pa.types.is_fixed_size_list(values.type):
        if values.null_count:
            return None
        values = values.flatten()
    return None if values.null_count else np.asarray(values).reshape(shape)


def as_picture(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels `[H, W]` or `[H, W, C]` as Pillow has them; with one channel they are grey."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def read_path(root: Path | None, path: bytes, max_pixels: int) -> bytes | Failure:
    """The file that a row names, or the status and reason why it cannot be had.

    Args:
        root: where paths are looked up, resolved; None: they are not followed.
        path: as the row has it; it may be no valid text.
        max_pixels: a file that is larger than so many pixels can take is not read.
    """
    text = path.decode(errors="surrogateescape")
    if root is None:
        return "path_not_followed", f"path {text!r}"
    try:
        place = (root / text).resolve()
        if not place.is_relative_to(root):
            return "path_not_found", f"path {text!r} leads out of --image-root"
        status = place.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe or a device would never end
            return "path_not_found", f"path {text!r} is no file"
        if status.st_size > max_pixels * _BYTES_A_PIXEL + _BYTES_BESIDE:
            return "too_large", f"path {text!r} is a file of {status.st_size} bytes"
        return place.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        return "path_not_found", f"path {text!r}: {error}"
