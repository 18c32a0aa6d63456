"""The self-test of a calibration warns about detectors that miss unusual images, and not about the default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.exporter import export_model
from export.source.describe import import_keras
from screen.config import RunConfig
from screen.decide.config import CalibrationConfig
from screen.run.calibration.calibrate import run_calibration
from tests.conftest import Recorder, encode, make_once, write_shard

ROWS, SIZE, CLASSES = 1500, 16, 3


def draw_images(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Smooth images like photographs, with power 1/f^2; the class is the strongest colour."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE)))
    frequency[0, 0] = 1 / SIZE
    waves = np.fft.fft2(rng.normal(size=(ROWS, CLASSES, SIZE, SIZE))) / frequency
    values = np.fft.ifft2(waves).real
    values *= 45 / values.std(axis=(1, 2, 3), keepdims=True)
    images = np.clip(128 + values, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return images, images.mean(axis=(1, 2)).argmax(axis=1)


def train_network(folder: Path) -> None:
    """A small network with dropout in every block, trained for a few epochs, and the shards of its images."""
    keras = import_keras()
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(x)
    for channels in (12, 24):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.Dropout(0.25)(layers.MaxPooling2D()(x))
    x = layers.Dropout(0.5)(layers.Dense(32, activation="relu")(layers.Flatten()(x)))
    model = keras.Model(image, layers.Dense(CLASSES, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    images, labels = draw_images(0)
    model.fit(images, labels, batch_size=32, epochs=4, verbose=0)
    export_model(model, folder / "blocks.onnx")
    for name, seed in (("train", 0), ("held", 1)):
        write_shard(folder / name / "a.parquet", [encode(image) for image in draw_images(seed)[0]])


@pytest.mark.parametrize(
    ("wanted", "blind"),
    [
        ({}, set()),
        ({"detectors": ("layout_distance",)}, {"uniform noise", "Gaussian noise"}),
    ],
)
def test_the_self_test_warns_of_a_blind_detector_and_not_of_the_default(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, Any], blind: set[str]
) -> None:
    made = make_once("blocks", train_network, tmp_path_factory)
    recorder = Recorder()
    config = RunConfig(passes=20, device="cpu")
    asked = CalibrationConfig(reference=str(made / "train"), **wanted)
    report = run_calibration(made / "blocks.onnx", str(made / "held"), tmp_path / "c", config, asked, recorder)
    warnings = [line for line in recorder.notes if "would be flagged" in line]
    shares = dict(report.calibration.self_test)
    assert {kind for kind in blind if shares[kind] < 0.5} == blind
    assert len(warnings) == len(blind)
    for kind in blind:
        (warning,) = [line for line in warnings if kind in line]
        assert "their values of layout_distance are " in warning
        assert "contrast_distance and penultimate_distance are used too" in warning
