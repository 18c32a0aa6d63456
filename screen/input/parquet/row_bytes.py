"""Read row groups in pieces by the bytes of their rows, because memory depends on bytes and not on numbers of rows.

In: an open Parquet file. Out: tables of limited size. The bytes of values are measured here too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screen.files.paths import open_bytes

MAX_ROWS = 1024
"""Maximum number of rows that are read at a time."""

_USUAL_BYTES = 8 * 2**20
"""Maximum bytes of the rows that are read at a time, if all rows of the row group have the same size."""

_JOINED_BYTES = 16 * 2**20
"""Bytes of rows at which consecutive reads are joined into a table."""

_WORST_BYTES = 128 * 2**20
"""Maximum bytes of the rows that are read at a time, as far as the metadata limit the size of a row."""

_MAX_UNEVEN_ROWS = 64
"""Maximum number of rows that are read at a time from a row group of more than `_WORST_BYTES`, whose largest rows may
be much larger than its average row."""

_VALUE_BYTES = 8
"""Bytes per value of a column of numbers while pyarrow decodes it: the value and its levels."""

_VARIABLE = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)

_DICTIONARY_ENCODINGS = frozenset({"PLAIN_DICTIONARY", "RLE_DICTIONARY"})
_PREFIX_ENCODING = "DELTA_BYTE_ARRAY"
_HEADER_BYTES = 16


class ReadSizes:
    """Numbers of rows to read at a time from the row groups of one file.

    Args:
        path: path of the file.
        metadata: metadata of the file.
        columns: names of the columns to read.
    """

    def __init__(self, path: Path, metadata: pq.FileMetaData, columns: Sequence[str]) -> None:
        self._path, self._metadata = path, metadata
        tops, nested = set(columns), tuple(f"{name}." for name in columns)
        paths = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
        self._leaves = [index for index, leaf in enumerate(paths) if leaf in tops or leaf.startswith(nested)]

    def rows_of(self, group: int) -> int:
        """Number of rows, from 1 to `MAX_ROWS`, to read at a time from a row group.

        A value in a dictionary is stored once, but each row that refers to it receives a copy. So a row can be as large
        as the dictionary, and few stored bytes can become many.

        Raises:
            OSError: the file cannot be read.
        """
        chunks = self._metadata.row_group(group)
        rows = max(1, chunks.num_rows)
        stored = usual = worst = 0
        for leaf in self._leaves:
            chunk = chunks.column(leaf)
            per_row = -(-chunk.num_values // rows)
            stored += chunk.total_uncompressed_size
            usual += max(chunk.total_uncompressed_size, _VALUE_BYTES * chunk.num_values)
            worst += per_row * self._repeatable_bytes(chunk, _WORST_BYTES // (MAX_ROWS * max(1, per_row)))
        limits = [MAX_ROWS, _USUAL_BYTES * rows // max(1, usual), _WORST_BYTES // max(1, worst)]
        if stored > _WORST_BYTES:
            limits.append(_MAX_UNEVEN_ROWS)
        return int(max(1, min(limits)))

    def _repeatable_bytes(self, chunk: pq.ColumnChunkMetaData, negligible: int) -> int:
        """Maximum size of a value that is stored once for several rows, in bytes; 0 if each value is stored separately.

        Args:
            chunk: the values of one column in one row group.
            negligible: size of all values of the chunk, in bytes, up to which the size of the dictionary is not read.
        """
        encodings = set(chunk.encodings)
        if chunk.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
            return 0
        size = int(chunk.total_uncompressed_size)
        if _PREFIX_ENCODING in encodings:  # a value may repeat the value before it
            return size
        if not encodings & _DICTIONARY_ENCODINGS:
            return 0
        if size <= negligible:
            return size
        start = min(offset for offset in (chunk.data_page_offset, chunk.dictionary_page_offset) if offset)
        with open_bytes(self._path) as file:
            file.seek(start)
            return min(size, _page_bytes(file.read(_HEADER_BYTES), size))


def _page_bytes(header: bytes, default: int) -> int:
    """Uncompressed size of a page in bytes, the second field of its header in Thrift's compact protocol.

    Args:
        header: the first bytes of the header: for each field a byte with its type, then a zigzag varint.
        default: the result if the bytes are not a page header.
    """
    position = size = 0
    for _ in ("type", "uncompressed_page_size"):
        if header[position : position + 1] != b"\x15":
            return default
        size = shift = 0
        while True:
            position += 1
            if position >= len(header):
                return default
            size |= (header[position] & 0x7F) << shift
            shift += 7
            if header[position] < 0x80:
                break
        position += 1
    return size >> 1


def read_group(
    file: pq.ParquetFile, group: int, names: list[str], count: int, most: int = MAX_ROWS
) -> Iterator[pa.Table]:
    """Yield the rows of a row group in tables of at most `most` rows; a table also ends at about `_JOINED_BYTES`.

    Args:
        file: the open shard.
        group: index of the row group.
        names: names of the columns to read.
        count: number of rows to read at a time, at most `most`.
        most: maximum number of rows in a table.

    Raises:
        OSError, pyarrow.ArrowException: the next row cannot be read; all rows before it were yielded.
    """
    done = 0
    try:
        for table in _join(file.iter_batches(count, row_groups=[group], columns=names), count, most):
            done += len(table)
            yield table
    except pa.ArrowNotImplementedError:  # nested values of more than 2 GB in `count` rows, far above the average
        if count == 1:
            raise
        for row, batch in enumerate(file.iter_batches(1, row_groups=[group], columns=names)):
            if row >= done:
                yield pa.Table.from_batches([batch])


def _join(batches: Iterator[pa.RecordBatch], count: int, most: int) -> Iterator[pa.Table]:
    """Join batches of `count` rows; an exception of `batches` is raised after all rows before it were yielded."""
    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    try:
        for batch in batches:
            waiting.append(batch)
            rows, size = rows + batch.num_rows, size + sum(map(_decoded_bytes, batch.columns))
            if rows > most - count or size >= _JOINED_BYTES:
                yield pa.Table.from_batches(waiting)
                waiting, rows, size = [], 0, 0
    except (OSError, pa.ArrowException):
        if waiting:
            yield pa.Table.from_batches(waiting)
        raise
    if waiting:
        yield pa.Table.from_batches(waiting)


def _decoded_bytes(column: pa.Array) -> int:
    """Bytes of a column after a dictionary of texts or bytes is decoded."""
    kind = column.type
    if not pa.types.is_dictionary(kind) or not any(test(kind.value_type) for test in _VARIABLE):
        return int(column.nbytes)
    return int(pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0)


def value_bytes(values: pa.Array | pa.ChunkedArray) -> int:
    """Bytes of the values of a column, the same for every division of the column into chunks."""
    kind = values.type
    if isinstance(values, pa.ChunkedArray):
        return sum(value_bytes(chunk) for chunk in values.chunks)
    if isinstance(values, pa.ExtensionArray):
        return value_bytes(values.storage)
    if pa.types.is_struct(kind):
        return sum(value_bytes(field) for field in values.flatten())
    if pa.types.is_null(kind):
        return 0
    if pa.types.is_map(kind):
        values = values.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
    if pa.types.is_nested(kind):
        return value_bytes(values.flatten())
    if pa.types.is_binary_view(kind) or pa.types.is_string_view(kind):
        values = values.cast(pa.large_binary())
    try:
        return len(values) * int(kind.bit_width) // 8
    except ValueError:  # of variable length
        return int(pc.sum(pc.binary_length(values)).as_py() or 0)
