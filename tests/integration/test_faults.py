"""Kill runs thirty times; `benchmarks/faults.py` kills runs two hundred times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.faults import kill_and_compare

pytestmark = pytest.mark.integration


def test_thirty_killed_runs_end_as_an_uninterrupted_one(article_onnx: Path, tmp_path: Path) -> None:
    met = kill_and_compare(article_onnx, kills=30, chain=3, seed=int.from_bytes(os.urandom(4)), work=tmp_path)
    assert len(met) == 30
    assert sum(0 < kill.shards < 7 for kill in met) > 5  # most runs were killed after some shards
