"""Models of all versions of Keras 2, from `.h5` and `.keras` files, compared with their own outputs in Keras 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.export import keras_2

BUILDS = (
    keras_2.classifier,
    keras_2.teachable_machine,
    keras_2.transfer_learning,
    keras_2.shared_models,
    keras_2.sequences,
    keras_2.tiles,
    keras_2.recurrent,
    keras_2.operations,
    keras_2.activations,
    keras_2.augmented,
    keras_2.losses_within,
)


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_a_model_of_keras_2_says_what_it_said_there(
    keras: Any, build: Callable[[Any], Any], name: str, tmp_path: Path
) -> None:
    model = keras_2.made(build)
    keras_2.check(model, keras_2.save(model, tmp_path / name))


@pytest.mark.parametrize(
    ("build", "changes"),
    [
        (keras_2.classifier, [keras_2.as_tensorflow_2_0]),
        (keras_2.classifier, [keras_2.as_keras_2_1]),
        (keras_2.teachable_machine, [keras_2.as_tensorflow_2_0]),
        (keras_2.teachable_machine, [keras_2.as_keras_2_1, keras_2.with_numbered_weights]),
        (keras_2.shared_models, [keras_2.as_keras_2_1]),
        (keras_2.shared_models, [keras_2.as_tensorflow_2_0, keras_2.with_numbered_weights]),
        (keras_2.sequences, [keras_2.with_numbered_weights]),
        (keras_2.tiles, [keras_2.as_keras_2_1]),
        (keras_2.tiles, [keras_2.as_tensorflow_2_0, keras_2.with_numbered_weights]),
        (keras_2.recurrent, [keras_2.as_keras_2_1]),
        (keras_2.odd_names, []),
        (keras_2.few_operations, [keras_2.as_tensorflow_2_3]),
    ],
)
def test_a_model_with_traits_of_older_versions_says_the_same(
    keras: Any, build: Callable[[Any], Any], changes: list[Callable[[Path], None]], tmp_path: Path
) -> None:
    model = keras_2.made(build)
    path = keras_2.save(model, tmp_path / "model.h5")
    for change in changes:
        change(path)
    keras_2.check(model, path)


@pytest.mark.parametrize("build", [keras_2.classifier, keras_2.teachable_machine, keras_2.sequences, keras_2.tiles])
@pytest.mark.parametrize("change", [keras_2.as_keras_2_13, keras_2.as_keras_2_13_on_windows])
def test_weights_of_keras_2_13_are_found_by_class_and_order(
    keras: Any, build: Callable[[Any], Any], change: Callable[[Path], None], tmp_path: Path
) -> None:
    model = keras_2.made(build)
    path = keras_2.save(model, tmp_path / "model.keras")
    change(path)
    keras_2.check(model, path)
