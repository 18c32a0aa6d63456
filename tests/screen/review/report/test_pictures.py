from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import write_results
from screen.input.preview import Preview
from screen.input.shards import find_shards
from screen.review.report import pictures
from screen.review.report.findings import Findings
from screen.review.report.gather import gather_findings
from tests.conftest import encode, write_shard


@pytest.fixture
def place(digits: NDArray[np.uint8], tmp_path: Path) -> Path:
    """Results of 60 digits in two shards."""
    encoded = [encode(image) for image in digits[:60]]
    write_shard(tmp_path / "in" / "a.parquet", encoded[:40], row_group_size=7)
    write_shard(tmp_path / "in" / "b.parquet", encoded[40:])
    write_results(tmp_path / "in", tmp_path / "out")
    return tmp_path


def find(place: Path, moved_to: Path | None = None) -> Findings:
    return gather_findings(str(place / "out"), moved_to=None if moved_to is None else str(moved_to))


def test_each_row_has_the_thumbnail_of_its_own_image(place: Path, digits: NDArray[np.uint8]) -> None:
    found = find(place)
    assert found.notes == ()
    assert len(found.top_rows) > 50
    for top_row in found.top_rows:
        assert isinstance(top_row.preview, Preview)
        shown = np.asarray(Image.open(io.BytesIO(top_row.preview.data)))
        assert np.array_equal(shown, digits[top_row.row + (40 if top_row.shard == "b.parquet" else 0), ..., 0])


def test_a_card_has_a_picture_of_320_pixels_and_a_similar_row_one_of_96(tmp_path: Path) -> None:
    picture = encode(np.full((480, 640, 1), 90, np.uint8))
    write_shard(tmp_path / "in" / "a.parquet", [picture] * 400)
    write_results(tmp_path / "in", tmp_path / "out")
    cards = [card for card in gather_findings(str(tmp_path / "out"), top=20).cards if card.row.flag]
    shown = [row.preview for card in cards for row in (card.row, *card.similar)]
    sizes = [(one.width, one.height) for one in shown if isinstance(one, Preview)]
    assert len(sizes) == len(shown) > len(cards)
    assert sizes.count((320, 240)) == len(cards)
    assert sizes.count((96, 72)) == len(sizes) - len(cards)


@pytest.mark.parametrize("what", ["gone", "rewritten", "touched", "damaged", "no column"])
def test_a_shard_that_changed_since_it_was_scored_shows_no_images(
    place: Path, digits: NDArray[np.uint8], what: str
) -> None:
    shard = place / "in" / "a.parquet"
    if what == "gone":
        shard.unlink()
    elif what == "rewritten":
        write_shard(shard, [encode(image) for image in digits[100:140]], row_group_size=7)
    elif what == "touched":
        os.utime(shard, (1, 1))
    elif what == "damaged":
        shard.write_bytes(b"PAR1")
    else:
        pq.write_table(pq.read_table(shard, columns=["id"]), shard)
    found = find(place)
    assert len(found.notes) == (2 if what == "gone" else 1)
    assert "a.parquet" in found.notes[0]
    assert ("--input" in found.notes[-1]) == (what == "gone")
    for top_row in found.top_rows:
        assert isinstance(top_row.preview, str) == (top_row.shard == "a.parquet")


def test_an_image_under_another_key_is_not_shown(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fingerprint covers the footer only: here a shard with other content passes the check."""
    write_shard(place / "in" / "a.parquet", [None] * 40, ids=[f"other-{row}" for row in range(40)])
    kept = find_shards(str(place / "in"))[0]
    monkeypatch.setattr(pictures, "find_source", lambda entry, *_: next(s for s in kept if s.name == entry.shard))
    found = find(place)
    assert "has different row ids than the results" in found.notes[0]
    assert all(isinstance(top_row.preview, str) for top_row in found.top_rows if top_row.shard == "a.parquet")


def test_moved_shards_are_found_at_their_new_location(place: Path) -> None:
    (place / "in").rename(place / "elsewhere")
    *gone, hint = find(place).notes
    assert len(gone) == 2
    assert all("does not exist in" in note for note in gone)
    assert "with --input" in hint
    assert find(place, place / "elsewhere").notes == ()
    shutil.copytree(place / "elsewhere", place / "copied", copy_function=shutil.copy)  # resets the modification time
    assert find(place, place / "copied").notes == ()


def test_images_beyond_the_total_size_are_left_out(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_CARD_BYTES", 3000)
    found = find(place)
    shown = [top_row.preview for top_row in found.top_rows if isinstance(top_row.preview, Preview)]
    assert 2000 < sum(len(preview.data) for preview in shown) <= 3000
    left_out = len(found.top_rows) - len(shown)
    assert found.notes == (f"{left_out} thumbnails were left out to limit the size of the page.",)


def test_many_shards_without_images_take_few_notes(digits: NDArray[np.uint8], tmp_path: Path) -> None:
    for number in range(9):
        write_shard(tmp_path / "in" / f"{number}.parquet", [encode(digits[number])])
    write_results(tmp_path / "in", tmp_path / "out")
    shutil.rmtree(tmp_path / "in")
    found = find(tmp_path)
    assert len(found.notes) == 7
    assert found.notes[5] == "4 more input shards have no thumbnails."
    assert "with --input" in found.notes[6]


def test_tensors_have_thumbnails_too(digits: NDArray[np.uint8], tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    images = np.ascontiguousarray(digits[:20])
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    pq.write_table(pa.table({"image": tensors}), tmp_path / "in" / "a.parquet")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 28 * 28)
    pq.write_table(pa.table({"image": flat}), tmp_path / "in" / "b.parquet")
    write_results(tmp_path / "in", tmp_path / "out")
    for top_row in find(tmp_path).top_rows:
        assert isinstance(top_row.preview, Preview)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(top_row.preview.data))), images[top_row.row, ..., 0])
