"""Read and decode the first rows of a shard in the same way as a run, and measure the time.

In: a shard, or the size of made-up images. Out: `DecodedRows`.
"""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.contract.metadata import ModelContract
from export.errors import InputRefused
from screen.config import RunConfig
from screen.doctor.pictures import write_pictures
from screen.doctor.timing import Stopwatch, Timing
from screen.files.listing import list_shards
from screen.files.temporary import temporary_folder
from screen.input.decode import Decoder
from screen.input.images import batch_rows
from screen.input.mapping import map_columns
from screen.input.rows import read_batches
from screen.input.shards import open_shards

_ROWS = 256
"""Maximum number of rows that are decoded between two checks of the elapsed time."""

_WARMING = 2
"""Number of rows that are decoded before the measurement."""


@dataclass(frozen=True)
class DecodedRows:
    """The first rows of a shard.

    Attributes:
        images: `uint8 [B, H, W, C]`, images of the readable rows.
        rows: number of different rows, readable or not.
        unreadable: number of these rows without a readable image.
        timing: time to read and decode rows.
    """

    images: NDArray[np.uint8]
    rows: int
    unreadable: int
    timing: Timing


def decode_made(height: int, width: int, contract: ModelContract, config: RunConfig, seconds: float) -> DecodedRows:
    """Read and decode a shard of made-up JPEG images; see `decode_first`."""
    with tempfile.TemporaryDirectory(prefix="oodscreen-", dir=temporary_folder()) as folder:
        path = write_pictures(Path(folder), height, width, contract.channels)
        return decode_first(str(path), contract, RunConfig(threads=config.threads), seconds)


def decode_first(source: str, contract: ModelContract, config: RunConfig, seconds: float) -> DecodedRows:
    """Read and decode rows for `seconds` seconds or until a batch is full; shards with fewer rows are read again.

    Args:
        source: a shard, a folder of shards, or a glob.
        contract: contract with the image size and the number of channels of the model.
        config: image column, pixel limit, base folder of paths, threads and batch size.
        seconds: time after which no further rows are read, in seconds.

    Raises:
        InputRefused: no shard or no image can be read, or the image column is missing or has an unsupported type.
        InputChanged, ReadFailed, ShardRefused: a shard cannot be read.
    """
    shards, _ = open_shards(list_shards(source))
    columns = map_columns(shards, config, contract)
    most = batch_rows(config, contract)
    watch, parts, failures = Stopwatch(), [], {}
    rows = unreadable = 0
    first: tuple[int, int] | None = None  # rows and unreadable rows after the first reading
    decoder = Decoder(contract, max_pixels=config.max_pixels, image_root=config.image_root, threads=config.threads)
    with closing(decoder):
        for warming in islice(read_batches(shards, columns, _WARMING), 1):  # loads decoders, opens the shard
            decoder.decode(warming)
        while first is None or (unreadable < rows < most and watch.seconds < seconds):
            batches = read_batches(shards, columns, min(_ROWS, most))
            while rows < most and watch.seconds < seconds:
                with watch.running():
                    pieces = next(batches, None)
                    if pieces is None:
                        break
                    batch = decoder.decode(pieces)
                failures.update(batch.failures)
                unreadable += len(batch.failures)
                rows += len(batch.readable)
                parts.append(batch.images)
            first = first or (rows, unreadable)
    images = np.concatenate(parts) if parts else np.zeros((0, *contract.image_shape), np.uint8)
    if not len(images):
        why = next((f"{status}: {reason}" for status, reason in failures.values()), "there are no rows")
        raise InputRefused(
            f"None of the first {first[0]} rows of {source} has an image that can be decoded ({why}).",
            wanted="at least one image among the first rows",
            next_step="give another shard, or leave SHARD out to measure made-up images",
        )
    return DecodedRows(images, *first, watch.timing(rows))
