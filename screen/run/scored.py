"""ScoredImages: the result of `Screener.score`, as arrays and as tables with the result columns.

In: the scores of the readable images, and the failures of the other images. Out: arrays `[B]` and `[B, C]`, Arrow
tables and pandas frames.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.errors import OptionRefused
from screen.columns import CALIBRATED, DISTANCES, IDENTITY, SCORES, null_columns
from screen.decide.policy import DecisionPolicy, ScoredRows
from screen.decide.rules.rule import Decision, Reason
from screen.engine.statistics import PassSummary
from screen.input.decode import ImageBatch
from screen.output.result_table import make_score_table

_ID = next(column for column in IDENTITY if column.name == "id")


@dataclass(frozen=True)
class ScoredImages(ScoredRows):
    """B images with their scores and flags; for images that could not be scored, scores are NaN and predictions are -1.

    Attributes:
        table: the score and decision columns of a result shard; the scores of an image that could not be scored are
            null.
    """

    table: pa.Table

    @property
    def status(self) -> list[str]:
        """`[B]`, status of each image: `ok`, or the kind of failure."""
        statuses: list[str] = self.table["status"].to_pylist()
        return statuses

    def to_arrow(self, ids: Sequence[str] | None = None) -> pa.Table:
        """The score and decision columns of a result shard, with the same names, types and field metadata.

        The columns `shard` and `row` are left out.

        Args:
            ids: `[B]`, values of the first column, `id`; None for a table without this column.

        Raises:
            OptionRefused: the number of ids is not B.
        """
        if ids is None:
            return self.table
        if len(ids) != len(self.table):
            raise OptionRefused(
                f"{len(ids)} ids were given for {len(self.table)} images.",
                wanted="one id for each image",
                next_step="give the ids in the order of the images",
            )
        return self.table.add_column(0, _ID.field(), pa.array([str(one) for one in ids], _ID.type))

    def to_pandas(self, ids: Sequence[str] | None = None) -> Any:
        """The table of `to_arrow` as a pandas frame.

        Raises:
            OptionRefused: pandas is not installed, or the number of ids is not B.
        """
        try:
            importlib.import_module("pandas")  # pyarrow also imports pandas, but its error has no next step
        except ImportError as error:
            raise OptionRefused(
                "pandas is not installed.",
                wanted="pandas, which to_pandas requires",
                next_step="run `pip install pandas`, or use to_arrow()",
            ) from error
        return self.to_arrow(ids).to_pandas()


def collect_scores(
    decoded: ImageBatch,
    summary: PassSummary | None,
    batch: ImageBatch,
    rows: ScoredRows | None,
    contract: ModelContract,
    policy: DecisionPolicy,
) -> ScoredImages:
    """The scores of all images of a batch.

    Args:
        decoded: the images, with the failures of decoding.
        summary: statistics of the readable images of `decoded`; None if none is readable.
        batch: the images, with the failures of decoding and of scoring.
        rows: scores and flags of the readable images of `batch`; None if none is readable in `decoded`.
        contract: contract of the model.
        policy: decision policy of the screener.
    """
    size, flag = len(batch.readable), np.ones(len(batch.readable), np.bool_)
    reasons: list[tuple[Reason, ...]] = [()] * size
    for row, (status, error) in batch.failures.items():
        reasons[row] = (Reason(status, f"{status}: {error}"),)
    if summary is None or rows is None:
        nothing = np.full((size, contract.classes), np.nan)
        whole = PassSummary(np.zeros(size, np.int32), nothing, nothing, nothing[:, 0])
        scores = {
            column.name: np.full((size, contract.classes) if pa.types.is_list(column.type) else size, np.nan)
            for column in SCORES
            if column.name not in null_columns(contract, _filled(policy))
        }
        scores = {name: values if name != "prediction" else np.full(size, -1) for name, values in scores.items()}
    else:
        spread = {field.name: _spread(getattr(summary, field.name), decoded.readable) for field in fields(summary)}
        whole = PassSummary(**spread)
        scores = {name: _spread(values, batch.readable) for name, values in rows.scores.items()}
        positions = np.flatnonzero(batch.readable)
        flag[positions] = rows.flag
        for position, given in zip(positions.tolist(), rows.reasons, strict=True):
            reasons[position] = given
    table = make_score_table(batch.readable, rows, batch.failures)
    return ScoredImages(whole, scores, Decision(flag, reasons), table)


def _filled(policy: DecisionPolicy) -> frozenset[str]:
    """The columns of `CALIBRATED` that the calibration fills."""
    if policy.calibration is None:
        return frozenset()
    return CALIBRATED - (frozenset(DISTANCES) - {distance.name for distance in policy.calibration.distances})


def _spread(values: NDArray[Any] | None, readable: NDArray[np.bool_]) -> Any:
    """Values of the readable rows, `[B_ok, ...]`, at their positions among all rows; the other values are NaN or -1."""
    if values is None:
        return None
    if readable.all():
        return values
    nothing = np.nan if np.issubdtype(values.dtype, np.floating) else -1
    whole = np.full((len(readable), *values.shape[1:]), nothing, values.dtype)
    whole[readable] = values
    return whole
