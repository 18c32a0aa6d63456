from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.contract.metadata import Task
from screen.engine.statistics import PassSummary, RunStatistics, concatenate, summarize


def reduce_passes(values: NDArray[np.float64], task: Task = "classes") -> RunStatistics:
    """The head's reductions over `[T, B, C]`, in numpy."""
    mean = values.mean(axis=0)
    m2, m3, m4 = (((values - mean) ** power).sum(axis=0) for power in (2, 3, 4))
    if task == "values":
        return RunStatistics(len(values), mean, m2, m3, m4)
    if task in ("binary", "labels"):
        both = np.stack([values, 1 - values], axis=-1)
        votes = (values > 0.5).sum(axis=0).astype(float)
        entropy = -(both * np.log(np.where(both > 0, both, 1))).sum(axis=(0, 2, 3))
    else:
        votes = np.eye(values.shape[2])[values.argmax(axis=2)].sum(axis=0)
        entropy = -(values * np.log(np.where(values > 0, values, 1))).sum(axis=(0, 2))
    return RunStatistics(len(values), mean, m2, m3, m4, votes, entropy)


def softmax_passes(seed: int, passes: int, rows: int, classes: int) -> NDArray[np.float64]:
    logits = np.random.default_rng(seed).normal(size=(passes, rows, classes)) * 3
    exp = np.exp(logits - logits.max(axis=2, keepdims=True))
    return np.asarray(exp / exp.sum(axis=2, keepdims=True))


def one_row(passes: list[list[float]], task: Task = "classes") -> PassSummary:
    return summarize(reduce_passes(np.array(passes)[:, np.newaxis], task), task)


def number(values: NDArray[np.float64] | None) -> float:
    assert values is not None
    return float(values[0])


def test_passes_that_agree_on_a_coin_toss_have_entropy_but_no_mutual_information() -> None:
    summary = one_row([[0.5, 0.5]] * 8)
    assert number(summary.entropy) == pytest.approx(math.log(2))
    assert number(summary.expected_entropy) == pytest.approx(math.log(2))
    assert number(summary.mutual_information) == 0
    assert number(summary.prediction_std) == number(summary.skewness) == number(summary.kurtosis) == 0


def test_passes_that_are_sure_of_opposites_have_all_their_entropy_as_mutual_information() -> None:
    summary = one_row([[1.0, 0.0], [0.0, 1.0]] * 4)
    assert number(summary.entropy) == pytest.approx(math.log(2))
    assert number(summary.expected_entropy) == 0
    assert number(summary.mutual_information) == pytest.approx(math.log(2))
    assert number(summary.variation_ratio) == 0.5
    assert number(summary.prediction_std) == pytest.approx(0.5)
    assert number(summary.kurtosis) == pytest.approx(-2)


def test_a_sure_row_has_no_uncertainty_of_any_kind() -> None:
    summary = one_row([[0.0, 1.0, 0.0]] * 3)
    assert (number(summary.entropy), number(summary.confidence), number(summary.variation_ratio)) == (0, 1, 0)
    assert summary.prediction is not None
    assert summary.prediction[0] == 1


def test_skewness_and_kurtosis_are_the_population_ones() -> None:
    """For values 0, 0, 0, 1: g1 = 2 / sqrt(3), g2 = -2 / 3."""
    summary = one_row([[0.6, 0.4]] * 3 + [[1.0, 0.0]])
    assert number(summary.skewness) == pytest.approx(2 / math.sqrt(3))
    assert number(summary.kurtosis) == pytest.approx(-2 / 3)


def test_a_binary_no_is_read_from_its_own_side() -> None:
    summary = one_row([[0.4]] * 3 + [[0.0]], "binary")
    assert summary.prediction is not None
    assert summary.prediction[0] == 0
    assert number(summary.confidence) == pytest.approx(0.7)
    assert number(summary.skewness) == pytest.approx(2 / math.sqrt(3))
    entropy = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7))
    assert number(summary.entropy) == pytest.approx(entropy)


def test_several_labels_have_no_prediction_but_a_least_certain_label() -> None:
    summary = one_row([[0.5, 1.0, 0.0]] * 2 + [[0.5, 1.0, 1.0]] * 2, "labels")
    assert summary.prediction is None
    assert summary.confidence is None
    assert number(summary.entropy) == pytest.approx(2 * math.log(2))
    assert number(summary.expected_entropy) == pytest.approx(math.log(2))
    assert number(summary.largest_label_entropy) == pytest.approx(math.log(2))
    assert number(summary.variation_ratio) == pytest.approx((0 + 0 + 0.5) / 3)


def test_a_regression_has_mean_and_std_alone() -> None:
    summary = one_row([[10.0], [14.0]], "values")
    assert (summary.mean[0, 0], summary.std[0, 0]) == (12, 2)
    assert summary.entropy is None
    assert summary.prediction is None


def test_a_std_of_a_ten_thousandth_around_0_9999_is_right() -> None:
    rng = np.random.default_rng(0)
    values = (0.9999 + 1e-4 * rng.standard_normal((400, 3, 1))).clip(max=1)
    values = np.concatenate([values, 1 - values], axis=2)
    merged = reduce_passes(values[:20])
    for start in range(20, 400, 20):
        merged = merged.merge(reduce_passes(values[start : start + 20]))
    np.testing.assert_allclose(summarize(merged, "classes").std, values.std(axis=0), rtol=1e-9)


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 5), st.integers(2, 6), st.data())
@settings(deadline=None)
def test_runs_merged_are_one_run(seed: int, passes: int, rows: int, classes: int, data: st.DataObject) -> None:
    values = softmax_passes(seed, passes, rows, classes)
    cut = data.draw(st.integers(1, passes - 1))
    merged = reduce_passes(values[:cut]).merge(reduce_passes(values[cut:]))
    whole = reduce_passes(values)
    for name in ("mean", "m2", "m3", "m4", "votes", "entropy"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), rtol=1e-7, atol=1e-10)


@given(st.integers(0, 10**6), st.integers(2, 30))
@settings(deadline=None)
def test_the_order_of_passes_does_not_matter(seed: int, passes: int) -> None:
    values = softmax_passes(seed, passes, 4, 3)
    shuffled = np.random.default_rng(seed).permutation(values)
    one, other = (summarize(reduce_passes(order), "classes") for order in (values, shuffled))
    for name in ("mean", "std", "entropy", "mutual_information", "variation_ratio", "skewness", "kurtosis"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9)


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(2, 6))
@settings(deadline=None)
def test_mutual_information_is_between_zero_and_the_entropy(seed: int, passes: int, classes: int) -> None:
    summary = summarize(reduce_passes(softmax_passes(seed, passes, 5, classes)), "classes")
    assert summary.mutual_information is not None
    assert summary.entropy is not None
    assert np.all(summary.mutual_information >= 0)
    assert np.all(summary.mutual_information <= summary.entropy + 1e-12)
    assert np.all(summary.entropy <= math.log(classes) + 1e-12)


def test_rows_are_put_together_and_taken_apart() -> None:
    parts = [summarize(reduce_passes(softmax_passes(seed, 5, 3, 4)), "classes") for seed in (1, 2)]
    joined = concatenate(parts)
    second = joined.take(np.arange(6) >= 3)
    np.testing.assert_array_equal(second.mean, parts[1].mean)
    assert second.entropy is not None
    assert parts[1].entropy is not None
    np.testing.assert_array_equal(second.entropy, parts[1].entropy)
    assert joined.largest_label_entropy is None
