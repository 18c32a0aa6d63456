from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from screen.input.preview import SMALLEST_SIDE, Picture, Preview, PreviewLimits, make_preview, open_pictures
from screen.input.row_batch import RowBatch
from screen.input.shards import ShardRef
from tests.hostile_images import CASES

LIMITS = PreviewLimits(96, 10_000, None, None)


def rows(*sources: object) -> RowBatch:
    shard = ShardRef(Path(), Path("a.parquet"), "a.parquet", 0, 0, "", (len(sources),), pa.schema([]))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([one if isinstance(one, dict) else {"bytes": one, "path": None} for one in sources], kind)
    ids = tuple(map(str, range(len(sources))))
    return RowBatch(shard, 0, len(sources), images, ids, pa.table({}), "", True)


def preview_rows(batch: RowBatch, limits: PreviewLimits) -> list[Preview | str]:
    return [make_preview(one, limits.side) if isinstance(one, Picture) else one for one in open_pictures(batch, limits)]


def image(width: int, height: int, mode: str = "RGB", kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_small_images_stay_as_they_are_and_large_ones_are_shrunk(mode: str) -> None:
    small, large = preview_rows(rows(image(20, 30, mode), image(100, 50, mode)), LIMITS)
    assert isinstance(small, Preview)
    assert isinstance(large, Preview)
    assert (small.kind, small.width, small.height) == ("image/png", 20, 30)
    assert (large.kind, large.width, large.height, large.stored) == ("image/jpeg", 96, 48, (100, 50))
    for preview in (small, large):
        assert Image.open(io.BytesIO(preview.data)).size == (preview.width, preview.height)


def test_what_cannot_be_shown_says_why() -> None:
    found = preview_rows(rows(None, b"nonsense", image(200, 100), {"bytes": None, "path": "/etc/passwd"}), LIMITS)
    reasons = ["neither bytes nor a path", "cannot be decoded", "200 x 100 pixels, more than", "path '/etc/passwd'"]
    for one, why in zip(found, reasons, strict=True):
        assert isinstance(one, str)
        assert why in one


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_image_that_is_not_decoded_for_the_model_has_no_thumbnail() -> None:
    refused = {name: case for name, case in CASES.items() if case.status == "too_large" and case.data}
    limits = PreviewLimits(96, 2**26, None, None)
    for (name, case), found in zip(
        refused.items(), preview_rows(rows(*(case.data for case in refused.values())), limits), strict=True
    ):
        assert isinstance(found, str), name
        assert case.reason in found


def test_a_jpeg_that_is_decoded_at_a_smaller_size_says_how_large_it_is() -> None:
    limits = PreviewLimits(96, 10**7, None, None)
    (found,) = preview_rows(rows(image(1600, 800, kind="JPEG")), limits)
    assert isinstance(found, Preview)
    assert (found.width, found.height, found.stored) == (96, 48, (1600, 800))


def test_paths_are_followed_below_the_root_alone(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.png").write_bytes(image(8, 8))
    (tmp_path / "b.png").write_bytes(image(8, 8))
    limits = PreviewLimits(96, 10_000, tmp_path / "root", None)
    inside, outside = preview_rows(rows({"path": "a.png"}, {"path": "../b.png"}), limits)
    assert isinstance(inside, Preview)
    assert isinstance(outside, str)


def test_a_thumbnail_of_too_many_bytes_has_fewer_pixels() -> None:
    sides = []
    for most in (None, 30_000, 10_000, 1):
        (picture,) = open_pictures(rows(image(99, 99)), LIMITS)
        assert isinstance(picture, Picture)
        large = Picture(picture.image.resize((600, 300)), (600, 300))
        made = make_preview(large, 320, most)
        assert most is None or len(made.data) <= most or made.width == SMALLEST_SIDE
        sides.append((made.width, made.height))
    assert sides[0] == (320, 160)
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == (96, 48)
