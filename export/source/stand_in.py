"""Find the classes in a configuration that are not part of Keras: leave them out, replace them, or refuse the model.

In: the configuration of a model. Out: the configuration without the objects that only training needs, and replacement
classes for dropout layers. Many tutorials define a dropout class that is always active:

    class MCDropout(keras.layers.Dropout):
        def call(self, inputs):
            return super().call(inputs, training=True)

Without the code of this class, Keras cannot load the model, but the export does not need the code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from export.errors import ModelRefused
from export.source.containers import Container, objects_in
from export.source.keras_2.layers import is_known, layers_in

_TRAINING = re.compile(r".*_(?:initializer|regularizer|constraint)")
"""Pattern for the names of settings that have no effect on a trained layer."""
_NAME = re.compile(
    r"(?:MC|Monte_?Carlo|Permanent|Always_?On|Fixed)_?(?P<family>Alpha|Gaussian|Spatial)?_?Drop_?out(?P<axes>[123]D)?"
    r"(?:_?Layer)?",
    re.IGNORECASE,
)


def without_training(value: Any, given: Mapping[str, Any]) -> Any:
    """A configuration of Keras 3 without objects that only training needs and that may require code of their own.

    These are losses, metrics and optimizers, and regularizers, constraints and initializers that are neither in `given`
    nor part of Keras. Regularizers and constraints do not change the outputs, and the weights in the file replace the
    initial weights.
    """
    if isinstance(value, list):
        return [without_training(one, given) for one in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, one in value.items():
        if _TRAINING.fullmatch(key) and not all(_is_known_data(inner, given) for inner in objects_in(one)):
            kept[key] = "zeros" if key.endswith("initializer") else None
        elif key != "compile_config":
            kept[key] = without_training(one, given)
    return kept


def find_stand_ins(container: Container, given: Mapping[str, Any]) -> dict[str, Any]:
    """Replacement classes, by name, for unknown classes in the file whose name and settings denote a dropout layer.

    Args:
        container: the model file.
        given: classes and functions that are not part of Keras, by the name in the file.

    Raises:
        ModelRefused: the file contains other classes or functions that are neither part of Keras nor in `given`.
    """
    config = container.config
    unknown: dict[str, Mapping[str, Any]] = {}
    for one in objects_in(config) if container.age == 3 else layers_in(config):
        registered = str(one["config"] if _is_function(one) else one.get("registered_name") or one["class_name"])
        if not _is_known(one, given, container.age):
            unknown.setdefault(registered, one)
    made = {name: make_stand_in(one) for name, one in unknown.items()}
    missing = sorted(name for name, stand_in in made.items() if stand_in is None)
    if missing:
        raise ModelRefused(
            f"{container.path} uses classes or functions that are not part of Keras: {', '.join(missing)}.",
            wanted="the module of each class or function, because the model file does not contain its code",
            next_step=f"add --custom-objects 'MODULE:{missing[0].split('>')[-1]}'; MODULE is a module name or .py file",
        )
    return {name: stand_in for name, stand_in in made.items() if stand_in is not None}


def _is_known(one: Mapping[str, Any], given: Mapping[str, Any], age: int) -> bool:
    """Whether the class of a serialized object, or a serialized function, is given, registered, or part of Keras."""
    import keras

    name = str(one["class_name"])
    if age < 3:
        return is_known(one, given)
    if _is_function(one):
        name = str(one["config"])
        registered = str(one.get("registered_name"))
        if name in given or registered in given or keras.saving.get_registered_object(registered) is not None:
            return True
        return any(hasattr(module, name) for module in (keras.activations, keras.losses, keras.metrics))
    registered = one.get("registered_name") or name
    if name in given or registered in given or keras.saving.get_registered_object(registered) is not None:
        return True
    if "module" in one:
        module = one["module"] or ""
        return module == "builtins" or module == "keras" or module.startswith("keras.")
    return hasattr(keras.layers, name) or not isinstance(one.get("config"), dict) or "rate" not in one["config"]


def _is_known_data(one: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether a serialized object of Keras 3 is known, and contains no code."""
    return one["class_name"] != "__lambda__" and _is_known(one, given, 3)


def _is_function(one: Mapping[str, Any]) -> bool:
    """Whether a serialized object is a function, which Keras 3 stores by its name."""
    return one["class_name"] == "function" and isinstance(one.get("config"), str)


def make_stand_in(described: Mapping[str, Any]) -> Any | None:
    """A subclass of the Keras dropout layer that the class name denotes; None if the name denotes no dropout layer.

    Args:
        described: `class_name` and `config` of the layer. The result is None for a config without a rate, and for a
            config with settings that the Keras layer does not have, because the class may use these settings in code of
            its own.
    """
    import keras

    name = str(described["class_name"]).split(">")[-1]
    match = _NAME.fullmatch(name)
    config = described.get("config")
    if match is None or not isinstance(config, dict):
        return None
    family = (match["family"] or "").capitalize()
    if (family == "Spatial") != bool(match["axes"]):
        return None
    parent = getattr(keras.layers, f"{family}Dropout{(match['axes'] or '').upper()}")
    own = set(parent(0.5).get_config()) | {"name", "trainable", "dtype", "noise_shape", "seed"}
    if "rate" not in config or not set(config) <= own:
        return None
    if family == "Spatial":
        return type(name, (parent,), {"__module__": __name__, "from_config": classmethod(_without_trainable)})
    return type(name, (parent,), {"__module__": __name__})


def _without_trainable(kind: Any, config: Mapping[str, Any]) -> Any:
    """The layer with this configuration except `trainable`, which SpatialDropout rejects but a subclass may save."""
    return kind(**{key: value for key, value in config.items() if key != "trainable"})
