"""Operations of TensorFlow in a file: known ones are called; others are refused, with a next step that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.errors import ModelRefused
from export.source.keras_2.operations import find_function
from export.source.load import load_model
from tests.export import keras_2


def described(function: str, kind: str = "TFOpLambda") -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": "layer", "function": function}}


@pytest.mark.parametrize(
    "function",
    [
        "io.write_file",
        "io.read_file",
        "py_function",
        "numpy_function",
        "load_op_library",
        "print",
        "math.__builtins__",
        "nn.relu.__globals__",
        "compat.v1.py_func",
        "compat.v1.Session",
        "math",
        "keras.models.load_model",
        "nn.no_such_function",
    ],
)
def test_functions_with_other_effects_are_refused_by_name(keras: Any, function: str) -> None:
    with pytest.raises(ModelRefused, match="calls the TensorFlow operation tf"):
        find_function(described(function))


@pytest.mark.parametrize(
    "node", [{"op": "WriteFile"}, {"op": "PyFunc"}, {"op": "Relu", "attr": {"x": {"i": 1}}}, "text"]
)
def test_nodes_with_other_effects_are_refused_by_name(keras: Any, node: Any) -> None:
    with pytest.raises(ModelRefused, match="calls the TensorFlow operation"):
        find_function({"class_name": "TensorFlowOpLayer", "config": {"name": "layer", "node_def": node}})


def test_an_index_is_rebuilt_from_plain_data(keras: Any) -> None:
    values = np.arange(24.0).reshape(2, 3, 4)
    function = find_function(described("__operators__.getitem", "SlicingOpLambda"))
    assert function is not None
    parts = [0, {"class_name": "__ellipsis__"}, None, {"start": None, "stop": None, "step": -1}]
    import tensorflow as tf

    assert np.array_equal(function(tf.constant(values), slice_spec=parts), values[0, ..., None, ::-1])


def test_the_advice_for_an_unknown_operation_ends_in_a_model(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(library: Any, *, transformed: bool = True) -> Any:
        import tensorflow as tf

        layers = library.layers
        image = library.Input((8, 8, 3))
        x = layers.Dense(6, name="first")(layers.Flatten()(image))
        x = tf.signal.dct(x) if transformed else x
        x = layers.Dropout(0.3)(x)
        return library.Model(image, layers.Dense(4, activation="softmax", name="last")(x))

    path = keras_2.save(keras_2.made(build), tmp_path / "old.h5")
    with pytest.raises(ModelRefused) as caught:
        load_model(path)
    assert "calls the TensorFlow operation tf.signal.dct" in str(caught.value)
    again = keras_2.made(lambda library: build(library, transformed=False))
    keras_2.follow(str(caught.value), tmp_path, monkeypatch, model=again, FILE=path)
    keras_2.check(again, tmp_path / "rebuilt.h5")
