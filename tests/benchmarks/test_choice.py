"""The variants of the distances, and their measurements for a network with known features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.choice import _AnyDensity, compare_distances, list_variants
from export.article import SCALE, train_article_network
from export.exporter import export_model
from screen.demo import read_images
from screen.engine.device.choice import choose_device
from screen.engine.distance import DENSITY_EXPONENT, DISTANCES, DistanceMeter, fit_distance
from screen.engine.graph.features import tensors


def test_every_variant_differs_from_the_default_in_one_way() -> None:
    variants = list(list_variants())
    defaults = {one.distance: one for one in variants if one.label == "default"}
    assert set(defaults) == set(DISTANCES)
    for one in variants:
        default = vars(defaults[one.distance])
        differing = [name for name, value in vars(one).items() if name != "label" and value != default[name]]
        assert len(differing) == (one.label != "default"), one


def test_the_default_exponent_gives_the_distance_of_a_calibration() -> None:
    """Up to the constant factor, which does not matter for the order of the rows."""
    rng = np.random.default_rng(0)
    reference, rows = (rng.normal(size=(count, 6)).astype(np.float32) for count in (60, 9))
    device = choose_device("cpu", 1)
    fitted = fit_distance("layout_distance", reference, slice(0, 6), device, "cosine")
    same, plain = (_AnyDensity(**vars(fitted), exponent=exponent) for exponent in (DENSITY_EXPONENT, 0.0))
    expected, own, other = (
        np.asarray(DistanceMeter((one,), device).measure(rows).layout_distance) for one in (fitted, same, plain)
    )
    assert own / own[0] == pytest.approx(expected / expected[0])
    assert other / other[0] != pytest.approx(expected / expected[0], rel=1e-3)


def test_noise_is_far_by_the_default_and_the_grid_changes_the_features(tmp_path: Path) -> None:
    images, labels = read_images("train")
    export_model(train_article_network(images[:500], labels[:500], epochs=1, seed=1), tmp_path / "a.onnx", scale=SCALE)
    noise = np.random.default_rng(0).integers(0, 256, (50, 28, 28, 1), dtype=np.uint8)
    found = compare_distances(tmp_path / "a.onnx", images[500:1000], images[1000:1200], {"noise": noise})
    by_key = {(one["distance"], one["variant"]): one for one in found}
    assert len(by_key) == len(list(list_variants()))
    assert by_key["layout_distance", "default"]["auroc"] > 0.95
    assert by_key["layout_distance", "1 x 1 cells"]["features"] * 9 == by_key["layout_distance", "default"]["features"]
    assert tensors.GRID == 3
