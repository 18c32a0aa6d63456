"""Which Keras layers draw noise that an export keeps, with which rate and along which axes.

In: a Keras layer. Out: what kind of noise it is and the shape of one row's draw. Nothing here
traces or runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from export.errors import ModelRefused

ELEMENT_KINDS = {"Dropout": "MCDropout", "GaussianDropout": "MCGaussianDropout", "AlphaDropout": "MCAlphaDropout"}
"""The noise function of each kind of layer, where every element has its own draw."""

BROADCAST_KINDS = {"Dropout": "MCBroadcastDropout", "AlphaDropout": "MCBroadcastAlphaDropout"}
"""The noise function where a draw is shared along some axes (`noise_shape`, SpatialDropout)."""


@dataclass(frozen=True)
class NoiseLayer:
    """A layer whose noise is kept.

    Attributes:
        layer: the Keras layer.
        path: its name with those of the models around it.
        family: `Dropout`, `GaussianDropout` or `AlphaDropout`.
        rate: the rate of the export, in (0, 1).
    """

    layer: Any
    path: str
    family: str
    rate: float


@cache
def noise_classes() -> dict[type, str]:
    """The Keras classes whose `call` draws noise that is kept, with their families.

    SpatialDropout1D, 2D and 3D share one `call`, in a parent that Keras does not name publicly.
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
    """`Dropout`, `GaussianDropout`, `AlphaDropout`, or "" for a layer of another kind."""
    return next((family for kind, family in noise_classes().items() if isinstance(layer, kind)), "")


def is_active(layer: Any) -> bool:
    """Whether a noise layer was trained with noise."""
    return bool(layer.rate > 0)


def noise_shape_of(layer: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The draw of one row, without the batch axis: from `noise_shape`, or from what SpatialDropout does.

    A `noise_shape` that starts with 1 shares a draw between the rows of a batch. Here each row
    has its own: for one row the distribution is the same.

    Args:
        layer: a noise layer.
        shape: what it sees, without the batch axis.

    Raises:
        ModelRefused: the draw ties some rows of a batch together, or does not fit the shape.
    """
    if hasattr(layer, "_get_noise_shape"):  # SpatialDropout: one draw for each channel
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
            f"The dropout layer {layer.name} has noise_shape {layer.noise_shape} on rows of {list(shape)}.",
            wanted="None or 1 for the batch, and for each other axis its size, None or 1",
            next_step="rebuild the layer with such a noise_shape",
        )
    return filled
