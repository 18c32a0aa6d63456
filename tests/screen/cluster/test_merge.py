from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from screen.cluster.merge import RangeMerger
from screen.cluster.tasks import Task
from screen.input.shards import find_shards
from screen.run.scoring import ShardScorer
from tests.conftest import encode, write_shard
from tests.screen.run.test_scoring import open_job


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_cuts_come_in_any_order_and_are_one_file_at_the_end(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path, order: tuple[int, ...]
) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in digits[:60]], row_group_size=10)
    job = open_job(article_onnx, tmp_path / "in", tmp_path / "out")
    (shard,), _ = find_shards(str(tmp_path / "in"))
    scorer, merger = ShardScorer(job, print), RangeMerger(job)
    cuts = [Task((shard,), range(2 * index, 2 * index + 2), index, index == 2) for index in range(3)]
    finished = [merger.add(cuts[index], scorer.score_groups(shard, cuts[index].groups or range(0))) for index in order]
    assert [len(one) for one in finished] == [0, 0, 1]
    (written,) = finished[-1]
    (whole,) = [one for progress in scorer.score([shard]) for one in progress.finished]
    assert (written.rows, written.sha256) == (60, whole.sha256)


def test_an_abandoned_shard_leaves_nothing_behind(
    article_onnx: Path, digits: NDArray[np.uint8], tmp_path: Path
) -> None:
    write_shard(tmp_path / "in" / "a.parquet", [encode(image) for image in digits[:20]], row_group_size=10)
    job = open_job(article_onnx, tmp_path / "in", tmp_path / "out")
    (shard,), _ = find_shards(str(tmp_path / "in"))
    merger = RangeMerger(job)
    merger.add(Task((shard,), range(1), 0, False), ShardScorer(job, print).score_groups(shard, range(1)))
    assert merger.next_orders == {"a.parquet": 1}
    assert list((tmp_path / "out").iterdir())
    merger.abandon_all()
    assert not list((tmp_path / "out").iterdir())
