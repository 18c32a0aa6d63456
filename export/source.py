"""Load a Keras model safely and find out what an export needs to know of it.

In: a path. Out: `KerasSource`: the model, its dropout layers, its image shape and output kind.
"""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.contract import COLOURS
from export.errors import ModelRefused

_OTHER_NOISE = ("GaussianDropout", "AlphaDropout")
_OWN_DROPOUT = ("dropout", "recurrent_dropout")
_SILENT = ("GaussianNoise",)
_OWN_SCALE = ("Rescaling", "Normalization")


@dataclass(frozen=True)
class KerasSource:
    """A loaded Keras model and what can be read off it without running it.

    Attributes:
        model: the `keras.Model`.
        origin: where it came from, for messages.
        digest: SHA-256 of the file, or "" for a model from memory.
        dropouts: its Dropout layers with a rate above zero, nested ones included, in model order.
        paths: for each layer by its `id`, its name with those of the models around it.
        image_shape: `(height, width, channels)`.
        classes: size of the output.
        output_kind: derived from the last layer, or "" where that does not tell.
        scales_itself: whether a Rescaling or Normalization layer is in the model.
        notices: what a person should know: noise that inference switches off, as Keras does.
        channels_first: whether the Keras model takes `[N, C, H, W]`.
        takes_integers: whether its input is of an integer type, such as uint8.
    """

    model: Any
    origin: str
    digest: str
    dropouts: tuple[Any, ...]
    paths: dict[int, str]
    image_shape: tuple[int, int, int]
    classes: int
    output_kind: str
    scales_itself: bool
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


def load_keras_file(path: str | Path) -> KerasSource:
    """Load a `.keras` file in Keras' safe mode, without its optimizer.

    Raises:
        ModelRefused: no such file, not a `.keras` file, unknown or unsafe classes, or a model
            that `describe_model` refuses.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelRefused(
            f"There is no model file {path}.",
            wanted="a Keras 3 model, saved with model.save('NAME.keras')",
            next_step="check the path",
        )
    if path.suffix != ".keras":
        raise ModelRefused(
            f"{path} is not named like a Keras 3 model (its ending is {path.suffix or 'empty'!r}).",
            wanted="a model saved with model.save('NAME.keras')",
            next_step="load the model in Keras and save it with the ending .keras",
        )
    keras = import_keras()

    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelRefused(
            f"Keras could not load {path}: {first_line}",
            wanted="a model made of Keras' own layers, saved with model.save('NAME.keras')",
            next_step="load it in Python with its custom classes and call export.export_model(model, ...)",
        ) from error
    return describe_model(model, origin=str(path), digest=hashlib.sha256(path.read_bytes()).hexdigest())


def describe_model(model: Any, *, origin: str = "the model", digest: str = "") -> KerasSource:
    """Read shapes, dropouts and output kind off a Keras model.

    Raises:
        ModelRefused: not one image input and one `[N, C]` output, or no dropout that could be kept.
    """
    keras = import_keras()

    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ModelRefused(
            f"{origin} is a {type(model).__name__} without a known input.",
            wanted="a built functional or sequential keras.Model",
            next_step="call the model once on a batch, or wrap it: keras.Model(inputs, outputs)",
        )
    named = _name_layers(model)
    layers = [layer for _, layer in named.values()]
    image_shape, channels_first = _image_shape(model, origin)
    return KerasSource(
        model=model,
        origin=origin,
        digest=digest,
        dropouts=_find_dropouts(layers, origin),
        paths={identity: path for identity, (path, _) in named.items()},
        image_shape=image_shape,
        classes=_classes(model, origin),
        output_kind=_output_kind(model),
        scales_itself=any(type(layer).__name__ in _OWN_SCALE for layer in layers),
        notices=tuple(
            f"{layer.name} ({type(layer).__name__}) is switched off, as Keras does in inference"
            for layer in layers
            if type(layer).__name__ in _SILENT
        ),
        channels_first=channels_first,
        takes_integers="int" in str(model.inputs[0].dtype),
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


def _find_dropouts(layers: list[Any], origin: str) -> tuple[Any, ...]:
    import keras

    other = [layer for layer in layers if _draws_its_own_noise(layer)]
    if other:
        names = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in other)
        raise ModelRefused(
            f"{origin} draws noise in layers that would fall silent in the export: {names}.",
            wanted="noise from Dropout or SpatialDropout layers",
            next_step="set the rate of these layers to 0 if their noise does not matter, or use Dropout",
        )
    seen = [layer for layer in layers if isinstance(layer, (keras.layers.Dropout, _base_spatial_dropout()))]
    active = tuple(layer for layer in seen if layer.rate > 0)
    if not active:
        looked = ", ".join(f"{layer.name} (rate {layer.rate})" for layer in seen)
        if not looked:
            kinds = sorted({type(layer).__name__ for layer in layers})
            looked = f"no Dropout among its {len(layers)} layers ({', '.join(kinds)})"
        raise ModelRefused(
            f"{origin} has no active dropout. Looked at: {looked}.",
            wanted="at least one Dropout layer with a rate above 0, trained with it",
            next_step="train the model with dropout; adding it afterwards would not measure uncertainty",
        )
    return active


def _draws_its_own_noise(layer: Any) -> bool:
    """Whether a layer has noise that is in no Dropout layer below it, such as a recurrent dropout."""
    if type(layer).__name__ in _OTHER_NOISE:
        return bool(layer.rate > 0)
    rates = [getattr(layer, name, 0) for name in _OWN_DROPOUT]
    if not any(isinstance(rate, int | float) and rate > 0 for rate in rates):
        return False
    below = layer._flatten_layers(include_self=False)
    return not any(type(child).__name__ == "Dropout" for child in below)


def _base_spatial_dropout() -> Any:
    """The common parent of SpatialDropout1D, 2D and 3D, which Keras does not name publicly."""
    import keras

    parent: Any = keras.layers.SpatialDropout2D.__mro__[1]
    return parent


def _image_shape(model: Any, origin: str) -> tuple[tuple[int, int, int], bool]:
    """`(height, width, channels)` of an image, and whether the model takes the channels first."""
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) > 1:
        names = " and ".join(
            f"{tensor.name} {_shapes_text([shape])}" for tensor, shape in zip(model.inputs, shapes, strict=True)
        )
        raise ModelRefused(
            f"{origin} takes {len(shapes)} inputs: {names}.",
            wanted="one image input: a row of the data to be screened is one image",
            next_step="wrap the model so that the other inputs are constants or made from the image: "
            "keras.Model(image, model([image, ...]))",
        )
    shape = shapes[0][1:]
    if len(shape) == 3 and None not in shape:
        told = _data_format(model) or ("channels_last" if shape[2] in COLOURS else "channels_first")
        if told == "channels_last" and shape[2] in COLOURS:
            return (shape[0], shape[1], shape[2]), False
        if told == "channels_first" and shape[0] in COLOURS:
            return (shape[1], shape[2], shape[0]), True
    raise ModelRefused(
        f"{origin} takes {_shapes_text(shapes)}.",
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


def _classes(model: Any, origin: str) -> int:
    shapes = [tuple(tensor.shape) for tensor in model.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise ModelRefused(
            f"{origin} gives {_shapes_text(shapes)}.",
            wanted="one output [N, C]",
            next_step="wrap the model so that it gives the one output to be screened",
        )
    return int(shapes[0][1])


def _shapes_text(shapes: list[tuple[int | None, ...]]) -> str:
    return " and ".join(str(["N", *shape[1:]]).replace("'", "") for shape in shapes) or "nothing"


def _output_kind(model: Any) -> str:
    """`softmax` or `sigmoid` where the layer behind the output says so, else ""."""
    layer = _layer_behind(model.outputs[0])
    if type(layer).__name__ == "Softmax":
        return "softmax"
    activation = getattr(getattr(layer, "activation", None), "__name__", "")
    return activation if activation in ("softmax", "sigmoid") else ""


def _layer_behind(tensor: Any) -> Any:
    """The layer that makes a tensor, looked for within nested models."""
    history = getattr(tensor, "_keras_history", None)
    if history is None:
        return None
    layer = history.operation
    outputs = getattr(layer, "outputs", None) if getattr(layer, "layers", None) else None
    return _layer_behind(outputs[history.tensor_index]) if outputs else layer
