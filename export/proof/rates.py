"""Choose the rate of inserted dropout on labelled rows.

In: a finished graph with inserted sites, and labelled rows. Out: a `RateChoice`. A network that was trained without
dropout tolerates only some dropout: its accuracy falls as the rate grows, and its training does not determine a rate
(Ledda et al. 2023, "Dropout injection at test time for post hoc uncertainty quantification in neural networks",
Information Sciences 645, measure this effect for regressions, and choose a rate by likelihood and calibration).
Therefore several rates are measured. Rates at which the accuracy is significantly lower than without inserted dropout
are left out, and one of the other rates is chosen by the likelihood and the calibration of the mean probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.contract.insertion import LIST_COMMAND, RateChoice, RateTrial
from export.contract.labelled import LabelledBatch, identify_images
from export.contract.metadata import ModelContract
from export.errors import InputRefused, OptionRefused
from export.proof.accuracy import is_at_chance, predict, read_label, refuse_no_labels
from export.proof.binomial import two_sided_p_value
from export.proof.rate_passes import Probabilities, RatePasses
from export.proof.verify import Subject

RATES = (0.05, 0.1, 0.2, 0.3, 0.5)
"""Rates that are compared."""

PASSES = 20
"""Number of stochastic passes at each rate."""

LEAST_ROWS = 200
"""Minimum number of labelled rows: with 200, a loss of 4 percentage points of accuracy is usually significant."""

_SIGNIFICANCE = 0.05
"""Maximum two-sided p-value at which a lower accuracy counts as significantly lower."""

_BINS = 15
"""Number of bins of equal width in the expected calibration error, as in Guo et al. 2017."""

_LEAST_PROBABILITY = 1e-12
"""Minimum probability in the likelihood; smaller values are raised to it, because a softmax can be 0."""


@dataclass
class _Measured:
    """The results at one rate, row by row.

    Attributes:
        correct: for each batch, whether the prediction is correct, `[B]`.
        nll: for each batch, negative log-likelihoods of the labels, `[B]`.
        confidences: for each batch, probabilities of the predictions, `[B]`; `[B * C]` for several labels.
        hits: for each batch, whether the predictions in `confidences` are correct, in the same shape.
    """

    correct: list[NDArray[np.bool_]] = field(default_factory=list)
    nll: list[Probabilities] = field(default_factory=list)
    confidences: list[Probabilities] = field(default_factory=list)
    hits: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, mean: Probabilities, labels: NDArray[np.int64], contract: ModelContract) -> None:
        """Add the results of a batch.

        Args:
            mean: mean probabilities over the passes, `[B, C]`.
            labels: labels in the format of `predict`.
            contract: contract of the model.
        """
        hits = predict(mean, contract) == labels
        if contract.task == "classes":
            likelihood = np.take_along_axis(mean, labels, axis=1)
            confidences = mean.max(axis=1, keepdims=True)
        else:
            likelihood = np.where(labels == 1, mean, 1 - mean)
            confidences = np.maximum(mean, 1 - mean)
        self.correct.append(hits.all(axis=1))
        self.nll.append(-np.log(np.maximum(likelihood, _LEAST_PROBABILITY)).mean(axis=1))
        self.confidences.append(confidences.ravel())
        self.hits.append(hits.ravel())


def choose_rate(subject: Subject, batches: Iterable[LabelledBatch]) -> RateChoice:
    """The rate of the inserted sites that keeps the accuracy and has the best calibrated mean probabilities.

    All inserted sites get the same rate; other sites keep their own rates. The seed of the masks is fixed, and the
    masks of a smaller rate keep every element that the masks of a larger rate keep.

    The rate is chosen in three steps. First, a rate is left out if its accuracy is significantly lower than the
    accuracy without the inserted dropout (McNemar's exact test, 1947). Second, each other rate is left out if its
    mean negative log-likelihood exceeds the smallest mean by more than one standard error of the difference. Third,
    the rate with the smallest calibration error is chosen from the remaining rates.

    Args:
        subject: finished graph with inserted sites.
        batches: labelled rows.

    Raises:
        InputRefused: there are fewer than `LEAST_ROWS` rows with an image and a usable label.
        OptionRefused: the model is a regression or no better than chance, or every rate lowers the accuracy
            significantly.
    """
    contract = subject.contract
    if contract.task == "values":
        raise OptionRefused(
            "--insert-dropout was given with the rate auto for a regression, which has no accuracy.",
            wanted="a classification model, or a rate",
            next_step="give a rate, such as --insert-dropout 'LAYER=0.2'",
        )
    rates = (0.0, *RATES)
    measured = {rate: _Measured() for rate in rates}
    passes = RatePasses(subject, PASSES)
    digests: set[int] = set()
    bad: list[Any] = []
    unreadable = 0
    for index, batch in enumerate(batches):
        unreadable += len(batch.unreadable)
        read = [read_label(label, contract) for label in batch.labels]
        bad += [label for label, found in zip(batch.labels, read, strict=True) if found is None]
        usable = np.array([found is not None for found in read], np.bool_)
        if not usable.any():
            continue
        labels = np.array([found for found in read if found is not None], np.int64)
        digests.update(identify_images(batch.images[usable]))
        for rate, mean in passes.means(batch.images[usable], rates, index).items():
            measured[rate].add(mean, labels, contract)
    rows = sum(len(part) for part in measured[0.0].correct)
    if not rows:
        raise refuse_no_labels(bad, unreadable, contract)
    if rows < LEAST_ROWS:
        raise InputRefused(
            f"--check-data has {rows} rows with an image and a usable label, from which a rate was to be chosen.",
            wanted=f"at least {LEAST_ROWS} rows; thousands are better",
            next_step="give more labelled rows, raise --check-rows, or give a rate in place of auto",
        )
    _check_above_chance(measured[0.0], 1 / contract.classes if contract.task == "classes" else 0.5)
    return _choose(measured, rows, tuple(sorted(digests)))


def _check_above_chance(without: _Measured, chance: float) -> None:
    """Refuse labels on which the model without inserted dropout is no better than chance.

    With these labels, the accuracy would not fall at any rate, so that no rate would be left out.
    """
    hits = np.concatenate(without.hits)
    if is_at_chance(float(hits.mean()), chance, len(hits)):
        raise OptionRefused(
            f"Without inserted dropout, {hits.mean():.2%} of the predictions agree with the labels of --check-data; by "
            f"chance, {chance:.2%} would agree.",
            wanted="labelled rows on which the model is better than chance, because a rate is chosen by the accuracy",
            next_step="check --label-column, the order of the classes (--classes) and the preprocessing (--scale or "
            "--preprocess), or give a rate in place of auto",
        )


def _choose(measured: Mapping[float, _Measured], rows: int, digests: tuple[int, ...]) -> RateChoice:
    correct = {rate: np.concatenate(one.correct) for rate, one in measured.items()}
    nll = {rate: np.concatenate(one.nll) for rate, one in measured.items()}
    without, *rates = measured
    trials = {
        rate: RateTrial(
            rate=rate,
            accuracy=float(correct[rate].mean()),
            nll=float(nll[rate].mean()),
            ece=calibration_error(np.concatenate(one.confidences), np.concatenate(one.hits)),
            keeps_accuracy=not is_lower(correct[rate], correct[without]),
        )
        for rate, one in measured.items()
    }
    kept = [rate for rate in rates if trials[rate].keeps_accuracy]
    if not kept:
        raise OptionRefused(
            f"On {rows} labelled rows, the accuracy is {trials[without].accuracy:.2%} without inserted dropout, and "
            f"significantly lower at every rate, such as {trials[rates[0]].accuracy:.2%} at rate {rates[0]:g}.",
            wanted="a place where dropout keeps the accuracy of the model",
            next_step="insert dropout before another layer; before the last layer with weights (classifier), it "
            "usually changes the outputs least; " + LIST_COMMAND + " prints the layers",
        )
    best = min(kept, key=lambda rate: trials[rate].nll)
    close = [rate for rate in kept if _is_close(nll[rate] - nll[best])]
    chosen = min(close, key=lambda rate: (trials[rate].ece, rate))
    return RateChoice(chosen, rows, PASSES, tuple(trials.values()), digests)


def is_lower(correct: NDArray[np.bool_], reference: NDArray[np.bool_]) -> bool:
    """Whether an accuracy is significantly lower than another accuracy on the same rows (McNemar's exact test).

    Args:
        correct: whether each row is predicted correctly, `[N]`.
        reference: whether the other predictions of these rows are correct, `[N]`.
    """
    gained, lost = int((correct & ~reference).sum()), int((reference & ~correct).sum())
    return lost > gained and two_sided_p_value(gained, gained + lost, 0.5) <= _SIGNIFICANCE


def calibration_error(confidences: Probabilities, hits: NDArray[np.bool_]) -> float:
    """The expected calibration error (0 to 1): mean of |share of correct predictions - mean confidence| over the bins.

    A bin is weighted by its number of predictions.

    Args:
        confidences: probabilities of the predictions, `[N]`.
        hits: whether the predictions are correct, `[N]`.
    """
    bins = np.minimum((confidences * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=hits - confidences, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(hits))


def _is_close(excess: Probabilities) -> bool:
    """Whether a mean excess `[N]` of the negative log-likelihood is at most its standard error."""
    return bool(excess.mean() <= excess.std(ddof=1) / math.sqrt(len(excess)))
