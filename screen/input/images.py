"""Decode batches of rows ahead of their use: the one reader of images for runs, calibrations and checks of an export.

In: batches of rows. Out: an `ImageBatch` for each, in order; reading and decoding go on in threads of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing

from export.contract.metadata import ModelContract
from screen.config import RunConfig
from screen.input.decode import Decoder, ImageBatch
from screen.input.overlap import StageClock, work_ahead
from screen.input.rows import RowBatch

_BATCH_BYTES = 32 * 2**20
"""Maximum bytes of pixels in one batch; a few batches are in flight between the stages."""

_AHEAD = 2
"""Batches that reading and decoding may each be ahead of their consumer."""


def batch_rows(config: RunConfig, contract: ModelContract) -> int:
    """Rows of one batch: `--batch-size`, fewer where images are large."""
    height, width, channels = contract.image_shape
    return max(1, min(config.batch_size, _BATCH_BYTES // (height * width * channels)))


def decode_ahead(
    batches: Iterator[list[RowBatch]], contract: ModelContract, config: RunConfig, clock: StageClock
) -> Generator[ImageBatch, None, None]:
    """Read and decode batches in two threads ahead of the caller; closing the generator ends both.

    Args:
        batches: rows as `read_batches` yields them.
        contract: image size and colour of the model.
        config: pixel limit, image root and decoding threads.
        clock: counts the busy seconds of the stages `read` and `decode`.
    """
    decoder = Decoder(contract, max_pixels=config.max_pixels, image_root=config.image_root, threads=config.threads)
    pieces = work_ahead(clock.make("read", batches), _AHEAD)
    images = work_ahead(clock.apply("decode", decoder.decode, pieces), _AHEAD)
    with closing(decoder), closing(images):
        yield from images
