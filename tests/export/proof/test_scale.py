"""The warning about a pixel scaling that does not fit the network."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.proof import saturated
from export.contract.inputs import PREPROCESSINGS, Preprocessing
from export.contract.metadata import ModelContract
from export.exporter import ExportNotice, export_file
from export.model_source import SourcePass
from export.proof.scale import find_scale_alarm, make_images, measure_spread
from export.source.describe import describe_model
from export.source.network import KerasReference
from tests.export.family import set_norm_statistics, with_output

UNIT, RAW, TF = Preprocessing(1 / 255), Preprocessing(1.0), PREPROCESSINGS["tf"]


def alarm(model: Any, preprocessing: Preprocessing, output_kind: str = "") -> str | None:
    """The warning for a model under a preprocessing."""
    source = describe_model(model)
    height, width, channels = source.image.image_shape
    contract = ModelContract(
        input_name="image",
        output_name="output",
        height=height,
        width=width,
        channels=channels,
        classes=source.classes,
        output_kind=output_kind or source.output_kind,
        sites=(),
        preprocessing=preprocessing,
    )
    return find_scale_alarm(KerasReference(source.network, preprocessing), contract)


@pytest.fixture(scope="module")
def article(keras: Any, article_keras: Path) -> Any:
    """The article's network, trained on pixels in 0..1."""
    return keras.models.load_model(article_keras)


def normalized(keras: Any, largest: float) -> Any:
    """A network whose BatchNormalization learned from pixels up to `largest`; from none if `largest` is 0."""
    layers = keras.layers
    keras.utils.set_random_seed(4)
    image = keras.Input((16, 16, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, use_bias=False)(image)))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, layers.Dense(4, activation="softmax")(x))
    if largest:
        set_norm_statistics(keras, model, largest)
    return model


def test_pixels_255_times_too_large_give_a_warning_with_found_likely_and_next_step(article: Any) -> None:
    text = alarm(article, RAW) or ""
    assert text.startswith("probably training used another preprocessing than pixel * 1: ")
    assert "the logits have a standard deviation of" in text
    assert "for example --scale 1/255 or --preprocess tf" in text
    assert "--check-data" in text


def test_the_warning_uses_the_values_before_the_last_activation(keras: Any, article: Any) -> None:
    logits = keras.Model(article.input, article.layers[-1].input)
    last = keras.layers.Dense(10)
    model = keras.Sequential([logits, last])
    last.set_weights(article.layers[-1].get_weights())
    assert alarm(model, RAW, "logits") == alarm(article, RAW)
    assert alarm(model, UNIT, "logits") is None
    assert alarm(model, RAW, "regression") is None  # the targets may be of any size


@pytest.mark.parametrize("preprocessing", [UNIT, TF, Preprocessing(1 / 255, (0.13,), (0.31,))])
def test_small_pixels_give_no_warning_for_the_article_network(article: Any, preprocessing: Preprocessing) -> None:
    assert alarm(article, preprocessing) is None


def test_mean_and_std_for_pixels_in_0_to_1_with_scale_1_give_a_warning(article: Any) -> None:
    text = alarm(article, Preprocessing(1.0, (0.13,), (0.31,))) or ""
    assert "for example --scale 1/255 with the same --mean and --std" in text


def test_the_statistics_of_batch_normalization_reveal_pixels_255_times_too_large_or_too_small(keras: Any) -> None:
    unit, raw = normalized(keras, 1.0), normalized(keras, 255.0)
    assert alarm(unit, UNIT) is None
    assert alarm(raw, RAW) is None
    assert alarm(raw, PREPROCESSINGS["caffe"]) is None
    too_large, too_small = alarm(unit, RAW) or "", alarm(raw, UNIT) or ""
    assert "BatchNormalization" in too_large
    assert "for example --scale 1/255 or --preprocess tf;" in too_large
    assert "for example --scale 1;" in too_small


def test_mean_and_std_of_0_to_255_with_scale_1_255_give_a_warning(keras: Any) -> None:
    model = normalized(keras, 4.0)
    given = Preprocessing(1 / 255, (120.0,), (60.0,))
    assert "for example --scale 1 with the same --mean and --std;" in (alarm(model, given) or "")
    assert alarm(model, replace(given, scale=1.0)) is None


@pytest.mark.parametrize("preprocessing", [UNIT, RAW, TF])
@pytest.mark.parametrize(("factor", "bias"), [(20.0, 20.0), (10.0, 200.0)])
def test_saturated_networks_give_no_warning(
    keras: Any, factor: float, bias: float, preprocessing: Preprocessing
) -> None:
    keras.utils.set_random_seed(1)
    assert alarm(saturated(factor, bias)(keras), preprocessing) is None


@pytest.mark.parametrize("preprocessing", [UNIT, RAW, TF])
@pytest.mark.parametrize(("activation", "classes"), [("softmax", 4), ("sigmoid", 1), ("sigmoid", 3), (None, 2)])
def test_untrained_networks_give_no_warning(
    keras: Any, activation: str | None, classes: int, preprocessing: Preprocessing
) -> None:
    kind = "" if activation else "regression"
    assert alarm(with_output(activation, classes)(keras), preprocessing, kind) is None


@pytest.mark.parametrize("preprocessing", [UNIT, RAW, TF])
def test_untrained_batch_normalization_gives_no_warning(keras: Any, preprocessing: Preprocessing) -> None:
    assert alarm(normalized(keras, 0.0), preprocessing) is None


def test_one_bias_of_0_is_a_sign_of_no_training(keras: Any, article: Any) -> None:
    model = keras.models.clone_model(article)
    model.set_weights(article.get_weights())
    assert alarm(model, RAW) is not None
    model.layers[1].bias.assign(np.zeros_like(model.layers[1].bias))
    assert alarm(model, RAW) is None


def test_the_spread_is_the_standard_deviation_between_images_of_centred_logits() -> None:
    logits = np.array([[5, 7], [9, 7]], np.float32)  # centred: -1, 1 and 1, -1
    answer = SourcePass(logits, logits, {}, ())
    assert measure_spread(answer, "softmax") == pytest.approx(1)
    assert measure_spread(answer, "sigmoid") == pytest.approx(np.sqrt(2))
    assert measure_spread(replace(answer, before_activation=None), "softmax") is None


@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 70, 3), (100, 90, 3)])
def test_test_images_have_dark_and_bright_pixels(shape: tuple[int, int, int]) -> None:
    images = make_images(shape)
    assert images.shape[1:] == shape
    assert images.min() == 0
    assert images.max() == 255
    assert (images.std(axis=(1, 2, 3)) > 10).all()
    np.testing.assert_array_equal(images, make_images(shape))


def test_an_export_with_a_wrong_scale_warns_and_writes_the_file(article_keras: Path, tmp_path: Path) -> None:
    with pytest.warns(ExportNotice, match="another preprocessing than pixel \\* 1: .*--scale 1/255"):
        export_file(article_keras, tmp_path / "raw.onnx", scale=1)
    assert (tmp_path / "raw.onnx").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_file(article_keras, tmp_path / "unit.onnx", scale=1 / 255)


def test_the_other_scaling_keeps_the_shape_of_the_input(keras: Any) -> None:
    layers = keras.layers
    keras.utils.set_random_seed(1)
    trained = [layers.Dense(20, bias_initializer="ones", activation="relu"), layers.Dense(3, bias_initializer="ones")]
    model = keras.Sequential(
        [keras.Input((14, 14)), layers.Flatten(), trained[0], layers.Dropout(0.2), trained[1], layers.Rescaling(9.0)]
    )
    assert "--scale 1/255" in (alarm(model, Preprocessing(1.0, reshape=(14, 14)), "logits") or "")
