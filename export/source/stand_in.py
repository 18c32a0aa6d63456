"""Replacement classes for layers that the installed Keras cannot load.

In: the configuration of a layer in a file. Out: a class with which Keras can load the layer, or
None. There are two cases.
The first is a subclass that many tutorials define, a dropout that is always active:

    class MCDropout(keras.layers.Dropout):
        def call(self, inputs):
            return super().call(inputs, training=True)

Without the code of this class, Keras cannot load the model, but the export does not need the code. The second case is
a layer that Keras 2 saved with settings that Keras 3 removed. Many networks of
`keras.applications` contain these layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_NAME = re.compile(
    r"(?:MC|Monte_?Carlo|Permanent|Always_?On)_?(?P<family>Alpha|Gaussian|Spatial)?_?Drop_?out(?P<axes>[123]D)?"
    r"(?:_?Layer)?",
    re.IGNORECASE,
)


def make_stand_in(described: Mapping[str, Any]) -> Any | None:
    """A subclass of the Keras dropout layer that the class name denotes; None if the name denotes no dropout layer.

    Args:
        described: `class_name` and `config` of the layer. For a config with settings that the Keras layer does not
            have, the result is None, because the class may use these settings in code of its own.
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
    """The layer with this configuration, less `trainable`: SpatialDropout rejects it, but a subclass may save it."""
    return kind(**{key: value for key, value in config.items() if key != "trainable"})


_REMOVED_SETTINGS = {
    "groups": (1,),
    "noise_shape": (None,),
    "time_major": (False,),
    "kernel_initializer": None,
    "kernel_regularizer": None,
    "kernel_constraint": None,
    "trainable": None,
}
"""Settings that Keras 3 removed, with the values at which they have no effect (None: any value)."""

_AFFECTED_LAYERS = {
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("GRU", "LSTM", "SimpleRNN"),
}
"""Layers from which Keras 3 removed settings."""


def layers_of_keras_2(described: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Classes by name for layers that Keras 2 saved with settings that Keras 3 removed.

    Args:
        described: configurations of the layers in a file.
    """
    import keras

    names = {one["class_name"] for one in described if "module" not in one}  # Keras 3 always writes `module`
    return {
        name: type(name, (getattr(keras.layers, name),), {"from_config": classmethod(_without_old_settings)})
        for name in names & _AFFECTED_LAYERS
    }


def _without_old_settings(kind: Any, config: Mapping[str, Any]) -> Any:
    """The layer with this configuration, less the removed settings that have no effect."""

    def has_effect(key: str) -> bool:
        idle = _REMOVED_SETTINGS.get(key, ())
        return idle is not None and config[key] not in idle

    return kind(**{key: config[key] for key in config if has_effect(key)})
