"""Aggregate result rows batch by batch, in memory that does not grow with the number of rows.

In: batches of result rows with the columns `NEEDED`. Out: histograms, counts by class and by reason, and the positions
of the top-ranked rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from screen.columns import CALIBRATED, SCORES_OF_ALL_FORMATS
from screen.review.results import RowPosition

SCALARS = tuple(column.name for column in SCORES_OF_ALL_FORMATS if column.type in (pa.float32(), pa.float64()))
"""Scores with one number per row."""

NEEDED = ("prediction", *SCALARS, "flag", "flag_reasons", "status")
"""Columns that `Aggregate.add` reads."""

ORDER = ("ood_score", "largest_label_entropy", "entropy", "largest_std")
"""Scores that rank rows if the default score of a queue is null, in order of preference."""

_BINS = 96
_SMALLEST_WIDTH = 2.0**-20
_LARGEST_NUMBER = 2**52
"""Maximum bin number; float64 represents all integers up to this number exactly."""

_MOST_REASONS = 1000


class GrowingHistogram:
    """A histogram of at most 96 bins, whose width is doubled whenever a value does not fit.

    The width is a power of two and the edges are multiples of the width, so the result does not depend on the order of
    the values.
    """

    def __init__(self) -> None:
        self._width = _SMALLEST_WIDTH
        self._counts: dict[int, NDArray[np.int64]] = {}

    def add(self, values: NDArray[np.float64], flag: NDArray[np.bool_]) -> None:
        """Count the finite `values` `[n]`, in total and for rows with a `flag` `[n]`."""
        finite = np.isfinite(values)
        values, flag = values[finite], flag[finite]
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        while not self._fits(low, high):
            self._double()
        bins = np.floor_divide(values, self._width).astype(np.int64)  # exact, even if the quotient underflows
        first = int(bins.min())
        rows = np.bincount(bins - first)
        flagged = np.bincount(bins[flag] - first, minlength=len(rows))
        for index in np.flatnonzero(rows).tolist():
            self._count(first + index, np.array([rows[index], flagged[index]]))

    def bins(self, also: Sequence[float] = ()) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
        """Edges `[n + 1]`, rows `[n]` and flagged rows `[n]`, from the first non-empty bin to the last.

        Args:
            also: further values, such as thresholds, for which the width is doubled until they fit too.
        """
        if not self._counts:
            return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
        for value in also:
            while math.isfinite(value) and not self._fits(value, value):
                self._double()
        first, last = min(self._counts), max(self._counts)
        counts = np.zeros((last - first + 1, 2), np.int64)
        for index, both in self._counts.items():
            counts[index - first] = both
        return np.arange(first, last + 2, dtype=np.float64) * self._width, counts[:, 0], counts[:, 1]

    def _fits(self, low: float, high: float) -> bool:
        if max(-low, high) / self._width > _LARGEST_NUMBER:
            return False
        ends = [int(low // self._width), int(high // self._width), *self._counts]
        return max(ends) - min(ends) < _BINS

    def _double(self) -> None:
        self._width *= 2
        old, self._counts = self._counts, {}
        for index, both in old.items():
            self._count(index // 2, both)

    def _count(self, index: int, both: NDArray[np.int64]) -> None:
        self._counts[index] = self._counts.get(index, 0) + both


class Aggregate:
    """Running counts of the result rows, and the top-ranked rows so far.

    Args:
        top: number of top-ranked rows to keep.
        review_rate: target rate; rows with a p-value up to this rate are counted in `by_calibration`. None
            without a calibration.
        score: the score that ranks rows; if it is null, the first score of `ORDER` that is not null.
        high: whether high values of the score are suspicious.
    """

    def __init__(self, top: int, review_rate: float | None, score: str = ORDER[0], *, high: bool = True) -> None:
        self.rows = self.readable = self.flagged = self.all_flagged = self.by_calibration = 0
        self.histograms = {name: GrowingHistogram() for name in SCALARS}
        self.classes: Counter[int] = Counter()
        self.flagged_classes: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.order, self.high = "", True
        self._orders = {**dict.fromkeys(ORDER, True), score: high}
        self._first = score
        self._top, self._review_rate = top, review_rate
        self._best = np.zeros((0, 4))  # flagged, score, -shard, -row

    def add(self, shard: int, start: int, table: pa.Table) -> None:
        """Count one batch of a shard's rows.

        Args:
            shard: index of the shard; shards are added in ascending order.
            start: position of the batch's first row in the shard.
            table: the batch, with the columns `NEEDED`.
        """
        self.rows += len(table)
        self.all_flagged += pc.sum(table["flag"]).as_py() or 0
        is_ok = pc.equal(table["status"], "ok")
        positions = np.flatnonzero(np.asarray(is_ok)) + start
        table = table.filter(is_ok)
        if not len(table):
            return
        flag = np.asarray(table["flag"])
        self.readable += len(table)
        self.flagged += int(flag.sum())
        for name, histogram in self.histograms.items():
            if table[name].null_count < len(table):
                histogram.add(np.asarray(table[name], np.float64), flag)
        if self._review_rate is not None:
            self.by_calibration += int(np.sum(np.asarray(table["p_value"], np.float64) <= self._review_rate))
        self._count_classes(table["prediction"], flag)
        reasons = pc.binary_join(table["flag_reasons"].filter(table["flag"]), "; ")
        for counted in reasons.value_counts().to_pylist():
            if counted["values"] is not None and (
                counted["values"] in self.reasons or len(self.reasons) < _MOST_REASONS
            ):
                self.reasons[counted["values"]] += counted["counts"]
        self._remember(shard, positions, flag, table)

    def top_rows(self) -> list[RowPosition]:
        """Positions of the top-ranked rows: flagged rows first, then by `order`, then in the order of the results."""
        return [RowPosition(-int(shard), -int(row)) for _, _, shard, row in self._best]

    def uncalibrated_order(self) -> str:
        """The first score of `ORDER` that is not null and needs no calibration; "" if there is none."""
        names = [name for name in ORDER if name not in CALIBRATED]
        return next((name for name in names if len(self.histograms[name].bins()[1])), "")

    def _count_classes(self, prediction: pa.ChunkedArray, flag: NDArray[np.bool_]) -> None:
        if prediction.null_count:
            return
        classes = np.asarray(prediction)
        for counter, chosen in ((self.classes, classes), (self.flagged_classes, classes[flag])):
            numbers, counts = np.unique(chosen, return_counts=True)
            counter.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))

    def _remember(self, shard: int, positions: NDArray[np.int64], flag: NDArray[np.bool_], table: pa.Table) -> None:
        if not self.order:
            names = (self._first, *ORDER)
            self.order = next((name for name in names if not table[name].null_count), "")
            self.high = self._orders.get(self.order, True)
        scores = np.asarray(table[self.order], np.float64) if self.order else np.zeros(len(table))
        scores = scores if self.high else -scores
        scores = np.nan_to_num(scores, nan=-np.inf)
        new = np.stack([flag, scores, np.full(len(positions), -shard), -positions], axis=1)
        both = np.concatenate([self._best, new])
        self._best = both[np.lexsort(both.T[::-1])[::-1][: self._top]]
