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

from tests.conftest import IMAGE_TYPE, encode

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
    "200 images of 2.2 MB each in one row group, in the layout of Hugging Face",
    "all rows are scored; the row group is read in pieces, so its size does not matter",
)
def test_large_images_in_one_row_group_do_not_fill_the_memory(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    rows = large_images(digits[0], 200, 2_200_000)
    chunks = [pa.array(rows[start : start + 10], IMAGE_TYPE) for start in range(0, 200, 10)]
    pq.write_table(pa.table({"image": pa.chunked_array(chunks)}), tmp_path / "in" / "a.parquet", row_group_size=200)
    results, peak = run(article_onnx, tmp_path)
    assert set(results.read(["status"])["status"].to_pylist()) == {"ok"}
    assert peak < 700
