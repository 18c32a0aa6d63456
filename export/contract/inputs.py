"""What becomes of an image before the network sees it: `Resize`, then `Preprocessing`.

In: names and numbers as a user gives them. Out: frozen values. Whoever decodes images obeys the
`Resize`, which the contract states; the `Preprocessing` is part of the exported graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from export.errors import OptionRefused


@dataclass(frozen=True)
class Preprocessing:
    """`(pixel * scale - mean) / std`, on raw 0..255 pixels, one mean and std for all channels or one each.

    Kept beside the graph for people to read; the graph itself contains the operations.

    Attributes:
        scale: None where the model brings its own Rescaling or Normalization layer.
        mean: subtracted after scaling, in the order of the channels as the model has them.
        std: divided by after that.
        name: one of `PREPROCESSINGS`, or "" where the numbers were given.
        reverse_channels: whether RGB becomes BGR, before anything else.
        channels_first: whether `[N, H, W, C]` becomes `[N, C, H, W]`, after everything else.
    """

    scale: float | None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: str = ""
    reverse_channels: bool = False
    channels_first: bool = False

    @property
    def changes_pixels(self) -> bool:
        """Whether the model gets other values than the raw pixels, or in another order."""
        return self.scale not in (None, 1) or bool(self.mean or self.std or self.reverse_channels)

    def describe(self) -> str:
        """The formula in words, as `oodscreen inspect` prints it."""
        if self.scale is None:
            text = "none outside the model (it has its own Rescaling or Normalization layer)"
        else:
            text = f"pixel * {self.scale:.8g}"
            if self.mean:
                text = f"({text} - {list(self.mean)})"
            if self.std:
                text = f"{text} / {list(self.std)}"
        if self.reverse_channels:
            text = f"RGB to BGR, {text}"
        if self.channels_first:
            text = f"{text}, then to [N, C, H, W]"
        return f"{self.name}: {text}" if self.name else text

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """What the graph does, in numpy: `uint8 [N, H, W, C]` to the float32 that the Keras model takes."""
        pixels = (images[..., ::-1] if self.reverse_channels else images).astype(np.float32)
        if self.scale is not None:
            pixels *= np.float32(self.scale)
        if self.mean:
            pixels -= np.asarray(self.mean, np.float32)
        if self.std:
            pixels /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if self.channels_first else pixels


PREPROCESSINGS = {
    "unit": Preprocessing(1 / 255, name="unit"),
    "tf": Preprocessing(1 / 127.5, (1.0,), name="tf"),
    "torch": Preprocessing(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), name="torch"),
    "caffe": Preprocessing(1.0, (103.939, 116.779, 123.68), name="caffe", reverse_channels=True),
}
"""`unit` is 0..1; the others are the modes of `keras.applications.imagenet_utils.preprocess_input`."""


def choose_preprocessing(
    name: str | None, scale: float | None, mean: Sequence[float], std: Sequence[float]
) -> Preprocessing:
    """The preprocessing that options ask for: by a name, or by numbers.

    Raises:
        OptionRefused: an unknown name, or a name and numbers.
    """
    if name is None:
        return Preprocessing(scale, tuple(mean), tuple(std))
    if name not in PREPROCESSINGS:
        raise OptionRefused(
            f"There is no preprocessing {name!r}.",
            wanted=" or ".join(PREPROCESSINGS),
            next_step="choose one of these, or give --scale, --mean and --std",
        )
    if scale is not None or mean or std:
        raise OptionRefused(
            f"--preprocess {name} was given together with --scale, --mean or --std.",
            wanted="one or the other: the name stands for its own numbers",
            next_step="leave out --preprocess, or the numbers",
        )
    return PREPROCESSINGS[name]


def fit_preprocessing(preprocessing: Preprocessing, *, channels: int, channels_first: bool) -> Preprocessing:
    """The preprocessing for a model's channels.

    Raises:
        OptionRefused: it cannot be meant for that many channels, or makes every image the same.
    """
    if channels == 1 and preprocessing.name in ("torch", "caffe"):
        raise OptionRefused(
            f"--preprocess {preprocessing.name} was given for a model of grey images.",
            wanted="a model with three channels, for which these means are",
            next_step="give what training did by --preprocess unit or tf, or by --scale, --mean and --std",
        )
    for option, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (0, 1, channels):
            raise OptionRefused(
                f"--{option} has {len(values)} values for {channels} channel(s).",
                wanted=f"one value, or {channels}",
                next_step="separate the values by commas, in the order of the channels",
            )
    if preprocessing.scale == 0 or 0 in preprocessing.std:
        raise OptionRefused(
            "--scale or --std is zero, which makes every image the same.",
            wanted="values other than zero",
            next_step="give the values that the model was trained with",
        )
    return replace(preprocessing, channels_first=channels_first)


RESIZE_METHODS = (
    "none", "bilinear", "nearest", "pil-nearest", "pil-box", "pil-bilinear", "pil-hamming", "pil-bicubic",
    "pil-lanczos", "crop-or-pad",
)  # fmt: skip
RESIZE_FITS = ("stretch", "crop", "pad", "short=N")
_SHORT = "short="


@dataclass(frozen=True)
class Resize:
    """How an image of another size becomes one of the model's size, as text `METHOD` or `METHOD:FIT`.

    Attributes:
        method: `none`: it does not, such a row is not scored. `bilinear` and `nearest` are those of
            `tf.image.resize`, without antialiasing; `pil-...` are those of Pillow (and so of
            `keras.utils.load_img`), antialiased but for `pil-nearest`. `crop-or-pad` never resizes: the
            centre is cut out, or black is added around, as `tf.image.resize_with_crop_or_pad` does.
        fit: `stretch`: the whole image, whatever its shape. `crop`: the largest centred part that has the
            model's shape. `pad`: the whole image in its own shape, black around it. `short`: the shorter side
            becomes `short_side` pixels, then the centre is cut out.
        short_side: pixels, for `short` only.
    """

    method: str = "none"
    fit: str = "stretch"
    short_side: int = 0

    def __str__(self) -> str:
        if self.fit == "stretch":
            return self.method
        return f"{self.method}:{_SHORT}{self.short_side}" if self.fit == "short" else f"{self.method}:{self.fit}"

    @property
    def is_needed_at_same_size(self) -> bool:
        """Whether an image that has the model's size already changes all the same."""
        return self.fit == "short"

    def describe(self) -> str:
        """The resizing in words, as `oodscreen inspect` prints it."""
        if self.method == "none":
            return "none: an image of another size is not scored"
        if self.method == "crop-or-pad":
            return "crop-or-pad: the centre is cut out, or black added around it (tf.image.resize_with_crop_or_pad)"
        home = "Pillow" if self.method.startswith("pil-") else "tf.image.resize"
        how = {
            "stretch": "whole image, whatever its shape",
            "crop": "largest centred part of the model's shape",
            "pad": "whole image, black around it",
            "short": f"shorter side to {self.short_side} pixels, then the centre",
        }
        return f"{self}: {how[self.fit]}, as {home} does"

    @classmethod
    def parse(cls, text: str) -> Resize:
        """Read the text back.

        Raises:
            ValueError: it is no such text.
        """
        method, colon, fit = text.partition(":")
        short_side = 0
        if fit.startswith(_SHORT) and fit.removeprefix(_SHORT).isdecimal():
            fit, short_side = "short", int(fit.removeprefix(_SHORT))
        resize = cls(method, fit if colon else "stretch", short_side)
        fits = resize.fit in ("stretch", "crop", "pad") or (resize.fit == "short" and short_side > 0)
        whole = resize.fit == "stretch" or method not in ("none", "crop-or-pad")
        if method not in RESIZE_METHODS or not fits or not whole:
            raise ValueError(f"resize {text!r}")
        return resize


def choose_resize(text: str, *, height: int, width: int) -> Resize:
    """The resizing that an option asks for, for a model's size.

    Raises:
        OptionRefused: an unknown text, or a short side from which the model's size cannot be cut.
    """
    try:
        resize = Resize.parse(text)
    except ValueError:
        raise OptionRefused(
            f"--resize is {text!r}.",
            wanted=f"METHOD or METHOD:FIT, METHOD one of {', '.join(RESIZE_METHODS)}; FIT one of "
            f"{', '.join(RESIZE_FITS)} (not for none and crop-or-pad)",
            next_step="say how training resized, such as --resize bilinear, pil-bicubic:crop or pil-bilinear:short=256",
        ) from None
    if resize.fit == "short" and resize.short_side < max(height, width):
        raise OptionRefused(
            f"--resize {text} leaves images too small for the model, which takes {width} x {height}.",
            wanted=f"a shorter side of {max(height, width)} pixels or more",
            next_step="give the size that training resized to before it cut out the centre",
        )
    return resize
