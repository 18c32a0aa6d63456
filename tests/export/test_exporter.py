from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from export.contract import DOMAIN, ExportedModel, read_model
from export.errors import ModelRefused, OptionRefused, OutputRefused, VerificationFailed
from export.exporter import ExportNotice, export_file, export_model


def small_model(keras: Any, *, activation: str | None = "softmax", rescaling: bool = False, channels: int = 1) -> Any:
    layers = keras.layers
    image = keras.Input((8, 8, channels))
    x = layers.Rescaling(1 / 255)(image) if rescaling else image
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.SpatialDropout2D(0.4, name="spatial")(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3, name="top")(x)
    return keras.Model(image, layers.Dense(3, activation=activation)(x))


def test_a_stranger_gets_other_answers_on_every_run(article_onnx: Path, digits: NDArray[np.uint8]) -> None:
    session = onnxruntime.InferenceSession(str(article_onnx), providers=["CPUExecutionProvider"])
    (image,), (output,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 28, 28, 1])
    first, second = (session.run([output.name], {"image": digits[:50]})[0] for _ in range(2))
    assert np.all(np.any(first != second, axis=1))
    np.testing.assert_allclose(first.sum(axis=1), 1, rtol=1e-5)


def test_the_file_describes_itself(article: ExportedModel, article_keras: Path) -> None:
    import hashlib

    contract = article.contract
    assert contract.image_shape == (28, 28, 1)
    assert (contract.output_kind, contract.classes, contract.colour) == ("softmax", 10, "grey")
    assert [(site.rate, site.shape) for site in contract.sites] == [(0.25, (12, 12, 64)), (0.5, (128,))]
    assert contract.source_digest == hashlib.sha256(article_keras.read_bytes()).hexdigest()
    assert contract.verified["deterministic_difference"] < 1e-5
    assert contract.versions["keras"]


def test_each_site_is_one_named_node_of_a_function_in_plain_onnx(article: ExportedModel) -> None:
    nodes = [node for node in article.proto.graph.node if node.domain == DOMAIN]
    assert [node.name for node in nodes] == [site.name for site in article.contract.sites]
    assert [[attribute.name for attribute in node.attribute] for node in nodes] == [["rate"], ["rate"]]
    (function,) = article.proto.functions
    assert {node.domain for node in function.node} == {""}
    onnx.checker.check_model(article.proto, full_check=True)


def test_spatial_dropout_and_batch_normalization_are_exported_faithfully(keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    model = small_model(keras)
    model.layers[2].set_weights([w + 0.5 for w in model.layers[2].get_weights()])
    contract = export_model(model, tmp_path / "m.onnx", scale=1 / 255)
    spatial, top = contract.sites
    assert (spatial.kind, spatial.noise_shape, spatial.shape) == ("MCBroadcastDropout", (1, 1, 8), (6, 6, 8))
    assert top.kind == "MCDropout"
    assert read_model(tmp_path / "m.onnx").contract == contract


def test_a_model_that_scales_itself_needs_no_scale(keras: Any, tmp_path: Path) -> None:
    assert export_model(small_model(keras, rescaling=True), tmp_path / "m.onnx").preprocessing.scale is None


def test_mean_and_std_for_each_channel_are_in_the_graph(keras: Any, tmp_path: Path) -> None:
    contract = export_model(
        small_model(keras, channels=3), tmp_path / "m.onnx", scale=1 / 255, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]
    )
    assert contract.colour == "rgb"
    assert contract.verified["deterministic_difference"] < 1e-5


def test_exporting_leaves_the_keras_model_as_it_was(keras: Any, tmp_path: Path) -> None:
    model = small_model(keras)
    images = np.random.default_rng(0).random((5, 8, 8, 1)).astype(np.float32)
    before = model(images, training=False)
    export_model(model, tmp_path / "m.onnx", scale=1)
    np.testing.assert_array_equal(before, model(images, training=False))
    assert np.any(np.asarray(model(images, training=True)) != np.asarray(before))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, ModelRefused, "no scale was given"),
        ({"mean": [1.0]}, ModelRefused, "no scale was given"),
        ({"scale": 1.0, "mean": [1.0, 2.0]}, OptionRefused, "2 values for 1 channel"),
        ({"scale": 0.0}, OptionRefused, "is zero"),
        ({"scale": 1.0, "std": [0.0]}, OptionRefused, "is zero"),
        ({"scale": 1.0, "output_kind": "poetry"}, OptionRefused, "no output kind 'poetry'"),
        ({"scale": 1.0, "output_kind": "sigmoid"}, OptionRefused, "is a softmax"),
        ({"scale": 1.0, "class_names": ["a"]}, OptionRefused, "1 class names were given for 3 outputs"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    keras: Any, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        export_model(small_model(keras), tmp_path / "m.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_last_layer_that_does_not_tell_must_be_stated(keras: Any, tmp_path: Path) -> None:
    model = small_model(keras, activation=None)
    with pytest.raises(ModelRefused, match="logits or a regression"):
        export_model(model, tmp_path / "m.onnx", scale=1)
    assert export_model(model, tmp_path / "m.onnx", scale=1, output_kind="logits").output_kind == "logits"


def test_a_failed_verification_keeps_the_file_that_was_there(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.verify

    def fail(*_: object) -> None:
        raise VerificationFailed("no", wanted="yes", next_step="none")

    (tmp_path / "m.onnx").write_text("earlier")
    monkeypatch.setattr(export.verify, "verify_model", fail)
    with pytest.raises(VerificationFailed):
        export_model(small_model(keras), tmp_path / "m.onnx", scale=1)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["earlier"]


def test_a_place_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputRefused, match="cannot be written"):
        export_file(tmp_path / "missing.keras", tmp_path / "no" / "m.onnx")
    with pytest.raises(OutputRefused, match="cannot be written"):
        export_file(tmp_path / "missing.keras", tmp_path)


def test_a_file_that_is_no_onnx_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_text("hours of training")
    with pytest.raises(OutputRefused, match=r"would be called m.keras"):
        export_file(tmp_path / "m.keras", tmp_path / "m.keras", scale=1)
    assert (tmp_path / "m.keras").read_text() == "hours of training"


def test_a_single_logit_is_refused_because_it_would_always_be_certain(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(1)(layers.Dropout(0.5)(layers.Flatten()(image))))
    for kind in ("logits", "softmax"):
        with pytest.raises(ModelRefused, match="always be certain"):
            export_model(model, tmp_path / "m.onnx", scale=1, output_kind=kind)
    with pytest.raises(ModelRefused) as refused:
        export_model(model, tmp_path / "m.onnx", scale=1)
    assert "sigmoid" in refused.value.next_step


def test_scaling_twice_is_said(keras: Any, tmp_path: Path) -> None:
    with pytest.warns(ExportNotice, match="pixels are scaled twice"):
        export_model(small_model(keras, rescaling=True), tmp_path / "m.onnx", scale=1 / 255)


def test_a_dropout_in_half_precision_is_refused(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    x = layers.Dropout(0.5, dtype="mixed_float16")(layers.Flatten(dtype="mixed_float16")(image))
    model = keras.Model(image, layers.Dense(3, activation="softmax", dtype="float32")(x))
    with pytest.raises(ModelRefused, match="works in float16"):
        export_model(model, tmp_path / "m.onnx", scale=1)
