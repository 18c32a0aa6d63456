"""Bytes to uint8 arrays, in parallel; an image that cannot be had is a status, never an exception.

In: `RowBatch`es. Out: one `ImageBatch`. Pillow decodes (it releases Python's lock while it does),
and only formats that training pipelines write are tried. EXIF rotation is not applied, as
`tf.io.decode_image` and `keras.utils.load_img` do not apply it.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from export.contract import ModelContract
from screen.input.rows import RowBatch, tensor_shape

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_PILLOW_MODES = {"grey": "L", "rgb": "RGB"}
_CHUNK = 64

# Our own limit is checked before anything is decoded.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Failure = tuple[str, str]
"""A status and what was wrong."""


@dataclass(frozen=True)
class ImageBatch:
    """Rows with their images.

    Attributes:
        pieces: the rows, as they were read.
        images: `uint8 [B_ok, H, W, C]`, of the readable rows alone, in order.
        readable: `[B]`, which rows these are.
        failures: for each other row by its position in the batch, status and reason.
    """

    pieces: tuple[RowBatch, ...]
    images: NDArray[np.uint8]
    readable: NDArray[np.bool_]
    failures: dict[int, Failure]

    def fail_readable(self, failed: NDArray[np.bool_], failure: Failure) -> ImageBatch:
        """The batch without some of its readable rows.

        Args:
            failed: `[B_ok]`, which of the readable rows.
            failure: their status and reason.
        """
        rows = np.flatnonzero(self.readable)[failed]
        readable = self.readable.copy()
        readable[rows] = False
        failures = {**self.failures, **dict.fromkeys(rows.tolist(), failure)}
        return ImageBatch(self.pieces, self.images[~failed], readable, failures)


class Decoder:
    """Decodes batches into what one model takes.

    Args:
        contract: size and colour.
        max_pixels: images with more are not decoded.
        image_root: where paths are looked up; None: they are not followed.
        threads: 0 for all cores.
    """

    def __init__(self, contract: ModelContract, *, max_pixels: int, image_root: str | None, threads: int) -> None:
        self._shape = contract.image_shape
        self._mode = _PILLOW_MODES[contract.colour]
        self._max_pixels = max_pixels
        self._root = None if image_root is None else Path(image_root).resolve()
        self._pool = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="decode")

    def decode(self, pieces: Sequence[RowBatch]) -> ImageBatch:
        """Decode all rows of some pieces."""
        images = np.empty((sum(piece.count for piece in pieces), *self._shape), np.uint8)
        readable = np.ones(len(images), np.bool_)
        failures: dict[int, Failure] = {}
        start = 0
        for piece in pieces:
            for index, failure in self._decode_piece(piece, images[start : start + piece.count]):
                failures[start + index] = failure
            start += piece.count
        readable[list(failures)] = False
        return ImageBatch(tuple(pieces), images[readable] if failures else images, readable, failures)

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode_piece(self, piece: RowBatch, into: NDArray[np.uint8]) -> list[tuple[int, Failure]]:
        if piece.images is None:
            return [(index, ("unreadable_page", piece.error)) for index in range(piece.count)]
        if tensor_shape(piece.images.type) is not None:
            return self._copy_tensors(piece.images, into)
        sources = piece.images.to_pylist()

        def decode_some(start: int) -> list[tuple[int, Failure]]:
            failed = []
            for index in range(start, min(start + _CHUNK, len(sources))):
                failure = self._decode_one(sources[index], into[index])
                if failure is not None:
                    failed.append((index, failure))
            return failed

        return [failure for some in self._pool.map(decode_some, range(0, len(sources), _CHUNK)) for failure in some]

    def _copy_tensors(self, column: pa.Array, into: NDArray[np.uint8]) -> list[tuple[int, Failure]]:
        nulls = np.flatnonzero(np.asarray(column.is_null()))
        storage = column.storage if isinstance(column, pa.ExtensionArray) else column
        if len(nulls):
            present = storage.drop_null()
            values = np.zeros_like(into)
            values[np.setdiff1d(np.arange(len(into)), nulls)] = _flat(present).reshape(-1, *self._shape)
            into[:] = values
        else:
            into[:] = _flat(storage).reshape(into.shape)
        return [(int(index), ("null_image", "the tensor is null")) for index in nulls]

    def _decode_one(self, source: Any, into: NDArray[np.uint8]) -> Failure | None:
        """Decode one image into its place; on failure its status and reason."""
        data = source
        if isinstance(source, dict):
            data = source["bytes"]
            if data is None and source.get("path"):
                data = self._read_path(source["path"])
                if isinstance(data, tuple):
                    return data
        if data is None:
            return "null_image", "neither bytes nor a path"
        try:
            return self._decode_bytes(data, into)
        except Image.DecompressionBombError as error:
            return "too_large", str(error)
        except Exception as error:  # noqa: BLE001  Pillow's plugins raise nearly anything on broken files
            return "decode_failed", f"{type(error).__name__}: {error}"

    def _decode_bytes(self, data: bytes, into: NDArray[np.uint8]) -> Failure | None:
        if not data:
            return "decode_failed", "0 bytes"
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > self._max_pixels:
                return "too_large", f"{image.width} x {image.height} pixels, at most {self._max_pixels} in all"
            if image.mode not in _EIGHT_BIT:
                return "decode_failed", f"pixels of mode {image.mode}, not 8 bits for each channel"
            height, width, channels = self._shape
            if (image.height, image.width) != (height, width):
                return "wrong_shape", f"{image.width} x {image.height}, the model takes {width} x {height}"
            pixels = np.asarray(image if image.mode == self._mode else image.convert(self._mode))
        into[:] = pixels.reshape(height, width, channels)
        return None

    def _read_path(self, text: str) -> bytes | Failure:
        if self._root is None:
            return "path_not_followed", f"path {text!r}"
        try:
            path = (self._root / text).resolve()
            if not path.is_relative_to(self._root):
                return "path_not_found", f"path {text!r} leads out of --image-root"
            return path.read_bytes()
        except (OSError, ValueError) as error:
            return "path_not_found", f"path {text!r}: {error}"


def _flat(column: pa.Array) -> NDArray[np.uint8]:
    while pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return np.asarray(column)
