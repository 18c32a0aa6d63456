"""Stream rows, row group by row group, in batches that may span row groups and shards.

In: `ShardRef`s. Out: lists of `RowBatch`es, about as many rows in a list as were asked for. Memory
holds one batch, whatever the size of a row group.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.errors import InputChanged, ReadFailed
from screen.files.paths import open_parquet
from screen.input.mapping import ColumnMapping, is_binary
from screen.input.shards import ShardRef


@dataclass(frozen=True)
class RowBatch:
    """Consecutive rows of one shard.

    Attributes:
        shard: where they are from.
        start: position of the first in the shard.
        count: how many.
        images: the image column; None where this part of the file could not be read.
        ids: one key for each row.
        kept: the columns to copy.
        error: why the rows could not be read, or "".
        is_last: whether the shard ends here.
    """

    shard: ShardRef
    start: int
    count: int
    images: pa.Array | None
    ids: tuple[str, ...]
    kept: pa.Table
    error: str
    is_last: bool

    def split(self, count: int) -> tuple[RowBatch, RowBatch]:
        """The first `count` rows, and the others."""
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

    def take(self, places: NDArray[np.int64]) -> RowBatch:
        """Some of the rows, by their places in the batch; `start` no longer says where they are."""
        return replace(
            self,
            count=len(places),
            images=None if self.images is None else self.images.take(pa.array(places)),
            ids=tuple(self.ids[place] for place in places),
            kept=self.kept.take(pa.array(places)) if self.kept.num_columns else self.kept,
        )


def read_batches(shards: Sequence[ShardRef], columns: ColumnMapping, batch_size: int) -> Iterator[list[RowBatch]]:
    """All rows of all shards, in order, in lists of `batch_size` rows (fewer at the very end).

    A batch may hold the end of one shard and the beginning of the next; a shard without rows is a
    batch of no rows.

    Raises:
        InputChanged: a shard is not the one that was found.
    """
    return in_batches((rows for shard in shards for rows in _read_shard(shard, columns)), batch_size)


def read_groups(shard: ShardRef, columns: ColumnMapping, groups: range, batch_size: int) -> Iterator[list[RowBatch]]:
    """The rows of some row groups of one shard, in lists of `batch_size` rows (fewer at the very end).

    Args:
        shard: the shard.
        columns: what to read.
        groups: consecutive row groups.
        batch_size: rows in a list.

    Raises:
        InputChanged: the shard is not the one that was found.
    """
    return in_batches(_read_shard(shard, columns, groups), batch_size)


def read_chosen_rows(shard: ShardRef, columns: ColumnMapping, places: NDArray[np.int64]) -> Iterator[RowBatch]:
    """Some rows of one shard; only the row groups in which they lie are read.

    Args:
        shard: the shard.
        columns: what to read.
        places: positions in the shard, ascending.

    Raises:
        InputChanged: the shard is not the one that was found.
    """
    ends = np.cumsum(shard.row_groups)
    for group in np.unique(np.searchsorted(ends, places, side="right")).tolist():
        start = int(ends[group]) - shard.row_groups[group]
        for table, error in _read_tables(shard, columns, [group]):
            here = places[(places >= start) & (places < start + len(table))] - start
            if len(here):
                yield _row_batch(shard, columns, start, table, error).take(here)
            start += len(table)


def in_batches(pieces: Iterable[RowBatch], batch_size: int) -> Iterator[list[RowBatch]]:
    """The pieces in lists of `batch_size` rows (fewer at the very end), cut where they must be."""
    waiting: list[RowBatch] = []
    room = batch_size
    for rest in pieces:
        while rest.count > room:
            first, rest = rest.split(room)
            yield [*waiting, first]
            waiting, room = [], batch_size
        waiting.append(rest)
        room -= rest.count
    if waiting:
        yield waiting


def _read_shard(shard: ShardRef, columns: ColumnMapping, groups: range | None = None) -> Iterator[RowBatch]:
    """The rows of one shard, or of some of its row groups, closed by a batch of no rows.

    That batch is the shard's last, if its last row group is among them.
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
    empty = pa.Table.from_arrays([_no_values(field.type) for field in schema], schema=schema)
    yield _row_batch(shard, columns, start, empty, "", is_last=groups.stop == len(shard.row_groups))


def _read_tables(shard: ShardRef, columns: ColumnMapping, groups: Sequence[int]) -> Iterator[tuple[pa.Table, str]]:
    """Tables of at most `_READ_ROWS` rows; a damaged row group as a table of nulls, with the error.

    Args:
        shard: the shard.
        columns: what to read.
        groups: the row groups to read.
    """
    names = columns.names_of(shard)
    schema = pa.schema([shard.schema.field(name) for name in names])
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_parquet(shard.path))
        except (OSError, pa.ArrowException) as error:
            raise _changed(shard) from error
        if file.metadata.num_rows != shard.rows or file.num_row_groups != len(shard.row_groups):
            raise _changed(shard)
        for group in groups:
            rows, done = shard.row_groups[group], 0
            try:
                for batch in file.iter_batches(_READ_ROWS, row_groups=[group], columns=names):
                    done += batch.num_rows
                    yield pa.Table.from_batches([batch]).select(names), ""
            except (OSError, pa.ArrowException) as error:
                if getattr(error, "errno", None) is not None:  # the system's or the store's, not the file's
                    raise _failed(shard, error) from error
                reason = f"row group {group}: {str(error).splitlines()[0]}"
                while done < rows:
                    count = min(_READ_ROWS, rows - done)
                    done += count
                    nulls = [pa.nulls(count, field.type) for field in schema]
                    yield pa.Table.from_arrays(nulls, schema=_nullable(schema)), reason


_READ_ROWS = 1024


def _row_batch(
    shard: ShardRef, columns: ColumnMapping, start: int, table: pa.Table, error: str, *, is_last: bool = False
) -> RowBatch:
    count = len(table)
    ids = [f"{shard.name}:{start + index}" for index in range(count)]
    key_column = columns.id_of(shard)
    if key_column:
        given = _as_texts(table.column(key_column))
        ids = [made if key is None else key for key, made in zip(given, ids, strict=True)]
    images = None if error else _plain(table.column(columns.image)).combine_chunks()
    if isinstance(images, pa.ChunkedArray):
        images = pa.concat_arrays(images.chunks) if images.num_chunks else pa.array([], images.type)
    kept = table.select(list(columns.keep)).cast(columns.kept_schema) if columns.keep else pa.table({})
    return RowBatch(shard, start, count, images, tuple(ids), kept, error, is_last)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values themselves, where a column holds them as a dictionary."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _as_texts(column: pa.ChunkedArray) -> list[str | None]:
    """Keys of any type as text; what is no valid UTF-8 is escaped."""
    column = _plain(column)
    kind = column.type
    try:
        raw = column.cast(pa.string() if not _is_text(kind) else pa.large_binary()).to_pylist()
    except pa.ArrowException:
        raw = [repr(key) if key.is_valid else None for chunk in column.chunks for key in chunk]
    return [key.decode(errors="backslashreplace") if isinstance(key, bytes) else key for key in raw]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)) or (
        is_binary(kind) or bool(pa.types.is_fixed_size_binary(kind))
    )


def _no_values(kind: pa.DataType) -> pa.Array:
    """An array of no values, of any type: pyarrow makes none of tensors whose type names the order of their axes."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    return pa.array([], kind)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _failed(shard: ShardRef, error: Exception) -> ReadFailed:
    return ReadFailed(
        f"{shard.path} could not be read on: {error}.",
        wanted="a disk or a store that answers; a damaged file would have a status instead",
        next_step="run again when it does; finished shards are not repeated",
    )


def _changed(shard: ShardRef) -> InputChanged:
    return InputChanged(
        f"{shard.path} is not the file that was found at the start of the run.",
        wanted="shards that stay as they are while they are read",
        next_step="run again when nothing writes to INPUT; finished shards are not repeated",
    )
