"""Check the row groups of a shard before pyarrow reads them: encryption, row counts, and the memory that pages take.

In: an open shard and the columns to read. Out: nothing, or an ArrowInvalid with the reason why the shard must not be
read. pyarrow aborts the process when the metadata of an encrypted column are requested, and it allocates the memory
that a page header states. Therefore the footer and the page headers of the columns to read are parsed here first; both
are structs in Thrift's compact protocol (https://github.com/apache/parquet-format, `parquet.thrift`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from screen.files.paths import is_local, open_bytes

_MAX_PAGE_BYTES = 192 * 2**20
"""Maximum bytes of a page in memory, unless they are at most `_MAX_PAGE_RATIO` times its bytes in the file."""

_MAX_PAGE_RATIO = 24
"""Maximum ratio of the bytes in memory to the bytes in the file, for a page of more than `_MAX_PAGE_BYTES`."""

_TAIL = 8
"""Bytes after the footer of a Parquet file: the footer's length (4 bytes) and the magic number (4 bytes)."""

_HEADER_BYTES = 256
"""Bytes that are read first for a page header; more bytes are read for a header with long statistics."""

_MAX_HEADER_BYTES = 2**20
_DATA_PAGE, _INDEX_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = range(4)

# Fields of the structs in `parquet.thrift`, by their numbers.
_FILE_ROW_GROUPS = 4
_GROUP_COLUMNS = 1
_CHUNK_METADATA, _CHUNK_CRYPTO = 3, 8
_META_PATH, _META_VALUES, _META_COMPRESSED, _META_DATA_OFFSET, _META_DICTIONARY_OFFSET = 3, 5, 7, 9, 11
_CRYPTO_COLUMN_KEY, _COLUMN_KEY_PATH = 2, 1
_PAGE_TYPE, _PAGE_BYTES, _PAGE_STORED, _PAGE_V1, _PAGE_V2, _PAGE_VALUES = 1, 2, 3, 5, 8, 1


def read_footer(file: BinaryIO) -> bytes:
    """The footer of a Parquet file, followed by its length and the magic number.

    Raises:
        OSError: the file cannot be read.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - _TAIL))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(0, end - _TAIL - length))
    return file.read()


class RowGroupGuard:
    """Refuses row groups that pyarrow must not read.

    Args:
        path: path of the shard.
        schema: the Parquet schema of the shard.
        columns: names of the columns to read.

    Raises:
        ArrowInvalid: the footer is damaged.
        OSError: the file cannot be read.
    """

    def __init__(self, path: Path, schema: pq.ParquetSchema, columns: Sequence[str]) -> None:
        self._path, self._schema, self._columns = path, schema, frozenset(columns)
        with open_bytes(path) as file:
            footer = read_footer(file)
        try:
            groups = _Compact(footer).read_struct().get(_FILE_ROW_GROUPS, [])
            self._groups = [list(self._chunks_of(group.get(_GROUP_COLUMNS, []))) for group in groups]
        except _DAMAGE as error:
            raise pa.ArrowInvalid("The footer is damaged.") from error

    def check(self, group: int, rows: int) -> None:
        """Refuse a row group with an encrypted column, a wrong row count, or pages that take too much memory.

        In an object store, page headers are not read, because each header would need a request. A page header that
        cannot be parsed ends the check of its column: pyarrow reports the page as damaged.

        Args:
            group: index of the row group.
            rows: number of rows of the row group.

        Raises:
            ArrowInvalid: the row group must not be read.
            OSError: the file cannot be read.
        """
        if group >= len(self._groups):
            raise pa.ArrowInvalid("The footer is damaged.")
        for chunk in self._groups[group]:
            if isinstance(chunk, str):
                raise pa.ArrowInvalid(f"The column {chunk!r} is encrypted.")
            if chunk.values != rows and not chunk.is_repeated:
                raise pa.ArrowInvalid(
                    f"The footer states {rows} rows for row group {group}, but {chunk.values} for its columns."
                )
            if is_local(self._path):
                with open_bytes(self._path) as file:
                    _check_pages(file, chunk, group)

    def _chunks_of(self, columns: list[dict[int, Any]]) -> Iterator[_Chunk | str]:
        """The chunks of the columns to read in one row group; for an encrypted column, its name."""
        for index, column in enumerate(columns):
            key = column.get(_CHUNK_CRYPTO, {}).get(_CRYPTO_COLUMN_KEY)
            meta = column.get(_CHUNK_METADATA, {}) if key is None else {}
            path = meta[_META_PATH] if key is None else key[_COLUMN_KEY_PATH]
            if _decode(path[0]) not in self._columns:
                continue
            if key is not None:
                yield _decode(path[0])
                continue
            # As in pyarrow: an offset of 0, or after the start of the data pages, is not the offset of a dictionary.
            start, dictionary = meta[_META_DATA_OFFSET], meta.get(_META_DICTIONARY_OFFSET, 0)
            yield _Chunk(
                name=".".join(map(_decode, path)),
                is_repeated=self._schema.column(index).max_repetition_level > 0,
                values=meta[_META_VALUES],
                start=dictionary if 0 < dictionary < start else start,
                size=meta[_META_COMPRESSED],
            )


@dataclass(frozen=True)
class _Chunk:
    """The values of one column in one row group, as the footer states them.

    Attributes:
        name: name of the column, followed by the names of its nested fields.
        is_repeated: whether the column has lists, so that a row can have several values.
        values: number of values, including nulls.
        start: position of the first page in the file, in bytes.
        size: bytes of all pages in the file.
    """

    name: str
    is_repeated: bool
    values: int
    start: int
    size: int


def _check_pages(file: BinaryIO, chunk: _Chunk, group: int) -> None:
    """Raise ArrowInvalid if a page takes too much memory, or if the pages do not have as many values as the chunk."""
    values = 0
    for page in _read_headers(file, chunk):
        if page is None:
            return
        if page.size > max(_MAX_PAGE_BYTES, _MAX_PAGE_RATIO * page.stored):
            raise pa.ArrowInvalid(
                f"A page of the column {chunk.name!r} in row group {group} has {page.stored} bytes in the file, but "
                f"{page.size} in memory."
            )
        values += page.values
    if values != chunk.values:
        raise pa.ArrowInvalid(
            f"The footer states {chunk.values} values of the column {chunk.name!r} for row group {group}, but its "
            f"pages have {values}."
        )


@dataclass(frozen=True)
class _Page:
    """Size of a page in memory and in the file, in bytes, and its number of values (0 for a dictionary)."""

    size: int
    stored: int
    values: int


def _read_headers(file: BinaryIO, chunk: _Chunk) -> Iterator[_Page | None]:
    """Yield the pages of a chunk; a header that cannot be parsed yields None and ends the iteration."""
    position, end = chunk.start, chunk.start + chunk.size
    while position < end:
        length, page = _HEADER_BYTES, None
        while page is None:
            file.seek(max(0, position))
            data = file.read(length)
            reader = _Compact(data)
            try:
                page = _page_of(reader.read_struct())
            except IndexError:  # the header is longer
                if len(data) < length or length >= _MAX_HEADER_BYTES:
                    break
                length *= 16
            except _DAMAGE:
                break
        if page is None or min(page.size, page.stored, page.values) < 0:
            yield None
            return
        yield page
        position += reader.position + page.stored


def _page_of(header: dict[int, Any]) -> _Page:
    kind = header[_PAGE_TYPE]
    if kind == _DATA_PAGE:
        values = header[_PAGE_V1][_PAGE_VALUES]
    elif kind == _DATA_PAGE_V2:
        values = header[_PAGE_V2][_PAGE_VALUES]
    elif kind in (_INDEX_PAGE, _DICTIONARY_PAGE):
        values = 0
    else:
        raise KeyError(kind)
    return _Page(header[_PAGE_BYTES], header[_PAGE_STORED], values)


class _Compact:
    """Reads values in Thrift's compact protocol.

    Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.

    Args:
        data: the bytes; every method raises IndexError at the end of the bytes, and KeyError for an unknown type.

    Attributes:
        position: index of the next byte.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def read_struct(self) -> dict[int, Any]:
        """The fields of a struct by their numbers."""
        fields: dict[int, Any] = {}
        data, number = self._data, 0
        while True:
            head = data[self.position]
            self.position += 1
            if not head:
                return fields
            number = number + (head >> 4) if head >> 4 else self._read_int()
            kind = head & 15
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._read(kind)

    def _read(self, kind: int) -> Any:
        if kind in (_I16, _I32, _I64):
            return self._read_int()
        if kind == _BINARY:
            return self._take(self._read_varint())
        if kind == _STRUCT:
            return self.read_struct()
        if kind in (_LIST, _SET):
            head = self._data[self.position]
            self.position += 1
            count = head >> 4 if head >> 4 < 15 else self._read_varint()
            return [self._read(head & 15) for _ in range(count)]
        if kind in (_TRUE, _FALSE, _I8):  # booleans in a list have a byte each
            return self._take(1)[0]
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _MAP:
            count = self._read_varint()
            kinds = self._take(1)[0] if count else 0
            return [(self._read(kinds >> 4), self._read(kinds & 15)) for _ in range(count)]
        raise KeyError(kind)

    def _take(self, count: int) -> bytes:
        start = self.position
        self.position += count
        if self.position > len(self._data):
            raise IndexError(self.position)
        return self._data[start : self.position]

    def _read_varint(self) -> int:
        data, position = self._data, self.position
        byte = data[position]
        value, shift = byte & 127, 0
        while byte > 127:
            position, shift = position + 1, shift + 7
            byte = data[position]
            value |= (byte & 127) << shift
        self.position = position + 1
        return value

    def _read_int(self) -> int:
        value = self._read_varint()
        return (value >> 1) ^ -(value & 1)


_TRUE, _FALSE, _I8, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


_DAMAGE = (AttributeError, IndexError, KeyError, RecursionError, TypeError)
"""Exceptions from damaged bytes of a struct: the bytes end early, or a field is missing, has a wrong type or is nested
too deeply."""


def _decode(name: bytes) -> str:
    return name.decode(errors="surrogateescape")
