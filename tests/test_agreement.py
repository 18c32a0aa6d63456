"""The comparisons in `tests.agreement` accept rounding errors, and fail for a wrong model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from export.contract.reader import ExportedModel
from tests.agreement import assert_agree, assert_close_to_scale, mean_and_std
from tests.screen.engine.graphs import SHAPE, dense_chain, pass_by_pass

IMAGES = np.random.default_rng(1).integers(0, 256, (9, *SHAPE), dtype=np.uint8)


def test_elements_that_nearly_cancel_are_compared_to_the_scale() -> None:
    """The same sum in float32 and in float64: an element near zero has a large relative error of its own."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(40, 500)), rng.normal(size=(500, 300))
    exact = x.astype(np.float32).astype(np.float64) @ weight.astype(np.float32).astype(np.float64)
    rounded = x.astype(np.float32) @ weight.astype(np.float32)
    assert (np.abs(rounded - exact) / np.abs(exact)).max() > 1e-5
    assert_close_to_scale(rounded, exact, tolerance=1e-6)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (np.array([1.0, np.nan]), np.array([1.0, 2.0])),
        (np.array([1.0, np.inf]), np.array([1.0, 2.0])),
        (np.array([1.0, 2.0]), np.array([1.0, np.nan])),
        (np.array([1.0, 2.0]), np.array([[1.0, 2.0]])),
        (np.array([1.0]), np.array([1.0, 1.0])),
        (np.array([1e-30]), np.array([0.0])),
        (np.array([1.0, 2.0 + 3e-5]), np.array([1.0, 2.0])),
    ],
)
def test_tensors_that_are_not_close_are_found(actual: np.ndarray, expected: np.ndarray) -> None:
    with pytest.raises(AssertionError):
        assert_close_to_scale(actual, expected, tolerance=1e-5)


def with_changed_weight(model: ExportedModel) -> ExportedModel:
    """The bias of one of the five logits is 1 % larger."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    tensor = next(one for one in proto.graph.initializer if list(one.dims) == [5])
    weight = numpy_helper.to_array(tensor).copy()
    weight.flat[np.abs(weight).argmax()] *= 1.01
    tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return replace(model, proto=proto)


def with_changed_rate(model: ExportedModel, factor: float) -> ExportedModel:
    sites = tuple(replace(site, rate=site.rate * factor) for site in model.contract.sites)
    return replace(model, contract=replace(model.contract, sites=sites))


def test_a_changed_weight_and_a_changed_rate_are_found_pass_by_pass() -> None:
    model = dense_chain()
    expected = pass_by_pass(model, IMAGES, 40, seed=5)
    assert_close_to_scale(pass_by_pass(model, IMAGES, 40, seed=5), expected, tolerance=1e-5)
    for wrong in (with_changed_weight(model), with_changed_rate(model, 1.01)):
        found = pass_by_pass(wrong, IMAGES, 40, seed=5)
        for statistic in (np.mean, np.std):
            with pytest.raises(AssertionError, match="of the largest expected magnitude"):
                assert_close_to_scale(statistic(found, axis=0), statistic(expected, axis=0), tolerance=1e-5)


def test_a_changed_rate_is_found_in_the_distribution_over_passes() -> None:
    model, passes = dense_chain(), 2000
    numbers, errors = mean_and_std(pass_by_pass(model, IMAGES, passes, seed=1))
    other, other_errors = mean_and_std(pass_by_pass(model, IMAGES, passes, seed=2))
    assert_agree(numbers, other, (errors, other_errors), slack=1e-4)
    wrong, wrong_errors = mean_and_std(pass_by_pass(with_changed_rate(model, 1.3), IMAGES, passes, seed=2))
    with pytest.raises(AssertionError):
        assert_agree(numbers, wrong, (errors, wrong_errors), slack=1e-4)
