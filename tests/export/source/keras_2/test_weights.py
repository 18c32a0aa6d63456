"""Weights are matched by layer, name and shape, never by their order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import pytest

from export.errors import ModelRefused
from export.source.load import load_model
from tests.export import keras_2
from tests.export.family import import_keras_2


def test_renamed_layers_within_a_model_are_refused_and_the_advice_ends_in_the_same_model(
    keras: Any, tmp_path: Path
) -> None:
    """A layer that was renamed after its weights were made is saved with the old names of its weights."""
    model = keras_2.made(keras_2.shared_models)
    model.get_layer("head").layers[1]._name = "renamed"
    path = keras_2.save(model, tmp_path / "old.h5")
    with pytest.raises(ModelRefused) as caught:
        load_model(path)
    assert "head/renamed/kernel (864, 8)" in str(caught.value)
    assert "for Keras 2: pip install tf_keras" in str(caught.value)
    again = import_keras_2().models.load_model(path, compile=False)
    keras_2.check(model, keras_2.save(again, tmp_path / "new.h5"))


@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_the_order_of_the_weights_in_the_file_has_no_effect(keras: Any, name: str, tmp_path: Path) -> None:
    model = keras_2.made(keras_2.teachable_machine)
    path = keras_2.save(model, tmp_path / name)
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            for group in file["model_weights"].values():
                group.attrs["weight_names"] = group.attrs["weight_names"][::-1]
    keras_2.check(model, path)


def test_data_outside_the_file_is_refused_with_code_that_copies_it(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = keras_2.made(keras_2.classifier)
    path = keras_2.save(model, tmp_path / "model.h5")
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        dense = file["model_weights/dense"]
        other["kernel"] = dense["dense/kernel:0"][()]
        del dense["dense/kernel:0"]
        dense["dense/kernel:0"] = h5py.ExternalLink("other.h5", "kernel")
    with pytest.raises(ModelRefused, match="refer to data in another file") as refused:
        load_model(path)
    keras_2.follow(str(refused.value).replace(", where FILE is this file", ""), tmp_path, monkeypatch, FILE=path)
    keras_2.check(model, tmp_path / "copy.h5")
