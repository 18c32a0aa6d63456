"""Recurrent layers: their graphs have no loops, or the message states how to export the model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export.contract.reader import read_model
from export.errors import ModelRefused
from export.exporter import export_file, export_model
from export.graph import loops
from export.graph.convert import convert_to_onnx
from export.source.describe import describe_model
from screen.engine.graph.plan import plan_engine


def over_rows(make: Callable[[Any, Any], Any], classes: int = 3) -> Callable[[Any], Any]:
    """A function that builds a model over the rows of an image: `make`, then a dropout layer."""

    def build(keras: Any) -> Any:
        layers = keras.layers
        image = keras.Input((6, 6, 1))
        x = layers.Flatten()(make(layers, layers.Reshape((6, 6))(image)))
        return keras.Model(image, layers.Dense(classes, activation="softmax")(layers.Dropout(0.3)(x)))

    return build


def with_dropout_in_its_cell(keras: Any, **options: Any) -> Any:
    class Cell(keras.layers.SimpleRNNCell):  # type: ignore[misc]
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(units, **kwargs)
            self.drop = keras.layers.Dropout(0.3)

        def call(self, inputs: Any, states: Any, training: Any = False) -> Any:
            return super().call(self.drop(inputs, training=training), states)

    return over_rows(lambda layers, x: layers.RNN(Cell(4), name="rows", **options)(x))(keras)


@pytest.mark.parametrize(
    "make",
    [
        lambda layers, x: layers.GRU(4, return_sequences=True)(layers.Dropout(0.2)(x)),
        lambda layers, x: layers.SimpleRNN(4, unroll=True)(x),
        lambda layers, x: layers.LSTM(4, recurrent_activation="hard_sigmoid", go_backwards=True)(x),
    ],
    ids=["GRU", "SimpleRNN", "LSTM"],
)
def test_a_recurrent_layer_is_exported_without_a_loop_and_keeps_its_settings(
    keras: Any, make: Callable[[Any, Any], Any], tmp_path: Path
) -> None:
    model = over_rows(make)(keras)
    before = [layer.get_config() for layer in model.layers]
    export_model(model, tmp_path / "m.onnx", scale=1 / 255)
    exported = read_model(tmp_path / "m.onnx")
    assert loops.loops_in(exported.proto) == []
    plan_engine(exported)
    assert [layer.get_config() for layer in model.layers] == before


def test_a_usual_lstm_stays_one_node(keras: Any) -> None:
    proto = convert_to_onnx(describe_model(over_rows(lambda layers, x: layers.LSTM(4)(x))(keras))).proto
    assert [node.op_type for node in proto.graph.node].count("LSTM") == 1


def test_too_many_steps_are_refused_with_code_that_unrolls_them(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "MAX_STEPS", 5)
    monkeypatch.chdir(tmp_path)
    over_rows(lambda layers, x: layers.Bidirectional(layers.GRU(4), name="rows")(x))(keras).save("model.keras")
    with pytest.raises(ModelRefused, match=r"become loops .* \(6 steps\), .* \(6 steps\)") as refused:
        export_file("model.keras", tmp_path / "m.onnx", scale=1 / 255)
    code = re.search(r"from export import load_keras.*save\('(\S+)'\)", refused.value.next_step)
    assert code is not None
    exec(code[0], {})  # noqa: S102
    export_file(code[1], tmp_path / "m.onnx", scale=1 / 255)
    plan_engine(read_model(tmp_path / "m.onnx"))


def test_dropout_in_the_steps_of_a_layer_is_refused_and_kept_in_an_unrolled_layer(keras: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="in the steps of a recurrent layer: rows/") as refused:
        export_model(with_dropout_in_its_cell(keras), tmp_path / "m.onnx", scale=1 / 255)
    assert "unroll=True" in refused.value.next_step
    contract = export_model(with_dropout_in_its_cell(keras, unroll=True), tmp_path / "m.onnx", scale=1 / 255)
    assert len(contract.sites) == 6 + 1


def test_other_loops_are_refused_by_their_layer(keras: Any) -> None:
    import tensorflow as tf

    class Looped(keras.layers.Layer):  # type: ignore[misc]
        def call(self, rows: Any) -> Any:
            return tf.map_fn(lambda row: row / (1.0 + tf.reduce_sum(row)), rows)

    model = over_rows(lambda _layers, x: Looped(name="own")(x))(keras)
    with pytest.raises(ModelRefused, match=r"loops or branches .*\(Loop\): .*own") as refused:
        convert_to_onnx(describe_model(model))
    assert "tf.map_fn" in refused.value.next_step
