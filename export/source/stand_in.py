"""Replacement classes for dropout layers whose class is not part of Keras.

In: the configuration of a layer in a file. Out: a class with which Keras can load the layer, or None. Many tutorials
define a dropout class that is always active:

    class MCDropout(keras.layers.Dropout):
        def call(self, inputs):
            return super().call(inputs, training=True)

Without the code of this class, Keras cannot load the model, but the export does not need the code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NAME = re.compile(
    r"(?:MC|Monte_?Carlo|Permanent|Always_?On|Fixed)_?(?P<family>Alpha|Gaussian|Spatial)?_?Drop_?out(?P<axes>[123]D)?"
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
