"""Decode images to uint8 arrays in parallel; an unreadable image gets a status instead of an exception.

In: `RowBatch`es. Out: one `ImageBatch`. Pillow opens an image within the limits of `image_file.py`. Pillow's `convert`
changes the colour mode to the model's, as in `keras.utils.load_img`: transparency is dropped, palettes are looked up,
and grey is repeated over the channels if the model takes colour images. Then the image is resized as the contract
specifies. Only TIFF images are rotated by their orientation tag, as in `keras.utils.load_img`. Pillow releases Python's
global interpreter lock while it decodes large images, so threads decode in parallel.
"""

from __future__ import annotations

import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from export.contract.metadata import ModelContract
from screen.cores import usable_cores
from screen.input.image_bytes import NULL_TENSOR, Failure, as_picture, image_sources, read_path
from screen.input.image_file import ImageRefused, open_image
from screen.input.mapping import tensor_shape
from screen.input.resize import resize_image, scale_jpeg
from screen.input.row_batch import RowBatch

_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_PILLOW_MODES = {"grey": "L", "rgb": "RGB"}
_CHUNK = 64
"""Maximum images per task of a decoding thread, unless a single thread decodes the whole batch."""

_SMALL_PIXELS = 4096
"""Maximum number of values per image (H x W x C) at which a single thread decodes a batch of images that are neither
resized nor read from files: for small images Pillow holds Python's global interpreter lock most of the time, so more
threads would only wait."""

_FREE_PIXELS = 2**20
"""Maximum number of pixels of an image that is decoded without a reservation in the pixel budget."""

_PIXELS, _PIXELS_PER_THREAD = 2**26, 2**23
"""Maximum number of pixels, in images of more than `_FREE_PIXELS`, that all threads together decode at the same time:
the larger of a fixed number, and a number per thread times the number of threads. Pillow takes up to 14 bytes of memory
per pixel, most of them while it resizes an image."""

# Pillow's warnings are not shown: an image's defects are reported in its row, and `max_pixels` is checked before an
# image is decoded.
warnings.filterwarnings("ignore", module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class ImageBatch:
    """Rows with their decoded images.

    Attributes:
        pieces: all rows, readable or not, without their encoded images.
        images: `uint8 [B_ok, H, W, C]`, images of the readable rows, in order.
        readable: `[B]`, whether each row is readable.
        failures: status and reason of each unreadable row, by its position in the batch.
    """

    pieces: tuple[RowBatch, ...]
    images: NDArray[np.uint8]
    readable: NDArray[np.bool_]
    failures: dict[int, Failure]

    def fail_readable(self, failed: Mapping[int, Failure]) -> ImageBatch:
        """The batch with some of its readable rows marked as unreadable.

        Args:
            failed: status and reason of these rows, by their position among the readable rows.
        """
        if not failed:
            return self
        rows = np.flatnonzero(self.readable)[list(failed)]
        readable = self.readable.copy()
        readable[rows] = False
        failures = {**self.failures, **dict(zip(rows.tolist(), failed.values(), strict=True))}
        return ImageBatch(self.pieces, np.delete(self.images, list(failed), axis=0), readable, failures)


class Decoder:
    """Decodes batches to the image size and colour mode of one model.

    Args:
        contract: the model's image size, colour mode and resize method.
        max_pixels: maximum number of pixels in an image; larger images are not decoded.
        image_root: base folder of the paths in the image column; None: no path is read.
        threads: number of decoding threads; 0 for `usable_cores`.
        check: callback, called after each image and while a long file is read; an exception of the callback ends the
            batch.
    """

    def __init__(
        self,
        contract: ModelContract,
        *,
        max_pixels: int,
        image_root: str | None,
        threads: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._shape = contract.image_shape
        self._resize = contract.resize
        self._mode = _PILLOW_MODES[contract.colour]
        self._max_pixels = max_pixels
        self._is_small = contract.resize.method == "none" and math.prod(self._shape) <= _SMALL_PIXELS
        self._root = None if image_root is None else Path(image_root).resolve()
        self._check = check
        self._closed = threading.Event()
        self._threads = threads or usable_cores()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="decode")
        self._pixels = _PixelBudget(max(_PIXELS, self._threads * _PIXELS_PER_THREAD))

    def decode(self, pieces: Sequence[RowBatch]) -> ImageBatch:
        """Decode all rows of the given pieces into one batch."""
        images = np.empty((sum(piece.count for piece in pieces), *self._shape), np.uint8)
        readable = np.ones(len(images), np.bool_)
        failures: dict[int, Failure] = {}
        start = 0
        for piece in pieces:
            for index, failure in self._decode_piece(piece, images[start : start + piece.count]):
                failures[start + index] = failure
            start += piece.count
        readable[list(failures)] = False
        rows = tuple(replace(piece, images=None) for piece in pieces)  # the encoded images are no longer needed
        return ImageBatch(rows, images[readable] if failures else images, readable, failures)

    def decode_images(self, images: Sequence[bytes | Path | Image.Image]) -> ImageBatch:
        """Decode images that are not in a shard, in the same way as images in a shard.

        Args:
            images: encoded images, paths of image files, or opened Pillow images, whose pixels are used in full size.
        """
        pixels = np.empty((len(images), *self._shape), np.uint8)
        readable = np.ones(len(images), np.bool_)
        failures: dict[int, Failure] = {}
        # An opened image is decoded in this thread: the list may contain it twice, and Pillow reads its file lazily.
        for index, found in enumerate(self._pool.map(self._decode_file, images, pixels)):
            image = images[index]
            failure = self._decode_one(image, None, pixels[index]) if isinstance(image, Image.Image) else found
            if failure is not None:
                failures[index] = failure
        readable[list(failures)] = False
        return ImageBatch((), pixels[readable] if failures else pixels, readable, failures)

    def close(self) -> None:
        """Cancel pending tasks, and wait for each thread to finish its current image."""
        self._closed.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _decode_piece(self, piece: RowBatch, into: NDArray[np.uint8]) -> list[tuple[int, Failure]]:
        if piece.images is None:
            return [(index, ("unreadable_page", piece.error)) for index in range(piece.count)]
        shape = tensor_shape(piece.images.type)
        if shape is not None:
            return self._copy_tensors(piece.images, shape, into)
        sources = image_sources(piece.images)

        reads_files = any(path for data, path in sources if data is None)
        whole = self._is_small and not reads_files
        chunk = max(1, len(sources) if whole else min(_CHUNK, -(-len(sources) // self._threads)))

        def decode_some(start: int) -> list[tuple[int, Failure]]:
            failed = []
            for index in range(start, min(start + chunk, len(sources))):
                if self._closed.is_set():
                    break
                failure = self._decode_one(*sources[index], into[index])
                self._check()  # after decoding, because Pillow's plugins may suppress exceptions of the check
                if failure is not None:
                    failed.append((index, failure))
            return failed

        return [failure for some in self._pool.map(decode_some, range(0, len(sources), chunk)) for failure in some]

    def _copy_tensors(
        self, column: pa.Array, shape: tuple[int, ...], into: NDArray[np.uint8]
    ) -> list[tuple[int, Failure]]:
        """Copy tensors into the batch; a tensor that contains a null is a failure."""
        values = column.storage if isinstance(column, pa.ExtensionArray) else column
        null, row_size = np.asarray(values.is_null()), 1
        while pa.types.is_fixed_size_list(values.type):
            size = values.type.list_size
            row_size *= size
            values = values.values.slice(values.offset * size, len(values) * size)
            null |= np.asarray(values.is_null()).reshape(len(into), row_size).any(axis=1)
        height, width = shape[:2] if len(shape) > 1 else self._shape[:2]
        tensors = np.asarray(values.fill_null(0)).reshape(len(into), height, width, self._shape[2])
        if self._has_model_size(height, width):
            into[:] = tensors
        else:
            try:
                list(self._pool.map(self._put, map(as_picture, tensors), into))
            except Image.DecompressionBombError as error:  # all tensors have the same size, so all fail
                return [(index, ("too_large", str(error))) for index in range(len(into))]
        return [(int(index), ("null_image", NULL_TENSOR)) for index in np.flatnonzero(null)]

    def _decode_file(self, image: bytes | Path | Image.Image, into: NDArray[np.uint8]) -> Failure | None:
        """Decode an encoded image or the file at a path; an opened image is not decoded here."""
        if isinstance(image, Image.Image):
            return None
        if isinstance(image, bytes):
            return self._decode_one(image, None, into)
        file = image.absolute()
        found = read_path(Path(file.anchor), os.fsencode(file), self._max_pixels)
        return self._decode_one(found, None, into) if isinstance(found, bytes) else found

    def _decode_one(
        self, data: bytes | Image.Image | None, path: bytes | None, into: NDArray[np.uint8]
    ) -> Failure | None:
        """Decode one image into its slice of the batch; on failure, return status and reason."""
        try:
            if isinstance(data, Image.Image):
                return self._decode_opened(data, into)
            if data is None and path:
                found = read_path(self._root, path, self._max_pixels)
                if isinstance(found, tuple):
                    return found
                data = found
            if data is None:
                return "null_image", "the row has neither bytes nor a path"
            return self._decode_bytes(data, into)
        except ImageRefused as refused:
            return refused.status, refused.reason
        except Image.DecompressionBombError as error:
            return "too_large", str(error)
        except UnidentifiedImageError:  # its message contains a memory address, which differs between runs
            return "decode_failed", "not an image of a known format"
        except Exception as error:  # noqa: BLE001  Pillow's plugins raise nearly anything on broken files
            return "decode_failed", f"{type(error).__name__}: {error}"

    def _decode_bytes(self, data: bytes, into: NDArray[np.uint8]) -> Failure | None:
        with open_image(data, self._max_pixels, self._check) as image:
            return self._decode_opened(image, into, is_own=True)

    def _decode_opened(self, image: Image.Image, into: NDArray[np.uint8], *, is_own: bool = False) -> Failure | None:
        """Decode an opened image; a JPEG image is decoded at a smaller size only if this class opened it (`is_own`)."""
        height, width, _ = self._shape
        pixels = image.width * image.height
        if image.mode not in _EIGHT_BIT:
            return "decode_failed", f"the image has Pillow's mode {image.mode}, not 8 bits per channel"
        if pixels > self._max_pixels:
            return "too_large", f"{image.width} x {image.height} pixels, more than the limit of {self._max_pixels}"
        if self._resize.method == "none" and (image.height, image.width) != (height, width):
            return "wrong_shape", f"{image.width} x {image.height} pixels, but the model takes {width} x {height}"
        if is_own and self._resize.scaled and isinstance(image, JpegImageFile):
            scale_jpeg(image, self._resize, height, width)
        if pixels <= _FREE_PIXELS:
            self._convert(image, into)
        else:
            with self._pixels.reserve(pixels):
                self._convert(image, into)
        return None

    def _convert(self, image: Image.Image, into: NDArray[np.uint8]) -> None:
        """Convert an opened image to the model's colour mode, and copy the pixels into its slice of the batch."""
        self._put(image if image.mode == self._mode else image.convert(self._mode), into)

    def _put(self, image: Image.Image, into: NDArray[np.uint8]) -> None:
        """Copy an image of the model's colour mode into its slice of the batch, resized where necessary."""
        if self._has_model_size(image.height, image.width):
            pixels = np.asarray(image)
        else:
            pixels = resize_image(image, self._resize, *self._shape[:2])
        into[:] = pixels.reshape(into.shape)

    def _has_model_size(self, height: int, width: int) -> bool:
        return (height, width) == self._shape[:2] and not self._resize.is_needed_at_same_size


class _PixelBudget:
    """Limits the number of pixels that all threads decode at the same time.

    Args:
        most: the limit in pixels; a larger image is decoded while no other image uses the budget.
    """

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, pixels: int) -> Iterator[None]:
        """Wait until the given number of pixels is free, and reserve these pixels within the block."""
        share = min(pixels, self._most)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= share)
            self._free -= share
        try:
            yield
        finally:
            with self._changed:
                self._free += share
                self._changed.notify_all()
