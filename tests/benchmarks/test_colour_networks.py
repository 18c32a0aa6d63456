"""The colour networks: the last layer without dropout, and the training images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.colour_networks import LastLayer, augment, build_vgg
from benchmarks.colour_sets import SIZE


def test_features_and_logits_give_the_probabilities_of_the_network(tmp_path: Path) -> None:
    model = build_vgg()
    model.save(tmp_path / "vgg.keras")
    images = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    layer = LastLayer.read(tmp_path / "vgg.keras", 0.5)
    features = layer.features(images)
    assert features.shape == (5, layer.weight.shape[1])
    powers = np.exp(layer.logits(features).astype(np.float64))
    expected = model.predict(images * np.float32(0.5), verbose=0)
    assert powers / powers.sum(axis=1, keepdims=True) == pytest.approx(expected, abs=1e-5)


def test_a_training_image_is_moved_by_at_most_three_pixels_and_half_are_flipped() -> None:
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    made = augment(np.repeat(image[np.newaxis], 200, axis=0), np.random.default_rng(1))
    centre = slice(3, SIZE - 3)
    flips, moves = 0, set()
    for one in made:
        for flipped, source in enumerate((image, image[:, ::-1])):
            for down in range(-3, 4):
                for right in range(-3, 4):
                    if (np.roll(source, (down, right), (0, 1))[centre, centre] == one[centre, centre]).all():
                        flips += flipped
                        moves.add((down, right))
                        break
    assert 60 < flips < 140
    assert len(moves) > 30
