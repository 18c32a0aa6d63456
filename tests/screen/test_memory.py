"""Memory of a run depends on the bytes of its rows, not on their number: peaks of whole commands in child processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from tests.conftest import IMAGE_TYPE, contents, encode, oodscreen

_MIB = 2**20

_MEASURED = """
import json, resource, subprocess, sys
ended = subprocess.run(sys.argv[1:], capture_output=True, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps([ended.returncode, peak, ended.stderr]))
"""


def run(model: Path, folder: Path, *options: str) -> tuple[pq.ParquetFile, int]:
    """Run `oodscreen run` over FOLDER/in in a child process; gives the results, and its peak memory in MiB."""
    if sys.platform == "win32":
        pytest.skip("Windows has no getrusage")
    command = [str(Path(sys.executable).with_name("oodscreen")), "run", str(model), str(folder / "in")]
    command += [str(folder / "out"), "-T", "1", "--device", "cpu", "--threads", "2", *options]
    ended = subprocess.run([sys.executable, "-c", _MEASURED, *command], capture_output=True, text=True, check=True)
    code, peak, errors = json.loads(ended.stdout)
    assert code == 0, errors
    (path,) = (folder / "out").glob("*.parquet")
    return pq.ParquetFile(path), peak // _MIB


def large_images(digit: NDArray[np.uint8], count: int, size: int) -> list[dict[str, Any]]:
    """Rows with different bytes: an image, and random bytes behind its end, which no decoder reads."""
    random, image = np.random.default_rng(0), encode(digit)
    return [{"bytes": image + random.bytes(size - len(image)), "path": None} for _ in range(count)]


@pytest.mark.hostile(
    "100 images of 2.2 MB each in one row group, in the layout of Hugging Face",
    "all rows are scored; the row group is read in pieces, so its size has no effect on the memory",
)
def test_large_images_in_one_row_group_do_not_fill_the_memory(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    rows = large_images(digits[0], 100, 2_200_000)
    chunks = [pa.array(rows[start : start + 10], IMAGE_TYPE) for start in range(0, 100, 10)]
    pq.write_table(pa.table({"image": pa.chunked_array(chunks)}), tmp_path / "in" / "a.parquet", row_group_size=100)
    results, peak = run(article_onnx, tmp_path)
    assert set(results.read(["status"])["status"].to_pylist()) == {"ok"}
    assert peak < 700


@pytest.mark.hostile(
    "A column for `--keep` whose large value is stored once, in a dictionary, for many rows",
    "all rows are scored and keep their values; fewer rows are read and written at the same time "
    "than without this column",
)
@pytest.mark.parametrize("typed", [True, False])
def test_values_of_a_dictionary_do_not_fill_the_memory(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, typed: bool
) -> None:
    (tmp_path / "in").mkdir()
    images = pa.array([{"bytes": encode(digits[0]), "path": None}] * 300, IMAGE_TYPE)
    values = [bytes([number]) * 2_000_000 for number in range(3)]
    notes = pa.DictionaryArray.from_arrays(np.arange(300, dtype=np.int32) % 3, values)
    path = tmp_path / "in" / "a.parquet"
    table = pa.table({"image": images, "note": notes})
    with pq.ParquetWriter(path, table.schema, compression="zstd", store_schema=typed) as writer:
        writer.write_table(table, row_group_size=300)
    assert path.stat().st_size < _MIB
    results, peak = run(article_onnx, tmp_path, "--keep", "note")
    start = 0
    for batch in results.iter_batches(32, columns=["note"]):
        assert all(value.as_py() == values[(start + row) % 3] for row, value in enumerate(batch["note"]))
        start += len(batch)
    assert start == 300
    assert peak < 1100


def test_row_groups_of_large_values_do_not_depend_on_the_batch_size(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    images = pa.array([{"bytes": encode(image), "path": None} for image in digits[:130]], IMAGE_TYPE)
    notes = [None if row % 50 == 0 else bytes([row]) * 1_700_000 for row in range(130)]
    pq.write_table(pa.table({"image": images, "note": notes}), tmp_path / "in" / "a.parquet")
    words: list[str | Path] = ["run", article_onnx, tmp_path / "in"]
    options = ["-T", "2", "--device", "cpu", "--keep", "note"]
    for size in ("7", "2048"):
        assert oodscreen(*words, tmp_path / size, *options, "--batch-size", size, monkeypatch=monkeypatch) == 0
    assert contents(tmp_path / "7") == contents(tmp_path / "2048")
    metadata = pq.ParquetFile(tmp_path / "7" / "a.parquet").metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert rows == [64, 64, 2]
