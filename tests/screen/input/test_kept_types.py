"""Copied columns keep their values, even if their types differ between shards; other columns are refused by name."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from export.contract.reader import ExportedModel
from export.errors import InputRefused
from screen.config import RunConfig
from screen.input.mapping import map_columns
from screen.input.rows import read_batches, read_chosen_rows
from screen.input.shards import find_shards

DAY = datetime.datetime(2024, 1, 2, 3, 4, 5, 6)
LAST_DAY = datetime.datetime(9999, 12, 31)
INT96 = {"use_deprecated_int96_timestamps": True}


def write(path: Path, values: pa.Array, **options: Any) -> None:
    images = pa.array([b"x"] * len(values), pa.binary())
    pq.write_table(pa.table({"image": images, "kept": values}), path, **options)


def read(folder: Path, contract: Any, **options: Any) -> tuple[list[pa.Table], list[str]]:
    shards, _ = find_shards(str(folder))
    columns = map_columns(shards, RunConfig(**options), contract)
    pieces = [piece for batch in read_batches(shards, columns, 100) for piece in batch]
    return [piece.kept for piece in pieces if piece.count], [key for piece in pieces for key in piece.ids]


def text(*values: str | None) -> pa.Array:
    return pa.array(values, pa.string())


UNIFIED = {
    "string, large_string": (text("a"), text("b").cast(pa.large_string()), pa.large_string()),
    "large_string, string_view": (
        text("a").cast(pa.large_string()),
        text("b").cast(pa.string_view()),
        pa.large_string(),
    ),
    "string, dictionary": (text("a"), text("b").dictionary_encode(), pa.string()),
    "dictionaries with int8 and int16 indices": (
        text("a").cast(pa.dictionary(pa.int8(), pa.string())),
        text("b").cast(pa.dictionary(pa.int16(), pa.string())),
        pa.string(),
    ),
    "null, string": (pa.nulls(1), text("b"), pa.string()),
    "null, null": (pa.nulls(1), pa.nulls(2), pa.null()),
    "struct, null": (pa.array([{"a": 1}]), pa.nulls(1), pa.struct([("a", pa.int64())])),
    "int8, uint32": (pa.array([-1], pa.int8()), pa.array([2**32 - 1], pa.uint32()), pa.int64()),
    "int64, double": (pa.array([2**53, None]), pa.array([0.5]), pa.float64()),
    "int64, float": (pa.array([2**53]), pa.array([0.5], pa.float32()), pa.float64()),
    "int16, half": (pa.array([2049], pa.int16()), pa.array([0.5], pa.float16()), pa.float32()),
    "us, ns": (pa.array([DAY], pa.timestamp("us")), pa.array([1], pa.timestamp("ns")), pa.timestamp("ns")),
    "decimals": (pa.array([1], pa.decimal128(5, 2)), pa.array([1], pa.decimal128(9, 4)), pa.decimal128(9, 4)),
    "UUID, its bytes": (pa.array([b"0" * 16], pa.uuid()), pa.array([b"1" * 16], pa.binary(16)), pa.binary(16)),
    "list, large_list": (pa.array([["a"]]), pa.array([["b"]], pa.large_list(pa.string())), pa.large_list(pa.string())),
    "list of dictionaries, list": (
        pa.array([["a"]], pa.list_(pa.dictionary(pa.int8(), pa.string()))),
        pa.array([["b"]]),
        pa.list_(pa.string()),
    ),
    "structs with other order": (
        pa.array([{"a": 1, "b": "x"}]),
        pa.array([{"b": "y", "a": 0.5}]),
        pa.struct([("a", pa.float64()), ("b", pa.string())]),
    ),
}


@pytest.mark.parametrize("pair", UNIFIED)
@pytest.mark.hostile(
    "A column for `--keep` whose type differs between shards, for example large_string, ns, double or null after an "
    "upgrade of the program that wrote the shards",
    "the column has the same type in all results, and this type represents every value",
)
def test_types_that_differ_between_shards_are_unified_without_loss(
    pair: str, article: ExportedModel, tmp_path: Path
) -> None:
    one, other, kind = UNIFIED[pair]
    for first, second in ((one, other), (other, one)):
        write(tmp_path / "a.parquet", first)
        write(tmp_path / "b.parquet", second)
        kept, _ = read(tmp_path, article.contract, keep=["kept"])
        assert len({table.schema for table in kept}) == 1
        found = kept[0].schema.field("kept").type
        if not pa.types.is_struct(kind):  # of structs, the first shard gives the order
            assert found == kind
        given = pa.chunked_array([array.cast(found) for array in (first, second)])
        assert pa.concat_tables(kept)["kept"].equals(given)
        assert [value for value in given.to_pylist() if value is not None] or pair == "null, null"


REFUSED = {
    "int64 above 2**53, double": (pa.array([2**53 + 1]), pa.array([0.5])),
    "lists of them": (pa.array([[2**53 + 1]]), pa.array([[0.5]])),
    "uint64 above int64": (pa.array([2**64 - 1], pa.uint64()), pa.array([-1])),
    "us outside ns": (pa.array([LAST_DAY], pa.timestamp("us")), pa.array([1], pa.timestamp("ns"))),
    "text, integers": (text("1"), pa.array([1])),
    "bools, integers": (pa.array([True]), pa.array([1])),
    "with and without time zone": (pa.array([DAY], pa.timestamp("us")), pa.array([DAY], pa.timestamp("us", "UTC"))),
    "date, timestamp": (pa.array([DAY.date()]), pa.array([DAY], pa.timestamp("us"))),
}


@pytest.mark.parametrize("pair", REFUSED)
@pytest.mark.hostile(
    "A column for `--keep` whose types in the shards cannot be unified without a change of values",
    "the error names the column and the shard, and no changed value is written",
)
def test_types_whose_values_would_change_are_refused_by_shard_and_column(
    pair: str, article: ExportedModel, tmp_path: Path
) -> None:
    for first, second in (REFUSED[pair], REFUSED[pair][::-1]):
        write(tmp_path / "a.parquet", first)
        write(tmp_path / "b.parquet", second)
        with pytest.raises(InputRefused, match=r"The column 'kept'.*[ab]\.parquet") as refused:
            read(tmp_path, article.contract, keep=["kept"])
        assert "leave out the column 'kept'" in refused.value.next_step


@pytest.mark.hostile(
    "INT96 timestamps of Spark, Hive or Impala beyond the year 2262, such as 9999-12-31",
    "ids and copied columns contain the dates of the shard",
)
def test_int96_timestamps_keep_distant_dates(article: ExportedModel, tmp_path: Path) -> None:
    values = pa.array([LAST_DAY, DAY, datetime.datetime(1500, 1, 1), None], pa.timestamp("us"))
    write(tmp_path / "a.parquet", values, **INT96)
    write(tmp_path / "b.parquet", values[1:2], **INT96)
    (first, second), ids = read(tmp_path, article.contract, keep=["kept"], id_column="kept")
    assert first["kept"].combine_chunks() == pa.chunked_array([values]).combine_chunks()
    assert second["kept"].to_pylist() == [DAY]
    assert first.schema == second.schema
    near = "2024-01-02 03:04:05.000006000"
    assert ids == ["9999-12-31 00:00:00.000000000", near, "1500-01-01 00:00:00.000000000", "a.parquet:3", near]


def test_int96_timestamps_in_lists_and_structs_keep_distant_dates(article: ExportedModel, tmp_path: Path) -> None:
    kind = pa.list_(pa.struct([("t", pa.timestamp("us"))]))
    values = pa.array([[{"t": LAST_DAY}], [{"t": DAY}]], kind)
    write(tmp_path / "a.parquet", values, **INT96)
    (kept,), _ = read(tmp_path, article.contract, keep=["kept"])
    assert kept["kept"].to_pylist() == values.to_pylist()


def test_int96_timestamps_within_the_range_stay_in_nanoseconds(article: ExportedModel, tmp_path: Path) -> None:
    values = pa.array([1, None, -(10**18)], pa.timestamp("ns"))
    write(tmp_path / "a.parquet", values, **INT96)
    (kept,), ids = read(tmp_path, article.contract, keep=["kept"], id_column="kept")
    assert kept["kept"].combine_chunks() == values
    assert ids[0] == "1970-01-01 00:00:00.000000001"


def test_int96_timestamps_that_no_unit_represents_are_refused(article: ExportedModel, tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pa.array([LAST_DAY], pa.timestamp("us")), **INT96)
    write(tmp_path / "b.parquet", pa.array([1], pa.timestamp("ns")), **INT96)
    with pytest.raises(InputRefused, match=r"The column 'kept' of b\.parquet.*timestamp\[us\]"):
        read(tmp_path, article.contract, keep=["kept"])
    images = pa.array([b"x"], pa.binary())
    columns = {"far": pa.array([LAST_DAY], pa.timestamp("us")), "fine": pa.array([1], pa.timestamp("ns"))}
    (tmp_path / "b.parquet").unlink()
    pq.write_table(pa.table({"image": images, **columns}), tmp_path / "a.parquet", **INT96)
    with pytest.raises(InputRefused, match=r"a\.parquet contain dates outside 1677 to 2262 \(far\).*\(fine\)"):
        read(tmp_path, article.contract, keep=["far", "fine"])
    (kept,), _ = read(tmp_path, article.contract, keep=["far"])
    assert kept["far"].to_pylist() == [LAST_DAY]


def test_uuid_ids_are_canonical_text(article: ExportedModel, tmp_path: Path) -> None:
    values = pa.array([bytes(range(16))], pa.uuid())
    write(tmp_path / "a.parquet", values, store_schema=False)  # the UUID type of Parquet, without Arrow's schema
    shards, _ = find_shards(str(tmp_path))
    columns = map_columns(shards, RunConfig(id_column="kept"), article.contract)
    (batch,) = read_chosen_rows(shards[0], columns, pa.array([0]).to_numpy())
    assert batch.ids == ("00010203-0405-0607-0809-0a0b0c0d0e0f",)
