"""Export, calibrate and screen all of MNIST, as a user would."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mnist import measure
from tests.conftest import read_results

pytestmark = pytest.mark.integration


def test_the_article_is_reproduced_on_full_mnist(data: Path, tmp_path: Path) -> None:
    result = measure(data, tmp_path, epochs=6)
    assert result["rows"] == 10_000
    assert result["ids_in_input_order"]
    assert result["accuracy"] >= 0.99
    assert result["rank_of_row_247_by_entropy"] <= 10
    assert result["rank_of_row_247_by_prediction_std"] <= 10


def test_the_demo_can_be_run_twice(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("oodscreen")), "demo", "demo"]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "Flagged rows" in done.stdout
        assert "Row 247, the article's uncertain 4" in done.stdout
        assert len(read_results(tmp_path / "demo" / "results")) == 5000
