from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from export.errors import ModelRefused
from export.source.describe import describe_model
from export.source.load import load_model


def build(keras: Any, *middle: Any, shape: tuple[int, ...] = (8, 8, 1), last: Any = None) -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input(shape), layers.Flatten(), *middle, last or layers.Dense(3, activation="softmax")]
    )


def test_dropouts_are_found_in_nested_models_and_in_attention(keras: Any) -> None:
    layers = keras.layers
    inner = keras.Sequential([keras.Input((16,)), layers.Dropout(0.2, name="inner_drop"), layers.Dense(16)])
    x = image = keras.Input((4, 4, 1))
    x = layers.Reshape((4, 4))(x)
    x = layers.MultiHeadAttention(1, 4, dropout=0.1)(x, x)
    x = inner(layers.Flatten()(x))
    source = describe_model(keras.Model(image, layers.Dense(2, activation="softmax")(x)))
    names = source.sites
    assert names[0].startswith("multi_head_attention")
    assert names[0].count("/") == 1
    assert names[1] == f"{inner.name}/inner_drop"


def test_the_output_kind_is_read_off_the_last_layer(keras: Any) -> None:
    layers = keras.layers
    kinds = {
        "softmax": [layers.Dense(3, activation="softmax")],
        "sigmoid": [layers.Dense(3, activation="sigmoid")],
        "": [layers.Dense(3)],
    }
    for kind, (last,) in kinds.items():
        assert describe_model(build(keras, layers.Dropout(0.5), last=last)).output_kind == kind
    assert describe_model(build(keras, layers.Dropout(0.5), layers.Dense(3), last=layers.Softmax())).output_kind == (
        "softmax"
    )


def test_a_model_without_active_dropout_is_refused_and_says_what_was_looked_at(keras: Any) -> None:
    with pytest.raises(ModelRefused, match=r"no Dropout among 2 layers \(Dense, Flatten\)"):
        describe_model(build(keras))
    with pytest.raises(ModelRefused, match=r"idle \(rate 0"):
        describe_model(build(keras, keras.layers.Dropout(0.0, name="idle")))


def test_inputs_and_outputs_that_do_not_fit_are_refused(keras: Any) -> None:
    drop = keras.layers.Dropout
    with pytest.raises(ModelRefused, match=r"takes an input of shape \[N, 8, 8, 2\]"):
        describe_model(build(keras, drop(0.1), shape=(8, 8, 2)))
    with pytest.raises(ModelRefused, match=r"takes an input of shape \[N, 65\]"):
        describe_model(build(keras, drop(0.1), shape=(65,)))
    with pytest.raises(ModelRefused, match=r"has an output of shape \[N, 4, 16\]"):
        describe_model(build(keras, drop(0.1), last=keras.layers.Reshape((4, 16))))
    two = [keras.Input((4, 4, 1)), keras.Input((4, 4, 1))]
    joined = keras.layers.Flatten()(keras.layers.Dropout(0.5)(keras.layers.Add()(two)))
    with pytest.raises(ModelRefused, match="and"):
        describe_model(keras.Model(two, joined))
    with pytest.raises(ModelRefused, match="without a known input shape"):
        describe_model(keras.Sequential([keras.layers.Dropout(0.5)]))


def test_a_lambda_layer_is_not_run(keras: Any, tmp_path: Path) -> None:
    model = build(keras, keras.layers.Dropout(0.5), keras.layers.Lambda(lambda x: x + 1, output_shape=(64,)))
    model.save(tmp_path / "model.keras")
    with pytest.raises(ModelRefused, match="contains code that loading would run"):
        load_model(tmp_path / "model.keras")
    with pytest.raises(ModelRefused, match="is not a model, but it contains the file"):
        load_model(tmp_path)


def test_the_output_kind_of_a_nested_model_is_that_of_the_output_in_use(keras: Any) -> None:
    layers = keras.layers
    inner_image = keras.Input((8, 8, 1))
    x = layers.Dropout(0.5)(layers.Flatten()(inner_image))
    outputs = [layers.Dense(3, activation="softmax")(x), layers.Dense(2, activation="sigmoid")(x)]
    inner = keras.Model(inner_image, outputs)
    image = keras.Input((8, 8, 1))
    assert describe_model(keras.Model(image, inner(image)[0])).output_kind == "softmax"
    assert describe_model(keras.Model(image, inner(image)[1])).output_kind == "sigmoid"


def test_dropout_within_a_layer_that_has_no_dropout_layer_is_refused(keras: Any) -> None:
    layers = keras.layers
    image = keras.Input((4, 4, 1))
    tokens = layers.Reshape((4, 4))(image)
    for noisy in (
        layers.Attention(dropout=0.5)([tokens, tokens]),
        layers.LSTM(4, dropout=0.5)(tokens),
        layers.GRU(4, recurrent_dropout=0.5)(tokens),
    ):
        x = layers.Dropout(0.1)(layers.Flatten()(noisy))
        with pytest.raises(ModelRefused, match=r"that the export would disable|draws random numbers outside"):
            describe_model(keras.Model(image, layers.Dense(3, activation="softmax")(x)))


def test_noise_that_inference_switches_off_is_a_notice(keras: Any) -> None:
    source = describe_model(build(keras, keras.layers.GaussianNoise(0.1, name="hiss"), keras.layers.Dropout(0.5)))
    assert source.notices == ("hiss (GaussianNoise) is disabled, as in Keras' inference mode",)
