"""The comparison with Keras, on values that numpy draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from export.errors import VerificationFailed
from export.model_source import SourcePass
from export.proof.compare import Found, compare

Floats = NDArray[np.float32]


def keras_pass(outputs: Floats, before: Floats | None = None) -> SourcePass:
    return SourcePass(outputs, before, {}, ())


def check(ours: Floats, wanted: Floats, others: Sequence[Floats] | None = None) -> float:
    """Compare outputs without a last activation; without `others`, the rounding of Keras must not be measured."""

    def other_roundings() -> list[SourcePass]:
        assert others is not None, "the rounding was measured"
        return [keras_pass(one) for one in others]

    return compare(Found(ours, None), keras_pass(wanted), other_roundings, "Without dropout")


def values(rows: int = 6, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(0, 1, (rows, 3)).astype(np.float32)


def test_small_differences_pass_without_a_measurement_of_the_rounding() -> None:
    wanted = values()
    assert check(wanted, wanted) == 0
    assert 0 < check(wanted * np.float32(1.00005), wanted) < 1e-4


def test_a_difference_beyond_the_rounding_of_keras_is_found() -> None:
    wanted = values()
    with pytest.raises(VerificationFailed, match=r"Without dropout, an output differs from the source model by 0\.001"):
        check(wanted * np.float32(1.001), wanted, [wanted * np.float32(1.00002)])


def test_rows_may_differ_as_far_as_they_amplify_rounding() -> None:
    wanted = values()
    rounded, ours = wanted.copy(), wanted.copy()
    rounded[2] += np.float32(0.001)
    ours[2] -= np.float32(0.005)
    check(ours, wanted, [wanted, rounded])
    ours[3] -= np.float32(0.005)
    with pytest.raises(VerificationFailed, match="differs from the source model"):
        check(ours, wanted, [wanted, rounded])


def test_a_network_whose_outputs_are_rounding_errors_is_refused_for_this_reason() -> None:
    with pytest.raises(VerificationFailed, match=r"an output of the source model .* with rounding in float32 alone"):
        check(values(seed=1), values(), [values(seed=2)])


def test_rows_that_are_not_finite_in_keras_are_not_compared() -> None:
    wanted, ours = values(), values()
    wanted[1], wanted[4, 0], ours[1] = np.nan, np.inf, 7
    check(ours, wanted)
    ours[2, 1] = np.nan
    with pytest.raises(VerificationFailed, match="differs from the source model by inf"):
        check(ours, wanted, [wanted])


def test_a_network_without_finite_values_is_refused() -> None:
    wanted = np.full((3, 2), np.nan, np.float32)
    with pytest.raises(VerificationFailed, match="is not finite, or changes by inf or more"):
        check(wanted, wanted)


def test_a_large_common_value_hides_no_difference() -> None:
    wanted = values() * np.float32(0.1) + np.float32(1000)
    ours = wanted.copy()
    ours[0, 0] += np.float32(0.01)
    check(wanted + np.spacing(wanted), wanted)
    with pytest.raises(VerificationFailed, match="differs from the source model"):
        check(ours, wanted, [wanted])


def test_probabilities_are_compared_on_the_scale_of_1() -> None:
    wanted = np.full((3, 4), 1e-6, np.float32)
    compare(Found(wanted * 2, values(3)), keras_pass(wanted, values(3)), list, "Without dropout")


def test_other_shapes_are_found() -> None:
    with pytest.raises(VerificationFailed, match="differs from the source model by inf"):
        check(values()[:, :2], values(), [values()])
