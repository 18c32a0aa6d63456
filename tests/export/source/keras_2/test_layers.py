"""Settings of layers: settings without effect are left out, and unknown settings with an effect are refused by name."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.errors import ModelRefused
from export.source.keras_2.layers import make_layer, plain
from export.source.load import load_model
from tests.export import keras_2
from tests.export.family import import_keras_2
from tests.export.folders import save_folder
from tests.export.source.test_saved_model import make_net


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


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "folder"])
def test_the_advice_for_a_setting_with_an_effect_ends_in_a_model(
    keras: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(library: Any, **settings: Any) -> Any:
        layers = library.layers
        image = library.Input((6, 6, 1))
        x = layers.GRU(5, name="rows", **settings)(layers.Reshape((6, 6))(image))
        return library.Model(image, layers.Dense(4, activation="softmax")(layers.Dropout(0.3)(x)))

    model = keras_2.made(partial(build, time_major=True))
    path = save_folder(model, tmp_path / name) if name == "folder" else keras_2.save(model, tmp_path / name)
    with pytest.raises(ModelRefused, match="has the setting time_major=True") as refused:
        load_model(path)
    again = build(import_keras_2())
    weights = path / "variables" / "variables" if path.is_dir() else path
    keras_2.follow(str(refused.value), tmp_path, monkeypatch, model=again, FILE=weights)
    keras_2.check(again, tmp_path / "rebuilt.h5")


def test_a_class_in_a_keras_file_of_keras_2_is_refused_with_a_way_to_its_weights(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, images = make_net(import_keras_2()), np.zeros((1, 4, 4, 3), np.float32)
    model = kind()
    model(images)
    kind.get_config = lambda _model: {"units": 5}
    model.save(tmp_path / "net.keras")
    with pytest.raises(ModelRefused, match="is of the class Net") as refused:
        load_model(tmp_path / "net.keras")
    again = make_net(keras)()
    again(images)
    monkeypatch.setattr(type(again), "get_config", lambda _model: {"units": 5})
    keras_2.follow(str(refused.value), tmp_path, monkeypatch, model=again, FILE=tmp_path / "net.keras")
    loaded = load_model(tmp_path / "rebuilt.keras", custom_objects={"Net": make_net(keras)})
    assert len(loaded.sites) == 1
    np.testing.assert_array_equal(again.blocks[0].kernel, model.blocks[0].kernel)


def test_unknown_classes_and_activations_are_refused_by_name(keras: Any) -> None:
    with pytest.raises(ModelRefused, match="uses the class LocallyConnected2D, which is not part of Keras"):
        made("LocallyConnected2D", filters=2)
    with pytest.raises(ModelRefused, match="uses the activation my_function, which is not part of Keras"):
        made("Dense", units=2, activation="my_function")


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
@pytest.mark.parametrize("version", [2, 3])
def test_classes_of_applications_are_known(keras: Any, version: int, name: str, tmp_path: Path) -> None:
    """InceptionResNetV2 has a class of its own, which has no public name."""

    def build(library: Any) -> Any:
        inner = "tf_keras.src.applications" if version == 2 else "keras.src.applications"
        kind = import_module(f"{inner}.inception_resnet_v2").CustomScaleLayer
        layers = library.layers
        image = library.Input((8, 8, 3))
        x = kind(0.2)([layers.Conv2D(6, 3, padding="same")(image), layers.Conv2D(6, 1)(image)])
        x = layers.Dropout(0.3)(layers.Flatten()(x))
        return library.Model(image, layers.Dense(4, activation="softmax")(x))

    if version == 2:
        model = keras_2.made(build)
        keras_2.check(model, keras_2.save(model, tmp_path / name))
    else:
        build(keras).save(tmp_path / name)
        assert load_model(tmp_path / name).classes == 4


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
