"""The steps between a decoded image and the network: resizing (`Resize`), then `Preprocessing`.

In: option values. Out: frozen values for the contract. The image decoder applies the `Resize`; the `Preprocessing` is
part of the exported graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from export.errors import OptionRefused

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Preprocessing:
    """`(pixel * scale - mean) / std` on raw 0..255 pixels, with one mean and std for all channels or for each channel.

    The exported graph contains these operations; the contract repeats the values for display.

    Attributes:
        scale: factor for a pixel; None if the model scales the pixels itself.
        mean: value subtracted after scaling, in the model's channel order; empty for none.
        std: divisor after the subtraction, in the model's channel order; empty for none.
        name: key in `PREPROCESSINGS`; "" if scale, mean and std were given as numbers.
        reverse_channels: whether RGB becomes BGR, as the first step.
        channels_first: whether `[N, H, W, C]` becomes `[N, C, H, W]`, after these operations.
        reshape: shape of one row of the model's input, to which the pixels are reshaped in row-major order, as the last
            step; empty if the input has the shape of an image.
    """

    scale: float | None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: str = ""
    reverse_channels: bool = False
    channels_first: bool = False
    reshape: tuple[int, ...] = ()

    @property
    def changes_pixels(self) -> bool:
        """Whether the values that the model receives, or their channel order, differ from the raw pixels."""
        return self.scale not in (None, 1) or bool(self.mean or self.std or self.reverse_channels)

    def describe(self) -> str:
        """The formula as text for `oodscreen inspect`."""
        if self.scale is None:
            text = "none outside the model, which scales the pixels itself"
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
        if self.reshape:
            text = f"{text}, then to [N, {', '.join(map(str, self.reshape))}]"
        return f"{self.name}: {text}" if self.name else text

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The float32 input of the source model for images `uint8 [N, H, W, C]`, computed by numpy as in the graph."""
        import numpy as np  # the command line imports this module, and numpy takes a third of its start-up time

        pixels = (images[..., ::-1] if self.reverse_channels else images).astype(np.float32)
        if self.scale is not None:
            pixels *= np.float32(self.scale)
        if self.mean:
            pixels -= np.asarray(self.mean, np.float32)
        if self.std:
            pixels /= np.asarray(self.std, np.float32)
        if self.channels_first:
            pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        return pixels.reshape(len(pixels), *self.reshape) if self.reshape else pixels


PreprocessingName = Literal["unit", "tf", "torch", "caffe"]

PREPROCESSINGS: dict[str, Preprocessing] = {
    "unit": Preprocessing(1 / 255, name="unit"),
    "tf": Preprocessing(1 / 127.5, (1.0,), name="tf"),
    "torch": Preprocessing(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), name="torch"),
    "caffe": Preprocessing(1.0, (103.939, 116.779, 123.68), name="caffe", reverse_channels=True),
}
"""Preprocessings by name: `unit` scales to 0..1; the others are modes of
`keras.applications.imagenet_utils.preprocess_input`."""


def choose_preprocessing(
    name: str | None, scale: float | None, mean: Sequence[float], std: Sequence[float]
) -> Preprocessing:
    """The preprocessing that the options select, by name or by numbers.

    Raises:
        OptionRefused: the name is unknown, or a name and numbers were given.
    """
    if name is None:
        return Preprocessing(scale, tuple(mean), tuple(std))
    if name not in PREPROCESSINGS:
        raise OptionRefused(
            f"There is no preprocessing named {name!r}.",
            wanted=f"one of: {', '.join(PREPROCESSINGS)}",
            next_step="choose a name from this list, or give --scale, --mean and --std",
        )
    if scale is not None or mean or std:
        raise OptionRefused(
            f"--preprocess {name} was given together with --scale, --mean or --std.",
            wanted="either a name or numbers, because the name already sets scale, mean and std",
            next_step="leave out --preprocess, or leave out --scale, --mean and --std",
        )
    return PREPROCESSINGS[name]


def fit_preprocessing(
    preprocessing: Preprocessing, *, channels: int, channels_first: bool, reshape: tuple[int, ...] = ()
) -> Preprocessing:
    """The preprocessing, checked against the number of channels, with the model's axis order and shape set.

    Raises:
        OptionRefused: the preprocessing does not fit the number of channels, or its scale or a value of its std is 0.
    """
    if channels == 1 and preprocessing.name in ("torch", "caffe"):
        raise OptionRefused(
            f"--preprocess {preprocessing.name} was given for a model of grey images.",
            wanted="a model with 3 channels, because this preprocessing has a mean for each of 3 channels",
            next_step="give the preprocessing of the training: --preprocess unit or tf, or --scale, --mean and --std",
        )
    for option, values in (("mean", preprocessing.mean), ("std", preprocessing.std)):
        if len(values) not in (0, 1, channels):
            raise OptionRefused(
                f"--{option} has {len(values)} values for {channels} channel(s).",
                wanted=f"1 value for all channels, or {channels} values" if channels > 1 else "1 value",
                next_step="give one value for each channel, separated by commas, in the model's channel order",
            )
    if preprocessing.scale == 0 or 0 in preprocessing.std:
        raise OptionRefused(
            "--scale or --std is zero, so the preprocessed pixels would be constant or infinite.",
            wanted="values other than zero",
            next_step="give the values that were used in training",
        )
    return replace(preprocessing, channels_first=channels_first, reshape=reshape)


RESIZE_METHODS = (
    "none", "bilinear", "nearest", "pil-nearest", "pil-box", "pil-bilinear", "pil-hamming", "pil-bicubic",
    "pil-lanczos", "crop-or-pad",
)  # fmt: skip
RESIZE_FITS = ("stretch", "crop", "pad", "short=N")
_SHORT = "short="
_SCALED = ":scaled"


@dataclass(frozen=True)
class Resize:
    """Resizing of an image to the model's input size, written as text `METHOD[:FIT][:scaled]`.

    Attributes:
        method: `none`: images of another size are not scored. `bilinear` and `nearest` are the methods of
            `tf.image.resize`, without antialiasing; `pil-...` are the methods of Pillow (and of
            `keras.utils.load_img`), antialiased except `pil-nearest`. `crop-or-pad` never resizes: it crops the
            centre, or pads with black, as `tf.image.resize_with_crop_or_pad` does.
        fit: `stretch`: the whole image, without keeping its aspect ratio. `crop`: the largest centred part with the
            model's aspect ratio. `pad`: the whole image with its aspect ratio, padded with black. `short`: the shorter
            side is resized to `short_side` pixels, then the centre is cropped.
        short_side: length of the shorter side in pixels, for `short` only.
        scaled: whether large JPEG images are decoded at 1/2, 1/4 or 1/8 of their size before they are resized.
    """

    method: str = "none"
    fit: str = "stretch"
    short_side: int = 0
    scaled: bool = False

    def __str__(self) -> str:
        fit = f"{_SHORT}{self.short_side}" if self.fit == "short" else self.fit
        return self.method + (f":{fit}" if fit != "stretch" else "") + (_SCALED if self.scaled else "")

    @property
    def is_needed_at_same_size(self) -> bool:
        """Whether an image that already has the model's input size is resized too."""
        return self.fit == "short"

    def describe(self) -> str:
        """The resizing as text for `oodscreen inspect`."""
        if self.method == "none":
            return "none: images of another size are not scored"
        if self.method == "crop-or-pad":
            return "crop-or-pad: centre crop or black padding (tf.image.resize_with_crop_or_pad)"
        library = "Pillow" if self.method.startswith("pil-") else "tf.image.resize"
        fits = {
            "stretch": "whole image, aspect ratio not kept",
            "crop": "largest centre crop with the model's aspect ratio",
            "pad": "whole image, padded with black",
            "short": f"shorter side to {self.short_side} pixels, then centre crop",
        }
        scaled = ", after large JPEG images are decoded at a fraction of their size" if self.scaled else ""
        return f"{self}: {fits[self.fit]}, with the resizing method of {library}{scaled}"

    @classmethod
    def parse(cls, text: str) -> Resize:
        """The `Resize` that a text describes; the inverse of `str`.

        Raises:
            ValueError: the text is not a valid METHOD[:FIT][:scaled].
        """
        scaled = text.endswith(_SCALED)
        method, colon, fit = text.removesuffix(_SCALED).partition(":")
        short_side = 0
        if fit.startswith(_SHORT) and fit.removeprefix(_SHORT).isdecimal():
            fit, short_side = "short", int(fit.removeprefix(_SHORT))
        resize = cls(method, fit if colon else "stretch", short_side, scaled)
        fits = resize.fit in ("stretch", "crop", "pad") or (resize.fit == "short" and short_side > 0)
        combines = (resize.fit == "stretch" and not scaled) or method not in ("none", "crop-or-pad")
        if method not in RESIZE_METHODS or not fits or not combines:
            raise ValueError(f"resize {text!r}")
        return resize


def choose_resize(text: str, *, height: int, width: int) -> Resize:
    """The resizing that the option `--resize` selects, checked against the model's input size in pixels.

    Raises:
        OptionRefused: the text is invalid, or `short=N` is smaller than the longer side of the model's input.
    """
    try:
        resize = Resize.parse(text)
    except ValueError:
        raise OptionRefused(
            f"--resize is {text!r}.",
            wanted=f"METHOD[:FIT][:scaled]; METHOD is one of {', '.join(RESIZE_METHODS)}; FIT is one of "
            f"{', '.join(RESIZE_FITS)}; none and crop-or-pad take neither FIT nor :scaled",
            next_step="give the resizing of the training, such as bilinear, pil-bicubic:crop or pil-bilinear:short=256",
        ) from None
    if resize.fit == "short" and resize.short_side < max(height, width):
        raise OptionRefused(
            f"--resize {text} makes images too small for the model, whose input is {width} x {height} pixels.",
            wanted=f"a shorter side of at least {max(height, width)} pixels",
            next_step="give the size to which the images were resized in training, before the centre crop",
        )
    return resize
