from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from screen import columns
from screen.engine.device.provider import Device
from screen.engine.distance import (
    DEFAULT_METRICS,
    DISTANCES,
    NEIGHBOURS,
    DistanceMeter,
    FeatureDistances,
    Metric,
    NeighbourDistance,
    fit_distance,
)
from screen.engine.transform import Transform
from tests.agreement import assert_close_to_scale
from tests.assumptions.cuda_kernels import CUDA_KERNELS

CPU = Device("cpu", 1)
RNG = np.random.default_rng(0)
KNOWN = np.abs(RNG.normal(1, 1, (300, 40))).astype(np.float32)
ASKED = np.abs(np.concatenate([RNG.normal(1, 1, (50, 40)), RNG.normal(-1, 5, (50, 40))])).astype(np.float32)
COLUMNS = slice(2, 38)
NAMES: list[tuple[str, Metric]] = [
    ("layout_distance", "cosine"),
    ("contrast_distance", "euclidean"),
    ("penultimate_distance", "euclidean"),
]


def fitted(name: str, metric: Metric, known: NDArray[np.float32] = KNOWN) -> NeighbourDistance:
    return fit_distance(name, known, COLUMNS, CPU, metric)


def measure(distance: NeighbourDistance, asked: NDArray[np.float32] = ASKED, threads: int = 1) -> NDArray[np.float64]:
    measured = getattr(DistanceMeter((distance,), Device("cpu", threads)).measure(asked), distance.name)
    assert isinstance(measured, np.ndarray)
    return measured


def prepared(rows: NDArray[np.float32], name: str, metric: Metric) -> NDArray[np.float64]:
    """The rows as a distance compares them, computed by hand."""
    own, known = (one[:, COLUMNS].astype(np.float64) for one in (rows, KNOWN))
    if metric == "cosine":
        unit: NDArray[np.float64] = own / np.linalg.norm(own, axis=1, keepdims=True)
        return unit
    if name == "contrast_distance":  # the second half of the features are standard deviations
        floor = 0.05 * known[:, 18:].mean(axis=0)
        own, known = (np.concatenate([one[:, :18], np.log(1 + one[:, 18:] / floor)], axis=1) for one in (own, known))
    spread = known.std(axis=0)
    standardized: NDArray[np.float64] = (own - known.mean(axis=0)) / (spread + 0.05 * spread.mean())
    return standardized


@pytest.mark.parametrize(("name", "metric"), NAMES)
def test_a_distance_is_that_to_the_nearest_rows_over_the_square_root_of_their_own(name: str, metric: Metric) -> None:
    known, asked = prepared(KNOWN, name, metric), prepared(ASKED, name, metric)
    stored = known.astype(np.float16).astype(np.float64)
    between = np.linalg.norm(asked[:, np.newaxis] - stored[np.newaxis], axis=2)
    within = np.sort(np.linalg.norm(known[:, np.newaxis] - stored[np.newaxis], axis=2), axis=1)
    own = within[:, 1 : NEIGHBOURS + 1].mean(axis=1)
    nearest = np.argsort(between, axis=1)[:, :NEIGHBOURS]
    mean = np.take_along_axis(between, nearest, axis=1).mean(axis=1)
    expected = mean / np.sqrt(np.exp(np.log(own[nearest]).mean(axis=1)) * np.median(own))
    assert_close_to_scale(measure(fitted(name, metric)), expected, 1e-3)


@pytest.mark.parametrize(("name", "metric"), NAMES)
def test_rows_of_another_distribution_are_farther_and_reference_like_rows_are_at_about_one(
    name: str, metric: Metric
) -> None:
    distances = measure(fitted(name, metric))
    assert np.median(distances[:50]) < np.median(distances[50:])
    assert 0.8 < np.median(distances[:50]) < 1.25


def test_a_row_with_a_fraction_of_the_contrast_is_far_and_not_near() -> None:
    """Without logarithms, a row without contrast is in the middle of the reference set."""
    rng = np.random.default_rng(1)
    known = np.exp(rng.normal(0, 0.3, (500, 20))).astype(np.float32)
    distance = fit_distance("contrast_distance", known, slice(0, 20), CPU, "euclidean")
    usual = np.exp(rng.normal(0, 0.3, (50, 20))).astype(np.float32)
    faint = usual.copy()
    faint[:, 10:] *= 0.1
    assert measure(distance, faint).min() > measure(distance, usual).max()


@pytest.mark.parametrize(("name", "metric"), NAMES)
def test_a_distance_is_the_same_bits_in_every_batch_and_with_every_number_of_threads(name: str, metric: Metric) -> None:
    distance = fitted(name, metric)
    whole = measure(distance)
    one, three = DistanceMeter((distance,), CPU), DistanceMeter((distance,), Device("cpu", 3))

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 99), st.integers(1, 100))
    def check(start: int, count: int) -> None:
        some = ASKED[start : start + count]
        for meter in (one, three):
            np.testing.assert_array_equal(getattr(meter.measure(some), name), whole[start : start + count])

    check()


def test_zero_and_equal_features_have_finite_distances_and_a_reference_set_may_be_small() -> None:
    zeros = np.zeros((3, 40), np.float32)
    for name, metric in NAMES:
        assert np.isfinite(measure(fitted(name, metric, KNOWN[:3]), zeros)).all()
        assert np.isfinite(measure(fitted(name, metric, np.repeat(KNOWN[:1], 6, axis=0)))).all()
        assert np.isfinite(measure(fitted(name, metric, zeros))).all()


def test_a_transform_of_constant_features_is_finite() -> None:
    transform = Transform.fit(np.ones((10, 4), np.float32), deviations=2)
    assert np.isfinite(transform.apply(np.zeros((3, 4), np.float32))).all()


def test_only_the_distances_that_were_fitted_are_measured_and_batches_are_joined() -> None:
    measured = DistanceMeter((fitted("layout_distance", "cosine"),), CPU).measure(ASKED)
    assert (measured.contrast_distance, measured.penultimate_distance) == (None, None)
    assert measured.layout_distance is not None
    joined = FeatureDistances.concatenate([measured, measured])
    assert joined.layout_distance is not None
    assert len(joined.layout_distance) == 2 * len(ASKED)
    assert joined.contrast_distance is None
    assert FeatureDistances.concatenate([]) == FeatureDistances()


def test_distances_are_result_columns_and_have_a_default_metric() -> None:
    assert columns.DISTANCES == DISTANCES == tuple(DEFAULT_METRICS)


@pytest.mark.parametrize(("name", "metric"), NAMES)
def test_every_operator_of_a_distance_has_a_name_and_a_cuda_kernel(name: str, metric: Metric) -> None:
    nodes = fitted(name, metric).graph().node
    assert {node.op_type for node in nodes} <= set(CUDA_KERNELS)
    assert len({node.name for node in nodes} - {""}) == len(nodes)
