"""Ids and copied columns of a run, and the commands that read results whose types differ."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from screen import cli
from tests.conftest import encode


def oodscreen(*words: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["oodscreen", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(ended.value.code or 0)


def write(path: Path, images: pa.Array, **columns: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path)


def test_a_second_night_with_other_types_is_scored_and_all_commands_read_both(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    shards, results = tmp_path / "in", tmp_path / "out"
    data = [encode(digits[row]) for row in range(3)]
    keys = [uuid.UUID(int=row) for row in range(9)]

    def ids(start: int) -> pa.Array:
        return pa.array([key.bytes for key in keys[start : start + 3]], pa.uuid())

    write(shards / "a.parquet", pa.array(data, pa.binary()), id=ids(0), label=pa.array([1, 2, None]))
    scoring = ("run", article_onnx, shards, results, "-T", "2", "--device", "cpu", "--keep", "label")
    assert oodscreen(*scoring, "--flag-if", "entropy >= 0") == 0
    before = (results / "a.parquet").read_bytes()
    in_struct = pa.StructArray.from_arrays([pa.nulls(3, pa.string()), pa.array(data)], ["path", "bytes"])
    write(shards / "b.parquet", pa.array(data, pa.large_binary()), id=ids(3), label=pa.array([1.0, 2.0, None]))
    write(shards / "c.parquet", in_struct, id=ids(6), label=pa.nulls(3))
    assert oodscreen(*scoring, "--flag-if", "entropy >= 0") == 0
    assert (results / "a.parquet").read_bytes() == before
    tables = [pq.read_table(results / name) for name in ("a.parquet", "b.parquet", "c.parquet")]
    assert [table.schema.field("label").type for table in tables] == [pa.int64(), pa.float64(), pa.float64()]
    assert [key for table in tables for key in table["id"].to_pylist()] == [str(key) for key in keys]
    assert oodscreen("check", results, "--input", shards) == 0
    assert oodscreen("report", results, "-o", tmp_path / "page.html") == 0
    assert oodscreen("evaluate", results, "--label-column", "label") == 0
    queue = tmp_path / "queue.parquet"
    assert oodscreen("queue", results, "-o", queue, "--top", "9") == 0
    queued = pq.read_table(queue)["id"].to_pylist()
    assert set(queued) <= {str(key) for key in keys}
    assert len(queued) == 3  # equal images are queued once
