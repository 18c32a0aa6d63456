"""Write a shard of made-up photographs, for measurements without a data set.

In: an image size. Out: the path of a shard with JPEG images.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_ROWS = 64
"""Number of rows of a shard; the images are equal, because the time to decode an image hardly depends on
the values of its pixels."""

_NOISE = 12.0
"""Standard deviation of the noise on pixel values from 0 to 255; with this noise, a JPEG image of 500 x 375 pixels has
about the size of a photograph, in bytes."""


def write_pictures(folder: Path, height: int, width: int, channels: int) -> Path:
    """Write a shard of JPEG images in the column `image`, and return the path of the shard.

    Args:
        folder: existing folder.
        height: height of the images in pixels.
        width: width of the images in pixels.
        channels: 1 for grey images, 3 for colour images.
    """
    rng = np.random.default_rng(0)
    down, across = np.linspace(0, 7, height)[:, None, None], np.linspace(0, 9, width)[None, :, None]
    waves = 128 + 90 * np.sin(down + np.arange(channels)) * np.cos(across)
    pixels = np.clip(waves + rng.normal(0, _NOISE, (height, width, channels)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(buffer, "JPEG", quality=90)
    path = folder / f"{width}x{height}.parquet"
    pq.write_table(pa.table({"image": pa.array([buffer.getvalue()] * _ROWS, pa.binary())}), path, use_dictionary=False)
    return path
