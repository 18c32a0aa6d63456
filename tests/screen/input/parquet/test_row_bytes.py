from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screen.input.parquet.row_bytes import MAX_ROWS, ReadSizes, read_group, value_bytes

_STRUCT = pa.struct([("text", pa.string()), ("number", pa.int16())])


@pytest.mark.parametrize(
    ("values", "kind", "size"),
    [
        ([1, None, 3], pa.int32(), 12),
        (["a", None, "abc"], pa.string(), 4),
        (["a", None, "abc"], pa.string_view(), 4),
        ([b"a", None, b"abc"], pa.large_binary(), 4),
        ([[1, 2], None, []], pa.list_(pa.int64()), 16),
        ([[1, 2], None, [3, 4]], pa.list_(pa.float32(), 2), 16),
        ([{"text": "abc", "number": 1}, None, {"text": None, "number": 2}], _STRUCT, 9),
        ([[("a", 1), ("bc", 2)], [], None], pa.map_(pa.string(), pa.int8()), 5),
        ([[{"text": "abc", "number": 1}], None, []], pa.list_(_STRUCT), 5),
        ([None, None], pa.null(), 0),
    ],
)
def test_bytes_of_values_do_not_depend_on_chunks_and_slices(values: list[Any], kind: pa.DataType, size: int) -> None:
    whole = pa.array(values, kind)
    assert value_bytes(whole) == size
    chunks = [pa.array([value], kind) for value in values]
    assert value_bytes(pa.chunked_array(chunks)) == size
    assert sum(value_bytes(whole[row : row + 1]) for row in range(len(whole))) == size


def rows_of(path: Path, column: pa.Array | pa.ChunkedArray, **options: Any) -> int:
    """Rows to read at a time from a shard with one row group."""
    pq.write_table(pa.table({"image": column, "other": [0] * len(column)}), path, row_group_size=len(column), **options)
    return ReadSizes(path, pq.ParquetFile(path).metadata, ["image"]).rows_of(0)


def test_small_rows_are_read_in_large_numbers(tmp_path: Path) -> None:
    values = pa.array([b"%05d" % row for row in range(5000)])
    assert rows_of(tmp_path / "a.parquet", values) == MAX_ROWS
    assert rows_of(tmp_path / "b.parquet", values, use_dictionary=False) == MAX_ROWS


@pytest.mark.parametrize("use_dictionary", [True, False])
def test_large_rows_are_read_in_small_numbers(tmp_path: Path, use_dictionary: bool) -> None:
    random = np.random.default_rng(0)
    values = pa.array([random.bytes(1_000_000) for _ in range(40)])
    count = rows_of(tmp_path / "a.parquet", values, use_dictionary=use_dictionary)
    assert 1 <= count <= 8


def test_a_large_value_in_a_dictionary_counts_for_each_row(tmp_path: Path) -> None:
    values = pa.array([b"x" * 4_000_000, *[b""] * 5000])
    assert rows_of(tmp_path / "a.parquet", values) * 4_000_000 < 2**28
    # Stored once for one row, it counts in the average.
    assert rows_of(tmp_path / "b.parquet", values, use_dictionary=False) == MAX_ROWS


@pytest.mark.parametrize("kind", [pa.struct([("bytes", pa.binary())]), pa.list_(pa.binary())])
def test_nested_columns_count_by_their_leaves(tmp_path: Path, kind: pa.DataType) -> None:
    value = b"x" * 4_000_000
    row = {"bytes": value} if pa.types.is_struct(kind) else [value]
    assert rows_of(tmp_path / "a.parquet", pa.array([row] * 30, kind)) < 64


def test_values_that_repeat_a_prefix_count_as_whole_values(tmp_path: Path) -> None:
    values = pa.array([b"x" * 1_000_000] * 300)
    options = {"use_dictionary": False, "column_encoding": {"image": "DELTA_BYTE_ARRAY", "other": "PLAIN"}}
    assert rows_of(tmp_path / "a.parquet", values, **options) * 1_000_000 < 2**28


def test_a_dictionary_counts_by_the_values_that_it_becomes(tmp_path: Path) -> None:
    """pyarrow reads a stored dictionary as one; its rows are copies of the entries only later."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 200, pa.int32()), pa.array([bytes(2**20)]))
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet", dictionary_pagesize_limit=2**24)
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        count = ReadSizes(tmp_path / "a.parquet", file.metadata, ["image"]).rows_of(0)
        tables = list(read_group(file, 0, ["image"], count))
    assert sum(map(len, tables)) == 200
    assert max(map(len, tables)) < 16 + count  # 16 MiB, and the last read
