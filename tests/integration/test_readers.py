"""Results open in DuckDB, Polars and Hugging Face datasets with the same values."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from screen.config import RunConfig
from screen.output.quarantine import QUARANTINE_NAME
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, read_results, write_shard

pytestmark = pytest.mark.integration

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def results(article_onnx: Path, digits: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with scored and broken rows, an empty shard, a shard without readable rows, and a kept column."""
    place = tmp_path_factory.mktemp("readers")
    good = [encode(image) for image in digits[:40]]
    write_shard(place / "in" / "a.parquet", [*good, None, b"no image"])
    write_shard(place / "in" / "b.parquet", [])
    write_shard(place / "in" / "sub" / "c.parquet", [None, None])
    config = RunConfig(passes=5, keep=["label"], device="cpu", flag_if="entropy > 0.5 or prediction_std > 0.2")
    run_screening(article_onnx, str(place / "in"), place / "out", config, Recorder())
    return place / "out"


def by_duckdb(folder: Path) -> Rows:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    relation = duckdb.sql(f"select * from '{folder}/**/*.parquet' order by shard, row")  # noqa: S608
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def by_polars(folder: Path) -> Rows:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    rows: Rows = polars.scan_parquet(f"{folder}/**/*.parquet").sort("shard", "row").collect().to_dicts()
    return rows


def by_datasets(folder: Path) -> Rows:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    files = [str(path) for path in sorted(folder.rglob("*.parquet"))]
    loaded = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder.parent / "cache"))
    return sorted((dict(row) for row in loaded), key=lambda row: (row["shard"], row["row"]))


@pytest.mark.filterwarnings("ignore")  # warnings of third-party libraries
@pytest.mark.parametrize("read", [by_duckdb, by_polars, by_datasets])
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
