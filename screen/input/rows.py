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

from export.contract import ModelContract
from export.errors import InputChanged, InputRefused, ReadFailed
from screen.columns import COLUMNS
from screen.config import RunConfig
from screen.input.shards import ShardRef
from screen.places import open_parquet


@dataclass(frozen=True)
class ColumnMapping:
    """Which input columns are read, and as what.

    Attributes:
        image: column of images.
        id: column of keys; None takes `id` in each shard that has one.
        keep: columns to copy.
        kept_schema: their fields.
    """

    image: str
    id: str | None
    keep: tuple[str, ...]
    kept_schema: pa.Schema

    def id_of(self, shard: ShardRef) -> str | None:
        """The shard's column of keys, or None."""
        if self.id is None and shard.schema.names.count(_DEFAULT_ID) == 1:
            return _DEFAULT_ID
        return self.id

    def names_of(self, shard: ShardRef) -> list[str]:
        """All columns of the shard to read, each once."""
        key = self.id_of(shard)
        return list(dict.fromkeys([self.image, *([key] if key else []), *self.keep]))


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


def map_columns(shards: Sequence[ShardRef], config: RunConfig, contract: ModelContract) -> ColumnMapping:
    """Check every shard's schema against what was asked for.

    Raises:
        InputRefused: a column is missing, ambiguous, of a type that cannot be read, or would hide
            a result column.
    """
    key = config.id_column
    keep = tuple(config.keep)
    for name in keep:
        if name in {column.name for column in COLUMNS}:
            raise InputRefused(
                f"--keep {name} would hide the result column of that name.",
                wanted="input columns with names of their own",
                next_step="rename the column in the input, or leave it out",
            )
    for shard in shards:
        for name in (config.image_column, *([key] if key else []), *keep):
            count = shard.schema.names.count(name)
            if count != 1:
                raise InputRefused(
                    f"{shard.name} has {'no' if count == 0 else count} column(s) {name!r}. "
                    f"Its columns: {', '.join(shard.schema.names) or 'none'}.",
                    wanted=f"one column {name!r} in every shard",
                    next_step=_suggest_column(shard.schema, name == config.image_column),
                )
        _check_image_type(shard, config.image_column, contract)
        for name in keep:
            if shard.schema.field(name).type != shards[0].schema.field(name).type:
                raise InputRefused(
                    f"--keep {name}: {shards[0].schema.field(name).type} in {shards[0].name}, "
                    f"but {shard.schema.field(name).type} in {shard.name}.",
                    wanted="one type in every shard",
                    next_step="leave the column out, or write the shards with one type",
                )
    kept_schema = pa.schema([_kept_field(shards[0].schema.field(name)) for name in keep])
    return ColumnMapping(config.image_column, key, keep, kept_schema)


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
_DEFAULT_ID = "id"


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
        _is_binary(kind) or bool(pa.types.is_fixed_size_binary(kind))
    )


def _kept_field(field: pa.Field) -> pa.Field:
    """A copied column as the results have it: plain values, which may be null where a page is damaged."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    return pa.field(field.name, kind, nullable=True)


def _no_values(kind: pa.DataType) -> pa.Array:
    """An array of no values, of any type: pyarrow makes none of tensors whose type names the order of their axes."""
    if isinstance(kind, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(kind, pa.array([], kind.storage_type))
    return pa.array([], kind)


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])


def _suggest_column(schema: pa.Schema, is_image: bool) -> str:
    if not is_image:
        return "name a column that is there"
    fitting = [field.name for field in schema if _image_kind(field.type)]
    if fitting:
        return f"perhaps --image-column {fitting[0]!r}"
    return "give shards with a column of encoded images: binary, or struct<bytes, path>"


def _check_image_type(shard: ShardRef, name: str, contract: ModelContract) -> None:
    kind = shard.schema.field(name).type
    if not _image_kind(kind):
        raise InputRefused(
            f"The column {name!r} of {shard.name} is of type {kind}.",
            wanted="encoded images (binary, or struct<bytes: binary, path: string>) or a fixed-size tensor of uint8",
            next_step=_suggest_column(shard.schema, True),
        )
    shape = tensor_shape(kind)
    if shape is not None and not _tensor_fits(shape, contract):
        resized = contract.resize.method != "none"
        height, width, channels = contract.image_shape
        raise InputRefused(
            f"The column {name!r} of {shard.name} holds tensors of shape {list(shape)}.",
            wanted=f"[height, width, {channels}], which the model's file resizes to {height} x {width}"
            if resized
            else f"{list(contract.image_shape)}, which the model takes",
            next_step="write the tensors in that shape, or give encoded images"
            + ("" if resized else "; or export the model with --resize, if training resized"),
        )


def _tensor_fits(shape: tuple[int, ...], contract: ModelContract) -> bool:
    """Whether tensors of a shape are images for the model: of its size, or of any size if it says how to resize."""
    height, width, channels = contract.image_shape
    if shape == (height * width * channels,):
        return True
    as_image = (*shape, 1) if len(shape) == 2 else shape
    if contract.resize.method != "none":
        return len(as_image) == 3 and as_image[2] == channels and all(as_image)
    return as_image == contract.image_shape


def _image_kind(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _is_binary(kind.field(index).type)
    return _is_binary(kind) or tensor_shape(kind) is not None


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def tensor_shape(kind: pa.DataType) -> tuple[int, ...] | None:
    """The shape of a fixed-size uint8 tensor type; None where it is none."""
    if isinstance(kind, pa.FixedShapeTensorType):
        if kind.permutation is not None and list(kind.permutation) != list(range(len(kind.shape))):
            return None
        return tuple(kind.shape) if pa.types.is_uint8(kind.value_type) else None
    shape: list[int] = []
    while pa.types.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape) if shape and pa.types.is_uint8(kind) else None


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
