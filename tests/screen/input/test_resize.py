"""Each resize method gives the same pixels as the library for which it is named."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from export.contract.inputs import Resize
from screen.input.resize import _axis, _crop_to_shape, _size_by_short_side, resize_image

# Height and width of an image, then of the model: smaller, larger, odd, wide and tall, by one pixel, equal.
SIZES = [
    ((40, 60), (16, 24)),
    ((16, 24), (40, 61)),
    ((375, 500), (224, 224)),
    ((31, 17), (9, 33)),
    ((7, 200), (32, 32)),
    ((200, 7), (32, 24)),
    ((33, 33), (32, 32)),
    ((3, 3), (7, 5)),
    ((1, 1), (4, 4)),
    ((28, 28), (28, 28)),
]
PILLOW = ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

pytestmark = pytest.mark.parametrize(
    ("own", "wanted", "channels"), [(own, wanted, channels) for own, wanted in SIZES for channels in (1, 3)]
)

Size = tuple[int, int]


def make_pixels(size: Size, channels: int) -> NDArray[np.uint8]:
    """Noise `[h, w, C]`, in which a wrong source pixel shows most."""
    return np.random.default_rng(size).integers(0, 256, (*size, channels), dtype=np.uint8)


def resized(pixels: NDArray[np.uint8], text: str, wanted: Size) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    found = resize_image(image, Resize.parse(text), *wanted)
    assert found.dtype == np.uint8
    return found.reshape(*wanted, pixels.shape[2])


def grey_levels_apart(found: NDArray[np.uint8], wanted: Any) -> float:
    assert found.shape == np.shape(wanted)
    return float(np.abs(found.astype(np.float64) - np.asarray(wanted, np.float64)).max())


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_stretching_is_that_of_tf_image_resize(keras: Any, own: Size, wanted: Size, channels: int, method: str) -> None:
    import tensorflow as tf

    pixels = make_pixels(own, channels)
    theirs = tf.image.resize(pixels.astype(np.float32), wanted, method=method)
    apart = grey_levels_apart(resized(pixels, method, wanted), theirs)
    assert apart <= (0 if method == "nearest" else 0.51)


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_padding_is_that_of_tf_image_resize_with_pad(
    keras: Any, own: Size, wanted: Size, channels: int, method: str
) -> None:
    import tensorflow as tf

    pixels = make_pixels(own, channels)
    theirs = tf.image.resize_with_pad(pixels.astype(np.float32), *wanted, method=method)
    assert grey_levels_apart(resized(pixels, f"{method}:pad", wanted), theirs) <= 0.51


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_cropping_is_that_of_keras_smart_resize(
    keras: Any, own: Size, wanted: Size, channels: int, method: str
) -> None:
    pixels = make_pixels(own, channels)
    theirs = keras.preprocessing.image.smart_resize(pixels.astype(np.float32), wanted, interpolation=method)
    assert grey_levels_apart(resized(pixels, f"{method}:crop", wanted), theirs) <= 0.51


def test_crop_or_pad_is_that_of_tf_image(keras: Any, own: Size, wanted: Size, channels: int) -> None:
    import tensorflow as tf

    pixels = make_pixels(own, channels)
    theirs = tf.image.resize_with_crop_or_pad(pixels, *wanted)
    assert grey_levels_apart(resized(pixels, "crop-or-pad", wanted), theirs) == 0


@pytest.mark.parametrize("method", PILLOW)
@pytest.mark.parametrize("keep", [False, True])
def test_pillows_are_those_of_keras_load_img(
    keras: Any, own: Size, wanted: Size, channels: int, method: str, keep: bool
) -> None:
    pixels = make_pixels(own, channels)
    data = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(data, "PNG")
    theirs = keras.utils.load_img(
        data,
        color_mode="grayscale" if channels == 1 else "rgb",
        target_size=wanted,
        interpolation=method,
        keep_aspect_ratio=keep,
    )
    found = resized(pixels, f"pil-{method}" + (":crop" if keep else ""), wanted)
    assert grey_levels_apart(found, np.asarray(theirs).reshape(*wanted, channels)) == 0


@pytest.mark.parametrize("method", PILLOW)
def test_padding_by_pillow_is_that_of_imageops(own: Size, wanted: Size, channels: int, method: str) -> None:
    pixels = make_pixels(own, channels)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    theirs = ImageOps.pad(image, wanted[::-1], Image.Resampling[method.upper()], color=0)
    found = resized(pixels, f"pil-{method}:pad", wanted)
    assert grey_levels_apart(found, np.asarray(theirs).reshape(*wanted, channels)) == 0


@pytest.mark.parametrize("method", ["bilinear", "pil-bilinear", "pil-bicubic", "pil-lanczos"])
def test_a_short_side_is_resized_whole_and_then_cut(
    keras: Any, own: Size, wanted: Size, channels: int, method: str
) -> None:
    import tensorflow as tf

    short = max(wanted) + 9
    whole = [int(short * side / min(own)) for side in own]
    pixels = make_pixels(own, channels)
    theirs: Any
    if method == "bilinear":
        theirs = np.asarray(tf.image.resize(pixels.astype(np.float32), whole))
    else:
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        full = image.resize((whole[1], whole[0]), Image.Resampling[method.removeprefix("pil-").upper()])
        theirs = np.asarray(full).reshape(*whole, channels)
    top, left = (round((size - kept) / 2) for size, kept in zip(whole, wanted, strict=True))
    theirs = theirs[top : top + wanted[0], left : left + wanted[1]]
    assert grey_levels_apart(resized(pixels, f"{method}:short={short}", wanted), theirs) <= 1


@pytest.mark.parametrize("fit", ["stretch", "crop", "short"])
def test_bilinear_is_interpolated_across_and_then_down_in_float32(
    own: Size, wanted: Size, channels: int, fit: str
) -> None:
    """Calibrations stay valid only if not one bit of a pixel changes."""
    pixels = make_pixels(own, channels)
    short = max(wanted) + 9
    found = resized(pixels, f"bilinear:short={short}" if fit == "short" else f"bilinear:{fit}", wanted)
    if fit == "crop":
        pixels = _crop_to_shape(pixels, *wanted)
    full = _size_by_short_side(*own, short) if fit == "short" else wanted
    (above, below, down), (left, right, across) = (
        _axis(size, resized, kept, "bilinear") for size, resized, kept in zip(pixels.shape, full, wanted, strict=False)
    )
    values = pixels.astype(np.float32)
    edges = [
        values[rows][:, left] + (values[rows][:, right] - values[rows][:, left]) * across[:, None]
        for rows in (above, below)
    ]
    levels = edges[0] + (edges[1] - edges[0]) * down[:, None, None]
    np.testing.assert_array_equal(found, np.rint(levels).astype(np.uint8))
