"""The scores of a summary as they are written, and as rules read them.

In: a `PassSummary`. Out: an array for each column, in the column's type: a rule decides on the
numbers that a reader of the results sees.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from screen.columns import SCORES
from screen.engine.statistics import PassSummary


def score_columns(summary: PassSummary) -> dict[str, NDArray[Any]]:
    """The scores of B rows as they are written: float32, without those that are null."""
    written: dict[str, NDArray[Any]] = {}
    for column in SCORES:
        values = getattr(summary, column.name, None)
        if values is not None:
            kind = column.type.value_type if pa.types.is_list(column.type) else column.type
            written[column.name] = values.astype(kind.to_pandas_dtype())
    return written
