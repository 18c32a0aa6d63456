"""Results for queues and pages, with duplicate, missing and broken images, and helpers to read queues."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from screen.config import RunConfig
from screen.run.runner import run_screening
from tests.conftest import Recorder, encode, read_results, write_shard
from tests.screen.review import runs

RULE = "entropy > 0.5 or confidence < 0.6"


@dataclass(frozen=True)
class Night:
    """A run's model, input and results.

    Attributes:
        model: the exported file.
        input: folder of shards.
        results: OUTPUT.
    """

    model: Path
    input: Path
    results: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the results, in order."""
        rows: list[dict[str, Any]] = read_results(self.results).to_pylist()
        return rows

    def flagged(self) -> list[dict[str, Any]]:
        """Scored flagged rows, highest entropy first."""
        rows = [row for row in self.rows if row["flag"] and row["status"] == "ok"]
        return sorted(rows, key=lambda row: -row["entropy"])

    def run(self) -> None:
        """Score new and changed shards."""
        config = RunConfig(passes=5, device="cpu", flag_if=RULE, keep=["label"], max_bad_rows="100%")
        run_screening(self.model, str(self.input), self.results, config, Recorder())


@pytest.fixture(scope="session")
def made_night(article_onnx: Path, digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Night:
    """Results of 120 digits in two shards, with three duplicates and a missing, a broken and a wrong-sized image."""
    folder = tmp_path_factory.mktemp("night")
    images = [encode(image) for image in digits[:120]]
    odd = encode(np.zeros((30, 28, 1), np.uint8))
    write_shard(folder / "in" / "a.parquet", images[:60], row_group_size=25)
    write_shard(folder / "in" / "sub" / "b.parquet", [*images[60:], *images[:60:20], None, b"no image", odd])
    night = Night(article_onnx, folder / "in", folder / "out")
    night.run()
    return night


@pytest.fixture
def night(made_night: Night, tmp_path: Path) -> Night:
    """A copy for one test; shards keep their times and are therefore unchanged for the ledger and the report."""
    shutil.copytree(made_night.input, tmp_path / "in")
    shutil.copytree(made_night.results, tmp_path / "out")
    manifest = tmp_path / "out" / "_manifest.jsonl"
    manifest.write_text(manifest.read_text().replace(str(made_night.input), str(tmp_path / "in")))
    return Night(made_night.model, tmp_path / "in", tmp_path / "out")


def read_queue(path: Path) -> list[dict[str, Any]]:
    """The rows of a queue in any format; for tasks, their data; for CSV, their cells."""
    if path.is_dir():
        path = path / "metadata.jsonl"
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    if path.suffix == ".csv":
        with open(path, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    if path.suffix == ".json":
        return [task["data"] for task in json.loads(path.read_text())]
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def screened(article_onnx: Path, digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of digits and noise."""
    return runs.screen_digits(tmp_path_factory.mktemp("screened"), article_onnx, digits)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with simulated scores."""
    return runs.draw_scores(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="session")
def hostile(digits: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with malicious names."""
    return runs.name_hostile(tmp_path_factory.mktemp("hostile"), digits)
