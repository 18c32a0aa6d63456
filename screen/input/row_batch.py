"""Rows of a shard, and lists of them with a limited size.

In: rows as they are read from a shard. Out: `RowBatch`es, and lists of `RowBatch`es with a given number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from screen.input.shards import ShardRef

_IMAGE_BYTES, _KEPT_BYTES = 32 * 2**20, 8 * 2**20
"""Maximum bytes of the image column, and of the copied columns, in a batch of more than one row; several batches are in
memory at the same time, their encoded images only until the images are decoded."""


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows of one shard.

    Attributes:
        shard: the shard that contains the rows.
        start: position of the first row in the shard.
        count: number of rows.
        images: the image column; None if these rows could not be read.
        ids: id of each row: the value of the id column, or `SHARD:ROW` if there is no value.
        kept: the columns to copy into the results.
        error: why the rows could not be read; "" if they were read.
        is_last: whether this is the empty batch that ends the shard.
        lost: why the rest of the shard cannot be read, or "". A batch with this reason is the last of its shard and has
            no rows, and no result is written for the shard.
    """

    shard: ShardRef
    start: int
    count: int
    images: pa.Array | None
    ids: tuple[str, ...]
    kept: pa.Table
    error: str
    is_last: bool
    lost: str = ""

    @property
    def load(self) -> float:
        """Size of the rows, as a fraction of the maximum size of a batch."""
        images = 0 if self.images is None else self.images.nbytes
        return float(max(images / _IMAGE_BYTES, self.kept.nbytes / _KEPT_BYTES))

    def parts(self) -> Iterator[RowBatch]:
        """Yield the rows in parts whose average size fits into a batch; a part of one row may be larger."""
        rest, count = self, max(1, int(self.count / max(1.0, self.load)))
        while rest.count > count:
            first, rest = rest.split(count)
            yield first
        yield rest

    def split(self, count: int) -> tuple[RowBatch, RowBatch]:
        """Split into the first `count` rows and the remaining rows."""
        images = (None, None) if self.images is None else (self.images[:count], self.images[count:])
        first = replace(
            self, count=count, images=images[0], ids=self.ids[:count], kept=self.kept.slice(0, count), is_last=False
        )
        rest = replace(
            self,
            start=self.start + count,
            count=self.count - count,
            images=images[1],
            ids=self.ids[count:],
            kept=self.kept.slice(count),
        )
        return first, rest

    def take(self, positions: NDArray[np.int64]) -> RowBatch:
        """The rows at some positions in the batch, which need not be consecutive; `start` of the result is invalid."""
        return replace(
            self,
            count=len(positions),
            images=None if self.images is None else _take(self.images, positions),
            ids=tuple(self.ids[position] for position in positions),
            kept=_take(self.kept, positions) if self.kept.num_columns else self.kept,
        )


def _take(values: Any, positions: NDArray[np.int64]) -> Any:
    """The values of an array, or the rows of a table, at some positions."""
    try:
        return values.take(pa.array(positions))
    except pa.ArrowNotImplementedError:  # pyarrow 26 takes no values of the types string_view and binary_view
        slices = [values.slice(position, 1) for position in positions] or [values.slice(0, 0)]
        return (pa.concat_tables if isinstance(values, pa.Table) else pa.concat_arrays)(slices)


def in_batches(pieces: Iterable[RowBatch], batch_size: int) -> Iterator[list[RowBatch]]:
    """Yield the pieces in lists of `batch_size` rows; a piece may be split between lists.

    A list has fewer rows if it is the last list, or if more rows would exceed the maximum size of a batch.
    """
    waiting: list[RowBatch] = []
    room, load = batch_size, 0.0
    for rest in (part for piece in pieces for part in piece.parts()):
        if waiting and load + rest.load > 1:
            yield waiting
            waiting, room, load = [], batch_size, 0.0
        while rest.count > room:
            first, rest = rest.split(room)
            yield [*waiting, first]
            waiting, room, load = [], batch_size, 0.0
        waiting.append(rest)
        room -= rest.count
        load += rest.load
    if waiting:
        yield waiting
