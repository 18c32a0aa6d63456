"""Scores in the types of the result columns.

In: a `PassSummary`. Out: an array for each score column, in the column's type. Flag rules use these arrays, so that
users can verify a flag from the written columns.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from screen.columns import SCORES
from screen.engine.statistics import PassSummary


def score_columns(summary: PassSummary) -> dict[str, NDArray[Any]]:
    """Scores of B rows by column name, `[B]` or `[B, C]`, in the types of the result columns; without null columns."""
    columns: dict[str, NDArray[Any]] = {}
    for column in SCORES:
        values = getattr(summary, column.name, None)
        if values is not None:
            kind = column.type.value_type if pa.types.is_list(column.type) else column.type
            columns[column.name] = values.astype(kind.to_pandas_dtype())
    return columns
