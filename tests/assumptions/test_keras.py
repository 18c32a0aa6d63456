"""Facts about Keras and tf2onnx on which the export is based."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.graph.convert import _quiet
from tests.agreement import assert_close_to_scale


def dropout_model(keras: Any) -> Any:
    image = keras.Input((8,))
    x = keras.layers.Dropout(0.5, name="drop")(image, training=True)
    return keras.Model(image, keras.layers.Dense(2)(x))


def test_from_keras_drops_every_dropout_without_a_word(keras: Any) -> None:
    """Why sites are marked before the conversion (tensorflow-onnx issue 1845)."""
    import tensorflow as tf
    import tf2onnx

    model = dropout_model(keras)
    assert np.any(np.asarray(model(np.ones((1, 8)))) != np.asarray(model(np.ones((1, 8)))))
    with _quiet(), warnings.catch_warnings(record=True) as caught:
        proto, _ = tf2onnx.convert.from_keras(model, [tf.TensorSpec([None, 8])], opset=18)
    kinds = {node.op_type for node in proto.graph.node}
    assert not kinds & {"Dropout", "RandomUniform", "RandomUniformLike"}
    assert not [warning for warning in caught if "ropout" in str(warning.message)]


def test_from_function_leaves_a_tensorflow_operator_in_the_file(keras: Any) -> None:
    """tensorflow-onnx issues 2372 and 2395."""
    import tensorflow as tf
    import tf2onnx

    model = dropout_model(keras)
    with _quiet():
        proto, _ = tf2onnx.convert.from_function(tf.function(lambda x: model(x)), [tf.TensorSpec([None, 8])], opset=18)
    assert any("Stateless" in node.op_type for node in proto.graph.node)


def test_a_dropout_of_old_random_numbers_becomes_one_that_does_nothing() -> None:
    """Why tf2onnx never converts noise (tensorflow-onnx issue 1845): it writes a Dropout without `training_mode`."""
    import tensorflow as tf
    import tf2onnx

    def drop(x: Any) -> Any:
        uniform = tf.raw_ops.RandomUniform(shape=tf.shape(x), dtype=tf.float32)
        return (x * 2.0) * tf.cast(uniform >= 0.5, tf.float32) + 1.0

    with _quiet():
        proto, _ = tf2onnx.convert.from_function(tf.function(drop), [tf.TensorSpec([4, 3])], opset=18)
    (dropout,) = (node for node in proto.graph.node if "Random" in node.op_type or node.op_type == "Dropout")
    assert dropout.op_type == "Dropout"
    assert len(dropout.input) < 3


def test_training_false_reaches_layers_that_were_built_with_training_true(keras: Any) -> None:
    """Why BatchNormalization is in inference mode in the trace, even if the model was built with `training=True`."""
    image = keras.Input((4,))
    model = keras.Model(image, keras.layers.BatchNormalization()(image, training=True))
    rows = np.random.default_rng(0).random((6, 4)).astype(np.float32)
    together = np.asarray(model(rows, training=False))
    alone = np.concatenate([np.asarray(model(rows[index : index + 1], training=False)) for index in range(6)])
    assert_close_to_scale(together, alone, 1e-6)


def test_a_dropout_layer_does_not_know_its_path(keras: Any) -> None:
    """Why `export.source.describe` computes the paths of layers itself."""
    layer = keras.layers.Dropout(0.5, name="drop")
    keras.Sequential([keras.Input((4,)), layer], name="outer")
    assert layer.path is None


def test_spatial_dropouts_have_one_parent_with_a_noise_shape(keras: Any) -> None:
    parents = {
        getattr(keras.layers, name).__mro__[1] for name in ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D")
    }
    assert len(parents) == 1
    assert hasattr(keras.layers.SpatialDropout2D(0.5), "_get_noise_shape")


def test_predict_silences_a_dropout_that_was_built_with_training_true(keras: Any) -> None:
    """The article's loop in Keras 3: `predict` calls the model with `training=False`, which overrides the layers."""
    model = dropout_model(keras)
    rows = np.ones((4, 8), np.float32)
    np.testing.assert_array_equal(model.predict(rows, verbose=0), model.predict(rows, verbose=0))
    assert np.any(np.asarray(model(rows)) != np.asarray(model(rows)))


def test_tf2onnx_can_be_told_how_transposes_pass_a_node() -> None:
    """The part of tf2onnx that `export.graph.transposes` extends, so that no transposes stay around a site."""
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    optimizer = TransposeOptimizer()
    assert optimizer._handler_map["Relu"] == optimizer._simple_through_handler
    assert callable(optimizer._switch_transpose_and_node)


def test_the_noise_of_every_layer_is_in_the_call_of_its_class(keras: Any) -> None:
    """Why a replacement of `call` in these classes is enough: a subclass that calls its parent calls it."""
    from export.source.noise import noise_classes

    assert all("call" in vars(kind) for kind in noise_classes())
    for name in ("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"):
        assert "call" not in vars(getattr(keras.layers, name))


def test_a_mark_survives_tensorflow_and_carries_its_text(keras: Any) -> None:
    """Why sites are marked by CheckNumerics: it returns its tensor and is not optimised away."""
    import tensorflow as tf
    import tf2onnx

    seen: list[str] = []

    def handler(_context: Any, node: Any, _name: str, _args: Any) -> None:
        seen.append(node.get_attr_str("message"))
        for attribute in list(node.attr):
            del node.attr[attribute]
        node.type = "Identity"

    function = tf.function(lambda x: tf.raw_ops.CheckNumerics(tensor=x * 2.0, message="here") + 1.0)
    with _quiet():
        tf2onnx.convert.from_function(
            function, [tf.TensorSpec([None, 3])], opset=18, custom_op_handlers={"CheckNumerics": (handler, [])}
        )
    assert seen == ["here"]


def test_the_statistics_of_a_normalization_are_captured_as_inputs_without_a_source(keras: Any) -> None:
    """Why `export.graph.convert` replaces captured inputs by their values."""
    import tensorflow as tf
    import tf2onnx

    image = keras.Input((4, 4, 3))
    norm = keras.layers.Normalization(mean=np.array([0.1, 0.2, 0.3]), variance=np.array([1.0, 2.0, 3.0]))
    model = keras.Model(image, norm(image))
    with _quiet():
        proto, _ = tf2onnx.convert.from_function(
            tf.function(lambda x: model(x, training=False)), [tf.TensorSpec([None, 4, 4, 3])], opset=18
        )
    assert len(proto.graph.input) > 1


def test_tf2onnx_does_not_know_the_exact_gelu(keras: Any) -> None:
    """Why `export.graph.convert` has a handler for Erfc."""
    import tensorflow as tf
    import tf2onnx

    function = tf.function(lambda x: keras.activations.gelu(x, approximate=False))
    with _quiet():
        proto, _ = tf2onnx.convert.from_function(function, [tf.TensorSpec([None, 3])], opset=18)
    assert any(node.op_type == "Erfc" for node in proto.graph.node)


def test_keras_3_has_what_reads_the_configurations_of_keras_2() -> None:
    """The private functions of Keras that `export.source.saved_model` uses."""
    from keras.src.legacy.saving import json_utils, saving_options, saving_utils
    from keras.src.saving.serialization_lib import SafeModeScope

    assert json_utils.decode('{"a": {"class_name": "__tuple__", "items": [1, 2]}}') == {"a": (1, 2)}
    assert all(callable(one) for one in (saving_utils.model_from_config, SafeModeScope))
    assert callable(saving_options.keras_option_scope)


def test_keras_3_does_not_know_settings_that_keras_2_saved(keras: Any) -> None:
    """Why `export.source.stand_in` removes some settings; if this fails, that module can be simpler."""
    layers = keras.layers
    refused: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
        (layers.DepthwiseConv2D, (3,), {"groups": 1}),
        (layers.SeparableConv2D, (4, 3), {"groups": 1}),
        (layers.SpatialDropout2D, (0.5,), {"trainable": True}),
        (layers.LSTM, (4,), {"time_major": False}),
    ]
    for kind, arguments, setting in refused:
        with pytest.raises((TypeError, ValueError), match=next(iter(setting))):
            kind(*arguments, **setting)


def test_the_functions_that_keras_exports_have_no_dropout_left(keras: Any, tmp_path: Path) -> None:
    """Why SavedModel folders of `model.export` are refused."""
    import tensorflow as tf

    image = keras.Input((8,))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(image)))
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    rows = np.ones((4, 8), np.float32)
    np.testing.assert_array_equal(served.serve(rows), served.serve(rows))
    assert not (tmp_path / "saved" / "keras_metadata.pb").exists()
