"""Labelled rows for the accuracy check of an export, drawn from all shards, and read and decoded as in a run.

In: a contract and the path of the shards. Out: `LabelledBatch`es.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.contract.labelled import LabelledBatch
from export.contract.metadata import ModelContract
from export.errors import InputRefused
from screen.config import RunConfig
from screen.input.decode import ImageBatch
from screen.input.images import decode_ahead
from screen.input.mapping import ColumnMapping, common_field, map_columns
from screen.input.row_batch import in_batches
from screen.input.rows import read_chosen_rows
from screen.input.shards import ShardRef, find_shards
from screen.overlap import StageClock

_BATCH_ROWS = 256
"""Maximum rows per batch."""

_BATCH_PIXELS = 2**21
"""Maximum pixels per batch; a batch has at least one row."""


def read_labelled(
    contract: ModelContract,
    source: str,
    *,
    label_column: str,
    image_column: str,
    image_root: str | None,
    rows: int,
) -> Iterator[LabelledBatch]:
    """Draw rows uniformly from all shards with a fixed seed, and decode them.

    The columns are checked when the function is called; the rows are read on iteration. Only row groups with drawn rows
    are read.

    Args:
        contract: image size and colour of the model.
        source: a shard, a folder of shards, or a glob.
        label_column: name of the label column.
        image_column: name of the image column.
        image_root: base folder of the paths in the image column; None: no path is read.
        rows: maximum number of rows to draw.

    Raises:
        InputRefused: there are no shards or rows, a column is missing or has an unsupported type, or the types of
            the label column in two shards have no common type.
    """
    config = RunConfig(image_column=image_column, image_root=image_root)
    shards, _ = find_shards(source)
    columns = _add_labels(shards, map_columns(shards, config, contract), label_column)
    chosen = _draw_rows(shards, rows)
    pieces = (piece for shard, positions in chosen for piece in read_chosen_rows(shard, columns, positions))
    size = max(1, min(_BATCH_ROWS, _BATCH_PIXELS // (contract.height * contract.width)))
    return _label(decode_ahead(in_batches(pieces, size), contract, config, StageClock()), label_column)


def _label(batches: Generator[ImageBatch, None, None], label_column: str) -> Iterator[LabelledBatch]:
    """Yield each batch with the labels of its readable rows."""
    with closing(batches):
        for batch in batches:
            labels: list[Any] = [
                label for piece in batch.pieces for label in piece.kept.column(label_column).to_pylist()
            ]
            readable = [label for label, is_readable in zip(labels, batch.readable, strict=True) if is_readable]
            statuses = tuple(status for status, _ in batch.failures.values())
            yield LabelledBatch(batch.images, tuple(readable), statuses)


def _add_labels(shards: list[ShardRef], columns: ColumnMapping, label_column: str) -> ColumnMapping:
    """Add the label column to the mapping; every shard must have exactly one column of this name."""
    for shard in shards:
        count = shard.schema.names.count(label_column)
        if count != 1:
            raise InputRefused(
                f"{shard.name} has {f'{count} columns' if count else 'no column'} {label_column!r}. "
                f"Its columns: {', '.join(shard.schema.names) or 'none'}.",
                wanted="one label column in every shard",
                next_step="give the name of the label column with --label-column",
            )
    return replace(columns, keep=(label_column,), kept_schema=pa.schema([common_field(shards, label_column)]))


def _draw_rows(shards: list[ShardRef], rows: int) -> list[tuple[ShardRef, NDArray[np.int64]]]:
    """Draw rows; return the shards that contain drawn rows, each with the ascending positions of these rows."""
    ends = np.cumsum([shard.rows for shard in shards])
    total = int(ends[-1])
    if not total:
        raise InputRefused(
            f"The {len(shards)} labelled shard(s) contain no rows.",
            wanted="rows with images and labels",
            next_step="check the path given with --check-data",
        )
    drawn = np.sort(np.random.default_rng(0).choice(total, min(rows, total), replace=False))
    parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    starts = ends - [shard.rows for shard in shards]
    return [(shard, part - start) for shard, part, start in zip(shards, parts, starts, strict=True) if len(part)]
