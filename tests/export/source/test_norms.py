"""Recording the inputs of BatchNormalization layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.contract.inputs import Preprocessing
from export.model_source import NormInputs
from export.source.network import KerasNetwork, KerasReference


def norms_of(keras: Any, layer: Any, pixels: Any) -> tuple[NormInputs, ...]:
    """The norms of a model of one normalization, nested in another model."""
    inner = keras.Sequential([keras.Input(pixels.shape[1:]), layer])
    image = keras.Input(pixels.shape[1:])
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(inner(image)))
    return KerasReference(KerasNetwork(model, ()), Preprocessing(1.0)).without_noise(pixels).norms


def test_the_gain_is_the_ratio_of_the_measured_and_the_learned_standard_deviation(keras: Any) -> None:
    layer = keras.layers.BatchNormalization()
    layer.build((None, 4, 4, 3))
    layer.moving_mean.assign([1.0, 1.0, 1.0])
    layer.moving_variance.assign([25.0, 100.0, 400.0])
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[1] = 100  # variance 50 * 50 in each channel
    (norm,) = norms_of(keras, layer, pixels)
    np.testing.assert_allclose(norm.variance, 2500)
    assert norm.is_trained
    assert norm.gain == pytest.approx(5)


def test_channels_that_do_not_vary_do_not_count() -> None:
    variance, learned = np.array([0, 0, 0, 9], np.float32), np.ones(4, np.float32)
    assert NormInputs(variance, learned, learned).gain == pytest.approx(3)
    assert NormInputs(0 * variance, learned, learned).gain is None


def test_a_new_layer_is_not_trained_and_its_calls_are_not_replaced_for_good(keras: Any) -> None:
    before = keras.layers.BatchNormalization.call
    (norm,) = norms_of(keras, keras.layers.BatchNormalization(), np.zeros((2, 4, 4, 3), np.uint8))
    assert not norm.is_trained
    assert keras.layers.BatchNormalization.call is before


def test_the_channel_axis_of_a_layer_is_respected(keras: Any) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    (norm,) = norms_of(keras, keras.layers.BatchNormalization(axis=1), pixels)
    np.testing.assert_allclose(norm.variance, pixels.astype(np.float64).var(axis=(0, 2, 3)), rtol=1e-4)
