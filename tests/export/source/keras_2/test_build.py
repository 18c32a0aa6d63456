"""Models of all versions of Keras 2, from `.h5` and `.keras` files, compared with their own outputs in Keras 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.source.load import load_model
from export.source.network import KerasNetwork
from export.source.stochastic import keep_identity
from tests.agreement import assert_close_to_scale
from tests.export import keras_2
from tests.export.family import import_keras_2

BUILDS = (
    keras_2.classifier,
    keras_2.teachable_machine,
    keras_2.transfer_learning,
    keras_2.shared_models,
    keras_2.sequences,
    keras_2.operations,
    keras_2.activations,
    keras_2.augmented,
)


def without_last_activation(model: Any) -> Any:
    """The model, changed in place to return the values before its last softmax."""
    last = model
    while getattr(last, "layers", None):
        last = last.layers[-1]
    assert last.activation.__name__.startswith("softmax")
    last.activation = lambda logits: logits
    return model


def check(model: Any, path: Path, **options: Any) -> None:
    """Compare a loaded file with the model of Keras 2 that it contains, before the last activation."""
    source = load_model(path, **options)
    assert isinstance(source.network, KerasNetwork)
    largest = 255.0 if source.scales_itself else 1.0
    rows = largest * np.random.default_rng(0).random((4, *model.input_shape[1:])).astype(np.float32)
    without_last_activation(source.network.model)
    expected = np.asarray(without_last_activation(model)(rows, training=False))
    assert_close_to_scale(np.asarray(source.network.forward(rows, keep_identity)), expected, tolerance=1e-5)
    assert 0.05 < np.abs(expected).max() < 30
    assert np.ptp(expected, axis=0).max() > 0.01 * np.abs(expected).max()


def made(build: Callable[[Any], Any]) -> Any:
    library = import_keras_2()
    library.backend.clear_session()
    return keras_2.randomized(build(library))


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_a_model_of_keras_2_says_what_it_said_there(
    keras: Any, build: Callable[[Any], Any], name: str, tmp_path: Path
) -> None:
    model = made(build)
    check(model, keras_2.save(model, tmp_path / name))


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
        (keras_2.odd_names, []),
        (keras_2.few_operations, [keras_2.as_tensorflow_2_3]),
    ],
)
def test_a_model_with_traits_of_older_versions_says_the_same(
    keras: Any, build: Callable[[Any], Any], changes: list[Callable[[Path], None]], tmp_path: Path
) -> None:
    model = made(build)
    path = keras_2.save(model, tmp_path / "model.h5")
    for change in changes:
        change(path)
    check(model, path)


@pytest.mark.parametrize("build", [keras_2.classifier, keras_2.teachable_machine, keras_2.sequences])
@pytest.mark.parametrize("change", [keras_2.as_keras_2_13, keras_2.as_keras_2_13_on_windows])
def test_weights_of_keras_2_13_are_found_by_class_and_order(
    keras: Any, build: Callable[[Any], Any], change: Callable[[Path], None], tmp_path: Path
) -> None:
    model = made(build)
    path = keras_2.save(model, tmp_path / "model.keras")
    change(path)
    check(model, path)
