from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.contract.metadata import Site
from export.errors import ModelRefused
from export.source.noise import NoiseLayer, family_of
from export.source.stochastic import SiteMarker, keep_identity, noise_replaced, read_mark


def kept(layer: Any) -> list[NoiseLayer]:
    return [NoiseLayer(layer, layer.name, family_of(layer), float(layer.rate))]


def mark(keras: Any, layer: Any, shape: tuple[int, ...]) -> Site:
    marker = SiteMarker()
    with noise_replaced(kept(layer), marker):
        layer(np.ones((2, *shape), np.float32))
    if marker.refusal:
        raise marker.refusal
    return marker.sites[0]


def test_noise_shapes_of_every_dropout_are_read_right(keras: Any) -> None:
    layers = keras.layers
    cases = [
        (layers.Dropout(0.5), (4, 6), (4, 6)),
        (layers.Dropout(0.5, noise_shape=(None, 1, 6)), (4, 6), (1, 6)),
        (layers.Dropout(0.5, noise_shape=(None, None, 1)), (4, 6), (4, 1)),
        (layers.Dropout(0.5, noise_shape=(1, 4, 1)), (4, 6), (4, 1)),
        (layers.SpatialDropout1D(0.5), (4, 6), (1, 6)),
        (layers.SpatialDropout2D(0.5), (4, 5, 6), (1, 1, 6)),
        (layers.SpatialDropout2D(0.5, data_format="channels_first"), (4, 5, 6), (4, 1, 1)),
        (layers.SpatialDropout3D(0.5), (3, 4, 5, 6), (1, 1, 1, 6)),
    ]
    for layer, shape, noise_shape in cases:
        site = mark(keras, layer, shape)
        assert (site.shape, site.noise_shape) == (shape, noise_shape)
        assert (site.kind == "MCDropout") == (shape == noise_shape)


def test_the_noise_shapes_are_those_that_keras_draws(keras: Any) -> None:
    layers = keras.layers
    for layer, shape in [
        (layers.SpatialDropout2D(0.5), (4, 5, 60)),
        (layers.SpatialDropout2D(0.5, data_format="channels_first"), (40, 5, 6)),
        (layers.Dropout(0.5, noise_shape=(None, 1, 60)), (4, 60)),
    ]:
        site = mark(keras, layer, shape)
        drawn = np.asarray(layer(np.ones((1, *shape), np.float32), training=True))[0]
        corner = drawn[tuple(slice(0, size) for size in site.noise_shape)]
        np.testing.assert_array_equal(drawn, np.broadcast_to(corner, shape))
        assert len(np.unique(corner)) == 2


def test_a_noise_shape_that_ties_rows_together_is_refused(keras: Any) -> None:
    with pytest.raises(ModelRefused, match="noise_shape"):
        mark(keras, keras.layers.Dropout(0.5, noise_shape=(2, 1, 6)), (4, 6))


def test_a_layer_that_is_called_twice_is_two_sites(keras: Any) -> None:
    layer, marker = keras.layers.Dropout(0.5, name="twice"), SiteMarker()
    with noise_replaced(kept(layer), marker):
        layer(layer(np.ones((2, 3), np.float32)))
    assert [site.name for site in marker.sites] == ["twice", "twice#2"]


def test_a_layer_is_itself_again_after_the_block(keras: Any) -> None:
    layer = keras.layers.Dropout(0.5)
    ones = np.ones((2, 100), np.float32)

    def fail_within_the_block() -> None:
        with noise_replaced(kept(layer), keep_identity):
            np.testing.assert_array_equal(layer(ones, training=True), ones)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_within_the_block()
    assert np.any(np.asarray(layer(ones, training=True)) == 0)


def test_a_users_own_check_numerics_is_no_site() -> None:
    assert read_mark("is this finite?") is None
