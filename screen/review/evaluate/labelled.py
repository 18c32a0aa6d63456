"""Compare the predictions of in-distribution rows with their labels.

In: scored rows with a column of labels. Out: a `LabelledEvaluation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.errors import InputRefused, OptionRefused
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.review.evaluate.risk import GroupAccuracy, ScoreRisk, error_left
from screen.review.evaluate.shards import import_metrics, read_values
from screen.review.evaluate.truth import read_classes

_BINS = 15


@dataclass(frozen=True)
class LabelledEvaluation:
    """Metrics of the in-distribution rows against their labels; rows without a label or a prediction are left out.

    Attributes:
        accuracy: share of correct predictions.
        nll: mean negative log-likelihood of the label, nats.
        ece: expected calibration error of the confidence, 15 bins of equal width (Guo et al. 2017, eq. 3).
        error_left: for each score, the error rate of the unreviewed rows at each of `SHARES`, if the rows are reviewed
            in the order of the score, most unusual first.
        rows: number of scored rows with a label; only these rows enter the metrics.
        unlabelled: number of scored rows without a label.
        unscored: number of rows without a prediction, because they could not be scored.
        flagged: accuracy of the labelled rows that the run flagged.
        unflagged: accuracy of the labelled rows that the run did not flag.
        risks: for each score, the area under the risk-coverage curve.
    """

    accuracy: float
    nll: float
    ece: float
    error_left: dict[str, tuple[float, ...]]
    rows: int
    unlabelled: int
    unscored: int
    flagged: GroupAccuracy
    unflagged: GroupAccuracy
    risks: tuple[ScoreRisk, ...]


def compare_labels(
    scored: pa.Table, label: str, class_names: tuple[str, ...], scores: Sequence[str], *, unscored: int
) -> LabelledEvaluation:
    """Metrics of scored rows against their labels.

    Args:
        scored: the scored rows, at least one.
        label: column of the labels.
        class_names: class names of the model; empty if they are unknown.
        scores: columns of the scores to compare.
        unscored: number of rows that could not be scored.

    Raises:
        InputRefused: no row has a label.
        OptionRefused: the model predicts no class, or a label does not name exactly one class of the model.
    """
    if scored["prediction"].null_count:
        raise OptionRefused(
            "The in-distribution results contain no predicted class: the column prediction is null.",
            wanted="results of a classifier, because --label-column compares predicted classes",
            next_step="leave out --label-column",
        )
    classes = max(2, len(scored["mean"][0]))
    labels = read_classes(scored[label], label, class_names, classes)
    has_label = labels >= 0
    if not has_label.any():
        raise InputRefused(
            f"None of the {len(scored)} scored row(s) has a label: the column {label!r} is null or blank.",
            wanted="a label in at least one scored row",
            next_step="give another --label-column, or leave out --label-column",
        )
    known, labels = scored.filter(pa.array(has_label)), labels[has_label]
    right = np.asarray(known["prediction"]) == labels
    flag = np.asarray(known["flag"], np.bool_)
    mean = np.stack(known["mean"].to_pylist()).astype(np.float64)
    if mean.shape[1] == 1:
        mean = np.concatenate([1 - mean, mean], axis=1)
    mean /= mean.sum(axis=1, keepdims=True)  # the float32 means of a row sum to 1 only approximately
    values = {score: read_values(known, score) for score in scores}
    risks = (ScoreRisk.of(score, values[score], right, high_is_unusual=HIGH_IS_SUSPICIOUS[score]) for score in scores)
    return LabelledEvaluation(
        accuracy=float(right.mean()),
        nll=float(import_metrics().log_loss(labels, np.clip(mean, 1e-12, 1), labels=range(classes))),
        ece=expected_calibration_error(np.asarray(known["confidence"], np.float64), right),
        error_left={
            score: error_left((1 if HIGH_IS_SUSPICIOUS[score] else -1) * values[score], right) for score in scores
        },
        rows=len(known),
        unlabelled=len(scored) - len(known),
        unscored=unscored,
        flagged=GroupAccuracy.of(right[flag]),
        unflagged=GroupAccuracy.of(right[~flag]),
        risks=tuple(risk for risk in risks if risk is not None),
    )


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean |accuracy - confidence| over 15 bins, weighted by the number of rows per bin (Guo et al. 2017, eq. 3).

    Args:
        confidence: `[n]`, 0 to 1.
        right: `[n]`, whether the prediction is correct.
    """
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(np.float64) - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))
