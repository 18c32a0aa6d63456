"""Stand-ins for classes that a file names and this Keras does not have as they were.

First for the dropout that half the tutorials define, always on and otherwise Keras' own:

    class MCDropout(keras.layers.Dropout):
        def call(self, inputs):
            return super().call(inputs, training=True)

In: how a file describes a layer of a class that it does not hold. Out: a class to load it with, or
None. A model that was saved with such a class cannot be loaded elsewhere without it, although
nothing is in it that an export needs. Then for layers of Keras 2 with settings that Keras 3 has no
more: half of the networks of `keras.applications` have them.
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
    """A subclass of the Keras layer that the name means; None where that is not plain.

    Args:
        described: `class_name` and `config` of the layer. Its settings must be just those of the
            Keras layer: one more, and the class does something of its own.
    """
    import keras

    name = str(described["class_name"]).split(">")[-1]
    found = _NAME.fullmatch(name)
    config = described.get("config")
    if found is None or not isinstance(config, dict):
        return None
    family = (found["family"] or "").capitalize()
    if (family == "Spatial") != bool(found["axes"]):
        return None
    parent = getattr(keras.layers, f"{family}Dropout{(found['axes'] or '').upper()}")
    own = set(parent(0.5).get_config()) | {"name", "trainable", "dtype", "noise_shape", "seed"}
    if "rate" not in config or not set(config) <= own:
        return None
    if family == "Spatial":
        return type(name, (parent,), {"__module__": __name__, "from_config": classmethod(_without_trainable)})
    return type(name, (parent,), {"__module__": __name__})


def _without_trainable(kind: Any, config: Mapping[str, Any]) -> Any:
    """SpatialDropout takes no `trainable`, but a subclass of it may have saved one."""
    return kind(**{key: value for key, value in config.items() if key != "trainable"})


_NO_LONGER = {
    "groups": (1,),
    "noise_shape": (None,),
    "time_major": (False,),
    "kernel_initializer": None,
    "kernel_regularizer": None,
    "kernel_constraint": None,
    "trainable": None,
}
"""Settings of these layers that only Keras 2 has, with the values at which they mean nothing (None: all of them)."""

_CHANGED = {
    *("DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D"),
    *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("GRU", "LSTM", "SimpleRNN"),
}


def layers_of_keras_2(described: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Classes, by name, for layers that Keras 2 saved with settings that Keras 3 has no more.

    Args:
        described: how a file describes its layers.
    """
    import keras

    names = {one["class_name"] for one in described if "module" not in one}  # which Keras 3 always writes
    return {
        name: type(name, (getattr(keras.layers, name),), {"from_config": classmethod(_without_old_settings)})
        for name in names & _CHANGED
    }


def _without_old_settings(kind: Any, config: Mapping[str, Any]) -> Any:
    def means_something(key: str) -> bool:
        idle = _NO_LONGER.get(key, ())
        return idle is not None and config[key] not in idle

    return kind(**{key: config[key] for key in config if means_something(key)})
