"""Settings of layers: what has no effect is left out, and what has an effect is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.errors import ModelRefused
from export.source.keras_2.layers import make_layer, plain


def made(kind: str, **config: Any) -> Any:
    return make_layer({"class_name": kind, "config": config}, {}, unsafe=False)


def test_settings_without_effect_are_left_out(keras: Any) -> None:
    layer = made(
        "DepthwiseConv2D",
        name="conv",
        kernel_size=[3, 3],
        groups=1,
        trainable=True,
        depthwise_initializer={"class_name": "Unknown", "config": {}},
        bias_regularizer={"class_name": "Unknown", "config": {}},
        batch_input_shape=[None, 8, 8, 3],
    )
    assert (layer.name, layer.kernel_size) == ("conv", (3, 3))
    assert made("BatchNormalizationV1", axis=[3], fused=True, virtual_batch_size=None).axis == 3
    assert made("LeakyReLU", alpha=0.25).negative_slope == 0.25


@pytest.mark.parametrize(
    ("kind", "settings", "found"),
    [
        ("LSTM", {"units": 2, "time_major": True}, "time_major=True"),
        ("DepthwiseConv2D", {"kernel_size": 3, "groups": 2}, "groups=2"),
        ("SpatialDropout2D", {"rate": 0.1, "noise_shape": [1, 2]}, "noise_shape=[1, 2]"),
        ("Dense", {"units": 2, "new_setting": 1}, "new_setting=1"),
    ],
)
def test_a_setting_with_an_effect_is_refused_by_name(
    keras: Any, kind: str, settings: dict[str, Any], found: str
) -> None:
    with pytest.raises(ModelRefused) as caught:
        made(kind, **settings)
    assert f"({kind}) has the setting {found}" in str(caught.value)


def test_unknown_classes_and_activations_are_refused_by_name(keras: Any) -> None:
    with pytest.raises(ModelRefused, match="uses the class LocallyConnected2D, which is not part of Keras"):
        made("LocallyConnected2D", filters=2)
    with pytest.raises(ModelRefused, match="uses the activation my_function, which is not part of Keras"):
        made("Dense", units=2, activation="my_function")


def test_layers_that_run_other_code_are_unknown(keras: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="uses the class TFSMLayer"):
        made("TFSMLayer", filepath=str(tmp_path))
    with pytest.raises(ModelRefused, match="uses the class TorchModuleWrapper"):
        made("TorchModuleWrapper", module="code")


def test_wrappers_of_plain_data_are_removed() -> None:
    stored = {
        "a": {"class_name": "__tuple__", "items": [1, {"class_name": "__tuple__", "items": [2]}]},
        "b": {"class_name": "__numpy__", "config": {"value": [1.0], "dtype": "float32"}},
        "c": {"class_name": "function", "config": "relu6", "module": "builtins"},
        "d": [{"type": "float32", "value": 0.5}],
    }
    assert plain(stored) == {"a": [1, [2]], "b": [1.0], "c": "relu6", "d": [0.5]}
