from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from screen.engine.distance import NEIGHBOURS, Distance, DistanceMeter, Mahalanobis, NearestNeighbours
from screen.engine.session import Device
from tests.agreement import assert_close_to_scale
from tests.assumptions.cuda_kernels import CUDA_KERNELS

RNG = np.random.default_rng(0)
KNOWN = RNG.normal(1, 1, (300, 37)).astype(np.float32)
ASKED = np.concatenate([RNG.normal(1, 1, (50, 37)), RNG.normal(-1, 3, (50, 37))]).astype(np.float32)


def meter(distance: Distance, threads: int = 1) -> DistanceMeter:
    return DistanceMeter(distance, Device("cpu", threads))


def test_neighbours_are_measured_as_by_hand() -> None:
    unit = KNOWN / np.linalg.norm(KNOWN, axis=1, keepdims=True)
    cosine = (ASKED / np.linalg.norm(ASKED, axis=1, keepdims=True)) @ unit.T
    expected = 1 - np.sort(cosine, axis=1)[:, -NEIGHBOURS:].mean(axis=1)
    assert_close_to_scale(meter(NearestNeighbours.fit(KNOWN)).measure(ASKED), expected, 5e-4)


def test_mahalanobis_is_measured_as_by_hand() -> None:
    centred = ASKED - KNOWN.mean(axis=0)
    inverse = np.linalg.inv(np.cov(KNOWN.T, ddof=0))
    expected = np.sqrt(np.einsum("bi,ij,bj->b", centred, inverse, centred))
    assert_close_to_scale(meter(Mahalanobis.fit(KNOWN)).measure(ASKED), expected, 1e-4)


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_rows_of_another_distribution_are_farther(kind: Any) -> None:
    distances = meter(kind.fit(KNOWN)).measure(ASKED)
    assert distances[:50].max() < np.median(distances[50:])


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_a_distance_is_the_same_bits_in_every_batch_and_with_every_number_of_threads(kind: Any) -> None:
    distance = kind.fit(KNOWN)
    whole = meter(distance).measure(ASKED)
    one, three = meter(distance), meter(distance, threads=3)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 99), st.integers(1, 100))
    def check(start: int, count: int) -> None:
        some = ASKED[start : start + count]
        for measured in (one.measure(some), three.measure(some)):
            np.testing.assert_array_equal(measured, whole[start : start + count])

    check()


def test_a_row_of_zero_features_is_at_distance_one_and_a_reference_set_may_be_small() -> None:
    features: NDArray[np.float32] = np.zeros((2, 37), np.float32)
    assert meter(NearestNeighbours.fit(KNOWN[:3])).measure(features).tolist() == [1.0, 1.0]
    assert meter(NearestNeighbours.fit(KNOWN[:3])).measure(KNOWN[:3]).max() < 1


@pytest.mark.parametrize("kind", [NearestNeighbours, Mahalanobis])
def test_every_operator_of_a_distance_has_a_name_and_a_cuda_kernel(kind: Any) -> None:
    nodes = kind.fit(KNOWN).graph().node
    assert {node.op_type for node in nodes} <= set(CUDA_KERNELS)
    assert len({node.name for node in nodes} - {""}) == len(nodes)
