from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.contract.metadata import ModelContract
from export.contract.reader import ExportedModel
from export.errors import InputChanged
from screen.config import RunConfig
from screen.files.paths import open_parquet
from screen.input.mapping import map_columns
from screen.input.parquet.row_bytes import read_group
from screen.input.row_batch import RowBatch
from screen.input.rows import read_batches, read_chosen_rows
from screen.input.shards import find_shards
from tests.conftest import write_shard


def read(folder: Path, batch_size: int, contract: ModelContract, **options: Any) -> list[list[RowBatch]]:
    shards, _ = find_shards(str(folder))
    columns = map_columns(shards, RunConfig(**options), contract)
    return list(read_batches(shards, columns, batch_size))


def flat(batches: list[list[RowBatch]]) -> list[RowBatch]:
    return [piece for batch in batches for piece in batch]


@pytest.mark.parametrize("batch_size", [1, 7, 64, 121, 1000])
def test_every_row_comes_once_and_in_order(digit_shards: Path, article: ExportedModel, batch_size: int) -> None:
    batches = read(digit_shards, batch_size, article.contract)
    seen = [(p.shard.name, p.start + index, p.ids[index]) for p in flat(batches) for index in range(p.count)]
    shards, _ = find_shards(str(digit_shards))
    wanted = [(s.name, row, f"{Path(s.name).stem}-{row}") for s in shards for row in range(s.rows)]
    assert seen == wanted
    sizes = [sum(piece.count for piece in batch) for batch in batches]
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size


def test_every_shard_ends_once_also_one_without_rows(digit_shards: Path, article: ExportedModel) -> None:
    pieces = flat(read(digit_shards, 50, article.contract))
    assert [piece.shard.name for piece in pieces if piece.is_last] == [
        "a.parquet",
        "b.parquet",
        "c.parquet",
        "sub/d.parquet",
    ]


def test_rows_without_a_key_are_named_by_shard_and_position(tmp_path: Path, article: ExportedModel) -> None:
    write_shard(tmp_path / "a.parquet", [b"x", b"y"])
    (batch,) = read(tmp_path, 9, article.contract, id_column="label")
    assert batch[0].ids == ("0", "1")
    table = pq.read_table(tmp_path / "a.parquet").drop(["id"])
    pq.write_table(table, tmp_path / "a.parquet")
    (batch,) = read(tmp_path, 9, article.contract)
    assert batch[0].ids == ("a.parquet:0", "a.parquet:1")


def test_a_null_key_is_replaced(tmp_path: Path, article: ExportedModel) -> None:
    pq.write_table(pa.table({"image": pa.array([None, None], pa.binary()), "id": ["k", None]}), tmp_path / "a.parquet")
    (batch,) = read(tmp_path, 9, article.contract)
    assert batch[0].ids == ("k", "a.parquet:1")


def write_damaged_shard(path: Path) -> None:
    """300 rows in three row groups, the second of which is damaged."""
    write_shard(path, [b"%05d" % row * 50 for row in range(300)], row_group_size=100)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    start = min(offset for offset in (chunk.data_page_offset, chunk.dictionary_page_offset) if offset)
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)


def test_chosen_rows_come_alone_and_in_order(tmp_path: Path, article: ExportedModel) -> None:
    write_damaged_shard(tmp_path / "a.parquet")
    (shard,), _ = find_shards(str(tmp_path))
    columns = map_columns([shard], RunConfig(), article.contract)
    positions = np.array([0, 99, 150, 199, 200, 299])
    pieces = list(read_chosen_rows(shard, columns, positions))
    assert [key for piece in pieces for key in piece.ids[: piece.count] if not piece.error] == [
        f"a-{position}" for position in (0, 99, 200, 299)
    ]
    assert [piece.count for piece in pieces if piece.error] == [2]
    images = [image["bytes"] for piece in pieces if piece.images is not None for image in piece.images.to_pylist()]
    assert images == [b"%05d" % position * 50 for position in (0, 99, 200, 299)]


def test_a_damaged_row_group_keeps_its_rows(tmp_path: Path, article: ExportedModel) -> None:
    write_damaged_shard(tmp_path / "a.parquet")
    pieces = [piece for piece in flat(read(tmp_path, 64, article.contract)) if piece.count]
    assert sum(piece.count for piece in pieces) == 300
    broken = [piece for piece in pieces if piece.error]
    assert sum(piece.count for piece in broken) == 100
    assert {piece.start // 100 for piece in broken} == {1}
    assert all(piece.images is None and "row group 1" in piece.error for piece in broken)


def test_rows_that_cannot_be_read_together_are_read_one_by_one(
    tmp_path: Path, article: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow cannot read nested values of more than 2 GB at once; here it fails after 600 rows of 700."""
    write_shard(tmp_path / "a.parquet", [b"%d" % row for row in range(700)], row_group_size=700)
    original = pq.ParquetFile.iter_batches

    def fail(file: pq.ParquetFile, count: int, **options: Any) -> Iterator[pa.RecordBatch]:
        if count == 1:
            yield from original(file, 1, **options)
            return
        for start, batch in enumerate(original(file, 300, **options)):
            if start == 2:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", fail)
    pieces = flat(read(tmp_path, 64, article.contract))
    assert not any(piece.error for piece in pieces)
    images = [image["bytes"] for piece in pieces if piece.images is not None for image in piece.images.to_pylist()]
    assert images == [b"%d" % row for row in range(700)]


def test_a_shard_that_is_replaced_while_it_is_read_is_an_error(tmp_path: Path, article: ExportedModel) -> None:
    path = write_shard(tmp_path / "a.parquet", [b"x"] * 50, row_group_size=10)
    shards, _ = find_shards(str(tmp_path))
    columns = map_columns(shards, RunConfig(), article.contract)
    batches = read_batches(shards, columns, 10)
    next(batches)
    write_shard(path, [b"y"] * 50, row_group_size=10)
    with pytest.raises(InputChanged, match="changed or was removed after the command started"):
        list(batches)


def test_a_shard_that_vanishes_is_an_error(tmp_path: Path, article: ExportedModel) -> None:
    path = write_shard(tmp_path / "a.parquet", [b"x"])
    shards, _ = find_shards(str(tmp_path))
    columns = map_columns(shards, RunConfig(), article.contract)
    path.unlink()
    with pytest.raises(InputChanged):
        list(read_batches(shards, columns, 10))


def test_chosen_rows_open_their_shard_once_and_read_no_row_after_the_last(
    tmp_path: Path, article: ExportedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shard(tmp_path / "a.parquet", [b"%d" % row for row in range(300)], row_group_size=100)
    (shard,), _ = find_shards(str(tmp_path))
    columns = map_columns([shard], RunConfig(), article.contract)
    opened: list[Path] = []
    read: list[int] = []

    def count_opened(path: Path, *more: Any) -> Any:
        opened.append(path)
        return open_parquet(path, *more)

    def count_read(*arguments: Any) -> Iterator[pa.Table]:
        for table in read_group(*arguments):
            read.append(len(table))
            yield table

    monkeypatch.setattr("screen.input.rows.open_parquet", count_opened)
    monkeypatch.setattr("screen.input.rows.read_group", count_read)
    positions = np.array([3, 7, 130, 200, 299])
    pieces = list(read_chosen_rows(shard, columns, positions))
    assert [key for piece in pieces for key in piece.ids] == [f"a-{position}" for position in positions.tolist()]
    images = [image["bytes"] for piece in pieces if piece.images is not None for image in piece.images.to_pylist()]
    assert images == [b"%d" % position for position in positions.tolist()]
    assert opened == [shard.path]
    assert read == [8, 31, 100]
