"""Results open in DuckDB, Polars, pandas and Hugging Face datasets with the same values."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from screen.config import RunConfig
from screen.output.quarantine import QUARANTINE_NAME
from screen.review.queue.config import QueueConfig, TargetConfig
from screen.review.queue.fill import fill_queue
from screen.review.queue.targets import choose_destination
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, read_results, write_shard

pytestmark = pytest.mark.integration

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def results(article_onnx: Path, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with scored and broken rows, an empty shard, a shard without readable rows, and a copied column.

    OUTPUT also holds every other file that it may hold: a ledger, a history, and what killed runs left.
    """
    place = tmp_path_factory.mktemp("readers")
    good = [encode(image) for image in digits[:40]]
    write_shard(place / "in" / "a.parquet", [*good, None, b"no image"])
    write_shard(place / "in" / "b.parquet", [])
    write_shard(place / "in" / "sub" / "c.parquet", [None, None])
    config = RunConfig(passes=5, keep=["label"], device="cpu", flag_if="entropy > 0.5 or prediction_std > 0.2")
    output = place / "out"
    run_screening(article_onnx, str(place / "in"), output, config, Recorder())
    destination = partial(choose_destination, config=TargetConfig(output=str(place / "q.parquet")))
    fill_queue(str(output), QueueConfig(), destination)
    for file in (output / "_queue.ledger").glob("_*.pq"):  # as an earlier version has named it
        file.rename(file.with_name(file.name.removeprefix("_")))
    fill_queue(
        str(output), QueueConfig(), partial(choose_destination, config=TargetConfig(output=str(place / "r.csv")))
    )
    for other in (
        "_history/_20260101T030000.000000Z.json",
        "_manifest.1-of-2.jsonl",
        "sub/.oodscreen-0123456789abcdef",
        "_lock.holder",
    ):
        (output / other).parent.mkdir(exist_ok=True)
        (output / other).write_bytes(b"{}")
    assert list((output / "_queue.ledger").glob("*.pq"))
    return output


def by_duckdb(folder: Path) -> Rows:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    relation = duckdb.sql(f"select * from '{folder}/**/*.parquet' order by shard, row")  # noqa: S608
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def by_duckdb_from_the_folder(folder: Path) -> Rows:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    relation = duckdb.read_parquet(str(folder)).order("shard, row")
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def by_polars(folder: Path) -> Rows:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    rows: Rows = polars.read_parquet(f"{folder}/**/*.parquet").sort("shard", "row").to_dicts()
    return rows


def by_lazy_polars(folder: Path) -> Rows:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    rows: Rows = polars.scan_parquet(f"{folder}/**/*.parquet").sort("shard", "row").collect().to_dicts()
    return rows


def by_lazy_polars_from_the_folder(folder: Path) -> Rows:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    frame = polars.scan_parquet(f"{folder}/", hidden_file_prefix=("_", "."))
    rows: Rows = frame.sort("shard", "row").collect().to_dicts()
    return rows


def by_pyarrow_from_the_folder(folder: Path) -> Rows:
    rows: Rows = pq.read_table(f"{folder}/").sort_by([("shard", "ascending"), ("row", "ascending")]).to_pylist()
    return rows


def by_pandas_from_the_folder(folder: Path) -> Rows:
    """As Arrow, because pandas has no integers and texts that can be missing by default."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.read_parquet(f"{folder}/", dtype_backend="pyarrow").sort_values(["shard", "row"])
    assert list(pandas.read_parquet(f"{folder}/").columns) == list(frame.columns)
    rows: Rows = pa.Table.from_pandas(frame, preserve_index=False).to_pylist()
    return rows


def by_datasets(folder: Path) -> Rows:
    return load(folder, data_files=f"{folder}/**/*.parquet")


def by_datasets_from_the_folder(folder: Path) -> Rows:
    return load(folder, data_dir=str(folder), data_files="**/*.parquet")


def load(folder: Path, **where: str) -> Rows:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    cache = folder.parent / f"cache-{len(where)}"
    loaded = datasets.load_dataset("parquet", split="train", cache_dir=str(cache), **where)
    return sorted((dict(row) for row in loaded), key=lambda row: (row["shard"], row["row"]))


READERS: tuple[Callable[[Path], Rows], ...] = (
    by_duckdb,
    by_duckdb_from_the_folder,
    by_polars,
    by_lazy_polars,
    by_lazy_polars_from_the_folder,
    by_pyarrow_from_the_folder,
    by_pandas_from_the_folder,
    by_datasets,
    by_datasets_from_the_folder,
)


def test_all_shards_have_one_schema(results: Path) -> None:
    """Also an empty shard and a shard without a readable row."""
    schemas = [pq.read_schema(path) for path in sorted(results.rglob("*.parquet"))]
    assert len(schemas) == 3
    assert all(schema.equals(schemas[0], check_metadata=True) for schema in schemas)


@pytest.mark.filterwarnings("ignore")  # warnings of third-party libraries
def test_a_reader_of_every_file_in_a_folder_refuses_the_folder_by_itself(results: Path, tmp_path: Path) -> None:
    """Polars and datasets then read no file of another kind as results; the glob is what they take."""
    polars = pytest.importorskip("polars", reason="polars is not installed")
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    with pytest.raises(polars.exceptions.InvalidOperationError, match="different file extensions"):
        polars.read_parquet(f"{results}/")
    with pytest.raises(pa.ArrowInvalid):
        datasets.load_dataset("parquet", data_dir=str(results), cache_dir=str(tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore")  # warnings of third-party libraries
@pytest.mark.parametrize("read", READERS)
def test_results_open_elsewhere_with_the_same_values(read: Callable[[Path], Rows], results: Path) -> None:
    expected = read_results(results).to_pylist()
    found = read(results)
    assert len(found) == len(expected) == 44
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name, value in other.items():
            same = one[name] == value or (isinstance(value, float) and math.isclose(one[name], value, rel_tol=0))
            assert same, (name, one[name], value)


@pytest.mark.filterwarnings("ignore")
def test_the_quarantine_opens_elsewhere_and_is_not_read_as_a_shard(results: Path) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    expected = pq.read_table(results / QUARANTINE_NAME).to_pylist()
    assert [row["shard"] for row in expected] == ["a.parquet", "a.parquet", "sub/c.parquet", "sub/c.parquet"]
    assert polars.read_parquet(results / QUARANTINE_NAME).to_dicts() == expected
    counted = duckdb.sql(f"select count(*) from read_parquet('{results / QUARANTINE_NAME}')").fetchall()  # noqa: S608
    assert counted == [(4,)]
