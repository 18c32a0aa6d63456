"""`oodscreen evaluate`: measure how well each score detects out-of-distribution rows and ranks wrong predictions.

In: results of in-distribution rows and of any number of out-of-distribution sets. Out: an `Evaluation`. scikit-learn
computes AUROC, AUPR and the negative log-likelihood; this folder contains the code for the other metrics.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from export.errors import InputRefused
from screen.decide.detectors import HIGH_IS_SUSPICIOUS
from screen.review.evaluate.comparable import compare_settings
from screen.review.evaluate.labelled import LabelledEvaluation, compare_labels
from screen.review.evaluate.risk import SHARES
from screen.review.evaluate.shards import import_metrics, read_rows, read_values


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
        name: location of the results of the set, as given by the user.
        rows: number of rows.
        scored: number of scored rows; only these enter the separations.
        flagged: share of all rows that the run flagged.
        separations: metrics of each comparable score that has values in this set and in the in-distribution rows.
    """

    name: str
    rows: int
    scored: int
    flagged: float
    separations: tuple[Separation, ...]


@dataclass(frozen=True)
class Evaluation:
    """Metrics of all scores on in-distribution rows and out-of-distribution sets.

    Attributes:
        rows: number of in-distribution rows.
        scored: number of scored in-distribution rows.
        flagged: share of all in-distribution rows that the run flagged.
        labelled: metrics against labels; None without labels.
        sets: metrics of each out-of-distribution set.
        notes: sentences on settings that differ, which make scores incomparable or only roughly comparable.
    """

    rows: int
    scored: int
    flagged: float
    labelled: LabelledEvaluation | None
    sets: tuple[SetEvaluation, ...]
    notes: tuple[str, ...] = ()

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
        InputRefused: a source contains no results or unfinished results, no in-distribution row was scored or labelled,
            or the results were produced by different models.
        OutputLocked: a run is writing the results.
        OptionRefused: scikit-learn is not installed, the label column does not exist, or the labels do not fit the
            model.
    """
    import_metrics()
    rows = read_rows(known, label)
    own = compare_settings(rows, rows)
    table = rows.table
    scored = _scored(table)
    if not len(scored):
        raise InputRefused(
            f"No row of {known} could be scored.",
            wanted="results with rows of status `ok`",
            next_step="read the reasons in the column `error` of these results",
        )
    scores = [name for name in _scores_of(scored) if name not in own.left_out]
    labelled = None
    if label is not None:
        labelled = compare_labels(scored, label, rows.class_names, scores, unscored=len(table) - len(scored))
    sets, notes = [], list(own.notes)
    for source in others:
        other = read_rows(source, None)
        comparison = compare_settings(rows, other)
        notes += comparison.notes
        usable = [name for name in scores if name not in comparison.left_out]
        sets.append(_compare(scored, other.name, other.table, usable))
    return Evaluation(
        rows=len(table),
        scored=len(scored),
        flagged=_share(table["flag"]),
        labelled=labelled,
        sets=tuple(sets),
        notes=tuple(dict.fromkeys(notes)),
    )


def separate(known: NDArray[Any], other: NDArray[Any], score: str, *, high_is_unusual: bool) -> Separation:
    """AUROC, AUPR and FPR at 95 % TPR of one score.

    Args:
        known: `[n]`, scores of in-distribution rows.
        other: `[m]`, scores of out-of-distribution rows.
        score: name of the score.
        high_is_unusual: whether high values indicate out-of-distribution rows; if False, low values do.
    """
    metrics = import_metrics()
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


def _compare(known: pa.Table, name: str, table: pa.Table, scores: list[str]) -> SetEvaluation:
    scored = _scored(table)
    separations = []
    for score in _scores_of(scored):
        if score in scores:
            values = [read_values(rows, score) for rows in (known, scored)]
            own, others = (column[~np.isnan(column)] for column in values)
            separations.append(separate(own, others, score, high_is_unusual=HIGH_IS_SUSPICIOUS[score]))
    return SetEvaluation(name, len(table), len(scored), _share(table["flag"]), tuple(separations))


def _scores_of(scored: pa.Table) -> list[str]:
    """The scores that have a value in at least one row."""
    present = (name for name in HIGH_IS_SUSPICIOUS if name in scored.column_names)
    return [name for name in present if scored[name].null_count < len(scored)]


def _scored(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], "ok"))


def _share(column: pa.ChunkedArray) -> float:
    return float(pc.mean(column.cast(pa.float64())).as_py() or 0.0)
