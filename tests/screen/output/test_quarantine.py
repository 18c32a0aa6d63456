from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from export.errors import ExitCode
from screen.config import RunConfig
from screen.output.quarantine import QUARANTINE_NAME, QUARANTINE_SCHEMA
from screen.run.runner import run_screening
from screen.run.summary import RunSummary
from tests.conftest import Recorder, encode, read_results, write_shard


@pytest.fixture
def source(tmp_path: Path, digits: NDArray[np.uint8]) -> Path:
    """A shard of ten good rows, one with unreadable rows, and one that cannot be read."""
    good = [encode(image) for image in digits[:10]]
    write_shard(tmp_path / "in" / "a.parquet", good)
    write_shard(tmp_path / "in" / "b.parquet", [good[0], None, b"nonsense"], ids=["k0", "k1", "k2"])
    (tmp_path / "in" / "c.parquet").write_bytes(b"PAR1")
    return tmp_path / "in"


def run(model: Path, source: Path, **options: object) -> RunSummary:
    config = RunConfig(**{"passes": 2, "device": "cpu", **options})  # type: ignore[arg-type]
    return run_screening(model, str(source), source.parent / "out", config, Recorder())


def listed(source: Path) -> list[dict[str, object]]:
    table = pq.read_table(source.parent / "out" / QUARANTINE_NAME)
    assert table.schema.equals(QUARANTINE_SCHEMA)
    rows: list[dict[str, object]] = table.to_pylist()
    return rows


def test_every_bad_row_and_shard_is_listed_with_its_place_and_reason(article_onnx: Path, source: Path) -> None:
    summary = run(article_onnx, source)
    shard, null, broken = listed(source)
    assert (shard["source"], shard["shard"], shard["row"]) == (str(source / "c.parquet"), "c.parquet", None)
    assert shard["status"] == "unreadable_shard"
    assert shard["error"]
    assert null == {
        "source": str(source / "b.parquet"),
        "shard": "b.parquet",
        "row": 1,
        "id": "k1",
        "status": "null_image",
        "error": "the row has neither bytes nor a path",
    }
    assert (broken["row"], broken["status"]) == (2, "decode_failed")
    assert summary.exit_code is ExitCode.UNREADABLE_INPUT


def test_a_rerun_that_skips_everything_lists_the_same(article_onnx: Path, source: Path) -> None:
    run(article_onnx, source)
    before = (source.parent / "out" / QUARANTINE_NAME).read_bytes()
    assert len(run(article_onnx, source).shards) == 0
    assert (source.parent / "out" / QUARANTINE_NAME).read_bytes() == before


def test_without_bad_rows_the_table_is_empty(article_onnx: Path, source: Path) -> None:
    for name in ("b", "c"):
        (source / f"{name}.parquet").unlink()
    assert run(article_onnx, source).exit_code is ExitCode.DONE
    assert listed(source) == []


def test_force_quarantined_does_only_shards_with_bad_rows(article_onnx: Path, source: Path) -> None:
    """The rows hold paths of images, and the missing files are added later."""
    for shard in source.iterdir():
        shard.unlink()
    root = source.parent / "images"
    root.mkdir()
    data = encode(np.full((28, 28, 1), 9, np.uint8))
    (root / "one.png").write_bytes(data)
    for name, path in (("a", "one.png"), ("b", "two.png")):
        image = pa.array([{"bytes": None, "path": path}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        pq.write_table(pa.table({"image": image}), source / f"{name}.parquet")
    options = {"image_root": str(root)}
    assert run(article_onnx, source, **options).statuses == {"ok": 1, "path_not_found": 1}
    (root / "two.png").write_bytes(data)
    assert run(article_onnx, source, **options).rows == 0
    again = run(article_onnx, source, force="quarantined", **options)
    assert again.reasons == {"b.parquet": "with quarantined rows"}
    assert read_results(source.parent / "out")["status"].to_pylist() == ["ok", "ok"]
    assert listed(source) == []


@pytest.mark.parametrize(
    ("limit", "code"),
    [("1%", 3), ("15%", 3), ("16%", 0), ("1", 3), ("2", 0), ("0", 3), ("100%", 0)],
)
def test_the_limit_decides_between_0_and_3(article_onnx: Path, source: Path, limit: str, code: int) -> None:
    (source / "c.parquet").unlink()
    assert run(article_onnx, source, max_bad_rows=limit).exit_code == code  # 2 of 13 rows, 15.4 %


def test_a_shard_that_cannot_be_read_ends_with_3_whatever_the_limit(article_onnx: Path, source: Path) -> None:
    assert run(article_onnx, source, max_bad_rows="100%").exit_code is ExitCode.UNREADABLE_INPUT


def test_bad_rows_of_a_run_before_still_count(article_onnx: Path, source: Path) -> None:
    """A resumed run ends with the same code as an uninterrupted one."""
    (source / "c.parquet").unlink()
    assert run(article_onnx, source).exit_code == 3
    assert run(article_onnx, source).exit_code == 3


def test_many_good_rows_of_before_do_not_hide_a_bad_night(
    article_onnx: Path, source: Path, digits: NDArray[np.uint8]
) -> None:
    for name in ("b", "c"):
        (source / f"{name}.parquet").unlink()
    assert run(article_onnx, source, max_bad_rows="20%").exit_code == 0
    write_shard(source / "night.parquet", [None])
    summary = run(article_onnx, source, max_bad_rows="20%")
    assert (summary.bad, summary.rows, len(summary.earlier)) == (1, 1, 1)
    assert summary.exit_code == 3
