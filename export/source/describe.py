"""Describe a Keras model for the export: its images, sites and output.

In: a Keras model. Out: a `KerasSource`. `export.source.load` reads models from files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from export.contract.insertion import LIST
from export.errors import ModelRefused
from export.model_source import ImageInput
from export.source.choice import SiteChoice, choose_sites
from export.source.hidden import find_hidden_noise
from export.source.inputs import find_image_input
from export.source.insertion.layers import insert_layers
from export.source.insertion.places import Place, find_places
from export.source.network import KerasNetwork, Network, other_precisions
from export.source.outputs import IN_MEMORY, choose_output, count_classes, derive_output_kind

_OWN_SCALE = ("Rescaling", "Normalization")


@dataclass(frozen=True)
class KerasSource:
    """A loaded network and its properties, which are determined without running the model.

    Attributes:
        network: the network, which is traced and used as the reference.
        origin: path of the file, or a name of the model, for messages.
        digest: SHA-256 of the file or folder; "" for a model in memory.
        image: the images of the model, and the steps from an image to its input.
        classes: number of outputs C.
        output_kind: output kind according to the last layer; "" if this layer does not determine the kind.
        scales_itself: whether the model has a Rescaling or Normalization layer.
        sites: paths of the kept noise layers in model order, then the names of the inserted layers.
        notices: notices for the user, such as layers that the export disables.
        takes_integers: whether the input has an integer type, such as uint8.
        places: a place for dropout for each layer of the model; empty if the choice of sites has no insertions.
    """

    network: Network
    origin: str
    digest: str
    image: ImageInput
    classes: int
    output_kind: str
    scales_itself: bool
    sites: tuple[str, ...]
    notices: tuple[str, ...] = ()
    takes_integers: bool = False
    places: tuple[Place, ...] = ()


def import_keras() -> Any:
    """Import Keras and TensorFlow without their start-up messages, and return Keras.

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
    origin: str = IN_MEMORY,
    digest: str = "",
    choice: SiteChoice | None = None,
    output: str | None = None,
    image_shape: tuple[int, int, int] | None = None,
    notices: Sequence[str] = (),
) -> KerasSource:
    """The description of a Keras model.

    Args:
        model: a built `keras.Model`: functional, sequential, or a subclass that was called or built.
        origin: name of the model, for messages.
        digest: SHA-256 of the model's file or folder.
        choice: selection of sites and rates.
        output: name of the output, for a model with several outputs.
        image_shape: shape of the images; None if the input of the model determines it.
        notices: notices from loading the model.

    Raises:
        ModelRefused: the model does not have one image input and one `[N, C]` output, or has noise that cannot be kept.
        OptionRefused: a pattern or an output name matches nothing in the model, or the shape of the images does not
            fit its input.
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
    image = find_image_input(model, image_shape, origin)
    model, position, shape = choose_output(model, output, image.input_shape, origin)
    layers = dict(_name_layers(model).values())
    kept = choose_sites(list(layers.items()), choice, origin)
    places: tuple[Place, ...] = ()
    if choice.insertions:
        places = find_places(KerasNetwork(model, kept, position), layers, image.input_shape, origin)
    if choice.insertions and LIST not in choice.insertions:
        kept = (*kept, *insert_layers(places, layers, choice.insertions, origin))
    network = KerasNetwork(model, kept, position)
    paths = tuple(source.path for source in kept if source.before is None)
    hidden = find_hidden_noise(network, layers, paths, image.input_shape, choice, origin)
    precisions = other_precisions(model)
    if precisions:
        hidden = (*hidden, f"{origin} computes in {', '.join(precisions)}; the exported model computes in float32")
    return KerasSource(
        network=network,
        origin=origin,
        digest=digest,
        image=image,
        classes=count_classes(shape, origin),
        output_kind=derive_output_kind(model),
        scales_itself=any(type(layer).__name__ in _OWN_SCALE for layer in layers.values()),
        sites=tuple(source.path for source in kept),
        notices=(*notices, *([image.notice] if image.notice else []), *hidden),
        takes_integers=any("int" in str(tensor.dtype) for tensor in getattr(model, "inputs", None) or ()),
        places=places,
    )


def _name_layers(container: Any, prefix: str = "") -> dict[int, tuple[str, Any]]:
    """Path and Keras layer of each layer in a container, by `id` of the layer; a container precedes its layers.

    The attribute `path` of a Keras layer is not used, because it is None for Dropout layers, which Keras never builds.
    """
    found: dict[int, tuple[str, Any]] = {}
    for layer in container._flatten_layers(include_self=False, recursive=False):
        if type(layer).__name__ != "InputLayer":
            path = f"{prefix}{layer.name}"
            for identity, named in {id(layer): (path, layer), **_name_layers(layer, f"{path}/")}.items():
                found.setdefault(identity, named)
    return found


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
            next_step="export a file that was saved before the call of model.quantize(...)",
        )
