"""Make tables of result columns.

In: an `ImageBatch` and its `ScoredRows`. Out: an Arrow table, for a result shard or for the Python API.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from screen.columns import DECISION, IDENTITY, SCORES, result_schema
from screen.decide.policy import ScoredRows
from screen.input.decode import ImageBatch
from screen.input.image_bytes import Failure


def make_table(batch: ImageBatch, rows: ScoredRows | None) -> pa.Table:
    """Table with the result columns of all rows of a batch.

    Args:
        batch: the rows, readable and unreadable.
        rows: scores and flags of the readable rows; None if no row is readable.
    """
    columns: dict[str, pa.Array] = {
        "shard": pa.array(np.repeat([piece.shard.name for piece in batch.pieces], _counts(batch)), pa.string()),
        "row": pa.array(np.concatenate([np.arange(p.start, p.start + p.count) for p in batch.pieces])),
        "id": pa.array([key for piece in batch.pieces for key in piece.ids], pa.string()),
    }
    kept = pa.concat_tables([piece.kept for piece in batch.pieces])
    ordered = [columns[column.name] for column in IDENTITY]
    ordered += [column.combine_chunks() if column.num_chunks != 1 else column.chunk(0) for column in kept.columns]
    ordered += make_score_table(batch.readable, rows, batch.failures).itercolumns()
    return pa.Table.from_arrays(ordered, schema=result_schema(kept.schema))


def make_score_table(readable: NDArray[np.bool_], rows: ScoredRows | None, failures: Mapping[int, Failure]) -> pa.Table:
    """Table with the score and decision columns of B rows.

    Args:
        readable: `[B]`, whether each row was scored.
        rows: scores and flags of the readable rows; None if no row is readable.
        failures: status and reason of each row that was not scored, by position of the row.
    """
    scores = {} if rows is None else rows.scores
    position = np.full(len(readable), -1, np.int64)
    position[readable] = np.arange(readable.sum())
    take = pa.array(position, mask=~readable)
    columns: dict[str, pa.Array] = {}
    for column in SCORES:
        if column.name in scores:
            columns[column.name] = _as_arrow(scores[column.name], column.type).take(take)
        else:
            columns[column.name] = pa.nulls(len(readable), column.type)
    columns |= _decision_columns(readable, rows, failures)
    fields = [column.field() for column in (*SCORES, *DECISION)]
    return pa.Table.from_arrays([columns[field.name] for field in fields], schema=pa.schema(fields))


def _decision_columns(
    readable: NDArray[np.bool_], rows: ScoredRows | None, failures: Mapping[int, Failure]
) -> dict[str, pa.Array]:
    """Flag, reasons, passes, status and error of all rows; rows that could not be scored are flagged."""
    size = len(readable)
    flag, passes = np.ones(size, np.bool_), np.zeros(size, np.int32)
    sentences: list[str | None] = [None] * size
    conditions: list[list[str] | None] = [None] * size
    statuses = ["ok"] * size
    errors: list[str | None] = [None] * size
    if rows is not None:
        positions = np.flatnonzero(readable)
        flag[positions], passes[positions] = rows.flag, rows.summary.passes
        for row in np.flatnonzero(rows.flag).tolist():
            position = positions[row]
            sentences[position] = "; ".join(reason.sentence for reason in rows.reasons[row])
            conditions[position] = [reason.condition for reason in rows.reasons[row]]
    for position, (status, error) in failures.items():
        sentences[position] = statuses[position] = status
        conditions[position], errors[position] = [status], error
    return {
        "flag": pa.array(flag),
        "flag_reason": pa.array(sentences, pa.string()),
        "flag_reasons": pa.array(conditions, pa.list_(pa.string())),
        "passes": pa.array(passes),
        "status": pa.array(statuses, pa.string()),
        "error": pa.array(errors, pa.string()),
    }


def _counts(batch: ImageBatch) -> list[int]:
    """Number of rows in each piece of a batch."""
    return [piece.count for piece in batch.pieces]


def _as_arrow(values: NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Arrow array of values `[B]`, or list array of values `[B, C]`."""
    if values.ndim == 1:
        return pa.array(values, kind)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel(), kind.value_type))
