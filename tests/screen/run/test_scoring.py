from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from export.contract.reader import read_model
from screen.config import RunConfig
from screen.decide.policy import choose_policy
from screen.engine.passes import PassEngine
from screen.input.decode import ImageBatch
from screen.input.mapping import map_columns
from screen.input.shards import find_shards
from screen.output.writer import ShardWriter, file_schema
from screen.run import scoring
from screen.run.runner import run_screening
from screen.run.scoring import Job, ShardScorer
from screen.run.screener import Screener
from tests.conftest import Recorder, encode, write_shard

CONFIG = RunConfig(passes=2, device="cpu", batch_size=64)


def open_job(model: Path, source: Path, output: Path) -> Job:
    exported = read_model(model)
    columns = map_columns(find_shards(str(source))[0], CONFIG, exported.contract)
    return Job(exported, output, CONFIG, choose_policy(exported, CONFIG), columns, {"model": exported.digest})


def test_small_shards_share_batches(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty shards of five rows are scored in four batches, not forty."""
    batches: list[int] = []
    score = PassEngine.summarize

    def count(self: PassEngine, images: NDArray[np.uint8]) -> Any:
        batches.append(len(images))
        return score(self, images)

    monkeypatch.setattr(PassEngine, "summarize", count)
    for index in range(40):
        write_shard(tmp_path / "in" / f"{index:02d}.parquet", [encode(image) for image in digits[5 * index :][:5]])
    run_screening(article_onnx, str(tmp_path / "in"), tmp_path / "out", CONFIG, Recorder())
    assert batches == [64, 64, 64, 8]


@pytest.mark.parametrize("adaptive", [False, True])
def test_batches_without_a_readable_row_are_not_held(article_onnx: Path, adaptive: bool) -> None:
    """Without --resize every row may have the wrong shape; the run must be able to stop, and hold no images."""
    screener = Screener(article_onnx, passes=20, device="cpu", adaptive=adaptive)
    empty = np.zeros((0, 28, 28, 1), np.uint8)
    taken = []

    def batches() -> Iterator[ImageBatch]:
        for _ in itertools.count():
            taken.append(1)
            yield ImageBatch((), empty, np.zeros(0, np.bool_), {})

    def table_of(batch: ImageBatch, *_: object) -> ImageBatch:
        return batch

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "make_table", table_of)
        next(scoring.score_batches(screener, batches()))
    assert len(taken) <= 2  # with --adaptive two batches run at the same time


@pytest.mark.parametrize("edges", [(0, 3, 5, 8), (0, 1, 8), (0, 8), (0, 2, 2, 8)])
def test_row_group_ranges_written_in_order_give_the_file_of_the_whole_shard(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, edges: tuple[int, ...]
) -> None:
    rows: list[bytes | None] = [encode(image) for image in digits[:300]]
    rows[50], rows[299] = None, b"x"
    write_shard(tmp_path / "in" / "a.parquet", rows, row_group_size=40)
    job = open_job(article_onnx, tmp_path / "in", tmp_path / "whole")
    (shard,), _ = find_shards(str(tmp_path / "in"))
    scorer = ShardScorer(job, print)
    (written,) = [shard for progress in scorer.score([shard]) for shard in progress.finished]
    writer = ShardWriter(shard, tmp_path / "cut.parquet", file_schema(pa.schema([]), job.identity), "")
    for start, stop in itertools.pairwise(edges):
        if start < stop:
            writer.add(scorer.score_groups(shard, range(start, stop)))
    merged = writer.finish()
    assert (merged.rows, merged.statuses) == (300, {"decode_failed": 1, "null_image": 1, "ok": 298})
    assert merged.sha256 == written.sha256
