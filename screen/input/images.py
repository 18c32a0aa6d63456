"""Read and decode batches ahead of their use, for runs, calibrations and the accuracy check of an export.

In: batches of rows. Out: an `ImageBatch` for each, in order. Reading and decoding run in two separate threads.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from export.contract.metadata import ModelContract
from screen.config import RunConfig
from screen.input.decode import Decoder, ImageBatch
from screen.input.row_batch import RowBatch
from screen.overlap import StageClock, work_ahead

_BATCH_BYTES = 32 * 2**20
"""Maximum bytes of pixels per batch (at least one row); several batches are in memory at the same time."""

_AHEAD = 2
"""Maximum number of finished batches in the queue after reading, and in the queue after decoding."""


def batch_rows(config: RunConfig, contract: ModelContract) -> int:
    """Rows per batch: `--batch-size`, or fewer if images are large."""
    height, width, channels = contract.image_shape
    return max(1, min(config.batch_size, _BATCH_BYTES // (height * width * channels)))


def decode_ahead(
    batches: Iterator[list[RowBatch]],
    contract: ModelContract,
    config: RunConfig,
    clock: StageClock,
    check: Callable[[], None] = lambda: None,
) -> Generator[ImageBatch, None, None]:
    """Read and decode batches in two threads, ahead of the caller; closing the generator ends both threads.

    Args:
        batches: batches of rows, as from `read_batches`.
        contract: image size and colour of the model.
        config: pixel limit, base folder of the paths in the image column, and number of decoding threads.
        clock: measures the busy time of the stages `read` and `decode`.
        check: callback, called after each image and while a long file is read; an exception of the callback is raised
            to the caller.
    """
    decoder = Decoder(
        contract, max_pixels=config.max_pixels, image_root=config.image_root, threads=config.threads, check=check
    )
    pieces = work_ahead(clock.make("read", batches), _AHEAD)
    images = work_ahead(clock.apply("decode", decoder.decode, pieces), _AHEAD)
    with closing(images), closing(decoder):  # the decoder is closed first, so that its batch ends early
        yield from images
