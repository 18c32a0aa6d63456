from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from export.contract.labelled import LabelledBatch
from export.contract.metadata import DOMAIN, ModelContract
from export.contract.reader import ExportedModel, read_model
from export.errors import ModelRefused, OptionRefused, OutputRefused, VerificationFailed
from export.exporter import ExportNotice, export_file, export_model
from export.graph.variants import with_rate
from export.runtime import onnxruntime
from screen.demo import read_images
from tests.agreement import assert_close_to_scale


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
    assert [(site.rate, site.shape) for site in contract.sites] == [(0.25, (64, 12, 12)), (0.5, (128,))]
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
        ({"scale": 1.0, "output_kind": "poetry"}, OptionRefused, "`output_kind` is 'poetry'"),
        ({"scale": 1.0, "output_kind": "sigmoid"}, OptionRefused, "is a softmax"),
        (
            {"scale": 1.0, "class_names": ["a"]},
            OptionRefused,
            r"`classes` has 1 name\(s\), and the model has 3 classes",
        ),
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
    with pytest.raises(ModelRefused, match="logits or regression values"):
        export_model(model, tmp_path / "m.onnx", scale=1)
    assert export_model(model, tmp_path / "m.onnx", scale=1, output_kind="logits").output_kind == "logits"


def test_a_failed_verification_keeps_the_file_that_was_there(
    keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import export.proof.verify

    def fail(*_: object) -> None:
        raise VerificationFailed("no", wanted="yes", next_step="none")

    (tmp_path / "m.onnx").write_text("earlier")
    monkeypatch.setattr(export.proof.verify, "verify_model", fail)
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
    with pytest.raises(OutputRefused, match=r"m.keras does not end in .onnx"):
        export_file(tmp_path / "m.keras", tmp_path / "m.keras", scale=1)
    assert (tmp_path / "m.keras").read_text() == "hours of training"


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
def test_a_softmax_over_one_output_is_refused_because_it_would_always_be_certain(keras: Any, tmp_path: Path) -> None:
    """The advice for a single logit is another option; a softmax in the model makes the output useless."""
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    for activation, step in ((None, "`output_kind='logits'`"), ("softmax", "train the model again")):
        x = layers.Dense(1, activation=activation)(layers.Dropout(0.5)(layers.Flatten()(image)))
        with pytest.raises(
            ModelRefused, match="has one output of kind softmax, whose probability is always 1"
        ) as refused:
            export_model(keras.Model(image, x), tmp_path / "m.onnx", scale=1, output_kind="softmax")
        assert step in refused.value.next_step


def test_the_advice_for_a_single_logit_ends_in_an_export(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(1)(layers.Dropout(0.5)(layers.Flatten()(image))))
    for kind in (None, "sigmoid"):
        with pytest.raises(ModelRefused) as refused:
            export_model(model, tmp_path / "m.onnx", scale=1 / 255, output_kind=kind)
        assert "`output_kind='logits'`" in refused.value.next_step
        assert "a sigmoid of the output" in refused.value.next_step
    contract = export_model(model, tmp_path / "m.onnx", scale=1 / 255, output_kind="logits")
    assert (contract.output_kind, contract.classes, contract.task) == ("logits", 1, "binary")
    assert "a sigmoid of the single logit" in contract.describe()


def test_a_single_probability_has_two_class_names_and_a_regression_has_none(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 1))
    model = keras.Model(image, layers.Dense(1)(layers.Dropout(0.5)(layers.Flatten()(image))))
    options: dict[str, Any] = {"scale": 1 / 255, "output_kind": "logits"}
    with pytest.raises(OptionRefused, match=r"`classes` has 1 name\(s\), and the model has 2 classes"):
        export_model(model, tmp_path / "m.onnx", **options, class_names=["cat"])
    export_model(model, tmp_path / "m.onnx", **options, class_names=["cat", "dog"])
    assert read_model(tmp_path / "m.onnx").contract.class_names == ("cat", "dog")
    with pytest.raises(OptionRefused, match="the model is a regression"):
        export_model(model, tmp_path / "r.onnx", scale=1 / 255, output_kind="regression", class_names=["weight"])


def test_the_advice_for_logits_of_labels_ends_in_an_export(keras: Any, tmp_path: Path) -> None:
    model = small_model(keras, activation=None)
    with pytest.raises(ModelRefused, match=r"\[model, keras.layers.Activation\('sigmoid'\)\]"):
        export_model(model, tmp_path / "m.onnx", scale=1, output_kind="sigmoid")
    with_sigmoid = keras.Sequential([model, keras.layers.Activation("sigmoid")])
    assert export_model(with_sigmoid, tmp_path / "m.onnx", scale=1).output_kind == "sigmoid"


def test_an_image_shape_from_python_is_that_of_the_command(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((192,)), layers.Dense(16), layers.Dropout(0.5), layers.Dense(3, activation="softmax")]
    )
    contract = export_model(model, tmp_path / "m.onnx", scale=1 / 255, mean=[0.1, 0.2, 0.3], image_shape=(3, 8, 8))
    assert contract == read_model(tmp_path / "m.onnx").contract
    assert contract.image_shape == (8, 8, 3)
    assert "then to [N, C, H, W], then to [N, 192]" in contract.describe()


def test_scaling_twice_is_said(keras: Any, tmp_path: Path) -> None:
    with pytest.warns(ExportNotice, match="pixels are scaled twice"):
        export_model(small_model(keras, rescaling=True), tmp_path / "m.onnx", scale=1 / 255)


def test_a_preprocessing_by_name_is_in_the_graph_and_in_the_contract(keras: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(5)
    model = small_model(keras, channels=3)
    images = np.random.default_rng(1).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for mode in ("tf", "torch", "caffe"):
        path = tmp_path / f"{mode}.onnx"
        contract = export_model(model, path, preprocess=mode)
        assert contract.preprocessing.name == mode
        assert f"preprocessing  {mode}: " in contract.describe()
        wanted = model(
            keras.applications.imagenet_utils.preprocess_input(
                images.astype(np.float32), mode=mode, data_format="channels_last"
            ),
            training=False,
        )
        session = onnxruntime.InferenceSession(with_rate(read_model(path).proto, 0.0).SerializeToString())
        assert_close_to_scale(session.run(None, {"image": images})[0], wanted, 1e-5)


def test_a_name_beside_numbers_or_beside_a_rescaling_is_said(keras: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionRefused, match="together with"):
        export_model(small_model(keras), tmp_path / "m.onnx", preprocess="tf", scale=1 / 255)
    with pytest.warns(ExportNotice, match=r"--preprocess tf was given too: pixels are scaled twice"):
        export_model(small_model(keras, rescaling=True), tmp_path / "m.onnx", preprocess="tf")


def test_whole_numbers_in_are_not_cut_silently(keras: Any, tmp_path: Path) -> None:
    layers = keras.layers
    image = keras.Input((8, 8, 1), dtype="uint8")
    x = layers.Dropout(0.5)(layers.Flatten()(layers.Rescaling(1 / 255)(image)))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    with pytest.raises(OptionRefused, match="has an integer type, so preprocessed pixels would be truncated"):
        export_model(model, tmp_path / "m.onnx", scale=1 / 255)
    assert export_model(model, tmp_path / "m.onnx").verified["deterministic_difference"] < 1e-5


def test_the_resize_is_part_of_the_contract(keras: Any, tmp_path: Path) -> None:
    contract = export_model(small_model(keras), tmp_path / "m.onnx", scale=1, resize="pil-bicubic:crop")
    assert str(read_model(tmp_path / "m.onnx").contract.resize) == "pil-bicubic:crop"
    assert "the resizing method of Pillow" in contract.describe()
    with pytest.raises(OptionRefused, match="`resize` is 'cubic'"):
        export_model(small_model(keras), tmp_path / "m.onnx", scale=1, resize="cubic")


def channels_first_model(keras: Any, kind: str, channels: int) -> Any:
    layers = keras.layers
    first: dict[str, Any] = {"data_format": "channels_first"}
    image = keras.Input((channels, 12, 10))
    if kind == "permute":
        x = layers.Conv2D(4, 3, activation="relu")(layers.Permute((2, 3, 1))(image))
    elif kind == "transpose":
        x = layers.Conv2D(4, 3, activation="relu")(keras.ops.transpose(image, (0, 2, 3, 1)))
    else:
        x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", **first)(image)
        x = layers.SpatialDropout2D(0.3, **first)(layers.BatchNormalization(axis=1)(x))
        x = layers.Conv2D(4, 3, padding="same", **first)(layers.MaxPooling2D(2, **first)(x))
    x = layers.Dropout(0.4)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["permute", "transpose", "layers"])
def test_a_channels_first_model_takes_the_same_images(keras: Any, tmp_path: Path, kind: str, channels: int) -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(5)
    model = channels_first_model(keras, kind, channels)
    contract = export_model(model, tmp_path / "m.onnx", preprocess="unit")
    assert contract.image_shape == (12, 10, channels)
    assert "then to [N, C, H, W]" in contract.describe()
    images = np.random.default_rng(1).integers(0, 256, (6, 12, 10, channels), dtype=np.uint8)
    data = with_rate(read_model(tmp_path / "m.onnx").proto, 0.0).SerializeToString()
    found = onnxruntime.InferenceSession(data).run(None, {"image": images})[0]
    pixels = images.transpose(0, 3, 1, 2) / np.float32(255)
    # Through XLA: on a CPU, TensorFlow itself has channels-first kernels only where oneDNN brings them.
    wanted = tf.function(lambda x: model(x, training=False), jit_compile=True)(tf.constant(pixels))
    assert_close_to_scale(found, wanted, 1e-5)


NO_KERNELS = """
import sys
from tests.export.test_exporter import channels_first_model
from export.source.describe import import_keras
from export.exporter import export_model
print(export_model(channels_first_model(import_keras(), "layers", 3), sys.argv[1], scale=1 / 255).describe())
"""


@pytest.mark.integration
def test_channels_first_is_compared_where_tensorflow_has_no_kernels_for_it(tmp_path: Path) -> None:
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"}
    done = subprocess.run(
        [sys.executable, "-c", NO_KERNELS, str(tmp_path / "m.onnx")], env=environment, capture_output=True, text=True
    )
    assert "then to [N, C, H, W]" in done.stdout, done.stderr


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 1024])
def test_images_from_3_to_1024_pixels_are_exported(keras: Any, tmp_path: Path, size: int, channels: int) -> None:
    layers = keras.layers
    image = keras.Input((size, size, channels))
    x = layers.Conv2D(32, 3, strides=min(size, 8), activation="relu")(image)
    x = layers.Dropout(0.4)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(x))
    assert export_model(model, tmp_path / "m.onnx", scale=1 / 255).image_shape == (size, size, channels)


def test_labelled_rows_are_measured_beside_keras_and_kept_in_the_file(
    article_keras: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    labels = read_images("test")[1]
    asked: list[ModelContract] = []

    def labelled(contract: ModelContract) -> list[LabelledBatch]:
        asked.append(contract)
        halves = (slice(0, 200), slice(200, 400))
        return [LabelledBatch(digits[half], tuple(labels[half].tolist())) for half in halves]

    with warnings.catch_warnings():
        warnings.simplefilter("error", ExportNotice)
        contract = export_file(article_keras, tmp_path / "m.onnx", scale=1 / 255, labelled=labelled)
    accuracy = contract.accuracy
    assert accuracy is not None
    assert read_model(tmp_path / "m.onnx").contract == contract
    model = _keras_model(article_keras)
    right = np.argmax(model(digits[:400] / np.float32(255), training=False), axis=1) == labels[:400]
    assert accuracy.keras == accuracy.exported == np.mean(right) > 0.8
    assert abs(accuracy.monte_carlo - accuracy.keras) < 0.05
    assert (accuracy.rows, accuracy.differing) == (400, 0)
    assert [contract.image_shape for contract in asked] == [(28, 28, 1)]


def test_labelled_rows_of_a_regression_are_refused(keras: Any, tmp_path: Path) -> None:
    model = small_model(keras, activation=None)
    with pytest.raises(OptionRefused, match="regression, which has no accuracy"):
        export_model(model, tmp_path / "m.onnx", scale=1, output_kind="regression", labelled=lambda _: [])
    assert list(tmp_path.iterdir()) == []


def _keras_model(path: Path) -> Any:
    import keras

    return keras.saving.load_model(path, compile=False)
