"""The layout of packed shards: small row groups and pages, images as they are, and checksums that find damage."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from screen.input.parquet import footer
from screen.pack import shard_file
from tests.screen.pack.packs import pack, write_files


def packed(tmp_path: Path, sizes: list[int]) -> Path:
    """One shard with an image of each size; the bytes of an image repeat its number."""
    files = {f"{number:03}.png": bytes([number + 1]) * size for number, size in enumerate(sizes)}
    pack(write_files(tmp_path / "in", files), tmp_path / "out")
    (path,) = (tmp_path / "out").glob("*.parquet")
    return path


def test_a_row_group_ends_at_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_file, "_GROUP_BYTES", 1000)
    metadata = pq.read_metadata(packed(tmp_path, [400] * 5 + [5000, 1]))
    assert [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)] == [3, 3, 1]


def test_pages_of_large_images_stay_small(tmp_path: Path) -> None:
    """A reader holds a whole page in memory."""
    path = packed(tmp_path, [2**17] * 64)
    chunk = pq.read_metadata(path).row_group(0).column(0)
    stored = footer._Chunk(
        chunk.path_in_schema, False, chunk.num_values, chunk.data_page_offset, chunk.total_compressed_size
    )
    with path.open("rb") as file:
        pages = [page.size for page in footer._read_headers(file, stored) if page is not None]
    assert sum(pages) > 2**23
    assert max(pages) < 2**22


def test_images_are_stored_as_they_are_and_one_wrong_byte_is_found(tmp_path: Path) -> None:
    path = packed(tmp_path, [3000, 3000])
    data = bytearray(path.read_bytes())
    assert (pq.read_table(path, page_checksum_verification=True)["image"][1].as_py()["bytes"]) == b"\2" * 3000
    data[data.index(b"\2" * 3000) + 1500] ^= 1
    path.write_bytes(data)
    assert pq.read_table(path)["image"][1].as_py()["bytes"] != b"\2" * 3000
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(path, page_checksum_verification=True)


def test_datasets_know_that_the_column_holds_images(tmp_path: Path) -> None:
    features = json.loads(pq.read_schema(packed(tmp_path, [1])).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
