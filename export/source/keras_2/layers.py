"""Make layers of Keras 3 from the configurations of Keras 2.

In: `class_name` and `config` of a layer, as plain data. Out: a Keras 3 layer with the same outputs in inference.
Initializers, regularizers and constraints are not read, because they have no effect on a trained model.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any

from export.errors import ModelRefused

_RENAMED_CLASSES = {
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "SyncBatchNormalization": "BatchNormalization",
    "RandomHeight": "Identity",
    "RandomWidth": "Identity",
    "AddLoss": "Identity",
    "AddMetric": "Identity",
}
"""Classes that Keras 3 does not have, each with the class of Keras 3 that has the same outputs in inference."""

_FOREIGN = ("TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
"""Classes that only Keras 3 has, and that run code from outside the layers."""

_OF_APPLICATIONS = {
    "LayerScale": "convnext",
    "StochasticDepth": "convnext",
    "CustomScaleLayer": "inception_resnet_v2",
    "Custom>CustomScaleLayer": "inception_resnet_v2",
}
"""Modules of the classes in `keras.applications` that have no public name, by the name of the class in files."""

_RENAMED_SETTINGS = {("LeakyReLU", "alpha"): "negative_slope", ("MultiHeadAttention", "key_size"): "key_dim"}

_REMOVED_SETTINGS: dict[str, tuple[Any, ...] | None] = {
    **dict.fromkeys(("groups",), (1,)),
    **dict.fromkeys(("noise_shape", "virtual_batch_size", "adjustment"), (None,)),
    **dict.fromkeys(("time_major", "unroll", "ragged", "sparse", "causal", "stateful", "renorm"), (False, None)),
    "softmax_robust_masking": (False, None),
    **dict.fromkeys(("batch_input_shape", "input_shape", "input_length", "query_shape", "key_shape", "value_shape")),
    **dict.fromkeys(("trainable", "implementation", "rng_type", "fused", "optional", "factor", "interpolation")),
    **dict.fromkeys(("unconditional", "aggregation", "metric_name")),
}
"""Settings that some layers of Keras 3 do not have, each with the values that have no effect; None in place of the
values if no value has an effect."""

_WITHOUT_EFFECT = re.compile(r".*_(?:initializer|regularizer|constraint)")
_ACTIVATIONS = ("activation", "recurrent_activation")
_LAYERS = ("layer", "backward_layer", "cell", "cells")
MODELS = ("Sequential", "Functional", "Model", "Network", "Container")
"""Names of the classes of sequential and functional models."""

_OPERATIONS = ("InputLayer", "TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")


LOADING = (
    "model.load_weights(FILE); model.save('rebuilt.h5'), where FILE is this file, or variables/variables in this folder"
)
"""Python code that reads the weights of a file or folder of Keras 2 into a `model` of tf_keras, and saves the model."""


def plain(value: Any) -> Any:
    """A value of a configuration, without the wrappers in which Keras 2 stores tuples, arrays and functions."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    kind, inner = value.get("class_name"), value.get("config")
    if kind in ("__tuple__", "TensorShape") and "items" in value:
        return plain(value["items"])
    if kind in ("__numpy__", "__tensor__") and isinstance(inner, Mapping):
        return plain(inner.get("value"))
    if kind == "function" and isinstance(inner, str):  # Keras 2.12 to 2.15
        return inner
    if set(value) == {"type", "value"}:  # Keras 2.0 to 2.2
        return plain(value["value"])
    return {key: plain(one) for key, one in value.items()}


def class_of(described: Mapping[str, Any], objects: Mapping[str, Any]) -> Any | None:
    """The class of a layer in `objects` or in Keras 3; None for an unknown class.

    Args:
        described: `class_name` of the layer; from Keras 2.12 on, also `registered_name`.
        objects: classes and functions that are not part of Keras, by the name in the file.
    """
    import keras

    name = str(described["class_name"])
    registered = str(described.get("registered_name") or name)
    for known in (registered, name, name.rpartition(">")[2]):
        if known in objects:
            return objects[known]
    kind = keras.saving.get_registered_object(registered)
    if kind is not None:
        return kind
    kind = getattr(keras.layers, _RENAMED_CLASSES.get(name, name), None)
    kind = classes_of_applications().get(name, kind)
    return kind if inspect.isclass(kind) and name not in _FOREIGN else None


def classes_of_applications() -> dict[str, Any]:
    """The classes of `keras.applications` that have no public name, by the name in files."""
    return {
        name: getattr(import_module(f"keras.src.applications.{module}"), name.rpartition(">")[2])
        for name, module in _OF_APPLICATIONS.items()
    }


def layers_in(config: Any) -> Iterator[Mapping[str, Any]]:
    """Configurations of all layers and inner models of a model, at any depth; an inner model precedes its layers."""
    inner = config.get("config")
    if isinstance(inner, Mapping):
        wrapped = [inner[key] for key in _LAYERS if isinstance(inner.get(key), Mapping)]
        layers = [*inner.get("layers", ()), *wrapped, *(inner.get("cells") or ())]
    else:
        layers = inner if isinstance(inner, list) else []
    for one in layers:
        yield one
        yield from layers_in(one)


def is_known(described: Mapping[str, Any], objects: Mapping[str, Any]) -> bool:
    """Whether a layer is an input, an operation or a model, or has a class in `objects` or in Keras."""
    return described["class_name"] in (*_OPERATIONS, *MODELS) or class_of(described, objects) is not None


def make_layer(
    described: Mapping[str, Any],
    objects: Mapping[str, Any],
    *,
    unsafe: bool,
    make_model: Callable[[Mapping[str, Any]], Any] | None = None,
) -> Any:
    """The Keras 3 layer that a configuration of Keras 2 describes.

    Args:
        described: `class_name` and `config` of the layer, as plain data.
        objects: classes and functions that are not part of Keras, by the name in the file.
        unsafe: whether to run code in the configuration.
        make_model: function that makes a model within the layer, such as in TimeDistributed, from the configuration of
            the model.

    Raises:
        ModelRefused: the class is unknown, or a setting has no counterpart in Keras 3.
    """
    import keras

    name = str(described["class_name"])
    if make_model is not None and name in MODELS:
        return make_model(described)
    config = dict(described["config"])
    kind = class_of(described, objects)
    if kind is None:
        raise unknown_object(name, "class")
    if isinstance(config.get("dtype"), Mapping):
        config["dtype"] = config["dtype"]["config"]["name"]
    if name == "Lambda":
        return keras.layers.Lambda.from_config(_lambda_settings(config), safe_mode=not unsafe)
    if not kind.__init__.__module__.startswith("keras."):
        return kind.from_config({key: one for key, one in config.items() if key != "batch_input_shape"})
    settings = _settings(kind, name, config)
    for key in _ACTIVATIONS:
        if key in settings:
            settings[key] = _activation(settings[key], objects, unsafe=unsafe)
    for key in _LAYERS:
        if isinstance(settings.get(key), Mapping):
            settings[key] = make_layer(settings[key], objects, unsafe=unsafe, make_model=make_model)
        elif isinstance(settings.get(key), list):
            settings[key] = [make_layer(one, objects, unsafe=unsafe) for one in settings[key]]
    return kind(**settings)


def _settings(kind: Any, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of Keras 2 as arguments of a class of Keras 3.

    Raises:
        ModelRefused: a setting that has an effect is not an argument of the class.
    """
    accepted = {*inspect.signature(kind.__init__).parameters, "name", "dtype"}
    settings: dict[str, Any] = {"reset_after": False} if name in ("GRU", "GRUCell") else {}
    for key, value in config.items():
        key = _RENAMED_SETTINGS.get((name, key), key)
        if _WITHOUT_EFFECT.fullmatch(key):
            continue
        if key in accepted:
            settings[key] = value
        elif key not in _REMOVED_SETTINGS or value not in (_REMOVED_SETTINGS[key] or (value,)):
            raise ModelRefused(
                f"The layer {config.get('name', name)} ({name}) has the setting {key}={value!r}, which the installed "
                "version of Keras does not have.",
                wanted="a layer whose settings exist in Keras 3",
                next_step=f"build the model without {key} with tf_keras (pip install tf_keras), and export the file "
                f"that this Python code writes: {LOADING}",
            )
    axis = settings.get("axis")
    if isinstance(axis, list) and len(axis) == 1:
        settings["axis"] = axis[0]
    return settings


def _activation(value: Any, objects: Mapping[str, Any], *, unsafe: bool) -> Any:
    """The activation function that a name or configuration of Keras 2 denotes."""
    import keras

    if isinstance(value, Mapping):
        if class_of(value, objects) is not None:
            return make_layer(value, objects, unsafe=unsafe)
        value = value.get("config") if isinstance(value.get("config"), str) else value.get("class_name")
    if value is None or value in objects:
        return objects.get(value)
    if value == "hard_sigmoid":
        return hard_sigmoid()
    try:
        return keras.activations.get({"softmax_v2": "softmax"}.get(value, value))
    except (ValueError, TypeError) as error:
        raise unknown_object(str(value), "activation") from error


@cache
def hard_sigmoid() -> Any:
    """Keras 2's function `hard_sigmoid`, which has another slope than the function of this name in Keras 3."""
    import keras

    def hard_sigmoid(x: Any) -> Any:
        return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)

    return hard_sigmoid


def _lambda_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a Lambda layer in the format of Keras 3."""
    settings = {key: config[key] for key in ("name", "dtype", "arguments") if key in config}
    settings["function"] = _code(config["function"])
    if config.get("output_shape") is not None and config.get("output_shape_type") != "raw":
        settings["output_shape"] = _code(config["output_shape"])
    return settings


def _code(function: Any) -> Any:
    if isinstance(function, list | tuple) and len(function) == 3:
        return {"class_name": "__lambda__", "config": dict(zip(("code", "defaults", "closure"), function, strict=True))}
    return function


def unknown_object(name: str, kind: str) -> ModelRefused:
    """`ModelRefused` for a class or function that is not part of Keras."""
    return ModelRefused(
        f"The model uses the {kind} {name}, which is not part of Keras.",
        wanted=f"the module of the {kind}, because the model file does not contain its code",
        next_step=f"add --custom-objects 'MODULE:{name.rpartition('>')[2]}'; MODULE is a module name or .py file",
    )
