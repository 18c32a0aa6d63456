"""Load models from one file or two: the weights that belong to a configuration, and what is refused first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from export.errors import ModelRefused, OptionRefused
from export.source.load import load_model
from export.source.network import KerasNetwork
from export.source.stochastic import keep_identity
from tests.agreement import assert_close_to_scale
from tests.export import family, keras_2


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5", "whole.h5", "whole.keras", "w"])
def test_a_configuration_of_keras_2_takes_its_weights_from_a_second_file(keras: Any, name: str, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.shared_models)
    (tmp_path / "model.json").write_text(model.to_json())
    weights = tmp_path / name
    if name.startswith("whole"):
        keras_2.save(model, weights)
    else:
        model.save_weights(weights if "." in name else tmp_path / "w.h5")
    if name == "w":
        (tmp_path / "w.h5").rename(weights)
    keras_2.check(model, tmp_path / "model.json", weights=weights)


@pytest.mark.parametrize("build", [family.nested, keras_2.tiles])
@pytest.mark.parametrize("name", ["w.weights.h5", "whole.h5", "whole.keras", "w"])
def test_a_configuration_of_keras_3_takes_its_weights_from_a_second_file(
    keras: Any, build: Callable[[Any], Any], name: str, tmp_path: Path
) -> None:
    keras.backend.clear_session()
    model = build(keras)
    (tmp_path / "model.json").write_text(model.to_json())
    weights = tmp_path / name
    if name.startswith("whole"):
        model.save(weights)
    else:
        model.save_weights(tmp_path / "w.weights.h5")
    if name == "w":
        (tmp_path / "w.weights.h5").rename(weights)
    source = load_model(tmp_path / "model.json", weights=weights)
    rows = np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)
    assert_close_to_scale(np.asarray(source.network.forward(rows, keep_identity)), np.asarray(model(rows)), 1e-6)


def test_the_digest_covers_both_files(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    (tmp_path / "model.json").write_text(model.to_json())
    digests = set()
    for name in ("one.h5", "two.h5"):
        model.save_weights(tmp_path / name)
        digests.add(load_model(tmp_path / "model.json", weights=tmp_path / name).digest)
        model.layers[-1].bias.assign_add(np.ones(4, np.float32))
    assert len(digests) == 2


def test_missing_and_superfluous_weights_are_refused(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    (tmp_path / "model.json").write_text(model.to_json())
    whole = keras_2.save(model, tmp_path / "whole.h5")
    with pytest.raises(OptionRefused, match="contains the layers of the model, but no weights"):
        load_model(tmp_path / "model.json")
    with pytest.raises(OptionRefused, match="contains weights of its own"):
        load_model(whole, weights=whole)
    with pytest.raises(ModelRefused, match="The file of weights"):
        load_model(tmp_path / "model.json", weights=tmp_path / "none.h5")
    pointer = tmp_path / "pointer.h5"
    pointer.write_text("version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ModelRefused, match="is a Git LFS pointer"):
        load_model(tmp_path / "model.json", weights=pointer)


def test_weights_of_another_model_are_refused_with_both_lists(keras: Any, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.classifier)
    (tmp_path / "model.json").write_text(model.to_json())
    other = keras_2.made(keras_2.shared_models)
    other.save_weights(tmp_path / "other.h5")
    with pytest.raises(ModelRefused) as caught:
        load_model(tmp_path / "model.json", weights=tmp_path / "other.h5")
    in_file, _, in_model = str(caught.value).partition("Weights of the model that were not matched:")
    assert "head/dense" in in_file
    assert "batch_normalization/gamma (6,)" in in_model


@pytest.mark.parametrize("change", ["shape", "name", "missing", "extra"])
def test_one_weight_that_does_not_fit_is_named(keras: Any, change: str, tmp_path: Path) -> None:
    path = keras_2.save(keras_2.made(keras_2.teachable_machine), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        groups = [one for one in file["model_weights"].values() if any("depth" in n for n in one.attrs["weight_names"])]
        names = [*groups[0].attrs["weight_names"]]
        name = next(one for one in names if "depthwise_kernel" in one)
        if change == "shape":
            value = groups[0][name][()]
            del groups[0][name]
            groups[0][name] = value[:2]
        elif change == "name":
            groups[0][name.replace("depthwise_kernel", "weight")] = groups[0][name][()]
            names[names.index(name)] = name.replace("depthwise_kernel", "weight")
        elif change == "missing":
            names.remove(name)
        else:
            groups[0]["more/depthwise_kernel:0"] = groups[0][name][()]
            names.append("more/depthwise_kernel:0")
        groups[0].attrs["weight_names"] = names
    with pytest.raises(ModelRefused, match="do not fit the layers of the model") as caught:
        load_model(path)
    assert {"shape": "(2, 3, 8, 1)", "name": "/weight:0", "missing": "depthwise_kernel", "extra": "more/"}[
        change
    ] in str(caught.value)


def test_a_model_without_dropout_is_refused_for_that_before_its_weights_are_read(keras: Any, tmp_path: Path) -> None:
    library = family.import_keras_2()
    head = library.Sequential([library.layers.Flatten(), library.layers.Dense(3)])
    path = keras_2.save(library.Sequential([library.Input((8, 8, 3)), head]), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        del file["model_weights"]
    with pytest.raises(ModelRefused, match="has no active dropout"):
        load_model(path)


def test_the_stand_in_for_a_dropout_class_of_keras_2_is_active(keras: Any, tmp_path: Path) -> None:
    library = family.import_keras_2()

    class FixedDropout(library.layers.Dropout):  # type: ignore[misc, name-defined]
        """The dropout layer of the package `efficientnet`."""

    class MCSpatialDropout2D(library.layers.SpatialDropout2D):  # type: ignore[misc, name-defined]
        def call(self, inputs: Any) -> Any:
            return super().call(inputs, training=True)

    layers = library.layers
    image = library.Input((8, 8, 3))
    x = MCSpatialDropout2D(0.2)(layers.Conv2D(4, 3)(image))
    x = FixedDropout(0.3, noise_shape=(None, 1))(layers.Flatten()(x))
    path = keras_2.save(library.Model(image, layers.Dense(3, activation="softmax")(x)), tmp_path / "model.h5")
    source = load_model(path)
    assert isinstance(source.network, KerasNetwork)
    assert [(one.path, one.rate) for one in source.network.kept] == [
        ("mc_spatial_dropout2d", 0.2),
        ("fixed_dropout", 0.3),
    ]
    assert len(source.notices) == 2
