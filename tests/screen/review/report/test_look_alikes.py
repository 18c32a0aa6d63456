from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import write_results
from export.errors import OptionRefused
from screen.input.preview import Picture
from screen.review.report import top_rows
from screen.review.report.gather import gather_findings
from screen.review.report.look_alikes import are_similar, describe, group_rows
from screen.review.results import RowPosition, open_results
from tests.conftest import encode, write_shard


def describe_pixels(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return describe(Picture(Image.fromarray(pixels), pixels.shape[1::-1]))


@pytest.fixture
def place(digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Results of 20 images of noise between 20 different digits, in two shards."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 28, 28, 1), dtype=np.uint8)
    images = [encode(image) for pair in zip(digits[:20], noise, strict=True) for image in pair]
    write_shard(tmp_path / "in" / "a.parquet", images[:25], row_group_size=7)
    write_shard(tmp_path / "in" / "b.parquet", images[25:])
    write_results(tmp_path / "in", tmp_path / "out")
    return tmp_path


def positions() -> list[RowPosition]:
    return [RowPosition(0, row) for row in range(25)] + [RowPosition(1, row) for row in range(15)]


def test_copies_and_noise_are_similar_and_other_images_are_not() -> None:
    rng = np.random.default_rng(1)
    for size in ((32, 32, 3), (300, 200, 3)):
        noise = [rng.integers(0, 256, size, dtype=np.uint8) for _ in range(4)]
        flat = np.full(size, 127, np.uint8)
        ramp = np.broadcast_to(np.linspace(0, 255, size[0])[:, None, None], size).astype(np.uint8)
        one = describe_pixels(noise[0])
        others = np.stack([describe_pixels(other) for other in (*noise[1:], flat, ramp)])
        assert are_similar(one, others).tolist() == [True, True, True, False, False]
        brighter = np.clip(ramp.astype(int) + 8, 0, 255).astype(np.uint8)
        others = np.stack([describe_pixels(other) for other in (ramp, brighter, ramp[::-1].copy(), flat)])
        assert are_similar(describe_pixels(ramp), others).tolist() == [True, True, False, False]


def test_noise_is_grouped_by_class_in_the_order_of_review(place: Path) -> None:
    results = open_results(str(place / "out"))
    groups = group_rows(results, positions(), [], 40, None)
    classes = [
        prediction
        for entry in results.entries
        for table in results.batches(entry, ["prediction"])
        for prediction in table["prediction"].to_pylist()
    ]
    number = {position: index for index, position in enumerate(positions())}
    assert sorted(number[row] for group in groups for row in (group.first, *group.similar)) == list(range(40))
    noise = [group for group in groups if number[group.first] % 2]
    assert len(noise) == len({classes[index] for index in range(1, 40, 2)})
    for group in noise:
        rows = [number[row] for row in (group.first, *group.similar)]
        assert rows == sorted(rows)
        assert rows == [index for index in range(1, 40, 2) if classes[index] == classes[rows[0]]]
    assert group_rows(results, positions(), [], 40, None) == groups


def test_later_rows_join_groups_but_start_none_once_the_page_is_full(place: Path) -> None:
    results = open_results(str(place / "out"))
    every = group_rows(results, positions(), [], 40, None)
    for top in (1, 5):
        assert group_rows(results, positions(), [], top, None) == every[:top]
    few = group_rows(results, positions()[:3], positions()[3:], 10, None)
    assert [group.first for group in few][-7:] == positions()[3 : 3 + 7]
    assert not any(group.similar for group in few[-7:])


def test_rows_without_an_image_are_not_grouped(place: Path) -> None:
    shutil.rmtree(place / "in")
    groups = group_rows(open_results(str(place / "out")), positions(), [], 40, None)
    assert [(group.first, group.similar) for group in groups] == [(position, ()) for position in positions()]


def test_every_flagged_row_is_counted_once(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_rows, "_LISTED", 1)
    for look_alikes in (0, 30, 1000):
        found = gather_findings(str(drawn / "out"), top=20, look_alikes=look_alikes)
        assert len(found.cards) == 20
        assert found.compared == min(look_alikes, found.counts.rate.flagged)
        counted = sum(1 + card.count for card in found.cards if card.row.flag)
        assert counted + found.flagged_elsewhere == found.counts.rate.flagged
        assert all(len(card.similar) == min(card.count, 1) for card in found.cards)
        assert any(card.count for card in found.cards) == bool(look_alikes)
    with pytest.raises(OptionRefused, match="--look-alikes is 100001"):
        gather_findings(str(drawn / "out"), look_alikes=100_001)
