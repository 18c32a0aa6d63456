"""Describe a Keras model for the export: its image shape, sites and output.

In: a Keras model. Out: a `KerasSource`. `export.source.load` reads models from files.
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
    """A loaded network and its properties, which are read from the model without running it.

    Attributes:
        network: the network, which is traced and used as the reference.
        origin: path of the file, or a name of the model, for messages.
        digest: SHA-256 of the file or folder; "" for a model in memory.
        image_shape: `(height, width, channels)`.
        classes: number of outputs C.
        output_kind: output kind according to the last layer; "" if this layer does not determine the kind.
        scales_itself: whether the model has a Rescaling or Normalization layer.
        sites: paths of the kept noise layers, in model order.
        notices: notices for the user, such as layers that the export disables.
        channels_first: whether the Keras model takes `[N, C, H, W]`.
        takes_integers: whether the input has an integer type, such as uint8.
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
        """Input shape of the Keras model, without the batch axis."""
        height, width, channels = self.image_shape
        return (channels, height, width) if self.channels_first else self.image_shape


def import_keras() -> Any:
    """Keras; its import and the import of TensorFlow print no start-up messages.

    TensorFlow prints messages before the logging setting takes effect. Standard error is therefore
    discarded during the import; exceptions still propagate.

    Raises:
        ModelRefused: Keras or TensorFlow is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    original, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import keras
        import tensorflow  # noqa: F401  imported for its messages
    except ImportError as error:
        raise ModelRefused(
            f"Keras and TensorFlow could not be imported ({error}).",
            wanted="an installation with the extra `export`, which contains Keras and TensorFlow",
            next_step="pip install 'oodscreen[export]'",
        ) from error
    finally:
        os.dup2(original, 2)
        os.close(original)
        os.close(null)
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
    """The description of a Keras model.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass that was called or built.
        origin: name of the model, for messages.
        digest: SHA-256 of the model's file or folder.
        choice: selection of sites and rates.
        output: name of the output, for a model with several outputs.
        notices: notices from loading the model.

    Raises:
        ModelRefused: the model does not have one image input and one `[N, C]` output, or has noise that cannot be kept.
        OptionRefused: a pattern or an output name matches nothing in the model.
    """
    keras = import_keras()

    choice = choice or SiteChoice()
    if not isinstance(model, keras.Model):
        raise ModelRefused(
            f"{origin} is a {type(model).__name__}, not a Keras model.",
            wanted="a built keras.Model: functional, sequential or a subclass",
            next_step="give the Keras model, or a file written by model.save('NAME.keras')",
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
    hidden = find_hidden_noise(network, layers, paths, input_shape, choice, origin)
    precisions = other_precisions(model)
    if precisions:
        hidden = (*hidden, f"{origin} computes in {', '.join(precisions)}; the exported model computes in float32")
    return KerasSource(
        network=network,
        origin=origin,
        digest=digest,
        image_shape=image_shape,
        classes=count_classes(shape, origin),
        output_kind=derive_output_kind(model),
        scales_itself=any(type(layer).__name__ in _OWN_SCALE for layer in layers.values()),
        sites=paths,
        notices=(*notices, *hidden),
        channels_first=channels_first,
        takes_integers=any("int" in str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()),
    )


def _name_layers(container: Any, prefix: str = "") -> dict[int, tuple[str, Any]]:
    """Path and layer of each layer in a container, by `id` of the layer; a container precedes its layers.

    The attribute `path` of a Keras layer is not used, because it is None for Dropout layers, which Keras never builds.
    """
    found: dict[int, tuple[str, Any]] = {}
    for layer in container._flatten_layers(include_self=False, recursive=False):
        if type(layer).__name__ != "InputLayer":
            path = f"{prefix}{layer.name}"
            for identity, named in {id(layer): (path, layer), **_name_layers(layer, f"{path}/")}.items():
                found.setdefault(identity, named)
    return found


def _image_shape(model: Any, origin: str) -> tuple[tuple[int, int, int], bool]:
    """`(height, width, channels)` of an image, and whether the model takes channels first."""
    shapes = _input_shapes(model)
    if not shapes:
        raise ModelRefused(
            f"{origin} is a {type(model).__name__} without a known input shape.",
            wanted="a model with a known input shape",
            next_step="call the model on a batch before saving it, or wrap it: keras.Model(inputs, outputs)",
        )
    if len(shapes) > 1:
        names = " and ".join(
            f"{getattr(tensor, 'name', 'input')} {shapes_text([shape])}"
            for tensor, shape in zip(getattr(model, "inputs", None) or shapes, shapes, strict=True)
        )
        raise ModelRefused(
            f"{origin} takes {len(shapes)} inputs: {names}.",
            wanted="a model with one image input, because a row of the screened data is one image",
            next_step="wrap the model so that its other inputs are constants or are computed from the image: "
            "keras.Model(image, model([image, ...]))",
        )
    shape = tuple(size or 0 for size in shapes[0][1:])
    if len(shape) == 3 and 0 not in shape:
        data_format = _data_format(model) or ("channels_last" if shape[2] in COLOURS else "channels_first")
        if data_format == "channels_last" and shape[2] in COLOURS:
            return (shape[0], shape[1], shape[2]), False
        if data_format == "channels_first" and shape[0] in COLOURS:
            return (shape[1], shape[2], shape[0]), True
    raise ModelRefused(
        f"{origin} takes an input of shape {shapes_text(shapes)}.",
        wanted="one image input of fixed size, [N, height, width, channels] or [N, channels, height, width], "
        "with 1 or 3 channels",
        next_step="wrap the model in a keras.Model whose input is one image of fixed size",
    )


def _data_format(model: Any) -> str:
    """The `data_format` of the first layer that depends on the channel axis; "" if no layer does."""
    for operation in getattr(model, "operations", None) or model.layers:
        axes = getattr(operation, "dims", None) or getattr(operation, "axes", None)
        if type(operation).__name__ in ("Permute", "Transpose") and axes:
            return "channels_first" if tuple(axes) in ((2, 3, 1), (0, 2, 3, 1)) else "channels_last"
        nested = _data_format(operation) if getattr(operation, "layers", None) else ""
        data_format = nested or getattr(operation, "data_format", None)
        flattens = type(operation).__name__ == "Flatten"
        if data_format == "channels_first" or (data_format == "channels_last" and not flattens):
            return str(data_format)
    return ""


def _input_shapes(model: Any) -> list[tuple[int | None, ...]]:
    """Shapes of the inputs; for a subclassed model, the shapes with which it was built."""
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
            f"{origin} has quantized layers: {', '.join(quantized)}.",
            wanted="the model before quantization, in float32 or half precision",
            next_step="save the model before the call of model.quantize(...), and export that file",
        )
