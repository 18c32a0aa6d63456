"""Hostile images and shards of up to 16 MB for `benchmarks/hostile.py`.

In: nothing. Out: functions that make each file, by its name.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.shard_mutations import encode_number, valid_images
from tests.hostile_images import CASES, chunk, gif_with, jpeg_scans, jpeg_with, png, rle_bmp, saved, tiff, tiff_tiles

SIZE = 2**24
"""Size of the large files in bytes."""


def _scans(*, progressive: bool) -> bytes:
    """A JPEG with the maximum number of scans that fit into 16 MB."""
    few, more = (len(jpeg_scans(count, progressive=progressive)) for count in (0, 1))
    return jpeg_scans((SIZE - few) // (more - few), progressive=progressive)


def _fill(start: bytes, part: bytes, end: bytes = b"") -> bytes:
    """`start`, `part` repeated to fill 16 MB, and `end`."""
    return start + part * ((SIZE - len(start) - len(end)) // len(part)) + end


def _bmp_of_short_runs() -> bytes:
    data = rle_bmp(2**11, 2**10)
    return _fill(data[: 54 + 1024], b"\1\1")


def _noise(count: int) -> bytes:
    return random.Random(0).randbytes(count)  # noqa: S311  bytes, not secrets


def _large_png(depth: int, colour: int, side: int) -> bytes:
    """A PNG whose pixels are zeros; `colour` is PNG's colour type."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    return png(side, side, depth=depth, colour=colour, pixels=b"\0" * ((1 + side * channels * depth // 8) * side))


def _noisy_png() -> bytes:
    rows = np.frombuffer(_noise(4095 * 4096), np.uint8).reshape(4095, 4096).copy()
    rows[:, 0] = 0  # the filter of each row
    return png(4095, 4095, pixels=rows.tobytes())


def _large(kind: str, **options: Any) -> bytes:
    """A black image of 67 million pixels."""
    return saved(Image.new("RGB", (8190, 8190)), kind, **options)


_PNG_TAIL = chunk(b"IEND", b"")

LARGE_IMAGES: dict[str, Callable[[], bytes]] = {
    "a PPM of one comment": lambda: _fill(b"P5 #", b"x"),
    "a PPM of empty comments": lambda: _fill(b"P5 ", b"#\n", b"28 28 255 " + b"\0" * 784),
    "a PPM in text with comments": lambda: _fill(b"P2 28 28 255 ", b"#\n"),
    "a PPM in text": lambda: _fill(b"P2 2048 1024 255 ", b"7 "),
    "a PPM of another range": lambda: _fill(b"P5 2048 1024 100 ", b"\7"),
    "a JPEG of fill bytes": lambda: jpeg_with(b"\xff" * (SIZE - 1000)),
    "a JPEG of comments": lambda: jpeg_with(b"\xff\xfe\0\2" * (SIZE // 4 - 1000)),
    "a progressive JPEG of thousands of scans": lambda: _scans(progressive=True),
    "a sequential JPEG of thousands of scans": lambda: _scans(progressive=False),
    "a progressive JPEG of 67 million pixels": lambda: _large("JPEG", progressive=True),
    "a TIFF tile of 32,768 x 32,768": lambda: tiff_tiles(2**15, 2**15) + b"\0" * (SIZE - 1000),
    "a TIFF of four million strips": lambda: tiff((273, 4, 2**22 - 100, 200), data=b"\0" * (SIZE - 200)),
    "a PNG of 1.4 million chunks": lambda: _fill(png(28, 28)[: -len(_PNG_TAIL)], chunk(b"prVt", b""), _PNG_TAIL),
    "a PNG of texts": lambda: _fill(
        png(28, 28)[: -len(_PNG_TAIL)], chunk(b"zTXt", b"t\0\0" + zlib.compress(b"\0" * 2**20, 9)), _PNG_TAIL
    ),
    "a PNG of 67 million pixels in 16-bit colour": lambda: _large_png(16, 6, 8190),
    "a PNG of noise": _noisy_png,
    "a WebP of 67 million pixels": lambda: _large("WEBP", lossless=True, quality=0, method=0),
    "a GIF of comments": lambda: gif_with(b"!\xfe" + b"\1a" * (SIZE // 2 - 1000) + b"\0"),
    "a run-length encoded BMP of short runs": _bmp_of_short_runs,
    "noise": lambda: _noise(SIZE),
}


def _dictionary(entry: bytes, rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([entry]))


def _write(path: Path, column: pa.Array, **options: Any) -> None:
    pq.write_table(pa.table({"image": column}), path, compression="zstd", dictionary_pagesize_limit=2**30, **options)


def _state_rows(path: Path, count: int, *, in_pages: bool) -> None:
    """A shard of 77 rows with another row count in the footer, and optionally in the page header."""
    images = pa.array([valid_images()[row % 6] for row in range(77)])
    pq.write_table(pa.table({"image": images}), path, use_dictionary=False, write_statistics=False, store_schema=False)
    data = path.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    pages, footer = data[4:start], data[start:-8]
    old, new = encode_number(77), encode_number(count)
    footer = footer.replace(b"\x16" + old, b"\x16" + new)
    if in_pages:
        assert len(old) == len(new)
        pages = pages.replace(b"\x15" + old, b"\x15" + new, 1)
    path.write_bytes(b"PAR1" + pages + footer + struct.pack("<I", len(footer)) + b"PAR1")


def _many_row_groups(path: Path) -> None:
    """A shard with many row groups of one row."""
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(path, schema, write_statistics=False, store_schema=False) as file:
        table = pa.table({"image": [b""]}, schema=schema)
        for _ in range(10_000):
            file.write_table(table)


_COMMENTS = CASES["a PPM that consists of one comment"].data or b""
_SCANS = jpeg_scans(80, progressive=True)

LARGE_SHARDS: dict[str, Callable[[Path], object]] = {
    "200 rows of a PPM of comments of 16 MB": lambda path: _write(path, _dictionary(b"P5 #" + b"x" * SIZE, 200)),
    "200 rows of a JPEG of 80 scans": lambda path: _write(path, _dictionary(_SCANS, 200)),
    "200 rows of a PPM of comments of 100 kB": lambda path: _write(path, _dictionary(_COMMENTS, 200)),
    "a dictionary of 64 MiB that 200 rows refer to": lambda path: _write(path, _dictionary(bytes(2**26), 200)),
    "a dictionary of 1 MiB that 5,000 rows refer to": lambda path: _write(path, _dictionary(bytes(2**20), 5000)),
    "a page of 600 MiB": lambda path: _write(path, pa.array([bytes(600 * 2**20)]), use_dictionary=False),
    "a page of 250 MiB": lambda path: _write(path, pa.array([bytes(250 * 2**20)]), use_dictionary=False),
    "seven pages of 190 MiB": lambda path: _write(
        path, pa.array([bytes(190 * 2**20)] * 7), use_dictionary=False, row_group_size=1
    ),
    "a footer with 2**40 rows": lambda path: _state_rows(path, 2**40, in_pages=False),
    "a footer with 63 million rows": lambda path: _state_rows(path, 63 * 10**6, in_pages=False),
    "a footer and a page header with 8,000 rows": lambda path: _state_rows(path, 8000, in_pages=True),
    "10,000 row groups": _many_row_groups,
    "noise": lambda path: path.write_bytes(b"PAR1" + _noise(SIZE - 8) + b"PAR1"),
}
