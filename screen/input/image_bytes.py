"""Read a row's stored image: encoded bytes from the shard or from the file at the row's path, or a pixel tensor.

In: the image column of some rows. Out: for each row its bytes, a path (not read unless it is below `--image-root`), or
its pixels.
"""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

_BYTES_PER_PIXEL, _BYTES_OF_METADATA = 8, 2**20
"""Maximum size of an image file: bytes per pixel of `max_pixels` (four channels of 16 bits), and bytes of metadata."""

Failure = tuple[str, str]
"""Status of an unreadable row, and the reason."""

NULL_TENSOR = "the tensor or one of its values is null"
"""Reason of the status `null_image` for a row with a tensor."""


def image_sources(column: pa.Array) -> list[tuple[bytes | None, bytes | None]]:
    """Encoded bytes and path of each row; the path is returned as bytes, because it may be invalid UTF-8."""
    if is_text(column.type):
        return [(None, path) for path in column.cast(pa.large_binary()).to_pylist()]
    if not pa.types.is_struct(column.type):
        return [(data, None) for data in column.to_pylist()]
    data = pc.struct_field(column, "bytes").to_pylist()
    has_paths = column.type.get_field_index("path") >= 0
    paths = _plain(pc.struct_field(column, "path")) if has_paths else pa.nulls(len(data))
    if not is_text(paths.type):
        paths = pa.nulls(len(data), pa.string())
    return list(zip(data, paths.cast(pa.large_binary()).to_pylist(), strict=True))


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is text of variable length."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _plain(values: pa.Array) -> pa.Array:
    """The values, without dictionary encoding."""
    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def tensor_pixels(value: pa.Scalar, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The pixels of one row's tensor; None if the tensor or one of its values is null.

    Args:
        value: a value of a column of fixed-size lists, nested or not, or of a tensor type.
        shape: shape of the tensor.
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
    """The Pillow image of pixels `[H, W]` or `[H, W, C]`; an image with one channel is grey."""
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def read_path(root: Path | None, path: bytes, max_pixels: int) -> bytes | Failure:
    """The bytes of the file at the path of a row, or the status and reason of the failure.

    Args:
        root: base folder of the path, resolved; None: no path is read.
        path: path as stored in the row; it may be invalid UTF-8.
        max_pixels: maximum number of pixels of an image; determines the maximum size of the file.
    """
    text = path.decode(errors="surrogateescape")
    if root is None:
        return "path_not_followed", f"path {text!r}: --image-root is not set"
    try:
        file = (root / text).resolve()
        if not file.is_relative_to(root):
            return "path_not_found", f"path {text!r} is outside --image-root"
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            return "path_not_found", f"path {text!r} is not a regular file"
        most = max_pixels * _BYTES_PER_PIXEL + _BYTES_OF_METADATA
        if status.st_size > most:
            return "too_large", f"path {text!r} is a file of {status.st_size} bytes, more than the limit of {most}"
        return file.read_bytes()
    except (OSError, ValueError, RuntimeError) as error:
        return "path_not_found", f"path {text!r}: {error}"
