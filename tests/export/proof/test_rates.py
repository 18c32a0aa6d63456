from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from export.contract.metadata import Site
from export.errors import OptionRefused
from export.graph.functions import NOISE_KINDS
from export.proof.rate_passes import draw_noise
from export.proof.rates import RATES, _check_above_chance, _choose, _Measured, calibration_error, is_lower
from tests.export.contract.test_metadata import CONTRACT

ROWS = 400


def measured(accuracy: float, nll: float, confidence: float) -> _Measured:
    """Results with equal likelihoods in all rows, of which the first ones are predicted correctly."""
    hits = np.arange(ROWS) < round(accuracy * ROWS)
    values = np.full(ROWS, nll)
    return _Measured([hits], [values], [np.full(ROWS, confidence)], [hits])


def test_the_likelihood_and_then_the_calibration_decide_among_rates_that_keep_the_accuracy() -> None:
    found = {0.0: measured(0.9, 0.5, 0.99)}
    found |= {0.05: measured(0.9, 0.4, 0.95), 0.1: measured(0.9, 0.3, 0.93), 0.2: measured(0.9, 0.3, 0.91)}
    found |= {0.3: measured(0.9, 0.6, 0.9), 0.5: measured(0.8, 0.1, 0.8)}
    choice = _choose(found, ROWS, (1, 2))
    assert (choice.rate, choice.rows, choice.digests) == (0.2, ROWS, (1, 2))
    assert [trial.rate for trial in choice.trials] == [0.0, *RATES]
    assert [trial.rate for trial in choice.trials if not trial.keeps_accuracy] == [0.5]
    assert choice.trials[3].ece == pytest.approx(0.01)


def test_a_likelihood_within_its_standard_error_of_the_best_is_as_good() -> None:
    found = {rate: measured(0.9, 9.0, 0.5) for rate in (0.0, *RATES)}
    found[0.1], found[0.3] = measured(0.9, 0.3, 0.8), measured(0.9, 0.3, 0.9)
    found[0.3].nll[0] = 0.301 + np.where(np.arange(ROWS) % 2, 0.1, -0.1)  # standard error: 0.005
    assert _choose(found, ROWS, ()).rate == 0.3
    found[0.3].nll[0] = found[0.3].nll[0] + 0.01
    assert _choose(found, ROWS, ()).rate == 0.1


def test_rates_that_all_lower_the_accuracy_are_refused() -> None:
    found = {0.0: measured(0.9, 0.5, 0.9)} | {rate: measured(0.8, 0.1, 0.8) for rate in RATES}
    with pytest.raises(OptionRefused, match=r"significantly lower at every rate, such as 80\.00% at rate 0\.05"):
        _choose(found, ROWS, ())


def test_labels_on_which_the_model_is_no_better_than_chance_are_refused() -> None:
    limit = 0.1 + 3 * (0.1 * 0.9 / ROWS) ** 0.5
    with pytest.raises(OptionRefused, match=r"by chance, 10\.00% would agree"):
        _check_above_chance(measured(limit - 1 / ROWS, 9.0, 0.5), 0.1)
    _check_above_chance(measured(limit + 1 / ROWS, 9.0, 0.5), 0.1)


def test_an_accuracy_is_lower_if_it_loses_significantly_more_rows_than_it_gains() -> None:
    reference = np.ones(100, np.bool_)
    for lost, expected in ((5, False), (6, True)):  # p-values 2 / 2**5 and 2 / 2**6
        correct = np.arange(100) >= lost
        assert is_lower(correct, reference) is expected
        assert not is_lower(reference, correct)


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    confidences = np.array([0.95, 0.95, 0.5, 0.5, 1.0])
    hits = np.array([True, False, True, True, True])
    assert calibration_error(confidences, hits) == pytest.approx((2 * 0.45 + 2 * 0.5 + 0) / 5, abs=0.02)
    assert calibration_error(np.array([0.95, 0.95]), np.array([True, False])) == pytest.approx(0.45)


@pytest.mark.parametrize("kind", NOISE_KINDS)
def test_the_noise_of_every_kind_keeps_the_mean_of_standard_values(kind: str) -> None:
    site = Site("s", kind, 0.3, (50, 4), (50, 1) if "Broadcast" in kind else (50, 4))
    factor, shift = draw_noise(site, 0.3, 2000, np.random.default_rng(0))
    assert factor.shape == (2000, *site.noise_shape)
    x = np.random.default_rng(1).standard_normal((2000, 50, 4))
    outputs = x * factor + shift
    assert abs(outputs.mean()) < 0.02
    if "Alpha" in kind:
        assert outputs.var() == pytest.approx(1, abs=0.02)
    else:
        assert factor.mean() == pytest.approx(1, abs=0.01)
        assert factor.var() == pytest.approx(0.3 / 0.7, abs=0.02)


def test_a_smaller_rate_keeps_every_element_that_a_larger_rate_keeps() -> None:
    site = Site("s", "MCDropout", 0.3, (50,), (50,))
    small, large = (draw_noise(site, rate, 20, np.random.default_rng(3))[0] > 0 for rate in (0.1, 0.5))
    assert small.sum() > large.sum()
    assert np.all(small[large])


@pytest.mark.parametrize(
    ("kind", "mean", "labels", "correct", "likelihoods", "confidences"),
    [
        ("softmax", [[0.7, 0.2, 0.1], [0.5, 0.1, 0.4]], [[0], [2]], [True, False], [[0.7], [0.4]], [0.7, 0.5]),
        ("logits", [[0.7], [0.2]], [[0], [0]], [False, True], [[0.3], [0.8]], [0.7, 0.8]),
        (
            "sigmoid",
            [[0.9, 0.2], [0.6, 0.0]],
            [[1, 0], [1, 1]],
            [True, False],
            [[0.9, 0.8], [0.6, 1e-12]],
            [0.9, 0.8, 0.6, 1],
        ),
    ],
)
def test_the_results_of_a_batch_follow_from_the_meaning_of_the_outputs(
    kind: str,
    mean: list[list[float]],
    labels: list[list[int]],
    correct: list[bool],
    likelihoods: list[list[float]],
    confidences: list[float],
) -> None:
    found = _Measured()
    found.add(np.array(mean), np.array(labels), replace(CONTRACT, output_kind=kind, classes=len(mean[0])))
    assert found.correct[0].tolist() == correct
    np.testing.assert_allclose(found.nll[0], [-np.log(row).mean() for row in likelihoods])
    np.testing.assert_allclose(found.confidences[0], confidences)
