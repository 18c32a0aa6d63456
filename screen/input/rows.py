"""Stream rows in batches that may span row groups and shards.

In: `ShardRef`s. Out: lists of `RowBatch`es with `batch_size` rows in total, or fewer if rows are large. Memory depends
on the sizes of rows, pages and dictionaries, but not on the size of a row group: its columns are read in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from types import MappingProxyType

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from export.errors import ShardRefused
from screen.files.paths import open_parquet
from screen.input.int96 import timestamp_unit
from screen.input.mapping import ColumnMapping, tensor_shape
from screen.input.parquet.column_types import empty_array, nullable, nulls
from screen.input.parquet.footer import RowGroupGuard
from screen.input.parquet.row_bytes import MAX_ROWS, ReadSizes, read_group
from screen.input.parquet.value_text import as_texts
from screen.input.row_batch import RowBatch, in_batches
from screen.input.shard_errors import SHARD_ERRORS, changed_shard, names_shard, shard_error
from screen.input.shards import ShardRef, first_line

_BUFFER_BYTES = 2**20
"""Bytes that are read at a time from each column of a row group."""

_FEW_ROWS = 16
"""Maximum number of rows in a piece of `read_first_rows`."""


def read_batches(
    shards: Sequence[ShardRef], columns: ColumnMapping, batch_size: int, *, skip_lost: bool = False
) -> Iterator[list[RowBatch]]:
    """Yield all rows of all shards, in order, in lists of `batch_size` rows.

    The last list and lists of large rows have fewer rows. A list may contain the end of one shard and the beginning of
    the next shard; a shard without rows yields an empty batch.

    Args:
        shards: the shards.
        columns: the columns to read.
        batch_size: rows per list.
        skip_lost: whether to continue with the next shard if a shard cannot be read; the unreadable shard then ends
            with an empty batch with the reason in `lost`. Otherwise, the error is raised.

    Raises:
        InputChanged, ReadFailed, ShardRefused: a shard cannot be read.
    """
    read = _read_or_skip if skip_lost else _read_shard
    return in_batches((rows for shard in shards for rows in read(shard, columns)), batch_size)


def read_groups(shard: ShardRef, columns: ColumnMapping, groups: range, batch_size: int) -> Iterator[list[RowBatch]]:
    """Yield the rows of some row groups of one shard, in lists of at most `batch_size` rows, as `read_batches` does.

    Args:
        shard: the shard.
        columns: the columns to read.
        groups: indices of consecutive row groups.
        batch_size: rows per list.

    Raises:
        InputChanged, ReadFailed, ShardRefused: the shard cannot be read.
    """
    return in_batches(_read_shard(shard, columns, groups), batch_size)


def read_chosen_rows(shard: ShardRef, columns: ColumnMapping, positions: NDArray[np.int64]) -> Iterator[RowBatch]:
    """Yield the chosen rows of one shard; only the row groups that contain chosen rows are read.

    Args:
        shard: the shard.
        columns: the columns to read.
        positions: positions of the chosen rows in the shard, ascending.

    Raises:
        InputChanged, ReadFailed, ShardRefused: the shard cannot be read.
    """
    ends = np.cumsum(shard.row_groups)
    groups, firsts = np.unique(np.searchsorted(ends, positions, side="right"), return_index=True)
    lasts = positions[np.append(firsts[1:], len(positions)) - 1]
    starts = ends[groups] - np.asarray(shard.row_groups)[groups]
    needed = dict(zip(groups.tolist(), (lasts + 1 - starts).tolist(), strict=True))
    waiting, start, end = iter(zip(starts.tolist(), lasts.tolist(), strict=True)), 0, -1
    with names_shard(shard):
        for table, error in _read_tables(shard, columns, list(needed), needed=needed):
            if start > end:
                start, end = next(waiting)
            here = positions[(positions >= start) & (positions < start + len(table))] - start
            if len(here):
                first, last = int(here[0]), int(here[-1])
                rows = table[first : last + 1]
                yield _row_batch(shard, columns, start + first, rows, error).take(here - first)
            start += len(table)


def read_first_rows(shard: ShardRef, columns: ColumnMapping, rows: int) -> Iterator[RowBatch]:
    """Yield the first rows of one shard, in small pieces, so that a caller can stop after a few rows.

    Args:
        shard: the shard.
        columns: the columns to read.
        rows: maximum number of rows.

    Raises:
        InputChanged, ReadFailed, ShardRefused: the shard cannot be read.
    """
    start = 0
    with names_shard(shard):
        for table, error in _read_tables(shard, columns, range(len(shard.row_groups)), min(rows, _FEW_ROWS)):
            yield _row_batch(shard, columns, start, table[: rows - start], error)
            start += len(table)
            if start >= rows:
                return


def _read_or_skip(shard: ShardRef, columns: ColumnMapping) -> Iterator[RowBatch]:
    """Yield the rows of one shard, followed by an empty batch, whose `lost` is set if the shard cannot be read.

    Raises:
        OodscreenError: an error that does not concern this shard alone.
    """
    try:
        yield from _read_shard(shard, columns)
        return
    except SHARD_ERRORS as error:
        if not shard.root.exists():  # INPUT no longer exists: every other shard would fail, too
            raise
        reason = error.found
    yield replace(_end_of(shard, columns), lost=reason)


def _read_shard(shard: ShardRef, columns: ColumnMapping, groups: range | None = None) -> Iterator[RowBatch]:
    """Yield the rows of one shard, or of some of its row groups, followed by an empty batch.

    The empty batch has `is_last` set if the shard's last row group was read.
    """
    groups = range(len(shard.row_groups)) if groups is None else groups
    start = sum(shard.row_groups[: groups.start])
    end = sum(shard.row_groups[: groups.stop])
    is_tensor = tensor_shape(shard.schema.field(columns.image).type) is not None
    size, most = 0, max(_LEAST_BYTES, _MOST_RATIO * shard.size)
    with names_shard(shard):
        for table, error in _read_tables(shard, columns, groups):
            batch = _row_batch(shard, columns, start, table, error)
            if batch.images is not None and not is_tensor:  # a tensor of one colour is small in the file
                size += batch.images.nbytes
                if size > most:
                    raise pa.ArrowInvalid(
                        f"The first images take {size} bytes in memory, but the file has only {shard.size} bytes."
                    )
            yield batch
            start += len(table)
    if start != end or not shard.is_unchanged():
        raise changed_shard(shard)
    yield replace(_end_of(shard, columns), start=start, is_last=groups.stop == len(shard.row_groups))


def _end_of(shard: ShardRef, columns: ColumnMapping) -> RowBatch:
    """The empty batch after the last rows of a shard."""
    schema = pa.schema([shard.schema.field(name) for name in columns.names_of(shard)])
    empty = pa.Table.from_arrays([empty_array(field.type) for field in schema], schema=schema)
    return _row_batch(shard, columns, shard.rows, empty, "", is_last=True)


def _read_tables(
    shard: ShardRef,
    columns: ColumnMapping,
    groups: Sequence[int],
    most: int = MAX_ROWS,
    needed: Mapping[int, int] = MappingProxyType({}),
) -> Iterator[tuple[pa.Table, str]]:
    """Yield tables of at most `most` rows, each with ""; for unreadable rows, tables of nulls, each with the reason.

    The caller turns exceptions that are not an `OodscreenError` into an error that names the shard.

    Args:
        shard: the shard.
        columns: the columns to read.
        groups: indices of the row groups to read.
        most: maximum number of rows in a table.
        needed: number of first rows to read, by index of the row group; other row groups are read completely.

    Raises:
        InputChanged: the shard changed since it was found.
        ReadFailed: the operating system or the store failed, or memory is too small.
        ShardRefused: a damaged row group has too many rows, each of which would get a result.
        OSError, ArrowException: the footer is wrong, a column is encrypted, or a page would take too much memory.
    """
    names = columns.names_of(shard)
    schema = pa.schema([shard.schema.field(name) for name in names])
    unit = timestamp_unit(shard, names)
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open_parquet(shard.path, unit, _BUFFER_BYTES))
        except (OSError, pa.ArrowException) as error:
            raise changed_shard(shard) from error
        if file.metadata.num_rows != shard.rows or file.num_row_groups != len(shard.row_groups):
            raise changed_shard(shard)
        sizes = ReadSizes(shard.path, file.metadata, names)
        guard = RowGroupGuard(shard.path, file.metadata.schema, names)
        for group in groups:
            rows, done = shard.row_groups[group], 0
            end, size = needed.get(group, rows), min(most, needed.get(group, most))
            guard.check(group, rows)
            try:
                for table in read_group(file, group, names, min(size, sizes.rows_of(group)), size):
                    done += len(table)
                    yield table.select(names), ""
                    if done >= end and group in needed:
                        break
            except (OSError, pa.ArrowException) as error:
                found = shard_error(shard, error)
                if not isinstance(found, ShardRefused) or rows - done > max(_MAX_LOST_ROWS, shard.size // _LOST_BYTES):
                    raise found from error
                reason = f"row group {group}: {first_line(error)}"
                while done < end:
                    count = min(size, end - done)
                    done += count
                    lost = [pa.nulls(count, field.type) for field in schema]
                    yield pa.Table.from_arrays(lost, schema=nullable(schema)), reason
            if not end <= done <= rows:
                stated = f"The footer states {rows} rows for row group {group}, but its pages have {done}."
                raise pa.ArrowInvalid(stated)


_LEAST_BYTES = 4 * 2**30
"""Maximum bytes of all encoded images of a shard in memory, if `_MOST_RATIO` does not allow more."""

_MOST_RATIO = 256
"""Maximum ratio of the bytes of all encoded images in memory to the bytes of the file. The values of an image column
can be much smaller in the file than in memory only if many rows refer to one entry of a dictionary, or if the values
are not images."""

_MAX_LOST_ROWS = 2**20
"""Maximum number of rows of a damaged row group that each get a result, if `_LOST_BYTES` does not allow more."""

_LOST_BYTES = 16
"""Minimum bytes of the file per lost row of a damaged row group, whose number of rows cannot be verified."""


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
    kept = _copied(shard, columns, None if error else table, count)
    return RowBatch(shard, start, count, images, tuple(ids), kept, error, is_last)


def _copied(shard: ShardRef, columns: ColumnMapping, table: pa.Table | None, count: int) -> pa.Table:
    """The columns to copy into the results, in the types of the results.

    Args:
        shard: the shard.
        columns: the columns to copy.
        table: the rows; None if they cannot be read: all columns are then null, except those of Hive folders.
        count: number of rows.

    Raises:
        ShardRefused: the type in the results cannot represent a value.
    """
    copied = []
    for field in columns.kept_schema:
        if folders := shard.folder_values(field.name):
            copied.append(pa.repeat(pa.scalar(folders[0], pa.string()), count).cast(field.type))
            continue
        if table is None:
            copied.append(nulls(count, field.type))
            continue
        column = table.column(field.name)
        try:
            copied.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise ShardRefused(
                f"The column {field.name!r} of {shard.name} has the type {column.type}, and a value that {field.type}, "
                f"the common type of all shards, cannot represent: {str(error).splitlines()[0]}.",
                wanted="one type that represents every value of the column exactly",
                next_step=f"leave out the column {field.name!r}, or write all shards with the same type",
            ) from error
    return pa.Table.from_arrays(copied, schema=columns.kept_schema)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, without dictionary encoding."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
