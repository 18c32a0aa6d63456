"""Stream rows in batches that may span row groups and shards.

In: `ShardRef`s. Out: lists of `RowBatch`es with `batch_size` rows in total, or fewer if rows are large. Memory depends
on the sizes of rows, pages and dictionaries, but not on the size of a row group: its columns are read in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.errors import InputChanged, InputRefused, ReadFailed
from screen.files.paths import open_parquet
from screen.input.column_types import empty_array
from screen.input.int96 import timestamp_unit
from screen.input.mapping import ColumnMapping
from screen.input.row_bytes import MAX_ROWS, ReadSizes, read_group
from screen.input.shards import ShardRef
from screen.input.value_text import as_texts

_IMAGE_BYTES, _KEPT_BYTES = 32 * 2**20, 8 * 2**20
"""Maximum bytes of the image column, and of the copied columns, in a batch of more than one row; several batches are in
memory at the same time, images only until they are decoded."""

_BUFFER_BYTES = 2**20
"""Bytes that are read at a time from each column of a row group."""


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows of one shard.

    Attributes:
        shard: the shard that contains them.
        start: position of the first row in the shard.
        count: number of rows.
        images: the image column; None if these rows could not be read.
        ids: key of each row.
        kept: the columns to copy into the results.
        error: why the rows could not be read; "" if they were read.
        is_last: whether these are the last rows of the shard.
    """

    shard: ShardRef
    start: int
    count: int
    images: pa.Array | None
    ids: tuple[str, ...]
    kept: pa.Table
    error: str
    is_last: bool

    @property
    def load(self) -> float:
        """Size of the rows, as a fraction of the maximum size of a batch."""
        images = 0 if self.images is None else self.images.nbytes
        return float(max(images / _IMAGE_BYTES, self.kept.nbytes / _KEPT_BYTES))

    def parts(self) -> Iterator[RowBatch]:
        """Yield the rows in parts that fit into a batch; a part of one row may be larger."""
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
            images=None if self.images is None else self.images.take(pa.array(positions)),
            ids=tuple(self.ids[position] for position in positions),
            kept=self.kept.take(pa.array(positions)) if self.kept.num_columns else self.kept,
        )


def read_batches(shards: Sequence[ShardRef], columns: ColumnMapping, batch_size: int) -> Iterator[list[RowBatch]]:
    """All rows of all shards, in order, in lists of `batch_size` rows (the last list, and lists of large rows: fewer).

    A list may hold the end of one shard and the beginning of the next; a shard without rows yields an empty batch.

    Raises:
        InputChanged: a shard changed since it was found.
    """
    return in_batches((rows for shard in shards for rows in _read_shard(shard, columns)), batch_size)


def read_groups(shard: ShardRef, columns: ColumnMapping, groups: range, batch_size: int) -> Iterator[list[RowBatch]]:
    """The rows of some row groups of one shard, in lists of at most `batch_size` rows, as by `read_batches`.

    Args:
        shard: the shard.
        columns: the columns to read.
        groups: indices of consecutive row groups.
        batch_size: rows per list.

    Raises:
        InputChanged: the shard changed since it was found.
    """
    return in_batches(_read_shard(shard, columns, groups), batch_size)


def read_chosen_rows(shard: ShardRef, columns: ColumnMapping, positions: NDArray[np.int64]) -> Iterator[RowBatch]:
    """Some rows of one shard; only the row groups that contain them are read.

    Args:
        shard: the shard.
        columns: the columns to read.
        positions: positions in the shard, ascending.

    Raises:
        InputChanged: the shard changed since it was found.
    """
    ends = np.cumsum(shard.row_groups)
    for group in np.unique(np.searchsorted(ends, positions, side="right")).tolist():
        start = int(ends[group]) - shard.row_groups[group]
        for table, error in _read_tables(shard, columns, [group]):
            here = positions[(positions >= start) & (positions < start + len(table))] - start
            if len(here):
                yield _row_batch(shard, columns, start, table, error).take(here)
            start += len(table)


def in_batches(pieces: Iterable[RowBatch], batch_size: int) -> Iterator[list[RowBatch]]:
    """The pieces in lists of `batch_size` rows; a piece may be split between lists.

    The last list may have fewer rows, and a list whose rows would exceed the maximum size of a batch has fewer.
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


def _read_shard(shard: ShardRef, columns: ColumnMapping, groups: range | None = None) -> Iterator[RowBatch]:
    """The rows of one shard, or of some of its row groups, followed by an empty batch.

    The empty batch has `is_last` set if the shard's last row group was read.
    """
    groups = range(len(shard.row_groups)) if groups is None else groups
    start = sum(shard.row_groups[: groups.start])
    end = sum(shard.row_groups[: groups.stop])
    for table, error in _read_tables(shard, columns, groups):
        yield _row_batch(shard, columns, start, table, error)
        start += len(table)
    if start != end or not shard.is_unchanged():
        raise _changed(shard)
    schema = pa.schema([shard.schema.field(name) for name in columns.names_of(shard)])
    empty = pa.Table.from_arrays([empty_array(field.type) for field in schema], schema=schema)
    yield _row_batch(shard, columns, start, empty, "", is_last=groups.stop == len(shard.row_groups))


def _read_tables(shard: ShardRef, columns: ColumnMapping, groups: Sequence[int]) -> Iterator[tuple[pa.Table, str]]:
    """Yield tables of at most `MAX_ROWS` rows, each with "", or with nulls and the reason why it is unreadable.

    Args:
        shard: the shard.
        columns: the columns to read.
        groups: indices of the row groups to read.

    Raises:
        InputChanged: the shard changed since it was found.
        ReadFailed: the operating system or the store failed.
    """
    names = columns.names_of(shard)
    schema = pa.schema([shard.schema.field(name) for name in names])
    unit = timestamp_unit(shard, names)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_parquet(shard.path, unit, _BUFFER_BYTES))
        except (OSError, pa.ArrowException) as error:
            raise _changed(shard) from error
        if file.metadata.num_rows != shard.rows or file.num_row_groups != len(shard.row_groups):
            raise _changed(shard)
        sizes = ReadSizes(shard.path, file.metadata, names)
        for group in groups:
            rows, done = shard.row_groups[group], 0
            try:
                for table in read_group(file, group, names, sizes.rows_of(group)):
                    done += len(table)
                    yield table.select(names), ""
            except (OSError, pa.ArrowException) as error:
                if getattr(error, "errno", None) is not None:  # from the system or the store: the file is not damaged
                    raise _failed(shard, error) from error
                reason = f"row group {group}: {str(error).splitlines()[0]}"
                while done < rows:
                    count = min(MAX_ROWS, rows - done)
                    done += count
                    nulls = [pa.nulls(count, field.type) for field in schema]
                    yield pa.Table.from_arrays(nulls, schema=_nullable(schema)), reason


def _row_batch(
    shard: ShardRef, columns: ColumnMapping, start: int, table: pa.Table, error: str, *, is_last: bool = False
) -> RowBatch:
    count = len(table)
    ids = [f"{shard.name}:{start + index}" for index in range(count)]
    key_column = columns.id_of(shard)
    if key_column:
        given = as_texts(table.column(key_column))
        if table.column(key_column).type != shard.schema.field(key_column).type:  # INT96 in us, not in ns
            given = [None if key is None else f"{key}000" for key in given]
        ids = [made if key is None else key for key, made in zip(given, ids, strict=True)]
    images = None if error else _plain(table.column(columns.image)).combine_chunks()
    if isinstance(images, pa.ChunkedArray):
        images = pa.concat_arrays(images.chunks) if images.num_chunks else pa.array([], images.type)
    kept = _copied(shard, columns, table)
    return RowBatch(shard, start, count, images, tuple(ids), kept, error, is_last)


def _copied(shard: ShardRef, columns: ColumnMapping, table: pa.Table) -> pa.Table:
    """The columns to copy into the results, in the types of the results.

    Raises:
        InputRefused: the type in the results cannot represent a value.
    """
    copied = []
    for field in columns.kept_schema:
        column = table.column(field.name)
        try:
            copied.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise InputRefused(
                f"The column {field.name!r} of {shard.name} has the type {column.type}, and a value that {field.type}, "
                f"the common type of all shards, cannot represent: {str(error).splitlines()[0]}.",
                wanted="one type that represents every value of the column exactly",
                next_step=f"leave out the column {field.name!r}, or write all shards with the same type",
            ) from error
    return pa.Table.from_arrays(copied, schema=columns.kept_schema)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, dictionary decoded."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _failed(shard: ShardRef, error: Exception) -> ReadFailed:
    return ReadFailed(
        f"{shard.path} could not be read: {error}.",
        wanted="a disk or an object store without read errors (unreadable rows of a damaged file get a status instead)",
        next_step="check the disk or the object store, then run the command again (`oodscreen run` skips finished "
        "shards)",
    )


def _changed(shard: ShardRef) -> InputChanged:
    return InputChanged(
        f"{shard.path} changed or was removed after the command started.",
        wanted="shards that do not change while they are read",
        next_step="run the command again when no process writes to INPUT (`oodscreen run` skips finished shards)",
    )
