"""`oodscreen evaluate`: measure how well each score detects out-of-distribution rows and ranks wrong predictions.

In: results of in-distribution rows and of any number of out-of-distribution sets. Out: an `Evaluation`. The metrics are
scikit-learn's, except the expected calibration error, which scikit-learn lacks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from export.errors import InputRefused, OptionRefused
from screen.columns import DISTANCES, FEATURE_DISTANCE, SCORES_OF_ALL_FORMATS
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.files.paths import as_path
from screen.files.storage import list_shards
from screen.output.manifest_file import MANIFEST_NAME
from screen.review.extras import missing_library
from screen.review.results import add_missing_scores, open_results

SHARES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
"""Reviewed fractions of the rows at which the error rate of the other rows is measured."""

_BINS = 15
_NAMES = ("prediction", "mean", "flag", "status")


@dataclass(frozen=True)
class Separation:
    """How well one score separates one out-of-distribution set from in-distribution rows.

    Attributes:
        score: the score's column.
        auroc: area under the ROC curve, 0.5 for chance.
        aupr: area under the precision-recall curve (average precision), with out-of-distribution rows as positives.
        fpr95: share of out-of-distribution rows accepted at the threshold that accepts 95 % of in-distribution rows.
    """

    score: str
    auroc: float
    aupr: float
    fpr95: float


@dataclass(frozen=True)
class SetEvaluation:
    """Metrics of one out-of-distribution set.

    Attributes:
        name: RESULTS of the set, as given by the user.
        rows: number of rows.
        scored: number of scored rows; only these enter the metrics.
        flagged: share of all rows that the run flagged.
        separations: one for each score that is not null.
    """

    name: str
    rows: int
    scored: int
    flagged: float
    separations: tuple[Separation, ...]


@dataclass(frozen=True)
class LabelledEvaluation:
    """Metrics of the in-distribution rows against their labels.

    Attributes:
        accuracy: share of correct predictions.
        nll: mean negative log-likelihood of the label, nats.
        ece: expected calibration error of the confidence, 15 bins of equal width (Guo et al. 2017, eq. 3).
        error_left: for each score, the error rate of the unreviewed rows at each of `SHARES`, if the rows are reviewed
            in the order of the score, most unusual first.
    """

    accuracy: float
    nll: float
    ece: float
    error_left: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of all scores on in-distribution rows and out-of-distribution sets.

    Attributes:
        rows: number of in-distribution rows.
        scored: number of scored in-distribution rows.
        flagged: share of all in-distribution rows that the run flagged.
        labelled: metrics against labels; None without labels.
        sets: metrics of each out-of-distribution set.
    """

    rows: int
    scored: int
    flagged: float
    labelled: LabelledEvaluation | None
    sets: tuple[SetEvaluation, ...]

    def to_json(self) -> str:
        """The evaluation as indented JSON."""
        return json.dumps({**asdict(self), "shares_reviewed": SHARES}, indent=2)


def evaluate_results(known: str, others: Sequence[str], *, label: str | None = None) -> Evaluation:
    """Evaluate every score on in-distribution and out-of-distribution results.

    Args:
        known: results of in-distribution rows: a folder, a file or a glob.
        others: results of out-of-distribution sets.
        label: column with the correct class of each in-distribution row, copied by `--keep`; None without labels.

    Raises:
        InputRefused: a source contains no results or unfinished results, or no in-distribution row was scored.
        OutputLocked: a run is writing the results.
        OptionRefused: scikit-learn is not installed, or the label column does not exist.
    """
    _import_metrics()
    table = _read(known, label)
    readable = _readable(table)
    if not len(readable):
        raise InputRefused(
            f"No row of {known} could be scored.",
            wanted="results with rows of status `ok`",
            next_step="read the reasons in the column `error` of these results",
        )
    scores = [name for name in HIGH_IS_SUSPICIOUS if readable[name].null_count < len(readable)]
    return Evaluation(
        rows=len(table),
        scored=len(readable),
        flagged=_share(table["flag"]),
        labelled=None if label is None else _compare_labels(readable, label, scores),
        sets=tuple(_compare(readable, other, _read(other, None), scores) for other in others),
    )


def separate(known: NDArray[Any], other: NDArray[Any], score: str, *, high_is_unusual: bool) -> Separation:
    """AUROC, AUPR and FPR at 95 % TPR of one score.

    Args:
        known: `[n]`, scores of in-distribution rows.
        other: `[m]`, scores of out-of-distribution rows.
        score: name of the score.
        high_is_unusual: whether high values indicate out-of-distribution rows; False: low values do.
    """
    metrics = _import_metrics()
    turn = 1 if high_is_unusual else -1
    values = turn * np.concatenate([known, other]).astype(np.float64)
    is_other = np.repeat([0, 1], [len(known), len(other)])
    # The threshold accepts the 95 % of in-distribution rows with the lowest scores, including ties at the threshold.
    limit = np.sort(values[: len(known)])[max(0, int(np.ceil(0.95 * len(known))) - 1)]
    return Separation(
        score,
        float(metrics.roc_auc_score(is_other, values)),
        float(metrics.average_precision_score(is_other, values)),
        float(np.mean(values[len(known) :] <= limit)),
    )


def expected_calibration_error(confidence: NDArray[Any], right: NDArray[np.bool_]) -> float:
    """Mean |accuracy - confidence| over 15 bins, weighted by the rows in each bin (Guo et al. 2017, eq. 3).

    Args:
        confidence: `[n]`, 0 to 1.
        right: `[n]`, whether the prediction is correct.
    """
    bins = np.minimum((confidence * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.bincount(bins, weights=right.astype(np.float64) - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def error_left(values: NDArray[Any], right: NDArray[np.bool_]) -> tuple[float, ...]:
    """Error rate of the unreviewed rows at each of `SHARES`; 0 if no row is unreviewed.

    Args:
        values: `[n]`, sort key: rows are reviewed in descending order of their values, ties in the order of the rows.
        right: `[n]`, whether the prediction is correct.
    """
    wrong = ~right[np.argsort(-values, kind="stable")]
    left = []
    for share in SHARES:
        rest = wrong[round(share * len(wrong)) :]
        left.append(float(rest.mean()) if len(rest) else 0.0)
    return tuple(left)


def _compare(known: pa.Table, name: str, table: pa.Table, scores: list[str]) -> SetEvaluation:
    readable = _readable(table)
    separations = [
        separate(_values(known, score), _values(readable, score), score, high_is_unusual=HIGH_IS_SUSPICIOUS[score])
        for score in scores
        if readable[score].null_count < len(readable)
    ]
    return SetEvaluation(name, len(table), len(readable), _share(table["flag"]), tuple(separations))


def _compare_labels(known: pa.Table, label: str, scores: list[str]) -> LabelledEvaluation:
    metrics = _import_metrics()
    if known["prediction"].null_count:
        raise OptionRefused(
            "The in-distribution results hold no predicted class: the column prediction is null.",
            wanted="results of a classifier, because --label compares predicted classes",
            next_step="leave out --label",
        )
    mean = np.stack(known["mean"].to_pylist()).astype(np.float64)
    if mean.shape[1] == 1:
        mean = np.concatenate([1 - mean, mean], axis=1)
    labels = _labels(known[label], label, mean.shape[1])
    right = np.asarray(known["prediction"]) == labels
    mean /= mean.sum(axis=1, keepdims=True)  # the float32 means of a row sum to 1 only approximately
    return LabelledEvaluation(
        accuracy=float(right.mean()),
        nll=float(metrics.log_loss(labels, np.clip(mean, 1e-12, 1), labels=range(mean.shape[1]))),
        ece=expected_calibration_error(np.asarray(known["confidence"], np.float64), right),
        error_left={
            score: error_left((1 if HIGH_IS_SUSPICIOUS[score] else -1) * _values(known, score), right)
            for score in scores
        },
    )


def _labels(column: pa.ChunkedArray, name: str, classes: int) -> NDArray[np.int64]:
    values = np.asarray(column) if pa.types.is_integer(column.type) and not column.null_count else np.array([-1])
    if len(values) != len(column) or values.min() < 0 or values.max() >= classes:
        raise OptionRefused(
            f"--label {name} has type {column.type}, and not every row holds one of the {classes} class numbers.",
            wanted=f"integers from 0 to {classes - 1}",
            next_step="give a column with the number of the correct class in each row",
        )
    return values.astype(np.int64)


def _read(source: str, label: str | None) -> pa.Table:
    """The columns needed for the metrics, of all rows of a source."""
    scores = [column.name for column in SCORES_OF_ALL_FORMATS if column.name in HIGH_IS_SUSPICIOUS]
    required = [*(name for name in scores if name not in (*DISTANCES, FEATURE_DISTANCE.name)), *_NAMES]
    kept = [label] if label else []
    tables = []
    for path in _shards_of(source):
        try:
            names = pq.read_schema(path).names
            missing = [name for name in (*required, *kept) if name not in names]
            present = [name for name in scores if name in names]
            table = None if missing else pq.read_table(path, columns=[*present, *_NAMES, *kept])
        except (OSError, pa.ArrowException) as error:
            raise _no_results(path, str(error).splitlines()[0]) from error
        if table is None:
            if missing == [label]:
                raise OptionRefused(
                    f"{path} has no column {label!r}.",
                    wanted="a column of labels copied by the run",
                    next_step=f"run `oodscreen run` again with --keep {label}",
                )
            raise _no_results(path, f"the file lacks the columns {', '.join(missing[:3])}")
        tables.append(add_missing_scores(table, scores).select([*scores, *_NAMES, *kept]))
    return pa.concat_tables(tables)


def _shards_of(source: str) -> list[Path]:
    """Result shards of a source: those in the manifest; without a manifest, all shards of a folder, file or glob."""
    if not (as_path(source) / MANIFEST_NAME).is_file():
        return list_shards(source)[1]
    results = open_results(source)
    if not results.entries:
        raise InputRefused(
            f"{source} holds no scored shard.",
            wanted="results of `oodscreen run`",
            next_step="run `oodscreen check` on these results",
        )
    return [results.folder / entry.shard for entry in results.entries]


def _readable(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok"))


def _values(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name], np.float64)


def _share(column: pa.ChunkedArray) -> float:
    return float(pc.mean(column.cast(pa.float64())).as_py() or 0.0)


def _no_results(path: Path, why: str) -> InputRefused:
    return InputRefused(
        f"{path} is not a scored shard: {why}.",
        wanted="results of `oodscreen run`",
        next_step="score these rows with `oodscreen run`, and give the OUTPUT folder of that run",
    )


def _import_metrics() -> Any:
    try:
        from sklearn import metrics
    except ImportError as error:
        raise missing_library("scikit-learn", extra="evaluate") from error
    return metrics
