"""Find out what an export needs to know of a Keras model: shapes, sites, outputs.

In: a model. Out: `KerasSource`. `export.source.load` reads models from files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.contract.metadata import COLOURS
from export.errors import ModelRefused
from export.source.choice import SiteChoice, choose_sites
from export.source.hidden import find_hidden_noise
from export.source.network import KerasNetwork, Network, other_precisions
from export.source.outputs import choose_output, count_classes, derive_output_kind, shapes_text

_OWN_SCALE = ("Rescaling", "Normalization")


@dataclass(frozen=True)
class KerasSource:
    """A loaded network and what can be read off it without running it.

    Attributes:
        network: what is traced and compared with.
        origin: where it came from, for messages.
        digest: SHA-256 of the file, or "" for a model from memory.
        image_shape: `(height, width, channels)`.
        classes: size of the output.
        output_kind: derived from the last layer, or "" where that does not tell.
        scales_itself: whether a Rescaling or Normalization layer is in the model.
        sites: paths of the noise layers that are kept, in model order.
        notices: what a person should know: what is switched off, or computed otherwise.
        channels_first: whether the Keras model takes `[N, C, H, W]`.
        takes_integers: whether its input is of an integer type, such as uint8.
    """

    network: Network
    origin: str
    digest: str
    image_shape: tuple[int, int, int]
    classes: int
    output_kind: str
    scales_itself: bool
    sites: tuple[str, ...]
    notices: tuple[str, ...] = ()
    channels_first: bool = False
    takes_integers: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """What the Keras model takes, without the batch axis."""
        height, width, channels = self.image_shape
        return (channels, height, width) if self.channels_first else self.image_shape


def import_keras() -> Any:
    """Import Keras (and so TensorFlow) without their start-up chatter.

    TensorFlow writes to the process' standard error before any of its settings is read, so for
    the time of the import that goes nowhere. Exceptions still come through.

    Raises:
        ModelRefused: TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import keras
        import tensorflow  # noqa: F401  its own import is the loud one
    except ImportError as error:
        raise ModelRefused(
            f"Keras and TensorFlow are needed for an export and could not be imported ({error}).",
            wanted="the extra `export` installed",
            next_step="pip install 'oodscreen[export]'",
        ) from error
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    return keras


def describe_model(
    model: Any,
    *,
    origin: str = "the model",
    digest: str = "",
    choice: SiteChoice | None = None,
    output: str | None = None,
    notices: Sequence[str] = (),
) -> KerasSource:
    """Read shapes, sites and output kind off a Keras model.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass that was called or built.
        origin: its name, for messages.
        digest: of its file.
        choice: which sites are kept, at which rates.
        output: name of the output, for a model with several.
        notices: what is to be told already.

    Raises:
        ModelRefused: not one image input and one `[N, C]` output, or noise that cannot be kept.
        OptionRefused: a pattern or an output that the model does not have.
    """
    keras = import_keras()

    choice = choice or SiteChoice()
    if not isinstance(model, keras.Model):
        raise ModelRefused(
            f"{origin} is a {type(model).__name__}, not a Keras model.",
            wanted="a built keras.Model: functional, sequential or a subclass",
            next_step="give the model itself, or a file that model.save('NAME.keras') wrote",
        )
    _refuse_quantized(model, origin)
    image_shape, channels_first = _image_shape(model, origin)
    height, width, channels = image_shape
    input_shape = (channels, height, width) if channels_first else image_shape
    model, position, shape = choose_output(model, output, input_shape, origin)
    layers = dict(_name_layers(model).values())
    kept = choose_sites(list(layers.items()), choice, origin)
    network = KerasNetwork(model, kept, position)
    paths = tuple(source.path for source in kept)
    found = find_hidden_noise(network, layers, paths, input_shape, choice, origin)
    precisions = other_precisions(model)
    if precisions:
        found = (*found, f"{origin} computes in {', '.join(precisions)}; the export computes in float32")
    return KerasSource(
        network=network,
        origin=origin,
        digest=digest,
        image_shape=image_shape,
        classes=count_classes(shape, origin),
        output_kind=derive_output_kind(model),
        scales_itself=any(type(layer).__name__ in _OWN_SCALE for layer in layers.values()),
        sites=paths,
        notices=(*notices, *found),
        channels_first=channels_first,
        takes_integers=any("int" in str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()),
    )


def _name_layers(container: Any, prefix: str = "") -> dict[int, tuple[str, Any]]:
    """Every layer below a container with its path, by identity; containers before what they hold.

    Keras has paths too, but a Dropout, which is never built, has none.
    """
    found: dict[int, tuple[str, Any]] = {}
    for layer in container._flatten_layers(include_self=False, recursive=False):
        if type(layer).__name__ != "InputLayer":
            path = f"{prefix}{layer.name}"
            for identity, named in {id(layer): (path, layer), **_name_layers(layer, f"{path}/")}.items():
                found.setdefault(identity, named)
    return found


def _image_shape(model: Any, origin: str) -> tuple[tuple[int, int, int], bool]:
    """`(height, width, channels)` of an image, and whether the model takes the channels first."""
    shapes = _input_shapes(model)
    if not shapes:
        raise ModelRefused(
            f"{origin} is a {type(model).__name__} without a known input.",
            wanted="a model that knows its input",
            next_step="call the model once on a batch before it is saved, or wrap it: keras.Model(inputs, outputs)",
        )
    if len(shapes) > 1:
        names = " and ".join(
            f"{getattr(tensor, 'name', 'input')} {shapes_text([shape])}"
            for tensor, shape in zip(getattr(model, "inputs", None) or shapes, shapes, strict=True)
        )
        raise ModelRefused(
            f"{origin} takes {len(shapes)} inputs: {names}.",
            wanted="one image input: a row of the data to be screened is one image",
            next_step="wrap the model so that the other inputs are constants or made from the image: "
            "keras.Model(image, model([image, ...]))",
        )
    shape = tuple(size or 0 for size in shapes[0][1:])
    if len(shape) == 3 and 0 not in shape:
        told = _data_format(model) or ("channels_last" if shape[2] in COLOURS else "channels_first")
        if told == "channels_last" and shape[2] in COLOURS:
            return (shape[0], shape[1], shape[2]), False
        if told == "channels_first" and shape[0] in COLOURS:
            return (shape[1], shape[2], shape[0]), True
    raise ModelRefused(
        f"{origin} takes {shapes_text(shapes)}.",
        wanted="one image input [N, height, width, channels] or [N, channels, height, width] of known size, "
        "with 1 or 3 channels",
        next_step="wrap the model so that it takes one image of a fixed size",
    )


def _data_format(model: Any) -> str:
    """Where the first layer that cares about it expects the channels; "" where none does."""
    for operation in getattr(model, "operations", None) or model.layers:
        axes = getattr(operation, "dims", None) or getattr(operation, "axes", None)
        if type(operation).__name__ in ("Permute", "Transpose") and axes:
            return "channels_first" if tuple(axes) in ((2, 3, 1), (0, 2, 3, 1)) else "channels_last"
        nested = _data_format(operation) if getattr(operation, "layers", None) else ""
        told = nested or getattr(operation, "data_format", None)
        if told == "channels_first" or (told == "channels_last" and type(operation).__name__ != "Flatten"):
            return str(told)
    return ""


def _input_shapes(model: Any) -> list[tuple[int | None, ...]]:
    """Shapes of the inputs; of a subclassed model, what it was built with."""
    if getattr(model, "inputs", None):
        return [tuple(tensor.shape) for tensor in model.inputs]
    built = getattr(model, "_build_shapes_dict", None) or {}
    return [tuple(shape) for shape in built.values() if isinstance(shape, tuple | list)]


def _refuse_quantized(model: Any, origin: str) -> None:
    quantized = [
        layer.name
        for layer in model._flatten_layers(include_self=False, recursive=True)
        if getattr(layer, "quantization_mode", None)
    ]
    if quantized:
        raise ModelRefused(
            f"{origin} is quantized, in {', '.join(quantized)}.",
            wanted="the model as it was trained, in float32 or half precision",
            next_step="export the model from before model.quantize(...)",
        )
