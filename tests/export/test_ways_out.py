"""Refusals whose next step is a change of a layer: the changed model can be exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.errors import ModelRefused
from export.exporter import export_model

Apply = Callable[[Any, Any, Any, Any], Any]
"""Function from Keras, a dropout layer, images `[N, 8, 8, 3]` and the argument `training` to values."""


def flat(keras: Any, x: Any) -> Any:
    return keras.ops.reshape(x, (-1, 192))


def unconverted(keras: Any, drop: Any, x: Any, _training: Any) -> Any:
    import tensorflow as tf

    return tf.math.lgamma(1.5 + drop(flat(keras, x)))


def of_any_size(keras: Any, drop: Any, x: Any, _training: Any) -> Any:
    import tensorflow as tf

    patches = tf.reshape(x, tf.stack([tf.shape(x)[0], -1, tf.shape(x)[3] * 8]))  # 8 patches, unknown to TensorFlow
    return keras.ops.mean(drop(patches), axis=1)


def in_loop(keras: Any, drop: Any, x: Any, _training: Any) -> Any:
    import tensorflow as tf

    return tf.map_fn(tf.nn.softplus, drop(flat(keras, x)))


WAYS_OUT: dict[str, tuple[Apply, Apply, str, str]] = {
    "a condition": (
        lambda keras, drop, x, training: drop(flat(keras, x)) if training else flat(keras, x),
        lambda keras, drop, x, training: drop(flat(keras, x)),
        "calls dropout layers only if `training` is true",
        "call these layers without the condition",
    ),
    "a dropout that is not used": (
        lambda keras, drop, x, training: (drop(flat(keras, x)), flat(keras, x))[1],
        lambda keras, drop, x, training: drop(flat(keras, x)),
        "but its ONNX graph has 0",
        "check that the output of the model depends on the dropout layers",
    ),
    "a cast": (
        lambda keras, drop, x, training: drop(keras.ops.cast(flat(keras, x), "float16")),
        lambda keras, drop, x, training: drop(flat(keras, x)),
        "has an input of type float16",
        "remove the cast before this layer",
    ),
    "an unknown shape": (
        of_any_size,
        lambda keras, drop, x, training: keras.ops.mean(drop(keras.ops.reshape(x, (-1, 8, 24))), axis=1),
        "has an input of unknown shape",
        "the layers before this one fixed output shapes",
    ),
    "an unknown operation": (
        unconverted,
        lambda keras, drop, x, training: keras.ops.softplus(1.5 + drop(flat(keras, x))),
        "Lgamma",
        "replace the layer",
    ),
    "a loop": (
        in_loop,
        lambda keras, drop, x, training: keras.ops.softplus(drop(flat(keras, x))),
        "has loops or branches in its ONNX graph",
        "use operations on whole tensors",
    ),
}


def build(keras: Any, apply: Apply) -> Any:
    """A model with a layer of its own before the last one."""

    class Own(keras.layers.Layer):  # type: ignore[misc]
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.drop = keras.layers.Dropout(0.3, dtype="float32", autocast=False)

        def call(self, inputs: Any, training: Any = None) -> Any:
            return keras.ops.cast(apply(keras, self.drop, inputs, training), "float32")

        def compute_output_shape(self, shape: Any) -> Any:
            return (shape[0], 24 if apply in WAYS_OUT["an unknown shape"][:2] else 192)

    image = keras.Input((8, 8, 3))
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(Own(name="own")(image)))


@pytest.mark.parametrize("name", WAYS_OUT)
def test_the_model_exports_after_the_change_that_the_error_names(keras: Any, name: str, tmp_path: Path) -> None:
    wrong, changed, found, step = WAYS_OUT[name]
    with pytest.raises(ModelRefused) as caught:
        export_model(build(keras, wrong), tmp_path / "m.onnx", scale=1 / 255)
    assert found in str(caught.value)
    assert step in str(caught.value).partition("next:")[2]
    assert list(tmp_path.iterdir()) == []
    assert len(export_model(build(keras, changed), tmp_path / "m.onnx", scale=1 / 255).sites) == 1
