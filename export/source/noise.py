"""Classify Keras layers by the noise that an export keeps.

In: a Keras layer. Out: the layer's family of noise and the shape of one row's mask. No model is traced or run.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from export.errors import ModelRefused

ELEMENT_KINDS = {"Dropout": "MCDropout", "GaussianDropout": "MCGaussianDropout", "AlphaDropout": "MCAlphaDropout"}
"""Noise function by layer family, for masks with one value for each element."""

BROADCAST_KINDS = {"Dropout": "MCBroadcastDropout", "AlphaDropout": "MCBroadcastAlphaDropout"}
"""Noise function by layer family, for masks shared along some axes (`noise_shape`, SpatialDropout)."""


@dataclass(frozen=True)
class NoiseLayer:
    """A noise layer that the export keeps.

    Attributes:
        layer: the Keras layer.
        path: names of the enclosing models and of the layer, separated by `/`.
        family: `Dropout`, `GaussianDropout` or `AlphaDropout`.
        rate: rate in the export, in (0, 1).
        before: for an inserted layer, the layer of the model on whose inputs the inserted layer is called; else None.
    """

    layer: Any
    path: str
    family: str
    rate: float
    before: Any = None


@cache
def noise_classes() -> dict[type, str]:
    """The family of noise of each Keras class whose `call` draws noise that an export keeps.

    SpatialDropout1D, 2D and 3D inherit `call` from one class, which has no public name.
    """
    import keras

    layers = keras.layers
    return {
        layers.SpatialDropout2D.__mro__[1]: "Dropout",
        layers.Dropout: "Dropout",
        layers.GaussianDropout: "GaussianDropout",
        layers.AlphaDropout: "AlphaDropout",
    }


def family_of(layer: Any) -> str:
    """Family of a noise layer: `Dropout`, `GaussianDropout` or `AlphaDropout`; "" for any other layer."""
    return next((family for kind, family in noise_classes().items() if isinstance(layer, kind)), "")


def is_active(layer: Any) -> bool:
    """Whether a noise layer has a rate above 0."""
    return bool(layer.rate > 0)


def noise_shape_of(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of the mask of one row, without the batch axis.

    The mask of a SpatialDropout layer has one value for each channel. The mask of another layer has the shape in the
    layer's attribute `noise_shape`, or the shape of the input if this attribute is None.

    With a `noise_shape` that starts with 1, Keras draws one mask for all rows of a batch. The exported model
    draws a mask for each row instead; the distribution of the outputs of a single row is the same.

    Args:
        layer: a noise layer.
        shape: shape of the layer's input, without the batch axis.

    Raises:
        ModelRefused: only some rows of a batch share a mask, or `noise_shape` does not fit `shape`.
    """
    if hasattr(layer, "_get_noise_shape"):  # SpatialDropout: one value for each channel
        channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
        singles = (1,) * (len(shape) - 1)
        return (*singles, shape[-1]) if channels_last else (shape[0], *singles)
    if getattr(layer, "noise_shape", None) is None:
        return shape
    first, *rest = layer.noise_shape
    filled = tuple(own if own is not None else size for own, size in zip(rest, shape, strict=False))
    fits = all(own in (1, size) for own, size in zip(filled, shape, strict=False))
    if len(rest) != len(shape) or first not in (None, 1) or not fits:
        raise ModelRefused(
            f"The dropout layer {layer.name} has noise_shape {layer.noise_shape} for rows of shape {list(shape)}.",
            wanted="a noise_shape with None or 1 for the batch axis; for other axes None, 1 or the size of the axis",
            next_step="rebuild the layer with a noise_shape of this form",
        )
    return filled
