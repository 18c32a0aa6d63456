"""Resize an image to the model's size, by the method in the contract's `Resize`.

In: a Pillow image in the model's colour mode. Out: uint8 pixels. The methods `bilinear` and `nearest` compute as
`tf.image.resize` does, in float32. Their results are rounded to integers, because the exported model's input is uint8;
training usually uses the unrounded floats, so a value can differ by 0.5. The methods `pil-*` are Pillow's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from export.contract.inputs import Resize

_PILLOW = {
    "pil-nearest": Image.Resampling.NEAREST,
    "pil-box": Image.Resampling.BOX,
    "pil-bilinear": Image.Resampling.BILINEAR,
    "pil-hamming": Image.Resampling.HAMMING,
    "pil-bicubic": Image.Resampling.BICUBIC,
    "pil-lanczos": Image.Resampling.LANCZOS,
}

_MAX_PIXELS = 2**26
"""Maximum number of pixels of an intermediate image."""

_BLOCK = 32
"""Number of rows that are interpolated at a time, so that their values stay in the processor's cache."""

Pixels = NDArray[np.uint8]


def resize_image(image: Image.Image, how: Resize, height: int, width: int) -> Pixels:
    """Resize one image.

    Args:
        image: an image of mode L or RGB.
        how: resize method of the contract, other than `none`.
        height: final height, in pixels.
        width: final width, in pixels.

    Returns:
        `[height, width]` or `[height, width, 3]`.

    Raises:
        PIL.Image.DecompressionBombError: the image is so elongated that an intermediate image would have more than
            `_MAX_PIXELS` pixels.
    """
    if how.method == "crop-or-pad":
        return _crop_or_pad(np.asarray(image), height, width)
    if how.method in _PILLOW:
        return np.asarray(_resize_by_pillow(image, how, height, width))
    pixels = np.asarray(image)
    if how.fit == "crop":
        pixels = _crop_to_shape(pixels, height, width)
    if how.fit == "pad":
        inner = _size_within(pixels.shape[0], pixels.shape[1], height, width)
        return _crop_or_pad(_resize_by_tf(pixels, how.method, *inner), height, width)
    if how.fit == "short":
        full = _size_by_short_side(pixels.shape[0], pixels.shape[1], how.short_side)
        return _resize_by_tf(pixels, how.method, *full, window=(height, width))
    return _resize_by_tf(pixels, how.method, height, width)


def scale_jpeg(image: JpegImageFile, how: Resize, height: int, width: int) -> None:
    """Reduce the size at which a JPEG image is decoded, if the image is much larger than the resized image.

    The reduced size is the smallest of 1/2, 1/4 and 1/8 of the image that is at least twice the resized size: libjpeg
    computes fewer values of each block of 8 x 8 pixels (`scale_denom`). The factor 2 is taken from `reducing_gap=2` in
    Pillow's `Image.thumbnail`: the resize after the decoding does most of the antialiasing.

    Args:
        image: an opened image that is not decoded yet.
        how: resize method of the contract.
        height: final height, in pixels.
        width: final width, in pixels.

    Raises:
        PIL.Image.DecompressionBombError: as in `resize_image`.
    """
    if how.fit == "pad":
        height, width = _size_within(image.height, image.width, height, width)
    elif how.fit == "short":
        height, width = _size_by_short_side(image.height, image.width, how.short_side)
    image.draft(None, (2 * width, 2 * height))


def _resize_by_pillow(image: Image.Image, how: Resize, height: int, width: int) -> Image.Image:
    method = _PILLOW[how.method]
    if how.fit == "pad":
        return ImageOps.pad(image, (width, height), method)
    box: tuple[float, float, float, float] | None = None
    if how.fit == "crop":  # pixels around the box contribute to its edges, as in keras.utils.load_img
        own_width = min(image.width, image.height * width // height)
        own_height = min(image.height, image.width * height // width)
        left, top = (image.width - own_width) // 2, (image.height - own_height) // 2
        box = (left, top, left + own_width, top + own_height)
    elif how.fit == "short":
        full_height, full_width = _size_by_short_side(image.height, image.width, how.short_side)
        top, left = round((full_height - height) / 2), round((full_width - width) / 2)
        full = image.resize((full_width, full_height), method)
        return full.crop((left, top, left + width, top + height))
    return image.resize((width, height), method, box=box)


def _resize_by_tf(
    pixels: Pixels, method: str, height: int, width: int, *, window: tuple[int, int] | None = None
) -> Pixels:
    """Resize as `tf.image.resize` does without antialiasing: pixel centres at half-integers, edges repeated.

    Args:
        pixels: `[h, w]` or `[h, w, C]`.
        method: `bilinear` or `nearest`.
        height: height of the resized image.
        width: width of the resized image.
        window: height and width of the central window to compute; None: the whole image.
    """
    rows = _axis(pixels.shape[0], height, window[0] if window else height, method)
    columns = _axis(pixels.shape[1], width, window[1] if window else width, method)
    if method == "nearest":
        return np.asarray(pixels[rows[0][:, None], columns[0]])
    resized = np.empty((len(rows[0]), len(columns[0]), *pixels.shape[2:]), np.uint8)
    channels = np.arange(math.prod(pixels.shape[2:]))
    left, right = ((side[:, None] * len(channels) + channels).ravel() for side in columns[:2])
    across = np.repeat(columns[2], len(channels))
    down = rows[2][:, None]
    for start in range(0, len(resized), _BLOCK):
        block = slice(start, start + _BLOCK)
        upper, lower = (_across(pixels[side[block]], left, right, across) for side in rows[:2])
        lower -= upper
        lower *= down[block]
        lower += upper
        resized[block] = np.rint(lower, out=lower).reshape(resized[block].shape)
    return resized


def _across(rows: Pixels, left: NDArray[np.int64], right: NDArray[np.int64], weight: NDArray[np.float32]) -> Any:
    """Rows interpolated between the columns `left` and `right`: `float32 [rows, resized width * C]`."""
    values = rows.reshape(len(rows), -1)
    first = values.take(left, axis=1).astype(np.float32)
    between = values.take(right, axis=1) - first
    between *= weight
    between += first
    return between


def _axis(size: int, resized: int, kept: int, method: str) -> tuple[Any, Any, Any]:
    """Two source indices around each kept position on a resized axis, and the weight of the second index."""
    start = round((resized - kept) / 2)
    scale = np.float32(size) / np.float32(resized)
    positions = (np.arange(start, start + kept, dtype=np.float32) + np.float32(0.5)) * scale
    if method == "nearest":
        nearest = np.minimum(np.floor(positions).astype(np.int64), size - 1)
        return nearest, nearest, np.zeros(kept, np.float32)
    positions -= np.float32(0.5)
    below = np.floor(positions)
    first = np.maximum(below, 0).astype(np.int64)
    second = np.minimum(np.ceil(positions), size - 1).astype(np.int64)
    return np.minimum(first, size - 1), np.maximum(second, 0), positions - below


def _crop_to_shape(pixels: Pixels, height: int, width: int) -> Pixels:
    """The largest centred crop with aspect ratio `width / height`, as in `keras.preprocessing.image.smart_resize`."""
    own_height = max(1, min(pixels.shape[0], int(pixels.shape[1] * height / width)))
    own_width = max(1, min(pixels.shape[1], int(pixels.shape[0] * width / height)))
    top, left = (pixels.shape[0] - own_height) // 2, (pixels.shape[1] - own_width) // 2
    return pixels[top : top + own_height, left : left + own_width]


def _size_within(own_height: int, own_width: int, height: int, width: int) -> tuple[int, int]:
    """The largest size within `height` x `width` with the image's aspect ratio, as in `tf.image.resize_with_pad`."""
    ratio = max(own_height / height, own_width / width)
    return max(1, int(own_height / ratio)), max(1, int(own_width / ratio))


def _size_by_short_side(own_height: int, own_width: int, short: int) -> tuple[int, int]:
    """Height and width with a shorter side of `short`; the longer side is rounded down, as torchvision does."""
    if own_height <= own_width:
        height, width = short, int(short * own_width / own_height)
    else:
        height, width = int(short * own_height / own_width), short
    if height * width > _MAX_PIXELS:
        raise Image.DecompressionBombError(
            f"{width} x {height} pixels after the shorter side is resized to {short}, "
            f"more than the maximum of {_MAX_PIXELS}"
        )
    return height, width


def _crop_or_pad(pixels: Pixels, height: int, width: int) -> Pixels:
    """The centre of the image, padded with black where it is too small, as in `tf.image.resize_with_crop_or_pad`."""
    own_height, own_width = pixels.shape[:2]
    top, left = max(0, own_height - height) // 2, max(0, own_width - width) // 2
    crop = pixels[top : top + height, left : left + width]
    padded = np.zeros((height, width, *pixels.shape[2:]), np.uint8)
    top, left = max(0, height - own_height) // 2, max(0, width - own_width) // 2
    padded[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return padded
